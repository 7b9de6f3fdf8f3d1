//! One [`Config`] of sections, read from defaults < files < environment < command line.
//!
//! The defaults file `config/flexflow.toml` is the reference of every key, compiled in: what it holds is what may be
//! set, and the type of a default is the type of its key. [`load()`] refuses an unknown key or variable by name, with the
//! nearest right one, and a value that does not fit with the key, the value, where it came from and what would fit.
//! It reports every mistake at once. Secrets are `SecretString`s and never printed.

mod error;
mod keys;
mod load;
mod sections;
mod stages;
#[cfg(test)]
mod tests;
mod validate;

pub use error::{ConfigError, ConfigProblem};
pub use load::{Loaded, Origin, Setting, Sources, load};
pub use sections::{
    Auth, Capture, Config, Consumer, Dlq, Engine, EventLogKind, EventLogSection, Jobs, Kafka,
    KafkaCompression, KafkaSasl, KafkaSaslMechanism, Log, LogFormat, Meta, Metering, Person, Query,
    Registration, Reprocess, Rollup, Schema, Server, StaticKey, Store, Topics, Transform,
};
pub use stages::{Attribution, PostProcessing, Source, SourceDecoder, Webhook};

use crate::event::Scope;

/// The defaults file as compiled in.
pub const REFERENCE: &str = include_str!("../../config/flexflow.toml");

impl Config {
    /// The defaults with these `(key, value)` pairs over them, as `--set` would; no file and no variable is read.
    /// `&[("server.listen", "127.0.0.1:0"), ("data_dir", "/tmp/x")]`.
    ///
    /// # Errors
    /// As [`load()`].
    pub fn from_overrides(overrides: &[(&str, &str)]) -> Result<Self, ConfigError> {
        let mut sources = Sources::default();
        for (key, value) in overrides {
            sources.set("--set", key, value);
        }
        Ok(load(&sources)?.config)
    }

    /// The projects and environments that it names: those of `auth.static_keys` and of `consumer.sources`.
    pub fn named_scopes(&self) -> impl Iterator<Item = Scope> {
        let keys = self.auth.static_keys.iter();
        let keys = keys.map(|key| Scope::new(key.project_id.as_str(), key.environment_id.as_str()));
        let sources = self.consumer.sources.iter().filter_map(Source::scope);
        keys.chain(sources.map(|(project, environment)| Scope::new(project, environment)))
    }
}

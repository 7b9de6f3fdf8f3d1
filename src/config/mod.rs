//! One [`Config`] of sections, read from defaults < files < environment < command line.
//!
//! The defaults file `config/flexflow.toml` is the reference of every key, compiled in. An unknown key or variable is
//! an error that names it and the nearest right one. Secrets are [`SecretString`]s and never printed.

mod sections;

pub use sections::{
    Auth, Capture, Config, Consumer, Dlq, Engine, EventLogKind, EventLogSection, Jobs, Log, LogFormat, Meta,
    Query, Server, StaticKey, Store, Topics,
};

/// The defaults file as compiled in.
pub const REFERENCE: &str = include_str!("../../config/flexflow.toml");

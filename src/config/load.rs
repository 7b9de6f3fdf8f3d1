//! Puts the layers over each other and remembers where every value came from.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::Deserialize;
use toml::Value;

use super::{Config, ConfigError, ConfigProblem, keys};

/// Partitions of a topic that is made on Kafka, unless configured: RUNBOOK has the reckoning.
const KAFKA_PARTITIONS: i64 = 12;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The compiled-in reference.
    Default,
    /// A `--config` file.
    File(PathBuf),
    /// This variable.
    Environment(String),
    /// This command line flag, with its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// What [`load()`] reads, later wins: files in order < environment < flags in order.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    files: Vec<PathBuf>,
    environment: Vec<(OsString, OsString)>,
    flags: Vec<(String, String, String)>,
}

impl Sources {
    /// The variables of this process.
    #[must_use]
    pub fn from_process_environment() -> Self {
        Self { environment: std::env::vars_os().collect(), ..Self::default() }
    }

    /// Adds a file over the files before it.
    pub fn file(&mut self, path: impl Into<PathBuf>) -> &mut Self {
        self.files.push(path.into());
        self
    }

    /// Adds a variable.
    pub fn variable(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> &mut Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Adds a value given by the command line flag `flag` (`--data-dir`), over the flags before it.
    pub fn set(&mut self, flag: &str, key: &str, value: &str) -> &mut Self {
        self.flags.push((flag.to_owned(), key.to_owned(), value.to_owned()));
        self
    }

    /// Adds a `--set section.key=value`.
    ///
    /// # Errors
    /// There is no `=`.
    pub fn set_pair(&mut self, pair: &str) -> Result<&mut Self, ConfigError> {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| ConfigProblem::NotAPair { given: pair.to_owned() })?;
        Ok(self.set("--set", key.trim(), value))
    }
}

/// One effective value.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// `server.listen`
    pub key: String,
    /// As TOML holds it; secrets are `***`.
    pub shown: Value,
    pub origin: Origin,
}

/// A configuration that passed every check.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// Every key, in the order of the reference.
    pub settings: Vec<Setting>,
    /// What is allowed and yet deserves a word, such as listening beyond loopback without TLS.
    pub warnings: Vec<String>,
}

/// Reads all layers and checks the result.
///
/// # Errors
/// A file that cannot be read, an unknown key or variable, a value that does not fit its key or another value: all of
/// them at once, each with its place and what would be right.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut layers = Layers::new()?;
    for path in &sources.files {
        layers.file(path);
    }
    layers.environment(&sources.environment);
    for (flag, key, text) in &sources.flags {
        let origin = Origin::Flag(flag.clone());
        match layers.defaults.get(key) {
            Some(default) => {
                let value = from_text(default, text);
                layers.put(key, value, origin);
            }
            None => layers.unknown_key(key, origin),
        }
    }
    layers.finish()
}

/// The values so far, and everything that was wrong on the way.
struct Layers {
    defaults: IndexMap<String, Value>,
    values: IndexMap<String, (Value, Origin)>,
    problems: Vec<ConfigProblem>,
}

impl Layers {
    fn new() -> Result<Self, ConfigError> {
        let defaults = keys::reference()?;
        let values =
            defaults.iter().map(|(key, value)| (key.clone(), (value.clone(), Origin::Default))).collect();
        Ok(Self { defaults, values, problems: Vec::new() })
    }

    fn file(&mut self, path: &Path) {
        let origin = Origin::File(path.to_owned());
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                let reason = error.to_string();
                self.problems.push(ConfigProblem::Unreadable { path: path.to_owned(), reason });
                return;
            }
        };
        match text.parse::<toml::Table>() {
            Ok(table) => self.table("", table, &origin),
            Err(error) => {
                let reason = error.to_string().trim_end().to_owned();
                self.problems.push(ConfigProblem::Syntax { origin, reason });
            }
        }
    }

    fn table(&mut self, prefix: &str, table: toml::Table, origin: &Origin) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
            let section = format!("{key}.");
            if self.defaults.contains_key(&key) {
                self.put(&key, value, origin.clone());
            } else if !self.defaults.keys().any(|known| known.starts_with(&section)) {
                self.unknown_key(&key, origin.clone());
            } else if let Value::Table(inner) = value {
                self.table(&key, inner, origin);
            } else {
                let given = value.to_string();
                self.problems.push(ConfigProblem::Invalid {
                    problem: "is a section, not a value".to_owned(),
                    valid: format!("a table [{key}] of its keys"),
                    given,
                    key,
                    origin: origin.clone(),
                });
            }
        }
    }

    fn environment(&mut self, variables: &[(OsString, OsString)]) {
        let (mut legacy, mut own) = (Vec::new(), Vec::new());
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            let key = keys::LEGACY_VARIABLES.iter().find(|(old, _)| *old == name).map(|(_, key)| *key);
            if key.is_none() && (!name.starts_with(keys::VARIABLE_PREFIX) || keys::is_foreign(name)) {
                continue;
            }
            let Some(text) = value.to_str() else {
                let problem = "its value is not UTF-8".to_owned();
                self.problems.push(ConfigProblem::Variable { name: name.to_owned(), problem });
                continue;
            };
            match key {
                Some(key) => legacy.push((name, key.to_owned(), text.to_owned())),
                None => own.extend(self.own_variable(name, text).map(|(key, text)| (name, key, text))),
            }
        }
        self.both_forms(&own);
        for (name, key, text) in legacy.into_iter().chain(own) {
            let Some(default) = self.defaults.get(&key) else { continue };
            let value = from_text(default, &text);
            self.put(&key, value, Origin::Environment(name.to_owned()));
        }
    }

    /// The key and the text that a `FLEXFLOW_` variable gives.
    fn own_variable(&mut self, name: &str, text: &str) -> Option<(String, String)> {
        if let Some(key) = self.defaults.keys().find(|key| keys::variable(key) == name) {
            return Some((key.clone(), text.to_owned()));
        }
        let secret = name.strip_suffix("_FILE").and_then(|name| {
            self.defaults.keys().find(|key| keys::is_secret(key) && keys::variable(key) == name)
        });
        if let Some(key) = secret {
            return match std::fs::read_to_string(text) {
                Ok(secret) => Some((key.clone(), secret.trim_end_matches(['\r', '\n']).to_owned())),
                Err(error) => {
                    let problem = format!("cannot read {text}: {error}");
                    self.problems.push(ConfigProblem::Variable { name: name.to_owned(), problem });
                    None
                }
            };
        }
        let known: Vec<String> = self.defaults.keys().map(|key| keys::variable(key)).collect();
        let nearest = keys::nearest(
            &name[keys::VARIABLE_PREFIX.len()..],
            known.iter().map(|name| &name[keys::VARIABLE_PREFIX.len()..]),
        )
        .map(|name| format!("{}{name}", keys::VARIABLE_PREFIX));
        self.problems.push(ConfigProblem::UnknownVariable { name: name.to_owned(), nearest });
        None
    }

    /// A secret given as a value and as a file is given once too often: which one is meant?
    fn both_forms(&mut self, own: &[(&str, String, String)]) {
        for (name, key, _) in own.iter().filter(|(name, key, _)| *name != keys::variable(key)) {
            if own.iter().any(|(other, _, _)| *other == keys::variable(key)) {
                let problem = format!("{} is set too: keep one of them", keys::variable(key));
                self.problems.push(ConfigProblem::Variable { name: (*name).to_owned(), problem });
            }
        }
    }

    fn put(&mut self, key: &str, value: Value, origin: Origin) {
        let Some(default) = self.defaults.get(key) else { return };
        let value = match (default, value) {
            (Value::Float(_), Value::Integer(whole)) =>
            {
                #[expect(clippy::cast_precision_loss, reason = "a setting is a small number")]
                Value::Float(whole as f64)
            }
            (_, value) => value,
        };
        if value.same_type(default) {
            self.values.insert(key.to_owned(), (value, origin));
            return;
        }
        self.problems.push(ConfigProblem::Invalid {
            key: key.to_owned(),
            given: keys::shown(key, &value).to_string(),
            origin,
            problem: format!("is {}", with_article(value.type_str())),
            valid: keys::form(key, default),
        });
    }

    fn unknown_key(&mut self, key: &str, origin: Origin) {
        let nearest = keys::nearest(key, self.defaults.keys().map(String::as_str));
        self.problems.push(ConfigProblem::UnknownKey { key: key.to_owned(), origin, nearest });
    }

    fn finish(mut self) -> Result<Loaded, ConfigError> {
        if !self.problems.is_empty() {
            return Err(ConfigError { problems: self.problems });
        }
        self.imply();
        let config = match deserialize(self.values.iter().map(|(key, (value, _))| (key, value))) {
            Ok(config) => config,
            Err(reason) => return Err(self.blame(&reason)),
        };
        let (faults, warnings) = config.validate();
        for fault in faults {
            let (given, origin) = self.given(fault.key);
            let (problem, valid) = (fault.problem, fault.valid);
            self.problems.push(ConfigProblem::Invalid {
                key: fault.key.to_owned(),
                given,
                origin,
                problem,
                valid,
            });
        }
        if !self.problems.is_empty() {
            return Err(ConfigError { problems: self.problems });
        }
        let settings = self
            .values
            .into_iter()
            .map(|(key, (value, origin))| Setting { shown: keys::shown(&key, &value), key, origin })
            .collect();
        Ok(Loaded { config, settings, warnings })
    }

    /// Brokers that are named are meant to be used, and topics on Kafka are made with more partitions: both unless
    /// something else is said.
    fn imply(&mut self) {
        let origin = |layers: &Self, key: &str| layers.values.get(key).map(|(_, origin)| origin.clone());
        let named = self.values.get("eventlog.kafka.bootstrap_servers");
        let named = named.filter(|(value, _)| value.as_array().is_some_and(|servers| !servers.is_empty()));
        if let Some((_, because)) = named.cloned()
            && origin(self, "eventlog.kind") == Some(Origin::Default)
        {
            self.values.insert("eventlog.kind".to_owned(), (Value::String("kafka".to_owned()), because));
        }
        let on_kafka =
            self.values.get("eventlog.kind").is_some_and(|(kind, _)| kind.as_str() == Some("kafka"));
        if on_kafka && origin(self, "eventlog.partitions") == Some(Origin::Default) {
            let partitions = (Value::Integer(KAFKA_PARTITIONS), Origin::Default);
            self.values.insert("eventlog.partitions".to_owned(), partitions);
        }
    }

    /// Which values a refused whole goes back to: each is tried alone over the defaults.
    fn blame(&self, whole: &str) -> ConfigError {
        let mut problems = Vec::new();
        for (key, (value, origin)) in &self.values {
            let alone = self.defaults.iter().map(|(k, default)| (k, if k == key { value } else { default }));
            let Err(problem) = deserialize(alone) else { continue };
            let valid = keys::form(key, self.defaults.get(key).unwrap_or(value));
            let (problem, valid) = plainly(problem, valid);
            problems.push(ConfigProblem::Invalid {
                key: key.clone(),
                given: keys::shown(key, value).to_string(),
                origin: origin.clone(),
                problem: if keys::is_secret(key) { "does not fit".to_owned() } else { problem },
                valid,
            });
        }
        if problems.is_empty() {
            let (origin, reason) = (Origin::Default, whole.to_owned());
            problems.push(ConfigProblem::Syntax { origin, reason });
        }
        ConfigError { problems }
    }

    fn given(&self, key: &str) -> (String, Origin) {
        self.values.get(key).map_or_else(
            || (String::new(), Origin::Default),
            |(value, origin)| (keys::shown(key, value).to_string(), origin.clone()),
        )
    }
}

/// What the reader of a type said, in words that do not repeat the value and leave the cure to `valid`.
fn plainly(problem: String, valid: String) -> (String, String) {
    if let Some((_, names)) =
        problem.split_once(", expected ").filter(|_| problem.starts_with("unknown variant"))
    {
        return ("is not one of its values".to_owned(), names.replace('`', "\"").replace("one of ", ""));
    }
    for form in ["a duration", "a size", "an address and port"] {
        if valid.starts_with(form) {
            return (format!("is not {form}"), valid);
        }
    }
    (problem, valid)
}

/// A text from a variable or a flag, as the type of its key has it; kept as text when it does not fit, so that the type
/// check names it.
fn from_text(default: &Value, text: &str) -> Value {
    let kept = || Value::String(text.to_owned());
    match default {
        Value::Boolean(_) => text.trim().parse().map_or_else(|_| kept(), Value::Boolean),
        Value::Integer(_) => text.trim().parse().map_or_else(|_| kept(), Value::Integer),
        Value::Float(_) => text.trim().parse().map_or_else(|_| kept(), Value::Float),
        Value::Array(_) if text.trim_start().starts_with('[') => {
            let parsed = format!("value = {text}").parse::<toml::Table>();
            parsed.ok().and_then(|mut table| table.remove("value")).unwrap_or_else(kept)
        }
        Value::Array(_) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Value::Array(parts.map(|part| Value::String(part.to_owned())).collect())
        }
        _ => kept(),
    }
}

/// The sections from flat keys. The message says what is wrong, not where.
fn deserialize<'a>(values: impl Iterator<Item = (&'a String, &'a Value)>) -> Result<Config, String> {
    let mut root = toml::Table::new();
    for (key, value) in values {
        let mut table = &mut root;
        let mut path = key.split('.').peekable();
        while let Some(name) = path.next() {
            if path.peek().is_none() {
                table.insert(name.to_owned(), value.clone());
                break;
            }
            let inner = table.entry(name).or_insert_with(|| Value::Table(toml::Table::new()));
            match inner {
                Value::Table(inner) => table = inner,
                _ => return Err(format!("{key}: {name} is both a section and a key")),
            }
        }
    }
    Config::deserialize(Value::Table(root)).map_err(|error| error.message().to_owned())
}

fn with_article(kind: &str) -> String {
    match kind {
        "string" => "a text".to_owned(),
        "array" => "a list".to_owned(),
        "integer" => "a whole number".to_owned(),
        kind => format!("a {kind}"),
    }
}

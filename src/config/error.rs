//! What can be wrong with a configuration, in words that name the place and the cure.

use std::fmt;
use std::path::PathBuf;

use super::Origin;

/// Everything that is wrong with the configuration, not only the first thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Never empty.
    pub problems: Vec<ConfigProblem>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl From<ConfigProblem> for ConfigError {
    fn from(problem: ConfigProblem) -> Self {
        Self { problems: vec![problem] }
    }
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigProblem {
    #[error("unknown key {key} in {origin}{}", suggestion(.nearest.as_deref()))]
    UnknownKey { key: String, origin: Origin, nearest: Option<String> },
    #[error("unknown environment variable {name}{}", suggestion(.nearest.as_deref()))]
    UnknownVariable { name: String, nearest: Option<String> },
    /// `given` is `***` for a secret.
    #[error("{key}: {problem}; given {given} by {origin}; valid: {valid}")]
    Invalid { key: String, given: String, origin: Origin, problem: String, valid: String },
    #[error("environment variable {name}: {problem}")]
    Variable { name: String, problem: String },
    #[error("--set {given}: write it as section.key=value, such as server.listen=127.0.0.1:9000")]
    NotAPair { given: String },
    #[error("cannot read {path}: {reason}", path = .path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("{origin} is not TOML: {reason}")]
    Syntax { origin: Origin, reason: String },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(
        || "; `flexflow config reference` lists every key".to_owned(),
        |nearest| format!("; did you mean {nearest}?"),
    )
}

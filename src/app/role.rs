//! The roles a process can run.

use std::fmt;

use serde::Serialize;

/// A part of the product that can run in a process of its own. Roles never call each other: they meet in the log, the
/// store and the metadata database.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// HTTP to log.
    Capture,
    /// Log to store, and the durable jobs.
    Consumer,
    /// Store to answers.
    Query,
    /// Projects, environments and keys.
    Auth,
}

impl Role {
    /// What `serve --all` runs.
    pub const ALL: &'static [Self] = &[Self::Capture, Self::Consumer, Self::Query, Self::Auth];

    /// Its name on the command line, in `/ready` and in `server.json`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Consumer => "consumer",
            Self::Query => "query",
            Self::Auth => "auth",
        }
    }

    /// The role with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|role| role.as_str() == name)
    }

    /// The components whose state decides whether this role can do its work.
    pub const fn components(self) -> &'static [&'static str] {
        match self {
            Self::Capture => &["eventlog", "topics", "capture", "meta"],
            Self::Consumer => &["eventlog", "topics", "store", "schema", "consumer"],
            Self::Query => &["store", "schema", "meta"],
            Self::Auth => &["meta"],
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

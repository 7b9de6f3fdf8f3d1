//! The ClickHouse engine as a supervised child process.
//!
//! [`locate()`] finds it, [`install()`] gets it through `npm`, [`Supervisor`] runs it: a thread of its own that lives until
//! [`Supervisor::stop`], because the kernel ties a child's end to the *thread* that spawned it. The engine listens on a
//! free port of the loopback device, for two users with passwords made at each start.

mod child;
mod files;
mod install;
mod locate;
mod probe;
mod supervisor;

use std::path::PathBuf;

use secrecy::SecretString;

pub use child::engine_child_main;
pub use install::{InstallStep, VERSION, install};
pub use locate::{Located, locate};
pub(super) use supervisor::Supervisor;

/// How the engine is run.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The program whose hidden subcommand `engine-child` is [`engine_child_main`].
    pub executable: PathBuf,
    /// Get the engine through `npm` when there is none.
    pub install_missing: bool,
}

impl Default for EngineOptions {
    /// This program; when it is another one that has FlexFlow as a library (its tests, a benchmark), the `flexflow`
    /// beside it or one folder up.
    fn default() -> Self {
        let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("flexflow"));
        let is_flexflow = own.file_stem().is_some_and(|stem| stem == "flexflow");
        let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join("flexflow"));
        let executable = if is_flexflow {
            own.clone()
        } else {
            beside.into_iter().find(|path| path.is_file()).unwrap_or(own)
        };
        Self { executable, install_missing: true }
    }
}

/// Where the store answers, and as whom to speak to it.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// `host:port` of the native protocol.
    pub address: String,
    /// The user that owns the data.
    pub owner: Login,
    /// The user that may read [`READABLE`] and nothing else; none: the owner is told to read only.
    pub reader: Option<Login>,
    /// Counts up with every start: a connection of an earlier one is of no use.
    pub generation: u64,
}

/// A user of the store.
#[derive(Clone, Debug)]
pub(super) struct Login {
    pub user: String,
    pub password: SecretString,
}

/// As which of its users the store is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Who {
    Owner,
    Reader,
}

impl Endpoint {
    /// The owner, where there is no reader.
    pub(super) fn login(&self, who: Who) -> (Who, &Login) {
        match (who, &self.reader) {
            (Who::Reader, Some(reader)) => (Who::Reader, reader),
            _ => (Who::Owner, &self.owner),
        }
    }
}

/// The tables that the reader may read: those that SQL of a caller's own is about.
pub(super) const READABLE: [&str; 5] =
    ["events", "person_overrides", "person_properties", "event_rollups", "event_quality"];

//! What may be typed about schemas of events.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Remote, Scope};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Schemas {
    /// List the schemas of a project
    List {
        #[command(flatten)]
        scope: Scope,
        #[command(flatten)]
        remote: Remote,
    },
    /// Print an event's schema with its versions
    Show {
        /// Name of the event
        event: String,
        #[command(flatten)]
        scope: Scope,
        #[command(flatten)]
        remote: Remote,
    },
    /// Make an event's schema, or the next version of it
    Apply(SchemasApply),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SchemasApply {
    /// Name of the event
    pub event: String,
    /// What its properties have to look like: JSON Schema
    pub definition: PathBuf,
    /// What properties of the newest version become in this one, TOML or JSON: events that name an older version are brought
    /// up to it
    #[arg(long, value_name = "FILE")]
    pub upcast: Option<PathBuf>,
    /// Change nothing: say whether it would do, and exit 3 if it would not
    #[arg(long)]
    pub check: bool,
    /// Properties of an event of the newest version, an array of them, or one a line: what becomes of them is told, too
    #[arg(long, value_name = "FILE", requires = "check")]
    pub sample: Vec<PathBuf>,
    #[command(flatten)]
    pub scope: Scope,
    #[command(flatten)]
    pub remote: Remote,
}

impl Schemas {
    /// Whose, and who is asked.
    pub(in crate::cli) fn place(&self) -> (&Scope, &Remote) {
        match self {
            Self::List { scope, remote } | Self::Show { scope, remote, .. } => (scope, remote),
            Self::Apply(args) => (&args.scope, &args.remote),
        }
    }
}

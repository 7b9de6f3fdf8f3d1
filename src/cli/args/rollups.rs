//! Commands about hourly and daily counts.

use clap::Subcommand;

use super::{Remote, Scope};
use crate::event::Timestamp;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Rollups {
    /// What there is, when it was built, and when it is built next
    Status {
        #[command(flatten)]
        scope: Scope,
        #[command(flatten)]
        remote: Remote,
    },
    /// Build the counts of these days anew
    Build {
        /// A moment of the first day (RFC 3339); days are UTC's
        #[arg(long, value_name = "TIME", value_parser = super::time)]
        from: Timestamp,
        /// A moment of the last day
        #[arg(long, value_name = "TIME", value_parser = super::time)]
        to: Timestamp,
        /// Start the job and do not wait for its end
        #[arg(long)]
        no_wait: bool,
        #[command(flatten)]
        scope: Scope,
        #[command(flatten)]
        remote: Remote,
    },
}

impl Rollups {
    /// Whose, and who is asked.
    pub(in crate::cli) fn place(&self) -> (&Scope, &Remote) {
        match self {
            Self::Status { scope, remote } | Self::Build { scope, remote, .. } => (scope, remote),
        }
    }
}

//! Commands about test accounts.

use clap::Subcommand;
use serde_json::Value;

use super::{Remote, Scope};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum TestAccounts {
    /// The filters that leave an environment's own people out of a question
    Show {
        #[command(flatten)]
        scope: Scope,
        #[command(flatten)]
        remote: Remote,
    },
    /// Set them
    Set {
        /// A JSON list of filters, as questions have them; all hold for who counts
        #[arg(value_name = "FILTERS", value_parser = filters)]
        filters: Value,
        #[command(flatten)]
        scope: Scope,
        #[command(flatten)]
        remote: Remote,
    },
    /// Take them away
    Clear {
        #[command(flatten)]
        scope: Scope,
        #[command(flatten)]
        remote: Remote,
    },
}

impl TestAccounts {
    /// Whose, and who is asked.
    pub(in crate::cli) fn place(&self) -> (&Scope, &Remote) {
        match self {
            Self::Show { scope, remote }
            | Self::Set { scope, remote, .. }
            | Self::Clear { scope, remote } => (scope, remote),
        }
    }
}

fn filters(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("expected a JSON list of filters: {error}"))
}

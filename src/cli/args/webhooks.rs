//! Commands about webhooks.

use clap::Subcommand;

use super::Scope;

/// Whose webhooks, and which one.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct OneWebhook {
    /// Id of the webhook
    pub webhook: String,
    #[command(flatten)]
    pub scope: Scope,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Webhooks {
    /// Deliver system events to a URL; shows the secret that signs them
    Create {
        /// Where to deliver to
        url: String,
        /// Deliver only this kind of events, such as job.finished; may be repeated
        #[arg(long)]
        event: Vec<String>,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
        /// Deliver one at a time, in the order of the events
        #[arg(long)]
        ordered: bool,
        #[command(flatten)]
        scope: Scope,
    },
    /// List webhooks
    List {
        #[command(flatten)]
        scope: Scope,
    },
    /// Show one webhook
    Show(OneWebhook),
    /// Show the secret that signs its deliveries
    Secret(OneWebhook),
    /// Sign with another secret; the one so far signs beside it for a while
    RotateSecret {
        #[command(flatten)]
        one: OneWebhook,
        /// How long the one so far signs, such as 1h
        #[arg(long, value_name = "DURATION")]
        keep: Option<String>,
    },
    /// Deliver to it again
    Enable(OneWebhook),
    /// Deliver nothing more to it; what waits goes on waiting
    Disable(OneWebhook),
    /// Delete it with its deliveries
    Delete(OneWebhook),
    /// Send it a test event
    Test(OneWebhook),
    /// List its deliveries, newest first
    Deliveries {
        #[command(flatten)]
        one: OneWebhook,
        /// Only with this state: pending, delivered or dead
        #[arg(long, value_parser = ["pending", "delivered", "dead"], hide_possible_values = true)]
        state: Option<String>,
        /// Most to list
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
    },
    /// Deliver again: these deliveries, or all dead ones
    Replay {
        #[command(flatten)]
        one: OneWebhook,
        /// This delivery alone, as `webhooks deliveries` shows it
        #[arg(long, value_name = "ID")]
        delivery: Option<String>,
    },
}

impl Webhooks {
    /// Whose webhooks it is about.
    pub(in crate::cli) fn scope(&self) -> &Scope {
        match self {
            Self::Create { scope, .. } | Self::List { scope } => scope,
            Self::Show(one)
            | Self::Secret(one)
            | Self::Enable(one)
            | Self::Disable(one)
            | Self::Delete(one)
            | Self::Test(one)
            | Self::RotateSecret { one, .. }
            | Self::Deliveries { one, .. }
            | Self::Replay { one, .. } => &one.scope,
        }
    }
}

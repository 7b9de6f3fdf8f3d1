//! Webhooks: system events, delivered to whoever a project names, signed as Standard Webhooks asks
//! (<https://www.standardwebhooks.com>), so that its published libraries verify them.
//!
//! Promises:
//! - What was added is delivered at least once, under the same `webhook-id` every time, or is dead after
//!   `webhook.retry_for` and can be replayed. It survives `kill -9`: deliveries are rows, claimed under a lease and a
//!   fence.
//! - A receiver that is slow holds up its own deliveries: each webhook has attempts of its own, few until it has proved
//!   itself, more while it answers well.
//! - Nothing is sent to an address of a private network unless `webhook.allow_private` says so: names are resolved here,
//!   and only addresses that were checked are connected to. No redirect is followed, no proxy asked.
//! - Of an answer no more than `webhook.response_bytes_max` is read or kept.
//!
//! | file | what |
//! |---|---|
//! | `sign.rs` | secrets and signatures. Pure |
//! | `address.rs` | which addresses may be connected to |
//! | `send.rs` | one attempt |
//! | `dispatch.rs` | which attempts, when, how many at a time |
//! | `http.rs` | routes of webhooks and their deliveries |
//!
//! System events become deliveries in `consumer/webhooks.rs`.

mod address;
mod dispatch;
pub mod http;
mod send;
pub mod sign;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::Notify;

use crate::config::{self, Config};
use crate::event::{Clock, IdSource, Timestamp};
use crate::meta::Meta;

pub use send::CannotSend;

/// Webhooks of this installation. Cheap to clone.
#[derive(Clone)]
pub struct Webhook {
    meta: Meta,
    config: config::Webhook,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    /// Tells the dispatcher of this process that there may be something to deliver.
    queued: Arc<Notify>,
}

impl Webhook {
    pub fn new(meta: Meta, config: &Config, clock: Arc<dyn Clock>, ids: Arc<dyn IdSource>) -> Self {
        Self { meta, config: config.webhook.clone(), clock, ids, queued: Arc::new(Notify::new()) }
    }

    /// What is notified when deliveries were added.
    pub fn queued(&self) -> Arc<Notify> {
        self.queued.clone()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

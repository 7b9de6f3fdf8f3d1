//! One broker as the sender sees it: when its next request goes out.

use tokio::time::Instant;

use super::sender::Key;
use crate::eventlog::kafka::connection::Connection;

#[derive(Default)]
pub(super) struct Broker {
    pub(super) connection: Option<Connection>,
    pub(super) dialing: bool,
    pub(super) under_way: usize,
    pub(super) paused_until: Option<Instant>,
    pub(super) failures: u32,
}

impl Broker {
    /// Is it time for the next request? What a broker works at is the request and the batch of a partition, not the record.
    /// So who comes while a request is at the broker waits for its answer, and goes out with all the others that came
    /// meanwhile: a busy broker gets larger requests, not more of them. A full batch would not become larger.
    pub(super) fn is_time(&self, ready: &Ready) -> bool {
        ready.full || self.under_way == 0
    }

    /// Records that have to be handed over before there is something to send to it.
    pub(super) fn wanted(&self) -> usize {
        let is_free = self.under_way == 0 && !self.dialing && self.paused_until.is_none();
        if is_free { 1 } else { usize::MAX }
    }
}

/// Partitions with something for a broker.
#[derive(Default)]
pub(super) struct Ready {
    pub(super) keys: Vec<Key>,
    /// One has a full batch, or one to be sent again.
    pub(super) full: bool,
}

#[cfg(test)]
mod tests;

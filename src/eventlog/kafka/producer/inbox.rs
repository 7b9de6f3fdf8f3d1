//! What callers hand over until the sender takes it, and when it is woken for that: once for as many records as it waits
//! for, not once for each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::Job;

/// What the sender is asked.
pub(super) enum Command {
    Produce(Job),
    /// Send what is queued, then answer.
    Flush(oneshot::Sender<()>),
}

/// How much the sender wants to have before it is woken: so many records or so many bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wanted {
    pub(super) records: usize,
    pub(super) bytes: usize,
}

impl Wanted {
    /// The next one, whatever it is.
    pub(super) const ANY: Self = Self { records: 1, bytes: 1 };
    /// It is awake, or will be.
    const NOTHING: Self = Self { records: usize::MAX, bytes: usize::MAX };
}

/// Callers' side. `eventlog.queue_bytes_max` bounds what it holds.
#[derive(Clone)]
pub(super) struct Inbox(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    woken: Notify,
}

struct State {
    commands: Vec<Command>,
    records: usize,
    bytes: usize,
    wanted: Wanted,
    closed: bool,
}

impl State {
    fn is_enough(&self, wanted: Wanted) -> bool {
        self.closed || self.records >= wanted.records || self.bytes >= wanted.bytes
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) -> Vec<Command> {
        let mut state = self.lock();
        state.closed = true;
        self.woken.notify_one();
        std::mem::take(&mut state.commands)
    }
}

/// Nobody takes what is handed over any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Closed;

impl Inbox {
    pub(super) fn new() -> (Self, Taker) {
        let state = State { commands: Vec::new(), records: 0, bytes: 0, wanted: Wanted::ANY, closed: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), woken: Notify::new() });
        (Self(shared.clone()), Taker(shared))
    }

    /// Hands over; wakes the sender if it wants no more than there is now.
    pub(super) fn push(&self, command: Command) -> Result<(), Closed> {
        let (records, bytes) = match &command {
            Command::Produce(job) => (job.records.len(), job.bytes),
            // Whoever waits for it to be empty wants it now.
            Command::Flush(_) => (usize::MAX, 0),
        };
        let mut state = self.0.lock();
        if state.closed {
            return Err(Closed);
        }
        state.commands.push(command);
        state.records = state.records.saturating_add(records);
        state.bytes += bytes;
        let wake = state.is_enough(state.wanted);
        if wake {
            state.wanted = Wanted::NOTHING;
        }
        drop(state);
        if wake {
            self.0.woken.notify_one();
        }
        Ok(())
    }

    /// The last call was made; what is in it is still taken.
    pub(super) fn end(&self) {
        self.0.lock().closed = true;
        self.0.woken.notify_one();
    }
}

/// The sender's side. Nothing is taken any more once it is gone.
pub(super) struct Taker(Arc<Shared>);

impl Taker {
    /// Everything that is in it, instead of what `into` had; false: that was the last.
    pub(super) fn take(&self, into: &mut Vec<Command>) -> bool {
        into.clear();
        let mut state = self.0.lock();
        std::mem::swap(&mut state.commands, into);
        (state.records, state.bytes) = (0, 0);
        !state.closed || !into.is_empty()
    }

    /// Until there is as much as is wanted, or it was closed.
    pub(super) async fn wait(&self, wanted: Wanted) {
        loop {
            {
                let mut state = self.0.lock();
                if state.is_enough(wanted) {
                    return;
                }
                state.wanted = wanted;
            }
            self.0.woken.notified().await;
        }
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        // Their callers hear that nobody answers.
        drop(self.0.close());
    }
}

#[cfg(test)]
mod tests;

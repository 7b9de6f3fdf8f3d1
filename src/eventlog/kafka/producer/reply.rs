//! The answer to one call of produce: gathered record by record, given once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::eventlog::{LogError, Position};

pub(super) type Answers = Vec<Result<Position, LogError>>;

/// What one call waits for. Holds the call's room in the buffer for as long as one of its records is held.
pub(super) struct Reply {
    /// After it the call is answered, whatever is known.
    pub(super) deadline: Instant,
    state: Mutex<State>,
    _room: OwnedSemaphorePermit,
}

struct State {
    answers: Vec<Option<Result<Position, LogError>>>,
    left: usize,
    done: Option<oneshot::Sender<Answers>>,
}

/// One record's place in its call.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) reply: Arc<Reply>,
    pub(super) index: usize,
}

impl Reply {
    /// `answers` has what is decided already; the rest is awaited.
    pub(super) fn new(
        answers: Vec<Option<Result<Position, LogError>>>,
        deadline: Instant,
        room: OwnedSemaphorePermit,
    ) -> (Arc<Self>, oneshot::Receiver<Answers>) {
        let (done, answered) = oneshot::channel();
        let left = answers.iter().filter(|answer| answer.is_none()).count();
        let state = Mutex::new(State { answers, left, done: Some(done) });
        (Arc::new(Self { deadline, state, _room: room }), answered)
    }

    /// Is somebody waiting?
    pub(super) fn is_wanted(&self) -> bool {
        self.lock().done.as_ref().is_some_and(|done| !done.is_closed())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Says what became of the record; the first word counts.
    pub(super) fn settle(&self, answer: Result<Position, LogError>) {
        let mut state = self.reply.lock();
        let Some(place) = state.answers.get_mut(self.index).filter(|place| place.is_none()) else { return };
        *place = Some(answer);
        state.left -= 1;
        if state.left == 0 {
            let lost = || Err(LogError::OutcomeUnknown("the producer lost count".to_owned()));
            let answers = std::mem::take(&mut state.answers);
            let answers = answers.into_iter().map(|answer| answer.unwrap_or_else(lost)).collect();
            if let Some(done) = state.done.take() {
                // The caller may have gone away.
                let _ = done.send(answers);
            }
        }
    }
}

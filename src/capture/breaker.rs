//! The circuit breaker around produce: a log that does not answer is asked rarely, and requests are told at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::lifecycle::Component;
use crate::telemetry::names;

/// Failures in a row that open it.
const FAILURES_TO_OPEN: u32 = 5;
/// How long it stays open before one request may try; doubled by every trial that fails.
const WAIT_MIN: Duration = Duration::from_millis(250);
const WAIT_MAX: Duration = Duration::from_secs(5);

const DEPENDENCY: &str = "eventlog";

/// Closed (requests pass), open (they are told at once), half-open (one passes, to try).
pub(super) struct Breaker {
    state: Mutex<State>,
    component: Component,
    /// The component was told of the first success.
    greeted: AtomicBool,
    gauge: metrics::Gauge,
    opened: metrics::Counter,
}

#[derive(Clone, Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, wait: Duration, reason: String },
    HalfOpen { wait: Duration, reason: String },
}

/// The log does not take writes; `reason` is what it said last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Open {
    pub reason: String,
    pub retry_after: Duration,
}

/// Leave to try once; say how it went. Dropped without a word (the client went away), it counts for nothing.
pub(super) struct Pass<'b> {
    breaker: &'b Breaker,
    /// This is the one that tries while the breaker is half-open.
    trial: bool,
    told: bool,
}

impl Breaker {
    pub(super) fn new(component: Component) -> Self {
        let gauge = names::BREAKER_STATE.gauge(&[("dependency", DEPENDENCY)]);
        gauge.set(0.0);
        Self {
            state: Mutex::new(State::Closed { failures: 0 }),
            component,
            greeted: AtomicBool::new(false),
            gauge,
            opened: names::BREAKER_OPENED.counter(&[("dependency", DEPENDENCY)]),
        }
    }

    /// Is it open, without taking the trial's place?
    pub(super) fn check(&self) -> Result<(), Open> {
        match &*self.lock() {
            State::Open { until, reason, .. } if Instant::now() < *until => {
                Err(Open { reason: reason.clone(), retry_after: *until - Instant::now() })
            }
            _ => Ok(()),
        }
    }

    /// Asks for leave.
    pub(super) fn pass(&self) -> Result<Pass<'_>, Open> {
        let mut state = self.lock();
        let trial = match &*state {
            State::Closed { .. } => false,
            State::Open { until, wait, reason } => {
                let now = Instant::now();
                if now < *until {
                    return Err(Open { reason: reason.clone(), retry_after: *until - now });
                }
                *state = State::HalfOpen { wait: *wait, reason: reason.clone() };
                self.gauge.set(1.0);
                true
            }
            State::HalfOpen { wait, reason } => {
                return Err(Open { reason: reason.clone(), retry_after: *wait });
            }
        };
        Ok(Pass { breaker: self, trial, told: false })
    }

    fn succeeded(&self) {
        let mut state = self.lock();
        let was_closed = matches!(*state, State::Closed { .. });
        *state = State::Closed { failures: 0 };
        drop(state);
        if !was_closed {
            self.gauge.set(0.0);
        }
        if !was_closed || !self.greeted.swap(true, Ordering::Relaxed) {
            self.component.up();
        }
    }

    fn failed(&self, trial: bool, reason: &str) {
        let mut state = self.lock();
        let wait = match &*state {
            State::Closed { failures } if failures + 1 < FAILURES_TO_OPEN => {
                *state = State::Closed { failures: failures + 1 };
                return;
            }
            State::Closed { .. } => WAIT_MIN,
            State::HalfOpen { wait, .. } if trial => (*wait * 2).min(WAIT_MAX),
            // Passed before it opened, failed after: nothing new.
            State::Open { .. } | State::HalfOpen { .. } => return,
        };
        *state = State::Open { until: Instant::now() + wait, wait, reason: reason.to_owned() };
        drop(state);
        self.gauge.set(2.0);
        self.opened.increment(1);
        self.component.down(&format!("the event log does not take writes: {reason}"));
    }

    /// A trial that ended without a word: the next one may try at once.
    fn forgotten(&self) {
        let mut state = self.lock();
        if let State::HalfOpen { wait, reason } = &*state {
            *state = State::Open { until: Instant::now(), wait: *wait, reason: reason.clone() };
            self.gauge.set(2.0);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// The log took it, or refused it for what it is: the log is well.
    pub(super) fn succeeded(mut self) {
        self.told = true;
        self.breaker.succeeded();
    }

    /// The log did not take it.
    pub(super) fn failed(mut self, reason: &str) {
        self.told = true;
        self.breaker.failed(self.trial, reason);
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.trial && !self.told {
            self.breaker.forgotten();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::SystemClock;
    use crate::lifecycle::{ComponentState, Health};

    fn breaker() -> (Breaker, Health) {
        let health = Health::new(Arc::new(SystemClock));
        (Breaker::new(health.component("capture")), health)
    }

    fn open(breaker: &Breaker) {
        for _ in 0..FAILURES_TO_OPEN {
            breaker.pass().ok().unwrap().failed("disk full");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_says_why() {
        let (breaker, health) = breaker();
        for _ in 1..FAILURES_TO_OPEN {
            breaker.pass().ok().unwrap().failed("disk full");
        }
        breaker.pass().ok().unwrap().succeeded();
        assert_eq!(health.get("capture").unwrap().state, ComponentState::Up);
        open(&breaker);
        let refused = breaker.pass().err().unwrap();
        assert_eq!(refused.reason, "disk full");
        assert!(refused.retry_after <= WAIT_MIN);
        assert_eq!(breaker.check(), Err(refused));
        let status = health.get("capture").unwrap();
        assert_eq!(status.state, ComponentState::Down);
        assert_eq!(status.reason, "the event log does not take writes: disk full");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_wait_one_may_try_and_its_success_closes_it() {
        let (breaker, health) = breaker();
        open(&breaker);
        tokio::time::advance(WAIT_MIN).await;
        let trial = breaker.pass().ok().unwrap();
        assert!(breaker.pass().is_err(), "a second one tries beside the first");
        trial.succeeded();
        assert!(breaker.pass().is_ok());
        assert_eq!(health.get("capture").unwrap().state, ComponentState::Up);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_trial_doubles_the_wait_up_to_its_bound() {
        let (breaker, _health) = breaker();
        open(&breaker);
        let mut wait = WAIT_MIN;
        for _ in 0..8 {
            tokio::time::advance(wait).await;
            breaker.pass().ok().unwrap().failed("still full");
            wait = (wait * 2).min(WAIT_MAX);
            assert_eq!(breaker.pass().err().unwrap().retry_after, wait);
        }
        assert_eq!(wait, WAIT_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_is_dropped_leaves_its_place_to_the_next() {
        let (breaker, _health) = breaker();
        open(&breaker);
        tokio::time::advance(WAIT_MIN).await;
        drop(breaker.pass().ok().unwrap());
        assert!(breaker.pass().is_ok());
    }
}

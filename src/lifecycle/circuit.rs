//! A [`Breaker`] for many threads, that says in `/ready`, metrics and logs how it is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge};
use tokio::time::Instant;

use super::breaker::{Breaker, BreakerRules, BreakerState};
use super::health::Component;
use crate::telemetry::names;

/// Leave to try is asked with [`Circuit::pass`]; how it went is told to the [`Pass`].
pub struct Circuit {
    /// Of metrics and logs.
    dependency: &'static str,
    /// What is wrong while it is open, for people; the reason follows.
    complaint: &'static str,
    began: Instant,
    state: Mutex<State>,
    /// Nothing has failed since it was last closed: a success has nothing to change.
    calm: AtomicBool,
    component: Component,
    gauge: Gauge,
    opened: Counter,
}

struct State {
    breaker: Breaker,
    reason: String,
}

/// The dependency is not asked now; `reason` is what it said last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Open {
    pub reason: String,
    pub retry_after: Duration,
}

/// Leave to try once; say how it went. Dropped without a word (the client went away), it counts for nothing.
pub struct Pass<'c> {
    circuit: &'c Circuit,
    /// This is the one that tries while the breaker is half-open.
    trial: bool,
    told: bool,
}

impl Circuit {
    /// A closed one. `seed` is of its jitter.
    pub fn new(
        dependency: &'static str,
        complaint: &'static str,
        rules: BreakerRules,
        seed: u64,
        component: Component,
    ) -> Self {
        let gauge = names::BREAKER_STATE.gauge(&[("dependency", dependency)]);
        gauge.set(BreakerState::Closed.gauge());
        let breaker = Breaker::new(rules, seed, Duration::ZERO);
        Self {
            dependency,
            complaint,
            began: Instant::now(),
            state: Mutex::new(State { breaker, reason: String::new() }),
            // The first success greets the component.
            calm: AtomicBool::new(false),
            component,
            gauge,
            opened: names::BREAKER_OPENED.counter(&[("dependency", dependency)]),
        }
    }

    /// Is it open, without taking the trial's place?
    ///
    /// # Errors
    /// It is, and the wait is not over.
    pub fn check(&self) -> Result<(), Open> {
        if self.calm.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (now, state) = (self.now(), self.lock());
        match state.breaker.opens_at().filter(|at| *at > now) {
            Some(at) => Err(Open { reason: state.reason.clone(), retry_after: at - now }),
            None => Ok(()),
        }
    }

    /// Asks for leave.
    ///
    /// # Errors
    /// It is open, or somebody tries already.
    pub fn pass(&self) -> Result<Pass<'_>, Open> {
        if self.calm.load(Ordering::Relaxed) {
            return Ok(Pass { circuit: self, trial: false, told: false });
        }
        let (now, mut state) = (self.now(), self.lock());
        let closed = state.breaker.state() == BreakerState::Closed;
        if state.breaker.try_start(now) {
            if !closed {
                self.gauge.set(BreakerState::HalfOpen.gauge());
            }
            return Ok(Pass { circuit: self, trial: !closed, told: false });
        }
        let wait = state.breaker.opens_at().map_or(Duration::from_secs(1), |at| at.saturating_sub(now));
        Err(Open { reason: state.reason.clone(), retry_after: wait })
    }

    fn succeeded(&self) {
        if self.calm.load(Ordering::Relaxed) {
            return;
        }
        let now = self.now();
        let mut state = self.lock();
        if state.breaker.succeed(now) {
            self.gauge.set(BreakerState::Closed.gauge());
            tracing::info!(dependency = self.dependency, "breaker closed: it answers again");
        }
        state.reason.clear();
        self.component.up();
        self.calm.store(true, Ordering::Relaxed);
    }

    fn failed(&self, reason: &str) {
        let now = self.now();
        let mut state = self.lock();
        // Under the lock, as the success that sets it: nobody may find it calm and a failure counted.
        self.calm.store(false, Ordering::Relaxed);
        let was = state.breaker.state();
        let opened = state.breaker.fail(now);
        if was == BreakerState::Open || (was == BreakerState::Closed && !opened) {
            return;
        }
        reason.clone_into(&mut state.reason);
        self.gauge.set(BreakerState::Open.gauge());
        self.component.down(&format!("{}: {reason}", self.complaint));
        if was == BreakerState::Closed {
            self.opened.increment(1);
            tracing::warn!(dependency = self.dependency, error = reason, "breaker opened");
        }
    }

    fn forget_trial(&self) {
        let now = self.now();
        self.lock().breaker.forget_trial(now);
        self.gauge.set(BreakerState::Open.gauge());
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// It did its work, or refused for a reason of the request's own: it is well.
    pub fn succeeded(mut self) {
        self.told = true;
        self.circuit.succeeded();
    }

    /// It did not do its work.
    pub fn failed(mut self, reason: &str) {
        self.told = true;
        self.circuit.failed(reason);
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.trial && !self.told {
            self.circuit.forget_trial();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::SystemClock;
    use crate::lifecycle::{ComponentState, Health};

    const RULES: BreakerRules = BreakerRules {
        failures_to_open: 5,
        wait_min: Duration::from_millis(250),
        wait_max: Duration::from_secs(5),
    };

    fn circuit() -> (Circuit, Health) {
        let health = Health::new(Arc::new(SystemClock));
        let component = health.component("capture");
        (Circuit::new("eventlog", "the event log does not take writes", RULES, 1, component), health)
    }

    fn open(circuit: &Circuit) {
        for _ in 0..RULES.failures_to_open {
            circuit.pass().ok().unwrap().failed("disk full");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_says_why() {
        let (circuit, health) = circuit();
        for _ in 1..RULES.failures_to_open {
            circuit.pass().ok().unwrap().failed("disk full");
        }
        circuit.pass().ok().unwrap().succeeded();
        assert_eq!(health.get("capture").unwrap().state, ComponentState::Up);
        open(&circuit);
        let refused = circuit.pass().err().unwrap();
        assert_eq!(refused.reason, "disk full");
        assert!(refused.retry_after <= RULES.wait_min);
        assert_eq!(circuit.check(), Err(refused));
        let status = health.get("capture").unwrap();
        assert_eq!(status.state, ComponentState::Down);
        assert_eq!(status.reason, "the event log does not take writes: disk full");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_wait_one_may_try_and_its_success_closes_it() {
        let (circuit, health) = circuit();
        open(&circuit);
        tokio::time::advance(RULES.wait_min).await;
        let trial = circuit.pass().ok().unwrap();
        assert!(circuit.pass().is_err(), "a second one tries beside the first");
        trial.succeeded();
        assert!(circuit.pass().is_ok());
        assert_eq!(health.get("capture").unwrap().state, ComponentState::Up);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_trials_wait_longer_up_to_the_bound_with_the_last_reason() {
        let (circuit, health) = circuit();
        open(&circuit);
        for trial in 0..30 {
            let wait = circuit.pass().err().unwrap().retry_after;
            assert!(RULES.wait_min <= wait && wait <= RULES.wait_max, "{wait:?}");
            tokio::time::advance(wait).await;
            circuit.pass().ok().unwrap().failed(&format!("still full {trial}"));
        }
        assert!(health.get("capture").unwrap().reason.ends_with("still full 29"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_is_dropped_leaves_its_place_to_the_next() {
        let (circuit, _health) = circuit();
        open(&circuit);
        tokio::time::advance(RULES.wait_max).await;
        drop(circuit.pass().ok().unwrap());
        assert!(circuit.pass().is_ok());
    }
}

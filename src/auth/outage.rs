//! What this process knows of the metadata database being down: the breaker around it, which has no half-open of its own,
//! since whoever tries does so behind the requests. Metrics call it `meta`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge};

use crate::lifecycle::BreakerState;
use crate::telemetry::names;

/// Its name in metrics.
const DEPENDENCY: &str = "meta";
/// Between tries against a metadata database that did not answer.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// Remembers that the database did not answer, so that not every request waits to find out.
pub(super) struct Outage {
    began: OnceLock<Instant>,
    /// Milliseconds after `began` from which one request may try; 0: the database answers.
    next_try: AtomicU64,
    gauge: Gauge,
    opened: Counter,
}

impl Outage {
    pub(super) fn new() -> Self {
        let labels = [("dependency", DEPENDENCY)];
        let gauge = names::BREAKER_STATE.gauge(&labels);
        gauge.set(BreakerState::Closed.gauge());
        let opened = names::BREAKER_OPENED.counter(&labels);
        Self { began: OnceLock::new(), next_try: AtomicU64::new(0), gauge, opened }
    }

    pub(super) fn is_on(&self) -> bool {
        self.next_try.load(Ordering::Relaxed) != 0
    }

    /// May this caller ask the database? While it is down, one a pause may.
    pub(super) fn may_try(&self) -> bool {
        let next = self.next_try.load(Ordering::Relaxed);
        if next == 0 {
            return true;
        }
        let now = self.millis();
        now >= next
            && self
                .next_try
                .compare_exchange(next, now + pause(), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    pub(super) fn begin(&self, reason: &dyn std::fmt::Display) {
        if self.next_try.swap(self.millis() + pause(), Ordering::Relaxed) == 0 {
            tracing::warn!(dependency = DEPENDENCY, error = %reason, "breaker opened: keys are believed from memory");
            self.opened.increment(1);
            self.gauge.set(BreakerState::Open.gauge());
        }
    }

    pub(super) fn end(&self) {
        if self.is_on() && self.next_try.swap(0, Ordering::Relaxed) != 0 {
            tracing::info!(dependency = DEPENDENCY, "breaker closed: it answers again");
            self.gauge.set(BreakerState::Closed.gauge());
        }
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.began.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }
}

fn pause() -> u64 {
    u64::try_from(OUTAGE_PAUSE.as_millis()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_an_outage_nobody_tries_before_the_pause_is_over() {
        let outage = Outage::new();
        assert!(outage.may_try() && outage.may_try() && !outage.is_on());
        outage.begin(&"it is away");
        assert!(outage.is_on() && !outage.may_try());
        outage.next_try.store(1, Ordering::Relaxed);
        while outage.millis() < 1 {
            std::hint::spin_loop();
        }
        assert!(outage.may_try(), "one may try after the pause");
        assert!(!outage.may_try(), "and no second one");
        outage.end();
        assert!(outage.may_try() && outage.may_try());
    }
}

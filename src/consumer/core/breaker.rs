//! A circuit breaker with full-jitter backoff around one dependency.

use std::time::Duration;

/// Closed, half-open or open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BreakerState {
    /// It answers.
    Closed,
    /// One attempt is under way to see whether it answers again.
    HalfOpen,
    /// It does not answer: nobody tries before the wait is over.
    Open,
}

/// A small deterministic source of jitter (splitmix64).
#[derive(Clone, Debug)]
pub struct Jitter(u64);

impl Jitter {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Somewhere between `min` and the `attempt`-th doubling of it, at most `max`.
    pub fn wait(&mut self, min: Duration, max: Duration, attempt: u32) -> Duration {
        let ceiling = min.saturating_mul(1u32 << attempt.min(16)).min(max).max(min);
        let span = u64::try_from((ceiling - min).as_micros()).unwrap_or(u64::MAX);
        min + Duration::from_micros(if span == 0 { 0 } else { self.next() % (span + 1) })
    }
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Breaker {
    state: BreakerState,
    failures: u32,
    until: Duration,
    /// When it last answered, well or badly.
    heard: Duration,
}

impl Breaker {
    pub fn new(now: Duration) -> Self {
        Self { state: BreakerState::Closed, failures: 0, until: now, heard: now }
    }

    pub fn state(&self) -> BreakerState {
        self.state
    }

    /// May an attempt start now? An attempt after a wait is the half-open one, and the only one.
    pub fn try_start(&mut self, now: Duration) -> bool {
        match self.state {
            BreakerState::Closed => true,
            BreakerState::Open if now >= self.until => {
                self.state = BreakerState::HalfOpen;
                true
            }
            BreakerState::Open | BreakerState::HalfOpen => false,
        }
    }

    /// It answered. True: it had not before.
    pub fn succeed(&mut self, now: Duration) -> bool {
        self.heard = now;
        self.failures = 0;
        std::mem::replace(&mut self.state, BreakerState::Closed) != BreakerState::Closed
    }

    /// It did not answer. True: it had, before.
    pub fn fail(&mut self, now: Duration, wait: Duration) -> bool {
        self.heard = now;
        self.failures = self.failures.saturating_add(1);
        self.until = self.until.max(now + wait);
        std::mem::replace(&mut self.state, BreakerState::Open) == BreakerState::Closed
    }

    /// Failures since it last answered well.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When it last answered.
    pub fn heard(&self) -> Duration {
        self.heard
    }

    /// When the next attempt may start, if it has to wait.
    pub fn opens_at(&self) -> Option<Duration> {
        (self.state == BreakerState::Open).then_some(self.until)
    }
}

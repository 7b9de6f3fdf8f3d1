//! A circuit breaker around one dependency, pure: time comes in as a duration since any fixed moment.
//!
//! Closed, attempts pass. After [`BreakerRules::failures_to_open`] failures in a row it opens: nobody tries before a
//! wait with full jitter is over, then one attempt does, the trial. Its success closes the breaker, its failure opens
//! it again for up to twice as long. [`super::Circuit`] is the same for many threads.

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

impl BreakerState {
    /// The value of the metric `breaker_state`.
    pub fn gauge(self) -> f64 {
        match self {
            Self::Closed => 0.0,
            Self::HalfOpen => 1.0,
            Self::Open => 2.0,
        }
    }
}

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BreakerRules {
    /// Failures in a row; at least one.
    pub failures_to_open: u32,
    /// Shortest and longest wait before the next trial.
    pub wait_min: Duration,
    pub wait_max: Duration,
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
    rules: BreakerRules,
    jitter: Jitter,
    state: BreakerState,
    /// In a row, while closed.
    failures: u32,
    /// Trials that failed since it opened.
    trials: u32,
    until: Duration,
    /// When it last answered, well or badly.
    heard: Duration,
}

impl Breaker {
    pub fn new(rules: BreakerRules, seed: u64, now: Duration) -> Self {
        Self {
            rules,
            jitter: Jitter::new(seed),
            state: BreakerState::Closed,
            failures: 0,
            trials: 0,
            until: now,
            heard: now,
        }
    }

    pub fn state(&self) -> BreakerState {
        self.state
    }

    /// May an attempt start now? An attempt after a wait is the half-open one, the trial, and the only one.
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

    /// It answered. True: the breaker was not closed before.
    pub fn succeed(&mut self, now: Duration) -> bool {
        self.heard = now;
        self.failures = 0;
        self.trials = 0;
        std::mem::replace(&mut self.state, BreakerState::Closed) != BreakerState::Closed
    }

    /// It did not answer. True: the breaker opened by it, from closed or after a trial. What began before it opened
    /// and fails after tells nothing new.
    pub fn fail(&mut self, now: Duration) -> bool {
        self.heard = now;
        match self.state {
            BreakerState::Closed => {
                self.failures = self.failures.saturating_add(1);
                if self.failures < self.rules.failures_to_open {
                    return false;
                }
            }
            BreakerState::HalfOpen => self.trials = self.trials.saturating_add(1),
            BreakerState::Open => return false,
        }
        self.state = BreakerState::Open;
        self.until = now + self.jitter.wait(self.rules.wait_min, self.rules.wait_max, self.trials);
        true
    }

    /// The trial ended without a word (whoever tried went away): the next one may try at once.
    pub fn forget_trial(&mut self, now: Duration) {
        if self.state == BreakerState::HalfOpen {
            self.state = BreakerState::Open;
            self.until = now;
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: BreakerRules = BreakerRules {
        failures_to_open: 3,
        wait_min: Duration::from_millis(100),
        wait_max: Duration::from_secs(5),
    };

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn it_opens_after_so_many_failures_in_a_row_and_one_trial_closes_it() {
        let mut breaker = Breaker::new(RULES, 1, at(0));
        assert!(!breaker.fail(at(1)) && !breaker.fail(at(2)));
        breaker.succeed(at(3));
        assert!(!breaker.fail(at(4)) && !breaker.fail(at(5)) && breaker.fail(at(6)), "in a row");
        assert!(!breaker.try_start(at(7)));
        let opens_at = breaker.opens_at().unwrap();
        assert!(breaker.try_start(opens_at), "the trial");
        assert!(!breaker.try_start(opens_at), "a second one beside it");
        assert!(breaker.succeed(opens_at) && breaker.try_start(opens_at));
    }

    #[test]
    fn what_fails_after_it_opened_prolongs_nothing_and_a_lost_trial_leaves_its_place() {
        let mut breaker = Breaker::new(RULES, 1, at(0));
        for _ in 0..3 {
            breaker.fail(at(0));
        }
        let opens_at = breaker.opens_at();
        for late in 0..50 {
            assert!(!breaker.fail(at(late)));
        }
        assert_eq!(breaker.opens_at(), opens_at);
        assert!(breaker.try_start(at(10_000)));
        breaker.forget_trial(at(10_001));
        assert!(breaker.try_start(at(10_001)));
    }

    proptest! {
        #[test]
        fn waits_stay_within_their_bounds_and_may_grow_to_the_longest(seed: u64, trials in 1_u32..40) {
            let mut breaker = Breaker::new(BreakerRules { failures_to_open: 1, ..RULES }, seed, at(0));
            let mut now = at(0);
            for trial in 0..trials {
                prop_assert!(breaker.fail(now));
                let wait = breaker.opens_at().unwrap() - now;
                let longest = RULES.wait_min.saturating_mul(1 << trial.min(16)).min(RULES.wait_max);
                prop_assert!(RULES.wait_min <= wait && wait <= longest, "{wait:?} after {trial} trials");
                now += wait;
                prop_assert!(breaker.try_start(now));
            }
        }
    }
}

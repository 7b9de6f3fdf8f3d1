//! How often: tries to log in, by account and by address; requests, by key. Token buckets (GCRA) under the injected
//! clock.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::AuthError;
use crate::config;
use crate::event::Clock;

/// The injected clock in governor's words.
#[derive(Clone)]
struct Ticks(Arc<dyn Clock>);

impl governor::clock::Clock for Ticks {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::from_millis(self.0.now().as_millis().max(0).unsigned_abs())
    }
}

/// Says yes or no, and nothing more.
type Plain = NoOpMiddleware<Duration>;

/// Requests a second of one key.
pub(super) struct KeyLimit(RateLimiter<NotKeyed, InMemoryState, Ticks, Plain>);

impl KeyLimit {
    /// `None`: as many as it likes.
    pub(super) fn new(per_second: u32, clock: &Arc<dyn Clock>) -> Option<Self> {
        let quota = Quota::per_second(NonZeroU32::new(per_second)?);
        Some(Self(RateLimiter::direct_with_clock(quota, Ticks(clock.clone()))))
    }

    /// # Errors
    /// How long until it may make the next one.
    pub(super) fn check(&self) -> Result<(), Duration> {
        self.0.check().map_err(|until| until.wait_time_from(self.0.clock().now()))
    }
}

/// Tries of many, at most so many remembered.
struct Tries<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, DashMapStateStore<K>, Ticks, Plain>,
    entries_max: usize,
}

impl<K: Hash + Eq + Clone> Tries<K> {
    fn new(max: u32, window: Duration, entries_max: usize, clock: &Arc<dyn Clock>) -> Self {
        let max = NonZeroU32::new(max).unwrap_or(NonZeroU32::MIN);
        // As many at once, and another after each such part of the window.
        let quota = Quota::with_period(window / max.get()).unwrap_or(Quota::per_second(max));
        let quota = quota.allow_burst(max);
        Self { limiter: RateLimiter::dashmap_with_clock(quota, Ticks(clock.clone())), entries_max }
    }

    fn check(&self, who: &K) -> Result<(), AuthError> {
        if self.limiter.len() >= self.entries_max {
            self.limiter.retain_recent();
            if self.limiter.len() >= self.entries_max {
                return Err(AuthError::TooMany { wait: Duration::from_secs(60) });
            }
        }
        self.limiter
            .check_key(who)
            .map_err(|until| AuthError::TooMany { wait: until.wait_time_from(self.limiter.clock().now()) })
    }
}

/// Tries to log in.
pub(super) struct LoginLimits {
    accounts: Tries<String>,
    addresses: Tries<u64>,
}

impl LoginLimits {
    pub(super) fn new(config: &config::Auth, clock: &Arc<dyn Clock>) -> Self {
        let (window, entries) = (config.login_window, config.login_entries_max);
        Self {
            accounts: Tries::new(config.login_attempts_max, window, entries, clock),
            addresses: Tries::new(config.login_address_attempts_max, window, entries, clock),
        }
    }

    /// Counts a try from this address.
    ///
    /// # Errors
    /// There were too many.
    pub(super) fn address(&self, address: Option<IpAddr>) -> Result<(), AuthError> {
        // Without an address (a test's request) there is nobody to hold back.
        address.map_or(Ok(()), |address| self.addresses.check(&network(address)))
    }

    /// Counts a try for this account, whether it exists or not.
    ///
    /// # Errors
    /// There were too many.
    pub(super) fn account(&self, email: &str) -> Result<(), AuthError> {
        self.accounts.check(&email.to_owned())
    }
}

/// Who has one IPv6 address has its whole /64.
fn network(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        // No IPv6 network in use begins with 32 zero bits, as the numbers of IPv4 addresses do.
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{ManualClock, Timestamp};

    fn limits() -> (LoginLimits, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        let mut config = config::Config::from_overrides(&[]).unwrap().auth;
        (config.login_attempts_max, config.login_address_attempts_max) = (3, 5);
        config.login_entries_max = 4;
        (LoginLimits::new(&config, &(clock.clone() as Arc<dyn Clock>)), clock)
    }

    #[test]
    fn an_account_is_held_back_until_the_window_has_passed_and_others_are_not() {
        let (limits, clock) = limits();
        for _ in 0..3 {
            limits.account("ann@example.com").unwrap();
        }
        let AuthError::TooMany { wait } = limits.account("ann@example.com").unwrap_err() else { panic!() };
        assert!(wait > Duration::from_secs(60) && wait <= Duration::from_secs(300), "{wait:?}");
        limits.account("bob@example.com").unwrap();
        clock.advance(wait);
        limits.account("ann@example.com").unwrap();
        limits.account("ann@example.com").unwrap_err();
    }

    #[test]
    fn the_addresses_of_one_network_count_together() {
        let (limits, _) = limits();
        for n in 0..5 {
            limits.address(Some(format!("2001:db8::{n}").parse().unwrap())).unwrap();
        }
        limits.address(Some("2001:db8::9".parse().unwrap())).unwrap_err();
        limits.address(Some("2001:db8:0:1::9".parse().unwrap())).unwrap();
        limits.address(Some("10.0.0.1".parse().unwrap())).unwrap();
        limits.address(None).unwrap();
    }

    #[test]
    fn no_more_accounts_are_remembered_than_allowed_and_old_ones_make_room() {
        let (limits, clock) = limits();
        for n in 0..4 {
            limits.account(&format!("{n}@example.com")).unwrap();
        }
        limits.account("5@example.com").unwrap_err();
        clock.advance(Duration::from_secs(3600));
        limits.account("5@example.com").unwrap();
        assert_eq!(limits.accounts.limiter.len(), 1);
    }

    #[test]
    fn a_key_makes_as_many_requests_a_second_as_it_may() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        let limit = KeyLimit::new(2, &(clock.clone() as Arc<dyn Clock>)).unwrap();
        limit.check().unwrap();
        limit.check().unwrap();
        let wait = limit.check().unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(500), "{wait:?}");
        clock.advance(Duration::from_millis(500));
        limit.check().unwrap();
        assert!(KeyLimit::new(0, &(clock as Arc<dyn Clock>)).is_none());
    }
}

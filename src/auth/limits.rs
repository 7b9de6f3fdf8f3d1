//! How often: tries to log in, by account and by address; requests, by key. Token buckets (GCRA) under the injected
//! clock.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use sha2::{Digest, Sha256};

use super::AuthError;
use crate::config;
use crate::event::{Clock, IdSource, Timestamp};

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

/// Cells that each try is counted in, and what one try adds to a cell.
const ROWS: usize = 4;
const TRY: u32 = 16;

/// Tries of many, in a fixed room: a count-min sketch whose cells are token buckets.
///
/// A cell holds when it will be empty again, in sixteenths of the time that one try takes to be forgotten. Whoever tries is
/// counted in four cells, which a secret of this process chooses, and is as far as the emptiest of them; only cells that
/// are emptier than what comes out are raised. So a try is never forgotten before its time, whatever others do: nobody
/// washes out what limits them. And a stranger is refused only if all four of their cells are full, which takes about
/// `entries_max` tries in the time that one is forgotten in, for as long as it shall last, from addresses that are not
/// limited themselves. Exact entries would have to be given up when there are too many: those of attackers (who would be let
/// go), or everybody else's turn (who would be locked out).
struct Tries {
    max: u32,
    /// In which one try is forgotten.
    period: Duration,
    secret: [u8; 32],
    begun: Timestamp,
    clock: Arc<dyn Clock>,
    /// [`ROWS`] rows of as many cells each. Pages that were never written take no memory.
    cells: Mutex<Vec<u32>>,
}

impl Tries {
    fn new(
        max: u32,
        window: Duration,
        entries_max: usize,
        clock: &Arc<dyn Clock>,
        ids: &dyn IdSource,
    ) -> Self {
        let max = max.max(1);
        let mut secret = [0; 32];
        ids.fill(&mut secret);
        Self {
            max,
            period: (window / max).max(Duration::from_millis(1)),
            secret,
            begun: clock.now(),
            clock: clock.clone(),
            cells: Mutex::new(vec![0; entries_max.max(1).saturating_mul(ROWS)]),
        }
    }

    /// Counts a try; one that is refused does not count.
    fn check(&self, who: &[u8]) -> Result<(), AuthError> {
        let now = self.now();
        let full = now.saturating_add(self.max.saturating_mul(TRY));
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let places = self.places(who, cells.len() / ROWS);
        let mut filled = full;
        for place in places {
            if let Some(cell) = cells.get_mut(place) {
                // Fuller than full was before the clock went back.
                *cell = (*cell).min(full);
                filled = filled.min(*cell);
            }
        }
        let after = filled.max(now).saturating_add(TRY);
        if after > full {
            return Err(AuthError::TooMany { wait: self.period * (after - full) / TRY });
        }
        for place in places {
            if let Some(cell) = cells.get_mut(place) {
                *cell = (*cell).max(after);
            }
        }
        Ok(())
    }

    /// Since the process began, in sixteenths of the time that one try is forgotten in.
    fn now(&self) -> u32 {
        let gone = self.clock.now().since(self.begun).as_millis().saturating_mul(u128::from(TRY));
        u32::try_from(gone / self.period.as_millis().max(1)).unwrap_or(u32::MAX)
    }

    /// The cells of somebody, one a row.
    fn places(&self, who: &[u8], row: usize) -> [usize; ROWS] {
        let digest: [u8; 32] = Sha256::new().chain_update(self.secret).chain_update(who).finalize().into();
        let (parts, _) = digest.as_chunks::<8>();
        std::array::from_fn(|at| {
            let part = parts.get(at).copied().map_or(0, u64::from_le_bytes);
            // Below the length of a row, so it fits.
            let place = usize::try_from(part % (row.max(1) as u64)).unwrap_or(0);
            at * row + place
        })
    }
}

/// Tries to log in.
pub(super) struct LoginLimits {
    accounts: Tries,
    addresses: Tries,
}

impl LoginLimits {
    pub(super) fn new(config: &config::Auth, clock: &Arc<dyn Clock>, ids: &dyn IdSource) -> Self {
        let tries = |max| Tries::new(max, config.login_window, config.login_entries_max, clock, ids);
        Self {
            accounts: tries(config.login_attempts_max),
            addresses: tries(config.login_address_attempts_max),
        }
    }

    /// Counts a try from this address.
    ///
    /// # Errors
    /// There were too many.
    pub(super) fn address(&self, address: Option<IpAddr>) -> Result<(), AuthError> {
        // Without an address (a test's request) there is nobody to hold back.
        address.map_or(Ok(()), |address| self.addresses.check(&network(address).to_le_bytes()))
    }

    /// Counts a try for this account, whether it exists or not.
    ///
    /// # Errors
    /// There were too many.
    pub(super) fn account(&self, email: &str) -> Result<(), AuthError> {
        self.accounts.check(email.as_bytes())
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
    use crate::event::{ManualClock, RandomIds};

    fn limits() -> (LoginLimits, Arc<ManualClock>) {
        limits_of(3, 5, 1000)
    }

    fn limits_of(account: u32, address: u32, entries: usize) -> (LoginLimits, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        let mut config = config::Config::from_overrides(&[]).unwrap().auth;
        (config.login_attempts_max, config.login_address_attempts_max) = (account, address);
        config.login_entries_max = entries;
        (LoginLimits::new(&config, &(clock.clone() as Arc<dyn Clock>), &RandomIds), clock)
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

    /// Half as many tries as fill the room, for two windows, each for another account and from another address.
    #[test]
    fn a_flood_of_made_up_accounts_and_addresses_locks_nobody_out_and_lets_nobody_go() {
        let (limits, clock) = limits_of(10, 100, 10_000);
        let from = |n: u32| Some(IpAddr::V4((0x0a00_0000 + n).into()));
        let (mut made_up, mut guesses, mut seconds) = (0, 0, 0);
        let mut refused = Vec::new();
        while seconds < 1800 {
            for _ in 0..50 {
                made_up += 1;
                let counted =
                    limits.address(from(made_up)).and_then(|()| limits.account(&format!("{made_up}@x")));
                refused.extend(counted.is_err().then_some(made_up));
            }
            // Somebody guesses all the while, and people log in that never did before.
            guesses += u32::from(limits.account("ann@example.com").is_ok());
            let person = format!("person {seconds}@example.com");
            let logged_in =
                limits.address(from(0x00ff_0000 + seconds)).and_then(|()| limits.account(&person));
            assert!(logged_in.is_ok(), "{person} is locked out after {made_up} tries of others");
            clock.advance(Duration::from_secs(1));
            seconds += 1;
        }
        // Ten at once and one each 90 seconds, as without the flood.
        assert!((25..=30).contains(&guesses), "{guesses}");
        assert!(refused.is_empty(), "{} of {made_up}", refused.len());
    }

    #[test]
    fn a_flood_that_fills_the_room_refuses_and_forgets_nothing_and_is_over_when_it_ends() {
        let (limits, clock) = limits_of(3, 5, 100);
        while limits.account("ann@example.com").is_ok() {}
        for n in 0..10_000 {
            let _ = limits.account(&format!("{n}@x"));
            assert!(limits.account("ann@example.com").is_err(), "washed out after {n}");
        }
        assert!(limits.account("bob@example.com").is_err(), "there is no more room to tell him from others");
        clock.advance(Duration::from_secs(300));
        limits.account("bob@example.com").unwrap();
        assert_eq!(limits.accounts.cells.lock().unwrap().len(), 400, "and it takes what it took");
    }

    #[test]
    fn a_clock_that_goes_back_holds_nobody_back_for_longer_than_a_window() {
        let (limits, clock) = limits();
        clock.advance(Duration::from_secs(100_000));
        while limits.account("ann@example.com").is_ok() {}
        clock.set(Timestamp::from_millis(1_700_000_000_000));
        let AuthError::TooMany { wait } = limits.account("ann@example.com").unwrap_err() else { panic!() };
        assert!(wait <= Duration::from_secs(300), "{wait:?}");
        clock.advance(Duration::from_secs(900));
        limits.account("ann@example.com").unwrap();
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

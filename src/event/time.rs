//! Time: UTC milliseconds since 1970, and the clock they come from.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A moment in UTC, in whole milliseconds since 1970. Written and read as RFC 3339.
///
/// Finer fractions are cut off: the store keeps `DateTime64(3)`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 1970-01-01T00:00:00Z, the earliest time capture accepts.
    pub const EPOCH: Self = Self(0);
    /// 2262-04-11T23:47:16.854Z: ClickHouse's `DateTime64` cannot count further in nanoseconds.
    pub const MAX: Self = Self(9_223_372_036_854);

    /// Milliseconds since 1970.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Reads RFC 3339 (`2026-01-31T12:00:00.123+01:00`, also with a space or without seconds' fraction).
    ///
    /// # Errors
    /// The text is not RFC 3339; the message says what was expected.
    pub fn parse(text: &str) -> Result<Self, InvalidTimestamp> {
        if let Some(at) = parse_plain(text.as_bytes()) {
            return Ok(at);
        }
        DateTime::parse_from_rfc3339(text).map(|t| Self(t.timestamp_millis())).map_err(|_| InvalidTimestamp)
    }

    /// The moment `by` later; stops at the far end of time instead of wrapping.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The moment `by` earlier; stops at the far end of time instead of wrapping.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is not (clocks jump back).
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// As chrono's UTC time; the far ends of time are clamped to what chrono can hold.
    pub fn to_utc(self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.0).unwrap_or(if self.0 < 0 {
            DateTime::<Utc>::MIN_UTC
        } else {
            DateTime::<Utc>::MAX_UTC
        })
    }
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar (years begin in March, so that the leap day is
/// their last).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year, month and day of a number of days from 1970-01-01.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The spelling that nearly every client uses: `2026-01-31T12:00:00[.fraction](Z|±HH:MM)`. `None`: ask chrono.
fn parse_plain(text: &[u8]) -> Option<Timestamp> {
    fn digits(text: &[u8]) -> Option<i64> {
        text.iter()
            .try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0')))
    }
    let (head, rest) = text.split_at_checked(19)?;
    if [head[4], head[7], head[10], head[13], head[16]] != *b"--T::" {
        return None;
    }
    let (year, month, day) = (digits(&head[..4])?, digits(&head[5..7])?, digits(&head[8..10])?);
    let (hour, minute, second) = (digits(&head[11..13])?, digits(&head[14..16])?, digits(&head[17..])?);
    // Days after the 28th (whose month must be looked at) only pass when they come back unchanged.
    let days = days_from_civil(year, month, day);
    let is_date =
        (1..=12).contains(&month) && day >= 1 && (day <= 28 || civil_from_days(days) == (year, month, day));
    if !is_date || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (millis, zone) = match rest {
        [b'.', rest @ ..] => {
            let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let (fraction, zone) = rest.split_at(length);
            let kept = &fraction[..length.min(3)];
            (digits(kept).filter(|_| length > 0)? * [1000, 100, 10, 1][kept.len()], zone)
        }
        zone => (0, zone),
    };
    let offset_minutes = match zone {
        [b'Z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (digits(&zone[1..3])?, digits(&zone[4..6])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let seconds = days * 86_400 + hour * 3600 + (minute - offset_minutes) * 60 + second;
    Some(Timestamp(seconds * 1000 + millis))
}

impl Timestamp {
    /// RFC 3339 in UTC with milliseconds, for the years 0 to 9999; the usual way is [`fmt::Display`].
    fn to_text(self) -> Option<[u8; 24]> {
        let (days, millis_of_day) = (self.0.div_euclid(86_400_000), self.0.rem_euclid(86_400_000));
        if !(-719_528..=2_932_896).contains(&days) {
            return None;
        }
        let (year, month, day) = civil_from_days(days);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let mut put = |at: usize, width: usize, mut number: i64| {
            for place in text[at..at + width].iter_mut().rev() {
                *place = b'0' + u8::try_from(number % 10).unwrap_or(0);
                number /= 10;
            }
        };
        put(0, 4, year);
        put(5, 2, month);
        put(8, 2, day);
        put(11, 2, millis_of_day / 3_600_000);
        put(14, 2, millis_of_day / 60_000 % 60);
        put(17, 2, millis_of_day / 1000 % 60);
        put(20, 3, millis_of_day % 1000);
        Some(text)
    }

    /// Appends what [`fmt::Display`] writes.
    pub fn write_to(self, out: &mut Vec<u8>) {
        match self.to_text() {
            Some(text) => out.extend_from_slice(&text),
            None => out.extend_from_slice(self.to_string().as_bytes()),
        }
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(at: DateTime<Utc>) -> Self {
        Self(at.timestamp_millis())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_text().as_ref().and_then(|text| std::str::from_utf8(text).ok()) {
            Some(text) => f.write_str(text),
            None => f.write_str(&self.to_utc().to_rfc3339_opts(SecondsFormat::Millis, true)),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Timestamp;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time such as 2026-01-31T12:00:00Z")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
                Timestamp::parse(text).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// The text is not an RFC 3339 time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time such as 2026-01-31T12:00:00Z")]
pub struct InvalidTimestamp;

/// Where the time of day comes from; injected so that tests can move it (also backwards).
pub trait Clock: Send + Sync + 'static {
    /// The present moment, UTC.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn now(&self) -> Timestamp {
        Timestamp::from(Utc::now())
    }
}

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `at`.
    pub fn at(at: Timestamp) -> Self {
        Self(AtomicI64::new(at.as_millis()))
    }

    /// Shows `at` from now on, be it earlier or later.
    pub fn set(&self, at: Timestamp) {
        self.0.store(at.as_millis(), Ordering::SeqCst);
    }

    /// Moves forward.
    pub fn advance(&self, by: Duration) {
        self.set(self.now().plus(by));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn as_chrono_reads(text: &str) -> Result<Timestamp, InvalidTimestamp> {
        DateTime::parse_from_rfc3339(text)
            .map(|t| Timestamp(t.timestamp_millis()))
            .map_err(|_| InvalidTimestamp)
    }

    proptest! {
        #[test]
        fn times_are_read_and_written_as_chrono_does(millis in -62_167_219_200_000_i64..253_402_300_800_000) {
            let at = Timestamp::from_millis(millis);
            let expected = at.to_utc().to_rfc3339_opts(SecondsFormat::Millis, true);
            prop_assert_eq!(at.to_string(), expected.clone());
            prop_assert_eq!(Timestamp::parse(&expected), Ok(at));
            let mut written = Vec::new();
            at.write_to(&mut written);
            prop_assert_eq!(written, expected.into_bytes());
        }

        #[test]
        fn every_text_is_read_or_refused_as_chrono_does(
            text in r"[0-9]{4}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{0,10})?(Z|z|[+-][0-2][0-9]:?[0-6][0-9]|)"
        ) {
            prop_assert_eq!(Timestamp::parse(&text), as_chrono_reads(&text));
        }
    }

    #[test]
    fn the_ends_of_the_fast_path_are_written_as_chrono_does() {
        for millis in [
            i64::MIN,
            -62_167_219_200_001,
            -62_167_219_200_000,
            -1,
            0,
            253_402_300_799_999,
            253_402_300_800_000,
        ] {
            let at = Timestamp::from_millis(millis);
            assert_eq!(at.to_string(), at.to_utc().to_rfc3339_opts(SecondsFormat::Millis, true));
        }
    }

    #[test]
    fn a_time_with_an_offset_is_kept_in_utc_milliseconds() {
        let at = Timestamp::parse("2026-01-31T12:00:00.123456+01:00").unwrap();
        assert_eq!(at.to_string(), "2026-01-31T11:00:00.123Z");
    }

    #[test]
    fn a_time_without_a_zone_is_refused() {
        assert_eq!(Timestamp::parse("2026-01-31T12:00:00"), Err(InvalidTimestamp));
    }
}

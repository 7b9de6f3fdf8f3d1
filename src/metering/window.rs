//! Windows of usage: from a minute to a month, in a time zone, months also from a billing anchor.
//!
//! Boundaries are computed here and nowhere else; the store only counts between them. Windows follow each other
//! without a gap or an overlap, whatever the zone's clocks do:
//!
//! - up to an hour they go by the clock's unit: an hour that the clocks repeat is two windows;
//! - 3, 6 and 12 hours go by the clock from midnight: one in which the clocks change is longer or shorter;
//! - days, weeks (from Monday) and months go by the calendar;
//! - a month from an anchor begins on the anchor's day and time of day; in a month that lacks the day, on its last.

use chrono::{DateTime, Datelike, Days, LocalResult, Months, NaiveDate, NaiveDateTime, NaiveTime, Offset};
use chrono::{TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::event::Timestamp;

/// How long a window is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum WindowSize {
    #[serde(rename = "MINUTE")]
    Minute,
    #[serde(rename = "15MIN")]
    QuarterHour,
    #[serde(rename = "30MIN")]
    HalfHour,
    #[serde(rename = "HOUR")]
    Hour,
    #[serde(rename = "3HOUR")]
    ThreeHours,
    #[serde(rename = "6HOUR")]
    SixHours,
    #[serde(rename = "12HOUR")]
    TwelveHours,
    #[serde(rename = "DAY")]
    Day,
    #[serde(rename = "WEEK")]
    Week,
    #[serde(rename = "MONTH")]
    Month,
}

impl WindowSize {
    /// Every size, with the name it has in requests.
    pub const ALL: [(&'static str, Self); 10] = [
        ("MINUTE", Self::Minute),
        ("15MIN", Self::QuarterHour),
        ("30MIN", Self::HalfHour),
        ("HOUR", Self::Hour),
        ("3HOUR", Self::ThreeHours),
        ("6HOUR", Self::SixHours),
        ("12HOUR", Self::TwelveHours),
        ("DAY", Self::Day),
        ("WEEK", Self::Week),
        ("MONTH", Self::Month),
    ];

    /// The size with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, size)| *size)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, size)| *size == self).map_or("", |(name, _)| *name)
    }
}

/// Where months begin: a day from 1 to 31 and a time of day.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Anchor {
    pub day: u32,
    pub time: NaiveTime,
}

impl Anchor {
    /// The anchor that a moment is in a zone.
    pub fn of(at: Timestamp, zone: Tz) -> Self {
        let local = at.to_utc().with_timezone(&zone).naive_local();
        Self { day: local.day(), time: local.time() }
    }

    /// Midnight of a day.
    pub fn day(day: u32) -> Option<Self> {
        (1..=31).contains(&day).then_some(Self { day, time: NaiveTime::MIN })
    }
}

/// Cuts time into windows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Windows {
    pub size: WindowSize,
    pub zone: Tz,
    /// Only months heed it; without one they begin on the first.
    pub anchor: Option<Anchor>,
}

const MILLIS: i64 = 1000;

/// More windows than the bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyWindows;

impl Windows {
    /// The first moment of the window that holds `at`.
    pub fn floor(&self, at: Timestamp) -> Timestamp {
        let mut start = match self.clock_seconds() {
            Some(seconds) => Timestamp::from_millis(at.as_millis() - self.spent(at, seconds)),
            None => self.first_moment(self.local_start(self.local(at))),
        };
        // The clocks were put back over the start of a window: what they repeat belongs to the later one.
        loop {
            let next = self.after(start);
            if next > at || next <= start {
                return start;
            }
            start = next;
        }
    }

    /// The first moment of the window after the one that holds `at`.
    pub fn next(&self, at: Timestamp) -> Timestamp {
        self.after(self.floor(at))
    }

    /// The windows from the one that holds `from` to the one that holds `last`: the first moment of each, then the
    /// end of the last.
    ///
    /// # Errors
    /// There are more than `max`.
    pub fn bounds(
        &self,
        from: Timestamp,
        last: Timestamp,
        max: usize,
    ) -> Result<Vec<Timestamp>, TooManyWindows> {
        let mut start = self.floor(from);
        let mut bounds = vec![start];
        while start <= last {
            if bounds.len() > max {
                return Err(TooManyWindows);
            }
            start = self.after(start);
            bounds.push(start);
        }
        Ok(bounds)
    }

    /// The start of the window after the one that starts at `start`.
    fn after(&self, start: Timestamp) -> Timestamp {
        if let Some(seconds) = self.clock_seconds() {
            return Timestamp::from_millis(start.as_millis() - self.spent(start, seconds) + seconds * MILLIS);
        }
        let mut local = self.local_start(self.local(start));
        for _ in 0..64 {
            local = self.local_after(local);
            let next = self.first_moment(local);
            // What a zone left out (a date, an hour) begins and ends at the same moment.
            if next > start {
                return next;
            }
        }
        Timestamp::MAX
    }

    /// Seconds of the unit, for windows that go by the clock's unit.
    fn clock_seconds(&self) -> Option<i64> {
        match self.size {
            WindowSize::Minute => Some(60),
            WindowSize::QuarterHour => Some(900),
            WindowSize::HalfHour => Some(1800),
            WindowSize::Hour => Some(3600),
            _ => None,
        }
    }

    /// Milliseconds into the clock's unit that the zone's clocks show at `at`.
    fn spent(&self, at: Timestamp, seconds: i64) -> i64 {
        let offset = self.zone.offset_from_utc_datetime(&at.to_utc().naive_utc()).fix().local_minus_utc();
        (at.as_millis() + i64::from(offset) * MILLIS).rem_euclid(seconds * MILLIS)
    }

    /// Where the window of a local time begins, by the calendar.
    fn local_start(&self, local: NaiveDateTime) -> NaiveDateTime {
        let date = local.date();
        let midnight = |date: NaiveDate| date.and_time(NaiveTime::MIN);
        match self.size {
            WindowSize::ThreeHours | WindowSize::SixHours | WindowSize::TwelveHours => {
                let hours = self.hours();
                midnight(date) + TimeDelta::hours(i64::from(local.hour()) / hours * hours)
            }
            WindowSize::Week => {
                let into = Days::new(date.weekday().num_days_from_monday().into());
                midnight(date.checked_sub_days(into).unwrap_or(date))
            }
            WindowSize::Month => {
                let this = self.month_start(date);
                if this <= local {
                    this
                } else {
                    self.month_start(first(date).checked_sub_months(Months::new(1)).unwrap_or(date))
                }
            }
            _ => midnight(date),
        }
    }

    /// Where the window after the one that begins at `local` begins, by the calendar.
    fn local_after(&self, local: NaiveDateTime) -> NaiveDateTime {
        let next = match self.size {
            WindowSize::ThreeHours | WindowSize::SixHours | WindowSize::TwelveHours => {
                local.checked_add_signed(TimeDelta::hours(self.hours()))
            }
            WindowSize::Week => local.checked_add_days(Days::new(7)),
            WindowSize::Month => {
                first(local.date()).checked_add_months(Months::new(1)).map(|date| self.month_start(date))
            }
            _ => local.checked_add_days(Days::new(1)),
        };
        next.unwrap_or(NaiveDateTime::MAX)
    }

    fn hours(&self) -> i64 {
        match self.size {
            WindowSize::ThreeHours => 3,
            WindowSize::SixHours => 6,
            _ => 12,
        }
    }

    /// Where the window that begins in the month of `date` begins.
    fn month_start(&self, date: NaiveDate) -> NaiveDateTime {
        let Some(anchor) = self.anchor else { return first(date).and_time(NaiveTime::MIN) };
        let month = first(date);
        let day = (1..=anchor.day).rev().find_map(|day| month.with_day(day)).unwrap_or(month);
        day.and_time(anchor.time)
    }

    fn local(&self, at: Timestamp) -> NaiveDateTime {
        self.zoned(at).naive_local()
    }

    /// `at` as the zone writes it, with its offset.
    pub fn zoned(&self, at: Timestamp) -> DateTime<Tz> {
        at.to_utc().with_timezone(&self.zone)
    }

    /// The first moment at which the zone's clocks show `local` or, where they skip it, something later.
    fn first_moment(&self, local: NaiveDateTime) -> Timestamp {
        match self.zone.from_local_datetime(&local) {
            LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => Timestamp::from(at.to_utc()),
            LocalResult::None => self.end_of_gap(local),
        }
    }

    /// The moment at which clocks that skip `local` stand later than it.
    fn end_of_gap(&self, local: NaiveDateTime) -> Timestamp {
        // No zone is further than 26 hours from UTC, gap included.
        let reach = TimeDelta::hours(50);
        let guess = Utc.from_utc_datetime(&local);
        let (mut before, mut after) = ((guess - reach).timestamp(), (guess + reach).timestamp());
        while after - before > 1 {
            let middle = before.midpoint(after);
            if self.local(Timestamp::from_millis(middle * MILLIS)) < local {
                before = middle;
            } else {
                after = middle;
            }
        }
        Timestamp::from_millis(after * MILLIS)
    }
}

fn first(date: NaiveDate) -> NaiveDate {
    date.with_day(1).unwrap_or(date)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn windows(size: WindowSize, zone: Tz, anchor: Option<u32>) -> Windows {
        Windows { size, zone, anchor: anchor.and_then(Anchor::day) }
    }

    fn starts(windows: &Windows, from: &str, last: &str) -> Vec<String> {
        let bounds = windows.bounds(at(from), at(last), 1000).unwrap();
        bounds.iter().map(|at| windows.zoned(*at).format("%Y-%m-%dT%H:%M%:z").to_string()).collect()
    }

    #[test]
    fn an_anchor_on_the_31st_takes_the_last_day_of_short_months_and_comes_back() {
        let windows = windows(WindowSize::Month, Tz::UTC, Some(31));
        assert_eq!(
            starts(&windows, "2024-01-31T00:00:00Z", "2024-06-01T00:00:00Z"),
            [
                "2024-01-31T00:00+00:00",
                "2024-02-29T00:00+00:00",
                "2024-03-31T00:00+00:00",
                "2024-04-30T00:00+00:00",
                "2024-05-31T00:00+00:00",
                "2024-06-30T00:00+00:00"
            ]
        );
        assert_eq!(windows.floor(at("2023-03-01T00:00:00Z")), at("2023-02-28T00:00:00Z"));
    }

    #[test]
    fn an_anchor_keeps_its_time_of_day_in_its_zone() {
        let zone = chrono_tz::America::New_York;
        let anchor = Anchor::of(at("2024-03-05T19:30:45Z"), zone);
        assert_eq!((anchor.day, anchor.time), (5, NaiveTime::from_hms_opt(14, 30, 45).unwrap()));
        let windows = Windows { size: WindowSize::Month, zone, anchor: Some(anchor) };
        assert_eq!(windows.floor(at("2024-04-05T18:30:44Z")), at("2024-03-05T19:30:45Z"));
        assert_eq!(
            windows.floor(at("2024-04-05T18:30:45Z")),
            at("2024-04-05T18:30:45Z"),
            "an hour earlier in summer"
        );
    }

    #[test]
    fn weeks_begin_on_monday_and_days_have_23_or_25_hours() {
        let berlin = chrono_tz::Europe::Berlin;
        let week = windows(WindowSize::Week, berlin, None);
        assert_eq!(
            starts(&week, "2026-03-29T12:00:00Z", "2026-03-30T12:00:00Z"),
            ["2026-03-23T00:00+01:00", "2026-03-30T00:00+02:00", "2026-04-06T00:00+02:00"]
        );
        let half = windows(WindowSize::TwelveHours, berlin, None);
        let bounds = half.bounds(at("2026-03-28T23:00:00Z"), at("2026-03-29T12:00:00Z"), 10).unwrap();
        assert_eq!(bounds[1].as_millis() - bounds[0].as_millis(), 11 * 3_600_000);
        let three = windows(WindowSize::ThreeHours, berlin, None);
        let bounds = three.bounds(at("2026-10-24T22:00:00Z"), at("2026-10-25T02:00:00Z"), 10).unwrap();
        assert_eq!(bounds[1].as_millis() - bounds[0].as_millis(), 4 * 3_600_000);
    }

    #[test]
    fn too_many_windows_are_refused() {
        let minutes = windows(WindowSize::Minute, Tz::UTC, None);
        let (from, last) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T01:39:59Z"));
        assert_eq!(minutes.bounds(from, last, 100).unwrap().len(), 101);
        assert_eq!(
            minutes.bounds(from, last.plus(std::time::Duration::from_secs(1)), 100),
            Err(TooManyWindows)
        );
    }

    /// The naive reference: what the zone's clocks show, cut by fields, minute by minute. A window ends where the
    /// label grows beyond every one before (by the calendar), or changes at all (by the clock's unit).
    fn naive(windows: &Windows, from: i64, minutes: i64) -> Vec<i64> {
        let by_clock = windows.clock_seconds().is_some();
        let mut bounds = Vec::new();
        let mut highest = None;
        for minute in 0..minutes {
            let millis = from + minute * 60_000;
            let zoned = windows.zoned(Timestamp::from_millis(millis));
            let label = label(windows, zoned.naive_local(), zoned.offset().fix().local_minus_utc());
            let begins = match &highest {
                None => false,
                Some(highest) if by_clock => label != *highest,
                Some(highest) => label > *highest,
            };
            if begins {
                bounds.push(millis);
            }
            if by_clock || highest.as_ref().is_none_or(|highest| label > *highest) {
                highest = Some(label);
            }
        }
        bounds
    }

    fn label(windows: &Windows, local: NaiveDateTime, offset: i32) -> (i64, i32) {
        let days =
            local.date().signed_duration_since(NaiveDate::from_ymd_opt(1900, 1, 1).unwrap()).num_days();
        let minutes = days * 1440 + i64::from(local.hour() * 60 + local.minute());
        match windows.size {
            WindowSize::Minute => (minutes, offset),
            WindowSize::QuarterHour => (minutes / 15, offset),
            WindowSize::HalfHour => (minutes / 30, offset),
            WindowSize::Hour => (minutes / 60, offset),
            WindowSize::ThreeHours => (minutes / 180, 0),
            WindowSize::SixHours => (minutes / 360, 0),
            WindowSize::TwelveHours => (minutes / 720, 0),
            WindowSize::Day => (days, 0),
            // 1900-01-01 was a Monday.
            WindowSize::Week => (days / 7, 0),
            WindowSize::Month => {
                let month = i64::from(local.year()) * 12 + i64::from(local.month0());
                let anchor = windows.anchor.map_or(1, |anchor| anchor.day);
                let last = (28..=31).rev().find(|day| local.date().with_day(*day).is_some()).unwrap();
                (month - i64::from(local.day() < anchor.min(last)), 0)
            }
        }
    }

    const ZONES: [Tz; 12] = [
        Tz::UTC,
        chrono_tz::America::New_York,
        chrono_tz::Europe::Berlin,
        chrono_tz::Asia::Kathmandu,
        chrono_tz::Australia::Lord_Howe,
        chrono_tz::America::Sao_Paulo,
        chrono_tz::America::Havana,
        chrono_tz::Pacific::Apia,
        chrono_tz::Africa::Casablanca,
        chrono_tz::America::St_Johns,
        chrono_tz::Asia::Amman,
        chrono_tz::Pacific::Chatham,
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(80))]
        #[test]
        fn bounds_are_those_of_the_naive_reference(
            zone in 0..ZONES.len(), size in 0..WindowSize::ALL.len(), anchor in prop::option::of(1_u32..=31),
            // From 1990 to 2037, about where zones change.
            day in 7305_i64..24_800
        ) {
            let size = WindowSize::ALL[size].1;
            let windows = windows(size, ZONES[zone], anchor);
            let minutes = match size {
                WindowSize::Month => 100 * 1440,
                WindowSize::Week => 20 * 1440,
                _ => 3 * 1440,
            };
            let from = day * 86_400_000;
            let last = from + minutes * 60_000 - 1;
            let computed = windows.bounds(Timestamp::from_millis(from), Timestamp::from_millis(last), 10_000).unwrap();
            let computed: Vec<i64> = computed.iter().map(|at| at.as_millis()).filter(|at| *at > from && *at <= last).collect();
            prop_assert_eq!(computed, naive(&windows, from, minutes), "{:?}", windows);
        }

        #[test]
        fn every_moment_is_in_its_window(
            zone in 0..ZONES.len(), size in 0..WindowSize::ALL.len(), anchor in prop::option::of(1_u32..=31),
            millis in 631_152_000_000_i64..2_145_916_800_000
        ) {
            let windows = windows(WindowSize::ALL[size].1, ZONES[zone], anchor);
            let at = Timestamp::from_millis(millis);
            let (start, end) = (windows.floor(at), windows.next(at));
            prop_assert!(start <= at && at < end, "{start} {at} {end}");
            prop_assert_eq!(windows.floor(start), start);
        }
    }
}

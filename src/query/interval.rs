//! Buckets of time: minute, hour, day, week and month of a time zone, right through every change of its clocks.
//!
//! Boundaries are computed here and nowhere else; the store only counts between them. So a bucket is what the
//! calendar says: a day on which the clocks change has 23 or 25 hours, an hour that the clocks repeat is two buckets,
//! and a date that a zone left out (Apia, 30 December 2011) is none.

use chrono::{
    DateTime, Datelike, Days, LocalResult, Months, NaiveDate, NaiveDateTime, Offset, TimeZone, Utc,
};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::event::Timestamp;

/// How long a bucket is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interval {
    Minute,
    Hour,
    #[default]
    Day,
    Week,
    Month,
}

/// The day a week begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeekStart {
    #[default]
    Sunday,
    Monday,
}

/// Cuts time into buckets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Calendar {
    pub zone: Tz,
    pub week_start: WeekStart,
}

const MILLIS: i64 = 1000;

impl Calendar {
    /// The first moment of the bucket that holds `at`.
    pub fn floor(&self, interval: Interval, at: Timestamp) -> Timestamp {
        match interval {
            Interval::Minute => self.floor_clock(at, 60),
            Interval::Hour => self.floor_clock(at, 3600),
            Interval::Day | Interval::Week | Interval::Month => {
                self.start_of_day(self.first_date(interval, self.date(at)))
            }
        }
    }

    /// The first moment of the bucket after the one that holds `at`.
    pub fn next(&self, interval: Interval, at: Timestamp) -> Timestamp {
        match interval {
            Interval::Minute => self.next_clock(at, 60),
            Interval::Hour => self.next_clock(at, 3600),
            Interval::Day | Interval::Week | Interval::Month => {
                let mut date = self.first_date(interval, self.date(at));
                loop {
                    date = match interval {
                        Interval::Month => date.checked_add_months(Months::new(1)),
                        Interval::Week => date.checked_add_days(Days::new(7)),
                        _ => date.checked_add_days(Days::new(1)),
                    }
                    .unwrap_or(NaiveDate::MAX);
                    let start = self.start_of_day(date);
                    // A date that the zone left out begins and ends at the same moment.
                    if start > at || date == NaiveDate::MAX {
                        return start;
                    }
                }
            }
        }
    }

    /// The date that the zone's calendars show at `at`.
    pub fn date(&self, at: Timestamp) -> NaiveDate {
        self.local(at).date()
    }

    /// The first moment of a date in this zone.
    pub fn start_of_day(&self, date: NaiveDate) -> Timestamp {
        self.first_moment(date.and_time(chrono::NaiveTime::MIN))
    }

    /// The first moment at which the zone's clocks show `local` or, where they skip it, something later.
    pub fn first_moment(&self, local: NaiveDateTime) -> Timestamp {
        match self.zone.from_local_datetime(&local) {
            LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => Timestamp::from(at.to_utc()),
            LocalResult::None => self.end_of_gap(local),
        }
    }

    /// `at` as the zone writes it, with its offset.
    pub fn zoned(&self, at: Timestamp) -> DateTime<Tz> {
        at.to_utc().with_timezone(&self.zone)
    }

    fn local(&self, at: Timestamp) -> NaiveDateTime {
        self.zoned(at).naive_local()
    }

    fn first_date(&self, interval: Interval, date: NaiveDate) -> NaiveDate {
        match interval {
            Interval::Month => date.with_day(1).unwrap_or(date),
            Interval::Week => {
                let into = match self.week_start {
                    WeekStart::Sunday => date.weekday().num_days_from_sunday(),
                    WeekStart::Monday => date.weekday().num_days_from_monday(),
                };
                date.checked_sub_days(Days::new(into.into())).unwrap_or(date)
            }
            _ => date,
        }
    }

    /// Milliseconds into the clock's unit (of `seconds`) that the zone's clocks show at `at`.
    fn spent_of_unit(&self, at: Timestamp, seconds: i64) -> i64 {
        let offset = self.zone.offset_from_utc_datetime(&at.to_utc().naive_utc()).fix().local_minus_utc();
        (at.as_millis() + i64::from(offset) * MILLIS).rem_euclid(seconds * MILLIS)
    }

    fn floor_clock(&self, at: Timestamp, seconds: i64) -> Timestamp {
        let start = Timestamp::from_millis(at.as_millis() - self.spent_of_unit(at, seconds));
        // The clocks changed inside the unit by a part of it (Lord Howe changes by half an hour): the bucket begins
        // with the change.
        if self.next_clock(start, seconds) > at { start } else { self.next_clock(start, seconds) }
    }

    fn next_clock(&self, at: Timestamp, seconds: i64) -> Timestamp {
        Timestamp::from_millis(at.as_millis() - self.spent_of_unit(at, seconds) + seconds * MILLIS)
    }

    /// The moment at which clocks that skip `local` stand later than it.
    fn end_of_gap(&self, local: NaiveDateTime) -> Timestamp {
        // No zone is further than 26 hours from UTC, gap included.
        let reach = chrono::TimeDelta::hours(50);
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

/// Buckets that follow each other without a gap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Buckets {
    /// First moment of each, then the end of the last.
    bounds: Vec<Timestamp>,
}

/// More buckets than the bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyBuckets;

impl Buckets {
    /// The buckets from the one that holds `from` to the one that holds `last`.
    ///
    /// # Errors
    /// There are more than `buckets_max`.
    pub fn new(
        calendar: &Calendar,
        interval: Interval,
        from: Timestamp,
        last: Timestamp,
        buckets_max: usize,
    ) -> Result<Self, TooManyBuckets> {
        let mut bounds = vec![calendar.floor(interval, from)];
        let mut start = calendar.floor(interval, from);
        while start <= last {
            if bounds.len() > buckets_max {
                return Err(TooManyBuckets);
            }
            start = calendar.next(interval, start);
            bounds.push(start);
        }
        Ok(Self { bounds })
    }

    /// One for everything from `from` to before `end`, whatever the calendar says.
    pub fn whole(from: Timestamp, end: Timestamp) -> Self {
        Self { bounds: vec![from, end] }
    }

    /// Those from `first` to `last`.
    #[must_use]
    pub fn part(&self, first: usize, last: usize) -> Self {
        let bounds = self.bounds.iter().take(last + 2).skip(first).copied().collect();
        Self { bounds }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.bounds.len() - 1
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first moment of each.
    pub fn starts(&self) -> &[Timestamp] {
        &self.bounds[..self.len()]
    }

    /// The one that holds `at`.
    pub fn index_of(&self, at: Timestamp) -> Option<usize> {
        let after = self.bounds.partition_point(|bound| *bound <= at);
        (after > 0 && after <= self.len()).then(|| after - 1)
    }

    /// Length in milliseconds, when all have the same.
    pub fn width_millis(&self) -> Option<i64> {
        let mut widths = self.bounds.windows(2).map(|pair| pair[1].as_millis() - pair[0].as_millis());
        let first = widths.next()?;
        widths.all(|width| width == first).then_some(first)
    }
}

#[cfg(test)]
mod tests;

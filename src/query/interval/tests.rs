//! Buckets against a naive reference: two moments are in one bucket iff the zone's clocks say the same.

use chrono::{IsoWeek, Timelike};
use proptest::prelude::*;

use super::*;

const ZONES: [Tz; 7] = [
    chrono_tz::UTC,
    chrono_tz::America::New_York,
    chrono_tz::Asia::Kathmandu,
    chrono_tz::Australia::Sydney,
    chrono_tz::Australia::Lord_Howe,
    chrono_tz::America::Sao_Paulo,
    chrono_tz::Pacific::Apia,
];

const INTERVALS: [Interval; 5] =
    [Interval::Minute, Interval::Hour, Interval::Day, Interval::Week, Interval::Month];

fn calendar(zone: Tz) -> Calendar {
    Calendar { zone, week_start: WeekStart::Sunday }
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn starts(zone: Tz, interval: Interval, from: &str, last: &str) -> Vec<String> {
    let buckets = Buckets::new(&calendar(zone), interval, at(from), at(last), 1000).unwrap();
    buckets.starts().iter().map(|start| calendar(zone).zoned(*start).to_rfc3339()).collect()
}

/// What the zone's clocks and calendars say, cut to the interval. Two moments with the same answer, and no change of
/// the clocks between them, are in one bucket.
fn said(calendar: &Calendar, interval: Interval, at: Timestamp) -> (i32, u32, u32, Option<i32>) {
    let local = calendar.zoned(at);
    let offset = Some(local.offset().fix().local_minus_utc());
    let day = local.date_naive().num_days_from_ce();
    match interval {
        Interval::Minute => (day, local.hour(), local.minute(), offset),
        Interval::Hour => (day, local.hour(), 0, offset),
        Interval::Day => (day, 0, 0, None),
        Interval::Month => (local.year(), local.month(), 0, None),
        Interval::Week => {
            // ISO weeks begin on Monday; a day later, they begin on Sunday.
            let shift = if calendar.week_start == WeekStart::Sunday { 1 } else { 0 };
            let week: IsoWeek = (local.date_naive() + Days::new(shift)).iso_week();
            (week.year(), week.week(), 0, None)
        }
    }
}

proptest! {
    #[test]
    fn two_moments_share_a_bucket_iff_the_clocks_say_the_same(
        zone in proptest::sample::select(ZONES.to_vec()),
        interval in proptest::sample::select(INTERVALS.to_vec()),
        monday: bool,
        // 1990 to 2035.
        millis in 631_152_000_000_i64..2_051_222_400_000,
    ) {
        let week_start = if monday { WeekStart::Monday } else { WeekStart::Sunday };
        let calendar = Calendar { zone, week_start };
        let at = Timestamp::from_millis(millis);
        let (start, end) = (calendar.floor(interval, at), calendar.next(interval, at));
        prop_assert!(start <= at && at < end);
        let before = |at: Timestamp| Timestamp::from_millis(at.as_millis() - 1);
        let here = said(&calendar, interval, at);
        prop_assert_eq!(said(&calendar, interval, start), here);
        prop_assert_eq!(said(&calendar, interval, before(end)), here);
        prop_assert_ne!(said(&calendar, interval, before(start)), here);
        prop_assert_ne!(said(&calendar, interval, end), here);
        prop_assert_eq!(calendar.floor(interval, start), start);
        prop_assert_eq!(calendar.next(interval, before(start)), start);
    }

    #[test]
    fn buckets_have_no_gap_and_every_moment_one_place(
        zone in proptest::sample::select(ZONES.to_vec()),
        interval in proptest::sample::select(vec![Interval::Hour, Interval::Day, Interval::Week, Interval::Month]),
        from in 1_262_304_000_000_i64..1_893_456_000_000,
        hours in 0_i64..900,
        part in 0.0..1.0_f64,
    ) {
        let calendar = calendar(zone);
        let (from, last) = (Timestamp::from_millis(from), Timestamp::from_millis(from + hours * 3_600_000));
        let buckets = Buckets::new(&calendar, interval, from, last, 10_000).unwrap();
        let end = calendar.next(interval, last);
        let begin = buckets.starts()[0];
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a place between two times")]
        let probe = begin.as_millis() + (part * (end.as_millis() - begin.as_millis()) as f64) as i64;
        let probe = Timestamp::from_millis(probe.min(end.as_millis() - 1));
        let index = buckets.index_of(probe).unwrap();
        prop_assert_eq!(buckets.starts()[index], calendar.floor(interval, probe));
        prop_assert_eq!(buckets.index_of(end), None);
        prop_assert_eq!(buckets.index_of(Timestamp::from_millis(begin.as_millis() - 1)), None);
    }
}

#[test]
fn a_day_of_clock_change_has_23_or_25_hours() {
    let zone = chrono_tz::America::New_York;
    for (day, hours) in [("2026-03-08", 23), ("2026-11-01", 25), ("2026-07-01", 24)] {
        let (from, last) = (format!("{day}T12:00:00Z"), format!("{day}T12:00:00Z"));
        let buckets = Buckets::new(&calendar(zone), Interval::Day, at(&from), at(&last), 10).unwrap();
        assert_eq!(buckets.width_millis(), Some(hours * 3_600_000), "{day}");
    }
}

#[test]
fn an_hour_that_the_clocks_repeat_is_two_buckets() {
    let found = starts(
        chrono_tz::America::New_York,
        Interval::Hour,
        "2026-11-01T00:30:00-04:00",
        "2026-11-01T02:30:00-05:00",
    );
    assert_eq!(
        found,
        [
            "2026-11-01T00:00:00-04:00",
            "2026-11-01T01:00:00-04:00",
            "2026-11-01T01:00:00-05:00",
            "2026-11-01T02:00:00-05:00"
        ]
    );
}

#[test]
fn a_change_by_half_an_hour_makes_a_bucket_of_half_an_hour() {
    let zone = chrono_tz::Australia::Lord_Howe;
    let spring = starts(zone, Interval::Hour, "2026-10-04T01:00:00+10:30", "2026-10-04T03:00:00+11:00");
    assert_eq!(
        spring,
        ["2026-10-04T01:00:00+10:30", "2026-10-04T02:30:00+11:00", "2026-10-04T03:00:00+11:00"]
    );
    let autumn = starts(zone, Interval::Hour, "2026-04-05T01:00:00+11:00", "2026-04-05T02:00:00+10:30");
    assert_eq!(
        autumn,
        ["2026-04-05T01:00:00+11:00", "2026-04-05T01:30:00+10:30", "2026-04-05T02:00:00+10:30"]
    );
}

#[test]
fn hours_of_a_zone_with_a_quarter_begin_at_its_quarter() {
    let found = starts(
        chrono_tz::Asia::Kathmandu,
        Interval::Hour,
        "2026-01-01T00:00:00+05:45",
        "2026-01-01T01:59:00+05:45",
    );
    assert_eq!(found, ["2026-01-01T00:00:00+05:45", "2026-01-01T01:00:00+05:45"]);
}

#[test]
fn a_midnight_that_the_clocks_skip_begins_the_day_at_one() {
    let found = starts(
        chrono_tz::America::Sao_Paulo,
        Interval::Day,
        "2018-11-03T12:00:00-03:00",
        "2018-11-04T12:00:00-02:00",
    );
    assert_eq!(found, ["2018-11-03T00:00:00-03:00", "2018-11-04T01:00:00-02:00"]);
}

#[test]
fn a_date_that_a_zone_left_out_is_no_bucket() {
    let found = starts(
        chrono_tz::Pacific::Apia,
        Interval::Day,
        "2011-12-29T12:00:00-10:00",
        "2011-12-31T12:00:00+14:00",
    );
    assert_eq!(found, ["2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00"]);
}

#[test]
fn weeks_begin_on_the_day_that_was_asked_for() {
    let thursday = at("2020-01-09T12:00:00Z");
    let floor = |week_start| {
        Calendar { zone: chrono_tz::UTC, week_start }.floor(Interval::Week, thursday).to_string()
    };
    assert_eq!(floor(WeekStart::Sunday), "2020-01-05T00:00:00.000Z");
    assert_eq!(floor(WeekStart::Monday), "2020-01-06T00:00:00.000Z");
}

#[test]
fn the_bound_on_buckets_is_exact() {
    let zone = chrono_tz::UTC;
    let buckets = |max| {
        Buckets::new(
            &calendar(zone),
            Interval::Day,
            at("2026-01-01T00:00:00Z"),
            at("2026-01-10T00:00:00Z"),
            max,
        )
    };
    assert_eq!(buckets(10).unwrap().len(), 10);
    assert_eq!(buckets(9), Err(TooManyBuckets));
}

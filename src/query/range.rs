//! The range of dates that a question is about: absolute or relative, in the question's time zone.
//!
//! | written | means |
//! |---|---|
//! | `2026-01-31` | that day; as `date_to`, to its end |
//! | `2026-01-31T12:00:00`, `…Z`, `…+05:45` | that moment; without an offset, by the zone's clocks |
//! | `-7d`, `-24h`, `-3w`, `-6m`, `-1q`, `-1y`, `-30M`, `-90s` | that long before `now` (`M` minutes, `m` months) |
//! | `dStart`, `mStart`, `yStart`, `-1mStart`, `-1mEnd`, … | the first or last day of that period |
//! | `now` | `now` |
//! | `all` (only `date_from`) | the first event of the project's environment |
//!
//! A question may be compared with a period before: of the same length directly before, or further back by a length
//! that it names. A range that is counted back from now (`-7d`) is moved by just that, so that both periods end with
//! the same weekday; they share one day.
//!
//! A range begins with the bucket that holds `date_from` and ends at `date_to`. A relative or absent `date_to` reaches
//! to the end of its day (hour, minute, when buckets are that short), so that the last bucket is the running one.

use chrono::{Datelike, Months, NaiveDate, NaiveDateTime, TimeDelta, Timelike};
use chrono_tz::Tz;

use super::interval::{Buckets, Calendar, Interval, TooManyBuckets, WeekStart};
use crate::event::Timestamp;
use crate::http::{Problem, zone};

/// What a question says about time, as it was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    pub date_from: Option<&'a str>,
    pub date_to: Option<&'a str>,
}

/// Days back that a question without `date_from` looks.
const DAYS_BACK: i64 = 7;

/// Where a range begins, once resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begin {
    At(Timestamp),
    /// `all`: the store has to be asked for the first event.
    FirstEvent,
}

/// A resolved range: `from` is inclusive, `end` exclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    pub from: Timestamp,
    pub end: Timestamp,
}

impl Range {
    /// The last moment inside.
    pub fn last(&self) -> Timestamp {
        Timestamp::from_millis(self.end.as_millis() - 1)
    }
}

/// Resolves where a range begins (before its first bucket is made whole) and ends.
///
/// # Errors
/// 400: a date that cannot be read.
pub fn resolve(
    asked: Asked<'_>,
    calendar: &Calendar,
    interval: Interval,
    now: Timestamp,
) -> Result<(Begin, Timestamp), Problem> {
    let begin = match asked.date_from {
        None => {
            let today = calendar.date(now);
            Begin::At(calendar.start_of_day(today - TimeDelta::days(DAYS_BACK)))
        }
        Some("all") => Begin::FirstEvent,
        Some(text) => match parse("date_from", text, calendar, now)? {
            Moment::Day(date) => Begin::At(calendar.start_of_day(date)),
            Moment::Exact(at) | Moment::Relative(at) => Begin::At(at),
        },
    };
    let end = match asked.date_to {
        None => end_of_running(calendar, interval, now),
        Some(text) => match parse("date_to", text, calendar, now)? {
            Moment::Day(date) => calendar.next(Interval::Day, calendar.start_of_day(date)),
            Moment::Exact(at) => Timestamp::from_millis(at.as_millis() + 1),
            Moment::Relative(at) => end_of_running(calendar, interval, at),
        },
    };
    Ok((begin, end))
}

/// The buckets of a range whose beginning is known, and the range made whole to begin with its first bucket.
///
/// # Errors
/// 400: the range is backwards, or has more than `buckets_max` buckets.
pub fn buckets(
    from: Timestamp,
    end: Timestamp,
    calendar: &Calendar,
    interval: Interval,
    buckets_max: usize,
) -> Result<(Range, Buckets), Problem> {
    let range = Range { from: calendar.floor(interval, from), end };
    if from >= end {
        return Err(backwards(from, range.last()));
    }
    match Buckets::new(calendar, interval, from, range.last(), buckets_max) {
        Ok(buckets) => Ok((range, buckets)),
        Err(TooManyBuckets) => {
            let message = format!(
                "the range has more than {buckets_max} buckets (query.buckets_max): take a longer interval or a \
                 shorter range"
            );
            Err(Problem::invalid("interval", message)
                .with("max", buckets_max)
                .with("setting", "query.buckets_max"))
        }
    }
}

/// 400 for a range that ends before it begins.
pub fn backwards(from: Timestamp, last: Timestamp) -> Problem {
    let message = format!("the range is backwards: date_from is {from}, date_to is {last}");
    Problem::invalid("date_from", message).with("given", from.to_string())
}

/// The calendar of a question.
///
/// # Errors
/// 400: no such time zone.
pub fn calendar(timezone: Option<&str>, week_start: Option<WeekStart>) -> Result<Calendar, Problem> {
    let zone = timezone.map_or(Ok(Tz::UTC), |name| zone("timezone", name))?;
    Ok(Calendar { zone, week_start: week_start.unwrap_or_default() })
}

/// Days run to their end; so do hours and minutes where buckets are that short.
fn end_of_running(calendar: &Calendar, interval: Interval, at: Timestamp) -> Timestamp {
    let unit = match interval {
        Interval::Minute | Interval::Hour => interval,
        _ => Interval::Day,
    };
    calendar.next(unit, at)
}

/// A moment as it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// A whole day.
    Day(NaiveDate),
    /// A time that was given in full.
    Exact(Timestamp),
    /// Counted from `now`.
    Relative(Timestamp),
}

/// Reads a date or time of field `field`. See the [module](self) for the forms.
///
/// # Errors
/// 400 that shows them.
pub fn parse(field: &str, text: &str, calendar: &Calendar, now: Timestamp) -> Result<Moment, Problem> {
    let moment = absolute(text, calendar).or_else(|| relative(text, calendar, now));
    let range = NaiveDate::from_ymd_opt(1900, 1, 1)..NaiveDate::from_ymd_opt(2262, 1, 1);
    let year_holds = |moment: &Moment| match moment {
        Moment::Day(date) => range.contains(&Some(*date)),
        Moment::Exact(at) | Moment::Relative(at) => range.contains(&Some(at.to_utc().date_naive())),
    };
    moment.filter(year_holds).ok_or_else(|| {
        let forms = "a date (2026-01-31), a time (2026-01-31T12:00:00Z), or one counted from now (-7d, -24h, -1mStart)";
        Problem::invalid(field, format!("{field} is {text:?}; expected {forms} between 1900 and 2261"))
            .with("given", text)
            .with("valid", vec!["2026-01-31", "2026-01-31T12:00:00Z", "-7d", "-24h", "-1mStart", "now"])
    })
}

fn absolute(text: &str, calendar: &Calendar) -> Option<Moment> {
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Some(Moment::Day(date));
    }
    if let Ok(at) = Timestamp::parse(text) {
        return Some(Moment::Exact(at));
    }
    ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .map(|local| Moment::Exact(calendar.first_moment(local)))
}

/// `now`, `-7d`, `dStart`, `-1mEnd`.
fn relative(text: &str, calendar: &Calendar, now: Timestamp) -> Option<Moment> {
    if text == "now" {
        return Some(Moment::Relative(now));
    }
    let (text, edge) = match (text.strip_suffix("Start"), text.strip_suffix("End")) {
        (Some(text), _) => (text, Some(Edge::Start)),
        (_, Some(text)) => (text, Some(Edge::End)),
        _ => (text, None),
    };
    let unit = text.chars().next_back()?;
    let span = match text.len() == unit.len_utf8() && edge.is_some() {
        true => unit_of(unit, 0)?,
        false => span(text)?,
    };
    let date = match span {
        // Hours are hours, whatever the clocks do in between.
        Span::Time(time) => {
            let at = Timestamp::from(now.to_utc().checked_sub_signed(time)?);
            return edge.is_none().then_some(Moment::Relative(at));
        }
        Span::Days(days) => calendar.date(now).checked_sub_days(chrono::Days::new(days))?,
        Span::Months(months) => calendar.date(now).checked_sub_months(Months::new(months))?,
    };
    let Some(edge) = edge else {
        // The same time of day, by the zone's clocks.
        let time = calendar.zoned(now).naive_local().time();
        let time = time.with_nanosecond(time.nanosecond().min(999_999_999)).unwrap_or(time);
        return Some(Moment::Relative(calendar.first_moment(date.and_time(time))));
    };
    edge_of(date, unit, edge, calendar).map(Moment::Day)
}

/// `-7d`, `-24h`.
fn span(text: &str) -> Option<Span> {
    let digits = text.strip_prefix('-')?;
    let unit = digits.chars().next_back()?;
    let digits = &digits[..digits.len() - unit.len_utf8()];
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    unit_of(unit, digits.parse().ok()?)
}

fn unit_of(unit: char, count: u32) -> Option<Span> {
    Some(match unit {
        's' => Span::Time(TimeDelta::try_seconds(count.into())?),
        'M' => Span::Time(TimeDelta::try_minutes(count.into())?),
        'h' => Span::Time(TimeDelta::try_hours(count.into())?),
        'd' => Span::Days(count.into()),
        'w' => Span::Days(u64::from(count) * 7),
        'm' => Span::Months(count),
        'q' => Span::Months(count.checked_mul(3)?),
        'y' => Span::Months(count.checked_mul(12)?),
        _ => return None,
    })
}

/// The period that the one from `begin` to before `end` is compared with; `compare_to` says how far back, if not
/// directly before.
///
/// # Errors
/// 400: `compare_to` cannot be read, or reaches before what can be dated.
pub fn previous(
    asked: Asked<'_>,
    calendar: &Calendar,
    begin: Timestamp,
    end: Timestamp,
    compare_to: Option<&str>,
) -> Result<(Timestamp, Timestamp), Problem> {
    let back = match (compare_to, asked.date_to) {
        (Some(text), _) => span(text).ok_or_else(|| not_back(text))?,
        (None, None) => match asked.date_from {
            None => Span::Days(DAYS_BACK.unsigned_abs()),
            Some(text) => span(text).unwrap_or_else(|| length(calendar, begin, end)),
        },
        (None, Some(_)) => length(calendar, begin, end),
    };
    let given = compare_to.unwrap_or_default();
    let moved = |at| back.before(calendar, at).ok_or_else(|| not_back(given));
    Ok((moved(begin)?, moved(end)?))
}

fn not_back(given: &str) -> Problem {
    let message = format!(
        "compare_to is {given:?}; expected how far back the other period is, such as -1d, -1w, -1m or -1y"
    );
    Problem::invalid("compare_to", message)
        .with("given", given)
        .with("valid", vec!["-1d", "-1w", "-1m", "-1y"])
}

/// Whole days where both ends are, so that a change of the clocks moves nothing.
fn length(calendar: &Calendar, begin: Timestamp, end: Timestamp) -> Span {
    let (first, after) = (calendar.date(begin), calendar.date(end));
    if calendar.start_of_day(first) == begin && calendar.start_of_day(after) == end {
        return Span::Days((after - first).num_days().unsigned_abs());
    }
    Span::Time(TimeDelta::milliseconds(end.as_millis() - begin.as_millis()))
}

#[derive(Clone, Copy)]
enum Span {
    Time(TimeDelta),
    Days(u64),
    Months(u32),
}

impl Span {
    /// That long before `at`, by the zone's clocks.
    fn before(self, calendar: &Calendar, at: Timestamp) -> Option<Timestamp> {
        let local = calendar.zoned(at).naive_local();
        let local = match self {
            Self::Time(time) => return Some(Timestamp::from(at.to_utc().checked_sub_signed(time)?)),
            Self::Days(days) => local.checked_sub_days(chrono::Days::new(days))?,
            Self::Months(months) => local.checked_sub_months(Months::new(months))?,
        };
        Some(calendar.first_moment(local)).filter(|at| at.to_utc().year() >= 1900)
    }
}

#[derive(Clone, Copy)]
enum Edge {
    Start,
    End,
}

/// The first or last day of the period that `date` is in.
fn edge_of(date: NaiveDate, unit: char, edge: Edge, calendar: &Calendar) -> Option<NaiveDate> {
    let first_of_month = date.with_day(1)?;
    let (first, months) = match unit {
        'd' => return Some(date),
        'w' => {
            let into = match calendar.week_start {
                WeekStart::Sunday => date.weekday().num_days_from_sunday(),
                WeekStart::Monday => date.weekday().num_days_from_monday(),
            };
            let first = date.checked_sub_days(chrono::Days::new(into.into()))?;
            return match edge {
                Edge::Start => Some(first),
                Edge::End => first.checked_add_days(chrono::Days::new(6)),
            };
        }
        'm' => (first_of_month, 1),
        'q' => (first_of_month.checked_sub_months(Months::new(date.month0() % 3))?, 3),
        _ => (first_of_month.with_month(1)?, 12),
    };
    match edge {
        Edge::Start => Some(first),
        Edge::End => first.checked_add_months(Months::new(months))?.pred_opt(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: &str = "2021-08-25T10:30:00Z";

    fn in_zone(zone: Tz) -> Calendar {
        Calendar { zone, week_start: WeekStart::Sunday }
    }

    fn count(from: Option<&str>, to: Option<&str>, interval: Interval) -> usize {
        resolved(from, to, interval, Tz::UTC).1
    }

    fn resolved(
        from: Option<&str>,
        to: Option<&str>,
        interval: Interval,
        zone: Tz,
    ) -> ((String, String), usize) {
        let calendar = in_zone(zone);
        let now = Timestamp::parse(NOW).unwrap();
        let asked = Asked { date_from: from, date_to: to };
        let (begin, end) = resolve(asked, &calendar, interval, now).unwrap();
        let Begin::At(from) = begin else { panic!("not all") };
        let (range, buckets) = buckets(from, end, &calendar, interval, 10_000).unwrap();
        ((range.from.to_string(), range.end.to_string()), buckets.len())
    }

    #[test]
    fn ranges_have_as_many_buckets_as_they_should() {
        let day = Interval::Day;
        assert_eq!(count(None, None, day), 8);
        assert_eq!(count(Some("-7d"), None, day), 8);
        assert_eq!(count(Some("2020-01-09"), Some("2020-01-19"), day), 11);
        assert_eq!(count(Some("2020-01-09"), Some("2020-01-09"), Interval::Hour), 24);
        assert_eq!(count(Some("-180d"), None, Interval::Month), 7);
        assert_eq!(count(Some("-180d"), None, Interval::Week), 27);
        assert_eq!(count(Some("-30d"), None, Interval::Hour), 721);
        assert_eq!(count(Some("-1h"), None, Interval::Minute), 61);
        assert_eq!(count(Some("dStart"), None, Interval::Hour), 11);
        assert_eq!(count(Some("-1mStart"), Some("-1mEnd"), day), 31);
        assert_eq!(count(Some("-1qStart"), Some("-1qEnd"), Interval::Month), 3);
        assert_eq!(count(Some("yStart"), Some("yEnd"), Interval::Month), 12);
        assert_eq!(count(Some("-1wStart"), Some("-1wEnd"), day), 7);
    }

    #[test]
    fn the_first_bucket_is_whole_and_the_last_ends_with_date_to() {
        let day = Interval::Day;
        let ((from, end), _) = resolved(Some("-7d"), None, day, Tz::UTC);
        assert_eq!((from.as_str(), end.as_str()), ("2021-08-18T00:00:00.000Z", "2021-08-26T00:00:00.000Z"));
        let ((from, end), _) = resolved(Some("2020-01-09"), Some("2020-01-19"), Interval::Week, Tz::UTC);
        assert_eq!((from.as_str(), end.as_str()), ("2020-01-05T00:00:00.000Z", "2020-01-20T00:00:00.000Z"));
        let ((_, end), _) =
            resolved(Some("2020-01-11"), Some("2020-01-12T00:59:59Z"), Interval::Hour, Tz::UTC);
        assert_eq!(end, "2020-01-12T00:59:59.001Z");
    }

    #[test]
    fn dates_are_those_of_the_zone() {
        let kathmandu = chrono_tz::Asia::Kathmandu;
        let ((from, end), days) = resolved(Some("2020-01-09"), Some("2020-01-09"), Interval::Day, kathmandu);
        assert_eq!(
            (from.as_str(), end.as_str(), days),
            ("2020-01-08T18:15:00.000Z", "2020-01-09T18:15:00.000Z", 1)
        );
        let ((from, _), _) =
            resolved(Some("2020-01-09T02:15:00"), Some("2020-01-10"), Interval::Hour, kathmandu);
        assert_eq!(from, "2020-01-08T20:15:00.000Z");
    }

    fn compared(
        from: Option<&str>,
        to: Option<&str>,
        compare_to: Option<&str>,
        zone: Tz,
    ) -> (String, String) {
        let calendar = in_zone(zone);
        let asked = Asked { date_from: from, date_to: to };
        let now = Timestamp::parse("2021-08-24T10:30:00Z").unwrap();
        let (begin, end) = resolve(asked, &calendar, Interval::Day, now).unwrap();
        let Begin::At(begin) = begin else { panic!("not all") };
        let (from, end) = previous(asked, &calendar, begin, end, compare_to).unwrap();
        (calendar.zoned(from).naive_local().to_string(), calendar.zoned(end).naive_local().to_string())
    }

    #[test]
    fn a_period_is_compared_with_the_one_before_or_further_back() {
        let utc = Tz::UTC;
        let cases = [
            (Some("2020-01-15"), Some("2020-01-19"), None, "2020-01-10 00:00:00", "2020-01-15 00:00:00"),
            (
                Some("2020-01-15"),
                Some("2020-01-19"),
                Some("-2d"),
                "2020-01-13 00:00:00",
                "2020-01-18 00:00:00",
            ),
            (
                Some("2020-01-15"),
                Some("2020-01-19"),
                Some("-1w"),
                "2020-01-08 00:00:00",
                "2020-01-13 00:00:00",
            ),
            (
                Some("2020-03-01"),
                Some("2020-03-31"),
                Some("-1m"),
                "2020-02-01 00:00:00",
                "2020-03-01 00:00:00",
            ),
            (None, None, None, "2021-08-10 00:00:00", "2021-08-18 00:00:00"),
            (Some("-7d"), None, None, "2021-08-10 10:30:00", "2021-08-18 00:00:00"),
            (Some("mStart"), None, None, "2021-07-08 00:00:00", "2021-08-01 00:00:00"),
        ];
        for (from, to, compare_to, begin, end) in cases {
            let found = compared(from, to, compare_to, utc);
            assert_eq!(found, (begin.to_owned(), end.to_owned()), "{from:?} {to:?} {compare_to:?}");
        }
        let new_york = compared(Some("2026-03-08"), Some("2026-03-09"), None, chrono_tz::America::New_York);
        assert_eq!(new_york, ("2026-03-06 00:00:00".to_owned(), "2026-03-08 00:00:00".to_owned()));
    }

    #[test]
    fn what_does_not_go_back_is_no_comparison() {
        let calendar = in_zone(Tz::UTC);
        let at = Timestamp::parse(NOW).unwrap();
        for text in ["1w", "-w", "week", "-99999999y", "-1x"] {
            let problem = previous(Asked::default(), &calendar, at, at, Some(text)).unwrap_err();
            assert_eq!(problem.details["field"], "compare_to", "{text}");
        }
    }

    #[test]
    fn backwards_and_endless_ranges_are_refused() {
        let calendar = in_zone(Tz::UTC);
        let at = |text| Timestamp::parse(text).unwrap();
        let (from, to) = (at("2020-02-01T00:00:00Z"), at("2020-01-01T00:00:00Z"));
        let problem = buckets(from, to, &calendar, Interval::Day, 100).unwrap_err();
        assert!(problem.message.starts_with("the range is backwards"), "{}", problem.message);
        let problem = buckets(to, from, &calendar, Interval::Minute, 100).unwrap_err();
        assert_eq!(problem.details["setting"], "query.buckets_max");
    }

    #[test]
    fn what_is_no_date_is_refused_with_the_forms_that_are() {
        let now = Timestamp::parse(NOW).unwrap();
        for text in
            ["", "7d", "-d", "--7d", "-7x", "2020-13-01", "-99999999999d", "-9999y", "hStart", "9999-01-01"]
        {
            let problem = parse("date_from", text, &in_zone(Tz::UTC), now).unwrap_err();
            assert_eq!(problem.details["field"], "date_from", "{text}");
        }
    }

    #[test]
    fn an_unknown_zone_is_refused_with_the_nearest() {
        for (given, near) in [
            ("asia/kathmandu", "Asia/Kathmandu"),
            ("America/NewYork", "America/New_York"),
            ("Berlin", "Europe/Berlin"),
        ] {
            assert_eq!(zone("timezone", given).unwrap_err().details["valid"][0], near);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[-+0-9a-zA-Z: T]{0,24}|.{0,12}", millis in 0_i64..4_102_444_800_000) {
            for zone in [Tz::UTC, chrono_tz::America::New_York] {
                let _ = parse("date_to", &text, &in_zone(zone), Timestamp::from_millis(millis));
            }
            let _ = zone("timezone", &text);
        }
    }
}

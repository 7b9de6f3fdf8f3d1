//! The range of a question that does not cut it into buckets.

use super::interval::{Calendar, Interval};
use super::range::{self, Asked, Begin, Moment, Range};
use crate::event::Timestamp;
use crate::http::Problem;

/// As [`range::resolve`]; days that are counted back begin with their first moment, hours and given times where they
/// are; `all` is everything since 1970, which no event is older than.
///
/// # Errors
/// 400: a date that cannot be read, or a range that is backwards.
pub(super) fn resolve(asked: Asked<'_>, calendar: &Calendar, now: Timestamp) -> Result<Range, Problem> {
    let (begin, end) = range::resolve(asked, calendar, Interval::Day, now)?;
    let from = match begin {
        Begin::FirstEvent => Timestamp::from_millis(0),
        Begin::At(at) => {
            let text = asked.date_from.unwrap_or_default();
            let counted = matches!(range::parse("date_from", text, calendar, now), Ok(Moment::Relative(_)));
            if counted && text.ends_with(['d', 'w', 'm', 'q', 'y']) {
                calendar.start_of_day(calendar.date(at))
            } else {
                at
            }
        }
    };
    let range = Range { from, end };
    if from >= end {
        return Err(range::backwards(from, range.last()));
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::interval::WeekStart;

    fn from(text: &str, now: &str) -> String {
        let calendar = Calendar { zone: chrono_tz::UTC, week_start: WeekStart::Sunday };
        let asked = Asked { date_from: Some(text), date_to: None };
        resolve(asked, &calendar, Timestamp::parse(now).unwrap()).unwrap().from.to_string()
    }

    #[test]
    fn days_counted_back_are_whole_and_hours_are_not() {
        let now = "2012-01-15T03:21:34Z";
        assert_eq!(from("-7d", now), "2012-01-08T00:00:00.000Z");
        assert_eq!(from("-7h", now), "2012-01-14T20:21:34.000Z");
        assert_eq!(from("2012-01-02T03:04:05Z", now), "2012-01-02T03:04:05.000Z");
        assert_eq!(from("2012-01-02", now), "2012-01-02T00:00:00.000Z");
        assert_eq!(from("all", now), "1970-01-01T00:00:00.000Z");
    }
}

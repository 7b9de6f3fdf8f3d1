//! When things happen: evenly within a few hours, with days, nights and weekends over longer times.

use chrono::{Datelike, Timelike};

use crate::event::Timestamp;

const HOUR_MILLIS: i64 = 3_600_000;

/// Shorter than this there is no night to see.
const EVEN_BELOW_MILLIS: i64 = 6 * HOUR_MILLIS;

/// How busy each hour of the day (UTC) is: least at four in the morning, most in the evening.
const HOURS: [f64; 24] = [
    0.45, 0.32, 0.25, 0.21, 0.20, 0.25, 0.40, 0.62, 0.82, 0.95, 1.05, 1.12, 1.18, 1.15, 1.10, 1.10, 1.15,
    1.28, 1.42, 1.55, 1.60, 1.45, 1.10, 0.75,
];
const WEEKEND: f64 = 0.75;

/// A span of time, and how much happens in each of its hours.
pub(super) struct Rhythm {
    from: i64,
    until: i64,
    /// For each hour from `from` on, the share of everything that happens before its end. Empty: evenly.
    cumulative: Vec<f64>,
}

impl Rhythm {
    pub(super) fn new(from: Timestamp, until: Timestamp) -> Self {
        let (from, until) = (from.as_millis(), until.as_millis().max(from.as_millis()));
        let mut cumulative = Vec::new();
        if until - from >= EVEN_BELOW_MILLIS {
            let mut total = 0.0;
            let mut start = from;
            while start < until {
                total += busy(start);
                cumulative.push(total);
                start += HOUR_MILLIS;
            }
            cumulative.iter_mut().for_each(|share| *share /= total);
        }
        Self { from, until, cumulative }
    }

    /// When the part `progress` (0 to 1) of everything has happened; never before an earlier part.
    pub(super) fn at(&self, progress: f64) -> Timestamp {
        let progress = progress.clamp(0.0, 1.0);
        let fraction = if self.cumulative.is_empty() {
            #[expect(clippy::cast_precision_loss, reason = "below six hours")]
            let span = (self.until - self.from) as f64;
            progress * span
        } else {
            let hour =
                self.cumulative.partition_point(|share| *share < progress).min(self.cumulative.len() - 1);
            let before = if hour == 0 { 0.0 } else { self.cumulative[hour - 1] };
            let within = (progress - before) / (self.cumulative[hour] - before);
            #[expect(clippy::cast_precision_loss, reason = "hours of a few years")]
            let hours = hour as f64;
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of an hour")]
            let hour_millis = HOUR_MILLIS as f64;
            (hours + within) * hour_millis
        };
        #[expect(clippy::cast_possible_truncation, reason = "within the span")]
        let millis = self.from + fraction as i64;
        Timestamp::from_millis(millis.min(self.until))
    }
}

fn busy(millis: i64) -> f64 {
    let at = Timestamp::from_millis(millis).to_utc();
    let hour = HOURS.get(at.hour() as usize).copied().unwrap_or(1.0);
    if at.weekday().number_from_monday() > 5 { hour * WEEKEND } else { hour }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_runs_forward_through_the_whole_span() {
        for days in [0, 3] {
            let from = Timestamp::parse("2026-03-02T09:30:00Z").unwrap();
            let until = Timestamp::from_millis(from.as_millis() + days * 24 * HOUR_MILLIS + 1000);
            let rhythm = Rhythm::new(from, until);
            let times: Vec<_> = (0..=1000).map(|i| rhythm.at(f64::from(i) / 1000.0)).collect();
            assert!(times.is_sorted());
            assert_eq!((times[0], times[1000]), (from, until));
        }
    }

    #[test]
    fn evenings_are_busier_than_nights() {
        let from = Timestamp::parse("2026-03-02T00:00:00Z").unwrap();
        let rhythm = Rhythm::new(from, Timestamp::parse("2026-03-03T00:00:00Z").unwrap());
        let mut hours = [0; 24];
        for i in 0..10_000 {
            hours[rhythm.at(f64::from(i) / 10_000.0).to_utc().hour() as usize] += 1;
        }
        assert!(hours[20] > 4 * hours[4], "{hours:?}");
    }
}

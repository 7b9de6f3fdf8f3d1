//! What a meter makes of the values of a window: pure, exact, and the same whatever order values come in.

use std::collections::BTreeSet;

use bigdecimal::BigDecimal;
use serde::{Deserialize, Serialize};

use super::number::{Quantity, divide};

/// How values become one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Aggregation {
    /// Events, whatever their values.
    Count,
    Sum,
    /// The mean of the values that there are.
    Avg,
    /// Different values that there are.
    CountUnique,
    /// The value of the newest event that has one; of two of one moment, that with the greater id.
    Latest,
    Max,
    Min,
    /// The sum, times the meter's multiplier.
    SumWithMultiplier,
    /// Each value weighed by the share of the window that is left after its event.
    WeightedSum,
}

impl Aggregation {
    /// Every aggregation, with the name it has in requests.
    pub const ALL: [(&'static str, Self); 9] = [
        ("COUNT", Self::Count),
        ("SUM", Self::Sum),
        ("AVG", Self::Avg),
        ("COUNT_UNIQUE", Self::CountUnique),
        ("LATEST", Self::Latest),
        ("MAX", Self::Max),
        ("MIN", Self::Min),
        ("SUM_WITH_MULTIPLIER", Self::SumWithMultiplier),
        ("WEIGHTED_SUM", Self::WeightedSum),
    ];

    /// The aggregation with this name, in capitals or not.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, one)| *one)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, one)| *one == self).map_or("", |(name, _)| *name)
    }

    /// Does it look at values at all?
    pub fn needs_value(self) -> bool {
        self != Self::Count
    }
}

/// Events with the same value (and, where it matters, moment).
#[derive(Clone, Debug)]
pub struct Sample<'a> {
    pub events: u64,
    pub quantity: &'a Quantity,
    /// What tells one value from another; only for [`Aggregation::CountUnique`].
    pub text: Option<&'a str>,
    /// When the newest of them happened (all of them, for [`Aggregation::WeightedSum`]), and its id.
    pub millis: i64,
    pub event_id: &'a str,
}

/// Numbers that were added up elsewhere.
#[derive(Clone, Debug)]
pub struct Added {
    pub events: u64,
    pub sum: BigDecimal,
    /// The sum of the numbers, each times the milliseconds of its event; only for [`Aggregation::WeightedSum`].
    pub moments: BigDecimal,
}

/// The values of one window so far. There may be one a customer and day: it holds what its aggregation needs, no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    pub events: u64,
    /// Events without a value, with one that is no number, and with one of too many digits: counted apart, never 0.
    pub missing: u64,
    pub not_numeric: u64,
    pub too_precise: u64,
    so_far: SoFar,
}

/// What an aggregation keeps of the values.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SoFar {
    Count,
    Sum(BigDecimal),
    Avg {
        numbers: u64,
        sum: BigDecimal,
    },
    CountUnique(BTreeSet<String>),
    Latest(Option<Box<Newest>>),
    Max(Option<BigDecimal>),
    Min(Option<BigDecimal>),
    /// Values times the milliseconds left of the window.
    WeightedSum(BigDecimal),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Newest {
    millis: i64,
    event_id: String,
    value: BigDecimal,
}

impl Tally {
    /// That of no events.
    pub fn of(aggregation: Aggregation) -> Self {
        let so_far = match aggregation {
            Aggregation::Count => SoFar::Count,
            Aggregation::Sum | Aggregation::SumWithMultiplier => SoFar::Sum(BigDecimal::default()),
            Aggregation::Avg => SoFar::Avg { numbers: 0, sum: BigDecimal::default() },
            Aggregation::CountUnique => SoFar::CountUnique(BTreeSet::new()),
            Aggregation::Latest => SoFar::Latest(None),
            Aggregation::Max => SoFar::Max(None),
            Aggregation::Min => SoFar::Min(None),
            Aggregation::WeightedSum => SoFar::WeightedSum(BigDecimal::default()),
        };
        Self { events: 0, missing: 0, not_numeric: 0, too_precise: 0, so_far }
    }

    /// Takes a sample of a window that ends at `end_millis`.
    pub fn add(&mut self, sample: &Sample<'_>, end_millis: i64) {
        self.events += sample.events;
        match &mut self.so_far {
            SoFar::Count => return,
            SoFar::CountUnique(values) => {
                match sample.text {
                    Some(text) => drop(values.insert(text.to_owned())),
                    None => self.missing += sample.events,
                }
                return;
            }
            _ => {}
        }
        let number = match sample.quantity {
            Quantity::Number(number) => number,
            Quantity::Missing => return self.missing += sample.events,
            Quantity::NotNumeric => return self.not_numeric += sample.events,
            Quantity::TooPrecise => return self.too_precise += sample.events,
        };
        match &mut self.so_far {
            SoFar::Sum(sum) => *sum += number * BigDecimal::from(sample.events),
            SoFar::Avg { numbers, sum } => {
                *numbers += sample.events;
                *sum += number * BigDecimal::from(sample.events);
            }
            SoFar::Max(max) => {
                if max.as_ref().is_none_or(|max| number > max) {
                    *max = Some(number.clone());
                }
            }
            SoFar::Min(min) => {
                if min.as_ref().is_none_or(|min| number < min) {
                    *min = Some(number.clone());
                }
            }
            SoFar::Latest(newest) => {
                let moment = (sample.millis, sample.event_id);
                if newest.as_ref().is_none_or(|newest| moment > (newest.millis, newest.event_id.as_str())) {
                    let event_id = sample.event_id.to_owned();
                    *newest =
                        Some(Box::new(Newest { millis: sample.millis, event_id, value: number.clone() }));
                }
            }
            SoFar::WeightedSum(weighted) => {
                let left = BigDecimal::from(end_millis.saturating_sub(sample.millis).max(0));
                *weighted += number * left * BigDecimal::from(sample.events);
            }
            SoFar::Count | SoFar::CountUnique(_) => {}
        }
    }

    /// Takes numbers of a window that ends at `end_millis` of which only sums are known; for sums, means and weighted
    /// sums, not for what looks at each.
    pub fn add_up(&mut self, added: &Added, end_millis: i64) {
        match &mut self.so_far {
            SoFar::WeightedSum(weighted) => {
                self.events += added.events;
                *weighted += &added.sum * BigDecimal::from(end_millis) - &added.moments;
            }
            _ => self.add_sum(added.events, &added.sum),
        }
    }

    /// Takes numbers of which only the sum is known; for sums and means.
    pub fn add_sum(&mut self, events: u64, of_these: &BigDecimal) {
        self.events += events;
        match &mut self.so_far {
            SoFar::Sum(sum) => *sum += of_these,
            SoFar::Avg { numbers, sum } => {
                *numbers += events;
                *sum += of_these;
            }
            other => debug_assert!(false, "{other:?} is not made of sums"),
        }
    }

    /// What the values make, in a window of `span_millis`; `None` where there is nothing to make it of (the mean,
    /// newest, largest or smallest of no values).
    pub fn into_value(self, span_millis: i64) -> Option<BigDecimal> {
        match self.so_far {
            SoFar::Count => Some(self.events.into()),
            SoFar::Sum(sum) => Some(sum),
            SoFar::Avg { numbers, sum } => divide(&sum, &numbers.into()),
            SoFar::CountUnique(values) => u64::try_from(values.len()).ok().map(Into::into),
            SoFar::Latest(newest) => newest.map(|newest| newest.value),
            SoFar::Max(value) | SoFar::Min(value) => value,
            SoFar::WeightedSum(weighted) => divide(&weighted, &span_millis.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metering::number::plain;

    /// A value in thousandths; or none, or no number.
    #[derive(Clone, Debug)]
    enum Given {
        Thousandths(i64),
        Missing,
        NotNumeric,
    }

    fn given() -> impl Strategy<Value = Given> {
        prop_oneof![
            6 => (-50_000_i64..50_000).prop_map(Given::Thousandths),
            1 => Just(Given::Missing),
            1 => Just(Given::NotNumeric)
        ]
    }

    fn written(thousandths: i64) -> String {
        let (sign, size) = (if thousandths < 0 { "-" } else { "" }, thousandths.unsigned_abs());
        format!("{sign}{}.{:03}", size / 1000, size % 1000)
    }

    /// `numerator / denominator` in units of 10^-18, halves to even, in integers alone.
    fn naive_quotient(numerator: i128, denominator: i128) -> String {
        let scaled = numerator * 10_i128.pow(18);
        let (mut quotient, rest) = (scaled.abs() / denominator, scaled.abs() % denominator);
        if rest * 2 > denominator || (rest * 2 == denominator && quotient % 2 == 1) {
            quotient += 1;
        }
        let text = format!("{}.{:018}", quotient / 10_i128.pow(18), quotient % 10_i128.pow(18));
        let text = text.trim_end_matches('0').trim_end_matches('.').to_owned();
        if numerator < 0 && text != "0" { format!("-{text}") } else { text }
    }

    /// The reference: thousandths in `i128`, no decimals anywhere.
    fn naive(
        aggregation: Aggregation,
        events: &[(i64, String, Given)],
        start: i64,
        end: i64,
    ) -> Option<String> {
        let values: Vec<(i64, &str, i128)> = events
            .iter()
            .filter_map(|(at, id, given)| match given {
                Given::Thousandths(value) => Some((*at, id.as_str(), i128::from(*value))),
                _ => None,
            })
            .collect();
        let sum: i128 = values.iter().map(|(_, _, value)| value).sum();
        match aggregation {
            Aggregation::Count => Some(events.len().to_string()),
            Aggregation::Sum | Aggregation::SumWithMultiplier => Some(naive_quotient(sum, 1000)),
            Aggregation::Avg if values.is_empty() => None,
            Aggregation::Avg => Some(naive_quotient(sum, 1000 * values.len() as i128)),
            Aggregation::CountUnique => {
                let mut texts: Vec<String> = events
                    .iter()
                    .filter_map(|(_, _, given)| match given {
                        Given::Thousandths(value) => Some(written(*value)),
                        Given::NotNumeric => Some("x".to_owned()),
                        Given::Missing => None,
                    })
                    .collect();
                texts.sort();
                texts.dedup();
                Some(texts.len().to_string())
            }
            Aggregation::Latest => values
                .iter()
                .max_by_key(|(at, id, _)| (*at, *id))
                .map(|(_, _, value)| naive_quotient(*value, 1000)),
            Aggregation::Max => {
                values.iter().map(|(_, _, value)| *value).max().map(|value| naive_quotient(value, 1000))
            }
            Aggregation::Min => {
                values.iter().map(|(_, _, value)| *value).min().map(|value| naive_quotient(value, 1000))
            }
            Aggregation::WeightedSum => {
                let weighted: i128 = values.iter().map(|(at, _, value)| value * i128::from(end - at)).sum();
                Some(naive_quotient(weighted, 1000 * i128::from(end - start)))
            }
        }
    }

    proptest! {
        #[test]
        fn every_aggregation_is_that_of_the_naive_reference(
            which in 0..Aggregation::ALL.len(),
            given in prop::collection::vec((0_i64..1000, given()), 0..40),
            shuffle: u64
        ) {
            let aggregation = Aggregation::ALL[which].1;
            let (start, end) = (0, 1000);
            let mut events: Vec<(i64, String, Given)> =
                given.into_iter().enumerate().map(|(index, (at, given))| (at, format!("e{index}"), given)).collect();
            let wanted = naive(aggregation, &events, start, end);
            // The order in which values come does not matter.
            events.sort_by_key(|(_, id, _)| xxhash_rust::xxh3::xxh3_64_with_seed(id.as_bytes(), shuffle));
            let mut tally = Tally::of(aggregation);
            for (millis, event_id, given) in &events {
                let (quantity, text) = match given {
                    Given::Thousandths(value) => (Quantity::of_json(&written(*value)), Some(written(*value))),
                    Given::Missing => (Quantity::of_json("null"), None),
                    Given::NotNumeric => (Quantity::of_json("\"x\""), Some("x".to_owned())),
                };
                let sample =
                    Sample { events: 1, quantity: &quantity, text: text.as_deref(), millis: *millis, event_id };
                tally.add(&sample, end);
            }
            prop_assert_eq!(tally.events, events.len() as u64);
            let missing = events.iter().filter(|(_, _, given)| matches!(given, Given::Missing)).count() as u64;
            prop_assert_eq!(tally.missing, if aggregation.needs_value() { missing } else { 0 });
            prop_assert_eq!(tally.into_value(end - start).as_ref().map(plain), wanted);
        }
    }

    #[test]
    fn events_of_one_value_count_together() {
        let mut tally = Tally::of(Aggregation::Sum);
        let quantity = Quantity::of_json("0.1");
        let sample = Sample { events: 10, quantity: &quantity, text: None, millis: 0, event_id: "" };
        tally.add(&sample, 1);
        assert_eq!(plain(&tally.into_value(1).unwrap()), "1");
    }
}

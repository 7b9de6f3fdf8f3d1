//! What became of each person → the numbers of the answer.

use std::collections::HashMap;

use serde::{Serialize, Serializer};

use super::fold::{Event, Order, Reached, SKIPPED, fold, taken};
use super::{Plan, PlannedBreakdown, Viz};
use crate::http::Problem;
use crate::query::gather::{Values, too_many_people, untuple};
use crate::query::interval::Interval;
use crate::query::trends::OTHER;

/// The answer's numbers.
#[derive(Debug, Serialize)]
pub struct Results {
    /// What the steps are called.
    pub steps: Vec<String>,
    /// With `viz` `trends`: the buckets for people, and for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub days: Option<Vec<String>>,
    #[serde(flatten)]
    pub numbers: Numbers,
}

/// One set of numbers, or one for each value of the breakdown.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Numbers {
    Whole(Row),
    Rows { rows: Vec<BrokenDown> },
}

/// The numbers of one value of the breakdown.
#[derive(Debug, Serialize)]
pub struct BrokenDown {
    /// A text for each property.
    pub breakdown: Vec<String>,
    #[serde(flatten)]
    pub row: Row,
}

/// What is shown.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Row {
    Steps {
        /// People who took this step, and all before it that may not be left out.
        counts: Vec<u64>,
        /// Percent of those who took the first step.
        conversion_rates: Vec<Rounded>,
        /// From the last step before that may not be left out; null for the first, and where nobody came.
        avg_seconds: Vec<Option<Seconds>>,
        median_seconds: Vec<Option<Seconds>>,
    },
    Trends {
        /// People a bucket who came to `from_step`, of those who began in it.
        reached_from_step: Vec<u64>,
        reached_to_step: Vec<u64>,
        /// Percent, two decimals.
        conversion_rate: Vec<Rounded>,
    },
    TimeToConvert {
        /// Where each bar begins, in seconds, and how many people it has. The last bar is for those who took longest.
        bins: Vec<(i64, u64)>,
        average: Option<Seconds>,
    },
}

/// A number with two decimals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rounded(f64);

/// Seconds, whole ones without a point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seconds(f64);

impl Serialize for Rounded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Seconds((self.0 * 100.0).round() / 100.0).serialize(serializer)
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Every whole number up to here is exact.
        if self.0.fract() == 0.0 && self.0.abs() < 9e15 {
            serializer.serialize_i64(self.0 as i64)
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

/// What is counted for one value.
#[derive(Clone, Debug)]
struct Tally {
    /// Milliseconds from the last step before that may not be left out, of each person who took the step; none for the first step.
    gaps: Vec<Vec<i64>>,
    /// People who took at least the first step.
    entered: u64,
    /// With `trends`: by bucket.
    from: Vec<u64>,
    to: Vec<u64>,
    /// With `time_to_convert`: milliseconds from `from_step` to `to_step`.
    spans: Vec<i64>,
}

impl Tally {
    fn new(plan: &Plan) -> Self {
        let buckets = plan.buckets.as_ref().map_or(0, crate::query::interval::Buckets::len);
        Self {
            gaps: vec![Vec::new(); plan.rules.steps],
            entered: 0,
            from: vec![0; buckets],
            to: vec![0; buckets],
            spans: Vec::new(),
        }
    }

    fn join(&mut self, other: &Self) {
        self.entered += other.entered;
        for (gaps, others) in self.gaps.iter_mut().zip(&other.gaps) {
            gaps.extend(others);
        }
        for (counts, others) in [(&mut self.from, &other.from), (&mut self.to, &other.to)] {
            counts.iter_mut().zip(others).for_each(|(count, other)| *count += other);
        }
        self.spans.extend(&other.spans);
    }

    /// For the order of values.
    fn size(&self) -> u64 {
        self.entered + self.from.iter().sum::<u64>() + self.spans.len() as u64
    }
}

/// Everything that is counted, by value.
pub(super) struct Counted {
    tallies: HashMap<u32, Tally>,
    people: u64,
    people_max: u64,
}

impl Counted {
    pub(super) fn new(plan: &Plan, people_max: u64) -> Self {
        let mut tallies = HashMap::new();
        if plan.breakdown.is_none() {
            tallies.insert(0, Tally::new(plan));
        }
        Self { tallies, people: 0, people_max }
    }

    /// Counts a person.
    ///
    /// # Errors
    /// 400: more than `query.gather_people_max` people.
    pub(super) fn add(&mut self, plan: &Plan, events: &[Event]) -> Result<(), Problem> {
        if plan.viz == Viz::Trends {
            self.add_buckets(plan, events);
            return Ok(());
        }
        let tallies = &mut self.tallies;
        let mut people = 0;
        each_value(
            plan,
            events,
            |_| true,
            |value, reached| {
                let Reached::Steps(times) = reached else { return };
                let tally = tallies.entry(value).or_insert_with(|| Tally::new(plan));
                people += 1;
                if plan.viz == Viz::TimeToConvert {
                    if let (Some(from), Some(to)) =
                        (taken(&times, plan.from_step), taken(&times, plan.to_step))
                    {
                        tally.spans.push(to - from);
                    }
                    return;
                }
                tally.entered += 1;
                for (step, (gaps, at)) in tally.gaps.iter_mut().zip(&times).enumerate().skip(1) {
                    if *at != SKIPPED {
                        gaps.push(at - times[plan.rules.required_before(step)]);
                    }
                }
            },
        );
        self.people += people;
        if self.people > self.people_max {
            return Err(too_many_people(self.people_max));
        }
        Ok(())
    }

    /// Counts a person in every bucket in which they begin.
    fn add_buckets(&mut self, plan: &Plan, events: &[Event]) {
        for (bucket, begins) in buckets(plan, events) {
            let tallies = &mut self.tallies;
            each_value(
                plan,
                events,
                |event| begins.contains(&event.at),
                |value, reached| {
                    let Reached::Steps(times) = reached else { return };
                    let tally = tallies.entry(value).or_insert_with(|| Tally::new(plan));
                    tally.from[bucket] += u64::from(times.len() > plan.from_step);
                    tally.to[bucket] += u64::from(times.len() > plan.to_step);
                },
            );
        }
    }

    /// The answer.
    pub(super) fn results(self, plan: &Plan, values: &Values) -> Results {
        let numbers = match &plan.breakdown {
            None => Numbers::Whole(row(plan, self.whole(plan))),
            Some(breakdown) => Numbers::Rows { rows: self.rows(plan, breakdown, values) },
        };
        shown(plan, numbers)
    }

    /// What was counted without a breakdown.
    fn whole(mut self, plan: &Plan) -> Tally {
        self.tallies.remove(&0).unwrap_or_else(|| Tally::new(plan))
    }

    fn rows(self, plan: &Plan, breakdown: &PlannedBreakdown, values: &Values) -> Vec<BrokenDown> {
        let mut tallies: Vec<(String, Tally)> = self
            .tallies
            .into_iter()
            .map(|(value, tally)| (values.text(value).to_owned(), tally))
            .filter(|(_, tally)| tally.size() > 0)
            .collect();
        tallies.sort_by_cached_key(|(text, tally)| {
            (std::cmp::Reverse(tally.size()), text.to_lowercase(), text.clone())
        });
        let others = tallies.split_off(breakdown.limit.min(tallies.len()));
        let mut rows: Vec<BrokenDown> = tallies
            .into_iter()
            .map(|(text, tally)| BrokenDown {
                breakdown: untuple(&text, breakdown.properties),
                row: row(plan, tally),
            })
            .collect();
        if !others.is_empty() && !breakdown.hide_other {
            let mut rest = Tally::new(plan);
            others.iter().for_each(|(_, tally)| rest.join(tally));
            let breakdown = vec![OTHER.to_owned(); breakdown.properties];
            rows.push(BrokenDown { breakdown, row: row(plan, rest) });
        }
        rows
    }
}

fn shown(plan: &Plan, numbers: Numbers) -> Results {
    let (labels, days) = bucket_names(plan).unzip();
    Results { steps: plan.names.iter().map(|(_, name)| name.clone()).collect(), labels, days, numbers }
}

/// The answer with a row for each of these cohorts, most people first; one without people has its row, too.
pub(super) fn of_cohorts(plan: &Plan, cohorts: Vec<(&str, Counted)>) -> Results {
    let mut tallies: Vec<(&str, Tally)> =
        cohorts.into_iter().map(|(id, counted)| (id, counted.whole(plan))).collect();
    tallies.sort_by_key(|(id, tally)| (std::cmp::Reverse(tally.size()), *id));
    let rows = tallies.into_iter();
    let rows = rows.map(|(id, tally)| BrokenDown { breakdown: vec![id.to_owned()], row: row(plan, tally) });
    shown(plan, Numbers::Rows { rows: rows.collect() })
}

/// Folds a person's events for each value that they count for.
pub(super) fn each_value(
    plan: &Plan,
    events: &[Event],
    begins: impl Fn(&Event) -> bool,
    mut show: impl FnMut(u32, Reached),
) {
    match &plan.breakdown {
        Some(breakdown) => breakdown.attribution.fold(&plan.rules, events, begins, show),
        None => show(0, fold(&plan.rules, events, |step, event| step != 0 || begins(event))),
    }
}

/// The buckets in which a person may begin, with the times (from the range's beginning) that they hold.
pub(super) fn buckets(plan: &Plan, events: &[Event]) -> Vec<(usize, std::ops::Range<i64>)> {
    let Some(buckets) = &plan.buckets else { return Vec::new() };
    let origin = plan.gather.range.from.as_millis();
    let starts = buckets.starts();
    let start_of = |bucket: usize| starts.get(bucket).map_or(i64::MAX, |start| start.as_millis() - origin);
    let begins = |event: &Event| {
        if plan.rules.order == Order::Unordered { event.steps != 0 } else { event.steps & 1 != 0 }
    };
    let mut found: Vec<(usize, std::ops::Range<i64>)> = Vec::new();
    for event in events.iter().filter(|event| begins(event)) {
        if found.last().is_some_and(|(_, times)| times.contains(&event.at)) {
            continue;
        }
        let bucket = starts.partition_point(|start| start.as_millis() - origin <= event.at).saturating_sub(1);
        found.push((bucket, start_of(bucket)..start_of(bucket + 1)));
    }
    found
}

fn row(plan: &Plan, mut tally: Tally) -> Row {
    match plan.viz {
        Viz::Steps => {
            let gaps = tally.gaps.iter().skip(1).map(|gaps| gaps.len() as u64);
            let counts: Vec<u64> = std::iter::once(tally.entered).chain(gaps).collect();
            let rate = |count: &u64| percent(*count, tally.entered);
            Row::Steps {
                conversion_rates: counts.iter().map(rate).collect(),
                avg_seconds: tally.gaps.iter().map(|gaps| average(gaps)).collect(),
                median_seconds: tally.gaps.iter_mut().map(|gaps| median(gaps)).collect(),
                counts,
            }
        }
        Viz::Trends => Row::Trends {
            conversion_rate: tally.from.iter().zip(&tally.to).map(|(from, to)| percent(*to, *from)).collect(),
            reached_from_step: tally.from,
            reached_to_step: tally.to,
        },
        Viz::TimeToConvert => {
            Row::TimeToConvert { bins: bins(&tally.spans, plan.bin_count), average: average(&tally.spans) }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share is a float")]
fn percent(part: u64, whole: u64) -> Rounded {
    Rounded(if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 })
}

#[expect(clippy::cast_precision_loss, reason = "an average is a float")]
fn average(millis: &[i64]) -> Option<Seconds> {
    let sum: i128 = millis.iter().map(|gap| i128::from(*gap)).sum();
    (!millis.is_empty()).then(|| Seconds(sum as f64 / millis.len() as f64 / 1000.0))
}

/// Between the two in the middle, of an even number.
#[expect(clippy::cast_precision_loss, reason = "times are far below 2^53 ms")]
fn median(millis: &mut [i64]) -> Option<Seconds> {
    let middle = millis.len() / 2;
    if millis.is_empty() {
        return None;
    }
    let (below, upper, _) = millis.select_nth_unstable(middle);
    let upper = *upper;
    let lower = below.iter().copied().max().unwrap_or(upper);
    let is_odd = millis.len() % 2 == 1;
    Some(Seconds(if is_odd { upper as f64 } else { f64::midpoint(lower as f64, upper as f64) } / 1000.0))
}

/// As many bars as the cube root of the number of people (at most 60) unless said otherwise, of whole seconds, and one
/// more for the end of the last.
fn bins(millis: &[i64], count: Option<usize>) -> Vec<(i64, u64)> {
    #[expect(clippy::cast_precision_loss, reason = "a cube root of at most 60")]
    let natural = (millis.len() as f64).cbrt().ceil().clamp(1.0, 60.0) as i64;
    let count = count.map_or(natural, |count| count as i64);
    let shortest = millis.iter().min().map_or(0, |millis| millis.div_euclid(1000));
    let longest = millis.iter().max().map_or(0, |millis| -(-millis).div_euclid(1000));
    // Rounded up.
    let width = -(shortest - longest).div_euclid(count);
    let width = if width > 0 { width } else { 60 };
    let mut bars: Vec<(i64, u64)> = (0..=count).map(|bar| (shortest + bar * width, 0)).collect();
    for millis in millis {
        let bar = (millis - shortest * 1000).div_euclid(width * 1000);
        if let Some((_, people)) = usize::try_from(bar).ok().and_then(|bar| bars.get_mut(bar)) {
            *people += 1;
        }
    }
    bars
}

/// What the buckets of `trends` are called: for people, and for programs.
fn bucket_names(plan: &Plan) -> Option<(Vec<String>, Vec<String>)> {
    let buckets = plan.buckets.as_ref()?;
    let (label, day) = match plan.interval {
        Interval::Minute | Interval::Hour => ("%-d-%b %H:%M", "%Y-%m-%dT%H:%M:%S%:z"),
        Interval::Day | Interval::Week | Interval::Month => ("%-d-%b-%Y", "%Y-%m-%d"),
    };
    let name = |format: &str| {
        let starts = buckets.starts().iter();
        starts.map(|start| plan.calendar.zoned(*start).format(format).to_string()).collect()
    };
    Some((name(label), name(day)))
}

/// The buckets for programs; none without `trends`.
pub(super) fn days(plan: &Plan) -> Vec<String> {
    bucket_names(plan).map(|(_, days)| days).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_of_whole_seconds_and_one_more_than_asked() {
        let seconds = [2220, 3600, 82_800].map(|seconds| seconds * 1000);
        assert_eq!(bins(&seconds, None), [(2220, 2), (42_510, 0), (82_800, 1)]);
        assert_eq!(bins(&seconds, Some(1)), [(2220, 2), (82_800, 1)]);
        assert_eq!(bins(&[5000, 5000], None), [(5, 2), (65, 0), (125, 0)]);
        assert_eq!(bins(&[], None), [(0, 0), (60, 0)]);
        for (millis, count) in [(vec![1, 999, 1001], None), (vec![0, 10_001, 3], Some(7))] {
            assert_eq!(bins(&millis, count).iter().map(|(_, people)| people).sum::<u64>(), 3);
        }
    }

    #[test]
    fn a_median_lies_between_the_two_in_the_middle() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [3000]), Some(Seconds(3.0)));
        assert_eq!(median(&mut [1000, 9000, 2000]), Some(Seconds(2.0)));
        assert_eq!(median(&mut [4000, 1000, 2000, 9000]), Some(Seconds(3.0)));
    }

    #[test]
    fn whole_numbers_have_no_point_and_rates_two_decimals() {
        let seconds = |seconds: f64| serde_json::to_string(&Seconds(seconds)).unwrap();
        let rate = |part, whole| serde_json::to_string(&percent(part, whole)).unwrap();
        assert_eq!((seconds(6000.0).as_str(), seconds(0.5).as_str()), ("6000", "0.5"));
        assert_eq!([rate(1, 3), rate(1, 1), rate(1, 0)], ["33.33", "100", "0"]);
    }
}

//! Rows of the store → lines of the answer.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::breakdown::bin_name;
use super::formula::Formula;
use super::plan::{Period, Plan, PlannedBreakdown, PlannedSeries};
use super::{Display, Math};
use crate::query::interval::Interval;
use crate::store::{self, RowCells, StoreError};

/// The breakdown value of all values after the last that has a line.
pub const OTHER: &str = "$$_posthog_breakdown_other_$$";
/// The breakdown value of events without one.
pub const WITHOUT: &str = "$$_posthog_breakdown_null_$$";

/// A row of a series' statement.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// The milliseconds at which the bucket begins.
    pub(super) bucket: i64,
    pub(super) value: f64,
    /// From 1 on; 0 without a breakdown.
    pub(super) place: u64,
    pub(super) label: String,
}

impl store::Row for Row {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self { bucket: cells.next()?, value: cells.next()?, place: cells.next()?, label: cells.next()? })
    }
}

/// What the store answered for one series in one period.
#[derive(Clone, Debug)]
pub(super) struct SeriesRows {
    /// In order of place.
    pub(super) rows: Vec<Row>,
    /// The bounds of the period's bins, where there are bins.
    pub(super) bins: Option<Vec<f64>>,
}

/// A number of an answer, written without a fraction where it has none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number(pub f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// Every whole number up to here is exact.
        const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
        if self.0.fract() == 0.0 && self.0.abs() <= WHOLE_MAX {
            #[expect(clippy::cast_possible_truncation, reason = "whole, and far from the ends")]
            return serializer.serialize_i64(self.0 as i64);
        }
        serializer.serialize_f64(self.0)
    }
}

/// A value of a breakdown, or of one by several properties.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Value {
    One(String),
    Many(Vec<String>),
}

impl Value {
    fn texts(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }

    fn name(&self) -> String {
        self.texts().join("::")
    }

    fn is_other(&self) -> bool {
        self.texts().iter().any(|text| text == OTHER)
    }

    /// Values first, then events that lack one, then all other values together.
    fn rank(&self) -> u8 {
        let without = self.texts().iter().any(|text| text == WITHOUT);
        if self.is_other() { 2 } else { u8::from(without) }
    }
}

/// A line of the answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Which series of the question, counted from 0. Absent of a formula.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub series: Option<usize>,
    /// The series' event; null: every event, or a formula.
    pub event: Option<String>,
    /// Absent of a formula.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub math: Option<Math>,
    /// What to call the line.
    pub label: String,
    /// The breakdown's value as text, [`WITHOUT`] or [`OTHER`]; of several properties a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breakdown: Option<Value>,
    /// Of periods that are compared: `current` or `previous`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compare_label: Option<&'static str>,
    /// One number a bucket; none where the display asks for one number.
    pub data: Vec<Number>,
    /// The buckets for people: `9-Jan-2020`, `9-Jan 00:00`.
    pub labels: Arc<[String]>,
    /// The buckets for programs: the date or, below a day, the time with its offset.
    pub days: Arc<[String]>,
    /// The sum of `data`; of sums that run up, the last.
    pub count: Number,
    /// The number for the whole range, where the display asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregated_value: Option<Number>,
}

/// What the buckets are called; every line of a period has the same.
pub(super) struct BucketNames {
    labels: Arc<[String]>,
    pub(super) days: Arc<[String]>,
}

impl BucketNames {
    pub(super) fn of(plan: &Plan, period: &Period) -> Self {
        let (label, day) = match plan.interval {
            Interval::Minute | Interval::Hour => ("%-d-%b %H:%M", "%Y-%m-%dT%H:%M:%S%:z"),
            Interval::Day | Interval::Week | Interval::Month => ("%-d-%b-%Y", "%Y-%m-%d"),
        };
        let starts = if plan.display.of_whole() { &[] } else { period.buckets.starts() };
        let name = |format: &str| {
            starts.iter().map(|start| plan.calendar.zoned(*start).format(format).to_string()).collect()
        };
        Self { labels: name(label), days: name(day) }
    }
}

/// Numbers by bucket, of one value of a breakdown or of no breakdown.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    value: Option<Value>,
    numbers: Vec<f64>,
}

impl Part {
    fn sum(&self) -> f64 {
        self.numbers.iter().sum()
    }
}

/// The lines of an answer; `rows` has every series of the first period, then of the next.
pub(super) fn lines(plan: &Plan, rows: &[SeriesRows]) -> Vec<Line> {
    let mut parts = rows
        .iter()
        .enumerate()
        .map(|(index, rows)| {
            let period = plan.periods.get(index / plan.series.len());
            let series = plan.series.get(index % plan.series.len());
            let of = period.zip(series).map(|(period, series)| parts_of(plan, period, series, rows));
            of.unwrap_or_default()
        })
        .collect::<Vec<_>>()
        .into_iter();
    let periods: Vec<(&Period, BucketNames, Vec<Vec<Part>>)> = plan
        .periods
        .iter()
        .map(|period| {
            let parts = parts.by_ref().take(plan.series.len()).collect();
            (period, BucketNames::of(plan, period), parts)
        })
        .collect();
    let mut lines = Vec::new();
    if plan.formulas.is_empty() {
        for (index, series) in plan.series.iter().enumerate() {
            for (period, names, parts) in &periods {
                let parts = parts.get(index).cloned().unwrap_or_default();
                let line =
                    |part| Line { series: Some(index), ..of_series(plan, series, period, names, part) };
                lines.extend(parts.into_iter().map(line));
            }
        }
        return lines;
    }
    for formula in &plan.formulas {
        for (period, names, parts) in &periods {
            let computed = computed(plan, formula, parts);
            lines.extend(computed.into_iter().map(|part| of_formula(plan, formula, period, names, part)));
        }
    }
    lines
}

/// The parts of one series, from its rows. A series without a breakdown is one part even without rows; one with a
/// breakdown has a part for every value that occurs.
fn parts_of(plan: &Plan, period: &Period, series: &PlannedSeries, rows: &SeriesRows) -> Vec<Part> {
    let keys: Vec<i64> = (0..period.buckets.len()).map(|index| plan.key(period, series, index)).collect();
    let numbers = |rows: &[Row]| {
        let by_key: HashMap<i64, f64> = rows.iter().map(|row| (row.bucket, row.value)).collect();
        let number = |key: &i64| by_key.get(key).copied().filter(|value| value.is_finite()).unwrap_or(0.0);
        smoothed(keys.iter().map(number).collect(), plan.smoothing)
    };
    let Some(breakdown) = &plan.breakdown else {
        return vec![Part { value: None, numbers: numbers(&rows.rows) }];
    };
    let bins = rows.bins.as_deref();
    rows.rows
        .chunk_by(|a, b| a.place == b.place)
        .map(|rows| Part { value: Some(value_of(breakdown, bins, rows)), numbers: numbers(rows) })
        .collect()
}

/// The value of rows with one place.
fn value_of(breakdown: &PlannedBreakdown, bins: Option<&[f64]>, rows: &[Row]) -> Value {
    let (place, label) = rows.first().map_or((0, ""), |row| (row.place, row.label.as_str()));
    let other = place > breakdown.fetched as u64;
    let shown = |text: String| if text.is_empty() { WITHOUT.to_owned() } else { text };
    if breakdown.many {
        // A list that was cut for its length is shown as it is.
        let texts: Vec<String> = serde_json::from_str(label).unwrap_or_else(|_| vec![label.to_owned()]);
        let texts = texts.into_iter().map(|text| if other { OTHER.to_owned() } else { shown(text) });
        return Value::Many(texts.collect());
    }
    if other {
        return Value::One(OTHER.to_owned());
    }
    let bin = bins.and_then(|bins| bin_name(bins, label.parse().ok()?));
    Value::One(bin.unwrap_or_else(|| shown(label.to_owned())))
}

/// Means over `width` buckets, rounded down.
fn smoothed(numbers: Vec<f64>, width: usize) -> Vec<f64> {
    if width <= 1 {
        return numbers;
    }
    let mean = |index: usize| {
        let window = numbers.get((index + 1).saturating_sub(width)..=index).unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "a window has few buckets")]
        let mean = window.iter().sum::<f64>() / window.len() as f64;
        mean.floor()
    };
    (0..numbers.len()).map(mean).collect()
}

/// A formula's parts: one without a breakdown, else one for each value that any series has.
fn computed(plan: &Plan, formula: &Formula, series: &[Vec<Part>]) -> Vec<Part> {
    let buckets = series.iter().flatten().next().map_or(0, |part| part.numbers.len());
    let apply = |of_series: &[Vec<f64>]| -> Vec<f64> {
        let at = |index: usize| -> Vec<f64> {
            of_series.iter().map(|numbers| numbers.get(index).copied().unwrap_or(0.0)).collect()
        };
        (0..buckets).map(|index| formula.value(&at(index))).collect()
    };
    let Some(breakdown) = &plan.breakdown else {
        let numbers: Vec<Vec<f64>> = series
            .iter()
            .map(|parts| parts.first().map(|part| part.numbers.clone()).unwrap_or_default())
            .collect();
        return vec![Part { value: None, numbers: apply(&numbers) }];
    };
    let mut values: BTreeMap<Value, Vec<Vec<f64>>> = BTreeMap::new();
    for (index, parts) in series.iter().enumerate() {
        for part in parts {
            let Some(value) = part.value.clone() else { continue };
            let of_series = values.entry(value).or_insert_with(|| vec![vec![0.0; buckets]; series.len()]);
            if let Some(numbers) = of_series.get_mut(index) {
                numbers.clone_from(&part.numbers);
            }
        }
    }
    let mut ranked: Vec<(Value, Vec<Vec<f64>>, Part)> = values
        .into_iter()
        .map(|(value, of_series)| {
            let part = Part { value: Some(value.clone()), numbers: apply(&of_series) };
            (value, of_series, part)
        })
        .collect();
    // Greatest first; ties stay in order of value.
    ranked.sort_by(|a, b| a.0.rank().cmp(&b.0.rank()).then(b.2.sum().total_cmp(&a.2.sum())));
    let shown = ranked.iter().take_while(|(value, ..)| !value.is_other()).count().min(breakdown.limit);
    let rest = ranked.split_off(shown);
    let mut parts: Vec<Part> = ranked.into_iter().map(|(.., part)| part).collect();
    if let Some((value, ..)) = rest.first().filter(|_| !breakdown.hide_other) {
        let value = match value {
            Value::One(_) => Value::One(OTHER.to_owned()),
            Value::Many(texts) => Value::Many(vec![OTHER.to_owned(); texts.len()]),
        };
        parts.push(Part { value: Some(value), numbers: apply(&summed(&rest, series.len(), buckets)) });
    }
    parts
}

/// The numbers of each series over all of these values.
fn summed(rest: &[(Value, Vec<Vec<f64>>, Part)], series: usize, buckets: usize) -> Vec<Vec<f64>> {
    let mut sums = vec![vec![0.0; buckets]; series];
    for (_, of_series, _) in rest {
        for (sum, numbers) in sums.iter_mut().zip(of_series) {
            for (sum, number) in sum.iter_mut().zip(numbers) {
                *sum += number;
            }
        }
    }
    sums
}

fn of_series(plan: &Plan, series: &PlannedSeries, period: &Period, names: &BucketNames, part: Part) -> Line {
    let label = match &part.value {
        Some(value) if plan.series.len() > 1 => format!("{} - {}", series.name, value.name()),
        Some(value) => value.name(),
        None => series.name.clone(),
    };
    let line = line(plan, label, period, names, part);
    Line { event: series.event.clone(), math: Some(series.math), ..line }
}

fn of_formula(plan: &Plan, formula: &Formula, period: &Period, names: &BucketNames, part: Part) -> Line {
    line(plan, format!("Formula ({})", formula.text), period, names, part)
}

fn line(plan: &Plan, label: String, period: &Period, names: &BucketNames, part: Part) -> Line {
    let whole = plan.display.of_whole();
    let count = part.sum();
    let Part { value, mut numbers } = part;
    let aggregated_value = whole.then(|| Number(numbers.first().copied().unwrap_or(0.0)));
    if whole {
        numbers.clear();
    }
    if plan.display == Display::Cumulative {
        let mut sum = 0.0;
        for number in &mut numbers {
            sum += *number;
            *number = sum;
        }
    }
    Line {
        series: None,
        event: None,
        math: None,
        label,
        breakdown: value,
        compare_label: period.label,
        data: numbers.into_iter().map(Number).collect(),
        labels: names.labels.clone(),
        days: names.days.clone(),
        count: Number(if whole { 0.0 } else { count }),
        aggregated_value,
    }
}

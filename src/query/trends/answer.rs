//! Rows of the store → lines of the answer.

use std::sync::Arc;

use serde::Serialize;

use super::{Math, Plan, PlannedSeries};
use crate::event::Timestamp;
use crate::query::interval::Interval;
use crate::store::{self, RowCells, StoreError};

/// The breakdown value of all values after the last that has a line.
pub const OTHER: &str = "$$_posthog_breakdown_other_$$";
/// The breakdown value of events without one.
pub const WITHOUT: &str = "$$_posthog_breakdown_null_$$";

/// A row of a series' statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The milliseconds at which the bucket begins.
    pub(super) bucket: i64,
    pub(super) value: u64,
    /// From 1 on; 0 without a breakdown.
    pub(super) place: u64,
    pub(super) label: String,
}

impl store::Row for Row {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self { bucket: cells.next()?, value: cells.next()?, place: cells.next()?, label: cells.next()? })
    }
}

/// A line of the answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// The series' event; null: every event.
    pub event: Option<String>,
    pub math: Math,
    /// What to call the line.
    pub label: String,
    /// The breakdown's value as text, [`WITHOUT`] or [`OTHER`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breakdown: Option<String>,
    /// One number a bucket.
    pub data: Vec<u64>,
    /// The buckets for people: `9-Jan-2020`, `9-Jan 00:00`.
    pub labels: Arc<[String]>,
    /// The buckets for programs: the date or, below a day, the time with its offset.
    pub days: Arc<[String]>,
    /// The sum of `data`.
    pub count: u64,
}

/// What the buckets are called; every line has the same.
pub(super) struct BucketNames {
    labels: Arc<[String]>,
    days: Arc<[String]>,
}

impl BucketNames {
    pub(super) fn of(plan: &Plan) -> Self {
        let (label, day) = match plan.interval {
            Interval::Minute | Interval::Hour => ("%-d-%b %H:%M", "%Y-%m-%dT%H:%M:%S%:z"),
            Interval::Day | Interval::Week | Interval::Month => ("%-d-%b-%Y", "%Y-%m-%d"),
        };
        let name = |format: &str| {
            plan.buckets
                .starts()
                .iter()
                .map(|start| plan.calendar.zoned(*start).format(format).to_string())
                .collect()
        };
        Self { labels: name(label), days: name(day) }
    }
}

/// The lines of one series, from its rows in order of place. A series without a breakdown is one line even without
/// rows; one with a breakdown has a line for every value that occurs.
pub(super) fn lines(plan: &Plan, series: &PlannedSeries, names: &BucketNames, rows: &[Row]) -> Vec<Line> {
    let Some(breakdown) = &plan.breakdown else { return vec![line(plan, series, names, None, rows)] };
    rows.chunk_by(|a, b| a.place == b.place)
        .map(|rows| {
            let value = match rows.first() {
                Some(row) if row.place > breakdown.limit as u64 => OTHER,
                Some(row) if !row.label.is_empty() => &row.label,
                _ => WITHOUT,
            };
            line(plan, series, names, Some(value), rows)
        })
        .collect()
}

fn line(
    plan: &Plan,
    series: &PlannedSeries,
    names: &BucketNames,
    breakdown: Option<&str>,
    rows: &[Row],
) -> Line {
    let mut data = vec![0; plan.buckets.len()];
    for row in rows {
        let index = plan.buckets.index_of(Timestamp::from_millis(row.bucket));
        if let Some(sum) = index.and_then(|index| data.get_mut(index)) {
            *sum += row.value;
        }
    }
    let event = series.event.as_deref().unwrap_or("All events");
    let label = match breakdown {
        Some(value) if plan.series.len() > 1 => format!("{event} - {value}"),
        Some(value) => value.to_owned(),
        None => event.to_owned(),
    };
    Line {
        event: series.event.clone(),
        math: series.math,
        label,
        breakdown: breakdown.map(str::to_owned),
        count: data.iter().sum(),
        data,
        labels: names.labels.clone(),
        days: names.days.clone(),
    }
}

//! What the dashboard shows, computed from two looks.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::samples::Samples;
use crate::cli::output::cell;
use crate::cli::status::items;
use crate::telemetry::{Metric, names};

/// Counters that are shown as rates, as people call them.
const RATES: [(&str, &Metric); 13] = [
    ("accepted", &names::CAPTURE_EVENTS_ACCEPTED),
    ("rejected", &names::CAPTURE_EVENTS_REJECTED),
    ("not taken by the log", &names::CAPTURE_PRODUCE_ERRORS),
    ("read from the log", &names::CONSUMER_MESSAGES_CONSUMED),
    ("stored", &names::CONSUMER_RECORDS_STORED),
    ("already stored", &names::CONSUMER_RECORDS_ALREADY_STORED),
    ("duplicates", &names::CONSUMER_DUPLICATES),
    ("dead letters", &names::CONSUMER_DLQ_MESSAGES),
    ("dropped", &names::CONSUMER_RECORDS_DROPPED),
    ("batches", &names::CONSUMER_BATCHES_WRITTEN),
    ("insert errors", &names::CONSUMER_INSERT_ERRORS),
    ("questions", &names::QUERY_REQUESTS),
    ("questions failed", &names::QUERY_ERRORS),
];

/// Histograms that are shown by their mean, with the unit.
const MEANS: [(&str, &Metric, &str); 5] = [
    ("rows a batch", &names::CONSUMER_BATCH_ROWS, ""),
    ("insert", &names::CONSUMER_INSERT_DURATION, "s"),
    ("receipt to visible", &names::CONSUMER_VISIBILITY, "s"),
    ("capture answers in", &names::CAPTURE_REQUEST_DURATION, "s"),
    ("trends answer in", &names::QUERY_TREND_DURATION, "s"),
];

/// Everything at one moment.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub at: Instant,
    pub metrics: Samples,
    pub lag: Value,
    pub components: Value,
}

/// One frame.
#[derive(Debug, Serialize)]
pub(super) struct View {
    pub url: String,
    /// As `/ready` says it.
    pub status: String,
    pub rates: Vec<Rate>,
    pub means: Vec<Mean>,
    pub groups: Vec<Group>,
    /// Since the processes began.
    pub dead_letters: BTreeMap<String, f64>,
    pub breakers: BTreeMap<String, &'static str>,
    pub components: Vec<Component>,
}

/// A counter.
#[derive(Debug, Serialize)]
pub(super) struct Rate {
    pub name: &'static str,
    pub per_second: Option<f64>,
    pub total: f64,
}

/// A histogram between two looks.
#[derive(Debug, Serialize)]
pub(super) struct Mean {
    pub name: &'static str,
    pub mean: Option<f64>,
    pub unit: &'static str,
}

/// A consumer group on a topic.
#[derive(Debug, Serialize)]
pub(super) struct Group {
    pub group: String,
    pub topic: String,
    pub partitions: usize,
    pub lag: i64,
    /// Of the partition that is furthest behind.
    pub lag_max: i64,
    /// Records committed.
    pub per_second: Option<f64>,
}

/// A part of the process that is asked.
#[derive(Debug, Serialize)]
pub(super) struct Component {
    pub name: String,
    pub state: String,
    pub reason: String,
}

impl View {
    pub(super) fn new(url: &str, before: Option<&Look>, now: &Look) -> Self {
        let seconds = before.map(|before| now.at.duration_since(before.at).as_secs_f64());
        let pair = before.zip(seconds.filter(|seconds| *seconds > 0.0));
        let rates = RATES.iter().map(|(name, metric)| {
            let total = now.metrics.sum(metric.name);
            let per_second =
                pair.map(|(before, seconds)| grown(before.metrics.sum(metric.name), total) / seconds);
            Rate { name, per_second, total }
        });
        let means = MEANS.iter().map(|(name, metric, unit)| {
            let mean = before.and_then(|before| mean(&before.metrics, &now.metrics, metric.name));
            Mean { name, mean, unit }
        });
        let state = |state: f64| match state {
            0.0 => "closed",
            1.0 => "half-open",
            _ => "open",
        };
        let breakers = now.metrics.greatest_by(names::BREAKER_STATE.name, "dependency");
        let dead = now.metrics.by(names::CONSUMER_DLQ_MESSAGES.name, "error_kind");
        let components = items(&now.components["components"]).iter().map(|component| Component {
            name: cell(&component["name"]),
            state: cell(&component["state"]),
            reason: cell(&component["reason"]),
        });
        Self {
            url: url.to_owned(),
            status: cell(&now.components["status"]),
            rates: rates.collect(),
            means: means.collect(),
            groups: groups(pair.map(|(before, seconds)| (&before.lag, seconds)), &now.lag),
            dead_letters: dead.into_iter().map(|(kind, total)| (kind.to_owned(), total)).collect(),
            breakers: breakers.into_iter().map(|(name, value)| (name.to_owned(), state(value))).collect(),
            components: components.collect(),
        }
    }
}

/// How much a counter grew; one that is smaller than before began anew.
fn grown(before: f64, now: f64) -> f64 {
    if now < before { now } else { now - before }
}

fn mean(before: &Samples, now: &Samples, name: &str) -> Option<f64> {
    let of = |suffix: &str| {
        let name = format!("{name}{suffix}");
        grown(before.sum(&name), now.sum(&name))
    };
    let count = of("_count");
    (count > 0.0).then(|| of("_sum") / count)
}

fn groups(before: Option<(&Value, f64)>, now: &Value) -> Vec<Group> {
    let committed = |lag: &Value| {
        let mut sums: BTreeMap<(String, String), i64> = BTreeMap::new();
        for row in items(&lag["groups"]) {
            let key = (cell(&row["group"]), cell(&row["topic"]));
            *sums.entry(key).or_default() += row["committed"].as_i64().unwrap_or_default();
        }
        sums
    };
    let (sums, before) = (committed(now), before.map(|(lag, seconds)| (committed(lag), seconds)));
    let mut found: Vec<Group> = Vec::new();
    for row in items(&now["groups"]) {
        let (group, topic) = (cell(&row["group"]), cell(&row["topic"]));
        let lag = row["lag"].as_i64().unwrap_or_default();
        match found.iter_mut().find(|one| one.group == group && one.topic == topic) {
            Some(one) => {
                one.partitions += 1;
                one.lag += lag;
                one.lag_max = one.lag_max.max(lag);
            }
            None => {
                let key = (group.clone(), topic.clone());
                let per_second = before.as_ref().map(|(before, seconds)| {
                    let moved = sums.get(&key).unwrap_or(&0) - before.get(&key).unwrap_or(&0);
                    float(moved.max(0)) / seconds
                });
                found.push(Group { group, topic, partitions: 1, lag, lag_max: lag, per_second });
            }
        }
    }
    found
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn float(number: i64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_began_anew_has_grown_by_what_it_is() {
        assert!((grown(10.0, 15.0) - 5.0).abs() < f64::EPSILON);
        assert!((grown(10.0, 4.0) - 4.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_mean_is_over_what_came_in_between() {
        let before = Samples::parse("h_sum 10\nh_count 10\n");
        let now = Samples::parse("h_sum 16\nh_count 12\n");
        assert_eq!(mean(&before, &now, "h"), Some(3.0));
        assert_eq!(mean(&now, &now, "h"), None);
    }
}

//! What people and metrics see of a stage: counters, lag, breakers, its component in `/ready`, one log line a batch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use metrics::Gauge;

use super::control::Control;
use super::core::{Dependency, Notice, PartReport, Report};
use crate::event::ErrorKind;
use crate::eventlog::TopicPartition;
use crate::lifecycle::{BreakerState, Component};
use crate::telemetry::names;

/// Where a partition stands, and the gauge that says so.
struct Lag {
    end: i64,
    committed: i64,
    gauge: Gauge,
}

impl Lag {
    fn show(&self) {
        self.gauge.set(self.end.saturating_sub(self.committed).max(0) as f64);
    }
}

/// See the [module](self).
pub(super) struct Observer {
    stage: &'static str,
    /// What its inserts go to.
    writes_to: &'static str,
    /// Does it count its records? See [`super::Stage::accounts`].
    accounts: bool,
    component: Component,
    control: Control,
    lags: BTreeMap<TopicPartition, Lag>,
    /// What keeps the stage from its work, or from a part of it.
    breakers: BTreeMap<Dependency, String>,
    missing: BTreeSet<Arc<str>>,
    standstills: BTreeMap<TopicPartition, String>,
    joined: Result<(), String>,
}

impl Observer {
    pub(super) fn new(
        (stage, writes_to): (&'static str, &'static str),
        accounts: bool,
        component: Component,
        control: Control,
    ) -> Self {
        for dependency in [Dependency::Store, Dependency::EventLog] {
            breaker_gauge(stage, named(dependency, writes_to)).set(0.0);
        }
        Self {
            stage,
            writes_to,
            accounts,
            component,
            control,
            lags: BTreeMap::new(),
            breakers: BTreeMap::new(),
            missing: BTreeSet::new(),
            standstills: BTreeMap::new(),
            joined: Err("it has not joined its group yet".to_owned()),
        }
    }

    /// It has its place in the group, or why not.
    pub(super) fn joined(&mut self, outcome: Result<(), String>) {
        self.joined = outcome;
        self.show();
    }

    pub(super) fn note(&mut self, notice: Notice) {
        if !self.accounts && is_accounting(&notice) {
            if let Notice::Expired { topic_partition, from, to } = notice {
                tell_expired(self.stage, &topic_partition, from, to);
            }
            return;
        }
        match notice {
            Notice::Taken { topic_partition, records } => {
                let topic = &*topic_partition.topic;
                names::CONSUMER_MESSAGES_CONSUMED.counter(&[("topic", topic)]).increment(records);
                names::CONSUMER_RECORDS_IN_FLIGHT.gauge(&[("topic", topic)]).increment(records as f64);
            }
            Notice::Released { topic_partition, records, reason } => {
                let topic = &*topic_partition.topic;
                names::CONSUMER_RECORDS_RELEASED
                    .counter(&[("topic", topic), ("reason", reason)])
                    .increment(records);
                names::CONSUMER_RECORDS_IN_FLIGHT.gauge(&[("topic", topic)]).decrement(records as f64);
                tracing::info!(stage = self.stage, partition = %topic_partition, records, reason, "range given back");
            }
            Notice::Finished(report) => self.finished(&report),
            Notice::Expired { topic_partition, from, to } => {
                let reason = crate::event::DropReason::LogExpired.as_str();
                let labels = [("topic", &*topic_partition.topic), ("reason", reason)];
                let lost = u64::try_from(to - from).unwrap_or(0);
                names::CONSUMER_RECORDS_DROPPED.counter(&labels).increment(lost);
                tell_expired(self.stage, &topic_partition, from, to);
            }
            Notice::Breaker { dependency, state, reason } => self.breaker(dependency, state, &reason),
            Notice::Standstill { topic_partition, stopped, reason } => {
                self.standstill(topic_partition, stopped, reason);
            }
            Notice::TopicMissing { topic, missing } => {
                if missing {
                    self.missing.insert(topic);
                } else {
                    self.missing.remove(&topic);
                }
                self.show();
            }
            Notice::Ends { topic_partition, end, committed } => {
                let lag = self.lag(topic_partition);
                (lag.end, lag.committed) = (end, committed);
                lag.show();
            }
            Notice::Gone { topic_partition } => {
                if let Some(lag) = self.lags.remove(&topic_partition) {
                    lag.gauge.set(0.0);
                }
            }
            Notice::Uncompared { stored_since } => self.control.ask_for_sweep(stored_since),
        }
    }

    fn lag(&mut self, topic_partition: TopicPartition) -> &mut Lag {
        self.lags.entry(topic_partition).or_insert_with_key(|name| Lag {
            end: 0,
            committed: 0,
            gauge: names::CONSUMER_LAG
                .gauge(&[("topic", &*name.topic), ("partition", &name.partition.to_string())]),
        })
    }

    fn finished(&mut self, report: &Report) {
        let (mut records, mut stored, mut already_stored, mut duplicates, mut dead) = (0, 0, 0, 0, 0);
        for part in &report.parts {
            count(part);
            records += part.records;
            stored += part.stored;
            already_stored += part.already_stored;
            duplicates += part.duplicates;
            dead += part.dead_lettered.values().sum::<u64>();
            let lag = self.lag(part.topic_partition.clone());
            lag.committed = part.end;
            lag.end = lag.end.max(part.end);
            lag.show();
        }
        names::CONSUMER_BATCHES_WRITTEN.counter(&[]).increment(1);
        names::CONSUMER_BATCH_ROWS.histogram(&[]).record(stored as f64);
        tracing::info!(
            stage = self.stage,
            batch = report.batch,
            partitions = report.parts.len(),
            records,
            rows = stored,
            already_stored,
            duplicates,
            dead_letters = dead,
            attempts = report.insert_attempts,
            gathered_ms = report.gathered.as_millis() as u64,
            inserted_ms = report.inserted.as_millis() as u64,
            committed_ms = report.committed.as_millis() as u64,
            "batch stored, skipped {} duplicates",
            duplicates + already_stored
        );
    }

    fn breaker(&mut self, dependency: Dependency, state: BreakerState, reason: &str) {
        let named = named(dependency, self.writes_to);
        breaker_gauge(self.stage, named).set(state.gauge());
        let name = breaker_name(self.stage, named);
        match state {
            BreakerState::HalfOpen => return,
            // A failure that did not open it yet has a reason; an answer has none.
            BreakerState::Closed if !reason.is_empty() => return,
            BreakerState::Closed => {
                if self.breakers.remove(&dependency).is_some() {
                    tracing::info!(dependency = name, "breaker closed: it answers again");
                }
            }
            BreakerState::Open => {
                if self.breakers.insert(dependency, reason.to_owned()).is_none() {
                    tracing::warn!(dependency = name, error = reason, "breaker opened");
                    names::BREAKER_OPENED.counter(&[("dependency", &name)]).increment(1);
                }
            }
        }
        self.show();
    }

    fn standstill(&mut self, name: TopicPartition, stopped: bool, reason: Option<String>) {
        match reason {
            Some(reason) => {
                tracing::error!(stage = self.stage, partition = %name, error = reason, "partition stands still");
                if stopped && self.control.stopped(&name, &reason) {
                    names::CONSUMER_PARTITIONS_STOPPED.gauge(&[("topic", &*name.topic)]).increment(1.0);
                }
                self.standstills.insert(name, reason);
            }
            None => {
                if self.control.goes_on(&name) {
                    names::CONSUMER_PARTITIONS_STOPPED.gauge(&[("topic", &*name.topic)]).decrement(1.0);
                }
                self.standstills.remove(&name);
            }
        }
        self.show();
    }

    /// The worst of what is known, with what would cure it.
    fn show(&self) {
        if let Some(topic) = self.missing.first() {
            let cure = "`flexflow topics create` makes it; consuming goes on by itself once it is there";
            return self.component.down(&format!("topic {topic} is missing: {cure}"));
        }
        if let Err(reason) = &self.joined {
            return self.component.down(reason);
        }
        if let Some((dependency, reason)) = self.breakers.first_key_value() {
            let name = named(*dependency, self.writes_to);
            return self
                .component
                .down(&format!("{name} does not answer, tried again by itself, nothing is lost: {reason}"));
        }
        match self.standstills.first_key_value() {
            Some((name, reason)) => {
                self.component.degraded(&format!("partition {name} stands still: {reason}"));
            }
            None => self.component.up(),
        }
    }
}

/// The counters that alerts watch begin at zero: the first count is an increase then.
pub(super) fn begin_at_zero(topics: &[Arc<str>]) {
    for topic in topics {
        for kind in ErrorKind::ALL {
            let labels = [("topic", &**topic), ("error_kind", kind.as_str())];
            names::CONSUMER_DLQ_MESSAGES.counter(&labels).increment(0);
        }
        for reason in crate::event::DropReason::ALL {
            let labels = [("topic", &**topic), ("reason", reason.as_str())];
            names::CONSUMER_RECORDS_DROPPED.counter(&labels).increment(0);
        }
    }
}

/// What only one stage a topic may count, or ask for.
fn is_accounting(notice: &Notice) -> bool {
    !matches!(notice, Notice::Breaker { .. } | Notice::Standstill { .. } | Notice::TopicMissing { .. })
}

/// A dependency as it is called in metrics and words.
fn named(dependency: Dependency, writes_to: &'static str) -> &'static str {
    match dependency {
        Dependency::Store => writes_to,
        Dependency::EventLog => dependency.as_str(),
    }
}

fn breaker_name(stage: &str, dependency: &str) -> String {
    format!("{stage}.{dependency}")
}

fn breaker_gauge(stage: &str, dependency: &str) -> Gauge {
    names::BREAKER_STATE.gauge(&[("dependency", &breaker_name(stage, dependency))])
}

/// The terms of the accounting identity.
fn count(part: &PartReport) {
    let topic = &*part.topic_partition.topic;
    let label = [("topic", topic)];
    names::CONSUMER_RECORDS_IN_FLIGHT.gauge(&label).decrement(part.records as f64);
    names::CONSUMER_RECORDS_STORED.counter(&label).increment(part.stored);
    names::CONSUMER_RECORDS_ALREADY_STORED.counter(&label).increment(part.already_stored);
    names::CONSUMER_DUPLICATES.counter(&label).increment(part.duplicates);
    for (kind, letters) in &part.dead_lettered {
        let labels = [("topic", topic), ("error_kind", kind.as_str())];
        names::CONSUMER_DLQ_MESSAGES.counter(&labels).increment(*letters);
        if *kind != ErrorKind::StoreRejected {
            names::CONSUMER_PARSE_ERRORS.counter(&label).increment(*letters);
        }
    }
}

fn tell_expired(stage: &str, name: &TopicPartition, from: i64, to: i64) {
    tracing::error!(
        stage,
        partition = %name,
        from,
        to,
        error = crate::event::DropReason::LogExpired.as_str(),
        "the log's retention deleted records before they were read: going on at the log's start"
    );
}

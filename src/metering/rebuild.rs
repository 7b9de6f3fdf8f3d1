//! The job that makes a meter's tracked usage what its definition says, for all of the past or from a moment on, and
//! tells what changed: after a meter is made, and after it is changed.
//!
//! A day is a step. Events that the tracking stage read before it knew the meter (or its new version) are all stored
//! before the first day is read: the job waits until every process has forgotten the older meters
//! (`metering.cache_ttl`), then until the store has what the log had by then.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Metering;
use super::corrections::Snapshot;
use super::meter::Meter;
use super::rows::Which;
use super::tracking::{Tracked, rows_of};
use crate::event::{Scope, Timestamp};
use crate::eventlog;
use crate::job::{Handler, JobContext, JobError, Jobs, JobsError, NewJob, Step, Then};
use crate::store::{FeatureUsageRow, Sql};

/// The kind of these jobs.
pub const KIND: &str = "metering.rebuild";
/// How often the job looks whether what it waits for is there.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const DAY: Duration = Duration::from_secs(86_400);
/// Rows of one insert.
const INSERT_ROWS_MAX: usize = 20_000;
/// Ids of one statement: it stays well below the longest that the store reads.
const IDS_AT_ONCE: usize = 500;

/// What to rebuild; never changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Spec {
    scope: Scope,
    meter_id: String,
    from: Timestamp,
    /// Not before then.
    begins: Timestamp,
}

/// How far it came.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct At {
    /// Ends of the log that the store must have; none: not looked yet.
    wanted: Option<Vec<(i32, i64)>>,
    versions: i64,
    /// The next day; none: not begun.
    day: Option<Timestamp>,
    last: Timestamp,
    done: Done,
}

/// What changed so far.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Done {
    days: u64,
    /// Events that the meter counts.
    rows: u64,
    added: u64,
    changed: u64,
    removed: u64,
}

impl Metering {
    /// Queues a rebuild of a meter's usage of events from `from` on; nothing where usage is not tracked.
    ///
    /// # Errors
    /// See [`JobsError`].
    pub async fn queue_rebuild(
        &self,
        jobs: &Jobs,
        scope: &Scope,
        meter_id: &str,
        from: Timestamp,
    ) -> Result<Option<String>, JobsError> {
        if !self.config.tracking {
            return Ok(None);
        }
        let begins = self.now().plus(self.config.cache_ttl * 2);
        let spec = Spec { scope: scope.clone(), meter_id: meter_id.to_owned(), from, begins };
        let spec = serde_json::to_value(&spec).unwrap_or_default();
        Ok(Some(jobs.start(NewJob { project: Some(&scope.project), kind: KIND, spec }).await?.id))
    }

    /// Does these jobs, for [`crate::job::run`].
    pub fn handlers(&self) -> Vec<Arc<dyn Handler>> {
        vec![Arc::new(Rebuild(self.clone()))]
    }
}

/// A row as it stands: event name, distinct id, event id, state, quantity, timestamp, time of receipt, version.
type Kept = (String, String, String, String, String, Timestamp, Timestamp, u64);

struct Rebuild(Metering);

#[async_trait]
impl Handler for Rebuild {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn step(
        &self,
        context: &JobContext,
        spec: &Value,
        checkpoint: Option<&Value>,
    ) -> Result<Step, JobError> {
        let fatal = |error: serde_json::Error| JobError::Fatal(error.to_string());
        let spec = Spec::deserialize(spec).map_err(fatal)?;
        let mut at = checkpoint.map_or(Ok(At::default()), At::deserialize).map_err(fatal)?;
        let then = self.advance(context, &spec, &mut at).await?;
        let progress = serde_json::to_value(at.done).map_err(fatal)?;
        Ok(Step { checkpoint: serde_json::to_value(&at).map_err(fatal)?, progress, then })
    }
}

impl Rebuild {
    async fn advance(&self, context: &JobContext, spec: &Spec, at: &mut At) -> Result<Then, JobError> {
        let metering = &self.0;
        let wait = Ok(Then::Continue(LOOK_EVERY));
        let Some(wanted) = &at.wanted else {
            if metering.now() >= spec.begins {
                at.wanted = Some(eventlog::ends(&*self.0.log, &self.0.events_topic).await?);
            }
            return wait;
        };
        let Some(meter) = metering.catalogue.find(&spec.scope, &spec.meter_id).await? else {
            return Err(JobError::Fatal(format!("there is no meter {}", spec.meter_id)));
        };
        let versions = i64::try_from(meter.versions.len()).unwrap_or(i64::MAX);
        let Some(day) = at.day else {
            if !self.has_stored(wanted).await? {
                return wait;
            }
            at.versions = versions;
            (at.day, at.last) = self.days(spec, &meter).await?;
            if at.day.is_none() {
                return self.finish(spec, at).await;
            }
            return Ok(Then::Continue(Duration::ZERO));
        };
        self.rebuild_day(context, spec, &meter, day, &mut at.done).await?;
        let next = day.plus(DAY);
        at.day = Some(next);
        if next > at.last { self.finish(spec, at).await } else { Ok(Then::Continue(Duration::ZERO)) }
    }

    async fn finish(&self, spec: &Spec, at: &At) -> Result<Then, JobError> {
        self.0.meta.meter_coverage().set(&spec.meter_id, at.versions).await?;
        Ok(Then::Done)
    }

    /// Has the store what the log had?
    async fn has_stored(&self, wanted: &[(i32, i64)]) -> Result<bool, JobError> {
        let (log, topic, group) = (&*self.0.log, &self.0.events_topic, &self.0.events_group);
        Ok(eventlog::has_passed(log, topic, group, wanted.iter().copied()).await?)
    }

    /// The first and the last day that have events or rows to look at.
    async fn days(&self, spec: &Spec, meter: &Meter) -> Result<(Option<Timestamp>, Timestamp), JobError> {
        let names: BTreeSet<&str> =
            meter.versions.iter().map(|version| version.definition.event_name.as_str()).collect();
        let columns = Sql::new("min(timestamp) AS first, max(timestamp) AS last, count() AS events");
        let events = names
            .into_iter()
            .map(|name| everything(spec, Some(name), spec.from, Timestamp::MAX).select(&columns));
        // Rows whose events are all gone are still to be taken away.
        let usage = everything(spec, None, spec.from, Timestamp::MAX).select_usage(&meter.id, &columns);
        let mut days: Option<(Timestamp, Timestamp)> = None;
        for sql in events.chain([usage]) {
            let rows: Vec<(Timestamp, Timestamp, u64)> = self.0.store.select(sql).await?;
            if let Some((first, last, 1..)) = rows.first().copied() {
                let (from, to) = days.unwrap_or((first, last));
                days = Some((from.min(first), to.max(last)));
            }
        }
        let floor = |at: Timestamp| {
            Timestamp::from_millis(at.as_millis() - at.as_millis().rem_euclid(DAY.as_millis() as i64))
        };
        Ok(days.map_or((None, Timestamp::EPOCH), |(first, last)| (Some(floor(first)), floor(last))))
    }

    /// Makes the rows of one day what they should be.
    async fn rebuild_day(
        &self,
        context: &JobContext,
        spec: &Spec,
        meter: &Meter,
        day: Timestamp,
        done: &mut Done,
    ) -> Result<(), JobError> {
        let (from, end) = (day.max(spec.from), day.plus(DAY));
        let columns = Sql::new(
            "event_name, distinct_id, event_id, state, quantity_text, timestamp, received_at, version",
        );
        let which = everything(spec, None, from, end);
        let sql = which.select_usage(&meter.id, &columns);
        let kept: Vec<Kept> = self.0.store.select(sql).await?;
        let mut wanted = self.computed(spec, meter, from, end).await?;
        let uncounted = |(_, distinct_id, event_id, ..): &&Kept| {
            !wanted.contains_key(&(distinct_id.clone(), event_id.clone()))
        };
        let uncounted: Vec<&str> = kept.iter().filter(uncounted).map(|row| row.2.as_str()).collect();
        // The stage that tracks may be ahead of the one that stores: what is not stored yet is not gone.
        let stored = self.stored(spec, (from, end), &uncounted).await?;
        if !uncounted.is_empty() {
            wanted = self.computed(spec, meter, from, end).await?;
        }
        let mut changes = Vec::new();
        done.rows += wanted.len() as u64;
        for (event_name, distinct_id, event_id, state, quantity, timestamp, received_at, version) in kept {
            match wanted.remove(&(distinct_id.clone(), event_id.clone())) {
                Some(row) if row.state == state && row.quantity == quantity && row.timestamp == timestamp => {
                }
                Some(row) => {
                    done.changed += 1;
                    changes.push(row);
                }
                None if !stored.contains(&event_id) => {}
                None => {
                    done.removed += 1;
                    changes.push(gone(
                        spec,
                        meter,
                        (event_name, distinct_id, event_id),
                        (timestamp, received_at),
                        version,
                    ));
                }
            }
        }
        done.added += wanted.len() as u64;
        changes.extend(wanted.into_values());
        done.days += 1;
        for (index, part) in changes.chunks(INSERT_ROWS_MAX).enumerate() {
            context.confirm().await?;
            // A step that is done again computes its rows again, from events that may have changed: no token of its own.
            let token = format!("rebuild:{}:{day}:{index}:{}", context.job_id(), self.0.now().as_millis());
            self.0.store.insert_feature_usage(part, &token).await?;
        }
        Ok(())
    }

    /// Which of these events are stored, or were and are deleted, under whatever name.
    async fn stored(
        &self,
        spec: &Spec,
        (from, end): (Timestamp, Timestamp),
        ids: &[&str],
    ) -> Result<HashSet<String>, JobError> {
        let mut found = HashSet::new();
        for some in ids.chunks(IDS_AT_ONCE) {
            let which = everything(spec, None, from, end);
            let sql = which
                .select_ever(&Sql::new("DISTINCT event_id"))
                .push(" AND event_id IN ")
                .list(some.iter().copied());
            let rows: Vec<(String,)> = self.0.store.select(sql).await?;
            found.extend(rows.into_iter().map(|(id,)| id));
        }
        Ok(found)
    }

    /// What the meter counts of the events of a day.
    async fn computed(
        &self,
        spec: &Spec,
        meter: &Meter,
        from: Timestamp,
        end: Timestamp,
    ) -> Result<BTreeMap<(String, String), FeatureUsageRow>, JobError> {
        let mut found = BTreeMap::new();
        let names: BTreeSet<&str> = meter
            .segments(from, end)
            .iter()
            .map(|(_, _, version)| version.definition.event_name.as_str())
            .collect();
        for name in names {
            let which = everything(spec, Some(name), from, end);
            let sql = which.select(&Sql::new(super::corrections::COLUMNS));
            let mut stream = self.0.store.stream::<Snapshot>(sql).await?;
            while let Some(chunk) = stream.next_chunk().await? {
                for event in &chunk {
                    for row in rows_of(&spec.scope, std::slice::from_ref(meter), &event.tracked()) {
                        found.insert((row.distinct_id.clone(), row.event_id.clone()), row);
                    }
                }
            }
        }
        Ok(found)
    }
}

/// A tombstone for a row that the meter does not count any more.
fn gone(
    spec: &Spec,
    meter: &Meter,
    (event_name, distinct_id, event_id): (String, String, String),
    (timestamp, received_at): (Timestamp, Timestamp),
    version: u64,
) -> FeatureUsageRow {
    FeatureUsageRow {
        project_id: spec.scope.project.to_string(),
        environment_id: spec.scope.environment.to_string(),
        meter_id: meter.id.clone(),
        event_name,
        distinct_id,
        event_id,
        customer_id: String::new(),
        source: String::new(),
        state: "missing",
        quantity: String::new(),
        source_topic: String::new(),
        timestamp,
        received_at,
        source_topic_id: uuid::Uuid::nil(),
        source_partition: -1,
        source_offset: -1,
        version: version.saturating_add(1),
        is_deleted: true,
    }
}

fn everything<'a>(spec: &'a Spec, event_name: Option<&'a str>, from: Timestamp, end: Timestamp) -> Which<'a> {
    Which {
        scope: &spec.scope,
        event_name,
        from,
        end,
        filters: Vec::new(),
        external_customer_id: None,
        customer_id: None,
        sources: &[],
        as_of: None,
    }
}

impl Snapshot {
    /// As its usage is computed from it.
    pub(super) fn tracked(&self) -> Tracked<'_> {
        Tracked {
            event_id: &self.event_id,
            event_name: &self.event_name,
            distinct_id: &self.distinct_id,
            customer_id: &self.customer_id,
            source: &self.source,
            timestamp: self.timestamp,
            received_at: self.received_at,
            source_topic: &self.source_topic,
            source_topic_id: self.source_topic_id,
            source_partition: self.source_partition,
            source_offset: self.source_offset,
            properties: self.properties.get(),
            version: self.version,
        }
    }
}

//! The stage that tracks usage: topic `events` → table `feature_usage`, in a consumer group of its own. The same three
//! layers as for events: exact batches under a token, identity in the sort key, the id window (rebuilt from the events
//! that are stored). It refuses nothing: a record that cannot be read is the events stage's to refuse.
//!
//! An event that no meter of its scope counts is told of as system event `event.unmetered`, once a name in
//! `metering.unmetered_interval`: before the batch's offsets are committed, so that a crash in between tells again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moka::sync::Cache;
use serde_json::json;
use tokio::sync::mpsc;

use super::core::{IdHash, RowRef, StoredId};
use super::decode::{Decoded, Field, Refused, decode};
use super::events::EventsStage;
use super::reprocessed::version_of;
use super::stage::{Read, Stage, StageBatch};
use super::{ConsumerDeps, random};
use crate::event::{Clock, Scope, SystemEventKind, Timestamp};
use crate::eventlog::{Record, TopicId, TopicPartition};
use crate::lifecycle::Stop;
use crate::metering::Metering;
use crate::metering::meter::Meter;
use crate::metering::tracking::{Tracked, rows_of, tombstones_of};
use crate::notice::{Notices, SystemEvent};
use crate::schema::Registry;
use crate::store::{FeatureUsageRow, InsertError, Store, StoreError};
use crate::telemetry::names;

/// Counts up whenever the same record would become other rows of the same meters.
const MAPPER_VERSION: u32 = 2;
/// Names of events that were told of, remembered at most.
const TOLD_MAX: u64 = 100_000;

/// See the [module](self).
pub(super) struct FeatureUsageStage {
    store: Store,
    metering: Metering,
    /// For the id window, which is the same as that of events.
    events: EventsStage,
    seed: u64,
    schemas: Option<Registry>,
    unmetered: Unmetered,
    /// Do the records' headers tell the versions of their rows?
    reprocessed: bool,
}

/// A record as this stage reads it.
#[derive(Debug)]
pub(super) enum UsageRecord {
    Event(Box<Decoded>),
    /// Refused by the events stage.
    Unreadable,
}

/// Tells of events that no meter counts.
struct Unmetered {
    notices: Notices,
    clock: Arc<dyn Clock>,
    interval: Duration,
    told: Cache<(Scope, String), ()>,
}

/// Runs the stage until a stop is through. The component `feature_usage` tells how it is doing.
///
/// # Errors
/// Only a fault of this program ends it; the supervisor starts it again.
pub async fn run(deps: ConsumerDeps, parts: (Store, Metering, Notices), stop: Stop) -> anyhow::Result<()> {
    let config = &deps.config;
    let stage = Arc::new(FeatureUsageStage::new(&deps, parts));
    let topics = vec![config.topics.events.as_str().into()];
    super::run_stage(stage, &deps, topics, &config.metering.group_id, &stop).await
}

impl FeatureUsageStage {
    pub(super) fn new(deps: &ConsumerDeps, (store, metering, notices): (Store, Metering, Notices)) -> Self {
        let (seed, config) = (random(&*deps.ids), &deps.config);
        Self {
            store,
            metering,
            events: EventsStage::new(deps.sink.clone(), seed),
            seed,
            schemas: deps.schemas.clone(),
            unmetered: Unmetered::new(notices, deps.clock.clone(), config.metering.unmetered_interval),
            reprocessed: false,
        }
    }

    /// The same for events that were reprocessed.
    pub(super) fn reprocessed(self) -> Self {
        Self { reprocessed: true, ..self }
    }

    /// The rows of a batch, and the events that no meter counts.
    async fn rows(
        &self,
        batch: &StageBatch<UsageRecord>,
        rows: &[RowRef],
    ) -> Result<(Vec<FeatureUsageRow>, Vec<(Scope, String, String)>), InsertError> {
        let mut meters: HashMap<Scope, Arc<[Meter]>> = HashMap::new();
        let (mut found, mut unmetered) = (Vec::new(), Vec::new());
        for row in rows {
            let part = &batch.parts[row.part as usize];
            let payload = &batch.item(*row).payload;
            let (Ok(UsageRecord::Event(event)), Some(value)) = (&payload.row, &payload.record.value) else {
                continue;
            };
            let headers = &payload.record.headers;
            let (version, is_deleted) = if self.reprocessed { version_of(headers) } else { (0, false) };
            let text = |field| event.text(value, field);
            let scope = Scope::new(text(Field::ProjectId), text(Field::EnvironmentId));
            let meters = match meters.get(&scope) {
                Some(meters) => meters.clone(),
                None => {
                    let known = self.metering.catalogue().meters(&scope).await;
                    let known = known.map_err(|error| InsertError::Unavailable(error.to_string()))?;
                    meters.entry(scope.clone()).or_insert(known).clone()
                }
            };
            if meters.is_empty() {
                continue;
            }
            let tracked = Tracked {
                event_id: text(Field::Id),
                event_name: text(Field::EventName),
                distinct_id: text(Field::DistinctId),
                customer_id: text(Field::CustomerId),
                source: text(Field::Source),
                timestamp: event.timestamp,
                received_at: event.received_at,
                source_topic: &part.topic_partition.topic,
                source_topic_id: part.topic_id.0,
                source_partition: part.topic_partition.partition,
                source_offset: payload.record.offset,
                properties: text(Field::Properties),
                version,
            };
            if is_deleted {
                found.extend(tombstones_of(&scope, &meters, &tracked));
                continue;
            }
            let of_event = rows_of(&scope, &meters, &tracked);
            // Names with a dollar are the product's own.
            if of_event.is_empty() && !tracked.event_name.starts_with('$') {
                unmetered.push((scope, tracked.event_name.to_owned(), tracked.event_id.to_owned()));
            }
            found.extend(of_event);
        }
        Ok((found, unmetered))
    }
}

impl Unmetered {
    fn new(notices: Notices, clock: Arc<dyn Clock>, interval: Duration) -> Self {
        let told = Cache::builder().max_capacity(TOLD_MAX).time_to_live(interval).build();
        Self { notices, clock, interval, told }
    }

    async fn tell(&self, events: Vec<(Scope, String, String)>) {
        let mut new: HashMap<(Scope, String), String> = HashMap::new();
        for (scope, event_name, event_id) in events {
            let key = (scope, event_name);
            if !self.told.contains_key(&key) {
                new.entry(key).or_insert(event_id);
            }
        }
        let turn = self.clock.now().as_millis() / (self.interval.as_millis() as i64).max(1);
        let event = |((scope, event_name), event_id): (&(Scope, String), &String)| {
            let payload = json!({
                "event_type": event_name,
                "event_id": event_id,
                "reason": "no meter of this environment counts it",
            });
            // Several processes that see the name tell the same event.
            let event = SystemEvent::of_scope(SystemEventKind::EventUnmetered, scope.clone(), payload);
            event.once(format!("{turn}/{event_name}"))
        };
        self.notices.tell(new.iter().map(event).collect()).await;
        names::METERING_UNMETERED.counter(&[]).increment(new.len() as u64);
        // Not before it is kept: a batch that is dropped half-way comes again.
        for key in new.into_keys() {
            self.told.insert(key, ());
        }
    }
}

#[async_trait]
impl Stage for FeatureUsageStage {
    type Row = UsageRecord;

    fn name(&self) -> &'static str {
        "feature_usage"
    }

    fn table(&self) -> &'static str {
        "feature_usage"
    }

    fn mapper_version(&self) -> u32 {
        MAPPER_VERSION
    }

    fn has_id_window(&self) -> bool {
        true
    }

    fn accounts(&self) -> bool {
        false
    }

    fn read(&self, _: &TopicPartition, record: &Record) -> Result<Read<UsageRecord>, Refused> {
        let value = record.value.as_deref().unwrap_or_default();
        // What the events stage refuses counts nowhere.
        let is_gone = self.reprocessed && version_of(&record.headers).1;
        let schemas = self.schemas.as_ref().filter(|_| !is_gone);
        let held = decode(record)
            .and_then(|mut event| super::schemas::hold(&mut event, record, schemas).map(|()| event));
        Ok(match held {
            Ok(event) => {
                let text = |field| event.text(value, field);
                let (project, environment) = (text(Field::ProjectId), text(Field::EnvironmentId));
                let id = IdHash::of(self.seed, project, environment, text(Field::Id));
                let (remember, received_at) = (!event.id_generated, event.received_at);
                Read { id, remember, received_at, row: UsageRecord::Event(Box::new(event)) }
            }
            Err(_) => Read {
                id: IdHash::of(self.seed, "", "", &record.offset.to_string()),
                remember: false,
                received_at: record.timestamp,
                row: UsageRecord::Unreadable,
            },
        })
    }

    async fn insert(
        &self,
        batch: &Arc<StageBatch<UsageRecord>>,
        rows: &Arc<[RowRef]>,
        token: &str,
    ) -> Result<(), InsertError> {
        let (found, unmetered) = self.rows(batch, rows).await?;
        if !found.is_empty() {
            let inserted = self.store.insert_feature_usage(&found, token).await;
            inserted.map_err(InsertError::of_derived_rows)?;
            names::METERING_ROWS.counter(&[]).increment(found.len() as u64);
        }
        self.unmetered.tell(unmetered).await;
        Ok(())
    }

    async fn recent_ids(
        &self,
        partitions: &[(TopicPartition, TopicId)],
        since: Timestamp,
        limit: usize,
        found: mpsc::Sender<Vec<StoredId>>,
    ) -> Result<(), StoreError> {
        self.events.recent_ids(partitions, since, limit, found).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.store.probe().await
    }
}

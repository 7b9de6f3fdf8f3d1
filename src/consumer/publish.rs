//! The stage that hands stored events on: topic `events` → topic `events_post_processing`, in a consumer group of its
//! own. Its position is that group's committed offset, so it survives everything that a stage survives.
//!
//! It publishes a record only once the store stage has committed it, so whoever reads the topic finds the event in the
//! store. It holds nothing up: a missing topic stops this stage and no other, and it catches up by itself once the
//! topic is there. At least once: what was published before a crash may be published again. While the store stage is
//! behind, it goes slowly.
//!
//! Records go on as they are, byte for byte; those that the events stage refuses are left out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::core::{Part, RowRef};
use super::decode::{Refused, decode};
use super::schemas::hold;
use super::stage::{Payload, Read, Stage, StageBatch};
use super::{ConsumerDeps, run_stage};
use crate::event::Clock;
use crate::eventlog::{EventLog, LogError, NewRecord, Record, TopicId, TopicPartition};
use crate::lifecycle::Stop;
use crate::schema::Registry;
use crate::store::{InsertError, StoreError};
use crate::telemetry::names;

/// Counts up whenever the same record would be published otherwise.
const MAPPER_VERSION: u32 = 1;
/// How long a batch waits for the store stage before it counts as a failure (and is tried again after a wait).
const STORED_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often the store stage's position is asked for meanwhile, at first and at last.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));
/// A batch of so many rows says that the log may be behind; then storing goes first, so that events become visible soon.
const MANY_ROWS: usize = 5_000;
/// How long such a batch waits while the store stage has more than another one like it to do.
const GIVE_WAY: Duration = Duration::from_millis(400);
/// What operators look for in the log when the topic is away.
const FAILED: &str = "Failed to publish event to post-processing service";

/// See the [module](self).
pub(super) struct PublishStage {
    log: Arc<dyn EventLog>,
    clock: Arc<dyn Clock>,
    topic: Arc<str>,
    /// The group that stores events.
    store_group: Arc<str>,
    /// What the events stage holds events against.
    schemas: Option<Registry>,
    /// What that group is known to have committed.
    stored: Mutex<BTreeMap<TopicPartition, (TopicId, i64)>>,
    /// It failed, was told of, and has not succeeded since.
    failing: AtomicBool,
}

/// Runs the stage until a stop is through. The component `post_processing` tells how it is doing.
///
/// # Errors
/// Only a fault of this program ends it; the supervisor starts it again.
pub async fn run(deps: ConsumerDeps, stop: Stop) -> anyhow::Result<()> {
    let config = deps.config.clone();
    let stage = Arc::new(PublishStage {
        log: deps.log.clone(),
        clock: deps.clock.clone(),
        topic: config.topics.post_processing.as_str().into(),
        store_group: config.consumer.group_id.as_str().into(),
        schemas: deps.schemas.clone(),
        stored: Mutex::default(),
        failing: AtomicBool::new(false),
    });
    let topics = vec![config.topics.events.as_str().into()];
    run_stage(stage, &deps, topics, &config.post_processing.publish_group_id, &stop).await
}

impl PublishStage {
    /// Is everything of this batch stored, as far as is known?
    fn is_stored(&self, wanted: &[(TopicPartition, TopicId, i64)]) -> bool {
        let stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.iter().all(|(name, topic_id, end)| {
            stored.get(name).is_some_and(|(of, committed)| of == topic_id && committed >= end)
        })
    }

    /// Waits until the store stage has committed these rows.
    async fn wait_until_stored(&self, batch: &StageBatch<bool>, rows: &[RowRef]) -> Result<(), InsertError> {
        let mut ends: BTreeMap<u32, i64> = BTreeMap::new();
        for row in rows {
            let end = batch.item(*row).offset + 1;
            ends.entry(row.part).and_modify(|known| *known = end.max(*known)).or_insert(end);
        }
        let of = |part: u32| &batch.parts[part as usize];
        let wanted: Vec<(TopicPartition, TopicId, i64)> = ends
            .into_iter()
            .map(|(part, end)| (of(part).topic_partition.clone(), of(part).topic_id, end))
            .collect();
        let patience = Instant::now() + STORED_WAIT_MAX;
        let mut pause = ASK_AGAIN.0;
        while !self.is_stored(&wanted) {
            let committed = self.log.committed(&self.store_group).await;
            let committed = committed.map_err(|error| InsertError::Unavailable(error.to_string()))?;
            self.learn(&wanted, &committed);
            if self.is_stored(&wanted) {
                break;
            }
            if Instant::now() >= patience {
                let message = format!("group {} has not stored them yet", self.store_group);
                return Err(InsertError::Unavailable(message));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(ASK_AGAIN.1);
        }
        Ok(())
    }

    /// Lets the store stage go first while it is behind. Never for long, so that a store that is always behind holds
    /// nothing up for ever.
    async fn give_way(&self, batch: &StageBatch<bool>, rows: usize) -> Result<(), LogError> {
        if rows < MANY_ROWS {
            return Ok(());
        }
        let (committed, topics) = (self.log.committed(&self.store_group).await?, self.log.topics().await?);
        let behind = |part: &Part<Payload<bool>>| {
            let name = &part.topic_partition;
            let topic = topics.iter().find(|topic| topic.name == name.topic && topic.id == part.topic_id)?;
            let ends = topic.partitions.get(usize::try_from(name.partition).ok()?)?;
            Some(ends.end - committed.get(name).copied().unwrap_or(ends.log_start))
        };
        let behind: i64 = batch.parts.iter().filter_map(behind).sum();
        if behind > i64::try_from(rows).unwrap_or(i64::MAX) {
            tokio::time::sleep(GIVE_WAY).await;
        }
        Ok(())
    }

    fn learn(&self, wanted: &[(TopicPartition, TopicId, i64)], committed: &BTreeMap<TopicPartition, i64>) {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, topic_id, _) in wanted {
            if let Some(offset) = committed.get(name) {
                stored.insert(name.clone(), (*topic_id, *offset));
            }
        }
    }

    async fn publish(&self, records: Vec<NewRecord>) -> Result<(), LogError> {
        let count = records.len() as u64;
        let mut dropped = 0;
        for outcome in self.log.produce(&self.topic, records).await {
            match outcome {
                Ok(_) => {}
                // The topic was made with a smaller limit than `events`: waiting would not make the record smaller.
                Err(error @ LogError::RecordTooLarge { .. }) => {
                    tracing::error!(topic = &*self.topic, %error, "{FAILED}: it is left out");
                    dropped += 1;
                }
                Err(error) => return Err(error),
            }
        }
        names::POST_PROCESSING_DROPPED.counter(&[]).increment(dropped);
        names::POST_PROCESSING_PUBLISHED.counter(&[]).increment(count - dropped);
        Ok(())
    }

    /// Tells of the first failure since the last success.
    fn failed(&self, reason: &str) {
        names::POST_PROCESSING_FAILURES.counter(&[]).increment(1);
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(
                topic = &*self.topic,
                error = reason,
                "{FAILED}: circuit breaker is open; storing goes on, and publishing catches up by itself"
            );
        }
    }

    fn succeeded(&self) {
        if self.failing.swap(false, Ordering::Relaxed) {
            tracing::info!(topic = &*self.topic, "publishing to post-processing goes on");
        }
    }
}

#[async_trait]
impl Stage for PublishStage {
    /// Is it an event?
    type Row = bool;

    fn name(&self) -> &'static str {
        "post_processing"
    }

    fn table(&self) -> &'static str {
        "events_post_processing"
    }

    fn writes_to(&self) -> &'static str {
        "post_processing_topic"
    }

    fn mapper_version(&self) -> u32 {
        MAPPER_VERSION
    }

    /// One: storing goes first.
    fn lanes_max(&self) -> usize {
        1
    }

    fn accounts(&self) -> bool {
        false
    }

    fn read(&self, _: &TopicPartition, record: &Record) -> Result<Read<bool>, Refused> {
        // Refused ones are the events stage's business.
        let event = decode(record).and_then(|mut event| hold(&mut event, record, self.schemas.as_ref()));
        Ok(Read::by_offset(event.is_ok(), record))
    }

    async fn insert(
        &self,
        batch: &Arc<StageBatch<bool>>,
        rows: &Arc<[RowRef]>,
        _: &str,
    ) -> Result<(), InsertError> {
        self.wait_until_stored(batch, rows).await?;
        let unavailable = |error: LogError| InsertError::Unavailable(error.to_string());
        self.give_way(batch, rows.len()).await.map_err(unavailable)?;
        let now = self.clock.now();
        let records: Vec<NewRecord> = rows
            .iter()
            .filter_map(|row| {
                let payload = &batch.item(*row).payload;
                let record = &payload.record;
                let value = record.value.clone().filter(|_| matches!(payload.row, Ok(true)))?;
                let (key, headers) = (record.key.clone(), record.headers.clone());
                Some(NewRecord { key, value, headers, timestamp: now })
            })
            .collect();
        if records.is_empty() {
            return Ok(());
        }
        match self.publish(records).await {
            Ok(()) => {
                self.succeeded();
                Ok(())
            }
            Err(error) => {
                self.failed(&error.to_string());
                Err(InsertError::Unavailable(error.to_string()))
            }
        }
    }

    /// Is the topic there?
    async fn probe(&self) -> Result<(), StoreError> {
        let missing = match self.log.topics().await {
            Ok(topics) if topics.iter().any(|topic| topic.name == self.topic) => return Ok(()),
            Ok(_) => LogError::TopicMissing(self.topic.clone()),
            Err(error) => error,
        };
        self.failed(&missing.to_string());
        Err(StoreError::Unavailable(missing.to_string()))
    }
}

#[cfg(test)]
mod tests;

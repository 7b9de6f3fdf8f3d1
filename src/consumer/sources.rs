//! The stage of further topics (`consumer.sources`): what other programs write there, in their own shape, goes on to topic
//! `events` or `raw_events`, and from there on it is treated as what capture took: stored, counted, handed on, charged,
//! found by a trace.
//!
//! Its position is its group's committed offset, and an offset is committed only once all events of its record stand in
//! the topic behind. At least once: the same record makes the same events under the same ids, so what a crash repeats is
//! a duplicate there. What no event can be made of is a dead letter, and goes through the decoder again when replayed.

mod read;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;

use super::core::RowRef;
use super::decode::Refused;
use super::stage::{Read, Stage, StageBatch};
use super::{ConsumerDeps, run_stage};
use crate::event::Clock;
use crate::eventlog::{EventLog, LogError, NewRecord, Record, TopicPartition};
use crate::lifecycle::Stop;
use crate::store::{InsertError, StoreError};

pub use read::{Made, SourceReader, Target};

/// Counts up whenever the same record would become other events.
const MAPPER_VERSION: u32 = 1;

/// See the [module](self).
pub struct SourcesStage {
    log: Arc<dyn EventLog>,
    clock: Arc<dyn Clock>,
    reader: SourceReader,
    events: Arc<str>,
    raw_events: Arc<str>,
}

/// Runs the stage until a stop is through. The component `sources` tells how it is doing.
///
/// # Errors
/// Only a fault of this program ends it; the supervisor starts it again.
pub async fn run(deps: ConsumerDeps, stop: Stop) -> anyhow::Result<()> {
    let config = deps.config.clone();
    let topics = config.consumer.sources.iter().map(|source| source.topic.as_str().into()).collect();
    run_stage(Arc::new(SourcesStage::new(&deps)), &deps, topics, &config.consumer.sources_group_id, &stop)
        .await
}

impl SourcesStage {
    pub fn new(deps: &ConsumerDeps) -> Self {
        Self {
            log: deps.log.clone(),
            clock: deps.clock.clone(),
            reader: SourceReader::new(&deps.config),
            events: deps.config.topics.events.as_str().into(),
            raw_events: deps.config.topics.raw_events.as_str().into(),
        }
    }

    /// Writes what was made of these rows to the one topic of them that is meant, and waits until it stands there.
    async fn hand_on(
        &self,
        target: Target,
        batch: &StageBatch<Vec<Made>>,
        rows: &[RowRef],
    ) -> Result<(), InsertError> {
        let now = self.clock.now();
        let mut records = Vec::new();
        let mut owners = Vec::new();
        for (place, row) in rows.iter().enumerate() {
            let Ok(made) = &batch.item(*row).payload.row else { continue };
            for made in made.iter().filter(|made| made.target == target) {
                records.push(NewRecord { timestamp: now, ..made.record.clone() });
                owners.push(place);
            }
        }
        if records.is_empty() {
            return Ok(());
        }
        let topic = match target {
            Target::Events => &self.events,
            Target::RawEvents => &self.raw_events,
        };
        let answers = self.log.produce(topic, records).await;
        if answers.len() != owners.len() {
            return Err(InsertError::OutcomeUnknown("the log left an event without an answer".to_owned()));
        }
        for (place, answer) in owners.into_iter().zip(answers) {
            match answer {
                Ok(_) => {}
                // The topic was made with a smaller limit than `eventlog.record_bytes_max`: the row is named, counted
                // from one, and becomes a dead letter.
                Err(error @ LogError::RecordTooLarge { .. }) => {
                    let message =
                        format!("topic {topic} does not take its event: {error} at row {}", place + 1);
                    return Err(InsertError::Rejected(message));
                }
                Err(error @ LogError::OutcomeUnknown(_)) => {
                    return Err(InsertError::OutcomeUnknown(error.to_string()));
                }
                Err(error) => return Err(InsertError::Unavailable(error.to_string())),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Stage for SourcesStage {
    /// What the record says, as records of the topics behind.
    type Row = Vec<Made>;

    fn name(&self) -> &'static str {
        "sources"
    }

    fn table(&self) -> &'static str {
        "sources"
    }

    fn writes_to(&self) -> &'static str {
        "events_topic"
    }

    fn mapper_version(&self) -> u32 {
        MAPPER_VERSION
    }

    fn read(&self, at: &TopicPartition, record: &Record) -> Result<Read<Vec<Made>>, Refused> {
        Ok(Read::by_offset(self.reader.read(at, record)?, record))
    }

    async fn insert(
        &self,
        batch: &Arc<StageBatch<Vec<Made>>>,
        rows: &Arc<[RowRef]>,
        _: &str,
    ) -> Result<(), InsertError> {
        self.hand_on(Target::Events, batch, rows).await?;
        self.hand_on(Target::RawEvents, batch, rows).await
    }

    /// Are the topics behind there?
    async fn probe(&self) -> Result<(), StoreError> {
        let unavailable = |error: LogError| StoreError::Unavailable(error.to_string());
        let topics = self.log.topics().await.map_err(unavailable)?;
        let missing = [&self.events, &self.raw_events]
            .into_iter()
            .find(|wanted| !topics.iter().any(|topic| topic.name == **wanted));
        missing.map_or(Ok(()), |topic| Err(unavailable(LogError::TopicMissing(topic.clone()))))
    }
}

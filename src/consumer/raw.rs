//! The stage of raw events: topic `raw_events` → table `raw_events` → the environment's transform → topic `events`.
//!
//! A batch goes through these steps before its offsets are committed: the payloads are stored as they were sent; those
//! that cannot be transformed become dead letters, their payload kept; the events of the others are published; what
//! became of each is stored. A crash anywhere repeats the batch: the same raw event makes the same events under the same
//! ids, so nothing is doubled. A raw event that is dropped is not lost: it is stored with its reason.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::core::{FetchPosition, IdHash, RowRef};
use super::decode::Refused;
use super::stage::{Read, Stage, StageBatch, by_partition, ranges};
use super::{ConsumerDeps, dead_letter_bytes_max, random};
use crate::dlq::{DeadLetter, Refusal};
use crate::event::{Clock, ErrorKind, RawEvent, Scope, Timestamp};
use crate::eventlog::{EventLog, LogError, NewRecord, Record, TopicPartition};
use crate::lifecycle::Stop;
use crate::store::{InsertError, RawEventRow, RawKey, RawResultRow, Store, StoreError};
use crate::telemetry::names;
use crate::transform::{Alike, Chosen, Key, Limits, Mapped, Origin, Outcome, Transforms};

/// Counts up whenever the same record would become another row of `raw_events`.
const MAPPER_VERSION: u32 = 1;
/// The surface's name in the headers of the events.
const PRODUCER: &str = "raw";

/// See the [module](self).
pub(super) struct RawStage {
    store: Store,
    transforms: Transforms,
    log: Arc<dyn EventLog>,
    events_topic: Arc<str>,
    dlq_topic: Arc<str>,
    dlq_record_bytes_max: usize,
    clock: Arc<dyn Clock>,
    seed: u64,
}

/// A raw event as it was read from its record.
#[derive(Clone, Debug)]
pub(super) struct RawRecord {
    scope: Scope,
    id: String,
    external_customer_id: String,
    timestamp: Timestamp,
    event_name: String,
    received_at: Timestamp,
    payload: String,
}

/// What became of a raw event.
struct Judged {
    row: RowRef,
    outcome: Result<Outcome, String>,
    chosen: Arc<Chosen>,
}

/// Runs the stage until a stop is through. The component `raw` tells how it is doing.
///
/// # Errors
/// Only a fault of this program ends it; the supervisor starts it again.
pub async fn run(deps: ConsumerDeps, store: Store, transforms: Transforms, stop: Stop) -> anyhow::Result<()> {
    let config = &deps.config;
    let record_bytes_max = usize::try_from(config.eventlog.record_bytes_max.as_u64()).unwrap_or(usize::MAX);
    let stage = Arc::new(RawStage {
        store,
        transforms,
        log: deps.log.clone(),
        events_topic: config.topics.events.as_str().into(),
        dlq_topic: config.consumer.dlq_topic.as_str().into(),
        dlq_record_bytes_max: dead_letter_bytes_max(record_bytes_max),
        clock: deps.clock.clone(),
        seed: random(&*deps.ids),
    });
    let topics = vec![config.topics.raw_events.as_str().into()];
    super::run_stage(stage, &deps, topics, &config.consumer.raw_group_id, &stop).await
}

fn refused(kind: ErrorKind, message: impl Into<String>) -> Refused {
    Refused { kind, message: message.into() }
}

/// Reads the record of a raw event.
fn read(record: &Record) -> Result<RawRecord, Refused> {
    let value = record.value.as_deref().filter(|value| !value.is_empty()).ok_or_else(|| {
        refused(ErrorKind::EmptyRecord, "the record has no value; a raw event's JSON object is expected")
    })?;
    let raw: RawEvent<'_> = serde_json::from_slice(value).map_err(|error| {
        let kind = if error.is_data() { ErrorKind::InvalidField } else { ErrorKind::InvalidJson };
        refused(kind, format!("not a raw event: {error}"))
    })?;
    for (field, text) in
        [("id", &raw.id), ("project_id", &raw.project_id), ("environment_id", &raw.environment_id)]
    {
        if text.trim().is_empty() {
            return Err(refused(ErrorKind::MissingField, format!("{field} is empty; a text is required")));
        }
    }
    if raw.timestamp < Timestamp::EPOCH || raw.timestamp > Timestamp::MAX {
        let message =
            format!("timestamp {} is outside of {} to {}", raw.timestamp, Timestamp::EPOCH, Timestamp::MAX);
        return Err(refused(ErrorKind::OutOfRange, message));
    }
    Ok(RawRecord {
        scope: Scope::new(raw.project_id.as_ref(), raw.environment_id.as_ref()),
        id: raw.id.into_owned(),
        external_customer_id: raw.external_customer_id.into_owned(),
        timestamp: raw.timestamp,
        event_name: raw.event_name.into_owned(),
        received_at: raw.received_at,
        payload: raw.payload.get().to_owned(),
    })
}

impl RawStage {
    /// A raw event's key, with the position of its record.
    fn key<'b>(batch: &'b StageBatch<RawRecord>, row: RowRef) -> Option<(RawKey<'b>, &'b RawRecord)> {
        let part = &batch.parts[row.part as usize];
        let payload = &batch.item(row).payload;
        let raw = payload.row.as_ref().ok()?;
        let key = RawKey {
            project_id: raw.scope.project.as_str(),
            environment_id: raw.scope.environment.as_str(),
            external_customer_id: &raw.external_customer_id,
            timestamp: raw.timestamp,
            event_name: &raw.event_name,
            id: &raw.id,
            received_at: raw.received_at,
            source_topic: &part.topic_partition.topic,
            source_topic_id: part.topic_id.0,
            source_partition: part.topic_partition.partition,
            source_offset: payload.record.offset,
        };
        Some((key, raw))
    }

    /// Which transform counts for each scope of the batch.
    async fn chosen(
        &self,
        batch: &StageBatch<RawRecord>,
        rows: &[RowRef],
    ) -> Result<HashMap<Scope, Arc<Chosen>>, InsertError> {
        let mut chosen = HashMap::new();
        for row in rows {
            let Some((_, raw)) = Self::key(batch, *row) else { continue };
            if !chosen.contains_key(&raw.scope) {
                let found = self.transforms.raw(&raw.scope).await;
                let found = found.map_err(|error| InsertError::Unavailable(error.to_string()))?;
                chosen.insert(raw.scope.clone(), found);
            }
        }
        Ok(chosen)
    }

    async fn judge(
        &self,
        batch: &Arc<StageBatch<RawRecord>>,
        rows: &Arc<[RowRef]>,
    ) -> Result<Vec<Judged>, InsertError> {
        let chosen = self.chosen(batch, rows).await?;
        let (batch, rows, limits) = (batch.clone(), rows.clone(), self.transforms.limits());
        match tokio::task::spawn_blocking(move || judge(&batch, &rows, &chosen, limits)).await {
            Ok(judged) => Ok(judged),
            // A transform panicked: so does this task, and the driver hears of it.
            Err(join) => std::panic::resume_unwind(Box::new(join.to_string())),
        }
    }

    /// Writes the dead letters of what cannot be transformed, and waits for them.
    async fn bury(&self, batch: &StageBatch<RawRecord>, judged: &[Judged]) -> Result<(), InsertError> {
        let letters: Vec<NewRecord> = judged
            .iter()
            .filter_map(|judged| {
                let message = judged.outcome.as_ref().err()?;
                let part = &batch.parts[judged.row.part as usize];
                let record = &batch.item(judged.row).payload.record;
                let letter = DeadLetter::of(
                    record,
                    &Refusal {
                        source: &part.topic_partition,
                        source_topic_id: part.topic_id,
                        stage: "raw",
                        kind: ErrorKind::TransformError,
                        message,
                        attempts: 1,
                        at: self.clock.now(),
                    },
                );
                Some(letter.to_record(self.dlq_record_bytes_max))
            })
            .collect();
        if letters.is_empty() {
            return Ok(());
        }
        let count = letters.len();
        let answers = self.log.produce(&self.dlq_topic, letters).await;
        match answers.iter().find_map(|answer| answer.as_ref().err()) {
            None if answers.len() == count => Ok(()),
            None => Err(InsertError::Unavailable("the log left a dead letter without an answer".to_owned())),
            Some(error) => {
                Err(InsertError::Unavailable(format!("dead letters could not be written: {error}")))
            }
        }
    }

    /// Publishes the events. One that no record of the log can hold turns its raw event into an error.
    async fn publish(&self, batch: &StageBatch<RawRecord>, judged: &mut [Judged]) -> Result<(), InsertError> {
        let now = self.clock.now();
        let mut records = Vec::new();
        let mut owners = Vec::new();
        for (place, judged) in judged.iter().enumerate() {
            let (Ok(Outcome::Events(events)), Some((key, raw))) =
                (&judged.outcome, Self::key(batch, judged.row))
            else {
                continue;
            };
            let alike = Alike::of(&raw.scope, None);
            let origin = Origin {
                scope: &raw.scope,
                alike: &alike,
                raw_event_id: key.id,
                received_at: raw.received_at,
                producer: PRODUCER,
                key: None,
            };
            for event in events {
                records.push(origin.record(event, now));
                owners.push(place);
            }
        }
        if records.is_empty() {
            return Ok(());
        }
        let answers = self.log.produce(&self.events_topic, records).await;
        if answers.len() != owners.len() {
            return Err(InsertError::Unavailable("the log left an event without an answer".to_owned()));
        }
        for (place, answer) in owners.into_iter().zip(answers) {
            match answer {
                Ok(_) => {}
                Err(error @ LogError::RecordTooLarge { .. }) => {
                    judged[place].outcome = Err(format!("its event cannot be published: {error}"));
                }
                Err(error) => {
                    return Err(InsertError::Unavailable(format!("events could not be published: {error}")));
                }
            }
        }
        Ok(())
    }

    /// Stores what became of each. The token stands for the content: another version of a transform may have decided
    /// otherwise when the batch was tried before.
    async fn note(&self, batch: &StageBatch<RawRecord>, judged: &[Judged]) -> Result<(), InsertError> {
        let texts: Vec<(&'static str, String, String)> =
            judged.iter().map(|judged| told(&judged.outcome)).collect();
        let mut hash = Sha256::new();
        let mut rows = Vec::with_capacity(judged.len());
        for (judged, (outcome, reason, events)) in judged.iter().zip(&texts) {
            let Some((key, _)) = Self::key(batch, judged.row) else { continue };
            for text in [key.id, outcome, reason.as_str(), events.as_str()] {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text.as_bytes());
            }
            hash.update(key.source_offset.to_le_bytes());
            hash.update(judged.chosen.version.to_le_bytes());
            rows.push(RawResultRow {
                key,
                outcome,
                reason,
                transform_id: &judged.chosen.id,
                transform_version: judged.chosen.version,
                events,
                version: 0,
            });
        }
        let digest = hash.finalize();
        let token = digest.iter().fold("raw:".to_owned(), |token, byte| format!("{token}{byte:02x}"));
        self.store.insert_raw_results(&rows, &token).await
    }
}

fn judge(
    batch: &StageBatch<RawRecord>,
    rows: &[RowRef],
    chosen: &HashMap<Scope, Arc<Chosen>>,
    limits: Limits,
) -> Vec<Judged> {
    rows.iter()
        .filter_map(|row| {
            let (_, raw) = RawStage::key(batch, *row)?;
            let chosen = chosen.get(&raw.scope)?.clone();
            let outcome = chosen.mapping.apply(&raw.payload, &raw.id, limits);
            Some(Judged { row: *row, outcome: outcome.map_err(|error| error.0), chosen })
        })
        .collect()
}

/// Outcome, reason and events as they are kept.
fn told(outcome: &Result<Outcome, String>) -> (&'static str, String, String) {
    match outcome {
        Ok(Outcome::Events(events)) => {
            let keys: Vec<Key> = events.iter().map(|event: &Mapped| Key::of(event)).collect();
            ("published", String::new(), Key::write(&keys))
        }
        Ok(Outcome::Dropped(reason)) => ("dropped", reason.to_string(), "[]".to_owned()),
        Err(message) => ("error", message.clone(), "[]".to_owned()),
    }
}

/// Counts, and a line for each raw event that is no event.
fn show(batch: &StageBatch<RawRecord>, judged: &[Judged]) {
    for judged in judged {
        let (outcome, reason) = match &judged.outcome {
            Ok(Outcome::Events(_)) => ("published", ""),
            Ok(Outcome::Dropped(reason)) => ("dropped", &**reason),
            Err(_) => ("error", "transform_error"),
        };
        names::RAW_EVENTS.counter(&[("outcome", outcome), ("reason", reason)]).increment(1);
        let Some((key, _)) = RawStage::key(batch, judged.row) else { continue };
        match &judged.outcome {
            Ok(Outcome::Events(_)) => {}
            Ok(Outcome::Dropped(reason)) => tracing::info!(
                raw_event_id = key.id,
                external_customer_id = key.external_customer_id,
                event_name = key.event_name,
                timestamp = %key.timestamp,
                reason = &**reason,
                "validation failed - event dropped"
            ),
            Err(error) => tracing::warn!(
                raw_event_id = key.id,
                external_customer_id = key.external_customer_id,
                event_name = key.event_name,
                timestamp = %key.timestamp,
                error,
                "transformation error - event skipped"
            ),
        }
    }
}

#[async_trait]
impl Stage for RawStage {
    type Row = RawRecord;

    fn name(&self) -> &'static str {
        "raw"
    }

    fn table(&self) -> &'static str {
        "raw_events"
    }

    fn mapper_version(&self) -> u32 {
        MAPPER_VERSION
    }

    /// One that was dropped may come again, mended, under its id: events have a window of their own.
    fn read(&self, _: &TopicPartition, record: &Record) -> Result<Read<RawRecord>, Refused> {
        let row = read(record)?;
        let scope = &row.scope;
        let id = IdHash::of(self.seed, scope.project.as_str(), scope.environment.as_str(), &row.id);
        Ok(Read { id, remember: false, received_at: row.received_at, row })
    }

    async fn insert(
        &self,
        batch: &Arc<StageBatch<RawRecord>>,
        rows: &Arc<[RowRef]>,
        token: &str,
    ) -> Result<(), InsertError> {
        let raws: Vec<RawEventRow<'_>> = rows
            .iter()
            .filter_map(|row| Self::key(batch, *row))
            .map(|(key, raw)| RawEventRow { key, payload: &raw.payload })
            .collect();
        self.store.insert_raw_events(&raws, token).await?;
        let mut judged = self.judge(batch, rows).await?;
        self.publish(batch, &mut judged).await?;
        self.bury(batch, &judged).await?;
        self.note(batch, &judged).await.map_err(InsertError::of_derived_rows)?;
        show(batch, &judged);
        Ok(())
    }

    async fn stored_offsets(
        &self,
        from: &[FetchPosition],
    ) -> Result<BTreeMap<TopicPartition, Vec<i64>>, StoreError> {
        Ok(by_partition(self.store.stored_raw_offsets(&ranges(from)).await?))
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.store.probe().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: &'static str) -> Record {
        Record {
            offset: 0,
            timestamp: Timestamp::EPOCH,
            key: None,
            value: Some(value.into()),
            headers: Default::default(),
        }
    }

    #[test]
    fn a_record_that_is_no_raw_event_is_refused_by_kind() {
        let kind = |value| read(&record(value)).unwrap_err().kind;
        let good = r#"{"id":"a","project_id":"p","environment_id":"e","timestamp":"2026-01-31T12:00:00Z","received_at":"2026-01-31T12:00:00Z","payload":{"x": 1}}"#;
        assert_eq!(read(&record(good)).unwrap().payload, r#"{"x": 1}"#);
        assert_eq!(kind(""), ErrorKind::EmptyRecord);
        assert_eq!(kind("{"), ErrorKind::InvalidJson);
        assert_eq!(kind("{}"), ErrorKind::InvalidField);
        assert_eq!(
            kind(
                r#"{"id":" ","project_id":"p","environment_id":"e","timestamp":"2026-01-31T12:00:00Z","received_at":"2026-01-31T12:00:00Z","payload":{}}"#
            ),
            ErrorKind::MissingField
        );
        assert_eq!(
            kind(
                r#"{"id":"a","project_id":"p","environment_id":"e","timestamp":"1969-01-31T12:00:00Z","received_at":"2026-01-31T12:00:00Z","payload":{}}"#
            ),
            ErrorKind::OutOfRange
        );
    }
}

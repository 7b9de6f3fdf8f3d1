//! The stage that stores events: topic `events` → table `events`.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::core::{FetchPosition, IdHash, RowRef, StoredId};
use super::decode::{Decoded, Field, Refused, decode};
use super::reprocessed::version_of;
use super::sink::Sink;
use super::stage::{Read, Stage, StageBatch, by_partition, ranges};
use crate::event::Timestamp;
use crate::eventlog::{Header, Record, TopicId, TopicPartition};
use crate::person::{Said, Saying};
use crate::schema::Registry;
use crate::store::{EventBlock, EventRow, InsertError, StoreError};
use crate::transform::RAW_EVENT_ID_HEADER;

/// Counts up whenever [`decode`] or [`EventsStage::block`] makes another row of the same record.
const MAPPER_VERSION: u32 = 2;
/// Blocks of more rows are built where blocking is fine.
const BUILD_HERE_ROWS_MAX: usize = 500;

/// See the [module](self).
pub(super) struct EventsStage {
    sink: Arc<dyn Sink>,
    /// Of the id hashes: this process's own.
    seed: u64,
    /// Do the records' headers tell the versions of their rows?
    reprocessed: bool,
    /// What events are held against.
    schemas: Option<Registry>,
}

impl EventsStage {
    pub(super) fn new(sink: Arc<dyn Sink>, seed: u64) -> Self {
        Self { sink, seed, reprocessed: false, schemas: None }
    }

    /// The same for events that were reprocessed.
    pub(super) fn reprocessed(self) -> Self {
        Self { reprocessed: true, ..self }
    }

    /// The same, holding events against their schemas.
    pub(super) fn with_schemas(self, schemas: Option<Registry>) -> Self {
        Self { schemas, ..self }
    }

    /// The rows, and what they say of people.
    fn block(batch: &StageBatch<Decoded>, rows: &[RowRef], reprocessed: bool) -> (EventBlock, Said) {
        let mut block = EventBlock::with_capacity(rows.len());
        let mut said = Said::default();
        for row in rows {
            let part = &batch.parts[row.part as usize];
            let payload = &batch.item(*row).payload;
            let (Ok(event), Some(value)) = (&payload.row, &payload.record.value) else { continue };
            let texts = event.of(value);
            let (version, is_deleted) =
                if reprocessed { version_of(&payload.record.headers) } else { (0, false) };
            let row = EventRow {
                project_id: texts.text(Field::ProjectId),
                environment_id: texts.text(Field::EnvironmentId),
                event_id: texts.text(Field::Id),
                event_name: texts.text(Field::EventName),
                distinct_id: texts.text(Field::DistinctId),
                customer_id: texts.text(Field::CustomerId),
                session_id: texts.text(Field::SessionId),
                source: texts.text(Field::Source),
                producer: header(&payload.record.headers, "producer"),
                raw_event_id: header(&payload.record.headers, RAW_EVENT_ID_HEADER),
                timestamp: event.timestamp,
                received_at: event.received_at,
                schema_version: event.schema_version,
                source_topic: &part.topic_partition.topic,
                source_topic_id: part.topic_id.0,
                source_partition: part.topic_partition.partition,
                source_offset: payload.record.offset,
                properties: texts.text(Field::Properties),
                version,
                is_deleted,
            };
            if !is_deleted {
                said.hear(&Saying {
                    project_id: row.project_id,
                    environment_id: row.environment_id,
                    event: row.event_name,
                    event_id: row.event_id,
                    distinct_id: row.distinct_id,
                    timestamp: row.timestamp,
                    received_at: row.received_at,
                    properties: row.properties,
                });
            }
            block.push_marked(&row, event.mark.as_deref().unwrap_or_default());
        }
        (block, said)
    }
}

fn header<'a>(headers: &'a [Header], name: &str) -> &'a str {
    let found = headers.iter().find(|header| &*header.name == name);
    found.and_then(|header| std::str::from_utf8(&header.value).ok()).unwrap_or_default()
}

#[async_trait]
impl Stage for EventsStage {
    type Row = Decoded;

    fn name(&self) -> &'static str {
        "consumer"
    }

    fn table(&self) -> &'static str {
        "events"
    }

    fn mapper_version(&self) -> u32 {
        MAPPER_VERSION
    }

    fn has_id_window(&self) -> bool {
        true
    }

    fn makes_events_visible(&self) -> bool {
        true
    }

    fn read(&self, _: &TopicPartition, record: &Record) -> Result<Read<Decoded>, Refused> {
        let mut event = decode(record)?;
        // That an event is no more is nothing to refuse: what it hides would stay.
        if !(self.reprocessed && version_of(&record.headers).1) {
            super::schemas::hold(&mut event, record, self.schemas.as_ref())?;
        }
        let value = record.value.as_deref().unwrap_or_default();
        let texts = event.of(value);
        let id = IdHash::of(
            self.seed,
            texts.text(Field::ProjectId),
            texts.text(Field::EnvironmentId),
            texts.text(Field::Id),
        );
        Ok(Read { id, remember: !event.id_generated, received_at: event.received_at, row: event })
    }

    async fn insert(
        &self,
        batch: &Arc<StageBatch<Decoded>>,
        rows: &Arc<[RowRef]>,
        token: &str,
    ) -> Result<(), InsertError> {
        let (block, said) = if rows.len() <= BUILD_HERE_ROWS_MAX {
            Self::block(batch, rows, self.reprocessed)
        } else {
            let (batch, rows, reprocessed) = (batch.clone(), rows.clone(), self.reprocessed);
            match tokio::task::spawn_blocking(move || Self::block(&batch, &rows, reprocessed)).await {
                Ok(built) => built,
                // The builder panicked: so does this task, and the driver hears of it.
                Err(join) => std::panic::resume_unwind(Box::new(join.to_string())),
            }
        };
        // First: an event that is visible has had its effect on people. Said twice, it is said once.
        if !said.is_empty() {
            self.sink.note_people(&said, token).await?;
        }
        self.sink.insert_events(&block, token).await
    }

    async fn stored_offsets(
        &self,
        from: &[FetchPosition],
    ) -> Result<BTreeMap<TopicPartition, Vec<i64>>, StoreError> {
        Ok(by_partition(self.sink.stored_offsets(&ranges(from)).await?))
    }

    async fn recent_ids(
        &self,
        partitions: &[(TopicPartition, TopicId)],
        since: Timestamp,
        limit: usize,
        found: mpsc::Sender<Vec<StoredId>>,
    ) -> Result<(), StoreError> {
        // One stream for each topic; its partitions come together, newest first over all of them.
        let mut topics: BTreeMap<(Arc<str>, Uuid), Vec<i32>> = BTreeMap::new();
        for (name, topic_id) in partitions {
            topics.entry((name.topic.clone(), topic_id.0)).or_default().push(name.partition);
        }
        for ((topic, topic_id), partitions) in topics {
            let mut ids = self.sink.recent_ids(&topic, topic_id, &partitions, since, limit as u64);
            while let Some(chunk) = ids.next_chunk().await? {
                let chunk = chunk.into_iter().map(|stored| StoredId {
                    topic_partition: TopicPartition::new(topic.clone(), stored.partition),
                    id: IdHash::of(self.seed, &stored.project_id, &stored.environment_id, &stored.event_id),
                    offset: stored.offset,
                    received_at: stored.received_at,
                });
                if found.send(chunk.collect()).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.sink.probe().await
    }
}

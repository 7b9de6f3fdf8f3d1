//! The stage that lists dead letters: topic `consumer.dlq_topic` → table `events_dlq`.
//!
//! Nothing but lists and counts waits for it: replay reads the topic itself. It refuses nothing, because a dead letter
//! of a dead letter would come round again: what is no dead letter is passed over, and one that the store refuses by
//! itself is left out of the list, both with a line in the log.

use std::sync::Arc;

use async_trait::async_trait;

use super::core::RowRef;
use super::decode::Refused;
use super::sink::Sink;
use super::stage::{Read, Stage, StageBatch};
use crate::dlq::{self, DeadLetter};
use crate::eventlog::{Position, Record, TopicPartition};
use crate::store::{DeadLetterRow, InsertError, StoreError};

/// Counts up whenever [`dlq::index_row`] makes another row of the same dead letter.
const MAPPER_VERSION: u32 = 1;

/// See the [module](self). Listing one again changes nothing: of an origin the row with the highest version counts.
pub(super) struct IndexStage {
    sink: Arc<dyn Sink>,
}

impl IndexStage {
    pub(super) fn new(sink: Arc<dyn Sink>) -> Self {
        Self { sink }
    }
}

#[async_trait]
impl Stage for IndexStage {
    /// `None`: somebody else's record.
    type Row = Option<Box<DeadLetter>>;

    fn name(&self) -> &'static str {
        "dlq_index"
    }

    fn table(&self) -> &'static str {
        "events_dlq"
    }

    fn mapper_version(&self) -> u32 {
        MAPPER_VERSION
    }

    fn read(&self, _: &TopicPartition, record: &Record) -> Result<Read<Self::Row>, Refused> {
        let row = match DeadLetter::from_record(record) {
            Ok(letter) => Some(Box::new(letter)),
            Err(error) => {
                tracing::warn!(offset = record.offset, %error, "a foreign record in the DLQ topic: not listed");
                None
            }
        };
        Ok(Read::by_offset(row, record))
    }

    async fn insert(
        &self,
        batch: &Arc<StageBatch<Self::Row>>,
        rows: &Arc<[RowRef]>,
        token: &str,
    ) -> Result<(), InsertError> {
        let listed = rows.iter().filter_map(|row| {
            let part = &batch.parts[row.part as usize];
            let payload = &batch.item(*row).payload;
            let letter = payload.row.as_ref().ok()?.as_ref()?;
            let partition = part.topic_partition.partition;
            Some(dlq::index_row(letter, part.topic_id, Position { partition, offset: payload.record.offset }))
        });
        let listed: Vec<DeadLetterRow> = listed.collect();
        if listed.is_empty() {
            return Ok(());
        }
        match self.sink.insert_dead_letters(&listed, token).await {
            // Alone after the block was halved again and again: it is this one.
            Err(InsertError::Rejected(message)) if rows.len() == 1 => {
                let origin = &listed[0].origin;
                tracing::error!(
                    topic = origin.topic,
                    partition = origin.partition,
                    offset = origin.offset,
                    error = message,
                    "the store refuses to list a dead letter; it stays in the DLQ topic"
                );
                Ok(())
            }
            outcome => outcome,
        }
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.sink.probe().await
    }
}

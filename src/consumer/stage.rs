//! What a stage of the pipeline is: how it reads a record, and where its rows go. Everything between (batches, tokens,
//! dead letters, commits, retries) is the same for all stages.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::core::{Batch, FetchPosition, IdHash, RowRef, StoredId, Verdict};
use super::decode::{Decoded, Field, Refused, decode};
use crate::event::{Scope, Timestamp};
use crate::eventlog::{Record, TopicId, TopicPartition};
use crate::store::{InsertError, StoreError, StoredOffsets, StoredRange};

/// A record with what the stage read in it.
#[derive(Debug)]
pub struct Payload<R> {
    pub record: Record,
    pub row: Result<R, Refused>,
}

/// A batch of a stage.
pub type StageBatch<R> = Batch<Payload<R>>;

/// A row as a stage read it, and what the core has to know of it.
#[derive(Clone, Debug)]
pub struct Read<R> {
    pub row: R,
    pub id: IdHash,
    /// A resend may carry the same id: the id window remembers it.
    pub remember: bool,
    pub received_at: Timestamp,
}

impl<R> Read<R> {
    /// Of a stage without an id window: the offset names the record well enough.
    pub(super) fn by_offset(row: R, record: &Record) -> Self {
        let id = IdHash(u128::from(record.offset.cast_unsigned()));
        Self { row, id, remember: false, received_at: record.timestamp }
    }

    pub(super) fn verdict(&self) -> Verdict {
        Verdict::Row { id: self.id, remember: self.remember, received_at: self.received_at }
    }
}

/// One stage of the pipeline.
#[async_trait]
pub trait Stage: Send + Sync + 'static {
    /// What a record becomes.
    type Row: Send + Sync + 'static;

    /// Of logs and of its component in `/ready`.
    fn name(&self) -> &'static str;

    /// The table it writes; part of the insert token.
    fn table(&self) -> &'static str;

    /// What it waits for when its inserts fail, in words and in metrics.
    fn writes_to(&self) -> &'static str {
        "store"
    }

    /// Lanes it may work in at most: one, if others go before it.
    fn lanes_max(&self) -> usize {
        usize::MAX
    }

    /// Counts up whenever the same record would become another row.
    fn mapper_version(&self) -> u32;

    /// Does it recognise resends by their id?
    fn has_id_window(&self) -> bool {
        false
    }

    /// Do its records count in the accounting of their topic? Those of one stage a topic do.
    fn accounts(&self) -> bool {
        true
    }

    /// Do its rows make events visible to queries? Then the time from receipt is measured.
    fn makes_events_visible(&self) -> bool {
        false
    }

    /// Reads a record that stands there. The same record gives the same answer for ever.
    ///
    /// # Errors
    /// The record cannot become a row.
    fn read(&self, at: &TopicPartition, record: &Record) -> Result<Read<Self::Row>, Refused>;

    /// Inserts rows as one block. Ok only when the store has confirmed them.
    ///
    /// # Errors
    /// See [`InsertError`].
    async fn insert(
        &self,
        batch: &Arc<StageBatch<Self::Row>>,
        rows: &Arc<[RowRef]>,
        token: &str,
    ) -> Result<(), InsertError>;

    /// The offsets, from each position on, whose rows are stored; sorted. None by default: right where what is done twice
    /// has the effect of once.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn stored_offsets(
        &self,
        _from: &[FetchPosition],
    ) -> Result<BTreeMap<TopicPartition, Vec<i64>>, StoreError> {
        Ok(BTreeMap::new())
    }

    /// Sends the ids stored since then to `found`, newest first, at most `limit`. Asked of stages with an id window.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn recent_ids(
        &self,
        _partitions: &[(TopicPartition, TopicId)],
        _since: Timestamp,
        _limit: usize,
        _found: mpsc::Sender<Vec<StoredId>>,
    ) -> Result<(), StoreError> {
        Ok(())
    }

    /// Does the store answer?
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn probe(&self) -> Result<(), StoreError>;
}

/// The store's question for [`Stage::stored_offsets`].
pub(super) fn ranges(from: &[FetchPosition]) -> Vec<StoredRange> {
    from.iter()
        .map(|position| StoredRange {
            topic: position.topic_partition.topic.to_string(),
            topic_id: position.topic_id.0,
            partition: position.topic_partition.partition,
            from_offset: position.offset,
        })
        .collect()
}

/// The store's answer for [`Stage::stored_offsets`].
pub(super) fn by_partition(found: Vec<StoredOffsets>) -> BTreeMap<TopicPartition, Vec<i64>> {
    found.into_iter().map(|one| (TopicPartition::new(one.topic, one.partition), one.offsets)).collect()
}

/// The events among these rows, with the values that they stand in: of stages that pass over what is no event.
pub(super) fn events_of<'b>(batch: &'b StageBatch<()>, rows: &[RowRef]) -> Vec<(Decoded, &'b [u8])> {
    rows.iter()
        .filter_map(|row| {
            let record = &batch.item(*row).payload.record;
            Some((decode(record).ok()?, record.value.as_deref()?))
        })
        .collect()
}

/// The same events by scope.
pub(super) fn by_scope<'e>(
    events: &'e [(Decoded, &'e [u8])],
) -> BTreeMap<Scope, Vec<(&'e Decoded, &'e [u8])>> {
    let mut found: BTreeMap<Scope, Vec<(&Decoded, &[u8])>> = BTreeMap::new();
    for (event, value) in events {
        let text = |field| event.text(value, field);
        let scope = Scope::new(text(Field::ProjectId), text(Field::EnvironmentId));
        found.entry(scope).or_default().push((event, value));
    }
    found
}

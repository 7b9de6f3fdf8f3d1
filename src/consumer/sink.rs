//! The store as the consumer's stages need it; a trait, so that their tests can run on a store that fails on demand.

use async_trait::async_trait;
use uuid::Uuid;

use crate::event::Timestamp;
use crate::person::{People, Said};
use crate::store::{
    DeadLetterRow, EventBlock, InsertError, RecentId, RecentIds, Store, StoreError, StoredOffsets,
    StoredRange, Swept,
};

/// See the [module](self). Every method but one is [`Store`]'s of the same name.
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    async fn insert_events(&self, block: &EventBlock, token: &str) -> Result<(), InsertError>;
    async fn insert_dead_letters(&self, rows: &[DeadLetterRow], token: &str) -> Result<(), InsertError>;
    /// [`People::note`].
    async fn note_people(&self, said: &Said, token: &str) -> Result<(), InsertError>;
    async fn stored_offsets(&self, ranges: &[StoredRange]) -> Result<Vec<StoredOffsets>, StoreError>;
    fn recent_ids(
        &self,
        topic: &str,
        topic_id: Uuid,
        partitions: &[i32],
        since: Timestamp,
        limit: u64,
    ) -> Box<dyn IdStream>;
    async fn probe(&self) -> Result<(), StoreError>;
    async fn sweep(&self, since: Timestamp, among: Option<Timestamp>) -> Result<Swept, StoreError>;
}

/// Stored ids, newest first.
#[async_trait]
pub trait IdStream: Send {
    /// The next of them; `None`: that was all.
    async fn next_chunk(&mut self) -> Result<Option<Vec<RecentId>>, StoreError>;
}

#[async_trait]
impl IdStream for RecentIds {
    async fn next_chunk(&mut self) -> Result<Option<Vec<RecentId>>, StoreError> {
        Self::next_chunk(self).await
    }
}

/// The store, and the people in it.
#[derive(Clone)]
pub struct Warehouse {
    pub store: Store,
    pub people: People,
}

#[async_trait]
impl Sink for Warehouse {
    async fn insert_events(&self, block: &EventBlock, token: &str) -> Result<(), InsertError> {
        self.store.insert_events(block, token).await
    }

    async fn insert_dead_letters(&self, rows: &[DeadLetterRow], token: &str) -> Result<(), InsertError> {
        self.store.insert_dead_letters(rows, token).await
    }

    async fn note_people(&self, said: &Said, token: &str) -> Result<(), InsertError> {
        self.people.note(said, token).await
    }

    async fn stored_offsets(&self, ranges: &[StoredRange]) -> Result<Vec<StoredOffsets>, StoreError> {
        self.store.stored_offsets(ranges).await
    }

    fn recent_ids(
        &self,
        topic: &str,
        topic_id: Uuid,
        partitions: &[i32],
        since: Timestamp,
        limit: u64,
    ) -> Box<dyn IdStream> {
        Box::new(self.store.recent_ids(topic, topic_id, partitions, since, limit))
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.store.probe().await
    }

    async fn sweep(&self, since: Timestamp, among: Option<Timestamp>) -> Result<Swept, StoreError> {
        self.store.sweep(since, among).await
    }
}

//! A round: what the writer takes from its queue and makes durable with one sync.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::batch::{BatchBuilder, BatchHeader};
use super::catalog::{Partition, Segment, Topic};
use super::writer::Answer;
use crate::eventlog::groups::CheckedOffset;
use crate::eventlog::{CommitError, LogError, NewRecord, Position, TopicId};

/// A batch is closed at this size: what a fetch holds in memory for one record is bounded by it.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// A buffer for a batch begins at this size.
const BATCH_BYTES_MIN: usize = 8 << 10;

/// A segment's summary is recorded each time it has grown by this much: opening reads no more than this and a round of
/// each segment that is written to.
const SUMMARY_BYTES: u64 = 16 << 20;

/// Everything that one sync makes durable.
#[derive(Default)]
pub(super) struct Round {
    pub(super) bytes: usize,
    pub(super) partitions: HashMap<(TopicId, i32), Pending>,
    pub(super) produces: Vec<Produced>,
    pub(super) commits: Vec<Committing>,
}

pub(super) struct Produced {
    pub(super) positions: Vec<Result<Position, LogError>>,
    pub(super) _permit: OwnedSemaphorePermit,
    pub(super) answer: Answer<Vec<Result<Position, LogError>>>,
}

pub(super) struct Committing {
    pub(super) group: Arc<str>,
    pub(super) offsets: Vec<CheckedOffset>,
    pub(super) _permit: OwnedSemaphorePermit,
    pub(super) answer: oneshot::Sender<Result<(), CommitError>>,
}

/// The batches of one partition in a round.
pub(super) struct Pending {
    pub(super) topic: Arc<Topic>,
    pub(super) partition: Arc<Partition>,
    pub(super) segment: Segment,
    /// Where the open batch begins.
    base: i64,
    next: i64,
    open: Option<BatchBuilder>,
    pub(super) closed: Vec<(BatchHeader, Bytes)>,
}

impl Pending {
    pub(super) fn push(&mut self, record: &NewRecord, bytes_expected: usize) -> i64 {
        let builder = self.open.get_or_insert_with(|| {
            // More requests of the round follow: small ones share a buffer that need not grow at each.
            BatchBuilder::with_capacity(bytes_expected.clamp(BATCH_BYTES_MIN, BATCH_BYTES_MAX + (64 << 10)))
        });
        builder.push(record);
        let full = builder.len() >= BATCH_BYTES_MAX;
        let offset = self.next;
        self.next += 1;
        if full {
            self.close_batch();
        }
        offset
    }

    /// Has enough been written since the segment's summary was recorded that it should be recorded again?
    pub(super) fn summary_is_due(&self) -> bool {
        let appended: usize = self.closed.iter().map(|(_, batch)| batch.len()).sum();
        let after = self.segment.bytes.saturating_add(u64::try_from(appended).unwrap_or(u64::MAX));
        self.segment.bytes / SUMMARY_BYTES != after / SUMMARY_BYTES
    }

    pub(super) fn close_batch(&mut self) {
        if let Some(builder) = self.open.take() {
            self.closed.push(builder.finish(self.base));
            self.base = self.next;
        }
    }
}

impl Round {
    pub(super) fn pending(&mut self, topic: &Arc<Topic>, number: i32) -> Result<&mut Pending, LogError> {
        match self.partitions.entry((topic.id, number)) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let gone = || LogError::Unavailable(format!("partition {number} is closed"));
                let partition = topic.partition(number).ok_or_else(gone)?;
                let state = partition.read();
                let segment = state.segments.last().ok_or_else(gone)?.clone();
                let end = state.offsets.end;
                drop(state);
                Ok(entry.insert(Pending {
                    topic: topic.clone(),
                    partition: partition.clone(),
                    segment,
                    base: end,
                    next: end,
                    open: None,
                    closed: Vec::new(),
                }))
            }
        }
    }

    pub(super) fn refuse(self, error: &LogError) {
        for produced in self.produces {
            let _ = produced.answer.send(Err(error.clone()));
        }
        for commit in self.commits {
            let _ = commit.answer.send(Err(error.clone().into()));
        }
    }
}

//! What the log knows in memory: topics, their partitions, each partition's segments and newest batches. The writer
//! thread changes it; fetches read it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use fjall::Keyspace;
use metrics::Counter;

use super::batch::BatchHeader;
use crate::eventlog::{PartitionOffsets, TopicId, TopicSpec};
use crate::telemetry::names;

/// What groups have committed, by group, incarnation and partition.
pub(super) type Committed = HashMap<(Arc<str>, TopicId, i32), i64>;

/// Every topic, by name.
#[derive(Clone, Default)]
pub(super) struct Catalog {
    pub(super) topics: BTreeMap<Arc<str>, Arc<Topic>>,
}

impl Catalog {
    /// Every partition of every topic.
    pub(super) fn partitions(&self) -> impl Iterator<Item = (&Arc<Topic>, &Arc<Partition>)> {
        self.topics
            .values()
            .flat_map(|topic| topic.partitions.iter().map(move |partition| (topic, partition)))
    }
}

/// A topic as it stands; a change makes a new one that shares the partitions.
pub(super) struct Topic {
    pub(super) spec: TopicSpec,
    pub(super) id: TopicId,
    /// By number.
    pub(super) partitions: Vec<Arc<Partition>>,
    pub(super) produced: Counter,
    pub(super) expired: Counter,
}

impl Topic {
    pub(super) fn new(spec: TopicSpec, id: TopicId, partitions: Vec<Arc<Partition>>) -> Self {
        let labels: [(&'static str, &str); 1] = [("topic", &spec.name)];
        let produced = names::EVENTLOG_RECORDS_PRODUCED.counter(&labels);
        let expired = names::EVENTLOG_RECORDS_EXPIRED.counter(&labels);
        Self { spec, id, partitions, produced, expired }
    }

    /// The partition of this number.
    pub(super) fn partition(&self, number: i32) -> Option<&Arc<Partition>> {
        self.partitions.get(usize::try_from(number).ok()?)
    }
}

/// A partition of one incarnation of a topic.
pub(super) struct Partition {
    pub(super) number: i32,
    state: RwLock<PartitionState>,
}

impl Partition {
    pub(super) fn new(number: i32, state: PartitionState) -> Self {
        Self { number, state: RwLock::new(state) }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, PartitionState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, PartitionState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A partition's segments and ends.
pub(super) struct PartitionState {
    /// The oldest first; the last one is written to. Empty once the store is closed or the topic deleted.
    pub(super) segments: Vec<Segment>,
    /// The newest batches, without gaps up to the end.
    pub(super) tail: VecDeque<TailBatch>,
    pub(super) offsets: PartitionOffsets,
}

/// A batch kept in memory.
#[derive(Clone)]
pub(super) struct TailBatch {
    pub(super) base: i64,
    pub(super) batch: Bytes,
}

impl PartitionState {
    /// Over its segments, in the order of their offsets; `None` unless each begins where the one before it ends, and
    /// all but the last are sealed.
    pub(super) fn new(segments: Vec<Segment>) -> Option<Self> {
        let (first, last) = (segments.first()?, segments.last()?);
        let offsets = PartitionOffsets { log_start: first.base, end: last.end };
        let runs_on = segments.windows(2).all(|pair| pair[0].end == pair[1].base && pair[0].sealed);
        (runs_on && !last.sealed).then_some(Self { segments, tail: VecDeque::new(), offsets })
    }

    /// Notes a batch that is durable now.
    pub(super) fn append(&mut self, header: &BatchHeader, batch: Bytes) {
        if let Some(segment) = self.segments.last_mut() {
            segment.add(header, batch.len());
        }
        self.tail.push_back(TailBatch { base: header.base_offset, batch });
        self.offsets.end = header.end();
    }

    /// Bytes of batches over all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }
}

/// A run of batches of one partition, in a keyspace of its own.
#[derive(Clone)]
pub(super) struct Segment {
    pub(super) keyspace: Keyspace,
    pub(super) base: i64,
    pub(super) end: i64,
    pub(super) bytes: u64,
    /// Of its first record, in milliseconds; meaningless while empty.
    pub(super) first_timestamp: i64,
    /// The largest of its records, in milliseconds; meaningless while empty.
    pub(super) max_timestamp: i64,
    /// Nothing is written to it any more.
    pub(super) sealed: bool,
}

impl Segment {
    pub(super) fn new(keyspace: Keyspace, base: i64) -> Self {
        Self {
            keyspace,
            base,
            end: base,
            bytes: 0,
            first_timestamp: 0,
            max_timestamp: i64::MIN,
            sealed: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.end == self.base
    }

    /// Notes a batch at its end.
    pub(super) fn add(&mut self, header: &BatchHeader, bytes: usize) {
        if self.is_empty() {
            self.first_timestamp = header.base_timestamp;
        }
        self.end = header.end();
        self.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
    }
}

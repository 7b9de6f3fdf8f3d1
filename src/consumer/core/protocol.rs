//! What the core is told ([`Input`]) and what it wants done ([`Effect`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{FloodLimits, IdHash};
use crate::event::{ErrorKind, Timestamp};
use crate::eventlog::{AssignedPartition, Generation, PartitionOffsets, TopicId, TopicPartition};
use crate::lifecycle::BreakerState;

/// Bounds and waits of the core; most come from section `consumer` of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Parts of every insert token: see [`super::token`].
    pub namespace: &'static str,
    pub table: Arc<str>,
    pub mapper_version: u32,
    /// Lanes that partitions are divided among.
    pub lanes: usize,
    /// A batch is cut at this many rows, this many bytes, or this long after its first record.
    pub rows_max: usize,
    pub bytes_max: usize,
    pub age_max: Duration,
    /// A lane that has read to the end and has not flushed for this long flushes at once.
    pub idle_after: Duration,
    /// Longest wait of one fetch.
    pub fetch_wait_max: Duration,
    /// Failures of a dependency in a row that open its breaker.
    pub breaker_failures: u32,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    pub flood: FloodLimits,
    /// The id window; no memory means no window.
    pub dedupe_window: Duration,
    pub dedupe_memory_max: usize,
    /// How long a revoked partition's batch may take to finish before it is dropped.
    pub release_timeout: Duration,
    /// A store that was not heard of for this long is probed.
    pub probe_interval: Duration,
    /// Of the jitter.
    pub seed: u64,
    /// Layers that tests take away, to prove that each is needed.
    #[cfg(test)]
    pub without: Without,
}

/// What a test takes away from the core.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Without {
    pub scan: bool,
    pub commit_after_insert: bool,
    pub id_window: bool,
    pub resurrection: bool,
}

/// The present moment, twice: monotonic for waits, of the day for the id window's reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    pub mono: Duration,
    pub wall: Timestamp,
}

macro_rules! counter_id {
    ($($(#[$doc:meta])* $name:ident),+) => {
        $($(#[$doc])* #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)] pub struct $name(pub u64);)+
    };
}
counter_id! {
    /// One scan of the store for what is there already.
    ScanId,
    /// One rebuild of id windows.
    RebuildId,
    /// One fetch.
    FetchId,
    /// One batch.
    BatchId,
    /// One attempt of a step of a batch; an answer to another attempt is ignored.
    AttemptId
}

/// A record as the decoder judged it. `payload` is the driver's and never looked at here.
#[derive(Clone, Debug)]
pub struct Item<P> {
    pub offset: i64,
    /// Of the record, for the batch's bound.
    pub bytes: usize,
    pub verdict: Verdict,
    pub payload: P,
}

/// What the decoder made of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A row. `remember`: its sender gave the id, so a resend may carry it again.
    Row { id: IdHash, remember: bool, received_at: Timestamp },
    /// No row can be made of it.
    Refused(ErrorKind),
}

/// One partition's contiguous range of offsets in a batch, `start` to `end` (exclusive).
#[derive(Clone, Debug)]
pub struct Part<P> {
    pub topic_partition: TopicPartition,
    pub topic_id: TopicId,
    pub start: i64,
    pub end: i64,
    pub items: Vec<Item<P>>,
}

/// What a lane works on.
#[derive(Clone, Debug)]
pub struct Batch<P> {
    pub id: BatchId,
    pub parts: Vec<Part<P>>,
}

impl<P> Batch<P> {
    /// The record a [`RowRef`] means.
    pub fn item(&self, row: RowRef) -> &Item<P> {
        &self.parts[row.part as usize].items[row.item as usize]
    }
}

/// A record's place in its batch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RowRef {
    pub part: u32,
    pub item: u32,
}

/// A record to be written to the dead letters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Letter {
    pub row: RowRef,
    pub kind: ErrorKind,
    /// What the store said; the decoder's own words stand in the payload.
    pub store_said: Option<String>,
}

/// What came of an insert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InsertOutcome {
    /// The stream drained, no error came, and the connection was still open.
    Stored,
    Unavailable(String),
    OutcomeUnknown(String),
    Schema {
        message: String,
        cure: String,
    },
    /// The block was refused for its content; `row` is the place in the block of the row the server named.
    Rejected {
        message: String,
        row: Option<usize>,
    },
}

/// What came of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    Committed,
    Fenced,
    Rebalancing,
    Failed(String),
}

/// What a fetch found in one partition.
#[derive(Clone, Debug)]
pub enum FetchedPart<P> {
    Records { items: Vec<Item<P>>, next_offset: i64, offsets: PartitionOffsets },
    OutOfRange(PartitionOffsets),
    UnknownTopic,
    Corrupt { offset: i64 },
}

/// An id found in the store while rebuilding the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredId {
    pub topic_partition: TopicPartition,
    pub id: IdHash,
    pub offset: i64,
    pub received_at: Timestamp,
}

/// What happened.
#[derive(Debug)]
pub enum Input<P> {
    Assigned {
        generation: Generation,
        partitions: Vec<AssignedPartition>,
    },
    Revoking {
        partitions: Vec<TopicPartition>,
    },
    Lost {
        partitions: Vec<TopicPartition>,
    },
    TopicMissing {
        topic: Arc<str>,
    },
    TopicBack {
        topic: Arc<str>,
    },
    /// Offsets that are stored, sorted, of every partition that was asked for (none: nothing).
    Scanned {
        scan: ScanId,
        stored: Result<BTreeMap<TopicPartition, Vec<i64>>, String>,
    },
    /// Stored ids, newest first, more to come …
    Rebuilding {
        rebuild: RebuildId,
        ids: Vec<StoredId>,
    },
    /// … and the end of them.
    Rebuilt {
        rebuild: RebuildId,
        outcome: Result<(), String>,
    },
    Fetched {
        lane: usize,
        fetch: FetchId,
        parts: Vec<(TopicPartition, FetchedPart<P>)>,
    },
    FetchFailed {
        lane: usize,
        fetch: FetchId,
        reason: String,
    },
    /// One outcome a letter, in their order.
    LettersProduced {
        batch: BatchId,
        attempt: AttemptId,
        outcomes: Vec<Result<(), String>>,
    },
    Inserted {
        batch: BatchId,
        attempt: AttemptId,
        outcome: InsertOutcome,
    },
    Committed {
        batch: BatchId,
        attempt: AttemptId,
        outcome: CommitOutcome,
    },
    Probed {
        outcome: Result<(), String>,
    },
    /// An operator wants a stopped partition to go on.
    Resume {
        partition: TopicPartition,
    },
    /// Time has passed.
    Tick,
    /// Finish or drop what is in hand, then leave.
    Stop,
}

/// Where to fetch from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchPosition {
    pub topic_partition: TopicPartition,
    pub topic_id: TopicId,
    pub offset: i64,
}

/// What to do. Every effect that names an id is answered by the input that names the same.
#[derive(Debug)]
pub enum Effect<P> {
    /// Which offsets from these on are stored?
    Scan {
        scan: ScanId,
        from: Vec<FetchPosition>,
    },
    /// Read back ids stored since then, newest first, at most `limit`.
    Rebuild {
        rebuild: RebuildId,
        partitions: Vec<(TopicPartition, TopicId)>,
        since: Timestamp,
        limit: usize,
    },
    /// Drop the rebuild: nobody needs it any more.
    CancelRebuild {
        rebuild: RebuildId,
    },
    Fetch {
        lane: usize,
        fetch: FetchId,
        from: Vec<FetchPosition>,
        wait_max: Duration,
        bytes_max: usize,
    },
    ProduceLetters {
        attempt: AttemptId,
        batch: Arc<Batch<P>>,
        letters: Vec<Letter>,
    },
    Insert {
        attempt: AttemptId,
        batch: Arc<Batch<P>>,
        rows: Arc<[RowRef]>,
        token: String,
    },
    Commit {
        batch: BatchId,
        attempt: AttemptId,
        generation: Generation,
        offsets: BTreeMap<TopicPartition, i64>,
    },
    /// Give these up: nothing is in flight for them, and nothing will be committed.
    Release {
        partitions: Vec<TopicPartition>,
    },
    /// Drop the place in the group and join again.
    Rejoin,
    /// Everything is finished or dropped: leave the group.
    Leave,
    Probe,
    Tell(Notice),
}

/// A dependency with a breaker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Dependency {
    Store,
    EventLog,
}

impl Dependency {
    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::EventLog => "eventlog",
        }
    }
}

/// What people and metrics should know.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// Records went into a batch: they are in flight until [`Notice::Finished`] or [`Notice::Released`].
    Taken {
        topic_partition: TopicPartition,
        records: u64,
    },
    /// Records left a batch uncommitted; whoever reads them next counts them again.
    Released {
        topic_partition: TopicPartition,
        records: u64,
        reason: &'static str,
    },
    /// A batch is committed.
    Finished(Report),
    /// Retention deleted these before they were read.
    Expired {
        topic_partition: TopicPartition,
        from: i64,
        to: i64,
    },
    Breaker {
        dependency: Dependency,
        state: BreakerState,
        reason: String,
    },
    /// A partition stands still, with the reason; `None`: it goes on.
    Standstill {
        topic_partition: TopicPartition,
        stopped: bool,
        reason: Option<String>,
    },
    TopicMissing {
        topic: Arc<str>,
        missing: bool,
    },
    /// Where a partition's log ends and what is committed, whenever that is learned.
    Ends {
        topic_partition: TopicPartition,
        end: i64,
        committed: i64,
    },
    /// Not ours any more.
    Gone {
        topic_partition: TopicPartition,
    },
    /// Rows received since then were stored while the id window was being rebuilt: look for their twins.
    Uncompared {
        stored_since: Timestamp,
    },
}

/// What became of a batch. The counts of a part add up to its records.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Report {
    pub batch: u64,
    pub parts: Vec<PartReport>,
    /// From the first record until the batch was sealed, confirmed, committed.
    pub gathered: Duration,
    pub inserted: Duration,
    pub committed: Duration,
    pub insert_attempts: u32,
}

/// What became of one partition's range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartReport {
    pub topic_partition: TopicPartition,
    pub start: i64,
    pub end: i64,
    pub records: u64,
    pub stored: u64,
    pub already_stored: u64,
    pub duplicates: u64,
    pub dead_lettered: BTreeMap<ErrorKind, u64>,
}

/// Sorted offsets as ranges: what a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OffsetSet(Vec<(i64, i64)>);

impl OffsetSet {
    pub(super) fn new(sorted: &[i64]) -> Self {
        let mut ranges: Vec<(i64, i64)> = Vec::new();
        for offset in sorted {
            match ranges.last_mut() {
                Some((_, last)) if *offset <= *last + 1 => *last = (*last).max(*offset),
                _ => ranges.push((*offset, *offset)),
            }
        }
        Self(ranges)
    }

    pub(super) fn contains(&self, offset: i64) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= offset);
        after > 0 && self.0[after - 1].1 >= offset
    }

    pub(super) fn forget_before(&mut self, offset: i64) {
        let gone = self.0.partition_point(|(_, last)| *last < offset);
        self.0.drain(..gone);
    }
}

/// Offsets whose letters are acknowledged although their range is not committed.
pub(super) type AckedLetters = BTreeSet<i64>;

//! The event log: topics of partitions of records, and consumer groups over them, in Kafka's words and with Kafka's
//! semantics, whichever backend runs. Capture and consumer know this trait and nothing else.
//!
//! Promises every backend keeps (one conformance suite runs over all of them):
//!
//! - A produce is acknowledged only when the record survives a crash and power loss.
//! - Offsets of a partition only grow; a record keeps its offset for ever; order within a partition is the order of
//!   acknowledged produces. Offsets may have gaps.
//! - A topic that is deleted and made again has another [`TopicId`]; positions of the old one are refused, never
//!   silently applied to the new one.
//! - A commit is accepted only from a member whose generation is current; anything else is [`CommitError::Fenced`].
//! - Retention never deletes what a required group has not committed (embedded), or says so (`OffsetOutOfRange`, Kafka).
//! - Every call has a deadline; none hangs.

#[cfg(test)]
mod conformance;
mod embedded;
mod groups;
mod kafka;
mod memory;
mod partitioner;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use crate::event::Timestamp;

pub use embedded::{EmbeddedLog, EmbeddedOptions, FreeBytes};
pub use kafka::{Compression, KafkaLog, KafkaOptions, SaslMechanism, SaslOptions, TlsOptions};
pub use memory::{Fault, MemoryLog, Operation};
pub use partitioner::{murmur2, partition_for_key};

/// Identity of one incarnation of a topic.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TopicId(pub Uuid);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A topic's name and a partition's number.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TopicPartition {
    pub topic: Arc<str>,
    pub partition: i32,
}

impl TopicPartition {
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A record header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    pub name: Arc<str>,
    pub value: Bytes,
}

/// The headers of a record, in order. Records that were written together mostly carry the same ones: those share them.
pub type Headers = Arc<[Header]>;

/// A record to be written. Its partition is murmur2 of the key, as Kafka's Java client computes it; without a key,
/// any partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewRecord {
    pub key: Option<Bytes>,
    pub value: Bytes,
    pub headers: Headers,
    /// When it is written, not when the event happened: by it Kafka ages a producer (`producer.id.expiration.ms`, one
    /// day), and a broker that comes back from a crash forgets one whose records are older, and with it that a repeat
    /// is a repeat.
    pub timestamp: Timestamp,
}

impl NewRecord {
    /// Bytes of key, value and headers together, as [`TopicSpec::record_bytes_max`] counts them.
    pub fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|header| header.name.len() + header.value.len()).sum();
        self.key.as_ref().map_or(0, Bytes::len) + self.value.len() + headers
    }

    fn check_size(&self, bytes_max: usize) -> Result<(), LogError> {
        let bytes = self.bytes();
        if bytes > bytes_max {
            return Err(LogError::RecordTooLarge { bytes, bytes_max });
        }
        Ok(())
    }
}

/// A record as it stands in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub offset: i64,
    pub timestamp: Timestamp,
    pub key: Option<Bytes>,
    /// `None` is Kafka's tombstone; the consumer makes a dead letter of it.
    pub value: Option<Bytes>,
    pub headers: Headers,
}

/// Where a produced record stands. Offset -1: it is durable, but nobody knows where any more (Kafka, when an answer was
/// lost and others followed before it was asked for again).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position {
    pub partition: i32,
    pub offset: i64,
}

/// A topic as configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicSpec {
    pub name: Arc<str>,
    pub partitions: i32,
    pub retention: Retention,
    /// Largest record, key and value and headers together, in bytes.
    pub record_bytes_max: usize,
    /// Groups that must have committed a record before the embedded log may delete it.
    pub required_groups: Vec<Arc<str>>,
}

impl TopicSpec {
    /// Of a log that keeps a topic as it was asked to.
    fn as_settings(&self) -> TopicSettings {
        TopicSettings {
            name: self.name.clone(),
            replication_factor: None,
            retention: self.retention,
            record_bytes_max: self.record_bytes_max,
            compacted: false,
        }
    }
}

/// How long records are kept; whichever bound is reached first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Retention {
    pub age_max: Option<Duration>,
    pub bytes_max: Option<u64>,
}

/// A topic as it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicDescription {
    pub name: Arc<str>,
    pub id: TopicId,
    /// By partition number.
    pub partitions: Vec<PartitionOffsets>,
}

/// How a topic that stands is kept, as far as its log tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicSettings {
    pub name: Arc<str>,
    /// Copies of each partition, the fewest of them; `None`: a log of one machine.
    pub replication_factor: Option<usize>,
    pub retention: Retention,
    /// As [`TopicSpec::record_bytes_max`] counts them.
    pub record_bytes_max: usize,
    /// Of records with one key only the last is kept for ever: no topic of events.
    pub compacted: bool,
}

/// The ends of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionOffsets {
    /// The oldest record still there (or the end, if there is none).
    pub log_start: i64,
    /// One past the newest durable record.
    pub end: i64,
}

/// Where to read a partition from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchFrom {
    pub topic_partition: TopicPartition,
    pub topic_id: TopicId,
    pub offset: i64,
}

/// Bounds of one fetch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchLimits {
    /// Answer at once when there is a record; with none in any partition, answer empty after this long.
    pub wait_max: Duration,
    /// Stop gathering a partition after the record that reaches this many bytes (always at least one record).
    pub partition_bytes_max: usize,
    /// The same over all partitions together.
    pub bytes_max: usize,
}

/// What a fetch found in one partition.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub topic_partition: TopicPartition,
    pub outcome: Result<FetchedRecords, FetchError>,
}

/// Records of one partition, in offset order (offsets may have gaps), and its ends.
#[derive(Clone, Debug)]
pub struct FetchedRecords {
    pub records: Vec<Record>,
    /// Where the next fetch goes on: one past the last record examined, which may be past the last one returned.
    pub next_offset: i64,
    pub offsets: PartitionOffsets,
}

/// Why one partition could not be read; the others of the same fetch are not touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FetchError {
    /// The offset is outside of what the partition holds: retention passed it, or it is beyond the end.
    #[error("offset out of range: the log holds {} to {}", .0.log_start, .0.end)]
    OffsetOutOfRange(PartitionOffsets),
    /// The topic is gone, or another incarnation of it stands there (its id is given then).
    #[error("topic is missing or was made again")]
    UnknownTopic { now: Option<TopicId> },
    /// A record failed its checksum.
    #[error("corrupt record at offset {offset}")]
    Corrupt { offset: i64 },
}

/// Why a call failed as a whole.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LogError {
    /// Not now: nothing was written. Try again after a moment.
    #[error("the log is not available: {0}")]
    Unavailable(String),
    /// The answer was lost: the record may or may not be there.
    #[error("the outcome is unknown: {0}")]
    OutcomeUnknown(String),
    /// No such topic.
    #[error("topic {0} does not exist: `flexflow topics create` makes it")]
    TopicMissing(Arc<str>),
    /// The record is larger than the topic takes; only this record is refused.
    #[error("record of {bytes} bytes is over the topic's limit of {bytes_max}")]
    RecordTooLarge { bytes: usize, bytes_max: usize },
    /// The credentials do not allow it.
    #[error("not allowed: {0}")]
    Forbidden(String),
    /// The disk has no room, or a bound on it is reached (the embedded log never deletes what a required group has
    /// not committed).
    #[error("the log is full: {0}")]
    Full(String),
}

/// Why a commit was not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommitError {
    /// This member no longer owns what it commits: drop the batch, join again.
    #[error("fenced: another member owns the partition now")]
    Fenced,
    /// The group is being rebalanced: ask [`GroupMember::next`] what to do.
    #[error("the group is rebalancing")]
    Rebalancing,
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Counts up with every change of a group's assignment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Generation(pub i64);

/// A partition given to a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AssignedPartition {
    pub topic_partition: TopicPartition,
    pub topic_id: TopicId,
    /// The group's committed offset of this incarnation of the topic; `None`: start at the log's start, never its end.
    pub committed: Option<i64>,
}

/// What a group tells its member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GroupEvent {
    /// These partitions are this member's from now on, besides those it has; commits use this generation.
    Assigned { generation: Generation, partitions: Vec<AssignedPartition> },
    /// Finish (commit or drop) what is in flight for these, start nothing new, then call [`GroupMember::release`].
    Revoking { partitions: Vec<TopicPartition> },
    /// These are gone already: drop what is in flight, commit nothing.
    Lost { partitions: Vec<TopicPartition> },
    /// A topic of the subscription vanished (its partitions are lost) …
    TopicMissing { topic: Arc<str> },
    /// … and is back (its partitions come with `Assigned`).
    TopicBack { topic: Arc<str> },
}

/// How to take part in a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupSpec {
    pub group: Arc<str>,
    pub topics: Vec<Arc<str>>,
    pub client_id: Arc<str>,
    /// Static membership: a restarted process gets its partitions back without a rebalance.
    pub instance_id: Option<Arc<str>>,
}

/// A place in a consumer group. Dropping it leaves the group without ceremony, as a crash would.
#[async_trait]
pub trait GroupMember: Send {
    /// Waits for the next thing the group has to say. Cancel-safe.
    async fn next(&mut self) -> Result<GroupEvent, LogError>;

    /// A handle that commits while [`GroupMember::next`] waits.
    fn committer(&self) -> Arc<dyn Committer>;

    /// Gives up partitions after [`GroupEvent::Revoking`].
    async fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError>;

    /// Leaves, so that others take over at once.
    async fn leave(self: Box<Self>) -> Result<(), LogError>;
}

/// Records how far a group has come.
#[async_trait]
pub trait Committer: Send + Sync {
    /// All of `offsets` (each one past the last record done with) or none of them, durably.
    async fn commit(
        &self,
        generation: Generation,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<(), CommitError>;
}

/// Where each partition of a topic ends now: what is waited for with [`has_passed`].
///
/// # Errors
/// The log does not answer, or has no such topic.
pub async fn ends(log: &dyn EventLog, topic: &str) -> Result<Vec<(i32, i64)>, LogError> {
    let topics = log.topics().await?;
    let found = topics.into_iter().find(|one| &*one.name == topic);
    let found = found.ok_or_else(|| LogError::TopicMissing(topic.into()))?;
    Ok((0..).zip(found.partitions.iter().map(|partition| partition.end)).collect())
}

/// Has the group committed all before these ends? What the topic does not hold any more needs no commit: a partition whose
/// records are all gone by age never gets one, nor does one of a topic that was made again since.
///
/// # Errors
/// As [`ends`].
pub async fn has_passed(
    log: &dyn EventLog,
    topic: &str,
    group: &str,
    ends: impl IntoIterator<Item = (i32, i64)>,
) -> Result<bool, LogError> {
    let committed = log.committed(group).await?;
    let at = |partition: i32| committed.get(&TopicPartition::new(topic, partition)).copied().unwrap_or(0);
    let left: Vec<(i32, i64)> = ends.into_iter().filter(|(partition, end)| at(*partition) < *end).collect();
    if left.is_empty() {
        return Ok(true);
    }
    let topics = log.topics().await?;
    let found = topics.into_iter().find(|one| &*one.name == topic);
    let found = found.ok_or_else(|| LogError::TopicMissing(topic.into()))?;
    let is_gone = |(partition, end): &(i32, i64)| {
        let ends = usize::try_from(*partition).ok().and_then(|index| found.partitions.get(index));
        ends.is_none_or(|now| now.log_start >= *end || now.end < *end)
    };
    Ok(left.iter().all(is_gone))
}

/// A log of events. See the [module](self) for what every backend promises.
#[async_trait]
pub trait EventLog: Send + Sync + 'static {
    /// `embedded`, `kafka` or `memory`: for logs and `/ready`, never for decisions.
    fn kind(&self) -> &'static str;

    /// Writes records to a topic; the answer has one entry a record, in the same order. One record's refusal does not
    /// touch the others. Concurrent calls share the cost of durability.
    async fn produce(&self, topic: &str, records: Vec<NewRecord>) -> Vec<Result<Position, LogError>>;

    /// Long poll over many partitions: returns as soon as any has a record or an error.
    async fn fetch(&self, from: &[FetchFrom], limits: FetchLimits) -> Result<Vec<Fetched>, LogError>;

    /// Takes a place in a group.
    async fn join(&self, spec: GroupSpec) -> Result<Box<dyn GroupMember>, LogError>;

    /// Creates the topics that are missing; never deletes one, nor changes the partitions of one that is there.
    /// Answers the names it made. Embedded: a topic that is there takes over retention, limit and required groups; Kafka:
    /// nobody is asked about one that is there.
    async fn create_topics(&self, topics: &[TopicSpec]) -> Result<Vec<Arc<str>>, LogError>;

    /// Grows a topic to `partitions`; one that has as many already stays as it is. Keys move: see RUNBOOK.
    async fn grow_topic(&self, topic: &str, partitions: i32) -> Result<(), LogError>;

    /// Deletes a topic with its records and the offsets groups committed to it. Only tests and operators do this.
    async fn delete_topic(&self, topic: &str) -> Result<(), LogError>;

    /// Every topic as it stands.
    async fn topics(&self) -> Result<Vec<TopicDescription>, LogError>;

    /// How these topics are kept; one that is missing, or that nobody may ask about, is left out.
    async fn topic_settings(&self, topics: &[Arc<str>]) -> Result<Vec<TopicSettings>, LogError>;

    /// What a group has committed, for the present incarnation of each topic.
    async fn committed(&self, group: &str) -> Result<BTreeMap<TopicPartition, i64>, LogError>;

    /// The first offset at or after `at` in each partition of a topic; the end where there is none.
    async fn offsets_at(&self, topic: &str, at: Timestamp) -> Result<Vec<i64>, LogError>;

    /// Is the log taking writes? Cheap; called at least once a minute.
    async fn probe(&self) -> Result<(), LogError>;

    /// Flushes and closes. Calls after it answer [`LogError::Unavailable`].
    async fn close(&self);
}

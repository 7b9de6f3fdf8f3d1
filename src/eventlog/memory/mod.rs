//! A log in memory whose faults are scripted: it drives the tests of the rooms that use a log. Its semantics are those
//! of the embedded log; what it holds is gone with the process.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::groups::{Commit, GroupHost, Groups, SingleOwnerMember};
use super::partitioner::Placement;
use super::{
    CommitError, EventLog, FetchError, FetchFrom, FetchLimits, Fetched, FetchedRecords, GroupMember,
    GroupSpec, LogError, NewRecord, PartitionOffsets, Position, Record, TopicDescription, TopicId,
    TopicPartition, TopicSettings, TopicSpec,
};
use crate::event::{Clock, IdSource, Timestamp};

/// What a call does instead of its work. Scripted with [`MemoryLog::script`], one fault a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Works as it should (to place a fault behind calls that pass).
    Pass,
    /// Answers [`LogError::Unavailable`]; nothing was written.
    Refuse,
    /// Answers [`LogError::Full`]; nothing was written.
    Full,
    /// Does its work, and then answers [`LogError::OutcomeUnknown`].
    LoseAnswer,
    /// Produce: writes every record twice and answers the first position, as a retry inside a client would.
    /// Elsewhere: does its work.
    Duplicate,
    /// Commit: answers [`CommitError::Fenced`]. Elsewhere: does its work.
    Fence,
    /// Waits this long, then does its work.
    Slow(Duration),
}

/// The calls that faults can be scripted for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    Produce,
    Fetch,
    Commit,
    Join,
    /// [`EventLog::topics`], [`EventLog::committed`] and [`EventLog::offsets_at`].
    Describe,
    /// Creating, growing and deleting topics.
    Admin,
    Probe,
}

/// A log in memory. Clones are handles of the same log.
#[derive(Clone)]
pub struct MemoryLog(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    state: Mutex<State>,
    groups: Groups,
    /// Counts produces, deletions and retention; fetches wait on it.
    changes: watch::Sender<u64>,
    closed: AtomicBool,
    placements: AtomicU64,
}

#[derive(Default)]
struct State {
    topics: BTreeMap<Arc<str>, Topic>,
    committed: HashMap<(Arc<str>, TopicId, i32), i64>,
    faults: HashMap<Operation, VecDeque<Fault>>,
    calls: HashMap<Operation, u64>,
}

struct Topic {
    spec: TopicSpec,
    id: TopicId,
    partitions: Vec<Partition>,
}

#[derive(Default)]
struct Partition {
    log_start: i64,
    records: VecDeque<Record>,
}

impl Partition {
    fn offsets(&self) -> PartitionOffsets {
        let records = i64::try_from(self.records.len()).unwrap_or(i64::MAX);
        PartitionOffsets { log_start: self.log_start, end: self.log_start.saturating_add(records) }
    }

    fn append(&mut self, record: NewRecord) -> i64 {
        let offset = self.offsets().end;
        self.records.push_back(Record {
            offset,
            timestamp: record.timestamp,
            key: record.key,
            value: Some(record.value),
            headers: record.headers,
        });
        offset
    }
}

/// What a call was told to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Work,
    LoseAnswer,
    Duplicate,
    Fence,
}

impl MemoryLog {
    /// An empty log.
    pub fn new(clock: Arc<dyn Clock>, ids: Arc<dyn IdSource>) -> Self {
        Self(Arc::new(Inner {
            clock,
            ids,
            state: Mutex::default(),
            groups: Groups::new(1),
            changes: watch::Sender::new(0),
            closed: AtomicBool::new(false),
            placements: AtomicU64::new(0),
        }))
    }

    /// Appends to the script of an operation: its next calls take these faults, one each, in this order.
    pub fn script(&self, operation: Operation, faults: impl IntoIterator<Item = Fault>) {
        self.0.lock().faults.entry(operation).or_default().extend(faults);
    }

    /// Refuses the next `calls` calls of every operation.
    pub fn go_away(&self, calls: usize) {
        use Operation::{Admin, Commit, Describe, Fetch, Join, Probe, Produce};
        for operation in [Produce, Fetch, Commit, Join, Describe, Admin, Probe] {
            self.script(operation, std::iter::repeat_n(Fault::Refuse, calls));
        }
    }

    /// Forgets every scripted fault that has not been taken.
    pub fn heal(&self) {
        self.0.lock().faults.clear();
    }

    /// How often an operation was called, faults included.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.0.lock().calls.get(&operation).copied().unwrap_or(0)
    }

    /// Appends a record as it stands to a partition, also what [`EventLog::produce`] cannot write: a record without a
    /// value. Its offset is set here, and answered; `None`: no such partition.
    pub fn append_raw(&self, partition: &TopicPartition, mut record: Record) -> Option<i64> {
        let mut state = self.0.lock();
        let index = usize::try_from(partition.partition).ok()?;
        let partition = state.topics.get_mut(&partition.topic)?.partitions.get_mut(index)?;
        record.offset = partition.offsets().end;
        let offset = record.offset;
        partition.records.push_back(record);
        drop(state);
        self.0.changed();
        Some(offset)
    }

    /// Deletes the records before `offset`, whoever needs them, as Kafka's retention does.
    pub fn delete_records_before(&self, partition: &TopicPartition, offset: i64) {
        let mut state = self.0.lock();
        let found = usize::try_from(partition.partition).ok().and_then(|index| {
            state.topics.get_mut(&partition.topic).and_then(|topic| topic.partitions.get_mut(index))
        });
        if let Some(partition) = found {
            let end = offset.min(partition.offsets().end);
            while partition.log_start < end {
                partition.records.pop_front();
                partition.log_start += 1;
            }
        }
        drop(state);
        self.0.changed();
    }

    /// Deletes what the topics' retention allows, but nothing that a required group has not committed. Answers how
    /// many records went.
    pub fn enforce_retention(&self) -> u64 {
        let now = self.0.clock.now();
        let mut state = self.0.lock();
        let State { topics, committed, .. } = &mut *state;
        let mut gone = 0;
        for topic in topics.values_mut() {
            for (number, partition) in (0..).zip(&mut topic.partitions) {
                let floor = topic
                    .spec
                    .required_groups
                    .iter()
                    .map(|group| committed.get(&(group.clone(), topic.id, number)).copied().unwrap_or(0))
                    .min()
                    .unwrap_or(i64::MAX);
                let mut bytes: u64 = partition.records.iter().map(record_bytes).sum();
                while let Some(oldest) = partition.records.front() {
                    let old =
                        topic.spec.retention.age_max.is_some_and(|age| now.since(oldest.timestamp) > age);
                    let crowded = topic.spec.retention.bytes_max.is_some_and(|max| bytes > max);
                    if oldest.offset >= floor || !(old || crowded) {
                        break;
                    }
                    bytes -= record_bytes(oldest);
                    partition.records.pop_front();
                    partition.log_start += 1;
                    gone += 1;
                }
            }
        }
        drop(state);
        self.0.changed();
        gone
    }
}

fn record_bytes(record: &Record) -> u64 {
    let headers: usize = record.headers.iter().map(|h| h.name.len() + h.value.len()).sum();
    let bytes =
        record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len) + headers;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn check_open(&self) -> Result<(), LogError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(LogError::Unavailable("the log is closed".to_owned()));
        }
        Ok(())
    }

    /// Takes the next scripted fault of an operation.
    async fn turn(&self, operation: Operation) -> Result<Turn, LogError> {
        self.check_open()?;
        let fault = {
            let mut state = self.lock();
            *state.calls.entry(operation).or_default() += 1;
            state.faults.get_mut(&operation).and_then(VecDeque::pop_front).unwrap_or(Fault::Pass)
        };
        match fault {
            Fault::Pass => Ok(Turn::Work),
            Fault::Refuse => Err(LogError::Unavailable("scripted".to_owned())),
            Fault::Full => Err(LogError::Full("scripted".to_owned())),
            Fault::LoseAnswer => Ok(Turn::LoseAnswer),
            Fault::Duplicate => Ok(Turn::Duplicate),
            Fault::Fence => Ok(Turn::Fence),
            Fault::Slow(wait) => {
                tokio::time::sleep(wait).await;
                Ok(Turn::Work)
            }
        }
    }

    fn produce(&self, topic: &str, records: Vec<NewRecord>, turn: Turn) -> Vec<Result<Position, LogError>> {
        let mut state = self.lock();
        let Some(topic) = state.topics.get_mut(topic) else {
            return vec![Err(LogError::TopicMissing(topic.into())); records.len()];
        };
        let placement =
            Placement::new(&self.placements, i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX));
        let mut write = |record: NewRecord| {
            record.check_size(topic.spec.record_bytes_max)?;
            let number = placement.partition(record.key.as_deref());
            let index = usize::try_from(number).unwrap_or(0);
            let Some(partition) = topic.partitions.get_mut(index) else {
                return Err(LogError::Unavailable(format!("no partition {number}")));
            };
            if turn == Turn::Duplicate {
                let offset = partition.append(record.clone());
                partition.append(record);
                return Ok(Position { partition: number, offset });
            }
            Ok(Position { partition: number, offset: partition.append(record) })
        };
        records.into_iter().map(&mut write).collect()
    }

    /// What the partitions have now; empty: nothing yet.
    fn read(&self, from: &[FetchFrom], limits: FetchLimits) -> Vec<Fetched> {
        let state = self.lock();
        let mut left = limits.bytes_max;
        let mut found = Vec::new();
        for wanted in from {
            let outcome = match read_partition(&state, wanted, limits.partition_bytes_max.min(left)) {
                Ok(records) if records.records.is_empty() => continue,
                Ok(records) => {
                    let bytes: u64 = records.records.iter().map(record_bytes).sum();
                    left = left.saturating_sub(usize::try_from(bytes).unwrap_or(usize::MAX));
                    Ok(records)
                }
                Err(error) => Err(error),
            };
            found.push(Fetched { topic_partition: wanted.topic_partition.clone(), outcome });
            if left == 0 {
                break;
            }
        }
        found
    }
}

fn read_partition(state: &State, from: &FetchFrom, bytes_max: usize) -> Result<FetchedRecords, FetchError> {
    let topic =
        state.topics.get(&from.topic_partition.topic).ok_or(FetchError::UnknownTopic { now: None })?;
    if topic.id != from.topic_id {
        return Err(FetchError::UnknownTopic { now: Some(topic.id) });
    }
    let partition = usize::try_from(from.topic_partition.partition)
        .ok()
        .and_then(|number| topic.partitions.get(number))
        .ok_or(FetchError::UnknownTopic { now: Some(topic.id) })?;
    let offsets = partition.offsets();
    if from.offset < offsets.log_start || from.offset > offsets.end {
        return Err(FetchError::OffsetOutOfRange(offsets));
    }
    let skip = usize::try_from(from.offset - offsets.log_start).unwrap_or(usize::MAX);
    let mut bytes = 0u64;
    let mut records = Vec::new();
    for record in partition.records.iter().skip(skip) {
        bytes += record_bytes(record);
        records.push(record.clone());
        if bytes >= u64::try_from(bytes_max).unwrap_or(u64::MAX) {
            break;
        }
    }
    let next_offset = records.last().map_or(from.offset, |last| last.offset + 1);
    Ok(FetchedRecords { records, next_offset, offsets })
}

#[async_trait]
impl GroupHost for Inner {
    fn topic(&self, name: &str) -> Option<(TopicId, i32)> {
        let state = self.lock();
        let topic = state.topics.get(name)?;
        Some((topic.id, i32::try_from(topic.partitions.len()).ok()?))
    }

    fn committed(&self, group: &str, topic_id: TopicId, partition: i32) -> Option<i64> {
        self.lock().committed.get(&(group.into(), topic_id, partition)).copied()
    }

    fn groups(&self) -> &Groups {
        &self.groups
    }

    fn open(&self) -> Result<(), LogError> {
        self.check_open()
    }

    async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        let turn = self.turn(Operation::Commit).await?;
        if turn == Turn::Fence {
            return Err(CommitError::Fenced);
        }
        self.groups.check_and_apply(
            |name| self.topic(name),
            &commit,
            |checked| {
                let mut state = self.lock();
                for offset in checked {
                    state
                        .committed
                        .insert((commit.group.clone(), offset.topic_id, offset.partition), offset.offset);
                }
            },
        )?;
        if turn == Turn::LoseAnswer {
            return Err(LogError::OutcomeUnknown("scripted".to_owned()).into());
        }
        Ok(())
    }
}

#[async_trait]
impl EventLog for MemoryLog {
    fn kind(&self) -> &'static str {
        "memory"
    }

    async fn produce(&self, topic: &str, records: Vec<NewRecord>) -> Vec<Result<Position, LogError>> {
        let count = records.len();
        let turn = match self.0.turn(Operation::Produce).await {
            Ok(turn) => turn,
            Err(error) => return vec![Err(error); count],
        };
        let answers = self.0.produce(topic, records, turn);
        self.0.changed();
        if turn == Turn::LoseAnswer {
            return vec![Err(LogError::OutcomeUnknown("scripted".to_owned())); count];
        }
        answers
    }

    async fn fetch(&self, from: &[FetchFrom], limits: FetchLimits) -> Result<Vec<Fetched>, LogError> {
        self.0.turn(Operation::Fetch).await?;
        let deadline = Instant::now() + limits.wait_max;
        let mut changes = self.0.changes.subscribe();
        loop {
            changes.borrow_and_update();
            self.0.check_open()?;
            let found = self.0.read(from, limits);
            if !found.is_empty() {
                return Ok(found);
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(deadline) => return Ok(Vec::new()),
            }
        }
    }

    async fn join(&self, spec: GroupSpec) -> Result<Box<dyn GroupMember>, LogError> {
        self.0.turn(Operation::Join).await?;
        let id = self.0.groups.join(&spec);
        Ok(Box::new(SingleOwnerMember::new(self.0.clone(), spec.group, id)))
    }

    async fn create_topics(&self, topics: &[TopicSpec]) -> Result<Vec<Arc<str>>, LogError> {
        self.0.turn(Operation::Admin).await?;
        let mut made = Vec::new();
        let mut state = self.0.lock();
        for spec in topics {
            if let Some(topic) = state.topics.get_mut(&spec.name) {
                topic.spec = TopicSpec { partitions: topic.spec.partitions, ..spec.clone() };
                continue;
            }
            let id = TopicId(self.0.ids.uuid_v7(self.0.clock.now()));
            let partitions = (0..spec.partitions.max(1)).map(|_| Partition::default()).collect();
            state.topics.insert(spec.name.clone(), Topic { spec: spec.clone(), id, partitions });
            made.push(spec.name.clone());
        }
        drop(state);
        self.0.groups.notify();
        Ok(made)
    }

    async fn grow_topic(&self, topic: &str, partitions: i32) -> Result<(), LogError> {
        self.0.turn(Operation::Admin).await?;
        let mut state = self.0.lock();
        let found = state.topics.get_mut(topic).ok_or_else(|| LogError::TopicMissing(topic.into()))?;
        let wanted = usize::try_from(partitions).unwrap_or(0);
        let count = found.partitions.len().max(wanted);
        found.partitions.resize_with(count, Partition::default);
        found.spec.partitions = i32::try_from(count).unwrap_or(i32::MAX);
        drop(state);
        self.0.groups.notify();
        Ok(())
    }

    async fn delete_topic(&self, topic: &str) -> Result<(), LogError> {
        self.0.turn(Operation::Admin).await?;
        let mut state = self.0.lock();
        let gone = state.topics.remove(topic).ok_or_else(|| LogError::TopicMissing(topic.into()))?;
        state.committed.retain(|(_, id, _), _| *id != gone.id);
        drop(state);
        self.0.groups.notify();
        self.0.changed();
        Ok(())
    }

    async fn topics(&self) -> Result<Vec<TopicDescription>, LogError> {
        self.0.turn(Operation::Describe).await?;
        let state = self.0.lock();
        let describe = |(name, topic): (&Arc<str>, &Topic)| TopicDescription {
            name: name.clone(),
            id: topic.id,
            partitions: topic.partitions.iter().map(Partition::offsets).collect(),
        };
        Ok(state.topics.iter().map(describe).collect())
    }

    async fn topic_settings(&self, topics: &[Arc<str>]) -> Result<Vec<TopicSettings>, LogError> {
        self.0.turn(Operation::Describe).await?;
        let state = self.0.lock();
        let found = topics.iter().filter_map(|name| state.topics.get(name));
        Ok(found.map(|topic| topic.spec.as_settings()).collect())
    }

    async fn committed(&self, group: &str) -> Result<BTreeMap<TopicPartition, i64>, LogError> {
        self.0.turn(Operation::Describe).await?;
        let state = self.0.lock();
        let mut found = BTreeMap::new();
        for (name, topic) in &state.topics {
            for number in 0..i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX) {
                if let Some(offset) = state.committed.get(&(group.into(), topic.id, number)) {
                    found.insert(TopicPartition { topic: name.clone(), partition: number }, *offset);
                }
            }
        }
        Ok(found)
    }

    async fn offsets_at(&self, topic: &str, at: Timestamp) -> Result<Vec<i64>, LogError> {
        self.0.turn(Operation::Describe).await?;
        let state = self.0.lock();
        let topic = state.topics.get(topic).ok_or_else(|| LogError::TopicMissing(topic.into()))?;
        let first = |partition: &Partition| {
            let found = partition.records.iter().find(|record| record.timestamp >= at);
            found.map_or(partition.offsets().end, |record| record.offset)
        };
        Ok(topic.partitions.iter().map(first).collect())
    }

    async fn probe(&self) -> Result<(), LogError> {
        self.0.turn(Operation::Probe).await.map(|_| ())
    }

    async fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
        self.0.groups.notify();
        self.0.changed();
    }
}

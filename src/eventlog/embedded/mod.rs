//! The event log on this machine's disk, on fjall: Kafka's semantics in one process.
//!
//! One thread ([`writer`]) makes every change. It takes all that is queued, writes it as one unit with one fsync, and
//! then answers all of it: concurrent produces share the sync, and nothing is acknowledged or readable before it.
//! Fetches read in memory where they can, else from disk on the blocking pool; they wait for a change without polling.
//!
//! - What lies on the disk, and how it is deleted: [`store`]. A torn last write is taken off when opening: [`journal`].
//! - Short of room, produces are refused with [`LogError::Full`] and commits still pass; after a failed write the store
//!   is closed and opened again until it works. Both show in the component `eventlog` and heal by themselves.
//! - Groups have one owner ([`super::groups`]).
//! - Bounds: queued bytes (`eventlog.queue_bytes_max`), batches kept in memory (`eventlog.cache_bytes_max`), a segment
//!   (`eventlog.segment_bytes`), a call (30 s).

mod batch;
mod catalog;
mod journal;
mod reader;
mod retention;
mod round;
mod store;
#[cfg(test)]
mod tests;
mod topics;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::groups::{Commit, GroupHost, Groups, SingleOwnerMember};
use super::partitioner::Placement;
use super::{
    CommitError, EventLog, FetchError, FetchFrom, FetchLimits, Fetched, GroupMember, GroupSpec, LogError,
    NewRecord, Position, TopicDescription, TopicId, TopicPartition, TopicSettings, TopicSpec,
};
use crate::config::EventLogSection;
use crate::event::{Clock, IdSource, Timestamp};
use crate::lifecycle::{Health, Policy, Tasks};
use catalog::{Catalog, Committed};
use store::Store;
use writer::{Command, Writer};

/// Longest wait of any call for the writer.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often retention runs.
const RETENTION_INTERVAL: Duration = Duration::from_secs(10);

/// Answers how many bytes are free where a path lies.
pub type FreeBytes = Arc<dyn Fn(&Path) -> std::io::Result<u64> + Send + Sync>;

/// How an [`EmbeddedLog`] behaves.
#[derive(Clone)]
pub struct EmbeddedOptions {
    /// Produces are refused with [`LogError::Full`] while the disk has less room than this.
    pub disk_free_min: u64,
    /// A segment takes no more batches once it holds this many bytes; retention deletes whole segments. A topic with a
    /// bound on its bytes has segments of at most a quarter of it.
    pub segment_bytes: u64,
    /// Bytes of the newest batches kept in memory for consumers that are up to date.
    pub cache_bytes_max: usize,
    /// Bytes of records that wait for the writer; produces over it wait.
    pub queue_bytes_max: usize,
    /// How the room on the disk is measured.
    pub free_bytes: FreeBytes,
}

impl EmbeddedOptions {
    /// As configured.
    pub fn from_config(config: &EventLogSection) -> Self {
        let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        Self {
            disk_free_min: config.disk_free_min.as_u64(),
            segment_bytes: config.segment_bytes.as_u64(),
            cache_bytes_max: bytes(config.cache_bytes_max),
            queue_bytes_max: bytes(config.queue_bytes_max),
            free_bytes: Arc::new(free_bytes),
        }
    }
}

/// Bytes free for this process on the file system of `path`.
fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The event log on this machine's disk. Clones are handles of the same log.
#[derive(Clone)]
pub struct EmbeddedLog(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    /// One permit a KiB of queued records.
    queue: Arc<Semaphore>,
    queue_kib: u32,
    placements: AtomicU64,
    fetches: AtomicUsize,
}

/// What the writer changes and everyone reads.
struct Shared {
    catalog: RwLock<Arc<Catalog>>,
    committed: RwLock<Committed>,
    groups: Groups,
    /// Counts changes that a waiting fetch must look at.
    changes: watch::Sender<u64>,
    closed: AtomicBool,
    /// Why the store is not open now.
    failure: RwLock<Option<String>>,
    /// Rounds made durable.
    rounds: AtomicU64,
}

impl Shared {
    fn catalog(&self) -> Arc<Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_catalog(&self, catalog: Catalog) {
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalog);
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn check_open(&self) -> Result<(), LogError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(LogError::Unavailable("the log is closed".to_owned()));
        }
        match &*self.failure.read().unwrap_or_else(PoisonError::into_inner) {
            Some(reason) => Err(LogError::Unavailable(reason.clone())),
            None => Ok(()),
        }
    }
}

impl EmbeddedLog {
    /// Opens the log in `dir`, or makes it, and starts its writer thread and the task `eventlog-retention`. Tells how it
    /// is doing as the component `eventlog`. Reads the journal (at most some 130 MB), so it may take a second.
    ///
    /// # Errors
    /// The folder cannot be written, is open elsewhere (in this process too), or what it holds is damaged.
    pub async fn open(
        dir: impl Into<PathBuf>,
        options: EmbeddedOptions,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        health: &Health,
        tasks: &Tasks,
    ) -> Result<Self, LogError> {
        let dir = dir.into();
        let opened = {
            let dir = dir.clone();
            tokio::task::spawn_blocking(move || Store::open(&dir, false)).await
        };
        let unavailable = |error: &dyn std::fmt::Display| {
            LogError::Unavailable(format!("cannot open the event log in {}: {error}", dir.display()))
        };
        let (store, loaded) = opened.map_err(|e| unavailable(&e))?.map_err(|e| unavailable(&e))?;
        let shared = Arc::new(Shared {
            catalog: RwLock::new(Arc::new(loaded.catalog)),
            committed: RwLock::new(loaded.committed),
            groups: Groups::new(loaded.epoch),
            changes: watch::Sender::new(0),
            closed: AtomicBool::new(false),
            failure: RwLock::new(None),
            rounds: AtomicU64::new(0),
        });
        let queue_kib = u32::try_from(options.queue_bytes_max / 1024).unwrap_or(u32::MAX).clamp(1, 1 << 28);
        let (commands, queued) = mpsc::channel();
        let component = health.component("eventlog");
        let writer = Writer::new(shared.clone(), store, dir.clone(), options, clock, ids, component);
        let ended = writer::start(writer, queued).map_err(|e| unavailable(&e))?;
        let inner = Inner {
            shared,
            commands,
            queue: Arc::new(Semaphore::new(usize::try_from(queue_kib).unwrap_or(usize::MAX))),
            queue_kib,
            placements: AtomicU64::new(0),
            fetches: AtomicUsize::new(0),
        };
        let log = Self(Arc::new(inner));
        log.supervise(tasks, ended);
        Ok(log)
    }

    /// The writer's silent end is a failure of the process; retention runs from time to time.
    fn supervise(&self, tasks: &Tasks, ended: tokio_util::sync::CancellationToken) {
        let stop = tasks.stop().soft_token().clone();
        let shared = self.0.shared.clone();
        tasks.spawn("eventlog-writer", Policy::Shutdown, move || {
            let (stop, ended, shared) = (stop.clone(), ended.clone(), shared.clone());
            async move {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = ended.cancelled() => {}
                }
                anyhow::ensure!(shared.closed.load(Ordering::SeqCst), "the event log's writer thread ended");
                stop.cancelled().await;
                Ok(())
            }
        });
        let stop = tasks.stop().soft_token().clone();
        let log = Arc::downgrade(&self.0);
        tasks.spawn("eventlog-retention", Policy::Restart(RETENTION_INTERVAL), move || {
            let (stop, log) = (stop.clone(), log.clone());
            async move {
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return Ok(()),
                        () = tokio::time::sleep(RETENTION_INTERVAL) => {}
                    }
                    let Some(log) = log.upgrade() else {
                        stop.cancelled().await;
                        return Ok(());
                    };
                    // While the log is closed or failing there is nothing to delete, and its component says why.
                    let _ = log.call(Command::Retain).await;
                }
            }
        });
    }

    /// Deletes what retention allows now instead of at its next turn.
    ///
    /// # Errors
    /// The log is not available.
    pub async fn enforce_retention(&self) -> Result<(), LogError> {
        self.0.call(Command::Retain).await
    }
}

impl Inner {
    /// Waits for room in the queue, with a bound.
    async fn permit(&self, bytes: usize) -> Result<OwnedSemaphorePermit, LogError> {
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX).min(self.queue_kib);
        // Mostly there is room: no timer then.
        if let Ok(permit) = self.queue.clone().try_acquire_many_owned(kib) {
            return Ok(permit);
        }
        match timeout(CALL_TIMEOUT, self.queue.clone().acquire_many_owned(kib)).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(LogError::Unavailable("the log's queue is full".to_owned())),
        }
    }

    /// Sends a command and waits for its answer.
    async fn call<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, LogError>>) -> Command,
    ) -> Result<T, LogError> {
        self.shared.check_open()?;
        let (answer, answered) = oneshot::channel();
        self.send(command(answer))?;
        Self::answer(answered).await?
    }

    fn send(&self, command: Command) -> Result<(), LogError> {
        self.commands.send(command).map_err(|_| LogError::Unavailable("the log is closed".to_owned()))
    }

    async fn answer<T>(answered: oneshot::Receiver<T>) -> Result<T, LogError> {
        match timeout(CALL_TIMEOUT, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(LogError::OutcomeUnknown("the log's writer ended".to_owned())),
            Err(_) => Err(LogError::OutcomeUnknown(format!("no answer within {CALL_TIMEOUT:?}"))),
        }
    }

    /// The good records with their partitions go to the writer; the others are answered here.
    async fn produce(
        &self,
        name: &str,
        records: Vec<NewRecord>,
    ) -> Result<Vec<Result<Position, LogError>>, LogError> {
        self.shared.check_open()?;
        let catalog = self.shared.catalog();
        let topic = catalog.topics.get(name).ok_or_else(|| LogError::TopicMissing(name.into()))?;
        let placement = Placement::new(&self.placements, topic.spec.partitions);
        let mut answers = Vec::with_capacity(records.len());
        let mut placed = Vec::with_capacity(records.len());
        let mut bytes = 0;
        for record in records {
            let size = record.bytes();
            answers.push(match record.check_size(topic.spec.record_bytes_max) {
                Ok(()) => {
                    bytes += size;
                    let partition = placement.partition(record.key.as_deref());
                    placed.push((partition, record));
                    Ok(Position { partition, offset: 0 })
                }
                Err(error) => Err(error),
            });
        }
        if placed.is_empty() {
            return Ok(answers);
        }
        let permit = self.permit(bytes).await?;
        let (answer, answered) = oneshot::channel();
        self.send(Command::Produce { topic: topic.clone(), records: placed, permit, answer })?;
        let mut positions = Self::answer(answered).await??.into_iter();
        for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
            if let Some(position) = positions.next() {
                *answer = position;
            }
        }
        Ok(answers)
    }

    /// Is there anything to say about one of these partitions?
    fn ready(&self, from: &[FetchFrom]) -> bool {
        let catalog = self.shared.catalog();
        from.iter().any(|wanted| match locate(&catalog, wanted) {
            Ok(partition) => partition.read().offsets.end != wanted.offset,
            Err(_) => true,
        })
    }
}

fn locate<'a>(catalog: &'a Catalog, wanted: &FetchFrom) -> Result<&'a Arc<catalog::Partition>, FetchError> {
    let topic =
        catalog.topics.get(&wanted.topic_partition.topic).ok_or(FetchError::UnknownTopic { now: None })?;
    let partition = topic.partition(wanted.topic_partition.partition).filter(|_| topic.id == wanted.topic_id);
    partition.ok_or(FetchError::UnknownTopic { now: Some(topic.id) })
}

/// Reads what the partitions have, beginning with number `first` so that a full answer starves none for ever.
fn read_all(
    shared: &Shared,
    from: &[FetchFrom],
    limits: FetchLimits,
    first: usize,
) -> Result<Vec<Fetched>, LogError> {
    let catalog = shared.catalog();
    let mut left = limits.bytes_max;
    let mut found = Vec::new();
    let (behind, ahead) = from.split_at(first % from.len().max(1));
    for wanted in ahead.iter().chain(behind) {
        let outcome = match locate(&catalog, wanted) {
            Err(error) => Err(error),
            Ok(partition) => {
                match reader::read(partition, wanted.offset, limits.partition_bytes_max.min(left))? {
                    Ok(None) => continue,
                    Ok(Some((records, bytes))) => {
                        left = left.saturating_sub(bytes);
                        Ok(records)
                    }
                    Err(error) => Err(error),
                }
            }
        };
        found.push(Fetched { topic_partition: wanted.topic_partition.clone(), outcome });
        if left == 0 {
            break;
        }
    }
    Ok(found)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    let failed = |error: tokio::task::JoinError| LogError::Unavailable(error.to_string());
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

#[async_trait]
impl GroupHost for Inner {
    fn topic(&self, name: &str) -> Option<(TopicId, i32)> {
        self.shared.topic(name)
    }

    fn committed(&self, group: &str, topic_id: TopicId, partition: i32) -> Option<i64> {
        let committed = self.shared.committed.read().unwrap_or_else(PoisonError::into_inner);
        committed.get(&(group.into(), topic_id, partition)).copied()
    }

    fn groups(&self) -> &Groups {
        &self.shared.groups
    }

    fn open(&self) -> Result<(), LogError> {
        match self.shared.closed.load(Ordering::SeqCst) {
            true => Err(LogError::Unavailable("the log is closed".to_owned())),
            false => Ok(()),
        }
    }

    async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        self.shared.check_open()?;
        let permit = self.permit(0).await?;
        let (answer, answered) = oneshot::channel();
        self.send(Command::Commit { commit, permit, answer })?;
        Self::answer(answered).await?
    }
}

impl Shared {
    fn topic(&self, name: &str) -> Option<(TopicId, i32)> {
        self.catalog().topics.get(name).map(|topic| (topic.id, topic.spec.partitions))
    }
}

#[async_trait]
impl EventLog for EmbeddedLog {
    fn kind(&self) -> &'static str {
        "embedded"
    }

    async fn produce(&self, topic: &str, records: Vec<NewRecord>) -> Vec<Result<Position, LogError>> {
        let count = records.len();
        let answers = self.0.produce(topic, records).await;
        answers.unwrap_or_else(|error| vec![Err(error); count])
    }

    async fn fetch(&self, from: &[FetchFrom], limits: FetchLimits) -> Result<Vec<Fetched>, LogError> {
        let deadline = Instant::now() + limits.wait_max;
        let mut changes = self.0.shared.changes.subscribe();
        loop {
            changes.borrow_and_update();
            self.0.shared.check_open()?;
            if self.0.ready(from) {
                let (shared, from) = (self.0.shared.clone(), from.to_vec());
                let first = self.0.fetches.fetch_add(1, Ordering::Relaxed);
                let found = blocking(move || read_all(&shared, &from, limits, first)).await?;
                if !found.is_empty() {
                    return Ok(found);
                }
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(deadline) => return Ok(Vec::new()),
            }
        }
    }

    async fn join(&self, spec: GroupSpec) -> Result<Box<dyn GroupMember>, LogError> {
        let group = spec.group.clone();
        // Through the writer's queue: every commit accepted before this join is durable and visible after it.
        let id = self.0.call(|answer| Command::Join { spec, answer }).await?;
        Ok(Box::new(SingleOwnerMember::new(self.0.clone(), group, id)))
    }

    async fn create_topics(&self, topics: &[TopicSpec]) -> Result<Vec<Arc<str>>, LogError> {
        let specs = topics.to_vec();
        self.0.call(|answer| Command::Create { specs, answer }).await
    }

    async fn grow_topic(&self, topic: &str, partitions: i32) -> Result<(), LogError> {
        let name = topic.into();
        self.0.call(|answer| Command::Grow { name, partitions, answer }).await
    }

    async fn delete_topic(&self, topic: &str) -> Result<(), LogError> {
        let name = topic.into();
        self.0.call(|answer| Command::Delete { name, answer }).await
    }

    async fn topics(&self) -> Result<Vec<TopicDescription>, LogError> {
        self.0.shared.check_open()?;
        let describe = |topic: &Arc<catalog::Topic>| TopicDescription {
            name: topic.spec.name.clone(),
            id: topic.id,
            partitions: topic.partitions.iter().map(|partition| partition.read().offsets).collect(),
        };
        Ok(self.0.shared.catalog().topics.values().map(describe).collect())
    }

    async fn topic_settings(&self, topics: &[Arc<str>]) -> Result<Vec<TopicSettings>, LogError> {
        self.0.shared.check_open()?;
        let catalog = self.0.shared.catalog();
        let found = topics.iter().filter_map(|name| catalog.topics.get(name));
        Ok(found.map(|topic| topic.spec.as_settings()).collect())
    }

    async fn committed(&self, group: &str) -> Result<BTreeMap<TopicPartition, i64>, LogError> {
        self.0.shared.check_open()?;
        let catalog = self.0.shared.catalog();
        let committed = self.0.shared.committed.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = BTreeMap::new();
        for (topic, partition) in catalog.partitions() {
            if let Some(offset) = committed.get(&(group.into(), topic.id, partition.number)) {
                let topic = topic.spec.name.clone();
                found.insert(TopicPartition { topic, partition: partition.number }, *offset);
            }
        }
        Ok(found)
    }

    async fn offsets_at(&self, topic: &str, at: Timestamp) -> Result<Vec<i64>, LogError> {
        self.0.shared.check_open()?;
        let catalog = self.0.shared.catalog();
        let topic = catalog.topics.get(topic).ok_or_else(|| LogError::TopicMissing(topic.into()))?.clone();
        blocking(move || topic.partitions.iter().map(|partition| reader::offset_at(partition, at)).collect())
            .await
    }

    async fn probe(&self) -> Result<(), LogError> {
        self.0.call(Command::Probe).await
    }

    async fn close(&self) {
        let (answer, answered) = oneshot::channel();
        if self.0.send(Command::Close(answer)).is_ok() {
            // An error means that the writer is gone already, which is what was asked for.
            let _ = Self::closed(answered).await;
        }
    }
}

impl EmbeddedLog {
    async fn closed(answered: oneshot::Receiver<()>) -> Result<(), LogError> {
        Inner::answer(answered).await
    }
}

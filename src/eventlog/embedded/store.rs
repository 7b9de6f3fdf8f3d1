//! What stands on disk: one fjall database with a keyspace `meta` (topics, segments, committed offsets) and one
//! keyspace for each segment of each partition.
//!
//! A segment is a run of batches of one partition, key = base offset, value = [batch](super::batch). Offsets only grow,
//! so the tables of a segment never overlap and are never compacted: a batch is written twice, to the journal and to
//! its table. Retention deletes whole segments, which removes their files. `meta` says which segments there are; a
//! keyspace it does not name is left over from a crash and is removed when opening.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fjall::compaction::Leveled;
use fjall::config::{BlockSizePolicy, CompressionPolicy, FilterPolicy, PinningPolicy};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::batch::{BatchHeader, CorruptBatch};
use super::catalog::{Catalog, Committed, Partition, PartitionState, Segment, Topic};
use super::journal::{self, JournalError};
use crate::eventlog::{Retention, TopicId, TopicSpec};

const META: &str = "meta";
const LOCK: &str = "owner.lock";
const EPOCH: &[u8] = b"e";

/// Memory of a segment that is written to; over it, it becomes a table.
const MEMTABLE_BYTES: u64 = 2 << 20;
/// Journals on disk before the oldest is made redundant by writing its memtables out. fjall's least.
const JOURNALS_BYTES: u64 = 64 << 20;
/// Cache of table blocks, for consumers that are behind.
const CACHE_BYTES: u64 = 8 << 20;
/// Small batches share a block of this size.
const BLOCK_BYTES: u32 = 64 << 10;

/// Why the disk could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("{0} is in use by another process, or opened twice in this one")]
    InUse(String),
    #[error("{0}")]
    Journal(#[from] JournalError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Storage(String),
    #[error("{0} does not read back: restore the folder from a backup")]
    Corrupt(String),
}

impl From<fjall::Error> for StoreError {
    fn from(error: fjall::Error) -> Self {
        match error {
            fjall::Error::Io(error) => Self::Io(error),
            other => Self::Storage(other.to_string()),
        }
    }
}

impl From<CorruptBatch> for StoreError {
    fn from(_: CorruptBatch) -> Self {
        Self::Corrupt("a batch".to_owned())
    }
}

/// A topic in `meta`, key `t` and its name.
#[derive(Serialize, Deserialize)]
struct TopicEntry {
    id: Uuid,
    partitions: i32,
    retention_age_ms: Option<u64>,
    retention_bytes: Option<u64>,
    record_bytes_max: usize,
    required_groups: Vec<Arc<str>>,
}

/// A segment in `meta`, key `s`, topic id, partition, base offset. It carries a summary, so that opening reads only what
/// was written behind it: nothing of a sealed one.
#[derive(Serialize, Deserialize)]
struct SegmentEntry {
    sealed: bool,
    end: i64,
    bytes: u64,
    first_timestamp: i64,
    max_timestamp: i64,
}

/// The open database. Only the log's writer thread holds one.
pub(super) struct Store {
    db: Database,
    meta: Keyspace,
    _lock: File,
}

/// What an open store holds.
pub(super) struct Loaded {
    pub(super) catalog: Catalog,
    pub(super) committed: Committed,
    /// Counts the openings of this store.
    pub(super) epoch: u32,
}

impl Store {
    /// Opens the store in `dir`, or makes it. `after_failure`: the last write or sync failed, so what the journal seems
    /// to hold is written anew.
    pub(super) fn open(dir: &Path, after_failure: bool) -> Result<(Self, Loaded), StoreError> {
        std::fs::create_dir_all(dir)?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        let lock = File::create(dir.join(LOCK))?;
        lock.try_lock().map_err(|_| StoreError::InUse(dir.display().to_string()))?;
        remove_unborn(dir)?;
        journal::repair(dir, after_failure)?;
        let db = Database::builder(dir)
            .manual_journal_persist(true)
            .journal_compression(CompressionType::None)
            .max_journaling_size(JOURNALS_BYTES)
            .cache_size(CACHE_BYTES)
            // Of several, the first passes every request to compact on to itself until another takes it: a core's worth
            // of nothing while the others write tables out.
            .worker_threads(1)
            .open()?;
        let meta = db.keyspace(META, || {
            KeyspaceCreateOptions::default()
                .manual_journal_persist(true)
                .max_memtable_size(MEMTABLE_BYTES / 8)
        })?;
        let store = Self { db, meta, _lock: lock };
        let loaded = store.load()?;
        Ok((store, loaded))
    }

    fn load(&self) -> Result<Loaded, StoreError> {
        let mut segments = self.load_segments()?;
        let mut catalog = Catalog::default();
        for entry in self.meta.prefix(b"t") {
            let (key, value) = entry.into_inner()?;
            let name: Arc<str> =
                std::str::from_utf8(&key[1..]).map_err(|_| StoreError::Corrupt("a topic".to_owned()))?.into();
            let entry: TopicEntry =
                serde_json::from_slice(&value).map_err(|_| StoreError::Corrupt(format!("topic {name}")))?;
            let id = TopicId(entry.id);
            let partitions = (0..entry.partitions)
                .map(|number| {
                    let segments = segments.remove(&(id, number)).unwrap_or_default();
                    let state = PartitionState::new(segments);
                    state
                        .map(|state| Arc::new(Partition::new(number, state)))
                        .ok_or_else(|| StoreError::Corrupt(format!("partition {number} of topic {name}")))
                })
                .collect::<Result<_, _>>()?;
            let spec = entry.into_spec(name.clone());
            catalog.topics.insert(name, Arc::new(Topic::new(spec, id, partitions)));
        }
        self.remove_leftovers(&catalog)?;
        Ok(Loaded { catalog, committed: self.load_committed()?, epoch: self.next_epoch()? })
    }

    fn load_segments(&self) -> Result<HashMap<(TopicId, i32), Vec<Segment>>, StoreError> {
        let mut segments: HashMap<(TopicId, i32), Vec<Segment>> = HashMap::new();
        for entry in self.meta.prefix(b"s") {
            let (key, value) = entry.into_inner()?;
            let corrupt = || StoreError::Corrupt("a segment's entry".to_owned());
            let (topic_id, partition, base) = read_segment_key(&key).ok_or_else(corrupt)?;
            let entry: SegmentEntry = serde_json::from_slice(&value).map_err(|_| corrupt())?;
            let name = segment_name(topic_id, partition, base);
            if entry.end > base && !self.db.keyspace_exists(&name) {
                return Err(StoreError::Corrupt(format!("segment {name} is missing, and its entry")));
            }
            let mut segment = Segment::new(self.segment_keyspace(&name)?, base);
            segment.sealed = entry.sealed;
            segment.end = entry.end;
            segment.bytes = entry.bytes;
            segment.first_timestamp = entry.first_timestamp;
            segment.max_timestamp = entry.max_timestamp;
            if !segment.sealed {
                for batch in segment.keyspace.range(offset_key(segment.end)..) {
                    let value = batch.value()?;
                    segment.add(&BatchHeader::read(&value)?, value.len());
                }
            }
            segments.entry((topic_id, partition)).or_default().push(segment);
        }
        Ok(segments)
    }

    fn load_committed(&self) -> Result<Committed, StoreError> {
        let mut committed = Committed::default();
        for entry in self.meta.prefix(b"c") {
            let (key, value) = entry.into_inner()?;
            let read = || {
                let topic_id = TopicId(Uuid::from_bytes(key.get(1..17)?.try_into().ok()?));
                let partition = i32::from_be_bytes(key.get(17..21)?.try_into().ok()?);
                let group = std::str::from_utf8(key.get(21..)?).ok()?;
                Some((
                    (group.into(), topic_id, partition),
                    i64::from_be_bytes(value.as_ref().try_into().ok()?),
                ))
            };
            let (key, offset) = read().ok_or_else(|| StoreError::Corrupt("a committed offset".to_owned()))?;
            committed.insert(key, offset);
        }
        Ok(committed)
    }

    fn next_epoch(&self) -> Result<u32, StoreError> {
        let last =
            self.meta.get(EPOCH)?.and_then(|value| value.as_ref().try_into().ok().map(u32::from_be_bytes));
        let epoch = last.unwrap_or(0) + 1;
        let mut write = self.write();
        write.batch.insert(&self.meta, EPOCH, epoch.to_be_bytes());
        write.commit()?;
        Ok(epoch)
    }

    fn remove_leftovers(&self, catalog: &Catalog) -> Result<(), StoreError> {
        let named: HashSet<String> = catalog
            .partitions()
            .flat_map(|(topic, partition)| {
                let state = partition.read();
                let name = |s: &Segment| segment_name(topic.id, partition.number, s.base);
                state.segments.iter().map(name).collect::<Vec<_>>()
            })
            .collect();
        for name in self.db.list_keyspace_names() {
            if &*name != META && !named.contains(&*name) {
                tracing::info!(segment = &*name, "removing a segment that a crash left over");
                self.db.delete_keyspace(self.segment_keyspace(&name)?)?;
            }
        }
        Ok(())
    }

    fn segment_keyspace(&self, name: &str) -> Result<Keyspace, StoreError> {
        Ok(self.db.keyspace(name, || {
            KeyspaceCreateOptions::default()
                .manual_journal_persist(true)
                .max_memtable_size(MEMTABLE_BYTES)
                .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
                .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
                .filter_policy(FilterPolicy::disabled())
                .index_block_pinning_policy(PinningPolicy::all(false))
                .compaction_strategy(Arc::new(Leveled::default().with_l0_threshold(u8::MAX)))
        })?)
    }

    /// An empty segment's keyspace. It counts once [`Write::segment`] names it.
    pub(super) fn create_segment(
        &self,
        topic: TopicId,
        partition: i32,
        base: i64,
    ) -> Result<Segment, StoreError> {
        Ok(Segment::new(self.segment_keyspace(&segment_name(topic, partition, base))?, base))
    }

    /// Deletes the files of a segment that `meta` does not name any more, once nobody reads it.
    pub(super) fn delete_segment(&self, segment: &Segment) -> Result<(), StoreError> {
        Ok(self.db.delete_keyspace(segment.keyspace.clone())?)
    }

    /// Writes a sealed segment's memtable out in the background, so that no journal has to be kept for it.
    pub(super) fn write_out(segment: &Segment) -> Result<(), StoreError> {
        segment.keyspace.rotate_memtable()?;
        Ok(())
    }

    /// Bytes on disk.
    pub(super) fn disk_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.db.disk_space()?)
    }

    /// Does the disk take a sync?
    pub(super) fn probe(&self) -> Result<(), StoreError> {
        Ok(self.db.persist(PersistMode::SyncAll)?)
    }

    /// An empty write.
    pub(super) fn write(&self) -> Write<'_> {
        Write { meta: &self.meta, batch: self.db.batch().durability(Some(PersistMode::SyncAll)) }
    }
}

/// Changes that are made together or not at all, and are durable once made.
pub(super) struct Write<'a> {
    meta: &'a Keyspace,
    batch: OwnedWriteBatch,
}

impl Write<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Appends a batch to a segment.
    pub(super) fn batch(&mut self, segment: &Segment, base_offset: i64, batch: Bytes) {
        self.batch.insert(&segment.keyspace, offset_key(base_offset), batch);
    }

    /// Records a committed offset.
    pub(super) fn committed(&mut self, group: &str, topic: TopicId, partition: i32, offset: i64) {
        self.batch.insert(self.meta, committed_key(group, topic, partition), offset.to_be_bytes());
    }

    /// Records a topic.
    pub(super) fn topic(&mut self, spec: &TopicSpec, id: TopicId) -> Result<(), StoreError> {
        let millis = |age: std::time::Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let entry = TopicEntry {
            id: id.0,
            partitions: spec.partitions,
            retention_age_ms: spec.retention.age_max.map(millis),
            retention_bytes: spec.retention.bytes_max,
            record_bytes_max: spec.record_bytes_max,
            required_groups: spec.required_groups.clone(),
        };
        self.batch.insert(self.meta, topic_key(&spec.name), json(&entry)?);
        Ok(())
    }

    /// Records a segment as it stands, without what this write appends to it.
    pub(super) fn segment(
        &mut self,
        topic: TopicId,
        partition: i32,
        segment: &Segment,
    ) -> Result<(), StoreError> {
        let entry = SegmentEntry {
            sealed: segment.sealed,
            end: segment.end,
            bytes: segment.bytes,
            first_timestamp: segment.first_timestamp,
            max_timestamp: segment.max_timestamp,
        };
        self.batch.insert(self.meta, segment_key(topic, partition, segment.base), json(&entry)?);
        Ok(())
    }

    /// Forgets a segment.
    pub(super) fn forget_segment(&mut self, topic: TopicId, partition: i32, base: i64) {
        self.batch.remove(self.meta, segment_key(topic, partition, base));
    }

    /// Forgets a topic and what groups committed to it.
    pub(super) fn forget_topic(&mut self, topic: &Topic, committed: &Committed) {
        self.batch.remove(self.meta, topic_key(&topic.spec.name));
        for (group, id, partition) in committed.keys().filter(|(_, id, _)| *id == topic.id) {
            self.batch.remove(self.meta, committed_key(group, *id, *partition));
        }
    }

    /// Makes the changes and syncs them to the disk.
    pub(super) fn commit(self) -> Result<(), StoreError> {
        Ok(self.batch.commit()?)
    }
}

impl TopicEntry {
    fn into_spec(self, name: Arc<str>) -> TopicSpec {
        TopicSpec {
            name,
            partitions: self.partitions,
            retention: Retention {
                age_max: self.retention_age_ms.map(std::time::Duration::from_millis),
                bytes_max: self.retention_bytes,
            },
            record_bytes_max: self.record_bytes_max,
            required_groups: self.required_groups,
        }
    }
}

/// A crash while the database was first made leaves a folder that fjall does not open again. Nothing was ever
/// acknowledged from it: start over.
fn remove_unborn(dir: &Path) -> Result<(), StoreError> {
    let born = std::fs::metadata(dir.join("version")).is_ok_and(|version| version.len() >= 4);
    if born {
        return Ok(());
    }
    if journal::has_writes(dir)? {
        return Err(StoreError::Corrupt(format!(
            "{}: the file `version` is missing; the database",
            dir.display()
        )));
    }
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name == "keyspaces" {
            std::fs::remove_dir_all(&path)?;
        } else if name == "version" || name == "lock" || name.ends_with(".jnl") {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Keys sort as offsets do; offsets are never negative.
pub(super) fn offset_key(offset: i64) -> [u8; 8] {
    offset.to_be_bytes()
}

fn segment_name(topic: TopicId, partition: i32, base: i64) -> String {
    format!("{}-{partition}-{base}", topic.0.simple())
}

fn topic_key(name: &str) -> Vec<u8> {
    [b"t", name.as_bytes()].concat()
}

fn segment_key(topic: TopicId, partition: i32, base: i64) -> Vec<u8> {
    [b"s", &topic.0.as_bytes()[..], &partition.to_be_bytes(), &base.to_be_bytes()].concat()
}

fn read_segment_key(key: &[u8]) -> Option<(TopicId, i32, i64)> {
    let topic = Uuid::from_bytes(key.get(1..17)?.try_into().ok()?);
    let partition = i32::from_be_bytes(key.get(17..21)?.try_into().ok()?);
    let base = i64::from_be_bytes(key.get(21..)?.try_into().ok()?);
    Some((TopicId(topic), partition, base))
}

fn committed_key(group: &str, topic: TopicId, partition: i32) -> Vec<u8> {
    [b"c", &topic.0.as_bytes()[..], &partition.to_be_bytes(), group.as_bytes()].concat()
}

fn json(entry: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(entry).map_err(|error| StoreError::Storage(error.to_string()))
}

//! The conformance suite over the embedded log, and what only it promises.

use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use tempfile::TempDir;

use super::journal::tests::journal_length;
use super::*;
use crate::event::{ManualClock, RandomIds};
use crate::eventlog::conformance::{self, Backend, produce, read_all, record, spec};
use crate::eventlog::{Record, Retention};
use crate::lifecycle::{ComponentState, Stop};

const LONG: Duration = Duration::from_secs(20);

struct Embedded {
    dir: TempDir,
    clock: Arc<ManualClock>,
    health: Health,
    log: EmbeddedLog,
    /// What the log believes to be free on the disk.
    free: Arc<AtomicU64>,
    options: EmbeddedOptions,
}

fn options(free: &Arc<AtomicU64>) -> EmbeddedOptions {
    let free = free.clone();
    EmbeddedOptions {
        disk_free_min: 1000,
        segment_bytes: 256 << 20,
        cache_bytes_max: 1 << 20,
        queue_bytes_max: 16 << 20,
        free_bytes: Arc::new(move |_| Ok(free.load(Ordering::SeqCst))),
    }
}

async fn open(
    dir: &Path,
    options: &EmbeddedOptions,
    clock: &Arc<ManualClock>,
    health: &Health,
) -> EmbeddedLog {
    let (tasks, ids) = (Tasks::new(Stop::default()), Arc::new(RandomIds));
    EmbeddedLog::open(dir, options.clone(), clock.clone(), ids, health, &tasks).await.unwrap()
}

async fn with(change: impl FnOnce(&mut EmbeddedOptions)) -> Embedded {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000_000)));
    let health = Health::new(clock.clone());
    let free = Arc::new(AtomicU64::new(u64::MAX));
    let mut options = options(&free);
    change(&mut options);
    let log = open(dir.path(), &options, &clock, &health).await;
    Embedded { dir, clock, health, log, free, options }
}

async fn embedded() -> Embedded {
    with(|_| {}).await
}

#[async_trait]
impl Backend for Embedded {
    fn log(&self) -> Arc<dyn EventLog> {
        Arc::new(self.log.clone())
    }

    async fn restart(&mut self) {
        self.log.close().await;
        self.log = open(self.dir.path(), &self.options, &self.clock, &self.health).await;
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    async fn enforce_retention(&self) {
        self.log.enforce_retention().await.unwrap();
    }
}

conformance::conformance_suite!(embedded().await);

/// Waits for a condition, with a deadline.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn values(records: &BTreeMap<i32, Vec<Record>>) -> Vec<String> {
    let text = |record: &Record| String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap();
    records.values().flatten().map(text).collect()
}

#[tokio::test]
async fn opening_twice_names_the_holder_and_harms_nothing() {
    let b = embedded().await;
    b.log.create_topics(&[spec("events", 1)]).await.unwrap();
    produce(&b.log, "events", vec![record("k", "before", 1)]).await;
    let tasks = Tasks::new(Stop::default());
    let again = EmbeddedLog::open(
        b.dir.path(),
        b.options.clone(),
        b.clock.clone(),
        Arc::new(RandomIds),
        &b.health,
        &tasks,
    );
    let error = again.await.err().expect("refused").to_string();
    assert!(error.contains("in use by another process, or opened twice"), "{error}");
    produce(&b.log, "events", vec![record("k", "after", 1)]).await;
    assert_eq!(values(&read_all(&b.log, "events").await), ["before", "after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_produces_share_syncs() {
    let b = embedded().await;
    b.log.create_topics(&[spec("events", 1)]).await.unwrap();
    let before = b.log.0.shared.rounds.load(Ordering::SeqCst);
    join_all((0..500).map(|i| {
        let log = b.log.clone();
        async move { produce(&log, "events", vec![record("k", &i.to_string(), 1)]).await }
    }))
    .await;
    let syncs = b.log.0.shared.rounds.load(Ordering::SeqCst) - before;
    assert!((1..=250).contains(&syncs), "{syncs} syncs for 500 produces");
}

#[tokio::test]
async fn short_of_room_produces_are_refused_commits_pass_and_it_heals() {
    let b = embedded().await;
    b.log.create_topics(&[spec("events", 1)]).await.unwrap();
    let group = GroupSpec {
        group: "g".into(),
        topics: vec!["events".into()],
        client_id: "c".into(),
        instance_id: None,
    };
    let mut member = b.log.join(group).await.unwrap();
    let crate::eventlog::GroupEvent::Assigned { generation, .. } = member.next().await.unwrap() else {
        panic!("expected an assignment")
    };
    b.free.store(999, Ordering::SeqCst);
    eventually("produces are refused", async || {
        matches!(b.log.produce("events", vec![record("k", "v", 1)]).await[..], [Err(LogError::Full(_))])
    })
    .await;
    let status = b.health.get("eventlog").unwrap();
    assert_eq!(status.state, ComponentState::Down);
    assert!(
        status.reason.contains("999 bytes free") && status.reason.contains("disk_free_min"),
        "{status:?}"
    );
    assert!(matches!(b.log.probe().await, Err(LogError::Full(_))));
    let offsets = BTreeMap::from([(TopicPartition::new("events", 0), 0)]);
    member.committer().commit(generation, &offsets).await.unwrap();
    b.free.store(1000, Ordering::SeqCst);
    eventually("produces pass again", async || {
        b.log.produce("events", vec![record("k", "v", 1)]).await[0].is_ok()
    })
    .await;
    assert_eq!(b.health.get("eventlog").unwrap().state, ComponentState::Up);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_write_the_log_opens_again_with_all_it_acknowledged() {
    let b = embedded().await;
    b.log.create_topics(&[spec("events", 1)]).await.unwrap();
    produce(&b.log, "events", vec![record("k", "before", 1)]).await;
    let group = GroupSpec {
        group: "g".into(),
        topics: vec!["events".into()],
        client_id: "c".into(),
        instance_id: None,
    };
    let mut member = b.log.join(group).await.unwrap();
    let crate::eventlog::GroupEvent::Assigned { generation, partitions } = member.next().await.unwrap()
    else {
        panic!("expected an assignment")
    };
    b.log.0.send(Command::Break).unwrap();
    eventually("the failure shows", async || {
        matches!(b.log.probe().await, Err(LogError::Unavailable(_)))
            && b.health.get("eventlog").unwrap().state == ComponentState::Down
    })
    .await;
    eventually("it opens again", async || b.log.probe().await.is_ok()).await;
    produce(&b.log, "events", vec![record("k", "after", 1)]).await;
    assert_eq!(values(&read_all(&b.log, "events").await), ["before", "after"]);
    assert_eq!(b.log.topics().await.unwrap()[0].id, partitions[0].topic_id);
    let offsets = BTreeMap::from([(TopicPartition::new("events", 0), 2)]);
    member.committer().commit(generation, &offsets).await.expect("the member has not lost its place");
    assert_eq!(b.health.get("eventlog").unwrap().state, ComponentState::Up);
}

/// Copies a log's folder, its newest journal as `journal`.
fn copy_with_journal(from: &Path, journal: &Path, bytes: &[u8], preallocated: bool) -> TempDir {
    fn copy(from: &Path, to: &Path, except: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let target = to.join(path.file_name().unwrap());
            if path.is_dir() {
                copy(&path, &target, except);
            } else if path != except {
                std::fs::copy(&path, target).unwrap();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    copy(from, dir.path(), journal);
    let target = dir.path().join(journal.file_name().unwrap());
    std::fs::write(&target, bytes).unwrap();
    if preallocated {
        std::fs::File::options().write(true).open(&target).unwrap().set_len(64 << 20).unwrap();
    }
    dir
}

/// Opens a copy and answers its records; opening anew afterwards must give the same, and a produce must go on.
async fn survivors(dir: &Path) -> Vec<String> {
    let clock = Arc::new(ManualClock::at(Timestamp::EPOCH));
    let health = Health::new(clock.clone());
    let options = options(&Arc::new(AtomicU64::new(u64::MAX)));
    let log = open(dir, &options, &clock, &health).await;
    let found = values(&read_all(&log, "events").await);
    let position = produce(&log, "events", vec![record("k", "next", 1)]).await[0];
    assert_eq!(usize::try_from(position.offset).unwrap(), found.len());
    log.close().await;
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_torn_at_any_byte_costs_nothing_that_was_acknowledged() {
    let b = embedded().await;
    b.log.create_topics(&[spec("events", 1)]).await.unwrap();
    let acknowledged = ["one", "two", "three"];
    for value in acknowledged {
        produce(&b.log, "events", vec![record("k", value, 1)]).await;
    }
    let (_, synced) = journal_length(b.dir.path());
    produce(&b.log, "events", vec![record("k", "four", 1), record("k", "five", 1)]).await;
    let (journal, whole) = journal_length(b.dir.path());
    let bytes = std::fs::read(&journal).unwrap();
    assert!(whole > synced + 50, "the tail must hold a write");
    let all = ["one", "two", "three", "four", "five"];
    let (from, journal, bytes) = (b.dir.path(), &journal, &bytes);
    let check = async |cut: usize| {
        let copy = copy_with_journal(from, journal, &bytes[..cut], cut.is_multiple_of(2));
        let expected = if cut == whole { &all[..] } else { &acknowledged };
        assert_eq!(survivors(copy.path()).await, expected, "cut at byte {cut} of {synced}..{whole}");
    };
    futures::stream::iter(synced..=whole).for_each_concurrent(16, check).await;
    let garbage: Vec<u8> = (0..3000u32).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect();
    let item =
        [1, 1, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 2, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255];
    for tail in [&garbage[..], b"\x03\x03\x03", &[0xff; 100], &item] {
        let journaled = [&bytes[..synced], tail].concat();
        let copy = copy_with_journal(from, journal, &journaled, false);
        assert_eq!(survivors(copy.path()).await, acknowledged, "{} bytes of garbage", tail.len());
    }
    let mut hole = bytes[..whole].to_vec();
    hole[synced + 40..whole - 30].fill(0);
    let copy = copy_with_journal(from, journal, &hole, true);
    assert_eq!(survivors(copy.path()).await, acknowledged, "a page of the last write never reached the disk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_among_acknowledged_records_is_refused_by_name() {
    let b = embedded().await;
    b.log.create_topics(&[spec("events", 1)]).await.unwrap();
    produce(&b.log, "events", vec![record("k", "one", 1)]).await;
    let (_, first) = journal_length(b.dir.path());
    produce(&b.log, "events", vec![record("k", "two", 1)]).await;
    produce(&b.log, "events", vec![record("k", "three", 1)]).await;
    let (journal, _) = journal_length(b.dir.path());
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes[first + 60] ^= 1;
    let copy = copy_with_journal(b.dir.path(), &journal, &bytes, false);
    let tasks = Tasks::new(Stop::default());
    let opened = EmbeddedLog::open(
        copy.path(),
        b.options.clone(),
        b.clock.clone(),
        Arc::new(RandomIds),
        &b.health,
        &tasks,
    );
    let error = opened.await.err().expect("refused").to_string();
    assert!(error.contains("damaged at byte") && error.contains("backup"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_while_the_folder_was_made_starts_over() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("keyspaces")).unwrap();
    std::fs::write(dir.path().join("0.jnl"), [0; 100]).unwrap();
    std::fs::write(dir.path().join("version"), b"").unwrap();
    std::fs::write(dir.path().join("lock"), b"").unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp::EPOCH));
    let log =
        open(dir.path(), &options(&Arc::new(AtomicU64::new(u64::MAX))), &clock, &Health::new(clock.clone()))
            .await;
    log.create_topics(&[spec("events", 1)]).await.unwrap();
}

/// Bytes of the files below a folder, as allocated on the disk.
fn disk_use(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let of = |entry: std::io::Result<std::fs::DirEntry>| {
        let Ok(path) = entry.map(|entry| entry.path()) else { return 0 };
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => disk_use(&path),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        }
    };
    std::fs::read_dir(dir).map_or(0, |entries| entries.map(of).sum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producing_through_retention_keeps_the_disk_bounded() {
    let mut b = embedded().await;
    let bounded = TopicSpec {
        retention: Retention { age_max: None, bytes_max: Some(16 << 20) },
        record_bytes_max: 1 << 20,
        ..spec("events", 1)
    };
    b.log.create_topics(&[bounded]).await.unwrap();
    let mut noise = 1u32;
    let mut value = || {
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            noise.to_le_bytes()
        })
        .take(1 << 16)
        .flatten()
        .collect();
        Bytes::from(bytes)
    };
    let mut highest = 0;
    for round in 0..60 {
        let records: Vec<NewRecord> =
            (0..16).map(|_| NewRecord { value: value(), ..record("k", "", round) }).collect();
        produce(&b.log, "events", records).await;
        b.log.enforce_retention().await.unwrap();
        highest = highest.max(disk_use(b.dir.path()));
    }
    let ends = b.log.topics().await.unwrap()[0].partitions[0];
    assert_eq!(ends.end, 960);
    assert!(ends.log_start >= 960 - 16 * 7, "{ends:?}");
    // 240 MiB went through. The bound: 20 MiB of segments, a journal or two of 64 MiB, and what is being deleted.
    assert!(highest < 160 << 20, "{} MiB on disk", highest >> 20);
    let records = read_all(&b.log, "events").await;
    assert_eq!(records[&0].first().map(|record| record.offset), Some(ends.log_start));
    b.restart().await;
    assert_eq!(b.log.topics().await.unwrap()[0].partitions[0], ends);
    assert_eq!(read_all(&b.log, "events").await, records, "the same from disk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_the_same_from_memory_and_from_disk_over_many_segments() {
    let mut b = with(|options| {
        options.segment_bytes = 3000;
        options.cache_bytes_max = 5000;
    })
    .await;
    b.log.create_topics(&[spec("events", 2)]).await.unwrap();
    let mut written = Vec::new();
    for i in 0..200 {
        let value = format!("{i:0200}");
        produce(&b.log, "events", vec![record("a", &value, i), record("b", &value, i)]).await;
        written.push(value);
    }
    let catalog = b.log.0.shared.catalog();
    assert!(catalog.partitions().any(|(_, partition)| partition.read().segments.len() > 5));
    drop(catalog);
    let before = read_all(&b.log, "events").await;
    assert_eq!(before.values().map(Vec::len).sum::<usize>(), 400);
    b.restart().await;
    assert_eq!(read_all(&b.log, "events").await, before);
    let at = b.log.offsets_at("events", Timestamp::from_millis(150)).await.unwrap();
    for (partition, offset) in (0..).zip(at) {
        let first = before[&partition].iter().find(|r| r.timestamp.as_millis() >= 150).map(|r| r.offset);
        assert_eq!(first.unwrap_or(before[&partition].len().try_into().unwrap()), offset);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_answer_starves_no_partition() {
    let b = embedded().await;
    b.log.create_topics(&[spec("events", 2)]).await.unwrap();
    let records = (0..50).map(|i| record(&format!("user-{i}"), &"x".repeat(100), 1)).collect();
    produce(&b.log, "events", records).await;
    let topic = b.log.topics().await.unwrap().remove(0);
    let limits = FetchLimits { wait_max: LONG, partition_bytes_max: 100, bytes_max: 100 };
    let from: Vec<FetchFrom> = (0..2)
        .map(|partition| FetchFrom {
            topic_partition: TopicPartition::new("events", partition),
            topic_id: topic.id,
            offset: 0,
        })
        .collect();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..2 {
        let found = b.log.fetch(&from, limits).await.unwrap();
        assert_eq!(found.len(), 1, "the first partition takes all the bytes");
        seen.insert(found[0].topic_partition.partition);
    }
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn a_topic_that_is_there_takes_over_its_configured_limits() {
    let mut b = embedded().await;
    b.log.create_topics(&[spec("events", 2)]).await.unwrap();
    let made = b.log.create_topics(&[TopicSpec { record_bytes_max: 50, ..spec("events", 9) }]).await.unwrap();
    assert!(made.is_empty());
    b.restart().await;
    assert_eq!(b.log.topics().await.unwrap()[0].partitions.len(), 2, "partitions stay");
    let answers = b.log.produce("events", vec![record("k", &"x".repeat(60), 1)]).await;
    assert!(matches!(answers[..], [Err(LogError::RecordTooLarge { bytes_max: 50, .. })]), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_goes_on_from_a_segments_recorded_summary() {
    let mut b = embedded().await;
    b.log.create_topics(&[TopicSpec { record_bytes_max: 2 << 20, ..spec("events", 1) }]).await.unwrap();
    for at in [7, 3, 9, 5, 1] {
        let large = NewRecord { value: Bytes::from(vec![b'x'; 1 << 20]), ..record("k", "", at) };
        produce(&b.log, "events", vec![large; 5]).await;
    }
    let facts = |log: &EmbeddedLog| {
        let catalog = log.0.shared.catalog();
        let (_, partition) = catalog.partitions().next().unwrap();
        let state = partition.read();
        let segment = &state.segments[0];
        (
            state.offsets,
            segment.end,
            segment.bytes,
            segment.first_timestamp,
            segment.max_timestamp,
            segment.sealed,
        )
    };
    let before = facts(&b.log);
    assert_eq!((before.1, before.3, before.4, before.5), (25, 7, 9, false));
    b.restart().await;
    assert_eq!(facts(&b.log), before);
    assert_eq!(produce(&b.log, "events", vec![record("k", "next", 1)]).await[0].offset, 25);
}

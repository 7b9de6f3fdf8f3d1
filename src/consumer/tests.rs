//! The pipeline on the in-memory log, with a store that fails on demand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::core::{FetchPosition, IdHash, RowRef, StoredId};
use super::*;
use crate::event::{RandomIds, SystemClock, Timestamp};
use crate::eventlog::{
    Fault, MemoryLog, NewRecord, Operation, Record, Retention, TopicId, TopicPartition, TopicSpec,
};
use crate::lifecycle::{ComponentState, Health};
use crate::person::Said;
use crate::store::{
    DeadLetterRow, EventBlock, InsertError, RecentId, StoreError, StoredOffsets, StoredRange, Swept,
};

const SEED: u64 = 7;

/// Counts the blocks it is given; what the stage does not ask of it answers nothing.
#[derive(Default)]
struct CountingSink(Mutex<usize>);

struct NoIds;

#[async_trait]
impl IdStream for NoIds {
    async fn next_chunk(&mut self) -> Result<Option<Vec<RecentId>>, StoreError> {
        Ok(None)
    }
}

#[async_trait]
impl Sink for CountingSink {
    async fn insert_events(&self, block: &EventBlock, _: &str) -> Result<(), InsertError> {
        *self.0.lock().unwrap() += block.len();
        Ok(())
    }

    async fn insert_dead_letters(&self, _: &[DeadLetterRow], _: &str) -> Result<(), InsertError> {
        Ok(())
    }

    async fn note_people(&self, _: &Said, _: &str) -> Result<(), InsertError> {
        Ok(())
    }

    async fn stored_offsets(&self, _: &[StoredRange]) -> Result<Vec<StoredOffsets>, StoreError> {
        Ok(Vec::new())
    }

    fn recent_ids(&self, _: &str, _: Uuid, _: &[i32], _: Timestamp, _: u64) -> Box<dyn IdStream> {
        Box::new(NoIds)
    }

    async fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn sweep(&self, _: Timestamp, _: Option<Timestamp>) -> Result<Swept, StoreError> {
        Ok(Swept::default())
    }
}

#[derive(Clone)]
struct Stored {
    partition: TopicPartition,
    topic_id: TopicId,
    offset: i64,
    id: String,
}

/// The events stage on a table in memory; it outlives the processes that write to it.
struct Table {
    events: EventsStage,
    blocks: Arc<CountingSink>,
    rows: Mutex<Vec<Stored>>,
    /// Of every attempt, failed ones included.
    tokens: Mutex<Vec<String>>,
    faults: Mutex<VecDeque<InsertError>>,
    /// The store refuses rows with this id.
    refused_id: Mutex<Option<String>>,
    /// Times its ids were begun to be read back, and were.
    rebuilds_begun: AtomicUsize,
    rebuilds: AtomicUsize,
    /// Reading its ids back waits for a permit.
    rebuild_turns: tokio::sync::Semaphore,
}

impl Table {
    fn new() -> Arc<Self> {
        let blocks = Arc::new(CountingSink::default());
        Arc::new(Self {
            events: EventsStage::new(blocks.clone(), SEED),
            blocks,
            rows: Mutex::default(),
            tokens: Mutex::default(),
            faults: Mutex::default(),
            refused_id: Mutex::default(),
            rebuilds_begun: AtomicUsize::new(0),
            rebuilds: AtomicUsize::new(0),
            rebuild_turns: tokio::sync::Semaphore::new(tokio::sync::Semaphore::MAX_PERMITS),
        })
    }

    fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.rows.lock().unwrap().iter().map(|row| row.id.clone()).collect();
        ids.sort();
        ids
    }
}

#[async_trait]
impl Stage for Table {
    type Row = Decoded;

    fn name(&self) -> &'static str {
        "consumer"
    }

    fn table(&self) -> &'static str {
        "events"
    }

    fn mapper_version(&self) -> u32 {
        1
    }

    fn makes_events_visible(&self) -> bool {
        true
    }

    fn has_id_window(&self) -> bool {
        true
    }

    fn read(&self, at: &TopicPartition, record: &Record) -> Result<Read<Decoded>, Refused> {
        self.events.read(at, record)
    }

    async fn insert(
        &self,
        batch: &Arc<StageBatch<Decoded>>,
        rows: &Arc<[RowRef]>,
        token: &str,
    ) -> Result<(), InsertError> {
        self.tokens.lock().unwrap().push(token.to_owned());
        if let Some(fault) = self.faults.lock().unwrap().pop_front() {
            return Err(fault);
        }
        let stored: Vec<Stored> = rows
            .iter()
            .map(|row| {
                let part = &batch.parts[row.part as usize];
                let payload = &batch.item(*row).payload;
                let id =
                    payload.row.as_ref().unwrap().text(payload.record.value.as_ref().unwrap(), Field::Id);
                Stored {
                    partition: part.topic_partition.clone(),
                    topic_id: part.topic_id,
                    offset: payload.record.offset,
                    id: id.to_owned(),
                }
            })
            .collect();
        let refused = self.refused_id.lock().unwrap().clone();
        if stored.iter().any(|row| Some(&row.id) == refused.as_ref()) {
            return Err(InsertError::Rejected("a value it cannot hold".to_owned()));
        }
        self.events.insert(batch, rows, token).await?;
        self.rows.lock().unwrap().extend(stored);
        Ok(())
    }

    async fn stored_offsets(
        &self,
        from: &[FetchPosition],
    ) -> Result<BTreeMap<TopicPartition, Vec<i64>>, StoreError> {
        let rows = self.rows.lock().unwrap();
        let offsets = |position: &FetchPosition| {
            let mine = rows.iter().filter(|row| {
                row.partition == position.topic_partition
                    && row.topic_id == position.topic_id
                    && row.offset >= position.offset
            });
            mine.map(|row| row.offset).collect::<BTreeSet<i64>>().into_iter().collect()
        };
        Ok(from.iter().map(|position| (position.topic_partition.clone(), offsets(position))).collect())
    }

    async fn recent_ids(
        &self,
        _: &[(TopicPartition, TopicId)],
        _: Timestamp,
        _: usize,
        found: mpsc::Sender<Vec<StoredId>>,
    ) -> Result<(), StoreError> {
        self.rebuilds_begun.fetch_add(1, Ordering::SeqCst);
        let _turn = self.rebuild_turns.acquire().await.unwrap();
        let rows = self.rows.lock().unwrap().clone();
        let ids = rows.iter().rev().map(|row| StoredId {
            topic_partition: row.partition.clone(),
            id: IdHash::of(SEED, "p", "e", &row.id),
            offset: row.offset,
            received_at: Timestamp::from_millis(1_700_000_000_000),
        });
        let ids: Vec<StoredId> = ids.collect();
        let _ = found.send(ids).await;
        self.rebuilds.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

pub(super) struct Fixture {
    pub(super) log: MemoryLog,
    table: Arc<Table>,
    pub(super) health: Health,
    control: Control,
    config: Arc<Config>,
}

/// A consumer at work.
struct Running {
    tasks: Tasks,
    work: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Running {
    async fn stop(self) {
        self.tasks.stop().soft();
        self.work.await.unwrap().unwrap();
        assert!(self.tasks.drained(Duration::from_secs(20)).await, "something is left at work");
    }
}

pub(super) fn topic(name: &str) -> TopicSpec {
    TopicSpec {
        name: name.into(),
        partitions: 1,
        retention: Retention::default(),
        record_bytes_max: 1 << 20,
        required_groups: Vec::new(),
    }
}

pub(super) fn event(id: &str, name: &str) -> NewRecord {
    let value = format!(
        r#"{{"id":"{id}","project_id":"p","environment_id":"e","event_name":"{name}","distinct_id":"d",
        "timestamp":"2026-01-31T11:00:00Z","received_at":"2026-01-31T11:00:01Z","schema_version":1}}"#
    );
    raw(value)
}

pub(super) fn raw(value: impl Into<Bytes>) -> NewRecord {
    let timestamp = Timestamp::from_millis(1_700_000_000_000);
    NewRecord { key: Some("d".into()), value: value.into(), headers: Default::default(), timestamp }
}

impl Fixture {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    pub(super) async fn with(overrides: &[(&str, &str)]) -> Self {
        let log = MemoryLog::new(Arc::new(SystemClock), Arc::new(RandomIds));
        log.create_topics(&[topic("events"), topic("events-dlq")]).await.unwrap();
        let quick = [
            ("consumer.backoff_min", "1ms"),
            ("consumer.backoff_max", "20ms"),
            ("consumer.batch_age_max", "40ms"),
            ("consumer.lanes", "1"),
        ];
        let overrides: Vec<_> = quick.iter().chain(overrides).copied().collect();
        Self {
            log,
            table: Table::new(),
            health: Health::new(Arc::new(SystemClock)),
            control: Control::default(),
            config: Arc::new(Config::from_overrides(&overrides).unwrap()),
        }
    }

    pub(super) fn deps(&self, tasks: &Tasks) -> ConsumerDeps {
        ConsumerDeps {
            log: Arc::new(self.log.clone()),
            sink: self.table.blocks.clone(),
            config: self.config.clone(),
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
            health: self.health.clone(),
            tasks: tasks.clone(),
            control: self.control.clone(),
            schemas: None,
        }
    }

    fn start(&self) -> Running {
        let tasks = Tasks::new(Stop::default());
        let deps = self.deps(&tasks);
        let (table, stop) = (self.table.clone(), tasks.stop().clone());
        let work = tasks.spawn_bounded(async move {
            run_stage(table, &deps, vec!["events".into()], "event-consumers", &stop).await
        });
        Running { tasks, work }
    }

    pub(super) async fn produce(&self, records: Vec<NewRecord>) {
        for outcome in self.log.produce("events", records).await {
            outcome.unwrap();
        }
    }

    async fn committed(&self) -> i64 {
        let committed = self.log.committed("event-consumers").await.unwrap();
        committed.get(&TopicPartition::new("events", 0)).copied().unwrap_or(0)
    }

    async fn committed_reaches(&self, offset: i64) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while self.committed().await < offset {
            let state = self.health.get("consumer");
            assert!(
                tokio::time::Instant::now() < deadline,
                "{} of {offset}: {state:?}",
                self.committed().await
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn component_is(&self, state: ComponentState, words: &str) {
        self.stage_is("consumer", state, words).await;
    }

    pub(super) async fn stage_is(&self, stage: &str, state: ComponentState, words: &str) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.health.get(stage);
            if status.as_ref().is_some_and(|s| s.state == state && s.reason.contains(words)) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{status:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn window_is_read_back(&self) {
        has_happened(&self.table.rebuilds).await;
    }

    async fn letters(&self) -> i64 {
        let topics = self.log.topics().await.unwrap();
        topics.iter().find(|topic| &*topic.name == "events-dlq").map_or(0, |topic| topic.partitions[0].end)
    }
}

async fn has_happened(times: &AtomicUsize) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while times.load(Ordering::SeqCst) == 0 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_duplicate_is_skipped_in_one_batch_in_two_and_after_a_restart() {
    let fixture = Fixture::new().await;
    fixture.produce(vec![event("a", "x"), event("a", "y"), event("b", "x")]).await;
    let running = fixture.start();
    fixture.committed_reaches(3).await;
    fixture.produce(vec![event("a", "z"), event("c", "x")]).await;
    fixture.committed_reaches(5).await;
    running.stop().await;
    assert_eq!(fixture.table.ids(), ["a", "b", "c"]);

    let running = fixture.start();
    // Work does not wait for the window; this test does, and for one more batch, so that the ids have arrived.
    fixture.window_is_read_back().await;
    fixture.produce(vec![event("d", "x")]).await;
    fixture.committed_reaches(6).await;
    fixture.produce(vec![event("b", "other"), event("e", "x")]).await;
    fixture.committed_reaches(8).await;
    running.stop().await;
    assert_eq!(fixture.table.ids(), ["a", "b", "c", "d", "e"]);
    assert_eq!(*fixture.table.blocks.0.lock().unwrap(), 5);
}

#[tokio::test]
async fn poison_between_good_records_becomes_dead_letters_and_nothing_else_does() {
    let fixture = Fixture::new().await;
    fixture.produce(vec![event("a", "x"), raw("not json"), event("b", "x")]).await;
    let tombstone = Record {
        offset: 0,
        timestamp: Timestamp::EPOCH,
        key: None,
        value: None,
        headers: Default::default(),
    };
    fixture.log.append_raw(&TopicPartition::new("events", 0), tombstone).unwrap();
    let running = fixture.start();
    fixture.committed_reaches(4).await;
    running.stop().await;
    assert_eq!(fixture.table.ids(), ["a", "b"]);
    assert_eq!(fixture.letters().await, 2);
}

#[tokio::test]
async fn a_store_that_does_not_answer_gets_the_same_rows_under_the_same_token_again() {
    let fixture = Fixture::new().await;
    let faults = [
        InsertError::Unavailable("refused".to_owned()),
        InsertError::OutcomeUnknown("connection lost".to_owned()),
        InsertError::Schema { message: "no table events".to_owned(), cure: "run `flexflow migrate`" },
    ];
    fixture.table.faults.lock().unwrap().extend(faults);
    fixture.produce(vec![event("a", "x")]).await;
    let running = fixture.start();
    fixture.committed_reaches(1).await;
    fixture.component_is(ComponentState::Up, "").await;
    running.stop().await;
    assert_eq!(fixture.table.ids(), ["a"]);
    let tokens = fixture.table.tokens.lock().unwrap().clone();
    assert_eq!(tokens.len(), 4);
    assert_eq!(tokens.iter().collect::<BTreeSet<_>>().len(), 1);
    assert_eq!(fixture.letters().await, 0);
}

#[tokio::test]
async fn a_store_that_is_down_is_a_reason_in_ready_and_a_soft_stop_still_ends() {
    let fixture = Fixture::with(&[("consumer.backoff_min", "10s"), ("consumer.backoff_max", "10s")]).await;
    fixture.table.faults.lock().unwrap().push_back(InsertError::Unavailable("disk full".to_owned()));
    fixture.produce(vec![event("a", "x")]).await;
    let running = fixture.start();
    fixture.component_is(ComponentState::Down, "disk full").await;
    running.stop().await;
    assert_eq!(fixture.committed().await, 0);
    let running = fixture.start();
    fixture.committed_reaches(1).await;
    running.stop().await;
    assert_eq!(fixture.table.ids(), ["a"]);
}

#[tokio::test]
async fn the_one_row_the_store_refuses_is_the_only_dead_letter() {
    let fixture = Fixture::new().await;
    *fixture.table.refused_id.lock().unwrap() = Some("c".to_owned());
    fixture.produce(["a", "b", "c", "d", "e"].map(|id| event(id, "x")).to_vec()).await;
    let running = fixture.start();
    fixture.committed_reaches(5).await;
    running.stop().await;
    assert_eq!(fixture.table.ids(), ["a", "b", "d", "e"]);
    assert_eq!(fixture.letters().await, 1);
}

#[tokio::test]
async fn a_flood_of_poison_stops_the_partition_until_an_operator_resumes_it() {
    let fixture = Fixture::with(&[("consumer.flood_records_min", "10")]).await;
    let mut records = vec![raw("poison"); 30];
    records.push(event("a", "x"));
    fixture.produce(records).await;
    let running = fixture.start();
    let partition = TopicPartition::new("events", 0);
    fixture
        .component_is(ComponentState::Degraded, "flexflow consumer resume --topic events --partition 0")
        .await;
    assert_eq!(fixture.letters().await, 0);
    assert_eq!(fixture.committed().await, 0);
    assert_eq!(fixture.control.stopped_partitions()[0].0, partition);
    assert!(fixture.control.resume(&TopicPartition::new("events", 9)).is_err());
    fixture.control.resume(&partition).unwrap();
    fixture.committed_reaches(31).await;
    fixture.component_is(ComponentState::Up, "").await;
    running.stop().await;
    assert_eq!(fixture.letters().await, 30);
    assert_eq!(fixture.table.ids(), ["a"]);
}

#[tokio::test]
async fn a_fenced_commit_joins_again_and_stores_nothing_twice() {
    let fixture = Fixture::new().await;
    fixture.log.script(Operation::Commit, [Fault::Fence]);
    fixture.produce(vec![event("a", "x"), event("b", "x")]).await;
    let running = fixture.start();
    fixture.committed_reaches(2).await;
    running.stop().await;
    assert_eq!(fixture.log.calls(Operation::Join), 2);
    assert_eq!(fixture.table.ids(), ["a", "b"]);
}

#[tokio::test]
async fn a_lost_answer_to_a_commit_is_asked_again() {
    let fixture = Fixture::new().await;
    fixture.log.script(Operation::Commit, [Fault::LoseAnswer, Fault::Refuse]);
    fixture.produce(vec![event("a", "x")]).await;
    let running = fixture.start();
    fixture.committed_reaches(1).await;
    running.stop().await;
    assert_eq!(fixture.table.ids(), ["a"]);
}

#[tokio::test]
async fn a_topic_that_vanishes_is_named_and_heals_by_itself() {
    let fixture = Fixture::new().await;
    fixture.produce(vec![event("a", "x")]).await;
    let running = fixture.start();
    fixture.committed_reaches(1).await;
    fixture.log.delete_topic("events").await.unwrap();
    fixture.component_is(ComponentState::Down, "events").await;
    fixture.log.create_topics(&[topic("events")]).await.unwrap();
    fixture.produce(vec![event("b", "x")]).await;
    fixture.component_is(ComponentState::Up, "").await;
    fixture.committed_reaches(1).await;
    running.stop().await;
    assert_eq!(fixture.table.ids(), ["a", "b"]);
}

#[tokio::test]
async fn records_that_retention_took_are_passed_over_and_reading_goes_on_at_the_logs_start() {
    let fixture = Fixture::new().await;
    fixture.produce(vec![event("a", "x")]).await;
    let running = fixture.start();
    fixture.committed_reaches(1).await;
    running.stop().await;
    fixture.produce(["b", "c", "d"].map(|id| event(id, "x")).to_vec()).await;
    fixture.log.delete_records_before(&TopicPartition::new("events", 0), 3);
    let running = fixture.start();
    fixture.committed_reaches(4).await;
    running.stop().await;
    assert_eq!(fixture.table.ids(), ["a", "d"]);
}

#[tokio::test]
async fn a_dead_letter_that_is_refused_holds_its_partition_back_until_it_is_taken() {
    let fixture = Fixture::new().await;
    fixture.produce(vec![raw("poison"), event("a", "x")]).await;
    fixture.log.script(Operation::Produce, [Fault::Refuse, Fault::Full]);
    let running = fixture.start();
    fixture.committed_reaches(2).await;
    fixture.component_is(ComponentState::Up, "").await;
    running.stop().await;
    assert_eq!(fixture.letters().await, 1);
    assert_eq!(fixture.table.ids(), ["a"]);
}

#[tokio::test]
async fn what_is_stored_while_the_id_window_is_rebuilt_is_swept_when_that_ends() {
    let fixture = Fixture::new().await;
    let consumer = fixture.start();
    fixture.produce(vec![event("a", "paid")]).await;
    fixture.committed_reaches(1).await;
    consumer.stop().await;
    let permits = fixture.table.rebuild_turns.available_permits();
    fixture.table.rebuild_turns.forget_permits(permits);
    let consumer = fixture.start();
    fixture.produce(vec![event("a", "paid again")]).await;
    fixture.committed_reaches(2).await;
    assert_eq!(fixture.table.ids(), ["a", "a"], "the window does not know it yet");
    let asked = fixture.control.sweep_asked_for();
    tokio::pin!(asked);
    assert!(futures::poll!(&mut asked).is_pending());
    fixture.table.rebuild_turns.add_permits(permits);
    let since = tokio::time::timeout(Duration::from_secs(20), asked).await.expect("a sweep is asked for");
    assert_eq!(since, Timestamp::parse("2026-01-31T11:00:01Z").unwrap(), "when the row was received");
    consumer.stop().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_the_id_window() {
    let fixture = Fixture::new().await;
    let consumer = fixture.start();
    fixture.produce(vec![event("a", "paid")]).await;
    fixture.committed_reaches(1).await;
    consumer.stop().await;
    fixture.table.rebuild_turns.forget_permits(fixture.table.rebuild_turns.available_permits());
    fixture.table.rebuilds_begun.store(0, Ordering::SeqCst);
    let consumer = fixture.start();
    has_happened(&fixture.table.rebuilds_begun).await;
    consumer.stop().await;
}

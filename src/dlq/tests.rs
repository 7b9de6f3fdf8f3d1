//! Replay and discard as real jobs (SQLite) over the log in memory, with faults between every two steps.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use bytesize::ByteSize;
use serde_json::{Value, json};

use super::*;
use crate::config;
use crate::event::{ErrorKind, ManualClock, RandomIds, Scope, Timestamp};
use crate::eventlog::{
    EventLog, Fault, FetchFrom, FetchLimits, Header, MemoryLog, NewRecord, Operation, Record, Retention,
    TopicId, TopicPartition, TopicSpec,
};
use crate::job::{Jobs, NewJob, Overview, Worker};
use crate::lifecycle::{Health, Stop, Tasks};
use crate::meta::{JobState, Meta};
use crate::store::StoreError;

const DLQ: &str = "events-dlq";
const PATIENCE: Duration = Duration::from_secs(20);

/// The ledger in memory; refuses as often as it is told to.
#[derive(Default)]
struct MemoryLedger {
    rows: Mutex<HashMap<Origin, Standing>>,
    refuse_writes: AtomicUsize,
    refuse_reads: AtomicUsize,
}

fn refused(times: &AtomicUsize) -> Result<(), LedgerError> {
    match times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
        Ok(_) => Err(LedgerError::Read(StoreError::Unavailable("scripted".to_owned()))),
        Err(_) => Ok(()),
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn standings(&self, origins: &[Origin]) -> Result<HashMap<Origin, Standing>, LedgerError> {
        refused(&self.refuse_reads)?;
        let rows = self.rows.lock().unwrap();
        Ok(origins.iter().filter_map(|origin| Some((origin.clone(), rows.get(origin)?.clone()))).collect())
    }

    async fn write(&self, entries: &[Entry<'_>]) -> Result<(), LedgerError> {
        refused(&self.refuse_writes)?;
        let mut rows = self.rows.lock().unwrap();
        for entry in entries {
            let row =
                Standing { status: entry.status, job_id: entry.job_id.to_owned(), version: entry.version };
            let old = rows.insert(Origin::of(entry.letter), row);
            assert!(old.is_none_or(|old| old.version < entry.version), "versions grow");
        }
        Ok(())
    }
}

struct Bench {
    log: MemoryLog,
    ledger: Arc<MemoryLedger>,
    passes: Passes,
    jobs: Jobs,
    clock: Arc<ManualClock>,
    _folder: tempfile::TempDir,
}

async fn bench() -> Bench {
    bench_with(3).await
}

async fn bench_with(page_records_max: usize) -> Bench {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    let folder = tempfile::tempdir().unwrap();
    let meta = config::Meta {
        url: None,
        connections_max: 2,
        timeout: PATIENCE,
        secret_key: "".into(),
        previous_secret_key: "".into(),
    };
    let health = Health::new(clock.clone());
    let meta = Meta::open(&meta, folder.path(), clock.clone(), Arc::new(RandomIds), &health).await.unwrap();
    meta.migrate().await.unwrap();
    let jobs = config::Jobs {
        concurrency: 1,
        lease: Duration::from_secs(30),
        poll_interval: Duration::from_millis(20),
        step_timeout: PATIENCE,
        attempts_max: 5,
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(1),
        open_max: 10,
        keep_ended: Duration::from_secs(3600),
    };
    let log = MemoryLog::new(clock.clone(), Arc::new(RandomIds));
    let topics = [("events", 1, 2000), (DLQ, 2, 100_000)].map(|(name, partitions, bytes_max)| TopicSpec {
        name: name.into(),
        partitions,
        retention: Retention::default(),
        record_bytes_max: bytes_max,
        required_groups: Vec::new(),
    });
    log.create_topics(&topics).await.unwrap();
    let ledger = Arc::new(MemoryLedger::default());
    let settings = config::Dlq {
        replay_page_records_max: page_records_max,
        replay_page_bytes_max: ByteSize::mib(1),
        recoveries_max: 5,
    };
    let passes = Passes::new(Arc::new(log.clone()), ledger.clone(), DLQ, settings, clock.clone());
    Bench { log, ledger, passes, jobs: Jobs::new(meta, jobs, clock.clone()), clock, _folder: folder }
}

fn header(name: &str, value: &str) -> Header {
    Header { name: name.into(), value: Bytes::copy_from_slice(value.as_bytes()) }
}

fn letter(offset: i64, event: &Value) -> DeadLetter {
    let record = Record {
        offset,
        timestamp: Timestamp::EPOCH,
        key: Some(Bytes::from(format!("person-{offset}"))),
        value: Some(event.to_string().into()),
        headers: [header("producer", "capture")].into(),
    };
    let refusal = Refusal {
        source: &TopicPartition::new("events", 0),
        source_topic_id: TopicId(uuid::Uuid::from_u128(1)),
        stage: "event-consumers",
        kind: ErrorKind::InvalidField,
        message: "timestamp: not an RFC 3339 time",
        attempts: 1,
        at: Timestamp::from_millis(1_600_000_000_000 + offset * 1000),
    };
    DeadLetter::of(&record, &refusal)
}

fn event(n: i64) -> Value {
    json!({ "id": format!("e{n}"), "project_id": "proj_a", "environment_id": "env_a", "timestamp": "never" })
}

fn replay() -> Order {
    Order {
        selection: Selection { all: true, ..Selection::default() },
        scope: None,
        action: Action::Replay { fix: None, again: false },
        dry_run: false,
        max: None,
        rate: None,
        requested_by: "operator".to_owned(),
    }
}

fn discard() -> Order {
    Order { action: Action::Discard { reason: "test data".to_owned() }, ..replay() }
}

fn set(patch: Value) -> Option<Fix> {
    let Value::Object(patch) = patch else { panic!("not an object") };
    Some(Fix::new(patch, false).unwrap())
}

impl Bench {
    async fn refuse(&self, letters: &[DeadLetter]) {
        let records = letters.iter().map(|letter| letter.to_record(100_000)).collect();
        for result in self.log.produce(DLQ, records).await {
            result.unwrap();
        }
    }

    async fn refuse_events(&self, offsets: std::ops::Range<i64>) {
        let letters: Vec<DeadLetter> = offsets.map(|n| letter(n, &event(n))).collect();
        self.refuse(&letters).await;
    }

    async fn start(&self, order: &Order) -> String {
        let spec = serde_json::to_value(order).unwrap();
        self.jobs.start(NewJob { project: None, kind: order.action.kind(), spec }).await.unwrap().id
    }

    fn worker(&self) -> Worker {
        let tasks = Tasks::new(Stop::default());
        Worker::new(self.jobs.clone(), self.passes.handlers(), Arc::new(RandomIds), &tasks)
    }

    /// Runs the job to its end, through as many failures as it allows.
    async fn finish(&self, id: &str) -> Overview {
        let worker = self.worker();
        while tokio::time::timeout(PATIENCE, worker.run_one()).await.unwrap().unwrap() {
            self.clock.advance(Duration::from_secs(1));
        }
        self.jobs.get(None, id).await.unwrap().unwrap()
    }

    async fn run(&self, order: &Order) -> Value {
        let id = self.start(order).await;
        let job = self.finish(&id).await;
        assert_eq!(job.state, JobState::Succeeded, "{job:?}");
        job.progress.unwrap()
    }

    /// What stands in `events` now.
    async fn events(&self) -> Vec<Record> {
        let topic =
            self.log.topics().await.unwrap().into_iter().find(|topic| &*topic.name == "events").unwrap();
        let from = FetchFrom {
            topic_partition: TopicPartition::new("events", 0),
            topic_id: topic.id,
            offset: topic.partitions[0].log_start,
        };
        let limits =
            FetchLimits { wait_max: Duration::ZERO, partition_bytes_max: 1 << 20, bytes_max: 1 << 20 };
        let fetched = self.log.fetch(&[from], limits).await.unwrap();
        fetched.into_iter().flat_map(|partition| partition.outcome.unwrap().records).collect()
    }

    async fn event_ids(&self) -> Vec<String> {
        let records = self.events().await;
        let mut ids: Vec<String> = records
            .iter()
            .map(|record| {
                let event: Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
                event["id"].as_str().unwrap().to_owned()
            })
            .collect();
        ids.sort();
        ids
    }
}

#[tokio::test]
async fn a_replay_writes_every_dead_letter_back_as_it_came_with_one_recovery_more() {
    let bench = bench().await;
    bench.refuse_events(0..8).await;
    let progress = bench.run(&replay()).await;
    assert_eq!(progress, json!({ "scanned": 8, "remaining": 0, "outcomes": { "replayed": 8 } }));
    assert_eq!(bench.event_ids().await, ["e0", "e1", "e2", "e3", "e4", "e5", "e6", "e7"]);
    let record = bench.events().await.into_iter().find(|r| r.key.as_deref() == Some(b"person-5")).unwrap();
    assert_eq!(record.value.as_deref(), Some(event(5).to_string().as_bytes()));
    assert_eq!(*record.headers, [header("producer", "capture"), header("recoveries", "1")]);
    assert_eq!(recoveries(&record.headers), 1);
}

#[tokio::test]
async fn a_second_replay_writes_nothing_back_unless_it_is_told_to() {
    let bench = bench().await;
    bench.refuse_events(0..5).await;
    bench.run(&replay()).await;
    let second = bench.run(&replay()).await;
    assert_eq!(second["outcomes"], json!({ "already_replayed": 5 }));
    assert_eq!(bench.events().await.len(), 5);
    let action = Action::Replay { fix: None, again: true };
    let third = bench.run(&Order { action, ..replay() }).await;
    assert_eq!(third["outcomes"], json!({ "replayed": 5 }));
    assert_eq!(bench.events().await.len(), 10);
}

#[tokio::test]
async fn a_dry_run_counts_and_shows_five_samples_and_writes_nothing() {
    let bench = bench().await;
    bench.refuse_events(0..7).await;
    let action = Action::Replay { fix: set(json!({ "timestamp": "2026-01-31T12:00:00Z" })), again: false };
    let progress = bench.run(&Order { action, dry_run: true, ..replay() }).await;
    assert_eq!(progress["outcomes"], json!({ "replayed": 7 }));
    let samples = progress["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 5);
    assert!(samples[0]["before"].as_str().unwrap().contains(r#""timestamp":"never""#));
    assert!(samples[0]["after"].as_str().unwrap().contains(r#""timestamp":"2026-01-31T12:00:00Z""#));
    assert_eq!(bench.events().await, []);
    assert_eq!(bench.ledger.rows.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_fix_is_applied_and_moves_the_record_to_the_fixed_persons_key() {
    let bench = bench().await;
    bench.refuse_events(0..1).await;
    let action = Action::Replay {
        fix: set(json!({ "timestamp": "2026-01-31T12:00:00Z", "distinct_id": "bob" })),
        again: false,
    };
    bench.run(&Order { action, ..replay() }).await;
    let record = bench.events().await.remove(0);
    let fixed: Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
    assert_eq!(
        (&fixed["timestamp"], &fixed["distinct_id"], &fixed["id"]),
        (&json!("2026-01-31T12:00:00Z"), &json!("bob"), &json!("e0"))
    );
    assert_eq!(record.key.as_deref(), Some(&b"bob"[..]));
}

#[tokio::test]
async fn what_cannot_be_written_back_is_named_and_the_rest_goes_on() {
    let bench = bench().await;
    let mut capped = letter(1, &event(1));
    capped.recoveries = 5;
    let mut not_json = letter(2, &event(2));
    not_json.raw = Raw::Bytes(Bytes::from_static(b"not json"));
    let mut absent = letter(3, &event(3));
    absent.raw = Raw::Absent;
    let huge = letter(4, &json!({ "id": "e4", "text": "x".repeat(3000) }));
    let mut homeless = letter(5, &event(5));
    homeless.source_topic = "gone".to_owned();
    bench.refuse(&[capped, not_json, absent, huge, homeless, letter(6, &event(6))]).await;
    let foreign = NewRecord {
        key: None,
        value: Bytes::from_static(b"{}"),
        headers: Default::default(),
        timestamp: Timestamp::EPOCH,
    };
    bench.log.produce(DLQ, vec![foreign]).await.remove(0).unwrap();
    let action = Action::Replay { fix: set(json!({ "fixed": true })), again: false };
    let progress = bench.run(&Order { action, ..replay() }).await;
    let expected = json!({
        "refused_cap": 1, "not_fixable": 1, "not_replayable": 1, "too_large": 1, "no_source_topic": 1,
        "replayed": 1, "unreadable": 1,
    });
    assert_eq!(progress["outcomes"], expected);
    assert_eq!(bench.event_ids().await, ["e6"]);
}

#[tokio::test]
async fn only_what_is_selected_and_in_reach_is_touched() {
    let bench = bench().await;
    let theirs = json!({ "id": "t", "project_id": "proj_b", "environment_id": "env_b" });
    let elsewhere = json!({ "id": "x", "project_id": "proj_a", "environment_id": "env_dev" });
    let nobodys = json!({ "id": "n" });
    let mut other_kind = letter(9, &event(9));
    other_kind.error_kind = ErrorKind::OutOfRange;
    bench
        .refuse(&[
            letter(0, &event(0)),
            letter(1, &theirs),
            letter(2, &nobodys),
            letter(3, &elsewhere),
            other_kind,
        ])
        .await;
    let scope = Some(Scope::new("proj_a", "env_a"));
    let mine = Order { scope, dry_run: true, ..replay() };
    assert_eq!(bench.run(&mine).await["outcomes"], json!({ "replayed": 2 }));
    let selections = [
        Selection { error_kind: Some(ErrorKind::OutOfRange), ..Selection::default() },
        Selection { since: Some(Timestamp::from_millis(1_600_000_009_000)), ..Selection::default() },
        Selection { ids: ["events-0-9".to_owned(), "events-0-1".to_owned()].into(), ..Selection::default() },
    ];
    for selection in selections {
        let order = Order { selection, ..mine.clone() };
        assert_eq!(bench.run(&order).await["samples"][0]["id"], "events-0-9");
    }
    let until = Selection { until: Some(Timestamp::from_millis(1_600_000_001_000)), ..Selection::default() };
    let order = Order { selection: until, dry_run: true, ..replay() };
    assert_eq!(bench.run(&order).await["outcomes"], json!({ "replayed": 1 }));
    let topic = Selection { topic: Some("others".to_owned()), ..Selection::default() };
    assert_eq!(bench.run(&Order { selection: topic, ..replay() }).await["outcomes"], json!({}));
}

#[tokio::test]
async fn max_bounds_what_is_acted_on_also_across_jobs() {
    let bench = bench().await;
    bench.refuse_events(0..10).await;
    let order = Order { max: Some(4), ..replay() };
    assert_eq!(bench.run(&order).await["outcomes"], json!({ "replayed": 4 }));
    assert_eq!(bench.events().await.len(), 4);
    assert_eq!(bench.run(&order).await["outcomes"]["replayed"], 4);
    assert_eq!(bench.event_ids().await.len(), 8);
}

#[tokio::test]
async fn the_log_and_the_ledger_may_fail_at_any_time_and_each_event_is_written_back() {
    let bench = bench().await;
    bench.refuse_events(0..9).await;
    bench.log.script(Operation::Describe, [Fault::Refuse]);
    bench.log.script(Operation::Fetch, [Fault::Pass, Fault::Refuse]);
    bench.log.script(Operation::Produce, [Fault::Refuse, Fault::Pass, Fault::Full]);
    bench.ledger.refuse_reads.store(1, Ordering::SeqCst);
    let id = bench.start(&replay()).await;
    let job = bench.finish(&id).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:?}");
    assert_eq!(job.progress.unwrap()["outcomes"], json!({ "replayed": 9 }));
    assert_eq!(bench.event_ids().await.len(), 9, "no fault here loses an answer");
}

#[tokio::test]
async fn a_crash_between_writing_back_and_noting_it_repeats_one_page_at_most() {
    let bench = bench().await;
    bench.refuse_events(0..9).await;
    bench.ledger.refuse_writes.store(1, Ordering::SeqCst);
    let id = bench.start(&replay()).await;
    assert_eq!(bench.finish(&id).await.progress.unwrap()["outcomes"], json!({ "replayed": 9 }));
    let mut ids = bench.event_ids().await;
    assert!(ids.len() > 9 && ids.len() <= 12, "{ids:?}");
    ids.dedup();
    assert_eq!(ids.len(), 9);
}

#[tokio::test]
async fn the_same_dead_letter_written_twice_is_replayed_once() {
    let bench = bench_with(2).await;
    let twice = letter(1, &event(1));
    bench.refuse(&[twice.clone(), twice.clone(), letter(2, &event(2)), twice]).await;
    bench.run(&replay()).await;
    assert_eq!(bench.event_ids().await, ["e1", "e2"]);
}

#[tokio::test]
async fn a_discarded_dead_letter_is_not_replayed() {
    let bench = bench().await;
    bench.refuse_events(0..4).await;
    let one = Selection { ids: ["events-0-2".to_owned()].into(), ..Selection::default() };
    let progress = bench.run(&Order { selection: one, ..discard() }).await;
    assert_eq!(progress["outcomes"], json!({ "discarded": 1 }));
    assert_eq!(bench.run(&replay()).await["outcomes"], json!({ "replayed": 3, "already_discarded": 1 }));
    assert_eq!(
        bench.run(&discard()).await["outcomes"],
        json!({ "already_replayed": 3, "already_discarded": 1 })
    );
    assert_eq!(bench.event_ids().await, ["e0", "e1", "e3"]);
}

#[tokio::test]
async fn dead_letters_that_arrive_while_a_replay_runs_are_not_its_business() {
    let bench = bench().await;
    bench.refuse_events(0..2).await;
    let id = bench.start(&Order { rate: Some(1), ..replay() }).await;
    let worker = bench.worker();
    tokio::select! {
        ran = worker.run_one() => panic!("it waits a second after its first: {ran:?}"),
        () = async {
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while bench.events().await.is_empty() {
                assert!(tokio::time::Instant::now() < deadline, "nothing was replayed");
                tokio::task::yield_now().await;
            }
        } => {}
    }
    bench.refuse_events(3..6).await;
    bench.clock.advance(Duration::from_secs(60));
    assert_eq!(bench.finish(&id).await.progress.unwrap()["outcomes"], json!({ "replayed": 2 }));
    assert_eq!(bench.event_ids().await, ["e0", "e1"]);
}

#[tokio::test]
async fn what_retention_deleted_is_counted_and_passed_over() {
    let bench = bench().await;
    let same_key = |n: i64| DeadLetter { key: Some(Bytes::from_static(b"k")), ..letter(n, &event(n)) };
    bench.refuse(&[same_key(0), same_key(1), same_key(2), same_key(3)]).await;
    let id = bench.start(&replay()).await;
    let worker = bench.worker();
    bench.ledger.refuse_reads.store(1, Ordering::SeqCst);
    assert!(worker.run_one().await.unwrap(), "the ranges are fixed, the first page failed");
    for partition in 0..2 {
        bench.log.delete_records_before(&TopicPartition::new(DLQ, partition), 2);
    }
    bench.clock.advance(Duration::from_secs(60));
    let progress = bench.finish(&id).await.progress.unwrap();
    assert_eq!(progress["outcomes"], json!({ "expired": 2, "replayed": 2 }));
}

#[tokio::test]
async fn a_dlq_topic_made_again_ends_the_job_and_does_not_replay_other_records() {
    let bench = bench().await;
    bench.refuse_events(0..3).await;
    let id = bench.start(&replay()).await;
    bench.ledger.refuse_reads.store(1, Ordering::SeqCst);
    assert!(bench.worker().run_one().await.unwrap());
    let spec = TopicSpec {
        name: DLQ.into(),
        partitions: 2,
        retention: Retention::default(),
        record_bytes_max: 100_000,
        required_groups: Vec::new(),
    };
    bench.log.delete_topic(DLQ).await.unwrap();
    bench.log.create_topics(&[spec]).await.unwrap();
    bench.refuse_events(10..13).await;
    bench.clock.advance(Duration::from_secs(60));
    let job = bench.finish(&id).await;
    assert_eq!(job.state, JobState::Failed);
    assert!(job.error.unwrap().contains("gone with the DLQ topic"));
    assert_eq!(bench.events().await, []);
}

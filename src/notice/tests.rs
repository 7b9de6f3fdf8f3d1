//! Telling on a log that fails on demand and a database that goes away.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::config::{Config, Sources, load};
use crate::event::{ManualClock, RandomIds, Scope, SystemEventKind};
use crate::eventlog::{
    Fault, FetchFrom, FetchLimits, MemoryLog, Operation, Retention, TopicPartition, TopicSpec,
};
use crate::lifecycle::Health;

pub(super) struct Bench {
    log: Arc<MemoryLog>,
    config: Config,
    clock: Arc<ManualClock>,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        let log = Arc::new(MemoryLog::new(clock.clone(), Arc::new(RandomIds)));
        let mut config = load(&Sources::default()).unwrap().config;
        config.webhook.unsent_max = 3;
        Self { log, config, clock, folder: tempfile::tempdir().unwrap() }
    }

    pub(super) async fn with_topic() -> Self {
        let bench = Self::new();
        bench.make_topic().await;
        bench
    }

    async fn make_topic(&self) {
        let spec = TopicSpec {
            name: self.config.topics.system_events.as_str().into(),
            partitions: 1,
            retention: Retention::default(),
            required_groups: Vec::new(),
            record_bytes_max: 1 << 20,
        };
        self.log.create_topics(&[spec]).await.unwrap();
    }

    /// What a process has.
    pub(super) async fn process(&self) -> Notices {
        let health = Health::new(self.clock.clone());
        let (folder, ids) = (self.folder.path(), Arc::new(RandomIds));
        let meta =
            Meta::open(&self.config.meta, folder, self.clock.clone(), ids.clone(), &health).await.unwrap();
        meta.migrate().await.unwrap();
        Notices::new(self.log.clone(), meta, &self.config, self.clock.clone(), ids)
    }

    /// What the topic has, with its keys.
    async fn records(&self) -> Vec<(String, SystemEventRecord)> {
        let topics = self.log.topics().await.unwrap();
        let Some(topic) = topics.first() else { return Vec::new() };
        let from = FetchFrom {
            topic_partition: TopicPartition::new(topic.name.clone(), 0),
            topic_id: topic.id,
            offset: 0,
        };
        let limits =
            FetchLimits { wait_max: Duration::ZERO, partition_bytes_max: 1 << 20, bytes_max: 1 << 20 };
        let fetched = self.log.fetch(&[from], limits).await.unwrap();
        let records = fetched.into_iter().flat_map(|part| part.outcome.unwrap().records);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let read = |value: &[u8]| serde_json::from_slice::<SystemEventRecord>(value).unwrap();
        records.map(|record| (text(&record.key.unwrap()), read(&record.value.unwrap()))).collect()
    }

    /// Payloads and ids of what the topic has.
    pub(super) async fn told(&self) -> Vec<(Value, String)> {
        self.records().await.into_iter().map(|(_, event)| (event.payload, event.id)).collect()
    }

    async fn payloads(&self) -> Vec<Value> {
        self.told().await.into_iter().map(|(payload, _)| payload).collect()
    }
}

fn event(n: u64) -> SystemEvent {
    let scope = Scope::new("p", "e");
    SystemEvent::of_scope(SystemEventKind::EventUnmetered, scope, json!(n))
}

#[tokio::test]
async fn what_was_told_while_the_topic_was_missing_is_told_once_it_is_there_also_by_another_process() {
    let bench = Bench::new();
    let first = bench.process().await;
    first.tell(vec![event(1)]).await;
    // What is told in one moment has no order.
    bench.clock.advance(Duration::from_millis(1));
    first.tell(vec![event(2)]).await;
    assert!(matches!(first.pass_on().await, Err(NotTold::Log(LogError::TopicMissing(_)))));
    assert_eq!(first.0.meta.notices().count().await.unwrap(), 2);
    drop(first);
    let second = bench.process().await;
    bench.make_topic().await;
    second.pass_on().await.unwrap();
    second.pass_on().await.unwrap();
    assert_eq!(bench.payloads().await, [json!(1), json!(2)]);
    assert!(
        bench.records().await.iter().all(|(key, _)| key == "p"),
        "also of a project that nobody has here"
    );
    assert_eq!(second.0.meta.notices().count().await.unwrap(), 0);
}

#[tokio::test]
async fn a_log_that_refuses_or_loses_its_answer_is_told_again_under_the_same_id() {
    let bench = Bench::with_topic().await;
    let notices = bench.process().await;
    bench.log.script(Operation::Produce, [Fault::Refuse, Fault::Full, Fault::LoseAnswer]);
    notices.tell(vec![event(1)]).await;
    for _ in 0..3 {
        assert!(notices.pass_on().await.is_err());
    }
    notices.pass_on().await.unwrap();
    let told = bench.told().await;
    assert_eq!(told.len(), 2, "the one whose answer was lost, and again");
    assert_eq!(told[0], told[1]);
}

#[tokio::test]
async fn without_the_database_the_log_is_told_at_once_and_what_it_refuses_waits_in_memory() {
    let bench = Bench::with_topic().await;
    let notices = bench.process().await;
    notices.0.meta.close().await;
    notices.tell(vec![event(1)]).await;
    assert_eq!(bench.payloads().await, [json!(1)]);
    bench.log.script(Operation::Produce, [Fault::Refuse, Fault::Refuse, Fault::Refuse]);
    notices.tell(vec![event(2), event(3)]).await;
    // One more than there is room for.
    notices.tell(vec![event(4), event(5)]).await;
    assert!(matches!(notices.pass_on().await, Err(NotTold::Meta(_))), "tried, and refused again");
    assert_eq!(bench.payloads().await.len(), 1);
    assert!(notices.pass_on().await.is_err(), "the database is still away");
    assert_eq!(bench.payloads().await, [json!(1), json!(2), json!(3), json!(4)]);
}

#[tokio::test]
async fn no_more_is_kept_than_there_is_room_for() {
    let bench = Bench::new();
    let notices = bench.process().await;
    notices.tell((0..5).map(event).collect()).await;
    notices.tell(vec![event(9)]).await;
    assert_eq!(notices.0.meta.notices().count().await.unwrap(), 3);
}

#[tokio::test]
async fn what_several_processes_tell_of_the_same_thing_has_one_id_and_other_things_have_others() {
    let bench = Bench::new();
    let (one, other) = (bench.process().await, bench.process().await);
    let id = |notices: &Notices, event: SystemEvent| notices.note(event).id;
    let about = |words: &str| event(1).once(words.to_owned());
    assert_eq!(id(&one, about("a")), id(&other, about("a")));
    let elsewhere =
        SystemEvent::of_scope(SystemEventKind::EventUnmetered, Scope::new("p", "other"), json!(1));
    let ids = [
        id(&one, about("a")),
        id(&one, about("b")),
        id(&one, elsewhere.once("a".to_owned())),
        id(&one, event(1)),
        id(&one, event(1)),
    ];
    assert_eq!(BTreeSet::from(ids).len(), 5);
    one.tell(vec![about("a")]).await;
    other.tell(vec![about("a")]).await;
    assert_eq!(one.0.meta.notices().count().await.unwrap(), 1);
}

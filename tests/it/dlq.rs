//! The index of dead letters against a real engine.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flexflow::config::Config;
use flexflow::consumer::{self, ConsumerDeps, Control, Warehouse};
use flexflow::dlq::{DeadLetter, Dlq, Entry, Filter, Index, Ledger as _, Origin, Refusal, Status};
use flexflow::event::{Clock, ErrorKind, RandomIds, Scope, SystemClock, Timestamp};
use flexflow::eventlog::{
    EventLog, Header, MemoryLog, Position, Record, Retention, TopicId, TopicPartition, TopicSpec,
};
use flexflow::lifecycle::{ComponentState, Policy, Stop, Tasks};
use flexflow::person::People;
use tokio::time::Instant;
use uuid::Uuid;

use crate::support::just_now;
use crate::support::store::TestStore;

const DLQ: &str = "events-dlq";

fn letter(offset: i64, project: &str, message: &str) -> DeadLetter {
    let event = format!(r#"{{"id":"e{offset}","project_id":"{project}","environment_id":"env_a"}}"#);
    let record = Record {
        offset,
        timestamp: just_now(),
        key: Some(Bytes::from_static(b"ann")),
        value: Some(event.into()),
        headers: [Header { name: "producer".into(), value: Bytes::from_static(b"capture") }].into(),
    };
    let refusal = Refusal {
        source: &TopicPartition::new("events", 1),
        source_topic_id: TopicId(Uuid::from_u128(1)),
        stage: "event-consumers",
        kind: ErrorKind::InvalidField,
        message,
        attempts: 1,
        at: Timestamp::from_millis(1_800_000_000_000 + offset),
    };
    DeadLetter::of(&record, &refusal)
}

fn entry(letter: &DeadLetter, status: Status, version: u64) -> Entry<'_> {
    Entry {
        letter,
        dlq_topic_id: TopicId(Uuid::from_u128(2)),
        dlq_position: Position { partition: 0, offset: letter.source_offset },
        status,
        status_at: letter.dlq_ts,
        reason: "",
        job_id: if status == Status::Open { "" } else { "job_1" },
        version,
    }
}

#[tokio::test]
async fn the_index_lists_counts_and_keeps_what_became_of_each_dead_letter() {
    let test = TestStore::start().await;
    let index = Index::new(test.store.clone());
    let hostile = "it's \\ a 'message'\n\0 with ${} -- and ; everything \u{1F600}";
    let letters: Vec<DeadLetter> =
        (0..7).map(|n| letter(n, if n == 6 { "proj_b" } else { "proj_a" }, hostile)).collect();
    let open: Vec<Entry<'_>> = letters.iter().map(|letter| entry(letter, Status::Open, 0)).collect();
    index.write(&open).await.unwrap();
    index.write(&[entry(&letters[2], Status::Replayed, 1)]).await.unwrap();
    // The indexer comes late, or twice: what became of a dead letter stands.
    index.write(&open).await.unwrap();

    let scope = Scope::new("proj_a", "env_a");
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = index.list(Some(&scope), &Filter::default(), after.as_ref(), 4).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.position());
        seen.extend(page.into_iter().map(|listed| (listed.id, listed.status)));
    }
    let open_one = |n: i64| (format!("events-1-{n}"), "open".to_owned());
    let replayed = ("events-1-2".to_owned(), "replayed".to_owned());
    assert_eq!(seen, [open_one(5), open_one(4), open_one(3), replayed, open_one(1), open_one(0)]);

    let found = index.find(Some(&scope), "events", 1, 2).await.unwrap().unwrap();
    assert_eq!((found.error_message.as_str(), found.job_id.as_deref()), (hostile, Some("job_1")));
    assert_eq!((found.dlq_offset, found.source_topic_id), (2, Uuid::from_u128(1)));
    assert!(found.raw_head.contains(r#""id":"e2""#));
    assert_eq!(index.find(Some(&scope), "events", 1, 6).await.unwrap(), None, "another project's");
    assert!(index.find(None, "events", 1, 6).await.unwrap().is_some());

    let counts = index.counts(Some(&scope), &Filter::default()).await.unwrap();
    let counts: Vec<_> = counts.iter().map(|count| (count.status.as_str(), count.dead_letters)).collect();
    assert_eq!(counts, [("open", 5), ("replayed", 1)]);

    let origins: Vec<Origin> = letters.iter().map(Origin::of).collect();
    let standings = index.standings(&origins).await.unwrap();
    assert_eq!(standings.len(), 7);
    assert_eq!((standings[&origins[2]].status, standings[&origins[2]].version), (Status::Replayed, 1));
    let other = Origin { topic_id: TopicId(Uuid::from_u128(9)), ..origins[2].clone() };
    assert_eq!(index.standings(&[other]).await.unwrap(), HashMap::new(), "of another incarnation");
    test.store.close(Duration::from_secs(20)).await;
}

#[tokio::test]
async fn a_page_of_the_most_rows_goes_in_at_once() {
    let test = TestStore::start().await;
    let index = Index::new(test.store.clone());
    let letters: Vec<DeadLetter> = (0..1200).map(|n| letter(n, "proj_a", &"m".repeat(1024))).collect();
    let entries: Vec<Entry<'_>> = letters.iter().map(|letter| entry(letter, Status::Open, 0)).collect();
    index.write(&entries).await.unwrap();
    assert_eq!(index.counts(None, &Filter::default()).await.unwrap()[0].dead_letters, 1200);
    let origins: Vec<Origin> = letters.iter().map(Origin::of).collect();
    assert_eq!(index.standings(&origins).await.unwrap().len(), 1200);
    test.store.close(Duration::from_secs(20)).await;
}

#[tokio::test]
async fn the_list_catches_up_with_the_topic_passes_over_what_is_foreign_and_commits() {
    let test = TestStore::start().await;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let log = MemoryLog::new(clock.clone(), Arc::new(RandomIds));
    let spec = TopicSpec {
        name: DLQ.into(),
        partitions: 3,
        retention: Retention::default(),
        record_bytes_max: 1 << 20,
        required_groups: vec![flexflow::dlq::index_group(DLQ).into()],
    };
    log.create_topics(&[spec]).await.unwrap();
    let config = Arc::new(Config::from_overrides(&[]).unwrap());
    let dlq = Dlq::new(Arc::new(log.clone()), test.store.clone(), &config, clock.clone());
    let tasks = Tasks::new(Stop::default());
    let people = People::new(test.store.clone(), &config, clock.clone(), Arc::new(RandomIds));
    let warehouse = Warehouse { store: test.store.clone(), people };
    let deps = ConsumerDeps {
        log: Arc::new(log.clone()),
        sink: Arc::new(warehouse),
        config,
        clock,
        ids: Arc::new(RandomIds),
        health: test.health.clone(),
        tasks: tasks.clone(),
        control: Control::default(),
        schemas: None,
    };
    let stop = tasks.stop().clone();
    tasks.spawn("dlq_index", Policy::Shutdown, move || consumer::run_index(deps.clone(), stop.clone()));
    for batch in 0..3 {
        let records = (batch * 10..batch * 10 + 10)
            .map(|n| letter(n, "proj_a", "bad").to_record(1 << 20))
            .chain([flexflow::eventlog::NewRecord {
                key: None,
                value: Bytes::from_static(b"foreign"),
                headers: Default::default(),
                timestamp: just_now(),
            }])
            .collect();
        for result in log.produce(DLQ, records).await {
            result.unwrap();
        }
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while dlq.index_lag().await.unwrap() > 0 {
        assert!(Instant::now() < deadline, "the index does not catch up");
        tokio::task::yield_now().await;
    }
    let listed = dlq.index().list(None, &Filter::default(), None, 100).await.unwrap();
    assert_eq!(listed.len(), 30);
    assert_eq!(test.health.get("dlq_index").unwrap().state, ComponentState::Up);
    // Of the records in the topic, the foreign ones made no dead letters of their own.
    let ends = log.topics().await.unwrap()[0].partitions.iter().map(|ends| ends.end).sum::<i64>();
    assert_eq!(ends, 33);
    let envelope = dlq.envelope(&listed[0]).await.unwrap().unwrap();
    assert!(envelope.get().contains(r#""source_offset":29"#), "{envelope}");
    tasks.stop().soft();
    assert!(tasks.drained(Duration::from_secs(20)).await);
    assert_eq!(tasks.failure(), None);
    test.store.close(Duration::from_secs(20)).await;
}

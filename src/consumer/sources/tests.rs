//! What each decoder makes of a record, and handing it on over the log in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::config::Config;
use crate::consumer::tests::{Fixture, topic};
use crate::event::{ErrorKind, Timestamp};
use crate::lifecycle::{ComponentState, Tasks};

const SOURCES: &str = r#"[
    { topic = "own", decoder = "flexflow" },
    { topic = "clicks", decoder = "flexprice", project_id = "p0", environment_id = "e0" },
    { topic = "collected", decoder = "flexprice_raw" },
    { topic = "raw", decoder = "raw", project_id = "p0", environment_id = "e0" },
]"#;

fn reader() -> SourceReader {
    SourceReader::new(&Config::from_overrides(&[("consumer.sources", SOURCES)]).expect("settings"))
}

fn record(value: impl Into<Bytes>) -> Record {
    Record {
        offset: 7,
        timestamp: Timestamp::from_millis(1_000),
        key: None,
        value: Some(value.into()),
        headers: Default::default(),
    }
}

fn read(topic: &str, value: &Value) -> Vec<Made> {
    let at = TopicPartition::new(topic, 3);
    reader().read(&at, &record(value.to_string())).unwrap_or_else(|refused| panic!("{refused:?}"))
}

fn refusal(topic: &str, value: impl Into<Bytes>) -> (ErrorKind, String) {
    let refused = reader().read(&TopicPartition::new(topic, 3), &record(value)).expect_err("refused");
    (refused.kind, refused.message)
}

fn value(made: &Made) -> Value {
    serde_json::from_slice(&made.record.value).unwrap()
}

fn click(id: &str) -> Value {
    json!({"id": id, "event_name": "click", "external_customer_id": "acme", "timestamp": "2026-01-31T12:00:00Z",
           "ingested_at": "0001-01-01T00:00:00Z", "properties": {"n": 1.50}})
}

#[test]
fn events_go_on_as_capture_would_have_written_them() {
    let made = read("clicks", &click("a"));
    let [one] = made.as_slice() else { panic!("one event: {made:?}") };
    assert_eq!((one.target, one.id.as_str()), (Target::Events, "a"));
    assert_eq!(
        one.record.key.as_deref(),
        Some(&b"acme"[..]),
        "keyed by the distinct id, whatever the message's key"
    );
    let expected = json!({
        "id": "a", "project_id": "p0", "environment_id": "e0", "event_name": "click", "distinct_id": "acme",
        "timestamp": "2026-01-31T12:00:00.000Z", "received_at": "1970-01-01T00:00:01.000Z", "schema_version": 1,
        "properties": {"n": 1.50}
    });
    assert_eq!(value(one), expected, "the log's time of the record is the time of receipt");
    let producer = one.record.headers.iter().find(|header| &*header.name == "producer").unwrap();
    assert_eq!(&producer.value[..], b"clicks");
}

#[test]
fn a_message_of_many_becomes_as_many_events_where_the_message_says_or_each_of_them() {
    let mut own = click("b");
    own["tenant_id"] = json!("p2");
    own["environment_id"] = json!("e2");
    let message = json!({"events": [click("a"), own], "tenant_id": "p1", "environment_id": "e1"});
    let made = read("clicks", &message);
    let told: Vec<_> = made.iter().map(|made| (made.id.as_str(), made.scope.project.as_str())).collect();
    assert_eq!(told, [("a", "p1"), ("b", "p2")]);
    let unsaid = read("clicks", &json!({"events": [click("a")]}));
    assert_eq!(unsaid[0].scope.project.as_str(), "p0");
}

#[test]
fn payloads_keep_their_bytes_and_one_without_an_id_has_the_same_whenever_it_is_read() {
    let text = r#"{"orgId": "acme", "cost" : 0.10}"#;
    let at = TopicPartition::new("raw", 3);
    let first = reader().read(&at, &record(text)).unwrap();
    assert_eq!(first, reader().read(&at, &record(text)).unwrap());
    assert_eq!(first[0].target, Target::RawEvents);
    assert!(String::from_utf8_lossy(&first[0].record.value).ends_with(&format!("\"payload\":{text}}}")));
    let later = Record { timestamp: Timestamp::from_millis(2_000), ..record(text) };
    assert_ne!(first[0].id, reader().read(&at, &later).unwrap()[0].id, "the topic was made again");
    assert_eq!(read("raw", &json!({"id": "r1"}))[0].id, "r1");

    let message = json!({"data": [{"a": 1}, {"a": 1}], "tenant_id": "p1", "environment_id": "e1"});
    let made = read("collected", &message);
    assert_eq!((made.len(), made[0].scope.project.as_str()), (2, "p1"));
    assert_ne!(made[0].id, made[1].id, "equal payloads of one message are two");
}

#[test]
fn what_no_event_can_be_made_of_is_refused_with_its_place() {
    let cases: [(&str, Value, ErrorKind, &str); 8] = [
        ("own", json!({"id": "a"}), ErrorKind::MissingField, "timestamp"),
        ("clicks", json!({"id": "a"}), ErrorKind::MissingField, "timestamp"),
        (
            "clicks",
            json!({"events": [click("a"), {"id": "b"}]}),
            ErrorKind::MissingField,
            "events[1]: timestamp",
        ),
        ("clicks", json!({"events": []}), ErrorKind::InvalidField, "0 entries"),
        ("collected", json!({"a": 1}), ErrorKind::MissingField, "data is absent"),
        ("collected", json!({"data": [{}]}), ErrorKind::MissingField, "tenant_id"),
        (
            "collected",
            json!({"data": [[]], "tenant_id": "p", "environment_id": "e"}),
            ErrorKind::InvalidJson,
            "data[0]",
        ),
        ("raw", json!([1]), ErrorKind::InvalidJson, "object"),
    ];
    for (topic, value, kind, words) in cases {
        let (found, message) = refusal(topic, value.to_string());
        assert_eq!(found, kind, "{topic} {value}: {message}");
        assert!(message.contains(words), "{message:?} should name {words:?}");
    }
    assert_eq!(refusal("raw", "").0, ErrorKind::EmptyRecord);
    assert_eq!(refusal("raw", &b"\xff"[..]).0, ErrorKind::InvalidJson);
    let large = json!({"id": "a", "text": "x".repeat(3 << 20)}).to_string();
    assert!(refusal("raw", large).1.contains("eventlog.record_bytes_max"));
}

#[tokio::test]
async fn a_record_counts_as_done_with_only_once_its_events_stand_in_the_topic_behind() {
    let fixture = Fixture::with(&[("consumer.sources", SOURCES), ("consumer.backoff_max", "300ms")]).await;
    for name in ["own", "clicks", "collected", "raw", "raw_events"] {
        fixture.log.create_topics(&[topic(name)]).await.unwrap();
    }
    fixture.log.delete_topic("events").await.unwrap();
    let click = |id: &str| NewRecord {
        key: None,
        value: click(id).to_string().into(),
        headers: Default::default(),
        timestamp: Timestamp::from_millis(5),
    };
    let poison = NewRecord { value: Bytes::from_static(b"{"), ..click("x") };
    for outcome in fixture.log.produce("clicks", vec![click("a"), poison, click("b")]).await {
        outcome.unwrap();
    }
    let tasks = Tasks::new(Stop::default());
    let (deps, stop) = (fixture.deps(&tasks), tasks.stop().clone());
    let work = tasks.spawn_bounded(run(deps, stop));
    let done = async || {
        let committed = fixture.log.committed("source-consumers").await.unwrap();
        committed.iter().filter(|(at, _)| &*at.topic == "clicks").map(|(_, offset)| *offset).sum::<i64>()
    };
    fixture.stage_is("sources", ComponentState::Down, "events").await;
    assert_eq!(done().await, 0, "nothing behind takes it");
    fixture.log.create_topics(&[topic("events")]).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while done().await < 3 {
        assert!(Instant::now() < deadline, "{:?}", fixture.health.get("sources"));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let ends: BTreeMap<String, i64> = fixture
        .log
        .topics()
        .await
        .unwrap()
        .into_iter()
        .map(|topic| (topic.name.to_string(), topic.partitions.iter().map(|part| part.end).sum()))
        .collect();
    assert_eq!((ends["events"], ends["events-dlq"]), (2, 1));
    tasks.stop().soft();
    work.await.unwrap().unwrap();
}

//! The list of events, the trace of one, and the names there are.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flexflow::dlq::{DeadLetter, Refusal};
use flexflow::event::{ErrorKind, IdSource, RandomIds, Timestamp};
use flexflow::eventlog::{EventLog, NewRecord, Record, Retention, TopicPartition, TopicSpec};
use serde_json::{Value, json};

use super::{Given, NOW, Sandbox, given, rest};

fn ids(page: &Value) -> Vec<String> {
    page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["event_id"].as_str().unwrap().to_owned())
        .collect()
}

/// Newest first; events of one millisecond by name.
fn stream() -> Vec<Given> {
    (0..300_i64)
        .map(|index| {
            // Three events a millisecond, some hours apart, over four months.
            let at = Timestamp::parse(NOW).unwrap().as_millis() - (index / 3) * 29 * 3_600_000;
            let event = ["a", "b", "c"][usize::try_from(index % 3).unwrap()];
            given(
                format!("id-{index}"),
                event,
                &format!("p{}", index % 7),
                &Timestamp::from_millis(at).to_string(),
                "{}",
            )
        })
        .collect()
}

#[actix_web::test]
async fn pages_neither_repeat_nor_skip_while_events_arrive() {
    let sandbox = Sandbox::start().await;
    let events = stream();
    for part in events.chunks(120) {
        sandbox.insert("env_a", part).await;
    }
    sandbox.insert("env_b", &events[..50]).await;
    let mut found = Vec::new();
    let mut cursor = String::new();
    for round in 0.. {
        let (status, page) = sandbox.get("env_a", &format!("/api/query/events?limit=7{cursor}")).await;
        assert_eq!(status, 200, "{page}");
        found.extend(ids(&page));
        // Newer events, the page's own events once more (in another part), and some ahead of the clock.
        let at = Timestamp::parse(NOW).unwrap().plus(Duration::from_secs(round));
        sandbox.insert("env_a", &[given(format!("new-{round}"), "b", "p", &at.to_string(), "{}")]).await;
        let again: Vec<Given> =
            events.iter().filter(|event| found.contains(&event.id)).take(20).cloned().collect();
        sandbox.insert("env_a", &again).await;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let mut expected = events;
    expected.sort_by(|a, b| (b.at, &b.event).cmp(&(a.at, &a.event)));
    assert_eq!(found, expected.iter().map(|event| event.id.clone()).collect::<Vec<_>>());
    sandbox.end().await;
}

/// All pages of a list: the ids and properties, in order.
async fn walk(sandbox: &Sandbox, question: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let (status, page) =
            sandbox.get("env_a", &format!("/api/query/events?limit=7{question}{cursor}")).await;
        assert_eq!(status, 200, "{question}: {page}");
        let events = page["events"].as_array().unwrap();
        let properties = events.iter().map(|event| event["properties"].to_string());
        found.extend(ids(&page).into_iter().zip(properties));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

#[actix_web::test]
async fn days_at_rest_have_the_pages_that_they_had_before_and_what_comes_to_them_is_seen_at_once() {
    let sandbox = Sandbox::start().await;
    let mut events = stream();
    // A crowd within one millisecond: a page of seven ends amid it.
    let at = "2026-02-20T08:00:00.123Z";
    events.extend((0..40).map(|n| given(format!("crowd-{n}"), "b", &format!("p{}", n % 7), at, "{}")));
    sandbox.insert("env_a", &events).await;
    sandbox.insert("env_b", &events[..50]).await;
    // Some are corrected to another time of their day, and some deleted.
    let moved = |at: Timestamp| {
        let day = at.as_millis().div_euclid(86_400_000) * 86_400_000;
        Timestamp::from_millis(day + at.as_millis() / 7 % 86_400_000)
    };
    let corrected = events.iter().step_by(9).map(|event| Given {
        at: moved(event.at),
        properties: r#"{"n":2}"#.to_owned(),
        version: 1,
        ..event.clone()
    });
    let deleted = events.iter().skip(4).step_by(11);
    let deleted = deleted.map(|event| Given { version: 2, is_deleted: true, ..event.clone() });
    sandbox.insert("env_a", &corrected.chain(deleted).collect::<Vec<_>>()).await;
    let questions =
        ["", "&event=b", "&distinct_id=p3", "&date_from=2026-02-01&date_to=2026-03-01T05:00:00Z&event=b"];
    let mut before = Vec::new();
    for question in questions {
        before.push(walk(&sandbox, question).await);
    }
    rest(&sandbox).await;
    for (question, before) in questions.iter().zip(&before) {
        assert_eq!(walk(&sandbox, question).await, *before, "{question}");
    }
    assert!(before.iter().all(|found| found.len() > 7), "{before:?}");
    // All of them: of this name, this id, and in this time.
    let gone = Given { version: 3, is_deleted: true, ..events[10].clone() };
    let same_day = Given { id: "late".to_owned(), ..events[10].clone() };
    let late = given("later", "b", "p3", "2026-02-10T00:00:00Z", "{}");
    sandbox.insert("env_a", &[gone, same_day, late]).await;
    for (question, before) in questions.iter().zip(&before) {
        let after: Vec<String> = walk(&sandbox, question).await.into_iter().map(|(id, _)| id).collect();
        let mut wanted: Vec<String> = before.iter().map(|(id, _)| id.clone()).collect();
        if let Some(gone) = wanted.iter_mut().find(|id| **id == events[10].id) {
            "late".clone_into(gone);
        }
        assert!(after.contains(&"later".to_owned()), "{question}");
        let without: Vec<&String> = after.iter().filter(|id| **id != "later").collect();
        assert_eq!(without, wanted.iter().collect::<Vec<_>>(), "{question}");
    }
    sandbox.end().await;
}

#[actix_web::test]
async fn a_list_shows_the_version_that_counts_and_what_was_asked_for() {
    let sandbox = Sandbox::start().await;
    let first = given("one", "click", "ann", "2026-04-14T10:00:00Z", r#"{"n": 1.50}"#);
    let second = given("two", "view", "bob", "2026-04-14T11:00:00Z", "{}");
    let third = given("three", "click", "bob", "2026-04-10T10:00:00Z", "{}");
    sandbox.insert("env_a", &[first.clone(), second.clone(), third]).await;
    // Corrected: later the same day, with other properties. Deleted: a tombstone.
    let corrected = Given {
        at: Timestamp::parse("2026-04-14T12:00:00Z").unwrap(),
        properties: r#"{"n": 2}"#.to_owned(),
        version: 1,
        ..first
    };
    sandbox.insert("env_a", &[corrected]).await;
    sandbox.insert("env_a", &[Given { version: 1, is_deleted: true, ..second }]).await;
    let list = |query: &'static str| {
        let sandbox = &sandbox;
        async move {
            let (status, page) = sandbox.get("env_a", &format!("/api/query/events?{query}")).await;
            assert_eq!(status, 200, "{query}: {page}");
            page
        }
    };
    let page = list("").await;
    assert_eq!(ids(&page), ["one", "three"]);
    assert_eq!(page["next_cursor"], Value::Null);
    let event = &page["events"][0];
    assert_eq!(event["properties"].to_string(), r#"{"n":2}"#);
    assert_eq!(event["timestamp"], "2026-04-14T12:00:00.000Z");
    assert_eq!(event["log"]["topic"], "events");
    assert_eq!(event["session_id"], Value::Null);
    for (query, expected) in [
        ("event=click&event=view&distinct_id=bob", vec!["three"]),
        ("event=view", vec![]),
        ("date_from=2026-04-14", vec!["one"]),
        // The older version stood in this hour; it does not count any more.
        ("date_from=2026-04-14T09:00:00Z&date_to=2026-04-14T11:30:00Z", vec![]),
        ("date_to=2026-04-10", vec!["three"]),
        ("date_to=2026-04-10T09:59:59Z", vec![]),
        ("distinct_id=nobody", vec![]),
        ("limit=1", vec!["one"]),
    ] {
        assert_eq!(ids(&list(query).await), expected, "{query}");
    }
    let question = json!({
        "date_from": "2026-04-14T09:00:00Z", "date_to": "2026-04-14T11:30:00Z", "interval": "hour",
        "series": [{"event": "click"}], "breakdown": {"property": "n"},
    });
    assert_eq!(sandbox.trends("env_a", &question).await, Vec::<Value>::new());
    let next = list("limit=1").await["next_cursor"].as_str().unwrap().to_owned();
    for (query, field, part) in [
        ("limit=501".to_owned(), "limit", "500 (query.page_rows_max)"),
        ("limit=0".to_owned(), "limit", "1 to 500"),
        ("limit=x".to_owned(), "limit", "whole number"),
        ("evnt=a".to_owned(), "evnt", "did you mean event?"),
        ("date_from=2026-04-02&date_to=2026-04-01".to_owned(), "date_from", "backwards"),
        ("properties=[{\"kye\":1}]".to_owned(), "properties[0].kye", "did you mean key?"),
        (format!("event=other&cursor={next}"), "cursor", "begin again"),
    ] {
        let query = query.replace('"', "%22").replace('{', "%7B").replace('}', "%7D");
        let (status, problem) = sandbox.get("env_a", &format!("/api/query/events?{query}")).await;
        assert_eq!((status, problem["details"]["field"].as_str()), (400, Some(field)), "{query}: {problem}");
        assert!(problem["message"].as_str().unwrap().contains(part), "{query}: {problem}");
    }
    sandbox.end().await;
}

#[actix_web::test]
async fn names_tell_volume_and_when_they_were_last_seen() {
    let sandbox = Sandbox::start().await;
    let events = [
        given("1", "click", "ann", "2026-04-14T10:00:00Z", r#"{"plan":1,"x":{"deep":1}}"#),
        given("2", "click", "bob", "2026-04-15T10:00:00Z", r#"{"plan":null}"#),
        given("3", "view", "bob", "2026-04-13T10:00:00Z", "{}"),
        given("4", "old", "bob", "2026-01-01T10:00:00Z", r#"{"gone":1}"#),
    ];
    sandbox.insert("env_a", &events).await;
    sandbox.insert("env_a", &events).await;
    let (status, answer) = sandbox.get("env_a", "/api/query/names").await;
    assert_eq!(status, 200, "{answer}");
    let seen = |name: &str, volume: u64, at: &str| json!({"name": name, "volume": volume, "last_seen": at});
    let click = seen("click", 2, "2026-04-15T10:00:00.000Z");
    assert_eq!(answer["events"], json!([click, seen("view", 1, "2026-04-13T10:00:00.000Z")]));
    let plan = seen("plan", 2, "2026-04-15T10:00:00.000Z");
    assert_eq!(answer["properties"], json!([plan, seen("x", 1, "2026-04-14T10:00:00.000Z")]));
    assert_eq!(answer["meta"]["approximate"], false);
    assert_eq!(answer["meta"]["events_total"], 3);
    assert_eq!(answer["meta"]["truncated"], false);
    let (_, answer) =
        sandbox.get("env_a", "/api/query/names?date_from=2026-01-01&date_to=2026-01-01&limit=1").await;
    assert_eq!(answer["events"][0]["name"], "old");
    let (_, answer) = sandbox.get("env_a", "/api/query/names?limit=1").await;
    assert_eq!(
        (answer["meta"]["truncated"].as_bool(), answer["events"].as_array().unwrap().len()),
        (Some(true), 1)
    );
    sandbox.end().await;
}

fn record_of(id: &str, environment: &str) -> NewRecord {
    let value = json!({
        "id": id, "project_id": "proj", "environment_id": environment, "event_name": "click", "distinct_id": "ann",
        "timestamp": NOW, "received_at": NOW, "schema_version": 1,
    });
    let at = Timestamp::parse(NOW).unwrap();
    NewRecord {
        key: Some(Bytes::from("ann")),
        value: value.to_string().into(),
        headers: Default::default(),
        timestamp: at,
    }
}

#[actix_web::test]
async fn a_trace_follows_an_event_from_the_log_to_its_row_or_its_dead_letter() {
    let sandbox = Sandbox::start().await;
    let topic = |name: &str| TopicSpec {
        name: name.into(),
        partitions: 2,
        retention: Retention::default(),
        record_bytes_max: 1 << 20,
        required_groups: Vec::new(),
    };
    sandbox.log.create_topics(&[topic("events"), topic("events-dlq")]).await.unwrap();
    let trace = |id: &'static str| {
        let sandbox = &sandbox;
        async move {
            let (status, trace) = sandbox.get("env_a", &format!("/api/query/events/{id}/trace")).await;
            assert_eq!(status, 200, "{trace}");
            trace
        }
    };
    let steps = |trace: &Value| {
        let steps = trace["steps"].as_array().unwrap();
        steps.iter().map(|step| step["step"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    let nothing = trace("lost").await;
    assert_eq!(
        (nothing["status"].as_str(), nothing["backlog"]["lag"].as_i64()),
        (Some("not_found"), Some(0))
    );
    assert_eq!(nothing["meta"]["complete_to"], "2026-04-15T12:00:00.000Z");

    let produced =
        sandbox.log.produce("events", vec![record_of("new", "env_a"), record_of("else", "env_b")]).await;
    assert!(produced.iter().all(Result::is_ok));
    let waiting = trace("new").await;
    assert_eq!((waiting["status"].as_str(), waiting["backlog"]["lag"].as_i64()), (Some("in_log"), Some(2)));
    assert_eq!(steps(&waiting), "received logged");
    assert_eq!(trace("else").await["status"], "not_found", "of another environment");

    let row = given("new", "click", "ann", NOW, "{}");
    sandbox.insert("env_a", std::slice::from_ref(&row)).await;
    let stored = trace("new").await;
    assert_eq!(stored["status"], "stored");
    assert_eq!(steps(&stored), "received logged stored");
    assert_eq!(stored["rows"][0]["counts"], true);
    assert_eq!(stored["rows"][0]["log"]["partition"], 0);
    sandbox.insert("env_a", &[Given { version: 1, is_deleted: true, ..row }]).await;
    let deleted = trace("new").await;
    assert_eq!(
        (deleted["rows"].as_array().unwrap().len(), deleted["rows"][0]["is_deleted"].as_bool()),
        (2, Some(true))
    );

    dead_letter(&sandbox).await;
    let dead = trace("refused").await;
    assert_eq!(dead["status"], "dead_lettered");
    assert_eq!(dead["dead_letters"][0]["error_kind"], "out_of_range");
    assert_eq!(dead["dead_letters"][0]["id"], "events-1-9");
    assert_eq!(dead["dead_letters"][0]["status"], "open");
    assert_eq!(steps(&dead), "dead_lettered");
    sandbox.end().await;
}

async fn dead_letter(sandbox: &Sandbox) {
    let NewRecord { key, value, headers, timestamp } = record_of("refused", "env_a");
    let record = Record { offset: 9, timestamp, key, value: Some(value), headers };
    let ids: Arc<dyn IdSource> = Arc::new(RandomIds);
    let refusal = Refusal {
        source: &TopicPartition::new("events", 1),
        source_topic_id: flexflow::eventlog::TopicId(ids.uuid_v7(timestamp)),
        stage: "event-consumers",
        kind: ErrorKind::OutOfRange,
        message: "too large",
        attempts: 1,
        at: timestamp,
    };
    let letter = DeadLetter::of(&record, &refusal).to_record(1 << 20);
    // Written twice, as a crash between its acknowledgement and the commit would.
    let produced = sandbox.log.produce("events-dlq", vec![letter.clone(), letter]).await;
    assert!(produced.iter().all(Result::is_ok));
}

//! Schemas of events over the real application: kept in versions, held against events by capture and by the consumer.

use std::time::Duration;

use bytes::Bytes;
use flexflow::event::Timestamp;
use flexflow::eventlog::{FetchFrom, FetchLimits, NewRecord, TopicPartition};
use serde_json::{Value, json};

use crate::support::{Log, Sandbox, eventually, on_every_log};

fn price(kind: &str) -> Value {
    json!({"type": "object", "properties": {"price": {"type": kind}}, "required": ["price"]})
}

async fn states(sandbox: &Sandbox) -> Value {
    let sql = "SELECT event_id, schema_state FROM events ORDER BY event_id";
    let (status, answer) = sandbox.client.post("/api/query/sql", &json!({ "query": sql })).await;
    assert_eq!(status, 200, "{answer}");
    answer["results"].clone()
}

on_every_log! {
    events_are_held_against_the_schema_of_their_name
}

async fn events_are_held_against_the_schema_of_their_name(log: Log) {
    let sandbox = Sandbox::on(log).await;
    let client = &sandbox.client;
    let (status, made) =
        client.operator_post("/api/schemas", &json!({"event": "buy", "definition": price("number")})).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!((&made["policy"], &made["compatibility"]), (&json!("flag"), &json!("backward")));
    let path = format!("/api/schemas/{}", made["id"].as_str().unwrap());
    let (status, again) =
        client.operator_post("/api/schemas", &json!({"event": "buy", "definition": {}})).await;
    assert_eq!((status, &again["code"]), (409, &json!("already_exists")));

    // Flagged: accepted, told, marked.
    let (status, answer) = client
        .capture(&json!([
            {"event": "buy", "distinct_id": "ada", "event_id": "1", "properties": {"price": 1}},
            {"event": "buy", "distinct_id": "ada", "event_id": "2", "properties": {"price": "1"}},
            {"event": "see", "distinct_id": "ada", "event_id": "3"},
        ]))
        .await;
    assert_eq!((status, &answer["accepted"]), (202, &json!(3)), "{answer}");
    assert_eq!(answer["flagged"][0]["index"], 1, "{answer}");
    assert!(answer["flagged"][0]["message"].as_str().unwrap().contains("/price"), "{answer}");
    client.settled(3).await;
    assert_eq!(states(&sandbox).await, json!([["1", "1"], ["2", "flagged 1"], ["3", ""]]));

    // The next version has to take every event of this one.
    let next = json!({"definition": price("string")});
    let (status, verdict) = client.operator_post(&format!("{path}/check"), &next).await;
    assert_eq!((status, &verdict["compatible"]), (200, &json!(false)), "{verdict}");
    let (status, refused) = client.operator_post(&format!("{path}/versions"), &next).await;
    assert_eq!((status, &refused["details"]["field"]), (400, &json!("definition")), "{refused}");
    let wider =
        json!({"definition": {"type": "object", "properties": {"price": {"type": ["number", "string"]}}}});
    let (status, second) = client.operator_post(&format!("{path}/versions"), &wider).await;
    assert_eq!((status, second["versions"].as_array().unwrap().len()), (201, 2), "{second}");

    // Rejected by capture, by name; an event of the old version names it.
    let request = client.http.patch(format!("{}{path}", client.url)).bearer_auth(&client.operator_token);
    let changed = request.json(&json!({"policy": "reject"})).send().await.unwrap();
    assert_eq!(changed.status().as_u16(), 200);
    let (status, answer) = client
        .capture(&json!([
            {"event": "buy", "distinct_id": "ada", "event_id": "4", "properties": {"price": "1"}},
            {"event": "buy", "distinct_id": "ada", "event_id": "5", "properties": {"price": true}},
            {"event": "buy", "distinct_id": "ada", "event_id": "6", "properties": {"price": "1", "$schema_version": 1}},
        ]))
        .await;
    assert_eq!((status, &answer["accepted"]), (202, &json!(1)), "{answer}");
    let rejected = answer["rejected"].as_array().unwrap();
    assert_eq!(rejected.len(), 2, "{answer}");
    assert!(rejected.iter().all(|one| one["field"] == "properties"), "{answer}");

    another_producer(&sandbox).await;

    let deleted = client.http.delete(format!("{}{path}", client.url)).bearer_auth(&client.operator_token);
    assert_eq!(deleted.send().await.unwrap().status().as_u16(), 200);
    let (_, answer) =
        client.capture(&json!({"event": "buy", "distinct_id": "ada", "properties": {"price": true}})).await;
    assert_eq!((&answer["accepted"], &answer["flagged"]), (&json!(1), &Value::Null), "{answer}");
    sandbox.stop().await;
}

/// Another producer's record becomes a dead letter with its own reason.
async fn another_producer(sandbox: &Sandbox) {
    let client = &sandbox.client;
    let scope = sandbox.running.first_run().unwrap();
    let record = |id: &str, price: Value| {
        NewRecord {
        key: Some(Bytes::from_static(b"ada")),
        value: Bytes::from(
            json!({"id": id, "project_id": scope.project_id, "environment_id": scope.environment_id,
                   "event_name": "buy", "distinct_id": "ada", "timestamp": Timestamp::from_millis(1_700_000_000_000),
                   "received_at": Timestamp::from_millis(1_700_000_000_000), "schema_version": 1,
                   "properties": {"price": price}})
            .to_string(),
        ),
        headers: Default::default(),
        timestamp: Timestamp::from_millis(1_700_000_000_000),
    }
    };
    let records = vec![record("7", json!(true)), record("8", json!(8))];
    for outcome in sandbox.running.log().produce(&client.events_topic, records).await {
        outcome.unwrap();
    }
    client.settled(5).await;
    let found = eventually("the dead letter is listed", || async {
        let (_, letters) = client.operator_get("/api/dlq").await;
        match letters["dead_letters"].as_array().and_then(|all| all.first()) {
            Some(letter) => Ok(letter.clone()),
            None => Err(letters.to_string()),
        }
    })
    .await;
    assert_eq!(found["error_kind"], "schema_violation", "{found}");
    assert_eq!(
        states(sandbox).await,
        json!([["1", "1"], ["2", "flagged 1"], ["3", ""], ["4", "2"], ["8", "2"]])
    );
    // What is not stored is not handed on, either: "8" came after it, under the same key.
    let handed_on = eventually("the event after it is handed on", || async {
        let ids = handed_on(sandbox).await?;
        if ids.iter().any(|id| id == "8") { Ok(ids) } else { Err(format!("{ids:?}")) }
    })
    .await;
    assert!(!handed_on.iter().any(|id| id == "7"), "{handed_on:?}");
    assert_eq!(client.audit().await["balanced"], true);
}

/// The ids of the events that were handed on.
async fn handed_on(sandbox: &Sandbox) -> Result<Vec<String>, String> {
    let (log, [name, _]) = (sandbox.running.log(), sandbox.post_processing_topics());
    let topics = log.topics().await.map_err(|error| error.to_string())?;
    let topic = topics.into_iter().find(|topic| *topic.name == *name).ok_or("no topic")?;
    let from: Vec<FetchFrom> = (0..)
        .zip(&topic.partitions)
        .map(|(partition, _)| FetchFrom {
            topic_partition: TopicPartition::new(name.as_str(), partition),
            topic_id: topic.id,
            offset: 0,
        })
        .collect();
    let limits = FetchLimits { wait_max: Duration::ZERO, partition_bytes_max: 1 << 20, bytes_max: 1 << 20 };
    let fetched = log.fetch(&from, limits).await.map_err(|error| error.to_string())?;
    let records = fetched.into_iter().filter_map(|part| part.outcome.ok()).flat_map(|part| part.records);
    let id =
        |value: Bytes| serde_json::from_slice::<Value>(&value).unwrap()["id"].as_str().unwrap().to_owned();
    Ok(records.filter_map(|record| record.value).map(id).collect())
}

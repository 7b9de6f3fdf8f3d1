//! The incidents that the documents tell of, step by step: each ends with every event stored, without a restart.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::log::LogSettings;
use crate::support::sandbox::Client;
use crate::support::{Log, Process, Sandbox, eventually, on_every_log};

on_every_log! {
    topics_missing_at_the_start_stop_no_event_and_heal_without_a_restart
    topics_deleted_while_running_stop_no_event_and_heal_without_a_restart
    the_topic_of_events_deleted_while_running_is_named_and_heals_once_it_is_made_again
}

/// What the documents tell operators to look for in the log.
const WORDS: &str = "Failed to publish event to post-processing service";

fn orders(from: usize, to: usize) -> Value {
    (from..to)
        .map(|i| json!({"event": "order placed", "distinct_id": format!("person-{}", i % 7), "event_id": format!("order-{i}")}))
        .collect()
}

/// How often the process has said it.
fn said(data_dir: &Path) -> usize {
    std::fs::read_to_string(data_dir.join("stdout")).unwrap().matches(WORDS).count()
}

async fn component(client: &Client, name: &str) -> (String, String) {
    let (_, report) = client.operator_get("/api/ops/components").await;
    let found = report["components"].as_array().unwrap().iter().find(|one| one["name"] == name).cloned();
    let found = found.unwrap_or_default();
    (found["state"].as_str().unwrap_or("").to_owned(), found["reason"].as_str().unwrap_or("").to_owned())
}

/// Records of the post-processing topic; none: there is no such topic.
async fn handed_on(client: &Client, topic: &str) -> Option<i64> {
    let (status, answer) = client.operator_get("/api/ops/topics").await;
    assert_eq!(status, 200, "{answer}");
    let topics = answer["topics"].as_array().unwrap();
    let topic = topics.iter().find(|one| one["name"] == topic)?;
    Some(topic["partitions"].as_array().unwrap().iter().map(|p| p["end"].as_i64().unwrap()).sum())
}

async fn handed_on_at_least(client: &Client, topic: &str, count: i64) {
    eventually(&format!("{count} events are handed on"), || async {
        match handed_on(client, topic).await {
            Some(there) if there >= count => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

async fn component_is(client: &Client, name: &str, state: &str, words: &str) {
    eventually(&format!("{name} is {state}"), || async {
        let (now, reason) = component(client, name).await;
        if now == state && reason.contains(words) { Ok(()) } else { Err(format!("{now}: {reason}")) }
    })
    .await;
}

/// Documents 000 and 001: `events_post_processing` and its like were never made, the circuit breaker opened, events were
/// accepted and not to be found, and the cure was to make the topics and start the consumer again.
async fn topics_missing_at_the_start_stop_no_event_and_heal_without_a_restart(log: Log) {
    let settings = LogSettings::of(log).await;
    let topic = settings.post_processing_topics()[0].clone();
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    // An installation whose operators make its topics by hand, and forgot some.
    let first = Process::serve_on(&data_dir, &settings, &["--set", "post_processing.enabled=false"]).await;
    let key = first.client.key.clone();
    assert!(first.terminate().success());
    let args = ["serve", "--set", "server.migrate_on_start=false", "--set", "consumer.backoff_max=2s"];
    let process = Process::run(&data_dir, &settings, &args, Some(&key)).await;
    let client = process.client.clone();
    client.wait_ready().await;
    assert_eq!(handed_on(&client, &topic).await, None);

    // Accepted, stored, found; what is missing is named with its cure, in the words of the documents, once.
    client.accept(&orders(0, 50)).await;
    client.settled(50).await;
    component_is(&client, "post_processing", "down", "`flexflow topics create` makes it").await;
    component_is(&client, "topics", "degraded", &topic).await;
    let (status, ready) = client.operator_get("/ready").await;
    assert_eq!((status, &ready["roles"]["capture"]), (200, &json!("degraded")), "{ready}");
    client.accept(&orders(50, 80)).await;
    client.settled(80).await;
    assert_eq!(said(&data_dir), 1, "once an opening");

    // The topics are made; nothing is restarted.
    let (status, made) = client.operator_post("/api/ops/topics/create", &json!({})).await;
    assert_eq!(status, 200, "{made}");
    assert!(made["created"].as_array().unwrap().contains(&json!(topic)), "{made}");
    handed_on_at_least(&client, &topic, 80).await;
    component_is(&client, "post_processing", "up", "").await;
    component_is(&client, "topics", "up", "").await;

    assert_eq!(said(&data_dir), 1, "an opening is told of once");
    assert_eq!(client.audit().await["balanced"], true);
    assert!(process.terminate().success());
}

/// The same topics, deleted while everything runs: nothing but what reads them waits.
async fn topics_deleted_while_running_stop_no_event_and_heal_without_a_restart(log: Log) {
    let app = Sandbox::on_with(log, &[("consumer.backoff_max", "2s")]).await;
    let topics = app.post_processing_topics();
    let client = &app.client;
    client.accept(&orders(0, 30)).await;
    client.settled(30).await;
    handed_on_at_least(client, &topics[0], 30).await;

    for topic in &topics {
        app.running.log().delete_topic(topic).await.unwrap();
    }
    client.accept(&orders(30, 70)).await;
    client.settled(70).await;
    component_is(client, "post_processing", "down", "`flexflow topics create` makes it").await;
    component_is(client, "topics", "degraded", &topics[0]).await;
    let (_, ready) = client.get("/ready?role=consumer").await;
    assert_eq!(ready["status"], "degraded", "{ready}");

    let (status, made) = client.operator_post("/api/ops/topics/create", &json!({})).await;
    assert_eq!(status, 200, "{made}");
    handed_on_at_least(client, &topics[0], 40).await;
    component_is(client, "post_processing", "up", "").await;
    component_is(client, "topics", "up", "").await;
    client.accept(&orders(70, 80)).await;
    client.settled(80).await;
    handed_on_at_least(client, &topics[0], 50).await;
    assert_eq!(client.audit().await["balanced"], true);
    app.stop().await;
}

/// The topic that everything goes through, deleted and made again: whoever sends is told to come back, what was stored
/// stays, and what is sent afterwards is read from the new topic's start.
async fn the_topic_of_events_deleted_while_running_is_named_and_heals_once_it_is_made_again(log: Log) {
    let app = Sandbox::on_with(log, &[("consumer.backoff_max", "2s")]).await;
    let (client, topic) = (&app.client, app.client.events_topic.clone());
    client.accept(&orders(0, 30)).await;
    client.settled(30).await;
    app.running.log().delete_topic(&topic).await.unwrap();
    component_is(client, "consumer", "down", &topic).await;
    component_is(client, "topics", "down", &topic).await;
    let (status, refused) = client.capture(&orders(30, 40)).await;
    assert_eq!(status, 503, "{refused}");
    assert_eq!(client.operator_get("/ready").await.0, 503);

    let (status, made) = client.operator_post("/api/ops/topics/create", &json!({})).await;
    assert_eq!((status, &made["created"]), (200, &json!([topic])), "{made}");
    component_is(client, "consumer", "up", "").await;
    component_is(client, "topics", "up", "").await;
    eventually("events are taken again", || async {
        match client.capture(&orders(30, 60)).await {
            (202, _) => Ok(()),
            (status, answer) => Err(format!("{status} {answer}")),
        }
    })
    .await;
    client.settled(60).await;
    assert_eq!(client.audit().await["balanced"], true);
    app.stop().await;
}

//! The incidents that the documents tell of, step by step: each ends with every event stored, without a restart.

use std::path::Path;

use flexflow::store::Sql;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::support::kafka::Kafka;
use crate::support::log::LogSettings;
use crate::support::postgres::Postgres;
use crate::support::proxy::Proxy;
use crate::support::sandbox::Client;
use crate::support::store::TestStore;
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
    // How far behind it is, nobody knows: that is told, and not called nothing.
    let (_, monitored) = client.get("/v1/events/monitoring").await;
    assert_eq!(monitored["consumption_lag"], Value::Null, "{monitored}");
    assert!(monitored["consumption_lag_reason"].as_str().unwrap().contains(&topic), "{monitored}");
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

/// What the frontend of document 003 sent: the item only within the advert's id.
const OF_CLICKS: &str = "
    [[event]]
    id = \"id\"
    event_name = \"'food clicked'\"
    distinct_id = \"user\"
    timestamp = \"time(at)\"
    session_id = \"user\"
    properties = [
        { name = \"ad_id\", value = \"ad_id\" },
        { name = \"item_id\", value = \"number(split(ad_id, '_', 1))\" },
    ]
";

fn old_clicks(count: usize) -> Vec<Value> {
    (0..count)
        .map(|i| {
            json!({"id": format!("old-{i}"), "user": format!("person-{}", i % 40), "ad_id": format!("food_{i}"),
                   "at": "2026-02-16T10:00:00Z"})
        })
        .collect()
}

fn clicks(count: usize) -> Value {
    // Nothing that compresses: the proxy tells rows from questions by their size on the wire.
    let mut rng = StdRng::seed_from_u64(3);
    let mut noise = || (0..32).map(|_| format!("{:016x}", rng.random::<u64>())).collect::<String>();
    (0..count)
        .map(|i| {
            json!({"event": "food clicked", "distinct_id": format!("person-{}", i % 40), "event_id": format!("click-{i}"),
                   "properties": {"item_id": i, "noise": noise()}})
        })
        .collect()
}

/// A partition of the topic from which the group has committed at least so many, and where it is.
async fn committed(kafka: &Kafka, log: &LogSettings, least: i64) -> (u32, i64) {
    let described = kafka.tool("consumer-groups", &["--describe", "--group", log.group_id()]).await;
    let mut places = described.lines().filter(|line| line.contains(log.events_topic())).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some((words.get(2)?.parse().ok()?, words.get(3)?.parse().ok()?))
    });
    places.find(|(_, at)| *at >= least).unwrap_or_else(|| panic!("{described}"))
}

/// Document 003, fix by fix: the metadata database is down when everything starts (5), clicks have an item (3), the connection
/// to the store is lost (4), and offsets are set back by five (2): 242 clicks before, 242 after.
#[expect(clippy::too_many_lines, reason = "one incident, fix by fix, on the same process")]
#[tokio::test(flavor = "multi_thread")]
async fn offsets_set_back_a_lost_connection_and_a_database_down_at_start_cost_and_double_nothing() {
    let (postgres, engine, kafka) = (Postgres::start(), TestStore::start().await, Kafka::shared().await);
    let meta_url = postgres.database().await;
    let proxy = Proxy::to(engine.store.address().unwrap().parse().unwrap()).await;
    let (user, password) = engine.store.engine_login().unwrap();
    let log = LogSettings::on(kafka);
    let settings = [
        format!("meta.url={meta_url}"),
        format!("store.url=clickhouse://{}", proxy.address),
        format!("store.user={user}"),
        format!("store.password={password}"),
        "meta.timeout=2s".to_owned(),
        "transform.cache_ttl=20ms".to_owned(),
        "consumer.backoff_max=500ms".to_owned(),
    ];
    let mut args = vec!["serve", "--log-level", "info"];
    args.extend(settings.iter().flat_map(|setting| ["--set", setting.as_str()]));
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");

    // 5: the process starts without the database, says so, and heals when that comes up.
    postgres.kill();
    let mut process = Process::run(&data_dir, &log, &args, Some("none yet")).await;
    component_is(&process.client, "meta", "down", "").await;
    assert_eq!(process.client.get("/health").await.0, 200);
    postgres.restart();
    process.client.wait_ready().await;
    let first = eventually("the first project is made", || async {
        let text = std::fs::read(data_dir.join("first-run.json")).map_err(|error| error.to_string())?;
        serde_json::from_slice::<Value>(&text).map_err(|error| error.to_string())
    })
    .await;
    process.client.key = first["api_key"].as_str().unwrap().to_owned();
    let client = process.client.clone();

    // 3: clicks have their item, as a number, and a session.
    crate::raw::apply(&client, OF_CLICKS).await;
    crate::raw::send(&client, &old_clicks(42)).await;
    let there = client.settled(42).await;
    let whole = |event: &Value| event["properties"]["item_id"].is_number() && event["session_id"].is_string();
    assert!(there.iter().all(whole), "{}", there[0]);

    // 4: the connection is lost with rows on their way, and again; every later write goes through, nothing is restarted.
    proxy.cut_after_insert();
    client.accept(&clicks(200)).await;
    eventually("answers to rows were lost", || async {
        if proxy.cut() >= 2 { Ok(()) } else { Err(proxy.cut().to_string()) }
    })
    .await;
    assert!(client.lag().await.unwrap() > 0, "what is not confirmed is not committed");
    proxy.heal();
    client.settled(242).await;

    // 2: the consumer is down, offsets go back by five, the consumer comes up.
    assert!(process.terminate().success());
    let (partition, at) = committed(kafka, &log, 5).await;
    let (place, back) = (format!("{}:{partition}", log.events_topic()), (at - 5).to_string());
    let told = kafka
        .tool(
            "consumer-groups",
            &[
                "--group",
                log.group_id(),
                "--topic",
                &place,
                "--reset-offsets",
                "--to-offset",
                &back,
                "--execute",
            ],
        )
        .await;
    assert!(told.contains("NEW-OFFSET"), "{told}");
    process = Process::run(&data_dir, &log, &args, None).await;
    process.client.wait_ready().await;
    process.client.settled(242).await;
    let stored = "SELECT count() AS rows FROM events WHERE event_name = 'food clicked'";
    let rows: Vec<(u64,)> = engine.store.select(Sql::new(stored)).await.unwrap();
    assert_eq!(rows, [(242,)], "not even below FINAL");
    let audit = process.client.audit().await;
    assert_eq!(audit["balanced"], true, "{audit}");
    assert!(process.terminate().success());
    let said = std::fs::read_to_string(data_dir.join("stdout")).unwrap();
    let skipped = |line: &str| line.split_once("skipped ")?.1.split(' ').next()?.parse::<u64>().ok();
    assert_eq!(said.lines().filter_map(skipped).sum::<u64>(), 5, "{said}");
    engine.store.close(std::time::Duration::from_secs(20)).await;
}

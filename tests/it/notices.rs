//! System events over the real application: each is told once, whatever was away when it happened.

use bytes::Bytes;
use flexflow::event::Timestamp;
use flexflow::eventlog::NewRecord;
use sea_orm::{ConnectionTrait as _, Database, DbBackend, Statement};
use serde_json::{Value, json};

use crate::support::sandbox::Client;
use crate::support::{Log, Sandbox, eventually, on_every_log};

on_every_log! {
    what_is_told_of_an_installation_is_told_once_and_again_only_after_it_was_over
}

const SETTINGS: [(&str, &str); 3] =
    [("webhook.watch_interval", "100ms"), ("webhook.dead_letters_max", "2"), ("jobs.poll_interval", "50ms")];

/// What was told under this name.
async fn told(app: &Sandbox, name: &str, count: usize) -> Vec<Value> {
    eventually(&format!("{name} is told of {count} times"), || async {
        let mut told = app.records(&app.system_events_topic()).await?;
        told.retain(|event| event["event_name"] == name);
        if told.len() >= count { Ok(told) } else { Err(format!("{told:?}")) }
    })
    .await
}

/// Records that cannot be stored, and their dead letters.
async fn refused(app: &Sandbox, from: usize, to: usize) {
    let scope = app.running.first_run().unwrap();
    let record = |number: usize| {
        let value = json!({"id": format!("bad-{number}"), "project_id": scope.project_id,
                           "environment_id": scope.environment_id, "event_name": "seen"});
        NewRecord {
            key: Some(Bytes::from_static(b"ada")),
            value: value.to_string().into(),
            headers: Default::default(),
            timestamp: Timestamp::from_millis(1_700_000_000_000),
        }
    };
    let records = (from..to).map(record).collect();
    for outcome in app.running.log().produce(&app.client.events_topic, records).await {
        outcome.unwrap();
    }
    let open = (to - from) as u64;
    eventually("the dead letters are listed", || async {
        let (_, stats) = app.client.operator_get("/api/dlq/stats").await;
        if stats["totals"]["open"] == open { Ok(()) } else { Err(stats.to_string()) }
    })
    .await;
}

async fn discard(client: &Client) {
    let order = json!({"selection": {"all": true}, "reason": "a test"});
    let (status, started) = client.operator_post("/api/dlq/discard", &order).await;
    assert_eq!(status, 202, "{started}");
    eventually("none is open", || async {
        let (_, stats) = client.operator_get("/api/dlq/stats").await;
        if stats["totals"]["open"] == 0 { Ok(()) } else { Err(stats.to_string()) }
    })
    .await;
}

async fn what_is_told_of_an_installation_is_told_once_and_again_only_after_it_was_over(log: Log) {
    const NAME: &str = "dead_letters.over_threshold";
    let app = Sandbox::on_with(log, &SETTINGS).await;
    refused(&app, 0, 3).await;
    assert_eq!(told(&app, NAME, 1).await[0]["payload"], json!({"open": 3, "threshold": 2}));

    // Started anew it knows that this was told; told again it would stand before what comes now.
    let app = app.restart(&SETTINGS).await;
    discard(&app.client).await;
    let url = format!("sqlite://{}?mode=ro", app.data_dir().join("meta.sqlite").display());
    let meta = Database::connect(url).await.unwrap();
    eventually("it is noticed that this is over", || async {
        let known = Statement::from_string(DbBackend::Sqlite, "SELECT name FROM watched_states");
        let known = meta.query_all_raw(known).await.map_err(|error| error.to_string())?;
        if known.is_empty() { Ok(()) } else { Err(format!("{} states go on", known.len())) }
    })
    .await;
    meta.close().await.unwrap();
    refused(&app, 3, 7).await;
    let told = told(&app, NAME, 2).await;
    let open: Vec<&Value> = told.iter().map(|event| &event["payload"]["open"]).collect();
    assert_eq!(open, [3, 4]);
    app.stop().await;
}

/// The topic is gone when a job ends: the job does not wait for it, and what it has to tell is told once it is there.
#[tokio::test(flavor = "multi_thread")]
async fn attribution_is_told_of_once_its_topic_is_there_again() {
    let app = Sandbox::with(&SETTINGS).await;
    let client = &app.client;
    app.running.log().delete_topic(&app.system_events_topic()).await.unwrap();
    let rule = json!({"name": "by person", "sources": ["seen"], "target": "bought", "look_back": "1d",
                      "model": "last_touch", "join": {"by": "distinct_id"}});
    let (status, made) = client.operator_post("/api/attribution/rules", &rule).await;
    assert_eq!(status, 201, "{made}");
    eventually("the job has ended", || async {
        let (_, jobs) = client.operator_get("/api/jobs").await;
        let mut all = jobs["jobs"].as_array().ok_or("no jobs")?.iter();
        if all.any(|job| job["state"] == "succeeded") { Ok(()) } else { Err(jobs.to_string()) }
    })
    .await;
    let (status, made) = client.operator_post("/api/ops/topics/create", &json!({})).await;
    assert_eq!(status, 200, "{made}");
    let told = told(&app, "attribution.done", 1).await;
    assert_eq!(told.len(), 1, "{told:?}");
    app.stop().await;
}

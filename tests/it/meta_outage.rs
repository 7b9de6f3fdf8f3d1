//! PostgreSQL as the metadata database: two processes on one, down at start, killed and restarted under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use flexflow::app::{Options, Role};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::postgres::Postgres;
use crate::support::sandbox::{Client, Sandbox};

async fn on(url: &str, roles: &[Role], settings: &[(&str, &str)]) -> Sandbox {
    let mut all = vec![("meta.url", url), ("meta.timeout", "2s")];
    all.extend_from_slice(settings);
    Sandbox::build(tempfile::tempdir().unwrap(), roles, &all, Options::default()).await
}

fn event() -> Value {
    json!({ "event": "opened", "distinct_id": "ann" })
}

async fn made_key(client: &Client) -> (u16, Value) {
    let (_, projects) = client.operator_get("/api/projects").await;
    let project = projects["projects"][0]["id"].as_str().unwrap_or("none").to_owned();
    let (_, found) = client.operator_get(&format!("/api/projects/{project}/environments")).await;
    let body = json!({ "environment_id": found["environments"][0]["id"], "scopes": ["ingest"] });
    client.operator_post(&format!("/api/projects/{project}/api-keys"), &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_on_one_postgres_make_one_project_and_believe_each_others_keys() {
    let url = Postgres::shared().database().await;
    let here = on(&url, &[Role::Capture, Role::Auth], &[]).await;
    // No role auth here: keys are held against the shared database, nobody is called.
    let there = on(&url, &[Role::Capture], &[]).await;
    assert!(there.running.first_run().is_none(), "there is a project already");
    assert_eq!(here.client.capture(&event()).await.0, 202);
    let elsewhere = Client { key: here.client.key.clone(), ..there.client.clone() };
    assert_eq!(elsewhere.capture(&event()).await.0, 202);
    let (status, made) = made_key(&here.client).await;
    assert_eq!(status, 201, "{made}");
    let fresh = Client { key: made["api_key"].as_str().unwrap().to_owned(), ..there.client.clone() };
    assert_eq!(fresh.capture(&event()).await.0, 202);
    here.stop().await;
    there.stop().await;
}

/// Makes a cohort, and the question about its members.
async fn question_of_a_cohort(client: &Client) -> Value {
    let cohort = json!({ "name": "some", "distinct_ids": ["ann"] });
    let (status, cohort) = client.operator_post("/api/cohorts", &cohort).await;
    assert_eq!(status, 201, "{cohort}");
    json!({
        "series": [{ "event": "opened" }], "refresh": true,
        "filters": [{ "type": "cohort", "value": cohort["id"] }],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_killed_and_comes_back_costs_no_event_and_needs_no_restart() {
    let postgres = Postgres::start();
    let url = postgres.database().await;
    // Keys are asked for again at every request that they can be.
    let settings = [("auth.key_cache_ttl", "10ms"), ("auth.stale_key_ttl", "10m")];
    let app = Arc::new(on(&url, &[Role::Capture, Role::Query, Role::Auth], &settings).await);
    let of_cohort = question_of_a_cohort(&app.client).await;
    let asked = async || {
        let (status, answer) = app.client.post("/api/query/trends", &of_cohort).await;
        assert_eq!(status, 200, "{answer}");
    };
    asked().await;
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    #[expect(clippy::disallowed_methods, reason = "the senders are joined below")]
    let senders: Vec<_> = (0..4)
        .map(|_| {
            let (client, stop, sent) = (app.client.clone(), stop.clone(), sent.clone());
            tokio::spawn(async move {
                let mut refused = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match client.capture(&event()).await {
                        (202, _) => drop(sent.fetch_add(1, Ordering::Relaxed)),
                        (status, body) => refused.push((status, body)),
                    }
                }
                refused
            })
        })
        .collect();
    let more = async |what: &str| {
        let before = sent.load(Ordering::Relaxed);
        eventually(what, || async {
            let now = sent.load(Ordering::Relaxed);
            if now > before + 100 { Ok(()) } else { Err(format!("{before} then {now}")) }
        })
        .await;
    };
    more("events are taken").await;
    for _ in 0..2 {
        postgres.kill();
        more("events are taken without the database").await;
        // Longer than what a scope has is taken from memory without asking.
        let away_since = Instant::now();
        while away_since.elapsed() < Duration::from_millis(1500) {
            asked().await;
        }
        let (status, answer) = app.client.operator_post("/api/projects", &json!({ "name": "x" })).await;
        assert_eq!((status, &answer["code"]), (503, &json!("service_unavailable")), "{answer}");
        eventually("auth says that it cannot work", || async {
            let (status, answer) = app.client.get("/ready?role=auth").await;
            if status == 503 { Ok(()) } else { Err(answer.to_string()) }
        })
        .await;
        assert_eq!(app.client.get("/ready?role=capture").await.1["status"], "degraded");
        postgres.restart();
        eventually("keys can be made again", || async {
            let (status, answer) = made_key(&app.client).await;
            if status == 201 { Ok(()) } else { Err(answer.to_string()) }
        })
        .await;
        app.client.wait_ready().await;
        more("events are taken afterwards").await;
    }
    stop.store(true, Ordering::Relaxed);
    for sender in senders {
        let refused = sender.await.unwrap();
        assert!(refused.is_empty(), "{} were refused: {:?}", refused.len(), refused.first());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_down_at_start_is_waited_for_without_standing_still() {
    let postgres = Postgres::start();
    let url = postgres.database().await;
    postgres.kill();
    let static_key = "[{ sha256 = \"5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8\", project_id = \"p\", environment_id = \"e\", scopes = [\"ingest\", \"query\", \"admin\"] }]";
    // The sandbox waits until it is ready, which these are, degraded.
    let app = on(&url, &[Role::Capture, Role::Query], &[("auth.static_keys", static_key)]).await;
    assert!(app.running.first_run().is_none());
    let known = Client { key: "password".to_owned(), ..app.client.clone() };
    assert_eq!(known.capture(&event()).await.0, 202, "a key of the configuration needs no database");
    let question = json!({ "series": [{ "event": "signup" }] });
    let (status, answer) = known.post("/api/query/trends", &question).await;
    assert_eq!(status, 200, "neither does a question: {answer}");
    let of_cohort =
        json!({ "series": [{ "event": "signup" }], "filters": [{ "type": "cohort", "value": "c" }] });
    let (status, answer) = known.post("/api/query/trends", &of_cohort).await;
    assert_eq!(status, 503, "but for one about what the database keeps: {answer}");
    let unknown = Client { key: format!("ff_{}", "x".repeat(43)), ..app.client.clone() };
    assert_eq!(unknown.capture(&event()).await.0, 503);
    postgres.restart();
    let first = eventually("the first project is made", || async {
        app.running.first_run().ok_or_else(|| "none yet".to_owned())
    })
    .await;
    // What is kept of a project that the configuration names refers to its row, which is there as soon as the database is.
    let (status, made) =
        known.post("/api/cohorts", &json!({ "name": "some", "distinct_ids": ["ann"] })).await;
    assert_eq!(status, 201, "{made}");
    let meter = json!({ "name": "opened", "event_name": "opened", "aggregation": { "type": "COUNT" } });
    let (status, made) = known.post("/v1/meters", &meter).await;
    assert_eq!(status, 201, "{made}");
    let client = Client { key: first.api_key, ..app.client.clone() };
    eventually("its key is good", || async {
        let (status, answer) = client.capture(&event()).await;
        if status == 202 { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    assert!(app.data_dir().join("first-run.json").exists());
    app.stop().await;
}

//! Dead letters over the real application: made storable, replayed, discarded, and seen by nobody else.

use bytes::Bytes;
use flexflow::eventlog::{Header, NewRecord};
use serde_json::{Value, json};

use crate::support::sandbox::Client;
use crate::support::{Log, Sandbox, eventually, just_now, on_every_log};

on_every_log! {
    a_replay_with_a_fix_stores_a_poison_record_once_however_often_it_runs
    a_replayed_dead_letter_whose_id_is_known_is_stored_unless_its_event_is
    a_record_that_keeps_failing_comes_back_only_so_often
    a_discard_needs_a_reason_and_is_final_unless_somebody_says_again
    a_key_of_another_project_sees_no_dead_letter_and_moves_none
}

/// The application, with a client whose key may do everything in the first environment.
async fn start(log: Log, settings: &[(&str, &str)]) -> Sandbox {
    let mut app = Sandbox::on_with(log, settings).await;
    let first = app.running.first_run().unwrap();
    app.client.key = key(&app.client, &first.project_id, &json!(first.environment_id)).await;
    app
}

/// A new key with every scope.
async fn key(client: &Client, project: &str, environment: &Value) -> String {
    let path = format!("/api/projects/{project}/api-keys");
    let body = json!({"environment_id": environment, "scopes": ["ingest", "query", "admin"]});
    let (status, made) = client.operator_post(&path, &body).await;
    assert_eq!(status, 201, "{made}");
    made["api_key"].as_str().unwrap().to_owned()
}

/// An event of the first project that lacks its distinct id.
fn poison(app: &Sandbox, id: &str) -> Value {
    let first = app.running.first_run().unwrap();
    json!({
        "id": id, "project_id": first.project_id, "environment_id": first.environment_id, "event_name": "paid",
        "timestamp": "2026-01-31T11:00:00Z", "received_at": just_now(), "schema_version": 1,
        "properties": {"amount": 1.50}
    })
}

/// The same event, whole.
fn whole(app: &Sandbox, id: &str) -> Value {
    let mut event = poison(app, id);
    event["distinct_id"] = json!("ada");
    event
}

async fn produce(app: &Sandbox, events: &[Value]) {
    let record = |event: &Value| NewRecord {
        key: Some(Bytes::from_static(b"ada")),
        value: event.to_string().into(),
        headers: [Header { name: "producer".into(), value: Bytes::from_static(b"test") }].into(),
        timestamp: just_now(),
    };
    for outcome in
        app.running.log().produce(&app.client.events_topic, events.iter().map(record).collect()).await
    {
        outcome.unwrap();
    }
}

/// Where the partitions of the topic of events end.
async fn ends(client: &Client) -> Vec<Value> {
    let (status, lag) = client.operator_get("/api/ops/lag").await;
    assert_eq!(status, 200, "{lag}");
    let of_events =
        lag["groups"].as_array().unwrap().iter().filter(|one| one["topic"] == *client.events_topic);
    let ends: Vec<Value> = of_events.map(|one| json!([one["group"], one["partition"], one["end"]])).collect();
    assert!(!ends.is_empty(), "{lag}");
    ends
}

/// Waits until this key's project has `count` dead letters.
async fn dead_letters(client: &Client, count: usize) -> Vec<Value> {
    eventually(&format!("{count} dead letters are listed"), || async {
        let (status, page) = client.get("/api/dlq?limit=500").await;
        let letters = page["dead_letters"].as_array().cloned().unwrap_or_default();
        if status == 200 && letters.len() == count { Ok(letters) } else { Err(format!("{status} {page}")) }
    })
    .await
}

/// Starts a replay or a discard, waits until it has succeeded, and returns its progress.
async fn run(client: &Client, action: &str, order: Value) -> Value {
    let (status, started) = client.post(&format!("/api/dlq/{action}"), &order).await;
    assert_eq!(status, 202, "{started}");
    let path = format!("/api/jobs/{}", started["job_id"].as_str().unwrap());
    eventually("the job has ended", || async {
        let (status, job) = client.get(&path).await;
        match job["state"].as_str() {
            Some("succeeded") if status == 200 => Ok(job["progress"].clone()),
            Some("failed" | "cancelled") => panic!("{job}"),
            _ => Err(format!("{status} {job}")),
        }
    })
    .await
}

async fn balanced(app: &Sandbox) -> Value {
    let audit = app.client.audit().await;
    assert_eq!((&audit["balanced"], &audit["totals"]["missing"]), (&json!(true), &json!(0)), "{audit}");
    audit["totals"].clone()
}

pub(crate) async fn a_replay_with_a_fix_stores_a_poison_record_once_however_often_it_runs(log: Log) {
    let app = start(log, &[]).await;
    let client = &app.client;
    produce(&app, &[poison(&app, "order-1"), whole(&app, "order-2")]).await;
    let letters = dead_letters(client, 1).await;
    assert_eq!(
        (&letters[0]["error_kind"], &letters[0]["event_id"]),
        (&json!("missing_field"), &json!("order-1"))
    );
    client.settled(1).await;
    let fixed = |more: Value| {
        let mut order = json!({"selection": {"error_kind": "missing_field"}, "fix": {"distinct_id": "ada"}});
        order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        order
    };

    let before = ends(client).await;
    let dry = run(client, "replay", fixed(json!({"dry_run": true}))).await;
    assert_eq!(dry["outcomes"], json!({"replayed": 1}));
    assert_eq!(dry["samples"][0]["id"], letters[0]["id"], "{dry}");
    assert!(!dry["samples"][0]["before"].as_str().unwrap().contains("distinct_id"), "{dry}");
    assert!(dry["samples"][0]["after"].as_str().unwrap().contains(r#""distinct_id":"ada""#), "{dry}");
    assert_eq!(before, ends(client).await, "a dry run writes no event");
    assert_eq!(dead_letters(client, 1).await[0]["status"], "open", "a dry run marks nothing");

    assert_eq!(run(client, "replay", fixed(json!({}))).await["outcomes"], json!({"replayed": 1}));
    let events = client.settled(2).await;
    let stored = events.iter().find(|event| event["event_id"] == "order-1").unwrap();
    assert_eq!((&stored["distinct_id"], &stored["properties"]), (&json!("ada"), &json!({"amount": 1.50})));
    assert_eq!(dead_letters(client, 1).await[0]["status"], "replayed");

    assert_eq!(run(client, "replay", fixed(json!({}))).await["outcomes"], json!({"already_replayed": 1}));
    assert_eq!(
        run(client, "replay", fixed(json!({"again": true}))).await["outcomes"],
        json!({"replayed": 1})
    );
    client.settled(2).await;
    let totals = balanced(&app).await;
    let terms = (&totals["records"], &totals["stored"], &totals["duplicate"], &totals["dead_lettered"]);
    assert_eq!(terms, (&json!(4), &json!(2), &json!(1), &json!({"missing_field": 1})), "{totals}");
    app.stop().await;
}

async fn a_replayed_dead_letter_whose_id_is_known_is_stored_unless_its_event_is(log: Log) {
    let app = start(log, &[]).await;
    let client = &app.client;
    let (status, found) = client.operator_get("/api/environments").await;
    assert_eq!(status, 200, "{found}");
    let development = found["environments"].as_array().unwrap();
    let development = &development.iter().find(|one| one["name"] == "development").unwrap()["id"];
    // The id was refused twice here, and is stored in another environment: in this one it is not.
    let mut elsewhere = whole(&app, "known");
    elsewhere["environment_id"] = development.clone();
    produce(&app, &[poison(&app, "known"), elsewhere, poison(&app, "known"), whole(&app, "stored")]).await;
    // And this one's event came in after all, with another name and day.
    let mut late = poison(&app, "stored");
    late["event_name"] = json!("other");
    late["timestamp"] = json!("2026-01-30T11:00:00Z");
    produce(&app, &[late]).await;
    dead_letters(client, 3).await;
    client.settled(1).await;

    let order = json!({"selection": {"all": true}, "fix": {"distinct_id": "ada"}});
    assert_eq!(run(client, "replay", order).await["outcomes"], json!({"replayed": 3}));
    let events = client.settled(2).await;
    let ids: Vec<_> = events.iter().map(|event| (&event["event_id"], &event["event"])).collect();
    assert!(ids.contains(&(&json!("known"), &json!("paid"))), "{ids:?}");
    assert!(ids.contains(&(&json!("stored"), &json!("paid"))), "the one that was stored stays: {ids:?}");
    let totals = balanced(&app).await;
    let terms = (&totals["records"], &totals["stored"], &totals["duplicate"], &totals["dead_lettered"]);
    assert_eq!(terms, (&json!(8), &json!(3), &json!(2), &json!({"missing_field": 3})), "{totals}");
    app.stop().await;
}

async fn a_record_that_keeps_failing_comes_back_only_so_often(log: Log) {
    let app = start(log, &[("dlq.recoveries_max", "2")]).await;
    let client = &app.client;
    produce(&app, &[poison(&app, "hopeless")]).await;
    let order = json!({"selection": {"all": true}});
    let outcomes = [json!({"replayed": 1}), json!({"replayed": 1, "already_replayed": 1})];
    for (round, outcome) in outcomes.iter().enumerate() {
        dead_letters(client, round + 1).await;
        assert_eq!(&run(client, "replay", order.clone()).await["outcomes"], outcome, "round {round}");
    }
    let letters = dead_letters(client, 3).await;
    let mut recoveries: Vec<_> =
        letters.iter().map(|letter| letter["recoveries"].as_u64().unwrap()).collect();
    recoveries.sort_unstable();
    assert_eq!(recoveries, [0, 1, 2]);
    assert_eq!(
        run(client, "replay", order).await["outcomes"],
        json!({"already_replayed": 2, "refused_cap": 1})
    );
    let totals = balanced(&app).await;
    assert_eq!((&totals["records"], &totals["dead_lettered"]["missing_field"]), (&json!(3), &json!(3)));
    app.stop().await;
}

async fn a_discard_needs_a_reason_and_is_final_unless_somebody_says_again(log: Log) {
    let app = start(log, &[]).await;
    let client = &app.client;
    produce(&app, &[poison(&app, "a"), poison(&app, "b")]).await;
    let letters = dead_letters(client, 2).await;
    let one = json!({"ids": [letters[0]["id"]]});
    for reason in [json!({}), json!({"reason": "  "}), json!({"reason": "x".repeat(501)})] {
        let mut order = reason.clone();
        order["selection"] = one.clone();
        let (status, answer) = client.post("/api/dlq/discard", &order).await;
        assert_eq!((status, &answer["code"]), (400, &json!("validation_error")), "{answer}");
        assert!(answer["message"].as_str().unwrap().contains("reason"), "{answer}");
    }
    let order = |dry: bool| json!({"selection": one, "reason": "a test account", "dry_run": dry});
    assert_eq!(run(client, "discard", order(true)).await["outcomes"], json!({"discarded": 1}));
    let open = dead_letters(client, 2).await;
    assert!(open.iter().all(|letter| letter["status"] == "open"), "a dry run marks nothing: {open:?}");

    assert_eq!(run(client, "discard", order(false)).await["outcomes"], json!({"discarded": 1}));
    let (_, shown) = client.get(&format!("/api/dlq/{}", letters[0]["id"].as_str().unwrap())).await;
    assert_eq!(
        (&shown["status"], &shown["reason"]),
        (&json!("discarded"), &json!("a test account")),
        "{shown}"
    );
    assert!(shown["dead_letter"]["raw"]["id"].is_string(), "the envelope stays: {shown}");
    let (_, stats) = client.get("/api/dlq/stats").await;
    assert_eq!(stats["totals"], json!({"open": 1, "replayed": 0, "discarded": 1}));

    let mut replay = json!({"selection": {"all": true}, "fix": {"distinct_id": "ada"}});
    let outcomes = run(client, "replay", replay.clone()).await["outcomes"].clone();
    assert_eq!(outcomes, json!({"replayed": 1, "already_discarded": 1}));
    client.settled(1).await;
    replay["selection"] = one.clone();
    replay["again"] = json!(true);
    assert_eq!(run(client, "replay", replay).await["outcomes"], json!({"replayed": 1}));
    client.settled(2).await;
    balanced(&app).await;
    app.stop().await;
}

async fn a_key_of_another_project_sees_no_dead_letter_and_moves_none(log: Log) {
    let app = start(log, &[]).await;
    let client = &app.client;
    produce(&app, &[poison(&app, "mine")]).await;
    let mine = dead_letters(client, 1).await;
    let mut stranger = client.clone();
    let (status, other) = client.operator_post("/api/projects", &json!({"name": "other"})).await;
    assert_eq!(status, 201, "{other}");
    let project = other["id"].as_str().unwrap();
    stranger.key = key(client, project, &other["environments"][0]["id"]).await;

    assert_eq!(stranger.get("/api/dlq").await.1["dead_letters"], json!([]));
    assert_eq!(stranger.get("/api/dlq/stats").await.1["totals"]["open"], 0);
    let id = mine[0]["id"].as_str().unwrap();
    assert_eq!(stranger.get(&format!("/api/dlq/{id}")).await.0, 404);
    let project = mine[0]["project_id"].as_str().unwrap();
    assert_eq!(stranger.get(&format!("/api/dlq?project_id={project}")).await.0, 403);
    for selection in [json!({"all": true}), json!({"ids": [id]})] {
        let replay = json!({"selection": selection, "fix": {"distinct_id": "eve"}});
        assert_eq!(run(&stranger, "replay", replay).await["outcomes"], json!({}));
        let discard = json!({"selection": selection, "reason": "not mine"});
        assert_eq!(run(&stranger, "discard", discard).await["outcomes"], json!({}));
    }
    for owner in ["project_id", "environment_id"] {
        let order = json!({"selection": {"all": true}, "fix": {owner: "proj_b"}});
        assert_eq!(
            client.post("/api/dlq/replay", &order).await.0,
            403,
            "{owner} is the operator's to change"
        );
    }
    assert_eq!(dead_letters(client, 1).await[0]["status"], "open");

    let (_, started) =
        client.post("/api/dlq/replay", &json!({"selection": {"all": true}, "dry_run": true})).await;
    let job = format!("/api/jobs/{}", started["job_id"].as_str().unwrap());
    assert_eq!(stranger.get(&job).await.0, 404, "nor a job");
    assert_eq!(client.get(&job).await.0, 200);
    app.stop().await;
}

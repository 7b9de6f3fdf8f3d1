//! Rollups equal a question over the events themselves, whatever came twice, late, again, or was deleted, and whoever died.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::log::LogSettings;
use crate::support::sandbox::Client;
use crate::support::{Log, Process, eventually, on_every_log};

on_every_log! {
    rollups_equal_a_question_over_events_after_duplicates_replays_deletions_and_crashes
}

async fn ask(client: &Client, sql: &str) -> Value {
    let (status, answer) = client.post("/api/query/sql", &json!({ "query": sql })).await;
    assert_eq!(status, 200, "{sql}: {answer}");
    answer["results"].clone()
}

const COUNTS: &str = "SELECT toDate(timestamp) AS d, event, count() AS n, uniqExact(distinct_id) AS p FROM events \
                      GROUP BY d, event ORDER BY d, event";
const DAYS: &str = "SELECT toDate(bucket) AS d, event, events, people FROM event_rollups WHERE grain = 'day' \
                    ORDER BY d, event";
const HOURS: &str = "SELECT toDate(bucket) AS d, event, sum(events) AS n FROM event_rollups WHERE grain = 'hour' \
                     GROUP BY d, event ORDER BY d, event";

/// Builds everything and waits for the end.
async fn build(client: &Client) {
    let range = json!({"from": "2026-01-01T00:00:00Z", "to": "2026-01-31T00:00:00Z"});
    let (status, started) = client.operator_post("/api/rollups/build", &range).await;
    assert_eq!(status, 202, "{started}");
    finished(client, started["job_id"].as_str().unwrap()).await;
}

async fn finished(client: &Client, id: &str) {
    eventually("the job is done", || async {
        let (_, job) = client.operator_get(&format!("/api/jobs/{id}")).await;
        if job["state"] == "succeeded" { Ok(()) } else { Err(job.to_string()) }
    })
    .await;
}

async fn equal(client: &Client, what: &str) {
    let counted = ask(client, COUNTS).await;
    assert!(!counted.as_array().unwrap().is_empty(), "{what}");
    assert_eq!(ask(client, DAYS).await, counted, "{what}: days");
    let without_people = |rows: &Value| -> Vec<Value> {
        rows.as_array().unwrap().iter().map(|row| json!([row[0], row[1], row[2]])).collect()
    };
    assert_eq!(ask(client, HOURS).await, json!(without_people(&counted)), "{what}: hours");
}

fn event(n: usize, name: &str, day: usize) -> Value {
    let properties = match n % 4 {
        0 => json!({"price": n, "plan": "pro"}),
        1 => json!({"price": n.to_string()}),
        2 => json!({"price": 1_000_000 + n, "plan": null}),
        _ => json!({"price": n}),
    };
    json!({"event": name, "distinct_id": format!("p{}", n % 7), "event_id": format!("{name}-{n}"),
           "timestamp": format!("2026-01-{day:02}T{:02}:30:00Z", n % 24), "properties": properties})
}

pub(crate) async fn rollups_equal_a_question_over_events_after_duplicates_replays_deletions_and_crashes(
    log: Log,
) {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let log = LogSettings::of(log).await;
    let args = ["--set=rollup.schedule="];
    let process = Process::serve_on(&data_dir, &log, &args).await;
    let client = process.client.clone();
    let seen: Vec<Value> = (0..120).map(|n| event(n, "seen", 1 + n % 5)).collect();
    let bought: Vec<Value> = (0..40).map(|n| event(n, "bought", 3)).collect();
    client.accept(&json!(seen)).await;
    client.accept(&json!(bought)).await;
    client.settled(160).await;
    build(&client).await;
    equal(&client, "at first").await;

    // Sent again, one with another hour of its day, and late ones: only the late ones are new.
    client.accept(&json!(seen)).await;
    let mut moved = event(0, "seen", 1);
    moved["timestamp"] = json!("2026-01-01T23:00:00Z");
    client.accept(&moved).await;
    client.accept(&json!((200..230).map(|n| event(n, "late", 2)).collect::<Vec<_>>())).await;
    client.settled(190).await;
    build(&client).await;
    build(&client).await;
    equal(&client, "after duplicates and late events, built twice").await;

    // Deleted: the counts of what is gone go, too.
    for n in 200..230 {
        let void = json!({"event_id": format!("late-{n}"), "reason": "test"});
        let (status, voided) = client.operator_post("/v1/events/void", &void).await;
        assert_eq!(status, 200, "{voided}");
    }
    client.settled(160).await;
    build(&client).await;
    equal(&client, "after deletions").await;
    let gone = ask(&client, "SELECT count() AS n FROM event_rollups WHERE event = 'late'").await;
    assert_eq!(gone, json!([[0]]));

    quality(&client).await;

    // Killed while it builds; the next process goes on.
    let range = json!({"from": "2026-01-01T00:00:00Z", "to": "2026-01-31T00:00:00Z"});
    client.accept(&json!((300..340).map(|n| event(n, "seen", 4)).collect::<Vec<_>>())).await;
    client.settled(200).await;
    let (_, started) = client.operator_post("/api/rollups/build", &range).await;
    let id = started["job_id"].as_str().unwrap().to_owned();
    process.kill();
    let process =
        Process::serve_on(&data_dir, &log, &["--set=rollup.schedule=", "--set=jobs.lease=2s"]).await;
    finished(&process.client, &id).await;
    equal(&process.client, "after a crash").await;
    assert!(process.terminate().success());

    // By itself: what changed since then is found by the schedule.
    let process = Process::serve_on(&data_dir, &log, &["--set=rollup.schedule=* * * * * *"]).await;
    process.client.accept(&json!((400..410).map(|n| event(n, "seen", 20)).collect::<Vec<_>>())).await;
    process.client.settled(210).await;
    eventually("the schedule has built the day", || async {
        let days = ask(&process.client, DAYS).await;
        if days == ask(&process.client, COUNTS).await { Ok(()) } else { Err(days.to_string()) }
    })
    .await;
    let (status, told) = process.client.get("/api/rollups").await;
    assert_eq!((status, &told["days"]), (200, &json!(6)), "{told}");
    assert!(told["next_at"].is_string(), "{told}");
    assert!(process.terminate().success());
}

/// What the properties were like, of one day and event.
async fn quality(client: &Client) {
    let sql = "SELECT property, events, missing, texts, numbers, nulls, drifted, out_of_range FROM event_quality WHERE \
               event = 'bought' ORDER BY property";
    let found = ask(client, sql).await;
    let rows: BTreeMap<&str, &Value> =
        found.as_array().unwrap().iter().map(|row| (row[0].as_str().unwrap(), row)).collect();
    // 40 events: 10 a text, 30 numbers, of which 10 are a million and more.
    assert_eq!(rows["price"], &json!(["price", 40, 0, 10, 30, 0, 10, 0]), "{found}");
    assert_eq!(rows["plan"], &json!(["plan", 40, 20, 10, 0, 10, 0, 0]), "{found}");
}

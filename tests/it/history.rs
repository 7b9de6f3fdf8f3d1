//! What the pipeline did, minute by minute: over restarts, and of several processes together. Each process is one of its own:
//! counters are a process's.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::log::{Log, LogSettings};
use crate::support::postgres::Postgres;
use crate::support::sandbox::Client;
use crate::support::{Process, eventually};

async fn history(client: &Client) -> Value {
    let (status, told) = client.operator_get("/api/ops/history").await;
    assert_eq!(status, 200, "{told}");
    told
}

/// All that was counted of this.
fn sum(told: &Value, name: &str) -> i64 {
    told["counted"][name].as_array().unwrap().iter().filter_map(Value::as_i64).sum()
}

/// What each process counted of this, the least first.
fn each(told: &Value, name: &str) -> Vec<i64> {
    let mut each: Vec<i64> =
        told["processes"].as_array().unwrap().iter().map(|one| one[name].as_i64().unwrap()).collect();
    each.sort_unstable();
    each
}

async fn captured(client: &Client, count: i64) -> Value {
    eventually(&format!("{count} events were captured by all"), || async {
        let told = history(client).await;
        if sum(&told, "captured") == count { Ok(told) } else { Err(told.to_string()) }
    })
    .await
}

fn events(ids: std::ops::Range<usize>) -> Value {
    let event = |n: usize| json!({"event": "opened", "distinct_id": "ada", "event_id": format!("e{n}")});
    json!({ "batch": ids.map(event).collect::<Vec<_>>() })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_counted_is_known_after_a_stop_and_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    // Nothing but the stop writes what is counted after the first look.
    let process = Process::serve(&data_dir, &["--set=server.history_interval=1m"]).await;
    process.client.accept(&events(0..5)).await;
    process.client.settled(5).await;
    process.client.accept(&events(3..5)).await;
    process.client.settled(5).await;
    assert!(process.terminate().success());

    let process = Process::serve(&data_dir, &["--set=server.history_interval=50ms"]).await;
    let told = history(&process.client).await;
    let sums = ["captured", "stored", "duplicates", "dead_letters"].map(|name| sum(&told, name));
    assert_eq!(sums, [7, 5, 2, 0], "{told}");
    assert!(sum(&told, "batches") >= 2, "{told}");
    process.client.accept(&events(5..8)).await;
    process.client.settled(8).await;
    eventually("what this process counts is told, too", || async {
        let told = history(&process.client).await;
        if (sum(&told, "captured"), sum(&told, "stored")) == (10, 8) { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
    process.kill();

    let process = Process::serve(&data_dir, &["--set=server.history_interval=50ms"]).await;
    let told = history(&process.client).await;
    assert_eq!((sum(&told, "captured"), sum(&told, "stored")), (10, 8), "{told}");
    assert!(each(&told, "captured").ends_with(&[3, 7]), "{told}");
    let all = json!(["capture", "consumer", "query", "auth"]);
    assert!(told["processes"].as_array().unwrap().iter().all(|one| one["roles"] == all), "{told}");
    let group = &process.client.group_id;
    eventually("the group has nothing left", || async {
        let told = history(&process.client).await;
        let of = told["lags"].as_array().unwrap().iter().find(|one| one["group"] == *group);
        let last = of.and_then(|one| one["lag"].as_array()?.iter().rev().find_map(Value::as_i64));
        if last == Some(0) { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
}

async fn capture(dir: &Path, settings: &[&str], key: Option<&str>) -> Process {
    let log = LogSettings::of(Log::Embedded).await;
    let process = Process::run(dir, &log, &[&["capture"], settings].concat(), key).await;
    process.client.wait_ready().await;
    process
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_on_one_database_add_up_and_one_that_is_away_costs_no_count() {
    let postgres = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    let url = format!("--set=meta.url={}", postgres.database().await);
    let settings = [&url, "--set=server.history_interval=50ms", "--set=meta.timeout=1s"];
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    let one = capture(&here, &settings, None).await;
    let key = one.client.key.clone();
    let other = capture(&there, &settings, Some(&key)).await;
    one.client.accept(&events(0..3)).await;
    other.client.accept(&events(0..4)).await;
    let told = captured(&one.client, 7).await;
    assert_eq!(each(&told, "captured"), [3, 4], "{told}");
    one.kill();
    let one = capture(&here, &settings, Some(&key)).await;
    one.client.accept(&events(0..2)).await;
    let told = captured(&other.client, 9).await;
    assert_eq!(each(&told, "captured"), [2, 3, 4], "{told}");

    postgres.kill();
    other.client.accept(&events(0..5)).await;
    eventually("what cannot be written is counted", || async {
        let metrics = other.client.http.get(format!("{}/metrics", other.client.url)).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        let failures = metrics.lines().find(|line| line.starts_with("pipeline_history_failures_total"));
        if failures.is_some_and(|line| !line.ends_with(" 0")) { Ok(()) } else { Err(format!("{failures:?}")) }
    })
    .await;
    let (status, refused) = other.client.operator_get("/api/ops/history").await;
    assert_eq!((status, &refused["code"]), (503, &json!("service_unavailable")), "{refused}");
    postgres.restart();
    eventually("the database is back, and all counts with it", || async {
        let (status, told) = other.client.operator_get("/api/ops/history").await;
        if status == 200 && sum(&told, "captured") == 14 { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
}

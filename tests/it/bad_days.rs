//! Bad days: each of them ends with every accepted event visible once, or a dead letter with a reason, without a restart.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::process::signal;
use crate::support::{Process, Sandbox, eventually};

fn batch(name: &str, count: usize) -> Value {
    (0..count)
        .map(|i| json!({"event": "load", "distinct_id": format!("person-{}", i % 13), "event_id": format!("{name}-{i}")}))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_engine_alone_is_healed_and_capture_does_not_notice() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::serve(&dir.path().join("data"), &[]).await;
    process.client.accept(&batch("before", 100)).await;
    let engines = process.children();
    assert_eq!(engines.len(), 1, "one engine");
    signal(engines[0], "KILL");
    for round in 0..20 {
        process.client.accept(&batch(&format!("during-{round}"), 50)).await;
    }
    process.client.settled(1100).await;
    let (status, ready) = process.client.operator_get("/ready").await;
    assert_eq!(status, 200, "{ready}");
    assert_ne!(process.children(), engines, "another engine");
    assert_eq!(process.client.audit().await["balanced"], true);
    assert!(process.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_in_the_middle_of_a_batch_drains_and_exits_with_0() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    // A batch that would wait far longer than the test: the stop must flush or release it.
    let process = Process::serve(&data_dir, &["--set", "consumer.batch_age_max=60s"]).await;
    process.client.accept(&batch("a", 500)).await;
    assert!(process.terminate().success());
    let process = Process::serve(&data_dir, &[]).await;
    process.client.settled(500).await;
    assert_eq!(process.client.audit().await["balanced"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_folder_is_told_who_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let process = Process::serve(&data_dir, &[]).await;
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_flexflow"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(&data_dir)
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&format!("held by process {}", process.pid())), "{said}");
    process.client.accept(&batch("still", 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_table_pauses_the_consumer_and_migrate_heals_it() {
    let app = Sandbox::start().await;
    app.client.accept(&batch("before", 10)).await;
    app.client.settled(10).await;
    app.running.store().unwrap().execute(flexflow::store::Sql::new("DROP TABLE events SYNC")).await.unwrap();
    app.client.accept(&batch("after", 10)).await;
    eventually("/ready names the cure", || async {
        let answer = app
            .client
            .http
            .get(format!("{}/ready", app.client.url))
            .send()
            .await
            .map_err(|e| e.to_string())?;
        let (status, body) = (answer.status(), answer.text().await.map_err(|e| e.to_string())?);
        if status == 503 && body.contains("flexflow migrate") { Ok(()) } else { Err(body) }
    })
    .await;
    let (_, ready) = app.client.get("/ready?role=capture").await;
    assert_eq!(ready["status"], "ready", "capture goes on: {ready}");
    let (status, migrated) = app.client.operator_post("/api/ops/migrate", &json!({})).await;
    assert_eq!(status, 200, "{migrated}");
    // The ten from before went with the table; those accepted meanwhile are all there.
    eventually("what was accepted meanwhile is stored", || async {
        let events = app.client.events().await?;
        let lag = app.client.lag().await?;
        if lag == 0 && events.len() == 10 {
            Ok(())
        } else {
            Err(format!("{} events, lag {lag}", events.len()))
        }
    })
    .await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_back_loses_nothing_and_doubles_nothing() {
    use std::sync::Arc;

    use flexflow::event::{ManualClock, Timestamp};
    let noon = Timestamp::parse("2026-06-01T12:00:00Z").unwrap();
    let clock = Arc::new(ManualClock::at(noon));
    let app = Sandbox::with_clock(clock.clone(), &[]).await;
    app.client.accept(&batch("noon", 50)).await;
    app.client.settled(50).await;
    clock.set(noon.minus(Duration::from_secs(3 * 3600)));
    app.client.accept(&batch("noon", 50)).await;
    app.client.accept(&batch("morning", 50)).await;
    app.client.settled(100).await;
    assert_eq!(app.client.audit().await["balanced"], true);
    app.stop().await;
}

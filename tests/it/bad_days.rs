//! Bad days: each of them ends with every accepted event visible once, or a dead letter with a reason, without a restart.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use flexflow::app::{Options, Role};
use flexflow::event::Timestamp;
use flexflow::eventlog::NewRecord;
use flexflow::store::{Sql, Tombstone, VOID_VERSION};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::support::log::LogSettings;
use crate::support::process::signal;
use crate::support::proxy::Proxy;
use crate::support::sandbox::Client;
use crate::support::store::TestStore;
use crate::support::{Log, Process, Sandbox, eventually, just_now, on_every_log};

on_every_log! {
    a_crash_of_the_engine_alone_is_healed_and_capture_does_not_notice
    sigterm_in_the_middle_of_a_batch_drains_and_exits_with_0
    a_dropped_table_pauses_the_consumer_and_migrate_heals_it
    a_clock_that_jumps_back_loses_nothing_and_doubles_nothing
    a_deleted_event_stays_deleted_when_it_is_sent_or_replayed_again
    an_engine_that_hangs_under_load_and_goes_on_loses_and_doubles_nothing
    connections_that_break_after_the_rows_double_nothing
    too_many_parts_pause_the_consumer_and_make_no_dead_letter
}

fn batch(name: &str, count: usize) -> Value {
    (0..count)
        .map(|i| json!({"event": "load", "distinct_id": format!("person-{}", i % 13), "event_id": format!("{name}-{i}")}))
        .collect()
}

async fn a_crash_of_the_engine_alone_is_healed_and_capture_does_not_notice(log: Log) {
    let log = LogSettings::of(log).await;
    let dir = tempfile::tempdir().unwrap();
    let process = Process::serve_on(&dir.path().join("data"), &log, &[]).await;
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

async fn sigterm_in_the_middle_of_a_batch_drains_and_exits_with_0(log: Log) {
    let log = LogSettings::of(log).await;
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    // A batch that would wait far longer than the test: the stop must flush or release it.
    let process = Process::serve_on(&data_dir, &log, &["--set", "consumer.batch_age_max=60s"]).await;
    process.client.accept(&batch("a", 500)).await;
    assert!(process.terminate().success());
    let process = Process::serve_on(&data_dir, &log, &[]).await;
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

async fn a_dropped_table_pauses_the_consumer_and_migrate_heals_it(log: Log) {
    let app = Sandbox::on(log).await;
    app.client.accept(&batch("before", 10)).await;
    app.client.settled(10).await;
    app.running.store().unwrap().execute(Sql::new("DROP TABLE events SYNC")).await.unwrap();
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

async fn a_clock_that_jumps_back_loses_nothing_and_doubles_nothing(log: Log) {
    use std::sync::Arc;

    use flexflow::event::ManualClock;
    let noon = Timestamp::parse("2026-06-01T12:00:00Z").unwrap();
    let clock = Arc::new(ManualClock::at(noon));
    let app = Sandbox::on_with_clock(log, clock.clone()).await;
    app.client.accept(&batch("noon", 50)).await;
    app.client.settled(50).await;
    clock.set(noon.minus(Duration::from_secs(3 * 3600)));
    app.client.accept(&batch("noon", 50)).await;
    app.client.accept(&batch("morning", 50)).await;
    app.client.settled(100).await;
    assert_eq!(app.client.audit().await["balanced"], true);
    app.stop().await;
}

async fn a_deleted_event_stays_deleted_when_it_is_sent_or_replayed_again(log: Log) {
    let app = Sandbox::on_with(log, &[("eventlog.partitions", "1")]).await;
    let first = app.running.first_run().unwrap();
    let event = json!({
        "event": "paid", "distinct_id": "ada", "event_id": "gone", "timestamp": "2026-01-31T08:00:00Z"
    });
    app.client.accept(&json!([event, {"event": "other", "distinct_id": "ada"}])).await;
    let stored = app.client.settled(2).await;
    let gone = stored.iter().find(|event| event["event_id"] == "gone").unwrap();
    let time = |field: &str| Timestamp::parse(gone[field].as_str().unwrap()).unwrap();
    let tombstone = Tombstone {
        project_id: first.project_id.clone(),
        environment_id: first.environment_id.clone(),
        event_id: "gone".to_owned(),
        event_name: "paid".to_owned(),
        distinct_id: "ada".to_owned(),
        timestamp: time("timestamp"),
        received_at: time("received_at"),
        version: VOID_VERSION,
    };
    app.running.store().unwrap().tombstone(&[tombstone]).await.unwrap();
    app.client.settled(1).await;

    app.client.accept(&event).await;
    app.client.settled(1).await;
    // After a restart the rows are merged: only the tombstone is left of it, and no id window knows it.
    app.running.store().unwrap().execute(Sql::new("OPTIMIZE TABLE events FINAL")).await.unwrap();
    let app = app.restart(&[("consumer.dedupe_memory_max", "0 B")]).await;
    app.client.accept(&event).await;
    app.client.settled(1).await;
    // A dead letter of the same event, made storable: with another name it would be another row.
    let record = json!({
        "id": "gone", "project_id": first.project_id, "environment_id": first.environment_id,
        "event_name": "paid", "timestamp": "2026-01-31T09:00:00Z", "received_at": "2026-01-31T09:00:00Z",
        "schema_version": 1
    });
    let record = NewRecord {
        key: Some("ada".into()),
        value: record.to_string().into(),
        headers: Default::default(),
        timestamp: just_now(),
    };
    app.running.log().produce(&app.client.events_topic, vec![record]).await.remove(0).unwrap();
    app.client.settled(1).await;
    let replay = json!({"selection": {"all": true}, "fix": {"distinct_id": "ada"}});
    let (status, started) = app.client.operator_post("/api/dlq/replay", &replay).await;
    assert_eq!(status, 202, "{started}");
    let job = format!("/api/jobs/{}", started["job_id"].as_str().unwrap());
    eventually("the replay has written it back", || async {
        let (_, job) = app.client.operator_get(&job).await;
        let done = job["state"] == "succeeded" && job["progress"]["outcomes"]["replayed"] == 1;
        if done { Ok(()) } else { Err(job.to_string()) }
    })
    .await;
    let left = app.client.settled(1).await;
    assert_eq!(left[0]["event"], "other");
    let (_, trace) = app.client.get("/api/query/events/gone/trace").await;
    assert_eq!(trace["status"], "deleted", "{trace}");
    let audit = app.client.audit().await;
    assert_eq!((&audit["balanced"], &audit["totals"]["records"]), (&json!(true), &json!(6)), "{audit}");
    app.stop().await;
}

/// The value of a metric, summed over its labels.
async fn metric(client: &Client, name: &str) -> f64 {
    let answer = client.http.get(format!("{}/metrics", client.url)).send().await.unwrap();
    let text = answer.text().await.unwrap();
    let samples = text.lines().filter(|line| line.starts_with(name));
    samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

async fn an_engine_that_hangs_under_load_and_goes_on_loses_and_doubles_nothing(log: Log) {
    let log = LogSettings::of(log).await;
    let dir = tempfile::tempdir().unwrap();
    let args = ["--set", "store.request_timeout=2s", "--set", "consumer.backoff_max=500ms"];
    let process = Process::serve_on(&dir.path().join("data"), &log, &args).await;
    let client = &process.client;
    client.accept(&batch("before", 100)).await;
    client.settled(100).await;
    let engines = process.children();
    assert_eq!(engines.len(), 1, "one engine");
    signal(engines[0], "STOP");
    let during = Cell::new(0);
    eventually("an insert has waited in vain", || async {
        client.accept(&batch(&format!("during-{}", during.get()), 10)).await;
        during.set(during.get() + 10);
        // Its outcome is unknown: the engine may have its rows or not.
        if metric(client, "consumer_insert_errors_total").await > 0.0 {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    })
    .await;
    let accepted = 100 + during.get();
    assert!(client.lag().await.unwrap() > 0, "what was accepted meanwhile waits");
    let (_, ready) = client.get("/ready?role=capture").await;
    assert_eq!(ready["status"], "ready", "capture goes on: {ready}");
    signal(engines[0], "CONT");
    eventually("everything is visible once", || async {
        let (lag, events) = (client.lag().await?, client.events().await?);
        let ids: BTreeSet<_> = events.iter().map(|event| event["event_id"].as_str()).collect();
        if lag == 0 && events.len() == accepted && ids.len() == accepted {
            Ok(())
        } else {
            Err(format!("{} events, {} ids of {accepted}, lag {lag}", events.len(), ids.len()))
        }
    })
    .await;
    assert_eq!(process.children(), engines, "it was not restarted");
    assert_eq!(client.audit().await["balanced"], true);
    assert!(process.terminate().success());
}

async fn connections_that_break_after_the_rows_double_nothing(log: Log) {
    let engine = TestStore::start().await;
    let proxy = Proxy::to(engine.store.address().unwrap().parse().unwrap()).await;
    let (user, password) = engine.store.engine_login().unwrap();
    let settings = [
        ("store.url", &*format!("clickhouse://{}", proxy.address)),
        ("store.user", &user),
        ("store.password", &password),
        ("consumer.backoff_max", "500ms"),
    ];
    let app = Sandbox::on_with(log, &settings).await;
    app.client.accept(&batch("before", 10)).await;
    app.client.settled(10).await;
    proxy.cut_after_insert();
    let mut rng = StdRng::seed_from_u64(1);
    let mut rows = batch("during", 500);
    for row in rows.as_array_mut().unwrap() {
        // Nothing that compresses: the proxy tells rows from questions by their size on the wire.
        let noise: String = (0..16).map(|_| format!("{:016x}", rng.random::<u64>())).collect();
        row["properties"] = json!({"noise": noise});
    }
    app.client.accept(&rows).await;
    eventually("answers to rows were lost twice", || async {
        if proxy.cut() >= 2 { Ok(()) } else { Err(proxy.cut().to_string()) }
    })
    .await;
    assert!(app.client.lag().await.unwrap() > 0, "what is not confirmed is not committed");
    proxy.heal();
    app.client.settled(510).await;
    let rows: Vec<(u64,)> =
        app.running.store().unwrap().select(Sql::new("SELECT count() AS rows FROM events")).await.unwrap();
    assert_eq!(rows, [(510,)], "not even below FINAL");
    assert_eq!(app.client.audit().await["balanced"], true);
    app.stop().await;
    engine.store.close(Duration::from_secs(20)).await;
}

async fn too_many_parts_pause_the_consumer_and_make_no_dead_letter(log: Log) {
    let app = Sandbox::on_with(log, &[("consumer.backoff_max", "500ms")]).await;
    app.client.accept(&batch("before", 10)).await;
    app.client.settled(10).await;
    let store = app.running.store().unwrap();
    let strict = "ALTER TABLE events MODIFY SETTING parts_to_delay_insert = 1, parts_to_throw_insert = 1";
    store.execute(Sql::new(strict)).await.unwrap();
    app.client.accept(&batch("after", 10)).await;
    eventually("/ready says why the consumer waits", || async {
        let (status, ready) = app.client.get("/ready?role=consumer").await;
        let said = ready["components"].to_string();
        if status == 503 && said.contains("Too many parts") { Ok(()) } else { Err(ready.to_string()) }
    })
    .await;
    let (_, ready) = app.client.get("/ready?role=capture").await;
    assert_eq!(ready["status"], "ready", "capture goes on: {ready}");
    assert_eq!(app.client.lag().await.unwrap(), 10, "nothing is passed over");
    store
        .execute(Sql::new("ALTER TABLE events RESET SETTING parts_to_delay_insert, parts_to_throw_insert"))
        .await
        .unwrap();
    app.client.settled(20).await;
    app.client.wait_ready().await;
    let audit = app.client.audit().await;
    let totals = &audit["totals"];
    assert_eq!((&totals["stored"], &totals["dead_lettered"]), (&json!(20), &json!({})), "{audit}");
    app.stop().await;
}

/// What a store says that has come to its limits, with its code.
const LIMITS: [(&str, i32); 2] = [("Memory limit (total) exceeded", 241), ("Timeout exceeded", 159)];

#[tokio::test(flavor = "multi_thread")]
async fn a_store_at_its_limits_pauses_the_consumer_and_makes_no_dead_letter() {
    let app = Sandbox::with(&[("consumer.backoff_max", "300ms")]).await;
    let store = app.running.store().unwrap().clone();
    for (round, (said, code)) in LIMITS.into_iter().enumerate() {
        let before = 20 * round;
        app.client.accept(&batch(&format!("well-{round}"), 10)).await;
        app.client.settled(before + 10).await;
        // A view over the table throws what the store itself would, after the rows are in the table.
        let view = Sql::new(
            "CREATE MATERIALIZED VIEW at_its_limits ENGINE = Null AS SELECT throwIf(schema_version > 0, ",
        )
        .arg(said)
        .push(", toInt16(")
        .arg(code)
        .push(")) AS thrown FROM events SETTINGS allow_custom_error_code_in_throwif = 1");
        store.execute(view).await.unwrap();
        app.client.accept(&batch(&format!("limited-{round}"), 10)).await;
        eventually("/ready says what the store said", || async {
            let (_, ready) = app.client.operator_get("/ready").await;
            let consumer = ready["components"].as_array().unwrap().iter().find(|c| c["name"] == "consumer");
            let reason = consumer.and_then(|c| c["reason"].as_str()).unwrap_or_default().to_owned();
            if reason.contains(&format!("({code})")) { Ok(()) } else { Err(ready.to_string()) }
        })
        .await;
        assert!(metric(&app.client, "breaker_state{dependency=\"consumer.store\"").await > 0.0);
        let (status, _) = app.client.operator_get("/ready?role=capture").await;
        assert_eq!(status, 200, "capture goes on");
        assert_eq!(app.client.lag().await.unwrap(), 10, "nothing is passed over");
        store.execute(Sql::new("DROP TABLE at_its_limits")).await.unwrap();
        app.client.settled(before + 20).await;
        app.client.wait_ready().await;
    }
    let audit = app.client.audit().await;
    assert_eq!(audit["totals"]["dead_lettered"], json!({}), "{audit}");
    assert_eq!(audit["balanced"], true, "{audit}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_503_until_somebody_makes_room() {
    const MIB: u64 = 1 << 20;
    // A file system that nothing else writes to, where there is one: its room is what the test is about.
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let stat = rustix::fs::statvfs(dir.path()).unwrap();
    let enough = stat.f_bavail * stat.f_frsize - 128 * MIB;
    let settings = [("eventlog.disk_free_min", &*format!("{enough} B"))];
    let hog = dir.path().join("hog");
    let roles = [Role::Capture, Role::Auth];
    let app = Sandbox::build(dir, &roles, &settings, Options::default()).await;
    let accepted = Cell::new(0);
    let capture = async || {
        let (status, answer) = app.client.capture(&batch("full", 10)).await;
        match status {
            202 => accepted.set(accepted.get() + 10),
            _ => assert_eq!((status, &answer["code"]), (503, &json!("service_unavailable")), "{answer}"),
        }
        status
    };
    let until = async |status: u16| {
        eventually(&format!("capture answers {status}"), || async {
            match capture().await {
                seen if seen == status => Ok(()),
                seen => Err(seen.to_string()),
            }
        })
        .await;
    };
    until(202).await;

    let file = std::fs::File::create(&hog).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 256 * MIB).unwrap();
    until(503).await;
    let (status, ready) = app.client.get("/ready?role=capture").await;
    let said = ready["components"].to_string();
    assert!(status == 503 && said.contains("disk_free_min"), "{ready}");
    drop(file);
    std::fs::remove_file(&hog).unwrap();
    until(202).await;
    app.client.wait_ready().await;
    let topics = app.running.log().topics().await.unwrap();
    let written: i64 = topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.end).sum();
    assert_eq!(written, accepted.get(), "what was answered with 503 is not in the log, the rest is");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_may_not_migrate_changes_nothing_and_names_the_commands() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let command = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_flexflow"))
            .args(args)
            .arg("--data-dir")
            .arg(&data_dir)
            .output()
            .unwrap();
        (
            output.status.success(),
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
        )
    };
    let running = {
        let folder = data_dir.display().to_string();
        let config = flexflow::config::Config::from_overrides(&[
            ("data_dir", folder.as_str()),
            ("server.listen", "127.0.0.1:0"),
            ("server.migrate_on_start", "false"),
        ])
        .unwrap();
        flexflow::app::App::start(config, Role::ALL, Options::default()).await.unwrap()
    };
    rustls::crypto::ring::default_provider().install_default().ok();
    let url = format!("{}/ready", running.url());
    eventually("/ready says which commands are missing", || async {
        let answer = reqwest::get(&url).await.map_err(|e| e.to_string())?;
        let (status, body) = (answer.status(), answer.text().await.map_err(|e| e.to_string())?);
        let named = body.contains("flexflow migrate") && body.contains("flexflow topics create");
        if status == 503 && named { Ok(()) } else { Err(body) }
    })
    .await;
    assert!(running.first_run().is_none(), "nothing was made");
    running.stop().await.unwrap();

    for line in [["migrate", "--json"], ["topics", "create"]] {
        let (done, said) = command(&line);
        assert!(done, "{line:?}: {said}");
    }
    let process = Process::serve(&data_dir, &["--set", "server.migrate_on_start=false"]).await;
    process.client.accept(&batch("after", 3)).await;
    process.client.settled(3).await;
}

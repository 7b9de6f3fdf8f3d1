//! Records that cannot be stored: each becomes a dead letter with a reason, and none of its neighbours suffers.

use std::collections::BTreeMap;

use bytes::Bytes;
use flexflow::event::{Clock, SystemClock};
use flexflow::eventlog::{Header, NewRecord};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::support::{Log, Sandbox, eventually, eventually_for, just_now, on_every_log};

on_every_log! {
    poison_between_good_records_becomes_dead_letters_with_reasons
    a_topic_of_poison_stops_the_partition_instead_of_filling_the_dead_letters
    poison_and_good_records_for_a_long_while_each_end_where_they_belong
}

/// A record as another producer of the topic might write it.
fn record(value: impl Into<Bytes>) -> NewRecord {
    NewRecord {
        key: Some(Bytes::from_static(b"ada")),
        value: value.into(),
        headers: Default::default(),
        timestamp: just_now(),
    }
}

/// A good event of the first project.
fn good(app: &Sandbox, id: &str) -> NewRecord {
    let first = app.running.first_run().unwrap();
    record(
        json!({
            "id": id, "project_id": first.project_id, "environment_id": first.environment_id, "event_name": "good",
            "distinct_id": "ada", "timestamp": "2026-01-31T11:00:00Z", "received_at": just_now(),
            "schema_version": 1, "properties": {"n": 1}
        })
        .to_string(),
    )
}

async fn produce(app: &Sandbox, records: Vec<NewRecord>) {
    for outcome in app.running.log().produce(&app.client.events_topic, records).await {
        outcome.unwrap();
    }
}

async fn dead_letters(app: &Sandbox, count: usize) -> Vec<Value> {
    eventually(&format!("{count} dead letters are listed"), || async {
        let (status, page) = app.client.operator_get("/api/dlq?limit=500").await;
        let letters = page["dead_letters"].as_array().cloned().unwrap_or_default();
        if status == 200 && letters.len() == count { Ok(letters) } else { Err(format!("{status} {page}")) }
    })
    .await
}

async fn poison_between_good_records_becomes_dead_letters_with_reasons(log: Log) {
    let app = Sandbox::on(log).await;
    let poison: [(&[u8], &str); 4] = [
        (b"not json", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b"{\"id\":\"x\"}", "missing_field"),
        (b"{\"id\":\"x\",\"project_id\":\"p\",\"environment_id\":\"e\",\"event_name\":\"n\",\"distinct_id\":\"d\",\"timestamp\":\"2026-01-31T11:00:00Z\",\"received_at\":\"2026-01-31T11:00:00Z\",\"schema_version\":99}", "unknown_schema_version"),
    ];
    let mut records = vec![good(&app, "first")];
    for (i, (bytes, _)) in poison.iter().enumerate() {
        records.push(record(bytes.to_vec()));
        records.push(good(&app, &format!("good-{i}")));
    }
    produce(&app, records).await;
    app.client.settled(5).await;
    let letters = dead_letters(&app, 4).await;
    let mut kinds: Vec<&str> = letters.iter().map(|letter| letter["error_kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["invalid_json", "invalid_json", "missing_field", "unknown_schema_version"]);
    let audit = app.client.audit().await;
    assert_eq!((&audit["balanced"], &audit["totals"]["records"]), (&json!(true), &json!(9)), "{audit}");
    app.stop().await;
}

async fn a_topic_of_poison_stops_the_partition_instead_of_filling_the_dead_letters(log: Log) {
    let app = Sandbox::on_with(log, &[("eventlog.partitions", "1")]).await;
    produce(&app, (0..3000).map(|i| record(format!("poison {i}"))).collect()).await;
    eventually("/ready names the partition and the command", || async {
        let answer = app
            .client
            .http
            .get(format!("{}/ready", app.client.url))
            .send()
            .await
            .map_err(|e| e.to_string())?;
        let body = answer.text().await.map_err(|e| e.to_string())?;
        if body.contains("resume") && body.contains(&app.client.events_topic) { Ok(()) } else { Err(body) }
    })
    .await;
    let (_, stats) = app.client.operator_get("/api/dlq?limit=500").await;
    assert!(
        stats["dead_letters"].as_array().unwrap().len() < 500,
        "the topic was poured into the dead letters"
    );
    assert_eq!(app.client.lag().await.unwrap(), 3000, "nothing was passed over");
    let (status, _) = app
        .client
        .operator_post("/api/ops/consumer/resume", &json!({"topic": app.client.events_topic, "partition": 0}))
        .await;
    assert_eq!(status, 202);
    eventually("after the operator's word the records become dead letters", || async {
        match app.client.lag().await? {
            0 => Ok(()),
            lag => Err(format!("lag {lag}")),
        }
    })
    .await;
    assert_eq!(app.client.audit().await["balanced"], true);
    app.stop().await;
}

/// Every kind of poison at random among good records, over restarts: each is a dead letter with its reason, and nothing
/// else is. `FLEXFLOW_TEST_POISON_RECORDS` says how many.
async fn poison_and_good_records_for_a_long_while_each_end_where_they_belong(log: Log) {
    let count: usize =
        std::env::var("FLEXFLOW_TEST_POISON_RECORDS").map_or(4000, |count| count.parse().unwrap());
    let seed: u64 = std::env::var("FLEXFLOW_TEST_SEED")
        .map_or_else(|_| rand::rng().random(), |seed| seed.parse().unwrap());
    println!("repeat with FLEXFLOW_TEST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut app = Sandbox::on_with(log, &[("consumer.batch_rows_max", "300")]).await;
    let (mut stored, mut dead) = (0, BTreeMap::<&str, usize>::new());
    for part in 0..3 {
        let mut records = Vec::new();
        for i in 0..count / 3 {
            let mut next = good(&app, &format!("good-{part}-{i}"));
            next.timestamp = SystemClock.now();
            next.key = (rng.random_ratio(9, 10)).then(|| Bytes::from(format!("person-{}", i % 40)));
            let changed = |field: &str, value: Value| {
                let mut event: Value = serde_json::from_slice(&next.value).unwrap();
                event[field] = value;
                event.to_string()
            };
            let (value, kind): (Bytes, Option<&str>) = match rng.random_range(0..40) {
                0 => (Bytes::new(), Some("empty_record")),
                1 => (vec![rng.random::<u8>() | 0x80; 20].into(), Some("invalid_json")),
                2 => (next.value.slice(..next.value.len() - 1), Some("invalid_json")),
                3 => (changed("event_name", Value::Null).into(), Some("missing_field")),
                4 => (changed("distinct_id", json!(7)).into(), Some("invalid_field")),
                5 => (changed("timestamp", json!("1960-01-01T00:00:00Z")).into(), Some("out_of_range")),
                6 => (changed("schema_version", json!(99)).into(), Some("unknown_schema_version")),
                7 => {
                    let many =
                        (0..100).map(|n| Header { name: format!("h{n}").into(), value: vec![7; 100].into() });
                    next.headers = next.headers.iter().cloned().chain(many).collect();
                    (next.value.clone(), None)
                }
                _ => (next.value.clone(), None),
            };
            next.value = value;
            match kind {
                Some(kind) => *dead.entry(kind).or_default() += 1,
                None => stored += 1,
            }
            records.push(next);
        }
        for some in records.chunks(500) {
            produce(&app, some.to_vec()).await;
        }
        // In the middle of it.
        app = app.restart(&[("consumer.batch_rows_max", "300")]).await;
    }
    let done = std::time::Duration::from_secs(60 + count as u64 / 1000);
    eventually_for(done, "everything is dealt with", || async {
        match app.client.lag().await? {
            0 => Ok(()),
            lag => Err(format!("lag {lag}")),
        }
    })
    .await;
    let audit = app.client.audit().await;
    let totals = &audit["totals"];
    assert_eq!((&audit["balanced"], &totals["stored"]), (&json!(true), &json!(stored)), "{totals}");
    assert_eq!(totals["dead_lettered"], json!(dead), "{totals}");
    app.stop().await;
}

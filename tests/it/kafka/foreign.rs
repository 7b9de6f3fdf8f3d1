//! Records that other programs wrote with Kafka's own producers: compressed, in transactions, without keys or values, with
//! huge headers. Each is stored or a dead letter, each is counted, and none stops its partition.

use serde_json::{Value, json};

use crate::support::kafka::Kafka;
use crate::support::{Log, Sandbox, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn records_of_other_producers_are_stored_or_refused_by_name_and_all_are_counted() {
    let kafka = Kafka::shared().await;
    let app = Sandbox::on(Log::Kafka).await;
    let first = app.running.first_run().unwrap();
    let event = |id: &str, version: u32| {
        let event = json!({
            "id": id, "project_id": first.project_id, "environment_id": first.environment_id,
            "event_name": "good", "distinct_id": "ada", "timestamp": "2026-01-31T11:00:00Z",
            "received_at": "2026-01-31T11:00:01Z", "schema_version": version, "properties": {"n": 1}
        });
        event.to_string()
    };
    let topic = app.client.events_topic.clone();
    let file = tempfile::NamedTempFile::new().unwrap();
    let huge: Vec<String> = (0..200).map(|n| format!("h{n}:{}", "v".repeat(200))).collect();
    let lines = [
        format!("h:v\tada\t{}", event("plain", 1)),
        format!("{}\tada\t{}", huge.join(","), event("huge headers", 1)),
        format!("h:v\tNULL\t{}", event("no key", 1)),
        "h:v\tada\tNULL".to_owned(),
        "h:v\tada\tnot JSON".to_owned(),
        format!("h:v\tada\t{}", event("from the future", 99)),
    ];
    std::fs::write(file.path(), lines.join("\n") + "\n").unwrap();
    let properties = ["parse.key=true", "parse.headers=true", "null.marker=NULL"];
    let properties = properties.iter().flat_map(|property| ["--property", property]);
    let args: Vec<&str> =
        ["--topic", &topic, "--compression-codec=zstd"].into_iter().chain(properties).collect();
    kafka.feed("console-producer", &args, file.path()).await;
    // Transactions: each ends with a marker that takes an offset and is no record. The tool draws from these lines.
    let drawn: Vec<String> = (0..20).map(|n| event(&format!("drawn {n}"), 1)).collect();
    std::fs::write(file.path(), drawn.join("\n") + "\n").unwrap();
    let payloads = file.path().display().to_string();
    let args = ["--topic", &topic, "--num-records", "200", "--throughput", "-1", "--payload-file", &payloads];
    let transactions = ["--transactional-id", &topic, "--transaction-duration-ms", "1"];
    kafka.perf("producer-perf-test", &[&args[..], &transactions].concat()).await;

    let ends: i64 = {
        let (_, answer) = app.client.operator_get("/api/ops/topics").await;
        let found = answer["topics"].as_array().unwrap().iter().find(|one| one["name"] == *topic).unwrap();
        found["partitions"].as_array().unwrap().iter().map(|one| one["end"].as_i64().unwrap()).sum()
    };
    assert!(ends > 206, "there are markers: {ends}");
    eventually("nothing is left, behind the last marker either", || async {
        match app.client.lag().await? {
            0 => Ok(()),
            lag => Err(format!("lag {lag}")),
        }
    })
    .await;
    let mut names: Vec<String> = app
        .client
        .events()
        .await
        .unwrap()
        .iter()
        .map(|event| event["event_id"].as_str().unwrap().to_owned())
        .collect();
    names.retain(|name| !name.starts_with("drawn"));
    names.sort_unstable();
    assert_eq!(names, ["huge headers", "no key", "plain"]);
    let audit = app.client.audit().await;
    let totals = &audit["totals"];
    assert_eq!(audit["balanced"], true, "{audit}");
    let dead = json!({"empty_record": 1, "invalid_json": 1, "unknown_schema_version": 1});
    assert_eq!(totals["dead_lettered"], dead, "{totals}");
    let count = |name: &str| totals[name].as_u64().unwrap_or_default();
    assert_eq!(count("records"), 206, "markers are no records: {totals}");
    assert_eq!(count("stored") + duplicates(totals), 203, "{totals}");
    app.stop().await;
}

fn duplicates(totals: &Value) -> u64 {
    totals["duplicate"].as_u64().unwrap_or_default()
}

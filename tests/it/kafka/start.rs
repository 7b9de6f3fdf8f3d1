//! The whole product on Kafka: from an empty cluster, and from one that is not there yet.

use flexflow::app::{App, Options, Role};
use flexflow::config::Config;
use flexflow::eventlog::EventLog;
use serde_json::json;

use super::logs::open;
use crate::support::kafka::{Kafka, VERSION};
use crate::support::log::LogSettings;
use crate::support::sandbox::Sandbox;
use crate::support::{Process, eventually, eventually_for};

#[tokio::test(flavor = "multi_thread")]
async fn serve_all_on_an_empty_kafka_ends_in_a_working_product() {
    let kafka = Kafka::start(1, VERSION, "").await;
    let sandbox = Sandbox::with(&[("eventlog.kafka.bootstrap_servers", kafka.bootstrap())]).await;
    let client = &sandbox.client;
    let batch: Vec<_> =
        (0..50).map(|i| json!({"event": "bought", "distinct_id": format!("ann-{i}")})).collect();
    let ids = client.accept(&json!({ "batch": batch })).await;
    assert_eq!(ids.len(), 50);
    let events = client.settled(50).await;
    assert_eq!(events.len(), 50);
    let (status, doctor) = client.operator_get("/api/ops/doctor").await;
    assert_eq!((status, &doctor["ok"]), (200, &json!(true)), "{doctor}");
    let audit = client.audit().await;
    assert_eq!(audit["balanced"], json!(true), "{audit}");
    let described = kafka.tool("topics", &["--describe", "--topic", "events"]).await;
    assert!(described.contains("PartitionCount: 12"), "{described}");
    let group = kafka.tool("consumer-groups", &["--describe", "--group", "event-consumers"]).await;
    assert!(group.contains("events") && group.contains("flexflow"), "{group}");
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_are_kept_otherwise_than_configured_are_named_and_stay_as_they_are() {
    let kafka = Kafka::shared().await;
    let log = LogSettings::on(kafka);
    let topic = log.events_topic().to_owned();
    let made = ["--create", "--topic", &topic, "--partitions", "3"];
    let kept = ["--config", "retention.ms=60000", "--config", "max.message.bytes=300000"];
    kafka.tool("topics", &[&made[..], &kept[..]].concat()).await;
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let process = Process::serve_on(&data_dir, &log, &[]).await;
    let (status, found) = process.client.operator_get("/api/ops/topics").await;
    let remarks: Vec<&str> =
        found["remarks"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
    let said = std::fs::read_to_string(data_dir.join("stdout")).unwrap();
    let expected = [
        "has 3 partitions, eventlog.partitions says 4".to_owned(),
        format!("--entity-name {topic} --add-config retention.ms=604800000`"),
        format!("--entity-name {topic} --add-config max.message.bytes="),
    ];
    assert_eq!(
        (status, remarks.len()),
        (200, expected.len()),
        "only the topic that was made by hand: {remarks:?}"
    );
    for words in &expected {
        assert!(remarks.iter().any(|remark| remark.contains(words)), "{words}: {remarks:?}");
        assert!(said.contains(words), "the log says it, too: {words}\n{said}");
    }
    let settings = process.client.operator_get("/api/ops/doctor").await.1;
    assert!(settings.to_string().contains("retention.ms=604800000"), "{settings}");
    assert!(process.terminate().success());
    let described = kafka.tool("topics", &["--describe", "--topic", &topic]).await;
    for kept in ["PartitionCount: 3", "retention.ms=60000", "max.message.bytes=300000"] {
        assert!(described.replace('\t', " ").contains(kept), "{kept}: {described}");
    }
    let told = open(kafka.bootstrap(), &[]).topic_settings(&[topic.as_str().into()]).await.unwrap();
    assert_eq!(told[0].replication_factor, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_kafka_says_so_and_heals_when_it_comes_up() {
    let kafka = Kafka::start(1, VERSION, "").await;
    kafka.stop(1).await;
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data").display().to_string();
    let settings = [
        ("data_dir", data_dir.as_str()),
        ("server.listen", "127.0.0.1:0"),
        ("eventlog.kafka.bootstrap_servers", kafka.bootstrap()),
        ("eventlog.kafka.delivery_timeout", "3s"),
    ];
    rustls::crypto::ring::default_provider().install_default().ok();
    let config = Config::from_overrides(&settings).expect("settings");
    let running = App::start(config, Role::ALL, Options::default()).await.expect("it starts all the same");
    let http = reqwest::Client::new();
    let ready = || async {
        let answer = http.get(format!("{}/ready", running.url())).send().await.map_err(|e| e.to_string())?;
        let status = answer.status().as_u16();
        let body: serde_json::Value = answer.json().await.map_err(|e| e.to_string())?;
        Ok::<_, String>((status, body))
    };
    let reason = eventually("/ready names Kafka", || async {
        let (status, body) = ready().await?;
        let log = body["components"].as_array().unwrap().iter().find(|c| c["name"] == "eventlog").cloned();
        let reason = log.as_ref().and_then(|log| log["reason"].as_str()).unwrap_or_default().to_owned();
        if status == 503 && !reason.is_empty() { Ok(reason) } else { Err(body.to_string()) }
    })
    .await;
    assert!(reason.contains("eventlog.kafka.bootstrap_servers"), "{reason}");
    let key = running.first_run().expect("a first run").api_key;
    let capture = || {
        let request = http.post(format!("{}/capture", running.url())).header("X-API-Key", &key);
        request.json(&json!({"event": "bought", "distinct_id": "ann"})).send()
    };
    let refused = capture().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    kafka.restart(1).await;
    eventually_for(std::time::Duration::from_secs(120), "/ready says 200", || async {
        let (status, body) = ready().await?;
        if status == 200 { Ok(()) } else { Err(body.to_string()) }
    })
    .await;
    eventually("an event is taken", || async {
        let status = capture().await.map_err(|error| error.to_string())?.status();
        if status == 202 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    running.stop().await.expect("a clean stop");
}

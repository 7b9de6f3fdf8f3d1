//! The whole product under a login that may do nothing at first: each refusal stands in `/ready` with the command that
//! cures it, and no restart is needed.

use flexflow::app::{App, Options, Role};
use flexflow::config::Config;
use serde_json::json;

use super::refusals::{Guarded, guarded};
use crate::support::eventually;
use crate::support::log::LogSettings;
use crate::support::sandbox::Client;

/// Waits until a component is in this state, for a reason with all of these words.
async fn component_is(client: &Client, name: &str, state: &str, words: &[&str]) {
    eventually(&format!("{name} is {state}"), || async {
        let (_, report) = client.operator_get("/api/ops/components").await;
        let components = report["components"].as_array().ok_or_else(|| report.to_string())?;
        let found = components.iter().find(|one| one["name"] == name).ok_or("no such component")?;
        let reason = found["reason"].as_str().unwrap_or_default();
        let is_so = found["state"] == state && words.iter().all(|word| reason.contains(word));
        if is_so { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_login_may_not_do_is_named_with_its_cure_and_heals_without_a_restart() {
    let guarded = guarded().await;
    let Guarded { kafka, address, ca_file, .. } = &guarded;
    let log = LogSettings::on(kafka);
    let prefix = log.events_topic().trim_end_matches("events");
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data").display().to_string();
    let mut settings: Vec<(&str, &str)> = log.settings().collect();
    settings.extend([
        ("data_dir", data_dir.as_str()),
        ("server.listen", "127.0.0.1:0"),
        ("consumer.backoff_max", "1s"),
        ("eventlog.kafka.bootstrap_servers", address.as_str()),
        ("eventlog.kafka.tls", "true"),
        ("eventlog.kafka.tls_ca_file", ca_file.as_str()),
        ("eventlog.kafka.sasl.mechanism", "PLAIN"),
        ("eventlog.kafka.sasl.username", "writer"),
        ("eventlog.kafka.sasl.password", "pencil"),
    ]);
    rustls::crypto::ring::default_provider().install_default().ok();
    let config = Config::from_overrides(&settings).expect("settings");
    let running = App::start(config, Role::ALL, Options::default()).await.expect("it starts all the same");
    let client = Client {
        http: reqwest::Client::new(),
        url: running.url().to_owned(),
        key: running.first_run().unwrap().api_key,
        operator_token: running.operator_token().to_owned(),
        events_topic: log.events_topic().to_owned(),
        group_id: log.group_id().to_owned(),
    };
    let who = "eventlog.kafka.sasl.username (writer)";
    let acl = async |action: &str, resource: &[&str], operations: &[&str]| {
        let mut args =
            vec![action, "--allow-principal", "User:writer", "--resource-pattern-type", "prefixed"];
        args.extend_from_slice(resource);
        operations.iter().for_each(|operation| args.extend(["--operation", operation]));
        if action == "--remove" {
            args.push("--force");
        }
        kafka.tool("acls", &args).await;
    };

    // Nothing: not even whether there are topics.
    component_is(&client, "topics", "down", &[who, "kafka-topics", "--create", "--operation Describe"]).await;
    assert_eq!(client.operator_get("/ready").await.0, 503);
    assert_eq!(client.capture(&json!({"event": "e", "distinct_id": "d"})).await.0, 503);
    // All topics, and no group.
    acl("--add", &["--topic", prefix], &["All"]).await;
    component_is(&client, "topics", "up", &[]).await;
    let of_group = format!("User:writer --operation Read --group {}`", log.group_id());
    component_is(&client, "consumer", "down", &["its group refuses it", who, &of_group]).await;
    acl("--add", &["--group", prefix], &["All"]).await;
    component_is(&client, "consumer", "up", &[]).await;
    client.wait_ready().await;
    client.accept(&json!({"event": "e", "distinct_id": "d", "event_id": "1"})).await;
    client.settled(1).await;
    // A right that is taken away while everything runs.
    acl("--add", &["--topic", prefix], &["Describe", "DescribeConfigs", "Write"]).await;
    acl("--remove", &["--topic", prefix], &["All"]).await;
    let of_topic = format!("--operation Read --topic {}`", log.events_topic());
    component_is(&client, "consumer", "down", &[who, &of_topic]).await;
    client.accept(&json!({"event": "e", "distinct_id": "d", "event_id": "2"})).await;
    acl("--add", &["--topic", prefix], &["Read"]).await;
    component_is(&client, "consumer", "up", &[]).await;
    client.settled(2).await;
    running.stop().await.expect("a clean stop");
}

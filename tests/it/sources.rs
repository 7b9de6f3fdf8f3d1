//! Further topics, written by other programs: what stands in them becomes events, once, and none of it gets lost.

use bytes::Bytes;
use flexflow::event::{Clock, SystemClock};
use flexflow::eventlog::{EventLog, NewRecord};
use serde_json::{Value, json};

use crate::support::log::LogSettings;
use crate::support::{Log, Sandbox, eventually, on_every_log};

on_every_log! {
    messages_of_other_programs_become_events_once
}

/// Writes as another program would: any key, no headers.
async fn write(log: &dyn EventLog, topic: &str, values: &[String]) {
    let record = |value: &String| NewRecord {
        key: None,
        value: Bytes::from(value.clone()),
        headers: Default::default(),
        timestamp: SystemClock.now(),
    };
    for outcome in log.produce(topic, values.iter().map(record).collect()).await {
        outcome.unwrap();
    }
}

/// Every group has read everything, and these events are visible.
async fn visible(app: &Sandbox, count: usize) -> Vec<Value> {
    eventually(&format!("{count} events are visible and nothing waits"), || async {
        let (_, lag) = app.client.operator_get("/api/ops/lag").await;
        let left: i64 =
            lag["groups"].as_array().ok_or("no groups")?.iter().filter_map(|row| row["lag"].as_i64()).sum();
        let events = app.client.events().await?;
        if left == 0 && events.len() == count {
            Ok(events)
        } else {
            Err(format!("{}, lag {left}", events.len()))
        }
    })
    .await
}

async fn messages_of_other_programs_become_events_once(log: Log) {
    let settings = LogSettings::of(log).await;
    let clicks = settings.further_topic("raw.clicks.v1");
    let calls = settings.further_topic("raw.calls.v1");
    let app = Sandbox::build_on(
        tempfile::tempdir().unwrap(),
        settings,
        flexflow::app::Role::ALL,
        &[("consumer.sources", &format!("[{{ topic = \"{clicks}\", decoder = \"flexprice\" }}]"))],
        flexflow::app::Options::default(),
    )
    .await;
    let first = app.running.first_run().unwrap();
    let (project, environment) = (first.project_id.as_str(), first.environment_id.as_str());
    let click = |id: &str| {
        json!({
            "id": id, "tenant_id": project, "environment_id": environment, "event_name": "click",
            "external_customer_id": "acme", "timestamp": "2026-01-31T11:00:00Z",
            "ingested_at": "0001-01-01T00:00:00Z", "properties": {"cost": 0.10}
        })
    };
    let many =
        json!({"events": [click("c2"), click("c3")], "tenant_id": project, "environment_id": environment});
    let mut nameless = click("c4");
    nameless.as_object_mut().unwrap().remove("event_name");
    let messages = [click("c1").to_string(), many.to_string(), nameless.to_string(), click("c1").to_string()];
    write(&**app.running.log(), &clicks, &messages).await;
    let events = visible(&app, 3).await;
    for event in &events {
        let said = (&event["event"], &event["distinct_id"], &event["properties"]["cost"]);
        assert_eq!(said, (&json!("click"), &json!("acme"), &json!(0.10)));
    }

    // A message that will not do is a dead letter of its own topic, and goes through the decoder again when replayed.
    let (status, page) = app.client.operator_get("/api/dlq?limit=10").await;
    let letter = &page["dead_letters"][0];
    let told = (status, &letter["error_kind"], &letter["stage"], &letter["event_id"]);
    assert_eq!(told, (200, &json!("missing_field"), &json!("sources"), &json!("c4")), "{page}");
    let order = json!({"selection": {"error_kind": "missing_field"}, "fix": {"event_name": "click"}});
    let (status, started) = app.client.operator_post("/api/dlq/replay", &order).await;
    assert_eq!(status, 202, "{started}");
    visible(&app, 4).await;
    let (_, trace) = app.client.get("/api/query/events/c4/trace").await;
    assert_eq!(trace["status"], "stored", "{trace}");

    // Another source is added, of payloads that a transform makes events of; the former goes on where it was.
    let sources = format!(
        "[{{ topic = \"{clicks}\", decoder = \"flexprice\" }}, {{ topic = \"{calls}\", decoder = \"raw\", \
         project_id = \"{project}\", environment_id = \"{environment}\" }}]"
    );
    let app = app.restart(&[("consumer.sources", &sources)]).await;
    let call = json!({
        "id": "call-1", "orgId": "acme", "methodName": "Chat", "providerName": "OpenAI",
        "createdAt": "2026-01-31T12:00:00Z", "data": {"modelName": "gpt", "promptTokens": 3}
    });
    write(&**app.running.log(), &calls, &[call.to_string(), call.to_string()]).await;
    write(&**app.running.log(), &clicks, &[click("c5").to_string()]).await;
    let events = visible(&app, 6).await;
    assert_eq!(events.iter().filter(|event| event["event"] == "click").count(), 5);

    let audit = app.client.audit().await;
    assert_eq!(audit["balanced"], true, "{audit}");
    let of_clicks = audit["sources"].as_array().unwrap().iter().find(|one| one["topic"] == *clicks).unwrap();
    let terms = (&of_clicks["records"], &of_clicks["handed_on"], &of_clicks["dead_lettered"]);
    assert_eq!(terms, (&json!(6), &json!(5), &json!({"missing_field": 1})), "{audit}");
    app.stop().await;
}

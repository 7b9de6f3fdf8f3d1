//! The main job: an event in, an answer out, once, whatever the sender does twice.

use std::sync::Arc;
use std::time::Duration;

use flexflow::event::{ManualClock, Timestamp};
use serde_json::json;

use crate::support::{Log, Sandbox, eventually, on_every_log};

on_every_log! {
    an_event_is_accepted_found_and_traced
    the_same_id_counts_once_in_one_batch_in_two_after_a_restart_and_with_another_time
    the_same_id_hours_and_days_later_counts_once
    settings_of_one_project_and_environment_see_no_others_rows
}

async fn an_event_is_accepted_found_and_traced(log: Log) {
    let app = Sandbox::on(log).await;
    let ids = app
        .client
        .accept(&json!({"event": "signed up", "distinct_id": "ada", "properties": {"plan": "pro"}}))
        .await;
    let events = app.client.settled(1).await;
    assert_eq!(events[0]["event_id"], ids[0]);
    assert_eq!(events[0]["event"], "signed up");
    assert_eq!(events[0]["properties"], json!({"plan": "pro"}));
    let (status, trace) = app.client.get(&format!("/api/query/events/{}/trace", ids[0])).await;
    assert_eq!((status, &trace["status"]), (200, &json!("stored")), "{trace}");
    let audit = app.client.audit().await;
    assert_eq!(audit["balanced"], true, "{audit}");
    app.stop().await;
}

pub(crate) async fn the_same_id_counts_once_in_one_batch_in_two_after_a_restart_and_with_another_time(
    log: Log,
) {
    let app = Sandbox::on(log).await;
    let event = |timestamp: &str| json!({"event": "paid", "distinct_id": "ada", "event_id": "order-1", "timestamp": timestamp});
    let (morning, evening) = ("2026-01-31T08:00:00Z", "2026-01-31T20:00:00Z");
    app.client.accept(&json!([event(morning), event(morning), event(evening)])).await;
    app.client.settled(1).await;
    app.client.accept(&event(morning)).await;
    app.client.accept(&event(evening)).await;
    app.client.settled(1).await;
    let app = app.restart(&[]).await;
    app.client.accept(&event("2026-01-30T08:00:00Z")).await;
    app.client.accept(&json!({"event": "other", "distinct_id": "ada"})).await;
    let events = app.client.settled(2).await;
    let kept = events.iter().find(|event| event["event_id"] == "order-1").unwrap();
    assert_eq!(kept["timestamp"], "2026-01-31T08:00:00.000Z", "the first one stays");
    let audit = app.client.audit().await;
    assert_eq!(audit["balanced"], true, "{audit}");
    app.stop().await;
}

async fn the_same_id_hours_and_days_later_counts_once(log: Log) {
    let noon = Timestamp::parse("2026-06-01T12:00:00Z").unwrap();
    let clock = Arc::new(ManualClock::at(noon));
    let app = Sandbox::on_with_clock(log, clock.clone()).await;
    let event = json!({"event": "paid", "distinct_id": "ada", "event_id": "order-1"});
    let mut dated = event.clone();
    dated["timestamp"] = json!(noon.to_string());
    let hours = |hours: u64| clock.set(noon.plus(Duration::from_secs(hours * 3600)));
    app.client.accept(&dated).await;
    app.client.settled(1).await;
    // On another day, since without a time it happened when it came: the id window knows it.
    hours(20);
    app.client.accept(&event).await;
    app.client.settled(1).await;
    // Long after the id window has forgotten it, as an SDK sends it again: its row has the same key.
    hours(24 * 6);
    app.client.accept(&dated).await;
    let kept = app.client.settled(1).await;
    assert_eq!(kept[0]["timestamp"], noon.to_string(), "the first one stays");
    let totals = app.client.audit().await;
    assert_eq!((&totals["balanced"], &totals["totals"]["records"]), (&json!(true), &json!(3)), "{totals}");
    app.stop().await;
}

async fn settings_of_one_project_and_environment_see_no_others_rows(log: Log) {
    let app = Sandbox::on(log).await;
    let (status, other) = app.client.operator_post("/api/projects", &json!({"name": "other"})).await;
    assert_eq!(status, 201, "{other}");
    let project = other["id"].as_str().unwrap();
    let environment = other["environments"][0]["id"].as_str().unwrap();
    let (status, key) = app
        .client
        .operator_post(
            &format!("/api/projects/{project}/api-keys"),
            &json!({"name": "test", "environment_id": environment, "scopes": ["ingest", "query"]}),
        )
        .await;
    assert_eq!(status, 201, "{key}");
    let mut stranger = app.client.clone();
    stranger.key = key["api_key"].as_str().unwrap().to_owned();
    app.client.accept(&json!({"event": "mine", "distinct_id": "ada", "event_id": "same"})).await;
    stranger.accept(&json!({"event": "theirs", "distinct_id": "ada", "event_id": "same"})).await;
    let events = eventually("the stranger's event is visible", || async {
        let events = stranger.events().await?;
        if events.is_empty() { Err("nothing".to_owned()) } else { Ok(events) }
    })
    .await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["event"], "theirs");
    let mine = app.client.settled(1).await;
    assert_eq!(mine[0]["event"], "mine");
    app.stop().await;
}

//! `audit --metadata`: rows that do not say where they came from are counted, filled in from the log, and marked.

use bytes::Bytes;
use flexflow::event::Timestamp;
use flexflow::eventlog::NewRecord;
use flexflow::store::{EventBlock, EventRow, Sql};
use serde_json::json;
use uuid::Uuid;

use crate::support::{Log, Sandbox, on_every_log};

on_every_log! {
    rows_that_lack_metadata_are_counted_filled_in_once_and_marked
}

/// An event as an import would have written it.
fn imported<'a>(project: &'a str, environment: &'a str, id: &'a str) -> EventRow<'a> {
    EventRow {
        project_id: project,
        environment_id: environment,
        event_id: id,
        event_name: "seen",
        distinct_id: "ada",
        customer_id: "",
        session_id: "",
        source: "",
        producer: "",
        raw_event_id: "",
        timestamp: Timestamp::from_millis(1_767_225_600_000),
        received_at: Timestamp::EPOCH,
        schema_version: 0,
        source_topic: "",
        source_topic_id: Uuid::nil(),
        source_partition: -1,
        source_offset: -1,
        properties: r#"{"kept":"as it was"}"#,
        version: 0,
        is_deleted: false,
    }
}

async fn rows_that_lack_metadata_are_counted_filled_in_once_and_marked(log: Log) {
    let sandbox = Sandbox::on(log).await;
    let client = &sandbox.client;
    let first = sandbox.running.first_run().unwrap();
    client.accept(&json!([{"event": "seen", "distinct_id": "ada", "event_id": "whole"}])).await;
    client.settled(1).await;
    let (_, report) = client.operator_get("/api/ops/audit/metadata").await;
    assert_eq!((&report["complete"], &report["rows"]), (&json!(true), &json!(1)), "{report}");

    // Another producer, without headers.
    let value = json!({"id": "bare", "project_id": first.project_id, "environment_id": first.environment_id,
                       "event_name": "seen", "distinct_id": "ada", "timestamp": "2026-01-01T00:00:00Z",
                       "received_at": "2026-01-01T00:00:01Z", "schema_version": 1});
    let record = NewRecord {
        key: Some(Bytes::from_static(b"ada")),
        value: Bytes::from(value.to_string()),
        headers: Default::default(),
        timestamp: Timestamp::from_millis(1_767_225_601_000),
    };
    for outcome in sandbox.running.log().produce(&client.events_topic, vec![record]).await {
        outcome.unwrap();
    }
    client.settled(2).await;
    // An import: one event that the log knows nothing of, one whose record it has.
    let store = sandbox.running.store().unwrap();
    let mut block = EventBlock::new();
    block.push(&imported(&first.project_id, &first.environment_id, "imported"));
    block.push(&imported(&first.project_id, &first.environment_id, "bare"));
    store.insert_events(&block, "import").await.unwrap();

    let (_, report) = client.operator_get("/api/ops/audit/metadata").await;
    let scope = &report["scopes"][0];
    assert_eq!((&report["complete"], &scope["rows"], &scope["full"]), (&json!(false), &json!(3), &json!(1)));
    assert_eq!((&scope["without_position"], &scope["without_producer"]), (&json!(2), &json!(2)), "{report}");
    assert_eq!(report["schema_versions"], json!({"0": 2, "1": 1}), "{report}");

    let (status, filled) = client.operator_post("/api/ops/audit/metadata/backfill", &json!({})).await;
    assert_eq!((status, &filled["rows"], &filled["from_log"]), (200, &json!(2), &json!(1)), "{filled}");
    let (_, again) = client.operator_post("/api/ops/audit/metadata/backfill", &json!({})).await;
    assert_eq!(again["rows"], 0, "a row is filled in once");
    let rows: Vec<(String, String, i64, u32, String)> = store
        .select(Sql::new(
            "SELECT event_id AS a, toString(producer) AS b, source_offset AS c, schema_version AS d, properties AS e \
             FROM events FINAL ORDER BY a",
        ))
        .await
        .unwrap();
    let of = |id: &str| rows.iter().find(|row| row.0 == id).unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!((of("bare").1.as_str(), of("bare").3), ("backfill", 1));
    assert!(of("bare").2 >= 0, "its place in the log: {rows:?}");
    assert_eq!(
        (of("imported").1.as_str(), of("imported").2),
        ("backfill", -1),
        "nobody knows where it stood"
    );
    assert_eq!(of("imported").4, r#"{"kept":"as it was"}"#);
    assert_eq!(of("whole").1, "capture");
    let (_, report) = client.operator_get("/api/ops/audit/metadata").await;
    assert_eq!((&report["scopes"][0]["backfilled"], &report["full"]), (&json!(2), &json!(2)), "{report}");
    // An owner of one project is not shown those of others.
    let (status, _) = client.get("/api/ops/audit/metadata").await;
    assert_eq!(status, 403);
    sandbox.stop().await;
}

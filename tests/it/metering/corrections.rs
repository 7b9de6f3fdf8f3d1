//! Void, amend, and totals as of an earlier moment.

use flexflow::event::Timestamp;
use flexflow::store::Sql;

use super::*;

on_every_log! {
    voided_and_amended_events_leave_earlier_totals_as_they_were
    a_final_total_is_swept_and_can_be_had_again
    a_correction_that_was_written_down_and_never_made_counts_its_event_once_in_earlier_totals
}

fn sum(more: &[(&str, &str)]) -> Value {
    let mut question = json!({
        "event_name": "call", "aggregation_type": "SUM", "property_name": "n",
        "start_time": "2026-01-01T00:00:00Z", "end_time": "2026-03-01T00:00:00Z",
    });
    for (key, value) in more {
        question[*key] = (*value).into();
    }
    question
}

/// The store's clock is past this moment.
async fn a_moment_later(client: &Client) -> String {
    let (_, version) = client.get("/v1/events/monitoring").await;
    let now = Timestamp::parse(version["end_time"].as_str().unwrap()).unwrap();
    eventually("the clock moves on", || async {
        let (_, later) = client.get("/v1/events/monitoring").await;
        let later = Timestamp::parse(later["end_time"].as_str().unwrap()).unwrap();
        if later > now.plus(std::time::Duration::from_millis(50)) { Ok(()) } else { Err(later.to_string()) }
    })
    .await;
    now.plus(std::time::Duration::from_millis(20)).to_string()
}

async fn voided_and_amended_events_leave_earlier_totals_as_they_were(log: Log) {
    let app = Sandbox::on(log).await;
    let client = &app.client;
    let events: Vec<Value> = (0..5)
        .map(|n| {
            event(
                &format!("e::{n}"),
                "ada",
                &format!("2026-01-1{n}T00:00:00Z"),
                &json!({"n": format!("{n}.01")}),
            )
        })
        .collect();
    stored(client, &events).await;
    assert_eq!(usage(client, &sum(&[])).await["exact_value"], "10.05");
    let before = a_moment_later(client).await;

    let void = json!({"event_id": "e::4", "reason": "sent by a test machine"});
    let (status, _) = client.post("/v1/events/void", &void).await;
    assert_eq!(status, 403, "only who may manage the project");
    let (status, voided) = client.operator_post("/v1/events/void", &void).await;
    assert_eq!((status, &voided["action"]), (200, &json!("void")), "{voided}");
    assert_eq!(usage(client, &sum(&[])).await["exact_value"], "6.04");
    // A late event lands in the window it belongs to.
    stored(client, &[event("late", "ada", "2026-01-02T00:00:00Z", &json!({"n": 100}))]).await;
    assert_eq!(usage(client, &sum(&[])).await["exact_value"], "106.04");
    let between = a_moment_later(client).await;

    // Another value; then another day, name and customer.
    let amend =
        json!({"event_id": "e::3", "reason": "wrong unit", "properties": {"n": "0.000000000000000003"}});
    let (status, amended) = client.operator_post("/v1/events/amend", &amend).await;
    assert_eq!((status, &amended["action"]), (200, &json!("amend")), "{amended}");
    assert_eq!(usage(client, &sum(&[])).await["exact_value"], "103.030000000000000003");
    let moved = json!({"event_id": "e::2", "reason": "wrong customer", "external_customer_id": "bob",
        "timestamp": "2026-02-02T00:00:00Z"});
    let (status, answer) = client.operator_post("/v1/events/amend", &moved).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(usage(client, &sum(&[("external_customer_id", "bob")])).await["exact_value"], "2.01");
    assert_eq!(usage(client, &sum(&[])).await["exact_value"], "103.030000000000000003");
    assert_eq!(
        usage(client, &sum(&[("end_time", "2026-02-01T00:00:00Z")])).await["exact_value"],
        "101.020000000000000003"
    );

    // What was, stays what it was.
    assert_eq!(usage(client, &sum(&[("as_of", &before)])).await["exact_value"], "10.05");
    assert_eq!(usage(client, &sum(&[("as_of", &between)])).await["exact_value"], "106.04");
    let ada = [("as_of", before.as_str()), ("external_customer_id", "ada"), ("window_size", "DAY")];
    let days = usage(client, &sum(&ada)).await;
    assert_eq!(days["results"].as_array().unwrap().len(), 5, "{days}");
    assert_eq!(days["results"][2]["exact_value"], "2.01", "{days}");

    // The resend of a voided event stays voided, and every correction has its line.
    stored(client, &[event("e::4", "ada", "2026-01-14T00:00:00Z", &json!({"n": "4.01"}))]).await;
    assert_eq!(usage(client, &sum(&[])).await["exact_value"], "103.030000000000000003");
    let (_, lines) = client.get("/v1/events/corrections?event_id=e::2").await;
    let line = &lines["items"][0];
    assert_eq!(
        (&line["reason"], &line["before"][0]["distinct_id"]),
        (&json!("wrong customer"), &json!("ada"))
    );
    assert_eq!(line["after"]["distinct_id"], "bob");
    for (body, status, field) in [
        (json!({"event_id": "e::4", "reason": "again"}), 404, "event_id"),
        (json!({"event_id": "nothing", "reason": "x"}), 404, "event_id"),
        (json!({"event_id": "e::1", "reason": " "}), 400, "reason"),
        (json!({"event_id": "e::1"}), 400, "reason"),
    ] {
        let (got, answer) = client.operator_post("/v1/events/void", &body).await;
        assert_eq!((got, &answer["details"]["field"]), (status, &json!(field)), "{body}: {answer}");
    }
    let wrong = json!({"event_id": "e::1", "reason": "x", "properties": [1]});
    let (status, answer) = client.operator_post("/v1/events/amend", &wrong).await;
    assert_eq!((status, &answer["details"]["field"]), (400, &json!("properties")));
    app.stop().await;
}

async fn a_final_total_is_swept_and_can_be_had_again(log: Log) {
    // An id window too short to find the resend: only the sweep does.
    let app = Sandbox::on_with(log, &[("consumer.dedupe_window", "1ms")]).await;
    let client = &app.client;
    stored(client, &[event("r", "ada", "2026-01-10T00:00:00Z", &json!({"n": "1.5"}))]).await;
    a_moment_later(client).await;
    stored(client, &[event("r", "ada", "2026-01-20T00:00:00Z", &json!({"n": "1.5"}))]).await;
    let mut question = sum(&[]);
    question["final"] = true.into();
    let total = usage(client, &question).await;
    assert_eq!((&total["final"], &total["exact_value"]), (&json!(true), &json!("1.5")), "{total}");
    let as_of = total["as_of"].as_str().unwrap().to_owned();
    a_moment_later(client).await;
    stored(client, &[event("late", "ada", "2026-01-02T00:00:00Z", &json!({"n": 100}))]).await;
    assert_eq!(usage(client, &sum(&[])).await["exact_value"], "101.5");
    assert_eq!(usage(client, &sum(&[("as_of", &as_of)])).await["exact_value"], "1.5");

    // Raw events that were accepted and are no events yet belong to it, too: here nothing can be made of them for a while.
    let drop_results = Sql::new("DROP TABLE raw_event_results SYNC");
    app.running.store().unwrap().execute(drop_results).await.unwrap();
    let raw = json!({"id": "raw", "orgId": "ada", "methodName": "m", "providerName": "p",
                     "createdAt": "2026-01-11T00:00:00Z", "data": {"modelName": "x"}});
    crate::raw::send(client, &[raw]).await;
    let waiting = usage(client, &question).await;
    assert_eq!(waiting["final"], false, "{waiting}");
    assert!(waiting["final_reason"].as_str().unwrap().contains("are not stored yet"), "{waiting}");
    assert_eq!(client.operator_post("/api/ops/migrate", &json!({})).await.0, 200);
    eventually("the total is final again", || async {
        let total = usage(client, &question).await;
        if total["final"] == true { Ok(()) } else { Err(total.to_string()) }
    })
    .await;
    app.stop().await;
}

/// What a crash between the line of a correction and its tombstone leaves.
async fn a_correction_that_was_written_down_and_never_made_counts_its_event_once_in_earlier_totals(log: Log) {
    let app = Sandbox::on(log).await;
    let client = &app.client;
    stored(client, &[event("e1", "ada", "2026-01-10T00:00:00Z", &json!({"n": "1.01"}))]).await;
    let before = a_moment_later(client).await;
    let (status, _) =
        client.operator_post("/v1/events/void", &json!({"event_id": "e1", "reason": "a mistake"})).await;
    assert_eq!(status, 200);
    assert_eq!(usage(client, &sum(&[("as_of", &before)])).await["exact_value"], "1.01");
    let undo = Sql::new("ALTER TABLE events DELETE WHERE is_deleted = 1 SETTINGS mutations_sync = 1");
    app.running.store().unwrap().execute(undo).await.unwrap();
    assert_eq!(usage(client, &sum(&[])).await["exact_value"], "1.01", "the tombstone is gone");
    assert_eq!(usage(client, &sum(&[("as_of", &before)])).await["exact_value"], "1.01", "once");
    app.stop().await;
}

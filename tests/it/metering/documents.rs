//! The steps of the documents that FlexFlow answers: "API Testing" of document 000, "Verification" of document 001,
//! word for word but for address and key, and monitoring.

use super::*;

on_every_log! {
    the_documents_steps_work_word_for_word
    costs_are_what_the_events_say
}

async fn curl(client: &Client, path: &str, body: &str) -> (u16, Value) {
    let request = client
        .http
        .post(format!("{}{path}", client.url))
        .header("Content-Type", "application/json")
        .header("x-api-key", &client.key)
        .body(body.to_owned());
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn the_documents_steps_work_word_for_word(log: Log) {
    let app = Sandbox::on(log).await;
    let client = &app.client;
    let environment = app.running.first_run().unwrap().environment_id;

    // Document 000, "API Testing".
    let body =
        r#"{"environment_id": "ENV", "event_type": "test", "properties": {}}"#.replace("ENV", &environment);
    let (status, accepted) = curl(client, "/api/v1/events", &body).await;
    assert_eq!((status, &accepted["message"]), (202, &json!("Event accepted for processing")));
    let id = accepted["event_id"].as_str().unwrap();
    let list = r#"{"environment_id": "ENV", "limit": 10}"#.replace("ENV", &environment);
    let found = eventually("the event is listed", || async {
        let (status, page) = curl(client, "/api/v1/events/list", &list).await;
        let found = page["events"].as_array().and_then(|events| events.first()).cloned();
        found.ok_or_else(|| format!("{status}: {page}"))
    })
    .await;
    assert_eq!((&found["id"], &found["event_name"]), (&json!(id), &json!("test")));
    assert_eq!(found["external_customer_id"], format!("anon_{id}"));
    assert_eq!(found["environment_id"], environment);
    // A stale environment is an error that names the right one, never an empty list.
    let stale = r#"{"environment_id": "env_01K5ZPD3WGG2DKDXBZ2VDB0DSG", "limit": 10}"#;
    let (status, refused) = curl(client, "/api/v1/events/list", stale).await;
    assert_eq!((status, &refused["details"]["valid"][0]["id"]), (403, &json!(environment)), "{refused}");
    let stale =
        r#"{"environment_id": "env_01K5ZPD3WGG2DKDXBZ2VDB0DSG", "event_type": "test", "properties": {}}"#;
    assert_eq!(curl(client, "/api/v1/events", stale).await.0, 403);

    // Document 001, "Verification".
    let create = r#"{
  "event_name": "test.event",
  "external_customer_id": "test-customer",
  "properties": {
    "test": "value"
  },
  "source": "api"
}"#;
    assert_eq!(curl(client, "/v1/events", create).await.0, 202);
    let listed = eventually("the event is listed", || async {
        let (status, page) = client.get("/v1/events?external_customer_id=test-customer").await;
        let found = page["events"].as_array().and_then(|events| events.first()).cloned();
        found.ok_or_else(|| format!("{status}: {page}"))
    })
    .await;
    assert_eq!(
        (&listed["event_name"], &listed["properties"]),
        (&json!("test.event"), &json!({"test": "value"}))
    );
    let sql = "SELECT id, event_name, external_customer_id FROM events WHERE external_customer_id = 'test-customer'";
    let rows: Vec<(String, String, String)> =
        app.running.store().unwrap().select(flexflow::store::Sql::new(sql)).await.unwrap();
    let [(_, name, customer)] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((name.as_str(), customer.as_str()), ("test.event", "test-customer"));

    // Counts, and a lag that is a number because it is known.
    let (status, monitored) = client.get("/v1/events/monitoring?window_size=HOUR").await;
    assert_eq!((status, &monitored["total_count"]), (200, &json!(2)), "{monitored}");
    assert_eq!(
        (&monitored["consumption_lag"], &monitored["consumption_lag_reason"]),
        (&json!(0), &Value::Null)
    );
    eventually("both events are handed on and processed", || async {
        let (_, monitored) = client.get("/v1/events/monitoring").await;
        if monitored["post_processing_lag"] == 0 { Ok(()) } else { Err(monitored.to_string()) }
    })
    .await;
    let sum: u64 =
        monitored["points"].as_array().unwrap().iter().map(|p| p["event_count"].as_u64().unwrap()).sum();
    assert_eq!(sum, 2);
    let (status, answer) = client.get("/v1/events/monitoring?start_time=2026-01-01T00:00:00Z").await;
    assert_eq!((status, &answer["details"]["field"]), (400, &json!("end_time")));
    app.stop().await;
}

async fn costs_are_what_the_events_say(log: Log) {
    let app = Sandbox::on(log).await;
    let client = &app.client;
    let now = flexflow::event::Clock::now(&flexflow::event::SystemClock).to_string();
    let events = [
        event("r/1", "ada", &now, &json!({"costNanoUsd": "123"})),
        event("r2", "ada", &now, &json!({"cost_usd": "0.000000042"})),
        event("r3", "ada", &now, &json!({})),
    ];
    stored(client, &events).await;
    for path in ["/v1/events/huggingface-billing", "/v1/events/huggingface-inference"] {
        let (status, answer) = client.post(path, &json!({"requestIds": ["r/1", "r2", "r3", "gone"]})).await;
        assert_eq!(status, 200, "{answer}");
        let costs: Vec<&Value> =
            answer["requests"].as_array().unwrap().iter().map(|one| &one["costNanoUsd"]).collect();
        assert_eq!(costs, [&json!("123"), &json!("42"), &json!("0"), &json!("0")]);
        assert_eq!(answer["requests"][3]["found"], false);
    }
    app.stop().await;
}

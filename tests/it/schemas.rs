//! Schemas of events over the real application: kept in versions, held against events by capture and by the consumer.

use bytes::Bytes;
use flexflow::event::Timestamp;
use flexflow::eventlog::NewRecord;
use serde_json::{Value, json};

use crate::support::{Log, Sandbox, eventually, on_every_log};

fn price(kind: &str) -> Value {
    json!({"type": "object", "properties": {"price": {"type": kind}}, "required": ["price"]})
}

async fn states(sandbox: &Sandbox) -> Value {
    let sql = "SELECT event_id, schema_state FROM events ORDER BY event_id";
    let (status, answer) = sandbox.client.post("/api/query/sql", &json!({ "query": sql })).await;
    assert_eq!(status, 200, "{answer}");
    answer["results"].clone()
}

on_every_log! {
    events_are_held_against_the_schema_of_their_name
    events_of_an_older_version_are_brought_up_to_the_newest
}

async fn events_are_held_against_the_schema_of_their_name(log: Log) {
    let sandbox = Sandbox::on(log).await;
    let client = &sandbox.client;
    let (status, made) =
        client.operator_post("/api/schemas", &json!({"event": "buy", "definition": price("number")})).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!((&made["policy"], &made["compatibility"]), (&json!("flag"), &json!("backward")));
    let path = format!("/api/schemas/{}", made["id"].as_str().unwrap());
    let (status, again) =
        client.operator_post("/api/schemas", &json!({"event": "buy", "definition": {}})).await;
    assert_eq!((status, &again["code"]), (409, &json!("already_exists")));

    // Flagged: accepted, told, marked.
    let (status, answer) = client
        .capture(&json!([
            {"event": "buy", "distinct_id": "ada", "event_id": "1", "properties": {"price": 1}},
            {"event": "buy", "distinct_id": "ada", "event_id": "2", "properties": {"price": "1"}},
            {"event": "see", "distinct_id": "ada", "event_id": "3"},
        ]))
        .await;
    assert_eq!((status, &answer["accepted"]), (202, &json!(3)), "{answer}");
    assert_eq!(answer["flagged"][0]["index"], 1, "{answer}");
    assert!(answer["flagged"][0]["message"].as_str().unwrap().contains("/price"), "{answer}");
    client.settled(3).await;
    assert_eq!(states(&sandbox).await, json!([["1", "1"], ["2", "flagged 1"], ["3", ""]]));

    // The next version has to take every event of this one.
    let next = json!({"definition": price("string")});
    let (status, verdict) = client.operator_post(&format!("{path}/check"), &next).await;
    assert_eq!((status, &verdict["compatible"]), (200, &json!(false)), "{verdict}");
    let (status, refused) = client.operator_post(&format!("{path}/versions"), &next).await;
    assert_eq!((status, &refused["details"]["field"]), (400, &json!("definition")), "{refused}");
    let wider =
        json!({"definition": {"type": "object", "properties": {"price": {"type": ["number", "string"]}}}});
    let (status, second) = client.operator_post(&format!("{path}/versions"), &wider).await;
    assert_eq!((status, second["versions"].as_array().unwrap().len()), (201, 2), "{second}");

    // Rejected by capture, by name; an event of the old version names it.
    let request = client.http.patch(format!("{}{path}", client.url)).bearer_auth(&client.operator_token);
    let changed = request.json(&json!({"policy": "reject"})).send().await.unwrap();
    assert_eq!(changed.status().as_u16(), 200);
    let (status, answer) = client
        .capture(&json!([
            {"event": "buy", "distinct_id": "ada", "event_id": "4", "properties": {"price": "1"}},
            {"event": "buy", "distinct_id": "ada", "event_id": "5", "properties": {"price": true}},
            {"event": "buy", "distinct_id": "ada", "event_id": "6", "properties": {"price": "1", "$schema_version": 1}},
        ]))
        .await;
    assert_eq!((status, &answer["accepted"]), (202, &json!(1)), "{answer}");
    let rejected = answer["rejected"].as_array().unwrap();
    assert_eq!(rejected.len(), 2, "{answer}");
    assert!(rejected.iter().all(|one| one["field"] == "properties"), "{answer}");

    another_producer(&sandbox).await;

    let deleted = client.http.delete(format!("{}{path}", client.url)).bearer_auth(&client.operator_token);
    assert_eq!(deleted.send().await.unwrap().status().as_u16(), 200);
    let (_, answer) =
        client.capture(&json!({"event": "buy", "distinct_id": "ada", "properties": {"price": true}})).await;
    assert_eq!((&answer["accepted"], &answer["flagged"]), (&json!(1), &Value::Null), "{answer}");
    sandbox.stop().await;
}

/// The second version of [`price`]: a number under another name.
fn cost() -> Value {
    json!({"type": "object", "properties": {"cost": {"type": "number"}, "price": false}, "required": ["cost"]})
}

/// From the first version to the second.
const UPCAST: &str = "
    remove = ['price']
    properties = [{ name = 'cost', value = 'number(price)' }]
";

/// `flexflow schemas …` on this application: whether it ended with 0, and what it said.
fn flexflow(sandbox: &Sandbox, words: &[&str]) -> (Option<i32>, Value) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_flexflow"));
    command.arg("schemas").args(words).args(["--json", "--data-dir"]).arg(sandbox.data_dir());
    let output = command.output().unwrap();
    let said = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| json!({ "stderr": String::from_utf8_lossy(&output.stderr) }));
    (output.status.code(), said)
}

async fn events_of_an_older_version_are_brought_up_to_the_newest(log: Log) {
    let settings = [("metering.tracking", "true"), ("metering.cache_ttl", "100ms")];
    let sandbox = Sandbox::on_with(log, &settings).await;
    let client = &sandbox.client;
    let body = json!({"event": "buy", "definition": price("string"), "policy": "reject"});
    let (status, made) = client.operator_post("/api/schemas", &body).await;
    assert_eq!(status, 201, "{made}");
    let path = format!("/api/schemas/{}", made["id"].as_str().unwrap());
    let meter = json!({"name": "spent", "event_name": "buy",
                       "aggregation": {"type": "SUM", "expression": "cost"}, "filters": []});
    let (status, meter) = client.operator_post("/v1/meters", &meter).await;
    assert_eq!(status, 201, "{meter}");
    client
        .accept(&json!({"event": "buy", "distinct_id": "ada", "event_id": "0", "properties": {"price": "1"}}))
        .await;
    client.settled(1).await;

    made_by_command(&sandbox, &path).await;

    // What names the older version is what it is in the newest, from capture on.
    let sent = json!([
        {"event": "buy", "distinct_id": "ada", "event_id": "1", "properties": {"price": "1.50", "$schema_version": 1, "deep": {"n": 1.50}}},
        {"event": "buy", "distinct_id": "ada", "event_id": "2", "properties": {"cost": 2}},
        {"event": "buy", "distinct_id": "ada", "event_id": "3", "properties": {"price": "much", "$schema_version": 1}},
    ]);
    let (status, answer) = client.capture(&sent).await;
    assert_eq!((status, &answer["accepted"]), (202, &json!(2)), "{answer}");
    let said = answer["rejected"][0]["message"].as_str().unwrap();
    assert!(said.contains("brought up from version 1") && said.contains("much"), "{said}");
    // Another producer's, on its way to the store; and what is sent again is the same event.
    another(&sandbox, &[("4", json!({"price": "4", "$schema_version": 1})), ("5", json!({"price": "no"}))])
        .await;
    client.accept(&sent[0]).await;
    client.settled(4).await;
    let sql = "SELECT event_id, schema_state, properties FROM events ORDER BY event_id";
    let (_, found) = client.post("/api/query/sql", &json!({ "query": sql })).await;
    let found: Vec<Value> = found["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let properties: Value = serde_json::from_str(row[2].as_str().unwrap()).unwrap();
            json!([row[0], row[1], properties])
        })
        .collect();
    let expected = json!([
        ["0", "1", {"price": "1"}],
        ["1", "upcast 2", {"cost": 1.5, "deep": {"n": 1.5}, "$schema_version": 2}],
        ["2", "2", {"cost": 2}],
        ["4", "upcast 2", {"cost": 4, "$schema_version": 2}],
    ]);
    assert_eq!(json!(found), expected);

    // Usage as it is tracked and as it is counted from events.
    eventually("usage is tracked", || async {
        let range = ("2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z");
        let asked = json!({"meter_id": meter["id"], "start_time": range.0, "end_time": range.1});
        let (_, tracked) = client.post("/v1/events/usage/meter", &asked).await;
        let asked = json!({"event_name": "buy", "aggregation_type": "SUM", "property_name": "cost",
                           "start_time": range.0, "end_time": range.1});
        let (_, counted) = client.post("/v1/events/usage", &asked).await;
        assert_eq!(
            (&counted["read_from"], &counted["exact_value"]),
            (&json!("events"), &json!("7.5")),
            "{counted}"
        );
        let same = tracked["read_from"] == "feature_usage" && tracked["exact_value"] == "7.5";
        if same { Ok(()) } else { Err(tracked.to_string()) }
    })
    .await;
    assert_eq!(client.audit().await["balanced"], true);

    // The first request after a start is held against them, too.
    let sandbox = sandbox.restart(&settings).await;
    let (status, refused) = sandbox.client.capture(&json!({"event": "buy", "distinct_id": "ada"})).await;
    assert_eq!(status, 400, "{refused}");
    sandbox.stop().await;
}

/// The second version, tried and made on the command line.
async fn made_by_command(sandbox: &Sandbox, path: &str) {
    let client = &sandbox.client;
    let next = json!({"definition": cost()});
    let (status, refused) = client.operator_post(&format!("{path}/versions"), &next).await;
    assert_eq!((status, &refused["details"]["field"]), (400, &json!("definition")), "{refused}");
    let wrong =
        json!({"definition": cost(), "upcast": "properties = [{ name = 'cost', value = 'nmber(price)' }]"});
    let (status, refused) = client.operator_post(&format!("{path}/versions"), &wrong).await;
    assert_eq!((status, &refused["details"]["field"]), (400, &json!("upcast")), "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("there is no function \"nmber\""), "{refused}");

    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let definition = file("cost.json", &cost().to_string());
    let (upcast, good) = (file("upcast.toml", UPCAST), file("good.json", r#"{"price":"1.50"}"#));
    let bad = file("bad.json", r#"[{"price":"much"},{}]"#);
    let apply = ["apply", "buy", &definition, "--upcast", &upcast];
    let (code, said) = flexflow(sandbox, &[&apply[..], &["--check", "--sample", &good]].concat());
    assert_eq!((code, &said["compatible"]), (Some(0), &json!(true)), "{said}");
    assert_eq!(said["samples"], json!([{"properties": {"cost": 1.5}, "problem": null}]), "{said}");
    let (code, said) = flexflow(sandbox, &[&apply[..], &["--check", "--sample", &bad]].concat());
    assert_eq!(code, Some(3), "{said}");
    assert!(said["samples"].as_array().unwrap().iter().all(|one| one["problem"].is_string()), "{said}");
    assert_eq!(flexflow(sandbox, &["list"]).1[0]["versions"], 1, "a check changes nothing");

    let (code, said) = flexflow(sandbox, &apply);
    assert_eq!((code, &said["version"]), (Some(0), &json!(2)), "{said}");
    let (_, shown) = flexflow(sandbox, &["show", "buy"]);
    let version = &shown["versions"][1];
    assert_eq!(
        (&version["upcast"]["remove"], &shown["versions"][0]["upcast"]),
        (&json!(["price"]), &Value::Null)
    );
}

/// Another producer's record becomes a dead letter with its own reason.
async fn another_producer(sandbox: &Sandbox) {
    let client = &sandbox.client;
    another(sandbox, &[("7", json!({"price": true})), ("8", json!({"price": 8}))]).await;
    client.settled(5).await;
    let found = eventually("the dead letter is listed", || async {
        let (_, letters) = client.operator_get("/api/dlq").await;
        match letters["dead_letters"].as_array().and_then(|all| all.first()) {
            Some(letter) => Ok(letter.clone()),
            None => Err(letters.to_string()),
        }
    })
    .await;
    assert_eq!(found["error_kind"], "schema_violation", "{found}");
    assert_eq!(
        states(sandbox).await,
        json!([["1", "1"], ["2", "flagged 1"], ["3", ""], ["4", "2"], ["8", "2"]])
    );
    // What is not stored is not handed on, either: "8" came after it, under the same key.
    let handed_on = eventually("the event after it is handed on", || async {
        let ids = handed_on(sandbox).await?;
        if ids.iter().any(|id| id == "8") { Ok(ids) } else { Err(format!("{ids:?}")) }
    })
    .await;
    assert!(!handed_on.iter().any(|id| id == "7"), "{handed_on:?}");
    assert_eq!(client.audit().await["balanced"], true);
}

/// Writes events into the log as another producer does: these ids and properties.
async fn another(sandbox: &Sandbox, events: &[(&str, Value)]) {
    let scope = sandbox.running.first_run().unwrap();
    let at = Timestamp::from_millis(1_700_000_000_000);
    let record = |(id, properties): &(&str, Value)| NewRecord {
        key: Some(Bytes::from_static(b"ada")),
        value: Bytes::from(
            json!({"id": id, "project_id": scope.project_id, "environment_id": scope.environment_id,
                   "event_name": "buy", "distinct_id": "ada", "timestamp": at, "received_at": at,
                   "schema_version": 1, "properties": properties})
            .to_string(),
        ),
        headers: Default::default(),
        timestamp: at,
    };
    let records = events.iter().map(record).collect();
    for outcome in sandbox.running.log().produce(&sandbox.client.events_topic, records).await {
        outcome.unwrap();
    }
}

/// The ids of the events that were handed on.
async fn handed_on(sandbox: &Sandbox) -> Result<Vec<String>, String> {
    let records = sandbox.records(&sandbox.post_processing_topics()[0]).await?;
    Ok(records.iter().map(|record| record["id"].as_str().unwrap().to_owned()).collect())
}

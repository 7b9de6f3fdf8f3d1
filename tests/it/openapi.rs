//! The OpenAPI document: valid by somebody else's judgement, complete about what is read, and true of every area's
//! answers. (Every answer that any other test gets is held against it, too: `support/contract.rs`.)

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use flexflow::app::{Body, Class, Route, routes};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::contract::{self, Asked};
use crate::support::eventually;
use crate::support::sandbox::Sandbox;

/// The reference validator for OpenAPI in Python; it holds the document against the specification's own schema.
const VALIDATOR: &str = "openapi-spec-validator==0.7.2";

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_valid_openapi_by_somebody_elses_judgement() {
    let judged = tokio::task::spawn_blocking(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("openapi-spec-validator-0.7.2");
        let done = folder.join("installed");
        if !done.exists() {
            std::fs::remove_dir_all(&folder).ok();
            run(Command::new("python3").args(["-m", "venv"]).arg(&folder));
            run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", VALIDATOR]));
            std::fs::write(&done, "").unwrap();
        }
        let file = folder.join(format!("document-{}.json", std::process::id()));
        let judge = |document: &Value| {
            std::fs::write(&file, document.to_string()).unwrap();
            let python = folder.join("bin/python");
            Command::new(python).args(["-m", "openapi_spec_validator"]).arg(&file).output().unwrap()
        };
        let good = judge(&flexflow::app::document());
        let bad =
            judge(&json!({ "openapi": "3.1.0", "info": { "title": "x", "version": "1" }, "paths": [] }));
        std::fs::remove_file(&file).ok();
        (good, bad)
    });
    let (good, bad) = judged.await.unwrap();
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stdout));
    assert!(!bad.status.success(), "the validator takes anything");
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// As the operator.
async fn ask(sandbox: &Sandbox, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
    ask_as(Some(&sandbox.client.operator_token), sandbox, method, path, body).await
}

async fn ask_as(
    who: Option<&str>,
    sandbox: &Sandbox,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> (u16, Value) {
    let client = &sandbox.client;
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = client.http.request(method, format!("{}{path}", client.url));
    if let Some(token) = who {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(body);
    }
    let (http, request) = request.build_split();
    let request = request.unwrap();
    let asked = Asked::of(&request);
    let answer = http.execute(request).await.unwrap();
    let (status, kind) = (answer.status().as_u16(), contract::kind(&answer));
    // A stream has no end.
    let text = if kind == "text/event-stream" { String::new() } else { answer.text().await.unwrap() };
    let told = contract::held(&asked, status, &kind, &text);
    (
        status,
        told.map_or_else(
            |error| json!({ "untold": error }),
            |()| serde_json::from_str(&text).unwrap_or_default(),
        ),
    )
}

fn sent_to(route: &Route, project: &str) -> String {
    let path = route.path.replace("{project_id}", project);
    let mut parts = path.split('{');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |path, part| {
        path + "nothing-has-this-id" + part.split_once('}').map_or("", |(_, rest)| rest)
    })
}

/// The valid names that an error tells, if it is about a field that is unknown.
fn valid(answer: &Value, field: &str) -> Option<BTreeSet<String>> {
    let names = answer["details"]["valid"].as_array().filter(|_| answer["details"]["field"] == field)?;
    Some(names.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect())
}

/// Bodies with one unknown field at some depth, the field as errors call it, and the fields that are told there.
fn probes(schema: &'static Value, depth: usize) -> Vec<(Value, String, BTreeSet<String>)> {
    let schema = contract::resolved(schema);
    if let Some(items) = schema.get("items") {
        let inner = probes(items, depth).into_iter();
        return inner.map(|(body, field, names)| (json!([body]), format!("[0]{field}"), names)).collect();
    }
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return Vec::new() };
    let mut found = Vec::new();
    if schema["additionalProperties"] == false {
        let names = properties.keys().cloned().collect();
        found.push((json!({ "no_such_field": 1 }), ".no_such_field".to_owned(), names));
    }
    if depth > 0 {
        for (name, property) in properties {
            for (body, field, names) in probes(property, depth - 1) {
                found.push((json!({ name.clone(): body }), format!(".{name}{field}"), names));
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fields_that_are_documented_are_those_that_are_read() {
    let sandbox = Sandbox::start().await;
    let project = sandbox.running.first_run().unwrap().project_id;
    let (mut wrong, mut top, mut nested, mut queries) = (Vec::new(), 0, 0, 0);
    for route in routes() {
        // These ask for a person first; `people` sends them whole.
        if route.class == Class::Person || route.path.starts_with("/api/v1/") {
            continue;
        }
        let (name, path) = (format!("{} {}", route.method, route.path), sent_to(&route, &project));
        let Some((_, operation)) = contract::operation(route.method, &route.path) else { continue };
        let schema = operation["requestBody"]["content"]["application/json"].get("schema");
        for (body, field, told) in schema.map(|schema| probes(schema, 2)).unwrap_or_default() {
            let (status, answer) = ask(&sandbox, route.method, &path, Some(&body)).await;
            let field = field.trim_start_matches('.');
            match valid(&answer, field) {
                Some(read) if read == told && field == "no_such_field" => top += 1,
                Some(read) if read == told => nested += 1,
                Some(read) => wrong.push(format!("{name} {field}: told {told:?}, read {read:?}")),
                None if answer.get("untold").is_some() => wrong.push(answer.to_string()),
                // What it is about is looked for before the body is read, or a part is read later, by other names.
                None if status == 404 || field != "no_such_field" => {}
                None => wrong.push(format!("{name} {field}: {answer}")),
            }
        }
        let told: BTreeSet<String> = operation["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["in"] == "query" && one["name"] != "environment_id")
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect();
        let body = (route.body != Body::None).then(|| json!({}));
        let (_, answer) =
            ask(&sandbox, route.method, &format!("{path}?no_such_field=1"), body.as_ref()).await;
        if let Some(mut read) = valid(&answer, "no_such_field") {
            read.remove("environment_id");
            queries += 1;
            // The stream reads the filters of the list, and refuses then what makes pages.
            if told != read && !(route.path.ends_with("/live") && told.is_subset(&read)) {
                wrong.push(format!("{name}?: told {told:?}, read {read:?}"));
            }
        } else if !told.is_empty() {
            wrong.push(format!("{name}?: told {told:?}, and an unknown one is answered {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(top > 60 && nested > 40 && queries > 20, "too little was compared: {top} {nested} {queries}");
    sandbox.stop().await;
}

/// What is asked so that every area answers well once, with something to show.
fn good() -> Vec<(&'static str, &'static str, Value)> {
    let series = json!([{ "event": "seen" }]);
    let steps = json!([{ "event": "seen" }, { "event": "bought" }]);
    let amount = json!({ "type": "SUM", "field": "amount" });
    let spec = json!({ "event": [{ "event_name": "'a'", "distinct_id": "'b'", "timestamp": "when" }] });
    vec![
        (
            "POST",
            "/v1/events",
            json!({ "event_name": "seen", "external_customer_id": "ada", "event_id": "e1" }),
        ),
        ("POST", "/v1/events/raw/bulk", json!([{ "id": "r1" }])),
        ("POST", "/api/query/trends", json!({ "series": series, "compare": true })),
        ("POST", "/api/query/trends/people", json!({ "trends": { "series": series } })),
        ("POST", "/api/query/funnel", json!({ "steps": steps })),
        ("POST", "/api/query/funnel", json!({ "steps": steps, "viz": "trends" })),
        ("POST", "/api/query/funnel", json!({ "steps": steps, "viz": "time_to_convert" })),
        ("POST", "/api/query/funnel/people", json!({ "funnel": { "steps": steps }, "step": 0 })),
        ("POST", "/api/query/retention", json!({})),
        ("POST", "/api/query/retention/people", json!({ "retention": {}, "row": 0 })),
        ("POST", "/api/query/lifecycle", json!({ "series": series })),
        ("POST", "/api/query/stickiness", json!({ "series": series })),
        (
            "POST",
            "/api/query/stickiness/people",
            json!({ "stickiness": { "series": series }, "intervals": 1 }),
        ),
        ("POST", "/api/query/paths", json!({})),
        ("POST", "/api/query/sql?explain=1", json!({ "query": "SELECT count() FROM events" })),
        ("POST", "/api/cohorts", json!({ "name": "c", "distinct_ids": ["ada"] })),
        (
            "POST",
            "/api/dashboards",
            json!({ "name": "d", "tiles": [{ "name": "t", "kind": "trends", "question": { "series": series } }] }),
        ),
        (
            "POST",
            "/api/attribution/rules",
            json!({ "name": "r", "sources": ["seen"], "target": "bought", "join": { "by": "distinct_id" }, "look_back": "7d", "model": "linear" }),
        ),
        ("POST", "/api/persons/merge", json!({ "distinct_ids": ["ada", "eve"] })),
        ("POST", "/api/transforms", json!({ "name": "raw", "spec": spec })),
        ("POST", "/api/transforms/test", json!({ "spec": spec, "samples": [{ "id": "x" }, { "id": "y" }] })),
        ("POST", "/api/webhooks", json!({ "url": "https://hooks.example.com/" })),
        ("POST", "/api/schemas", json!({ "event": "seen", "definition": { "type": "object" } })),
        ("POST", "/v1/meters", json!({ "name": "m", "event_name": "seen", "aggregation": amount })),
        (
            "POST",
            "/v1/events/usage",
            json!({ "event_name": "seen", "aggregation_type": "COUNT", "window_size": "HOUR" }),
        ),
        ("POST", "/v1/events/query", json!({ "count_total": true })),
        ("POST", "/v1/events/void", json!({ "event_id": "e1", "reason": "a mistake" })),
        (
            "POST",
            "/v1/events/raw/reprocess",
            json!({ "start_date": "2026-01-01T00:00:00Z", "dry_run": true }),
        ),
        ("POST", "/api/dlq/replay", json!({ "selection": { "all": true }, "dry_run": true })),
        (
            "POST",
            "/api/rollups/build",
            json!({ "from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z" }),
        ),
        ("POST", "/api/projects", json!({ "name": "another" })),
        ("POST", "/api/users", json!({ "email": "bob@example.com" })),
        ("POST", "/api/signing-keys/rotate", json!({})),
        ("GET", "/api/query/values?property=amount", Value::Null),
        ("GET", "/v1/events/lookup?id=e1", Value::Null),
        ("GET", "/v1/events/corrections?event_id=e1", Value::Null),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_area_answers_as_documented_when_all_is_well_and_when_it_is_not() {
    let sandbox = Sandbox::start().await;
    let client = &sandbox.client;
    client.accept(&json!([{ "event": "seen", "distinct_id": "ada", "properties": { "amount": 1 } }, { "event": "bought", "distinct_id": "ada" }])).await;
    client.settled(2).await;
    let project = sandbox.running.first_run().unwrap().project_id;
    // Areas, and whether each answered well and with an error.
    let mut areas: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    let mut note = |method: &str, path: &str, status: u16| {
        let (_, operation) = contract::operation(method, path.split('?').next().unwrap()).unwrap();
        let area = areas.entry(operation["tags"][0].as_str().unwrap().to_owned()).or_default();
        (area.0, area.1) = (area.0 || status < 300, area.1 || status >= 400);
    };
    let first = sandbox.running.first_run().unwrap();
    let login = json!({ "email": first.email, "password": first.password });
    let mut asked = good();
    asked.push(("POST", "/api/auth/login", login));
    asked.push(("POST", "/capture", json!({ "event": "seen", "distinct_id": "ada" })));
    asked.push(("POST", "/api/demo", json!({ "events": 3 })));
    let mut refused = Vec::new();
    for (method, path, body) in asked {
        if path.contains("lookup") || path.contains("void") {
            // Once it is stored; what is voided is looked up, too.
            eventually("the event is stored", || async {
                let (status, answer) = client.get("/v1/events/lookup?id=e1").await;
                let is_settled = status == 200 && answer["status"] != "processing";
                if is_settled { Ok(()) } else { Err(answer.to_string()) }
            })
            .await;
        }
        let (status, answer) = ask(&sandbox, method, path, Some(&body).filter(|body| !body.is_null())).await;
        note(method, path, status);
        if status >= 300 || answer.get("untold").is_some() {
            refused.push(format!("{method} {path}: {status} {answer}"));
        }
    }
    for route in routes().into_iter().filter(|route| route.class != Class::Page) {
        let path = sent_to(&route, &project);
        let body = (route.body != Body::None).then(|| json!({ "no_such_field": 1 }));
        if route.method == "GET" || body.is_some() {
            let (status, answer) = ask(&sandbox, route.method, &path, body.as_ref()).await;
            note(route.method, &path, status);
            refused.extend(answer.get("untold").map(ToString::to_string));
        }
        // Nobody may: 401, or 400 where anybody may ask.
        let (status, answer) = ask_as(None, &sandbox, route.method, &path, None).await;
        note(route.method, &path, status);
        refused.extend(answer.get("untold").map(ToString::to_string));
    }
    let (status, _) = ask(&sandbox, "GET", "/ready?role=nobody", None).await;
    note("GET", "/ready", status);
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    let lacking: Vec<_> = areas
        .iter()
        // These never fail, or never do well without a person or a device.
        .filter(|(area, _)| {
            !["health", "metrics", "version", "openapi.json", "docs", "docs.css"].contains(&&***area)
        })
        .filter(|(_, (well, error))| !well || !error)
        .collect();
    assert!(lacking.is_empty(), "{lacking:?}");
    sandbox.stop().await;
}

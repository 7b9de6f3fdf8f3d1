//! Questions with answers that were found elsewhere (`analytics_cases.json`): every data set is captured, merged and
//! asked about through HTTP on the real application, as a client would.
//!
//! The same questions with the same parameters; what the file calls `expected` must stand in `results`. Numbers are
//! compared as numbers, fields that a case does not name may be there besides.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::support::sandbox::{Client, Sandbox};
use crate::support::store::TestStore;
use crate::support::{Log, eventually, on_every_log};

on_every_log! {
    every_published_question_has_its_published_answer
}

/// What is not answered yet: a kind, a case, or `case/question`. A question that comes out right in spite of its entry
/// fails the test, so that the list is true.
const NOT_YET: &[&str] = &[];

/// Parameters of a question that are not for the server.
const NOT_SENT: [&str; 5] = ["name", "kind", "note", "expected", "first_interval"];
/// Expected fields that say how to read the others.
const REMARKS: [&str; 2] = ["note", "edge_order"];

fn cases() -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("analytics_cases.json")).unwrap();
    file["cases"].as_array().unwrap().clone()
}

/// A project of its own for each data set, all in one application.
async fn client_of(sandbox: &Sandbox, name: &str) -> Client {
    let client = &sandbox.client;
    let (status, project) = client.operator_post("/api/projects", &json!({ "name": name })).await;
    assert_eq!(status, 201, "{project}");
    let id = project["id"].as_str().unwrap();
    let environment = &project["environments"][0]["id"];
    let body = json!({ "environment_id": environment, "scopes": ["ingest", "query", "admin"] });
    let (status, key) = client.operator_post(&format!("/api/projects/{id}/api-keys"), &body).await;
    assert_eq!(status, 201, "{key}");
    Client { key: key["api_key"].as_str().unwrap().to_owned(), ..client.clone() }
}

/// Captures the events of a case and merges its people.
async fn load(client: &Client, case: &Value) {
    let events: Vec<Value> = case["events"].as_array().unwrap().clone();
    client.accept(&json!({ "batch": events })).await;
    eventually("every event is visible", || async {
        let (status, page) = client.get("/api/query/events?limit=500").await;
        let seen = page["events"].as_array().map_or(0, Vec::len);
        if status == 200 && seen == events.len() { Ok(()) } else { Err(format!("{seen}: {page}")) }
    })
    .await;
    for person in case["persons"].as_array().unwrap() {
        if person["distinct_ids"].as_array().unwrap().len() > 1 {
            let body = json!({ "distinct_ids": person["distinct_ids"] });
            // Until merging is there, the questions that need it stand in the list above.
            client.post("/api/persons/merge", &body).await;
        }
    }
}

/// Asks one question; what is wrong with the answer, if anything is.
async fn ask(client: &Client, case: &Value, query: &Value) -> Result<(), String> {
    let mut question = query.as_object().unwrap().clone();
    question.retain(|name, _| !NOT_SENT.contains(&name.as_str()));
    if let Some(now) = case.get("now") {
        question.insert("now".to_owned(), now.clone());
    }
    let path = format!("/api/query/{}", query["kind"].as_str().unwrap());
    let (status, answer) = client.post(&path, &Value::Object(question.clone())).await;
    if status != 200 {
        return Err(format!("{status}: {answer}"));
    }
    let said = match query["kind"].as_str() {
        Some("trends") => of_trends(&answer["results"], query)?,
        Some("funnel") => {
            with_people(client, case, &question, &answer["results"], &query["expected"]).await?
        }
        _ => answer["results"].clone(),
    };
    holds(&said, &query["expected"], "results")
}

/// The answer of a funnel with the people that a case expects at its steps, as the drill-down lists them.
async fn with_people(
    client: &Client,
    case: &Value,
    funnel: &Map<String, Value>,
    results: &Value,
    expected: &Value,
) -> Result<Value, String> {
    let mut results = results.clone();
    if let (Some(rows), Some(expected)) = (results["rows"].as_array_mut(), expected["rows"].as_array()) {
        for (row, expected) in rows.iter_mut().zip(expected) {
            add_people(client, case, funnel, row, expected).await?;
        }
        return Ok(results);
    }
    add_people(client, case, funnel, &mut results, expected).await?;
    Ok(results)
}

async fn add_people(
    client: &Client,
    case: &Value,
    funnel: &Map<String, Value>,
    row: &mut Value,
    expected: &Value,
) -> Result<(), String> {
    let breakdown = row.get("breakdown").cloned();
    for (name, wanted) in expected.as_object().into_iter().flatten() {
        let steps = match name.as_str() {
            "actors" if wanted[0].is_array() => 0..wanted.as_array().map_or(0, Vec::len),
            "actors" => 0..1,
            "actors_step2" => 1..2,
            "actors_step3" => 2..3,
            _ => continue,
        };
        let mut found = Vec::new();
        for step in steps {
            let body = json!({ "funnel": funnel, "step": step, "breakdown": breakdown });
            let (status, answer) = client.post("/api/query/funnel/people", &body).await;
            if status != 200 {
                return Err(format!("{status}: {answer}"));
            }
            let people = answer["people"].as_array().ok_or("no people")?.iter();
            found.push(people.map(|person| person_of(case, person)).collect::<Vec<_>>());
        }
        row[name] = if wanted[0].is_array() { json!(found) } else { json!(found.concat()) };
    }
    Ok(())
}

/// What a case calls a person.
fn person_of(case: &Value, person: &Value) -> Value {
    let owns = |known: &&Value| {
        known["distinct_ids"].as_array().is_some_and(|ids| ids.contains(&person["distinct_ids"][0]))
    };
    case["persons"]
        .as_array()
        .and_then(|known| known.iter().find(owns))
        .map_or(Value::Null, |known| known["id"].clone())
}

/// The lines of trends with the fields that cases name: some are counted from others.
fn of_trends(results: &Value, query: &Value) -> Result<Value, String> {
    let lines = results.as_array().ok_or("results are no list")?;
    if query["expected"].is_object() {
        let other = lines.iter().filter(|line| line["breakdown"] == "$$_posthog_breakdown_other_$$");
        return Ok(json!({
            "series_count": lines.len(),
            "other_value": lines.last().map(|line| line["breakdown"].clone()),
            "other_count": other.map(|line| line["count"].as_f64().unwrap_or_default()).sum::<f64>(),
        }));
    }
    let of_line = |line: &Value| {
        let mut line = line.as_object().cloned().unwrap_or_default();
        let data = line["data"].as_array().cloned().unwrap_or_default();
        let days = line["days"].as_array().cloned().unwrap_or_default();
        let nonzero: Map<String, Value> = days
            .iter()
            .zip(&data)
            .filter(|(_, count)| count.as_f64() != Some(0.0))
            .map(|(day, count)| (day.as_str().unwrap_or_default().chars().take(16).collect(), count.clone()))
            .collect();
        line.insert("buckets".to_owned(), data.len().into());
        line.insert("nonzero".to_owned(), nonzero.into());
        Value::Object(line)
    };
    let mut lines: Vec<Value> = lines.iter().map(of_line).collect();
    if query["note"].as_str().is_some_and(|note| note.contains("the first two are asserted")) {
        lines.truncate(2);
    }
    Ok(lines.into())
}

/// The members of a list; those that are lists of texts in order.
fn sorted(value: &Value) -> Vec<Value> {
    let mut members = value.as_array().cloned().unwrap_or_default();
    for member in &mut members {
        let texts = member.as_array().is_some_and(|inner| inner.iter().all(Value::is_string));
        if let Some(inner) = member.as_array_mut().filter(|_| texts) {
            inner.sort_by_key(Value::to_string);
        }
    }
    members
}

/// Does `said` hold what is expected? Lists of actors and edges have no order.
pub(super) fn holds(said: &Value, expected: &Value, at: &str) -> Result<(), String> {
    let wrong = || Err(format!("{at} is {said}, expected {expected}"));
    match (said, expected) {
        (Value::Object(said), Value::Object(expected)) => {
            let named = expected.iter().filter(|(name, _)| !REMARKS.contains(&name.as_str()));
            for (name, expected) in named {
                let at = format!("{at}.{name}");
                let Some(said) = said.get(name) else { return Err(format!("{at} is missing")) };
                if name.starts_with("actors") || name == "edges" {
                    let set = |value: &Value| -> BTreeSet<String> {
                        sorted(value).iter().map(Value::to_string).collect()
                    };
                    if set(said) != set(expected) {
                        return Err(format!("{at} is {said}, expected {expected}"));
                    }
                } else {
                    holds(said, expected, &at)?;
                }
            }
            Ok(())
        }
        (Value::Array(said), Value::Array(expected)) if said.len() == expected.len() => said
            .iter()
            .zip(expected)
            .enumerate()
            .try_for_each(|(index, (said, expected))| holds(said, expected, &format!("{at}[{index}]"))),
        (Value::Number(said), Value::Number(expected)) => {
            let (said, expected) = (said.as_f64().unwrap_or(f64::NAN), expected.as_f64().unwrap_or(f64::NAN));
            if (said - expected).abs() < 1e-9 { Ok(()) } else { wrong() }
        }
        _ if said == expected => Ok(()),
        _ => wrong(),
    }
}

pub(crate) async fn every_published_question_has_its_published_answer(log: Log) {
    let sandbox = Sandbox::on(log).await;
    all_are_answered(&sandbox).await;
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_published_question_has_its_published_answer_from_a_server() {
    let server = TestStore::empty("flexflow").await;
    let settings = server.as_server();
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let sandbox = Sandbox::with(&settings).await;
    all_are_answered(&sandbox).await;
    sandbox.stop().await;
    server.store.close(Duration::from_secs(20)).await;
}

async fn all_are_answered(sandbox: &Sandbox) {
    let mut asked = 0;
    let mut wrong = Vec::new();
    let mut right = Vec::new();
    for case in cases() {
        let id = case["id"].as_str().unwrap();
        let client = client_of(sandbox, id).await;
        load(&client, &case).await;
        for query in case["queries"].as_array().unwrap() {
            let name = format!("{id}/{}", query["name"].as_str().unwrap());
            let entry =
                NOT_YET.iter().find(|entry| [&name, id, query["kind"].as_str().unwrap()].contains(*entry));
            asked += 1;
            match (ask(&client, &case, query).await, entry) {
                (Ok(()), Some(entry)) => right.push(format!("{entry} ({name})")),
                (Err(error), None) => wrong.push(format!("{name}: {error}")),
                (Ok(()), None) | (Err(_), Some(_)) => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(right.is_empty(), "answered, but still in NOT_YET: {right:?}");
    assert_eq!(asked, 70);
}

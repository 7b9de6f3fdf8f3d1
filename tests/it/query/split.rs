//! Who is in a line: people by what is known of them, cohorts, and what an answer tells of how it was made.

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::sandbox::{Client, Sandbox};

/// Captures events, and waits until the people's properties can be asked for.
async fn load(client: &Client) {
    let event = |event: &str, id: &str, properties: Value| {
        let hour = if event == "$identify" { 9 } else { 10 };
        let at = format!("2026-03-02T{hour:02}:00:00Z");
        json!({"event": event, "distinct_id": id, "timestamp": at, "properties": properties})
    };
    let batch = json!({"batch": [
        event("$identify", "ann", json!({"$anon_distinct_id": "anon", "$set": {"team": "red"}})),
        event("$identify", "bob", json!({"$set": {"team": "blue"}})),
        event("opened", "anon", json!({})),
        event("opened", "ann", json!({})),
        event("opened", "bob", json!({})),
        event("opened", "cid", json!({})),
    ]});
    client.accept(&batch).await;
    eventually("teams are known", || async {
        let lines = ask(client, "", &by_team()).await;
        if lines.len() == 3 { Ok(()) } else { Err(format!("{lines:?}")) }
    })
    .await;
}

fn by_team() -> Value {
    json!({"refresh": true, "series": [{"event": "opened"}], "breakdown": {"property": "team", "type": "person"}})
}

async fn ask(client: &Client, manner: &str, question: &Value) -> Vec<Value> {
    let mut question = question.clone();
    question["date_from"] = "2026-03-02".into();
    question["date_to"] = "2026-03-02".into();
    let (status, answer) = client.post(&format!("/api/query/trends{manner}"), &question).await;
    assert_eq!(status, 200, "{question}: {answer}");
    answer["results"].as_array().unwrap().clone()
}

fn counts(lines: &[Value]) -> Vec<(String, i64)> {
    let count = |line: &Value| {
        let value = line.get("breakdown").unwrap_or(&line["label"]);
        (value.as_str().unwrap().to_owned(), line["count"].as_i64().unwrap())
    };
    lines.iter().map(count).collect()
}

fn pair(value: &str, count: i64) -> (String, i64) {
    (value.to_owned(), count)
}

#[actix_web::test]
async fn people_split_and_filter_by_what_they_are_and_by_their_cohorts() {
    let sandbox = Sandbox::start().await;
    let client = &sandbox.client;
    load(client).await;
    let lines = counts(&ask(client, "", &by_team()).await);
    assert_eq!(lines, [pair("red", 2), pair("blue", 1), pair("$$_posthog_breakdown_null_$$", 1)]);
    let red = json!({"series": [{"event": "opened", "math": "dau"}], "filters": [{"key": "team", "type": "person", "value": "red"}]});
    assert_eq!(counts(&ask(client, "", &red).await), [pair("opened", 1)]);
    // One person, named by either of two ids.
    for id in ["ann", "anon"] {
        let named = json!({"series": [{"event": "opened"}], "filter": {"persons": [id]}});
        assert_eq!(counts(&ask(client, "", &named).await), [pair("opened", 2)]);
    }
    let (status, cohort) =
        client.post("/api/cohorts", &json!({"name": "first", "distinct_ids": ["anon", "cid"]})).await;
    assert!(status == 200 || status == 201, "{status}: {cohort}");
    let id = cohort["id"].as_str().unwrap();
    for math in ["total", "weekly_active", "first_time_for_user", "max_count_per_actor"] {
        let split = json!({
            "series": [{"event": "opened", "math": math}],
            "breakdown": {"property": [id, "all"], "type": "cohort"},
        });
        let expected = match math {
            "total" => [pair("all", 4), pair(id, 3)],
            "max_count_per_actor" => [pair("all", 2), pair(id, 2)],
            _ => [pair("all", 3), pair(id, 2)],
        };
        let mut found = counts(&ask(client, "", &split).await);
        found.sort_by_key(|(value, _)| value != "all");
        assert_eq!(found, expected, "{math}");
    }
    let outside = json!({"series": [{"event": "opened"}], "filters": [{"type": "cohort", "operator": "not_in", "value": id}]});
    assert_eq!(counts(&ask(client, "", &outside).await), [pair("opened", 1)]);
    funnels_are_split_by_cohorts(client, id).await;
    tables_are_split_by_cohorts_and_by_several_properties(client, id).await;
    sandbox.stop().await;
}

async fn post(client: &Client, path: &str, question: &Value) -> Value {
    let (status, answer) = client.post(&format!("/api/query/{path}"), question).await;
    assert_eq!(status, 200, "{question}: {answer}");
    answer
}

/// The distinct ids of the people of an answer.
fn ids(people: &Value) -> Vec<Value> {
    people["people"].as_array().unwrap().iter().map(|person| person["distinct_ids"].clone()).collect()
}

async fn funnels_are_split_by_cohorts(client: &Client, id: &str) {
    let mut funnel = json!({
        "date_from": "2026-03-02", "date_to": "2026-03-02",
        "steps": [{"event": "opened"}, {"event": "opened"}],
        "breakdown": {"property": [id, "all"], "type": "cohort"},
    });
    let rows = post(client, "funnel", &funnel).await["results"]["rows"].clone();
    let row = |place: usize| (rows[place]["breakdown"].clone(), rows[place]["counts"].clone());
    assert_eq!(row(0), (json!(["all"]), json!([3, 1])), "{rows}");
    assert_eq!(row(1), (json!([id]), json!([2, 1])), "{rows}");
    let people = json!({"funnel": funnel, "step": 1, "outcome": "dropped", "breakdown": [id]});
    assert_eq!(ids(&post(client, "funnel/people", &people).await), [json!(["cid"])]);
    funnel["viz"] = "trends".into();
    let rows = post(client, "funnel", &funnel).await["results"]["rows"].clone();
    assert_eq!(rows[1]["reached_from_step"], json!([2]), "{rows}");
    for wrong in [json!(["nobody"]), json!([id, "all"])] {
        let people = json!({"funnel": funnel, "step": 0, "breakdown": wrong});
        let (status, refused) = client.post("/api/query/funnel/people", &people).await;
        assert_eq!((status, &refused["details"]["field"]), (400, &json!("breakdown")), "{refused}");
    }
    funnel["breakdown"]["property"] = "nothing".into();
    let (status, refused) = client.post("/api/query/funnel", &funnel).await;
    assert_eq!((status, &refused["details"]["field"]), (400, &json!("breakdown.property")), "{refused}");
}

async fn tables_are_split_by_cohorts_and_by_several_properties(client: &Client, id: &str) {
    let mut retention = json!({
        "date_to": "2026-03-02", "total_intervals": 2, "target_event": "opened",
        "breakdown": {"property": [id, "all"], "type": "cohort"},
    });
    let tables = post(client, "retention", &retention).await["results"]["breakdowns"].clone();
    let expected = [("all", 3), (id, 2)];
    let expected = expected.map(|(name, people)| json!({"breakdown": name, "rows": [[0, 0], [people]]}));
    assert_eq!(tables, json!(expected));
    let people = json!({"retention": retention, "row": 1, "breakdown": id});
    let mut found = ids(&post(client, "retention/people", &people).await);
    found.sort_by_key(Value::to_string);
    assert_eq!(found, [json!(["ann", "anon"]), json!(["cid"])]);

    let names = json!(["event", "source"]);
    retention["breakdown"] = json!({"property": names, "type": "event_metadata"});
    retention["target_event"] = Value::Null;
    let tables = post(client, "retention", &retention).await["results"]["breakdowns"].clone();
    let names: Vec<&Value> = tables.as_array().unwrap().iter().map(|table| &table["breakdown"][0]).collect();
    assert_eq!(names, ["$identify", "opened"], "{tables}");
    let people = json!({"retention": retention, "row": 1, "breakdown": tables[1]["breakdown"]});
    assert_eq!(ids(&post(client, "retention/people", &people).await), [json!(["cid"])]);
}

#[actix_web::test]
async fn what_the_store_was_asked_is_shown_to_administrators_alone() {
    let sandbox = Sandbox::start().await;
    let client = &sandbox.client;
    load(client).await;
    let question = json!({"date_from": "2026-03-02", "date_to": "2026-03-02", "series": [{"event": "opened"}, {"event": null}]});
    let (status, answer) = client.operator_get("/api/projects").await;
    assert_eq!(status, 200, "{answer}");
    let project = answer["projects"][0]["id"].as_str().unwrap();
    let (_, environments) = client.get("/api/environments").await;
    let body = json!({"environment_id": environments["environments"][0]["id"], "scopes": ["query"]});
    let (status, made) = client.operator_post(&format!("/api/projects/{project}/api-keys"), &body).await;
    assert_eq!(status, 201, "{made}");
    let asking = Client { key: made["api_key"].as_str().unwrap().to_owned(), ..client.clone() };
    let (status, refused) = asking.post("/api/query/trends?explain=1", &question).await;
    assert_eq!((status, refused["code"].as_str()), (403, Some("permission_denied")), "{refused}");
    let (status, refused) = asking.post("/api/query/trends?explian=1", &question).await;
    assert_eq!((status, refused["details"]["field"].as_str()), (400, Some("explian")), "{refused}");
    let body = json!({"environment_id": environments["environments"][0]["id"], "scopes": ["query", "admin"]});
    let (status, made) = client.operator_post(&format!("/api/projects/{project}/api-keys"), &body).await;
    assert_eq!(status, 201, "{made}");
    let admin = Client { key: made["api_key"].as_str().unwrap().to_owned(), ..client.clone() };
    let (status, answer) = admin.post("/api/query/trends?explain=1", &question).await;
    assert_eq!(status, 200, "{answer}");
    let statements: Vec<&str> = answer["meta"]["statements"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|statement| statement["sql"].as_str())
        .filter(|sql| sql.contains("FROM events FINAL"))
        .collect();
    assert_eq!(statements.len(), 2, "{answer}");
    assert!(statements[0].contains("event_name = 'opened'"), "{answer}");
    assert!(answer["meta"]["rows_read"].as_u64().unwrap() > 0, "{answer}");
    sandbox.stop().await;
}

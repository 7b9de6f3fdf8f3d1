//! Who is in a line: people by what is known of them, cohorts, and what an answer tells of how it was made.

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::sandbox::{Client, Sandbox};

/// Captures events, and waits until the people's properties can be asked for.
async fn load(client: &Client) {
    let event = |event: &str, id: &str, properties: Value| json!({"event": event, "distinct_id": id, "timestamp": "2026-03-02T10:00:00Z", "properties": properties});
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
    sandbox.stop().await;
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

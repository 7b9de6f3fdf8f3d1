//! SQL of the caller's own: right numbers, of the caller's environment alone.

use serde_json::{Value, json};

use super::{ENVIRONMENTS, Sandbox, given};

async fn ask(sandbox: &Sandbox, environment: &str, query: &str) -> (u16, Value) {
    sandbox.post(environment, "/api/query/sql", &json!({"query": query})).await
}

async fn rows(sandbox: &Sandbox, environment: &str, query: &str) -> Value {
    let (status, answer) = ask(sandbox, environment, query).await;
    assert_eq!(status, 200, "{query}: {answer}");
    answer["results"].clone()
}

#[tokio::test]
async fn sql_reads_the_callers_deduplicated_events_and_nothing_else() {
    let sandbox = Sandbox::start().await;
    let (here, there) = (ENVIRONMENTS[0], ENVIRONMENTS[1]);
    let old = given("1", "buy", "ada", "2026-04-01T10:00:00Z", r#"{"price":1}"#);
    let mut new = given("1", "buy", "ada", "2026-04-01T11:00:00Z", r#"{"price":2}"#);
    new.version = 1;
    let mut gone = given("3", "buy", "bob", "2026-04-03T10:00:00Z", "{}");
    gone.is_deleted = true;
    gone.version = 1;
    let second = given("2", "see", "bob", "2026-04-02T10:00:00Z", r#"{"price":5,"tags":["x","y"]}"#);
    sandbox.insert(here, &[old.clone(), second]).await;
    sandbox.insert(here, &[new, given("3", "buy", "bob", "2026-04-03T10:00:00Z", "{}")]).await;
    sandbox.insert(here, &[gone]).await;
    sandbox.insert(there, &[given("9", "secret", "eve", "2026-04-01T10:00:00Z", "{}")]).await;

    let all =
        "SELECT event, distinct_id, JSONExtractInt(properties, 'price') AS price FROM events ORDER BY event";
    assert_eq!(rows(&sandbox, here, all).await, json!([["buy", "ada", 2], ["see", "bob", 5]]));
    assert_eq!(rows(&sandbox, there, all).await, json!([["secret", "eve", 0]]));
    // Where only an older version lies in the range, the event does not.
    let range = "SELECT count() FROM events WHERE timestamp < '2026-04-01 10:30:00'";
    assert_eq!(rows(&sandbox, here, range).await, json!([[0]]));
    let day = "SELECT count() FROM events WHERE day = '2026-04-01' AND event = 'buy'";
    assert_eq!(rows(&sandbox, here, day).await, json!([[1]]));
    let joined = "WITH firsts AS (SELECT person_id, min(timestamp) AS at FROM events GROUP BY person_id) \
                  SELECT count(), sum(p.events) FROM firsts AS f INNER JOIN persons AS p ON p.id = f.person_id";
    assert_eq!(rows(&sandbox, here, joined).await, json!([[2, 2]]));
    let people = "SELECT distinct_ids, properties FROM persons ORDER BY distinct_ids[1] LIMIT 1";
    assert_eq!(rows(&sandbox, here, people).await, json!([[["ada"], "{}"]]));
    let kinds =
        "SELECT 1 AS n, 'x' AS t, NULL AS nothing, 1/0 AS endless, [1,2] AS list, toDate('2026-01-02') AS d";
    let (_, answer) = ask(&sandbox, here, kinds).await;
    assert_eq!(answer["results"], json!([[1, "x", null, null, [1, 2], "2026-01-02"]]), "{answer}");
    assert_eq!(answer["columns"][1], json!({"name": "t", "type": "String"}), "{answer}");

    let (_, answer) =
        sandbox.post(here, "/api/query/sql", &json!({"query": "SELECT event FROM events", "limit": 1})).await;
    assert_eq!((answer["results"].as_array().unwrap().len(), &answer["truncated"]), (1, &json!(true)));
    sandbox.end().await;
}

#[tokio::test]
async fn what_sql_may_not_is_refused_and_says_why() {
    let sandbox = Sandbox::start().await;
    let here = ENVIRONMENTS[0];
    sandbox.insert(here, &[given("1", "a", "ada", "2026-04-01T10:00:00Z", "{}")]).await;
    sandbox.insert(ENVIRONMENTS[1], &[given("2", "secret", "eve", "2026-04-01T10:00:00Z", "{}")]).await;
    for (query, said) in [
        ("SELECT * FROM system.tables", "system.tables"),
        ("SELECT * FROM events_dlq", "events_dlq"),
        ("SELECT sleep(1)", "sleep"),
        ("SELECT nothing FROM events", "nothing"),
        ("SELECT project_id FROM events", "project_id"),
        ("SELECT event + 1 FROM events", "does not understand"),
        ("SELECT _part FROM events", "_part"),
        ("SELECT events.version FROM events", "version"),
        ("SELECT (1, 2) IN (person_edges)", "IN"),
        ("SELEC 1", "not SQL"),
    ] {
        let (status, answer) = ask(&sandbox, here, query).await;
        assert_eq!((status, &answer["details"]["field"]), (400, &json!("query")), "{query}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains(said), "{query}: {answer}");
        let text = answer.to_string();
        assert!(!text.contains("environment_id = ") && !text.contains("secret"), "{query}: {text}");
    }
    // A name of another table's column in a subquery finds nothing of it.
    let inner =
        "SELECT count() FROM events WHERE event_id IN (SELECT event_id FROM events WHERE event = 'secret')";
    assert_eq!(rows(&sandbox, here, inner).await, json!([[0]]));
    let (status, answer) =
        ask(&sandbox, here, "SELECT count() FROM events a CROSS JOIN events b CROSS JOIN events c").await;
    assert_eq!((status, &answer["results"]), (200, &json!([[1]])), "{answer}");
    let (status, answer) =
        sandbox.post(here, "/api/query/sql", &json!({"query": "SELECT 1", "limit": 0})).await;
    assert_eq!((status, &answer["details"]["setting"]), (400, &json!("query.sql_rows_max")), "{answer}");
    sandbox.end().await;
}

//! What may be asked in SQL, what may not, and that nothing of what was sent reaches the store unread.

use super::render::render;
use crate::event::Scope;
use crate::http::Problem;
use crate::query::actor::Actors;

fn ask(text: &str) -> Result<String, Problem> {
    let scope = Scope::new("proj", "env");
    render(text, &scope, &Actors::new(&scope, true)).map(|sql| sql.text().to_owned())
}

#[test]
fn what_is_allowed_is_written_anew() {
    for text in [
        "SELECT count() FROM events",
        "SELECT event, count(*) AS n, uniqExact(person_id) FROM events WHERE day >= '2026-01-01' AND timestamp < now() - INTERVAL 7 DAY GROUP BY event HAVING n > 10 ORDER BY n DESC NULLS LAST LIMIT 10 OFFSET 5",
        "WITH firsts AS (SELECT person_id, min(timestamp) AS at FROM events GROUP BY person_id) SELECT toStartOfDay(at), count() FROM firsts GROUP BY 1 ORDER BY 1",
        "SELECT e.event, p.id FROM events AS e INNER JOIN persons AS p ON p.id = e.person_id LEFT JOIN events o USING (event_id)",
        "SELECT quantile(0.9)(JSONExtractFloat(properties, 'price')) FROM events WHERE JSONExtractString(properties, 'plan') IN ('a', 'b')",
        "SELECT CASE WHEN event = 'a' THEN 1 ELSE 2 END, CAST(event_id AS String), event LIKE '%x%', NOT (event = 'b') FROM events",
        "SELECT row_number() OVER (PARTITION BY distinct_id ORDER BY timestamp) AS n FROM events",
        "SELECT arrayMap(x -> x + 1, [1, 2]), (SELECT count() FROM persons), event_id IN (SELECT event_id FROM events) FROM events",
        "SELECT 1 UNION ALL SELECT 2",
        "SELECT events.event FROM events FINAL WHERE event = 'a'",
        "SELECT * FROM (SELECT event FROM events) AS t LIMIT 1",
    ] {
        let sql = ask(text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
        let reads = sql.matches("FROM events").count() + sql.matches("FROM person").count();
        let scoped = sql.matches("project_id = 'proj' AND environment_id = 'env'").count();
        assert_eq!(reads, scoped, "{text}: {sql}");
    }
}

/// Statements that reach for more than the caller's rows, or for the server.
const AROUND: &[&str] = &[
    "",
    "SELECT 1; SELECT 2",
    "INSERT INTO events SELECT * FROM events",
    "DROP TABLE events",
    "ALTER TABLE events DELETE WHERE 1",
    "EXPLAIN SELECT 1",
    "EXPLAIN ESTIMATE SELECT * FROM events",
    "DESCRIBE TABLE events",
    "SHOW TABLES",
    "SET max_memory_usage = 0",
    "SYSTEM SHUTDOWN",
    "KILL QUERY WHERE 1",
    "SELECT * FROM system.tables",
    "SELECT * FROM `system`.`query_log`",
    "SELECT * FROM `system.tables`",
    "SELECT * FROM default.events",
    "SELECT * FROM flexflow.person_edges",
    "SELECT * FROM person_edges",
    "SELECT * FROM person_overrides",
    "SELECT * FROM events_dlq",
    "SELECT * FROM \"events_dlq\"",
    "SELECT * FROM schema_migrations",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM numbers(10)",
    "SELECT * FROM url('http://localhost', CSV, 'x String')",
    "SELECT * FROM file('/etc/passwd')",
    "SELECT * FROM mergeTreeIndex(currentDatabase(), events)",
    "SELECT * FROM merge('flexflow', '.*')",
    "SELECT * FROM remote('localhost', flexflow.events)",
    "SELECT * FROM cluster('default', system.one)",
    "SELECT * FROM view(SELECT 1)",
    "SELECT * FROM events SETTINGS max_threads = 1",
    "SELECT * FROM events FORMAT JSON",
    "SELECT * FROM events INTO OUTFILE '/tmp/x'",
    "SELECT * FROM events SAMPLE 0.1",
    "SELECT * FROM events PREWHERE 1",
    "SELECT file('/etc/passwd')",
    "SELECT sleep(3)",
    "SELECT sleepEachRow(1) FROM events",
    "SELECT currentUser(), hostName(), version()",
    "SELECT getSetting('max_threads')",
    "SELECT dictGet('d', 'a', 1)",
    "SELECT joinGet('flexflow.x', 'a', 1)",
    "SELECT throwIf(1)",
    "SELECT executable('x')",
    "SELECT catboostEvaluate('/x', 1)",
    "SELECT getMacro('x')",
    "SELECT system.sleep(1)",
    "SELECT 1 IN system.one",
    "SELECT event_id IN (person_edges.distinct_id) FROM persons.person_edges",
    "WITH person_edges AS (SELECT * FROM person_edges) SELECT * FROM person_edges",
    "WITH events AS (SELECT 1) SELECT * FROM events",
    "WITH RECURSIVE t AS (SELECT 1 UNION ALL SELECT 1 FROM t) SELECT * FROM t",
    "SELECT * FROM (WITH x AS (SELECT 1) SELECT * FROM x) AS a, x",
    "SELECT (1, 2) IN (person_edges)",
    "SELECT (1, 2) IN ((person_edges))",
    "SELECT (1, 2) IN (flexflow.person_edges)",
    "SELECT (1, 2) NOT IN (`person_edges`) FROM events",
    "SELECT in((1, 2), person_edges)",
    "SELECT globalIn((1, 2), person_edges)",
    "SELECT {p:Identifier}",
    "SELECT * FROM {p:Identifier}",
    "SELECT $1",
    "SELECT * EXCEPT (event) FROM events",
    "SELECT * REPLACE (1 AS event) FROM events",
    "SELECT COLUMNS('.*') FROM events",
    "VALUES (1)",
    "TABLE events",
    "SELECT * FROM events GLOBAL JOIN persons ON 1",
    "SELECT * FROM events ARRAY JOIN [1] AS x",
    "SELECT CAST(1 AS AggregateFunction(sum, UInt8))",
    "SELECT 1 LIMIT (SELECT 1)",
    "SELECT * FROM events LIMIT 1 WITH TIES",
];

#[test]
fn every_way_around_the_scope_is_refused() {
    let mut allowed = Vec::new();
    for text in AROUND {
        match ask(text) {
            Ok(sql) => allowed.push((text, sql)),
            Err(problem) => {
                assert_eq!(problem.code.status(), 400, "{text}");
                assert_eq!(problem.details["field"], "query", "{text}");
            }
        }
    }
    assert!(allowed.is_empty(), "{allowed:#?}");
}

#[test]
fn names_and_texts_cannot_leave_their_quotes() {
    let sql = ask(
        r"SELECT 'it\'s -- ` ) FROM system.tables' AS a, event AS `x) FROM system.tables -- ` FROM events",
    )
    .unwrap();
    assert!(sql.contains(r"'it\'s -- ` ) FROM system.tables'"), "{sql}");
    assert!(sql.contains("`x) FROM system.tables -- `"), "{sql}");
    let doubled = ask("SELECT 1 AS `a``b`, 'c''d', \"e`f\" FROM events").unwrap();
    assert!(
        doubled.contains(r"`a\`b`") && doubled.contains(r"'c\'d'") && doubled.contains(r"`e\`f`"),
        "{doubled}"
    );
    let commented = ask("SELECT 1 /* FROM system.tables */ -- FROM system.one").unwrap();
    assert_eq!(commented, "SELECT 1");
}

#[test]
fn a_deep_question_is_refused_before_it_is_anything_else() {
    for text in [
        format!("SELECT {}1{}", "(".repeat(4000), ")".repeat(4000)),
        format!("SELECT 1{}", "+1".repeat(4900)),
        format!("SELECT {}1", "-".to_owned() + &"- ".repeat(4000)),
        format!("SELECT {}1", "NOT ".repeat(2400)),
        format!("SELECT {}1{}", "abs(".repeat(2000), ")".repeat(1900)),
        format!("{}SELECT 1{}", "SELECT * FROM (".repeat(600), ")".repeat(600)),
        format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(500)),
        format!("SELECT '{}'", "x".repeat(20_000)),
    ] {
        assert!(ask(&text).is_err(), "{}…", &text[..30]);
    }
}

#[test]
fn a_function_that_is_not_listed_is_refused_with_the_nearest() {
    let message = ask("SELECT toStartOfWek(timestamp) FROM events").unwrap_err().message;
    assert!(message.contains("did you mean toStartOfWeek?"), "{message}");
}

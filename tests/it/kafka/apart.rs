//! Each role a process of its own, on one Kafka, one store and one metadata database: the same answers as everything in
//! one process.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::kafka::Kafka;
use crate::support::log::LogSettings;
use crate::support::postgres::Postgres;
use crate::support::proxy::Proxy;
use crate::support::sandbox::Client;
use crate::support::store::TestStore;
use crate::support::{Process, Sandbox, eventually};

/// People who look, sign up and buy over three days, some of them under two ids; some events come twice.
fn events() -> Vec<Value> {
    let mut events = Vec::new();
    let mut push = |id: String, name: &str, person: &str, at: String, properties: Value| {
        events.push(json!({"event": name, "distinct_id": person, "event_id": id, "timestamp": at, "properties": properties}));
    };
    for person in 0..30 {
        let (name, plan) = (format!("person-{person}"), ["free", "pro", "team"][person % 3]);
        for day in 0..3 {
            if (person + day) % 4 == 0 {
                continue;
            }
            let at = |hour: usize| format!("2026-01-{:02}T{:02}:{:02}:00Z", 10 + day, hour, person);
            push(format!("v-{person}-{day}"), "viewed", &name, at(8), json!({"plan": plan, "n": person}));
            if person % 2 == 0 {
                push(format!("s-{person}-{day}"), "signed up", &name, at(9), json!({"plan": plan}));
            }
            if person % 6 == 0 {
                push(
                    format!("b-{person}-{day}"),
                    "bought",
                    &name,
                    at(10),
                    json!({"amount": 0.1 * person as f64}),
                );
            }
        }
        if person % 5 == 0 {
            let joined = json!({"$anon_distinct_id": format!("person-{}", person + 1)});
            push(format!("i-{person}"), "$identify", &name, "2026-01-12T20:00:00Z".to_owned(), joined);
        }
    }
    let again: Vec<Value> = events.iter().step_by(7).cloned().collect();
    events.extend(again);
    events
}

/// The answers to several questions, without what depends on when and where they were asked.
async fn answers(client: &Client) -> Vec<Value> {
    let range = |question: Value| {
        let mut whole = json!({"date_from": "2026-01-10", "date_to": "2026-01-12"});
        whole.as_object_mut().unwrap().extend(question.as_object().unwrap().clone());
        whole
    };
    let questions = [
        ("trends", range(json!({"series": [{"event": "viewed"}, {"event": "viewed", "math": "dau"}]}))),
        ("trends", range(json!({"series": [{"event": "viewed"}], "breakdown": {"property": "plan"}}))),
        ("trends", range(json!({"series": [{"event": "bought", "math": "sum", "math_property": "amount"}]}))),
        (
            "funnel",
            range(json!({"steps": [{"event": "viewed"}, {"event": "signed up"}, {"event": "bought"}]})),
        ),
        (
            "retention",
            json!({"date_to": "2026-01-12", "total_intervals": 3, "target_event": "viewed", "returning_event": "viewed"}),
        ),
    ];
    let mut answers = Vec::new();
    for (kind, question) in questions {
        let (status, answer) = client.post(&format!("/api/query/{kind}"), &question).await;
        assert_eq!(status, 200, "{question}: {answer}");
        answers.push(answer["results"].clone());
    }
    let usage = json!({"event_name": "bought", "aggregation_type": "SUM", "property_name": "amount",
        "start_time": "2026-01-10T00:00:00Z", "end_time": "2026-01-13T00:00:00Z", "window_size": "DAY"});
    let (status, answer) = client.post("/v1/events/usage", &usage).await;
    assert_eq!(status, 200, "{answer}");
    answers.push(answer["results"].clone());
    let mut listed: Vec<String> = client
        .events()
        .await
        .unwrap()
        .iter()
        .map(|event| {
            format!("{} {} {} {}", event["event_id"], event["event"], event["timestamp"], event["properties"])
        })
        .collect();
    listed.sort();
    answers.push(json!(listed));
    answers
}

async fn send(capture: &Client, events: &[Value]) {
    for part in events.chunks(50) {
        capture.accept(&json!({ "batch": part })).await;
    }
}

/// Waits until this many events are visible; the lag is told by a process that may tell it.
async fn settled(query: &Client, count: usize) {
    eventually(&format!("{count} events are visible and nothing is left"), || async {
        let (lag, seen) = (query.lag().await?, query.events().await?.len());
        if lag == 0 && seen == count { Ok(()) } else { Err(format!("{seen} events, lag {lag}")) }
    })
    .await;
}

/// What one process captured stands beside what others stored, minute by minute.
async fn history_of_all(query: &Client, sent: usize, stored: usize) {
    eventually("the history of all processes", || async {
        let (_, told) = query.operator_get("/api/ops/history").await;
        let sum = |name: &str| -> Option<i64> {
            Some(told["counted"][name].as_array()?.iter().filter_map(Value::as_i64).sum())
        };
        let wanted = [sent, stored, sent - stored].map(|count| i64::try_from(count).ok());
        if ["captured", "stored", "duplicates"].map(sum) != wanted {
            return Err(told.to_string());
        }
        let mut of: Vec<_> = told["processes"].as_array().into_iter().flatten().collect();
        of.retain(|one| one["captured"] != 0 || one["stored"] != 0);
        let roles: Vec<_> = of.iter().filter_map(|one| one["roles"][0].as_str()).collect();
        let consumers = roles.iter().filter(|role| **role == "consumer").count();
        if (roles.len(), consumers) == (3, 2) { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_in_processes_of_their_own_answer_as_one_process_does() {
    let engine = TestStore::start().await;
    let proxy = Proxy::to(engine.store.address().unwrap().parse().unwrap()).await;
    let (user, password) = engine.store.engine_login().unwrap();
    let log = LogSettings::on(Kafka::shared().await);
    let database = tokio::task::spawn_blocking(Postgres::shared).await.unwrap().database().await;
    let settings = [
        format!("--set=meta.url={database}"),
        format!("--set=store.url=clickhouse://{}", proxy.address),
        format!("--set=store.user={user}"),
        format!("--set=store.password={password}"),
        "--set=server.history_interval=200ms".to_owned(),
    ];
    let dir = tempfile::tempdir().unwrap();
    let run = async |name: &str, command: &[&str], key: Option<&str>| {
        let command: Vec<&str> = command.iter().copied().chain(settings.iter().map(String::as_str)).collect();
        Process::run(&dir.path().join(name), &log, &command, key).await
    };
    let auth = run("auth", &["auth"], None).await;
    let key = auth.client.key.clone();
    let capture = run("capture", &["capture"], Some(&key)).await;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let on_port = format!("--set=consumer.metrics_port={port}");
    let first = run("first", &["consumer", &on_port], Some(&key)).await;
    let second = run("second", &["consumer"], Some(&key)).await;
    let query = run("query", &["query"], Some(&key)).await;
    for process in [&auth, &capture, &first, &second, &query] {
        process.client.wait_ready().await;
    }
    let sent = events();
    let ids: std::collections::BTreeSet<&str> =
        sent.iter().map(|event| event["event_id"].as_str().unwrap()).collect();
    send(&capture.client, &sent).await;
    settled(&query.client, ids.len()).await;

    // A role answers what is its own, and nothing else.
    assert_eq!(query.client.capture(&sent[0]).await.0, 404);
    assert_eq!(capture.client.post("/api/query/trends", &json!({})).await.0, 404);
    // A key that auth makes is good everywhere.
    let (status, made) = auth.client.operator_post("/api/projects", &json!({"name": "another"})).await;
    assert_eq!(status, 201, "{made}");

    assert_eq!(first.client.url, format!("http://127.0.0.1:{port}"), "consumer.metrics_port");
    for consumer in [&first, &second] {
        for path in ["/health", "/ready"] {
            let (status, body) = consumer.client.get(path).await;
            assert_eq!(status, 200, "{path}: {body}");
        }
        let url = format!("{}/metrics", consumer.client.url);
        let metrics = consumer.client.http.get(url).send().await.unwrap().text().await.unwrap();
        assert!(metrics.contains("consumer_messages_consumed_total"), "{metrics}");
        let stored = metrics.lines().find(|line| line.starts_with("consumer_records_stored_total"));
        assert!(stored.is_some_and(|line| !line.ends_with(" 0")), "both of them work: {stored:?}");
    }

    history_of_all(&query.client, sent.len(), ids.len()).await;
    let apart = answers(&query.client).await;
    let whole = Sandbox::start().await;
    send(&whole.client, &sent).await;
    settled(&whole.client, ids.len()).await;
    let together = answers(&whole.client).await;
    for (apart, together) in apart.iter().zip(&together) {
        assert_eq!(apart, together);
    }
    assert_eq!(query.client.audit().await["balanced"], true);
    whole.stop().await;
    for process in [capture, first, second, query, auth] {
        assert!(process.terminate().success());
    }
    engine.store.close(Duration::from_secs(20)).await;
}

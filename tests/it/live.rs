//! The stream of events that arrive.

use std::time::Duration;

use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::support::sandbox::Client;
use crate::support::{Log, Sandbox, eventually, on_every_log};

on_every_log! {
    a_stream_tells_each_arriving_event_of_its_scope_and_filters_once
}

/// A stream, read message by message.
struct Live {
    answer: std::pin::Pin<Box<dyn futures::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    rest: String,
}

impl Live {
    async fn open(client: &Client, key: &str, query: &str) -> Self {
        let url = format!("{}/api/query/events/live{query}", client.url);
        let answer = client.http.get(url).header("X-API-Key", key).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let answer = futures::stream::unfold(answer, |mut answer| async {
            let chunk = answer.chunk().await.transpose()?;
            Some((chunk, answer))
        });
        let mut live = Self { answer: Box::pin(answer), rest: String::new() };
        assert_eq!(live.next().await, Some(("open".to_owned(), json!({}))));
        live
    }

    /// The next message; `None` at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((message, rest)) = self.rest.split_once("\n\n") {
                let (kind, data) = message.split_once('\n').unwrap();
                let kind = kind.strip_prefix("event: ").unwrap().to_owned();
                let data = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
                self.rest = rest.to_owned();
                return Some((kind, data));
            }
            let chunk = tokio::time::timeout(Duration::from_secs(60), self.answer.next()).await;
            let chunk = chunk.expect("something is told within a minute")?.ok()?;
            self.rest.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The next message that is no heartbeat.
    async fn told(&mut self) -> (String, Value) {
        loop {
            let (kind, data) = self.next().await.expect("the stream goes on");
            if kind != "heartbeat" {
                return (kind, data);
            }
        }
    }

    /// Names of the next events, in the order they were told.
    async fn names(&mut self, count: usize) -> Vec<String> {
        let mut names = Vec::new();
        while names.len() < count {
            let (kind, event) = self.told().await;
            assert_eq!(kind, "event", "{event}");
            names.push(event["event"].as_str().unwrap().to_owned());
        }
        names
    }
}

fn event(name: &str, person: &str, properties: &Value) -> Value {
    json!({ "event": name, "distinct_id": person, "properties": properties })
}

/// A key for the environment `development` of the first project.
async fn other_key(app: &Sandbox) -> String {
    let project = app.running.first_run().unwrap().project_id;
    let (_, found) = app.client.operator_get(&format!("/api/projects/{project}/environments")).await;
    let found = found["environments"].as_array().unwrap().clone();
    let other = found.iter().find(|one| one["name"] == "development").unwrap();
    let body = json!({ "environment_id": other["id"], "scopes": ["ingest", "query"] });
    let (status, made) = app.client.operator_post(&format!("/api/projects/{project}/api-keys"), &body).await;
    assert_eq!(status, 201, "{made}");
    made["api_key"].as_str().unwrap().to_owned()
}

async fn a_stream_tells_each_arriving_event_of_its_scope_and_filters_once(log: Log) {
    let app =
        Sandbox::on_with(log, &[("query.live_interval", "50ms"), ("query.live_clients_max", "4")]).await;
    let client = &app.client;
    client.accept(&event("before", "ann", &json!({}))).await;
    client.settled(1).await;

    let mut all = Live::open(client, &client.key, "").await;
    let mut of_bob = Live::open(client, &client.key, "?distinct_id=bob").await;
    let mut paid = Live::open(
        client,
        &client.key,
        "?event=paid&properties=%5B%7B%22key%22%3A%22plan%22%2C%22value%22%3A%22pro%22%7D%5D",
    )
    .await;
    let other_key = other_key(&app).await;
    let mut elsewhere = Live::open(client, &other_key, "").await;

    // A bound on streams, and a place that is free again.
    let url = format!("{}/api/query/events/live", client.url);
    let refused = client.http.get(&url).header("X-API-Key", &client.key).send().await.unwrap();
    assert_eq!(refused.status(), 429);
    let refused: Value = refused.json().await.unwrap();
    assert_eq!(refused["details"]["setting"], "query.live_clients_max");

    let sent = json!({ "batch": [
        event("opened", "ann", &json!({})),
        event("paid", "ann", &json!({"plan": "free"})),
    ]});
    client.accept(&sent).await;
    assert_eq!(all.names(2).await.len(), 2);
    client.accept(&event("paid", "bob", &json!({"plan": "pro", "text": "a\nb"}))).await;
    assert_eq!(all.names(1).await, ["paid"]);
    assert_eq!(of_bob.names(1).await, ["paid"]);
    let (kind, told) = paid.told().await;
    assert_eq!(
        (kind.as_str(), &told["distinct_id"], &told["properties"]["text"]),
        ("event", &json!("bob"), &json!("a\nb"))
    );
    let (_, listed) = client.get("/api/query/events?event=paid&distinct_id=bob").await;
    assert_eq!(told, listed["events"][0], "as the list tells it");

    // Another environment's key sends and sees its own only.
    let own = client.http.post(format!("{}/capture", client.url)).header("X-API-Key", &other_key);
    assert_eq!(own.json(&event("theirs", "cid", &json!({}))).send().await.unwrap().status(), 202);
    assert_eq!(elsewhere.names(1).await, ["theirs"]);
    client.accept(&event("last", "ann", &json!({}))).await;
    assert_eq!(all.names(1).await, ["last"], "nothing twice, nothing of others");

    drop(paid);
    eventually("the place of a stream that was closed is free", || async {
        // It is seen when the stream says its next word.
        let answer = client.http.get(&url).header("X-API-Key", &client.key).send().await.unwrap();
        if answer.status() == 200 { Ok(()) } else { Err(answer.status().to_string()) }
    })
    .await;

    let reading = async {
        let mut ends = Vec::new();
        while let Some((kind, data)) = all.next().await {
            ends.push((kind, data));
        }
        ends
    };
    let ((), mut ends) = tokio::join!(Box::pin(app.stop()), reading);
    ends.retain(|(kind, _)| kind != "heartbeat");
    assert_eq!(ends, [("end".to_owned(), json!({"reason": "drain"}))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stream_cannot_tell_it_counts() {
    let app = Sandbox::with(&[("query.live_interval", "1s"), ("query.live_rows_max", "10")]).await;
    let client = &app.client;
    let mut live = Live::open(client, &client.key, "").await;
    let batch: Vec<Value> = (0..300).map(|n| event("flood", &format!("p{n}"), &json!({}))).collect();
    client.accept(&json!({ "batch": batch })).await;
    let (mut told, mut dropped) = (0, 0);
    while told + dropped < 300 {
        match live.told().await {
            (kind, _) if kind == "event" => told += 1,
            (kind, data) if kind == "dropped" => dropped += data["dropped"].as_u64().unwrap(),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told + dropped, 300);
    assert!(dropped > 0 && told >= 10, "told {told}, dropped {dropped}");
    for wrong in ["?limit=5", "?nothing=1", "?properties=%5B%7B%22operator%22%3A%22gt%22%7D%5D"] {
        let (status, _) = client.get(&format!("/api/query/events/live{wrong}")).await;
        assert_eq!(status, 400, "{wrong}");
    }
    drop(live);
    app.stop().await;
}

//! Bad input over real sockets: each gets the one error body with a stable code, and costs nothing but itself.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use flexflow::app::{Options, Role};
use flexflow::event::{Clock, ManualClock, Timestamp};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::sandbox::Client;
use crate::support::{Log, Sandbox, on_every_log};

on_every_log! {
    the_good_items_of_a_batch_are_accepted_and_visible_beside_the_rejected
}

/// Capture and auth alone: what is refused needs no store.
async fn capture_alone(settings: &[(&str, &str)], clock: Option<Arc<dyn Clock>>) -> Sandbox {
    let mut options = Options::default();
    if let Some(clock) = clock {
        options.clock = clock;
    }
    Sandbox::build(tempfile::tempdir().unwrap(), &[Role::Capture, Role::Auth], settings, options).await
}

fn event() -> Value {
    json!({"event": "opened", "distinct_id": "ada"})
}

/// An answer as it came.
struct Answer {
    status: u16,
    request_id: Option<String>,
    body: Value,
}

impl Answer {
    /// It is the one error body, for this request.
    fn refused(&self, what: &str, status: u16, code: &str) -> &Value {
        let body = &self.body;
        assert_eq!((self.status, &body["code"]), (status, &json!(code)), "{what}: {body}");
        assert_eq!(body["http_status_code"], status, "{what}: {body}");
        let request_id = self.request_id.as_deref().unwrap_or_default();
        assert!(!request_id.is_empty(), "{what}: no X-Request-ID");
        assert_eq!(body["request_id"], request_id, "{what}: {body}");
        assert_eq!(body["success"], false, "{what}: {body}");
        assert!(!body["message"].as_str().unwrap().is_empty(), "{what}: {body}");
        assert_eq!(body["error"]["message"], body["message"], "{what}: {body}");
        assert_eq!(body["error"]["details"], body["details"], "{what}: {body}");
        &body["details"]
    }
}

async fn send(client: &Client, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
    let mut request = client.http.post(format!("{}/capture", client.url)).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if !headers.iter().any(|(name, _)| *name == "X-API-Key") {
        request = request.header("X-API-Key", &client.key);
    }
    let answer = request.send().await.unwrap();
    let request_id = answer.headers().get("x-request-id").map(|id| id.to_str().unwrap().to_owned());
    Answer { status: answer.status().as_u16(), request_id, body: answer.json().await.unwrap() }
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// What it is, headers, body, and the status and code it is answered with.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Vec<u8>, u16, &'a str);

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_body_is_refused_with_a_stable_code_and_the_request_id() {
    let app = capture_alone(&[], None).await;
    let client = &app.client;
    let whole = gzip(event().to_string().as_bytes());
    let many: Value = std::iter::repeat_n(event(), 10_000).collect();
    let deep =
        format!(r#"{{"event":"a","distinct_id":"b","properties":{}1{}}}"#, "[".repeat(500), "]".repeat(500));
    let huge = json!({"event": "a", "distinct_id": "b", "properties": {"text": "x".repeat(800_000)}});
    let gzipped: &[(&str, &str)] = &[("Content-Encoding", "gzip")];
    let cases: [Case<'_>; 18] = [
        ("not JSON", &[], b"event=a".to_vec(), 400, "validation_error"),
        ("JSON cut off", &[], br#"{"event":"a","#.to_vec(), 400, "validation_error"),
        ("not an event", &[], b"17".to_vec(), 400, "validation_error"),
        ("no body", &[], vec![], 400, "validation_error"),
        ("an empty array", &[], b"[]".to_vec(), 400, "validation_error"),
        ("an empty batch", &[], br#"{"batch":[]}"#.to_vec(), 400, "validation_error"),
        ("a batch that is none", &[], br#"{"batch":{}}"#.to_vec(), 400, "validation_error"),
        ("not UTF-8", &[], b"{\"event\":\"\xff\",\"distinct_id\":\"b\"}".to_vec(), 400, "validation_error"),
        ("no distinct id", &[], br#"{"event":"a"}"#.to_vec(), 400, "validation_error"),
        (
            "before 1970",
            &[],
            br#"{"event":"a","distinct_id":"b","timestamp":"1969-12-31T23:59:59Z"}"#.to_vec(),
            400,
            "validation_error",
        ),
        ("nested deeply", &[], deep.into_bytes(), 400, "validation_error"),
        ("a truncated gzip", gzipped, whole[..whole.len() - 6].to_vec(), 400, "validation_error"),
        ("gzip that is none", gzipped, event().to_string().into_bytes(), 400, "validation_error"),
        ("a zip bomb", gzipped, gzip(&vec![b' '; 64 << 20]), 413, "payload_too_large"),
        ("10,000 events", &[], many.to_string().into_bytes(), 413, "payload_too_large"),
        ("a huge property", &[], huge.to_string().into_bytes(), 413, "payload_too_large"),
        ("an unknown encoding", &[("Content-Encoding", "br")], whole.clone(), 415, "unsupported_media_type"),
        (
            "a form",
            &[("Content-Type", "application/x-www-form-urlencoded")],
            b"event=a".to_vec(),
            415,
            "unsupported_media_type",
        ),
    ];
    for (what, headers, body, status, code) in cases {
        send(client, headers, body).await.refused(what, status, code);
    }
    let details = send(client, &[("Content-Encoding", "br")], whole.clone()).await;
    assert_eq!(details.refused("br", 415, "unsupported_media_type")["valid"][1], "gzip");
    let details = send(client, &[], many.to_string().into_bytes()).await;
    assert_eq!(details.refused("10,000", 413, "payload_too_large")["max"], 5000);

    let named = send(client, &[("X-Request-ID", "mine-1")], b"[]".to_vec()).await;
    assert_eq!(named.refused("a given id", 400, "validation_error"), &json!({}));
    assert_eq!(named.request_id.as_deref(), Some("mine-1"), "the client's id is echoed");
    let topics = app.running.log().topics().await.unwrap();
    let written: i64 = topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.end).sum();
    assert_eq!(written, 0, "nothing of it reached the log");

    let good = send(client, gzipped, whole).await;
    assert_eq!(good.status, 202, "{}", good.body);
    app.stop().await;
}

/// Sends a request's head, then 64 KiB chunks until the server has answered, and returns the answer with the bytes
/// that were sent of the body. `chunks`: whether there is a body at all.
async fn send_endless(client: &Client, framing: &str, chunks: bool) -> (Answer, usize) {
    let address = client.url.strip_prefix("http://").unwrap();
    let (mut from, mut to) = TcpStream::connect(address).await.unwrap().into_split();
    let head = format!(
        "POST /capture HTTP/1.1\r\nHost: {address}\r\nX-API-Key: {}\r\nContent-Type: application/json\r\n{framing}\r\n\r\n",
        client.key
    );
    to.write_all(head.as_bytes()).await.unwrap();
    let mut chunk = b"10000\r\n".to_vec();
    chunk.resize(chunk.len() + 0x10000, b' ');
    chunk.extend_from_slice(b"\r\n");
    let mut sent = 0;
    let feed = async {
        // Ends when the server no longer reads.
        while chunks && to.write_all(&chunk).await.is_ok() {
            sent += 0x10000;
        }
        std::future::pending::<()>().await;
    };
    let read = async {
        let mut answer = Vec::new();
        loop {
            if let Some(answer) = parse(&answer) {
                return answer;
            }
            let read = from.read_buf(&mut answer).await.expect("an answer before the connection ends");
            assert_ne!(read, 0, "the connection ended without an answer");
        }
    };
    let answer = tokio::select! {
        answer = tokio::time::timeout(Duration::from_secs(30), read) => answer.expect("an answer in time"),
        () = feed => unreachable!("it never ends"),
    };
    (answer, sent)
}

/// The whole answer, once it is there.
fn parse(bytes: &[u8]) -> Option<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(bytes).unwrap() else { return None };
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(std::str::from_utf8(found.value).unwrap().to_owned())
    };
    let body_length: usize = header("content-length").unwrap().parse().unwrap();
    let body = bytes.get(length..length + body_length)?;
    Some(Answer {
        status: response.code.unwrap(),
        request_id: header("x-request-id"),
        body: serde_json::from_slice(body).unwrap(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_end_is_refused_before_it_is_read() {
    let app = capture_alone(&[("capture.body_bytes_max", "256 KiB")], None).await;
    let (answer, sent) = send_endless(&app.client, "Transfer-Encoding: chunked", true).await;
    assert_eq!(answer.refused("endless", 413, "payload_too_large")["max"], 256 << 10);
    // What the buffers of two sockets take may be on its way.
    assert!(sent < 64 << 20, "{sent} bytes were sent before the refusal");
    let (answer, _) = send_endless(&app.client, "Content-Length: 1073741824", false).await;
    answer.refused("1 GiB announced", 413, "payload_too_large");
    app.client.accept(&event()).await;
    app.stop().await;
}

async fn the_good_items_of_a_batch_are_accepted_and_visible_beside_the_rejected(log: Log) {
    let app = Sandbox::on(log).await;
    let body = json!([
        {"event": "good", "distinct_id": "ada", "event_id": "first"},
        {"distinct_id": "ada"},
        "not an event",
        {"event": "good", "distinct_id": "ada \"\\\u{1F600}", "event_id": "odd", "properties": {"n": 1}},
        {"event": "bad", "distinct_id": "ada", "timestamp": "yesterday"},
        {"event": "bad", "distinct_id": "ada", "properties": [1]},
        {"event": "bad", "distinct_id": "ada", "properties": {"text": "x".repeat(600 << 10)}},
        {"event": "bad", "distinct_id": "nul\u{0}"},
        {"event": "good", "distinct_id": "ada", "event_id": "last", "timestamp": "2199-01-01T00:00:00Z"},
    ]);
    let (status, answer) = app.client.capture(&body).await;
    assert_eq!((status, &answer["accepted"]), (202, &json!(3)), "{answer}");
    assert_eq!(answer["event_ids"], json!(["first", "odd", "last"]));
    let rejected: Vec<_> = answer["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["index"].as_u64().unwrap(), item["code"].as_str().unwrap(), item["field"].as_str()))
        .collect();
    assert_eq!(
        rejected,
        [
            (1, "validation_error", Some("event")),
            (2, "validation_error", None),
            (4, "validation_error", Some("timestamp")),
            (5, "validation_error", Some("properties")),
            (6, "payload_too_large", Some("properties")),
            (7, "validation_error", Some("distinct_id")),
        ]
    );
    let events = app.client.settled(3).await;
    let mut seen: Vec<_> = events.iter().map(|event| event["event_id"].as_str().unwrap()).collect();
    seen.sort_unstable();
    assert_eq!(seen, ["first", "last", "odd"]);
    let odd = events.iter().find(|event| event["event_id"] == "odd").unwrap();
    assert_eq!(odd["distinct_id"], "ada \"\\\u{1F600}", "what was sent comes back");
    let last = events.iter().find(|event| event["event_id"] == "last").unwrap();
    assert_eq!(last["timestamp"], last["received_at"], "far ahead is set to the time of receipt: {last}");
    assert_eq!(app.client.audit().await["balanced"], true);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_expired_or_of_another_environment_writes_nothing() {
    let noon = Timestamp::parse("2026-06-01T12:00:00Z").unwrap();
    let clock = Arc::new(ManualClock::at(noon));
    let app = capture_alone(&[], Some(clock.clone())).await;
    let client = &app.client;
    let (_, projects) = client.operator_get("/api/projects").await;
    let keys = format!("/api/projects/{}/api-keys", projects["projects"][0]["id"].as_str().unwrap());
    let (_, found) = client.operator_get("/api/environments").await;
    let environments = found["environments"].as_array().unwrap();
    let environment =
        |name: &str| environments.iter().find(|one| one["name"] == name).unwrap()["id"].as_str().unwrap();
    let mut made = Vec::new();
    for expires_at in [None, Some(noon.plus(Duration::from_secs(3600)))] {
        let mut body = json!({"environment_id": environment("production"), "scopes": ["ingest"]});
        if let Some(at) = expires_at {
            body["expires_at"] = json!(at.to_string());
        }
        let (status, key) = client.operator_post(&keys, &body).await;
        assert_eq!(status, 201, "{key}");
        made.push(key);
    }
    let with_key =
        async |key: &str| send(client, &[("X-API-Key", key)], event().to_string().into_bytes()).await;
    let [revoked, expired] = [0, 1].map(|at: usize| made[at]["api_key"].as_str().unwrap());
    for key in [revoked, expired] {
        assert_eq!(with_key(key).await.status, 202, "it is good, and known from now on");
    }

    let path = format!("{}{keys}/{}", client.url, made[0]["id"].as_str().unwrap());
    let deleted = client.http.delete(path).bearer_auth(&client.operator_token).send().await.unwrap();
    assert_eq!(deleted.status(), 200);
    clock.set(noon.plus(Duration::from_secs(3601)));
    for (what, key) in [("revoked", revoked), ("expired", expired), ("unknown", "ff_nobody"), ("none", "")] {
        with_key(key).await.refused(what, 401, "unauthorized");
    }
    let elsewhere = environment("development");
    let by_header = send(client, &[("X-Environment-ID", elsewhere)], event().to_string().into_bytes()).await;
    let mut named = event();
    named["environment_id"] = json!(elsewhere);
    let by_body = send(client, &[], named.to_string().into_bytes()).await;
    for (what, answer) in [("by header", by_header), ("by body", by_body)] {
        let details = answer.refused(what, 403, "permission_denied");
        assert_eq!(details["given"], elsewhere, "{what}: {details}");
        assert_eq!(details["valid"][0]["id"], environment("production"), "{what}: {details}");
    }
    let topics = app.running.log().topics().await.unwrap();
    let written: i64 = topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.end).sum();
    assert_eq!(written, 2, "only what the good keys sent");
    app.stop().await;
}

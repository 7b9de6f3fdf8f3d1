//! `/capture` as a client sees it: every status, and every kind of bad input, each with the one error body.

use std::io::Write;
use std::sync::Arc;

use actix_web::App;
use actix_web::body::to_bytes;
use actix_web::dev::{Service, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::test::{TestRequest, init_service};

use super::*;
use crate::auth::{KeyDigest, Keys};
use crate::capture::tests::{Bench, bench_with};
use crate::config::{Config, StaticKey};
use crate::event::{RandomIds, SystemClock};
use crate::eventlog::{Fault, Operation};
use crate::http::Edge;
use crate::lifecycle::{Health, Stop, Tasks};
use crate::meta::Meta;

const GOOD: &str = r#"{"event":"click","distinct_id":"u1","event_id":"e1"}"#;

fn key(scope: &str, environment: &str) -> StaticKey {
    StaticKey {
        sha256: KeyDigest::of(format!("key-{scope}").as_bytes()).to_hex(),
        project_id: "proj_a".to_owned(),
        environment_id: environment.to_owned(),
        scopes: vec![scope.to_owned()],
    }
}

async fn keys(folder: &std::path::Path) -> Keys {
    let mut config = Config::from_overrides(&[]).unwrap();
    config.auth.static_keys = vec![key("ingest", "env_a"), key("query", "env_a")];
    let (clock, ids) = (Arc::new(SystemClock), Arc::new(RandomIds));
    let health = Health::new(clock.clone());
    let meta = Meta::open(&config.meta, folder, clock.clone(), ids.clone(), &health).await.unwrap();
    meta.migrate().await.unwrap();
    Keys::new(meta, &config.auth, clock, ids, &Tasks::new(Stop::default())).unwrap()
}

/// The application around `$bench`, as the real one is put together.
macro_rules! service {
    ($bench:expr, $folder:expr) => {
        init_service(
            App::new()
                .app_data(Data::new($bench.capture.clone()))
                .app_data(Data::new(keys($folder.path()).await))
                .configure(routes)
                .wrap(Edge::new(Arc::new(RandomIds), Arc::new(SystemClock), &[])),
        )
        .await
    };
}

/// A request with a good key, whose id is `req-1`.
fn post(body: impl Into<Bytes>) -> TestRequest {
    TestRequest::post()
        .uri("/capture")
        .insert_header(("X-Request-ID", "req-1"))
        .insert_header(("X-API-Key", "key-ingest"))
        .insert_header(("Content-Type", "application/json"))
        .set_payload(body)
}

async fn answer_of<S, R>(service: &S, request: R) -> (StatusCode, Value)
where
    S: Service<R, Response = ServiceResponse, Error = actix_web::Error>,
{
    let response = service.call(request).await.unwrap();
    assert_eq!(response.headers().get("X-Request-ID").unwrap(), "req-1");
    let status = response.status();
    let body = to_bytes(response.into_body()).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

macro_rules! call {
    ($service:expr, $request:expr) => {
        answer_of(&$service, $request.to_request())
    };
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

async fn bench() -> (Bench, tempfile::TempDir) {
    (bench_with(&[("capture.batch_events_max", "3")]).await, tempfile::tempdir().unwrap())
}

#[actix_web::test]
async fn every_form_of_body_is_accepted_on_both_paths() {
    let (bench, folder) = bench().await;
    let service = service!(bench, folder);
    let array = format!("[{GOOD}]");
    let batch = format!("{{\"batch\":{array}}}");
    let mut requests = vec![
        post(GOOD),
        post(array),
        post(batch.clone()).uri("/capture/batch"),
        post(gzip(GOOD.as_bytes())).insert_header(("Content-Encoding", "gzip")),
        post(zstd::stream::encode_all(GOOD.as_bytes(), 3).unwrap())
            .insert_header(("Content-Encoding", "zstd")),
        post(GOOD).insert_header(("Content-Type", "text/plain;charset=UTF-8")),
        TestRequest::post()
            .uri("/capture")
            .insert_header(("X-Request-ID", "req-1"))
            .insert_header(("Authorization", "Bearer key-ingest"))
            .set_payload(GOOD),
    ];
    let sent = requests.len();
    for request in requests.drain(..) {
        let (status, body) = call!(service, request).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{body}");
        assert_eq!(body, json!({"status":"accepted","accepted":1,"event_ids":["e1"],"rejected":[]}));
    }
    assert_eq!(bench.stored().await.len(), sent);
}

#[actix_web::test]
async fn an_environment_that_stands_beside_a_batch_is_held_against_the_key() {
    let (bench, folder) = bench().await;
    let service = service!(bench, folder);
    let bulk = r#"{"event_name":"e","external_customer_id":"c"}"#;
    let surfaces = [
        ("/capture", "batch", GOOD),
        ("/v1/events/bulk", "events", bulk),
        ("/v1/events/raw/bulk", "data", r#"{"id":"r1"}"#),
        ("/v1/events/raw/bulk", "raw_events", r#"{"id":"r1"}"#),
    ];
    for (path, envelope, item) in surfaces {
        for (named, expected) in [
            (r#""env_a""#, StatusCode::ACCEPTED),
            ("null", StatusCode::ACCEPTED),
            (r#""env_b""#, StatusCode::FORBIDDEN),
            (r#""\u0065nv_b""#, StatusCode::FORBIDDEN),
            ("5", StatusCode::FORBIDDEN),
        ] {
            let before = format!(r#"{{"environment_id": {named} ,"{envelope}":[{item}]}}"#);
            let behind = format!(r#"{{"{envelope}":[{item}],"x":[1],"environment_id": {named} }}"#);
            for body in [before, behind] {
                let kept = bench.records().await;
                let (status, answer) = call!(service, post(body.clone()).uri(path)).await;
                assert_eq!(status, expected, "{path} {body}: {answer}");
                let added = i64::from(expected == StatusCode::ACCEPTED);
                assert_eq!(bench.records().await, kept + added, "{path} {body}");
                if expected == StatusCode::FORBIDDEN {
                    assert_eq!(answer["details"]["valid"][0]["id"], "env_a", "{path} {body}: {answer}");
                }
            }
        }
    }
}

#[actix_web::test]
async fn a_bad_item_is_named_and_its_neighbours_are_accepted() {
    let (bench, folder) = bench().await;
    let service = service!(bench, folder);
    let body = format!(r#"[{GOOD},{{"distinct_id":"u"}},{{"event":"x","distinct_id":"u"}}]"#);
    let (status, body) = call!(service, post(body)).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let ids = body["event_ids"].as_array().unwrap();
    assert_eq!((ids.len(), &ids[0]), (2, &json!("e1")));
    let made: uuid::Uuid = ids[1].as_str().unwrap().parse().unwrap();
    assert_eq!(made.get_version_num(), 7);
    assert_eq!(
        body["rejected"],
        json!([{"index":1,"code":"validation_error","message":"event is required","field":"event"}])
    );
    assert_eq!(bench.counts.of("capture_events_accepted_total"), 2);
}

/// Every answer but 202, as it stands on the wire.
#[actix_web::test]
async fn every_error_body_is_a_contract() {
    let (bench, folder) = bench().await;
    let service = service!(bench, folder);
    let with_key = |key: &str| {
        TestRequest::post()
            .uri("/capture")
            .insert_header(("X-Request-ID", "req-1"))
            .insert_header(("X-API-Key", key))
            .set_payload(GOOD)
    };
    let item = |fields: &str| format!(r#"{{"event":"e","distinct_id":"u",{fields}}}"#);
    let deep = item(&format!(r#""properties":{{"a":{}1{}}}"#, "[".repeat(40), "]".repeat(40)));
    let large = item(&format!(r#""properties":{{"a":"{}"}}"#, "x".repeat(600 << 10)));
    let record = item(&format!(r#""properties":{{"a":"{}"}}"#, "x".repeat(5000)));
    let bomb = gzip(&vec![b' '; 33 << 20]);
    let truncated = gzip(GOOD.as_bytes())[..30].to_vec();
    let cases: Vec<(&str, TestRequest)> = vec![
        (
            "no key",
            TestRequest::post().uri("/capture").insert_header(("X-Request-ID", "req-1")).set_payload(GOOD),
        ),
        ("wrong key", with_key("ff_wrong")),
        ("key without the scope ingest", with_key("key-query")),
        ("header names another environment", post(GOOD).insert_header(("X-Environment-ID", "env_b"))),
        ("every item names another environment", post(item(r#""environment_id":"env_b""#))),
        (
            "wrong content type",
            post(GOOD).insert_header(("Content-Type", "application/x-www-form-urlencoded")),
        ),
        ("wrong charset", post(GOOD).insert_header(("Content-Type", "application/json; charset=latin1"))),
        ("unknown compression", post(GOOD).insert_header(("Content-Encoding", "br"))),
        ("truncated gzip", post(truncated).insert_header(("Content-Encoding", "gzip"))),
        ("not gzip at all", post(GOOD).insert_header(("Content-Encoding", "gzip"))),
        ("zip bomb", post(bomb).insert_header(("Content-Encoding", "gzip"))),
        ("body over the limit", post(vec![b' '; (10 << 20) + 1])),
        ("empty body", post("")),
        ("not JSON", post("event=click\n")),
        ("JSON that breaks off", post("{\"event\":\"e\",\n \"distinct_id\":")),
        ("array that breaks off", post(format!("[{GOOD},{GOOD}"))),
        ("a number", post("5")),
        ("batch is no array", post(r#"{"batch":{}}"#)),
        ("empty batch", post("[]")),
        ("too many items", post(format!("[{GOOD},{GOOD},{GOOD},{GOOD}]"))),
        ("missing field", post(r#"{"event":"e"}"#)),
        ("wrong type", post(r#"{"event":"e","distinct_id":7}"#)),
        ("key twice", post(r#"{"event":"e","event":"f","distinct_id":"u"}"#)),
        ("key twice in properties", post(item(r#""properties":{"a":1,"a":2}"#))),
        ("deep nesting", post(deep)),
        ("properties too large", post(large)),
        ("record over the log's limit", post(record)),
        ("before 1970", post(item(r#""timestamp":"1969-07-20T20:17:00Z""#))),
        ("unreadable time", post(item(r#""timestamp":"last week""#))),
        ("NUL", post("{\"event\":\"e\",\"distinct_id\":\"a\0b\"}")),
        ("escaped NUL", post(r#"{"event":"e","distinct_id":"a\u0000b"}"#)),
        ("invalid UTF-8", post(&b"{\"event\":\"e\",\"distinct_id\":\"a\xff\"}"[..])),
        ("several bad items", post("[1,{}]")),
        ("wrong method", TestRequest::get().uri("/capture").insert_header(("X-Request-ID", "req-1"))),
    ];
    let mut bodies = serde_json::Map::new();
    for (name, request) in cases {
        let (status, body) = call!(service, request).await;
        assert_eq!(body["http_status_code"], status.as_u16(), "{name}");
        bodies.insert(name.to_owned(), body);
    }
    bench.log.script(Operation::Produce, [Fault::Refuse, Fault::Full]);
    for name in ["log not available", "log full"] {
        let (status, body) = call!(service, post(GOOD)).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{name}");
        bodies.insert(name.to_owned(), body);
    }
    insta::assert_json_snapshot!(bodies);
    assert!(bench.stored().await.is_empty());
    assert_eq!(bench.counts.of("capture_events_accepted_total"), 0);
}

#[actix_web::test]
async fn a_log_that_is_away_is_503_with_retry_after_and_heals() {
    let (bench, folder) = bench().await;
    let service = service!(bench, folder);
    bench.log.go_away(1000);
    for _ in 0..20 {
        let response = service.call(post(GOOD).to_request()).await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let wait: u64 = response.headers().get("Retry-After").unwrap().to_str().unwrap().parse().unwrap();
        assert!((1..=5).contains(&wait));
    }
    bench.log.heal();
    let healed = async {
        while call!(service, post(GOOD)).await.0 != StatusCode::ACCEPTED {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), healed).await.unwrap();
    assert_eq!(bench.stored().await, ["e1"]);
}

#[actix_web::test]
async fn without_a_required_key_a_wrong_one_is_still_refused() {
    let bench = bench_with(&[("capture.require_api_key", "false")]).await;
    let folder = tempfile::tempdir().unwrap();
    let service = service!(bench, folder);
    let (status, body) = call!(service, post(GOOD).insert_header(("X-API-Key", "ff_wrong"))).await;
    assert_eq!((status, &body["code"]), (StatusCode::UNAUTHORIZED, &json!("unauthorized")));
}

#[actix_web::test]
async fn a_body_beyond_the_bytes_in_flight_is_503() {
    let bench = bench_with(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let service = service!(bench, folder);
    let mut others = bench.capture.in_flight();
    others.grow((128 << 20) - 10).unwrap();
    let (status, body) = call!(service, post(GOOD)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body["message"].as_str().unwrap().contains("capture.in_flight_bytes_max"), "{body}");
    drop(others);
    assert_eq!(call!(service, post(GOOD)).await.0, StatusCode::ACCEPTED);
}

#[actix_web::test]
async fn one_event_of_the_other_surface_is_answered_with_texts_only() {
    let (bench, folder) = bench().await;
    let service = service!(bench, folder);
    for path in ["/v1/events", "/api/v1/events"] {
        let event =
            r#"{"event_name":"call","external_customer_id":"c","event_id":"e::1","properties":{"n":1}}"#;
        let (status, body) = call!(service, post(event).uri(path)).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{body}");
        assert_eq!(body, json!({"message": "Event accepted for processing", "event_id": "e::1"}));
    }
    let typed = r#"{"event_type":"test","properties":{},"event_id":"e\"2"}"#;
    let (status, body) = call!(service, post(typed).uri("/v1/events")).await;
    assert_eq!((status, &body["event_id"]), (StatusCode::ACCEPTED, &json!("e\"2")));
    let (status, body) = call!(service, post(r#"{"event_type":"test"}"#).uri("/v1/events")).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    assert!(body.as_object().unwrap().values().all(Value::is_string), "{body}");
    assert_eq!(bench.stored().await.len(), 4);
}

#[actix_web::test]
async fn the_other_surface_names_its_own_fields() {
    let (bench, folder) = bench().await;
    let service = service!(bench, folder);
    let long = format!(r#"{{"event_type":"a","event_id":"{}"}}"#, "x".repeat(196));
    let cases = [
        ("/v1/events", r#"{"external_customer_id":"c"}"#, "event_name"),
        ("/v1/events", r#"{"event_name":" ","external_customer_id":"c"}"#, "event_name"),
        ("/v1/events", r#"{"event_name":"a"}"#, "external_customer_id"),
        ("/v1/events", r#"{"event_name":"a","event_type":"a"}"#, "external_customer_id"),
        ("/v1/events", &long, "external_customer_id"),
        ("/v1/events", r#"{"event_name":"a","event_type":"b","external_customer_id":"c"}"#, "event_name"),
        ("/v1/events", r#"{"event_name":"a","external_customer_id":"c","timestamp":""}"#, "timestamp"),
        ("/v1/events", r#"{"event_name":"a","external_customer_id":7}"#, "external_customer_id"),
        ("/v1/events", r#"{"event_name":"a","external_customer_id":"c","properties":[]}"#, "properties"),
        ("/v1/events/bulk", r#"{"event_name":"a","external_customer_id":"c"}"#, "events"),
        ("/v1/events/bulk", r#"{"events":{}}"#, "events"),
    ];
    for (path, body, field) in cases {
        let (status, answer) = call!(service, post(body.to_owned()).uri(path)).await;
        assert_eq!(
            (status, &answer["details"]["field"]),
            (StatusCode::BAD_REQUEST, &json!(field)),
            "{answer}"
        );
    }
    for (path, body) in [("/v1/events", "[]"), ("/v1/events/bulk", r#"{"events":[]}"#)] {
        let (status, answer) = call!(service, post(body).uri(path)).await;
        assert_eq!(
            (status, &answer["code"]),
            (StatusCode::BAD_REQUEST, &json!("validation_error")),
            "{answer}"
        );
    }
    assert!(bench.stored().await.is_empty());
}

#[actix_web::test]
async fn a_bad_item_of_a_bulk_request_loses_nothing_but_itself() {
    let bench = bench_with(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let service = service!(bench, folder);
    let good = r#"{"event_name":"a","external_customer_id":"c","event_id":"g1"}"#;
    let body = format!(r#"{{"events":[{good},{{"event_name":"b"}},17,{}]}}"#, good.replace("g1", "g2"));
    let (status, answer) = call!(service, post(body).uri("/v1/events/bulk")).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    assert!(answer.as_object().unwrap().values().all(Value::is_string), "{answer}");
    let inside = |key: &str| serde_json::from_str::<Value>(answer[key].as_str().unwrap()).unwrap();
    assert_eq!(inside("event_ids"), json!(["g1", "g2"]));
    assert_eq!((&inside("rejected")[0]["index"], &inside("rejected")[1]["index"]), (&json!(1), &json!(2)));
    assert_eq!(inside("rejected")[0]["field"], "external_customer_id");
    assert_eq!(bench.stored().await, ["g1", "g2"]);

    let (status, answer) = call!(service, post(r#"{"events":[{},{}]}"#).uri("/v1/events/bulk")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(answer["details"]["rejected"][1]["index"], 1, "{answer}");
    let many = format!(r#"{{"events":[{}]}}"#, vec![good; 1001].join(","));
    let (status, answer) = call!(service, post(many).uri("/v1/events/bulk")).await;
    assert_eq!((status, &answer["details"]["max"]), (StatusCode::BAD_REQUEST, &json!(1000)), "{answer}");
    assert_eq!(bench.stored().await.len(), 2);
}

//! Whatever goes wrong behind the edge, the client gets the one body with its request id.

use std::sync::Mutex;

use actix_web::body::to_bytes;
use actix_web::test::{TestRequest, init_service};
use actix_web::{App, web};
use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::event::{RandomIds, SystemClock};

async fn problem() -> Result<HttpResponse, Problem> {
    Err(Problem::unavailable("busy", Duration::from_millis(1500))
        .because(anyhow::anyhow!("the secret cause")))
}

async fn panics() -> HttpResponse {
    panic!("scripted panic")
}

async fn actix_json(_: web::Json<Value>) -> HttpResponse {
    HttpResponse::Ok().finish()
}

async fn own_body(id: RequestId) -> HttpResponse {
    HttpResponse::BadRequest().json(json!({"own": id.as_str()}))
}

macro_rules! service {
    ($($origin:expr),*) => {{
        let origins: Vec<String> = vec![$($origin.to_owned()),*];
        init_service(
            App::new()
                .app_data(web::JsonConfig::default().limit(10))
                .service(web::resource("/things/{id}").route(web::get().to(problem)))
                .route("/panics", web::get().to(panics))
                .route("/json", web::post().to(actix_json))
                .route("/own", web::get().to(own_body))
                .route("/fine", web::get().to(HttpResponse::Ok))
                .wrap(Edge::new(Arc::new(RandomIds), Arc::new(SystemClock), &origins)),
        )
        .await
    }};
}

/// Status, headers and JSON of an answer, be it one of the application's or an error that passed it.
async fn answer_of<S, R>(service: &S, request: R) -> (StatusCode, HeaderMap, Value)
where
    S: Service<R, Response = ServiceResponse, Error = Error>,
{
    let response = match service.call(request).await {
        Ok(response) => response.into_parts().1,
        Err(error) => error.error_response(),
    };
    let (status, headers) = (response.status(), response.headers().clone());
    let body = to_bytes(response.into_body()).await.unwrap();
    (status, headers, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[actix_web::test]
async fn every_failure_has_the_one_body_with_the_request_id() {
    let service = service!();
    let get = |uri: &str| TestRequest::get().uri(uri);
    let cases = [
        (get("/things/5"), 503, "service_unavailable"),
        (get("/panics"), 500, "internal_error"),
        (get("/nowhere"), 404, "not_found"),
        (TestRequest::delete().uri("/things/5"), 405, "method_not_allowed"),
        (
            TestRequest::post()
                .uri("/json")
                .insert_header(("Content-Type", "application/json"))
                .set_payload("{"),
            400,
            "validation_error",
        ),
        (
            TestRequest::post()
                .uri("/json")
                .insert_header(("Content-Type", "application/json"))
                .set_payload("[1,2,3,4,5,6]"),
            413,
            "payload_too_large",
        ),
    ];
    for (request, expected, code) in cases {
        let request = request.insert_header(("X-Request-ID", "req-1")).to_request();
        let what = format!("{} {}", request.method(), request.uri());
        let (status, headers, body) = answer_of(&service, request).await;
        assert_eq!(status.as_u16(), expected, "{what}: {body}");
        assert_eq!(headers.get("X-Request-ID").unwrap(), "req-1", "{what}");
        assert_eq!(headers.get("X-Content-Type-Options").unwrap(), "nosniff", "{what}");
        assert_eq!(body["request_id"], "req-1", "{what}");
        assert_eq!(body["code"], code, "{what}");
        assert_eq!(body["http_status_code"], expected, "{what}");
        assert_eq!(body["success"], false, "{what}");
        assert_eq!(body["error"]["message"], body["message"], "{what}");
        assert!(!body.to_string().contains("secret") && !body.to_string().contains("scripted"), "{body}");
        match expected {
            503 => assert_eq!(headers.get("Retry-After").unwrap(), "2"),
            405 => assert_eq!(headers.get("Allow").unwrap(), "GET"),
            _ => {}
        }
    }
}

#[actix_web::test]
async fn an_answer_that_has_its_own_body_keeps_it() {
    let (status, _, body) = answer_of(
        &service!(),
        TestRequest::get().uri("/own").insert_header(("X-Request-ID", "r")).to_request(),
    )
    .await;
    assert_eq!((status, body), (StatusCode::BAD_REQUEST, json!({"own": "r"})));
}

#[actix_web::test]
async fn a_request_id_is_echoed_if_it_is_harmless_and_made_if_not() {
    let service = service!();
    let long = "x".repeat(REQUEST_ID_CHARACTERS_MAX);
    for id in ["a", "550e8400-e29b-41d4-a716-446655440000", "!~", &long] {
        let request = TestRequest::get().uri("/fine").insert_header(("X-Request-ID", id)).to_request();
        assert_eq!(answer_of(&service, request).await.1.get("X-Request-ID").unwrap(), id);
    }
    let longer = format!("{long}x");
    for id in ["", "a b", "ümlaut", "tab\t", &longer] {
        let request = TestRequest::get().uri("/fine").insert_header(("X-Request-ID", id)).to_request();
        let made = answer_of(&service, request).await.1.get("X-Request-ID").unwrap().clone();
        let made: uuid::Uuid = made.to_str().unwrap().parse().unwrap();
        assert_eq!(made.get_version_num(), 7, "{id:?}");
    }
}

#[actix_web::test]
async fn only_configured_origins_may_call_from_a_browser() {
    let service = service!("https://app.example.com");
    let ask = |origin: &'static str| {
        TestRequest::with_uri("/fine")
            .method(Method::OPTIONS)
            .insert_header(("Origin", origin))
            .insert_header(("Access-Control-Request-Method", "GET"))
            .to_request()
    };
    let (status, headers, _) = answer_of(&service, ask("https://app.example.com")).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(headers.get("Access-Control-Allow-Origin").unwrap(), "https://app.example.com");
    assert!(headers.get("Access-Control-Allow-Headers").unwrap().to_str().unwrap().contains("X-API-Key"));
    let (_, headers, _) = answer_of(&service, ask("https://evil.example.com")).await;
    assert!(!headers.contains_key("Access-Control-Allow-Origin"));
    let request =
        TestRequest::get().uri("/fine").insert_header(("Origin", "https://app.example.com")).to_request();
    let (_, headers, _) = answer_of(&service, request).await;
    assert_eq!(headers.get("Access-Control-Allow-Origin").unwrap(), "https://app.example.com");
    assert_eq!(headers.get("Vary").unwrap(), "Origin");
    let (_, headers, _) = answer_of(&service!(), ask("https://app.example.com")).await;
    assert!(!headers.contains_key("Access-Control-Allow-Origin") && !headers.contains_key("Vary"));
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[actix_web::test]
async fn the_log_has_the_cause_and_the_request_id() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_writer(lines.clone()).finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let request = TestRequest::get().uri("/things/5").insert_header(("X-Request-ID", "req-9")).to_request();
    answer_of(&service!(), request).await;
    drop(guard);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(line["error"], "service_unavailable: busy: the secret cause");
    assert_eq!(line["route"], "/things/{id}");
    assert_eq!(line["status"], 503);
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["span"]["request_id"], "req-9");
}

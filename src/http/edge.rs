//! What every request passes through, whatever its route: the request id, the log line, the count, the one error
//! body, caught panics, security headers and CORS.
//!
//! When a client goes away before its answer, a request that changes nothing is dropped where it stands, and so is what
//! it began in the store; one that changes something is carried to its end, so that no change is left half made.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Ready, ready};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, Service, ServiceRequest, ServiceResponse, Transform};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{Error, FromRequest, HttpMessage, HttpRequest, HttpResponse, ResponseError};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use metrics::Counter;
use tracing::Instrument;

use super::body::Unread;
use super::cors::Cors;
use super::{ErrorCode, Problem};
use crate::event::{Clock, IdSource};
use crate::telemetry::names;

/// The header that carries the request id, both ways.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Below it everything is a question, whatever its method.
const QUESTIONS: &str = "/api/query/";

/// Longest request id taken from a client; a longer one is replaced.
const REQUEST_ID_CHARACTERS_MAX: usize = 128;

/// The id of a request: the client's `X-Request-ID` if it is 1–128 visible ASCII characters, else a new one. As an
/// extractor it gives the id of the request at hand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestId(Arc<str>);

impl RequestId {
    fn of(headers: &HeaderMap, ids: &dyn IdSource, clock: &dyn Clock) -> Self {
        let given = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok());
        match given {
            Some(id) if is_request_id(id) => Self(id.into()),
            _ => Self(ids.uuid_now(clock).to_string().into()),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_request_id(text: &str) -> bool {
    (1..=REQUEST_ID_CHARACTERS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The id of the request at hand; empty outside of [`Edge`].
pub fn request_id(request: &HttpRequest) -> RequestId {
    request.extensions().get::<RequestId>().cloned().unwrap_or_else(|| RequestId("".into()))
}

impl FromRequest for RequestId {
    type Error = std::convert::Infallible;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(request_id(request)))
    }
}

/// The middleware; wrap the whole application in it, outermost.
#[derive(Clone)]
pub struct Edge {
    ids: Arc<dyn IdSource>,
    clock: Arc<dyn Clock>,
    cors: Arc<Cors>,
}

impl Edge {
    /// `cors_origins`: see `server.cors_origins`.
    pub fn new(ids: Arc<dyn IdSource>, clock: Arc<dyn Clock>, cors_origins: &[String]) -> Self {
        Self { ids, clock, cors: Arc::new(Cors::new(cors_origins)) }
    }
}

impl<S, B> Transform<S, ServiceRequest> for Edge
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type Transform = EdgeService<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(EdgeService { service: Rc::new(service), edge: self.clone(), counters: Rc::default() }))
    }
}

/// [`Edge`] around one worker's application.
pub struct EdgeService<S> {
    service: Rc<S>,
    edge: Edge,
    counters: Rc<RequestCounters>,
}

impl<S, B> Service<ServiceRequest> for EdgeService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Error>>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let begun = Instant::now();
        let id = RequestId::of(request.headers(), &*self.edge.ids, &*self.edge.clock);
        request.extensions_mut().insert(id.clone());
        let (service, cors, counters) = (self.service.clone(), self.edge.cors.clone(), self.counters.clone());
        let origin = request.headers().get(header::ORIGIN).cloned();
        let method = request.method().clone();
        let changes_nothing = changes_nothing(&method, request.path());
        let span =
            tracing::info_span!("request", request_id = id.as_str(), project_id = tracing::field::Empty);
        let answer = async move {
            if let Some(preflight) = cors.preflight(&request) {
                return Ok(finish(request.into_response(preflight), &id, &cors, origin.as_ref()));
            }
            let path = request.path().to_owned();
            let called = AssertUnwindSafe(async { service.call(request).await }).catch_unwind().await;
            let (done, route) = match called {
                Ok(Ok(response)) => {
                    let response = response.map_into_boxed_body();
                    let route = response.request().match_pattern();
                    (Ok(response), route)
                }
                Ok(Err(error)) => (Err(error), None),
                Err(panic) => (Err(Problem::internal(panicked(&*panic)).into()), None),
            };
            let (done, failure) = one_body(done, &method, &path, &id);
            let status = done.as_ref().map_or(ErrorCode::InternalError.status(), ServiceResponse::status);
            let route = route.unwrap_or_else(|| "unmatched".to_owned());
            log(&method, &route, status, begun.elapsed(), failure.as_deref());
            counters.count(route, &method, status);
            done.map(|response| finish(response, &id, &cors, origin.as_ref()))
        };
        let answer = answer.instrument(span);
        if changes_nothing {
            return answer.boxed_local();
        }
        let carried = actix_web::rt::spawn(answer);
        async move { carried.await.unwrap_or_else(|lost| Err(Problem::internal(lost).into())) }.boxed_local()
    }
}

/// May the work on it end when its client goes?
fn changes_nothing(method: &Method, path: &str) -> bool {
    method.is_safe() || path.starts_with(QUESTIONS)
}

fn finish(
    mut response: ServiceResponse<BoxBody>,
    id: &RequestId,
    cors: &Cors,
    origin: Option<&HeaderValue>,
) -> ServiceResponse<BoxBody> {
    let headers = response.headers_mut();
    dress(headers, id);
    cors.dress(headers, origin);
    let unread = response.request().extensions_mut().remove::<Unread>();
    match unread {
        None => response,
        Some(unread) => response.map_body(|_, body| BoxBody::new(Holding { body, _unread: unread })),
    }
}

/// Headers that every answer has.
fn dress(headers: &mut HeaderMap, id: &RequestId) {
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        headers.insert(REQUEST_ID, id);
    }
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}

/// Gives an answer that failed the one body, with the request id in it; the second part says why, for the log.
fn one_body(
    done: Result<ServiceResponse<BoxBody>, Error>,
    method: &Method,
    path: &str,
    id: &RequestId,
) -> (Result<ServiceResponse<BoxBody>, Error>, Option<String>) {
    let response = match done {
        Ok(response) => response,
        Err(error) => {
            let problem = match error.as_error::<Problem>() {
                Some(problem) => problem.for_request(),
                None => of_status(&error.error_response(), Some(&error), method, path),
            };
            let failure = why(&problem);
            let rendered = Rendered { problem, id: id.clone() };
            return (Err(rendered.into()), Some(failure));
        }
    };
    if !response.status().is_client_error() && !response.status().is_server_error() {
        return (Ok(response), None);
    }
    let inner = response.response();
    if let Some(problem) = inner.error().and_then(|error| error.as_error::<Problem>()) {
        let (rendered, failure) = (problem.response(id.as_str()), why(problem));
        return (Ok(response.into_response(rendered)), Some(failure));
    }
    let is_json = inner
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if is_json && inner.error().is_none() {
        return (Ok(response), None);
    }
    let problem = of_status(inner, inner.error(), method, path);
    let mut rendered = problem.response(id.as_str());
    if let Some(allow) = inner.headers().get(header::ALLOW) {
        rendered.headers_mut().insert(header::ALLOW, allow.clone());
    }
    let failure = why(&problem);
    (Ok(response.into_response(rendered)), Some(failure))
}

/// The one body for answers that actix made itself.
fn of_status(response: &HttpResponse, error: Option<&Error>, method: &Method, path: &str) -> Problem {
    let said = error.map(ToString::to_string).unwrap_or_default();
    let or = |fallback: &str| if said.is_empty() { fallback.to_owned() } else { said.clone() };
    match response.status() {
        StatusCode::NOT_FOUND => no_route(method, path),
        StatusCode::METHOD_NOT_ALLOWED => {
            let allow = response.headers().get(header::ALLOW).and_then(|allow| allow.to_str().ok());
            let valid: Vec<&str> = allow.unwrap_or_default().split(", ").filter(|m| !m.is_empty()).collect();
            let message = format!("{path} does not take {method}; it takes {}", valid.join(", "));
            Problem::new(ErrorCode::MethodNotAllowed, message).with("valid", valid)
        }
        StatusCode::UNAUTHORIZED => Problem::new(ErrorCode::Unauthorized, or("not logged in")),
        StatusCode::FORBIDDEN => Problem::new(ErrorCode::PermissionDenied, or("not allowed")),
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(ErrorCode::PayloadTooLarge, or("the body is too large"))
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            Problem::new(ErrorCode::UnsupportedMediaType, or("the media type is not supported"))
        }
        StatusCode::TOO_MANY_REQUESTS => Problem::new(ErrorCode::TooManyRequests, or("too many requests")),
        StatusCode::SERVICE_UNAVAILABLE => {
            Problem::unavailable("not available at the moment", Duration::from_secs(1))
                .because(anyhow::anyhow!(said))
        }
        status if status.is_client_error() => {
            Problem::new(ErrorCode::ValidationError, or("the request cannot be read"))
        }
        _ => Problem::internal(anyhow::anyhow!(said)),
    }
}

/// 404 for a path that no route has; the application's default service answers it.
pub(super) fn no_route(method: &Method, path: &str) -> Problem {
    Problem::new(ErrorCode::NotFound, format!("nothing is served at {method} {path}"))
}

fn why(problem: &Problem) -> String {
    match &problem.cause {
        Some(cause) => format!("{problem}: {cause:#}"),
        None => problem.to_string(),
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> anyhow::Error {
    let said = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    anyhow::anyhow!("a handler panicked: {said}")
}

fn log(method: &Method, route: &str, status: StatusCode, took: Duration, failure: Option<&str>) {
    let (method, status, duration_ms) = (method.as_str(), status.as_u16(), took.as_secs_f64() * 1000.0);
    let error = failure.unwrap_or_default();
    match status {
        503 => tracing::warn!(method, route, status, duration_ms, error, "request not served"),
        500.. => tracing::error!(method, route, status, duration_ms, error, "request failed"),
        400.. => tracing::info!(method, route, status, duration_ms, error, "request refused"),
        _ => tracing::debug!(method, route, status, duration_ms, "request"),
    }
}

/// Handles of `http_requests_total`, made once for each route, method and status of a worker.
#[derive(Default)]
struct RequestCounters(RefCell<HashMap<(String, &'static str, u16), Counter>>);

impl RequestCounters {
    fn count(&self, route: String, method: &Method, status: StatusCode) {
        // Any token is a method: what a client makes up must not become a label.
        let method = match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            Method::OPTIONS => "OPTIONS",
            _ => "other",
        };
        let mut counters = self.0.borrow_mut();
        let counter = counters.entry((route, method, status.as_u16())).or_insert_with_key(|key| {
            names::HTTP_REQUESTS.counter(&[
                ("route", &key.0),
                ("method", key.1),
                ("status", &key.2.to_string()),
            ])
        });
        counter.increment(1);
    }
}

/// A problem that knows its request, for answers that have no [`ServiceResponse`] to change.
#[derive(Debug)]
struct Rendered {
    problem: Problem,
    id: RequestId,
}

impl std::fmt::Display for Rendered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.problem.fmt(f)
    }
}

impl ResponseError for Rendered {
    fn status_code(&self) -> StatusCode {
        self.problem.code.status()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = self.problem.response(self.id.as_str());
        dress(response.headers_mut(), &self.id);
        response
    }
}

/// An answer's body that keeps the request's unread body alive beside it: while it lives actix closes the connection
/// after the answer instead of reading to the end of what a client sends.
struct Holding {
    body: BoxBody,
    _unread: Unread,
}

impl MessageBody for Holding {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}

#[cfg(test)]
mod tests;

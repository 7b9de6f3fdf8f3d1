//! `POST /capture` and `POST /capture/batch`: one event, an array of them, or `{"batch":[…]}`.
//!
//! A body is `application/json`, or `text/plain` as browsers' `sendBeacon` sends it; without a `Content-Type` it is
//! taken for JSON. 202 with what was accepted and what was rejected; when every item was rejected, the error body with
//! the same `rejected` in it and the status of the rejections: 403 or 413 if all are of that kind, else 400.

mod events;
mod raw;

use std::time::{Duration, Instant};

use actix_web::http::header;
use actix_web::web::{Data, Payload, ServiceConfig, post, resource};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{Capture, InFlight, NotABatch, Receipt, Refusal, Rejection, RejectionCode, Unread, Words};
use crate::auth::http::authorize;
use crate::auth::{Access, Permission};
use crate::eventlog::LogError;
use crate::http::body::{self, Budget};
use crate::http::{BodyLimits, ErrorCode, Problem, RequestId};

/// The surface's name in the headers of its records.
const PRODUCER: &str = "capture";
const CONTENT_TYPES: [&str; 2] = ["application/json", "text/plain"];
/// Written around an event in its record, roughly; sizes the buffer.
const RECORD_BYTES_MORE: usize = 320;

/// The routes; they need `web::Data<Capture>` and `web::Data<auth::Keys>`.
pub fn routes(config: &mut ServiceConfig) {
    for path in ["/capture", "/capture/batch"] {
        config.service(resource(path).route(post().to(capture)));
    }
    events::routes(config);
    raw::routes(config);
}

async fn capture(
    request: HttpRequest,
    payload: Payload,
    capture: Data<Capture>,
    id: RequestId,
) -> HttpResponse {
    let begun = Instant::now();
    let response = match ingest(&request, payload, &capture, &Words::CAPTURE, PRODUCER).await {
        Ok(receipt) => answer(&receipt, &id),
        Err(problem) => HttpResponse::from_error(problem),
    };
    capture.0.metrics.request(response.status().as_u16(), begun.elapsed());
    response
}

/// Reads a request and gives its events to the log.
async fn ingest(
    request: &HttpRequest,
    payload: Payload,
    capture: &Capture,
    words: &'static Words,
    producer: &'static str,
) -> Result<Receipt, Problem> {
    let (access, bytes, in_flight) = admit(request, payload, capture).await?;
    let mut batch = capture.batch(&access, capture.now(), bytes.len() + RECORD_BYTES_MORE, words);
    capture.read(&bytes, &mut batch).await.map_err(|unread| unread_problem(unread, &bytes))?;
    drop(bytes);
    Ok(capture.produce(batch, producer, in_flight).await?)
}

/// Who may send, and the whole body, counted among the bytes in flight.
async fn admit<'c>(
    request: &HttpRequest,
    payload: Payload,
    capture: &'c Capture,
) -> Result<(Access, Bytes, InFlight<'c>), Problem> {
    let rules = capture.rules();
    let allowed = async {
        let access = authorize(request, Permission::Ingest, rules.require_api_key).await?;
        tracing::Span::current().record("project_id", access.scope.project.as_str());
        check_content_type(request)?;
        capture.check()?;
        Ok(access)
    };
    let access = match allowed.await {
        Ok(access) => access,
        Err(problem) => {
            body::refuse(request, payload);
            return Err(problem);
        }
    };
    let limits = BodyLimits {
        sent_max: rules.body_bytes_max,
        inflated_max: rules.inflated_bytes_max,
        time_max: rules.body_timeout,
    };
    let mut in_flight = capture.in_flight();
    let bytes = body::read_within(payload, request, limits, &mut in_flight).await?;
    Ok((access, bytes, in_flight))
}

impl Budget for InFlight<'_> {
    fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        Ok(InFlight::grow(self, bytes)?)
    }
}

fn check_content_type(request: &HttpRequest) -> Result<(), Problem> {
    let Some(value) = request.headers().get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let mut parts = text.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    let known = kind.is_empty() || CONTENT_TYPES.iter().any(|known| kind.eq_ignore_ascii_case(known));
    let is_utf8 = parts.all(|part| match part.split_once('=') {
        Some((name, charset)) if name.trim().eq_ignore_ascii_case("charset") => ["utf-8", "utf8", "us-ascii"]
            .iter()
            .any(|c| charset.trim().trim_matches('"').eq_ignore_ascii_case(c)),
        _ => true,
    });
    if known && is_utf8 {
        return Ok(());
    }
    let message = format!("Content-Type must be {}, in UTF-8", CONTENT_TYPES.join(" or "));
    Err(Problem::new(ErrorCode::UnsupportedMediaType, message)
        .with("field", "Content-Type")
        .with("given", &*text)
        .with("valid", CONTENT_TYPES.as_slice()))
}

fn answer(receipt: &Receipt, id: &RequestId) -> HttpResponse {
    if receipt.accepted.is_empty() {
        let problem = all_rejected(receipt);
        let mut body = problem.body(id.as_str());
        if let Value::Object(body) = &mut body {
            body.insert("status".to_owned(), "rejected".into());
            body.insert("accepted".to_owned(), 0.into());
            body.insert("event_ids".to_owned(), json!([]));
            body.insert("rejected".to_owned(), json!(receipt.rejected));
        }
        return HttpResponse::build(problem.code.status()).json(body);
    }
    let mut body = Vec::with_capacity(80 + 42 * receipt.accepted.len() + 150 * receipt.rejected.len());
    body.extend_from_slice(b"{\"status\":\"accepted\",\"accepted\":");
    body.extend_from_slice(receipt.accepted.len().to_string().as_bytes());
    body.extend_from_slice(b",\"event_ids\":[");
    for (i, id) in receipt.accepted.iter().enumerate() {
        body.extend_from_slice(if i == 0 { b"\"" } else { b",\"" });
        body.extend_from_slice(id);
        body.push(b'"');
    }
    body.extend_from_slice(b"],\"rejected\":");
    body.extend_from_slice(json!(receipt.rejected).to_string().as_bytes());
    if !receipt.flagged.is_empty() {
        body.extend_from_slice(b",\"flagged\":");
        body.extend_from_slice(json!(receipt.flagged).to_string().as_bytes());
    }
    body.push(b'}');
    HttpResponse::Accepted().content_type("application/json").body(body)
}

fn all_rejected(receipt: &Receipt) -> Problem {
    let all = |code| receipt.rejected.iter().all(|rejection| rejection.code == code);
    let problem = match &receipt.mismatch {
        Some(mismatch) if all(RejectionCode::PermissionDenied) => return mismatch.clone().into(),
        _ if all(RejectionCode::PayloadTooLarge) => ErrorCode::PayloadTooLarge,
        _ => ErrorCode::ValidationError,
    };
    match &*receipt.rejected {
        [Rejection { message, field: Some(field), .. }] => {
            Problem::new(problem, message).with("field", *field)
        }
        [Rejection { message, .. }] => Problem::new(problem, message),
        many => {
            Problem::new(problem, format!("all {} items were rejected: see rejected for each", many.len()))
        }
    }
}

fn unread_problem(unread: Unread, body: &[u8]) -> Problem {
    let at_place = |at: usize, message: &str| {
        let before = &body[..at.min(body.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let line_from = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let column = before.len() - line_from + 1;
        let message = format!("{message} at line {line} column {column}");
        Problem::new(ErrorCode::ValidationError, message).with("line", line).with("column", column)
    };
    match unread {
        Unread::NotABatch(NotABatch::Syntax { at, expected }) => {
            at_place(at, &format!("the body is not JSON: {expected}"))
        }
        Unread::NotABatch(NotABatch::NotEvents { at }) => at_place(
            at,
            "the body must be a JSON object that is an event or has a batch, or an array of events; \
             it is something else",
        ),
        Unread::NotABatch(NotABatch::NotAnArray(envelope)) => {
            Problem::invalid(envelope, format!("{envelope} must be an array of events"))
        }
        Unread::NotABatch(NotABatch::NotOne) => Problem::new(
            ErrorCode::ValidationError,
            "the body must be one event, a JSON object; send many to /v1/events/bulk",
        ),
        Unread::NotABatch(NotABatch::NotMany(envelope)) => {
            Problem::invalid(envelope, format!("{envelope} is required: an array of events"))
        }
        Unread::Environment(mismatch) => mismatch.into(),
        Unread::Empty => {
            Problem::new(ErrorCode::ValidationError, "there is no event in the body: send at least one")
        }
        Unread::TooMany { events_max, of_surface: true } => {
            let message = format!("events may have {events_max} items here: send it in parts");
            Problem::invalid("events", message).with("max", events_max)
        }
        Unread::TooMany { events_max, of_surface: false } => {
            let message = format!(
                "a request may have {events_max} events (capture.batch_events_max): send it in parts"
            );
            Problem::new(ErrorCode::PayloadTooLarge, message).with("max", events_max)
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let retry_after = match &refusal {
            Refusal::InFlight { .. } | Refusal::Timeout(_) => Duration::from_secs(1),
            Refusal::BreakerOpen { retry_after, .. } => *retry_after,
            // Somebody has to make room, or the topic.
            Refusal::Log(LogError::Full(_) | LogError::TopicMissing(_) | LogError::Forbidden(_)) => {
                Duration::from_secs(5)
            }
            Refusal::Log(_) => Duration::from_secs(1),
        };
        let message = format!("{refusal}; nothing of this request counts as accepted: send it again");
        let problem = Self::unavailable(message, retry_after);
        match refusal {
            Refusal::BreakerOpen { reason, .. } => problem.because(anyhow::anyhow!(reason)),
            Refusal::Log(error) => problem.because(error),
            Refusal::InFlight { .. } | Refusal::Timeout(_) => problem,
        }
    }
}

#[cfg(test)]
mod tests;

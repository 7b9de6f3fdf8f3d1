//! `POST /v1/events` and `/v1/events/bulk`, as FlexPrice's SDKs send them: the same core, with other words and answers.
//!
//! The SDKs take 202 and nothing else for accepted, and one of them reads the answer as an object whose values are all
//! strings: so counts and lists stand in it as text. One bad item of a bulk request loses nothing but itself.
//! `/api/v1` is the same surface under the address that older documents use.

use std::time::Instant;

use actix_web::guard;
use actix_web::web::{Data, Payload, ServiceConfig, resource, to};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Map, Value, json};

use super::{all_rejected, ingest};
use crate::capture::{Capture, Receipt, Words};
use crate::http::RequestId;

/// The surface's name in the headers of its records.
const PRODUCER: &str = "events";

pub(super) fn routes(config: &mut ServiceConfig) {
    // The guard stands at the resource: lists have the same path with another method, in another room.
    for path in ["/v1/events", "/api/v1/events"] {
        config.service(resource(path).guard(guard::Post()).route(to(one)));
    }
    for path in ["/v1/events/bulk", "/api/v1/events/bulk"] {
        config.service(resource(path).guard(guard::Post()).route(to(many)));
    }
}

async fn one(request: HttpRequest, payload: Payload, capture: Data<Capture>, id: RequestId) -> HttpResponse {
    taken(&request, payload, &capture, &id, &Words::EVENT).await
}

async fn many(request: HttpRequest, payload: Payload, capture: Data<Capture>, id: RequestId) -> HttpResponse {
    taken(&request, payload, &capture, &id, &Words::EVENTS).await
}

async fn taken(
    request: &HttpRequest,
    payload: Payload,
    capture: &Capture,
    id: &RequestId,
    words: &'static Words,
) -> HttpResponse {
    let begun = Instant::now();
    let response = match ingest(request, payload, capture, words, PRODUCER).await {
        Ok(receipt) => answer(&receipt, id, words == &Words::EVENT),
        Err(problem) => HttpResponse::from_error(problem),
    };
    capture.0.metrics.request(response.status().as_u16(), begun.elapsed());
    response
}

fn answer(receipt: &Receipt, id: &RequestId, one: bool) -> HttpResponse {
    if receipt.accepted.is_empty() {
        let problem = all_rejected(receipt);
        let status = problem.code.status();
        let problem = if one { problem } else { problem.with("rejected", json!(receipt.rejected)) };
        return HttpResponse::build(status).json(problem.body(id.as_str()));
    }
    let ids: Vec<&str> =
        receipt.accepted.iter().map(|id| std::str::from_utf8(id).unwrap_or_default()).collect();
    if let (true, [id]) = (one, &*ids) {
        // The id is JSON text already.
        let body = format!("{{\"message\":\"Event accepted for processing\",\"event_id\":\"{id}\"}}");
        return HttpResponse::Accepted().content_type("application/json").body(body);
    }
    let listed = format!("[\"{}\"]", ids.join("\",\""));
    let mut body = Map::new();
    body.insert("message".to_owned(), "Events accepted for processing".into());
    body.insert("accepted".to_owned(), ids.len().to_string().into());
    body.insert("event_ids".to_owned(), listed.into());
    if !receipt.rejected.is_empty() {
        body.insert("rejected".to_owned(), json!(receipt.rejected).to_string().into());
    }
    HttpResponse::Accepted().json(Value::Object(body))
}

//! `POST /v1/events/raw/bulk`: payloads that the environment's transform makes events of. The same core, with other
//! words and answers.

use std::time::Instant;

use actix_web::web::{Data, Payload, ServiceConfig, post, resource};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Map, Value, json};

use super::{admit, all_rejected, unread_problem};
use crate::capture::{Capture, Receipt};
use crate::http::{Problem, RequestId};

pub(super) fn routes(config: &mut ServiceConfig) {
    for path in ["/v1/events/raw/bulk", "/api/v1/events/raw/bulk"] {
        config.service(resource(path).route(post().to(many)));
    }
}

async fn many(request: HttpRequest, payload: Payload, capture: Data<Capture>, id: RequestId) -> HttpResponse {
    let begun = Instant::now();
    let response = match taken(&request, payload, &capture).await {
        Ok(receipt) => answer(&receipt, &id),
        Err(problem) => HttpResponse::from_error(problem),
    };
    capture.0.metrics.request(response.status().as_u16(), begun.elapsed());
    response
}

async fn taken(request: &HttpRequest, payload: Payload, capture: &Capture) -> Result<Receipt, Problem> {
    let (access, bytes, in_flight) = admit(request, payload, capture).await?;
    let sealed = capture.read_raw(&bytes, &access, capture.now()).await;
    let sealed = sealed.map_err(|unread| unread_problem(unread, &bytes))?;
    drop(bytes);
    Ok(capture.produce_raw(sealed, in_flight).await?)
}

fn answer(receipt: &Receipt, id: &RequestId) -> HttpResponse {
    if receipt.accepted.is_empty() {
        let problem = all_rejected(receipt);
        let status = problem.code.status();
        let problem = problem.with("rejected", json!(receipt.rejected));
        return HttpResponse::build(status).json(problem.body(id.as_str()));
    }
    let ids: Vec<&str> =
        receipt.accepted.iter().map(|id| std::str::from_utf8(id).unwrap_or_default()).collect();
    let mut body = Map::new();
    body.insert("message".to_owned(), "Raw events accepted for processing".into());
    body.insert("batch_size".to_owned(), ids.len().into());
    body.insert("raw_event_ids".to_owned(), format!("[\"{}\"]", ids.join("\",\"")).into());
    if !receipt.rejected.is_empty() {
        body.insert("rejected".to_owned(), json!(receipt.rejected).to_string().into());
    }
    HttpResponse::Accepted().json(Value::Object(body))
}

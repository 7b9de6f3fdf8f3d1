//! `POST /api/demo`: a week of a demo shop, into the environment of the request. The page makes a project for it first.

use std::time::Duration;

use actix_web::web::{Data, Payload, ServiceConfig, post, resource};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;

use super::{Made, Plan, Traffic};
use crate::auth::Permission;
use crate::auth::http::authorize;
use crate::capture::{Capture, Words};
use crate::http::{BodyLimits, Problem, body, json};

/// The surface's name in the headers of its records.
const PRODUCER: &str = "demo";
/// Events of a request, at most: about a second of work.
const EVENTS_MAX: u32 = 20_000;
/// How many of them are given to the log at once.
const BATCH: usize = 500;
/// They happened over this long before now.
const SPAN: Duration = Duration::from_secs(7 * 86_400);
/// How many events there are for each of the people, so that they come back.
const EVENTS_A_PERSON: u32 = 12;

/// The route; it needs `web::Data<Capture>`.
pub fn routes(config: &mut ServiceConfig) {
    config.service(resource("/api/demo").route(post().to(fill)));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fill {
    events: u32,
}

async fn fill(
    request: HttpRequest,
    payload: Payload,
    limits: Data<BodyLimits>,
    capture: Data<Capture>,
) -> Result<HttpResponse, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    let Fill { events } = json(&body::read(payload, &request, **limits).await?)?;
    if !(1..=EVENTS_MAX).contains(&events) {
        let message = format!("events is {events}, but must be from 1 to {EVENTS_MAX}");
        return Err(Problem::invalid("events", message).with("given", events).with("max", EVENTS_MAX));
    }
    let until = capture.now();
    let from = until.minus(SPAN);
    let mut traffic = Traffic::new(Plan {
        seed: until.as_millis().unsigned_abs(),
        events: events.into(),
        people: events.div_ceil(EVENTS_A_PERSON),
        from,
        until,
        duplicates: 0.0,
        invalid: 0.0,
        late: 0.0,
    });
    let (mut accepted, mut rejected) = (0, 0);
    loop {
        let made: Vec<Made> = traffic.by_ref().take(BATCH.min(capture.rules().batch_events_max)).collect();
        if made.is_empty() {
            break;
        }
        let text: Vec<String> = made.into_iter().map(|made| made.json).collect();
        let text = format!("[{}]", text.join(","));
        let mut in_flight = capture.in_flight();
        in_flight.grow(text.len())?;
        let mut batch = capture.batch(&access, until, text.len(), &Words::CAPTURE);
        capture.read(text.as_bytes(), &mut batch).await.map_err(|unread| {
            Problem::internal(anyhow::anyhow!("capture does not take what the demo sends: {unread:?}"))
        })?;
        let receipt = capture.produce(batch, PRODUCER, in_flight).await?;
        accepted += receipt.accepted.len();
        rejected += receipt.rejected.len();
    }
    tracing::info!(accepted, rejected, environment_id = %access.scope.environment.as_str(), "demo events written");
    let body =
        serde_json::json!({ "accepted": accepted, "rejected": rejected, "from": from, "until": until });
    Ok(HttpResponse::Accepted().json(body))
}

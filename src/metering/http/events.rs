//! Void and amend, what was corrected, monitoring, and costs of requests by their ids.

use std::collections::BTreeMap;

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use bigdecimal::BigDecimal;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{allowed, check_environment, read};
use crate::auth::{Access, Permission};
use crate::event::Timestamp;
use crate::http::{BodyLimits, Problem, body, strict};
use crate::meta::Correction;
use crate::metering::meter::{Properties, TEXT_CHARACTERS_MAX, check_text, properties_of};
use crate::metering::number::{Quantity, plain};
use crate::metering::request::{range, time, windows, zone};
use crate::metering::{Amendment, Metering, Wish, meta_problem};

/// Longest reason, in characters.
const REASON_CHARACTERS_MAX: usize = 1000;
/// Corrections of one event that are shown.
const SHOWN_MAX: u64 = 100;
/// Most ids in one question of costs.
const REQUESTS_MAX: usize = 1000;
/// What costs are answered in: billionths of a dollar.
const NANOS: i64 = 1_000_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Void {
    event_id: String,
    reason: String,
    environment_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Amend {
    event_id: String,
    reason: String,
    event_name: Option<String>,
    external_customer_id: Option<String>,
    customer_id: Option<String>,
    source: Option<String>,
    timestamp: Option<String>,
    /// All of them: they replace the event's.
    properties: Option<Box<RawValue>>,
    environment_id: Option<String>,
}

fn wish(access: &Access, event_id: String, reason: String) -> Result<Wish, Problem> {
    check_text("event_id", &event_id)?;
    let characters = reason.chars().count();
    if reason.trim().is_empty() || characters > REASON_CHARACTERS_MAX {
        let message = format!("reason must have 1 to {REASON_CHARACTERS_MAX} characters, given {characters}");
        return Err(Problem::invalid("reason", message).with("max", REASON_CHARACTERS_MAX));
    }
    let operator = access.operator.then(|| "operator".to_owned());
    let made_by = access.key_id.as_deref().map(str::to_owned).or(operator);
    Ok(Wish { event_id, reason, made_by })
}

fn shown(correction: &Correction) -> Value {
    json!({
        "id": correction.id,
        "event_id": correction.event_id,
        "action": correction.action,
        "reason": correction.reason,
        "made_by": correction.made_by,
        "made_at": correction.made_at,
        "before": correction.before.0,
        "after": correction.after.as_ref().map(|after| after.0.clone()),
    })
}

/// `POST /v1/events/void`.
pub(super) async fn void(
    request: HttpRequest,
    metering: Data<Metering>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &metering, Permission::Admin).await?;
    let asked: Void = read(&request, payload, **limits).await?;
    check_environment(&access, asked.environment_id.as_deref())?;
    let wish = wish(&access, asked.event_id, asked.reason)?;
    Ok(HttpResponse::Ok().json(shown(&metering.void(&access.scope, wish).await?)))
}

/// `POST /v1/events/amend`.
pub(super) async fn amend(
    request: HttpRequest,
    metering: Data<Metering>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &metering, Permission::Admin).await?;
    let asked: Amend = read(&request, payload, **limits).await?;
    check_environment(&access, asked.environment_id.as_deref())?;
    let wish = wish(&access, asked.event_id, asked.reason)?;
    for (field, text) in
        [("event_name", &asked.event_name), ("external_customer_id", &asked.external_customer_id)]
    {
        if let Some(text) = text {
            check_text(field, text)?;
        }
    }
    for (field, text) in [("customer_id", &asked.customer_id), ("source", &asked.source)] {
        if text.as_ref().is_some_and(|text| text.chars().count() > TEXT_CHARACTERS_MAX) {
            let message = format!("{field} may have {TEXT_CHARACTERS_MAX} characters");
            return Err(Problem::invalid(field, message).with("max", TEXT_CHARACTERS_MAX));
        }
    }
    if let Some(json) = &asked.properties
        && serde_json::from_str::<Properties<'_>>(json.get()).is_err()
    {
        return Err(Problem::invalid("properties", "properties must be a JSON object"));
    }
    let amendment = Amendment {
        event_name: asked.event_name.map(|name| name.trim().to_owned()),
        distinct_id: asked.external_customer_id,
        customer_id: asked.customer_id,
        source: asked.source,
        timestamp: time("timestamp", asked.timestamp.as_deref())?,
        properties: asked.properties,
    };
    Ok(HttpResponse::Ok().json(shown(&metering.amend(&access.scope, wish, &amendment).await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfEvent {
    event_id: String,
    #[expect(dead_code, reason = "read with the key; named here so that it is no unknown field")]
    environment_id: Option<String>,
}

/// `GET /v1/events/corrections?event_id=`.
pub(super) async fn corrections(
    request: HttpRequest,
    metering: Data<Metering>,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &metering, Permission::Query).await?;
    let asked: OfEvent = strict::query_string(request.query_string())?;
    let found = metering.meta.corrections().of_event(&access.scope, &asked.event_id, SHOWN_MAX).await;
    let items: Vec<Value> = found.map_err(meta_problem)?.iter().map(shown).collect();
    Ok(HttpResponse::Ok().json(json!({ "items": items })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Monitoring {
    start_time: Option<String>,
    end_time: Option<String>,
    window_size: Option<String>,
    timezone: Option<String>,
    #[expect(dead_code, reason = "read with the key; named here so that it is no unknown field")]
    environment_id: Option<String>,
}

/// `GET /v1/events/monitoring`.
pub(super) async fn monitoring(
    request: HttpRequest,
    metering: Data<Metering>,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &metering, Permission::Query).await?;
    let mut asked: Monitoring = strict::query_string(request.query_string())?;
    if asked.start_time.is_some() != asked.end_time.is_some() {
        let field = if asked.start_time.is_some() { "end_time" } else { "start_time" };
        let message = "start_time and end_time go together: give both, or neither for the last 24 hours";
        return Err(Problem::invalid(field, message));
    }
    let now = metering.now();
    if asked.start_time.is_none() {
        let day = std::time::Duration::from_secs(86_400);
        asked.start_time = Some(now.minus(day).to_string());
    }
    let (from, end) = range(&asked.start_time, &asked.end_time, now)?;
    let windows = windows("window_size", &asked.window_size, zone(&asked.timezone)?, &None)?;
    let _turn = metering.turn().await?;
    let found = metering.monitor(&access.scope, (from, end), windows.as_ref()).await?;
    let text = |at: &Timestamp| at.to_utc().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let points: Vec<Value> = found
        .points
        .iter()
        .map(|(start, events)| json!({ "timestamp": text(start), "event_count": events }))
        .collect();
    Ok(HttpResponse::Ok().json(json!({
        "total_count": found.total,
        "consumption_lag": found.lag.as_ref().ok(),
        "consumption_lag_reason": found.lag.as_ref().err(),
        "post_processing_lag": found.post_processing_lag.as_ref().ok(),
        "post_processing_lag_reason": found.post_processing_lag.as_ref().err(),
        "points": points,
        "start_time": from,
        "end_time": end,
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Costs {
    #[serde(rename = "requestIds")]
    ids: Vec<String>,
    environment_id: Option<String>,
}

/// `POST /v1/events/huggingface-billing`: what the events with these ids say they cost, in billionths of a dollar:
/// property `costNanoUsd` (or `cost_nano_usd`), else `cost_usd` times 10^9. An unknown id costs 0.
pub(super) async fn costs(
    request: HttpRequest,
    metering: Data<Metering>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &metering, Permission::Query).await?;
    let sent = body::read(payload, &request, **limits).await?;
    if sent.iter().all(u8::is_ascii_whitespace) {
        // One of the SDKs cannot send a body here: it asks about no request.
        return Ok(HttpResponse::Ok().json(json!({ "requests": [] })));
    }
    let asked: Costs = strict::json(&sent)?;
    check_environment(&access, asked.environment_id.as_deref())?;
    if asked.ids.is_empty() || asked.ids.len() > REQUESTS_MAX {
        let message = format!("requestIds must have 1 to {REQUESTS_MAX} ids, given {}", asked.ids.len());
        return Err(Problem::invalid("requestIds", message).with("max", REQUESTS_MAX));
    }
    let _turn = metering.turn().await?;
    let found: BTreeMap<String, String> = metering.properties_by_id(&access.scope, &asked.ids).await?;
    let requests: Vec<Value> = asked
        .ids
        .iter()
        .map(|id| {
            let cost = found.get(id).and_then(|properties| cost(&properties_of(properties)));
            let (cost, known) = (cost.unwrap_or_default(), found.contains_key(id));
            json!({ "requestId": id, "costNanoUsd": plain(&cost), "found": known })
        })
        .collect();
    Ok(HttpResponse::Ok().json(json!({ "requests": requests })))
}

fn cost(properties: &Properties<'_>) -> Option<BigDecimal> {
    let number = |key: &str| match Quantity::of_json(properties.get(key)?.get()) {
        Quantity::Number(number) => Some(number),
        _ => None,
    };
    number("costNanoUsd")
        .or_else(|| number("cost_nano_usd"))
        .or_else(|| number("cost_usd").map(|dollars| dollars * BigDecimal::from(NANOS)))
}

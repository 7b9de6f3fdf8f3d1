//! The debug view of one event: received, where it stands in the log, stored or refused, which meters count it and why
//! the others do not.

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::Query;
use super::super::pages::Listed;
use super::super::statement::{self, View};
use super::super::trace::{self, Status, Trace};
use super::Event;
use super::request::time;
use crate::event::Scope;
use crate::http::{ErrorCode, Problem};
use crate::metering::Metering;
use crate::metering::matching::Match;
use crate::store::Sql;

/// What `GET /v1/events/lookup` is asked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lookup {
    pub id: String,
    /// Only an event of this customer.
    pub external_customer_id: Option<String>,
    /// Only one of this time.
    pub start_time: Option<String>,
    pub end_time: Option<String>,
    #[expect(dead_code, reason = "read with the key; named here so that it is no unknown field")]
    pub environment_id: Option<String>,
}

/// Keys under which one id is looked for.
const ROWS_MAX: usize = 10;

/// What became of an event.
///
/// # Errors
/// 404: nothing of it is found. 503 for what does not answer.
pub(super) async fn lookup(
    query: &Query,
    metering: &Metering,
    scope: &Scope,
    asked: &Lookup,
) -> Result<Value, Problem> {
    let start = time("start_time", asked.start_time.as_deref())?;
    let end = time("end_time", asked.end_time.as_deref())?;
    let customer = asked.external_customer_id.as_deref().filter(|customer| !customer.is_empty());
    let fits = |event: &Event| {
        customer.is_none_or(|customer| event.external_customer_id == customer)
            && start.is_none_or(|start| event.timestamp >= start)
            && end.is_none_or(|end| event.timestamp <= end)
    };
    let traced = trace::trace(query, scope, &asked.id, false).await?;
    let stored: Vec<Event> = query.select(rows(scope, &asked.id)).await?;
    let elsewhere = !stored.is_empty();
    let events: Vec<Event> = stored.into_iter().filter(fits).collect();
    if traced.status == Status::NotFound || (elsewhere && events.is_empty()) {
        let id: String = asked.id.chars().take(200).collect();
        let message = if elsewhere {
            format!("event {id:?} is of another customer or time than was asked for")
        } else {
            format!("event {id:?} is not found: {}", traced.message)
        };
        return Err(Problem::new(ErrorCode::NotFound, message).with("field", "id").with("given", id));
    }
    let matches = match events.first() {
        None => Vec::new(),
        Some(event) => {
            let properties = event.properties.get();
            metering.matches(scope, &event.event_name, event.timestamp, properties).await?
        }
    };
    Ok(answer(&traced, &events, &matches))
}

fn rows(scope: &Scope, event_id: &str) -> Sql {
    statement::events(scope, View::Deduplicated, &Sql::new(Event::COLUMNS))
        .key(Sql::new("event_id = ").arg(event_id))
        .then(Sql::new("ORDER BY received_at LIMIT ").arg(ROWS_MAX))
        .sql()
}

fn answer(traced: &Trace, events: &[Event], matches: &[Match]) -> Value {
    let event = events.first();
    let status = match traced.status {
        Status::Stored => "processed",
        Status::InLog => "processing",
        Status::DeadLettered | Status::Deleted | Status::NotFound => "failed",
    };
    let matched = || matches.iter().filter(|one| one.matched);
    let usage = |one: &Match, feature: Option<&String>| {
        json!({
            "customer_id": event.map(|event| event.external_customer_id.clone()),
            "subscription_id": "", "sub_line_item_id": "", "price_id": "",
            "meter_id": one.meter_id,
            "feature_id": feature.cloned().unwrap_or_default(),
            "qty_total": one.quantity.clone().unwrap_or_else(|| "0".to_owned()),
            "processed_at": event.map(|event| event.ingested_at),
        })
    };
    let processed: Vec<Value> = matched()
        .flat_map(|one| match one.feature_ids.as_slice() {
            [] => vec![usage(one, None)],
            features => features.iter().map(|feature| usage(one, Some(feature))).collect(),
        })
        .collect();
    let met: Vec<Value> = matched()
        .map(|one| {
            json!({
                "event_name": event.map(|event| event.event_name.clone()),
                "meter_id": one.meter_id, "meter": null,
            })
        })
        .collect();
    let step = match (event, met.is_empty()) {
        (None, _) => "unprocessed",
        (Some(_), true) => "not_found",
        (Some(_), false) => "found",
    };
    let failure = (event.is_some() && met.is_empty())
        .then(|| json!({ "failure_point_type": "meter_lookup", "error": null }));
    let known = if event.is_some() { "found" } else { "unprocessed" };
    json!({
        "status": status,
        "event": event,
        "events": events,
        "processed_events": processed,
        "debug_tracker": {
            "customer_lookup": { "status": known, "customer": null, "error": null },
            "meter_matching": { "status": step, "matched_meters": met, "error": null },
            "price_lookup": { "status": "unprocessed", "matched_prices": [], "error": null },
            "subscription_line_item_lookup": { "status": "unprocessed", "matched_line_items": [], "error": null },
            "attributed_to_customer": null,
            "failure_point": failure,
        },
        "meters": matches,
        "trace": traced,
    })
}

//! Routes of the lists on `/v1/events`; each also under `/api/v1`.

use actix_web::guard;
use actix_web::web::{Data, Path, Payload, ServiceConfig, get, post, resource, to};
use actix_web::{HttpRequest, HttpResponse};

use super::lookup::{Lookup, lookup};
use super::{List, list};
use crate::auth::Access;
use crate::http::{BodyLimits, Problem, body, strict};
use crate::metering::Metering;
use crate::query::Query;
use crate::query::http::{allowed, measured};
use crate::telemetry::names as metric;

/// Longest event id that capture takes, in characters.
const EVENT_ID_CHARS_MAX: usize = 200;

/// The routes. They need `web::Data<Query>`, `web::Data<Metering>`, `web::Data<Keys>` and `web::Data<BodyLimits>`.
pub fn routes(config: &mut ServiceConfig) {
    for path in ["/v1/events", "/api/v1/events"] {
        // The guard stands at the resource: events are sent to the same path, in another room.
        config.service(resource(path).guard(guard::Get()).route(to(by_query_string)));
    }
    for path in ["/v1/events/query", "/v1/events/list", "/api/v1/events/query", "/api/v1/events/list"] {
        config.service(resource(path).route(post().to(by_body)));
    }
    for base in ["/v1/events", "/api/v1/events"] {
        config
            .service(resource(format!("{base}/lookup")).route(get().to(look_up)))
            // An id may hold anything; a slash in it is sent as %2F, or the id by `lookup`.
            .service(resource(format!("{base}/{{event_id}}")).guard(guard::Get()).route(to(look_up_by_path)));
    }
}

async fn look_up(
    request: HttpRequest,
    query: Data<Query>,
    metering: Data<Metering>,
) -> Result<HttpResponse, Problem> {
    measured("event_lookup", &metric::QUERY_TRACE_DURATION, async {
        let access = allowed(&request, &query).await?;
        let asked: Lookup = strict::query_string(request.query_string())?;
        found(&query, &metering, &access, &asked).await
    })
    .await
}

async fn look_up_by_path(
    request: HttpRequest,
    query: Data<Query>,
    metering: Data<Metering>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    measured("event_lookup", &metric::QUERY_TRACE_DURATION, async {
        let access = allowed(&request, &query).await?;
        let asked = Lookup { id: id.into_inner(), ..Lookup::default() };
        found(&query, &metering, &access, &asked).await
    })
    .await
}

async fn found(
    query: &Query,
    metering: &Metering,
    access: &Access,
    asked: &Lookup,
) -> Result<serde_json::Value, Problem> {
    if asked.id.is_empty() || asked.id.chars().count() > EVENT_ID_CHARS_MAX {
        let message = format!("id must have 1 to {EVENT_ID_CHARS_MAX} characters");
        return Err(Problem::invalid("id", message).with("max", EVENT_ID_CHARS_MAX));
    }
    lookup(query, metering, &access.scope, asked).await
}

async fn by_query_string(request: HttpRequest, query: Data<Query>) -> Result<HttpResponse, Problem> {
    measured("event_list", &metric::QUERY_EVENTS_DURATION, async {
        let access = allowed(&request, &query).await?;
        list(&query, &access.scope, &List::parse(request.query_string())?).await
    })
    .await
}

async fn by_body(
    request: HttpRequest,
    query: Data<Query>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    measured("event_list", &metric::QUERY_EVENTS_DURATION, async {
        let access = allowed(&request, &query).await?;
        let asked: List = strict::json(&body::read(payload, &request, **limits).await?)?;
        if let Some(environment) = asked.environment_id.as_deref().filter(|given| !given.is_empty()) {
            access.check_environment(environment)?;
        }
        list(&query, &access.scope, &asked).await
    })
    .await
}

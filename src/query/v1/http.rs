//! Routes of the lists on `/v1/events`; each also under `/api/v1`.

use actix_web::guard;
use actix_web::web::{Data, Payload, ServiceConfig, post, resource, to};
use actix_web::{HttpRequest, HttpResponse};

use super::{List, list};
use crate::http::{BodyLimits, Problem, body, strict};
use crate::query::Query;
use crate::query::http::{allowed, measured};
use crate::telemetry::names as metric;

/// The routes. They need `web::Data<Query>`, `web::Data<Keys>` and `web::Data<BodyLimits>`.
pub fn routes(config: &mut ServiceConfig) {
    for path in ["/v1/events", "/api/v1/events"] {
        // The guard stands at the resource: events are sent to the same path, in another room.
        config.service(resource(path).guard(guard::Get()).route(to(by_query_string)));
    }
    for path in ["/v1/events/query", "/v1/events/list", "/api/v1/events/query", "/api/v1/events/list"] {
        config.service(resource(path).route(post().to(by_body)));
    }
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

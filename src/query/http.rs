//! Routes of the questions.

use std::future::Future;
use std::time::Instant;

use actix_web::web::{Data, Path, Payload, ServiceConfig, resource};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::events::List;
use super::funnel::Funnel;
use super::funnel::people::FunnelPeople;
use super::names::Names;
use super::persons::Persons;
use super::trends::Trends;
use super::{Query, events, names, persons, trace, trends, v1};
use crate::auth::{Access, Permission, http::authorize};
use crate::event::Scope;
use crate::http::{BodyLimits, ErrorCode, Problem, body, strict};
use crate::telemetry::{Metric, names as metric};

/// Longest event id that capture takes, in characters; at most four bytes each.
const EVENT_ID_CHARS_MAX: usize = 200;

/// The routes. They need `web::Data<Query>`, `web::Data<Keys>` and `web::Data<BodyLimits>`.
pub fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/api/query/events").get(list_events))
        .service(resource("/api/query/events/{event_id}/trace").get(trace_event))
        .service(resource("/api/query/names").get(list_names))
        .service(resource("/api/persons").get(list_persons))
        .service(resource("/api/persons/{person_id}").get(show_person))
        .service(resource("/api/query/trends").post(ask_trends))
        .service(resource("/api/query/funnel").post(ask::<Funnel>))
        .service(resource("/api/query/funnel/people").post(ask::<FunnelPeople>));
    v1::http::routes(config);
}

/// A question that is sent as a body. All of them are asked in one way, by [`ask`].
pub(super) trait Question: DeserializeOwned + 'static {
    /// Its name in metrics.
    const NAME: &'static str;
    type Answer: Serialize;

    /// How long it takes.
    fn duration() -> &'static Metric;

    /// The environment that it names, to be refused if the key has another.
    fn environment_id(&self) -> Option<&str>;

    /// Answers it.
    fn answer(&self, query: &Query, scope: &Scope) -> impl Future<Output = Result<Self::Answer, Problem>>;
}

async fn ask<Q: Question>(
    request: HttpRequest,
    query: Data<Query>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    measured(Q::NAME, Q::duration(), async {
        let access = allowed(&request, &query).await?;
        let question: Q = strict::json(&body::read(payload, &request, **limits).await?)?;
        if let Some(environment) = question.environment_id() {
            access.check_environment(environment)?;
        }
        question.answer(&query, &access.scope).await
    })
    .await
}

async fn list_events(request: HttpRequest, query: Data<Query>) -> Result<HttpResponse, Problem> {
    measured("events", &metric::QUERY_EVENTS_DURATION, async {
        let access = allowed(&request, &query).await?;
        let list = List::parse(request.query_string())?;
        events::list(&query, &access.scope, &list).await
    })
    .await
}

async fn trace_event(
    request: HttpRequest,
    query: Data<Query>,
    event_id: Path<String>,
) -> Result<HttpResponse, Problem> {
    measured("trace", &metric::QUERY_TRACE_DURATION, async {
        let access = allowed(&request, &query).await?;
        if event_id.chars().count() > EVENT_ID_CHARS_MAX {
            let message = format!("an event id has at most {EVENT_ID_CHARS_MAX} characters");
            return Err(Problem::invalid("event_id", message).with("max", EVENT_ID_CHARS_MAX));
        }
        trace::trace(&query, &access.scope, &event_id).await
    })
    .await
}

async fn list_names(request: HttpRequest, query: Data<Query>) -> Result<HttpResponse, Problem> {
    measured("names", &metric::QUERY_NAMES_DURATION, async {
        let access = allowed(&request, &query).await?;
        let asked = Names::parse(request.query_string())?;
        names::names(&query, &access.scope, &asked).await
    })
    .await
}

async fn list_persons(request: HttpRequest, query: Data<Query>) -> Result<HttpResponse, Problem> {
    measured("persons", &metric::QUERY_PERSONS_DURATION, async {
        let access = allowed(&request, &query).await?;
        let asked = Persons::parse(request.query_string())?;
        persons::list(&query, &access.scope, &asked).await
    })
    .await
}

async fn show_person(
    request: HttpRequest,
    query: Data<Query>,
    person_id: Path<String>,
) -> Result<HttpResponse, Problem> {
    measured("persons", &metric::QUERY_PERSONS_DURATION, async {
        let access = allowed(&request, &query).await?;
        persons::show(&query, &access.scope, &person_id).await
    })
    .await
}

async fn ask_trends(
    request: HttpRequest,
    query: Data<Query>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    measured("trends", &metric::QUERY_TREND_DURATION, async {
        let access = allowed(&request, &query).await?;
        let question: Trends = strict::json(&body::read(payload, &request, **limits).await?)?;
        if let Some(environment) = &question.environment_id {
            access.check_environment(environment)?;
        }
        trends::trends(&query, &access.scope, &question).await
    })
    .await
}

pub(super) async fn allowed(request: &HttpRequest, query: &Query) -> Result<Access, Problem> {
    authorize(request, Permission::Query, query.limits.require_api_key).await
}

/// Counts and times a question, whatever becomes of it.
pub(super) async fn measured<T: Serialize>(
    question: &'static str,
    duration: &Metric,
    asked: impl Future<Output = Result<T, Problem>>,
) -> Result<HttpResponse, Problem> {
    let began = Instant::now();
    let answered = asked.await;
    duration.histogram(&[]).record(began.elapsed());
    let status = answered.as_ref().err().map_or(200, |problem| problem.code.status().as_u16());
    metric::QUERY_REQUESTS.counter(&[("question", question), ("status", &status.to_string())]).increment(1);
    if let Err(problem) = &answered {
        metric::QUERY_ERRORS.counter(&[("question", question), ("code", problem.code.as_str())]).increment(1);
        if problem.code == ErrorCode::ValidationError {
            tracing::debug!(question, error = %problem, "a question was refused");
        }
    }
    answered.map(|answer| HttpResponse::Ok().json(answer))
}

//! Routes of the questions.

use std::future::Future;
use std::time::Instant;

use actix_web::web::{Data, Path, Payload, ServiceConfig, resource};
use actix_web::{HttpRequest, HttpResponse};
use futures::future::LocalBoxFuture;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::attributed::Attributed;
use super::events::List;
use super::funnel::Funnel;
use super::funnel::people::FunnelPeople;
use super::groups::list::Groups;
use super::lifecycle::{Lifecycle, LifecyclePeople};
use super::names::Names;
use super::paths::{Paths, PathsPeople};
use super::persons::Persons;
use super::retention::Retention;
use super::retention::people::RetentionPeople;
use super::sql::SqlQuestion;
use super::stickiness::{Stickiness, StickinessPeople};
use super::trends::Trends;
use super::trends::people::TrendsPeople;
use super::values::Values;
use super::{Query, csv, events, extraction, groups, live, names, persons, saved, trace, v1, values};
use crate::auth::{Access, Permission, http::authorize};
use crate::config;
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
        .service(resource("/api/query/values").get(list_values))
        .service(resource("/api/persons").get(list_persons))
        .service(resource("/api/persons/{person_id}").get(show_person))
        .service(resource("/api/groups").get(list_groups))
        .service(resource("/api/groups/{group_type}/{group_key}").get(show_group))
        .service(resource("/api/query/trends").post(ask::<Trends>))
        .service(resource("/api/query/trends/people").post(ask::<TrendsPeople>))
        .service(resource("/api/query/sql").post(ask::<SqlQuestion>))
        .service(resource("/api/query/funnel").post(ask::<Funnel>))
        .service(resource("/api/query/funnel/people").post(ask::<FunnelPeople>))
        .service(resource("/api/query/retention").post(ask::<Retention>))
        .service(resource("/api/query/retention/people").post(ask::<RetentionPeople>))
        .service(resource("/api/query/lifecycle").post(ask::<Lifecycle>))
        .service(resource("/api/query/lifecycle/people").post(ask::<LifecyclePeople>))
        .service(resource("/api/query/stickiness").post(ask::<Stickiness>))
        .service(resource("/api/query/stickiness/people").post(ask::<StickinessPeople>))
        .service(resource("/api/query/attribution").post(ask::<Attributed>))
        .service(resource("/api/query/paths").post(ask::<Paths>))
        .service(resource("/api/query/paths/people").post(ask::<PathsPeople>));
    live::http::routes(config);
    saved::http::routes(config);
    extraction::http::routes(config);
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

    /// Where it names its time zone, if it has one: that of its project counts where it names none.
    fn timezone(&mut self) -> Option<&mut Option<String>> {
        None
    }

    /// The answer is to be kept as a file: it may be longer, where the question does not say.
    fn export(&mut self, _: &config::Query) {}

    /// Answers it.
    fn answer(&self, query: &Query, scope: &Scope) -> impl Future<Output = Result<Self::Answer, Problem>>;
}

/// What may stand behind the path of a question.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manner {
    /// `1`: show in `meta.statements` what the store was asked. Needs the permission `admin`.
    #[serde(default)]
    explain: Explain,
    /// How the answer is written.
    #[serde(default)]
    format: Format,
    /// Held against the key already.
    #[serde(rename = "environment_id")]
    _environment_id: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum Explain {
    #[default]
    #[serde(rename = "0", alias = "false")]
    No,
    #[serde(rename = "1", alias = "true")]
    Yes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    Json,
    Csv,
}

async fn ask<Q: Question>(
    request: HttpRequest,
    query: Data<Query>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let answered = timed(Q::NAME, Q::duration(), async {
        let access = allowed(&request, &query).await?;
        let manner: Manner = strict::query_string(request.query_string())?;
        let explain = manner.explain == Explain::Yes;
        if explain && !access.permissions.allow(Permission::Admin) {
            let message = "explain=1 shows the statements of the store: it needs a key with the scope admin";
            return Err(Problem::new(ErrorCode::PermissionDenied, message).with("field", "explain"));
        }
        let sent = body::read(payload, &request, **limits).await?;
        let mut question: Q = strict::json(&sent)?;
        if let Some(environment) = question.environment_id() {
            access.check_environment(environment)?;
        }
        let mut sent: Value = strict::json(&sent)?;
        if manner.format == Format::Csv {
            question.export(&query.limits);
            // What is remembered is kept apart.
            if let Some(fields) = sent.as_object_mut() {
                fields.insert("exported".to_owned(), true.into());
            }
        }
        Ok((answer(question, sent, &query, &access.scope, explain).await?, manner.format))
    });
    let (answer, format) = answered.await?;
    Ok(match format {
        Format::Json => HttpResponse::Ok().json(answer),
        Format::Csv => HttpResponse::Ok()
            .content_type("text/csv; charset=utf-8")
            .insert_header(("Content-Disposition", "attachment; filename=\"answer.csv\""))
            .body(csv::csv(&answer)),
    })
}

/// The answer to a question, remembered or new; one to be explained is always new.
async fn answer<Q: Question>(
    mut question: Q,
    mut sent: Value,
    query: &Query,
    scope: &Scope,
    explain: bool,
) -> Result<Value, Problem> {
    if let Some(zone @ None) = question.timezone() {
        let own = zone.insert(query.zone_of(&scope.project).await?);
        // What is remembered is of this zone.
        if let Some(fields) = sent.as_object_mut() {
            fields.insert("timezone".to_owned(), own.as_str().into());
        }
    }
    let own = query.for_question(explain).within(scope);
    let ask = async {
        let answer = question.answer(&own, scope).await?;
        serde_json::to_value(answer).map_err(Problem::internal)
    };
    if explain {
        return ask.await;
    }
    query.answers.get(&query.store, scope, Q::NAME, &sent, query.clock.now(), ask).await
}

/// The questions that can be kept, by the last part of their path.
pub(super) const KINDS: [&str; 8] =
    ["trends", "funnel", "retention", "lifecycle", "stickiness", "paths", "attribution", "sql"];

/// Answers a question that was kept.
///
/// # Errors
/// Those of the question.
pub(super) async fn ask_kind(
    kind: &str,
    sent: Value,
    query: &Query,
    scope: &Scope,
) -> Result<Value, Problem> {
    // Boxed: the futures of all questions beside each other are large.
    fn ask<'a, Q: Question>(
        sent: &'a Value,
        query: &'a Query,
        scope: &'a Scope,
    ) -> LocalBoxFuture<'a, Result<Value, Problem>> {
        Box::pin(async move {
            let question: Q = strict::json(sent.to_string().as_bytes())?;
            let named = question.environment_id();
            if named.is_some_and(|named| named != scope.environment.as_str()) {
                let message = "the question names another environment than its dashboard's";
                return Err(Problem::invalid("environment_id", message).with("given", named));
            }
            timed(Q::NAME, Q::duration(), answer(question, sent.clone(), query, scope, false)).await
        })
    }
    match kind {
        "trends" => ask::<Trends>(&sent, query, scope).await,
        "funnel" => ask::<Funnel>(&sent, query, scope).await,
        "retention" => ask::<Retention>(&sent, query, scope).await,
        "lifecycle" => ask::<Lifecycle>(&sent, query, scope).await,
        "stickiness" => ask::<Stickiness>(&sent, query, scope).await,
        "paths" => ask::<Paths>(&sent, query, scope).await,
        "attribution" => ask::<Attributed>(&sent, query, scope).await,
        "sql" => ask::<SqlQuestion>(&sent, query, scope).await,
        _ => Err(Problem::invalid("kind", "no such question").with("valid", KINDS.to_vec())),
    }
}

/// Can a question be read?
///
/// # Errors
/// 400 that names the field.
pub(super) fn check_kind(kind: &str, sent: &Value) -> Result<(), Problem> {
    let sent = sent.to_string();
    match kind {
        "trends" => strict::json::<Trends>(sent.as_bytes()).map(drop),
        "funnel" => strict::json::<Funnel>(sent.as_bytes()).map(drop),
        "retention" => strict::json::<Retention>(sent.as_bytes()).map(drop),
        "lifecycle" => strict::json::<Lifecycle>(sent.as_bytes()).map(drop),
        "stickiness" => strict::json::<Stickiness>(sent.as_bytes()).map(drop),
        "paths" => strict::json::<Paths>(sent.as_bytes()).map(drop),
        "attribution" => strict::json::<Attributed>(sent.as_bytes()).map(drop),
        "sql" => strict::json::<SqlQuestion>(sent.as_bytes()).map(drop),
        _ => Err(Problem::invalid("kind", "no such question").with("valid", KINDS.to_vec())),
    }
}

async fn list_events(request: HttpRequest, query: Data<Query>) -> Result<HttpResponse, Problem> {
    measured("events", &metric::QUERY_EVENTS_DURATION, async {
        let access = allowed(&request, &query).await?;
        let list = List::parse(request.query_string())?;
        events::list(&query.for_question(false), &access.scope, &list).await
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
        trace::trace(&query.for_question(false), &access.scope, &event_id, true).await
    })
    .await
}

async fn list_names(request: HttpRequest, query: Data<Query>) -> Result<HttpResponse, Problem> {
    measured("names", &metric::QUERY_NAMES_DURATION, async {
        let access = allowed(&request, &query).await?;
        let asked = Names::parse(request.query_string())?;
        names::names(&query.for_question(false), &access.scope, &asked).await
    })
    .await
}

async fn list_values(request: HttpRequest, query: Data<Query>) -> Result<HttpResponse, Problem> {
    measured("values", &metric::QUERY_VALUES_DURATION, async {
        let access = allowed(&request, &query).await?;
        let asked = Values::parse(request.query_string())?;
        values::values(&query.for_question(false).within(&access.scope), &access.scope, &asked).await
    })
    .await
}

async fn list_persons(request: HttpRequest, query: Data<Query>) -> Result<HttpResponse, Problem> {
    measured("persons", &metric::QUERY_PERSONS_DURATION, async {
        let access = allowed(&request, &query).await?;
        let asked = Persons::parse(request.query_string())?;
        persons::list(&query.for_question(false), &access.scope, &asked).await
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
        persons::show(&query.for_question(false), &access.scope, &person_id).await
    })
    .await
}

async fn list_groups(request: HttpRequest, query: Data<Query>) -> Result<HttpResponse, Problem> {
    measured("groups", &metric::QUERY_PERSONS_DURATION, async {
        let access = allowed(&request, &query).await?;
        let asked = Groups::parse(request.query_string())?;
        groups::list::list(&query.for_question(false), &access.scope, &asked).await
    })
    .await
}

async fn show_group(
    request: HttpRequest,
    query: Data<Query>,
    named: Path<(String, String)>,
) -> Result<HttpResponse, Problem> {
    measured("groups", &metric::QUERY_PERSONS_DURATION, async {
        let access = allowed(&request, &query).await?;
        let (kind, key) = &*named;
        groups::list::show(&query.for_question(false), &access.scope, (kind.as_str(), key.as_str())).await
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
    timed(question, duration, asked).await.map(|answer| HttpResponse::Ok().json(answer))
}

pub(super) async fn timed<T>(
    question: &'static str,
    duration: &Metric,
    asked: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
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
    answered
}

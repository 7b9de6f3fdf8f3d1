//! Routes of dead letters. Scope `admin`. A key reaches the dead letters of its own project and environment; those
//! whose owner is unknown are the operator's.

use std::time::Duration;

use actix_web::web::{Data, Json, Path, Payload, ServiceConfig, resource};
use actix_web::{HttpRequest, HttpResponse};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::index::{Count, Filter, ListPosition, Listed};
use super::{Action, Dlq, Fix, FixError, Order, Selection, Status};
use crate::auth::http::authorize;
use crate::auth::{Access, Permission};
use crate::event::{ErrorKind, Scope, Timestamp};
use crate::eventlog::LogError;
use crate::http::{BodyLimits, ErrorCode, Problem, body, cursor, json as read_json, query_string};
use crate::job::http::{page_limit, problem as job_problem};
use crate::job::{Jobs, NewJob};
use crate::store::StoreError;

/// Dead letters of a page when the request does not say, and at most.
const PAGE_DEFAULT: u64 = 50;
const PAGE_MAX: u64 = 500;
/// Characters of the reason of a discard.
const REASON_CHARS_MAX: usize = 500;
/// What a client is told to wait when the store or the log does not answer.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The routes of dead letters. They need `web::Data` of [`Dlq`], [`Jobs`] and [`BodyLimits`].
pub fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/api/dlq").get(list))
        .service(resource("/api/dlq/stats").get(stats))
        .service(resource("/api/dlq/replay").post(replay))
        .service(resource("/api/dlq/discard").post(discard))
        .service(resource("/api/dlq/{dead_letter_id}").get(show));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    error_kind: Option<ErrorKind>,
    topic: Option<String>,
    status: Option<Status>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    /// For the operator.
    project_id: Option<String>,
    cursor: Option<String>,
    limit: Option<u64>,
    /// Read by [`authorize`].
    #[expect(dead_code, reason = "named here so that it is no unknown field")]
    environment_id: Option<String>,
}

impl Question {
    fn filter(&self, access: &Access) -> Result<Filter, Problem> {
        if let Some(project) = self.project_id.as_deref().filter(|_| !access.operator)
            && project != access.scope.project.as_str()
        {
            let given: String = project.chars().take(200).collect();
            let message = format!("project {given:?} is not the one that this key belongs to");
            let valid = json!([{ "id": access.scope.project }]);
            return Err(Problem::new(ErrorCode::PermissionDenied, message)
                .with("given", given)
                .with("valid", valid));
        }
        Ok(Filter {
            error_kind: self.error_kind,
            topic: self.topic.clone(),
            status: self.status,
            since: self.since,
            until: self.until,
            project_id: self.project_id.clone(),
        })
    }
}

async fn list(request: HttpRequest, dlq: Data<Dlq>) -> Result<Json<Value>, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    let question: Question = query_string(request.query_string())?;
    let limit = page_limit(question.limit, PAGE_DEFAULT, PAGE_MAX)?;
    let filter = question.filter(&access)?;
    let described = format!("dlq {:?} {filter:?}", reach(&access));
    let after: Option<ListPosition> =
        question.cursor.as_deref().map(|cursor| cursor::decode(&described, cursor)).transpose()?;
    // One more than asked for tells whether there is another page.
    let found = dlq.index().list(reach(&access), &filter, after.as_ref(), limit + 1).await;
    let mut found = found.map_err(store_problem)?;
    let more = found.len() as u64 > limit;
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next_cursor = match found.last() {
        Some(last) if more => Some(cursor::encode(&described, &last.position())?),
        _ => None,
    };
    Ok(Json(json!({ "dead_letters": found, "next_cursor": next_cursor })))
}

async fn stats(request: HttpRequest, dlq: Data<Dlq>) -> Result<Json<Value>, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    let question: Question = query_string(request.query_string())?;
    let counts = dlq.index().counts(reach(&access), &question.filter(&access)?).await;
    let counts: Vec<Count> = counts.map_err(store_problem)?;
    let mut totals: Map<String, Value> =
        Status::ALL.iter().map(|status| (status.as_str().to_owned(), json!(0))).collect();
    for count in &counts {
        let before = totals.get(&count.status).and_then(Value::as_u64).unwrap_or(0);
        totals.insert(count.status.clone(), json!(before + count.dead_letters));
    }
    let mut answer = json!({ "totals": totals, "counts": counts });
    if access.operator {
        answer["not_indexed_yet"] = json!(dlq.index_lag().await.map_err(log_problem)?);
    }
    Ok(Json(answer))
}

/// A dead letter with its envelope as it stands in the DLQ topic.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    listed: Listed,
    /// `null` once the DLQ topic's retention has deleted it.
    dead_letter: Option<Box<RawValue>>,
}

async fn show(request: HttpRequest, path: Path<String>, dlq: Data<Dlq>) -> Result<Json<Shown>, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    let given: String = path.chars().take(300).collect();
    let not_found = || {
        Problem::new(ErrorCode::NotFound, format!("there is no dead letter {given:?}"))
            .with("given", given.clone())
    };
    let (topic, partition, offset) = parse_id(&path).ok_or_else(|| {
        let message = "an id is topic-partition-offset of the record that was refused, such as events-0-17";
        Problem::invalid("id", message).with("given", given.clone())
    })?;
    let found = dlq.index().find(reach(&access), topic, partition, offset).await.map_err(store_problem)?;
    let listed = found.ok_or_else(not_found)?;
    let dead_letter = dlq.envelope(&listed).await.map_err(log_problem)?;
    Ok(Json(Shown { listed, dead_letter }))
}

/// `events-0-17`; a topic's name may have dashes itself.
fn parse_id(id: &str) -> Option<(&str, i32, i64)> {
    let (rest, offset) = id.rsplit_once('-')?;
    let (topic, partition) = rest.rsplit_once('-')?;
    if topic.is_empty() { None } else { Some((topic, partition.parse().ok()?, offset.parse().ok()?)) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Replay {
    selection: Selection,
    /// A JSON Merge Patch of the event.
    #[serde(default)]
    fix: Option<Map<String, Value>>,
    #[serde(default)]
    again: bool,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    max: Option<u64>,
    #[serde(default)]
    rate: Option<u32>,
}

async fn replay(
    request: HttpRequest,
    payload: Payload,
    jobs: Data<Jobs>,
    limits: Data<BodyLimits>,
) -> Result<HttpResponse, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    let asked: Replay = read(&request, payload, **limits).await?;
    let fix = asked
        .fix
        .map(|patch| Fix::new(patch, access.operator))
        .transpose()
        .map_err(|error| fix_problem(&error))?;
    if asked.rate == Some(0) {
        return Err(Problem::invalid("rate", "rate is 0, but must be 1 or more dead letters a second"));
    }
    let action = Action::Replay { fix, again: asked.again };
    let mut order = order(&access, asked.selection, action, asked.dry_run, asked.max)?;
    order.rate = asked.rate;
    start(&access, &jobs, &order).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Discard {
    selection: Selection,
    reason: String,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    max: Option<u64>,
}

async fn discard(
    request: HttpRequest,
    payload: Payload,
    jobs: Data<Jobs>,
    limits: Data<BodyLimits>,
) -> Result<HttpResponse, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    let asked: Discard = read(&request, payload, **limits).await?;
    let reason = asked.reason.trim();
    if reason.is_empty() || reason.chars().count() > REASON_CHARS_MAX {
        let message = format!("reason must say in 1 to {REASON_CHARS_MAX} characters why they are given up");
        return Err(Problem::invalid("reason", message).with("max", REASON_CHARS_MAX));
    }
    let action = Action::Discard { reason: reason.to_owned() };
    let order = order(&access, asked.selection, action, asked.dry_run, asked.max)?;
    start(&access, &jobs, &order).await
}

fn order(
    access: &Access,
    selection: Selection,
    action: Action,
    dry_run: bool,
    max: Option<u64>,
) -> Result<Order, Problem> {
    selection.check().map_err(|error| Problem::invalid(error.field, error.message))?;
    if max == Some(0) {
        return Err(Problem::invalid("max", "max is 0, but must be 1 or more"));
    }
    let requested_by = access.name().to_owned();
    Ok(Order { selection, scope: reach(access).cloned(), action, dry_run, max, rate: None, requested_by })
}

/// Queues the job: 202 with its id; `GET /api/jobs/{id}` tells what becomes of it.
async fn start(access: &Access, jobs: &Jobs, order: &Order) -> Result<HttpResponse, Problem> {
    let project = reach(access).map(|scope| &scope.project);
    let spec = serde_json::to_value(order).map_err(Problem::internal)?;
    let new = NewJob { project, kind: order.action.kind(), spec };
    let job = jobs.start(new).await.map_err(job_problem)?;
    Ok(HttpResponse::Accepted().json(json!({ "job_id": job.id, "job": job })))
}

/// Whose dead letters the caller reaches; `None`: all.
fn reach(access: &Access) -> Option<&Scope> {
    (!access.operator).then_some(&access.scope)
}

async fn read<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: Payload,
    limits: BodyLimits,
) -> Result<T, Problem> {
    read_json(&body::read(payload, request, limits).await?)
}

fn fix_problem(error: &FixError) -> Problem {
    match error {
        FixError::Empty | FixError::TooDeep => Problem::invalid("fix", error.to_string()),
        FixError::Owner { field } => {
            Problem::new(ErrorCode::PermissionDenied, error.to_string()).with("field", format!("fix.{field}"))
        }
    }
}

fn store_problem(error: StoreError) -> Problem {
    match error {
        StoreError::Unavailable(_) | StoreError::Timeout { .. } | StoreError::Engine(_) => {
            Problem::unavailable("the index of dead letters does not answer; try again", RETRY_AFTER)
                .because(error)
        }
        StoreError::Schema { .. } => {
            Problem::unavailable("the index of dead letters is not ready: run `flexflow doctor`", RETRY_AFTER)
                .because(error)
        }
        StoreError::Limit { .. } | StoreError::Query(_) => Problem::internal(error),
    }
}

fn log_problem(error: LogError) -> Problem {
    Problem::unavailable("the DLQ topic does not answer; try again", RETRY_AFTER).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_from_its_end() {
        assert_eq!(parse_id("events-0-17"), Some(("events", 0, 17)));
        assert_eq!(parse_id("prod-events-v4-11-9000000000"), Some(("prod-events-v4", 11, 9_000_000_000)));
        for bad in ["events", "events-0", "-0-1", "events-x-1", "events-0-", "events-0-99999999999999999999"]
        {
            assert_eq!(parse_id(bad), None, "{bad}");
        }
    }
}

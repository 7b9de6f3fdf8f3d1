//! Routes of raw events and of reprocessing, in FlexPrice's words: singular and array filters, `workflow_id`, `run_id`,
//! `task_queue`. Each also under `/api/v1`.

use std::time::Duration;

use actix_web::web::{Data, Path, Payload, ServiceConfig, get, post, resource};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::{Value, json};

use super::list::Filter;
use super::order::{BATCH_SIZE_DEFAULT, BATCH_SIZE_GOOD, BATCH_SIZE_MAX, FILTER_VALUES_MAX};
use super::{KIND, Order, Place, Reprocess, TASK_QUEUE, job_of};
use crate::auth::http::authorize;
use crate::auth::{Access, Permission};
use crate::event::{ProjectId, Timestamp};
use crate::http::{BodyLimits, ErrorCode, Problem, body, cursor, strict};
use crate::job::http::{page_limit, problem as job_problem};
use crate::job::{NewJob, Overview};
use crate::meta::{JobFilter, JobState};
use crate::store::StoreError;
use crate::transform::{self, Pinned};

const PAGE_DEFAULT: u64 = 50;
const PAGE_MAX: u64 = 500;
/// What a client is told to wait when the store does not answer.
const RETRY_AFTER: Duration = Duration::from_secs(2);
const OUTCOMES: [&str; 3] = ["published", "dropped", "error"];

/// The routes. They need `web::Data` of [`Reprocess`] and [`BodyLimits`].
pub fn routes(config: &mut ServiceConfig) {
    for base in ["/v1", "/api/v1"] {
        let at = |path: &str| resource(format!("{base}{path}"));
        config
            .service(at("/events/raw/list").route(get().to(raws)))
            .service(at("/events/raw/reprocess").route(post().to(all)).route(get().to(list)))
            .service(at("/events/raw/reprocess/all").route(post().to(all)))
            .service(at("/events/raw/reprocess/pending").route(post().to(pending)))
            .service(at("/events/raw/reprocess/{workflow_id}").route(get().to(show)))
            .service(at("/events/raw/reprocess/{workflow_id}/cancel").route(post().to(cancel)))
            .service(at("/events/raw/reprocess/{workflow_id}/resume").route(post().to(resume)));
    }
}

/// What shall be reprocessed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    external_customer_id: Option<String>,
    #[serde(default)]
    external_customer_ids: Vec<String>,
    event_name: Option<String>,
    #[serde(default)]
    event_names: Vec<String>,
    event_id: Option<String>,
    #[serde(default)]
    event_ids: Vec<String>,
    start_date: Option<String>,
    end_date: Option<String>,
    batch_size: Option<i64>,
    sample_percent: Option<f64>,
    parallelism: Option<i64>,
    #[serde(default)]
    dry_run: bool,
    environment_id: Option<String>,
}

async fn all(
    request: HttpRequest,
    reprocess: Data<Reprocess>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    start(&request, &reprocess, **limits, payload, false).await
}

async fn pending(
    request: HttpRequest,
    reprocess: Data<Reprocess>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    start(&request, &reprocess, **limits, payload, true).await
}

async fn start(
    request: &HttpRequest,
    reprocess: &Reprocess,
    limits: BodyLimits,
    payload: Payload,
    pending: bool,
) -> Result<HttpResponse, Problem> {
    let access = allowed(request, reprocess).await?;
    let wish: Wish = strict::json(&body::read(payload, request, limits).await?)?;
    if let Some(environment) = wish.environment_id.as_deref().filter(|given| !given.is_empty()) {
        access.check_environment(environment)?;
    }
    let order = order(reprocess, &access, wish, pending).await?;
    let mut warnings = Vec::new();
    if !BATCH_SIZE_GOOD.contains(&order.batch_size) {
        let warning = format!(
            "batch_size {} is outside of what is good for it, {} to {}",
            order.batch_size,
            BATCH_SIZE_GOOD.start(),
            BATCH_SIZE_GOOD.end()
        );
        tracing::warn!(batch_size = order.batch_size, "{warning}");
        warnings.push(warning);
    }
    let spec = serde_json::to_value(&order).map_err(Problem::internal)?;
    let job = NewJob { project: Some(&order.scope.project), kind: KIND, spec };
    let started = reprocess.jobs.start(job).await.map_err(job_problem)?;
    Ok(HttpResponse::Ok().json(json!({
        "message": "Raw events reprocessing started",
        "workflow_id": order.workflow_id(&started.id),
        "run_id": started.id,
        "task_queue": TASK_QUEUE,
        "warnings": warnings,
    })))
}

/// Who may, and whether anybody may.
async fn allowed(request: &HttpRequest, reprocess: &Reprocess) -> Result<Access, Problem> {
    let access = authorize(request, Permission::Admin, true).await?;
    if reprocess.config.enabled {
        return Ok(access);
    }
    let message = "reprocessing of raw events is switched off (reprocess.enabled = false)";
    Err(Problem::new(ErrorCode::PermissionDenied, message).with("setting", "reprocess.enabled"))
}

async fn order(reprocess: &Reprocess, access: &Access, wish: Wish, pending: bool) -> Result<Order, Problem> {
    let start = wish.start_date.as_deref().filter(|given| !given.is_empty());
    let start = start.ok_or_else(|| {
        Problem::invalid(
            "start_date",
            "start_date is required: an RFC 3339 time such as 2024-01-01T00:00:00Z",
        )
    })?;
    let start_date = time("start_date", start)?;
    let end_date = match wish.end_date.as_deref().filter(|given| !given.is_empty()) {
        Some(given) => time("end_date", given)?,
        None => reprocess.clock.now(),
    };
    if start_date > end_date {
        let message = format!("start_date {start_date} is after end_date {end_date}");
        return Err(Problem::invalid("start_date", message));
    }
    let batch_size = number("batch_size", wish.batch_size, BATCH_SIZE_DEFAULT, BATCH_SIZE_MAX)?;
    let parallelism = number("parallelism", wish.parallelism, 1, reprocess.config.parallelism_max)?;
    if wish.sample_percent.is_some_and(|percent| !(percent > 0.0 && percent <= 100.0)) {
        let message = "sample_percent must be more than 0 and at most 100";
        return Err(Problem::invalid("sample_percent", message).with("given", wish.sample_percent));
    }
    let chosen = reprocess.transforms.raw_now(&access.scope).await;
    let chosen = chosen.map_err(transform::http::meta_problem)?;
    let begins = reprocess.settled_from(&access.scope.project).await;
    Ok(Order {
        scope: access.scope.clone(),
        external_customer_ids: values(
            "external_customer_ids",
            wish.external_customer_id,
            wish.external_customer_ids,
        )?,
        event_names: values("event_names", wish.event_name, wish.event_names)?,
        event_ids: values("event_ids", wish.event_id, wish.event_ids)?,
        start_date,
        end_date,
        pending,
        batch_size,
        sample_percent: wish.sample_percent,
        parallelism,
        dry_run: wish.dry_run,
        begins: begins.map_err(transform::http::meta_problem)?,
        transform: Pinned { id: chosen.id, version: chosen.version, spec: chosen.spec },
        requested_by: access.name().to_owned(),
    })
}

fn time(field: &str, given: &str) -> Result<Timestamp, Problem> {
    Timestamp::parse(given).map_err(|error| {
        Problem::invalid(field, format!("{field} is {error}"))
            .with("given", given.chars().take(100).collect::<String>())
    })
}

fn number(field: &str, given: Option<i64>, default: usize, max: usize) -> Result<usize, Problem> {
    let Some(given) = given else { return Ok(default) };
    usize::try_from(given).ok().filter(|number| (1..=max).contains(number)).ok_or_else(|| {
        let message = format!("{field} is {given}, but must be from 1 to {max}");
        Problem::invalid(field, message).with("given", given).with("max", max)
    })
}

/// A filter in its singular and its array form, together.
fn values(field: &str, one: Option<String>, mut many: Vec<String>) -> Result<Vec<String>, Problem> {
    many.extend(one);
    many.retain(|value| !value.is_empty());
    many.sort_unstable();
    many.dedup();
    if many.len() > FILTER_VALUES_MAX {
        let message = format!("{field} has {} values, but may have {FILTER_VALUES_MAX}", many.len());
        return Err(Problem::invalid(field, message).with("max", FILTER_VALUES_MAX));
    }
    Ok(many)
}

/// A job by the names of the documents.
fn shown(job: &Overview) -> Value {
    let order: Option<Order> = Order::deserialize(&job.spec).ok();
    let mut spec = job.spec.clone();
    if let Some(spec) = spec.as_object_mut() {
        // Of the transform, which one is enough.
        if let Some(pinned) = spec.get_mut("transform").and_then(Value::as_object_mut) {
            pinned.remove("spec");
        }
    }
    let mut result = job.progress.clone().unwrap_or_else(|| json!({}));
    result["completed_at"] = if job.state.is_final() { json!(job.updated_at) } else { Value::Null };
    json!({
        "workflow_id": order.map_or_else(|| job.id.clone(), |order| order.workflow_id(&job.id)),
        "run_id": job.id,
        "task_queue": TASK_QUEUE,
        "status": job.state.as_str(),
        "cancel_requested": job.cancel_requested,
        "error": job.error,
        "request": spec,
        "result": result,
        "claims": job.claims,
        "created_at": job.created_at,
        "updated_at": job.updated_at,
    })
}

fn reach(access: &Access) -> Option<&ProjectId> {
    (!access.operator).then_some(&access.scope.project)
}

fn found(given: &str, job: Option<Overview>) -> Result<HttpResponse, Problem> {
    match job.filter(|job| job.kind == KIND) {
        Some(job) => Ok(HttpResponse::Ok().json(shown(&job))),
        None => {
            let given: String = given.chars().take(200).collect();
            let message = format!("there is no workflow {given:?}");
            Err(Problem::new(ErrorCode::NotFound, message).with("given", given))
        }
    }
}

async fn show(
    request: HttpRequest,
    reprocess: Data<Reprocess>,
    workflow_id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    let job = reprocess.jobs.get(reach(&access), job_of(&workflow_id)).await.map_err(job_problem)?;
    found(&workflow_id, job)
}

/// Is this workflow one of the caller's, and a reprocess job? No other kind is cancelled or resumed here.
async fn own(access: &Access, reprocess: &Reprocess, workflow_id: &str) -> Result<(), Problem> {
    let job = reprocess.jobs.get(reach(access), job_of(workflow_id)).await.map_err(job_problem)?;
    found(workflow_id, job).map(|_| ())
}

async fn cancel(
    request: HttpRequest,
    reprocess: Data<Reprocess>,
    workflow_id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    own(&access, &reprocess, &workflow_id).await?;
    let job = reprocess.jobs.cancel(reach(&access), job_of(&workflow_id)).await.map_err(job_problem)?;
    tracing::info!(workflow_id = %workflow_id, by = access.name(), "cancellation of a reprocess job asked for");
    found(&workflow_id, job)
}

async fn resume(
    request: HttpRequest,
    reprocess: Data<Reprocess>,
    workflow_id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &reprocess).await?;
    own(&access, &reprocess, &workflow_id).await?;
    let job = reprocess.jobs.resume(reach(&access), job_of(&workflow_id)).await.map_err(job_problem)?;
    found(&workflow_id, job)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    status: Option<JobState>,
    cursor: Option<String>,
    limit: Option<u64>,
    /// Read with the key.
    #[expect(dead_code, reason = "named here so that it is no unknown field")]
    environment_id: Option<String>,
}

async fn list(request: HttpRequest, reprocess: Data<Reprocess>) -> Result<HttpResponse, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    let page: Page = strict::query_string(request.query_string())?;
    let limit = page_limit(page.limit, PAGE_DEFAULT, PAGE_MAX)?;
    let question = format!("reprocess {:?} {:?}", reach(&access), page.status);
    let before: Option<String> =
        page.cursor.as_deref().map(|cursor| cursor::decode(&question, cursor)).transpose()?;
    let filter = JobFilter { kind: Some(KIND), state: page.status, before: before.as_deref() };
    let mut jobs = reprocess.jobs.list(reach(&access), filter, limit + 1).await.map_err(job_problem)?;
    let more = jobs.len() as u64 > limit;
    jobs.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next_cursor = match jobs.last() {
        Some(last) if more => Some(cursor::encode(&question, &last.id)?),
        _ => None,
    };
    let workflows: Vec<Value> = jobs.iter().map(shown).collect();
    Ok(HttpResponse::Ok().json(json!({ "workflows": workflows, "next_cursor": next_cursor })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPage {
    outcome: Option<String>,
    reason: Option<String>,
    external_customer_id: Option<String>,
    event_name: Option<String>,
    id: Option<String>,
    start_date: Option<String>,
    end_date: Option<String>,
    cursor: Option<String>,
    limit: Option<u64>,
    /// Read with the key.
    #[expect(dead_code, reason = "named here so that it is no unknown field")]
    environment_id: Option<String>,
}

/// Raw events with what became of each; on the first page also how many came to which end.
async fn raws(request: HttpRequest, reprocess: Data<Reprocess>) -> Result<HttpResponse, Problem> {
    let access = authorize(&request, Permission::Query, true).await?;
    let page: RawPage = strict::query_string(request.query_string())?;
    let limit = page_limit(page.limit, PAGE_DEFAULT, PAGE_MAX)?;
    if let Some(outcome) = page.outcome.as_deref().filter(|outcome| !OUTCOMES.contains(outcome)) {
        let message = format!("outcome is {outcome:?}, but must be one of {}", OUTCOMES.join(", "));
        return Err(Problem::invalid("outcome", message).with("valid", OUTCOMES.as_slice()));
    }
    let filter = Filter {
        outcome: page.outcome,
        reason: page.reason,
        external_customer_id: page.external_customer_id,
        event_name: page.event_name,
        id: page.id,
        start: page.start_date.as_deref().map(|given| time("start_date", given)).transpose()?,
        end: page.end_date.as_deref().map(|given| time("end_date", given)).transpose()?,
    };
    let question = format!("raw {:?} {filter:?}", access.scope);
    let after: Option<Place> =
        page.cursor.as_deref().map(|cursor| cursor::decode(&question, cursor)).transpose()?;
    let found = reprocess.list_raw(&access.scope, &filter, after.as_ref(), limit + 1).await;
    let mut found = found.map_err(store_problem)?;
    let more = found.len() as u64 > limit;
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next_cursor = match found.last() {
        Some(last) if more => Some(cursor::encode(&question, &last.place())?),
        _ => None,
    };
    let mut answer = json!({ "raw_events": found, "next_cursor": next_cursor });
    if after.is_none() {
        answer["counts"] = json!(reprocess.count_raw(&access.scope, &filter).await.map_err(store_problem)?);
    }
    Ok(HttpResponse::Ok().json(answer))
}

fn store_problem(error: StoreError) -> Problem {
    match error {
        StoreError::Query(_) => Problem::internal(error),
        other => {
            Problem::unavailable("the event store does not answer; try again", RETRY_AFTER).because(other)
        }
    }
}

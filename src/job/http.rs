//! Routes of jobs: list, look, cancel, resume. Scope `admin`; a key sees its own project's jobs, the operator all.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::web::{Data, Json, Path, ServiceConfig, resource};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Jobs, JobsError, Overview};
use crate::auth::http::authorize;
use crate::auth::{Access, Permission};
use crate::event::ProjectId;
use crate::http::{ErrorCode, Problem, cursor, query_string};
use crate::meta::{JobFilter, JobState, MetaError};

/// Jobs of a page when the request does not say, and at most.
const PAGE_DEFAULT: u64 = 50;
const PAGE_MAX: u64 = 500;
/// What a client is told to wait when the database does not answer.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The routes of jobs. They need `web::Data<Jobs>`.
pub fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/api/jobs").get(list))
        .service(resource("/api/jobs/{job_id}").get(show))
        .service(resource("/api/jobs/{job_id}/cancel").post(cancel))
        .service(resource("/api/jobs/{job_id}/resume").post(resume));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    kind: Option<String>,
    state: Option<JobState>,
    cursor: Option<String>,
    limit: Option<u64>,
    /// Read by [`authorize`].
    #[expect(dead_code, reason = "named here so that it is no unknown field")]
    environment_id: Option<String>,
}

async fn list(request: HttpRequest, jobs: Data<Jobs>) -> Result<Json<Value>, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    let page: Page = query_string(request.query_string())?;
    let limit = page_limit(page.limit, PAGE_DEFAULT, PAGE_MAX)?;
    let question = format!("jobs {:?} {:?} {:?}", reach(&access), page.kind, page.state);
    let before: Option<String> =
        page.cursor.as_deref().map(|cursor| cursor::decode(&question, cursor)).transpose()?;
    let filter = JobFilter { kind: page.kind.as_deref(), state: page.state, before: before.as_deref() };
    // One more than asked for tells whether there is another page.
    let mut found = jobs.list(reach(&access), filter, limit + 1).await.map_err(problem)?;
    let more = found.len() as u64 > limit;
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next_cursor = match found.last() {
        Some(last) if more => Some(cursor::encode(&question, &last.id)?),
        _ => None,
    };
    Ok(Json(json!({ "jobs": found, "next_cursor": next_cursor })))
}

async fn show(request: HttpRequest, path: Path<String>, jobs: Data<Jobs>) -> Result<Json<Overview>, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    found(&path, jobs.get(reach(&access), &path).await)
}

async fn cancel(
    request: HttpRequest,
    path: Path<String>,
    jobs: Data<Jobs>,
) -> Result<Json<Overview>, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    let cancelled = jobs.cancel(reach(&access), &path).await;
    tracing::info!(job_id = %path, by = access.name(), "job cancellation asked for");
    found(&path, cancelled)
}

async fn resume(
    request: HttpRequest,
    path: Path<String>,
    jobs: Data<Jobs>,
) -> Result<Json<Overview>, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    found(&path, jobs.resume(reach(&access), &path).await)
}

/// The project whose jobs the caller reaches; `None`: all.
fn reach(access: &Access) -> Option<&ProjectId> {
    (!access.operator).then_some(&access.scope.project)
}

fn found(id: &str, job: Result<Option<Overview>, JobsError>) -> Result<Json<Overview>, Problem> {
    job.map_err(problem)?.map(Json).ok_or_else(|| {
        let id: String = id.chars().take(200).collect();
        Problem::new(ErrorCode::NotFound, format!("there is no job {id:?}")).with("given", id)
    })
}

/// How many of a list a request asks for.
///
/// # Errors
/// 400: none, or more than `max`.
pub fn page_limit(given: Option<u64>, default: u64, max: u64) -> Result<u64, Problem> {
    let limit = given.unwrap_or(default);
    if (1..=max).contains(&limit) {
        return Ok(limit);
    }
    let message = format!("limit is {limit}, but must be from 1 to {max}");
    Err(Problem::invalid("limit", message).with("given", limit).with("max", max))
}

/// The answer for a job that could not be started, found or changed.
pub fn problem(error: JobsError) -> Problem {
    match error {
        JobsError::TooMany { open, max } => {
            Problem::new(ErrorCode::TooManyRequests, error.to_string()).with("open", open).with("max", max)
        }
        JobsError::NotResumable { state, .. } => {
            Problem::new(ErrorCode::ValidationError, error.to_string()).with("state", state.as_str())
        }
        JobsError::Meta(cause @ (MetaError::Unavailable(_) | MetaError::Missing(_))) => {
            Problem::unavailable("the metadata database does not answer; try again", RETRY_AFTER)
                .because(cause)
        }
        JobsError::Meta(cause) => Problem::internal(cause),
    }
}

//! `/api/rollups`: what there is, and building a range anew.

use std::time::Duration;

use actix_web::web::{Data, Payload, ServiceConfig, resource};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::json;

use super::{Asked, DAY, Rollups};
use crate::auth::Permission;
use crate::auth::http::authorize;
use crate::event::Timestamp;
use crate::http::{BodyLimits, ErrorCode, Problem, body, strict};
use crate::job::JobsError;

/// Days that one request builds at most.
const DAYS_MAX: i64 = 3660;

/// The routes. They need `web::Data<Rollups>`, `web::Data<Keys>` and `web::Data<BodyLimits>`.
pub fn routes(config: &mut ServiceConfig) {
    config.service(resource("/api/rollups").get(status)).service(resource("/api/rollups/build").post(build));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    from: Timestamp,
    to: Timestamp,
}

fn unavailable(error: &impl std::fmt::Display) -> Problem {
    Problem::unavailable(error.to_string(), Duration::from_secs(1))
}

async fn status(request: HttpRequest, rollups: Data<Rollups>) -> Result<HttpResponse, Problem> {
    let access = authorize(&request, Permission::Query, true).await?;
    let status = rollups.status(&access.scope, access.operator).await.map_err(|error| unavailable(&error))?;
    Ok(HttpResponse::Ok().json(status))
}

async fn build(
    request: HttpRequest,
    payload: Payload,
    limits: Data<BodyLimits>,
    rollups: Data<Rollups>,
) -> Result<HttpResponse, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    let range: Range = strict::json(&body::read(payload, &request, **limits).await?)?;
    let day = |at: Timestamp| at.as_millis().div_euclid(DAY);
    let (from, to) = (day(range.from), day(range.to));
    if from > to || to - from >= DAYS_MAX || from < 0 {
        let message =
            format!("from and to must be times from 1970 on, at most {DAYS_MAX} days apart, from first");
        return Err(Problem::invalid("to", message).with("max", DAYS_MAX));
    }
    let asked = Asked { scope: access.scope.clone(), from, to };
    let job = rollups.ask(asked).await.map_err(|error| match error {
        JobsError::TooMany { .. } => Problem::new(ErrorCode::TooManyRequests, error.to_string()),
        other => unavailable(&other),
    })?;
    Ok(HttpResponse::Accepted().json(json!({ "job_id": job.id, "job": job })))
}

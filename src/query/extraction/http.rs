//! Operators' routes of promoted properties: the columns are those of the whole installation.

use actix_web::web::{Data, Payload, ServiceConfig, resource};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::json;

use crate::auth::{Access, Permission, http::authorize};
use crate::http::{BodyLimits, ErrorCode, Problem, body, strict};
use crate::job::Jobs;
use crate::query::Query;

pub(in crate::query) fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/api/ops/properties").get(list))
        .service(resource("/api/ops/properties/promote").post(promote))
        .service(resource("/api/ops/properties/demote").post(demote));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    key: String,
}

async fn operator(request: &HttpRequest) -> Result<Access, Problem> {
    let access = authorize(request, Permission::Admin, true).await?;
    if access.operator {
        return Ok(access);
    }
    let message = "columns belong to the whole installation: ask with the operator's token";
    Err(Problem::new(ErrorCode::PermissionDenied, message))
}

async fn list(request: HttpRequest, query: Data<Query>) -> Result<HttpResponse, Problem> {
    let access = operator(&request).await?;
    Ok(HttpResponse::Ok().json(super::list(&query, &access.scope).await?))
}

async fn promote(
    request: HttpRequest,
    payload: Payload,
    limits: Data<BodyLimits>,
    query: Data<Query>,
    jobs: Data<Jobs>,
) -> Result<HttpResponse, Problem> {
    operator(&request).await?;
    let named: Named = strict::json(&body::read(payload, &request, **limits).await?)?;
    let (promoted, job) = super::promote(&query, &jobs, &named.key).await?;
    Ok(HttpResponse::Accepted().json(json!({ "promoted": promoted, "job_id": job.map(|job| job.id) })))
}

async fn demote(
    request: HttpRequest,
    payload: Payload,
    limits: Data<BodyLimits>,
    query: Data<Query>,
) -> Result<HttpResponse, Problem> {
    operator(&request).await?;
    let named: Named = strict::json(&body::read(payload, &request, **limits).await?)?;
    let promoted = super::demote(&query, &named.key).await?;
    Ok(HttpResponse::Ok().json(json!({ "promoted": promoted })))
}

//! Routes of what people keep: cohorts, dashboards, the filters of test accounts.

use actix_web::web::{Data, Path, Payload, ServiceConfig, resource};
use actix_web::{HttpRequest, HttpResponse};
use serde::de::DeserializeOwned;

use crate::auth::Access;
use crate::auth::{Permission, http::authorize};
use crate::http::{BodyLimits, Problem, body, strict};
use crate::query::cohorts::{self, CohortChange, NewCohort};
use crate::query::dashboards::{self, DashboardChange, NewDashboard};
use crate::query::http::allowed;
use crate::query::test_accounts::{self, NewTestAccounts};
use crate::query::{Query, http};
use crate::telemetry::names as metric;

pub(in crate::query) fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/api/cohorts").get(list_cohorts).post(create_cohort))
        .service(resource("/api/cohorts/{id}").get(show_cohort).patch(change_cohort).delete(delete_cohort))
        .service(resource("/api/test-accounts").get(show_test_accounts).put(put_test_accounts))
        .service(resource("/api/dashboards").get(list_dashboards).post(create_dashboard))
        .service(
            resource("/api/dashboards/{id}")
                .get(show_dashboard)
                .patch(change_dashboard)
                .delete(delete_dashboard),
        )
        .service(resource("/api/dashboards/{id}/refresh").post(refresh_dashboard));
}

/// What was sent, by somebody who may ask questions in the environment that it names.
async fn read<T: DeserializeOwned>(
    request: &HttpRequest,
    query: &Query,
    limits: BodyLimits,
    payload: Payload,
    environment: impl Fn(&T) -> Option<String>,
) -> Result<(Access, T), Problem> {
    let access = allowed(request, query).await?;
    let sent: T = strict::json(&body::read(payload, request, limits).await?)?;
    if let Some(environment) = environment(&sent) {
        access.check_environment(&environment)?;
    }
    Ok((access, sent))
}

async fn list_cohorts(request: HttpRequest, query: Data<Query>) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &query).await?;
    Ok(HttpResponse::Ok().json(cohorts::list(&query, &access.scope).await?))
}

async fn create_cohort(
    request: HttpRequest,
    query: Data<Query>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let of = |new: &NewCohort| new.environment_id.clone();
    let (access, new) = read(&request, &query, **limits, payload, of).await?;
    Ok(HttpResponse::Created().json(cohorts::create(&query, &access.scope, new).await?))
}

async fn show_cohort(
    request: HttpRequest,
    query: Data<Query>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &query).await?;
    Ok(HttpResponse::Ok().json(cohorts::show(&query, &access.scope, &id).await?))
}

async fn change_cohort(
    request: HttpRequest,
    query: Data<Query>,
    id: Path<String>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let of = |change: &CohortChange| change.environment_id.clone();
    let (access, change) = read(&request, &query, **limits, payload, of).await?;
    Ok(HttpResponse::Ok().json(cohorts::change(&query, &access.scope, &id, change).await?))
}

async fn delete_cohort(
    request: HttpRequest,
    query: Data<Query>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &query).await?;
    cohorts::delete(&query, &access.scope, &id).await?;
    Ok(HttpResponse::NoContent().finish())
}

async fn show_test_accounts(request: HttpRequest, query: Data<Query>) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &query).await?;
    Ok(HttpResponse::Ok().json(test_accounts::show(&query, &access.scope).await?))
}

/// Changes everybody's numbers: for those who may change keys.
async fn put_test_accounts(
    request: HttpRequest,
    query: Data<Query>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    let new: NewTestAccounts = strict::json(&body::read(payload, &request, **limits).await?)?;
    if let Some(environment) = &new.environment_id {
        access.check_environment(environment)?;
    }
    let kept = test_accounts::put(&query, &access.scope, access.actor(), &new).await?;
    Ok(HttpResponse::Ok().json(kept))
}

async fn list_dashboards(request: HttpRequest, query: Data<Query>) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &query).await?;
    Ok(HttpResponse::Ok().json(dashboards::list(&query, &access.scope).await?))
}

async fn create_dashboard(
    request: HttpRequest,
    query: Data<Query>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let of = |new: &NewDashboard| new.environment_id.clone();
    let (access, new) = read(&request, &query, **limits, payload, of).await?;
    Ok(HttpResponse::Created().json(dashboards::create(&query, &access.scope, new).await?))
}

async fn show_dashboard(
    request: HttpRequest,
    query: Data<Query>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &query).await?;
    Ok(HttpResponse::Ok().json(dashboards::show(&query, &access.scope, &id).await?))
}

async fn change_dashboard(
    request: HttpRequest,
    query: Data<Query>,
    id: Path<String>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let of = |change: &DashboardChange| change.environment_id.clone();
    let (access, change) = read(&request, &query, **limits, payload, of).await?;
    Ok(HttpResponse::Ok().json(dashboards::change(&query, &access.scope, &id, change).await?))
}

async fn delete_dashboard(
    request: HttpRequest,
    query: Data<Query>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &query).await?;
    dashboards::delete(&query, &access.scope, &id).await?;
    Ok(HttpResponse::NoContent().finish())
}

async fn refresh_dashboard(
    request: HttpRequest,
    query: Data<Query>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    http::measured("dashboard", &metric::QUERY_DASHBOARD_DURATION, async {
        let access = allowed(&request, &query).await?;
        dashboards::refresh(&query, &access.scope, &id).await
    })
    .await
}

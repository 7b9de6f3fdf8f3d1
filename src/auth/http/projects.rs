//! Routes of projects, their environments and the audit trail.

use actix_web::web::{Data, Json, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::{Value, json};

use super::fields::valid_name;
use super::{
    authorize, existing, header_text, manager, not_found, operator, person, problem, read, token, within,
};
use crate::auth::{Access, Denied, Keys, Permission};
use crate::config::Registration;
use crate::event::{EnvironmentId, ProjectId};
use crate::http::{BodyLimits, Problem, cursor, query_string, zone};
use crate::meta::{Environment, Project};

/// Entries of a page of the audit trail when the request does not say, and at most.
const PAGE_DEFAULT: u64 = 50;
const PAGE_MAX: u64 = 500;

pub(super) async fn list(request: HttpRequest, keys: Data<Keys>) -> Result<Json<Value>, Problem> {
    let projects = keys.meta().projects();
    let known = person(&request).await?;
    let found = match known.filter(|known| !known.person.is_admin) {
        Some(known) => {
            let own: Vec<ProjectId> = known.memberships.iter().map(|one| one.project.clone()).collect();
            projects.find_all(&own).await
        }
        None => {
            let access = authorize(&request, Permission::Admin, true).await?;
            if access.operator {
                projects.list_all(keys.0.config.projects_max).await
            } else {
                projects.find(&access.scope.project).await.map(|found| found.into_iter().collect())
            }
        }
    };
    let shown: Vec<Value> = found.map_err(problem)?.iter().map(show_project).collect();
    Ok(Json(json!({ "projects": shown })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewName {
    name: String,
}

/// Who may make a project: an administrator; anybody who is logged in, where anybody may register.
async fn founder(request: &HttpRequest, keys: &Keys) -> Result<crate::meta::Actor, Problem> {
    if let Some(known) = person(request).await?
        && keys.0.config.registration == Registration::Open
    {
        return Ok(known.person.actor());
    }
    Ok(operator(request).await?.actor())
}

pub(super) async fn create(
    request: HttpRequest,
    payload: Payload,
    keys: Data<Keys>,
    limits: Data<BodyLimits>,
) -> Result<HttpResponse, Problem> {
    let actor = founder(&request, &keys).await?;
    let asked: NewName = read(&request, payload, **limits).await?;
    let name = valid_name(&asked.name)?;
    let made = keys.meta().by(actor).projects().create(name, keys.0.config.projects_max).await;
    let (project, environments) = made.map_err(problem)?;
    keys.0.people.forget_all();
    tracing::info!(project_id = %project.id, "project made");
    let mut shown = show_project(&project);
    shown["environments"] = environments.iter().map(show_environment).collect();
    Ok(HttpResponse::Created().json(shown))
}

pub(super) async fn show(
    request: HttpRequest,
    path: Path<String>,
    keys: Data<Keys>,
) -> Result<Json<Value>, Problem> {
    let id = ProjectId::new(path.into_inner());
    within(&request, &id, Permission::Query).await?;
    Ok(Json(show_project(&existing(&keys, &id).await?)))
}

/// What of a project is to be otherwise.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    name: Option<String>,
    time_zone: Option<String>,
}

pub(super) async fn change(
    request: HttpRequest,
    path: Path<String>,
    payload: Payload,
    keys: Data<Keys>,
    limits: Data<BodyLimits>,
) -> Result<Json<Value>, Problem> {
    let id = ProjectId::new(path.into_inner());
    let access = manager(&request, &id).await?;
    let asked: Change = read(&request, payload, **limits).await?;
    let name = asked.name.as_deref().map(valid_name).transpose()?;
    let time_zone = asked.time_zone.as_deref().map(|given| zone("time_zone", given)).transpose()?;
    if name.is_none() && time_zone.is_none() {
        return Err(Problem::invalid("name", "name or time_zone must be given"));
    }
    let meta = keys.meta().by(access.actor());
    let changed = meta.projects().change(&id, name, time_zone.map(chrono_tz::Tz::name)).await;
    keys.0.people.forget_all();
    Ok(Json(show_project(&changed.map_err(problem)?.ok_or_else(|| not_found("project", id.as_str()))?)))
}

pub(super) async fn delete(
    request: HttpRequest,
    path: Path<String>,
    keys: Data<Keys>,
) -> Result<Json<Value>, Problem> {
    let id = ProjectId::new(path.into_inner());
    let access = manager(&request, &id).await?;
    let deleted = keys.delete_project(access.actor(), &id).await.map_err(problem)?;
    Ok(Json(show_project(&deleted.ok_or_else(|| not_found("project", id.as_str()))?)))
}

pub(super) async fn list_environments(
    request: HttpRequest,
    path: Path<String>,
    keys: Data<Keys>,
) -> Result<Json<Value>, Problem> {
    let id = ProjectId::new(path.into_inner());
    within(&request, &id, Permission::Query).await?;
    existing(&keys, &id).await?;
    let found = keys.meta().environments().list(&id).await.map_err(problem)?;
    let shown: Vec<Value> = found.iter().map(show_environment).collect();
    Ok(Json(json!({ "environments": shown })))
}

pub(super) async fn create_environment(
    request: HttpRequest,
    path: Path<String>,
    payload: Payload,
    keys: Data<Keys>,
    limits: Data<BodyLimits>,
) -> Result<HttpResponse, Problem> {
    let id = ProjectId::new(path.into_inner());
    let access = manager(&request, &id).await?;
    let asked: NewName = read(&request, payload, **limits).await?;
    let name = valid_name(&asked.name)?;
    existing(&keys, &id).await?;
    let meta = keys.meta().by(access.actor());
    let made = meta.environments().create(&id, name, keys.0.config.environments_max).await;
    let made = made.map_err(problem)?;
    keys.0.people.forget_all();
    tracing::info!(project_id = %id, environment_id = %made.id, "environment made");
    Ok(HttpResponse::Created().json(show_environment(&made)))
}

pub(super) async fn rename_environment(
    request: HttpRequest,
    path: Path<(String, String)>,
    payload: Payload,
    keys: Data<Keys>,
    limits: Data<BodyLimits>,
) -> Result<Json<Value>, Problem> {
    let (project, environment) = path.into_inner();
    let (id, environment) = (ProjectId::new(project), EnvironmentId::new(environment));
    let access = manager(&request, &id).await?;
    let asked: NewName = read(&request, payload, **limits).await?;
    let name = valid_name(&asked.name)?;
    existing(&keys, &id).await?;
    let meta = keys.meta().by(access.actor());
    let renamed = meta.environments().rename(&id, &environment, name).await.map_err(problem)?;
    keys.0.people.forget_all();
    Ok(Json(show_environment(&renamed.ok_or_else(|| not_found("environment", environment.as_str()))?)))
}

/// The environments that the caller's credential can name, whichever it names now: with these a client repairs a
/// stale id.
pub(super) async fn valid_environments(
    request: HttpRequest,
    keys: Data<Keys>,
) -> Result<Json<Value>, Problem> {
    let access = keys.authorize_any(token(&request), header_text(&request, "X-Project-ID")?).await?;
    Ok(Json(json!({ "project_id": access.scope.project, "environments": access.environments() })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    limit: Option<u64>,
    cursor: Option<String>,
}

pub(super) async fn audit_log(
    request: HttpRequest,
    path: Path<String>,
    keys: Data<Keys>,
) -> Result<Json<Value>, Problem> {
    let id = ProjectId::new(path.into_inner());
    manager(&request, &id).await?;
    existing(&keys, &id).await?;
    audit_page(&request, &keys, Some(&id)).await
}

pub(super) async fn whole_audit_log(request: HttpRequest, keys: Data<Keys>) -> Result<Json<Value>, Problem> {
    let access: Access = authorize(&request, Permission::Admin, true).await?;
    if !access.operator {
        return Err(Denied::OperatorOnly.into());
    }
    audit_page(&request, &keys, None).await
}

async fn audit_page(
    request: &HttpRequest,
    keys: &Keys,
    project: Option<&ProjectId>,
) -> Result<Json<Value>, Problem> {
    let page: Page = query_string(request.query_string())?;
    let limit = page.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        let message = format!("limit is {limit}, but must be from 1 to {PAGE_MAX}");
        return Err(Problem::invalid("limit", message).with("given", limit).with("max", PAGE_MAX));
    }
    let question = format!("audit log {project:?}");
    let before: Option<String> =
        page.cursor.as_deref().map(|one| cursor::decode(&question, one)).transpose()?;
    // One more than asked for tells whether there is another page.
    let mut found =
        keys.meta().audit_log().list(project, before.as_deref(), limit + 1).await.map_err(problem)?;
    let more = found.len() as u64 > limit;
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next_cursor = match found.last() {
        Some(last) if more => Some(cursor::encode(&question, &last.id)?),
        _ => None,
    };
    Ok(Json(json!({ "entries": found, "next_cursor": next_cursor })))
}

fn show_project(project: &Project) -> Value {
    json!({
        "id": project.id,
        "name": project.name,
        "time_zone": project.time_zone,
        "origin": project.origin,
        "created_at": project.created_at,
        "updated_at": project.updated_at,
    })
}

fn show_environment(environment: &Environment) -> Value {
    json!({
        "id": environment.id,
        "project_id": environment.project_id,
        "name": environment.name,
        "origin": environment.origin,
        "created_at": environment.created_at,
        "updated_at": environment.updated_at,
    })
}

//! Keys in requests, and the routes of projects, environments and API keys.

use std::borrow::Cow;

use actix_web::http::header;
use actix_web::web::{Data, Json, Path, Payload, ServiceConfig, get, resource};
use actix_web::{HttpRequest, HttpResponse};
use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::denied::unavailable;
use super::{Access, Denied, KeySpec, Keys, NamedEnvironment, Permission, Permissions, Request};
use crate::event::{EnvironmentId, ProjectId, Timestamp};
use crate::http::{BodyLimits, ErrorCode, Problem, body, strict};
use crate::meta::{ApiKey, Environment, MetaError, Project};

/// Most characters of a name.
const NAME_CHARS_MAX: usize = 200;

/// What this request may do; see [`Keys::authorize`]. The key comes as `X-API-Key`, else as `Authorization: Bearer`;
/// the environment it names as `X-Environment-ID` and as `environment_id` of the query string. Bodies that name one
/// are held against [`Access::check_environment`] by whoever reads them.
///
/// # Errors
/// 401 without a key that is good, 403 for a scope or environment the key does not have, 503 while the key cannot be
/// checked.
pub async fn authorize(
    request: &HttpRequest,
    needed: Permission,
    require_key: bool,
) -> Result<Access, Problem> {
    let environment = named_environment(request)?;
    let asked = Request {
        token: token(request),
        project: header_text(request, "X-Project-ID")?,
        environment: environment.as_deref(),
    };
    Ok(keys(request)?.authorize(asked, needed, require_key).await?)
}

/// The routes of projects, environments and keys. They need `web::Data<Keys>` and `web::Data<BodyLimits>`.
pub fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/api/environments").route(get().to(valid_environments)))
        .service(resource("/api/projects").get(list_projects).post(create_project))
        .service(resource("/api/projects/{project_id}").get(show_project))
        .service(
            resource("/api/projects/{project_id}/environments")
                .get(list_environments)
                .post(create_environment),
        )
        .service(resource("/api/projects/{project_id}/api-keys").get(list_keys).post(create_key))
        .service(resource("/api/projects/{project_id}/api-keys/{key_id}").delete(revoke_key));
}

fn keys(request: &HttpRequest) -> Result<&Data<Keys>, Problem> {
    let keys = request.app_data::<Data<Keys>>();
    keys.ok_or_else(|| Problem::internal(anyhow::anyhow!("this listener has no keys")))
}

/// The key as it was sent. A header that is there counts, be it empty: a client that meant to send a key shall not
/// end up in the default project.
fn token(request: &HttpRequest) -> Option<&[u8]> {
    let headers = request.headers();
    if let Some(key) = headers.get("X-API-Key") {
        return Some(key.as_bytes().trim_ascii());
    }
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    match value.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => Some(token.trim_ascii()),
        // Another scheme is not for us; it is no key that is good either.
        _ => Some(value),
    }
}

fn header_text<'a>(request: &'a HttpRequest, name: &'static str) -> Result<Option<&'a str>, Problem> {
    let Some(value) = request.headers().get(name) else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| Problem::invalid(name, format!("{name} must be visible ASCII")))
}

/// The environment that header or query string names; naming two is an error.
fn named_environment(request: &HttpRequest) -> Result<Option<Cow<'_, str>>, Problem> {
    let header = header_text(request, "X-Environment-ID")?;
    let query = request.query_string();
    if !query.contains("environment_id=") {
        return Ok(header.map(Cow::Borrowed));
    }
    let mut named = form_urlencoded::parse(query.as_bytes())
        .filter(|(name, _)| name == "environment_id")
        .map(|(_, value)| value)
        .chain(header.map(Cow::Borrowed));
    let Some(first) = named.next() else { return Ok(None) };
    if named.any(|other| other != first) {
        let message = "the request names two environments: send one of X-Environment-ID and environment_id";
        return Err(Problem::invalid("environment_id", message));
    }
    Ok(Some(first))
}

/// The caller, who may manage this project.
async fn manager(request: &HttpRequest, project: &ProjectId) -> Result<Access, Problem> {
    let access = authorize(request, Permission::Admin, true).await?;
    if !access.may_manage(project) {
        let given = project.as_str().chars().take(200).collect();
        return Err(Denied::Project { given, valid: Some(access.scope.project) }.into());
    }
    Ok(access)
}

async fn operator(request: &HttpRequest) -> Result<Access, Problem> {
    let access = authorize(request, Permission::Admin, true).await?;
    if access.operator { Ok(access) } else { Err(Denied::OperatorOnly.into()) }
}

async fn read<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: Payload,
    limits: BodyLimits,
) -> Result<T, Problem> {
    strict::json(&body::read(payload, request, limits).await?)
}

async fn list_projects(request: HttpRequest, keys: Data<Keys>) -> Result<Json<Value>, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    let projects = keys.meta().projects();
    let found = if access.operator {
        projects.list_all(keys.0.config.projects_max).await
    } else {
        projects.find(&access.scope.project).await.map(|found| found.into_iter().collect())
    };
    let shown: Vec<Value> = found.map_err(problem)?.iter().map(show).collect();
    Ok(Json(json!({ "projects": shown })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewName {
    name: String,
}

async fn create_project(
    request: HttpRequest,
    payload: Payload,
    keys: Data<Keys>,
    limits: Data<BodyLimits>,
) -> Result<HttpResponse, Problem> {
    operator(&request).await?;
    let asked: NewName = read(&request, payload, **limits).await?;
    let name = valid_name(&asked.name)?;
    let made = keys.meta().projects().create(name, keys.0.config.projects_max).await;
    let (project, environments) = made.map_err(problem)?;
    tracing::info!(project_id = %project.id, "project made");
    let mut shown = show(&project);
    shown["environments"] = environments.iter().map(show_environment).collect();
    Ok(HttpResponse::Created().json(shown))
}

async fn show_project(
    request: HttpRequest,
    path: Path<String>,
    keys: Data<Keys>,
) -> Result<Json<Value>, Problem> {
    let id = ProjectId::new(path.into_inner());
    manager(&request, &id).await?;
    Ok(Json(show(&existing(&keys, &id).await?)))
}

async fn list_environments(
    request: HttpRequest,
    path: Path<String>,
    keys: Data<Keys>,
) -> Result<Json<Value>, Problem> {
    let id = ProjectId::new(path.into_inner());
    manager(&request, &id).await?;
    existing(&keys, &id).await?;
    let found = keys.meta().environments().list(&id).await.map_err(problem)?;
    let shown: Vec<Value> = found.iter().map(show_environment).collect();
    Ok(Json(json!({ "environments": shown })))
}

async fn create_environment(
    request: HttpRequest,
    path: Path<String>,
    payload: Payload,
    keys: Data<Keys>,
    limits: Data<BodyLimits>,
) -> Result<HttpResponse, Problem> {
    let id = ProjectId::new(path.into_inner());
    manager(&request, &id).await?;
    let asked: NewName = read(&request, payload, **limits).await?;
    let name = valid_name(&asked.name)?;
    existing(&keys, &id).await?;
    let made = keys.meta().environments().create(&id, name, keys.0.config.environments_max).await;
    let made = made.map_err(problem)?;
    tracing::info!(project_id = %id, environment_id = %made.id, "environment made");
    Ok(HttpResponse::Created().json(show_environment(&made)))
}

async fn list_keys(
    request: HttpRequest,
    path: Path<String>,
    keys: Data<Keys>,
) -> Result<Json<Value>, Problem> {
    let id = ProjectId::new(path.into_inner());
    manager(&request, &id).await?;
    existing(&keys, &id).await?;
    let found = keys.list(&id).await.map_err(problem)?;
    Ok(Json(json!({ "api_keys": found.iter().map(ShownKey::of).collect::<Vec<_>>() })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKey {
    #[serde(default)]
    name: Option<String>,
    environment_id: String,
    scopes: Vec<String>,
    #[serde(default)]
    expires_at: Option<Timestamp>,
}

async fn create_key(
    request: HttpRequest,
    path: Path<String>,
    payload: Payload,
    keys: Data<Keys>,
    limits: Data<BodyLimits>,
) -> Result<HttpResponse, Problem> {
    let id = ProjectId::new(path.into_inner());
    manager(&request, &id).await?;
    let asked: NewKey = read(&request, payload, **limits).await?;
    let permissions = valid_scopes(&asked.scopes)?;
    if let Some(at) = asked.expires_at.filter(|at| *at <= keys.0.clock.now()) {
        let message =
            format!("expires_at is {at}, which has passed; leave it out for a key that does not expire");
        return Err(Problem::invalid("expires_at", message).with("given", at.to_string()));
    }
    existing(&keys, &id).await?;
    let environment = valid_environment(&keys, &id, asked.environment_id).await?;
    let spec = KeySpec {
        environment: &environment.id,
        name: asked.name.as_deref().map(valid_name).transpose()?.unwrap_or("API key"),
        permissions,
        expires_at: asked.expires_at,
    };
    let made = keys.create(&id, &spec).await.map_err(problem)?;
    let shown = CreatedKey { key: ShownKey::of(&made.key), api_key: made.api_key.expose_secret() };
    // The one answer with a secret: no cache may keep it.
    Ok(HttpResponse::Created().insert_header((header::CACHE_CONTROL, "no-store")).json(shown))
}

async fn revoke_key(
    request: HttpRequest,
    path: Path<(String, String)>,
    keys: Data<Keys>,
) -> Result<Json<Value>, Problem> {
    let (project, key_id) = path.into_inner();
    let id = ProjectId::new(project);
    manager(&request, &id).await?;
    existing(&keys, &id).await?;
    let revoked = keys.revoke(&id, &key_id).await.map_err(problem)?;
    let revoked = revoked.ok_or_else(|| not_found("API key", &key_id))?;
    Ok(Json(json!(ShownKey::of(&revoked))))
}

/// The environments that the caller's credential can name, whichever it names now: with these a client repairs a
/// stale id.
async fn valid_environments(request: HttpRequest, keys: Data<Keys>) -> Result<Json<Value>, Problem> {
    let access = keys.authorize_any(token(&request)).await?;
    Ok(Json(json!({ "project_id": access.scope.project, "environments": access.environments() })))
}

async fn existing(keys: &Keys, id: &ProjectId) -> Result<Project, Problem> {
    keys.meta().projects().find(id).await.map_err(problem)?.ok_or_else(|| not_found("project", id.as_str()))
}

async fn valid_environment(
    keys: &Keys,
    project: &ProjectId,
    given: String,
) -> Result<NamedEnvironment, Problem> {
    let valid = keys.environments(project).await.map_err(problem)?;
    let given = EnvironmentId::new(given);
    match valid.iter().find(|one| one.id == given) {
        Some(found) => Ok(found.clone()),
        None => Err(super::EnvironmentMismatch::counted(given.as_str(), valid.into()).into()),
    }
}

fn valid_name(given: &str) -> Result<&str, Problem> {
    let name = given.trim();
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        let message =
            format!("name must have 1 to {NAME_CHARS_MAX} characters, none of them a control character");
        return Err(Problem::invalid("name", message).with("max", NAME_CHARS_MAX));
    }
    Ok(name)
}

fn valid_scopes(given: &[String]) -> Result<Permissions, Problem> {
    let valid: Vec<&str> = Permission::ALL.iter().map(|one| one.as_str()).collect();
    let mut permissions = Vec::with_capacity(given.len().min(valid.len()));
    for (index, scope) in given.iter().enumerate() {
        permissions.push(Permission::from_name(scope).ok_or_else(|| {
            let hint = strict::nearest(scope, valid.iter().copied())
                .map(|name| format!("; did you mean {name}?"))
                .unwrap_or_default();
            let message = format!("scopes[{index}] is not a scope; valid are {}{hint}", valid.join(", "));
            Problem::invalid(&format!("scopes[{index}]"), message)
                .with("given", scope.chars().take(NAME_CHARS_MAX).collect::<String>())
                .with("valid", valid.clone())
        })?);
    }
    if permissions.is_empty() {
        let message = format!("scopes must have at least one of {}", valid.join(", "));
        return Err(Problem::invalid("scopes", message).with("valid", valid));
    }
    Ok(permissions.into_iter().collect())
}

fn not_found(what: &str, id: &str) -> Problem {
    let id: String = id.chars().take(NAME_CHARS_MAX).collect();
    Problem::new(ErrorCode::NotFound, format!("there is no {what} {id:?}")).with("given", id)
}

fn problem(error: MetaError) -> Problem {
    match error {
        MetaError::Unavailable(_) => unavailable(error),
        MetaError::Exists(_) => Problem::new(ErrorCode::AlreadyExists, error.to_string()),
        MetaError::Missing(_) => Problem::new(ErrorCode::NotFound, error.to_string()),
        MetaError::Full { max, setting, .. } => Problem::new(ErrorCode::ValidationError, error.to_string())
            .with("max", max)
            .with("setting", setting),
        other => Problem::internal(other),
    }
}

fn show(project: &Project) -> Value {
    json!({
        "id": project.id,
        "name": project.name,
        "created_at": project.created_at,
        "updated_at": project.updated_at,
    })
}

fn show_environment(environment: &Environment) -> Value {
    json!({
        "id": environment.id,
        "project_id": environment.project_id,
        "name": environment.name,
        "created_at": environment.created_at,
        "updated_at": environment.updated_at,
    })
}

/// A key as lists show it: by its prefix.
#[derive(Serialize)]
struct ShownKey<'a> {
    id: &'a str,
    project_id: &'a ProjectId,
    environment_id: &'a EnvironmentId,
    name: &'a str,
    prefix: &'a str,
    scopes: Vec<&'static str>,
    created_at: Timestamp,
    updated_at: Timestamp,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
}

impl<'a> ShownKey<'a> {
    fn of(key: &'a ApiKey) -> Self {
        Self {
            id: &key.id,
            project_id: &key.project_id,
            environment_id: &key.environment_id,
            name: &key.name,
            prefix: &key.prefix,
            scopes: Permissions::from_column(&key.scopes).names(),
            created_at: key.created_at,
            updated_at: key.updated_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
            last_used_at: key.last_used_at,
        }
    }
}

/// A new key, with its secret: the one time it is shown.
#[derive(Serialize)]
struct CreatedKey<'a> {
    #[serde(flatten)]
    key: ShownKey<'a>,
    api_key: &'a str,
}

#[cfg(test)]
mod tests;

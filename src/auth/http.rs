//! Credentials in requests, and the routes of people, projects, members, environments and API keys.

mod fields;
mod keys;
mod members;
mod people;
mod projects;

use std::borrow::Cow;
use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::header;
use actix_web::web::{Data, Payload, ServiceConfig, get, resource};
use serde::de::DeserializeOwned;

use super::denied::meta_problem;
use super::people::Known;
use super::tokens::has_token_form;
use super::{Access, Denied, Keys, Permission, Request};
use crate::event::ProjectId;
use crate::http::{BodyLimits, ErrorCode, Problem, body, strict};
use crate::meta::{MetaError, Project};

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
    Ok(keys_of(request)?.authorize(asked, needed, require_key).await?)
}

/// The routes of people, projects, environments and keys. They need `web::Data<Keys>` and `web::Data<BodyLimits>`.
pub fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/api/auth/register").post(people::register))
        .service(resource("/api/auth/login").post(people::login))
        .service(resource("/api/auth/refresh").post(people::refresh))
        .service(resource("/api/auth/logout").post(people::logout))
        .service(resource("/api/auth/me").get(people::me))
        .service(resource("/api/auth/password").post(people::change_password))
        .service(resource("/api/users").get(people::list_users).post(people::create_user))
        .service(resource("/api/users/{user_id}/reset-password").post(people::reset_password))
        .service(resource("/api/users/{user_id}/disable").post(people::disable_user))
        .service(resource("/api/users/{user_id}/enable").post(people::enable_user))
        .service(resource("/api/signing-keys").get(people::list_signing_keys))
        .service(resource("/api/signing-keys/rotate").post(people::rotate_signing_key))
        .service(resource("/api/audit-log").get(projects::whole_audit_log))
        .service(resource("/api/environments").route(get().to(projects::valid_environments)))
        .service(resource("/api/projects").get(projects::list).post(projects::create))
        .service(
            resource("/api/projects/{project_id}")
                .get(projects::show)
                .patch(projects::change)
                .delete(projects::delete),
        )
        .service(
            resource("/api/projects/{project_id}/environments")
                .get(projects::list_environments)
                .post(projects::create_environment),
        )
        .service(
            resource("/api/projects/{project_id}/environments/{environment_id}")
                .patch(projects::rename_environment),
        )
        .service(resource("/api/projects/{project_id}/audit-log").get(projects::audit_log))
        .service(resource("/api/projects/{project_id}/members").get(members::list).post(members::add))
        .service(
            resource("/api/projects/{project_id}/members/{user_id}")
                .patch(members::change)
                .delete(members::remove),
        )
        .service(
            resource("/api/projects/{project_id}/invitations")
                .get(members::list_invitations)
                .post(members::invite),
        )
        .service(
            resource("/api/projects/{project_id}/invitations/{invitation_id}")
                .delete(members::revoke_invitation),
        )
        .service(resource("/api/projects/{project_id}/api-keys").get(keys::list).post(keys::create))
        .service(resource("/api/projects/{project_id}/api-keys/{key_id}").delete(keys::revoke));
}

fn keys_of(request: &HttpRequest) -> Result<&Data<Keys>, Problem> {
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

/// The caller, within this project: a person with at least this permission there, a key with scope admin, the operator.
async fn within(request: &HttpRequest, project: &ProjectId, needed: Permission) -> Result<Access, Problem> {
    let environment = named_environment(request)?;
    let token = token(request);
    let is_person = token.is_some_and(has_token_form);
    let asked = Request {
        token,
        // A person is a member of what the path names, or is not; a key belongs to what it belongs to.
        project: if is_person { Some(project.as_str()) } else { header_text(request, "X-Project-ID")? },
        environment: environment.as_deref(),
    };
    let needed = if is_person { needed } else { Permission::Admin };
    let access = keys_of(request)?.authorize(asked, needed, true).await?;
    if access.operator || access.scope.project == *project {
        return Ok(access);
    }
    let given = project.as_str().chars().take(200).collect();
    Err(Denied::Project { given, valid: vec![access.scope.project] }.into())
}

/// The caller, who may manage this project.
async fn manager(request: &HttpRequest, project: &ProjectId) -> Result<Access, Problem> {
    within(request, project, Permission::Admin).await
}

/// The operator, or an administrator.
async fn operator(request: &HttpRequest) -> Result<Access, Problem> {
    if let Some(known) = person(request).await?
        && !known.person.is_admin
    {
        return Err(Denied::OperatorOnly.into());
    }
    let access = authorize(request, Permission::Admin, true).await?;
    if access.operator { Ok(access) } else { Err(Denied::OperatorOnly.into()) }
}

/// The person who is logged in.
async fn logged_in(request: &HttpRequest) -> Result<Arc<Known>, Problem> {
    if let Some(known) = person(request).await? {
        return Ok(known);
    }
    // A credential that is good, but nobody's.
    keys_of(request)?.authorize_any(token(request), None).await?;
    Err(Denied::PersonOnly.into())
}

/// The person who is logged in; `None` for other credentials.
async fn person(request: &HttpRequest) -> Result<Option<Arc<Known>>, Problem> {
    match token(request).filter(|token| has_token_form(token)) {
        Some(token) => Ok(Some(keys_of(request)?.0.people.identify(token).await?)),
        None => Ok(None),
    }
}

async fn read<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: Payload,
    limits: BodyLimits,
) -> Result<T, Problem> {
    strict::json(&body::read(payload, request, limits).await?)
}

async fn existing(keys: &Keys, id: &ProjectId) -> Result<Project, Problem> {
    let found = keys.meta().projects().find(id).await.map_err(problem)?;
    found.ok_or_else(|| not_found("project", id.as_str()))
}

fn not_found(what: &str, id: &str) -> Problem {
    let id: String = id.chars().take(200).collect();
    Problem::new(ErrorCode::NotFound, format!("there is no {what} {id:?}")).with("given", id)
}

fn problem(error: MetaError) -> Problem {
    meta_problem(error)
}

#[cfg(test)]
mod tests;

//! Routes of people: register, log in, stay logged in; and what administrators do to accounts and signing keys.

use std::net::IpAddr;

use actix_web::web::{Data, Json, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::fields::{Secret, valid_email, valid_name, valid_password, valid_role};
use super::{existing, logged_in, not_found, operator, problem, read};
use crate::auth::{Denied, Keys, Registrant, TokenPair};
use crate::event::ProjectId;
use crate::http::{BodyLimits, Problem, client_address};
use crate::meta::User;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Registration {
    email: String,
    password: Secret,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    invitation: Option<Secret>,
}

pub(super) async fn register(
    request: HttpRequest,
    payload: Payload,
    keys: Data<Keys>,
    limits: Data<BodyLimits>,
) -> Result<HttpResponse, Problem> {
    let asked: Registration = read(&request, payload, **limits).await?;
    let email = valid_email(&asked.email)?;
    let name = asked.name.as_deref().map(valid_name).transpose()?;
    let who = Registrant {
        name: name.unwrap_or(&email),
        email: &email,
        password: valid_password("password", &asked.password)?,
        invitation: asked.invitation.as_ref().map(|token| &token.0),
    };
    let pair = keys.0.people.register(&who, address(&request)).await?;
    Ok(HttpResponse::Created().json(show_pair(&keys, &pair)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    email: String,
    password: Secret,
}

pub(super) async fn login(
    request: HttpRequest,
    payload: Payload,
    keys: Data<Keys>,
    limits: Data<BodyLimits>,
) -> Result<Json<Value>, Problem> {
    let asked: Login = read(&request, payload, **limits).await?;
    let email = valid_email(&asked.email)?;
    let pair = keys.0.people.login(&email, &asked.password.0, address(&request)).await?;
    Ok(Json(show_pair(&keys, &pair)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refresh {
    refresh_token: Secret,
}

pub(super) async fn refresh(
    request: HttpRequest,
    payload: Payload,
    keys: Data<Keys>,
    limits: Data<BodyLimits>,
) -> Result<Json<Value>, Problem> {
    let asked: Refresh = read(&request, payload, **limits).await?;
    let pair = keys.0.people.refresh(&asked.refresh_token.0, address(&request)).await?;
    Ok(Json(show_pair(&keys, &pair)))
}

pub(super) async fn logout(request: HttpRequest, keys: Data<Keys>) -> Result<Json<Value>, Problem> {
    let known = logged_in(&request).await?;
    keys.0.people.logout(&known.person).await?;
    Ok(Json(json!({ "status": "logged_out" })))
}

pub(super) async fn me(request: HttpRequest, keys: Data<Keys>) -> Result<Json<Value>, Problem> {
    let known = logged_in(&request).await?;
    let user = keys.meta().users().find(&known.person.user_id).await.map_err(problem)?;
    let user = user.ok_or(Denied::SessionEnded)?;
    let projects: Vec<Value> = known
        .memberships
        .iter()
        .map(|one| {
            json!({ "id": one.project, "name": one.name, "time_zone": one.time_zone, "role": one.role,
                    "environments": one.environments })
        })
        .collect();
    Ok(Json(json!({ "user": show(&user), "projects": projects })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PasswordChange {
    current_password: Secret,
    new_password: Secret,
}

pub(super) async fn change_password(
    request: HttpRequest,
    payload: Payload,
    keys: Data<Keys>,
    limits: Data<BodyLimits>,
) -> Result<Json<Value>, Problem> {
    let known = logged_in(&request).await?;
    let asked: PasswordChange = read(&request, payload, **limits).await?;
    let new = valid_password("new_password", &asked.new_password)?;
    keys.0.people.change_password(&known.person, &asked.current_password.0, new).await?;
    Ok(Json(json!({ "status": "changed" })))
}

pub(super) async fn list_users(request: HttpRequest, keys: Data<Keys>) -> Result<Json<Value>, Problem> {
    operator(&request).await?;
    let found = keys.meta().users().list(keys.0.config.users_max).await.map_err(problem)?;
    Ok(Json(json!({ "users": found.iter().map(show).collect::<Vec<_>>() })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewUser {
    email: String,
    /// Absent: one is made, and shown this once.
    #[serde(default)]
    password: Option<Secret>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    is_admin: bool,
    /// A member of this project at once; with `role`.
    #[serde(default)]
    project_id: Option<String>,
    #[serde(default)]
    role: Option<String>,
}

pub(super) async fn create_user(
    request: HttpRequest,
    payload: Payload,
    keys: Data<Keys>,
    limits: Data<BodyLimits>,
) -> Result<HttpResponse, Problem> {
    let access = operator(&request).await?;
    let asked: NewUser = read(&request, payload, **limits).await?;
    let email = valid_email(&asked.email)?;
    let name = asked.name.as_deref().map(valid_name).transpose()?.unwrap_or(&email);
    let project = asked.project_id.map(ProjectId::new);
    let role = asked.role.as_deref().map(valid_role).transpose()?;
    match (&project, role) {
        (Some(project), Some(_)) => drop(existing(&keys, project).await?),
        (None, None) => {}
        (Some(_), None) => return Err(Problem::invalid("role", "role is required with project_id")),
        (None, Some(_)) => return Err(Problem::invalid("project_id", "project_id is required with role")),
    }
    let given = asked.password.as_ref().map(|given| valid_password("password", given)).transpose()?;
    let (password, made) = password_or_new(&keys, given);
    let who = Registrant { email: &email, name, password: &password, invitation: None };
    let meta = keys.meta().by(access.actor());
    let user = keys.0.people.create(&meta, &who, asked.is_admin, project.as_ref().zip(role)).await?;
    Ok(HttpResponse::Created().json(with_password(&user, &password, made)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PasswordReset {
    /// Absent: one is made, and shown this once.
    #[serde(default)]
    password: Option<Secret>,
}

pub(super) async fn reset_password(
    request: HttpRequest,
    path: Path<String>,
    payload: Payload,
    keys: Data<Keys>,
    limits: Data<BodyLimits>,
) -> Result<Json<Value>, Problem> {
    let access = operator(&request).await?;
    let asked: PasswordReset = read(&request, payload, **limits).await?;
    let given = asked.password.as_ref().map(|given| valid_password("password", given)).transpose()?;
    let (password, made) = password_or_new(&keys, given);
    let meta = keys.meta().by(access.actor());
    let user = keys.0.people.reset_password(&meta, &path, &password).await?;
    let user = user.ok_or_else(|| not_found("person", &path))?;
    Ok(Json(with_password(&user, &password, made)))
}

pub(super) async fn disable_user(
    request: HttpRequest,
    path: Path<String>,
    keys: Data<Keys>,
) -> Result<Json<Value>, Problem> {
    set_disabled(&request, &path, &keys, true).await
}

pub(super) async fn enable_user(
    request: HttpRequest,
    path: Path<String>,
    keys: Data<Keys>,
) -> Result<Json<Value>, Problem> {
    set_disabled(&request, &path, &keys, false).await
}

async fn set_disabled(
    request: &HttpRequest,
    id: &str,
    keys: &Keys,
    disabled: bool,
) -> Result<Json<Value>, Problem> {
    let access = operator(request).await?;
    let meta = keys.meta().by(access.actor());
    let user = keys.0.people.set_disabled(&meta, id, disabled).await?;
    Ok(Json(show(&user.ok_or_else(|| not_found("person", id))?)))
}

pub(super) async fn list_signing_keys(
    request: HttpRequest,
    keys: Data<Keys>,
) -> Result<Json<Value>, Problem> {
    operator(&request).await?;
    let found = keys.0.people.tokens.list().await?;
    let shown = found.into_iter().map(|(kid, created_at, retired_at)| {
        json!({ "kid": kid, "created_at": created_at, "retired_at": retired_at })
    });
    Ok(Json(json!({ "signing_keys": shown.collect::<Vec<_>>() })))
}

pub(super) async fn rotate_signing_key(
    request: HttpRequest,
    keys: Data<Keys>,
) -> Result<Json<Value>, Problem> {
    let access = operator(&request).await?;
    let kid = keys.0.people.tokens.rotate(&keys.meta().by(access.actor())).await?;
    Ok(Json(json!({ "kid": kid })))
}

fn password_or_new(keys: &Keys, given: Option<&SecretString>) -> (SecretString, bool) {
    given.map_or_else(|| (keys.0.people.new_password(), true), |given| (given.clone(), false))
}

/// A person, with the password if we made it: the one time it is shown.
fn with_password(user: &User, password: &SecretString, made: bool) -> Value {
    let mut shown = show(user);
    if made {
        shown["password"] = json!(password.expose_secret());
    }
    shown
}

fn address(request: &HttpRequest) -> Option<IpAddr> {
    client_address(request)
}

fn show_pair(keys: &Keys, pair: &TokenPair) -> Value {
    json!({
        "access_token": pair.access_token.expose_secret(),
        "refresh_token": pair.refresh_token.expose_secret(),
        "token_type": "Bearer",
        "expires_in": keys.0.config.access_ttl.as_secs(),
        "user": show(&pair.user),
    })
}

fn show(user: &User) -> Value {
    json!({
        "id": user.id,
        "email": user.email,
        "name": user.name,
        "is_admin": user.is_admin,
        "last_login_at": user.last_login_at,
        "disabled_at": user.disabled_at,
        "created_at": user.created_at,
        "updated_at": user.updated_at,
    })
}

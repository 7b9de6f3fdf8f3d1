//! Routes of members and invitations. Every member sees who the others are; an owner manages them.

use actix_web::web::{Data, Json, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};

use super::fields::{valid_email, valid_role};
use super::{existing, manager, not_found, problem, read, within};
use crate::auth::{Keys, Permission};
use crate::config::Registration;
use crate::event::ProjectId;
use crate::http::{BodyLimits, Problem};
use crate::meta::{Invitation, Member, User};

pub(super) async fn list(
    request: HttpRequest,
    path: Path<String>,
    keys: Data<Keys>,
) -> Result<Json<Value>, Problem> {
    let id = ProjectId::new(path.into_inner());
    within(&request, &id, Permission::Query).await?;
    existing(&keys, &id).await?;
    let found = keys.meta().members().list(&id, keys.0.config.members_max).await.map_err(problem)?;
    let shown: Vec<Value> = found.iter().map(|(member, user)| show(member, user)).collect();
    Ok(Json(json!({ "members": shown })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewMember {
    email: String,
    role: String,
}

/// Makes somebody who has an account a member.
pub(super) async fn add(
    request: HttpRequest,
    path: Path<String>,
    payload: Payload,
    keys: Data<Keys>,
    limits: Data<BodyLimits>,
) -> Result<HttpResponse, Problem> {
    let id = ProjectId::new(path.into_inner());
    let access = manager(&request, &id).await?;
    let asked: NewMember = read(&request, payload, **limits).await?;
    let (email, role) = (valid_email(&asked.email)?, valid_role(&asked.role)?);
    existing(&keys, &id).await?;
    let user = keys.meta().users().find_by_email(&email).await.map_err(problem)?;
    let user = user.ok_or_else(|| not_found("person with the e-mail address", &email))?;
    let meta = keys.meta().by(access.actor());
    let made = meta.members().add(&id, &user.id, role, keys.0.config.members_max).await.map_err(problem)?;
    keys.0.people.forget_all();
    Ok(HttpResponse::Created().json(show(&made, &user)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRole {
    role: String,
}

pub(super) async fn change(
    request: HttpRequest,
    path: Path<(String, String)>,
    payload: Payload,
    keys: Data<Keys>,
    limits: Data<BodyLimits>,
) -> Result<Json<Value>, Problem> {
    let (project, user_id) = path.into_inner();
    let id = ProjectId::new(project);
    let access = manager(&request, &id).await?;
    let asked: NewRole = read(&request, payload, **limits).await?;
    let role = valid_role(&asked.role)?;
    existing(&keys, &id).await?;
    let meta = keys.meta().by(access.actor());
    let changed = meta.members().set_role(&id, &user_id, role).await.map_err(problem)?;
    keys.0.people.forget_all();
    shown(&keys, &user_id, changed).await
}

pub(super) async fn remove(
    request: HttpRequest,
    path: Path<(String, String)>,
    keys: Data<Keys>,
) -> Result<Json<Value>, Problem> {
    let (project, user_id) = path.into_inner();
    let id = ProjectId::new(project);
    let access = manager(&request, &id).await?;
    existing(&keys, &id).await?;
    let meta = keys.meta().by(access.actor());
    let removed = meta.members().remove(&id, &user_id).await.map_err(problem)?;
    keys.0.people.forget_all();
    shown(&keys, &user_id, removed).await
}

async fn shown(keys: &Keys, user_id: &str, member: Option<Member>) -> Result<Json<Value>, Problem> {
    let user = keys.meta().users().find(user_id).await.map_err(problem)?;
    let both = member.zip(user).ok_or_else(|| not_found("member", user_id))?;
    Ok(Json(show(&both.0, &both.1)))
}

pub(super) async fn list_invitations(
    request: HttpRequest,
    path: Path<String>,
    keys: Data<Keys>,
) -> Result<Json<Value>, Problem> {
    let id = ProjectId::new(path.into_inner());
    manager(&request, &id).await?;
    existing(&keys, &id).await?;
    let found = keys.meta().invitations().list(&id, keys.0.config.members_max).await.map_err(problem)?;
    let shown: Vec<Value> = found.iter().map(show_invitation).collect();
    Ok(Json(json!({ "invitations": shown })))
}

/// Makes an invitation; its token is shown this once, and brought to the person by whoever made it.
pub(super) async fn invite(
    request: HttpRequest,
    path: Path<String>,
    payload: Payload,
    keys: Data<Keys>,
    limits: Data<BodyLimits>,
) -> Result<HttpResponse, Problem> {
    let id = ProjectId::new(path.into_inner());
    let access = manager(&request, &id).await?;
    let asked: NewMember = read(&request, payload, **limits).await?;
    let (email, role) = (valid_email(&asked.email)?, valid_role(&asked.role)?);
    if keys.0.config.registration == Registration::Closed {
        return Err(crate::auth::AuthError::RegistrationClosed.into());
    }
    existing(&keys, &id).await?;
    let meta = keys.meta().by(access.actor());
    let (made, token) = keys.0.people.invite(&meta, &id, &email, role).await?;
    let mut shown = show_invitation(&made);
    shown["invitation"] = json!(token.expose_secret());
    Ok(HttpResponse::Created().json(shown))
}

pub(super) async fn revoke_invitation(
    request: HttpRequest,
    path: Path<(String, String)>,
    keys: Data<Keys>,
) -> Result<Json<Value>, Problem> {
    let (project, invitation) = path.into_inner();
    let id = ProjectId::new(project);
    let access = manager(&request, &id).await?;
    existing(&keys, &id).await?;
    let meta = keys.meta().by(access.actor());
    let revoked = meta.invitations().revoke(&id, &invitation).await.map_err(problem)?;
    Ok(Json(show_invitation(&revoked.ok_or_else(|| not_found("open invitation", &invitation))?)))
}

fn show(member: &Member, user: &User) -> Value {
    json!({
        "user_id": member.user_id,
        "email": user.email,
        "name": user.name,
        "role": member.role,
        "created_at": member.created_at,
        "updated_at": member.updated_at,
    })
}

fn show_invitation(invitation: &Invitation) -> Value {
    json!({
        "id": invitation.id,
        "project_id": invitation.project_id,
        "email": invitation.email,
        "role": invitation.role,
        "expires_at": invitation.expires_at,
        "accepted_at": invitation.accepted_at,
        "revoked_at": invitation.revoked_at,
        "created_at": invitation.created_at,
        "updated_at": invitation.updated_at,
    })
}

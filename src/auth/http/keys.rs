//! Routes of API keys.

use actix_web::http::header;
use actix_web::web::{Data, Json, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::{valid_name, valid_scopes};
use super::{existing, manager, not_found, problem, read};
use crate::auth::{EnvironmentMismatch, KeySpec, Keys, NamedEnvironment, Permissions};
use crate::event::{EnvironmentId, ProjectId, Timestamp};
use crate::http::{BodyLimits, Problem};
use crate::meta::ApiKey;

pub(super) async fn list(
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
    #[serde(default)]
    rate_max: Option<u32>,
}

pub(super) async fn create(
    request: HttpRequest,
    path: Path<String>,
    payload: Payload,
    keys: Data<Keys>,
    limits: Data<BodyLimits>,
) -> Result<HttpResponse, Problem> {
    let id = ProjectId::new(path.into_inner());
    let access = manager(&request, &id).await?;
    let asked: NewKey = read(&request, payload, **limits).await?;
    let permissions = valid_scopes(&asked.scopes)?;
    if let Some(at) = asked.expires_at.filter(|at| *at <= keys.0.clock.now()) {
        let message =
            format!("expires_at is {at}, which has passed; leave it out for a key that does not expire");
        return Err(Problem::invalid("expires_at", message).with("given", at.to_string()));
    }
    if asked.rate_max == Some(0) {
        let message =
            "rate_max is 0, but must be 1 or more requests a second; leave it out for auth.key_rate_max";
        return Err(Problem::invalid("rate_max", message).with("given", 0));
    }
    existing(&keys, &id).await?;
    let environment = valid_environment(&keys, &id, asked.environment_id).await?;
    let spec = KeySpec {
        environment: &environment.id,
        name: asked.name.as_deref().map(valid_name).transpose()?.unwrap_or("API key"),
        permissions,
        expires_at: asked.expires_at,
        rate_max: asked.rate_max,
    };
    let made = keys.create(access.actor(), &id, &spec).await.map_err(problem)?;
    let shown = CreatedKey { key: ShownKey::of(&made.key), api_key: made.api_key.expose_secret() };
    // The one answer with a secret: no cache may keep it.
    Ok(HttpResponse::Created().insert_header((header::CACHE_CONTROL, "no-store")).json(shown))
}

pub(super) async fn revoke(
    request: HttpRequest,
    path: Path<(String, String)>,
    keys: Data<Keys>,
) -> Result<Json<Value>, Problem> {
    let (project, key_id) = path.into_inner();
    let id = ProjectId::new(project);
    let access = manager(&request, &id).await?;
    existing(&keys, &id).await?;
    let revoked = keys.revoke(access.actor(), &id, &key_id).await.map_err(problem)?;
    let revoked = revoked.ok_or_else(|| not_found("API key", &key_id))?;
    Ok(Json(json!(ShownKey::of(&revoked))))
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
        None => Err(EnvironmentMismatch::counted(given.as_str(), valid.into()).into()),
    }
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
    rate_max: Option<i64>,
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
            rate_max: key.rate_max,
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

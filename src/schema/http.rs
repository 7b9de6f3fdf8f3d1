//! `/api/schemas`: schemas of events, kept, changed and tried.

use std::time::Duration;

use actix_web::web::{Data, Path, Payload, ServiceConfig, resource};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Compatibility, Policy, Registry, check_definition};
use crate::auth::http::authorize;
use crate::auth::{Access, Permission};
use crate::http::{BodyLimits, ErrorCode, Problem, body, strict};
use crate::meta::{MetaError, SchemaRow, SchemaVersion};

/// Longest name of an event, in characters.
const NAME_CHARS_MAX: usize = 200;

/// The routes. They need `web::Data<Registry>`, `web::Data<Keys>` and `web::Data<BodyLimits>`.
pub fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/api/schemas").get(list).post(create))
        .service(resource("/api/schemas/{schema_id}").get(show).patch(change).delete(delete))
        .service(resource("/api/schemas/{schema_id}/versions").post(add_version))
        .service(resource("/api/schemas/{schema_id}/check").post(check));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    event: String,
    definition: Value,
    #[serde(default)]
    compatibility: Compatibility,
    #[serde(default)]
    policy: Policy,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    compatibility: Option<Compatibility>,
    policy: Option<Policy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Next {
    definition: Value,
}

fn shown((schema, versions): &(SchemaRow, Vec<SchemaVersion>)) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| {
            json!({
                "version": version.version,
                "definition": version.definition.0,
                "created_at": version.created_at,
                "created_by": version.created_by,
            })
        })
        .collect();
    json!({
        "id": schema.id,
        "event": schema.event_name,
        "compatibility": schema.compatibility,
        "policy": schema.policy,
        "versions": versions,
        "created_at": schema.created_at,
        "updated_at": schema.updated_at,
    })
}

fn problem(error: MetaError) -> Problem {
    match error {
        MetaError::Unavailable(_) | MetaError::Schema { .. } => {
            let message = "the metadata database does not answer now; try again after a moment";
            Problem::unavailable(message, Duration::from_secs(1)).because(error)
        }
        MetaError::Exists(_) => Problem::new(ErrorCode::AlreadyExists, error.to_string()),
        MetaError::Full { max, setting, .. } => Problem::new(ErrorCode::TooManyRequests, error.to_string())
            .with("max", max)
            .with("setting", setting),
        other => Problem::internal(other),
    }
}

fn definition_problem(message: String) -> Problem {
    Problem::invalid("definition", message)
}

fn bytes_max(registry: &Registry) -> usize {
    usize::try_from(registry.limits().definition_bytes_max.as_u64()).unwrap_or(usize::MAX)
}

/// Others learn of it within `schema.refresh`; this process now.
async fn changed(registry: &Registry) {
    if let Err(error) = registry.refresh().await {
        tracing::warn!(%error, "a change of schemas is not in force on this process yet");
    }
}

async fn existing(
    registry: &Registry,
    access: &Access,
    id: &str,
) -> Result<(SchemaRow, Vec<SchemaVersion>), Problem> {
    let found = registry.meta().schemas().find(&access.scope.project, id).await.map_err(problem)?;
    found.ok_or_else(|| not_found(id))
}

fn not_found(id: &str) -> Problem {
    let given: String = id.chars().take(200).collect();
    Problem::new(ErrorCode::NotFound, format!("there is no schema {given:?}")).with("given", given)
}

async fn list(request: HttpRequest, registry: Data<Registry>) -> Result<HttpResponse, Problem> {
    let access = authorize(&request, Permission::Query, true).await?;
    let found = registry.meta().schemas().list(&access.scope.project).await.map_err(problem)?;
    Ok(HttpResponse::Ok().json(json!({ "schemas": found.iter().map(shown).collect::<Vec<_>>() })))
}

async fn create(
    request: HttpRequest,
    payload: Payload,
    limits: Data<BodyLimits>,
    registry: Data<Registry>,
) -> Result<HttpResponse, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    let new: New = strict::json(&body::read(payload, &request, **limits).await?)?;
    let event = new.event.trim();
    if event.is_empty() || event.chars().count() > NAME_CHARS_MAX || event.contains('\0') {
        let message = format!("event must be a text of 1 to {NAME_CHARS_MAX} characters");
        return Err(Problem::invalid("event", message));
    }
    check_definition(&new.definition, bytes_max(&registry)).map_err(definition_problem)?;
    let rules = (new.compatibility.as_str(), new.policy.as_str());
    let by = Some(access.name().to_owned());
    let max = registry.limits().schemas_max;
    let meta = registry.meta().by(access.actor());
    let made = meta.schemas().create(&access.scope.project, event, rules, new.definition, by, max).await;
    let id = made.map_err(problem)?;
    changed(&registry).await;
    Ok(HttpResponse::Created().json(shown(&existing(&registry, &access, &id).await?)))
}

async fn show(
    request: HttpRequest,
    registry: Data<Registry>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = authorize(&request, Permission::Query, true).await?;
    Ok(HttpResponse::Ok().json(shown(&existing(&registry, &access, &id).await?)))
}

async fn change(
    request: HttpRequest,
    payload: Payload,
    limits: Data<BodyLimits>,
    registry: Data<Registry>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    let change: Change = strict::json(&body::read(payload, &request, **limits).await?)?;
    let (was, _) = existing(&registry, &access, &id).await?;
    let compatibility = change.compatibility.map_or(&*was.compatibility, |one| one.as_str());
    let policy = change.policy.map_or(&*was.policy, |one| one.as_str());
    let meta = registry.meta().by(access.actor());
    let schemas = meta.schemas();
    let done = schemas.change(&access.scope.project, &id, compatibility, policy).await.map_err(problem)?;
    if !done {
        return Err(not_found(&id));
    }
    changed(&registry).await;
    Ok(HttpResponse::Ok().json(shown(&existing(&registry, &access, &id).await?)))
}

async fn delete(
    request: HttpRequest,
    registry: Data<Registry>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    let meta = registry.meta().by(access.actor());
    if !meta.schemas().delete(&access.scope.project, &id).await.map_err(problem)? {
        return Err(not_found(&id));
    }
    changed(&registry).await;
    Ok(HttpResponse::Ok().json(json!({ "deleted": id.as_str() })))
}

/// Reads the next definition.
async fn next(
    request: &HttpRequest,
    payload: Payload,
    limits: BodyLimits,
    registry: &Registry,
) -> Result<Value, Problem> {
    let next: Next = strict::json(&body::read(payload, request, limits).await?)?;
    check_definition(&next.definition, bytes_max(registry)).map_err(definition_problem)?;
    Ok(next.definition)
}

/// Holds a definition against the newest version.
fn breaches(
    definition: &Value,
    (schema, versions): &(SchemaRow, Vec<SchemaVersion>),
) -> Result<Vec<String>, Problem> {
    let rule: Compatibility =
        serde_json::from_value(Value::from(schema.compatibility.as_str())).map_err(Problem::internal)?;
    Ok(match versions.last() {
        Some(latest) => rule.breaches(&latest.definition.0, definition),
        None => Vec::new(),
    })
}

async fn check(
    request: HttpRequest,
    payload: Payload,
    limits: Data<BodyLimits>,
    registry: Data<Registry>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = authorize(&request, Permission::Query, true).await?;
    let definition = next(&request, payload, **limits, &registry).await?;
    let was = existing(&registry, &access, &id).await?;
    let breaches = breaches(&definition, &was)?;
    Ok(HttpResponse::Ok().json(json!({ "compatible": breaches.is_empty(), "breaches": breaches })))
}

async fn add_version(
    request: HttpRequest,
    payload: Payload,
    limits: Data<BodyLimits>,
    registry: Data<Registry>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    let definition = next(&request, payload, **limits, &registry).await?;
    let was = existing(&registry, &access, &id).await?;
    let breaches = breaches(&definition, &was)?;
    if !breaches.is_empty() {
        let rule = &was.0.compatibility;
        let message = format!("this change is not compatible ({rule}): {}", breaches.join("; "));
        return Err(definition_problem(message)
            .with("compatibility", rule.as_str())
            .with("breaches", breaches));
    }
    let latest = was.1.last().map_or(0, |version| version.version);
    let max = registry.limits().versions_max;
    if was.1.len() as u64 >= max {
        let what = "versions of this schema";
        return Err(problem(MetaError::Full { what, max, setting: "schema.versions_max" }));
    }
    let by = Some(access.name().to_owned());
    let meta = registry.meta().by(access.actor());
    let schemas = meta.schemas();
    if !schemas.add_version(&access.scope.project, &id, latest, definition, by).await.map_err(problem)? {
        let message = "the schema was changed meanwhile: look at its newest version, and try again";
        return Err(Problem::new(ErrorCode::AlreadyExists, message));
    }
    changed(&registry).await;
    Ok(HttpResponse::Created().json(shown(&existing(&registry, &access, &id).await?)))
}

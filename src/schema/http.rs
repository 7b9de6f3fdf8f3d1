//! `/api/schemas`: schemas of events, kept, changed and tried.

use std::time::Duration;

use actix_web::web::{Data, Path, Payload, ServiceConfig, resource};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::registry::misfit;
use super::{Compatibility, Policy, Registry, check_definition, compile};
use crate::auth::http::authorize;
use crate::auth::{Access, Permission};
use crate::http::{BodyLimits, ErrorCode, Problem, body, strict};
use crate::meta::{MetaError, NewSchemaVersion, SchemaRow, SchemaVersion};
use crate::transform::{Invalid, Upcast, UpcastSpec};

/// Longest name of an event, in characters.
const NAME_CHARS_MAX: usize = 200;
/// Most samples of one check.
const SAMPLES_MAX: usize = 100;

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
    /// What properties of the version before become in it: as JSON, or as TOML.
    upcast: Option<Value>,
}

/// A version to be tried.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Try {
    definition: Value,
    upcast: Option<Value>,
    /// Properties of events of the newest version.
    #[serde(default)]
    samples: Vec<Box<RawValue>>,
}

/// A definition that will do, with its upcast as it is written and as it is applied.
struct Checked {
    definition: Value,
    upcast: Option<(Value, Upcast)>,
}

fn shown((schema, versions): &(SchemaRow, Vec<SchemaVersion>)) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| {
            json!({
                "version": version.version,
                "definition": version.definition.0,
                "upcast": version.upcast.as_ref().map(|upcast| &upcast.0),
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
        MetaError::Unavailable(_) | MetaError::Schema { .. } | MetaError::Missing(_) => {
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

/// Will these do as the next version?
fn checked(registry: &Registry, definition: Value, upcast: Option<Value>) -> Result<Checked, Problem> {
    check_definition(&definition, bytes_max(registry)).map_err(definition_problem)?;
    let upcast = match upcast {
        None => None,
        Some(given) => {
            let text = given.as_str().map_or_else(|| given.to_string(), str::to_owned);
            let spec = UpcastSpec::read(&text).map_err(upcast_problem)?;
            let upcast = spec.compile().map_err(upcast_problem)?;
            Some((serde_json::to_value(&spec).map_err(Problem::internal)?, upcast))
        }
    };
    Ok(Checked { definition, upcast })
}

fn upcast_problem(error: Invalid) -> Problem {
    let message = format!("upcast: {error}");
    Problem::invalid("upcast", message).with("given", error.given).with("valid", error.valid)
}

/// Holds a version against the newest one. An upcast takes care of events of that: it need not take them as they are.
fn breaches(
    next: &Checked,
    (schema, versions): &(SchemaRow, Vec<SchemaVersion>),
) -> Result<Vec<String>, Problem> {
    let rule: Compatibility =
        serde_json::from_value(Value::from(schema.compatibility.as_str())).map_err(Problem::internal)?;
    let rule = if next.upcast.is_some() { rule.with_upcast() } else { rule };
    Ok(match versions.last() {
        Some(latest) => rule.breaches(&latest.definition.0, &next.definition),
        None => Vec::new(),
    })
}

/// What a sample becomes, and what of it does not fit then.
fn tried(next: &Checked, validator: &jsonschema::Validator, sample: &RawValue, work_max: usize) -> Value {
    let upcast = match &next.upcast {
        Some((_, upcast)) => upcast.apply(sample.get(), work_max).map_err(|error| error.to_string()),
        None => Ok(sample.get().to_owned()),
    };
    let held = upcast.and_then(|text| {
        let properties: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        Ok((misfit(validator, &properties), RawValue::from_string(text).ok()))
    });
    match held {
        Ok((problem, properties)) => json!({ "properties": properties, "problem": problem }),
        Err(problem) => json!({ "properties": null, "problem": problem }),
    }
}

async fn check(
    request: HttpRequest,
    payload: Payload,
    limits: Data<BodyLimits>,
    registry: Data<Registry>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = authorize(&request, Permission::Query, true).await?;
    let given: Try = strict::json(&body::read(payload, &request, **limits).await?)?;
    if given.samples.len() > SAMPLES_MAX {
        let message = format!("samples may be {SAMPLES_MAX}, given {}", given.samples.len());
        return Err(Problem::invalid("samples", message));
    }
    let next = checked(&registry, given.definition, given.upcast)?;
    let validator = compile(&next.definition).map_err(definition_problem)?;
    let was = existing(&registry, &access, &id).await?;
    let breaches = breaches(&next, &was)?;
    let samples = given.samples.iter().map(|sample| tried(&next, &validator, sample, registry.work_max()));
    let samples: Vec<Value> = samples.collect();
    Ok(HttpResponse::Ok()
        .json(json!({ "compatible": breaches.is_empty(), "breaches": breaches, "samples": samples })))
}

async fn add_version(
    request: HttpRequest,
    payload: Payload,
    limits: Data<BodyLimits>,
    registry: Data<Registry>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = authorize(&request, Permission::Admin, true).await?;
    let given: Next = strict::json(&body::read(payload, &request, **limits).await?)?;
    let next = checked(&registry, given.definition, given.upcast)?;
    let was = existing(&registry, &access, &id).await?;
    let breaches = breaches(&next, &was)?;
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
    let next = NewSchemaVersion {
        definition: next.definition,
        upcast: next.upcast.map(|(written, _)| written),
        created_by: Some(access.name().to_owned()),
    };
    let meta = registry.meta().by(access.actor());
    let schemas = meta.schemas();
    if !schemas.add_version(&access.scope.project, &id, latest, next).await.map_err(problem)? {
        let message = "the schema was changed meanwhile: look at its newest version, and try again";
        return Err(Problem::new(ErrorCode::AlreadyExists, message));
    }
    changed(&registry).await;
    Ok(HttpResponse::Created().json(shown(&existing(&registry, &access, &id).await?)))
}

//! Routes of transforms: made, listed, changed (as another version), deleted, and tried on samples.

use std::time::Duration;

use actix_web::web::{Data, Path, Payload, ServiceConfig, resource};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::catalogue::{Chosen, DEFAULT_ID, RAW, Transforms};
use super::mapping::{Limits, Mapping, Outcome};
use super::spec::{Invalid, Spec};
use crate::auth::http::authorize;
use crate::auth::{Access, Permission};
use crate::event::Scope;
use crate::http::{BodyLimits, ErrorCode, Problem, body, strict};
use crate::meta::{MetaError, TransformVersion};

/// Most samples of one try.
const SAMPLES_MAX: usize = 100;
/// What stands for the id of a sample that has none.
const SAMPLE_ID: &str = "sample";
const NAME_CHARS_MAX: usize = 60;
/// What a client is told to wait when the database does not answer.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The routes. They need `web::Data` of [`Transforms`] and [`BodyLimits`].
pub fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/api/transforms").get(list).post(create))
        .service(resource("/api/transforms/test").post(test))
        .service(resource("/api/transforms/{transform_id}").get(show).put(change).delete(delete))
        .service(resource("/api/transforms/{transform_id}/versions").get(versions));
}

/// A transform to be made or changed: `spec` as JSON, or `toml` as text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: Option<String>,
    spec: Option<Value>,
    toml: Option<String>,
    environment_id: Option<String>,
}

/// A transform to be tried: one that is given, one that there is, or the one that raw events go through.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Try {
    spec: Option<Value>,
    toml: Option<String>,
    transform_id: Option<String>,
    version: Option<i64>,
    samples: Vec<Box<RawValue>>,
    environment_id: Option<String>,
}

async fn access(request: &HttpRequest, permission: Permission) -> Result<Access, Problem> {
    authorize(request, permission, true).await
}

fn check_environment(access: &Access, given: Option<&str>) -> Result<(), Problem> {
    match given.filter(|given| !given.is_empty()) {
        Some(environment) => Ok(access.check_environment(environment)?),
        None => Ok(()),
    }
}

/// The specification that a request gives, if it gives one.
fn given(spec: Option<Value>, toml: Option<&str>) -> Result<Option<(Spec, Mapping)>, Problem> {
    let spec = match (spec, toml) {
        (Some(_), Some(_)) => {
            return Err(Problem::invalid("toml", "spec and toml are both given: one says it all"));
        }
        (Some(spec), None) => Spec::read(&spec.to_string()),
        (None, Some(toml)) => Spec::read(toml),
        (None, None) => return Ok(None),
    };
    let spec = spec.map_err(invalid)?;
    let mapping = spec.compile().map_err(invalid)?;
    Ok(Some((spec, mapping)))
}

fn invalid(error: Invalid) -> Problem {
    let message = error.to_string();
    Problem::invalid(&error.field, message).with("given", error.given).with("valid", error.valid)
}

fn not_given() -> Problem {
    Problem::invalid("spec", "spec (JSON) or toml (a text) is required: the transform")
}

async fn create(
    request: HttpRequest,
    transforms: Data<Transforms>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let access = access(&request, Permission::Admin).await?;
    let wanted: Wanted = strict::json(&body::read(payload, &request, **limits).await?)?;
    check_environment(&access, wanted.environment_id.as_deref())?;
    let name = wanted.name.unwrap_or_else(|| RAW.to_owned());
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(fits) {
        let message = "name must be 1 to 60 of a-z, 0-9, _ and -; raw is the one that raw events go through";
        return Err(
            Problem::invalid("name", message).with("given", name.chars().take(100).collect::<String>())
        );
    }
    let (spec, _) = given(wanted.spec, wanted.toml.as_deref())?.ok_or_else(not_given)?;
    let spec = serde_json::to_value(&spec).map_err(Problem::internal)?;
    let (by, max) = (access.key_id.as_deref().map(str::to_owned), transforms.config.transforms_max);
    let made =
        transforms.meta.by(access.actor()).transforms().create(&access.scope, &name, spec, by, max).await;
    let Some(id) = made.map_err(meta_problem)? else {
        let message = format!("there is a transform {name:?}: change it instead");
        return Err(Problem::new(ErrorCode::AlreadyExists, message).with("given", name));
    };
    transforms.forget(&access.scope).await;
    tracing::info!(transform_id = id, name, "transform made");
    Ok(HttpResponse::Created().json(find(&transforms, &access.scope, &id).await?))
}

async fn change(
    request: HttpRequest,
    transforms: Data<Transforms>,
    limits: Data<BodyLimits>,
    id: Path<String>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let access = access(&request, Permission::Admin).await?;
    let wanted: Wanted = strict::json(&body::read(payload, &request, **limits).await?)?;
    check_environment(&access, wanted.environment_id.as_deref())?;
    if wanted.name.is_some() {
        return Err(Problem::invalid("name", "a transform keeps its name: make another one"));
    }
    let (spec, _) = given(wanted.spec, wanted.toml.as_deref())?.ok_or_else(not_given)?;
    let spec = serde_json::to_value(&spec).map_err(Problem::internal)?;
    let (by, max) = (access.key_id.as_deref().map(str::to_owned), transforms.config.versions_max);
    let added =
        transforms.meta.by(access.actor()).transforms().add_version(&access.scope, &id, spec, by, max).await;
    let version = added.map_err(meta_problem)?.ok_or_else(|| not_found(&id))?;
    transforms.forget(&access.scope).await;
    tracing::info!(transform_id = %id, version, "transform changed");
    Ok(HttpResponse::Ok().json(find(&transforms, &access.scope, &id).await?))
}

async fn list(request: HttpRequest, transforms: Data<Transforms>) -> Result<HttpResponse, Problem> {
    let access = access(&request, Permission::Query).await?;
    let found = transforms.meta.transforms().list(&access.scope).await.map_err(meta_problem)?;
    let mut items: Vec<Value> = found
        .iter()
        .map(|(transform, newest)| {
            json!({
                "id": transform.id,
                "name": transform.name,
                "version": newest.as_ref().map(|version| version.version),
                "created_at": transform.created_at,
                "updated_at": transform.updated_at,
            })
        })
        .collect();
    if found.iter().all(|(transform, _)| transform.name != RAW) {
        items.push(json!({
            "id": DEFAULT_ID, "name": RAW, "version": 0, "created_at": null, "updated_at": null,
        }));
    }
    Ok(HttpResponse::Ok().json(json!({ "items": items })))
}

async fn show(
    request: HttpRequest,
    transforms: Data<Transforms>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = access(&request, Permission::Query).await?;
    Ok(HttpResponse::Ok().json(find(&transforms, &access.scope, &id).await?))
}

async fn find(transforms: &Transforms, scope: &Scope, id: &str) -> Result<Value, Problem> {
    let row = transforms.meta.transforms().find(scope, id).await.map_err(meta_problem)?;
    let chosen = transforms.find(scope, id, None).await.map_err(meta_problem)?;
    let chosen = chosen.ok_or_else(|| not_found(id))?;
    let name = row.as_ref().map_or(RAW, |row| row.name.as_str());
    let reasons: Vec<&str> = chosen.mapping.reasons().collect();
    Ok(json!({
        "id": chosen.id,
        "name": name,
        "version": chosen.version,
        "spec": chosen.spec,
        "reasons": reasons,
        "created_at": row.as_ref().map(|row| row.created_at),
        "updated_at": row.as_ref().map(|row| row.updated_at),
    }))
}

async fn versions(
    request: HttpRequest,
    transforms: Data<Transforms>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = access(&request, Permission::Query).await?;
    let found = transforms.meta.transforms().versions(&access.scope, &id).await.map_err(meta_problem)?;
    if found.is_empty() {
        return Err(not_found(&id));
    }
    let items: Vec<Value> = found.iter().map(shown).collect();
    Ok(HttpResponse::Ok().json(json!({ "items": items })))
}

fn shown(version: &TransformVersion) -> Value {
    json!({
        "version": version.version,
        "spec": version.spec.0,
        "created_at": version.created_at,
        "created_by": version.created_by,
    })
}

async fn delete(
    request: HttpRequest,
    transforms: Data<Transforms>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = access(&request, Permission::Admin).await?;
    let meta = transforms.meta.by(access.actor());
    if !meta.transforms().delete(&access.scope, &id).await.map_err(meta_problem)? {
        return Err(not_found(&id));
    }
    transforms.forget(&access.scope).await;
    tracing::info!(transform_id = %id, "transform deleted");
    Ok(HttpResponse::Ok().json(json!({ "deleted": *id })))
}

async fn test(
    request: HttpRequest,
    transforms: Data<Transforms>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let access = access(&request, Permission::Query).await?;
    let tried: Try = strict::json(&body::read(payload, &request, **limits).await?)?;
    check_environment(&access, tried.environment_id.as_deref())?;
    if tried.samples.is_empty() || tried.samples.len() > SAMPLES_MAX {
        let message =
            format!("samples has {} payloads, but must have 1 to {SAMPLES_MAX}", tried.samples.len());
        return Err(Problem::invalid("samples", message).with("max", SAMPLES_MAX));
    }
    let mapping = match (given(tried.spec, tried.toml.as_deref())?, &tried.transform_id) {
        (Some((_, mapping)), _) => mapping,
        (None, Some(id)) => {
            let found = transforms.find(&access.scope, id, tried.version).await.map_err(meta_problem)?;
            found.map(|chosen: Chosen| chosen.mapping).ok_or_else(|| not_found(id))?
        }
        (None, None) => transforms.raw_now(&access.scope).await.map_err(meta_problem)?.mapping,
    };
    let bounds = transforms.limits();
    let samples: Vec<String> = tried.samples.iter().map(|sample| sample.get().to_owned()).collect();
    let tries = tokio::task::spawn_blocking(move || results(&mapping, &samples, bounds));
    Ok(HttpResponse::Ok().json(tries.await.map_err(Problem::internal)?))
}

/// What a transform makes of each of these payloads, and how many came to which end.
pub fn results(mapping: &Mapping, samples: &[String], limits: Limits) -> Value {
    let (mut transformed, mut dropped, mut failed) = (0_u64, 0_u64, 0_u64);
    let results: Vec<Value> = samples
        .iter()
        .map(|sample| match mapping.apply(sample, SAMPLE_ID, limits) {
            Ok(Outcome::Events(events)) => {
                transformed += 1;
                json!({ "outcome": "events", "events": events })
            }
            Ok(Outcome::Dropped(reason)) => {
                dropped += 1;
                json!({ "outcome": "dropped", "reason": &*reason })
            }
            Err(error) => {
                failed += 1;
                json!({ "outcome": "error", "error": error.to_string() })
            }
        })
        .collect();
    json!({ "results": results, "transformed": transformed, "dropped": dropped, "errors": failed })
}

fn not_found(given: &str) -> Problem {
    let given: String = given.chars().take(200).collect();
    Problem::new(ErrorCode::NotFound, format!("there is no transform {given:?}")).with("given", given)
}

/// What the metadata database's error means to whoever asked.
pub fn meta_problem(error: MetaError) -> Problem {
    match error {
        // Missing: the row of the project, which is there once the database has been brought up.
        MetaError::Unavailable(_) | MetaError::Missing(_) => {
            Problem::unavailable("the metadata database does not answer; try again", RETRY_AFTER)
                .because(error)
        }
        MetaError::Full { .. } => Problem::new(ErrorCode::TooManyRequests, error.to_string()),
        other => Problem::internal(other),
    }
}

//! Features: made, listed, changed and deleted.

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::meters::Page;
use super::{allowed, check_environment, no_content, not_found, read};
use crate::auth::{Access, Permission};
use crate::http::{BodyLimits, Problem};
use crate::meta::{Feature, NewFeature};
use crate::metering::meter::{TEXT_CHARACTERS_MAX, check_text};
use crate::metering::{Metering, meta_problem};

/// Bytes of a feature's metadata, as JSON.
const METADATA_BYTES_MAX: usize = 16 << 10;

/// What kind of thing a feature is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    #[default]
    Metered,
    Boolean,
    Static,
}

/// A feature to be made, or (with what is absent staying) as it shall be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    name: Option<String>,
    lookup_key: Option<String>,
    #[serde(rename = "type")]
    kind: Option<Kind>,
    meter_id: Option<String>,
    unit_singular: Option<String>,
    unit_plural: Option<String>,
    description: Option<String>,
    metadata: Option<Map<String, Value>>,
    environment_id: Option<String>,
}

fn shown(feature: &Feature) -> Value {
    let of = |name: &str| feature.body.0.get(name).cloned().unwrap_or_default();
    json!({
        "id": feature.id,
        "name": feature.name,
        "lookup_key": feature.lookup_key,
        "type": of("type"),
        "meter_id": feature.meter_id.clone().unwrap_or_default(),
        "unit_singular": of("unit_singular"),
        "unit_plural": of("unit_plural"),
        "description": of("description"),
        "metadata": of("metadata"),
        "tenant_id": feature.project_id,
        "environment_id": feature.environment_id,
        "status": feature.status,
        "created_at": feature.created_at,
        "updated_at": feature.updated_at,
    })
}

/// Checks what is given; `was`: the feature as it is.
async fn checked(
    metering: &Metering,
    access: &Access,
    given: Given,
    was: Option<&Feature>,
) -> Result<NewFeature, Problem> {
    check_environment(access, given.environment_id.as_deref())?;
    let kept = |name: &str| was.and_then(|was| was.body.0.get(name)).cloned();
    let name = given.name.or_else(|| was.map(|was| was.name.clone())).unwrap_or_default();
    check_text("name", &name)?;
    // A name makes a key as clients of FlexPrice expect it.
    let key =
        given.lookup_key.filter(|key| !key.is_empty()).or_else(|| was.map(|was| was.lookup_key.clone()));
    let key = key.unwrap_or_else(|| name.to_lowercase().replace(' ', "_"));
    check_text("lookup_key", &key)?;
    let kind = match given.kind {
        Some(kind) => json!(kind),
        None => kept("type").unwrap_or_else(|| json!(Kind::default())),
    };
    let meter_id = match given.meter_id {
        Some(id) => Some(id).filter(|id| !id.is_empty()),
        None => was.and_then(|was| was.meter_id.clone()),
    };
    if kind == json!(Kind::Metered) {
        let Some(id) = &meter_id else {
            return Err(Problem::invalid("meter_id", "meter_id is required for a metered feature"));
        };
        let found = metering.catalogue().find(&access.scope, id).await.map_err(meta_problem)?;
        if found.is_none() {
            return Err(
                Problem::invalid("meter_id", format!("there is no meter {id:?}")).with("given", id.as_str())
            );
        }
    }
    let mut body = json!({ "type": kind });
    for (field, value) in [
        ("unit_singular", given.unit_singular),
        ("unit_plural", given.unit_plural),
        ("description", given.description),
    ] {
        if value.as_ref().is_some_and(|value| value.chars().count() > TEXT_CHARACTERS_MAX) {
            let message = format!("{field} may have {TEXT_CHARACTERS_MAX} characters");
            return Err(Problem::invalid(field, message).with("max", TEXT_CHARACTERS_MAX));
        }
        body[field] = value.map(Value::from).or_else(|| kept(field)).unwrap_or_else(|| "".into());
    }
    let metadata = given.metadata.map(Value::from).or_else(|| kept("metadata")).unwrap_or_else(|| json!({}));
    if metadata.to_string().len() > METADATA_BYTES_MAX {
        let message = format!("metadata may have {METADATA_BYTES_MAX} bytes of JSON");
        return Err(Problem::invalid("metadata", message).with("max", METADATA_BYTES_MAX));
    }
    body["metadata"] = metadata;
    Ok(NewFeature { lookup_key: key, name, meter_id, body })
}

pub(super) async fn create(
    request: HttpRequest,
    metering: Data<Metering>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &metering, Permission::Admin).await?;
    let new = checked(&metering, &access, read(&request, payload, **limits).await?, None).await?;
    let made = metering.meta.features().create(&access.scope, new, metering.config.features_max).await;
    Ok(HttpResponse::Created().json(shown(&made.map_err(meta_problem)?)))
}

pub(super) async fn list(request: HttpRequest, metering: Data<Metering>) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &metering, Permission::Query).await?;
    let (offset, limit) = Page::parse(request.query_string())?;
    let (found, total) =
        metering.meta.features().list(&access.scope, offset, limit).await.map_err(meta_problem)?;
    let items: Vec<Value> = found.iter().map(shown).collect();
    let pagination = json!({ "total": total, "limit": limit, "offset": offset });
    Ok(HttpResponse::Ok().json(json!({ "items": items, "pagination": pagination })))
}

async fn existing(metering: &Metering, access: &Access, id: &str) -> Result<Feature, Problem> {
    let found = metering.meta.features().find(&access.scope, id).await.map_err(meta_problem)?;
    found.ok_or_else(|| not_found("feature", id))
}

pub(super) async fn show(
    request: HttpRequest,
    metering: Data<Metering>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &metering, Permission::Query).await?;
    Ok(HttpResponse::Ok().json(shown(&existing(&metering, &access, &id).await?)))
}

pub(super) async fn update(
    request: HttpRequest,
    metering: Data<Metering>,
    limits: Data<BodyLimits>,
    id: Path<String>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &metering, Permission::Admin).await?;
    let was = existing(&metering, &access, &id).await?;
    let new = checked(&metering, &access, read(&request, payload, **limits).await?, Some(&was)).await?;
    if !metering.meta.features().update(&access.scope, &was.id, new).await.map_err(meta_problem)? {
        return Err(not_found("feature", &id));
    }
    Ok(HttpResponse::Ok().json(shown(&existing(&metering, &access, &was.id).await?)))
}

pub(super) async fn delete(
    request: HttpRequest,
    metering: Data<Metering>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &metering, Permission::Admin).await?;
    let was = existing(&metering, &access, &id).await?;
    metering.meta.features().delete(&access.scope, &was.id).await.map_err(meta_problem)?;
    Ok(no_content())
}

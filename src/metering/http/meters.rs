//! Meters: made, listed, changed (as another version) and archived.

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{allowed, check_environment, no_content, not_found, read};
use crate::auth::{Access, Permission};
use crate::event::Timestamp;
use crate::http::{BodyLimits, Problem, strict};
use crate::job::{self, Jobs};
use crate::meta::{self, ARCHIVED, MeterVersion, NewVersion};
use crate::metering::meter::{AggregationSpec, Definition, MeterFilter, ResetUsage, check_text};
use crate::metering::request::time;
use crate::metering::{Metering, meta_problem};

/// Meters or features of a page when the request does not say, and at most.
const PAGE: u64 = 50;
const PAGE_MAX: u64 = 500;

/// A page that is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    limit: Option<u64>,
    offset: Option<u64>,
    /// Read with the key.
    #[expect(dead_code, reason = "named here so that it is no unknown field")]
    environment_id: Option<String>,
}

impl Page {
    /// Offset and limit.
    pub(super) fn parse(query: &str) -> Result<(u64, u64), Problem> {
        let page: Self = strict::query_string(query)?;
        let limit = page.limit.unwrap_or(PAGE);
        if !(1..=PAGE_MAX).contains(&limit) {
            let message = format!("limit is {limit}, but must be from 1 to {PAGE_MAX}");
            return Err(Problem::invalid("limit", message).with("given", limit).with("max", PAGE_MAX));
        }
        Ok((page.offset.unwrap_or(0), limit))
    }
}

/// A meter to be made.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewMeter {
    name: String,
    event_name: String,
    aggregation: AggregationSpec,
    #[serde(default)]
    filters: Vec<MeterFilter>,
    #[serde(default)]
    reset_usage: ResetUsage,
    #[serde(default)]
    unit: String,
    environment_id: Option<String>,
}

/// A meter as it shall be; what is absent stays. The aggregation's type never changes: make another meter.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    name: Option<String>,
    event_name: Option<String>,
    aggregation: Option<AggregationSpec>,
    filters: Option<Vec<MeterFilter>>,
    reset_usage: Option<ResetUsage>,
    unit: Option<String>,
    /// The change measures events from this moment on; now when absent.
    effective_from: Option<String>,
    environment_id: Option<String>,
}

#[derive(Serialize)]
struct ShownVersion {
    version: i64,
    effective_from: Timestamp,
    created_at: Timestamp,
    created_by: Option<String>,
    definition: Value,
}

fn shown(meter: &meta::Meter, versions: &[MeterVersion]) -> Value {
    let newest = versions.iter().max_by_key(|version| version.version);
    let of =
        |name: &str| newest.and_then(|version| version.definition.0.get(name)).cloned().unwrap_or_default();
    json!({
        "id": meter.id,
        "name": meter.name,
        "tenant_id": meter.project_id,
        "environment_id": meter.environment_id,
        "event_name": of("event_name"),
        "aggregation": of("aggregation"),
        "filters": of("filters"),
        "reset_usage": of("reset_usage"),
        "unit": of("unit"),
        "version": newest.map(|version| version.version),
        "effective_from": newest.map(|version| version.effective_from),
        "status": meter.status,
        "created_at": meter.created_at,
        "updated_at": meter.updated_at,
    })
}

pub(super) async fn create(
    request: HttpRequest,
    metering: Data<Metering>,
    jobs: Data<Jobs>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &metering, Permission::Admin).await?;
    let new: NewMeter = read(&request, payload, **limits).await?;
    check_environment(&access, new.environment_id.as_deref())?;
    check_text("name", &new.name)?;
    let NewMeter { name, event_name, aggregation, filters, reset_usage, unit, .. } = new;
    let definition = Definition { event_name, aggregation, filters, reset_usage, unit };
    definition.measure()?;
    // The first version measures all of the past.
    let version = version(&definition, Timestamp::EPOCH, &access)?;
    let max = metering.config.meters_max;
    let made = metering.meta.meters().create(&access.scope, &name, version, max).await;
    let id = made.map_err(meta_problem)?;
    metering.catalogue().forget(&access.scope).await;
    tracing::info!(meter_id = id, "meter made");
    let job = metering.queue_rebuild(&jobs, &access.scope, &id, Timestamp::EPOCH).await;
    let mut body = find(&metering, &access, &id).await?;
    body["rebuild_job_id"] = json!(job.map_err(job::http::problem)?);
    Ok(HttpResponse::Created().json(body))
}

fn version(
    definition: &Definition,
    effective_from: Timestamp,
    access: &Access,
) -> Result<NewVersion, Problem> {
    Ok(NewVersion {
        definition: serde_json::to_value(definition).map_err(Problem::internal)?,
        effective_from,
        created_by: access.key_id.as_deref().map(str::to_owned),
    })
}

async fn find(metering: &Metering, access: &Access, id: &str) -> Result<Value, Problem> {
    let found = metering.meta.meters().find(&access.scope, id).await.map_err(meta_problem)?;
    found.map(|(meter, versions)| shown(&meter, &versions)).ok_or_else(|| not_found("meter", id))
}

pub(super) async fn list(request: HttpRequest, metering: Data<Metering>) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &metering, Permission::Query).await?;
    let (offset, limit) = Page::parse(request.query_string())?;
    let (meters, total) =
        metering.meta.meters().list(&access.scope, offset, limit).await.map_err(meta_problem)?;
    let items: Vec<Value> = meters.iter().map(|(meter, versions)| shown(meter, versions)).collect();
    let pagination = json!({ "total": total, "limit": limit, "offset": offset });
    Ok(HttpResponse::Ok().json(json!({ "items": items, "pagination": pagination })))
}

pub(super) async fn show(
    request: HttpRequest,
    metering: Data<Metering>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &metering, Permission::Query).await?;
    Ok(HttpResponse::Ok().json(find(&metering, &access, &id).await?))
}

pub(super) async fn versions(
    request: HttpRequest,
    metering: Data<Metering>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &metering, Permission::Query).await?;
    let found = metering.meta.meters().find(&access.scope, &id).await.map_err(meta_problem)?;
    let (_, versions) = found.ok_or_else(|| not_found("meter", &id))?;
    let items: Vec<ShownVersion> = versions
        .into_iter()
        .map(|version| ShownVersion {
            version: version.version,
            effective_from: version.effective_from,
            created_at: version.created_at,
            created_by: version.created_by,
            definition: version.definition.0,
        })
        .collect();
    Ok(HttpResponse::Ok().json(json!({ "items": items })))
}

pub(super) async fn update(
    request: HttpRequest,
    metering: Data<Metering>,
    jobs: Data<Jobs>,
    limits: Data<BodyLimits>,
    id: Path<String>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &metering, Permission::Admin).await?;
    let change: Change = read(&request, payload, **limits).await?;
    check_environment(&access, change.environment_id.as_deref())?;
    let found = metering.meta.meters().find(&access.scope, &id).await.map_err(meta_problem)?;
    let (meter, versions) = found.ok_or_else(|| not_found("meter", &id))?;
    let newest = versions.iter().max_by_key(|version| version.version);
    let was = newest.map(|version| version.definition.0.clone()).unwrap_or_default();
    let was: Definition = serde_json::from_value(was).map_err(Problem::internal)?;
    let aggregation = change.aggregation.unwrap_or_else(|| was.aggregation.clone());
    if aggregation.kind != was.aggregation.kind {
        let message = format!(
            "aggregation.type is {} and stays so: make another meter for {}",
            was.aggregation.kind.as_str(),
            aggregation.kind.as_str()
        );
        return Err(Problem::invalid("aggregation.type", message));
    }
    let definition = Definition {
        event_name: change.event_name.unwrap_or(was.event_name),
        aggregation,
        filters: change.filters.unwrap_or(was.filters),
        reset_usage: change.reset_usage.unwrap_or(was.reset_usage),
        unit: change.unit.unwrap_or(was.unit),
    };
    definition.measure()?;
    let name = change.name.unwrap_or(meter.name);
    check_text("name", &name)?;
    let from = time("effective_from", change.effective_from.as_deref())?.unwrap_or_else(|| metering.now());
    let version = version(&definition, from, &access)?;
    let max = metering.config.versions_max;
    let added = metering.meta.meters().add_version(&access.scope, &id, &name, version, max).await;
    if !added.map_err(meta_problem)? {
        return Err(not_found("meter", &id));
    }
    metering.catalogue().forget(&access.scope).await;
    tracing::info!(meter_id = %id, effective_from = %from, "meter changed");
    // What of the past changes is said by the job; a change from now on changes nothing but what came in between.
    let job = metering.queue_rebuild(&jobs, &access.scope, &id, from).await;
    let mut body = find(&metering, &access, &id).await?;
    body["rebuild_job_id"] = json!(job.map_err(job::http::problem)?);
    Ok(HttpResponse::Ok().json(body))
}

pub(super) async fn archive(
    request: HttpRequest,
    metering: Data<Metering>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &metering, Permission::Admin).await?;
    let archived =
        metering.meta.meters().set_status(&access.scope, &id, ARCHIVED).await.map_err(meta_problem)?;
    if !archived {
        return Err(not_found("meter", &id));
    }
    metering.catalogue().forget(&access.scope).await;
    tracing::info!(meter_id = %id, "meter archived");
    Ok(no_content())
}

//! Routes of rules and of single conversions.

use std::time::Duration;

use actix_web::web::{Data, Path, Payload, ServiceConfig, resource};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Attribution;
use super::rule::{Definition, Version};
use super::rules::{KIND, Kept};
use crate::auth::http::authorize;
use crate::auth::{Access, Permission};
use crate::event::Timestamp;
use crate::http::{BodyLimits, ErrorCode, Problem, body, cursor, strict};
use crate::job::{self, Jobs};
use crate::meta::{Document, MetaError};
use crate::store::{Row, RowCells, Sql, StoreError};

/// Longest name of a rule, in characters.
const NAME_CHARS_MAX: usize = 200;
/// Conversions of a page when the request does not say.
const PAGE: usize = 100;
/// What a client is told to wait when a backend does not answer.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Times a change is tried again that another one overtook.
const TRIES: usize = 5;

/// The routes. They need `web::Data<Attribution>`, `web::Data<Jobs>`, `web::Data<Keys>` and `web::Data<BodyLimits>`.
pub fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/api/attribution/rules").get(list).post(create))
        .service(resource("/api/attribution/rules/{rule_id}").get(show).patch(change).delete(delete))
        .service(resource("/api/attribution/rules/{rule_id}/versions").get(versions))
        .service(resource("/api/attribution/rules/{rule_id}/conversions").get(list_conversions))
        .service(resource("/api/attribution/rules/{rule_id}/recompute").post(recompute));
}

/// A rule to be made.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRule {
    name: String,
    sources: Value,
    target: Value,
    join: Value,
    look_back: Value,
    model: Value,
    #[serde(default)]
    dimension: Value,
    #[serde(default)]
    value: Value,
    environment_id: Option<String>,
}

/// A rule as it shall be; what is absent stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    name: Option<String>,
    sources: Option<Value>,
    target: Option<Value>,
    join: Option<Value>,
    look_back: Option<Value>,
    model: Option<Value>,
    #[serde(default, deserialize_with = "given")]
    dimension: Option<Value>,
    #[serde(default, deserialize_with = "given")]
    value: Option<Value>,
    environment_id: Option<String>,
}

/// `null` is a value here: it takes the property away.
fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Which target events are to be computed anew.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    from: Timestamp,
    /// Now when absent.
    to: Option<Timestamp>,
    environment_id: Option<String>,
}

async fn readable(request: &HttpRequest, attribution: &Attribution) -> Result<Access, Problem> {
    authorize(request, Permission::Query, attribution.require_api_key).await
}

async fn writable(request: &HttpRequest) -> Result<Access, Problem> {
    authorize(request, Permission::Admin, true).await
}

async fn list(request: HttpRequest, attribution: Data<Attribution>) -> Result<HttpResponse, Problem> {
    let access = readable(&request, &attribution).await?;
    let documents = attribution.meta.documents(KIND).list(&access.scope).await.map_err(meta_problem)?;
    let rules: Result<Vec<Value>, Problem> = documents.iter().map(shown).collect();
    Ok(HttpResponse::Ok().json(json!({ "rules": rules? })))
}

async fn create(
    request: HttpRequest,
    attribution: Data<Attribution>,
    jobs: Data<Jobs>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let access = writable(&request).await?;
    let new: NewRule = strict::json(&body::read(payload, &request, **limits).await?)?;
    if let Some(environment) = &new.environment_id {
        access.check_environment(environment)?;
    }
    check_name(&new.name)?;
    let definition = json!({
        "sources": new.sources, "target": new.target, "join": new.join, "look_back": new.look_back,
        "model": new.model, "dimension": new.dimension, "value": new.value,
    });
    let definition = read_definition(&attribution, &definition)?;
    let kept = Kept { versions: vec![version(&attribution, &access, 1, definition)] };
    let meta = attribution.meta.by(access.actor());
    let documents = meta.documents(KIND);
    let made =
        documents.create(&access.scope, &new.name, kept_body(&kept)?, attribution.config.rules_max).await;
    let made = made.map_err(meta_problem)?;
    attribution.rules.forget(&access.scope).await;
    tracing::info!(rule_id = made.id, by = access.name(), "attribution rule made");
    let mut answer = shown(&made)?;
    answer["recompute_job_id"] = json!(backfill(&attribution, &jobs, &access, &made.id).await);
    Ok(HttpResponse::Created().json(answer))
}

async fn show(
    request: HttpRequest,
    attribution: Data<Attribution>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = readable(&request, &attribution).await?;
    Ok(HttpResponse::Ok().json(shown(&find(&attribution, &access, &id).await?)?))
}

async fn versions(
    request: HttpRequest,
    attribution: Data<Attribution>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = readable(&request, &attribution).await?;
    let kept = Kept::of(&find(&attribution, &access, &id).await?).map_err(meta_problem)?;
    Ok(HttpResponse::Ok().json(json!({ "versions": kept.versions })))
}

async fn change(
    request: HttpRequest,
    attribution: Data<Attribution>,
    jobs: Data<Jobs>,
    id: Path<String>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let access = writable(&request).await?;
    let change: Change = strict::json(&body::read(payload, &request, **limits).await?)?;
    if let Some(environment) = &change.environment_id {
        access.check_environment(environment)?;
    }
    for _ in 0..TRIES {
        let document = find(&attribution, &access, &id).await?;
        let (name, kept, is_new) = changed(&attribution, &access, &document, &change)?;
        let meta = attribution.meta.by(access.actor());
        let documents = meta.documents(KIND);
        let done = documents.change(&access.scope, &document, &name, kept_body(&kept)?).await;
        if !done.map_err(meta_problem)? {
            continue;
        }
        attribution.rules.forget(&access.scope).await;
        tracing::info!(rule_id = *id, by = access.name(), "attribution rule changed");
        let mut answer = shown(&find(&attribution, &access, &id).await?)?;
        let job = if is_new { backfill(&attribution, &jobs, &access, &id).await } else { None };
        answer["recompute_job_id"] = json!(job);
        return Ok(HttpResponse::Ok().json(answer));
    }
    Err(Problem::unavailable("the rule is changed by others all the time; try again", RETRY_AFTER))
}

/// The rule's name and versions after a change, and whether there is another version.
fn changed(
    attribution: &Attribution,
    access: &Access,
    document: &Document,
    change: &Change,
) -> Result<(String, Kept, bool), Problem> {
    let mut kept = Kept::of(document).map_err(meta_problem)?;
    let name = change.name.clone().unwrap_or_else(|| document.name.clone());
    check_name(&name)?;
    let Some(newest) = kept.versions.last().cloned() else {
        return Err(Problem::internal(anyhow::anyhow!("a rule without a version: {}", document.id)));
    };
    let mut definition = serde_json::to_value(&newest.definition).map_err(Problem::internal)?;
    for (field, given) in [
        ("sources", &change.sources),
        ("target", &change.target),
        ("join", &change.join),
        ("look_back", &change.look_back),
        ("model", &change.model),
        ("dimension", &change.dimension),
        ("value", &change.value),
    ] {
        if let Some(given) = given {
            definition[field] = given.clone();
        }
    }
    let definition = read_definition(attribution, &definition)?;
    let is_new = definition != newest.definition;
    if is_new {
        let max = attribution.config.versions_max;
        if kept.versions.len() >= max {
            let message =
                format!("a rule has at most {max} versions (attribution.versions_max): make another");
            return Err(Problem::new(ErrorCode::TooManyRequests, message)
                .with("max", max)
                .with("setting", "attribution.versions_max"));
        }
        kept.versions.push(version(attribution, access, newest.version + 1, definition));
    }
    Ok((name, kept, is_new))
}

async fn delete(
    request: HttpRequest,
    attribution: Data<Attribution>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = writable(&request).await?;
    let meta = attribution.meta.by(access.actor());
    let deleted = meta.documents(KIND).delete(&access.scope, &id).await.map_err(meta_problem)?;
    if !deleted {
        return Err(not_found(&id));
    }
    attribution.rules.forget(&access.scope).await;
    tracing::info!(rule_id = *id, by = access.name(), "attribution rule deleted");
    Ok(HttpResponse::NoContent().finish())
}

async fn recompute(
    request: HttpRequest,
    attribution: Data<Attribution>,
    jobs: Data<Jobs>,
    id: Path<String>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let access = writable(&request).await?;
    let range: Range = strict::json(&body::read(payload, &request, **limits).await?)?;
    if let Some(environment) = &range.environment_id {
        access.check_environment(environment)?;
    }
    find(&attribution, &access, &id).await?;
    let to = range.to.unwrap_or_else(|| attribution.now());
    if range.from > to {
        let message = format!("the range is backwards: from is {}, to is {to}", range.from);
        return Err(Problem::invalid("from", message).with("given", range.from.to_string()));
    }
    let queued = attribution.queue(&jobs, &access.scope, &id, (range.from, to)).await;
    let job_id = queued.map_err(job::http::problem)?;
    Ok(HttpResponse::Accepted().json(json!({ "job_id": job_id, "rule_id": *id })))
}

/// Queues what a new definition changes of the past; none: it could not be queued, which the log says.
async fn backfill(attribution: &Attribution, jobs: &Jobs, access: &Access, id: &str) -> Option<String> {
    let now = attribution.now();
    // Events may be dated ahead of the clock (`capture.future_max`).
    let range = (now.minus(attribution.config.backfill), now.plus(Duration::from_secs(2 * 86_400)));
    match attribution.queue(jobs, &access.scope, id, range).await {
        Ok(job_id) => Some(job_id),
        Err(error) => {
            tracing::warn!(rule_id = id, %error, "the past of a rule is not computed: ask for it by its route");
            None
        }
    }
}

/// What a page of conversions begins behind.
#[derive(Serialize, Deserialize)]
struct Place {
    at: i64,
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    limit: Option<usize>,
    cursor: Option<String>,
    /// Read with the key.
    #[expect(dead_code, reason = "named here so that it is no unknown field")]
    environment_id: Option<String>,
}

/// A conversion as it stands in the table.
#[derive(Serialize)]
struct Conversion {
    target_event_id: String,
    target_at: Timestamp,
    distinct_id: String,
    join_key: String,
    value: Option<f64>,
    rule_version: u32,
    touches: u32,
    credited: Vec<Credited>,
}

#[derive(Serialize)]
struct Credited {
    event_id: String,
    event: String,
    at: Timestamp,
    dimension: String,
    credit: f64,
}

impl Row for Conversion {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        let (target_event_id, target_at) = (cells.next()?, cells.next()?);
        let (distinct_id, join_key) = (cells.next()?, cells.next()?);
        let (value, rule_version, touches) = (cells.next()?, cells.next()?, cells.next()?);
        let (ids, events): (Vec<String>, Vec<String>) = (cells.next()?, cells.next()?);
        let (times, dimensions): (Vec<i64>, Vec<String>) = (cells.next()?, cells.next()?);
        let credits: Vec<f64> = cells.next()?;
        let credited = ids.into_iter().zip(events).zip(times).zip(dimensions).zip(credits).map(
            |((((event_id, event), at), dimension), credit)| Credited {
                event_id,
                event,
                at: Timestamp::from_millis(at),
                dimension,
                credit,
            },
        );
        Ok(Self {
            target_event_id,
            target_at,
            distinct_id,
            join_key,
            value,
            rule_version,
            touches,
            credited: credited.collect(),
        })
    }
}

async fn list_conversions(
    request: HttpRequest,
    attribution: Data<Attribution>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = readable(&request, &attribution).await?;
    let page: Page = strict::query_string(request.query_string())?;
    let max = attribution.page_rows_max;
    let limit = page.limit.unwrap_or(PAGE.min(max));
    if !(1..=max).contains(&limit) {
        let message = format!("limit is {limit}, but must be from 1 to {max} (query.page_rows_max)");
        return Err(Problem::invalid("limit", message).with("given", limit).with("max", max));
    }
    find(&attribution, &access, &id).await?;
    let question = format!("conversions {:?} {}", access.scope, *id);
    let after: Option<Place> =
        page.cursor.as_deref().map(|cursor| cursor::decode(&question, cursor)).transpose()?;
    let mut sql = Sql::new(
        "SELECT target_event_id, target_at, target_distinct_id, join_key, if(has_value = 1, value, NULL) AS number, \
         rule_version, touches, source_ids, CAST(source_events, 'Array(String)') AS events, source_at, dimensions, \
         credits FROM attributed_conversions FINAL WHERE project_id = ",
    )
    .arg(access.scope.project.as_str())
    .push(" AND environment_id = ")
    .arg(access.scope.environment.as_str())
    .push(" AND rule_id = ")
    .arg(id.as_str());
    if let Some(after) = &after {
        sql = sql
            .push(" AND (bitOr(toUnixTimestamp64Milli(target_at), 0), target_event_id) < (")
            .arg(after.at)
            .push(", ")
            .arg(&after.id)
            .push(")");
    }
    let sql = sql.push(" ORDER BY target_at DESC, target_event_id DESC LIMIT ").arg(limit + 1);
    let mut found: Vec<Conversion> = attribution.store.select(sql).await.map_err(store_problem)?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| {
        cursor::encode(&question, &Place { at: last.target_at.as_millis(), id: last.target_event_id.clone() })
    });
    Ok(HttpResponse::Ok().json(json!({ "conversions": found, "next_cursor": next.transpose()? })))
}

fn version(attribution: &Attribution, access: &Access, version: u32, definition: Definition) -> Version {
    Version { version, definition, created_at: attribution.now(), created_by: access.name().to_owned() }
}

fn kept_body(kept: &Kept) -> Result<Value, Problem> {
    serde_json::to_value(kept).map_err(Problem::internal)
}

fn read_definition(attribution: &Attribution, sent: &Value) -> Result<Definition, Problem> {
    let definition: Definition = strict::json(sent.to_string().as_bytes())?;
    definition.check(&attribution.config)?;
    Ok(definition)
}

fn check_name(name: &str) -> Result<(), Problem> {
    if (1..=NAME_CHARS_MAX).contains(&name.trim().chars().count()) {
        return Ok(());
    }
    Err(Problem::invalid("name", format!("name has from 1 to {NAME_CHARS_MAX} characters")))
}

fn shown(document: &Document) -> Result<Value, Problem> {
    let kept = Kept::of(document).map_err(meta_problem)?;
    let newest = kept.versions.last();
    let definition = newest.map(|newest| serde_json::to_value(&newest.definition)).transpose();
    let mut shown = definition.map_err(Problem::internal)?.unwrap_or_else(|| json!({}));
    shown["id"] = json!(document.id);
    shown["name"] = json!(document.name);
    shown["version"] = json!(newest.map(|newest| newest.version));
    shown["created_at"] = json!(document.created_at);
    shown["updated_at"] = json!(document.updated_at);
    Ok(shown)
}

async fn find(attribution: &Attribution, access: &Access, id: &str) -> Result<Document, Problem> {
    let found = attribution.meta.documents(KIND).find(&access.scope, id).await.map_err(meta_problem)?;
    found.ok_or_else(|| not_found(id))
}

fn not_found(id: &str) -> Problem {
    let given: String = id.chars().take(200).collect();
    Problem::new(ErrorCode::NotFound, format!("there is no rule {given:?}")).with("given", given)
}

fn meta_problem(error: MetaError) -> Problem {
    match error {
        // Missing: the row of the project, which is there once the database has been brought up.
        MetaError::Unavailable(_) | MetaError::Missing(_) => {
            Problem::unavailable("the metadata database does not answer; try again", RETRY_AFTER)
                .because(error)
        }
        MetaError::Full { max, setting, .. } => Problem::new(ErrorCode::TooManyRequests, error.to_string())
            .with("max", max)
            .with("setting", setting),
        other => Problem::internal(other),
    }
}

fn store_problem(error: StoreError) -> Problem {
    match error {
        StoreError::Query(_) => Problem::internal(error),
        _ => {
            Problem::unavailable("the event store does not answer now; try again", RETRY_AFTER).because(error)
        }
    }
}

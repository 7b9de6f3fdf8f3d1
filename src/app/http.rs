//! Routes that belong to no role: health, readiness, metrics, and what operators ask. And the one place where the
//! roles' own routes are put together.

use std::collections::BTreeSet;
use std::sync::Arc;

use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::json;

use super::pools::Pools;
use super::{
    Role, audit, doctor, history, lag, metadata, openapi, raw_audit, readiness, source_audit, topics,
};
use crate::attribution;
use crate::auth::{self, Access, Permission};
use crate::capture::{self, Capture};
use crate::config::Config;
use crate::consumer::Control;
use crate::demo;
use crate::dlq;
use crate::eventlog::{TopicPartition, TopicSpec};
use crate::http::{BodyLimits, ErrorCode, Problem, body, json, query_string};
use crate::job;
use crate::metering::{self, Metering};
use crate::person;
use crate::query::{self, Query};
use crate::reprocess;
use crate::rollup;
use crate::schema;
use crate::store::Store;
use crate::telemetry::{Recorder, names};
use crate::transform;
use crate::web::{self as page, Pages};
use crate::webhook;

/// What the routes work with; cheap to clone, one a process.
#[derive(Clone)]
pub(super) struct Shared {
    config: Arc<Config>,
    roles: Arc<[Role]>,
    pools: Pools,
    pub recorder: Recorder,
    pub capture: Option<web::Data<Capture>>,
    query: Option<web::Data<Query>>,
    /// Runs with the query role.
    metering: Option<web::Data<Metering>>,
    /// How operators reach this process's consumer.
    pub control: Option<Control>,
    /// The page.
    pages: Option<web::Data<Pages>>,
    /// What this process tells of itself; not where an operator's command runs.
    pub history: Option<history::History>,
}

impl Shared {
    /// Makes the services of these roles; no roles: those an operator's command needs.
    ///
    /// # Errors
    /// The page cannot be read.
    pub(super) fn new(
        config: &Arc<Config>,
        roles: &[Role],
        pools: &Pools,
        recorder: Recorder,
    ) -> anyhow::Result<Self> {
        let runs = |role: Role| roles.contains(&role);
        let (log, clock, ids) = (&pools.log, &pools.clock, &pools.ids);
        let capture = runs(Role::Capture)
            .then(|| Capture::new(log.clone(), config, clock.clone(), ids.clone(), &pools.health))
            .map(|capture| capture.with_schemas(pools.schemas.as_ref().clone()))
            .map(web::Data::new);
        let query = (runs(Role::Query) || roles.is_empty())
            .then(|| pools.store.clone())
            .flatten()
            .map(|store| {
                Query::new(store, log.clone(), config, clock.clone()).with_database(pools.meta.clone())
            })
            .map(web::Data::new);
        let metering = query
            .as_ref()
            .and(pools.store.clone())
            .map(|store| Metering::new(store, pools.meta.clone(), log.clone(), config, clock.clone()))
            .map(web::Data::new);
        let control = runs(Role::Consumer).then(Control::default);
        let shown = config.server.web && (runs(Role::Query) || runs(Role::Auth));
        let pages = shown.then(Pages::load).transpose()?.map(web::Data::new);
        Ok(Self {
            config: config.clone(),
            roles: roles.into(),
            pools: pools.clone(),
            history: (!roles.is_empty())
                .then(|| history::History::new(config, roles, pools, recorder.clone())),
            recorder,
            capture,
            query,
            metering,
            control,
            pages,
        })
    }

    /// Every route of this process.
    pub(super) fn routes(&self, routes: &mut ServiceConfig) {
        routes
            .app_data(web::Data::new(self.clone()))
            .app_data(self.pools.keys.clone())
            .route("/health", web::get().to(health))
            .route("/ready", web::get().to(ready))
            .route("/metrics", web::get().to(metrics))
            .route("/version", web::get().to(version))
            .route("/api/openapi.json", web::get().to(contract))
            .route("/api/docs", web::get().to(docs))
            .route("/api/docs.css", web::get().to(docs_style))
            .route("/api/ops/components", web::get().to(components))
            .route("/api/ops/topics", web::get().to(list_topics))
            .route("/api/ops/topics/create", web::post().to(create_topics))
            .route("/api/ops/topics/grow", web::post().to(grow_topic))
            .route("/api/ops/lag", web::get().to(list_lag))
            .route("/api/ops/history", web::get().to(tell_history))
            .route("/api/ops/doctor", web::get().to(run_doctor))
            .route("/api/ops/migrate", web::post().to(migrate))
            .route("/api/ops/audit", web::get().to(run_audit))
            .route("/api/ops/audit/metadata", web::get().to(check_metadata))
            .route("/api/ops/audit/metadata/backfill", web::post().to(backfill_metadata))
            .route("/api/ops/consumer/resume", web::post().to(resume_partition));
        if let Some(capture) = &self.capture {
            routes.app_data(capture.clone()).configure(capture::http::routes).configure(demo::http::routes);
        }
        if let (Some(people), Some(_)) = (&self.pools.people, &self.query) {
            routes.app_data(people.clone()).configure(person::http::routes);
        }
        if let Some(metering) = &self.metering {
            routes.app_data(metering.clone()).configure(metering::http::routes);
        }
        if let (Some(attribution), Some(_)) = (&self.pools.attribution, &self.query) {
            routes.app_data(attribution.clone()).configure(attribution::http::routes);
        }
        if let Some(query) = &self.query {
            routes.app_data(query.clone()).configure(query::http::routes);
        }
        if self.roles.is_empty() || self.roles.contains(&Role::Auth) {
            routes.configure(auth::http::routes);
            routes.app_data(self.pools.webhook.clone()).configure(webhook::http::routes);
        }
        routes.app_data(self.pools.schemas.clone()).configure(schema::http::routes);
        routes.app_data(self.pools.jobs.clone()).configure(job::http::routes);
        routes.app_data(self.pools.transforms.clone()).configure(transform::http::routes);
        if let Some(reprocess) = &self.pools.reprocess {
            routes.app_data(reprocess.clone()).configure(reprocess::http::routes);
        }
        if let Some(rollups) = &self.pools.rollups {
            routes.app_data(rollups.clone()).configure(rollup::http::routes);
        }
        if let Some(dlq) = &self.pools.dlq {
            routes.app_data(dlq.clone()).configure(dlq::http::routes);
        }
        if let Some(pages) = &self.pages {
            routes.app_data(pages.clone()).configure(page::http::routes);
        }
    }
}

async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "up"}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadyQuestion {
    role: Option<String>,
}

async fn ready(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, Problem> {
    let question: ReadyQuestion = query_string(request.query_string())?;
    let roles = match question.role.as_deref() {
        None => shared.roles.to_vec(),
        Some(name) => {
            let valid: Vec<&str> = shared.roles.iter().map(|role| role.as_str()).collect();
            let role = Role::from_name(name).filter(|role| shared.roles.contains(role)).ok_or_else(|| {
                Problem::invalid("role", format!("this process does not run role {name:?}"))
                    .with("given", name)
                    .with("valid", valid)
            })?;
            vec![role]
        }
    };
    let report = readiness::report(&shared.pools.health, &roles);
    Ok(match report.status {
        readiness::Readiness::Unready => HttpResponse::ServiceUnavailable().json(report),
        _ => HttpResponse::Ok().json(report),
    })
}

async fn metrics(shared: web::Data<Shared>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(shared.recorder.render())
}

async fn version() -> HttpResponse {
    HttpResponse::Ok().json(json!({"name": "flexflow", "version": env!("CARGO_PKG_VERSION")}))
}

/// Nothing but the page's own style.
const DOCS_POLICY: &str = "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'";

async fn contract() -> HttpResponse {
    HttpResponse::Ok().json(openapi::document())
}

async fn docs() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header(("Content-Security-Policy", DOCS_POLICY))
        .body(openapi::page())
}

async fn docs_style() -> HttpResponse {
    HttpResponse::Ok().content_type("text/css; charset=utf-8").body(openapi::STYLE)
}

/// Operators' routes show and change what belongs to the whole process: scope `admin`.
async fn operator(request: &HttpRequest) -> Result<Access, Problem> {
    auth::http::authorize(request, Permission::Admin, true).await
}

async fn components(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, Problem> {
    operator(&request).await?;
    let mut body = json!(readiness::report(&shared.pools.health, &shared.roles));
    let mut breakers = shared.recorder.series(&[&names::BREAKER_STATE]);
    breakers.sort_by(|(_, one, _), (_, other, _)| one.cmp(other));
    let breakers = breakers.into_iter().map(|(_, labels, state)| {
        let dependency = labels.split('"').nth(1).unwrap_or_default();
        let state = if state < 1.0 {
            "closed"
        } else if state < 2.0 {
            "half_open"
        } else {
            "open"
        };
        json!({ "dependency": dependency, "state": state })
    });
    body["breakers"] = breakers.collect();
    Ok(HttpResponse::Ok().json(body))
}

async fn list_topics(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, Problem> {
    operator(&request).await?;
    let looked = topics::looked_at(&*shared.pools.log, &shared.config).await;
    let (there, comparison) = looked.map_err(|error| unavailable(&error))?;
    let rows: Vec<_> = there
        .iter()
        .map(|topic| {
            json!({
                "name": &*topic.name,
                "id": topic.id.to_string(),
                "partitions": topic.partitions.iter().map(|offsets| json!({"log_start": offsets.log_start, "end": offsets.end})).collect::<Vec<_>>(),
            })
        })
        .collect();
    let missing: Vec<&str> = comparison.missing.iter().map(|name| &**name).collect();
    Ok(HttpResponse::Ok().json(json!({"topics": rows, "missing": missing, "remarks": comparison.remarks})))
}

async fn create_topics(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, Problem> {
    operator(&request).await?;
    let specs: Vec<TopicSpec> = topics::specs(&shared.config);
    let made = shared.pools.log.create_topics(&specs).await.map_err(|error| unavailable(&error))?;
    let made: Vec<&str> = made.iter().map(|name| &**name).collect();
    Ok(HttpResponse::Ok().json(json!({"created": made})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Grow {
    topic: String,
    partitions: i32,
}

async fn grow_topic(
    request: HttpRequest,
    payload: web::Payload,
    limits: web::Data<BodyLimits>,
    shared: web::Data<Shared>,
) -> Result<HttpResponse, Problem> {
    operator(&request).await?;
    let grow: Grow = json(&body::read(payload, &request, **limits).await?)?;
    let there = shared.pools.log.topics().await.map_err(|error| unavailable(&error))?;
    let topic = there.iter().find(|topic| *topic.name == *grow.topic).ok_or_else(|| {
        let valid: Vec<&str> = there.iter().map(|topic| &*topic.name).collect();
        Problem::invalid("topic", format!("there is no topic {:?}", grow.topic)).with("valid", valid)
    })?;
    let now = topic.partitions.len();
    if usize::try_from(grow.partitions).map_or(true, |partitions| partitions <= now || partitions > 1024) {
        return Err(Problem::invalid(
            "partitions",
            format!("topic {} has {now} partitions and can only grow: {} to 1024", grow.topic, now + 1),
        )
        .with("given", grow.partitions));
    }
    shared.pools.log.grow_topic(&grow.topic, grow.partitions).await.map_err(|error| unavailable(&error))?;
    Ok(HttpResponse::Ok().json(json!({"topic": grow.topic, "partitions": grow.partitions, "before": now})))
}

async fn list_lag(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, Problem> {
    operator(&request).await?;
    let rows = lag::all(&*shared.pools.log, &shared.config).await.map_err(|error| unavailable(&error))?;
    Ok(HttpResponse::Ok().json(json!({"groups": rows})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoryQuery {
    minutes: Option<u64>,
    group: Option<String>,
}

async fn tell_history(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, Problem> {
    operator(&request).await?;
    let asked: HistoryQuery = query_string(request.query_string())?;
    let kept = history::minutes_max(&shared.config);
    let minutes = asked.minutes.unwrap_or(120.min(kept));
    if minutes == 0 || minutes > kept {
        let message = format!("the history has 1 to {kept} minutes (server.history_retention)");
        return Err(Problem::invalid("minutes", message).with("given", minutes).with("max", kept));
    }
    if let Some(group) = &asked.group {
        let groups = topics::groups(&shared.config);
        let valid: BTreeSet<&str> = groups.iter().map(|(_, group)| &**group).collect();
        if !valid.contains(group.as_str()) {
            let valid: Vec<&str> = valid.into_iter().collect();
            let message = format!("there is no group {group:?}");
            return Err(Problem::invalid("group", message)
                .with("given", group.as_str())
                .with("valid", valid));
        }
    }
    let group = asked.group.as_deref();
    let report = history::report(&shared.pools.meta, &shared.config, minutes, group).await;
    Ok(HttpResponse::Ok().json(report.map_err(|error| unavailable(&error))?))
}

async fn run_doctor(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, Problem> {
    operator(&request).await?;
    let findings = doctor::run(&shared.config, &shared.pools).await;
    let ok = findings.iter().all(|finding| finding.ok);
    Ok(HttpResponse::Ok().json(json!({"ok": ok, "findings": findings})))
}

async fn migrate(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, Problem> {
    operator(&request).await?;
    let meta = shared.pools.meta.migrate().await.map_err(|error| unavailable(&error))?;
    let store = match &shared.pools.store {
        Some(store) => store.migrate().await.map_err(|error| unavailable(&error))?,
        None => Vec::new(),
    };
    Ok(HttpResponse::Ok().json(json!({"meta": meta, "store": store})))
}

/// The store, or who has one.
fn store(shared: &Shared) -> Result<&Store, Problem> {
    let nowhere = "this process has no store: ask one that runs the consumer or query";
    shared.pools.store.as_ref().ok_or_else(|| Problem::new(ErrorCode::NotFound, nowhere))
}

async fn run_audit(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, Problem> {
    let access = operator(&request).await?;
    let store = store(&shared)?;
    let mut report =
        audit::run(&*shared.pools.log, store, &shared.config).await.map_err(|error| unavailable(&error))?;
    if !access.operator {
        report.forget_ids();
    }
    let raw = raw_audit::run(&*shared.pools.log, store, &shared.config);
    let raw = raw.await.map_err(|error| unavailable(&error))?;
    let sources = source_audit::run(&*shared.pools.log, store, &shared.config);
    let sources = sources.await.map_err(|error| unavailable(&error))?;
    let mut body = serde_json::to_value(&report).map_err(Problem::internal)?;
    body["balanced"] = json!(report.balanced && raw.balanced && sources.iter().all(|source| source.balanced));
    body["raw"] = json!(raw);
    body["sources"] = json!(sources);
    Ok(HttpResponse::Ok().json(body))
}

/// Rows of every project: only for who may see the whole installation.
async fn whole_installation(request: &HttpRequest) -> Result<(), Problem> {
    if auth::http::authorize(request, Permission::Admin, true).await?.operator {
        return Ok(());
    }
    let message = "this is about the whole installation: ask with the operator's token";
    Err(Problem::new(ErrorCode::PermissionDenied, message))
}

async fn check_metadata(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, Problem> {
    whole_installation(&request).await?;
    let report = metadata::report(store(&shared)?).await.map_err(|error| unavailable(&error))?;
    Ok(HttpResponse::Ok().json(report))
}

async fn backfill_metadata(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, Problem> {
    whole_installation(&request).await?;
    let filled = metadata::backfill(&*shared.pools.log, store(&shared)?, &shared.config).await;
    Ok(HttpResponse::Ok().json(filled.map_err(|error| unavailable(&error))?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resume {
    topic: String,
    partition: i32,
}

async fn resume_partition(
    request: HttpRequest,
    payload: web::Payload,
    limits: web::Data<BodyLimits>,
    shared: web::Data<Shared>,
) -> Result<HttpResponse, Problem> {
    operator(&request).await?;
    let resume: Resume = json(&body::read(payload, &request, **limits).await?)?;
    let Some(control) = &shared.control else {
        return Err(Problem::new(
            ErrorCode::NotFound,
            "this process does not run the consumer: ask the one that does",
        ));
    };
    control
        .resume(&TopicPartition::new(resume.topic.as_str(), resume.partition))
        .map_err(|error| Problem::invalid("partition", error.to_string()))?;
    Ok(HttpResponse::Accepted().json(json!({"topic": resume.topic, "partition": resume.partition})))
}

/// Operators see the reason itself: they are the ones who can act on it.
fn unavailable(error: &impl std::error::Error) -> Problem {
    Problem::unavailable(error.to_string(), std::time::Duration::from_secs(1))
}

//! Routes of webhooks and their deliveries. Scope `admin`; a key reaches its own project's.

use std::time::Duration;

use actix_web::web::{Data, Path, Payload, ServiceConfig, resource};
use actix_web::{HttpRequest, HttpResponse};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::send::check_url;
use super::{Webhook, sign};
use crate::auth::http::authorize;
use crate::auth::{Access, Permission};
use crate::event::{EnvironmentId, SystemEventKind};
use crate::http::{BodyLimits, ErrorCode, Problem, body, cursor, strict};
use crate::meta::{
    self, Deliverable, Delivery, DeliveryFilter, DeliveryState, MetaError, NewWebhook, WebhookStatus,
};

/// Deliveries of a page when the request does not say, and at most.
const PAGE: u64 = 50;
const PAGE_MAX: u64 = 500;
/// Longest description, in characters.
const DESCRIPTION_CHARS_MAX: usize = 500;
/// What a client is told to wait when the database does not answer.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The routes. They need `web::Data<Webhook>`, `web::Data<Keys>` and `web::Data<BodyLimits>`.
pub fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/api/webhooks").get(list).post(create))
        .service(resource("/api/webhooks/events").get(list_events))
        .service(resource("/api/webhooks/{webhook_id}").get(show).patch(change).delete(delete))
        .service(resource("/api/webhooks/{webhook_id}/secret").get(show_secret))
        .service(resource("/api/webhooks/{webhook_id}/rotate-secret").post(rotate_secret))
        .service(resource("/api/webhooks/{webhook_id}/test").post(test))
        .service(resource("/api/webhooks/{webhook_id}/replay").post(replay_dead))
        .service(resource("/api/webhooks/{webhook_id}/deliveries").get(list_deliveries))
        .service(resource("/api/webhooks/{webhook_id}/deliveries/{delivery_id}").get(show_delivery))
        .service(resource("/api/webhooks/{webhook_id}/deliveries/{delivery_id}/replay").post(replay));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    url: String,
    /// Kinds of system events; all when absent or empty.
    #[serde(default)]
    events: Vec<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    ordered: bool,
    /// Events of this environment alone; of all when absent.
    environment_id: Option<String>,
}

/// A webhook as it shall be; what is absent stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    url: Option<String>,
    events: Option<Vec<String>>,
    description: Option<String>,
    ordered: Option<bool>,
    enabled: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotate {
    /// How long the secret so far signs beside the new one; `webhook.rotation_overlap` when absent and at most.
    #[serde(default, with = "humantime_serde::option")]
    keep: Option<Duration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    state: Option<DeliveryState>,
    /// Only those that name this event.
    about: Option<String>,
    limit: Option<u64>,
    cursor: Option<String>,
    /// Read with the key.
    #[expect(dead_code, reason = "named here so that it is no unknown field")]
    environment_id: Option<String>,
}

async fn allowed(request: &HttpRequest) -> Result<Access, Problem> {
    authorize(request, Permission::Admin, true).await
}

async fn read<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: Payload,
    limits: BodyLimits,
) -> Result<T, Problem> {
    strict::json(&body::read(payload, request, limits).await?)
}

async fn list_events(request: HttpRequest) -> Result<HttpResponse, Problem> {
    allowed(&request).await?;
    let names: Vec<&str> = SystemEventKind::ALL.iter().map(|kind| kind.as_str()).collect();
    Ok(HttpResponse::Ok().json(json!({ "events": names })))
}

async fn list(request: HttpRequest, webhook: Data<Webhook>) -> Result<HttpResponse, Problem> {
    let access = allowed(&request).await?;
    let found = webhook.meta.webhooks().list(&access.scope.project).await.map_err(problem)?;
    Ok(HttpResponse::Ok().json(json!({ "webhooks": found.iter().map(shown).collect::<Vec<_>>() })))
}

async fn create(
    request: HttpRequest,
    webhook: Data<Webhook>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request).await?;
    let new: New = read(&request, payload, **limits).await?;
    if let Some(environment) = &new.environment_id {
        access.check_environment(environment)?;
    }
    let new = NewWebhook {
        environment_id: new.environment_id.map(EnvironmentId::new),
        url: checked_url(&webhook, new.url)?,
        description: checked_description(new.description)?,
        kinds: kinds(&new.events)?,
        ordered: new.ordered,
        status: WebhookStatus::Enabled,
    };
    let secret = sign::new_secret(&*webhook.ids);
    let max = webhook.config.webhooks_max;
    let made =
        webhook.meta.by(access.actor()).webhooks().create(&access.scope.project, new, &secret, max).await;
    let made = made.map_err(problem)?;
    tracing::info!(webhook_id = made.id, by = access.name(), "webhook made");
    let mut answer = shown(&made);
    answer["secret"] = json!(secret);
    Ok(HttpResponse::Created().json(answer))
}

async fn show(
    request: HttpRequest,
    webhook: Data<Webhook>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request).await?;
    Ok(HttpResponse::Ok().json(shown(&find(&webhook, &access, &id).await?)))
}

async fn change(
    request: HttpRequest,
    webhook: Data<Webhook>,
    id: Path<String>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request).await?;
    let change: Change = read(&request, payload, **limits).await?;
    let before = find(&webhook, &access, &id).await?;
    let status = match change.enabled {
        Some(true) => WebhookStatus::Enabled,
        Some(false) => WebhookStatus::Disabled,
        None => before.status,
    };
    let new = NewWebhook {
        environment_id: before.environment_id.clone(),
        url: checked_url(&webhook, change.url.unwrap_or_else(|| before.url.clone()))?,
        description: checked_description(change.description.unwrap_or_else(|| before.description.clone()))?,
        kinds: change.events.map_or_else(|| Ok(before.kinds()), |events| kinds(&events))?,
        ordered: change.ordered.unwrap_or(before.ordered),
        status,
    };
    let rows = webhook.meta.by(access.actor());
    if !rows.webhooks().change(&access.scope.project, &id, new).await.map_err(problem)? {
        return Err(not_found("webhook", &id));
    }
    tracing::info!(webhook_id = *id, by = access.name(), "webhook changed");
    webhook.queued.notify_one();
    Ok(HttpResponse::Ok().json(shown(&find(&webhook, &access, &id).await?)))
}

async fn delete(
    request: HttpRequest,
    webhook: Data<Webhook>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request).await?;
    let rows = webhook.meta.by(access.actor());
    if !rows.webhooks().delete(&access.scope.project, &id).await.map_err(problem)? {
        return Err(not_found("webhook", &id));
    }
    tracing::info!(webhook_id = *id, by = access.name(), "webhook deleted");
    Ok(HttpResponse::NoContent().finish())
}

async fn show_secret(
    request: HttpRequest,
    webhook: Data<Webhook>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request).await?;
    let found = find(&webhook, &access, &id).await?;
    tracing::info!(webhook_id = *id, by = access.name(), "a webhook's secret was shown");
    let secrets = webhook.meta.webhooks().secrets(&found, webhook.now()).map_err(problem)?;
    let shown = |at: usize| secrets.get(at).map(ExposeSecret::expose_secret);
    Ok(HttpResponse::Ok().json(json!({
        "secret": shown(0),
        "previous_secret": shown(1),
        "previous_secret_until": secrets.get(1).and(found.previous_secret_until),
    })))
}

async fn rotate_secret(
    request: HttpRequest,
    webhook: Data<Webhook>,
    id: Path<String>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request).await?;
    let rotate: Rotate = read(&request, payload, **limits).await?;
    let max = webhook.config.rotation_overlap;
    let keep = rotate.keep.unwrap_or(max);
    if keep > max {
        let max = humantime::format_duration(max).to_string();
        let message = format!("keep is at most {max} (webhook.rotation_overlap)");
        return Err(Problem::invalid("keep", message)
            .with("max", max)
            .with("setting", "webhook.rotation_overlap"));
    }
    let (secret, until) = (sign::new_secret(&*webhook.ids), webhook.now().plus(keep));
    let rows = webhook.meta.by(access.actor());
    if !rows.webhooks().rotate(&access.scope.project, &id, &secret, until).await.map_err(problem)? {
        return Err(not_found("webhook", &id));
    }
    tracing::info!(webhook_id = *id, by = access.name(), "a webhook's secret was changed");
    Ok(HttpResponse::Ok().json(json!({ "secret": secret, "previous_secret_until": until })))
}

/// Sends a `webhook.test`, whatever the webhook wants and whether it is enabled.
async fn test(
    request: HttpRequest,
    webhook: Data<Webhook>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request).await?;
    let found = find(&webhook, &access, &id).await?;
    if found.status != WebhookStatus::Enabled {
        let message = format!("the webhook is {}: enable it first", found.status.as_str());
        return Err(Problem::new(ErrorCode::ValidationError, message).with("status", found.status.as_str()));
    }
    let now = webhook.now();
    let event_id = format!("sys_event_{}", webhook.ids.uuid_v7(now).simple());
    let kind = SystemEventKind::WebhookTest;
    let body = json!({
        "type": kind,
        "timestamp": now,
        "data": { "id": event_id, "project_id": found.project_id, "environment_id": found.environment_id,
                  "payload": { "webhook_id": found.id, "asked_by": access.name() } },
    });
    let event = Deliverable {
        event_id,
        kind,
        project_id: Some(found.project_id.clone()),
        environment_id: found.environment_id.clone(),
        body: body.to_string(),
    };
    let added = webhook.meta.deliveries().add_to(&found, &event, webhook.config.retry_for).await;
    let delivery_id = added.map_err(problem)?;
    webhook.queued.notify_one();
    Ok(HttpResponse::Accepted().json(json!({ "webhook_id": found.id, "delivery_id": delivery_id })))
}

async fn list_deliveries(
    request: HttpRequest,
    webhook: Data<Webhook>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request).await?;
    let page: Page = strict::query_string(request.query_string())?;
    let limit = page.limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        let message = format!("limit is {limit}, but must be from 1 to {PAGE_MAX}");
        return Err(Problem::invalid("limit", message).with("given", limit).with("max", PAGE_MAX));
    }
    find(&webhook, &access, &id).await?;
    let question = format!("deliveries {} {} {:?} {:?}", access.scope.project, *id, page.state, page.about);
    let before: Option<String> =
        page.cursor.as_deref().map(|cursor| cursor::decode(&question, cursor)).transpose()?;
    let filter =
        DeliveryFilter { state: page.state, about: page.about.as_deref(), before: before.as_deref() };
    // One more than asked for tells whether there is another page.
    let found = webhook.meta.deliveries().list(&access.scope.project, &id, filter, limit + 1).await;
    let mut found = found.map_err(problem)?;
    let more = found.len() as u64 > limit;
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next = found.last().filter(|_| more).map(|last| cursor::encode(&question, &last.id)).transpose()?;
    let deliveries: Vec<Value> = found.iter().map(|delivery| shown_delivery(delivery, false)).collect();
    Ok(HttpResponse::Ok().json(json!({ "deliveries": deliveries, "next_cursor": next })))
}

async fn show_delivery(
    request: HttpRequest,
    webhook: Data<Webhook>,
    path: Path<(String, String)>,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request).await?;
    Ok(HttpResponse::Ok().json(shown_delivery(&find_delivery(&webhook, &access, &path).await?, true)))
}

async fn replay(
    request: HttpRequest,
    webhook: Data<Webhook>,
    path: Path<(String, String)>,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request).await?;
    let (webhook_id, id) = &*path;
    find_delivery(&webhook, &access, &path).await?;
    let replayed = replayed(&webhook, &access, webhook_id, Some(id)).await?;
    Ok(HttpResponse::Accepted().json(json!({ "replayed": replayed })))
}

async fn replay_dead(
    request: HttpRequest,
    webhook: Data<Webhook>,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request).await?;
    find(&webhook, &access, &id).await?;
    let replayed = replayed(&webhook, &access, &id, None).await?;
    Ok(HttpResponse::Accepted().json(json!({ "replayed": replayed })))
}

async fn replayed(
    webhook: &Webhook,
    access: &Access,
    webhook_id: &str,
    id: Option<&str>,
) -> Result<u64, Problem> {
    let rows = webhook.meta.deliveries();
    let replayed = rows.replay(&access.scope.project, webhook_id, id, webhook.config.retry_for).await;
    let replayed = replayed.map_err(problem)?;
    tracing::info!(webhook_id, replayed, by = access.name(), "deliveries replayed");
    webhook.queued.notify_one();
    Ok(replayed)
}

/// A webhook as people see it: without its secrets.
fn shown(webhook: &meta::Webhook) -> Value {
    json!({
        "id": webhook.id,
        "project_id": webhook.project_id,
        "environment_id": webhook.environment_id,
        "url": webhook.url,
        "description": webhook.description,
        "events": webhook.kinds(),
        "ordered": webhook.ordered,
        "status": webhook.status,
        "created_at": webhook.created_at,
        "updated_at": webhook.updated_at,
    })
}

fn shown_delivery(delivery: &Delivery, whole: bool) -> Value {
    let mut shown = json!({
        "id": delivery.id,
        "event_id": delivery.event_id,
        "event_name": delivery.event_name,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "due_at": (delivery.state == DeliveryState::Pending).then_some(delivery.due_at),
        "give_up_at": delivery.give_up_at,
        "last": delivery.log.0.as_array().and_then(|log| log.last()),
        "created_at": delivery.created_at,
        "updated_at": delivery.updated_at,
    });
    if whole {
        shown["body"] = serde_json::from_str(&delivery.body).unwrap_or(Value::Null);
        shown["log"] = delivery.log.0.clone();
    }
    shown
}

fn checked_url(webhook: &Webhook, url: String) -> Result<String, Problem> {
    match check_url(&url, webhook.config.allow_private) {
        Ok(_) => Ok(url),
        Err(error) => {
            let given: String = url.chars().take(200).collect();
            Err(Problem::invalid("url", format!("url cannot be delivered to: {error}")).with("given", given))
        }
    }
}

fn checked_description(text: String) -> Result<String, Problem> {
    if text.chars().count() > DESCRIPTION_CHARS_MAX {
        let message = format!("description has at most {DESCRIPTION_CHARS_MAX} characters");
        return Err(Problem::invalid("description", message).with("max", DESCRIPTION_CHARS_MAX));
    }
    Ok(text)
}

fn kinds(names: &[String]) -> Result<Vec<SystemEventKind>, Problem> {
    let kind = |name: &String| {
        SystemEventKind::from_name(name).ok_or_else(|| {
            let valid: Vec<&str> = SystemEventKind::ALL.iter().map(|kind| kind.as_str()).collect();
            let message = format!("there are no system events {name:?}");
            Problem::invalid("events", message).with("given", name.as_str()).with("valid", valid)
        })
    };
    names.iter().map(kind).collect()
}

async fn find(webhook: &Webhook, access: &Access, id: &str) -> Result<meta::Webhook, Problem> {
    let found = webhook.meta.webhooks().find(&access.scope.project, id).await.map_err(problem)?;
    found.ok_or_else(|| not_found("webhook", id))
}

async fn find_delivery(
    webhook: &Webhook,
    access: &Access,
    (webhook_id, id): &(String, String),
) -> Result<Delivery, Problem> {
    let found =
        webhook.meta.deliveries().find(&access.scope.project, webhook_id, id).await.map_err(problem)?;
    found.ok_or_else(|| not_found("delivery", id))
}

fn not_found(what: &str, id: &str) -> Problem {
    let given: String = id.chars().take(200).collect();
    Problem::new(ErrorCode::NotFound, format!("there is no {what} {given:?}")).with("given", given)
}

fn problem(error: MetaError) -> Problem {
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

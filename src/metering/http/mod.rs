//! Routes of metering, in FlexPrice's words: `/v1/events/usage` and its like, `/v1/meters`, `/v1/features`. Each also
//! under `/api/v1`. Every documented field of an answer is always there, null where it says nothing.

mod events;
mod features;
mod meters;
mod usage;

use actix_web::web::{Payload, ServiceConfig, get, post, resource};
use actix_web::{HttpRequest, HttpResponse};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::Metering;
use super::number::plain;
use crate::auth::http::authorize;
use crate::auth::{Access, Permission};
use crate::http::{BodyLimits, ErrorCode, Problem, body, strict};

/// The routes. They need `web::Data<Metering>`, `web::Data<Keys>` and `web::Data<BodyLimits>`.
pub fn routes(config: &mut ServiceConfig) {
    for base in ["/v1", "/api/v1"] {
        let at = |path: &str| resource(format!("{base}{path}"));
        config
            .service(at("/events/usage").route(post().to(usage::by_name)))
            .service(at("/events/usage/meter").route(post().to(usage::by_meter)))
            .service(at("/events/analytics").route(post().to(usage::analytics)))
            .service(at("/meter-usage/query").route(post().to(usage::by_meter)))
            .service(at("/meter-usage/analytics").route(post().to(usage::analytics)))
            .service(at("/meter-usage/detailed-analytics").route(post().to(usage::analytics)))
            .service(at("/events/huggingface-billing").route(post().to(events::costs)))
            .service(at("/events/huggingface-inference").route(post().to(events::costs)))
            .service(at("/events/monitoring").route(get().to(events::monitoring)))
            .service(at("/events/void").route(post().to(events::void)))
            .service(at("/events/amend").route(post().to(events::amend)))
            .service(at("/events/corrections").route(get().to(events::corrections)))
            .service(at("/meters").route(get().to(meters::list)).route(post().to(meters::create)))
            .service(
                at("/meters/{meter_id}")
                    .route(get().to(meters::show))
                    .route(actix_web::web::put().to(meters::update))
                    .route(actix_web::web::patch().to(meters::update))
                    .route(actix_web::web::delete().to(meters::archive)),
            )
            .service(at("/meters/{meter_id}/disable").route(post().to(meters::archive)))
            .service(at("/meters/{meter_id}/versions").route(get().to(meters::versions)))
            .service(at("/features").route(get().to(features::list)).route(post().to(features::create)))
            .service(
                at("/features/{feature_id}")
                    .route(get().to(features::show))
                    .route(actix_web::web::put().to(features::update))
                    .route(actix_web::web::patch().to(features::update))
                    .route(actix_web::web::delete().to(features::delete)),
            );
    }
}

/// Who asks, who may do this.
async fn allowed(
    request: &HttpRequest,
    metering: &Metering,
    permission: Permission,
) -> Result<Access, Problem> {
    let require_key = permission != Permission::Query || metering.limits.require_api_key;
    authorize(request, permission, require_key).await
}

/// Reads a body strictly, and holds the environment that it names against the caller's.
async fn read<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: Payload,
    limits: BodyLimits,
) -> Result<T, Problem> {
    strict::json(&body::read(payload, request, limits).await?)
}

fn check_environment(access: &Access, given: Option<&str>) -> Result<(), Problem> {
    match given.filter(|given| !given.is_empty()) {
        Some(environment) => Ok(access.check_environment(environment)?),
        None => Ok(()),
    }
}

/// A decimal as a JSON number with all its digits.
fn number(value: &bigdecimal::BigDecimal) -> Result<Box<RawValue>, Problem> {
    RawValue::from_string(plain(value)).map_err(Problem::internal)
}

fn not_found(what: &str, given: &str) -> Problem {
    let given: String = given.chars().take(200).collect();
    Problem::new(ErrorCode::NotFound, format!("there is no {what} {given:?}")).with("given", given)
}

fn no_content() -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({ "message": "done" }))
}

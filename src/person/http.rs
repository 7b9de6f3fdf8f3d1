//! Routes that change who is whom.

use actix_web::web::{Data, Path, Payload, ServiceConfig, resource};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::json;

use super::{People, PeopleError, PersonId};
use crate::auth::{Access, Permission, http::authorize};
use crate::http::{BodyLimits, ErrorCode, Problem, body, strict};
use crate::store::{InsertError, StoreError};

/// Most distinct ids in one request.
const IDS_MAX: usize = 1000;
/// Longest distinct id that capture takes, in characters.
const ID_CHARS_MAX: usize = 200;

/// The routes. They need `web::Data<People>`, `web::Data<Keys>` and `web::Data<BodyLimits>`.
pub fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/api/persons/merge").post(merge))
        .service(resource("/api/persons/{person_id}/split").post(split));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Merge {
    /// Two or more; the first names the person.
    distinct_ids: Vec<String>,
    environment_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Split {
    /// Those that leave; every id when absent.
    distinct_ids: Option<Vec<String>>,
    environment_id: Option<String>,
}

/// Who may send events may say whose they are.
async fn allowed(
    request: &HttpRequest,
    people: &People,
    environment: Option<&str>,
) -> Result<Access, Problem> {
    let access = authorize(request, Permission::Ingest, people.0.require_api_key).await?;
    if let Some(environment) = environment {
        access.check_environment(environment)?;
    }
    Ok(access)
}

async fn merge(
    request: HttpRequest,
    payload: Payload,
    limits: Data<BodyLimits>,
    people: Data<People>,
) -> Result<HttpResponse, Problem> {
    authorize(&request, Permission::Ingest, people.0.require_api_key).await?;
    let asked: Merge = strict::json(&body::read(payload, &request, **limits).await?)?;
    let access = allowed(&request, &people, asked.environment_id.as_deref()).await?;
    check(&asked.distinct_ids, 2)?;
    let person = people.merge(&access.scope, &asked.distinct_ids).await.map_err(problem)?;
    Ok(HttpResponse::Ok().json(person))
}

async fn split(
    request: HttpRequest,
    person_id: Path<String>,
    payload: Payload,
    limits: Data<BodyLimits>,
    people: Data<People>,
) -> Result<HttpResponse, Problem> {
    authorize(&request, Permission::Ingest, people.0.require_api_key).await?;
    let sent = body::read(payload, &request, **limits).await?;
    let asked: Split = if sent.is_empty() {
        Split { distinct_ids: None, environment_id: None }
    } else {
        strict::json(&sent)?
    };
    let access = allowed(&request, &people, asked.environment_id.as_deref()).await?;
    if let Some(ids) = &asked.distinct_ids {
        check(ids, 1)?;
    }
    let missing = || {
        let message = "no person of several distinct ids has this id in this environment";
        Problem::new(ErrorCode::NotFound, message)
    };
    let id = PersonId::parse(&person_id).ok_or_else(missing)?;
    let person = people
        .merged_person(&access.scope, id)
        .await
        .map_err(|error| problem(error.into()))?
        .ok_or_else(missing)?;
    let persons = people
        .split(&access.scope, &person.distinct_ids, asked.distinct_ids.as_deref())
        .await
        .map_err(problem)?;
    Ok(HttpResponse::Ok().json(json!({ "persons": persons })))
}

fn check(ids: &[String], min: usize) -> Result<(), Problem> {
    if ids.len() < min || ids.len() > IDS_MAX {
        let message = format!("distinct_ids has {} ids; it takes {min} to {IDS_MAX}", ids.len());
        return Err(Problem::invalid("distinct_ids", message).with("given", ids.len()).with("max", IDS_MAX));
    }
    for (place, id) in ids.iter().enumerate() {
        if id.trim().is_empty() || id.chars().count() > ID_CHARS_MAX || id.contains('\0') {
            let field = format!("distinct_ids[{place}]");
            let message = format!("{field} must be a text of 1 to {ID_CHARS_MAX} characters without NUL");
            return Err(Problem::invalid(&field, message));
        }
    }
    Ok(())
}

fn problem(error: PeopleError) -> Problem {
    let retry = std::time::Duration::from_secs(1);
    let message = error.to_string();
    match error {
        PeopleError::Reserved(id) => Problem::invalid("distinct_ids", message).with("given", id),
        PeopleError::NotTheirs(id) => Problem::invalid("distinct_ids", message).with("given", id),
        PeopleError::TooMany { max, .. } | PeopleError::Shared { max } => {
            Problem::invalid("distinct_ids", message).with("max", max).with("setting", "person.ids_max")
        }
        PeopleError::Store(StoreError::Query(_)) | PeopleError::Insert(InsertError::Rejected(_)) => {
            Problem::internal(error)
        }
        PeopleError::Store(_) | PeopleError::Insert(_) => {
            let message = "the event store does not answer now; send the same again after a moment";
            Problem::unavailable(message, retry).because(error)
        }
    }
}

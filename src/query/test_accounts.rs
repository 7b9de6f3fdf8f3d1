//! Test accounts: the filters that leave an environment's own people out of its numbers.
//!
//! They are kept once for an environment and say who *counts*; a question that is sent with
//! `filter_test_accounts: true` is asked as if it had them among its own filters.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::filter::{self, Filters, Ground};
use super::interval::{Calendar, WeekStart};
use super::{Query, saved};
use crate::event::{Scope, Timestamp};
use crate::http::{ErrorCode, Problem};
use crate::meta::{Actor, AuditAction, DocumentKind, Meta, MetaError};

/// An environment has one.
const KEPT: DocumentKind = DocumentKind {
    name: "test_accounts",
    plural: "filters of test accounts",
    setting: "query.filters_max",
    audited: Some([AuditAction::TestAccountsChanged; 3]),
};
const NAME: &str = "test accounts";
/// Times a change is tried again that another one overtook.
const TRIES: usize = 5;

/// The filters as they are sent; an empty list takes them away.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTestAccounts {
    pub filters: Filters,
    pub environment_id: Option<String>,
}

/// What is kept of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Body {
    #[serde(default)]
    filters: Filters,
}

/// The filters of a scope as the answer shows them.
fn shown(filters: &Filters, updated_at: Option<Timestamp>) -> Value {
    json!({ "filters": filters, "updated_at": updated_at })
}

/// The filters of a scope; none where there is no metadata database.
///
/// # Errors
/// 503 while the metadata database does not answer.
pub(super) async fn load(query: &Query, scope: &Scope) -> Result<Arc<Filters>, Problem> {
    let Some(meta) = &query.database else { return Ok(Arc::default()) };
    let found = meta.documents(KEPT).list(scope).await.map_err(saved::problem)?;
    let Some(document) = found.into_iter().next() else { return Ok(Arc::default()) };
    let body: Body = serde_json::from_value(document.body.0).map_err(Problem::internal)?;
    Ok(Arc::new(body.filters))
}

/// Shows the filters of a scope.
///
/// # Errors
/// 503 while the metadata database does not answer.
pub(super) async fn show(query: &Query, scope: &Scope) -> Result<Value, Problem> {
    let found = meta(query)?.documents(KEPT).list(scope).await.map_err(saved::problem)?;
    match found.into_iter().next() {
        None => Ok(shown(&Filters::default(), None)),
        Some(document) => {
            let body: Body = serde_json::from_value(document.body.0).map_err(Problem::internal)?;
            Ok(shown(&body.filters, Some(document.updated_at)))
        }
    }
}

/// Puts these filters in place of those that were.
///
/// # Errors
/// 400 for what cannot be meant; 409: others changed them again and again meanwhile; 503 while a database does not
/// answer.
pub(super) async fn put(
    query: &Query,
    scope: &Scope,
    actor: Actor,
    new: &NewTestAccounts,
) -> Result<Value, Problem> {
    check(query, scope, &new.filters).await?;
    let body = serde_json::to_value(Body { filters: new.filters.clone() }).map_err(Problem::internal)?;
    let meta = meta(query)?.by(actor);
    for _ in 0..TRIES {
        let found = meta.documents(KEPT).list(scope).await.map_err(saved::problem)?;
        let changed = match found.first() {
            Some(document) => meta.documents(KEPT).change(scope, document, NAME, body.clone()).await,
            None => match meta.documents(KEPT).create(scope, NAME, body.clone(), 1).await {
                // Somebody else made them meanwhile.
                Err(MetaError::Full { .. }) => Ok(false),
                made => made.map(|_| true),
            },
        };
        if changed.map_err(saved::problem)? {
            query.forget(scope);
            return show(query, scope).await;
        }
    }
    let message = "the filters of test accounts were changed meanwhile: read them again and change that";
    Err(Problem::new(ErrorCode::AlreadyExists, message))
}

/// Refuses what could not be asked later.
async fn check(query: &Query, scope: &Scope, filters: &Filters) -> Result<(), Problem> {
    let actors = query.actors(scope).await?;
    let calendar = Calendar { zone: chrono_tz::UTC, week_start: WeekStart::default() };
    let ground =
        Ground { calendar: &calendar, now: query.clock.now(), limits: &query.limits, actors: &actors };
    // What they say is not needed, only that it can be said.
    filter::conditions(filters, "filters", &ground).map(drop)
}

fn meta(query: &Query) -> Result<&Meta, Problem> {
    query.database.as_ref().ok_or_else(|| Problem::internal(anyhow::anyhow!("no metadata database is given")))
}

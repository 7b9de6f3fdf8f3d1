//! Which properties have a column of their own, and which should.
//!
//! A question on a promoted key reads its column instead of every event's whole text, with the same answer. A key is
//! suggested by what reading it costs: how often questions of this process asked for it, times how many events have it.

mod fill;
pub mod http;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::Query;
use super::names::{self, Names};
use crate::event::Scope;
use crate::http::{ErrorCode, Problem};
use crate::job::{Jobs, Overview};
use crate::store::{Promoted, Store};

pub use fill::handlers;

/// Keys whose use is counted at most.
const KEYS_MAX: usize = 10_000;
/// Keys that are suggested.
const SUGGESTED_MAX: usize = 20;

/// How often questions asked for a property that has no column.
#[derive(Debug, Default)]
pub(super) struct Uses(Mutex<HashMap<String, u64>>);

impl Uses {
    pub(super) fn count(&self, key: &str) {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = uses.get_mut(key) {
            *count += 1;
        } else if uses.len() < KEYS_MAX {
            uses.insert(key.to_owned(), 1);
        }
    }

    fn all(&self) -> HashMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The answer to a list.
#[derive(Debug, Serialize)]
pub struct Properties {
    pub promoted: Vec<Promoted>,
    /// Those whose column would save most, first.
    pub suggested: Vec<Suggested>,
}

/// A property that questions read from the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Suggested {
    pub key: String,
    /// Questions of this process that asked for it.
    pub questions: u64,
    /// Events of the last 30 days that have it.
    pub volume: u64,
}

/// What is promoted, and what `scope`'s events and the questions so far suggest.
///
/// # Errors
/// 503 for what the store does not answer.
async fn list(query: &Query, scope: &Scope) -> Result<Properties, Problem> {
    let promoted = query.store.promoted().await.map_err(super::problem)?;
    let known = names::names(query, scope, &Names::default()).await?;
    let volumes: HashMap<String, u64> =
        known.properties.into_iter().map(|seen| (seen.name, seen.volume)).collect();
    let mut suggested: Vec<Suggested> = query
        .uses
        .all()
        .into_iter()
        .filter(|(key, _)| promoted.iter().all(|promoted| promoted.key != *key))
        .filter(|(key, _)| !Store::has_own_column(key))
        .map(|(key, questions)| {
            let volume = volumes.get(&key).copied().unwrap_or(0);
            Suggested { key, questions, volume }
        })
        .collect();
    // By what reading it from the text costs; what no recent event has comes last.
    suggested.sort_by(|a, b| {
        let worth = |one: &Suggested| (one.questions.saturating_mul(one.volume), one.questions);
        worth(b).cmp(&worth(a)).then_with(|| a.key.cmp(&b.key))
    });
    suggested.truncate(SUGGESTED_MAX);
    Ok(Properties { promoted, suggested })
}

/// Gives a key a column of its own. Rows from before are filled by a job; none: there are no such rows.
///
/// # Errors
/// 400: a key that has one from the start, or more than `query.promoted_max`; those of [`fill::start`].
async fn promote(
    query: &Query,
    jobs: &Jobs,
    key: &str,
) -> Result<(Vec<Promoted>, Option<Overview>), Problem> {
    super::filter::check_key("key", key)?;
    let known = query.store.promoted_columns().await.map_err(super::problem)?;
    let max = query.limits.promoted_max;
    if known.len() >= max && known.iter().all(|(promoted, _)| promoted != key) {
        let message = format!("{max} properties are promoted, the most that query.promoted_max allows");
        return Err(Problem::invalid("key", message).with("max", max).with("setting", "query.promoted_max"));
    }
    if !query.store.promote(key).await.map_err(super::problem)? {
        return Err(Problem::invalid("key", format!("{key} has a column from the start")).with("given", key));
    }
    query.merged.forget_all();
    let job = fill::start(&query.store, jobs, key).await?;
    Ok((query.store.promoted().await.map_err(super::problem)?, job))
}

/// Takes the column of a key away.
///
/// # Errors
/// 404: it is not promoted.
async fn demote(query: &Query, key: &str) -> Result<Vec<Promoted>, Problem> {
    let known = query.store.promoted_columns().await.map_err(super::problem)?;
    if known.iter().all(|(promoted, _)| promoted != key) {
        let shown: String = key.chars().take(100).collect();
        return Err(Problem::new(ErrorCode::NotFound, "this property is not promoted").with("given", shown));
    }
    query.store.demote(key).await.map_err(super::problem)?;
    query.merged.forget_all();
    query.store.promoted().await.map_err(super::problem)
}

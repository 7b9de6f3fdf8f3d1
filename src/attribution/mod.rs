//! Attribution: which earlier events a later one is credited to ("click to order"), by rules of each environment.
//!
//! Promises:
//! - What a target event is credited to is a function of the events that are stored, of the people they belong to, and
//!   of the rule. Order of arrival and repetition change nothing (a property test holds it against a naive reference);
//!   a late source replaces an earlier result.
//! - A target event counts once: it has one row a rule, replaced whole, of which the highest version counts. A version is
//!   the rule's before the store's time when the reading began, so of two that compute the same at once, the one that
//!   saw at least as much counts, and no process that still knows the former rule overwrites the newer one's.
//! - Everything is bounded (`attribution.*`). A key with more events than `attribution.gather_events_max` is passed over,
//!   counted and named in the log.
//!
//! Must not: write to the table of events.
//!
//! | file | what |
//! |---|---|
//! | `rule.rs`, `credit.rs` | pure: what a rule says, what an event changes, who is credited |
//! | `rules.rs` | the rules of a scope, versioned, remembered |
//! | `recompute.rs` | from the store's events to rows |
//! | `follow.rs` | what changes without an event of its own: merged people, corrected events |
//! | `job.rs` | a rule over a range of the past |
//! | `http.rs` | routes of rules and single conversions |

pub mod credit;
mod follow;
pub mod http;
mod job;
mod recompute;
pub mod rule;
mod rules;

use std::sync::Arc;

use crate::config::{self, Config};
use crate::event::{Clock, IdSource, Timestamp};
use crate::eventlog::EventLog;
use crate::job::JobError;
use crate::meta::{Meta, MetaError};
use crate::notice::Notices;
use crate::store::{InsertError, Store, StoreError};

pub use job::KIND as RECOMPUTE;
pub use recompute::Taken;
pub use rules::Rules;

/// Why a table could not be brought up to date; it can be tried again.
#[derive(Debug, thiserror::Error)]
pub enum AttributionError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Insert(#[from] InsertError),
    #[error(transparent)]
    Meta(#[from] MetaError),
}

impl From<AttributionError> for JobError {
    fn from(error: AttributionError) -> Self {
        match error {
            AttributionError::Store(error) => error.into(),
            AttributionError::Insert(error) => error.into(),
            AttributionError::Meta(error) => error.into(),
        }
    }
}

/// Attributes. Cheap to clone.
#[derive(Clone)]
pub struct Attribution {
    store: Store,
    meta: Meta,
    log: Arc<dyn EventLog>,
    rules: Rules,
    config: config::Attribution,
    /// Whether questions need a key.
    require_api_key: bool,
    page_rows_max: usize,
    events_topic: Arc<str>,
    events_group: Arc<str>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    told: Notices,
}

impl Attribution {
    pub fn new(
        store: Store,
        meta: Meta,
        log: Arc<dyn EventLog>,
        told: Notices,
        config: &Config,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
    ) -> Self {
        Self {
            rules: Rules::new(meta.clone(), config.attribution.cache_ttl),
            told,
            store,
            meta,
            log,
            config: config.attribution.clone(),
            require_api_key: config.query.require_api_key,
            page_rows_max: config.query.page_rows_max,
            events_topic: config.topics.events.as_str().into(),
            events_group: config.consumer.group_id.as_str().into(),
            clock,
            ids,
        }
    }

    /// The rules, remembered.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A token that no other rows come under.
    fn token(&self) -> String {
        self.ids.uuid_now(&*self.clock).to_string()
    }
}

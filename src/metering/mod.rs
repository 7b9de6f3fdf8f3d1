//! Usage metering: meters and features, and what customers used, to the last decimal.
//!
//! Promises:
//! - Numbers are exact decimals from their own text to the answer; a value that is missing, no number, or has more
//!   digits than are kept is counted apart, never taken for 0.
//! - Windows follow each other without gap or overlap in every time zone, months from every anchor.
//! - An event counts once, at once: every total reads the deduplicated view.
//! - A meter's definition is versioned in time; a change never rewrites the past silently.
//! - Every question is bounded (`query.*`, `metering.*`); over a bound, the error names its setting.
//!
//! Must not: price anything, or write to the table of events but for corrections.
//!
//! | file | what |
//! |---|---|
//! | `number.rs`, `expression.rs`, `window.rs`, `tally.rs` | pure: decimals, arithmetic, windows, aggregations |
//! | `meter.rs`, `catalogue.rs`, `matching.rs` | definitions, their versions, and which of them count an event |
//! | `request.rs`, `usage.rs`, `rows.rs` | questions of usage, and usage from events |
//! | `tracking.rs`, `rebuild.rs` | usage of meters computed once and kept, and the job that makes it what it should be |
//! | `corrections.rs` | void, amend, and totals as of an earlier moment |
//! | `monitoring.rs` | counts of events, and how far the store is behind |
//! | `http/` | routes, in FlexPrice's words |
//!
//! The room stands left of `consumer` and `query`, because the stage that tracks usage and the debug view of an event
//! match meters, too.

mod again;
mod catalogue;
mod corrections;
pub mod expression;
mod fold;
pub mod http;
pub mod matching;
pub mod meter;
mod monitoring;
pub mod number;
mod rebuild;
pub mod request;
mod rows;
pub mod tally;
pub mod tracking;
pub mod usage;
pub mod window;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::{self, Config};
use crate::event::{Clock, Timestamp};
use crate::eventlog::EventLog;
use crate::http::{ErrorCode, Problem};
use crate::meta::{Meta, MetaError};
use crate::store::{Limits, Row, RowStream, Sql, Store, StoreError};

pub use again::OfPast;
pub use catalogue::Catalogue;
pub use corrections::{Amendment, Snapshot, Wish};
pub use rebuild::KIND as REBUILD;

/// What a client is told to wait when a backend does not answer.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Measures. Cheap to clone.
#[derive(Clone)]
pub struct Metering {
    store: Store,
    meta: Meta,
    log: Arc<dyn EventLog>,
    catalogue: Catalogue,
    limits: config::Query,
    config: config::Metering,
    events_topic: Arc<str>,
    events_group: Arc<str>,
    /// The topic of raw events, and the group that makes events of them.
    raw: (Arc<str>, Arc<str>),
    /// Topics that events are stored from: with the group that stores them and the one that tracks their usage.
    tracked_topics: [(Arc<str>, Arc<str>, Arc<str>); 2],
    /// What comes after storing: the topic of events that are handed on, the group that hands them on and the one that
    /// reads them.
    post_processing: Option<[Arc<str>; 3]>,
    clock: Arc<dyn Clock>,
    turns: Arc<Semaphore>,
}

/// The consumer group that tracks usage of reprocessed events.
pub fn reprocessed_usage_group(config: &Config) -> String {
    format!("{}-reprocessed", config.metering.group_id)
}

impl Metering {
    pub fn new(
        store: Store,
        meta: Meta,
        log: Arc<dyn EventLog>,
        config: &Config,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            catalogue: Catalogue::new(meta.clone(), config.metering.cache_ttl),
            store,
            meta,
            log,
            limits: config.query.clone(),
            config: config.metering.clone(),
            events_topic: config.topics.events.as_str().into(),
            events_group: config.consumer.group_id.as_str().into(),
            raw: (config.topics.raw_events.as_str().into(), config.consumer.raw_group_id.as_str().into()),
            tracked_topics: [
                (
                    config.topics.events.as_str().into(),
                    config.consumer.group_id.as_str().into(),
                    config.metering.group_id.as_str().into(),
                ),
                (
                    config.reprocess.output_topic.as_str().into(),
                    config.reprocess.group_id.as_str().into(),
                    reprocessed_usage_group(config).into(),
                ),
            ],
            post_processing: config.post_processing.enabled.then(|| {
                let groups = &config.post_processing;
                [&config.topics.post_processing, &groups.publish_group_id, &groups.group_id]
                    .map(|name| name.as_str().into())
            }),
            clock,
            turns: Arc::new(Semaphore::new(config.query.concurrency.max(1))),
        }
    }

    /// The meters, remembered.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A turn to ask the store; it ends when it is dropped.
    ///
    /// # Errors
    /// 503: as many questions as `query.concurrency` allows are in the store, and none ended in `query.queue_timeout`.
    async fn turn(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let wait = self.limits.queue_timeout;
        if let Ok(Ok(turn)) = tokio::time::timeout(wait, self.turns.clone().acquire_owned()).await {
            return Ok(turn);
        }
        let message = format!(
            "{} questions of usage (query.concurrency) are in the store, and none ended within {wait:?} \
             (query.queue_timeout): try again after a moment",
            self.limits.concurrency
        );
        Err(Problem::unavailable(message, RETRY_AFTER).with("setting", "query.concurrency"))
    }

    fn store_limits(&self) -> Limits {
        Limits {
            timeout: self.limits.timeout,
            memory_bytes_max: Some(self.limits.memory_max.as_u64()),
            rows_read_max: Some(self.limits.rows_read_max).filter(|rows| *rows > 0),
            timeout_setting: "query.timeout",
            read_only: false,
        }
    }

    async fn select<T: Row>(&self, sql: Sql) -> Result<Vec<T>, Problem> {
        self.store.select_within(sql, self.store_limits()).await.map_err(store_problem)
    }

    async fn stream<T: Row>(&self, sql: Sql) -> Result<RowStream<T>, Problem> {
        self.store.stream_within(sql, self.store_limits()).await.map_err(store_problem)
    }
}

/// What the store's error means to whoever asked.
fn store_problem(error: StoreError) -> Problem {
    match error {
        StoreError::Timeout { setting, .. } => {
            let message = format!("the question took longer than {setting} allows: ask for a shorter range");
            Problem::unavailable(message, RETRY_AFTER).with("setting", setting).because(error)
        }
        StoreError::Limit { setting, .. } => {
            let message = format!("the question needs more than {setting} allows: ask for a shorter range");
            Problem::new(ErrorCode::ValidationError, message).with("setting", setting).because(error)
        }
        StoreError::Query(_) => Problem::internal(error),
        StoreError::Unavailable(_) | StoreError::Schema { .. } | StoreError::Engine(_) => {
            let message =
                "the event store does not answer now; nothing is lost, and it is tried again by itself";
            Problem::unavailable(message, RETRY_AFTER).because(error)
        }
    }
}

/// What the metadata database's error means to whoever asked.
fn meta_problem(error: MetaError) -> Problem {
    match error {
        MetaError::Unavailable(_) => {
            Problem::unavailable("the metadata database does not answer; try again", RETRY_AFTER)
                .because(error)
        }
        MetaError::Exists(_) => Problem::new(ErrorCode::AlreadyExists, error.to_string()),
        MetaError::Missing(_) => Problem::new(ErrorCode::NotFound, error.to_string()),
        MetaError::Full { max, setting, .. } => Problem::new(ErrorCode::TooManyRequests, error.to_string())
            .with("max", max)
            .with("setting", setting),
        other => Problem::internal(other),
    }
}

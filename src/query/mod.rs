//! Store → answers: one question a file.
//!
//! Promises:
//! - An event counts once in every answer, at once: every question reads the deduplicated view.
//! - An answer holds rows of the caller's project and environment only: every statement begins in one place
//!   (`statement.rs`) that puts them in.
//! - Values enter statements through [`crate::store::Sql`] alone.
//! - Every question is bounded: in time (`query.timeout`), memory (`query.memory_max`), size of its answer
//!   (`query.page_rows_max`, `query.buckets_max`, `query.breakdown_values_max`, `query.points_max`) and in how many run
//!   at once (`query.concurrency`, `query.queue_timeout`). Over a bound, the error names its setting.
//!
//! Must not: write to the store, or name another stage's words.
//!
//! | file | question |
//! |---|---|
//! | `events.rs` | the list of events |
//! | `live.rs` | events as they arrive |
//! | `trace.rs` | what became of one event |
//! | `names.rs` | which events and properties there are |
//! | `values.rs` | which values a property has |
//! | `persons.rs` | who there is |
//! | `groups/` | of which companies, teams, … events are |
//! | `cohorts.rs` | sets of people, to filter by |
//! | `test_accounts.rs` | whom a question leaves out when it is told to |
//! | `expression.rs` | expressions of the caller's own, wherever a question takes one |
//! | `extraction/` | which properties have a column of their own |
//! | `dashboards.rs` | questions that people keep |
//! | `sql/` | SQL of the caller's own |
//! | `trends/` | how many, over time |
//! | `v1/` | the list of events on `/v1/events`, in FlexPrice's words |
//! | `funnel/` | how many come from step to step |
//! | `retention/` | how many come back |
//! | `lifecycle.rs` | who is new, who stayed, who came back, who left |
//! | `stickiness.rs` | in how many intervals people are active |
//! | `paths/` | what people do one after the other |
//! | `attributed.rs` | what a rule of attribution credited |
//!
//! A question is a typed request, checked into a plan, rendered as [`crate::store::Sql`], and its rows are made into
//! the answer; everything before and after the store is pure.

mod activity;
mod actor;
pub mod attributed;
mod backlog;
mod cache;
pub mod chosen;
pub mod cohorts;
mod csv;
pub mod dashboards;
pub mod events;
pub mod expression;
pub mod extraction;
mod fair;
pub mod filter;
pub mod funnel;
mod gather;
pub mod groups;
pub mod http;
pub mod interval;
mod journal;
pub mod lifecycle;
pub mod live;
pub mod names;
mod pages;
pub mod paths;
mod people;
mod period;
pub mod persons;
pub mod range;
pub mod retention;
mod saved;
mod session;
pub mod sql;
mod statement;
pub mod stickiness;
pub mod test_accounts;
#[cfg(test)]
mod tests;
pub mod trace;
pub mod trends;
pub mod v1;
pub mod values;
mod zones;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::{self, Config};
use crate::event::{Clock, ProjectId, Scope, Timestamp};
use crate::eventlog::EventLog;
use crate::http::{ErrorCode, Problem};
use crate::store::{Limits, Row, RowStream, Sql, Store, StoreError};
use actor::Merged;
use backlog::BacklogReader;
use cache::Answers;
use extraction::Uses;
use fair::Fair;
use journal::Journal;
use trends::closed::Closed;

pub use chosen::People;
pub use filter::{Filter, FilterKind, Filters, Operator, PropertyKind};
pub use interval::{Interval, WeekStart};
pub use journal::Statement;

/// Answers questions. Cheap to clone.
#[derive(Clone)]
pub struct Query {
    store: Store,
    backlog: BacklogReader,
    limits: config::Query,
    dlq_topic: Arc<str>,
    /// Topics of other programs whose records are events, and where those belong that do not say.
    sources: Arc<[(BacklogReader, Option<Scope>)]>,
    clock: Arc<dyn Clock>,
    turns: Arc<Semaphore>,
    /// Places for streams.
    live: Arc<Semaphore>,
    merged: Arc<Merged>,
    answers: Answers,
    closed: Closed,
    uses: Arc<Uses>,
    /// Of cohorts and dashboards.
    database: Option<crate::meta::Meta>,
    /// Turns of each project.
    fair: Arc<Fair>,
    project: Option<ProjectId>,
    journal: Arc<Journal>,
    zones: zones::Zones,
}

/// What an answer says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Meta {
    /// Rows that the store read for it.
    pub rows_read: u64,
    pub elapsed_ms: u64,
    /// Did it come from what was remembered?
    pub cached: bool,
    /// Every event that was accepted before this moment is in the answer (unless it was refused: see the dead
    /// letters). Null: the event log could not be asked.
    pub complete_to: Option<Timestamp>,
    /// What the store was asked, when the question was sent with `?explain=1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statements: Option<Vec<Statement>>,
}

/// A question under way: holds its turn, and what is known about what it will see.
pub(crate) struct Asked {
    began: Instant,
    complete_to: Option<Timestamp>,
    journal: Arc<Journal>,
    _turn: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

impl Asked {
    fn meta(&self) -> Meta {
        let elapsed = self.began.elapsed().as_millis();
        Meta {
            rows_read: self.journal.rows_read(),
            elapsed_ms: u64::try_from(elapsed).unwrap_or(u64::MAX),
            cached: false,
            complete_to: self.complete_to,
            statements: self.journal.statements(),
        }
    }
}

/// What a trace looks through besides the topic of events: sources whose records are events.
fn sources(
    log: &Arc<dyn EventLog>,
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> Arc<[(BacklogReader, Option<Scope>)]> {
    let group = &config.consumer.sources_group_id;
    let of_events = config.consumer.sources.iter().filter(|source| {
        matches!(source.decoder, config::SourceDecoder::Flexflow | config::SourceDecoder::Flexprice)
    });
    let reader = |source: &config::Source| {
        let scope = source.scope().map(|(project, environment)| Scope::new(project, environment));
        (BacklogReader::new(log.clone(), &source.topic, group, clock.clone()), scope)
    };
    of_events.map(reader).collect()
}

impl Query {
    /// Answers from `store`; `log` tells how far the store is behind.
    pub fn new(store: Store, log: Arc<dyn EventLog>, config: &Config, clock: Arc<dyn Clock>) -> Self {
        let sources = sources(&log, config, &clock);
        let backlog =
            BacklogReader::new(log, &config.topics.events, &config.consumer.group_id, clock.clone());
        let limits = config.query.clone();
        let turns = Arc::new(Semaphore::new(limits.concurrency.max(1)));
        let live = Arc::new(Semaphore::new(limits.live_clients_max));
        let dlq_topic = config.consumer.dlq_topic.as_str().into();
        let journal = Arc::new(Journal::new(false));
        let answers = Answers::new(&limits);
        let closed = Closed::new(&limits);
        Self {
            store,
            backlog,
            limits,
            dlq_topic,
            sources,
            clock,
            turns,
            live,
            merged: Arc::default(),
            answers,
            closed,
            uses: Arc::default(),
            database: None,
            fair: Arc::default(),
            project: None,
            journal,
            zones: zones::Zones::new(config),
        }
    }

    /// The same with cohorts and dashboards, which `database` keeps.
    #[must_use]
    pub fn with_database(self, database: crate::meta::Meta) -> Self {
        Self { database: Some(database), ..self }
    }

    /// The same for questions of this scope's project, which take turns of the project too.
    #[must_use]
    pub(crate) fn within(&self, scope: &Scope) -> Self {
        Self { project: Some(scope.project.clone()), ..self.clone() }
    }

    /// The same for one question, whose reads are counted for its [`Meta`] and, to explain it, shown there.
    #[must_use]
    pub(crate) fn for_question(&self, explain: bool) -> Self {
        Self { journal: Arc::new(Journal::new(explain)), ..self.clone() }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// See [`turn`].
    async fn begin(&self) -> Result<Asked, Problem> {
        let began = Instant::now();
        let own = match &self.project {
            Some(project) => {
                let turns = self.fair.of(project, self.limits.project_turns().0);
                Some(own_turn(&turns, &self.limits).await?)
            }
            None => None,
        };
        let turn = turn(&self.turns, &self.limits).await?;
        // Before the store is read, so that it is true of what will be read.
        let complete_to = self.backlog.complete_to().await;
        Ok(Asked { began, complete_to, journal: self.journal.clone(), _turn: (turn, own) })
    }

    /// Asks the store, within this room's limits.
    async fn select<T: Row>(&self, sql: Sql) -> Result<Vec<T>, Problem> {
        let began = Instant::now();
        let text = self.journal.keeps().then(|| self.store.asked(&sql));
        let expression = expression::field_of(&sql);
        let counted = self.store.select_counted(sql, self.store_limits()).await;
        let (rows, rows_read) = counted.map_err(|error| problem_of(error, expression.as_deref()))?;
        self.journal.read(text, rows_read, began.elapsed());
        Ok(rows)
    }

    /// As [`Query::select`]; the store refuses whatever does more than read.
    async fn select_read_only<T: Row>(&self, sql: Sql) -> Result<Vec<T>, Problem> {
        let began = Instant::now();
        let text = self.journal.keeps().then(|| self.store.asked(&sql));
        let limits = Limits { read_only: true, ..self.store_limits() };
        let (rows, rows_read) = self.store.select_counted(sql, limits).await.map_err(problem)?;
        self.journal.read(text, rows_read, began.elapsed());
        Ok(rows)
    }

    /// Asks the store for an answer that is read block by block. Dropped before its end, it ends the question.
    async fn stream<T: Row>(&self, sql: Sql) -> Result<Blocks<T>, Problem> {
        let began = Instant::now();
        let text = self.journal.keeps().then(|| self.store.asked(&sql));
        let expression = expression::field_of(&sql);
        let rows = self.store.stream_within(sql, self.store_limits()).await;
        let rows = rows.map_err(|error| problem_of(error, expression.as_deref()))?;
        Ok(Blocks { rows, text, expression, began, journal: self.journal.clone() })
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
}

/// An answer under way, read block by block; what it cost is written down when it is dropped.
pub(crate) struct Blocks<T: Row> {
    rows: RowStream<T>,
    text: Option<String>,
    /// The field of the caller's own expression in it.
    expression: Option<String>,
    began: Instant,
    journal: Arc<Journal>,
}

impl<T: Row> Blocks<T> {
    /// The next rows; `None` at the end of the whole answer.
    ///
    /// # Errors
    /// Those of [`problem_of`].
    pub(crate) async fn next_chunk(&mut self) -> Result<Option<Vec<T>>, Problem> {
        self.rows.next_chunk().await.map_err(|error| problem_of(error, self.expression.as_deref()))
    }
}

impl<T: Row> Drop for Blocks<T> {
    fn drop(&mut self) {
        self.journal.read(self.text.take(), self.rows.rows_read(), self.began.elapsed());
    }
}

/// A turn of the project; it ends when it is dropped.
///
/// # Errors
/// 503: as many questions of the project as `query.project_concurrency` and `query.project_memory_max` allow are in the store, and none ended in
/// `query.queue_timeout`.
async fn own_turn(turns: &Arc<Semaphore>, limits: &config::Query) -> Result<OwnedSemaphorePermit, Problem> {
    let wait = limits.queue_timeout;
    if let Ok(Ok(turn)) = tokio::time::timeout(wait, turns.clone().acquire_owned()).await {
        return Ok(turn);
    }
    let (count, setting) = limits.project_turns();
    let message = format!(
        "{count} questions of this project ({setting}) are in the store, and none ended within {wait:?} \
         (query.queue_timeout): try again after a moment"
    );
    Err(Problem::unavailable(message, Duration::from_secs(1)).with("setting", setting))
}

/// A turn to ask the store; it ends when it is dropped.
///
/// # Errors
/// 503: as many questions as `query.concurrency` allows are in the store, and none ended in `query.queue_timeout`.
async fn turn(turns: &Arc<Semaphore>, limits: &config::Query) -> Result<OwnedSemaphorePermit, Problem> {
    let wait = limits.queue_timeout;
    if let Ok(Ok(turn)) = tokio::time::timeout(wait, turns.clone().acquire_owned()).await {
        return Ok(turn);
    }
    let message = format!(
        "{} questions (query.concurrency) are in the store, and none ended within {wait:?} (query.queue_timeout): \
         try again after a moment",
        limits.concurrency
    );
    Err(Problem::unavailable(message, Duration::from_secs(1)).with("setting", "query.concurrency"))
}

/// What the store's error means to whoever asked, in whose statement the expression of this field is.
fn problem_of(error: StoreError, expression: Option<&str>) -> Problem {
    match expression.and_then(|field| expression::problem(&error, field)) {
        Some(problem) => problem.because(error),
        None => problem(error),
    }
}

/// What the store's error means to whoever asked.
fn problem(error: StoreError) -> Problem {
    let retry = Duration::from_secs(1);
    let text = error.to_string();
    // CANNOT_COMPILE_REGEXP: the one mistake of a client that only the store can find.
    if text.contains("(427)") || text.contains("cannot compile re2") {
        let message = "a regular expression of a filter cannot be compiled; its syntax is RE2's";
        return Problem::invalid("filters", message).because(error);
    }
    match error {
        StoreError::Timeout { setting, .. } => {
            let message = format!(
                "the question took longer than {setting} allows: ask for a shorter range, or for fewer series"
            );
            Problem::unavailable(message, retry).with("setting", setting).because(error)
        }
        StoreError::Limit { setting, .. } => {
            let message = format!(
                "the question needs more than {setting} allows: ask for a shorter range, or for fewer values"
            );
            Problem::new(ErrorCode::ValidationError, message).with("setting", setting).because(error)
        }
        StoreError::Query(_) => Problem::internal(error),
        StoreError::Unavailable(_) | StoreError::Schema { .. } | StoreError::Engine(_) => {
            let message =
                "the event store does not answer now; nothing is lost, and it is tried again by itself";
            Problem::unavailable(message, retry).because(error)
        }
    }
}

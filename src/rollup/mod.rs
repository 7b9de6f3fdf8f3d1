//! Gold and silver: how often each event happened in each hour and day, and what its properties were like.
//!
//! A day of an environment is built at once, from the deduplicated events, by one statement that writes all of its rows
//! under one version and deletes those that are gone; of two builds the one that began to read later counts. So neither a
//! duplicate, nor a replay, nor a crash, nor two builds at the same time can inflate anything: a build is a function of
//! the events, and doing it again changes nothing.
//!
//! Which days are built: those with an event that was stored (or deleted) since the last build that ended, by jobs on a
//! schedule; or a range that somebody asks for.

mod build;
pub mod http;
mod schedule;

use std::str::FromStr as _;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use croner::Cron;
use serde::{Deserialize, Serialize};

use crate::config;
use crate::event::{Clock, Scope, Timestamp};
use crate::job::{Handler, Jobs, JobsError, NewJob, Overview};
use crate::meta::JobFilter;
use crate::store::{Sql, Store, StoreError};

/// The kind of these jobs.
pub const KIND: &str = "rollup.build";
/// Milliseconds of a day.
const DAY: i64 = 86_400_000;

/// A range of days that somebody asked for; never changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Asked {
    scope: Scope,
    /// Days since 1970, UTC; both included.
    from: i64,
    to: i64,
}

/// What to build: what was asked for, or all that changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Spec {
    asked: Option<Asked>,
}

/// Builds the rollups. Cheap to clone.
#[derive(Clone)]
pub struct Rollups {
    store: Store,
    jobs: Jobs,
    clock: Arc<dyn Clock>,
    /// None: nothing is built by itself.
    schedule: Option<Arc<Cron>>,
    config: config::Rollup,
}

/// What there is, for people.
#[derive(Debug, Serialize)]
pub struct Status {
    /// As `rollup.schedule` says it; empty: nothing is built by itself.
    pub schedule: String,
    pub next_at: Option<Timestamp>,
    /// The newest job that this caller may see.
    pub last_job: Option<Overview>,
    pub days: u64,
    pub first_day: Option<Timestamp>,
    pub last_day: Option<Timestamp>,
    /// When the newest build began to read.
    pub built_at: Option<Timestamp>,
    pub hourly_rows: u64,
    pub daily_rows: u64,
    pub quality_rows: u64,
}

impl Rollups {
    /// # Errors
    /// `rollup.schedule` is no cron expression.
    pub fn new(
        store: Store,
        jobs: Jobs,
        config: &config::Rollup,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let text = config.schedule.trim();
        let schedule = match text {
            "" => None,
            text => Some(Arc::new(Cron::from_str(text).map_err(|error| {
                anyhow::anyhow!("rollup.schedule: given {text:?}, expected a cron expression such as \"5 * * * *\": {error}")
            })?)),
        };
        Ok(Self { store, jobs, clock, schedule, config: config.clone() })
    }

    /// Does these jobs, for [`crate::job::run`].
    pub fn handlers(&self) -> Vec<Arc<dyn Handler>> {
        vec![Arc::new(build::Build(self.clone()))]
    }

    /// When the schedule says next.
    fn next_at(&self) -> Option<Timestamp> {
        let now: DateTime<Utc> = DateTime::from_timestamp_millis(self.clock.now().as_millis())?;
        let next = self.schedule.as_ref()?.find_next_occurrence(&now, false).ok()?;
        Some(Timestamp::from_millis(next.timestamp_millis()))
    }

    /// Queues a build of these days.
    ///
    /// # Errors
    /// See [`JobsError`].
    async fn ask(&self, asked: Asked) -> Result<Overview, JobsError> {
        let project = asked.scope.project.clone();
        let spec = serde_json::to_value(Spec { asked: Some(asked) }).unwrap_or_default();
        self.jobs.start(NewJob { project: Some(&project), kind: KIND, spec }).await
    }

    /// What there is in this scope.
    ///
    /// # Errors
    /// The store or the database does not answer.
    async fn status(&self, scope: &Scope, of_all: bool) -> Result<Status, StatusError> {
        let within = |table: &'static str, columns: &'static str| {
            Sql::new("SELECT ")
                .push(columns)
                .push(" FROM ")
                .push(table)
                .push(" FINAL WHERE project_id = ")
                .arg(scope.project.as_str())
                .push(" AND environment_id = ")
                .arg(scope.environment.as_str())
        };
        let columns = "countIf(grain = 'hour') AS a, countIf(grain = 'day') AS b, uniqExactIf(bucket, grain = 'day') AS \
                       c, min(toDateTime64(bucket, 3, 'UTC')) AS d, maxIf(toDateTime64(bucket, 3, 'UTC'), grain = 'day') \
                       AS e, max(version) AS f";
        let found: Vec<(u64, u64, u64, Timestamp, Timestamp, u64)> =
            self.store.select(within("event_rollups", columns)).await?;
        let (hourly_rows, daily_rows, days, first, last, version) =
            found.into_iter().next().unwrap_or_default();
        let quality: Vec<(u64,)> = self.store.select(within("event_quality", "count() AS a")).await?;
        let filter = JobFilter { kind: Some(KIND), ..JobFilter::default() };
        let project = (!of_all).then_some(&scope.project);
        let last_job = self.jobs.list(project, filter, 1).await?.into_iter().next();
        let there = days > 0;
        Ok(Status {
            schedule: self.config.schedule.clone(),
            next_at: self.next_at(),
            last_job,
            days,
            first_day: there.then_some(first),
            last_day: there.then_some(last),
            built_at: there
                .then(|| Timestamp::from_millis(i64::try_from(version / 1000).unwrap_or(i64::MAX))),
            hourly_rows,
            daily_rows,
            quality_rows: quality.first().map_or(0, |(rows,)| *rows),
        })
    }
}

/// The status could not be told.
#[derive(Debug, thiserror::Error)]
enum StatusError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Jobs(#[from] JobsError),
}

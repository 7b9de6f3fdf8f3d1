//! The job: which days, and one day.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Asked, DAY, KIND, Rollups, Spec};
use crate::event::{Scope, Timestamp};
use crate::job::{Handler, JobContext, JobError, Step, Then};
use crate::meta::{JobFilter, JobState};
use crate::store::{Limits, Sql};

/// Days that one job builds at most; the next one finds the rest.
const DAYS_MAX: u64 = 20_000;
/// Ended jobs that are looked through for the last one that ended well.
const JOBS_LOOKED_AT: u64 = 100;
/// An insert may become visible this long after the time that its rows carry.
const SLACK: Duration = Duration::from_secs(300);

pub(super) struct Build(pub(super) Rollups);

/// A day of an environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Day {
    scope: Scope,
    /// Since 1970, UTC.
    day: i64,
}

/// How far it came.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct At {
    /// What is left, last first; none: not looked yet.
    days: Option<Vec<Day>>,
    built: u64,
    /// All that was stored before then was looked at.
    seen_to: Timestamp,
    /// There were more days than one job builds.
    cut: bool,
}

#[async_trait]
impl Handler for Build {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn step(
        &self,
        context: &JobContext,
        spec: &Value,
        checkpoint: Option<&Value>,
    ) -> Result<Step, JobError> {
        let fatal = |error: serde_json::Error| JobError::Fatal(error.to_string());
        let spec = Spec::deserialize(spec).map_err(fatal)?;
        let mut at = checkpoint.map_or(Ok(At::default()), At::deserialize).map_err(fatal)?;
        match &mut at.days {
            None => {
                // First: what is stored from here on is the next job's.
                at.seen_to = self.0.clock.now();
                let mut days = match &spec.asked {
                    Some(asked) => self.asked(asked).await?,
                    None => self.changed().await?,
                };
                at.cut = days.len() as u64 >= DAYS_MAX;
                days.reverse();
                at.days = Some(days);
            }
            Some(days) => {
                if let Some(day) = days.last() {
                    context.confirm().await?;
                    self.build(day).await?;
                    days.pop();
                    at.built += 1;
                }
            }
        }
        let left = at.days.as_ref().map_or(0, Vec::len);
        let then = if left == 0 { Then::Done } else { Then::Continue(Duration::ZERO) };
        let is_whole = spec.asked.is_none() && !at.cut;
        let progress =
            json!({ "days_built": at.built, "days_left": left, "seen_to": is_whole.then_some(at.seen_to) });
        Ok(Step { checkpoint: serde_json::to_value(&at).map_err(fatal)?, progress, then })
    }
}

/// Project, environment, days since 1970.
type Found = (String, String, i64);

impl Build {
    fn limits(&self) -> Limits {
        let config = &self.0.config;
        Limits {
            timeout: config.timeout,
            memory_bytes_max: Some(config.memory_max.as_u64()),
            rows_read_max: None,
            timeout_setting: "rollup.timeout",
            read_only: false,
        }
    }

    async fn find(&self, sql: Sql) -> Result<Vec<Day>, JobError> {
        let found: Vec<Found> = self.0.store.select_within(sql, self.limits()).await?;
        let day = |(project, environment, day): Found| Day { scope: Scope::new(project, environment), day };
        Ok(found.into_iter().map(day).collect())
    }

    /// Days with a row that was stored since the last job that looked at all of them.
    async fn changed(&self) -> Result<Vec<Day>, JobError> {
        let since = self.seen_to().await?.minus(SLACK);
        self.find(
            Sql::new(
                "SELECT project_id AS a, environment_id AS b, toInt64(toRelativeDayNum(toDate(timestamp))) AS c FROM events \
                 WHERE ingested_at >= ",
            )
            .arg(since)
            .push(" GROUP BY a, b, c ORDER BY c, a, b LIMIT ")
            .arg(DAYS_MAX),
        )
        .await
    }

    /// What the last job that built everything has seen.
    async fn seen_to(&self) -> Result<Timestamp, JobError> {
        let filter = JobFilter { kind: Some(KIND), state: Some(JobState::Succeeded), before: None };
        let ended = self.0.jobs.list(None, filter, JOBS_LOOKED_AT).await?;
        let seen =
            ended.iter().filter_map(|job| Timestamp::parse(job.progress.as_ref()?["seen_to"].as_str()?).ok());
        Ok(seen.max().unwrap_or(Timestamp::EPOCH))
    }

    /// Days of the range that have events, or rows that may have to go.
    async fn asked(&self, asked: &Asked) -> Result<Vec<Day>, JobError> {
        let scoped = |sql: Sql, day: &'static str| {
            sql.push(" WHERE project_id = ")
                .arg(asked.scope.project.as_str())
                .push(" AND environment_id = ")
                .arg(asked.scope.environment.as_str())
                .push(" AND ")
                .push(day)
                .push(" BETWEEN ")
                .arg(asked.from)
                .push(" AND ")
                .arg(asked.to)
        };
        let events = scoped(
            Sql::new(
                "SELECT project_id AS a, environment_id AS b, toInt64(toRelativeDayNum(toDate(timestamp))) AS c FROM events",
            ),
            "toInt64(toRelativeDayNum(toDate(timestamp)))",
        );
        let rollups = scoped(
            Sql::new(
                "SELECT project_id AS a, environment_id AS b, toInt64(toRelativeDayNum(toDate(bucket))) AS c FROM event_rollups",
            ),
            "toInt64(toRelativeDayNum(toDate(bucket)))",
        );
        self.find(
            Sql::new("SELECT a, b, c FROM (")
                .append(&events)
                .push(" UNION ALL ")
                .append(&rollups)
                .push(") GROUP BY a, b, c ORDER BY c, a, b LIMIT ")
                .arg(DAYS_MAX),
        )
        .await
    }

    /// Builds a day: three statements, each of which replaces its rows at once.
    async fn build(&self, day: &Day) -> Result<(), JobError> {
        for statement in [
            counts(day, "hour", "toStartOfHour(timestamp, 'UTC')"),
            counts(day, "day", "toStartOfDay(timestamp, 'UTC')"),
            self.quality(day),
        ] {
            let limits = self.limits();
            let done: Result<Vec<(u8,)>, _> = self.0.store.select_within(statement, limits).await;
            done?;
        }
        Ok(())
    }

    /// What the properties of the events of a day are like.
    fn quality(&self, day: &Day) -> Sql {
        let scope = scope_of(day);
        Sql::new(
            "INSERT INTO event_quality (project_id, environment_id, day, event_name, property, events, present, missing, \
             texts, numbers, booleans, nulls, objects, arrays, drifted, out_of_range, smallest, greatest, version, \
             is_deleted) SELECT ",
        )
        .append(&literals(day))
        .push(", toDate(")
        .arg(start(day))
        .push(
            ") AS day, event_name, property, sum(of_name), sum(has), sum(of_name) - sum(has), sum(texts), sum(numbers), \
             sum(booleans), sum(nulls), sum(objects), sum(arrays), sum(drifted), sum(outside), sum(least), sum(most), ",
        )
        .append(&version())
        .push(", toUInt8(sum(fresh) = 0) FROM (SELECT v.event_name AS event_name, property, n.of_name AS of_name, has, texts, \
               numbers, booleans, nulls, objects, arrays, toUInt64(texts + numbers + booleans + objects + arrays - \
               greatest(texts, numbers, booleans, objects, arrays)) AS drifted, \
               toUInt64(arrayCount(x -> x < q[1] - 3 * (q[2] - q[1]) OR x > q[2] + 3 * (q[2] - q[1]), numeric)) AS outside, \
               if(empty(numeric), 0., arrayMin(numeric)) AS least, if(empty(numeric), 0., arrayMax(numeric)) AS most, \
               toUInt64(1) AS fresh FROM (SELECT event_name, tupleElement(kv, 1) AS property, count() AS has, \
               countIf(c = '\"') AS texts, countIf(c IN ('{')) AS objects, countIf(c IN ('[')) AS arrays, \
               countIf(c IN ('t', 'f')) AS booleans, countIf(c = 'n') AS nulls, \
               countIf(c NOT IN ('\"', '{', '[', 't', 'f', 'n')) AS numbers, \
               groupArrayIf(toFloat64OrZero(tupleElement(kv, 2)), c NOT IN ('\"', '{', '[', 't', 'f', 'n')) AS numeric, \
               quantilesExactInclusiveIf(0.25, 0.75)(toFloat64OrZero(tupleElement(kv, 2)), c NOT IN ('\"', '{', '[', 't', \
               'f', 'n')) AS q FROM (SELECT event_name, arrayJoin(JSONExtractKeysAndValuesRaw(properties)) AS kv, \
               substring(tupleElement(kv, 2), 1, 1) AS c FROM events FINAL WHERE ")
        .append(&scope)
        .push(" AND toDate(timestamp) = toDate(")
        .arg(start(day))
        .push(")) GROUP BY event_name, property ORDER BY has DESC LIMIT ")
        .arg(self.0.config.properties_max)
        .push(
            " BY event_name) AS v INNER JOIN (SELECT event_name, count() AS of_name FROM events FINAL WHERE ",
        )
        .append(&scope)
        .push(" AND toDate(timestamp) = toDate(")
        .arg(start(day))
        .push(
            ") GROUP BY event_name) AS n ON v.event_name = n.event_name UNION ALL SELECT event_name, property, 0, 0, 0, 0, 0, \
             0, 0, 0, 0, 0, 0., 0., 0 FROM event_quality FINAL WHERE ",
        )
        .append(&scope)
        .push(" AND day = toDate(")
        .arg(start(day))
        .push(")) GROUP BY event_name, property")
    }
}

/// How often each event happened in the buckets of a day.
fn counts(day: &Day, grain: &'static str, bucket: &'static str) -> Sql {
    let scope = scope_of(day);
    Sql::new(
        "INSERT INTO event_rollups (project_id, environment_id, grain, bucket, event_name, events, people, sessions, \
         version, is_deleted) SELECT ",
    )
    .append(&literals(day))
    .push(", ")
    .arg(grain)
    .push(" AS grain, bucket, event_name, sum(n), sum(people), sum(sessions), ")
    .append(&version())
    .push(", toUInt8(sum(fresh) = 0) FROM (SELECT toDateTime(")
    .push(bucket)
    .push(
        ", 'UTC') AS bucket, event_name, count() AS n, uniqExact(distinct_id) AS people, uniqExactIf(session_id, \
         session_id != '') AS sessions, toUInt64(1) AS fresh FROM events FINAL WHERE ",
    )
    .append(&scope)
    .push(" AND toDate(timestamp) = toDate(")
    .arg(start(day))
    .push(") GROUP BY bucket, event_name UNION ALL SELECT bucket, event_name, 0, 0, 0, 0 FROM event_rollups FINAL WHERE ")
    .append(&scope)
    .push(" AND grain = ")
    .arg(grain)
    .push(" AND toDate(bucket) = toDate(")
    .arg(start(day))
    .push(")) GROUP BY bucket, event_name")
}

fn scope_of(day: &Day) -> Sql {
    Sql::new("project_id = ")
        .arg(day.scope.project.as_str())
        .push(" AND environment_id = ")
        .arg(day.scope.environment.as_str())
}

fn literals(day: &Day) -> Sql {
    Sql::new("")
        .arg(day.scope.project.as_str())
        .push(" AS project_id, ")
        .arg(day.scope.environment.as_str())
        .push(" AS environment_id")
}

/// The store's time when the statement began to read.
fn version() -> Sql {
    Sql::new("toUInt64(toUnixTimestamp64Micro(now64(6)))")
}

fn start(day: &Day) -> Timestamp {
    Timestamp::from_millis(day.day * DAY)
}

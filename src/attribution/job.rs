//! The job that applies a rule to a range of the past: after a rule is made or changed, and when somebody asks for it.
//!
//! A day is a step. Events that came while a process did not know the rule (or its new version) are all stored before the
//! first day is read: the job waits until every process has forgotten the older rules (`attribution.cache_ttl`), then
//! until the store has what the log had by then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::credit::{Affected, merged};
use super::recompute::{self, Standing, Written};
use super::rule::Rule;
use super::{Attribution, AttributionError};
use crate::event::{Scope, SystemEventKind, Timestamp};
use crate::eventlog;
use crate::job::{Handler, JobContext, JobError, Jobs, JobsError, NewJob, Step, Then};
use crate::notice::SystemEvent;
use crate::store::Sql;

/// The kind of these jobs.
pub const KIND: &str = "attribution.recompute";
/// How often the job looks whether what it waits for is there.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const DAY: Duration = Duration::from_secs(86_400);

/// What to compute; never changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Spec {
    scope: Scope,
    rule_id: String,
    /// The first and the last moment of the target events.
    from: Timestamp,
    to: Timestamp,
    /// Not before then.
    begins: Timestamp,
}

/// How far it came.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct At {
    /// Ends of the log that the store must have; none: not looked yet.
    wanted: Option<Vec<(i32, i64)>>,
    /// The next day; none: not begun.
    day: Option<Timestamp>,
    done: Done,
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Done {
    days: u64,
    conversions: u64,
    removed: u64,
}

impl Attribution {
    /// Queues the computing of a rule's target events from one moment to another.
    ///
    /// # Errors
    /// See [`JobsError`].
    pub async fn queue(
        &self,
        jobs: &Jobs,
        scope: &Scope,
        rule_id: &str,
        (from, to): (Timestamp, Timestamp),
    ) -> Result<String, JobsError> {
        let begins = self.now().plus(self.config.cache_ttl * 2);
        let spec = Spec { scope: scope.clone(), rule_id: rule_id.to_owned(), from, to, begins };
        let spec = serde_json::to_value(&spec).unwrap_or_default();
        Ok(jobs.start(NewJob { project: Some(&scope.project), kind: KIND, spec }).await?.id)
    }

    /// Does these jobs, for [`crate::job::run`].
    pub fn handlers(&self) -> Vec<Arc<dyn Handler>> {
        vec![Arc::new(Recompute(self.clone()))]
    }
}

struct Recompute(Attribution);

#[async_trait]
impl Handler for Recompute {
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
        let then = self.advance(context, &spec, &mut at).await?;
        let progress = serde_json::to_value(at.done).map_err(fatal)?;
        Ok(Step { checkpoint: serde_json::to_value(&at).map_err(fatal)?, progress, then })
    }
}

impl Recompute {
    async fn advance(&self, context: &JobContext, spec: &Spec, at: &mut At) -> Result<Then, JobError> {
        let Some(wanted) = &at.wanted else {
            if self.0.now() >= spec.begins {
                at.wanted = Some(eventlog::ends(&*self.0.log, &self.0.events_topic).await?);
            }
            return Ok(Then::Continue(LOOK_EVERY));
        };
        let Some(rule) = self.0.rules.find(&spec.scope, &spec.rule_id).await? else {
            return Err(JobError::Fatal(format!("there is no rule {}", spec.rule_id)));
        };
        let Some(day) = at.day else {
            if !self.has_stored(wanted).await? {
                return Ok(Then::Continue(LOOK_EVERY));
            }
            at.day = Some(self.first_day(spec, &rule).await?);
            return Ok(Then::Continue(Duration::ZERO));
        };
        let last = spec.to.min(self.0.now().plus(DAY));
        if day <= last {
            context.confirm().await?;
            let from = day.max(spec.from);
            let to = Timestamp::from_millis(day.plus(DAY).as_millis() - 1).min(spec.to);
            let written = self.compute(&spec.scope, &rule, (from, to)).await?;
            at.done.days += 1;
            at.done.conversions += written.rows;
            at.done.removed += written.removed;
            at.day = Some(day.plus(DAY));
            return Ok(Then::Continue(Duration::ZERO));
        }
        self.tell(context, spec, &rule, at.done).await;
        Ok(Then::Done)
    }

    /// Has the store what the log had?
    async fn has_stored(&self, wanted: &[(i32, i64)]) -> Result<bool, JobError> {
        let (log, topic, group) = (&*self.0.log, &self.0.events_topic, &self.0.events_group);
        Ok(eventlog::has_passed(log, topic, group, wanted.iter().copied()).await?)
    }

    /// The first day of the range that has a target event or a row, so that years without any cost nothing.
    async fn first_day(&self, spec: &Spec, rule: &Rule) -> Result<Timestamp, AttributionError> {
        let scoped = |table: &'static str| {
            Sql::new("SELECT count() AS found, toInt64(toUnixTimestamp64Milli(min(")
                .push(if table == "events" { "timestamp" } else { "target_at" })
                .push("))) AS first FROM ")
                .push(table)
                .push(" WHERE project_id = ")
                .arg(spec.scope.project.as_str())
                .push(" AND environment_id = ")
                .arg(spec.scope.environment.as_str())
        };
        let from = recompute::day(spec.from);
        let events = scoped("events")
            .push(" AND event_name = ")
            .arg(&rule.definition.target)
            .push(" AND toDate(timestamp) >= ")
            .arg(&from);
        let rows = scoped("attributed_conversions")
            .push(" AND rule_id = ")
            .arg(&rule.id)
            .push(" AND toDate(target_at) >= ")
            .arg(&from);
        let mut first = Timestamp::MAX;
        for sql in [events, rows] {
            let found: Vec<(u64, i64)> = self.0.store.select(sql).await?;
            if let Some((1.., millis)) = found.first().copied() {
                first = first.min(Timestamp::from_millis(millis));
            }
        }
        let first = first.max(spec.from).as_millis();
        Ok(Timestamp::from_millis(first - first.rem_euclid(86_400_000)))
    }

    /// Makes the rows of a stretch what they should be.
    async fn compute(
        &self,
        scope: &Scope,
        rule: &Rule,
        (from, to): (Timestamp, Timestamp),
    ) -> Result<Written, AttributionError> {
        let attribution = &self.0;
        // Before anything is read, as everywhere.
        let version = rule.row_version(attribution.store.micros().await?);
        let targets = Sql::new("SELECT DISTINCT target_key AS key FROM (")
            .append(&recompute::select(scope, rule, from, to))
            .push(") WHERE target_key != ''");
        let mut keys = attribution.store.stream::<(String,)>(targets).await?;
        let mut written = Written::default();
        while let Some(chunk) = keys.next_chunk().await? {
            let affected = chunk.into_iter().map(|(key,)| Affected { key, from, to });
            let made = attribution.recompute(scope, rule, merged(affected), false).await?;
            written.rows += made.rows;
        }
        // What stands there and was not written just now belongs to targets that are gone, or that have no key any more.
        let stale = recompute::standing_sql(scope, rule, from, to).push(" AND version < ").arg(version);
        let mut stale = attribution.store.stream::<Standing>(stale).await?;
        let mut gone: BTreeSet<Standing> = BTreeSet::new();
        while let Some(chunk) = stale.next_chunk().await? {
            gone.extend(chunk);
        }
        let rows = recompute::gone(scope, rule, gone.into_iter().collect(), &[], version);
        written.removed = rows.len() as u64;
        attribution.write(&rows).await?;
        Ok(written)
    }

    async fn tell(&self, context: &JobContext, spec: &Spec, rule: &Rule, done: Done) {
        let payload = json!({
            "rule_id": rule.id,
            "rule_version": rule.version,
            "from": spec.from,
            "to": spec.to,
            "days": done.days,
            "conversions": done.conversions,
            "removed": done.removed,
        });
        let event = SystemEvent::of_scope(SystemEventKind::AttributionDone, spec.scope.clone(), payload);
        // The step may be done again, and a job that was cancelled resumed.
        let once = format!("{}/{}", context.job_id(), done.days);
        self.0.told.tell(vec![event.once(once)]).await;
    }
}

//! The job: waits until what it reads is all there, then does pages of all its ranges side by side, and keeps every
//! `reprocess.checkpoint_interval` how far each of them is.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::Reprocess;
use super::lanes::{Lane, Stretch, divided};
use super::order::{At, KIND, Order, Totals};
use super::page::Bench;
use crate::eventlog;
use crate::job::{Handler, JobContext, JobError, Step, Then};
use crate::meta::{JobFilter, JobState};
use crate::telemetry::names;
use crate::transform::Chosen;

/// How often the job looks whether what it waits for is there.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The number in the metadata database that generations are taken from.
const GENERATION: &str = "reprocess_generation";
/// Jobs looked through for one that has to end first.
const JOBS_MAX: u64 = 200;
/// Days of one job: more than there are.
const DAYS_MAX: u64 = 1_000_000;

pub(super) struct Work(pub(super) Reprocess);

/// What a step was kept from by waiting, and what follows.
type Advanced = (Then, Option<&'static str>);

#[async_trait]
impl Handler for Work {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn attempts_max(&self) -> Option<u32> {
        Some(self.0.config.attempts)
    }

    async fn step(
        &self,
        context: &JobContext,
        spec: &Value,
        checkpoint: Option<&Value>,
    ) -> Result<Step, JobError> {
        let fatal = |error: serde_json::Error| JobError::Fatal(error.to_string());
        let order = Order::deserialize(spec).map_err(fatal)?;
        let mut at = checkpoint.map_or(Ok(At::default()), At::deserialize).map_err(fatal)?;
        let began = Instant::now();
        let (then, waits_for) = match self.within_time(context, &mut at)? {
            false => (Then::Continue(Duration::ZERO), None),
            true => self.advance(context, &order, &mut at).await?,
        };
        let worked = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        at.worked_ms += worked;
        at.claim_worked_ms += worked;
        if then == Then::Done {
            self.finish(context, &order, &at);
        }
        let progress = at.progress(waits_for);
        Ok(Step { checkpoint: serde_json::to_value(&at).map_err(fatal)?, progress, then })
    }
}

impl Work {
    /// Is there time left? False: that there is none is to be kept first, so that whoever resumes the job has a whole
    /// `reprocess.timeout` again.
    fn within_time(&self, context: &JobContext, at: &mut At) -> Result<bool, JobError> {
        let config = &self.0.config;
        let millis = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        if at.claim != context.claim() {
            (at.claim, at.claim_worked_ms) = (context.claim(), 0);
        }
        if let Some(claim) = at.timed_out_in.take() {
            if claim == context.claim() {
                names::REPROCESS_TIMEOUTS.counter(&[]).increment(1);
                let limit = humantime::format_duration(config.timeout);
                return Err(JobError::Fatal(format!(
                    "it has worked for {limit} (reprocess.timeout): resume it, and it goes on where it is"
                )));
            }
            at.worked_ms = 0;
        }
        if at.worked_ms >= millis(config.timeout) {
            at.timed_out_in = Some(context.claim());
            return Ok(false);
        }
        if at.claim_worked_ms >= millis(config.attempt_timeout) {
            let limit = humantime::format_duration(config.attempt_timeout);
            return Err(JobError::Retry(format!(
                "this attempt has worked for {limit} (reprocess.attempt_timeout)"
            )));
        }
        Ok(true)
    }

    async fn advance(&self, context: &JobContext, order: &Order, at: &mut At) -> Result<Advanced, JobError> {
        let then = |wait: Duration, what: Option<&'static str>| Ok((Then::Continue(wait), what));
        if self.0.clock.now() < order.begins {
            return then(LOOK_EVERY, Some("every process to use this version of the transform"));
        }
        let Some(raw_ends) = &at.raw_ends else {
            at.received_until = self.0.clock.now();
            at.raw_ends = Some(self.ends(&self.0.raw_topic).await?);
            return then(Duration::ZERO, None);
        };
        if !self.has_passed(&self.0.raw_topic, &self.0.raw_group, raw_ends).await? {
            return then(LOOK_EVERY, Some("the stage of raw events to pass the end of their topic"));
        }
        let Some(event_ends) = &at.event_ends else {
            at.event_ends = Some(self.ends(&self.0.events_topic).await?);
            return then(Duration::ZERO, None);
        };
        if !self.has_passed(&self.0.events_topic, &self.0.events_group, event_ends).await? {
            return then(LOOK_EVERY, Some("the stage of events to pass the end of their topic"));
        }
        let Some(generation) = at.generation else {
            if self.has_to_wait(context, order).await? {
                return then(LOOK_EVERY, Some("an older job with another version of the transform"));
            }
            at.generation = Some(self.0.meta.next_number(GENERATION).await?);
            (at.lanes, at.estimated) = self.lanes(order).await?;
            return then(Duration::ZERO, None);
        };
        if at.lanes.iter().all(|lane| lane.done) {
            return Ok((Then::Done, None));
        }
        self.pages(context, order.clone(), at, generation).await
    }

    async fn ends(&self, topic: &str) -> Result<Vec<i64>, JobError> {
        let ends = eventlog::ends(&*self.0.log, topic).await?;
        Ok(ends.into_iter().map(|(_, end)| end).collect())
    }

    async fn has_passed(&self, topic: &str, group: &str, ends: &[i64]) -> Result<bool, JobError> {
        let ends = (0..).zip(ends.iter().copied());
        Ok(eventlog::has_passed(&*self.0.log, topic, group, ends).await?)
    }

    /// Is there an older job that would write something else of the same raw events?
    async fn has_to_wait(&self, context: &JobContext, order: &Order) -> Result<bool, JobError> {
        for state in [JobState::Running, JobState::Queued] {
            let filter = JobFilter { kind: Some(KIND), state: Some(state), before: Some(context.job_id()) };
            let older = self.0.jobs.list(Some(&order.scope.project), filter, JOBS_MAX).await?;
            for job in older {
                if Order::deserialize(&job.spec).is_ok_and(|other| order.contradicts(&other)) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The days of the order in as many ranges as it asks for, and how many raw events they have.
    async fn lanes(&self, order: &Order) -> Result<(Vec<Lane>, u64), JobError> {
        let days = self.0.ground.days(order, order.start_date, order.end_date, DAYS_MAX).await;
        let days = days?;
        let total = days.iter().map(|(_, raws)| raws).sum();
        Ok((divided(&days, order.parallelism, order.start_date, order.end_date), total))
    }

    /// Pages of all lanes that have any, side by side, until it is time for a checkpoint.
    async fn pages(
        &self,
        context: &JobContext,
        order: Order,
        at: &mut At,
        generation: u64,
    ) -> Result<Advanced, JobError> {
        let (config, dry_run) = (&self.0.config, order.dry_run);
        let chosen = Chosen::of(&order.transform.id, order.transform.version, order.transform.spec.clone());
        let page_bytes_max = usize::try_from(config.page_bytes_max.as_u64()).unwrap_or(usize::MAX);
        let bench = Arc::new(Bench {
            ground: self.0.ground.clone(),
            clock: self.0.clock.clone(),
            chosen: chosen.map_err(|error| JobError::Fatal(error.to_string()))?,
            limits: self.0.limits,
            generation,
            received_until: at.received_until,
            output_topic: config.output_topic.as_str().into(),
            dlq_topic: self.0.dlq_topic.clone(),
            dlq_record_bytes_max: self.0.dlq_record_bytes_max,
            page_bytes_max: page_bytes_max / order.parallelism.max(1),
            batches: at.totals.processed_batches.into(),
            order,
        });
        context.confirm().await?;
        let (began, cancelled) = (Instant::now(), context.cancelled());
        let enough = || cancelled.is_cancelled() || began.elapsed() >= config.checkpoint_interval;
        let Stretch { totals, failed } = bench.side_by_side(&mut at.lanes, &enough).await;
        if !dry_run {
            show(&totals);
        }
        at.totals.add(&totals);
        match failed {
            // Pages that are done are kept; what failed comes first next time.
            Some(error) if totals.processed_batches > 0 => {
                tracing::warn!(job_id = context.job_id(), %error, "a range of a reprocess job failed, to be tried again");
                Ok((Then::Continue(LOOK_EVERY), None))
            }
            Some(error) => Err(error),
            None => Ok((Then::Continue(Duration::ZERO), None)),
        }
    }

    fn finish(&self, context: &JobContext, order: &Order, at: &At) {
        let totals = &at.totals;
        tracing::info!(
            workflow_id = order.workflow_id(context.job_id()),
            run_id = context.job_id(),
            dry_run = order.dry_run,
            total_events_found = totals.total_events_found,
            total_events_published = totals.total_events_published,
            total_events_dropped = totals.total_events_dropped,
            total_transformation_errors = totals.total_transformation_errors,
            total_events_failed = totals.total_events_failed,
            processed_batches = totals.processed_batches,
            success_rate_percent = totals.success_rate_percent(),
            "raw events reprocessing complete"
        );
    }
}

fn show(totals: &Totals) {
    for (outcome, count) in [
        ("found", totals.total_events_found),
        ("published", totals.total_events_published),
        ("dropped", totals.total_events_dropped),
        ("transform_error", totals.total_transformation_errors),
        ("publish_failed", totals.total_events_failed),
    ] {
        names::REPROCESS_EVENTS.counter(&[("outcome", outcome)]).increment(count);
    }
    for (reason, count) in &totals.dropped_by_reason {
        names::REPROCESS_DROPPED.counter(&[("reason", reason)]).increment(*count);
    }
}

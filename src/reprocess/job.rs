//! The job: waits until what it reads is all there, then does page after page, each followed by a checkpoint.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::try_join_all;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::Reprocess;
use super::order::{At, KIND, Lane, Order, Totals};
use super::page::Bench;
use crate::event::Timestamp;
use crate::eventlog::TopicPartition;
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
const DAY: Duration = Duration::from_secs(86_400);

pub(super) struct Work(pub(super) Reprocess);

fn retry(error: impl std::fmt::Display) -> JobError {
    JobError::Retry(error.to_string())
}

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
            return Err(retry(format!("this attempt has worked for {limit} (reprocess.attempt_timeout)")));
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
            at.generation = Some(self.0.meta.next_number(GENERATION).await.map_err(retry)?);
            (at.lanes, at.estimated) = self.lanes(order).await?;
            return then(Duration::ZERO, None);
        };
        if at.lanes.iter().all(|lane| lane.done) {
            return Ok((Then::Done, None));
        }
        self.pages(context, order, at, generation).await?;
        then(Duration::ZERO, None)
    }

    /// Where a topic ends now.
    async fn ends(&self, name: &str) -> Result<Vec<i64>, JobError> {
        let topics = self.0.log.topics().await.map_err(retry)?;
        let topic = topics.into_iter().find(|topic| &*topic.name == name);
        let topic = topic.ok_or_else(|| retry(format!("topic {name} is missing")))?;
        Ok(topic.partitions.iter().map(|partition| partition.end).collect())
    }

    /// Has the group committed all of that? What the topic does not hold any more needs no commit.
    async fn has_passed(&self, topic: &str, group: &str, ends: &[i64]) -> Result<bool, JobError> {
        let committed = self.0.log.committed(group).await.map_err(retry)?;
        let at = |partition: i32| committed.get(&TopicPartition::new(topic, partition)).copied().unwrap_or(0);
        Ok((0..).zip(ends).all(|(partition, end)| at(partition) >= *end))
    }

    /// Is there an older job that would write something else of the same raw events?
    async fn has_to_wait(&self, context: &JobContext, order: &Order) -> Result<bool, JobError> {
        for state in [JobState::Running, JobState::Queued] {
            let filter = JobFilter { kind: Some(KIND), state: Some(state), before: Some(context.job_id()) };
            let older =
                self.0.jobs.list(Some(&order.scope.project), filter, JOBS_MAX).await.map_err(retry)?;
            for job in older {
                if Order::deserialize(&job.spec).is_ok_and(|other| order.contradicts(&other)) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The days of the order in as many ranges as it asks for, of about as many raw events each.
    async fn lanes(&self, order: &Order) -> Result<(Vec<Lane>, u64), JobError> {
        let days = self.0.ground.days(order).await.map_err(retry)?;
        let total: u64 = days.iter().map(|(_, raws)| raws).sum();
        let share = total.div_ceil(order.parallelism as u64).max(1);
        let mut lanes: Vec<Lane> = Vec::new();
        let mut held = 0;
        for (day, raws) in &days {
            let wanted = (held / share).min(order.parallelism as u64 - 1);
            if lanes.len() as u64 <= wanted {
                let from = (*day).max(order.start_date);
                lanes.push(Lane { from, to: from, after: None, day: None, done: false });
            }
            if let Some(lane) = lanes.last_mut() {
                let end = Timestamp::from_millis(day.plus(DAY).as_millis() - 1);
                lane.to = end.min(order.end_date);
            }
            held += raws;
        }
        Ok((lanes, total))
    }

    /// A page of each lane that has one, side by side.
    async fn pages(
        &self,
        context: &JobContext,
        order: &Order,
        at: &mut At,
        generation: u64,
    ) -> Result<(), JobError> {
        let chosen = Chosen::of(&order.transform.id, order.transform.version, order.transform.spec.clone());
        let chosen = Arc::new(chosen.map_err(|error| JobError::Fatal(error.to_string()))?);
        let bench = Bench {
            ground: &*self.0.ground,
            clock: &*self.0.clock,
            order,
            chosen: &chosen,
            limits: self.0.limits,
            generation,
            output_topic: &self.0.config.output_topic,
            dlq_topic: &self.0.dlq_topic,
            dlq_record_bytes_max: self.0.dlq_record_bytes_max,
            page_bytes_max: usize::try_from(self.0.config.page_bytes_max.as_u64()).unwrap_or(usize::MAX),
        };
        context.confirm().await?;
        let (received_until, first) = (at.received_until, at.totals.processed_batches);
        let open = at.lanes.iter_mut().filter(|lane| !lane.done);
        let working = (first..).zip(open).map(|(batch, lane)| {
            let bench = &bench;
            async move { bench.advance(lane, received_until, batch).await }
        });
        for totals in try_join_all(working).await? {
            if !order.dry_run {
                show(&totals);
            }
            at.totals.add(&totals);
        }
        Ok(())
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

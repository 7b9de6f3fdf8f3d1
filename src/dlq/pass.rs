//! Replay and discard: one pass over the DLQ topic, from its start to where it ended when the job began.
//!
//! The topic is the authority on which dead letters there are, so that a pass is complete also while the index lags or
//! was lost. The [`Ledger`] is asked for what became of each, so that a second pass does nothing twice: without it,
//! each replay of a record that keeps failing would double the topic.
//!
//! A page is: fetch, select, ask the ledger, write back, note in the ledger, checkpoint. After a crash anywhere in it
//! the page is done again; what was written back but not yet noted is written back twice, and stored once, since it
//! carries the same event id.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize as _;
use serde_json::Value;

use super::ledger::{Entry, Ledger, Origin, Standing, Status};
use super::order::{Action, Checkpoint, DISCARD, Order, Outcome, REPLAY, Range, SAMPLES_MAX, Sample};
use super::{DeadLetter, Fix, RECOVERIES_HEADER};
use crate::config;
use crate::event::{Clock, Timestamp};
use crate::eventlog::{
    EventLog, FetchError, FetchFrom, FetchLimits, Fetched, Header, LogError, NewRecord, Position, Record,
    TopicId, TopicPartition,
};
use crate::job::{Handler, JobContext, JobError, Step, Then};
use crate::telemetry::names;

/// How long a fetch waits for records that the topic's ends say are there.
const FETCH_WAIT_MAX: Duration = Duration::from_secs(5);
/// What a sample shows of a payload.
const SAMPLE_BYTES_MAX: usize = 1024;

/// What a pass works with.
#[derive(Clone)]
pub struct Passes {
    pub(super) log: Arc<dyn EventLog>,
    pub(super) ledger: Arc<dyn Ledger>,
    /// The DLQ topic.
    pub(super) topic: Arc<str>,
    pub(super) config: config::Dlq,
    pub(super) clock: Arc<dyn Clock>,
}

/// A page of one partition of the DLQ topic.
struct Page {
    partition: i32,
    letters: Vec<(Position, DeadLetter)>,
    scanned: u64,
    unreadable: u64,
    expired: u64,
    next: i64,
}

/// A dead letter that was selected, and what is to become of it.
struct Verdict<'a> {
    position: Position,
    letter: &'a DeadLetter,
    /// The ledger's version of it, 0 if it has none.
    version: u64,
    outcome: Outcome,
    /// What to write back, for [`Outcome::Replayed`] unless this job did so before.
    record: Option<NewRecord>,
    /// Is there anything to be done for this outcome?
    pending: bool,
}

impl Passes {
    pub fn new(
        log: Arc<dyn EventLog>,
        ledger: Arc<dyn Ledger>,
        topic: &str,
        config: config::Dlq,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { log, ledger, topic: topic.into(), config, clock }
    }

    /// The handlers of replay and discard jobs.
    pub fn handlers(&self) -> Vec<Arc<dyn Handler>> {
        [REPLAY, DISCARD]
            .map(|kind| Arc::new(PassHandler { kind, passes: self.clone() }) as Arc<dyn Handler>)
            .into()
    }

    async fn step(
        &self,
        context: &JobContext,
        order: &Order,
        checkpoint: Option<Checkpoint>,
    ) -> Result<Step, JobError> {
        let Some(mut at) = checkpoint else {
            return Ok(self.begin().await?.into_step(order, Then::Continue(Duration::ZERO)));
        };
        let page_max = self.config.replay_page_records_max.max(1);
        let records_max =
            order.rate.map_or(page_max, |rate| page_max.min(usize::try_from(rate.max(1)).unwrap_or(1)));
        let left = order.max.map_or(u64::MAX, |max| max.saturating_sub(at.acted()));
        let page = if left == 0 { None } else { self.read(&at, records_max).await? };
        let Some(page) = page else { return Ok(at.into_step(order, Then::Done)) };

        let selected: Vec<&(Position, DeadLetter)> = page
            .letters
            .iter()
            .filter(|(_, letter)| order.selection.fits(letter, order.scope.as_ref()))
            .collect();
        let mut verdicts = self.judge(context, order, &selected, left).await?;
        if !order.dry_run && verdicts.iter().any(|verdict| verdict.pending) {
            context.confirm().await?;
            self.perform(context, order, TopicId(at.topic_id), &mut verdicts).await?;
        }

        let acted_before = at.acted();
        for verdict in &verdicts {
            at.count(verdict.outcome, 1);
            if !order.dry_run && order.action.kind() == REPLAY && verdict.outcome != Outcome::Replayed {
                count_replayed(verdict.outcome);
            }
            if order.dry_run && at.samples.len() < SAMPLES_MAX {
                at.samples.push(sample(verdict));
            }
        }
        if order.scope.is_none() {
            at.count(Outcome::Unreadable, page.unreadable);
            at.count(Outcome::Expired, page.expired);
        }
        at.scanned += page.scanned;
        if let Some(range) = usize::try_from(page.partition).ok().and_then(|index| at.ranges.get_mut(index)) {
            range.next = page.next;
        }
        let acted = at.acted() - acted_before;
        let wait = order.rate.filter(|_| !order.dry_run).map_or(Duration::ZERO, |rate| {
            Duration::from_secs(1).mul_f64(to_f64(acted) / f64::from(rate.max(1)))
        });
        Ok(at.into_step(order, Then::Continue(wait)))
    }

    /// The ranges to go through: everything that is in the DLQ topic now.
    async fn begin(&self) -> Result<Checkpoint, JobError> {
        let topics = self.log.topics().await?;
        let topic = topics.into_iter().find(|topic| topic.name == self.topic);
        let topic = topic.ok_or_else(|| LogError::TopicMissing(self.topic.clone()))?;
        let ranges =
            topic.partitions.iter().map(|ends| Range { next: ends.log_start, end: ends.end }).collect();
        Ok(Checkpoint {
            topic_id: topic.id.0,
            ranges,
            scanned: 0,
            outcomes: std::collections::BTreeMap::new(),
            samples: Vec::new(),
        })
    }

    /// The next page, or `None` at the end of the last partition.
    async fn read(&self, at: &Checkpoint, records_max: usize) -> Result<Option<Page>, JobError> {
        let unread = (0..).zip(&at.ranges).find(|(_, range)| range.next < range.end);
        let Some((partition, range)) = unread else { return Ok(None) };
        let from = FetchFrom {
            topic_partition: TopicPartition::new(self.topic.clone(), partition),
            topic_id: TopicId(at.topic_id),
            offset: range.next,
        };
        let bytes_max = usize::try_from(self.config.replay_page_bytes_max.0).unwrap_or(usize::MAX);
        let limits = FetchLimits { wait_max: FETCH_WAIT_MAX, partition_bytes_max: bytes_max, bytes_max };
        let fetched = self.log.fetch(&[from], limits).await?;
        let outcome = fetched.into_iter().next().map(|Fetched { outcome, .. }| outcome);
        let empty = |next: i64, unreadable: u64, expired: u64| {
            Some(Page { partition, letters: Vec::new(), scanned: 0, unreadable, expired, next })
        };
        match outcome {
            None => Err(JobError::Retry("the log did not answer for the DLQ topic's partition".to_owned())),
            Some(Ok(found)) if found.records.is_empty() && found.next_offset <= range.next => {
                Err(JobError::Retry("the log shows no record before the DLQ topic's end".to_owned()))
            }
            Some(Ok(found)) => {
                Ok(Some(page(partition, *range, found.records, found.next_offset, records_max)))
            }
            Some(Err(FetchError::OffsetOutOfRange(ends))) if ends.log_start > range.next => {
                let next = ends.log_start.min(range.end);
                Ok(empty(next, 0, (next - range.next).unsigned_abs()))
            }
            Some(Err(FetchError::Corrupt { offset })) => {
                tracing::error!(topic = %self.topic, partition, offset, "a record of the DLQ topic is corrupt");
                Ok(empty(offset.max(range.next) + 1, 1, 0))
            }
            Some(Err(FetchError::UnknownTopic { now: None })) => {
                Err(LogError::TopicMissing(self.topic.clone()).into())
            }
            Some(Err(error @ (FetchError::UnknownTopic { .. } | FetchError::OffsetOutOfRange(_)))) => {
                Err(JobError::Fatal(format!("what was selected is gone with the DLQ topic: {error}")))
            }
        }
    }

    /// What is to become of each selected dead letter, in order, until `left` of them are to be acted on.
    async fn judge<'a>(
        &self,
        context: &JobContext,
        order: &Order,
        selected: &[&'a (Position, DeadLetter)],
        left: u64,
    ) -> Result<Vec<Verdict<'a>>, JobError> {
        let origins: Vec<Origin> = selected.iter().map(|(_, letter)| Origin::of(letter)).collect();
        let standings = match origins.is_empty() {
            true => HashMap::new(),
            false => self.ledger.standings(&origins).await?,
        };
        let now = self.clock.now();
        let mut seen: HashMap<&Origin, Outcome> = HashMap::new();
        let mut verdicts = Vec::with_capacity(selected.len());
        let mut acting = 0;
        for ((position, letter), origin) in selected.iter().copied().zip(&origins) {
            if acting >= left {
                break;
            }
            let standing = standings.get(origin);
            let (mut outcome, mut record) = self.decide(order, letter, standing, context.job_id(), now);
            // The same dead letter twice (its writer crashed before it committed): the first one stands for both.
            if seen.contains_key(origin) && matches!(outcome, Outcome::Replayed | Outcome::Discarded) {
                outcome = match outcome {
                    Outcome::Discarded => Outcome::AlreadyDiscarded,
                    _ => Outcome::AlreadyReplayed,
                };
                record = None;
            }
            seen.insert(origin, outcome);
            let acted = matches!(outcome, Outcome::Replayed | Outcome::Discarded);
            acting += u64::from(acted);
            let done = standing.is_some_and(|standing| is_done_by(standing, outcome, context.job_id()));
            let version = standing.map_or(0, |standing| standing.version);
            verdicts.push(Verdict {
                position: *position,
                letter,
                version,
                outcome,
                record,
                pending: acted && !done,
            });
        }
        Ok(verdicts)
    }

    fn decide(
        &self,
        order: &Order,
        letter: &DeadLetter,
        standing: Option<&Standing>,
        job_id: &str,
        now: Timestamp,
    ) -> (Outcome, Option<NewRecord>) {
        let status = standing.map_or(Status::Open, |standing| standing.status);
        let by_this_job = standing.is_some_and(|standing| standing.job_id == job_id);
        match (&order.action, status) {
            // An earlier try of this same page.
            (Action::Replay { .. }, Status::Replayed) if by_this_job => (Outcome::Replayed, None),
            (Action::Discard { .. }, Status::Discarded) if by_this_job => (Outcome::Discarded, None),
            (Action::Replay { again: false, .. } | Action::Discard { .. }, Status::Replayed) => {
                (Outcome::AlreadyReplayed, None)
            }
            (Action::Replay { again: false, .. } | Action::Discard { .. }, Status::Discarded) => {
                (Outcome::AlreadyDiscarded, None)
            }
            (Action::Discard { .. }, Status::Open) => (Outcome::Discarded, None),
            (Action::Replay { fix, .. }, _) => {
                match revive(letter, fix.as_ref(), self.config.recoveries_max, now) {
                    Ok(record) => (Outcome::Replayed, Some(record)),
                    Err(outcome) => (outcome, None),
                }
            }
        }
    }

    /// Writes back and notes in the ledger. Outcomes that only the log can know are corrected in `verdicts`.
    async fn perform(
        &self,
        context: &JobContext,
        order: &Order,
        dlq_topic_id: TopicId,
        verdicts: &mut [Verdict<'_>],
    ) -> Result<(), JobError> {
        let failed = self.write_back(verdicts).await;
        let reason = match &order.action {
            Action::Discard { reason } => reason.as_str(),
            Action::Replay { .. } => "",
        };
        let done: Vec<&Verdict<'_>> = verdicts.iter().filter(|verdict| verdict.pending).collect();
        let entries: Vec<Entry<'_>> = done
            .iter()
            .map(|verdict| Entry {
                letter: verdict.letter,
                dlq_topic_id,
                dlq_position: verdict.position,
                status: if verdict.outcome == Outcome::Discarded {
                    Status::Discarded
                } else {
                    Status::Replayed
                },
                status_at: self.clock.now(),
                reason,
                job_id: context.job_id(),
                version: verdict.version + 1,
            })
            .collect();
        if !entries.is_empty() {
            self.ledger.write(&entries).await?;
        }
        for verdict in &done {
            if verdict.outcome == Outcome::Replayed {
                count_replayed(verdict.outcome);
            } else {
                let (id, kind, by) =
                    (verdict.letter.id(), verdict.letter.error_kind.as_str(), &order.requested_by);
                let project_id = verdict.letter.project_id.as_deref().unwrap_or_default();
                tracing::info!(
                    dead_letter = id,
                    error_kind = kind,
                    project_id,
                    reason,
                    by,
                    job_id = context.job_id(),
                    "dead letter discarded"
                );
                names::DLQ_DISCARDED.counter(&[]).increment(1);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Produces what is to be written back, topic by topic. What was not taken is no longer pending; the answer is
    /// the first error that may pass.
    async fn write_back(&self, verdicts: &mut [Verdict<'_>]) -> Option<JobError> {
        let mut topics: Vec<(String, Vec<usize>)> = Vec::new();
        for (index, verdict) in verdicts.iter().enumerate().filter(|(_, verdict)| verdict.record.is_some()) {
            match topics.iter_mut().find(|(topic, _)| *topic == verdict.letter.source_topic) {
                Some((_, indexes)) => indexes.push(index),
                None => topics.push((verdict.letter.source_topic.clone(), vec![index])),
            }
        }
        let mut failed = None;
        for (topic, indexes) in topics {
            let records =
                indexes.iter().filter_map(|index| verdicts.get_mut(*index)?.record.take()).collect();
            let results = self.log.produce(&topic, records).await;
            let missing = std::iter::repeat_with(|| Err(LogError::OutcomeUnknown("no answer".to_owned())));
            for (index, result) in indexes.into_iter().zip(results.into_iter().chain(missing)) {
                let (Err(error), Some(verdict)) = (result, verdicts.get_mut(index)) else { continue };
                verdict.pending = false;
                match error {
                    LogError::RecordTooLarge { .. } => verdict.outcome = Outcome::TooLarge,
                    LogError::TopicMissing(_) => verdict.outcome = Outcome::NoSourceTopic,
                    LogError::Forbidden(_) => failed = Some(JobError::Fatal(error.to_string())),
                    LogError::Unavailable(_) | LogError::OutcomeUnknown(_) | LogError::Full(_) => {
                        failed = failed.or(Some(error.into()));
                    }
                }
            }
        }
        failed
    }
}

impl Checkpoint {
    fn into_step(self, order: &Order, then: Then) -> Step {
        let progress = self.progress(order.dry_run);
        // Maps with text keys, numbers and texts: they cannot fail to become JSON.
        Step { checkpoint: serde_json::to_value(self).unwrap_or_default(), progress, then }
    }
}

fn count_replayed(outcome: Outcome) {
    names::DLQ_REPLAYED.counter(&[("outcome", outcome.as_str())]).increment(1);
}

/// Was this outcome brought about by this job already?
fn is_done_by(standing: &Standing, outcome: Outcome, job_id: &str) -> bool {
    standing.job_id == job_id
        && matches!(
            (standing.status, outcome),
            (Status::Replayed, Outcome::Replayed) | (Status::Discarded, Outcome::Discarded)
        )
}

/// The records of a fetch that belong to the job, at most `records_max`.
fn page(partition: i32, range: Range, records: Vec<Record>, next_offset: i64, records_max: usize) -> Page {
    let fetched = records.len();
    let records: Vec<Record> =
        records.into_iter().filter(|record| record.offset < range.end).take(records_max).collect();
    // Cut short: go on behind the last one taken. Else where the log says, be it beyond a gap.
    let next = match records.last() {
        Some(last) if records.len() < fetched => last.offset + 1,
        _ => next_offset.min(range.end),
    };
    let mut letters = Vec::with_capacity(records.len());
    let mut unreadable = 0;
    for record in &records {
        match DeadLetter::from_record(record) {
            Ok(letter) => letters.push((Position { partition, offset: record.offset }, letter)),
            Err(error) => {
                tracing::warn!(partition, offset = record.offset, error = %error, "the DLQ topic holds a foreign record");
                unreadable += 1;
            }
        }
    }
    Page { partition, letters, scanned: records.len() as u64, unreadable, expired: 0, next }
}

/// The record that goes back to the source topic, or why there is none.
fn revive(
    letter: &DeadLetter,
    fix: Option<&Fix>,
    recoveries_max: u32,
    now: Timestamp,
) -> Result<NewRecord, Outcome> {
    if letter.recoveries >= recoveries_max {
        return Err(Outcome::RefusedCap);
    }
    let payload = letter.raw.payload().ok_or(Outcome::NotReplayable)?;
    let (value, key) = match fix {
        None => (Bytes::copy_from_slice(&payload), letter.key.clone()),
        Some(fix) => {
            let fixed = fix.apply(&payload).ok_or(Outcome::NotFixable)?;
            (Bytes::from(fixed.json), fixed.key.map(Bytes::from).or_else(|| letter.key.clone()))
        }
    };
    let mut headers: Vec<Header> = letter
        .source_headers
        .iter()
        .filter(|header| &*header.name != RECOVERIES_HEADER)
        .map(|header| match fix.and_then(|fix| fix.text(&header.name)) {
            // The headers say whose event it is, too.
            Some(text) => {
                Header { name: header.name.clone(), value: Bytes::copy_from_slice(text.as_bytes()) }
            }
            None => header.clone(),
        })
        .collect();
    let recoveries = letter.recoveries.saturating_add(1).to_string();
    headers.push(Header { name: RECOVERIES_HEADER.into(), value: recoveries.into() });
    Ok(NewRecord { key, value, headers: headers.into(), timestamp: now })
}

fn sample(verdict: &Verdict<'_>) -> Sample {
    let text =
        |bytes: &[u8]| String::from_utf8_lossy(bytes.get(..SAMPLE_BYTES_MAX).unwrap_or(bytes)).into_owned();
    let before = verdict.letter.raw.payload().map(|payload| text(&payload)).unwrap_or_default();
    let after = verdict.record.as_ref().map(|record| text(&record.value)).filter(|after| *after != before);
    Sample {
        id: verdict.letter.id(),
        error_kind: verdict.letter.error_kind,
        outcome: verdict.outcome,
        before,
        after,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a page has far fewer than 2^52 records")]
fn to_f64(count: u64) -> f64 {
    count as f64
}

/// Replay or discard as the job room sees it.
struct PassHandler {
    kind: &'static str,
    passes: Passes,
}

#[async_trait]
impl Handler for PassHandler {
    fn kind(&self) -> &'static str {
        self.kind
    }

    async fn step(
        &self,
        context: &JobContext,
        spec: &Value,
        checkpoint: Option<&Value>,
    ) -> Result<Step, JobError> {
        let unreadable =
            |error: serde_json::Error| JobError::Fatal(format!("the job cannot be read: {error}"));
        let order = Order::deserialize(spec).map_err(unreadable)?;
        let checkpoint = checkpoint.map(Checkpoint::deserialize).transpose().map_err(unreadable)?;
        self.passes.step(context, &order, checkpoint).await
    }
}

//! One page: raw events are transformed anew, what they become is compared with what they became, and the difference is
//! written.
//!
//! The order within a page makes it safe to do twice: first the log has every event and every tombstone, then the store
//! is told what the raw events are now. A crash in between leaves the former results, from which the page makes the same
//! records again, under the same version.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ground::{Ground, Noted, Raw, Standing, day_of};
use super::order::{Lane, Order, Totals};
use super::{Former, Place};
use crate::dlq::{DeadLetter, Refusal};
use crate::event::{Clock, ErrorKind, RawEvent, Scope, Timestamp};
use crate::eventlog::{Header, LogError, NewRecord, Record, TopicId, TopicPartition};
use crate::job::JobError;
use crate::telemetry::names;
use crate::transform::{Chosen, Key, Limits, Mapped, Origin, Outcome, RAW_EVENT_ID_HEADER};

/// The surface's name in the headers of the events.
const PRODUCER: &str = "reprocess";
const DAY: Duration = Duration::from_secs(86_400);

/// What pages are done with.
pub(super) struct Bench<'a> {
    pub(super) ground: &'a dyn Ground,
    pub(super) clock: &'a dyn Clock,
    pub(super) order: &'a Order,
    pub(super) chosen: &'a Arc<Chosen>,
    pub(super) limits: Limits,
    /// Of the rows that are written.
    pub(super) generation: u64,
    pub(super) output_topic: &'a str,
    pub(super) dlq_topic: &'a str,
    pub(super) dlq_record_bytes_max: usize,
    /// A page ends with the raw event that reaches this many bytes.
    pub(super) page_bytes_max: usize,
}

/// A raw event of the page, and what it becomes.
struct Judged<'r> {
    index: usize,
    raw: &'r Raw,
    former: Option<&'r Former>,
    outcome: Result<Outcome, String>,
}

/// What is to be written.
#[derive(Default)]
struct Writing {
    records: Vec<NewRecord>,
    /// For each record: the raw event (by its place in the page) and the event's id.
    owners: Vec<(usize, String)>,
    letters: Vec<NewRecord>,
    noted: Vec<Noted>,
    totals: Totals,
}

fn retry(error: impl std::fmt::Display) -> JobError {
    JobError::Retry(error.to_string())
}

impl Bench<'_> {
    /// Does the next page of a lane, and moves the lane on.
    ///
    /// # Errors
    /// The store or the log does not answer: the lane stays where it is.
    pub(super) async fn advance(
        &self,
        lane: &mut Lane,
        received_until: Timestamp,
        batch: u64,
    ) -> Result<Totals, JobError> {
        let day = match lane.day {
            Some(day) => day,
            None => match self.ground.next_day(self.order, lane, lane.from).await.map_err(retry)? {
                Some(day) => day,
                None => {
                    lane.done = true;
                    return Ok(Totals::default());
                }
            },
        };
        let began = Instant::now();
        let (limit, bytes_max) = (self.order.batch_size, self.page_bytes_max);
        let raws = self.ground.page(self.order, lane, day, received_until, limit, bytes_max).await;
        let raws: Arc<[Raw]> = raws.map_err(retry)?.into();
        let totals = self.work(&raws, batch).await?;
        names::REPROCESS_BATCH_DURATION.histogram(&[]).record(began.elapsed().as_secs_f64());
        let bytes: usize = raws.iter().map(|raw| raw.payload.len()).sum();
        if raws.len() < limit && bytes < bytes_max {
            // The day is through.
            (lane.day, lane.after) = (None, None);
            lane.from = day_of(day).plus(DAY);
            lane.done = lane.from > lane.to;
        } else {
            lane.day = Some(day);
            lane.after = raws.last().map(|raw| raw.place.clone());
        }
        Ok(totals)
    }

    /// Does a page. Answers what came of it.
    ///
    /// # Errors
    /// The store or the log does not answer: the page is done again.
    pub(super) async fn work(&self, raws: &Arc<[Raw]>, batch: u64) -> Result<Totals, JobError> {
        let (Some(first), Some(last)) = (raws.first(), raws.last()) else { return Ok(Totals::default()) };
        let former = self.ground.former(self.order, &first.place, &last.place).await.map_err(retry)?;
        let judged = self.judge(raws, &former).await?;
        let settled = self.settled(&judged).await?;
        let mut writing = Writing::default();
        for judged in &judged {
            self.decide(judged, &settled, batch, &mut writing);
        }
        if !self.order.dry_run {
            self.write(raws, batch, &judged, &mut writing).await?;
        }
        let totals = &mut writing.totals;
        totals.processed_batches = 1;
        tracing::info!(
            batch,
            batch_size = raws.len(),
            batch_published = totals.total_events_published,
            batch_dropped = totals.total_events_dropped,
            batch_transform_errors = totals.total_transformation_errors,
            batch_publish_failed = totals.total_events_failed,
            "batch processing complete"
        );
        Ok(writing.totals)
    }

    /// What each raw event that is asked for becomes.
    async fn judge<'r>(
        &self,
        raws: &'r Arc<[Raw]>,
        former: &'r BTreeMap<Place, Former>,
    ) -> Result<Vec<Judged<'r>>, JobError> {
        let current = |former: &Former| {
            (former.transform_id.as_str(), former.transform_version)
                == (self.chosen.id.as_str(), self.chosen.version)
        };
        let asked: Vec<usize> = raws
            .iter()
            .enumerate()
            .filter(|(_, raw)| self.order.samples(&raw.place.3))
            .map(|(index, raw)| (index, raw, former.get(&raw.place)))
            // A newer job has decided; or, for those that are pending, the same transform has.
            .filter(|(_, _, former)| former.is_none_or(|former| former.version <= self.generation))
            .filter(|(_, _, former)| {
                !(self.order.pending
                    && former.is_some_and(|former| former.outcome != "published" && current(former)))
            })
            .map(|(index, ..)| index)
            .collect();
        let (owned, chosen, limits) = (raws.clone(), self.chosen.clone(), self.limits);
        let computing = tokio::task::spawn_blocking(move || {
            let outcome = |index: &usize| {
                let raw = &owned[*index];
                (*index, chosen.mapping.apply(&raw.payload, &raw.place.3, limits).map_err(|error| error.0))
            };
            asked.iter().map(outcome).collect::<Vec<_>>()
        });
        let outcomes =
            computing.await.map_err(|join| JobError::Retry(format!("a transform panicked: {join}")))?;
        let mut judged: Vec<Judged<'r>> = outcomes
            .into_iter()
            .map(|(index, outcome)| {
                let raw = &raws[index];
                Judged { index, raw, former: former.get(&raw.place), outcome }
            })
            .collect();
        if self.order.pending {
            self.keep_pending(&mut judged).await?;
        }
        Ok(judged)
    }

    /// Leaves out those whose events are all stored.
    async fn keep_pending(&self, judged: &mut Vec<Judged<'_>>) -> Result<(), JobError> {
        let keys: Vec<Key> = judged.iter().flat_map(|judged| events_of(judged).iter().map(Key::of)).collect();
        let standings = self.ground.standings(&self.order.scope, &keys).await.map_err(retry)?;
        let mut stands = standings.iter();
        judged.retain(|judged| {
            let events = events_of(judged);
            let missing = events.iter().filter(|_| !matches!(stands.next(), Some(Some(_)))).count();
            events.is_empty() || missing > 0
        });
        Ok(())
    }

    /// The events that are left alone: corrected by hand, or hidden as resends of others.
    async fn settled(&self, judged: &[Judged<'_>]) -> Result<HashSet<String>, JobError> {
        let mut keys: Vec<&Key> = Vec::new();
        let new: Vec<Key> = judged.iter().flat_map(|judged| events_of(judged).iter().map(Key::of)).collect();
        let former = judged.iter().filter_map(|judged| judged.former).flat_map(|former| former.keys.iter());
        keys.extend(former.chain(&new));
        keys.sort_unstable();
        keys.dedup();
        let keys: Vec<Key> = keys.into_iter().cloned().collect();
        let standings = self.ground.standings(&self.order.scope, &keys).await.map_err(retry)?;
        let mut settled = HashSet::new();
        let mut standing: HashMap<&Key, Standing> = HashMap::new();
        for (key, found) in keys.iter().zip(standings) {
            match found {
                Some(Standing::Settled) => {
                    settled.insert(key.0.clone());
                }
                Some(found) => {
                    standing.insert(key, found);
                }
                None => {}
            }
        }
        // An event that was published and has no row at all: either its row is lost, or it is a resend that was passed
        // over because the event is stored under another key.
        let lost: Vec<String> = judged
            .iter()
            .filter(|judged| {
                let former = judged.former.map_or(&[][..], |former| former.keys.as_slice());
                !former.is_empty()
                    && former
                        .iter()
                        .chain(events_of(judged).iter().map(Key::of).collect::<Vec<_>>().iter())
                        .all(|key| !standing.contains_key(key))
            })
            .flat_map(|judged| events_of(judged).iter().map(|event| event.id.clone()))
            .filter(|id| !settled.contains(id))
            .collect();
        if !lost.is_empty() {
            settled.extend(self.ground.stored(&self.order.scope, &lost).await.map_err(retry)?);
        }
        Ok(settled)
    }

    fn decide(&self, judged: &Judged<'_>, settled: &HashSet<String>, batch: u64, writing: &mut Writing) {
        let now = self.clock.now();
        let raw = judged.raw;
        let Place(customer, _, _, raw_event_id) = &raw.place;
        let origin = Origin {
            scope: &self.order.scope,
            raw_event_id,
            received_at: raw.received_at,
            producer: PRODUCER,
            // All that is written of a raw event stays in order: the former events are hidden first, so that an event is
            // never there twice, not even for a sweep that happens to come by.
            key: Some(if customer.is_empty() { raw_event_id } else { customer }),
        };
        writing.totals.total_events_found += 1;
        let former = judged.former.map_or(&[][..], |former| former.keys.as_slice());
        let remove = |keys: &[Key], writing: &mut Writing| {
            for key in former.iter().filter(|key| !keys.iter().any(|new| new.is_same_row(key))) {
                if !settled.contains(&key.0) {
                    writing.records.push(origin.tombstone(key, self.generation, now));
                    writing.owners.push((judged.index, key.0.clone()));
                    writing.totals.events_removed += 1;
                }
            }
        };
        match &judged.outcome {
            Ok(Outcome::Events(events)) => {
                let keys: Vec<Key> = events.iter().map(Key::of).collect();
                remove(&keys, writing);
                for event in events.iter().filter(|event| !settled.contains(&event.id)) {
                    writing.records.push(origin.record(event, Some(self.generation), now));
                    writing.owners.push((judged.index, event.id.clone()));
                    writing.totals.events_written += 1;
                }
                if events.iter().all(|event| settled.contains(&event.id)) {
                    writing.totals.total_events_kept += 1;
                }
                writing.totals.total_events_published += 1;
                self.note(judged, "published", String::new(), still(former, keys, settled), writing);
            }
            Ok(Outcome::Dropped(reason)) => {
                tell_dropped(raw, batch, judged.index + 1, reason);
                remove(&[], writing);
                writing.totals.total_events_dropped += 1;
                *writing.totals.dropped_by_reason.entry(reason.to_string()).or_default() += 1;
                let keys = still(former, Vec::new(), settled);
                self.note(judged, "dropped", reason.to_string(), keys, writing);
            }
            // What it became before stays: nobody can tell what it would be now.
            Err(error) => {
                tell_error(raw, batch, judged.index + 1, error);
                writing.totals.total_transformation_errors += 1;
                writing.letters.extend(self.letter(raw, error));
                if former.is_empty() {
                    self.note(judged, "error", error.clone(), Vec::new(), writing);
                }
            }
        }
    }

    /// What the store is told, if that is new to it.
    fn note(
        &self,
        judged: &Judged<'_>,
        outcome: &'static str,
        reason: String,
        keys: Vec<Key>,
        writing: &mut Writing,
    ) {
        let known = judged.former.is_some_and(|former| {
            let same = former.outcome == outcome && former.reason == reason && former.keys == keys;
            let current =
                former.transform_version == self.chosen.version && former.transform_id == self.chosen.id;
            // Of those that are no events, it counts which version said so.
            same && (outcome == "published" || current)
        });
        if !known {
            writing.noted.push(Noted { index: judged.index, outcome, reason, keys });
        }
    }

    async fn write(
        &self,
        raws: &[Raw],
        batch: u64,
        judged: &[Judged<'_>],
        writing: &mut Writing,
    ) -> Result<(), JobError> {
        let records = std::mem::take(&mut writing.records);
        let count = records.len();
        let answers = match count {
            0 => Vec::new(),
            _ => self.ground.produce(self.output_topic, records).await,
        };
        if answers.len() != count {
            return Err(JobError::Retry("the log left an event without an answer".to_owned()));
        }
        let mut failed: HashMap<usize, String> = HashMap::new();
        let mut unwell = None;
        for ((index, event_id), answer) in writing.owners.iter().zip(answers) {
            let raw_event_id = &raws[*index].place.3;
            match answer {
                Ok(_) => tracing::debug!(
                    raw_event_id,
                    transformed_event_id = event_id,
                    batch,
                    batch_position = index + 1,
                    "successfully published transformed event"
                ),
                Err(error) => {
                    tracing::error!(
                        raw_event_id,
                        transformed_event_id = event_id,
                        batch,
                        batch_position = index + 1,
                        %error,
                        "failed to publish transformed event"
                    );
                    match error {
                        LogError::RecordTooLarge { .. } => drop(failed.insert(*index, error.to_string())),
                        error => unwell = Some(error),
                    }
                }
            }
        }
        if let Some(error) = unwell {
            return Err(JobError::Retry(format!("events could not be published: {error}")));
        }
        for judged in judged {
            let Some(error) = failed.get(&judged.index) else { continue };
            writing.totals.total_events_failed += 1;
            writing.totals.total_events_published = writing.totals.total_events_published.saturating_sub(1);
            writing.letters.extend(self.letter(judged.raw, error));
        }
        writing.noted.retain(|noted| !failed.contains_key(&noted.index));
        let letters = std::mem::take(&mut writing.letters);
        if !letters.is_empty() {
            let answers = self.ground.produce(self.dlq_topic, letters).await;
            if let Some(error) = answers.into_iter().find_map(Result::err) {
                return Err(JobError::Retry(format!("dead letters could not be written: {error}")));
            }
        }
        let transform = (self.chosen.id.as_str(), self.chosen.version);
        let noted = self.ground.note(self.order, transform, self.generation, raws, &writing.noted).await;
        noted.map_err(retry)
    }

    /// The dead letter of a raw event: its record as the log had it.
    fn letter(&self, raw: &Raw, message: &str) -> Option<NewRecord> {
        let Place(customer, timestamp, event_name, id) = &raw.place;
        let Scope { project, environment } = &self.order.scope;
        let value = serde_json::to_vec(&RawEvent {
            id: id.into(),
            project_id: project.as_str().into(),
            environment_id: environment.as_str().into(),
            external_customer_id: customer.into(),
            timestamp: *timestamp,
            event_name: event_name.into(),
            received_at: raw.received_at,
            payload: serde_json::from_str(&raw.payload).ok()?,
        })
        .ok()?;
        let key = if customer.is_empty() { id } else { customer };
        let record = Record {
            offset: raw.source_offset,
            timestamp: raw.received_at,
            key: Some(key.clone().into()),
            value: Some(value.into()),
            headers: [Header { name: RAW_EVENT_ID_HEADER.into(), value: id.clone().into() }].into(),
        };
        let letter = DeadLetter::of(
            &record,
            &Refusal {
                source: &TopicPartition::new(raw.source_topic.as_str(), raw.source_partition),
                source_topic_id: TopicId(raw.source_topic_id),
                stage: "raw",
                kind: ErrorKind::TransformError,
                message,
                attempts: 1,
                at: self.clock.now(),
            },
        );
        Some(letter.to_record(self.dlq_record_bytes_max))
    }
}

/// The keys of a raw event's events from now on. An event that is left alone stays where it is: only there the store
/// knows that it is to be left alone.
fn still(former: &[Key], mut keys: Vec<Key>, settled: &HashSet<String>) -> Vec<Key> {
    let kept: Vec<&Key> = former.iter().filter(|key| settled.contains(&key.0)).collect();
    keys.retain(|key| kept.iter().all(|kept| kept.0 != key.0));
    keys.extend(kept.into_iter().cloned());
    keys
}

fn tell_dropped(raw: &Raw, batch: u64, batch_position: usize, reason: &str) {
    let Place(external_customer_id, timestamp, event_name, raw_event_id) = &raw.place;
    tracing::info!(
        raw_event_id,
        external_customer_id,
        event_name,
        timestamp = %timestamp,
        batch,
        batch_position,
        reason,
        "validation failed - event dropped"
    );
}

fn tell_error(raw: &Raw, batch: u64, batch_position: usize, error: &str) {
    let Place(external_customer_id, timestamp, event_name, raw_event_id) = &raw.place;
    tracing::warn!(
        raw_event_id,
        external_customer_id,
        event_name,
        timestamp = %timestamp,
        batch,
        batch_position,
        error,
        "transformation error - event skipped"
    );
}

fn events_of<'j>(judged: &'j Judged<'_>) -> &'j [Mapped] {
    match &judged.outcome {
        Ok(Outcome::Events(events)) => events,
        _ => &[],
    }
}

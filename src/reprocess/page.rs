//! One page: raw events are transformed anew, what they become is compared with what they became, and the difference is
//! written.
//!
//! The order within a page makes it safe to do twice: first the log has every event and every tombstone, then the store
//! is told what the raw events are now. A crash in between leaves the former results, from which the page makes the same
//! records again, under the same version.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::ground::{Ground, Noted, Raw, Standing};
use super::lanes::Page;
use super::order::{Order, Totals};
use super::{Former, Place};
use crate::dlq::{DeadLetter, Refusal};
use crate::event::{Clock, ErrorKind, RawEvent, Scope, Timestamp};
use crate::eventlog::{Header, LogError, NewRecord, Record, TopicId, TopicPartition};
use crate::job::JobError;
use crate::transform::{Alike, Chosen, Key, Limits, Origin, Outcome, RAW_EVENT_ID_HEADER};

/// The surface's name in the headers of the events.
const PRODUCER: &str = "reprocess";

/// What pages are done with.
pub(super) struct Bench {
    pub(super) ground: Arc<dyn Ground>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) order: Order,
    pub(super) chosen: Chosen,
    pub(super) limits: Limits,
    /// Of the rows that are written.
    pub(super) generation: u64,
    /// Raw events received later are the live stage's.
    pub(super) received_until: Timestamp,
    pub(super) output_topic: Arc<str>,
    pub(super) dlq_topic: Arc<str>,
    pub(super) dlq_record_bytes_max: usize,
    /// A page ends with the raw event that reaches this many bytes.
    pub(super) page_bytes_max: usize,
    /// The number of the next page, for people.
    pub(super) batches: AtomicU64,
}

/// What a raw event of the page becomes.
pub(super) struct Judged {
    /// Its place in the page.
    index: usize,
    outcome: Result<Outcome, String>,
    /// Of its events.
    keys: Vec<Key>,
}

/// What is to be written.
#[derive(Default)]
struct Writing {
    records: Vec<NewRecord>,
    /// For each record: the raw event (by its place in the page) and the event's id.
    owners: Vec<(usize, String)>,
    letters: Vec<NewRecord>,
    noted: Vec<Noted>,
    /// Of each batch of the page.
    batches: Vec<Totals>,
    batch_size: usize,
}

impl Writing {
    fn of(raws: usize, batch_size: usize) -> Self {
        let batch_size = batch_size.max(1);
        let batches = vec![Totals { processed_batches: 1, ..Totals::default() }; raws.div_ceil(batch_size)];
        Self { batches, batch_size, ..Self::default() }
    }

    /// Of the batch that holds this place of the page.
    fn totals(&mut self, index: usize) -> &mut Totals {
        &mut self.batches[index / self.batch_size]
    }
}

/// Computes where that keeps no other task waiting.
async fn computed<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JobError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|join| JobError::Retry(format!("a transform panicked: {join}")))
}

impl Bench {
    /// Does a page. Answers what came of it.
    ///
    /// # Errors
    /// The store or the log does not answer: the page is done again.
    pub(super) async fn work(self: &Arc<Self>, page: &Arc<Page>, batch: u64) -> Result<Totals, JobError> {
        let (bench, owned) = (self.clone(), page.clone());
        let mut judged = computed(move || bench.judge(&owned)).await?;
        if self.order.pending {
            self.keep_pending(&mut judged).await?;
        }
        let settled = self.settled(page, &judged).await?;
        let (bench, owned) = (self.clone(), page.clone());
        let mut writing = computed(move || {
            let mut writing = Writing::of(owned.raws.len(), bench.order.batch_size);
            let alike = Alike::of(&bench.order.scope, Some(bench.generation));
            for judged in judged {
                bench.decide(&owned, judged, &settled, batch, &alike, &mut writing);
            }
            writing
        })
        .await?;
        if !self.order.dry_run {
            self.write(&page.raws, batch, &mut writing).await?;
        }
        let mut whole = Totals::default();
        let raws = page.raws.chunks(writing.batch_size).map(<[Raw]>::len);
        for ((totals, batch_size), batch) in writing.batches.iter().zip(raws).zip(batch..) {
            tracing::info!(
                batch,
                batch_size,
                batch_published = totals.total_events_published,
                batch_dropped = totals.total_events_dropped,
                batch_transform_errors = totals.total_transformation_errors,
                batch_publish_failed = totals.total_events_failed,
                "batch processing complete"
            );
            whole.add(totals);
        }
        Ok(whole)
    }

    /// What each raw event that is asked for becomes.
    fn judge(&self, page: &Page) -> Vec<Judged> {
        let current = |former: &Former| {
            (former.transform_id.as_str(), former.transform_version)
                == (self.chosen.id.as_str(), self.chosen.version)
        };
        let asked = |raw: &Raw, former: Option<&Former>| {
            self.order.samples(&raw.place.3)
                // A newer job has decided; or, for those that are pending, the same transform has.
                && former.is_none_or(|former| {
                    former.version <= self.generation
                        && !(self.order.pending && former.outcome != "published" && current(former))
                })
        };
        let all = page.raws.iter().zip(&page.former).enumerate();
        all.filter(|(_, (raw, former))| asked(raw, former.as_ref()))
            .map(|(index, (raw, _))| {
                let outcome = self.chosen.mapping.apply(&raw.payload, &raw.place.3, self.limits);
                let keys = match &outcome {
                    Ok(Outcome::Events(events)) => events.iter().map(Key::of).collect(),
                    _ => Vec::new(),
                };
                Judged { index, outcome: outcome.map_err(|error| error.0), keys }
            })
            .collect()
    }

    /// Leaves out those whose events are all stored.
    async fn keep_pending(&self, judged: &mut Vec<Judged>) -> Result<(), JobError> {
        let keys: Vec<&Key> = judged.iter().flat_map(|judged| &judged.keys).collect();
        let standings = self.ground.standings(&self.order.scope, &keys).await?;
        let mut stands = standings.iter();
        judged.retain(|judged| {
            let missing = judged.keys.iter().filter(|_| !matches!(stands.next(), Some(Some(_)))).count();
            judged.keys.is_empty() || missing > 0
        });
        Ok(())
    }

    /// The events that are left alone: corrected by hand, or hidden as resends of others.
    async fn settled(&self, page: &Page, judged: &[Judged]) -> Result<HashSet<String>, JobError> {
        let former = |judged: &Judged| page.former_keys(judged.index);
        // Whether an event stands matters only of what was published before; of what never was, only whether it was
        // touched.
        let (before, never): (Vec<&Judged>, Vec<&Judged>) =
            judged.iter().partition(|judged| !former(judged).is_empty());
        let mut keys: Vec<&Key> = never.iter().flat_map(|judged| &judged.keys).collect();
        if let Some(touched) = self.ground.touched(&self.order.scope, &keys).await? {
            keys.retain(|key| touched.contains(&key.0));
        }
        keys.extend(before.iter().flat_map(|judged| former(judged).iter().chain(&judged.keys)));
        keys.sort_unstable();
        keys.dedup();
        let standings = self.ground.standings(&self.order.scope, &keys).await?;
        let mut settled = HashSet::new();
        let mut standing: HashSet<&Key> = HashSet::new();
        for (key, found) in keys.into_iter().zip(standings) {
            match found {
                Some(Standing::Settled) => drop(settled.insert(key.0.clone())),
                Some(_) => drop(standing.insert(key)),
                None => {}
            }
        }
        // An event that was published and has no row at all: either its row is lost, or it is a resend that was passed
        // over because the event is stored under another key.
        let lost: Vec<String> = before
            .iter()
            .filter(|judged| former(judged).iter().chain(&judged.keys).all(|key| !standing.contains(key)))
            .flat_map(|judged| judged.keys.iter().map(|key| key.0.clone()))
            .filter(|id| !settled.contains(id))
            .collect();
        if !lost.is_empty() {
            settled.extend(self.ground.stored(&self.order.scope, &lost).await?);
        }
        Ok(settled)
    }

    fn decide(
        &self,
        page: &Page,
        judged: Judged,
        settled: &HashSet<String>,
        batch: u64,
        alike: &Alike,
        writing: &mut Writing,
    ) {
        let now = self.clock.now();
        let Judged { index, outcome, keys } = judged;
        let (raw, former) = (&page.raws[index], page.former_keys(index));
        let Place(customer, _, _, raw_event_id) = &raw.place;
        let origin = Origin {
            scope: &self.order.scope,
            alike,
            raw_event_id,
            received_at: raw.received_at,
            producer: PRODUCER,
            // All that is written of a raw event stays in order: the former events are hidden first, so that an event is
            // never there twice, not even for a sweep that happens to come by.
            key: Some(if customer.is_empty() { raw_event_id } else { customer }),
        };
        writing.totals(index).total_events_found += 1;
        if outcome.is_ok() {
            for key in former.iter().filter(|key| !keys.iter().any(|new| new.is_same_row(key))) {
                if !settled.contains(&key.0) {
                    writing.records.push(origin.tombstone(key, now));
                    writing.owners.push((index, key.0.clone()));
                    writing.totals(index).events_removed += 1;
                }
            }
        }
        match outcome {
            Ok(Outcome::Events(events)) => {
                if events.iter().all(|event| settled.contains(&event.id)) {
                    writing.totals(index).total_events_kept += 1;
                }
                for event in events.into_iter().filter(|event| !settled.contains(&event.id)) {
                    writing.records.push(origin.record(&event, now));
                    writing.owners.push((index, event.id));
                    writing.totals(index).events_written += 1;
                }
                writing.totals(index).total_events_published += 1;
                let keys = still(former, keys, settled);
                self.note(page, Noted { index, outcome: "published", reason: String::new(), keys }, writing);
            }
            Ok(Outcome::Dropped(reason)) => {
                tell_dropped(raw, self.within(batch, index), &reason);
                let totals = writing.totals(index);
                totals.total_events_dropped += 1;
                *totals.dropped_by_reason.entry(reason.to_string()).or_default() += 1;
                let keys = still(former, Vec::new(), settled);
                let noted = Noted { index, outcome: "dropped", reason: reason.to_string(), keys };
                self.note(page, noted, writing);
            }
            // What it became before stays: nobody can tell what it would be now.
            Err(error) => {
                tell_error(raw, self.within(batch, index), &error);
                writing.totals(index).total_transformation_errors += 1;
                writing.letters.extend(self.letter(raw, &error));
                if former.is_empty() {
                    let noted = Noted { index, outcome: "error", reason: error, keys: Vec::new() };
                    self.note(page, noted, writing);
                }
            }
        }
    }

    /// The batch of a raw event, and its place there, for people; `first` is the page's first batch.
    fn within(&self, first: u64, index: usize) -> (u64, usize) {
        let size = self.order.batch_size.max(1);
        (first + (index / size) as u64, index % size + 1)
    }

    /// What the store is told, if that is new to it.
    fn note(&self, page: &Page, noted: Noted, writing: &mut Writing) {
        let known = page.former[noted.index].as_ref().is_some_and(|former| {
            let same =
                former.outcome == noted.outcome && former.reason == noted.reason && former.keys == noted.keys;
            let current =
                former.transform_version == self.chosen.version && former.transform_id == self.chosen.id;
            // Of those that are no events, it counts which version said so.
            same && (noted.outcome == "published" || current)
        });
        if !known {
            writing.noted.push(noted);
        }
    }

    async fn write(&self, raws: &[Raw], batch: u64, writing: &mut Writing) -> Result<(), JobError> {
        let records = std::mem::take(&mut writing.records);
        let count = records.len();
        let answers = match count {
            0 => Vec::new(),
            _ => self.ground.produce(&self.output_topic, records).await,
        };
        if answers.len() != count {
            return Err(JobError::Retry("the log left an event without an answer".to_owned()));
        }
        let mut failed: BTreeMap<usize, String> = BTreeMap::new();
        let mut unwell: Option<LogError> = None;
        for ((index, event_id), answer) in writing.owners.iter().zip(answers) {
            let raw_event_id = &raws[*index].place.3;
            let (batch, batch_position) = self.within(batch, *index);
            match answer {
                Ok(_) => tracing::debug!(
                    raw_event_id,
                    transformed_event_id = event_id,
                    batch,
                    batch_position,
                    "successfully published transformed event"
                ),
                Err(error) => {
                    tracing::error!(
                        raw_event_id,
                        transformed_event_id = event_id,
                        batch,
                        batch_position,
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
            return Err(JobError::from(error).about("events could not be published"));
        }
        for (index, error) in &failed {
            let totals = writing.totals(*index);
            totals.total_events_failed += 1;
            totals.total_events_published = totals.total_events_published.saturating_sub(1);
            writing.letters.extend(self.letter(&raws[*index], error));
        }
        writing.noted.retain(|noted| !failed.contains_key(&noted.index));
        let letters = std::mem::take(&mut writing.letters);
        if !letters.is_empty() {
            let answers = self.ground.produce(&self.dlq_topic, letters).await;
            if let Some(error) = answers.into_iter().find_map(Result::err) {
                return Err(JobError::from(error).about("dead letters could not be written"));
            }
        }
        let transform = (self.chosen.id.as_str(), self.chosen.version);
        let noted = self.ground.note(&self.order, transform, self.generation, raws, &writing.noted).await;
        Ok(noted?)
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

fn tell_dropped(raw: &Raw, (batch, batch_position): (u64, usize), reason: &str) {
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

fn tell_error(raw: &Raw, (batch, batch_position): (u64, usize), error: &str) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_batch_of_a_page_has_totals_of_its_own() {
        let mut writing = Writing::of(2500, 1000);
        for (index, found) in [(0, 1), (999, 1), (1000, 1), (2499, 5)] {
            writing.totals(index).total_events_found += found;
        }
        let seen = |totals: &Totals| (totals.processed_batches, totals.total_events_found);
        assert_eq!(writing.batches.iter().map(seen).collect::<Vec<_>>(), [(1, 2), (1, 1), (1, 5)]);
    }
}

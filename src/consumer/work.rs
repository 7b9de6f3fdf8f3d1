//! What the core asks for, done: each a task of its own whose answer goes back to the core.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::core::{
    AttemptId, BatchId, CommitOutcome, FetchId, FetchPosition, FetchedPart, Input, InsertOutcome, Item,
    Letter, RebuildId, RowRef, ScanId, Verdict,
};
use super::driver::Answer;
use super::stage::{Payload, Stage, StageBatch};
use crate::dlq::{DeadLetter, Refusal};
use crate::event::{Clock, Timestamp};
use crate::eventlog::{
    CommitError, Committer, EventLog, FetchError, FetchFrom, FetchLimits, FetchedRecords, Generation,
    LogError, NewRecord, Record, TopicId, TopicPartition,
};
use crate::store::InsertError;
use crate::telemetry::names;

/// Records of more bytes than this are decoded where blocking is fine.
const DECODE_HERE_BYTES_MAX: usize = 64 << 10;
/// Most bytes of one partition in one fetch, so that a full one does not crowd out the others.
const PARTITION_BYTES_MAX: usize = 1 << 20;

/// See the [module](self).
pub(super) struct Work<S> {
    pub(super) stage: Arc<S>,
    pub(super) log: Arc<dyn EventLog>,
    pub(super) dlq_topic: Arc<str>,
    pub(super) dlq_record_bytes_max: usize,
    pub(super) clock: Arc<dyn Clock>,
}

type Answered<S> = Input<Payload<<S as Stage>::Row>>;

impl<S: Stage> Work<S> {
    pub(super) async fn scan(&self, scan: ScanId, from: Vec<FetchPosition>) -> Answered<S> {
        let stored = self.stage.stored_offsets(&from).await.map_err(|error| error.to_string());
        Input::Scanned { scan, stored }
    }

    pub(super) async fn probe(&self) -> Answered<S> {
        Input::Probed { outcome: self.stage.probe().await.map_err(|error| error.to_string()) }
    }

    pub(super) async fn rebuild(
        &self,
        rebuild: RebuildId,
        partitions: Vec<(TopicPartition, TopicId)>,
        since: Timestamp,
        limit: usize,
        answers: mpsc::Sender<Answer<S::Row>>,
    ) -> Answered<S> {
        let (found, mut chunks) = mpsc::channel(2);
        // Moved, so that reading ends when there is nobody left to pass anything on to.
        let pass_on = async move {
            while let Some(ids) = chunks.recv().await {
                if answers.send(Answer::Input(Input::Rebuilding { rebuild, ids })).await.is_err() {
                    break;
                }
            }
        };
        let read = self.stage.recent_ids(&partitions, since, limit, found);
        let (outcome, ()) = tokio::join!(read, pass_on);
        if let Err(error) = &outcome {
            tracing::warn!(stage = self.stage.name(), %error, "the id window could not be rebuilt: trying again");
        }
        Input::Rebuilt { rebuild, outcome: outcome.map_err(|error| error.to_string()) }
    }

    pub(super) async fn fetch(
        self: Arc<Self>,
        lane: usize,
        fetch: FetchId,
        from: Vec<FetchPosition>,
        wait_max: Duration,
        bytes_max: usize,
    ) -> Answered<S> {
        let from: Vec<FetchFrom> = from
            .into_iter()
            .map(|position| FetchFrom {
                topic_partition: position.topic_partition,
                topic_id: position.topic_id,
                offset: position.offset,
            })
            .collect();
        let limits =
            FetchLimits { wait_max, partition_bytes_max: PARTITION_BYTES_MAX.min(bytes_max), bytes_max };
        let fetched = match self.log.fetch(&from, limits).await {
            Ok(fetched) => fetched,
            Err(error) => return Input::FetchFailed { lane, fetch, reason: error.to_string() },
        };
        let mut parts = Vec::with_capacity(fetched.len());
        for part in fetched {
            let found = match part.outcome {
                Ok(records) => self.clone().read(&part.topic_partition, records).await,
                Err(FetchError::OffsetOutOfRange(offsets)) => FetchedPart::OutOfRange(offsets),
                Err(FetchError::UnknownTopic { .. }) => FetchedPart::UnknownTopic,
                Err(FetchError::Corrupt { offset }) => FetchedPart::Corrupt { offset },
            };
            parts.push((part.topic_partition, found));
        }
        Input::Fetched { lane, fetch, parts }
    }

    async fn read(
        self: Arc<Self>,
        at: &TopicPartition,
        fetched: FetchedRecords,
    ) -> FetchedPart<Payload<S::Row>> {
        let FetchedRecords { records, next_offset, offsets } = fetched;
        let bytes: usize =
            records.iter().map(|record| record.value.as_ref().map_or(0, bytes::Bytes::len)).sum();
        let items = if bytes <= DECODE_HERE_BYTES_MAX {
            self.items(at, records)
        } else {
            let at = at.clone();
            match tokio::task::spawn_blocking(move || self.items(&at, records)).await {
                Ok(items) => items,
                // The decoder panicked: so does this task, and the driver hears of it.
                Err(join) => std::panic::resume_unwind(Box::new(join.to_string())),
            }
        };
        FetchedPart::Records { items, next_offset, offsets }
    }

    fn items(&self, at: &TopicPartition, records: Vec<Record>) -> Vec<Item<Payload<S::Row>>> {
        let item = |record: Record| {
            let read = self.stage.read(at, &record);
            let verdict = match &read {
                Ok(read) => read.verdict(),
                Err(refused) => Verdict::Refused(refused.kind),
            };
            let bytes = record_bytes(&record);
            let row = read.map(|read| read.row);
            Item { offset: record.offset, bytes, verdict, payload: Payload { record, row } }
        };
        records.into_iter().map(item).collect()
    }

    pub(super) async fn letters(
        &self,
        attempt: AttemptId,
        batch: &StageBatch<S::Row>,
        letters: &[Letter],
    ) -> Answered<S> {
        let letters: Vec<DeadLetter> = letters.iter().map(|letter| self.letter(batch, letter)).collect();
        let bytes_max = self.dlq_record_bytes_max;
        let records: Vec<NewRecord> = letters.iter().map(|letter| letter.to_record(bytes_max)).collect();
        let mut outcomes = Vec::with_capacity(letters.len());
        let produced = self.log.produce(&self.dlq_topic, records).await;
        for (letter, outcome) in letters.iter().zip(produced) {
            let outcome = match outcome {
                // The topic was made with a smaller limit than it should have.
                Err(LogError::RecordTooLarge { bytes_max, .. }) => {
                    let record = letter.to_record(bytes_max);
                    let again = self.log.produce(&self.dlq_topic, vec![record]).await;
                    again.into_iter().next().unwrap_or_else(|| Err(unanswered()))
                }
                outcome => outcome,
            };
            outcomes.push(outcome.map(drop).map_err(|error| error.to_string()));
        }
        outcomes.resize_with(letters.len(), || Err(unanswered().to_string()));
        Input::LettersProduced { batch: batch.id, attempt, outcomes }
    }

    fn letter(&self, batch: &StageBatch<S::Row>, letter: &Letter) -> DeadLetter {
        let part = &batch.parts[letter.row.part as usize];
        let payload = &batch.item(letter.row).payload;
        let message = match (&letter.store_said, &payload.row) {
            (Some(said), _) => said.as_str(),
            (None, Err(refused)) => refused.message.as_str(),
            (None, Ok(_)) => "",
        };
        tracing::warn!(
            stage = self.stage.name(),
            partition = %part.topic_partition,
            offset = payload.record.offset,
            error_kind = letter.kind.as_str(),
            error = message,
            "record refused: it becomes a dead letter"
        );
        DeadLetter::of(
            &payload.record,
            &Refusal {
                source: &part.topic_partition,
                source_topic_id: part.topic_id,
                stage: self.stage.name(),
                kind: letter.kind,
                message,
                attempts: 1,
                at: self.clock.now(),
            },
        )
    }

    pub(super) async fn insert(
        &self,
        attempt: AttemptId,
        batch: &Arc<StageBatch<S::Row>>,
        rows: &Arc<[RowRef]>,
        token: &str,
    ) -> Answered<S> {
        let began = Instant::now();
        let result = self.stage.insert(batch, rows, token).await;
        names::CONSUMER_INSERT_DURATION.histogram(&[]).record(began.elapsed().as_secs_f64());
        if let Err(error) = &result {
            names::CONSUMER_INSERT_ERRORS.counter(&[("class", error.class())]).increment(1);
            tracing::warn!(
                stage = self.stage.name(),
                batch = batch.id.0,
                rows = rows.len(),
                class = error.class(),
                %error,
                "insert not confirmed"
            );
        } else if self.stage.makes_events_visible() {
            self.show_visibility(batch, rows);
        }
        let outcome = match result {
            Ok(()) => InsertOutcome::Stored,
            Err(InsertError::Unavailable(reason)) => InsertOutcome::Unavailable(reason),
            Err(InsertError::OutcomeUnknown(reason)) => InsertOutcome::OutcomeUnknown(reason),
            Err(InsertError::Schema { message, cure }) => {
                InsertOutcome::Schema { message, cure: cure.to_owned() }
            }
            Err(InsertError::Rejected(message)) => {
                let row = named_row(&message);
                InsertOutcome::Rejected { message, row }
            }
        };
        Input::Inserted { batch: batch.id, attempt, outcome }
    }

    /// From receipt until now, when queries see it. Neighbours were received together: one sample for each moment.
    fn show_visibility(&self, batch: &StageBatch<S::Row>, rows: &[RowRef]) {
        let now = self.clock.now();
        let visibility = names::CONSUMER_VISIBILITY.histogram(&[]);
        let received = rows.iter().map(|row| match batch.item(*row).verdict {
            Verdict::Row { received_at, .. } => received_at,
            Verdict::Refused(_) => now,
        });
        let mut together: Option<(Timestamp, usize)> = None;
        for at in received {
            match &mut together {
                Some((same, count)) if *same == at => *count += 1,
                _ => {
                    if let Some((at, count)) = together.replace((at, 1)) {
                        visibility.record_many(now.since(at).as_secs_f64(), count);
                    }
                }
            }
        }
        if let Some((at, count)) = together {
            visibility.record_many(now.since(at).as_secs_f64(), count);
        }
    }

    pub(super) async fn commit(
        &self,
        batch: BatchId,
        attempt: AttemptId,
        committer: Option<Arc<dyn Committer>>,
        generation: Generation,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Answered<S> {
        let result = match committer {
            Some(committer) => committer.commit(generation, offsets).await,
            // The membership ended between the effect and now.
            None => Err(CommitError::Fenced),
        };
        let (label, outcome) = match result {
            Ok(()) => ("committed", CommitOutcome::Committed),
            Err(CommitError::Fenced) => ("fenced", CommitOutcome::Fenced),
            Err(CommitError::Rebalancing) => ("rebalancing", CommitOutcome::Rebalancing),
            Err(CommitError::Log(error)) => ("failed", CommitOutcome::Failed(error.to_string())),
        };
        names::CONSUMER_COMMITS.counter(&[("outcome", label)]).increment(1);
        Input::Committed { batch, attempt, outcome }
    }
}

fn unanswered() -> LogError {
    LogError::OutcomeUnknown("the log left the record without an answer".to_owned())
}

fn record_bytes(record: &Record) -> usize {
    let headers: usize = record.headers.iter().map(|header| header.name.len() + header.value.len()).sum();
    record.value.as_ref().map_or(0, bytes::Bytes::len)
        + record.key.as_ref().map_or(0, bytes::Bytes::len)
        + headers
}

/// The place in the block of the row that a refusal names: `… is violated at row 3. Expression: …` counts from 1.
fn named_row(message: &str) -> Option<usize> {
    let (_, after) = message.split_once(" at row ")?;
    let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse::<usize>().ok()?.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constraint_names_its_row() {
        let message = "VIOLATED_CONSTRAINT (469): DB::Exception: Constraint `named` for table flexflow.events (0f) is \
                       violated at row 17. Expression: (event_name != ''). Column values: event_name = ''";
        assert_eq!(named_row(message), Some(16));
        assert_eq!(named_row("something else"), None);
    }
}

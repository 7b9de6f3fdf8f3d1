//! The table `events_dlq`: the [`Ledger`] of replays and discards, and what lists and counts are read from.

use std::collections::HashMap;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use super::ledger::{Entry, Ledger, LedgerError, Origin, Standing, Status};
use super::{DeadLetter, Raw};
use crate::event::{ErrorKind, Scope, Timestamp};
use crate::eventlog::{Position, TopicId};
use crate::store::{DeadLetterCount, DeadLetterFilter, DeadLetterOrigin, DeadLetterRow, Store, StoreError};

/// Bytes of a payload that the index keeps.
const RAW_HEAD_BYTES: usize = 2048;

/// The index of dead letters in the store.
#[derive(Clone)]
pub struct Index {
    store: Store,
}

/// A dead letter as lists show it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Listed {
    /// `topic-partition-offset` of the record that was refused.
    pub id: String,
    pub dlq_ts: Timestamp,
    pub error_kind: String,
    pub error_message: String,
    pub stage: String,
    pub source_topic: String,
    pub source_topic_id: Uuid,
    pub source_partition: i32,
    pub source_offset: i64,
    /// Where the dead letter stands in the DLQ topic.
    pub dlq_topic_id: Uuid,
    pub dlq_partition: i32,
    pub dlq_offset: i64,
    /// `null` when the record did not tell.
    pub project_id: Option<String>,
    pub environment_id: Option<String>,
    pub event_id: Option<String>,
    pub attempts: u32,
    pub recoveries: u32,
    pub writer: String,
    /// A [`Status`].
    pub status: String,
    /// When its status last changed: refused, replayed or discarded.
    pub status_at: Timestamp,
    /// Why it was discarded.
    pub reason: Option<String>,
    /// The job that replayed or discarded it.
    pub job_id: Option<String>,
    /// `json`, `base64`, `absent` or `truncated`.
    pub raw_kind: String,
    /// The payload's beginning.
    pub raw_head: String,
}

impl From<DeadLetterRow> for Listed {
    fn from(row: DeadLetterRow) -> Self {
        let known = |text: String| Some(text).filter(|text| !text.is_empty());
        let DeadLetterOrigin { topic, topic_id, partition, offset } = row.origin;
        Self {
            id: format!("{topic}-{partition}-{offset}"),
            dlq_ts: row.dlq_ts,
            error_kind: row.error_kind,
            error_message: row.error_message,
            stage: row.stage,
            source_topic: topic,
            source_topic_id: topic_id,
            source_partition: partition,
            source_offset: offset,
            dlq_topic_id: row.dlq_topic_id,
            dlq_partition: row.dlq_partition,
            dlq_offset: row.dlq_offset,
            project_id: known(row.project_id),
            environment_id: known(row.environment_id),
            event_id: known(row.event_id),
            attempts: row.attempts,
            recoveries: row.recoveries,
            writer: row.writer,
            status: row.status,
            status_at: row.status_at,
            reason: known(row.reason),
            job_id: known(row.job_id),
            raw_kind: row.raw_kind,
            raw_head: row.raw,
        }
    }
}

/// What a page of a list ends with: when the last one was refused, and its origin.
pub type ListPosition = (i64, String, Uuid, i32, i64);

impl Listed {
    /// Where the page after this one begins.
    pub fn position(&self) -> ListPosition {
        let millis = self.dlq_ts.as_millis();
        (millis, self.source_topic.clone(), self.source_topic_id, self.source_partition, self.source_offset)
    }
}

/// Which dead letters a list or a count is about; every criterion given must hold.
#[derive(Clone, Default, Debug)]
pub struct Filter {
    pub error_kind: Option<ErrorKind>,
    /// The topic that the record was refused in.
    pub topic: Option<String>,
    pub status: Option<Status>,
    /// Refused at this time or later …
    pub since: Option<Timestamp>,
    /// … and before this one.
    pub until: Option<Timestamp>,
    /// Only the operator can name another than their own.
    pub project_id: Option<String>,
}

/// How many dead letters there are of a topic, kind and status.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Count {
    pub source_topic: String,
    pub error_kind: String,
    pub status: String,
    pub dead_letters: u64,
    pub first: Timestamp,
    pub last: Timestamp,
}

impl From<DeadLetterCount> for Count {
    fn from(count: DeadLetterCount) -> Self {
        Self {
            source_topic: count.source_topic,
            error_kind: count.error_kind,
            status: count.status,
            dead_letters: count.count,
            first: count.first,
            last: count.last,
        }
    }
}

impl Index {
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// A page of dead letters in reach, newest first; `scope` `None` reaches all.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn list(
        &self,
        scope: Option<&Scope>,
        filter: &Filter,
        after: Option<&ListPosition>,
        limit: u64,
    ) -> Result<Vec<Listed>, StoreError> {
        let after = after.map(|(millis, topic, topic_id, partition, offset)| {
            let topic = topic.clone();
            let origin =
                DeadLetterOrigin { topic, topic_id: *topic_id, partition: *partition, offset: *offset };
            (Timestamp::from_millis(*millis), origin)
        });
        let after = after.as_ref().map(|(at, origin)| (*at, origin));
        let rows = self.store.list_dead_letters(&stored_filter(scope, filter), after, limit).await?;
        Ok(rows.into_iter().map(Listed::from).collect())
    }

    /// The newest dead letter in reach of the record at this position (a topic made again counts its offsets anew).
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find(
        &self,
        scope: Option<&Scope>,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Result<Option<Listed>, StoreError> {
        let filter = Filter { topic: Some(topic.to_owned()), ..Filter::default() };
        let filter =
            DeadLetterFilter { source_position: Some((partition, offset)), ..stored_filter(scope, &filter) };
        Ok(self.store.list_dead_letters(&filter, None, 1).await?.into_iter().next().map(Listed::from))
    }

    /// Dead letters in reach by topic, kind and status.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn counts(&self, scope: Option<&Scope>, filter: &Filter) -> Result<Vec<Count>, StoreError> {
        let counts = self.store.count_dead_letters(&stored_filter(scope, filter)).await?;
        Ok(counts.into_iter().map(Count::from).collect())
    }
}

fn stored_filter(scope: Option<&Scope>, filter: &Filter) -> DeadLetterFilter {
    DeadLetterFilter {
        scope: scope.map(|scope| (scope.project.to_string(), scope.environment.to_string())),
        project_id: filter.project_id.clone(),
        error_kind: filter.error_kind.map(|kind| kind.as_str().to_owned()),
        source_topic: filter.topic.clone(),
        source_position: None,
        status: filter.status.map(|status| status.as_str().to_owned()),
        since: filter.since,
        until: filter.until,
    }
}

#[async_trait]
impl Ledger for Index {
    async fn standings(&self, origins: &[Origin]) -> Result<HashMap<Origin, Standing>, LedgerError> {
        let origins: Vec<DeadLetterOrigin> = origins.iter().map(stored_origin).collect();
        let rows = self.store.dead_letters_at(&origins).await?;
        let mut standings = HashMap::with_capacity(rows.len());
        for row in rows {
            let status =
                Status::from_name(&row.status).ok_or_else(|| LedgerError::Status(row.status.clone()))?;
            let DeadLetterOrigin { topic, topic_id, partition, offset } = row.origin;
            let origin = Origin { topic, topic_id: TopicId(topic_id), partition, offset };
            standings.insert(origin, Standing { status, job_id: row.job_id, version: row.version });
        }
        Ok(standings)
    }

    async fn write(&self, entries: &[Entry<'_>]) -> Result<(), LedgerError> {
        if entries.is_empty() {
            return Ok(());
        }
        let rows: Vec<DeadLetterRow> = entries.iter().map(row).collect();
        // Stands for exactly these rows: a try again is the same insert.
        let token = format!("dlq:{:032x}", xxh3_128(format!("{rows:?}").as_bytes()));
        Ok(self.store.insert_dead_letters(&rows, &token).await?)
    }
}

fn stored_origin(origin: &Origin) -> DeadLetterOrigin {
    DeadLetterOrigin {
        topic: origin.topic.clone(),
        topic_id: origin.topic_id.0,
        partition: origin.partition,
        offset: origin.offset,
    }
}

/// The line that lists a dead letter which stands at `position` of the DLQ topic, before anything became of it.
pub fn index_row(letter: &DeadLetter, dlq_topic_id: TopicId, position: Position) -> DeadLetterRow {
    row(&Entry {
        letter,
        dlq_topic_id,
        dlq_position: position,
        status: Status::Open,
        status_at: letter.dlq_ts,
        reason: "",
        job_id: "",
        version: 0,
    })
}

fn row(entry: &Entry<'_>) -> DeadLetterRow {
    let letter = entry.letter;
    let known = |id: &Option<String>| id.clone().unwrap_or_default();
    let (raw_kind, raw) = head(letter);
    DeadLetterRow {
        origin: stored_origin(&Origin::of(letter)),
        project_id: known(&letter.project_id),
        environment_id: known(&letter.environment_id),
        event_id: known(&letter.event_id),
        error_kind: letter.error_kind.as_str().to_owned(),
        error_message: letter.error_message.clone(),
        stage: letter.stage.clone(),
        dlq_ts: letter.dlq_ts,
        attempts: letter.attempts,
        recoveries: letter.recoveries,
        writer: letter.writer.clone(),
        record_key: String::from_utf8_lossy(letter.key.as_deref().unwrap_or_default()).into_owned(),
        raw_kind: raw_kind.to_owned(),
        raw,
        dlq_topic_id: entry.dlq_topic_id.0,
        dlq_partition: entry.dlq_position.partition,
        dlq_offset: entry.dlq_position.offset,
        status: entry.status.as_str().to_owned(),
        status_at: entry.status_at,
        reason: entry.reason.to_owned(),
        job_id: entry.job_id.to_owned(),
        version: entry.version,
    }
}

/// What the payload is, and its beginning.
fn head(letter: &DeadLetter) -> (&'static str, String) {
    let text = |text: &str| text[..text.floor_char_boundary(RAW_HEAD_BYTES)].to_owned();
    match &letter.raw {
        Raw::Json(json) => ("json", text(json.get())),
        Raw::Bytes(bytes) => ("base64", BASE64.encode(bytes.get(..RAW_HEAD_BYTES).unwrap_or(bytes))),
        Raw::Absent => ("absent", String::new()),
        Raw::Truncated { head, .. } => ("truncated", text(head)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_of_a_key_is_bound_to_its_project_and_environment() {
        let scope = Scope::new("proj_a", "env_a");
        let filter = Filter { project_id: Some("proj_b".to_owned()), ..Filter::default() };
        let stored = stored_filter(Some(&scope), &filter);
        assert_eq!(stored.scope, Some(("proj_a".to_owned(), "env_a".to_owned())));
        assert_eq!(stored_filter(None, &Filter::default()), DeadLetterFilter::default());
    }
}

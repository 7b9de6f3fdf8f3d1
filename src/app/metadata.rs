//! Do stored events say where they came from? The share of rows with whole ingestion metadata, offsets without a row, and
//! schema versions; and filling in what can be inferred.
//!
//! A row that lacks something was written by somebody else: a producer without headers, an import, an older table. What
//! is filled in comes from the record of the same event, where the log still has it; the row's producer then ends in
//! `backfill`, so that nobody takes it for what was said at ingestion.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::audit::{AuditError, Reader, decode};
use crate::config::Config;
use crate::event::{SCHEMA_VERSION, Scope, Timestamp};
use crate::eventlog::{EventLog, LogError, Record, TopicDescription};
use crate::store::{BACKFILL, BareRow, EventBlock, EventKey, EventRow, InsertError, Store, StoreError};

/// Projects and environments that are looked at.
const SCOPES_MAX: u64 = 1000;
/// Partitions of all incarnations of all topics.
const PARTITIONS_MAX: u64 = 10_000;
/// Gaps of a partition that are named; all are counted.
const GAPS_NAMED: u64 = 20;
/// Rows that one call fills in.
const ROWS_MAX: u64 = 20_000;

/// It could not be looked at.
#[derive(Debug, thiserror::Error)]
pub(super) enum MetadataError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Insert(#[from] InsertError),
    #[error(transparent)]
    Read(#[from] AuditError),
}

/// The whole report.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Every row has everything.
    pub complete: bool,
    pub rows: u64,
    pub full: u64,
    /// `full` of `rows`; 1 where there are none.
    pub share: f64,
    pub scopes: Vec<ScopeReport>,
    /// Events by the version of their record's shape.
    pub schema_versions: BTreeMap<u32, u64>,
    pub partitions: Vec<PartitionReport>,
}

/// The events of one environment.
#[derive(Debug, Serialize)]
pub(super) struct ScopeReport {
    pub project_id: String,
    pub environment_id: String,
    pub rows: u64,
    pub full: u64,
    pub backfilled: u64,
    pub without_producer: u64,
    pub without_schema_version: u64,
    pub without_position: u64,
    pub without_received_at: u64,
}

/// The offsets of a partition that have a row. The others are duplicates, dead letters, or lost: `flexflow audit` tells.
#[derive(Debug, Serialize)]
pub(super) struct PartitionReport {
    pub topic: String,
    pub topic_id: String,
    pub partition: i32,
    pub first: i64,
    pub last: i64,
    pub stored: u64,
    pub without_row: u64,
    pub dead_letters: u64,
    /// The first few, as first and last offset.
    pub gaps: Vec<(i64, i64)>,
}

/// Looks at everything that is stored.
///
/// # Errors
/// The store does not answer.
pub(super) async fn report(store: &Store) -> Result<Report, MetadataError> {
    let mut scopes = Vec::new();
    let mut schema_versions = BTreeMap::new();
    for (project, environment) in store.scopes(SCOPES_MAX).await? {
        let scope = Scope { project, environment };
        let counts = store.metadata_counts(&scope).await?;
        for (version, events) in store.schema_versions(&scope).await? {
            *schema_versions.entry(version).or_default() += events;
        }
        scopes.push(ScopeReport {
            project_id: scope.project.to_string(),
            environment_id: scope.environment.to_string(),
            rows: counts.rows,
            full: counts.full,
            backfilled: counts.backfilled,
            without_producer: counts.without_producer,
            without_schema_version: counts.without_schema_version,
            without_position: counts.without_position,
            without_received_at: counts.without_received_at,
        });
    }
    let mut partitions = Vec::new();
    for span in store.offset_spans(PARTITIONS_MAX).await? {
        let all = u64::try_from(span.last - span.first).unwrap_or_default() + 1;
        let without_row = all.saturating_sub(span.stored);
        let (gaps, dead_letters) = match without_row {
            0 => (Vec::new(), 0),
            _ => (store.offset_gaps(&span, GAPS_NAMED).await?, store.dead_offsets(&span).await?),
        };
        partitions.push(PartitionReport {
            topic: span.topic,
            topic_id: span.topic_id.to_string(),
            partition: span.partition,
            first: span.first,
            last: span.last,
            stored: span.stored,
            without_row,
            dead_letters,
            gaps,
        });
    }
    let sum = |of: fn(&ScopeReport) -> u64| scopes.iter().map(of).sum::<u64>();
    let (rows, full) = (sum(|scope| scope.rows), sum(|scope| scope.full));
    Ok(Report {
        complete: rows == full,
        rows,
        full,
        share: share(full, rows),
        scopes,
        schema_versions,
        partitions,
    })
}

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

/// What one call has filled in.
#[derive(Debug, Default, Serialize)]
pub(super) struct Filled {
    /// Rows that were written again.
    pub rows: u64,
    /// Of them, those whose record was found in the log.
    pub from_log: u64,
    /// There is more: ask again.
    pub more: bool,
}

/// Fills in what can be inferred of some rows, and marks them. A row is filled in once.
///
/// # Errors
/// The log or the store does not answer; asking again is safe.
pub(super) async fn backfill(
    log: &dyn EventLog,
    store: &Store,
    config: &Config,
) -> Result<Filled, MetadataError> {
    let mut bare = Vec::new();
    for (project, environment) in store.scopes(SCOPES_MAX).await? {
        let left = ROWS_MAX.saturating_sub(bare.len() as u64);
        if left == 0 {
            break;
        }
        bare.extend(store.bare_rows(&Scope { project, environment }, left).await?);
    }
    let mut filled = Filled { more: bare.len() as u64 >= ROWS_MAX, ..Filled::default() };
    if bare.is_empty() {
        return Ok(filled);
    }
    let found = origins(log, &config.topics.events, &bare).await?;
    for row in &mut bare {
        let origin = found.get(&row.key);
        filled.rows += 1;
        filled.from_log += u64::from(origin.is_some());
        fill(row, origin);
    }
    write(store, &bare).await?;
    Ok(filled)
}

/// What a record of the log says of its event.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    topic: String,
    topic_id: uuid::Uuid,
    partition: i32,
    offset: i64,
    received_at: Timestamp,
    schema_version: u32,
    producer: String,
}

/// The first record of each of these events that the log still has.
async fn origins(
    log: &dyn EventLog,
    topic: &str,
    rows: &[BareRow],
) -> Result<HashMap<EventKey, Origin>, MetadataError> {
    let topics = log.topics().await?;
    let topic: &TopicDescription =
        topics.iter().find(|one| &*one.name == topic).ok_or_else(|| LogError::TopicMissing(topic.into()))?;
    let wanted: std::collections::HashSet<&EventKey> = rows.iter().map(|row| &row.key).collect();
    let mut found = HashMap::new();
    for (partition, offsets) in (0i32..).zip(&topic.partitions) {
        let mut reader = Reader::new(log, topic, partition, offsets.log_start, offsets.end);
        while let Some(records) = reader.next().await? {
            for record in &records {
                let Some(event) = decode(record) else { continue };
                if wanted.contains(&event.key) {
                    found.entry(event.key).or_insert_with(|| Origin {
                        topic: topic.name.to_string(),
                        topic_id: topic.id.0,
                        partition,
                        offset: record.offset,
                        received_at: event.received_at,
                        schema_version: event.schema_version,
                        producer: producer(record),
                    });
                }
            }
        }
    }
    Ok(found)
}

fn producer(record: &Record) -> String {
    let header = record.headers.iter().find(|header| &*header.name == "producer");
    header.map(|header| String::from_utf8_lossy(&header.value).into_owned()).unwrap_or_default()
}

/// Fills what is missing, and only that; marks the row.
fn fill(row: &mut BareRow, origin: Option<&Origin>) {
    if let Some(origin) = origin {
        if row.lacks_position() {
            row.source_topic.clone_from(&origin.topic);
            row.source_topic_id = origin.topic_id;
            row.source_partition = origin.partition;
            row.source_offset = origin.offset;
        }
        if row.producer.is_empty() {
            row.producer.clone_from(&origin.producer);
        }
        if row.received_at == Timestamp::EPOCH {
            row.received_at = origin.received_at;
        }
        if row.schema_version == 0 {
            row.schema_version = origin.schema_version;
        }
    }
    // There has been one shape of records so far, and nothing is received before it happens.
    if row.schema_version == 0 {
        row.schema_version = SCHEMA_VERSION;
    }
    if row.received_at == Timestamp::EPOCH {
        row.received_at = row.timestamp;
    }
    row.producer =
        if row.producer.is_empty() { BACKFILL.to_owned() } else { format!("{}+{BACKFILL}", row.producer) };
}

/// Writes the rows again under their own keys and versions: of the same version the row that was inserted last counts.
async fn write(store: &Store, rows: &[BareRow]) -> Result<(), InsertError> {
    let mut block = EventBlock::with_capacity(rows.len());
    let mut hash = Sha256::new();
    for row in rows {
        block.push(&EventRow {
            project_id: &row.key.project_id,
            environment_id: &row.key.environment_id,
            event_id: &row.key.event_id,
            event_name: &row.event_name,
            distinct_id: &row.distinct_id,
            customer_id: &row.customer_id,
            session_id: &row.session_id,
            source: &row.source,
            producer: &row.producer,
            raw_event_id: &row.raw_event_id,
            timestamp: row.timestamp,
            received_at: row.received_at,
            schema_version: row.schema_version,
            source_topic: &row.source_topic,
            source_topic_id: row.source_topic_id,
            source_partition: row.source_partition,
            source_offset: row.source_offset,
            properties: &row.properties,
            version: row.version,
            is_deleted: false,
        });
        let texts =
            [&row.key.project_id, &row.key.environment_id, &row.key.event_id, &row.producer, &row.properties];
        for text in texts {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        hash.update(row.source_offset.to_le_bytes());
        hash.update(row.version.to_le_bytes());
    }
    let digest = hash.finalize();
    let token = digest.iter().fold("metadata:".to_owned(), |token, byte| format!("{token}{byte:02x}"));
    store.insert_events(&block, &token).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare() -> BareRow {
        BareRow {
            key: EventKey { project_id: "p".into(), environment_id: "e".into(), event_id: "1".into() },
            event_name: "click".into(),
            distinct_id: "d".into(),
            customer_id: String::new(),
            session_id: String::new(),
            source: String::new(),
            producer: String::new(),
            raw_event_id: String::new(),
            timestamp: Timestamp::from_millis(5),
            received_at: Timestamp::EPOCH,
            schema_version: 0,
            source_topic: String::new(),
            source_topic_id: uuid::Uuid::nil(),
            source_partition: -1,
            source_offset: -1,
            properties: "{}".into(),
            version: 0,
        }
    }

    #[test]
    fn what_the_log_knows_is_filled_in_and_marked() {
        let origin = Origin {
            topic: "events".into(),
            topic_id: uuid::Uuid::from_u128(7),
            partition: 3,
            offset: 9,
            received_at: Timestamp::from_millis(8),
            schema_version: 1,
            producer: "capture".into(),
        };
        let mut row = bare();
        fill(&mut row, Some(&origin));
        assert!(!row.lacks_position());
        assert_eq!((row.source_partition, row.source_offset, row.schema_version), (3, 9, 1));
        assert_eq!((row.received_at, row.producer.as_str()), (Timestamp::from_millis(8), "capture+backfill"));
    }

    #[test]
    fn what_nobody_knows_stays_missing_and_what_is_there_stays_as_it_is() {
        let mut row = BareRow { received_at: Timestamp::from_millis(6), ..bare() };
        fill(&mut row, None);
        assert!(row.lacks_position());
        assert_eq!((row.received_at, row.schema_version), (Timestamp::from_millis(6), SCHEMA_VERSION));
        assert_eq!(row.producer, "backfill");
        let mut row = bare();
        fill(&mut row, None);
        assert_eq!(row.received_at, row.timestamp, "nothing is received before it happens");
    }

    #[test]
    fn of_no_rows_all_are_complete() {
        assert!((share(0, 0) - 1.0).abs() < f64::EPSILON);
        assert!((share(1, 4) - 0.25).abs() < f64::EPSILON);
    }
}

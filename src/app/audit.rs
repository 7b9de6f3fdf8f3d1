//! Does the accounting identity balance? Every record of the topic that the store stage has committed is looked for:
//! as a row with its own log position, as an event stored from another position, or as a dead letter. What is none of
//! these is lost, and is named.
//!
//! `records = stored + duplicate + dead_lettered(kind) + missing`, by partition and hour of receipt; it balances if
//! nothing is missing. This reads the log and the store themselves and trusts no counter.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;

use crate::config::Config;
use crate::consumer::{self, Field};
use crate::dlq::DeadLetter;
use crate::event::{ErrorKind, Timestamp};
use crate::eventlog::{EventLog, FetchFrom, FetchLimits, LogError, Record, TopicDescription, TopicPartition};
use crate::store::{EventKey, Store, StoreError};

/// Records looked at together.
const CHUNK_RECORDS: usize = 10_000;
/// Most missing records that are named; all are counted.
const MISSING_NAMED: usize = 20;
const HOUR: i64 = 3_600_000;

/// The audit could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuditError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("partition {partition} cannot be read: {reason}")]
    Partition { partition: TopicPartition, reason: String },
}

/// The whole accounting.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub topic: String,
    /// Nothing is missing.
    pub balanced: bool,
    pub totals: Terms,
    pub partitions: Vec<PartitionReport>,
}

/// One partition, from the oldest record the log still has to the committed offset.
#[derive(Debug, Serialize)]
pub(super) struct PartitionReport {
    pub partition: i32,
    pub log_start: i64,
    pub committed: i64,
    pub end: i64,
    pub totals: Terms,
    /// By hour of receipt.
    pub hours: BTreeMap<Timestamp, Terms>,
    /// The first few records that are nowhere.
    pub missing: Vec<Missing>,
}

/// The terms of the identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Terms {
    pub records: u64,
    /// A row with this record's own position.
    pub stored: u64,
    /// The event is stored, from another position: a resend, or a replay.
    pub duplicate: u64,
    pub dead_lettered: BTreeMap<ErrorKind, u64>,
    pub missing: u64,
    /// Not yet committed.
    pub in_flight: u64,
}

/// A record that is nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Missing {
    pub offset: i64,
    pub event_id: Option<String>,
}

impl Report {
    /// Takes out what names events: records of all projects lie in one log, and a project's administrator sees none of
    /// the others'.
    pub(super) fn forget_ids(&mut self) {
        for missing in self.partitions.iter_mut().flat_map(|partition| &mut partition.missing) {
            missing.event_id = None;
        }
    }
}

impl Terms {
    fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.stored += other.stored;
        self.duplicate += other.duplicate;
        self.missing += other.missing;
        self.in_flight += other.in_flight;
        for (kind, count) in &other.dead_lettered {
            *self.dead_lettered.entry(*kind).or_default() += count;
        }
    }
}

/// What the chunk's records turned out to be.
struct Facts<'a> {
    /// Offsets with a row of their own.
    stored: HashSet<i64>,
    /// Events that are stored under any position.
    known: HashSet<EventKey>,
    dead: &'a HashMap<(i32, i64), ErrorKind>,
}

/// Audits the topic of events.
///
/// # Errors
/// The log or the store does not answer.
pub(super) async fn run(log: &dyn EventLog, store: &Store, config: &Config) -> Result<Report, AuditError> {
    let topics = log.topics().await?;
    let name = config.topics.events.as_str();
    let find = |name: &str| topics.iter().find(|topic| &*topic.name == name);
    let topic = find(name).ok_or_else(|| LogError::TopicMissing(name.into()))?;
    let dead = match find(&config.consumer.dlq_topic) {
        Some(dlq) => dead_letters(log, dlq, name).await?,
        None => HashMap::new(),
    };
    let committed = log.committed(&config.consumer.group_id).await?;
    let mut report =
        Report { topic: name.to_owned(), balanced: true, totals: Terms::default(), partitions: Vec::new() };
    for (partition, offsets) in (0i32..).zip(&topic.partitions) {
        let at = TopicPartition::new(name, partition);
        let committed = committed.get(&at).copied().unwrap_or(offsets.log_start).max(offsets.log_start);
        let mut own = PartitionReport {
            partition,
            log_start: offsets.log_start,
            committed,
            end: offsets.end,
            totals: Terms {
                in_flight: u64::try_from(offsets.end - committed).unwrap_or(0),
                ..Terms::default()
            },
            hours: BTreeMap::new(),
            missing: Vec::new(),
        };
        let mut reader = Reader::new(log, topic, partition, offsets.log_start, committed);
        while let Some(records) = reader.next().await? {
            let facts = look_up(store, topic, partition, &records, &dead).await?;
            tally(partition, &records, &facts, &mut own);
        }
        report.totals.add(&own.totals);
        report.partitions.push(own);
    }
    report.balanced = report.totals.missing == 0;
    Ok(report)
}

/// Sorts records into the terms.
fn tally(partition: i32, records: &[Record], facts: &Facts<'_>, report: &mut PartitionReport) {
    for record in records {
        let event = decode(record);
        let key = event.as_ref().map(|event| &event.key);
        let mut terms = Terms { records: 1, ..Terms::default() };
        if facts.stored.contains(&record.offset) {
            terms.stored = 1;
        } else if let Some(kind) = facts.dead.get(&(partition, record.offset)) {
            terms.dead_lettered.insert(*kind, 1);
        } else if key.is_some_and(|key| facts.known.contains(key)) {
            terms.duplicate = 1;
        } else {
            terms.missing = 1;
            if report.missing.len() < MISSING_NAMED {
                report
                    .missing
                    .push(Missing { offset: record.offset, event_id: key.map(|key| key.event_id.clone()) });
            }
        }
        let received = event.map_or(record.timestamp, |event| event.received_at).as_millis();
        report
            .hours
            .entry(Timestamp::from_millis(received - received.rem_euclid(HOUR)))
            .or_default()
            .add(&terms);
        report.totals.add(&terms);
    }
}

/// What a record says of its event.
pub(super) struct Said {
    pub key: EventKey,
    pub received_at: Timestamp,
    pub schema_version: u32,
}

/// As the consumer reads it: other producers' shapes, too.
pub(super) fn decode(record: &Record) -> Option<Said> {
    let event = consumer::decode(record).ok()?;
    let texts = event.of(record.value.as_deref()?);
    let key = EventKey {
        project_id: texts.text(Field::ProjectId).to_owned(),
        environment_id: texts.text(Field::EnvironmentId).to_owned(),
        event_id: texts.text(Field::Id).to_owned(),
    };
    Some(Said { key, received_at: event.received_at, schema_version: event.schema_version })
}

async fn look_up<'a>(
    store: &Store,
    topic: &TopicDescription,
    partition: i32,
    records: &[Record],
    dead: &'a HashMap<(i32, i64), ErrorKind>,
) -> Result<Facts<'a>, StoreError> {
    let (Some(first), Some(last)) = (records.first(), records.last()) else {
        return Ok(Facts { stored: HashSet::new(), known: HashSet::new(), dead });
    };
    let stored = store.offsets_between(&topic.name, topic.id.0, partition, first.offset, last.offset).await?;
    let stored: HashSet<i64> = stored.into_iter().collect();
    let unexplained: Vec<EventKey> = records
        .iter()
        .filter(|record| !stored.contains(&record.offset) && !dead.contains_key(&(partition, record.offset)))
        .filter_map(|record| Some(decode(record)?.key))
        .collect();
    let known =
        if unexplained.is_empty() { HashSet::new() } else { store.known_events(&unexplained).await? };
    Ok(Facts { stored, known, dead })
}

/// Where the dead letters of `topic` came from.
pub(super) async fn dead_letters(
    log: &dyn EventLog,
    dlq: &TopicDescription,
    topic: &str,
) -> Result<HashMap<(i32, i64), ErrorKind>, AuditError> {
    let mut found = HashMap::new();
    for (partition, offsets) in (0i32..).zip(&dlq.partitions) {
        let mut reader = Reader::new(log, dlq, partition, offsets.log_start, offsets.end);
        while let Some(records) = reader.next().await? {
            for letter in records.iter().filter_map(|record| DeadLetter::from_record(record).ok()) {
                if letter.source_topic == topic {
                    found.insert((letter.source_partition, letter.source_offset), letter.error_kind);
                }
            }
        }
    }
    Ok(found)
}

/// Reads one partition from an offset to another, a chunk at a time.
pub(super) struct Reader<'a> {
    log: &'a dyn EventLog,
    from: FetchFrom,
    to: i64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        log: &'a dyn EventLog,
        topic: &TopicDescription,
        partition: i32,
        from: i64,
        to: i64,
    ) -> Self {
        let topic_partition = TopicPartition::new(topic.name.clone(), partition);
        Self { log, from: FetchFrom { topic_partition, topic_id: topic.id, offset: from }, to }
    }

    /// The next records; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Record>>, AuditError> {
        let limits = FetchLimits {
            wait_max: Duration::from_millis(100),
            partition_bytes_max: 8 << 20,
            bytes_max: 8 << 20,
        };
        let mut records: Vec<Record> = Vec::new();
        while self.from.offset < self.to && records.len() < CHUNK_RECORDS {
            let before = self.from.offset;
            for fetched in self.log.fetch(std::slice::from_ref(&self.from), limits).await? {
                let failed = |reason: String| AuditError::Partition {
                    partition: self.from.topic_partition.clone(),
                    reason,
                };
                let got = fetched.outcome.map_err(|error| failed(error.to_string()))?;
                records.extend(got.records.into_iter().filter(|record| record.offset < self.to));
                self.from.offset = got.next_offset;
            }
            if self.from.offset == before {
                break;
            }
        }
        Ok((!records.is_empty()).then_some(records))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: i64, id: &str) -> Record {
        let value = format!(
            r#"{{"id":"{id}","project_id":"p","environment_id":"e","event_name":"n","distinct_id":"d","timestamp":"2026-01-31T11:30:00Z","received_at":"2026-01-31T11:59:59Z","schema_version":1}}"#
        );
        Record {
            offset,
            timestamp: Timestamp::EPOCH,
            key: None,
            value: Some(value.into()),
            headers: Default::default(),
        }
    }

    #[test]
    fn a_record_that_is_nowhere_is_counted_and_named() {
        let dead = HashMap::from([((0, 3), ErrorKind::InvalidJson)]);
        let known = EventKey { project_id: "p".into(), environment_id: "e".into(), event_id: "twice".into() };
        let facts = Facts { stored: HashSet::from([1]), known: HashSet::from([known]), dead: &dead };
        let mut report = PartitionReport {
            partition: 0,
            log_start: 1,
            committed: 5,
            end: 5,
            totals: Terms::default(),
            hours: BTreeMap::new(),
            missing: vec![],
        };
        let records = [record(1, "stored"), record(2, "twice"), record(3, "poison"), record(4, "lost")];
        tally(0, &records, &facts, &mut report);
        let terms = &report.totals;
        assert_eq!((terms.records, terms.stored, terms.duplicate, terms.missing), (4, 1, 1, 1));
        assert_eq!(terms.dead_lettered, BTreeMap::from([(ErrorKind::InvalidJson, 1)]));
        assert_eq!(report.missing, vec![Missing { offset: 4, event_id: Some("lost".into()) }]);
        assert_eq!(
            report.hours.keys().map(ToString::to_string).collect::<Vec<_>>(),
            ["2026-01-31T11:00:00.000Z"]
        );
        let (topic, totals) = ("events".to_owned(), Terms::default());
        let mut whole = Report { topic, balanced: false, totals, partitions: vec![report] };
        whole.forget_ids();
        assert_eq!(whole.partitions[0].missing, vec![Missing { offset: 4, event_id: None }]);
    }
}

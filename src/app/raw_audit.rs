//! Does the accounting of raw events balance? Every record of their topic that the stage has committed is looked for: as
//! published, dropped with its reason, an error, a dead letter, or the resend of another. What is none of these is lost.
//!
//! `records = published + dropped(reason) + errors + dead_lettered(kind) + duplicate + missing`.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use super::audit::{AuditError, Reader, dead_letters};
use crate::config::Config;
use crate::event::{ErrorKind, RawEvent};
use crate::eventlog::{EventLog, Record, TopicDescription, TopicPartition};
use crate::store::{EventKey, Store};

/// Most missing records that are named; all are counted.
const MISSING_NAMED: usize = 20;

/// The terms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Report {
    pub topic: String,
    /// Nothing is missing.
    pub balanced: bool,
    pub records: u64,
    pub published: u64,
    pub dropped: BTreeMap<String, u64>,
    /// Their payload is stored, and each is a dead letter too.
    pub errors: u64,
    pub dead_lettered: BTreeMap<ErrorKind, u64>,
    /// Stored from another position: sent again, or replayed.
    pub duplicate: u64,
    pub missing: u64,
    /// Not yet committed.
    pub in_flight: u64,
    /// Partition and offset of the first few that are nowhere.
    pub missing_at: Vec<(i32, i64)>,
}

/// Audits the topic of raw events; one that is not there has none.
///
/// # Errors
/// The log or the store does not answer.
pub(super) async fn run(log: &dyn EventLog, store: &Store, config: &Config) -> Result<Report, AuditError> {
    let name = config.topics.raw_events.as_str();
    let mut report = Report { topic: name.to_owned(), balanced: true, ..Report::default() };
    let topics = log.topics().await?;
    let find = |name: &str| topics.iter().find(|topic| &*topic.name == name);
    let Some(topic) = find(name) else { return Ok(report) };
    let dead = match find(&config.consumer.dlq_topic) {
        Some(dlq) => dead_letters(log, dlq, name).await?,
        None => HashMap::new(),
    };
    let committed = log.committed(&config.consumer.raw_group_id).await?;
    for (partition, offsets) in (0i32..).zip(&topic.partitions) {
        let at = committed.get(&TopicPartition::new(name, partition)).copied();
        let committed = at.unwrap_or(offsets.log_start).max(offsets.log_start);
        report.in_flight += u64::try_from(offsets.end - committed).unwrap_or(0);
        let mut reader = Reader::new(log, topic, partition, offsets.log_start, committed);
        while let Some(records) = reader.next().await? {
            tally(store, topic, partition, &records, &dead, &mut report).await?;
        }
    }
    report.balanced = report.missing == 0;
    Ok(report)
}

async fn tally(
    store: &Store,
    topic: &TopicDescription,
    partition: i32,
    records: &[Record],
    dead: &HashMap<(i32, i64), ErrorKind>,
    report: &mut Report,
) -> Result<(), AuditError> {
    let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(()) };
    let outcomes =
        store.raw_outcomes_between(&topic.name, topic.id.0, partition, first.offset, last.offset).await?;
    let outcomes: HashMap<i64, (String, String)> =
        outcomes.into_iter().map(|(offset, outcome, reason)| (offset, (outcome, reason))).collect();
    let unexplained = |record: &&Record| {
        !outcomes.contains_key(&record.offset) && !dead.contains_key(&(partition, record.offset))
    };
    let keys: Vec<EventKey> = records.iter().filter(unexplained).filter_map(key_of).collect();
    let known = if keys.is_empty() { HashSet::new() } else { store.known_raw_events(&keys).await? };
    for record in records {
        report.records += 1;
        match (outcomes.get(&record.offset), dead.get(&(partition, record.offset))) {
            (Some((outcome, _)), _) if outcome == "published" => report.published += 1,
            (Some((outcome, reason)), _) if outcome == "dropped" => {
                *report.dropped.entry(reason.clone()).or_default() += 1;
            }
            (Some(_), _) => report.errors += 1,
            (None, Some(kind)) => *report.dead_lettered.entry(*kind).or_default() += 1,
            (None, None) if key_of(record).is_some_and(|key| known.contains(&key)) => report.duplicate += 1,
            (None, None) => {
                report.missing += 1;
                if report.missing_at.len() < MISSING_NAMED {
                    report.missing_at.push((partition, record.offset));
                }
            }
        }
    }
    Ok(())
}

fn key_of(record: &Record) -> Option<EventKey> {
    let raw: RawEvent<'_> = serde_json::from_slice(record.value.as_deref()?).ok()?;
    Some(EventKey {
        project_id: raw.project_id.into_owned(),
        environment_id: raw.environment_id.into_owned(),
        event_id: raw.id.into_owned(),
    })
}

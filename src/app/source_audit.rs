//! Does the accounting of further topics (`consumer.sources`) balance? Every record that their stage has committed is
//! looked for: all of its events stored, or standing in the topic behind it, or a dead letter. What is none of these is
//! lost, and is named.
//!
//! `records = handed_on + dead_lettered(kind) + missing`.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use super::audit::{AuditError, Reader, dead_letters, decode};
use crate::config::Config;
use crate::consumer::{Made, SourceReader, Target};
use crate::event::{ErrorKind, RawEvent};
use crate::eventlog::{EventLog, Record, TopicDescription, TopicPartition};
use crate::store::{EventKey, Store, StoreError};

/// Most missing records that are named; all are counted.
const MISSING_NAMED: usize = 20;

/// The terms of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Report {
    pub topic: String,
    /// Nothing is missing.
    pub balanced: bool,
    pub records: u64,
    /// Every event of theirs is stored, or stands in the topic behind.
    pub handed_on: u64,
    pub dead_lettered: BTreeMap<ErrorKind, u64>,
    pub missing: u64,
    /// Not yet committed.
    pub in_flight: u64,
    /// Partition and offset of the first few that are nowhere.
    pub missing_at: Vec<(i32, i64)>,
}

/// An event or a raw event.
type Wanted = (bool, EventKey);

/// Audits every source; one whose topic is not there has nothing.
///
/// # Errors
/// The log or the store does not answer.
pub(super) async fn run(
    log: &dyn EventLog,
    store: &Store,
    config: &Config,
) -> Result<Vec<Report>, AuditError> {
    let sources = &config.consumer.sources;
    if sources.is_empty() {
        return Ok(Vec::new());
    }
    let topics = log.topics().await?;
    let find = |name: &str| topics.iter().find(|topic| &*topic.name == name);
    let committed = log.committed(&config.consumer.sources_group_id).await?;
    let reader = SourceReader::new(config);
    let mut reports = Vec::new();
    for source in sources {
        let name = source.topic.as_str();
        let mut report = Report { topic: name.to_owned(), ..Report::default() };
        let Some(topic) = find(name) else {
            reports.push(Report { balanced: true, ..report });
            continue;
        };
        let dead = match find(&config.consumer.dlq_topic) {
            Some(dlq) => dead_letters(log, dlq, name).await?,
            None => HashMap::new(),
        };
        // Records of which an event is not stored, with what is looked for.
        let mut open: Vec<((i32, i64), Vec<Wanted>)> = Vec::new();
        for (partition, offsets) in (0i32..).zip(&topic.partitions) {
            let at = TopicPartition::new(name, partition);
            let committed = committed.get(&at).copied().unwrap_or(offsets.log_start).max(offsets.log_start);
            report.in_flight += u64::try_from(offsets.end - committed).unwrap_or(0);
            let mut records = Reader::new(log, topic, partition, offsets.log_start, committed);
            while let Some(records) = records.next().await? {
                report.records += records.len() as u64;
                open.extend(tally(store, &reader, &at, &records, &dead, &mut report).await?);
            }
        }
        let behind = [find(&config.topics.events), find(&config.topics.raw_events)];
        let unfound = look_behind(log, behind, open).await?;
        report.missing = unfound.len() as u64;
        report.handed_on = report.records - report.missing - report.dead_lettered.values().sum::<u64>();
        report.missing_at = unfound.into_iter().take(MISSING_NAMED).collect();
        report.balanced = report.missing == 0;
        reports.push(report);
    }
    Ok(reports)
}

fn wanted(made: &Made) -> Wanted {
    let key = EventKey {
        project_id: made.scope.project.to_string(),
        environment_id: made.scope.environment.to_string(),
        event_id: made.id.clone(),
    };
    (made.target == Target::RawEvents, key)
}

/// Counts the dead letters; the records of which the store does not have everything are the answer.
async fn tally(
    store: &Store,
    reader: &SourceReader,
    at: &TopicPartition,
    records: &[Record],
    dead: &HashMap<(i32, i64), ErrorKind>,
    report: &mut Report,
) -> Result<Vec<((i32, i64), Vec<Wanted>)>, StoreError> {
    let mut open = Vec::new();
    for record in records {
        let place = (at.partition, record.offset);
        match dead.get(&place) {
            Some(kind) => *report.dead_lettered.entry(*kind).or_default() += 1,
            // What cannot be read now and is no dead letter is looked for in vain.
            None => open.push((
                place,
                reader.read(at, record).map_or_else(|_| Vec::new(), |made| made.iter().map(wanted).collect()),
            )),
        }
    }
    let keys = |raw: bool| -> Vec<EventKey> {
        let all = open.iter().flat_map(|(_, wanted): &((i32, i64), Vec<Wanted>)| wanted);
        all.filter(|(of_raw, _)| *of_raw == raw).map(|(_, key)| key.clone()).collect()
    };
    let (events, raw_events) = (keys(false), keys(true));
    let known = if events.is_empty() { HashSet::new() } else { store.known_events(&events).await? };
    let known_raw =
        if raw_events.is_empty() { HashSet::new() } else { store.known_raw_events(&raw_events).await? };
    let is_stored = |(raw, key): &Wanted| if *raw { known_raw.contains(key) } else { known.contains(key) };
    open.retain(|(_, wanted)| wanted.is_empty() || !wanted.iter().all(is_stored));
    Ok(open)
}

/// Looks for what is not stored in the topics behind; the places of records of which something is not there either.
async fn look_behind(
    log: &dyn EventLog,
    [events, raw_events]: [Option<&TopicDescription>; 2],
    open: Vec<((i32, i64), Vec<Wanted>)>,
) -> Result<Vec<(i32, i64)>, AuditError> {
    let looked_for: HashSet<&Wanted> = open.iter().flat_map(|(_, wanted)| wanted).collect();
    let mut found: HashSet<Wanted> = HashSet::new();
    for (raw, topic) in [(false, events), (true, raw_events)] {
        let Some(topic) = topic.filter(|_| looked_for.iter().any(|(of_raw, _)| *of_raw == raw)) else {
            continue;
        };
        for (partition, offsets) in (0i32..).zip(&topic.partitions) {
            let mut reader = Reader::new(log, topic, partition, offsets.log_start, offsets.end);
            while let Some(records) = reader.next().await? {
                let keys = records.iter().filter_map(|record| {
                    Some((raw, if raw { raw_key(record)? } else { decode(record)?.key }))
                });
                found.extend(keys.filter(|key| looked_for.contains(key)));
            }
        }
    }
    let is_missing =
        |wanted: &Vec<Wanted>| wanted.is_empty() || !wanted.iter().all(|one| found.contains(one));
    Ok(open.iter().filter(|(_, wanted)| is_missing(wanted)).map(|(place, _)| *place).collect())
}

fn raw_key(record: &Record) -> Option<EventKey> {
    let raw: RawEvent<'_> = serde_json::from_slice(record.value.as_deref()?).ok()?;
    Some(EventKey {
        project_id: raw.project_id.into_owned(),
        environment_id: raw.environment_id.into_owned(),
        event_id: raw.id.into_owned(),
    })
}

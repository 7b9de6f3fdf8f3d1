//! What became of one event: received → topic, partition, offset → stored row, or duplicate, or dead letter, or not found
//! yet and how far the store is behind.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::backlog::Part;
use super::events::LogPlace;
use super::statement::{self, View};
use super::{Meta, Query};
use crate::dlq::DeadLetter;
use crate::event::{ErrorKind, Scope, Timestamp};
use crate::eventlog::{LogError, Record};
use crate::http::Problem;
use crate::store::{DeadLetterOrigin, Row, RowCells, Sql, StoreError};

pub use super::backlog::PartitionBacklog;

/// Rows and dead letters of one event that are shown.
const SHOWN_MAX: usize = 100;

/// How the event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is in every answer.
    Stored,
    /// It was stored, and deleted since.
    Deleted,
    /// It was refused; the dead letter says why.
    DeadLettered,
    /// It is durable in the event log, and not stored yet.
    InLog,
    /// Nothing of it is found where it was looked for; see `message`.
    NotFound,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct Trace {
    pub event_id: String,
    pub status: Status,
    /// What that means, for people.
    pub message: String,
    /// What happened, oldest first.
    pub steps: Vec<Step>,
    /// Every row that the store has of it, also those that no longer count.
    pub rows: Vec<StoredRow>,
    pub dead_letters: Vec<Letter>,
    /// How far the store is behind the log; null while the log does not answer.
    pub backlog: Option<Backlog>,
    pub meta: Meta,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Step {
    pub at: Timestamp,
    pub step: &'static str,
    pub detail: String,
}

/// A row as it was inserted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredRow {
    pub event: String,
    pub distinct_id: String,
    pub timestamp: Timestamp,
    pub received_at: Timestamp,
    pub ingested_at: Timestamp,
    pub log: LogPlace,
    /// Of rows with the same day, event and distinct id the highest counts.
    pub version: u64,
    /// A tombstone.
    pub is_deleted: bool,
    /// Is this the row that answers see?
    pub counts: bool,
}

/// A dead letter of the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Letter {
    /// `topic-partition-offset` of the refused record: what replay and discard take.
    pub id: String,
    pub error_kind: ErrorKind,
    pub error_message: String,
    pub dlq_ts: Timestamp,
    pub stage: String,
    pub log: LogPlace,
    pub attempts: u32,
    pub recoveries: u32,
    /// What became of it: `open`, `replayed` or `discarded`; null while the index of dead letters does not answer.
    pub status: Option<String>,
    /// Why it was discarded.
    pub reason: Option<String>,
    #[serde(skip)]
    origin: DeadLetterOrigin,
}

/// How far the store is behind the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backlog {
    pub topic: String,
    pub group: String,
    /// Records over all partitions.
    pub lag: i64,
    pub partitions: Vec<PartitionBacklog>,
    /// Was all of the backlog looked through for the event? Else the first `query.trace_records_max` records were.
    pub looked_through: bool,
    /// Were all dead letters? Else the newest `query.trace_records_max`.
    pub dead_letters_looked_through: bool,
}

/// What became of `event_id`; `again`: also how often it was sent again, for which the newest records of the log are read.
///
/// # Errors
/// 503 for what the store does not answer.
pub(super) async fn trace(
    query: &Query,
    scope: &Scope,
    event_id: &str,
    again: bool,
) -> Result<Trace, Problem> {
    let asked = query.begin().await?;
    let mut rows: Vec<StoredRow> = query.select(rows_of(scope, event_id)).await?;
    mark_those_that_count(&mut rows);
    let stored = rows.iter().any(|row| row.counts && !row.is_deleted);
    let part = match (stored, again) {
        (false, _) => Some(Part::Uncommitted),
        (true, true) => Some(Part::Newest),
        (true, false) => None,
    };
    let looking = look_in_log(query, scope, event_id, part);
    let found = match tokio::time::timeout(query.limits.timeout, looking).await {
        Ok(Ok(found)) => Some(found),
        Ok(Err(error)) => {
            tracing::warn!(%error, "a trace goes without the event log");
            None
        }
        Err(_) => None,
    };
    let (records, dead_letters, backlog) = match found {
        Some(found) => (found.records, found.dead_letters, Some(found.backlog)),
        None => (Vec::new(), Vec::new(), None),
    };
    let (waiting, again) =
        if stored { (Vec::new(), duplicates(records, &rows, &dead_letters)) } else { (records, Vec::new()) };
    let status = match () {
        () if stored => Status::Stored,
        () if !waiting.is_empty() => Status::InLog,
        () if !rows.is_empty() => Status::Deleted,
        () if !dead_letters.is_empty() => Status::DeadLettered,
        () => Status::NotFound,
    };
    let message = explain(status, &dead_letters, backlog.as_ref());
    let steps = steps(&rows, &waiting, &again, &dead_letters);
    Ok(Trace {
        event_id: event_id.to_owned(),
        status,
        message,
        steps,
        rows,
        dead_letters,
        backlog,
        meta: asked.meta(),
    })
}

/// Every version, the one that counts first.
pub(super) fn rows_of(scope: &Scope, event_id: &str) -> Sql {
    let columns = Sql::new(
        "event_name, distinct_id, timestamp, received_at, ingested_at, source_topic, source_partition, \
         source_offset, version, is_deleted",
    );
    let tail = Sql::new(
        "ORDER BY toDate(timestamp), event_name, distinct_id, version DESC, ingested_at DESC, source_offset DESC LIMIT ",
    )
    .arg(SHOWN_MAX);
    statement::events(scope, View::Versions, &columns)
        .key(Sql::new("event_id = ").arg(event_id))
        .then(tail)
        .sql()
}

/// Of each key (day, event, distinct id) the first: rows come so ordered.
fn mark_those_that_count(rows: &mut [StoredRow]) {
    let key = |row: &StoredRow| {
        (row.timestamp.as_millis().div_euclid(86_400_000), row.event.clone(), row.distinct_id.clone())
    };
    let mut before = None;
    for row in rows {
        let this = Some(key(row));
        row.counts = this != before;
        before = this;
    }
}

/// A record of the event, and when capture took it.
type Found = (LogPlace, Timestamp);

/// Of the records that carry the event those that made no row: it was sent again and counts once.
fn duplicates(mut records: Vec<Found>, rows: &[StoredRow], dead_letters: &[Letter]) -> Vec<Found> {
    let refused = |place: &LogPlace| dead_letters.iter().any(|letter| letter.log == *place);
    records.retain(|(place, _)| !refused(place));
    if records.first().is_some_and(|(first, _)| rows.iter().all(|row| row.log.topic != first.topic)) {
        // The row names none of these (it was amended since): the first one made it.
        records.remove(0);
    }
    records.retain(|(place, _)| rows.iter().all(|row| row.log != *place));
    records
}

struct InLog {
    /// Records with the event: those the store has not committed, or the newest ones where the event is stored.
    records: Vec<Found>,
    dead_letters: Vec<Letter>,
    backlog: Backlog,
}

async fn look_in_log(
    query: &Query,
    scope: &Scope,
    event_id: &str,
    part: Option<Part>,
) -> Result<InLog, LogError> {
    let reader = &query.backlog;
    let partitions = reader.partitions().await?;
    let lag = partitions.iter().map(|partition| partition.lag).sum();
    let mut records = Vec::new();
    let mut looked_through = true;
    if let Some(part) = part
        && (part == Part::Newest || lag > 0)
    {
        let show = |partition: i32, record: &Record| {
            if records.len() < SHOWN_MAX
                && let Some(received_at) = received(record, scope, event_id, None)
            {
                let topic = reader.topic().to_owned();
                records.push((LogPlace { topic, partition, offset: record.offset }, received_at));
            }
        };
        let whole = reader.look_through(reader.topic(), part, query.limits.trace_records_max, show).await?;
        looked_through = whole || part == Part::Newest;
    }
    if part == Some(Part::Uncommitted) {
        looked_through &= look_in_sources(query, scope, event_id, &mut records).await?;
    }
    let mut dead_letters = Vec::new();
    let show = |_: i32, record: &Record| {
        if let Some(letter) = letter(record, scope, event_id)
            && dead_letters.len() < SHOWN_MAX
            && !dead_letters.iter().any(|known: &Letter| known.id == letter.id)
        {
            dead_letters.push(letter);
        }
    };
    let dead =
        reader.look_through(&query.dlq_topic, Part::Newest, query.limits.trace_records_max, show).await;
    let dead_letters_looked_through = match dead {
        Ok(whole) => whole,
        // Nothing was ever refused.
        Err(LogError::TopicMissing(_)) => true,
        Err(error) => return Err(error),
    };
    tell_what_became_of(query, &mut dead_letters).await;
    let backlog = Backlog {
        topic: reader.topic().to_owned(),
        group: reader.group().to_owned(),
        lag,
        partitions,
        looked_through,
        dead_letters_looked_through,
    };
    Ok(InLog { records, dead_letters, backlog })
}

/// What waits in topics of other programs (`consumer.sources`); true: all of it was looked through.
async fn look_in_sources(
    query: &Query,
    scope: &Scope,
    event_id: &str,
    waiting: &mut Vec<(LogPlace, Timestamp)>,
) -> Result<bool, LogError> {
    let mut whole = true;
    for (reader, default) in query.sources.iter() {
        let show = |partition: i32, record: &Record| {
            if let Some(received_at) = received(record, scope, event_id, default.as_ref()) {
                let topic = reader.topic().to_owned();
                waiting.push((LogPlace { topic, partition, offset: record.offset }, received_at));
            }
        };
        let records_max = query.limits.trace_records_max;
        match reader.look_through(reader.topic(), Part::Uncommitted, records_max, show).await {
            Ok(all) => whole &= all,
            Err(LogError::TopicMissing(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(whole)
}

/// Fills in what the index of dead letters knows; one that it does not have yet is open.
async fn tell_what_became_of(query: &Query, letters: &mut [Letter]) {
    if letters.is_empty() {
        return;
    }
    let origins: Vec<_> = letters.iter().map(|letter| letter.origin.clone()).collect();
    let known = match query.store.dead_letters_at(&origins).await {
        Ok(known) => known,
        Err(error) => {
            tracing::warn!(%error, "a trace goes without the index of dead letters");
            return;
        }
    };
    for letter in letters {
        let entry = known.iter().find(|entry| entry.origin == letter.origin);
        letter.status = Some(entry.map_or_else(|| "open".to_owned(), |entry| entry.status.clone()));
        letter.reason = entry.map(|entry| entry.reason.clone()).filter(|reason| !reason.is_empty());
    }
}

/// A record that waits, in FlexFlow's shape or in FlexPrice's, of one event or of many.
#[derive(Deserialize)]
struct Waiting<'a> {
    #[serde(borrow, default)]
    id: Cow<'a, str>,
    #[serde(borrow, default, alias = "tenant_id")]
    project_id: Cow<'a, str>,
    #[serde(borrow, default)]
    environment_id: Cow<'a, str>,
    #[serde(default)]
    received_at: Option<Timestamp>,
    #[serde(borrow, default)]
    events: Vec<Waiting<'a>>,
}

impl Waiting<'_> {
    fn tells_of(&self, scope: &Scope, event_id: &str, default: Option<&Scope>) -> bool {
        let unsaid = self.project_id.is_empty() && self.environment_id.is_empty();
        let here = if unsaid {
            default == Some(scope)
        } else {
            self.project_id == scope.project.as_str() && self.environment_id == scope.environment.as_str()
        };
        if self.events.is_empty() {
            return here && self.id == event_id;
        }
        let said = Scope::new(self.project_id.as_ref(), self.environment_id.as_ref());
        let default = if unsaid { default } else { Some(&said) };
        self.events.iter().any(|event| event.tells_of(scope, event_id, default))
    }
}

/// When the event was taken, if this record is it; `default` is where a record belongs that does not say.
fn received(record: &Record, scope: &Scope, event_id: &str, default: Option<&Scope>) -> Option<Timestamp> {
    let waiting: Waiting<'_> = serde_json::from_slice(record.value.as_deref()?).ok()?;
    let told = waiting.tells_of(scope, event_id, default);
    told.then(|| waiting.received_at.unwrap_or(record.timestamp))
}

/// The dead letter of the event, if this record is one. Headers repeat the ids, so that others are not read.
fn letter(record: &Record, scope: &Scope, event_id: &str) -> Option<Letter> {
    let is = |name: &str, value: &str| {
        record.headers.iter().any(|header| *header.name == *name && header.value == value.as_bytes())
    };
    let same = is("event_id", event_id)
        && is("project_id", scope.project.as_str())
        && is("environment_id", scope.environment.as_str());
    if !same {
        return None;
    }
    let letter = DeadLetter::from_record(record).ok()?;
    let origin = DeadLetterOrigin {
        topic: letter.source_topic.clone(),
        topic_id: letter.source_topic_id.0,
        partition: letter.source_partition,
        offset: letter.source_offset,
    };
    Some(Letter {
        id: letter.id(),
        error_kind: letter.error_kind,
        error_message: letter.error_message,
        dlq_ts: letter.dlq_ts,
        stage: letter.stage,
        log: LogPlace {
            topic: letter.source_topic,
            partition: letter.source_partition,
            offset: letter.source_offset,
        },
        attempts: letter.attempts,
        recoveries: letter.recoveries,
        status: None,
        reason: None,
        origin,
    })
}

fn explain(status: Status, dead_letters: &[Letter], backlog: Option<&Backlog>) -> String {
    match (status, backlog) {
        (Status::Stored, _) => "the event is stored and in every answer".to_owned(),
        (Status::Deleted, _) => "the event was stored and has been deleted".to_owned(),
        (Status::InLog, Some(backlog)) => {
            format!("the event is durable in the log; the store is {} records behind", backlog.lag)
        }
        (Status::DeadLettered, _) => {
            let kind = dead_letters.last().map_or("", |letter| letter.error_kind.as_str());
            format!("the event was refused ({kind}); once its cause is mended, replay its dead letter")
        }
        (_, None) => "the event is not stored; the log does not answer, so nothing more can be said".to_owned(),
        (_, Some(backlog)) if !backlog.looked_through || !backlog.dead_letters_looked_through => format!(
            "nothing is found yet; the store is {} records behind, and not all of the log was looked through",
            backlog.lag
        ),
        (_, Some(_)) => "no event with this id was accepted in this project and environment, or it is older than \
                         what the log and the store keep: check the id, the key's environment and the answer that \
                         capture gave"
            .to_owned(),
    }
}

/// The timeline.
fn steps(rows: &[StoredRow], waiting: &[Found], again: &[Found], dead_letters: &[Letter]) -> Vec<Step> {
    let mut steps = Vec::new();
    let place =
        |log: &LogPlace| format!("topic {}, partition {}, offset {}", log.topic, log.partition, log.offset);
    let mut add = |at, step, detail: String| steps.push(Step { at, step, detail });
    for row in rows {
        let key = format!("{} of {} at {}", row.event, row.distinct_id, row.timestamp);
        if row.is_deleted {
            add(row.ingested_at, "deleted", format!("{key}, version {}", row.version));
            continue;
        }
        add(row.received_at, "received", key.clone());
        add(row.received_at, "logged", place(&row.log));
        let counts = if row.counts { "" } else { ", replaced since" };
        add(row.ingested_at, "stored", format!("{key}{counts}"));
    }
    for (log, received_at) in waiting {
        add(*received_at, "received", "not stored yet".to_owned());
        add(*received_at, "logged", place(log));
    }
    for (log, received_at) in again {
        add(*received_at, "duplicate", format!("{}; it counts once", place(log)));
    }
    for letter in dead_letters {
        let why = format!("{}: {} ({})", letter.error_kind, letter.error_message, place(&letter.log));
        add(letter.dlq_ts, "dead_lettered", why);
    }
    // In one millisecond things happen in the order they were added.
    steps.sort_by_key(|step| step.at);
    steps.dedup();
    steps
}

impl Row for StoredRow {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            event: cells.next()?,
            distinct_id: cells.next()?,
            timestamp: cells.next()?,
            received_at: cells.next()?,
            ingested_at: cells.next()?,
            log: LogPlace { topic: cells.next()?, partition: cells.next()?, offset: cells.next()? },
            version: cells.next()?,
            is_deleted: cells.next()?,
            counts: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_found_in_every_shape_and_only_in_its_own_scope() {
        let record = |value: &'static str| Record {
            offset: 0,
            timestamp: Timestamp::from_millis(9),
            key: None,
            value: Some(value.into()),
            headers: Default::default(),
        };
        let (here, elsewhere) = (Scope::new("p", "e"), Scope::new("p", "other"));
        let ours = record(
            r#"{"id":"a","project_id":"p","environment_id":"e","received_at":"1970-01-01T00:00:00.005Z"}"#,
        );
        assert_eq!(received(&ours, &here, "a", None), Some(Timestamp::from_millis(5)));
        assert_eq!(received(&ours, &elsewhere, "a", None), None);
        let theirs = record(r#"{"id":"a","tenant_id":"p","environment_id":"e"}"#);
        assert_eq!(received(&theirs, &here, "a", None), Some(Timestamp::from_millis(9)));
        let many = record(r#"{"events":[{"id":"b"},{"id":"a"}],"tenant_id":"p","environment_id":"e"}"#);
        assert!(received(&many, &here, "a", None).is_some());
        assert!(received(&many, &elsewhere, "a", Some(&elsewhere)).is_none());
        let unsaid = record(r#"{"id":"a"}"#);
        assert!(received(&unsaid, &here, "a", Some(&here)).is_some());
        assert!(received(&unsaid, &here, "a", None).is_none());
    }

    fn place(topic: &str, offset: i64) -> LogPlace {
        LogPlace { topic: topic.to_owned(), partition: 0, offset }
    }

    fn row(log: LogPlace) -> StoredRow {
        let at = Timestamp::from_millis(5);
        let (event, distinct_id) = ("e".to_owned(), "d".to_owned());
        StoredRow {
            event,
            distinct_id,
            timestamp: at,
            received_at: at,
            ingested_at: at,
            log,
            version: 1,
            is_deleted: false,
            counts: true,
        }
    }

    #[test]
    fn what_came_again_is_every_record_but_the_one_that_made_the_row() {
        let found = |offsets: &[i64]| -> Vec<Found> {
            offsets.iter().map(|at| (place("events", *at), Timestamp::from_millis(*at))).collect()
        };
        let again = |offsets: &[i64], rows: &[StoredRow]| -> Vec<i64> {
            duplicates(found(offsets), rows, &[]).into_iter().map(|(place, _)| place.offset).collect()
        };
        assert_eq!(again(&[3], &[row(place("events", 3))]), [0_i64; 0]);
        assert_eq!(again(&[3, 7, 9], &[row(place("events", 3))]), [7, 9]);
        // The row's own record is older than what was looked through.
        assert_eq!(again(&[7, 9], &[row(place("events", 3))]), [7, 9]);
        // The row was written by something else since.
        assert_eq!(again(&[3, 7], &[row(place("corrections", 1))]), [7]);
    }
}

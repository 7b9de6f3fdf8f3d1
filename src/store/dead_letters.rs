//! The table `events_dlq`: the index of dead letters. What the fields mean is `dlq`'s business; this stores and finds.

use klickhouse::block::{Block, BlockInfo};
use klickhouse::{DynDateTime64, IndexMap, Type, Tz, Value};
use uuid::Uuid;

use super::{InsertError, Row, RowCells, Sql, Store, StoreError};
use crate::event::Timestamp;

/// Origins in one statement of [`Store::dead_letters_at`].
const ORIGINS_MAX: usize = 2000;

/// The record that a dead letter stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeadLetterOrigin {
    pub topic: String,
    pub topic_id: Uuid,
    pub partition: i32,
    pub offset: i64,
}

/// A row of the index. Of an origin, the row with the highest version counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterRow {
    pub origin: DeadLetterOrigin,
    /// Empty where the record did not tell.
    pub project_id: String,
    pub environment_id: String,
    pub event_id: String,
    pub error_kind: String,
    pub error_message: String,
    pub stage: String,
    pub dlq_ts: Timestamp,
    pub attempts: u32,
    pub recoveries: u32,
    pub writer: String,
    pub record_key: String,
    /// What the payload is: `json`, `base64`, `absent` or `truncated`.
    pub raw_kind: String,
    /// The payload's beginning; the whole is in the DLQ topic.
    pub raw: String,
    pub dlq_topic_id: Uuid,
    pub dlq_partition: i32,
    pub dlq_offset: i64,
    pub status: String,
    pub status_at: Timestamp,
    pub reason: String,
    pub job_id: String,
    pub version: u64,
}

/// Which dead letters to list or count; every criterion given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Project and environment; `None` is the operator's view of all of them, also of those that belong to nobody.
    pub scope: Option<(String, String)>,
    /// Narrows the operator's view to one project.
    pub project_id: Option<String>,
    pub error_kind: Option<String>,
    pub source_topic: Option<String>,
    /// Partition and offset of the record that was refused.
    pub source_position: Option<(i32, i64)>,
    pub status: Option<String>,
    /// Refused at or after …
    pub since: Option<Timestamp>,
    /// … and before.
    pub until: Option<Timestamp>,
}

/// How many dead letters there are of a kind and status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterCount {
    pub source_topic: String,
    pub error_kind: String,
    pub status: String,
    pub count: u64,
    pub first: Timestamp,
    pub last: Timestamp,
}

const COLUMNS: [&str; 25] = [
    "source_topic",
    "source_topic_id",
    "source_partition",
    "source_offset",
    "project_id",
    "environment_id",
    "event_id",
    "error_kind",
    "error_message",
    "stage",
    "dlq_ts",
    "attempts",
    "recoveries",
    "writer",
    "record_key",
    "raw_kind",
    "raw",
    "dlq_topic_id",
    "dlq_partition",
    "dlq_offset",
    "status",
    "status_at",
    "reason",
    "job_id",
    "version",
];

impl Row for DeadLetterOrigin {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            topic: cells.next()?,
            topic_id: cells.next()?,
            partition: cells.next()?,
            offset: cells.next()?,
        })
    }
}

impl Row for DeadLetterRow {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            origin: DeadLetterOrigin::from_cells(cells)?,
            project_id: cells.next()?,
            environment_id: cells.next()?,
            event_id: cells.next()?,
            error_kind: cells.next()?,
            error_message: cells.next()?,
            stage: cells.next()?,
            dlq_ts: cells.next()?,
            attempts: cells.next()?,
            recoveries: cells.next()?,
            writer: cells.next()?,
            record_key: cells.next()?,
            raw_kind: cells.next()?,
            raw: cells.next()?,
            dlq_topic_id: cells.next()?,
            dlq_partition: cells.next()?,
            dlq_offset: cells.next()?,
            status: cells.next()?,
            status_at: cells.next()?,
            reason: cells.next()?,
            job_id: cells.next()?,
            version: cells.next()?,
        })
    }
}

impl Row for DeadLetterCount {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            source_topic: cells.next()?,
            error_kind: cells.next()?,
            status: cells.next()?,
            count: cells.next()?,
            first: cells.next()?,
            last: cells.next()?,
        })
    }
}

impl DeadLetterRow {
    /// The cells in the order of [`COLUMNS`].
    fn cells(&self) -> [(Type, Value); COLUMNS.len()] {
        let text = |text: &str| (Type::String, Value::string(text));
        let time = |at: Timestamp| {
            let ticks = at.as_millis().max(0).unsigned_abs();
            (Type::DateTime64(3, Tz::UTC), Value::DateTime64(DynDateTime64(Tz::UTC, ticks, 3)))
        };
        let uuid = |uuid: Uuid| (Type::Uuid, Value::Uuid(uuid));
        [
            text(&self.origin.topic),
            uuid(self.origin.topic_id),
            (Type::Int32, Value::Int32(self.origin.partition)),
            (Type::Int64, Value::Int64(self.origin.offset)),
            text(&self.project_id),
            text(&self.environment_id),
            text(&self.event_id),
            text(&self.error_kind),
            text(&self.error_message),
            text(&self.stage),
            time(self.dlq_ts),
            (Type::UInt32, Value::UInt32(self.attempts)),
            (Type::UInt32, Value::UInt32(self.recoveries)),
            text(&self.writer),
            text(&self.record_key),
            text(&self.raw_kind),
            text(&self.raw),
            uuid(self.dlq_topic_id),
            (Type::Int32, Value::Int32(self.dlq_partition)),
            (Type::Int64, Value::Int64(self.dlq_offset)),
            text(&self.status),
            time(self.status_at),
            text(&self.reason),
            text(&self.job_id),
            (Type::UInt64, Value::UInt64(self.version)),
        ]
    }
}

impl Store {
    /// Adds rows to the index; under a token as [`Store::insert_events`].
    ///
    /// # Errors
    /// See [`InsertError`].
    pub async fn insert_dead_letters(&self, rows: &[DeadLetterRow], token: &str) -> Result<(), InsertError> {
        self.insert(&super::insert::statement("events_dlq", COLUMNS), rows.len(), token, |from, to| {
            block(rows.get(from..to.min(rows.len())).unwrap_or_default())
        })
        .await
    }

    /// The rows of these origins, each in its last version; those that have none are left out.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn dead_letters_at(
        &self,
        origins: &[DeadLetterOrigin],
    ) -> Result<Vec<DeadLetterRow>, StoreError> {
        let mut found = Vec::new();
        for some in origins.chunks(ORIGINS_MAX) {
            let any: Vec<Sql> = some
                .iter()
                .map(|at| {
                    Sql::new("(source_topic = ")
                        .arg(at.topic.as_str())
                        .push(" AND source_topic_id = ")
                        .arg(at.topic_id)
                        .push(" AND source_partition = ")
                        .arg(at.partition)
                        .push(" AND source_offset = ")
                        .arg(at.offset)
                        .push(")")
                })
                .collect();
            let sql = select().push(" WHERE ").join(" OR ", &any);
            found.extend(self.select::<DeadLetterRow>(sql).await?);
        }
        Ok(found)
    }

    /// A page of dead letters, those refused last first: at most `limit`, after the row that ended the page before.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn list_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<(Timestamp, &DeadLetterOrigin)>,
        limit: u64,
    ) -> Result<Vec<DeadLetterRow>, StoreError> {
        let mut conditions = conditions(filter);
        if let Some((at, origin)) = after {
            conditions.push(
                Sql::new(
                    "(dlq_ts, source_topic, toString(source_topic_id), source_partition, source_offset) < (",
                )
                .arg(at)
                .push(", ")
                .arg(origin.topic.as_str())
                .push(", ")
                .arg(origin.topic_id.hyphenated().to_string())
                .push(", ")
                .arg(origin.partition)
                .push(", ")
                .arg(origin.offset)
                .push(")"),
            );
        }
        let sql = select()
            .push(" WHERE ")
            .join(" AND ", &conditions)
            .push(
                " ORDER BY dlq_ts DESC, source_topic DESC, toString(source_topic_id) DESC, source_partition DESC, \
                 source_offset DESC LIMIT ",
            )
            .arg(limit);
        self.select(sql).await
    }

    /// How many dead letters there are by topic, kind and status.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn count_dead_letters(
        &self,
        filter: &DeadLetterFilter,
    ) -> Result<Vec<DeadLetterCount>, StoreError> {
        let sql = Sql::new(
            "SELECT source_topic AS topic, error_kind AS kind, status AS status, count() AS rows, min(dlq_ts) AS first, \
             max(dlq_ts) AS last FROM events_dlq FINAL WHERE ",
        )
        .join(" AND ", &conditions(filter))
        .push(" GROUP BY topic, kind, status ORDER BY topic, kind, status");
        self.select(sql).await
    }
}

fn select() -> Sql {
    let mut sql = Sql::new("SELECT ");
    for (index, column) in COLUMNS.iter().enumerate() {
        sql = if index > 0 { sql.push(", ") } else { sql }.push(column);
    }
    sql.push(" FROM events_dlq FINAL")
}

fn conditions(filter: &DeadLetterFilter) -> Vec<Sql> {
    let mut all = vec![Sql::new("1")];
    if let Some((project, environment)) = &filter.scope {
        all.push(Sql::new("project_id = ").arg(project).push(" AND environment_id = ").arg(environment));
    }
    let texts = [
        ("error_kind = ", &filter.error_kind),
        ("source_topic = ", &filter.source_topic),
        ("status = ", &filter.status),
        ("project_id = ", &filter.project_id),
    ];
    all.extend(texts.into_iter().filter_map(|(column, text)| Some(Sql::new(column).arg(text.as_ref()?))));
    if let Some((partition, offset)) = filter.source_position {
        all.push(Sql::new("source_partition = ").arg(partition).push(" AND source_offset = ").arg(offset));
    }
    all.extend(filter.since.map(|since| Sql::new("dlq_ts >= ").arg(since)));
    all.extend(filter.until.map(|until| Sql::new("dlq_ts < ").arg(until)));
    all
}

fn block(rows: &[DeadLetterRow]) -> Block {
    let mut types = IndexMap::new();
    let mut data: IndexMap<String, Vec<Value>> = IndexMap::new();
    for row in rows {
        for (name, (kind, value)) in COLUMNS.into_iter().zip(row.cells()) {
            types.entry(name.to_owned()).or_insert(kind);
            data.entry(name.to_owned()).or_default().push(value);
        }
    }
    Block { info: BlockInfo::default(), rows: rows.len() as u64, column_types: types, column_data: data }
}

//! The tables `raw_events` and `raw_event_results`: payloads as they were sent, and what became of each.

use std::collections::HashSet;

use klickhouse::block::{Block, BlockInfo};
use klickhouse::{DynDateTime64, IndexMap, Type, Tz, Value};
use uuid::Uuid;

use super::insert::statement;
use super::offsets::partition;
use super::{EventKey, InsertError, Sql, Store, StoreError, StoredOffsets, StoredRange};
use crate::event::Timestamp;

/// Ids in one statement.
const IDS_MAX: usize = 5000;

/// The sort key of a raw event, and where its record stands.
#[derive(Clone, Copy, Debug)]
pub struct RawKey<'a> {
    pub project_id: &'a str,
    pub environment_id: &'a str,
    pub external_customer_id: &'a str,
    pub timestamp: Timestamp,
    pub event_name: &'a str,
    pub id: &'a str,
    pub received_at: Timestamp,
    pub source_topic: &'a str,
    pub source_topic_id: Uuid,
    pub source_partition: i32,
    pub source_offset: i64,
}

/// A row of `raw_events`.
#[derive(Clone, Copy, Debug)]
pub struct RawEventRow<'a> {
    pub key: RawKey<'a>,
    /// Byte for byte.
    pub payload: &'a str,
}

/// A row of `raw_event_results`.
#[derive(Clone, Copy, Debug)]
pub struct RawResultRow<'a> {
    pub key: RawKey<'a>,
    /// `published`, `dropped` or `error`.
    pub outcome: &'static str,
    pub reason: &'a str,
    pub transform_id: &'a str,
    pub transform_version: u64,
    pub events: &'a str,
    pub version: u64,
}

const KEY_COLUMNS: [&str; 11] = [
    "project_id",
    "environment_id",
    "external_customer_id",
    "timestamp",
    "event_name",
    "id",
    "received_at",
    "source_topic",
    "source_topic_id",
    "source_partition",
    "source_offset",
];
const EVENT_COLUMNS: [&str; 2] = ["payload", "version"];
const RESULT_COLUMNS: [&str; 6] =
    ["outcome", "reason", "transform_id", "transform_version", "events", "version"];

fn text(text: &str) -> (Type, Value) {
    (Type::String, Value::string(text))
}

fn time(at: Timestamp) -> (Type, Value) {
    let millis = at.as_millis().max(0).unsigned_abs();
    (Type::DateTime64(3, Tz::UTC), Value::DateTime64(DynDateTime64(Tz::UTC, millis, 3)))
}

fn number(number: u64) -> (Type, Value) {
    (Type::UInt64, Value::UInt64(number))
}

impl RawKey<'_> {
    fn cells(&self) -> impl Iterator<Item = (Type, Value)> {
        [
            text(self.project_id),
            text(self.environment_id),
            text(self.external_customer_id),
            time(self.timestamp),
            text(self.event_name),
            text(self.id),
            time(self.received_at),
            text(self.source_topic),
            (Type::Uuid, Value::Uuid(self.source_topic_id)),
            (Type::Int32, Value::Int32(self.source_partition)),
            (Type::Int64, Value::Int64(self.source_offset)),
        ]
        .into_iter()
    }
}

impl RawEventRow<'_> {
    fn cells(&self) -> Vec<(Type, Value)> {
        let version = self.key.received_at.as_millis().max(0).unsigned_abs();
        self.key.cells().chain([text(self.payload), number(version)]).collect()
    }
}

impl RawResultRow<'_> {
    fn cells(&self) -> Vec<(Type, Value)> {
        let own = [
            text(self.outcome),
            text(self.reason),
            text(self.transform_id),
            number(self.transform_version),
            text(self.events),
            number(self.version),
        ];
        self.key.cells().chain(own).collect()
    }
}

fn block(columns: &[&'static str], rows: usize, cells: impl Iterator<Item = Vec<(Type, Value)>>) -> Block {
    let mut types = IndexMap::new();
    let mut data: IndexMap<String, Vec<Value>> = IndexMap::new();
    for row in cells {
        for (name, (kind, value)) in columns.iter().zip(row) {
            types.entry((*name).to_owned()).or_insert(kind);
            data.entry((*name).to_owned()).or_insert_with(|| Vec::with_capacity(rows)).push(value);
        }
    }
    Block { info: BlockInfo::default(), rows: rows as u64, column_types: types, column_data: data }
}

impl Store {
    /// Inserts raw events, all or none that count twice; under a token as [`Store::insert_events`].
    ///
    /// # Errors
    /// See [`InsertError`].
    pub async fn insert_raw_events(&self, rows: &[RawEventRow<'_>], token: &str) -> Result<(), InsertError> {
        let columns: Vec<&'static str> = KEY_COLUMNS.into_iter().chain(EVENT_COLUMNS).collect();
        let insert = statement("raw_events", columns.iter().copied());
        self.insert(&insert, rows.len(), token, |from, to| {
            let slice = rows.get(from..to.min(rows.len())).unwrap_or_default();
            block(&columns, slice.len(), slice.iter().map(RawEventRow::cells))
        })
        .await
    }

    /// Inserts what became of raw events; under a token as [`Store::insert_events`].
    ///
    /// # Errors
    /// See [`InsertError`].
    pub async fn insert_raw_results(
        &self,
        rows: &[RawResultRow<'_>],
        token: &str,
    ) -> Result<(), InsertError> {
        let columns: Vec<&'static str> = KEY_COLUMNS.into_iter().chain(RESULT_COLUMNS).collect();
        let insert = statement("raw_event_results", columns.iter().copied());
        self.insert(&insert, rows.len(), token, |from, to| {
            let slice = rows.get(from..to.min(rows.len())).unwrap_or_default();
            block(&columns, slice.len(), slice.iter().map(RawResultRow::cells))
        })
        .await
    }

    /// Which offsets of these ranges hold a raw event that all is done for.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn stored_raw_offsets(&self, ranges: &[StoredRange]) -> Result<Vec<StoredOffsets>, StoreError> {
        self.offsets_in("raw_event_results", ranges).await
    }

    /// The offsets from `first` to `last` of a partition whose raw event has come to an end, with outcome and reason.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn raw_outcomes_between(
        &self,
        topic: &str,
        topic_id: Uuid,
        of_partition: i32,
        first: i64,
        last: i64,
    ) -> Result<Vec<(i64, String, String)>, StoreError> {
        let sql = Sql::new(
            "SELECT source_offset AS offset, argMax(outcome, version) AS came_to, argMax(reason, version) AS why FROM \
             raw_event_results WHERE ",
        )
        .append(&partition(topic, topic_id, of_partition))
        .push(" AND source_offset BETWEEN ")
        .arg(first)
        .push(" AND ")
        .arg(last)
        .push(") GROUP BY offset ORDER BY offset");
        self.select(sql).await
    }

    /// Which of these raw events are stored, from whichever position.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn known_raw_events(&self, keys: &[EventKey]) -> Result<HashSet<EventKey>, StoreError> {
        let wanted: HashSet<&EventKey> = keys.iter().collect();
        let mut known = HashSet::new();
        for some in keys.chunks(IDS_MAX) {
            let sql = Sql::new(
                "SELECT DISTINCT project_id AS project_id, environment_id AS environment_id, id AS id FROM \
                 raw_event_results WHERE id IN ",
            )
            .list(some.iter().map(|key| key.event_id.as_str()))
            .push(" AND project_id IN ")
            .list(some.iter().map(|key| key.project_id.as_str()).collect::<HashSet<_>>());
            known.extend(self.select::<EventKey>(sql).await?.into_iter().filter(|key| wanted.contains(key)));
        }
        Ok(known)
    }
}

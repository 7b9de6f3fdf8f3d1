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

/// Native blocks of rows, column by column: row by row, every cell would have to find its column.
struct Columns<'r, R> {
    rows: &'r [R],
    block: Block,
}

impl<'r, R> Columns<'r, R> {
    fn of(rows: &'r [R]) -> Self {
        let block = Block {
            info: BlockInfo::default(),
            rows: rows.len() as u64,
            column_types: IndexMap::new(),
            column_data: IndexMap::new(),
        };
        Self { rows, block }
    }

    fn add(mut self, name: &str, kind: Type, value: impl Fn(&'r R) -> Value) -> Self {
        self.block.column_types.insert(name.to_owned(), kind);
        self.block.column_data.insert(name.to_owned(), self.rows.iter().map(value).collect());
        self
    }

    fn text(self, name: &str, text: impl Fn(&'r R) -> &'r str) -> Self {
        self.add(name, Type::String, |row| Value::String(text(row).as_bytes().to_vec()))
    }

    fn time(self, name: &str, at: impl Fn(&'r R) -> Timestamp) -> Self {
        self.add(name, Type::DateTime64(3, Tz::UTC), |row| {
            let millis = at(row).as_millis().max(0).unsigned_abs();
            Value::DateTime64(DynDateTime64(Tz::UTC, millis, 3))
        })
    }

    fn number(self, name: &str, number: impl Fn(&'r R) -> u64) -> Self {
        self.add(name, Type::UInt64, |row| Value::UInt64(number(row)))
    }

    fn keys(self, key: impl Fn(&'r R) -> &'r RawKey<'r>) -> Self {
        self.text("project_id", |row| key(row).project_id)
            .text("environment_id", |row| key(row).environment_id)
            .text("external_customer_id", |row| key(row).external_customer_id)
            .time("timestamp", |row| key(row).timestamp)
            .text("event_name", |row| key(row).event_name)
            .text("id", |row| key(row).id)
            .time("received_at", |row| key(row).received_at)
            .text("source_topic", |row| key(row).source_topic)
            .add("source_topic_id", Type::Uuid, |row| Value::Uuid(key(row).source_topic_id))
            .add("source_partition", Type::Int32, |row| Value::Int32(key(row).source_partition))
            .add("source_offset", Type::Int64, |row| Value::Int64(key(row).source_offset))
    }
}

fn raw_block(rows: &[RawEventRow<'_>]) -> Block {
    let version = |row: &RawEventRow<'_>| row.key.received_at.as_millis().max(0).unsigned_abs();
    let columns = Columns::of(rows).keys(|row| &row.key);
    columns.text("payload", |row| row.payload).number("version", version).block
}

fn result_block(rows: &[RawResultRow<'_>]) -> Block {
    Columns::of(rows)
        .keys(|row| &row.key)
        .text("outcome", |row| row.outcome)
        .text("reason", |row| row.reason)
        .text("transform_id", |row| row.transform_id)
        .number("transform_version", |row| row.transform_version)
        .text("events", |row| row.events)
        .number("version", |row| row.version)
        .block
}

impl Store {
    /// Inserts raw events, all or none that count twice; under a token as [`Store::insert_events`].
    ///
    /// # Errors
    /// See [`InsertError`].
    pub async fn insert_raw_events(&self, rows: &[RawEventRow<'_>], token: &str) -> Result<(), InsertError> {
        let insert = statement("raw_events", KEY_COLUMNS.into_iter().chain(EVENT_COLUMNS));
        self.insert(&insert, rows.len(), token, |from, to| {
            raw_block(rows.get(from..to.min(rows.len())).unwrap_or_default())
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
        let insert = statement("raw_event_results", KEY_COLUMNS.into_iter().chain(RESULT_COLUMNS));
        self.insert(&insert, rows.len(), token, |from, to| {
            result_block(rows.get(from..to.min(rows.len())).unwrap_or_default())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_the_columns_of_their_statements_in_order() {
        let at = Timestamp::from_millis(5);
        let key = RawKey {
            project_id: "p",
            environment_id: "e",
            external_customer_id: "c",
            timestamp: at,
            event_name: "n",
            id: "i",
            received_at: at,
            source_topic: "t",
            source_topic_id: Uuid::nil(),
            source_partition: 1,
            source_offset: 2,
        };
        let names = |block: &Block| block.column_data.keys().cloned().collect::<Vec<_>>();
        let raws = raw_block(&[RawEventRow { key, payload: "{}" }]);
        let (mut expected, more) = (KEY_COLUMNS.to_vec(), EVENT_COLUMNS);
        expected.extend(more);
        assert_eq!(names(&raws), expected);
        let result = RawResultRow {
            key,
            outcome: "dropped",
            reason: "r",
            transform_id: "t",
            transform_version: 1,
            events: "[]",
            version: 3,
        };
        let results = result_block(&[result, result]);
        let (mut expected, more) = (KEY_COLUMNS.to_vec(), RESULT_COLUMNS);
        expected.extend(more);
        assert_eq!(names(&results), expected);
        assert!(results.column_data.values().all(|values| values.len() == 2));
        assert_eq!((&results.column_data["events"][1], results.rows), (&Value::string("[]"), 2));
    }
}

//! The table `feature_usage`: what each meter counts of each event. What the fields mean is `metering`'s business.

use klickhouse::block::{Block, BlockInfo};
use klickhouse::{DynDateTime64, IndexMap, Type, Tz, Value};
use uuid::Uuid;

use super::insert::statement;
use super::sweep::VOID_VERSION;
use super::{InsertError, Sql, Store, StoreError};
use crate::event::Timestamp;

/// Versions of amended events begin here: above live rows and reprocessed ones, below [`VOID_VERSION`].
pub const AMENDED_VERSION: u64 = 1 << 62;
/// Versions of a meter that fit between two versions of an event.
const METER_VERSIONS: u64 = 1 << 20;

/// What a meter counts of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureUsageRow {
    pub project_id: String,
    pub environment_id: String,
    pub meter_id: String,
    pub event_name: String,
    pub distinct_id: String,
    pub event_id: String,
    pub customer_id: String,
    pub source: String,
    /// `number`, `missing`, `not_numeric` or `too_precise`.
    pub state: &'static str,
    /// A decimal of at most 38 digits before the point and 18 behind it, without an exponent; else empty.
    pub quantity: String,
    pub source_topic: String,
    pub timestamp: Timestamp,
    pub received_at: Timestamp,
    pub source_topic_id: Uuid,
    pub source_partition: i32,
    pub source_offset: i64,
    pub version: u64,
    pub is_deleted: bool,
}

/// The version of the row that version `meter` of a meter makes of version `event` of an event: a newer event goes
/// before a newer meter.
pub fn usage_version(event: u64, meter: u64) -> u64 {
    let meter = meter.min(METER_VERSIONS - 1);
    match event {
        VOID_VERSION => VOID_VERSION,
        amended if amended >= AMENDED_VERSION => {
            AMENDED_VERSION.saturating_add((amended - AMENDED_VERSION).saturating_mul(METER_VERSIONS)) + meter
        }
        event => event.saturating_mul(METER_VERSIONS).saturating_add(meter),
    }
}

const COLUMNS: [&str; 18] = [
    "project_id",
    "environment_id",
    "meter_id",
    "event_name",
    "distinct_id",
    "event_id",
    "customer_id",
    "source",
    "state",
    "quantity_text",
    "source_topic",
    "timestamp",
    "received_at",
    "source_topic_id",
    "source_partition",
    "source_offset",
    "version",
    "is_deleted",
];

impl FeatureUsageRow {
    fn cells(&self) -> [(Type, Value); COLUMNS.len()] {
        let text = |text: &str| (Type::String, Value::string(text));
        let time = |at: Timestamp| {
            let millis = at.as_millis().max(0).unsigned_abs();
            (Type::DateTime64(3, Tz::UTC), Value::DateTime64(DynDateTime64(Tz::UTC, millis, 3)))
        };
        [
            text(&self.project_id),
            text(&self.environment_id),
            text(&self.meter_id),
            text(&self.event_name),
            text(&self.distinct_id),
            text(&self.event_id),
            text(&self.customer_id),
            text(&self.source),
            text(self.state),
            text(&self.quantity),
            text(&self.source_topic),
            time(self.timestamp),
            time(self.received_at),
            (Type::Uuid, Value::Uuid(self.source_topic_id)),
            (Type::Int32, Value::Int32(self.source_partition)),
            (Type::Int64, Value::Int64(self.source_offset)),
            (Type::UInt64, Value::UInt64(self.version)),
            (Type::UInt8, Value::UInt8(u8::from(self.is_deleted))),
        ]
    }
}

fn block(rows: &[FeatureUsageRow]) -> Block {
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

impl Store {
    /// Inserts rows of usage, all or none that count twice; under a token as [`Store::insert_events`].
    ///
    /// # Errors
    /// See [`InsertError`].
    pub async fn insert_feature_usage(
        &self,
        rows: &[FeatureUsageRow],
        token: &str,
    ) -> Result<(), InsertError> {
        self.insert(&statement("feature_usage", COLUMNS), rows.len(), token, |from, to| {
            block(rows.get(from..to.min(rows.len())).unwrap_or_default())
        })
        .await
    }

    /// Hides usage of events whose key got a tombstone at or after `since` and does not count any more. Doing it again
    /// changes nothing.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn mirror_tombstones(&self, since: Timestamp) -> Result<(), StoreError> {
        let gone = Sql::new(
            "SELECT project_id, environment_id, event_name, toDate(timestamp) AS day, cityHash64(distinct_id) AS \
             person, event_id, max(version) AS newest FROM events WHERE (project_id, environment_id, event_id) IN \
             (SELECT project_id, environment_id, event_id FROM events WHERE is_deleted = 1 AND ingested_at >= ",
        )
        .arg(since)
        .push(
            ") GROUP BY project_id, environment_id, event_name, day, person, event_id HAVING \
             argMax(is_deleted, version) = 1",
        );
        let version = Sql::new("multiIf(gone.newest = ")
            .arg(VOID_VERSION)
            .push(", gone.newest, gone.newest >= ")
            .arg(AMENDED_VERSION)
            .push(", ")
            .arg(AMENDED_VERSION)
            .push(" + (gone.newest - ")
            .arg(AMENDED_VERSION)
            .push(") * ")
            .arg(METER_VERSIONS)
            .push(" + ")
            .arg(METER_VERSIONS - 1)
            .push(", gone.newest * ")
            .arg(METER_VERSIONS)
            .push(" + ")
            .arg(METER_VERSIONS - 1)
            .push(")");
        let sql = Sql::new(
            "INSERT INTO feature_usage (project_id, environment_id, meter_id, event_name, distinct_id, event_id, \
             customer_id, source, state, quantity_text, source_topic, timestamp, received_at, source_topic_id, \
             source_partition, source_offset, version, is_deleted) SELECT used.project_id, used.environment_id, \
             used.meter_id, used.event_name, used.distinct_id, used.event_id, '', '', '', '', '', used.timestamp, \
             used.received_at, used.source_topic_id, -1, -1, toUInt64(",
        )
        .append(&version)
        .push("), 1 FROM feature_usage AS used FINAL INNER JOIN (")
        .append(&gone)
        .push(
            ") AS gone ON used.project_id = gone.project_id AND used.environment_id = gone.environment_id AND \
             used.event_name = gone.event_name AND toDate(used.timestamp) = gone.day AND \
             cityHash64(used.distinct_id) = gone.person AND used.event_id = gone.event_id WHERE used.version <= \
             toUInt64(",
        )
        .append(&version)
        .push(")");
        self.execute(sql).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_event_goes_before_a_newer_meter_and_a_void_before_all() {
        let order = [
            usage_version(0, 1),
            usage_version(0, 100),
            usage_version(1, 1),
            usage_version(AMENDED_VERSION, 1),
            usage_version(AMENDED_VERSION + 1, 1),
            usage_version(AMENDED_VERSION + 1, 2),
            usage_version(VOID_VERSION, 1),
        ];
        assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
    }
}

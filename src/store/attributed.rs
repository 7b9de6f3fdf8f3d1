//! The table `attributed_conversions`: what target events are credited to. What the fields mean is `attribution`'s
//! business.

use klickhouse::block::{Block, BlockInfo};
use klickhouse::{DynDateTime64, IndexMap, Type, Tz, Value};

use super::insert::statement;
use super::{InsertError, Store};
use crate::event::Timestamp;

/// What a target event is credited to.
#[derive(Clone, Debug, PartialEq)]
pub struct AttributedRow {
    pub project_id: String,
    pub environment_id: String,
    pub rule_id: String,
    pub rule_version: u32,
    pub join_key: String,
    pub target_event: String,
    pub target_event_id: String,
    pub target_distinct_id: String,
    pub target_at: Timestamp,
    pub value: Option<f64>,
    pub touches: u32,
    pub credited: Vec<CreditedSource>,
    pub version: u64,
    pub is_deleted: bool,
}

/// A source event with its share.
#[derive(Clone, Debug, PartialEq)]
pub struct CreditedSource {
    pub event_id: String,
    pub event: String,
    pub at: Timestamp,
    pub dimension: String,
    pub credit: f64,
}

const COLUMNS: [&str; 19] = [
    "project_id",
    "environment_id",
    "rule_id",
    "rule_version",
    "join_key",
    "target_event",
    "target_event_id",
    "target_distinct_id",
    "target_at",
    "value",
    "has_value",
    "touches",
    "source_ids",
    "source_events",
    "source_at",
    "dimensions",
    "credits",
    "version",
    "is_deleted",
];

impl AttributedRow {
    fn cells(&self) -> Vec<(Type, Value)> {
        let text = |text: &str| (Type::String, Value::string(text));
        let of = |kind: Type, value: fn(&CreditedSource) -> Value| {
            (Type::Array(Box::new(kind)), Value::Array(self.credited.iter().map(value).collect()))
        };
        let millis = self.target_at.as_millis().max(0).unsigned_abs();
        let at = Value::DateTime64(DynDateTime64(Tz::UTC, millis, 3));
        vec![
            text(&self.project_id),
            text(&self.environment_id),
            text(&self.rule_id),
            (Type::UInt32, Value::UInt32(self.rule_version)),
            text(&self.join_key),
            text(&self.target_event),
            text(&self.target_event_id),
            text(&self.target_distinct_id),
            (Type::DateTime64(3, Tz::UTC), at),
            (Type::Float64, Value::Float64(self.value.unwrap_or_default())),
            (Type::UInt8, Value::UInt8(self.value.is_some().into())),
            (Type::UInt32, Value::UInt32(self.touches)),
            of(Type::String, |source| Value::string(&source.event_id)),
            of(Type::String, |source| Value::string(&source.event)),
            of(Type::Int64, |source| Value::Int64(source.at.as_millis())),
            of(Type::String, |source| Value::string(&source.dimension)),
            of(Type::Float64, |source| Value::Float64(source.credit)),
            (Type::UInt64, Value::UInt64(self.version)),
            (Type::UInt8, Value::UInt8(self.is_deleted.into())),
        ]
    }
}

fn block(rows: &[AttributedRow]) -> Block {
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
    /// Inserts what target events are credited to; under a token as [`Store::insert_events`]. Remembered answers of
    /// these days hold no more.
    ///
    /// # Errors
    /// See [`InsertError`].
    pub async fn insert_attributed(&self, rows: &[AttributedRow], token: &str) -> Result<(), InsertError> {
        let inserted = self
            .insert(&statement("attributed_conversions", COLUMNS), rows.len(), token, |from, to| {
                block(rows.get(from..to.min(rows.len())).unwrap_or_default())
            })
            .await;
        // Also when the answer was lost: they may be stored.
        self.inner.changes.note(rows.iter().map(|row| {
            let day = row.target_at.as_millis().div_euclid(86_400_000);
            (row.project_id.as_str(), row.environment_id.as_str(), day)
        }));
        inserted
    }
}

//! Rows on their way into the table `events`: columns of bytes, turned into native blocks slice by slice.

use klickhouse::block::{Block, BlockInfo};
use klickhouse::{DynDateTime64, IndexMap, Type, Tz, Value};
use uuid::Uuid;

use super::hot::{HOT, hot_values};
use crate::event::Timestamp;

/// One row of `events`. Texts that an event does not have are empty.
#[derive(Clone, Copy, Debug)]
pub struct EventRow<'a> {
    pub project_id: &'a str,
    pub environment_id: &'a str,
    pub event_id: &'a str,
    pub event_name: &'a str,
    pub distinct_id: &'a str,
    pub customer_id: &'a str,
    pub session_id: &'a str,
    pub source: &'a str,
    pub producer: &'a str,
    pub raw_event_id: &'a str,
    /// When it happened; from 1970 on.
    pub timestamp: Timestamp,
    /// When capture took it.
    pub received_at: Timestamp,
    pub schema_version: u32,
    pub source_topic: &'a str,
    pub source_topic_id: Uuid,
    pub source_partition: i32,
    pub source_offset: i64,
    /// A JSON object's text.
    pub properties: &'a str,
    /// Of rows with the same key the highest counts: 0 live < generations of reprocessing < void.
    pub version: u64,
    /// A tombstone: hides the rows of its key with a smaller or the same version.
    pub is_deleted: bool,
}

/// So many rows tell how long the others are.
const TELLING_ROWS: usize = 64;
/// Room for rows to come that is made at once, whatever a few very long ones promise: no machine may refuse it.
const ROOM_AHEAD_MAX: usize = 32 << 20;

/// Texts of one column, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Texts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Texts {
    fn push(&mut self, text: &str) {
        let room = self.bytes.capacity() - self.bytes.len();
        if room < text.len() {
            // Room for the rows to come, as long as those so far and a little more; to copy what there is for more room
            // is what building a block would else spend most on. A few rows tell little.
            let (rows, rows_max) = (self.ends.len(), self.ends.capacity());
            let expected = self.bytes.len() * 9 / 8 / rows.max(1) * rows_max.saturating_sub(rows);
            let most = if rows < TELLING_ROWS { 0 } else { ROOM_AHEAD_MAX }.max(self.bytes.len() * 3);
            self.bytes.reserve(text.len() + expected.min(most));
        }
        self.bytes.extend_from_slice(text.as_bytes());
        self.ends.push(self.bytes.len());
    }

    fn get(&self, row: usize) -> &[u8] {
        let start = row.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.ends.get(row).and_then(|end| self.bytes.get(start..*end)).unwrap_or_default()
    }
}

/// The columns of text, in the order of [`COLUMNS`].
const TEXTS: usize = 13;

/// Rows to be inserted together, kept as columns (about the bytes of the texts and 200 more a row).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventBlock {
    texts: [Texts; TEXTS],
    timestamps: Vec<Timestamp>,
    received: Vec<Timestamp>,
    schema_versions: Vec<u32>,
    topic_ids: Vec<Uuid>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    versions: Vec<u64>,
    deleted: Vec<bool>,
    hot: [Texts; HOT.len()],
}

/// The inserted columns that are not hot keys: name and type, in the order in which they are sent.
pub(super) const COLUMNS: [(&str, ColumnKind); 21] = [
    ("project_id", ColumnKind::Text(0)),
    ("environment_id", ColumnKind::Text(1)),
    ("event_name", ColumnKind::Text(2)),
    ("distinct_id", ColumnKind::Text(3)),
    ("event_id", ColumnKind::Text(4)),
    ("customer_id", ColumnKind::Text(5)),
    ("session_id", ColumnKind::Text(6)),
    ("source", ColumnKind::Text(7)),
    ("producer", ColumnKind::Text(8)),
    ("raw_event_id", ColumnKind::Text(9)),
    ("source_topic", ColumnKind::Text(10)),
    ("properties", ColumnKind::Text(11)),
    ("schema_state", ColumnKind::Text(12)),
    ("timestamp", ColumnKind::Timestamp),
    ("received_at", ColumnKind::ReceivedAt),
    ("schema_version", ColumnKind::SchemaVersion),
    ("source_topic_id", ColumnKind::TopicId),
    ("source_partition", ColumnKind::Partition),
    ("source_offset", ColumnKind::Offset),
    ("version", ColumnKind::Version),
    ("is_deleted", ColumnKind::Deleted),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ColumnKind {
    Text(usize),
    Hot(usize),
    Timestamp,
    ReceivedAt,
    SchemaVersion,
    TopicId,
    Partition,
    Offset,
    Version,
    Deleted,
}

/// Every inserted column, in order.
pub(super) fn columns() -> impl Iterator<Item = (&'static str, ColumnKind)> {
    let hot = HOT.iter().enumerate().map(|(index, (_, column))| (*column, ColumnKind::Hot(index)));
    COLUMNS.into_iter().chain(hot)
}

impl EventBlock {
    /// No rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// No rows, with room for the fixed part of `rows`.
    pub fn with_capacity(rows: usize) -> Self {
        let mut block = Self::default();
        for texts in block.texts.iter_mut().chain(&mut block.hot) {
            texts.ends.reserve(rows);
        }
        block.timestamps.reserve(rows);
        block.received.reserve(rows);
        block.offsets.reserve(rows);
        block.topic_ids.reserve(rows);
        block
    }

    /// Project, environment and day (since 1970, UTC) of the rows; a day may come again, not twice in a row.
    pub(super) fn days(&self) -> impl Iterator<Item = (&str, &str, i64)> {
        let text = |column: usize, row: usize| {
            let text = self.texts.get(column).map(|texts| texts.get(row)).unwrap_or_default();
            std::str::from_utf8(text).unwrap_or_default()
        };
        let mut before = None;
        self.timestamps.iter().enumerate().filter_map(move |(row, at)| {
            let this = (text(0, row), text(1, row), at.as_millis().div_euclid(86_400_000));
            (before.replace(this) != Some(this)).then_some(this)
        })
    }

    /// Appends a row; the properties are read once, for the hot keys.
    pub fn push(&mut self, row: &EventRow<'_>) {
        self.push_marked(row, "");
    }

    /// Appends a row with what its schema says of it.
    pub fn push_marked(&mut self, row: &EventRow<'_>, schema_state: &str) {
        let texts: [&str; TEXTS] = [
            row.project_id,
            row.environment_id,
            row.event_name,
            row.distinct_id,
            row.event_id,
            row.customer_id,
            row.session_id,
            row.source,
            row.producer,
            row.raw_event_id,
            row.source_topic,
            row.properties,
            schema_state,
        ];
        for (column, text) in self.texts.iter_mut().zip(texts) {
            column.push(text);
        }
        for (column, text) in self.hot.iter_mut().zip(hot_values(row.properties)) {
            column.push(text.unwrap_or_default());
        }
        self.timestamps.push(row.timestamp);
        self.received.push(row.received_at);
        self.schema_versions.push(row.schema_version);
        self.topic_ids.push(row.source_topic_id);
        self.partitions.push(row.source_partition);
        self.offsets.push(row.source_offset);
        self.versions.push(row.version);
        self.deleted.push(row.is_deleted);
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.timestamps.len()
    }

    /// No rows?
    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
    }

    /// Bytes of all values.
    pub fn bytes(&self) -> usize {
        let texts: usize = self.texts.iter().chain(&self.hot).map(|texts| texts.bytes.len()).sum();
        texts + self.len() * (8 + 8 + 4 + 16 + 4 + 8 + 8 + 1)
    }

    /// The columns in which a row has something, in order. The others need not be sent: the table's defaults are the
    /// same. Of 32 columns a common block uses 20, and a column costs some 70 ns a row on its way.
    pub(super) fn used_columns(&self) -> Vec<(&'static str, ColumnKind)> {
        let filled = |texts: Option<&Texts>| texts.is_some_and(|texts| !texts.bytes.is_empty());
        columns()
            .filter(|(_, kind)| match kind {
                ColumnKind::Text(index) => filled(self.texts.get(*index)),
                ColumnKind::Hot(index) => filled(self.hot.get(*index)),
                ColumnKind::Version => self.versions.iter().any(|version| *version > 0),
                ColumnKind::Deleted => self.deleted.contains(&true),
                _ => true,
            })
            .collect()
    }

    /// These columns of the rows `from..to` as a native block.
    pub(super) fn native(&self, columns: &[(&'static str, ColumnKind)], from: usize, to: usize) -> Block {
        let to = to.min(self.len());
        let mut block = Block {
            info: BlockInfo::default(),
            rows: to.saturating_sub(from) as u64,
            column_types: IndexMap::new(),
            column_data: IndexMap::new(),
        };
        for (name, kind) in columns {
            let (kind, values) = self.values(*kind, from, to);
            block.column_types.insert((*name).to_owned(), kind);
            block.column_data.insert((*name).to_owned(), values);
        }
        block
    }

    fn values(&self, kind: ColumnKind, from: usize, to: usize) -> (Type, Vec<Value>) {
        fn column<T: Copy>(of: &[T], from: usize, to: usize, value: impl Fn(T) -> Value) -> Vec<Value> {
            of.get(from..to).unwrap_or_default().iter().map(|item| value(*item)).collect()
        }
        let texts = |of: &Texts| (from..to).map(|row| Value::String(of.get(row).to_vec())).collect();
        let time = |at: Timestamp| {
            Value::DateTime64(DynDateTime64(Tz::UTC, at.as_millis().max(0).unsigned_abs(), 3))
        };
        match kind {
            ColumnKind::Text(index) => (Type::String, self.texts.get(index).map(texts).unwrap_or_default()),
            ColumnKind::Hot(index) => (Type::String, self.hot.get(index).map(texts).unwrap_or_default()),
            ColumnKind::Timestamp => (Type::DateTime64(3, Tz::UTC), column(&self.timestamps, from, to, time)),
            ColumnKind::ReceivedAt => (Type::DateTime64(3, Tz::UTC), column(&self.received, from, to, time)),
            ColumnKind::SchemaVersion => {
                (Type::UInt32, column(&self.schema_versions, from, to, Value::UInt32))
            }
            ColumnKind::TopicId => (Type::Uuid, column(&self.topic_ids, from, to, Value::Uuid)),
            ColumnKind::Partition => (Type::Int32, column(&self.partitions, from, to, Value::Int32)),
            ColumnKind::Offset => (Type::Int64, column(&self.offsets, from, to, Value::Int64)),
            ColumnKind::Version => (Type::UInt64, column(&self.versions, from, to, Value::UInt64)),
            ColumnKind::Deleted => {
                (Type::UInt8, column(&self.deleted, from, to, |deleted| Value::UInt8(u8::from(deleted))))
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::store) fn row<'a>(event_id: &'a str, properties: &'a str) -> EventRow<'a> {
        EventRow {
            project_id: "p",
            environment_id: "e",
            event_id,
            event_name: "click",
            distinct_id: "d",
            customer_id: "",
            session_id: "s",
            source: "",
            producer: "test",
            raw_event_id: "",
            timestamp: Timestamp::from_millis(5),
            received_at: Timestamp::from_millis(6),
            schema_version: 1,
            source_topic: "events",
            source_topic_id: Uuid::from_u128(7),
            source_partition: 2,
            source_offset: 9,
            properties,
            version: 0,
            is_deleted: false,
        }
    }

    #[test]
    fn every_used_column_of_a_block_has_every_row_in_the_order_it_is_sent() {
        let mut block = EventBlock::with_capacity(2);
        block.push(&row("a", r#"{"price":1.5}"#));
        block.push(&row("bb", "{}"));
        let used = block.used_columns();
        let native = block.native(&used, 0, 10);
        assert_eq!(native.rows, 2);
        let names: Vec<&str> = native.column_types.keys().map(String::as_str).collect();
        let unused = ["customer_id", "source", "raw_event_id", "schema_state", "version", "is_deleted"];
        let expected: Vec<&str> = columns()
            .filter(|(name, kind)| {
                !unused.contains(name) && (*name == "p_price" || !matches!(kind, ColumnKind::Hot(_)))
            })
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, expected);
        assert!(native.column_data.values().all(|values| values.len() == 2));
        assert_eq!(native.column_data["event_id"][1], Value::string("bb"));
        assert_eq!(native.column_data["properties"][0], Value::string(r#"{"price":1.5}"#));
        assert_eq!(native.column_data["p_price"], [Value::string("1.5"), Value::string("")]);
        assert_eq!(native.column_data["source_offset"][0], Value::Int64(9));
    }

    #[test]
    fn a_row_that_uses_a_column_brings_it_back() {
        let mut block = EventBlock::new();
        block.push(&row("a", "{}"));
        block.push(&EventRow { customer_id: "c", version: 1, is_deleted: true, ..row("b", "{}") });
        let used: Vec<&str> = block.used_columns().into_iter().map(|(name, _)| name).collect();
        assert!(["customer_id", "version", "is_deleted"].iter().all(|name| used.contains(name)), "{used:?}");
    }

    #[test]
    fn a_few_very_long_rows_do_not_reserve_as_much_for_all_others() {
        let mut block = EventBlock::with_capacity(20_000);
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(100 << 10));
        for rows in 0..200 {
            block.push(&row("a", if rows < 80 { &long } else { "{}" }));
        }
        let properties = &block.texts[11].bytes;
        assert!(properties.len() > 8_000_000 && properties.capacity() < 2 * ROOM_AHEAD_MAX);
    }

    #[test]
    fn a_slice_of_a_block_has_its_own_rows() {
        let mut block = EventBlock::new();
        for id in ["a", "b", "c"] {
            block.push(&row(id, "{}"));
        }
        let used = block.used_columns();
        let slice = block.native(&used, 1, 3);
        assert_eq!(slice.column_data["event_id"], [Value::string("b"), Value::string("c")]);
        assert!(block.bytes() > 3 * 57);
    }
}

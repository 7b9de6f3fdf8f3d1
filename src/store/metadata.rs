//! Ingestion metadata of stored events: how many rows have all of it, where offsets have no row, and rows that lack some.

use uuid::Uuid;

use super::{EventKey, Row, RowCells, Sql, Store, StoreError};
use crate::event::{Scope, Timestamp};

/// Ends the producer of a row whose metadata was filled in later.
pub const BACKFILL: &str = "backfill";

/// What a row's metadata is: who produced it, in which shape, when it was taken, and where it stands in the log.
const WITHOUT_POSITION: &str = "(source_topic = '' OR source_offset < 0 OR source_topic_id = toUUID('00000000-0000-0000-0000-000000000000'))";
const WITHOUT_RECEIVED_AT: &str = "received_at = toDateTime64(0, 3, 'UTC')";

/// Events of one project and environment by what their rows tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataCounts {
    pub rows: u64,
    /// Nothing is missing.
    pub full: u64,
    /// Something was filled in later.
    pub backfilled: u64,
    pub without_producer: u64,
    pub without_schema_version: u64,
    pub without_position: u64,
    pub without_received_at: u64,
}

impl Row for MetadataCounts {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            rows: cells.next()?,
            full: cells.next()?,
            backfilled: cells.next()?,
            without_producer: cells.next()?,
            without_schema_version: cells.next()?,
            without_position: cells.next()?,
            without_received_at: cells.next()?,
        })
    }
}

/// The offsets of one partition of one incarnation of a topic that have a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetSpan {
    pub topic: String,
    pub topic_id: Uuid,
    pub partition: i32,
    pub first: i64,
    pub last: i64,
    /// Offsets from `first` to `last` that have a row.
    pub stored: u64,
}

impl Row for OffsetSpan {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            topic: cells.next()?,
            topic_id: cells.next()?,
            partition: cells.next()?,
            first: cells.next()?,
            last: cells.next()?,
            stored: cells.next()?,
        })
    }
}

/// A row that lacks metadata, whole, to be written again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BareRow {
    pub key: EventKey,
    pub event_name: String,
    pub distinct_id: String,
    pub customer_id: String,
    pub session_id: String,
    pub source: String,
    pub producer: String,
    pub raw_event_id: String,
    pub timestamp: Timestamp,
    pub received_at: Timestamp,
    pub schema_version: u32,
    pub source_topic: String,
    pub source_topic_id: Uuid,
    pub source_partition: i32,
    pub source_offset: i64,
    pub properties: String,
    pub version: u64,
}

impl Row for BareRow {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            key: EventKey::from_cells(cells)?,
            event_name: cells.next()?,
            distinct_id: cells.next()?,
            customer_id: cells.next()?,
            session_id: cells.next()?,
            source: cells.next()?,
            producer: cells.next()?,
            raw_event_id: cells.next()?,
            timestamp: cells.next()?,
            received_at: cells.next()?,
            schema_version: cells.next()?,
            source_topic: cells.next()?,
            source_topic_id: cells.next()?,
            source_partition: cells.next()?,
            source_offset: cells.next()?,
            properties: cells.next()?,
            version: cells.next()?,
        })
    }
}

impl BareRow {
    /// Does it not say where it stands in the log?
    pub fn lacks_position(&self) -> bool {
        self.source_topic.is_empty() || self.source_offset < 0 || self.source_topic_id.is_nil()
    }
}

/// ` WHERE project_id = … AND environment_id = …`
fn within(scope: &Scope) -> Sql {
    Sql::new(" WHERE project_id = ")
        .arg(scope.project.as_str())
        .push(" AND environment_id = ")
        .arg(scope.environment.as_str())
}

/// A row lacks something.
fn lacking() -> Sql {
    Sql::new("(producer = '' OR schema_version = 0 OR ")
        .push(WITHOUT_POSITION)
        .push(" OR ")
        .push(WITHOUT_RECEIVED_AT)
        .push(")")
}

impl Store {
    /// Counts the events of a scope by the metadata of their rows.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn metadata_counts(&self, scope: &Scope) -> Result<MetadataCounts, StoreError> {
        let sql = Sql::new("SELECT count() AS rows, countIf(NOT ")
            .append(&lacking())
            .push(") AS full, countIf(endsWith(producer, ")
            .arg(BACKFILL)
            .push(")) AS backfilled, countIf(producer = '') AS a, countIf(schema_version = 0) AS b, countIf(")
            .push(WITHOUT_POSITION)
            .push(") AS c, countIf(")
            .push(WITHOUT_RECEIVED_AT)
            .push(") AS d FROM events FINAL")
            .append(&within(scope));
        Ok(self.select(sql).await?.into_iter().next().unwrap_or_default())
    }

    /// How many events of a scope have which schema version.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn schema_versions(&self, scope: &Scope) -> Result<Vec<(u32, u64)>, StoreError> {
        let sql = Sql::new("SELECT schema_version AS v, count() AS n FROM events FINAL")
            .append(&within(scope))
            .push(" GROUP BY v ORDER BY v LIMIT 1000");
        self.select(sql).await
    }

    /// Which offsets of which partitions have rows, at most `limit` partitions.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn offset_spans(&self, limit: u64) -> Result<Vec<OffsetSpan>, StoreError> {
        let sql = Sql::new(
            "SELECT source_topic AS topic, source_topic_id AS topic_id, source_partition AS partition, \
             min(source_offset) AS first, max(source_offset) AS last, uniqExact(source_offset) AS stored FROM events \
             WHERE source_topic != '' AND source_offset >= 0 GROUP BY topic, topic_id, partition \
             ORDER BY topic, topic_id, partition LIMIT ",
        )
        .arg(limit);
        self.select(sql).await
    }

    /// The first gaps of a partition, at most `limit`: first and last offset without a row.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn offset_gaps(&self, span: &OffsetSpan, limit: u64) -> Result<Vec<(i64, i64)>, StoreError> {
        let sql = Sql::new(
            "SELECT before + 1 AS first, offset - 1 AS last FROM (SELECT offset, lagInFrame(offset, 1, offset) OVER \
             (ORDER BY offset ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS before FROM (SELECT DISTINCT \
             source_offset AS offset FROM events WHERE ",
        )
        .append(&super::offsets::partition(&span.topic, span.topic_id, span.partition))
        .push("))) WHERE offset > before + 1 ORDER BY first LIMIT ")
        .arg(limit);
        self.select(sql).await
    }

    /// How many offsets of a span are indexed as dead letters.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn dead_offsets(&self, span: &OffsetSpan) -> Result<u64, StoreError> {
        let sql = Sql::new("SELECT uniqExact(source_offset) AS dead FROM events_dlq WHERE ")
            .append(&super::offsets::partition(&span.topic, span.topic_id, span.partition))
            .push(" AND source_offset BETWEEN ")
            .arg(span.first)
            .push(" AND ")
            .arg(span.last)
            .push(")");
        Ok(self.select::<(u64,)>(sql).await?.first().map_or(0, |(dead,)| *dead))
    }

    /// Some rows of a scope that lack metadata and were not filled in before.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn bare_rows(&self, scope: &Scope, limit: u64) -> Result<Vec<BareRow>, StoreError> {
        let sql = Sql::new(
            "SELECT project_id, environment_id, event_id, event_name, distinct_id, customer_id, session_id, source, \
             producer, raw_event_id, timestamp, received_at, schema_version, source_topic, source_topic_id, \
             source_partition, source_offset, properties, version FROM events FINAL",
        )
        .append(&within(scope))
        .push(" AND NOT endsWith(producer, ")
        .arg(BACKFILL)
        .push(") AND ")
        .append(&lacking())
        .push(" LIMIT ")
        .arg(limit);
        self.select(sql).await
    }
}

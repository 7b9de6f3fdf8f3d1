//! Tombstones, and the sweep that finds events stored under a second key.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::block::{EventBlock, EventRow};
use super::{InsertError, Row, RowCells, Sql, Store, StoreError};
use crate::event::Timestamp;

/// The version of a row that no other may ever replace: a deletion for good.
pub const VOID_VERSION: u64 = u64::MAX;

/// Ids that one sweep of one slice mends at most; the rest waits for the next.
const SWEEP_IDS_MAX: u64 = 10_000;
/// Ids that are compared in one statement, about: 100 bytes of the store's memory each.
const SLICE_IDS: u64 = 2_000_000;

/// The whole sort key of a row, and the version that a tombstone for it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    pub project_id: String,
    pub environment_id: String,
    pub event_id: String,
    pub event_name: String,
    pub distinct_id: String,
    /// Any moment of the row's day; the row's own, so that the tombstone lands in the same partition.
    pub timestamp: Timestamp,
    pub received_at: Timestamp,
    /// Hides rows of this key with a smaller version; of the same version, those inserted before it.
    pub version: u64,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Events that were stored under more than one key.
    pub events: u64,
    /// Rows of deleted events that had come back under another key.
    pub voided: u64,
    /// Tombstones written.
    pub tombstones: u64,
}

/// A row that shares its event id with another.
struct Twin {
    tombstone: Tombstone,
    partition: i32,
    offset: i64,
}

impl Row for Twin {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            tombstone: Tombstone {
                project_id: cells.next()?,
                environment_id: cells.next()?,
                event_id: cells.next()?,
                event_name: cells.next()?,
                distinct_id: cells.next()?,
                timestamp: cells.next()?,
                received_at: cells.next()?,
                version: cells.next()?,
            },
            partition: cells.next()?,
            offset: cells.next()?,
        })
    }
}

impl Store {
    /// Hides the rows of these keys. Doing it again changes nothing; rows that are inserted later under the same key
    /// with a smaller version stay hidden. Of the same version the row inserted last counts, so whoever deletes for
    /// good writes [`VOID_VERSION`].
    ///
    /// # Errors
    /// See [`InsertError`]; whatever it is, doing it again is safe.
    pub async fn tombstone(&self, rows: &[Tombstone]) -> Result<(), InsertError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut block = EventBlock::with_capacity(rows.len());
        let mut hash = Sha256::new();
        for row in rows {
            block.push(&EventRow {
                project_id: &row.project_id,
                environment_id: &row.environment_id,
                event_id: &row.event_id,
                event_name: &row.event_name,
                distinct_id: &row.distinct_id,
                customer_id: "",
                session_id: "",
                source: "",
                producer: "flexflow",
                raw_event_id: "",
                timestamp: row.timestamp,
                received_at: row.received_at,
                schema_version: 0,
                // No position: a tombstone is never mistaken for a stored record.
                source_topic: "",
                source_topic_id: Uuid::nil(),
                source_partition: -1,
                source_offset: -1,
                properties: "{}",
                version: row.version,
                is_deleted: true,
            });
            for text in
                [&row.project_id, &row.environment_id, &row.event_id, &row.event_name, &row.distinct_id]
            {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text.as_bytes());
            }
            hash.update(row.timestamp.as_millis().to_le_bytes());
            hash.update(row.version.to_le_bytes());
        }
        let digest = hash.finalize();
        let token = digest.iter().fold("tombstones:".to_owned(), |token, byte| format!("{token}{byte:02x}"));
        self.insert_events(&block, &token).await
    }

    /// Looks at the events received at or after `since`. Those that are stored under more than one key (they were sent
    /// again with another day, name or distinct id) lose all but the first: the one received first, then the one of the
    /// smaller partition and offset. Those whose id was deleted for good, under whichever key and however long ago, go.
    /// `among`: only events of which a row was received at or after then.
    ///
    /// # Errors
    /// See [`StoreError`]. What was hidden before the error stays hidden; doing it again goes on.
    pub async fn sweep(&self, since: Timestamp, among: Option<Timestamp>) -> Result<Swept, StoreError> {
        let sizes = Sql::new("SELECT countIf(received_at >= ")
            .arg(since)
            .push(") AS rows, countIf(")
            .append(&voids())
            .push(") AS voids FROM events");
        let (rows, voided) = self.select::<(u64, u64)>(sizes).await?.into_iter().next().unwrap_or_default();
        let slices = rows.max(voided).div_ceil(SLICE_IDS).max(1);
        let mut swept = Swept::default();
        for slice in 0..slices {
            if voided > 0 {
                let back: Vec<Twin> = self.select(come_back(among.unwrap_or(since), slice, slices)).await?;
                let tombstones: Vec<Tombstone> = back.into_iter().map(|row| row.tombstone).collect();
                self.hide(&tombstones).await?;
                swept.voided += tombstones.len() as u64;
                swept.tombstones += tombstones.len() as u64;
            }
            let twins: Vec<Twin> = self.select(twins(since, among, slice, slices)).await?;
            let (events, tombstones) = all_but_the_first(twins);
            self.hide(&tombstones).await?;
            swept.events += events;
            swept.tombstones += tombstones.len() as u64;
        }
        Ok(swept)
    }

    async fn hide(&self, tombstones: &[Tombstone]) -> Result<(), StoreError> {
        self.tombstone(tombstones).await.map_err(|error| match error {
            InsertError::Schema { message, cure } => StoreError::Schema { message, cure },
            InsertError::Rejected(message) => StoreError::Query(message),
            other => StoreError::Unavailable(other.to_string()),
        })
    }
}

/// Rows that say their event is deleted for good. `FINAL` hides them, so they are read without it.
fn voids() -> Sql {
    Sql::new("is_deleted = 1 AND version = ").arg(VOID_VERSION)
}

fn of_slice(slice: u64, slices: u64) -> Sql {
    Sql::new("cityHash64(project_id, environment_id, event_id) % ").arg(slices).push(" = ").arg(slice)
}

/// The fields of a [`Twin`], of live rows.
fn live_rows(version: &Sql) -> Sql {
    Sql::new(
        "SELECT project_id AS project_id, environment_id AS environment_id, event_id AS event_id, event_name AS \
         event_name, distinct_id AS distinct_id, timestamp AS timestamp, received_at AS received_at, ",
    )
    .append(version)
    .push(" AS version, source_partition AS partition, source_offset AS offset FROM events FINAL WHERE ")
}

/// Live rows of events that were deleted for good under another key.
fn come_back(since: Timestamp, slice: u64, slices: u64) -> Sql {
    live_rows(&Sql::new("toUInt64(").arg(VOID_VERSION).push(")"))
        .push("received_at >= ")
        .arg(since)
        .push(" AND ")
        .append(&of_slice(slice, slices))
        // The ids themselves, not their hashes: a collision would delete a stranger.
        .push(
            " AND (project_id, environment_id, event_id) IN (SELECT project_id, environment_id, event_id FROM events \
             WHERE ",
        )
        .append(&voids())
        .push(" AND ")
        .append(&of_slice(slice, slices))
        .push(") ORDER BY project_id, environment_id, event_id LIMIT ")
        .arg(SWEEP_IDS_MAX)
}

/// Rows of events with more than one key, those of one event together and the first of them first.
fn twins(since: Timestamp, among: Option<Timestamp>, slice: u64, slices: u64) -> Sql {
    let mut of_slice = Sql::new("received_at >= ").arg(since).push(" AND ").append(&of_slice(slice, slices));
    if let Some(among) = among {
        of_slice = of_slice
            .push(
                " AND cityHash64(project_id, environment_id, event_id) IN (SELECT cityHash64(project_id, \
                 environment_id, event_id) FROM events WHERE received_at >= ",
            )
            .arg(among)
            .push(")");
    }
    live_rows(&Sql::new("version"))
        .append(&of_slice)
        .push(
            " AND cityHash64(project_id, environment_id, event_id) IN (SELECT cityHash64(project_id, environment_id, \
             event_id) AS hash FROM events FINAL WHERE ",
        )
        .append(&of_slice)
        .push(" GROUP BY hash HAVING count() > 1 ORDER BY hash LIMIT ")
        .arg(SWEEP_IDS_MAX)
        .push(
            ") ORDER BY project_id, environment_id, event_id, received_at, partition, offset, event_name, distinct_id, \
             timestamp",
        )
}

/// How many events have a second row, and the tombstones of those rows.
fn all_but_the_first(twins: Vec<Twin>) -> (u64, Vec<Tombstone>) {
    let mut tombstones: Vec<Tombstone> = Vec::new();
    let mut events = 0;
    let mut first: Option<(Twin, bool)> = None;
    for twin in twins {
        match &mut first {
            Some((kept, has_twin)) if same_event(&kept.tombstone, &twin.tombstone) => {
                if !*has_twin {
                    *has_twin = true;
                    events += 1;
                }
                debug_assert!(
                    (kept.tombstone.received_at, kept.partition, kept.offset)
                        <= (twin.tombstone.received_at, twin.partition, twin.offset)
                );
                // Above the row it hides, below what a correction writes.
                let version = twin.tombstone.version.saturating_add(1);
                tombstones.push(Tombstone { version, ..twin.tombstone });
            }
            _ => first = Some((twin, false)),
        }
    }
    (events, tombstones)
}

fn same_event(a: &Tombstone, b: &Tombstone) -> bool {
    a.project_id == b.project_id && a.environment_id == b.environment_id && a.event_id == b.event_id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn twin(event_id: &str, received: i64, offset: i64) -> Twin {
        Twin {
            tombstone: Tombstone {
                project_id: "p".to_owned(),
                environment_id: "e".to_owned(),
                event_id: event_id.to_owned(),
                event_name: format!("name {offset}"),
                distinct_id: "d".to_owned(),
                timestamp: Timestamp::from_millis(0),
                received_at: Timestamp::from_millis(received),
                version: 0,
            },
            partition: 0,
            offset,
        }
    }

    #[test]
    fn the_first_of_each_event_stays() {
        let rows = vec![twin("a", 1, 5), twin("a", 2, 3), twin("a", 2, 9), twin("b", 1, 1), twin("c", 1, 2)];
        let (events, tombstones) = all_but_the_first(rows);
        assert_eq!(events, 1);
        let names: Vec<&str> = tombstones.iter().map(|row| row.event_name.as_str()).collect();
        assert_eq!(names, ["name 3", "name 9"]);
        assert!(tombstones.iter().all(|row| row.version == 1));
    }
}

//! What is stored of a topic: the offsets that the consumer's scan on assignment skips, and the events that an audit
//! looks for.

use std::collections::{BTreeMap, HashSet};

use uuid::Uuid;

use super::{Row, RowCells, Sql, Store, StoreError};

/// Ids in one statement of [`Store::known_events`].
const KEYS_MAX: usize = 5000;

/// A partition of one incarnation of a topic, from an offset on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRange {
    pub topic: String,
    pub topic_id: Uuid,
    pub partition: i32,
    pub from_offset: i64,
}

/// The stored offsets of a [`StoredRange`], ascending, each once: eight bytes each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredOffsets {
    pub topic: String,
    pub topic_id: Uuid,
    pub partition: i32,
    pub offsets: Vec<i64>,
}

/// What names an event in every table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventKey {
    pub project_id: String,
    pub environment_id: String,
    pub event_id: String,
}

impl Row for EventKey {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self { project_id: cells.next()?, environment_id: cells.next()?, event_id: cells.next()? })
    }
}

impl Store {
    /// Which offsets of these ranges have a row, in one scan; one answer a range, in the same order. Rows that another
    /// row has replaced may be left out: inserting them again does no harm.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn stored_offsets(&self, ranges: &[StoredRange]) -> Result<Vec<StoredOffsets>, StoreError> {
        self.offsets_in("events", ranges).await
    }

    /// [`Store::stored_offsets`] of any table with the columns of a position.
    pub(super) async fn offsets_in(
        &self,
        table: &'static str,
        ranges: &[StoredRange],
    ) -> Result<Vec<StoredOffsets>, StoreError> {
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        let conditions: Vec<Sql> = ranges
            .iter()
            .map(|range| {
                partition(&range.topic, range.topic_id, range.partition)
                    .push(" AND source_offset >= ")
                    .arg(range.from_offset)
                    .push(")")
            })
            .collect();
        let sql = Sql::new(
            "SELECT source_topic AS topic, source_topic_id AS topic_id, source_partition AS partition, source_offset \
             AS offset FROM ",
        )
        .push(table)
        .push(" WHERE ")
        .join(" OR ", &conditions);
        let mut found: BTreeMap<(String, Uuid, i32), Vec<i64>> = BTreeMap::new();
        let mut rows = self.stream::<(String, Uuid, i32, i64)>(sql).await?;
        while let Some(chunk) = rows.next_chunk().await? {
            for (topic, topic_id, partition, offset) in chunk {
                found.entry((topic, topic_id, partition)).or_default().push(offset);
            }
        }
        Ok(ranges
            .iter()
            .map(|range| {
                let key = (range.topic.clone(), range.topic_id, range.partition);
                let mut offsets = found.get(&key).cloned().unwrap_or_default();
                offsets.retain(|offset| *offset >= range.from_offset);
                offsets.sort_unstable();
                offsets.dedup();
                StoredOffsets { topic: key.0, topic_id: key.1, partition: key.2, offsets }
            })
            .collect())
    }

    /// The stored offsets from `first` to `last` of a partition, ascending.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn offsets_between(
        &self,
        topic: &str,
        topic_id: Uuid,
        of_partition: i32,
        first: i64,
        last: i64,
    ) -> Result<Vec<i64>, StoreError> {
        let sql = Sql::new("SELECT DISTINCT source_offset AS offset FROM events WHERE ")
            .append(&partition(topic, topic_id, of_partition))
            .push(" AND source_offset BETWEEN ")
            .arg(first)
            .push(" AND ")
            .arg(last)
            .push(") ORDER BY offset");
        let rows: Vec<(i64,)> = self.select(sql).await?;
        Ok(rows.into_iter().map(|(offset,)| offset).collect())
    }

    /// Which of these events have a row, deleted or not, from whichever position of whichever topic.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn known_events(&self, keys: &[EventKey]) -> Result<HashSet<EventKey>, StoreError> {
        let wanted: HashSet<&EventKey> = keys.iter().collect();
        let mut known = HashSet::new();
        for some in keys.chunks(KEYS_MAX) {
            let sql = Sql::new(
                "SELECT DISTINCT project_id AS project_id, environment_id AS environment_id, event_id AS event_id \
                 FROM events WHERE event_id IN ",
            )
            .list(some.iter().map(|key| key.event_id.as_str()))
            .push(" AND project_id IN ")
            .list(some.iter().map(|key| key.project_id.as_str()).collect::<HashSet<_>>());
            known.extend(self.select::<EventKey>(sql).await?.into_iter().filter(|key| wanted.contains(key)));
        }
        Ok(known)
    }
}

/// `(source_topic = … AND source_topic_id = … AND source_partition = …`, left open.
pub(super) fn partition(topic: &str, topic_id: Uuid, partition: i32) -> Sql {
    Sql::new("(source_topic = ")
        .arg(topic)
        .push(" AND source_topic_id = ")
        .arg(topic_id)
        .push(" AND source_partition = ")
        .arg(partition)
}

//! The ids of recently stored events, newest first: what the consumer's id window is rebuilt from.

use std::time::Duration;

use uuid::Uuid;

use super::select::RowStream;
use super::{Row, RowCells, Sql, Store, StoreError};
use crate::event::Timestamp;

/// The first slice of time that is asked for; later ones grow or shrink to about [`SLICE_IDS`].
const FIRST_SLICE: Duration = Duration::from_secs(60);
const SLICE_MIN: Duration = Duration::from_secs(1);
const SLICE_MAX: Duration = Duration::from_secs(24 * 3600);
/// What a slice should hold, and what it holds at most (the rest of it is asked for again): sorting that many at once
/// costs the store some 100 MB.
const SLICE_IDS: u64 = 200_000;
const SLICE_IDS_MAX: u64 = 500_000;
/// Clocks of capture processes differ: this far ahead of ours is as good as now.
const AHEAD: Duration = Duration::from_secs(3600);

/// The id of a stored event and where its record stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentId {
    pub project_id: String,
    pub environment_id: String,
    pub event_id: String,
    pub partition: i32,
    pub offset: i64,
    pub received_at: Timestamp,
}

impl Row for RecentId {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            project_id: cells.next()?,
            environment_id: cells.next()?,
            event_id: cells.next()?,
            partition: cells.next()?,
            offset: cells.next()?,
            received_at: cells.next()?,
        })
    }
}

/// An answer of [`Store::recent_ids`], read chunk by chunk. Holds a connection only while a chunk is under way.
pub struct RecentIds {
    store: Store,
    topic: String,
    topic_id: Uuid,
    partitions: Vec<i32>,
    since: Timestamp,
    /// The slice that is asked for: from the one to before the other.
    from: Timestamp,
    until: Timestamp,
    length: Duration,
    /// What came of the slice so far, and the oldest of it.
    slice_ids: u64,
    oldest: Timestamp,
    left: u64,
    rows: Option<RowStream<RecentId>>,
}

impl Store {
    /// The ids stored from these partitions of one incarnation of a topic and received at or after `since`: newest
    /// first, at most `limit`. The same id may come more than once.
    pub fn recent_ids(
        &self,
        topic: &str,
        topic_id: Uuid,
        partitions: &[i32],
        since: Timestamp,
        limit: u64,
    ) -> RecentIds {
        let now = self.inner.clock.now();
        RecentIds {
            store: self.clone(),
            topic: topic.to_owned(),
            topic_id,
            partitions: partitions.to_vec(),
            since,
            from: now.minus(FIRST_SLICE).max(since),
            until: now.plus(AHEAD),
            length: FIRST_SLICE,
            slice_ids: 0,
            oldest: Timestamp::MAX,
            left: limit,
            rows: None,
        }
    }
}

impl RecentIds {
    /// The next ids; `None` when there are no more, or as many as were asked for have come.
    ///
    /// # Errors
    /// See [`StoreError`]. After an error, calling again asks the slice of time it happened in again, from its start.
    pub async fn next_chunk(&mut self) -> Result<Option<Vec<RecentId>>, StoreError> {
        if self.partitions.is_empty() {
            return Ok(None);
        }
        while self.left > 0 && self.until > self.since {
            let mut rows = match self.rows.take() {
                Some(rows) => rows,
                None => {
                    self.slice_ids = 0;
                    self.store.stream(self.question()).await?
                }
            };
            if let Some(chunk) = rows.next_chunk().await? {
                self.rows = Some(rows);
                self.slice_ids += chunk.len() as u64;
                self.left = self.left.saturating_sub(chunk.len() as u64);
                if let Some(last) = chunk.last() {
                    self.oldest = last.received_at;
                }
                return Ok(Some(chunk));
            }
            self.go_back();
        }
        Ok(None)
    }

    fn go_back(&mut self) {
        if self.slice_ids >= SLICE_IDS_MAX {
            // More in it than was asked for. The oldest millisecond may have been cut: it is asked for again, unless
            // that would not get us further (half a million ids of one millisecond: the rest of them is left out).
            let again = Timestamp::from_millis(self.oldest.as_millis() + 1);
            self.until = if again < self.until { again } else { self.oldest };
            self.length = (self.length / 2).max(SLICE_MIN);
            return;
        }
        let next = match self.slice_ids {
            ids if ids > SLICE_IDS * 2 => self.length / 2,
            ids if ids < SLICE_IDS / 2 => self.length * 4,
            _ => self.length,
        };
        self.length = next.clamp(SLICE_MIN, SLICE_MAX);
        self.until = self.from;
        self.from = self.until.minus(self.length).max(self.since);
    }

    fn question(&self) -> Sql {
        Sql::new(
            "SELECT project_id AS project_id, environment_id AS environment_id, event_id AS event_id, source_partition \
             AS partition, source_offset AS offset, received_at AS at FROM events WHERE source_topic = ",
        )
        .arg(self.topic.as_str())
        .push(" AND source_topic_id = ")
        .arg(self.topic_id)
        .push(" AND source_partition IN ")
        .list(&self.partitions)
        .push(" AND received_at >= ")
        .arg(self.from)
        .push(" AND received_at < ")
        .arg(self.until)
        .push(" ORDER BY at DESC LIMIT ")
        .arg(self.left.min(SLICE_IDS_MAX))
    }
}

//! Deletes old segments.
//!
//! A segment goes when it is too old or its partition too large, every record in it is committed by all required
//! groups, and it is sealed; the oldest first. The age of a segment is that of its newest record, but never younger
//! than the segments behind it: records dated in the future by a clock that jumped do not keep the log for ever. A
//! clock that jumps back only keeps records longer.

use std::sync::PoisonError;

use super::catalog::{Partition, PartitionState, Topic};
use super::store::Store;
use super::topics::ChangeError;
use super::writer::Writer;
use crate::event::Timestamp;
use crate::eventlog::Retention;

/// A segment that is written to is sealed when its first record is older than this share of the topic's age bound, so
/// that little traffic expires in time too.
const SEAL_SHARE: u32 = 8;

impl Writer {
    /// Runs retention over every partition.
    pub(super) fn retain(&self, store: &Store) -> Result<(), ChangeError> {
        let now = self.clock.now();
        for (topic, partition) in self.shared.catalog().partitions() {
            let floor = self.needed_from(topic, partition);
            if seal_is_due(&partition.read(), topic.spec.retention, now) {
                self.roll(topic.id, partition)?;
            }
            let count = expired(&partition.read(), topic.spec.retention, floor, now);
            if count > 0 {
                self.delete_oldest(store, topic, partition, count)?;
            }
        }
        Ok(self.show_disk_bytes(store)?)
    }

    /// The smallest offset that a required group has not committed.
    fn needed_from(&self, topic: &Topic, partition: &Partition) -> i64 {
        let committed = self.shared.committed.read().unwrap_or_else(PoisonError::into_inner);
        let of = |group: &std::sync::Arc<str>| {
            committed.get(&(group.clone(), topic.id, partition.number)).copied().unwrap_or(0)
        };
        topic.spec.required_groups.iter().map(of).min().unwrap_or(i64::MAX)
    }

    fn delete_oldest(
        &self,
        store: &Store,
        topic: &Topic,
        partition: &Partition,
        count: usize,
    ) -> Result<(), ChangeError> {
        let mut state = partition.write();
        let gone: Vec<_> = state.segments.drain(..count).collect();
        let before = state.offsets.log_start;
        state.offsets.log_start = state.segments.first().map_or(state.offsets.end, |segment| segment.base);
        let log_start = state.offsets.log_start;
        drop(state);
        let mut write = store.write();
        for segment in &gone {
            write.forget_segment(topic.id, partition.number, segment.base);
        }
        write.commit()?;
        for segment in &gone {
            store.delete_segment(segment)?;
        }
        topic.expired.increment(u64::try_from(log_start - before).unwrap_or(0));
        let (name, segments) = (&*topic.spec.name, gone.len());
        tracing::info!(
            topic = name,
            partition = partition.number,
            segments,
            log_start,
            "retention deleted segments"
        );
        Ok(())
    }
}

fn seal_is_due(state: &PartitionState, retention: Retention, now: Timestamp) -> bool {
    let (Some(active), Some(age_max)) = (state.segments.last(), retention.age_max) else { return false };
    !active.is_empty() && now.since(Timestamp::from_millis(active.first_timestamp)) > age_max / SEAL_SHARE
}

/// How many of the oldest segments may go.
fn expired(state: &PartitionState, retention: Retention, needed_from: i64, now: Timestamp) -> usize {
    let mut newest = now.as_millis();
    let mut newest_of: Vec<i64> = state
        .segments
        .iter()
        .rev()
        .map(|segment| {
            if !segment.is_empty() {
                newest = newest.min(segment.max_timestamp);
            }
            newest
        })
        .collect();
    newest_of.reverse();
    let mut bytes = state.bytes();
    let mut count = 0;
    for (segment, newest) in state.segments.iter().zip(newest_of) {
        let old = retention.age_max.is_some_and(|max| now.since(Timestamp::from_millis(newest)) > max);
        bytes -= segment.bytes;
        let crowded = retention.bytes_max.is_some_and(|max| bytes >= max);
        if !segment.sealed || segment.end > needed_from || !(old || crowded) {
            break;
        }
        count += 1;
    }
    count
}

//! How far the store is behind the event log, and what stands in the log that the store does not have.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::event::{Clock, Timestamp};
use crate::eventlog::{
    EventLog, FetchError, FetchFrom, FetchLimits, LogError, Record, TopicDescription, TopicPartition,
};

/// What was found is true of the past for ever, so it may be told again for a moment.
const REMEMBERED: Duration = Duration::from_millis(250);
/// A question does not wait longer than this to be told how complete its answer is.
const WAIT: Duration = Duration::from_secs(1);
/// Bytes that one look through the log holds at once.
const FETCH_BYTES: usize = 8 * 1024 * 1024;

/// What one partition still has to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionBacklog {
    pub partition: i32,
    /// The first record that is not committed; null: the group never committed, and begins at the log's start.
    pub committed_offset: Option<i64>,
    pub end_offset: i64,
    pub lag: i64,
}

/// Which end of each partition is looked through when not all of it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// What the store stage has not committed, oldest first.
    Uncommitted,
    /// The newest records.
    Newest,
}

/// Asks the log how far the store stage's group has come.
#[derive(Clone)]
pub(super) struct BacklogReader {
    log: Arc<dyn EventLog>,
    topic: Arc<str>,
    group: Arc<str>,
    clock: Arc<dyn Clock>,
    remembered: Arc<Mutex<Option<(Instant, Timestamp)>>>,
}

impl BacklogReader {
    pub(super) fn new(log: Arc<dyn EventLog>, topic: &str, group: &str, clock: Arc<dyn Clock>) -> Self {
        Self { log, topic: topic.into(), group: group.into(), clock, remembered: Arc::default() }
    }

    /// The topic of accepted events.
    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// The store stage's consumer group.
    pub(super) fn group(&self) -> &str {
        &self.group
    }

    /// The moment before which every accepted event has been dealt with; none if the log does not say in time.
    pub(super) async fn complete_to(&self) -> Option<Timestamp> {
        if let Some((at, found)) = *self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
            && at.elapsed() < REMEMBERED
        {
            return Some(found);
        }
        let found = match tokio::time::timeout(WAIT, self.find_complete_to()).await {
            Ok(Ok(found)) => found?,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the log does not say how far the store is behind");
                return None;
            }
            Err(_) => return None,
        };
        *self.remembered.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), found));
        Some(found)
    }

    async fn find_complete_to(&self) -> Result<Option<Timestamp>, LogError> {
        let now = self.clock.now();
        let topic = self.describe(&self.topic).await?;
        let committed = self.log.committed(&self.group).await?;
        let behind: Vec<FetchFrom> = (0..)
            .zip(&topic.partitions)
            .filter_map(|(partition, offsets)| {
                let topic_partition = TopicPartition { topic: self.topic.clone(), partition };
                let next = committed.get(&topic_partition).copied().unwrap_or(0).max(offsets.log_start);
                (next < offsets.end).then_some(FetchFrom {
                    topic_partition,
                    topic_id: topic.id,
                    offset: next,
                })
            })
            .collect();
        if behind.is_empty() {
            return Ok(Some(now));
        }
        // The first record of each partition that is behind; one that does not answer may be behind by any time.
        let limits = FetchLimits { wait_max: Duration::ZERO, partition_bytes_max: 1, bytes_max: FETCH_BYTES };
        let fetched = self.log.fetch(&behind, limits).await?;
        let first = |from: &FetchFrom| {
            let of_partition = fetched.iter().find(|f| f.topic_partition == from.topic_partition)?;
            of_partition.outcome.as_ref().ok()?.records.first().map(|record| record.timestamp)
        };
        let oldest: Option<Vec<Timestamp>> = behind.iter().map(first).collect();
        Ok(oldest.and_then(|oldest| oldest.into_iter().min()).map(|oldest| oldest.min(now)))
    }

    /// What each partition still has to go.
    pub(super) async fn partitions(&self) -> Result<Vec<PartitionBacklog>, LogError> {
        let topic = self.describe(&self.topic).await?;
        let committed = self.log.committed(&self.group).await?;
        let each = (0..).zip(&topic.partitions).map(|(partition, offsets)| {
            let of_partition = TopicPartition { topic: self.topic.clone(), partition };
            let committed_offset = committed.get(&of_partition).copied();
            let next = committed_offset.unwrap_or(0).max(offsets.log_start);
            let lag = (offsets.end - next).max(0);
            PartitionBacklog { partition, committed_offset, end_offset: offsets.end, lag }
        });
        Ok(each.collect())
    }

    /// Shows at most about `records_max` records of a topic, and says whether that was all there are in this part.
    pub(super) async fn look_through(
        &self,
        topic: &str,
        part: Part,
        records_max: u32,
        mut show: impl FnMut(i32, &Record) + Send,
    ) -> Result<bool, LogError> {
        let described = self.describe(topic).await?;
        let committed = match part {
            Part::Uncommitted => self.log.committed(&self.group).await?,
            Part::Newest => BTreeMap::new(),
        };
        let share = i64::from(records_max) / (described.partitions.len().max(1) as i64);
        let mut whole = true;
        for (partition, offsets) in (0..).zip(&described.partitions) {
            let topic_partition = TopicPartition { topic: described.name.clone(), partition };
            let begin = committed.get(&topic_partition).copied().unwrap_or(0).max(offsets.log_start);
            whole &= offsets.end - begin <= share;
            let (begin, end) = match part {
                Part::Uncommitted => (begin, offsets.end.min(begin.saturating_add(share))),
                Part::Newest => (begin.max(offsets.end - share), offsets.end),
            };
            let from = FetchFrom { topic_partition, topic_id: described.id, offset: begin };
            whole &= self.read(from, end, &mut |record| show(partition, record)).await?;
        }
        Ok(whole)
    }

    /// Shows the records of a partition up to `end`; false if the partition could not be read to there.
    async fn read(
        &self,
        mut from: FetchFrom,
        end: i64,
        show: &mut (dyn FnMut(&Record) + Send),
    ) -> Result<bool, LogError> {
        let limits = FetchLimits {
            wait_max: Duration::ZERO,
            partition_bytes_max: FETCH_BYTES,
            bytes_max: FETCH_BYTES,
        };
        while from.offset < end {
            let fetched = self.log.fetch(std::slice::from_ref(&from), limits).await?;
            let Some(partition) = fetched.into_iter().next() else { return Ok(false) };
            match partition.outcome {
                Ok(found) => {
                    found.records.iter().filter(|record| record.offset < end).for_each(&mut *show);
                    if found.next_offset <= from.offset {
                        return Ok(false);
                    }
                    from.offset = found.next_offset;
                }
                // Retention went by while this read.
                Err(FetchError::OffsetOutOfRange(offsets)) if offsets.log_start > from.offset => {
                    from.offset = offsets.log_start;
                }
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn describe(&self, name: &str) -> Result<TopicDescription, LogError> {
        let topics = self.log.topics().await?;
        topics
            .into_iter()
            .find(|topic| *topic.name == *name)
            .ok_or_else(|| LogError::TopicMissing(name.into()))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::{ManualClock, RandomIds};
    use crate::eventlog::{GroupEvent, GroupSpec, MemoryLog, NewRecord, Retention, TopicSpec};

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn reader() -> (Arc<MemoryLog>, BacklogReader) {
        let clock = Arc::new(ManualClock::at(NOW));
        let log = Arc::new(MemoryLog::new(clock.clone(), Arc::new(RandomIds)));
        (log.clone(), BacklogReader::new(log, "events", "event-consumers", clock))
    }

    async fn create(log: &MemoryLog) {
        let topic = TopicSpec {
            name: "events".into(),
            partitions: 1,
            retention: Retention::default(),
            record_bytes_max: 1000,
            required_groups: Vec::new(),
        };
        log.create_topics(&[topic]).await.unwrap();
    }

    async fn produce(log: &MemoryLog, millis: i64) {
        let record = NewRecord {
            key: None,
            value: Bytes::from_static(b"{}"),
            headers: Default::default(),
            timestamp: Timestamp::from_millis(millis),
        };
        assert!(log.produce("events", vec![record]).await.iter().all(Result::is_ok));
    }

    async fn commit(log: &MemoryLog, offset: i64) {
        let spec = GroupSpec {
            group: "event-consumers".into(),
            topics: vec!["events".into()],
            client_id: "test".into(),
            instance_id: None,
        };
        let mut member = log.join(spec).await.unwrap();
        loop {
            if let GroupEvent::Assigned { generation, .. } = member.next().await.unwrap() {
                let offsets = BTreeMap::from([(TopicPartition::new("events", 0), offset)]);
                member.committer().commit(generation, &offsets).await.unwrap();
                return;
            }
        }
    }

    #[tokio::test]
    async fn an_answer_is_complete_to_the_first_record_that_is_not_committed() {
        let (log, reader) = reader();
        assert_eq!(reader.complete_to().await, None, "without the topic nothing can be said");
        create(&log).await;
        assert_eq!(reader.find_complete_to().await, Ok(Some(NOW)));
        produce(&log, 500).await;
        produce(&log, 700).await;
        assert_eq!(reader.find_complete_to().await, Ok(Some(Timestamp::from_millis(500))));
        commit(&log, 1).await;
        assert_eq!(reader.find_complete_to().await, Ok(Some(Timestamp::from_millis(700))));
        let partitions = reader.partitions().await.unwrap();
        let seen = (partitions[0].committed_offset, partitions[0].end_offset, partitions[0].lag);
        assert_eq!(seen, (Some(1), 2, 1));
        commit(&log, 2).await;
        assert_eq!(reader.find_complete_to().await, Ok(Some(NOW)));
    }

    #[tokio::test]
    async fn a_look_through_the_log_is_bounded_and_says_so() {
        let (log, reader) = reader();
        create(&log).await;
        for millis in 0..10 {
            produce(&log, millis).await;
        }
        commit(&log, 2).await;
        for (part, records_max, whole, offsets) in [
            (Part::Uncommitted, 100, true, 2..10),
            (Part::Uncommitted, 3, false, 2..5),
            (Part::Newest, 3, false, 7..10),
        ] {
            let mut seen = Vec::new();
            let show = |_: i32, record: &Record| seen.push(record.offset);
            assert_eq!(reader.look_through("events", part, records_max, show).await, Ok(whole));
            assert_eq!(seen, offsets.collect::<Vec<i64>>());
        }
    }
}

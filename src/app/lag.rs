//! How far each group is behind: end offset less committed offset, by partition. And what that was, and what this process
//! had counted, over the last hours.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::pools::Pools;
use crate::config::Config;
use crate::event::Timestamp;
use crate::eventlog::{EventLog, LogError, TopicPartition};
use crate::telemetry::{Metric, Recorder, names};

/// One partition as one group sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct PartitionLag {
    pub group: String,
    pub topic: String,
    pub partition: i32,
    /// Absent: the group has committed nothing yet.
    pub committed: Option<i64>,
    pub log_start: i64,
    pub end: i64,
    pub lag: i64,
}

/// Every partition of every group this product runs.
///
/// # Errors
/// The log does not answer.
pub(super) async fn all(log: &dyn EventLog, config: &Config) -> Result<Vec<PartitionLag>, LogError> {
    let topics = log.topics().await?;
    let mut rows = Vec::new();
    for (name, group) in super::topics::groups(config) {
        let Some(topic) = topics.iter().find(|topic| topic.name == name) else { continue };
        let committed = log.committed(&group).await?;
        for (partition, offsets) in (0i32..).zip(&topic.partitions) {
            let committed = committed.get(&TopicPartition::new(topic.name.clone(), partition)).copied();
            // What retention has deleted can no longer be waited for.
            let from = committed.unwrap_or(offsets.log_start).max(offsets.log_start);
            rows.push(PartitionLag {
                group: group.to_string(),
                topic: topic.name.to_string(),
                partition,
                committed,
                log_start: offsets.log_start,
                end: offsets.end,
                lag: (offsets.end - from).max(0),
            });
        }
    }
    Ok(rows)
}

/// How far behind the groups were at one look; those that were not are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Look {
    pub at: Timestamp,
    pub lag: i64,
    pub groups: BTreeMap<String, i64>,
    /// What this process had counted since its start, by the names of the metrics.
    pub counted: BTreeMap<&'static str, u64>,
}

/// What is counted of a look.
const COUNTED: [&Metric; 5] = [
    &names::CAPTURE_EVENTS_ACCEPTED,
    &names::CONSUMER_RECORDS_STORED,
    &names::CONSUMER_DUPLICATES,
    &names::CONSUMER_DLQ_MESSAGES,
    &names::CONSUMER_BATCHES_WRITTEN,
];

/// The sums of these over all their labels.
fn counted(recorder: &Recorder) -> BTreeMap<&'static str, u64> {
    let mut counted: BTreeMap<&'static str, u64> = COUNTED.iter().map(|metric| (metric.name, 0)).collect();
    for (name, _, value) in recorder.series(&COUNTED) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counters are whole and grow"
        )]
        let value = value as u64;
        *counted.entry(name).or_default() += value;
    }
    counted
}

impl Look {
    fn of(at: Timestamp, rows: &[PartitionLag], counted: BTreeMap<&'static str, u64>) -> Self {
        let mut groups = BTreeMap::new();
        for row in rows.iter().filter(|row| row.lag > 0) {
            *groups.entry(row.group.clone()).or_default() += row.lag;
        }
        Self { at, lag: groups.values().sum(), groups, counted }
    }
}

/// The newest looks of this process, oldest first. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct History(Arc<Mutex<VecDeque<Look>>>);

impl History {
    fn keep(&self, look: Look, max: usize) {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        looks.push_back(look);
        while looks.len() > max {
            looks.pop_front();
        }
    }

    pub(super) fn looks(&self) -> Vec<Look> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Looks for ever, every `server.lag_history_interval`.
    ///
    /// # Errors
    /// None; a log that does not answer leaves a gap.
    pub(super) async fn follow(
        self,
        config: Arc<Config>,
        pools: Pools,
        recorder: Recorder,
    ) -> anyhow::Result<()> {
        loop {
            match all(&*pools.log, &config).await {
                Ok(rows) => {
                    let look = Look::of(pools.clock.now(), &rows, counted(&recorder));
                    self.keep(look, config.server.lag_history_looks_max);
                }
                Err(error) => tracing::debug!(%error, "the lag cannot be looked at"),
            }
            tokio::time::sleep(config.server.lag_history_interval).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(group: &str, partition: i32, lag: i64) -> PartitionLag {
        let (group, topic) = (group.to_owned(), "events".to_owned());
        PartitionLag { group, topic, partition, committed: Some(0), log_start: 0, end: lag, lag }
    }

    fn look(rows: &[PartitionLag]) -> Look {
        Look::of(Timestamp::EPOCH, rows, BTreeMap::new())
    }

    #[test]
    fn a_look_sums_each_group_that_is_behind() {
        let look = look(&[row("a", 0, 2), row("a", 1, 3), row("b", 0, 0), row("c", 0, 4)]);
        assert_eq!((look.lag, look.groups), (9, BTreeMap::from([("a".to_owned(), 5), ("c".to_owned(), 4)])));
    }

    #[test]
    fn the_oldest_looks_go_first() {
        let history = History::default();
        for lag in 1..=5 {
            history.keep(look(&[row("a", 0, lag)]), 3);
        }
        assert_eq!(history.looks().iter().map(|look| look.lag).collect::<Vec<_>>(), [3, 4, 5]);
    }
}

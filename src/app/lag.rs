//! How far each group is behind: end offset less committed offset, by partition.

use serde::Serialize;

use crate::config::Config;
use crate::eventlog::{EventLog, LogError, TopicPartition};

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

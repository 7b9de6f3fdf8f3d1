//! Where partitions begin and end, and offsets by time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::future::join_all;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{ListOffsetsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::cluster::{Cluster, Topic};
use super::error::{code, name};
use crate::eventlog::{LogError, PartitionOffsets};

/// What is asked of a partition.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
/// Offsets by topic and partition; a partition that could not be told is absent.
type Found = HashMap<(Arc<str>, i32), i64>;

/// What was found, and why something else was not.
struct Listed {
    found: Found,
    failures: HashMap<Arc<str>, LogError>,
}

/// One question about every partition of some topics, all of a broker in one request.
async fn list(cluster: &Cluster, topics: &[Arc<Topic>], at: i64) -> Listed {
    let mut by_leader: BTreeMap<i32, BTreeMap<Arc<str>, Vec<i32>>> = BTreeMap::new();
    for topic in topics {
        for (partition, leader) in (0..).zip(&topic.leaders) {
            by_leader
                .entry(leader.broker)
                .or_default()
                .entry(topic.name.clone())
                .or_default()
                .push(partition);
        }
    }
    let ask = async |broker: i32, topics: &BTreeMap<Arc<str>, Vec<i32>>| {
        let partition = |number: &i32| {
            ListOffsetsPartition::default()
                .with_partition_index(*number)
                .with_current_leader_epoch(-1)
                .with_timestamp(at)
        };
        let topics = topics.iter().map(|(name, partitions)| {
            ListOffsetsTopic::default()
                .with_name(TopicName(StrBytes::from_string(name.to_string())))
                .with_partitions(partitions.iter().map(partition).collect())
        });
        let request =
            ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(topics.collect());
        cluster.ask(broker, &request).await
    };
    let answers =
        join_all(by_leader.iter().map(async |(broker, topics)| (topics, ask(*broker, topics).await))).await;
    let mut listed = Listed { found: HashMap::new(), failures: HashMap::new() };
    for (asked, answer) in answers {
        match answer {
            Err(error) => {
                let error = error.of_read();
                listed.failures.extend(asked.keys().map(|name| (name.clone(), error.clone())));
            }
            Ok(answer) => {
                for topic in answer.topics {
                    let topic_name: Arc<str> = (&**topic.name).into();
                    for partition in topic.partitions {
                        if partition.error_code == 0 {
                            listed
                                .found
                                .insert((topic_name.clone(), partition.partition_index), partition.offset);
                        } else {
                            let told = format!(
                                "{topic_name}-{}: {}",
                                partition.partition_index,
                                name(partition.error_code)
                            );
                            let error = match partition.error_code {
                                code::UNKNOWN_TOPIC_OR_PARTITION => {
                                    LogError::TopicMissing(topic_name.clone())
                                }
                                code::TOPIC_AUTHORIZATION_FAILED => cluster.forbidden(&topic_name),
                                _ => LogError::Unavailable(told),
                            };
                            listed.failures.insert(topic_name.clone(), error);
                        }
                    }
                }
            }
        }
    }
    listed
}

/// Both ends of every partition of these topics; a topic that cannot be told wholly has the reason instead.
pub(super) async fn ends(
    cluster: &Cluster,
    topics: &[Arc<Topic>],
) -> Vec<Result<Vec<PartitionOffsets>, LogError>> {
    let (starts, ends) = tokio::join!(list(cluster, topics, EARLIEST), list(cluster, topics, LATEST));
    let of = |topic: &Arc<Topic>| {
        (0..topic.partitions())
            .map(|partition| {
                let key = (topic.name.clone(), partition);
                match (starts.found.get(&key), ends.found.get(&key)) {
                    (Some(start), Some(end)) => {
                        Ok(PartitionOffsets { log_start: *start, end: *end.max(start) })
                    }
                    _ => Err(starts
                        .failures
                        .get(&topic.name)
                        .or_else(|| ends.failures.get(&topic.name))
                        .map_or_else(
                            || LogError::Unavailable(format!("{}-{partition} has no leader", topic.name)),
                            Clone::clone,
                        )),
                }
            })
            .collect()
    };
    topics.iter().map(of).collect()
}

/// Both ends of one partition.
pub(super) async fn ends_of(
    cluster: &Cluster,
    topic: &Arc<Topic>,
    partition: i32,
) -> Result<PartitionOffsets, LogError> {
    let all = ends(cluster, std::slice::from_ref(topic)).await.pop();
    let all = all.ok_or_else(|| LogError::TopicMissing(topic.name.clone()))??;
    let found = usize::try_from(partition).ok().and_then(|at| all.get(at).copied());
    found.ok_or_else(|| LogError::TopicMissing(topic.name.clone()))
}

/// The first offset dated `at` or later in each partition; the end where there is none.
pub(super) async fn at(cluster: &Cluster, topic: &Arc<Topic>, at: i64) -> Result<Vec<i64>, LogError> {
    let topics = std::slice::from_ref(topic);
    // Negative times are questions of their own.
    let (listed, ends) = tokio::join!(list(cluster, topics, at.max(0)), list(cluster, topics, LATEST));
    let of = |partition: i32| {
        let key = (topic.name.clone(), partition);
        match (listed.found.get(&key), ends.found.get(&key)) {
            (Some(-1), Some(end)) => Ok(*end),
            (Some(offset), _) => Ok(*offset),
            _ => {
                Err(listed.failures.get(&topic.name).or_else(|| ends.failures.get(&topic.name)).map_or_else(
                    || LogError::Unavailable(format!("{}-{partition} has no leader", topic.name)),
                    Clone::clone,
                ))
            }
        }
    };
    (0..topic.partitions()).map(of).collect()
}

//! The largest record that each topic takes, as its configuration says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kafka_protocol::messages::DescribeConfigsRequest;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::protocol::StrBytes;
use tokio::time::Instant;

use super::cluster::{Cluster, Topic};
use crate::eventlog::TopicId;

/// What a batch of one record takes besides the record: its headers' lengths, its own, and the batch's header. Kafka's
/// limit is on batches, ours on records.
pub(super) const BATCH_OVERHEAD_BYTES: usize = 1024;
pub(super) const MESSAGE_BYTES_KEY: &str = "max.message.bytes";
/// The kind of resource that a topic is.
pub(super) const TOPIC_RESOURCE: i8 = 2;
/// Topics remembered; more are asked for each time.
const TOPICS_MAX: usize = 1000;

/// Remembers the limits for a while.
pub(super) struct RecordLimits {
    cluster: Arc<Cluster>,
    max_age: Duration,
    known: Mutex<HashMap<TopicId, (Instant, usize)>>,
}

impl RecordLimits {
    pub(super) fn new(cluster: Arc<Cluster>, max_age: Duration) -> Self {
        Self { cluster, max_age, known: Mutex::default() }
    }

    /// Key, value and headers of a record that this topic takes, in bytes. Unbounded where nobody may tell: the broker
    /// refuses what is too large, too.
    pub(super) async fn of(&self, topic: &Topic) -> usize {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&topic.id).copied();
        if let Some((at, bytes_max)) = known
            && at.elapsed() < self.max_age
        {
            return bytes_max;
        }
        let Some(asked) = self.ask(&topic.name).await else {
            return known.map_or(usize::MAX, |(_, bytes_max)| bytes_max);
        };
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= TOPICS_MAX {
            all.clear();
        }
        all.insert(topic.id, (Instant::now(), asked));
        asked
    }

    /// `None`: no broker answers.
    async fn ask(&self, topic: &str) -> Option<usize> {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(TOPIC_RESOURCE)
            .with_resource_name(StrBytes::from_string(topic.to_owned()))
            .with_configuration_keys(Some(vec![StrBytes::from_static_str(MESSAGE_BYTES_KEY)]));
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let answer = self.cluster.ask_any(&request).await.ok()?;
        let configs =
            answer.results.iter().filter(|result| result.error_code == 0).flat_map(|result| &result.configs);
        let said = configs
            .filter(|config| &*config.name == MESSAGE_BYTES_KEY)
            .find_map(|config| config.value.as_ref()?.parse::<usize>().ok());
        Some(said.map_or(usize::MAX, |bytes| bytes.saturating_sub(BATCH_OVERHEAD_BYTES)))
    }
}

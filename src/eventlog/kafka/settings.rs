//! How topics are kept, as the brokers tell it.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::DescribeConfigsRequest;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResult;
use kafka_protocol::protocol::StrBytes;

use super::cluster::Cluster;
use super::error::CallError;
use super::limits::{BATCH_OVERHEAD_BYTES, MESSAGE_BYTES_KEY, TOPIC_RESOURCE};
use crate::eventlog::{LogError, Retention, TopicSettings};

const CLEANUP_KEY: &str = "cleanup.policy";
const AGE_KEY: &str = "retention.ms";
const BYTES_KEY: &str = "retention.bytes";

/// The settings of these topics; one that is missing, or that the login may not ask about, is left out.
pub(super) async fn of(cluster: &Cluster, names: &[Arc<str>]) -> Result<Vec<TopicSettings>, LogError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let topics = cluster.all_topics().await.map_err(CallError::of_read)?;
    let keys = [CLEANUP_KEY, AGE_KEY, BYTES_KEY, MESSAGE_BYTES_KEY];
    let resource = |name: &Arc<str>| {
        DescribeConfigsResource::default()
            .with_resource_type(TOPIC_RESOURCE)
            .with_resource_name(StrBytes::from_string(name.to_string()))
            .with_configuration_keys(Some(keys.map(StrBytes::from_static_str).to_vec()))
    };
    let there = names.iter().filter(|name| topics.iter().any(|topic| topic.name == **name));
    let request = DescribeConfigsRequest::default().with_resources(there.map(resource).collect());
    if request.resources.is_empty() {
        return Ok(Vec::new());
    }
    let answer = cluster.ask_any(&request).await.map_err(CallError::of_read)?;
    let told = answer.results.iter().filter(|result| result.error_code == 0);
    let settings = told.filter_map(|result| {
        let topic = topics.iter().find(|topic| *topic.name == *result.resource_name)?;
        Some(read(topic.name.clone(), topic.replicas, result))
    });
    Ok(settings.collect())
}

fn read(name: Arc<str>, replicas: usize, result: &DescribeConfigsResult) -> TopicSettings {
    let text = |key: &str| result.configs.iter().find(|config| &*config.name == key)?.value.as_deref();
    // Kafka's -1 is no bound.
    let bound = |key: &str| text(key).and_then(|value| value.parse::<u64>().ok());
    let message_bytes_max = text(MESSAGE_BYTES_KEY).and_then(|value| value.parse::<usize>().ok());
    TopicSettings {
        name,
        replication_factor: Some(replicas),
        retention: Retention {
            age_max: bound(AGE_KEY).map(Duration::from_millis),
            bytes_max: bound(BYTES_KEY),
        },
        record_bytes_max: message_bytes_max
            .map_or(usize::MAX, |bytes| bytes.saturating_sub(BATCH_OVERHEAD_BYTES)),
        compacted: text(CLEANUP_KEY).is_some_and(|policy| policy.contains("compact")),
    }
}

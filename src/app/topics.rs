//! The topics this process needs: found missing before `/ready` says yes, created at start, watched ever after.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::consumer::{self, dead_letter_bytes_max};
use crate::dlq;
use crate::eventlog::{EventLog, LogError, Retention, TopicDescription, TopicSpec};
use crate::lifecycle::Component;
use crate::telemetry::names;

/// How often the topics are looked at while the process runs.
const WATCH_EVERY: Duration = Duration::from_secs(10);
/// The same until they are all there for the first time.
const START_EVERY: Duration = Duration::from_millis(250);

/// Every topic the product uses, as it is created.
pub fn specs(config: &Config) -> Vec<TopicSpec> {
    let retention = Retention {
        age_max: config.eventlog.retention_age,
        bytes_max: config.eventlog.retention_bytes.map(|bytes| bytes.as_u64()),
    };
    let record_bytes_max = usize::try_from(config.eventlog.record_bytes_max.as_u64()).unwrap_or(usize::MAX);
    let topic = |name: &str, record_bytes_max: usize, group: &str| TopicSpec {
        name: name.into(),
        partitions: config.eventlog.partitions,
        retention,
        record_bytes_max,
        required_groups: vec![group.into()],
    };
    let index_group = dlq::index_group(&config.consumer.dlq_topic);
    let mut events = topic(&config.topics.events, record_bytes_max, &config.consumer.group_id);
    if config.metering.tracking {
        events.required_groups.push(config.metering.group_id.as_str().into());
    }
    let raw_events = topic(&config.topics.raw_events, record_bytes_max, &config.consumer.raw_group_id);
    let mut reprocessed = topic(&config.reprocess.output_topic, record_bytes_max, &config.reprocess.group_id);
    if config.metering.tracking {
        reprocessed.required_groups.push(consumer::reprocessed_usage_group(config).into());
    }
    let mut system_events = topic(&config.topics.system_events, record_bytes_max, &config.webhook.group_id);
    if !config.webhook.enabled {
        system_events.required_groups.clear();
    }
    let mut specs = vec![
        events,
        raw_events,
        reprocessed,
        system_events,
        topic(&config.consumer.dlq_topic, dead_letter_bytes_max(record_bytes_max), &index_group),
    ];
    if config.post_processing.enabled {
        let post_processing = &config.post_processing;
        specs.push(topic(&config.topics.post_processing, record_bytes_max, &post_processing.group_id));
        let (backfill, group) = (&config.topics.post_processing_backfill, &post_processing.backfill_group_id);
        specs.push(topic(backfill, record_bytes_max, group));
    }
    specs
}

/// Every consumer group this product runs, each with its topic. A group that is not among its topic's required ones
/// holds nothing back: what it has not read in time is gone for it.
pub(super) fn groups(config: &Config) -> Vec<(Arc<str>, Arc<str>)> {
    let mut groups: Vec<(Arc<str>, Arc<str>)> = Vec::new();
    for spec in specs(config) {
        groups.extend(spec.required_groups.iter().map(|group| (spec.name.clone(), group.clone())));
    }
    if config.post_processing.enabled {
        let group = config.post_processing.publish_group_id.as_str().into();
        groups.push((config.topics.events.as_str().into(), group));
    }
    groups
}

/// Without these nothing is taken or stored; without the others a part of the product waits, and catches up.
fn is_vital(config: &Config, topic: &str) -> bool {
    topic == config.topics.events || topic == config.consumer.dlq_topic
}

/// How the topics that should be compare with those that are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    pub missing: Vec<Arc<str>>,
    /// Things to know that stop nothing, such as another number of partitions than configured.
    pub remarks: Vec<String>,
}

/// Compares; changes nothing.
pub(super) fn compare(wanted: &[TopicSpec], there: &[TopicDescription]) -> Comparison {
    let there: BTreeMap<&str, &TopicDescription> = there.iter().map(|topic| (&*topic.name, topic)).collect();
    let mut comparison = Comparison::default();
    for spec in wanted {
        match there.get(&*spec.name) {
            None => comparison.missing.push(spec.name.clone()),
            Some(topic) if topic.partitions.len() != usize::try_from(spec.partitions).unwrap_or(0) => {
                comparison.remarks.push(format!(
                    "topic {} has {} partitions, eventlog.partitions says {}: it keeps its own; \
                     `flexflow topics grow` adds some",
                    spec.name,
                    topic.partitions.len(),
                    spec.partitions
                ));
            }
            Some(_) => {}
        }
    }
    comparison
}

/// Creates what is missing until all topics are there once (if `create` allows it), then watches: a topic that vanishes
/// later is named, not made again, because whoever deleted it may be about to make it differently.
pub(super) async fn watch(
    log: Arc<dyn EventLog>,
    config: Arc<Config>,
    component: Component,
) -> anyhow::Result<()> {
    let (specs, create) = (specs(&config), config.server.migrate_on_start);
    let mut complete_once = false;
    let mut told: Vec<String> = Vec::new();
    loop {
        match look(&*log, &specs, create && !complete_once).await {
            Ok(comparison) => {
                for remark in comparison.remarks.iter().filter(|remark| !told.contains(remark)) {
                    tracing::warn!("{remark}");
                }
                told = comparison.remarks;
                #[expect(clippy::cast_precision_loss, reason = "a handful of topics")]
                names::EVENTLOG_TOPICS_MISSING.gauge(&[]).set(comparison.missing.len() as f64);
                if comparison.missing.is_empty() {
                    complete_once = true;
                    component.up();
                } else {
                    let names = comparison.missing.join(", ");
                    let reason = format!("missing: {names}; `flexflow topics create` makes them");
                    if comparison.missing.iter().any(|name| is_vital(&config, name)) {
                        component.down(&reason);
                    } else {
                        component.degraded(&format!("{reason}; events are taken and stored meanwhile"));
                    }
                }
            }
            Err(error) => component.down(&error.to_string()),
        }
        tokio::time::sleep(if complete_once { WATCH_EVERY } else { START_EVERY }).await;
    }
}

async fn look(log: &dyn EventLog, specs: &[TopicSpec], create: bool) -> Result<Comparison, LogError> {
    let comparison = compare(specs, &log.topics().await?);
    if !create || comparison.missing.is_empty() {
        return Ok(comparison);
    }
    let missing: Vec<TopicSpec> =
        specs.iter().filter(|spec| comparison.missing.contains(&spec.name)).cloned().collect();
    let made = log.create_topics(&missing).await?;
    tracing::info!(topics = made.join(", "), "created missing topics");
    Ok(compare(specs, &log.topics().await?))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::eventlog::{PartitionOffsets, TopicId};

    #[test]
    fn a_missing_topic_is_named_and_another_size_is_only_remarked() {
        let spec = |name: &str| TopicSpec {
            name: name.into(),
            partitions: 4,
            retention: Retention::default(),
            record_bytes_max: 1,
            required_groups: vec![],
        };
        let there = TopicDescription {
            name: "events".into(),
            id: TopicId(Uuid::nil()),
            partitions: vec![PartitionOffsets { log_start: 0, end: 0 }; 2],
        };
        let comparison = compare(&[spec("events"), spec("events-dlq")], &[there]);
        assert_eq!(comparison.missing, vec![Arc::from("events-dlq")]);
        assert_eq!(comparison.remarks.len(), 1);
    }
}

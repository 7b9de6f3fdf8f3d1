//! The topics this process needs: found missing before `/ready` says yes, created at start, watched ever after.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::consumer::dead_letter_bytes_max;
use crate::dlq;
use crate::eventlog::{EventLog, LogError, Retention, TopicDescription, TopicSettings, TopicSpec};
use crate::lifecycle::Component;
use crate::metering::reprocessed_usage_group;
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
        reprocessed.required_groups.push(reprocessed_usage_group(config).into());
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
    if config.metering.tracking {
        let (backfill, group) =
            (&config.topics.feature_tracking_backfill, &config.metering.backfill_group_id);
        specs.push(topic(backfill, record_bytes_max, group));
    }
    if config.post_processing.enabled {
        let post_processing = &config.post_processing;
        specs.push(topic(&config.topics.post_processing, record_bytes_max, &post_processing.group_id));
        let (backfill, group) = (&config.topics.post_processing_backfill, &post_processing.backfill_group_id);
        specs.push(topic(backfill, record_bytes_max, group));
    }
    for source in &config.consumer.sources {
        specs.push(topic(&source.topic, record_bytes_max, &config.consumer.sources_group_id));
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

/// Topics of other programs (`consumer.sources`): how they are kept is not this product's business.
fn is_foreign(config: &Config, topic: &str) -> bool {
    config.consumer.sources.iter().any(|source| source.topic == topic)
}

/// How the topics that should be compare with those that are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    pub missing: Vec<Arc<str>>,
    /// Things to know that stop nothing, such as another number of partitions than configured.
    pub remarks: Vec<String>,
}

/// Looks at the topics and compares them with the configuration; changes nothing.
///
/// # Errors
/// The log does not answer.
pub(super) async fn looked_at(
    log: &dyn EventLog,
    config: &Config,
) -> Result<(Vec<TopicDescription>, Comparison), LogError> {
    let there = log.topics().await?;
    let specs = specs(config);
    let names: Vec<Arc<str>> = specs.iter().map(|spec| spec.name.clone()).collect();
    let settings = match log.topic_settings(&names).await {
        Ok(settings) => settings,
        Err(error) => {
            tracing::debug!(%error, "how topics are kept cannot be asked");
            Vec::new()
        }
    };
    let comparison = compare(config, &specs, &there, &settings);
    Ok((there, comparison))
}

fn compare(
    config: &Config,
    wanted: &[TopicSpec],
    there: &[TopicDescription],
    settings: &[TopicSettings],
) -> Comparison {
    let there: BTreeMap<&str, &TopicDescription> = there.iter().map(|topic| (&*topic.name, topic)).collect();
    let mut comparison = Comparison::default();
    for spec in wanted {
        let Some(topic) = there.get(&*spec.name) else {
            comparison.missing.push(spec.name.clone());
            continue;
        };
        if is_foreign(config, &spec.name) {
            continue;
        }
        if topic.partitions.len() != usize::try_from(spec.partitions).unwrap_or(0) {
            comparison.remarks.push(format!(
                "topic {} has {} partitions, eventlog.partitions says {}: it keeps its own; \
                 `flexflow topics grow` adds some",
                spec.name,
                topic.partitions.len(),
                spec.partitions
            ));
        }
        if let Some(kept) = settings.iter().find(|kept| kept.name == spec.name) {
            remark_on(config, spec, kept, &mut comparison.remarks);
        }
    }
    comparison
}

/// What of a topic's settings is not as configured. Nothing is altered: whoever made it may have had reasons.
fn remark_on(config: &Config, spec: &TopicSpec, kept: &TopicSettings, remarks: &mut Vec<String>) {
    let name = &spec.name;
    let alter = |setting: String| {
        format!(
            "`kafka-configs --bootstrap-server {} --alter --entity-type topics --entity-name {name} --add-config {setting}`",
            config.eventlog.kafka.bootstrap_servers.join(",")
        )
    };
    let factor = usize::try_from(config.eventlog.kafka.replication_factor).unwrap_or(0);
    if let Some(copies) = kept.replication_factor.filter(|copies| factor > 0 && *copies != factor) {
        remarks.push(format!(
            "topic {name} has replication factor {copies}, eventlog.kafka.replication_factor says {factor}: it keeps its \
             own; `kafka-reassign-partitions` changes it"
        ));
    }
    let (wanted, found) = (spec.retention, kept.retention);
    if wanted.age_max != found.age_max {
        let told = |age: Option<Duration>| {
            age.map_or_else(
                || "for ever".to_owned(),
                |age| format!("for {}", humantime::format_duration(age)),
            )
        };
        let millis = wanted.age_max.map_or(-1, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        remarks.push(format!(
            "topic {name} keeps records {}, eventlog.retention_age says {}: it keeps its own; {} changes it",
            told(found.age_max),
            told(wanted.age_max),
            alter(format!("retention.ms={millis}"))
        ));
    }
    if wanted.bytes_max != found.bytes_max {
        let told = |bytes: Option<u64>| {
            bytes.map_or_else(|| "without bound".to_owned(), |bytes| format!("up to {bytes} bytes"))
        };
        let bytes = wanted.bytes_max.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        remarks.push(format!(
            "topic {name} keeps records {} a partition, eventlog.retention_bytes says {}: it keeps its own; {} changes it",
            told(found.bytes_max),
            told(wanted.bytes_max),
            alter(format!("retention.bytes={bytes}"))
        ));
    }
    if kept.record_bytes_max < spec.record_bytes_max {
        remarks.push(format!(
            "topic {name} takes records of up to {} bytes, {} are needed (eventlog.record_bytes_max): larger ones are \
             refused; {} changes it",
            kept.record_bytes_max,
            spec.record_bytes_max,
            alter(format!("max.message.bytes={}", spec.record_bytes_max + 1024))
        ));
    }
    if kept.compacted {
        remarks.push(format!(
            "topic {name} is compacted: of events with one key it forgets all but the last; {} changes it",
            alter("cleanup.policy=delete".to_owned())
        ));
    }
}

/// Creates what is missing until all topics are there once (if `create` allows it), then watches: a topic that vanishes
/// later is named, not made again, because whoever deleted it may be about to make it differently.
pub(super) async fn watch(
    log: Arc<dyn EventLog>,
    config: Arc<Config>,
    component: Component,
) -> anyhow::Result<()> {
    let create = config.server.migrate_on_start;
    let mut complete_once = false;
    let mut told: Vec<String> = Vec::new();
    loop {
        match look(&*log, &config, create && !complete_once).await {
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

async fn look(log: &dyn EventLog, config: &Config, create: bool) -> Result<Comparison, LogError> {
    if create {
        // All of them: a log of this process's own takes over what the configuration says of those that are there.
        let made = log.create_topics(&specs(config)).await?;
        if !made.is_empty() {
            tracing::info!(topics = made.join(", "), "created missing topics");
        }
    }
    Ok(looked_at(log, config).await?.1)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::eventlog::{PartitionOffsets, TopicId};

    type Change<'a> = &'a dyn Fn(&mut TopicSettings);

    fn config(more: &[(&str, &str)]) -> Config {
        let brokers = ("eventlog.kafka.bootstrap_servers", "k1:9092");
        let settings: Vec<_> = [brokers, ("eventlog.partitions", "4")].iter().chain(more).copied().collect();
        Config::from_overrides(&settings).expect("settings")
    }

    fn there(name: &str, partitions: usize) -> TopicDescription {
        TopicDescription {
            name: name.into(),
            id: TopicId(Uuid::nil()),
            partitions: vec![PartitionOffsets { log_start: 0, end: 0 }; partitions],
        }
    }

    fn kept_as(spec: &TopicSpec) -> TopicSettings {
        TopicSettings {
            name: spec.name.clone(),
            replication_factor: Some(3),
            retention: spec.retention,
            record_bytes_max: spec.record_bytes_max,
            compacted: false,
        }
    }

    #[test]
    fn a_missing_topic_is_named_and_another_size_is_only_remarked() {
        let config = config(&[]);
        let specs: Vec<TopicSpec> =
            specs(&config).into_iter().filter(|spec| spec.name.starts_with("events")).collect();
        let comparison = compare(&config, &specs[..1], &[there("events", 2)], &[]);
        assert_eq!((comparison.missing.len(), comparison.remarks.len()), (0, 1));
        assert!(compare(&config, &specs, &[], &[]).missing.contains(&Arc::from("events-dlq")));
    }

    #[test]
    fn whatever_is_kept_otherwise_than_configured_is_remarked_with_the_command_that_changes_it() {
        let config = config(&[("eventlog.kafka.replication_factor", "3")]);
        let specs = &specs(&config)[..1];
        let remarks = |change: Change<'_>| {
            let mut kept = kept_as(&specs[0]);
            change(&mut kept);
            compare(&config, specs, &[there("events", 4)], &[kept]).remarks
        };
        assert_eq!(remarks(&|_| {}), Vec::<String>::new(), "as configured");
        let day = Some(Duration::from_secs(86_400));
        let cases: [(Change<'_>, &str); 6] = [
            (&|kept| kept.replication_factor = Some(1), "kafka-reassign-partitions"),
            (&|kept| kept.retention.age_max = day, "--add-config retention.ms=604800000`"),
            (&|kept| kept.retention.age_max = None, "for ever, eventlog.retention_age says for 7days"),
            (&|kept| kept.retention.bytes_max = Some(1), "--add-config retention.bytes=-1`"),
            (&|kept| kept.record_bytes_max = 1000, "--add-config max.message.bytes="),
            (&|kept| kept.compacted = true, "--add-config cleanup.policy=delete`"),
        ];
        for (change, words) in cases {
            let remarks = remarks(change);
            assert!(matches!(&remarks[..], [one] if one.contains(words)), "{words}: {remarks:?}");
        }
        assert_eq!(remarks(&|kept| kept.record_bytes_max *= 2), Vec::<String>::new(), "more does no harm");
    }

    #[test]
    fn a_topic_of_others_is_made_if_it_is_missing_and_never_remarked_on() {
        let config = config(&[("consumer.sources", "[{ topic = \"clicks\", decoder = \"flexprice\" }]")]);
        let spec = specs(&config).into_iter().find(|spec| &*spec.name == "clicks").expect("a spec");
        assert_eq!(spec.required_groups, [Arc::from("source-consumers")]);
        let compacted = TopicSettings { compacted: true, ..kept_as(&spec) };
        let specs = [spec];
        assert_eq!(compare(&config, &specs, &[there("clicks", 1)], &[compacted]), Comparison::default());
        assert_eq!(compare(&config, &specs, &[], &[]).missing.len(), 1);
        let groups = groups(&config);
        assert!(groups.contains(&("clicks".into(), "source-consumers".into())), "{groups:?}");
    }
}

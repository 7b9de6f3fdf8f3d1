//! What the stages behind the store ask of the configuration.

use std::collections::BTreeMap;

use super::{Faults, TOPIC_NAMES, is_topic_name};
use crate::config::{Config, SourceDecoder};

impl Config {
    pub(super) fn check_stages(&self, faults: &mut Faults) {
        let stages = &self.post_processing;
        let mut groups: BTreeMap<&str, &str> = BTreeMap::new();
        groups.insert(self.consumer.group_id.trim(), "consumer.group_id");
        groups.insert(self.metering.group_id.trim(), "metering.group_id");
        groups.insert(self.consumer.raw_group_id.trim(), "consumer.raw_group_id");
        groups.insert(self.reprocess.group_id.trim(), "reprocess.group_id");
        for (key, group) in [
            ("metering.backfill_group_id", self.metering.backfill_group_id.trim()),
            ("post_processing.publish_group_id", stages.publish_group_id.trim()),
            ("post_processing.group_id", stages.group_id.trim()),
            ("post_processing.backfill_group_id", stages.backfill_group_id.trim()),
            ("webhook.group_id", self.webhook.group_id.trim()),
            ("consumer.sources_group_id", self.consumer.sources_group_id.trim()),
        ] {
            if let Some(other) = groups.insert(group, key) {
                faults.add(key, format!("is {other}'s"), "a consumer group's own name");
            } else if group.is_empty() {
                faults.add(key, "is empty", "a consumer group's name");
            }
        }
        let attribution = &self.attribution;
        faults.positive(&[
            ("attribution.versions_max", attribution.versions_max),
            ("attribution.sources_max", attribution.sources_max),
            ("attribution.touches_max", attribution.touches_max),
            ("attribution.gather_events_max", attribution.gather_events_max),
        ]);
        faults.lasting(&[
            ("attribution.look_back_max", attribution.look_back_max),
            ("attribution.follow_interval", attribution.follow_interval),
        ]);
        // The version stands in the highest bits of a row's version.
        if attribution.versions_max > 4000 {
            faults.add("attribution.versions_max", "is more than a row can tell apart", "at most 4000");
        }
        self.check_webhook(faults);
        self.check_own_topics(faults);
        self.check_sources(faults);
    }

    fn check_webhook(&self, faults: &mut Faults) {
        let webhook = &self.webhook;
        faults.positive(&[
            ("webhook.concurrency", webhook.concurrency),
            ("webhook.webhook_concurrency", webhook.webhook_concurrency),
            ("webhook.log_attempts_max", webhook.log_attempts_max),
            ("webhook.unsent_max", webhook.unsent_max),
        ]);
        faults.lasting(&[
            ("webhook.connect_timeout", webhook.connect_timeout),
            ("webhook.timeout", webhook.timeout),
            ("webhook.backoff_min", webhook.backoff_min),
            ("webhook.retry_for", webhook.retry_for),
            ("webhook.poll_interval", webhook.poll_interval),
            ("webhook.watch_interval", webhook.watch_interval),
        ]);
        if webhook.lease <= webhook.timeout {
            let valid =
                format!("longer than webhook.timeout, {}", humantime::format_duration(webhook.timeout));
            faults.add("webhook.lease", "could end while an attempt is under way", valid);
        }
        if webhook.backoff_max < webhook.backoff_min {
            let valid =
                format!("at least webhook.backoff_min, {}", humantime::format_duration(webhook.backoff_min));
            faults.add("webhook.backoff_max", "is shorter than webhook.backoff_min", valid);
        }
    }

    fn check_own_topics(&self, faults: &mut Faults) {
        let topics = &self.topics;
        let mut named: BTreeMap<&str, &str> = BTreeMap::new();
        for (key, topic) in [
            ("topics.events", topics.events.as_str()),
            ("consumer.dlq_topic", self.consumer.dlq_topic.as_str()),
            ("topics.system_events", topics.system_events.as_str()),
            ("topics.post_processing", topics.post_processing.as_str()),
            ("topics.post_processing_backfill", topics.post_processing_backfill.as_str()),
            ("topics.feature_tracking_backfill", topics.feature_tracking_backfill.as_str()),
        ] {
            // That the dead letters have a topic of their own is checked for itself.
            if let Some(other) = named.insert(topic, key)
                && key != "consumer.dlq_topic"
            {
                faults.add(key, format!("is {other}"), "a topic of its own");
            }
        }
    }

    /// Further topics: each once, none of the product's own, and each with a place for what says none.
    fn check_sources(&self, faults: &mut Faults) {
        const KEY: &str = "consumer.sources";
        let topics = &self.topics;
        let own = [
            &topics.events,
            &topics.raw_events,
            &topics.system_events,
            &topics.post_processing,
            &topics.post_processing_backfill,
            &topics.feature_tracking_backfill,
            &self.consumer.dlq_topic,
            &self.reprocess.output_topic,
        ];
        let sources = &self.consumer.sources;
        for (i, source) in sources.iter().enumerate() {
            let name = &source.topic;
            if !is_topic_name(name) {
                faults.add(KEY, format!("{name:?} is not a topic's name"), TOPIC_NAMES);
            }
            if own.contains(&name) {
                faults.add(KEY, format!("{name} is one of FlexFlow's own topics"), "another topic");
            }
            if sources[..i].iter().any(|other| other.topic == *name) {
                faults.add(KEY, format!("{name} is there twice"), "each topic once");
            }
            if source.project_id.is_empty() != source.environment_id.is_empty() {
                let problem = format!("{name} has one of project_id and environment_id");
                faults.add(KEY, problem, "both of them, or none");
            } else if source.decoder == SourceDecoder::Raw && source.scope().is_none() {
                let problem = format!("{name} does not say where its payloads belong");
                faults.add(KEY, problem, "a project_id and an environment_id");
            }
        }
    }
}

//! The log that an application under test stands on, and the macro that runs a test on each.

use super::kafka::{Kafka, Names};

/// Which backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Log {
    Embedded,
    /// The broker that all tests share.
    Kafka,
}

impl Log {
    /// That of tests which have nothing to do with the log: the embedded one; with `FLEXFLOW_TEST_EVENTLOG=kafka` that of all
    /// tests that ask for no log of their own.
    pub(crate) fn usual() -> Self {
        let wanted = std::env::var("FLEXFLOW_TEST_EVENTLOG");
        if wanted.is_ok_and(|log| log == "kafka") { Self::Kafka } else { Self::Embedded }
    }
}

/// The settings that put an application on a log, with topics and groups that no other test has.
#[derive(Clone, Debug)]
pub(crate) struct LogSettings {
    pairs: Vec<(String, String)>,
    events_topic: String,
    group_id: String,
    /// Of names of a test's own, on Kafka.
    names: Option<Names>,
}

impl LogSettings {
    pub(crate) async fn of(log: Log) -> Self {
        match log {
            Log::Embedded => Self {
                pairs: Vec::new(),
                events_topic: "events".to_owned(),
                group_id: "event-consumers".to_owned(),
                names: None,
            },
            Log::Kafka => Self::on(Kafka::shared().await),
        }
    }

    /// On this cluster.
    pub(crate) fn on(kafka: &Kafka) -> Self {
        let names = Names::of("app");
        let topic = |key: &str, name: &str| (key.to_owned(), names.name(name));
        let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let pairs = vec![
            text("eventlog.kafka.bootstrap_servers", kafka.bootstrap()),
            text("eventlog.partitions", "4"),
            text("eventlog.kafka.session_timeout", "6s"),
            text("eventlog.kafka.heartbeat_interval", "500ms"),
            topic("topics.events", "events"),
            topic("topics.raw_events", "raw"),
            topic("topics.system_events", "system"),
            topic("consumer.raw_group_id", "raw-consumers"),
            topic("reprocess.output_topic", "reprocessed"),
            topic("reprocess.group_id", "reprocess-consumers"),
            topic("consumer.group_id", "consumers"),
            topic("metering.group_id", "metering"),
            topic("consumer.dlq_topic", "dlq"),
            topic("topics.post_processing", "post-processing"),
            topic("topics.post_processing_backfill", "post-processing-backfill"),
            topic("topics.feature_tracking_backfill", "usage-backfill"),
            topic("metering.backfill_group_id", "usage-backfill-group"),
            topic("post_processing.publish_group_id", "publish"),
            topic("post_processing.group_id", "post-processing-group"),
            topic("post_processing.backfill_group_id", "backfill-group"),
            topic("webhook.group_id", "webhooks"),
            topic("consumer.sources_group_id", "sources"),
        ];
        let (events_topic, group_id) = (names.name("events"), names.name("consumers"));
        Self { pairs, events_topic, group_id, names: Some(names) }
    }

    pub(crate) fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The value of one of them.
    pub(crate) fn get(&self, key: &str) -> &str {
        let found = self.pairs.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str()).unwrap_or_else(|| panic!("{key} is set"))
    }

    /// What this setting of a topic's or group's name is, where its default is this.
    pub(crate) fn named(&self, setting: &str, default: &str) -> String {
        let found = self.pairs.iter().find(|(name, _)| name == setting);
        found.map_or_else(|| default.to_owned(), |(_, value)| value.clone())
    }

    /// What `topics.system_events` is.
    pub(crate) fn system_events_topic(&self) -> String {
        self.named("topics.system_events", "system_events")
    }

    /// What `topics.post_processing` and `topics.post_processing_backfill` are.
    pub(crate) fn post_processing_topics(&self) -> [String; 2] {
        [
            self.named("topics.post_processing", "events_post_processing"),
            self.named("topics.post_processing_backfill", "events_post_processing_backfill"),
        ]
    }

    /// A topic that no other test has.
    pub(crate) fn further_topic(&self, name: &str) -> String {
        self.names.as_ref().map_or_else(|| name.to_owned(), |names| names.name(name))
    }

    pub(crate) fn group_id(&self) -> &str {
        &self.group_id
    }

    pub(crate) fn events_topic(&self) -> &str {
        &self.events_topic
    }
}

/// Runs each of these tests, `async fn name(log: Log)`, once a backend: `…::embedded::name` and `…::kafka::name`.
macro_rules! on_every_log {
    ($($test:ident)+) => {
        $crate::support::log::on_every_log!(@ embedded Embedded $($test)+);
        $crate::support::log::on_every_log!(@ kafka Kafka $($test)+);
    };
    (@ $module:ident $log:ident $($test:ident)+) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test($crate::support::log::Log::$log).await;
            })+
        }
    };
}
pub(crate) use on_every_log;

//! Logs on a broker, records, and reading everything back: what the proofs share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flexflow::config::Config;
use flexflow::event::{Clock, RandomIds, SystemClock};
use flexflow::eventlog::{
    EventLog, FetchFrom, FetchLimits, KafkaLog, KafkaOptions, LogError, NewRecord, Position, Record,
    Retention, TopicDescription, TopicPartition, TopicSpec,
};

/// Far longer than any call may take.
pub(super) const LONG: Duration = Duration::from_secs(20);

/// The options of these settings.
pub(super) fn options(bootstrap: &str, settings: &[(&str, &str)]) -> KafkaOptions {
    let mut all = vec![("eventlog.kafka.bootstrap_servers", bootstrap)];
    all.extend_from_slice(settings);
    KafkaOptions::from_config(&Config::from_overrides(&all).expect("settings").eventlog)
}

/// A log on these brokers.
pub(super) fn open(bootstrap: &str, settings: &[(&str, &str)]) -> KafkaLog {
    KafkaLog::open(options(bootstrap, settings), Arc::new(RandomIds)).expect("a log")
}

pub(super) fn spec(name: &str, partitions: i32) -> TopicSpec {
    TopicSpec {
        name: name.into(),
        partitions,
        retention: Retention::default(),
        record_bytes_max: 1 << 20,
        required_groups: Vec::new(),
    }
}

pub(super) fn record(key: &str, value: &str) -> NewRecord {
    NewRecord {
        key: Some(Bytes::from(key.to_owned())),
        value: Bytes::from(value.to_owned()),
        headers: Default::default(),
        timestamp: SystemClock.now(),
    }
}

pub(super) async fn produce_one(
    log: &KafkaLog,
    topic: &str,
    key: &str,
    value: &str,
) -> Result<Position, LogError> {
    log.produce(topic, vec![record(key, value)]).await.pop().expect("one answer")
}

pub(super) async fn describe(log: &KafkaLog, topic: &str) -> TopicDescription {
    let all = log.topics().await.expect("topics");
    all.into_iter().find(|found| &*found.name == topic).unwrap_or_else(|| panic!("no topic {topic}"))
}

/// Every record of a topic, by partition, read in steps as a consumer would.
pub(super) async fn read_all(log: &KafkaLog, topic: &str) -> BTreeMap<i32, Vec<Record>> {
    let topic = describe(log, topic).await;
    let limits = FetchLimits { wait_max: LONG, partition_bytes_max: 256 << 10, bytes_max: 4 << 20 };
    let mut all = BTreeMap::new();
    for (partition, ends) in (0..).zip(&topic.partitions) {
        let mut records = Vec::new();
        let mut offset = ends.log_start;
        while offset < ends.end {
            let from = FetchFrom {
                topic_partition: TopicPartition::new(topic.name.clone(), partition),
                topic_id: topic.id,
                offset,
            };
            let found = log.fetch(&[from], limits).await.expect("a fetch").pop().expect("records");
            let found = found.outcome.expect("records");
            assert!(found.next_offset > offset, "stuck at {offset}");
            offset = found.next_offset;
            records.extend(found.records);
        }
        all.insert(partition, records);
    }
    all
}

/// How often each value stands in the topic.
pub(super) async fn counts(log: &KafkaLog, topic: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for record in read_all(log, topic).await.into_values().flatten() {
        let value = String::from_utf8(record.value.expect("a value").to_vec()).expect("UTF-8");
        *counts.entry(value).or_default() += 1;
    }
    counts
}

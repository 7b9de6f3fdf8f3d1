//! Topics: made with their configuration, grown, deleted, described.
//!
//! Making and growing are calls of our own, because rskafka can set no topic configuration and knows no growing; deletion
//! is rskafka's, every call of it within a time-out and with an explicit backoff.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{CreatePartitionsRequest, CreateTopicsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use rskafka::BackoffConfig;
use rskafka::client::error::{Error as RskafkaError, ProtocolError};
use rskafka::client::{ClientBuilder, Credentials, SaslConfig};
use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::KafkaOptions;
use super::cluster::{Cluster, Topic};
use super::error::{CallError, code, name};
use super::limits::{BATCH_OVERHEAD_BYTES, MESSAGE_BYTES_KEY};
use super::offsets;
use super::rights::Rights;
use super::sasl::SaslMechanism;
use crate::eventlog::{LogError, TopicDescription, TopicSpec};

/// How often it is looked whether a change has come through.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// How often, and how far apart, partitions that have only just a new leader are asked again.
const DESCRIBE_TRIES: usize = 8;
const DESCRIBE_PAUSE: Duration = Duration::from_millis(75);
/// Kafka's word for "as the broker is configured".
const BROKERS_DEFAULT: i16 = -1;
/// Kafka's codes for what a change of topics can meet.
const INVALID_PARTITIONS: i16 = 37;
const INVALID_REPLICATION_FACTOR: i16 = 38;
const NOT_CONTROLLER: i16 = 41;
const POLICY_VIOLATION: i16 = 44;

/// Creates those that are missing, waits until they are there with leaders, and answers their names.
pub(super) async fn create(
    cluster: &Cluster,
    options: &KafkaOptions,
    specs: &[TopicSpec],
) -> Result<Vec<Arc<str>>, LogError> {
    let there = cluster.all_topics().await.map_err(CallError::of_read)?;
    let missing = |spec: &&TopicSpec| !there.iter().any(|topic| topic.name == spec.name);
    let specs: Vec<TopicSpec> = specs.iter().filter(missing).cloned().collect();
    // Who may not make topics is not refused for those that others made.
    if specs.is_empty() {
        return Ok(Vec::new());
    }
    let replication = options.replication_factor.unwrap_or(BROKERS_DEFAULT);
    let topics = specs.iter().map(|spec| creatable(spec, replication)).collect();
    let request =
        CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(millis(options.request_timeout));
    let mut made = Vec::new();
    // Who changes topics moves from broker to broker: its successor is asked once more.
    for last in [false, true] {
        cluster.renew(cluster.snapshot().generation).await.map_err(CallError::of_read)?;
        let answer = cluster.ask(cluster.controller(), &request).await.map_err(CallError::of_write)?;
        if !last && answer.topics.iter().any(|topic| topic.error_code == NOT_CONTROLLER) {
            continue;
        }
        for result in &answer.topics {
            let topic: Arc<str> = (&**result.name).into();
            match result.error_code {
                0 => made.push(topic),
                code::TOPIC_ALREADY_EXISTS => {}
                other => {
                    let said = result.error_message.as_deref().unwrap_or_default();
                    let spec = specs.iter().find(|spec| spec.name == topic);
                    let rights = cluster.dialer().rights();
                    return Err(not_made(&topic, spec, (options, rights), other, said));
                }
            }
        }
        break;
    }
    for spec in &specs {
        settled(cluster, options, &spec.name, |topic| topic.is_some_and(Topic::is_led)).await?;
    }
    Ok(made)
}

fn creatable(spec: &TopicSpec, replication: i16) -> CreatableTopic {
    let config = |(key, value): (&'static str, String)| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_static_str(key))
            .with_value(Some(StrBytes::from_string(value)))
    };
    CreatableTopic::default()
        .with_name(TopicName(StrBytes::from_string(spec.name.to_string())))
        .with_num_partitions(spec.partitions.max(1))
        .with_replication_factor(replication)
        .with_configs(configs(spec).into_iter().map(config).collect())
}

/// What a topic is configured with.
fn configs(spec: &TopicSpec) -> [(&'static str, String); 4] {
    let age = spec.retention.age_max.map_or(-1, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    let bytes = spec.retention.bytes_max.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    [
        ("cleanup.policy", "delete".to_owned()),
        ("retention.ms", age.to_string()),
        ("retention.bytes", bytes.to_string()),
        (MESSAGE_BYTES_KEY, spec.record_bytes_max.saturating_add(BATCH_OVERHEAD_BYTES).to_string()),
    ]
}

/// Kafka's own command that makes this topic.
fn command(spec: &TopicSpec, options: &KafkaOptions) -> String {
    let replication = options
        .replication_factor
        .map_or_else(String::new, |factor| format!(" --replication-factor {factor}"));
    let configs: String =
        configs(spec).iter().map(|(key, value)| format!(" --config {key}={value}")).collect();
    format!(
        "kafka-topics --bootstrap-server {} --create --topic {} --partitions {}{replication}{configs}",
        options.bootstrap_servers.join(","),
        spec.name,
        spec.partitions
    )
}

fn not_made(
    topic: &Arc<str>,
    spec: Option<&TopicSpec>,
    (options, rights): (&KafkaOptions, &Rights),
    error_code: i16,
    said: &str,
) -> LogError {
    let told = format!("topic {topic} cannot be made: {} {said}", name(error_code));
    let told = told.trim_end();
    match error_code {
        code::TOPIC_AUTHORIZATION_FAILED | code::CLUSTER_AUTHORIZATION_FAILED => {
            let command = spec.map(|spec| command(spec, options)).unwrap_or_default();
            // Who may not see a topic is not told whether it is there.
            let see = rights.on_topics(&["Describe", "Read", "Write"], [&**topic]);
            LogError::Forbidden(format!(
                "{told}: somebody who may has to run `{command}`; if it is there already, {} may not see it: {see}",
                rights.who()
            ))
        }
        POLICY_VIOLATION => {
            let command = spec.map(|spec| command(spec, options)).unwrap_or_default();
            LogError::Forbidden(format!("{told}: somebody who may has to run `{command}`"))
        }
        INVALID_REPLICATION_FACTOR => {
            LogError::Unavailable(format!("{told}; see eventlog.kafka.replication_factor"))
        }
        _ => LogError::Unavailable(told.to_owned()),
    }
}

/// Grows a topic; one that has as many partitions already stays as it is.
pub(super) async fn grow(
    cluster: &Cluster,
    options: &KafkaOptions,
    topic: &str,
    partitions: i32,
) -> Result<(), LogError> {
    cluster.forget(topic);
    if cluster.topic(topic).await?.partitions() >= partitions {
        return Ok(());
    }
    let wanted = CreatePartitionsTopic::default()
        .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_count(partitions)
        .with_assignments(None);
    let timeout_ms = millis(options.request_timeout);
    let request = CreatePartitionsRequest::default().with_topics(vec![wanted]).with_timeout_ms(timeout_ms);
    let answer = cluster.ask(cluster.controller(), &request).await.map_err(CallError::of_write)?;
    if let Some(result) = answer.results.first() {
        let told = format!(
            "topic {topic} cannot grow: {} {}",
            name(result.error_code),
            result.error_message.as_deref().unwrap_or_default()
        );
        match result.error_code {
            // Somebody else grew it meanwhile, as far or further.
            0 | INVALID_PARTITIONS => {}
            code::UNKNOWN_TOPIC_OR_PARTITION => return Err(LogError::TopicMissing(topic.into())),
            code::TOPIC_AUTHORIZATION_FAILED | code::CLUSTER_AUTHORIZATION_FAILED => {
                return Err(LogError::Forbidden(format!(
                    "{told}: somebody who may has to run `kafka-topics --bootstrap-server {} --alter --topic {topic} \
                     --partitions {partitions}`",
                    options.bootstrap_servers.join(",")
                )));
            }
            _ => return Err(LogError::Unavailable(told)),
        }
    }
    settled(cluster, options, topic, |found| {
        found.is_some_and(|found| found.partitions() >= partitions && found.is_led())
    })
    .await
}

/// Deletes a topic and waits until the brokers say that it is gone.
pub(super) async fn delete(cluster: &Cluster, options: &KafkaOptions, topic: &str) -> Result<(), LogError> {
    cluster.topic(topic).await?;
    let limit = options.request_timeout;
    let unavailable =
        |reason: String| LogError::OutcomeUnknown(format!("topic {topic} may not be deleted: {reason}"));
    let deleted = tokio::time::timeout(limit, delete_by_rskafka(cluster, options, topic, limit));
    match deleted.await {
        Err(_) => return Err(unavailable(format!("no answer within {limit:?}"))),
        Ok(Ok(())) => {}
        Ok(Err(RskafkaError::ServerError { protocol_error, .. })) => match protocol_error {
            ProtocolError::UnknownTopicOrPartition => return Err(LogError::TopicMissing(topic.into())),
            ProtocolError::TopicAuthorizationFailed | ProtocolError::ClusterAuthorizationFailed => {
                return Err(LogError::Forbidden(format!(
                    "topic {topic} cannot be deleted: somebody who may has to run \
                     `kafka-topics --bootstrap-server {} --delete --topic {topic}`",
                    options.bootstrap_servers.join(",")
                )));
            }
            other => return Err(unavailable(other.to_string())),
        },
        Ok(Err(error)) => return Err(unavailable(error.to_string())),
    }
    settled(cluster, options, topic, |found| found.is_none()).await
}

async fn delete_by_rskafka(
    cluster: &Cluster,
    options: &KafkaOptions,
    topic: &str,
    limit: Duration,
) -> Result<(), RskafkaError> {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(50),
        max_backoff: Duration::from_millis(500),
        base: 2.0,
        deadline: Some(limit),
    };
    let mut builder = ClientBuilder::new(options.bootstrap_servers.clone())
        .client_id(options.client_id.as_str())
        .backoff_config(backoff);
    if let Some(tls) = cluster.dialer().tls_config() {
        builder = builder.tls_config(tls);
    }
    if let Some(sasl) = &options.sasl {
        let credentials = Credentials::new(sasl.username.clone(), sasl.password.expose_secret().to_owned());
        builder = builder.sasl_config(match sasl.mechanism {
            SaslMechanism::Plain => SaslConfig::Plain(credentials),
            SaslMechanism::ScramSha256 => SaslConfig::ScramSha256(credentials),
            SaslMechanism::ScramSha512 => SaslConfig::ScramSha512(credentials),
        });
    }
    let client = builder.build().await?;
    client.controller_client()?.delete_topic(topic, millis(limit)).await
}

/// Waits until the brokers tell of the topic what they should.
async fn settled(
    cluster: &Cluster,
    options: &KafkaOptions,
    topic: &str,
    is_so: impl Fn(Option<&Topic>) -> bool,
) -> Result<(), LogError> {
    let deadline = Instant::now() + options.request_timeout;
    loop {
        cluster.forget(topic);
        let found = match cluster.topic(topic).await {
            Ok(found) => Some(found),
            Err(LogError::TopicMissing(_)) => None,
            Err(error) => return Err(error),
        };
        if is_so(found.as_deref()) {
            // A leader is told of before it has opened the partition.
            match &found {
                None => return Ok(()),
                Some(found)
                    if offsets::ends(cluster, std::slice::from_ref(found))
                        .await
                        .iter()
                        .all(Result::is_ok) =>
                {
                    return Ok(());
                }
                Some(_) => {}
            }
        }
        if Instant::now() >= deadline {
            let limit = options.request_timeout;
            return Err(LogError::Unavailable(format!(
                "the change of topic {topic} has not come through in {limit:?}"
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Every topic of the cluster, Kafka's own left out. One that cannot be told of wholly is left out too, unless this
/// process works with it: then it is the answer.
pub(super) async fn describe(cluster: &Cluster) -> Result<Vec<TopicDescription>, LogError> {
    let mut tries = 0;
    let (topics, ends) = loop {
        let topics: Vec<Arc<Topic>> =
            cluster.all_topics().await.map_err(CallError::of_read)?.into_iter().map(Arc::new).collect();
        let ends = offsets::ends(cluster, &topics).await;
        tries += 1;
        let all_there = !ends.iter().any(|ends| matches!(ends, Err(LogError::Unavailable(_))));
        if all_there || tries == DESCRIBE_TRIES {
            break (topics, ends);
        }
        tokio::time::sleep(DESCRIBE_PAUSE).await;
    };
    let mut described = Vec::with_capacity(topics.len());
    for (topic, ends) in topics.iter().zip(ends) {
        match ends {
            Ok(partitions) => {
                described.push(TopicDescription { name: topic.name.clone(), id: topic.id, partitions });
            }
            Err(LogError::TopicMissing(_)) => {}
            Err(error) if cluster.is_wanted(&topic.name) => return Err(error),
            Err(error) => tracing::debug!(topic = &*topic.name, %error, "left out of the list of topics"),
        }
    }
    described.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(described)
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventlog::Retention;

    #[test]
    fn a_topic_that_may_not_be_made_names_the_whole_command() {
        let options =
            KafkaOptions { replication_factor: Some(3), ..KafkaOptions::for_test("k1:9092,k2:9092") };
        let spec = TopicSpec {
            name: "events".into(),
            partitions: 12,
            retention: Retention { age_max: Some(Duration::from_secs(3600)), bytes_max: None },
            record_bytes_max: 2048,
            required_groups: vec![],
        };
        let whose = (&options, &Rights::for_test());
        let error = not_made(&"events".into(), Some(&spec), whose, 29, "Authorization failed.").to_string();
        assert!(
            error.contains(
                "`kafka-topics --bootstrap-server k1:9092,k2:9092 --create --topic events --partitions 12 \
                 --replication-factor 3 --config cleanup.policy=delete --config retention.ms=3600000 \
                 --config retention.bytes=-1 --config max.message.bytes=3072`"
            ),
            "{error}"
        );
    }
}

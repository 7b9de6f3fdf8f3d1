//! What brokers answer a producer, and what it means for a batch.

use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{InitProducerIdRequest, ProduceResponse};

use super::lane::Answer;
use crate::eventlog::kafka::batch::ProducerId;
use crate::eventlog::kafka::cluster::Cluster;
use crate::eventlog::kafka::error::{CallError, code, name};
use crate::eventlog::{LogError, TopicId};

/// One partition's answer.
pub(super) fn find<'r>(
    response: &'r ProduceResponse,
    key: (TopicId, i32),
    topic: &str,
) -> Option<&'r PartitionProduceResponse> {
    let mine = response.responses.iter().filter(|answer| {
        // Named by id since version 13, by name before.
        if answer.topic_id.is_nil() { &**answer.name == topic } else { answer.topic_id == key.0.0 }
    });
    mine.flat_map(|answer| &answer.partition_responses).find(|answer| answer.index == key.1)
}

/// What an error code says about the batch.
pub(super) fn meaning(error_code: i16) -> Answer {
    /// Kafka's `INVALID_REQUEST`, `UNSUPPORTED_FOR_MESSAGE_FORMAT`, `POLICY_VIOLATION`, `UNSUPPORTED_COMPRESSION_TYPE`.
    const NEVER: [i16; 4] = [42, 43, 44, 76];
    /// Kafka's `INVALID_TIMESTAMP` and `INVALID_RECORD`: of one record, though the whole batch is refused.
    const OF_ONE_RECORD: [i16; 2] = [32, 87];
    match error_code {
        code::DUPLICATE_SEQUENCE_NUMBER => Answer::Duplicate,
        code::OUT_OF_ORDER_SEQUENCE_NUMBER => Answer::Gap,
        code::UNKNOWN_PRODUCER_ID | code::INVALID_PRODUCER_EPOCH | code::PRODUCER_FENCED => {
            Answer::NoProducer
        }
        // -1 is Kafka's word for a fault it did not expect.
        code::REQUEST_TIMED_OUT | code::NOT_ENOUGH_REPLICAS_AFTER_APPEND | -1 => Answer::Unknown,
        code::MESSAGE_TOO_LARGE | code::RECORD_LIST_TOO_LARGE => Answer::TooLarge,
        code::TOPIC_AUTHORIZATION_FAILED | code::CLUSTER_AUTHORIZATION_FAILED | code::UNSUPPORTED_VERSION => {
            Answer::Refused
        }
        other if NEVER.contains(&other) => Answer::Refused,
        other if OF_ONE_RECORD.contains(&other) => Answer::TooLarge,
        _ => Answer::NotNow,
    }
}

/// Asks for a producer id.
pub(super) async fn new_producer(cluster: &Cluster) -> Result<ProducerId, LogError> {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000)
        .with_producer_id((-1).into())
        .with_producer_epoch(-1);
    let answer = cluster.ask_any(&request).await.map_err(CallError::of_read)?;
    match answer.error_code {
        0 => Ok(ProducerId { id: answer.producer_id.0, epoch: answer.producer_epoch }),
        code::CLUSTER_AUTHORIZATION_FAILED => {
            let rights = cluster.dialer().rights();
            Err(LogError::Forbidden(format!(
                "{} may write to no topic: {} (brokers before 3.0 ask for `--operation IdempotentWrite --cluster` besides)",
                rights.who(),
                rights.on_topics(&["Write"], [])
            )))
        }
        other => Err(LogError::Unavailable(format!("no producer id yet: {}", name(other)))),
    }
}

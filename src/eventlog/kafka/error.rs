//! Why a call of a broker failed, and what the broker's error codes are called.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;

use crate::eventlog::LogError;

/// Error codes that are acted upon. The others are told by name.
pub(super) mod code {
    pub(in crate::eventlog::kafka) const OFFSET_OUT_OF_RANGE: i16 = 1;
    pub(in crate::eventlog::kafka) const CORRUPT_MESSAGE: i16 = 2;
    pub(in crate::eventlog::kafka) const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    pub(in crate::eventlog::kafka) const REQUEST_TIMED_OUT: i16 = 7;
    pub(in crate::eventlog::kafka) const MESSAGE_TOO_LARGE: i16 = 10;
    pub(in crate::eventlog::kafka) const RECORD_LIST_TOO_LARGE: i16 = 18;
    pub(in crate::eventlog::kafka) const NOT_ENOUGH_REPLICAS_AFTER_APPEND: i16 = 20;
    pub(in crate::eventlog::kafka) const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
    pub(in crate::eventlog::kafka) const CLUSTER_AUTHORIZATION_FAILED: i16 = 31;
    pub(in crate::eventlog::kafka) const UNSUPPORTED_SASL_MECHANISM: i16 = 33;
    pub(in crate::eventlog::kafka) const UNSUPPORTED_VERSION: i16 = 35;
    pub(in crate::eventlog::kafka) const TOPIC_ALREADY_EXISTS: i16 = 36;
    pub(in crate::eventlog::kafka) const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
    pub(in crate::eventlog::kafka) const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;
    pub(in crate::eventlog::kafka) const INVALID_PRODUCER_EPOCH: i16 = 47;
    pub(in crate::eventlog::kafka) const SASL_AUTHENTICATION_FAILED: i16 = 58;
    pub(in crate::eventlog::kafka) const UNKNOWN_PRODUCER_ID: i16 = 59;
    pub(in crate::eventlog::kafka) const PRODUCER_FENCED: i16 = 90;
}

/// Kafka's name of an error code, such as `NotLeaderOrFollower (6)`.
pub(super) fn name(code: i16) -> String {
    match ResponseError::try_from_code(code) {
        Some(error) => format!("{error:?} ({code})"),
        None => format!("error {code}"),
    }
}

/// Why a call of a broker has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum CallError {
    /// No connection: nothing was sent.
    #[error("Kafka broker {address} cannot be reached: {reason}")]
    Unreachable { address: Arc<str>, reason: String },
    /// The request was sent, or part of it, and its answer will never come: the broker may have done it.
    #[error("Kafka broker {address} did not answer {request}: {reason}")]
    Lost { address: Arc<str>, request: &'static str, reason: String },
    /// Credentials or certificates do not fit; names the setting. Waiting does not cure it, a change does.
    #[error("{0}")]
    Denied(String),
    /// The broker speaks something else than what is needed here.
    #[error("Kafka broker {address}: {reason}")]
    Protocol { address: Arc<str>, reason: String },
}

impl CallError {
    /// For a call that changes nothing: whatever happened, it can be made again.
    pub(super) fn of_read(self) -> LogError {
        match self {
            Self::Denied(reason) => LogError::Forbidden(reason),
            other => LogError::Unavailable(other.to_string()),
        }
    }

    /// For a call that changes something: a lost answer leaves open whether it did.
    pub(super) fn of_write(self) -> LogError {
        match self {
            Self::Lost { .. } => LogError::OutcomeUnknown(self.to_string()),
            other => other.of_read(),
        }
    }
}

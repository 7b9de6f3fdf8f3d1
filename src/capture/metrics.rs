//! Handles of capture's metrics, made once.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::{Receipt, RejectionCode};
use crate::eventlog::LogError;
use crate::telemetry::names;

const CODES: [RejectionCode; 3] =
    [RejectionCode::ValidationError, RejectionCode::PermissionDenied, RejectionCode::PayloadTooLarge];

pub(super) struct Metrics {
    accepted: Counter,
    rejected: [Counter; CODES.len()],
    clamped: Counter,
    in_flight: Gauge,
    produced: Counter,
    produce_duration: Histogram,
    request_duration: Histogram,
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            accepted: names::CAPTURE_EVENTS_ACCEPTED.counter(&[]),
            rejected: CODES.map(|code| names::CAPTURE_EVENTS_REJECTED.counter(&[("code", code.as_str())])),
            clamped: names::CAPTURE_TIMESTAMPS_CLAMPED.counter(&[]),
            in_flight: names::CAPTURE_IN_FLIGHT_BYTES.gauge(&[]),
            produced: names::CAPTURE_PRODUCE.counter(&[]),
            produce_duration: names::CAPTURE_PRODUCE_DURATION.histogram(&[]),
            request_duration: names::CAPTURE_REQUEST_DURATION.histogram(&[]),
        }
    }

    pub(super) fn answered(&self, receipt: &Receipt) {
        self.accepted.increment(receipt.accepted.len() as u64);
        for rejection in &receipt.rejected {
            if let Some(at) = CODES.iter().position(|code| *code == rejection.code) {
                self.rejected[at].increment(1);
            }
        }
    }

    pub(super) fn clamped(&self, events: u64) {
        self.clamped.increment(events);
    }

    pub(super) fn in_flight_bytes(&self, bytes: usize) {
        self.in_flight.set(bytes as f64);
    }

    pub(super) fn produced(&self, records: u64) {
        self.produced.increment(records);
    }

    pub(super) fn produce_failed(&self, error: &'static str, records: usize) {
        names::CAPTURE_PRODUCE_ERRORS.counter(&[("error", error)]).increment(records as u64);
    }

    pub(super) fn waited(&self, time: Duration) {
        self.produce_duration.record(time);
    }

    /// A request was answered with `status` after `time`.
    pub(super) fn request(&self, status: u16, time: Duration) {
        self.request_duration.record(time);
        names::CAPTURE_REQUESTS.counter(&[("status", &status.to_string())]).increment(1);
    }
}

/// The label of a log's error.
pub(super) fn error_name(error: &LogError) -> &'static str {
    match error {
        LogError::Unavailable(_) => "unavailable",
        LogError::OutcomeUnknown(_) => "outcome_unknown",
        LogError::TopicMissing(_) => "topic_missing",
        LogError::RecordTooLarge { .. } => "record_too_large",
        LogError::Forbidden(_) => "forbidden",
        LogError::Full(_) => "full",
    }
}

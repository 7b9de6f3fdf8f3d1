//! Counters of what became of each check, made once.

use std::time::Duration;

use metrics::{Counter, Histogram};

use super::{Access, Denied};
use crate::telemetry::names;

/// What became of a check; the label `outcome` of `auth_requests_total`.
const OUTCOMES: [&str; 9] = [
    "allowed",
    "anonymous",
    "missing",
    "unknown",
    "revoked",
    "expired",
    "forbidden",
    "unavailable",
    "limited",
];

pub(super) struct Metrics {
    outcomes: [Counter; OUTCOMES.len()],
    duration: Histogram,
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            outcomes: OUTCOMES.map(|outcome| names::AUTH_REQUESTS.counter(&[("outcome", outcome)])),
            duration: names::AUTH_REQUEST_DURATION.histogram(&[]),
        }
    }

    pub(super) fn checked(&self, outcome: &Result<Access, Denied>, took: Duration) {
        let index = match outcome {
            Ok(access) if access.key_id.is_some() || access.operator || access.person.is_some() => 0,
            Ok(_) => 1,
            Err(Denied::Missing) => 2,
            Err(Denied::Unknown) => 3,
            Err(Denied::Revoked { .. } | Denied::SessionEnded) => 4,
            Err(Denied::Expired { .. } | Denied::TokenExpired { .. }) => 5,
            Err(
                Denied::Lacking { .. }
                | Denied::OperatorOnly
                | Denied::PersonOnly
                | Denied::NoProject
                | Denied::WhichProject { .. }
                | Denied::Environment(_)
                | Denied::Project { .. },
            ) => 6,
            Err(Denied::NoDefault | Denied::Unavailable(_)) => 7,
            Err(Denied::TooOften { .. }) => 8,
        };
        self.outcomes[index].increment(1);
        self.duration.record(took);
    }
}

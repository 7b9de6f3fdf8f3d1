//! The closed lists of ends an event can come to without being stored. RUNBOOK has a section for every one;
//! a test keeps it so.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! closed_list {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// Every member, in the order RUNBOOK lists them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable name used in metrics, logs, dead letters and answers.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The member with this stable name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|member| member.as_str() == name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

closed_list! {
    /// Why a record became a dead letter (`error_kind`). Never the infrastructure: that pauses, it refuses nothing.
    ErrorKind {
        /// The record has no value.
        EmptyRecord = "empty_record",
        /// The value is not JSON, not UTF-8, or not an object.
        InvalidJson = "invalid_json",
        /// A required field is absent or empty.
        MissingField = "missing_field",
        /// A field has a type or a length that it cannot have.
        InvalidField = "invalid_field",
        /// A time before 1970 or beyond what the store can hold, or a number beyond its range.
        OutOfRange = "out_of_range",
        /// Written by a newer version than this one reads.
        UnknownSchemaVersion = "unknown_schema_version",
        /// A raw event's transform cannot read it: a value is not what it needs.
        TransformError = "transform_error",
        /// The properties do not fit the schema of the event, whose policy is `reject`.
        SchemaViolation = "schema_violation",
        /// The store refused this row, and this row only.
        StoreRejected = "store_rejected",
    }
}

closed_list! {
    /// Why a record was passed over for good without a row and without a dead letter.
    DropReason {
        /// The log's retention deleted it before the consumer read it.
        LogExpired = "log_expired",
    }
}

closed_list! {
    /// What the product tells others of, in topic `topics.system_events` and by webhooks.
    SystemEventKind {
        /// Events of a name came in that no meter of their environment counts.
        EventUnmetered = "event.unmetered",
        /// More open dead letters of a scope than `alerts.dead_letters_max`.
        DeadLettersOverThreshold = "dead_letters.over_threshold",
        /// A circuit breaker of this process opened or closed.
        BreakerChanged = "breaker.changed",
        /// A consumer group is further behind than `alerts.lag_max`, or no more.
        LagOverThreshold = "lag.over_threshold",
        /// A durable job ended.
        JobFinished = "job.finished",
        /// A bound on what a project may have or do was reached.
        QuotaReached = "quota.reached",
        /// A rule of attribution has been applied to a range of the past.
        AttributionDone = "attribution.done",
        /// Somebody asked for a test of a webhook.
        WebhookTest = "webhook.test",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_its_member() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_name(kind.as_str()), Some(*kind));
        }
        assert_eq!(DropReason::from_name("nothing"), None);
    }
}

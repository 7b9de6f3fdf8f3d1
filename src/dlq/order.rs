//! What a replay or discard job was told to do (its spec), what came of each dead letter, and how far it got.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Fix, Selection};
use crate::event::{ErrorKind, Scope};

/// Most samples a dry run shows.
pub(super) const SAMPLES_MAX: usize = 5;

/// The spec of a job: kept in its row, shown to people.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Order {
    pub selection: Selection,
    /// Whose dead letters are in reach; `None`: all (the operator).
    pub scope: Option<Scope>,
    #[serde(flatten)]
    pub action: Action,
    /// Says what would happen and writes nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Most dead letters to act on; `None`: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// Most dead letters acted on in a second; `None`: as fast as the log takes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Key id, or `operator`.
    pub requested_by: String,
}

/// What to do with the dead letters that were selected.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Write them back to where they came from.
    Replay {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fix: Option<Fix>,
        /// Also those that were replayed or discarded before.
        #[serde(default)]
        again: bool,
    },
    /// Give them up.
    Discard { reason: String },
}

impl Action {
    /// The kind of the job that does it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Replay { .. } => REPLAY,
            Self::Discard { .. } => DISCARD,
        }
    }
}

/// Kind of replay jobs.
pub const REPLAY: &str = "dlq_replay";
/// Kind of discard jobs.
pub const DISCARD: &str = "dlq_discard";

/// What came of a selected dead letter. RUNBOOK explains each; a test keeps it so.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Written back to its topic.
    Replayed,
    /// Marked as discarded.
    Discarded,
    /// Passed over: replayed before by another job (`again` replays it nevertheless).
    AlreadyReplayed,
    /// Passed over: discarded before by another job (`again` replays it nevertheless).
    AlreadyDiscarded,
    /// Passed over: it came back `dlq.recoveries_max` times already.
    RefusedCap,
    /// Its payload was too large for the DLQ topic, or there was none: nothing to write back.
    NotReplayable,
    /// There is a fix, but the payload is not a JSON object.
    NotFixable,
    /// Its source topic takes no record of that size.
    TooLarge,
    /// Its source topic does not exist.
    NoSourceTopic,
    /// A record of the DLQ topic that is not a dead letter (counted for the operator only).
    Unreadable,
    /// Deleted by the DLQ topic's retention before the job came to it (counted for the operator only).
    Expired,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: &'static [Self] = &[
        Self::Replayed,
        Self::Discarded,
        Self::AlreadyReplayed,
        Self::AlreadyDiscarded,
        Self::RefusedCap,
        Self::NotReplayable,
        Self::NotFixable,
        Self::TooLarge,
        Self::NoSourceTopic,
        Self::Unreadable,
        Self::Expired,
    ];

    /// Its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Discarded => "discarded",
            Self::AlreadyReplayed => "already_replayed",
            Self::AlreadyDiscarded => "already_discarded",
            Self::RefusedCap => "refused_cap",
            Self::NotReplayable => "not_replayable",
            Self::NotFixable => "not_fixable",
            Self::TooLarge => "too_large",
            Self::NoSourceTopic => "no_source_topic",
            Self::Unreadable => "unreadable",
            Self::Expired => "expired",
        }
    }
}

/// One of the dead letters of a dry run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sample {
    pub id: String,
    pub error_kind: ErrorKind,
    pub outcome: Outcome,
    /// The payload's beginning, as text.
    pub before: String,
    /// What would be written, when a fix changes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// The offsets of one partition of the DLQ topic that are still to be looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Range {
    pub(super) next: i64,
    /// Where the partition ended when the job began: later dead letters are not its business, or a record that keeps
    /// failing would come round for ever.
    pub(super) end: i64,
}

/// How far a job got.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// The incarnation of the DLQ topic that the ranges are about.
    pub(super) topic_id: Uuid,
    pub(super) ranges: Vec<Range>,
    pub(super) scanned: u64,
    pub(super) outcomes: BTreeMap<Outcome, u64>,
    pub(super) samples: Vec<Sample>,
}

impl Checkpoint {
    pub(super) fn count(&mut self, outcome: Outcome, dead_letters: u64) {
        if dead_letters > 0 {
            *self.outcomes.entry(outcome).or_default() += dead_letters;
        }
    }

    /// Dead letters acted on (or, in a dry run, that would be).
    pub(super) fn acted(&self) -> u64 {
        [Outcome::Replayed, Outcome::Discarded].iter().filter_map(|outcome| self.outcomes.get(outcome)).sum()
    }

    /// What people see of it.
    pub(super) fn progress(&self, dry_run: bool) -> serde_json::Value {
        let remaining: i64 = self.ranges.iter().map(|range| (range.end - range.next).max(0)).sum();
        let mut progress = serde_json::json!({
            "scanned": self.scanned,
            "remaining": remaining,
            "outcomes": self.outcomes,
        });
        if dry_run {
            progress["samples"] = serde_json::json!(self.samples);
        }
        progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_spelled_the_same_in_metrics_and_answers() {
        for outcome in Outcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
        }
    }

    #[test]
    fn an_order_reads_back_from_its_row() {
        let order = Order {
            selection: Selection { error_kind: Some(ErrorKind::OutOfRange), ..Selection::default() },
            scope: Some(Scope::new("proj_a", "env_a")),
            action: Action::Replay {
                fix: Some(Fix::new(serde_json::Map::from_iter([("a".to_owned(), 1.into())]), false).unwrap()),
                again: true,
            },
            dry_run: true,
            max: Some(3),
            rate: None,
            requested_by: "operator".to_owned(),
        };
        let row = serde_json::to_value(&order).unwrap();
        assert_eq!(row["action"], "replay");
        assert_eq!(serde_json::from_value::<Order>(row).unwrap(), order);
    }
}

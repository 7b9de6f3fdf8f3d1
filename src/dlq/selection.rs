//! Which dead letters a replay or a discard is about.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::DeadLetter;
use crate::event::{ErrorKind, Scope, Timestamp};

/// Most ids one selection names.
pub const SELECTION_IDS_MAX: usize = 1000;

/// Dead letters that fit every criterion given. At least one is needed, or `all`.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<ErrorKind>,
    /// The topic that the record was refused in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Refused at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Refused before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// At most [`SELECTION_IDS_MAX`] of [`DeadLetter::id`].
    #[serde(default, skip_serializing_if = "HashSet::is_empty")]
    pub ids: HashSet<String>,
    /// Every dead letter in reach: says that no criterion is meant.
    #[serde(default)]
    pub all: bool,
}

/// Why a selection cannot be used: field and message.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct SelectionError {
    pub field: &'static str,
    pub message: String,
}

impl Selection {
    /// Is it one that somebody can have meant?
    ///
    /// # Errors
    /// It names nothing, names too much, or can fit nothing.
    pub fn check(&self) -> Result<(), SelectionError> {
        let error = |field, message: String| Err(SelectionError { field, message });
        let given = self.error_kind.is_some()
            || self.topic.is_some()
            || self.since.is_some()
            || self.until.is_some()
            || !self.ids.is_empty();
        if !given && !self.all {
            let message =
                "selection names nothing: give error_kind, topic, since, until or ids, or \"all\": true";
            return error("selection", message.to_owned());
        }
        if given && self.all {
            return error("selection.all", "selection.all stands alone, without other criteria".to_owned());
        }
        if self.ids.len() > SELECTION_IDS_MAX {
            let message =
                format!("selection.ids has {} ids; at most {SELECTION_IDS_MAX} are taken", self.ids.len());
            return error("selection.ids", message);
        }
        match (self.since, self.until) {
            (Some(since), Some(until)) if since >= until => {
                error("selection.until", format!("selection.until ({until}) is not after since ({since})"))
            }
            _ => Ok(()),
        }
    }

    /// Does this dead letter fit, and is it in reach? `scope` is the caller's; `None` is the operator, who reaches
    /// all. A dead letter whose project or environment is unknown is in nobody else's reach.
    pub fn fits(&self, letter: &DeadLetter, scope: Option<&Scope>) -> bool {
        let in_reach = scope.is_none_or(|scope| {
            letter.project_id.as_deref() == Some(scope.project.as_str())
                && letter.environment_id.as_deref() == Some(scope.environment.as_str())
        });
        in_reach
            && self.error_kind.is_none_or(|kind| kind == letter.error_kind)
            && self.topic.as_ref().is_none_or(|topic| *topic == letter.source_topic)
            && self.since.is_none_or(|since| letter.dlq_ts >= since)
            && self.until.is_none_or(|until| letter.dlq_ts < until)
            && (self.ids.is_empty() || self.ids.contains(&letter.id()))
    }
}

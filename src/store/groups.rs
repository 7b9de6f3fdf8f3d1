//! The table of groups: what is said of their properties. What a group is, is `person`'s business; this stores.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use klickhouse::{Type, Value};

use super::insert::statement;
use super::persons::{block, text};
use super::{InsertError, Store};
use crate::event::Scope;

/// Types of groups that are remembered at most; beyond it all are forgotten, and noticed once more.
const TYPES_MAX: usize = 10_000;

/// What a row of the table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum GroupFact {
    /// A property of a group.
    Property = 0,
    /// A group, without a key.
    Group = 1,
    /// A type of groups, without a key and a group.
    Type = 2,
}

/// What an event said of a group; of each row the highest version counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupPropertyRow {
    pub project_id: String,
    pub environment_id: String,
    pub group_type: String,
    pub fact: GroupFact,
    pub key: String,
    pub group_key: String,
    /// JSON text.
    pub value: String,
    pub version: u64,
}

/// The types of groups that this process has stored: questions have to learn of a new one at once.
#[derive(Debug, Default)]
pub(super) struct Types(Mutex<HashSet<(String, String, String)>>);

impl Types {
    /// Is it new? From now on it is not.
    fn note(&self, row: &GroupPropertyRow) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= TYPES_MAX {
            known.clear();
        }
        known.insert((row.project_id.clone(), row.environment_id.clone(), row.group_type.clone()))
    }
}

impl Store {
    /// Adds what was said of groups; under a token as [`Store::insert_events`]. Questions of this process see it from
    /// their next look on.
    ///
    /// # Errors
    /// See [`InsertError`].
    pub async fn insert_group_properties(
        &self,
        rows: &[GroupPropertyRow],
        token: &str,
    ) -> Result<(), InsertError> {
        let columns =
            ["project_id", "environment_id", "group_type", "kind", "key", "group_key", "value", "version"];
        let cells = |row: &GroupPropertyRow| {
            vec![
                text(&row.project_id),
                text(&row.environment_id),
                text(&row.group_type),
                (Type::UInt8, Value::UInt8(row.fact as u8)),
                text(&row.key),
                text(&row.group_key),
                text(&row.value),
                (Type::UInt64, Value::UInt64(row.version)),
            ]
        };
        let inserted = self
            .insert(&statement("group_properties", columns), rows.len(), token, |from, to| {
                block(&columns, rows.get(from..to.min(rows.len())).unwrap_or_default(), cells)
            })
            .await;
        // Also when the answer was lost: they may be stored.
        for row in rows {
            self.note_properties_changed(&row.project_id, &row.environment_id);
            if row.fact == GroupFact::Type && (inserted.is_err() || self.group_types().note(row)) {
                self.note_persons_changed(&Scope::new(&*row.project_id, &*row.environment_id));
            }
        }
        inserted
    }
}

//! What events say of groups: `$groupidentify` names a group by `$group_type` and `$group_key`, and sets properties of it
//! with `$group_set`.
//!
//! Of a group's property the value that was set last counts, by the time of the event. A type of groups has a number: its
//! place, from 0, among the types of its environment in the order in which they were first *received*, those of one
//! request by the times of their events, then by name. Receipt is fixed at capture, so an event that is late, comes twice
//! or is replayed neither changes a number nor a value that is newer.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::said::{KEY_BYTES_MAX, Saying, entries_of, order_of};
use crate::store::{GroupFact, GroupPropertyRow};

/// The event that speaks of a group.
pub(super) const EVENT: &str = "$groupidentify";
/// Longest name of a type and key of a group, in characters.
const CHARS_MAX: usize = 400;

/// Everything of a row but its value and version.
type Place = (String, String, String, GroupFact, String, String);

/// What some events said of groups: of each place the row that counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Groups(pub(super) BTreeMap<Place, GroupPropertyRow>);

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default, rename = "$group_type")]
    group_type: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "$group_key")]
    key: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "$group_set")]
    set: Option<&'a RawValue>,
}

impl Groups {
    /// Listens to a `$groupidentify`. Answers how many properties were passed over for their names; `None`: the event
    /// names no group.
    pub(super) fn hear(&mut self, saying: &Saying<'_>) -> Option<u64> {
        let wire = serde_json::from_str::<Wire<'_>>(saying.properties).ok()?;
        let group_type = wire.group_type.and_then(name_of)?;
        let group = wire.key.and_then(name_of)?;
        let at = order_of(saying.timestamp, saying.event_id);
        let first = u64::MAX - receipt(saying);
        self.keep(saying, (&group_type, GroupFact::Type), ("", ""), (String::new(), first));
        let first = u64::MAX - at;
        self.keep(saying, (&group_type, GroupFact::Group), ("", &group), (String::new(), first));
        let mut passed_over = 0;
        for (key, value) in wire.set.map(entries_of).unwrap_or_default() {
            if key.is_empty() || key.len() > KEY_BYTES_MAX {
                passed_over += 1;
            } else {
                self.keep(saying, (&group_type, GroupFact::Property), (&key, &group), (value, at));
            }
        }
        Some(passed_over)
    }

    fn keep(
        &mut self,
        saying: &Saying<'_>,
        (group_type, fact): (&str, GroupFact),
        (key, group_key): (&str, &str),
        (value, version): (String, u64),
    ) {
        let row = GroupPropertyRow {
            project_id: saying.project_id.to_owned(),
            environment_id: saying.environment_id.to_owned(),
            group_type: group_type.to_owned(),
            fact,
            key: key.to_owned(),
            group_key: group_key.to_owned(),
            value,
            version,
        };
        let place = (
            row.project_id.clone(),
            row.environment_id.clone(),
            row.group_type.clone(),
            fact,
            row.key.clone(),
            row.group_key.clone(),
        );
        let known = self.0.entry(place).or_insert_with(|| row.clone());
        if known.version < row.version {
            *known = row;
        }
    }
}

/// Orders first sights of types: by receipt, then the older event first (22 bits of a float's order: exact for seconds,
/// coarser for years).
fn receipt(saying: &Saying<'_>) -> u64 {
    let received = saying.received_at.as_millis().clamp(0, (1 << 42) - 1);
    let age = saying.received_at.as_millis().saturating_sub(saying.timestamp.as_millis()).max(0);
    #[expect(clippy::cast_precision_loss, reason = "an order of ages, not an age")]
    let age = u64::from((age as f32).to_bits() >> 10);
    (received.unsigned_abs() << 22) | (((1 << 22) - 1) - age)
}

/// A name that is a text or a number.
fn name_of(json: &RawValue) -> Option<String> {
    let name = match serde_json::from_str(json.get()).ok()? {
        serde_json::Value::String(text) => text,
        // As it is written, as questions read it.
        serde_json::Value::Number(_) => json.get().to_owned(),
        _ => return None,
    };
    let fits = !name.is_empty() && name.chars().count() <= CHARS_MAX && !name.contains('\0');
    fits.then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::event::Timestamp;
    use crate::person::Said;

    /// An event as it was captured: id, time, receipt, properties.
    type Captured = (u32, i64, i64, Value);

    fn hear(said: &mut Said, (id, at, received, properties): &Captured) {
        said.hear(&Saying {
            project_id: "p",
            environment_id: "e",
            event: EVENT,
            event_id: &id.to_string(),
            distinct_id: "$company_acme",
            timestamp: Timestamp::from_millis(*at),
            received_at: Timestamp::from_millis(*received),
            properties: &properties.to_string(),
        });
    }

    fn heard(events: &[Captured]) -> Said {
        let mut said = Said::default();
        for event in events {
            hear(&mut said, event);
        }
        said
    }

    /// What the store makes of batches: of each place the highest version.
    fn stored(batches: &[Said]) -> BTreeMap<Place, (String, u64)> {
        let mut table: BTreeMap<Place, (String, u64)> = BTreeMap::new();
        for (place, row) in batches.iter().flat_map(|said| &said.groups.0) {
            let known = table.entry(place.clone()).or_insert_with(|| (row.value.clone(), row.version));
            if known.1 <= row.version {
                *known = (row.value.clone(), row.version);
            }
        }
        table
    }

    fn values(said: &Said) -> Vec<(&str, &str, &str)> {
        let properties = said.groups.0.values().filter(|row| row.fact == GroupFact::Property);
        properties.map(|row| (row.group_key.as_str(), row.key.as_str(), row.value.as_str())).collect()
    }

    /// The types in the order of their numbers.
    fn types(said: &Said) -> Vec<&str> {
        let mut rows: Vec<_> = said.groups.0.values().filter(|row| row.fact == GroupFact::Type).collect();
        rows.sort_by_key(|row| (std::cmp::Reverse(row.version), &row.group_type));
        rows.into_iter().map(|row| row.group_type.as_str()).collect()
    }

    #[expect(clippy::needless_pass_by_value, reason = "callers make it with json!")]
    fn set(kind: &str, key: &str, set: Value) -> Value {
        json!({"$group_type": kind, "$group_key": key, "$group_set": set})
    }

    #[test]
    fn of_a_groups_property_the_last_value_counts_and_what_names_no_group_says_nothing() {
        let said = heard(&[
            (1, 9, 10, set("company", "acme", json!({"plan": "pro", "seats": 3}))),
            (2, 5, 20, set("company", "acme", json!({"plan": "free"}))),
            (3, 9, 30, json!({"$group_type": "company", "$group_key": 7, "$group_set": {"plan": "x"}})),
            (4, 9, 30, json!({"$group_type": "company", "$group_set": {"plan": "none"}})),
            (5, 9, 30, json!({"$group_type": "", "$group_key": "acme", "$group_set": {"plan": "none"}})),
            (6, 9, 30, set("company", "acme", json!({"": 1}))),
        ]);
        let expected = [("7", "plan", "\"x\""), ("acme", "plan", "\"pro\""), ("acme", "seats", "3")];
        let mut found = values(&said);
        found.sort_unstable();
        assert_eq!(found, expected);
        assert_eq!(said.refused, BTreeMap::from([("group", 2), ("property_name", 1)]));
    }

    #[test]
    fn types_are_numbered_as_they_were_received_and_in_one_request_by_their_events_times() {
        let day = 86_400_000;
        let said = heard(&[
            (1, 10 * day + 5, 20 * day, set("team", "a", json!({}))),
            (2, 19 * day, 20 * day, set("project", "a", json!({}))),
            (3, 10 * day, 20 * day, set("company", "a", json!({}))),
            (4, 20 * day, 20 * day, set("user", "a", json!({}))),
            // Late, and before all others by its time.
            (5, day, 20 * day + 1, set("account", "a", json!({}))),
            (6, 20 * day - 3, 20 * day, set("squad", "a", json!({}))),
            (7, day, 21 * day, set("project", "b", json!({}))),
        ]);
        assert_eq!(types(&said), ["company", "team", "project", "squad", "user", "account"]);
    }

    fn captured() -> impl Strategy<Value = Vec<Captured>> {
        let one = (0..3u8, 0..3u8, 0..4i64, 0..4i64, prop::collection::btree_map("[ab]", 0..9i64, 0..3));
        prop::collection::vec(one, 1..12).prop_map(|events| {
            let captured =
                events.into_iter().enumerate().map(|(id, (kind, key, at, received, properties))| {
                    let properties = set(&format!("type{kind}"), &format!("key{key}"), json!(properties));
                    (u32::try_from(id).unwrap_or_default(), at, received, properties)
                });
            captured.collect()
        })
    }

    proptest! {
        #[test]
        fn any_order_any_repetition_and_any_batches_of_the_same_events_say_the_same_of_groups(
            (events, again, cut) in captured().prop_flat_map(|events| {
                let twice: Vec<Captured> = events.iter().chain(&events).cloned().collect();
                let length = twice.len();
                (Just(events), Just(twice).prop_shuffle(), 0..=length)
            }),
        ) {
            let once = stored(&[heard(&events)]);
            let (first, second) = again.split_at(cut);
            prop_assert_eq!(&stored(&[heard(first), heard(second)]), &once);
            prop_assert_eq!(&stored(&[heard(second), heard(first)]), &once);
        }
    }
}

//! What events say of people and groups: which distinct ids are one person, and what is known of it.
//!
//! | event | joins |
//! |---|---|
//! | `$identify` | `$anon_distinct_id` of its properties to its distinct id |
//! | `$create_alias`, `$merge_dangerously`, `alias` | `alias` of its properties to its distinct id |
//!
//! `$groupidentify` speaks of a group, see [`super::groups`].
//!
//! Any event may carry `$set`, `$set_once` (objects) and `$unset` (a list of keys) in its properties. Of a person's
//! property the value that was set last counts, by the time of the event; `$unset` takes it away until it is set
//! again. `$set_once` counts while the property was never set or unset, the earliest first.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::fold::{Fact, FactKind};
use super::groups::{self, Groups};
use crate::event::{Scope, Timestamp};
use crate::store::PersonPropertyRow;

/// Longest distinct id, in characters; capture takes no longer one.
const ID_CHARS_MAX: usize = 200;
/// Longest name of a property, in bytes.
pub(super) const KEY_BYTES_MAX: usize = 400;

/// Ids that careless clients send for everybody; in lower case.
const RESERVED: &[&str] = &[
    "",
    "0",
    "00000000-0000-0000-0000-000000000000",
    "[object object]",
    "anonymous",
    "distinct_id",
    "distinctid",
    "email",
    "false",
    "guest",
    "id",
    "nan",
    "nil",
    "none",
    "not_authenticated",
    "null",
    "true",
    "undefined",
];

/// Is this no id of one person? Case, blanks and quotes around it do not matter.
pub fn is_reserved(id: &str) -> bool {
    let plain = id.trim().trim_matches(['"', '\'', '`']).trim().to_lowercase();
    RESERVED.contains(&plain.as_str())
}

/// An event, as far as it may speak of people.
#[derive(Clone, Copy, Debug)]
pub struct Saying<'a> {
    pub project_id: &'a str,
    pub environment_id: &'a str,
    pub event: &'a str,
    pub event_id: &'a str,
    pub distinct_id: &'a str,
    pub timestamp: Timestamp,
    /// Fixed at capture, so that a replay says the same.
    pub received_at: Timestamp,
    /// A JSON object.
    pub properties: &'a str,
}

/// What some events said of people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub(super) facts: BTreeMap<Scope, Vec<Fact>>,
    /// By everything of the row's key.
    pub(super) properties: BTreeMap<PropertyKey, PersonPropertyRow>,
    pub(super) groups: Groups,
    /// Reasons for which something was passed over, with how often.
    pub(super) refused: BTreeMap<&'static str, u64>,
}

/// Project, environment, key, distinct id and kind.
type PropertyKey = (String, String, String, String, u8);

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default, rename = "$anon_distinct_id")]
    anonymous: Option<&'a RawValue>,
    #[serde(borrow, default)]
    alias: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "$set")]
    set: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "$set_once")]
    set_once: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "$unset")]
    unset: Option<&'a RawValue>,
}

const SET: u8 = 0;
const ONCE: u8 = 1;

impl Said {
    /// Nothing was said?
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
            && self.properties.is_empty()
            && self.groups.0.is_empty()
            && self.refused.is_empty()
    }

    /// Listens to an event. Most say nothing, and are passed over without being parsed.
    pub fn hear(&mut self, saying: &Saying<'_>) {
        if saying.event == groups::EVENT {
            self.of_group(saying);
        }
        let joins = matches!(saying.event, "$identify" | "$create_alias" | "$merge_dangerously" | "alias");
        let sets = ["\"$set", "\"$unset", "\\u0024"].iter().any(|part| saying.properties.contains(part));
        if !joins && !sets {
            return;
        }
        let Ok(wire) = serde_json::from_str::<Wire<'_>>(saying.properties) else { return };
        if joins {
            let other = if saying.event == "$identify" { wire.anonymous } else { wire.alias };
            if let Some(other) = other.and_then(id_of) {
                self.join(saying, &other);
            }
        }
        let unset: Vec<String> = wire.unset.map(keys_of).unwrap_or_default();
        for (key, value) in wire.set.map(entries_of).unwrap_or_default() {
            if !unset.contains(&key) {
                self.property(saying, SET, key, value);
            }
        }
        for key in unset {
            self.property(saying, SET, key, String::new());
        }
        for (key, value) in wire.set_once.map(entries_of).unwrap_or_default() {
            self.property(saying, ONCE, key, value);
        }
    }

    fn of_group(&mut self, saying: &Saying<'_>) {
        let (reason, count) = match self.groups.hear(saying) {
            Some(names) => ("property_name", names),
            None => ("group", 1),
        };
        if count > 0 {
            *self.refused.entry(reason).or_default() += count;
        }
    }

    fn join(&mut self, saying: &Saying<'_>, other: &str) {
        let target = saying.distinct_id;
        if target == other {
            return;
        }
        if is_reserved(target)
            || is_reserved(other)
            || other.chars().count() > ID_CHARS_MAX
            || other.contains('\0')
        {
            *self.refused.entry("reserved").or_default() += 1;
            return;
        }
        let fact = Fact {
            kind: FactKind::Join,
            target: target.to_owned(),
            other: other.to_owned(),
            at: saying.received_at.as_millis(),
        };
        self.facts.entry(Scope::new(saying.project_id, saying.environment_id)).or_default().push(fact);
    }

    fn property(&mut self, saying: &Saying<'_>, kind: u8, key: String, value: String) {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            *self.refused.entry("property_name").or_default() += 1;
            return;
        }
        let order = order_of(saying.timestamp, saying.event_id);
        let version = if kind == SET { order } else { u64::MAX - order };
        let row = PersonPropertyRow {
            project_id: saying.project_id.to_owned(),
            environment_id: saying.environment_id.to_owned(),
            key: key.clone(),
            distinct_id: saying.distinct_id.to_owned(),
            kind,
            value,
            version,
        };
        let (project, environment) = (row.project_id.clone(), row.environment_id.clone());
        let slot = self.properties.entry((project, environment, key, row.distinct_id.clone(), kind));
        let known = slot.or_insert_with(|| row.clone());
        if known.version < row.version {
            *known = row;
        }
    }
}

/// An id that is a text or a number.
fn id_of(json: &RawValue) -> Option<String> {
    match serde_json::from_str(json.get()).ok()? {
        serde_json::Value::String(text) => Some(text.trim().to_owned()),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Orders what events say: 42 bits of milliseconds reach to the year 2109, 22 bits tell events of one millisecond apart.
pub(super) fn order_of(at: Timestamp, event_id: &str) -> u64 {
    let at = at.as_millis().clamp(0, (1 << 42) - 1).unsigned_abs();
    (at << 22) | (fnv(event_id) & ((1 << 22) - 1))
}

pub(super) fn entries_of(json: &RawValue) -> Vec<(String, String)> {
    let entries: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(json.get()).unwrap_or_default();
    entries.into_iter().map(|(key, value)| (key.into_owned(), value.get().to_owned())).collect()
}

fn keys_of(json: &RawValue) -> Vec<String> {
    serde_json::from_str(json.get()).unwrap_or_default()
}

/// FNV-1a: the same for ever, on every machine.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn hear(events: &[(&str, &str, i64, Value)]) -> Said {
        let mut said = Said::default();
        for (place, (event, distinct_id, at, properties)) in events.iter().enumerate() {
            said.hear(&Saying {
                project_id: "p",
                environment_id: "e",
                event,
                event_id: &place.to_string(),
                distinct_id,
                timestamp: Timestamp::from_millis(*at),
                received_at: Timestamp::from_millis(*at + 1),
                properties: &properties.to_string(),
            });
        }
        said
    }

    fn joins(said: &Said) -> Vec<(String, String)> {
        said.facts.values().flatten().map(|fact| (fact.target.clone(), fact.other.clone())).collect()
    }

    #[test]
    fn identify_and_alias_join_two_ids() {
        let said = hear(&[
            ("$identify", "user", 1, json!({"$anon_distinct_id": "anon"})),
            ("$create_alias", "user", 2, json!({"alias": "other"})),
            ("$create_alias", "user", 3, json!({"alias": 17})),
            ("$pageview", "user", 4, json!({"alias": "no", "$anon_distinct_id": "no"})),
            ("$identify", "user", 5, json!({})),
            ("$identify", "user", 6, json!({"$anon_distinct_id": "user"})),
        ]);
        let expected = [("user", "anon"), ("user", "other"), ("user", "17")];
        assert_eq!(joins(&said), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn ids_that_stand_for_everybody_join_nobody() {
        let careless = [
            "null",
            "NULL",
            " anonymous ",
            "undefined",
            "\"null\"",
            "'None'",
            "0",
            "[object Object]",
            "",
            "NaN",
        ];
        for id in careless {
            let said = hear(&[("$identify", "user", 1, json!({"$anon_distinct_id": id}))]);
            assert!(said.facts.is_empty() && said.refused["reserved"] == 1, "{id}");
            let said = hear(&[("$identify", id, 1, json!({"$anon_distinct_id": "anon-1"}))]);
            assert!(said.facts.is_empty(), "{id}");
        }
        assert!(!is_reserved("nullable") && !is_reserved("guest-7"));
    }

    #[test]
    fn of_a_property_the_last_set_and_the_first_set_once_are_kept() {
        let said = hear(&[
            ("a", "u", 5, json!({"$set": {"plan": "pro"}, "$set_once": {"first": 5}})),
            ("b", "u", 9, json!({"$set": {"plan": "team"}, "$set_once": {"first": 9}})),
            ("c", "u", 2, json!({"$set": {"plan": "free"}, "$set_once": {"first": 2}})),
        ]);
        let rows: Vec<_> =
            said.properties.values().map(|row| (row.key.as_str(), row.kind, row.value.as_str())).collect();
        assert_eq!(rows, [("first", ONCE, "2"), ("plan", SET, "\"team\"")]);
    }

    #[test]
    fn unset_takes_a_property_away_and_odd_shapes_say_nothing() {
        let said = hear(&[
            ("a", "u", 5, json!({"$set": {"plan": "pro", "x": null}, "$unset": ["plan"]})),
            ("b", "u", 6, json!({"$set": "plan", "$unset": {"a": 1}, "$set_once": [1]})),
        ]);
        let rows: Vec<_> =
            said.properties.values().map(|row| (row.key.as_str(), row.value.as_str())).collect();
        assert_eq!(rows, [("plan", ""), ("x", "null")]);
    }
}

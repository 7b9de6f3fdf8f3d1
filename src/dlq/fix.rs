//! What a replay changes in an event so that it can be stored: a JSON Merge Patch (RFC 7396).
//!
//! Values that the patch does not touch keep their text byte for byte: `0.10` stays `0.10`, and a whole number of
//! twenty digits stays whole.

use std::borrow::Cow;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// Deeper patches are refused.
const DEPTH_MAX: usize = 32;
/// Fields that say whose an event is; only the operator may change them.
const OWNER_FIELDS: [&str; 3] = ["project_id", "environment_id", "tenant_id"];
/// Fields that hold the acting person: the key of the record.
const PERSON_FIELDS: [&str; 2] = ["distinct_id", "external_customer_id"];

/// A merge patch: `null` removes a field, an object is merged, anything else replaces.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fix(serde_json::Map<String, Value>);

/// Why a fix cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FixError {
    #[error("fix must change something: it is an empty object")]
    Empty,
    #[error("fix is nested deeper than {DEPTH_MAX}")]
    TooDeep,
    #[error("fix changes {field}, which says whose the event is; only the operator may")]
    Owner { field: &'static str },
}

/// An event after its fix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fixed {
    pub json: String,
    /// The acting person, if the fix changed it: the key to write the record under.
    pub key: Option<String>,
}

impl Fix {
    /// Checks a patch before a job carries it.
    ///
    /// # Errors
    /// It changes nothing, is nested too deep, or moves the event to another owner and `operator` is false.
    pub fn new(patch: serde_json::Map<String, Value>, operator: bool) -> Result<Self, FixError> {
        if patch.is_empty() {
            return Err(FixError::Empty);
        }
        if patch.values().map(depth).max().unwrap_or(0) >= DEPTH_MAX {
            return Err(FixError::TooDeep);
        }
        match OWNER_FIELDS.into_iter().find(|field| patch.contains_key(*field)) {
            Some(field) if !operator => Err(FixError::Owner { field }),
            _ => Ok(Self(patch)),
        }
    }

    /// The text that the patch gives a top-level field, if it gives it one.
    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.0.get(field)?.as_str()
    }

    /// The patched event; `None` when `payload` is not a JSON object, so that there is nothing to patch.
    pub fn apply(&self, payload: &[u8]) -> Option<Fixed> {
        let json = merge(Some(std::str::from_utf8(payload).ok()?), &self.0, Target::MustBeObject)?;
        let touched = PERSON_FIELDS.iter().any(|field| self.0.contains_key(*field));
        let key = touched.then(|| person(&json)).flatten();
        Some(Fixed { json, key })
    }
}

/// The acting person, by the first of [`PERSON_FIELDS`] that holds a text.
fn person(json: &str) -> Option<String> {
    let fields: IndexMap<Cow<'_, str>, &RawValue> = serde_json::from_str(json).ok()?;
    PERSON_FIELDS.iter().find_map(|field| serde_json::from_str(fields.get(*field)?.get()).ok())
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Target {
    MustBeObject,
    /// RFC 7396: what is not an object is replaced by one.
    Any,
}

fn merge(json: Option<&str>, patch: &serde_json::Map<String, Value>, target: Target) -> Option<String> {
    let parsed = json.and_then(|json| serde_json::from_str::<IndexMap<String, Box<RawValue>>>(json).ok());
    let mut fields = match (parsed, target) {
        (Some(fields), _) => fields,
        (None, Target::Any) => IndexMap::new(),
        (None, Target::MustBeObject) => return None,
    };
    for (name, change) in patch {
        let text = match change {
            Value::Null => {
                fields.shift_remove(name);
                continue;
            }
            Value::Object(inner) => merge(fields.get(name).map(|raw| raw.get()), inner, Target::Any)?,
            plain => plain.to_string(),
        };
        fields.insert(name.clone(), RawValue::from_string(text).ok()?);
    }
    serde_json::to_string(&fields).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn fix(patch: Value) -> Fix {
        let Value::Object(patch) = patch else { panic!("not an object") };
        Fix::new(patch, false).unwrap()
    }

    #[test]
    fn what_the_patch_does_not_touch_stays_byte_for_byte() {
        let event = r#"{"id":"a","timestamp":"never","properties":{"price": 0.10,"n":12345678901234567890123,"x":{"y":1}}}"#;
        let fixed =
            fix(json!({"timestamp": "2026-01-31T12:00:00Z", "properties": {"x": {"z": [1]}, "n": null}}))
                .apply(event.as_bytes())
                .unwrap();
        assert_eq!(
            fixed.json,
            r#"{"id":"a","timestamp":"2026-01-31T12:00:00Z","properties":{"price":0.10,"x":{"y":1,"z":[1]}}}"#
        );
        assert_eq!(fixed.key, None);
    }

    #[test]
    fn another_person_moves_the_record_to_another_key() {
        let fixed = fix(json!({"distinct_id": "b"})).apply(br#"{"distinct_id":5}"#).unwrap();
        assert_eq!(fixed.key.as_deref(), Some("b"));
    }

    #[test]
    fn what_is_not_an_object_cannot_be_fixed() {
        for payload in [&b"[1]"[..], b"not json", b"\xff", b""] {
            assert_eq!(fix(json!({"a": 1})).apply(payload), None);
        }
    }

    #[test]
    fn only_the_operator_moves_events_to_another_owner() {
        let Value::Object(patch) = json!({"project_id": "proj_b"}) else { unreachable!() };
        assert_eq!(Fix::new(patch.clone(), false), Err(FixError::Owner { field: "project_id" }));
        assert!(Fix::new(patch, true).is_ok());
        assert_eq!(Fix::new(serde_json::Map::new(), true), Err(FixError::Empty));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::vec(("[a-c]", inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    /// RFC 7396, section 2, word by word.
    fn reference(target: Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else { return patch.clone() };
        let mut fields = match target {
            Value::Object(fields) => fields,
            _ => serde_json::Map::new(),
        };
        for (name, change) in patch {
            if change.is_null() {
                fields.remove(name);
            } else {
                let old = fields.remove(name).unwrap_or(Value::Null);
                fields.insert(name.clone(), reference(old, change));
            }
        }
        Value::Object(fields)
    }

    proptest! {
        #[test]
        fn a_fix_is_rfc_7396(event in values(), patch in values()) {
            if let (true, Value::Object(fields)) = (event.is_object(), &patch)
                && let Ok(fix) = Fix::new(fields.clone(), true)
            {
                let fixed = fix.apply(event.to_string().as_bytes()).unwrap();
                let fixed: Value = serde_json::from_str(&fixed.json).unwrap();
                prop_assert_eq!(fixed, reference(event, &patch));
            }
        }
    }
}

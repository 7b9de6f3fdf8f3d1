//! Schemas of events: what the properties of an event have to look like, in versions that fit each other.
//!
//! A definition is JSON Schema about the properties of one event name of a project. An event is held against the version
//! that its property `$schema_version` names, else against the newest. A version may say what properties of the one before
//! become in it (an upcast, in the language of transforms); an event that names an older version is then brought up to the
//! newest, step by step, and held against that. [`Policy`] says what becomes of one that does not
//! fit; [`Compatibility`] what the next version has to be to the one before.
//!
//! Capture and the consumer ask the [`Registry`], a snapshot in memory: where no project has a schema, that is one atomic
//! read a request.

mod containment;
pub mod http;
mod registry;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use registry::{Mark, ProjectSchemas, Registry, Verdict};

/// The header of a record in which capture says what the schema says of its event.
pub const HEADER: &str = "schema";

/// Deepest nesting of a definition.
const DEPTH_MAX: usize = 16;
/// The property that names the version an event was written for.
pub const VERSION_PROPERTY: &str = "$schema_version";

/// What happens to an event that does not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Capture refuses it; the consumer makes a dead letter of it.
    Reject,
    /// Accepted, counted and marked.
    #[default]
    Flag,
    /// Accepted as any other; counted.
    Accept,
}

/// What a version has to be to the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compatibility {
    /// Anything.
    None,
    /// Events of the old one fit it.
    #[default]
    Backward,
    /// Its events fit the old one.
    Forward,
    /// Both.
    Full,
}

impl Policy {
    /// Its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Flag => "flag",
            Self::Accept => "accept",
        }
    }
}

impl Compatibility {
    /// Its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Backward => "backward",
            Self::Forward => "forward",
            Self::Full => "full",
        }
    }

    /// What is left to ask of a version that says what events of the one before become in it.
    pub const fn with_upcast(self) -> Self {
        match self {
            Self::None | Self::Backward => Self::None,
            Self::Forward | Self::Full => Self::Forward,
        }
    }

    /// Why the change from `old` to `new` breaks it; nothing: it does not.
    pub fn breaches(self, old: &Value, new: &Value) -> Vec<String> {
        let (backward, forward) = match self {
            Self::None => (false, false),
            Self::Backward => (true, false),
            Self::Forward => (false, true),
            Self::Full => (true, true),
        };
        let mut found = Vec::new();
        if backward {
            let told = containment::breaches(old, new);
            found.extend(told.into_iter().map(|one| format!("an event of the version before: {one}")));
        }
        if forward {
            let told = containment::breaches(new, old);
            found.extend(told.into_iter().map(|one| format!("read by the version before: {one}")));
        }
        found
    }
}

/// Makes a validator of a definition: no reference leaves it, and patterns take time linear in the text.
fn compile(definition: &Value) -> Result<jsonschema::Validator, String> {
    jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .with_pattern_options(jsonschema::PatternOptions::regex())
        .build(definition)
        .map_err(|error| error.to_string())
}

/// Will this do as a definition?
fn check_definition(definition: &Value, bytes_max: usize) -> Result<(), String> {
    if !definition.is_object() {
        return Err("definition must be a JSON Schema: an object".to_owned());
    }
    let bytes = definition.to_string().len();
    if bytes > bytes_max {
        return Err(format!(
            "definition may have {bytes_max} bytes (schema.definition_bytes_max), given {bytes}"
        ));
    }
    let depth = depth(definition);
    if depth > DEPTH_MAX {
        return Err(format!("definition may be nested {DEPTH_MAX} deep, given {depth}"));
    }
    compile(definition).map(|_| ()).map_err(|message| format!("definition is no JSON Schema: {message}"))
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_definition_that_cannot_work_is_refused_with_the_reason() {
        let told = |definition: Value| check_definition(&definition, 1000).unwrap_err();
        assert!(told(json!([])).contains("an object"));
        assert!(told(json!({"type": "nonsense"})).contains("no JSON Schema"));
        assert!(told(json!({"$ref": "https://example.com/schema"})).contains("no JSON Schema"));
        assert!(told(json!({"pattern": "("})).contains("no JSON Schema"));
        assert!(told(json!({"description": "x".repeat(1000)})).contains("schema.definition_bytes_max"));
        let mut deep = json!({});
        for _ in 0..20 {
            deep = json!({ "not": deep });
        }
        assert!(told(deep).contains("nested"));
        assert!(
            check_definition(&json!({"type": "object", "properties": {"a": {"type": "string"}}}), 1000)
                .is_ok()
        );
    }

    #[test]
    fn names_are_those_of_the_answers() {
        for policy in [Policy::Reject, Policy::Flag, Policy::Accept] {
            assert_eq!(json!(policy), policy.as_str());
        }
        for one in [Compatibility::None, Compatibility::Backward, Compatibility::Forward, Compatibility::Full]
        {
            assert_eq!(json!(one), one.as_str());
        }
    }
}

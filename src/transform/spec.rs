//! A transform as it is written down, in TOML or JSON, and its check: every mistake is told with the field, what was
//! given and what would be right.

use serde::{Deserialize, Serialize};

use super::expression::{self, Expression};
use super::mapping::{Columns, Definition, Exclusion, Mapping, Output, Property, Require, Wanted};

/// Longest specification, and most requirements, definitions, drops, events, and properties of an event.
pub const SPEC_BYTES_MAX: usize = 64 << 10;
const ENTRIES_MAX: usize = 200;
/// Most parts of all expressions together.
const PARTS_MAX: usize = 4000;
const NAME_CHARS_MAX: usize = 60;

/// The whole of it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What a payload must have, in order; the first that is missing names why it is dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<RequireSpec>,
    /// Values with a name, in order; each may use those before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub define: Vec<DefineSpec>,
    /// Payloads that are no events, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop: Vec<DropSpec>,
    /// The events that a payload becomes.
    #[serde(default)]
    pub event: Vec<EventSpec>,
}

/// A path that must be there, with something in it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequireSpec {
    /// The path, or …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// … one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub any_of: Vec<String>,
    /// Why a payload without it is dropped.
    pub reason: String,
    /// Of another type it is an error, not a drop.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<Wanted>,
}

/// A value with a name.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefineSpec {
    pub name: String,
    pub value: String,
}

/// A payload for which this holds is no event.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropSpec {
    pub when: String,
    pub reason: String,
}

/// An event that a payload becomes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventSpec {
    /// Only if this holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// One event for each element of this array, `$item`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each: Option<String>,
    /// The raw event's id (with the event's number behind it from the second one on) where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub event_name: String,
    pub distinct_id: String,
    pub timestamp: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// In order; a name that comes again takes the place of the one before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub properties: Vec<PropertySpec>,
}

/// One or many properties of an event.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum PropertySpec {
    /// This name with this value; nothing where the value is missing.
    One {
        name: String,
        value: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        when: Option<String>,
    },
    /// Every key of an object.
    Spread {
        spread: String,
        #[serde(default)]
        as_text: bool,
    },
    /// These paths, each under its last key; what is missing or null is left out.
    Copy {
        copy: Vec<String>,
        #[serde(default)]
        as_text: bool,
    },
}

/// A specification will not do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field}: {problem}; given {given}; valid: {valid}")]
pub struct Invalid {
    pub field: String,
    pub given: String,
    pub problem: String,
    pub valid: String,
}

impl Invalid {
    pub(super) fn new(
        field: impl Into<String>,
        given: &str,
        problem: impl Into<String>,
        valid: &str,
    ) -> Self {
        let shown = match given.char_indices().nth(200) {
            None => format!("{given:?}"),
            Some((end, _)) => format!("{:?}…", &given[..end]),
        };
        Self { field: field.into(), given: shown, problem: problem.into(), valid: valid.to_owned() }
    }
}

impl Spec {
    /// Reads TOML, or JSON if it begins with a brace.
    ///
    /// # Errors
    /// It is neither, or has a field that there is not.
    pub fn read(text: &str) -> Result<Self, Invalid> {
        if text.len() > SPEC_BYTES_MAX {
            let problem = format!("it has {} bytes", text.len());
            return Err(Invalid::new("transform", "", problem, "at most 64 KiB"));
        }
        let wrong = |problem: String| {
            Invalid::new(
                "transform",
                text.lines().next().unwrap_or_default(),
                problem,
                "TOML or JSON with require, define, drop and event",
            )
        };
        if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|error| wrong(error.to_string()))
        } else {
            toml::from_str(text).map_err(|error| wrong(error.to_string().trim().to_owned()))
        }
    }

    /// Checks it and makes it ready to be applied.
    ///
    /// # Errors
    /// The first mistake.
    pub fn compile(&self) -> Result<Mapping, Invalid> {
        let mut compiler = Compiler::default();
        check_lengths(&[
            ("require", self.require.len()),
            ("define", self.define.len()),
            ("drop", self.drop.len()),
            ("event", self.event.len()),
        ])?;
        if self.event.is_empty() {
            return Err(Invalid::new("event", "", "there is none", "at least one [[event]]"));
        }
        let mut mapping = Mapping::default();
        for (index, spec) in self.require.iter().enumerate() {
            mapping.require.push(require(&format!("require[{index}]"), spec)?);
        }
        mapping.define = compiler.definitions(&self.define)?;
        for (index, spec) in self.drop.iter().enumerate() {
            check_name(&format!("drop[{index}].reason"), &spec.reason)?;
            let when = compiler.parse(format!("drop[{index}].when"), &spec.when, false)?;
            mapping.drop.push(Exclusion { when, reason: spec.reason.as_str().into() });
        }
        for (index, spec) in self.event.iter().enumerate() {
            mapping.event.push(compiler.event(&format!("event[{index}]"), spec)?);
        }
        Ok(mapping)
    }
}

/// Lists of a specification are bounded.
pub(super) fn check_lengths(lists: &[(&str, usize)]) -> Result<(), Invalid> {
    match lists.iter().find(|(_, length)| *length > ENTRIES_MAX) {
        Some((field, length)) => Err(Invalid::new(*field, "", format!("{length} entries"), "at most 200")),
        None => Ok(()),
    }
}

fn require(field: &str, spec: &RequireSpec) -> Result<Require, Invalid> {
    check_name(&format!("{field}.reason"), &spec.reason)?;
    let given: Vec<&String> = match (&spec.path, spec.any_of.as_slice()) {
        (Some(path), []) => vec![path],
        (None, [_, ..]) if spec.any_of.len() <= ENTRIES_MAX => spec.any_of.iter().collect(),
        _ => {
            let problem = "it names no path, or both path and any_of";
            return Err(Invalid::new(
                field,
                &spec.reason,
                problem,
                "path = \"…\" or any_of = [\"…\", \"…\"]",
            ));
        }
    };
    let mut paths = Vec::new();
    for path in given {
        let steps = expression::parse_path(path).map_err(|problem| {
            Invalid::new(format!("{field}.path"), path, problem, "a path such as data.modelName")
        })?;
        paths.push((path.clone(), steps));
    }
    Ok(Require { paths, reason: spec.reason.as_str().into(), wanted: spec.kind })
}

/// Reasons and names of definitions: they stand in metrics, logs and addresses.
fn check_name(field: &str, name: &str) -> Result<(), Invalid> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(fits) {
        return Err(Invalid::new(
            field,
            name,
            "not a name",
            "1 to 60 of a-z, 0-9 and _, such as missing_model_name",
        ));
    }
    Ok(())
}

/// Checks a specification piece by piece.
#[derive(Default)]
pub(super) struct Compiler {
    names: Vec<String>,
    parts: usize,
}

impl Compiler {
    pub(super) fn definitions(&mut self, specs: &[DefineSpec]) -> Result<Vec<Definition>, Invalid> {
        let mut definitions = Vec::new();
        for (index, spec) in specs.iter().enumerate() {
            let field = format!("define[{index}]");
            check_name(&format!("{field}.name"), &spec.name)?;
            if self.names.contains(&spec.name) || ["item", "index"].contains(&spec.name.as_str()) {
                return Err(Invalid::new(
                    format!("{field}.name"),
                    &spec.name,
                    "the name is taken",
                    "another name",
                ));
            }
            let value = self.parse(format!("{field}.value"), &spec.value, false)?;
            definitions.push(Definition { name: spec.name.clone(), value });
            self.names.push(spec.name.clone());
        }
        Ok(definitions)
    }

    fn parse(&mut self, field: String, text: &str, each: bool) -> Result<Expression, Invalid> {
        let parsed = expression::parse(text, &self.names, each);
        let expression = parsed.map_err(|problem| {
            Invalid::new(field.clone(), text, problem, "an expression such as lower(trim(providerName))")
        })?;
        self.parts += expression.parts();
        if self.parts > PARTS_MAX {
            let problem = "all expressions together have too many parts";
            return Err(Invalid::new(field, text, problem, "4000 names, values and calls"));
        }
        Ok(expression)
    }

    fn maybe(
        &mut self,
        field: String,
        text: Option<&String>,
        each: bool,
    ) -> Result<Option<Expression>, Invalid> {
        text.map(|text| self.parse(field, text, each)).transpose()
    }

    fn event(&mut self, field: &str, spec: &EventSpec) -> Result<Output, Invalid> {
        let at = |name: &str| format!("{field}.{name}");
        let each = self.maybe(at("each"), spec.each.as_ref(), false)?;
        let inside = each.is_some();
        if spec.properties.len() > ENTRIES_MAX {
            let problem = format!("{} entries", spec.properties.len());
            return Err(Invalid::new(at("properties"), "", problem, "at most 200"));
        }
        let columns = Columns {
            id: self.maybe(at("id"), spec.id.as_ref(), inside)?,
            event_name: self.parse(at("event_name"), &spec.event_name, inside)?,
            distinct_id: self.parse(at("distinct_id"), &spec.distinct_id, inside)?,
            timestamp: self.parse(at("timestamp"), &spec.timestamp, inside)?,
            customer_id: self.maybe(at("customer_id"), spec.customer_id.as_ref(), inside)?,
            session_id: self.maybe(at("session_id"), spec.session_id.as_ref(), inside)?,
            source: self.maybe(at("source"), spec.source.as_ref(), inside)?,
        };
        let when = self.maybe(at("when"), spec.when.as_ref(), inside)?;
        let mut properties = Vec::new();
        for (index, property) in spec.properties.iter().enumerate() {
            properties.push(self.property(&at(&format!("properties[{index}]")), property, inside)?);
        }
        Ok(Output { when, each, columns, properties })
    }

    pub(super) fn property(
        &mut self,
        field: &str,
        spec: &PropertySpec,
        each: bool,
    ) -> Result<Property, Invalid> {
        Ok(match spec {
            PropertySpec::One { name, value, when } => {
                if name.is_empty() || name.chars().count() > 200 {
                    let problem = "not a property's name";
                    return Err(Invalid::new(format!("{field}.name"), name, problem, "1 to 200 characters"));
                }
                Property::One {
                    name: name.clone(),
                    value: self.parse(format!("{field}.value"), value, each)?,
                    when: self.maybe(format!("{field}.when"), when.as_ref(), each)?,
                }
            }
            PropertySpec::Spread { spread, as_text } => Property::Spread {
                from: self.parse(format!("{field}.spread"), spread, each)?,
                as_text: *as_text,
            },
            PropertySpec::Copy { copy, as_text } => {
                let mut paths = Vec::new();
                for path in copy {
                    let copied = format!("{field}.copy");
                    let steps = expression::parse_path(path).map_err(|problem| {
                        Invalid::new(copied.clone(), path, problem, "paths such as data.byok")
                    })?;
                    let Some(expression::Step::Key(name)) = steps.last() else {
                        let problem = "it ends with a place";
                        return Err(Invalid::new(copied, path, problem, "a path that ends with a key"));
                    };
                    paths.push((name.clone(), steps));
                }
                Property::Copy { paths, as_text: *as_text }
            }
        })
    }
}

//! A transform that was checked, and what it makes of a payload: events, a drop with its reason, or an error.
//!
//! The same payload gives the same outcome for ever, on any machine: there is no clock, no randomness and no outside.
//! Time and memory are bounded by [`Limits`], whatever the payload and the transform.

use std::borrow::Cow;
use std::sync::Arc;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::expression::{Expression, Step};
use super::function::{Run, at, plain, time};
use super::json::Json;
use super::value::{Fault, Value};
use crate::event::Timestamp;

/// Longest id, name or distinct id of an event, in characters; longest of the other texts, in bytes.
const TEXT_CHARS_MAX: usize = 200;
const OPTIONAL_BYTES_MAX: usize = 1024;

/// Bounds of what one payload may cost and become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most events of one payload.
    pub events_max: usize,
    /// Parts of expressions computed and bytes of texts made, together.
    pub work_max: usize,
}

/// What a transform makes of a payload.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// At least one.
    Events(Vec<Mapped>),
    /// It is no event, for this reason.
    Dropped(Arc<str>),
}

/// An event that a payload became.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Mapped {
    pub id: String,
    pub event_name: String,
    pub distinct_id: String,
    pub timestamp: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customer_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A JSON object's text.
    #[serde(serialize_with = "as_json")]
    pub properties: String,
}

fn as_json<S: serde::Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let raw = serde_json::from_str::<&serde_json::value::RawValue>(text);
    raw.map_err(serde::ser::Error::custom)?.serialize(serializer)
}

/// A payload cannot be transformed: it is not JSON, or a value of it is not what the transform needs.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct TransformError(pub String);

/// The type that a required path must have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    Text,
    Number,
    Boolean,
    Object,
    Array,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Require {
    /// As written, and parsed.
    pub(super) paths: Vec<(String, Vec<Step>)>,
    pub(super) reason: Arc<str>,
    pub(super) wanted: Option<Wanted>,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Definition {
    pub(super) name: String,
    pub(super) value: Expression,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Exclusion {
    pub(super) when: Expression,
    pub(super) reason: Arc<str>,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Output {
    pub(super) when: Option<Expression>,
    pub(super) each: Option<Expression>,
    pub(super) columns: Columns,
    pub(super) properties: Vec<Property>,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Columns {
    pub(super) id: Option<Expression>,
    pub(super) event_name: Expression,
    pub(super) distinct_id: Expression,
    pub(super) timestamp: Expression,
    pub(super) customer_id: Option<Expression>,
    pub(super) session_id: Option<Expression>,
    pub(super) source: Option<Expression>,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Property {
    One { name: String, value: Expression, when: Option<Expression> },
    Spread { from: Expression, as_text: bool },
    Copy { paths: Vec<(String, Vec<Step>)>, as_text: bool },
}

/// See the [module](self).
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Mapping {
    pub(super) require: Vec<Require>,
    pub(super) define: Vec<Definition>,
    pub(super) drop: Vec<Exclusion>,
    pub(super) event: Vec<Output>,
}

/// No event of the transform is meant for it.
pub const NO_EVENT: &str = "no_event";

/// In the order in which they were found.
pub(super) type Properties<'a> = IndexMap<Cow<'a, str>, Value<'a>, foldhash::fast::RandomState>;
/// Properties that are expected; more cost a little time.
const PROPERTIES: usize = 32;

impl Mapping {
    /// Every reason for which it drops a payload, in order.
    pub fn reasons(&self) -> impl Iterator<Item = &str> {
        let required = self.require.iter().map(|require| &*require.reason);
        required.chain(self.drop.iter().map(|drop| &*drop.reason)).chain([NO_EVENT])
    }

    /// What it makes of a payload. `raw_id` is the raw event's, for events that have no id of their own.
    ///
    /// # Errors
    /// See [`TransformError`].
    pub fn apply(&self, payload: &str, raw_id: &str, limits: Limits) -> Result<Outcome, TransformError> {
        let json = Json::parse(payload).map_err(|error| TransformError(error.to_string()))?;
        if !matches!(json, Json::Object { .. }) {
            return Err(TransformError(format!("the payload is {}; an object is needed", json.kind())));
        }
        for require in &self.require {
            if let Some(reason) = require.missing(&json)? {
                return Ok(Outcome::Dropped(reason));
            }
        }
        let mut run = Run {
            payload: &json,
            defined: Vec::with_capacity(self.define.len()),
            item: None,
            fuel: limits.work_max,
        };
        define(&mut run, &self.define)?;
        for drop in &self.drop {
            let holds = run.compute(&drop.when).and_then(|value| value.truth());
            if holds.map_err(|fault| blame(&format!("drop {}", drop.reason), fault))? {
                return Ok(Outcome::Dropped(drop.reason.clone()));
            }
        }
        let mut events = Vec::new();
        for output in &self.event {
            output.apply(&mut run, raw_id, limits, &mut events)?;
        }
        Ok(if events.is_empty() { Outcome::Dropped(NO_EVENT.into()) } else { Outcome::Events(events) })
    }
}

/// Computes what has a name.
pub(super) fn define<'a>(run: &mut Run<'a>, definitions: &'a [Definition]) -> Result<(), TransformError> {
    for definition in definitions {
        let value = run.compute(&definition.value);
        let value = value.map_err(|fault| blame(&format!("${}", definition.name), fault))?;
        run.defined.push(value);
    }
    Ok(())
}

pub(super) fn blame(place: &str, fault: Fault) -> TransformError {
    let Fault(reason) = fault;
    TransformError(format!("{place}: {reason}"))
}

impl Require {
    /// The reason, if none of the paths has something.
    fn missing(&self, json: &Json<'_>) -> Result<Option<Arc<str>>, TransformError> {
        let mut found = false;
        for (path, steps) in &self.paths {
            let value = at(json, steps);
            if value.is_nothing() {
                continue;
            }
            let fits = match self.wanted {
                None => true,
                Some(Wanted::Text) => matches!(value, Value::Text(_)),
                Some(Wanted::Number) => matches!(value, Value::Number(_)),
                Some(Wanted::Boolean) => matches!(value, Value::Bool(_)),
                Some(Wanted::Object) => matches!(value, Value::Json(Json::Object { .. })),
                Some(Wanted::Array) => matches!(value, Value::Json(Json::Array { .. })),
            };
            if !fits {
                let wanted = self.wanted.map_or("", Wanted::as_str);
                return Err(TransformError(format!("{path} is {}; {wanted} is needed", value.kind())));
            }
            found = found || !value.is_empty();
        }
        Ok((!found).then(|| self.reason.clone()))
    }
}

impl Wanted {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Number => "a number",
            Self::Boolean => "a boolean",
            Self::Object => "an object",
            Self::Array => "an array",
        }
    }
}

impl Output {
    fn apply<'a>(
        &'a self,
        run: &mut Run<'a>,
        raw_id: &str,
        limits: Limits,
        events: &mut Vec<Mapped>,
    ) -> Result<(), TransformError> {
        let Some(each) = &self.each else {
            return self.one(run, raw_id, limits, events);
        };
        let items: &'a [Json<'a>] = match run.compute(each).map_err(|fault| blame("each", fault))? {
            Value::Json(Json::Array { items, .. }) => items,
            nothing if nothing.is_nothing() => &[],
            other => return Err(TransformError(format!("each: {} is no array", other.kind()))),
        };
        for item in items.iter().enumerate() {
            run.item = Some(item);
            let made = self.one(run, raw_id, limits, events);
            run.item = None;
            made?;
        }
        Ok(())
    }

    fn one<'a>(
        &'a self,
        run: &mut Run<'a>,
        raw_id: &str,
        limits: Limits,
        events: &mut Vec<Mapped>,
    ) -> Result<(), TransformError> {
        if let Some(when) = &self.when {
            let holds = run.compute(when).and_then(|value| value.truth());
            if !holds.map_err(|fault| blame("when", fault))? {
                return Ok(());
            }
        }
        if events.len() == limits.events_max {
            let message =
                format!("more than {} events of one payload (transform.events_max)", limits.events_max);
            return Err(TransformError(message));
        }
        let columns = &self.columns;
        let id = match &columns.id {
            Some(id) => required("id", run.compute(id))?,
            None if events.is_empty() => raw_id.to_owned(),
            None => format!("{raw_id}-{}", events.len()),
        };
        if events.iter().any(|event| event.id == id) {
            return Err(TransformError(format!("id: two events of the payload have the id {id:?}")));
        }
        let timestamp = run.compute(&columns.timestamp).and_then(|value| match value.is_nothing() {
            true => Err(Fault("there is none".to_owned())),
            false => time(&value, None),
        });
        let timestamp = timestamp.map_err(|fault| blame("timestamp", fault))?;
        if timestamp < Timestamp::EPOCH || timestamp > Timestamp::MAX {
            let message =
                format!("timestamp: {timestamp} is outside of {} to {}", Timestamp::EPOCH, Timestamp::MAX);
            return Err(TransformError(message));
        }
        let mapped = Mapped {
            id,
            event_name: required("event_name", run.compute(&columns.event_name))?,
            distinct_id: required("distinct_id", run.compute(&columns.distinct_id))?,
            timestamp,
            customer_id: optional("customer_id", run, columns.customer_id.as_ref())?,
            session_id: optional("session_id", run, columns.session_id.as_ref())?,
            source: optional("source", run, columns.source.as_ref())?,
            properties: self.properties(run)?,
        };
        events.push(mapped);
        Ok(())
    }

    fn properties<'a>(&'a self, run: &mut Run<'a>) -> Result<String, TransformError> {
        let found = Properties::with_capacity_and_hasher(PROPERTIES, Default::default());
        written_object(run, found, &self.properties)
    }
}

/// What was found already, with these properties put in or in its place, as a JSON object's text.
pub(super) fn written_object<'a>(
    run: &mut Run<'a>,
    mut found: Properties<'a>,
    properties: &'a [Property],
) -> Result<String, TransformError> {
    for property in properties {
        property.gather(run, &mut found).map_err(|fault| blame("properties", fault))?;
    }
    let mut json = String::with_capacity(32 + 32 * found.len());
    json.push('{');
    for (name, value) in found {
        if json.len() > 1 {
            json.push(',');
        }
        quote(&name, &mut json);
        json.push(':');
        match value {
            Value::Missing | Value::Null => json.push_str("null"),
            Value::Bool(_) | Value::Number(_) | Value::Json(_) => {
                json.push_str(&value.into_text().unwrap_or_default());
            }
            Value::Text(text) => quote(&text, &mut json),
            Value::Time(at) => quote(&at.to_string(), &mut json),
        }
    }
    json.push('}');
    run.spend(json.len()).map_err(|fault| blame("properties", fault))?;
    Ok(json)
}

/// A text as JSON writes it.
fn quote(text: &str, json: &mut String) {
    json.push('"');
    // No early end: so the compiler looks at many bytes at once.
    if text.bytes().fold(true, |plain, byte| plain & (byte >= 0x20) & (byte != b'"') & (byte != b'\\')) {
        json.push_str(text);
    } else {
        let quoted = serde_json::Value::from(text).to_string();
        json.push_str(&quoted[1..quoted.len() - 1]);
    }
    json.push('"');
}

impl Property {
    fn gather<'a>(&'a self, run: &mut Run<'a>, found: &mut Properties<'a>) -> Result<(), Fault> {
        match self {
            Self::One { name, value, when } => {
                if let Some(when) = when
                    && !run.compute(when)?.truth()?
                {
                    return Ok(());
                }
                let value = run.compute(value)?;
                if value != Value::Missing {
                    found.insert(Cow::Borrowed(name), value);
                }
            }
            Self::Spread { from, as_text } => {
                let json = match run.compute(from)? {
                    Value::Json(json) => json,
                    nothing if nothing.is_nothing() => return Ok(()),
                    other => return Err(Fault(format!("spread: {} is no object", other.kind()))),
                };
                let Json::Object { fields, .. } = json else {
                    return Err(Fault("spread: an array is no object".to_owned()));
                };
                run.spend(fields.len())?;
                for (name, value) in fields {
                    found.insert(Cow::Borrowed(name), written(value.into(), *as_text));
                }
            }
            Self::Copy { paths, as_text } => {
                run.spend(paths.len())?;
                for (name, steps) in paths {
                    let value = at(run.payload, steps);
                    if !value.is_nothing() {
                        found.insert(Cow::Borrowed(name), written(value, *as_text));
                    }
                }
            }
        }
        Ok(())
    }
}

/// As it is, or as a text; an object with `value` stands for that.
fn written(value: Value<'_>, as_text: bool) -> Value<'_> {
    if as_text { plain(value).into_text().map_or(Value::Null, Value::Text) } else { value }
}

fn required(field: &str, value: Result<Value<'_>, Fault>) -> Result<String, TransformError> {
    let text = match value.map_err(|fault| blame(field, fault))? {
        Value::Text(text) | Value::Number(text) => text,
        nothing if nothing.is_nothing() => return Err(TransformError(format!("{field}: there is none"))),
        other => return Err(TransformError(format!("{field}: {} is no text", other.kind()))),
    };
    let text = text.trim();
    let characters = if text.len() <= TEXT_CHARS_MAX { text.len() } else { text.chars().count() };
    if text.is_empty() || characters > TEXT_CHARS_MAX || text.contains('\0') {
        let message =
            format!("{field}: {characters} characters; 1 to {TEXT_CHARS_MAX} without NUL are needed");
        return Err(TransformError(message));
    }
    Ok(text.to_owned())
}

fn optional<'a>(
    field: &str,
    run: &mut Run<'a>,
    expression: Option<&'a Expression>,
) -> Result<Option<String>, TransformError> {
    let Some(expression) = expression else { return Ok(None) };
    let value = run.compute(expression).map_err(|fault| blame(field, fault))?;
    let Some(text) = value.into_text().filter(|text| !text.is_empty()) else { return Ok(None) };
    if text.len() > OPTIONAL_BYTES_MAX {
        return Err(TransformError(format!(
            "{field}: {} bytes; at most {OPTIONAL_BYTES_MAX} fit",
            text.len()
        )));
    }
    Ok(Some(text.into_owned()))
}

//! Record bytes → the fields of a row, borrowed from the record: no allocation an event, but for texts with escapes.
//!
//! Reads FlexFlow's own shape ([`crate::event::LogEvent`]) and FlexPrice's message (`tenant_id`, `external_customer_id`, …), so
//! that its producers can feed the topic as they are. What cannot become a row is refused with an [`ErrorKind`] and
//! words that name the field, the value and what would be right.

mod wire;

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::event::{ErrorKind, SCHEMA_VERSION, Scope, Timestamp};
use crate::eventlog::Record;
use wire::{Number, Text, Wire};

/// Longest id, name or distinct id, in characters.
const TEXT_CHARS_MAX: usize = 200;
/// Longest of the optional texts, in bytes.
const OPTIONAL_BYTES_MAX: usize = 1024;
/// Characters of a given value that a refusal repeats.
const SHOWN_CHARS_MAX: usize = 80;

/// Why no row can be made of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub kind: ErrorKind,
    pub message: String,
}

/// Where a text stands: in the record's value, or in `unescaped`.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    length: u32,
}

const UNESCAPED: u32 = 1 << 31;

/// A decoded event: places in its record, to be read with [`Decoded::text`]. 128 bytes, no allocation for plain text.
#[derive(Clone, Debug)]
pub struct Decoded {
    texts: [Span; FIELDS],
    unescaped: Option<Box<str>>,
    pub timestamp: Timestamp,
    pub received_at: Timestamp,
    pub schema_version: u32,
    /// Capture made the id: no resend can carry it.
    pub id_generated: bool,
    /// What its schema says of it, if it has one.
    pub mark: Option<Box<str>>,
}

/// The texts of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Id,
    ProjectId,
    EnvironmentId,
    EventName,
    DistinctId,
    CustomerId,
    SessionId,
    Source,
    Properties,
}

const FIELDS: usize = 9;

impl Decoded {
    /// A text of the event; empty where it has none. `value` is the value it was decoded from.
    pub fn text<'a>(&'a self, value: &'a [u8], field: Field) -> &'a str {
        self.of(value).text(field)
    }

    /// Sets other properties in their place: the text of a JSON object.
    pub(super) fn replace_properties(&mut self, properties: &str) {
        let mut unescaped = self.unescaped.take().map(String::from).unwrap_or_default();
        let start = unescaped.len() as u32 | UNESCAPED;
        unescaped.push_str(properties);
        self.texts[Field::Properties as usize] = Span { start, length: properties.len() as u32 };
        self.unescaped = Some(unescaped.into_boxed_str());
    }

    /// The same for several texts.
    pub fn of<'a>(&'a self, value: &'a [u8]) -> Texts<'a> {
        Texts { event: self, value }
    }
}

/// The texts of an event, with the value they stand in.
#[derive(Clone, Copy, Debug)]
pub struct Texts<'a> {
    event: &'a Decoded,
    value: &'a [u8],
}

impl<'a> Texts<'a> {
    /// One of them; empty where the event has none.
    pub fn text(&self, field: Field) -> &'a str {
        let Span { start, length } = self.event.texts[field as usize];
        let (from, start) = if start & UNESCAPED == 0 {
            (self.value, start as usize)
        } else {
            let unescaped = self.event.unescaped.as_deref().unwrap_or_default();
            (unescaped.as_bytes(), (start & !UNESCAPED) as usize)
        };
        // The spans were cut from text at character boundaries.
        let text = from.get(start..start + length as usize).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }
}

/// Reads a record.
///
/// # Errors
/// See [`Refused`]; nothing here depends on when it runs, so the same record is refused or taken for ever.
pub fn decode(record: &Record) -> Result<Decoded, Refused> {
    decode_in(record, None)
}

/// The same; `scope` is where an event belongs that says neither its project nor its environment.
///
/// # Errors
/// As [`decode`].
pub(super) fn decode_in(record: &Record, scope: Option<&Scope>) -> Result<Decoded, Refused> {
    let value = record.value.as_ref().ok_or_else(|| {
        refused(ErrorKind::EmptyRecord, "the record has no value; an event's JSON object is expected")
    })?;
    if value.is_empty() {
        return Err(refused(
            ErrorKind::EmptyRecord,
            "the record's value is empty; an event's JSON object is expected",
        ));
    }
    let text = std::str::from_utf8(value).map_err(|error| {
        refused(ErrorKind::InvalidJson, &format!("not UTF-8 from byte {}", error.valid_up_to()))
    })?;
    if !text.trim_start().starts_with('{') {
        return Err(refused(ErrorKind::InvalidJson, "not a JSON object"));
    }
    let mut wire = Wire::read(text).map_err(|error| bad_json(&error))?;
    if let Some(scope) = scope
        && (wire.project_id.is_none() && wire.tenant_id.is_none() && wire.environment_id.is_none())
    {
        let named = |id: &str| Some(Text::Text(Cow::Owned(id.to_owned())));
        wire.project_id = named(scope.project.as_str());
        wire.environment_id = named(scope.environment.as_str());
    }
    Reader { value, logged_at: record.timestamp, unescaped: String::new() }.read(wire)
}

fn bad_json(error: &serde_json::Error) -> Refused {
    match error.classify() {
        // The JSON is fine; a field of it is not (a field that stands twice, say).
        serde_json::error::Category::Data => refused(ErrorKind::InvalidField, &error.to_string()),
        _ => refused(ErrorKind::InvalidJson, &format!("not JSON: {error}")),
    }
}

fn refused(kind: ErrorKind, message: &str) -> Refused {
    Refused { kind, message: message.to_owned() }
}

struct Reader<'a> {
    value: &'a Bytes,
    logged_at: Timestamp,
    unescaped: String,
}

impl<'a> Reader<'a> {
    fn read(mut self, wire: Wire<'a>) -> Result<Decoded, Refused> {
        let schema_version = schema_version(wire.schema_version.as_ref())?;
        let ours = wire.project_id.is_some();
        let project = if ours { ("project_id", wire.project_id) } else { ("tenant_id", wire.tenant_id) };
        let distinct = match wire.distinct_id {
            Some(distinct_id) => ("distinct_id", Some(distinct_id)),
            None => ("external_customer_id", wire.external_customer_id),
        };
        let (timestamp, received_at) = times(wire.timestamp, wire.received_at, self.logged_at)?;
        let texts = [
            self.required("id", wire.id)?,
            self.required(if project.1.is_none() { "project_id" } else { project.0 }, project.1)?,
            self.required("environment_id", wire.environment_id)?,
            self.required("event_name", wire.event_name)?,
            self.required(if distinct.1.is_none() { "distinct_id" } else { distinct.0 }, distinct.1)?,
            self.optional("customer_id", wire.customer_id)?,
            self.optional("session_id", wire.session_id)?,
            self.optional("source", wire.source)?,
            self.properties(wire.properties)?,
        ];
        Ok(Decoded {
            texts,
            unescaped: (!self.unescaped.is_empty()).then(|| self.unescaped.into_boxed_str()),
            timestamp,
            received_at,
            schema_version,
            id_generated: wire.id_generated.unwrap_or(false),
            mark: None,
        })
    }

    /// Where a text stands: in the value, or copied to `unescaped` where it had escapes.
    fn span(&mut self, text: Cow<'_, str>) -> Span {
        let length = text.len() as u32;
        match text {
            Cow::Borrowed(text) => self.place(text),
            Cow::Owned(text) => {
                let start = self.unescaped.len() as u32 | UNESCAPED;
                self.unescaped.push_str(&text);
                Span { start, length }
            }
        }
    }

    fn place(&self, text: &str) -> Span {
        let start = (text.as_ptr() as usize).wrapping_sub(self.value.as_ptr() as usize);
        Span { start: start as u32, length: text.len() as u32 }
    }

    fn required(&mut self, field: &'static str, text: Option<Text<'_>>) -> Result<Span, Refused> {
        let missing =
            |what: &str| refused(ErrorKind::MissingField, &format!("{field} is {what}; a text is required"));
        let text = match text {
            None | Some(Text::Other("null")) => return Err(missing("absent")),
            Some(Text::Other(kind)) => return Err(wrong_type(field, kind)),
            Some(Text::Text(text)) => text,
        };
        if text.trim().is_empty() {
            return Err(missing("empty"));
        }
        if text.len() > TEXT_CHARS_MAX && text.chars().count() > TEXT_CHARS_MAX {
            return Err(refused(
                ErrorKind::InvalidField,
                &format!("{field} {:?} has more than {TEXT_CHARS_MAX} characters", shown(&text)),
            ));
        }
        if text.contains('\0') {
            return Err(refused(ErrorKind::InvalidField, &format!("{field} {:?} has a NUL", shown(&text))));
        }
        Ok(self.span(text))
    }

    fn optional(&mut self, field: &'static str, text: Option<Text<'_>>) -> Result<Span, Refused> {
        match text {
            None | Some(Text::Other("null")) => Ok(Span::default()),
            Some(Text::Other(kind)) => Err(wrong_type(field, kind)),
            Some(Text::Text(text)) if text.len() > OPTIONAL_BYTES_MAX => Err(refused(
                ErrorKind::InvalidField,
                &format!("{field} {:?} has more than {OPTIONAL_BYTES_MAX} bytes", shown(&text)),
            )),
            Some(Text::Text(text)) => Ok(self.span(text)),
        }
    }

    /// The object's text byte for byte; `{}` where there is none.
    fn properties(&mut self, properties: Option<&RawValue>) -> Result<Span, Refused> {
        match properties.map(RawValue::get) {
            None | Some("null") => Ok(self.span(Cow::Owned("{}".to_owned()))),
            Some(text) if text.starts_with('{') => Ok(self.place(text)),
            Some(text) => Err(refused(
                ErrorKind::InvalidField,
                &format!("properties is {}; an object is expected", shown(text)),
            )),
        }
    }
}

fn wrong_type(field: &'static str, kind: &str) -> Refused {
    refused(ErrorKind::InvalidField, &format!("{field} is {kind}; a text is expected"))
}

fn schema_version(version: Option<&Number>) -> Result<u32, Refused> {
    match version {
        None => Ok(SCHEMA_VERSION),
        Some(Number::Natural(version)) => match u32::try_from(*version) {
            Ok(version @ 1..=SCHEMA_VERSION) => Ok(version),
            _ => Err(refused(
                ErrorKind::UnknownSchemaVersion,
                &format!("schema_version {version} is not known; this version reads 1 to {SCHEMA_VERSION}"),
            )),
        },
        Some(Number::Other(_)) => {
            Err(refused(ErrorKind::InvalidField, "schema_version is no natural number; 1 is expected"))
        }
    }
}

/// The time of the event, and of its receipt. FlexPrice's messages have no receipt of their own (`ingested_at` is zero):
/// the log's time of the record is the next best, and as fixed.
fn times(
    timestamp: Option<Text<'_>>,
    received_at: Option<Text<'_>>,
    logged_at: Timestamp,
) -> Result<(Timestamp, Timestamp), Refused> {
    let timestamp = time("timestamp", timestamp)?.ok_or_else(|| {
        refused(ErrorKind::MissingField, "timestamp is absent; an RFC 3339 time is required")
    })?;
    let received_at = time("received_at", received_at)?.unwrap_or(logged_at);
    Ok((timestamp, received_at.max(Timestamp::EPOCH).min(Timestamp::MAX)))
}

fn time(field: &'static str, text: Option<Text<'_>>) -> Result<Option<Timestamp>, Refused> {
    let text = match text {
        None | Some(Text::Other("null")) => return Ok(None),
        Some(Text::Other(kind)) => return Err(wrong_type(field, kind)),
        Some(Text::Text(text)) => text,
    };
    let at = Timestamp::parse(&text).map_err(|error| {
        refused(ErrorKind::InvalidField, &format!("{field} {:?} is {error}", shown(&text)))
    })?;
    if at < Timestamp::EPOCH || at > Timestamp::MAX {
        return Err(refused(
            ErrorKind::OutOfRange,
            &format!("{field} {at} is outside of {} to {}", Timestamp::EPOCH, Timestamp::MAX),
        ));
    }
    Ok(Some(at))
}

fn shown(text: &str) -> &str {
    text.char_indices().nth(SHOWN_CHARS_MAX).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(value: impl Into<Bytes>) -> Record {
        Record {
            offset: 0,
            timestamp: Timestamp::EPOCH,
            key: None,
            value: Some(value.into()),
            headers: Default::default(),
        }
    }

    fn event(change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) -> Record {
        let mut event = serde_json::json!({
            "id": "e1", "project_id": "proj_1", "environment_id": "env_1", "event_name": "click",
            "distinct_id": "d1", "timestamp": "2026-01-31T12:00:00.123Z",
            "received_at": "2026-01-31T12:00:01Z", "schema_version": 1, "properties": {"a": 1},
        });
        change(event.as_object_mut().unwrap());
        record(serde_json::to_vec(&event).unwrap())
    }

    fn refusal(record: &Record) -> (ErrorKind, String) {
        let refused = decode(record).unwrap_err();
        (refused.kind, refused.message)
    }

    #[test]
    fn plain_texts_are_places_in_the_record() {
        let record = event(|_| {});
        let decoded = decode(&record).unwrap();
        let value = record.value.as_ref().unwrap();
        assert_eq!(decoded.text(value, Field::Id), "e1");
        assert_eq!(decoded.text(value, Field::Properties), r#"{"a":1}"#);
        assert_eq!(decoded.text(value, Field::Source), "");
        assert!(decoded.unescaped.is_none());
        assert_eq!(decoded.timestamp.to_string(), "2026-01-31T12:00:00.123Z");
    }

    #[test]
    fn escapes_are_read_and_absent_properties_are_an_empty_object() {
        let record = event(|event| {
            event["event_name"] = "say \"hi\"\n".into();
            event["distinct_id"] = "ä\u{1}".into();
            event.remove("properties");
        });
        let decoded = decode(&record).unwrap();
        let value = record.value.as_ref().unwrap();
        assert_eq!(decoded.text(value, Field::EventName), "say \"hi\"\n");
        assert_eq!(decoded.text(value, Field::DistinctId), "ä\u{1}");
        assert_eq!(decoded.text(value, Field::Properties), "{}");
    }

    #[test]
    fn flexprices_message_is_read() {
        let text = r#"{"id":"event_01","tenant_id":"t1","environment_id":"env_2","event_name":"api_call",
            "properties":{"tokens":"12"},"source":"","timestamp":"2026-01-31T12:00:00Z",
            "ingested_at":"0001-01-01T00:00:00Z","customer_id":"","external_customer_id":"cus_9"}"#;
        let record = record(text);
        let decoded = decode(&record).unwrap();
        let value = record.value.as_ref().unwrap();
        assert_eq!(decoded.text(value, Field::ProjectId), "t1");
        assert_eq!(decoded.text(value, Field::DistinctId), "cus_9");
        assert_eq!(decoded.received_at, record.timestamp);
    }

    #[test]
    fn other_properties_take_the_place_of_those_that_stand_in_the_record() {
        for source in ["plain", "with \"quotes\""] {
            let record = event(|event| drop(event.insert("source".into(), source.into())));
            let mut decoded = decode(&record).unwrap();
            decoded.replace_properties(r#"{"a":"ä"}"#);
            decoded.replace_properties(r#"{"b":"ö","c":1}"#);
            let value = record.value.as_ref().unwrap();
            assert_eq!(decoded.text(value, Field::Properties), r#"{"b":"ö","c":1}"#);
            assert_eq!(decoded.text(value, Field::Source), source);
        }
    }

    #[test]
    fn each_refusal_has_its_kind_and_names_the_field() {
        let without = |field: &str| event(|event| drop(event.remove(field)));
        let with =
            |field: &str, value: serde_json::Value| event(|event| drop(event.insert(field.into(), value)));
        let cases = [
            (Record { value: None, ..record("") }, ErrorKind::EmptyRecord, "no value"),
            (record(""), ErrorKind::EmptyRecord, "empty"),
            (record("{\"id\":"), ErrorKind::InvalidJson, "not JSON"),
            (record("[1]"), ErrorKind::InvalidJson, "object"),
            (record(&b"{\"id\":\"\xff\"}"[..]), ErrorKind::InvalidJson, "UTF-8"),
            (record(r#"{"id":"a","id":"b"}"#), ErrorKind::InvalidField, "duplicate"),
            (without("id"), ErrorKind::MissingField, "id is absent"),
            (without("project_id"), ErrorKind::MissingField, "project_id"),
            (without("distinct_id"), ErrorKind::MissingField, "distinct_id"),
            (without("timestamp"), ErrorKind::MissingField, "timestamp"),
            (with("event_name", "  ".into()), ErrorKind::MissingField, "event_name is empty"),
            (with("event_name", 7.into()), ErrorKind::InvalidField, "event_name is a number"),
            (with("distinct_id", "x".repeat(201).into()), ErrorKind::InvalidField, "200"),
            (with("distinct_id", "a\0b".into()), ErrorKind::InvalidField, "NUL"),
            (with("properties", serde_json::json!([1])), ErrorKind::InvalidField, "properties"),
            (with("timestamp", "yesterday".into()), ErrorKind::InvalidField, "yesterday"),
            (with("timestamp", "1969-12-31T23:59:59Z".into()), ErrorKind::OutOfRange, "timestamp"),
            (with("timestamp", "9999-01-01T00:00:00Z".into()), ErrorKind::OutOfRange, "timestamp"),
            (with("schema_version", 2.into()), ErrorKind::UnknownSchemaVersion, "schema_version 2"),
            (with("schema_version", u64::MAX.into()), ErrorKind::UnknownSchemaVersion, "schema_version"),
            (with("schema_version", "1".into()), ErrorKind::InvalidField, "schema_version"),
        ];
        for (record, kind, words) in cases {
            let (found, message) = refusal(&record);
            assert_eq!(found, kind, "{message}");
            assert!(message.contains(words), "{message:?} should name {words:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&record(bytes));
        }

        #[test]
        fn nothing_near_an_event_panics(cut in 0usize..260, at in 0usize..260, byte in any::<u8>()) {
            let mut bytes = event(|_| {}).value.unwrap().to_vec();
            bytes.truncate(cut.max(1));
            let at = at % bytes.len();
            bytes[at] = byte;
            let record = record(bytes);
            if let Ok(decoded) = decode(&record) {
                let value = record.value.as_ref().unwrap();
                prop_assert!(!decoded.text(value, Field::Id).is_empty());
                let is_object = decoded.text(value, Field::Properties).starts_with('{');
                prop_assert!(is_object);
            }
        }

        #[test]
        fn any_text_survives(id in "\\PC{1,200}", name in any::<String>()) {
            prop_assume!(!id.trim().is_empty());
            let record = event(|event| {
                event.insert("id".into(), id.clone().into());
                event.insert("source".into(), name.chars().take(100).collect::<String>().into());
            });
            let decoded = decode(&record).unwrap();
            let value = record.value.as_ref().unwrap();
            prop_assert_eq!(decoded.text(value, Field::Id), id);
            prop_assert_eq!(decoded.text(value, Field::Source), name.chars().take(100).collect::<String>());
        }
    }
}

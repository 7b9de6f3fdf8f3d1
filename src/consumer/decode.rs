//! A record's bytes as an event, or the reason why not. Pure: the same record gives the same answer at any time, by any
//! process; nothing here looks at a clock.
//!
//! Reads what capture writes ([`LogEvent`]) and FlexPrice's message (`tenant_id`, `external_customer_id`,
//! `ingested_at`), so that existing producers can feed the topic.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::{ErrorKind, LogEvent, SCHEMA_VERSION, Timestamp};
use crate::eventlog::Record;

/// Longest id, name or distinct id, in characters.
const TEXT_CHARS_MAX: usize = 200;

/// Why no row can be made of a record.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    pub kind: ErrorKind,
    /// Says which field, what it held and what would be right.
    pub message: String,
}

impl Refused {
    fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// The value of a record as it may come: every field optional, so that what is missing can be named.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    project_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    tenant_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    environment_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    event_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    distinct_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    external_customer_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    customer_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    session_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    source: Option<Cow<'a, str>>,
    #[serde(borrow)]
    timestamp: Option<Cow<'a, str>>,
    #[serde(borrow)]
    received_at: Option<Cow<'a, str>>,
    schema_version: Option<u32>,
    #[serde(default)]
    id_generated: bool,
    #[serde(borrow)]
    properties: Option<&'a RawValue>,
}

/// The event of a record.
///
/// # Errors
/// [`Refused`], with a kind of the closed list and words for people.
pub fn decode(record: &Record) -> Result<LogEvent<'_>, Refused> {
    let Some(value) = record.value.as_deref() else {
        return Err(Refused::new(ErrorKind::EmptyRecord, "the record has no value"));
    };
    let wire: Wire<'_> = serde_json::from_slice(value).map_err(|error| unreadable(value, &error))?;
    let schema_version = wire.schema_version.unwrap_or(1);
    if schema_version == 0 || schema_version > SCHEMA_VERSION {
        return Err(Refused::new(
            ErrorKind::UnknownSchemaVersion,
            format!("schema_version {schema_version} is not known; this version reads 1 to {SCHEMA_VERSION}"),
        ));
    }
    let distinct_id = first_of([wire.distinct_id, wire.external_customer_id, wire.customer_id.clone()]);
    let timestamp = time("timestamp", required("timestamp", wire.timestamp)?)?;
    let received_at = match wire.received_at {
        Some(text) => time("received_at", text)?,
        // FlexPrice sends a zero `ingested_at`; the log's own time of the record is the next best and as fixed.
        None => in_range("the record's time", record.timestamp)?,
    };
    Ok(LogEvent {
        id: text("id", wire.id)?,
        project_id: text("project_id", first_of([wire.project_id, wire.tenant_id]))?,
        environment_id: text("environment_id", wire.environment_id)?,
        event_name: text("event_name", wire.event_name)?,
        distinct_id: text("distinct_id", distinct_id)?,
        customer_id: wire.customer_id.filter(|id| !id.is_empty()),
        session_id: wire.session_id.filter(|id| !id.is_empty()),
        source: wire.source.filter(|source| !source.is_empty()),
        timestamp,
        received_at,
        schema_version,
        id_generated: wire.id_generated,
        properties: properties(wire.properties)?,
    })
}

/// The first that is there and not empty.
fn first_of<'a, const N: usize>(candidates: [Option<Cow<'a, str>>; N]) -> Option<Cow<'a, str>> {
    candidates.into_iter().flatten().find(|text| !text.is_empty())
}

fn required<'a>(field: &str, value: Option<Cow<'a, str>>) -> Result<Cow<'a, str>, Refused> {
    value.filter(|text| !text.trim().is_empty()).ok_or_else(|| {
        Refused::new(ErrorKind::MissingField, format!("{field} is required and is absent or empty"))
    })
}

fn text<'a>(field: &str, value: Option<Cow<'a, str>>) -> Result<Cow<'a, str>, Refused> {
    let text = required(field, value)?;
    // Bytes bound characters from above: most texts need no counting.
    if text.len() > TEXT_CHARS_MAX && text.chars().count() > TEXT_CHARS_MAX {
        let given = text.chars().count();
        return Err(Refused::new(
            ErrorKind::InvalidField,
            format!("{field} has {given} characters, at most {TEXT_CHARS_MAX} are kept"),
        ));
    }
    Ok(text)
}

fn time(field: &str, text: Cow<'_, str>) -> Result<Timestamp, Refused> {
    let at = Timestamp::parse(&text)
        .map_err(|error| Refused::new(ErrorKind::InvalidField, format!("{field} {text:?} is {error}")))?;
    in_range(field, at)
}

fn in_range(field: &str, at: Timestamp) -> Result<Timestamp, Refused> {
    if at < Timestamp::EPOCH || at > Timestamp::MAX {
        return Err(Refused::new(
            ErrorKind::OutOfRange,
            format!("{field} {at} is outside of {} to {}", Timestamp::EPOCH, Timestamp::MAX),
        ));
    }
    Ok(at)
}

fn properties(value: Option<&RawValue>) -> Result<Option<&RawValue>, Refused> {
    match value {
        None => Ok(None),
        Some(json) if json.get() == "null" => Ok(None),
        Some(json) if json.get().starts_with('{') => Ok(Some(json)),
        Some(_) => Err(Refused::new(ErrorKind::InvalidField, "properties is not a JSON object")),
    }
}

/// Tells what is no JSON object from an object with a field that cannot be.
fn unreadable(value: &[u8], error: &serde_json::Error) -> Refused {
    let kind = match serde_json::from_slice::<&RawValue>(value) {
        Ok(json) if json.get().starts_with('{') => ErrorKind::InvalidField,
        _ => ErrorKind::InvalidJson,
    };
    let what = if kind == ErrorKind::InvalidField { "a field cannot be read" } else { "not a JSON object" };
    Refused::new(kind, format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn record(value: impl Into<Bytes>) -> Record {
        let timestamp = Timestamp::from_millis(1_700_000_000_000);
        Record { offset: 1, timestamp, key: None, value: Some(value.into()), headers: vec![] }
    }

    fn ours() -> Value {
        json!({
            "id": "i", "project_id": "p", "environment_id": "e", "event_name": "n", "distinct_id": "d",
            "timestamp": "2026-01-31T11:00:00Z", "received_at": "2026-01-31T11:00:01Z", "schema_version": 1,
            "properties": {"a": 1}
        })
    }

    fn kind_with(field: &str, value: Value) -> ErrorKind {
        let mut event = ours();
        event[field] = value;
        decode(&record(event.to_string())).unwrap_err().kind
    }

    #[test]
    fn each_fault_has_its_kind() {
        assert_eq!(decode(&Record { value: None, ..record("") }).unwrap_err().kind, ErrorKind::EmptyRecord);
        for poison in ["", "not json", "[1]", "\"text\"", "{\"id\":", "7"] {
            assert_eq!(decode(&record(poison)).unwrap_err().kind, ErrorKind::InvalidJson, "{poison:?}");
        }
        assert_eq!(decode(&record(&b"\xff\xfe{}"[..])).unwrap_err().kind, ErrorKind::InvalidJson);
        for field in ["id", "project_id", "environment_id", "event_name", "distinct_id", "timestamp"] {
            assert_eq!(kind_with(field, Value::Null), ErrorKind::MissingField, "{field}");
            assert_eq!(kind_with(field, json!("")), ErrorKind::MissingField, "{field}");
            assert_eq!(kind_with(field, json!(7)), ErrorKind::InvalidField, "{field}");
        }
        assert_eq!(kind_with("id", json!("x".repeat(201))), ErrorKind::InvalidField);
        assert_eq!(kind_with("properties", json!([1])), ErrorKind::InvalidField);
        assert_eq!(kind_with("timestamp", json!("yesterday")), ErrorKind::InvalidField);
        assert_eq!(kind_with("timestamp", json!("1969-12-31T23:59:59Z")), ErrorKind::OutOfRange);
        assert_eq!(kind_with("timestamp", json!("9999-01-01T00:00:00Z")), ErrorKind::OutOfRange);
        assert_eq!(kind_with("schema_version", json!(2)), ErrorKind::UnknownSchemaVersion);
        assert_eq!(kind_with("schema_version", json!(-1)), ErrorKind::InvalidField);
    }

    #[test]
    fn flexprices_message_is_an_event_too() {
        let message = json!({
            "id": "event_1", "tenant_id": "t", "environment_id": "e", "event_name": "api_call",
            "external_customer_id": "acme", "customer_id": "cust_1", "source": "",
            "timestamp": "2026-01-31T11:00:00.123456789Z", "ingested_at": "0001-01-01T00:00:00Z",
            "properties": {"tokens": 10}
        });
        let record = record(message.to_string());
        let event = decode(&record).unwrap();
        assert_eq!((&*event.project_id, &*event.distinct_id), ("t", "acme"));
        assert_eq!(event.customer_id.as_deref(), Some("cust_1"));
        assert_eq!(event.source, None);
        assert_eq!(event.received_at, record.timestamp);
        assert_eq!(event.timestamp.to_string(), "2026-01-31T11:00:00.123Z");
    }

    #[test]
    fn characters_are_counted_and_not_bytes() {
        let mut event = ours();
        event["distinct_id"] = json!("ä".repeat(200));
        assert!(decode(&record(event.to_string())).is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&record(bytes));
        }

        #[test]
        fn no_broken_event_makes_it_panic(at in 0usize..200, byte in any::<u8>()) {
            let mut bytes = ours().to_string().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = decode(&record(bytes));
        }
    }
}

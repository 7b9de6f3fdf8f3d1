//! The one shape of an event between capture and the store: the JSON value of a record in topic `events`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Timestamp;

/// The version this build writes, and the newest it reads.
pub const SCHEMA_VERSION: u32 = 1;

/// An event as the log carries it. Everything that identifies or dates it was fixed at capture, so decoding the same
/// record twice, at any time and by any process, gives the same row.
///
/// Borrows from the record's bytes where the text has no escapes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogEvent<'a> {
    /// Idempotency key, 1–200 characters. See [`LogEvent::id_generated`].
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    #[serde(borrow)]
    pub project_id: Cow<'a, str>,
    #[serde(borrow)]
    pub environment_id: Cow<'a, str>,
    /// 1–200 characters, trimmed.
    #[serde(borrow)]
    pub event_name: Cow<'a, str>,
    /// The acting person, 1–200 characters; the record's key.
    #[serde(borrow)]
    pub distinct_id: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub customer_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Cow<'a, str>>,
    /// When it happened.
    pub timestamp: Timestamp,
    /// When capture took it.
    pub received_at: Timestamp,
    /// Of this envelope; [`SCHEMA_VERSION`] is the newest known.
    pub schema_version: u32,
    /// Capture made the id (the sender gave none), so no resend can carry it: it needs no place in the id window.
    #[serde(default, skip_serializing_if = "is_false")]
    pub id_generated: bool,
    /// A JSON object, byte for byte as it was sent; absent means `{}`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub properties: Option<&'a RawValue>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_false(value: &bool) -> bool {
    !value
}

impl LogEvent<'_> {
    /// The properties' JSON text; `{}` when there are none.
    pub fn properties_text(&self) -> &str {
        self.properties.map_or("{}", RawValue::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_round_trips_and_borrows_plain_text() {
        let text = r#"{"id":"a","project_id":"p","environment_id":"e","event_name":"click","distinct_id":"d\"q","timestamp":"2026-01-31T11:00:00.123Z","received_at":"2026-01-31T11:00:01.000Z","schema_version":1,"properties":{"x": 0.10}}"#;
        let event: LogEvent<'_> = serde_json::from_str(text).unwrap();
        assert!(matches!(event.id, Cow::Borrowed("a")));
        assert_eq!(event.distinct_id, "d\"q");
        assert_eq!(event.properties_text(), r#"{"x": 0.10}"#);
        assert_eq!(serde_json::to_string(&event).unwrap(), text);
    }
}

//! The one shape of a raw event between capture and the store: the JSON value of a record in topic `raw_events`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Timestamp;

/// A payload as it was sent, with what names and dates it. All of that is fixed at capture: whatever a transform makes of
/// the payload later, the raw event stays the same one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RawEvent<'a> {
    /// The payload's own `id` where it has one.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    #[serde(borrow)]
    pub project_id: Cow<'a, str>,
    #[serde(borrow)]
    pub environment_id: Cow<'a, str>,
    /// Empty where the payload names nobody.
    #[serde(borrow, default)]
    pub external_customer_id: Cow<'a, str>,
    /// The payload's own time where it has one that can be read, else the time of receipt.
    pub timestamp: Timestamp,
    /// Empty where the payload has none.
    #[serde(borrow, default)]
    pub event_name: Cow<'a, str>,
    pub received_at: Timestamp,
    /// A JSON object, byte for byte as it was sent.
    #[serde(borrow)]
    pub payload: &'a RawValue,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_kept_byte_for_byte() {
        let text = r#"{"id":"a","project_id":"p","environment_id":"e","external_customer_id":"c\"q","timestamp":"2026-01-31T11:00:00.123Z","event_name":"","received_at":"2026-01-31T11:00:01.000Z","payload":{"x" : 0.10, "é":1e2}}"#;
        let raw: RawEvent<'_> = serde_json::from_str(text).unwrap();
        assert!(matches!(raw.id, Cow::Borrowed("a")));
        assert_eq!(raw.payload.get(), r#"{"x" : 0.10, "é":1e2}"#);
        assert_eq!(serde_json::to_string(&raw).unwrap(), text);
    }
}

//! What makes a record and what is rejected, and that the records written by hand are those serde would write.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::auth::Permissions;
use crate::capture::parse::Items;
use crate::event::{LogEvent, RandomIds, Scope};

const NOW: &str = "2026-01-31T12:00:00.123Z";

fn rules() -> Rules {
    Rules {
        require_api_key: true,
        body_bytes_max: 1 << 20,
        inflated_bytes_max: 1 << 20,
        body_timeout: Duration::from_secs(1),
        batch_events_max: 100,
        properties_bytes_max: 100,
        properties_depth_max: 8,
        properties_keys_max: 10,
        future_max: Duration::from_secs(24 * 3600),
        in_flight_bytes_max: 1 << 20,
        produce_timeout: Duration::from_secs(1),
    }
}

fn access() -> Access {
    Access::new(Scope::new("proj_\"a", "env_a"), "production", Permissions::all())
}

fn sealed(body: &str) -> Sealed {
    let (rules, access) = (rules(), access());
    let mut batch =
        Batch::new(&rules, &RandomIds, &access, Timestamp::parse(NOW).unwrap(), 0, &Words::CAPTURE);
    let mut items = Items::new(body.as_bytes(), 8, 10, &Words::CAPTURE).unwrap();
    while let Some(item) = items.next_item().unwrap() {
        batch.push(item);
    }
    batch.seal("capture")
}

fn one(body: &str) -> NewRecord {
    let sealed = sealed(body);
    assert_eq!(sealed.rejected, [], "{body}");
    sealed.records.into_iter().next().unwrap()
}

fn rejection(body: &str) -> (&'static str, RejectionCode, String) {
    let sealed = sealed(body);
    assert!(sealed.records.is_empty(), "{body} was taken");
    let rejection = sealed.rejected.into_iter().next().unwrap();
    (rejection.field.unwrap_or("-"), rejection.code, rejection.message)
}

fn event(record: &NewRecord) -> LogEvent<'_> {
    serde_json::from_slice(&record.value).unwrap()
}

#[test]
fn a_full_item_becomes_the_record_that_serde_would_write() {
    let record = one(
        r#"{"event":" click ","distinct_id":"u1","event_id":"e1","timestamp":"2026-01-30T10:00:00+01:00","customer_id":"c",
            "session_id":"s","source":"web","schema_version":1,"environment_id":"env_a","properties":{"big":123456789012345678901234567890, "f":1e999}}"#,
    );
    let event = event(&record);
    assert_eq!((&*event.id, &*event.event_name, &*event.distinct_id), ("e1", "click", "u1"));
    assert_eq!((&*event.project_id, &*event.environment_id), ("proj_\"a", "env_a"));
    assert_eq!(event.customer_id.as_deref(), Some("c"));
    assert_eq!(event.session_id.as_deref(), Some("s"));
    assert_eq!(event.source.as_deref(), Some("web"));
    assert_eq!(event.timestamp.to_string(), "2026-01-30T09:00:00.000Z");
    assert_eq!(event.received_at.to_string(), NOW);
    assert!(!event.id_generated);
    assert_eq!(event.properties_text(), r#"{"big":123456789012345678901234567890, "f":1e999}"#);
    assert_eq!(serde_json::to_vec(&event).unwrap(), record.value);
    assert_eq!(record.key.unwrap(), "u1");
    assert_eq!(record.timestamp, Timestamp::parse(NOW).unwrap());
    let headers: Vec<(&str, &[u8])> = record.headers.iter().map(|h| (&*h.name, &*h.value)).collect();
    assert_eq!(
        headers,
        [
            ("schema_version", &b"1"[..]),
            ("project_id", b"proj_\"a"),
            ("environment_id", b"env_a"),
            ("producer", b"capture"),
        ]
    );
}

#[test]
fn a_bare_item_gets_an_id_and_the_time_of_receipt() {
    let body = r#"{"event":"a","distinct_id":"u","session_id":"","properties":{}}"#;
    let sealed = sealed(body);
    let record = &sealed.records[0];
    let event = event(record);
    assert!(event.id_generated);
    let id: uuid::Uuid = event.id.parse().unwrap();
    assert_eq!(id.get_version_num(), 7);
    assert_eq!(sealed.drafted[0].id, event.id.as_bytes());
    assert_eq!(event.timestamp, event.received_at);
    assert_eq!(event.session_id, None);
    assert!(event.properties.is_none());
    assert_eq!(serde_json::to_vec(&event).unwrap(), record.value);
}

#[test]
fn the_key_is_what_an_escaped_distinct_id_says() {
    let record = one(r#"{"event":" \u0061\n ","distinct_id":"\u0075\"é","id":"\ud83d\ude00"}"#);
    assert_eq!(record.key.as_deref(), Some("u\"é".as_bytes()));
    let event = event(&record);
    assert_eq!((&*event.event_name, &*event.distinct_id, &*event.id), ("a", "u\"é", "😀"));
}

/// A body, the field at fault, the message.
const WRONG: &[(&str, &str, &str)] = &[
    (r#"{"distinct_id":"u"}"#, "event", "event is required"),
    (r#"{"event":null,"distinct_id":"u"}"#, "event", "event is required"),
    (
        r#"{"event":" ","distinct_id":"u"}"#,
        "event",
        "event must have 1 to 200 characters, given nothing but white space",
    ),
    (r#"{"event":5,"distinct_id":"u"}"#, "event", "event must be a string, given 5"),
    (r#"{"event":"a"}"#, "distinct_id", "distinct_id is required"),
    (
        r#"{"event":"a","distinct_id":{"x":1}}"#,
        "distinct_id",
        "distinct_id must be a string, given {\"x\":1}",
    ),
    (r#"{"event":"a","distinct_id":"a\u0000b"}"#, "distinct_id", "distinct_id must not contain NUL"),
    (
        r#"{"event":"a","distinct_id":"\ud800"}"#,
        "distinct_id",
        "distinct_id has an escape for half of a surrogate pair",
    ),
    (
        r#"{"event":"a","distinct_id":"u","id":""}"#,
        "event_id",
        "event_id must have 1 to 200 characters, given nothing but white space",
    ),
    (
        r#"{"event":"a","distinct_id":"u","timestamp":"yesterday"}"#,
        "timestamp",
        "timestamp must be an RFC 3339 time such as 2026-01-31T12:00:00Z, given \"yesterday\"",
    ),
    (
        r#"{"event":"a","distinct_id":"u","timestamp":1700000000}"#,
        "timestamp",
        "timestamp must be an RFC 3339 time such as 2026-01-31T12:00:00Z, given 1700000000",
    ),
    (
        r#"{"event":"a","distinct_id":"u","timestamp":"1969-12-31T23:59:59.999Z"}"#,
        "timestamp",
        "timestamp must not be before 1970-01-01T00:00:00.000Z, given 1969-12-31T23:59:59.999Z",
    ),
    (
        r#"{"event":"a","distinct_id":"u","properties":[1]}"#,
        "properties",
        "properties must be a JSON object, given [1]",
    ),
    (
        r#"{"event":"a","distinct_id":"u","properties":"x"}"#,
        "properties",
        "properties must be a JSON object, given \"x\"",
    ),
    (
        r#"{"event":"a","distinct_id":"u","schema_version":2}"#,
        "schema_version",
        "schema_version must be a version that this server reads, 1 to 1, given 2",
    ),
    (
        r#"{"event":"a","distinct_id":"u","environment_id":"env_b"}"#,
        "environment_id",
        "environment \"env_b\" is not one that this credential can use; valid: env_a (production)",
    ),
];

#[test]
fn what_will_not_do_is_named_with_what_would() {
    let long = format!(r#"{{"event":"{}","distinct_id":"u"}}"#, "é".repeat(201));
    let wide = format!(r#"{{"event":"a","distinct_id":"u","properties":{{"p":"{}"}}}}"#, "x".repeat(100));
    let generated = [
        (long.as_str(), "event", "event must have 1 to 200 characters, given 201"),
        (wide.as_str(), "properties", "properties may have 100 bytes, given 108"),
    ];
    for (body, field, message) in WRONG.iter().chain(&generated) {
        let (found, code, said) = rejection(body);
        assert_eq!((found, said.as_str()), (*field, *message), "{body}");
        let expected = match *field {
            "environment_id" => RejectionCode::PermissionDenied,
            "properties" if body.len() > 100 => RejectionCode::PayloadTooLarge,
            _ => RejectionCode::ValidationError,
        };
        assert_eq!(code, expected, "{body}");
    }
}

#[test]
fn a_timestamp_far_ahead_becomes_the_time_of_receipt_and_is_counted() {
    let sealed = sealed(
        r#"[{"event":"a","distinct_id":"u","timestamp":"2026-02-01T12:00:00.123Z"},
            {"event":"b","distinct_id":"u","timestamp":"2026-02-01T12:00:00.124Z"},
            {"event":"c","distinct_id":"u","timestamp":"9999-12-31T23:59:59Z"}]"#,
    );
    let times: Vec<String> = sealed.records.iter().map(|r| event(r).timestamp.to_string()).collect();
    assert_eq!(times, ["2026-02-01T12:00:00.123Z", NOW, NOW]);
    assert_eq!(sealed.clamped, 2);
}

#[test]
fn an_echo_is_cut_at_a_character() {
    assert_eq!(echo(&"é".repeat(60)), "é".repeat(60));
    assert_eq!(echo(&"é".repeat(61)), format!("{}…", "é".repeat(60)));
}

proptest! {
    /// Whatever the texts, the record says what the item said.
    #[test]
    fn every_text_survives_on_its_way_to_the_record(
        event_name in r"\PC{1,50}",
        distinct_id in r"[^\x00]{1,50}",
        event_id: Option<String>,
        session_id: Option<String>,
        millis in 0_i64..1_769_860_800_000,
        properties: Option<std::collections::BTreeMap<String, String>>,
    ) {
        let at = Timestamp::from_millis(millis);
        let mut item = serde_json::json!({"event": event_name, "distinct_id": distinct_id, "timestamp": at});
        if let Some(id) = &event_id { item["event_id"] = id.clone().into(); }
        if let Some(id) = &session_id { item["session_id"] = id.clone().into(); }
        if let Some(properties) = &properties { item["properties"] = serde_json::json!(properties); }
        let sealed = sealed(&item.to_string());
        let fits = |text: &str| !text.trim().is_empty() && !text.contains('\0') && text.chars().count() <= 200;
        let expected = fits(&event_name) && fits(&distinct_id)
            && event_id.as_deref().is_none_or(fits)
            && session_id.as_deref().is_none_or(|id| id.is_empty() || fits(id))
            && properties.as_ref().is_none_or(|p| p.len() <= 10 && serde_json::to_string(p).unwrap().len() <= 100);
        prop_assert_eq!(sealed.records.len(), usize::from(expected), "{:?}", sealed.rejected);
        prop_assert_eq!(sealed.rejected.len(), usize::from(!expected));
        if let Some(record) = sealed.records.first() {
            let event = event(record);
            prop_assert_eq!(&*event.event_name, event_name.trim());
            prop_assert_eq!(&*event.distinct_id, &distinct_id);
            prop_assert_eq!(record.key.as_deref(), Some(distinct_id.as_bytes()));
            prop_assert_eq!(event.id_generated, event_id.is_none());
            if let Some(id) = &event_id { prop_assert_eq!(&*event.id, id); }
            prop_assert_eq!(event.session_id.as_deref(), session_id.as_deref().filter(|id| !id.is_empty()));
            prop_assert_eq!(event.timestamp, at);
            let sent = properties.unwrap_or_default();
            prop_assert_eq!(event.properties_text(), serde_json::to_string(&sent).unwrap());
        }
    }
}

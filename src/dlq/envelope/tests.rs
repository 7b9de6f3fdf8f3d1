//! The envelope round trips, value and every header.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const ROOMY: usize = 1 << 24;

fn read_back(record: NewRecord) -> Record {
    Record {
        offset: 9,
        timestamp: record.timestamp,
        key: record.key,
        value: Some(record.value),
        headers: record.headers,
    }
}

fn record(value: Option<&[u8]>, headers: &[(&str, &str)]) -> Record {
    Record {
        offset: 41,
        timestamp: Timestamp::EPOCH,
        key: Some(Bytes::from_static(b"person")),
        value: value.map(Bytes::copy_from_slice),
        headers: headers
            .iter()
            .map(|(name, value)| Header {
                name: (*name).into(),
                value: Bytes::copy_from_slice(value.as_bytes()),
            })
            .collect(),
    }
}

fn refused(record: &Record) -> DeadLetter {
    DeadLetter::of(
        record,
        &Refusal {
            source: &TopicPartition::new("events", 3),
            source_topic_id: TopicId(Uuid::from_u128(7)),
            stage: "event-consumers",
            kind: ErrorKind::InvalidField,
            message: "timestamp: not an RFC 3339 time",
            attempts: 1,
            at: Timestamp::from_millis(1_700_000_000_123),
        },
    )
}

fn raws() -> impl Strategy<Value = Raw> {
    let json_text = prop_oneof![
        Just(r#"{"id":"a", "n": 1.50, "big": 12345678901234567890123}"#.to_owned()),
        Just("[1,2]".to_owned()),
        Just("0".to_owned()),
        "[a-z\\PC]{0,20}".prop_map(|text| json!({ "text": text, "nested": [{}] }).to_string()),
    ];
    prop_oneof![
        json_text.prop_map(|text| Raw::of(Some(&text.into_bytes().into()))),
        prop::collection::vec(any::<u8>(), 0..64).prop_map(|bytes| Raw::of(Some(&bytes.into()))),
        Just(Raw::Absent),
        ("\\PC{0,20}", any::<u64>(), "[0-9a-f]{64}").prop_map(|(head, bytes, sha256)| Raw::Truncated {
            head,
            bytes,
            sha256
        }),
    ]
}

fn headers() -> impl Strategy<Value = Vec<Header>> {
    let one = ("[a-z_]{1,12}", prop::collection::vec(any::<u8>(), 0..24))
        .prop_map(|(name, value)| Header { name: name.into(), value: value.into() });
    prop::collection::vec(one, 0..5)
}

prop_compose! {
    fn dead_letters()(
        raw in raws(),
        key in prop::option::of(prop::collection::vec(any::<u8>(), 0..24)),
        source_headers in headers(),
        kind in 0..ErrorKind::ALL.len(),
        (message, stage, topic) in ("(?s).{0,200}", "\\PC{0,20}", "[a-z._-]{1,20}"),
        millis in 0..4_000_000_000_000i64,
        (topic_id, partition, offset) in (any::<u128>(), any::<i32>(), any::<i64>()),
        (attempts, recoveries) in (any::<u32>(), any::<u32>()),
        ids in prop::collection::vec(prop::option::of("\\PC{1,30}"), 4),
    ) -> DeadLetter {
        DeadLetter {
            raw,
            key: key.map(Bytes::from),
            source_headers: source_headers.into(),
            error_kind: ErrorKind::ALL[kind],
            error_message: cut(&message, ERROR_MESSAGE_BYTES_MAX).to_owned(),
            dlq_ts: Timestamp::from_millis(millis),
            stage,
            source_topic: topic,
            source_topic_id: TopicId(Uuid::from_u128(topic_id)),
            source_partition: partition,
            source_offset: offset,
            attempts,
            recoveries,
            writer: "flexflow/test".to_owned(),
            project_id: ids[0].clone(),
            environment_id: ids[1].clone(),
            event_id: ids[2].clone(),
            raw_event_id: ids[3].clone(),
        }
    }
}

proptest! {
    #[test]
    fn value_and_key_read_back_as_they_were_written(letter in dead_letters()) {
        let back = DeadLetter::from_record(&read_back(letter.to_record(ROOMY))).unwrap();
        prop_assert_eq!(back, letter);
    }

    /// Every header, by name, holds the value of its own field: an offset under `source_partition` fails here.
    #[test]
    fn every_header_holds_its_own_field(letter in dead_letters()) {
        let record = letter.to_record(ROOMY);
        let mut fields = serde_json::Map::new();
        for header in &*record.headers {
            let text = String::from_utf8(header.value.to_vec()).unwrap();
            prop_assert!(fields.insert(header.name.to_string(), Value::String(text)).is_none(), "{}", header.name);
        }
        let mut expected = json!({
            "error_kind": letter.error_kind.as_str(),
            "error_message": letter.error_message,
            "dlq_ts": letter.dlq_ts.to_string(),
            "stage": letter.stage,
            "source_topic": letter.source_topic,
            "source_topic_id": letter.source_topic_id.to_string(),
            "source_partition": letter.source_partition.to_string(),
            "source_offset": letter.source_offset.to_string(),
            "attempts": letter.attempts.to_string(),
            "recoveries": letter.recoveries.to_string(),
            "writer": letter.writer,
        });
        for (name, id) in [("project_id", &letter.project_id), ("environment_id", &letter.environment_id), ("event_id", &letter.event_id), ("raw_event_id", &letter.raw_event_id)] {
            if let Some(id) = id {
                expected[name] = json!(id);
            }
        }
        prop_assert_eq!(Value::Object(fields), expected);
    }

    #[test]
    fn any_bytes_of_a_record_become_a_readable_dead_letter(value in prop::collection::vec(any::<u8>(), 0..200)) {
        let letter = refused(&record(Some(&value), &[]));
        let back = DeadLetter::from_record(&read_back(letter.to_record(ROOMY))).unwrap();
        let payload = back.raw.payload().unwrap().into_owned();
        prop_assert_eq!(payload.trim_ascii(), value.trim_ascii());
    }

    #[test]
    fn any_bytes_in_the_dlq_topic_are_an_error_and_never_a_panic(value in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(DeadLetter::from_record(&record(Some(&value), &[])).is_err());
    }
}

#[test]
fn a_record_that_still_tells_names_its_project_and_event() {
    let value = br#"{"id":"e1","tenant_id":"proj_a","environment_id":7,"timestamp":"never"}"#;
    let letter = refused(&record(Some(value), &[("environment_id", "env_a"), ("recoveries", "2")]));
    assert_eq!(letter.project_id.as_deref(), Some("proj_a"));
    assert_eq!(letter.environment_id.as_deref(), Some("env_a"));
    assert_eq!(letter.event_id.as_deref(), Some("e1"));
    assert_eq!(letter.recoveries, 2);
    assert_eq!(letter.id(), "events-3-41");
}

#[test]
fn json_that_some_parsers_refuse_is_carried_as_base64() {
    let deep = "[".repeat(5000) + &"]".repeat(5000);
    for value in [r#"{"a":"\ud800"}"#, r#"{"n":1e999}"#, "null", "not json", "", deep.as_str()] {
        let letter = refused(&record(Some(value.as_bytes()), &[]));
        assert!(matches!(letter.raw, Raw::Bytes(_)), "{:.40}", value);
        let back = DeadLetter::from_record(&read_back(letter.to_record(ROOMY))).unwrap();
        assert_eq!(back.raw.payload().unwrap(), value.as_bytes());
    }
}

#[test]
fn a_payload_over_the_topics_limit_is_cut_and_says_how_long_it_was() {
    let value = format!(r#"{{"id":"big","text":"{}"}}"#, "x".repeat(100_000));
    let letter = refused(&record(Some(value.as_bytes()), &[("producer", "capture")]));
    let record = letter.to_record(20_000);
    assert!(record.value.len() < 20_000);
    let back = DeadLetter::from_record(&read_back(record)).unwrap();
    let Raw::Truncated { head, bytes, sha256 } = &back.raw else { panic!("{:?}", back.raw) };
    assert_eq!((head.as_str(), *bytes), (&value[..TRUNCATED_HEAD_BYTES], value.len() as u64));
    assert_eq!(sha256.len(), 64);
    assert_eq!((back.raw.payload(), back.event_id.as_deref()), (None, Some("big")));
}

#[test]
fn a_long_message_is_cut_at_a_characters_end() {
    let mut letter = refused(&record(None, &[]));
    letter.error_message = "é".repeat(ERROR_MESSAGE_BYTES_MAX);
    let back = DeadLetter::from_record(&read_back(letter.to_record(ROOMY))).unwrap();
    assert_eq!(back.error_message, "é".repeat(ERROR_MESSAGE_BYTES_MAX / 2));
    assert_eq!(back.raw, Raw::Absent);
}

#[test]
fn the_envelope_is_a_contract() {
    let value = br#"{"id":"e1","project_id":"proj_a","environment_id":"env_a","timestamp":"never"}"#;
    let letter = refused(&record(Some(value), &[("producer", "capture")]));
    let value: Value = serde_json::from_slice(&letter.to_record(ROOMY).value).unwrap();
    assert_eq!(
        value,
        json!({
            "raw": {"id": "e1", "project_id": "proj_a", "environment_id": "env_a", "timestamp": "never"},
            "error_kind": "invalid_field",
            "error_message": "timestamp: not an RFC 3339 time",
            "dlq_ts": "2023-11-14T22:13:20.123Z",
            "stage": "event-consumers",
            "source_topic": "events",
            "source_topic_id": "00000000-0000-0000-0000-000000000007",
            "source_partition": 3,
            "source_offset": 41,
            "attempts": 1,
            "recoveries": 0,
            "writer": concat!("flexflow/", env!("CARGO_PKG_VERSION")),
            "project_id": "proj_a",
            "environment_id": "env_a",
            "event_id": "e1",
            "source_headers": [{"name": "producer", "value": "capture"}],
        })
    );
}

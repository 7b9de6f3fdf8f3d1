//! The envelope of a dead letter: a record of the DLQ topic whose key is the original key, whose value is JSON and
//! whose headers repeat every field but the payload, so that Kafka's own tools can filter without reading values.

use std::borrow::Cow;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::event::{ErrorKind, Timestamp};
use crate::eventlog::{Header, Headers, NewRecord, Record, TopicId, TopicPartition};

/// Header of a record of a source topic: how often it came back from the DLQ. Absent means never.
pub const RECOVERIES_HEADER: &str = "recoveries";
/// Longer messages are cut, at a character's end.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 1024;
/// Longer ids are not ids (capture takes 200 characters): they are left out of the envelope's fields.
const ID_CHARS_MAX: usize = 200;
/// JSON nested deeper is carried as base64, so that any parser can read the envelope.
const RAW_DEPTH_MAX: usize = 100;
/// What is kept of a payload that the DLQ topic does not take.
const TRUNCATED_HEAD_BYTES: usize = 4096;
/// Counted for each header beyond its name and value, and once for the record: framing, generously.
const FRAMING_BYTES: usize = 32;

/// The original record's value.
#[derive(Clone, Debug)]
pub enum Raw {
    /// JSON, kept byte for byte (white space around it aside): `raw`.
    Json(Box<RawValue>),
    /// Not UTF-8, not JSON, or nested too deep: `raw_base64`.
    Bytes(Bytes),
    /// The record had no value (Kafka's tombstone): `"raw": null`.
    Absent,
    /// Over what the DLQ topic takes: only its beginning is kept, as text. The whole is at the origin while the source
    /// topic's retention lasts. `raw_truncated`; cannot be replayed.
    Truncated { head: String, bytes: u64, sha256: String },
}

impl PartialEq for Raw {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Json(a), Self::Json(b)) => a.get() == b.get(),
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Absent, Self::Absent) => true,
            (
                Self::Truncated { head, bytes, sha256 },
                Self::Truncated { head: other_head, bytes: other_bytes, sha256: other_sha256 },
            ) => (head, bytes, sha256) == (other_head, other_bytes, other_sha256),
            _ => false,
        }
    }
}

impl Raw {
    /// The shape that carries this record value.
    pub fn of(value: Option<&Bytes>) -> Self {
        let Some(value) = value else { return Self::Absent };
        readable_json(value).map_or_else(|| Self::Bytes(value.clone()), Self::Json)
    }

    /// The whole payload, where there is one and it was kept whole.
    pub fn payload(&self) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Json(json) => Some(Cow::Borrowed(json.get().as_bytes())),
            Self::Bytes(bytes) => Some(Cow::Borrowed(bytes)),
            Self::Absent | Self::Truncated { .. } => None,
        }
    }

    fn truncated(&self) -> Self {
        let Some(payload) = self.payload() else { return self.clone() };
        let mut sha256 = String::with_capacity(64);
        for byte in Sha256::digest(&payload) {
            let _ = write!(sha256, "{byte:02x}");
        }
        let head = &payload[..payload.len().min(TRUNCATED_HEAD_BYTES)];
        Self::Truncated {
            head: String::from_utf8_lossy(head).into_owned(),
            bytes: payload.len() as u64,
            sha256,
        }
    }
}

/// JSON that every parser accepts and that is not the `null` which stands for an absent value.
fn readable_json(value: &[u8]) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(value).ok()?;
    if depth(value) > RAW_DEPTH_MAX || text.trim() == "null" {
        return None;
    }
    // A full parse, unlike RawValue's own, refuses lone surrogates and numbers beyond f64.
    serde_json::from_str::<serde_json::Value>(text).ok()?;
    RawValue::from_string(text.trim().to_owned()).ok()
}

/// Upper bound of the nesting of JSON: brackets inside of strings count too.
fn depth(json: &[u8]) -> usize {
    let (mut now, mut deepest) = (0usize, 0usize);
    for byte in json {
        match byte {
            b'{' | b'[' => {
                now += 1;
                deepest = deepest.max(now);
            }
            b'}' | b']' => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// A refused record with the reason, complete enough to write it back to where it came from.
#[derive(Clone, PartialEq, Debug)]
pub struct DeadLetter {
    pub raw: Raw,
    /// The original record's key.
    pub key: Option<Bytes>,
    /// The original record's headers, written back by a replay.
    pub source_headers: Headers,
    pub error_kind: ErrorKind,
    /// For people; at most [`ERROR_MESSAGE_BYTES_MAX`] bytes.
    pub error_message: String,
    /// When the record was refused.
    pub dlq_ts: Timestamp,
    /// The stage that refused it: its consumer group.
    pub stage: String,
    pub source_topic: String,
    /// Incarnation of the source topic: offsets of another one mean nothing.
    pub source_topic_id: TopicId,
    pub source_partition: i32,
    pub source_offset: i64,
    /// Tries before the refusal: 1, or more when the store refused the row (same token once more, then bisection).
    pub attempts: u32,
    /// How often the record had come back from the DLQ before.
    pub recoveries: u32,
    /// What wrote this: `flexflow/<version>`.
    pub writer: String,
    /// Whose it is, when the record still told (its value first, then its headers). `None`: for the operator only.
    pub project_id: Option<String>,
    pub environment_id: Option<String>,
    pub event_id: Option<String>,
    /// The raw event that it is, or was made of.
    pub raw_event_id: Option<String>,
}

/// What a stage knows when it refuses a record.
#[derive(Clone, Debug)]
pub struct Refusal<'a> {
    pub source: &'a TopicPartition,
    pub source_topic_id: TopicId,
    pub stage: &'a str,
    pub kind: ErrorKind,
    pub message: &'a str,
    pub attempts: u32,
    pub at: Timestamp,
}

/// Why a record of the DLQ topic is not a dead letter.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the record has no value")]
    Absent,
    #[error("not a dead letter's JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("field {field} is not base64")]
    Base64 { field: &'static str },
}

impl DeadLetter {
    /// The dead letter of `record`, with everything about it that can still be told.
    pub fn of(record: &Record, refusal: &Refusal<'_>) -> Self {
        let raw = Raw::of(record.value.as_ref());
        let told = match &raw {
            Raw::Json(json) => Told::by_value(json.get()),
            _ => Told::default(),
        };
        let header =
            |name: &str| header_text(&record.headers, name).filter(|id| is_id(id)).map(str::to_owned);
        Self {
            raw,
            key: record.key.clone(),
            source_headers: record.headers.clone(),
            error_kind: refusal.kind,
            error_message: cut(refusal.message, ERROR_MESSAGE_BYTES_MAX).to_owned(),
            dlq_ts: refusal.at,
            stage: refusal.stage.to_owned(),
            source_topic: refusal.source.topic.to_string(),
            source_topic_id: refusal.source_topic_id,
            source_partition: refusal.source.partition,
            source_offset: record.offset,
            attempts: refusal.attempts,
            recoveries: recoveries(&record.headers),
            writer: concat!("flexflow/", env!("CARGO_PKG_VERSION")).to_owned(),
            project_id: told.project_id.or_else(|| header("project_id")),
            environment_id: told.environment_id.or_else(|| header("environment_id")),
            event_id: told.event_id,
            raw_event_id: header("raw_event_id"),
        }
    }

    /// `topic-partition-offset` of the record it stands for.
    pub fn id(&self) -> String {
        format!("{}-{}-{}", self.source_topic, self.source_partition, self.source_offset)
    }

    /// The record for the DLQ topic. Over `record_bytes_max` (key, value and headers together) the payload is cut to
    /// [`Raw::Truncated`] and the source headers are left out.
    pub fn to_record(&self, record_bytes_max: usize) -> NewRecord {
        let record = self.record_with(&self.raw, &self.source_headers);
        let bytes = record.key.as_ref().map_or(0, Bytes::len)
            + record.value.len()
            + record.headers.iter().map(|h| h.name.len() + h.value.len() + FRAMING_BYTES).sum::<usize>()
            + FRAMING_BYTES;
        if bytes <= record_bytes_max { record } else { self.record_with(&self.raw.truncated(), &[]) }
    }

    fn record_with(&self, raw: &Raw, source_headers: &[Header]) -> NewRecord {
        let message = cut(&self.error_message, ERROR_MESSAGE_BYTES_MAX);
        let wire = Wire {
            raw: match raw {
                Raw::Json(json) => Some(Cow::Borrowed(json.as_ref())),
                _ => None,
            },
            raw_base64: match raw {
                Raw::Bytes(bytes) => Some(BASE64.encode(bytes)),
                _ => None,
            },
            raw_truncated: match raw {
                Raw::Truncated { head, bytes, sha256 } => {
                    Some(WireTruncated { head: head.clone(), bytes: *bytes, sha256: sha256.clone() })
                }
                _ => None,
            },
            error_kind: self.error_kind,
            error_message: Cow::Borrowed(message),
            dlq_ts: self.dlq_ts,
            stage: Cow::Borrowed(&self.stage),
            source_topic: Cow::Borrowed(&self.source_topic),
            source_topic_id: self.source_topic_id.0,
            source_partition: self.source_partition,
            source_offset: self.source_offset,
            attempts: self.attempts,
            recoveries: self.recoveries,
            writer: Cow::Borrowed(&self.writer),
            project_id: self.project_id.as_deref().map(Cow::Borrowed),
            environment_id: self.environment_id.as_deref().map(Cow::Borrowed),
            event_id: self.event_id.as_deref().map(Cow::Borrowed),
            raw_event_id: self.raw_event_id.as_deref().map(Cow::Borrowed),
            source_headers: source_headers.iter().map(WireHeader::of).collect(),
        };
        // Strings, numbers and JSON that was parsed before: none of them can fail to be written.
        let value = serde_json::to_vec(&wire).unwrap_or_default();
        NewRecord {
            key: self.key.clone(),
            value: value.into(),
            headers: self.headers(message),
            timestamp: self.dlq_ts,
        }
    }

    fn headers(&self, message: &str) -> Headers {
        let header = |name: &str, value: &str| Header {
            name: name.into(),
            value: Bytes::copy_from_slice(value.as_bytes()),
        };
        let mut headers = vec![
            header("error_kind", self.error_kind.as_str()),
            header("error_message", message),
            header("dlq_ts", &self.dlq_ts.to_string()),
            header("stage", &self.stage),
            header("source_topic", &self.source_topic),
            header("source_topic_id", &self.source_topic_id.to_string()),
            header("source_partition", &self.source_partition.to_string()),
            header("source_offset", &self.source_offset.to_string()),
            header("attempts", &self.attempts.to_string()),
            header(RECOVERIES_HEADER, &self.recoveries.to_string()),
            header("writer", &self.writer),
        ];
        let told = [
            ("project_id", &self.project_id),
            ("environment_id", &self.environment_id),
            ("event_id", &self.event_id),
            ("raw_event_id", &self.raw_event_id),
        ];
        headers.extend(told.into_iter().filter_map(|(name, id)| Some(header(name, id.as_deref()?))));
        headers.into()
    }

    /// Reads a record of the DLQ topic. Fields that a newer writer added are passed over.
    ///
    /// # Errors
    /// The record is not a dead letter: somebody else wrote to the topic.
    pub fn from_record(record: &Record) -> Result<Self, EnvelopeError> {
        let wire: Wire<'_> = serde_json::from_slice(record.value.as_deref().ok_or(EnvelopeError::Absent)?)?;
        let raw = match (wire.raw, wire.raw_base64, wire.raw_truncated) {
            (Some(json), _, _) => Raw::Json(json.into_owned()),
            (_, Some(text), _) => Raw::Bytes(from_base64("raw_base64", &text)?),
            (_, _, Some(cut)) => Raw::Truncated { head: cut.head, bytes: cut.bytes, sha256: cut.sha256 },
            (None, None, None) => Raw::Absent,
        };
        Ok(Self {
            raw,
            key: record.key.clone(),
            source_headers: wire
                .source_headers
                .into_iter()
                .map(WireHeader::into_header)
                .collect::<Result<_, _>>()?,
            error_kind: wire.error_kind,
            error_message: wire.error_message.into_owned(),
            dlq_ts: wire.dlq_ts,
            stage: wire.stage.into_owned(),
            source_topic: wire.source_topic.into_owned(),
            source_topic_id: TopicId(wire.source_topic_id),
            source_partition: wire.source_partition,
            source_offset: wire.source_offset,
            attempts: wire.attempts,
            recoveries: wire.recoveries,
            writer: wire.writer.into_owned(),
            project_id: wire.project_id.map(Cow::into_owned),
            environment_id: wire.environment_id.map(Cow::into_owned),
            event_id: wire.event_id.map(Cow::into_owned),
            raw_event_id: wire.raw_event_id.map(Cow::into_owned),
        })
    }
}

/// How often a record of a source topic came back from the DLQ, by its headers.
pub fn recoveries(headers: &[Header]) -> u32 {
    header_text(headers, RECOVERIES_HEADER).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The last header of this name, as Kafka's `lastHeader` reads it; `None` if it is not UTF-8.
fn header_text<'a>(headers: &'a [Header], name: &str) -> Option<&'a str> {
    let header = headers.iter().rev().find(|header| &*header.name == name)?;
    std::str::from_utf8(&header.value).ok()
}

fn is_id(text: &str) -> bool {
    !text.is_empty() && text.chars().take(ID_CHARS_MAX + 1).count() <= ID_CHARS_MAX
}

fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// Whose event a value says it is, read field by field: a bad one does not hide the good ones.
#[derive(Default)]
struct Told {
    project_id: Option<String>,
    environment_id: Option<String>,
    event_id: Option<String>,
}

impl Told {
    fn by_value(json: &str) -> Self {
        let Ok(fields) = serde_json::from_str::<IndexMap<Cow<'_, str>, &RawValue>>(json) else {
            return Self::default();
        };
        let text = |name: &str| {
            let id: String = serde_json::from_str(fields.get(name)?.get()).ok()?;
            is_id(&id).then_some(id)
        };
        Self {
            // FlexPrice's producers say `tenant_id`.
            project_id: text("project_id").or_else(|| text("tenant_id")),
            environment_id: text("environment_id"),
            event_id: text("id"),
        }
    }
}

/// The envelope as JSON.
#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    /// Written also when it is `null`: then, without the two below, the record had no value.
    #[serde(borrow, default, deserialize_with = "raw_or_null")]
    raw: Option<Cow<'a, RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw_truncated: Option<WireTruncated>,
    error_kind: ErrorKind,
    #[serde(borrow)]
    error_message: Cow<'a, str>,
    dlq_ts: Timestamp,
    #[serde(borrow)]
    stage: Cow<'a, str>,
    #[serde(borrow)]
    source_topic: Cow<'a, str>,
    source_topic_id: Uuid,
    source_partition: i32,
    source_offset: i64,
    attempts: u32,
    recoveries: u32,
    #[serde(borrow)]
    writer: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    project_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    environment_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    event_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    raw_event_id: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    source_headers: Vec<WireHeader>,
}

fn raw_or_null<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Cow<'de, RawValue>>, D::Error> {
    Ok(Option::<&'de RawValue>::deserialize(from)?.map(Cow::Borrowed))
}

#[derive(Serialize, Deserialize)]
struct WireTruncated {
    head: String,
    bytes: u64,
    sha256: String,
}

#[derive(Serialize, Deserialize)]
struct WireHeader {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl WireHeader {
    fn of(header: &Header) -> Self {
        let text = std::str::from_utf8(&header.value).ok().filter(|text| !text.contains(char::is_control));
        Self {
            name: header.name.to_string(),
            value: text.map(str::to_owned),
            value_base64: text.is_none().then(|| BASE64.encode(&header.value)),
        }
    }

    fn into_header(self) -> Result<Header, EnvelopeError> {
        let value = match (self.value, self.value_base64) {
            (Some(text), _) => text.into_bytes().into(),
            (None, Some(text)) => from_base64("source_headers", &text)?,
            (None, None) => Bytes::new(),
        };
        Ok(Header { name: self.name.into(), value })
    }
}

fn from_base64(field: &'static str, text: &str) -> Result<Bytes, EnvelopeError> {
    BASE64.decode(text).map(Bytes::from).map_err(|_| EnvelopeError::Base64 { field })
}

#[cfg(test)]
mod tests;

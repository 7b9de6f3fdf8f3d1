//! What a record of a source topic says, by the decoder that `consumer.sources` gives the topic. Pure: the same record
//! makes the same events for ever.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::config::{Config, SourceDecoder};
use crate::consumer::decode::{Decoded, Field, Refused, decode_in};
use crate::event::{ErrorKind, LogEvent, Scope, Timestamp};
use crate::eventlog::{Header, NewRecord, Record, TopicPartition};
use crate::transform::Payloads;

/// Most events or payloads of one message.
const EVENTS_MAX: usize = 10_000;

static HEADER_NAMES: LazyLock<[Arc<str>; 4]> =
    LazyLock::new(|| ["schema_version", "project_id", "environment_id", "producer"].map(Arc::from));

/// Where what was made goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// `topics.events`
    Events,
    /// `topics.raw_events`
    RawEvents,
}

/// A record of the topic behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Made {
    pub target: Target,
    pub record: NewRecord,
    pub scope: Scope,
    /// Of the event, or of the raw event.
    pub id: String,
}

/// Reads the records of every source.
#[derive(Clone, Debug)]
pub struct SourceReader {
    sources: BTreeMap<Arc<str>, Source>,
    record_bytes_max: usize,
}

#[derive(Clone, Debug)]
struct Source {
    decoder: SourceDecoder,
    /// Where a message belongs that does not say.
    scope: Option<Scope>,
}

fn refused(kind: ErrorKind, message: impl Into<String>) -> Refused {
    Refused { kind, message: message.into() }
}

impl SourceReader {
    pub fn new(config: &Config) -> Self {
        let source = |source: &crate::config::Source| {
            let scope = source.scope().map(|(project, environment)| Scope::new(project, environment));
            (source.topic.as_str().into(), Source { decoder: source.decoder, scope })
        };
        Self {
            sources: config.consumer.sources.iter().map(source).collect(),
            record_bytes_max: usize::try_from(config.eventlog.record_bytes_max.as_u64())
                .unwrap_or(usize::MAX),
        }
    }

    /// What this record says.
    ///
    /// # Errors
    /// No event can be made of it, or of a part of it.
    pub fn read(&self, at: &TopicPartition, record: &Record) -> Result<Vec<Made>, Refused> {
        let source = self.sources.get(&at.topic).ok_or_else(|| {
            refused(ErrorKind::InvalidField, format!("consumer.sources names no topic {}", at.topic))
        })?;
        let made = match source.decoder {
            SourceDecoder::Flexflow => vec![event(at, record, source.scope.as_ref())?],
            SourceDecoder::Flexprice => flexprice(at, record, source.scope.as_ref())?,
            SourceDecoder::FlexpriceRaw => flexprice_raw(at, record, source.scope.as_ref())?,
            SourceDecoder::Raw => vec![payload(at, record, source.scope.as_ref())?],
        };
        match made.iter().map(|made| made.record.bytes()).find(|bytes| *bytes > self.record_bytes_max) {
            None => Ok(made),
            Some(bytes) => Err(refused(
                ErrorKind::InvalidField,
                format!(
                    "it makes an event of {bytes} bytes, over eventlog.record_bytes_max, {}",
                    self.record_bytes_max
                ),
            )),
        }
    }
}

/// One event, in FlexFlow's own shape or in FlexPrice's.
fn event(at: &TopicPartition, record: &Record, scope: Option<&Scope>) -> Result<Made, Refused> {
    let decoded = decode_in(record, scope)?;
    let value = record.value.as_deref().unwrap_or_default();
    Ok(made_of(at, &decoded, value))
}

/// The event as capture would have written it.
fn made_of(at: &TopicPartition, event: &Decoded, value: &[u8]) -> Made {
    let texts = event.of(value);
    let optional = |field| Some(texts.text(field)).filter(|text| !text.is_empty()).map(Cow::Borrowed);
    let written = LogEvent {
        id: texts.text(Field::Id).into(),
        project_id: texts.text(Field::ProjectId).into(),
        environment_id: texts.text(Field::EnvironmentId).into(),
        event_name: texts.text(Field::EventName).into(),
        distinct_id: texts.text(Field::DistinctId).into(),
        customer_id: optional(Field::CustomerId),
        session_id: optional(Field::SessionId),
        source: optional(Field::Source),
        timestamp: event.timestamp,
        received_at: event.received_at,
        schema_version: event.schema_version,
        id_generated: event.id_generated,
        // It was read as JSON before.
        properties: serde_json::from_str::<&RawValue>(texts.text(Field::Properties)).ok(),
    };
    let version = event.schema_version.to_string();
    let said = [&*version, &*written.project_id, &*written.environment_id, &*at.topic];
    let headers = HEADER_NAMES.iter().zip(said);
    let headers = headers
        .map(|(name, said)| Header { name: name.clone(), value: Bytes::copy_from_slice(said.as_bytes()) })
        .collect();
    let record = NewRecord {
        key: Some(Bytes::copy_from_slice(written.distinct_id.as_bytes())),
        // Texts, numbers and JSON that was read before: none can fail to be written.
        value: serde_json::to_vec(&written).unwrap_or_default().into(),
        headers,
        timestamp: event.received_at,
    };
    let scope = Scope::new(written.project_id.as_ref(), written.environment_id.as_ref());
    Made { target: Target::Events, record, scope, id: written.id.into_owned() }
}

/// A message of many, in FlexPrice's shape: where they belong stands once.
#[derive(Deserialize)]
struct Bulk<'a> {
    #[serde(borrow, default)]
    tenant_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    environment_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    events: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    data: Option<Vec<&'a RawValue>>,
}

impl Bulk<'_> {
    /// Where its parts belong that do not say themselves.
    fn scope(&self, otherwise: Option<&Scope>) -> Option<Scope> {
        match (&self.tenant_id, &self.environment_id) {
            (Some(project), Some(environment)) => Some(Scope::new(project.as_ref(), environment.as_ref())),
            (None, None) => otherwise.cloned(),
            _ => None,
        }
    }
}

fn bulk(value: &[u8]) -> Option<Bulk<'_>> {
    serde_json::from_slice(value).ok()
}

/// One event, or `{"events": […], "tenant_id", "environment_id"}`.
fn flexprice(at: &TopicPartition, record: &Record, scope: Option<&Scope>) -> Result<Vec<Made>, Refused> {
    let alone = match event(at, record, scope) {
        Ok(made) => return Ok(vec![made]),
        Err(refused) => refused,
    };
    let value = record.value.clone().unwrap_or_default();
    let Some(message) = bulk(&value) else { return Err(alone) };
    let Some(events) = &message.events else { return Err(alone) };
    let scope = message.scope(scope);
    each("events", events, |one| {
        let part = Record {
            offset: record.offset,
            timestamp: record.timestamp,
            key: None,
            value: Some(value.slice_ref(one.as_bytes())),
            headers: Default::default(),
        };
        event(at, &part, scope.as_ref())
    })
}

/// `{"data": [<payload>…], "tenant_id", "environment_id"}`, as FlexPrice's collector writes it.
fn flexprice_raw(at: &TopicPartition, record: &Record, scope: Option<&Scope>) -> Result<Vec<Made>, Refused> {
    let value = text(record)?;
    let expected = r#"{"data": […], "tenant_id": …, "environment_id": …} is expected"#;
    let message = bulk(value.as_bytes())
        .ok_or_else(|| refused(ErrorKind::InvalidJson, format!("not a message of payloads: {expected}")))?;
    let data = message
        .data
        .as_ref()
        .ok_or_else(|| refused(ErrorKind::MissingField, format!("data is absent; {expected}")))?;
    let scope = message.scope(scope).ok_or_else(|| {
        refused(ErrorKind::MissingField, format!("tenant_id or environment_id is absent; {expected}"))
    })?;
    let mut place = 0;
    each("data", data, |one| {
        place += 1;
        raw_event(at, record, &scope, one, place)
    })
}

/// Makes all of a message's parts; the first that will not do is the message's refusal.
fn each(
    field: &str,
    parts: &[&RawValue],
    mut make: impl FnMut(&str) -> Result<Made, Refused>,
) -> Result<Vec<Made>, Refused> {
    if parts.is_empty() || parts.len() > EVENTS_MAX {
        let message = format!("{field} has {} entries; 1 to {EVENTS_MAX} are expected", parts.len());
        return Err(refused(ErrorKind::InvalidField, message));
    }
    let made = parts.iter().enumerate().map(|(i, part)| {
        make(part.get()).map_err(|error| refused(error.kind, format!("{field}[{i}]: {}", error.message)))
    });
    made.collect()
}

/// Any JSON object: a payload for the transform of its environment.
fn payload(at: &TopicPartition, record: &Record, scope: Option<&Scope>) -> Result<Made, Refused> {
    let scope = scope.ok_or_else(|| {
        refused(ErrorKind::MissingField, "consumer.sources does not say where its payloads belong")
    })?;
    raw_event(at, record, scope, text(record)?, 0)
}

/// The value as text.
fn text(record: &Record) -> Result<&str, Refused> {
    let value = record.value.as_deref().filter(|value| !value.is_empty()).ok_or_else(|| {
        refused(ErrorKind::EmptyRecord, "the record has no value; a payload's JSON object is expected")
    })?;
    std::str::from_utf8(value).map_err(|error| {
        refused(ErrorKind::InvalidJson, format!("not UTF-8 from byte {}", error.valid_up_to()))
    })
}

/// The raw event of a payload. One without an id is named after its place in the log and what stands there, so that it
/// has the same id whenever it is read, and another once the topic was made again.
fn raw_event(
    at: &TopicPartition,
    record: &Record,
    scope: &Scope,
    payload: &str,
    place: usize,
) -> Result<Made, Refused> {
    let made_id = || {
        let place = format!("{at}-{}-{place}-{}", record.offset, record.timestamp.as_millis());
        let digest = Sha256::new().chain_update(place).chain_update(payload).finalize();
        digest.iter().take(16).fold(String::with_capacity(32), |id, byte| format!("{id}{byte:02x}"))
    };
    let received_at = record.timestamp.max(Timestamp::EPOCH).min(Timestamp::MAX);
    let payloads = Payloads { scope, received_at, producer: &at.topic };
    let (id, record) = payloads
        .record(payload.trim(), made_id)
        .map_err(|error| refused(ErrorKind::InvalidJson, error.to_string()))?;
    Ok(Made { target: Target::RawEvents, record, scope: scope.clone(), id })
}

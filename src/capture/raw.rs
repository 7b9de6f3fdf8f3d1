//! Raw events: payloads that a transform makes events of. What names and dates one is fixed here, whatever the transform:
//! the payload's own `id`, customer (`orgId`), time (`createdAt`) and name, where it has them; the rest goes to the log
//! byte for byte.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use serde_json::value::RawValue;

use super::batch::{Drafted, Rejection, RejectionCode, Sealed, TEXT_CHARACTERS_MAX};
use super::parse::{NotABatch, find_array, rest_of_object, skip_whitespace};
use super::scan::element_end;
use super::{Capture, InFlight, Receipt, Refusal, STEP_BYTES, Unread};
use crate::auth::Access;
use crate::event::{RawEvent, SCHEMA_VERSION, Timestamp};
use crate::eventlog::{Header, NewRecord};
use crate::transform::{Json, RAW_EVENT_ID_HEADER};

/// Raw events of one request.
const RAW_EVENTS_MAX: usize = 1000;
/// The surface's name in the headers of its records.
const PRODUCER: &str = "raw";
/// The key of the array in a body that is an object; the first is the one that answers use.
const ENVELOPES: [&str; 4] = ["data", "events", "raw_events", "batch"];

/// What a payload may call the things that name and date it; the first that will do counts.
const IDS: [&str; 2] = ["id", "event_id"];
const CUSTOMERS: [&str; 3] = ["orgId", "external_customer_id", "distinct_id"];
const TIMES: [&str; 2] = ["createdAt", "timestamp"];
const NAMES: [&str; 3] = ["event_name", "event", "methodName"];

static HEADER_NAMES: LazyLock<[Arc<str>; 5]> = LazyLock::new(|| {
    ["schema_version", "project_id", "environment_id", "producer", RAW_EVENT_ID_HEADER].map(Arc::from)
});

impl Capture {
    /// Takes the payloads of a body: each becomes one record of topic `topics.raw_events`. As [`Capture::produce`].
    ///
    /// # Errors
    /// At least one record is not known to be durable: none counts as accepted.
    pub(super) async fn produce_raw(
        &self,
        sealed: Sealed,
        in_flight: InFlight<'_>,
    ) -> Result<Receipt, Refusal> {
        self.deliver(&self.0.raw_topic, sealed, in_flight).await
    }

    /// Reads a body's payloads, in steps between which other requests of the thread get their turn.
    ///
    /// # Errors
    /// The body as a whole will not do.
    pub(super) async fn read_raw(
        &self,
        body: &[u8],
        access: &Access,
        received_at: Timestamp,
    ) -> Result<Sealed, Unread> {
        let mut taken =
            Taken { capture: self, access, received_at, sealed: Vec::new(), rejected: Vec::new(), seen: 0 };
        let (mut at, in_object) = begin(body)?;
        let mut turn_over = STEP_BYTES;
        loop {
            at = skip_whitespace(body, at);
            if body.get(at) == Some(&b']') && taken.seen == 0 {
                break;
            }
            let end = element_end(body, at)
                .ok_or(NotABatch::Syntax { at: body.len(), expected: "the array has no end" })?;
            if taken.seen == RAW_EVENTS_MAX {
                return Err(Unread::TooMany { events_max: RAW_EVENTS_MAX, of_surface: true });
            }
            taken.push(&body[at..end]);
            at = end;
            match body.get(at) {
                Some(b',') => at += 1,
                Some(b']') => break,
                _ => return Err(NotABatch::Syntax { at, expected: "expected , or ]" }.into()),
            }
            if at >= turn_over {
                turn_over = at + STEP_BYTES;
                tokio::task::yield_now().await;
            }
        }
        at += 1;
        if in_object {
            at = rest_of_object(body, at)?;
        }
        let at = skip_whitespace(body, at);
        if at < body.len() {
            return Err(NotABatch::Syntax { at, expected: "expected nothing more" }.into());
        }
        if taken.seen == 0 { Err(Unread::Empty) } else { Ok(taken.seal()) }
    }
}

/// Where the first element of the body's array stands, and whether the array is in an object.
fn begin(body: &[u8]) -> Result<(usize, bool), NotABatch> {
    let begin = skip_whitespace(body, 0);
    match body.get(begin) {
        Some(b'[') => Ok((begin + 1, false)),
        Some(b'{') => {
            for envelope in ENVELOPES {
                if let Some(at) = find_array(body, begin, envelope)? {
                    return Ok((at, true));
                }
            }
            Err(NotABatch::NotMany(ENVELOPES[0]))
        }
        _ => Err(NotABatch::NotEvents { at: begin }),
    }
}

/// The payloads of one request on their way to the log.
struct Taken<'c> {
    capture: &'c Capture,
    access: &'c Access,
    received_at: Timestamp,
    sealed: Vec<(Drafted, NewRecord)>,
    rejected: Vec<Rejection>,
    seen: usize,
}

impl Taken<'_> {
    fn push(&mut self, bytes: &[u8]) {
        let index = self.seen;
        self.seen += 1;
        match self.record(index, bytes) {
            Ok(taken) => self.sealed.push(taken),
            Err(message) => {
                self.rejected.push(Rejection {
                    index,
                    code: RejectionCode::ValidationError,
                    message,
                    field: None,
                });
            }
        }
    }

    fn record(&self, index: usize, bytes: &[u8]) -> Result<(Drafted, NewRecord), String> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| format!("not UTF-8 at its byte {}", error.valid_up_to()))?
            .trim_end();
        let json = Json::parse(text).map_err(|error| error.to_string())?;
        if !matches!(json, Json::Object { .. }) {
            return Err(format!("a raw event must be a JSON object, given {}", json.kind()));
        }
        // The grammar is checked: this only borrows.
        let payload: &RawValue = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let id = text_of(&json, &IDS).unwrap_or_else(|| {
            let made = self.capture.0.ids.uuid_v7(self.received_at);
            Cow::Owned(made.hyphenated().to_string())
        });
        let scope = &self.access.scope;
        let raw = RawEvent {
            project_id: scope.project.as_str().into(),
            environment_id: scope.environment.as_str().into(),
            external_customer_id: text_of(&json, &CUSTOMERS).unwrap_or_default(),
            timestamp: time_of(&json).unwrap_or(self.received_at),
            event_name: text_of(&json, &NAMES).unwrap_or_default(),
            received_at: self.received_at,
            payload,
            id,
        };
        let key = if raw.external_customer_id.is_empty() { &raw.id } else { &raw.external_customer_id };
        let key = Bytes::copy_from_slice(key.as_bytes());
        let value = serde_json::to_vec(&raw).map_err(|error| error.to_string())?;
        let version = SCHEMA_VERSION.to_string();
        let said = [&*version, scope.project.as_str(), scope.environment.as_str(), PRODUCER, &*raw.id];
        let headers = HEADER_NAMES.iter().zip(said);
        let headers = headers
            .map(|(name, said)| Header { name: name.clone(), value: Bytes::copy_from_slice(said.as_bytes()) })
            .collect();
        let quoted = serde_json::Value::from(&*raw.id).to_string();
        let id = Bytes::copy_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
        let record = NewRecord { key: Some(key), value: value.into(), headers, timestamp: self.received_at };
        Ok((Drafted { index, id }, record))
    }

    fn seal(self) -> Sealed {
        let bytes = self.sealed.iter().map(|(_, record)| record.bytes()).sum();
        let (drafted, records) = self.sealed.into_iter().unzip();
        Sealed {
            records,
            drafted,
            rejected: self.rejected,
            flagged: Vec::new(),
            clamped: 0,
            mismatch: None,
            bytes,
        }
    }
}

/// The first of these that is a text (or a number) of 1 to 200 characters.
fn text_of<'a>(json: &Json<'a>, names: &[&str]) -> Option<Cow<'a, str>> {
    names.iter().find_map(|name| {
        let text: Cow<'a, str> = match json.get(name)? {
            Json::Text(text) => text.clone(),
            Json::Number(text) => Cow::Borrowed(text),
            _ => return None,
        };
        let fits = !text.trim().is_empty()
            && !text.contains('\0')
            && (text.len() <= TEXT_CHARACTERS_MAX || text.chars().count() <= TEXT_CHARACTERS_MAX);
        fits.then_some(text)
    })
}

fn time_of(json: &Json<'_>) -> Option<Timestamp> {
    TIMES.iter().find_map(|name| match json.get(name)? {
        Json::Text(text) => {
            Timestamp::parse(text).ok().filter(|at| (Timestamp::EPOCH..=Timestamp::MAX).contains(at))
        }
        _ => None,
    })
}

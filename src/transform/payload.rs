//! A payload on its way to topic `raw_events`, wherever it comes from: what names and dates it is fixed here, whatever the
//! transform. Its own `id`, customer (`orgId`), time (`createdAt`) and name count, where it has them; the payload itself
//! goes on byte for byte.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use serde_json::value::RawValue;

use super::RAW_EVENT_ID_HEADER;
use super::json::{Json, NotJson};
use crate::event::{RawEvent, SCHEMA_VERSION, Scope, Timestamp};
use crate::eventlog::{Header, NewRecord};

/// Longest text that names something, in characters.
const TEXT_CHARACTERS_MAX: usize = 200;
/// What a payload may call the things that name and date it; the first that will do counts.
const IDS: [&str; 2] = ["id", "event_id"];
const CUSTOMERS: [&str; 3] = ["orgId", "external_customer_id", "distinct_id"];
const TIMES: [&str; 2] = ["createdAt", "timestamp"];
const NAMES: [&str; 3] = ["event_name", "event", "methodName"];

static HEADER_NAMES: LazyLock<[Arc<str>; 5]> = LazyLock::new(|| {
    ["schema_version", "project_id", "environment_id", "producer", RAW_EVENT_ID_HEADER].map(Arc::from)
});

/// Where payloads belong, and when they came.
#[derive(Clone, Copy, Debug)]
pub struct Payloads<'a> {
    pub scope: &'a Scope,
    pub received_at: Timestamp,
    /// The surface's name in the headers.
    pub producer: &'a str,
}

/// A text is no payload.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotAPayload {
    #[error("{0}")]
    NotJson(#[from] NotJson),
    #[error("a raw event must be a JSON object, given {0}")]
    NotAnObject(&'static str),
    #[error("{0}")]
    Unwritable(String),
}

impl Payloads<'_> {
    /// The id and the record of a payload; `make_id` is asked if it has no id of its own.
    ///
    /// # Errors
    /// See [`NotAPayload`].
    pub fn record(
        &self,
        text: &str,
        make_id: impl FnOnce() -> String,
    ) -> Result<(String, NewRecord), NotAPayload> {
        let json = Json::parse(text)?;
        if !matches!(json, Json::Object { .. }) {
            return Err(NotAPayload::NotAnObject(json.kind()));
        }
        let unwritable = |error: serde_json::Error| NotAPayload::Unwritable(error.to_string());
        // The grammar is checked: this only borrows.
        let payload: &RawValue = serde_json::from_str(text).map_err(unwritable)?;
        let raw = RawEvent {
            id: text_of(&json, &IDS).unwrap_or_else(|| Cow::Owned(make_id())),
            project_id: self.scope.project.as_str().into(),
            environment_id: self.scope.environment.as_str().into(),
            external_customer_id: text_of(&json, &CUSTOMERS).unwrap_or_default(),
            timestamp: time_of(&json).unwrap_or(self.received_at),
            event_name: text_of(&json, &NAMES).unwrap_or_default(),
            received_at: self.received_at,
            payload,
        };
        let key = if raw.external_customer_id.is_empty() { &raw.id } else { &raw.external_customer_id };
        let key = Bytes::copy_from_slice(key.as_bytes());
        let value = serde_json::to_vec(&raw).map_err(unwritable)?;
        let version = SCHEMA_VERSION.to_string();
        let said = [&*version, &*raw.project_id, &*raw.environment_id, self.producer, &*raw.id];
        let headers = HEADER_NAMES.iter().zip(said);
        let headers = headers
            .map(|(name, said)| Header { name: name.clone(), value: Bytes::copy_from_slice(said.as_bytes()) })
            .collect();
        let record = NewRecord { key: Some(key), value: value.into(), headers, timestamp: self.received_at };
        Ok((raw.id.into_owned(), record))
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

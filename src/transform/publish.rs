//! Events that transforms make, as records of the log, and what is kept of them to replace them later.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::mapping::Mapped;
use crate::event::{LogEvent, SCHEMA_VERSION, Scope, Timestamp};
use crate::eventlog::{Header, NewRecord};

/// Header of an event: the raw event that it was made of.
pub const RAW_EVENT_ID_HEADER: &str = "raw_event_id";
/// Header of a reprocessed event: its row's version.
pub const VERSION_HEADER: &str = "version";
/// Header of a record that says that an event is no more.
pub const DELETED_HEADER: &str = "deleted";

/// What many records have alike, made once for all of them.
#[derive(Clone, Debug)]
pub struct Alike {
    project: Bytes,
    environment: Bytes,
    version: Option<Bytes>,
}

impl Alike {
    /// Of the records of a scope; `version` of reprocessed ones.
    pub fn of(scope: &Scope, version: Option<u64>) -> Self {
        let copy = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        Self {
            project: copy(scope.project.as_str()),
            environment: copy(scope.environment.as_str()),
            version: version.map(|version| version.to_string().into()),
        }
    }
}

/// The raw event that an event is made of.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    pub scope: &'a Scope,
    pub alike: &'a Alike,
    pub raw_event_id: &'a str,
    pub received_at: Timestamp,
    /// The surface's name in the headers.
    pub producer: &'static str,
    /// What the records are keyed by; none: each by its distinct id.
    pub key: Option<&'a str>,
}

/// The key of an event's row: id, name, distinct id and milliseconds of its time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Key(pub String, pub String, pub String, pub i64);

const DAY_MILLIS: i64 = 86_400_000;

impl Key {
    pub fn of(event: &Mapped) -> Self {
        Self(
            event.id.clone(),
            event.event_name.clone(),
            event.distinct_id.clone(),
            event.timestamp.as_millis(),
        )
    }

    /// Do both name the same row? Of the time, the day counts.
    pub fn is_same_row(&self, other: &Self) -> bool {
        (&self.0, &self.1, &self.2) == (&other.0, &other.1, &other.2)
            && self.3.div_euclid(DAY_MILLIS) == other.3.div_euclid(DAY_MILLIS)
    }

    /// As they are kept.
    pub fn write(keys: &[Self]) -> String {
        // Texts and numbers: none can fail to be written.
        serde_json::to_string(keys).unwrap_or_default()
    }

    /// As they were kept; what cannot be read is none.
    pub fn read(text: &str) -> Vec<Self> {
        serde_json::from_str(text).unwrap_or_default()
    }
}

/// In the order in which records have them; the last two only some do.
static HEADER_NAMES: LazyLock<[Arc<str>; 7]> = LazyLock::new(|| {
    [
        "schema_version",
        "project_id",
        "environment_id",
        "producer",
        RAW_EVENT_ID_HEADER,
        VERSION_HEADER,
        DELETED_HEADER,
    ]
    .map(Arc::from)
});
/// About the bytes of an event's JSON without its properties.
const BESIDES_PROPERTIES: usize = 384;
static SCHEMA: LazyLock<Bytes> = LazyLock::new(|| SCHEMA_VERSION.to_string().into());

impl Origin<'_> {
    /// The record of an event.
    pub fn record(&self, event: &Mapped, now: Timestamp) -> NewRecord {
        let properties = serde_json::from_str::<&RawValue>(&event.properties).ok();
        self.written(
            &LogEvent {
                id: event.id.as_str().into(),
                project_id: self.scope.project.as_str().into(),
                environment_id: self.scope.environment.as_str().into(),
                event_name: event.event_name.as_str().into(),
                distinct_id: event.distinct_id.as_str().into(),
                customer_id: event.customer_id.as_deref().map(Into::into),
                session_id: event.session_id.as_deref().map(Into::into),
                source: event.source.as_deref().map(Into::into),
                timestamp: event.timestamp,
                received_at: self.received_at,
                schema_version: SCHEMA_VERSION,
                id_generated: false,
                properties,
            },
            false,
            now,
        )
    }

    /// The record that hides the row of this key.
    pub fn tombstone(&self, key: &Key, now: Timestamp) -> NewRecord {
        self.written(
            &LogEvent {
                id: key.0.as_str().into(),
                project_id: self.scope.project.as_str().into(),
                environment_id: self.scope.environment.as_str().into(),
                event_name: key.1.as_str().into(),
                distinct_id: key.2.as_str().into(),
                customer_id: None,
                session_id: None,
                source: None,
                timestamp: Timestamp::from_millis(key.3),
                received_at: self.received_at,
                schema_version: SCHEMA_VERSION,
                id_generated: false,
                properties: None,
            },
            true,
            now,
        )
    }

    fn written(&self, event: &LogEvent<'_>, deleted: bool, now: Timestamp) -> NewRecord {
        let Alike { project, environment, version } = self.alike;
        let values = [
            Some(SCHEMA.clone()),
            Some(project.clone()),
            Some(environment.clone()),
            Some(Bytes::from_static(self.producer.as_bytes())),
            Some(Bytes::copy_from_slice(self.raw_event_id.as_bytes())),
            version.clone(),
            deleted.then(|| Bytes::from_static(b"1")),
        ];
        let mut headers = Vec::with_capacity(HEADER_NAMES.len());
        let named = HEADER_NAMES.iter().zip(values);
        headers.extend(named.filter_map(|(name, value)| Some(Header { name: name.clone(), value: value? })));
        let properties = event.properties.map_or(0, |properties| properties.get().len());
        let mut value = Vec::with_capacity(BESIDES_PROPERTIES + properties);
        // Texts, numbers and JSON that was made here: none can fail to be written.
        let _ = serde_json::to_writer(&mut value, event);
        NewRecord {
            key: Some(Bytes::copy_from_slice(self.key.unwrap_or(&event.distinct_id).as_bytes())),
            value: value.into(),
            headers: headers.into(),
            timestamp: now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_and_a_row_is_the_same_all_day() {
        let key = |millis| Key("a".into(), "n\"".into(), "d".into(), millis);
        let keys = [key(0), key(86_399_999), key(86_400_000)];
        assert_eq!(Key::read(&Key::write(&keys)), keys);
        assert!(keys[0].is_same_row(&keys[1]) && !keys[0].is_same_row(&keys[2]));
        assert_eq!(Key::read("garbage"), []);
    }
}

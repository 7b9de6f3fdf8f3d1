//! Checks the items of one request and writes those that will do as log records, all into one buffer.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use serde::Serialize;

use super::Rules;
use super::parse::{Given, Incoming, Unreadable};
use super::words::Words;
use crate::auth::{Access, EnvironmentMismatch};
use crate::event::{IdSource, SCHEMA_VERSION, Timestamp};
use crate::eventlog::{Header, Headers, NewRecord};
use crate::schema::{ProjectSchemas, Verdict};

/// Longest name or id, in characters.
pub const TEXT_CHARACTERS_MAX: usize = 200;

/// What the person of an event without one begins with; its event id follows.
const ANONYMOUS: &str = "anon_";

/// The headers of every record, in order.
static HEADER_NAMES: LazyLock<[Arc<str>; 4]> =
    LazyLock::new(|| ["schema_version", "project_id", "environment_id", "producer"].map(Arc::from));

/// The header that says what the event's schema says of it, on records of events that have one.
static SCHEMA_HEADER: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(crate::schema::HEADER));

/// Longest piece of what was sent that a message repeats, in characters.
const ECHO_CHARACTERS_MAX: usize = 60;

/// Why an item was refused, for programs; the same words as the codes of whole answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectionCode {
    /// A field is missing or will not do.
    ValidationError,
    /// It names an environment that is not the key's.
    PermissionDenied,
    /// It is larger than an event, or a log record, may be.
    PayloadTooLarge,
}

impl RejectionCode {
    /// Its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ValidationError => "validation_error",
            Self::PermissionDenied => "permission_denied",
            Self::PayloadTooLarge => "payload_too_large",
        }
    }
}

/// An item of a request that was refused; the others are not touched.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Rejection {
    /// Its place in the request, from 0.
    pub index: usize,
    pub code: RejectionCode,
    /// What is wrong, with the field, what was given and what would be right.
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<&'static str>,
}

/// An item that does not fit its schema and was accepted all the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Flag {
    /// Its place in the request, from 0.
    pub index: usize,
    pub message: String,
}

/// The events of one request on their way to the log. Everything that identifies or dates an event is fixed here:
/// its id, its timestamp, its time of receipt.
pub struct Batch<'r> {
    rules: &'r Rules,
    ids: &'r dyn IdSource,
    access: &'r Access,
    words: &'static Words,
    /// Those of the project, if it has any.
    schemas: Option<Arc<ProjectSchemas>>,
    received_at: Timestamp,
    /// `","project_id":"…","environment_id":"…","event_name":"`, the same in every record.
    belonging: String,
    /// `","received_at":"…","schema_version":1`, the same in every record.
    receipt: String,
    out: Vec<u8>,
    drafts: Vec<Draft>,
    rejected: Vec<Rejection>,
    flagged: Vec<Flag>,
    clamped: u64,
    seen: usize,
    mismatch: Option<EnvironmentMismatch>,
}

/// Where the parts of a record stand in the buffer.
struct Draft {
    index: usize,
    value: Range<usize>,
    key: Range<usize>,
    id: Range<usize>,
    /// What its schema says of it, if it has one.
    mark: Option<Bytes>,
}

/// What its schema says of an item.
#[derive(Default)]
struct Held {
    /// If it has one.
    mark: Option<Bytes>,
    /// Its properties in the newest version, if it was written for an older one.
    upcast: Option<String>,
}

/// An item that went into a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Drafted {
    /// Its place in the request, from 0.
    pub index: usize,
    /// Its event id as JSON text without the quotes.
    pub id: Bytes,
}

/// A batch with nothing more to come.
pub(super) struct Sealed {
    /// One a drafted item, in the same order.
    pub records: Vec<NewRecord>,
    pub drafted: Vec<Drafted>,
    pub rejected: Vec<Rejection>,
    pub flagged: Vec<Flag>,
    /// Items whose timestamp was too far ahead.
    pub clamped: u64,
    /// The first environment that is not the key's, when an item named one.
    pub mismatch: Option<EnvironmentMismatch>,
    /// Bytes of the buffer that all records share.
    pub bytes: usize,
}

/// A text that will do: as JSON writes it, and what it says.
struct Checked<'a> {
    raw: Cow<'a, str>,
    said: Cow<'a, str>,
}

struct Refused {
    code: RejectionCode,
    field: &'static str,
    message: String,
}

fn refused(field: &'static str, message: String) -> Refused {
    Refused { code: RejectionCode::ValidationError, field, message }
}

impl<'r> Batch<'r> {
    /// An empty batch of events that belong to the scope of `access`; `bytes_expected` sizes its buffer.
    pub(super) fn new(
        rules: &'r Rules,
        ids: &'r dyn IdSource,
        access: &'r Access,
        received_at: Timestamp,
        bytes_expected: usize,
        words: &'static Words,
    ) -> Self {
        let scope = &access.scope;
        let belonging = format!(
            "\",\"project_id\":{},\"environment_id\":{},\"event_name\":\"",
            quoted(scope.project.as_str()),
            quoted(scope.environment.as_str())
        );
        let receipt = format!("\",\"received_at\":\"{received_at}\",\"schema_version\":{SCHEMA_VERSION}");
        let out = Vec::with_capacity(bytes_expected);
        Self {
            rules,
            ids,
            access,
            words,
            schemas: None,
            received_at,
            belonging,
            receipt,
            out,
            drafts: Vec::new(),
            rejected: Vec::new(),
            flagged: Vec::new(),
            clamped: 0,
            seen: 0,
            mismatch: None,
        }
    }

    /// Holds the events against these schemas.
    pub(super) fn with_schemas(self, schemas: Option<Arc<ProjectSchemas>>) -> Self {
        Self { schemas, ..self }
    }

    /// The words of the surface.
    pub(super) fn words(&self) -> &'static Words {
        self.words
    }

    /// Items taken so far, refused ones included.
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// Takes the next item of the request: as a record, or as a rejection.
    pub fn push(&mut self, item: Result<Incoming<'_>, Unreadable>) {
        let index = self.seen;
        self.seen += 1;
        let outcome = match item {
            Ok(incoming) => self
                .draft(index, &incoming)
                .map_err(|refused| (refused.code, Some(refused.field), refused.message)),
            Err(Unreadable { field, message }) => {
                let field = field.map(|field| self.words.of(field));
                Err((RejectionCode::ValidationError, field, message))
            }
        };
        if let Err((code, field, message)) = outcome {
            self.rejected.push(Rejection { index, code, message, field });
        }
    }

    fn draft(&mut self, index: usize, item: &Incoming<'_>) -> Result<(), Refused> {
        let event = required(self.words.event, item.event, true)?;
        let event_id = text("event_id", item.event_id, false)?;
        let distinct_id = self.person(item, event_id.as_ref())?;
        let customer_id = optional("customer_id", item.customer_id)?;
        let session_id = optional("session_id", item.session_id)?;
        let source = optional("source", item.source)?;
        self.check_environment_of_item(item.environment_id)?;
        check_schema_version(item.schema_version)?;
        let timestamp = self.timestamp(item.timestamp)?;
        let properties = self.properties(item.properties)?;
        let held = self.check_schema(index, &event.said, properties)?;
        let properties = held.upcast.as_deref().or(properties);

        let from = self.out.len();
        self.out.extend_from_slice(b"{\"id\":\"");
        let id_from = self.out.len();
        match &event_id {
            Some(id) => self.out.extend_from_slice(id.raw.as_bytes()),
            None => {
                let mut text = uuid::Uuid::encode_buffer();
                let id = self.ids.uuid_v7(self.received_at).hyphenated().encode_lower(&mut text);
                self.out.extend_from_slice(id.as_bytes());
            }
        }
        let id = id_from..self.out.len();
        self.out.extend_from_slice(self.belonging.as_bytes());
        self.out.extend_from_slice(event.raw.as_bytes());
        self.out.extend_from_slice(b"\",\"distinct_id\":\"");
        let key_from = self.out.len();
        match &distinct_id {
            Some(given) => self.out.extend_from_slice(given.raw.as_bytes()),
            None => {
                self.out.extend_from_slice(ANONYMOUS.as_bytes());
                self.out.extend_from_within(id.clone());
            }
        }
        let mut key = key_from..self.out.len();
        for (name, value) in [
            ("\",\"customer_id\":\"", &customer_id),
            ("\",\"session_id\":\"", &session_id),
            ("\",\"source\":\"", &source),
        ] {
            if let Some(value) = value {
                self.out.extend_from_slice(name.as_bytes());
                self.out.extend_from_slice(value.raw.as_bytes());
            }
        }
        self.out.extend_from_slice(b"\",\"timestamp\":\"");
        timestamp.write_to(&mut self.out);
        self.out.extend_from_slice(self.receipt.as_bytes());
        if event_id.is_none() {
            self.out.extend_from_slice(b",\"id_generated\":true");
        }
        if let Some(properties) = properties {
            self.out.extend_from_slice(b",\"properties\":");
            self.out.extend_from_slice(properties.as_bytes());
        }
        self.out.push(b'}');
        let value = from..self.out.len();
        // The key is what the id says, which its escaped form in the value does not spell.
        let said = match (&distinct_id, &event_id) {
            (Some(Checked { said: Cow::Owned(said), .. }), _) => Some(("", said)),
            (None, Some(Checked { said: Cow::Owned(said), .. })) => Some((ANONYMOUS, said)),
            _ => None,
        };
        if let Some((prefix, said)) = said {
            key = self.out.len()..self.out.len() + prefix.len() + said.len();
            self.out.extend_from_slice(prefix.as_bytes());
            self.out.extend_from_slice(said.as_bytes());
        }
        self.drafts.push(Draft { index, value, key, id, mark: held.mark });
        Ok(())
    }

    /// Who acted. An event without a person will do where its surface says so, if its id can stand in: `None`.
    fn person<'a>(
        &self,
        item: &Incoming<'a>,
        event_id: Option<&Checked<'_>>,
    ) -> Result<Option<Checked<'a>>, Refused> {
        let field = self.words.distinct_id;
        if let Some(given) = text(field, item.distinct_id, false)? {
            return Ok(Some(given));
        }
        let room = TEXT_CHARACTERS_MAX - ANONYMOUS.len();
        if !item.by_type {
            return Err(refused(field, format!("{field} is required")));
        }
        if event_id.is_some_and(|id| id.said.chars().count() > room) {
            let message = format!(
                "{field} is required: an event_id of more than {room} characters cannot stand in for it"
            );
            return Err(refused(field, message));
        }
        Ok(None)
    }

    fn timestamp(&mut self, given: Given<'_>) -> Result<Timestamp, Refused> {
        let wrong = |given: &str| {
            let expected = "an RFC 3339 time such as 2026-01-31T12:00:00Z";
            refused("timestamp", format!("timestamp must be {expected}, given {}", echo(given)))
        };
        let at = match given {
            Given::Nothing => return Ok(self.received_at),
            Given::Other(json) => return Err(wrong(json)),
            Given::Text(text) => {
                Timestamp::parse(text.raw()).map_err(|_| wrong(&format!("\"{}\"", text.raw())))?
            }
        };
        if at < Timestamp::EPOCH {
            let message = format!("timestamp must not be before {}, given {at}", Timestamp::EPOCH);
            return Err(refused("timestamp", message));
        }
        if at > self.received_at.plus(self.rules.future_max) {
            self.clamped += 1;
            return Ok(self.received_at);
        }
        Ok(at)
    }

    fn properties<'a>(&self, given: Given<'a>) -> Result<Option<&'a str>, Refused> {
        let wrong = |json: &str| {
            refused("properties", format!("properties must be a JSON object, given {}", echo(json)))
        };
        match given {
            Given::Nothing | Given::Other("{}") => Ok(None),
            Given::Other(json) if json.len() > self.rules.properties_bytes_max => Err(Refused {
                code: RejectionCode::PayloadTooLarge,
                ..refused(
                    "properties",
                    format!(
                        "properties may have {} bytes, given {}",
                        self.rules.properties_bytes_max,
                        json.len()
                    ),
                )
            }),
            Given::Other(json) if json.starts_with('{') => Ok(Some(json)),
            Given::Other(json) => Err(wrong(json)),
            Given::Text(text) => Err(wrong(&format!("\"{}\"", text.raw()))),
        }
    }

    /// What the event's schema says of its properties.
    fn check_schema(&mut self, index: usize, event: &str, properties: Option<&str>) -> Result<Held, Refused> {
        let Some(schemas) = &self.schemas else { return Ok(Held::default()) };
        let (mark, upcast) = match schemas.check(event, properties.unwrap_or("{}")) {
            Verdict::NoSchema => return Ok(Held::default()),
            Verdict::Fits(mark) => (mark, None),
            Verdict::Upcast(mark, upcast) => (mark, Some(upcast)),
            Verdict::Flagged(mark, message) => {
                self.flagged.push(Flag { index, message });
                (mark, None)
            }
            Verdict::Rejected(message) => return Err(refused("properties", message)),
        };
        Ok(Held { mark: Some(Bytes::from(mark.0.into_string())), upcast })
    }

    /// Holds an environment that is named for all items against the key's.
    ///
    /// # Errors
    /// It is another one.
    pub fn check_environment(&self, named: &str) -> Result<(), EnvironmentMismatch> {
        self.access.check_environment(named)
    }

    fn check_environment_of_item(&mut self, given: Given<'_>) -> Result<(), Refused> {
        let Some(environment) = optional("environment_id", given)? else { return Ok(()) };
        let Err(mismatch) = self.access.check_environment(&environment.said) else { return Ok(()) };
        let message = mismatch.to_string();
        self.mismatch.get_or_insert(mismatch);
        Err(Refused { code: RejectionCode::PermissionDenied, ..refused("environment_id", message) })
    }

    /// Nothing more comes.
    pub(super) fn seal(mut self, producer: &'static str) -> Sealed {
        // What the headers say stands in the buffer, too: nothing else is to be made, or freed by another thread.
        let scope = &self.access.scope;
        let mut texts = [const { 0..0 }; 3];
        let version = SCHEMA_VERSION.to_string();
        for (text, said) in
            texts.iter_mut().zip([&version, scope.project.as_str(), scope.environment.as_str()])
        {
            *text = self.out.len()..self.out.len() + said.len();
            self.out.extend_from_slice(said.as_bytes());
        }
        let out = Bytes::from(self.out);
        let [version, project, environment] = texts.map(|text| out.slice(text));
        let producer = Bytes::from_static(producer.as_bytes());
        let mut names = HEADER_NAMES.iter().cloned();
        let headers: Headers = [version, project, environment, producer]
            .map(|value| Header { name: names.next().unwrap_or_default(), value })
            .into();
        let marked = |draft: &Draft| {
            let mark =
                draft.mark.iter().map(|mark| Header { name: SCHEMA_HEADER.clone(), value: mark.clone() });
            headers.iter().cloned().chain(mark).collect()
        };
        let record = |draft: &Draft| NewRecord {
            key: Some(out.slice(draft.key.clone())),
            value: out.slice(draft.value.clone()),
            headers: if draft.mark.is_none() { headers.clone() } else { marked(draft) },
            timestamp: self.received_at,
        };
        Sealed {
            records: self.drafts.iter().map(record).collect(),
            drafted: self
                .drafts
                .iter()
                .map(|draft| Drafted { index: draft.index, id: out.slice(draft.id.clone()) })
                .collect(),
            rejected: self.rejected,
            flagged: self.flagged,
            clamped: self.clamped,
            mismatch: self.mismatch,
            bytes: out.len(),
        }
    }
}

fn required<'a>(field: &'static str, given: Given<'a>, trim: bool) -> Result<Checked<'a>, Refused> {
    text(field, given, trim)?.ok_or_else(|| refused(field, format!("{field} is required")))
}

/// Optional texts: many clients send `""` for "none".
fn optional<'a>(field: &'static str, given: Given<'a>) -> Result<Option<Checked<'a>>, Refused> {
    match given {
        Given::Text(text) if text.raw().is_empty() => Ok(None),
        given => text(field, given, false),
    }
}

fn text<'a>(field: &'static str, given: Given<'a>, trim: bool) -> Result<Option<Checked<'a>>, Refused> {
    let text = match given {
        Given::Nothing => return Ok(None),
        Given::Other(json) => {
            return Err(refused(field, format!("{field} must be a string, given {}", echo(json))));
        }
        Given::Text(text) => text,
    };
    let said = text
        .decoded()
        .ok_or_else(|| refused(field, format!("{field} has an escape for half of a surrogate pair")))?;
    if said.contains('\0') {
        return Err(refused(field, format!("{field} must not contain NUL")));
    }
    let trimmed = said.trim();
    let kept = if trim { trimmed } else { &*said };
    let characters = if kept.len() <= TEXT_CHARACTERS_MAX { kept.len() } else { kept.chars().count() };
    if trimmed.is_empty() || characters > TEXT_CHARACTERS_MAX {
        let what =
            if trimmed.is_empty() { "nothing but white space".to_owned() } else { characters.to_string() };
        let message = format!("{field} must have 1 to {TEXT_CHARACTERS_MAX} characters, given {what}");
        return Err(refused(field, message));
    }
    let changed = kept.len() != said.len();
    Ok(Some(match said {
        Cow::Borrowed(said) => {
            let kept = if trim { said.trim() } else { said };
            Checked { raw: kept.into(), said: kept.into() }
        }
        Cow::Owned(_) if changed => {
            let quoted = quoted(kept);
            Checked { raw: quoted[1..quoted.len() - 1].to_owned().into(), said: kept.to_owned().into() }
        }
        Cow::Owned(said) => Checked { raw: text.raw().into(), said: said.into() },
    }))
}

fn check_schema_version(given: Given<'_>) -> Result<(), Refused> {
    let json = match given {
        Given::Nothing => return Ok(()),
        Given::Other(json) => json,
        Given::Text(text) => text.raw(),
    };
    if json.parse::<u32>().is_ok_and(|version| (1..=SCHEMA_VERSION).contains(&version)) {
        return Ok(());
    }
    let message = format!(
        "schema_version must be a version that this server reads, 1 to {SCHEMA_VERSION}, given {}",
        echo(json)
    );
    Err(refused("schema_version", message))
}

/// `text` as JSON writes it, quotes included.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What was given, cut to a length that a message can bear.
fn echo(given: &str) -> Cow<'_, str> {
    match given.char_indices().nth(ECHO_CHARACTERS_MAX) {
        None => given.into(),
        Some((end, _)) => format!("{}…", &given[..end]).into(),
    }
}

#[cfg(test)]
mod tests;

//! A body's events, borrowed from its bytes: one event, an array of them, or `{"batch":[…]}` (which forms a surface
//! takes, and how it calls things, its [`Words`] say).
//!
//! Lexical only: which fields an item has and what they look like. Whether they will do is [`super::Batch`]'s business.
//! An item that cannot be read is told from its neighbours and does not sink them, be it bad JSON or bad UTF-8; a body
//! whose brackets do not close is refused as a whole (it may be half of what was meant).

use std::borrow::Cow;

use super::envelope::Envelope;
use super::scan::{Caps, Fault, FaultKind, Scanner, Text, element_end};
use super::words::{Takes, Words};

/// A field's value as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given<'a> {
    /// Absent, or `null`.
    Nothing,
    Text(Text<'a>),
    /// Anything but a string, as JSON text.
    Other(&'a str),
}

/// One event as it was sent. `properties` is JSON text whose bounds were checked, if it is an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming<'a> {
    pub event: Given<'a>,
    pub distinct_id: Given<'a>,
    pub event_id: Given<'a>,
    pub timestamp: Given<'a>,
    pub customer_id: Given<'a>,
    pub session_id: Given<'a>,
    pub source: Given<'a>,
    pub environment_id: Given<'a>,
    pub schema_version: Given<'a>,
    pub properties: Given<'a>,
    /// The event was named as `event_type` and no other way.
    pub by_type: bool,
}

/// The names of a field; the first is the one that answers use.
struct Field {
    names: &'static [&'static str],
}

const FIELDS: [Field; 10] = [
    Field { names: &["event", "event_name"] },
    Field { names: &["distinct_id", "external_customer_id"] },
    Field { names: &["event_id", "id", "uuid"] },
    Field { names: &["timestamp"] },
    Field { names: &["customer_id"] },
    Field { names: &["session_id"] },
    Field { names: &["source"] },
    Field { names: &["environment_id"] },
    Field { names: &["schema_version"] },
    Field { names: &["properties"] },
];
const PROPERTIES: usize = 9;
const EVENT_TYPE: &str = "event_type";

fn slot_of(key: &str, words: &Words) -> Option<usize> {
    Some(match key {
        "event" | "event_name" => 0,
        EVENT_TYPE if words.event_type => 0,
        "distinct_id" | "external_customer_id" => 1,
        "event_id" | "id" | "uuid" => 2,
        "timestamp" => 3,
        "customer_id" => 4,
        "session_id" => 5,
        "source" => 6,
        "environment_id" => 7,
        "schema_version" => 8,
        "properties" => PROPERTIES,
        _ => return None,
    })
}

/// Why one item could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable {
    /// The field that is at fault, when it is one.
    pub field: Option<&'static str>,
    pub message: String,
}

/// Why a whole body could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotABatch {
    /// Not JSON, at this byte.
    Syntax { at: usize, expected: &'static str },
    /// What begins at this byte is neither an object nor an array.
    NotEvents { at: usize },
    /// The value of this key is not an array.
    NotAnArray(&'static str),
    /// Several events where one is taken.
    NotOne,
    /// An object without this key, where many events are taken.
    NotMany(&'static str),
}

/// The items of a body, one after the other.
#[derive(Debug)]
pub struct Items<'a> {
    bytes: &'a [u8],
    /// The same, when all of it is UTF-8.
    text: Option<&'a str>,
    caps: Caps,
    words: &'static Words,
    state: State<'a>,
    /// What was around the array, once all of it is read.
    read: Option<Envelope<'a>>,
}

#[derive(Debug)]
enum State<'a> {
    /// A body that is one event: what reading it gave.
    Single(Box<Result<Incoming<'a>, Unreadable>>),
    /// Before an element of an array, or its end.
    Array {
        at: usize,
        first: bool,
        /// The object that has the array; without one the body ends with it.
        around: Option<Envelope<'a>>,
    },
    Done,
}

impl<'a> Items<'a> {
    /// Finds out which form the body has.
    ///
    /// # Errors
    /// The body as a whole is neither.
    pub fn new(
        bytes: &'a [u8],
        properties_depth_max: usize,
        properties_keys_max: usize,
        words: &'static Words,
    ) -> Result<Self, NotABatch> {
        let caps = Caps { depth_max: properties_depth_max, keys_max: properties_keys_max };
        let text = std::str::from_utf8(bytes).ok();
        let begin = bytes.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(bytes.len());
        let state = match bytes.get(begin) {
            Some(b'[') if words.takes == Takes::One => return Err(NotABatch::NotOne),
            Some(b'[') => State::Array { at: begin + 1, first: true, around: None },
            Some(b'{') => object(bytes, text, begin, caps, words)?,
            _ => return Err(NotABatch::NotEvents { at: begin }),
        };
        Ok(Self { bytes, text, caps, words, state, read: None })
    }

    /// The environment that the object around the batch names for all items; known when all are read.
    pub fn environment(&self) -> Option<Cow<'a, str>> {
        self.read.as_ref().and_then(Envelope::environment)
    }

    /// Bytes of the body passed so far.
    pub fn passed(&self) -> usize {
        match self.state {
            State::Array { at, .. } => at,
            State::Single(_) | State::Done => self.bytes.len(),
        }
    }

    /// The next item: `Ok(None)` at the end.
    ///
    /// # Errors
    /// The body as a whole cannot be read on; items given before it must be forgotten.
    pub fn next_item(&mut self) -> Result<Option<Result<Incoming<'a>, Unreadable>>, NotABatch> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Done => Ok(None),
            State::Single(item) => Ok(Some(*item)),
            State::Array { at, first, around } => {
                let at = skip_whitespace(self.bytes, at);
                match self.bytes.get(at) {
                    Some(b']') if first => self.close(at, around),
                    Some(_) => self.element(at, around).map(Some),
                    None => Err(NotABatch::Syntax { at, expected: "the array has no end" }),
                }
            }
        }
    }

    fn close(
        &mut self,
        at: usize,
        around: Option<Envelope<'a>>,
    ) -> Result<Option<Result<Incoming<'a>, Unreadable>>, NotABatch> {
        let mut at = at + 1;
        if let Some(mut envelope) = around {
            at = envelope.close(self.bytes, at)?;
            self.read = Some(envelope);
        }
        match skip_whitespace(self.bytes, at) {
            end if end == self.bytes.len() => Ok(None),
            at => Err(NotABatch::Syntax { at, expected: "expected nothing more" }),
        }
    }

    fn element(
        &mut self,
        at: usize,
        around: Option<Envelope<'a>>,
    ) -> Result<Result<Incoming<'a>, Unreadable>, NotABatch> {
        // The fast way: read it where it stands. The element must end where one may end.
        if let Some(text) = self.text {
            let mut scanner = Scanner::new(text, at);
            if let Ok(item) = incoming(&mut scanner, self.caps, self.words)
                && matches!(scanner.peek(), Some(b',' | b']'))
            {
                self.after(scanner.at(), around)?;
                return Ok(Ok(item));
            }
        }
        // Else find its end by brackets alone, and say what is wrong between.
        let end = element_end(self.bytes, at)
            .ok_or(NotABatch::Syntax { at: self.bytes.len(), expected: "the array has no end" })?;
        self.after(end, around)?;
        Ok(alone(&self.bytes[at..end], self.caps, self.words))
    }

    /// Stands before the next element, or closes the array.
    fn after(&mut self, at: usize, around: Option<Envelope<'a>>) -> Result<(), NotABatch> {
        match self.bytes.get(at) {
            Some(b',') => self.state = State::Array { at: at + 1, first: false, around },
            Some(b']') => drop(self.close(at, around)?),
            _ => return Err(NotABatch::Syntax { at, expected: "expected , or ]" }),
        }
        Ok(())
    }
}

pub(super) fn skip_whitespace(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\n' | b'\t' | b'\r')) {
        at += 1;
    }
    at
}

/// A body that is an object: an event, or what holds a batch.
fn object<'a>(
    bytes: &'a [u8],
    text: Option<&'a str>,
    begin: usize,
    caps: Caps,
    words: &Words,
) -> Result<State<'a>, NotABatch> {
    if words.takes != Takes::One {
        if let Some((envelope, at)) = Envelope::open(bytes, begin, words.envelope)? {
            return Ok(State::Array { at, first: true, around: Some(envelope) });
        }
        if words.takes == Takes::Many {
            return Err(NotABatch::NotMany(words.envelope));
        }
    }
    let Some(text) = text else {
        return Ok(State::Single(Box::new(alone(bytes, caps, words))));
    };
    let mut scanner = Scanner::new(text, begin);
    let item = match incoming(&mut scanner, caps, words) {
        Ok(item) => Ok(item),
        Err(Refused::Scan(Fault { at, kind: FaultKind::Syntax(expected) })) => {
            return Err(NotABatch::Syntax { at, expected });
        }
        Err(refused) => Err(refused.into_unreadable()),
    };
    if item.is_ok() && scanner.peek().is_some() {
        return Err(NotABatch::Syntax { at: scanner.at(), expected: "expected nothing more" });
    }
    Ok(State::Single(Box::new(item)))
}

/// Reads the bytes of one item, which end where it ends.
fn alone<'a>(bytes: &'a [u8], caps: Caps, words: &Words) -> Result<Incoming<'a>, Unreadable> {
    let text = std::str::from_utf8(bytes).map_err(|error| Unreadable {
        field: None,
        message: format!("not UTF-8 at its byte {}", error.valid_up_to()),
    })?;
    let mut scanner = Scanner::new(text, 0);
    let item = incoming(&mut scanner, caps, words).map_err(Refused::into_unreadable)?;
    match scanner.peek() {
        None => Ok(item),
        Some(_) => Err(Refused::Scan(scanner.syntax("expected nothing more")).into_unreadable()),
    }
}

enum Refused {
    NotAnObject,
    Scan(Fault),
    Properties(Fault, Caps),
    GivenTwice(&'static Field),
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self::Scan(fault)
    }
}

impl Refused {
    fn into_unreadable(self) -> Unreadable {
        let (field, message) = match self {
            Self::NotAnObject => (None, "an event must be a JSON object".to_owned()),
            Self::GivenTwice(Field { names }) => {
                (Some(names[0]), format!("{} is given twice, with different values", names.join(" or ")))
            }
            Self::Scan(Fault { at, kind: FaultKind::Syntax(expected) }) => {
                (None, format!("not JSON at its byte {at}: {expected}"))
            }
            Self::Scan(_) => (None, "nested too deeply".to_owned()),
            Self::Properties(Fault { at, kind: FaultKind::Syntax(expected) }, _) => {
                (Some("properties"), format!("not JSON at its byte {at}: {expected}"))
            }
            Self::Properties(Fault { kind, .. }, caps) => (
                Some("properties"),
                match kind {
                    FaultKind::Keys => format!("properties has more than {} keys", caps.keys_max),
                    FaultKind::RepeatedKey => "properties has an object with a key twice".to_owned(),
                    _ => format!("properties is nested deeper than {}", caps.depth_max),
                },
            ),
        };
        Unreadable { field, message }
    }
}

/// Reads an event object.
fn incoming<'a>(scanner: &mut Scanner<'a>, caps: Caps, words: &Words) -> Result<Incoming<'a>, Refused> {
    if scanner.peek() != Some(b'{') {
        // It may still not be JSON at all.
        scanner.value(None)?;
        return Err(Refused::NotAnObject);
    }
    scanner.expect(b'{', "expected {")?;
    let mut slots: [Given<'a>; FIELDS.len()] = [Given::Nothing; FIELDS.len()];
    if scanner.peek() == Some(b'}') {
        scanner.expect(b'}', "expected }")?;
        return Ok(from_slots(slots, false));
    }
    let (mut by_type, mut by_name) = (false, false);
    loop {
        let key = scanner.string()?;
        scanner.expect(b':', "expected : after a key")?;
        let slot = match key.is_escaped() {
            true => key.decoded().and_then(|said| slot_of(&said, words)),
            false => slot_of(key.raw(), words),
        };
        let given = match (slot, scanner.peek()) {
            (None, _) => {
                scanner.value(None)?;
                Given::Nothing
            }
            (Some(_), Some(b'"')) => Given::Text(scanner.string()?),
            (Some(PROPERTIES), _) => {
                Given::Other(scanner.value(Some(caps)).map_err(|fault| Refused::Properties(fault, caps))?)
            }
            (Some(_), _) => Given::Other(scanner.value(None)?),
        };
        if let Some(slot) = slot
            && given != Given::Other("null")
        {
            if slot == 0 && key.raw() == EVENT_TYPE {
                by_type = true;
            } else if slot == 0 {
                by_name = true;
            }
            // An alias beside the name is harmless while both say the same.
            if slots[slot] != Given::Nothing && slots[slot] != given {
                return Err(Refused::GivenTwice(&FIELDS[slot]));
            }
            slots[slot] = given;
        }
        if scanner.peek() == Some(b',') {
            scanner.expect(b',', "expected ,")?;
        } else {
            scanner.expect(b'}', "expected , or }")?;
            return Ok(from_slots(slots, by_type && !by_name));
        }
    }
}

fn from_slots(slots: [Given<'_>; FIELDS.len()], by_type: bool) -> Incoming<'_> {
    let [
        event,
        distinct_id,
        event_id,
        timestamp,
        customer_id,
        session_id,
        source,
        environment_id,
        schema_version,
        properties,
    ] = slots;
    Incoming {
        event,
        distinct_id,
        event_id,
        timestamp,
        customer_id,
        session_id,
        source,
        environment_id,
        schema_version,
        properties,
        by_type,
    }
}

#[cfg(test)]
mod tests;

//! The object around a batch: `{"batch":[…],"environment_id":"…"}`.

use std::borrow::Cow;

use super::parse::{NotABatch, skip_whitespace};
use super::scan::element_end;

/// What a batch's object names once for all of its items.
const ENVIRONMENT: &[u8] = b"environment_id";

/// What the object around a batch's array says, as far as it was read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Envelope<'a> {
    environment: Option<&'a [u8]>,
}

impl<'a> Envelope<'a> {
    /// Reads the object whose `{` stands at `begin` up to the array that it has under `name`; the place is the one after
    /// the `[`. Nothing, if it has no such array.
    ///
    /// # Errors
    /// Something else than an array has that name.
    pub(super) fn open(
        bytes: &'a [u8],
        begin: usize,
        name: &'static str,
    ) -> Result<Option<(Self, usize)>, NotABatch> {
        let mut envelope = Self::default();
        let mut at = skip_whitespace(bytes, begin + 1);
        loop {
            let Some((key, value)) = key_at(bytes, at) else { return Ok(None) };
            if key == name.as_bytes() {
                return match bytes.get(value) {
                    Some(b'[') => Ok(Some((envelope, value + 1))),
                    _ => Err(NotABatch::NotAnArray(name)),
                };
            }
            match element_end(bytes, value) {
                Some(end) if bytes[end] == b',' => {
                    envelope.take(key, &bytes[value..end]);
                    at = skip_whitespace(bytes, end + 1);
                }
                _ => return Ok(None),
            }
        }
    }

    /// Reads what the object has behind its array, which ends before `at`; the place is the one after the `}`.
    ///
    /// # Errors
    /// The object does not end.
    pub(super) fn close(&mut self, bytes: &'a [u8], at: usize) -> Result<usize, NotABatch> {
        let mut at = skip_whitespace(bytes, at);
        while bytes.get(at) == Some(&b',') {
            let begin = skip_whitespace(bytes, at + 1);
            let syntax = NotABatch::Syntax { at: begin, expected: "expected a key and its value" };
            let (key, value) = key_at(bytes, begin).ok_or(syntax)?;
            at = element_end(bytes, value).ok_or(syntax)?;
            self.take(key, &bytes[value..at]);
        }
        match bytes.get(at) {
            Some(b'}') => Ok(at + 1),
            _ => Err(NotABatch::Syntax { at, expected: "expected , or }" }),
        }
    }

    fn take(&mut self, key: &[u8], value: &'a [u8]) {
        if key == ENVIRONMENT {
            self.environment = Some(value.trim_ascii_end());
        }
    }

    /// The environment that was named for all items: what is no string is given as it was sent, and is none.
    pub(super) fn environment(&self) -> Option<Cow<'a, str>> {
        let sent = self.environment?;
        match serde_json::from_slice::<Option<String>>(sent) {
            Ok(named) => named.map(Cow::Owned),
            Err(_) => Some(String::from_utf8_lossy(sent)),
        }
    }
}

/// The key that begins at `at`, as it was sent, and the place of its value.
fn key_at(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let mut end = at + 1;
    loop {
        match bytes.get(end)? {
            b'"' => break,
            b'\\' => end += 2,
            _ => end += 1,
        }
    }
    let colon = skip_whitespace(bytes, end + 1);
    (bytes.get(colon) == Some(&b':')).then(|| (&bytes[at + 1..end], skip_whitespace(bytes, colon + 1)))
}

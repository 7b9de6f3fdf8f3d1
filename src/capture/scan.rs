//! One pass over JSON text that checks its grammar and measures it, without building anything.
//!
//! Nothing here recurses: nesting costs a bounded stack of its own, never the thread's. The text is UTF-8 already.

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use crate::event::number_length;

/// Nesting that is refused anywhere, also in fields that are ignored.
const DEPTH_MAX: usize = 512;

/// Objects of up to this many keys are searched for a repeated key pairwise, larger ones by sorting.
const PAIRWISE_KEYS_MAX: usize = 16;

/// Bounds of a value's nesting (the value itself is 1) and of its objects' keys, over all levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caps {
    pub depth_max: usize,
    pub keys_max: usize,
}

/// Why a text was refused, and where (bytes from its beginning).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub at: usize,
    pub kind: FaultKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// Not JSON; says what was expected.
    Syntax(&'static str),
    /// Nested deeper than [`Caps::depth_max`].
    Depth,
    /// More keys than [`Caps::keys_max`].
    Keys,
    /// An object has a key twice.
    RepeatedKey,
}

/// The inside of a JSON string, as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a> {
    raw: &'a str,
    escaped: bool,
}

impl<'a> Text<'a> {
    /// Between the quotes, escapes and all.
    pub(super) fn raw(self) -> &'a str {
        self.raw
    }

    /// Does it hold escapes? If not, [`Text::raw`] is what it says.
    pub(super) fn is_escaped(self) -> bool {
        self.escaped
    }

    /// What it says; `None` if an escape stands for half of a surrogate pair.
    pub(super) fn decoded(self) -> Option<std::borrow::Cow<'a, str>> {
        if self.escaped {
            serde_json::from_str(&format!("\"{}\"", self.raw)).ok().map(std::borrow::Cow::Owned)
        } else {
            Some(std::borrow::Cow::Borrowed(self.raw))
        }
    }
}

/// A place in a JSON text.
#[derive(Clone, Debug)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

struct Frame {
    is_object: bool,
    /// Where this object's keys begin in the list of hashes.
    keys_from: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str, at: usize) -> Self {
        Self { text, at }
    }

    /// Bytes from the beginning of the text.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The next byte that is not white space, if there is one.
    pub(super) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    /// Passes `byte`, which must come next.
    pub(super) fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Fault> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err(self.syntax(what))
    }

    pub(super) fn syntax(&self, what: &'static str) -> Fault {
        Fault { at: self.at, kind: FaultKind::Syntax(what) }
    }

    /// Passes a string.
    pub(super) fn string(&mut self) -> Result<Text<'a>, Fault> {
        self.expect(b'"', "expected a string")?;
        let bytes = self.text.as_bytes();
        let (from, mut escaped) = (self.at, false);
        loop {
            match bytes.get(self.at) {
                Some(b'"') => {
                    let raw = &self.text[from..self.at];
                    self.at += 1;
                    return Ok(Text { raw, escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(0..=0x1f) => return Err(self.syntax("a control character in a string must be escaped")),
                Some(_) => self.at += 1,
                None => return Err(self.syntax("a string has no end")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        let bytes = self.text.as_bytes();
        match bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u')
                if bytes
                    .get(self.at + 2..self.at + 6)
                    .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) =>
            {
                self.at += 6;
            }
            _ => return Err(self.syntax("an escape in a string is not one that JSON has")),
        }
        Ok(())
    }

    /// Passes any value and answers its text. With `caps`, its nesting and keys are bounded and no object may have a
    /// key twice.
    pub(super) fn value(&mut self, caps: Option<Caps>) -> Result<&'a str, Fault> {
        self.peek();
        let from = self.at;
        let mut stack: SmallVec<[Frame; 32]> = SmallVec::new();
        let mut keys: SmallVec<[u64; 64]> = SmallVec::new();
        let mut keys_seen = 0;
        let depth_max = caps.map_or(DEPTH_MAX, |caps| caps.depth_max.min(DEPTH_MAX));
        loop {
            // A value begins here.
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    if stack.len() == depth_max {
                        return Err(Fault { at: self.at, kind: FaultKind::Depth });
                    }
                    self.at += 1;
                    let is_object = open == b'{';
                    stack.push(Frame { is_object, keys_from: keys.len() });
                    let close = if is_object { b'}' } else { b']' };
                    if self.peek() != Some(close) {
                        if is_object {
                            self.key(caps, &mut keys, &mut keys_seen)?;
                        }
                        continue;
                    }
                }
                Some(b'"') => drop(self.string()?),
                Some(_) => self.scalar()?,
                None => return Err(self.syntax("expected a value")),
            }
            // A value has ended here, perhaps with it the arrays and objects around it.
            loop {
                let Some(frame) = stack.last() else { return Ok(&self.text[from..self.at]) };
                match (self.peek(), frame.is_object) {
                    (Some(b','), is_object) => {
                        self.at += 1;
                        if is_object {
                            self.key(caps, &mut keys, &mut keys_seen)?;
                        }
                        break;
                    }
                    (Some(b'}'), true) => {
                        if caps.is_some() && has_repeated(&mut keys[frame.keys_from..]) {
                            return Err(Fault { at: self.at, kind: FaultKind::RepeatedKey });
                        }
                        keys.truncate(frame.keys_from);
                    }
                    (Some(b']'), false) => {}
                    (_, true) => return Err(self.syntax("expected , or }")),
                    (_, false) => return Err(self.syntax("expected , or ]")),
                }
                self.at += 1;
                stack.pop();
            }
        }
    }

    fn key(
        &mut self,
        caps: Option<Caps>,
        keys: &mut SmallVec<[u64; 64]>,
        seen: &mut usize,
    ) -> Result<(), Fault> {
        self.peek();
        let from = self.at;
        let key = self.string()?;
        self.expect(b':', "expected : after a key")?;
        let Some(caps) = caps else { return Ok(()) };
        *seen += 1;
        if *seen > caps.keys_max {
            return Err(Fault { at: from, kind: FaultKind::Keys });
        }
        // Keys are compared by a 64-bit hash of what they say. Half a surrogate pair says nothing: its text stands in.
        keys.push(match key.decoded() {
            Some(said) => xxh3_64(said.as_bytes()),
            None => xxh3_64(key.raw.as_bytes()),
        });
        Ok(())
    }

    fn scalar(&mut self) -> Result<(), Fault> {
        let rest = &self.text.as_bytes()[self.at..];
        let length = match rest.first() {
            Some(b't') if rest.starts_with(b"true") => 4,
            Some(b'f') if rest.starts_with(b"false") => 5,
            Some(b'n') if rest.starts_with(b"null") => 4,
            Some(b'-' | b'0'..=b'9') => {
                number_length(rest).ok_or_else(|| self.syntax("a number is not as JSON writes one"))?
            }
            _ => return Err(self.syntax("expected a value")),
        };
        self.at += length;
        Ok(())
    }
}

fn has_repeated(keys: &mut [u64]) -> bool {
    if keys.len() <= PAIRWISE_KEYS_MAX {
        return keys.iter().enumerate().any(|(i, key)| keys[..i].contains(key));
    }
    keys.sort_unstable();
    keys.windows(2).any(|pair| pair[0] == pair[1])
}

/// Where the array element that begins at `at` ends: the first comma or closing bracket outside of strings and of
/// brackets opened since. Looks at nothing else, so that an element which is not JSON, or not even UTF-8, is told from
/// its neighbours. `None`: the bytes end before it does.
pub(super) fn element_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        match bytes.get(at)? {
            b'"' => {
                at += 1;
                loop {
                    match bytes.get(at)? {
                        b'"' => break,
                        b'\\' => at += 2,
                        _ => at += 1,
                    }
                }
            }
            b'{' | b'[' => depth += 1,
            b',' | b']' | b'}' if depth == 0 => return Some(at),
            b']' | b'}' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    const CAPS: Caps = Caps { depth_max: 4, keys_max: 6 };

    fn scanned(text: &str, caps: Option<Caps>) -> Result<&str, Fault> {
        let mut scanner = Scanner::new(text, 0);
        let value = scanner.value(caps)?;
        match scanner.peek() {
            None => Ok(value),
            Some(_) => Err(scanner.syntax("more follows")),
        }
    }

    fn kind(text: &str) -> Option<FaultKind> {
        scanned(text, Some(CAPS)).err().map(|fault| fault.kind)
    }

    #[test]
    fn nesting_keys_and_repeated_keys_are_bounded() {
        assert_eq!(kind("[[[[]]]]"), None);
        assert_eq!(kind("[[[[[]]]]]"), Some(FaultKind::Depth));
        assert_eq!(kind(r#"{"a":{"b":1,"c":2},"d":[{"e":1},{"e":1}]}"#), None);
        assert_eq!(kind(r#"{"a":{"b":1,"c":2},"d":[{"e":1},{"e":1},{"e":2}]}"#), Some(FaultKind::Keys));
        assert_eq!(kind(r#"{"a":1,"b":{"a":1}}"#), None);
        assert_eq!(kind(r#"{"a":1,"a":2}"#), Some(FaultKind::RepeatedKey));
        assert_eq!(kind(r#"{"a":1,"\u0061":2}"#), Some(FaultKind::RepeatedKey));
        assert_eq!(scanned(r#"{"a":1,"a":2}"#, None).err(), None);
    }

    #[test]
    fn a_repeated_key_is_found_among_many() {
        let caps = Some(Caps { depth_max: 4, keys_max: 1000 });
        let object = |repeat: usize| {
            let keys: Vec<String> =
                (0..100).map(|i| format!("\"k{}\":{i}", if i == 99 { repeat } else { i })).collect();
            format!("{{{}}}", keys.join(","))
        };
        assert!(scanned(&object(99), caps).is_ok());
        assert_eq!(scanned(&object(3), caps).unwrap_err().kind, FaultKind::RepeatedKey);
    }

    #[test]
    fn a_million_brackets_are_refused_without_overflowing_the_stack() {
        assert_eq!(kind(&"[".repeat(1_000_000)), Some(FaultKind::Depth));
        assert_eq!(scanned(&"[".repeat(1_000_000), None).unwrap_err().kind, FaultKind::Depth);
        assert_eq!(element_end("[".repeat(1_000_000).as_bytes(), 0), None);
    }

    #[test]
    fn an_element_ends_where_its_neighbour_begins_whatever_is_in_it() {
        let text = br#"{"a":"},\"]"},[1,2}, x]"#;
        assert_eq!(element_end(text, 0), Some(13));
        assert_eq!(element_end(text, 14), Some(19));
        assert_eq!(element_end(text, 20), Some(22));
        assert_eq!(element_end(br#""\"#, 0), None);
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(6, 60, 8, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
                proptest::collection::btree_map(any::<String>(), inner, 0..8)
                    .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_json_text_is_passed_whole(value in json()) {
            let wide = Some(Caps { depth_max: 500, keys_max: 100_000 });
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                prop_assert_eq!(scanned(&text, wide), Ok(text.as_str()));
                let with_neighbour = format!("{text},");
                prop_assert_eq!(element_end(with_neighbour.as_bytes(), 0), Some(text.len()));
            }
        }

        #[test]
        fn what_is_json_is_decided_as_serde_json_decides_it(value in json(), at: usize, with in r#"[\[\]{}:,"\\0-9.eE+\-tfn\x00 ]{0,2}"#) {
            let mut text = value.to_string();
            let at = (0..=at % (text.len() + 1)).rev().find(|at| text.is_char_boundary(*at)).unwrap();
            let end = (at + 1..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(at);
            text.replace_range(at..end, &with);
            let expected = serde_json::from_str::<&RawValue>(&text);
            let found = scanned(&text, None);
            prop_assert_eq!(found.is_ok(), expected.is_ok(), "{} {:?} {:?}", text, found, expected);
        }

        #[test]
        fn no_text_makes_the_scanner_panic(text in r#"[\[\]{}:,"\\0-9.eE+\-tfnu \x00é]{0,60}"#) {
            let expected = serde_json::from_str::<&RawValue>(&text);
            prop_assert_eq!(scanned(&text, None).is_ok(), expected.is_ok(), "{}", text);
            let _ = scanned(&text, Some(CAPS));
            let _ = element_end(text.as_bytes(), 0);
        }
    }
}

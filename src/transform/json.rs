//! A JSON text as a tree that borrows from it. Numbers keep their text, objects the order of their keys; of a key that
//! stands twice the last one counts. Strict, and bounded in nesting.

use std::borrow::Cow;

use crate::event::number_length;

/// Deepest nesting that is read.
const DEPTH_MAX: usize = 100;

/// See the [module](self).
#[derive(Clone, PartialEq, Debug)]
pub enum Json<'a> {
    Null,
    Bool(bool),
    /// As it is written.
    Number(&'a str),
    Text(Cow<'a, str>),
    Array {
        raw: &'a str,
        items: Vec<Json<'a>>,
    },
    Object {
        raw: &'a str,
        fields: Vec<(Cow<'a, str>, Json<'a>)>,
    },
}

/// A text is not JSON.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not JSON at its byte {at}: {expected}")]
pub struct NotJson {
    pub at: usize,
    pub expected: &'static str,
}

impl<'a> Json<'a> {
    /// Reads a whole text.
    ///
    /// # Errors
    /// It is not JSON, or nested too deeply.
    pub fn parse(text: &'a str) -> Result<Self, NotJson> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0)?;
        match reader.peek() {
            None => Ok(value),
            Some(_) => Err(reader.wrong("expected nothing more")),
        }
    }

    /// The value of a key, if this is an object that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Object { fields, .. } => {
                fields.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    /// What sort of value it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::Array { .. } => "an array",
            Self::Object { .. } => "an object",
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn wrong(&self, expected: &'static str) -> NotJson {
        NotJson { at: self.at, expected }
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    fn value(&mut self, depth: usize) -> Result<Json<'a>, NotJson> {
        if depth > DEPTH_MAX {
            return Err(self.wrong("nested too deeply"));
        }
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(Json::Text),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'n') => self.word("null", Json::Null),
            Some(b'-' | b'0'..=b'9') => {
                let length = number_length(&self.text.as_bytes()[self.at..])
                    .ok_or_else(|| self.wrong("a number is not as JSON writes one"))?;
                let number = &self.text[self.at..self.at + length];
                self.at += length;
                Ok(Json::Number(number))
            }
            _ => Err(self.wrong("expected a value")),
        }
    }

    fn word(&mut self, word: &str, value: Json<'a>) -> Result<Json<'a>, NotJson> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            return Ok(value);
        }
        Err(self.wrong("expected a value"))
    }

    fn object(&mut self, depth: usize) -> Result<Json<'a>, NotJson> {
        let from = self.at;
        self.at += 1;
        let mut fields = Vec::new();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Json::Object { raw: &self.text[from..self.at], fields });
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.wrong("expected a key"));
            }
            let key = self.string()?;
            if self.peek() != Some(b':') {
                return Err(self.wrong("expected : after a key"));
            }
            self.at += 1;
            fields.push((key, self.value(depth + 1)?));
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Json::Object { raw: &self.text[from..self.at], fields });
                }
                _ => return Err(self.wrong("expected , or }")),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Json<'a>, NotJson> {
        let from = self.at;
        self.at += 1;
        let mut items = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Json::Array { raw: &self.text[from..self.at], items });
        }
        loop {
            items.push(self.value(depth + 1)?);
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Json::Array { raw: &self.text[from..self.at], items });
                }
                _ => return Err(self.wrong("expected , or ]")),
            }
        }
    }

    /// A string that begins here.
    fn string(&mut self) -> Result<Cow<'a, str>, NotJson> {
        let from = self.at;
        self.at += 1;
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        loop {
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    break;
                }
                // What follows is judged with the whole string, below.
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(0..=0x1f) => return Err(self.wrong("a control character in a string must be escaped")),
                Some(_) => self.at += 1,
                None => return Err(self.wrong("a string has no end")),
            }
        }
        if !escaped {
            return Ok(Cow::Borrowed(&self.text[from + 1..self.at - 1]));
        }
        let quoted = self.text.get(from..self.at).ok_or_else(|| self.wrong("a string has no end"))?;
        serde_json::from_str(quoted)
            .map(Cow::Owned)
            .map_err(|_| NotJson { at: from, expected: "an escape in a string is not one that JSON has" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    fn plain(json: &Json<'_>) -> serde_json::Value {
        match json {
            Json::Null => serde_json::Value::Null,
            Json::Bool(value) => (*value).into(),
            Json::Number(text) => serde_json::from_str(text).unwrap_or_default(),
            Json::Text(text) => text.as_ref().into(),
            Json::Array { raw, items } => {
                assert!(raw.starts_with('[') && raw.ends_with(']'));
                items.iter().map(plain).collect()
            }
            Json::Object { fields, .. } => fields
                .iter()
                .map(|(key, value)| (key.to_string(), plain(value)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }

    #[test]
    fn a_number_keeps_its_text_and_the_last_of_a_repeated_key_counts() {
        let json = Json::parse(r#" {"a": 1.50, "b": [1e400], "a": 12345678901234567890.10} "#).unwrap();
        assert_eq!(json.get("a"), Some(&Json::Number("12345678901234567890.10")));
        assert!(matches!(json.get("b"), Some(Json::Array { raw: "[1e400]", .. })));
        assert_eq!(json.get("c"), None);
    }

    #[test]
    fn nesting_is_bounded() {
        assert!(Json::parse(&"[".repeat(1_000_000)).is_err());
        assert!(Json::parse(&format!("{}{}", "[".repeat(100), "]".repeat(100))).is_ok());
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                proptest::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_serde_json_writes_is_read_back(value in json()) {
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                prop_assert_eq!(plain(&Json::parse(&text).unwrap()), value.clone());
            }
        }

        #[test]
        fn what_is_json_is_decided_as_serde_json_decides_it(text in r#"[\[\]{}:,"\\0-9.eE+\-tfnu \x00é]{0,60}"#) {
            let found = Json::parse(&text);
            let expected = serde_json::from_str::<&RawValue>(&text);
            // A lone half of a surrogate pair passes RawValue, which looks at the grammar alone.
            if found.is_ok() || !text.contains("\\u") {
                prop_assert_eq!(found.is_ok(), expected.is_ok(), "{} {:?}", text, found);
            }
        }
    }
}

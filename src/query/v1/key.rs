//! The keys of pages: a place in a list's order, as clients of FlexPrice know it (`<nanoseconds>::<id>`).
//!
//! In a list by time that is all; in a list by name the name stands between, in base64url, which has no colon:
//! `<nanoseconds>:<name>::<id>`. An id may hold anything, `::` too: it is what follows the first `::`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::super::pages::Place;
use crate::http::Problem;

/// Nanoseconds of a millisecond.
const NANOS: i64 = 1_000_000;
/// Longest key that is looked at, in bytes.
const BYTES_MAX: usize = 4096;

/// A place in the order of a list: (time, id), or (name, time, id).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Key {
    pub millis: i64,
    /// Only in lists by name.
    pub event: Option<String>,
    pub event_id: String,
}

impl Key {
    /// The place that it names, as far as its list's order looks at it.
    pub(super) fn place(&self) -> Place {
        Place {
            millis: self.millis,
            event: self.event.clone().unwrap_or_default(),
            person: 0,
            event_id: self.event_id.clone(),
        }
    }

    /// As it is answered.
    pub(super) fn text(&self) -> String {
        let nanos = self.millis.saturating_mul(NANOS);
        let id = &self.event_id;
        match &self.event {
            None => format!("{nanos}::{id}"),
            Some(event) => format!("{nanos}:{}::{id}", URL_SAFE_NO_PAD.encode(event)),
        }
    }

    /// Reads the key `text` of parameter `field`, of a list by name or by time.
    ///
    /// # Errors
    /// 400: not such a key.
    pub(super) fn parse(field: &str, text: &str, by_name: bool) -> Result<Self, Problem> {
        let read = || {
            if text.len() > BYTES_MAX {
                return None;
            }
            let (place, id) = text.split_once("::")?;
            let (nanos, event) = match (place.split_once(':'), by_name) {
                (None, false) => (place, None),
                (Some((nanos, name)), true) => {
                    (nanos, Some(String::from_utf8(URL_SAFE_NO_PAD.decode(name).ok()?).ok()?))
                }
                _ => return None,
            };
            let nanos: i64 = nanos.parse().ok()?;
            (nanos >= 0 && !id.is_empty()).then(|| Self {
                millis: nanos.div_euclid(NANOS),
                event,
                event_id: id.to_owned(),
            })
        };
        read().ok_or_else(|| {
            let message =
                format!("{field} is not a key that a list with this sort gave: begin again without one");
            Problem::invalid(field, message).with("given", text.chars().take(200).collect::<String>())
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_comes_back_whatever_its_id_and_name_hold(
            millis in 0_i64..9_000_000_000_000, id in ".{1,20}|.*::.*", name in ".{1,10}", by_name: bool
        ) {
            prop_assume!(!id.is_empty());
            let key = Key { millis, event: by_name.then_some(name), event_id: id };
            prop_assert_eq!(Key::parse("iter_last_key", &key.text(), by_name).unwrap(), key);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".*", by_name: bool) {
            let _ = Key::parse("iter_last_key", &text, by_name);
        }
    }

    #[test]
    fn what_is_no_key_is_refused_by_its_parameter() {
        for text in ["", "::", "1::", "x::y", "-1::y", "1:a::b"] {
            let problem = Key::parse("iter_first_key", text, false).unwrap_err();
            assert_eq!(problem.details["field"], "iter_first_key", "{text}");
        }
        assert!(Key::parse("iter_first_key", "1::b", true).is_err());
    }
}

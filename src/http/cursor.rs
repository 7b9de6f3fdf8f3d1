//! Opaque cursors of keyset pages.
//!
//! A cursor is base64url of: one byte of version, four bytes of CRC-32C, the position as JSON. The check covers what
//! the list was asked for, too, so that a cursor of another list (or of the same list with other filters) is refused
//! instead of giving a page that skips or repeats. It guards against mistakes, not against a forger: a cursor says
//! where to go on, and the scope comes from the key, never from here.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Problem;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 5;
/// Longest cursor that is looked at.
const TEXT_BYTES_MAX: usize = 4096;

/// The cursor of `position` in the list that `question` describes (its kind and filters as text, always spelled the
/// same way).
///
/// # Errors
/// `position` has no JSON form: a defect of the caller.
pub fn encode<T: Serialize>(question: &str, position: &T) -> Result<String, Problem> {
    let mut bytes = vec![VERSION, 0, 0, 0, 0];
    serde_json::to_writer(&mut bytes, position).map_err(Problem::internal)?;
    let check = check(question, &bytes[HEADER_BYTES..]);
    bytes[1..HEADER_BYTES].copy_from_slice(&check);
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The position in a cursor that [`encode`] made for the same `question`.
///
/// # Errors
/// 400 for anything else.
pub fn decode<T: DeserializeOwned>(question: &str, cursor: &str) -> Result<T, Problem> {
    let position = || {
        if cursor.len() > TEXT_BYTES_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (header, position) = bytes.split_at_checked(HEADER_BYTES)?;
        if header[0] != VERSION || header[1..] != check(question, position) {
            return None;
        }
        serde_json::from_slice(position).ok()
    };
    position().ok_or_else(|| {
        let message = "cursor is not one that this list gave for the same filters: begin again without one";
        Problem::invalid("cursor", message)
    })
}

fn check(question: &str, position: &[u8]) -> [u8; 4] {
    crc32c::crc32c_append(crc32c::crc32c(question.as_bytes()), position).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_position_comes_back_as_it_was(question: String, millis: i64, id: String) {
            let cursor = encode(&question, &(millis, &id)).unwrap();
            prop_assert!(cursor.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            prop_assert_eq!(decode::<(i64, String)>(&question, &cursor).unwrap(), (millis, id));
        }

        #[test]
        fn a_changed_cursor_is_refused(at in 0_usize..30, by in 1_u8..64) {
            let cursor = encode("events", &(1_700_000_000_000_i64, "id")).unwrap();
            let mut bytes = URL_SAFE_NO_PAD.decode(&cursor).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= by;
            let changed = URL_SAFE_NO_PAD.encode(bytes);
            prop_assert!(decode::<(i64, String)>("events", &changed).is_err());
        }

        #[test]
        fn no_text_makes_the_decoder_panic(text: String) {
            prop_assert!(decode::<(i64, String)>("events", &text).is_err());
        }
    }

    #[test]
    fn a_cursor_of_another_question_is_refused() {
        let cursor = encode("events?event=click", &1).unwrap();
        let problem = decode::<i32>("events?event=view", &cursor).unwrap_err();
        assert_eq!(problem.code.as_str(), "validation_error");
        assert_eq!(problem.details["field"], "cursor");
    }
}

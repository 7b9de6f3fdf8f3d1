//! What several borrowed readers of JSON share.

/// The length of the JSON number that `text` begins with, however large it is; `None` if it begins with none.
/// (RFC 8259, section 6.)
pub fn number_length(text: &[u8]) -> Option<usize> {
    let digits = |from: usize| text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut at = usize::from(text.first() == Some(&b'-'));
    let whole = digits(at);
    if whole == 0 || (whole > 1 && text[at] == b'0') {
        return None;
    }
    at += whole;
    if text.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return None;
        }
        at += 1 + fraction;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        at += 1 + usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits(at);
        if exponent == 0 {
            return None;
        }
        at += exponent;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_json() {
        for (text, length) in [
            ("0", Some(1)),
            ("-0.5e+10,", Some(8)),
            ("123456789012345678901234567890]", Some(30)),
            ("1E5 ", Some(3)),
            ("01", None),
            ("1.", None),
            ("1.e5", None),
            ("1e", None),
            ("-", None),
            ("+1", None),
            (".5", None),
            ("", None),
        ] {
            assert_eq!(number_length(text.as_bytes()), length, "{text}");
        }
    }
}

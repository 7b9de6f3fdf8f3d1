//! Strict reading of what query and admin surfaces are sent: nothing unknown is passed over, and an error names the
//! field, what was given and what would be right.
//!
//! Types read here derive `Deserialize` with `#[serde(deny_unknown_fields)]` (without it serde passes unknown fields
//! over in silence).

use serde::de::DeserializeOwned;

use super::{ErrorCode, Problem};

/// Reads a JSON body.
///
/// # Errors
/// 400: not JSON (with line and column), a field that is unknown (with the nearest right one), missing, given twice or
/// of the wrong type.
pub fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::new(
            ErrorCode::ValidationError,
            "the body is empty; a JSON object was expected",
        ));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        if error.is_data() { explain(&path, &without_position(&error)) } else { not_json(&error) }
    })?;
    deserializer.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

/// Reads a query string (`a=1&b=2`, percent-encoded).
///
/// # Errors
/// 400: as [`json`].
pub fn query_string<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
    serde_path_to_error::deserialize(pairs)
        .map_err(|error| explain(&error.path().to_string(), &error.into_inner().to_string()))
}

/// 400 for a body that is not JSON, with the place where reading stopped.
pub fn not_json(error: &serde_json::Error) -> Problem {
    let (what, line, column) = (without_position(error), error.line(), error.column());
    let message = if what.starts_with("recursion limit exceeded") {
        format!(
            "the body is nested deeper than 127 lists and objects (recursion limit exceeded at line {line} column {column})"
        )
    } else {
        format!("the body is not JSON: {what} at line {line} column {column}")
    };
    Problem::new(ErrorCode::ValidationError, message).with("line", line).with("column", column)
}

/// `serde_json`'s message without " at line 1 column 2".
pub fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).map(str::to_owned).unwrap_or(text)
}

/// The nearest of `valid` to what was given, when one is near enough to be meant.
pub fn nearest<'a>(given: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Jaro-Winkler finds a name cut short or run on, Damerau-Levenshtein one with letters swapped.
    let similarity = |name: &str| {
        strsim::jaro_winkler(given, name).max(strsim::normalized_damerau_levenshtein(given, name) + 0.1)
    };
    valid
        .into_iter()
        .map(|name| (similarity(name), name))
        .filter(|(similarity, _)| *similarity > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// Turns serde's message about the field at `path` into an answer.
fn explain(path: &str, message: &str) -> Problem {
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let (given, valid) = names.split_first().map_or(("", &[][..]), |(given, valid)| (*given, valid));
    if message.starts_with("unknown field ") {
        let hint = match nearest(given, valid.iter().copied()) {
            Some(name) => format!("did you mean {name}?"),
            None if valid.is_empty() => "there are no fields here".to_owned(),
            None => format!("known are {}", valid.join(", ")),
        };
        let field = child(path, given);
        return Problem::invalid(&field, format!("unknown field {field}: {hint}")).with("valid", valid);
    }
    if message.starts_with("unknown variant ") {
        let hint = nearest(given, valid.iter().copied())
            .map(|name| format!("; did you mean {name}?"))
            .unwrap_or_default();
        let message = format!("{path} is {given:?}, but must be one of {}{hint}", valid.join(", "));
        return Problem::invalid(path, message).with("given", given).with("valid", valid);
    }
    if message.starts_with("missing field ") {
        let field = child(path, given);
        return Problem::invalid(&field, format!("{field} is required"));
    }
    if message.starts_with("duplicate field ") {
        let field = child(path, given);
        return Problem::invalid(&field, format!("{field} is given more than once"));
    }
    if path.is_empty() || path == "." || path == "?" {
        return Problem::new(ErrorCode::ValidationError, message.to_owned());
    }
    Problem::invalid(path, format!("{path}: {message}"))
}

/// `series[0]` and `event` give `series[0].event`; a path that already ends with the name stays.
fn child(path: &str, name: &str) -> String {
    match path {
        "" | "." | "?" => name.to_owned(),
        _ if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
        _ => format!("{path}.{name}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Question {
        #[expect(dead_code, reason = "only its reading is tested")]
        interval: Option<Interval>,
        limit: Option<u32>,
        series: Vec<Series>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Interval {
        Day,
        Week,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Series {
        event: String,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Page {
        limit: Option<u32>,
        event: String,
    }

    fn refused(body: &str) -> (String, String) {
        let problem = json::<Question>(body.as_bytes()).unwrap_err();
        let field = problem.details.get("field").and_then(|v| v.as_str()).unwrap_or("").to_owned();
        (field, problem.message)
    }

    #[test]
    fn a_right_body_is_read() {
        let question: Question = json(br#"{"interval":"day","limit":3,"series":[{"event":"a"}]}"#).unwrap();
        assert_eq!((question.limit, question.series[0].event.as_str()), (Some(3), "a"));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        let cases = [
            (r#"{"serie":[]}"#, "serie", "unknown field serie: did you mean series?"),
            (r#"{"zzz":1}"#, "zzz", "unknown field zzz: known are interval, limit, series"),
            (
                r#"{"series":[{"evnt":"a"}]}"#,
                "series[0].evnt",
                "unknown field series[0].evnt: did you mean event?",
            ),
            (r#"{"limit":3}"#, "series", "series is required"),
            (r#"{"series":[{}]}"#, "series[0].event", "series[0].event is required"),
            (r#"{"series":[],"limit":"x"}"#, "limit", "limit: invalid type: string \"x\", expected u32"),
            (r#"{"series":[],"limit":-1}"#, "limit", "limit: invalid value: integer `-1`, expected u32"),
            (
                r#"{"series":[],"interval":"dya"}"#,
                "interval",
                "interval is \"dya\", but must be one of day, week; did you mean day?",
            ),
            (r#"{"series":[],"series":[]}"#, "series", "series is given more than once"),
        ];
        for (body, field, message) in cases {
            assert_eq!(refused(body), (field.to_owned(), message.to_owned()), "{body}");
        }
    }

    #[test]
    fn a_body_that_is_not_json_is_answered_with_its_position() {
        let problem = json::<Question>(b"{\"series\":\n  [}").unwrap_err();
        assert_eq!(problem.details["line"], 2);
        assert_eq!(problem.details["column"], 4);
        assert!(problem.message.starts_with("the body is not JSON: "), "{}", problem.message);
        assert!(json::<Question>(b"{\"series\":[]} x").unwrap_err().message.contains("trailing characters"));
        assert!(json::<Question>(b"  ").unwrap_err().message.contains("empty"));
    }

    #[test]
    fn a_query_string_is_read_as_strictly() {
        let page: Page = query_string("event=a%20b&limit=5").unwrap();
        assert_eq!((page.event.as_str(), page.limit), ("a b", Some(5)));
        let problem = query_string::<Page>("event=a&limti=5").unwrap_err();
        assert_eq!(problem.message, "unknown field limti: did you mean limit?");
        let problem = query_string::<Page>("event=a&limit=many").unwrap_err();
        assert_eq!(problem.details["field"], "limit");
        assert_eq!(query_string::<Page>("limit=1").unwrap_err().message, "event is required");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text: String) {
            let _ = json::<Question>(&bytes);
            let _ = query_string::<Page>(&text);
        }
    }

    #[test]
    fn deep_nesting_is_refused_and_does_not_overflow_the_stack() {
        let deep = format!("{{\"series\":{}", "[".repeat(1_000_000));
        assert!(json::<serde_json::Value>(deep.as_bytes()).unwrap_err().message.contains("recursion limit"));
    }
}

//! What is found in bodies, good and bad.

use proptest::prelude::*;

use super::*;

type Outcome<'a> = Result<Vec<Result<Incoming<'a>, Unreadable>>, NotABatch>;

fn items(body: &[u8]) -> Outcome<'_> {
    let mut items = Items::new(body, 4, 8, &Words::CAPTURE)?;
    let mut found = Vec::new();
    while let Some(item) = items.next_item()? {
        found.push(item);
    }
    assert_eq!(items.next_item(), Ok(None));
    Ok(found)
}

fn event_names(body: &[u8]) -> Vec<Result<&str, String>> {
    let name = |item: Incoming<'_>| match item.event {
        Given::Text(text) => text.raw().to_owned(),
        other => format!("{other:?}"),
    };
    let leak = |text: String| &*Box::leak(text.into_boxed_str());
    items(body).unwrap().into_iter().map(|item| item.map(name).map(leak).map_err(|e| e.message)).collect()
}

#[test]
fn one_event_an_array_and_a_batch_are_the_same() {
    let forms: [&[u8]; 5] = [
        br#" {"event":"a"} "#,
        br#"[{"event":"a"}]"#,
        br#"{"batch":[{"event":"a"}]}"#,
        br#"{"api_key":"x", "nested":{"batch":"]}"}, "batch" : [ {"event":"a"} ] , "sent_at":"now", "n":[1,{"b":2}]}"#,
        b"\n[\t{ \"event\" : \"a\" }\r\n]\n",
    ];
    for body in forms {
        assert_eq!(event_names(body), [Ok("a")], "{}", String::from_utf8_lossy(body));
    }
}

#[test]
fn aliases_give_the_same_item_and_unknown_fields_are_passed_over() {
    let plain = items(br#"{"event":"a","distinct_id":"u","event_id":"i"}"#).unwrap();
    let alias = items(
        br#"{"event_name":"a","external_customer_id":"u","uuid":"i","x":[{"y":[[[[[[[[1]]]]]]]]}],"source":null}"#,
    );
    assert_eq!(alias.unwrap(), plain);
    let escaped = items(br#"{"\u0065vent":"a","distinct_id":"u","id":"i"}"#).unwrap();
    assert_eq!(escaped, plain);
}

#[test]
fn a_bad_item_does_not_sink_its_neighbours() {
    let good = r#"{"event":"good"}"#;
    let bad: [(&[u8], &str); 11] = [
        (b"", "not JSON at its byte 0: expected a value"),
        (b"1", "an event must be a JSON object"),
        (br#"["event"]"#, "an event must be a JSON object"),
        (br#"{"event":}"#, "not JSON at its byte 9: expected a value"),
        (br#"{"event":"a" "b"}"#, "not JSON at its byte 13: expected , or }"),
        (b"{\"event\":\"a\xff\"}", "not UTF-8 at its byte 11"),
        (
            b"{\"event\":\"a\x00b\"}",
            "not JSON at its byte 11: a control character in a string must be escaped",
        ),
        (br#"{"event":"a","event":"b"}"#, "event or event_name is given twice, with different values"),
        (br#"{"event":"a","event_name":"b"}"#, "event or event_name is given twice, with different values"),
        (br#"{"event":"a","properties":{"a":[[[[]]]]}}"#, "properties is nested deeper than 4"),
        (br#"{"event":"a","properties":{"a":{"b":1,"b":2}}}"#, "properties has an object with a key twice"),
    ];
    for (bad, message) in bad {
        let body = [b"[", good.as_bytes(), b",", bad, b", ", good.as_bytes(), b"]"].concat();
        assert_eq!(
            event_names(&body),
            [Ok("good"), Err(message.to_owned()), Ok("good")],
            "{}",
            String::from_utf8_lossy(&body)
        );
    }
}

#[test]
fn a_field_given_twice_with_one_value_is_harmless() {
    assert_eq!(event_names(br#"{"event":"a","event_name":"a"}"#), [Ok("a")]);
    assert_eq!(event_names(br#"{"event":"a","event_name":null}"#), [Ok("a")]);
}

#[test]
fn a_body_that_is_not_json_is_refused_with_its_position() {
    let bodies: [(&[u8], usize); 12] = [
        (b"", 0),
        (b"  ", 2),
        (b"event", 0),
        (b"\"text\"", 0),
        (b"[", 1),
        (b"[{\"event\":\"a\"}", 14),
        (b"[{\"event\":\"a\"}] x", 16),
        (b"{\"event\":\"a\"", 12),
        (b"{\"event\":\"a\"} {}", 14),
        (b"{\"batch\":[]", 11),
        (b"{\"batch\":[],}", 12),
        (b"{\"batch\":[]} 1", 13),
    ];
    for (body, expected) in bodies {
        match items(body) {
            Err(NotABatch::Syntax { at, .. } | NotABatch::NotEvents { at }) => {
                assert_eq!(at, expected, "{}", String::from_utf8_lossy(body));
            }
            other => panic!("{}: {other:?}", String::from_utf8_lossy(body)),
        }
    }
    assert_eq!(items(br#"{"batch":{"event":"a"}}"#), Err(NotABatch::NotAnArray("batch")));
}

#[test]
fn empty_arrays_have_no_items() {
    for body in [&b"[]"[..], b"[ ]", br#"{"batch":[]}"#] {
        assert_eq!(items(body), Ok(Vec::new()));
    }
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        r#"[\[\]{}:,"\\ 0-9nulltrue]{0,6}"#.prop_map(String::into_bytes),
        Just(br#"{"event":"a","distinct_id":"u","properties":{"x":1}}"#.to_vec()),
        Just(br#"{"batch":["#.to_vec()),
        Just(br#""event":"#.to_vec()),
        proptest::collection::vec(any::<u8>(), 0..4),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(body in bytes()) {
        let _ = items(&body);
    }

    /// Whatever stands between them, as long as its brackets and quotes close.
    #[test]
    fn good_items_of_a_batch_are_always_found(
        bad in proptest::collection::vec(r#"(\{[a-z:0-9 ]{0,6}\}|\[[a-z\x00,]{0,6}\]|"[^"\\]{0,8}"|[a-z0-9. :\x01é-]{0,8}|\{"event":"[^"\\]{0,4}"[^"\[\]{}]{1,4}\})"#, 0..5),
        form in 0..2,
    ) {
        let good = r#"{"event":"good","distinct_id":"u","properties":{"a":[1,"]"]}}"#;
        let mut elements: Vec<String> = Vec::new();
        for bad in &bad {
            elements.push(good.to_owned());
            elements.push(bad.clone());
        }
        elements.push(good.to_owned());
        let array = format!("[{}]", elements.join(","));
        let body = if form == 0 { array } else { format!("{{\"batch\":{array}}}") };
        let found = items(body.as_bytes()).unwrap();
        let goods = found
            .iter()
            .filter(|item| matches!(item, Ok(Incoming { event: Given::Text(text), .. }) if text.raw() == "good"))
            .count();
        prop_assert_eq!(goods, bad.len() + 1, "{}", body);
    }
}

//! The transform that every environment has at first, reason by reason and property by property; the language; its bounds.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const LIMITS: Limits = Limits { events_max: 10, work_max: 100_000 };

fn default_one() -> Mapping {
    Spec::read(DEFAULT).unwrap().compile().unwrap()
}

/// A payload that becomes an event.
fn payload() -> Value {
    json!({
        "id": "call-1", "orgId": "org-7", "methodName": " Synthesizer ", "providerName": "11Labs", "serviceName": "tts",
        "createdAt": "2026-01-31T12:00:00.123456789+01:00", "startedAt": "2026-01-31T10:59:59Z",
        "targetItemId": "agent-3", "targetItemType": "agent", "byok": false, "referenceCost": 0.1,
        "data": {"modelName": "Eleven_Turbo_v2_5", "numCharacters": 150, "channels": 3},
    })
}

fn changed(change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> String {
    let mut payload = payload();
    change(payload.as_object_mut().unwrap());
    payload.to_string()
}

fn event(payload: &str) -> Mapped {
    match default_one().apply(payload, "raw", LIMITS) {
        Ok(Outcome::Events(mut events)) if events.len() == 1 => events.remove(0),
        other => panic!("{payload}: {other:?}"),
    }
}

fn property(payload: &str, name: &str) -> Value {
    serde_json::from_str::<Value>(&event(payload).properties).unwrap()[name].clone()
}

fn dropped(payload: &str) -> String {
    match default_one().apply(payload, "raw", LIMITS) {
        Ok(Outcome::Dropped(reason)) => reason.to_string(),
        other => panic!("{payload}: {other:?}"),
    }
}

fn error(payload: &str) -> String {
    default_one().apply(payload, "raw", LIMITS).unwrap_err().to_string()
}

#[test]
fn the_default_transform_makes_the_event_of_the_reference() {
    let made = event(&payload().to_string());
    assert_eq!(made.id, "call-1");
    assert_eq!(made.event_name, "11labs-synthesizer-eleven_turbo_v2_5");
    assert_eq!(made.distinct_id, "org-7");
    assert_eq!(made.source.as_deref(), Some("agent-3"));
    assert_eq!(made.timestamp.to_string(), "2026-01-31T11:00:00.123Z");
    let properties: Value = serde_json::from_str(&made.properties).unwrap();
    let expected = json!({
        "modelName": "Eleven_Turbo_v2_5", "numCharacters": "150", "channels": "3",
        "resolvedProviderName": "11labs", "resolvedModelName": "-eleven_turbo_v2_5",
        "resolvedMethodName": "-synthesizer",
        "byok": "false", "serviceName": "tts", "providerName": "11Labs", "referenceCost": "0.1",
        "methodName": " Synthesizer ", "targetItemType": "agent", "targetItemId": "agent-3",
        "startedAt": "2026-01-31T10:59:59Z", "createdAt": "2026-01-31T12:00:00.123456789+01:00",
        "billable_value": "450", "billable_unit": "characters",
    });
    assert_eq!(properties, expected);
}

#[test]
fn each_missing_field_drops_with_a_reason_of_its_own() {
    let without = |name: &str| changed(|payload| drop(payload.remove(name)));
    for (field, reason) in [
        ("orgId", "missing_org_id"),
        ("methodName", "missing_method_name"),
        ("id", "missing_id"),
        ("createdAt", "missing_created_at"),
    ] {
        assert_eq!(dropped(&without(field)), reason);
        assert_eq!(dropped(&changed(|payload| payload[field] = json!(" "))), reason, "blank");
        assert_eq!(dropped(&changed(|payload| payload[field] = json!(null))), reason, "null");
    }
    let nobody = changed(|payload| {
        payload.remove("providerName");
        payload["serviceName"] = json!("");
    });
    assert_eq!(dropped(&nobody), "missing_provider_name");
    assert_eq!(dropped(&without("data")), "missing_model_name");
    assert_eq!(dropped(&changed(|payload| payload["data"]["modelName"] = json!(""))), "missing_model_name");
    assert_eq!(
        default_one().reasons().collect::<Vec<_>>(),
        [
            "missing_org_id",
            "missing_method_name",
            "missing_provider_name",
            "missing_model_name",
            "missing_id",
            "missing_created_at",
            "no_event"
        ]
    );
}

#[test]
fn what_is_malformed_is_an_error_and_no_drop() {
    assert!(
        error(&changed(|payload| payload["createdAt"] = json!("31.01.2026")))
            .starts_with("timestamp: \"31.01.2026\"")
    );
    assert!(
        error(&changed(|payload| payload["createdAt"] = json!("1969-12-31T23:59:59Z"))).contains("outside")
    );
    assert_eq!(error(&changed(|payload| payload["orgId"] = json!(7))), "orgId is a number; a text is needed");
    assert!(error("{").starts_with("not JSON at its byte 1"));
    assert_eq!(error("[1]"), "the payload is an array; an object is needed");
    assert!(
        error(&changed(|payload| payload["orgId"] = json!("x".repeat(201)))).starts_with("distinct_id: 201")
    );
}

#[test]
fn the_names_are_resolved_as_the_reference_says() {
    let by_service = changed(|payload| drop(payload.remove("providerName")));
    assert_eq!(event(&by_service).event_name, "tts-synthesizer-eleven_turbo_v2_5");
    let bedrock = changed(|payload| payload["methodName"] = json!("BEDROCK_LLM"));
    assert_eq!(event(&bedrock).event_name, "11labs-modeling-eleven_turbo_v2_5");
    let nearly = changed(|payload| payload["methodName"] = json!("bedrock_llm"));
    assert_eq!(event(&nearly).event_name, "11labs-bedrock_llm-eleven_turbo_v2_5");
    let mut spec = Spec::read(DEFAULT).unwrap();
    spec.require.retain(|require| require.reason != "missing_model_name");
    let without = changed(|payload| drop(payload["data"].as_object_mut().unwrap().remove("modelName")));
    let Ok(Outcome::Events(events)) = spec.compile().unwrap().apply(&without, "raw", LIMITS) else {
        panic!()
    };
    assert_eq!(events[0].event_name, "11labs-synthesizer");
    assert!(events[0].properties.contains("\"resolvedModelName\":\"\""));
}

#[test]
fn what_is_billed_is_computed_exactly() {
    let with = |data: Value| {
        changed(|payload| {
            let known = payload["data"].as_object_mut().unwrap();
            known.retain(|name, _| name == "modelName");
            known.extend(data.as_object().unwrap().clone());
        })
    };
    let billed = |data: Value| {
        (property(&with(data.clone()), "billable_value"), property(&with(data), "billable_unit"))
    };
    assert_eq!(billed(json!({"numCharacters": 150})), (json!("150"), json!("characters")));
    assert_eq!(billed(json!({"durationMS": 2500, "channels": 2})), (json!("5000"), json!("milliseconds")));
    assert_eq!(billed(json!({"durationMS": 2500, "channels": 0})), (json!("2500"), json!("milliseconds")));
    assert_eq!(
        billed(json!({"numCharacters": {"key": "n", "value": 7}, "channels": "2"})),
        (json!("14"), json!("characters"))
    );
    assert_eq!(billed(json!({})), (json!(""), json!("")));
    let tokens = |data: Value| property(&with(data), "billablePromptTokens");
    assert_eq!(tokens(json!({"promptTokens": 1_500_000, "cachedPromptTokens": 500_000})), json!("1000000"));
    assert_eq!(tokens(json!({"promptTokens": 10, "cachedPromptTokens": 25})), json!("-15"));
    assert_eq!(tokens(json!({"promptTokens": "many"})), json!("0"));
    assert_eq!(tokens(json!({"cachedPromptTokens": 5})), Value::Null);
    assert_eq!(
        property(&with(json!({"seed": 12345678901234567890123_f64})), "seed"),
        json!("1.2345678901234568e+22")
    );
    assert_eq!(property(&with(json!({"nothing": null})), "nothing"), json!(""));
    assert_eq!(property(&with(json!({"list": [1, 2]})), "list"), json!("[1,2]"));
}

fn one(value: &str, payload: &Value) -> Result<Value, String> {
    let spec = Spec {
        event: vec![EventSpec {
            when: None,
            each: None,
            id: None,
            event_name: "'e'".to_owned(),
            distinct_id: "'d'".to_owned(),
            timestamp: "'2026-01-01T00:00:00Z'".to_owned(),
            customer_id: None,
            session_id: None,
            source: None,
            properties: vec![PropertySpec::One { name: "v".to_owned(), value: value.to_owned(), when: None }],
        }],
        ..Spec::default()
    };
    let mapping = spec.compile().map_err(|error| error.to_string())?;
    match mapping.apply(&payload.to_string(), "raw", LIMITS) {
        Ok(Outcome::Events(events)) => Ok(serde_json::from_str::<Value>(&events[0].properties)
            .unwrap()
            .get("v")
            .cloned()
            .unwrap_or_default()),
        Ok(Outcome::Dropped(reason)) => Err(reason.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn the_functions_do_what_they_say() {
    let payload = json!({
        "food": "food_42", "t": " X ", "n": "12.50", "list": [1, "b"], "when": 1_769_860_800, "day": "31.01.2026",
        "o": {"value": 3},
    });
    for (expression, expected) in [
        ("split(food, '_', -1)", json!("42")),
        ("number(split(food, '_', 1)) + 1", json!(43)),
        ("split(food, '-', 1)", json!(null)),
        ("lower(trim(t))", json!("x")),
        ("number(n) * 2", json!(25)),
        ("round(10 / 3, 2)", json!(3.33)),
        ("floor(-0.5)", json!(-1)),
        ("ceil(0.5) + abs(-2)", json!(3)),
        ("7 % 4", json!(3)),
        ("least(3, 1, 2) - greatest(1, missing, 5)", json!(-4)),
        ("missing + 1", json!(null)),
        ("first('', ' ', t)", json!(" X ")),
        ("default(missing, null, '')", json!("")),
        ("if(n == '12.50' and not empty(t), 'yes', 'no')", json!("yes")),
        ("if(missing > 3, 'yes', 'no')", json!("no")),
        ("length(list) * 10 + length('aé')", json!(22)),
        (
            "contains(list, 'b') and contains(food, 'od_') and starts_with(food, 'f') and ends_with(food, '2')",
            json!(true),
        ),
        ("time(when, 'unix')", json!("2026-01-31T12:00:00.000Z")),
        ("time(day, '%d.%m.%Y')", json!("2026-01-31T00:00:00.000Z")),
        ("substring(food, 5)", json!("42")),
        ("replace(food, 'o', '00')", json!("f0000d_42")),
        ("plain(o) + 1", json!(4)),
        ("boolean('TRUE') or false", json!(true)),
        ("integer('7.9')", json!(7)),
        ("text(list)", json!("[1,\"b\"]")),
        ("type(list)", json!("array")),
        ("list[1]", json!("b")),
        ("length(hash(food, 1))", json!(32)),
    ] {
        assert_eq!(one(expression, &payload), Ok(expected), "{expression}");
    }
    for (expression, expected) in [
        ("1 / 0", "properties: a division by zero"),
        ("lower(list)", "properties: an array where a text is needed"),
        ("number(t)", "properties: \" X \" is no number"),
        ("food > 3", "properties: a text cannot be compared with a number"),
        ("if(food, 1, 2)", "properties: a text is no condition"),
    ] {
        assert_eq!(one(expression, &payload), Err(expected.to_owned()), "{expression}");
    }
}

#[test]
fn one_payload_becomes_many_events_with_ids_of_their_own() {
    let text = r#"
        [[define]]
        name = "shop"
        value = "upper(shop)"
        [[drop]]
        when = "test == true"
        reason = "test_order"
        [[event]]
        event_name = "'order'"
        distinct_id = "buyer"
        timestamp = "at"
        [[event]]
        when = "$item.count > 0"
        each = "items"
        event_name = "concat('item-', $shop)"
        distinct_id = "buyer"
        timestamp = "at"
        properties = [{ name = "sku", value = "$item.sku" }, { name = "place", value = "$index" }]
    "#;
    let mapping = Spec::read(text).unwrap().compile().unwrap();
    let order = |test: bool| {
        json!({
            "buyer": "b", "at": "2026-01-31T12:00:00Z", "shop": "x", "test": test,
            "items": [{"sku": "a", "count": 1}, {"sku": "b", "count": 0}, {"sku": "c", "count": 2}],
        })
        .to_string()
    };
    let Ok(Outcome::Events(events)) = mapping.apply(&order(false), "raw-9", LIMITS) else { panic!() };
    let told: Vec<(&str, &str, &str)> =
        events.iter().map(|e| (e.id.as_str(), e.event_name.as_str(), e.properties.as_str())).collect();
    assert_eq!(
        told,
        [
            ("raw-9", "order", "{}"),
            ("raw-9-1", "item-X", r#"{"sku":"a","place":0}"#),
            ("raw-9-2", "item-X", r#"{"sku":"c","place":2}"#),
        ]
    );
    assert_eq!(mapping.apply(&order(true), "raw-9", LIMITS), Ok(Outcome::Dropped("test_order".into())));
    let few = Limits { events_max: 2, ..LIMITS };
    assert!(mapping.apply(&order(false), "raw-9", few).unwrap_err().0.contains("transform.events_max"));
}

#[test]
fn mistakes_are_told_when_a_transform_is_loaded() {
    let event = "[[event]]\nevent_name = \"'e'\"\ndistinct_id = \"d\"\ntimestamp = \"t\"\n";
    let wrong = |text: &str| {
        let error = Spec::read(text).and_then(|spec| spec.compile()).unwrap_err();
        (error.field.clone(), error.to_string())
    };
    assert_eq!(wrong("").0, "event");
    assert_eq!(wrong(&format!("{event}when = \"lowr(x)\"")).0, "event[0].when");
    assert_eq!(
        wrong(&format!("[[require]]\npath = \"a\"\nreason = \"Not a name\"\n{event}")).0,
        "require[0].reason"
    );
    assert_eq!(wrong(&format!("[[require]]\nreason = \"x\"\n{event}")).0, "require[0]");
    assert_eq!(wrong(&format!("[[define]]\nname = \"item\"\nvalue = \"1\"\n{event}")).0, "define[0].name");
    assert_eq!(
        wrong(&format!("{event}properties = [{{ copy = [\"a[0]\"] }}]")).0,
        "event[0].properties[0].copy"
    );
    let (field, message) = wrong(&event.replace("\"t\"", "\"time(t, '%Q')\""));
    assert_eq!(field, "event[0].timestamp");
    assert!(message.contains("given \"time(t, '%Q')\"") && message.contains("valid: "), "{message}");
    assert!(wrong("evnt = 1").1.contains("evnt"));
    assert!(wrong("{\"event\": 3}").1.contains("sequence"));
    let huge = format!("{event}id = \"{}1\"", "1+".repeat(1900));
    assert!(
        wrong(&huge).1.contains("nested deeper") || wrong(&huge).1.contains("parts"),
        "{}",
        wrong(&huge).1
    );
}

#[test]
fn work_is_bounded_whatever_the_transform_and_the_payload() {
    let mut text = "[[define]]\nname = \"a0\"\nvalue = \"concat(x, x)\"\n".to_owned();
    for n in 1..40 {
        text.push_str(&format!("[[define]]\nname = \"a{n}\"\nvalue = \"concat($a{0}, $a{0})\"\n", n - 1));
    }
    text.push_str(
        "[[event]]\nevent_name = \"'e'\"\ndistinct_id = \"'d'\"\ntimestamp = \"'2026-01-01T00:00:00Z'\"\n",
    );
    let mapping = Spec::read(&text).unwrap().compile().unwrap();
    let error = mapping.apply(r#"{"x":"0123456789"}"#, "raw", LIMITS).unwrap_err();
    assert!(error.0.contains("transform.work_max"), "{error}");
}

#[test]
fn a_spec_reads_back_from_what_is_kept_of_it() {
    let spec = Spec::read(DEFAULT).unwrap();
    let kept = serde_json::to_string(&spec).unwrap();
    assert_eq!(Spec::read(&kept).unwrap(), spec);
}

proptest! {
    #[test]
    fn no_payload_makes_it_panic_and_the_same_one_gives_the_same(
        text in r#"\{("(id|orgId|methodName|providerName|createdAt|data)":("[a-z0-9:TZ-]{0,25}"|[0-9.e-]{1,5}|null|\{"(modelName|channels|numCharacters)":("x"|3|-1)\}),?){0,7}\}"#,
    ) {
        let mapping = default_one();
        prop_assert_eq!(mapping.apply(&text, "raw", LIMITS), mapping.apply(&text, "raw", LIMITS));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in r"[a-z$'(),.+*\[\]<>=! 0-9`-]{0,60}") {
        let _ = expression::parse(&text, &["a".to_owned()], true);
    }
}

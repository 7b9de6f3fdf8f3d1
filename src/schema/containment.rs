//! Does everything that fits one definition fit another, too? Decided keyword by keyword, and in doubt with no: a keyword
//! that is not compared here has to be the same in both.
//!
//! A property that a definition does not name counts as not sent, unless `additionalProperties` says what it looks like.
//! Without that, no property could ever be added to a definition that lets others through, as events do.

use serde_json::{Map, Value};

/// Keywords that say nothing about which values fit.
const ANNOTATIONS: [&str; 11] = [
    "$schema",
    "$id",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "format",
];
/// Keywords that are compared.
const COMPARED: [&str; 17] = [
    "type",
    "enum",
    "const",
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "items",
    "properties",
    "required",
    "additionalProperties",
    "multipleOf",
];
/// Reasons that are given.
const REASONS_MAX: usize = 20;

/// Why something that fits `narrow` may not fit `wide`; nothing: all of it does. Each reason begins with the path of the
/// property.
pub(super) fn breaches(narrow: &Value, wide: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", narrow, wide, &mut found);
    found.truncate(REASONS_MAX);
    found
}

fn compare(at: &str, narrow: &Value, wide: &Value, found: &mut Vec<String>) {
    let nothing = Map::new();
    let fields = |schema: &Value| schema.as_object().cloned().unwrap_or_else(|| nothing.clone());
    if narrow == wide || *narrow == Value::Bool(false) || *wide == Value::Bool(true) {
        return;
    }
    if *wide == Value::Bool(false) {
        return breach(at, "nothing may stand here any more", found);
    }
    let (narrow, wide) = (fields(narrow), fields(wide));
    if let Some(values) = listed(&narrow) {
        return fixed(at, &values, &wide, found);
    }
    for (keyword, value) in &wide {
        let known = ANNOTATIONS.contains(&keyword.as_str()) || COMPARED.contains(&keyword.as_str());
        if !known && narrow.get(keyword) != Some(value) {
            breach(at, &format!("{keyword} differs, and that cannot be compared"), found);
        }
    }
    types(at, &narrow, &wide, found);
    if let Some(values) = listed(&wide) {
        let values: Vec<String> = values.iter().map(ToString::to_string).collect();
        breach(at, &format!("only {} may stand here", values.join(", ")), found);
    }
    if may_be(&narrow, &["number", "integer"]) {
        numbers(at, &narrow, &wide, found);
    }
    if may_be(&narrow, &["string"]) {
        bounds(at, &narrow, &wide, "minLength", "maxLength", found);
        same(at, &narrow, &wide, "pattern", found);
    }
    if may_be(&narrow, &["array"]) {
        bounds(at, &narrow, &wide, "minItems", "maxItems", found);
        let any = Value::Bool(true);
        let items = (narrow.get("items").unwrap_or(&any), wide.get("items").unwrap_or(&any));
        compare(&format!("{at}[]"), items.0, items.1, found);
    }
    if may_be(&narrow, &["object"]) {
        objects(at, &narrow, &wide, found);
    }
}

fn breach(at: &str, what: &str, found: &mut Vec<String>) {
    let place = if at.is_empty() { "the properties" } else { at };
    found.push(format!("{place}: {what}"));
}

/// The only values that fit, where they are listed.
fn listed(schema: &Map<String, Value>) -> Option<Vec<Value>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(value), _) => Some(vec![value.clone()]),
        (None, Some(Value::Array(values))) => Some(values.clone()),
        _ => None,
    }
}

/// Values that can be tried one by one.
fn fixed(at: &str, values: &[Value], wide: &Map<String, Value>, found: &mut Vec<String>) {
    let Ok(validator) = super::compile(&Value::Object(wide.clone())) else {
        return breach(at, "it cannot be compared", found);
    };
    for value in values.iter().filter(|value| !validator.is_valid(value)) {
        breach(at, &format!("{value} fits no more"), found);
    }
}

/// The types that a value may have.
fn types_of(schema: &Map<String, Value>) -> Option<Vec<&str>> {
    match schema.get("type")? {
        Value::String(one) => Some(vec![one]),
        Value::Array(several) => Some(several.iter().filter_map(Value::as_str).collect()),
        _ => None,
    }
}

fn may_be(schema: &Map<String, Value>, types: &[&str]) -> bool {
    types_of(schema).is_none_or(|own| own.iter().any(|one| types.contains(one)))
}

fn types(at: &str, narrow: &Map<String, Value>, wide: &Map<String, Value>, found: &mut Vec<String>) {
    let Some(allowed) = types_of(wide) else { return };
    match types_of(narrow) {
        None => breach(at, &format!("it could be anything, and has to be {}", allowed.join(" or ")), found),
        Some(given) => {
            let fits =
                |one: &str| allowed.contains(&one) || (one == "integer" && allowed.contains(&"number"));
            for one in given.into_iter().filter(|one| !fits(one)) {
                breach(at, &format!("{one} fits no more, it has to be {}", allowed.join(" or ")), found);
            }
        }
    }
}

fn same(
    at: &str,
    narrow: &Map<String, Value>,
    wide: &Map<String, Value>,
    name: &str,
    found: &mut Vec<String>,
) {
    if let Some(value) = wide.get(name)
        && narrow.get(name) != Some(value)
    {
        breach(at, &format!("{name} has to be {value}"), found);
    }
}

fn number(schema: &Map<String, Value>, name: &str) -> Option<f64> {
    schema.get(name)?.as_f64()
}

fn numbers(at: &str, narrow: &Map<String, Value>, wide: &Map<String, Value>, found: &mut Vec<String>) {
    same(at, narrow, wide, "multipleOf", found);
    // A bound holds if the other one is as tight; one that excludes its value is tighter than one that does not.
    let least = |schema| [number(schema, "minimum"), number(schema, "exclusiveMinimum")];
    let most = |schema| [number(schema, "maximum"), number(schema, "exclusiveMaximum")];
    let [own, own_exclusive] = least(narrow);
    let [asked, asked_exclusive] = least(wide);
    let above =
        |bound: f64| own.is_some_and(|own| own >= bound) || own_exclusive.is_some_and(|own| own >= bound);
    let strictly_above =
        |bound: f64| own.is_some_and(|own| own > bound) || own_exclusive.is_some_and(|own| own >= bound);
    if asked.is_some_and(|bound| !above(bound)) || asked_exclusive.is_some_and(|bound| !strictly_above(bound))
    {
        breach(at, "smaller numbers fit no more", found);
    }
    let [own, own_exclusive] = most(narrow);
    let [asked, asked_exclusive] = most(wide);
    let below =
        |bound: f64| own.is_some_and(|own| own <= bound) || own_exclusive.is_some_and(|own| own <= bound);
    let strictly_below =
        |bound: f64| own.is_some_and(|own| own < bound) || own_exclusive.is_some_and(|own| own <= bound);
    if asked.is_some_and(|bound| !below(bound)) || asked_exclusive.is_some_and(|bound| !strictly_below(bound))
    {
        breach(at, "greater numbers fit no more", found);
    }
}

fn bounds(
    at: &str,
    narrow: &Map<String, Value>,
    wide: &Map<String, Value>,
    least: &str,
    most: &str,
    found: &mut Vec<String>,
) {
    if number(wide, least).is_some_and(|bound| number(narrow, least).unwrap_or(0.0) < bound) {
        breach(at, &format!("{least} has grown"), found);
    }
    if number(wide, most).is_some_and(|bound| number(narrow, most).is_none_or(|own| own > bound)) {
        breach(at, &format!("{most} has shrunk"), found);
    }
}

fn objects(at: &str, narrow: &Map<String, Value>, wide: &Map<String, Value>, found: &mut Vec<String>) {
    let nothing = Map::new();
    let properties = |schema: &Map<String, Value>| {
        schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default()
    };
    let required = |schema: &Map<String, Value>| -> Vec<String> {
        let names = schema.get("required").and_then(Value::as_array);
        names.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let (own, asked) = (properties(narrow), properties(wide));
    let path = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
    let given = required(narrow);
    for name in required(wide).iter().filter(|name| !given.contains(name)) {
        breach(&path(name), "it is required", found);
    }
    let others = narrow.get("additionalProperties");
    for (name, schema) in &asked {
        match (own.get(name), others) {
            (Some(own), _) => compare(&path(name), own, schema, found),
            // Whatever is not named may look like this.
            (None, Some(Value::Object(_))) => {
                compare(&path(name), others.unwrap_or(&Value::Object(nothing.clone())), schema, found);
            }
            // Not named: not sent.
            (None, _) => {}
        }
    }
    let Some(rest) = wide.get("additionalProperties").filter(|rest| **rest != Value::Bool(true)) else {
        return;
    };
    for (name, schema) in own.iter().filter(|(name, _)| !asked.contains_key(*name)) {
        compare(&path(name), schema, rest, found);
    }
    match others {
        Some(others) if *others != Value::Bool(true) => compare(&path("*"), others, rest, found),
        _ if *rest == Value::Bool(false) => breach(at, "other properties fit no more", found),
        _ => compare(&path("*"), &Value::Bool(true), rest, found),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::{Compatibility, compile};
    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "it is called with what json! makes")]
    fn object(properties: Value, required: &[&str]) -> Value {
        json!({ "type": "object", "properties": properties, "required": required })
    }

    /// From, to, and whether the change is backward and forward compatible.
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn table() -> Vec<(&'static str, Value, Value, bool, bool)> {
        let price = || object(json!({"price": {"type": "number"}}), &["price"]);
        let named = |schema: Value| object(json!({ "x": schema }), &[]);
        vec![
            ("nothing", price(), price(), true, true),
            (
                "a title",
                price(),
                json!({"title": "t", "type": "object", "properties": {"price": {"type": "number"}}, "required": ["price"]}),
                true,
                true,
            ),
            (
                "an optional property more",
                price(),
                object(json!({"price": {"type": "number"}, "plan": {"type": "string"}}), &["price"]),
                true,
                true,
            ),
            (
                "a required property more",
                price(),
                object(json!({"price": {"type": "number"}, "plan": {"type": "string"}}), &["price", "plan"]),
                false,
                true,
            ),
            (
                "required becomes optional",
                price(),
                object(json!({"price": {"type": "number"}}), &[]),
                true,
                false,
            ),
            (
                "optional becomes required",
                object(json!({"price": {"type": "number"}}), &[]),
                price(),
                false,
                true,
            ),
            (
                "a property less",
                object(json!({"price": {"type": "number"}, "plan": {"type": "string"}}), &["price"]),
                price(),
                true,
                true,
            ),
            (
                "integer to number",
                named(json!({"type": "integer"})),
                named(json!({"type": "number"})),
                true,
                false,
            ),
            (
                "number to integer",
                named(json!({"type": "number"})),
                named(json!({"type": "integer"})),
                false,
                true,
            ),
            (
                "number to string",
                named(json!({"type": "number"})),
                named(json!({"type": "string"})),
                false,
                false,
            ),
            (
                "one type more",
                named(json!({"type": "string"})),
                named(json!({"type": ["string", "null"]})),
                true,
                false,
            ),
            ("any type to one", named(json!({})), named(json!({"type": "string"})), false, true),
            ("a value more", named(json!({"enum": ["a"]})), named(json!({"enum": ["a", "b"]})), true, false),
            ("a value less", named(json!({"enum": ["a", "b"]})), named(json!({"enum": ["b"]})), false, true),
            (
                "values to a type",
                named(json!({"enum": ["a", "b"]})),
                named(json!({"type": "string"})),
                true,
                false,
            ),
            (
                "values to a length",
                named(json!({"enum": ["a", "bb"]})),
                named(json!({"type": "string", "maxLength": 1})),
                false,
                false,
            ),
            (
                "a smaller minimum",
                named(json!({"type": "number", "minimum": 1})),
                named(json!({"type": "number", "minimum": 0})),
                true,
                false,
            ),
            (
                "minimum becomes exclusive",
                named(json!({"type": "number", "minimum": 1})),
                named(json!({"type": "number", "exclusiveMinimum": 1})),
                false,
                true,
            ),
            (
                "a greater maximum",
                named(json!({"type": "number", "maximum": 1})),
                named(json!({"type": "number", "maximum": 2})),
                true,
                false,
            ),
            (
                "a maximum where none was",
                named(json!({"type": "number"})),
                named(json!({"type": "number", "maximum": 2})),
                false,
                true,
            ),
            (
                "a longer text",
                named(json!({"type": "string", "maxLength": 2})),
                named(json!({"type": "string", "maxLength": 3})),
                true,
                false,
            ),
            (
                "another pattern",
                named(json!({"type": "string", "pattern": "a"})),
                named(json!({"type": "string", "pattern": "b"})),
                false,
                false,
            ),
            (
                "no pattern any more",
                named(json!({"type": "string", "pattern": "a"})),
                named(json!({"type": "string"})),
                true,
                false,
            ),
            (
                "items of another type",
                named(json!({"type": "array", "items": {"type": "integer"}})),
                named(json!({"type": "array", "items": {"type": "number"}})),
                true,
                false,
            ),
            (
                "closed to others",
                price(),
                json!({"type": "object", "properties": {"price": {"type": "number"}}, "required": ["price"], "additionalProperties": false}),
                false,
                true,
            ),
            (
                "deeper",
                named(price()),
                named(object(json!({"price": {"type": "string"}}), &["price"])),
                false,
                false,
            ),
            (
                "a property that may not be sent",
                named(json!({"type": "string"})),
                named(json!(false)),
                false,
                true,
            ),
            (
                "a keyword that is not compared",
                named(json!({"type": "string"})),
                named(json!({"type": "string", "anyOf": [{"maxLength": 1}]})),
                false,
                true,
            ),
        ]
    }

    #[test]
    fn every_verdict_of_the_table() {
        for (what, old, new, backward, forward) in table() {
            let verdict = |compatibility: Compatibility| compatibility.breaches(&old, &new).is_empty();
            assert!(verdict(Compatibility::None), "{what}");
            assert_eq!(verdict(Compatibility::Backward), backward, "{what}, backward");
            assert_eq!(verdict(Compatibility::Forward), forward, "{what}, forward");
            assert_eq!(verdict(Compatibility::Full), backward && forward, "{what}, full");
        }
    }

    #[test]
    fn a_reason_names_the_property() {
        let old = object(json!({"a": {"type": "object", "properties": {"b": {"type": "number"}}}}), &[]);
        let new = object(json!({"a": {"type": "object", "properties": {"b": {"type": "string"}}}}), &["c"]);
        let told = breaches(&old, &new);
        assert_eq!(told, ["c: it is required", "a.b: number fits no more, it has to be string"]);
    }

    fn definition() -> impl Strategy<Value = Value> {
        let number =
            (0_i32..4, 0_i32..4).prop_map(|(a, b)| json!({"type": "number", "minimum": a, "maximum": b}));
        let leaf = prop_oneof![
            Just(json!({"type": "string"})),
            Just(json!({"type": "integer"})),
            Just(json!({"type": ["string", "null"]})),
            Just(json!({"enum": [1, "a"]})),
            Just(json!({})),
            number,
            (0_u32..3).prop_map(|most| json!({"type": "string", "maxLength": most})),
        ];
        (proptest::collection::vec((0_usize..2, leaf), 2), any::<[bool; 3]>()).prop_map(
            |(leaves, [a, b, closed])| {
                let mut schema = json!({"type": "object", "properties": {}, "required": []});
                // Both names are always there: what is not named would count as not sent.
                for (name, (_, leaf)) in ["a", "b"].iter().zip(&leaves) {
                    schema["properties"][*name] = leaf.clone();
                }
                let required: Vec<&str> =
                    [("a", a), ("b", b)].into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
                schema["required"] = json!(required);
                if closed {
                    schema["additionalProperties"] = json!(false);
                }
                schema
            },
        )
    }

    fn instance() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!("a")),
            Just(json!("aa")),
            Just(json!("")),
            Just(json!(1)),
            Just(json!(1.5)),
            Just(json!(null)),
            (0_i32..5).prop_map(|n| json!(n)),
        ];
        proptest::collection::btree_map(prop_oneof![Just("a"), Just("b")], leaf, 0..3)
            .prop_map(|map| json!(map))
    }

    proptest! {
        #[test]
        fn what_is_called_contained_is(narrow in definition(), wide in definition(), instance in instance()) {
            if breaches(&narrow, &wide).is_empty() && compile(&narrow).unwrap().is_valid(&instance) {
                prop_assert!(compile(&wide).unwrap().is_valid(&instance), "{narrow} {wide} {instance}");
            }
        }
    }
}

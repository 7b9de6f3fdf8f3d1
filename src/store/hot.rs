//! Hot property keys: properties with a column of their own, filled from one pass over the JSON text.
//!
//! Measured (ARCHITECTURE, "Decisions"): summing or breaking down by a column takes 5 ms per million rows, by the JSON
//! text 170 ms. The text stays the source of truth; a hot column repeats one value of it, as JSON text, so that
//! absent (empty), `null`, `1`, `"1"` and `{}` stay different.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The keys and their columns, in the order of the table. Web analytics' well-known ones and those that adverts,
/// plans and purchases carry. A new one needs a migration that adds its column.
pub(super) const HOT: [(&str, &str); 12] = [
    ("$current_url", "p_current_url"),
    ("path", "p_path"),
    ("referrer", "p_referrer"),
    ("utm_source", "p_utm_source"),
    ("country", "p_country"),
    ("device", "p_device"),
    ("plan", "p_plan"),
    ("currency", "p_currency"),
    ("price", "p_price"),
    ("amount", "p_amount"),
    ("ad_id", "p_ad_id"),
    ("item_id", "p_item_id"),
];

/// The column of a key, if it has one.
pub(super) fn column_of(key: &str) -> Option<&'static str> {
    HOT.iter().find(|(hot, _)| *hot == key).map(|(_, column)| *column)
}

/// The hot values of one event: their JSON text, borrowed from the properties; `None` is absent.
pub(super) type HotValues<'a> = [Option<&'a str>; HOT.len()];

/// Reads the hot values. Of a key that stands twice the first counts, as for the server's JSON functions. What is not
/// an object has none.
pub(super) fn hot_values(properties: &str) -> HotValues<'_> {
    let mut values = [None; HOT.len()];
    let mut json = serde_json::Deserializer::from_str(properties);
    match json.deserialize_map(Collect(&mut values)) {
        Ok(()) => values,
        Err(_) => [None; HOT.len()],
    }
}

struct Collect<'v, 'de>(&'v mut HotValues<'de>);

impl<'de> Visitor<'de> for Collect<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(hot) = map.next_key_seed(HotKey)? {
            match hot {
                Some(index) => {
                    let value: &'de RawValue = map.next_value()?;
                    if let Some(slot @ None) = self.0.get_mut(index) {
                        *slot = Some(value.get());
                    }
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Reads a key as its place in [`HOT`], without copying it.
struct HotKey;

impl<'de> DeserializeSeed<'de> for HotKey {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for HotKey {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(HOT.iter().position(|(hot, _)| *hot == key))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value_of<'a>(key: &str, properties: &'a str) -> Option<&'a str> {
        hot_values(properties)[HOT.iter().position(|(hot, _)| *hot == key).unwrap()]
    }

    #[test]
    fn absent_null_number_text_and_nested_stay_different() {
        let properties =
            r#"{"price": 1.50, "plan":"1.50", "path":null, "country":{"a":[1]}, "other": {"ad_id": 1}}"#;
        assert_eq!(value_of("price", properties), Some("1.50"));
        assert_eq!(value_of("plan", properties), Some("\"1.50\""));
        assert_eq!(value_of("path", properties), Some("null"));
        assert_eq!(value_of("country", properties), Some(r#"{"a":[1]}"#));
        assert_eq!(value_of("ad_id", properties), None);
    }

    #[test]
    fn a_key_is_found_however_it_is_spelled() {
        assert_eq!(value_of("plan", r#"{"\u0070lan":1}"#), Some("1"));
    }

    #[test]
    fn of_a_key_that_stands_twice_the_first_counts() {
        assert_eq!(value_of("plan", r#"{"plan":1,"plan":2}"#), Some("1"));
    }

    #[test]
    fn what_is_not_an_object_has_no_hot_values() {
        for text in ["", "[]", "{", r#"{"plan":1"#, "null"] {
            assert_eq!(hot_values(text), [None; HOT.len()], "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_object_gives_what_a_full_parse_gives(
            entries in proptest::collection::btree_map(
                prop_oneof![Just("plan".to_owned()), Just("price".to_owned()), any::<String>()],
                prop_oneof![
                    any::<String>().prop_map(serde_json::Value::from),
                    any::<f64>().prop_map(serde_json::Value::from),
                    any::<bool>().prop_map(serde_json::Value::from),
                ],
                0..8,
            )
        ) {
            let text = serde_json::to_string(&entries).unwrap();
            for ((key, _), found) in HOT.iter().zip(hot_values(&text)) {
                let found = found.map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap());
                let parsed = serde_json::from_str::<serde_json::Value>(&text).unwrap();
                prop_assert_eq!(found.as_ref(), parsed.get(*key));
            }
        }
    }
}

//! What stands in a record's JSON, before anything is asked of it.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Both shapes at once; the aliases are FlexPrice's names.
#[derive(Deserialize)]
pub(super) struct Wire<'a> {
    #[serde(borrow, default)]
    pub(super) id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) project_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) tenant_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) environment_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) event_name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) distinct_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) external_customer_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) customer_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) session_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) source: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) timestamp: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) received_at: Option<Text<'a>>,
    #[serde(default)]
    pub(super) schema_version: Option<Number>,
    #[serde(default)]
    pub(super) id_generated: Option<bool>,
    #[serde(borrow, default)]
    pub(super) properties: Option<&'a RawValue>,
}

/// A text, borrowed where it has no escapes; another type is kept to be named in the refusal.
pub(super) enum Text<'a> {
    Text(Cow<'a, str>),
    Other(&'static str),
}

macro_rules! text_visits {
    ($($method:ident($value:ty) = $name:literal;)+) => {
        $(fn $method<E>(self, _: $value) -> Result<Self::Value, E> { Ok(Text::Other($name)) })+
    };
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> serde::de::Visitor<'de> for Visitor<'a> {
            type Value = Text<'a>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'a>, E> {
                Ok(Text::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'a>, E> {
                Ok(Text::Text(Cow::Owned(text.to_owned())))
            }

            text_visits! {
                visit_bool(bool) = "a boolean";
                visit_i64(i64) = "a number";
                visit_u64(u64) = "a number";
                visit_f64(f64) = "a number";
            }

            fn visit_unit<E>(self) -> Result<Text<'a>, E> {
                Ok(Text::Other("null"))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Text<'a>, A::Error> {
                while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                Ok(Text::Other("an array"))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Text<'a>, A::Error> {
                while map.next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?.is_some() {}
                Ok(Text::Other("an object"))
            }
        }
        deserializer.deserialize_any(Visitor(std::marker::PhantomData))
    }
}

/// A schema version; anything that is no natural number is kept as its text.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Number {
    Natural(u64),
    Other(serde::de::IgnoredAny),
}

impl<'a> Wire<'a> {
    /// # Errors
    /// Not the JSON of an object, or one that has a field twice.
    pub(super) fn read(text: &'a str) -> Result<Self, serde_json::Error> {
        match Self::read_own(text) {
            Some(wire) => Ok(wire),
            None => serde_json::from_str(text),
        }
    }

    /// As FlexFlow writes it ([`crate::event::LogEvent`]): these keys in this order, no white space between. Half the
    /// price of the long way, which reads whatever is another way: `None`.
    fn read_own(text: &'a str) -> Option<Self> {
        let mut rest = Rest(text);
        let id = rest.text("{\"id\":\"")?;
        let project_id = rest.text(",\"project_id\":\"")?;
        let environment_id = rest.text(",\"environment_id\":\"")?;
        let event_name = rest.text(",\"event_name\":\"")?;
        let distinct_id = rest.text(",\"distinct_id\":\"")?;
        let customer_id = rest.text(",\"customer_id\":\"");
        let session_id = rest.text(",\"session_id\":\"");
        let source = rest.text(",\"source\":\"");
        let timestamp = rest.text(",\"timestamp\":\"")?;
        let received_at = rest.text(",\"received_at\":\"")?;
        rest.pass(",\"schema_version\":1")?;
        let id_generated = rest.pass(",\"id_generated\":true").map(|()| true);
        let properties = match rest.0 {
            "}" => None,
            _ => {
                let object = rest.0.strip_prefix(",\"properties\":")?.strip_suffix('}')?;
                serde_json::from_str(object).ok()?
            }
        };
        Some(Self {
            id: Some(id),
            project_id: Some(project_id),
            tenant_id: None,
            environment_id: Some(environment_id),
            event_name: Some(event_name),
            distinct_id: Some(distinct_id),
            external_customer_id: None,
            customer_id,
            session_id,
            source,
            timestamp: Some(timestamp),
            received_at: Some(received_at),
            schema_version: Some(Number::Natural(1)),
            id_generated,
            properties,
        })
    }
}

/// What of a record is still to be read.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn pass(&mut self, what: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(what)?;
        Some(())
    }

    /// The text behind `key`, with the quote that ends it; nothing is passed if it has escapes.
    fn text(&mut self, key: &str) -> Option<Text<'a>> {
        let rest = self.0.strip_prefix(key)?;
        let end = rest.bytes().position(|byte| matches!(byte, b'"' | b'\\' | ..=0x1f))?;
        self.0 = rest[end..].strip_prefix('"')?;
        Some(Text::Text(Cow::Borrowed(&rest[..end])))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn said<'a>(text: Option<&'a Text<'_>>) -> Option<&'a str> {
        text.map(|text| match text {
            Text::Text(text) => &**text,
            Text::Other(kind) => kind,
        })
    }

    type All<'a> = (Vec<Option<&'a str>>, Option<u64>, Option<bool>, Option<&'a str>);

    fn all<'a>(wire: &'a Wire<'_>) -> All<'a> {
        let texts = [
            &wire.id,
            &wire.project_id,
            &wire.tenant_id,
            &wire.environment_id,
            &wire.event_name,
            &wire.distinct_id,
            &wire.external_customer_id,
            &wire.customer_id,
            &wire.session_id,
            &wire.source,
            &wire.timestamp,
            &wire.received_at,
        ];
        let version = match &wire.schema_version {
            Some(Number::Natural(version)) => Some(*version),
            _ => None,
        };
        let properties = wire.properties.map(RawValue::get);
        (texts.map(|text| said(text.as_ref())).to_vec(), version, wire.id_generated, properties)
    }

    fn written(texts: &[String; 5], optional: &[Option<String>; 3], generated: bool, more: &str) -> String {
        let quoted = |text: &String| serde_json::Value::from(text.as_str()).to_string();
        let mut out = String::from("{");
        for (name, text) in
            ["id", "project_id", "environment_id", "event_name", "distinct_id"].iter().zip(texts)
        {
            out += &format!("{}\"{name}\":{}", if out.len() > 1 { "," } else { "" }, quoted(text));
        }
        for (name, text) in ["customer_id", "session_id", "source"].iter().zip(optional) {
            if let Some(text) = text {
                out += &format!(",\"{name}\":{}", quoted(text));
            }
        }
        out += ",\"timestamp\":\"2026-01-31T12:00:00.123Z\",\"received_at\":\"2026-01-31T12:00:01Z\",\"schema_version\":1";
        out += if generated { ",\"id_generated\":true" } else { "" };
        out + more + "}"
    }

    #[test]
    fn what_capture_writes_takes_the_short_way() {
        let texts = ["e1", "p", "e", "click", "ä \u{7f}"].map(str::to_owned);
        for optional in [[None, None, None], [Some("c".into()), None, Some("s".into())]] {
            for more in ["", ",\"properties\":{}", ",\"properties\": {\"a\":[1,\"}\"]} "] {
                let text = written(&texts, &optional, true, more);
                assert!(Wire::read_own(&text).is_some(), "{text}");
            }
        }
    }

    #[test]
    fn whatever_is_another_way_takes_the_long_one() {
        let good = written(&["a", "b", "c", "d", "e"].map(str::to_owned), &[None, None, None], false, "");
        assert!(Wire::read_own(&good).is_some());
        for other in [
            good.replace("\"id\":", "\"id\": "),
            good.replace("\"id\":\"a\"", "\"id\":7"),
            good.replace("\"a\"", "\"\\u0061\""),
            good.replace("\"a\"", "\"a\nb\""),
            good.replace(":1}", ":11}"),
            good.replace(":1}", ":1,\"schema_version\":1}"),
            good.replace(":1}", ":1,\"id_generated\":false}"),
            good.replace(":1}", ":1,\"properties\":{},\"more\":1}"),
            good.replace(":1}", ":1,\"properties\":{}}}"),
            good.replace(":1}", ":1} "),
            good.replace("project_id", "tenant_id"),
            json!({"id": "a"}).to_string(),
            String::new(),
        ] {
            assert!(Wire::read_own(&other).is_none(), "{other}");
        }
    }

    proptest! {
        #[test]
        fn both_ways_read_the_same(
            texts in prop::array::uniform5("[a-z\"\\\\ä\n\u{0}]{0,6}"),
            optional in prop::array::uniform3(prop::option::of("[a-z\"\\\\]{0,3}")),
            generated in any::<bool>(),
            more in prop_oneof![
                Just(String::new()),
                "(,\"properties\":(\\{\\}|null|1|\\{\"a\":\"[}\\\\\"]{0,2}\"\\}|\\[\\]|x)){0,2}",
            ],
            cut in prop::option::of(0usize..200),
        ) {
            let mut text = written(&texts, &optional, generated, &more);
            if let Some(cut) = cut.filter(|cut| *cut < text.len() && text.is_char_boundary(*cut)) {
                text.remove(cut);
            }
            if let Some(short) = Wire::read_own(&text) {
                let long: Wire<'_> = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(all(&short), all(&long), "{}", text);
            }
        }
    }
}

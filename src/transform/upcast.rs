//! Upcasts: what the properties of an event become that was written for an older version of its schema. In the language
//! of transforms, about the properties alone: all of them are kept but those that are removed, and others are put in or in
//! their place. Pure, deterministic and bounded as transforms are.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::expression::Expression;
use super::function::Run;
use super::json::Json;
use super::mapping::{Definition, Properties, Property, TransformError, define, written_object};
use super::spec::{Compiler, DefineSpec, Invalid, PropertySpec, SPEC_BYTES_MAX, check_lengths};

/// An upcast as it is written down, in TOML or JSON. Paths begin at the properties of the older version.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpcastSpec {
    /// Values with a name, in order; each may use those before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub define: Vec<DefineSpec>,
    /// Properties that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    /// In order; a name that there is already takes another value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub properties: Vec<PropertySpec>,
}

/// See the [module](self).
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Upcast {
    define: Vec<Definition>,
    remove: Vec<String>,
    properties: Vec<Property>,
}

impl UpcastSpec {
    /// Reads TOML, or JSON if it begins with a brace.
    ///
    /// # Errors
    /// It is neither, or has a field that there is not.
    pub fn read(text: &str) -> Result<Self, Invalid> {
        let wrong = |problem: String| {
            let first = text.lines().next().unwrap_or_default();
            Invalid::new("upcast", first, problem, "TOML or JSON with define, remove and properties")
        };
        if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|error| wrong(error.to_string()))
        } else {
            toml::from_str(text).map_err(|error| wrong(error.to_string().trim().to_owned()))
        }
    }

    /// Checks it and makes it ready to be applied.
    ///
    /// # Errors
    /// The first mistake.
    pub fn compile(&self) -> Result<Upcast, Invalid> {
        let bytes = serde_json::to_string(self).map_or(0, |text| text.len());
        if bytes > SPEC_BYTES_MAX {
            return Err(Invalid::new("upcast", "", format!("it has {bytes} bytes"), "at most 64 KiB"));
        }
        check_lengths(&[
            ("define", self.define.len()),
            ("remove", self.remove.len()),
            ("properties", self.properties.len()),
        ])?;
        let mut compiler = Compiler::default();
        let define = compiler.definitions(&self.define)?;
        let mut properties = Vec::new();
        for (index, property) in self.properties.iter().enumerate() {
            properties.push(compiler.property(&format!("properties[{index}]"), property, false)?);
        }
        Ok(Upcast { define, remove: self.remove.clone(), properties })
    }
}

impl Upcast {
    /// The same, with this property at the end.
    pub fn with_number(mut self, name: &str, number: i64) -> Self {
        let value = Expression::Number(number.to_string());
        self.properties.push(Property::One { name: name.to_owned(), value, when: None });
        self
    }

    /// The properties, as a JSON object's text, in the next version.
    ///
    /// # Errors
    /// They are no JSON object, a value is not what the upcast needs, or it costs more than `work_max` (see
    /// [`Limits`](super::Limits)).
    pub fn apply(&self, properties: &str, work_max: usize) -> Result<String, TransformError> {
        let json = Json::parse(properties).map_err(|error| TransformError(error.to_string()))?;
        let Json::Object { fields, .. } = &json else {
            return Err(TransformError(format!("the properties are {}; an object is needed", json.kind())));
        };
        let mut run = Run { payload: &json, defined: Vec::new(), item: None, fuel: work_max };
        define(&mut run, &self.define)?;
        let kept = fields.iter().filter(|(name, _)| !self.remove.iter().any(|one| one == name));
        let mut found = Properties::default();
        for (name, value) in kept {
            found.insert(Cow::Borrowed(name), value.into());
        }
        written_object(&mut run, found, &self.properties)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK_MAX: usize = 100_000;

    fn upcast(toml: &str) -> Upcast {
        UpcastSpec::read(toml).and_then(|spec| spec.compile()).unwrap()
    }

    #[test]
    fn what_is_not_named_is_kept_as_it_was_written() {
        let renamed = upcast(
            "remove = ['price', 'note']
             properties = [{ name = 'cost', value = 'number(price) * 100' }, { name = 'unit', value = \"'cent'\" }]",
        );
        let given = r#"{"id":"a","price":"12.30","deep":{"n":1.50,"x":[1e2]},"note":null,"big":12345678901234567890.10}"#;
        assert_eq!(
            renamed.apply(given, WORK_MAX).unwrap(),
            r#"{"id":"a","deep":{"n":1.50,"x":[1e2]},"big":12345678901234567890.10,"cost":1230,"unit":"cent"}"#
        );
        // What is not there stays away; a name that there is keeps its place.
        let replaced = upcast("properties = [{ name = 'a', value = 'b' }, { name = 'c', value = 'd' }]");
        assert_eq!(replaced.apply(r#"{"a":1,"b":2}"#, WORK_MAX).unwrap(), r#"{"a":2,"b":2}"#);
    }

    #[test]
    fn it_looks_at_the_older_properties_alone() {
        let swapped = upcast("properties = [{ name = 'a', value = 'b' }, { name = 'b', value = 'a' }]");
        assert_eq!(swapped.apply(r#"{"a":1,"b":2}"#, WORK_MAX).unwrap(), r#"{"a":2,"b":1}"#);
        let named = upcast(
            "define = [{ name = 'words', value = \"split(name, ' ', 0)\" }]
             properties = [{ name = 'first', value = '$words', when = 'long == true' }]",
        );
        assert_eq!(
            named.apply(r#"{"name":"ada l","long":true}"#, WORK_MAX).unwrap(),
            r#"{"name":"ada l","long":true,"first":"ada"}"#
        );
        assert_eq!(named.apply(r#"{"name":"ada l"}"#, WORK_MAX).unwrap(), r#"{"name":"ada l"}"#);
    }

    #[test]
    fn what_cannot_be_computed_and_what_costs_too_much_is_told() {
        let counted = upcast("properties = [{ name = 'n', value = 'number(text)' }]");
        let told = counted.apply(r#"{"text":"many"}"#, WORK_MAX).unwrap_err().to_string();
        assert!(told.contains("many"), "{told}");
        assert!(counted.apply("[]", WORK_MAX).is_err());
        assert!(counted.apply("{", WORK_MAX).is_err());
        let large = format!(r#"{{"text":"1","rest":"{}"}}"#, "x".repeat(WORK_MAX));
        assert!(counted.apply(&large, WORK_MAX).is_err());
    }

    #[test]
    fn a_mistake_is_told_with_its_field() {
        let told =
            |toml: &str| UpcastSpec::read(toml).and_then(|spec| spec.compile()).unwrap_err().to_string();
        assert!(told("event = []").contains("event"), "{}", told("event = []"));
        assert!(
            told("properties = [{ name = 'a', value = 'lowr(b)' }]").starts_with("properties[0].value: ")
        );
        assert!(told("define = [{ name = 'A', value = 'b' }]").starts_with("define[0].name: "));
        let many = format!("remove = [{}]", "'a',".repeat(201));
        assert!(told(&many).starts_with("remove: 201 entries"), "{}", told(&many));
    }
}

//! The notation in which bodies are described (`shapes/`), read into JSON Schema.
//!
//! A file has statements, each of which begins at the start of a line; `#` begins a line that says nothing.
//!
//! | statement | says |
//! |---|---|
//! | `## words` | what the next type is |
//! | `type Name = T` | a type with a name |
//! | `GET /path` | a route; several in a row share what follows |
//! | `? T` | its query string, an object |
//! | `< T`, `<? T` | its body; one that may be left out |
//! | `> T`, `>503 T` | its answer; one with another status |
//!
//! | type | is |
//! |---|---|
//! | `string` `integer` `number` `boolean` `null` `object` `any` `time` | what it says; `time` is RFC 3339 |
//! | `"a" \| "b"` | one of several |
//! | `T[]`, `[T, T]`, `{ *: T }` | a list, a list of so many, an object with any names |
//! | `{ a: T, b?: T, c??: T }` | an object; `b` may be absent, `c` absent or null |
//! | `{ ...Name, a: T }` | with what the type has, which stands above |
//! | `!{ … }`, `{ …, ... }` | an object that takes no other fields; one that takes any |

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// What stands in the files.
#[derive(Default)]
pub(super) struct Shapes {
    /// By name.
    pub types: BTreeMap<String, Value>,
    /// By method and path.
    pub routes: BTreeMap<(String, String), RouteShape>,
    /// What cannot be read, with its line: nothing, or a test fails.
    pub errors: Vec<String>,
}

/// What a route is asked and answers.
#[derive(Clone, Default)]
pub(super) struct RouteShape {
    pub query: Option<Shape>,
    pub body: Option<Shape>,
    pub body_is_optional: bool,
    pub answer: Option<Shape>,
    /// Answers of other statuses, which are not the one error body.
    pub others: Vec<(u16, Shape)>,
}

/// A type.
#[derive(Clone)]
pub(super) struct Shape {
    pub schema: Value,
    /// As it is written.
    pub text: String,
}

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

impl Shapes {
    /// Reads files, in this order.
    pub(super) fn read(files: &[&str]) -> Self {
        let mut shapes = Self::default();
        for file in files {
            let mut reading = Reading::default();
            for statement in statements(file) {
                if let Err(error) = shapes.statement(&statement, &mut reading) {
                    let first = statement.lines().next().unwrap_or_default();
                    shapes.errors.push(format!("{first}: {error}"));
                }
            }
        }
        shapes
    }

    /// What the documented route says; `/api/v1` is `/v1` under another address.
    pub(super) fn route(&self, method: &str, path: &str) -> Option<&RouteShape> {
        let path = if path.starts_with("/api/v1/") { path.trim_start_matches("/api") } else { path };
        self.routes.get(&(method.to_owned(), path.to_owned()))
    }

    /// A schema, or what it names.
    pub(super) fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let name = schema["$ref"].as_str().and_then(|path| path.strip_prefix(TYPES));
        name.and_then(|name| self.types.get(name)).unwrap_or(schema)
    }

    fn statement(&mut self, statement: &str, reading: &mut Reading) -> Result<(), String> {
        if let Some(words) = statement.strip_prefix("##") {
            reading.words = Some(words.trim().to_owned());
            return Ok(());
        }
        if let Some(rest) = statement.strip_prefix("type ") {
            let (name, text) = rest.split_once('=').ok_or("a type needs a =")?;
            let mut schema = self.shape(text)?.schema;
            if let (Some(words), Some(schema)) = (reading.words.take(), schema.as_object_mut()) {
                schema.insert("description".to_owned(), words.into());
            }
            let name = name.trim().to_owned();
            return match self.types.insert(name, schema) {
                None => Ok(()),
                Some(_) => Err("this type stands twice".to_owned()),
            };
        }
        if let Some((method, path)) = statement.split_once(' ').filter(|(word, _)| METHODS.contains(word)) {
            if reading.answered {
                *reading = Reading::default();
            }
            let key = (method.to_owned(), path.trim().to_owned());
            reading.routes.push(key.clone());
            return match self.routes.insert(key, RouteShape::default()) {
                None => Ok(()),
                Some(_) => Err("this route stands twice".to_owned()),
            };
        }
        reading.answered = true;
        let (mark, text) = statement.split_once(' ').ok_or("this is no statement")?;
        let shape = self.shape(text)?;
        for key in &reading.routes {
            let route = self.routes.entry(key.clone()).or_default();
            match mark {
                "?" => route.query = Some(shape.clone()),
                "<" => route.body = Some(shape.clone()),
                "<?" => (route.body, route.body_is_optional) = (Some(shape.clone()), true),
                ">" => route.answer = Some(shape.clone()),
                _ => {
                    let status = mark.strip_prefix('>').and_then(|status| status.parse().ok());
                    route.others.push((status.ok_or("this is no statement")?, shape.clone()));
                }
            }
        }
        Ok(())
    }

    fn shape(&self, text: &str) -> Result<Shape, String> {
        let text = text.trim();
        let mut reader = Reader { rest: text, types: &self.types };
        let schema = reader.union()?;
        reader.skip();
        if reader.rest.is_empty() {
            Ok(Shape { schema, text: text.to_owned() })
        } else {
            Err(format!("behind the type stands {:?}", reader.near()))
        }
    }
}

/// Where a file's reading is.
#[derive(Default)]
struct Reading {
    words: Option<String>,
    routes: Vec<(String, String)>,
    /// Something was said of these routes: the next one begins anew.
    answered: bool,
}

/// The statements of a file, each with the lines that belong to it.
fn statements(file: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in file.lines().filter(|line| !line.trim().is_empty()) {
        let is_remark = line.starts_with('#') && !line.starts_with("##");
        let goes_on = line.starts_with([' ', '}', ')', '|']);
        match found.last_mut().filter(|_| goes_on) {
            _ if is_remark => {}
            Some(statement) => {
                statement.push('\n');
                statement.push_str(line);
            }
            None => found.push(line.to_owned()),
        }
    }
    found
}

const TYPES: &str = "#/components/schemas/";

struct Reader<'a> {
    rest: &'a str,
    types: &'a BTreeMap<String, Value>,
}

impl<'a> Reader<'a> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn near(&self) -> String {
        self.rest.chars().take(30).collect()
    }

    /// Takes this mark if it is next.
    fn take(&mut self, mark: &str) -> bool {
        self.skip();
        match self.rest.strip_prefix(mark) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, mark: &str) -> Result<(), String> {
        if self.take(mark) { Ok(()) } else { Err(format!("{mark:?} is missing at {:?}", self.near())) }
    }

    fn word(&mut self) -> Result<&'a str, String> {
        self.skip();
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        if word.is_empty() {
            return Err(format!("a word is missing at {:?}", self.near()));
        }
        self.rest = rest;
        Ok(word)
    }

    fn union(&mut self) -> Result<Value, String> {
        self.take("|");
        let mut members = vec![self.term()?];
        while self.take("|") {
            members.push(self.term()?);
        }
        Ok(one_of(members))
    }

    fn term(&mut self) -> Result<Value, String> {
        let mut schema = self.atom()?;
        while self.take("[]") {
            schema = json!({ "type": "array", "items": schema });
        }
        Ok(schema)
    }

    fn atom(&mut self) -> Result<Value, String> {
        if self.take("(") {
            let schema = self.union()?;
            self.expect(")")?;
            return Ok(schema);
        }
        if self.take("!{") {
            let mut schema = self.object()?;
            schema["additionalProperties"] = json!(false);
            return Ok(schema);
        }
        if self.take("{") {
            return self.object();
        }
        if self.take("[") {
            return self.tuple();
        }
        if self.take("\"") {
            let (text, rest) = self.rest.split_once('"').ok_or("a text does not end")?;
            self.rest = rest;
            return Ok(json!({ "const": text }));
        }
        Ok(match self.word()? {
            "any" => json!({}),
            "time" => json!({ "type": "string", "format": "date-time" }),
            kind @ ("string" | "integer" | "number" | "boolean" | "null" | "object") => {
                json!({ "type": kind })
            }
            name if name.starts_with(|c: char| c.is_ascii_uppercase()) => {
                json!({ "$ref": format!("{TYPES}{name}") })
            }
            other => return Err(format!("there is no type {other}")),
        })
    }

    fn tuple(&mut self) -> Result<Value, String> {
        let mut items = vec![self.union()?];
        while self.take(",") {
            items.push(self.union()?);
        }
        self.expect("]")?;
        let count = items.len();
        Ok(json!({ "type": "array", "prefixItems": items, "minItems": count, "maxItems": count }))
    }

    /// What stands behind the brace.
    fn object(&mut self) -> Result<Value, String> {
        let (mut properties, mut required) = (Map::new(), Vec::<Value>::new());
        let mut more = None;
        while !self.take("}") {
            if self.take("...") {
                self.skip();
                if self.rest.starts_with(|c: char| c.is_ascii_uppercase()) {
                    let name = self.word()?;
                    let from = self.types.get(name).ok_or_else(|| format!("{name} does not stand above"))?;
                    properties.extend(from["properties"].as_object().cloned().unwrap_or_default());
                    required.extend(from["required"].as_array().cloned().unwrap_or_default());
                } else {
                    more = Some(json!(true));
                }
            } else if self.take("*") {
                self.expect(":")?;
                more = Some(self.union()?);
            } else {
                let name = self.word()?;
                let (may_be_absent, may_be_null) = (self.take("?"), self.take("?"));
                self.expect(":")?;
                let mut schema = self.union()?;
                if may_be_null {
                    schema = one_of(vec![schema, json!({ "type": "null" })]);
                }
                properties.insert(name.to_owned(), schema);
                if !may_be_absent {
                    required.push(name.into());
                }
            }
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        let mut schema = json!({ "type": "object" });
        if !properties.is_empty() {
            schema["properties"] = properties.into();
        }
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        if let Some(more) = more {
            schema["additionalProperties"] = more;
        }
        Ok(schema)
    }
}

/// One of these: texts as an enumeration, a kind or null as two kinds, what is neither as `anyOf`.
fn one_of(mut members: Vec<Value>) -> Value {
    if members.len() == 1 {
        return members.remove(0);
    }
    let texts: Vec<Value> = members.iter().filter_map(|member| member.get("const").cloned()).collect();
    if texts.len() > 1 {
        members.retain(|member| member.get("const").is_none());
        members.insert(0, json!({ "type": "string", "enum": texts }));
        return one_of(members);
    }
    let is_null = |member: &Value| *member == json!({ "type": "null" });
    if let [kind, null] = members.as_mut_slice()
        && is_null(&*null)
        && kind.get("enum").is_none()
        && kind["type"].is_string()
    {
        let mut kind = kind.take();
        let name = kind["type"].take();
        kind["type"] = json!([name, "null"]);
        return kind;
    }
    json!({ "anyOf": members })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(text: &str) -> Value {
        let shapes = Shapes::read(&["type Known = { k: integer }\n", &format!("type T = {text}\n")]);
        assert_eq!(shapes.errors, Vec::<String>::new(), "{text}");
        shapes.types["T"].clone()
    }

    #[test]
    fn types_are_what_they_say() {
        for (text, expected) in [
            ("string | null", json!({ "type": ["string", "null"] })),
            (
                "\"a\" | \"b\" | null",
                json!({ "anyOf": [{ "type": "string", "enum": ["a", "b"] }, { "type": "null" }] }),
            ),
            (
                "Known[] | null",
                json!({ "type": ["array", "null"], "items": { "$ref": "#/components/schemas/Known" } }),
            ),
            (
                "Known | null",
                json!({ "anyOf": [{ "$ref": "#/components/schemas/Known" }, { "type": "null" }] }),
            ),
            (
                "{ *: time }",
                json!({ "type": "object", "additionalProperties": { "type": "string", "format": "date-time" } }),
            ),
            (
                "[string, integer]",
                json!({ "type": "array", "prefixItems": [{ "type": "string" }, { "type": "integer" }], "minItems": 2, "maxItems": 2 }),
            ),
            (
                "{ a: any, ... }",
                json!({ "type": "object", "properties": { "a": {} }, "required": ["a"], "additionalProperties": true }),
            ),
            (
                "!{ ...Known, a?: string, b??: Known }",
                json!({
                    "type": "object",
                    "properties": {
                        "k": { "type": "integer" }, "a": { "type": "string" },
                        "b": { "anyOf": [{ "$ref": "#/components/schemas/Known" }, { "type": "null" }] },
                    },
                    "required": ["k"],
                    "additionalProperties": false,
                }),
            ),
        ] {
            assert_eq!(schema(text), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said_with_its_line() {
        for wrong in [
            "type T = strng",
            "type T = { a string }",
            "type T = string x",
            "type T = { ...Later }",
            "nonsense",
            "GET /a\n!! string",
        ] {
            assert_eq!(Shapes::read(&[wrong]).errors.len(), 1, "{wrong}");
        }
        assert_eq!(Shapes::read(&["GET /a\nGET /a\n"]).errors.len(), 1);
    }

    #[test]
    fn routes_in_a_row_share_what_follows() {
        let shapes = Shapes::read(&[
            "GET /a\nPOST /b\n? { x?: string }\n> string\n\nGET /v1/c\n<? { a: time }\n> {\n    b: any,\n  }\n>503 string\n",
        ]);
        assert_eq!(shapes.errors, Vec::<String>::new());
        assert!(shapes.route("POST", "/b").unwrap().query.is_some());
        let route = shapes.route("GET", "/api/v1/c").unwrap();
        assert!(route.body_is_optional && route.query.is_none());
        assert_eq!((route.others.len(), route.others[0].0), (1, 503));
        assert_eq!(route.answer.as_ref().unwrap().text, "{\n    b: any,\n  }");
    }
}

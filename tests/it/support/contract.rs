//! The OpenAPI document, held against what is really sent and answered: every exchange of [`super::sandbox::Client`]
//! passes here, so a test that asks a route in a way or gets an answer that the document does not tell fails.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use jsonschema::Validator;
use serde_json::{Map, Value, json};

static DOCUMENT: LazyLock<Value> = LazyLock::new(flexflow::app::document);
static ANSWERS: LazyLock<Value> = LazyLock::new(|| {
    let mut schemas = DOCUMENT["components"]["schemas"].clone();
    for (name, schema) in schemas.as_object_mut().unwrap() {
        if name != "Error" {
            close(schema);
        }
    }
    schemas
});

/// What is asked.
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    query: Vec<String>,
    body: Option<Value>,
}

impl Asked {
    pub(crate) fn of(request: &reqwest::Request) -> Self {
        let body = request.body().and_then(|body| body.as_bytes());
        Self {
            method: request.method().to_string(),
            path: request.url().path().to_owned(),
            query: request.url().query_pairs().map(|(name, _)| name.into_owned()).collect(),
            body: body.and_then(|body| serde_json::from_slice(body).ok()),
        }
    }
}

/// An answer's content type.
pub(crate) fn kind(answer: &reqwest::Response) -> String {
    let kind = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok());
    kind.unwrap_or_default().to_owned()
}

/// The documented operation that answers this, with its path: the one with the fewest names in its path.
pub(crate) fn operation(method: &str, path: &str) -> Option<(&'static str, &'static Value)> {
    let fits = |pattern: &str| {
        let (pattern, path): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
        pattern.len() == path.len()
            && pattern.iter().zip(&path).all(|(one, other)| one.starts_with('{') || one == other)
    };
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let method = method.to_lowercase();
    let found = paths.iter().filter(|(pattern, routes)| routes.get(&method).is_some() && fits(pattern));
    let found = found.min_by_key(|(pattern, _)| pattern.matches('{').count())?;
    Some((found.0, &found.1[&method]))
}

/// Holds an exchange against the document; `kind` is the answer's content type.
///
/// # Panics
/// The document tells it otherwise.
pub(crate) fn hold(asked: &Asked, status: u16, kind: &str, answer: &str) {
    held(asked, status, kind, answer).unwrap_or_else(|error| panic!("{error}"));
}

/// The same, for a test that gathers what is wrong.
pub(crate) fn held(asked: &Asked, status: u16, kind: &str, answer: &str) -> Result<(), String> {
    let Some((pattern, operation)) = operation(&asked.method, &asked.path) else { return Ok(()) };
    let body: Value = serde_json::from_str(answer).unwrap_or(Value::Null);
    // A role that does not run here, or a method that is none of the path's.
    if status == 405 || answer.contains("nothing is served at") {
        return Ok(());
    }
    let what = format!("{} {pattern}", asked.method);
    let told = operation["responses"]
        .get(status.to_string())
        .ok_or_else(|| format!("{what} answered {status}, which its OpenAPI operation lacks: {answer}"))?;
    let is_json = kind.starts_with("application/json");
    if let Some(schema) = told["content"]["application/json"].get("schema").filter(|_| is_json) {
        let mut schema = schema.clone();
        close(&mut schema);
        let name = format!("{what} > {status}");
        check(&name, &schema, &ANSWERS, &body, "answered what its OpenAPI operation tells otherwise")?;
    }
    let has_rejected = body.get("rejected").is_some_and(|rejected| *rejected != json!([]));
    if status >= 300 || has_rejected {
        return Ok(());
    }
    let parameters = operation["parameters"].as_array().unwrap();
    let known = |name: &String| parameters.iter().any(|one| one["in"] == "query" && one["name"] == **name);
    // Any route takes the environment by the query string.
    let unknown: Vec<_> =
        asked.query.iter().filter(|name| *name != "environment_id" && !known(name)).collect();
    let reads_it = parameters.iter().any(|one| one["in"] == "query");
    if !unknown.is_empty() && reads_it {
        return Err(format!("{what} took {unknown:?}, which its OpenAPI operation lacks"));
    }
    let schema = operation["requestBody"]["content"]["application/json"].get("schema");
    if let (Some(schema), Some(sent)) = (schema, &asked.body) {
        let schemas = &DOCUMENT["components"]["schemas"];
        check(&format!("{what} <"), schema, schemas, sent, "took what its OpenAPI operation refuses")?;
    }
    Ok(())
}

fn check(name: &str, schema: &Value, schemas: &Value, instance: &Value, wrong: &str) -> Result<(), String> {
    static VALIDATORS: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);
    let known = VALIDATORS.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
    let validator = known.unwrap_or_else(|| {
        let mut whole = if schema.is_object() { schema.clone() } else { json!({}) };
        whole["components"] = json!({ "schemas": schemas });
        let options = jsonschema::options().with_draft(jsonschema::Draft::Draft202012);
        let made = options.should_validate_formats(true).build(&whole);
        let made = Arc::new(made.unwrap_or_else(|error| panic!("{name}: {error}")));
        VALIDATORS.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), made.clone());
        made
    });
    let errors: Vec<String> = validator
        .iter_errors(instance)
        .take(5)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    if errors.is_empty() {
        return Ok(());
    }
    Err(format!("{name}: {wrong}:\n{}\n{instance:#}", errors.join("\n")))
}

/// A client takes fields that it does not know; here an answer with one that is not told is a mistake.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.contains_key("properties") && !fields.contains_key("additionalProperties") {
                fields.insert("additionalProperties".to_owned(), json!(false));
            }
            fields.iter_mut().filter(|(name, _)| *name != "properties").for_each(|(_, one)| close(one));
            if let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) {
                properties.values_mut().for_each(close);
            }
        }
        Value::Array(many) => many.iter_mut().for_each(close),
        _ => {}
    }
}

/// A schema, or the one that it names; of several the first that is an object or a list.
pub(crate) fn resolved(schema: &'static Value) -> &'static Value {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/components/schemas/")) {
        return resolved(&DOCUMENT["components"]["schemas"][name]);
    }
    match schema["anyOf"].as_array() {
        Some(many) => many.iter().map(resolved).find(|one| has_fields(one)).unwrap_or(schema),
        None => schema,
    }
}

fn has_fields(schema: &Value) -> bool {
    schema.get("properties").is_some() || schema.get("items").is_some()
}

/// The names of the fields of an object's schema.
pub(crate) fn fields(schema: &Value) -> Map<String, Value> {
    schema["properties"].as_object().cloned().unwrap_or_default()
}

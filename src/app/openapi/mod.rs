//! The contract: every route as an OpenAPI 3.1 document, and as a page that asks nobody else for anything.
//!
//! Who may ask a route stands in `routes`, what it is asked and answers in `shapes/`. The integration tests hold every
//! answer of theirs against it, see `tests/it/support/contract.rs`.

mod page;
mod raw_routes;
mod routes;
mod shape;

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

pub use routes::{Body, Class, Route, routes};

use routes::api_routes;

pub(super) use page::{STYLE, page};

use crate::http::ErrorCode;
use shape::{RouteShape, Shapes};

static SHAPES: LazyLock<Shapes> = LazyLock::new(|| {
    Shapes::read(&[
        include_str!("shapes/process.shapes"),
        include_str!("shapes/auth.shapes"),
        include_str!("shapes/query.shapes"),
        include_str!("shapes/events.shapes"),
        include_str!("shapes/webhooks.shapes"),
        include_str!("shapes/metering.shapes"),
    ])
});

/// What the route is asked and answers, if that is described.
fn shape_of(route: &Route) -> Option<&'static RouteShape> {
    SHAPES.route(route.method, &route.path)
}

/// The document.
pub fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in api_routes() {
        let path = paths.entry(route.path.to_string()).or_insert_with(|| json!({}));
        path[route.method.to_lowercase()] = operation(&route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "FlexFlow",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Product analytics and usage metering. Every answer that is an error has one body; see Error.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
                "bearer": { "type": "http", "scheme": "bearer", "description": "An API key, or a person's access token" },
            },
            "schemas": schemas(),
        },
    })
}

fn schemas() -> Value {
    let mut all: Map<String, Value> =
        SHAPES.types.iter().map(|(name, schema)| (name.clone(), schema.clone())).collect();
    all.insert("Error".to_owned(), error_schema());
    all.into()
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "summary": route.summary,
        "operationId": operation_id(route),
        "tags": [tag(&route.path)],
        "description": format!("Who may: {}.", route.class.as_str()),
        "parameters": parameters(route),
        "responses": responses(route),
    });
    if let Some(body) = body(route) {
        operation["requestBody"] = body;
    }
    if route.class != Class::Anyone {
        operation["security"] = match route.class {
            Class::Person => json!([{ "bearer": [] }]),
            _ => json!([{ "key": [] }, { "bearer": [] }]),
        };
    }
    operation
}

/// `post_api_projects_project_id_members`.
fn operation_id(route: &Route) -> String {
    let words =
        route.path.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    let method = route.method.to_lowercase();
    std::iter::once(method.as_str()).chain(words).collect::<Vec<_>>().join("_")
}

/// What a route is about: the first word behind `/api`.
fn tag(path: &str) -> &str {
    let words = path.trim_start_matches('/').split('/').find(|word| *word != "api");
    words.unwrap_or("api")
}

fn parameters(route: &Route) -> Vec<Value> {
    let in_path = route.path.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(
        |(name, _)| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }),
    );
    let scoped = [
        ("X-Project-ID", "The project that a person of several acts in"),
        ("X-Environment-ID", "The environment; 403 with the valid ones if it is not one of the credential's"),
    ];
    let scoped = scoped.into_iter().filter(|_| !matches!(route.class, Class::Anyone | Class::Person)).map(
        |(name, description)| {
            json!({ "name": name, "in": "header", "schema": { "type": "string" }, "description": description })
        },
    );
    in_path.chain(scoped).chain(in_query(route)).collect()
}

fn in_query(route: &Route) -> Vec<Value> {
    let Some(query) = shape_of(route).and_then(|shape| shape.query.as_ref()) else { return Vec::new() };
    let schema = SHAPES.resolved(&query.schema);
    let required = schema["required"].as_array();
    let of = |(name, schema): (&String, &Value)| {
        let required = required.is_some_and(|required| required.iter().any(|one| one == name));
        json!({ "name": name, "in": "query", "required": required, "schema": schema })
    };
    schema["properties"].as_object().map(|all| all.iter().map(of).collect()).unwrap_or_default()
}

fn body(route: &Route) -> Option<Value> {
    let shape = shape_of(route);
    let is_optional = shape.is_some_and(|shape| shape.body_is_optional);
    let described = shape.and_then(|shape| shape.body.as_ref()).map(|body| body.schema.clone());
    let schema = match (described, route.body) {
        (Some(schema), _) => schema,
        (None, Body::None) => return None,
        (None, Body::Json(description)) => json!({ "description": description }),
        (None, Body::Fields(fields)) => fields_schema(fields),
    };
    Some(json!({ "required": !is_optional, "content": { "application/json": { "schema": schema } } }))
}

/// A body of plain fields; one that need not be there may be null.
fn fields_schema(fields: &str) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for field in fields.split(' ') {
        let (name, kind) = field.split_once(':').unwrap_or((field, "string"));
        if kind.ends_with('!') {
            required.push(name);
        }
        properties.insert(name.to_owned(), kind_schema(kind.trim_end_matches('!')));
    }
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn kind_schema(kind: &str) -> Value {
    match kind.strip_suffix("[]") {
        Some(items) => json!({ "type": "array", "items": { "type": items } }),
        None => json!({ "type": kind }),
    }
}

fn responses(route: &Route) -> Value {
    let shape = shape_of(route);
    let kind = match &*route.path {
        "/metrics" => "text/plain",
        "/api/docs" => "text/html",
        "/api/query/events/live" => "text/event-stream",
        "/api/docs.css" => "text/css",
        _ => "application/json",
    };
    let mut responses = Map::new();
    let mut done = json!({ "description": route.summary });
    if route.status != 204 {
        let schema = shape.and_then(|shape| shape.answer.as_ref()).map(|answer| answer.schema.clone());
        done["content"] = json!({ kind: { "schema": schema.unwrap_or_else(|| json!({})) } });
        if route.method == "POST" && route.path.starts_with("/api/query/") {
            done["content"]["text/csv"] = json!({ "schema": { "type": "string" } });
        }
    }
    responses.insert(route.status.to_string(), done);
    for code in codes(route) {
        let description = format!("code `{}`", code.as_str());
        let schema = json!({ "$ref": "#/components/schemas/Error" });
        let mut answer =
            json!({ "description": description, "content": { "application/json": { "schema": schema } } });
        if matches!(code, ErrorCode::TooManyRequests | ErrorCode::ServiceUnavailable) {
            answer["headers"] = json!({ "Retry-After": { "schema": { "type": "integer" } } });
        }
        responses.insert(code.status().as_u16().to_string(), answer);
    }
    for (status, other) in shape.map(|shape| shape.others.as_slice()).unwrap_or_default() {
        let content = json!({ "application/json": { "schema": other.schema } });
        responses.insert(status.to_string(), json!({ "description": route.summary, "content": content }));
    }
    responses.into()
}

/// Routes that look for what a body or a query string names.
const FINDS: [&str; 7] = [
    "/v1/events/lookup",
    "/v1/events/usage/meter",
    "/v1/meter-usage/query",
    "/v1/events/void",
    "/v1/events/amend",
    "/api/transforms/test",
    "/api/users",
];

/// Every error code that a route can answer.
pub fn codes(route: &Route) -> Vec<ErrorCode> {
    let still = ["/health", "/metrics", "/version", "/api/openapi.json", "/api/docs", "/api/docs.css"];
    if still.contains(&&*route.path) {
        return vec![ErrorCode::InternalError];
    }
    let (has_body, is_open) = (route.body != Body::None, route.class == Class::Anyone);
    let is_login = route.path.starts_with("/api/auth/");
    let finds = FINDS.iter().any(|path| route.path.ends_with(path));
    let can = |code: &ErrorCode| match code {
        ErrorCode::ValidationError | ErrorCode::InternalError | ErrorCode::ServiceUnavailable => true,
        ErrorCode::Unauthorized | ErrorCode::PermissionDenied | ErrorCode::TooManyRequests => {
            !is_open || is_login
        }
        ErrorCode::NotFound => route.path.contains('{') || route.path.starts_with("/api/ops/") || finds,
        ErrorCode::AlreadyExists => {
            let is_kept = ["/api/cohorts", "/api/dashboards"].iter().any(|kept| route.path.starts_with(kept));
            matches!(route.method, "POST" | "PUT" | "PATCH")
                && has_body
                && (is_kept || !matches!(route.class, Class::Query | Class::Ingest))
        }
        ErrorCode::PayloadTooLarge | ErrorCode::UnsupportedMediaType => has_body,
        // The route is there, with this method.
        ErrorCode::MethodNotAllowed => false,
    };
    ErrorCode::ALL.iter().copied().filter(can).collect()
}

fn error_schema() -> Value {
    let codes: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    json!({
        "type": "object",
        "required": ["code", "message", "http_status_code", "request_id", "details", "success", "error"],
        "properties": {
            "code": { "type": "string", "enum": codes },
            "message": { "type": "string" },
            "http_status_code": { "type": "integer" },
            "request_id": { "type": "string", "description": "The same as X-Request-ID" },
            "details": { "type": "object", "description": "field, given, valid, max, …" },
            "success": { "const": false },
            "error": { "type": "object", "description": "message and details once more" },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_a_contract() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&document()).unwrap());
    }

    #[test]
    fn every_body_and_answer_is_described_and_nothing_else_is() {
        assert_eq!(SHAPES.errors, Vec::<String>::new());
        let routes = api_routes();
        let mut wrong = Vec::new();
        for route in &routes {
            let (shape, name) = (shape_of(route), format!("{} {}", route.method, route.path));
            if route.status != 204 && shape.is_none_or(|shape| shape.answer.is_none()) {
                wrong.push(format!("{name}: its answer is missing (`> T` in src/app/openapi/shapes/)"));
            }
            let body = shape.is_some_and(|shape| shape.body.is_some());
            match route.body {
                Body::Json(_) if !body => wrong.push(format!("{name}: its body is missing (`< T`)")),
                Body::None if body => wrong.push(format!("{name}: it takes no body (routes.rs)")),
                Body::Fields(fields) if body => {
                    let schema = SHAPES.resolved(&shape.unwrap().body.as_ref().unwrap().schema);
                    let mut listed = fields_schema(fields)["properties"].as_object().unwrap().clone();
                    listed.retain(|field, _| schema["properties"].get(field).is_none());
                    assert_eq!(listed, Map::new(), "{name}: the row has fields that the shape lacks");
                }
                _ => {}
            }
        }
        for (method, path) in SHAPES.routes.keys() {
            if !routes.iter().any(|route| route.method == method && route.path == *path) {
                wrong.push(format!("{method} {path}: there is no such route"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn every_name_of_a_type_is_one() {
        let document = document();
        let text = document.to_string();
        for name in text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
        for name in SHAPES.types.keys() {
            let is_used = text.contains(&format!("#/components/schemas/{name}\""));
            let is_spread =
                ["Asked", "Counts", "UsageQuestion", "RangeMeta", "FunnelRow", "RuleDefinition", "Manner"];
            assert!(is_used || is_spread.contains(&&**name), "nothing uses the type {name}");
        }
    }

    #[test]
    fn every_route_is_one_operation_with_an_id_of_its_own() {
        let document = document();
        let mut ids = std::collections::BTreeSet::new();
        for route in api_routes() {
            let operation = &document["paths"][&*route.path][route.method.to_lowercase()];
            assert!(operation["responses"][route.status.to_string()].is_object(), "{}", route.path);
            assert!(
                ids.insert(operation["operationId"].to_string()),
                "{} {} stands twice",
                route.method,
                route.path
            );
        }
    }

    #[test]
    fn the_page_names_every_route_and_asks_nobody_else() {
        let page = page();
        for route in api_routes() {
            assert!(page.contains(&format!("<td><code>{}</code></td>", route.path)), "{}", route.path);
        }
        for foreign in ["http://", "https://", "<script", "style=", "//cdn"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }
}

//! The contract: every route as an OpenAPI 3.1 document, and as a page that asks nobody else for anything.

mod page;
mod raw_routes;
mod routes;

use serde_json::{Map, Value, json};

pub use routes::{Body, Class, Route, routes};

use routes::api_routes;

pub(super) use page::{STYLE, page};

use crate::http::ErrorCode;

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
            "schemas": { "Error": error_schema() },
        },
    })
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
    if let Some(body) = body(route.body) {
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
    in_path.chain(scoped).collect()
}

fn body(body: Body) -> Option<Value> {
    let schema = match body {
        Body::None => return None,
        Body::Json(description) => json!({ "description": description }),
        Body::Fields(fields) => {
            let (mut properties, mut required) = (Map::new(), Vec::new());
            for field in fields.split(' ') {
                let (name, kind) = field.split_once(':').unwrap_or((field, "string"));
                if kind.ends_with('!') {
                    required.push(name);
                }
                properties.insert(name.to_owned(), kind_schema(kind.trim_end_matches('!')));
            }
            json!({
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": false,
            })
        }
    };
    Some(json!({ "required": true, "content": { "application/json": { "schema": schema } } }))
}

fn kind_schema(kind: &str) -> Value {
    match kind.strip_suffix("[]") {
        Some(items) => json!({ "type": "array", "items": { "type": items } }),
        None => json!({ "type": kind }),
    }
}

fn responses(route: &Route) -> Value {
    let content = match &*route.path {
        "/metrics" => "text/plain",
        "/api/docs" => "text/html",
        "/api/query/events/live" => "text/event-stream",
        "/api/docs.css" => "text/css",
        _ => "application/json",
    };
    let mut responses = Map::new();
    let done = json!({ "description": route.summary, "content": { content: { "schema": {} } } });
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
    responses.into()
}

/// Every error code that a route can answer.
pub fn codes(route: &Route) -> Vec<ErrorCode> {
    let still = ["/health", "/metrics", "/version", "/api/openapi.json", "/api/docs", "/api/docs.css"];
    if still.contains(&&*route.path) {
        return vec![ErrorCode::InternalError];
    }
    let (has_body, is_open) = (route.body != Body::None, route.class == Class::Anyone);
    let is_login = route.path.starts_with("/api/auth/");
    let can = |code: &ErrorCode| match code {
        ErrorCode::ValidationError | ErrorCode::InternalError | ErrorCode::ServiceUnavailable => true,
        ErrorCode::Unauthorized | ErrorCode::PermissionDenied | ErrorCode::TooManyRequests => {
            !is_open || is_login
        }
        ErrorCode::NotFound => route.path.contains('{') || route.path.starts_with("/api/ops/"),
        ErrorCode::AlreadyExists => {
            matches!(route.method, "POST" | "PUT" | "PATCH")
                && has_body
                && !matches!(route.class, Class::Query | Class::Ingest)
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

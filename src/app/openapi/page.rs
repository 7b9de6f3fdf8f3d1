//! The contract as a page: plain HTML, made here, that loads nothing but its own style.

use super::routes::Body;
use super::{api_routes, codes, shape_of};

/// How it looks; served beside it, so that a strict content security policy lets it through.
pub(in crate::app) const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#1b1f24}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.35rem .6rem;border-bottom:1px solid #d0d7de}
code{font:13px/1.5 ui-monospace,monospace}
small{color:#57606a}
";

/// The page.
pub(in crate::app) fn page() -> String {
    let mut rows = String::new();
    for route in api_routes() {
        let codes: Vec<&str> = codes(&route).iter().map(|code| code.as_str()).collect();
        let shape = shape_of(&route);
        let part =
            |what: &str, text: &str| format!("<br><small>{what}: <code>{}</code></small>", escaped(text));
        let mut body = match (shape.and_then(|shape| shape.body.as_ref()), route.body) {
            (Some(shape), _) => part("body", &shape.text),
            (None, Body::Fields(fields)) => part("body", fields),
            (None, _) => String::new(),
        };
        if let Some(query) = shape.and_then(|shape| shape.query.as_ref()) {
            body = part("query string", &query.text) + &body;
        }
        if let Some(answer) = shape.and_then(|shape| shape.answer.as_ref()) {
            body += &part("answer", &answer.text);
        }
        rows += &format!(
            "<tr><td><code>{}</code></td><td><code>{}</code></td><td>{}{body}<br><small>{}: {}</small></td><td>{}</td></tr>\n",
            route.method,
            escaped(&route.path),
            escaped(route.summary),
            route.status,
            codes.join(", "),
            escaped(route.class.as_str()),
        );
    }
    format!(
        "<!DOCTYPE html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><title>FlexFlow's routes</title>
<meta name=\"viewport\" content=\"width=device-width\"><link rel=\"stylesheet\" href=\"/api/docs.css\"></head><body>
<h1>FlexFlow's routes</h1>
<p>For programs: <a href=\"/api/openapi.json\">/api/openapi.json</a>. An API key is sent as <code>X-API-Key</code> or
<code>Authorization: Bearer</code>, a person's access token as <code>Authorization: Bearer</code>. In a body,
<code>!</code> stands behind what is required; behind the status stand the codes of the errors there may be.</p>
<table><thead><tr><th>Method</th><th>Path</th><th>What</th><th>Who may</th></tr></thead><tbody>
{rows}</tbody></table></body></html>
"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

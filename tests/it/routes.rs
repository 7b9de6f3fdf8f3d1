//! One list of routes (`app::routes`), held against the sources, against a running process, and tried with every
//! credential.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use flexflow::app::{Body, Class, Options, Role, Route, routes};
use flexflow::event::{Clock, SystemClock};
use serde_json::{Value, json};

use crate::support::contract::{self, Asked};
use crate::support::eventually;
use crate::support::sandbox::{Client, Sandbox};

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// `/a/{id}/b` as `/a/{}/b`.
fn nameless(path: &str) -> String {
    let mut parts = path.split('{');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |path, part| path + "{}" + part.split_once('}').map_or(part, |(_, rest)| rest))
}

/// A path that a request can be sent to.
fn concrete(route: &Route, project: &str) -> String {
    let path = route.path.replace("{project_id}", project);
    nameless(&path).replace("{}", "nothing-has-this-id")
}

/// Is this path one of that pattern?
fn fits(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    pattern.len() == path.len() && pattern.iter().zip(&path).all(|(one, other)| *one == "{}" || one == other)
}

/// Texts in the sources of routes that look like a path or the end of one.
fn mounted_in_the_sources() -> BTreeSet<(String, String)> {
    fn walk(dir: &Path, found: &mut BTreeSet<(String, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
                continue;
            }
            let name = path.display().to_string();
            let is_routes = name.ends_with("/http.rs") || name.contains("/http/");
            if !is_routes || name.contains("/src/http/") || name.ends_with("tests.rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for call in [
                "resource(\"",
                ".route(\"",
                "at(\"",
                "format!(\"{base}",
                "for path in [\"",
                ", \"/v1",
                ", \"/api/",
            ] {
                let kept = call.rsplit('"').next().unwrap_or_default().trim_start_matches("{base}");
                for rest in code.split(call).skip(1) {
                    let literal = format!("{kept}{}", rest.split('"').next().unwrap_or_default());
                    let is_base = ["/v1", "/api/v1"].contains(&literal.as_str());
                    if literal.starts_with('/') && !literal.contains(' ') && !is_base {
                        found.insert((name.clone(), literal.replace("{{", "{").replace("}}", "}")));
                    }
                }
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found
}

#[test]
fn every_route_that_the_sources_mount_is_in_the_list() {
    let listed: Vec<String> = routes().iter().map(|route| nameless(&route.path)).collect();
    let mounted = mounted_in_the_sources();
    assert!(mounted.len() > 60, "the routes are not found in the sources any more: {mounted:?}");
    let missing: Vec<String> = mounted
        .iter()
        .filter(|(_, literal)| !listed.iter().any(|path| path.ends_with(&nameless(literal))))
        .map(|(file, literal)| format!("{literal} (mounted in {file})"))
        .collect();
    assert!(
        missing.is_empty(),
        "routes without an entry: add a row to ROWS or VERSIONED in src/app/openapi/routes.rs (it makes the OpenAPI document and says who may):\n{}",
        missing.join("\n")
    );
}

fn send(client: &Client, method: &str, path: &str) -> reqwest::RequestBuilder {
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    client.http.request(method, format!("{}{path}", client.url))
}

/// The body; a stream has no end.
async fn text_of(answer: reqwest::Response) -> String {
    let is_stream = answer.headers().get("content-type").is_some_and(|kind| kind == "text/event-stream");
    if is_stream { String::new() } else { answer.text().await.unwrap_or_default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_of_the_list_is_mounted_with_its_methods_and_no_others() {
    let sandbox = Sandbox::start().await;
    let (list, client) = (routes(), &sandbox.client);
    let paths: BTreeSet<String> = list.iter().map(|route| nameless(&route.path)).collect();
    let mut wrong = Vec::new();
    for path in paths {
        for method in METHODS {
            let of_method = || list.iter().filter(|route| route.method == method);
            let listed = of_method().any(|route| nameless(&route.path) == path);
            // `GET /v1/events/bulk` asks for the event "bulk".
            let covered = of_method().any(|route| fits(&nameless(&route.path), &path));
            let sent = path.replace("{}", "nothing-has-this-id");
            let answer = send(client, method, &sent).send().await.unwrap();
            let (status, body) = (answer.status().as_u16(), answer.text().await.unwrap_or_default());
            let mounted = status != 405 && !body.contains("nothing is served at");
            if (listed && !mounted) || (mounted && !covered) {
                wrong.push(format!("{method} {path}: listed {listed}, mounted {mounted} ({status})"));
            }
        }
    }
    assert!(wrong.is_empty(), "src/app/openapi/routes.rs and the routes differ:\n{}", wrong.join("\n"));

    let (status, document) = client.get("/api/openapi.json").await;
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    let page = send(client, "GET", "/api/docs").send().await.unwrap();
    assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    assert!(page.text().await.unwrap().contains("/api/query/trends"));
    sandbox.stop().await;
}

/// Who asks: no credential; garbage; an unknown, a revoked, an expired key; keys with scope ingest, query, admin; that
/// admin key naming another environment; an admin key of another project; a person who is no member; a viewer, an
/// editor, an owner; the operator.
const CREDENTIALS: usize = 15;
/// Let through: what comes then is the handler's business (400 for an empty body, 404 for an id that nothing has).
const OK: u16 = 0;

/// What each is answered.
fn expected(class: Class) -> [u16; CREDENTIALS] {
    match class {
        Class::Anyone | Class::Page => [OK; CREDENTIALS],
        Class::Ingest => [401, 401, 401, 401, 401, OK, 403, 403, 403, OK, 403, 403, OK, OK, OK],
        Class::Query => [401, 401, 401, 401, 401, 403, OK, 403, 403, OK, 403, OK, OK, OK, OK],
        Class::Admin => [401, 401, 401, 401, 401, 403, 403, OK, 403, OK, 403, 403, 403, OK, OK],
        Class::Credential => [401, 401, 401, 401, 401, OK, OK, OK, OK, OK, 403, OK, OK, OK, OK],
        Class::Member => [401, 401, 401, 401, 401, 403, 403, OK, 403, 403, 403, OK, OK, OK, OK],
        Class::Manager => [401, 401, 401, 401, 401, 403, 403, OK, 403, 403, 403, 403, 403, OK, OK],
        Class::Lists => [401, 401, 401, 401, 401, 403, 403, OK, 403, OK, OK, OK, OK, OK, OK],
        Class::Operator => [401, 401, 401, 401, 401, 403, 403, 403, 403, 403, 403, 403, 403, 403, OK],
        Class::Person => [401, 401, 401, 401, 401, 403, 403, 403, 403, 403, OK, OK, OK, OK, 403],
    }
}

/// An application with everybody who tries.
struct Cast {
    sandbox: Sandbox,
    project: String,
    environments: Vec<String>,
}

impl Cast {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let mut all = vec![
            ("auth.password_memory", "1 MiB"),
            ("auth.password_passes", "1"),
            ("auth.registration", "open"),
        ];
        all.extend_from_slice(settings);
        let sandbox = Sandbox::build(tempfile::tempdir().unwrap(), Role::ALL, &all, Options::default()).await;
        let project = sandbox.running.first_run().unwrap().project_id;
        let (_, found) = sandbox.client.operator_get(&format!("/api/projects/{project}/environments")).await;
        let found = found["environments"].as_array().unwrap().iter();
        let environments = found.map(|one| one["id"].as_str().unwrap().to_owned()).collect();
        Self { sandbox, project, environments }
    }

    async fn make(&self, path: &str, body: Value) -> Value {
        let (status, made) = self.sandbox.client.operator_post(path, &body).await;
        assert_eq!(status, 201, "{path}: {made}");
        made
    }

    async fn key(
        &self,
        project: &str,
        environment: &str,
        scopes: &[&str],
        expires_at: Option<String>,
    ) -> Value {
        let body = json!({ "environment_id": environment, "scopes": scopes, "expires_at": expires_at });
        self.make(&format!("/api/projects/{project}/api-keys"), body).await
    }

    async fn person(&self, name: &str, role: Option<&str>) -> String {
        let (email, password) = (format!("{name}@example.com"), "correct horse battery");
        let mut body = json!({ "email": email, "password": password });
        if let Some(role) = role {
            (body["project_id"], body["role"]) = (json!(self.project), json!(role));
        }
        self.make("/api/users", body).await;
        let login = send(&self.sandbox.client, "POST", "/api/auth/login");
        let answer = login.json(&json!({ "email": email, "password": password })).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// Everybody of [`CREDENTIALS`], as header and value, and the environment that is named.
    async fn everybody(&self) -> Vec<(&'static str, Option<String>, Option<String>)> {
        let (own, other) = (&self.environments[0], &self.environments[1]);
        let text = |key: &Value| Some(key["api_key"].as_str().unwrap().to_owned());
        let all = ["ingest", "query", "admin"];
        let soon = SystemClock.now().plus(Duration::from_millis(500)).to_string();
        let expired = text(&self.key(&self.project, own, &all, Some(soon)).await);
        let revoked = self.key(&self.project, own, &all, None).await;
        let path = format!("/api/projects/{}/api-keys/{}", self.project, revoked["id"].as_str().unwrap());
        let client = &self.sandbox.client;
        let gone = send(client, "DELETE", &path).bearer_auth(&client.operator_token).send().await.unwrap();
        assert_eq!(gone.status(), 200);
        let theirs = self.make("/api/projects", json!({ "name": "theirs" })).await;
        let (project, environment) =
            (theirs["id"].as_str().unwrap(), theirs["environments"][0]["id"].as_str().unwrap());
        let theirs = text(&self.key(project, environment, &all, None).await);
        let mut keys = Vec::new();
        for scope in all {
            keys.push(text(&self.key(&self.project, own, &[scope], None).await));
        }
        eventually("the key expires", || async {
            let key = expired.clone().unwrap();
            let answer = send(client, "GET", "/api/environments").bearer_auth(key).send().await.unwrap();
            if answer.status() == 401 { Ok(()) } else { Err(answer.status().to_string()) }
        })
        .await;
        vec![
            ("no credential", None, None),
            ("garbage", Some("garbage".to_owned()), None),
            ("unknown", Some(format!("ff_{}", "0".repeat(43))), None),
            ("revoked", text(&revoked), None),
            ("expired", expired, None),
            ("ingest", keys[0].clone(), None),
            ("query", keys[1].clone(), None),
            ("admin", keys[2].clone(), None),
            ("admin, another environment", keys[2].clone(), Some(other.clone())),
            ("another project's admin", theirs, None),
            ("stranger", Some(self.person("stranger", None).await), None),
            ("viewer", Some(self.person("viewer", Some("viewer")).await), None),
            ("editor", Some(self.person("editor", Some("editor")).await), None),
            ("owner", Some(self.person("owner", Some("owner")).await), None),
            ("operator", Some(client.operator_token.clone()), None),
        ]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_every_credential_as_the_table_says() {
    let cast = Cast::start(&[]).await;
    let everybody = cast.everybody().await;
    let mut list = routes();
    // Ends the sessions that the others need.
    list.sort_by_key(|route| &*route.path == "/api/auth/logout");
    let mut wrong = Vec::new();
    for route in &list {
        let path = concrete(route, &cast.project);
        for ((who, credential, environment), expected) in everybody.iter().zip(expected(route.class)) {
            // Where anybody may register, anybody who is logged in may make a project.
            let expected = match (route.method, &*route.path, *who) {
                ("POST", "/api/projects", "stranger" | "viewer" | "editor" | "owner") => OK,
                _ => expected,
            };
            let mut request = send(&cast.sandbox.client, route.method, &path);
            if let Some(credential) = credential {
                request = request.bearer_auth(credential);
            }
            if let Some(environment) = environment {
                request = request.header("X-Environment-ID", environment);
            }
            if route.body != Body::None {
                request = request.json(&json!({}));
            }
            let (client, request) = request.build_split();
            let request = request.unwrap();
            let asked = Asked::of(&request);
            let answer = client.execute(request).await.unwrap();
            let (status, kind) = (answer.status().as_u16(), contract::kind(&answer));
            let body = text_of(answer).await;
            contract::hold(&asked, status, &kind, &body);
            let let_through = !matches!(status, 401 | 403 | 405 | 500);
            let right = if expected == OK {
                let_through || matches!(route.class, Class::Anyone | Class::Page)
            } else {
                status == expected
            };
            if !right {
                wrong.push(format!("{} {path} with {who}: {status}, not {expected}: {body}", route.method));
            }
        }
    }
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    cast.sandbox.stop().await;
}

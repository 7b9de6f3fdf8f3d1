//! Keys and scope over the real application: who is let in where, and what stops at once.

use std::collections::BTreeMap;
use std::time::Duration;

use flexflow::app::{Options, Role};
use flexflow::event::{Clock, SystemClock};
use serde_json::{Value, json};

use crate::support::sandbox::{Client, Sandbox};
use crate::support::{Log, eventually, on_every_log};

on_every_log! {
    events_of_one_environment_are_not_answered_to_another
}

/// No engine is needed to decide who may do what.
const ROLES: [Role; 2] = [Role::Capture, Role::Auth];

async fn sandbox(settings: &[(&str, &str)]) -> Sandbox {
    Sandbox::build(tempfile::tempdir().unwrap(), &ROLES, settings, Options::default()).await
}

struct Installation {
    sandbox: Sandbox,
    project: String,
    /// By name.
    environments: BTreeMap<String, String>,
}

impl Installation {
    async fn of(sandbox: Sandbox) -> Self {
        let (status, projects) = sandbox.client.operator_get("/api/projects").await;
        assert_eq!(status, 200, "{projects}");
        assert_eq!(projects["projects"].as_array().unwrap().len(), 1);
        let project = projects["projects"][0]["id"].as_str().unwrap().to_owned();
        let (_, found) = sandbox.client.operator_get(&format!("/api/projects/{project}/environments")).await;
        let environments = found["environments"].as_array().unwrap().iter();
        let environments = environments.map(|one| (text(&one["name"]), text(&one["id"]))).collect();
        Self { sandbox, project, environments }
    }

    fn client(&self) -> &Client {
        &self.sandbox.client
    }

    /// A new key, as the operator makes it.
    async fn key(&self, environment: &str, scopes: &[&str], expires_at: Option<String>) -> Value {
        let path = format!("/api/projects/{}/api-keys", self.project);
        let mut body = json!({ "environment_id": self.environments[environment], "scopes": scopes });
        if let Some(at) = expires_at {
            body["expires_at"] = json!(at);
        }
        let (status, made) = self.client().operator_post(&path, &body).await;
        assert_eq!(status, 201, "{made}");
        made
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        environment: Option<&str>,
    ) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let post = method == reqwest::Method::POST;
        let mut request = self.client().http.request(method, format!("{}{path}", self.client().url));
        if let Some(key) = key {
            request = request.header("X-API-Key", key);
        }
        if let Some(environment) = environment {
            request = request.header("X-Environment-ID", environment);
        }
        if post {
            request = request.json(&json!({ "event": "opened", "distinct_id": "ann" }));
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
    }

    /// The value of a metric, summed over its labels.
    async fn metric(&self, name: &str) -> f64 {
        let answer = self.client().http.get(format!("{}/metrics", self.client().url)).send().await.unwrap();
        let text = answer.text().await.unwrap();
        let samples = text.lines().filter(|line| line.starts_with(name));
        samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_credential_is_answered_on_every_route_as_the_table_says() {
    let installation = Installation::of(sandbox(&[]).await).await;
    let soon = SystemClock.now().plus(Duration::from_millis(500)).to_string();
    let expired =
        text(&installation.key("production", &["ingest", "query", "admin"], Some(soon)).await["api_key"]);
    let revoked = installation.key("production", &["ingest", "query", "admin"], None).await;
    let path = format!("/api/projects/{}/api-keys/{}", installation.project, text(&revoked["id"]));
    let client = installation.client();
    let request = client.http.delete(format!("{}{path}", client.url)).bearer_auth(&client.operator_token);
    assert_eq!(request.send().await.unwrap().status(), 200);
    eventually("the key expires", || async {
        match installation.send("POST", "/capture", Some(&expired), None).await {
            (401, _) => Ok(()),
            (status, _) => Err(status.to_string()),
        }
    })
    .await;

    let ingest = text(&installation.key("production", &["ingest"], None).await["api_key"]);
    let query = text(&installation.key("production", &["query"], None).await["api_key"]);
    let admin = text(&installation.key("production", &["admin"], None).await["api_key"]);
    let (revoked, development) = (text(&revoked["api_key"]), &*installation.environments["development"]);
    let unknown = format!("ff_{}", "0".repeat(43));
    let credentials: [(&str, Option<&str>, Option<&str>); 9] = [
        ("no key", None, None),
        ("garbage", Some("garbage"), None),
        ("unknown", Some(&unknown), None),
        ("revoked", Some(&revoked), None),
        ("expired", Some(&expired), None),
        ("ingest", Some(&ingest), None),
        ("query", Some(&query), None),
        ("admin", Some(&admin), None),
        ("another environment", Some(&admin), Some(development)),
    ];
    let project = format!("/api/projects/{}", installation.project);
    let table: [(&str, String, [u16; 9]); 10] = [
        ("POST", "/capture".to_owned(), [401, 401, 401, 401, 401, 202, 403, 403, 403]),
        ("POST", "/capture/batch".to_owned(), [401, 401, 401, 401, 401, 202, 403, 403, 403]),
        ("GET", "/api/environments".to_owned(), [401, 401, 401, 401, 401, 200, 200, 200, 200]),
        ("GET", "/api/projects".to_owned(), [401, 401, 401, 401, 401, 403, 403, 200, 403]),
        ("GET", project.clone(), [401, 401, 401, 401, 401, 403, 403, 200, 403]),
        ("GET", format!("{project}/environments"), [401, 401, 401, 401, 401, 403, 403, 200, 403]),
        ("GET", format!("{project}/api-keys"), [401, 401, 401, 401, 401, 403, 403, 200, 403]),
        ("DELETE", format!("{project}/api-keys/key_x"), [401, 401, 401, 401, 401, 403, 403, 404, 403]),
        ("GET", "/api/ops/topics".to_owned(), [401, 401, 401, 401, 401, 403, 403, 200, 403]),
        ("GET", "/health".to_owned(), [200, 200, 200, 200, 200, 200, 200, 200, 200]),
    ];
    for (method, path, expected) in &table {
        for ((name, key, environment), expected) in credentials.iter().zip(expected) {
            let (status, answer) = installation.send(method, path, *key, *environment).await;
            assert_eq!(status, *expected, "{method} {path} with {name}: {answer}");
            let code = match expected {
                401 => "unauthorized",
                403 => "permission_denied",
                404 => "not_found",
                _ => continue,
            };
            assert_eq!(answer["code"], code, "{method} {path} with {name}: {answer}");
            assert!(!answer["request_id"].as_str().unwrap().is_empty(), "{answer}");
        }
    }
    installation.sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_environment_is_counted_and_answered_with_the_valid_one() {
    let installation = Installation::of(sandbox(&[]).await).await;
    let client = installation.client();
    let before = installation.metric("auth_environment_mismatch_total").await;
    let (status, answer) = installation.send("POST", "/capture", Some(&client.key), Some("env_stale")).await;
    assert_eq!((status, &answer["code"]), (403, &json!("permission_denied")));
    let valid = json!([{ "id": installation.environments["production"], "name": "production" }]);
    assert_eq!(answer["details"], json!({ "given": "env_stale", "valid": valid }));
    let after = installation.metric("auth_environment_mismatch_total").await;
    assert!(after >= before + 1.0, "{before} then {after}");
    assert!(installation.metric("auth_requests_total").await > 0.0);
    let (status, listed) =
        installation.send("GET", "/api/environments", Some(&client.key), Some("env_stale")).await;
    assert_eq!((status, &listed["environments"]), (200, &valid));
    installation.sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_events_go_to_the_default_project_where_that_is_allowed() {
    let installation = Installation::of(sandbox(&[("capture.require_api_key", "false")]).await).await;
    let send = async |key: Option<&str>| installation.send("POST", "/capture", key, None).await.0;
    assert_eq!(send(None).await, 202);
    assert_eq!(send(Some(&installation.client().key)).await, 202);
    assert_eq!(send(Some("wrong")).await, 401);
    assert_eq!(send(Some("")).await, 401);
    let (status, answer) =
        installation.send("POST", "/capture", None, Some(&installation.environments["development"])).await;
    assert_eq!((status, &answer["code"]), (403, &json!("permission_denied")));
    installation.sandbox.stop().await;
}

/// The key is "password".
const STATIC_KEY: &str = "[{ sha256 = \"5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8\", project_id = \"shop/eu\", environment_id = \"live\", scopes = [\"ingest\", \"query\", \"admin\"] }]";

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_the_configuration_names_is_one_like_others_and_is_not_deleted() {
    let sandbox = sandbox(&[("auth.static_keys", STATIC_KEY)]).await;
    let client = sandbox.client.clone();
    let own = Client { key: "password".to_owned(), ..client.clone() };
    let (_, all) = client.operator_get("/api/projects").await;
    let all = all["projects"].as_array().unwrap();
    assert_eq!(all.iter().map(|one| &one["origin"]).collect::<Vec<_>>(), ["made", "configuration"]);
    let (status, found) = own.get("/api/projects").await;
    assert_eq!((status, &found["projects"][0]), (200, &all[1]), "its own key sees it, and no other");
    assert_eq!(found["projects"].as_array().unwrap().len(), 1);
    let path = "/api/projects/shop%2Feu";
    let (status, environments) = own.get(&format!("{path}/environments")).await;
    assert_eq!((status, &environments["environments"][0]["id"]), (200, &json!("live")), "{environments}");
    let (_, valid) = own.get("/api/environments").await;
    assert_eq!(valid["environments"], json!([{ "id": "live", "name": "live" }]));

    // What belongs to it refers to its row; so does a key of the ordinary kind, and a member.
    let (status, made) = own.post("/api/webhooks", &json!({ "url": "https://hooks.example.com/" })).await;
    assert_eq!(status, 201, "{made}");
    let key = json!({ "environment_id": "live", "scopes": ["ingest"] });
    let (status, made) = client.operator_post(&format!("{path}/api-keys"), &key).await;
    assert_eq!(status, 201, "{made}");
    let second = Client { key: text(&made["api_key"]), ..client.clone() };
    assert_eq!(second.capture(&json!({ "event": "opened", "distinct_id": "ann" })).await.0, 202);

    let send = async |method: reqwest::Method, body: Value| {
        let request = client.http.request(method, format!("{}{path}", client.url)).json(&body);
        let answer = request.bearer_auth(&client.operator_token).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let change = json!({ "name": "shop", "time_zone": "Europe/Berlin" });
    let (status, changed) = send(reqwest::Method::PATCH, change).await;
    assert_eq!((status, &changed["time_zone"]), (200, &json!("Europe/Berlin")), "{changed}");
    let (status, refused) = send(reqwest::Method::DELETE, json!({})).await;
    assert_eq!((status, &refused["code"]), (400, &json!("validation_error")), "{refused}");
    assert!(text(&refused["message"]).contains("auth.static_keys"), "{refused}");

    // Taken out of the configuration it stays, and can be deleted: with its last key, which is an ordinary one.
    let sandbox = sandbox.restart_as(&ROLES, &[]).await;
    let client = sandbox.client.clone();
    let (_, all) = client.operator_get("/api/projects").await;
    assert_eq!(all["projects"][1]["name"], "shop", "{all}");
    let gone = client.http.delete(format!("{}{path}", client.url)).bearer_auth(&client.operator_token);
    assert_eq!(gone.send().await.unwrap().status(), 200);
    let second = Client { key: second.key, ..client.clone() };
    assert_eq!(second.capture(&json!({ "event": "opened", "distinct_id": "ann" })).await.0, 401);
    // Named again it is not brought back; its keys go on, and the doctor says so.
    let sandbox = sandbox.restart_as(&ROLES, &[("auth.static_keys", STATIC_KEY)]).await;
    let own = Client { key: "password".to_owned(), ..sandbox.client.clone() };
    assert_eq!(own.capture(&json!({ "event": "opened", "distinct_id": "ann" })).await.0, 202);
    let (_, all) = sandbox.client.operator_get("/api/projects").await;
    assert_eq!(all["projects"].as_array().unwrap().len(), 1);
    let (_, doctor) = sandbox.client.operator_get("/api/ops/doctor").await;
    let finding =
        doctor["findings"].as_array().unwrap().iter().find(|one| one["name"] == "configured_projects");
    assert_eq!(finding.unwrap()["ok"], false, "{doctor}");
    assert!(text(&finding.unwrap()["message"]).contains("shop/eu"), "{doctor}");
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_made_after_the_start_are_filled_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data").display().to_string();
    let settings = [
        ("data_dir", data_dir.as_str()),
        ("server.listen", "127.0.0.1:0"),
        ("server.migrate_on_start", "false"),
        ("auth.static_keys", STATIC_KEY),
    ];
    rustls::crypto::ring::default_provider().install_default().ok();
    let config = flexflow::config::Config::from_overrides(&settings).unwrap();
    let running = Box::pin(flexflow::app::App::start(config, &ROLES, Options::default())).await.unwrap();
    assert!(running.first_run().is_none(), "nothing was made");
    let (http, token) = (reqwest::Client::new(), running.operator_token().to_owned());
    let made = http.post(format!("{}/api/ops/migrate", running.url())).bearer_auth(&token);
    assert_eq!(made.send().await.unwrap().status(), 200);
    eventually("the first project is made, and the one that the configuration names", || async {
        let all = http.get(format!("{}/api/projects", running.url())).bearer_auth(&token);
        let all: Value =
            all.send().await.map_err(|e| e.to_string())?.json().await.map_err(|e| e.to_string())?;
        let origins = all["projects"].as_array().into_iter().flatten().map(|one| one["origin"].clone());
        let there = origins.collect::<Vec<_>>() == ["made", "configuration"] && running.first_run().is_some();
        if there { Ok(()) } else { Err(all.to_string()) }
    })
    .await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_first_project_and_its_key() {
    let installation = Installation::of(sandbox(&[]).await).await;
    let file = installation.sandbox.data_dir().join("first-run.json");
    let first: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(first["project_id"], json!(installation.project));
    assert_eq!(first["environment_id"], json!(installation.environments["production"]));
    let key = text(&first["api_key"]);
    assert_eq!(installation.send("POST", "/capture", Some(&key), None).await.0, 202);
    let mode = |path: &std::path::Path| {
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions()) & 0o777
    };
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(&installation.sandbox.data_dir().join("meta.sqlite")), 0o600);

    let project = installation.project.clone();
    let again = Installation::of(installation.sandbox.restart(&[]).await).await;
    assert_eq!(again.project, project);
    assert_eq!(again.send("POST", "/capture", Some(&key), None).await.0, 202);
    let (_, keys) = again.client().operator_get(&format!("/api/projects/{project}/api-keys")).await;
    assert_eq!(keys["api_keys"].as_array().unwrap().len(), 1);
    assert!(keys["api_keys"][0]["last_used_at"].is_string(), "the use was written at the stop: {keys}");
    again.sandbox.stop().await;
}

async fn events_of_one_environment_are_not_answered_to_another(log: Log) {
    let sandbox = Sandbox::on_with(log, &[("query.require_api_key", "false")]).await;
    let installation = Installation::of(sandbox).await;
    let development = installation.key("development", &["ingest", "query"], None).await;
    let development = Client { key: text(&development["api_key"]), ..installation.client().clone() };
    let production = installation.client();
    production.accept(&json!({ "event": "bought", "distinct_id": "ann", "event_id": "same" })).await;
    development.accept(&json!({ "event": "tried", "distinct_id": "ann", "event_id": "same" })).await;
    for (client, event) in [(production, "bought"), (&development, "tried")] {
        let events = client.settled(1).await;
        assert_eq!(
            events[0]["event"].as_str().or(events[0]["event_name"].as_str()),
            Some(event),
            "{events:?}"
        );
    }
    // Without a key it is the default project's production; a wrong one is no key at all.
    let list = "/api/query/events";
    let (status, anonymous) = installation.send("GET", list, None, None).await;
    assert_eq!((status, &anonymous["events"][0]["event"]), (200, &json!("bought")), "{anonymous}");
    assert_eq!(installation.send("GET", list, Some("wrong"), None).await.0, 401);
    assert_eq!(installation.send("POST", "/capture", None, None).await.0, 401, "capture asks for one");
    let stale = installation.send("GET", list, None, Some(&installation.environments["development"])).await;
    assert_eq!(stale.0, 403, "{}", stale.1);
    installation.sandbox.stop().await;
}

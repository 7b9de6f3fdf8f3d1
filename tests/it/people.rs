//! People over the real application: first start, login, refresh, roles, invitations, and what ends at once.

use flexflow::app::{Options, Role};
use serde_json::{Value, json};

use crate::support::postgres::Postgres;
use crate::support::sandbox::{Client, Sandbox};

const PASSWORD: &str = "correct horse battery";

/// Runs a test on SQLite and on PostgreSQL.
async fn sandbox(on_postgres: bool, settings: &[(&str, &str)]) -> Sandbox {
    let url = if on_postgres { Postgres::shared().database().await } else { String::new() };
    let mut all =
        vec![("auth.password_memory", "1 MiB"), ("auth.password_passes", "1"), ("meta.url", url.as_str())];
    all.extend_from_slice(settings);
    let roles = [Role::Capture, Role::Auth];
    Sandbox::build(tempfile::tempdir().unwrap(), &roles, &all, Options::default()).await
}

async fn ask(
    client: &Client,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<Value>,
) -> (u16, Value) {
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = client.http.request(method, format!("{}{path}", client.url));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
}

async fn post(client: &Client, path: &str, token: Option<&str>, body: Value) -> (u16, Value) {
    ask(client, "POST", path, token, Some(body)).await
}

async fn login(client: &Client, email: &str, password: &str) -> (u16, Value) {
    post(client, "/api/auth/login", None, json!({ "email": email, "password": password })).await
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

async fn the_first_administrator_logs_in_and_stays_logged_in(on_postgres: bool) {
    let sandbox = sandbox(on_postgres, &[]).await;
    let client = &sandbox.client;
    let first: Value =
        serde_json::from_slice(&std::fs::read(sandbox.data_dir().join("first-run.json")).unwrap()).unwrap();
    let (status, pair) = login(client, "Admin@LocalHost", &text(&first["password"])).await;
    assert_eq!(status, 200, "{pair}");
    let (access, refresh) = (text(&pair["access_token"]), text(&pair["refresh_token"]));
    let (status, me) = ask(client, "GET", "/api/auth/me", Some(&access), None).await;
    assert_eq!((status, &me["user"]["is_admin"]), (200, &json!(true)), "{me}");
    assert_eq!(me["projects"][0]["role"], "owner");
    assert_eq!(me["projects"][0]["environments"].as_array().unwrap().len(), 2);
    // An administrator acts everywhere, as the operator does.
    assert_eq!(ask(client, "GET", "/api/users", Some(&access), None).await.0, 200);

    let (status, next) = post(client, "/api/auth/refresh", None, json!({ "refresh_token": refresh })).await;
    assert_eq!(status, 200, "{next}");
    let (status, reused) = post(client, "/api/auth/refresh", None, json!({ "refresh_token": refresh })).await;
    assert_eq!((status, &reused["code"]), (401, &json!("unauthorized")));
    // The whole family is gone: the token that was good a moment ago, and the access tokens.
    let again = json!({ "refresh_token": next["refresh_token"] });
    assert_eq!(post(client, "/api/auth/refresh", None, again).await.0, 401);
    assert_eq!(ask(client, "GET", "/api/auth/me", Some(&access), None).await.0, 401);
    let (_, log) = ask(client, "GET", "/api/audit-log?limit=5", Some(&client.operator_token), None).await;
    assert_eq!(log["entries"][0]["action"], "token_reused", "{log}");

    let (_, pair) = login(client, "admin@localhost", &text(&first["password"])).await;
    let access = text(&pair["access_token"]);
    let (_, rotated) = post(client, "/api/signing-keys/rotate", Some(&access), json!({})).await;
    assert!(rotated["kid"].is_string(), "{rotated}");
    assert_eq!(
        ask(client, "GET", "/api/auth/me", Some(&access), None).await.0,
        200,
        "what the old key signed is good"
    );
    assert_eq!(ask(client, "POST", "/api/auth/logout", Some(&access), None).await.0, 200);
    assert_eq!(ask(client, "GET", "/api/auth/me", Some(&access), None).await.0, 401);
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_administrator_logs_in_and_stays_logged_in_on_sqlite() {
    the_first_administrator_logs_in_and_stays_logged_in(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_administrator_logs_in_and_stays_logged_in_on_postgres() {
    the_first_administrator_logs_in_and_stays_logged_in(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_invited_registers_and_does_what_the_role_allows() {
    let sandbox = sandbox(true, &[]).await;
    let client = &sandbox.client;
    let project = sandbox.running.first_run().unwrap().project_id;
    let register = |email: &str, invitation: Option<&str>| {
        let mut body = json!({ "email": email, "password": PASSWORD });
        if let Some(invitation) = invitation {
            body["invitation"] = json!(invitation);
        }
        body
    };
    assert_eq!(post(client, "/api/auth/register", None, register("ann@example.com", None)).await.0, 403);
    let invite = json!({ "email": "ann@example.com", "role": "editor" });
    let (status, invited) =
        client.operator_post(&format!("/api/projects/{project}/invitations"), &invite).await;
    assert_eq!(status, 201, "{invited}");
    let token = text(&invited["invitation"]);
    assert_eq!(
        post(client, "/api/auth/register", None, register("bob@example.com", Some(&token))).await.0,
        403
    );
    let (status, pair) =
        post(client, "/api/auth/register", None, register("ann@example.com", Some(&token))).await;
    assert_eq!(status, 201, "{pair}");
    let access = text(&pair["access_token"]);
    let event = json!({ "event": "opened", "distinct_id": "ann" });
    assert_eq!(post(client, "/capture", Some(&access), event.clone()).await.0, 202);
    let keys = format!("/api/projects/{project}/api-keys");
    assert_eq!(ask(client, "GET", &keys, Some(&access), None).await.0, 403, "editors manage no keys");

    let user = text(&pair["user"]["id"]);
    let member = format!("/api/projects/{project}/members/{user}");
    let operator = client.operator_token.clone();
    let role = |role: &str| Some(json!({ "role": role }));
    assert_eq!(ask(client, "PATCH", &member, Some(&operator), role("viewer")).await.0, 200);
    assert_eq!(post(client, "/capture", Some(&access), event.clone()).await.0, 403, "at once");
    assert_eq!(ask(client, "DELETE", &member, Some(&operator), None).await.0, 200);
    let (status, answer) = post(client, "/capture", Some(&access), event).await;
    assert_eq!(status, 403, "{answer}");

    let disable = format!("/api/users/{user}/disable");
    assert_eq!(post(client, &disable, Some(&operator), json!({})).await.0, 200);
    assert_eq!(ask(client, "GET", "/api/auth/me", Some(&access), None).await.0, 401);
    assert_eq!(login(client, "ann@example.com", PASSWORD).await.0, 401);
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_registration_is_closed_only_administrators_make_accounts() {
    let sandbox =
        sandbox(false, &[("auth.registration", "closed"), ("auth.login_address_attempts_max", "3")]).await;
    let client = &sandbox.client;
    let project = sandbox.running.first_run().unwrap().project_id;
    let body = json!({ "email": "ann@example.com", "password": PASSWORD, "invitation": "ffi_x" });
    let (status, refused) = post(client, "/api/auth/register", None, body).await;
    assert_eq!((status, &refused["code"]), (403, &json!("permission_denied")), "{refused}");
    let invite = json!({ "email": "ann@example.com", "role": "viewer" });
    let (status, refused) =
        client.operator_post(&format!("/api/projects/{project}/invitations"), &invite).await;
    assert_eq!(status, 403, "an invitation would be good for nothing: {refused}");
    let account = json!({ "email": "ann@example.com", "password": PASSWORD });
    assert_eq!(client.operator_post("/api/users", &account).await.0, 201);
    assert_eq!(login(client, "ann@example.com", PASSWORD).await.0, 200);
    // The third try from this address, and one too many, whoever it is about.
    assert_eq!(login(client, "bob@example.com", PASSWORD).await.0, 401);
    assert_eq!(login(client, "ann@example.com", PASSWORD).await.0, 429);
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_changed_and_reset_and_tries_are_limited_alike_for_everybody() {
    let sandbox = sandbox(false, &[("auth.registration", "open"), ("auth.login_attempts_max", "4")]).await;
    let client = &sandbox.client;
    let registration = json!({ "email": "ann@example.com", "password": PASSWORD });
    let (_, first) = post(client, "/api/auth/register", None, registration.clone()).await;
    assert_eq!(post(client, "/api/auth/register", None, registration).await.0, 409);
    let (_, second) = login(client, "ann@example.com", PASSWORD).await;
    let (kept, other) = (text(&first["access_token"]), text(&second["access_token"]));
    let change = json!({ "current_password": PASSWORD, "new_password": "another horse battery" });
    assert_eq!(post(client, "/api/auth/password", Some(&kept), change).await.0, 200);
    assert_eq!(ask(client, "GET", "/api/auth/me", Some(&kept), None).await.0, 200);
    assert_eq!(
        ask(client, "GET", "/api/auth/me", Some(&other), None).await.0,
        401,
        "every other session ended"
    );

    // The same answers, one after the other, for one who exists and one who does not.
    let mut answers = Vec::new();
    for email in ["bob@example.com", "eve@example.com"] {
        if email.starts_with("bob") {
            client.operator_post("/api/users", &json!({ "email": email })).await;
        }
        let mut said = Vec::new();
        for _ in 0..5 {
            let (status, answer) = login(client, email, "wrong horse battery").await;
            said.push((status, answer["message"].clone()));
        }
        answers.push(said);
    }
    assert_eq!(answers[0], answers[1]);
    let statuses: Vec<u16> = answers[0].iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [401, 401, 401, 401, 429]);

    let user = text(&first["user"]["id"]);
    let (status, reset) =
        client.operator_post(&format!("/api/users/{user}/reset-password"), &json!({})).await;
    assert_eq!(status, 200, "{reset}");
    assert_eq!(ask(client, "GET", "/api/auth/me", Some(&kept), None).await.0, 401);
    assert_eq!(login(client, "ann@example.com", &text(&reset["password"])).await.0, 200);
    // Everybody may make a project here, and owns it.
    let (_, ann) = login(client, "ann@example.com", &text(&reset["password"])).await;
    let access = text(&ann["access_token"]);
    let (status, made) = post(client, "/api/projects", Some(&access), json!({ "name": "ann's" })).await;
    assert_eq!(status, 201, "{made}");
    let path = format!("/api/projects/{}", text(&made["id"]));
    assert_eq!(ask(client, "PATCH", &path, Some(&access), Some(json!({ "name": "hers" }))).await.0, 200);
    assert_eq!(ask(client, "DELETE", &path, Some(&access), None).await.0, 200);
    assert_eq!(ask(client, "GET", &path, Some(&access), None).await.0, 403, "hidden at once");
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_over_its_rate_is_told_when_to_come_back() {
    let sandbox = sandbox(false, &[]).await;
    let client = &sandbox.client;
    let first = sandbox.running.first_run().unwrap();
    let body = json!({ "environment_id": first.environment_id, "scopes": ["ingest"], "rate_max": 1 });
    let (_, made) =
        client.operator_post(&format!("/api/projects/{}/api-keys", first.project_id), &body).await;
    let limited = Client { key: text(&made["api_key"]), ..client.clone() };
    let event = json!({ "event": "opened", "distinct_id": "ann" });
    let mut seen = Vec::new();
    for _ in 0..10 {
        let request = limited.http.post(format!("{}/capture", limited.url)).header("X-API-Key", &limited.key);
        let answer = request.json(&event).send().await.unwrap();
        seen.push((answer.status().as_u16(), answer.headers().contains_key("retry-after")));
    }
    assert_eq!(seen[0], (202, false));
    assert!(seen.contains(&(429, true)), "{seen:?}");
    assert_eq!(client.capture(&event).await.0, 202, "other keys are not held back");
    sandbox.stop().await;
}

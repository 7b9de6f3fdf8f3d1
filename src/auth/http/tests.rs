//! The routes, as a client sees them.

use actix_web::App;
use actix_web::HttpResponse;
use actix_web::body::to_bytes;
use actix_web::dev::{Service, ServiceResponse};
use actix_web::http::{Method, StatusCode};
use actix_web::test::{TestRequest, init_service};
use actix_web::web::{Json, Path};
use futures::future::join_all;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::*;
use crate::auth::tests::{Engine, Installation, installation};
use crate::auth::{CreatedKey as Created, KeyDigest, new_operator_token};
use crate::event::{RandomIds, Scope};
use crate::meta::Actor;

const LIMITS: BodyLimits =
    BodyLimits { sent_max: 1 << 16, inflated_max: 1 << 16, time_max: std::time::Duration::from_secs(10) };

/// The credentials that the tables try.
struct Bench {
    installation: Installation,
    operator: String,
    admin: String,
    ingest: String,
    query: String,
    revoked: String,
    expired: String,
    other_admin: String,
    other: Scope,
}

fn text(created: &Created) -> String {
    created.api_key.expose_secret().to_owned()
}

async fn bench() -> Bench {
    let installation = installation(Engine::Sqlite).await;
    let (here, scope) = (&installation.here, &installation.first.scope);
    let token = new_operator_token(&RandomIds);
    here.keys.set_operator_token(&token);
    let (project, environments) = here.keys.meta().projects().create("other", 10).await.unwrap();
    let other = Scope { project: project.id, environment: environments[0].id.clone() };
    let soon = here.keys.0.clock.now().plus(std::time::Duration::from_secs(1));
    let expired = here.create(scope, Permission::ALL, Some(soon)).await;
    here.clock.set(soon);
    let revoked = here.create(scope, Permission::ALL, None).await;
    here.keys.revoke(Actor::system(), &scope.project, &revoked.key.id).await.unwrap();
    Bench {
        operator: token.expose_secret().to_owned(),
        admin: text(&here.create(scope, &[Permission::Admin], None).await),
        ingest: text(&here.create(scope, &[Permission::Ingest], None).await),
        query: text(&here.create(scope, &[Permission::Query], None).await),
        revoked: text(&revoked),
        expired: text(&expired),
        other_admin: text(&here.create(&other, Permission::ALL, None).await),
        other,
        installation,
    }
}

/// The routes, and one that asks for each permission as capture, query and operations do.
macro_rules! service {
    ($bench:expr) => {
        init_service(
            App::new()
                .app_data(Data::new($bench.installation.here.keys.clone()))
                .app_data(Data::new(LIMITS))
                .configure(routes)
                .route("/ask/{permission}/{require_key}", get().to(ask)),
        )
        .await
    };
}

async fn ask(request: HttpRequest, path: Path<(String, bool)>) -> Result<Json<Value>, Problem> {
    let needed = Permission::from_name(&path.0).unwrap();
    let access = authorize(&request, needed, path.1).await?;
    Ok(Json(json!({ "environment": access.scope.environment })))
}

fn request(method: &Method, path: &str, key: Option<&str>) -> TestRequest {
    let request = TestRequest::default().method(method.clone()).uri(path);
    match key {
        Some(key) => request.insert_header(("X-API-Key", key)),
        None => request,
    }
}

/// Sends a request and reads status and body.
macro_rules! send {
    ($service:expr, $request:expr) => {
        answer(&$service, $request.to_request())
    };
}

async fn answer<S, R>(service: &S, request: R) -> (StatusCode, Value)
where
    S: Service<R, Response = ServiceResponse, Error = actix_web::Error>,
{
    let response = respond(service, request).await;
    let status = response.status();
    let body = to_bytes(response.into_body()).await.unwrap_or_default();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

async fn respond<S, R>(service: &S, request: R) -> HttpResponse
where
    S: Service<R, Response = ServiceResponse, Error = actix_web::Error>,
{
    match service.call(request).await {
        Ok(response) => response.into_parts().1,
        Err(error) => error.error_response(),
    }
}

#[actix_web::test]
async fn every_route_answers_every_credential_as_the_table_says() {
    let bench = bench().await;
    let service = service!(bench);
    let project = bench.installation.first.scope.project.clone();
    let environment = bench.installation.first.scope.environment.clone();
    let here = format!("/api/projects/{project}");
    let body = Some(json!({ "environment_id": environment, "scopes": ["ingest"] }));
    let named = Some(json!({ "name": "" }));
    let garbage = format!("ff_{}", "z".repeat(43));
    // Bodies with an empty name are refused with 400, after the credential was let through: nothing is made.
    // Columns: no key, not a key, unknown, revoked, expired, ingest, query, admin, admin of another project, operator.
    let table: [(Method, String, Option<Value>, [u16; 10]); 12] = [
        (Method::GET, "/ask/ingest/true".into(), None, [401, 401, 401, 401, 401, 200, 403, 403, 200, 200]),
        (Method::GET, "/ask/query/true".into(), None, [401, 401, 401, 401, 401, 403, 200, 403, 200, 200]),
        (Method::GET, "/ask/ingest/false".into(), None, [200, 401, 401, 401, 401, 200, 403, 403, 200, 200]),
        (Method::GET, "/api/environments".into(), None, [401, 401, 401, 401, 401, 200, 200, 200, 200, 200]),
        (Method::GET, "/api/projects".into(), None, [401, 401, 401, 401, 401, 403, 403, 200, 200, 200]),
        (
            Method::POST,
            "/api/projects".into(),
            named.clone(),
            [401, 401, 401, 401, 401, 403, 403, 403, 403, 400],
        ),
        (Method::GET, here.clone(), None, [401, 401, 401, 401, 401, 403, 403, 200, 403, 200]),
        (
            Method::GET,
            format!("{here}/environments"),
            None,
            [401, 401, 401, 401, 401, 403, 403, 200, 403, 200],
        ),
        (
            Method::POST,
            format!("{here}/environments"),
            named,
            [401, 401, 401, 401, 401, 403, 403, 400, 403, 400],
        ),
        (Method::GET, format!("{here}/api-keys"), None, [401, 401, 401, 401, 401, 403, 403, 200, 403, 200]),
        (Method::POST, format!("{here}/api-keys"), body, [401, 401, 401, 401, 401, 403, 403, 201, 403, 201]),
        (
            Method::DELETE,
            format!("{here}/api-keys/key_x"),
            None,
            [401, 401, 401, 401, 401, 403, 403, 404, 403, 404],
        ),
    ];
    let credentials: [Option<&str>; 10] = [
        None,
        Some("garbage"),
        Some(&garbage),
        Some(&bench.revoked),
        Some(&bench.expired),
        Some(&bench.ingest),
        Some(&bench.query),
        Some(&bench.admin),
        Some(&bench.other_admin),
        Some(&bench.operator),
    ];
    for (method, path, body, expected) in &table {
        for (key, expected) in credentials.iter().zip(expected) {
            let asked = request(method, path, *key);
            let asked = match body {
                Some(body) => asked.set_json(body),
                None => asked,
            };
            let (status, answer) = send!(service, asked).await;
            assert_eq!(status.as_u16(), *expected, "{method} {path} with {key:?}: {answer}");
            if *expected >= 400 {
                let code = match *expected {
                    400 => "validation_error",
                    401 => "unauthorized",
                    403 => "permission_denied",
                    _ => "not_found",
                };
                assert_eq!(answer["code"], code, "{method} {path} with {key:?}");
            }
        }
    }
}

#[actix_web::test]
async fn a_key_is_taken_from_either_header_and_x_api_key_wins() {
    let bench = bench().await;
    let service = service!(bench);
    let bearer = |value: String| {
        request(&Method::GET, "/ask/query/true", None).insert_header(("Authorization", value))
    };
    let query = &bench.query;
    for (value, expected) in [
        (format!("Bearer {query}"), 200),
        (format!("bearer  {query} "), 200),
        (query.clone(), 200),
        (format!("Basic {query}"), 401),
        ("Bearer".to_owned(), 401),
        ("Bearer ".to_owned(), 401),
        (format!("Bearer {query}x"), 401),
    ] {
        assert_eq!(send!(service, bearer(value.clone())).await.0.as_u16(), expected, "{value}");
    }
    let both = bearer(format!("Bearer {query}")).insert_header(("X-API-Key", "wrong"));
    assert_eq!(send!(service, both).await.0, StatusCode::UNAUTHORIZED);
    let empty = request(&Method::GET, "/ask/query/false", Some(""));
    assert_eq!(send!(service, empty).await.0, StatusCode::UNAUTHORIZED);
}

#[actix_web::test]
async fn a_stale_environment_is_answered_with_the_valid_ones_wherever_it_is_named() {
    let bench = bench().await;
    let service = service!(bench);
    let own = bench.installation.first.scope.environment.to_string();
    let ask = |path: &str| request(&Method::GET, path, Some(&bench.query));
    let stale = [
        ask("/ask/query/true").insert_header(("X-Environment-ID", "env_stale")),
        ask("/ask/query/true?limit=1&environment_id=env_stale"),
        ask("/ask/query/true?environment_id=env%5Fstale"),
    ];
    for asked in stale {
        let (status, answer) = send!(service, asked).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        assert_eq!(answer["code"], "permission_denied");
        assert_eq!(
            answer["details"],
            json!({ "given": "env_stale", "valid": [{ "id": own, "name": "production" }] })
        );
    }
    let right = ask(&format!("/ask/query/true?environment_id={own}"))
        .insert_header(("X-Environment-ID", own.clone()));
    assert_eq!(send!(service, right).await, (StatusCode::OK, json!({ "environment": own })));
    let two =
        ask(&format!("/ask/query/true?environment_id={own}")).insert_header(("X-Environment-ID", "env_b"));
    assert_eq!(send!(service, two).await.0, StatusCode::BAD_REQUEST);
    let repaired = ask("/api/environments").insert_header(("X-Environment-ID", "env_stale"));
    let (status, answer) = send!(service, repaired).await;
    assert_eq!(
        (status, &answer["environments"]),
        (StatusCode::OK, &json!([{ "id": own, "name": "production" }]))
    );
}

#[actix_web::test]
async fn a_key_is_shown_once_and_revoked_for_good() {
    let bench = bench().await;
    let service = service!(bench);
    let scope = &bench.installation.first.scope;
    let path = format!("/api/projects/{}/api-keys", scope.project);
    let body = json!({ "name": " web ", "environment_id": scope.environment, "scopes": ["query", "ingest"],
        "expires_at": "2030-01-01T00:00:00Z" });
    let (status, made) =
        send!(service, request(&Method::POST, &path, Some(&bench.admin)).set_json(body)).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_eq!((&made["name"], &made["scopes"]), (&json!("web"), &json!(["ingest", "query"])));
    assert_eq!(made["expires_at"], "2030-01-01T00:00:00.000Z");
    let key = made["api_key"].as_str().unwrap().to_owned();
    assert!(key.starts_with(made["prefix"].as_str().unwrap()));
    assert_eq!(send!(service, request(&Method::GET, "/ask/query/true", Some(&key))).await.0, StatusCode::OK);

    let (_, listed) = send!(service, request(&Method::GET, &path, Some(&bench.admin))).await;
    let mut shown = made.clone();
    shown.as_object_mut().unwrap().remove("api_key");
    assert_eq!(listed["api_keys"][0], shown);
    assert!(!listed.to_string().contains(&key));
    assert!(!listed.to_string().contains(&KeyDigest::of(key.as_bytes()).to_hex()));

    let one = format!("{path}/{}", made["id"].as_str().unwrap());
    let elsewhere = one.replace(scope.project.as_str(), bench.other.project.as_str());
    let (status, _) = send!(service, request(&Method::DELETE, &elsewhere, Some(&bench.other_admin))).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "another project's key cannot be revoked");
    let (status, revoked) = send!(service, request(&Method::DELETE, &one, Some(&bench.admin))).await;
    assert_eq!(status, StatusCode::OK);
    assert!(revoked["revoked_at"].is_string(), "{revoked}");
    let (status, refused) = send!(service, request(&Method::GET, "/ask/query/true", Some(&key))).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(refused["message"].as_str().unwrap().starts_with("this API key was revoked at "));
    let (status, again) = send!(service, request(&Method::DELETE, &one, Some(&bench.admin))).await;
    assert_eq!((status, &again["revoked_at"]), (StatusCode::OK, &revoked["revoked_at"]));
}

#[actix_web::test]
async fn what_is_wrong_in_a_body_is_named_with_what_would_be_right() {
    let bench = bench().await;
    let service = service!(bench);
    let scope = &bench.installation.first.scope;
    let keys = format!("/api/projects/{}/api-keys", scope.project);
    let environments = format!("/api/projects/{}/environments", scope.project);
    let environment = &scope.environment;
    let long = "é".repeat(201);
    let cases = [
        (
            &keys,
            json!({ "environment_id": environment, "scope": ["ingest"] }),
            "scope",
            "did you mean scopes?",
        ),
        (&keys, json!({ "environment_id": environment }), "scopes", "scopes is required"),
        (
            &keys,
            json!({ "environment_id": environment, "scopes": [] }),
            "scopes",
            "at least one of ingest, query, admin",
        ),
        (
            &keys,
            json!({ "environment_id": environment, "scopes": ["ingest", "injest"] }),
            "scopes[1]",
            "did you mean ingest?",
        ),
        (
            &keys,
            json!({ "environment_id": environment, "scopes": ["query"], "expires_at": "soon" }),
            "expires_at",
            "RFC 3339",
        ),
        (
            &keys,
            json!({ "environment_id": environment, "scopes": ["query"], "expires_at": "2001-01-01T00:00:00Z" }),
            "expires_at",
            "has passed",
        ),
        (
            &keys,
            json!({ "environment_id": environment, "scopes": ["query"], "name": "a\u{0}b" }),
            "name",
            "control character",
        ),
        (&environments, json!({ "name": "   " }), "name", "1 to 200 characters"),
        (&environments, json!({ "name": long }), "name", "1 to 200 characters"),
        (&environments, json!({ "nmae": "x" }), "nmae", "did you mean name?"),
    ];
    for (path, body, field, message) in cases {
        let asked = request(&Method::POST, path, Some(&bench.admin)).set_json(&body);
        let (status, answer) = send!(service, asked).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(answer["details"]["field"], field, "{body}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains(message), "{body}: {answer}");
    }
    let stale = json!({ "environment_id": bench.other.environment, "scopes": ["query"] });
    let asked = request(&Method::POST, &keys, Some(&bench.admin)).set_json(stale);
    let (status, answer) = send!(service, asked).await;
    assert_eq!((status, answer["details"]["valid"].as_array().unwrap().len()), (StatusCode::FORBIDDEN, 2));
    let large = request(&Method::POST, &keys, Some(&bench.admin)).set_payload(vec![b' '; (1 << 16) + 1]);
    assert_eq!(send!(service, large).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[actix_web::test]
async fn projects_begin_with_two_environments_and_names_are_taken_once() {
    let bench = bench().await;
    let service = service!(bench);
    let make =
        || request(&Method::POST, "/api/projects", Some(&bench.operator)).set_json(json!({ "name": "shop" }));
    let outcomes = join_all((0..20).map(|_| send!(service, make()))).await;
    let made: Vec<&Value> =
        outcomes.iter().filter(|(status, _)| *status == StatusCode::CREATED).map(|(_, made)| made).collect();
    assert_eq!(made.len(), 1);
    assert!(outcomes.iter().all(|(status, _)| matches!(status.as_u16(), 201 | 409)));
    let names: Vec<&str> =
        made[0]["environments"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, ["production", "development"]);

    let path = format!("/api/projects/{}", made[0]["id"].as_str().unwrap());
    let (_, shown) = send!(service, request(&Method::GET, &path, Some(&bench.operator))).await;
    assert_eq!((&shown["name"], &shown["time_zone"]), (&json!("shop"), &json!("UTC")));
    for (asked, status, field, told) in [
        (json!({ "time_zone": "Asia/Kathmandu" }), 200, "time_zone", json!("Asia/Kathmandu")),
        (json!({ "name": "store", "time_zone": "Europe/Berlin" }), 200, "time_zone", json!("Europe/Berlin")),
        (json!({ "name": "shop" }), 200, "time_zone", json!("Europe/Berlin")),
        (
            json!({ "time_zone": "Berlin" }),
            400,
            "details",
            json!({ "field": "time_zone", "given": "Berlin", "valid": ["Europe/Berlin"] }),
        ),
        (json!({}), 400, "details", json!({ "field": "name" })),
    ] {
        let request = request(&Method::PATCH, &path, Some(&bench.operator)).set_json(&asked);
        let (answered, answer) = send!(service, request).await;
        assert_eq!((answered.as_u16(), &answer[field]), (status, &told), "{asked}: {answer}");
    }
    let environments = format!("{path}/environments");
    let stage = json!({ "name": "staging" });
    for expected in [201, 409] {
        let asked = request(&Method::POST, &environments, Some(&bench.operator)).set_json(&stage);
        assert_eq!(send!(service, asked).await.0.as_u16(), expected);
    }
    let (_, listed) = send!(service, request(&Method::GET, &environments, Some(&bench.operator))).await;
    assert_eq!(listed["environments"].as_array().unwrap().len(), 3);
    let (_, all) = send!(service, request(&Method::GET, "/api/projects", Some(&bench.operator))).await;
    assert_eq!(all["projects"].as_array().unwrap().len(), 3);
    let (_, own) = send!(service, request(&Method::GET, "/api/projects", Some(&bench.other_admin))).await;
    assert_eq!(own["projects"].as_array().unwrap().len(), 1);
    assert_eq!(own["projects"][0]["id"], json!(bench.other.project));
}

#[actix_web::test]
async fn a_database_that_is_gone_is_503_with_retry_after_and_without_its_own_words() {
    let bench = bench().await;
    let service = service!(bench);
    let unseen = text(&bench.installation.here.create(&bench.other, Permission::ALL, None).await);
    let admin = request(&Method::GET, "/api/projects", Some(&bench.admin));
    assert_eq!(send!(service, admin).await.0, StatusCode::OK);
    bench.installation.here.keys.meta().close().await;
    for key in [&unseen, &bench.admin] {
        let asked = request(&Method::GET, "/api/projects", Some(key)).to_request();
        let response = respond(&service, asked).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers().get(header::RETRY_AFTER).unwrap(), "1");
        let body = to_bytes(response.into_body()).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["message"], "the metadata database does not answer; try again");
    }
}

//! Every route answers well once, as the OpenAPI document tells, and every way of failing that a whole route can meet is
//! told too: bodies that will not do, a store and a metadata database that are away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flexflow::app::{App, Body, Class, Options, Role, Route, Running, routes};
use flexflow::config::Config;
use flexflow::event::{Clock, SystemClock};
use futures::StreamExt;
use reqwest::Method;
use serde_json::Value;

use crate::support::contract::{self, Asked};
use crate::support::eventually;
use crate::support::postgres::Postgres;
use crate::support::sandbox::Sandbox;

/// One request a line: method, path, body, and under which name which field of the answer is kept for later lines.
const SENT: &str = r#"
POST /api/transforms {"name":"raw","spec":{"event":[{"event_name":"'raw'","distinct_id":"'ada'","timestamp":"when"}]}} -> transform_id=id
POST /capture {"event":"seen","distinct_id":"ada","event_id":"e1","properties":{"amount":1,"seats":2,"$set":{"plan":"pro"}}}
POST /capture {"batch":[{"event":"seen","distinct_id":"eve","event_id":"e3"}]}
POST /capture/batch {"event":"bought","distinct_id":"ada","event_id":"e2"}
POST /capture {"event":"$groupidentify","distinct_id":"$team_blue","event_id":"e6","properties":{"$group_type":"team","$group_key":"blue","$group_set":{"plan":"pro"}}}
POST /v1/events {"event_name":"seen","external_customer_id":"bob","event_id":"e4"}
POST /v1/events/bulk {"events":[{"event_name":"seen","external_customer_id":"bob","event_id":"e5"}]}
POST /v1/events/raw/bulk [{"id":"r1","when":"2026-01-01T00:00:00Z"},{"id":"r2"}]
"#;

const MADE: &str = r#"
POST /api/webhooks {"url":"https://hooks.example.com/"} -> webhook_id=id
PATCH /api/webhooks/{webhook_id} {"description":"for tests"}
POST /api/webhooks/{webhook_id}/rotate-secret {"keep":"1h"}
POST /api/webhooks/{webhook_id}/test -> delivery_id=delivery_id
POST /api/webhooks/{webhook_id}/deliveries/{delivery_id}/replay
POST /api/webhooks/{webhook_id}/replay
POST /api/schemas {"event":"typed","definition":{"type":"object"}} -> schema_id=id
POST /api/schemas/{schema_id}/check {"definition":{"type":"object"}}
POST /api/schemas/{schema_id}/versions {"definition":{"type":"object","description":"another"}}
PATCH /api/schemas/{schema_id} {"policy":"flag"}
POST /v1/meters {"name":"m","event_name":"seen","aggregation":{"type":"COUNT"}} -> meter_id=id
POST /v1/meters {"name":"m2","event_name":"seen","aggregation":{"type":"COUNT"}} -> meter_2=id
PUT /v1/meters/{meter_id} {"name":"m3"}
PATCH /v1/meters/{meter_id} {"name":"m4"}
POST /v1/meters/{meter_2}/disable
POST /v1/features {"name":"f","lookup_key":"f","type":"metered","meter_id":"{meter_id}"} -> feature_id=id
PUT /v1/features/{feature_id} {"name":"f2","lookup_key":"f","type":"metered","meter_id":"{meter_id}"}
PATCH /v1/features/{feature_id} {"name":"f3"}
POST /api/attribution/rules {"name":"r","sources":["seen"],"target":"bought","join":{"by":"distinct_id"},"look_back":"7d","model":"linear"} -> rule_id=id
PATCH /api/attribution/rules/{rule_id} {"name":"r2"}
POST /api/attribution/rules/{rule_id}/recompute {"from":"2026-01-01T00:00:00Z"}
POST /api/cohorts {"name":"c","distinct_ids":["ada"]} -> cohort=id
PATCH /api/cohorts/{cohort} {"name":"c2"}
PUT /api/test-accounts {"filters":[{"key":"plan","type":"person","value":"pro"}]}
POST /api/dashboards {"name":"d","tiles":[{"name":"t","kind":"trends","question":{"series":[{"event":"seen"}]}}]} -> dashboard=id
PATCH /api/dashboards/{dashboard} {"name":"d2"}
POST /api/dashboards/{dashboard}/refresh
POST /api/persons/merge {"distinct_ids":["ada","eve"]} -> person_id=id
PUT /api/transforms/{transform_id} {"spec":{"event":[{"event_name":"'raw'","distinct_id":"'eve'","timestamp":"when"}]}}
POST /api/transforms/test {"transform_id":"{transform_id}","samples":[{"id":"x","when":"2026-01-01T00:00:00Z"},{"id":"y"}]}
POST /v1/events/raw/reprocess {"start_date":"2026-01-01T00:00:00Z","event_id":"none"} -> workflow_id=workflow_id
POST /v1/events/raw/reprocess/{workflow_id}/cancel
POST /v1/events/raw/reprocess/all {"start_date":"2026-01-01T00:00:00Z","event_id":"nothing"} -> job_id=run_id
POST /api/jobs/{job_id}/cancel
POST /v1/events/raw/reprocess/pending {"start_date":"2026-01-01T00:00:00Z","dry_run":true}
POST /api/dlq/replay {"selection":{"all":true},"dry_run":true}
POST /api/dlq/discard {"selection":{"all":true},"reason":"a test","dry_run":true}
POST /api/rollups/build {"from":"2026-01-01T00:00:00Z","to":"2026-01-02T00:00:00Z"}
POST /api/ops/topics/create
POST /api/ops/topics/grow {"topic":"{raw_topic}","partitions":6}
POST /api/ops/migrate
POST /api/ops/audit/metadata/backfill
POST /api/ops/properties/promote {"key":"seats"}
POST /api/ops/properties/demote {"key":"seats"}
POST /api/auth/login {"email":"{email}","password":"{password}"} -> person=access_token
POST /api/auth/register {"email":"ann@example.com","password":"correct horse battery"} -> refresh_token=refresh_token
POST /api/auth/refresh {"refresh_token":"{refresh_token}"}
POST /api/auth/password {"current_password":"{password}","new_password":"another horse battery"}
POST /api/users {"email":"bob@example.com"} -> user_id=id
POST /api/users/{user_id}/reset-password {}
POST /api/users/{user_id}/disable
POST /api/users/{user_id}/enable
POST /api/signing-keys/rotate
POST /api/projects {"name":"another"} -> another=id
PATCH /api/projects/{another} {"name":"another one"}
POST /api/projects/{project_id}/environments {"name":"staging"} -> environment_id=id
PATCH /api/projects/{project_id}/environments/{environment_id} {"name":"rehearsal"}
POST /api/projects/{project_id}/members {"email":"bob@example.com","role":"viewer"}
PATCH /api/projects/{project_id}/members/{user_id} {"role":"editor"}
POST /api/projects/{project_id}/invitations {"email":"eve@example.com","role":"viewer"} -> invitation_id=id
POST /api/projects/{project_id}/api-keys {"environment_id":"{environment_id}","scopes":["query"]} -> key_id=id
"#;

const ASKED: &str = r#"
POST /api/query/trends {"series":[{"event":"seen"}],"compare":true}
POST /api/query/trends/people {"trends":{"series":[{"event":"seen"}]}}
POST /api/query/sql?explain=1 {"query":"SELECT count() FROM events"}
POST /api/query/funnel {"steps":[{"event":"seen"},{"event":"bought"}]}
POST /api/query/funnel {"steps":[{"event":"seen"},{"event":"bought"}],"viz":"trends"}
POST /api/query/funnel {"steps":[{"event":"seen"},{"event":"bought"}],"viz":"time_to_convert"}
POST /api/query/funnel/people {"funnel":{"steps":[{"event":"seen"},{"event":"bought"}]},"step":0}
POST /api/query/retention {}
POST /api/query/retention/people {"retention":{},"row":0}
POST /api/query/lifecycle {"series":[{"event":"seen"}]}
POST /api/query/lifecycle/people {"lifecycle":{"series":[{"event":"seen"}]},"day":"{today}","state":"new"}
POST /api/query/stickiness {"series":[{"event":"seen"}]}
POST /api/query/stickiness/people {"stickiness":{"series":[{"event":"seen"}]},"intervals":1}
POST /api/query/paths {"include":["custom_event"]}
POST /api/query/paths/people {"paths":{"include":["custom_event"]},"source":"1_seen","target":"2_bought"}
POST /api/query/attribution {"rule_id":"{rule_id}"}
POST /v1/events/query {"count_total":true}
POST /v1/events/list {}
POST /v1/events/usage {"event_name":"seen","aggregation_type":"COUNT","window_size":"HOUR"}
POST /v1/events/usage/meter {"meter_id":"{meter_id}"}
POST /v1/events/analytics {}
POST /v1/meter-usage/query {"meter_id":"{meter_id}"}
POST /v1/meter-usage/analytics {}
POST /v1/meter-usage/detailed-analytics {}
POST /v1/events/huggingface-billing {"requestIds":["e1"]}
POST /v1/events/huggingface-inference {"requestIds":["e1"]}
POST /v1/events/amend {"event_id":"e1","reason":"a mistake","properties":{"amount":3}}
POST /v1/events/void {"event_id":"e2","reason":"a mistake"}
POST /api/demo {"events":3}
"#;

const ENDED: &str = r#"
POST /v1/events/raw/reprocess/{workflow_id}/resume
POST /api/jobs/{job_id}/resume
POST /api/persons/{person_id}/split {}
DELETE /api/projects/{project_id}/api-keys/{key_id}
DELETE /api/projects/{project_id}/invitations/{invitation_id}
DELETE /api/projects/{project_id}/members/{user_id}
DELETE /api/projects/{another}
DELETE /api/dashboards/{dashboard}
DELETE /api/cohorts/{cohort}
DELETE /api/attribution/rules/{rule_id}
DELETE /v1/features/{feature_id}
DELETE /v1/meters/{meter_id}
DELETE /api/schemas/{schema_id}
DELETE /api/webhooks/{webhook_id}
DELETE /api/transforms/{transform_id}
POST /api/auth/logout
"#;

/// What a `GET` cannot do without.
const QUERIES: &[(&str, &str)] = &[
    ("/api/query/values", "?property=amount"),
    ("/v1/events/lookup", "?id=e1"),
    ("/v1/events/corrections", "?event_id=e1"),
];

/// Routes that do well only where something is wrong: the tests that break it have them.
const ELSEWHERE: &[(&str, &str)] =
    &[("POST /api/ops/consumer/resume", "a partition has to stand still: `bad_records`")];

fn is_told_twice(route: &Route) -> bool {
    route.path.starts_with("/api/v1/")
}

struct Walk {
    sandbox: Sandbox,
    kept: BTreeMap<String, String>,
    well: BTreeSet<String>,
    wrong: Vec<String>,
}

impl Walk {
    fn filled(&self, text: &str) -> String {
        self.kept
            .iter()
            .fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
    }

    /// Asks as who may: a person where it takes one, else the operator. The status, and the answer.
    async fn ask(&mut self, method: &str, path: &str, body: Option<&str>) -> (u16, Value) {
        let (pattern, _) = contract::operation(method, path.split('?').next().unwrap()).expect("a route");
        let class =
            routes().iter().find(|one| one.method == method && *one.path == *pattern).map(|one| one.class);
        let client = &self.sandbox.client;
        let token = if class == Some(Class::Person) { &self.kept["person"] } else { &client.operator_token };
        let url = format!("{}{path}", client.url);
        let mut request = client.http.request(Method::from_bytes(method.as_bytes()).unwrap(), url);
        request = request.bearer_auth(token);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_owned());
        }
        let (status, answer, held) = exchange(request).await;
        match held {
            Err(untold) => self.wrong.push(format!("{method} {path}: {untold}")),
            Ok(()) if status < 300 => {
                self.well.insert(format!("{method} {pattern}"));
            }
            Ok(()) => self.wrong.push(format!("{method} {path}: {status} {answer}")),
        }
        (status, answer)
    }

    async fn run(&mut self, script: &str) {
        for line in script.lines().filter(|line| !line.is_empty()) {
            let (line, keep) = match line.rsplit_once(" -> ") {
                Some((line, keep)) => (line, keep.split_once('=')),
                None => (line, None),
            };
            let line = self.filled(line);
            let mut words = line.splitn(3, ' ');
            let (method, path) = (words.next().unwrap(), words.next().unwrap());
            let (_, answer) = self.ask(method, path, words.next()).await;
            if let Some((name, field)) = keep {
                let value = answer[field].as_str().unwrap_or_else(|| panic!("no {field}: {line}: {answer}"));
                self.kept.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    async fn look_at_everything(&mut self) {
        for route in routes() {
            if route.method != "GET" || route.class == Class::Page || is_told_twice(&route) {
                continue;
            }
            let id = if route.path.starts_with("/api/cohorts") { "{cohort}" } else { "{dashboard}" };
            let query = QUERIES.iter().find(|(path, _)| *path == route.path).map_or("", |(_, query)| query);
            let path = self.filled(&(route.path.replace("{id}", id) + query));
            self.ask("GET", &path, None).await;
        }
    }

    /// Every body that may name an environment, naming one that is no more: 403 with those there are.
    async fn name_a_stale_environment_everywhere(&mut self) {
        let mut tried = 0;
        for route in routes().into_iter().filter(|route| route.body != Body::None && !is_told_twice(route)) {
            let Some((_, operation)) = contract::operation(route.method, &route.path) else { continue };
            let schema =
                contract::resolved(&operation["requestBody"]["content"]["application/json"]["schema"]);
            if !contract::fields(schema).contains_key("environment_id") {
                continue;
            }
            let id = if route.path.starts_with("/api/cohorts") { "{cohort}" } else { "{dashboard}" };
            let path = self.filled(&route.path.replace("{id}", id));
            let mut body: Value = serde_json::from_str(&self.filled(plausible(&route))).unwrap();
            body["environment_id"] = "env_stale".into();
            let client = &self.sandbox.client;
            let method = Method::from_bytes(route.method.as_bytes()).unwrap();
            let request = client.http.request(method, format!("{}{path}", client.url)).json(&body);
            let (status, answer, held) = exchange(request.bearer_auth(&client.operator_token)).await;
            let valid = answer["details"]["valid"].as_array().is_some_and(|valid| valid.len() >= 2);
            if status != 403 || !valid || held.is_err() {
                self.wrong.push(format!("{} {path} {body}: {status} {answer} {held:?}", route.method));
            }
            tried += 1;
        }
        assert!(tried > 30, "too few bodies may name an environment: {tried}");
    }

    async fn until_cancelled(&self, path: &str, field: &str) {
        eventually("the job has ended", || async {
            let (_, job) = self.sandbox.client.operator_get(path).await;
            if job[field] == "cancelled" { Ok(()) } else { Err(job.to_string()) }
        })
        .await;
    }
}

/// One request: its status, its answer, and whether the document tells both so.
async fn exchange(request: reqwest::RequestBuilder) -> (u16, Value, Result<(), String>) {
    let (http, request) = request.build_split();
    let request = request.unwrap();
    let asked = Asked::of(&request);
    let answer = http.execute(request).await.unwrap();
    let (status, kind) = (answer.status().as_u16(), contract::kind(&answer));
    // A stream has no end.
    let text = if kind == "text/event-stream" { String::new() } else { answer.text().await.unwrap() };
    let held = contract::held(&asked, status, &kind, &text);
    (status, serde_json::from_str(&text).unwrap_or_default(), held)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_well_once_as_it_is_documented() {
    // Jobs of reprocessing wait so long before they begin: long enough to be cancelled and resumed.
    let sandbox = Sandbox::with(&[
        ("transform.cache_ttl", "10s"),
        ("auth.registration", "open"),
        ("eventlog.partitions", "2"),
    ])
    .await;
    let first = sandbox.running.first_run().unwrap();
    let today = SystemClock.now().to_string()[..10].to_owned();
    let raw_topic = sandbox.named("topics.raw_events", "raw_events");
    let kept = [
        ("raw_topic", raw_topic.as_str()),
        ("project_id", first.project_id.as_str()),
        ("email", first.email.as_deref().unwrap()),
        ("password", first.password.as_deref().unwrap()),
        ("event_id", "e1"),
        ("group_type", "team"),
        ("group_key", "blue"),
        ("today", &today),
    ];
    let kept = kept.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut walk = Walk { sandbox, kept, well: BTreeSet::new(), wrong: Vec::new() };
    walk.run(SENT).await;
    walk.sandbox.client.settled(7).await;
    let letter = eventually("the dead letter is listed", || async {
        let (_, page) = walk.sandbox.client.operator_get("/api/dlq").await;
        page["dead_letters"][0]["id"].as_str().map(str::to_owned).ok_or_else(|| page.to_string())
    })
    .await;
    walk.kept.insert("dead_letter_id".to_owned(), letter);
    walk.run(MADE).await;
    walk.run(ASKED).await;
    walk.look_at_everything().await;
    walk.name_a_stale_environment_everywhere().await;
    let (workflow, job) =
        (walk.filled("/v1/events/raw/reprocess/{workflow_id}"), walk.filled("/api/jobs/{job_id}"));
    walk.until_cancelled(&workflow, "status").await;
    walk.until_cancelled(&job, "state").await;
    walk.run(ENDED).await;
    let Walk { sandbox, well, wrong, .. } = walk;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let lacking: Vec<String> = routes()
        .iter()
        .filter(|route| route.class != Class::Page && !is_told_twice(route))
        .map(|route| format!("{} {}", route.method, route.path))
        .filter(|name| !well.contains(name) && !ELSEWHERE.iter().any(|(elsewhere, _)| elsewhere == name))
        .collect();
    assert!(lacking.is_empty(), "add a line that has them answer well:\n{}", lacking.join("\n"));
    sandbox.stop().await;
}

/// The same path with ids that nothing has.
fn concrete(route: &Route, project: &str) -> String {
    let path = route.path.replace("{project_id}", project);
    let mut parts = path.split('{');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |path, part| path + "nothing" + part.split_once('}').map_or("", |(_, rest)| rest))
}

/// The first body of the scripts that goes to this route, or none at all.
fn plausible(route: &Route) -> &'static str {
    let lines = [SENT, MADE, ASKED].into_iter().flat_map(str::lines);
    let of_route = |line: &&str| {
        let mut words = line.splitn(3, ' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = path.split('?').next().unwrap_or_default();
        method == route.method
            && contract::operation(method, path).is_some_and(|(pattern, _)| *pattern == *route.path)
    };
    let line = lines.into_iter().find(of_route).and_then(|line| line.splitn(3, ' ').nth(2)).unwrap_or("{}");
    let body = line.rsplit_once(" -> ").map_or(line, |(body, _)| body);
    if body.starts_with("-> ") { "{}" } else { body }
}

/// An application whose store answers nobody, on this metadata database.
async fn without_a_store(data_dir: &str, meta_url: &str) -> Running {
    let settings = [
        ("data_dir", data_dir),
        ("server.listen", "127.0.0.1:0"),
        ("meta.url", meta_url),
        ("meta.timeout", "1s"),
        // Nobody listens there.
        ("store.url", "clickhouse://127.0.0.1:1"),
        ("auth.key_cache_ttl", "10ms"),
        ("auth.password_memory", "1 MiB"),
        ("auth.password_passes", "1"),
        ("auth.login_address_attempts_max", "1000"),
        ("server.body_bytes_max", "64 KiB"),
        ("capture.body_bytes_max", "64 KiB"),
    ];
    rustls::crypto::ring::default_provider().install_default().ok();
    let config = Config::from_overrides(&settings).expect("settings");
    App::start(config, Role::ALL, Options::default()).await.expect("it starts all the same")
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_route_stands_on_is_away_or_a_body_will_not_do_the_answer_is_documented() {
    let postgres = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    let url = postgres.database().await;
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data").display().to_string();
    let running = without_a_store(&data_dir, &url).await;
    let first = eventually("the first project is made", || async {
        running.first_run().ok_or_else(|| "none yet".to_owned())
    })
    .await;
    let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
    let tokens = [running.operator_token().to_owned(), first.api_key.clone()];
    let all: Vec<Route> = routes()
        .into_iter()
        .filter(|route| route.class != Class::Page && !is_told_twice(route) && !route.path.ends_with("/live"))
        .collect();
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(100 << 10));
    let (mut wrong, mut statuses) = (Vec::new(), BTreeMap::<u16, u32>::new());
    for is_database_there in [true, false] {
        if !is_database_there {
            postgres.kill();
        }
        let mut tries = Vec::new();
        for route in &all {
            let mut bodies = vec![("application/json", plausible(route))];
            if route.body != Body::None && is_database_there {
                bodies.extend([("application/json", "{"), ("text/csv", "a,b"), ("application/json", &large)]);
            }
            for (kind, body) in bodies {
                tries.extend(tokens.iter().map(|token| (route, kind, body, token)));
            }
        }
        let (http, running, first) = (&http, &running, &first);
        // Side by side: much of it waits for what does not come.
        let answers = futures::stream::iter(tries).map(|(route, kind, body, token)| async move {
            let method = Method::from_bytes(route.method.as_bytes()).unwrap();
            let url = format!("{}{}", running.url(), concrete(route, &first.project_id));
            let mut request = http.request(method, &url).bearer_auth(token);
            if route.body != Body::None {
                request = request.header("content-type", kind).body(body.to_owned());
            }
            let (status, answer, held) = exchange(request).await;
            let name = format!("{} {} ({kind}, database {is_database_there})", route.method, route.path);
            let wrong = match held {
                Err(untold) => Some(format!("{name}: {untold}")),
                Ok(()) if status == 500 => Some(format!("{name}: {answer}")),
                Ok(()) => None,
            };
            (status, wrong)
        });
        for (status, found) in answers.buffer_unordered(48).collect::<Vec<_>>().await {
            *statuses.entry(status).or_default() += 1;
            wrong.extend(found);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{statuses:?}");
    let many = |status: u16| statuses.get(&status).copied().unwrap_or_default();
    assert!(many(503) > 100 && many(413) > 50 && many(415) > 1, "too little was met: {statuses:?}");
    postgres.restart();
    running.stop().await.expect("a clean stop");
}

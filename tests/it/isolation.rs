//! Two projects that have the same ids and names in everything: no route shows one anything of the other, or lets it
//! touch it. And the doctor names environments of stored events that no project has.

use std::collections::{BTreeMap, BTreeSet};

use flexflow::app::{Body, Class, Route, routes};
use flexflow::event::Timestamp;
use flexflow::store::{EventBlock, EventRow};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::sandbox::{Client, Sandbox};
use crate::support::{contract, eventually};

/// A project as its key with every scope sees it.
struct Tenant {
    client: Client,
    project: String,
    /// Stands in every name and text that this project gives to anything.
    mark: &'static str,
    /// Ids of its rows, by the parameter of a path that they fit.
    ids: BTreeMap<&'static str, Vec<String>>,
    /// All of them that no other project can have.
    secret: BTreeSet<String>,
}

async fn ask(client: &Client, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = client.http.request(method, format!("{}{path}", client.url)).bearer_auth(&client.key);
    if let Some(body) = body {
        request = request.json(body);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let text = if contract::kind(&answer) == "text/event-stream" {
        String::new()
    } else {
        answer.text().await.unwrap()
    };
    (status, text)
}

impl Tenant {
    async fn new(sandbox: &Sandbox, mark: &'static str) -> Self {
        let operator = &sandbox.client;
        let made = async |path: &str, body: Value| {
            let (status, made) = operator.operator_post(path, &body).await;
            assert_eq!(status, 201, "{path}: {made}");
            made
        };
        let project = made("/api/projects", json!({ "name": mark })).await;
        let id = project["id"].as_str().unwrap().to_owned();
        let environment = project["environments"][0]["id"].as_str().unwrap().to_owned();
        let body =
            json!({ "environment_id": environment, "scopes": ["ingest", "query", "admin"], "name": mark });
        let key = made(&format!("/api/projects/{id}/api-keys"), body).await;
        let client = Client { key: key["api_key"].as_str().unwrap().to_owned(), ..operator.clone() };
        let mut tenant =
            Self { client, project: id.clone(), mark, ids: BTreeMap::new(), secret: BTreeSet::new() };
        tenant.keep("environment_id", &environment);
        tenant.keep("key_id", key["id"].as_str().unwrap());
        let email = format!("{mark}@example.com");
        let person = json!({ "email": email, "project_id": id, "role": "viewer", "name": mark });
        tenant.keep("user_id", made("/api/users", person).await["id"].as_str().unwrap());
        tenant.secret.insert(id);
        tenant
    }

    fn keep(&mut self, parameter: &'static str, id: &str) {
        if !parameter.is_empty() {
            self.ids.entry(parameter).or_default().push(id.to_owned());
        }
        self.secret.insert(id.to_owned());
    }

    async fn made(&mut self, parameter: &'static str, path: &str, body: Value) -> Value {
        let (status, text) = ask(&self.client, "POST", path, Some(&body)).await;
        assert!(matches!(status, 200..=202), "{path}: {status} {text}");
        let made: Value = serde_json::from_str(&text).unwrap();
        let names = ["workflow_id", "delivery_id", "job_id", "id"];
        if let Some(id) = names.iter().find_map(|name| made[*name].as_str()) {
            self.keep(parameter, id);
        }
        made
    }

    /// The same in every project, but for its mark.
    async fn fill(&mut self) {
        let (mark, project) = (self.mark, self.project.clone());
        let events = json!([
            { "event": "seen", "distinct_id": "ada", "event_id": "e1", "properties": { "who": mark, "amount": 1, "$set": { "who": mark }, "$groups": { "team": "e1" } } },
            { "event": "$groupidentify", "distinct_id": "$team_e1", "event_id": "e4", "properties": { "$group_type": "team", "$group_key": "e1", "$group_set": { "who": mark } } },
            { "event": "bought", "distinct_id": "ada", "event_id": "e2", "properties": { "who": mark, "amount": 2 } },
            { "event": "seen", "distinct_id": "eve", "event_id": "e3", "properties": { "who": mark } },
        ]);
        self.client.accept(&events).await;
        let spec = json!({
            "description": mark,
            "event": [{ "event_name": "'raw'", "distinct_id": "'ada'", "timestamp": "when" }],
        });
        self.made("transform_id", "/api/transforms", json!({ "name": "raw", "spec": spec })).await;
        // Without its time it is an error, and a dead letter.
        self.made("", "/v1/events/raw/bulk", json!([{ "id": "r1", "who": mark }])).await;
        self.made(
            "schema_id",
            "/api/schemas",
            json!({ "event": "s", "definition": { "description": mark } }),
        )
        .await;
        let hook = json!({ "url": format!("https://{mark}.example.com/"), "description": mark });
        let hook = self.made("webhook_id", "/api/webhooks", hook).await["id"].as_str().unwrap().to_owned();
        self.made("delivery_id", &format!("/api/webhooks/{hook}/test"), json!({})).await;
        let meter = json!({ "name": mark, "event_name": "seen", "aggregation": { "type": "COUNT" } });
        let meter = self.made("meter_id", "/v1/meters", meter).await["id"].clone();
        self.made(
            "feature_id",
            "/v1/features",
            json!({ "name": mark, "lookup_key": "same", "meter_id": meter }),
        )
        .await;
        let rule = json!({ "name": mark, "sources": ["seen"], "target": "bought", "join": { "by": "distinct_id" }, "look_back": "7d", "model": "linear" });
        self.made("rule_id", "/api/attribution/rules", rule).await;
        self.made("id", "/api/cohorts", json!({ "name": mark, "distinct_ids": ["ada"] })).await;
        let tile = json!({ "name": mark, "kind": "trends", "question": { "series": [{ "event": "seen" }] } });
        self.made("id", "/api/dashboards", json!({ "name": mark, "tiles": [tile] })).await;
        self.made("person_id", "/api/persons/merge", json!({ "distinct_ids": ["ada", "eve"] })).await;
        let start = json!({ "start_date": "2026-01-01T00:00:00Z", "dry_run": true });
        self.made("workflow_id", "/v1/events/raw/reprocess", start).await;
        let days = json!({ "from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z" });
        self.made("job_id", "/api/rollups/build", days).await;
        let member = json!({ "email": "new@example.com", "role": "viewer" });
        let path = format!("/api/projects/{project}/invitations");
        let (status, text) = ask(&self.client, "POST", &path, Some(&member)).await;
        assert_eq!(status, 201, "{text}");
        let invitation: Value = serde_json::from_str(&text).unwrap();
        self.keep("invitation_id", invitation["id"].as_str().unwrap());
        eventually("its events are stored, and its dead letter is listed", || async {
            let (events, letters) = (self.client.events().await?, self.client.get("/api/dlq").await.1);
            let listed = letters["dead_letters"].as_array().map_or(0, Vec::len);
            if events.len() == 4 && listed == 1 { Ok(()) } else { Err(format!("{} {letters}", events.len())) }
        })
        .await;
        let (_, letters) = self.client.get("/api/dlq").await;
        let letter = letters["dead_letters"][0]["id"].as_str().unwrap().to_owned();
        self.keep("dead_letter_id", &letter);
        self.ids.insert("event_id", vec!["e1".to_owned()]);
        self.ids.insert("group_type", vec!["team".to_owned()]);
        self.ids.insert("group_key", vec!["e1".to_owned()]);
        let void = json!({ "event_id": "e3", "reason": mark });
        self.made("", "/v1/events/void", void).await;
    }

    /// Everything that its key can list or look at, by route.
    async fn seen(&self) -> BTreeMap<String, String> {
        let mut seen = BTreeMap::new();
        for route in routes() {
            for path in self.paths(&route, self) {
                if route.method == "GET" && route.class != Class::Page {
                    seen.insert(path.clone(), ask(&self.client, "GET", &path, None).await.1);
                }
            }
        }
        seen
    }

    /// The route with this project in its path, and with the ids of `of`; none: `of` has no such id.
    fn paths(&self, route: &Route, of: &Self) -> Vec<String> {
        let mut paths = vec![route.path.replace("{project_id}", &of.project)];
        while let Some(parameter) =
            paths.first().and_then(|path| Some(path.split_once('{')?.1.split_once('}')?.0.to_owned()))
        {
            let ids = of.ids.get(&*parameter).cloned().unwrap_or_default();
            paths = paths
                .iter()
                .flat_map(|path| ids.iter().map(|id| path.replace(&format!("{{{parameter}}}"), id)))
                .collect();
        }
        paths
    }

    /// Is there anything in this text that is the other's?
    fn leak(&self, text: &str) -> Option<String> {
        std::iter::once(self.mark.to_owned())
            .chain(self.secret.iter().cloned())
            .find(|one| text.contains(one))
    }
}

fn questions() -> Vec<(&'static str, Value)> {
    let series = json!([{ "event": "seen" }]);
    let broken = json!({ "property": "who" });
    let by_group = json!({ "property": "who", "type": "group", "group_type": "team" });
    let steps = json!([{ "event": "seen" }, { "event": "bought" }]);
    vec![
        ("/api/query/trends", json!({ "series": series, "breakdown": broken })),
        ("/api/query/trends", json!({ "series": series, "breakdown": by_group })),
        ("/api/query/trends/people", json!({ "trends": { "series": series } })),
        ("/api/query/funnel", json!({ "steps": steps, "breakdown": broken })),
        ("/api/query/funnel/people", json!({ "funnel": { "steps": steps }, "step": 0 })),
        ("/api/query/retention", json!({ "breakdown": broken })),
        ("/api/query/retention/people", json!({ "retention": {}, "row": 6 })),
        ("/api/query/lifecycle", json!({ "series": series })),
        ("/api/query/stickiness", json!({ "series": series })),
        ("/api/query/stickiness/people", json!({ "stickiness": { "series": series }, "intervals": 1 })),
        ("/api/query/paths", json!({})),
        ("/api/query/sql", json!({ "query": "SELECT event_id, properties FROM events" })),
        ("/v1/events/query", json!({})),
        (
            "/v1/events/usage",
            json!({ "event_name": "seen", "aggregation_type": "COUNT", "group_by": ["properties.who"] }),
        ),
        ("/v1/events/analytics", json!({})),
        ("/api/transforms/test", json!({ "samples": [{ "id": "x" }] })),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn two_projects_with_the_same_ids_in_everything_never_see_or_touch_each_other() {
    let sandbox = Sandbox::with(&[("transform.cache_ttl", "20ms"), ("auth.registration", "invite")]).await;
    let mut mine = Tenant::new(&sandbox, "aardvark").await;
    let mut theirs = Tenant::new(&sandbox, "zebra").await;
    mine.fill().await;
    theirs.fill().await;
    let (mut leaks, mut marked, mut tried) = (Vec::new(), 0, 0);
    for (one, other) in [(&mine, &theirs), (&theirs, &mine)] {
        for (path, text) in one.seen().await {
            marked += usize::from(text.contains(one.mark));
            leaks.extend(other.leak(&text).map(|leak| format!("GET {path} of {}: {leak}: {text}", one.mark)));
        }
        for (path, question) in questions() {
            let (status, text) = ask(&one.client, "POST", path, Some(&question)).await;
            assert_eq!(status, 200, "{path}: {text}");
            marked += usize::from(text.contains(one.mark));
            leaks
                .extend(other.leak(&text).map(|leak| format!("POST {path} of {}: {leak}: {text}", one.mark)));
        }
    }
    assert!(leaks.is_empty(), "{} leaks:\n{}", leaks.len(), leaks.join("\n"));
    assert!(marked > 80, "too little shows whose it is: {marked}");

    // With the ids of the other in the path, and a body that would do something.
    let before = theirs.seen().await.len();
    let harmful = json!({
        "name": "stolen", "reason": "stolen", "role": "owner", "url": "https://stolen.example.com/",
        "definition": {}, "spec": { "event": [] }, "policy": "reject", "email": "stolen@example.com",
        "environment_id": theirs.ids["environment_id"][0], "scopes": ["admin"],
    });
    for route in routes() {
        if !route.path.contains('{') || matches!(route.class, Class::Page | Class::Person | Class::Operator) {
            continue;
        }
        for path in mine.paths(&route, &theirs) {
            let schema = contract::operation(route.method, &route.path).map(|(_, told)| {
                contract::resolved(&told["requestBody"]["content"]["application/json"]["schema"])
            });
            let told = schema.map(contract::fields).unwrap_or_default();
            let body: Value = harmful
                .as_object()
                .unwrap()
                .iter()
                .filter(|(name, _)| {
                    told.contains_key(*name) && *name != "environment_id"
                        || *name == "environment_id" && route.path.ends_with("api-keys")
                })
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect::<serde_json::Map<_, _>>()
                .into();
            let body = (route.body != Body::None).then_some(&body);
            let (status, text) = ask(&mine.client, route.method, &path, body).await;
            tried += 1;
            // What both have under one id is one's own; anything else is not there.
            let own = path.contains("/e1") && !text.contains(theirs.mark);
            if !own && !matches!(status, 400 | 403 | 404) {
                leaks.push(format!("{} {path}: {status} {text}", route.method));
            }
        }
    }
    assert!(leaks.is_empty(), "{} ways in:\n{}", leaks.len(), leaks.join("\n"));
    assert!(tried > 60, "too little was tried: {tried}");
    let after = theirs.seen().await;
    assert_eq!(after.len(), before);
    let stolen: Vec<_> = after.iter().filter(|(_, text)| text.contains("stolen")).collect();
    assert!(stolen.is_empty(), "{stolen:?}");
    for (parameter, ids) in &theirs.ids {
        for id in ids.iter().filter(|_| *parameter != "dead_letter_id") {
            assert!(after.values().any(|text| text.contains(id)), "{parameter} {id} is gone");
        }
    }
    the_doctor_names_environments_that_no_project_has(&sandbox).await;
    sandbox.stop().await;
}

async fn the_doctor_names_environments_that_no_project_has(sandbox: &Sandbox) {
    let finding = async || {
        let (status, answer) = sandbox.client.operator_get("/api/ops/doctor").await;
        assert_eq!(status, 200, "{answer}");
        let findings = answer["findings"].as_array().unwrap();
        findings.iter().find(|one| one["name"] == "environments").cloned().unwrap()
    };
    assert_eq!(finding().await["ok"], true, "{}", finding().await);
    let mut block = EventBlock::new();
    block.push(&EventRow {
        project_id: "proj_nobody",
        environment_id: "env_of_nobody",
        event_id: "e1",
        event_name: "seen",
        distinct_id: "ada",
        customer_id: "",
        session_id: "",
        source: "",
        producer: "",
        raw_event_id: "",
        timestamp: Timestamp::from_millis(1_767_225_600_000),
        received_at: Timestamp::EPOCH,
        schema_version: 1,
        source_topic: "",
        source_topic_id: Uuid::nil(),
        source_partition: -1,
        source_offset: -1,
        properties: "{}",
        version: 0,
        is_deleted: false,
    });
    sandbox.running.store().unwrap().insert_events(&block, "stray").await.unwrap();
    let stray = finding().await;
    assert_eq!(stray["ok"], false);
    let message = stray["message"].as_str().unwrap();
    assert!(message.contains("env_of_nobody") && message.contains("proj_nobody"), "{message}");
    assert!(stray["cure"].as_str().unwrap().contains("auth.static_keys"), "{stray}");
}

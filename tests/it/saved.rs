//! Cohorts, dashboards and remembered answers over HTTP, in the whole application.

use serde_json::{Value, json};

use crate::support::sandbox::{Client, Sandbox};
use crate::support::{Log, eventually, on_every_log};

on_every_log! {
    an_answer_is_remembered_until_something_in_it_changes
}

#[expect(clippy::needless_pass_by_value, reason = "callers make it with json!")]
fn event(name: &str, distinct_id: &str, at: &str, properties: Value) -> Value {
    json!({"event": name, "distinct_id": distinct_id, "timestamp": at, "properties": properties})
}

async fn made(client: &Client, path: &str, body: &Value) -> Value {
    let (status, answer) = client.post(path, body).await;
    assert_eq!(status, 201, "{body}: {answer}");
    answer
}

async fn send(client: &Client, method: reqwest::Method, path: &str, body: &Value) -> (u16, Value) {
    let request = client.http.request(method, format!("{}{path}", client.url));
    let answer = request.header("X-API-Key", &client.key).json(body).send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// People of the question, over January 2026.
fn people(filters: &Value) -> Value {
    json!({
        "date_from": "2026-01-01", "date_to": "2026-01-31", "interval": "month",
        "series": [{"event": "see", "math": "dau"}], "filters": filters,
    })
}

async fn count(client: &Client, filters: &Value) -> i64 {
    let (status, answer) = client.post("/api/query/trends", &people(filters)).await;
    assert_eq!(status, 200, "{filters}: {answer}");
    answer["results"][0]["data"][0].as_f64().unwrap() as i64
}

fn of(cohort: &Value) -> Value {
    json!([{"type": "cohort", "key": "id", "operator": "in", "value": cohort["id"]}])
}

async fn bad_cohorts_are_refused(client: &Client) {
    for (body, field) in [
        (json!({"name": " ", "distinct_ids": ["a"]}), "name"),
        (json!({"name": "x"}), "filters"),
        (json!({"name": "x", "filters": [{"key": "a", "value": 1}]}), "filters[0].type"),
        (json!({"name": "x", "behaviors": [{"event": "a", "period": "soon"}]}), "behaviors[0].period"),
        (json!({"name": "x", "behaviours": []}), "behaviours"),
        (
            json!({"name": "x", "behaviors": [{"event": "a", "filters": [{"type": "cohort", "value": "c"}]}]}),
            "behaviors[0].filters",
        ),
    ] {
        let (status, answer) = client.post("/api/cohorts", &body).await;
        assert_eq!((status, &answer["details"]["field"]), (400, &json!(field)), "{body}: {answer}");
    }
    let (status, answer) = client.post("/api/query/trends", &people(&of(&json!({"id": "cohort_x"})))).await;
    assert_eq!((status, &answer["details"]["field"]), (400, &json!("filters[0].value")), "{answer}");
}

/// Everybody in a cohort, in pages, with how many they are.
async fn members_are_listed(client: &Client, cohort: &Value) {
    let path = format!("/api/persons?limit=1&cohort_id={}", cohort["id"].as_str().unwrap());
    let (status, first) = client.get(&path).await;
    assert_eq!((status, &first["total"]), (200, &json!(2)), "{first}");
    let (_, second) = client.get(&format!("{path}&cursor={}", first["next_cursor"].as_str().unwrap())).await;
    let ids = |page: &Value| page["persons"][0]["distinct_ids"].clone();
    assert_eq!((ids(&first), ids(&second)), (json!(["bob", "bob-phone"]), json!(["eve"])));
    assert_eq!(second["next_cursor"], Value::Null);
    let (status, refused) = client.get("/api/persons?cohort_id=cohort_x").await;
    assert_eq!((status, &refused["details"]["field"]), (400, &json!("cohort_id")), "{refused}");
}

#[tokio::test]
async fn cohorts_are_static_dynamic_and_behavioural() {
    let sandbox = Sandbox::start().await;
    let client = &sandbox.client;
    client
        .accept(&json!([
            event("see", "ada", "2026-01-10T10:00:00Z", json!({"$set": {"plan": "pro"}})),
            event("see", "bob", "2026-01-10T10:00:00Z", json!({"$set": {"plan": "free"}})),
            event("see", "bob-phone", "2026-01-11T10:00:00Z", json!({})),
            event("see", "eve", "2026-01-12T10:00:00Z", json!({})),
            event("buy", "bob", "2026-01-12T10:00:00Z", json!({"price": 5})),
            event("buy", "bob-phone", "2026-01-13T10:00:00Z", json!({"price": 50})),
            event("buy", "ada", "2026-01-13T10:00:00Z", json!({"price": 7})),
        ]))
        .await;
    client.settled(7).await;
    let two = json!({"name": "chosen", "distinct_ids": ["ada", "bob-phone", "nobody"]});
    let chosen = made(client, "/api/cohorts", &two).await;
    assert_eq!(count(client, &json!([])).await, 4);
    assert_eq!(count(client, &of(&chosen)).await, 2);
    assert_eq!(
        client.post("/api/persons/merge", &json!({"distinct_ids": ["bob", "bob-phone"]})).await.0,
        200
    );
    assert_eq!(count(client, &json!([])).await, 3);
    assert_eq!(count(client, &of(&chosen)).await, 2, "a member by one id is a member by all");
    let not = json!([{"type": "cohort", "operator": "not_in", "value": [chosen["id"]]}]);
    assert_eq!(count(client, &not).await, 1);
    let (status, _) = send(
        client,
        reqwest::Method::PATCH,
        &format!("/api/cohorts/{}", chosen["id"].as_str().unwrap()),
        &json!({"add": ["eve"], "remove": ["ada"]}),
    )
    .await;
    assert_eq!(status, 200);
    assert_eq!(count(client, &not).await, 1, "ada is out and eve is in");
    members_are_listed(client, &chosen).await;

    let pro = json!({"name": "pro", "filters": [{"type": "person", "key": "plan", "value": "pro"}]});
    let pro = made(client, "/api/cohorts", &pro).await;
    assert_eq!(count(client, &of(&pro)).await, 1);
    client
        .accept(&json!([event("see", "eve", "2026-01-20T10:00:00Z", json!({"$set": {"plan": "pro"}}))]))
        .await;
    client.settled(8).await;
    assert_eq!(count(client, &of(&pro)).await, 2);

    for (behaviors, expected) in [
        (json!([{"event": "buy", "count": 2}]), 1),
        (json!([{"event": "buy"}]), 2),
        (json!([{"event": "buy", "negated": true}]), 1),
        (json!([{"event": "buy", "operator": "exact", "count": 1}]), 1),
        (json!([{"event": "buy", "operator": "exact", "count": 0}]), 1),
        (json!([{"event": "buy", "operator": "lte", "count": 1}]), 2),
        (json!([{"event": "buy", "period": "2026-01-13"}]), 2),
        (json!([{"event": "buy", "filters": [{"key": "price", "operator": "gt", "value": 6}]}]), 2),
    ] {
        let cohort = json!({"name": "did", "behaviors": behaviors});
        let cohort = made(client, "/api/cohorts", &cohort).await;
        assert_eq!(count(client, &of(&cohort)).await, expected, "{behaviors}");
    }
    let both = json!({"name": "both", "match": "any", "behaviors": [{"event": "buy", "count": 2}],
        "filters": [{"type": "person", "key": "plan", "value": "pro"}]});
    let both = made(client, "/api/cohorts", &both).await;
    assert_eq!(count(client, &of(&both)).await, 3);

    bad_cohorts_are_refused(client).await;
    let path = format!("/api/cohorts/{}", pro["id"].as_str().unwrap());
    assert_eq!(send(client, reqwest::Method::DELETE, &path, &json!({})).await.0, 204);
    assert_eq!(client.get(&path).await.0, 404);
    assert_eq!(client.post("/api/query/trends", &people(&of(&pro))).await.0, 400);
    sandbox.stop().await;
}

#[tokio::test]
async fn a_dashboard_keeps_questions_and_asks_them_together() {
    let sandbox = Sandbox::start().await;
    let client = &sandbox.client;
    client.accept(&json!([event("see", "ada", "2026-01-10T10:00:00Z", json!({}))])).await;
    client.settled(1).await;
    let tile =
        |name: &str, kind: &str, question: Value| json!({"name": name, "kind": kind, "question": question});
    let tiles = json!([
        tile("people", "trends", people(&json!([]))),
        tile("rows", "sql", json!({"query": "SELECT count() AS n FROM events"})),
        tile("broken", "sql", json!({"query": "SELECT nothing FROM events"})),
    ]);
    let board = made(client, "/api/dashboards", &json!({"name": "Main", "tiles": tiles})).await;
    let path = format!("/api/dashboards/{}", board["id"].as_str().unwrap());
    let (status, fresh) = client.post(&format!("{path}/refresh"), &json!({})).await;
    assert_eq!(status, 200, "{fresh}");
    assert_eq!(fresh["tiles"][0]["answer"]["results"][0]["data"], json!([1]), "{fresh}");
    assert_eq!(fresh["tiles"][1]["answer"]["results"], json!([[1]]), "{fresh}");
    assert_eq!(fresh["tiles"][2]["error"]["code"], "validation_error", "{fresh}");

    let order = json!({"revision": 1, "tiles": [tiles[1], tiles[0]]});
    let (status, changed) = send(client, reqwest::Method::PATCH, &path, &order).await;
    assert_eq!((status, &changed["tiles"][0]["name"]), (200, &json!("rows")), "{changed}");
    assert_eq!((&changed["name"], &changed["revision"]), (&json!("Main"), &json!(2)), "{changed}");
    assert_eq!(
        send(client, reqwest::Method::PATCH, &path, &order).await.0,
        409,
        "made from an older revision"
    );
    let bad = json!({"name": "x", "tiles": [tile("a", "trends", json!({"serie": []}))]});
    let (status, answer) = client.post("/api/dashboards", &bad).await;
    assert_eq!((status, &answer["details"]["field"]), (400, &json!("tiles[0].question.serie")), "{answer}");
    let bad = json!({"name": "x", "tiles": [tile("a", "trend", json!({}))]});
    let (status, answer) = client.post("/api/dashboards", &bad).await;
    assert_eq!((status, &answer["details"]["field"]), (400, &json!("tiles[0].kind")), "{answer}");
    let (_, all) = client.get("/api/dashboards").await;
    assert_eq!(all["dashboards"].as_array().unwrap().len(), 1);
    assert_eq!(send(client, reqwest::Method::DELETE, &path, &json!({})).await.0, 204);
    assert_eq!(client.get(&path).await.0, 404);

    let csv =
        client.http.post(format!("{}/api/query/sql?format=csv", client.url)).header("X-API-Key", &client.key);
    let csv = csv.json(&json!({"query": "SELECT event, 1 AS n FROM events"})).send().await.unwrap();
    assert!(csv.headers()["content-type"].to_str().unwrap().starts_with("text/csv"));
    assert_eq!(csv.text().await.unwrap(), "event,n\r\nsee,1\r\n");
    sandbox.stop().await;
}

async fn an_answer_is_remembered_until_something_in_it_changes(log: Log) {
    let sandbox = Sandbox::on(log).await;
    let client = &sandbox.client;
    client
        .accept(&json!([
            event("see", "ada", "2026-01-10T10:00:00Z", json!({})),
            event("see", "bob", "2026-01-10T10:00:00Z", json!({})),
        ]))
        .await;
    client.settled(2).await;
    let ask = async |refresh: bool| {
        let mut question = people(&json!([]));
        question["refresh"] = json!(refresh);
        let (status, answer) = client.post("/api/query/trends", &question).await;
        assert_eq!(status, 200, "{answer}");
        (
            answer["meta"]["cached"].as_bool().unwrap(),
            answer["results"][0]["data"][0].as_f64().unwrap() as i64,
        )
    };
    assert_eq!(ask(false).await, (false, 2));
    assert_eq!(ask(false).await, (true, 2));
    assert_eq!(ask(true).await, (false, 2));
    assert_eq!(ask(false).await, (true, 2));
    // A late event.
    client.accept(&json!([event("see", "eve", "2026-01-03T10:00:00Z", json!({}))])).await;
    client.settled(3).await;
    assert_eq!(ask(false).await, (false, 3));
    assert_eq!(ask(false).await, (true, 3));
    // An event of a day that the answer does not show.
    client.accept(&json!([event("see", "eve", "2026-03-03T10:00:00Z", json!({}))])).await;
    client.settled(4).await;
    assert_eq!(ask(false).await, (true, 3));
    assert_eq!(client.post("/api/persons/merge", &json!({"distinct_ids": ["ada", "bob"]})).await.0, 200);
    assert_eq!(ask(false).await, (false, 2));
    assert_eq!(ask(false).await, (true, 2));
    sandbox.stop().await;
}

#[tokio::test]
async fn a_promoted_property_answers_as_its_text_did() {
    the_column_of_a_promoted_property_says_what_its_text_does(Log::Embedded).await;
}

pub(crate) async fn the_column_of_a_promoted_property_says_what_its_text_does(log: Log) {
    let sandbox = Sandbox::on(log).await;
    let client = &sandbox.client;
    let events = |month: u32| -> Vec<Value> {
        let values =
            [json!("a"), json!("a"), json!(1), json!("1"), json!(null), json!({"x": [1]}), json!("é \"q\"")];
        let at = format!("2026-0{month}-10T10:00:00Z");
        let of_person =
            |(n, value): (usize, &Value)| event("see", &format!("p{n}"), &at, json!({"tier": value}));
        values.iter().enumerate().map(of_person).collect()
    };
    let asked = || async {
        let question = json!({
            "date_from": "2026-01-01", "date_to": "2026-02-28", "interval": "month", "refresh": true,
            "series": [{"event": "see"}, {"event": "see", "filters": [{"key": "tier", "operator": "gte", "value": 1}]}],
            "breakdown": {"property": "tier"},
        });
        let (status, answer) = client.post("/api/query/trends", &question).await;
        assert_eq!(status, 200, "{answer}");
        answer["results"].clone()
    };
    client.accept(&json!(events(1))).await;
    client.settled(7).await;
    let before = asked().await;
    let (status, listed) = client.operator_get("/api/ops/properties").await;
    assert_eq!(status, 200, "{listed}");
    assert_eq!(listed["suggested"][0]["key"], "tier", "{listed}");
    let (status, answer) = client.operator_post("/api/ops/properties/promote", &json!({"key": "tier"})).await;
    assert_eq!((status, &answer["promoted"][0]["key"]), (202, &json!("tier")), "{answer}");
    let job = format!("/api/jobs/{}", answer["job_id"].as_str().unwrap());
    assert_eq!(asked().await, before, "rows from before the promotion");
    client.accept(&json!(events(2))).await;
    client.settled(14).await;
    let both = asked().await;
    assert_ne!(both, before);
    eventually("old rows are filled", || async {
        let (_, job) = client.operator_get(&job).await;
        if job["state"] == "succeeded" { Ok(()) } else { Err(job.to_string()) }
    })
    .await;
    let (_, done) = client.operator_get(&job).await;
    assert_eq!(done["progress"], json!({"partitions_filled": 1, "partitions_left": 0}), "{done}");
    let (_, listed) = client.operator_get("/api/ops/properties").await;
    assert_eq!(listed["promoted"][0]["parts_to_fill"], 0, "{listed}");
    let (_, again) = client.operator_post("/api/ops/properties/promote", &json!({"key": "tier"})).await;
    assert_eq!(again["job_id"], json!(null), "there is nothing left to fill: {again}");
    assert_eq!(asked().await, both);
    let (_, listed) = client.operator_get("/api/ops/properties").await;
    assert_eq!(listed["suggested"], json!([]), "what is promoted is not suggested: {listed}");
    let (status, answer) = client.operator_post("/api/ops/properties/demote", &json!({"key": "tier"})).await;
    assert_eq!((status, &answer["promoted"]), (200, &json!([])), "{answer}");
    assert_eq!(asked().await, both, "the text again");
    assert_eq!(client.operator_post("/api/ops/properties/demote", &json!({"key": "tier"})).await.0, 404);
    let (status, answer) =
        client.operator_post("/api/ops/properties/promote", &json!({"key": "price"})).await;
    assert_eq!((status, &answer["details"]["field"]), (400, &json!("key")), "{answer}");
    assert_eq!(client.post("/api/ops/properties/promote", &json!({"key": "x"})).await.0, 403);
    sandbox.stop().await;
}

//! Groups over HTTP: what `$groupidentify` says of companies and teams, and every question that asks for it.

use serde_json::{Value, json};

use crate::support::Log;
use crate::support::on_every_log;
use crate::support::sandbox::{Client, Sandbox};

on_every_log! {
    questions_ask_for_what_is_known_of_an_events_group
}

#[expect(clippy::needless_pass_by_value, reason = "callers make it with json!")]
fn event(name: &str, distinct_id: &str, at: &str, properties: Value) -> Value {
    json!({"event": name, "distinct_id": distinct_id, "timestamp": format!("2026-03-{at}:00Z"), "properties": properties})
}

/// A `$groupidentify`, as clients send it.
#[expect(clippy::needless_pass_by_value, reason = "callers make it with json!")]
fn identify(kind: &str, key: &str, at: &str, set: Value) -> Value {
    let said = json!({"$group_type": kind, "$group_key": key, "$group_set": set});
    event("$groupidentify", &format!("${kind}_{key}"), at, said)
}

async fn ask(client: &Client, kind: &str, question: Value) -> Value {
    let mut question = question;
    if kind != "retention" {
        question["date_from"] = "2026-03-02".into();
    }
    question["date_to"] = "2026-03-04".into();
    let (status, answer) = client.post(&format!("/api/query/{kind}"), &question).await;
    assert_eq!(status, 200, "{question}: {answer}");
    answer["results"].clone()
}

/// How often `opened` happened on each of the three days.
async fn opened(client: &Client, filters: &Value) -> Value {
    let question = json!({"series": [{"event": "opened"}], "filters": filters});
    ask(client, "trends", question).await[0]["data"].clone()
}

/// A filter on the company's plan.
fn plan(operator: &str, value: &str) -> Value {
    json!([{"type": "group", "group_type_index": 0, "key": "plan", "operator": operator, "value": value}])
}

async fn filters_find_events_by_their_groups(client: &Client) {
    for (filters, expected) in [
        (plan("exact", "pro"), json!([1, 1, 0])),
        (plan("is_not", "pro"), json!([1, 2, 0])),
        (plan("is_set", ""), json!([2, 1, 0])),
        (
            json!([{"type": "group", "group_type": "company", "key": "plan", "value": "pro"}]),
            json!([1, 1, 0]),
        ),
        (
            json!([{"type": "group", "group_type": "company", "key": "seats", "operator": "gt", "value": 10}]),
            json!([1, 1, 0]),
        ),
        (
            json!([{"type": "group", "group_type_index": 0, "key": "$group_key", "value": "acme"}]),
            json!([1, 1, 0]),
        ),
        (json!([{"type": "group", "key": "company", "value": ["acme", "gone"]}]), json!([1, 2, 0])),
        (json!([{"type": "group", "key": "0", "value": "beta"}]), json!([1, 0, 0])),
        (json!([{"type": "group", "group_type_index": 4, "key": "plan", "value": "pro"}]), json!([0, 0, 0])),
        (
            json!([{"type": "expression", "key": "group_0.properties.plan = 'pro' AND group_0.key != 'x'"}]),
            json!([1, 1, 0]),
        ),
        (json!([{"type": "expression", "key": "groups.company.properties['seats'] < 10"}]), json!([1, 0, 0])),
    ] {
        assert_eq!(opened(client, &filters).await, expected, "{filters}");
    }
    let encoded: String =
        form_urlencoded::byte_serialize(plan("exact", "pro").to_string().as_bytes()).collect();
    let (status, page) = client.get(&format!("/api/query/events?properties={encoded}")).await;
    assert_eq!((status, page["events"].as_array().unwrap().len()), (200, 3), "{page}");
    for (filters, field) in [
        (json!([{"key": "plan", "group_type_index": 0, "value": 1}]), "filters[0].group_type_index"),
        (json!([{"type": "group", "group_type_index": 12, "key": "plan"}]), "filters[0].group_type_index"),
        (
            json!([{"type": "group", "key": "plan", "group_type": "a", "group_type_index": 1}]),
            "filters[0].group_type",
        ),
    ] {
        let question = json!({"series": [{"event": "opened"}], "filters": filters});
        let (status, refused) = client.post("/api/query/trends", &question).await;
        assert_eq!((status, &refused["details"]["field"]), (400, &json!(field)), "{refused}");
    }
}

async fn every_kind_of_question_takes_them(client: &Client) {
    let pro = plan("exact", "pro");
    let by = json!({"property": "plan", "type": "group", "group_type_index": 0});
    let opened = json!([{"event": "opened"}]);
    let lines = ask(client, "trends", json!({"series": opened, "breakdown": by})).await;
    let lines: Vec<(&str, i64)> = lines
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["breakdown"].as_str().unwrap(), line["count"].as_f64().unwrap() as i64))
        .collect();
    assert_eq!(lines, [("pro", 2), ("free", 1), ("$$_posthog_breakdown_null_$$", 2)]);
    let unique = json!([{"event": "opened", "math": "unique_group", "math_group_type_index": 0}]);
    assert_eq!(ask(client, "trends", json!({"series": unique})).await[0]["data"], json!([2, 2, 0]));
    let seats = json!([{
        "event": "opened", "math": "max", "math_property": "seats", "math_property_type": "group", "math_group_type": "company",
    }]);
    assert_eq!(ask(client, "trends", json!({"series": seats})).await[0]["data"], json!([50, 50, 0]));

    let steps = json!([{"event": "opened"}, {"event": "bought"}]);
    let funnel = ask(client, "funnel", json!({"steps": steps, "filters": pro})).await;
    assert_eq!(funnel["counts"], json!([2, 1]), "{funnel}");
    let funnel = ask(client, "funnel", json!({"steps": steps, "aggregate_by": by})).await;
    assert_eq!(funnel["counts"], json!([2, 1]), "{funnel}");
    let of_teams = json!({"property": "company", "type": "group"});
    let funnel = ask(client, "funnel", json!({"steps": steps, "aggregate_by": of_teams})).await;
    assert_eq!(funnel["counts"], json!([3, 1]), "{funnel}");
    let funnel = ask(client, "funnel", json!({"steps": steps, "breakdown": by})).await;
    let rows: Vec<(Value, Value)> = funnel["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["breakdown"].clone(), row["counts"].clone()))
        .collect();
    for row in [(json!(["pro"]), json!([2, 1])), (json!(["free"]), json!([1, 0]))] {
        assert!(rows.contains(&row), "{funnel}");
    }

    let retention = json!({"total_intervals": 3, "target_event": "opened", "filters": pro});
    assert_eq!(ask(client, "retention", retention).await["rows"], json!([[1, 0, 0], [1, 0], [0]]));
    let retention = json!({"total_intervals": 3, "target_event": "opened", "breakdown": by});
    let found = ask(client, "retention", retention).await;
    let of_pro =
        found["breakdowns"].as_array().unwrap().iter().find(|one| one["breakdown"] == "pro").unwrap();
    assert_eq!(of_pro["rows"], json!([[1, 0, 0], [1, 0], [0]]), "{found}");

    let lifecycle = ask(client, "lifecycle", json!({"series": opened, "filters": pro})).await;
    assert_eq!(lifecycle["new"], json!([1, 1, 0]), "{lifecycle}");
    let stickiness = ask(client, "stickiness", json!({"series": opened, "filters": pro})).await;
    assert_eq!(stickiness["data"], json!([2, 0, 0]), "{stickiness}");
    let paths = ask(client, "paths", json!({"include": ["custom_event"], "filters": pro})).await;
    assert_eq!(paths["edges"], json!([["1_opened", "2_bought", 1]]), "{paths}");
    let cohort =
        json!({"name": "of the pro", "behaviors": [{"event": "bought", "filters": pro, "period": "-5000d"}]});
    let (status, cohort) = client.post("/api/cohorts", &cohort).await;
    assert_eq!(status, 201, "{cohort}");
    let members = json!([{"type": "cohort", "value": cohort["id"]}]);
    assert_eq!(self::opened(client, &members).await, json!([1, 0, 0]));
}

async fn groups_are_listed_and_suggested(client: &Client) {
    let (status, names) = client.get("/api/query/names?date_from=2026-03-01").await;
    assert_eq!(status, 200, "{names}");
    assert_eq!(
        names["groups"],
        json!([
            {"name": "company", "index": 0, "groups": 2, "properties": ["plan", "seats"]},
            {"name": "team", "index": 1, "groups": 1, "properties": []},
        ])
    );
    let path = "/api/query/values?property=plan&type=group&group_type=company&date_from=2026-03-01";
    let (status, values) = client.get(path).await;
    let names: Vec<(&str, i64)> = values["values"]
        .as_array()
        .unwrap()
        .iter()
        .map(|value| (value["name"].as_str().unwrap(), value["volume"].as_i64().unwrap()))
        .collect();
    assert_eq!((status, names), (200, vec![("pro", 3), ("free", 1)]));

    let (status, first) = client.get("/api/groups?limit=2").await;
    let groups = json!([
        {"type": "company", "key": "acme", "properties": {"plan": "pro", "seats": 50}, "first_seen": "2026-03-01T08:00:00.000Z"},
        {"type": "company", "key": "beta", "properties": {"plan": "free", "seats": 5}, "first_seen": "2026-03-01T09:00:00.000Z"},
    ]);
    assert_eq!((status, &first["groups"]), (200, &groups), "{first}");
    let cursor = first["next_cursor"].as_str().unwrap();
    let (_, second) = client.get(&format!("/api/groups?limit=2&cursor={cursor}")).await;
    assert_eq!((&second["groups"][0]["key"], &second["next_cursor"]), (&json!("red / 1"), &Value::Null));
    let (_, found) = client.get("/api/groups?type=company&search=CM").await;
    assert_eq!((found["groups"].as_array().unwrap().len(), &found["groups"][0]["key"]), (1, &json!("acme")));
    let (status, shown) = client.get("/api/groups/company/acme").await;
    assert_eq!((status, &shown["properties"]), (200, &groups[0]["properties"]), "{shown}");
    let (status, shown) = client.get("/api/groups/team/red%20%2F%201").await;
    assert_eq!((status, &shown["key"]), (200, &json!("red / 1")), "{shown}");
    assert_eq!(client.get("/api/groups/company/gone").await.0, 404);
}

/// What is late or comes again changes nothing, what is newer holds at once, for answers that were remembered too.
async fn later_words_count(client: &Client) {
    let pro = plan("exact", "pro");
    assert_eq!(opened(client, &pro).await, json!([1, 1, 0]));
    let said = [
        // Of a new type, before all others by its time: it has the next number.
        identify("account", "a", "01T01:00", json!({"plan": "pro"})),
        identify("company", "acme", "01T07:00", json!({"plan": "free"})),
        identify("company", "beta", "01T09:00", json!({"plan": "free", "seats": 5})),
    ];
    client.accept(&json!(said)).await;
    client.settled(13).await;
    assert_eq!(opened(client, &pro).await, json!([1, 1, 0]));
    client.accept(&json!([identify("company", "beta", "05T07:00", json!({"plan": "pro"}))])).await;
    client.settled(14).await;
    assert_eq!(opened(client, &pro).await, json!([2, 1, 0]));
}

pub(crate) async fn questions_ask_for_what_is_known_of_an_events_group(log: Log) {
    let sandbox = Sandbox::on(log).await;
    let client = sandbox.client.clone();
    let of = |groups: Value| json!({ "$groups": groups });
    client
        .accept(&json!([
            identify("company", "acme", "01T08:00", json!({"plan": "pro", "seats": 50})),
            identify("company", "beta", "01T09:00", json!({"plan": "free", "seats": 5})),
        ]))
        .await;
    client.settled(2).await;
    client
        .accept(&json!([
            identify("team", "red / 1", "01T07:00", json!({})),
            event("opened", "ann", "02T09:00", of(json!({"company": "acme"}))),
            event("opened", "bob", "02T10:00", of(json!({"company": "beta"}))),
            event("bought", "ann", "02T09:20", of(json!({"company": "acme", "team": "red / 1"}))),
            event("opened", "cid", "03T09:00", json!({"$group_0": "acme"})),
            event("opened", "dan", "03T10:00", json!({})),
            event("opened", "eve", "03T11:00", of(json!({"company": "gone"}))),
            event("closed", "eve", "03T12:00", json!({})),
        ]))
        .await;
    client.settled(10).await;
    filters_find_events_by_their_groups(&client).await;
    every_kind_of_question_takes_them(&client).await;
    groups_are_listed_and_suggested(&client).await;
    later_words_count(&client).await;

    let sandbox = sandbox.restart(&[]).await;
    let client = Client { key: client.key, ..sandbox.client.clone() };
    assert_eq!(opened(&client, &plan("exact", "pro")).await, json!([2, 1, 0]));
    sandbox.stop().await;
}

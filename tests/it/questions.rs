//! What every question has in common, in the whole application: test accounts, expressions, groups.

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::sandbox::{Client, Sandbox};

const RANGE: [(&str, &str); 2] = [("date_from", "2026-01-05"), ("date_to", "2026-01-07")];

/// A question over the three days, with these fields.
fn over(fields: &Value) -> Value {
    let mut question = fields.clone();
    for (name, value) in RANGE {
        question[name] = json!(value);
    }
    question
}

async fn answer(client: &Client, kind: &str, question: &Value) -> Value {
    let (status, answer) = client.post(&format!("/api/query/{kind}"), question).await;
    assert_eq!(status, 200, "{kind} {question}: {answer}");
    answer
}

/// The `field` of a refusal.
async fn refused(client: &Client, kind: &str, question: &Value) -> String {
    let (status, answer) = client.post(&format!("/api/query/{kind}"), question).await;
    assert_eq!(status, 400, "{kind} {question}: {answer}");
    answer["details"]["field"].as_str().unwrap_or_default().to_owned()
}

async fn put(client: &Client, path: &str, body: &Value) -> (u16, Value) {
    let request = client.http.put(format!("{}{path}", client.url));
    let answer = request.bearer_auth(&client.operator_token).json(body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[expect(clippy::needless_pass_by_value, reason = "callers make it with json!")]
fn event(name: &str, distinct_id: &str, day: u32, properties: Value) -> Value {
    let timestamp = format!("2026-01-{day:02}T10:00:00Z");
    json!({"event": name, "distinct_id": distinct_id, "timestamp": timestamp, "properties": properties})
}

/// Two customers and one of our own people.
async fn filled(client: &Client) {
    let groups = |name: &str| json!({"company": name});
    client
        .accept(&json!([
            event("see", "ann", 5, json!({"$set": {"email": "ann@x.org"}, "plan": "pro", "price": 10, "$session_id": "s1", "$group_0": "x", "$groups": groups("x")})),
            event("buy", "ann", 6, json!({"plan": "pro", "price": "5", "$session_id": "s1", "$group_0": "x", "$groups": groups("x")})),
            event("see", "bob", 5, json!({"$set": {"email": "bob@y.org"}, "plan": "free", "price": 3, "$group_0": "x", "$groups": groups("x")})),
            event("see", "own", 6, json!({"$set": {"email": "own@ours.io"}, "plan": "pro", "price": 100, "$group_0": "", "$groups": groups("")})),
            event("buy", "own", 7, json!({"plan": "pro", "price": 1})),
            event("see", "ann", 7, json!({"plan": "pro", "price": "many", "$group_0": "z", "$groups": groups("z")})),
        ]))
        .await;
    client.settled(6).await;
}

#[tokio::test]
async fn test_accounts_are_left_out_of_every_question_that_is_told_to() {
    let sandbox = Sandbox::start().await;
    let client = &sandbox.client;
    filled(client).await;
    let (status, none) = client.get("/api/test-accounts").await;
    assert_eq!((status, &none), (200, &json!({"filters": [], "updated_at": null})));

    // Each question with how many people it sees: a pointer into its answer.
    let steps = json!([{"event": "see"}, {"event": "buy"}]);
    let questions = [
        (
            "trends",
            json!({"series": [{"event": null, "math": "dau"}], "display": "bold_number"}),
            "/results/0/aggregated_value",
        ),
        ("funnel", json!({"steps": steps}), "/results/counts/0"),
        ("stickiness", json!({"series": [{"event": "buy"}]}), "/results/data/0"),
        ("lifecycle", json!({"series": [{"event": "buy"}]}), "/results/new/0"),
        (
            "paths",
            json!({"funnel": {"funnel": over(&json!({"steps": steps})), "step": 0, "part": "after"}}),
            "/results/edges/0/2",
        ),
    ];
    let numbers = async |switch: bool| {
        let mut found = Vec::new();
        for (kind, question, pointer) in &questions {
            let mut question = over(question);
            question["filter_test_accounts"] = json!(switch);
            found.push(
                answer(client, kind, &question).await.pointer(pointer).and_then(Value::as_i64).unwrap(),
            );
        }
        let retention =
            json!({"date_to": "2026-01-07", "total_intervals": 3, "filter_test_accounts": switch});
        let retention = answer(client, "retention", &retention).await;
        let began =
            retention["results"]["rows"].as_array().unwrap().iter().map(|row| row[0].as_i64().unwrap());
        found.push(began.sum());
        let people =
            json!({"trends": over(&json!({"series": [{"event": "buy"}], "filter_test_accounts": switch}))});
        found.push(answer(client, "trends/people", &people).await["people"].as_array().unwrap().len() as i64);
        let (_, listed) = client.get(&format!("/api/query/events?filter_test_accounts={switch}")).await;
        found.push(listed["events"].as_array().unwrap().len() as i64);
        found
    };
    let all = numbers(false).await;
    assert_eq!(all, [3, 3, 2, 0, 2, 6, 2, 6]);
    assert_eq!(numbers(true).await, all, "nobody is a test account yet");

    let ours = json!({"filters": [{"type": "person", "key": "email", "operator": "not_icontains", "value": "@ours.io"}]});
    let (status, kept) = put(client, "/api/test-accounts", &ours).await;
    assert_eq!((status, &kept["filters"]), (200, &ours["filters"]), "{kept}");
    assert!(kept["updated_at"].is_string(), "{kept}");
    assert_eq!(numbers(true).await, [2, 2, 1, 0, 1, 4, 1, 4], "answers that were remembered are asked anew");
    assert_eq!(numbers(false).await, all);

    let bad = json!({"filters": [{"key": "a", "operator": "regex", "value": {"b": 1}}]});
    let (status, problem) = put(client, "/api/test-accounts", &bad).await;
    assert_eq!((status, &problem["details"]["field"]), (400, &json!("filters[0].value")), "{problem}");
    let (_, audit) = client.operator_get("/api/audit-log").await;
    assert_eq!(audit.to_string().matches("test_accounts_changed").count(), 1, "{audit}");

    cleared_by_the_command(client).await;
    assert_eq!(client.get("/api/test-accounts").await.1["filters"], json!([]));
    sandbox.stop().await;
}

/// The command does what the route does.
async fn cleared_by_the_command(client: &Client) {
    let (_, projects) = client.operator_get("/api/projects").await;
    let project = format!("/api/projects/{}", projects["projects"][0]["id"].as_str().unwrap());
    let (_, environments) = client.operator_get(&format!("{project}/environments")).await;
    let environments = environments["environments"].as_array().unwrap();
    let production = environments.iter().find(|environment| environment["name"] == "production").unwrap();
    let key = json!({"environment_id": production["id"], "scopes": ["admin"]});
    let (status, made) = client.operator_post(&format!("{project}/api-keys"), &key).await;
    assert_eq!(status, 201, "{made}");
    let key = made["api_key"].as_str().unwrap();
    // Not in the way of the application, which lives on this test's thread.
    let shown = Command::new(env!("CARGO_BIN_EXE_flexflow"))
        .args(["test-accounts", "clear", "--json", "--url", &client.url, "--api-key", key])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&shown.stdout).into_owned() + &String::from_utf8_lossy(&shown.stderr);
    assert_eq!(shown.status.code(), Some(0), "{said}");
    assert!(said.contains("\"filters\":[]") || said.contains("\"filters\": []"), "{said}");
}

/// The numbers of a trend's lines, by value of the breakdown.
async fn lines(client: &Client, question: &Value) -> Vec<(String, Vec<f64>)> {
    let answer = answer(client, "trends", &over(question)).await;
    let line = |line: &Value| {
        let data = line["data"].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect();
        (line["breakdown"].as_str().unwrap_or_default().to_owned(), data)
    };
    answer["results"].as_array().unwrap().iter().map(line).collect()
}

#[tokio::test]
async fn expressions_and_groups_are_taken_wherever_a_property_is() {
    let sandbox = Sandbox::start().await;
    let client = &sandbox.client;
    filled(client).await;
    let counted =
        |expression: &str| json!({"series": [{"event": null, "math": "hogql", "math_hogql": expression}]});
    for (expression, expected) in [
        ("count()", [2.0, 2.0, 2.0]),
        ("sum(properties.price) / count()", [6.5, 52.5, 0.5]),
        ("uniq(person_id)", [2.0, 2.0, 2.0]),
        ("countIf(properties.plan = 'pro' AND event != 'buy')", [1.0, 1.0, 1.0]),
        ("sumIf(properties.price, properties.price < 50)", [13.0, 5.0, 1.0]),
        ("uniq(person.properties.email)", [2.0, 2.0, 2.0]),
        ("1 / (count() - 2)", [0.0, 0.0, 0.0]),
        ("max(toHour(timestamp))", [10.0, 10.0, 10.0]),
    ] {
        assert_eq!(
            lines(client, &counted(expression)).await,
            [(String::new(), expected.to_vec())],
            "{expression}"
        );
    }
    let zoned = json!({"timezone": "Asia/Kathmandu", "series": [{"math": "hogql", "math_expression": "max(toHour(timestamp))"}]});
    assert_eq!(
        lines(client, &zoned).await[0].1,
        [15.0, 15.0, 15.0],
        "hours are those of the question's clocks"
    );

    values_are_split_and_filtered_by(client).await;
    groups_are_known_by_their_keys(client).await;
    sessions_and_paths_take_them_too(client).await;
    wrong_expressions_are_refused(client).await;
    an_export_has_every_value(client).await;
    sandbox.stop().await;
}

async fn values_are_split_and_filtered_by(client: &Client) {
    // Every line of a free expression has its own value, the others one together.
    let mut broken =
        json!({"series": [{"event": null, "math": "hogql", "math_hogql": "sum(properties.price)"}]});
    broken["breakdown"] = json!({"property": "distinct_id", "type": "event_metadata", "limit": 1});
    let other = "$$_posthog_breakdown_other_$$";
    let expected = [("own".to_owned(), vec![0.0, 100.0, 1.0]), (other.to_owned(), vec![13.0, 5.0, 0.0])];
    assert_eq!(lines(client, &broken).await, expected);
    broken["breakdown"]["hide_other"] = json!(true);
    assert_eq!(lines(client, &broken).await, expected[..1]);

    let by = json!({"series": [{"event": null}], "breakdown": {"type": "hogql", "property": "concat(properties.plan, '/', event)"}});
    let found = lines(client, &by).await;
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["pro/see", "pro/buy", "free/see"], "{found:?}");
    let bins = json!({"series": [{"event": null}], "breakdown": {"type": "expression", "property": "properties.price * 2", "histogram_bins": 2}});
    let found = lines(client, &bins).await;
    assert_eq!(
        found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>()[..2],
        ["[2,101]", "[101,200.01]"]
    );
    let doubled = json!({"series": [{"event": null, "math": "sum", "math_property": "properties.price * 2", "math_property_type": "expression"}]});
    assert_eq!(lines(client, &doubled).await[0].1, [26.0, 210.0, 2.0]);
    for (condition, expected) in [
        ("properties.price > 4", 3.0),
        ("properties.price > 4 AND person.properties.email ilike '%x.org'", 2.0),
        ("properties.nothing = 'x'", 0.0),
        ("NOT (properties.plan = 'pro')", 1.0),
        ("distinct_id IN ('ann', 'bob') OR event = 'buy'", 5.0),
    ] {
        let filtered = json!({"series": [{"event": null}], "filters": [{"type": "hogql", "key": condition}]});
        assert_eq!(lines(client, &filtered).await[0].1.iter().sum::<f64>(), expected, "{condition}");
    }
}

async fn groups_are_known_by_their_keys(client: &Client) {
    // Groups: by number, and by name.
    let groups =
        |field: &str, kind: Value| json!({"series": [{"event": null, "math": "unique_group", field: kind}]});
    for question in [groups("math_group_type_index", json!(0)), groups("math_group_type", json!("company"))] {
        assert_eq!(lines(client, &question).await[0].1, [1.0, 1.0, 1.0], "an empty key is no group");
    }
    let of_x =
        json!({"series": [{"event": null}], "filters": [{"type": "group", "key": "company", "value": "x"}]});
    assert_eq!(lines(client, &of_x).await[0].1.iter().sum::<f64>(), 3.0);
    let by_group = json!({"series": [{"event": null}], "breakdown": {"type": "group", "property": "0"}});
    assert_eq!(lines(client, &by_group).await[0].0, "x");
}

async fn sessions_and_paths_take_them_too(client: &Client) {
    let by_session =
        json!({"series": [{"event": null}], "breakdown": {"type": "session", "property": "$event_count"}});
    let found = lines(client, &by_session).await;
    let sums: Vec<(&str, f64)> =
        found.iter().map(|(name, data)| (name.as_str(), data.iter().sum())).collect();
    assert_eq!(sums, [("2", 2.0), ("$$_posthog_breakdown_null_$$", 4.0)]);

    let paths = over(&json!({"path_expression": "concat(event, ' ', properties.plan)"}));
    let edges = answer(client, "paths", &paths).await["results"]["edges"].clone();
    assert_eq!(edges, json!([]), "a day apart is another session");
    let far = over(&json!({"path_expression": "concat(event, ' ', properties.plan)",
        "funnel": {"funnel": over(&json!({"steps": [{"event": "see"}, {"event": "buy"}]})), "step": 0, "part": "after"}}));
    let edges = answer(client, "paths", &far).await["results"]["edges"].clone();
    assert_eq!(edges[0], json!(["1_see pro", "2_buy pro", 2]), "{edges}");
}

/// On the page a breakdown has 25 values, in a file as many as there are.
async fn an_export_has_every_value(client: &Client) {
    let many: Vec<Value> = (0..27)
        .map(|number| json!({"event": "many", "distinct_id": "ann", "timestamp": "2026-02-01T10:00:00Z", "properties": {"number": number}}))
        .collect();
    client.accept(&json!(many)).await;
    client.settled(33).await;
    let question = json!({
        "date_from": "2026-02-01", "date_to": "2026-02-01", "series": [{"event": "many"}], "breakdown": {"property": "number"},
    });
    let shown = answer(client, "trends", &question).await["results"].as_array().unwrap().len();
    assert_eq!(shown, 26, "the others are one line");
    let request = client.http.post(format!("{}/api/query/trends?format=csv", client.url));
    let file =
        request.header("X-API-Key", &client.key).json(&question).send().await.unwrap().text().await.unwrap();
    assert_eq!(file.trim_end().lines().count(), 28, "a head and every value: {file}");
}

async fn wrong_expressions_are_refused(client: &Client) {
    let math = |expression: &str| {
        over(&json!({"series": [{"event": null, "math": "hogql", "math_expression": expression}]}))
    };
    for expression in [
        "",
        "properties.price",
        "sum(properties.price",
        "count() FROM events",
        "(SELECT count() FROM events)",
        "sum(sleep(1))",
        "suum(properties.price)",
        "sum(concat('a', event))",
        "count() + properties.price",
        "sum(count())",
    ] {
        assert_eq!(
            refused(client, "trends", &math(expression)).await,
            "series[0].math_expression",
            "{expression}"
        );
    }
    let none = over(&json!({"series": [{"event": null, "math": "hogql"}]}));
    assert_eq!(refused(client, "trends", &none).await, "series[0].math_expression");
    for (kind, question, field) in [
        (
            "trends",
            json!({"series": [{}], "filters": [{"type": "expression", "key": "count() > 1"}]}),
            "filters[0].key",
        ),
        (
            "trends",
            json!({"series": [{}], "filters": [{"type": "expression", "key": "event", "value": 1}]}),
            "filters[0].value",
        ),
        (
            "trends",
            json!({"series": [{}], "filters": [{"type": "expression", "key": "event"}]}),
            "filters[0].key",
        ),
        (
            "trends",
            json!({"series": [{}], "breakdown": {"type": "expression", "property": "nothing"}}),
            "breakdown.property",
        ),
        (
            "trends",
            json!({"series": [{"math": "unique_group", "math_group_type": "a", "math_group_type_index": 1}]}),
            "series[0].math_group_type",
        ),
        (
            "trends",
            json!({"series": [{"math": "unique_group", "math_group_type_index": 10}]}),
            "series[0].math_group_type_index",
        ),
        ("paths", json!({"include": ["hogql"]}), "path_expression"),
        ("paths", json!({"path_expression": "toDate(event)"}), "path_expression"),
    ] {
        assert_eq!(refused(client, kind, &over(&question)).await, field, "{question}");
    }
}

#[tokio::test]
async fn a_funnel_leaves_steps_out_and_counts_what_it_is_told_to() {
    let sandbox = Sandbox::start().await;
    let client = &sandbox.client;
    visited(client).await;
    let steps = json!([{"event": "visit"}, {"event": "ask", "optional": true}, {"event": "buy"}]);
    let funnel = over(&json!({"steps": steps}));
    let found = answer(client, "funnel", &funnel).await["results"].clone();
    assert_eq!(
        (&found["counts"], &found["conversion_rates"]),
        (&json!([4, 2, 2]), &json!([100, 50, 50])),
        "{found}"
    );
    assert_eq!(
        found["avg_seconds"],
        json!([null, 10_800, 9000]),
        "from the last step that everybody takes: {found}"
    );
    let rate = over(&json!({"steps": steps, "viz": "trends"}));
    let rate = answer(client, "funnel", &rate).await["results"].clone();
    assert_eq!(
        (&rate["reached_from_step"][0], &rate["reached_to_step"][0]),
        (&json!(4), &json!(2)),
        "{rate}"
    );

    let people = async |step: usize, outcome: &str| {
        let question = json!({"funnel": funnel, "step": step, "outcome": outcome});
        let answer = answer(client, "funnel/people", &question).await;
        let people = answer["people"].as_array().unwrap().iter();
        let mut found: Vec<(String, usize)> = people
            .map(|one| {
                let left_out = one["steps"].as_array().unwrap().iter().filter(|at| at.is_null()).count();
                (one["distinct_ids"][0].as_str().unwrap().to_owned(), left_out)
            })
            .collect();
        found.sort();
        found
    };
    let is = |names: &[(&str, usize)]| {
        names.iter().map(|(name, out)| ((*name).to_owned(), *out)).collect::<Vec<_>>()
    };
    assert_eq!(people(1, "converted").await, is(&[("ann", 0), ("cid", 0)]));
    assert_eq!(people(1, "dropped").await, is(&[("bob", 1), ("dan", 0)]));
    assert_eq!(people(2, "converted").await, is(&[("ann", 0), ("bob", 1)]));
    assert_eq!(people(2, "dropped").await, is(&[("cid", 0), ("dan", 0)]));

    groups_take_steps(client, &steps).await;
    sandbox.stop().await;
}

/// Instead of people.
async fn groups_take_steps(client: &Client, steps: &Value) {
    // Companies: x has all three, of two people; y visits and asks; dan is of none.
    let by = |kind: &str, property: &str| {
        over(&json!({"steps": steps, "aggregate_by": {"type": kind, "property": property}}))
    };
    for (kind, property) in [("group", "company"), ("event", "order"), ("hogql", "lower(properties.order)")] {
        let found = answer(client, "funnel", &by(kind, property)).await["results"]["counts"].clone();
        assert_eq!(found, json!([2, 2, 1]), "{kind}");
    }
    let bought = json!({"funnel": by("group", "company"), "step": 2});
    let companies = answer(client, "funnel/people", &bought).await["people"].clone();
    assert_eq!((&companies[0]["id"], companies.as_array().unwrap().len()), (&json!("x"), 1), "{companies}");
    assert_eq!(companies[0]["distinct_ids"], json!(["ann", "bob"]), "{companies}");

    let step = |fields: Value| json!([{"event": "visit"}, fields, {"event": "buy"}]);
    for (question, field) in [
        (json!({"steps": [{"event": "a", "optional": true}, {"event": "b"}]}), "steps[0].optional"),
        (
            json!({"order": "strict", "steps": step(json!({"event": "ask", "optional": true}))}),
            "steps[1].optional",
        ),
        (
            json!({"viz": "trends", "to_step": 1, "steps": step(json!({"event": "ask", "optional": true}))}),
            "to_step",
        ),
        (
            json!({"steps": steps, "aggregate_by": {"type": "hogql", "property": "count()"}}),
            "aggregate_by.property",
        ),
        (json!({"steps": steps, "aggregate_by": {"kind": "group", "property": "0"}}), "aggregate_by.kind"),
    ] {
        assert_eq!(refused(client, "funnel", &over(&question)).await, field, "{question}");
    }
    let around = json!({"funnel": {"funnel": by("group", "company"), "step": 0, "part": "after"}});
    assert_eq!(refused(client, "paths", &over(&around)).await, "funnel.funnel.aggregate_by");
}

async fn visited(client: &Client) {
    let at = |name: &str, distinct_id: &str, hour: u32, properties: &Value| {
        let timestamp = format!("2026-01-05T{hour:02}:00:00Z");
        json!({"event": name, "distinct_id": distinct_id, "timestamp": timestamp, "properties": properties})
    };
    let of = |company: &str| json!({"$groups": {"company": company}, "order": company.to_uppercase()});
    client
        .accept(&json!([
            at("visit", "ann", 1, &of("x")),
            at("ask", "ann", 2, &of("x")),
            at("buy", "ann", 4, &of("x")),
            at("visit", "bob", 1, &of("y")),
            at("buy", "bob", 3, &of("x")),
            at("visit", "cid", 1, &of("y")),
            at("ask", "cid", 6, &of("y")),
            at("visit", "dan", 2, &json!({})),
        ]))
        .await;
    client.settled(8).await;
}

//! Every aggregation, windows, groups, filters, meters, features, and bad questions.

use super::*;

on_every_log! {
    usage_is_exact_to_the_last_digit
    windows_groups_and_buckets_add_up
    values_that_the_store_adds_up_come_to_what_each_of_them_does
    a_meter_measures_the_past_as_it_was_defined_then
}

/// A day of calls of two customers, with values of every kind.
fn calls() -> Vec<Value> {
    let mut events = Vec::new();
    let at = |minute: i64| format!("2026-01-31T{:02}:{:02}:00Z", minute / 60, minute % 60);
    for index in 0..10_i64 {
        let properties = json!({"tokens": "0.1", "region": if index % 2 == 0 { "eu" } else { "us" }});
        events.push(event(&format!("a{index}"), "ada", &at(index * 60), &properties));
    }
    // Numbers longer than a float keeps, as numbers and as text, and one with spaces around it.
    for (index, json) in
        [r#"{"tokens": 12345678901234567.123456789}"#, r#"{"tokens":"0.000000000000000001"}"#]
            .into_iter()
            .enumerate()
    {
        let properties: Box<serde_json::value::RawValue> = serde_json::from_str(json).unwrap();
        let text = event(&format!("b{index}"), "bob", &at(600 + index as i64), &json!({})).to_string();
        let text = text.replace(r#""properties":{}"#, &format!(r#""properties":{}"#, properties.get()));
        events.push(json!({ "text": text }));
    }
    events.push(event("b2", "bob", &at(700), &json!({"tokens": null})));
    events.push(event("b3", "bob", &at(701), &json!({"tokens": "many"})));
    events.push(event("b4", "bob", &at(702), &json!({})));
    events.push(
        json!({ "text": event("b5", "bob", &at(703), &json!({})).to_string().replace(r#""properties":{}"#,
        r#""properties":{"tokens":0.1234567890123456789}"#) }),
    );
    events
}

/// Sends [`calls`]: those that a `Value` cannot hold exactly as the text they are.
async fn send_calls(client: &Client) {
    let (texts, values): (Vec<Value>, Vec<Value>) =
        calls().into_iter().partition(|event| event.get("text").is_some());
    for text in texts {
        let body = text["text"].as_str().unwrap().to_owned();
        let request = client.http.post(format!("{}/v1/events", client.url)).header("X-API-Key", &client.key);
        let answer = request.header("Content-Type", "application/json").body(body).send().await.unwrap();
        assert_eq!(answer.status(), 202);
    }
    stored(client, &values).await;
}

const RANGE: (&str, &str) = ("2026-01-31T00:00:00Z", "2026-02-01T00:00:00Z");

#[expect(clippy::needless_pass_by_value, reason = "callers make it with json!")]
fn question(kind: &str, more: Value) -> Value {
    let mut question = json!({
        "event_name": "call", "aggregation_type": kind, "start_time": RANGE.0, "end_time": RANGE.1,
    });
    if kind != "COUNT" {
        question["property_name"] = "tokens".into();
    }
    for (key, value) in more.as_object().unwrap() {
        question[key] = value.clone();
    }
    question
}

pub(crate) async fn usage_is_exact_to_the_last_digit(log: Log) {
    let app = Sandbox::on(log).await;
    let client = &app.client;
    send_calls(client).await;
    for (kind, more, value) in [
        ("COUNT", json!({}), "16"),
        ("COUNT", json!({"external_customer_id": "ada"}), "10"),
        ("SUM", json!({"external_customer_id": "ada"}), "1"),
        ("SUM", json!({}), "12345678901234568.123456789000000001"),
        ("SUM", json!({"external_customer_id": "nobody"}), "0"),
        ("AVG", json!({"external_customer_id": "ada"}), "0.1"),
        ("MAX", json!({}), "12345678901234567.123456789"),
        ("MIN", json!({}), "0.000000000000000001"),
        ("LATEST", json!({"external_customer_id": "bob"}), "0.000000000000000001"),
        ("COUNT_UNIQUE", json!({"external_customer_id": "ada"}), "1"),
        ("COUNT_UNIQUE", json!({"property_name": "region"}), "2"),
        ("SUM_WITH_MULTIPLIER", json!({"external_customer_id": "ada", "multiplier": "0.003"}), "0.003"),
        // 0.1 × (24 + 23 + … + 15) / 24
        ("WEIGHTED_SUM", json!({"external_customer_id": "ada"}), "0.8125"),
        ("SUM", json!({"filters": {"region": ["us"]}}), "0.5"),
        ("SUM", json!({"filters": {"region": ["us", "eu"], "tokens": ["0.1"]}}), "1"),
        (
            "SUM",
            json!({"property_name": "", "expression": "coalesce(tokens, 0) * 2 + 1", "external_customer_id": "ada"}),
            "12",
        ),
    ] {
        let asked = question(kind, more);
        let answer = usage(client, &asked).await;
        assert_eq!(answer["exact_value"], value, "{asked}: {answer}");
    }
    // What is not counted is said, and is not 0.
    let bob = usage(client, &question("AVG", json!({"external_customer_id": "bob"}))).await;
    let counts = ["event_count", "missing_count", "not_numeric_count", "too_precise_count"];
    assert_eq!(counts.map(|name| bob[name].as_u64().unwrap()), [6, 2, 1, 1], "{bob}");
    assert_eq!(bob["exact_value"], "6172839450617283.561728394500000000".trim_end_matches('0'));
    let none = usage(client, &question("MAX", json!({"external_customer_id": "nobody"}))).await;
    assert_eq!((&none["value"], &none["has_value"]), (&json!(0), &json!(false)));
    app.stop().await;
}

async fn windows_groups_and_buckets_add_up(log: Log) {
    let app = Sandbox::on(log).await;
    let client = &app.client;
    send_calls(client).await;
    let points = |answer: &Value| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        answer["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|point| (text(&point["window_size"]), text(&point["exact_value"])))
            .collect()
    };
    let pair = |start: &str, value: &str| (start.to_owned(), value.to_owned());
    let ada = json!({"external_customer_id": "ada", "window_size": "6HOUR"});
    let six = usage(client, &question("SUM", ada)).await;
    assert_eq!(points(&six), [pair("2026-01-31T00:00:00Z", "0.6"), pair("2026-01-31T06:00:00Z", "0.4")]);
    assert_eq!(six["exact_value"], "1");
    let zoned = json!({"external_customer_id": "ada", "window_size": "DAY", "timezone": "America/New_York"});
    let zoned = usage(client, &question("SUM", zoned)).await;
    assert_eq!(
        points(&zoned),
        [pair("2026-01-30T00:00:00-05:00", "0.5"), pair("2026-01-31T00:00:00-05:00", "0.5")]
    );
    let month = json!({"window_size": "MONTH", "billing_anchor": 31, "external_customer_id": "ada"});
    let month = usage(client, &question("COUNT", month)).await;
    assert_eq!(points(&month), [pair("2026-01-31T00:00:00Z", "10")]);
    // Without windows the groups alone.
    let groups = json!({"external_customer_id": "ada", "group_by": ["properties.region", "source"]});
    let groups = usage(client, &question("SUM", groups)).await;
    let of_group: Vec<&Value> =
        groups["results"].as_array().unwrap().iter().map(|point| &point["group"]).collect();
    let group = |region: &str| json!({"properties.region": region, "source": "api"});
    assert_eq!(of_group, [&group("eu"), &group("us")]);
    assert_eq!(points(&groups), [pair("", "0.5"), pair("", "0.5")]);
    let customers = usage(client, &question("COUNT", json!({"group_by": ["external_customer_id"]}))).await;
    let named = customers["results"].as_array().unwrap().iter();
    let named: Vec<&str> = named.map(|one| one["group"]["external_customer_id"].as_str().unwrap()).collect();
    assert!(named.contains(&"ada") && named.is_sorted(), "{named:?}");
    // The largest of each hour, summed; of each hour and region, summed.
    let hours = json!({"external_customer_id": "ada", "bucket_size": "12HOUR"});
    let hours = usage(client, &question("MAX", hours)).await;
    assert_eq!((points(&hours).len(), &hours["exact_value"]), (1, &json!("0.1")));
    let regions =
        json!({"external_customer_id": "ada", "bucket_size": "12HOUR", "group_by_property": "region"});
    let regions = usage(client, &question("MAX", regions)).await;
    assert_eq!(regions["exact_value"], "0.2", "{regions}");
    app.stop().await;
}

/// Numbers in every spelling, about the bounds of what the store adds up by itself, as JSON.
const SPELLED: [&str; 24] = [
    r#""-0""#,
    r#""007""#,
    r#""1.""#,
    r#"".5""#,
    r#""+5""#,
    r#""1e3""#,
    "2.5e2",
    r#"" 5 ""#,
    r#""\u0035""#,
    "-7.25",
    "0",
    r#""999999999999999""#,
    r#""1000000000000000""#,
    "999999999999999",
    "1000000000000000",
    "123456789012.345",
    "123456789012345.5",
    r#""0.000000000000000001""#,
    r#""0.0000000000000000001""#,
    r#""0.123456789012345678""#,
    r#""0.1234567890123456""#,
    "true",
    "null",
    r#""-""#,
];

async fn values_that_the_store_adds_up_come_to_what_each_of_them_does(log: Log) {
    let app = Sandbox::on_with(log, &[("metering.values_max", "300")]).await;
    let client = &app.client;
    let spelled = SPELLED.iter().map(|text| (*text).to_owned());
    let plain = (0..400).map(|n| format!("{}{n}.{:03}", if n % 3 == 0 { "-" } else { "" }, n * 7 % 1000));
    let events: Vec<String> = spelled
        .chain(plain)
        .enumerate()
        .map(|(n, value)| {
            let at = format!("2026-01-31T{:02}:{:02}:00.{:03}Z", n % 24, n % 60, n % 1000);
            let customer = if n < SPELLED.len() + 100 { "few" } else { "many" };
            let event = event(&format!("v{n}"), customer, &at, &json!({"region": n % 3}));
            event.to_string().replace(r#""properties":{"#, &format!(r#""properties":{{"tokens":{value},"#))
        })
        .collect();
    for part in events.chunks(100) {
        let body = format!(r#"{{"events":[{}]}}"#, part.join(","));
        let request =
            client.http.post(format!("{}/v1/events/bulk", client.url)).header("X-API-Key", &client.key);
        let answer = request.header("Content-Type", "application/json").body(body).send().await.unwrap();
        assert_eq!(answer.status(), 202);
    }
    stored(client, &[]).await;
    for (kind, more) in [
        ("SUM", json!({})),
        ("SUM", json!({"bucket_size": "6HOUR"})),
        ("AVG", json!({"group_by": ["properties.region"]})),
        ("MAX", json!({"window_size": "3HOUR", "timezone": "Asia/Kathmandu"})),
        ("MIN", json!({"window_size": "DAY", "group_by": ["properties.region"]})),
        ("LATEST", json!({"window_size": "HOUR"})),
        ("SUM_WITH_MULTIPLIER", json!({"multiplier": "0.0015"})),
        ("SUM_WITH_MULTIPLIER", json!({"multiplier": "0.000000000000000015"})),
        ("WEIGHTED_SUM", json!({"window_size": "6HOUR", "group_by": ["properties.region"]})),
    ] {
        let mut asked = question(kind, more);
        asked["external_customer_id"] = "few".into();
        let added_up = usage(client, &asked).await;
        // Arithmetic is done value by value.
        asked["property_name"] = "".into();
        asked["expression"] = "tokens + 0".into();
        let one_by_one = usage(client, &asked).await;
        for field in [
            "exact_value",
            "has_value",
            "results",
            "event_count",
            "missing_count",
            "not_numeric_count",
            "too_precise_count",
        ] {
            assert_eq!(added_up[field], one_by_one[field], "{asked}: {field}");
        }
        assert_eq!(added_up["not_numeric_count"], 4, "{added_up}");
    }
    // However many different values there are.
    let everybody = usage(client, &question("SUM", json!({}))).await;
    assert_eq!(everybody["event_count"], events.len());
    let each = question("SUM", json!({"property_name": "", "expression": "tokens + 0"}));
    let (status, refused) = client.post("/v1/events/usage", &each).await;
    assert_eq!((status, &refused["details"]["setting"]), (400, &json!("metering.values_max")), "{refused}");
    app.stop().await;
}

async fn a_meter_measures_the_past_as_it_was_defined_then(log: Log) {
    let app = Sandbox::on(log).await;
    let client = &app.client;
    send_calls(client).await;
    let meter = json!({
        "name": "tokens", "event_name": "call", "aggregation": {"type": "SUM", "field": "tokens"},
        "filters": [{"key": "region", "values": ["eu"]}], "unit": "token",
    });
    let (status, made) = client.operator_post("/v1/meters", &meter).await;
    assert_eq!((status, &made["version"]), (201, &json!(1)), "{made}");
    let id = made["id"].as_str().unwrap();
    let asked = json!({"meter_id": id, "start_time": RANGE.0, "end_time": RANGE.1, "window_size": "12HOUR"});
    let (status, answer) = client.post("/v1/events/usage/meter", &asked).await;
    assert_eq!((status, &answer["exact_value"]), (200, &json!("0.5")), "{answer}");
    assert_eq!((&answer["type"], &answer["event_name"]), (&json!("SUM"), &json!("call")));
    // From 05:00 on every region counts, threefold.
    let change = json!({
        "filters": [], "aggregation": {"type": "SUM", "expression": "tokens * 3"},
        "effective_from": "2026-01-31T05:00:00Z",
    });
    let request =
        client.http.put(format!("{}/v1/meters/{id}", client.url)).bearer_auth(&client.operator_token);
    let changed: Value = request.json(&change).send().await.unwrap().json().await.unwrap();
    assert_eq!(changed["version"], 2, "{changed}");
    let mut ada = asked.clone();
    ada["external_customer_id"] = "ada".into();
    // Three of the first five, then five times 0.3.
    let (_, answer) = client.post("/v1/meter-usage/query", &ada).await;
    assert_eq!(answer["exact_value"], "1.8", "{answer}");
    let (_, versions) = client.get(&format!("/v1/meters/{id}/versions")).await;
    assert_eq!(versions["items"].as_array().unwrap().len(), 2);

    let feature =
        json!({"name": "AI tokens", "meter_id": id, "unit_singular": "token", "unit_plural": "tokens"});
    let (status, feature) = client.operator_post("/v1/features", &feature).await;
    assert_eq!((status, &feature["lookup_key"]), (201, &json!("ai_tokens")), "{feature}");
    let asked = json!({"external_customer_id": "ada", "start_time": RANGE.0, "end_time": RANGE.1, "window_size": "DAY"});
    let (status, analytics) = client.post("/v1/events/analytics", &asked).await;
    assert_eq!(status, 200, "{analytics}");
    let item = &analytics["items"][0];
    assert_eq!(
        (&item["total_usage"], &item["feature_id"], &item["unit_plural"]),
        (&json!("1.8"), &feature["id"], &json!("tokens"))
    );
    assert_eq!(
        (&item["points"][0]["usage"], &item["points"][0]["timestamp"]),
        (&json!("1.8"), &json!("2026-01-31T00:00:00Z"))
    );
    let none = json!({"feature_ids": ["unknown"]});
    assert_eq!(client.post("/v1/events/analytics", &none).await.1["items"], json!([]));

    // The debug view says which meters count an event and why the others do not.
    let (status, found) = client.get("/v1/events/lookup?id=a0&external_customer_id=ada").await;
    assert_eq!((status, &found["status"]), (200, &json!("processed")), "{found}");
    assert_eq!(found["processed_events"][0]["qty_total"], "0.1");
    let (_, other) = client.get("/v1/events/a1").await;
    assert_eq!(other["meters"][0]["why"]["reason"], "filter", "{other}");
    assert_eq!(other["debug_tracker"]["meter_matching"]["status"], "not_found");
    let (status, _) = client.get("/v1/events/lookup?id=a0&external_customer_id=bob").await;
    assert_eq!(status, 404);
    let (status, _) = client.get("/v1/events/no%2Fsuch").await;
    assert_eq!(status, 404);
    beside_windows(client, &asked).await;
    app.stop().await;
}

/// Totals that are no sums of their windows.
async fn beside_windows(client: &Client, asked: &Value) {
    // A meter that never begins anew counts all of the past in its total, and in windows what is in them.
    let never = json!({"name": "seats", "event_name": "call", "aggregation": {"type": "SUM", "field": "tokens"},
                       "reset_usage": "NEVER"});
    let (status, never) = client.operator_post("/v1/meters", &never).await;
    assert_eq!(status, 201, "{never}");
    let since = json!({"meter_id": never["id"], "external_customer_id": "ada", "start_time": "2026-01-31T05:00:00Z",
                       "end_time": RANGE.1, "window_size": "DAY"});
    let (_, answer) = client.post("/v1/events/usage/meter", &since).await;
    assert_eq!(
        (&answer["exact_value"], &answer["results"][0]["exact_value"]),
        (&json!("1"), &json!("0.5")),
        "{answer}"
    );
    // What does not add up over windows has its total all the same.
    let largest =
        json!({"name": "largest", "event_name": "call", "aggregation": {"type": "MAX", "field": "tokens"}});
    let (status, largest) = client.operator_post("/v1/meters", &largest).await;
    assert_eq!(status, 201, "{largest}");
    let feature = json!({"name": "Largest", "meter_id": largest["id"]});
    let (status, feature) = client.operator_post("/v1/features", &feature).await;
    assert_eq!(status, 201, "{feature}");
    let mut grouped = asked.clone();
    (grouped["feature_ids"], grouped["window_size"]) = (json!([feature["id"]]), "6HOUR".into());
    grouped["group_by"] = json!(["properties.region"]);
    let (status, analytics) = client.post("/v1/events/analytics", &grouped).await;
    let items = analytics["items"].as_array().unwrap();
    assert_eq!((status, items.len()), (200, 2), "{analytics}");
    for item in items {
        let told = (&item["total_usage"], &item["has_value"], item["points"].as_array().unwrap().len());
        assert_eq!(told, (&json!("0.1"), &json!(true), 2), "{item}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_in_a_question_is_named() {
    let app = Sandbox::start().await;
    let client = &app.client;
    let wrong = |more: Value| question("SUM", more);
    let cases = [
        (json!({"aggregation_type": "SUM"}), "event_name"),
        (json!({"event_name": "call"}), "aggregation_type"),
        (wrong(json!({"event_name": ""})), "event_name"),
        (wrong(json!({"aggregation_type": "TOTAL"})), "aggregation_type"),
        (wrong(json!({"property_name": ""})), "property_name"),
        (wrong(json!({"property_name": "a", "expression": "b"})), "expression"),
        (wrong(json!({"property_name": "", "expression": "(select 1)"})), "expression"),
        (wrong(json!({"aggregation_type": "COUNT"})), "property_name"),
        (wrong(json!({"multiplier": "2"})), "multiplier"),
        (wrong(json!({"aggregation_type": "SUM_WITH_MULTIPLIER"})), "multiplier"),
        (wrong(json!({"aggregation_type": "SUM_WITH_MULTIPLIER", "multiplier": "-1"})), "multiplier"),
        (wrong(json!({"aggregation_type": "AVG", "bucket_size": "DAY"})), "bucket_size"),
        (wrong(json!({"bucket_size": "YEAR"})), "bucket_size"),
        (wrong(json!({"window_size": "QUARTER"})), "window_size"),
        (wrong(json!({"window_size": "MINUTE", "start_time": "2020-01-01T00:00:00Z"})), "window_size"),
        (wrong(json!({"timezone": "Mars/Phobos"})), "timezone"),
        (wrong(json!({"billing_anchor": 32})), "billing_anchor"),
        (wrong(json!({"billing_anchor": "soon"})), "billing_anchor"),
        (wrong(json!({"billing_anchor": [1]})), "billing_anchor"),
        (wrong(json!({"group_by": ["region"]})), "group_by[0]"),
        (wrong(json!({"group_by": ["source", "source"]})), "group_by[1]"),
        (wrong(json!({"filters": {"region": []}})), "filters.region"),
        (wrong(json!({"filters": {"region": "eu"}})), "filters.region"),
        (wrong(json!({"start_time": "now"})), "start_time"),
        (wrong(json!({"start_time": RANGE.1, "end_time": RANGE.0})), "end_time"),
        (wrong(json!({"as_of": "2999-01-01T00:00:00Z"})), "as_of"),
        (wrong(json!({"aggregation": "SUM"})), "aggregation"),
    ];
    for (body, field) in cases {
        let (status, answer) = client.post("/v1/events/usage", &body).await;
        assert_eq!((status, &answer["details"]["field"]), (400, &json!(field)), "{body}: {answer}");
    }
    let meter = |more: Value| {
        let mut meter =
            json!({"name": "m", "event_name": "call", "aggregation": {"type": "SUM", "field": "x"}});
        for (key, value) in more.as_object().unwrap() {
            meter[key] = value.clone();
        }
        meter
    };
    for (body, field) in [
        (meter(json!({"name": ""})), "name"),
        (meter(json!({"event_name": " "})), "event_name"),
        (meter(json!({"aggregation": {"type": "SUM"}})), "aggregation.field"),
        (meter(json!({"aggregation": {"type": "TOTAL", "field": "x"}})), "aggregation.type"),
        (meter(json!({"aggregation": {"type": "SUM", "expression": "a +"}})), "aggregation.expression"),
        (meter(json!({"filters": [{"key": "k", "values": []}]})), "filters[0].values"),
        (meter(json!({"reset_usage": "DAILY"})), "reset_usage"),
        (meter(json!({"nmae": "m"})), "nmae"),
    ] {
        let (status, answer) = client.operator_post("/v1/meters", &body).await;
        assert_eq!((status, &answer["details"]["field"]), (400, &json!(field)), "{body}: {answer}");
    }
    let (status, answer) =
        client.operator_post("/v1/features", &json!({"name": "f", "meter_id": "meter_x"})).await;
    assert_eq!((status, &answer["details"]["field"]), (400, &json!("meter_id")));
    let (status, _) = client.post("/v1/events/usage/meter", &json!({"meter_id": "meter_x"})).await;
    assert_eq!(status, 404);
    let (status, _) = client.post("/v1/meters", &meter(json!({}))).await;
    assert_eq!(status, 403, "a key that may not manage");
    let (status, answer) = client.post("/v1/events/huggingface-billing", &json!({"requestIds": []})).await;
    assert_eq!((status, &answer["details"]["field"]), (400, &json!("requestIds")));
    app.stop().await;
}

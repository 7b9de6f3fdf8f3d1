//! Tracked usage says the same as the events: while they come in, for meters made later, after changes, corrections and
//! a restart.

use super::*;

on_every_log! {
    tracked_usage_says_the_same_as_the_events
    an_event_that_no_meter_counts_is_told_of_once_a_name
    reprocessed_events_are_metered_once_and_those_of_the_past_go_behind_what_comes_in
}

const SETTINGS: [(&str, &str); 2] = [("metering.tracking", "true"), ("metering.cache_ttl", "100ms")];
const RANGE: (&str, &str) = ("2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z");

/// Events of two months, with values of every kind; from `first` on.
fn events(first: u64, count: u64) -> Vec<Value> {
    (first..first + count)
        .map(|n| {
            let at = format!("2026-0{}-{:02}T{:02}:30:00Z", 1 + n % 2, 1 + n % 28, n % 24);
            let region = if n % 3 == 0 { "eu" } else { "us" };
            let properties = match n % 11 {
                0 => json!({"region": region}),
                1 => json!({"region": region, "tokens": "none"}),
                2 => json!({"region": region, "tokens": "0.1234567890123456789"}),
                _ => json!({"region": region, "tokens": format!("{n}.000000000000000001"), "cached": n % 5}),
            };
            let mut event = event(&format!("t::{n}"), &format!("cust-{}", n % 4), &at, &properties);
            event["source"] = ["api", "web"][usize::try_from(n % 2).unwrap()].into();
            event
        })
        .collect()
}

/// A meter as it is made, and the same as an ad-hoc question over events.
struct Pair {
    id: String,
    question: Value,
}

async fn meter(client: &Client, kind: &str, expression: &str, eu_only: bool) -> Pair {
    let filters = if eu_only { json!([{"key": "region", "values": ["eu"]}]) } else { json!([]) };
    let mut aggregation = json!({"type": kind});
    let mut question = json!({"event_name": "call", "aggregation_type": kind});
    if kind != "COUNT" {
        aggregation["expression"] = expression.into();
        question["expression"] = expression.into();
    }
    if eu_only {
        question["filters"] = json!({"region": ["eu"]});
    }
    let body = json!({"name": kind, "event_name": "call", "aggregation": aggregation, "filters": filters});
    let (status, made) = client.operator_post("/v1/meters", &body).await;
    assert_eq!(status, 201, "{made}");
    rebuilt(client, &made).await;
    Pair { id: made["id"].as_str().unwrap().to_owned(), question }
}

/// Waits for the rebuild that an answer names, and says what it did.
async fn rebuilt(client: &Client, answer: &Value) -> Value {
    let job = answer["rebuild_job_id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    eventually("the rebuild is done", || async {
        let (_, found) = client.operator_get(&format!("/api/jobs/{job}")).await;
        match found["state"].as_str() {
            Some("succeeded") => Ok(found["progress"].clone()),
            Some("failed") => panic!("{found}"),
            _ => Err(found.to_string()),
        }
    })
    .await
}

/// Both ways of asking say the same, and the meter's was read from tracked usage.
async fn assert_same(client: &Client, pairs: &[Pair]) {
    for pair in pairs {
        for more in [
            json!({}),
            json!({"window_size": "DAY", "timezone": "Asia/Kathmandu"}),
            json!({"window_size": "MONTH", "billing_anchor": 15, "external_customer_id": "cust-1"}),
            json!({"group_by": ["source"], "window_size": "WEEK"}),
            json!({"group_by": ["external_customer_id", "source"], "window_size": "MONTH"}),
        ] {
            let mut asked = json!({"meter_id": pair.id, "start_time": RANGE.0, "end_time": RANGE.1});
            let mut question = pair.question.clone();
            (question["start_time"], question["end_time"]) = (RANGE.0.into(), RANGE.1.into());
            for (key, value) in more.as_object().unwrap() {
                asked[key] = value.clone();
                question[key] = value.clone();
            }
            let (status, tracked) = client.post("/v1/events/usage/meter", &asked).await;
            assert_eq!((status, &tracked["read_from"]), (200, &json!("feature_usage")), "{asked}: {tracked}");
            let counted = usage(client, &question).await;
            assert_eq!(counted["read_from"], "events");
            for field in
                ["exact_value", "has_value", "results", "event_count", "missing_count", "not_numeric_count"]
            {
                assert_eq!(tracked[field], counted[field], "{asked}: {field}");
            }
        }
    }
}

pub(crate) async fn tracked_usage_says_the_same_as_the_events(log: Log) {
    let app = Sandbox::on_with(log, &SETTINGS).await;
    let client = &app.client;
    let mut pairs = vec![
        meter(client, "SUM", "tokens", true).await,
        meter(client, "COUNT", "", false).await,
        meter(client, "AVG", "tokens - coalesce(cached, 0)", false).await,
    ];
    stored(client, &events(0, 300)).await;
    // Sent again as they were, and with another day: counted once both ways.
    stored(client, &events(0, 50)).await;
    let mut moved = events(50, 20);
    for event in &mut moved {
        event["timestamp"] = "2026-02-20T00:00:00Z".into();
    }
    stored(client, &moved).await;
    assert_same(client, &pairs).await;

    // Meters that come later count all of the past.
    for (kind, eu_only) in [("MAX", false), ("MIN", true), ("LATEST", false)] {
        pairs.push(meter(client, kind, "tokens", eu_only).await);
    }
    stored(client, &events(300, 100)).await;
    assert_same(client, &pairs).await;

    // A change of the past says what it changed.
    let change = json!({"filters": [], "effective_from": "2026-01-01T00:00:00Z"});
    let request = client.http.put(format!("{}/v1/meters/{}", client.url, pairs[0].id));
    let changed: Value =
        request.bearer_auth(&client.operator_token).json(&change).send().await.unwrap().json().await.unwrap();
    let did = rebuilt(client, &changed).await;
    assert!(did["added"].as_u64().unwrap() > 200 && did["removed"] == 0, "{did}");
    pairs[0].question.as_object_mut().unwrap().remove("filters");
    assert_same(client, &pairs).await;

    // So do corrections.
    let (status, answer) =
        client.operator_post("/v1/events/void", &json!({"event_id": "t::7", "reason": "test"})).await;
    assert_eq!(status, 200, "{answer}");
    for (id, more) in [
        ("t::8", json!({"properties": {"tokens": "5", "region": "us"}})),
        ("t::9", json!({"timestamp": "2026-02-11T00:00:00Z", "external_customer_id": "cust-1"})),
        ("t::14", json!({"event_name": "other"})),
    ] {
        let mut body = json!({"event_id": id, "reason": "test"});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        let (status, answer) = client.operator_post("/v1/events/amend", &body).await;
        assert_eq!(status, 200, "{answer}");
    }
    assert_same(client, &pairs).await;
    let app = app.restart(&SETTINGS).await;
    stored(&app.client, &events(400, 50)).await;
    assert_same(&app.client, &pairs).await;

    // What the rows do not hold is answered from events.
    let asked = json!({"meter_id": pairs[0].id, "start_time": RANGE.0, "end_time": RANGE.1, "filters": {"region": ["eu"]}});
    let (_, answer) = app.client.post("/v1/events/usage/meter", &asked).await;
    assert_eq!(answer["read_from"], "events");

    // Events that are deleted in the store count no more once their days are computed again.
    let deleted =
        "INSERT INTO events SELECT * REPLACE (1 AS is_deleted, version + 1 AS version) FROM events FINAL";
    app.running.store().unwrap().execute(flexflow::store::Sql::new(deleted)).await.unwrap();
    let change = json!({"filters": [{"key": "region", "values": ["eu"]}], "effective_from": RANGE.0});
    let request = app.client.http.put(format!("{}/v1/meters/{}", app.client.url, pairs[0].id));
    let request = request.bearer_auth(&app.client.operator_token).json(&change);
    let did = rebuilt(&app.client, &request.send().await.unwrap().json().await.unwrap()).await;
    assert!(did["removed"].as_u64().unwrap() > 400, "{did}");
    pairs[0].question["filters"] = json!({"region": ["eu"]});
    assert_same(&app.client, &pairs[..1]).await;
    app.stop().await;
}

/// Nothing is left for any group of any topic.
async fn quiet(client: &Client) {
    eventually("no group has anything left", || async {
        let (_, lag) = client.operator_get("/api/ops/lag").await;
        let left: i64 =
            lag["groups"].as_array().ok_or("no groups")?.iter().filter_map(|row| row["lag"].as_i64()).sum();
        if left == 0 { Ok(()) } else { Err(format!("lag {left}")) }
    })
    .await;
}

/// The lag of one group.
async fn behind(client: &Client, group: &str) -> i64 {
    let (_, lag) = client.operator_get("/api/ops/lag").await;
    let rows = lag["groups"].as_array().unwrap().iter().filter(|row| row["group"] == group);
    rows.filter_map(|row| row["lag"].as_i64()).sum()
}

#[expect(
    clippy::too_many_lines,
    reason = "one story: what was tracked, reprocessed, deleted and tracked again"
)]
async fn reprocessed_events_are_metered_once_and_those_of_the_past_go_behind_what_comes_in(log: Log) {
    let more =
        [("transform.cache_ttl", "20ms"), ("jobs.poll_interval", "50ms"), ("consumer.batch_rows_max", "50")];
    let app = Sandbox::on_with(log, &[&SETTINGS[..], &more[..]].concat()).await;
    let client = &app.client;
    let transform = |drop: &str, name: &str, who: &str, at: &str, tokens: &str| {
        format!(
            "[[drop]]\nwhen = \"{drop}\"\nreason = \"test\"\n[[event]]\nid = \"id\"\nevent_name = \"{name}\"\n\
             distinct_id = \"{who}\"\ntimestamp = \"{at}\"\n\
             properties = [{{ name = \"tokens\", value = \"{tokens}\" }}, {{ name = \"region\", value = \"'eu'\" }}]\n"
        )
    };
    let first = transform("id == 'none'", "'call'", "who", "time(at)", "n");
    crate::raw::apply(client, &first).await;
    let pairs = vec![
        meter(client, "SUM", "tokens", true).await,
        meter(client, "COUNT", "", false).await,
        meter(client, "LATEST", "tokens", false).await,
    ];
    let payloads: Vec<Value> = (0..40)
        .map(|n| {
            json!({"id": format!("raw-{n}"), "who": format!("cust-{}", n % 4), "n": format!("{n}.25"),
                   "at": format!("2026-01-{:02}T10:00:00Z", 10 + n % 2), "kind": n % 8})
        })
        .collect();
    crate::raw::send(client, &payloads).await;
    quiet(client).await;
    assert_same(client, &pairs).await;
    let question = json!({"event_name": "call", "aggregation_type": "SUM", "property_name": "tokens",
                          "start_time": RANGE.0, "end_time": RANGE.1});
    assert_eq!(usage(client, &question).await["exact_value"], "790");

    // Other values; some have another name, another customer, another month; some are no events any more.
    let second = transform(
        "kind == 0",
        "if(kind == 1, 'other', 'call')",
        "if(kind == 2, 'cust-1', who)",
        "if(kind == 3, '2026-02-03T00:00:00Z', time(at))",
        "concat('1', n)",
    );
    crate::raw::apply(client, &second).await;
    let order = json!({"start_date": "2026-01-01T00:00:00Z"});
    for _ in 0..2 {
        let result = crate::raw::ended(client, &crate::raw::start(client, &order).await).await;
        assert_eq!(result["total_events_published"], 35, "{result}");
        quiet(client).await;
        assert_same(client, &pairs).await;
    }
    assert_eq!(
        usage(
            client,
            &json!({"event_name": "call", "aggregation_type": "COUNT",
        "start_time": RANGE.0, "end_time": RANGE.1})
        )
        .await["exact_value"],
        "30"
    );

    // Somebody deleted what was tracked: events of the past are tracked again, once, as they are stored, and what comes
    // in does not wait for them.
    let store = app.running.store().unwrap();
    store.execute(flexflow::store::Sql::new("TRUNCATE TABLE feature_usage")).await.unwrap();
    let sql = "SELECT project_id, environment_id, event_id, event_name, distinct_id, toString(toDate(timestamp)) AS day \
               FROM events FINAL";
    type Row = (String, String, String, String, String, String);
    let rows: Vec<Row> = store.select(flexflow::store::Sql::new(sql)).await.unwrap();
    assert_eq!(rows.len(), 35);
    let record = |(project, environment, id, name, who, day): &Row| {
        let value = json!({"id": id, "project_id": project, "environment_id": environment, "event_name": name,
            "distinct_id": who, "timestamp": format!("{day}T10:00:00Z"), "properties": {"tokens": "7000"}});
        flexflow::eventlog::NewRecord {
            key: Some(who.clone().into()),
            value: value.to_string().into_bytes().into(),
            headers: Default::default(),
            timestamp: flexflow::event::Clock::now(&flexflow::event::SystemClock),
        }
    };
    let stranger = (
        rows[0].0.clone(),
        rows[0].1.clone(),
        "not stored".into(),
        "call".into(),
        "cust-1".into(),
        "2026-01-10".into(),
    );
    let past: Vec<_> = rows.iter().chain([&stranger]).cycle().take(36 * 240).map(record).collect();
    let topic = app.named("topics.feature_tracking_backfill", "feature_tracking_service_backfill");
    for answer in app.running.log().produce(&topic, past).await {
        answer.unwrap();
    }
    stored(client, &events(0, 60)).await;
    let group = app.named("metering.backfill_group_id", "feature-usage-tracking-backfill");
    let left = behind(client, &group).await;
    assert!(left > 0, "the lane of the past was through before what came in: nothing is shown by that");
    quiet(client).await;
    assert_same(client, &pairs).await;
    app.stop().await;
}

async fn an_event_that_no_meter_counts_is_told_of_once_a_name(log: Log) {
    let app = Sandbox::on_with(log, &SETTINGS).await;
    let client = &app.client;
    meter(client, "COUNT", "", true).await;
    let mut sent = events(0, 6);
    for (index, event) in sent.iter_mut().enumerate().take(4) {
        event["event_name"] = ["mystery", "riddle"][index % 2].into();
    }
    // The topic is gone: that holds no usage up, and is made up for by whatever process has it again.
    app.running.log().delete_topic(&app.system_events_topic()).await.unwrap();
    stored(client, &sent).await;
    let app = app.restart(&SETTINGS).await;
    let told = eventually("both names are told of", || async {
        let mut names: Vec<String> = app
            .records(&app.system_events_topic())
            .await?
            .into_iter()
            .filter(|event| event["event_name"] == "event.unmetered")
            .map(|event| event["payload"]["event_type"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        if names.len() >= 3 { Ok(names) } else { Err(format!("{names:?}")) }
    })
    .await;
    // "call" of the other region is counted by no meter, either.
    assert_eq!(told, ["call", "mystery", "riddle"]);
    app.stop().await;
}

//! Trends: counts against a naive reference, and every option over a real engine.

use std::collections::BTreeMap;

use chrono::{Datelike, Days};
use chrono_tz::Tz;
use flexflow::event::Timestamp;
use serde_json::json;

use super::{Given, Sandbox, given};

/// Events at odd times from 1 March to 12 April 2026: every change of the clocks in spring is among them.
fn spread() -> Vec<Given> {
    let mut state = 42_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let first = Timestamp::parse("2026-03-01T00:00:00Z").unwrap().as_millis();
    (0..3000)
        .map(|index| {
            let at = Timestamp::from_millis(first + i64::try_from(random(42 * 86_400_000)).unwrap());
            let properties = match random(5) {
                0 => "{}".to_owned(),
                1 => r#"{"plan":null,"tag":""}"#.to_owned(),
                2 => format!(r#"{{"plan":{},"tag":true}}"#, random(4)),
                _ => format!(r#"{{"plan":"p{}","tag":"t{}"}}"#, random(6), random(40)),
            };
            let event = if random(3) == 0 { "view" } else { "click" };
            given(
                format!("id-{index}"),
                event,
                &format!("person-{}", random(200)),
                &at.to_string(),
                &properties,
            )
        })
        .collect()
}

/// The date that names an event's bucket.
fn bucket(event: &Given, interval: &str, zone: Tz) -> String {
    let local = event.at.to_utc().with_timezone(&zone);
    let date = local.date_naive();
    match interval {
        "hour" => local.format("%Y-%m-%dT%H:00:00%:z").to_string(),
        "week" => (date - Days::new(date.weekday().num_days_from_monday().into())).to_string(),
        "month" => date.with_day(1).unwrap().to_string(),
        _ => date.to_string(),
    }
}

#[actix_web::test]
async fn counts_are_those_of_a_naive_reference_through_every_change_of_clocks() {
    let sandbox = Sandbox::start().await;
    let events = spread();
    // Two parts, the second with some of the first again: the same events, so nothing counts twice.
    sandbox.insert("env_a", &events[..2000]).await;
    sandbox.insert("env_a", &events[1500..]).await;
    for zone in [Tz::UTC, Tz::America__New_York, Tz::Asia__Kathmandu, Tz::Australia__Sydney] {
        for interval in ["hour", "day", "week", "month"] {
            let question = json!({
                "date_from": "2026-02-27", "date_to": "2026-04-14", "interval": interval,
                "timezone": zone.name(), "week_start": "monday",
                "series": [{"event": "click"}, {"event": null, "math": "dau"}],
            });
            let results = sandbox.trends("env_a", &question).await;
            let mut totals = BTreeMap::<String, u64>::new();
            let mut people = BTreeMap::<String, std::collections::BTreeSet<&str>>::new();
            for event in &events {
                let bucket = bucket(event, interval, zone);
                people.entry(bucket.clone()).or_default().insert(&event.distinct_id);
                *totals.entry(bucket).or_default() += u64::from(event.event == "click");
            }
            for (line, reference) in results.iter().zip([
                totals.clone(),
                people.iter().map(|(bucket, people)| (bucket.clone(), people.len() as u64)).collect(),
            ]) {
                let days =
                    line["days"].as_array().unwrap().iter().map(|day| day.as_str().unwrap().to_owned());
                let data = line["data"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap());
                let found: BTreeMap<String, u64> = days.zip(data).filter(|(_, count)| *count > 0).collect();
                let reference: BTreeMap<_, _> =
                    reference.into_iter().filter(|(_, count)| *count > 0).collect();
                assert_eq!(found, reference, "{zone} {interval}");
            }
        }
    }
    parts_sum_up(&sandbox, &events).await;
    sandbox.end().await;
}

/// `total` = the sum of its breakdown, null and other included = rows of the list.
async fn parts_sum_up(sandbox: &Sandbox, events: &[Given]) {
    let clicks = events.iter().filter(|event| event.event == "click").count() as u64;
    for property in ["plan", "tag"] {
        let question = json!({
            "date_from": "2026-03-01", "date_to": "2026-04-14", "series": [{"event": "click"}],
            "breakdown": {"property": property, "limit": 5},
        });
        let results = sandbox.trends("env_a", &question).await;
        let counts: Vec<u64> = results.iter().map(|line| line["count"].as_u64().unwrap()).collect();
        assert_eq!(counts.iter().sum::<u64>(), clicks, "{property}");
        let values: Vec<&str> = results.iter().map(|line| line["breakdown"].as_str().unwrap()).collect();
        assert_eq!(values.len(), 6, "{values:?}");
        assert_eq!(values[5], "$$_posthog_breakdown_other_$$");
        // Events without a value come after every value, though they are more: there are enough values for all five.
        assert!(!values.contains(&"$$_posthog_breakdown_null_$$"), "{values:?}");
        assert!(counts[..5].is_sorted_by(|a, b| a >= b), "{counts:?}");
    }
    let question = json!({
        "date_from": "2026-03-01", "date_to": "2026-04-14", "series": [{"event": "click"}],
        "breakdown": {"property": "plan", "limit": 100},
    });
    let results = sandbox.trends("env_a", &question).await;
    let without = events.iter().filter(|event| {
        event.event == "click" && ["{}", r#"{"plan":null,"tag":""}"#].contains(&event.properties.as_str())
    });
    let last = results.last().unwrap();
    assert_eq!(last["breakdown"], "$$_posthog_breakdown_null_$$");
    assert_eq!(last["count"], without.count());
    let values = results.len() - 1;
    for (limit, end) in [(values, "other"), (values + 1, "null")] {
        for formula in [json!(null), json!("A")] {
            for property in [json!("plan"), json!(["plan"])] {
                let mut question = question.clone();
                question["breakdown"] = json!({"property": property, "limit": limit});
                question["formula"] = formula.clone();
                let results = sandbox.trends("env_a", &question).await;
                let end = format!("$$_posthog_breakdown_{end}_$$");
                assert_eq!(results.len(), values + 1, "{question}");
                let shown = &results.last().unwrap()["breakdown"];
                assert!(*shown == json!(end) || *shown == json!([end]), "{question}: {shown}");
                assert_eq!(results.last().unwrap()["count"], last["count"], "{question}");
            }
        }
    }
    let mut listed = 0;
    let mut cursor = String::new();
    loop {
        let (status, page) =
            sandbox.get("env_a", &format!("/api/query/events?event=click&limit=500{cursor}")).await;
        assert_eq!(status, 200, "{page}");
        listed += page["events"].as_array().unwrap().len() as u64;
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(listed, clicks);
}

#[actix_web::test]
async fn filters_say_of_missing_values_and_types_what_they_should() {
    let sandbox = Sandbox::start().await;
    let properties = [
        ("text", r#"{"plan":"Pro 10","price":"10","x":"a\"b"}"#),
        ("number", r#"{"plan":10,"price":10.0,"x":-1e2}"#),
        ("truth", r#"{"plan":true,"price":false,"x":true}"#),
        ("null", r#"{"plan":null,"price":null,"x":null}"#),
        ("absent", "{}"),
        ("empty", r#"{"plan":"","price":"","x":""}"#),
        ("nested", r#"{"plan":{"a":[1]},"price":[10],"x":{}}"#),
    ];
    let events: Vec<Given> = properties
        .iter()
        .map(|(name, properties)| given(*name, name, "ann", "2026-04-15T10:00:00Z", properties))
        .collect();
    sandbox.insert("env_a", &events).await;
    let all = "absent empty nested null number text truth";
    // `plan` and `price` have columns of their own, `x` is read from the text.
    let cases = [
        (json!({"key": "plan", "value": "pro 10"}), ""),
        (json!({"key": "plan", "value": "Pro 10"}), "text"),
        (json!({"key": "price", "value": 10}), "number text"),
        (json!({"key": "price", "value": ["10.0", false]}), "number truth"),
        (json!({"key": "x", "value": "a\"b"}), "text"),
        (json!({"key": "x", "value": -100}), "number"),
        (json!({"key": "plan", "value": ""}), "empty"),
        (json!({"key": "plan", "value": r#"{"a":[1]}"#}), "nested"),
        (json!({"key": "plan", "operator": "is_not", "value": [10, true]}), "absent empty nested null text"),
        (json!({"key": "plan", "operator": "icontains", "value": "PRO"}), "text"),
        (
            json!({"key": "plan", "operator": "not_icontains", "value": ["pro", "1"]}),
            "absent empty null truth",
        ),
        (json!({"key": "x", "operator": "regex", "value": "^(tr|a)"}), "text truth"),
        (json!({"key": "x", "operator": "not_regex", "value": "."}), "absent empty null"),
        (json!({"key": "price", "operator": "gt", "value": 9.5}), "number text"),
        (json!({"key": "price", "operator": "lt", "value": "10"}), ""),
        (json!({"key": "x", "operator": "lte", "value": -100}), "number"),
        (json!({"key": "x", "operator": "is_set"}), "empty nested number text truth"),
        (json!({"key": "plan", "operator": "is_not_set"}), "absent null"),
        (json!({"key": "plan", "operator": "exact"}), all),
        (json!({"key": "plan", "value": []}), all),
    ];
    for (filter, expected) in cases {
        let question = json!({
            "date_from": "-1d", "now": super::NOW, "series": [{"event": null, "filters": [filter]}],
        });
        let count = sandbox.trends("env_a", &question).await[0]["count"].as_u64().unwrap();
        let encoded: String =
            form_urlencoded::byte_serialize(json!([filter]).to_string().as_bytes()).collect();
        let (status, page) = sandbox.get("env_a", &format!("/api/query/events?properties={encoded}")).await;
        assert_eq!(status, 200, "{filter}: {page}");
        let mut names: Vec<&str> =
            page["events"].as_array().unwrap().iter().map(|event| event["event"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names.join(" "), expected, "{filter}");
        assert_eq!(count, names.len() as u64, "{filter}");
    }
    let question =
        json!({"series": [{"event": "text", "filters": [{"key": "x", "operator": "regex", "value": "("}]}]});
    let (status, problem) = sandbox.post("env_a", "/api/query/trends", &question).await;
    assert_eq!((status, problem["code"].as_str()), (400, Some("validation_error")), "{problem}");
    sandbox.end().await;
}

#[actix_web::test]
async fn a_question_sees_its_own_environment_and_says_what_it_is_about() {
    let sandbox = Sandbox::start().await;
    sandbox.insert("env_a", &[given("1", "click", "ann", "2026-04-14T10:00:00Z", "{}")]).await;
    sandbox.insert("env_b", &[given("1", "click", "ann", "2026-03-01T10:00:00Z", "{}")]).await;
    let question = json!({"date_from": "all", "timezone": "Asia/Kathmandu", "series": [{"event": "click"}]});
    let (status, answer) = sandbox.post("env_a", "/api/query/trends", &question).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["results"][0]["days"], json!(["2026-04-14", "2026-04-15"]));
    assert_eq!(answer["results"][0]["data"], json!([1, 0]));
    assert_eq!(answer["meta"]["timezone"], "Asia/Kathmandu");
    assert_eq!(answer["meta"]["date_from"], "2026-04-14T00:00:00.000+05:45");
    assert_eq!(answer["meta"]["date_to"], "2026-04-15T23:59:59.999+05:45");
    assert_eq!(answer["meta"]["cached"], false);
    let empty = sandbox.trends("env_c", &question).await;
    assert_eq!(empty[0]["data"], json!([0]));
    let mut other = question.clone();
    other["environment_id"] = "env_b".into();
    let (status, problem) = sandbox.post("env_a", "/api/query/trends", &other).await;
    assert_eq!((status, problem["code"].as_str()), (403, Some("permission_denied")), "{problem}");
    let (status, _) = sandbox.post("nobody", "/api/query/trends", &question).await;
    assert_eq!(status, 401);
    let (status, problem) = sandbox.post("env_a", "/api/query/trends", &json!({"serie": []})).await;
    assert_eq!((status, problem["details"]["field"].as_str()), (400, Some("serie")));
    sandbox.end().await;
}

//! From a number to those behind it: the people of a trend's point, and the values that a filter may name.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Given, Sandbox, given};

/// Two weeks of events of thirty people, some without a plan.
fn fortnight() -> Vec<Given> {
    let mut state = 11_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    (0..400)
        .map(|index| {
            let (day, hour) = (1 + random(14), random(24));
            let properties = match random(4) {
                0 => json!({}),
                1 => json!({ "plan": "it's", "n": random(9) }),
                _ => json!({ "plan": "pro", "n": random(9) }),
            };
            let at = format!("2026-04-{day:02}T{hour:02}:10:00Z");
            let event = ["a", "b"][random(2) as usize];
            given(format!("id-{index}"), event, &format!("p-{}", random(30)), &at, &properties.to_string())
        })
        .collect()
}

impl Sandbox {
    /// Everybody in a list, over all pages.
    async fn everybody(&self, question: &Value) -> Vec<Value> {
        let (mut question, mut found) = (question.clone(), Vec::new());
        question["limit"] = json!(7);
        loop {
            let (status, answer) = self.post("env_a", "/api/query/trends/people", &question).await;
            assert_eq!(status, 200, "{question}: {answer}");
            found.extend(answer["people"].as_array().unwrap().iter().cloned());
            if answer["next_cursor"].is_null() {
                return found;
            }
            question["cursor"] = answer["next_cursor"].clone();
        }
    }
}

/// Does the list hold as many as the number says?
async fn holds(sandbox: &Sandbox, trends: &Value, math: &str) {
    let (status, answer) = sandbox.post("env_a", "/api/query/trends", trends).await;
    assert_eq!(status, 200, "{trends}: {answer}");
    for line in answer["results"].as_array().unwrap() {
        for (day, number) in line["days"].as_array().unwrap().iter().zip(line["data"].as_array().unwrap()) {
            let mut question = json!({"trends": trends, "series": line["series"], "day": day});
            for field in ["breakdown", "compare_label"] {
                if let Some(given) = line.get(field) {
                    question[field] = given.clone();
                }
            }
            let people = sandbox.everybody(&question).await;
            let ids: BTreeSet<&str> = people.iter().map(|person| person["id"].as_str().unwrap()).collect();
            assert_eq!(ids.len(), people.len(), "{question}");
            assert!(people.iter().all(|person| !person["distinct_ids"].as_array().unwrap().is_empty()));
            let events: u64 = people.iter().map(|person| person["events"].as_u64().unwrap()).sum();
            let said = if math == "total" { events } else { people.len() as u64 };
            assert_eq!(json!(said), *number, "{question}");
        }
    }
}

#[actix_web::test]
async fn the_people_of_a_point_are_as_many_as_it_says() {
    let sandbox = Sandbox::start().await;
    let events = fortnight();
    sandbox.insert("env_a", &events).await;
    sandbox.insert("env_a", &events[300..]).await;
    sandbox.insert("env_b", &[given("x", "a", "other", "2026-04-10T10:00:00Z", "{}")]).await;
    let range = json!({"date_from": "2026-04-10", "date_to": "2026-04-12", "timezone": "America/New_York"});
    let with = |fields: Value| {
        let mut question = range.clone();
        question.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        question
    };
    for math in ["total", "dau", "weekly_active", "first_time_for_user"] {
        let series = json!([{"event": "b", "math": math}, {"event": "a", "math": math}]);
        holds(&sandbox, &with(json!({"series": series, "compare": true})), math).await;
        let split = json!({"property": "plan", "limit": 10});
        let series = json!([{"event": "a", "math": math}]);
        holds(&sandbox, &with(json!({"series": series, "breakdown": split})), math).await;
    }
    let several = json!({"property": ["plan", "event"], "type": ["event", "event_metadata"]});
    holds(&sandbox, &with(json!({"series": [{"event": null}], "breakdown": several})), "total").await;
    let bins = json!({"property": "n", "histogram_bins": 2});
    holds(&sandbox, &with(json!({"series": [{"event": "a"}], "breakdown": bins})), "total").await;
    let everybody = json!({"property": "all", "type": "cohort"});
    holds(&sandbox, &with(json!({"series": [{"event": "a"}], "breakdown": everybody})), "total").await;
    // Of a sum, those who sent a number.
    let sum = with(
        json!({"series": [{"event": "a", "math": "sum", "math_property": "n"}], "display": "bold_number"}),
    );
    let numbers: usize = sandbox
        .everybody(&json!({"trends": sum}))
        .await
        .iter()
        .map(|one| one["events"].as_u64().unwrap() as usize)
        .sum();
    let by_hand = events.iter().filter(|event| {
        let at = event.at.to_string();
        let inside = ("2026-04-10T04:00:00".."2026-04-13T04:00:00").contains(&at.as_str());
        event.event == "a" && inside && event.properties.contains("\"n\"")
    });
    assert_eq!(numbers, by_hand.count());
    refused(&sandbox, &with(json!({"series": [{"event": "a"}]}))).await;
    values(&sandbox).await;
    sandbox.end().await;
}

async fn refused(sandbox: &Sandbox, trends: &Value) {
    let mut split = trends.clone();
    split["breakdown"] = json!({"property": "plan"});
    for (question, field) in [
        (json!({"trends": trends, "series": 1}), "series"),
        (json!({"trends": trends, "day": "2026-04-01"}), "day"),
        (json!({"trends": trends, "compare_label": "previous"}), "compare_label"),
        (json!({"trends": trends, "breakdown": "pro"}), "breakdown"),
        (json!({"trends": split, "breakdown": "$$_posthog_breakdown_other_$$"}), "breakdown"),
        (json!({"trends": {"series": []}}), "series"),
        (json!({"trends": trends, "cursor": "x"}), "cursor"),
    ] {
        let (status, answer) = sandbox.post("env_a", "/api/query/trends/people", &question).await;
        assert_eq!((status, &answer["details"]["field"]), (400, &json!(field)), "{question}: {answer}");
    }
}

/// Values come from this environment alone, most frequent first.
async fn values(sandbox: &Sandbox) {
    let ask = async |environment: &str, query: &str| {
        let (status, answer) =
            sandbox.get(environment, &format!("/api/query/values?date_from=2026-04-01&{query}")).await;
        assert_eq!(status, 200, "{query}: {answer}");
        let values = answer["values"].as_array().unwrap().iter();
        let names: Vec<String> = values.map(|value| value["name"].as_str().unwrap().to_owned()).collect();
        (names.join(" "), answer)
    };
    let (names, answer) = ask("env_a", "property=plan").await;
    assert_eq!(names, "pro it's");
    let volume =
        |events: &[Given], plan: &str| events.iter().filter(|event| event.properties.contains(plan)).count();
    assert_eq!(answer["values"][0]["volume"], volume(&fortnight(), "pro"));
    assert_eq!(answer["meta"]["truncated"], false);
    assert_eq!(ask("env_a", "property=plan&search=T%27S").await.0, "it's");
    assert_eq!(ask("env_a", "property=plan&limit=1").await.1["meta"]["truncated"], true);
    assert_eq!(ask("env_a", "property=event&type=event_metadata&event=b").await.0, "b");
    assert_eq!(ask("env_a", "property=plan&event=nothing").await.0, "");
    assert_eq!(ask("env_b", "property=plan").await.0, "");
    for (query, field) in
        [("", "property"), ("property=x&type=event_metadata", "property"), ("property=x&tpe=a", "tpe")]
    {
        let (status, answer) = sandbox.get("env_a", &format!("/api/query/values?{query}")).await;
        assert_eq!((status, &answer["details"]["field"]), (400, &json!(field)), "{answer}");
    }
}

//! Numbers of trends that are put together: of buckets that are remembered, and of states that are merged.

use flexflow::store::{PersonOverrideRow, PersonPropertyRow};
use serde_json::{Value, json};

use super::{Given, Sandbox, given};

/// Numbers below a bound, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    /// An event of the first half of April, the present day among them.
    fn event(&mut self, index: u64) -> Given {
        let (day, hour, minute) = (1 + self.below(15), self.below(12), self.below(60));
        let at = format!("2026-04-{day:02}T{hour:02}:{minute:02}:00Z");
        let tag = ["a", "b", "c", "d", "e", "f"][self.below(6) as usize];
        let properties = json!({"n": self.below(9), "tag": tag});
        let name = if self.below(3) == 0 { "close" } else { "open" };
        given(format!("e{index}"), name, &format!("p{}", self.below(9)), &at, &properties.to_string())
    }
}

/// Who is whom, and what is known of them, changes.
async fn change_people(sandbox: &Sandbox, random: &mut Random, version: u64) {
    let (project_id, environment_id) = ("proj".to_owned(), "env_a".to_owned());
    let token = format!("people-{version}");
    if random.below(2) == 0 {
        let merged = PersonOverrideRow {
            project_id,
            environment_id,
            distinct_id: format!("p{}", random.below(4)),
            person: format!("p{}", 5 + random.below(4)),
            version,
        };
        sandbox.store.store.insert_person_overrides(&[merged], &token).await.unwrap();
    } else {
        let property = PersonPropertyRow {
            project_id,
            environment_id,
            key: "plan".to_owned(),
            distinct_id: format!("p{}", random.below(9)),
            kind: 0,
            value: format!("\"{}\"", ["free", "pro"][random.below(2) as usize]),
            version,
        };
        sandbox.store.store.insert_person_properties(&[property], &token).await.unwrap();
    }
}

fn question(which: u64) -> Value {
    let of = |question: Value| {
        let mut whole = json!({"date_from": "2026-04-01", "now": super::NOW});
        whole.as_object_mut().unwrap().extend(question.as_object().unwrap().clone());
        whole
    };
    let pro = json!([{"type": "person", "key": "plan", "value": "pro"}]);
    of(match which {
        0 => {
            json!({"series": [{"event": "open"}, {"event": null, "math": "sum", "math_property": "n"}], "formula": "A+B"})
        }
        1 => json!({"series": [{"event": "open", "math": "dau"}], "timezone": "America/New_York"}),
        2 => {
            json!({"series": [{"event": null, "math": "avg_count_per_actor"}], "interval": "week", "compare": true})
        }
        3 => json!({"series": [{"event": "open"}], "filters": pro}),
        4 => {
            json!({"series": [{"event": "open", "math": "median", "math_property": "n"}], "interval": "hour", "smoothing": 3})
        }
        _ => json!({"series": [{"event": "close"}], "display": "cumulative", "date_to": "2026-04-12"}),
    })
}

#[actix_web::test]
async fn closed_buckets_that_are_remembered_are_as_if_they_were_counted_anew() {
    let sandbox = Sandbox::start().await;
    let mut random = Random(7);
    let first: Vec<Given> = (0..80).map(|index| random.event(index)).collect();
    sandbox.insert("env_a", &first).await;
    for round in 0..70_u64 {
        match random.below(4) {
            0 => change_people(&sandbox, &mut random, round + 1).await,
            1 => {}
            _ => sandbox.insert("env_a", &[random.event(1000 + round)]).await,
        }
        let mut asked = question(random.below(6));
        // What is not remembered whole is put together from its buckets.
        asked["name"] = round.to_string().into();
        let remembered = sandbox.trends("env_a", &asked).await;
        // An expression is never remembered by buckets.
        let mut filters = asked["filters"].as_array().cloned().unwrap_or_default();
        filters.push(json!({"type": "expression", "key": "1 = 1"}));
        asked["filters"] = filters.into();
        assert_eq!(remembered, sandbox.trends("env_a", &asked).await, "round {round}: {asked}");
    }
    sandbox.end().await;
}

#[actix_web::test]
async fn what_is_closed_is_read_once_until_an_event_of_its_days_comes() {
    let sandbox = Sandbox::start().await;
    let event = |id: &str, at: &str| given(id, "open", "ann", at, "{}");
    sandbox.insert("env_b", &[event("1", "2026-04-02T10:00:00Z"), event("2", "2026-04-09T10:00:00Z")]).await;
    let ask = async |name: &str| {
        let question = json!({
            "name": name, "date_from": "2026-04-01", "date_to": "2026-04-10", "series": [{"event": "open"}],
        });
        let (status, answer) = sandbox.post("env_b", "/api/query/trends", &question).await;
        assert_eq!(status, 200, "{answer}");
        (answer["results"][0]["count"].as_i64().unwrap(), answer["meta"]["rows_read"].as_i64().unwrap())
    };
    let (count, read) = ask("a").await;
    assert!(count == 2 && read > 0, "{count} {read}");
    assert_eq!(ask("b").await, (2, 0), "nothing is read again");
    sandbox.insert("env_b", &[event("3", "2026-04-15T11:00:00Z")]).await;
    assert_eq!(ask("c").await, (2, 0), "another day's event changes nothing");
    sandbox.insert("env_b", &[event("4", "2026-04-05T10:00:00Z")]).await;
    let (count, read) = ask("d").await;
    assert!(count == 3 && read > 0, "{count} {read}");
    sandbox.end().await;
}

#[actix_web::test]
async fn an_expression_that_is_split_comes_to_what_it_comes_to_for_each_value_alone() {
    let sandbox = Sandbox::start().await;
    let mut random = Random(11);
    let events: Vec<Given> = (0..400).map(|index| random.event(index)).collect();
    sandbox.insert("env_a", &events).await;
    for expression in [
        "sum(properties.n) / count()",
        "quantile(0.5)(properties.n) + 1",
        "uniq(distinct_id)",
        "count(DISTINCT distinct_id)",
        "sum(DISTINCT properties.n)",
        "avgIf(properties.n, properties.n > 3)",
        "max(properties.n) - min(properties.n) + max(properties.n)",
        "round(100 * countIf(event = 'close') / count(), 2)",
    ] {
        let asked = |filters: Value, breakdown: Value| {
            json!({
                "date_from": "2026-04-01", "now": super::NOW, "interval": "week", "filters": filters, "breakdown": breakdown,
                "series": [{"event": null, "math": "hogql", "math_expression": expression}],
            })
        };
        let split = json!({"property": "tag", "limit": 3});
        let lines = sandbox.trends("env_a", &asked(json!([]), split)).await;
        assert_eq!(lines.len(), 4, "{expression}");
        let shown: Vec<&Value> = lines[..3].iter().map(|line| &line["breakdown"]).collect();
        for line in &lines {
            let filters = if line["breakdown"] == "$$_posthog_breakdown_other_$$" {
                json!([{"key": "tag", "operator": "not_in", "value": shown}])
            } else {
                json!([{"key": "tag", "value": line["breakdown"]}])
            };
            let alone = sandbox.trends("env_a", &asked(filters, Value::Null)).await;
            assert_eq!(line["data"], alone[0]["data"], "{expression}: {line}");
        }
    }
    sandbox.end().await;
}

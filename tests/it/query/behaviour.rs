//! Funnels and their people: the published cases.

use serde_json::{Value, json};

use super::{ENVIRONMENTS, Given, Sandbox, given};

/// Events and questions with the numbers that are right for them.
fn cases(kind: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_json::from_str(include_str!("behaviour_cases.json")).unwrap();
    all.into_iter().filter(|case| case["queries"][0]["kind"] == kind).collect()
}

fn events(case: &Value) -> Vec<Given> {
    let of_case = |(index, event): (usize, &Value)| {
        let text = |name: &str| event[name].as_str().unwrap();
        let properties = event.get("properties").map_or_else(|| "{}".to_owned(), Value::to_string);
        given(format!("id-{index}"), text("event"), text("distinct_id"), text("timestamp"), &properties)
    };
    case["events"].as_array().unwrap().iter().enumerate().map(of_case).collect()
}

/// A question without what it is called and what is expected of it.
fn question(query: &Value) -> Value {
    let mut question = query.clone();
    for field in ["name", "kind", "expected", "first_interval"] {
        question.as_object_mut().unwrap().remove(field);
    }
    question
}

impl Sandbox {
    /// An answer that must be given.
    async fn ask(&self, environment: &str, path: &str, question: &Value) -> Value {
        let (status, answer) = self.post(environment, &format!("/api/query/{path}"), question).await;
        assert_eq!(status, 200, "{path} {question}: {answer}");
        answer
    }

    /// Distinct ids of the people behind a step of a funnel.
    async fn funnel_people(&self, environment: &str, question: &Value) -> Vec<String> {
        let answer = self.ask(environment, "funnel/people", question).await;
        let people = answer["people"].as_array().unwrap().iter();
        let mut ids: Vec<String> =
            people.map(|person| person["distinct_ids"][0].as_str().unwrap().to_owned()).collect();
        ids.sort_unstable();
        ids
    }
}

/// Every field that is expected stands in the row, and the people are those.
async fn holds(sandbox: &Sandbox, environment: &str, funnel: &Value, row: &Value, expected: &Value) {
    for (name, wanted) in expected.as_object().unwrap() {
        let people = |step: usize| json!({"funnel": funnel, "step": step, "breakdown": row.get("breakdown")});
        match name.as_str() {
            "actors" if wanted[0].is_array() => {
                for (step, wanted) in wanted.as_array().unwrap().iter().enumerate() {
                    assert_eq!(json!(sandbox.funnel_people(environment, &people(step)).await), *wanted);
                }
            }
            "actors" => assert_eq!(json!(sandbox.funnel_people(environment, &people(0)).await), *wanted),
            "actors_step2" => {
                assert_eq!(json!(sandbox.funnel_people(environment, &people(1)).await), *wanted);
            }
            "actors_step3" => {
                assert_eq!(json!(sandbox.funnel_people(environment, &people(2)).await), *wanted);
            }
            name => {
                // 100.0 and 100 are the same number.
                let plain = |value: &Value| value.to_string().replace(".0", "");
                assert_eq!(plain(&row[name]), plain(wanted), "{funnel}: {name} of {row}");
            }
        }
    }
}

#[actix_web::test]
async fn funnels_come_out_as_published() {
    let sandbox = Sandbox::start().await;
    let mut asked = 0;
    for (index, case) in cases("funnel").iter().enumerate() {
        let environment = ENVIRONMENTS[index % ENVIRONMENTS.len()];
        // Cases are told apart by their events' names alone where an environment has several.
        let suffix = format!(" of case {index}");
        let mut events = events(case);
        for event in &mut events {
            event.event.push_str(&suffix);
            event.distinct_id.push_str(&suffix);
            event.id.push_str(&suffix);
        }
        sandbox.insert(environment, &events).await;
        for query in case["queries"].as_array().unwrap() {
            let mut question = question(query);
            for list in ["steps", "exclusions"] {
                for step in question.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                    step["event"] = json!(format!("{}{suffix}", step["event"].as_str().unwrap()));
                }
            }
            let results = sandbox.ask(environment, "funnel", &question).await["results"].take();
            let expected = with_suffix(&query["expected"], &suffix);
            match expected.get("rows") {
                None => holds(&sandbox, environment, &question, &results, &expected).await,
                Some(rows) => {
                    let found = results["rows"].as_array().unwrap();
                    assert_eq!(found.len(), rows.as_array().unwrap().len(), "{results}");
                    for (row, expected) in found.iter().zip(rows.as_array().unwrap()) {
                        holds(&sandbox, environment, &question, row, expected).await;
                    }
                }
            }
            asked += 1;
        }
    }
    assert_eq!(asked, 14);
    sandbox.end().await;
}

/// The same, with people's ids as this test wrote them.
fn with_suffix(expected: &Value, suffix: &str) -> Value {
    match expected {
        Value::Array(values) => values.iter().map(|value| with_suffix(value, suffix)).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| match name.as_str() {
                "breakdown" => (name.clone(), value.clone()),
                _ => (name.clone(), with_suffix(value, suffix)),
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::String(text) => json!(format!("{text}{suffix}")),
        other => other.clone(),
    }
}

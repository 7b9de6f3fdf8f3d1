//! Every example of the API reference is asked as it stands there, and answered as it says.

use serde_json::Value;

use super::oracles::holds;
use crate::support::eventually;
use crate::support::sandbox::Sandbox;

/// The blocks of `API.md`: what stands behind the fence's `json`, and the body.
fn blocks() -> Vec<(String, Value)> {
    let text = include_str!("../../../API.md");
    let blocks = text.split("```json").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks
        .map(|block| {
            let (request, body) = block.split_once('\n').unwrap();
            let body = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
            (request.trim().to_owned(), body)
        })
        .collect()
}

#[actix_web::test]
async fn the_examples_of_the_reference_are_answered_as_it_says() {
    let sandbox = Sandbox::start().await;
    let client = &sandbox.client;
    let mut results = Value::Null;
    let mut asked = 0;
    for (request, body) in blocks() {
        if request.is_empty() {
            holds(&results, &body, "results").unwrap_or_else(|wrong| panic!("{wrong}\n{results}"));
            results = Value::Null;
            continue;
        }
        let path = request.strip_prefix("POST ").unwrap_or_else(|| panic!("{request}"));
        let (status, answer) = client.post(path, &body).await;
        if path == "/capture" {
            assert_eq!(status, 202, "{answer}");
            let count = body["batch"].as_array().unwrap().len();
            eventually("the events are visible", || async {
                let events = client.events().await?;
                if events.len() == count { Ok(()) } else { Err(format!("{} events", events.len())) }
            })
            .await;
            continue;
        }
        assert_eq!(status, 200, "{body}: {answer}");
        for name in ["timezone", "date_from", "date_to", "rows_read", "elapsed_ms", "cached", "complete_to"] {
            assert!(answer["meta"].get(name).is_some(), "{name}: {answer}");
        }
        results = answer["results"].clone();
        asked += 1;
    }
    assert!(asked > 0);
    sandbox.stop().await;
}

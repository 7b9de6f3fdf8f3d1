//! Usage metering over the real application: events in on `/v1/events`, usage out, to the last digit.

mod corrections;
mod documents;
mod invoice;
mod reference;
mod sdks;
pub(crate) mod tracking;
pub(crate) mod usage;

use serde_json::{Value, json};

use crate::support::sandbox::Client;
use crate::support::{Log, Sandbox, eventually, on_every_log};

/// An event as it is sent.
fn event(id: &str, customer: &str, at: &str, properties: &Value) -> Value {
    json!({
        "event_id": id, "event_name": "call", "external_customer_id": customer, "timestamp": at, "source": "api",
        "properties": properties,
    })
}

/// Sends them in bulk requests and waits until all that are named are in the list.
async fn stored(client: &Client, events: &[Value]) {
    for part in events.chunks(1000) {
        let (status, answer) = client.post("/v1/events/bulk", &json!({ "events": part })).await;
        assert_eq!(status, 202, "{answer}");
        assert!(answer.get("rejected").is_none(), "{answer}");
    }
    eventually("no group has anything left", || async {
        match client.lag_of_all().await? {
            0 => Ok(()),
            lag => Err(format!("lag {lag}")),
        }
    })
    .await;
}

/// Usage that must be answered.
async fn usage(client: &Client, question: &Value) -> Value {
    let (status, answer) = client.post("/v1/events/usage", question).await;
    assert_eq!(status, 200, "{question}: {answer}");
    answer
}

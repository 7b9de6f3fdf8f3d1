//! `flexflow webhooks`: who is told of system events, and what became of each delivery.

use serde_json::{Value, json};

use super::Ended;
use super::args::webhooks::{OneWebhook, Webhooks};
use super::events::segment;
use super::operator::Operator;
use super::output::Output;

const COLUMNS: &[&str] = &["id", "url", "events", "ordered", "status", "description", "created_at"];
const DELIVERY_COLUMNS: &[&str] =
    &["id", "event_name", "state", "attempts", "due_at", "last.status", "last.error", "created_at"];

pub(super) async fn run(command: &Webhooks, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    let answer: Value = match command {
        Webhooks::Create { url, event, description, ordered, .. } => {
            let body = json!({ "url": url, "events": event, "description": description, "ordered": ordered });
            operator.post("/api/webhooks", &body).await?
        }
        Webhooks::List { .. } => {
            let all: Value = operator.get("/api/webhooks", &[]).await?;
            output.list(&all["webhooks"], COLUMNS)?;
            return Ok(Ended::Done);
        }
        Webhooks::Show(one) => operator.get(&path(one, ""), &[]).await?,
        Webhooks::Secret(one) => operator.get(&path(one, "/secret"), &[]).await?,
        Webhooks::RotateSecret { one, keep } => {
            let body = keep.as_ref().map_or_else(|| json!({}), |keep| json!({ "keep": keep }));
            operator.post(&path(one, "/rotate-secret"), &body).await?
        }
        Webhooks::Enable(one) => operator.patch(&path(one, ""), &json!({ "enabled": true })).await?,
        Webhooks::Disable(one) => operator.patch(&path(one, ""), &json!({ "enabled": false })).await?,
        Webhooks::Delete(one) => {
            operator.delete(&path(one, "")).await?;
            json!({ "deleted": one.webhook })
        }
        Webhooks::Test(one) => operator.post(&path(one, "/test"), &json!({})).await?,
        Webhooks::Deliveries { one, state, limit } => {
            let mut question = vec![("limit", limit.to_string())];
            question.extend(state.clone().map(|state| ("state", state)));
            let page: Value = operator.get(&path(one, "/deliveries"), &question).await?;
            output.list(&flat(&page["deliveries"]), DELIVERY_COLUMNS)?;
            if !page["next_cursor"].is_null() {
                output.talk("there are more: raise --limit, or name a --state");
            }
            return Ok(Ended::Done);
        }
        Webhooks::Replay { one, delivery: Some(id) } => {
            let rest = format!("/deliveries/{}/replay", segment(id));
            operator.post(&path(one, &rest), &json!({})).await?
        }
        Webhooks::Replay { one, delivery: None } => operator.post(&path(one, "/replay"), &json!({})).await?,
    };
    output.object(&answer)?;
    Ok(Ended::Done)
}

fn path(one: &OneWebhook, rest: &str) -> String {
    format!("/api/webhooks/{}{rest}", segment(&one.webhook))
}

/// Status and error of the last attempt, beside the other fields.
fn flat(deliveries: &Value) -> Value {
    let mut all = deliveries.clone();
    for delivery in all.as_array_mut().into_iter().flatten() {
        for field in ["status", "error"] {
            delivery[format!("last.{field}")] = delivery["last"][field].clone();
        }
    }
    all
}

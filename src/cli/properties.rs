//! `flexflow properties`: which properties have a column of their own.

use serde_json::{Value, json};

use super::Ended;
use super::args::Properties;
use super::operator::Operator;
use super::output::Output;

pub(super) async fn run(command: &Properties, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    let columns = ["key", "bytes", "parts_to_fill", "error"];
    match command {
        Properties::List => {
            let answer: Value = operator.get("/api/ops/properties", &[]).await?;
            output.list(&answer["promoted"], &columns)?;
            if answer["suggested"].as_array().is_some_and(|suggested| !suggested.is_empty()) {
                output.list(&answer["suggested"], &["key", "questions", "volume"])?;
            }
        }
        Properties::Promote { key } => {
            let answer: Value = operator.post("/api/ops/properties/promote", &json!({ "key": key })).await?;
            output.list(&answer["promoted"], &columns)?;
        }
        Properties::Demote { key } => {
            let answer: Value = operator.post("/api/ops/properties/demote", &json!({ "key": key })).await?;
            output.list(&answer["promoted"], &columns)?;
        }
    }
    Ok(Ended::Done)
}

//! `schemas {list,show,apply}`: what the properties of events have to look like.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::args::schemas::{Schemas, SchemasApply};
use super::operator::Operator;
use super::output::{Output, cell};
use super::transform::{payloads, read};
use super::{Ended, Usage};

pub(super) async fn run(command: &Schemas, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    match command {
        Schemas::List { .. } => {
            let mut answer: Value = operator.get("/api/schemas", &[]).await?;
            for schema in answer["schemas"].as_array_mut().into_iter().flatten() {
                schema["versions"] = json!(schema["versions"].as_array().map_or(0, Vec::len));
            }
            let columns = ["id", "event", "versions", "policy", "compatibility", "updated_at"];
            output.list(&answer["schemas"], &columns)?;
        }
        Schemas::Show { event, .. } => {
            let found = of_event(operator, event).await?;
            let found = found.ok_or_else(|| Usage::new(format!("there is no schema of {event:?}")))?;
            output.object(&found)?;
        }
        Schemas::Apply(args) => return apply(args, operator, output).await,
    }
    Ok(Ended::Done)
}

async fn apply(args: &SchemasApply, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    let definition = read(&args.definition)?;
    let definition: Value = serde_json::from_str(&definition)
        .map_err(|error| Usage::new(format!("{}: {error}", args.definition.display())))?;
    let mut next = json!({ "definition": definition });
    if let Some(file) = &args.upcast {
        next["upcast"] = json!(read(file)?);
    }
    let found = of_event(operator, &args.event).await?;
    let Some(id) = found.as_ref().map(|schema| cell(&schema["id"])) else {
        if args.upcast.is_some() || args.check {
            let message =
                format!("there is no schema of {:?} yet: its first version comes first", args.event);
            return Err(Usage::new(message).into());
        }
        let body = json!({ "event": args.event, "definition": next["definition"] });
        return told(&operator.post("/api/schemas", &body).await?, output);
    };
    if !args.check {
        return told(&operator.post(&format!("/api/schemas/{id}/versions"), &next).await?, output);
    }
    let mut samples: Vec<Box<RawValue>> = Vec::new();
    for file in &args.sample {
        for sample in payloads(&read(file)?) {
            let shown = sample.chars().take(60).collect::<String>();
            let raw = RawValue::from_string(sample);
            samples.push(raw.map_err(|error| Usage::new(format!("{}: {error}: {shown}", file.display())))?);
        }
    }
    next["samples"] = serde_json::to_value(&samples)?;
    let verdict: Value = operator.post(&format!("/api/schemas/{id}/check"), &next).await?;
    output.object(&verdict)?;
    let fits = verdict["samples"].as_array().into_iter().flatten().all(|sample| sample["problem"].is_null());
    Ok(if fits && verdict["compatible"] == true { Ended::Done } else { Ended::Problem })
}

fn told(schema: &Value, output: Output) -> anyhow::Result<Ended> {
    let version = schema["versions"].as_array().and_then(|all| all.last());
    let version = version.map_or(Value::Null, |version| version["version"].clone());
    output.object(&json!({ "id": schema["id"], "event": schema["event"], "version": version }))?;
    Ok(Ended::Done)
}

async fn of_event(operator: &Operator, event: &str) -> anyhow::Result<Option<Value>> {
    let answer: Value = operator.get("/api/schemas", &[]).await?;
    let found = answer["schemas"].as_array().into_iter().flatten().find(|schema| schema["event"] == event);
    Ok(found.cloned())
}

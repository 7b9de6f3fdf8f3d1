//! `transform {test,default,list,show,apply}`: what raw events become.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::args::Remote;
use super::args::Scope;
use super::args::raw::{Transform, TransformTest};
use super::operator::Operator;
use super::output::{Output, cell};
use super::{Ended, Usage};
use crate::config::Config;
use crate::transform::{DEFAULT, Limits, Spec, results};

/// Which server is asked, and about which environment; none: nobody is.
pub(super) fn remote(command: &Transform) -> Option<(&Scope, &Remote)> {
    match command {
        Transform::Test(_) | Transform::Default => None,
        Transform::List(args) => Some((&args.scope, &args.remote)),
        Transform::Show(args) => Some((&args.scope, &args.remote)),
        Transform::Apply(args) => Some((&args.scope, &args.remote)),
    }
}

/// What needs no server.
pub(super) fn local(command: &Transform, config: &Config, output: Output) -> anyhow::Result<Ended> {
    match command {
        Transform::Test(args) => test(args, config, output),
        _ => {
            output.line(DEFAULT.trim_end())?;
            Ok(Ended::Done)
        }
    }
}

fn test(args: &TransformTest, config: &Config, output: Output) -> anyhow::Result<Ended> {
    let text = if args.file == Path::new("-") { DEFAULT.to_owned() } else { read(&args.file)? };
    let mapping = Spec::read(&text).and_then(|spec| spec.compile());
    let mapping = mapping.map_err(|error| Usage::new(format!("{}: {error}", args.file.display())))?;
    let mut samples = Vec::new();
    for file in &args.sample {
        samples.extend(payloads(&read(file)?));
    }
    let limits = Limits { events_max: config.transform.events_max, work_max: config.transform.work_max };
    let tried = results(&mapping, &samples, limits);
    if output.json {
        output.value(&tried)?;
    } else {
        for result in tried["results"].as_array().into_iter().flatten() {
            output.line(result)?;
        }
        let count = |name: &str| cell(&tried[name]);
        output.talk(format_args!(
            "{} became events, {} were dropped, {} are errors",
            count("transformed"),
            count("dropped"),
            count("errors")
        ));
    }
    Ok(if tried["errors"] == 0 { Ended::Done } else { Ended::Problem })
}

pub(super) fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// An array's elements, or a payload, or one a line. What is no JSON is tried as it is: it shall be told.
pub(super) fn payloads(text: &str) -> Vec<String> {
    if let Ok(items) = serde_json::from_str::<Vec<Box<RawValue>>>(text) {
        return items.iter().map(|item| item.get().to_owned()).collect();
    }
    if serde_json::from_str::<&RawValue>(text).is_ok() {
        return vec![text.trim().to_owned()];
    }
    text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
}

/// What a server is asked.
pub(super) async fn run(command: &Transform, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    match command {
        Transform::Test(_) | Transform::Default => {}
        Transform::List(_) => {
            let answer: Value = operator.get("/api/transforms", &[]).await?;
            output.list(&answer["items"], &["id", "name", "version", "updated_at"])?;
        }
        Transform::Show(args) => {
            let id = id_of(operator, &args.name).await?;
            let id = id.ok_or_else(|| Usage::new(format!("there is no transform {:?}", args.name)))?;
            let shown: Value = operator.get(&format!("/api/transforms/{id}"), &[]).await?;
            output.object(&shown)?;
        }
        Transform::Apply(args) => {
            let toml = read(&args.file)?;
            let made: Value = match id_of(operator, &args.name).await?.filter(|id| id != "default") {
                Some(id) => operator.put(&format!("/api/transforms/{id}"), &json!({ "toml": toml })).await?,
                None => {
                    let body = json!({ "name": args.name, "toml": toml });
                    operator.post("/api/transforms", &body).await?
                }
            };
            output.object(&json!({ "id": made["id"], "name": made["name"], "version": made["version"] }))?;
        }
    }
    Ok(Ended::Done)
}

async fn id_of(operator: &Operator, name: &str) -> anyhow::Result<Option<String>> {
    let answer: Value = operator.get("/api/transforms", &[]).await?;
    let found = answer["items"].as_array().into_iter().flatten().find(|item| item["name"] == name);
    Ok(found.map(|item| cell(&item["id"])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_a_payload_an_array_of_them_or_one_a_line() {
        assert_eq!(payloads("[{\"a\": 1.50}, {}]"), ["{\"a\": 1.50}", "{}"]);
        assert_eq!(payloads("{\"a\":\n1}\n"), ["{\"a\":\n1}"]);
        assert_eq!(payloads("{}\n\nnot json\n"), ["{}", "not json"]);
    }
}

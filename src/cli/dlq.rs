//! `dlq {stats,list,show,replay,discard}`: dead letters, and what becomes of them.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::args::{Dlq, DlqDiscard, DlqReplay, Remote, Scope, Selection};
use super::operator::Operator;
use super::output::{Output, cell};
use super::{Ended, Usage};

const POLL: Duration = Duration::from_millis(250);
const COLUMNS: &[&str] = &[
    "id",
    "dlq_ts",
    "error_kind",
    "error_message",
    "source_topic",
    "source_partition",
    "source_offset",
    "status",
];

/// Whose dead letters, and on which server.
pub(super) fn place(command: &Dlq) -> (&Scope, &Remote) {
    match command {
        Dlq::Stats(args) => (&args.scope, &args.remote),
        Dlq::List(args) => (&args.scope, &args.remote),
        Dlq::Show { scope, remote, .. } => (scope, remote),
        Dlq::Replay(args) => (&args.scope, &args.remote),
        Dlq::Discard(args) => (&args.scope, &args.remote),
    }
}

pub(super) async fn run(command: &Dlq, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    match command {
        Dlq::Stats(_) => {
            let stats: Value = operator.get("/api/dlq/stats", &[]).await?;
            output.object(&stats)?;
        }
        Dlq::List(args) => {
            let mut query = filters(&args.selection);
            query.push(("limit", args.limit.to_string()));
            let page: Value = operator.get("/api/dlq", &query).await?;
            let letters = page["dead_letters"].as_array().map_or(&page["items"], |_| &page["dead_letters"]);
            output.list(letters, COLUMNS)?;
        }
        Dlq::Show { id, .. } => {
            let letter: Value =
                operator.get(&format!("/api/dlq/{}", super::events::segment(id)), &[]).await?;
            output.object(&letter)?;
        }
        Dlq::Replay(args) => return replay(args, operator, output).await,
        Dlq::Discard(args) => return discard(args, operator, output).await,
    }
    Ok(Ended::Done)
}

async fn replay(args: &DlqReplay, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    let mut body =
        json!({ "selection": selection(&args.selection, &args.ids, args.all), "dry_run": args.dry_run });
    if let Some(fix) = &args.fix {
        body["fix"] = serde_json::from_str(fix)
            .map_err(|error| Usage::new(format!("--fix is not JSON: {error}; given {fix}")))?;
    }
    if let Some(max) = args.max {
        body["max"] = json!(max);
    }
    if let Some(rate) = args.rate {
        body["rate"] = json!(rate);
    }
    let started: Value = operator.post("/api/dlq/replay", &body).await?;
    follow(started, args.no_wait, operator, output).await
}

async fn discard(args: &DlqDiscard, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    let body = json!({ "selection": selection(&args.selection, &args.ids, args.all), "reason": args.reason });
    let started: Value = operator.post("/api/dlq/discard", &body).await?;
    follow(started, args.no_wait, operator, output).await
}

/// Waits for the end of a job, unless told not to, or nobody is there to run it.
async fn follow(started: Value, no_wait: bool, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    let Some(id) = started["job_id"].as_str().or(started["id"].as_str()).map(str::to_owned) else {
        output.object(&started)?;
        return Ok(Ended::Done);
    };
    if no_wait || operator.is_own() {
        output.object(&started)?;
        if operator.is_own() {
            output.talk(format_args!(
                "job {id} waits for a process with role consumer: start one with `flexflow serve`"
            ));
        }
        return Ok(Ended::Done);
    }
    let bar = output.progress(0, "dead letters");
    loop {
        let job: Value =
            operator.get(&format!("/api/jobs/{id}"), &[]).await.context("the job goes on without us")?;
        let count = |name: &str| job["progress"][name].as_u64().unwrap_or(0);
        bar.set_length(count("scanned") + count("remaining"));
        bar.set_position(count("scanned"));
        match job["state"].as_str() {
            Some("queued" | "running") => tokio::time::sleep(POLL).await,
            Some("succeeded") => {
                bar.finish_and_clear();
                output.object(&job)?;
                return Ok(Ended::Done);
            }
            _ => {
                bar.finish_and_clear();
                output.object(&job)?;
                bail!("job {id} {}: {}", cell(&job["state"]), cell(&job["error"]));
            }
        }
    }
}

fn selection(given: &Selection, ids: &[String], all: bool) -> Value {
    let mut selection = json!({});
    for (name, value) in filters(given) {
        selection[name] = json!(value);
    }
    if !ids.is_empty() {
        selection["ids"] = json!(ids);
    }
    if all {
        selection["all"] = json!(true);
    }
    selection
}

fn filters(given: &Selection) -> Vec<(&'static str, String)> {
    [
        ("error_kind", given.error_kind.clone()),
        ("topic", given.topic.clone()),
        ("since", given.since.map(|at| at.to_string())),
        ("until", given.until.map(|at| at.to_string())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

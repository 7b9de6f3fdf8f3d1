//! `dlq {stats,list,show,replay,discard}`: dead letters, and what becomes of them.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::args::{Dlq, DlqDiscard, DlqFilter, DlqReplay, DlqWork, Remote, Selection};
use super::operator::Operator;
use super::output::{Output, cell};
use super::{Ended, Usage};

const POLL: Duration = Duration::from_millis(250);
const COLUMNS: &[&str] = &["id", "dlq_ts", "error_kind", "error_message", "event_id", "status", "recoveries"];
const COUNT_COLUMNS: &[&str] = &["source_topic", "error_kind", "status", "dead_letters", "first", "last"];

/// Which server holds them.
pub(super) fn remote(command: &Dlq) -> &Remote {
    match command {
        Dlq::Stats(args) => &args.remote,
        Dlq::List(args) => &args.remote,
        Dlq::Show(args) => &args.remote,
        Dlq::Replay(args) => &args.work.remote,
        Dlq::Discard(args) => &args.work.remote,
    }
}

pub(super) async fn run(command: &Dlq, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    match command {
        Dlq::Stats(args) => {
            let stats: Value = operator.get("/api/dlq/stats", &question(&args.filter)).await?;
            if output.json {
                output.value(&stats)?;
            } else {
                output.list(&stats["counts"], COUNT_COLUMNS)?;
                if let Some(behind) = stats["not_indexed_yet"].as_u64().filter(|behind| *behind > 0) {
                    output.talk(format_args!("{behind} more are in the log and not yet counted here"));
                }
            }
        }
        Dlq::List(args) => {
            let mut question = question(&args.filter);
            question.push(("limit", args.limit.to_string()));
            let page: Value = operator.get("/api/dlq", &question).await?;
            output.list(&page["dead_letters"], COLUMNS)?;
            if !page["next_cursor"].is_null() {
                output.talk("there are more: narrow the selection, or raise --limit");
            }
        }
        Dlq::Show(args) => {
            let path = format!("/api/dlq/{}", super::events::segment(&args.id));
            let letter: Value = operator.get(&path, &[]).await?;
            output.object(&letter)?;
        }
        Dlq::Replay(args) => return replay(args, operator, output).await,
        Dlq::Discard(args) => return discard(args, operator, output).await,
    }
    Ok(Ended::Done)
}

async fn replay(args: &DlqReplay, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    let mut body = order(&args.work);
    body["again"] = json!(args.again);
    if let Some(fix) = &args.fix {
        body["fix"] = serde_json::from_str(fix)
            .map_err(|error| Usage::new(format!("--fix is not JSON: {error}; given {fix}")))?;
    }
    if let Some(rate) = args.rate {
        body["rate"] = json!(rate);
    }
    let started: Value = operator.post("/api/dlq/replay", &body).await?;
    follow(started, args.work.no_wait, operator, output).await
}

async fn discard(args: &DlqDiscard, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    let mut body = order(&args.work);
    body["reason"] = json!(args.reason);
    let started: Value = operator.post("/api/dlq/discard", &body).await?;
    follow(started, args.work.no_wait, operator, output).await
}

fn order(work: &DlqWork) -> Value {
    let mut selection = json!({});
    for (name, value) in filters(&work.selection) {
        selection[name] = json!(value);
    }
    if !work.ids.is_empty() {
        selection["ids"] = json!(work.ids);
    }
    if work.all {
        selection["all"] = json!(true);
    }
    let mut body = json!({ "selection": selection, "dry_run": work.dry_run });
    if let Some(max) = work.max {
        body["max"] = json!(max);
    }
    body
}

fn question(given: &DlqFilter) -> Vec<(&'static str, String)> {
    let mut question = filters(&given.selection);
    question.extend(given.status.clone().map(|status| ("status", status)));
    question.extend(given.project.clone().map(|project| ("project_id", project)));
    question
}

/// Waits for the end of a job, unless told not to, or nobody is there to run it.
async fn follow(started: Value, no_wait: bool, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    let id = cell(&started["job_id"]);
    if no_wait || operator.is_own() {
        output.object(&started["job"])?;
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

//! `reprocess {start,list,status,cancel,resume}`: jobs over raw events.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::Ended;
use super::args::raw::{Reprocess, ReprocessStart};
use super::args::{Remote, Scope};
use super::events::segment;
use super::operator::Operator;
use super::output::{Output, cell};

const POLL: Duration = Duration::from_millis(250);
const COLUMNS: &[&str] = &["workflow_id", "status", "created_at", "error"];

/// Which server is asked, and about which environment.
pub(super) fn remote(command: &Reprocess) -> (&Scope, &Remote) {
    match command {
        Reprocess::Start(args) => (&args.scope, &args.remote),
        Reprocess::List(args) => (&args.scope, &args.remote),
        Reprocess::Status(args) | Reprocess::Cancel(args) | Reprocess::Resume(args) => {
            (&args.scope, &args.remote)
        }
    }
}

pub(super) async fn run(command: &Reprocess, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    let path = |id: &str, what: &str| format!("/v1/events/raw/reprocess/{}{what}", segment(id));
    match command {
        Reprocess::Start(args) => return start(args, operator, output).await,
        Reprocess::List(args) => {
            let question = [("limit", args.limit.to_string())];
            let page: Value = operator.get("/v1/events/raw/reprocess", &question).await?;
            output.list(&page["workflows"], COLUMNS)?;
        }
        Reprocess::Status(args) => {
            let job: Value = operator.get(&path(&args.workflow_id, ""), &[]).await?;
            output.object(&job)?;
        }
        Reprocess::Cancel(args) => {
            let job: Value = operator.post(&path(&args.workflow_id, "/cancel"), &json!({})).await?;
            output.object(&job)?;
        }
        Reprocess::Resume(args) => {
            let job: Value = operator.post(&path(&args.workflow_id, "/resume"), &json!({})).await?;
            output.object(&job)?;
        }
    }
    Ok(Ended::Done)
}

async fn start(args: &ReprocessStart, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    let mut body = json!({
        "external_customer_ids": args.external_customer_id,
        "event_names": args.event_name,
        "event_ids": args.event_id,
        "start_date": args.start_date,
        "parallelism": args.parallelism,
        "dry_run": args.dry_run,
    });
    if let Some(end) = &args.end_date {
        body["end_date"] = json!(end);
    }
    if let Some(size) = args.batch_size {
        body["batch_size"] = json!(size);
    }
    if let Some(percent) = args.sample_percent {
        body["sample_percent"] = json!(percent);
    }
    let which = if args.pending { "pending" } else { "all" };
    let started: Value = operator.post(&format!("/v1/events/raw/reprocess/{which}"), &body).await?;
    for warning in started["warnings"].as_array().into_iter().flatten() {
        output.talk(format_args!("warning: {}", cell(warning)));
    }
    let id = cell(&started["workflow_id"]);
    if args.no_wait || operator.is_own() {
        output.object(&started)?;
        if operator.is_own() {
            output.talk(format_args!(
                "{id} waits for a process with role consumer: start one with `flexflow serve`"
            ));
        }
        return Ok(Ended::Done);
    }
    follow(&id, operator, output).await
}

async fn follow(id: &str, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    let bar = output.progress(0, "raw events");
    loop {
        let path = format!("/v1/events/raw/reprocess/{}", segment(id));
        let job: Value = operator.get(&path, &[]).await.context("the job goes on without us")?;
        let count = |name: &str| job["result"][name].as_u64().unwrap_or(0);
        bar.set_length(count("total_events_estimated"));
        bar.set_position(count("total_events_found"));
        match job["status"].as_str() {
            Some("queued" | "running") => tokio::time::sleep(POLL).await,
            Some("succeeded") => {
                bar.finish_and_clear();
                output.object(&job)?;
                return Ok(Ended::Done);
            }
            _ => {
                bar.finish_and_clear();
                output.object(&job)?;
                bail!("{id} {}: {}", cell(&job["status"]), cell(&job["error"]));
            }
        }
    }
}

//! `flexflow rollups`: hourly and daily counts.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::Ended;
use super::args::rollups::Rollups;
use super::operator::Operator;
use super::output::{Output, cell};

/// How often a job is looked at.
const POLL: Duration = Duration::from_millis(100);

pub(super) async fn run(command: &Rollups, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    match command {
        Rollups::Status { .. } => {
            let status: Value = operator.get("/api/rollups", &[]).await?;
            output.object(&status)?;
        }
        Rollups::Build { from, to, no_wait, .. } => {
            let range = json!({ "from": from, "to": to });
            let started: Value = operator.post("/api/rollups/build", &range).await?;
            let id = cell(&started["job_id"]);
            if *no_wait || operator.is_own() {
                output.object(&started["job"])?;
                if operator.is_own() {
                    output.talk(format_args!("job {id} waits for a process with role consumer"));
                }
                return Ok(Ended::Done);
            }
            let job = ended(&id, operator).await?;
            output.object(&job)?;
            if job["state"] != "succeeded" {
                bail!("job {id} {}: {}", cell(&job["state"]), cell(&job["error"]));
            }
        }
    }
    Ok(Ended::Done)
}

/// Waits for the end of a job.
async fn ended(id: &str, operator: &Operator) -> anyhow::Result<Value> {
    loop {
        let job = operator.get(&format!("/api/jobs/{id}"), &[]).await;
        let job: Value = job.context("the job goes on without us")?;
        if !matches!(job["state"].as_str(), Some("queued" | "running")) {
            return Ok(job);
        }
        tokio::time::sleep(POLL).await;
    }
}

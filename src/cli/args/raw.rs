//! What may be typed about raw events: their transforms, and reprocessing.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Remote, Scope};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Transform {
    /// Try a transform in a file on samples, without a server; exit 3 if one of them is an error
    Test(TransformTest),
    /// Print the transform of raw events that every environment has at first
    Default,
    /// List the transforms of an environment
    List(TransformList),
    /// Print a transform's newest version
    Show(TransformShow),
    /// Make a transform of a file, or the next version of the one with this name
    Apply(TransformApply),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TransformTest {
    /// The transform, TOML or JSON; `-` is the one that every environment has at first
    pub file: PathBuf,
    /// A payload, an array of them, or one a line; may be repeated
    #[arg(long, value_name = "FILE", required = true)]
    pub sample: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TransformList {
    #[command(flatten)]
    pub scope: Scope,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TransformShow {
    /// Its name
    #[arg(long, default_value = "raw")]
    pub name: String,
    #[command(flatten)]
    pub scope: Scope,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TransformApply {
    /// The transform, TOML or JSON
    pub file: PathBuf,
    /// Its name; raw is the one that raw events go through
    #[arg(long, default_value = "raw")]
    pub name: String,
    #[command(flatten)]
    pub scope: Scope,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Reprocess {
    /// Put raw events through their transform again; safe to run twice
    Start(ReprocessStart),
    /// List the jobs, newest first
    List(ReprocessList),
    /// Show one job with its counters
    Status(ReprocessJob),
    /// Ask a job to end
    Cancel(ReprocessJob),
    /// Go on with one that failed or was cancelled, from where it was
    Resume(ReprocessJob),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ReprocessStart {
    /// Raw events from this time on (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub start_date: String,
    /// … up to this time (RFC 3339) [default: now]
    #[arg(long, value_name = "TIME")]
    pub end_date: Option<String>,
    /// Only of this customer; may be repeated
    #[arg(long, value_name = "ID")]
    pub external_customer_id: Vec<String>,
    /// Only with this name of the raw event; may be repeated
    #[arg(long, value_name = "NAME")]
    pub event_name: Vec<String>,
    /// Only this raw event; may be repeated
    #[arg(long, value_name = "ID")]
    pub event_id: Vec<String>,
    /// Only raw events whose events are not stored
    #[arg(long)]
    pub pending: bool,
    /// Raw events of a batch: 1 to 10000, best 100 to 5000 [default: 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch_size: Option<u32>,
    /// Only this share of them, in percent; the same ones every time
    #[arg(long, value_name = "PERCENT")]
    pub sample_percent: Option<f64>,
    /// Ranges of time that are gone through side by side
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub parallelism: u32,
    /// Count what would happen and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Start the job and do not wait for its end
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    pub scope: Scope,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ReprocessList {
    /// Most to list
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub limit: u32,
    #[command(flatten)]
    pub scope: Scope,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ReprocessJob {
    /// Its workflow_id or run_id, as `reprocess list` shows it
    pub workflow_id: String,
    #[command(flatten)]
    pub scope: Scope,
    #[command(flatten)]
    pub remote: Remote,
}

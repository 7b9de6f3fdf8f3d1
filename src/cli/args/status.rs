//! Commands that look: how far behind, how busy, and whether everything is accounted for.

use std::time::Duration;

use clap::Args;

use super::Remote;

#[derive(Debug, Args)]
pub(in crate::cli) struct Lag {
    /// Go on until interrupted
    #[arg(long)]
    pub watch: bool,
    /// Exit 3 if a partition is further behind than this many records
    #[arg(long, value_name = "RECORDS", value_parser = clap::value_parser!(i64).range(0..))]
    pub over: Option<i64>,
    /// With --over: only if some partition is for this long, such as 2m; ends at once when none is
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "over", conflicts_with = "watch")]
    pub r#for: Option<Duration>,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Top {
    /// Print one frame and end; with --json its numbers
    #[arg(long)]
    pub once: bool,
    /// Time between two looks; rates are over it
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
    /// Add the metrics of another process of the same installation, such as http://consumer:9090; may be repeated
    #[arg(long, value_name = "URL")]
    pub metrics: Vec<String>,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Audit {
    /// Look at the rows instead: the share with whole ingestion metadata, offsets without a row, schema versions
    #[arg(long)]
    pub metadata: bool,
    /// Fill in what can be inferred from the log, and mark the rows that were filled in
    #[arg(long, requires = "metadata")]
    pub backfill: bool,
    #[command(flatten)]
    pub remote: Remote,
}

fn interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(interval) if (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&interval) => {
            Ok(interval)
        }
        _ => Err("write a time between 100ms and 1h".to_owned()),
    }
}

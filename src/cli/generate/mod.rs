//! `generate`: traffic as a shop with adverts has it, sent through HTTP like anybody's.
//!
//! [`crate::demo`] makes the events and knows no network; [`send`] posts them and knows no shop.

mod report;
mod send;
#[cfg(test)]
mod tests;

use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::Instant;

use self::report::{Summary, Tally};
use self::send::Capture;
use super::Ended;
use super::args::Generate;
use super::operator::FirstRun;
use super::output::Output;
use crate::config::Config;
use crate::demo::{Plan, Traffic};
use crate::event::{Clock, IdSource, RandomIds, SystemClock, Timestamp};

/// Events a second when none is asked for.
const RATE_DEFAULT: f64 = 100.0;
const SECONDS_DEFAULT: u64 = 10;
/// Without a rate and without `--days-back`, events are spread over this long before now.
const SPAN_DEFAULT: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) async fn run(args: &Generate, config: &Config, output: Output) -> anyhow::Result<Ended> {
    let seed = args.seed.unwrap_or_else(random_seed);
    let (plan, rate) = plan(args, seed, SystemClock.now())?;
    let (url, api_key) = target(args, config)?;
    let capture = Capture::new(&url, api_key, args.connections, Duration::from_secs(args.patience))?;
    output.talk(format_args!(
        "sending {} events to {url}{} (seed {seed})",
        plan.events,
        rate.map(|rate| format!(" at {rate} a second")).unwrap_or_default()
    ));
    let bar = output.progress(plan.events, "events");
    let begun = Instant::now();
    let interrupted = std::cell::Cell::new(false);
    let stop = async {
        if crate::lifecycle::wait_for_signal().await.is_ok() {
            interrupted.set(true);
        } else {
            std::future::pending::<()>().await;
        }
    };
    let batches = send::batches(Traffic::new(plan), args.batch as usize, rate);
    let progress = |tally: &Tally| bar.set_position(tally.sent + tally.unsent);
    let tally = send::send_all(&capture, batches, args.connections, stop, progress).await;
    bar.finish_and_clear();
    let tally = tally?;
    print(&tally.summary(seed, begun.elapsed()), output)?;
    if let Some(failure) = tally.failure {
        bail!("{} events got no answer within {} s: {failure}", tally.unsent, args.patience);
    }
    Ok(if interrupted.get() { Ended::Interrupted } else { Ended::Done })
}

/// What to make, and how fast to send it.
fn plan(args: &Generate, seed: u64, now: Timestamp) -> anyhow::Result<(Plan, Option<f64>)> {
    let rate = match (args.rate, args.events) {
        (None, Some(_)) => None,
        (rate, _) => Some(rate.unwrap_or(RATE_DEFAULT)),
    };
    #[expect(clippy::cast_precision_loss, reason = "a number of events")]
    let events = match (args.events, rate) {
        (Some(events), _) => events,
        (None, rate) => {
            let events = rate.unwrap_or(RATE_DEFAULT) * args.seconds.unwrap_or(SECONDS_DEFAULT) as f64;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "positive; saturates"
            )]
            let events = events.ceil() as u64;
            events.max(1)
        }
    };
    let (duplicates, invalid, late) = (args.duplicates.0, args.invalid.0, args.late.0);
    if duplicates + invalid + late > 1.0 {
        return Err(
            super::Usage::new("--duplicates, --invalid and --late are together more than 100%").into()
        );
    }
    let (from, until) = match (args.days_back, args.until, rate) {
        (Some(days), until, _) => {
            let until = until.unwrap_or(now);
            (until.minus(DAY * days), until)
        }
        // Live: an event happens when it is due to be sent.
        (None, None, Some(rate)) => {
            #[expect(clippy::cast_precision_loss, reason = "a number of events")]
            let lasts = Duration::try_from_secs_f64(events as f64 / rate).unwrap_or(SPAN_DEFAULT);
            (now, now.plus(lasts))
        }
        (None, until, _) => {
            let until = until.unwrap_or(now);
            (until.minus(SPAN_DEFAULT), until)
        }
    };
    if from < Timestamp::EPOCH {
        return Err(
            super::Usage::new("--days-back reaches beyond 1970, the earliest time capture takes").into()
        );
    }
    Ok((Plan { seed, events, people: args.people, from, until, duplicates, invalid, late }, rate))
}

/// The server and the key: as given, else what this folder's first start wrote down.
fn target(args: &Generate, config: &Config) -> anyhow::Result<(String, Option<String>)> {
    let first_run = FirstRun::read(&config.data_dir)?;
    let running = super::operator::running(&config.data_dir)?;
    let url = args
        .remote
        .url
        .clone()
        .or_else(|| running.map(|server| server.url))
        .or_else(|| first_run.as_ref().map(|first| first.url.clone()))
        .with_context(|| {
            format!(
                "no server runs on {}: start one with `flexflow serve`, or name one with --url",
                config.data_dir.display()
            )
        })?;
    // The key of this folder is not sent elsewhere.
    let own = || first_run.filter(|_| args.remote.url.is_none()).map(|first| first.api_key);
    Ok((url, args.remote.api_key.clone().or_else(own)))
}

fn random_seed() -> u64 {
    let mut bytes = [0; 4];
    RandomIds.fill(&mut bytes);
    u64::from(u32::from_le_bytes(bytes))
}

fn print(summary: &Summary, output: Output) -> std::io::Result<()> {
    if output.json {
        return output.value(summary);
    }
    let rows = [
        ("sent", summary.sent.to_string()),
        ("accepted", summary.accepted.to_string()),
        ("rejected", format!("{} ({} invalid on purpose)", summary.rejected, summary.invalid_intended)),
        ("duplicates intended", summary.duplicates_intended.to_string()),
        ("late on purpose", summary.late_intended.to_string()),
        ("given up", summary.unsent.to_string()),
        ("requests", format!("{} ({} of them resends)", summary.requests, summary.retries)),
        ("events/s", format!("{} over {:.1} s", summary.events_per_second, summary.seconds)),
        ("latency p50, p99", format!("{} ms, {} ms", summary.latency_ms.p50, summary.latency_ms.p99)),
        ("seed", summary.seed.to_string()),
    ];
    let rows = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]);
    output.line(output.table(&["", ""], rows))?;
    for reason in &summary.reasons {
        output.talk(format_args!("rejected: {reason}"));
    }
    Ok(())
}

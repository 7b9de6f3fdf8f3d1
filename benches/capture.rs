//! What capture spends on an event before the log: reading a body of 100 events and writing their records.
//! `cargo bench --bench capture` prints nanoseconds an event beside its ceiling from the same run, which is copying the
//! same bytes.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flexflow::auth::{Access, Permissions};
use flexflow::capture::{Capture, Words};
use flexflow::config::Config;
use flexflow::event::{Clock, RandomIds, Scope, SystemClock};
use flexflow::eventlog::MemoryLog;
use flexflow::lifecycle::Health;

const EVENTS: usize = 100;
const TIME: Duration = Duration::from_secs(3);

fn body(with_ids: bool) -> Vec<u8> {
    let events: Vec<String> = (0..EVENTS)
        .map(|i| {
            let id = if with_ids { format!("\"event_id\":\"evt-{i:012}\",") } else { String::new() };
            format!(
                "{{\"event\":\"ad_click\",\"distinct_id\":\"user-{:06}\",{id}\"timestamp\":\"2026-01-31T12:00:00.{i:03}Z\",\
                 \"session_id\":\"session-{i:08}\",\"properties\":{{\"ad_id\":\"ad-{i:04}\",\"item_id\":\"item-{i:05}\",\
                 \"price\":12.50,\"currency\":\"EUR\",\"page\":\"/products/{i}\",\"country\":\"DE\"}}}}",
                i * 7919 % 1_000_000
            )
        })
        .collect();
    format!("[{}]", events.join(",")).into_bytes()
}

/// Nanoseconds an event of `work`, which handles [`EVENTS`] of them: the best of many short runs.
fn nanoseconds(mut work: impl FnMut()) -> f64 {
    let (begun, mut best) = (Instant::now(), Duration::MAX);
    while begun.elapsed() < TIME {
        let run = Instant::now();
        for _ in 0..10 {
            work();
        }
        best = best.min(run.elapsed() / 10);
    }
    best.as_secs_f64() * 1e9 / EVENTS as f64
}

#[expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]
fn main() -> anyhow::Result<()> {
    let (clock, ids) = (Arc::new(SystemClock), Arc::new(RandomIds));
    let log = Arc::new(MemoryLog::new(clock.clone(), ids.clone()));
    let config = Config::from_overrides(&[])?;
    let health = Health::new(clock.clone());
    let capture = Capture::new(log, &config, clock.clone(), ids, &health);
    let access = Access::new(Scope::new("proj_bench", "env_bench"), "production", Permissions::all());
    for with_ids in [true, false] {
        let body = body(with_ids);
        let spent = nanoseconds(|| {
            let mut batch = capture.batch(&access, clock.now(), body.len() * 2, &Words::CAPTURE);
            let read = futures::executor::block_on(capture.read(black_box(&body), &mut batch));
            assert!(read.is_ok() && batch.seen() == EVENTS);
            black_box(&batch);
        });
        let copied = nanoseconds(|| {
            black_box(black_box(&body).clone());
        });
        let ids = if with_ids { "sent" } else { "made here" };
        println!(
            "read and write, ids {ids}: {spent:.0} ns an event of {} bytes (copying alone: {copied:.0} ns)",
            body.len() / EVENTS
        );
    }
    Ok(())
}

//! What capture spends on an event before the log, and on a key that it remembers. No server, no load: one thread.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flexflow::auth::{Access, Keys, Permission, Permissions, Request};
use flexflow::capture::{Capture, Words};
use flexflow::config::Config;
use flexflow::event::{Clock, RandomIds, Scope, SystemClock};
use flexflow::eventlog::MemoryLog;
use flexflow::lifecycle::{Health, Stop, Tasks};
use flexflow::meta::Meta;
use secrecy::ExposeSecret as _;

use crate::report;

const EVENTS: usize = 100;
const KEYS: usize = 1000;

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

/// Nanoseconds a unit of `work`, which handles `units` of them: the best of many short runs.
fn nanoseconds(seconds: f64, units: usize, mut work: impl FnMut()) -> f64 {
    let (begun, mut best) = (Instant::now(), Duration::MAX);
    while begun.elapsed().as_secs_f64() < seconds {
        let run = Instant::now();
        for _ in 0..10 {
            work();
        }
        best = best.min(run.elapsed() / 10);
    }
    best.as_secs_f64() * 1e9 / units as f64
}

/// Reading a body of 100 events and writing their records, beside copying the same bytes; then a remembered key.
pub async fn run(seconds: f64) {
    let (clock, ids) = (Arc::new(SystemClock), Arc::new(RandomIds));
    let log = Arc::new(MemoryLog::new(clock.clone(), ids.clone()));
    let config = Config::from_overrides(&[]).expect("config");
    let health = Health::new(clock.clone());
    let capture = Capture::new(log, &config, clock.clone(), ids.clone(), &health);
    let access = Access::new(Scope::new("proj_bench", "env_bench"), "production", Permissions::all());
    for with_ids in [true, false] {
        let body = body(with_ids);
        let spent = nanoseconds(seconds, EVENTS, || {
            let mut batch = capture.batch(&access, clock.now(), body.len() * 2, &Words::CAPTURE);
            let read = futures::executor::block_on(capture.read(black_box(&body), &mut batch));
            assert!(read.is_ok() && batch.seen() == EVENTS);
            black_box(&batch);
        });
        let copied = nanoseconds(seconds / 4.0, EVENTS, || {
            black_box(black_box(&body).clone());
        });
        let ids = if with_ids { "sent" } else { "made here" };
        report::note(
            format!("parse and write a record, ids {ids}, {} bytes an event", body.len() / EVENTS),
            format!("{spent:.0} ns an event (copying alone {copied:.0} ns)"),
        );
    }
    let dir = tempfile::tempdir().expect("a folder");
    let meta = Meta::open(&config.meta, dir.path(), clock.clone(), ids.clone(), &health).await.expect("meta");
    meta.migrate().await.expect("migrate");
    let tasks = Tasks::new(Stop::default());
    let keys = Keys::new(meta, &config.auth, clock, ids, &tasks).expect("keys");
    let made =
        flexflow::auth::first_run(&keys, |_| Ok(())).await.expect("a first run").expect("an empty database");
    let request = Request { token: Some(made.api_key.expose_secret().as_bytes()), ..Request::default() };
    keys.authorize(request, Permission::Ingest, true).await.expect("the first lookup");
    let spent = nanoseconds(seconds, KEYS, || {
        for _ in 0..KEYS {
            let access = futures::executor::block_on(keys.authorize(request, Permission::Ingest, true));
            black_box(access.expect("a good key"));
        }
    });
    report::note("a remembered key, its hash included", format!("{spent:.0} ns a request"));
    tasks.stop().soft();
    tasks.drained(Duration::from_secs(5)).await;
}

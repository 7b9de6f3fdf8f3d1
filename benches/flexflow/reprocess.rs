//! Reprocessing: raw events from their table through the transform and the output topic into the store, by one job with
//! one, two and four ranges of time side by side.

use std::time::{Duration, Instant};

use flexflow::event::Timestamp;
use flexflow::store::Sql;
use serde_json::{Value, json};

use crate::machine::{cpu_seconds, resident_mib};
use crate::pipeline::engine_cpu_of;
use crate::report;
use crate::usage::{Asking, started};

/// Raw events of one job lie in so many days.
const DAYS: u64 = 28;
const DAY_MILLIS: i64 = 86_400_000;
const BATCH_SIZE: u64 = 5000;
/// What gives up.
const PATIENCE: Duration = Duration::from_secs(1200);

/// `millions` of raw events for each job: three months that were never transformed, by one, two and four ranges, and the
/// last of them once more, when all of it stands as it was.
pub async fn run(millions: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    let running = started(dir.path(), &[("jobs.poll_interval", "50ms")]).await;
    let asking = Asking::of(&running);
    let events = millions * 1_000_000;
    let mut rates = Vec::new();
    for (month, parallelism, again) in [("01", 1, false), ("03", 2, false), ("05", 4, false), ("05", 4, true)]
    {
        let first = format!("2026-{month}-01T00:00:00Z");
        let from = Timestamp::parse(&first).expect("a time");
        if !again {
            let store = running.store().expect("a store");
            store.execute(raw_events(&asking, month, from, events)).await.expect("an insert");
        }
        let end = Timestamp::from_millis(from.as_millis() + DAYS as i64 * DAY_MILLIS - 1);
        let order = json!({"start_date": first, "end_date": end.to_string(), "batch_size": BATCH_SIZE,
                           "parallelism": parallelism});
        let (began, cpu_before) = (Instant::now(), cpu());
        let job = asking.operator_post("/v1/events/raw/reprocess", &order).await;
        let path = format!("/v1/events/raw/reprocess/{}", job["workflow_id"].as_str().expect("an id"));
        let result = ended(&asking, &path, began).await;
        let through = began.elapsed();
        assert_eq!(result["total_events_published"], events, "{result}");
        stored(&asking, began).await;
        let took = began.elapsed();
        let (own, engine) = (cpu().0 - cpu_before.0, cpu().1 - cpu_before.1);
        let rate = events as f64 / took.as_secs_f64();
        let told = if again { ", again" } else { "" };
        report::note(
            format!(
                "{events} raw events reprocessed{told}, batch_size {BATCH_SIZE}, parallelism {parallelism}"
            ),
            format!(
                "{:.0}/s published, {rate:.0}/s stored; CPU own {:.1} µs, engine {:.1} µs, {:.2} cores busy (resident {} MiB)",
                events as f64 / through.as_secs_f64(),
                own * 1e6 / events as f64,
                engine * 1e6 / events as f64,
                (own + engine) / took.as_secs_f64(),
                resident_mib(std::process::id())
            ),
        );
        rates.push(rate);
    }
    let best = rates.iter().take(3).copied().fold(0.0, f64::max);
    report::check(
        "reprocessing end to end, whichever parallelism is best",
        format!(
            "{best:.0}/s; {:.2} and {:.2} of one range with two and four",
            rates[1] / rates[0],
            rates[2] / rates[0]
        ),
        "≥ 50,000/s",
        best >= 50_000.0,
    );
    running.stop().await.expect("a clean stop");
}

/// CPU seconds of this process and of its engine so far.
fn cpu() -> (f64, f64) {
    let pid = std::process::id();
    (cpu_seconds(pid), engine_cpu_of(pid))
}

/// Payloads as the default transform knows them.
fn raw_events(asking: &Asking, month: &str, from: Timestamp, count: u64) -> Sql {
    let step = (DAYS as i64 * DAY_MILLIS) / i64::try_from(count).expect("fewer");
    let (project, environment) = asking.scope();
    Sql::new(
        "INSERT INTO raw_events (project_id, environment_id, external_customer_id, timestamp, event_name, id, payload, \
         received_at, source_topic, source_partition, source_offset, version) SELECT ",
    )
    .arg(project)
    .push(", ")
    .arg(environment)
    .push(
        ", customer, time, 'Chat', name, concat('{\"id\":\"', name, '\",\"orgId\":\"', customer, \
         '\",\"methodName\":\"Chat\",\"providerName\":\"OpenAI\",\"createdAt\":\"', \
         formatDateTime(time, '%Y-%m-%dT%H:%i:%SZ', 'UTC'), '\",\"data\":{\"modelName\":\"gpt-4o\",\"promptTokens\":', \
         toString(number % 5000), ',\"cachedPromptTokens\":7,\"durationMS\":', toString(number % 900), '}}'), time, \
         'raw_events', toInt32(0), toInt64(number), 1 FROM (SELECT number, concat('raw-', ",
    )
    .arg(month)
    .push(
        ", '-', toString(number)) AS name, concat('org-', toString(number % 1000)) AS customer, \
         fromUnixTimestamp64Milli(",
    )
    .arg(from.as_millis())
    .push(" + toInt64(number) * ")
    .arg(step)
    .push(", 'UTC') AS time FROM numbers(")
    .arg(count)
    .push("))")
}

async fn ended(asking: &Asking, path: &str, began: Instant) -> Value {
    loop {
        let job = asking.operator_get(path).await;
        match job["status"].as_str() {
            Some("succeeded") => return job["result"].clone(),
            Some("queued" | "running") => {}
            _ => panic!("{job}"),
        }
        assert!(began.elapsed() < PATIENCE, "{job}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the stage behind the output topic has stored everything.
async fn stored(asking: &Asking, began: Instant) {
    loop {
        let lag = asking.operator_get("/api/ops/lag").await;
        let rows = lag["groups"].as_array().expect("groups");
        let of_output = rows.iter().filter(|row| row["topic"] == "prod_events_v4");
        if of_output.filter_map(|row| row["lag"].as_i64()).sum::<i64>() == 0 {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{lag}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

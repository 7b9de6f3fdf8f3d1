//! The consumer from a full log, beside the same rows through the client alone; then starting on what is there, a trend
//! beside bare SQL, and memory with the id window full.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flexflow::config::Config;
use flexflow::event::{RandomIds, SystemClock, Timestamp};
use flexflow::lifecycle::{Health, Stop, Tasks};
use flexflow::store::{EventBlock, EventRow, Sql, Store};
use serde_json::json;
use uuid::Uuid;

use crate::load::{Body, Load, post};
use crate::pipeline::{Served, bodies};
use crate::report;

/// Merges have caught up when fewer parts than this are left.
const PARTS_MAX: u64 = 20;
/// Rows that are prepared at once for the client alone, 700 bytes of memory each.
const PREPARED_ROWS_MAX: u64 = 10_000_000;
const BLOCK_ROWS: u64 = 20_000;

/// All of it, on `millions` of events.
pub async fn run(millions: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    let empty = Served::start(dir.path(), &[]).await;
    let started = empty.start_to_ready.as_secs_f64();
    report::check("start to ready, empty directory", format!("{started:.2} s"), "≤ 5 s", started <= 5.0);
    let key = empty.key.clone();
    empty.stop();

    let events = fill(dir.path(), &key, millions).await;
    let rate = consume(dir.path()).await;
    let alone = client_alone(events.min(PREPARED_ROWS_MAX)).await;
    report::check(
        "… ratio of catch-up to that",
        format!("{:.2}", rate / alone),
        "≥ 0.5",
        rate / alone >= 0.5,
    );
    let asked = start_and_ask(dir.path(), &key, events).await;
    let bare = bare_sql(dir.path()).await;
    report::note("… the same as bare SQL", format!("median {bare:.0} ms of 5"));
    report::check("… ratio of the two", format!("{:.2}", asked / bare), "≤ 1.5", asked <= 1.5 * bare);
}

/// Fills the log without a consumer, and answers how many events it took.
pub async fn fill(dir: &Path, key: &str, millions: u64) -> u64 {
    let filler = Served::start(dir, &["--role", "capture"]).await;
    let wanted = millions * 10_000;
    let started = Instant::now();
    let mut sent = 0;
    while sent < wanted {
        let base = sent;
        let body = bodies(100, true);
        let shifted: Body = Arc::new(move |n| body(base + n));
        let load = Load { connections: 16, seconds: 3, rate: None };
        let outcome = post(filler.address(), "/capture", key, shifted, load).await;
        assert_eq!(outcome.refused, 0, "capture refused");
        sent += outcome.requests;
    }
    println!("filled the log: {} events in {:.1} s", sent * 100, started.elapsed().as_secs_f64());
    filler.stop();
    sent * 100
}

/// Rows a second until the log is read and the merges have caught up.
async fn consume(dir: &Path) -> f64 {
    let consumer = Served::start(dir, &["--role", "consumer", "--role", "query", "--role", "auth"]).await;
    let started = Instant::now();
    let before = consumer.lag().await;
    let (own_before, engine_before) = consumer.cpu();
    consumer.group_caught_up("event-consumers").await;
    let read = started.elapsed().as_secs_f64();
    let memory =
        format!("resident {} MiB, engine {} MiB", consumer.memory_mib(), consumer.engine_memory_mib());
    while consumer.parts().await >= PARTS_MAX {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let merged = started.elapsed().as_secs_f64();
    consumer.group_caught_up("events-post-publish").await;
    let handed_on = started.elapsed().as_secs_f64();
    let (own, engine) = consumer.cpu();
    let micros = |cpu: f64| cpu * 1e6 / before as f64;
    let rate = before as f64 / merged;
    report::check(
        format!("catch-up from {before} records, until fewer than {PARTS_MAX} parts are left"),
        format!("{rate:.0} rows/s ({:.0} until the log is read)", before as f64 / read),
        "≥ 150,000",
        rate >= 150_000.0,
    );
    report::note("… until everything is handed on, too", format!("{:.0} rows/s", before as f64 / handed_on));
    report::note(
        "… CPU a row, merges and handing on included; memory",
        format!(
            "own {:.1} µs, engine {:.1} µs; {memory}",
            micros(own - own_before),
            micros(engine - engine_before)
        ),
    );
    consumer.stop();
    rate
}

/// A store of its own on this folder, in this process.
pub async fn open_store(dir: &Path) -> (Store, Tasks) {
    let config = Config::from_overrides(&[]).expect("config");
    let (clock, tasks) = (Arc::new(SystemClock), Tasks::new(Stop::default()));
    let health = Health::new(clock.clone());
    let store =
        Store::open(&config.store, dir, &tasks, &health, clock, Arc::new(RandomIds)).expect("a store");
    store.wait_ready(Duration::from_secs(120)).await.expect("the engine answers");
    store.migrate().await.expect("tables");
    (store, tasks)
}

/// Block `n` of the rows that the consumer makes of the same events.
fn block(n: u64, now: Timestamp) -> EventBlock {
    let mut block = EventBlock::with_capacity(BLOCK_ROWS as usize);
    for i in n * BLOCK_ROWS..(n + 1) * BLOCK_ROWS {
        let (id, person) = (format!("bench-{i}"), format!("person-{}", i % 10_000));
        let properties = format!(
            r#"{{"$current_url":"https://shop.example/item/{}","referrer":"https://search.example/","price":{}.95,"currency":"EUR","country":"NL","device":"phone"}}"#,
            i % 500,
            i % 100
        );
        block.push(&EventRow {
            project_id: "prj_019a0000000070008000000000000001",
            environment_id: "env_019a0000000070008000000000000001",
            event_id: &id,
            event_name: "page viewed",
            distinct_id: &person,
            customer_id: "",
            session_id: "",
            source: "",
            producer: "capture",
            raw_event_id: "",
            timestamp: now,
            received_at: now,
            schema_version: 1,
            source_topic: "events",
            source_topic_id: Uuid::from_u128(1),
            source_partition: (i % 4) as i32,
            source_offset: (i / 4) as i64,
            properties: &properties,
            version: 0,
            is_deleted: false,
        });
    }
    block
}

/// Rows a second through the client alone, two inserts at a time, until the merges have caught up.
async fn client_alone(rows: u64) -> f64 {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, tasks) = open_store(dir.path()).await;
    let now = Timestamp::parse("2026-11-21T12:00:00Z").expect("a time");
    let blocks: Vec<EventBlock> = (0..rows.div_ceil(BLOCK_ROWS)).map(|n| block(n, now)).collect();
    let rows = blocks.len() as u64 * BLOCK_ROWS;
    let blocks = Arc::new(blocks);
    let started = Instant::now();
    let lanes: Vec<_> = (0..2)
        .map(|lane| {
            let (store, blocks) = (store.clone(), blocks.clone());
            tokio::spawn(async move {
                for (n, block) in blocks.iter().enumerate().skip(lane).step_by(2) {
                    store.insert_events(block, &format!("bench:{n}")).await.expect("inserted");
                }
            })
        })
        .collect();
    for lane in lanes {
        lane.await.expect("a lane");
    }
    let inserted = started.elapsed().as_secs_f64();
    let parts = "SELECT count() AS parts FROM system.parts WHERE active AND table = 'events' AND database = currentDatabase()";
    while store.select::<(u64,)>(Sql::new(parts)).await.expect("parts")[0].0 >= PARTS_MAX {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let rate = rows as f64 / started.elapsed().as_secs_f64();
    report::note(
        format!("… {rows} rows of the same events through the client alone"),
        format!("{rate:.0} rows/s ({:.0} until inserted)", rows as f64 / inserted),
    );
    store.close(Duration::from_secs(20)).await;
    tasks.stop().soft();
    rate
}

fn median(mut took: Vec<f64>) -> f64 {
    took.sort_by(f64::total_cmp);
    took[took.len() / 2]
}

/// Starts on what is there; the trend in milliseconds once nothing else runs; memory with the id window full.
async fn start_and_ask(dir: &Path, key: &str, events: u64) -> f64 {
    let served = Served::start(dir, &[]).await;
    let started = served.start_to_ready.as_secs_f64();
    report::check(
        format!("start to ready on {events} events"),
        format!("{started:.2} s"),
        "≤ 8 s",
        started <= 8.0,
    );
    let began = Instant::now();
    let mut ids = -1.0;
    loop {
        // The gauge is set every five seconds.
        tokio::time::sleep(Duration::from_secs(6)).await;
        let now = served.metric("consumer_id_window_ids").await;
        if now == ids || began.elapsed() > Duration::from_secs(120) {
            break;
        }
        ids = now;
    }
    let question = json!({"date_from": "-7d", "interval": "day", "series": [{"event": "page viewed", "math": "total"}], "refresh": true});
    let mut took = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        let answer = served
            .http
            .post(format!("{}/api/query/trends", served.url))
            .header("X-API-Key", key)
            .json(&question)
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap_or_default());
        took.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    let asked = median(took);
    let parts = served.parts().await;
    report::note(
        format!("trend of 7 days on {events} events in {parts} parts"),
        format!("median {asked:.0} ms of 5"),
    );
    let load = Load { connections: 16, seconds: 15, rate: Some(200.0) };
    let outcome = post(served.address(), "/capture", key, bodies(100, false), load).await;
    let (own, engine) = (served.memory_mib(), served.engine_memory_mib());
    report::check(
        format!("resident at {:.0} events/s with {ids:.0} ids in the window", outcome.per_second() * 100.0),
        format!("{own} MiB (engine {engine} MiB)"),
        "≤ 300 MiB",
        own <= 300,
    );
    served.stop();
    asked
}

/// The question of the trend, put to the store without FlexFlow, in milliseconds.
async fn bare_sql(dir: &Path) -> f64 {
    let (store, tasks) = open_store(dir).await;
    let mut took = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        let sql = "SELECT toDate(timestamp) AS day, count() AS events FROM events FINAL WHERE project_id = (SELECT \
                   any(project_id) FROM events) AND event_name = 'page viewed' AND toDate(timestamp) >= \
                   today() - 7 GROUP BY day ORDER BY day";
        let days: Vec<(String, u64)> = store
            .select(Sql::new("SELECT toString(day) AS day, events AS events FROM (").push(sql).push(")"))
            .await
            .expect("an answer");
        assert!(!days.is_empty(), "no events in the last week");
        took.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    store.close(Duration::from_secs(20)).await;
    tasks.stop().soft();
    median(took)
}

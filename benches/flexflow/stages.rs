//! The stages behind the store: what handing events on costs storing, and how fast webhooks are delivered beside a
//! receiver that is slow.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flexflow::config::Config;
use flexflow::event::{ProjectId, RandomIds, SystemClock, SystemEventKind};
use flexflow::lifecycle::{Health, Stop, Tasks};
use flexflow::meta::{Deliverable, Meta, NewWebhook, WebhookStatus};
use flexflow::webhook::{Webhook, sign};
use serde_json::json;

use crate::catch_up::fill;
use crate::pipeline::Served;
use crate::report;

/// Deliveries to each receiver.
const DELIVERIES: u64 = 5000;

pub async fn run(millions: u64) {
    let without = store(millions, "false").await;
    let with = store(millions, "true").await;
    let cost = 100.0 * (1.0 - with.0 / without.0);
    report::check(
        "handing events on costs storing",
        format!("{cost:.1} % of throughput ({:.1} µs more CPU a row)", with.1 - without.1),
        "≤ 15 %",
        cost <= 15.0,
    );
    webhooks().await;
}

/// Rows a second that are stored from a full log, and CPU microseconds a row of this process and its engine.
async fn store(millions: u64, hand_on: &str) -> (f64, f64) {
    let dir = tempfile::tempdir().expect("a folder");
    let setting = format!("post_processing.enabled={hand_on}");
    let first = Served::start(dir.path(), &["--set", &setting]).await;
    let key = first.key.clone();
    first.stop();
    let events = fill(dir.path(), &key, millions).await;
    let roles = ["--role", "consumer", "--role", "query", "--role", "auth", "--set", &setting];
    let served = Served::start(dir.path(), &roles).await;
    let (began, (own, engine)) = (Instant::now(), served.cpu());
    served.group_caught_up("event-consumers").await;
    let rate = events as f64 / began.elapsed().as_secs_f64();
    if hand_on == "true" {
        let stored = began.elapsed();
        served.group_caught_up("events-post-publish").await;
        let behind = began.elapsed() - stored;
        report::note("… handing on is through after storing is", format!("{:.1} s", behind.as_secs_f64()));
    }
    let (own_after, engine_after) = served.cpu();
    let micros = (own_after - own + engine_after - engine) * 1e6 / events as f64;
    report::note(
        format!("storing {events} events from a full log, post_processing.enabled = {hand_on}"),
        format!("{rate:.0} rows/s, {micros:.1} µs of CPU a row"),
    );
    served.stop();
    (rate, micros)
}

/// Takes requests and answers each after a while; counts them.
fn receiver(wait: Duration) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counted = counted.clone();
            std::thread::spawn(move || answer(stream, wait, &counted));
        }
    });
    (url, count)
}

fn answer(mut stream: TcpStream, wait: Duration, count: &AtomicU64) -> Option<()> {
    let (mut bytes, mut some) = (Vec::new(), [0u8; 8192]);
    loop {
        let read = stream.read(&mut some).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&some[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length: usize = head
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok())?;
        if body.len() >= length {
            std::thread::sleep(wait);
            count.fetch_add(1, Ordering::Relaxed);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
            bytes.clear();
        }
    }
}

/// Deliveries a second to a receiver that answers at once, beside one that takes five seconds.
async fn webhooks() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = Config::from_overrides(&[("webhook.allow_private", "true")]).expect("config");
    let (clock, ids) = (Arc::new(SystemClock), Arc::new(RandomIds));
    let health = Health::new(clock.clone());
    let meta = Meta::open(&config.meta, dir.path(), clock.clone(), ids.clone(), &health).await.expect("meta");
    meta.migrate().await.expect("tables");
    let project = ProjectId::new("proj_bench");
    let (fast, took) = receiver(Duration::ZERO);
    let (slow, _) = receiver(Duration::from_secs(5));
    for url in [slow, fast] {
        let new = NewWebhook {
            environment_id: None,
            url,
            description: String::new(),
            kinds: Vec::new(),
            ordered: false,
            status: WebhookStatus::Enabled,
        };
        let secret = sign::new_secret(&*ids);
        meta.webhooks().create(&project, new, &secret, 10).await.expect("a webhook");
    }
    let events: Vec<Deliverable> = (0..DELIVERIES)
        .map(|i| Deliverable {
            event_id: format!("event-{i}"),
            kind: SystemEventKind::JobFinished,
            project_id: Some(project.clone()),
            environment_id: None,
            body: json!({ "type": "job.finished", "data": { "number": i } }).to_string(),
        })
        .collect();
    meta.deliveries().add(&events, Duration::from_secs(3600)).await.expect("added");
    let tasks = Tasks::new(Stop::default());
    let (webhook, stop) = (Webhook::new(meta, &config, clock, ids), tasks.stop().clone());
    let began = Instant::now();
    let (own, running) = (tasks.clone(), tasks.clone());
    running.spawn_bounded(async move { webhook.run(own, stop).await });
    while took.load(Ordering::Relaxed) < DELIVERIES {
        assert!(began.elapsed() < Duration::from_secs(120), "deliveries are missing");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rate = DELIVERIES as f64 / began.elapsed().as_secs_f64();
    tasks.stop().hard();
    report::check(
        format!("webhooks: {DELIVERIES} deliveries to a fast receiver, beside as many to one that takes 5 s"),
        format!("{rate:.0}/s"),
        "≥ 1,000/s",
        rate >= 1000.0,
    );
}

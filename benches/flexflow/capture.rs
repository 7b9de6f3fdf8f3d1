//! Capture: durable answers per second, beside the same server that parses and answers without a log.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use actix_web::web;
use async_trait::async_trait;
use flexflow::app::{open_log, topic_specs};
use flexflow::auth::Keys;
use flexflow::capture::{self, Capture};
use flexflow::config::Config;
use flexflow::event::{RandomIds, SystemClock, Timestamp};
use flexflow::eventlog::{
    EventLog, FetchFrom, FetchLimits, Fetched, GroupMember, GroupSpec, LogError, NewRecord, Position,
    TopicDescription, TopicPartition, TopicSettings, TopicSpec,
};
use flexflow::lifecycle::{Health, Stop, Tasks};
use flexflow::meta::Meta;

use crate::load::{Body, Load, Outcome, post};
use crate::{machine, report};

/// A log that takes everything and keeps nothing: what is left is the price of HTTP, keys and parsing.
struct NoLog(AtomicI64);

#[async_trait]
impl EventLog for NoLog {
    fn kind(&self) -> &'static str {
        "none"
    }
    async fn produce(&self, _: &str, records: Vec<NewRecord>) -> Vec<Result<Position, LogError>> {
        let first = self.0.fetch_add(records.len() as i64, Ordering::Relaxed);
        (0..records.len() as i64).map(|i| Ok(Position { partition: 0, offset: first + i })).collect()
    }
    async fn fetch(&self, _: &[FetchFrom], _: FetchLimits) -> Result<Vec<Fetched>, LogError> {
        Ok(Vec::new())
    }
    async fn join(&self, _: GroupSpec) -> Result<Box<dyn GroupMember>, LogError> {
        Err(LogError::Unavailable("no log".into()))
    }
    async fn create_topics(&self, _: &[TopicSpec]) -> Result<Vec<Arc<str>>, LogError> {
        Ok(Vec::new())
    }
    async fn grow_topic(&self, _: &str, _: i32) -> Result<(), LogError> {
        Ok(())
    }
    async fn delete_topic(&self, _: &str) -> Result<(), LogError> {
        Ok(())
    }
    async fn topics(&self) -> Result<Vec<TopicDescription>, LogError> {
        Ok(Vec::new())
    }
    async fn topic_settings(&self, _: &[Arc<str>]) -> Result<Vec<TopicSettings>, LogError> {
        Ok(Vec::new())
    }
    async fn committed(&self, _: &str) -> Result<BTreeMap<TopicPartition, i64>, LogError> {
        Ok(BTreeMap::new())
    }
    async fn offsets_at(&self, _: &str, _: Timestamp) -> Result<Vec<i64>, LogError> {
        Ok(Vec::new())
    }
    async fn probe(&self) -> Result<(), LogError> {
        Ok(())
    }
    async fn close(&self) {}
}

const KEY: &str = "ff_bench";
/// SHA-256 of [`KEY`].
const KEY_SHA256: &str = "0680850e3cc139bd6588f382d3b48b80fe5baeedee03dd62338251623869bf04";

/// Role capture alone, in this process, on a log.
struct Server {
    address: SocketAddr,
    tasks: Tasks,
    log: Arc<dyn EventLog>,
}

impl Server {
    /// On the log of these settings; none: without one.
    async fn start(dir: &Path, log: Option<&[(&str, &str)]>) -> Self {
        let listen = [("server.listen", "127.0.0.1:0")];
        let settings: Vec<_> = listen.iter().chain(log.unwrap_or_default()).copied().collect();
        let mut config = Config::from_overrides(&settings).expect("config");
        config.data_dir = dir.to_owned();
        config.auth.static_keys = vec![flexflow::config::StaticKey {
            sha256: KEY_SHA256.into(),
            project_id: "proj_bench".into(),
            environment_id: "env_bench".into(),
            scopes: vec!["ingest".into()],
        }];
        let (clock, ids) = (Arc::new(SystemClock), Arc::new(RandomIds));
        let health = Health::new(clock.clone());
        let tasks = Tasks::new(Stop::default());
        let log: Arc<dyn EventLog> = if log.is_some() {
            open_log(&config, &health, &tasks, clock.clone(), ids.clone()).await.expect("log")
        } else {
            Arc::new(NoLog(AtomicI64::new(0)))
        };
        log.create_topics(&topic_specs(&config)).await.expect("topics");
        let meta = Meta::open(&config.meta, dir, clock.clone(), ids.clone(), &health).await.expect("meta");
        meta.migrate().await.expect("migrate");
        let keys =
            web::Data::new(Keys::new(meta, &config.auth, clock.clone(), ids.clone(), &tasks).expect("keys"));
        let service = web::Data::new(Capture::new(log.clone(), &config, clock.clone(), ids.clone(), &health));
        let routes = move |routes: &mut web::ServiceConfig| {
            routes.app_data(keys.clone()).app_data(service.clone()).configure(capture::http::routes);
        };
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let (address, serving) =
            flexflow::http::server::serve(listen, &config.server, tasks.stop(), clock, ids, routes)
                .expect("listen");
        tasks.spawn_bounded(serving);
        Self { address, tasks, log }
    }

    async fn stop(self) {
        self.tasks.stop().soft();
        self.tasks.drained(Duration::from_secs(30)).await;
        self.log.close().await;
    }
}

/// Writes event `n`, about 250 bytes.
pub fn event_into(body: &mut String, n: u64, with_id: bool) {
    use std::fmt::Write as _;
    write!(body, r#"{{"event":"page viewed","distinct_id":"person-{}","#, n % 10_000)
        .expect("a String takes it");
    if with_id {
        write!(body, r#""event_id":"bench-{n}","#).expect("a String takes it");
    }
    write!(
        body,
        r#""properties":{{"$current_url":"https://shop.example/item/{}","referrer":"https://search.example/","price":{}.95,"currency":"EUR","country":"NL","device":"phone"}}}}"#,
        n % 500,
        n % 100
    )
    .expect("a String takes it");
}

/// Bodies made beforehand, so that making them is not part of what is measured; capture does not look at repeated ids.
pub fn prepared(requests: u64, events: u64) -> Body {
    let bodies: Vec<Vec<u8>> = (0..requests)
        .map(|n| {
            let mut body = String::from(if events > 1 { "[" } else { "" });
            for i in 0..events {
                if i > 0 {
                    body.push(',');
                }
                event_into(&mut body, n * events + i, true);
            }
            if events > 1 {
                body.push(']');
            }
            body.into_bytes()
        })
        .collect();
    Arc::new(move |n| bodies[usize::try_from(n).unwrap_or(0) % bodies.len()].clone())
}

/// What one run cost besides its time.
pub struct Measured {
    pub outcome: Outcome,
    /// CPU microseconds a request: the server's threads, the load generator's, the log's.
    cpu_us: [f64; 3],
    /// Requests made durable by one sync; nothing without a log.
    per_sync: f64,
    /// Seconds the log took after the last answer to finish what it does behind it, and close.
    pub closing: f64,
}

/// Capture alone on the log of these settings; none: without one.
pub async fn measure(log: Option<&[(&str, &str)]>, body: Body, load: Load) -> Measured {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), log).await;
    let (cpu_before, syncs_before) = (machine::cpu_by_part(), syncs());
    let outcome = post(server.address, "/capture", KEY, body, load).await;
    let (cpu_after, syncs_after) = (machine::cpu_by_part(), syncs());
    let requests = outcome.requests.max(1) as f64;
    let cpu_us = std::array::from_fn(|part| (cpu_after[part] - cpu_before[part]) * 1e6 / requests);
    let closing = Instant::now();
    server.stop().await;
    let per_sync = requests / (syncs_after - syncs_before).max(1.0);
    Measured { outcome, cpu_us, per_sync, closing: closing.elapsed().as_secs_f64() }
}

/// Syncs of every log of this process so far.
fn syncs() -> f64 {
    let text = flexflow::telemetry::recorder().expect("the recorder").render();
    let line = text.lines().find_map(|line| line.strip_prefix("eventlog_syncs_total "));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0.0)
}

pub fn cpu(measured: &Measured) -> String {
    let [server, load, log] = measured.cpu_us;
    format!("{:.1} µs (server {server:.1}, log {log:.1}, load generator {load:.1})", server + load + log)
}

/// Pairs of measurements that are compared: the machine's own speed changes within seconds.
pub const PAIRS: u64 = 7;

/// The middle one of [`PAIRS`].
pub struct Pair {
    pub without: Measured,
    pub with: Measured,
    /// Of all pairs: in the middle, the least, the most.
    pub ratio: [f64; 3],
}

/// The same load with a log of these settings and without any, in turns.
pub async fn by_turns(log: &[(&str, &str)], body: &Body, load: Load) -> Pair {
    let mut pairs = Vec::new();
    for _ in 0..PAIRS {
        let without = measure(None, body.clone(), load).await;
        let with = measure(Some(log), body.clone(), load).await;
        pairs.push((with.outcome.per_second() / without.outcome.per_second(), without, with));
    }
    pairs.sort_by(|(one, ..), (other, ..)| one.total_cmp(other));
    let (least, most) = (pairs[0].0, pairs[pairs.len() - 1].0);
    let (middle, without, with) = pairs.swap_remove(pairs.len() / 2);
    Pair { without, with, ratio: [middle, least, most] }
}

/// Single-event POSTs, 64 connections.
pub async fn single(seconds: u64) {
    let body = prepared(1000, 1);
    let load = Load { connections: 64, seconds: (seconds / PAIRS).max(2), rate: None };
    let pair = by_turns(&[], &body, load).await;
    let (ceiling, durable, [ratio, least, most]) = (pair.without, pair.with, pair.ratio);
    let rate = durable.outcome.per_second() / 2.0;
    let half = measure(Some(&[]), body, Load { rate: Some(rate), seconds, ..load }).await.outcome;
    let what = format!("single-event POST, {PAIRS} times {} s, 64 connections", load.seconds);
    report::note(format!("{what}, without the log"), format!("{:.0}/s", ceiling.outcome.per_second()));
    report::note(
        format!("{what}, durable"),
        format!(
            "{:.0}/s, p50 {:.1} ms, p99 {:.1} ms, {:.1} requests a sync, refused {}",
            durable.outcome.per_second(),
            durable.outcome.percentile(0.5),
            durable.outcome.percentile(0.99),
            durable.per_sync,
            durable.outcome.refused
        ),
    );
    let said = format!("{ratio:.3} ({least:.2} to {most:.2})");
    report::check("… ratio of the two, the middle of all", said, "≥ 0.6", ratio >= 0.6);
    report::note(
        "… CPU a request, with and without the log",
        format!("{}, {}", cpu(&durable), cpu(&ceiling)),
    );
    let p99 = half.percentile(0.99);
    report::check(
        format!("… at half that rate ({:.0}/s)", half.per_second()),
        format!("p50 {:.1} ms, p99 {p99:.1} ms, refused {}", half.percentile(0.5), half.refused),
        "p99 < 20 ms",
        p99 < 20.0,
    );
}

/// 100 events a request, role capture alone, until the log has done what it does behind the answers.
pub async fn bulk(seconds: u64) {
    let body = prepared(500, 100);
    let load = Load { connections: 32, seconds, rate: None };
    let ceiling = measure(None, body.clone(), Load { seconds: seconds.min(15), ..load }).await;
    let durable = measure(Some(&[]), body, load).await;
    let answered = durable.outcome.requests as f64 * 100.0;
    let rate = answered / (durable.outcome.seconds + durable.closing);
    let without = ceiling.outcome.per_second() * 100.0;
    report::note("bulk of 100, without the log", format!("{without:.0} events/s"));
    report::check(
        format!("bulk of 100, durable, {seconds} s and {:.1} s of the log's work after it", durable.closing),
        format!(
            "{rate:.0} events/s ({:.2} of that), p50 {:.1} ms, p99 {:.1} ms, {:.1} requests a sync, refused {}",
            rate / without,
            durable.outcome.percentile(0.5),
            durable.outcome.percentile(0.99),
            durable.per_sync,
            durable.outcome.refused
        ),
        "≥ 300,000",
        rate >= 300_000.0,
    );
}

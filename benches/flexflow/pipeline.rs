//! The whole product as a child process: visibility under load, memory, catching up, starting, a trend.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::load::{Body, Load, post};
use crate::machine::{cpu_seconds, resident_mib};

/// `flexflow serve` on a folder; killed when dropped.
pub struct Served {
    child: Child,
    url: String,
    key: String,
    token: String,
    http: reqwest::Client,
    /// From the start of the process until `/ready` said 200.
    pub start_to_ready: Duration,
}

impl Served {
    pub async fn start(data_dir: &Path, args: &[&str]) -> Self {
        std::fs::remove_file(data_dir.join("server.json")).ok();
        let started = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_flexflow"))
            .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "warn", "--data-dir"])
            .arg(data_dir)
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let read = |name: &str| -> Option<Value> {
            serde_json::from_slice(&std::fs::read(data_dir.join(name)).ok()?).ok()
        };
        let server = loop {
            if let Some(server) = read("server.json").filter(|server| server["pid"] == child.id()) {
                break server;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "it did not start");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key = read("first-run.json").map(|first| text(&first["api_key"])).unwrap_or_default();
        let mut served = Self {
            child,
            url: text(&server["url"]),
            key,
            token: text(&server["operator_token"]),
            http: reqwest::Client::new(),
            start_to_ready: Duration::ZERO,
        };
        loop {
            let ready = served.http.get(format!("{}/ready", served.url)).send().await;
            if ready.is_ok_and(|answer| answer.status() == 200) {
                served.start_to_ready = started.elapsed();
                return served;
            }
            assert!(started.elapsed() < Duration::from_secs(120), "it did not become ready");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn address(&self) -> SocketAddr {
        self.url.trim_start_matches("http://").parse().expect("an address")
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self
            .http
            .get(format!("{}{path}", self.url))
            .bearer_auth(&self.token)
            .send()
            .await
            .expect("an answer");
        answer.json().await.expect("JSON")
    }

    async fn lag(&self) -> i64 {
        let answer = self.get("/api/ops/lag").await;
        let rows = answer["groups"].as_array().expect("groups");
        rows.iter().filter(|row| row["topic"] == "events").filter_map(|row| row["lag"].as_i64()).sum()
    }

    async fn caught_up(&self) {
        while self.lag().await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A percentile of `consumer_visibility_seconds`, as the upper bound of its bucket.
    async fn visibility(&self, share: f64) -> f64 {
        let text = self
            .http
            .get(format!("{}/metrics", self.url))
            .send()
            .await
            .expect("metrics")
            .text()
            .await
            .expect("text");
        let buckets: Vec<(f64, f64)> = text
            .lines()
            .filter_map(|line| line.strip_prefix("consumer_visibility_seconds_bucket{le=\""))
            .filter_map(|rest| {
                let (bound, count) = rest.split_once("\"} ")?;
                Some((bound.parse().unwrap_or(f64::INFINITY), count.parse().ok()?))
            })
            .collect();
        let all = buckets.last().map_or(0.0, |(_, count)| *count);
        buckets.iter().find(|(_, count)| *count >= all * share).map_or(f64::NAN, |(bound, _)| *bound)
    }

    fn memory_mib(&self) -> u64 {
        resident_mib(self.child.id())
    }

    fn engines(&self) -> Vec<u32> {
        let children = Command::new("pgrep").args(["-P", &self.child.id().to_string()]).output();
        children
            .map(|output| {
                String::from_utf8_lossy(&output.stdout).lines().filter_map(|pid| pid.parse().ok()).collect()
            })
            .unwrap_or_default()
    }

    fn engine_memory_mib(&self) -> u64 {
        self.engines().into_iter().map(resident_mib).sum()
    }

    /// CPU seconds so far: this process, its engine.
    fn cpu(&self) -> (f64, f64) {
        (cpu_seconds(self.child.id()), self.engines().into_iter().map(cpu_seconds).sum())
    }

    /// SIGTERM, and the exit.
    pub fn stop(mut self) {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().expect("kill");
        self.child.wait().expect("an exit");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Prepared requests of `events` events each; the ids of request n are its own.
fn bodies(events: u64) -> Body {
    Arc::new(move |n| {
        let mut body = String::with_capacity(usize::try_from(events).unwrap_or(0) * 260);
        body.push('[');
        for i in 0..events {
            if i > 0 {
                body.push(',');
            }
            crate::capture::event_into(&mut body, n * events + i);
        }
        body.push(']');
        body.into_bytes()
    })
}

/// 100 events/s, one a request.
pub async fn visible(seconds: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    let served = Served::start(dir.path(), &[]).await;
    let load = Load { connections: 4, seconds, rate: Some(100.0) };
    let outcome = post(served.address(), "/capture", &served.key, bodies(1), load).await;
    served.caught_up().await;
    println!(
        "visible at {:.0} events/s: p50 <= {:.3} s, p95 <= {:.3} s, p99 <= {:.3} s; refused {}",
        outcome.per_second(),
        served.visibility(0.5).await,
        served.visibility(0.95).await,
        served.visibility(0.99).await,
        outcome.refused
    );
    served.stop();
}

/// 20,000 events/s, 100 a request, everything in one process.
pub async fn steady(seconds: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    let served = Served::start(dir.path(), &[]).await;
    let load = Load { connections: 16, seconds, rate: Some(200.0) };
    let outcome = post(served.address(), "/capture", &served.key, bodies(100), load).await;
    let (own, engine) = (served.memory_mib(), served.engine_memory_mib());
    served.caught_up().await;
    println!(
        "steady {:.0} events/s for {seconds} s: visible p50 <= {:.3} s, p95 <= {:.3} s, p99 <= {:.3} s; request p50 {:.1} ms, p99 {:.1} ms; resident {own} MiB, engine {engine} MiB; refused {}",
        outcome.per_second() * 100.0,
        served.visibility(0.5).await,
        served.visibility(0.95).await,
        served.visibility(0.99).await,
        outcome.percentile(0.5),
        outcome.percentile(0.99),
        outcome.refused
    );
    served.stop();
}

/// Fills the log without a consumer, then lets the consumer catch up; then starts again on what is there, and asks.
pub async fn catch_up(millions: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    let empty = Served::start(dir.path(), &[]).await;
    println!("start to ready on an empty directory: {:.2} s", empty.start_to_ready.as_secs_f64());
    let key = empty.key.clone();
    empty.stop();

    let filler = Served::start(dir.path(), &["--role", "capture"]).await;
    let wanted = millions * 10_000;
    let started = Instant::now();
    let mut sent = 0;
    while sent < wanted {
        let base = sent;
        let body = bodies(100);
        let shifted: Body = Arc::new(move |n| body(base + n));
        let outcome = post(
            filler.address(),
            "/capture",
            &key,
            shifted,
            Load { connections: 16, seconds: 5, rate: None },
        )
        .await;
        assert_eq!(outcome.refused, 0, "capture refused");
        sent += outcome.requests;
    }
    println!("filled the log: {} events in {:.1} s", sent * 100, started.elapsed().as_secs_f64());
    filler.stop();

    let consumer =
        Served::start(dir.path(), &["--role", "consumer", "--role", "query", "--role", "auth"]).await;
    let started = Instant::now();
    let before = consumer.lag().await;
    let (own_before, engine_before) = consumer.cpu();
    consumer.caught_up().await;
    let seconds = started.elapsed().as_secs_f64();
    let (own, engine) = consumer.cpu();
    let micros_a_row = |cpu: f64| cpu * 1e6 / before as f64;
    println!(
        "catch-up: {before} records in {seconds:.1} s: {:.0} rows/s; CPU a row: own {:.1} us, engine {:.1} us (merges so far included); resident {} MiB, engine {} MiB",
        before as f64 / seconds,
        micros_a_row(own - own_before),
        micros_a_row(engine - engine_before),
        consumer.memory_mib(),
        consumer.engine_memory_mib()
    );
    consumer.stop();

    let again = Served::start(dir.path(), &[]).await;
    println!("start to ready on {} events: {:.2} s", sent * 100, again.start_to_ready.as_secs_f64());
    let question = json!({"date_from": "-7d", "interval": "day", "series": [{"event": "page viewed", "math": "total"}], "refresh": true});
    let mut took = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        let answer = again
            .http
            .post(format!("{}/api/query/trends", again.url))
            .header("X-API-Key", &key)
            .json(&question)
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap_or_default());
        took.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    took.sort_by(f64::total_cmp);
    println!("trend of 7 days on {} events: median {:.0} ms of 5", sent * 100, took[2]);
    again.stop();
}

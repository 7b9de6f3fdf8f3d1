//! The whole product as a child process: visibility under load, memory.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::load::{Body, Load, post};
use crate::machine::{cpu_seconds, resident_mib};
use crate::report;

/// `flexflow serve` on a folder; killed when dropped.
pub struct Served {
    child: Child,
    pub url: String,
    pub key: String,
    token: String,
    pub http: reqwest::Client,
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

    pub fn address(&self) -> SocketAddr {
        self.url.trim_start_matches("http://").parse().expect("an address")
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = self
            .http
            .get(format!("{}{path}", self.url))
            .bearer_auth(&self.token)
            .send()
            .await
            .expect("an answer");
        answer.json().await.expect("JSON")
    }

    /// As the operator; it must be taken.
    pub async fn operator_post(&self, path: &str, body: &Value) {
        let request = self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.token).json(body);
        let answer = request.send().await.expect("an answer");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
    }

    pub async fn lag(&self) -> i64 {
        let answer = self.get("/api/ops/lag").await;
        let rows = answer["groups"].as_array().expect("groups");
        rows.iter()
            .filter(|row| row["topic"] == "events" && row["group"] == "event-consumers")
            .filter_map(|row| row["lag"].as_i64())
            .sum()
    }

    pub async fn caught_up(&self) {
        while self.lag().await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until this group has read the events.
    pub async fn group_caught_up(&self, group: &str) {
        loop {
            let answer = self.get("/api/ops/lag").await;
            let rows = answer["groups"].as_array().expect("groups");
            let of_group = rows.iter().filter(|row| row["topic"] == "events" && row["group"] == group);
            if of_group.filter_map(|row| row["lag"].as_i64()).sum::<i64>() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Active parts of the busiest partition of `events`, and merges under way.
    pub async fn parts(&self) -> u64 {
        let doctor = self.get("/api/ops/doctor").await;
        let findings = doctor["findings"].as_array().expect("findings");
        let parts = findings.iter().find(|finding| finding["name"] == "events.parts").expect("events.parts");
        let message = parts["message"].as_str().unwrap_or_default();
        message.split(' ').find_map(|word| word.parse().ok()).expect("a number of parts")
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.http.get(format!("{}/metrics", self.url)).send().await.expect("metrics");
        let text = text.text().await.expect("text");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
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

    pub fn memory_mib(&self) -> u64 {
        resident_mib(self.child.id())
    }

    pub fn engine_memory_mib(&self) -> u64 {
        engines_of(self.child.id()).into_iter().map(resident_mib).sum()
    }

    /// CPU seconds so far: this process, its engine.
    pub fn cpu(&self) -> (f64, f64) {
        (cpu_seconds(self.child.id()), engine_cpu_of(self.child.id()))
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

/// The embedded engines of a process.
fn engines_of(pid: u32) -> Vec<u32> {
    let children = Command::new("pgrep").args(["-P", &pid.to_string()]).output();
    children
        .map(|output| {
            String::from_utf8_lossy(&output.stdout).lines().filter_map(|pid| pid.parse().ok()).collect()
        })
        .unwrap_or_default()
}

/// CPU seconds of the embedded engine of a process so far.
pub fn engine_cpu_of(pid: u32) -> f64 {
    engines_of(pid).into_iter().map(cpu_seconds).sum()
}

/// Requests of `events` events each; the ids of request n are its own, or left to capture.
pub fn bodies(events: u64, with_ids: bool) -> Body {
    Arc::new(move |n| {
        let mut body = String::with_capacity(usize::try_from(events).unwrap_or(0) * 260);
        body.push('[');
        for i in 0..events {
            if i > 0 {
                body.push(',');
            }
            crate::capture::event_into(&mut body, n * events + i, with_ids);
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
    let outcome = post(served.address(), "/capture", &served.key, bodies(1, true), load).await;
    served.caught_up().await;
    let p95 = served.visibility(0.95).await;
    report::check(
        format!("visible at {:.0} events/s, {seconds} s", outcome.per_second()),
        format!(
            "p50 ≤ {:.3} s, p95 ≤ {p95:.3} s, p99 ≤ {:.3} s, refused {}",
            served.visibility(0.5).await,
            served.visibility(0.99).await,
            outcome.refused
        ),
        "p95 < 0.25 s",
        p95 < 0.25,
    );
    served.stop();
}

/// 20,000 events/s, 100 a request, everything in one process. The ids are made by capture: the id window stays empty.
pub async fn steady(seconds: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    let served = Served::start(dir.path(), &[]).await;
    let load = Load { connections: 16, seconds, rate: Some(200.0) };
    let outcome = post(served.address(), "/capture", &served.key, bodies(100, false), load).await;
    let (own, engine) = (served.memory_mib(), served.engine_memory_mib());
    served.caught_up().await;
    let p95 = served.visibility(0.95).await;
    report::check(
        format!("{:.0} events/s for {seconds} s, one process", outcome.per_second() * 100.0),
        format!(
            "visible p50 ≤ {:.3} s, p95 ≤ {p95:.3} s, p99 ≤ {:.3} s; request p50 {:.1} ms, p99 {:.1} ms, refused {}",
            served.visibility(0.5).await,
            served.visibility(0.99).await,
            outcome.percentile(0.5),
            outcome.percentile(0.99),
            outcome.refused
        ),
        "p95 < 1 s",
        p95 < 1.0,
    );
    report::check(
        "… resident at its end, id window empty",
        format!("{own} MiB (engine {engine} MiB)"),
        "≤ 150 MiB",
        own <= 150,
    );
    served.stop();
}

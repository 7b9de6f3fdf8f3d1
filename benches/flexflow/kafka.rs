//! The log on a Kafka of one broker, on the same two cores: capture beside parse-and-answer and beside Kafka's own
//! producer-perf-test, catch-up of the consumer, and its memory. `scripts/kafka` starts the broker and ends it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::capture::{PAIRS, by_turns, cpu, measure, prepared};
use crate::kafka_engine;
use crate::load::{Body, Load, post};
use crate::pipeline::{Served, bodies};
use crate::report;

/// Records of producer-perf-test: as long as those that capture writes of the events here.
const RECORD_BYTES: &str = "420";
/// The best alternative's capture of single events, which is not durable.
const PEER_SINGLE: f64 = 35_000.0;

/// The same load, unmeasured, before the broker is measured: after 25 s a third of its processor time is still its compiler.
const WARMING_SECONDS: u64 = 90;

/// A broker, which ends when it is dropped.
struct Broker {
    child: Child,
    bootstrap: String,
    _commands: ChildStdin,
    _dir: tempfile::TempDir,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka")
}

impl Broker {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let mut child = Command::new(script())
            .arg("run")
            .arg(dir.path().join("kafka"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("scripts/kafka runs");
        let commands = child.stdin.take().expect("stdin");
        let mut bootstrap = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut bootstrap).expect("its address");
        assert!(!bootstrap.trim().is_empty(), "Kafka does not start; see above");
        Self { child, bootstrap: bootstrap.trim().to_owned(), _commands: commands, _dir: dir }
    }

    fn tool(&self, name: &str, args: &[&str]) -> String {
        let output =
            Command::new(script()).args(["tool", name]).args(args).output().expect("scripts/kafka runs");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{name}: {stdout}{}", String::from_utf8_lossy(&output.stderr));
        stdout
    }

    /// Records a second of Kafka's own producer, acks=all, on the topic of events.
    fn producer_perf(&self, records: u64) -> f64 {
        let servers = format!("bootstrap.servers={}", self.bootstrap);
        let count = records.to_string();
        let told = self.tool(
            "producer-perf-test",
            &[
                "--topic",
                "events",
                "--num-records",
                &count,
                "--record-size",
                RECORD_BYTES,
                "--throughput",
                "-1",
                "--producer-props",
                &servers,
                "acks=all",
            ],
        );
        // "5000000 records sent, 431034.5 records/sec (172.65 MB/sec), 12.3 ms avg latency, …", the last line of them.
        let last = told.lines().rev().find(|line| line.contains("records/sec")).expect("a result");
        let rate = last.split(", ").nth(1).and_then(|part| part.split(' ').next());
        rate.and_then(|rate| rate.parse().ok()).expect("records a second")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().ok();
        self.child.wait().ok();
    }
}

/// All of it; capture's parts for `seconds` each.
pub async fn run(seconds: u64) {
    let broker = Broker::start();
    let log = [("eventlog.kafka.bootstrap_servers", broker.bootstrap.as_str())];
    single(&log, seconds).await;
    bulk(&broker, &log, seconds).await;
    drop(broker);
    let broker = Broker::start();
    catch_up(&broker, seconds.div_ceil(5)).await;
}

async fn single(log: &[(&str, &str)], seconds: u64) {
    let body = prepared(1000, 1);
    let load = Load { connections: 64, seconds: seconds.div_ceil(PAIRS).max(3), rate: None };
    // A broker that has just started compiles itself, and takes a whole core for it.
    measure(Some(log), body.clone(), Load { seconds: WARMING_SECONDS, ..load }).await;
    let pair = by_turns(log, &body, load).await;
    let (ceiling, durable, [ratio, least, most]) = (pair.without, pair.with, pair.ratio);
    let rate = durable.outcome.per_second();
    report::note(
        format!("single-event POST, {PAIRS} times {} s, 64 connections, without the log", load.seconds),
        format!("{:.0}/s", ceiling.outcome.per_second()),
    );
    report::check(
        format!("… on Kafka, acks=all, after {WARMING_SECONDS} s of the same"),
        format!(
            "{rate:.0}/s, p50 {:.1} ms, p99 {:.1} ms, refused {}",
            durable.outcome.percentile(0.5),
            durable.outcome.percentile(0.99),
            durable.outcome.refused
        ),
        "> 35,000/s",
        rate > PEER_SINGLE,
    );
    let said = format!("{ratio:.3} ({least:.2} to {most:.2})");
    report::check("… ratio of the two, the middle of all", said, "≥ 0.5", ratio >= 0.5);
    report::note("… CPU a request, with and without", format!("{}, {}", cpu(&durable), cpu(&ceiling)));
    let paced = measure(Some(log), body, Load { rate: Some(10_000.0), seconds, ..load }).await.outcome;
    let p99 = paced.percentile(0.99);
    report::check(
        format!("… at {:.0}/s, the request with its wait for the brokers", paced.per_second()),
        format!("p50 {:.1} ms, p99 {p99:.1} ms, refused {}", paced.percentile(0.5), paced.refused),
        "p99 < 30 ms",
        p99 < 30.0,
    );
}

async fn bulk(broker: &Broker, log: &[(&str, &str)], seconds: u64) {
    let load = Load { connections: 32, seconds, rate: None };
    let durable = measure(Some(log), prepared(500, 100), load).await;
    let rate = durable.outcome.requests as f64 * 100.0 / (durable.outcome.seconds + durable.closing);
    report::note(
        format!("bulk of 100 on Kafka, acks=all, {seconds} s"),
        format!(
            "{rate:.0} events/s, p50 {:.1} ms, p99 {:.1} ms, refused {}; CPU a request {}",
            durable.outcome.percentile(0.5),
            durable.outcome.percentile(0.99),
            durable.outcome.refused,
            cpu(&durable)
        ),
    );
    let perf = broker.producer_perf(200_000 * seconds.max(5));
    report::note("producer-perf-test, acks=all, the same topic", format!("{perf:.0} records/s"));
    report::check("… ratio of the two", format!("{:.2}", rate / perf), "≥ 0.7", rate / perf >= 0.7);
    report::check(
        "… beside the best alternative",
        format!("{rate:.0} events/s"),
        "> 93,000",
        rate > 93_000.0,
    );
}

/// Rows a second from a full topic until it is read, CPU and memory.
async fn catch_up(broker: &Broker, millions: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    let servers = format!("eventlog.kafka.bootstrap_servers={}", broker.bootstrap);
    let on_kafka = ["--set", servers.as_str()];
    let filler =
        Served::start(dir.path(), &[&on_kafka[..], &["--role", "capture", "--role", "auth"]].concat()).await;
    let (key, mut sent) = (filler.key.clone(), 0);
    while sent < millions * 10_000 {
        let (base, body) = (sent, bodies(100, true));
        let shifted: Body = Arc::new(move |n| body(base + n));
        let outcome = post(
            filler.address(),
            "/capture",
            &key,
            shifted,
            Load { connections: 16, seconds: 3, rate: None },
        )
        .await;
        assert_eq!(outcome.refused, 0, "capture refused");
        sent += outcome.requests;
    }
    filler.stop();
    let roles = ["--role", "consumer", "--role", "query", "--role", "auth"];
    let consumer = Served::start(dir.path(), &[&on_kafka[..], &roles].concat()).await;
    let (started, before) = (Instant::now(), consumer.lag().await);
    let (own_before, engine_before) = consumer.cpu();
    let mut most = 0;
    while consumer.lag().await > 0 {
        most = most.max(consumer.memory_mib());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let rate = before as f64 / started.elapsed().as_secs_f64();
    let (own, engine) = consumer.cpu();
    let micros = |cpu: f64| cpu * 1e6 / before as f64;
    let cpu =
        format!("own {:.1} µs, engine {:.1} µs", micros(own - own_before), micros(engine - engine_before));
    consumer.stop();
    let peer = kafka_engine::run(&broker.bootstrap, before.unsigned_abs()).await;
    report::note(
        "ClickHouse's own Kafka engine, a materialized view into the same table, from the same topic",
        format!("{:.0} rows/s; {:.1} µs CPU a row", peer.rows_per_second, peer.cpu_micros_a_row),
    );
    let ratio = rate / peer.rows_per_second;
    report::check(
        format!("catch-up from {before} records on Kafka; beside the engine"),
        format!("{rate:.0} rows/s; {ratio:.2}"),
        "≥ 1.0",
        ratio >= 1.0,
    );
    report::note(
        "… CPU a row; most memory of the consumer, bounded by consumer.batch_bytes_max, lanes and the id window",
        format!("{cpu}; {most} MiB"),
    );
}

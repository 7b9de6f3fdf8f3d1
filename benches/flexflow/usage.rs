//! Metering: single events on `/v1/events` beside `/capture`, tracking beside storing, usage and lists on a table of any
//! size, and how long it takes until an order is credited to its click.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flexflow::app::{App, Options, Role, Running};
use flexflow::config::Config;
use flexflow::event::Scope;
use flexflow::store::Sql;
use serde_json::{Value, json};

use crate::catch_up::fill;
use crate::load::{Body, Load, post};
use crate::pipeline::Served;
use crate::query::{at_rest, merged};
use crate::report;

/// Events in one insert, and to a customer.
const CHUNK: u64 = 1_000_000;
const EVENTS_A_CUSTOMER: u64 = 2500;
/// Times each question is asked.
const ROUNDS: usize = 20;
/// Pairs of a click and an order.
const PAIRS: usize = 40;

/// Questions on `millions` of events; tracking on a tenth of that, but at least a million.
pub async fn run(millions: u64) {
    single().await;
    tracking((millions / 10).max(1)).await;
    questions(millions).await;
    attributed().await;
}

/// Single events a second on both surfaces of the same server.
async fn single() {
    let dir = tempfile::tempdir().expect("a folder");
    let served = Served::start(dir.path(), &[]).await;
    let captured: Body = Arc::new(|n| body(n, "event", "distinct_id"));
    let metered: Body = Arc::new(|n| body(n, "event_name", "external_customer_id"));
    let load = Load { connections: 64, seconds: 4, rate: None };
    let mut best = [0.0f64; 2];
    // In turns: what else the machine does changes while it runs.
    for _ in 0..3 {
        for (at, (path, body)) in [("/capture", &captured), ("/v1/events", &metered)].into_iter().enumerate()
        {
            let outcome = post(served.address(), path, &served.key, body.clone(), load).await;
            assert_eq!(outcome.refused, 0, "{path} refused");
            best[at] = best[at].max(outcome.per_second());
        }
    }
    served.stop();
    let ratio = best[1] / best[0];
    report::check(
        "single events on /v1/events, beside /capture on the same server (consumers at work)",
        format!("{:.0}/s, {:.0}/s: ratio {ratio:.2}", best[1], best[0]),
        "≥ 0.9",
        ratio >= 0.9,
    );
}

fn body(n: u64, name: &str, who: &str) -> Vec<u8> {
    let properties = r#"{"tokens":"123.000000001","region":"eu"}"#;
    format!(r#"{{"{name}":"call","{who}":"customer-{}","properties":{properties}}}"#, n % 1000).into_bytes()
}

/// Rows a second that are stored and tracked from a full log, by a process that does both.
async fn tracking(millions: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    let setting = ["--set", "metering.tracking=true"];
    let first = Served::start(dir.path(), &setting).await;
    let meter = json!({"name": "views", "event_name": "page viewed",
                       "aggregation": {"type": "SUM", "field": "price"}});
    first.operator_post("/v1/meters", &meter).await;
    let key = first.key.clone();
    first.stop();
    let events = fill(dir.path(), &key, millions).await;
    let served = Served::start(
        dir.path(),
        &[&setting[..], &["--role", "consumer", "--role", "query", "--role", "auth"]].concat(),
    )
    .await;
    let began = Instant::now();
    let stored = async {
        served.group_caught_up("event-consumers").await;
        began.elapsed()
    };
    let tracked = async {
        served.group_caught_up("feature-usage-tracking").await;
        began.elapsed()
    };
    let (stored, tracked) = tokio::join!(stored, tracked);
    served.stop();
    let rate = |took: Duration| events as f64 / took.as_secs_f64();
    let share = rate(tracked) / rate(stored);
    report::check(
        format!("tracking {events} events from a full log, beside storing them in the same process"),
        format!("{:.0} rows/s, {:.0} rows/s: ratio {share:.2}", rate(tracked), rate(stored)),
        "≥ 0.8",
        share >= 0.8,
    );
}

/// Usage and lists on a table of this size.
async fn questions(millions: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    let running = started(dir.path(), &[("metering.tracking", "true")]).await;
    let asking = Asking::of(&running);
    let meter = asking.meter().await;
    let events = millions * 1_000_000;
    let customers = events / EVENTS_A_CUSTOMER;
    asking.fill(&running, &meter, (events, customers)).await;
    let month = |more: Value| {
        let mut body = json!({"event_name": "call", "aggregation_type": "SUM", "property_name": "tokens",
            "start_time": "2026-05-01T00:00:00Z", "end_time": "2026-06-01T00:00:00Z"});
        for (key, value) in more.as_object().expect("an object") {
            body[key] = value.clone();
        }
        body
    };
    let customer = |round: usize| json!({"external_customer_id": format!("customer-{}", round * 7)});
    let by_day = json!({"group_by": ["external_customer_id"], "window_size": "DAY"});
    let of_meter = |more: Value| {
        let mut body = month(more);
        body.as_object_mut()
            .expect("an object")
            .retain(|key, _| !["event_name", "aggregation_type", "property_name"].contains(&key.as_str()));
        body["meter_id"] = meter.as_str().into();
        body
    };
    for (path, what) in
        [("/v1/events/usage/meter", "a meter's usage"), ("/v1/events/usage", "usage of any property")]
    {
        let tracked = path.ends_with("meter");
        let body = |more: Value| if tracked { of_meter(more) } else { month(more) };
        let p95 = asking.times(path, ROUNDS, |round| body(customer(round))).await;
        let told = format!("{what} of one customer in a month, {millions} M events");
        let value = format!("p95 {p95:.0} ms");
        report::check(told, value, "< 100 ms", p95 < 100.0);
        let slowest = asking.times(path, 3, |_| body(by_day.clone())).await;
        let told = format!("{what} of all {customers} customers by day for a month, {millions} M events");
        let value = format!("slowest of 3: {slowest:.0} ms");
        report::check(told, value, "< 3 s", slowest < 3000.0);
    }
    let page = |round: usize| {
        json!({"page_size": 100, "start_time": "2026-05-01T00:00:00Z", "end_time": "2026-06-01T00:00:00Z",
               "external_customer_id": format!("customer-{}", round * 11)})
    };
    let p95 = asking.times("/v1/events/query", ROUNDS, page).await;
    report::check(
        format!("a page of 100 events, {millions} M events"),
        format!("p95 {p95:.0} ms"),
        "< 50 ms",
        p95 < 50.0,
    );
    running.stop().await.expect("a clean stop");
}

/// From the acknowledgement of the later event of a pair until the pair is to be read.
async fn attributed() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = started(dir.path(), &[("attribution.cache_ttl", "200ms")]).await;
    let asking = Asking::of(&running);
    let rule = json!({"name": "click to order", "sources": ["ad clicked"], "target": "order placed", "look_back": "7d",
        "model": "last_touch", "join": {"by": "property", "source": "item_id", "target": "item_id"},
        "dimension": "ad_id", "value": "amount"});
    let made = asking.operator_post("/api/attribution/rules", &rule).await;
    let question =
        json!({"rule_id": made["id"], "by": "source", "date_from": "2026-01-01", "date_to": "2030-01-01"});
    let now = flexflow::event::Clock::now(&flexflow::event::SystemClock).to_string();
    let mut took = Vec::new();
    for pair in 0..PAIRS {
        let event = |name: &str, who: &str| {
            json!({"event": name, "distinct_id": format!("{who}-{pair}"), "timestamp": now,
                   "properties": {"item_id": pair, "ad_id": "a", "amount": 1}})
        };
        let mut events = [event("ad clicked", "viewer"), event("order placed", "buyer")];
        if pair % 2 == 1 {
            events.reverse();
        }
        asking.post("/capture", &events[0]).await;
        asking.post("/capture", &events[1]).await;
        let began = Instant::now();
        while asking.post("/api/query/attribution", &question).await["totals"]["attributed"] != pair + 1 {
            assert!(began.elapsed() < Duration::from_secs(60), "pair {pair} is not credited");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        took.push(began.elapsed());
    }
    let p95 = percentile(&mut took, 0.95);
    report::check(
        format!("{PAIRS} orders until they are credited to their clicks, either first"),
        format!("p50 {:.0} ms, p95 {p95:.0} ms", percentile(&mut took, 0.5)),
        "p95 ≤ 5 s",
        p95 <= 5000.0,
    );
    running.stop().await.expect("a clean stop");
}

pub async fn started(dir: &Path, settings: &[(&str, &str)]) -> Running {
    let data_dir = dir.join("data").display().to_string();
    let own = [("data_dir", data_dir.as_str()), ("server.listen", "127.0.0.1:0")];
    let config = Config::from_overrides(&[&own[..], settings].concat()).expect("settings");
    let running = App::start(config, Role::ALL, Options::default()).await.expect("start");
    running.ready().await;
    running
}

/// Requests to an application in this process.
pub struct Asking {
    http: reqwest::Client,
    url: String,
    key: String,
    token: String,
    project: String,
    environment: String,
}

impl Asking {
    pub fn of(running: &Running) -> Self {
        let first = running.first_run().expect("a first key");
        Self {
            http: reqwest::Client::new(),
            url: running.url().to_owned(),
            key: first.api_key,
            token: running.operator_token().to_owned(),
            project: first.project_id,
            environment: first.environment_id,
        }
    }

    /// The table's rows, and those of tracked usage.
    async fn fill(&self, running: &Running, meter: &str, (events, customers): (u64, u64)) {
        let began = Instant::now();
        for from in (0..events).step_by(CHUNK as usize) {
            let store = running.store().expect("a store");
            let insert = self.insert(from, CHUNK.min(events - from), events, customers);
            store.execute(insert).await.expect("an insert");
            store.execute(self.track(meter, from, CHUNK)).await.expect("an insert");
        }
        let store = running.store().expect("a store");
        let (parts, of_usage) = (merged(store, "events").await, merged(store, "feature_usage").await);
        report::note(
            format!("{} M events of {customers} customers, 90 days", events / 1_000_000),
            format!(
                "made and merged to {parts} parts, {of_usage} of usage, in {:.0} s",
                began.elapsed().as_secs_f64()
            ),
        );
        let scope = Scope::new(self.project.as_str(), self.environment.as_str());
        let at_rest = tokio::join!(at_rest(store, &scope, "events"), at_rest(store, &scope, "feature_usage"));
        let found = at_rest.0.max(at_rest.1);
        report::note("until all days are known to be at rest", format!("{:.0} s", found.as_secs_f64()));
    }

    /// The p95 of so many answers, in milliseconds.
    async fn times(&self, path: &str, rounds: usize, body: impl Fn(usize) -> Value) -> f64 {
        let mut took = Vec::new();
        for round in 0..rounds {
            let body = body(round);
            let request = self.http.post(format!("{}{path}", self.url)).header("X-API-Key", &self.key);
            let began = Instant::now();
            // To its last byte, and not what it takes to make objects of hundreds of thousands of points on the same cores.
            let answer = request.json(&body).send().await.expect("an answer");
            let (status, bytes) = (answer.status(), answer.bytes().await.expect("the whole answer"));
            took.push(began.elapsed());
            assert!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&bytes));
        }
        percentile(&mut took, 0.95)
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let request = self.http.post(format!("{}{path}", self.url)).header("X-API-Key", &self.key);
        answered(request.json(body)).await
    }

    /// The project and the environment.
    pub fn scope(&self) -> (&str, &str) {
        (&self.project, &self.environment)
    }

    pub async fn operator_get(&self, path: &str) -> Value {
        answered(self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.token)).await
    }

    pub async fn operator_post(&self, path: &str, body: &Value) -> Value {
        let request = self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.token);
        answered(request.json(body)).await
    }

    /// A meter that sums tokens, with its past (there is none) tracked.
    async fn meter(&self) -> String {
        let spec = json!({"name": "tokens", "event_name": "call", "aggregation": {"type": "SUM", "field": "tokens"}});
        let made = self.operator_post("/v1/meters", &spec).await;
        let job = format!("{}/api/jobs/{}", self.url, made["rebuild_job_id"].as_str().expect("a job"));
        while answered(self.http.get(&job).bearer_auth(&self.token)).await["state"] != "succeeded" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        made["id"].as_str().expect("an id").to_owned()
    }

    /// What the meter counts of events that were inserted.
    fn track(&self, meter: &str, from: u64, count: u64) -> Sql {
        Sql::new(
            "INSERT INTO feature_usage (project_id, environment_id, meter_id, event_name, distinct_id, event_id, state, \
             quantity_text, source_topic, timestamp, received_at, source_partition, source_offset, version) SELECT \
             project_id, environment_id, ",
        )
        .arg(meter)
        .push(
            ", event_name, distinct_id, event_id, 'number', JSONExtractString(properties, 'tokens'), source_topic, \
             timestamp, received_at, source_partition, source_offset, 1 FROM events WHERE event_name = 'call' AND \
             source_offset >= ",
        )
        .arg(from)
        .push(" AND source_offset < ")
        .arg(from + count)
    }

    /// Calls of 90 days, each with a number of tokens; in the order of their time, as a log's are, up to an hour late.
    fn insert(&self, from: u64, count: u64, events: u64, customers: u64) -> Sql {
        let first = flexflow::event::Timestamp::parse("2026-04-01T00:00:00Z").expect("a time").as_millis();
        Sql::new(
            "INSERT INTO events (project_id, environment_id, event_name, distinct_id, event_id, properties, timestamp, \
             received_at, source_topic, source_partition, source_offset, version) SELECT ",
        )
        .arg(&self.project)
        .push(", ")
        .arg(&self.environment)
        .push(
            ", if(cityHash64(number, 1) % 10 < 8, 'call', 'login'), concat('customer-', toString(customer)), \
             concat('id-', toString(number)), concat('{\"tokens\":\"', toString(cityHash64(number, 2) % 100000), \
             '.000000001\",\"region\":\"eu\"}'), fromUnixTimestamp64Milli(at, 'UTC'), fromUnixTimestamp64Milli(at, 'UTC'), \
             'events', toInt32(number % 8), toInt64(number), 0 FROM (SELECT number, cityHash64(number, 3) % ",
        )
        .arg(customers)
        .push(" AS customer, ")
        .arg(first)
        .push(" + toInt64(number * 7776000 / ")
        .arg(events / 1000)
        .push(") - toInt64(cityHash64(number, 4) % 3600000) AS at FROM numbers(")
        .arg(from)
        .push(", ")
        .arg(count)
        .push("))")
    }
}

async fn answered(request: reqwest::RequestBuilder) -> Value {
    let answer = request.send().await.expect("an answer");
    let status = answer.status();
    let answer: Value = answer.json().await.expect("JSON");
    assert!(status.is_success(), "{status} {answer}");
    answer
}

/// In milliseconds.
fn percentile(times: &mut [Duration], share: f64) -> f64 {
    times.sort();
    let at = ((times.len() - 1) as f64 * share).round() as usize;
    times[at].as_secs_f64() * 1000.0
}

//! Questions on a table of any size, each beside hand-written SQL on the same table in the same run.
//!
//! The events are made inside the engine: people with Zipf-like activity, ninety days, the generator's names of events and
//! shares of plans, countries and items.

use std::time::{Duration, Instant};

use flexflow::app::{App, FirstRunFile, Options, Role, Running};
use flexflow::config::Config;
use flexflow::event::Timestamp;
use flexflow::store::{Sql, Store};
use serde_json::{Value, json};

/// Events in one insert.
const CHUNK: u64 = 1_000_000;
/// Times each question is asked.
const ROUNDS: usize = 12;
const DAYS: i64 = 90;

/// Makes `millions` of events and asks.
pub async fn query(millions: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    let data_dir = dir.path().join("data").display().to_string();
    let settings = [("data_dir", data_dir.as_str()), ("server.listen", "127.0.0.1:0")];
    let config = Config::from_overrides(&settings).expect("settings");
    let running = App::start(config, Role::ALL, Options::default()).await.expect("start");
    running.ready().await;
    let bench = Bench::new(&running);
    let began = Instant::now();
    bench.fill(millions * 1_000_000).await;
    println!(
        "{millions} M events of {} people made in {:.0} s, {} parts",
        people(millions * 1_000_000),
        began.elapsed().as_secs_f64(),
        bench.parts().await
    );
    for question in bench.questions() {
        bench.compare(&question).await;
    }
    bench.list().await;
    println!("{} parts at the end", bench.parts().await);
    running.stop().await.expect("a clean stop");
}

const fn people(events: u64) -> u64 {
    events / 25
}

struct Question {
    name: &'static str,
    body: Value,
    bare: Option<Sql>,
}

struct Bench {
    store: Store,
    first: FirstRunFile,
    http: reqwest::Client,
    url: String,
    now: Timestamp,
}

impl Bench {
    fn new(running: &Running) -> Self {
        let store = running.store().expect("a store").clone();
        let first = running.first_run().expect("a first key");
        let (http, url) = (reqwest::Client::new(), running.url().to_owned());
        Self { store, first, http, url, now: Timestamp::parse("2026-06-30T12:00:00Z").expect("a time") }
    }

    async fn fill(&self, events: u64) {
        let mut from = 0;
        while from < events {
            let count = CHUNK.min(events - from);
            self.store.execute(self.insert(from, count, people(events))).await.expect("an insert");
            from += count;
        }
    }

    fn insert(&self, from: u64, count: u64, people: u64) -> Sql {
        let first = self.now.as_millis() - DAYS * 86_400_000;
        Sql::new(
            "INSERT INTO events (project_id, environment_id, event_name, distinct_id, event_id, properties, timestamp, \
             received_at, source_topic, source_partition, source_offset, version, p_path, p_country, p_device, p_plan, \
             p_price, p_item_id) SELECT ",
        )
        .arg(&self.first.project_id)
        .push(", ")
        .arg(&self.first.environment_id)
        .push(
            ", multiIf(kind < 55, '$pageview', kind < 75, 'ad viewed', kind < 88, 'item viewed', kind < 94, 'added to cart', \
             kind < 97, 'purchased', 'signed up') AS name, concat('person-', toString(person)), \
             concat('id-', toString(number)), concat('{\"path\":', path, ',\"country\":', country, ',\"device\":', device, \
             ',\"plan\":', plan, ',\"price\":', price, ',\"item_id\":', item, ',\"referrer\":\"https://search.example\"}'), \
             fromUnixTimestamp64Milli(at, 'UTC'), fromUnixTimestamp64Milli(at, 'UTC'), 'events', toInt32(number % 8), \
             toInt64(number), 0, path, country, device, plan, price, item FROM (SELECT number, \
             cityHash64(number, 1) % 100 AS kind, toUInt64(pow((cityHash64(number, 2) % 1000000) / 1000000, 1.3) * ",
        )
        .arg(people)
        .push(") AS person, ")
        .arg(first)
        .push(" + toInt64(cityHash64(number, 3) % ")
        .arg(DAYS * 86_400_000)
        .push(
            ") AS at, concat('\"/page/', toString(cityHash64(number, 4) % 300), '\"') AS path, \
             ['\"US\"', '\"DE\"', '\"GB\"', '\"FR\"', '\"IN\"', '\"BR\"', '\"JP\"', '\"CA\"', '\"NL\"', '\"AU\"'][1 + \
             cityHash64(person, 5) % 10] AS country, ['\"mobile\"', '\"desktop\"', '\"tablet\"'][1 + cityHash64(person, 6) % 3] \
             AS device, ['\"free\"', '\"pro\"', '\"team\"'][1 + cityHash64(person, 7) % 3] AS plan, \
             toString((cityHash64(number, 8) % 20000) / 100) AS price, concat('\"item-', toString(cityHash64(number, 9) % 200), \
             '\"') AS item FROM numbers(",
        )
        .arg(from)
        .push(", ")
        .arg(count)
        .push("))")
    }

    /// Deduplicated events of the last days, as one would write it by hand.
    fn bare(&self, columns: &'static str, days: i64, name: Option<&str>, tail: &'static str) -> Sql {
        let midnight = self.now.as_millis() - self.now.as_millis() % 86_400_000;
        let from = Timestamp::from_millis(midnight - days * 86_400_000);
        let sql = Sql::new("SELECT ")
            .push(columns)
            .push(" FROM events FINAL WHERE project_id = ")
            .arg(&self.first.project_id)
            .push(" AND environment_id = ")
            .arg(&self.first.environment_id)
            .push(" AND toDate(timestamp) >= toDate(")
            .arg(from)
            .push(") AND toDate(timestamp) <= toDate(")
            .arg(self.now)
            .push(")");
        let sql = match name {
            Some(name) => sql.push(" AND event_name = ").arg(name),
            None => sql,
        };
        sql.push(" ").push(tail)
    }

    fn questions(&self) -> Vec<Question> {
        let now = self.now.to_string();
        let by_day = "toStartOfDay(timestamp) AS day, count() AS events";
        let tail = "GROUP BY day ORDER BY day";
        let ask = |name, mut body: Value, bare| {
            body["now"] = now.as_str().into();
            body["refresh"] = true.into();
            Question { name, body, bare }
        };
        vec![
            ask(
                "trend of 7 days, one name",
                json!({"date_from": "-7d", "series": [{"event": "$pageview"}]}),
                Some(self.bare(by_day, 7, Some("$pageview"), tail)),
            ),
            ask(
                "trend of 7 days, all names",
                json!({"date_from": "-7d", "series": [{"event": null}]}),
                Some(self.bare(by_day, 7, None, tail)),
            ),
            ask(
                "people of 7 days, one name",
                json!({"date_from": "-7d", "series": [{"event": "$pageview", "math": "dau"}]}),
                Some(self.bare(
                    "toStartOfDay(timestamp) AS day, uniqExact(cityHash64(distinct_id)) AS people",
                    7,
                    Some("$pageview"),
                    tail,
                )),
            ),
            ask(
                "7 days broken down by a column",
                json!({"date_from": "-7d", "series": [{"event": "$pageview"}], "breakdown": {"property": "country"}}),
                Some(self.bare(
                    "toStartOfDay(timestamp) AS day, p_country AS country, count() AS events",
                    7,
                    Some("$pageview"),
                    "GROUP BY day, country ORDER BY day, country",
                )),
            ),
            ask(
                "7 days broken down by text",
                json!({"date_from": "-7d", "series": [{"event": "purchased"}], "breakdown": {"property": "referrer"}}),
                None,
            ),
            ask(
                "sum of a column, 30 days",
                json!({"date_from": "-30d", "series": [{"event": "purchased", "math": "sum", "math_property": "price"}]}),
                Some(self.bare(
                    "toStartOfDay(timestamp) AS day, sum(toFloat64OrNull(p_price)) AS total",
                    30,
                    Some("purchased"),
                    tail,
                )),
            ),
            ask(
                "weekly active, 30 days",
                json!({"date_from": "-30d", "series": [{"event": "$pageview", "math": "weekly_active"}]}),
                None,
            ),
            ask(
                "first time for user, 7 days",
                json!({"date_from": "-7d", "series": [{"event": "purchased", "math": "first_time_for_user"}]}),
                None,
            ),
            ask(
                "trend of 90 days, one name",
                json!({"date_from": "-89d", "series": [{"event": "$pageview"}]}),
                None,
            ),
        ]
    }

    async fn compare(&self, question: &Question) {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        let mut rows_read = 0;
        for _ in 0..ROUNDS {
            let began = Instant::now();
            let answer = self.post("/api/query/trends", &question.body).await;
            ours.push(began.elapsed());
            rows_read = answer["meta"]["rows_read"].as_u64().unwrap_or_default();
            if let Some(sql) = &question.bare {
                let began = Instant::now();
                self.store.execute(sql.clone()).await.expect("an answer");
                bare.push(began.elapsed());
            }
        }
        let (p50, p95) = (percentile(&mut ours, 0.5), percentile(&mut ours, 0.95));
        let beside = if bare.is_empty() {
            String::new()
        } else {
            let bare = percentile(&mut bare, 0.5);
            format!("; bare SQL p50 {bare:.0} ms: ratio {:.2}", p50 / bare)
        };
        println!("{}: p50 {p50:.0} ms, p95 {p95:.0} ms, {rows_read} rows read{beside}", question.name);
    }

    /// The list of events: first page, and one by its id.
    async fn list(&self) {
        let mut pages = Vec::new();
        let mut cursor = String::new();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            let path = format!("/api/query/events?limit=100&date_to=2026-06-30{cursor}");
            let page = self.get(&path).await;
            pages.push(began.elapsed());
            cursor = page["next_cursor"].as_str().map(|next| format!("&cursor={next}")).unwrap_or_default();
        }
        let (p50, p95) = (percentile(&mut pages, 0.5), percentile(&mut pages, 0.95));
        println!("pages of the list: p50 {p50:.0} ms, p95 {p95:.0} ms");
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let request = self.http.post(format!("{}{path}", self.url)).header("X-API-Key", &self.first.api_key);
        let answer = request.json(body).send().await.expect("an answer");
        let status = answer.status();
        let answer: Value = answer.json().await.expect("JSON");
        assert_eq!(status, 200, "{answer}");
        answer
    }

    async fn get(&self, path: &str) -> Value {
        let request = self.http.get(format!("{}{path}", self.url)).header("X-API-Key", &self.first.api_key);
        request.send().await.expect("an answer").json().await.expect("JSON")
    }

    async fn parts(&self) -> u64 {
        let sql = Sql::new(
            "SELECT count() AS parts FROM system.parts WHERE active AND table = 'events' AND database = currentDatabase()",
        );
        let rows: Vec<(u64,)> = self.store.select(sql).await.expect("parts");
        rows.first().map_or(0, |row| row.0)
    }
}

/// In milliseconds.
fn percentile(times: &mut [Duration], share: f64) -> f64 {
    times.sort();
    let at = ((times.len() - 1) as f64 * share).round() as usize;
    times[at].as_secs_f64() * 1000.0
}

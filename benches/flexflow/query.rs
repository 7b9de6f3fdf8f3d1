//! Questions on a table of any size, each beside hand-written SQL on the same table in the same run.
//!
//! The events are made inside the engine: people with Zipf-like activity, ninety days, the generator's names of events and
//! shares of plans, countries and items. They come in the order of their time, as a log's do, up to an hour late.

use std::time::{Duration, Instant};

use flexflow::app::{App, FirstRunFile, Options, Role, Running};
use flexflow::config::Config;
use flexflow::event::{Scope, Timestamp};
use flexflow::store::{Sql, Store};
use serde_json::{Value, json};

use crate::report;

/// Events in one insert.
const CHUNK: u64 = 1_000_000;
/// Times each question is asked.
const ROUNDS: usize = 12;
const DAYS: i64 = 90;
/// The parts that are waited for, as in `catch_up`: production merges while it is asked.
const PARTS_MAX: u64 = 20;
/// How often nothing is merged, asked twice a second, until that counts as the end of it.
const IDLE: u32 = 10;
const NAME: &str = "$pageview";

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
    let parts = merged(&bench.store, "events").await;
    report::note(
        format!("{millions} M events of {} people, {DAYS} days", people(millions * 1_000_000)),
        format!("made and merged to {parts} parts in {:.0} s", began.elapsed().as_secs_f64()),
    );
    let scope = Scope::new(bench.first.project_id.as_str(), bench.first.environment_id.as_str());
    let found = at_rest(&bench.store, &scope, "events").await;
    report::note("until all days are known to be at rest", format!("{:.0} s", found.as_secs_f64()));
    let mut trends = Duration::ZERO;
    for question in bench.of_a_week().into_iter().chain(bench.of_months()) {
        trends += bench.compare(&question).await;
    }
    bench.metric("query_trend_duration_seconds", trends).await;
    let mut funnels = Duration::ZERO;
    for question in bench.funnels() {
        funnels += bench.compare(&question).await;
    }
    bench.metric("query_funnel_duration_seconds", funnels).await;
    for question in bench.of_people() {
        bench.compare(&question).await;
    }
    bench.cached().await;
    bench.list().await;
    bench.by_id(millions * 1_000_000).await;
    report::note("parts at the end", count(&bench.store, "parts", "active", "events").await.to_string());
    running.stop().await.expect("a clean stop");
}

const fn people(events: u64) -> u64 {
    events / 25
}

struct Question {
    name: &'static str,
    path: &'static str,
    body: Value,
    /// Beside what, and how many times as long it may take.
    bare: Option<(Sql, Option<f64>)>,
    /// What 95 of 100 must not exceed, in milliseconds.
    p95_max: Option<f64>,
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
            self.store.execute(self.insert(from, count, events)).await.expect("an insert");
            from += count;
        }
    }

    fn insert(&self, from: u64, count: u64, events: u64) -> Sql {
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
        .arg(people(events))
        .push(") AS person, ")
        .arg(first)
        .push(" + toInt64(number * ")
        .arg(DAYS * 86_400_000 / 1000)
        .push(" / ")
        .arg(events / 1000)
        .push(") - toInt64(cityHash64(number, 3) % 3600000")
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
    fn bare(&self, columns: &'static str, days: i64, names: &[&str], tail: &'static str) -> Sql {
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
        let sql = if names.is_empty() { sql } else { sql.push(" AND event_name IN ").list(names) };
        sql.push(" ").push(tail)
    }

    fn ask(&self, path: &'static str, name: &'static str, mut body: Value) -> Question {
        body["now"] = self.now.to_string().into();
        body["refresh"] = true.into();
        Question { name, path, body, bare: None, p95_max: None }
    }

    fn of_a_week(&self) -> Vec<Question> {
        let by_day = "toStartOfDay(timestamp) AS day, count() AS events";
        let tail = "GROUP BY day ORDER BY day";
        let ask = |name, body, bare, p95_max| {
            let question = self.ask("/api/query/trends", name, body);
            Question { bare, p95_max, ..question }
        };
        vec![
            ask(
                "trend of 7 days, one name",
                json!({"date_from": "-7d", "series": [{"event": NAME}]}),
                Some((self.bare(by_day, 7, &[NAME], tail), Some(1.3))),
                Some(150.0),
            ),
            ask(
                "trend of 7 days, all names",
                json!({"date_from": "-7d", "series": [{"event": null}]}),
                Some((self.bare(by_day, 7, &[], tail), Some(1.3))),
                Some(500.0),
            ),
            ask(
                "people of 7 days, one name",
                json!({"date_from": "-7d", "series": [{"event": NAME, "math": "dau"}]}),
                Some((
                    self.bare(
                        "toStartOfDay(timestamp) AS day, uniqExact(cityHash64(distinct_id)) AS people",
                        7,
                        &[NAME],
                        tail,
                    ),
                    None,
                )),
                None,
            ),
            ask(
                "7 days broken down by a column",
                json!({"date_from": "-7d", "series": [{"event": NAME}], "breakdown": {"property": "country"}}),
                Some((
                    self.bare(
                        "toStartOfDay(timestamp) AS day, p_country AS country, count() AS events",
                        7,
                        &[NAME],
                        "GROUP BY day, country ORDER BY day, country",
                    ),
                    None,
                )),
                Some(500.0),
            ),
            ask(
                "7 days broken down by text",
                json!({"date_from": "-7d", "series": [{"event": NAME}], "breakdown": {"property": "referrer"}}),
                None,
                Some(500.0),
            ),
        ]
    }

    fn of_months(&self) -> Vec<Question> {
        let ask = |name, body, bare| {
            let question = self.ask("/api/query/trends", name, body);
            Question { bare, ..question }
        };
        vec![
            ask(
                "sum of a column, 30 days",
                json!({"date_from": "-30d", "series": [{"event": "purchased", "math": "sum", "math_property": "price"}]}),
                Some((
                    self.bare(
                        "toStartOfDay(timestamp) AS day, sum(toFloat64OrNull(p_price)) AS total",
                        30,
                        &["purchased"],
                        "GROUP BY day ORDER BY day",
                    ),
                    None,
                )),
            ),
            ask(
                "weekly active, 30 days",
                json!({"date_from": "-30d", "series": [{"event": NAME, "math": "weekly_active"}]}),
                None,
            ),
            ask(
                "first time for user, 7 days",
                json!({"date_from": "-7d", "series": [{"event": "purchased", "math": "first_time_for_user"}]}),
                None,
            ),
            ask(
                "trend of 90 days, one name",
                json!({"date_from": "-89d", "series": [{"event": NAME}]}),
                None,
            ),
        ]
    }

    /// Beside `windowFunnel`, which is given 14 days as the funnel's default window is.
    fn funnels(&self) -> Vec<Question> {
        let steps = ["item viewed", "added to cart", "purchased"];
        let each = |steps: &[&str]| steps.iter().map(|step| json!({"event": step})).collect::<Vec<Value>>();
        let ask = |name, steps: &[&str], inner, p95_max| {
            let body = json!({"date_from": "-30d", "steps": each(steps)});
            let levels = Sql::new("SELECT level AS level, count() AS people FROM (")
                .append(&self.bare(inner, 30, steps, "GROUP BY distinct_id"))
                .push(") GROUP BY level ORDER BY level");
            let question = self.ask("/api/query/funnel", name, body);
            Question { bare: Some((levels, Some(1.0))), p95_max, ..question }
        };
        vec![
            ask(
                "funnel of 30 days, 3 steps",
                &steps,
                "windowFunnel(1209600)(toDateTime(timestamp), event_name = 'item viewed', event_name = 'added to cart', \
                 event_name = 'purchased') AS level",
                Some(2500.0),
            ),
            ask(
                "funnel of 30 days, 3 steps from the commonest event on",
                &[NAME, "added to cart", "purchased"],
                "windowFunnel(1209600)(toDateTime(timestamp), event_name = '$pageview', event_name = 'added to cart', \
                 event_name = 'purchased') AS level",
                Some(2500.0),
            ),
        ]
    }

    fn of_people(&self) -> Vec<Question> {
        let body = json!({"total_intervals": 8, "period": "week", "target_event": "signed up", "returning_event": NAME});
        let retention = self.ask("/api/query/retention", "retention of 8 weeks", body);
        let series = json!({"date_from": "-30d", "series": [{"event": NAME}]});
        vec![
            Question { p95_max: Some(3000.0), ..retention },
            self.ask("/api/query/stickiness", "stickiness of 30 days", series.clone()),
            self.ask("/api/query/lifecycle", "lifecycle of 30 days", series),
        ]
    }

    /// Asks by turns; answers how long ours took together.
    async fn compare(&self, question: &Question) -> Duration {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        let mut rows_read = 0;
        self.post(question.path, &question.body).await;
        for _ in 0..ROUNDS {
            let began = Instant::now();
            let answer = self.post(question.path, &question.body).await;
            ours.push(began.elapsed());
            rows_read = answer["meta"]["rows_read"].as_u64().unwrap_or_default();
            if let Some((sql, _)) = &question.bare {
                let began = Instant::now();
                self.store.execute(sql.clone()).await.expect("an answer");
                bare.push(began.elapsed());
            }
        }
        let all = ours.iter().sum::<Duration>() * u32::try_from(ROUNDS + 1).unwrap_or(1)
            / u32::try_from(ROUNDS).unwrap_or(1);
        let (p50, p95) = (percentile(&mut ours, 0.5), percentile(&mut ours, 0.95));
        let mut result = format!("p50 {p50:.0} ms, p95 {p95:.0} ms, {rows_read} rows read");
        let mut targets: Vec<String> =
            question.p95_max.iter().map(|max| format!("p95 < {max:.0} ms")).collect();
        let mut holds = question.p95_max.is_none_or(|max| p95 < max);
        if let Some((_, most)) = &question.bare {
            let bare = percentile(&mut bare, 0.5);
            result.push_str(&format!("; bare SQL p50 {bare:.0} ms: ratio {:.2}", p50 / bare));
            targets.extend(most.map(|most| format!("ratio ≤ {most}")));
            holds &= most.is_none_or(|most| p50 / bare <= most);
        }
        match targets.is_empty() {
            true => report::note(question.name, result),
            false => report::check(question.name, result, targets.join(", "), holds),
        }
        all
    }

    /// Does a histogram of the server tell what the client saw?
    async fn metric(&self, name: &str, seen: Duration) {
        let text = self.http.get(format!("{}/metrics", self.url)).send().await.expect("metrics");
        let text = text.text().await.expect("text");
        let sum =
            text.lines().find_map(|line| line.strip_prefix(&format!("{name}_sum "))?.parse::<f64>().ok());
        let (told, seen) = (sum.unwrap_or_default(), seen.as_secs_f64());
        report::check(
            format!("{name} beside what the client saw"),
            format!("{told:.2} s, {seen:.2} s"),
            "within 5 %",
            (told - seen).abs() <= seen * 0.05,
        );
    }

    async fn cached(&self) {
        let mut question = self.of_a_week().swap_remove(0);
        question.body["refresh"] = false.into();
        self.post(question.path, &question.body).await;
        let mut times = Vec::new();
        for _ in 0..ROUNDS * 10 {
            let began = Instant::now();
            let answer = self.post(question.path, &question.body).await;
            times.push(began.elapsed());
            assert_eq!(answer["meta"]["cached"], true, "{answer}");
        }
        let (p50, p95) = (percentile(&mut times, 0.5), percentile(&mut times, 0.95));
        report::check("a cached answer", format!("p50 {p50:.2} ms, p95 {p95:.2} ms"), "< 2 ms", p95 < 2.0);
    }

    /// The list of events: pages one after the other, and pages far back.
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
        report::check(
            "pages of the list",
            format!("p50 {p50:.0} ms, p95 {p95:.0} ms"),
            "< 50 ms",
            p95 < 50.0,
        );
        let mut deep = Vec::new();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            self.get("/api/query/events?limit=100&date_to=2026-04-20T10:00:00Z").await;
            deep.push(began.elapsed());
        }
        let (p50, p95) = (percentile(&mut deep, 0.5), percentile(&mut deep, 0.95));
        report::check("… 70 days back", format!("p50 {p50:.0} ms, p95 {p95:.0} ms"), "< 50 ms", p95 < 50.0);
    }

    /// Events by their id, from the newest to the oldest.
    async fn by_id(&self, events: u64) {
        let mut times = Vec::new();
        for depth in 0..ROUNDS as u64 {
            let path =
                format!("/api/query/events/id-{}/trace", events - 1 - depth * (events / ROUNDS as u64));
            let began = Instant::now();
            let event = self.get(&path).await;
            times.push(began.elapsed());
            assert!(event["error"].is_null(), "{event}");
        }
        let (p50, p95) = (percentile(&mut times, 0.5), percentile(&mut times, 0.95));
        report::check(
            "an event by its id, at any depth",
            format!("p50 {p50:.0} ms, p95 {p95:.0} ms"),
            "< 50 ms",
            p95 < 50.0,
        );
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
}

/// Waits until a table has few parts, or nothing is merged any more, as in production between two inserts. Answers how
/// many parts there are then.
pub async fn merged(store: &Store, table: &'static str) -> u64 {
    let mut idle = 0;
    loop {
        let parts = count(store, "parts", "active", table).await;
        idle = if count(store, "merges", "1", table).await == 0 { idle + 1 } else { 0 };
        if parts < PARTS_MAX || idle == IDLE {
            return parts;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Waits until every day of a table is known to be at rest, as those of a table that is not written to are before long.
pub async fn at_rest(store: &Store, scope: &Scope, table: &'static str) -> Duration {
    let began = Instant::now();
    let sql = Sql::new("SELECT 1").deduplicated(table, (scope, 0..=u16::MAX), &Sql::default(), &[]);
    loop {
        if store.is_at_rest(&sql) {
            return began.elapsed();
        }
        assert!(began.elapsed() < Duration::from_mins(10), "the days of {table} find no rest");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn count(store: &Store, of: &'static str, condition: &'static str, table: &'static str) -> u64 {
    let sql = Sql::new("SELECT count() AS number FROM system.").push(of).push(" WHERE ").push(condition);
    let sql = sql.push(" AND table = ").arg(table).push(" AND database = currentDatabase()");
    let rows: Vec<(u64,)> = store.select(sql).await.expect("a number");
    rows.first().map_or(0, |row| row.0)
}

/// In milliseconds.
fn percentile(times: &mut [Duration], share: f64) -> f64 {
    times.sort();
    let at = ((times.len() - 1) as f64 * share).round() as usize;
    times[at].as_secs_f64() * 1000.0
}

//! Trends against a naive reference that knows nothing of statements: it looks at every event, in the zone's own dates.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{Datelike, Days, NaiveDate};
use chrono_tz::Tz;
use flexflow::event::Timestamp;
use serde_json::{Value, json};

use super::{Given, Sandbox, given};

/// An event as the reference sees it.
struct Seen {
    given: Given,
    amount: Option<f64>,
    plan: &'static str,
    session: Option<String>,
}

const PLANS: [&str; 4] = ["", "free", "pro", "team"];
const FIRST: &str = "2026-02-20T00:00:00Z";
const DAYS: i64 = 55;

/// Events at odd times from 20 February to 16 April 2026: every change of the clocks in spring is among them.
fn seen(seed: u64, count: usize) -> Vec<Seen> {
    let mut state = seed;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let first = Timestamp::parse(FIRST).unwrap().as_millis();
    (0..count)
        .map(|index| {
            let span = u64::try_from(DAYS * 86_400_000).unwrap();
            let at = Timestamp::from_millis(first + i64::try_from(random(span)).unwrap());
            // Numbers, numbers as text, text that is none, and nothing.
            let whole = random(2000);
            let number = f64::from(u32::try_from(whole).unwrap()) / 4.0;
            let (shown, amount) = match random(6) {
                0 => (json!(format!("{number}")), Some(number)),
                1 => (json!("much"), None),
                2 => (Value::Null, None),
                _ => (json!(number), Some(number)),
            };
            let plan = PLANS[usize::try_from(random(4)).unwrap()];
            let session = (random(3) > 0).then(|| format!("session-{}", random(60)));
            let mut properties = json!({ "total": shown });
            if !plan.is_empty() {
                properties["plan"] = plan.into();
            }
            if let Some(session) = &session {
                properties["$session_id"] = session.as_str().into();
            }
            let event = if random(3) == 0 { "view" } else { "click" };
            let person = format!("person-{}", random(40));
            let given =
                given(format!("id-{index}"), event, &person, &at.to_string(), &properties.to_string());
            Seen { given, amount, plan, session }
        })
        .collect()
}

const MATHS: [&str; 21] = [
    "total",
    "dau",
    "weekly_active",
    "monthly_active",
    "sum",
    "avg",
    "min",
    "max",
    "median",
    "p75",
    "p90",
    "p95",
    "p99",
    "avg_count_per_actor",
    "min_count_per_actor",
    "max_count_per_actor",
    "median_count_per_actor",
    "p90_count_per_actor",
    "unique_session",
    "first_time_for_user",
    "first_time_for_user_with_filters",
];

/// Linear between the two values beside the place.
fn quantile(values: &[f64], level: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return 0.0 };
    let place = level * last as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    let above = values[(below + 1).min(last)];
    values[below] + (above - values[below]) * part
}

fn aggregate(name: &str, values: &[f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    match name {
        "sum" => values.iter().sum(),
        "avg" => values.iter().sum::<f64>() / values.len() as f64,
        "min" => values.iter().copied().fold(f64::INFINITY, f64::min),
        "max" => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        "median" => quantile(values, 0.5),
        "p75" => quantile(values, 0.75),
        "p90" => quantile(values, 0.9),
        "p95" => quantile(values, 0.95),
        "p99" => quantile(values, 0.99),
        other => panic!("{other}"),
    }
}

/// A question, and what the zone's calendar says of it.
struct Asked {
    zone: Tz,
    interval: &'static str,
    monday: bool,
}

impl Asked {
    fn date(&self, event: &Seen) -> NaiveDate {
        event.given.at.to_utc().with_timezone(&self.zone).date_naive()
    }

    fn first_date(&self, date: NaiveDate) -> NaiveDate {
        match self.interval {
            "week" if self.monday => date - Days::new(date.weekday().num_days_from_monday().into()),
            "week" => date - Days::new(date.weekday().num_days_from_sunday().into()),
            "month" => date.with_day(1).unwrap(),
            _ => date,
        }
    }

    /// The name of an event's bucket, as `days` has it.
    fn bucket(&self, event: &Seen) -> String {
        if self.interval == "hour" {
            let local = event.given.at.to_utc().with_timezone(&self.zone);
            // Kathmandu's hours begin at a quarter past those of UTC, but whole by its own clocks.
            return local.format("%Y-%m-%dT%H:00:00%:z").to_string();
        }
        self.first_date(self.date(event)).to_string()
    }

    /// The number of one bucket.
    fn number(&self, math: &str, events: &[Seen], bucket: &str, filtered: bool) -> f64 {
        let passes = |event: &&Seen| event.given.event == "click" && (!filtered || event.plan == "pro");
        let here: Vec<&Seen> =
            events.iter().filter(passes).filter(|event| self.bucket(event) == bucket).collect();
        let people = |events: &[&Seen]| {
            events.iter().map(|event| event.given.distinct_id.as_str()).collect::<BTreeSet<_>>().len() as f64
        };
        let sliding = |days: u64| {
            let day: NaiveDate = bucket[..10].parse().unwrap();
            let within = |event: &&Seen| {
                let date = self.date(event);
                date <= day && date > day - Days::new(days)
            };
            people(&events.iter().filter(passes).filter(within).collect::<Vec<_>>())
        };
        match math {
            "total" => here.len() as f64,
            "dau" => people(&here),
            "weekly_active" if matches!(self.interval, "week" | "month") => people(&here),
            "weekly_active" => sliding(7),
            "monthly_active" if self.interval == "month" => people(&here),
            "monthly_active" => sliding(30),
            "unique_session" => here.iter().map(|event| &event.session).collect::<BTreeSet<_>>().len() as f64,
            "first_time_for_user" | "first_time_for_user_with_filters" => {
                let among = |event: &&Seen| {
                    event.given.event == "click" && (math == "first_time_for_user" || passes(event))
                };
                let mut firsts: BTreeMap<&str, &Seen> = BTreeMap::new();
                for event in events.iter().filter(among) {
                    let first = firsts.entry(&event.given.distinct_id).or_insert(event);
                    if event.given.at < first.given.at {
                        *first = event;
                    }
                }
                firsts.values().filter(|event| passes(event) && self.bucket(event) == bucket).count() as f64
            }
            _ => match math.strip_suffix("_count_per_actor") {
                Some(name) => {
                    let mut counts: BTreeMap<&str, f64> = BTreeMap::new();
                    for event in &here {
                        *counts.entry(&event.given.distinct_id).or_default() += 1.0;
                    }
                    aggregate(name, &counts.into_values().collect::<Vec<_>>())
                }
                None => aggregate(math, &here.iter().filter_map(|event| event.amount).collect::<Vec<_>>()),
            },
        }
    }

    fn question(&self, filtered: bool) -> Value {
        let filters = if filtered { json!([{ "key": "plan", "value": "pro" }]) } else { json!([]) };
        let series: Vec<Value> = MATHS
            .iter()
            .map(|math| {
                json!({ "event": "click", "math": math, "math_property": "total", "filters": filters })
            })
            .collect();
        // Three days of hours around each change of the clocks, weeks and months where buckets are long.
        let (from, to) = match (self.interval, self.zone) {
            ("hour", Tz::Australia__Sydney) => ("2026-04-04", "2026-04-06"),
            ("hour", _) => ("2026-03-07", "2026-03-09"),
            _ => ("2026-02-27", "2026-04-14"),
        };
        json!({
            "date_from": from, "date_to": to, "interval": self.interval, "timezone": self.zone.name(),
            "week_start": if self.monday { "monday" } else { "sunday" }, "series": series,
        })
    }

    async fn compare(&self, sandbox: &Sandbox, events: &[Seen], filtered: bool) {
        // The range ends inside its last week and month: what comes after is not in it.
        let question = self.question(filtered);
        let to: NaiveDate = question["date_to"].as_str().unwrap().parse().unwrap();
        let events: Vec<&Seen> = events.iter().filter(|event| self.date(event) <= to).collect();
        let lines = sandbox.trends("env_a", &question).await;
        assert_eq!(lines.len(), MATHS.len());
        let events: Vec<Seen> = events.into_iter().map(Seen::again).collect();
        for (line, math) in lines.iter().zip(MATHS) {
            let days = line["days"].as_array().unwrap().iter().map(|day| day.as_str().unwrap());
            for (day, number) in days.zip(line["data"].as_array().unwrap()) {
                let (found, right) = (number.as_f64().unwrap(), self.number(math, &events, day, filtered));
                let what = format!("{math} {} {} {day} filtered {filtered}", self.zone, self.interval);
                assert!((found - right).abs() < 1e-6, "{what}: {found}, the reference says {right}");
            }
        }
    }
}

impl Seen {
    fn again(&self) -> Self {
        Self {
            given: self.given.clone(),
            amount: self.amount,
            plan: self.plan,
            session: self.session.clone(),
        }
    }
}

#[actix_web::test]
async fn every_math_is_that_of_a_naive_reference_through_every_change_of_clocks() {
    let sandbox = Sandbox::start().await;
    let events = seen(7, 1500);
    let given: Vec<Given> = events.iter().map(|event| event.given.clone()).collect();
    sandbox.insert("env_a", &given[..900]).await;
    // Some of them twice, in another part: that changes nothing.
    sandbox.insert("env_a", &given[700..]).await;
    for zone in [Tz::America__New_York, Tz::Asia__Kathmandu, Tz::Australia__Sydney] {
        for (interval, monday) in
            [("hour", false), ("day", false), ("week", true), ("week", false), ("month", false)]
        {
            let asked = Asked { zone, interval, monday };
            asked.compare(&sandbox, &events, false).await;
            asked.compare(&sandbox, &events, true).await;
        }
    }
    sandbox.end().await;
}

#[actix_web::test]
async fn what_comes_twice_or_late_changes_only_what_it_should() {
    let sandbox = Sandbox::start().await;
    let events: Vec<Given> = seen(11, 400).into_iter().map(|event| event.given).collect();
    sandbox.insert("env_a", &events).await;
    let question = json!({
        "date_from": "2026-03-01", "date_to": "2026-03-31", "interval": "day",
        "series": [
            {"event": "click"}, {"event": "click", "math": "dau"}, {"event": "click", "math": "weekly_active"},
            {"event": "click", "math": "max_count_per_actor"},
        ],
        "breakdown": {"property": "plan"},
    });
    let before = sandbox.trends("env_a", &question).await;
    // The same again, and once more as another version of each.
    sandbox.insert("env_a", &events).await;
    let versions: Vec<Given> = events.iter().map(|event| Given { version: 5, ..event.clone() }).collect();
    sandbox.insert("env_a", &versions).await;
    assert_eq!(sandbox.trends("env_a", &question).await, before);
    // Late, from before the range and its windows: nothing in it changes.
    let late = |id: &str, at: &str| given(id, "click", "person-1", at, r#"{"plan":"pro"}"#);
    sandbox.insert("env_a", &[late("late-1", "2026-02-01T12:00:00Z")]).await;
    assert_eq!(sandbox.trends("env_a", &question).await, before);
    // Late, inside it: one more on its day, nowhere else.
    sandbox.insert("env_a", &[late("late-2", "2026-03-20T12:00:00Z")]).await;
    let after = sandbox.trends("env_a", &question).await;
    let numbers = |lines: &[Value], value: &str| {
        let line = lines.iter().find(|line| line["breakdown"] == value && line["math"] == "total").unwrap();
        line["data"].as_array().unwrap().iter().map(|number| number.as_i64().unwrap()).collect::<Vec<_>>()
    };
    for plan in ["pro", "free", "team"] {
        let changed: Vec<(usize, i64)> = numbers(&after, plan)
            .into_iter()
            .zip(numbers(&before, plan))
            .enumerate()
            .filter_map(|(day, (after, before))| (after != before).then_some((day, after - before)))
            .collect();
        assert_eq!(changed, if plan == "pro" { vec![(19, 1)] } else { vec![] }, "{plan}");
    }
    // Deleted again: as if it had never come.
    let gone = Given { version: 9, is_deleted: true, ..late("late-2", "2026-03-20T12:00:00Z") };
    sandbox.insert("env_a", &[gone]).await;
    assert_eq!(sandbox.trends("env_a", &question).await, before);
    sandbox.end().await;
}

//! Funnels, retention, lifecycle, stickiness and paths over a real engine: the people behind their numbers, numbers
//! against naive references, and that neither duplicates nor the way of gathering change them.

use std::collections::{BTreeMap, BTreeSet};

use chrono_tz::Tz;
use flexflow::config::{Config, REFERENCE};
use flexflow::event::Timestamp;
use flexflow::query::Query;
use serde_json::{Value, json};

use super::{Given, Sandbox, given};

impl Sandbox {
    /// An answer that must be given.
    async fn ask(&self, path: &str, question: &Value) -> Value {
        let (status, answer) = self.post("env_a", &format!("/api/query/{path}"), question).await;
        assert_eq!(status, 200, "{path} {question}: {answer}");
        answer
    }

    /// Distinct ids of everybody in a list, over all pages, in its order.
    async fn list(&self, path: &str, question: &Value) -> Vec<Value> {
        let mut question = question.clone();
        let mut found = Vec::new();
        loop {
            let answer = self.ask(&format!("{path}/people"), &question).await;
            found.extend(answer["people"].as_array().unwrap().iter().cloned());
            if answer["next_cursor"].is_null() {
                return found;
            }
            question["cursor"] = answer["next_cursor"].clone();
        }
    }

    async fn ids(&self, path: &str, question: &Value) -> BTreeSet<String> {
        let people = self.list(path, question).await;
        people.iter().map(|person| person["distinct_ids"][0].as_str().unwrap().to_owned()).collect()
    }
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

/// Ann goes all the way and comes back twice, bob looks twice, cid looks on the third day alone.
fn few() -> Vec<Given> {
    let at = |day: u32, clock: &str| format!("2026-04-{day:02}T{clock}:00Z");
    let page = |url: &str| json!({ "$current_url": url, "plan": "pro" }).to_string();
    vec![
        given("1", "$pageview", "ann", &at(1, "10:00"), &page("/")),
        given("2", "$pageview", "ann", &at(1, "10:05"), &page("/item/7/")),
        given("3", "bought", "ann", &at(1, "10:10"), "{}"),
        given("4", "$pageview", "ann", &at(2, "10:00"), &page("/")),
        given("5", "$pageview", "ann", &at(3, "10:00"), &page("/")),
        given("6", "$pageview", "bob", &at(1, "11:00"), &page("/")),
        given("7", "$pageview", "bob", &at(1, "11:10"), &page("/item/8")),
        given("8", "$pageview", "bob", &at(3, "11:00"), &page("/item/9")),
        given("9", "$pageview", "cid", &at(3, "12:00"), &page("/")),
    ]
}

#[actix_web::test]
async fn every_number_names_its_people() {
    let sandbox = Sandbox::start().await;
    sandbox.insert("env_a", &few()).await;
    let range = |mut question: Value| {
        question["date_from"] = json!("2026-04-01");
        question["date_to"] = json!("2026-04-03");
        question
    };
    let funnel = range(json!({"steps": [{"event": "$pageview"}, {"event": "bought"}]}));
    let people =
        |step: usize, outcome: &str| json!({"funnel": funnel, "step": step, "outcome": outcome, "limit": 1});
    assert_eq!(sandbox.ids("funnel", &people(0, "converted")).await, set(&["ann", "bob", "cid"]));
    assert_eq!(sandbox.ids("funnel", &people(1, "converted")).await, set(&["ann"]));
    assert_eq!(sandbox.ids("funnel", &people(1, "dropped")).await, set(&["bob", "cid"]));
    let mut by_day = funnel.clone();
    by_day["viz"] = json!("trends");
    let rates = &sandbox.ask("funnel", &by_day).await["results"];
    assert_eq!(
        (&rates["reached_from_step"], &rates["conversion_rate"]),
        (&json!([2, 1, 3]), &json!([50, 0, 0]))
    );
    let third = json!({"funnel": by_day, "step": 1, "outcome": "dropped", "day": "2026-04-03"});
    assert_eq!(sandbox.ids("funnel", &third).await, set(&["ann", "bob", "cid"]));

    let retention = json!({"date_to": "2026-04-03", "total_intervals": 3, "target_event": "$pageview",
                           "returning_event": "$pageview"});
    let rows = &sandbox.ask("retention", &retention).await["results"]["rows"];
    assert_eq!(*rows, json!([[2, 1, 2], [1, 1], [3]]));
    let row = sandbox.list("retention", &json!({"retention": retention, "row": 0})).await;
    let seen: Vec<_> = row.iter().map(|person| (&person["distinct_ids"][0], &person["intervals"])).collect();
    assert_eq!(seen, [(&json!("ann"), &json!([0, 1, 2])), (&json!("bob"), &json!([0, 2]))]);

    let lifecycle = range(json!({"series": [{"event": "$pageview"}]}));
    let states = &sandbox.ask("lifecycle", &lifecycle).await["results"];
    let numbers = ["new", "returning", "resurrecting", "dormant"].map(|state| &states[state]);
    assert_eq!(numbers, [&json!([2, 0, 1]), &json!([0, 1, 1]), &json!([0, 0, 1]), &json!([0, -1, 0])]);
    let state = |state: &str, day: &str| json!({"lifecycle": lifecycle, "state": state, "day": day});
    assert_eq!(sandbox.ids("lifecycle", &state("new", "2026-04-03")).await, set(&["cid"]));
    assert_eq!(sandbox.ids("lifecycle", &state("resurrecting", "2026-04-03")).await, set(&["bob"]));
    assert_eq!(sandbox.ids("lifecycle", &state("dormant", "2026-04-02")).await, set(&["bob"]));

    let stickiness = range(json!({"series": [{"event": "$pageview"}]}));
    assert_eq!(sandbox.ask("stickiness", &stickiness).await["results"]["data"], json!([1, 1, 1]));
    let active = |intervals: usize| json!({"stickiness": stickiness, "intervals": intervals});
    assert_eq!(sandbox.ids("stickiness", &active(2)).await, set(&["bob"]));
    let mut often = stickiness.clone();
    often["criteria"] = json!({"operator": "gte", "value": 2});
    often["cumulative"] = json!(true);
    assert_eq!(sandbox.ask("stickiness", &often).await["results"]["data"], json!([2, 0, 0]));

    paths(&sandbox, &range(json!({}))).await;
    sandbox.end().await;
}

/// Paths with what changes them, and around a funnel.
async fn paths(sandbox: &Sandbox, range: &Value) {
    let with = |fields: Value| {
        let mut question = range.clone();
        for (name, value) in fields.as_object().unwrap() {
            question[name] = value.clone();
        }
        question
    };
    let pages = with(json!({"include": ["$pageview"], "path_groups": ["/item/*"]}));
    let edges = &sandbox.ask("paths", &pages).await["results"]["edges"];
    assert_eq!(*edges, json!([["1_/", "2_/item/*", 2]]));
    let edge = json!({"paths": pages, "source": "1_/", "target": "2_/item/*"});
    assert_eq!(sandbox.ids("paths", &edge).await, set(&["ann", "bob"]));
    let all = with(json!({"cleaning": [{"regex": "[0-9]+", "alias": "N"}], "start_point": "/item/N/"}));
    assert_eq!(sandbox.ask("paths", &all).await["results"]["edges"], json!([["1_/item/N", "2_bought", 1]]));
    let excluded = with(json!({"exclude": ["/item/7"], "filter": {"persons": ["ann"]}}));
    assert_eq!(sandbox.ask("paths", &excluded).await["results"]["edges"], json!([["1_/", "2_bought", 1]]));
    let funnel = json!({"date_from": "2026-04-01", "date_to": "2026-04-03", "window": "1 hour",
                        "steps": [{"event": "$pageview"}, {"event": "bought"}]});
    // The attempt that began last: from the second page on.
    for (part, step, edges) in [
        ("between", 1, json!([["1_/item/7", "2_bought", 1]])),
        ("after", 0, json!([["1_/item/7", "2_bought", 1], ["1_/", "2_/item/8", 1]])),
        ("before", 1, json!([["1_/", "2_/item/7", 1], ["2_/item/7", "3_bought", 1]])),
    ] {
        let around = with(json!({"funnel": {"funnel": funnel, "step": step, "part": part}}));
        let found = &sandbox.ask("paths", &around).await["results"]["edges"];
        let found: BTreeSet<String> = found.as_array().unwrap().iter().map(Value::to_string).collect();
        let expected: BTreeSet<String> = edges.as_array().unwrap().iter().map(Value::to_string).collect();
        assert!(part == "after" || found == expected, "{part}: {found:?}");
        assert!(found.contains(&edges[0].to_string()), "{part}: {found:?}");
    }
}

/// Events of forty people at odd times from 1 March to 5 April 2026, over a change of the clocks.
fn many() -> Vec<Given> {
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let first = Timestamp::parse("2026-03-01T06:00:00Z").unwrap().as_millis();
    (0..1500)
        .map(|index| {
            let at = first + i64::try_from(random(35 * 86_400_000)).unwrap();
            let event = ["a", "b", "c", "d"][random(4) as usize];
            let plan = ["free", "pro", ""][random(3) as usize];
            let properties = json!({ "plan": plan, "n": random(9) });
            let at = Timestamp::from_millis(at).to_string();
            given(format!("id-{index}"), event, &format!("p-{}", random(40)), &at, &properties.to_string())
        })
        .collect()
}

/// Each person's events in order of time.
fn by_person(events: &[Given]) -> BTreeMap<&str, Vec<&Given>> {
    let mut people: BTreeMap<&str, Vec<&Given>> = BTreeMap::new();
    for event in events {
        people.entry(&event.distinct_id).or_default().push(event);
    }
    people.values_mut().for_each(|events| events.sort_by_key(|event| event.at));
    people
}

/// People at each step of a, then b with `plan` `pro`, then c, each within two days of the first.
fn funnel_by_hand(events: &[Given]) -> Vec<u64> {
    let is = |step: usize, event: &Given| match step {
        0 => event.event == "a",
        1 => event.event == "b" && event.properties.contains("pro"),
        _ => event.event == "c",
    };
    let mut counts = vec![0; 3];
    for events in by_person(events).values() {
        let reached = (0..events.len()).filter(|first| is(0, events[*first])).map(|first| {
            let last = events[first].at.as_millis() + 2 * 86_400_000;
            let inside = events[first + 1..].iter().filter(|event| event.at.as_millis() <= last);
            inside.fold(1, |step, event| if step < 3 && is(step, event) { step + 1 } else { step })
        });
        for count in counts.iter_mut().take(reached.max().unwrap_or(0)) {
            *count += 1;
        }
    }
    counts
}

/// A table of days of a zone: who did a came back to do b.
fn retention_by_hand(events: &[Given], zone: Tz, days: u64) -> Vec<Vec<u64>> {
    let last = chrono::NaiveDate::from_ymd_opt(2026, 3, 14).unwrap();
    let date = |event: &Given| event.at.to_utc().with_timezone(&zone).date_naive();
    let people = by_person(events);
    let did = |events: &[&Given], name: &str, day: u64| {
        let day = last - chrono::Days::new(days - 1 - day);
        events.iter().any(|event| event.event == name && date(event) == day)
    };
    let cell = |row: u64, n: u64| {
        let there = |events: &&Vec<&Given>| did(events, "a", row) && (n == 0 || did(events, "b", row + n));
        people.values().filter(there).count() as u64
    };
    (0..days).map(|row| (0..days - row).map(|n| cell(row, n)).collect()).collect()
}

#[actix_web::test]
async fn numbers_are_those_by_hand_however_people_are_gathered() {
    let mut sandbox = Sandbox::start().await;
    let events = many();
    // Some events twice, in parts of their own.
    sandbox.insert("env_a", &events[..1000]).await;
    sandbox.insert("env_a", &events[700..]).await;
    let funnel = json!({"date_from": "2026-03-01", "date_to": "2026-04-06", "window": "2 day", "steps": [
        {"event": "a"}, {"event": "b", "filters": [{"key": "plan", "value": "pro"}]}, {"event": "c"}]});
    let retention = |zone: Tz| {
        json!({"date_to": "2026-03-14", "total_intervals": 10, "timezone": zone.name(), "target_event": "a",
               "returning_event": "b"})
    };
    let mut config: Config = toml::from_str(REFERENCE).unwrap();
    for turns in ["one", "many"] {
        if turns == "many" {
            config.query.gather_events_max = 40;
            let store = sandbox.store.store.clone();
            sandbox.query = Query::new(store, sandbox.log.clone(), &config, sandbox.clock.clone());
        }
        let counts = &sandbox.ask("funnel", &funnel).await["results"]["counts"];
        assert_eq!(*counts, json!(funnel_by_hand(&events)), "{turns}");
        for zone in [Tz::UTC, Tz::America__New_York, Tz::Asia__Kathmandu] {
            let rows = &sandbox.ask("retention", &retention(zone)).await["results"]["rows"];
            assert_eq!(*rows, json!(retention_by_hand(&events, zone, 10)), "{zone} {turns}");
        }
    }
    parts_sum_up(&sandbox, &funnel, &retention(Tz::UTC)).await;
    config.query.gather_events_max = 1;
    config.query.gather_values_max = 2;
    let store = sandbox.store.store.clone();
    sandbox.query = Query::new(store, sandbox.log.clone(), &config, sandbox.clock.clone());
    let (status, refused) = sandbox.post("env_a", "/api/query/funnel", &funnel).await;
    assert_eq!(
        (status, &refused["details"]["setting"]),
        (400, &json!("query.gather_events_max")),
        "{refused}"
    );
    sandbox.end().await;
}

/// The values of a breakdown, with other and none, sum up to the whole.
async fn parts_sum_up(sandbox: &Sandbox, funnel: &Value, retention: &Value) {
    let breakdown = json!({"property": "n", "limit": 4});
    let with = |question: &Value| {
        let mut question = question.clone();
        question["breakdown"] = breakdown.clone();
        question
    };
    let whole = sandbox.ask("funnel", funnel).await["results"]["counts"].clone();
    let parts = sandbox.ask("funnel", &with(funnel)).await["results"]["rows"].clone();
    assert_eq!(parts.as_array().unwrap().len(), 5);
    for step in 0..3 {
        let rows = parts.as_array().unwrap().iter();
        let sum: u64 = rows.map(|row| row["counts"][step].as_u64().unwrap()).sum();
        assert_eq!(whole[step], json!(sum), "{parts}");
    }
    let whole = sandbox.ask("retention", retention).await["results"]["rows"].clone();
    let parts = sandbox.ask("retention", &with(retention)).await["results"]["breakdowns"].clone();
    for (row, cells) in whole.as_array().unwrap().iter().enumerate() {
        for (n, whole) in cells.as_array().unwrap().iter().enumerate() {
            let tables = parts.as_array().unwrap().iter();
            let sum: u64 = tables.map(|table| table["rows"][row][n].as_u64().unwrap()).sum();
            assert_eq!(*whole, json!(sum), "{row} {n}");
        }
    }
}

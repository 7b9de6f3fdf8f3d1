//! The events are repeatable and are what they claim to be; sending survives a server that says 503 and hangs up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::demo::{Kind, Made};
use crate::lifecycle::{Stop, Tasks};

fn sample(seed: u64, events: u64) -> Plan {
    let until = Timestamp::parse("2026-03-09T12:00:00Z").unwrap();
    let from = until.minus(DAY * 7);
    Plan { seed, events, people: 300, from, until, duplicates: 0.02, invalid: 0.03, late: 0.05 }
}

fn parsed(made: &Made) -> Value {
    serde_json::from_str(&made.json).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_same_seed_makes_the_same_bytes(seed: u64, events in 1u64..400, people in 1u32..2000) {
        let plan = Plan { people, ..sample(seed, events) };
        let once: Vec<Made> = Traffic::new(plan.clone()).collect();
        let again: Vec<Made> = Traffic::new(plan).collect();
        prop_assert_eq!(once.len() as u64, events);
        prop_assert_eq!(once, again);
    }

    #[test]
    fn the_same_seed_makes_the_same_ids_at_another_time(seed: u64) {
        let plan = sample(seed, 200);
        let later = Plan { from: plan.from.plus(DAY), until: plan.until.plus(DAY), ..plan.clone() };
        let ids = |plan: Plan| Traffic::new(plan).map(|made| parsed(&made)["event_id"].clone()).collect::<Vec<_>>();
        prop_assert_eq!(ids(plan), ids(later));
    }
}

#[test]
fn another_seed_makes_other_events() {
    let ids = |seed| Traffic::new(sample(seed, 100)).map(|made| made.json).collect::<BTreeSet<_>>();
    assert!(ids(1).is_disjoint(&ids(2)));
}

#[test]
fn the_first_events_of_a_seed_are_a_contract() {
    let plan = Plan { duplicates: 0.0, invalid: 0.0, late: 0.0, ..sample(42, 8) };
    let made: Vec<String> = Traffic::new(plan).map(|made| made.json).collect();
    insta::assert_snapshot!(made.join("\n"));
}

#[test]
fn shares_are_kept_and_every_kind_is_what_it_says() {
    let events = 20_000;
    let plan = sample(9, events);
    let mut counts = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for made in Traffic::new(plan.clone()) {
        *counts.entry(format!("{:?}", made.kind)).or_insert(0u32) += 1;
        let value = parsed(&made);
        let at = value["timestamp"].as_str().and_then(|text| Timestamp::parse(text).ok());
        let fits = value["event"].is_string()
            && value["distinct_id"].as_str().is_some_and(|id| !id.is_empty())
            && value["properties"].is_object()
            && at.is_some_and(|at| at > Timestamp::EPOCH && at <= plan.until);
        assert_eq!(fits, made.kind != Kind::Invalid, "{}", made.json);
        if made.kind == Kind::Duplicate {
            assert!(seen.contains(&made.json));
        } else {
            assert!(seen.insert(made.json));
        }
    }
    for (kind, share) in [("Duplicate", 0.02), ("Invalid", 0.03), ("Late", 0.05)] {
        let got = f64::from(counts[kind]) / 20_000.0;
        assert!((got - share).abs() < 0.01, "{kind}: {got}");
    }
}

#[test]
fn people_sign_up_browse_click_adverts_and_buy() {
    let mut names = BTreeMap::new();
    for made in Traffic::new(Plan { duplicates: 0.0, invalid: 0.0, ..sample(3, 5000) }) {
        let value = parsed(&made);
        let properties = &value["properties"];
        let name = value["event"].as_str().unwrap().to_owned();
        assert!(value["session_id"].is_string());
        if name == "ad clicked" {
            let item = properties["item_id"].as_u64().unwrap();
            assert_eq!(properties["ad_id"], json!(format!("food_{item}")));
            assert_eq!(properties["session_id"], value["session_id"]);
        }
        if name == "order completed" {
            assert!(properties["price"].as_f64().unwrap() > 1.0 && properties["currency"].is_string());
            assert!(properties["plan"].is_string(), "only who signed up buys: {value}");
        }
        assert_eq!(
            properties["$current_url"],
            json!(format!("https://shop.example{}", properties["path"].as_str().unwrap()))
        );
        *names.entry(name).or_insert(0) += 1;
    }
    for name in ["$pageview", "signed up", "ad clicked", "added to cart", "order completed"] {
        assert!(names[name] > 50, "{names:?}");
    }
}

#[test]
fn a_session_of_sparse_traffic_stays_together() {
    let plan = Plan { duplicates: 0.0, invalid: 0.0, late: 0.0, ..sample(11, 500) };
    let mut sessions: BTreeMap<String, Vec<Timestamp>> = BTreeMap::new();
    for made in Traffic::new(plan) {
        let value = parsed(&made);
        let at = Timestamp::parse(value["timestamp"].as_str().unwrap()).unwrap();
        sessions.entry(value["session_id"].as_str().unwrap().to_owned()).or_default().push(at);
    }
    assert!(sessions.len() > 50 && sessions.values().any(|acts| acts.len() > 3));
    for acts in sessions.values() {
        assert!(acts.windows(2).all(|two| two[1].since(two[0]) < Duration::from_secs(40)), "{acts:?}");
    }
}

fn args(line: &str) -> Generate {
    use clap::Parser as _;
    let words = ["flexflow", "generate"].into_iter().chain(line.split_whitespace());
    match super::super::args::Cli::try_parse_from(words).unwrap().command {
        super::super::args::Command::Generate(args) => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn rate_seconds_events_and_days_say_how_many_and_when() {
    let now = Timestamp::parse("2026-03-09T12:00:00Z").unwrap();
    let of = |line: &str| plan(&args(line), 1, now).unwrap();
    let (live, rate) = of("");
    assert_eq!((live.events, rate, live.from), (1000, Some(100.0), now));
    let (live, _) = of("--rate 0.5 --seconds 3");
    assert_eq!((live.events, live.until), (2, now.plus(Duration::from_secs(4))));
    let (bulk, rate) = of("--events 7");
    assert_eq!((bulk.events, rate, bulk.until), (7, None, now));
    let (history, rate) = of("--events 7 --days-back 2 --rate 3");
    assert_eq!((rate, history.from, history.until), (Some(3.0), now.minus(DAY * 2), now));
    assert!(plan(&args("--duplicates 60% --late 0.5"), 1, now).is_err());
}

/// A capture that answers from a script: a status each, 0 hangs up after reading. Then 202 for ever.
struct Scripted {
    url: String,
    bodies: Arc<Mutex<Vec<String>>>,
}

async fn scripted(tasks: &Tasks, script: Vec<u16>) -> Scripted {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let (kept, own, script) = (bodies.clone(), tasks.clone(), Arc::new(Mutex::new(script.into_iter())));
    tasks.spawn_bounded(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (kept, script) = (kept.clone(), script.clone());
            own.spawn_bounded(serve(stream, kept, script));
        }
    });
    Scripted { url, bodies }
}

async fn serve(
    mut stream: TcpStream,
    bodies: Arc<Mutex<Vec<String>>>,
    script: Arc<Mutex<std::vec::IntoIter<u16>>>,
) {
    let mut buffer = Vec::new();
    loop {
        let body = loop {
            let text = String::from_utf8_lossy(&buffer).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .to_lowercase()
                    .split("content-length: ")
                    .nth(1)
                    .map_or(0, |rest| rest.split_whitespace().next().unwrap().parse::<usize>().unwrap());
                if body.len() >= length {
                    break body.to_owned();
                }
            }
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        };
        buffer.clear();
        let events: Vec<Value> = serde_json::from_str(&body).unwrap();
        bodies.lock().unwrap().push(body);
        let status = script.lock().unwrap().next().unwrap_or(202);
        let answer = match status {
            0 => return,
            202 => json!({"status": "accepted", "accepted": events.len() - 1, "rejected": [{"index": 0, "message": "event is required"}]}),
            _ => json!({"message": "as scripted"}),
        }
        .to_string();
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nretry-after: 0\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        stream.write_all(format!("{head}{answer}").as_bytes()).await.unwrap();
    }
}

async fn sent(server: &Scripted, events: u64, patience: Duration) -> anyhow::Result<Tally> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let capture = Capture::new(&server.url, Some("ff_k".to_owned()), 3, patience).unwrap();
    let batches = send::batches(Traffic::new(sample(5, events)), 10, None);
    send::send_all(&capture, batches, 3, std::future::pending(), |_| {}).await
}

#[tokio::test]
async fn a_batch_that_got_503_or_no_answer_is_sent_again_with_the_same_ids() {
    let tasks = Tasks::new(Stop::default());
    let server = scripted(&tasks, vec![503, 0, 500, 429, 0]).await;
    let tally = sent(&server, 100, Duration::from_secs(60)).await.unwrap();
    assert_eq!((tally.sent, tally.accepted, tally.rejected, tally.unsent), (100, 90, 10, 0));
    assert!(tally.retries >= 5, "{}", tally.retries);
    let bodies = server.bodies.lock().unwrap().clone();
    assert!(bodies.len() >= 15);
    assert_eq!(bodies.into_iter().collect::<BTreeSet<_>>().len(), 10);
    assert_eq!(tally.reasons, ["event is required"]);
}

#[tokio::test]
async fn a_wrong_key_ends_it_with_the_servers_words() {
    let tasks = Tasks::new(Stop::default());
    let server = scripted(&tasks, vec![401; 10]).await;
    let error = sent(&server, 100, Duration::from_secs(60)).await.unwrap_err().to_string();
    assert!(error.contains("401") && error.contains("as scripted"), "{error}");
}

#[tokio::test]
async fn a_server_that_stays_away_costs_the_patience_and_is_told() {
    let tasks = Tasks::new(Stop::default());
    let server = scripted(&tasks, vec![503; 1000]).await;
    let tally = sent(&server, 20, Duration::from_millis(300)).await.unwrap();
    assert_eq!((tally.sent, tally.unsent), (0, 20));
    assert!(tally.failure.unwrap().contains("503"));
}

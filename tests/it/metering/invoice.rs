//! From events to invoice lines: 100,000 events with duplicates, retries, a process that is killed twice with batches in
//! hand, and events sent again at the end; and as many on Kafka while partitions move; the totals equal the generator's own sums
//! to the last digit, for each customer, feature and month.

use std::collections::BTreeMap;

use bigdecimal::BigDecimal;
use flexflow::event::Timestamp;

use super::*;
use crate::kafka::fleet::Fleet;
use crate::support::Process;
use crate::support::kafka::Kafka;
use crate::support::wait::eventually_for;

const CUSTOMERS: u64 = 20;
const MONTHS: [&str; 3] = ["2026-01", "2026-02", "2026-03"];

/// How many events; `FLEXFLOW_TEST_INVOICE_EVENTS` says another number (`just soak`).
fn events() -> u64 {
    std::env::var("FLEXFLOW_TEST_INVOICE_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000)
}

/// The same numbers on every machine: splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % below
    }
}

/// Sums by customer and month: calls, tokens, gigabytes.
type Sums = BTreeMap<(String, usize), (u64, BigDecimal, BigDecimal)>;

/// The next event, and what it adds to the sums.
fn next(index: u64, dice: &mut Dice, sums: &mut Sums) -> Value {
    let customer = format!("cust-{}", dice.roll(CUSTOMERS));
    let from = Timestamp::parse("2026-01-01T00:00:00Z").unwrap().as_millis();
    let end = Timestamp::parse("2026-04-01T00:00:00Z").unwrap().as_millis();
    let at = Timestamp::from_millis(from + dice.roll((end - from).unsigned_abs()) as i64);
    let month = MONTHS.iter().position(|month| at.to_string().starts_with(month)).unwrap();
    let tokens = format!("{}.{:09}", dice.roll(100_000), dice.roll(1_000_000_000));
    let gigabytes = format!("0.{:018}", dice.roll(1_000_000_000_000_000_000));
    let sum = sums.entry((customer.clone(), month)).or_default();
    sum.0 += 1;
    sum.1 += tokens.parse::<BigDecimal>().unwrap();
    sum.2 += gigabytes.parse::<BigDecimal>().unwrap();
    event(&format!("inv::{index}"), &customer, &at.to_string(), &json!({"tokens": tokens, "gb": gigabytes}))
}

/// Sends a bulk request until it is accepted, as a sender does whose server comes and goes.
async fn send(process: &Process, part: &[Value]) -> bool {
    let request = process.client.http.post(format!("{}/v1/events/bulk", process.client.url));
    let request = request.header("X-API-Key", &process.client.key).json(&json!({ "events": part }));
    matches!(request.send().await, Ok(answer) if answer.status() == 202)
}

/// Meters of everything that is invoiced.
async fn made_meters(client: &Client) -> Vec<(String, &'static str)> {
    let mut meters = Vec::new();
    for (feature, aggregation) in [
        ("calls", json!({"type": "COUNT"})),
        ("tokens", json!({"type": "SUM", "field": "tokens"})),
        ("gb", json!({"type": "SUM", "expression": "gb"})),
    ] {
        let body = json!({"name": feature, "event_name": "call", "aggregation": aggregation});
        let (status, meter) = client.operator_post("/v1/meters", &body).await;
        assert_eq!(status, 201, "{meter}");
        meters.push((meter["id"].as_str().unwrap().to_owned(), feature));
    }
    meters
}

async fn nothing_left(client: &Client) {
    eventually_for(std::time::Duration::from_secs(300), "the consumer has nothing left", || async {
        match client.lag().await? {
            0 => Ok(()),
            lag => Err(format!("lag {lag}")),
        }
    })
    .await;
}

async fn assert_invoices(client: &Client, sums: &Sums, meters: &[(String, &str)]) {
    for ((customer, month), (calls, tokens, gigabytes)) in sums {
        let end = ["2026-02-01", "2026-03-01", "2026-04-01"][*month];
        for (id, feature) in meters {
            let asked = json!({
                "meter_id": id, "external_customer_id": customer,
                "start_time": format!("{}-01T00:00:00Z", MONTHS[*month]), "end_time": format!("{end}T00:00:00Z"),
            });
            let (status, answer) = client.post("/v1/events/usage/meter", &asked).await;
            assert_eq!(status, 200, "{answer}");
            let wanted = match *feature {
                "calls" => BigDecimal::from(*calls),
                "tokens" => tokens.clone(),
                _ => gigabytes.clone(),
            };
            let got: BigDecimal = answer["exact_value"].as_str().unwrap().parse().unwrap();
            assert_eq!(got, wanted, "{customer} {} {feature}: {answer}", MONTHS[*month]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invoice_lines_equal_the_generators_sums_through_crashes_and_duplicates() {
    let dir = tempfile::tempdir().unwrap();
    let (mut dice, mut sums) = (Dice(7), Sums::new());
    let all: Vec<Value> = (0..events()).map(|index| next(index, &mut dice, &mut sums)).collect();
    let mut process = Process::serve(dir.path(), &[]).await;
    let parts: Vec<&[Value]> = all.chunks(1000).collect();
    for (index, part) in parts.iter().enumerate() {
        // Killed with a request just taken and batches in hand; its sender cannot know, and sends again.
        if index == parts.len() / 3 || index == 2 * parts.len() / 3 {
            send(&process, part).await;
            process.kill();
            process = Process::serve(dir.path(), &[]).await;
        }
        while !send(&process, part).await {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        // One request in ten is sent twice, and one event in a hundred alone once more.
        if index % 10 == 0 {
            assert!(send(&process, part).await);
        }
        for again in part.iter().step_by(100) {
            assert_eq!(process.client.post("/v1/events", again).await.0, 202);
        }
    }
    let meters = made_meters(&process.client).await;
    let client = &process.client;
    nothing_left(client).await;
    assert_invoices(client, &sums, &meters).await;
    // Everything once more, as after a restored backup: nothing changes.
    for part in parts.iter().step_by(7) {
        assert!(send(&process, part).await);
    }
    nothing_left(client).await;
    assert_invoices(client, &sums, &meters).await;
}

/// The same under Kafka, while partitions move: a second consumer joins, the first is killed, a third takes over.
#[tokio::test(flavor = "multi_thread")]
async fn invoice_lines_equal_the_generators_sums_on_kafka_while_partitions_move() {
    let tracking = [
        "--set=metering.tracking=true",
        "--set=metering.cache_ttl=100ms",
        // Small enough that partitions move with batches in hand, large enough that inserts are not what takes the time.
        "--set=consumer.batch_rows_max=5000",
    ];
    let fleet = Fleet::start(Kafka::shared().await, &tracking).await;
    let client = fleet.client().clone();
    let (mut dice, mut sums) = (Dice(11), Sums::new());
    let all: Vec<Value> = (0..events()).map(|index| next(index, &mut dice, &mut sums)).collect();
    let parts: Vec<&[Value]> = all.chunks(1000).collect();
    let mut consumers = vec![fleet.consumer("c0", &[]).await];
    let meters = made_meters(&client).await;
    for (index, part) in parts.iter().enumerate() {
        if index == parts.len() / 4 {
            consumers.push(fleet.consumer("c1", &[]).await);
        } else if index == parts.len() / 2 {
            consumers.remove(0).kill();
        } else if index == 3 * parts.len() / 4 {
            consumers.push(fleet.consumer("c2", &[]).await);
        }
        assert!(send(&fleet.front, part).await);
        if index % 5 == 0 {
            assert!(send(&fleet.front, part).await);
        }
    }
    nothing_left(&client).await;
    assert_invoices(&client, &sums, &meters).await;
    // The tracked rows say the same as soon as every stage is through.
    eventually("usage is read from what was tracked", || async {
        let asked = json!({"meter_id": meters[1].0, "start_time": "2026-01-01T00:00:00Z", "end_time": "2026-04-01T00:00:00Z"});
        let (_, answer) = client.post("/v1/events/usage/meter", &asked).await;
        if answer["read_from"] == "feature_usage" { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    assert_invoices(&client, &sums, &meters).await;
    for consumer in consumers {
        assert!(consumer.terminate().success());
    }
    fleet.end().await;
}

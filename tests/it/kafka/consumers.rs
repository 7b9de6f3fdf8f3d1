//! Several consumers on one Kafka: coming, going, killed, paused, and what Kafka's own tools see of them.

use std::time::{Duration, Instant};

use flexflow::store::Sql;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::fleet::{Fleet, Watch};
use crate::support::kafka::Kafka;
use crate::support::process::signal;
use crate::support::proxy::Proxy;
use crate::support::sandbox::Client;
use crate::support::{Process, eventually};

/// The session time-out of these tests.
const SESSION: Duration = Duration::from_secs(6);

/// A metric of a consumer, summed over its labels that contain `label`.
async fn metric(client: &Client, name: &str, label: &str) -> f64 {
    let Ok(answer) = client.http.get(format!("{}/metrics", client.url)).send().await else { return 0.0 };
    let text = answer.text().await.unwrap_or_default();
    let samples = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
    samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// Waits until a consumer has stored records.
async fn works(consumer: &Process) {
    eventually("the consumer stores records", || async {
        let stored = metric(&consumer.client, "consumer_records_stored_total", "").await;
        if stored > 0.0 { Ok(()) } else { Err(stored.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_come_and_go_under_load_and_hand_over_within_five_seconds() {
    let fleet = Fleet::start(Kafka::shared().await, &[]).await;
    let first = fleet.consumer("c1", &[]).await;
    let load = fleet.load(1);
    works(&first).await;
    let watch = Watch::over(fleet.client());
    let second = fleet.consumer("c2", &[]).await;
    works(&second).await;
    let third = fleet.consumer("c3", &[]).await;
    let fourth = fleet.consumer("c4", &[]).await;
    works(&third).await;
    works(&fourth).await;
    let (status, health) = fourth.client.get("/health").await;
    assert_eq!(status, 200, "{health}");
    fourth.client.wait_ready().await;
    for consumer in [second, fourth, first] {
        assert!(consumer.terminate().success());
    }
    let stored = metric(&third.client, "consumer_records_stored_total", "").await;
    eventually("the one that is left goes on", || async {
        let now = metric(&third.client, "consumer_records_stored_total", "").await;
        if now > stored { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
    let longest = watch.longest().await;
    load.end(fleet.client()).await;
    println!("longest stand-still of a partition: {longest:?}");
    assert!(longest < Duration::from_secs(5), "a partition stood still for {longest:?}");
    assert!(third.terminate().success());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_killed_at_random_lose_and_double_nothing() {
    let rounds: u32 =
        std::env::var("FLEXFLOW_TEST_CRASH_ROUNDS").map_or(10, |rounds| rounds.parse().unwrap());
    let seed: u64 = std::env::var("FLEXFLOW_TEST_SEED")
        .map_or_else(|_| rand::rng().random(), |seed| seed.parse().unwrap());
    println!("repeat with FLEXFLOW_TEST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let fleet = Fleet::start(Kafka::shared().await, &["--set=consumer.batch_rows_max=200"]).await;
    let mut consumers = vec![fleet.consumer("c-a", &[]).await, fleet.consumer("c-b", &[]).await];
    let load = fleet.load(1);
    works(&consumers[0]).await;
    let watch = Watch::over(fleet.client());
    for round in 0..rounds {
        let victim = rng.random_range(0..consumers.len());
        consumers.swap_remove(victim).kill();
        consumers.push(fleet.consumer(&format!("c-{round}"), &[]).await);
        // The moment is what is tested, so it is drawn, not waited for.
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..2500))).await;
    }
    load.end(fleet.client()).await;
    println!("longest stand-still of a partition: {:?}", watch.longest().await);
    drop(consumers);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_that_wakes_after_its_partitions_moved_neither_commits_nor_adds_a_row() {
    let fleet = Fleet::start(Kafka::shared().await, &["--set=consumer.batch_rows_max=200"]).await;
    let zombie = fleet.consumer("zombie", &[]).await;
    let load = fleet.load(1);
    works(&zombie).await;
    let heir = fleet.consumer("heir", &[]).await;
    works(&heir).await;
    signal(zombie.pid(), "STOP");
    let began = Instant::now();
    let watch = Watch::over(fleet.client());
    eventually("the heir has everything", || async {
        let owned = metric(&heir.client, "consumer_lag_messages", &fleet.client().events_topic).await;
        let moved = began.elapsed() > SESSION + Duration::from_secs(1);
        if moved { Ok(()) } else { Err(format!("lag {owned}")) }
    })
    .await;
    let longest = watch.longest().await;
    println!("stood still for {longest:?}");
    signal(zombie.pid(), "CONT");
    let stored = metric(&zombie.client, "consumer_records_stored_total", "").await;
    eventually("the zombie is a member again", || async {
        let now = metric(&zombie.client, "consumer_records_stored_total", "").await;
        if now > stored { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
    load.end(fleet.client()).await;
    assert!(longest < SESSION + Duration::from_secs(4), "a partition stood still for {longest:?}");
    assert!(zombie.terminate().success() && heir.terminate().success());
    fleet.end().await;
}

fn batch(from: usize, count: usize) -> Value {
    (from..from + count)
        .map(|i| json!({"event": "load", "distinct_id": format!("person-{i}"), "event_id": format!("e-{i}")}))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_set_back_with_kafkas_own_tool_change_no_row_and_are_counted() {
    let kafka = Kafka::shared().await;
    let fleet = Fleet::start(kafka, &[]).await;
    let consumer = fleet.consumer("before", &[]).await;
    fleet.client().accept(&batch(0, 700)).await;
    fleet.client().accept(&batch(700, 700)).await;
    fleet.client().settled(1400).await;
    let (group, topic) = (fleet.log.get("consumer.group_id"), fleet.client().events_topic.clone());
    let described = kafka.tool("consumer-groups", &["--describe", "--group", group]).await;
    let rows: Vec<&str> = described.lines().filter(|line| line.contains(&topic)).collect();
    assert_eq!(rows.len(), 4, "{described}");
    for row in &rows {
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!((words[3], words[5]), (words[4], "0"), "committed, end and lag: {row}");
        assert!(row.contains("flexflow"), "the client's id: {row}");
    }
    assert!(consumer.terminate().success(), "it leaves the group, so that the tool may move it");
    let back = ["--reset-offsets", "--group", group, "--topic", &topic, "--shift-by", "-250", "--execute"];
    kafka.tool("consumer-groups", &back).await;
    assert_eq!(fleet.client().lag().await.unwrap(), 1000);

    let consumer = fleet.consumer("after", &["--log-level", "info"]).await;
    fleet.client().settled(1400).await;
    let already = metric(&consumer.client, "consumer_records_already_stored_total", "").await;
    assert_eq!(already, 1000.0);
    let rows: Vec<(u64,)> =
        fleet.store().store.select(Sql::new("SELECT count() AS rows FROM events")).await.unwrap();
    assert_eq!(rows, [(1400,)], "not even below FINAL");
    assert!(consumer.terminate().success());
    let said = std::fs::read_to_string(fleet.folder("after").join("stdout")).unwrap();
    let skipped = |line: &str| line.split_once("skipped ")?.1.split(' ').next()?.parse::<u64>().ok();
    assert_eq!(said.lines().filter_map(skipped).sum::<u64>(), 1000, "{said}");
    assert_eq!(fleet.client().audit().await["balanced"], true);
    fleet.end().await;
}

/// Rows committed within a few seconds, by all consumers together.
async fn pace(client: &Client) -> f64 {
    let before = client.lag().await.unwrap();
    let began = Instant::now();
    // What is measured is time itself.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = client.lag().await.unwrap();
    assert!(after > 0, "there was too little to do");
    (before - after) as f64 / began.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn four_consumers_store_three_and_a_half_times_as_much_as_one_when_the_store_is_far() {
    let small = ["--set=consumer.lanes=1", "--set=consumer.batch_rows_max=50"];
    let fleet = Fleet::start(Kafka::shared().await, &small).await;
    let proxy = Proxy::to(fleet.store().store.address().unwrap().parse().unwrap()).await;
    proxy.delay_answers_to_rows(Duration::from_millis(200));
    let far = format!("--set=store.url=clickhouse://{}", proxy.address);
    for round in 0..15 {
        let mut events = batch(round * 1000, 1000);
        for (i, event) in events.as_array_mut().unwrap().iter_mut().enumerate() {
            // Nothing that compresses: the proxy tells rows from questions by their size on the wire.
            let noise: String = (0..16).map(|n| format!("{:016x}", murmur(round * 1000 + i, n))).collect();
            event["properties"] = json!({"noise": noise});
        }
        fleet.client().accept(&events).await;
    }
    let mut consumers = vec![fleet.consumer("p1", &[&far]).await];
    works(&consumers[0]).await;
    let one = pace(fleet.client()).await;
    for name in ["p2", "p3", "p4"] {
        consumers.push(fleet.consumer(name, &[&far]).await);
    }
    for consumer in &consumers {
        works(consumer).await;
    }
    // The best of three: four processes feel it more than one when something else wants the cores.
    let mut four: f64 = 0.0;
    for _ in 0..3 {
        four = four.max(pace(fleet.client()).await);
        if four >= 3.5 * one {
            break;
        }
    }
    println!("one consumer: {one:.0} rows/s, four: {four:.0} rows/s");
    assert!(four >= 3.5 * one, "one consumer stores {one:.0} rows/s, four {four:.0}");
    proxy.heal();
    for consumer in consumers {
        assert!(consumer.terminate().success());
    }
    fleet.end().await;
}

/// Bits that look random.
fn murmur(event: usize, n: u64) -> u64 {
    let mut x = (event as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53)
}

//! `kill -9` of the whole process at random moments under load: what was acknowledged is visible once, none twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::support::log::LogSettings;
use crate::support::sandbox::Client;
use crate::support::{Log, Process, eventually, on_every_log};

on_every_log! {
    a_crash_of_the_process_at_any_moment_loses_and_doubles_nothing
}

/// Ids that were answered with 202, and ids that were sent at all.
#[derive(Default)]
pub(crate) struct Ledger {
    sent: BTreeSet<String>,
    pub(crate) acknowledged: BTreeSet<String>,
}

async fn a_crash_of_the_process_at_any_moment_loses_and_doubles_nothing(log: Log) {
    let log = LogSettings::of(log).await;
    let rounds: u32 =
        std::env::var("FLEXFLOW_TEST_CRASH_ROUNDS").map_or(10, |rounds| rounds.parse().unwrap());
    let seed: u64 = std::env::var("FLEXFLOW_TEST_SEED")
        .map_or_else(|_| rand::rng().random(), |seed| seed.parse().unwrap());
    println!("repeat with FLEXFLOW_TEST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    // Short batches: more moments at which a crash can hit between two steps.
    let args = ["--set", "consumer.batch_rows_max=200", "--set", "consumer.batch_age_max=20ms"];
    for round in 0..rounds {
        let process = Process::serve_on(&data_dir, &log, &args).await;
        let stop = Arc::new(AtomicBool::new(false));
        let mut senders = tokio::task::JoinSet::new();
        for sender in 0..4 {
            let (client, ledger, stop) = (process.client.clone(), ledger.clone(), stop.clone());
            senders.spawn(send_until(client, ledger, stop, format!("{round}-{sender}")));
        }
        // The moment is what is tested, so it is drawn, not waited for.
        tokio::time::sleep(Duration::from_millis(rng.random_range(30..900))).await;
        process.kill();
        stop.store(true, Ordering::SeqCst);
        senders.join_all().await;
    }
    let process = Process::serve_on(&data_dir, &log, &args).await;
    check(&process.client, &*ledger.lock().await).await;
    assert!(process.terminate().success(), "a clean stop exits with 0");
}

/// Sends batches, some of them twice, until the process is gone or the test says stop.
pub(crate) async fn send_until(
    client: Client,
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
    name: String,
) {
    for batch in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let ids: Vec<String> = (0..25).map(|i| format!("{name}-{batch}-{i}")).collect();
        let body: Vec<Value> = ids
            .iter()
            .enumerate()
            .map(|(i, id)| json!({"event": "load", "distinct_id": format!("person-{i}"), "event_id": id}))
            .collect();
        ledger.lock().await.sent.extend(ids.iter().cloned());
        for _ in 0..=(batch % 2) {
            let url = format!("{}/capture", client.url);
            let sent = client.http.post(url).header("X-API-Key", &client.key).json(&body).send().await;
            match sent {
                Ok(answer) if answer.status() == 202 => {
                    ledger.lock().await.acknowledged.extend(ids.iter().cloned());
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}

/// Everything acknowledged is visible once; nothing is visible that was never sent; every record is accounted for.
pub(crate) async fn check(client: &Client, ledger: &Ledger) {
    assert!(!ledger.acknowledged.is_empty(), "nothing was acknowledged: the test tested nothing");
    eventually("the consumer has caught up", || async {
        match client.lag().await? {
            0 => Ok(()),
            lag => Err(format!("lag {lag}")),
        }
    })
    .await;
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for event in client.events().await.unwrap() {
        *seen.entry(event["event_id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let lost: Vec<_> = ledger.acknowledged.iter().filter(|id| !seen.contains_key(*id)).take(10).collect();
    let doubled: Vec<_> = seen.iter().filter(|(_, count)| **count != 1).take(10).collect();
    let invented: Vec<_> = seen.keys().filter(|id| !ledger.sent.contains(*id)).take(10).collect();
    assert!(lost.is_empty(), "acknowledged but not visible: {lost:?}");
    assert!(doubled.is_empty(), "visible more than once: {doubled:?}");
    assert!(invented.is_empty(), "never sent: {invented:?}");
    let audit = client.audit().await;
    assert_eq!(audit["balanced"], true, "{audit}");
}

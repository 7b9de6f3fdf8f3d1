//! Limits of the brokers that are lower than ours: what is over them is refused, cut short or left out by name, and
//! nothing waits behind it.

use bytes::Bytes;
use flexflow::event::{Clock, SystemClock};
use flexflow::eventlog::NewRecord;
use rand::Rng;
use serde_json::{Value, json};

use crate::support::kafka::Kafka;
use crate::support::{Log, Sandbox, eventually};

/// So many letters that do not compress.
fn noise(letters: usize) -> String {
    let mut rng = rand::rng();
    (0..letters).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect()
}

fn event(id: &str, letters: usize) -> Value {
    json!({"event": "seen", "distinct_id": "ada", "event_id": id, "properties": {"noise": noise(letters)}})
}

async fn records_of(app: &Sandbox, topic: &str) -> i64 {
    let (_, answer) = app.client.operator_get("/api/ops/topics").await;
    let topic = answer["topics"].as_array().unwrap().iter().find(|one| one["name"] == topic).unwrap().clone();
    topic["partitions"].as_array().unwrap().iter().map(|one| one["end"].as_i64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_a_brokers_limit_is_413_cut_short_or_left_out_and_nothing_waits_for_it() {
    let kafka = Kafka::shared().await;
    let app = Sandbox::on(Log::Kafka).await;
    let handed_on = app.post_processing_topics()[0].clone();
    let limits = [(&*app.client.events_topic, 20_000), (app.dlq_topic(), 8_000), (&*handed_on, 4_000)];
    for (topic, bytes) in limits {
        let limit = format!("max.message.bytes={bytes}");
        let topic = ["--entity-type", "topics", "--entity-name", topic];
        kafka.tool("configs", &[&["--alter"], &topic[..], &["--add-config", &limit]].concat()).await;
    }

    let (status, refused) = app.client.capture(&event("too large", 40_000)).await;
    assert_eq!((status, &refused["code"]), (413, &json!("payload_too_large")), "{refused}");
    let many = json!([event("small", 100), event("too large", 40_000), event("middle", 7_000)]);
    let (status, answer) = app.client.capture(&many).await;
    assert_eq!((status, &answer["accepted"]), (202, &json!(2)), "{answer}");
    let rejected = &answer["rejected"][0];
    assert_eq!((&rejected["index"], &rejected["code"]), (&json!(1), &json!("payload_too_large")), "{answer}");
    assert_eq!(answer["rejected"].as_array().unwrap().len(), 1);

    // A record that will not do, whose dead letter is over the limit of its topic if it is kept whole.
    let poison = NewRecord {
        key: Some(Bytes::from_static(b"ada")),
        value: Bytes::from(format!("no JSON {}", noise(15_000))),
        headers: Default::default(),
        timestamp: SystemClock.now(),
    };
    app.running.log().produce(&app.client.events_topic, vec![poison]).await.pop().unwrap().unwrap();
    app.client.accept(&event("afterwards", 100)).await;
    app.client.settled(3).await;
    let letter = eventually("the dead letter is listed", || async {
        let (_, page) = app.client.operator_get("/api/dlq?limit=10").await;
        let letters = page["dead_letters"].as_array().cloned().unwrap_or_default();
        if letters.len() == 1 { Ok(letters[0].clone()) } else { Err(page.to_string()) }
    })
    .await;
    assert_eq!(letter["error_kind"], "invalid_json");
    let (_, whole) = app.client.operator_get(&format!("/api/dlq/{}", letter["id"].as_str().unwrap())).await;
    let told = whole.to_string();
    assert!(told.contains("no JSON") && told.contains("sha256"), "cut short: {told}");

    // Handing on leaves out what its topic does not take, and goes on.
    eventually("the small events are handed on", || async {
        let count = records_of(&app, &handed_on).await;
        if count == 2 { Ok(()) } else { Err(count.to_string()) }
    })
    .await;
    let audit = app.client.audit().await;
    assert_eq!((&audit["balanced"], &audit["totals"]["records"]), (&json!(true), &json!(4)), "{audit}");
    let (status, ready) = app.client.operator_get("/ready").await;
    assert_eq!((status, &ready["status"]), (200, &json!("ready")), "{ready}");
    app.stop().await;
}

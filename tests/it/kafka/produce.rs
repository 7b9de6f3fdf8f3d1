//! Nothing that was acknowledged is lost, and nothing is written twice: through lost answers, dead brokers, topics that
//! vanish and limits that change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flexflow::eventlog::{EventLog, KafkaLog, LogError, partition_for_key};

use super::logs::{LONG, counts, describe, open, produce_one, read_all, record, spec};
use crate::support::kafka::{Kafka, Names, VERSION};
use crate::support::proxy::Proxy;
use crate::support::{eventually, eventually_for};

/// What one writer was told of its records.
#[derive(Default)]
struct Told {
    stored: Vec<String>,
    refused: Vec<String>,
    unknown: Vec<String>,
    /// The longest wait for an answer.
    slowest: Duration,
}

/// Writes numbered records one after another until told to stop.
async fn write(log: KafkaLog, topic: String, writer: usize, stop: Arc<AtomicBool>) -> Told {
    let mut told = Told::default();
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        let value = format!("{writer}:{number}");
        number += 1;
        let begun = tokio::time::Instant::now();
        match produce_one(&log, &topic, &format!("key-{writer}-{}", number % 7), &value).await {
            Ok(_) => told.stored.push(value),
            Err(LogError::OutcomeUnknown(_)) => told.unknown.push(value),
            Err(_) => told.refused.push(value),
        }
        told.slowest = told.slowest.max(begun.elapsed());
    }
    told
}

/// Writers side by side, stopped and heard.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: tokio::task::JoinSet<Told>,
}

impl Writers {
    fn start(log: &KafkaLog, topic: &str, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..count {
            tasks.spawn(write(log.clone(), topic.to_owned(), writer, stop.clone()));
        }
        Self { stop, tasks }
    }

    async fn finish(self) -> Told {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Told::default();
        for told in self.tasks.join_all().await {
            all.stored.extend(told.stored);
            all.refused.extend(told.refused);
            all.unknown.extend(told.unknown);
            all.slowest = all.slowest.max(told.slowest);
        }
        all
    }
}

/// What was acknowledged stands once, what was refused not at all, the rest at most once.
fn check(told: &Told, counts: &BTreeMap<String, usize>) {
    let times = |value: &String| counts.get(value).copied().unwrap_or(0);
    let lost: Vec<_> = told.stored.iter().filter(|value| times(value) == 0).collect();
    let doubled: Vec<_> = counts.iter().filter(|(_, times)| **times > 1).collect();
    let refused: Vec<_> = told.refused.iter().filter(|value| times(value) > 0).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    assert!(doubled.is_empty(), "written twice: {doubled:?}");
    assert!(refused.is_empty(), "refused and written: {refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_produce_whose_answer_is_cut_off_stands_once() {
    let proxy = Proxy::without_target().await;
    let advertised = format!("advertised.listeners=PLAINTEXT://{}\n", proxy.address);
    let kafka = Kafka::start(1, VERSION, &advertised).await;
    proxy.aim(kafka.bootstrap().parse().unwrap());
    let log = open(&proxy.address.to_string(), &[]);
    log.create_topics(&[spec("events", 3)]).await.unwrap();
    // Large enough for the proxy to know a produce by its size.
    let filler = "x".repeat(20_000);
    let mut told = Vec::new();
    for round in 0..5 {
        let value = format!("{round}:{filler}");
        produce_one(&log, "events", &format!("key-{round}"), &value).await.unwrap();
        told.push(value);
        proxy.cut_at_answer();
        let cut = proxy.cut();
        let (key, value) = (format!("key-{round}"), format!("cut {round}:{filler}"));
        let (answer, ()) = tokio::join!(produce_one(&log, "events", &key, &value), async {
            eventually("the answer is cut off", || async {
                if proxy.cut() > cut { Ok(()) } else { Err("not yet".to_owned()) }
            })
            .await;
            proxy.heal();
        });
        answer.unwrap();
        told.push(value);
    }
    let counts = counts(&open(kafka.bootstrap(), &[]), "events").await;
    assert_eq!(counts.len(), told.len());
    assert!(told.iter().all(|value| counts.get(value) == Some(&1)), "each exactly once");
    assert!(proxy.cut() >= 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_of_three_dies_and_comes_back_under_load() {
    let kafka = Kafka::start(3, VERSION, "").await;
    let log = open(kafka.bootstrap(), &[]);
    log.create_topics(&[spec("events", 12)]).await.unwrap();
    let writers = Writers::start(&log, "events", 24);
    tokio::time::sleep(Duration::from_secs(2)).await;
    kafka.kill(2).await;
    // The dead broker stalls its partitions until the others leave it behind.
    eventually_for(
        Duration::from_secs(60),
        "every partition takes writes without the dead broker",
        || async {
            for number in 0..40 {
                produce_one(&log, "events", &format!("probe-{number}"), &format!("probe {number}"))
                    .await
                    .map_err(|error| error.to_string())?;
            }
            Ok(())
        },
    )
    .await;
    kafka.restart(2).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let told = writers.finish().await;
    log.probe().await.unwrap();
    let mut counts = counts(&log, "events").await;
    counts.retain(|value, _| !value.starts_with("probe"));
    println!(
        "stored {}, refused {}, unknown {}, slowest {:?}",
        told.stored.len(),
        told.refused.len(),
        told.unknown.len(),
        told.slowest
    );
    check(&told, &counts);
    assert!(told.stored.len() > 500, "only {} were written", told.stored.len());
    assert_eq!(told.refused.len() + told.unknown.len(), 0, "a caller had to be told no");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_brokers_are_down_for_a_while_and_the_log_heals_by_itself() {
    let kafka = Kafka::start(1, VERSION, "").await;
    let log = open(kafka.bootstrap(), &[("eventlog.kafka.delivery_timeout", "3s")]);
    log.create_topics(&[spec("events", 3)]).await.unwrap();
    let writers = Writers::start(&log, "events", 6);
    eventually("something is written", || async {
        let ends = describe(&log, "events").await.partitions;
        if ends.iter().all(|ends| ends.end > 0) { Ok(()) } else { Err(format!("{ends:?}")) }
    })
    .await;
    kafka.kill(1).await;
    let begun = tokio::time::Instant::now();
    let refused = produce_one(&log, "events", "key", "while it is down").await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(8), "answered after {:?}", begun.elapsed());
    let reason = log.probe().await.unwrap_err().to_string();
    assert!(reason.contains("eventlog.kafka.bootstrap_servers"), "{reason}; {refused}");
    kafka.restart(1).await;
    eventually("the log takes writes again", || async {
        let answer = produce_one(&log, "events", "key", "after").await;
        answer.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let mut told = writers.finish().await;
    eventually("it says that it is well", || async { log.probe().await.map_err(|error| error.to_string()) })
        .await;
    // What was on its way when the broker died may be written late; a close waits for it.
    log.close().await;
    let mut counts = counts(&open(kafka.bootstrap(), &[]), "events").await;
    for value in ["after", "while it is down"] {
        counts.remove(value);
    }
    check(&told, &counts);
    told.unknown.clear();
    assert!(!told.refused.is_empty(), "nobody noticed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_hangs_is_left_at_the_time_out_and_nothing_is_doubled() {
    let kafka = Kafka::start(1, VERSION, "").await;
    let settings = [
        ("eventlog.kafka.delivery_timeout", "4s"),
        ("eventlog.kafka.request_timeout", "1s"),
        ("eventlog.kafka.connect_timeout", "1s"),
    ];
    let log = open(kafka.bootstrap(), &settings);
    log.create_topics(&[spec("events", 3)]).await.unwrap();
    let writers = Writers::start(&log, "events", 6);
    eventually("something is written", || async {
        let ends = describe(&log, "events").await.partitions;
        if ends.iter().all(|ends| ends.end > 0) { Ok(()) } else { Err(format!("{ends:?}")) }
    })
    .await;
    kafka.signal(1, "STOP");
    let begun = tokio::time::Instant::now();
    let answer = produce_one(&log, "events", "key", "while it hangs").await;
    assert!(
        answer.is_err() && begun.elapsed() < Duration::from_secs(8),
        "{answer:?} after {:?}",
        begun.elapsed()
    );
    assert!(log.topics().await.is_err(), "no call hangs");
    // Long enough for the same batch to wait on several connections, which the broker all reads when it wakes.
    eventually("several connections were given up", || async {
        if begun.elapsed() > Duration::from_secs(12) { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    kafka.signal(1, "CONT");
    eventually("the log takes writes again", || async {
        let answer = produce_one(&log, "events", "key", "after").await;
        answer.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let told = writers.finish().await;
    log.close().await;
    let mut counts = counts(&open(kafka.bootstrap(), &[]), "events").await;
    counts.remove("after");
    check(&told, &counts);
    assert!(counts.get("while it hangs").is_none_or(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_made_again_takes_writes_without_a_restart() {
    let kafka = Kafka::shared().await;
    let topic = Names::of("made-again").name("events");
    let log = open(kafka.bootstrap(), &[]);
    log.create_topics(&[spec(&topic, 2)]).await.unwrap();
    for number in 0..20 {
        produce_one(&log, &topic, &format!("key-{number}"), "old").await.unwrap();
    }
    kafka.tool("topics", &["--delete", "--topic", &topic]).await;
    eventually("the topic is missing", || async {
        match produce_one(&log, &topic, "key", "between").await {
            Err(LogError::TopicMissing(name)) if *name == *topic => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    kafka.tool("topics", &["--create", "--topic", &topic, "--partitions", "3"]).await;
    eventually("the new topic takes writes", || async {
        let answer = produce_one(&log, &topic, "key", "new").await;
        answer.map(drop).map_err(|error| error.to_string())
    })
    .await;
    for number in 0..20 {
        produce_one(&log, &topic, &format!("key-{number}"), &format!("new {number}")).await.unwrap();
    }
    let counts = counts(&log, &topic).await;
    assert_eq!(counts.keys().filter(|value| value.starts_with("new")).count(), 21, "{counts:?}");
    assert!(!counts.contains_key("old"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_over_the_brokers_limit_is_refused_alone() {
    let kafka = Kafka::shared().await;
    let topic = Names::of("limit").name("events");
    let log = open(kafka.bootstrap(), &[]);
    log.create_topics(&[spec(&topic, 1)]).await.unwrap();
    produce_one(&log, &topic, "key", "first").await.unwrap();
    // Lower than what the log remembers of the topic.
    let change = [
        "--alter",
        "--entity-type",
        "topics",
        "--entity-name",
        &topic,
        "--add-config",
        "max.message.bytes=5000",
    ];
    kafka.tool("configs", &change).await;
    let values = ["small".to_owned(), "x".repeat(9000), "also small".to_owned(), "y".repeat(3000)];
    let answers = log.produce(&topic, values.iter().map(|value| record("key", value)).collect()).await;
    assert!(answers[0].is_ok() && answers[2].is_ok() && answers[3].is_ok(), "{answers:?}");
    assert!(matches!(answers[1], Err(LogError::RecordTooLarge { .. })), "{answers:?}");
    produce_one(&log, &topic, "key", "last").await.unwrap();
    let counts = counts(&log, &topic).await;
    assert_eq!(counts.len(), 5, "{:?}", counts.keys().map(String::len).collect::<Vec<_>>());
    assert!(counts.values().all(|times| *times == 1) && !counts.contains_key(&values[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_go_where_kafkas_own_client_puts_them() {
    let kafka = Kafka::shared().await;
    let topic = Names::of("partitioner").name("events");
    let log = open(kafka.bootstrap(), &[]);
    log.create_topics(&[spec(&topic, 12)]).await.unwrap();
    let keys: Vec<String> = (0..300)
        .map(|number| match number % 5 {
            0 => format!("user-{number}"),
            1 => "é".repeat(number % 17 + 1),
            2 => number.to_string(),
            3 => format!("{number:x}@example.com"),
            _ => "k".repeat(number % 40 + 1),
        })
        .collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines: String = keys.iter().map(|key| format!("{key}\tvalue\n")).collect();
    std::fs::write(file.path(), lines).unwrap();
    kafka.feed("console-producer", &["--topic", &topic, "--property", "parse.key=true"], file.path()).await;
    let all = read_all(&log, &topic).await;
    let mut seen = 0;
    for (partition, records) in &all {
        for record in records {
            seen += 1;
            assert_eq!(partition_for_key(record.key.as_ref().unwrap(), 12), *partition, "{:?}", record.key);
        }
    }
    assert_eq!(seen, keys.len());
    assert!(all.values().all(|records| !records.is_empty()), "all partitions are used");
    // And the other way round: the same key ends up in the same partition when this log writes it.
    for (key, partition) in keys.iter().map(|key| (key, partition_for_key(key.as_bytes(), 12))) {
        assert_eq!(produce_one(&log, &topic, key, "ours").await.unwrap().partition, partition);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_others_are_read_whatever_their_form() {
    let kafka = Kafka::shared().await;
    let topic = Names::of("foreign").name("events");
    let log = open(kafka.bootstrap(), &[]);
    log.create_topics(&[spec(&topic, 1)]).await.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let lines: String =
            (0..200).map(|number| format!("{codec} {number} {}\n", "text ".repeat(20))).collect();
        std::fs::write(file.path(), lines).unwrap();
        let compression = format!("--compression-codec={codec}");
        kafka.feed("console-producer", &["--topic", &topic, &compression], file.path()).await;
    }
    std::fs::write(file.path(), "h1:v1,h2:v2\tkey\tNULL\nh1:v1\tNULL\tvalue\n").unwrap();
    let properties = ["parse.key=true", "parse.headers=true", "null.marker=NULL"];
    let mut args = vec!["--topic", topic.as_str()];
    properties.iter().for_each(|property| args.extend(["--property", property]));
    kafka.feed("console-producer", &args, file.path()).await;
    // Transactions, each of which ends with a marker that takes an offset.
    let transactions = [
        "--topic",
        &topic,
        "--num-records",
        "300",
        "--throughput",
        "-1",
        "--record-size",
        "100",
        "--transactional-id",
        &topic,
        "--transaction-duration-ms",
        "1",
    ];
    kafka.perf("producer-perf-test", &transactions).await;
    let log_end = describe(&log, &topic).await.partitions[0].end;
    let records = read_all(&log, &topic).await.remove(&0).unwrap();
    assert_eq!(records.len(), 5 * 200 + 2 + 300);
    assert!(log_end > 1302, "there are markers: {log_end}");
    let tombstone = records.iter().find(|record| record.value.is_none()).expect("a null value");
    assert_eq!(tombstone.key.as_deref(), Some(&b"key"[..]));
    assert_eq!((&*tombstone.headers[1].name, &tombstone.headers[1].value[..]), ("h2", &b"v2"[..]));
    assert!(records.iter().any(|record| record.key.is_none() && record.value.as_deref() == Some(b"value")));
    let zstd = records.iter().filter(|record| record.value.as_ref().is_some_and(|v| v.starts_with(b"zstd ")));
    assert_eq!(zstd.count(), 200);
    let offsets: Vec<i64> = records.iter().map(|record| record.offset).collect();
    assert!(offsets.is_sorted(), "in order");
    produce_one(&log, &topic, "key", "after all that").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_every_codec_writes_kafkas_own_consumer_reads() {
    let kafka = Kafka::shared().await;
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = Names::of(&format!("codec-{codec}")).name("events");
        let log = open(kafka.bootstrap(), &[("eventlog.kafka.compression", codec)]);
        log.create_topics(&[spec(&topic, 1)]).await.unwrap();
        let values: Vec<String> = (0..50).map(|number| format!("{number} {}", "abc ".repeat(50))).collect();
        let answers = log.produce(&topic, values.iter().map(|value| record("key", value)).collect()).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        let timeout = LONG.as_millis().to_string();
        let read = ["--topic", &topic, "--from-beginning", "--max-messages", "50", "--timeout-ms", &timeout];
        let seen = kafka.tool("console-consumer", &read).await;
        assert_eq!(seen.lines().collect::<Vec<_>>(), values, "{codec}");
    }
}

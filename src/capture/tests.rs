//! The core over the log in memory: what is durable, what counts, and what a fault of the log does to an answer.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use ::metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use super::*;
use crate::auth::Permissions;
use crate::event::{ManualClock, RandomIds, Scope};
use crate::eventlog::{Fault, MemoryLog, Operation};
use crate::eventlog::{FetchFrom, FetchLimits, Retention, TopicPartition, TopicSpec};
use crate::lifecycle::{ComponentState, Stop};

/// Counters by name and labels, apart from every other test's.
#[derive(Default)]
pub(super) struct Counts(Mutex<HashMap<String, Arc<AtomicU64>>>);

impl Counts {
    /// Such as `capture_events_rejected_total{code=validation_error}`.
    pub(super) fn of(&self, name: &str) -> u64 {
        self.0.lock().unwrap().get(name).map_or(0, |count| count.load(Ordering::SeqCst))
    }
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels: Vec<String> = key.labels().map(|l| format!("{{{}={}}}", l.key(), l.value())).collect();
        let name = format!("{}{}", key.name(), labels.concat());
        Counter::from_arc(self.0.lock().unwrap().entry(name).or_default().clone())
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// Capture over a log in memory, with topics of two partitions.
pub(super) struct Bench {
    pub capture: Capture,
    pub log: MemoryLog,
    pub counts: Counts,
    pub health: Health,
}

pub(super) async fn bench_with(overrides: &[(&str, &str)]) -> Bench {
    let clock = Arc::new(ManualClock::at(Timestamp::parse("2026-01-31T12:00:00Z").unwrap()));
    let ids = Arc::new(RandomIds);
    let health = Health::new(clock.clone());
    let log = MemoryLog::new(clock.clone(), ids.clone());
    let topics = ["events", "raw_events"].map(|name| TopicSpec {
        name: name.into(),
        partitions: 2,
        retention: Retention::default(),
        record_bytes_max: 4096,
        required_groups: Vec::new(),
    });
    log.create_topics(&topics).await.unwrap();
    let config = Config::from_overrides(overrides).unwrap();
    let counts = Counts::default();
    let capture = ::metrics::with_local_recorder(&counts, || {
        Capture::new(Arc::new(log.clone()), &config, clock.clone(), ids, &health)
    });
    Bench { capture, log, counts, health }
}

impl Bench {
    /// What a request with this body comes to.
    async fn send(&self, body: &str) -> Result<Receipt, Refusal> {
        let access = Access::new(Scope::new("proj_a", "env_a"), "production", Permissions::all());
        let mut in_flight = self.capture.in_flight();
        in_flight.grow(body.len())?;
        let mut batch = self.capture.batch(&access, self.capture.now(), 0, &Words::CAPTURE);
        self.capture.read(body.as_bytes(), &mut batch).await.unwrap();
        self.capture.produce(batch, "capture", in_flight).await
    }

    /// Records of all topics.
    pub(super) async fn records(&self) -> i64 {
        let topics = self.log.topics().await.unwrap();
        topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.end).sum()
    }

    /// Event ids of all records in the log.
    pub(super) async fn stored(&self) -> Vec<String> {
        let mut topics = self.log.topics().await.unwrap().into_iter();
        let topic = topics.find(|topic| &*topic.name == "events").unwrap();
        let from: Vec<FetchFrom> = (0..2)
            .map(|partition| FetchFrom {
                topic_partition: TopicPartition::new("events", partition),
                topic_id: topic.id,
                offset: 0,
            })
            .collect();
        let limits =
            FetchLimits { wait_max: Duration::ZERO, partition_bytes_max: 1 << 20, bytes_max: 1 << 20 };
        let mut ids = Vec::new();
        for fetched in self.log.fetch(&from, limits).await.unwrap() {
            for record in fetched.outcome.unwrap().records {
                let value = record.value.unwrap();
                let event: crate::event::LogEvent<'_> = serde_json::from_slice(&value).unwrap();
                ids.push(event.id.into_owned());
            }
        }
        ids.sort();
        ids
    }
}

fn item(id: &str) -> String {
    format!(r#"{{"event":"e","distinct_id":"u-{id}","event_id":"{id}"}}"#)
}

#[tokio::test]
async fn what_is_accepted_is_in_the_log_and_counted_and_the_rest_is_named() {
    let bench = bench_with(&[]).await;
    let body = format!(r#"[{},{{"event":"e"}},{},7]"#, item("a"), item("b"));
    let receipt = bench.send(&body).await.unwrap();
    assert_eq!(receipt.accepted, [&b"a"[..], b"b"]);
    let indexes: Vec<usize> = receipt.rejected.iter().map(|rejection| rejection.index).collect();
    assert_eq!(indexes, [1, 3]);
    assert_eq!(bench.stored().await, ["a", "b"]);
    assert_eq!(bench.counts.of("capture_events_accepted_total"), 2);
    assert_eq!(bench.counts.of("capture_kafka_produce_total"), 2);
    assert_eq!(bench.counts.of("capture_events_rejected_total{code=validation_error}"), 2);
    assert_eq!(bench.log.calls(Operation::Produce), 1);
    assert_eq!(bench.health.get("capture").unwrap().state, ComponentState::Up);
}

#[tokio::test]
async fn a_request_of_which_nothing_is_good_never_reaches_the_log() {
    let bench = bench_with(&[]).await;
    let receipt = bench.send("[1]").await.unwrap();
    assert_eq!((receipt.accepted.len(), receipt.rejected.len()), (0, 1));
    assert_eq!(bench.log.calls(Operation::Produce), 0);
}

#[tokio::test]
async fn faults_of_the_log_refuse_the_request_and_count_nothing_as_accepted() {
    let bench = bench_with(&[]).await;
    let faults = [
        (Fault::Refuse, LogError::Unavailable("scripted".to_owned())),
        (Fault::Full, LogError::Full("scripted".to_owned())),
    ];
    for (fault, error) in faults {
        bench.log.script(Operation::Produce, [fault]);
        assert_eq!(bench.send(&item("a")).await.unwrap_err(), Refusal::Log(error));
    }
    bench.log.script(Operation::Produce, [Fault::LoseAnswer]);
    let lost = bench.send(&item("a")).await.unwrap_err();
    assert!(matches!(lost, Refusal::Log(LogError::OutcomeUnknown(_))), "{lost:?}");
    assert_eq!(bench.counts.of("capture_events_accepted_total"), 0);
    assert_eq!(bench.counts.of("capture_kafka_produce_total"), 0);
    // The resend is accepted; the store, not the log, joins it with the one whose answer was lost.
    assert_eq!(bench.send(&item("a")).await.unwrap().accepted, [&b"a"[..]]);
    assert_eq!(bench.stored().await, ["a", "a"]);
    assert_eq!(bench.counts.of("capture_events_accepted_total"), 1);
}

#[tokio::test]
async fn a_missing_topic_refuses_until_it_is_back() {
    let bench = bench_with(&[("topics.events", "elsewhere")]).await;
    let refusal = bench.send(&item("a")).await.unwrap_err();
    assert_eq!(refusal, Refusal::Log(LogError::TopicMissing("elsewhere".into())));
}

#[tokio::test]
async fn a_record_over_the_logs_limit_is_rejected_and_its_neighbours_are_not() {
    let bench = bench_with(&[]).await;
    let large = format!(
        r#"{{"event":"e","distinct_id":"u","event_id":"large","properties":{{"x":"{}"}}}}"#,
        "x".repeat(5000)
    );
    let receipt = bench.send(&format!("[1,{large},{}]", item("a"))).await.unwrap();
    assert_eq!(receipt.accepted, [&b"a"[..]]);
    let found: Vec<_> = receipt.rejected.iter().map(|r| (r.index, r.code)).collect();
    assert_eq!(found, [(0, RejectionCode::ValidationError), (1, RejectionCode::PayloadTooLarge)]);
    assert_eq!(bench.stored().await, ["a"]);
    let alone = bench.send(&large).await.unwrap();
    assert_eq!((alone.accepted.len(), alone.rejected[0].code), (0, RejectionCode::PayloadTooLarge));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_does_not_answer_in_time_refuses_the_request() {
    let bench = bench_with(&[("capture.produce_timeout", "2s")]).await;
    bench.log.script(Operation::Produce, [Fault::Slow(Duration::from_secs(10))]);
    let refusal = bench.send(&item("a")).await.unwrap_err();
    assert_eq!(refusal, Refusal::Timeout(Duration::from_secs(2)));
    assert_eq!(bench.counts.of("capture_events_accepted_total"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_goes_away_opens_the_breaker_and_heals_alone() {
    let bench = bench_with(&[]).await;
    bench.log.go_away(1000);
    let mut refusals = 0;
    while !matches!(bench.send(&item("a")).await.unwrap_err(), Refusal::BreakerOpen { .. }) {
        refusals += 1;
        assert!(refusals < 100, "the breaker never opened");
    }
    let asked = bench.log.calls(Operation::Produce);
    assert!(matches!(bench.send(&item("a")).await, Err(Refusal::BreakerOpen { .. })));
    assert!(bench.capture.check().is_err());
    assert_eq!(bench.log.calls(Operation::Produce), asked, "an open breaker asks nothing of the log");
    assert_eq!(bench.health.get("capture").unwrap().state, ComponentState::Down);

    let tasks = Tasks::new(Stop::default());
    bench.capture.supervise(&tasks);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.health.get("capture").unwrap().state, ComponentState::Down);
    bench.log.heal();
    tokio::time::timeout(Duration::from_secs(60), async {
        while bench.health.get("capture").unwrap().state != ComponentState::Up {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("heals without a request");
    assert_eq!(bench.send(&item("a")).await.unwrap().accepted, [&b"a"[..]]);
    tasks.stop().soft();
    assert!(tasks.drained(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn bytes_in_flight_are_bounded_and_given_back() {
    let bench = bench_with(&[
        ("capture.in_flight_bytes_max", "1000B"),
        ("capture.body_bytes_max", "500B"),
        ("capture.inflated_bytes_max", "500B"),
        ("capture.properties_bytes_max", "100B"),
    ])
    .await;
    let mut first = bench.capture.in_flight();
    first.grow(600).unwrap();
    let mut second = bench.capture.in_flight();
    second.grow(400).unwrap();
    assert_eq!(second.grow(1), Err(Refusal::InFlight { bytes_max: 1000 }));
    drop(first);
    second.grow(600).unwrap();
    second.become_bytes(10).unwrap();
    let mut third = bench.capture.in_flight();
    third.grow(990).unwrap();
    assert_eq!(third.grow(1), Err(Refusal::InFlight { bytes_max: 1000 }));
    drop((second, third));
    assert_eq!(bench.capture.0.in_flight.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_body_is_bounded_in_events_and_must_have_one() {
    let bench = bench_with(&[("capture.batch_events_max", "2")]).await;
    let access = Access::new(Scope::new("proj_a", "env_a"), "production", Permissions::all());
    for (body, expected) in [
        (format!("[{0},{0}]", item("a")), Ok(())),
        (format!("[{0},{0},{0}]", item("a")), Err(Unread::TooMany { events_max: 2, of_surface: false })),
        ("[1,2,3,4".to_owned(), Err(Unread::TooMany { events_max: 2, of_surface: false })),
        ("[]".to_owned(), Err(Unread::Empty)),
    ] {
        let mut batch = bench.capture.batch(&access, bench.capture.now(), 0, &Words::CAPTURE);
        assert_eq!(bench.capture.read(body.as_bytes(), &mut batch).await, expected, "{body}");
    }
}

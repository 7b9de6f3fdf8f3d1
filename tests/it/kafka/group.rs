//! Membership on real brokers: static members, another coordinator, other versions.

use std::collections::BTreeSet;
use std::time::Duration;

use flexflow::eventlog::{
    AssignedPartition, EventLog, Generation, GroupEvent, GroupMember, GroupSpec, KafkaLog, LogError,
    TopicPartition,
};
use serde_json::json;
use tokio::time::timeout;

use super::logs::{open, spec};
use crate::support::kafka::{Kafka, Names, VERSION};
use crate::support::log::{Log, LogSettings};
use crate::support::{Sandbox, eventually, eventually_for};

const LONG: Duration = Duration::from_secs(30);

fn group(names: &Names, instance: Option<&str>) -> GroupSpec {
    GroupSpec {
        group: names.name("group").into(),
        topics: vec![names.name("events").into()],
        client_id: "test".into(),
        instance_id: instance.map(Into::into),
    }
}

async fn next(member: &mut Box<dyn GroupMember>) -> GroupEvent {
    timeout(LONG, member.next()).await.expect("an event in time").expect("a member")
}

async fn assigned(member: &mut Box<dyn GroupMember>) -> (Generation, Vec<AssignedPartition>) {
    match next(member).await {
        GroupEvent::Assigned { generation, partitions } => (generation, partitions),
        other => panic!("expected an assignment, got {other:?}"),
    }
}

const QUICK: [(&str, &str); 2] =
    [("eventlog.kafka.session_timeout", "6s"), ("eventlog.kafka.heartbeat_interval", "500ms")];

async fn with_topic(kafka: &Kafka, names: &Names, partitions: i32) -> KafkaLog {
    let log = open(kafka.bootstrap(), &QUICK);
    log.create_topics(&[spec(&names.name("events"), partitions)]).await.unwrap();
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_member_that_restarts_finds_its_partitions_without_a_rebalance() {
    let (kafka, names) = (Kafka::shared().await, Names::of("static"));
    let log = with_topic(kafka, &names, 4).await;
    let mut before = log.join(group(&names, Some("worker-1"))).await.unwrap();
    let (generation, partitions) = assigned(&mut before).await;
    assert_eq!(partitions.len(), 4);
    let at = [(partitions[0].topic_partition.clone(), 0)].into();
    before.committer().commit(generation, &at).await.unwrap();
    drop(before);
    let other = open(kafka.bootstrap(), &QUICK);
    let mut after = other.join(group(&names, Some("worker-1"))).await.unwrap();
    let (again, partitions) = assigned(&mut after).await;
    assert_eq!((again, partitions.len()), (generation, 4), "the same generation: nobody was asked");
    assert_eq!(partitions[0].committed, Some(0));
    after.committer().commit(again, &at).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_with_one_instance_id_the_older_stays_out() {
    let (kafka, names) = (Kafka::shared().await, Names::of("twins"));
    let log = with_topic(kafka, &names, 2).await;
    let mut older = log.join(group(&names, Some("worker-1"))).await.unwrap();
    let (generation, partitions) = assigned(&mut older).await;
    let other = open(kafka.bootstrap(), &QUICK);
    let mut younger = other.join(group(&names, Some("worker-1"))).await.unwrap();
    let (again, _) = assigned(&mut younger).await;
    let at = [(partitions[0].topic_partition.clone(), 1)].into();
    assert!(older.committer().commit(generation, &at).await.is_err(), "it is fenced");
    let all: Vec<TopicPartition> = partitions.iter().map(|p| p.topic_partition.clone()).collect();
    assert_eq!(next(&mut older).await, GroupEvent::Lost { partitions: all });
    let end = timeout(LONG, older.next()).await.unwrap().unwrap_err();
    assert!(matches!(&end, LogError::Forbidden(reason) if reason.contains("consumer.instance_id")), "{end}");
    drop(older);
    let refused = log.join(group(&names, Some("worker-1"))).await.err().expect("it stays out");
    assert!(refused.to_string().contains("consumer.instance_id"), "{refused}");
    younger.committer().commit(again, &at).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_coordinator_is_replaced_and_the_members_go_on() {
    let (kafka, names) = (Kafka::start(3, VERSION, "").await, Names::of("coordinator"));
    let log = with_topic(&kafka, &names, 6).await;
    let mut first = log.join(group(&names, None)).await.unwrap();
    let (_, partitions) = assigned(&mut first).await;
    assert_eq!(partitions.len(), 6);
    let state =
        kafka.tool("consumer-groups", &["--describe", "--state", "--group", &names.name("group")]).await;
    let node = state.split(['(', ')']).filter_map(|word| word.trim().parse::<u16>().ok()).next();
    let node = node.unwrap_or_else(|| panic!("a coordinator in {state}"));
    kafka.kill(node).await;
    // Whether it keeps its place or takes another one: it can commit again, every partition, without a restart.
    let mut owned: std::collections::BTreeMap<TopicPartition, i64> =
        partitions.iter().map(|p| (p.topic_partition.clone(), 1)).collect();
    let mut generation = Generation(i64::MAX);
    eventually_for(Duration::from_secs(90), "the group goes on", || {
        let events = std::iter::from_fn(|| futures::FutureExt::now_or_never(first.next()));
        for event in events {
            match event.expect("still a member") {
                GroupEvent::Lost { .. } => owned.clear(),
                GroupEvent::Assigned { generation: now, partitions } => {
                    generation = now;
                    owned.extend(partitions.into_iter().map(|p| (p.topic_partition, 1)));
                }
                other => println!("{other:?}"),
            }
        }
        let (committer, offsets) = (first.committer(), owned.clone());
        async move {
            if offsets.len() < 6 {
                return Err(format!("{} partitions", offsets.len()));
            }
            committer.commit(generation, &offsets).await.map_err(|error| error.to_string())
        }
    })
    .await;
    let mut second = log.join(group(&names, None)).await.unwrap();
    let revoked = loop {
        match next(&mut first).await {
            GroupEvent::Revoking { partitions } => break partitions,
            GroupEvent::Assigned { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    first.release(&revoked).await.unwrap();
    let (_, taken) = assigned(&mut second).await;
    assert_eq!(taken.len(), 3);
    assert!(taken.iter().all(|partition| partition.committed == Some(1)), "{taken:?}");
}

/// The core of the suite on brokers of other versions.
async fn works_on(version: &str) {
    let kafka = Kafka::start(1, version, "").await;
    let log = LogSettings::on(&kafka);
    let dir = tempfile::tempdir().unwrap();
    let options = flexflow::app::Options::default();
    let app = Sandbox::build_on(dir, log, flexflow::app::Role::ALL, &[], options).await;
    let event = json!({"event": "paid", "distinct_id": "ada", "event_id": "order-1"});
    app.client.accept(&json!([event, event, {"event": "other", "distinct_id": "bob"}])).await;
    app.client.settled(2).await;
    let app = app.restart(&[]).await;
    app.client.accept(&event).await;
    app.client.settled(2).await;
    assert_eq!(app.client.audit().await["balanced"], true);
    app.stop().await;

    let names = Names::of("versions");
    let log = with_topic(&kafka, &names, 4).await;
    let mut first = log.join(group(&names, None)).await.unwrap();
    assert_eq!(assigned(&mut first).await.1.len(), 4);
    let mut second = log.join(group(&names, None)).await.unwrap();
    let GroupEvent::Revoking { partitions } = next(&mut first).await else { panic!("half is asked back") };
    assert_eq!(partitions.len(), 2);
    first.release(&partitions).await.unwrap();
    let (generation, taken) = assigned(&mut second).await;
    let at = taken.iter().map(|p| (p.topic_partition.clone(), 7)).collect();
    second.committer().commit(generation, &at).await.unwrap();
    assert_eq!(log.committed(&names.name("group")).await.unwrap(), at);
    log.delete_topic(&names.name("events")).await.unwrap();
    // Whichever sees first that the topic is no more: the member itself, or the group's leader, who then asks them back.
    let gone = next(&mut second).await;
    let (GroupEvent::Lost { partitions } | GroupEvent::Revoking { partitions }) = &gone else {
        panic!("{gone:?}")
    };
    let partitions: BTreeSet<_> = partitions.iter().collect();
    assert_eq!(partitions, at.keys().collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_broker_works() {
    Box::pin(works_on("2.8.2")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_of_version_3_works() {
    Box::pin(works_on("3.9.1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_broker_works() {
    Box::pin(works_on("4.2.0")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafkas_console_consumer_shows_a_dead_letter_and_flexprices_messages_are_stored() {
    let kafka = Kafka::shared().await;
    let app = Sandbox::on(Log::Kafka).await;
    let first = app.running.first_run().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let flexprice = json!({
        "id": "fp-1", "tenant_id": first.project_id, "environment_id": first.environment_id,
        "event_name": "api_call", "external_customer_id": "acme", "customer_id": "", "source": "sdk",
        "timestamp": "2026-01-31T11:00:00Z", "ingested_at": "0001-01-01T00:00:00Z",
        "properties": {"tokens": 12}
    });
    std::fs::write(file.path(), format!("{flexprice}\n{{\"id\":\"x\"}}\n")).unwrap();
    let topic = app.client.events_topic.clone();
    kafka.feed("console-producer", &["--topic", &topic], file.path()).await;
    let events = app.client.settled(1).await;
    assert_eq!((&events[0]["event"], &events[0]["distinct_id"]), (&json!("api_call"), &json!("acme")));
    let dlq = app.dlq_topic().to_owned();
    let print = ["--property", "print.headers=true"];
    let args = ["--topic", &dlq, "--from-beginning", "--max-messages", "1", "--timeout-ms", "30000"];
    let args = [&args[..], &print].concat();
    let shown = eventually("the console consumer shows it", || async {
        let shown = kafka.tool("console-consumer", &args).await;
        if shown.trim().is_empty() { Err("nothing".to_owned()) } else { Ok(shown) }
    })
    .await;
    let (headers, value) = shown.lines().next().unwrap().split_once('\t').unwrap();
    for header in
        ["error_kind:missing_field", "error_message:", "dlq_ts:20", "source_offset:", "stage:consumer"]
    {
        assert!(headers.contains(header), "{header}: {headers}");
    }
    let letter: serde_json::Value = serde_json::from_str(value).unwrap();
    assert_eq!((&letter["raw"], &letter["error_kind"]), (&json!({"id": "x"}), &json!("missing_field")));
    assert!(letter["error_message"].is_string() && letter["dlq_ts"].is_string(), "{letter}");
    assert_eq!(app.client.audit().await["balanced"], true);
    app.stop().await;
}

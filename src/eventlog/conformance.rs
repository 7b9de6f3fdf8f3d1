//! What every backend promises, as one suite. A backend implements [`Backend`] and names itself in
//! [`conformance_suite!`]; each case then is a test of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::*;
use crate::event::ManualClock;

/// Far longer than any call may take; a case that reaches it fails.
const LONG: Duration = Duration::from_secs(20);

/// How the suite drives a backend.
#[async_trait]
pub(super) trait Backend: Send + Sync {
    /// The log; the same one until [`Backend::restart`].
    fn log(&self) -> Arc<dyn EventLog>;
    /// Closes the log and opens it again over what it holds.
    async fn restart(&mut self);
    /// The clock that the log's retention reads.
    fn clock(&self) -> &ManualClock;
    /// Runs retention once, to its end.
    async fn enforce_retention(&self);
}

pub(super) fn record(key: &str, value: &str, at: i64) -> NewRecord {
    let header = |name: &str, value: &str| Header { name: name.into(), value: Bytes::from(value.to_owned()) };
    NewRecord {
        key: (!key.is_empty()).then(|| Bytes::from(key.to_owned())),
        value: Bytes::from(value.to_owned()),
        headers: [header("schema_version", "1"), header("project_id", "proj_a")].into(),
        timestamp: Timestamp::from_millis(at),
    }
}

pub(super) fn spec(name: &str, partitions: i32) -> TopicSpec {
    TopicSpec {
        name: name.into(),
        partitions,
        retention: Retention::default(),
        record_bytes_max: 1024,
        required_groups: Vec::new(),
    }
}

fn group(group: &str, topic: &str) -> GroupSpec {
    GroupSpec { group: group.into(), topics: vec![topic.into()], client_id: "test".into(), instance_id: None }
}

fn limits(wait_max: Duration) -> FetchLimits {
    FetchLimits { wait_max, partition_bytes_max: 1 << 20, bytes_max: 8 << 20 }
}

async fn make(log: &dyn EventLog, topics: &[TopicSpec]) {
    log.create_topics(topics).await.unwrap();
}

async fn describe(log: &dyn EventLog, topic: &str) -> TopicDescription {
    log.topics().await.unwrap().into_iter().find(|found| &*found.name == topic).expect("topic")
}

pub(super) async fn produce(log: &dyn EventLog, topic: &str, records: Vec<NewRecord>) -> Vec<Position> {
    log.produce(topic, records).await.into_iter().map(Result::unwrap).collect()
}

/// Every record of a topic from its start, by partition.
pub(super) async fn read_all(log: &dyn EventLog, topic: &str) -> BTreeMap<i32, Vec<Record>> {
    let topic = describe(log, topic).await;
    let mut all = BTreeMap::new();
    for (partition, offsets) in (0..).zip(&topic.partitions) {
        let mut records = Vec::new();
        let mut offset = offsets.log_start;
        while offset < offsets.end {
            let found = log.fetch(&[from(&topic, partition, offset)], limits(LONG)).await.unwrap();
            let found = found.into_iter().next().expect("records").outcome.unwrap();
            offset = found.next_offset;
            records.extend(found.records);
        }
        all.insert(partition, records);
    }
    all
}

fn from(topic: &TopicDescription, partition: i32, offset: i64) -> FetchFrom {
    let topic_partition = TopicPartition { topic: topic.name.clone(), partition };
    FetchFrom { topic_partition, topic_id: topic.id, offset }
}

async fn fetch_one(log: &dyn EventLog, from: FetchFrom) -> Result<FetchedRecords, FetchError> {
    let found = log.fetch(&[from], limits(LONG)).await.unwrap();
    found.into_iter().next().expect("an answer").outcome
}

async fn next(member: &mut Box<dyn GroupMember>) -> GroupEvent {
    timeout(LONG, member.next()).await.expect("an event in time").unwrap()
}

async fn assigned(member: &mut Box<dyn GroupMember>) -> (Generation, Vec<AssignedPartition>) {
    match next(member).await {
        GroupEvent::Assigned { generation, partitions } => (generation, partitions),
        other => panic!("expected an assignment, got {other:?}"),
    }
}

fn offsets(topic: &str, of: &[(i32, i64)]) -> BTreeMap<TopicPartition, i64> {
    of.iter().map(|(partition, offset)| (TopicPartition::new(topic, *partition), *offset)).collect()
}

pub(super) async fn records_come_back_as_written_and_offsets_go_on_over_a_restart<B: Backend>(mut b: B) {
    make(&*b.log(), &[spec("events", 3)]).await;
    let written: Vec<NewRecord> =
        (0..40).map(|i| record(&format!("user-{i}"), &format!("value {i}"), 1000 + i)).collect();
    let positions = produce(&*b.log(), "events", written.clone()).await;
    let before = describe(&*b.log(), "events").await;
    b.restart().await;
    assert_eq!(describe(&*b.log(), "events").await, before, "a restart changes nothing");
    let all = read_all(&*b.log(), "events").await;
    for (written, position) in written.iter().zip(&positions) {
        assert_eq!(position.partition, partition_for_key(written.key.as_ref().unwrap(), 3));
        let index = usize::try_from(position.offset).unwrap();
        let read = &all[&position.partition][index];
        assert_eq!(read.offset, position.offset);
        assert_eq!((&read.key, read.value.as_ref()), (&written.key, Some(&written.value)));
        assert_eq!((&read.headers, read.timestamp), (&written.headers, written.timestamp));
    }
    let more = produce(&*b.log(), "events", vec![record("user-0", "after", 2000)]).await[0];
    assert_eq!(more.offset, before.partitions[usize::try_from(more.partition).unwrap()].end);
}

pub(super) async fn a_fetch_starts_inside_a_batch_and_keeps_to_its_limits<B: Backend>(b: B) {
    let log = b.log();
    make(&*log, &[spec("events", 1)]).await;
    produce(&*log, "events", (0..100).map(|i| record("k", &format!("{i:0100}"), i)).collect()).await;
    let topic = describe(&*log, "events").await;
    let small = FetchLimits { wait_max: LONG, partition_bytes_max: 250, bytes_max: 8 << 20 };
    let found = log.fetch(&[from(&topic, 0, 37)], small).await.unwrap().remove(0).outcome.unwrap();
    let got: Vec<i64> = found.records.iter().map(|record| record.offset).collect();
    assert_eq!(got, [37, 38], "stops after the record that reaches the limit");
    assert_eq!((found.next_offset, found.offsets), (39, PartitionOffsets { log_start: 0, end: 100 }));
    let tiny = FetchLimits { wait_max: LONG, partition_bytes_max: 1, bytes_max: 1 };
    let found = log.fetch(&[from(&topic, 0, 99)], tiny).await.unwrap().remove(0).outcome.unwrap();
    assert_eq!(found.records.len(), 1, "always at least one record");
}

pub(super) async fn positions_outside_of_the_log_are_named<B: Backend>(b: B) {
    let log = b.log();
    make(&*log, &[spec("events", 1)]).await;
    produce(&*log, "events", vec![record("k", "v", 1)]).await;
    let topic = describe(&*log, "events").await;
    let ends = PartitionOffsets { log_start: 0, end: 1 };
    assert_eq!(fetch_one(&*log, from(&topic, 0, 2)).await.unwrap_err(), FetchError::OffsetOutOfRange(ends));
    assert_eq!(fetch_one(&*log, from(&topic, 0, -1)).await.unwrap_err(), FetchError::OffsetOutOfRange(ends));
    let none = FetchError::UnknownTopic { now: Some(topic.id) };
    assert_eq!(fetch_one(&*log, from(&topic, 7, 0)).await.unwrap_err(), none);
}

pub(super) async fn an_idle_fetch_answers_empty_after_its_wait<B: Backend>(b: B) {
    let log = b.log();
    make(&*log, &[spec("events", 2)]).await;
    let topic = describe(&*log, "events").await;
    let wait = Duration::from_millis(50);
    let started = Instant::now();
    let found = log.fetch(&[from(&topic, 0, 0), from(&topic, 1, 0)], limits(wait)).await.unwrap();
    assert!(found.is_empty() && started.elapsed() >= wait, "{found:?}");
}

pub(super) async fn a_waiting_fetch_wakes_at_once_when_a_record_comes<B: Backend>(b: B) {
    let log = b.log();
    make(&*log, &[spec("events", 2), spec("other", 1)]).await;
    let topic = describe(&*log, "events").await;
    let wanted = [from(&topic, 0, 0), from(&topic, 1, 0)];
    let started = Instant::now();
    let (found, positions) = tokio::join!(log.fetch(&wanted, limits(LONG)), async {
        produce(&*log, "other", vec![record("k", "noise", 1)]).await;
        produce(&*log, "events", vec![record("k", "v", 1)]).await
    });
    let found = found.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].topic_partition.partition, positions[0].partition);
    assert!(started.elapsed() < LONG / 4, "woke after {:?}", started.elapsed());
}

pub(super) async fn a_record_too_large_is_refused_alone<B: Backend>(b: B) {
    let log = b.log();
    make(&*log, &[spec("events", 1)]).await;
    let answers = log
        .produce("events", vec![record("k", "a", 1), record("k", &"x".repeat(2000), 2), record("k", "b", 3)])
        .await;
    assert_eq!(answers[0], Ok(Position { partition: 0, offset: 0 }));
    assert!(matches!(answers[1], Err(LogError::RecordTooLarge { bytes_max: 1024, .. })), "{answers:?}");
    assert_eq!(answers[2], Ok(Position { partition: 0, offset: 1 }));
    assert_eq!(
        log.produce("nowhere", vec![record("k", "a", 1)]).await,
        [Err(LogError::TopicMissing("nowhere".into()))]
    );
}

pub(super) async fn concurrent_produces_keep_one_order_and_lose_nothing<B: Backend>(b: B) {
    let log = b.log();
    make(&*log, &[spec("events", 2)]).await;
    let writer = |writer: usize| {
        let log = log.clone();
        async move {
            let mut positions = Vec::new();
            for i in 0..25 {
                let value = format!("{writer}:{i}");
                positions
                    .push((value.clone(), produce(&*log, "events", vec![record("", &value, 1)]).await[0]));
            }
            positions
        }
    };
    let written = futures::future::join_all((0..8).map(writer)).await;
    let all = read_all(&*log, "events").await;
    let mut seen = BTreeSet::new();
    for (value, position) in written.iter().flatten() {
        let found = &all[&position.partition][usize::try_from(position.offset).unwrap()];
        assert_eq!(found.value.as_deref(), Some(value.as_bytes()));
        assert!(seen.insert(*position), "offset given twice: {position:?}");
    }
    assert_eq!(seen.len(), 200);
    assert_eq!(all.values().map(Vec::len).sum::<usize>(), 200);
}

pub(super) async fn commits_are_kept_and_are_all_or_none<B: Backend>(mut b: B) {
    make(&*b.log(), &[spec("events", 2)]).await;
    let mut member = b.log().join(group("readers", "events")).await.unwrap();
    let (generation, partitions) = assigned(&mut member).await;
    assert_eq!(partitions.len(), 2);
    assert!(partitions.iter().all(|partition| partition.committed.is_none()));
    let committer = member.committer();
    committer.commit(generation, &offsets("events", &[(0, 3), (1, 5)])).await.unwrap();
    let refused = committer.commit(generation, &offsets("events", &[(0, 9), (7, 9)])).await;
    assert_eq!(refused, Err(CommitError::Fenced), "partition 7 is not this member's");
    drop((member, committer));
    b.restart().await;
    assert_eq!(b.log().committed("readers").await.unwrap(), offsets("events", &[(0, 3), (1, 5)]));
    assert_eq!(b.log().committed("others").await.unwrap(), BTreeMap::new());
    let mut member = b.log().join(group("readers", "events")).await.unwrap();
    let (again, partitions) = assigned(&mut member).await;
    assert!(again > generation, "generations grow over a restart");
    assert_eq!(partitions.iter().map(|p| p.committed).collect::<Vec<_>>(), [Some(3), Some(5)]);
}

pub(super) async fn the_newest_member_owns_and_the_older_is_fenced<B: Backend>(b: B) {
    let log = b.log();
    make(&*log, &[spec("events", 2)]).await;
    let mut old = log.join(group("readers", "events")).await.unwrap();
    let (old_generation, _) = assigned(&mut old).await;
    let mut new = log.join(group("readers", "events")).await.unwrap();
    let zombie = old.committer().commit(old_generation, &offsets("events", &[(0, 1)])).await;
    assert_eq!(zombie, Err(CommitError::Fenced));
    let partitions = vec![TopicPartition::new("events", 0), TopicPartition::new("events", 1)];
    assert_eq!(next(&mut old).await, GroupEvent::Lost { partitions });
    let (generation, _) = assigned(&mut new).await;
    assert!(generation > old_generation);
    new.committer().commit(generation, &offsets("events", &[(0, 1)])).await.unwrap();
    new.leave().await.unwrap();
    let (back, partitions) = assigned(&mut old).await;
    assert!(back > generation, "the older member takes over again");
    assert_eq!(partitions[0].committed, Some(1));
    let stale = old.committer().commit(old_generation, &offsets("events", &[(0, 0)])).await;
    assert_eq!(stale, Err(CommitError::Fenced), "not with the generation from before it lost them");
    old.committer().commit(back, &offsets("events", &[(0, 2)])).await.unwrap();
}

pub(super) async fn a_topic_made_again_is_another_topic<B: Backend>(b: B) {
    let log = b.log();
    make(&*log, &[spec("events", 1)]).await;
    produce(&*log, "events", vec![record("k", "old", 1)]).await;
    let old = describe(&*log, "events").await;
    let mut member = log.join(group("readers", "events")).await.unwrap();
    let (generation, _) = assigned(&mut member).await;
    member.committer().commit(generation, &offsets("events", &[(0, 1)])).await.unwrap();

    log.delete_topic("events").await.unwrap();
    let gone = fetch_one(&*log, from(&old, 0, 0)).await.unwrap_err();
    assert_eq!(gone, FetchError::UnknownTopic { now: None });
    assert_eq!(
        next(&mut member).await,
        GroupEvent::Lost { partitions: vec![TopicPartition::new("events", 0)] }
    );
    assert_eq!(next(&mut member).await, GroupEvent::TopicMissing { topic: "events".into() });

    make(&*log, &[spec("events", 1)]).await;
    let new = describe(&*log, "events").await;
    assert_ne!(new.id, old.id);
    let stale = fetch_one(&*log, from(&old, 0, 0)).await.unwrap_err();
    assert_eq!(stale, FetchError::UnknownTopic { now: Some(new.id) });
    assert_eq!(log.committed("readers").await.unwrap(), BTreeMap::new());
    assert_eq!(next(&mut member).await, GroupEvent::TopicBack { topic: "events".into() });
    let (again, partitions) = assigned(&mut member).await;
    assert_eq!((partitions[0].topic_id, partitions[0].committed), (new.id, None));
    let zombie = member.committer().commit(generation, &offsets("events", &[(0, 1)])).await;
    assert_eq!(zombie, Err(CommitError::Fenced), "an offset of the old topic must not move the new one");
    member.committer().commit(again, &offsets("events", &[(0, 0)])).await.unwrap();
    assert_eq!(produce(&*log, "events", vec![record("k", "new", 1)]).await[0].offset, 0);
}

pub(super) async fn a_missing_topic_is_named_until_it_is_made<B: Backend>(b: B) {
    let log = b.log();
    let mut member = log.join(group("readers", "events")).await.unwrap();
    assert_eq!(next(&mut member).await, GroupEvent::TopicMissing { topic: "events".into() });
    let topics = [spec("events", 1)];
    let (event, ()) = tokio::join!(next(&mut member), make(&*log, &topics));
    assert_eq!(event, GroupEvent::TopicBack { topic: "events".into() });
    assert_eq!(assigned(&mut member).await.1.len(), 1);
}

pub(super) async fn a_grown_topic_gives_its_new_partitions_and_keeps_commits_in_flight<B: Backend>(mut b: B) {
    let log = b.log();
    assert_eq!(log.grow_topic("events", 3).await, Err(LogError::TopicMissing("events".into())));
    make(&*log, &[spec("events", 1)]).await;
    produce(&*log, "events", vec![record("k", "v", 1)]).await;
    let id = describe(&*log, "events").await.id;
    let mut member = log.join(group("readers", "events")).await.unwrap();
    let (generation, _) = assigned(&mut member).await;
    log.grow_topic("events", 3).await.unwrap();
    let (grown, partitions) = assigned(&mut member).await;
    assert!(grown > generation);
    assert_eq!(partitions.iter().map(|p| p.topic_partition.partition).collect::<Vec<_>>(), [1, 2]);
    member.committer().commit(generation, &offsets("events", &[(0, 1)])).await.unwrap();
    let early = member.committer().commit(generation, &offsets("events", &[(2, 0)])).await;
    assert_eq!(early, Err(CommitError::Fenced), "partition 2 was assigned later");
    drop((member, log));
    b.restart().await;
    let topic = describe(&*b.log(), "events").await;
    assert_eq!((topic.id, topic.partitions.len(), topic.partitions[0].end), (id, 3, 1));
}

pub(super) async fn retention_takes_the_oldest_but_nothing_a_required_group_still_needs<B: Backend>(
    mut b: B,
) {
    let required = TopicSpec {
        retention: Retention { age_max: Some(Duration::from_secs(60)), bytes_max: None },
        required_groups: vec!["readers".into()],
        ..spec("events", 1)
    };
    make(&*b.log(), &[required]).await;
    b.clock().set(Timestamp::from_millis(1_000_000));
    for i in 0..10 {
        produce(&*b.log(), "events", vec![record("k", &i.to_string(), 1_000_000 + i)]).await;
    }
    b.clock().advance(Duration::from_secs(3600));
    b.enforce_retention().await;
    let kept = describe(&*b.log(), "events").await.partitions[0];
    assert_eq!(kept, PartitionOffsets { log_start: 0, end: 10 }, "nobody has committed anything");

    let mut member = b.log().join(group("readers", "events")).await.unwrap();
    let (generation, _) = assigned(&mut member).await;
    member.committer().commit(generation, &offsets("events", &[(0, 10)])).await.unwrap();
    b.clock().set(Timestamp::from_millis(0));
    b.enforce_retention().await;
    assert_eq!(
        describe(&*b.log(), "events").await.partitions[0],
        kept,
        "a clock that jumps back deletes nothing"
    );

    b.clock().set(Timestamp::from_millis(9_000_000));
    produce(&*b.log(), "events", vec![record("k", "young", 9_000_000)]).await;
    b.enforce_retention().await;
    let topic = describe(&*b.log(), "events").await;
    assert_eq!(topic.partitions[0], PartitionOffsets { log_start: 10, end: 11 });
    let early = fetch_one(&*b.log(), from(&topic, 0, 4)).await.unwrap_err();
    assert_eq!(early, FetchError::OffsetOutOfRange(topic.partitions[0]));

    member.committer().commit(generation, &offsets("events", &[(0, 11)])).await.unwrap();
    drop(member);
    b.clock().advance(Duration::from_secs(3600));
    b.enforce_retention().await;
    b.restart().await;
    let empty = describe(&*b.log(), "events").await.partitions[0];
    assert_eq!(
        empty,
        PartitionOffsets { log_start: 11, end: 11 },
        "an empty log keeps its end over a restart"
    );
    assert_eq!(produce(&*b.log(), "events", vec![record("k", "next", 9_000_000)]).await[0].offset, 11);
}

pub(super) async fn offsets_are_found_by_time_though_the_clock_jumped_back<B: Backend>(b: B) {
    let log = b.log();
    make(&*log, &[spec("events", 1)]).await;
    for at in [1000, 2000, 1500, 3000] {
        produce(&*log, "events", vec![record("k", "v", at)]).await;
    }
    let at = async |millis| log.offsets_at("events", Timestamp::from_millis(millis)).await.unwrap();
    assert_eq!(at(0).await, [0]);
    assert_eq!(at(1001).await, [1]);
    assert_eq!(at(2001).await, [3]);
    assert_eq!(at(3001).await, [4], "the end where there is none");
}

pub(super) async fn a_topic_tells_how_it_is_kept<B: Backend>(b: B) {
    let log = b.log();
    let retention = Retention { age_max: Some(Duration::from_secs(3600)), bytes_max: Some(1 << 30) };
    let kept = TopicSpec { retention, record_bytes_max: 4096, ..spec("events", 1) };
    make(&*log, &[kept, spec("other", 1)]).await;
    let names = ["events".into(), "absent".into(), "other".into()];
    let told = log.topic_settings(&names).await.unwrap();
    let told = |name: &str| told.iter().find(|one| &*one.name == name);
    let events = told("events").expect("settings");
    assert_eq!((events.retention, events.record_bytes_max, events.compacted), (retention, 4096, false));
    assert_eq!(told("other").expect("settings").retention, Retention::default(), "no bound");
    assert!(told("absent").is_none());
}

pub(super) async fn a_closed_log_says_so<B: Backend>(b: B) {
    let log = b.log();
    make(&*log, &[spec("events", 1)]).await;
    let topic = describe(&*log, "events").await;
    let mut member = log.join(group("readers", "events")).await.unwrap();
    assigned(&mut member).await;
    let fetch = [from(&topic, 0, 0)];
    let (event, found, ()) = tokio::join!(member.next(), log.fetch(&fetch, limits(LONG)), log.close());
    assert!(matches!(event, Err(LogError::Unavailable(_))), "{event:?}");
    assert!(matches!(found, Err(LogError::Unavailable(_))), "{found:?}");
    let answers = log.produce("events", vec![record("k", "v", 1)]).await;
    assert!(matches!(answers[..], [Err(LogError::Unavailable(_))]), "{answers:?}");
    assert!(matches!(log.probe().await, Err(LogError::Unavailable(_))));
}

/// Every case as a test of its own, over `$open`, an expression that makes a fresh [`Backend`].
macro_rules! conformance_suite {
    ($open:expr) => {
        $crate::eventlog::conformance::conformance_suite!($open;
            records_come_back_as_written_and_offsets_go_on_over_a_restart
            a_fetch_starts_inside_a_batch_and_keeps_to_its_limits
            positions_outside_of_the_log_are_named
            an_idle_fetch_answers_empty_after_its_wait
            a_waiting_fetch_wakes_at_once_when_a_record_comes
            a_record_too_large_is_refused_alone
            concurrent_produces_keep_one_order_and_lose_nothing
            commits_are_kept_and_are_all_or_none
            the_newest_member_owns_and_the_older_is_fenced
            a_topic_made_again_is_another_topic
            a_missing_topic_is_named_until_it_is_made
            a_grown_topic_gives_its_new_partitions_and_keeps_commits_in_flight
            retention_takes_the_oldest_but_nothing_a_required_group_still_needs
            offsets_are_found_by_time_though_the_clock_jumped_back
            a_topic_tells_how_it_is_kept
            a_closed_log_says_so
        );
    };
    ($open:expr; $($case:ident)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            $crate::eventlog::conformance::$case($open).await;
        })+
    };
}
pub(super) use conformance_suite;

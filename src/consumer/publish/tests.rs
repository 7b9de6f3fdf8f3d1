//! Handing events on, over the log in memory: nothing before it is stored, nothing lost while the topic is away.

use super::*;
use crate::config::Config;
use crate::consumer::tests::{Fixture, event, raw, topic};
use crate::eventlog::{
    Committer, Fault, Generation, GroupEvent, GroupMember, GroupSpec, MemoryLog, Operation,
};
use crate::lifecycle::{ComponentState, Tasks};

const PATIENCE: Duration = Duration::from_secs(20);

/// The store stage's place in its group, with the commits made by hand.
struct StoreGroup {
    _member: Box<dyn GroupMember>,
    committer: Arc<dyn Committer>,
    generation: Generation,
}

impl StoreGroup {
    async fn join(log: &MemoryLog) -> Self {
        let spec = GroupSpec {
            group: "event-consumers".into(),
            topics: vec!["events".into()],
            client_id: "test".into(),
            instance_id: None,
        };
        let mut member = log.join(spec).await.unwrap();
        loop {
            if let GroupEvent::Assigned { generation, .. } = member.next().await.unwrap() {
                let committer = member.committer();
                return Self { _member: member, committer, generation };
            }
        }
    }

    async fn commit(&self, offset: i64) {
        let offsets = BTreeMap::from([(TopicPartition::new("events", 0), offset)]);
        self.committer.commit(self.generation, &offsets).await.unwrap();
    }
}

fn start(fixture: &Fixture) -> (Tasks, tokio::task::JoinHandle<anyhow::Result<()>>) {
    let tasks = Tasks::new(Stop::default());
    let (deps, stop) = (fixture.deps(&tasks), tasks.stop().clone());
    let work = tasks.spawn_bounded(run(deps, stop));
    (tasks, work)
}

async fn published(log: &MemoryLog) -> i64 {
    let topics = log.topics().await.unwrap();
    let topic = topics.iter().find(|topic| &*topic.name == "events_post_processing");
    topic.map_or(-1, |topic| topic.partitions.iter().map(|offsets| offsets.end).sum())
}

async fn published_reaches(fixture: &Fixture, count: i64) {
    let deadline = Instant::now() + PATIENCE;
    while published(&fixture.log).await < count {
        let state = fixture.health.get("post_processing");
        assert!(Instant::now() < deadline, "{} of {count}: {state:?}", published(&fixture.log).await);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn an_event_is_handed_on_only_once_it_is_stored_and_a_refused_one_never() {
    let fixture = Fixture::with(&[]).await;
    fixture.log.create_topics(&[topic("events_post_processing")]).await.unwrap();
    let group = StoreGroup::join(&fixture.log).await;
    fixture.produce(vec![event("a", "click"), raw("{"), event("b", "click"), event("c", "click")]).await;
    group.commit(3).await;
    let (tasks, work) = start(&fixture);
    // The whole batch waits for its last record.
    let asked = fixture.log.calls(Operation::Describe);
    let deadline = Instant::now() + PATIENCE;
    while fixture.log.calls(Operation::Describe) < asked + 3 {
        assert!(Instant::now() < deadline);
        assert_eq!(published(&fixture.log).await, 0);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(published(&fixture.log).await, 0);
    group.commit(4).await;
    published_reaches(&fixture, 3).await;
    tasks.stop().soft();
    work.await.unwrap().unwrap();
    assert_eq!(published(&fixture.log).await, 3);
}

#[tokio::test]
async fn a_missing_topic_is_told_of_and_what_came_meanwhile_is_handed_on_once_it_is_there() {
    let fixture = Fixture::with(&[]).await;
    let group = StoreGroup::join(&fixture.log).await;
    fixture.produce(vec![event("a", "click"), event("b", "click")]).await;
    group.commit(2).await;
    let (tasks, work) = start(&fixture);
    let cure = "topic events_post_processing does not exist: `flexflow topics create` makes it";
    fixture.stage_is("post_processing", ComponentState::Down, cure).await;
    fixture.log.create_topics(&[topic("events_post_processing")]).await.unwrap();
    published_reaches(&fixture, 2).await;
    fixture.stage_is("post_processing", ComponentState::Up, "").await;
    fixture.produce(vec![event("c", "click")]).await;
    group.commit(3).await;
    published_reaches(&fixture, 3).await;
    tasks.stop().soft();
    work.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_record_over_the_topics_limit_is_left_out_and_holds_nothing_up() {
    let fixture = Fixture::with(&[]).await;
    let narrow = crate::eventlog::TopicSpec { record_bytes_max: 250, ..topic("events_post_processing") };
    fixture.log.create_topics(&[narrow]).await.unwrap();
    let group = StoreGroup::join(&fixture.log).await;
    fixture.produce(vec![event("a", "click"), event("b", &"x".repeat(200)), event("c", "click")]).await;
    group.commit(3).await;
    let (tasks, work) = start(&fixture);
    published_reaches(&fixture, 2).await;
    tasks.stop().soft();
    work.await.unwrap().unwrap();
    assert_eq!(published(&fixture.log).await, 2);
}

#[tokio::test]
async fn a_lost_answer_hands_the_batch_on_again_and_loses_nothing() {
    let fixture = Fixture::with(&[]).await;
    fixture.log.create_topics(&[topic("events_post_processing")]).await.unwrap();
    let group = StoreGroup::join(&fixture.log).await;
    fixture.produce(vec![event("a", "click"), event("b", "click")]).await;
    group.commit(2).await;
    fixture.log.script(Operation::Produce, [Fault::Refuse, Fault::LoseAnswer]);
    let (tasks, work) = start(&fixture);
    published_reaches(&fixture, 4).await;
    tasks.stop().soft();
    work.await.unwrap().unwrap();
    let committed =
        fixture.log.committed(&Config::from_overrides(&[]).unwrap().post_processing.publish_group_id).await;
    assert_eq!(committed.unwrap()[&TopicPartition::new("events", 0)], 2);
}

#[tokio::test]
async fn while_storing_is_behind_a_full_batch_gives_way_and_goes_on_all_the_same() {
    let full = MANY_ROWS.to_string();
    let fixture = Fixture::with(&[("consumer.batch_rows_max", &full)]).await;
    fixture.log.create_topics(&[topic("events_post_processing")]).await.unwrap();
    let group = StoreGroup::join(&fixture.log).await;
    let (first, all) = (MANY_ROWS as i64, 2 * MANY_ROWS as i64 + 1);
    fixture.produce((0..all).map(|n| event(&format!("e{n}"), "click")).collect()).await;
    group.commit(first).await;
    let began = Instant::now();
    let (tasks, work) = start(&fixture);
    published_reaches(&fixture, first).await;
    assert!(began.elapsed() >= GIVE_WAY, "it did not wait");
    group.commit(all).await;
    published_reaches(&fixture, all).await;
    tasks.stop().soft();
    work.await.unwrap().unwrap();
    assert_eq!(published(&fixture.log).await, all);
}

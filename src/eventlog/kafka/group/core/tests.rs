//! One membership against scripted answers: every error code at every request, and the order of what others see.

use kafka_protocol::error::ResponseError as Code;
use uuid::Uuid;

use super::*;

const SESSION: Duration = Duration::from_secs(10);

struct Bench {
    core: Core,
    now: Duration,
}

fn settings() -> Settings {
    Settings {
        whose: Whose::for_test(),
        session_timeout: SESSION,
        heartbeat_interval: Duration::from_secs(1),
        retry: Duration::from_millis(100),
    }
}

fn p(number: i32) -> TopicPartition {
    TopicPartition::new("events", number)
}

fn topics(id: u128, partitions: i32) -> Topics {
    Topics::from([("events".into(), Some(Topic { id: TopicId(Uuid::from_u128(id)), partitions }))])
}

fn none() -> Topics {
    Topics::from([("events".into(), None)])
}

fn code(code: Code) -> Failure {
    Failure::Code(code)
}

fn place(generation: i32) -> Place {
    let member_id = "me".to_owned();
    Place { member_id, generation, leads: false, skip_assignment: false, members: Vec::new() }
}

fn claims(effects: &[Effect]) -> Option<Vec<i32>> {
    effects.iter().find_map(|effect| match effect {
        Effect::Join { subscription, .. } => Some(subscription.owned.iter().map(|p| p.partition).collect()),
        _ => None,
    })
}

fn told(effects: &[Effect]) -> Vec<GroupEvent> {
    let event = |effect: &Effect| match effect {
        Effect::Tell(event) => Some(event.clone()),
        _ => None,
    };
    effects.iter().filter_map(event).collect()
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self { core: Core::new(settings(), Duration::ZERO), now: Duration::ZERO };
        assert_eq!(claims(&bench.input(Input::Tick)), Some(vec![]));
        bench
    }

    fn input(&mut self, input: Input) -> Vec<Effect> {
        self.core.handle(self.now, input)
    }

    /// Lets time pass to the next deadline.
    fn wait(&mut self) -> Vec<Effect> {
        self.now = self.now.max(self.core.deadline().expect("something to wait for"));
        self.input(Input::Tick)
    }

    /// An answer to JoinGroup and SyncGroup: these partitions.
    fn assign(&mut self, generation: i32, partitions: &[i32]) -> Vec<Effect> {
        let effects = self.input(Input::Joined(Ok(place(generation))));
        assert!(matches!(effects[..], [Effect::Sync { .. }]), "{effects:?}");
        self.input(Input::Synced(Ok(partitions.iter().map(|n| p(*n)).collect())))
    }

    /// The answer to the lookup among these effects: nothing was ever committed.
    fn found(&mut self, effects: &[Effect], topics: Topics) -> Vec<Effect> {
        let lookup = effects.iter().find_map(|effect| match effect {
            Effect::LookUp { lookup, .. } => Some(*lookup),
            _ => None,
        });
        let lookup = lookup.unwrap_or_else(|| panic!("a lookup among {effects:?}"));
        self.input(Input::LookedUp { lookup, found: Ok((topics, BTreeMap::new())) })
    }

    /// A member with these partitions in its caller's hands.
    fn member(partitions: &[i32]) -> Self {
        let mut bench = Self::new();
        let effects = bench.assign(1, partitions);
        let effects = bench.found(&effects, topics(1, 4));
        assert!(matches!(told(&effects)[..], [GroupEvent::Assigned { .. }]), "{effects:?}");
        bench
    }

    fn committable(&self) -> Vec<i32> {
        self.core.committable().keys().map(|partition| partition.partition).collect()
    }
}

#[test]
fn a_member_joins_under_the_name_it_is_given_and_begins_where_the_group_stood() {
    let mut bench = Bench::new();
    let effects = bench.input(Input::Named("me".to_owned()));
    assert!(matches!(&effects[..], [Effect::Join { member_id, .. }] if member_id == "me"));
    let effects = bench.assign(5, &[0, 1, 2]);
    assert_eq!(bench.committable(), Vec::<i32>::new(), "nothing before it is known where to begin");
    let Effect::LookUp { lookup, partitions } = &effects[0] else { panic!("{effects:?}") };
    assert_eq!(*partitions, [p(0), p(1), p(2)]);
    let id = TopicId(Uuid::from_u128(1));
    let committed = BTreeMap::from([
        (p(0), Committed { offset: 7, topic_id: Some(id) }),
        (p(1), Committed { offset: 8, topic_id: Some(TopicId(Uuid::from_u128(9))) }),
        (p(2), Committed { offset: 9, topic_id: None }),
    ]);
    let found = Ok((topics(1, 3), committed));
    let effects = bench.input(Input::LookedUp { lookup: *lookup, found });
    let [GroupEvent::Assigned { generation, partitions }] = &told(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(*generation, Generation(5));
    let begins: Vec<_> = partitions.iter().map(|partition| partition.committed).collect();
    assert_eq!(
        begins,
        [Some(7), None, Some(9)],
        "another incarnation's offset is none; a tool's has no name"
    );
    assert_eq!(bench.committable(), [0, 1, 2]);
}

#[test]
fn a_rebalance_that_moves_nothing_is_not_heard_of() {
    let mut bench = Bench::member(&[0, 1]);
    assert!(matches!(bench.wait()[..], [Effect::Beat { generation: 1, .. }]));
    let effects = bench.input(Input::Beaten(Err(code(Code::RebalanceInProgress))));
    assert_eq!(claims(&effects), Some(vec![0, 1]), "what is held is claimed");
    assert_eq!(bench.committable(), [0, 1], "commits go on");
    let effects = bench.assign(2, &[0, 1]);
    assert_eq!(effects, []);
    assert_eq!((bench.core.generation(), bench.committable()), (2, vec![0, 1]));
}

#[test]
fn a_partition_is_given_up_only_after_its_release_and_then_claimed_no_more() {
    let mut bench = Bench::member(&[0, 1, 2]);
    bench.wait();
    bench.input(Input::Beaten(Err(code(Code::RebalanceInProgress))));
    let effects = bench.assign(2, &[0]);
    assert_eq!(told(&effects), [GroupEvent::Revoking { partitions: vec![p(1), p(2)] }]);
    assert_eq!(claims(&effects), None);
    assert_eq!(bench.committable(), [0, 1, 2], "the batch in flight may still be committed");
    assert_eq!(claims(&bench.input(Input::Released(vec![p(1)]))), None, "one is still in flight");
    assert_eq!(bench.committable(), [0, 2]);
    assert_eq!(claims(&bench.input(Input::Released(vec![p(2)]))), Some(vec![0]));
    assert_eq!(bench.assign(3, &[0]), []);
}

#[test]
fn what_is_released_while_joining_is_told_by_another_join() {
    let mut bench = Bench::member(&[0, 1]);
    bench.wait();
    bench.input(Input::Beaten(Err(code(Code::RebalanceInProgress))));
    bench.assign(2, &[0]);
    bench.wait();
    let effects = bench.input(Input::Beaten(Err(code(Code::RebalanceInProgress))));
    assert_eq!(claims(&effects), Some(vec![0, 1]), "not released yet: still claimed");
    assert_eq!(claims(&bench.input(Input::Released(vec![p(1)]))), None, "one request at a time");
    assert_eq!(claims(&bench.assign(3, &[0])), Some(vec![0]), "others wait for it");
}

#[test]
fn a_partition_that_comes_back_before_it_is_released_is_handed_out_anew() {
    let mut bench = Bench::member(&[0, 1]);
    bench.wait();
    bench.input(Input::Beaten(Err(code(Code::RebalanceInProgress))));
    bench.assign(2, &[0]);
    bench.wait();
    bench.input(Input::Beaten(Err(code(Code::RebalanceInProgress))));
    assert_eq!(bench.assign(3, &[0, 1]), [], "the caller is about to release it");
    let effects = bench.input(Input::Released(vec![p(1)]));
    assert_eq!(claims(&effects), None);
    let effects = bench.found(&effects, topics(1, 4));
    let [GroupEvent::Assigned { generation, partitions }] = &told(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((*generation, &partitions[0].topic_partition), (Generation(3), &p(1)));
}

#[test]
fn another_coordinator_changes_nothing() {
    let mut bench = Bench::member(&[0]);
    for failure in [
        code(Code::NotCoordinator),
        code(Code::CoordinatorNotAvailable),
        code(Code::CoordinatorLoadInProgress),
        Failure::Lost("it closed the connection".to_owned()),
    ] {
        bench.wait();
        let asks = failure != code(Code::CoordinatorLoadInProgress);
        let effects = bench.input(Input::Beaten(Err(failure)));
        assert_eq!(effects.contains(&Effect::FindCoordinator), asks, "{effects:?}");
        assert_eq!(told(&effects), []);
        assert_eq!(bench.committable(), [0]);
    }
    let effects = bench.wait();
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Beat { generation: 1, .. })), "{effects:?}");
    assert_eq!(bench.input(Input::Beaten(Ok(()))), []);
}

#[test]
fn long_silence_loses_everything_and_ends_with_the_reason() {
    let mut bench = Bench::member(&[0, 1]);
    let lost = GroupEvent::Lost { partitions: vec![p(0), p(1)] };
    let mut effects = Vec::new();
    while told(&effects).is_empty() {
        effects = bench.wait();
        if effects.iter().any(|effect| matches!(effect, Effect::Beat { .. })) {
            effects = bench.input(Input::Beaten(Err(Failure::Lost("refused".to_owned()))));
        }
    }
    assert_eq!(told(&effects), [lost]);
    assert_eq!(effects.last(), Some(&Effect::End(LogError::Unavailable("refused".to_owned()))));
    assert_eq!(bench.now, SESSION * SILENCE_SESSIONS);
    assert_eq!(bench.committable(), Vec::<i32>::new());
    assert_eq!(bench.input(Input::Tick), [], "it is over");
}

#[test]
fn a_member_that_was_put_out_loses_everything_and_comes_back_as_a_new_one() {
    for refusal in [Code::UnknownMemberId, Code::IllegalGeneration] {
        let mut bench = Bench::member(&[0]);
        bench.wait();
        let effects = bench.input(Input::Beaten(Err(code(refusal))));
        assert_eq!(told(&effects), [GroupEvent::Lost { partitions: vec![p(0)] }]);
        assert_eq!(bench.committable(), Vec::<i32>::new());
        let effects = bench.wait();
        assert_eq!(claims(&effects), Some(vec![]));
        let Effect::Join { member_id, .. } = &effects[0] else { panic!("{effects:?}") };
        assert_eq!(member_id.is_empty(), refusal == Code::UnknownMemberId);
    }
}

#[test]
fn a_refused_commit_has_the_coordinator_asked_at_once() {
    let mut bench = Bench::member(&[0]);
    let refused = |generation| Input::CommitRefused { generation, failure: code(Code::UnknownMemberId) };
    assert_eq!(bench.input(refused(0)), [], "an older generation's refusal is no news");
    assert!(matches!(bench.input(refused(1))[..], [Effect::Beat { .. }]));
    let failure = code(Code::FencedInstanceId);
    let effects = bench.input(Input::CommitRefused { generation: 1, failure });
    assert!(matches!(effects[..], [Effect::Fenced, Effect::Tell(_), Effect::End(LogError::Forbidden(_))]));
}

/// What a request is answered with, as an input.
fn failing(effect: &Effect, failure: &Failure) -> Option<Input> {
    Some(match effect {
        Effect::Join { .. } => Input::Joined(Err(failure.clone())),
        Effect::Sync { .. } => Input::Synced(Err(failure.clone())),
        Effect::Beat { .. } => Input::Beaten(Err(failure.clone())),
        Effect::LookUp { lookup, .. } => Input::LookedUp { lookup: *lookup, found: Err(failure.clone()) },
        _ => return None,
    })
}

/// Answers every request well, until something was assigned.
fn heal(bench: &mut Bench, mut effects: Vec<Effect>) {
    for generation in 10..40 {
        for effect in std::mem::take(&mut effects) {
            effects.extend(match effect {
                Effect::Join { .. } => bench.input(Input::Joined(Ok(place(generation)))),
                Effect::Sync { .. } => bench.input(Input::Synced(Ok(vec![p(0)]))),
                Effect::Beat { .. } => bench.input(Input::Beaten(Ok(()))),
                Effect::LookUp { lookup, .. } => {
                    let found = Ok((topics(1, 4), BTreeMap::new()));
                    bench.input(Input::LookedUp { lookup, found })
                }
                _ => Vec::new(),
            });
        }
        if effects.is_empty() {
            if bench.committable() == [0] && matches!(bench.core.phase, Phase::Stable(Some(_))) {
                return;
            }
            effects = bench.wait();
        }
    }
    panic!("it does not heal: {:?}", bench.core.phase);
}

#[test]
fn every_error_code_at_every_request_heals_or_ends_with_a_cure() {
    let failures: Vec<Failure> = (-2..=135)
        .filter_map(Code::try_from_code)
        .map(Failure::Code)
        .chain([Failure::Lost("cut".to_owned()), Failure::Denied("wrong password".to_owned())])
        .collect();
    for failure in &failures {
        for request in ["join", "sync", "beat", "look up"] {
            let mut bench = Bench::new();
            let mut effects =
                vec![Effect::Join { member_id: String::new(), subscription: Subscription::default() }];
            if request != "join" {
                effects = bench.input(Input::Joined(Ok(place(1))));
            }
            if matches!(request, "beat" | "look up") {
                effects = bench.input(Input::Synced(Ok(vec![p(0)])));
            }
            if request == "beat" {
                bench.found(&effects, topics(1, 4));
                effects = bench.wait();
            }
            let input = effects.iter().find_map(|effect| failing(effect, failure)).expect("a request");
            let effects = bench.input(input);
            let end = effects.iter().find_map(|effect| match effect {
                Effect::End(error) => Some(error),
                _ => None,
            });
            match end {
                Some(LogError::Forbidden(reason)) => assert!(!reason.is_empty()),
                Some(other) => panic!("{failure:?} at {request} ends it with {other:?}"),
                None => heal(&mut bench, effects),
            }
        }
    }
}

#[test]
fn a_topic_made_again_is_lost_missing_back_and_begun_anew() {
    let mut bench = Bench::member(&[0, 1]);
    let effects = bench.input(Input::Topics(topics(2, 4)));
    let events = told(&effects);
    let topic: Arc<str> = "events".into();
    let lost = GroupEvent::Lost { partitions: vec![p(0), p(1)] };
    let missing = GroupEvent::TopicMissing { topic: topic.clone() };
    assert_eq!(events, [lost.clone(), missing.clone(), GroupEvent::TopicBack { topic: topic.clone() }]);
    let effects = bench.found(&effects, topics(2, 4));
    let [GroupEvent::Assigned { partitions, .. }] = &told(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(partitions[0].topic_id, TopicId(Uuid::from_u128(2)));
    assert_eq!(told(&bench.input(Input::Topics(none()))), [lost, missing]);
    assert_eq!(bench.input(Input::Topics(none())), [], "said once");
    let effects = bench.input(Input::Topics(topics(3, 4)));
    assert_eq!(told(&effects), [GroupEvent::TopicBack { topic }]);
    bench.found(&effects, topics(3, 4));
    assert_eq!(bench.committable(), [0, 1]);
}

#[test]
fn a_topic_that_is_not_there_at_first_is_named() {
    let mut bench = Bench::new();
    let missing = GroupEvent::TopicMissing { topic: "events".into() };
    assert_eq!(told(&bench.input(Input::Topics(none()))), [missing]);
    bench.assign(1, &[]);
    assert_eq!(
        told(&bench.input(Input::Topics(topics(1, 1)))),
        [GroupEvent::TopicBack { topic: "events".into() }]
    );
}

fn leading(skip_assignment: bool, owned: &[i32]) -> Place {
    let subscription = Subscription {
        topics: vec!["events".into()],
        owned: owned.iter().map(|n| p(*n)).collect(),
        generation: 1,
    };
    let members = vec![("me".to_owned(), None, subscription.write())];
    Place { leads: true, skip_assignment, members, ..place(2) }
}

#[test]
fn a_leader_that_may_not_see_the_topics_ends_with_the_command_that_lets_it() {
    let mut bench = Bench::new();
    bench.input(Input::Joined(Ok(leading(false, &[]))));
    assert_eq!(bench.input(Input::TopicsUnknown(Failure::Lost("cut".to_owned()))), [], "asked again");
    let effects = bench.input(Input::TopicsUnknown(Failure::Code(Code::TopicAuthorizationFailed)));
    let Some(Effect::End(LogError::Forbidden(reason))) = effects.last() else { panic!("{effects:?}") };
    let allow = "--allow-principal User:ada --operation Describe --operation Read --topic events`";
    assert!(reason.contains(allow), "{reason}");
}

#[test]
fn a_leader_shares_out_the_topics_as_they_stand_and_again_when_they_grow() {
    let mut bench = Bench::new();
    let effects = bench.input(Input::Joined(Ok(leading(false, &[]))));
    assert_eq!(effects, [Effect::AskTopics(vec!["events".into()])]);
    let effects = bench.input(Input::Topics(topics(1, 2)));
    let Effect::Sync { assignment, .. } = &effects[0] else { panic!("{effects:?}") };
    assert_eq!(assignment["me"], [p(0), p(1)]);
    let effects = bench.input(Input::Synced(Ok(vec![p(0), p(1)])));
    bench.found(&effects, topics(1, 2));
    assert_eq!(bench.input(Input::Topics(topics(1, 2))), []);
    assert_eq!(claims(&bench.input(Input::Topics(topics(1, 3)))), Some(vec![0, 1]));
}

#[test]
fn a_leader_that_came_back_keeps_the_assignment_unless_it_misses_something() {
    for (partitions, again) in [(2, false), (3, true)] {
        let mut bench = Bench::new();
        let effects = bench.input(Input::Joined(Ok(leading(true, &[0]))));
        let Effect::Sync { assignment, .. } = &effects[0] else { panic!("{effects:?}") };
        assert!(assignment.is_empty());
        let effects = bench.input(Input::Synced(Ok(vec![p(1)])));
        bench.found(&effects, topics(1, 2));
        let effects = bench.input(Input::Topics(topics(1, partitions)));
        assert_eq!(claims(&effects).is_some(), again, "{effects:?}");
    }
}

#[test]
fn a_late_answer_to_an_older_lookup_is_not_taken() {
    let mut bench = Bench::new();
    let old = bench.assign(1, &[0]);
    bench.wait();
    bench.input(Input::Beaten(Err(code(Code::RebalanceInProgress))));
    let new = bench.assign(2, &[0]);
    assert_eq!(told(&bench.found(&old, topics(1, 4))), []);
    assert_eq!(told(&bench.found(&new, topics(1, 4))).len(), 1);
}

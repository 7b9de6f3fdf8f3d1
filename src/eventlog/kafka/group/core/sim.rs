//! Many memberships against a model of the coordinator: members come, crash and leave, requests are answered in any order
//! or fail with any error, coordinators forget. Never do two members that the coordinator believes in hold the same
//! partition, and once it is quiet every partition is held.
//!
//! A failing seed is printed; `FLEXFLOW_SIM_SEEDS` sets how many are run.

use kafka_protocol::error::ResponseError as Code;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use super::*;

const SESSION: Duration = Duration::from_secs(10);
const PARTITIONS: i32 = 12;

/// A member as the coordinator knows it.
struct Known {
    heard: Duration,
    subscription: Option<Bytes>,
    assignment: Option<Vec<TopicPartition>>,
}

/// A coordinator of the classic protocol.
#[derive(Default)]
struct Coordinator {
    generation: i32,
    /// While true, members are joining.
    preparing: bool,
    /// The leader has handed in the assignment of this generation.
    synced: bool,
    leader: String,
    members: BTreeMap<String, Known>,
    names: u32,
}

/// A process with a membership, and its requests under way.
struct Process {
    core: Core,
    requests: Vec<Effect>,
    /// What its caller was asked to give up and has not.
    revoking: Vec<TopicPartition>,
    ended: bool,
}

struct World {
    rng: StdRng,
    now: Duration,
    coordinator: Coordinator,
    processes: Vec<Process>,
    partitions: i32,
    incarnation: u128,
    /// Nothing fails any more.
    quiet: bool,
}

impl Coordinator {
    fn rebalance(&mut self) {
        self.preparing = true;
        for member in self.members.values_mut() {
            member.subscription = None;
        }
    }

    fn complete(&mut self) {
        let joined = |member: &Known| member.subscription.is_some();
        if self.preparing && !self.members.is_empty() && self.members.values().all(joined) {
            self.preparing = false;
            self.synced = false;
            self.generation += 1;
            if !self.members.contains_key(&self.leader) {
                self.leader = self.members.keys().next().cloned().unwrap_or_default();
            }
            for member in self.members.values_mut() {
                member.assignment = None;
            }
        }
    }

    fn expire(&mut self, now: Duration) {
        let before = self.members.len();
        self.members.retain(|_, member| now < member.heard + SESSION);
        if self.members.len() < before {
            if !self.preparing {
                self.rebalance();
            }
            self.complete();
        }
    }

    fn check(&mut self, member_id: &str, generation: i32, now: Duration) -> Result<(), Failure> {
        let Some(member) = self.members.get_mut(member_id) else {
            return Err(Failure::Code(Code::UnknownMemberId));
        };
        if generation != self.generation {
            return Err(Failure::Code(Code::IllegalGeneration));
        }
        member.heard = now;
        if self.preparing { Err(Failure::Code(Code::RebalanceInProgress)) } else { Ok(()) }
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            now: Duration::ZERO,
            coordinator: Coordinator::default(),
            processes: Vec::new(),
            partitions: PARTITIONS,
            incarnation: 1,
            quiet: false,
        };
        world.start();
        world
    }

    fn start(&mut self) {
        let settings = Settings {
            whose: Whose::for_test(),
            session_timeout: SESSION,
            heartbeat_interval: Duration::from_secs(1),
            retry: Duration::from_millis(100),
        };
        let core = Core::new(settings, self.now);
        self.processes.push(Process { core, requests: Vec::new(), revoking: Vec::new(), ended: false });
        self.input(self.processes.len() - 1, Input::Tick);
    }

    fn topics(&self) -> Topics {
        let topic = Topic { id: TopicId(Uuid::from_u128(self.incarnation)), partitions: self.partitions };
        Topics::from([("events".into(), (self.partitions > 0).then_some(topic))])
    }

    fn input(&mut self, number: usize, input: Input) {
        let process = &mut self.processes[number];
        for effect in process.core.handle(self.now, input) {
            match effect {
                Effect::Tell(GroupEvent::Revoking { partitions }) => process.revoking.extend(partitions),
                Effect::Tell(GroupEvent::Lost { partitions }) => {
                    process.revoking.retain(|partition| !partitions.contains(partition));
                }
                Effect::Tell(_) | Effect::FindCoordinator | Effect::Fenced => {}
                Effect::End(_) => process.ended = true,
                request => process.requests.push(request),
            }
        }
        self.check();
    }

    /// No two members of the present generation hold the same partition of the same incarnation.
    fn check(&self) {
        let mut owners: BTreeMap<(TopicPartition, TopicId), usize> = BTreeMap::new();
        for (number, process) in self.processes.iter().enumerate() {
            let core = &process.core;
            let believed = self.coordinator.members.contains_key(core.member_id())
                && core.generation() == self.coordinator.generation;
            for (partition, (topic_id, _)) in core.committable() {
                if believed && let Some(other) = owners.insert((partition.clone(), topic_id), number) {
                    panic!("{partition} is held by {other} and {number}");
                }
            }
        }
    }

    /// Answers a request if the coordinator can; `false`: it has to wait for others.
    fn answer(&mut self, number: usize, request: &Effect) -> bool {
        let failure = (!self.quiet && self.rng.random_bool(0.08)).then(|| self.any_failure());
        let input = match request {
            Effect::Join { member_id, subscription } => {
                if let Some(failure) = failure {
                    return self.give(number, Input::Joined(Err(failure)));
                }
                return self.join(number, member_id, subscription);
            }
            Effect::Sync { member_id, generation, assignment } => {
                if let Some(failure) = failure {
                    return self.give(number, Input::Synced(Err(failure)));
                }
                if let Err(failure) = self.coordinator.check(member_id, *generation, self.now) {
                    return self.give(number, Input::Synced(Err(failure)));
                }
                if *member_id == self.coordinator.leader && !self.coordinator.synced {
                    self.coordinator.synced = true;
                    for (member, partitions) in assignment {
                        if let Some(known) = self.coordinator.members.get_mut(member) {
                            known.assignment = Some(partitions.clone());
                        }
                    }
                }
                if !self.coordinator.synced {
                    return false;
                }
                let given = self.coordinator.members[member_id].assignment.clone().unwrap_or_default();
                Input::Synced(Ok(given))
            }
            Effect::Beat { member_id, generation } => Input::Beaten(match failure {
                Some(failure) => Err(failure),
                None => self.coordinator.check(member_id, *generation, self.now),
            }),
            Effect::AskTopics(_) => Input::Topics(self.topics()),
            Effect::LookUp { lookup, .. } => Input::LookedUp {
                lookup: *lookup,
                found: failure.map_or_else(|| Ok((self.topics(), BTreeMap::new())), Err),
            },
            other => panic!("no request: {other:?}"),
        };
        self.give(number, input)
    }

    fn give(&mut self, number: usize, input: Input) -> bool {
        self.input(number, input);
        true
    }

    fn join(&mut self, number: usize, member_id: &str, subscription: &Subscription) -> bool {
        let coordinator = &mut self.coordinator;
        if member_id.is_empty() {
            coordinator.names += 1;
            let name = format!("m{}", coordinator.names);
            let known = Known { heard: self.now, subscription: None, assignment: None };
            coordinator.members.insert(name.clone(), known);
            coordinator.rebalance();
            return self.give(number, Input::Named(name));
        }
        let Some(known) = coordinator.members.get_mut(member_id) else {
            return self.give(number, Input::Joined(Err(Failure::Code(Code::UnknownMemberId))));
        };
        known.heard = self.now;
        if !coordinator.preparing {
            coordinator.rebalance();
        }
        if let Some(known) = coordinator.members.get_mut(member_id) {
            known.subscription = Some(subscription.write());
        }
        // The answer goes out once the join is complete; its request stays where it is until then.
        coordinator.complete();
        false
    }

    /// Members that wait for a join that is complete get their answers.
    fn joined(&mut self) {
        for number in 0..self.processes.len() {
            let Some(at) =
                self.processes[number].requests.iter().position(|r| matches!(r, Effect::Join { .. }))
            else {
                continue;
            };
            let Effect::Join { member_id, .. } = self.processes[number].requests[at].clone() else {
                continue;
            };
            let coordinator = &self.coordinator;
            let waiting =
                coordinator.members.get(&member_id).is_some_and(|known| known.subscription.is_some());
            if coordinator.preparing || !waiting || coordinator.synced {
                continue;
            }
            let leads = coordinator.leader == member_id;
            let members = coordinator
                .members
                .iter()
                .filter(|_| leads)
                .filter_map(|(name, known)| Some((name.clone(), None, known.subscription.clone()?)));
            let place = Place {
                member_id: member_id.clone(),
                generation: coordinator.generation,
                leads,
                skip_assignment: false,
                members: members.collect(),
            };
            self.processes[number].requests.remove(at);
            self.input(number, Input::Joined(Ok(place)));
        }
    }

    fn any_failure(&mut self) -> Failure {
        let codes = [
            Code::NotCoordinator,
            Code::CoordinatorLoadInProgress,
            Code::CoordinatorNotAvailable,
            Code::RebalanceInProgress,
            Code::UnknownServerError,
        ];
        match self.rng.random_range(0..=codes.len()) {
            0 => Failure::Lost("cut".to_owned()),
            n => Failure::Code(codes[n - 1]),
        }
    }

    fn step(&mut self) {
        let number = self.rng.random_range(0..self.processes.len());
        match self.rng.random_range(0..100) {
            0..45 => {
                let open = self.processes[number].requests.len();
                if open > 0 {
                    let at = self.rng.random_range(0..open);
                    let request = self.processes[number].requests[at].clone();
                    let join = matches!(request, Effect::Join { .. });
                    if !join {
                        self.processes[number].requests.remove(at);
                        if !self.answer(number, &request) {
                            self.processes[number].requests.push(request);
                        }
                    } else if self.answer(number, &request) {
                        self.processes[number].requests.remove(at);
                    }
                }
            }
            45..60 => self.joined(),
            60..72 => {
                let revoking = &mut self.processes[number].revoking;
                if let Some(partition) = revoking.choose(&mut self.rng).cloned() {
                    revoking.retain(|other| *other != partition);
                    self.input(number, Input::Released(vec![partition]));
                }
            }
            72..90 => {
                self.now += Duration::from_millis(self.rng.random_range(1..400));
                self.coordinator.expire(self.now);
                for number in 0..self.processes.len() {
                    self.input(number, Input::Tick);
                }
            }
            90..94 => {
                let topics = self.topics();
                self.input(number, Input::Topics(topics));
            }
            94 if !self.quiet && self.processes.len() < 5 => self.start(),
            // A crash, which the coordinator notices by its silence.
            95 if !self.quiet && self.processes.len() > 1 => drop(self.processes.remove(number)),
            96 if !self.quiet => {
                let name = self.processes[number].core.member_id().to_owned();
                if self.coordinator.members.remove(&name).is_some() {
                    self.coordinator.rebalance();
                    self.coordinator.complete();
                }
            }
            97 if !self.quiet && self.rng.random_bool(0.3) => {
                self.partitions = PARTITIONS - self.partitions.min(1);
            }
            98 if !self.quiet && self.rng.random_bool(0.3) => self.incarnation += 1,
            _ => {}
        }
        self.processes.retain(|process| !process.ended);
        if self.processes.is_empty() {
            self.start();
        }
    }

    fn settled(&self) -> bool {
        let mut held: Vec<i32> = Vec::new();
        for process in &self.processes {
            held.extend(process.core.committable().keys().map(|partition| partition.partition));
        }
        held.sort_unstable();
        let loads: Vec<usize> = self.processes.iter().map(|p| p.core.committable().len()).collect();
        let fair = loads.iter().max().zip(loads.iter().min()).is_some_and(|(max, min)| max - min <= 1);
        fair && held == (0..self.partitions).collect::<Vec<_>>()
    }
}

#[test]
fn members_share_every_partition_and_none_is_held_twice() {
    let seeds = std::env::var("FLEXFLOW_SIM_SEEDS").map_or(300, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for _ in 0..1500 {
            world.step();
        }
        world.quiet = true;
        world.partitions = PARTITIONS;
        let quiet_since = world.now;
        while !world.settled() {
            world.step();
            let waited = world.now - quiet_since;
            assert!(waited < 8 * SESSION, "not settled {waited:?} after the last trouble");
        }
    }
}

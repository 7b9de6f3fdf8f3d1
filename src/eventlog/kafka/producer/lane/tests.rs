//! The lane against a broker of a model that keeps Kafka's rules, over a wire that loses, delays and repeats.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Records are numbers; each stands in the log at most once, or something is wrong.
#[derive(Clone, Debug)]
struct Numbers {
    records: Vec<u32>,
    written: Option<(ProducerId, i32)>,
}

impl Payload for Numbers {
    fn count(&self) -> i32 {
        i32::try_from(self.records.len()).unwrap()
    }

    fn number(&mut self, producer: ProducerId, base_sequence: i32) {
        self.written = Some((producer, base_sequence));
    }

    fn split(mut self) -> Result<(Self, Self), Self> {
        if self.records.len() == 1 {
            return Err(self);
        }
        let second = self.records.split_off(self.records.len() / 2);
        self.written = None;
        Ok((self, Self { records: second, written: None }))
    }
}

/// What a broker keeps of one producer id: the last five batches.
#[derive(Default)]
struct Memory {
    recent: VecDeque<(i32, i32, i64)>,
    next_sequence: i32,
}

#[derive(Default)]
struct Broker {
    log: Vec<u32>,
    memory: BTreeMap<i64, Memory>,
}

/// Batches of more records are too large.
const COUNT_MAX: usize = 3;
/// A record that the broker never takes.
const POISON: u32 = 13;

impl Broker {
    fn apply(&mut self, batch: &Numbers) -> Answer {
        let (producer, sequence) = batch.written.expect("numbered before it is sent");
        if batch.records.len() > COUNT_MAX {
            return Answer::TooLarge;
        }
        if batch.records.iter().any(|record| record % 50 == POISON) {
            return if batch.records.len() == 1 { Answer::Refused } else { Answer::TooLarge };
        }
        let known = self.memory.contains_key(&producer.id);
        let memory = self.memory.entry(producer.id).or_default();
        let same = |(base, count, _): &&(i32, i32, i64)| *base == sequence && *count == batch.count();
        if let Some((_, _, offset)) = memory.recent.iter().find(same) {
            return Answer::Stored(*offset);
        }
        // One that is not known may begin anywhere.
        if known && sequence != memory.next_sequence {
            return Answer::Gap;
        }
        let offset = i64::try_from(self.log.len()).unwrap();
        self.log.extend(&batch.records);
        memory.next_sequence = sequence_after(sequence, batch.count());
        memory.recent.push_back((sequence, batch.count(), offset));
        if memory.recent.len() > WINDOW {
            memory.recent.pop_front();
        }
        Answer::Stored(offset)
    }
}

struct World {
    lane: Lane<Numbers>,
    broker: Broker,
    /// On the present connection, in order.
    wire: VecDeque<(Ticket, Numbers)>,
    /// On connections that were given up; the broker may come to them yet.
    late: VecDeque<Numbers>,
    ended: Vec<(Vec<u32>, Outcome)>,
    producers: i64,
    records: u32,
}

impl World {
    fn new() -> Self {
        Self {
            lane: Lane::new(),
            broker: Broker::default(),
            wire: VecDeque::new(),
            late: VecDeque::new(),
            ended: Vec::new(),
            producers: 0,
            records: 0,
        }
    }

    fn hear(&mut self, ticket: Ticket, answer: Answer) {
        let ended = self.lane.answered(ticket, answer);
        self.ended.extend(ended.into_iter().map(|(batch, outcome)| (batch.records, outcome)));
    }

    fn identify(&mut self) {
        if self.lane.needs_producer() {
            self.producers += 1;
            self.lane.begin(ProducerId { id: self.producers, epoch: 0 });
        }
    }

    fn push(&mut self, count: u32) {
        if self.lane.has_room() {
            let records = (self.records..self.records + count).collect();
            self.records += count;
            self.lane.push(Numbers { records, written: None });
        }
    }

    fn send(&mut self) {
        if let Some((ticket, batch)) = self.lane.send_next() {
            self.wire.push_back((ticket, batch.clone()));
        }
    }

    fn deliver(&mut self, fault: u8) {
        let Some((ticket, batch)) = self.wire.pop_front() else { return };
        match fault {
            0 => self.hear(ticket, Answer::NotNow),
            1 => {
                self.broker.apply(&batch);
                self.hear(ticket, Answer::Unknown);
            }
            2 => self.hear(ticket, Answer::NoProducer),
            _ => {
                let answer = self.broker.apply(&batch);
                self.hear(ticket, answer);
            }
        }
    }

    /// The broker came to the first `reached` requests; the rest is late or lost for ever.
    fn cut(&mut self, reached: usize, late: bool) {
        let lost: Vec<_> = self.wire.drain(..).collect();
        for (at, (ticket, batch)) in lost.into_iter().enumerate() {
            if at < reached {
                self.broker.apply(&batch);
            } else if late {
                self.late.push_back(batch);
            }
            self.hear(ticket, Answer::Unknown);
        }
    }

    fn step(&mut self, kind: u8, detail: u8) {
        self.identify();
        match kind % 10 {
            0 | 1 => self.push(u32::from(detail % 5) + 1),
            2..=5 => self.send(),
            6 | 7 => self.deliver(detail % 12),
            8 => self.cut(usize::from(detail % 4), detail >= 128),
            _ => {
                if let Some(batch) = self.late.pop_front() {
                    self.broker.apply(&batch);
                }
            }
        }
    }

    /// Without further faults everything comes to an end.
    fn finish(&mut self) {
        for _ in 0..1000 {
            self.identify();
            self.send();
            self.deliver(9);
        }
        while let Some(batch) = self.late.pop_front() {
            self.broker.apply(&batch);
        }
        assert!(self.lane.is_empty() && self.wire.is_empty(), "something never ends");
    }

    fn check(&self) {
        let times = |record: u32| self.broker.log.iter().filter(|stored| **stored == record).count();
        let mut told = 0;
        for (records, outcome) in &self.ended {
            for (at, record) in records.iter().enumerate() {
                told += 1;
                match outcome {
                    Outcome::Stored(offset) => {
                        assert_eq!(times(*record), 1, "acknowledged record {record}");
                        if let Some(offset) = offset {
                            let place = usize::try_from(*offset).unwrap() + at;
                            assert_eq!(self.broker.log[place], *record, "told the wrong offset");
                        }
                    }
                    Outcome::Unknown => assert!(times(*record) <= 1, "doubled record {record}"),
                    _ => assert_eq!(times(*record), 0, "refused record {record} is there"),
                }
            }
        }
        assert_eq!(told, self.records, "every record is told of once");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 1500 } else { 50_000 }))]

    #[test]
    fn nothing_acknowledged_is_lost_and_nothing_is_doubled(
        steps in proptest::collection::vec((any::<u8>(), any::<u8>()), 1..200),
    ) {
        let mut world = World::new();
        for (kind, detail) in steps {
            world.step(kind, detail);
        }
        world.finish();
        world.check();
    }
}

fn ready() -> World {
    let mut world = World::new();
    world.identify();
    world
}

#[test]
fn the_first_batch_goes_alone_and_then_five_are_on_their_way() {
    let mut world = ready();
    for _ in 0..3 {
        world.push(1);
        world.send();
    }
    assert_eq!(world.wire.len(), 1, "the broker may not know this producer yet");
    world.deliver(9);
    for _ in 0..9 {
        world.send();
        world.push(1);
        world.send();
    }
    assert_eq!(world.wire.len(), WINDOW);
    world.finish();
    world.check();
}

#[test]
fn after_a_lost_answer_the_same_bytes_go_again_in_order_and_stand_once() {
    let mut world = ready();
    world.push(1);
    world.send();
    world.deliver(9);
    for _ in 0..3 {
        world.push(2);
        world.send();
    }
    let first: Vec<_> = world.wire.iter().map(|(_, batch)| batch.written).collect();
    world.cut(2, false);
    assert!(!world.lane.has_room(), "nothing new before the old is settled");
    for _ in 0..3 {
        world.send();
    }
    let again: Vec<_> = world.wire.iter().map(|(_, batch)| batch.written).collect();
    assert_eq!(again, first);
    world.finish();
    world.check();
    assert_eq!(world.broker.log, [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(world.producers, 1);
}

#[test]
fn what_is_doubtful_is_never_sent_under_another_producer_id() {
    let mut world = ready();
    world.push(1);
    world.send();
    world.cut(1, false);
    world.send();
    world.deliver(2);
    assert_eq!(world.ended, [(vec![0], Outcome::Unknown)]);
    world.push(1);
    world.finish();
    assert_eq!((world.broker.log.as_slice(), world.producers), ([0, 1].as_slice(), 2));
}

#[test]
fn a_batch_that_is_too_large_is_halved_and_only_the_record_that_is_too_large_is_refused() {
    let mut world = ready();
    world.records = 10;
    world.push(5);
    world.finish();
    world.push(2);
    world.finish();
    world.check_some();
    assert_eq!(world.broker.log, [10, 11, 12, 14, 15, 16]);
    assert!(world.ended.contains(&(vec![13], Outcome::Refused)));
}

impl World {
    fn check_some(&self) {
        assert!(
            self.ended.iter().all(|(_, outcome)| matches!(outcome, Outcome::Stored(_) | Outcome::Refused))
        );
    }
}

#[test]
fn a_partition_that_is_gone_ends_everything_and_says_what_is_certain() {
    let mut world = ready();
    world.push(1);
    world.send();
    world.push(2);
    let ended: Vec<_> =
        world.lane.end().into_iter().map(|(batch, outcome)| (batch.records, outcome)).collect();
    assert_eq!(ended, [(vec![0], Outcome::Unknown), (vec![1, 2], Outcome::NotWritten)]);
    let (ticket, _) = world.wire.pop_front().unwrap();
    assert!(world.lane.answered(ticket, Answer::Stored(0)).is_empty(), "an answer that comes too late");
}

//! One partition's batches on their way, without I/O: what may be sent next, what an answer means, and when a new producer
//! id is needed so that nothing is written twice.
//!
//! The broker takes a producer's batches of a partition only in the order of their sequence numbers and recognises the
//! last five, so a batch is sent again **byte for byte**, in its order, until its outcome is known. What follows:
//!
//! - At most [`WINDOW`] batches are on their way. Until the broker has acknowledged one of this producer id it may know
//!   nothing of it and takes any sequence number: one batch at a time until then.
//! - A batch whose answer was lost even once is *doubtful*. It is sent again under the same producer id only, where the
//!   broker recognises it. When that id is given up, its outcome stays unknown: sending it under another id could
//!   double it.
//! - A batch that was refused every time it was sent stands nowhere; it is numbered anew under the next id.
//! - A sequence number is never used for two contents, except for one that was refused and is the last.

use std::collections::VecDeque;

use crate::eventlog::kafka::batch::{ProducerId, sequence_after};

/// Batches of a partition on their way: as many as a broker recognises when they are sent again.
pub(super) const WINDOW: usize = 5;

/// What a lane carries.
pub(super) trait Payload: Sized {
    /// Records in it; at least one.
    fn count(&self) -> i32;
    /// Writes it down under this number, to be sent byte for byte from now on.
    fn number(&mut self, producer: ProducerId, base_sequence: i32);
    /// Two halves, in order; `Err`: one record cannot be halved.
    fn split(self) -> Result<(Self, Self), Self>;
}

/// One attempt to send one batch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Ticket(u64);

/// What became of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// Durable, its first record at this offset.
    Stored(i64),
    /// Durable since earlier, where is not told any more.
    Duplicate,
    /// Not written; another time.
    NotNow,
    /// Written or not: the answer was lost, or replicas did not confirm in time.
    Unknown,
    /// Not written: its number does not follow what the broker has.
    Gap,
    /// Not written: the broker does not know, or does not take, this producer id.
    NoProducer,
    /// Not written: too large as a whole.
    TooLarge,
    /// Not written, and never will be.
    Refused,
}

/// How a batch ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// Durable; `None`: at an offset that nobody knows any more.
    Stored(Option<i64>),
    TooLarge,
    Refused,
    /// Nobody can know whether it was written.
    Unknown,
    /// It certainly was not.
    NotWritten,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Waiting,
    UnderWay(Ticket),
}

struct Entry<P> {
    base_sequence: i32,
    state: State,
    doubtful: bool,
    payload: P,
}

/// The batches of one partition, in the order of their numbers.
pub(super) struct Lane<P> {
    producer: Option<ProducerId>,
    next_sequence: i32,
    /// The broker has acknowledged a batch of this producer id.
    proven: bool,
    /// The producer id is given up as soon as nothing is under way.
    giving_up: bool,
    entries: VecDeque<Entry<P>>,
    tickets: u64,
}

impl<P: Payload> Lane<P> {
    pub(super) fn new() -> Self {
        Self {
            producer: None,
            next_sequence: 0,
            proven: false,
            giving_up: false,
            entries: VecDeque::new(),
            tickets: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The producer id it writes under.
    pub(super) fn producer(&self) -> Option<ProducerId> {
        self.producer
    }

    /// Nothing can be sent before [`Lane::begin`].
    pub(super) fn needs_producer(&self) -> bool {
        self.producer.is_none()
    }

    /// Batches on their way, oldest first.
    pub(super) fn payloads(&self) -> impl Iterator<Item = &P> {
        self.entries.iter().map(|entry| &entry.payload)
    }

    /// Writes under this id from now on; what waits is numbered anew from zero.
    pub(super) fn begin(&mut self, producer: ProducerId) {
        self.producer = Some(producer);
        self.next_sequence = 0;
        self.proven = false;
        for entry in &mut self.entries {
            entry.base_sequence = self.next_sequence;
            self.next_sequence = sequence_after(self.next_sequence, entry.payload.count());
            entry.payload.number(producer, entry.base_sequence);
        }
    }

    /// Takes another batch? Not before trouble with the present ones is over.
    pub(super) fn has_room(&self) -> bool {
        let calm = |entry: &Entry<P>| !entry.doubtful && entry.state != State::Waiting;
        !self.giving_up && self.entries.len() < WINDOW && self.entries.iter().all(calm)
    }

    /// Puts a batch at the end.
    pub(super) fn push(&mut self, mut payload: P) {
        let base_sequence = self.next_sequence;
        if let Some(producer) = self.producer {
            payload.number(producer, base_sequence);
        }
        self.next_sequence = sequence_after(base_sequence, payload.count());
        self.entries.push_back(Entry { base_sequence, state: State::Waiting, doubtful: false, payload });
    }

    /// The batch that may be sent now, which counts as sent.
    pub(super) fn send_next(&mut self) -> Option<(Ticket, &P)> {
        if self.producer.is_none() || self.giving_up {
            return None;
        }
        let first = self.entries.iter().position(|entry| entry.state == State::Waiting)?;
        let under_way = self.entries.iter().filter(|entry| entry.state != State::Waiting).count();
        // One that is under way behind it was sent before it: its answer comes first.
        if under_way > first || (!self.proven && under_way > 0) {
            return None;
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let entry = self.entries.get_mut(first)?;
        entry.state = State::UnderWay(ticket);
        Some((ticket, &entry.payload))
    }

    /// Is there one that [`Lane::send_next`] would give?
    pub(super) fn can_send(&self) -> bool {
        let Some(first) = self.entries.iter().position(|entry| entry.state == State::Waiting) else {
            return false;
        };
        let under_way = self.entries.iter().filter(|entry| entry.state != State::Waiting).count();
        self.producer.is_some() && !self.giving_up && under_way <= first && (self.proven || under_way == 0)
    }

    /// Hears of an attempt; says which batches have ended, and how.
    pub(super) fn answered(&mut self, ticket: Ticket, answer: Answer) -> Vec<(P, Outcome)> {
        let at = self.entries.iter().position(|entry| entry.state == State::UnderWay(ticket));
        let Some(at) = at else { return Vec::new() };
        let mut ended = Vec::new();
        match answer {
            Answer::Stored(_) | Answer::Duplicate => {
                self.proven = true;
                let offset = if let Answer::Stored(offset) = answer { Some(offset) } else { None };
                ended.extend(self.entries.remove(at).map(|entry| (entry.payload, Outcome::Stored(offset))));
            }
            Answer::NotNow => self.wait_again(at, false),
            Answer::Unknown => self.wait_again(at, true),
            // Behind others that are not acknowledged, it only shows that these are missing.
            Answer::Gap if at > 0 => self.wait_again(at, false),
            Answer::Gap | Answer::NoProducer => {
                self.wait_again(at, false);
                self.giving_up = true;
            }
            Answer::TooLarge => ended.extend(self.halve(at)),
            Answer::Refused => ended.extend(self.refuse(at, Outcome::Refused)),
        }
        if self.giving_up && !self.entries.iter().any(|entry| entry.state != State::Waiting) {
            ended.extend(self.give_up());
        }
        ended
    }

    /// The partition is gone: everything ends here. Answers that still come are nobody's.
    pub(super) fn end(&mut self) -> Vec<(P, Outcome)> {
        let end = |entry: Entry<P>| {
            let certain = !entry.doubtful && entry.state == State::Waiting;
            (entry.payload, if certain { Outcome::NotWritten } else { Outcome::Unknown })
        };
        self.entries.drain(..).map(end).collect()
    }

    fn wait_again(&mut self, at: usize, doubtful: bool) {
        if let Some(entry) = self.entries.get_mut(at) {
            entry.state = State::Waiting;
            entry.doubtful |= doubtful;
        }
    }

    fn halve(&mut self, at: usize) -> Option<(P, Outcome)> {
        if self.entries.get(at).is_some_and(|entry| entry.doubtful) {
            return self.refuse(at, Outcome::TooLarge);
        }
        let entry = self.entries.remove(at)?;
        let Entry { base_sequence, payload, .. } = entry;
        match payload.split() {
            Ok((mut first, mut second)) => {
                let middle = sequence_after(base_sequence, first.count());
                if let Some(producer) = self.producer {
                    first.number(producer, base_sequence);
                    second.number(producer, middle);
                }
                let half = |base_sequence, payload| Entry {
                    base_sequence,
                    state: State::Waiting,
                    doubtful: false,
                    payload,
                };
                self.entries.insert(at, half(middle, second));
                self.entries.insert(at, half(base_sequence, first));
                None
            }
            Err(payload) => {
                let state = State::Waiting;
                self.entries.insert(at, Entry { base_sequence, state, doubtful: false, payload });
                self.refuse(at, Outcome::TooLarge)
            }
        }
    }

    /// Takes a batch out for good; its numbers are used again only if none follows and none of it can stand anywhere.
    fn refuse(&mut self, at: usize, outcome: Outcome) -> Option<(P, Outcome)> {
        let entry = self.entries.remove(at)?;
        if entry.doubtful {
            self.giving_up = true;
            return Some((entry.payload, Outcome::Unknown));
        }
        if at == self.entries.len() {
            self.next_sequence = entry.base_sequence;
        } else {
            self.giving_up = true;
        }
        Some((entry.payload, outcome))
    }

    /// Forgets the producer id: what is doubtful ends as unknown, the rest waits for the next id.
    fn give_up(&mut self) -> Vec<(P, Outcome)> {
        self.giving_up = false;
        self.producer = None;
        let (doubtful, certain): (VecDeque<_>, VecDeque<_>) =
            self.entries.drain(..).partition(|entry| entry.doubtful);
        self.entries = certain;
        doubtful.into_iter().map(|entry| (entry.payload, Outcome::Unknown)).collect()
    }
}

#[cfg(test)]
mod tests;

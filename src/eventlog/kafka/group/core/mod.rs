//! A membership as a state machine without I/O: what happened goes in, what to do next comes out. The rules are those
//! of Kafka's cooperative protocol.
//!
//! - Joining again claims what is held, so that nothing pauses while a group is rebalanced; the leader withholds what
//!   shall move until its holder, told by the answer to SyncGroup, has given it up and joined again.
//! - Kafka's fence is per member, not per partition: what a member no longer holds must not be committed, and is taken
//!   out of [`Core::committable`] before the JoinGroup that gives it up.
//! - A coordinator that moves or does not answer changes nothing for three session time-outs; then everything is lost and
//!   the membership ends with the reason.

mod partitions;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;

use super::assignor::{Assignment, Candidate};
use super::blobs::Subscription;
use crate::eventlog::{Generation, GroupEvent, LogError, TopicId, TopicPartition};

pub(super) use session::{Whose, cure};

/// Session time-outs of silence before a membership is given up. More than one: a coordinator that dies is replaced after
/// some 10 s, and the new one keeps the members that come back to it. Who is out by then hears it from the coordinator,
/// and its commits are refused; nothing rests on this side's clock.
const SILENCE_SESSIONS: u32 = 3;
/// The longest pause before a failed request is made again.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// How a membership behaves.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) whose: Whose,
    /// A member not heard of for this long is out.
    pub(super) session_timeout: Duration,
    pub(super) heartbeat_interval: Duration,
    /// The first pause before a failed request is made again; doubles up to [`RETRY_MAX`].
    pub(super) retry: Duration,
}

/// Why a request has no good answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// The coordinator refused it.
    Code(ResponseError),
    /// No connection, or none any more.
    Lost(String),
    /// Credentials or certificates do not fit.
    Denied(String),
}

/// A topic as the metadata shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Topic {
    pub(super) id: TopicId,
    pub(super) partitions: i32,
}

pub(super) type Topics = BTreeMap<Arc<str>, Option<Topic>>;

/// An offset as it was committed; its topic's incarnation where the committer left it (Kafka's own tools do not).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Committed {
    pub(super) offset: i64,
    pub(super) topic_id: Option<TopicId>,
}

/// The answer to a JoinGroup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) member_id: String,
    pub(super) generation: i32,
    pub(super) leads: bool,
    /// The coordinator keeps the assignment: the leader came back.
    pub(super) skip_assignment: bool,
    /// Only for the leader: member id, instance id, subscription.
    pub(super) members: Vec<(String, Option<String>, Bytes)>,
}

/// What a lookup found: the topics as they stand, and what was committed.
pub(super) type LookedUp = (Topics, BTreeMap<TopicPartition, Committed>);

/// Something happened.
#[derive(Clone, Debug)]
pub(super) enum Input {
    Tick,
    /// The coordinator gave a name and wants the JoinGroup again under it.
    Named(String),
    Joined(Result<Place, Failure>),
    Synced(Result<Vec<TopicPartition>, Failure>),
    Beaten(Result<(), Failure>),
    Topics(Topics),
    /// How the topics stand cannot be asked.
    TopicsUnknown(Failure),
    LookedUp {
        lookup: u64,
        found: Result<LookedUp, Failure>,
    },
    /// A commit was refused under this generation.
    CommitRefused {
        generation: i32,
        failure: Failure,
    },
    Released(Vec<TopicPartition>),
}

/// Something to do. At most one of Join, Sync and Beat is under way at a time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    Join {
        member_id: String,
        subscription: Subscription,
    },
    Sync {
        member_id: String,
        generation: i32,
        assignment: Assignment,
    },
    Beat {
        member_id: String,
        generation: i32,
    },
    /// Ask how these topics stand; answered by [`Input::Topics`], as often as it takes.
    AskTopics(Vec<Arc<str>>),
    /// Ask for the topics and the committed offsets of these; a lookup under way is forgotten.
    LookUp {
        lookup: u64,
        partitions: Vec<TopicPartition>,
    },
    /// The coordinator may be another one now.
    FindCoordinator,
    Tell(GroupEvent),
    /// Another process is this static member now, and shall stay it.
    Fenced,
    /// The membership is over.
    End(LogError),
}

#[derive(Clone, Debug)]
enum Phase {
    /// A JoinGroup is made at this time.
    Waiting(Duration),
    Joining,
    /// The leader waits for the topics.
    Assigning(Vec<Candidate>),
    Syncing,
    /// A member; the next heartbeat is made at this time, `None`: one is under way.
    Stable(Option<Duration>),
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hold {
    /// Ours; where to begin is being looked up.
    Pending,
    /// The caller has it.
    Held { topic_id: TopicId, since: Generation },
    /// The caller was asked to give it up.
    Revoking { topic_id: TopicId, since: Generation },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    Missing,
    There(Topic),
}

/// See the [module](self).
pub(super) struct Core {
    settings: Settings,
    phase: Phase,
    now: Duration,
    /// When the coordinator last answered well.
    heard: Duration,
    failures: u32,
    last_failure: Option<Failure>,
    member_id: String,
    generation: i32,
    leads: bool,
    /// What the last SyncGroup gave.
    assigned: BTreeSet<TopicPartition>,
    holds: BTreeMap<TopicPartition, Hold>,
    seen: BTreeMap<Arc<str>, Seen>,
    /// The leader's: number of partitions by topic that its last assignment went by.
    basis: BTreeMap<Arc<str>, i32>,
    lookups: u64,
    looking_up: bool,
    /// A lookup failed: the next one is made at this time.
    look_up_at: Option<Duration>,
    /// Claimed in the last JoinGroup and let go of since: whoever it is meant for waits until this member joins again.
    let_go: BTreeSet<TopicPartition>,
    effects: Vec<Effect>,
}

impl Core {
    /// A membership that begins with the first [`Input::Tick`].
    pub(super) fn new(settings: Settings, now: Duration) -> Self {
        Self {
            settings,
            phase: Phase::Waiting(now),
            now,
            heard: now,
            failures: 0,
            last_failure: None,
            member_id: String::new(),
            generation: -1,
            leads: false,
            assigned: BTreeSet::new(),
            holds: BTreeMap::new(),
            seen: BTreeMap::new(),
            basis: BTreeMap::new(),
            lookups: 0,
            looking_up: false,
            look_up_at: None,
            let_go: BTreeSet::new(),
            effects: Vec::new(),
        }
    }

    /// Takes in what happened at `now` (on any clock that only goes forward); answers what to do, in this order.
    pub(super) fn handle(&mut self, now: Duration, input: Input) -> Vec<Effect> {
        self.now = now;
        if !matches!(self.phase, Phase::Ended) {
            match input {
                Input::Tick => {}
                Input::Named(member_id) => self.on_named(member_id),
                Input::Joined(answer) => self.on_joined(answer),
                Input::Synced(answer) => self.on_synced(answer),
                Input::Beaten(answer) => self.on_beaten(answer),
                Input::Topics(topics) => self.on_topics(&topics),
                // Asked again by the regular look, unless asking is of no use.
                Input::TopicsUnknown(failure) => {
                    self.refused(&failure);
                }
                Input::LookedUp { lookup, found } => self.on_looked_up(lookup, found),
                Input::CommitRefused { generation, failure } => self.on_commit_refused(generation, &failure),
                Input::Released(partitions) => self.on_released(&partitions),
            }
            self.advance();
        }
        std::mem::take(&mut self.effects)
    }

    /// When to come back with [`Input::Tick`] at the latest.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let expiry = self.expiry();
        let next = match &self.phase {
            Phase::Waiting(at) | Phase::Stable(Some(at)) => Some(expiry.min(*at)),
            Phase::Stable(None) | Phase::Assigning(_) => Some(expiry),
            Phase::Joining | Phase::Syncing | Phase::Ended => None,
        };
        next.into_iter().chain(self.look_up_at).min()
    }

    pub(super) fn member_id(&self) -> &str {
        &self.member_id
    }

    /// The coordinator's generation, under which to commit.
    pub(super) fn generation(&self) -> i32 {
        self.generation
    }

    /// What may be committed: the topic's incarnation, and the generation that gave the partition.
    pub(super) fn committable(&self) -> BTreeMap<TopicPartition, (TopicId, Generation)> {
        let held = self.holds.iter().filter_map(|(partition, hold)| match hold {
            Hold::Pending => None,
            Hold::Held { topic_id, since } | Hold::Revoking { topic_id, since } => {
                Some((partition.clone(), (*topic_id, *since)))
            }
        });
        held.collect()
    }

    /// The topics to ask the metadata about: for the leader, what any member wants.
    pub(super) fn topics(&self) -> Vec<Arc<str>> {
        let mut topics: BTreeSet<Arc<str>> = self.settings.whose.topics.iter().cloned().collect();
        if self.leads {
            topics.extend(self.basis.keys().cloned());
        }
        topics.into_iter().collect()
    }

    fn expiry(&self) -> Duration {
        self.heard + self.settings.session_timeout * SILENCE_SESSIONS
    }

    /// Whatever its time has come for.
    fn advance(&mut self) {
        let expired = self.now >= self.expiry();
        match self.phase {
            Phase::Waiting(_) | Phase::Assigning(_) | Phase::Stable(_) if expired => return self.expire(),
            Phase::Waiting(at) if at <= self.now => self.join(),
            Phase::Stable(Some(_)) if self.others_wait() => self.join(),
            Phase::Stable(Some(at)) if at <= self.now => {
                self.phase = Phase::Stable(None);
                let (member_id, generation) = (self.member_id.clone(), self.generation);
                self.effects.push(Effect::Beat { member_id, generation });
            }
            _ => {}
        }
        if self.look_up_at.is_some_and(|at| at <= self.now) {
            self.look_up_at = None;
        }
        self.look_up();
    }

    /// The session is over as far as anybody knows: others may have everything already.
    fn expire(&mut self) {
        let reason = match &self.last_failure {
            Some(Failure::Code(code)) => format!("the group's coordinator answers {code:?}"),
            Some(Failure::Lost(reason) | Failure::Denied(reason)) => reason.clone(),
            None => "the group's coordinator does not answer".to_owned(),
        };
        self.end(LogError::Unavailable(reason));
    }

    fn end(&mut self, error: LogError) {
        self.lose_all();
        self.phase = Phase::Ended;
        self.effects.push(Effect::End(error));
    }

    /// Everything the caller has is gone; what the coordinator assigned, too.
    fn lose_all(&mut self) {
        let holds = std::mem::take(&mut self.holds);
        self.assigned.clear();
        self.forget_lookup();
        self.let_go.clear();
        self.leads = false;
        self.tell_lost(holds);
    }

    fn tell_lost(&mut self, holds: impl IntoIterator<Item = (TopicPartition, Hold)>) {
        let told = |(partition, hold)| (hold != Hold::Pending).then_some(partition);
        let partitions: Vec<_> = holds.into_iter().filter_map(told).collect();
        if !partitions.is_empty() {
            self.effects.push(Effect::Tell(GroupEvent::Lost { partitions }));
        }
    }

    fn succeeded(&mut self) {
        self.heard = self.now;
        self.failures = 0;
        self.last_failure = None;
    }

    /// Notes a failure that time or another coordinator cures; answers when to try again.
    fn failed(&mut self, failure: Failure) -> Duration {
        if !matches!(failure, Failure::Code(ResponseError::CoordinatorLoadInProgress)) {
            self.effects.push(Effect::FindCoordinator);
        }
        self.last_failure = Some(failure);
        let doubled = self.settings.retry.saturating_mul(1 << self.failures.min(8));
        self.failures = self.failures.saturating_add(1);
        self.now + doubled.min(RETRY_MAX)
    }
}

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

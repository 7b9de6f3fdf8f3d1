//! Consumer groups where one process is the whole cluster: the newest member of a group owns every partition. Shared
//! by the embedded and the in-memory log.
//!
//! - A join takes everything over: earlier members get [`GroupEvent::Lost`] and their commits are
//!   [`CommitError::Fenced`]. When the owner leaves, the member that joined before it owns again.
//! - Every assignment has a generation of its own, higher than any before it, also over restarts (the first one comes
//!   from an epoch that the backend counts up durably). A commit is taken for a partition from the generation that
//!   assigned it on, so a commit in flight outlives the growth of a topic but not its deletion.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{
    AssignedPartition, CommitError, Committer, Generation, GroupEvent, GroupMember, GroupSpec, LogError,
    TopicId, TopicPartition,
};

/// What the groups ask of the log they belong to.
#[async_trait]
pub(super) trait GroupHost: Send + Sync + 'static {
    /// A topic's present incarnation and number of partitions; `None`: there is no such topic.
    fn topic(&self, name: &str) -> Option<(TopicId, i32)>;

    /// What the group has committed for that incarnation.
    fn committed(&self, group: &str, topic_id: TopicId, partition: i32) -> Option<i64>;

    /// The groups of this log.
    fn groups(&self) -> &Groups;

    /// An error once the log is closed.
    fn open(&self) -> Result<(), LogError>;

    /// Checks with [`Groups::check`] and writes, as one step as seen from other members.
    async fn commit(&self, commit: Commit) -> Result<(), CommitError>;
}

/// A member's commit on its way to the log.
#[derive(Clone, Debug)]
pub(super) struct Commit {
    pub(super) group: Arc<str>,
    pub(super) member: u64,
    pub(super) generation: Generation,
    pub(super) offsets: BTreeMap<TopicPartition, i64>,
}

/// One committed offset, bound to an incarnation of its topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CheckedOffset {
    pub(super) topic_id: TopicId,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

/// The members of every group.
pub(super) struct Groups {
    state: Mutex<State>,
    /// Counts changes of members and topics; members wait on it.
    changes: watch::Sender<u64>,
}

struct State {
    generation: i64,
    last_member: u64,
    /// In the order of joining; the last one owns.
    members: HashMap<Arc<str>, Vec<Member>>,
}

struct Member {
    id: u64,
    topics: Vec<Arc<str>>,
    seen: HashMap<Arc<str>, Seen>,
    assigned: BTreeMap<TopicPartition, (TopicId, Generation)>,
    queue: VecDeque<GroupEvent>,
}

/// What a member was last told of a topic.
#[derive(Clone, Copy)]
enum Seen {
    Missing,
    There { id: TopicId, partitions: i32 },
}

impl Groups {
    /// Groups whose generations are higher than those of every smaller epoch.
    pub(super) fn new(epoch: u32) -> Self {
        Self {
            state: Mutex::new(State {
                generation: i64::from(epoch) << 31,
                last_member: 0,
                members: HashMap::new(),
            }),
            changes: watch::Sender::new(0),
        }
    }

    /// Tells waiting members to look again: a topic came, went or grew, or the log closed.
    pub(super) fn notify(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A new member, which owns the group from now on.
    pub(super) fn join(&self, spec: &GroupSpec) -> u64 {
        let mut state = self.lock();
        state.last_member += 1;
        let id = state.last_member;
        let member = Member {
            id,
            topics: spec.topics.clone(),
            seen: HashMap::new(),
            assigned: BTreeMap::new(),
            queue: VecDeque::new(),
        };
        state.members.entry(spec.group.clone()).or_default().push(member);
        drop(state);
        self.notify();
        id
    }

    fn leave(&self, group: &str, id: u64) {
        let mut state = self.lock();
        if let Some(members) = state.members.get_mut(group) {
            members.retain(|member| member.id != id);
            if members.is_empty() {
                state.members.remove(group);
            }
        }
        drop(state);
        self.notify();
    }

    /// The next thing to tell a member, if there is any.
    fn poll(&self, host: &dyn GroupHost, group: &Arc<str>, id: u64) -> Option<GroupEvent> {
        let mut state = self.lock();
        let State { generation, members, .. } = &mut *state;
        let members = members.get_mut(group)?;
        let owner = members.last().is_some_and(|member| member.id == id);
        let member = members.iter_mut().find(|member| member.id == id)?;
        if !owner {
            return member.lose_all();
        }
        if member.queue.is_empty() {
            member.look(host, group, generation);
        }
        member.queue.pop_front()
    }

    /// Binds a commit's offsets to the incarnations they were read from; `topic` answers what stands there now.
    ///
    /// # Errors
    /// [`CommitError::Fenced`] unless the member owns the group and every partition was assigned to it, of the
    /// incarnation that stands there now, in `generation` or before.
    pub(super) fn check(
        &self,
        topic: impl Fn(&str) -> Option<(TopicId, i32)>,
        commit: &Commit,
    ) -> Result<Vec<CheckedOffset>, CommitError> {
        Self::check_in(&self.lock(), topic, commit)
    }

    /// [`Groups::check`], then `apply` before any other member can join or look.
    pub(super) fn check_and_apply(
        &self,
        topic: impl Fn(&str) -> Option<(TopicId, i32)>,
        commit: &Commit,
        apply: impl FnOnce(Vec<CheckedOffset>),
    ) -> Result<(), CommitError> {
        let state = self.lock();
        Self::check_in(&state, topic, commit).map(apply)
    }

    fn check_in(
        state: &State,
        topic: impl Fn(&str) -> Option<(TopicId, i32)>,
        commit: &Commit,
    ) -> Result<Vec<CheckedOffset>, CommitError> {
        let owner = state.members.get(&commit.group).and_then(|members| members.last());
        let Some(owner) = owner.filter(|owner| owner.id == commit.member) else {
            return Err(CommitError::Fenced);
        };
        if commit.generation.0 > state.generation {
            return Err(CommitError::Fenced);
        }
        let check = |(partition, offset): (&TopicPartition, &i64)| {
            let (topic_id, since) = owner.assigned.get(partition)?;
            let (now, _) = topic(&partition.topic)?;
            (*topic_id == now && commit.generation >= *since).then_some(CheckedOffset {
                topic_id: *topic_id,
                partition: partition.partition,
                offset: *offset,
            })
        };
        commit.offsets.iter().map(|entry| check(entry).ok_or(CommitError::Fenced)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    /// Another member owns the group: everything is lost, said once.
    fn lose_all(&mut self) -> Option<GroupEvent> {
        self.queue.clear();
        self.seen.clear();
        let partitions: Vec<_> = std::mem::take(&mut self.assigned).into_keys().collect();
        (!partitions.is_empty()).then_some(GroupEvent::Lost { partitions })
    }

    /// Compares the topics as they stand with what the member was told, and queues what is new.
    fn look(&mut self, host: &dyn GroupHost, group: &Arc<str>, generation: &mut i64) {
        let mut new = Vec::new();
        for topic in self.topics.clone() {
            let now = host.topic(&topic);
            if let Some(Seen::There { id, .. }) = self.seen.get(&topic)
                && now.is_none_or(|(present, _)| present != *id)
            {
                self.lose_topic(&topic);
            }
            match (self.seen.get(&topic).copied(), now) {
                (Some(Seen::Missing), None) => {}
                (Some(Seen::There { .. }) | None, None) => {
                    self.seen.insert(topic.clone(), Seen::Missing);
                    self.queue.push_back(GroupEvent::TopicMissing { topic });
                }
                (seen, Some((id, partitions))) => {
                    let known = match seen {
                        Some(Seen::There { partitions, .. }) => partitions,
                        Some(Seen::Missing) => {
                            self.queue.push_back(GroupEvent::TopicBack { topic: topic.clone() });
                            0
                        }
                        None => 0,
                    };
                    self.seen.insert(topic.clone(), Seen::There { id, partitions });
                    new.extend((known..partitions).map(|partition| AssignedPartition {
                        topic_partition: TopicPartition { topic: topic.clone(), partition },
                        topic_id: id,
                        committed: host.committed(group, id, partition),
                    }));
                }
            }
        }
        if new.is_empty() {
            return;
        }
        *generation += 1;
        let generation = Generation(*generation);
        for partition in &new {
            self.assigned.insert(partition.topic_partition.clone(), (partition.topic_id, generation));
        }
        self.queue.push_back(GroupEvent::Assigned { generation, partitions: new });
    }

    fn lose_topic(&mut self, topic: &Arc<str>) {
        let (lost, kept) = std::mem::take(&mut self.assigned)
            .into_iter()
            .partition(|(partition, _)| partition.topic == *topic);
        self.assigned = kept;
        let lost: BTreeMap<TopicPartition, _> = lost;
        self.queue.push_back(GroupEvent::Lost { partitions: lost.into_keys().collect() });
        self.queue.push_back(GroupEvent::TopicMissing { topic: topic.clone() });
        self.seen.insert(topic.clone(), Seen::Missing);
    }
}

/// A place in a group of a [`GroupHost`].
pub(super) struct SingleOwnerMember {
    handle: Arc<Handle>,
    changes: watch::Receiver<u64>,
}

/// What the member and its committers share.
struct Handle {
    host: Arc<dyn GroupHost>,
    group: Arc<str>,
    id: u64,
}

impl SingleOwnerMember {
    /// The member that [`Groups::join`] made.
    pub(super) fn new(host: Arc<dyn GroupHost>, group: Arc<str>, id: u64) -> Self {
        let changes = host.groups().changes.subscribe();
        Self { handle: Arc::new(Handle { host, group, id }), changes }
    }
}

impl Drop for SingleOwnerMember {
    fn drop(&mut self) {
        self.handle.host.groups().leave(&self.handle.group, self.handle.id);
    }
}

#[async_trait]
impl GroupMember for SingleOwnerMember {
    async fn next(&mut self) -> Result<GroupEvent, LogError> {
        loop {
            self.changes.borrow_and_update();
            let Handle { host, group, id } = &*self.handle;
            host.open()?;
            if let Some(event) = host.groups().poll(host.as_ref(), group, *id) {
                return Ok(event);
            }
            let closed = |_| LogError::Unavailable("the log is closed".to_owned());
            self.changes.changed().await.map_err(closed)?;
        }
    }

    fn committer(&self) -> Arc<dyn Committer> {
        self.handle.clone()
    }

    async fn release(&mut self, _partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.handle.host.open()
    }

    async fn leave(self: Box<Self>) -> Result<(), LogError> {
        Ok(())
    }
}

#[async_trait]
impl Committer for Handle {
    async fn commit(
        &self,
        generation: Generation,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<(), CommitError> {
        let commit =
            Commit { group: self.group.clone(), member: self.id, generation, offsets: offsets.clone() };
        self.host.commit(commit).await
    }
}

//! A log whose group behaves as Kafka's does: the fence is per member and generation, not per partition; while a
//! rebalance is prepared, a live member's commit is taken even for a partition it does not own.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::eventlog::AssignedPartition;

pub(super) const TOPIC: &str = "events";

/// What stands in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogRecord {
    pub(super) id: u32,
    pub(super) key: u8,
    /// The sender gave the id.
    pub(super) given: bool,
    /// Another version of the mapper makes another sort key of it. Never resent.
    pub(super) sensitive: bool,
    /// The decoder refuses it.
    pub(super) bad: bool,
    /// The store refuses it.
    pub(super) poison: bool,
    pub(super) received_at: Timestamp,
}

use crate::event::Timestamp;

pub(super) struct LogPartition {
    pub(super) records: Vec<LogRecord>,
    pub(super) log_start: i64,
    pub(super) committed: Option<i64>,
    pub(super) owner: Option<usize>,
    /// Everything before this was either committed or deleted by retention.
    pub(super) expired: BTreeSet<i64>,
}

pub(super) struct Broker {
    pub(super) incarnation: u64,
    pub(super) partitions: Vec<LogPartition>,
    pub(super) generation: i64,
    pub(super) members: BTreeSet<usize>,
    pub(super) preparing: Option<BTreeMap<usize, Vec<TopicPartition>>>,
    pub(super) letters: BTreeMap<(TopicId, i32, i64), u32>,
    pub(super) letters_down: bool,
    pub(super) down: bool,
}

pub(super) enum GroupNews {
    Assigned(Vec<AssignedPartition>),
    Revoking(Vec<TopicPartition>),
}

impl Broker {
    pub(super) fn new(partitions: usize) -> Self {
        let mut broker = Self {
            incarnation: 0,
            partitions: Vec::new(),
            generation: 0,
            members: BTreeSet::new(),
            preparing: None,
            letters: BTreeMap::new(),
            letters_down: false,
            down: false,
        };
        broker.create(partitions);
        broker
    }

    /// Makes the topic (again).
    pub(super) fn create(&mut self, partitions: usize) {
        self.incarnation += 1;
        self.partitions = (0..partitions)
            .map(|_| LogPartition {
                records: Vec::new(),
                log_start: 0,
                committed: None,
                owner: None,
                expired: BTreeSet::new(),
            })
            .collect();
    }

    pub(super) fn topic_id(&self) -> TopicId {
        TopicId(uuid::Uuid::from_u128(u128::from(self.incarnation)))
    }

    pub(super) fn name(partition: usize) -> TopicPartition {
        TopicPartition::new(TOPIC, partition as i32)
    }

    /// Begins a rebalance: tells each member what it has to give up.
    pub(super) fn prepare(&mut self) -> Vec<(usize, GroupNews)> {
        let mut revoked: BTreeMap<usize, Vec<TopicPartition>> = BTreeMap::new();
        for (number, wanted) in self.plan().into_iter().enumerate() {
            match self.partitions[number].owner {
                Some(owner) if Some(owner) != wanted && self.members.contains(&owner) => {
                    revoked.entry(owner).or_default().push(Self::name(number));
                }
                _ => {}
            }
        }
        let news = revoked.iter().map(|(member, names)| (*member, GroupNews::Revoking(names.clone())));
        let news = news.collect();
        self.preparing = Some(revoked);
        news
    }

    fn plan(&self) -> Vec<Option<usize>> {
        let members: Vec<usize> = self.members.iter().copied().collect();
        (0..self.partitions.len())
            .map(|number| (!members.is_empty()).then(|| members[number % members.len()]))
            .collect()
    }

    /// A member has given partitions up.
    pub(super) fn release(&mut self, member: usize, names: &[TopicPartition]) {
        if let Some(revoked) = &mut self.preparing
            && let Some(waiting) = revoked.get_mut(&member)
        {
            waiting.retain(|name| !names.contains(name));
        }
        for name in names {
            let partition = &mut self.partitions[name.partition as usize];
            if partition.owner == Some(member) {
                partition.owner = None;
            }
        }
        if let Some(revoked) = &mut self.preparing {
            revoked.retain(|_, names| !names.is_empty());
        }
    }

    /// Ends a rebalance. Members that gave nothing back in time are out.
    pub(super) fn complete(&mut self) -> (Vec<(usize, GroupNews)>, Vec<usize>) {
        let late: Vec<usize> = self.preparing.take().unwrap_or_default().into_keys().collect();
        for member in &late {
            self.members.remove(member);
        }
        self.generation += 1;
        let topic_id = self.topic_id();
        let mut assigned: BTreeMap<usize, Vec<AssignedPartition>> =
            self.members.iter().map(|member| (*member, Vec::new())).collect();
        for (number, wanted) in self.plan().into_iter().enumerate() {
            let partition = &mut self.partitions[number];
            if partition.owner == wanted {
                continue;
            }
            if partition.owner.is_some_and(|owner| self.members.contains(&owner)) {
                // It was not asked to give this one up in this round.
                continue;
            }
            partition.owner = wanted;
            if let Some(member) = wanted {
                assigned.entry(member).or_default().push(AssignedPartition {
                    topic_partition: Self::name(number),
                    topic_id,
                    committed: partition.committed,
                });
            }
        }
        let news = assigned.into_iter().map(|(member, partitions)| (member, GroupNews::Assigned(partitions)));
        (news.collect(), late)
    }

    /// Takes a member out, as a crash noticed by its missing heartbeats does.
    pub(super) fn expel(&mut self, member: usize) {
        self.members.remove(&member);
        if let Some(revoked) = &mut self.preparing {
            revoked.remove(&member);
        }
        for partition in &mut self.partitions {
            partition.owner.take_if(|owner| *owner == member);
        }
    }

    /// May this member commit with this generation?
    pub(super) fn fences(&self, member: usize, generation: i64) -> bool {
        !self.members.contains(&member) || generation != self.generation
    }
}

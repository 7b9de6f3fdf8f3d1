//! What is held: partitions given, looked up, asked back and given up, and the topics they belong to.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::assignor;
use super::{Core, Effect, Failure, Hold, LookedUp, Phase, Seen, Topics};
use crate::eventlog::{AssignedPartition, Generation, GroupEvent, TopicPartition};

impl Core {
    /// Is there something that others wait for, and has everything been given up that they wait for?
    pub(super) fn others_wait(&self) -> bool {
        let leaving = |(partition, hold): (&TopicPartition, &Hold)| {
            matches!(hold, Hold::Revoking { .. }) && !self.assigned.contains(partition)
        };
        self.let_go.iter().any(|partition| !self.assigned.contains(partition))
            && !self.holds.iter().any(leaving)
    }

    pub(super) fn on_released(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            if matches!(self.holds.get(partition), Some(Hold::Revoking { .. })) {
                self.holds.remove(partition);
                self.let_go.insert(partition.clone());
            }
        }
    }

    pub(super) fn on_topics(&mut self, topics: &Topics) {
        for name in self.settings.whose.topics.clone() {
            let Some(now) = topics.get(&name) else { continue };
            let seen = self.seen.get(&name).copied();
            if let Some(Seen::There(before)) = seen
                && now.is_none_or(|now| now.id != before.id)
            {
                self.lose_topic(&name);
            }
            match (self.seen.get(&name).copied(), now) {
                (Some(Seen::Missing), None) => {}
                (_, None) => self.topic_missing(name),
                (seen, Some(now)) => {
                    if seen == Some(Seen::Missing) {
                        self.effects.push(Effect::Tell(GroupEvent::TopicBack { topic: name.clone() }));
                    }
                    self.seen.insert(name, Seen::There(*now));
                }
            }
        }
        self.lead(topics);
    }

    fn lose_topic(&mut self, name: &Arc<str>) {
        let holds = std::mem::take(&mut self.holds);
        let (lost, kept): (BTreeMap<_, _>, BTreeMap<_, _>) =
            holds.into_iter().partition(|(partition, _)| partition.topic == *name);
        self.holds = kept;
        self.forget_lookup();
        self.let_go.extend(lost.keys().cloned());
        self.tell_lost(lost);
        self.topic_missing(name.clone());
    }

    fn topic_missing(&mut self, topic: Arc<str>) {
        self.seen.insert(topic.clone(), Seen::Missing);
        self.effects.push(Effect::Tell(GroupEvent::TopicMissing { topic }));
    }

    /// The leader's part: makes the assignment that waits for the topics, and a new one when they change.
    fn lead(&mut self, topics: &Topics) {
        if !self.leads {
            return;
        }
        let counts: BTreeMap<Arc<str>, i32> = self
            .basis
            .iter()
            .map(|(name, before)| match topics.get(name) {
                Some(now) => (name.clone(), now.map_or(0, |topic| topic.partitions)),
                None => (name.clone(), *before),
            })
            .collect();
        if matches!(self.phase, Phase::Assigning(_))
            && self.basis.keys().all(|name| topics.contains_key(name))
        {
            if let Phase::Assigning(candidates) = std::mem::replace(&mut self.phase, Phase::Syncing) {
                self.basis = counts;
                self.sync(assignor::assign(&candidates, &self.basis));
            }
        } else if counts != self.basis && matches!(self.phase, Phase::Stable(Some(_))) {
            self.phase = Phase::Waiting(self.now);
        }
    }

    pub(super) fn forget_lookup(&mut self) {
        self.looking_up = false;
        self.look_up_at = None;
        self.lookups += 1;
    }

    /// Asks where to begin with what is ours and not in the caller's hands yet.
    pub(super) fn look_up(&mut self) {
        if self.looking_up || self.look_up_at.is_some() || matches!(self.phase, Phase::Ended) {
            return;
        }
        let mut partitions = Vec::new();
        for partition in &self.assigned {
            let hold = self.holds.entry(partition.clone()).or_insert(Hold::Pending);
            // A topic that is missing is asked for anyway; its partitions wait for it.
            let there = match self.seen.get(&partition.topic) {
                None => true,
                Some(Seen::Missing) => false,
                Some(Seen::There(topic)) => partition.partition < topic.partitions,
            };
            if *hold == Hold::Pending && there {
                partitions.push(partition.clone());
            }
        }
        if !partitions.is_empty() {
            self.lookups += 1;
            self.looking_up = true;
            self.effects.push(Effect::LookUp { lookup: self.lookups, partitions });
        }
    }

    pub(super) fn on_looked_up(&mut self, lookup: u64, found: Result<LookedUp, Failure>) {
        if lookup != self.lookups || !self.looking_up {
            return;
        }
        self.looking_up = false;
        let (topics, committed) = match found {
            Ok(found) => found,
            Err(failure) => {
                if self.refused(&failure) {
                    return;
                }
                self.look_up_at = Some(self.failed(failure));
                return;
            }
        };
        self.on_topics(&topics);
        let generation = Generation(i64::from(self.generation));
        let mut partitions = Vec::new();
        for (partition, hold) in &mut self.holds {
            let Some(Some(topic)) = topics.get(&partition.topic) else { continue };
            if *hold != Hold::Pending || partition.partition >= topic.partitions {
                continue;
            }
            *hold = Hold::Held { topic_id: topic.id, since: generation };
            // An offset of another incarnation of the topic says nothing about this one.
            let committed =
                committed.get(partition).filter(|found| found.topic_id.is_none_or(|id| id == topic.id));
            partitions.push(AssignedPartition {
                topic_partition: partition.clone(),
                topic_id: topic.id,
                committed: committed.map(|found| found.offset),
            });
        }
        if !partitions.is_empty() {
            self.effects.push(Effect::Tell(GroupEvent::Assigned { generation, partitions }));
        }
    }
}

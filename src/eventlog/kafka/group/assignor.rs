//! Who reads what, decided by the group's leader: everybody keeps what they have as far as the loads stay equal, and what
//! changes hands is withheld in the round that takes it away (cooperative-sticky).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::blobs::Subscription;
use crate::eventlog::TopicPartition;

/// A member as the leader sees it.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// What an assignment is addressed to.
    pub(super) member_id: String,
    /// What orders the candidates: stays the same over a restart of a static member.
    pub(super) name: String,
    pub(super) subscription: Subscription,
}

/// Partitions by member id; every candidate has an entry.
pub(super) type Assignment = BTreeMap<String, Vec<TopicPartition>>;

/// Shares out the partitions of `topics` (number of partitions by name). The loads of two members that want the same
/// topics differ by one at most once nothing is withheld any more; no partition is given to two members, nor to one
/// while another still has it.
pub(super) fn assign(candidates: &[Candidate], topics: &BTreeMap<Arc<str>, i32>) -> Assignment {
    let mut candidates: Vec<&Candidate> = candidates.iter().collect();
    candidates.sort_by(|a, b| (&a.name, &a.member_id).cmp(&(&b.name, &b.member_id)));
    let mut plan = Plan::new(&candidates, topics);
    plan.hand_out();
    plan.balance();
    plan.into_assignment(&candidates)
}

struct Plan<'a> {
    /// By candidate.
    wants: Vec<BTreeSet<&'a str>>,
    loads: Vec<usize>,
    partitions: Vec<Planned>,
}

struct Planned {
    partition: TopicPartition,
    /// Who has it now.
    held: Option<usize>,
    /// Who shall have it.
    given: Option<usize>,
}

impl<'a> Plan<'a> {
    fn new(candidates: &[&'a Candidate], topics: &BTreeMap<Arc<str>, i32>) -> Self {
        let wants: Vec<BTreeSet<&str>> =
            candidates.iter().map(|c| c.subscription.topics.iter().map(|t| &**t).collect()).collect();
        // Of two that claim the same partition, the claim of the younger generation is true.
        let mut claims: BTreeMap<&TopicPartition, (i32, usize)> = BTreeMap::new();
        for (number, candidate) in candidates.iter().enumerate() {
            let generation = candidate.subscription.generation;
            for partition in &candidate.subscription.owned {
                let claim = claims.entry(partition).or_insert((generation, number));
                if generation > claim.0 {
                    *claim = (generation, number);
                }
            }
        }
        let mut loads = vec![0; candidates.len()];
        let mut partitions = Vec::new();
        for (topic, count) in topics {
            for partition in (0..*count).map(|n| TopicPartition { topic: topic.clone(), partition: n }) {
                let held = claims.get(&partition).map(|claim| claim.1);
                let given = held.filter(|number| wants[*number].contains(&**topic));
                if let Some(number) = given {
                    loads[number] += 1;
                }
                partitions.push(Planned { partition, held, given });
            }
        }
        Self { wants, loads, partitions }
    }

    /// The candidate with the least to do of those that want this topic.
    fn idlest(&self, topic: &str) -> Option<usize> {
        let wanting = (0..self.wants.len()).filter(|number| self.wants[*number].contains(topic));
        wanting.min_by_key(|number| self.loads[*number])
    }

    fn hand_out(&mut self) {
        for index in 0..self.partitions.len() {
            if self.partitions[index].given.is_none()
                && let Some(number) = self.idlest(&self.partitions[index].partition.topic)
            {
                self.partitions[index].given = Some(number);
                self.loads[number] += 1;
            }
        }
    }

    /// Moves single partitions from the busier to the idler while that makes the loads more equal. Ends, because every
    /// move makes the sum of the squared loads smaller.
    fn balance(&mut self) {
        loop {
            let mut moved = false;
            // From the end: the low partitions of a member stay where they are.
            for index in (0..self.partitions.len()).rev() {
                let Some(from) = self.partitions[index].given else { continue };
                let Some(to) = self.idlest(&self.partitions[index].partition.topic) else { continue };
                if self.loads[from] > self.loads[to] + 1 {
                    self.partitions[index].given = Some(to);
                    self.loads[from] -= 1;
                    self.loads[to] += 1;
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn into_assignment(self, candidates: &[&Candidate]) -> Assignment {
        let mut assignment: Assignment =
            candidates.iter().map(|candidate| (candidate.member_id.clone(), Vec::new())).collect();
        for planned in self.partitions {
            let Some(given) = planned.given else { continue };
            if planned.held.is_some_and(|held| held != given) {
                continue;
            }
            if let Some(partitions) = assignment.get_mut(&candidates[given].member_id) {
                partitions.push(planned.partition);
            }
        }
        assignment
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(name: &str, topics: &[&str], owned: &[TopicPartition], generation: i32) -> Candidate {
        let topics = topics.iter().map(|topic| Arc::from(*topic)).collect();
        let subscription = Subscription { topics, owned: owned.to_vec(), generation };
        Candidate { member_id: format!("{name}-id"), name: name.to_owned(), subscription }
    }

    fn topics(of: &[(&str, i32)]) -> BTreeMap<Arc<str>, i32> {
        of.iter().map(|(name, count)| (Arc::from(*name), *count)).collect()
    }

    /// Lets members take over what they are given and give up what they are not, until nothing changes.
    fn settle(mut candidates: Vec<Candidate>, topics: &BTreeMap<Arc<str>, i32>) -> (Vec<Candidate>, u32) {
        for round in 1..10 {
            let assignment = assign(&candidates, topics);
            let mut changed = false;
            for candidate in &mut candidates {
                let given = assignment[&candidate.member_id].clone();
                changed |= given != candidate.subscription.owned;
                candidate.subscription.owned = given;
                candidate.subscription.generation += 1;
            }
            if !changed {
                return (candidates, round);
            }
        }
        panic!("the assignment does not settle: {candidates:?}");
    }

    fn loads(candidates: &[Candidate]) -> Vec<usize> {
        candidates.iter().map(|candidate| candidate.subscription.owned.len()).collect()
    }

    #[test]
    fn a_newcomer_gets_its_share_and_nobody_else_moves() {
        let topics = topics(&[("events", 12)]);
        let (alone, _) = settle(vec![candidate("a", &["events"], &[], -1)], &topics);
        assert_eq!(loads(&alone), [12]);
        let before = alone[0].subscription.owned.clone();
        let (two, _) = settle(vec![alone[0].clone(), candidate("b", &["events"], &[], -1)], &topics);
        assert_eq!(loads(&two), [6, 6]);
        assert!(two[0].subscription.owned.iter().all(|partition| before.contains(partition)));
        let kept = [two[0].subscription.owned.clone(), two[1].subscription.owned.clone()];
        let newcomers = [candidate("c", &["events"], &[], -1), candidate("d", &["events"], &[], -1)];
        let (four, _) = settle([two, newcomers.to_vec()].concat(), &topics);
        assert_eq!(loads(&four), [3, 3, 3, 3]);
        for (number, before) in kept.iter().enumerate() {
            assert!(four[number].subscription.owned.iter().all(|partition| before.contains(partition)));
        }
    }

    #[test]
    fn what_moves_is_withheld_while_another_has_it() {
        let topics = topics(&[("events", 2)]);
        let all = [TopicPartition::new("events", 0), TopicPartition::new("events", 1)];
        let members = [candidate("a", &["events"], &all, 3), candidate("b", &["events"], &[], -1)];
        let first = assign(&members, &topics);
        assert_eq!((first["a-id"].len(), first["b-id"].len()), (1, 0), "{first:?}");
        let members = [candidate("a", &["events"], &first["a-id"], 4), candidate("b", &["events"], &[], 4)];
        let second = assign(&members, &topics);
        assert_eq!((second["a-id"].len(), second["b-id"].len()), (1, 1), "{second:?}");
    }

    #[test]
    fn of_two_claims_the_younger_one_counts() {
        let topics = topics(&[("events", 1)]);
        let all = [TopicPartition::new("events", 0)];
        let members = [candidate("a", &["events"], &all, 3), candidate("b", &["events"], &all, 4)];
        assert_eq!(assign(&members, &topics)["b-id"], all);
    }

    fn group() -> impl Strategy<Value = (Vec<Candidate>, BTreeMap<Arc<str>, i32>)> {
        let wants = proptest::sample::subsequence(vec!["a", "b", "c"], 1..=3);
        let owned =
            proptest::collection::vec((proptest::sample::select(vec!["a", "b", "c", "gone"]), 0..15), 0..9);
        let member = (wants, owned, -1..5);
        let counts = (1..13, 0..7, 0..13);
        (proptest::collection::vec(member, 1..6), counts).prop_map(|(members, (a, b, c))| {
            let members = members.into_iter().enumerate().map(|(number, (wants, owned, generation))| {
                let owned: BTreeSet<_> =
                    owned.into_iter().map(|(topic, n)| TopicPartition::new(topic, n)).collect();
                candidate(&format!("m{number}"), &wants, &owned.into_iter().collect::<Vec<_>>(), generation)
            });
            (members.collect(), topics(&[("a", a), ("b", b), ("c", c)]))
        })
    }

    proptest! {
        #[test]
        fn everything_wanted_is_read_by_exactly_one_and_the_loads_are_fair((members, topics) in group()) {
            let given = assign(&members, &topics);
            let mut seen = BTreeSet::new();
            for (member, partitions) in &given {
                for partition in partitions {
                    prop_assert!(seen.insert(partition.clone()), "{partition} is given twice");
                    let rival = members.iter().find(|other| {
                        other.member_id != *member
                            && other.subscription.owned.contains(partition)
                            && !members.iter().any(|m| m.member_id == *member && m.subscription.owned.contains(partition))
                    });
                    prop_assert!(rival.is_none(), "{partition} is given away while {rival:?} has it");
                }
            }
            let (settled, _) = settle(members.clone(), &topics);
            let mut read = BTreeSet::new();
            for member in &settled {
                for partition in &member.subscription.owned {
                    prop_assert!(member.subscription.topics.contains(&partition.topic));
                    prop_assert!(read.insert(partition.clone()), "{partition} is read twice");
                }
            }
            for (topic, count) in &topics {
                let wanted = members.iter().any(|member| member.subscription.topics.contains(topic));
                let found = read.iter().filter(|partition| partition.topic == *topic).count();
                prop_assert_eq!(found, if wanted { *count as usize } else { 0 });
            }
            for a in &settled {
                for b in settled.iter().filter(|b| a.subscription.topics == b.subscription.topics) {
                    prop_assert!(a.subscription.owned.len().abs_diff(b.subscription.owned.len()) <= 1);
                }
            }
        }
    }
}

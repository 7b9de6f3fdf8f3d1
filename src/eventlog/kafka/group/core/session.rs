//! Getting and keeping a place: JoinGroup, SyncGroup, heartbeats, and what their refusals mean.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;

use super::super::assignor::Assignment;
use super::super::blobs::Subscription;
use super::{Candidate, Core, Effect, Failure, Hold, Phase, Place};
use crate::eventlog::kafka::rights::Rights;
use crate::eventlog::{GroupEvent, LogError, TopicPartition};

impl Core {
    pub(super) fn join(&mut self) {
        self.phase = Phase::Joining;
        self.let_go.clear();
        self.effects.push(Effect::Join {
            member_id: self.member_id.clone(),
            subscription: Subscription {
                topics: self.settings.whose.topics.clone(),
                owned: self.holds.keys().cloned().collect(),
                generation: if self.holds.is_empty() { -1 } else { self.generation },
            },
        });
    }

    /// What nothing but a change of configuration or rights cures.
    fn refusal(&self, failure: &Failure) -> Option<LogError> {
        let code = match failure {
            Failure::Denied(reason) => return Some(LogError::Forbidden(reason.clone())),
            Failure::Lost(_) => return None,
            Failure::Code(code) => *code,
        };
        let cure = cure(code, &self.settings.whose)?;
        Some(LogError::Forbidden(format!("Kafka answers {code:?}: {cure}")))
    }

    /// Ends the membership if nothing but a change of configuration or rights cures the failure.
    pub(super) fn refused(&mut self, failure: &Failure) -> bool {
        let Some(error) = self.refusal(failure) else { return false };
        if *failure == Failure::Code(ResponseError::FencedInstanceId) {
            self.effects.push(Effect::Fenced);
        }
        self.end(error);
        true
    }

    /// What every request may meet. Answers when to go on if the caller has to try again.
    fn meet(&mut self, failure: Failure) -> Option<Duration> {
        if self.refused(&failure) {
            return None;
        }
        match failure {
            Failure::Code(ResponseError::RebalanceInProgress) => {
                self.succeeded();
                self.phase = Phase::Waiting(self.now);
                None
            }
            Failure::Code(code @ (ResponseError::IllegalGeneration | ResponseError::UnknownMemberId)) => {
                if code == ResponseError::UnknownMemberId {
                    self.member_id.clear();
                }
                self.lose_all();
                self.heard = self.now;
                self.last_failure = Some(failure);
                // Not at once: a coordinator that forgets us over and over must not be hammered.
                self.phase = Phase::Waiting(self.now + self.settings.retry);
                None
            }
            other => Some(self.failed(other)),
        }
    }

    pub(super) fn on_named(&mut self, member_id: String) {
        if matches!(self.phase, Phase::Joining) {
            self.succeeded();
            self.member_id = member_id;
            self.join();
        }
    }

    pub(super) fn on_joined(&mut self, answer: Result<Place, Failure>) {
        if !matches!(self.phase, Phase::Joining) {
            return;
        }
        let place = match answer {
            Ok(place) => place,
            Err(failure) => {
                if let Some(at) = self.meet(failure) {
                    self.phase = Phase::Waiting(at);
                }
                return;
            }
        };
        self.succeeded();
        self.member_id = place.member_id;
        self.generation = place.generation;
        self.leads = place.leads;
        self.basis.clear();
        if !place.leads {
            return self.sync(Assignment::new());
        }
        let candidates = place.members.into_iter().map(|(member_id, instance, subscription)| Candidate {
            name: instance.unwrap_or_else(|| member_id.clone()),
            subscription: Subscription::read(&subscription).unwrap_or_else(|error| {
                tracing::warn!(member = member_id, %error, "it is assigned nothing");
                Subscription::default()
            }),
            member_id,
        });
        let candidates: Vec<Candidate> = candidates.collect();
        let wanted = candidates.iter().flat_map(|candidate| candidate.subscription.topics.iter().cloned());
        self.basis = wanted.map(|topic| (topic, 0)).collect();
        if place.skip_assignment {
            // The old assignment covers at least what was claimed; whatever is beyond that needs a new one.
            for partition in candidates.iter().flat_map(|candidate| &candidate.subscription.owned) {
                if let Some(count) = self.basis.get_mut(&partition.topic) {
                    *count = (*count).max(partition.partition + 1);
                }
            }
            return self.sync(Assignment::new());
        }
        self.phase = Phase::Assigning(candidates);
        self.effects.push(Effect::AskTopics(self.topics()));
    }

    pub(super) fn sync(&mut self, assignment: Assignment) {
        self.phase = Phase::Syncing;
        let (member_id, generation) = (self.member_id.clone(), self.generation);
        self.effects.push(Effect::Sync { member_id, generation, assignment });
    }

    pub(super) fn on_synced(&mut self, answer: Result<Vec<TopicPartition>, Failure>) {
        if !matches!(self.phase, Phase::Syncing) {
            return;
        }
        let assigned = match answer {
            Ok(assigned) => assigned,
            Err(failure) => {
                if let Some(at) = self.meet(failure) {
                    self.phase = Phase::Waiting(at);
                }
                return;
            }
        };
        self.succeeded();
        self.phase = Phase::Stable(Some(self.now + self.settings.heartbeat_interval));
        self.assigned = assigned.into_iter().collect();
        self.forget_lookup();
        let (let_go, assigned) = (&mut self.let_go, &self.assigned);
        self.holds.retain(|partition, hold| {
            let kept = *hold != Hold::Pending || assigned.contains(partition);
            if !kept {
                let_go.insert(partition.clone());
            }
            kept
        });
        let mut revoked = Vec::new();
        for (partition, hold) in &mut self.holds {
            if let Hold::Held { topic_id, since } = *hold
                && !self.assigned.contains(partition)
            {
                *hold = Hold::Revoking { topic_id, since };
                revoked.push(partition.clone());
            }
        }
        for partition in self.assigned.iter().filter(|_| self.leads) {
            if let Some(count) = self.basis.get_mut(&partition.topic) {
                *count = (*count).max(partition.partition + 1);
            }
        }
        if !revoked.is_empty() {
            self.effects.push(Effect::Tell(GroupEvent::Revoking { partitions: revoked }));
        }
    }

    pub(super) fn on_beaten(&mut self, answer: Result<(), Failure>) {
        if !matches!(self.phase, Phase::Stable(None)) {
            return;
        }
        let next = match answer {
            Ok(()) => {
                self.succeeded();
                self.now + self.settings.heartbeat_interval
            }
            Err(failure) => match self.meet(failure) {
                Some(at) => at,
                None => return,
            },
        };
        self.phase = Phase::Stable(Some(next));
    }

    pub(super) fn on_commit_refused(&mut self, generation: i32, failure: &Failure) {
        let Failure::Code(code) = *failure else { return };
        match code {
            ResponseError::FencedInstanceId => {
                self.refused(failure);
            }
            ResponseError::NotCoordinator | ResponseError::CoordinatorNotAvailable => {
                self.effects.push(Effect::FindCoordinator);
            }
            // The next heartbeat hears the same, or the join under way cures it: only its time is moved up.
            ResponseError::UnknownMemberId
            | ResponseError::IllegalGeneration
            | ResponseError::RebalanceInProgress
                if generation == self.generation =>
            {
                if let Phase::Stable(Some(at)) = &mut self.phase {
                    *at = self.now;
                }
            }
            _ => {}
        }
    }
}

/// Whose membership it is, for what is told of refusals.
#[derive(Clone, Debug)]
pub(in crate::eventlog::kafka::group) struct Whose {
    pub(in crate::eventlog::kafka::group) group: Arc<str>,
    pub(in crate::eventlog::kafka::group) topics: Vec<Arc<str>>,
    pub(in crate::eventlog::kafka::group) rights: Rights,
}

#[cfg(test)]
impl Whose {
    pub(super) fn for_test() -> Self {
        Self { group: "group".into(), topics: vec!["events".into()], rights: Rights::for_test() }
    }
}

/// What cures a refusal that no waiting cures.
pub(in crate::eventlog::kafka::group) fn cure(code: ResponseError, whose: &Whose) -> Option<String> {
    let Whose { group, topics, rights } = whose;
    let told = match code {
        ResponseError::GroupAuthorizationFailed => {
            return Some(format!("{} may not use group {group}: {}", rights.who(), rights.on_group(group)));
        }
        ResponseError::TopicAuthorizationFailed => {
            let allow = rights.on_topics(&["Describe", "Read"], topics.iter().map(|topic| &**topic));
            return Some(format!("{} may not read the topics of group {group}: {allow}", rights.who()));
        }
        ResponseError::FencedInstanceId => {
            "another process took over as this member; give each process a consumer.instance_id of its own, or none, \
             and start this one again"
        }
        ResponseError::InvalidSessionTimeout => {
            "eventlog.kafka.session_timeout is not between the brokers' group.min.session.timeout.ms and \
             group.max.session.timeout.ms"
        }
        ResponseError::InconsistentGroupProtocol => {
            "the group has members that are no FlexFlow; set another consumer.group_id"
        }
        ResponseError::GroupMaxSizeReached => {
            "the group has as many members as the brokers allow, group.max.size"
        }
        ResponseError::InvalidGroupId => "set another consumer.group_id",
        _ => return None,
    };
    Some(told.to_owned())
}

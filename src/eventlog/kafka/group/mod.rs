//! Consumer groups on Kafka, by the classic protocol, which every broker from 2.8 on speaks.
//!
//! [`core`] decides, without I/O; [`wire`] makes the requests; [`member`] joins the two in a task of its own, so that
//! heartbeats go out however slow the caller is. Offsets are committed to Kafka with the topic's incarnation as their
//! metadata: after a topic is made again, the old offsets say nothing.

mod assignor;
mod blobs;
mod core;
mod member;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::dialer::Dialer;
use crate::eventlog::{GroupMember, GroupSpec, LogError, TopicPartition};
use crate::lifecycle::Tasks;
use core::{Core, Failure, Settings, Whose};
use member::Member;
use wire::Wire;

/// The first pause before a refused or lost request is made again.
const RETRY_MIN: Duration = Duration::from_millis(100);

/// How this process takes part in its groups.
#[derive(Clone, Debug)]
pub(super) struct GroupOptions {
    /// Brokers that are asked first, `host:port`.
    pub(super) bootstrap_servers: Vec<String>,
    /// A member not heard of for this long loses its partitions.
    pub(super) session_timeout: Duration,
    /// How often a member is heard of, and the longest before it hears of a rebalance.
    pub(super) heartbeat_interval: Duration,
    /// Longest a request waits for its answer (a JoinGroup: besides the time the others take).
    pub(super) request_timeout: Duration,
}

/// The groups of one cluster, as this process knows them.
#[derive(Clone)]
pub(super) struct Groups(Arc<Shared>, Askers);

struct Shared {
    dialer: Dialer,
    options: GroupOptions,
    tasks: Tasks,
    closed: CancellationToken,
    /// Group and instance of memberships that another process took over.
    fenced: Mutex<BTreeSet<(Arc<str>, Arc<str>)>>,
}

/// The connections through which [`Groups::committed`] asks, by group.
type Askers = Arc<Mutex<BTreeMap<Arc<str>, Arc<Wire>>>>;

impl Groups {
    /// `closed` ends every membership without a word to the coordinator.
    pub(super) fn new(
        dialer: Dialer,
        options: GroupOptions,
        tasks: Tasks,
        closed: CancellationToken,
    ) -> Self {
        let shared = Shared { dialer, options, tasks, closed, fenced: Mutex::default() };
        Self(Arc::new(shared), Askers::default())
    }

    /// Takes a place in a group; waits for its coordinator, not for the place.
    ///
    /// # Errors
    /// The coordinator cannot be found, or another process has taken the static membership over.
    pub(super) async fn join(&self, spec: GroupSpec) -> Result<Box<dyn GroupMember>, LogError> {
        if let Some(instance) = &spec.instance_id {
            let fenced = self.0.fenced.lock().unwrap_or_else(PoisonError::into_inner);
            if fenced.contains(&(spec.group.clone(), instance.clone())) {
                return Err(LogError::Forbidden(format!(
                    "another process took over as member {instance} of group {}: give each process a \
                     consumer.instance_id of its own, or none, and start this one again",
                    spec.group
                )));
            }
        }
        let whose = self.whose(spec.group, spec.topics);
        let wire = Arc::new(Wire::new(self.0.clone(), whose.clone(), spec.instance_id.clone()));
        wire.find_coordinator().await.map_err(|failure| failed(failure, &whose))?;
        let options = &self.0.options;
        let settings = Settings {
            whose,
            session_timeout: options.session_timeout,
            heartbeat_interval: options.heartbeat_interval,
            retry: RETRY_MIN,
        };
        Ok(Box::new(Member::start(wire, |now| Core::new(settings, now), &self.0.tasks)))
    }

    fn whose(&self, group: Arc<str>, topics: Vec<Arc<str>>) -> Whose {
        Whose { group, topics, rights: self.0.dialer.rights().clone() }
    }

    /// What a group has committed, for the present incarnation of each topic.
    ///
    /// # Errors
    /// The brokers do not answer, or refuse.
    pub(super) async fn committed(&self, group: &str) -> Result<BTreeMap<TopicPartition, i64>, LogError> {
        let wire = {
            let mut askers = self.1.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Wire::new(self.0.clone(), self.whose(group.into(), Vec::new()), None));
            askers.entry(group.into()).or_insert_with(new).clone()
        };
        let failed = |failure| failed(failure, wire.whose());
        let committed = match wire.committed(None).await {
            Ok(committed) => committed,
            // The coordinator may have moved since it was asked last.
            Err(_) => {
                wire.find_coordinator().await.map_err(failed)?;
                wire.committed(None).await.map_err(failed)?
            }
        };
        let names: BTreeSet<Arc<str>> = committed.keys().map(|partition| partition.topic.clone()).collect();
        let topics = wire.topics(&names.into_iter().collect::<Vec<_>>()).await.map_err(failed)?;
        let present = committed.into_iter().filter_map(|(partition, found)| {
            let topic = topics.get(&partition.topic).copied().flatten()?;
            found.topic_id.is_none_or(|id| id == topic.id).then_some((partition, found.offset))
        });
        Ok(present.collect())
    }
}

/// A request that changes nothing failed.
fn failed(failure: Failure, whose: &Whose) -> LogError {
    match failure {
        Failure::Denied(reason) => LogError::Forbidden(reason),
        Failure::Lost(reason) => LogError::Unavailable(reason),
        Failure::Code(code) => {
            let reason = format!("Kafka answers {code:?}");
            match core::cure(code, whose) {
                Some(cure) => LogError::Forbidden(format!("{reason}: {cure}")),
                None => LogError::Unavailable(reason),
            }
        }
    }
}

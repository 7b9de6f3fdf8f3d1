//! The brokers of a cluster, who leads which partition, and the connections to them that are shared.
//!
//! Only topics that somebody asked for are kept; what is known is renewed when an answer says that it is wrong, and after
//! `eventlog.kafka.metadata_max_age`. Concurrent renewals are one request.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use tokio::time::Instant;

use super::KafkaOptions;
use super::api::Request;
use super::connection::Connection;
use super::dialer::Dialer;
use super::error::{CallError, code};
use crate::eventlog::{LogError, TopicId};

/// A topic that was missing is not asked for again before this is over.
const MISSING_FOR: Duration = Duration::from_millis(100);
/// A broker that could not be reached is not tried again before this is over.
const UNREACHABLE_FOR: Duration = Duration::from_millis(200);

/// What a shared connection is for; a slow use must not hold up a quick one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Purpose {
    /// Metadata, offsets, topics: short calls.
    Control,
    Produce,
}

/// A partition's leader; `-1` while there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leader {
    pub(super) broker: i32,
    pub(super) epoch: i32,
}

/// A topic as the brokers tell it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Topic {
    pub(super) name: Arc<str>,
    pub(super) id: TopicId,
    /// By partition number.
    pub(super) leaders: Vec<Leader>,
    /// Copies of the partition that has the fewest.
    pub(super) replicas: usize,
    pub(super) internal: bool,
}

impl Topic {
    /// Number of partitions.
    pub(super) fn partitions(&self) -> i32 {
        i32::try_from(self.leaders.len()).unwrap_or(i32::MAX)
    }

    /// Every partition has a leader.
    pub(super) fn is_led(&self) -> bool {
        self.leaders.iter().all(|leader| leader.broker >= 0)
    }

    pub(super) fn leader(&self, partition: i32) -> Option<Leader> {
        self.leaders.get(usize::try_from(partition).ok()?).copied()
    }
}

/// What the brokers said of a name.
#[derive(Clone, Debug)]
pub(super) enum Known {
    There(Arc<Topic>),
    Missing(Instant),
    Forbidden,
    /// The brokers give it no id, so that one that is made again could not be told from it.
    WithoutId,
}

/// The cluster as it was told last.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    /// Counts the renewals.
    pub(super) generation: u64,
    /// When it was told.
    pub(super) at: Option<Instant>,
    /// `host:port` by broker.
    pub(super) brokers: HashMap<i32, Arc<str>>,
    pub(super) controller: i32,
    pub(super) topics: HashMap<Arc<str>, Known>,
}

impl Snapshot {
    pub(super) fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        match self.topics.get(name) {
            Some(Known::There(topic)) => Some(topic),
            _ => None,
        }
    }
}

type Slot = Arc<tokio::sync::Mutex<SlotState>>;

enum SlotState {
    Empty,
    Open(Connection),
    Failed(Instant, CallError),
}

/// The cluster. Shared by everything that talks to it.
pub(super) struct Cluster {
    dialer: Dialer,
    bootstrap: Vec<Arc<str>>,
    request_timeout: Duration,
    snapshot: RwLock<Arc<Snapshot>>,
    wanted: Mutex<BTreeSet<Arc<str>>>,
    renewal: tokio::sync::Mutex<()>,
    slots: Mutex<HashMap<(Arc<str>, Purpose), Slot>>,
    /// The broker that answered last: one that hangs is not asked first over and over.
    answered: Mutex<Option<Arc<str>>>,
}

impl Cluster {
    pub(super) fn new(options: &KafkaOptions, dialer: Dialer) -> Self {
        Self {
            dialer,
            bootstrap: options.bootstrap_servers.iter().map(|server| server.as_str().into()).collect(),
            request_timeout: options.request_timeout,
            snapshot: RwLock::default(),
            wanted: Mutex::default(),
            renewal: tokio::sync::Mutex::default(),
            slots: Mutex::default(),
            answered: Mutex::default(),
        }
    }

    /// What is known without asking.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens connections of its own to these brokers.
    pub(super) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    pub(super) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// A topic, as far as known or else as the brokers tell it now.
    ///
    /// # Errors
    /// [`LogError::TopicMissing`], [`LogError::Forbidden`], or no broker answers.
    pub(super) async fn topic(&self, name: &str) -> Result<Arc<Topic>, LogError> {
        let snapshot = self.snapshot();
        let known = match snapshot.topics.get(name) {
            Some(Known::Missing(at)) if at.elapsed() >= MISSING_FOR => None,
            known => known.cloned(),
        };
        let known = match known {
            Some(known) => Some(known),
            None => {
                self.want(name);
                self.renew(snapshot.generation).await.map_err(CallError::of_read)?.topics.get(name).cloned()
            }
        };
        match known {
            Some(Known::There(topic)) => Ok(topic),
            Some(Known::Forbidden) => Err(self.forbidden(name)),
            Some(Known::WithoutId) => Err(LogError::Unavailable(
                "the brokers give topics no ids: inter.broker.protocol.version has to be 2.8 or newer"
                    .to_owned(),
            )),
            Some(Known::Missing(_)) | None => Err(LogError::TopicMissing(name.into())),
        }
    }

    /// The login does not see this topic.
    pub(super) fn forbidden(&self, topic: &str) -> LogError {
        let rights = self.dialer.rights();
        let allow = rights.on_topics(&["Describe", "Read", "Write"], [topic]);
        LogError::Forbidden(format!("{} may not see topic {topic}: {allow}", rights.who()))
    }

    /// Keeps track of a topic from the next renewal on.
    fn want(&self, name: &str) {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into());
    }

    /// Forgets that a topic was missing, because it was just made or deleted.
    pub(super) fn forget(&self, name: &str) {
        let mut snapshot = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        if snapshot.topics.contains_key(name) {
            let mut changed = Snapshot::clone(&snapshot);
            changed.topics.remove(name);
            *snapshot = Arc::new(changed);
        }
    }

    /// Asks the brokers anew, unless somebody else did since `generation`.
    ///
    /// # Errors
    /// No broker answers.
    pub(super) async fn renew(&self, generation: u64) -> Result<Arc<Snapshot>, CallError> {
        let _one_at_a_time = self.renewal.lock().await;
        let before = self.snapshot();
        if before.generation > generation {
            let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            if wanted.iter().all(|name| before.topics.contains_key(name)) {
                return Ok(before.clone());
            }
        }
        let wanted: Vec<Arc<str>> =
            self.wanted.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        let answer = self.metadata(Some(&wanted)).await?;
        let mut topics: HashMap<Arc<str>, Known> = HashMap::new();
        for topic in &answer.topics {
            let Some(name) = topic.name.as_ref() else { continue };
            let name: Arc<str> = (&***name).into();
            let known = match topic.error_code {
                code::UNKNOWN_TOPIC_OR_PARTITION => Known::Missing(Instant::now()),
                code::TOPIC_AUTHORIZATION_FAILED => Known::Forbidden,
                _ if topic.partitions.is_empty() => match before.topic(&name) {
                    // Being made: not to be told apart from missing yet.
                    None => Known::Missing(Instant::now()),
                    Some(known) => Known::There(known.clone()),
                },
                _ if topic.topic_id.is_nil() => Known::WithoutId,
                _ => Known::There(Arc::new(read_topic(&name, topic))),
            };
            topics.insert(name, known);
        }
        for name in &wanted {
            topics.entry(name.clone()).or_insert_with(|| Known::Missing(Instant::now()));
        }
        // What is missing is asked for again by whoever wants it.
        self.wanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|name| !wanted.contains(name) || matches!(topics.get(name), Some(Known::There(_))));
        let snapshot = Arc::new(Snapshot {
            generation: before.generation + 1,
            at: Some(Instant::now()),
            brokers: brokers(&answer),
            controller: answer.controller_id.0,
            topics,
        });
        self.keep_only_known(&snapshot);
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = snapshot.clone();
        Ok(snapshot)
    }

    /// Every topic of the cluster that is not Kafka's own; only the brokers are kept.
    pub(super) async fn all_topics(&self) -> Result<Vec<Topic>, CallError> {
        let answer = self.metadata(None).await?;
        {
            let mut snapshot = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
            let (brokers, controller) = (brokers(&answer), answer.controller_id.0);
            *snapshot = Arc::new(Snapshot { brokers, controller, ..Snapshot::clone(&snapshot) });
        }
        let topic = |topic: &MetadataResponseTopic| {
            let name = topic.name.as_ref().filter(|_| topic.error_code == 0 && !topic.topic_id.is_nil())?;
            Some(read_topic(&(&***name).into(), topic))
        };
        Ok(answer.topics.iter().filter_map(topic).filter(|topic| !topic.internal).collect())
    }

    /// Brokers, controller and these topics; `None`: all topics. Never makes one.
    async fn metadata(&self, topics: Option<&[Arc<str>]>) -> Result<MetadataResponse, CallError> {
        let named = |name: &Arc<str>| {
            MetadataRequestTopic::default()
                .with_name(Some(TopicName(StrBytes::from_string(name.to_string()))))
        };
        let topics = topics.map(|names| names.iter().map(named).collect());
        let request = MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(false);
        self.ask_any(&request).await
    }

    /// Makes a call that any broker can answer.
    ///
    /// # Errors
    /// What the last broker said, or why it could not be reached.
    pub(super) async fn ask_any<R: Request>(&self, request: &R) -> Result<R::Response, CallError> {
        let mut last = None;
        for address in self.anyone() {
            match self.ask_at(&address, request).await {
                Ok(answer) => {
                    *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
                    return Ok(answer);
                }
                Err(error @ CallError::Denied(_)) => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(match last {
            Some(CallError::Unreachable { address, reason }) => CallError::Unreachable {
                address,
                reason: format!(
                    "{reason}; see eventlog.kafka.bootstrap_servers, no other broker answers either"
                ),
            },
            Some(other) => other,
            None => CallError::Denied("eventlog.kafka.bootstrap_servers names no broker".to_owned()),
        })
    }

    /// Every address there is to ask, each once: the broker that answered last, the known ones, those configured.
    fn anyone(&self) -> Vec<Arc<str>> {
        let snapshot = self.snapshot();
        let mut known: Vec<_> = snapshot.brokers.iter().collect();
        known.sort_unstable_by_key(|(id, _)| **id);
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let known = known.into_iter().map(|(_, address)| address.clone());
        let mut all: Vec<Arc<str>> = Vec::new();
        for address in answered.into_iter().chain(known).chain(self.bootstrap.iter().cloned()) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        all
    }

    /// Makes a call of one broker.
    ///
    /// # Errors
    /// The broker is not known, cannot be reached, or does not answer.
    pub(super) async fn ask<R: Request>(&self, broker: i32, request: &R) -> Result<R::Response, CallError> {
        let address = self.address(broker)?;
        self.ask_at(&address, request).await
    }

    async fn ask_at<R: Request>(&self, address: &Arc<str>, request: &R) -> Result<R::Response, CallError> {
        let connection = self.connection_to(address, Purpose::Control).await?;
        connection.call(request, self.request_timeout).await
    }

    /// The broker that changes topics; any broker passes it on where there is none of that name.
    pub(super) fn controller(&self) -> i32 {
        self.snapshot().controller
    }

    /// Topics that this process has asked for and that are there.
    pub(super) fn is_wanted(&self, name: &str) -> bool {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    /// `host:port` of a broker.
    pub(super) fn address(&self, broker: i32) -> Result<Arc<str>, CallError> {
        self.snapshot().brokers.get(&broker).cloned().ok_or_else(|| CallError::Unreachable {
            address: format!("number {broker}").into(),
            reason: "it has left the cluster".to_owned(),
        })
    }

    /// The shared connection to a broker for this purpose, opened if it is not.
    ///
    /// # Errors
    /// See [`Dialer::open`].
    pub(super) async fn connection_to(
        &self,
        address: &Arc<str>,
        purpose: Purpose,
    ) -> Result<Connection, CallError> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            let slot = slots.entry((address.clone(), purpose));
            slot.or_insert_with(|| Arc::new(tokio::sync::Mutex::new(SlotState::Empty))).clone()
        };
        let mut state = slot.lock().await;
        match &*state {
            SlotState::Open(connection) if connection.is_open() => return Ok(connection.clone()),
            // Whoever waited for the same attempt shares its failure.
            SlotState::Failed(at, error) if at.elapsed() < UNREACHABLE_FOR => return Err(error.clone()),
            _ => {}
        }
        let opened = self.dialer.open(address).await;
        *state = match &opened {
            Ok(connection) => SlotState::Open(connection.clone()),
            Err(error) => SlotState::Failed(Instant::now(), error.clone()),
        };
        opened
    }

    /// Connections to brokers that have left are dropped.
    fn keep_only_known(&self, snapshot: &Snapshot) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|(address, _), _| {
            snapshot.brokers.values().any(|known| known == address) || self.bootstrap.contains(address)
        });
    }
}

fn brokers(answer: &MetadataResponse) -> HashMap<i32, Arc<str>> {
    let address = |host: &str, port: i32| match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    answer
        .brokers
        .iter()
        .map(|broker| (broker.node_id.0, address(&broker.host, broker.port).into()))
        .collect()
}

fn read_topic(name: &Arc<str>, topic: &MetadataResponseTopic) -> Topic {
    let mut leaders = vec![Leader { broker: -1, epoch: -1 }; topic.partitions.len()];
    for partition in &topic.partitions {
        let slot = usize::try_from(partition.partition_index).ok().and_then(|at| leaders.get_mut(at));
        if let Some(leader) = slot {
            *leader = Leader { broker: partition.leader_id.0, epoch: partition.leader_epoch };
        }
    }
    let replicas = topic.partitions.iter().map(|partition| partition.replica_nodes.len()).min().unwrap_or(0);
    Topic { name: name.clone(), id: TopicId(topic.topic_id), leaders, replicas, internal: topic.is_internal }
}

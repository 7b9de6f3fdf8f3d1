//! The requests of a group member, each over the right connection and in a version that both sides know.
//!
//! A broker works on one request of a connection at a time, and holds a JoinGroup until all members are there. So the
//! coordinator has two connections: one for joining and heartbeats, one for offsets and leaving; and any broker has a
//! third one, for the metadata.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, MetadataRequest,
    OffsetCommitRequest, OffsetFetchRequest, OffsetFetchResponse, SyncGroupRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::Shared;
use super::assignor::Assignment;
use super::blobs::{Subscription, read_assignment, write_assignment};
use super::core::{Committed, Failure, Input, LookedUp, Place, Topic, Topics, Whose};
use crate::eventlog::kafka::api::Request;
use crate::eventlog::kafka::connection::Connection;
use crate::eventlog::kafka::error::CallError;
use crate::eventlog::{TopicId, TopicPartition};

/// How Kafka's own consumers call this way of sharing out.
const PROTOCOL: &str = "cooperative-sticky";
const PROTOCOL_TYPE: &str = "consumer";
/// In front of the topic's incarnation, in the metadata of a committed offset.
const TOPIC_ID: &str = "topic_id=";
/// The first version with many groups in one request.
const OFFSET_FETCH_OF_GROUPS: i16 = 8;
/// The first version with many keys in one request.
const FIND_COORDINATORS: i16 = 4;

/// See the [module](self).
pub(super) struct Wire {
    shared: Arc<Shared>,
    whose: Whose,
    instance_id: Option<Arc<str>>,
    any: Mutex<Option<Connection>>,
    /// Brokers heard of, besides those configured.
    known: std::sync::Mutex<Vec<String>>,
    coordinator: std::sync::Mutex<Arc<Coordinator>>,
}

/// Who the coordinator is, once that is known, and the connections to it. Forgotten as a whole: what is under way with
/// one that is forgotten goes on with it, and nobody waits for that.
#[derive(Default)]
struct Coordinator {
    address: Mutex<Option<Arc<str>>>,
    control: Mutex<Option<Connection>>,
    offsets: Mutex<Option<Connection>>,
}

/// What a connection to the coordinator is for.
#[derive(Clone, Copy)]
enum Use {
    /// Joining and heartbeats.
    Control,
    /// Offsets and leaving.
    Offsets,
}

/// Which member speaks, and of which generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) member_id: String,
    pub(super) generation: i32,
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

fn of_call(error: CallError) -> Failure {
    match error {
        CallError::Denied(reason) => Failure::Denied(reason),
        other => Failure::Lost(other.to_string()),
    }
}

fn check(code: i16) -> Result<(), Failure> {
    ResponseError::try_from_code(code).map_or(Ok(()), |error| Err(Failure::Code(error)))
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

fn by_topic<T>(
    partitions: impl IntoIterator<Item = (TopicPartition, T)>,
) -> BTreeMap<Arc<str>, Vec<(i32, T)>> {
    let mut topics: BTreeMap<Arc<str>, Vec<(i32, T)>> = BTreeMap::new();
    for (partition, value) in partitions {
        topics.entry(partition.topic).or_default().push((partition.partition, value));
    }
    topics
}

impl Wire {
    pub(super) fn new(shared: Arc<Shared>, whose: Whose, instance_id: Option<Arc<str>>) -> Self {
        Self {
            shared,
            whose,
            instance_id,
            any: Mutex::default(),
            known: std::sync::Mutex::default(),
            coordinator: std::sync::Mutex::default(),
        }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn whose(&self) -> &Whose {
        &self.whose
    }

    pub(super) fn instance_id(&self) -> Option<&Arc<str>> {
        self.instance_id.as_ref()
    }

    fn group_id(&self) -> GroupId {
        GroupId(text(&self.whose.group))
    }

    fn instance(&self) -> Option<StrBytes> {
        self.instance_id.as_deref().map(text)
    }

    fn timeout(&self) -> Duration {
        self.shared.options.request_timeout
    }

    /// A connection to any broker: those configured first, then those heard of.
    async fn any(&self) -> Result<Connection, Failure> {
        let mut slot = self.any.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| connection.is_open()) {
            return Ok(connection.clone());
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut failure =
            Failure::Lost("no broker is configured: eventlog.kafka.bootstrap_servers".to_owned());
        for address in self.shared.options.bootstrap_servers.iter().chain(&known) {
            match self.shared.dialer.open(address).await {
                Ok(connection) => {
                    *slot = Some(connection.clone());
                    return Ok(connection);
                }
                Err(error) => failure = of_call(error),
            }
        }
        Err(failure)
    }

    /// Looks the coordinator up and forgets the connections to the one before.
    pub(super) async fn find_coordinator(&self) -> Result<(), Failure> {
        self.forget_coordinator();
        self.address_of(&self.coordinator()).await.map(|_| ())
    }

    /// The next request asks who it is. Never waits: whoever calls it may be the one that drives a request under way.
    pub(super) fn forget_coordinator(&self) {
        *self.coordinator.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }

    fn coordinator(&self) -> Arc<Coordinator> {
        self.coordinator.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn address_of(&self, coordinator: &Coordinator) -> Result<Arc<str>, Failure> {
        let mut slot = coordinator.address.lock().await;
        if let Some(address) = &*slot {
            return Ok(address.clone());
        }
        let connection = self.any().await?;
        let version = connection.version::<FindCoordinatorRequest>(i16::MAX).map_err(of_call)?;
        let mut request = FindCoordinatorRequest::default();
        if version >= FIND_COORDINATORS {
            request.coordinator_keys = vec![text(&self.whose.group)];
        } else {
            request.key = text(&self.whose.group);
        }
        let answer = self.call_version(&connection, &request, version, self.timeout()).await?;
        let (code, host, port) = match answer.coordinators.into_iter().next() {
            Some(found) => (found.error_code, found.host, found.port),
            None => (answer.error_code, answer.host, answer.port),
        };
        check(code)?;
        let host = if host.contains(':') { format!("[{}]", &*host) } else { host.to_string() };
        let address: Arc<str> = format!("{host}:{port}").into();
        *slot = Some(address.clone());
        Ok(address)
    }

    /// An open connection to the coordinator.
    async fn to_coordinator(&self, purpose: Use) -> Result<Connection, Failure> {
        let coordinator = self.coordinator();
        let address = self.address_of(&coordinator).await?;
        let slot = match purpose {
            Use::Control => &coordinator.control,
            Use::Offsets => &coordinator.offsets,
        };
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| connection.is_open()) {
            return Ok(connection.clone());
        }
        let connection = self.shared.dialer.open(&address).await.map_err(of_call)?;
        *slot = Some(connection.clone());
        Ok(connection)
    }

    async fn call_version<R: Request>(
        &self,
        connection: &Connection,
        request: &R,
        version: i16,
        deadline: Duration,
    ) -> Result<R::Response, Failure> {
        connection.call_version(request, version, deadline).await.map_err(of_call)
    }

    async fn call<R: Request>(
        &self,
        purpose: Use,
        request: &R,
        deadline: Duration,
    ) -> Result<R::Response, Failure> {
        let connection = self.to_coordinator(purpose).await?;
        connection.call(request, deadline).await.map_err(of_call)
    }

    /// Asks for a place. [`Input::Named`] or [`Input::Joined`].
    pub(super) async fn join(&self, member_id: String, subscription: Subscription) -> Input {
        let session = self.shared.options.session_timeout;
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(StrBytes::from_static_str(PROTOCOL))
            .with_metadata(subscription.write());
        let request = JoinGroupRequest::default()
            .with_group_id(self.group_id())
            .with_session_timeout_ms(millis(session))
            // Nobody finishes anything before joining again, so nobody needs longer than to be alive.
            .with_rebalance_timeout_ms(millis(session))
            .with_member_id(text(&member_id))
            .with_group_instance_id(self.instance())
            .with_protocol_type(StrBytes::from_static_str(PROTOCOL_TYPE))
            .with_protocols(vec![protocol]);
        let answer = match self.call(Use::Control, &request, session + self.timeout()).await {
            Ok(answer) => answer,
            Err(failure) => return Input::Joined(Err(failure)),
        };
        match check(answer.error_code) {
            Err(Failure::Code(ResponseError::MemberIdRequired)) => Input::Named(answer.member_id.to_string()),
            Err(failure) => Input::Joined(Err(failure)),
            Ok(()) => Input::Joined(Ok(Place {
                leads: answer.leader == answer.member_id,
                member_id: answer.member_id.to_string(),
                generation: answer.generation_id,
                skip_assignment: answer.skip_assignment,
                members: answer
                    .members
                    .into_iter()
                    .map(|member| {
                        let instance = member.group_instance_id.map(|instance| instance.to_string());
                        (member.member_id.to_string(), instance, member.metadata)
                    })
                    .collect(),
            })),
        }
    }

    pub(super) async fn sync(
        &self,
        who: &Identity,
        assignment: &Assignment,
    ) -> Result<Vec<TopicPartition>, Failure> {
        let assignments = assignment.iter().map(|(member_id, partitions)| {
            SyncGroupRequestAssignment::default()
                .with_member_id(text(member_id))
                .with_assignment(write_assignment(partitions))
        });
        let request = SyncGroupRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id(who.generation)
            .with_member_id(text(&who.member_id))
            .with_group_instance_id(self.instance())
            .with_protocol_type(Some(StrBytes::from_static_str(PROTOCOL_TYPE)))
            .with_protocol_name(Some(StrBytes::from_static_str(PROTOCOL)))
            .with_assignments(assignments.collect());
        let connection = self.to_coordinator(Use::Control).await?;
        let version = connection.version::<SyncGroupRequest>(i16::MAX).map_err(of_call)?;
        let deadline = self.shared.options.session_timeout + self.timeout();
        let answer = self.call_version(&connection, &request, version, deadline).await?;
        check(answer.error_code)?;
        read_assignment(&answer.assignment).map_err(|error| Failure::Lost(error.to_string()))
    }

    pub(super) async fn beat(&self, who: &Identity) -> Result<(), Failure> {
        let request = HeartbeatRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id(who.generation)
            .with_member_id(text(&who.member_id))
            .with_group_instance_id(self.instance());
        check(self.call(Use::Control, &request, self.timeout()).await?.error_code)
    }

    pub(super) async fn leave(&self, member_id: &str) -> Result<(), Failure> {
        let member =
            MemberIdentity::default().with_member_id(text(member_id)).with_group_instance_id(self.instance());
        let request = LeaveGroupRequest::default().with_group_id(self.group_id()).with_members(vec![member]);
        let answer = self.call(Use::Offsets, &request, self.timeout()).await?;
        check(answer.error_code)?;
        answer.members.first().map_or(Ok(()), |member| check(member.error_code))
    }

    /// How these topics stand; `None`: not there. Every name has an entry.
    pub(super) async fn topics(&self, names: &[Arc<str>]) -> Result<Topics, Failure> {
        if names.is_empty() {
            return Ok(Topics::new());
        }
        let connection = self.any().await?;
        let topics =
            names.iter().map(|name| MetadataRequestTopic::default().with_name(Some(topic_name(name))));
        let request = MetadataRequest::default()
            .with_topics(Some(topics.collect()))
            .with_allow_auto_topic_creation(false);
        let answer = connection.call(&request, self.timeout()).await.map_err(of_call)?;
        let brokers = answer.brokers.iter().map(|broker| format!("{}:{}", &*broker.host, broker.port));
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = brokers.collect();
        let mut found: Topics = names.iter().map(|name| (name.clone(), None)).collect();
        for topic in answer.topics {
            let Some(entry) = topic.name.and_then(|name| found.get_mut(&*name.0)) else { continue };
            match ResponseError::try_from_code(topic.error_code) {
                // Without a leader for a moment: it is there all the same.
                None | Some(ResponseError::LeaderNotAvailable) => {}
                Some(ResponseError::UnknownTopicOrPartition | ResponseError::InvalidTopicException) => {
                    continue;
                }
                Some(error) => return Err(Failure::Code(error)),
            }
            if !topic.topic_id.is_nil() && !topic.partitions.is_empty() {
                let partitions = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
                *entry = Some(Topic { id: TopicId(topic.topic_id), partitions });
            }
        }
        Ok(found)
    }

    /// What the group has committed for these partitions, or for all.
    pub(super) async fn committed(
        &self,
        partitions: Option<&[TopicPartition]>,
    ) -> Result<BTreeMap<TopicPartition, Committed>, Failure> {
        let connection = self.to_coordinator(Use::Offsets).await?;
        let version = connection.version::<OffsetFetchRequest>(i16::MAX).map_err(of_call)?;
        let topics = partitions.map(|partitions| by_topic(partitions.iter().map(|p| (p.clone(), ()))));
        let numbers = |of: &[(i32, ())]| of.iter().map(|(number, ())| *number).collect::<Vec<_>>();
        let mut request = OffsetFetchRequest::default().with_require_stable(true);
        if version >= OFFSET_FETCH_OF_GROUPS {
            let topics = topics.map(|topics| {
                let topic = |(name, of): (&Arc<str>, &Vec<_>)| {
                    OffsetFetchRequestTopics::default()
                        .with_name(topic_name(name))
                        .with_partition_indexes(numbers(of))
                };
                topics.iter().map(topic).collect()
            });
            let group = OffsetFetchRequestGroup::default()
                .with_group_id(self.group_id())
                .with_member_epoch(-1)
                .with_topics(topics);
            request.groups = vec![group];
        } else {
            request.group_id = self.group_id();
            request.topics = topics.map(|topics| {
                let topic = |(name, of): (&Arc<str>, &Vec<_>)| {
                    OffsetFetchRequestTopic::default()
                        .with_name(topic_name(name))
                        .with_partition_indexes(numbers(of))
                };
                topics.iter().map(topic).collect()
            });
        }
        let answer = self.call_version(&connection, &request, version, self.timeout()).await?;
        committed_in(&answer)
    }

    /// The topics of these partitions first, then what was committed for them.
    pub(super) async fn look_up(&self, partitions: &[TopicPartition]) -> Result<LookedUp, Failure> {
        let mut names: Vec<Arc<str>> = partitions.iter().map(|partition| partition.topic.clone()).collect();
        names.dedup();
        let topics = self.topics(&names).await?;
        Ok((topics, self.committed(Some(partitions)).await?))
    }

    /// Commits all of these, or answers why the coordinator did not.
    pub(super) async fn commit(
        &self,
        who: &Identity,
        offsets: &BTreeMap<TopicPartition, (TopicId, i64)>,
    ) -> Result<(), Failure> {
        let offsets = offsets.iter().map(|(partition, at)| (partition.clone(), *at));
        let topics = by_topic(offsets).into_iter().map(|(name, of)| {
            let partitions = of.into_iter().map(|(number, (topic_id, offset))| {
                OffsetCommitRequestPartition::default()
                    .with_partition_index(number)
                    .with_committed_offset(offset)
                    .with_committed_metadata(Some(text(&format!("{TOPIC_ID}{topic_id}"))))
            });
            OffsetCommitRequestTopic::default()
                .with_name(topic_name(&name))
                .with_partitions(partitions.collect())
        });
        let request = OffsetCommitRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id_or_member_epoch(who.generation)
            .with_member_id(text(&who.member_id))
            .with_group_instance_id(self.instance())
            .with_topics(topics.collect());
        let answer = self.call(Use::Offsets, &request, self.timeout()).await?;
        answer.topics.iter().flat_map(|topic| &topic.partitions).try_for_each(|p| check(p.error_code))
    }
}

/// What an answer of either shape says was committed.
fn committed_in(answer: &OffsetFetchResponse) -> Result<BTreeMap<TopicPartition, Committed>, Failure> {
    check(answer.error_code)?;
    let mut found = BTreeMap::new();
    let mut take = |topic: &TopicName, number: i32, code: i16, offset: i64, metadata: Option<&StrBytes>| {
        match ResponseError::try_from_code(code) {
            None if offset >= 0 => {
                let committed = Committed { offset, topic_id: metadata.and_then(|text| topic_id(text)) };
                found.insert(TopicPartition::new(&*topic.0, number), committed);
                Ok(())
            }
            // Never committed, or gone with its topic.
            None | Some(ResponseError::UnknownTopicOrPartition) => Ok(()),
            Some(error) => Err(Failure::Code(error)),
        }
    };
    for topic in &answer.topics {
        for p in &topic.partitions {
            take(&topic.name, p.partition_index, p.error_code, p.committed_offset, p.metadata.as_ref())?;
        }
    }
    for group in &answer.groups {
        check(group.error_code)?;
        for topic in &group.topics {
            for p in &topic.partitions {
                take(&topic.name, p.partition_index, p.error_code, p.committed_offset, p.metadata.as_ref())?;
            }
        }
    }
    Ok(found)
}

fn topic_id(metadata: &str) -> Option<TopicId> {
    Uuid::parse_str(metadata.strip_prefix(TOPIC_ID)?).ok().map(TopicId)
}

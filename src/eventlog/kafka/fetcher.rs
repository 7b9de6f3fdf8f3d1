//! Fetch: one long poll a broker over all the partitions it leads, committed records only.
//!
//! Calls run side by side: each poll has a connection to itself for as long as it lasts, taken from a pool. As soon as one
//! broker has something, the others are given a moment and then left behind; their connections are used again once the
//! answers have come in.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use tokio::time::Instant;

use super::batch::{self, Aborted, Bounds};
use super::cluster::{Cluster, Topic};
use super::connection::Connection;
use super::error::{CallError, code, name};
use super::offsets;
use crate::eventlog::{
    FetchError, FetchFrom, FetchLimits, Fetched, FetchedRecords, LogError, PartitionOffsets, TopicId,
    TopicPartition,
};

/// How long the other brokers are waited for once one has answered with records.
const GRACE: Duration = Duration::from_millis(5);
/// Wait before a partition that could not be read is asked for again within one call.
const PAUSE: Duration = Duration::from_millis(50);
/// A broker is asked for no less, so that records of usual size come by the batch.
const PARTITION_BYTES_MIN: usize = 64 << 10;
/// A broker is asked for no more of one partition or in one answer: bounds the memory of a poll.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Answers of more bytes are read on the blocking pool.
const READ_HERE_BYTES_MAX: usize = 256 << 10;
/// How often a refusal is told of while other partitions are read.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// Idle connections kept to one broker.
const IDLE_MAX: usize = 16;
/// Since this version topics are named by their ids, and another incarnation of a topic is refused.
const TOPIC_IDS_SINCE: i16 = 13;
/// Where they are named by name, what is known of the topics may be no older.
const BY_NAME_AGE_MAX: Duration = Duration::from_secs(2);
const READ_COMMITTED: i8 = 1;

/// Reads partitions.
pub(super) struct Fetcher {
    cluster: Arc<Cluster>,
    inflated_bytes_max: usize,
    idle: Mutex<HashMap<Arc<str>, Vec<Connection>>>,
    turns: AtomicUsize,
    /// When a refusal was told of last that came along with records of other partitions.
    complained: Mutex<Option<Instant>>,
}

/// One wanted partition whose leader is known.
#[derive(Clone)]
struct Target {
    topic: Arc<Topic>,
    partition: i32,
    offset: i64,
}

impl Target {
    fn topic_partition(&self) -> TopicPartition {
        TopicPartition { topic: self.topic.name.clone(), partition: self.partition }
    }
}

/// Where the wanted partitions are to be asked for.
#[derive(Default)]
struct Plan {
    by_broker: BTreeMap<i32, Vec<Target>>,
    /// What is known without asking.
    decided: Vec<Fetched>,
    leaderless: bool,
}

/// What one broker's poll brought.
#[derive(Default)]
struct Poll {
    found: Vec<Fetched>,
    /// Partitions out of range; where they begin and end has to be asked for.
    out_of_range: Vec<Target>,
    /// What is known of the cluster is wrong.
    stale: bool,
    failure: Option<LogError>,
}

impl Fetcher {
    pub(super) fn new(cluster: Arc<Cluster>, inflated_bytes_max: usize) -> Self {
        Self {
            cluster,
            inflated_bytes_max,
            idle: Mutex::default(),
            turns: AtomicUsize::new(0),
            complained: Mutex::default(),
        }
    }

    /// See [`EventLog::fetch`](crate::eventlog::EventLog::fetch).
    pub(super) async fn fetch(
        &self,
        from: &[FetchFrom],
        limits: FetchLimits,
    ) -> Result<Vec<Fetched>, LogError> {
        let deadline = Instant::now() + limits.wait_max;
        let mut renew = false;
        loop {
            if renew {
                let generation = self.cluster.snapshot().generation;
                self.cluster.renew(generation).await.map_err(CallError::of_read)?;
            }
            let Plan { by_broker, decided, leaderless } = self.plan(from).await?;
            let wait = if decided.is_empty() {
                deadline.saturating_duration_since(Instant::now())
            } else {
                Duration::ZERO
            };
            let asked = by_broker.len();
            let mut outcome = self.poll_all(by_broker, wait, limits).await;
            outcome.found.extend(decided);
            for target in std::mem::take(&mut outcome.out_of_range) {
                match offsets::ends_of(&self.cluster, &target.topic, target.partition).await {
                    Ok(ends) if target.offset < ends.log_start || target.offset > ends.end => {
                        let topic_partition = target.topic_partition();
                        outcome.found.push(Fetched {
                            topic_partition,
                            outcome: Err(FetchError::OffsetOutOfRange(ends)),
                        });
                    }
                    // In range again: the leader is only just catching up.
                    _ => outcome.stale = true,
                }
            }
            if !outcome.found.is_empty() {
                // The others have records: what one may not read must not go unnoticed for that.
                if let Some(LogError::Forbidden(reason)) = &outcome.failure {
                    self.complain(reason);
                }
                return Ok(outcome.found);
            }
            if Instant::now() >= deadline {
                return match outcome.failure {
                    Some(error) => Err(error),
                    None if leaderless && asked == 0 => {
                        Err(LogError::Unavailable("none of the partitions has a leader".to_owned()))
                    }
                    None => Ok(Vec::new()),
                };
            }
            renew = outcome.stale || leaderless || outcome.failure.is_some();
            if renew {
                tokio::time::sleep(PAUSE.min(deadline.saturating_duration_since(Instant::now()))).await;
            }
        }
    }

    /// Says what is refused, now and then.
    fn complain(&self, reason: &str) {
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            *complained = Some(Instant::now());
            tracing::error!(error = reason, "a part of what is to be read is refused");
        }
    }

    /// Whom to ask for what; each call begins with another partition, so that a full answer starves none for ever.
    async fn plan(&self, from: &[FetchFrom]) -> Result<Plan, LogError> {
        let mut plan = Plan::default();
        let first = self.turns.fetch_add(1, Ordering::Relaxed) % from.len().max(1);
        let (behind, ahead) = from.split_at(first);
        for wanted in ahead.iter().chain(behind) {
            let unknown = |now: Option<TopicId>| Fetched {
                topic_partition: wanted.topic_partition.clone(),
                outcome: Err(FetchError::UnknownTopic { now }),
            };
            let topic = match self.cluster.topic(&wanted.topic_partition.topic).await {
                Ok(topic) => topic,
                Err(LogError::TopicMissing(_)) => {
                    plan.decided.push(unknown(None));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let partition = wanted.topic_partition.partition;
            let leader = topic.leader(partition).filter(|_| topic.id == wanted.topic_id);
            match leader {
                None => plan.decided.push(unknown(Some(topic.id))),
                Some(leader) if leader.broker < 0 => plan.leaderless = true,
                Some(leader) => plan.by_broker.entry(leader.broker).or_default().push(Target {
                    topic,
                    partition,
                    offset: wanted.offset,
                }),
            }
        }
        Ok(plan)
    }

    async fn poll_all(
        &self,
        by_broker: BTreeMap<i32, Vec<Target>>,
        wait: Duration,
        limits: FetchLimits,
    ) -> Poll {
        let mut polls: FuturesUnordered<_> =
            by_broker.into_iter().map(|(broker, targets)| self.poll(broker, targets, wait, limits)).collect();
        let mut all = Poll::default();
        let mut left = limits.bytes_max;
        let mut until = None;
        loop {
            let next = match until {
                None => polls.next().await,
                Some(until) => tokio::time::timeout_at(until, polls.next()).await.unwrap_or(None),
            };
            let Some(poll) = next else { break };
            all.stale |= poll.stale;
            all.out_of_range.extend(poll.out_of_range);
            all.failure = all.failure.or(poll.failure);
            for fetched in poll.found {
                // Whole partitions over the bound are dropped and fetched again.
                if left == 0 && fetched.outcome.is_ok() {
                    continue;
                }
                if let Ok(records) = &fetched.outcome {
                    let bytes: usize = records.records.iter().map(record_bytes).sum();
                    left = left.saturating_sub(bytes);
                }
                all.found.push(fetched);
            }
            if until.is_none() && (!all.found.is_empty() || !all.out_of_range.is_empty() || all.stale) {
                until = Some(Instant::now() + GRACE);
            }
        }
        all
    }

    async fn poll(&self, broker: i32, targets: Vec<Target>, wait: Duration, limits: FetchLimits) -> Poll {
        match self.ask(broker, &targets, wait, limits).await {
            Ok(response) => self.read(response, targets, limits).await,
            Err(error) => Poll { stale: true, failure: Some(error.of_read()), ..Poll::default() },
        }
    }

    async fn ask(
        &self,
        broker: i32,
        targets: &[Target],
        wait: Duration,
        limits: FetchLimits,
    ) -> Result<FetchResponse, CallError> {
        let address = self.cluster.address(broker)?;
        let connection = self.take(&address).await?;
        let version = connection.version::<FetchRequest>(i16::MAX)?;
        if version < TOPIC_IDS_SINCE {
            let snapshot = self.cluster.snapshot();
            if snapshot.at.is_none_or(|at| at.elapsed() > BY_NAME_AGE_MAX) {
                self.cluster.renew(snapshot.generation).await?;
            }
        }
        let request = request(targets, wait, limits);
        let call = connection.call_version(&request, version, wait + self.cluster.request_timeout());
        let mut held = Held { fetcher: self, address, connection: Some(connection) };
        let response = call.await;
        held.give_back();
        response
    }

    /// An idle connection, or a new one.
    async fn take(&self, address: &Arc<str>) -> Result<Connection, CallError> {
        let idle = {
            let mut idle = self.idle();
            let connections = idle.entry(address.clone()).or_default();
            connections.retain(Connection::is_open);
            let free = connections.iter().position(|connection| connection.under_way() == 0);
            free.map(|at| connections.swap_remove(at))
        };
        match idle {
            Some(connection) => Ok(connection),
            None => self.cluster.dialer().open(address).await,
        }
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<Arc<str>, Vec<Connection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(&self, response: FetchResponse, targets: Vec<Target>, limits: FetchLimits) -> Poll {
        let mut poll = Poll::default();
        if response.error_code != 0 {
            poll.stale = true;
            poll.failure = Some(LogError::Unavailable(name(response.error_code)));
            return poll;
        }
        let mut readable = Vec::new();
        for (id, topic, data) in response.responses.into_iter().flat_map(|answer| {
            let (id, topic) = (answer.topic_id, answer.topic);
            answer.partitions.into_iter().map(move |data| (id, topic.clone(), data))
        }) {
            let target = targets.iter().find(|target| {
                let same = if id.is_nil() { *target.topic.name == **topic } else { target.topic.id.0 == id };
                same && target.partition == data.partition_index
            });
            let Some(target) = target else { continue };
            match data.error_code {
                0 => readable.push((target.clone(), data)),
                code::OFFSET_OUT_OF_RANGE => poll.out_of_range.push(target.clone()),
                code::CORRUPT_MESSAGE => poll.found.push(Fetched {
                    topic_partition: target.topic_partition(),
                    outcome: Err(FetchError::Corrupt { offset: target.offset }),
                }),
                code::TOPIC_AUTHORIZATION_FAILED => {
                    let (topic, rights) = (&*target.topic.name, self.cluster.dialer().rights());
                    let allow = rights.on_topics(&["Read"], [topic]);
                    poll.failure = Some(LogError::Forbidden(format!(
                        "{} may not read topic {topic}: {allow}",
                        rights.who()
                    )));
                }
                // The topic is gone or another one, or its leader moved: the cluster knows.
                other => {
                    poll.stale = true;
                    tracing::debug!(partition = %target.topic_partition(), error = name(other), "not read now");
                }
            }
        }
        let bytes: usize = readable.iter().map(|(_, data)| data.records.as_ref().map_or(0, Bytes::len)).sum();
        let inflated_bytes_max = self.inflated_bytes_max;
        let gather = move || {
            let gathered =
                readable.into_iter().map(|(target, data)| gather(&target, data, limits, inflated_bytes_max));
            gathered.flatten().collect::<Vec<_>>()
        };
        let found = if bytes <= READ_HERE_BYTES_MAX {
            Ok(gather())
        } else {
            tokio::task::spawn_blocking(gather).await
        };
        match found {
            Ok(found) => poll.found.extend(found),
            Err(error) => poll.failure = Some(LogError::Unavailable(error.to_string())),
        }
        poll
    }
}

/// A connection on loan. If the poll is dropped before its answer came, the connection goes back all the same: it is
/// used again once that answer is in.
struct Held<'f> {
    fetcher: &'f Fetcher,
    address: Arc<str>,
    connection: Option<Connection>,
}

impl Held<'_> {
    fn give_back(&mut self) {
        let Some(connection) = self.connection.take().filter(Connection::is_open) else { return };
        let mut idle = self.fetcher.idle();
        let connections = idle.entry(self.address.clone()).or_default();
        if connections.len() < IDLE_MAX {
            connections.push(connection);
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}

fn request(targets: &[Target], wait: Duration, limits: FetchLimits) -> FetchRequest {
    let bytes =
        |bytes: usize| i32::try_from(bytes.clamp(PARTITION_BYTES_MIN, ANSWER_BYTES_MAX)).unwrap_or(i32::MAX);
    let mut topics: Vec<FetchTopic> = Vec::new();
    for target in targets {
        let partition = FetchPartition::default()
            .with_partition(target.partition)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(target.offset)
            .with_last_fetched_epoch(-1)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(bytes(limits.partition_bytes_max));
        match topics.iter_mut().find(|topic| topic.topic_id == target.topic.id.0) {
            Some(topic) => topic.partitions.push(partition),
            None => topics.push(
                FetchTopic::default()
                    .with_topic(TopicName(StrBytes::from_string(target.topic.name.to_string())))
                    .with_topic_id(target.topic.id.0)
                    .with_partitions(vec![partition]),
            ),
        }
    }
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX))
        .with_min_bytes(1)
        .with_max_bytes(bytes(limits.bytes_max))
        .with_isolation_level(READ_COMMITTED)
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(topics)
}

/// `None`: nothing to say of this partition.
fn gather(
    target: &Target,
    data: PartitionData,
    limits: FetchLimits,
    inflated_bytes_max: usize,
) -> Option<Fetched> {
    let aborted = data.aborted_transactions.unwrap_or_default().into_iter();
    let aborted = aborted.map(|of| Aborted { producer_id: of.producer_id.0, first_offset: of.first_offset });
    let bounds = Bounds { from: target.offset, bytes_max: limits.partition_bytes_max, inflated_bytes_max };
    let gathered = batch::gather(data.records.unwrap_or_default(), bounds, aborted.collect());
    let next_offset = gathered.next_offset.unwrap_or(target.offset);
    let outcome = if gathered.corrupt && next_offset == target.offset {
        Err(FetchError::Corrupt { offset: next_offset })
    } else if next_offset == target.offset {
        return None;
    } else {
        let (log_start, end) = (data.log_start_offset.max(0), data.high_watermark);
        let offsets = PartitionOffsets { log_start, end: end.max(next_offset) };
        Ok(FetchedRecords { records: gathered.records, next_offset, offsets })
    };
    Some(Fetched { topic_partition: target.topic_partition(), outcome })
}

fn record_bytes(record: &crate::eventlog::Record) -> usize {
    let headers: usize = record.headers.iter().map(|header| header.name.len() + header.value.len()).sum();
    record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len) + headers
}

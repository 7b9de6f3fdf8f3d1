//! The task that sends: one loop over what callers hand over and what brokers answer.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{ProduceRequest, ProduceResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::answers::{find, meaning, new_producer};
use super::broker::{Broker, Ready};
use super::inbox::{Command, Taker, Wanted};
use super::lane::{Answer, Ticket};
use super::partition::{PAUSE_MAX, PAUSE_MIN, Partition, pause};
use super::{Job, Trouble};
use crate::eventlog::kafka::KafkaOptions;
use crate::eventlog::kafka::batch::ProducerId;
use crate::eventlog::kafka::cluster::{Cluster, Known, Purpose, Snapshot};
use crate::eventlog::kafka::connection::Connection;
use crate::eventlog::kafka::error::{CallError, code, name};
use crate::eventlog::{LogError, TopicId};
use crate::telemetry::names;

/// Requests of one broker that are under way.
const REQUESTS_MAX: usize = 5;
/// A request is full with this many bytes; one batch may come on top.
const REQUEST_BYTES_MAX: usize = 8 << 20;
/// How often deadlines are looked at while records wait.
const DEADLINES_EVERY: Duration = Duration::from_millis(100);
/// Time a broker is given to answer after the time it was given to replicate.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

pub(super) type Key = (TopicId, i32);

/// What a future of the loop ended with.
enum Event {
    Dialed { broker: i32, outcome: Result<Connection, CallError> },
    Answered { broker: i32, sent: Vec<(Key, Ticket)>, outcome: Result<ProduceResponse, CallError> },
    Renewed(Result<Arc<Snapshot>, CallError>),
    Identified(Result<ProducerId, LogError>),
}

pub(super) struct Sender {
    options: KafkaOptions,
    cluster: Arc<Cluster>,
    trouble: Trouble,
    partitions: HashMap<Key, Partition>,
    brokers: BTreeMap<i32, Broker>,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    producer: Option<ProducerId>,
    identifying: bool,
    identify_after: Option<Instant>,
    renewing: bool,
    renewal_wanted: bool,
    renew_after: Option<Instant>,
    renewed_at: Instant,
    flushes: Vec<oneshot::Sender<()>>,
    deadlines_at: Instant,
}

impl Sender {
    pub(super) fn new(options: KafkaOptions, cluster: Arc<Cluster>, trouble: Trouble) -> Self {
        let now = Instant::now();
        Self {
            options,
            cluster,
            trouble,
            partitions: HashMap::new(),
            brokers: BTreeMap::new(),
            events: FuturesUnordered::new(),
            producer: None,
            identifying: false,
            identify_after: None,
            renewing: false,
            renewal_wanted: false,
            renew_after: None,
            renewed_at: now,
            flushes: Vec::new(),
            deadlines_at: now,
        }
    }

    /// Until nobody can hand anything over any more.
    pub(super) async fn run(mut self, inbox: &Taker) {
        let mut commands = Vec::new();
        loop {
            let (wake, wanted) = (self.next_wake(), self.wanted());
            tokio::select! {
                biased;
                Some(event) = self.events.next(), if !self.events.is_empty() => self.hear(event),
                () = inbox.wait(wanted) => {}
                () = tokio::time::sleep_until(wake) => {}
            }
            if !inbox.take(&mut commands) {
                return;
            }
            for command in commands.drain(..) {
                self.take(command);
            }
            let now = Instant::now();
            if now >= self.deadlines_at {
                self.deadlines_at = now + DEADLINES_EVERY;
                self.give_up_late(now);
            }
            self.end_pauses(now);
            self.send_all(now);
            self.tell();
        }
    }

    /// Forgets times that are over: the loop would wake for them again and again.
    fn end_pauses(&mut self, now: Instant) {
        let after = |until: &Instant| *until > now;
        for broker in self.brokers.values_mut() {
            broker.paused_until = broker.paused_until.filter(after);
        }
        self.renew_after = self.renew_after.filter(after);
        self.identify_after = self.identify_after.filter(after);
    }

    fn take(&mut self, command: Command) {
        let Job { topic, records, .. } = match command {
            Command::Produce(job) => job,
            Command::Flush(done) => return self.flushes.push(done),
        };
        for (number, record, slot) in records {
            let partition = self.partitions.entry((topic.id, number));
            partition.or_insert_with(|| Partition::new(topic.clone(), number)).add(record, slot);
        }
    }

    /// When the loop has something to do without being told.
    fn next_wake(&self) -> Instant {
        let idle = Instant::now() + Duration::from_secs(60);
        let of_partition = |partition: &Partition| {
            [Some(self.deadlines_at), partition.paused_until].into_iter().flatten().min()
        };
        let partitions =
            self.partitions.values().filter(|partition| !partition.is_idle()).filter_map(of_partition);
        let brokers = self.brokers.values().filter_map(|broker| broker.paused_until);
        let others = [self.renew_after, self.identify_after].into_iter().flatten();
        let soonest = Instant::now() + Duration::from_millis(1);
        partitions.chain(brokers).chain(others).min().map_or(idle, |at| at.max(soonest).min(idle))
    }

    /// What has to be handed over before the loop has something to do with it. A broker that was not written to yet
    /// counts as any that has nothing to answer.
    fn wanted(&self) -> Wanted {
        let of_broker = |id: &i32| self.brokers.get(id).map_or(1, Broker::wanted);
        let records = self.cluster.snapshot().brokers.keys().map(of_broker).min().unwrap_or(1);
        // More of a partition whose batch is full changes nothing.
        let batch_bytes_max = self.options.batch_bytes_max;
        let missing = self.partitions.values().map(|p| batch_bytes_max.saturating_sub(p.queued_bytes));
        Wanted { records, bytes: missing.filter(|bytes| *bytes > 0).min().unwrap_or(batch_bytes_max).max(1) }
    }

    /// Drops what nobody waits for any more, and answers those whose time is over.
    fn give_up_late(&mut self, now: Instant) {
        for partition in self.partitions.values_mut() {
            partition.give_up_late(now, self.options.delivery_timeout);
        }
        self.partitions.retain(|_, partition| !partition.is_idle() || partition.lane.producer().is_some());
    }

    fn send_all(&mut self, now: Instant) {
        let snapshot = self.cluster.snapshot();
        let mut by_broker: BTreeMap<i32, Ready> = BTreeMap::new();
        let mut gone = Vec::new();
        let mut producer_wanted = false;
        for (key, partition) in &mut self.partitions {
            if partition.is_idle() || partition.paused_until.is_some_and(|until| until > now) {
                continue;
            }
            partition.paused_until = None;
            let leader = match snapshot.topics.get(&partition.topic.name) {
                Some(Known::There(topic)) if topic.id == key.0 => {
                    topic.leader(key.1).filter(|leader| leader.broker >= 0)
                }
                Some(Known::There(_) | Known::Missing(_)) => {
                    gone.push(*key);
                    continue;
                }
                Some(Known::Forbidden) => {
                    partition.last_error = Some(self.cluster.forbidden(&partition.topic.name));
                    None
                }
                Some(Known::WithoutId) | None => None,
            };
            let Some(leader) = leader else {
                partition.last_error.get_or_insert_with(|| {
                    LogError::Unavailable(format!(
                        "{}-{} has no leader",
                        partition.topic.name, partition.number
                    ))
                });
                partition.pause(now);
                self.renewal_wanted = true;
                continue;
            };
            if partition.lane.needs_producer() {
                match self.producer {
                    Some(producer) => partition.lane.begin(producer),
                    None => {
                        producer_wanted = true;
                        continue;
                    }
                }
            }
            if partition.has_something() {
                let ready = by_broker.entry(leader.broker).or_default();
                ready.keys.push(*key);
                ready.full |= partition.is_full(&self.options);
            }
        }
        for key in gone {
            if let Some(partition) = self.partitions.remove(&key) {
                partition.end();
            }
        }
        for (id, ready) in by_broker {
            if self.brokers.entry(id).or_default().is_time(&ready) {
                self.send_to(id, &ready.keys);
            }
        }
        if producer_wanted {
            self.identify();
        }
        self.renew(now);
    }

    fn send_to(&mut self, id: i32, keys: &[Key]) {
        let broker = self.brokers.entry(id).or_default();
        if broker.dialing || broker.paused_until.is_some() {
            return;
        }
        let Some(connection) = broker.connection.clone().filter(Connection::is_open) else {
            // What was under way on the old connection is heard of first.
            if broker.under_way == 0 {
                broker.connection = None;
                broker.dialing = true;
                self.dial(id);
            }
            return;
        };
        if broker.under_way >= REQUESTS_MAX {
            return;
        }
        let version = match connection.version::<ProduceRequest>(i16::MAX) {
            Ok(version) => version,
            Err(error) => {
                self.broker_failed(id, &error);
                return;
            }
        };
        let (topics, sent) = self.gather(keys);
        if sent.is_empty() {
            return;
        }
        let replicate = self.options.request_timeout;
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(i32::try_from(replicate.as_millis()).unwrap_or(i32::MAX))
            .with_topic_data(topics);
        names::KAFKA_PRODUCE_REQUESTS.counter(&[]).increment(1);
        if let Some(broker) = self.brokers.get_mut(&id) {
            broker.under_way += 1;
        }
        let call = connection.call_version(&request, version, replicate + ANSWER_WITHIN);
        self.events.push(Box::pin(async move { Event::Answered { broker: id, sent, outcome: call.await } }));
    }

    /// At most one batch of each partition.
    fn gather(&mut self, keys: &[Key]) -> (Vec<TopicProduceData>, Vec<(Key, Ticket)>) {
        let mut topics: Vec<TopicProduceData> = Vec::new();
        let (mut sent, mut bytes) = (Vec::new(), 0);
        for key in keys {
            if bytes >= REQUEST_BYTES_MAX {
                break;
            }
            let Some(partition) = self.partitions.get_mut(key) else { continue };
            if !partition.lane.can_send() && partition.lane.has_room() {
                partition.fill(&self.options);
            }
            let Some((ticket, batch)) = partition.lane.send_next() else { continue };
            let records = batch.encoded();
            bytes += records.len();
            let data = PartitionProduceData::default().with_index(key.1).with_records(Some(records));
            match topics.iter_mut().find(|topic| topic.topic_id == key.0.0) {
                Some(topic) => topic.partition_data.push(data),
                None => topics.push(
                    TopicProduceData::default()
                        .with_name(TopicName(StrBytes::from_string(partition.topic.name.to_string())))
                        .with_topic_id(key.0.0)
                        .with_partition_data(vec![data]),
                ),
            }
            sent.push((*key, ticket));
        }
        (topics, sent)
    }

    fn dial(&self, broker: i32) {
        let cluster = self.cluster.clone();
        self.events.push(Box::pin(async move {
            let outcome = match cluster.address(broker) {
                Ok(address) => cluster.connection_to(&address, Purpose::Produce).await,
                Err(error) => Err(error),
            };
            Event::Dialed { broker, outcome }
        }));
    }

    fn identify(&mut self) {
        if self.identifying || self.identify_after.is_some() {
            return;
        }
        self.identifying = true;
        self.identify_after = None;
        let cluster = self.cluster.clone();
        self.events.push(Box::pin(async move { Event::Identified(new_producer(&cluster).await) }));
    }

    fn renew(&mut self, now: Instant) {
        let old = now.duration_since(self.renewed_at) >= self.options.metadata_max_age
            && self.partitions.values().any(|partition| !partition.is_idle());
        if self.renewing || !(self.renewal_wanted || old) || self.renew_after.is_some() {
            return;
        }
        (self.renewing, self.renewal_wanted, self.renew_after) = (true, false, None);
        let cluster = self.cluster.clone();
        let generation = cluster.snapshot().generation;
        self.events.push(Box::pin(async move { Event::Renewed(cluster.renew(generation).await) }));
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Dialed { broker, outcome } => {
                if let Some(broker) = self.brokers.get_mut(&broker) {
                    broker.dialing = false;
                }
                match outcome {
                    Ok(connection) => {
                        let broker = self.brokers.entry(broker).or_default();
                        broker.connection = Some(connection);
                        broker.failures = 0;
                    }
                    Err(error) => self.broker_failed(broker, &error),
                }
            }
            Event::Answered { broker, sent, outcome } => {
                if let Some(broker) = self.brokers.get_mut(&broker) {
                    broker.under_way = broker.under_way.saturating_sub(1);
                }
                self.answered(broker, sent, outcome);
            }
            Event::Renewed(outcome) => {
                self.renewing = false;
                self.renewed_at = Instant::now();
                // Not too often while the brokers are still choosing leaders.
                self.renew_after = Some(Instant::now() + PAUSE_MIN * 5);
                if let Err(error) = outcome {
                    self.renewal_wanted = true;
                    let error = error.of_read();
                    for partition in self.partitions.values_mut().filter(|partition| !partition.is_idle()) {
                        partition.last_error = Some(error.clone());
                    }
                }
            }
            Event::Identified(Ok(producer)) => {
                self.identifying = false;
                self.producer = Some(producer);
                names::KAFKA_PRODUCER_IDS.counter(&[]).increment(1);
            }
            Event::Identified(Err(error)) => {
                self.identifying = false;
                self.identify_after = Some(Instant::now() + PAUSE_MAX);
                let waiting =
                    self.partitions.values_mut().filter(|partition| partition.lane.needs_producer());
                for partition in waiting.filter(|partition| !partition.is_idle()) {
                    partition.last_error = Some(error.clone());
                    if matches!(error, LogError::Forbidden(_)) {
                        partition.refuse_queue(&error);
                    }
                }
            }
        }
    }

    fn broker_failed(&mut self, id: i32, error: &CallError) {
        let now = Instant::now();
        let broker = self.brokers.entry(id).or_default();
        broker.failures += 1;
        broker.paused_until = Some(now + pause(broker.failures));
        self.renewal_wanted = true;
        let snapshot = self.cluster.snapshot();
        let error = error.clone().of_read();
        for (key, partition) in &mut self.partitions {
            let leader = snapshot.topic(&partition.topic.name).and_then(|topic| topic.leader(key.1));
            if leader.is_some_and(|leader| leader.broker == id) && !partition.is_idle() {
                partition.last_error = Some(error.clone());
            }
        }
    }

    fn answered(
        &mut self,
        broker: i32,
        sent: Vec<(Key, Ticket)>,
        outcome: Result<ProduceResponse, CallError>,
    ) {
        match outcome {
            Ok(response) => {
                for (key, ticket) in sent {
                    let topic = self.partitions.get(&key).map(|partition| partition.topic.name.clone());
                    let answer = topic.and_then(|topic| find(&response, key, &topic));
                    match answer {
                        Some(found) => self.partition_answered(key, ticket, found),
                        None => {
                            let error =
                                LogError::OutcomeUnknown("the broker left out the partition".to_owned());
                            self.partition_failed(key, ticket, Answer::Unknown, error, "no_answer");
                        }
                    }
                }
            }
            Err(error) => {
                let lost = matches!(error, CallError::Lost { .. });
                let (answer, reason) =
                    if lost { (Answer::Unknown, "lost_answer") } else { (Answer::NotNow, "unreachable") };
                self.broker_failed(broker, &error);
                for (key, ticket) in sent {
                    self.partition_failed(key, ticket, answer, error.clone().of_write(), reason);
                }
            }
        }
    }

    fn partition_answered(&mut self, key: Key, ticket: Ticket, found: &PartitionProduceResponse) {
        let Some(partition) = self.partitions.get_mut(&key) else { return };
        if found.error_code == 0 {
            partition.failures = 0;
            partition.last_error = None;
            let ended = partition.lane.answered(ticket, Answer::Stored(found.base_offset));
            partition.settle(ended);
            return;
        }
        let answer = meaning(found.error_code);
        let said = found.error_message.as_deref().unwrap_or_default();
        let mut told = format!("{}-{}: {}", partition.topic.name, key.1, name(found.error_code));
        if !said.is_empty() {
            told = format!("{told}: {said}");
        }
        let error = match (found.error_code, answer) {
            (code::TOPIC_AUTHORIZATION_FAILED | code::CLUSTER_AUTHORIZATION_FAILED, _) => {
                let rights = self.cluster.dialer().rights();
                let allow = rights.on_topics(&["Write"], [&*partition.topic.name]);
                LogError::Forbidden(format!("{} may not write: {told}: {allow}", rights.who()))
            }
            (code::MESSAGE_TOO_LARGE | code::RECORD_LIST_TOO_LARGE, _) => {
                LogError::RecordTooLarge { bytes: 0, bytes_max: 0 }
            }
            (_, Answer::Unknown) => LogError::OutcomeUnknown(told),
            _ => LogError::Unavailable(told),
        };
        if answer == Answer::NotNow {
            self.renewal_wanted = true;
        }
        self.partition_failed(key, ticket, answer, error, "refused");
    }

    fn partition_failed(
        &mut self,
        key: Key,
        ticket: Ticket,
        answer: Answer,
        error: LogError,
        reason: &'static str,
    ) {
        let Some(partition) = self.partitions.get_mut(&key) else { return };
        names::KAFKA_PRODUCE_RETRIES.counter(&[("reason", reason)]).increment(1);
        tracing::debug!(topic = &*partition.topic.name, partition = key.1, ?answer, %error, "a batch was not taken");
        partition.last_error = Some(error);
        let before = partition.lane.producer();
        let ended = partition.lane.answered(ticket, answer);
        partition.settle(ended);
        if partition.lane.needs_producer() && before == self.producer {
            // Given up by this partition: it must not get the same one again.
            self.producer = None;
        }
        if matches!(answer, Answer::NotNow | Answer::Unknown)
            && let Some(partition) = self.partitions.get_mut(&key)
        {
            partition.pause(Instant::now());
        }
    }

    /// Says why records wait, and who waited for the queues to be empty that they are.
    fn tell(&mut self) {
        for partition in self.partitions.values_mut().filter(|partition| partition.is_idle()) {
            partition.last_error = None;
        }
        let waiting = self.partitions.values().filter(|partition| !partition.is_idle());
        let troubled = waiting.filter_map(|partition| partition.last_error.as_ref()).next();
        let trouble = troubled.map(ToString::to_string);
        if trouble.is_some() || self.trouble.get().is_some() {
            self.trouble.set(trouble);
        }
        if !self.flushes.is_empty() && self.partitions.values().all(Partition::is_idle) {
            for done in self.flushes.drain(..) {
                // Who asked may have gone away.
                let _ = done.send(());
            }
        }
    }
}

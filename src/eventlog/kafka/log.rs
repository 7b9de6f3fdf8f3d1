//! The event log on Kafka: one cluster, one producer, one fetcher, any number of group members.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::KafkaOptions;
use super::cluster::Cluster;
use super::dialer::Dialer;
use super::error::CallError;
use super::fetcher::Fetcher;
use super::group::{GroupOptions, Groups};
use super::producer::Producer;
use super::{offsets, settings, topics};
use crate::event::{IdSource, Timestamp};
use crate::eventlog::{
    EventLog, FetchFrom, FetchLimits, Fetched, GroupMember, GroupSpec, LogError, NewRecord, Position,
    TopicDescription, TopicPartition, TopicSettings, TopicSpec,
};
use crate::lifecycle::{Stop, Tasks};

const JOIN_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The event log on Kafka. Clones are handles of the same.
#[derive(Clone)]
pub struct KafkaLog(Arc<Inner>);

struct Inner {
    options: KafkaOptions,
    cluster: Arc<Cluster>,
    producer: Producer,
    fetcher: Fetcher,
    groups: Groups,
    /// Carries the connections and the producer; ends when the log is closed.
    tasks: Tasks,
    closed: CancellationToken,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.closed.cancel();
        self.tasks.stop().hard();
    }
}

impl KafkaLog {
    /// A log on this cluster. Asks no broker: one that is down is found when it is needed, and found again when it is
    /// back.
    ///
    /// # Errors
    /// The certificates that `eventlog.kafka.tls_ca_file` names cannot be read.
    pub fn open(options: KafkaOptions, ids: Arc<dyn IdSource>) -> Result<Self, LogError> {
        let tasks = Tasks::new(Stop::default());
        let closed = CancellationToken::new();
        let dialer = Dialer::new(&options, ids, tasks.clone()).map_err(CallError::of_read)?;
        let cluster = Arc::new(Cluster::new(&options, dialer.clone()));
        let producer = Producer::start(&options, &cluster, &tasks);
        let fetcher = Fetcher::new(cluster.clone(), options.inflated_bytes_max);
        let group_options = GroupOptions {
            bootstrap_servers: options.bootstrap_servers.clone(),
            session_timeout: options.session_timeout,
            heartbeat_interval: options.heartbeat_interval,
            request_timeout: options.request_timeout,
        };
        let groups = Groups::new(dialer, group_options, tasks.clone(), closed.clone());
        Ok(Self(Arc::new(Inner { options, cluster, producer, fetcher, groups, tasks, closed })))
    }
}

impl Inner {
    /// Runs `work` unless the log is closed, or closes meanwhile.
    async fn open<T>(&self, work: impl Future<Output = Result<T, LogError>>) -> Result<T, LogError> {
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(LogError::Unavailable("the log is closed".to_owned())),
            outcome = work => outcome,
        }
    }
}

#[async_trait]
impl EventLog for KafkaLog {
    fn kind(&self) -> &'static str {
        "kafka"
    }

    async fn produce(&self, topic: &str, records: Vec<NewRecord>) -> Vec<Result<Position, LogError>> {
        if records.is_empty() {
            return Vec::new();
        }
        let count = records.len();
        if self.0.closed.is_cancelled() {
            return vec![Err(LogError::Unavailable("the log is closed".to_owned())); count];
        }
        // Once handed over, only the producer knows what became of the records: it ends every call within its time.
        let answers = self.0.producer.produce(topic, records).await;
        answers.unwrap_or_else(|error| vec![Err(error); count])
    }

    async fn fetch(&self, from: &[FetchFrom], limits: FetchLimits) -> Result<Vec<Fetched>, LogError> {
        self.0.open(self.0.fetcher.fetch(from, limits)).await
    }

    async fn join(&self, spec: GroupSpec) -> Result<Box<dyn GroupMember>, LogError> {
        // A broker that has only just started finds its coordinators in a moment.
        let deadline = Instant::now() + self.0.options.connect_timeout;
        let join = async {
            loop {
                match self.0.groups.join(spec.clone()).await {
                    Err(LogError::Unavailable(_)) if Instant::now() < deadline => {
                        tokio::time::sleep(JOIN_AGAIN_AFTER).await;
                    }
                    outcome => return outcome,
                }
            }
        };
        self.0.open(join).await
    }

    async fn create_topics(&self, topics: &[TopicSpec]) -> Result<Vec<Arc<str>>, LogError> {
        self.0.open(topics::create(&self.0.cluster, &self.0.options, topics)).await
    }

    async fn grow_topic(&self, topic: &str, partitions: i32) -> Result<(), LogError> {
        self.0.open(topics::grow(&self.0.cluster, &self.0.options, topic, partitions)).await
    }

    async fn delete_topic(&self, topic: &str) -> Result<(), LogError> {
        self.0.open(topics::delete(&self.0.cluster, &self.0.options, topic)).await
    }

    async fn topics(&self) -> Result<Vec<TopicDescription>, LogError> {
        self.0.open(topics::describe(&self.0.cluster)).await
    }

    async fn topic_settings(&self, topics: &[Arc<str>]) -> Result<Vec<TopicSettings>, LogError> {
        self.0.open(settings::of(&self.0.cluster, topics)).await
    }

    async fn committed(&self, group: &str) -> Result<BTreeMap<TopicPartition, i64>, LogError> {
        self.0.open(self.0.groups.committed(group)).await
    }

    async fn offsets_at(&self, topic: &str, at: Timestamp) -> Result<Vec<i64>, LogError> {
        let find = async {
            let topic = self.0.cluster.topic(topic).await?;
            offsets::at(&self.0.cluster, &topic, at.as_millis()).await
        };
        self.0.open(find).await
    }

    /// The brokers answer, and no record waits for one that does not.
    async fn probe(&self) -> Result<(), LogError> {
        let ask = async {
            let generation = self.0.cluster.snapshot().generation;
            self.0.cluster.renew(generation).await.map_err(CallError::of_read)?;
            match self.0.producer.trouble() {
                Some(reason) => Err(LogError::Unavailable(reason)),
                None => Ok(()),
            }
        };
        self.0.open(ask).await
    }

    async fn close(&self) {
        if self.0.closed.is_cancelled() {
            return;
        }
        self.0.closed.cancel();
        self.0.producer.flush().await;
        self.0.tasks.stop().hard();
    }
}

//! A log whose topics and groups have a prefix that its user does not see: many tests on one broker.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::event::Timestamp;
use crate::eventlog::{
    AssignedPartition, CommitError, Committer, EventLog, FetchFrom, FetchLimits, Fetched, Generation,
    GroupEvent, GroupMember, GroupSpec, KafkaLog, LogError, NewRecord, Position, TopicDescription,
    TopicPartition, TopicSettings, TopicSpec,
};

pub(super) struct Apart {
    pub(super) log: KafkaLog,
    pub(super) prefix: String,
}

fn put(prefix: &str, name: &str) -> Arc<str> {
    format!("{prefix}{name}").into()
}

fn take(prefix: &str, name: &str) -> Arc<str> {
    name.strip_prefix(prefix).expect("a topic of this test").into()
}

fn put_partition(prefix: &str, partition: &TopicPartition) -> TopicPartition {
    TopicPartition { topic: put(prefix, &partition.topic), ..*partition }
}

fn take_partition(prefix: &str, partition: &TopicPartition) -> TopicPartition {
    TopicPartition { topic: take(prefix, &partition.topic), ..*partition }
}

fn told(prefix: &str, error: LogError) -> LogError {
    match error {
        LogError::TopicMissing(topic) => LogError::TopicMissing(take(prefix, &topic)),
        other => other,
    }
}

#[async_trait]
impl EventLog for Apart {
    fn kind(&self) -> &'static str {
        self.log.kind()
    }

    async fn produce(&self, topic: &str, records: Vec<NewRecord>) -> Vec<Result<Position, LogError>> {
        let answers = self.log.produce(&put(&self.prefix, topic), records).await;
        answers.into_iter().map(|answer| answer.map_err(|error| told(&self.prefix, error))).collect()
    }

    async fn fetch(&self, from: &[FetchFrom], limits: FetchLimits) -> Result<Vec<Fetched>, LogError> {
        let put = |from: &FetchFrom| FetchFrom {
            topic_partition: put_partition(&self.prefix, &from.topic_partition),
            ..from.clone()
        };
        let found = self.log.fetch(&from.iter().map(put).collect::<Vec<_>>(), limits).await?;
        let take = |found: Fetched| Fetched {
            topic_partition: take_partition(&self.prefix, &found.topic_partition),
            ..found
        };
        Ok(found.into_iter().map(take).collect())
    }

    async fn join(&self, spec: GroupSpec) -> Result<Box<dyn GroupMember>, LogError> {
        let topics = spec.topics.iter().map(|topic| put(&self.prefix, topic)).collect();
        let spec = GroupSpec { group: put(&self.prefix, &spec.group), topics, ..spec };
        let member = self.log.join(spec).await?;
        Ok(Box::new(ApartMember { member, prefix: self.prefix.clone() }))
    }

    async fn create_topics(&self, topics: &[TopicSpec]) -> Result<Vec<Arc<str>>, LogError> {
        let put = |spec: &TopicSpec| TopicSpec { name: put(&self.prefix, &spec.name), ..spec.clone() };
        let made = self.log.create_topics(&topics.iter().map(put).collect::<Vec<_>>()).await?;
        Ok(made.iter().map(|name| take(&self.prefix, name)).collect())
    }

    async fn grow_topic(&self, topic: &str, partitions: i32) -> Result<(), LogError> {
        let grown = self.log.grow_topic(&put(&self.prefix, topic), partitions).await;
        grown.map_err(|error| told(&self.prefix, error))
    }

    async fn delete_topic(&self, topic: &str) -> Result<(), LogError> {
        let deleted = self.log.delete_topic(&put(&self.prefix, topic)).await;
        deleted.map_err(|error| told(&self.prefix, error))
    }

    async fn topics(&self) -> Result<Vec<TopicDescription>, LogError> {
        let all = self.log.topics().await?;
        let mine = all.into_iter().filter(|topic| topic.name.starts_with(&self.prefix));
        Ok(mine.map(|topic| TopicDescription { name: take(&self.prefix, &topic.name), ..topic }).collect())
    }

    async fn topic_settings(&self, topics: &[Arc<str>]) -> Result<Vec<TopicSettings>, LogError> {
        let names: Vec<Arc<str>> = topics.iter().map(|name| put(&self.prefix, name)).collect();
        let told = self.log.topic_settings(&names).await?;
        Ok(told.into_iter().map(|one| TopicSettings { name: take(&self.prefix, &one.name), ..one }).collect())
    }

    async fn committed(&self, group: &str) -> Result<BTreeMap<TopicPartition, i64>, LogError> {
        let found = self.log.committed(&put(&self.prefix, group)).await?;
        Ok(found.iter().map(|(partition, at)| (take_partition(&self.prefix, partition), *at)).collect())
    }

    async fn offsets_at(&self, topic: &str, at: Timestamp) -> Result<Vec<i64>, LogError> {
        self.log.offsets_at(&put(&self.prefix, topic), at).await.map_err(|error| told(&self.prefix, error))
    }

    async fn probe(&self) -> Result<(), LogError> {
        self.log.probe().await
    }

    async fn close(&self) {
        self.log.close().await;
    }
}

struct ApartMember {
    member: Box<dyn GroupMember>,
    prefix: String,
}

struct ApartCommitter {
    committer: Arc<dyn Committer>,
    prefix: String,
}

#[async_trait]
impl GroupMember for ApartMember {
    async fn next(&mut self) -> Result<GroupEvent, LogError> {
        let prefix = &self.prefix;
        let taken = |partitions: Vec<TopicPartition>| {
            partitions.iter().map(|partition| take_partition(prefix, partition)).collect()
        };
        Ok(match self.member.next().await? {
            GroupEvent::Assigned { generation, partitions } => {
                let assigned = |partition: AssignedPartition| AssignedPartition {
                    topic_partition: take_partition(prefix, &partition.topic_partition),
                    ..partition
                };
                GroupEvent::Assigned {
                    generation,
                    partitions: partitions.into_iter().map(assigned).collect(),
                }
            }
            GroupEvent::Revoking { partitions } => GroupEvent::Revoking { partitions: taken(partitions) },
            GroupEvent::Lost { partitions } => GroupEvent::Lost { partitions: taken(partitions) },
            GroupEvent::TopicMissing { topic } => GroupEvent::TopicMissing { topic: take(prefix, &topic) },
            GroupEvent::TopicBack { topic } => GroupEvent::TopicBack { topic: take(prefix, &topic) },
        })
    }

    fn committer(&self) -> Arc<dyn Committer> {
        Arc::new(ApartCommitter { committer: self.member.committer(), prefix: self.prefix.clone() })
    }

    async fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        let partitions: Vec<_> =
            partitions.iter().map(|partition| put_partition(&self.prefix, partition)).collect();
        self.member.release(&partitions).await
    }

    async fn leave(self: Box<Self>) -> Result<(), LogError> {
        self.member.leave().await
    }
}

#[async_trait]
impl Committer for ApartCommitter {
    async fn commit(
        &self,
        generation: Generation,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<(), CommitError> {
        let offsets =
            offsets.iter().map(|(partition, at)| (put_partition(&self.prefix, partition), *at)).collect();
        self.committer.commit(generation, &offsets).await
    }
}

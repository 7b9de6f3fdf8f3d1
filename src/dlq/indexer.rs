//! Keeps the index complete: reads the DLQ topic in a consumer group of its own and writes a line for each dead letter.
//!
//! A line is written before its offset is committed, and writing it twice changes nothing, so the index may lag and
//! never misses one. Nothing but lists and counts waits for it: replay reads the topic itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::ledger::{Entry, Ledger as _, Status};
use super::{DeadLetter, Index};
use crate::config;
use crate::eventlog::{
    AssignedPartition, CommitError, Committer, EventLog, FetchError, FetchFrom, FetchLimits, Fetched,
    Generation, GroupEvent, GroupSpec, Position, Record, TopicId, TopicPartition,
};
use crate::lifecycle::{Component, Policy, Stop, Tasks};
use crate::telemetry::names;

/// The consumer group that indexes this DLQ topic; required by its retention. Named after the topic, so that two
/// installations on one cluster do not share it.
pub fn index_group(topic: &str) -> String {
    format!("{topic}-index")
}

const FETCH_WAIT_MAX: Duration = Duration::from_millis(500);
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// What the indexer works with.
#[derive(Clone)]
pub(super) struct Indexer {
    pub(super) log: Arc<dyn EventLog>,
    pub(super) index: Index,
    pub(super) topic: Arc<str>,
    pub(super) config: config::Dlq,
    pub(super) component: Component,
}

/// Partitions this member owns: incarnation of the topic and the next offset to read.
type Owned = BTreeMap<TopicPartition, (TopicId, i64)>;

/// Why a pass over what is new ended early.
enum Trouble {
    /// Nothing is lost: try again after a moment.
    Wait(String),
    /// Another member owns the partitions.
    Fenced,
}

impl Indexer {
    pub(super) fn spawn(self, tasks: &Tasks) {
        let stop = tasks.stop().clone();
        tasks.spawn("dlq_index", Policy::Restart(RETRY_WAIT), move || {
            let (indexer, stop) = (self.clone(), stop.clone());
            async move { indexer.run(&stop).await }
        });
    }

    async fn run(&self, stop: &Stop) -> anyhow::Result<()> {
        let spec = GroupSpec {
            group: index_group(&self.topic).into(),
            topics: vec![self.topic.clone()],
            client_id: "flexflow-dlq-index".into(),
            instance_id: None,
        };
        let mut member = self.log.join(spec).await?;
        let committer = member.committer();
        let mut owned = Owned::new();
        let mut generation = Generation::default();
        loop {
            let event = tokio::select! {
                () = stop.soft_token().cancelled() => break,
                event = member.next() => Some(event?),
                trouble = self.index_new(&mut owned, generation, &*committer), if !owned.is_empty() => {
                    match trouble {
                        Ok(()) => self.component.up(),
                        Err(Trouble::Fenced) => return Err(anyhow::anyhow!("another member took over")),
                        Err(Trouble::Wait(reason)) => {
                            self.component.degraded(&format!("the index of dead letters lags: {reason}"));
                            let _ = stop.soft_token().run_until_cancelled(tokio::time::sleep(RETRY_WAIT)).await;
                        }
                    }
                    None
                }
            };
            match event {
                Some(GroupEvent::Assigned { generation: current, partitions }) => {
                    generation = current;
                    owned.extend(partitions.into_iter().map(start));
                }
                Some(GroupEvent::Revoking { partitions }) => {
                    owned.retain(|partition, _| !partitions.contains(partition));
                    member.release(&partitions).await?;
                }
                Some(GroupEvent::Lost { partitions }) => {
                    owned.retain(|partition, _| !partitions.contains(partition));
                }
                Some(GroupEvent::TopicMissing { topic }) => {
                    self.component
                        .degraded(&format!("topic {topic} is missing: `flexflow topics create` makes it"));
                }
                Some(GroupEvent::TopicBack { .. }) | None => {}
            }
        }
        Ok(member.leave().await?)
    }

    /// Waits for what is new, indexes it, commits. Dropped half-way it has at most indexed what it did not commit.
    async fn index_new(
        &self,
        owned: &mut Owned,
        generation: Generation,
        committer: &dyn Committer,
    ) -> Result<(), Trouble> {
        let from: Vec<FetchFrom> = owned
            .iter()
            .map(|(partition, (topic_id, offset))| FetchFrom {
                topic_partition: partition.clone(),
                topic_id: *topic_id,
                offset: *offset,
            })
            .collect();
        let bytes_max = usize::try_from(self.config.replay_page_bytes_max.0).unwrap_or(usize::MAX);
        let limits = FetchLimits { wait_max: FETCH_WAIT_MAX, partition_bytes_max: bytes_max, bytes_max };
        let fetched =
            self.log.fetch(&from, limits).await.map_err(|error| Trouble::Wait(error.to_string()))?;
        let mut done: BTreeMap<TopicPartition, i64> = BTreeMap::new();
        let mut lag = 0;
        for Fetched { topic_partition, outcome } in fetched {
            let Some((topic_id, next)) = owned.get(&topic_partition).copied() else { continue };
            let end = match outcome {
                Ok(found) => {
                    self.write(&topic_partition, topic_id, &found.records).await?;
                    lag += (found.offsets.end - found.next_offset).max(0);
                    found.next_offset
                }
                Err(FetchError::OffsetOutOfRange(ends)) => {
                    tracing::warn!(
                        topic = %topic_partition.topic, partition = topic_partition.partition, next, log_start = ends.log_start,
                        "dead letters were deleted before they were indexed"
                    );
                    ends.log_start
                }
                Err(FetchError::Corrupt { offset }) => offset + 1,
                // The group tells what follows.
                Err(FetchError::UnknownTopic { .. }) => continue,
            };
            if end != next {
                done.insert(topic_partition, end);
            }
        }
        names::DLQ_INDEX_LAG.gauge(&[]).set(to_f64(lag));
        if done.is_empty() {
            return Ok(());
        }
        match committer.commit(generation, &done).await {
            Ok(()) => {
                for (partition, end) in done {
                    if let Some((_, next)) = owned.get_mut(&partition) {
                        *next = end;
                    }
                }
                Ok(())
            }
            Err(CommitError::Fenced) => Err(Trouble::Fenced),
            Err(error) => Err(Trouble::Wait(error.to_string())),
        }
    }

    async fn write(
        &self,
        partition: &TopicPartition,
        topic_id: TopicId,
        records: &[Record],
    ) -> Result<(), Trouble> {
        for records in records.chunks(self.config.index_batch_records_max.max(1)) {
            let mut letters = Vec::with_capacity(records.len());
            for record in records {
                match DeadLetter::from_record(record) {
                    Ok(letter) => letters.push((record.offset, letter)),
                    Err(error) => {
                        let (topic, number, offset) = (&partition.topic, partition.partition, record.offset);
                        tracing::warn!(%topic, partition = number, offset, error = %error, "a foreign record in the DLQ topic");
                    }
                }
            }
            let entries: Vec<Entry<'_>> = letters
                .iter()
                .map(|(offset, letter)| Entry {
                    letter,
                    dlq_topic_id: topic_id,
                    dlq_position: Position { partition: partition.partition, offset: *offset },
                    status: Status::Open,
                    status_at: letter.dlq_ts,
                    reason: "",
                    job_id: "",
                    version: 0,
                })
                .collect();
            if !entries.is_empty() {
                self.index.write(&entries).await.map_err(|error| Trouble::Wait(error.to_string()))?;
            }
        }
        Ok(())
    }
}

fn start(assigned: AssignedPartition) -> (TopicPartition, (TopicId, i64)) {
    (assigned.topic_partition, (assigned.topic_id, assigned.committed.unwrap_or(0)))
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn to_f64(count: i64) -> f64 {
    count as f64
}

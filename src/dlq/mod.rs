//! Dead letters: what a refused record becomes, and the ways back.
//!
//! - [`DeadLetter`] is the envelope. Every stage that refuses a record writes one to `consumer.dlq_topic`, waits for
//!   its acknowledgement and only then commits, so a record is never refused without a trace.
//! - A dead letter is named by the record it stands for: [`DeadLetter::id`] is `topic-partition-offset` of the origin,
//!   as `ingestion_id` is for a stored row. A crash may write the same dead letter twice; both have one id.
//! - The DLQ topic is the authority on which dead letters there are; replay and discard (`pass`) read it. The table
//!   `events_dlq` ([`Index`]) is the list that people look at, and the [`Ledger`] of what became of each.
//! - A replay writes the original record back with header `recoveries` one higher; at `dlq.recoveries_max` it is
//!   refused. A record that fails again is another dead letter, which knows how often it came back.
//! - Must not: decide whether a record is refused (that is the consumer's), or write to the store's `events`.

mod envelope;
mod fix;
pub mod http;
mod index;
mod ledger;
mod order;
mod pass;
mod selection;
#[cfg(test)]
mod tests;

pub use envelope::{
    DeadLetter, ERROR_MESSAGE_BYTES_MAX, EnvelopeError, RECOVERIES_HEADER, Raw, Refusal, recoveries,
};
pub use fix::{Fix, FixError, Fixed};
pub use index::{Count, Filter, Index, ListPosition, Listed, index_row};
pub use ledger::{Entry, Ledger, LedgerError, Origin, Standing, Status};
pub use order::{Action, DISCARD, Order, Outcome, REPLAY, Sample};
pub use pass::Passes;
pub use selection::{SELECTION_IDS_MAX, Selection, SelectionError};

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::config::Config;
use crate::event::Clock;
use crate::eventlog::{EventLog, FetchFrom, FetchLimits, LogError, TopicId, TopicPartition};
use crate::job::Handler;
use crate::store::Store;

/// The consumer group that lists the dead letters of this DLQ topic; required by its retention. Named after the topic, so
/// that two installations on one cluster do not share it.
pub fn index_group(topic: &str) -> String {
    format!("{topic}-index")
}

/// The dead letters of this installation. Cheap to clone.
#[derive(Clone)]
pub struct Dlq {
    passes: Passes,
    index: Index,
}

impl Dlq {
    pub fn new(log: Arc<dyn EventLog>, store: Store, config: &Config, clock: Arc<dyn Clock>) -> Self {
        let index = Index::new(store);
        let ledger = Arc::new(index.clone());
        let passes = Passes::new(log, ledger, &config.consumer.dlq_topic, config.dlq.clone(), clock);
        Self { passes, index }
    }

    /// The handlers of replay and discard jobs, for [`crate::job::run`].
    pub fn handlers(&self) -> Vec<Arc<dyn Handler>> {
        self.passes.handlers()
    }

    /// The index of lists and counts.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Dead letters that the index does not have yet.
    ///
    /// # Errors
    /// The log does not answer.
    pub async fn index_lag(&self) -> Result<u64, LogError> {
        let topics = self.passes.log.topics().await?;
        let committed = self.passes.log.committed(&index_group(&self.passes.topic)).await?;
        let Some(topic) = topics.into_iter().find(|topic| topic.name == self.passes.topic) else {
            return Err(LogError::TopicMissing(self.passes.topic.clone()));
        };
        let lags = (0..).zip(&topic.partitions).map(|(partition, ends)| {
            let at = committed.get(&TopicPartition::new(topic.name.clone(), partition)).copied();
            u64::try_from(ends.end - at.unwrap_or(0).max(ends.log_start)).unwrap_or(0)
        });
        Ok(lags.sum())
    }

    /// The envelope of a listed dead letter as it stands in the DLQ topic; `None` once retention has deleted it.
    ///
    /// # Errors
    /// The log does not answer.
    pub async fn envelope(&self, listed: &Listed) -> Result<Option<Box<RawValue>>, LogError> {
        let from = FetchFrom {
            topic_partition: TopicPartition::new(self.passes.topic.clone(), listed.dlq_partition),
            topic_id: TopicId(listed.dlq_topic_id),
            offset: listed.dlq_offset,
        };
        // The first record is answered whatever its size.
        let limits =
            FetchLimits { wait_max: Duration::from_millis(100), partition_bytes_max: 1, bytes_max: 1 };
        let fetched = self.passes.log.fetch(&[from], limits).await?;
        let record = fetched
            .into_iter()
            .filter_map(|fetched| fetched.outcome.ok())
            .flat_map(|found| found.records)
            .find(|record| record.offset == listed.dlq_offset);
        Ok(record.and_then(|record| serde_json::from_slice(&record.value?).ok()))
    }
}

//! How operators reach a running consumer: which partitions the flood rule stopped, and how they go on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use crate::eventlog::TopicPartition;

/// A partition that is not stopped cannot be resumed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("partition {partition} is not stopped; stopped are: {stopped}")]
pub struct NotStopped {
    pub partition: TopicPartition,
    /// The ones that are, or `none`.
    pub stopped: String,
}

/// The handle of a consumer, for every stage of it. Cheap to clone.
#[derive(Clone)]
pub struct Control(Arc<Inner>);

struct Inner {
    resume: broadcast::Sender<TopicPartition>,
    stopped: Mutex<BTreeMap<TopicPartition, String>>,
}

impl Default for Control {
    fn default() -> Self {
        Self(Arc::new(Inner { resume: broadcast::Sender::new(64), stopped: Mutex::default() }))
    }
}

impl Control {
    /// Partitions that the flood rule stopped in this process, with the reason.
    pub fn stopped_partitions(&self) -> Vec<(TopicPartition, String)> {
        self.lock().iter().map(|(name, reason)| (name.clone(), reason.clone())).collect()
    }

    /// Lets a stopped partition go on; the rule is off for it until its records are good again.
    ///
    /// # Errors
    /// [`NotStopped`], with the partitions that are.
    pub fn resume(&self, partition: &TopicPartition) -> Result<(), NotStopped> {
        let stopped = self.lock();
        if !stopped.contains_key(partition) {
            let names: Vec<String> = stopped.keys().map(ToString::to_string).collect();
            let stopped = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(NotStopped { partition: partition.clone(), stopped });
        }
        drop(stopped);
        // Nobody listens: the consumer is stopping, and the next one judges anew.
        let _ = self.0.resume.send(partition.clone());
        Ok(())
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<TopicPartition> {
        self.0.resume.subscribe()
    }

    /// Notes a stop. True: it was not stopped before.
    pub(super) fn stopped(&self, partition: &TopicPartition, reason: &str) -> bool {
        self.lock().insert(partition.clone(), reason.to_owned()).is_none()
    }

    /// Notes that a partition goes on. True: it was stopped.
    pub(super) fn goes_on(&self, partition: &TopicPartition) -> bool {
        self.lock().remove(partition).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, String>> {
        self.0.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

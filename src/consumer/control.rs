//! How others reach a running consumer: operators, which partitions the flood rule stopped and how they go on; the
//! sweep, what it should look at before its time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{broadcast, watch};

use crate::event::Timestamp;
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
    /// Rows received since then want a sweep.
    unswept: watch::Sender<Option<Timestamp>>,
}

impl Default for Control {
    fn default() -> Self {
        Self(Arc::new(Inner {
            resume: broadcast::Sender::new(64),
            stopped: Mutex::default(),
            unswept: watch::Sender::new(None),
        }))
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

    /// Wants the rows received since then compared with the others soon.
    pub(super) fn ask_for_sweep(&self, since: Timestamp) {
        self.0.unswept.send_modify(|unswept| *unswept = Some(unswept.map_or(since, |old| old.min(since))));
    }

    /// Waits until a sweep is asked for, and takes the wish. Cancel-safe.
    pub(super) async fn sweep_asked_for(&self) -> Timestamp {
        let mut unswept = self.0.unswept.subscribe();
        loop {
            if let Some(since) = self.0.unswept.send_replace(None) {
                return since;
            }
            if unswept.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, String>> {
        self.0.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

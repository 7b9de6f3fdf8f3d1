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
            // Taking is no change that anybody waits for: told of, it would wake this very loop without end.
            let mut taken = None;
            self.0.unswept.send_if_modified(|unswept| {
                taken = unswept.take();
                false
            });
            if let Some(since) = taken {
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

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    use super::*;

    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn nobody_who_waits_for_a_sweep_is_woken_before_one_is_asked_for() {
        let control = Control::default();
        let woken = Arc::new(Woken(AtomicUsize::new(0)));
        let waker = Waker::from(woken.clone());
        let mut context = Context::from_waker(&waker);
        let mut waiting = pin!(control.sweep_asked_for());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        assert_eq!(woken.0.load(Ordering::SeqCst), 0, "it waits without turning");
        control.ask_for_sweep(Timestamp::from_millis(2));
        control.ask_for_sweep(Timestamp::from_millis(1));
        assert!(woken.0.load(Ordering::SeqCst) > 0);
        assert_eq!(waiting.as_mut().poll(&mut context), Poll::Ready(Timestamp::from_millis(1)));
        assert!(pin!(control.sweep_asked_for()).poll(&mut context).is_pending(), "the wish was taken");
    }
}

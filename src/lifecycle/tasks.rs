//! Supervised tasks: every background task has a name and a policy, and none ends unnoticed.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::Stop;
use crate::telemetry::names;

/// What happens when a task ends although nobody asked it to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The process cannot go on without it: stop softly and exit with a failure.
    Shutdown,
    /// Start it again after this long.
    Restart(Duration),
}

/// A task ended on its own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task {name} ended on its own: {reason}")]
pub struct TaskFailed {
    pub name: &'static str,
    pub reason: String,
}

/// The supervised tasks of a process.
#[derive(Clone)]
pub struct Tasks {
    stop: Stop,
    tracker: TaskTracker,
    failed: Arc<Mutex<Option<TaskFailed>>>,
}

impl Tasks {
    pub fn new(stop: Stop) -> Self {
        Self { stop, tracker: TaskTracker::new(), failed: Arc::default() }
    }

    /// The stop that these tasks watch.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Runs what `start` makes until it ends after a soft stop. Ending before that is a failure, also with `Ok`:
    /// `policy` says what follows. A panic counts as ending.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn<F, S>(&self, name: &'static str, policy: Policy, mut start: S)
    where
        S: FnMut() -> F + Send + 'static,
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let tasks = self.clone();
        self.tracker.spawn(async move {
            loop {
                let ended = tokio::spawn(start()).await;
                if tasks.stop.is_stopping() {
                    if let Ok(Err(error)) = &ended {
                        tracing::warn!(
                            task = name,
                            error = format!("{error:#}"),
                            "task ended with an error while stopping"
                        );
                    }
                    return;
                }
                let reason = match ended {
                    Ok(Ok(())) => "it returned".to_owned(),
                    Ok(Err(error)) => format!("{error:#}"),
                    Err(join) => format!("it panicked: {join}"),
                };
                names::TASK_FAILURES.counter(&[("task", name)]).increment(1);
                match policy {
                    Policy::Shutdown => {
                        tracing::error!(task = name, error = reason, "task ended on its own: stopping");
                        tasks.fail(TaskFailed { name, reason });
                        return;
                    }
                    Policy::Restart(wait) => {
                        tracing::error!(
                            task = name,
                            error = reason,
                            "task ended on its own: starting it again"
                        );
                        tokio::select! {
                            () = tokio::time::sleep(wait) => {}
                            () = tasks.stop.soft_token().cancelled() => return,
                        }
                    }
                }
            }
        });
    }

    /// Like [`Tasks::spawn`] for work that has nothing to finish: a soft stop simply drops it.
    pub fn spawn_until_stop<F, S>(&self, name: &'static str, policy: Policy, mut start: S)
    where
        S: FnMut() -> F + Send + 'static,
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.spawn(name, policy, move || {
            let (stop, work) = (stop.clone(), start());
            async move {
                tokio::select! {
                    () = stop.soft_token().cancelled() => Ok(()),
                    ended = work => ended,
                }
            }
        });
    }

    /// Runs a piece of work that is expected to end on its own (a request's share, a drain); counted when stopping.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn_bounded<F>(&self, work: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let token = self.tracker.token();
        tokio::spawn(async move {
            let _token = token;
            work.await
        })
    }

    /// Notes a failure and asks for a soft stop; the first failure is the one reported.
    pub fn fail(&self, failed: TaskFailed) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failed);
        self.stop.soft();
    }

    /// The first failure, if any: the exit code depends on it.
    pub fn failure(&self) -> Option<TaskFailed> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until all tasks have ended, at most `limit`. False: some are still running.
    pub async fn drained(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_task_that_returns_on_its_own_stops_the_process_with_a_failure() {
        let tasks = Tasks::new(Stop::default());
        tasks.spawn("brief", Policy::Shutdown, || async { Ok(()) });
        tasks.stop().soft_token().cancelled().await;
        assert_eq!(tasks.failure().unwrap().name, "brief");
    }

    #[tokio::test]
    async fn a_panicking_task_is_started_again() {
        let tasks = Tasks::new(Stop::default());
        let runs = Arc::new(AtomicUsize::new(0));
        let (counted, stop) = (runs.clone(), tasks.stop().clone());
        tasks.spawn("shaky", Policy::Restart(Duration::ZERO), move || {
            let (run, stop) = (counted.fetch_add(1, Ordering::SeqCst), stop.clone());
            async move {
                assert!(run >= 2, "scripted panic");
                stop.soft();
                Ok(())
            }
        });
        assert!(tasks.drained(Duration::from_secs(5)).await);
        assert_eq!(runs.load(Ordering::SeqCst), 3);
        assert_eq!(tasks.failure(), None);
    }
}

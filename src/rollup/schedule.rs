//! Starts a job whenever the schedule says so.

use std::time::Duration;

use super::{KIND, Rollups, Spec};
use crate::job::NewJob;
use crate::meta::{JobFilter, JobState};

/// Longest sleep: clocks jump.
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Rollups {
    /// Queues a build of what changed whenever `rollup.schedule` says so, until the task is ended. With several processes
    /// each looks whether there is a job already; two at once would do the same work twice, and no harm.
    ///
    /// # Errors
    /// None; what cannot be queued is logged and tried at the next time.
    pub async fn run_schedule(self) -> anyhow::Result<()> {
        let Some(mut next) = self.next_at() else {
            return std::future::pending().await;
        };
        loop {
            let now = self.clock.now();
            if now < next {
                let left = Duration::from_millis((next.as_millis() - now.as_millis()).max(1).unsigned_abs());
                tokio::time::sleep(left.min(LOOK_EVERY)).await;
                continue;
            }
            if let Err(error) = self.queue().await {
                tracing::warn!(%error, "a build of rollups could not be queued: the next time builds what it would have");
            }
            next = self.next_at().unwrap_or(crate::event::Timestamp::MAX);
        }
    }

    async fn queue(&self) -> anyhow::Result<()> {
        for state in [JobState::Queued, JobState::Running] {
            let filter = JobFilter { kind: Some(KIND), state: Some(state), before: None };
            let open = self.jobs.list(None, filter, 100).await?;
            if open.iter().any(|job| job.project_id.is_none()) {
                return Ok(());
            }
        }
        let spec = serde_json::to_value(Spec::default())?;
        self.jobs.start(NewJob { project: None, kind: KIND, spec }).await?;
        Ok(())
    }
}

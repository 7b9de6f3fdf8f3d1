//! What the rest of the process does with jobs: start, look, cancel, resume.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::config;
use crate::event::{Clock, ProjectId, SystemEventKind, Timestamp};
use crate::meta::{self, Job, JobFilter, JobState, Meta, MetaError, NewNotice};
use crate::notice::{Notices, SystemEvent};

/// A job to start.
#[derive(Clone, Debug)]
pub struct NewJob<'a> {
    /// `None`: a job of the whole installation; only the operator sees it.
    pub project: Option<&'a ProjectId>,
    pub kind: &'a str,
    /// What to do; never changes.
    pub spec: Value,
}

/// Why a job could not be started, found or changed.
#[derive(Debug, thiserror::Error)]
pub enum JobsError {
    /// The bound on open jobs is reached.
    #[error("{open} jobs are queued or running, and jobs.open_max is {max}: cancel one, or wait")]
    TooMany { open: u64, max: u64 },
    /// Only a failed or cancelled job can be resumed.
    #[error("job {id} is {}: only a failed or cancelled job can be resumed", .state.as_str())]
    NotResumable { id: String, state: JobState },
    #[error(transparent)]
    Meta(#[from] MetaError),
}

/// What is kept as a job's checkpoint: the handler's own, and when the last step was finished.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    /// The claim under which the last step was finished. Claims since then are failures in a row.
    pub(super) claim: i64,
    /// The handler's checkpoint; `None`: no step was finished yet.
    pub(super) at: Option<Value>,
}

impl Saved {
    pub(super) fn to_json(&self) -> Value {
        serde_json::json!({ "claim": self.claim, "at": self.at })
    }

    /// Claims without a finished step, this one not counted, and the handler's checkpoint.
    pub(super) fn of(job: &Job) -> Result<(i64, Option<Value>), serde_json::Error> {
        match &job.checkpoint {
            None => Ok((job.attempts.saturating_sub(1), None)),
            Some(json) => {
                let saved = Self::deserialize(&json.0)?;
                Ok((job.attempts.saturating_sub(saved.claim).saturating_sub(1).max(0), saved.at))
            }
        }
    }
}

/// A job as people see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overview {
    pub id: String,
    pub kind: String,
    pub project_id: Option<ProjectId>,
    pub state: JobState,
    pub cancel_requested: bool,
    pub spec: Value,
    /// Counters of the work done so far; their names depend on the kind.
    pub progress: Option<Value>,
    /// Why it failed, or why it waits before its next try.
    pub error: Option<String>,
    /// Times a worker has claimed it.
    pub claims: i64,
    /// When a job that waits is due.
    pub run_after: Timestamp,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl From<Job> for Overview {
    fn from(job: Job) -> Self {
        Self {
            id: job.id,
            kind: job.kind,
            project_id: job.project_id,
            state: job.state,
            cancel_requested: job.cancel_requested,
            spec: job.spec.0,
            progress: job.result.or(job.progress).map(|json| json.0),
            error: job.error,
            claims: job.attempts,
            run_after: job.run_after,
            created_at: job.created_at,
            updated_at: job.updated_at,
        }
    }
}

/// The durable jobs of this installation. Cheap to clone.
#[derive(Clone)]
pub struct Jobs {
    pub(super) meta: Meta,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) config: config::Jobs,
    /// How it is told that a job has ended.
    pub(super) told: Option<Notices>,
    /// Tells the workers of this process that a job was queued here.
    pub(super) queued: Arc<Notify>,
}

impl Jobs {
    pub fn new(meta: Meta, config: config::Jobs, clock: Arc<dyn Clock>) -> Self {
        Self { meta, clock, config, told: None, queued: Arc::new(Notify::new()) }
    }

    /// The same, telling of every job that ends.
    #[must_use]
    pub fn telling(self, told: Notices) -> Self {
        Self { told: Some(told), ..self }
    }

    /// Queues a job and answers its id.
    ///
    /// # Errors
    /// `jobs.open_max` is reached, the project does not exist, or the database does not answer.
    pub async fn start(&self, job: NewJob<'_>) -> Result<Overview, JobsError> {
        let open = self.meta.jobs().count_open().await?;
        if open >= self.config.open_max {
            return Err(JobsError::TooMany { open, max: self.config.open_max });
        }
        let row = meta::NewJob { project: job.project, kind: job.kind, spec: job.spec, run_after: None };
        let made = self.meta.jobs().insert(row).await?;
        tracing::info!(job_id = made.id, kind = made.kind, project_id = ?made.project_id, "job queued");
        self.queued.notify_waiters();
        Ok(made.into())
    }

    /// A job, if it exists (in this project; `None`: in any).
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn get(&self, project: Option<&ProjectId>, id: &str) -> Result<Option<Overview>, JobsError> {
        Ok(self.meta.jobs().get(project, id).await?.map(Overview::from))
    }

    /// Jobs (of this project; `None`: of all), newest first, at most `limit`.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn list(
        &self,
        project: Option<&ProjectId>,
        filter: JobFilter<'_>,
        limit: u64,
    ) -> Result<Vec<Overview>, JobsError> {
        let jobs = self.meta.jobs().list(project, filter, limit).await?;
        Ok(jobs.into_iter().map(Overview::from).collect())
    }

    /// Cancels a job: at once if it waits, after its present step if it runs, not at all if it has ended.
    /// `None`: there is no such job.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn cancel(&self, project: Option<&ProjectId>, id: &str) -> Result<Option<Overview>, JobsError> {
        let notice = |job: &Job| self.notice(job, "cancelled", "");
        let job = self.meta.jobs().request_cancel(project, id, self.clock.now(), notice).await?;
        self.wake();
        Ok(job.map(Overview::from))
    }

    /// The notice that a job has ended.
    pub(super) fn notice(&self, job: &Job, outcome: &str, error: &str) -> Option<NewNotice> {
        let payload = json!({ "job_id": job.id, "kind": job.kind, "outcome": outcome, "error": error });
        let event = SystemEvent::of_project(SystemEventKind::JobFinished, job.project_id.clone(), payload);
        self.told.as_ref().map(|told| told.note(event))
    }

    /// Says that a notice was kept.
    pub(super) fn wake(&self) {
        if let Some(told) = &self.told {
            told.wake();
        }
    }

    /// Queues a failed or cancelled job again, from its checkpoint. `None`: there is no such job.
    ///
    /// # Errors
    /// It has not failed and was not cancelled, or the database does not answer.
    pub async fn resume(&self, project: Option<&ProjectId>, id: &str) -> Result<Option<Overview>, JobsError> {
        let Some(job) = self.meta.jobs().get(project, id).await? else { return Ok(None) };
        let not_resumable = |state| JobsError::NotResumable { id: id.to_owned(), state };
        if !matches!(job.state, JobState::Failed | JobState::Cancelled) {
            return Err(not_resumable(job.state));
        }
        // Its failures are forgiven: from here on claims are counted anew.
        let at = Saved::of(&job).ok().and_then(|(_, at)| at);
        let checkpoint = Saved { claim: job.attempts, at }.to_json();
        if !self.meta.jobs().requeue(project, &job, checkpoint, self.clock.now()).await? {
            return Err(not_resumable(JobState::Queued));
        }
        self.queued.notify_waiters();
        self.get(project, id).await
    }

    /// Deletes jobs that ended longer than `jobs.keep_ended` ago; answers how many.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn prune(&self) -> Result<u64, JobsError> {
        let before = self.clock.now().minus(self.config.keep_ended);
        Ok(self.meta.jobs().delete_ended(before).await?)
    }

    /// How long before a next try: full jitter below a bound that doubles with each failure in a row.
    pub(super) fn backoff(&self, failures: i64, jitter: f64) -> Duration {
        let doublings = u32::try_from(failures.clamp(0, 30)).unwrap_or(30);
        let ceiling = self.config.backoff_min.saturating_mul(1 << doublings).min(self.config.backoff_max);
        let floor = self.config.backoff_min.min(ceiling);
        floor + (ceiling - floor).mul_f64(jitter.clamp(0.0, 1.0))
    }
}

//! What works on jobs: claims one, does its steps under a lease, and gives it back or ends it.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::service::{Jobs, JobsError, Saved};
use crate::event::{IdSource, ProjectId};
use crate::eventlog::LogError;
use crate::lifecycle::{Policy, Tasks};
use crate::meta::{Job, JobEnd, MetaError};
use crate::store::{InsertError, StoreError};
use crate::telemetry::names;

/// How often ended jobs are looked through for old ones.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);

/// Does the work of one kind of job.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// The kind of jobs it does; stable, it stands in the database.
    fn kind(&self) -> &'static str;

    /// Failed tries in a row before such a job counts as failed; none: `jobs.attempts_max`.
    fn attempts_max(&self) -> Option<u32> {
        None
    }

    /// Does the next bounded piece from `checkpoint` (`None`: from the start) and says where the next one begins.
    /// After a crash the same piece is done again, so it must be safe to do twice. Must end within
    /// `jobs.step_timeout`; dropping it half-way must be as safe as a crash.
    async fn step(
        &self,
        context: &JobContext,
        spec: &Value,
        checkpoint: Option<&Value>,
    ) -> Result<Step, JobError>;
}

/// What a step achieved.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// Where the next step begins.
    pub checkpoint: Value,
    /// Counters for people.
    pub progress: Value,
    pub then: Then,
}

/// What follows a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// The next step, after this wait (rate limits).
    Continue(Duration),
    /// Nothing: the job is done.
    Done,
}

/// Why a step failed. Errors of the store, the log and the metadata database become one by `?`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JobError {
    /// What it needs does not answer: the same step is tried again until it does. An outage is not the job's fault, so
    /// however long it lasts, it counts as no try.
    #[error("{0}")]
    Away(String),
    /// May pass: the same step is tried again later, `jobs.attempts_max` times.
    #[error("{0}")]
    Retry(String),
    /// Will not pass: the job fails.
    #[error("{0}")]
    Fatal(String),
    /// Another worker has the job: stop, write nothing more.
    #[error("the lease is lost")]
    LeaseLost,
}

impl JobError {
    /// The same, with what could not be done before why.
    #[must_use]
    pub fn about(self, what: &str) -> Self {
        match self {
            Self::Away(why) => Self::Away(format!("{what}: {why}")),
            Self::Retry(why) => Self::Retry(format!("{what}: {why}")),
            Self::Fatal(why) => Self::Fatal(format!("{what}: {why}")),
            Self::LeaseLost => Self::LeaseLost,
        }
    }
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::Away(error.to_string()),
            _ => Self::Retry(error.to_string()),
        }
    }
}

impl From<InsertError> for JobError {
    fn from(error: InsertError) -> Self {
        match error {
            InsertError::Unavailable(_) | InsertError::OutcomeUnknown(_) => Self::Away(error.to_string()),
            _ => Self::Retry(error.to_string()),
        }
    }
}

impl From<LogError> for JobError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Unavailable(_) | LogError::OutcomeUnknown(_) | LogError::Full(_) => {
                Self::Away(error.to_string())
            }
            _ => Self::Retry(error.to_string()),
        }
    }
}

impl From<MetaError> for JobError {
    fn from(error: MetaError) -> Self {
        match error {
            MetaError::LeaseLost(_) => Self::LeaseLost,
            error if error.is_unavailable() => Self::Away(error.to_string()),
            error => Self::Retry(error.to_string()),
        }
    }
}

impl From<JobsError> for JobError {
    fn from(error: JobsError) -> Self {
        match error {
            JobsError::Meta(error) => error.into(),
            error => Self::Retry(error.to_string()),
        }
    }
}

/// What a step may know about its job, and ask.
pub struct JobContext {
    jobs: Jobs,
    id: String,
    project: Option<ProjectId>,
    fence: i64,
    claim: i64,
    cancelled: CancellationToken,
}

impl JobContext {
    /// Counts up with every time that the job is claimed, also when it is resumed.
    pub fn claim(&self) -> i64 {
        self.claim
    }

    /// The job's id.
    pub fn job_id(&self) -> &str {
        &self.id
    }

    /// Whose job it is.
    pub fn project(&self) -> Option<&ProjectId> {
        self.project.as_ref()
    }

    /// Cancelled once somebody asked to cancel the job, or the process stops: a long step ends early at its next safe
    /// place and answers how far it came.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.cancelled
    }

    /// Is the job still this worker's? Prolongs the lease. Ask right before writing what another worker would
    /// write, too: it does not make the write safe to do twice, it makes that rare.
    ///
    /// # Errors
    /// [`JobError::LeaseLost`], or [`JobError::Away`] when the database does not answer.
    pub async fn confirm(&self) -> Result<(), JobError> {
        Ok(self.heartbeat().await?)
    }

    async fn heartbeat(&self) -> Result<(), MetaError> {
        let (now, lease) = (self.jobs.clock.now(), self.jobs.config.lease);
        if self.jobs.meta.jobs().heartbeat(&self.id, self.fence, now, lease).await? {
            self.cancelled.cancel();
        }
        Ok(())
    }
}

/// Works on jobs, one at a time.
#[derive(Clone)]
pub struct Worker {
    jobs: Jobs,
    handlers: Arc<[Arc<dyn Handler>]>,
    /// For people who look at the row; the fence is what decides.
    owner: Arc<str>,
    ids: Arc<dyn IdSource>,
    /// Soft: finish the present step, give the job back. Hard: drop it where it stands.
    soft: CancellationToken,
    hard: CancellationToken,
}

/// How the work on a claimed job ended, for this worker.
enum Ended {
    /// For good.
    End(JobEnd),
    /// To be claimed again after this wait, by this worker or another.
    Release { wait: Duration, error: Option<String> },
    /// It is not this worker's any more.
    Lost,
}

/// Starts `jobs.concurrency` supervised workers. Call it in processes with the consumer role.
pub fn run(jobs: &Jobs, handlers: Vec<Arc<dyn Handler>>, ids: &Arc<dyn IdSource>, tasks: &Tasks) {
    let worker = Worker::new(jobs.clone(), handlers, ids.clone(), tasks);
    let restart = Policy::Restart(jobs.config.backoff_min);
    for _ in 0..jobs.config.concurrency.max(1) {
        let worker = worker.clone();
        tasks.spawn("jobs", restart, move || {
            let worker = worker.clone();
            async move { worker.work().await }
        });
    }
    let (jobs, soft) = (jobs.clone(), tasks.stop().soft_token().clone());
    tasks.spawn("jobs_prune", restart, move || {
        let (jobs, soft) = (jobs.clone(), soft.clone());
        async move {
            while soft.run_until_cancelled(tokio::time::sleep(PRUNE_INTERVAL)).await.is_some() {
                match jobs.prune().await {
                    Ok(0) => {}
                    Ok(deleted) => tracing::info!(deleted, "old jobs deleted"),
                    Err(error) => tracing::warn!(error = %error, "old jobs could not be deleted"),
                }
            }
            Ok(())
        }
    });
}

impl Worker {
    pub fn new(jobs: Jobs, handlers: Vec<Arc<dyn Handler>>, ids: Arc<dyn IdSource>, tasks: &Tasks) -> Self {
        let owner = format!("{}/{}", std::process::id(), ids.uuid_now(&*jobs.clock).simple());
        let (soft, hard) = (tasks.stop().soft_token().clone(), tasks.stop().hard_token().clone());
        Self { jobs, handlers: handlers.into(), owner: owner.into(), ids, soft, hard }
    }

    /// Works on jobs until the process stops.
    async fn work(&self) -> anyhow::Result<()> {
        let mut failures = 0;
        while !self.soft.is_cancelled() {
            // Listening begins before the look, so that a job queued in between is not slept over.
            let queued = self.jobs.queued.notified();
            tokio::pin!(queued);
            queued.as_mut().enable();
            let wait = match self.run_one().await {
                Ok(true) => continue,
                Ok(false) => {
                    failures = 0;
                    self.jobs.config.poll_interval
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(error = %error, "no job could be worked on");
                    self.jobs.backoff(failures, self.jitter())
                }
            };
            tokio::select! {
                () = &mut queued => {}
                () = tokio::time::sleep(wait) => {}
                () = self.soft.cancelled() => {}
            }
        }
        Ok(())
    }

    /// Claims one job and works on it until it ends, fails for now, is lost, or the process stops. False: there is
    /// none to claim.
    ///
    /// # Errors
    /// The database does not answer; a job in hand stays leased until its lease expires.
    pub async fn run_one(&self) -> Result<bool, JobsError> {
        let kinds: Vec<&str> = self.handlers.iter().map(|handler| handler.kind()).collect();
        // The lease counts from before the claim: here it never looks longer than in the database.
        let claimed_at = Instant::now();
        let (now, lease) = (self.jobs.clock.now(), self.jobs.config.lease);
        let Some(job) = self.jobs.meta.jobs().claim_next(&self.owner, &kinds, now, lease).await? else {
            return Ok(false);
        };
        let ended = self.work_on(&job, claimed_at).await?;
        self.settle(&job, ended).await?;
        Ok(true)
    }

    async fn work_on(&self, job: &Job, claimed_at: Instant) -> Result<Ended, JobsError> {
        let fatal = |message: String| Ok(Ended::End(JobEnd::Failed(message)));
        let Some(handler) = self.handlers.iter().find(|handler| handler.kind() == job.kind) else {
            return fatal(format!("this version knows no jobs of kind {}", job.kind));
        };
        let (mut failures, mut checkpoint) = match Saved::of(job) {
            Ok(saved) => saved,
            Err(error) => return fatal(format!("its checkpoint cannot be read: {error}")),
        };
        if job.cancel_requested {
            return Ok(Ended::End(JobEnd::Cancelled));
        }
        if failures >= i64::from(handler.attempts_max().unwrap_or(self.jobs.config.attempts_max)) {
            let last = job.error.as_deref().unwrap_or("its workers died");
            return fatal(format!("given up after {failures} tries without progress; the last one: {last}"));
        }
        let context = JobContext {
            jobs: self.jobs.clone(),
            id: job.id.clone(),
            project: job.project_id.clone(),
            fence: job.fence,
            claim: job.attempts,
            cancelled: self.soft.child_token(),
        };
        let mut confirmed_at = claimed_at;
        loop {
            let step = handler.step(&context, &job.spec.0, checkpoint.as_ref());
            let step = match self.guarded(&context, confirmed_at, step).await {
                Ok(step) => step,
                Err(JobError::LeaseLost) => return Ok(Ended::Lost),
                Err(JobError::Fatal(message)) => return fatal(message),
                Err(error @ (JobError::Away(_) | JobError::Retry(_))) => {
                    if matches!(error, JobError::Away(_)) {
                        self.forgive(job, failures, checkpoint).await?;
                    }
                    let wait = self.jobs.backoff(failures, self.jitter());
                    return Ok(Ended::Release { wait, error: Some(error.to_string()) });
                }
            };
            let saved = Saved { claim: job.attempts, at: Some(step.checkpoint.clone()) }.to_json();
            let progress = Some(step.progress.clone());
            confirmed_at = Instant::now();
            let saving = self.jobs.meta.jobs();
            match saving.save_checkpoint(&job.id, job.fence, saved, progress, self.jobs.clock.now()).await {
                Err(MetaError::LeaseLost(_)) => return Ok(Ended::Lost),
                saved => saved?,
            }
            let Then::Continue(wait) = step.then else {
                return Ok(Ended::End(JobEnd::Succeeded(step.progress)));
            };
            if let Some(ended) = self.pause(&context, confirmed_at, wait).await? {
                return Ok(ended);
            }
            confirmed_at = Instant::now();
            (failures, checkpoint) = (0, Some(step.checkpoint));
        }
    }

    /// Lets this claim not count: there are as many failures in a row as before it.
    async fn forgive(&self, job: &Job, failures: i64, at: Option<Value>) -> Result<(), MetaError> {
        let saved = Saved { claim: job.attempts.saturating_sub(failures), at }.to_json();
        let (rows, now) = (self.jobs.meta.jobs(), self.jobs.clock.now());
        match rows.save_checkpoint(&job.id, job.fence, saved, None, now).await {
            // Who has the job now is told when it is given back.
            Err(MetaError::LeaseLost(_)) => Ok(()),
            saved => saved,
        }
    }

    /// Between two steps: prolongs the lease, waits, and sees whether to go on.
    async fn pause(
        &self,
        context: &JobContext,
        confirmed_at: Instant,
        wait: Duration,
    ) -> Result<Option<Ended>, JobsError> {
        let idle = async {
            let _ = context.cancelled.run_until_cancelled(tokio::time::sleep(wait)).await;
            Ok(())
        };
        let lost = match self.beating(context, confirmed_at, idle).await {
            Ok(()) => context.confirm().await.err(),
            Err(error) => Some(error),
        };
        match lost {
            None if self.soft.is_cancelled() => {
                Ok(Some(Ended::Release { wait: Duration::ZERO, error: None }))
            }
            None if context.cancelled.is_cancelled() => Ok(Some(Ended::End(JobEnd::Cancelled))),
            None => Ok(None),
            Some(JobError::LeaseLost) => Ok(Some(Ended::Lost)),
            Some(error) => Ok(Some(Ended::Release { wait: Duration::ZERO, error: Some(error.to_string()) })),
        }
    }

    /// A step within its time, its panics caught, under a lease that is prolonged while it runs.
    async fn guarded<'a>(
        &'a self,
        context: &'a JobContext,
        confirmed_at: Instant,
        step: impl Future<Output = Result<Step, JobError>> + Send + 'a,
    ) -> Result<Step, JobError> {
        let limit = self.jobs.config.step_timeout;
        let step = async move {
            match tokio::time::timeout(limit, AssertUnwindSafe(step).catch_unwind()).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(panic)) => Err(JobError::Retry(format!("the step panicked: {}", panic_text(&*panic)))),
                Err(_) => {
                    Err(JobError::Retry(format!("the step took longer than jobs.step_timeout ({limit:?})")))
                }
            }
        };
        self.beating(context, confirmed_at, step).await
    }

    /// Prolongs the lease three times in its time while `work` runs; drops `work` when the lease is lost, or may be.
    async fn beating<T>(
        &self,
        context: &JobContext,
        mut confirmed_at: Instant,
        work: impl Future<Output = Result<T, JobError>> + Send,
    ) -> Result<T, JobError> {
        let lease = self.jobs.config.lease;
        let beats = async move {
            loop {
                tokio::time::sleep(lease / 3).await;
                let asked_at = Instant::now();
                match context.heartbeat().await {
                    Ok(()) => confirmed_at = asked_at,
                    Err(MetaError::LeaseLost(_)) => return,
                    Err(error) => {
                        tracing::warn!(job_id = context.id, error = %error, "the job's lease could not be prolonged");
                        if confirmed_at.elapsed() >= lease {
                            return;
                        }
                    }
                }
            }
        };
        tokio::select! {
            outcome = work => outcome,
            () = beats => Err(JobError::LeaseLost),
            () = self.hard.cancelled() => Err(JobError::LeaseLost),
        }
    }

    async fn settle(&self, job: &Job, ended: Ended) -> Result<(), JobsError> {
        let now = self.jobs.clock.now();
        let rows = self.jobs.meta.jobs();
        let settled = match ended {
            Ended::End(end) => {
                let (outcome, error) = match &end {
                    JobEnd::Succeeded(_) => ("succeeded", ""),
                    JobEnd::Failed(error) => ("failed", error.as_str()),
                    JobEnd::Cancelled => ("cancelled", ""),
                };
                let (outcome, error) = (outcome, error.to_owned());
                let notice = self.jobs.notice(job, outcome, &error);
                let finished = rows.finish(&job.id, job.fence, end, now, notice).await;
                if finished.is_ok() {
                    names::JOB_RUNS.counter(&[("kind", &job.kind), ("outcome", outcome)]).increment(1);
                    tracing::info!(job_id = job.id, kind = job.kind, outcome, error, "job ended");
                    self.jobs.wake();
                }
                finished
            }
            Ended::Release { wait, error } => {
                if let Some(error) = &error {
                    let (job_id, kind, wait_ms) = (&job.id, &job.kind, wait.as_millis());
                    tracing::warn!(job_id, kind, error, wait_ms, "a step of a job failed, to be tried again");
                }
                rows.release(&job.id, job.fence, now.plus(wait), error, now).await
            }
            Ended::Lost => Err(MetaError::LeaseLost(job.id.clone())),
        };
        match settled {
            Err(MetaError::LeaseLost(_)) => {
                tracing::warn!(
                    job_id = job.id,
                    kind = job.kind,
                    "the job's lease is lost: another worker goes on"
                );
                Ok(())
            }
            settled => Ok(settled?),
        }
    }

    /// A number from 0 up to 1.
    fn jitter(&self) -> f64 {
        let mut bytes = [0u8; 4];
        self.ids.fill(&mut bytes);
        f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

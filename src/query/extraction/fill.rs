//! Rows from before a promotion get their column, in a durable job: one partition of the table after the other, newest
//! first.
//!
//! A step has the store begin a partition, or looks whether it is done. So a job that is cancelled stops behind the
//! partition under way, and one whose process dies goes on there. Beginning one twice does it twice, and changes nothing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::http::{ErrorCode, Problem};
use crate::job::{Handler, JobContext, JobError, Jobs, JobsError, NewJob, Overview, Step, Then};
use crate::meta::{JobFilter, JobState};
use crate::store::Store;

/// The kind of these jobs.
const KIND: &str = "properties.fill";
/// How often a partition under way is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Jobs that are looked through for one of the same property.
const JOBS_MAX: u64 = 200;

/// What to fill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Spec {
    key: String,
}

/// How far it came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct At {
    /// Partitions that are left, newest last; none: not looked yet.
    left: Option<Vec<String>>,
    filled: u64,
    /// Has the store begun the last of them?
    begun: bool,
}

/// Does these jobs, for [`crate::job::run`].
pub fn handlers(store: &Store) -> Vec<Arc<dyn Handler>> {
    vec![Arc::new(Fill(store.clone()))]
}

/// Queues a job for a property, unless there is one already or nothing to fill.
///
/// # Errors
/// 429: too many jobs are open; 503 while a database does not answer.
pub(super) async fn start(store: &Store, jobs: &Jobs, key: &str) -> Result<Option<Overview>, Problem> {
    if store.partitions_to_fill(key).await.map_err(crate::query::problem)?.is_empty() {
        return Ok(None);
    }
    let spec = json!({ "key": key });
    let filter = JobFilter { kind: Some(KIND), ..JobFilter::default() };
    let known = jobs.list(None, filter, JOBS_MAX).await.map_err(refused)?;
    let open = |job: &Overview| matches!(job.state, JobState::Queued | JobState::Running) && job.spec == spec;
    if let Some(job) = known.into_iter().find(open) {
        return Ok(Some(job));
    }
    jobs.start(NewJob { project: None, kind: KIND, spec }).await.map(Some).map_err(refused)
}

fn refused(error: JobsError) -> Problem {
    match error {
        JobsError::TooMany { .. } => Problem::new(ErrorCode::TooManyRequests, error.to_string()),
        other => Problem::unavailable(other.to_string(), Duration::from_secs(1)),
    }
}

struct Fill(Store);

#[async_trait]
impl Handler for Fill {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn step(
        &self,
        context: &JobContext,
        spec: &Value,
        checkpoint: Option<&Value>,
    ) -> Result<Step, JobError> {
        let fatal = |error: serde_json::Error| JobError::Fatal(error.to_string());
        let Spec { key } = Spec::deserialize(spec).map_err(fatal)?;
        let mut at = checkpoint.map_or(Ok(At::default()), At::deserialize).map_err(fatal)?;
        let then = self.go_on(context, &key, &mut at).await?;
        let left = at.left.as_ref().map_or(0, Vec::len);
        let progress = json!({ "partitions_filled": at.filled, "partitions_left": left });
        Ok(Step { checkpoint: serde_json::to_value(&at).map_err(fatal)?, progress, then })
    }
}

impl Fill {
    /// One look, or one partition begun.
    async fn go_on(&self, context: &JobContext, key: &str, at: &mut At) -> Result<Then, JobError> {
        let known = self.0.promoted_columns().await?;
        if known.iter().all(|(promoted, _)| promoted != key) {
            // Its column was taken away: there is nothing left to fill.
            at.left = Some(Vec::new());
            return Ok(Then::Done);
        }
        let to_fill = self.0.partitions_to_fill(key).await?;
        let Some(left) = &mut at.left else {
            at.left = Some(to_fill);
            return Ok(Then::Continue(Duration::ZERO));
        };
        let Some(partition) = left.last().cloned() else { return Ok(Then::Done) };
        if let Some(work) = self.0.filling(key).await? {
            return match work.error {
                Some(error) => Err(JobError::Retry(error)),
                None => Ok(Then::Continue(LOOK)),
            };
        }
        if at.begun || !to_fill.contains(&partition) {
            left.pop();
            at.filled += 1;
            at.begun = false;
        } else {
            context.confirm().await?;
            self.0.fill(key, &partition).await?;
            at.begun = true;
        }
        Ok(Then::Continue(Duration::ZERO))
    }
}

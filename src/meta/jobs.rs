//! Rows of durable jobs: leased to one holder at a time, fenced, with checkpoint and progress.
//!
//! A job is claimed by an owner for a time (the lease) and under a fence, a number that grows with every claim. Every
//! write of the holder carries its fence: a holder that lost the lease without knowing can change nothing.

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{LockBehavior, LockType, Query, SubQueryStatement};
use sea_orm::{ActiveValue, Condition, ConnectionTrait, ExprTrait, FromQueryResult, QueryOrder, QuerySelect};
use serde_json::Value as Json;
use std::time::Duration;

use super::columns::JsonText;
use super::{Meta, MetaError, NewNotice, notices};
use crate::event::{ProjectId, Timestamp};

/// How a job is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for its time and for somebody to claim it.
    Queued,
    /// Held under a lease; whoever finds the lease expired may claim it.
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl JobState {
    /// Every state.
    pub const ALL: &'static [Self] =
        &[Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// Its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.as_str() == name)
    }

    /// Will it never change again?
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "jobs")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub kind: String,
    /// None: a job of the whole installation.
    pub project_id: Option<ProjectId>,
    /// What to do; never changes.
    pub spec: JsonText,
    pub state: JobState,
    /// How far it got: where the next holder goes on.
    pub checkpoint: Option<JsonText>,
    /// What to show to people.
    pub progress: Option<JsonText>,
    pub result: Option<JsonText>,
    /// Why it failed, or why it was put off.
    pub error: Option<String>,
    /// Times it was claimed.
    pub attempts: i64,
    pub lease_owner: Option<String>,
    /// Grows with every claim.
    pub fence: i64,
    pub lease_expires_at: Option<Timestamp>,
    pub cancel_requested: bool,
    /// Not to be claimed earlier.
    pub run_after: Timestamp,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// A durable job.
pub type Job = Model;

/// A job to be queued.
#[derive(Clone, Debug)]
pub struct NewJob<'a> {
    /// None: a job of the whole installation.
    pub project: Option<&'a ProjectId>,
    pub kind: &'a str,
    pub spec: Json,
    /// Not to be claimed earlier; `None`: at once.
    pub run_after: Option<Timestamp>,
}

/// How a holder ends a job.
#[derive(Clone, Debug)]
pub enum JobEnd {
    Succeeded(Json),
    Failed(String),
    Cancelled,
}

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct JobFilter<'a> {
    pub kind: Option<&'a str>,
    pub state: Option<JobState>,
    /// Only jobs older than this one (the last id of the page before): ids sort by age.
    pub before: Option<&'a str>,
}

/// The finders and writers of jobs. Where a project is asked for, `None` means every project: the operator's view.
pub struct Jobs<'a>(pub(super) &'a Meta);

impl Jobs<'_> {
    /// Queues a job.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn insert(&self, job: NewJob<'_>) -> Result<Job, MetaError> {
        let now = self.0.now();
        let made = Model {
            id: self.0.new_id("job_", now),
            kind: job.kind.to_owned(),
            project_id: job.project.cloned(),
            spec: JsonText(job.spec),
            state: JobState::Queued,
            checkpoint: None,
            progress: None,
            result: None,
            error: None,
            attempts: 0,
            lease_owner: None,
            fence: 0,
            lease_expires_at: None,
            cancel_requested: false,
            run_after: job.run_after.unwrap_or(now),
            created_at: now,
            updated_at: now,
        };
        let row = ActiveModel {
            id: ActiveValue::Set(made.id.clone()),
            kind: ActiveValue::Set(made.kind.clone()),
            project_id: ActiveValue::Set(made.project_id.clone()),
            spec: ActiveValue::Set(made.spec.clone()),
            state: ActiveValue::Set(made.state),
            attempts: ActiveValue::Set(made.attempts),
            fence: ActiveValue::Set(made.fence),
            cancel_requested: ActiveValue::Set(made.cancel_requested),
            run_after: ActiveValue::Set(made.run_after),
            created_at: ActiveValue::Set(now),
            updated_at: ActiveValue::Set(now),
            ..Default::default()
        };
        let transaction = self.0.begin_write().await?;
        self.0.track(Entity::insert(row).exec_without_returning(&transaction).await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(made)
    }

    /// Claims the job that has waited longest: queued and due, or running under a lease that expired by `now`. Only
    /// the `kinds` that the caller can run. The claim, its new fence and its lease are one statement: two callers
    /// never get the same job.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn claim_next(
        &self,
        owner: &str,
        kinds: &[&str],
        now: Timestamp,
        lease: Duration,
    ) -> Result<Option<Job>, MetaError> {
        let due = Condition::any()
            .add(Condition::all().add(Column::State.eq(JobState::Queued)).add(Column::RunAfter.lte(now)))
            .add(
                Condition::all().add(Column::State.eq(JobState::Running)).add(
                    // A lease that ends later than any given now could was given before the clock jumped back.
                    Condition::any()
                        .add(Column::LeaseExpiresAt.lte(now))
                        .add(Column::LeaseExpiresAt.gt(now.plus(lease * 2))),
                ),
            );
        let next = Query::select()
            .column(Column::Id)
            .from(Entity)
            .cond_where(due)
            .and_where(Column::Kind.is_in(kinds.iter().copied()))
            .order_by(Column::RunAfter, sea_orm::Order::Asc)
            .order_by(Column::Id, sea_orm::Order::Asc)
            .limit(1)
            // Where rows are locked one by one, a job that another is claiming is passed over. SQLite has one writer.
            .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
            .to_owned();
        let claim = Query::update()
            .table(Entity)
            .value(Column::State, JobState::Running)
            .value(Column::LeaseOwner, owner)
            .value(Column::LeaseExpiresAt, now.plus(lease))
            .value(Column::Fence, Expr::col(Column::Fence).add(1_i64))
            .value(Column::Attempts, Expr::col(Column::Attempts).add(1_i64))
            .value(Column::UpdatedAt, now)
            // Equality and not IN: PostgreSQL may ask the query of an IN more than once, and lock a job each time.
            .and_where(Expr::col(Column::Id).eq(SubQueryStatement::from(next)))
            .returning_all()
            .to_owned();
        let row = self.0.track(self.0.connection().query_one(&claim).await)?;
        Ok(row.map(|row| Model::from_query_result(&row, "")).transpose()?)
    }

    /// Prolongs the lease; true: someone asked to cancel the job.
    ///
    /// # Errors
    /// [`MetaError::LeaseLost`] if `fence` is not the newest, or the job has ended.
    pub async fn heartbeat(
        &self,
        id: &str,
        fence: i64,
        now: Timestamp,
        lease: Duration,
    ) -> Result<bool, MetaError> {
        let update = Entity::update_many()
            .col_expr(Column::LeaseExpiresAt, Expr::value(now.plus(lease)))
            .col_expr(Column::UpdatedAt, Expr::value(now));
        self.write_fenced(id, fence, update).await?;
        Ok(self.get(None, id).await?.is_some_and(|job| job.cancel_requested))
    }

    /// Keeps how far the job got; `progress` is what people see.
    ///
    /// # Errors
    /// [`MetaError::LeaseLost`] if `fence` is not the newest, or the job has ended.
    pub async fn save_checkpoint(
        &self,
        id: &str,
        fence: i64,
        checkpoint: Json,
        progress: Option<Json>,
        now: Timestamp,
    ) -> Result<(), MetaError> {
        let mut update = Entity::update_many()
            .col_expr(Column::Checkpoint, Expr::value(JsonText(checkpoint)))
            .col_expr(Column::UpdatedAt, Expr::value(now));
        if let Some(progress) = progress {
            update = update.col_expr(Column::Progress, Expr::value(JsonText(progress)));
        }
        self.write_fenced(id, fence, update).await
    }

    /// Ends the job for good, and keeps the notice of it in the same transaction.
    ///
    /// # Errors
    /// [`MetaError::LeaseLost`] if `fence` is not the newest, or the job has ended.
    pub async fn finish(
        &self,
        id: &str,
        fence: i64,
        end: JobEnd,
        now: Timestamp,
        notice: Option<NewNotice>,
    ) -> Result<(), MetaError> {
        let (state, result, error) = match end {
            JobEnd::Succeeded(result) => (JobState::Succeeded, Some(JsonText(result)), None),
            JobEnd::Failed(error) => (JobState::Failed, None, Some(error)),
            JobEnd::Cancelled => (JobState::Cancelled, None, None),
        };
        let update = Entity::update_many()
            .col_expr(Column::State, Expr::value(state))
            .col_expr(Column::Result, Expr::value(result))
            .col_expr(Column::Error, Expr::value(error))
            .col_expr(Column::LeaseOwner, Expr::value(None::<String>))
            .col_expr(Column::LeaseExpiresAt, Expr::value(None::<Timestamp>))
            .col_expr(Column::UpdatedAt, Expr::value(now));
        let transaction = self.0.begin_write().await?;
        if self.0.track(fenced(id, fence, update).exec(&transaction).await)?.rows_affected == 0 {
            return Err(MetaError::LeaseLost(id.to_owned()));
        }
        let left = self.0.track(notices::put(self.0, &transaction, notice.as_slice()).await)?;
        self.0.track(super::commit(transaction).await)?;
        notices::lost(left);
        Ok(())
    }

    /// Gives the job back to be claimed again from `run_after` on: after an error that may pass (`error` says which),
    /// or when the process stops (`None`).
    ///
    /// # Errors
    /// [`MetaError::LeaseLost`] if `fence` is not the newest, or the job has ended.
    pub async fn release(
        &self,
        id: &str,
        fence: i64,
        run_after: Timestamp,
        error: Option<String>,
        now: Timestamp,
    ) -> Result<(), MetaError> {
        let update = Entity::update_many()
            .col_expr(Column::State, Expr::value(JobState::Queued))
            .col_expr(Column::RunAfter, Expr::value(run_after))
            .col_expr(Column::Error, Expr::value(error))
            .col_expr(Column::LeaseOwner, Expr::value(None::<String>))
            .col_expr(Column::LeaseExpiresAt, Expr::value(None::<Timestamp>))
            .col_expr(Column::UpdatedAt, Expr::value(now));
        self.write_fenced(id, fence, update).await
    }

    /// Asks to cancel a job and returns it: one that waits is cancelled at once, one that runs is told at its next
    /// heartbeat, one that has ended stays as it is. `None`: there is no such job. The notice of one that this ends is
    /// kept in the same transaction.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn request_cancel(
        &self,
        project: Option<&ProjectId>,
        id: &str,
        now: Timestamp,
        notice: impl FnOnce(&Job) -> Option<NewNotice>,
    ) -> Result<Option<Job>, MetaError> {
        let update = cancelled(now).filter(Column::Id.eq(id));
        let update = match project {
            Some(project) => update.filter(Column::ProjectId.eq(project.clone())),
            None => update,
        };
        let transaction = self.0.begin_write().await?;
        let changed = self.0.track(update.exec(&transaction).await)?.rows_affected;
        let found = self.0.track(within(project, Entity::find_by_id(id)).one(&transaction).await)?;
        let ended = found.as_ref().filter(|job| changed > 0 && job.state == JobState::Cancelled);
        let notice = ended.and_then(notice);
        let left = self.0.track(notices::put(self.0, &transaction, notice.as_slice()).await)?;
        self.0.track(super::commit(transaction).await)?;
        notices::lost(left);
        Ok(found)
    }

    /// Queues a failed or cancelled job again; false: it is not as `seen` any more.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn requeue(
        &self,
        project: Option<&ProjectId>,
        seen: &Job,
        checkpoint: Json,
        now: Timestamp,
    ) -> Result<bool, MetaError> {
        let update = Entity::update_many()
            .col_expr(Column::State, Expr::value(JobState::Queued))
            .col_expr(Column::Checkpoint, Expr::value(JsonText(checkpoint)))
            .col_expr(Column::CancelRequested, Expr::value(false))
            .col_expr(Column::Error, Expr::value(None::<String>))
            .col_expr(Column::RunAfter, Expr::value(now))
            .col_expr(Column::UpdatedAt, Expr::value(now))
            .filter(Column::Id.eq(&seen.id))
            .filter(Column::State.eq(seen.state))
            .filter(Column::State.is_in([JobState::Failed, JobState::Cancelled]))
            .filter(Column::Fence.eq(seen.fence));
        let update = match project {
            Some(project) => update.filter(Column::ProjectId.eq(project.clone())),
            None => update,
        };
        Ok(self.0.track(update.exec(self.0.connection()).await)?.rows_affected > 0)
    }

    /// Jobs of every project that are queued or running.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn count_open(&self) -> Result<u64, MetaError> {
        let open = Entity::find().filter(Column::State.is_in([JobState::Queued, JobState::Running]));
        self.0.track(open.count(self.0.connection()).await)
    }

    /// Deletes jobs of every project that ended before this time; answers how many.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn delete_ended(&self, before: Timestamp) -> Result<u64, MetaError> {
        let ended = [JobState::Succeeded, JobState::Failed, JobState::Cancelled];
        let old =
            Entity::delete_many().filter(Column::State.is_in(ended)).filter(Column::UpdatedAt.lt(before));
        Ok(self.0.track(old.exec(self.0.connection()).await)?.rows_affected)
    }

    /// A job, if it exists (in this project).
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn get(&self, project: Option<&ProjectId>, id: &str) -> Result<Option<Job>, MetaError> {
        let found = within(project, Entity::find_by_id(id));
        self.0.track(found.one(self.0.connection()).await)
    }

    /// Jobs, newest first, at most `limit`.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn list(
        &self,
        project: Option<&ProjectId>,
        filter: JobFilter<'_>,
        limit: u64,
    ) -> Result<Vec<Job>, MetaError> {
        let mut found = within(project, Entity::find()).order_by_desc(Column::Id).limit(limit);
        if let Some(kind) = filter.kind {
            found = found.filter(Column::Kind.eq(kind));
        }
        if let Some(state) = filter.state {
            found = found.filter(Column::State.eq(state));
        }
        if let Some(before) = filter.before {
            found = found.filter(Column::Id.lt(before));
        }
        self.0.track(found.all(self.0.connection()).await)
    }

    async fn write_fenced(
        &self,
        id: &str,
        fence: i64,
        update: sea_orm::UpdateMany<Entity>,
    ) -> Result<(), MetaError> {
        match self.0.track(fenced(id, fence, update).exec(self.0.connection()).await)?.rows_affected {
            0 => Err(MetaError::LeaseLost(id.to_owned())),
            _ => Ok(()),
        }
    }
}

/// Of the job's holder alone.
fn fenced(id: &str, fence: i64, update: sea_orm::UpdateMany<Entity>) -> sea_orm::UpdateMany<Entity> {
    update
        .filter(Column::Id.eq(id))
        .filter(Column::Fence.eq(fence))
        .filter(Column::State.eq(JobState::Running))
}

fn within(project: Option<&ProjectId>, found: Select<Entity>) -> Select<Entity> {
    match project {
        Some(project) => found.filter(Column::ProjectId.eq(project.clone())),
        None => found,
    }
}

/// Cancels what waits, and asks what runs to end.
fn cancelled(now: Timestamp) -> sea_orm::UpdateMany<Entity> {
    let state =
        Expr::case(Column::State.eq(JobState::Queued), JobState::Cancelled).finally(Expr::col(Column::State));
    Entity::update_many()
        .col_expr(Column::State, state.into())
        .col_expr(Column::CancelRequested, Expr::value(true))
        .col_expr(Column::UpdatedAt, Expr::value(now))
        .filter(Column::State.is_in([JobState::Queued, JobState::Running]))
}

/// Does so with every job of a project, inside the caller's transaction.
pub(super) async fn cancel_all(
    meta: &Meta,
    transaction: &impl ConnectionTrait,
    project: &ProjectId,
) -> Result<(), MetaError> {
    let update = cancelled(meta.now()).filter(Column::ProjectId.eq(project.clone()));
    update.exec(transaction).await?;
    Ok(())
}

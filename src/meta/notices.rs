//! What is to be told and is not in the log yet: deleted once it is.

use std::collections::BTreeSet;

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ActiveValue, DatabaseTransaction, QueryOrder, QuerySelect};

use super::{Meta, MetaError, projects};
use crate::event::{ProjectId, Timestamp};
use crate::telemetry::names;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "notices")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// None: it concerns the whole installation, or a project that nobody has.
    pub project_id: Option<ProjectId>,
    /// As it will stand in the log.
    #[sea_orm(column_type = "Text")]
    pub record: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// A notice to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNotice {
    /// Kept twice, it is one.
    pub id: String,
    pub project_id: Option<ProjectId>,
    pub record: String,
    /// Notices that are kept at most.
    pub max: u64,
}

impl From<Model> for NewNotice {
    fn from(row: Model) -> Self {
        Self { id: row.id, project_id: row.project_id, record: row.record, max: u64::MAX }
    }
}

/// The finders and writers of notices. They are of all projects: what passes them on is the process itself.
pub struct Notices<'a>(pub(super) &'a Meta);

impl Notices<'_> {
    /// Keeps notices. Those that there is no room for are counted as lost.
    ///
    /// # Errors
    /// The database does not answer: none is kept, or that cannot be told.
    pub async fn add(&self, notices: &[NewNotice]) -> Result<(), MetaError> {
        let transaction = self.0.begin_write().await?;
        let left = self.0.track(put(self.0, &transaction, notices).await)?;
        self.0.track(super::commit(transaction).await)?;
        lost(left);
        Ok(())
    }

    /// The oldest notices of all.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn oldest(&self, limit: u64) -> Result<Vec<Model>, MetaError> {
        let found = Entity::find().order_by_asc(Column::CreatedAt).order_by_asc(Column::Id).limit(limit);
        self.0.track(found.all(self.0.connection()).await)
    }

    /// Forgets notices that the log has.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn delete(&self, ids: &[String]) -> Result<(), MetaError> {
        if ids.is_empty() {
            return Ok(());
        }
        let told = Entity::delete_many().filter(Column::Id.is_in(ids));
        self.0.track(told.exec(self.0.connection()).await)?;
        Ok(())
    }

    /// How many wait.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn count(&self) -> Result<u64, MetaError> {
        self.0.track(Entity::find().count(self.0.connection()).await)
    }
}

/// Keeps notices inside the caller's transaction, as far as there is room. It gives how many there is no room for: they
/// are [`lost`] once the transaction is committed.
pub(super) async fn put(
    meta: &Meta,
    transaction: &DatabaseTransaction,
    notices: &[NewNotice],
) -> Result<usize, DbErr> {
    if notices.is_empty() {
        return Ok(0);
    }
    let max = notices.iter().map(|notice| notice.max).min().unwrap_or(0);
    let room = max.saturating_sub(Entity::find().count(transaction).await?);
    let room = usize::try_from(room).unwrap_or(usize::MAX).min(notices.len());
    let now = meta.now();
    for some in notices[..room].chunks(500) {
        let about: BTreeSet<&ProjectId> =
            some.iter().filter_map(|notice| notice.project_id.as_ref()).collect();
        let there = projects::rows_of(transaction, about.into_iter().cloned()).await?;
        let rows = some.iter().map(|notice| ActiveModel {
            id: ActiveValue::Set(notice.id.clone()),
            // Events of a project that nobody has come by a topic of others'; they are told of all the same.
            project_id: ActiveValue::Set(notice.project_id.clone().filter(|id| there.contains(id))),
            record: ActiveValue::Set(notice.record.clone()),
            created_at: ActiveValue::Set(now),
            updated_at: ActiveValue::Set(now),
        });
        let again = OnConflict::column(Column::Id).do_nothing().to_owned();
        match Entity::insert_many(rows).on_conflict(again).exec_without_returning(transaction).await {
            Ok(_) | Err(DbErr::RecordNotInserted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(notices.len() - room)
}

/// Counts notices that nobody will be told of.
pub fn lost(count: usize) {
    if count > 0 {
        tracing::error!(count, "system events are lost: webhook.unsent_max wait already");
        names::SYSTEM_EVENTS.counter(&[("outcome", "lost")]).increment(count as u64);
    }
}

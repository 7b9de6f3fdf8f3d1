//! Corrections of events: voids and amends, with what stood there before.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue, QueryOrder, QuerySelect};

use super::columns::JsonText;
use super::{Meta, MetaError};
use crate::event::{EnvironmentId, ProjectId, Scope, Timestamp};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "event_corrections")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub project_id: ProjectId,
    pub environment_id: EnvironmentId,
    pub event_id: String,
    /// `void` or `amend`.
    pub action: String,
    pub reason: String,
    /// The key that asked for it.
    pub made_by: Option<String>,
    pub made_at: Timestamp,
    /// The event's rows as they counted before.
    pub before: JsonText,
    /// The row as it counts since; none: void.
    pub after: Option<JsonText>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// A correction of an event.
pub type Correction = Model;

/// A correction to be written down.
#[derive(Clone, Debug)]
pub struct NewCorrection {
    pub event_id: String,
    pub action: &'static str,
    pub reason: String,
    pub made_by: Option<String>,
    pub before: serde_json::Value,
    pub after: Option<serde_json::Value>,
}

/// The finders and the writer of corrections.
pub struct Corrections<'a>(pub(super) &'a Meta);

fn of(scope: &Scope) -> Select<Entity> {
    Entity::find()
        .filter(Column::ProjectId.eq(scope.project.clone()))
        .filter(Column::EnvironmentId.eq(scope.environment.clone()))
}

impl Corrections<'_> {
    /// Writes a correction down.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn insert(&self, scope: &Scope, new: NewCorrection) -> Result<Correction, MetaError> {
        let now = self.0.now();
        let made = Model {
            id: self.0.new_id("corr_", now),
            project_id: scope.project.clone(),
            environment_id: scope.environment.clone(),
            event_id: new.event_id,
            action: new.action.to_owned(),
            reason: new.reason,
            made_by: new.made_by,
            made_at: now,
            before: JsonText(new.before),
            after: new.after.map(JsonText),
            created_at: now,
            updated_at: now,
        };
        let row = ActiveModel {
            id: ActiveValue::Set(made.id.clone()),
            project_id: ActiveValue::Set(made.project_id.clone()),
            environment_id: ActiveValue::Set(made.environment_id.clone()),
            event_id: ActiveValue::Set(made.event_id.clone()),
            action: ActiveValue::Set(made.action.clone()),
            reason: ActiveValue::Set(made.reason.clone()),
            made_by: ActiveValue::Set(made.made_by.clone()),
            made_at: ActiveValue::Set(now),
            before: ActiveValue::Set(made.before.clone()),
            after: ActiveValue::Set(made.after.clone()),
            created_at: ActiveValue::Set(now),
            updated_at: ActiveValue::Set(now),
        };
        let transaction = self.0.begin_write().await?;
        self.0.track(Entity::insert(row).exec_without_returning(&transaction).await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(made)
    }

    /// Corrections of one event, oldest first, at most `limit`.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn of_event(
        &self,
        scope: &Scope,
        event_id: &str,
        limit: u64,
    ) -> Result<Vec<Correction>, MetaError> {
        let found = of(scope).filter(Column::EventId.eq(event_id)).order_by_asc(Column::MadeAt);
        self.0.track(found.order_by_asc(Column::Id).limit(limit).all(self.0.connection()).await)
    }

    /// Corrections made after `since`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn made_after(
        &self,
        scope: &Scope,
        since: Timestamp,
        limit: u64,
    ) -> Result<Vec<Correction>, MetaError> {
        let found = of(scope).filter(Column::MadeAt.gt(since)).order_by_asc(Column::MadeAt);
        self.0.track(found.order_by_asc(Column::Id).limit(limit).all(self.0.connection()).await)
    }
}

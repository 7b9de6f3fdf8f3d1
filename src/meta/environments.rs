//! Environments of a project: `production`, `development`, and what people add.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue, ConnectionTrait, PaginatorTrait, QueryOrder};

use super::{Meta, MetaError};
use crate::event::{EnvironmentId, ProjectId, Timestamp};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "environments")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: EnvironmentId,
    pub project_id: ProjectId,
    /// Unique in its project, 1–200 characters.
    pub name: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// An environment of a project.
pub type Environment = Model;

/// The finders and writers of environments.
pub struct Environments<'a>(pub(super) &'a Meta);

impl Environments<'_> {
    /// An environment of this project, if it exists.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn find(
        &self,
        project: &ProjectId,
        environment: &EnvironmentId,
    ) -> Result<Option<Environment>, MetaError> {
        let found = Entity::find_by_id(environment.clone()).filter(Column::ProjectId.eq(project.clone()));
        self.0.track(found.one(self.0.connection()).await)
    }

    /// Every environment of this project, oldest first; `auth.environments_max` bounds how many there can be.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn list(&self, project: &ProjectId) -> Result<Vec<Environment>, MetaError> {
        let found = Entity::find()
            .filter(Column::ProjectId.eq(project.clone()))
            .order_by_asc(Column::CreatedAt)
            .order_by_asc(Column::Id);
        self.0.track(found.all(self.0.connection()).await)
    }

    /// Makes an environment.
    ///
    /// # Errors
    /// [`MetaError::Exists`] for a name that the project has, [`MetaError::Missing`] for a project that does not
    /// exist, [`MetaError::Full`] at `max` environments.
    pub async fn create(&self, project: &ProjectId, name: &str, max: u64) -> Result<Environment, MetaError> {
        let transaction = self.0.begin_write().await?;
        let found = Entity::find().filter(Column::ProjectId.eq(project.clone())).count(&transaction).await;
        if self.0.track(found)? >= max {
            return Err(MetaError::Full { what: "environments", max, setting: "auth.environments_max" });
        }
        let made = self.0.track(insert(self.0, &transaction, project, name).await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(made)
    }
}

/// Makes an environment inside the caller's transaction.
pub(super) async fn insert(
    meta: &Meta,
    transaction: &impl ConnectionTrait,
    project: &ProjectId,
    name: &str,
) -> Result<Environment, MetaError> {
    let now = meta.now();
    let environment = Model {
        id: EnvironmentId::new(meta.new_id("env_", now)),
        project_id: project.clone(),
        name: name.to_owned(),
        created_at: now,
        updated_at: now,
    };
    let row = ActiveModel {
        id: ActiveValue::Set(environment.id.clone()),
        project_id: ActiveValue::Set(project.clone()),
        name: ActiveValue::Set(environment.name.clone()),
        created_at: ActiveValue::Set(now),
        updated_at: ActiveValue::Set(now),
    };
    Entity::insert(row).exec_without_returning(transaction).await.map_err(|error| {
        MetaError::from(error).about("an environment with this name in this project", "the project")
    })?;
    Ok(environment)
}

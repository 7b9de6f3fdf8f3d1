//! Projects (tenants).

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue, ConnectionTrait, PaginatorTrait, QueryOrder, QuerySelect};

use super::{Environment, Meta, MetaError, environments};
use crate::event::{ProjectId, Timestamp};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "projects")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: ProjectId,
    /// Unique in the installation, 1–200 characters.
    pub name: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// A project (tenant).
pub type Project = Model;

/// The environments that every project begins with.
const FIRST_ENVIRONMENTS: [&str; 2] = ["production", "development"];

/// The finders and writers of projects.
pub struct Projects<'a>(pub(super) &'a Meta);

impl Projects<'_> {
    /// A project, if it exists.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn find(&self, project: &ProjectId) -> Result<Option<Project>, MetaError> {
        self.0.track(Entity::find_by_id(project.clone()).one(self.0.connection()).await)
    }

    /// Every project of the installation, oldest first, at most `limit`. For the operator: the one finder that looks
    /// over all projects.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn list_all(&self, limit: u64) -> Result<Vec<Project>, MetaError> {
        let found = Entity::find().order_by_asc(Column::CreatedAt).order_by_asc(Column::Id).limit(limit);
        self.0.track(found.all(self.0.connection()).await)
    }

    /// Makes a project with environments `production` and `development`, all or nothing.
    ///
    /// # Errors
    /// [`MetaError::Exists`] for a name that is taken, [`MetaError::Full`] at `max` projects.
    pub async fn create(&self, name: &str, max: u64) -> Result<(Project, Vec<Environment>), MetaError> {
        let transaction = self.0.begin_write().await?;
        let found = self.0.track(Entity::find().count(&transaction).await)?;
        if found >= max {
            return Err(MetaError::Full { what: "projects", max, setting: "auth.projects_max" });
        }
        let made = self.0.track(insert(self.0, &transaction, name).await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(made)
    }
}

/// Makes a project and its first environments inside the caller's transaction.
pub(super) async fn insert(
    meta: &Meta,
    transaction: &impl ConnectionTrait,
    name: &str,
) -> Result<(Project, Vec<Environment>), MetaError> {
    let now = meta.now();
    let project = Model {
        id: ProjectId::new(meta.new_id("proj_", now)),
        name: name.to_owned(),
        created_at: now,
        updated_at: now,
    };
    let row = ActiveModel {
        id: ActiveValue::Set(project.id.clone()),
        name: ActiveValue::Set(project.name.clone()),
        created_at: ActiveValue::Set(now),
        updated_at: ActiveValue::Set(now),
    };
    Entity::insert(row)
        .exec_without_returning(transaction)
        .await
        .map_err(|error| MetaError::from(error).about("a project with this name", "the project"))?;
    let mut made = Vec::with_capacity(FIRST_ENVIRONMENTS.len());
    for name in FIRST_ENVIRONMENTS {
        made.push(environments::insert(meta, transaction, &project.id, name).await?);
    }
    Ok((project, made))
}

//! Environments of a project: `production`, `development`, what people add, and what the configuration names.

use std::collections::HashSet;

use sea_orm::entity::prelude::*;
use sea_orm::{ConnectionTrait, PaginatorTrait, QueryOrder};
use serde_json::json;

use super::{AuditAction, Meta, MetaError, Origin, audit, projects};
use crate::event::{EnvironmentId, ProjectId, Timestamp};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "environments")]
pub struct Model {
    /// Unique in its project: the configuration may name the same one in several.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: EnvironmentId,
    #[sea_orm(primary_key, auto_increment = false)]
    pub project_id: ProjectId,
    /// Unique in its project, 1–200 characters.
    pub name: String,
    pub origin: Origin,
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
        let found = of(project).filter(Column::Id.eq(environment.clone()));
        self.0.track(found.one(self.0.connection()).await)
    }

    /// Every environment of this project, oldest first; `auth.environments_max` bounds how many there can be.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn list(&self, project: &ProjectId) -> Result<Vec<Environment>, MetaError> {
        let found = of(project).order_by_asc(Column::CreatedAt).order_by_asc(Column::Id);
        self.0.track(found.all(self.0.connection()).await)
    }

    /// The environments of several projects, oldest first.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn of_projects(&self, projects: &[ProjectId]) -> Result<Vec<Environment>, MetaError> {
        let found = Entity::find()
            .filter(Column::ProjectId.is_in(projects.iter().cloned()))
            .filter(Column::ProjectId.in_subquery(projects::living_ids()))
            .order_by_asc(Column::CreatedAt)
            .order_by_asc(Column::Id);
        self.0.track(found.all(self.0.connection()).await)
    }

    /// Of these environments, those that their project has, be it deleted: for the operator, who holds what the store
    /// has against what there is.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn known(
        &self,
        ids: &[(ProjectId, EnvironmentId)],
    ) -> Result<HashSet<(ProjectId, EnvironmentId)>, MetaError> {
        let asked: HashSet<&(ProjectId, EnvironmentId)> = ids.iter().collect();
        let found = Entity::find()
            .filter(Column::ProjectId.is_in(ids.iter().map(|(project, _)| project.clone())))
            .filter(Column::Id.is_in(ids.iter().map(|(_, environment)| environment.clone())));
        let found = self.0.track(found.all(self.0.connection()).await)?;
        let found = found.into_iter().map(|row| (row.project_id, row.id));
        Ok(found.filter(|one| asked.contains(one)).collect())
    }

    /// Gives an environment another name. `None`: the project has no such environment.
    ///
    /// # Errors
    /// [`MetaError::Exists`] for a name that the project has.
    pub async fn rename(
        &self,
        project: &ProjectId,
        environment: &EnvironmentId,
        name: &str,
    ) -> Result<Option<Environment>, MetaError> {
        let transaction = self.0.begin_write().await?;
        let found = of(project).filter(Column::Id.eq(environment.clone())).one(&transaction).await;
        let Some(found) = self.0.track(found)? else { return Ok(None) };
        let now = self.0.now();
        let update = Entity::update_many()
            .col_expr(Column::Name, Expr::value(name))
            .col_expr(Column::UpdatedAt, Expr::value(now))
            .filter(Column::ProjectId.eq(project.clone()))
            .filter(Column::Id.eq(environment.clone()));
        let updated = update.exec(&transaction).await;
        let taken = |error| MetaError::from(error).about(TAKEN, "the project");
        self.0.track(updated.map_err(taken))?;
        let facts = json!({ "from": found.name, "to": name });
        let action = AuditAction::EnvironmentRenamed;
        let entry = audit::record(self.0, &transaction, Some(project), action, environment.as_str(), facts);
        self.0.track(entry.await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(Some(Model { name: name.to_owned(), updated_at: now, ..found }))
    }

    /// Makes an environment.
    ///
    /// # Errors
    /// [`MetaError::Exists`] for a name that the project has, [`MetaError::Missing`] for a project that does not
    /// exist, [`MetaError::Full`] at `max` environments.
    pub async fn create(&self, project: &ProjectId, name: &str, max: u64) -> Result<Environment, MetaError> {
        let transaction = self.0.begin_write().await?;
        self.0.track(projects::expect_living(&transaction, project).await)?;
        let found = Entity::find().filter(Column::ProjectId.eq(project.clone())).count(&transaction).await;
        if self.0.track(found)? >= max {
            return Err(self.0.full(Some(project), "environments", max, "auth.environments_max"));
        }
        let made = self.0.track(insert(self.0, &transaction, project, name).await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(made)
    }
}

const TAKEN: &str = "an environment with this name in this project";

/// The environments of a project, unless it is deleted.
fn of(project: &ProjectId) -> Select<Entity> {
    Entity::find()
        .filter(Column::ProjectId.eq(project.clone()))
        .filter(Column::ProjectId.in_subquery(projects::living_ids()))
}

/// Makes an environment inside the caller's transaction.
pub(super) async fn insert(
    meta: &Meta,
    transaction: &impl ConnectionTrait,
    project: &ProjectId,
    name: &str,
) -> Result<Environment, MetaError> {
    let id = EnvironmentId::new(meta.new_id("env_", meta.now()));
    insert_row(meta, transaction, project, id, name, Origin::Made).await
}

/// The same with an id that somebody chose.
pub(super) async fn insert_row(
    meta: &Meta,
    transaction: &impl ConnectionTrait,
    project: &ProjectId,
    id: EnvironmentId,
    name: &str,
    origin: Origin,
) -> Result<Environment, MetaError> {
    let now = meta.now();
    let environment = Model {
        id,
        project_id: project.clone(),
        name: name.to_owned(),
        origin,
        created_at: now,
        updated_at: now,
    };
    let row: ActiveModel = environment.clone().into();
    Entity::insert(row.reset_all())
        .exec_without_returning(transaction)
        .await
        .map_err(|error| MetaError::from(error).about(TAKEN, "the project"))?;
    let (id, facts) = (environment.id.as_str(), json!({ "name": name, "origin": origin }));
    audit::record(meta, transaction, Some(project), AuditAction::EnvironmentCreated, id, facts).await?;
    Ok(environment)
}

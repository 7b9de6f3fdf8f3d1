//! Projects (tenants).

use std::collections::HashSet;

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{Query, SelectStatement};
use sea_orm::{ActiveValue, ConnectionTrait, ExprTrait, PaginatorTrait, QueryOrder, QuerySelect};
use serde_json::json;

use super::{
    ActorKind, AuditAction, Environment, Meta, MetaError, NewMember, Role, api_keys, audit, environments,
    jobs, members, settings,
};
use crate::event::{ProjectId, Timestamp};

/// Where a project or an environment comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Somebody made it, or the first start.
    Made,
    /// The configuration names it: `auth.static_keys` or `consumer.sources`.
    Configuration,
    /// Rows of an earlier version named it before it had one of its own.
    Found,
}

impl Origin {
    /// Every origin.
    pub const ALL: &'static [Self] = &[Self::Made, Self::Configuration, Self::Found];

    /// Its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Configuration => "configuration",
            Self::Found => "found",
        }
    }

    /// The origin with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|origin| origin.as_str() == name)
    }
}

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "projects")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: ProjectId,
    /// Unique in the installation, 1–200 characters.
    pub name: String,
    /// By its IANA name.
    pub time_zone: String,
    pub origin: Origin,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// From then on no finder returns it.
    pub deleted_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// A project (tenant).
pub type Project = Model;

/// The time zone that every project begins with.
const FIRST_ZONE: &str = "UTC";
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
        self.0.track(living().filter(Column::Id.eq(project.clone())).one(self.0.connection()).await)
    }

    /// Those of these projects that exist.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn find_all(&self, projects: &[ProjectId]) -> Result<Vec<Project>, MetaError> {
        let found = living().filter(Column::Id.is_in(projects.iter().cloned()));
        self.0.track(found.all(self.0.connection()).await)
    }

    /// Every project of the installation, oldest first, at most `limit`. For the operator: the one finder that looks
    /// over all projects.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn list_all(&self, limit: u64) -> Result<Vec<Project>, MetaError> {
        let found = living().order_by_asc(Column::CreatedAt).order_by_asc(Column::Id).limit(limit);
        self.0.track(found.all(self.0.connection()).await)
    }

    /// Makes a project with environments `production` and `development`, all or nothing. A person who makes one owns
    /// it.
    ///
    /// # Errors
    /// [`MetaError::Exists`] for a name that is taken, [`MetaError::Full`] at `max` projects.
    pub async fn create(&self, name: &str, max: u64) -> Result<(Project, Vec<Environment>), MetaError> {
        let transaction = self.0.begin_write().await?;
        let found = self.0.track(living().count(&transaction).await)?;
        if found >= max {
            return Err(self.0.full(None, "projects", max, "auth.projects_max"));
        }
        let made = self.0.track(insert(self.0, &transaction, name).await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(made)
    }

    /// Gives a project another name, time zone, or both. `None`: there is no such project.
    ///
    /// # Errors
    /// [`MetaError::Exists`] for a name that is taken.
    pub async fn change(
        &self,
        project: &ProjectId,
        name: Option<&str>,
        time_zone: Option<&str>,
    ) -> Result<Option<Project>, MetaError> {
        let transaction = self.0.begin_write().await?;
        let found = living().filter(Column::Id.eq(project.clone())).one(&transaction).await;
        let Some(found) = self.0.track(found)? else { return Ok(None) };
        let now = self.0.now();
        let changed = Model {
            name: name.unwrap_or(&found.name).to_owned(),
            time_zone: time_zone.unwrap_or(&found.time_zone).to_owned(),
            updated_at: now,
            ..found.clone()
        };
        let update = Entity::update_many()
            .col_expr(Column::Name, Expr::value(&*changed.name))
            .col_expr(Column::TimeZone, Expr::value(&*changed.time_zone))
            .col_expr(Column::UpdatedAt, Expr::value(now))
            .filter(Column::Id.eq(project.clone()));
        let updated = update.exec(&transaction).await;
        let taken = |error| MetaError::from(error).about("a project with this name", "the project");
        self.0.track(updated.map_err(taken))?;
        for (given, action, from, to) in [
            (name.is_some(), AuditAction::ProjectRenamed, &found.name, &changed.name),
            (time_zone.is_some(), AuditAction::ProjectZoneChanged, &found.time_zone, &changed.time_zone),
        ] {
            if given {
                let facts = json!({ "from": from, "to": to });
                let entry =
                    audit::record(self.0, &transaction, Some(project), action, project.as_str(), facts);
                self.0.track(entry.await)?;
            }
        }
        self.0.track(super::commit(transaction).await)?;
        Ok(Some(changed))
    }

    /// Deletes a project: no finder returns it any more, its keys are revoked, its jobs end, its webhooks are told
    /// nothing, its name is free. Its rows and its events stay. `None`: there is no such project.
    ///
    /// # Errors
    /// [`MetaError::DefaultProject`] for the one that requests without a key act in, [`MetaError::ConfiguredProject`] for
    /// one that the configuration names: its keys would go on.
    pub async fn delete(&self, project: &ProjectId) -> Result<Option<Project>, MetaError> {
        let transaction = self.0.begin_write().await?;
        let found = living().filter(Column::Id.eq(project.clone())).one(&transaction).await;
        let Some(found) = self.0.track(found)? else { return Ok(None) };
        let default = self.0.track(settings::get(&transaction, settings::DEFAULT_PROJECT).await)?;
        if default.as_deref() == Some(project.as_str()) {
            return Err(MetaError::DefaultProject);
        }
        if self.0.is_configured(project) {
            return Err(MetaError::ConfiguredProject);
        }
        let now = self.0.now();
        let update = Entity::update_many()
            .col_expr(Column::Name, Expr::value(format!("{project} {}", found.name)))
            .col_expr(Column::DeletedAt, Expr::value(now))
            .col_expr(Column::UpdatedAt, Expr::value(now))
            .filter(Column::Id.eq(project.clone()));
        self.0.track(update.exec(&transaction).await)?;
        self.0.track(api_keys::revoke_all(self.0, &transaction, project).await)?;
        self.0.track(jobs::cancel_all(self.0, &transaction, project).await)?;
        let facts = json!({ "name": found.name });
        let action = AuditAction::ProjectDeleted;
        let entry = audit::record(self.0, &transaction, Some(project), action, project.as_str(), facts);
        self.0.track(entry.await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(Some(Model { deleted_at: Some(now), updated_at: now, ..found }))
    }
}

fn living() -> Select<Entity> {
    Entity::find().filter(Column::DeletedAt.is_null())
}

/// Those of these ids that have a row, be the project deleted.
pub(super) async fn rows_of(
    connection: &impl ConnectionTrait,
    ids: impl Iterator<Item = ProjectId>,
) -> Result<HashSet<ProjectId>, DbErr> {
    let found = Entity::find().select_only().column(Column::Id).filter(Column::Id.is_in(ids));
    Ok(found.into_tuple::<ProjectId>().all(connection).await?.into_iter().collect())
}

/// Is there this project, inside the caller's transaction? Nothing is made in one that was deleted a moment ago: a key
/// of it would be good for ever, and nobody would see it.
pub(super) async fn expect_living(
    transaction: &impl ConnectionTrait,
    project: &ProjectId,
) -> Result<(), MetaError> {
    let found = living().filter(Column::Id.eq(project.clone())).count(transaction).await?;
    if found == 0 { Err(MetaError::Missing("the project")) } else { Ok(()) }
}

/// The ids of projects that are not deleted, for statements about what belongs to them.
pub(super) fn living_ids() -> SelectStatement {
    Query::select()
        .column((Entity, Column::Id))
        .from(Entity)
        .and_where(Expr::col((Entity, Column::DeletedAt)).is_null())
        .to_owned()
}

/// The ids of projects that are deleted, for work that goes over what belongs to any.
pub(super) fn deleted_ids() -> SelectStatement {
    Query::select()
        .column((Entity, Column::Id))
        .from(Entity)
        .and_where(Expr::col((Entity, Column::DeletedAt)).is_not_null())
        .to_owned()
}

/// Makes a project and its first environments inside the caller's transaction.
pub(super) async fn insert(
    meta: &Meta,
    transaction: &impl ConnectionTrait,
    name: &str,
) -> Result<(Project, Vec<Environment>), MetaError> {
    let id = ProjectId::new(meta.new_id("proj_", meta.now()));
    let project = insert_row(meta, transaction, id, name, Origin::Made).await?;
    if meta.actor().kind == ActorKind::Person {
        let owner = NewMember { project: &project.id, role: Role::Owner };
        members::insert(meta, transaction, &meta.actor().id, &owner).await?;
    }
    let mut made = Vec::with_capacity(FIRST_ENVIRONMENTS.len());
    for name in FIRST_ENVIRONMENTS {
        made.push(environments::insert(meta, transaction, &project.id, name).await?);
    }
    Ok((project, made))
}

/// Makes a project and nothing in it, inside the caller's transaction.
pub(super) async fn insert_row(
    meta: &Meta,
    transaction: &impl ConnectionTrait,
    id: ProjectId,
    name: &str,
    origin: Origin,
) -> Result<Project, MetaError> {
    let now = meta.now();
    let project = Model {
        id,
        name: name.to_owned(),
        time_zone: FIRST_ZONE.to_owned(),
        origin,
        created_at: now,
        updated_at: now,
        deleted_at: None,
    };
    let row = ActiveModel {
        id: ActiveValue::Set(project.id.clone()),
        name: ActiveValue::Set(project.name.clone()),
        time_zone: ActiveValue::Set(project.time_zone.clone()),
        origin: ActiveValue::Set(origin),
        created_at: ActiveValue::Set(now),
        updated_at: ActiveValue::Set(now),
        deleted_at: ActiveValue::Set(None),
    };
    Entity::insert(row)
        .exec_without_returning(transaction)
        .await
        .map_err(|error| MetaError::from(error).about("a project with this name", "the project"))?;
    let facts = json!({ "name": name, "origin": origin });
    let action = AuditAction::ProjectCreated;
    audit::record(meta, transaction, Some(&project.id), action, project.id.as_str(), facts).await?;
    Ok(project)
}

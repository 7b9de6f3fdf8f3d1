//! Members of projects, and their roles.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue, ConnectionTrait, PaginatorTrait, QueryOrder, QuerySelect};
use serde_json::json;

use super::{AuditAction, Meta, MetaError, User, audit, projects, users};
use crate::event::{ProjectId, Timestamp};

/// What a member may do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything in the project: its members, keys, environments, dead letters.
    Owner,
    /// Send events and ask questions.
    Editor,
    /// Ask questions.
    Viewer,
}

impl Role {
    /// Every role, the one that may most first.
    pub const ALL: &'static [Self] = &[Self::Owner, Self::Editor, Self::Viewer];

    /// Its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Editor => "editor",
            Self::Viewer => "viewer",
        }
    }

    /// The role with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|role| role.as_str() == name)
    }
}

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "members")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub project_id: ProjectId,
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: String,
    pub role: Role,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// A person's membership of a project.
pub type Member = Model;

/// A membership to be made with a person.
pub struct NewMember<'a> {
    pub project: &'a ProjectId,
    pub role: Role,
}

/// The finders and writers of members.
pub struct Members<'a>(pub(super) &'a Meta);

impl Members<'_> {
    /// The members of a project with who they are, oldest first, at most `limit`.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn list(&self, project: &ProjectId, limit: u64) -> Result<Vec<(Member, User)>, MetaError> {
        let found = Entity::find()
            .filter(Column::ProjectId.eq(project.clone()))
            .order_by_asc(Column::CreatedAt)
            .order_by_asc(Column::UserId)
            .limit(limit);
        let members = self.0.track(found.all(self.0.connection()).await)?;
        let ids = members.iter().map(|member| member.user_id.as_str());
        let people = users::Entity::find().filter(users::Column::Id.is_in(ids));
        let people = self.0.track(people.all(self.0.connection()).await)?;
        let user = |member: &Member| people.iter().find(|user| user.id == member.user_id).cloned();
        Ok(members.into_iter().filter_map(|member| user(&member).map(|user| (member, user))).collect())
    }

    /// The projects that a person is a member of (deleted ones left out), oldest first, at most `limit`.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn of_user(&self, user_id: &str, limit: u64) -> Result<Vec<Member>, MetaError> {
        let found = Entity::find()
            .filter(Column::UserId.eq(user_id))
            .filter(Column::ProjectId.in_subquery(projects::living_ids()))
            .order_by_asc(Column::CreatedAt)
            .order_by_asc(Column::ProjectId)
            .limit(limit);
        self.0.track(found.all(self.0.connection()).await)
    }

    /// Makes a person a member.
    ///
    /// # Errors
    /// [`MetaError::Exists`] for one who is, [`MetaError::Missing`] for a project or person that does not exist,
    /// [`MetaError::Full`] at `max` members.
    pub async fn add(
        &self,
        project: &ProjectId,
        user_id: &str,
        role: Role,
        max: u64,
    ) -> Result<Member, MetaError> {
        let transaction = self.0.begin_write().await?;
        let count = Entity::find().filter(Column::ProjectId.eq(project.clone())).count(&transaction).await;
        if self.0.track(count)? >= max {
            return Err(self.0.full(Some(project), "members", max, "auth.members_max"));
        }
        let made = insert(self.0, &transaction, user_id, &NewMember { project, role }).await;
        let made = self.0.track(made)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(made)
    }

    /// Gives a member another role. `None`: there is no such member.
    ///
    /// # Errors
    /// [`MetaError::LastOwner`]: the project would have no owner.
    pub async fn set_role(
        &self,
        project: &ProjectId,
        user_id: &str,
        role: Role,
    ) -> Result<Option<Member>, MetaError> {
        let transaction = self.0.begin_write().await?;
        let Some(member) = self.0.track(find(&transaction, project, user_id).await)? else { return Ok(None) };
        if member.role == Role::Owner && role != Role::Owner {
            self.0.track(another_owner(&transaction, project, user_id).await)?;
        }
        let now = self.0.now();
        let update = Entity::update_many()
            .col_expr(Column::Role, Expr::value(role))
            .col_expr(Column::UpdatedAt, Expr::value(now))
            .filter(Column::ProjectId.eq(project.clone()))
            .filter(Column::UserId.eq(user_id));
        self.0.track(update.exec(&transaction).await)?;
        let facts = json!({ "from": member.role, "to": role });
        let entry =
            audit::record(self.0, &transaction, Some(project), AuditAction::MemberChanged, user_id, facts);
        self.0.track(entry.await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(Some(Member { role, updated_at: now, ..member }))
    }

    /// Takes a member out. `None`: there is no such member.
    ///
    /// # Errors
    /// [`MetaError::LastOwner`]: the project would have no owner.
    pub async fn remove(&self, project: &ProjectId, user_id: &str) -> Result<Option<Member>, MetaError> {
        let transaction = self.0.begin_write().await?;
        let Some(member) = self.0.track(find(&transaction, project, user_id).await)? else { return Ok(None) };
        if member.role == Role::Owner {
            self.0.track(another_owner(&transaction, project, user_id).await)?;
        }
        let delete = Entity::delete_many()
            .filter(Column::ProjectId.eq(project.clone()))
            .filter(Column::UserId.eq(user_id));
        self.0.track(delete.exec(&transaction).await)?;
        let facts = json!({ "role": member.role });
        let entry =
            audit::record(self.0, &transaction, Some(project), AuditAction::MemberRemoved, user_id, facts);
        self.0.track(entry.await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(Some(member))
    }
}

async fn find(
    transaction: &impl ConnectionTrait,
    project: &ProjectId,
    user_id: &str,
) -> Result<Option<Member>, MetaError> {
    Ok(Entity::find_by_id((project.clone(), user_id.to_owned())).one(transaction).await?)
}

async fn another_owner(
    transaction: &impl ConnectionTrait,
    project: &ProjectId,
    user_id: &str,
) -> Result<(), MetaError> {
    let others = Entity::find()
        .filter(Column::ProjectId.eq(project.clone()))
        .filter(Column::Role.eq(Role::Owner))
        .filter(Column::UserId.ne(user_id))
        .count(transaction)
        .await?;
    if others == 0 { Err(MetaError::LastOwner) } else { Ok(()) }
}

/// Makes a member inside the caller's transaction.
pub(super) async fn insert(
    meta: &Meta,
    transaction: &impl ConnectionTrait,
    user_id: &str,
    new: &NewMember<'_>,
) -> Result<Member, MetaError> {
    projects::expect_living(transaction, new.project).await?;
    let now = meta.now();
    let made = Model {
        project_id: new.project.clone(),
        user_id: user_id.to_owned(),
        role: new.role,
        created_at: now,
        updated_at: now,
    };
    let row = ActiveModel {
        project_id: ActiveValue::Set(made.project_id.clone()),
        user_id: ActiveValue::Set(made.user_id.clone()),
        role: ActiveValue::Set(made.role),
        created_at: ActiveValue::Set(now),
        updated_at: ActiveValue::Set(now),
    };
    Entity::insert(row)
        .exec_without_returning(transaction)
        .await
        .map_err(|error| MetaError::from(error).about("this member", "the project or person"))?;
    let facts = json!({ "role": new.role });
    audit::record(meta, transaction, Some(new.project), AuditAction::MemberAdded, user_id, facts).await?;
    Ok(made)
}

//! Invitations: a person who has none cannot register where `auth.registration` is `invite`.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue, ConnectionTrait, PaginatorTrait, QueryOrder, QuerySelect};
use serde_json::json;

use super::{AuditAction, Meta, MetaError, Role, audit};
use crate::event::{ProjectId, Timestamp};

#[derive(Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "invitations")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub project_id: ProjectId,
    /// Whom it is for, in lower case.
    pub email: String,
    pub role: Role,
    /// SHA-256 of the token.
    pub sha256: String,
    pub expires_at: Timestamp,
    pub accepted_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

// By hand, so that no log shows the digest.
impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invitation")
            .field("id", &self.id)
            .field("project_id", &self.project_id)
            .field("email", &self.email)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// An invitation.
pub type Invitation = Model;

/// An invitation to be made.
pub struct NewInvitation<'a> {
    pub email: &'a str,
    pub role: Role,
    pub sha256: String,
    pub expires_at: Timestamp,
}

/// The finders and writers of invitations.
pub struct Invitations<'a>(pub(super) &'a Meta);

impl Invitations<'_> {
    /// The invitations of a project, newest first, at most `limit`.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn list(&self, project: &ProjectId, limit: u64) -> Result<Vec<Invitation>, MetaError> {
        let found = Entity::find()
            .filter(Column::ProjectId.eq(project.clone()))
            .order_by_desc(Column::CreatedAt)
            .order_by_desc(Column::Id)
            .limit(limit);
        self.0.track(found.all(self.0.connection()).await)
    }

    /// Makes an invitation.
    ///
    /// # Errors
    /// [`MetaError::Missing`] for a project that does not exist, [`MetaError::Full`] at `max` that are still good.
    pub async fn create(
        &self,
        project: &ProjectId,
        new: NewInvitation<'_>,
        max: u64,
    ) -> Result<Invitation, MetaError> {
        let now = self.0.now();
        let transaction = self.0.begin_write().await?;
        self.0.track(super::projects::expect_living(&transaction, project).await)?;
        let open = open(now).filter(Column::ProjectId.eq(project.clone())).count(&transaction).await;
        if self.0.track(open)? >= max {
            return Err(self.0.full(Some(project), "open invitations", max, "auth.members_max"));
        }
        let made = Model {
            id: self.0.new_id("inv_", now),
            project_id: project.clone(),
            email: new.email.to_owned(),
            role: new.role,
            sha256: new.sha256,
            expires_at: new.expires_at,
            accepted_at: None,
            revoked_at: None,
            created_at: now,
            updated_at: now,
        };
        let row = ActiveModel {
            id: ActiveValue::Set(made.id.clone()),
            project_id: ActiveValue::Set(made.project_id.clone()),
            email: ActiveValue::Set(made.email.clone()),
            role: ActiveValue::Set(made.role),
            sha256: ActiveValue::Set(made.sha256.clone()),
            expires_at: ActiveValue::Set(made.expires_at),
            accepted_at: ActiveValue::Set(None),
            revoked_at: ActiveValue::Set(None),
            created_at: ActiveValue::Set(now),
            updated_at: ActiveValue::Set(now),
        };
        let inserted = Entity::insert(row).exec_without_returning(&transaction).await;
        let inserted =
            inserted.map_err(|error| MetaError::from(error).about("this invitation", "the project"));
        self.0.track(inserted)?;
        let facts = json!({ "email": made.email, "role": made.role });
        let action = AuditAction::InvitationCreated;
        self.0.track(audit::record(self.0, &transaction, Some(project), action, &made.id, facts).await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(made)
    }

    /// Takes an invitation back; `None`: the project has no such invitation that is still good.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn revoke(&self, project: &ProjectId, id: &str) -> Result<Option<Invitation>, MetaError> {
        let now = self.0.now();
        let transaction = self.0.begin_write().await?;
        let found = open(now).filter(Column::ProjectId.eq(project.clone())).filter(Column::Id.eq(id));
        let Some(found) = self.0.track(found.one(&transaction).await)? else { return Ok(None) };
        let update = Entity::update_many()
            .col_expr(Column::RevokedAt, Expr::value(now))
            .col_expr(Column::UpdatedAt, Expr::value(now))
            .filter(Column::Id.eq(id));
        self.0.track(update.exec(&transaction).await)?;
        let action = AuditAction::InvitationRevoked;
        let facts = json!({ "email": found.email });
        self.0.track(audit::record(self.0, &transaction, Some(project), action, id, facts).await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(Some(Model { revoked_at: Some(now), updated_at: now, ..found }))
    }

    /// Is there an invitation with this SHA-256 that is still good for this address?
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn is_good(&self, sha256: &str, email: &str) -> Result<bool, MetaError> {
        let found = open(self.0.now()).filter(Column::Sha256.eq(sha256)).filter(Column::Email.eq(email));
        Ok(self.0.track(found.count(self.0.connection()).await)? > 0)
    }
}

fn open(now: Timestamp) -> Select<Entity> {
    Entity::find()
        .filter(Column::AcceptedAt.is_null())
        .filter(Column::RevokedAt.is_null())
        .filter(Column::ExpiresAt.gt(now))
        .filter(Column::ProjectId.in_subquery(super::projects::living_ids()))
}

/// Uses an invitation up inside the caller's transaction and says what it is for.
pub(super) async fn accept(
    meta: &Meta,
    transaction: &impl ConnectionTrait,
    sha256: &str,
    email: &str,
) -> Result<(ProjectId, Role), MetaError> {
    let now = meta.now();
    let found = open(now).filter(Column::Sha256.eq(sha256)).filter(Column::Email.eq(email));
    let found = found.one(transaction).await?.ok_or(MetaError::Missing("the invitation"))?;
    let update = Entity::update_many()
        .col_expr(Column::AcceptedAt, Expr::value(now))
        .col_expr(Column::UpdatedAt, Expr::value(now))
        .filter(Column::Id.eq(&found.id));
    update.exec(transaction).await?;
    Ok((found.project_id, found.role))
}

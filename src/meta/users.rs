//! People: by their e-mail address in lower case, with the argon2id hash of a password.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue, ConnectionTrait, PaginatorTrait, QueryOrder, QuerySelect};
use serde_json::json;

use super::sessions::{self, SessionEnd};
use super::{AuditAction, Meta, MetaError, NewMember, audit, invitations, members};
use crate::event::Timestamp;

#[derive(Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "users")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// In lower case; unique in the installation.
    pub email: String,
    pub name: String,
    /// argon2id, as a PHC string.
    pub password_hash: String,
    /// May do everything in every project.
    pub is_admin: bool,
    pub last_login_at: Option<Timestamp>,
    pub disabled_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

// By hand, so that no log shows the hash.
impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User")
            .field("id", &self.id)
            .field("email", &self.email)
            .field("is_admin", &self.is_admin)
            .field("disabled_at", &self.disabled_at)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// A person.
pub type User = Model;

/// A person to be made.
pub struct NewUser<'a> {
    pub email: &'a str,
    pub name: &'a str,
    pub password_hash: String,
    pub is_admin: bool,
    /// A member of this project at once.
    pub member: Option<NewMember<'a>>,
    /// SHA-256 of the invitation that is used up by it.
    pub invitation: Option<&'a str>,
}

/// The finders and writers of people. People belong to the installation, not to a project.
pub struct Users<'a>(pub(super) &'a Meta);

impl Users<'_> {
    /// # Errors
    /// The database does not answer.
    pub async fn find(&self, id: &str) -> Result<Option<User>, MetaError> {
        self.0.track(Entity::find_by_id(id).one(self.0.connection()).await)
    }

    /// # Errors
    /// The database does not answer.
    pub async fn find_by_email(&self, email: &str) -> Result<Option<User>, MetaError> {
        let found = Entity::find().filter(Column::Email.eq(email));
        self.0.track(found.one(self.0.connection()).await)
    }

    /// People, oldest first, at most `limit`. For the operator.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn list(&self, limit: u64) -> Result<Vec<User>, MetaError> {
        let found = Entity::find().order_by_asc(Column::CreatedAt).order_by_asc(Column::Id).limit(limit);
        self.0.track(found.all(self.0.connection()).await)
    }

    /// Makes a person, a member at once where asked for; an invitation is used up with it, and decides the project
    /// and role.
    ///
    /// # Errors
    /// [`MetaError::Exists`] for an address that is taken, [`MetaError::Full`] at `max` people,
    /// [`MetaError::Missing`] for an invitation that is not (or no longer) good for this address.
    pub async fn create(&self, new: NewUser<'_>, max: u64) -> Result<User, MetaError> {
        let transaction = self.0.begin_write().await?;
        let found = self.0.track(Entity::find().count(&transaction).await)?;
        if found >= max {
            return Err(self.0.full(None, "people", max, "auth.users_max"));
        }
        let made = self.0.track(insert(self.0, &transaction, new).await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(made)
    }

    /// Sets another password and ends the person's sessions, all but `keep`. `None`: there is no such person.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn set_password(
        &self,
        id: &str,
        password_hash: String,
        keep: Option<&str>,
        end: SessionEnd,
    ) -> Result<Option<User>, MetaError> {
        let action = match end {
            SessionEnd::PasswordChanged => AuditAction::PasswordChanged,
            _ => AuditAction::PasswordReset,
        };
        let now = self.0.now();
        let update = Entity::update_many()
            .col_expr(Column::PasswordHash, Expr::value(password_hash))
            .col_expr(Column::UpdatedAt, Expr::value(now));
        self.change(id, update, action, Some((end, keep))).await
    }

    /// Lets a person in no more (and ends the sessions), or in again. `None`: there is no such person.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn set_disabled(&self, id: &str, disabled: bool) -> Result<Option<User>, MetaError> {
        let now = self.0.now();
        let action = if disabled { AuditAction::UserDisabled } else { AuditAction::UserEnabled };
        let update = Entity::update_many()
            .col_expr(Column::DisabledAt, Expr::value(disabled.then_some(now)))
            .col_expr(Column::UpdatedAt, Expr::value(now));
        self.change(id, update, action, disabled.then_some((SessionEnd::Disabled, None))).await
    }

    async fn change(
        &self,
        id: &str,
        update: sea_orm::UpdateMany<Entity>,
        action: AuditAction,
        end: Option<(SessionEnd, Option<&str>)>,
    ) -> Result<Option<User>, MetaError> {
        let transaction = self.0.begin_write().await?;
        let changed = self.0.track(update.filter(Column::Id.eq(id)).exec(&transaction).await)?;
        if changed.rows_affected == 0 {
            return Ok(None);
        }
        if let Some((end, keep)) = end {
            self.0.track(sessions::revoke_all(self.0, &transaction, id, keep, end).await)?;
        }
        self.0.track(audit::record(self.0, &transaction, None, action, id, json!({})).await)?;
        let user = self.0.track(Entity::find_by_id(id).one(&transaction).await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(user)
    }
}

/// Makes a person inside the caller's transaction.
pub(super) async fn insert(
    meta: &Meta,
    transaction: &impl ConnectionTrait,
    new: NewUser<'_>,
) -> Result<User, MetaError> {
    let now = meta.now();
    let made = Model {
        id: meta.new_id("user_", now),
        email: new.email.to_owned(),
        name: new.name.to_owned(),
        password_hash: new.password_hash,
        is_admin: new.is_admin,
        last_login_at: None,
        disabled_at: None,
        created_at: now,
        updated_at: now,
    };
    let row = ActiveModel {
        id: ActiveValue::Set(made.id.clone()),
        email: ActiveValue::Set(made.email.clone()),
        name: ActiveValue::Set(made.name.clone()),
        password_hash: ActiveValue::Set(made.password_hash.clone()),
        is_admin: ActiveValue::Set(made.is_admin),
        last_login_at: ActiveValue::Set(None),
        disabled_at: ActiveValue::Set(None),
        created_at: ActiveValue::Set(now),
        updated_at: ActiveValue::Set(now),
    };
    Entity::insert(row)
        .exec_without_returning(transaction)
        .await
        .map_err(|error| MetaError::from(error).about("a person with this e-mail address", "the project"))?;
    let facts = json!({ "email": made.email, "is_admin": made.is_admin });
    audit::record(meta, transaction, None, AuditAction::UserCreated, &made.id, facts).await?;
    if let Some(sha256) = new.invitation {
        let (project, role) = invitations::accept(meta, transaction, sha256, &made.email).await?;
        let member = NewMember { project: &project, role };
        members::insert(meta, transaction, &made.id, &member).await?;
    }
    if let Some(member) = &new.member {
        members::insert(meta, transaction, &made.id, member).await?;
    }
    Ok(made)
}

/// Notes a login inside the caller's transaction.
pub(super) async fn note_login(
    transaction: &impl ConnectionTrait,
    id: &str,
    now: Timestamp,
) -> Result<(), MetaError> {
    let update =
        Entity::update_many().col_expr(Column::LastLoginAt, Expr::value(now)).filter(Column::Id.eq(id));
    update.exec(transaction).await?;
    Ok(())
}

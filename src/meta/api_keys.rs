//! API keys: by their SHA-256, never the key itself.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue, ConnectionTrait, ExprTrait, PaginatorTrait, QueryOrder, QuerySelect};
use serde_json::json;

use super::{AuditAction, Meta, MetaError, audit, projects};
use crate::event::{EnvironmentId, ProjectId, Timestamp};

#[derive(Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "api_keys")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub project_id: ProjectId,
    pub environment_id: EnvironmentId,
    /// What people call it, 1–200 characters; need not be unique.
    pub name: String,
    /// The first characters of the key.
    pub prefix: String,
    /// SHA-256 of the key, 64 hexadecimal digits in lower case.
    pub sha256: String,
    /// Scopes, separated by commas.
    pub scopes: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    /// Written every now and then, not at every use.
    pub last_used_at: Option<Timestamp>,
    /// Requests a second; none: `auth.key_rate_max`.
    pub rate_max: Option<i64>,
}

// By hand, so that no log shows the digest.
impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiKey")
            .field("id", &self.id)
            .field("project_id", &self.project_id)
            .field("environment_id", &self.environment_id)
            .field("prefix", &self.prefix)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// A key as the database has it.
pub type ApiKey = Model;

/// A key to be made.
pub struct NewApiKey<'a> {
    pub environment: &'a EnvironmentId,
    pub name: &'a str,
    pub prefix: &'a str,
    pub sha256: String,
    pub scopes: String,
    pub expires_at: Option<Timestamp>,
    /// Requests a second; none: `auth.key_rate_max`.
    pub rate_max: Option<i64>,
}

/// A use of a key.
#[derive(Clone, Debug)]
pub struct KeyUse {
    pub project: ProjectId,
    pub key_id: String,
    pub used: Timestamp,
}

/// The finders and writers of API keys.
pub struct ApiKeys<'a>(pub(super) &'a Meta);

impl ApiKeys<'_> {
    /// The key with this SHA-256, whatever its project: the one finder that comes before the project is known.
    /// Revoked and expired keys are found too, so that the answer can say so.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn find_by_sha256(&self, sha256: &str) -> Result<Option<ApiKey>, MetaError> {
        let found = Entity::find().filter(Column::Sha256.eq(sha256));
        self.0.track(found.one(self.0.connection()).await)
    }

    /// A key of this project, if it exists.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn find(&self, project: &ProjectId, id: &str) -> Result<Option<ApiKey>, MetaError> {
        let found = Entity::find_by_id(id).filter(Column::ProjectId.eq(project.clone()));
        self.0.track(found.one(self.0.connection()).await)
    }

    /// The keys of this project: those in force, then the revoked, each newest first, at most `limit`.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn list(&self, project: &ProjectId, limit: u64) -> Result<Vec<ApiKey>, MetaError> {
        let found = Entity::find()
            .filter(Column::ProjectId.eq(project.clone()))
            .order_by_asc(Column::RevokedAt.is_not_null())
            .order_by_desc(Column::CreatedAt)
            .order_by_desc(Column::Id)
            .limit(limit);
        self.0.track(found.all(self.0.connection()).await)
    }

    /// Makes a key.
    ///
    /// # Errors
    /// [`MetaError::Missing`] if the environment is not one of this project, [`MetaError::Full`] at `max` keys that
    /// are not revoked.
    pub async fn create(
        &self,
        project: &ProjectId,
        key: NewApiKey<'_>,
        max: u64,
    ) -> Result<ApiKey, MetaError> {
        let transaction = self.0.begin_write().await?;
        self.0.track(projects::expect_living(&transaction, project).await)?;
        let in_force = Entity::find()
            .filter(Column::ProjectId.eq(project.clone()))
            .filter(Column::RevokedAt.is_null())
            .count(&transaction)
            .await;
        if self.0.track(in_force)? >= max {
            return Err(self.0.full(Some(project), "API keys", max, "auth.keys_max"));
        }
        let made = self.0.track(insert(self.0, &transaction, project, key).await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(made)
    }

    /// Revokes a key of this project and returns it; `None` if the project has no such key. Revoking twice keeps the
    /// first time.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn revoke(&self, project: &ProjectId, id: &str) -> Result<Option<ApiKey>, MetaError> {
        let transaction = self.0.begin_write().await?;
        let update = revocation(self.0, project).filter(Column::Id.eq(id));
        let revoked = self.0.track(update.exec(&transaction).await)?.rows_affected > 0;
        let found = Entity::find_by_id(id).filter(Column::ProjectId.eq(project.clone())).one(&transaction);
        let found = self.0.track(found.await)?;
        if let Some(key) = found.as_ref().filter(|_| revoked) {
            let facts = json!({ "prefix": key.prefix, "name": key.name });
            let action = AuditAction::KeyRevoked;
            self.0.track(audit::record(self.0, &transaction, Some(project), action, id, facts).await)?;
        }
        self.0.track(super::commit(transaction).await)?;
        Ok(found)
    }

    /// Notes when keys were last used, in one transaction; never moves backwards.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn touch(&self, uses: &[KeyUse]) -> Result<(), MetaError> {
        if uses.is_empty() {
            return Ok(());
        }
        let transaction = self.0.begin_write().await?;
        for one in uses {
            let update = Entity::update_many()
                .col_expr(Column::LastUsedAt, Expr::value(one.used))
                .filter(Column::Id.eq(one.key_id.as_str()))
                .filter(Column::ProjectId.eq(one.project.clone()))
                .filter(Column::LastUsedAt.is_null().or(Column::LastUsedAt.lt(one.used)));
            self.0.track(update.exec(&transaction).await)?;
        }
        self.0.track(super::commit(transaction).await)
    }
}

fn revocation(meta: &Meta, project: &ProjectId) -> sea_orm::UpdateMany<Entity> {
    let now = meta.now();
    Entity::update_many()
        .col_expr(Column::RevokedAt, Expr::value(now))
        .col_expr(Column::UpdatedAt, Expr::value(now))
        .filter(Column::ProjectId.eq(project.clone()))
        .filter(Column::RevokedAt.is_null())
}

/// Revokes every key of a project inside the caller's transaction.
pub(super) async fn revoke_all(
    meta: &Meta,
    transaction: &impl ConnectionTrait,
    project: &ProjectId,
) -> Result<(), MetaError> {
    revocation(meta, project).exec(transaction).await?;
    Ok(())
}

/// Makes a key inside the caller's transaction.
pub(super) async fn insert(
    meta: &Meta,
    transaction: &impl ConnectionTrait,
    project: &ProjectId,
    key: NewApiKey<'_>,
) -> Result<ApiKey, MetaError> {
    let now = meta.now();
    let made = Model {
        id: meta.new_id("key_", now),
        project_id: project.clone(),
        environment_id: key.environment.clone(),
        name: key.name.to_owned(),
        prefix: key.prefix.to_owned(),
        sha256: key.sha256,
        scopes: key.scopes,
        created_at: now,
        updated_at: now,
        expires_at: key.expires_at,
        revoked_at: None,
        last_used_at: None,
        rate_max: key.rate_max,
    };
    let row = ActiveModel {
        id: ActiveValue::Set(made.id.clone()),
        project_id: ActiveValue::Set(made.project_id.clone()),
        environment_id: ActiveValue::Set(made.environment_id.clone()),
        name: ActiveValue::Set(made.name.clone()),
        prefix: ActiveValue::Set(made.prefix.clone()),
        sha256: ActiveValue::Set(made.sha256.clone()),
        scopes: ActiveValue::Set(made.scopes.clone()),
        created_at: ActiveValue::Set(now),
        updated_at: ActiveValue::Set(now),
        expires_at: ActiveValue::Set(made.expires_at),
        revoked_at: ActiveValue::Set(None),
        last_used_at: ActiveValue::Set(None),
        rate_max: ActiveValue::Set(made.rate_max),
    };
    Entity::insert(row)
        .exec_without_returning(transaction)
        .await
        .map_err(|error| MetaError::from(error).about("this API key", "the environment, in this project,"))?;
    let facts = json!({ "prefix": made.prefix, "name": made.name, "scopes": made.scopes,
        "environment_id": made.environment_id, "expires_at": made.expires_at });
    audit::record(meta, transaction, Some(project), AuditAction::KeyCreated, &made.id, facts).await?;
    Ok(made)
}

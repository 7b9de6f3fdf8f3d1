//! The audit trail: who made, changed or took away what. Written in the transaction of the change itself, so that there
//! is no change without its entry and no entry without its change.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue, ConnectionTrait, QueryOrder, QuerySelect};
use serde_json::Value as Json;

use super::columns::JsonText;
use super::{Meta, MetaError};
use crate::event::{ProjectId, Timestamp};

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AuditAction {
    ProjectCreated,
    ProjectRenamed,
    ProjectZoneChanged,
    ProjectDeleted,
    EnvironmentCreated,
    EnvironmentRenamed,
    KeyCreated,
    KeyRevoked,
    MemberAdded,
    MemberChanged,
    MemberRemoved,
    InvitationCreated,
    InvitationRevoked,
    UserCreated,
    UserDisabled,
    UserEnabled,
    PasswordChanged,
    PasswordReset,
    TokenReused,
    SigningKeyRotated,
    WebhookCreated,
    WebhookChanged,
    WebhookSecretRotated,
    WebhookDeleted,
    TransformCreated,
    TransformChanged,
    TransformDeleted,
    SchemaCreated,
    SchemaChanged,
    SchemaDeleted,
    RuleCreated,
    RuleChanged,
    RuleDeleted,
    TestAccountsChanged,
}

impl AuditAction {
    /// Every action.
    pub const ALL: &'static [Self] = &[
        Self::ProjectCreated,
        Self::ProjectRenamed,
        Self::ProjectZoneChanged,
        Self::ProjectDeleted,
        Self::EnvironmentCreated,
        Self::EnvironmentRenamed,
        Self::KeyCreated,
        Self::KeyRevoked,
        Self::MemberAdded,
        Self::MemberChanged,
        Self::MemberRemoved,
        Self::InvitationCreated,
        Self::InvitationRevoked,
        Self::UserCreated,
        Self::UserDisabled,
        Self::UserEnabled,
        Self::PasswordChanged,
        Self::PasswordReset,
        Self::TokenReused,
        Self::SigningKeyRotated,
        Self::WebhookCreated,
        Self::WebhookChanged,
        Self::WebhookSecretRotated,
        Self::WebhookDeleted,
        Self::TransformCreated,
        Self::TransformChanged,
        Self::TransformDeleted,
        Self::SchemaCreated,
        Self::SchemaChanged,
        Self::SchemaDeleted,
        Self::RuleCreated,
        Self::RuleChanged,
        Self::RuleDeleted,
        Self::TestAccountsChanged,
    ];

    /// Its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ProjectCreated => "project_created",
            Self::ProjectRenamed => "project_renamed",
            Self::ProjectZoneChanged => "project_zone_changed",
            Self::ProjectDeleted => "project_deleted",
            Self::EnvironmentCreated => "environment_created",
            Self::EnvironmentRenamed => "environment_renamed",
            Self::KeyCreated => "key_created",
            Self::KeyRevoked => "key_revoked",
            Self::MemberAdded => "member_added",
            Self::MemberChanged => "member_changed",
            Self::MemberRemoved => "member_removed",
            Self::InvitationCreated => "invitation_created",
            Self::InvitationRevoked => "invitation_revoked",
            Self::UserCreated => "user_created",
            Self::UserDisabled => "user_disabled",
            Self::UserEnabled => "user_enabled",
            Self::PasswordChanged => "password_changed",
            Self::PasswordReset => "password_reset",
            Self::TokenReused => "token_reused",
            Self::SigningKeyRotated => "signing_key_rotated",
            Self::WebhookCreated => "webhook_created",
            Self::WebhookChanged => "webhook_changed",
            Self::WebhookSecretRotated => "webhook_secret_rotated",
            Self::WebhookDeleted => "webhook_deleted",
            Self::TransformCreated => "transform_created",
            Self::TransformChanged => "transform_changed",
            Self::TransformDeleted => "transform_deleted",
            Self::SchemaCreated => "schema_created",
            Self::SchemaChanged => "schema_changed",
            Self::SchemaDeleted => "schema_deleted",
            Self::RuleCreated => "rule_created",
            Self::RuleChanged => "rule_changed",
            Self::RuleDeleted => "rule_deleted",
            Self::TestAccountsChanged => "test_accounts_changed",
        }
    }
}

#[derive(Clone, Debug, PartialEq, DeriveEntityModel, serde::Serialize)]
#[sea_orm(table_name = "audit_log")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// None: about the whole installation.
    pub project_id: Option<ProjectId>,
    pub actor_kind: String,
    pub actor_id: String,
    pub actor_name: String,
    pub action: String,
    pub subject_id: String,
    pub details: JsonText,
    pub created_at: Timestamp,
    #[serde(skip)]
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// An entry of the audit trail.
pub type AuditEntry = Model;

/// The finders of the audit trail.
pub struct AuditLog<'a>(pub(super) &'a Meta);

impl AuditLog<'_> {
    /// Entries, newest first, at most `limit`, older than the entry `before`. `None` for the project means all of
    /// them and the whole installation's: the operator's view.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn list(
        &self,
        project: Option<&ProjectId>,
        before: Option<&str>,
        limit: u64,
    ) -> Result<Vec<AuditEntry>, MetaError> {
        let mut found = Entity::find().order_by_desc(Column::Id).limit(limit);
        if let Some(project) = project {
            found = found.filter(Column::ProjectId.eq(project.clone()));
        }
        if let Some(before) = before {
            found = found.filter(Column::Id.lt(before));
        }
        self.0.track(found.all(self.0.connection()).await)
    }

    /// Deletes entries of every project from before this time; answers how many.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn delete_old(&self, before: Timestamp) -> Result<u64, MetaError> {
        let old = Entity::delete_many().filter(Column::CreatedAt.lt(before));
        Ok(self.0.track(old.exec(self.0.connection()).await)?.rows_affected)
    }
}

/// Writes an entry inside the caller's transaction, in the name of this handle's actor.
pub(super) async fn record(
    meta: &Meta,
    transaction: &impl ConnectionTrait,
    project: Option<&ProjectId>,
    action: AuditAction,
    subject_id: &str,
    details: Json,
) -> Result<(), MetaError> {
    let (now, actor) = (meta.now(), meta.actor());
    let row = ActiveModel {
        id: ActiveValue::Set(meta.new_id("aud_", now)),
        project_id: ActiveValue::Set(project.cloned()),
        actor_kind: ActiveValue::Set(actor.kind.as_str().to_owned()),
        actor_id: ActiveValue::Set(actor.id.to_string()),
        actor_name: ActiveValue::Set(actor.name.to_string()),
        action: ActiveValue::Set(action.as_str().to_owned()),
        subject_id: ActiveValue::Set(subject_id.to_owned()),
        details: ActiveValue::Set(JsonText(details)),
        created_at: ActiveValue::Set(now),
        updated_at: ActiveValue::Set(now),
    };
    Entity::insert(row).exec_without_returning(transaction).await?;
    Ok(())
}

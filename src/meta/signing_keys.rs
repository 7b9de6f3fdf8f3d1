//! The secrets that sign access tokens where the configuration gives none: made once, shared by every process.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue, ConnectionTrait, QueryOrder};
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::{AuditAction, Meta, MetaError, audit};
use crate::event::Timestamp;

#[derive(Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "signing_keys")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub kid: String,
    /// In base64; what [`SigningKeys::list`] gives is open, what stands in the table is sealed.
    pub secret: String,
    /// From then on it signs nothing.
    pub retired_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

// By hand, so that no log shows the secret.
impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// A secret that signs.
pub type SigningKey = Model;

/// The finders and writers of signing keys. They belong to the installation.
pub struct SigningKeys<'a>(pub(super) &'a Meta);

impl SigningKeys<'_> {
    /// Those that sign, and those that retired after `since`; newest first.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn list(&self, since: Timestamp) -> Result<Vec<SigningKey>, MetaError> {
        let found = Entity::find()
            .filter(
                sea_orm::Condition::any().add(Column::RetiredAt.is_null()).add(Column::RetiredAt.gt(since)),
            )
            .order_by_desc(Column::CreatedAt)
            .order_by_desc(Column::Kid);
        let mut open = Vec::new();
        for mut key in self.0.track(found.all(self.0.connection()).await)? {
            match self.0.unseal(&row(&key.kid), &key.secret) {
                Ok(secret) => {
                    key.secret = secret.expose_secret().to_owned();
                    open.push(key);
                }
                // What it signed is not believed any more, which is all that is lost.
                Err(error) if key.retired_at.is_some() => {
                    tracing::warn!(kid = key.kid, %error, "a retired signing key cannot be read");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(open)
    }

    /// Seals what is in clear or under a former key. A secret that cannot be opened stays as it is.
    ///
    /// # Errors
    /// The database does not answer.
    pub(super) async fn seal_anew(&self) -> Result<(), MetaError> {
        for was in self.0.track(Entity::find().all(self.0.connection()).await)? {
            if self.0.is_sealed_now(&was.secret) {
                continue;
            }
            let Ok(secret) = self.0.unseal(&row(&was.kid), &was.secret) else {
                tracing::error!(kid = was.kid, "a signing key cannot be read");
                continue;
            };
            let sealed = self.0.seal(&row(&was.kid), secret.expose_secret())?;
            let update = Entity::update_many()
                .col_expr(Column::Secret, Expr::value(sealed))
                .filter(Column::Kid.eq(was.kid.as_str()));
            self.0.track(update.exec(self.0.connection()).await)?;
        }
        Ok(())
    }

    /// Makes the first one; does nothing if there is one that signs. Several processes at once make one.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn make_first(&self, kid: &str, secret: String) -> Result<(), MetaError> {
        let transaction = self.0.begin_write().await?;
        let there = Entity::find().filter(Column::RetiredAt.is_null()).one(&transaction).await;
        if self.0.track(there)?.is_some() {
            return Ok(());
        }
        self.0.track(insert(self.0, &transaction, kid, secret).await)?;
        self.0.track(super::commit(transaction).await)
    }

    /// Puts a new one in the place of all that sign.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn rotate(&self, kid: &str, secret: String) -> Result<(), MetaError> {
        let now = self.0.now();
        let transaction = self.0.begin_write().await?;
        let retire = Entity::update_many()
            .col_expr(Column::RetiredAt, Expr::value(now))
            .col_expr(Column::UpdatedAt, Expr::value(now))
            .filter(Column::RetiredAt.is_null());
        self.0.track(retire.exec(&transaction).await)?;
        self.0.track(insert(self.0, &transaction, kid, secret).await)?;
        let action = AuditAction::SigningKeyRotated;
        self.0.track(audit::record(self.0, &transaction, None, action, kid, json!({})).await)?;
        self.0.track(super::commit(transaction).await)
    }

    /// Deletes those that retired before this time; answers how many.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn delete_retired(&self, before: Timestamp) -> Result<u64, MetaError> {
        let old = Entity::delete_many().filter(Column::RetiredAt.lt(before));
        Ok(self.0.track(old.exec(self.0.connection()).await)?.rows_affected)
    }
}

/// What a secret is sealed for.
fn row(kid: &str) -> String {
    format!("signing_keys/{kid}")
}

async fn insert(
    meta: &Meta,
    transaction: &impl ConnectionTrait,
    kid: &str,
    secret: String,
) -> Result<(), MetaError> {
    let now = meta.now();
    let secret = meta.seal(&row(kid), &secret)?;
    let row = ActiveModel {
        kid: ActiveValue::Set(kid.to_owned()),
        secret: ActiveValue::Set(secret),
        retired_at: ActiveValue::Set(None),
        created_at: ActiveValue::Set(now),
        updated_at: ActiveValue::Set(now),
    };
    Entity::insert(row).exec_without_returning(transaction).await?;
    Ok(())
}

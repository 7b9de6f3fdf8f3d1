//! States that were told of and go on: whichever process notices that one begins or ends, it is told of once.

use std::collections::BTreeSet;

use sea_orm::ActiveValue;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::OnConflict;

use super::{Meta, MetaError, NewNotice, notices};
use crate::event::Timestamp;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "watched_states")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// A state that goes on.
pub type WatchedState = Model;

/// The finders and writers of watched states. They are of the whole installation.
pub struct WatchedStates<'a>(pub(super) &'a Meta);

impl WatchedStates<'_> {
    /// Those that go on.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn all(&self) -> Result<BTreeSet<String>, MetaError> {
        let found = self.0.track(Entity::find().all(self.0.connection()).await)?;
        Ok(found.into_iter().map(|row| row.name).collect())
    }

    /// Notes that a state begins (or ends), and keeps what is to be told of that in the same transaction. Answers whether
    /// that was news.
    ///
    /// # Errors
    /// The database does not answer: nothing is noted, or that cannot be told.
    pub async fn note(&self, name: &str, begins: bool, notice: Option<NewNotice>) -> Result<bool, MetaError> {
        let transaction = self.0.begin_write().await?;
        let now = self.0.now();
        let changed = if begins {
            let row = ActiveModel {
                name: ActiveValue::Set(name.to_owned()),
                created_at: ActiveValue::Set(now),
                updated_at: ActiveValue::Set(now),
            };
            let again = OnConflict::column(Column::Name).do_nothing().to_owned();
            let insert = Entity::insert(row).on_conflict(again).exec_without_returning(&transaction).await;
            match insert {
                Err(DbErr::RecordNotInserted) => 0,
                other => self.0.track(other)?,
            }
        } else {
            let gone = Entity::delete_many().filter(Column::Name.eq(name)).exec(&transaction).await;
            self.0.track(gone)?.rows_affected
        };
        if changed == 0 {
            return Ok(false);
        }
        let left = self.0.track(notices::put(self.0, &transaction, notice.as_slice()).await)?;
        self.0.track(super::commit(transaction).await)?;
        notices::lost(left);
        Ok(true)
    }
}

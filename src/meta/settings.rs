//! Facts about the installation, by name.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue, ConnectionTrait};

use super::{Meta, MetaError};
use crate::event::Timestamp;

/// The project that requests without a key and the operator act in; written once, at first start.
pub(super) const DEFAULT_PROJECT: &str = "default_project_id";
/// The environment of [`DEFAULT_PROJECT`] that they act in.
pub(super) const DEFAULT_ENVIRONMENT: &str = "default_environment_id";

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "settings")]
pub(super) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    pub value: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub(super) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

pub(super) async fn get(connection: &impl ConnectionTrait, name: &str) -> Result<Option<String>, MetaError> {
    Ok(Entity::find_by_id(name).one(connection).await?.map(|row| row.value))
}

/// Counts a number up by one, from 0, and answers what it is then.
pub(super) async fn count_up(
    meta: &Meta,
    transaction: &impl ConnectionTrait,
    name: &str,
) -> Result<u64, MetaError> {
    let Some(before) = get(transaction, name).await? else {
        insert(meta, transaction, name, "1").await?;
        return Ok(1);
    };
    let next = before.parse::<u64>().unwrap_or(0).saturating_add(1);
    Entity::update_many()
        .col_expr(Column::Value, Expr::value(next.to_string()))
        .col_expr(Column::UpdatedAt, Expr::value(meta.now()))
        .filter(Column::Name.eq(name))
        .exec(transaction)
        .await?;
    Ok(next)
}

/// Writes a fact that is not there yet.
pub(super) async fn insert(
    meta: &Meta,
    transaction: &impl ConnectionTrait,
    name: &str,
    value: &str,
) -> Result<(), MetaError> {
    let now = meta.now();
    let row = ActiveModel {
        name: ActiveValue::Set(name.to_owned()),
        value: ActiveValue::Set(value.to_owned()),
        created_at: ActiveValue::Set(now),
        updated_at: ActiveValue::Set(now),
    };
    Entity::insert(row).exec_without_returning(transaction).await?;
    Ok(())
}

//! Features: what customers are shown and charged for.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue, ExprTrait, PaginatorTrait, QueryOrder, QuerySelect};

use super::columns::JsonText;
use super::{Meta, MetaError};
use crate::event::{EnvironmentId, ProjectId, Scope, Timestamp};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "features")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub project_id: ProjectId,
    pub environment_id: EnvironmentId,
    /// Unique in its environment.
    pub lookup_key: String,
    pub name: String,
    pub meter_id: Option<String>,
    /// Type, units, description, metadata.
    pub body: JsonText,
    pub status: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// A feature.
pub type Feature = Model;

/// A feature to be made, or as it shall be.
#[derive(Clone, Debug)]
pub struct NewFeature {
    pub lookup_key: String,
    pub name: String,
    pub meter_id: Option<String>,
    pub body: serde_json::Value,
}

/// The finders and writers of features.
pub struct Features<'a>(pub(super) &'a Meta);

fn of(scope: &Scope) -> Select<Entity> {
    Entity::find()
        .filter(Column::ProjectId.eq(scope.project.clone()))
        .filter(Column::EnvironmentId.eq(scope.environment.clone()))
}

impl Features<'_> {
    /// A page of the features of this scope, oldest first, and how many there are.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn list(
        &self,
        scope: &Scope,
        offset: u64,
        limit: u64,
    ) -> Result<(Vec<Feature>, u64), MetaError> {
        let total = self.0.track(of(scope).count(self.0.connection()).await)?;
        let page =
            of(scope).order_by_asc(Column::CreatedAt).order_by_asc(Column::Id).offset(offset).limit(limit);
        Ok((self.0.track(page.all(self.0.connection()).await)?, total))
    }

    /// A feature of this scope, by its id or its lookup key.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn find(&self, scope: &Scope, id: &str) -> Result<Option<Feature>, MetaError> {
        let found = of(scope).filter(Column::Id.eq(id).or(Column::LookupKey.eq(id)));
        self.0.track(found.order_by_asc(Column::Id).one(self.0.connection()).await)
    }

    /// Makes a feature.
    ///
    /// # Errors
    /// [`MetaError::Exists`] for a lookup key that the environment has, [`MetaError::Full`] at `max` features.
    pub async fn create(&self, scope: &Scope, new: NewFeature, max: u64) -> Result<Feature, MetaError> {
        let transaction = self.0.begin_write().await?;
        if self.0.track(of(scope).count(&transaction).await)? >= max {
            return Err(self.0.full(Some(&scope.project), "features", max, "metering.features_max"));
        }
        let now = self.0.now();
        let made = Model {
            id: self.0.new_id("feat_", now),
            project_id: scope.project.clone(),
            environment_id: scope.environment.clone(),
            lookup_key: new.lookup_key,
            name: new.name,
            meter_id: new.meter_id,
            body: JsonText(new.body),
            status: super::meters::PUBLISHED.to_owned(),
            created_at: now,
            updated_at: now,
        };
        let row = ActiveModel {
            id: ActiveValue::Set(made.id.clone()),
            project_id: ActiveValue::Set(made.project_id.clone()),
            environment_id: ActiveValue::Set(made.environment_id.clone()),
            lookup_key: ActiveValue::Set(made.lookup_key.clone()),
            name: ActiveValue::Set(made.name.clone()),
            meter_id: ActiveValue::Set(made.meter_id.clone()),
            body: ActiveValue::Set(made.body.clone()),
            status: ActiveValue::Set(made.status.clone()),
            created_at: ActiveValue::Set(now),
            updated_at: ActiveValue::Set(now),
        };
        let inserted = Entity::insert(row).exec_without_returning(&transaction).await;
        let inserted = inserted.map_err(|error| {
            MetaError::from(error).about("a feature with this lookup_key in this environment", "the meter")
        });
        self.0.track(inserted)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(made)
    }

    /// Changes a feature of this scope; false: there is none.
    ///
    /// # Errors
    /// As [`Features::create`].
    pub async fn update(&self, scope: &Scope, id: &str, new: NewFeature) -> Result<bool, MetaError> {
        let changed = Entity::update_many()
            .col_expr(Column::LookupKey, Expr::value(new.lookup_key))
            .col_expr(Column::Name, Expr::value(new.name))
            .col_expr(Column::MeterId, Expr::value(new.meter_id))
            .col_expr(Column::Body, Expr::value(JsonText(new.body)))
            .col_expr(Column::UpdatedAt, Expr::value(self.0.now()))
            .filter(Column::ProjectId.eq(scope.project.clone()))
            .filter(Column::EnvironmentId.eq(scope.environment.clone()))
            .filter(Column::Id.eq(id))
            .exec(self.0.connection())
            .await;
        let changed = changed.map_err(|error| {
            MetaError::from(error).about("a feature with this lookup_key in this environment", "the meter")
        });
        Ok(self.0.track(changed)?.rows_affected > 0)
    }

    /// Deletes a feature of this scope; false: there is none.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn delete(&self, scope: &Scope, id: &str) -> Result<bool, MetaError> {
        let deleted = Entity::delete_many()
            .filter(Column::ProjectId.eq(scope.project.clone()))
            .filter(Column::EnvironmentId.eq(scope.environment.clone()))
            .filter(Column::Id.eq(id))
            .exec(self.0.connection())
            .await;
        Ok(self.0.track(deleted)?.rows_affected > 0)
    }
}

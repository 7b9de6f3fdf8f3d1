//! Meters and their versions.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue, ConnectionTrait, PaginatorTrait, QueryOrder, QuerySelect};

use super::columns::JsonText;
use super::{Meta, MetaError};
use crate::event::{EnvironmentId, ProjectId, Scope, Timestamp};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "meters")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub project_id: ProjectId,
    pub environment_id: EnvironmentId,
    pub name: String,
    /// `published`, or `archived`: measures no more.
    pub status: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// A meter.
pub type Meter = Model;

/// Versions of a meter's definition.
pub(super) mod version {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "meter_versions")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub meter_id: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub version: i64,
        pub definition: JsonText,
        /// It measures events from this moment on.
        pub effective_from: Timestamp,
        pub created_at: Timestamp,
        /// The key that made it.
        pub created_by: Option<String>,
        pub updated_at: Timestamp,
    }

    #[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A version of a meter's definition.
pub type MeterVersion = version::Model;

/// A version to be made.
#[derive(Clone, Debug)]
pub struct NewVersion {
    pub definition: serde_json::Value,
    pub effective_from: Timestamp,
    pub created_by: Option<String>,
}

/// Measures.
pub const PUBLISHED: &str = "published";
/// Measures no more.
pub const ARCHIVED: &str = "archived";

/// The finders and writers of meters.
pub struct Meters<'a>(pub(super) &'a Meta);

fn of(scope: &Scope) -> Select<Entity> {
    Entity::find()
        .filter(Column::ProjectId.eq(scope.project.clone()))
        .filter(Column::EnvironmentId.eq(scope.environment.clone()))
}

impl Meters<'_> {
    /// Every meter of this scope that measures, oldest first, each with its versions; `metering.meters_max` bounds
    /// how many there can be.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn published(&self, scope: &Scope) -> Result<Vec<(Meter, Vec<MeterVersion>)>, MetaError> {
        let found = of(scope).filter(Column::Status.eq(PUBLISHED)).order_by_asc(Column::CreatedAt);
        let meters = self.0.track(found.order_by_asc(Column::Id).all(self.0.connection()).await)?;
        self.with_versions(meters).await
    }

    /// A page of the meters of this scope, newest first, and how many there are.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn list(
        &self,
        scope: &Scope,
        offset: u64,
        limit: u64,
    ) -> Result<(Vec<(Meter, Vec<MeterVersion>)>, u64), MetaError> {
        let total = self.0.track(of(scope).count(self.0.connection()).await)?;
        let page =
            of(scope).order_by_desc(Column::CreatedAt).order_by_desc(Column::Id).offset(offset).limit(limit);
        let meters = self.0.track(page.all(self.0.connection()).await)?;
        Ok((self.with_versions(meters).await?, total))
    }

    /// A meter of this scope, archived or not.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn find(
        &self,
        scope: &Scope,
        id: &str,
    ) -> Result<Option<(Meter, Vec<MeterVersion>)>, MetaError> {
        let found = self.0.track(of(scope).filter(Column::Id.eq(id)).one(self.0.connection()).await)?;
        Ok(self.with_versions(found.into_iter().collect()).await?.pop())
    }

    async fn with_versions(&self, meters: Vec<Meter>) -> Result<Vec<(Meter, Vec<MeterVersion>)>, MetaError> {
        let ids: Vec<&str> = meters.iter().map(|meter| meter.id.as_str()).collect();
        let found = version::Entity::find()
            .filter(version::Column::MeterId.is_in(ids))
            .order_by_asc(version::Column::Version)
            .all(self.0.connection())
            .await;
        let versions = self.0.track(found)?;
        let own = |id: &str| versions.iter().filter(|version| version.meter_id == id).cloned().collect();
        Ok(meters
            .into_iter()
            .map(|meter| {
                let all = own(&meter.id);
                (meter, all)
            })
            .collect())
    }

    /// Makes a meter with its first version.
    ///
    /// # Errors
    /// [`MetaError::Full`] at `max` meters of the environment.
    pub async fn create(
        &self,
        scope: &Scope,
        name: &str,
        first: NewVersion,
        max: u64,
    ) -> Result<String, MetaError> {
        let transaction = self.0.begin_write().await?;
        let found = of(scope).filter(Column::Status.eq(PUBLISHED)).count(&transaction).await;
        if self.0.track(found)? >= max {
            return Err(self.0.full(Some(&scope.project), "meters", max, "metering.meters_max"));
        }
        let now = self.0.now();
        let id = self.0.new_id("meter_", now);
        let row = ActiveModel {
            id: ActiveValue::Set(id.clone()),
            project_id: ActiveValue::Set(scope.project.clone()),
            environment_id: ActiveValue::Set(scope.environment.clone()),
            name: ActiveValue::Set(name.to_owned()),
            status: ActiveValue::Set(PUBLISHED.to_owned()),
            created_at: ActiveValue::Set(now),
            updated_at: ActiveValue::Set(now),
        };
        self.0.track(Entity::insert(row).exec_without_returning(&transaction).await)?;
        self.insert_version(&transaction, &id, 1, first, now).await?;
        self.0.track(super::commit(transaction).await)?;
        Ok(id)
    }

    /// Makes the next version of a meter of this scope, and names the meter anew; false: there is no such meter.
    ///
    /// # Errors
    /// The database does not answer; [`MetaError::Full`] at `max` versions of the meter.
    pub async fn add_version(
        &self,
        scope: &Scope,
        id: &str,
        name: &str,
        next: NewVersion,
        max: u64,
    ) -> Result<bool, MetaError> {
        let transaction = self.0.begin_write().await?;
        let Some(found) = self.0.track(of(scope).filter(Column::Id.eq(id)).one(&transaction).await)? else {
            return Ok(false);
        };
        let versions =
            version::Entity::find().filter(version::Column::MeterId.eq(id)).count(&transaction).await;
        let versions = self.0.track(versions)?;
        if versions >= max {
            return Err(self.0.full(
                Some(&scope.project),
                "versions of this meter",
                max,
                "metering.versions_max",
            ));
        }
        let now = self.0.now();
        let number = i64::try_from(versions).unwrap_or(i64::MAX).saturating_add(1);
        self.insert_version(&transaction, id, number, next, now).await?;
        let renamed = Entity::update_many()
            .col_expr(Column::Name, Expr::value(name))
            .col_expr(Column::UpdatedAt, Expr::value(now))
            .filter(Column::Id.eq(found.id))
            .exec(&transaction)
            .await;
        self.0.track(renamed)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(true)
    }

    async fn insert_version(
        &self,
        transaction: &impl ConnectionTrait,
        meter_id: &str,
        number: i64,
        new: NewVersion,
        now: Timestamp,
    ) -> Result<(), MetaError> {
        let row = version::ActiveModel {
            meter_id: ActiveValue::Set(meter_id.to_owned()),
            version: ActiveValue::Set(number),
            definition: ActiveValue::Set(JsonText(new.definition)),
            effective_from: ActiveValue::Set(new.effective_from),
            created_at: ActiveValue::Set(now),
            created_by: ActiveValue::Set(new.created_by),
            updated_at: ActiveValue::Set(now),
        };
        self.0.track(version::Entity::insert(row).exec_without_returning(transaction).await)?;
        Ok(())
    }

    /// Archives a meter of this scope, or publishes it again; false: there is no such meter.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn set_status(&self, scope: &Scope, id: &str, status: &str) -> Result<bool, MetaError> {
        let changed = Entity::update_many()
            .col_expr(Column::Status, Expr::value(status))
            .col_expr(Column::UpdatedAt, Expr::value(self.0.now()))
            .filter(Column::ProjectId.eq(scope.project.clone()))
            .filter(Column::EnvironmentId.eq(scope.environment.clone()))
            .filter(Column::Id.eq(id))
            .exec(self.0.connection())
            .await;
        Ok(self.0.track(changed)?.rows_affected > 0)
    }
}

//! Transforms and their versions.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue, ConnectionTrait, PaginatorTrait, QueryOrder};
use serde_json::{Value as Json, json};

use super::columns::JsonText;
use super::{AuditAction, Meta, MetaError, audit};
use crate::event::{EnvironmentId, ProjectId, Scope, Timestamp};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "transforms")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub project_id: ProjectId,
    pub environment_id: EnvironmentId,
    pub name: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// A transform.
pub type Transform = Model;

/// Versions of a transform.
pub(super) mod version {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "transform_versions")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub transform_id: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub version: i64,
        pub spec: JsonText,
        pub created_at: Timestamp,
        /// The key that made it.
        pub created_by: Option<String>,
        pub updated_at: Timestamp,
    }

    #[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A version of a transform.
pub type TransformVersion = version::Model;

/// The finders and writers of transforms.
pub struct Transforms<'a>(pub(super) &'a Meta);

fn of(scope: &Scope) -> Select<Entity> {
    Entity::find()
        .filter(Column::ProjectId.eq(scope.project.clone()))
        .filter(Column::EnvironmentId.eq(scope.environment.clone()))
}

impl Transforms<'_> {
    /// Every transform of this scope with its newest version, by name; bounded by how many may be made.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn list(&self, scope: &Scope) -> Result<Vec<(Transform, Option<TransformVersion>)>, MetaError> {
        let found = of(scope).order_by_asc(Column::Name).all(self.0.connection()).await;
        let mut list = Vec::new();
        for transform in self.0.track(found)? {
            let newest = self.newest(&transform.id).await?;
            list.push((transform, newest));
        }
        Ok(list)
    }

    /// A transform of this scope by its id.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn find(&self, scope: &Scope, id: &str) -> Result<Option<Transform>, MetaError> {
        self.0.track(of(scope).filter(Column::Id.eq(id)).one(self.0.connection()).await)
    }

    /// The newest version of the transform of this scope with this name.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn newest_by_name(
        &self,
        scope: &Scope,
        name: &str,
    ) -> Result<Option<TransformVersion>, MetaError> {
        let found = of(scope).filter(Column::Name.eq(name)).one(self.0.connection()).await;
        match self.0.track(found)? {
            Some(transform) => self.newest(&transform.id).await,
            None => Ok(None),
        }
    }

    /// The versions of a transform of this scope, oldest first; none where there is no such transform.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn versions(&self, scope: &Scope, id: &str) -> Result<Vec<TransformVersion>, MetaError> {
        if self.find(scope, id).await?.is_none() {
            return Ok(Vec::new());
        }
        let found = version::Entity::find()
            .filter(version::Column::TransformId.eq(id))
            .order_by_asc(version::Column::Version)
            .all(self.0.connection())
            .await;
        self.0.track(found)
    }

    /// Was a transform of this project made, changed or deleted since then?
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn changed_since(&self, project: &ProjectId, since: Timestamp) -> Result<bool, MetaError> {
        use AuditAction::{TransformChanged, TransformCreated, TransformDeleted};
        let actions = [TransformCreated, TransformChanged, TransformDeleted].map(AuditAction::as_str);
        let found = audit::Entity::find()
            .filter(audit::Column::ProjectId.eq(project.clone()))
            .filter(audit::Column::Action.is_in(actions))
            .filter(audit::Column::CreatedAt.gte(since))
            .one(self.0.connection())
            .await;
        Ok(self.0.track(found)?.is_some())
    }

    async fn newest(&self, id: &str) -> Result<Option<TransformVersion>, MetaError> {
        let found = version::Entity::find()
            .filter(version::Column::TransformId.eq(id))
            .order_by_desc(version::Column::Version)
            .one(self.0.connection())
            .await;
        self.0.track(found)
    }

    /// Makes a transform with its first version; none: the name is taken.
    ///
    /// # Errors
    /// [`MetaError::Full`] at `max` transforms of the environment.
    pub async fn create(
        &self,
        scope: &Scope,
        name: &str,
        spec: Json,
        created_by: Option<String>,
        max: u64,
    ) -> Result<Option<String>, MetaError> {
        let transaction = self.0.begin_write().await?;
        if self.0.track(of(scope).filter(Column::Name.eq(name)).one(&transaction).await)?.is_some() {
            return Ok(None);
        }
        if self.0.track(of(scope).count(&transaction).await)? >= max {
            return Err(MetaError::Full { what: "transforms", max, setting: "transform.transforms_max" });
        }
        let now = self.0.now();
        let id = self.0.new_id("transform_", now);
        let row = ActiveModel {
            id: ActiveValue::Set(id.clone()),
            project_id: ActiveValue::Set(scope.project.clone()),
            environment_id: ActiveValue::Set(scope.environment.clone()),
            name: ActiveValue::Set(name.to_owned()),
            created_at: ActiveValue::Set(now),
            updated_at: ActiveValue::Set(now),
        };
        self.0.track(Entity::insert(row).exec_without_returning(&transaction).await)?;
        self.insert_version(&transaction, &id, 1, spec, created_by).await?;
        self.note(&transaction, scope, AuditAction::TransformCreated, &id, json!({ "name": name })).await?;
        self.0.track(super::commit(transaction).await)?;
        Ok(Some(id))
    }

    /// Makes the next version of a transform of this scope and answers its number; none: there is no such transform.
    ///
    /// # Errors
    /// [`MetaError::Full`] at `max` versions of the transform.
    pub async fn add_version(
        &self,
        scope: &Scope,
        id: &str,
        spec: Json,
        created_by: Option<String>,
        max: u64,
    ) -> Result<Option<i64>, MetaError> {
        let transaction = self.0.begin_write().await?;
        let found = self.0.track(of(scope).filter(Column::Id.eq(id)).one(&transaction).await)?;
        let Some(found) = found else { return Ok(None) };
        let counted =
            version::Entity::find().filter(version::Column::TransformId.eq(id)).count(&transaction).await;
        let versions = self.0.track(counted)?;
        if versions >= max {
            let (what, setting) = ("versions of this transform", "transform.versions_max");
            return Err(MetaError::Full { what, max, setting });
        }
        let number = i64::try_from(versions).unwrap_or(i64::MAX).saturating_add(1);
        self.insert_version(&transaction, id, number, spec, created_by).await?;
        let updated = Entity::update_many()
            .col_expr(Column::UpdatedAt, Expr::value(self.0.now()))
            .filter(Column::Id.eq(id))
            .exec(&transaction)
            .await;
        self.0.track(updated)?;
        let facts = json!({ "name": found.name, "version": number });
        self.note(&transaction, scope, AuditAction::TransformChanged, id, facts).await?;
        self.0.track(super::commit(transaction).await)?;
        Ok(Some(number))
    }

    async fn note(
        &self,
        transaction: &impl ConnectionTrait,
        scope: &Scope,
        action: AuditAction,
        id: &str,
        mut facts: Json,
    ) -> Result<(), MetaError> {
        facts["environment_id"] = json!(scope.environment);
        self.0.track(audit::record(self.0, transaction, Some(&scope.project), action, id, facts).await)
    }

    async fn insert_version(
        &self,
        transaction: &impl ConnectionTrait,
        id: &str,
        number: i64,
        spec: Json,
        created_by: Option<String>,
    ) -> Result<(), MetaError> {
        let now = self.0.now();
        let row = version::ActiveModel {
            transform_id: ActiveValue::Set(id.to_owned()),
            version: ActiveValue::Set(number),
            spec: ActiveValue::Set(JsonText(spec)),
            created_at: ActiveValue::Set(now),
            created_by: ActiveValue::Set(created_by),
            updated_at: ActiveValue::Set(now),
        };
        self.0.track(version::Entity::insert(row).exec_without_returning(transaction).await)?;
        Ok(())
    }

    /// Deletes a transform of this scope with its versions; false: there is no such transform.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn delete(&self, scope: &Scope, id: &str) -> Result<bool, MetaError> {
        let transaction = self.0.begin_write().await?;
        let found = self.0.track(of(scope).filter(Column::Id.eq(id)).one(&transaction).await)?;
        let Some(found) = found else { return Ok(false) };
        let versions = version::Entity::delete_many().filter(version::Column::TransformId.eq(id));
        self.0.track(versions.exec(&transaction).await)?;
        self.0.track(Entity::delete_many().filter(Column::Id.eq(id)).exec(&transaction).await)?;
        let facts = json!({ "name": found.name });
        self.note(&transaction, scope, AuditAction::TransformDeleted, id, facts).await?;
        self.0.track(super::commit(transaction).await)?;
        Ok(true)
    }
}

//! Schemas of events and their versions.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue, ConnectionTrait, PaginatorTrait, QueryOrder};
use serde_json::{Value as Json, json};

use super::columns::JsonText;
use super::{AuditAction, Meta, MetaError, audit};
use crate::event::{ProjectId, Timestamp};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "event_schemas")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub project_id: ProjectId,
    pub event_name: String,
    pub compatibility: String,
    pub policy: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// What the events of a name have to look like.
pub type SchemaRow = Model;

/// Versions of a schema.
pub(super) mod version {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "event_schema_versions")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub schema_id: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub version: i64,
        pub definition: JsonText,
        /// What properties of the version before become in it.
        pub upcast: Option<JsonText>,
        pub created_at: Timestamp,
        /// Who made it.
        pub created_by: Option<String>,
        pub updated_at: Timestamp,
    }

    #[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A version of a schema.
pub type SchemaVersion = version::Model;

/// A version that is to be made.
#[derive(Clone, Debug)]
pub struct NewSchemaVersion {
    pub definition: Json,
    /// What properties of the version before become in it.
    pub upcast: Option<Json>,
    pub created_by: Option<String>,
}

/// The finders and writers of schemas.
pub struct Schemas<'a>(pub(super) &'a Meta);

fn of(project: &ProjectId) -> Select<Entity> {
    Entity::find().filter(Column::ProjectId.eq(project.clone()))
}

impl Schemas<'_> {
    /// Every schema of this project by name, each with its versions, oldest first; `schema.schemas_max` bounds them.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn list(&self, project: &ProjectId) -> Result<Vec<(SchemaRow, Vec<SchemaVersion>)>, MetaError> {
        let found = of(project).order_by_asc(Column::EventName).all(self.0.connection()).await;
        self.with_versions(self.0.track(found)?).await
    }

    /// The schemas of every project, for the roles that hold events against them.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn of_all_projects(&self) -> Result<Vec<(SchemaRow, Vec<SchemaVersion>)>, MetaError> {
        let found = self.0.track(Entity::find().all(self.0.connection()).await)?;
        self.with_versions(found).await
    }

    /// A schema of this project.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn find(
        &self,
        project: &ProjectId,
        id: &str,
    ) -> Result<Option<(SchemaRow, Vec<SchemaVersion>)>, MetaError> {
        let found = self.0.track(of(project).filter(Column::Id.eq(id)).one(self.0.connection()).await)?;
        Ok(self.with_versions(found.into_iter().collect()).await?.pop())
    }

    async fn with_versions(
        &self,
        schemas: Vec<SchemaRow>,
    ) -> Result<Vec<(SchemaRow, Vec<SchemaVersion>)>, MetaError> {
        if schemas.is_empty() {
            return Ok(Vec::new());
        }
        let mut found: Vec<(SchemaRow, Vec<SchemaVersion>)> = Vec::with_capacity(schemas.len());
        // Databases bound how many values a statement may have.
        for some in schemas.chunks(500) {
            let ids = some.iter().map(|schema| schema.id.as_str());
            let versions = version::Entity::find()
                .filter(version::Column::SchemaId.is_in(ids))
                .order_by_asc(version::Column::Version)
                .all(self.0.connection())
                .await;
            let versions = self.0.track(versions)?;
            found.extend(some.iter().map(|schema| {
                let own = versions.iter().filter(|version| version.schema_id == schema.id);
                (schema.clone(), own.cloned().collect())
            }));
        }
        Ok(found)
    }

    /// Makes a schema with its first version; answers its id.
    ///
    /// # Errors
    /// [`MetaError::Exists`] if the event has one, [`MetaError::Full`] at `max` schemas of the project.
    pub async fn create(
        &self,
        project: &ProjectId,
        event_name: &str,
        (compatibility, policy): (&str, &str),
        definition: Json,
        created_by: Option<String>,
        max: u64,
    ) -> Result<String, MetaError> {
        let transaction = self.0.begin_write().await?;
        if self.0.track(of(project).count(&transaction).await)? >= max {
            return Err(MetaError::Full { what: "schemas", max, setting: "schema.schemas_max" });
        }
        let now = self.0.now();
        let first = NewSchemaVersion { definition, upcast: None, created_by };
        let id = self.0.new_id("schema_", now);
        let row = ActiveModel {
            id: ActiveValue::Set(id.clone()),
            project_id: ActiveValue::Set(project.clone()),
            event_name: ActiveValue::Set(event_name.to_owned()),
            compatibility: ActiveValue::Set(compatibility.to_owned()),
            policy: ActiveValue::Set(policy.to_owned()),
            created_at: ActiveValue::Set(now),
            updated_at: ActiveValue::Set(now),
        };
        let made = self.0.track(Entity::insert(row).exec_without_returning(&transaction).await);
        made.map_err(|error| error.about("a schema of this event", "the project"))?;
        self.insert_version(&transaction, &id, 1, first, now).await?;
        let facts = json!({ "event": event_name, "version": 1, "policy": policy });
        self.note(&transaction, project, AuditAction::SchemaCreated, &id, facts).await?;
        self.0.track(super::commit(transaction).await)?;
        Ok(id)
    }

    /// Makes the version after `latest`; false: that is not the latest any more, or there is no such schema.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn add_version(
        &self,
        project: &ProjectId,
        id: &str,
        latest: i64,
        next: NewSchemaVersion,
    ) -> Result<bool, MetaError> {
        let transaction = self.0.begin_write().await?;
        let found = self.0.track(of(project).filter(Column::Id.eq(id)).one(&transaction).await)?;
        let versions =
            version::Entity::find().filter(version::Column::SchemaId.eq(id)).count(&transaction).await;
        let versions = i64::try_from(self.0.track(versions)?).unwrap_or(i64::MAX);
        let Some(found) = found.filter(|_| versions == latest) else { return Ok(false) };
        let now = self.0.now();
        let facts = json!({
            "event": found.event_name, "version": latest + 1, "upcast": next.upcast.is_some(),
        });
        self.insert_version(&transaction, id, latest + 1, next, now).await?;
        self.note(&transaction, project, AuditAction::SchemaChanged, id, facts).await?;
        self.0.track(super::commit(transaction).await)?;
        Ok(true)
    }

    async fn insert_version(
        &self,
        connection: &impl ConnectionTrait,
        id: &str,
        number: i64,
        new: NewSchemaVersion,
        now: Timestamp,
    ) -> Result<(), MetaError> {
        let row = version::ActiveModel {
            schema_id: ActiveValue::Set(id.to_owned()),
            version: ActiveValue::Set(number),
            definition: ActiveValue::Set(JsonText(new.definition)),
            upcast: ActiveValue::Set(new.upcast.map(JsonText)),
            created_at: ActiveValue::Set(now),
            created_by: ActiveValue::Set(new.created_by),
            updated_at: ActiveValue::Set(now),
        };
        self.0.track(version::Entity::insert(row).exec_without_returning(connection).await)?;
        Ok(())
    }

    /// Sets what the next version has to be, and what happens to events that do not fit; false: there is no such schema.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn change(
        &self,
        project: &ProjectId,
        id: &str,
        compatibility: &str,
        policy: &str,
    ) -> Result<bool, MetaError> {
        let update = Entity::update_many()
            .col_expr(Column::Compatibility, Expr::value(compatibility))
            .col_expr(Column::Policy, Expr::value(policy))
            .col_expr(Column::UpdatedAt, Expr::value(self.0.now()))
            .filter(Column::ProjectId.eq(project.clone()))
            .filter(Column::Id.eq(id));
        let transaction = self.0.begin_write().await?;
        if self.0.track(update.exec(&transaction).await)?.rows_affected != 1 {
            return Ok(false);
        }
        let facts = json!({ "compatibility": compatibility, "policy": policy });
        self.note(&transaction, project, AuditAction::SchemaChanged, id, facts).await?;
        self.0.track(super::commit(transaction).await)?;
        Ok(true)
    }

    async fn note(
        &self,
        transaction: &impl ConnectionTrait,
        project: &ProjectId,
        action: AuditAction,
        id: &str,
        facts: Json,
    ) -> Result<(), MetaError> {
        self.0.track(audit::record(self.0, transaction, Some(project), action, id, facts).await)
    }

    /// Deletes a schema with its versions; false: there was none.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn delete(&self, project: &ProjectId, id: &str) -> Result<bool, MetaError> {
        let transaction = self.0.begin_write().await?;
        let found = self.0.track(of(project).filter(Column::Id.eq(id)).one(&transaction).await)?;
        let Some(found) = found else { return Ok(false) };
        let versions = version::Entity::delete_many().filter(version::Column::SchemaId.eq(id));
        self.0.track(versions.exec(&transaction).await)?;
        let schema = Entity::delete_many().filter(Column::Id.eq(id));
        self.0.track(schema.exec(&transaction).await)?;
        let facts = json!({ "event": found.event_name });
        self.note(&transaction, project, AuditAction::SchemaDeleted, id, facts).await?;
        self.0.track(super::commit(transaction).await)?;
        Ok(true)
    }
}

//! What people keep in an environment: cohorts, dashboards. The body of each is the business of its room.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue, ConnectionTrait, ExprTrait, PaginatorTrait, QueryOrder, QuerySelect};
use serde_json::{Value as Json, json};

use super::columns::JsonText;
use super::{AuditAction, Meta, MetaError, audit, projects};
use crate::event::{EnvironmentId, ProjectId, Scope, Timestamp};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "documents")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub project_id: ProjectId,
    pub environment_id: EnvironmentId,
    pub kind: String,
    pub name: String,
    pub body: JsonText,
    /// Counts up with every change.
    pub revision: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Something that people keep.
pub type Document = Model;

/// What sort of document, and how many of it there may be.
#[derive(Clone, Copy, Debug)]
pub struct DocumentKind {
    /// Its name in the database, and the beginning of its ids.
    pub name: &'static str,
    /// Of several, in errors.
    pub plural: &'static str,
    /// The setting that bounds them.
    pub setting: &'static str,
    /// What the audit trail calls it when one is made, changed and deleted; none: it has no entry.
    pub audited: Option<[AuditAction; 3]>,
}

/// The finders and writers of documents of one kind.
pub struct Documents<'a> {
    pub(super) meta: &'a Meta,
    pub(super) kind: DocumentKind,
}

impl Documents<'_> {
    /// Every document of this kind in this scope, oldest first; bounded by how many may be made.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn list(&self, scope: &Scope) -> Result<Vec<Document>, MetaError> {
        let found = self.of(scope).order_by_asc(Column::CreatedAt).order_by_asc(Column::Id);
        self.meta.track(found.all(self.meta.connection()).await)
    }

    /// The scopes that have documents of this kind: of every project that is not deleted, for work that nobody asked for.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn scopes(&self) -> Result<Vec<Scope>, MetaError> {
        let found = Entity::find()
            .select_only()
            .column(Column::ProjectId)
            .column(Column::EnvironmentId)
            .filter(Column::Kind.eq(self.kind.name))
            .filter(Column::ProjectId.not_in_subquery(projects::deleted_ids()))
            .distinct()
            .into_tuple::<(ProjectId, EnvironmentId)>()
            .all(self.meta.connection())
            .await;
        let found = self.meta.track(found)?;
        Ok(found.into_iter().map(|(project, environment)| Scope { project, environment }).collect())
    }

    /// A document of this scope, if it exists.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn find(&self, scope: &Scope, id: &str) -> Result<Option<Document>, MetaError> {
        let found = self.of(scope).filter(Column::Id.eq(id));
        self.meta.track(found.one(self.meta.connection()).await)
    }

    /// Makes a document.
    ///
    /// # Errors
    /// [`MetaError::Full`] at `max` documents of this kind in this scope.
    pub async fn create(
        &self,
        scope: &Scope,
        name: &str,
        body: Json,
        max: u64,
    ) -> Result<Document, MetaError> {
        let transaction = self.meta.begin_write().await?;
        if self.meta.track(self.of(scope).count(&transaction).await)? >= max {
            return Err(self.meta.full(Some(&scope.project), self.kind.plural, max, self.kind.setting));
        }
        let now = self.meta.now();
        let made = Model {
            id: self.meta.new_id(&format!("{}_", self.kind.name), now),
            project_id: scope.project.clone(),
            environment_id: scope.environment.clone(),
            kind: self.kind.name.to_owned(),
            name: name.to_owned(),
            body: JsonText(body),
            revision: 1,
            created_at: now,
            updated_at: now,
        };
        let row = ActiveModel {
            id: ActiveValue::Set(made.id.clone()),
            project_id: ActiveValue::Set(made.project_id.clone()),
            environment_id: ActiveValue::Set(made.environment_id.clone()),
            kind: ActiveValue::Set(made.kind.clone()),
            name: ActiveValue::Set(made.name.clone()),
            body: ActiveValue::Set(made.body.clone()),
            revision: ActiveValue::Set(1),
            created_at: ActiveValue::Set(now),
            updated_at: ActiveValue::Set(now),
        };
        self.meta.track(Entity::insert(row).exec_without_returning(&transaction).await)?;
        self.note(&transaction, scope, 0, &made.id, name).await?;
        self.meta.track(super::commit(transaction).await)?;
        Ok(made)
    }

    /// Changes a document that is still at this revision; false: it was changed or deleted meanwhile.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn change(
        &self,
        scope: &Scope,
        from: &Document,
        name: &str,
        body: Json,
    ) -> Result<bool, MetaError> {
        let update = Entity::update_many()
            .col_expr(Column::Name, Expr::value(name))
            .col_expr(Column::Body, Expr::value(JsonText(body)))
            .col_expr(Column::Revision, Expr::col(Column::Revision).add(1_i64))
            .col_expr(Column::UpdatedAt, Expr::value(self.meta.now()))
            .filter(Column::ProjectId.eq(scope.project.clone()))
            .filter(Column::EnvironmentId.eq(scope.environment.clone()))
            .filter(Column::Kind.eq(self.kind.name))
            .filter(Column::Id.eq(from.id.as_str()))
            .filter(Column::Revision.eq(from.revision));
        let transaction = self.meta.begin_write().await?;
        if self.meta.track(update.exec(&transaction).await)?.rows_affected != 1 {
            return Ok(false);
        }
        self.note(&transaction, scope, 1, &from.id, name).await?;
        self.meta.track(super::commit(transaction).await)?;
        Ok(true)
    }

    /// Deletes a document; false: there was none.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn delete(&self, scope: &Scope, id: &str) -> Result<bool, MetaError> {
        let transaction = self.meta.begin_write().await?;
        let found = self.of(scope).filter(Column::Id.eq(id)).one(&transaction).await;
        let Some(found) = self.meta.track(found)? else { return Ok(false) };
        let deleted = Entity::delete_many().filter(Column::Id.eq(id)).exec(&transaction).await;
        self.meta.track(deleted)?;
        self.note(&transaction, scope, 2, id, &found.name).await?;
        self.meta.track(super::commit(transaction).await)?;
        Ok(true)
    }

    /// Writes what was done into the audit trail, where this kind has entries.
    async fn note(
        &self,
        transaction: &impl ConnectionTrait,
        scope: &Scope,
        what: usize,
        id: &str,
        name: &str,
    ) -> Result<(), MetaError> {
        let Some(action) = self.kind.audited.and_then(|actions| actions.get(what).copied()) else {
            return Ok(());
        };
        let facts = json!({ "name": name, "environment_id": scope.environment });
        let entry = audit::record(self.meta, transaction, Some(&scope.project), action, id, facts);
        self.meta.track(entry.await)
    }

    fn of(&self, scope: &Scope) -> Select<Entity> {
        Entity::find()
            .filter(Column::ProjectId.eq(scope.project.clone()))
            .filter(Column::EnvironmentId.eq(scope.environment.clone()))
            .filter(Column::Kind.eq(self.kind.name))
    }
}

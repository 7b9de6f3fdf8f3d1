//! Webhooks: who in a project wants to be told of which system events, and where.

use sea_orm::entity::prelude::*;
use sea_orm::{Condition, ExprTrait, PaginatorTrait, QueryOrder};

use super::{Meta, MetaError};
use crate::event::{EnvironmentId, ProjectId, Scope, SystemEventKind, Timestamp};

/// Is it delivered to?
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookStatus {
    Enabled,
    /// Nothing is added, and what waits goes on waiting.
    Disabled,
    /// The receiver said that it is gone for good.
    Gone,
}

impl WebhookStatus {
    /// Every status.
    pub const ALL: &'static [Self] = &[Self::Enabled, Self::Disabled, Self::Gone];

    /// Its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::Gone => "gone",
        }
    }

    /// The status with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|status| status.as_str() == name)
    }
}

#[derive(Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "webhooks")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub project_id: ProjectId,
    /// None: events of every environment.
    pub environment_id: Option<EnvironmentId>,
    pub url: String,
    pub description: String,
    /// Names of kinds, separated by commas; empty: all.
    pub events: String,
    pub ordered: bool,
    pub status: WebhookStatus,
    pub secret: String,
    pub previous_secret: Option<String>,
    pub previous_secret_until: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// A webhook.
pub type Webhook = Model;

// Without its secrets.
impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("id", &self.id).field("url", &self.url).finish_non_exhaustive()
    }
}

impl Model {
    /// The kinds it wants; none: all.
    pub fn kinds(&self) -> Vec<SystemEventKind> {
        self.events.split(',').filter_map(SystemEventKind::from_name).collect()
    }

    /// Is an event of this kind and environment for it? `None`: of no environment.
    pub fn wants(&self, kind: SystemEventKind, environment: Option<&EnvironmentId>) -> bool {
        let kinds = self.kinds();
        let kind_fits = if kinds.is_empty() { self.events.is_empty() } else { kinds.contains(&kind) };
        let here = match (&self.environment_id, environment) {
            (Some(own), Some(given)) => own == given,
            _ => true,
        };
        self.status == WebhookStatus::Enabled && kind_fits && here
    }

    /// The secrets that sign now, the newest first.
    pub fn secrets(&self, now: Timestamp) -> Vec<&str> {
        let previous = self.previous_secret.as_deref();
        let previous = previous.filter(|_| self.previous_secret_until.is_some_and(|until| now < until));
        std::iter::once(self.secret.as_str()).chain(previous).collect()
    }
}

/// A webhook to be made, or as it shall be.
#[derive(Clone, Debug)]
pub struct NewWebhook {
    pub environment_id: Option<EnvironmentId>,
    pub url: String,
    pub description: String,
    pub kinds: Vec<SystemEventKind>,
    pub ordered: bool,
    pub status: WebhookStatus,
}

/// The finders and writers of webhooks.
pub struct Webhooks<'a>(pub(super) &'a Meta);

impl Webhooks<'_> {
    /// Every webhook of a project, oldest first; bounded by how many may be made.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn list(&self, project: &ProjectId) -> Result<Vec<Webhook>, MetaError> {
        let found = of(project).order_by_asc(Column::CreatedAt).order_by_asc(Column::Id);
        self.0.track(found.all(self.0.connection()).await)
    }

    /// A webhook of a project, if it exists.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn find(&self, project: &ProjectId, id: &str) -> Result<Option<Webhook>, MetaError> {
        self.0.track(of(project).filter(Column::Id.eq(id)).one(self.0.connection()).await)
    }

    /// The enabled webhooks of these projects, for whoever adds deliveries.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn enabled(&self, projects: &[ProjectId]) -> Result<Vec<Webhook>, MetaError> {
        let found = Entity::find()
            .filter(Column::Status.eq(WebhookStatus::Enabled))
            .filter(Column::ProjectId.is_in(projects.iter().cloned()));
        self.0.track(found.order_by_asc(Column::Id).all(self.0.connection()).await)
    }

    /// Every enabled webhook of the installation that has a delivery which is due and held by nobody: of every project,
    /// for the work that delivers.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn due(&self, now: Timestamp) -> Result<Vec<Webhook>, MetaError> {
        use super::webhook_deliveries as deliveries;
        let waiting = deliveries::Entity::find()
            .filter(
                Expr::col((deliveries::Entity, deliveries::Column::WebhookId)).equals((Entity, Column::Id)),
            )
            .filter(deliveries::claimable(now));
        let waiting = sea_orm::QuerySelect::query(&mut sea_orm::QuerySelect::limit(waiting, 1)).take();
        let found =
            Entity::find().filter(Column::Status.eq(WebhookStatus::Enabled)).filter(Expr::exists(waiting));
        self.0.track(found.order_by_asc(Column::Id).all(self.0.connection()).await)
    }

    /// Makes a webhook.
    ///
    /// # Errors
    /// [`MetaError::Full`] at `max` webhooks of this project.
    pub async fn create(
        &self,
        project: &ProjectId,
        new: NewWebhook,
        secret: &str,
        max: u64,
    ) -> Result<Webhook, MetaError> {
        let transaction = self.0.begin_write().await?;
        if self.0.track(of(project).count(&transaction).await)? >= max {
            return Err(self.0.full(Some(project), "webhooks", max, "webhook.webhooks_max"));
        }
        let now = self.0.now();
        let made = Model {
            id: self.0.new_id("webhook_", now),
            project_id: project.clone(),
            environment_id: new.environment_id,
            url: new.url,
            description: new.description,
            events: written(&new.kinds),
            ordered: new.ordered,
            status: new.status,
            secret: secret.to_owned(),
            previous_secret: None,
            previous_secret_until: None,
            created_at: now,
            updated_at: now,
        };
        let row: ActiveModel = made.clone().into();
        self.0.track(Entity::insert(row.reset_all()).exec_without_returning(&transaction).await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(made)
    }

    /// Changes a webhook; false: there is none.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn change(&self, project: &ProjectId, id: &str, new: NewWebhook) -> Result<bool, MetaError> {
        let update = Entity::update_many()
            .col_expr(Column::EnvironmentId, Expr::value(new.environment_id))
            .col_expr(Column::Url, Expr::value(new.url))
            .col_expr(Column::Description, Expr::value(new.description))
            .col_expr(Column::Events, Expr::value(written(&new.kinds)))
            .col_expr(Column::Ordered, Expr::value(new.ordered))
            .col_expr(Column::Status, Expr::value(new.status))
            .col_expr(Column::UpdatedAt, Expr::value(self.0.now()));
        self.update(project, id, update).await
    }

    /// Signs with another secret; the one so far signs beside it until then. False: there is no such webhook.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn rotate(
        &self,
        project: &ProjectId,
        id: &str,
        secret: &str,
        until: Timestamp,
    ) -> Result<bool, MetaError> {
        let update = Entity::update_many()
            .col_expr(Column::PreviousSecret, Expr::col(Column::Secret))
            .col_expr(Column::PreviousSecretUntil, Expr::value(until))
            .col_expr(Column::Secret, Expr::value(secret))
            .col_expr(Column::UpdatedAt, Expr::value(self.0.now()));
        self.update(project, id, update).await
    }

    /// The receiver is gone for good.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn set_gone(&self, project: &ProjectId, id: &str) -> Result<bool, MetaError> {
        let update = Entity::update_many()
            .col_expr(Column::Status, Expr::value(WebhookStatus::Gone))
            .col_expr(Column::UpdatedAt, Expr::value(self.0.now()));
        self.update(project, id, update).await
    }

    /// Deletes a webhook with its deliveries; false: there was none.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn delete(&self, project: &ProjectId, id: &str) -> Result<bool, MetaError> {
        use super::webhook_deliveries as deliveries;
        let transaction = self.0.begin_write().await?;
        let gone = deliveries::Entity::delete_many()
            .filter(deliveries::Column::ProjectId.eq(project.clone()))
            .filter(deliveries::Column::WebhookId.eq(id))
            .exec(&transaction)
            .await;
        self.0.track(gone)?;
        let which = Condition::all().add(Column::ProjectId.eq(project.clone())).add(Column::Id.eq(id));
        let deleted = self.0.track(Entity::delete_many().filter(which).exec(&transaction).await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(deleted.rows_affected == 1)
    }

    async fn update(
        &self,
        project: &ProjectId,
        id: &str,
        update: sea_orm::UpdateMany<Entity>,
    ) -> Result<bool, MetaError> {
        let update = update.filter(Column::ProjectId.eq(project.clone())).filter(Column::Id.eq(id));
        Ok(self.0.track(update.exec(self.0.connection()).await)?.rows_affected == 1)
    }
}

fn of(project: &ProjectId) -> Select<Entity> {
    Entity::find().filter(Column::ProjectId.eq(project.clone()))
}

fn written(kinds: &[SystemEventKind]) -> String {
    kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(",")
}

/// Where a system event is delivered: its own project, or that of the installation's operators.
pub(super) fn project_of<'a>(
    project: Option<&'a ProjectId>,
    default: Option<&'a Scope>,
) -> Option<&'a ProjectId> {
    project.or(default.map(|scope| &scope.project))
}

//! Webhooks: who in a project wants to be told of which system events, and where.

use sea_orm::entity::prelude::*;
use sea_orm::{Condition, ExprTrait, PaginatorTrait, QueryOrder};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value as Json, json};

use super::projects::deleted_ids;
use super::{AuditAction, Meta, MetaError, audit};
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
    /// Sealed, see [`super::sealed`].
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

    /// The secrets that sign now, the newest first, as they are written.
    fn sealed_secrets(&self, now: Timestamp) -> impl Iterator<Item = &str> {
        let previous = self.previous_secret.as_deref();
        let previous = previous.filter(|_| self.previous_secret_until.is_some_and(|until| now < until));
        std::iter::once(self.secret.as_str()).chain(previous)
    }
}

/// What its secrets are sealed for.
fn row(id: &str) -> String {
    format!("webhooks/{id}")
}

/// Whom it tells, for the audit trail: a path may hold a secret of the receiver's.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit('@').next().unwrap_or_default()
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
            .filter(Column::ProjectId.is_in(projects.iter().cloned()))
            .filter(Column::ProjectId.not_in_subquery(deleted_ids()));
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
        let found = Entity::find()
            .filter(Column::Status.eq(WebhookStatus::Enabled))
            .filter(Column::ProjectId.not_in_subquery(deleted_ids()))
            .filter(Expr::exists(waiting));
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
        let id = self.0.new_id("webhook_", now);
        let sealed = self.0.seal(&row(&id), secret)?;
        let made = Model {
            id,
            project_id: project.clone(),
            environment_id: new.environment_id,
            url: new.url,
            description: new.description,
            events: written(&new.kinds),
            ordered: new.ordered,
            status: new.status,
            secret: sealed,
            previous_secret: None,
            previous_secret_until: None,
            created_at: now,
            updated_at: now,
        };
        let row: ActiveModel = made.clone().into();
        self.0.track(Entity::insert(row.reset_all()).exec_without_returning(&transaction).await)?;
        let (action, facts) = (AuditAction::WebhookCreated, facts(&made.url, made.status, &made.events));
        let entry = audit::record(self.0, &transaction, Some(project), action, &made.id, facts);
        self.0.track(entry.await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(made)
    }

    /// Changes a webhook; false: there is none.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn change(&self, project: &ProjectId, id: &str, new: NewWebhook) -> Result<bool, MetaError> {
        let facts = facts(&new.url, new.status, &written(&new.kinds));
        let update = Entity::update_many()
            .col_expr(Column::EnvironmentId, Expr::value(new.environment_id))
            .col_expr(Column::Url, Expr::value(new.url))
            .col_expr(Column::Description, Expr::value(new.description))
            .col_expr(Column::Events, Expr::value(written(&new.kinds)))
            .col_expr(Column::Ordered, Expr::value(new.ordered))
            .col_expr(Column::Status, Expr::value(new.status))
            .col_expr(Column::UpdatedAt, Expr::value(self.0.now()));
        self.update(project, id, update, (AuditAction::WebhookChanged, facts)).await
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
            .col_expr(Column::Secret, Expr::value(self.0.seal(&row(id), secret)?))
            .col_expr(Column::UpdatedAt, Expr::value(self.0.now()));
        let facts = json!({ "former_good_until": until });
        self.update(project, id, update, (AuditAction::WebhookSecretRotated, facts)).await
    }

    /// The receiver is gone for good.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn set_gone(&self, project: &ProjectId, id: &str) -> Result<bool, MetaError> {
        let update = Entity::update_many()
            .col_expr(Column::Status, Expr::value(WebhookStatus::Gone))
            .col_expr(Column::UpdatedAt, Expr::value(self.0.now()));
        let facts = json!({ "status": WebhookStatus::Gone });
        self.update(project, id, update, (AuditAction::WebhookChanged, facts)).await
    }

    /// Deletes a webhook with its deliveries; false: there was none.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn delete(&self, project: &ProjectId, id: &str) -> Result<bool, MetaError> {
        use super::webhook_deliveries as deliveries;
        let transaction = self.0.begin_write().await?;
        let found = self.0.track(of(project).filter(Column::Id.eq(id)).one(&transaction).await)?;
        let Some(found) = found else { return Ok(false) };
        let gone = deliveries::Entity::delete_many()
            .filter(deliveries::Column::ProjectId.eq(project.clone()))
            .filter(deliveries::Column::WebhookId.eq(id))
            .exec(&transaction)
            .await;
        self.0.track(gone)?;
        let which = Condition::all().add(Column::ProjectId.eq(project.clone())).add(Column::Id.eq(id));
        self.0.track(Entity::delete_many().filter(which).exec(&transaction).await)?;
        let facts = facts(&found.url, found.status, &found.events);
        let entry =
            audit::record(self.0, &transaction, Some(project), AuditAction::WebhookDeleted, id, facts);
        self.0.track(entry.await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(true)
    }

    /// The secrets that sign now, the newest first.
    ///
    /// # Errors
    /// They are sealed with a key that this process does not have.
    pub fn secrets(&self, webhook: &Webhook, now: Timestamp) -> Result<Vec<SecretString>, MetaError> {
        webhook.sealed_secrets(now).map(|sealed| self.0.unseal(&row(&webhook.id), sealed)).collect()
    }

    /// Seals what is in clear or under a former key. A secret that cannot be opened stays as it is.
    ///
    /// # Errors
    /// The database does not answer.
    pub(super) async fn seal_anew(&self) -> Result<(), MetaError> {
        let is_current = |webhook: &Webhook| {
            let all = std::iter::once(&webhook.secret).chain(&webhook.previous_secret);
            all.into_iter().all(|sealed| self.0.is_sealed_now(sealed))
        };
        for was in self.0.track(Entity::find().all(self.0.connection()).await)? {
            if is_current(&was) {
                continue;
            }
            let anew = |sealed: &str| {
                let secret = self.0.unseal(&row(&was.id), sealed)?;
                self.0.seal(&row(&was.id), secret.expose_secret())
            };
            let sealed = anew(&was.secret)
                .and_then(|secret| Ok((secret, was.previous_secret.as_deref().map(anew).transpose()?)));
            let (secret, previous) = match sealed {
                Ok(both) => both,
                Err(error) => {
                    tracing::error!(webhook_id = was.id, %error, "a webhook's secret cannot be read");
                    continue;
                }
            };
            let update = Entity::update_many()
                .col_expr(Column::Secret, Expr::value(secret))
                .col_expr(Column::PreviousSecret, Expr::value(previous))
                .filter(Column::Id.eq(was.id.as_str()))
                // Changed meanwhile, it is sealed as it shall be.
                .filter(Column::Secret.eq(was.secret.as_str()));
            self.0.track(update.exec(self.0.connection()).await)?;
        }
        Ok(())
    }

    async fn update(
        &self,
        project: &ProjectId,
        id: &str,
        update: sea_orm::UpdateMany<Entity>,
        (action, facts): (AuditAction, Json),
    ) -> Result<bool, MetaError> {
        let transaction = self.0.begin_write().await?;
        let update = update.filter(Column::ProjectId.eq(project.clone())).filter(Column::Id.eq(id));
        if self.0.track(update.exec(&transaction).await)?.rows_affected != 1 {
            return Ok(false);
        }
        self.0.track(audit::record(self.0, &transaction, Some(project), action, id, facts).await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(true)
    }
}

fn facts(url: &str, status: WebhookStatus, events: &str) -> Json {
    json!({ "host": host(url), "status": status, "events": events })
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

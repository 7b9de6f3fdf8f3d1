//! What is to be delivered to webhooks: rows that are claimed for a time (the lease) under a fence, like jobs, but many at
//! a time and by webhook, so that a webhook that is slow holds up its own.

use std::time::Duration;

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{LikeExpr, OnConflict};
use sea_orm::{ActiveValue, Condition, ExprTrait, PaginatorTrait, QueryOrder, QuerySelect};
use serde_json::Value as Json;

use super::columns::JsonText;
use super::webhooks::{Webhook, project_of};
use super::{Meta, MetaError};
use crate::event::{EnvironmentId, ProjectId, SystemEventKind, Timestamp};

/// How a delivery is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Waits for its first or its next attempt.
    Pending,
    /// The receiver took it.
    Delivered,
    /// Given up; can be replayed.
    Dead,
}

impl DeliveryState {
    /// Every state.
    pub const ALL: &'static [Self] = &[Self::Pending, Self::Delivered, Self::Dead];

    /// Its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }

    /// The state with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.as_str() == name)
    }
}

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "webhook_deliveries")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub webhook_id: String,
    pub project_id: ProjectId,
    pub event_id: String,
    pub event_name: String,
    /// As it is sent, byte for byte.
    #[sea_orm(column_type = "Text")]
    pub body: String,
    pub state: DeliveryState,
    pub attempts: i64,
    pub due_at: Timestamp,
    pub give_up_at: Timestamp,
    pub fence: i64,
    pub lease_expires_at: Option<Timestamp>,
    /// The newest attempts.
    pub log: JsonText,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// A delivery.
pub type Delivery = Model;

/// A system event that is to be delivered to whoever wants it.
#[derive(Clone, Debug)]
pub struct Deliverable {
    pub event_id: String,
    pub kind: SystemEventKind,
    /// None: it concerns the whole installation.
    pub project_id: Option<ProjectId>,
    pub environment_id: Option<EnvironmentId>,
    pub body: String,
}

/// What came of an attempt.
#[derive(Clone, Debug)]
pub struct Attempted {
    pub id: String,
    pub fence: i64,
    pub state: DeliveryState,
    /// When the next attempt is due, if there is one.
    pub due_at: Timestamp,
    pub log: Json,
}

/// Which deliveries to list.
#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter<'a> {
    pub state: Option<DeliveryState>,
    /// The event that the payload names as its `event_id`.
    pub about: Option<&'a str>,
    /// Only those older than this one: ids sort by age.
    pub before: Option<&'a str>,
}

/// Due, and held by nobody.
pub(super) fn claimable(now: Timestamp) -> Condition {
    Condition::all()
        .add(Column::State.eq(DeliveryState::Pending))
        .add(Column::DueAt.lte(now))
        .add(Condition::any().add(Column::LeaseExpiresAt.is_null()).add(Column::LeaseExpiresAt.lte(now)))
}

/// The finders and writers of deliveries.
pub struct Deliveries<'a>(pub(super) &'a Meta);

impl Deliveries<'_> {
    /// Adds what these events mean to the webhooks that want them, and answers how many deliveries that were; events
    /// that were added before are passed over. What concerns the whole installation goes to its default project.
    ///
    /// # Errors
    /// The database does not answer: nothing was added.
    pub async fn add(&self, events: &[Deliverable], retry_for: Duration) -> Result<u64, MetaError> {
        let default = self.0.default_scope().await?;
        let of = |event: &Deliverable| project_of(event.project_id.as_ref(), default.as_ref()).cloned();
        let mut projects: Vec<ProjectId> = events.iter().filter_map(of).collect();
        projects.sort();
        projects.dedup();
        let webhooks = self.0.webhooks().enabled(&projects).await?;
        let mut rows = Vec::new();
        for event in events {
            let project = of(event);
            let wanted = webhooks.iter().filter(|webhook| {
                Some(&webhook.project_id) == project.as_ref()
                    && webhook.wants(event.kind, event.environment_id.as_ref())
            });
            rows.extend(wanted.map(|webhook| self.row(webhook, event, retry_for)));
        }
        if rows.is_empty() {
            return Ok(0);
        }
        let transaction = self.0.begin_write().await?;
        let again = OnConflict::columns([Column::WebhookId, Column::EventId]).do_nothing().to_owned();
        let mut added = 0;
        for some in rows.chunks(500) {
            let insert = Entity::insert_many(some.to_vec()).on_conflict(again.clone());
            added += match insert.exec_without_returning(&transaction).await {
                Ok(count) => count,
                Err(DbErr::RecordNotInserted) => 0,
                Err(error) => return self.0.track(Err(error)),
            };
        }
        self.0.track(super::commit(transaction).await)?;
        Ok(added)
    }

    /// Adds one delivery to one webhook, whatever it wants; answers its id.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn add_to(
        &self,
        webhook: &Webhook,
        event: &Deliverable,
        retry_for: Duration,
    ) -> Result<String, MetaError> {
        let row = self.row(webhook, event, retry_for);
        let ActiveValue::Set(id) = row.id.clone() else { return Ok(String::new()) };
        self.0.track(Entity::insert(row).exec_without_returning(self.0.connection()).await)?;
        Ok(id)
    }

    fn row(&self, webhook: &Webhook, event: &Deliverable, retry_for: Duration) -> ActiveModel {
        let now = self.0.now();
        ActiveModel {
            id: ActiveValue::Set(self.0.new_id("msg_", now)),
            webhook_id: ActiveValue::Set(webhook.id.clone()),
            project_id: ActiveValue::Set(webhook.project_id.clone()),
            event_id: ActiveValue::Set(event.event_id.clone()),
            event_name: ActiveValue::Set(event.kind.as_str().to_owned()),
            body: ActiveValue::Set(event.body.clone()),
            state: ActiveValue::Set(DeliveryState::Pending),
            attempts: ActiveValue::Set(0),
            due_at: ActiveValue::Set(now),
            give_up_at: ActiveValue::Set(now.plus(retry_for)),
            fence: ActiveValue::Set(0),
            lease_expires_at: ActiveValue::Set(None),
            log: ActiveValue::Set(JsonText(Json::Array(Vec::new()))),
            created_at: ActiveValue::Set(now),
            updated_at: ActiveValue::Set(now),
        }
    }

    /// Claims up to `limit` due deliveries of a webhook, the longest due first; of an ordered one the oldest alone, once
    /// it is due and nobody holds it.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn claim(
        &self,
        webhook: &Webhook,
        limit: u64,
        now: Timestamp,
        lease: Duration,
    ) -> Result<Vec<Delivery>, MetaError> {
        let transaction = self.0.begin_write().await?;
        let of_webhook = Entity::find().filter(Column::WebhookId.eq(&webhook.id));
        let found = if webhook.ordered {
            let oldest = of_webhook
                .filter(Column::State.eq(DeliveryState::Pending))
                .order_by_asc(Column::Id)
                .limit(1)
                .all(&transaction)
                .await;
            let mut oldest = self.0.track(oldest)?;
            oldest.retain(|delivery| {
                delivery.due_at <= now && delivery.lease_expires_at.is_none_or(|until| until <= now)
            });
            oldest
        } else {
            let due = of_webhook.filter(claimable(now)).order_by_asc(Column::DueAt).order_by_asc(Column::Id);
            self.0.track(due.limit(limit).all(&transaction).await)?
        };
        if found.is_empty() {
            return Ok(found);
        }
        let until = now.plus(lease);
        let held = Entity::update_many()
            .col_expr(Column::Fence, Expr::col(Column::Fence).add(1_i64))
            .col_expr(Column::LeaseExpiresAt, Expr::value(until))
            .filter(Column::Id.is_in(found.iter().map(|delivery| delivery.id.clone())))
            .exec(&transaction)
            .await;
        self.0.track(held)?;
        self.0.track(super::commit(transaction).await)?;
        let claimed = found.into_iter().map(|delivery| Model {
            fence: delivery.fence + 1,
            lease_expires_at: Some(until),
            ..delivery
        });
        Ok(claimed.collect())
    }

    /// Writes what came of attempts, in one transaction; one whose fence is not the newest is passed over: another
    /// holder has it.
    ///
    /// # Errors
    /// The database does not answer: nothing was written.
    pub async fn attempted(&self, all: Vec<Attempted>) -> Result<(), MetaError> {
        let transaction = self.0.begin_write().await?;
        let now = self.0.now();
        for one in all {
            let written = Entity::update_many()
                .col_expr(Column::State, Expr::value(one.state))
                .col_expr(Column::Attempts, Expr::col(Column::Attempts).add(1_i64))
                .col_expr(Column::DueAt, Expr::value(one.due_at))
                .col_expr(Column::LeaseExpiresAt, Expr::value(None::<Timestamp>))
                .col_expr(Column::Log, Expr::value(JsonText(one.log)))
                .col_expr(Column::UpdatedAt, Expr::value(now))
                .filter(Column::Id.eq(one.id))
                .filter(Column::Fence.eq(one.fence))
                .filter(Column::State.eq(DeliveryState::Pending))
                .exec(&transaction)
                .await;
            self.0.track(written)?;
        }
        self.0.track(super::commit(transaction).await)
    }

    /// Deliveries of a webhook, newest first, at most `limit`.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn list(
        &self,
        project: &ProjectId,
        webhook_id: &str,
        filter: DeliveryFilter<'_>,
        limit: u64,
    ) -> Result<Vec<Delivery>, MetaError> {
        let mut found = of(project, webhook_id).order_by_desc(Column::Id).limit(limit);
        if let Some(state) = filter.state {
            found = found.filter(Column::State.eq(state));
        }
        // As the body spells it, and no wildcards of its own.
        let about = filter.about.map(|event_id| format!("\"event_id\":{}", Json::from(event_id)));
        if let Some(about) = &about {
            let escaped = about.replace('!', "!!").replace('%', "!%").replace('_', "!_");
            found =
                found.filter(Expr::col(Column::Body).like(LikeExpr::new(format!("%{escaped}%")).escape('!')));
        }
        if let Some(before) = filter.before {
            found = found.filter(Column::Id.lt(before));
        }
        let mut found = self.0.track(found.all(self.0.connection()).await)?;
        // SQLite's LIKE takes upper and lower case for the same.
        found.retain(|delivery| about.as_ref().is_none_or(|about| delivery.body.contains(about)));
        Ok(found)
    }

    /// A delivery of a webhook, if it exists.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn find(
        &self,
        project: &ProjectId,
        webhook_id: &str,
        id: &str,
    ) -> Result<Option<Delivery>, MetaError> {
        let found = of(project, webhook_id).filter(Column::Id.eq(id));
        self.0.track(found.one(self.0.connection()).await)
    }

    /// Makes ended deliveries due again: this one, or all dead ones; answers how many.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn replay(
        &self,
        project: &ProjectId,
        webhook_id: &str,
        id: Option<&str>,
        retry_for: Duration,
    ) -> Result<u64, MetaError> {
        let now = self.0.now();
        let which = match id {
            Some(id) => Column::Id.eq(id).and(Column::State.ne(DeliveryState::Pending)),
            None => Column::State.eq(DeliveryState::Dead),
        };
        let update = Entity::update_many()
            .col_expr(Column::State, Expr::value(DeliveryState::Pending))
            .col_expr(Column::DueAt, Expr::value(now))
            .col_expr(Column::GiveUpAt, Expr::value(now.plus(retry_for)))
            .col_expr(Column::LeaseExpiresAt, Expr::value(None::<Timestamp>))
            .col_expr(Column::UpdatedAt, Expr::value(now))
            .filter(Column::ProjectId.eq(project.clone()))
            .filter(Column::WebhookId.eq(webhook_id))
            .filter(which);
        Ok(self.0.track(update.exec(self.0.connection()).await)?.rows_affected)
    }

    /// Deletes deliveries of every project that ended before this time; answers how many.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn delete_ended(&self, before: Timestamp) -> Result<u64, MetaError> {
        let old = Entity::delete_many()
            .filter(Column::State.is_in([DeliveryState::Delivered, DeliveryState::Dead]))
            .filter(Column::UpdatedAt.lt(before));
        Ok(self.0.track(old.exec(self.0.connection()).await)?.rows_affected)
    }

    /// Deliveries of the installation that wait.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn count_pending(&self) -> Result<u64, MetaError> {
        let pending = Entity::find().filter(Column::State.eq(DeliveryState::Pending));
        self.0.track(pending.count(self.0.connection()).await)
    }
}

fn of(project: &ProjectId, webhook_id: &str) -> Select<Entity> {
    Entity::find().filter(Column::ProjectId.eq(project.clone())).filter(Column::WebhookId.eq(webhook_id))
}

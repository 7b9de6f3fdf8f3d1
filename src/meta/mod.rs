//! Small rows: projects, environments, API keys, people, the audit trail, durable jobs, the history of the pipeline.
//!
//! - One pool per process ([`Meta`], cheap to clone). SQLite below `data_dir`, in WAL mode, synchronous to the disk,
//!   foreign keys on, file mode 0600; or PostgreSQL (14 or newer), shared by the processes of an installation. One SQL
//!   for both: what differs is the write lock (`begin_write`) and how errors are told apart (`error`).
//! - A handle writes in the name of an [`Actor`] ([`Meta::by`]); what changes who may do what is written together with
//!   its entry in the audit trail.
//! - An entity and its finders live together in one file; every finder takes the project first, so that none can
//!   forget it. The exceptions say so: a key is found by its hash before its project is known.
//! - Times come from the injected clock; every row has `created_at` and `updated_at`.
//! - [`MetaError::Unavailable`] is told apart from every other error: it alone means "try again later".
//! - Must not: hold a connection across anything but a statement or a short write transaction.

mod actor;
mod api_keys;
mod audit;
mod columns;
mod configured;
mod corrections;
mod documents;
mod environments;
mod error;
mod features;
mod first;
mod invitations;
mod jobs;
mod members;
mod meter_coverage;
mod meters;
mod migrations;
mod notices;
mod open;
mod pipeline_history;
mod projects;
mod schemas;
mod sealed;
mod sessions;
mod settings;
mod signing_keys;
mod transforms;
mod users;
mod watched;
mod webhook_deliveries;
mod webhooks;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use sea_orm::{
    ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend, SqliteTransactionMode,
    TransactionOptions, TransactionTrait,
};

use secrecy::SecretString;

pub use actor::{Actor, ActorKind};
pub use api_keys::{ApiKey, ApiKeys, KeyUse, NewApiKey};
pub use audit::{AuditAction, AuditEntry, AuditLog};
pub use columns::JsonText;
pub use corrections::{Correction, Corrections, NewCorrection};
pub use documents::{Document, DocumentKind, Documents};
pub use environments::{Environment, Environments};
pub use error::MetaError;
pub use features::{Feature, Features, NewFeature};
pub use first::{FirstProject, NewFirstProject, NewFirstUser};
pub use invitations::{Invitation, Invitations, NewInvitation};
pub use jobs::{Job, JobEnd, JobFilter, JobState, Jobs, NewJob};
pub use members::{Member, Members, NewMember, Role};
pub use meter_coverage::{CoveredMeter, MeterCoverage};
pub use meters::{ARCHIVED, Meter, MeterVersion, Meters, NewVersion, PUBLISHED};
pub use notices::{NewNotice, Notices, lost as notices_lost};
pub use pipeline_history::{PipelineCounts, PipelineHistory, PipelineLag, PipelineMinute, PipelineProcess};
pub use projects::{Origin, Project, Projects};
pub use schemas::{NewSchemaVersion, SchemaRow, SchemaVersion, Schemas};
pub use sessions::{Rotation, Session, SessionEnd, Sessions};
pub use signing_keys::{SigningKey, SigningKeys};
pub use transforms::{Transform, TransformVersion, Transforms};
pub use users::{NewUser, User, Users};
pub use watched::{WatchedState, WatchedStates};
pub use webhook_deliveries::{Attempted, Deliverable, Deliveries, Delivery, DeliveryFilter, DeliveryState};
pub use webhooks::{NewWebhook, Webhook, WebhookStatus, Webhooks};

use crate::config;
use crate::event::{Clock, IdSource, ProjectId, Timestamp};
use crate::lifecycle::{Component, Health, Quotas, ReachedQuota};

/// How long a start waits for a database that others hold, and how often it tries.
const MIGRATE_PATIENCE: Duration = Duration::from_secs(5);
const MIGRATE_AGAIN: Duration = Duration::from_millis(50);

/// What every write transaction on PostgreSQL takes, as SQLite takes its file's lock: writes here are rare, and one at a
/// time none of them has to reckon with another (bounds on rows, the first start, migrations). "FlexFlow" in bytes.
const WRITE_LOCK: &str = "SELECT pg_advisory_xact_lock(5074563371374178167)";

/// The metadata database of this process.
#[derive(Clone)]
pub struct Meta {
    inner: Arc<Inner>,
    actor: Actor,
}

struct Inner {
    connection: DatabaseConnection,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    seals: sealed::Seals,
    component: Component,
    quotas: Quotas,
    /// A statement found the database gone; the next one that works says it is back.
    lost: AtomicBool,
    /// The millisecond of the newest id.
    last_id: AtomicI64,
    configured: configured::Configured,
}

impl Meta {
    /// Prepares the pool without connecting, so that a database that is down does not keep a process from starting.
    /// The component "meta" tells its state from the first [`Meta::probe`] on.
    ///
    /// # Errors
    /// `meta.url` names no database this build knows, or the SQLite file cannot be made.
    pub async fn open(
        config: &config::Meta,
        data_dir: &Path,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        health: &Health,
    ) -> Result<Self, MetaError> {
        let connection = Database::connect(open::options(config, data_dir)?).await?;
        let sqlite = match connection.get_database_backend() {
            DbBackend::Postgres => None,
            _ => Some(open::sqlite_path(config.url.as_deref(), data_dir)?),
        };
        let seals = sealed::Seals::open(config, sqlite.as_deref(), &*ids)?;
        let component = health.component("meta");
        let inner = Arc::new(Inner {
            connection,
            clock,
            ids,
            seals,
            component,
            quotas: health.quotas().clone(),
            lost: AtomicBool::new(false),
            last_id: AtomicI64::new(0),
            configured: configured::Configured::default(),
        });
        Ok(Self { inner, actor: Actor::system() })
    }

    /// The same database, written in the name of this actor. A new handle writes as FlexFlow itself.
    #[must_use]
    pub fn by(&self, actor: Actor) -> Self {
        Self { inner: self.inner.clone(), actor }
    }

    /// "sqlite" or "postgres".
    pub fn kind(&self) -> &'static str {
        if self.is_postgres() { "postgres" } else { "sqlite" }
    }

    /// Are secrets sealed before they are written, or is there no key for that?
    pub fn seals_secrets(&self) -> bool {
        self.inner.seals.seal_anything()
    }

    fn is_postgres(&self) -> bool {
        self.inner.connection.get_database_backend() == DbBackend::Postgres
    }

    fn actor(&self) -> &Actor {
        &self.actor
    }

    /// Applies the migrations that are missing and names them. Safe when several processes start at once.
    ///
    /// # Errors
    /// The database does not answer, or was written by another version.
    pub async fn migrate(&self) -> Result<Vec<String>, MetaError> {
        // SQLite answers "locked" at once, without its busy timeout, while another process turns the file to WAL: the
        // very first moment of several that start together.
        let patience = Instant::now() + MIGRATE_PATIENCE;
        let applied = loop {
            match migrations::migrate(self).await {
                Err(error) if error.is_unavailable() && !self.is_postgres() && Instant::now() < patience => {
                    tracing::info!(error = %error, "the metadata database is not free yet: trying again");
                    tokio::time::sleep(MIGRATE_AGAIN).await;
                }
                ended => break self.track(ended)?,
            }
        };
        self.webhooks().seal_anew().await?;
        self.signing_keys().seal_anew().await?;
        self.inner.component.up();
        Ok(applied)
    }

    /// Does the database answer, with the tables of this build? Sets the component "meta".
    ///
    /// # Errors
    /// It does not; the message names the cure.
    pub async fn probe(&self) -> Result<(), MetaError> {
        let checked = migrations::check(&self.inner.connection).await;
        match &checked {
            Ok(()) => self.inner.component.up(),
            Err(error) => self.inner.component.down(&error.to_string()),
        }
        self.inner.lost.store(checked.is_err(), Ordering::Relaxed);
        checked
    }

    /// Closes the pool; every later call is [`MetaError::Unavailable`].
    pub async fn close(&self) {
        if let Err(error) = self.inner.connection.close_by_ref().await {
            tracing::warn!(error = %error, "closing the metadata database");
        }
    }

    /// The projects of this installation.
    pub fn projects(&self) -> Projects<'_> {
        Projects(self)
    }

    /// The environments of a project.
    pub fn environments(&self) -> Environments<'_> {
        Environments(self)
    }

    /// The API keys of a project.
    pub fn api_keys(&self) -> ApiKeys<'_> {
        ApiKeys(self)
    }

    /// What people keep of this kind.
    pub fn documents(&self, kind: DocumentKind) -> Documents<'_> {
        Documents { meta: self, kind }
    }

    /// The people of the installation.
    pub fn users(&self) -> Users<'_> {
        Users(self)
    }

    /// The logins of people.
    pub fn sessions(&self) -> Sessions<'_> {
        Sessions(self)
    }

    /// The members of a project.
    pub fn members(&self) -> Members<'_> {
        Members(self)
    }

    /// The invitations to a project.
    pub fn invitations(&self) -> Invitations<'_> {
        Invitations(self)
    }

    /// The secrets that sign access tokens.
    pub fn signing_keys(&self) -> SigningKeys<'_> {
        SigningKeys(self)
    }

    /// Who did what.
    pub fn audit_log(&self) -> AuditLog<'_> {
        AuditLog(self)
    }

    /// The durable jobs.
    pub fn jobs(&self) -> Jobs<'_> {
        Jobs(self)
    }

    /// What is to be told.
    pub fn notices(&self) -> Notices<'_> {
        Notices(self)
    }

    /// What was told of and goes on.
    pub fn watched_states(&self) -> WatchedStates<'_> {
        WatchedStates(self)
    }

    /// What the pipeline did, minute by minute.
    pub fn pipeline_history(&self) -> PipelineHistory<'_> {
        PipelineHistory(self)
    }

    /// The meters of a scope.
    pub fn meters(&self) -> Meters<'_> {
        Meters(self)
    }

    /// Which meters' usage is tracked for all of the past.
    pub fn meter_coverage(&self) -> MeterCoverage<'_> {
        MeterCoverage(self)
    }

    /// The features of a scope.
    pub fn features(&self) -> Features<'_> {
        Features(self)
    }

    /// Schemas of events.
    pub fn schemas(&self) -> Schemas<'_> {
        Schemas(self)
    }

    /// The corrections of a scope's events.
    pub fn corrections(&self) -> Corrections<'_> {
        Corrections(self)
    }

    /// The webhooks of a project.
    pub fn webhooks(&self) -> Webhooks<'_> {
        Webhooks(self)
    }

    /// What is to be delivered to webhooks.
    pub fn deliveries(&self) -> Deliveries<'_> {
        Deliveries(self)
    }

    /// The transforms of a scope.
    pub fn transforms(&self) -> Transforms<'_> {
        Transforms(self)
    }

    /// The next number of this name, from 1: each once, in all processes.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn next_number(&self, name: &'static str) -> Result<u64, MetaError> {
        let transaction = self.begin_write().await?;
        let next = settings::count_up(self, &transaction, name).await;
        let next = self.track(next)?;
        self.track(commit(transaction).await)?;
        Ok(next)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// An id nobody has: `prefix` and a UUIDv7 in 32 hexadecimal digits. Those of one process sort by age, also
    /// within a millisecond: then the later id borrows from the time to come.
    fn new_id(&self, prefix: &str, now: Timestamp) -> String {
        let now = now.as_millis();
        let after = |last: i64| Some(now.max(last.saturating_add(1)));
        let last =
            self.inner.last_id.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after).unwrap_or(now);
        let at = Timestamp::from_millis(now.max(last.saturating_add(1)));
        format!("{prefix}{}", self.inner.ids.uuid_v7(at).simple())
    }

    fn connection(&self) -> &DatabaseConnection {
        &self.inner.connection
    }

    /// A transaction that may write, alone; what the configuration names has its rows in it.
    async fn begin_write(&self) -> Result<DatabaseTransaction, MetaError> {
        let transaction = self.begin_alone().await?;
        if self.inner.configured.is_owed() {
            // Boxed: what a write rarely does shall not make the future of every write large.
            Box::pin(self.make_owed(&transaction)).await?;
        }
        Ok(transaction)
    }

    /// A transaction that may write, alone. On SQLite it takes the write lock at once: one that took it at its first
    /// write would fail, instead of waiting, whenever another had written since it began to read. On PostgreSQL it
    /// takes [`WRITE_LOCK`] until it ends.
    async fn begin_alone(&self) -> Result<DatabaseTransaction, MetaError> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let transaction = self.track(self.inner.connection.begin_with_options(options).await)?;
        if self.is_postgres() {
            self.track(transaction.execute_unprepared(WRITE_LOCK).await)?;
        }
        Ok(transaction)
    }

    /// The text that is written for a secret of this row.
    fn seal(&self, row: &str, secret: &str) -> Result<String, MetaError> {
        self.inner.seals.seal(row, secret, &*self.inner.ids)
    }

    /// The secret that was written for this row.
    fn unseal(&self, row: &str, text: &str) -> Result<SecretString, MetaError> {
        self.inner.seals.unseal(row, text)
    }

    /// Is this text as [`Meta::seal`] would write it?
    fn is_sealed_now(&self, text: &str) -> bool {
        self.inner.seals.is_current(text)
    }

    /// The error for a bound on rows that is reached, which operators are told of.
    fn full(
        &self,
        project: Option<&ProjectId>,
        what: &'static str,
        max: u64,
        setting: &'static str,
    ) -> MetaError {
        let project = project.map(ToString::to_string);
        self.inner.quotas.reached(ReachedQuota { project, setting, max });
        MetaError::Full { what, max, setting }
    }

    /// Tells the component when the database is gone, and when it is back.
    fn track<T, E: Into<MetaError>>(&self, outcome: Result<T, E>) -> Result<T, MetaError> {
        match outcome {
            Ok(value) => {
                if self.inner.lost.swap(false, Ordering::Relaxed) {
                    self.inner.component.up();
                }
                Ok(value)
            }
            Err(error) => {
                let error = error.into();
                if error.is_unavailable() {
                    self.inner.lost.store(true, Ordering::Relaxed);
                    self.inner.component.down(&error.to_string());
                }
                Err(error)
            }
        }
    }
}

async fn commit(transaction: DatabaseTransaction) -> Result<(), MetaError> {
    Ok(transaction.commit().await?)
}

#[cfg(test)]
impl Meta {
    /// Takes a connection out of the pool until what it returns is dropped.
    pub(crate) async fn hold_connection(&self) -> impl Sized {
        self.begin_write().await.unwrap()
    }
}

#[cfg(test)]
#[path = "../../tests/it/support/postgres.rs"]
#[expect(dead_code, reason = "the integration tests use all of it")]
pub(crate) mod test_server;
#[cfg(test)]
mod tests;

//! Small rows: projects, environments, API keys, durable jobs.
//!
//! - One pool per process ([`Meta`], cheap to clone). SQLite below `data_dir`, in WAL mode, synchronous to the disk,
//!   foreign keys on, file mode 0600.
//! - An entity and its finders live together in one file; every finder takes the project first, so that none can
//!   forget it. The exceptions say so: a key is found by its hash before its project is known.
//! - Times come from the injected clock; every row has `created_at` and `updated_at`.
//! - [`MetaError::Unavailable`] is told apart from every other error: it alone means "try again later".
//! - Must not: hold a connection across anything but a statement or a short write transaction.

mod api_keys;
mod columns;
mod corrections;
mod documents;
mod environments;
mod error;
mod features;
mod first;
mod jobs;
mod meter_coverage;
mod meters;
mod migrations;
mod projects;
mod settings;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use sea_orm::{
    ConnectOptions, Database, DatabaseConnection, DatabaseTransaction, SqliteTransactionMode,
    TransactionOptions, TransactionTrait,
};

pub use api_keys::{ApiKey, ApiKeys, KeyUse, NewApiKey};
pub use columns::JsonText;
pub use corrections::{Correction, Corrections, NewCorrection};
pub use documents::{Document, DocumentKind, Documents};
pub use environments::{Environment, Environments};
pub use error::MetaError;
pub use features::{Feature, Features, NewFeature};
pub use first::{FirstProject, NewFirstProject};
pub use jobs::{Job, JobEnd, JobFilter, JobState, Jobs, NewJob};
pub use meter_coverage::{CoveredMeter, MeterCoverage};
pub use meters::{ARCHIVED, Meter, MeterVersion, Meters, NewVersion, PUBLISHED};
pub use projects::{Project, Projects};

use crate::config;
use crate::event::{Clock, IdSource, Timestamp};
use crate::lifecycle::{Component, Health};

/// How long a start waits for a database that others hold, and how often it tries.
const MIGRATE_PATIENCE: Duration = Duration::from_secs(5);
const MIGRATE_AGAIN: Duration = Duration::from_millis(50);

/// The metadata database of this process.
#[derive(Clone)]
pub struct Meta(Arc<Inner>);

struct Inner {
    connection: DatabaseConnection,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    component: Component,
    /// A statement found the database gone; the next one that works says it is back.
    lost: AtomicBool,
    /// The millisecond of the newest id.
    last_id: AtomicI64,
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
        let path = sqlite_path(config.url.as_deref(), data_dir)?;
        create_private(&path).map_err(|error| {
            MetaError::Unavailable(format!("{} cannot be opened: {error}", path.display()))
        })?;
        let connection = Database::connect(sqlite_options(config, path)).await?;
        let component = health.component("meta");
        Ok(Self(Arc::new(Inner {
            connection,
            clock,
            ids,
            component,
            lost: AtomicBool::new(false),
            last_id: AtomicI64::new(0),
        })))
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
                Err(error) if error.is_unavailable() && Instant::now() < patience => {
                    tracing::info!(error = %error, "the metadata database is not free yet: trying again");
                    tokio::time::sleep(MIGRATE_AGAIN).await;
                }
                ended => break self.track(ended)?,
            }
        };
        self.0.component.up();
        Ok(applied)
    }

    /// Does the database answer, with the tables of this build? Sets the component "meta".
    ///
    /// # Errors
    /// It does not; the message names the cure.
    pub async fn probe(&self) -> Result<(), MetaError> {
        let checked = migrations::check(&self.0.connection).await;
        match &checked {
            Ok(()) => self.0.component.up(),
            Err(error) => self.0.component.down(&error.to_string()),
        }
        self.0.lost.store(checked.is_err(), Ordering::Relaxed);
        checked
    }

    /// Closes the pool; every later call is [`MetaError::Unavailable`].
    pub async fn close(&self) {
        if let Err(error) = self.0.connection.close_by_ref().await {
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

    /// The durable jobs.
    pub fn jobs(&self) -> Jobs<'_> {
        Jobs(self)
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

    /// The corrections of a scope's events.
    pub fn corrections(&self) -> Corrections<'_> {
        Corrections(self)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// An id nobody has: `prefix` and a UUIDv7 in 32 hexadecimal digits. Those of one process sort by age, also
    /// within a millisecond: then the later id borrows from the time to come.
    fn new_id(&self, prefix: &str, now: Timestamp) -> String {
        let now = now.as_millis();
        let after = |last: i64| Some(now.max(last.saturating_add(1)));
        let last = self.0.last_id.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after).unwrap_or(now);
        let at = Timestamp::from_millis(now.max(last.saturating_add(1)));
        format!("{prefix}{}", self.0.ids.uuid_v7(at).simple())
    }

    fn connection(&self) -> &DatabaseConnection {
        &self.0.connection
    }

    /// A transaction that may write. On SQLite it takes the write lock at once: one that took it at its first write
    /// would fail, instead of waiting, whenever another had written since it began to read.
    async fn begin_write(&self) -> Result<DatabaseTransaction, MetaError> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        self.track(self.0.connection.begin_with_options(options).await)
    }

    /// Tells the component when the database is gone, and when it is back.
    fn track<T, E: Into<MetaError>>(&self, outcome: Result<T, E>) -> Result<T, MetaError> {
        match outcome {
            Ok(value) => {
                if self.0.lost.swap(false, Ordering::Relaxed) {
                    self.0.component.up();
                }
                Ok(value)
            }
            Err(error) => {
                let error = error.into();
                if error.is_unavailable() {
                    self.0.lost.store(true, Ordering::Relaxed);
                    self.0.component.down(&error.to_string());
                }
                Err(error)
            }
        }
    }
}

async fn commit(transaction: DatabaseTransaction) -> Result<(), MetaError> {
    Ok(transaction.commit().await?)
}

/// Where the SQLite file is: `meta.sqlite` below `data_dir`, or what `meta.url` says.
fn sqlite_path(url: Option<&str>, data_dir: &Path) -> Result<PathBuf, MetaError> {
    let Some(url) = url else { return Ok(data_dir.join("meta.sqlite")) };
    // Only the scheme is repeated in the error: the rest may hold a password.
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    match url.strip_prefix("sqlite:") {
        Some(path) => {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.contains('?') || path == ":memory:" {
                return Err(MetaError::Url("a file is needed: sqlite:/path/meta.sqlite".to_owned()));
            }
            Ok(PathBuf::from(path))
        }
        None => Err(MetaError::Url(format!(
            "scheme {scheme:?} is not known; valid: empty (SQLite below data_dir) or sqlite:/path/meta.sqlite"
        ))),
    }
}

/// Makes the file readable by its owner alone, also one that is there already (a restored copy); SQLite gives its side
/// files (`-wal`, `-shm`) the same mode.
fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

fn sqlite_options(config: &config::Meta, path: PathBuf) -> ConnectOptions {
    let timeout = config.timeout;
    let mut options = ConnectOptions::new("sqlite:");
    options
        .connect_lazy(true)
        .max_connections(config.connections_max)
        .acquire_timeout(timeout)
        .connect_timeout(timeout)
        // Files do not hang up: no connection needs to be tried before it is used, or replaced for its age.
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(move |sqlite| {
            sqlite
                .filename(&path)
                .busy_timeout(timeout)
                .foreign_keys(true)
                .pragma("journal_mode", "WAL")
                .pragma("synchronous", "FULL")
        });
    options
}

#[cfg(test)]
impl Meta {
    /// Takes a connection out of the pool until what it returns is dropped.
    pub(crate) async fn hold_connection(&self) -> impl Sized {
        self.begin_write().await.unwrap()
    }
}

#[cfg(test)]
mod tests;

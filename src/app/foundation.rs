//! What an installation stands on: the tables of the metadata database, the first project, and the rows of what the
//! configuration names. Laid at start; while the database is down or lacks its tables, as soon as it is ready.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use secrecy::ExposeSecret;

use super::FirstRunFile;
use super::data_dir::DataDir;
use super::pools::Pools;
use crate::auth::{self, AuthError, FirstRun, Keys};
use crate::config::Config;
use crate::lifecycle::{Policy, Tasks};
use crate::meta::{Meta, MetaError};
use crate::schema::Registry;

const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Lays it once.
#[derive(Clone)]
pub(super) struct Foundation {
    meta: Meta,
    keys: Arc<Keys>,
    schemas: Registry,
    /// `server.migrate_on_start`.
    migrate: bool,
    /// A command without roles asks; it does not found an installation.
    found: bool,
    data_dir: DataDir,
    /// Address to write down for now; the real one is known once the listener stands.
    url: String,
    /// What the first start made, once it has.
    pub made: Arc<OnceLock<FirstRunFile>>,
}

impl Foundation {
    pub(super) fn new(
        config: &Config,
        pools: &Pools,
        data_dir: &DataDir,
        found: bool,
        listen: SocketAddr,
    ) -> Self {
        Self {
            meta: pools.meta.clone(),
            keys: pools.keys.clone().into_inner(),
            schemas: pools.schemas.as_ref().clone(),
            migrate: config.server.migrate_on_start,
            found,
            data_dir: data_dir.clone(),
            url: format!("http://{listen}"),
            made: Arc::default(),
        }
    }

    /// Tries once; true: the database does not answer or is not ready, try again later.
    ///
    /// # Errors
    /// Something that no waiting cures.
    pub(super) async fn lay(&self) -> anyhow::Result<bool> {
        match self.try_lay().await {
            Ok(()) => Ok(false),
            Err(AuthError::Meta(error)) if self.may_pass(&error) => {
                // The component says what is missing, and the cure.
                tracing::warn!(error = %error, "starting without the metadata database");
                Ok(true)
            }
            Err(AuthError::Meta(error)) => Err(error.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Goes on trying beside everything else; `url` is where this process listens.
    pub(super) fn lay_behind(self, work: &Tasks, url: &str) {
        let foundation = Self { url: url.to_owned(), ..self };
        work.spawn_until_stop("foundation", Policy::Restart(RETRY_EVERY), move || {
            foundation.clone().lay_when_possible()
        });
    }

    /// Tries until it is laid.
    async fn lay_when_possible(self) -> anyhow::Result<()> {
        loop {
            tokio::time::sleep(RETRY_EVERY).await;
            match self.try_lay().await {
                Ok(()) => {
                    tracing::info!("the metadata database is there");
                    return Ok(());
                }
                Err(AuthError::Meta(error)) if self.may_pass(&error) => {}
                Err(error) => tracing::error!(error = %error, "the metadata database cannot be used"),
            }
        }
    }

    /// Does it pass without this process: the database comes back, or somebody else brings its tables up?
    fn may_pass(&self, error: &MetaError) -> bool {
        error.is_unavailable() || (!self.migrate && matches!(error, MetaError::Schema { .. }))
    }

    async fn try_lay(&self) -> Result<(), AuthError> {
        if self.migrate {
            self.meta.migrate().await?;
        } else {
            self.meta.probe().await?;
        }
        if self.found {
            self.lay_first_project().await?;
        }
        // After the first project: the first start tells an empty database by having none.
        if self.meta.is_founded().await? {
            for project in self.meta.keep_configured().await? {
                tracing::warn!(project_id = %project, "the configuration names a project that is deleted: its keys go on, but nobody else sees it");
            }
        }
        Ok(())
    }

    async fn lay_first_project(&self) -> Result<(), AuthError> {
        // Before anything is taken or stored: the first events are held against them, too.
        if let Err(error) = self.schemas.refresh().await {
            tracing::warn!(%error, "schemas of events cannot be read yet: events are not held against them");
        }
        // Written before the commit: a crash in between leaves a file that is good for nothing, and is written over by
        // the next start, instead of a project whose key nobody has.
        let keep = |made: &FirstRun| {
            let file = self.file(made);
            self.data_dir.write_first_run_file(&file).map_err(std::io::Error::other)
        };
        if let Some(made) = auth::first_run(&self.keys, keep).await? {
            self.made.get_or_init(|| self.file(&made));
        }
        Ok(())
    }

    fn file(&self, made: &FirstRun) -> FirstRunFile {
        FirstRunFile {
            url: self.url.clone(),
            project_id: made.scope.project.to_string(),
            environment_id: made.scope.environment.to_string(),
            email: Some(made.email.clone()),
            password: Some(made.password.expose_secret().to_owned()),
            api_key: made.api_key.expose_secret().to_owned(),
        }
    }
}

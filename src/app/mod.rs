//! Assembly: the roles a process runs, the pools they share, the routes, and what operators ask. The only room that
//! knows every role.
//!
//! [`App::start`] never waits for a dependency that is down: it opens the pools, starts the roles as supervised tasks
//! and the listener, and `/ready` says what is missing until it heals. [`Running::stop`] drains in the order listener,
//! roles, pools.

mod audit;
mod data_dir;
mod doctor;
mod foundation;
mod history;
mod http;
mod lag;
mod metadata;
mod openapi;
mod pools;
mod raw_audit;
mod readiness;
mod role;
mod schema;
mod source_audit;
mod topics;
mod watch;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use secrecy::ExposeSecret;

use crate::attribution::Attribution;
use crate::auth;
use crate::config::Config;
use crate::consumer::{self, ConsumerDeps, Control, PostProcessingLane, Warehouse};
use crate::event::{Clock, IdSource, ProjectId, RandomIds, SystemClock};
use crate::eventlog::EventLog;
use crate::http::server;
use crate::job;
use crate::lifecycle::{Policy, Stop, TaskFailed, Tasks};
use crate::metering::Metering;
use crate::notice::Notices;
use crate::query;
use crate::store::Store;
use crate::telemetry::{self, names};
use crate::webhook::Webhook;

pub use data_dir::{FirstRunFile, ServerFile};
pub use openapi::{Body, Class, Route, codes, document, routes};
pub use pools::open_log;
pub use readiness::Readiness;
pub use role::Role;
pub use topics::specs as topic_specs;

use data_dir::DataDir;
use foundation::Foundation;
use history::History;
use pools::Pools;

/// How long a stop waits for the last minute of the history to be written.
const HISTORY_PATIENCE: Duration = Duration::from_secs(1);

/// What a test may put in place of the real thing.
pub struct Options {
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
}

impl Default for Options {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), ids: Arc::new(RandomIds) }
    }
}

/// The application.
pub struct App;

/// A started application.
pub struct Running {
    url: String,
    roles: Vec<Role>,
    operator_token: String,
    /// What an earlier start of this folder made.
    earlier: Option<FirstRunFile>,
    /// What this start made, once it has.
    made: Arc<OnceLock<FirstRunFile>>,
    /// The listener; stopped first.
    front: Tasks,
    /// What serves the roles; stopped before the pools.
    work: Tasks,
    pools: Pools,
    history: Option<History>,
    shutdown_timeout: Duration,
    data_dir: DataDir,
}

impl App {
    /// Starts these roles; none of them: what an operator's command needs, on a free port.
    ///
    /// # Errors
    /// Something that no waiting cures: `data_dir` is held or cannot be written, the address is taken, a setting
    /// contradicts another.
    pub async fn start(config: Config, roles: &[Role], options: Options) -> anyhow::Result<Running> {
        let recorder = telemetry::recorder()?;
        names::BUILD_INFO.gauge(&[("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
        let data_dir = DataDir::lock(&config.data_dir)?;
        let config = Arc::new(Config { data_dir: data_dir.path().to_owned(), ..config });
        let pools = Pools::open(&config, roles, &options).await?;
        let work = Tasks::new(Stop::default());
        let operator_token = pools.new_operator_token().expose_secret().to_owned();

        let listen = listen_address(&config, roles);
        let foundation = Foundation::new(&config, &pools, &data_dir, !roles.is_empty(), listen);
        let made = foundation.made.clone();
        // Boxed: it hashes and migrates, and the future of every command would carry it.
        let later = Box::pin(foundation.lay()).await?;
        pools.watch();
        let shared = http::Shared::new(&config, roles, &pools, recorder.clone())?;
        let front = Tasks::new(Stop::default());
        let routes = shared.clone();
        let (address, serving) = server::serve(
            listen,
            &config.server,
            front.stop(),
            pools.clock.clone(),
            pools.ids.clone(),
            move |config| routes.routes(config),
        )
        .with_context(|| format!("server.listen: cannot listen on {listen}"))?;
        let url = format!("http://{address}");
        let earlier = keep_first_run(&data_dir, &pools, made.get(), &url, roles).await?;
        if later {
            foundation.lay_behind(&work, &url);
        }

        start_roles(&config, roles, &pools, &work, &shared);
        work.spawn_until_stop("metrics upkeep", Policy::Restart(Duration::from_secs(1)), move || {
            let recorder = recorder.clone();
            async move {
                loop {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    recorder.upkeep();
                }
            }
        });
        listen_until_stopped(&front, &work, serving);
        data_dir.write_server_file(&ServerFile {
            pid: std::process::id(),
            url: url.clone(),
            roles: roles.iter().map(ToString::to_string).collect(),
            operator_token: operator_token.clone(),
        })?;
        let shutdown_timeout = config.server.shutdown_timeout;
        let roles = roles.to_vec();
        Ok(Running {
            url,
            roles,
            operator_token,
            earlier,
            made,
            front,
            work,
            pools,
            history: shared.history,
            shutdown_timeout,
            data_dir,
        })
    }
}

/// A lone consumer listens on its metrics port; an operator's command on any free port of the loopback.
fn listen_address(config: &Config, roles: &[Role]) -> SocketAddr {
    match roles {
        [] => SocketAddr::from(([127, 0, 0, 1], 0)),
        [Role::Consumer] => SocketAddr::new(config.server.listen.ip(), config.consumer.metrics_port),
        _ => config.server.listen,
    }
}

/// Serves; a listener that ends although nobody asked it to takes the process with it.
fn listen_until_stopped(
    front: &Tasks,
    work: &Tasks,
    serving: impl Future<Output = std::io::Result<()>> + Send + 'static,
) {
    let (stop, work) = (front.stop().clone(), work.clone());
    front.spawn_bounded(async move {
        let ended = serving.await;
        if !stop.is_stopping() {
            let reason = ended.map_or_else(|error| error.to_string(), |()| "it returned".to_owned());
            work.fail(TaskFailed { name: "listener", reason });
        }
    });
}

/// Keeps `first-run.json` true: what the first start made, and the address of this one. A file about a project that
/// there is not (the process died before it committed what it had written down) counts for nothing.
async fn keep_first_run(
    data_dir: &DataDir,
    pools: &Pools,
    made: Option<&FirstRunFile>,
    url: &str,
    roles: &[Role],
) -> anyhow::Result<Option<FirstRunFile>> {
    let Some(first_run) = made.cloned().or_else(|| data_dir.first_run_file()) else { return Ok(None) };
    if let Ok(None) = pools.meta.projects().find(&ProjectId::new(first_run.project_id.as_str())).await {
        tracing::warn!("first-run.json is about a project that does not exist");
        return Ok(None);
    }
    let first_run = FirstRunFile { url: url.to_owned(), ..first_run };
    if !roles.is_empty() {
        data_dir.write_first_run_file(&first_run)?;
    }
    Ok(Some(first_run))
}

/// The supervised tasks of the roles.
fn start_roles(config: &Arc<Config>, roles: &[Role], pools: &Pools, work: &Tasks, shared: &http::Shared) {
    let restart = Policy::Restart(Duration::from_secs(1));
    if roles.is_empty() {
        return;
    }
    let (log, component) = (pools.log.clone(), pools.health.component("topics"));
    let settings = config.clone();
    work.spawn_until_stop("topics", restart, move || {
        topics::watch(log.clone(), settings.clone(), component.clone())
    });
    if let Some(store) = &pools.store {
        let (store, component) = (store.clone(), pools.health.component("schema"));
        let migrate = config.server.migrate_on_start;
        work.spawn_until_stop("schema", restart, move || {
            schema::watch(store.clone(), migrate, component.clone())
        });
    }
    if let Some(history) = &shared.history {
        let history = history.clone();
        work.spawn_until_stop("history", restart, move || history.clone().follow());
    }
    if let Some(capture) = &shared.capture {
        capture.supervise(work);
    }
    if shared.capture.is_some() || shared.control.is_some() {
        let schemas = pools.schemas.clone();
        work.spawn_until_stop("schemas of events", restart, move || schemas.as_ref().clone().watch());
    }
    if let (Some(control), Some(store), Some(people), Some(dlq), Some(attribution)) =
        (&shared.control, &pools.store, &pools.people, &pools.dlq, &pools.attribution)
    {
        let warehouse = Warehouse { store: store.clone(), people: people.as_ref().clone() };
        let log = pools.log.clone();
        let metering = Metering::new(store.clone(), pools.meta.clone(), log, config, pools.clock.clone());
        start_consumer(config, pools, work, warehouse, control, (store, &metering, attribution));
        let reprocess = pools.reprocess.iter().flat_map(|reprocess| reprocess.handlers());
        let handlers = dlq.handlers().into_iter().chain(metering.handlers()).chain(attribution.handlers());
        let fill = query::extraction::handlers(store);
        let mut handlers: Vec<_> = handlers.chain(reprocess).chain(fill).collect();
        if let Some(rollups) = &pools.rollups {
            handlers.extend(rollups.handlers());
            let rollups = rollups.clone();
            work.spawn_until_stop("rollup schedule", restart, move || {
                rollups.as_ref().clone().run_schedule()
            });
        }
        job::run(&pools.jobs, handlers, &pools.ids, work);
    }
}

/// The stages of the consumer, and the sweep.
fn start_consumer(
    config: &Arc<Config>,
    pools: &Pools,
    work: &Tasks,
    warehouse: Warehouse,
    control: &Control,
    (store, metering, attribution): (&Store, &Metering, &Attribution),
) {
    let deps = ConsumerDeps {
        log: pools.log.clone(),
        sink: Arc::new(warehouse),
        config: config.clone(),
        clock: pools.clock.clone(),
        ids: pools.ids.clone(),
        health: pools.health.clone(),
        tasks: work.clone(),
        control: control.clone(),
        schemas: Some(pools.schemas.as_ref().clone()),
    };
    let restart = Policy::Restart(config.consumer.backoff_min);
    let (stage, stop) = (deps.clone(), work.stop().clone());
    work.spawn("consumer", restart, move || consumer::run(stage.clone(), stop.clone()));
    if config.metering.tracking {
        start_tracking(&deps, restart, (store, metering, &pools.told));
    }
    if config.post_processing.enabled {
        let (stage, stop) = (deps.clone(), work.stop().clone());
        work.spawn("post_processing", restart, move || consumer::run_publish(stage.clone(), stop.clone()));
        start_attribution(&deps, work, restart, attribution);
    }
    let notices = pools.told.clone();
    work.spawn_until_stop("notices", restart, move || notices.clone().run());
    if config.webhook.enabled {
        start_webhooks(&deps, pools, restart);
    }
    let (stage, stop) = (deps.clone(), work.stop().clone());
    work.spawn("reprocessed", restart, move || consumer::run_reprocessed(stage.clone(), stop.clone()));
    let (stage, stop) = (deps.clone(), work.stop().clone());
    let (raw_store, transforms) = (store.clone(), pools.transforms.as_ref().clone());
    work.spawn("raw", restart, move || {
        consumer::run_raw(stage.clone(), raw_store.clone(), transforms.clone(), stop.clone())
    });
    if !config.consumer.sources.is_empty() {
        let (stage, stop) = (deps.clone(), work.stop().clone());
        work.spawn("sources", restart, move || consumer::run_sources(stage.clone(), stop.clone()));
    }
    let (stage, stop) = (deps.clone(), work.stop().clone());
    work.spawn("dlq_index", restart, move || consumer::run_index(stage.clone(), stop.clone()));
    let stop = work.stop().clone();
    work.spawn("sweep", restart, move || consumer::run_sweep(deps.clone(), stop.clone()));
}

/// What tracks usage: of what comes in, of what is reprocessed, of the past.
fn start_tracking(
    deps: &ConsumerDeps,
    restart: Policy,
    (store, metering, told): (&Store, &Metering, &Notices),
) {
    let work = &deps.tasks;
    let parts = (store.clone(), metering.clone(), told.clone());
    let (stage, live, stop) = (deps.clone(), parts.clone(), work.stop().clone());
    work.spawn("feature usage", restart, move || {
        consumer::run_feature_usage(stage.clone(), live.clone(), stop.clone())
    });
    let (stage, stop) = (deps.clone(), work.stop().clone());
    work.spawn("reprocessed usage", restart, move || {
        consumer::run_reprocessed_usage(stage.clone(), parts.clone(), stop.clone())
    });
    let (stage, stop) = (deps.clone(), work.stop().clone());
    let (store, past) = (store.clone(), metering.clone());
    work.spawn("feature usage backfill", restart, move || {
        consumer::run_usage_backfill(stage.clone(), store.clone(), past.clone(), stop.clone())
    });
    let tracker = metering.clone();
    work.spawn_until_stop("usage mirror", restart, move || tracker.clone().mirror());
}

/// What tells others: from system events to deliveries, and those.
fn start_webhooks(deps: &ConsumerDeps, pools: &Pools, restart: Policy) {
    let work = &deps.tasks;
    let webhook: Webhook = pools.webhook.as_ref().clone();
    let (stage, meta, queued) = (deps.clone(), pools.meta.clone(), webhook.queued());
    let stop = work.stop().clone();
    work.spawn("webhooks", restart, move || {
        consumer::run_webhooks(stage.clone(), meta.clone(), queued.clone(), stop.clone())
    });
    let (tasks, stop) = (work.clone(), work.stop().clone());
    work.spawn("webhook_dispatch", restart, move || webhook.clone().run(tasks.clone(), stop.clone()));
    let (config, pools) = (deps.config.clone(), pools.clone());
    work.spawn_until_stop("watch", restart, move || watch::run(config.clone(), pools.clone()));
}

/// What reads the events that are handed on.
fn start_attribution(deps: &ConsumerDeps, work: &Tasks, restart: Policy, attribution: &Attribution) {
    for (name, lane) in
        [("attribution", PostProcessingLane::Live), ("attribution_backfill", PostProcessingLane::Backfill)]
    {
        let (deps, attribution, stop) = (deps.clone(), attribution.clone(), work.stop().clone());
        work.spawn(name, restart, move || {
            consumer::run_attribution(deps.clone(), attribution.clone(), lane, stop.clone())
        });
    }
    let follower = attribution.clone();
    work.spawn_until_stop("attribution_follow", restart, move || follower.clone().follow());
}

impl Running {
    /// Where it listens, such as `http://127.0.0.1:8080`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The roles it runs.
    pub fn roles(&self) -> &[Role] {
        &self.roles
    }

    /// A bearer token that may do everything on this process.
    pub fn operator_token(&self) -> &str {
        &self.operator_token
    }

    /// What the first start of this folder made.
    pub fn first_run(&self) -> Option<FirstRunFile> {
        self.made
            .get()
            .map(|made| FirstRunFile { url: self.url.clone(), ..made.clone() })
            .or(self.earlier.clone())
    }

    /// True if this very start made it.
    pub fn is_first_start(&self) -> bool {
        self.made.get().is_some()
    }

    /// An address that logs the first administrator in, once; none: this start made nobody, or they cannot log in now.
    pub async fn login_link(&self) -> Option<String> {
        let made = self.made.get()?;
        let password = made.password.clone()?.into();
        match auth::login_token(&self.pools.keys, made.email.as_deref()?, &password).await {
            Ok(token) => Some(format!("{}/#login={}", self.url, token.expose_secret())),
            Err(error) => {
                tracing::warn!(%error, "no link to log in with is printed: use the password");
                None
            }
        }
    }

    /// The store, where a role needs one.
    pub fn store(&self) -> Option<&Store> {
        self.pools.store.as_ref()
    }

    /// The event log.
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.pools.log
    }

    /// Waits until every role can do its work.
    pub async fn ready(&self) {
        while readiness::report(&self.pools.health, &self.roles).status == Readiness::Unready {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a task that the process cannot do without has ended on its own.
    pub async fn failed(&self) {
        tokio::select! {
            () = self.work.stop().soft_token().cancelled() => {}
            () = self.pools.tasks.stop().soft_token().cancelled() => {}
        }
    }

    /// Drains: listener, roles, pools.
    ///
    /// # Errors
    /// A task had ended on its own, or the drain took longer than `server.shutdown_timeout`.
    pub async fn stop(self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + self.shutdown_timeout;
        let left = || deadline.saturating_duration_since(tokio::time::Instant::now());
        self.front.stop().soft();
        if !self.front.drained(left()).await {
            self.front.stop().hard();
        }
        self.work.stop().soft();
        let drained = self.work.drained(left()).await;
        if !drained {
            self.work.stop().hard();
        }
        if let Some(history) = &self.history {
            history.finish(left().min(HISTORY_PATIENCE)).await;
        }
        self.pools.close(left()).await;
        let failure = self.work.failure().or_else(|| self.pools.tasks.failure());
        drop(self.data_dir);
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        anyhow::ensure!(
            drained,
            "the drain took longer than server.shutdown_timeout; what was in hand is read again at the next start"
        );
        Ok(())
    }
}

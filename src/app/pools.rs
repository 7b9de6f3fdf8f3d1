//! The one pool per backing system, opened once and shared by every role of the process.

use std::sync::Arc;
use std::time::Duration;

use actix_web::web;
use secrecy::SecretString;

use super::{Options, Role};
use crate::attribution::Attribution;
use crate::auth::{self, Keys};
use crate::config::{Config, EventLogKind};
use crate::consumer::dead_letter_bytes_max;
use crate::dlq::Dlq;
use crate::event::{Clock, IdSource};
use crate::eventlog::{EmbeddedLog, EmbeddedOptions, EventLog, KafkaLog, KafkaOptions};
use crate::job::Jobs;
use crate::lifecycle::{Health, Policy, Stop, Tasks};
use crate::meta::Meta;
use crate::notice::Notices;
use crate::person::People;
use crate::reprocess::{Parts, Reprocess};
use crate::rollup::Rollups;
use crate::schema::Registry;
use crate::store::Store;
use crate::transform::Transforms;
use crate::webhook::Webhook;

/// How often a component that nothing else uses is asked whether it answers.
const PROBE_EVERY: Duration = Duration::from_secs(15);
/// The same for one that did not: what heals should not wait to be noticed.
const PROBE_EVERY_DOWN: Duration = Duration::from_secs(1);

/// What the roles share. Cheap to clone.
#[derive(Clone)]
pub(super) struct Pools {
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
    pub health: Health,
    /// The pools' own tasks; they outlive those of the roles.
    pub tasks: Tasks,
    pub meta: Meta,
    pub keys: web::Data<Keys>,
    pub jobs: web::Data<Jobs>,
    pub transforms: web::Data<Transforms>,
    pub schemas: web::Data<Registry>,
    pub log: Arc<dyn EventLog>,
    /// What the product tells others of.
    pub told: Notices,
    pub webhook: web::Data<Webhook>,
    /// Only where a role needs it.
    pub store: Option<Store>,
    /// Where there is a store.
    pub people: Option<web::Data<People>>,
    /// Where there is a store.
    pub attribution: Option<web::Data<Attribution>>,
    /// Where there is a store.
    pub dlq: Option<web::Data<Dlq>>,
    /// Where there is a store.
    pub reprocess: Option<web::Data<Reprocess>>,
    pub rollups: Option<web::Data<Rollups>>,
}

impl Pools {
    /// Opens what these roles need. Waits for nothing that is down.
    ///
    /// # Errors
    /// A setting that cannot work, or a folder that cannot be written.
    pub(super) async fn open(config: &Config, roles: &[Role], options: &Options) -> anyhow::Result<Self> {
        let (clock, ids) = (options.clock.clone(), options.ids.clone());
        let health = Health::new(clock.clone());
        let tasks = Tasks::new(Stop::default());
        let meta = Meta::open(&config.meta, &config.data_dir, clock.clone(), ids.clone(), &health).await?;
        meta.configure(config.named_scopes());
        let keys = Keys::new(meta.clone(), &config.auth, clock.clone(), ids.clone(), &tasks)?;
        let schemas =
            web::Data::new(Registry::new(meta.clone(), config.schema.clone(), config.transform.work_max));
        let log = open_log(config, &health, &tasks, clock.clone(), ids.clone()).await?;
        let told = Notices::new(log.clone(), meta.clone(), config, clock.clone(), ids.clone());
        let jobs = Jobs::new(meta.clone(), config.jobs.clone(), clock.clone()).telling(told.clone());
        let webhook = Webhook::new(meta.clone(), config, clock.clone(), ids.clone());
        let needs_store = roles.is_empty() || roles.contains(&Role::Consumer) || roles.contains(&Role::Query);
        let store = if needs_store {
            Some(Store::open(&config.store, &config.data_dir, &tasks, &health, clock.clone(), ids.clone())?)
        } else {
            None
        };
        let dlq =
            store.clone().map(|store| web::Data::new(Dlq::new(log.clone(), store, config, clock.clone())));
        let attribution = store.clone().map(|store| {
            let (meta, log, told) = (meta.clone(), log.clone(), told.clone());
            Attribution::new(store, meta, log, told, config, clock.clone(), ids.clone())
        });
        let people = store.clone().map(|store| People::new(store, config, clock.clone(), ids.clone()));
        let transforms = Transforms::new(meta.clone(), &config.transform);
        let record_bytes_max =
            usize::try_from(config.eventlog.record_bytes_max.as_u64()).unwrap_or(usize::MAX);
        let reprocess = store.clone().map(|store| {
            let parts = Parts {
                store,
                log: log.clone(),
                meta: meta.clone(),
                jobs: jobs.clone(),
                transforms: transforms.clone(),
                clock: clock.clone(),
                dlq_record_bytes_max: dead_letter_bytes_max(record_bytes_max),
            };
            web::Data::new(Reprocess::new(parts, config))
        });
        let rollups = match &store {
            Some(store) => Some(Rollups::new(store.clone(), jobs.clone(), &config.rollup, clock.clone())?),
            None => None,
        };
        Ok(Self {
            clock,
            ids,
            health,
            tasks,
            meta,
            keys: web::Data::new(keys),
            jobs: web::Data::new(jobs),
            transforms: web::Data::new(transforms),
            schemas,
            log,
            told,
            webhook: web::Data::new(webhook),
            store,
            people: people.map(web::Data::new),
            attribution: attribution.map(web::Data::new),
            dlq,
            reprocess,
            rollups: rollups.map(web::Data::new),
        })
    }

    /// Asks what nothing else may be using. Not before this process has had its turn to make the tables.
    pub(super) fn watch(&self) {
        let pools = self.clone();
        self.tasks.spawn_until_stop("probe", Policy::Restart(Duration::from_secs(1)), move || {
            let pools = pools.clone();
            async move {
                let log = pools.health.component("eventlog");
                loop {
                    let logged = pools.log.probe().await;
                    match &logged {
                        Ok(()) => log.up(),
                        Err(error) => log.down(&error.to_string()),
                    }
                    let probed = pools.meta.probe().await;
                    if let Err(error) = &probed {
                        tracing::warn!(error = %error, "the metadata database does not answer");
                    }
                    let well = logged.is_ok() && probed.is_ok();
                    tokio::time::sleep(if well { PROBE_EVERY } else { PROBE_EVERY_DOWN }).await;
                }
            }
        });
    }

    /// Makes this process's operator token and lets it in.
    pub(super) fn new_operator_token(&self) -> SecretString {
        let token = auth::new_operator_token(&*self.ids);
        self.keys.set_operator_token(&token);
        token
    }

    /// Closes all of them, the log and the store last used first.
    pub(super) async fn close(&self, limit: Duration) {
        let deadline = tokio::time::Instant::now() + limit;
        let left =
            || deadline.saturating_duration_since(tokio::time::Instant::now()).max(Duration::from_secs(1));
        self.tasks.stop().soft();
        if !self.tasks.drained(left()).await {
            self.tasks.stop().hard();
        }
        self.log.close().await;
        if let Some(store) = &self.store {
            store.close(left()).await;
        }
        self.meta.close().await;
    }
}

/// The log that the configuration names.
///
/// # Errors
/// Its folder cannot be written, or what stands there cannot be read.
pub async fn open_log(
    config: &Config,
    health: &Health,
    tasks: &Tasks,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
) -> anyhow::Result<Arc<dyn EventLog>> {
    match config.eventlog.kind {
        EventLogKind::Embedded => {
            let options = EmbeddedOptions::from_config(&config.eventlog);
            let log =
                EmbeddedLog::open(&config.data_dir.join("eventlog"), options, clock, ids, health, tasks)
                    .await?;
            Ok(Arc::new(log))
        }
        EventLogKind::Kafka => {
            // Known from the start, so that `/ready` says so when no broker has answered yet.
            health.component("eventlog");
            Ok(Arc::new(KafkaLog::open(KafkaOptions::from_config(&config.eventlog), ids)?))
        }
    }
}

//! The event store: ClickHouse, as the embedded engine or a server. The only room that speaks to it.
//!
//! What it promises: a confirmed insert is durable; the same rows under the same token count once; no value enters a
//! statement but through [`Sql`]; every call has a deadline; a connection that failed is never used again.
//!
//! What it must not do: name another room's words. It stores rows and answers statements; what they mean is said by
//! `consumer`, `dlq` and `query`.

mod attributed;
mod block;
mod changes;
mod check;
mod cluster;
mod connection;
mod dead_letters;
pub mod engine;
mod error;
mod feature_usage;
mod groups;
mod hot;
mod ids;
mod insert;
mod metadata;
mod migrate;
mod offsets;
mod persons;
mod pool;
mod promoted;
mod property;
mod raw_events;
mod row;
mod scopes;
mod select;
mod settings;
mod settled;
mod settling;
mod sharded;
mod sql;
mod sweep;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::config;
use crate::event::{Clock, IdSource, Scope};
use crate::lifecycle::{Component, Health, Policy, Tasks};
use changes::Changes;
use engine::{Endpoint, EngineOptions, Login, Supervisor, Who};
use persons::Generations;
use pool::Pool;
use settled::Grounds;

pub use attributed::{AttributedRow, CreditedSource};
pub use block::{EventBlock, EventRow};
pub use check::HOSTS;
pub use dead_letters::{DeadLetterCount, DeadLetterFilter, DeadLetterOrigin, DeadLetterRow};
pub use error::{Finding, InsertError, StoreError};
pub use feature_usage::{AMENDED_VERSION, FeatureUsageRow, usage_version};
pub use groups::{GroupFact, GroupPropertyRow};
pub use ids::{RecentId, RecentIds};
pub use metadata::{BACKFILL, BareRow, MetadataCounts, OffsetSpan};
pub use offsets::{EventKey, StoredOffsets, StoredRange};
pub use persons::{CohortMemberRow, PersonEdge, PersonEdgeRow, PersonOverrideRow, PersonPropertyRow};
pub use promoted::{Filling, Promoted};
pub use property::Property;
pub use raw_events::{RawEventRow, RawKey, RawResultRow};
pub use row::{Blob, Cell, FromCell, Row, RowCells};
pub use select::{Limits, RowStream};
pub use settling::Settling;
pub use sql::{Arg, Sql};
pub use sweep::{Swept, Tombstone, VOID_VERSION};

/// How often a server (`store.url`) is asked whether it answers.
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// The native protocol's port when `store.url` names none.
const PORT: u16 = 9000;

/// The event store of this process: one pool of connections, and the engine where it is embedded. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    pool: Arc<Pool>,
    engine: Mutex<Option<Supervisor>>,
    database: String,
    cluster: Option<String>,
    request_timeout: Duration,
    clock: Arc<dyn Clock>,
    generations: Generations,
    property_generations: Generations,
    group_types: groups::Types,
    changes: Changes,
    grounds: Grounds,
}

impl Store {
    /// Opens the store and returns at once: the engine starts (and is supervised) in the background, component `store`
    /// tells how it is, [`Store::wait_ready`] waits. Must be called on the runtime that lives as long as the process.
    ///
    /// # Errors
    /// `store.url` cannot be read, or the engine's folder cannot be made.
    pub fn open(
        config: &config::Store,
        data_dir: &Path,
        tasks: &Tasks,
        health: &Health,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
    ) -> Result<Self, StoreError> {
        Self::open_with(config, data_dir, tasks, health, clock, ids, EngineOptions::default())
    }

    /// [`Store::open`] with a say in how the engine is run.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(
        config: &config::Store,
        data_dir: &Path,
        tasks: &Tasks,
        health: &Health,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        options: EngineOptions,
    ) -> Result<Self, StoreError> {
        let component = health.component("store");
        let (sender, endpoint) = watch::channel(None);
        let engine = match &config.url {
            Some(url) => {
                let login = |user: &str, password: &SecretString| Login {
                    user: user.to_owned(),
                    password: SecretString::from(password.expose_secret().to_owned()),
                };
                sender.send_replace(Some(Endpoint {
                    address: address_of(url)?,
                    owner: login(&config.user, &config.password),
                    reader: config.reader_user.as_ref().map(|user| login(user, &config.reader_password)),
                    generation: 0,
                }));
                None
            }
            None => Some(Supervisor::start(config, data_dir, options, component.clone(), ids, sender)?),
        };
        let server = engine.is_none();
        let pool = Pool::new(endpoint, config.database.clone(), config.connections_max, Handle::current());
        let store = Self {
            inner: Arc::new(Inner {
                pool: Arc::new(pool),
                engine: Mutex::new(engine),
                database: config.database.clone(),
                cluster: config.cluster.clone(),
                request_timeout: config.request_timeout,
                clock,
                generations: Generations::default(),
                property_generations: Generations::default(),
                group_types: groups::Types::default(),
                changes: Changes::default(),
                grounds: Grounds::default(),
            }),
        };
        if server {
            store.watch_server(tasks, component);
        }
        if !config.settle_interval.is_zero() {
            let (settling, interval) = (store.clone(), config.settle_interval);
            let restart = Policy::Restart(Duration::from_secs(1));
            tasks.spawn_until_stop("settling", restart, move || settling.clone().settle(interval));
        }
        Ok(store)
    }

    /// Asks a server now and then, since there is no child to watch.
    fn watch_server(&self, tasks: &Tasks, component: Component) {
        let (store, stop) = (self.clone(), tasks.stop().clone());
        tasks.spawn("store-probe", Policy::Restart(Duration::from_secs(1)), move || {
            let (store, component, stop) = (store.clone(), component.clone(), stop.clone());
            async move {
                loop {
                    match store.probe().await {
                        // Without its database it answers all the same; `migrate` makes it.
                        Ok(()) | Err(StoreError::Schema { .. }) => component.up(),
                        Err(error) => component.down(&error.to_string()),
                    }
                    tokio::select! {
                        () = tokio::time::sleep(PROBE_EVERY) => {}
                        () = stop.soft_token().cancelled() => return Ok(()),
                    }
                }
            }
        });
    }

    /// Waits until the store answers.
    ///
    /// # Errors
    /// It did not within `limit`; the last reason.
    pub async fn wait_ready(&self, limit: Duration) -> Result<(), StoreError> {
        let mut last = StoreError::Unavailable(format!("it did not answer within {limit:?}"));
        let answered = async {
            loop {
                self.pool().wait_endpoint().await?;
                match self.probe().await {
                    Ok(()) | Err(StoreError::Schema { .. }) => return Ok(()),
                    Err(error) => last = error,
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        match tokio::time::timeout(limit, answered).await {
            Ok(answered) => answered,
            Err(_) => Err(last),
        }
    }

    /// Does it answer, and of a cluster every shard? One tiny question.
    ///
    /// # Errors
    /// See [`StoreError`]; [`StoreError::Schema`] when it answers that the database is missing.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let limits = Limits { timeout: Duration::from_secs(5), ..self.limits() };
        let one: Vec<(u8,)> = self.select_within(Sql::new("SELECT 1 AS one"), limits).await?;
        if one != [(1,)] {
            return Err(StoreError::Unavailable("it answers nonsense".to_owned()));
        }
        match self.cluster() {
            None => Ok(()),
            Some(cluster) => self.probe_shards(cluster).await,
        }
    }

    /// A property as expressions over the table `events`.
    pub fn property(&self, key: &str) -> Property {
        Property::new(key)
    }

    /// Closes the pool and ends the embedded engine, waiting at most `limit` for that (it ends in any case). Call it
    /// last: after it every call is [`StoreError::Unavailable`]. Safe to call twice.
    pub async fn close(&self, limit: Duration) {
        self.inner.pool.close();
        let engine = self.inner.engine.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(engine) = engine {
            let stopping = tokio::task::spawn_blocking(move || engine.stop());
            if tokio::time::timeout(limit, stopping).await.is_err() {
                tracing::warn!(?limit, "the engine takes long to end: leaving it to the kernel");
            }
        }
    }

    /// User and password of the store as they are now; the embedded engine's change with every start. For tests and
    /// operators' tools that open connections of their own.
    ///
    /// # Errors
    /// The engine is not running.
    pub fn engine_login(&self) -> Result<(String, String), StoreError> {
        self.login(Who::Owner)
    }

    /// The same of the user that may only read what SQL of a caller's own is about; where there is none, of the owner.
    ///
    /// # Errors
    /// The engine is not running.
    pub fn reader_login(&self) -> Result<(String, String), StoreError> {
        self.login(Who::Reader)
    }

    fn login(&self, who: Who) -> Result<(String, String), StoreError> {
        let endpoint = self.pool().endpoint()?;
        let (_, login) = endpoint.login(who);
        Ok((login.user.clone(), login.password.expose_secret().to_owned()))
    }

    /// `host:port` of the store's native protocol as it is now.
    ///
    /// # Errors
    /// The engine is not running.
    pub fn address(&self) -> Result<String, StoreError> {
        Ok(self.pool().endpoint()?.address)
    }

    fn pool(&self) -> &Arc<Pool> {
        &self.inner.pool
    }

    fn database(&self) -> &str {
        &self.inner.database
    }

    /// `store.cluster`.
    fn cluster(&self) -> Option<&str> {
        self.inner.cluster.as_deref()
    }

    /// How often this process has stored events; see [`Store::events_changed`].
    pub fn changes(&self) -> u64 {
        self.inner.changes.count()
    }

    /// [`Store::changes`] as it was when this process last stored an event of this scope with a day (since 1970, UTC) up
    /// to `last_day`.
    pub fn events_changed(&self, scope: &Scope, last_day: i64) -> u64 {
        self.inner.changes.last(scope, last_day)
    }

    /// The same of the days from the one to the other.
    pub fn events_changed_within(&self, scope: &Scope, days: (i64, i64)) -> u64 {
        self.inner.changes.last_within(scope, days)
    }

    fn grounds(&self) -> &Grounds {
        &self.inner.grounds
    }

    fn property_generations(&self) -> &Generations {
        &self.inner.property_generations
    }

    fn group_types(&self) -> &groups::Types {
        &self.inner.group_types
    }

    fn generations(&self) -> &Generations {
        &self.inner.generations
    }

    fn request_timeout(&self) -> Duration {
        self.inner.request_timeout
    }
}

/// `clickhouse://host[:port]` as `host:port`.
fn address_of(url: &str) -> Result<String, StoreError> {
    let rest = url.strip_prefix("clickhouse://").or_else(|| url.strip_prefix("tcp://"));
    let host = rest
        .map(|rest| rest.trim_end_matches('/'))
        .filter(|host| !host.is_empty() && !host.contains(['/', '@', '?', ' ']));
    let Some(host) = host else {
        return Err(StoreError::Engine(format!(
            "store.url: given {url:?}, expected clickhouse://host:9000 (user and password have settings of their own)"
        )));
    };
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Ok(if has_port { host.to_owned() } else { format!("{host}:{PORT}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_host_and_port() {
        assert_eq!(address_of("clickhouse://db:9001").unwrap(), "db:9001");
        assert_eq!(address_of("clickhouse://db/").unwrap(), "db:9000");
        assert_eq!(address_of("clickhouse://[::1]:9000").unwrap(), "[::1]:9000");
        for bad in ["db:9000", "http://db:8123", "clickhouse://", "clickhouse://u:p@db:9000"] {
            assert!(address_of(bad).unwrap_err().to_string().contains("store.url"), "{bad}");
        }
    }
}

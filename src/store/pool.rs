//! The one pool of connections of this process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::Gauge;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::StoreError;
use super::connection::Connection;
use super::engine::{Endpoint, Who};
use crate::telemetry::names;

/// Idle connections are closed after this long; servers close them after an hour.
const IDLE_MAX: Duration = Duration::from_secs(300);

pub(super) struct Pool {
    idle: Mutex<Vec<(Instant, Connection)>>,
    /// As many as `store.connections_max`.
    permits: Arc<Semaphore>,
    endpoint: watch::Receiver<Option<Endpoint>>,
    database: String,
    /// Connections live on the runtime that opened the store, whichever thread of an HTTP server asks for one.
    runtime: Handle,
    idle_gauge: Gauge,
    used_gauge: Gauge,
}

impl Pool {
    pub(super) fn new(
        endpoint: watch::Receiver<Option<Endpoint>>,
        database: String,
        connections_max: usize,
        runtime: Handle,
    ) -> Self {
        Self {
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(connections_max.max(1))),
            endpoint,
            database,
            runtime,
            idle_gauge: names::STORE_CONNECTIONS.gauge(&[("state", "idle")]),
            used_gauge: names::STORE_CONNECTIONS.gauge(&[("state", "in_use")]),
        }
    }

    /// The address and log-in that connections are made with now.
    pub(super) fn endpoint(&self) -> Result<Endpoint, StoreError> {
        self.endpoint
            .borrow()
            .clone()
            .ok_or_else(|| StoreError::Unavailable("the embedded engine is not running yet".to_owned()))
    }

    /// Waits until there is something to connect to.
    pub(super) async fn wait_endpoint(&self) -> Result<(), StoreError> {
        let mut endpoint = self.endpoint.clone();
        endpoint
            .wait_for(Option::is_some)
            .await
            .map(|_| ())
            .map_err(|_| StoreError::Unavailable("the store is closed".to_owned()))
    }

    /// A connection of this user that nobody else uses, waiting for one at most `limit`; of the owner, where there is no
    /// reader.
    pub(super) async fn get(self: &Arc<Self>, limit: Duration, who: Who) -> Result<Pooled, StoreError> {
        let endpoint = self.endpoint()?;
        let permit = match tokio::time::timeout(limit, self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(StoreError::Unavailable("the store is closed".to_owned())),
            Err(_) => {
                return Err(StoreError::Unavailable(format!(
                    "all connections (store.connections_max) were busy for {limit:?}"
                )));
            }
        };
        self.used_gauge.increment(1.0);
        let mut pooled = Pooled { connection: None, pool: self.clone(), _permit: permit };
        let (who, _) = endpoint.login(who);
        pooled.connection = match self.take_idle(endpoint.generation, who) {
            Some(connection) => Some(connection),
            None => Some(self.connect(endpoint, who, self.database.clone()).await?),
        };
        Ok(pooled)
    }

    /// A connection outside of the pool, in no database: for the migration that makes it.
    pub(super) async fn outside(&self) -> Result<Connection, StoreError> {
        self.connect(self.endpoint()?, Who::Owner, String::new()).await
    }

    /// The same to another server, with the same log-in.
    pub(super) async fn at(&self, address: &str) -> Result<Connection, StoreError> {
        let endpoint = Endpoint { address: address.to_owned(), ..self.endpoint()? };
        self.connect(endpoint, Who::Owner, String::new()).await
    }

    async fn connect(
        &self,
        endpoint: Endpoint,
        who: Who,
        database: String,
    ) -> Result<Connection, StoreError> {
        self.runtime
            .spawn(async move { Connection::open(&endpoint, who, &database).await })
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("the process is stopping".to_owned())))
    }

    /// The one that was used last. Without any, others give way to the one that will be made: used and idle ones are
    /// together as many as there are permits.
    fn take_idle(&self, generation: u64, who: Who) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, connection)| {
            connection.generation == generation && connection.is_open() && since.elapsed() < IDLE_MAX
        });
        let place = idle.iter().rposition(|(_, connection)| connection.who == who);
        let taken = place.map(|place| idle.remove(place).1);
        if taken.is_none() {
            let too_many = idle.len().saturating_sub(self.permits.available_permits());
            idle.drain(..too_many);
        }
        self.count_idle(idle.len());
        taken
    }

    fn put_back(&self, connection: Connection) {
        if connection.is_open()
            && self.endpoint.borrow().as_ref().map(|at| at.generation) == Some(connection.generation)
        {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push((Instant::now(), connection));
            self.count_idle(idle.len());
        }
    }

    /// Closes every idle connection and gives out no more.
    pub(super) fn close(&self) {
        self.permits.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.count_idle(0);
    }

    fn count_idle(&self, count: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        self.idle_gauge.set(count as f64);
    }
}

/// A connection in use. Only [`Pooled::done`] puts it back; dropped before that (an error, a timeout, a cancelled
/// request) it is closed, because an answer may still be under way on it.
pub(super) struct Pooled {
    connection: Option<Connection>,
    pool: Arc<Pool>,
    _permit: OwnedSemaphorePermit,
}

impl Pooled {
    pub(super) fn connection(&self) -> Result<&Connection, StoreError> {
        self.connection.as_ref().ok_or_else(|| StoreError::Unavailable("not connected".to_owned()))
    }

    /// The answer came whole: the connection is as good as new.
    pub(super) fn done(mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.put_back(connection);
        }
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.pool.used_gauge.decrement(1.0);
    }
}

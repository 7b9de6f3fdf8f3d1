//! A store of its own for a test: a real engine on an empty folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flexflow::config;
use flexflow::event::{RandomIds, SystemClock, Timestamp};
use flexflow::lifecycle::{Health, Stop, Tasks};
use flexflow::store::engine::EngineOptions;
use flexflow::store::{EventRow, Store};
use uuid::Uuid;

use super::cluster::{self, Cluster};
use super::eventually;

/// The store with what keeps it alive.
pub(crate) struct TestStore {
    pub(crate) store: Store,
    pub(crate) health: Health,
    pub(crate) data_dir: tempfile::TempDir,
    _tasks: Tasks,
    cluster: Option<Arc<Cluster>>,
}

/// The store's section of the defaults.
pub(crate) fn config() -> config::Store {
    let reference: toml::Table = toml::from_str(config::REFERENCE).unwrap();
    reference["store"].clone().try_into().unwrap()
}

/// The store's section of an application on a cluster.
fn cluster_config(cluster: &Cluster, name: &str) -> config::Store {
    let mut reference: toml::Table = toml::from_str(config::REFERENCE).unwrap();
    let section = reference["store"].as_table_mut().unwrap();
    for (key, value) in cluster.settings() {
        section.insert(key.strip_prefix("store.").unwrap().to_owned(), toml::Value::String(value));
    }
    section.insert("cluster".to_owned(), toml::Value::String(name.to_owned()));
    reference["store"].clone().try_into().unwrap()
}

/// The built binary is the engine's child.
pub(crate) fn options() -> EngineOptions {
    EngineOptions { executable: PathBuf::from(env!("CARGO_BIN_EXE_flexflow")), install_missing: true }
}

impl TestStore {
    /// An engine that answers, with its tables.
    pub(crate) async fn start() -> Self {
        if cluster::wanted() {
            return Self::on_cluster(Arc::new(Cluster::start().await)).await;
        }
        Self::migrated(Self::open(&config(), tempfile::tempdir().unwrap())).await
    }

    /// One server, with its tables, under these settings.
    pub(crate) async fn start_with(config: &config::Store) -> Self {
        Self::migrated(Self::open(config, tempfile::tempdir().unwrap())).await
    }

    /// A cluster that answers, with its tables.
    pub(crate) async fn on_cluster(cluster: Arc<Cluster>) -> Self {
        Self::migrated(Self::empty_cluster(cluster)).await
    }

    /// A cluster without tables.
    pub(crate) fn empty_cluster(cluster: Arc<Cluster>) -> Self {
        let started = Self::open(&cluster_config(&cluster, cluster::NAME), tempfile::tempdir().unwrap());
        Self { cluster: Some(cluster), ..started }
    }

    /// A store that knows its cluster by another name.
    pub(crate) fn named(&self, name: &str) -> Self {
        Self::open(&cluster_config(self.cluster(), name), tempfile::tempdir().unwrap())
    }

    /// The cluster it is.
    pub(crate) fn cluster(&self) -> &Cluster {
        self.cluster.as_ref().unwrap()
    }

    async fn migrated(started: Self) -> Self {
        started.store.wait_ready(Duration::from_secs(300)).await.unwrap();
        // As the application does: an engine that dies while it starts is started again by its supervisor.
        eventually("the store is migrated", || async {
            started.store.migrate().await.map_err(|e| e.to_string())
        })
        .await;
        started
    }

    /// A store that may not answer yet.
    pub(crate) fn open(config: &config::Store, data_dir: tempfile::TempDir) -> Self {
        let tasks = Tasks::new(Stop::default());
        let clock = Arc::new(SystemClock);
        let health = Health::new(clock.clone());
        let store =
            Store::open_with(config, data_dir.path(), &tasks, &health, clock, Arc::new(RandomIds), options())
                .unwrap();
        Self { store, health, data_dir, _tasks: tasks, cluster: None }
    }

    /// An engine without tables, in this database.
    pub(crate) async fn empty(database: &str) -> Self {
        let config = config::Store { database: database.to_owned(), ..config() };
        let started = Self::open(&config, tempfile::tempdir().unwrap());
        started.store.wait_ready(Duration::from_secs(300)).await.unwrap();
        started
    }

    /// Settings of an application that has this engine as its server, with both users.
    pub(crate) fn as_server(&self) -> [(&'static str, String); 5] {
        let (user, password) = self.store.engine_login().unwrap();
        let (reader, reader_password) = self.store.reader_login().unwrap();
        [
            ("store.url", format!("clickhouse://{}", self.store.address().unwrap())),
            ("store.user", user),
            ("store.password", password),
            ("store.reader_user", reader),
            ("store.reader_password", reader_password),
        ]
    }

    /// A second store that talks to this one's engine through another address.
    pub(crate) fn through(&self, address: &str) -> Self {
        let (user, password) = self.store.engine_login().unwrap();
        let config = config::Store {
            url: Some(format!("clickhouse://{address}")),
            user,
            password: password.into(),
            ..config()
        };
        Self::open(&config, tempfile::tempdir().unwrap())
    }

    /// The engine's process.
    pub(crate) fn engine_pid(&self) -> u32 {
        self.try_engine_pid().unwrap()
    }

    /// The engine's process, if there is one.
    pub(crate) fn try_engine_pid(&self) -> Option<u32> {
        engine_on(self.data_dir.path())
    }
}

/// The process that was started on this folder.
fn engine_on(data_dir: &Path) -> Option<u32> {
    let wanted = data_dir.join("engine").join("config.xml");
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let found =
            command.split(|byte| *byte == 0).any(|word| word == wanted.as_os_str().as_encoded_bytes());
        found.then_some(pid)
    })
}

/// A row of event `id`.
pub(crate) fn row<'a>(id: &'a str, offset: i64, properties: &'a str) -> EventRow<'a> {
    EventRow {
        project_id: "proj",
        environment_id: "env",
        event_id: id,
        event_name: "click",
        distinct_id: "ann",
        customer_id: "",
        session_id: "",
        source: "",
        producer: "test",
        raw_event_id: "",
        timestamp: Timestamp::parse("2026-03-01T12:00:00Z").unwrap(),
        received_at: Timestamp::parse("2026-03-01T12:00:01Z").unwrap(),
        schema_version: 1,
        source_topic: "events",
        source_topic_id: Uuid::from_u128(1),
        source_partition: 0,
        source_offset: offset,
        properties,
        version: 0,
        is_deleted: false,
    }
}

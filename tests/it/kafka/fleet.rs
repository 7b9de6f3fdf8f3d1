//! Roles apart: one process that captures and answers, and any number of consumers, on one Kafka, one store and one
//! metadata database.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet};

use crate::crash::{Ledger, check, send_until};
use crate::support::Process;
use crate::support::kafka::Kafka;
use crate::support::log::LogSettings;
use crate::support::proxy::Proxy;
use crate::support::sandbox::Client;
use crate::support::store::TestStore;

/// The processes share everything but their folders.
pub(crate) struct Fleet {
    pub(crate) log: LogSettings,
    pub(crate) front: Process,
    settings: Vec<String>,
    engine: TestStore,
    /// Between the processes and the engine, which would not outlive the connections that a `kill -9` resets.
    _proxy: Proxy,
    dir: tempfile::TempDir,
}

impl Fleet {
    /// Captures and answers; nothing consumes yet. `store`: where the consumers find the engine, if not directly.
    pub(crate) async fn start(kafka: &Kafka, args: &[&str]) -> Self {
        let engine = TestStore::start().await;
        let proxy = Proxy::to(engine.store.address().unwrap().parse().unwrap()).await;
        let address = proxy.address;
        let (user, password) = engine.store.engine_login().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut settings = vec![
            format!("--set=meta.url=sqlite:{}", dir.path().join("meta.sqlite").display()),
            format!("--set=store.url=clickhouse://{address}"),
            format!("--set=store.user={user}"),
            format!("--set=store.password={password}"),
            "--set=consumer.batch_age_max=50ms".to_owned(),
        ];
        settings.extend(args.iter().map(|arg| (*arg).to_owned()));
        let log = LogSettings::on(kafka);
        let mut front: Vec<&str> = vec!["serve", "--role", "capture", "--role", "query", "--role", "auth"];
        front.extend(settings.iter().map(String::as_str));
        let front = Process::run(&dir.path().join("front"), &log, &front, None).await;
        front.client.wait_ready().await;
        Self { log, front, settings, engine, _proxy: proxy, dir }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.front.client
    }

    pub(crate) fn store(&self) -> &TestStore {
        &self.engine
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A consumer of this name, which listens.
    pub(crate) async fn consumer(&self, name: &str, args: &[&str]) -> Process {
        let mut all = vec!["consumer"];
        all.extend(self.settings.iter().map(String::as_str));
        all.extend_from_slice(args);
        Process::run(&self.folder(name), &self.log, &all, Some(&self.client().key)).await
    }

    /// Sends until told to stop.
    pub(crate) fn load(&self, senders: usize) -> Load {
        let (ledger, stop) = (Arc::new(Mutex::new(Ledger::default())), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        for sender in 0..senders {
            let (client, ledger, stop) = (self.client().clone(), ledger.clone(), stop.clone());
            tasks.spawn(send_until(client, ledger, stop, format!("s{sender}")));
        }
        Load { ledger, stop, tasks }
    }

    pub(crate) async fn end(self) {
        assert!(self.front.terminate().success());
        self.engine.store.close(Duration::from_secs(20)).await;
    }
}

/// Senders at work.
pub(crate) struct Load {
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Ends it: what was acknowledged is visible once, nothing else is, and every record is accounted for.
    pub(crate) async fn end(self, client: &Client) {
        self.stop.store(true, Ordering::SeqCst);
        self.tasks.join_all().await;
        check(client, &*self.ledger.lock().await).await;
    }
}

/// Watches the lag: how long, at most, a partition with work stood still.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    task: JoinHandle<BTreeMap<i64, Duration>>,
}

impl Watch {
    #[expect(clippy::disallowed_methods, reason = "a helper of tests, ended by its caller")]
    pub(crate) fn over(client: &Client) -> Self {
        let (client, stop) = (client.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut moved: BTreeMap<i64, (i64, Instant)> = BTreeMap::new();
            let mut longest: BTreeMap<i64, Duration> = BTreeMap::new();
            while !stopped.load(Ordering::SeqCst) {
                let (_, answer) = client.operator_get("/api/ops/lag").await;
                let rows = answer["groups"].as_array().cloned().unwrap_or_default();
                for row in rows
                    .iter()
                    .filter(|row| row["topic"] == client.events_topic && row["group"] == client.group_id)
                {
                    let partition = row["partition"].as_i64().unwrap();
                    let committed = row["committed"].as_i64().unwrap_or(-1);
                    let seen = moved.entry(partition).or_insert((committed, Instant::now()));
                    if seen.0 != committed || row["lag"] == 0 {
                        *seen = (committed, Instant::now());
                    }
                    let still = longest.entry(partition).or_default();
                    *still = (*still).max(seen.1.elapsed());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            longest
        });
        Self { stop, task }
    }

    pub(crate) async fn longest(self) -> Duration {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap().into_values().max().unwrap_or_default()
    }
}

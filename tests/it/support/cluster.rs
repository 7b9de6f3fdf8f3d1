//! A cluster of engines: each a process of its own with its own folder, named as the shards of one cluster to all. One that
//! ends is started again on its port and its data, as a server's own supervisor would.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::future::Future;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use flexflow::store::engine::{Located, locate};
use tokio::net::TcpStream;

use super::eventually;
use super::process::signal;
use super::store;

/// What the tests call it.
pub(crate) const NAME: &str = "two";
const SHARDS: usize = 2;
const PASSWORD: &str = "of the tests";
/// What the reader may read (RUNBOOK: "A user for SQL").
const READABLE: [&str; 5] =
    ["events", "person_overrides", "person_properties", "event_rollups", "event_quality"];
const LAST: &str = "SYSTEM START LISTEN TCP; SELECT sleepEachRow(1) FROM system.numbers FORMAT Null SETTINGS \
                    max_block_size=1, function_sleep_max_microseconds_per_block=0";

/// Two shards. Dropping it ends them.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    _dir: tempfile::TempDir,
}

struct Node {
    port: u16,
    state: Arc<State>,
    watch: Option<JoinHandle<()>>,
}

struct State {
    folder: PathBuf,
    child: Mutex<Option<Child>>,
    /// Should it run?
    wanted: AtomicBool,
    over: AtomicBool,
}

tokio::task_local! {
    static SCOPE: ();
}

/// Runs a test in which every application and store has a cluster of its own.
pub(crate) async fn scoped(test: impl Future<Output = ()>) {
    SCOPE.scope((), test).await;
}

/// Is this test run on a cluster, or the whole suite (`FLEXFLOW_TEST_STORE=cluster`)?
pub(crate) fn wanted() -> bool {
    let for_all = std::env::var("FLEXFLOW_TEST_STORE").is_ok_and(|store| store == "cluster");
    for_all || SCOPE.try_with(|()| ()).is_ok()
}

/// The cluster of the processes that run on this folder, where they are to have one.
pub(crate) async fn of_folder(data_dir: &Path) -> Option<Arc<Cluster>> {
    static ALL: tokio::sync::Mutex<BTreeMap<PathBuf, Arc<Cluster>>> =
        tokio::sync::Mutex::const_new(BTreeMap::new());
    if !wanted() {
        return None;
    }
    let mut all = ALL.lock().await;
    all.retain(|folder, _| folder.exists());
    if !all.contains_key(data_dir) {
        all.insert(data_dir.to_owned(), Arc::new(Cluster::start().await));
    }
    all.get(data_dir).cloned()
}

/// Runs tests that take a log on a cluster.
macro_rules! on_a_cluster {
    ($($($module:ident)::+ : $test:ident)+) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            let test = crate::$($module)::+::$test($crate::support::Log::Embedded);
            Box::pin($crate::support::cluster::scoped(test)).await;
        })+
    };
}
pub(crate) use on_a_cluster;

impl Cluster {
    /// Two engines that answer, without tables.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| String::new()).await
    }

    /// The same with more in the settings of each shard.
    pub(crate) async fn start_with(more: impl Fn(usize) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports: Vec<u16> = (0..SHARDS).map(|_| free_port()).collect();
        let start = |(shard, port): (usize, &u16)| Node::start(dir.path(), *port, &ports, &more(shard));
        let nodes = ports.iter().enumerate().map(start).collect();
        let cluster = Self { nodes, _dir: dir };
        for shard in 0..SHARDS {
            cluster.wait(shard).await;
        }
        cluster
    }

    /// Settings of an application that has it as its store.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("store.url", format!("clickhouse://{}", self.address(0))),
            ("store.cluster", NAME.to_owned()),
            ("store.user", "flexflow".to_owned()),
            ("store.password", PASSWORD.to_owned()),
            ("store.reader_user", "flexflow_reader".to_owned()),
            ("store.reader_password", PASSWORD.to_owned()),
        ]
    }

    pub(crate) fn address(&self, shard: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[shard].port)
    }

    /// `kill -9` of a shard; the next one comes by itself.
    pub(crate) fn crash(&self, shard: usize) {
        self.signal(shard, "KILL");
    }

    /// Names a host to every server that is not there, as the last shard's second.
    pub(crate) fn add_absent_host(&self) {
        let absent = "</replica><replica><host>127.0.0.1</host><port>1</port><user>flexflow</user><password>of the \
                      tests</password></replica></shard>";
        for shard in 0..SHARDS {
            let path = self.nodes[shard].state.folder.join("config.xml");
            let config = fs::read_to_string(&path).unwrap();
            let (before, after) = config.rsplit_once("</replica></shard>").unwrap();
            fs::write(&path, format!("{before}{absent}{after}")).unwrap();
            self.crash(shard);
        }
    }

    /// Sends a signal to a shard's process.
    pub(crate) fn signal(&self, shard: usize, name: &str) {
        if let Some(child) = self.nodes[shard].state.child.lock().unwrap().as_ref() {
            signal(child.id(), name);
        }
    }

    /// `kill -9` of a shard, which stays away.
    pub(crate) fn kill(&self, shard: usize) {
        self.nodes[shard].state.wanted.store(false, Ordering::SeqCst);
        if let Some(mut child) = self.nodes[shard].state.child.lock().unwrap().take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Starts one again that was killed.
    pub(crate) async fn revive(&self, shard: usize) {
        self.nodes[shard].state.wanted.store(true, Ordering::SeqCst);
        self.wait(shard).await;
    }

    async fn wait(&self, shard: usize) {
        eventually("a shard listens", || async {
            TcpStream::connect(self.address(shard)).await.map(|_| ()).map_err(|error| error.to_string())
        })
        .await;
    }
}

impl Node {
    fn start(dir: &Path, port: u16, ports: &[u16], more: &str) -> Self {
        let folder = dir.join(port.to_string());
        fs::create_dir_all(folder.join("data/tmp")).unwrap();
        fs::write(folder.join("users.xml"), users_xml()).unwrap();
        fs::write(folder.join("config.xml"), config_xml(&folder, port, ports, more)).unwrap();
        let state = State {
            folder,
            child: Mutex::default(),
            wanted: AtomicBool::new(true),
            over: AtomicBool::new(false),
        };
        let state = Arc::new(state);
        let watched = state.clone();
        let watch = std::thread::spawn(move || watched.watch());
        Self { port, state, watch: Some(watch) }
    }
}

impl State {
    fn watch(&self) {
        while !self.over.load(Ordering::SeqCst) {
            let mut child = self.child.lock().unwrap();
            let runs = child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
            if !runs && self.wanted.load(Ordering::SeqCst) {
                *child = Some(self.spawn());
            }
            drop(child);
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn spawn(&self) -> Child {
        let Ok(Some(located @ Located::Library(_))) = locate(&store::config().engine) else {
            panic!("the tests' own engine is the library");
        };
        let console = fs::File::create(self.folder.join("console.log")).unwrap();
        Command::new(env!("CARGO_BIN_EXE_flexflow"))
            .arg("engine-child")
            .arg(std::process::id().to_string())
            .arg(located.path())
            .arg("--path")
            .arg(self.folder.join("data"))
            .arg("--config-file")
            .arg(self.folder.join("config.xml"))
            .args(["--log-level", "warning", "--query", LAST])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .expect("the engine starts")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for shard in 0..self.nodes.len() {
            self.nodes[shard].state.over.store(true, Ordering::SeqCst);
            self.kill(shard);
        }
        for node in &mut self.nodes {
            if let Some(watch) = node.watch.take() {
                watch.join().ok();
            }
        }
    }
}

/// One that neither an outgoing connection nor a Kafka of the tests takes: a shard that is away must find it free when it comes back.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() % 800).unwrap() * 12;
    loop {
        let port = 10_000 + (own + NEXT.fetch_add(1, Ordering::SeqCst)) % 10_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

fn config_xml(folder: &Path, port: u16, ports: &[u16], more: &str) -> String {
    let mut shards = String::new();
    for port in ports {
        let _ = write!(
            shards,
            "<shard><internal_replication>true</internal_replication><replica><host>127.0.0.1</host><port>{port}</port>\
             <user>flexflow</user><password>{PASSWORD}</password></replica></shard>"
        );
    }
    format!(
        "<clickhouse><logger><level>warning</level><log>{folder}/engine.log</log><errorlog>{folder}/errors.log</errorlog>\
         </logger><listen_host>127.0.0.1</listen_host><tcp_port>{port}</tcp_port><path>{folder}/data/</path>\
         <tmp_path>{folder}/data/tmp/</tmp_path><users_config>{folder}/users.xml</users_config>\
         <default_profile>default</default_profile><max_server_memory_usage>2147483648</max_server_memory_usage>\
         <mark_cache_size>134217728</mark_cache_size><background_schedule_pool_size>16</background_schedule_pool_size>\
         <remote_servers><{NAME}>{shards}</{NAME}></remote_servers>{more}</clickhouse>",
        folder = folder.display(),
    )
}

fn users_xml() -> String {
    let grants: String = READABLE
        .iter()
        .flat_map(|table| [(*table).to_owned(), format!("{table}_local")])
        .map(|table| format!("<query>GRANT SELECT ON flexflow.{table}</query>"))
        .collect();
    let user = |name: &str, password: &str, profile: &str, grants: &str| {
        format!(
            "<{name}><password>{password}</password><networks><ip>127.0.0.1</ip></networks><profile>{profile}</profile>\
             <quota>default</quota>{grants}</{name}>"
        )
    };
    let session = "<grants><query>GRANT SYSTEM LISTEN ON *.*</query><query>GRANT SELECT ON system.numbers</query></grants>";
    format!(
        "<clickhouse><profiles><default></default><reader><readonly>2</readonly></reader></profiles><quotas><default>\
         </default></quotas><users>{}{}{}</users></clickhouse>",
        user("default", "", "default", session),
        user("flexflow", PASSWORD, "default", ""),
        user("flexflow_reader", PASSWORD, "reader", &format!("<grants>{grants}</grants>")),
    )
}

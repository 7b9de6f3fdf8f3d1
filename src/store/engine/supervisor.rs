//! Starts the engine, watches it, and starts it again when it is lost.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;

use super::files::{Folder, READER, Start, USER};
use super::probe::{Greeting, greet};
use super::{Endpoint, EngineOptions, InstallStep, Located, Login, VERSION, install, locate};
use crate::config;
use crate::event::IdSource;
use crate::lifecycle::Component;
use crate::store::StoreError;
use crate::telemetry::names;

/// How often the child and its port are looked at.
const WATCH: Duration = Duration::from_secs(1);
/// The same while it is starting.
const STARTING: Duration = Duration::from_millis(25);
/// How long a start may take: a large data folder is loaded before the port opens.
const START_MAX: Duration = Duration::from_secs(120);
/// How long the engine may listen without answering a greeting before it counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long a clean end may take before it is forced. Confirmed inserts are on the disk either way.
const END_MAX: Duration = Duration::from_secs(10);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// After this long without a loss the next one starts from the shortest wait again.
const STEADY: Duration = Duration::from_secs(60);

/// The query that keeps the local session, and with it the engine, alive.
const LAST: &str = "SYSTEM START LISTEN TCP; SELECT sleepEachRow(1) FROM system.numbers FORMAT Null \
                    SETTINGS max_block_size=1, function_sleep_max_microseconds_per_block=0";

/// The running supervision. Dropping it ends the engine, too, but does not wait for that.
pub(in crate::store) struct Supervisor {
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Begins; the engine's address appears in `endpoint` once it answers, and goes while it does not.
    ///
    /// # Errors
    /// The thread cannot be made, or the engine's folder cannot.
    pub(in crate::store) fn start(
        config: &config::Store,
        data_dir: &Path,
        options: EngineOptions,
        component: Component,
        ids: Arc<dyn IdSource>,
        endpoint: watch::Sender<Option<Endpoint>>,
    ) -> Result<Self, StoreError> {
        let folder = Folder::open(data_dir)
            .map_err(|error| StoreError::Engine(format!("{}: {error}", data_dir.display())))?;
        let (end, ended) = mpsc::channel();
        let (config, database) = (config.engine.clone(), config.database.clone());
        let work = Work { config, database, folder, options, component, ids, endpoint, ended, generation: 0 };
        let thread = std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || work.run())
            .map_err(|error| StoreError::Engine(format!("no thread for it: {error}")))?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }

    /// Ends the engine cleanly and waits for it. Blocks for up to some seconds.
    pub(in crate::store) fn stop(mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    config: config::Engine,
    database: String,
    folder: Folder,
    options: EngineOptions,
    component: Component,
    ids: Arc<dyn IdSource>,
    endpoint: watch::Sender<Option<Endpoint>>,
    ended: mpsc::Receiver<()>,
    generation: u64,
}

/// Why watching ended.
enum Lost {
    /// The owner wants it to end.
    Asked,
    Reason(String),
}

impl Work {
    fn run(mut self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let begun = Instant::now();
            match self.run_once() {
                Lost::Asked => return,
                Lost::Reason(reason) => {
                    self.endpoint.send_replace(None);
                    names::STORE_ENGINE_MEMORY.gauge(&[]).set(0.0);
                    if begun.elapsed() > STEADY {
                        backoff = BACKOFF_MIN;
                    }
                    tracing::warn!(
                        error = reason,
                        wait_ms = u64::try_from(backoff.as_millis()).unwrap_or(u64::MAX),
                        "the engine is not there: starting it again"
                    );
                    self.component.down(&reason);
                    if self.wait(backoff) {
                        return;
                    }
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    names::STORE_ENGINE_RESTARTS.counter(&[]).increment(1);
                }
            }
        }
    }

    /// True: the owner wants it to end.
    fn wait(&self, time: Duration) -> bool {
        !matches!(self.ended.recv_timeout(time), Err(RecvTimeoutError::Timeout))
    }

    fn run_once(&mut self) -> Lost {
        let engine = match self.find() {
            Ok(engine) => engine,
            Err(error) => return Lost::Reason(error.to_string()),
        };
        let begun = Instant::now();
        let (mut running, endpoint) = match self.spawn(&engine) {
            Ok(started) => started,
            Err(error) => return Lost::Reason(format!("cannot start {}: {error}", engine.path().display())),
        };
        let lost = match self.await_greeting(&mut running) {
            Some(lost) => lost,
            None => {
                tracing::info!(
                    engine = %engine.path().display(),
                    address = endpoint.address,
                    pid = running.child.id(),
                    elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                    "the engine answers"
                );
                self.endpoint.send_replace(Some(endpoint));
                self.component.up();
                self.watch(&mut running)
            }
        };
        if matches!(lost, Lost::Asked) {
            self.endpoint.send_replace(None);
        }
        running.end();
        lost
    }

    fn find(&self) -> Result<Located, StoreError> {
        if let Some(engine) = locate(&self.config)? {
            return Ok(engine);
        }
        if !self.options.install_missing {
            return Err(StoreError::Engine("it is not installed: run `flexflow engine install`".to_owned()));
        }
        tracing::info!(version = VERSION, "getting the engine (about 178 MB), once for this user");
        let mut told = None;
        let library = install(|step| {
            let kind = std::mem::discriminant(&step);
            if told.replace(kind) != Some(kind) && step != InstallStep::Done {
                tracing::info!(?step, "getting the engine");
            }
        })?;
        Ok(Located::Library(library))
    }

    fn spawn(&mut self, engine: &Located) -> io::Result<(Running, Endpoint)> {
        let port = free_port()?;
        let (password, reader_password) = (self.password(), self.password());
        self.folder.write(&Start {
            port,
            password: &password,
            reader_password: &reader_password,
            database: &self.database,
            memory_bytes_max: self.config.memory_max.as_u64(),
        })?;
        let (console, console_path) = self.folder.console()?;
        let child = child_command(&self.options.executable, engine, &self.folder)
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .spawn()?;
        self.generation += 1;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let login = |user: &str, password: String| Login { user: user.to_owned(), password: password.into() };
        let endpoint = Endpoint {
            address: address.to_string(),
            owner: login(USER, password.clone()),
            reader: Some(login(READER, reader_password)),
            generation: self.generation,
        };
        Ok((
            Running { child, address, password: SecretString::from(password), console: console_path },
            endpoint,
        ))
    }

    /// A password for one start.
    fn password(&self) -> String {
        let mut random = [0u8; 24];
        self.ids.fill(&mut random);
        random.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn await_greeting(&self, running: &mut Running) -> Option<Lost> {
        let begun = Instant::now();
        loop {
            if let Some(lost) = running.exited() {
                return Some(lost);
            }
            match running.greet(Duration::from_secs(5)) {
                Greeting::Welcome => return None,
                Greeting::Refused => {
                    return Some(Lost::Reason("another program answers on the engine's port".to_owned()));
                }
                Greeting::Closed | Greeting::Silent if begun.elapsed() > START_MAX => {
                    return Some(Lost::Reason(format!(
                        "it did not answer within {START_MAX:?} of its start"
                    )));
                }
                Greeting::Closed | Greeting::Silent => {}
            }
            if self.wait(STARTING) {
                return Some(Lost::Asked);
            }
        }
    }

    fn watch(&self, running: &mut Running) -> Lost {
        let memory = names::STORE_ENGINE_MEMORY.gauge(&[]);
        let mut answered = Instant::now();
        loop {
            if self.wait(WATCH) {
                return Lost::Asked;
            }
            if let Some(lost) = running.exited() {
                return lost;
            }
            match running.greet(WATCH * 2) {
                Greeting::Welcome => answered = Instant::now(),
                Greeting::Silent if answered.elapsed() < SILENCE_MAX => {}
                Greeting::Silent => {
                    return Lost::Reason(format!("it listens but has not answered for {SILENCE_MAX:?}"));
                }
                Greeting::Closed | Greeting::Refused => {
                    return Lost::Reason("it runs but no longer listens".to_owned());
                }
            }
            if let Some(bytes) = resident_bytes(running.child.id()) {
                #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
                memory.set(bytes as f64);
            }
        }
    }
}

/// The child, and how to reach it.
struct Running {
    child: Child,
    address: SocketAddr,
    password: SecretString,
    console: PathBuf,
}

impl Running {
    fn greet(&self, limit: Duration) -> Greeting {
        greet(self.address, USER, self.password.expose_secret(), limit)
    }

    fn exited(&mut self) -> Option<Lost> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => {
                let said = std::fs::read(&self.console).unwrap_or_default();
                let said = String::from_utf8_lossy(&said);
                let last = said.lines().rev().find(|line| !line.is_empty() && !line.starts_with("Logging "));
                Some(Lost::Reason(match last {
                    Some(last) => {
                        format!("it ended ({status}): {}", last.chars().take(400).collect::<String>())
                    }
                    None => format!("it ended ({status})"),
                }))
            }
            Err(error) => Some(Lost::Reason(format!("its state cannot be read: {error}"))),
        }
    }

    /// SIGTERM, then SIGKILL for one that does not mind it.
    fn end(&mut self) {
        super::child::terminate(self.child.id());
        let begun = Instant::now();
        while begun.elapsed() < END_MAX {
            match self.child.try_wait() {
                Ok(None) => std::thread::park_timeout(Duration::from_millis(10)),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child's command line: always through our own binary, which ties its life to ours.
fn child_command(program: &Path, engine: &Located, folder: &Folder) -> Command {
    let mut command = Command::new(program);
    command.arg("engine-child").arg(std::process::id().to_string()).arg(engine.path());
    match engine {
        Located::Library(_) => {
            command.arg("--path").arg(folder.data());
            command.arg("--config-file").arg(folder.config());
            // `clickhouse local` takes the level from here only.
            command.args(["--log-level", "warning", "--query", LAST]);
        }
        Located::Server(_) => {
            let mut config = OsString::from("--config-file=");
            config.push(folder.config());
            command.arg("server").arg(config);
        }
    }
    command.current_dir(&folder.root);
    command
}

/// A port that is free now. Whoever takes it before the engine does costs one more start.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Resident memory of a process, where `/proc` tells.
fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

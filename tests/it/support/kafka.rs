//! A real Kafka for tests, started by `scripts/kafka`: one broker that the whole run shares, or a cluster of a test's
//! own. One that cannot start fails the test with the reason; it is never skipped. It ends with this process, even if
//! that is killed.
//!
//! Tests share the broker in parallel: each takes names of its own from [`Names`].

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

/// The version that the suite runs on unless a test names another.
pub(crate) const VERSION: &str = "4.1.1";
/// Below the range that the kernel gives to connections going out, so that none of them takes a broker's port.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A running cluster. Dropping it ends it and removes its folder.
pub(crate) struct Kafka {
    bootstrap: String,
    version: String,
    dir: PathBuf,
    control: Mutex<Control>,
}

/// The way to the script that holds the brokers.
struct Control {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Kafka {
    /// The one broker of this test run.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        let start = || SHARED.get_or_init(|| Self::start_blocking(1, VERSION, ""));
        tokio::task::spawn_blocking(start).await.expect("the shared Kafka")
    }

    /// A cluster of the test's own: 1 or 3 brokers of a version, with lines added to `server.properties`.
    pub(crate) async fn start(brokers: u16, version: &str, properties: &str) -> Self {
        let (version, properties) = (version.to_owned(), properties.to_owned());
        let start = move || Self::start_blocking(brokers, &version, &properties);
        tokio::task::spawn_blocking(start).await.expect("a Kafka of its own")
    }

    fn start_blocking(brokers: u16, version: &str, properties: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("flexflow-kafka-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::remove_dir_all(&dir).ok();
        std::fs::create_dir_all(&dir).expect("a folder for Kafka");
        let more = dir.join("more.properties");
        std::fs::write(&more, properties).expect("Kafka's settings");
        let mut child = Command::new(script())
            .args(["run", "--version", version])
            .arg(&dir)
            .args(["--brokers", &brokers.to_string(), "--port", &free_ports(brokers).to_string()])
            .arg("--properties")
            .arg(&more)
            // Short lives on shared cores: the cheap compiler is the faster one.
            .env("JAVA_OPTS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("scripts/kafka runs");
        let commands = child.stdin.take().expect("stdin");
        let mut answers = BufReader::new(child.stdout.take().expect("stdout"));
        let mut bootstrap = String::new();
        answers.read_line(&mut bootstrap).expect("stdout of scripts/kafka");
        if bootstrap.trim().is_empty() {
            drop(commands);
            let output = child.wait_with_output().expect("the end of scripts/kafka");
            panic!("Kafka {version} does not start:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        let control = Mutex::new(Control { child, commands, answers });
        Self { bootstrap: bootstrap.trim().to_owned(), version: version.to_owned(), dir, control }
    }

    /// `host:port` of every broker, with commas.
    pub(crate) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// `kill -9` of a node (from 1), and waits for its end.
    pub(crate) async fn kill(&self, node: u16) {
        self.command(&format!("kill {node}"));
    }

    /// SIGTERM to a node, and waits for its end.
    pub(crate) async fn stop(&self, node: u16) {
        self.command(&format!("stop {node}"));
    }

    /// Starts a node that was killed or stopped, on its old data, and waits until it answers.
    pub(crate) async fn restart(&self, node: u16) {
        self.command(&format!("start {node}"));
    }

    /// Sends a signal (`STOP`, `CONT`) to a node.
    pub(crate) fn signal(&self, node: u16, name: &str) {
        let pid = std::fs::read_to_string(self.dir.join(format!("n{node}/pid"))).expect("the node's pid");
        let status = Command::new("kill").args([&format!("-{name}"), pid.trim()]).status().expect("kill");
        assert!(status.success(), "kill -{name} {pid}");
    }

    fn command(&self, line: &str) {
        let run = || {
            let mut control = self.control.lock().expect("Kafka's control");
            writeln!(control.commands, "{line}").expect("scripts/kafka listens");
            let mut answer = String::new();
            control.answers.read_line(&mut answer).expect("an answer of scripts/kafka");
            assert_eq!(answer, "done\n", "scripts/kafka does not do: {line}");
        };
        tokio::task::block_in_place(run);
    }

    /// Runs one of Kafka's own tools, such as `consumer-groups`, against this cluster; answers its stdout.
    pub(crate) async fn tool(&self, name: &str, args: &[&str]) -> String {
        let output = tokio::process::Command::new(script())
            .args(["tool", "--version", &self.version, name, "--bootstrap-server", &self.bootstrap])
            .args(args)
            // Java reads its arguments by it.
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .output()
            .await
            .expect("scripts/kafka runs");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name} {args:?}: {stdout}{stderr}");
        stdout
    }
}

impl Kafka {
    /// Runs one of Kafka's own tools with a file as its input.
    pub(crate) async fn feed(&self, name: &str, args: &[&str], input: &Path) {
        let input = std::fs::File::open(input).expect("the input");
        let output = tokio::process::Command::new(script())
            .args(["tool", "--version", &self.version, name, "--bootstrap-server", &self.bootstrap])
            .args(args)
            .stdin(Stdio::from(input))
            .output()
            .await
            .expect("scripts/kafka runs");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs one of Kafka's performance tools, which take the brokers as a producer's property.
    pub(crate) async fn perf(&self, name: &str, args: &[&str]) -> String {
        let servers = format!("bootstrap.servers={}", self.bootstrap);
        let output = tokio::process::Command::new(script())
            .args(["tool", "--version", &self.version, name])
            .args(args)
            .args(["--producer-props", &servers])
            .stdin(Stdio::null())
            .output()
            .await
            .expect("scripts/kafka runs");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{name}: {stdout}{}", String::from_utf8_lossy(&output.stderr));
        stdout
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let Ok(control) = self.control.get_mut() else { return };
        let pid = control.child.id().to_string();
        // TERM runs the script's own clean-up.
        Command::new("kill").args(["-TERM", &pid]).status().ok();
        control.child.wait().ok();
    }
}

/// Names of a test's own, so that tests share one broker.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    prefix: String,
}

impl Names {
    /// Names that begin with the test's name and no other test has.
    pub(crate) fn of(test: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self { prefix: format!("{test}-{}", COUNT.fetch_add(1, Ordering::Relaxed)) }
    }

    /// A topic's or group's name.
    pub(crate) fn name(&self, what: &str) -> String {
        format!("{}.{what}", self.prefix)
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka")
}

/// A port from which on all that the brokers take are free, and given to no other caller.
fn free_ports(brokers: u16) -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let places = u32::from((PORTS.end - PORTS.start) / 30);
    for _ in 0..places {
        // Another process that starts its count elsewhere: parallel runs on one machine.
        let place = (std::process::id() + NEXT.fetch_add(1, Ordering::Relaxed)) % places;
        let base = PORTS.start + u16::try_from(place * 30).expect("a port");
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (0..brokers * 10).all(|i| free(base + i)) {
            return base;
        }
    }
    panic!("no free ports for Kafka from {} to {}", PORTS.start, PORTS.end);
}

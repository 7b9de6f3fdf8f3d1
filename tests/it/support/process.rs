//! The built binary as a child process: for what only a process can suffer, `kill -9` first of all.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;

use super::cluster;
use super::eventually;
use super::log::{Log, LogSettings};
use super::sandbox::Client;

/// `flexflow serve` on a folder. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    data_dir: PathBuf,
    pub(crate) client: Client,
}

impl Process {
    /// Starts it and waits until it says it is ready.
    pub(crate) async fn serve(data_dir: &Path, args: &[&str]) -> Self {
        Self::serve_on(data_dir, &LogSettings::of(Log::Embedded).await, args).await
    }

    /// The same on this log.
    pub(crate) async fn serve_on(data_dir: &Path, log: &LogSettings, args: &[&str]) -> Self {
        let process = Self::spawn_on(data_dir, log, args).await;
        process.client.wait_ready().await;
        process
    }

    /// Starts it and waits until it listens.
    pub(crate) async fn spawn_on(data_dir: &Path, log: &LogSettings, args: &[&str]) -> Self {
        Self::run(data_dir, log, &[&["serve"], args].concat(), None).await
    }

    /// Starts any serving command, writing into `stdout` and `stderr` of its folder, and waits until it listens. The key is the first
    /// start's, unless it is given.
    pub(crate) async fn run(data_dir: &Path, log: &LogSettings, command: &[&str], key: Option<&str>) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        // A killed process leaves its file behind.
        std::fs::remove_file(data_dir.join("server.json")).ok();
        std::fs::create_dir_all(data_dir).unwrap();
        let level: &[&str] = if command.contains(&"--log-level") { &[] } else { &["--log-level", "warn"] };
        let has_port = command.iter().any(|arg| arg.starts_with("--set=consumer.metrics_port="));
        let listen: &[&str] = if has_port { &[] } else { &["--listen", "127.0.0.1:0"] };
        let own = command.iter().any(|arg| arg.starts_with("--set=store."));
        let cluster = if own { None } else { cluster::of_folder(data_dir).await };
        let store = cluster.map(|cluster| cluster.settings()).unwrap_or_default();
        let child = Command::new(env!("CARGO_BIN_EXE_flexflow"))
            .args(command)
            .args(store.iter().map(|(key, value)| format!("--set={key}={value}")))
            .args(listen)
            .args(level)
            .arg("--data-dir")
            .arg(data_dir)
            .args(log.settings().map(|(key, value)| format!("--set={key}={value}")))
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(data_dir.join("stdout")).unwrap())
            .stderr(std::fs::File::create(data_dir.join("stderr")).unwrap())
            .spawn()
            .expect("the binary starts");
        let pid = child.id();
        let (url, token) = eventually("server.json is written", || async {
            let text = std::fs::read(data_dir.join("server.json")).map_err(|e| e.to_string())?;
            let server: Value = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
            if server["pid"] != pid {
                return Err(format!("pid {} instead of {pid}", server["pid"]));
            }
            Ok((
                server["url"].as_str().unwrap().to_owned(),
                server["operator_token"].as_str().unwrap().to_owned(),
            ))
        })
        .await;
        let key = key.map(str::to_owned).unwrap_or_else(|| {
            let text = std::fs::read(data_dir.join("first-run.json")).unwrap();
            let first: Value = serde_json::from_slice(&text).unwrap();
            first["api_key"].as_str().unwrap().to_owned()
        });
        let client = Client {
            http: reqwest::Client::new(),
            url,
            key,
            operator_token: token,
            events_topic: log.events_topic().to_owned(),
            group_id: log.group_id().to_owned(),
        };
        Self { child, data_dir: data_dir.to_owned(), client }
    }

    /// The folder it runs on.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and waits until the kernel has let go of it.
    pub(crate) fn kill(mut self) -> PathBuf {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.data_dir.clone()
    }

    /// SIGTERM, and waits for the exit; prints what it said last if that was no clean one.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let status = self.child.wait().unwrap();
        if !status.success() {
            for name in ["stdout", "stderr"] {
                let said = std::fs::read_to_string(self.data_dir.join(name)).unwrap_or_default();
                let last: Vec<&str> = said.lines().rev().take(20).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                eprintln!("{status}; the last of {name}:\n{}", last.join("\n"));
            }
        }
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Process {
    /// Process ids of its children: the embedded engine.
    pub(crate) fn children(&self) -> Vec<u32> {
        let mut children = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            // "pid (name) state ppid …"; the name may hold anything but ends at the last ')'.
            let parent =
                stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
            if parent == Some(self.pid()) {
                children.push(pid);
            }
        }
        children
    }
}

/// Sends a signal by name (`KILL`, `STOP`, `CONT`) to a process this test started.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(status.success(), "kill -{name} {pid}");
}

//! RUNBOOK's table of commands, run as it stands: each row against a real server, until it shows what it should.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::kafka::Kafka;
use crate::support::log::{Log, LogSettings};
use crate::support::{Process, eventually};

const HEADING: &str = "## What the documents did, what you run now";

/// One row: the command, and what its output has to hold.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    command: String,
    shows: String,
}

fn rows() -> Vec<Row> {
    let text = std::fs::read_to_string(root().join("RUNBOOK.md")).unwrap();
    let section = text.split_once(HEADING).expect("the section").1;
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| 0"));
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [_, _, command, shows] = cells.as_slice() else { panic!("four cells: {line}") };
        let bare = |cell: &str| {
            let bare = cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`'));
            bare.unwrap_or_else(|| panic!("in backquotes: {cell}")).to_owned()
        };
        Row { command: bare(command).replace("\\|", "|"), shows: bare(shows) }
    })
    .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where rows are run: a server, and what the table says its words stand for.
struct Shell {
    variables: Vec<(String, String)>,
}

impl Shell {
    fn new(process: &Process, folder: &Path, log: &LogSettings) -> Self {
        let data_dir = process.data_dir();
        let text = std::fs::read(data_dir.join("first-run.json")).unwrap();
        let first: Value = serde_json::from_slice(&text).unwrap();
        let of = |name: &str| first[name].as_str().unwrap().to_owned();
        let bin = folder.join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_flexflow"), bin.join("flexflow")).ok();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let mut variables = vec![
            ("PATH".to_owned(), path),
            ("URL".to_owned(), process.client.url.clone()),
            ("KEY".to_owned(), of("api_key")),
            ("PROJECT".to_owned(), of("project_id")),
            ("ENVIRONMENT".to_owned(), of("environment_id")),
            ("FLEXFLOW_DATA_DIR".to_owned(), data_dir.display().to_string()),
            ("MORE".to_owned(), folder.join("more").display().to_string()),
            ("LOG".to_owned(), data_dir.join("stdout").display().to_string()),
            ("TOPIC".to_owned(), log.events_topic().to_owned()),
            ("GROUP".to_owned(), log.group_id().to_owned()),
            // The stress tests for a moment, on a machine that other tests keep busy.
            ("STRESS".to_owned(), "short".to_owned()),
            ("STRESS_SLACK".to_owned(), "20".to_owned()),
        ];
        for (key, value) in log.settings() {
            if key == "eventlog.kafka.bootstrap_servers" {
                variables.push(("BROKERS".to_owned(), value.to_owned()));
            }
            let variable = format!("FLEXFLOW_{}", key.replace('.', "__").to_uppercase());
            variables.push((variable, value.to_owned()));
        }
        Self { variables }
    }

    fn bash(&self, command: &str) -> tokio::process::Command {
        let mut bash = tokio::process::Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", command]).current_dir(root()).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FLEXFLOW_")) {
            bash.env_remove(name);
        }
        bash.envs(self.variables.iter().map(|(name, value)| (name, value))).kill_on_drop(true);
        bash
    }

    /// Runs a row until it shows what it should: what was sent may not be visible yet.
    async fn run(&self, row: &Row) {
        eventually(&row.command, || async {
            let output = self.bash(&row.command).output().await.unwrap();
            let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {}: {said}", row.command, output.status);
            if said.contains(&row.shows) { Ok(()) } else { Err(said.into_owned()) }
        })
        .await;
    }

    /// Runs a command that serves until it is ready, and ends it.
    async fn serve(&self, row: &Row) {
        use tokio::io::{AsyncBufReadExt as _, BufReader};
        let command = format!("exec {}", row.command);
        let mut child = self.bash(&command).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        loop {
            let line = lines.next_line().await.unwrap();
            let line = line.unwrap_or_else(|| panic!("{} ended", row.command));
            if line.contains(&row.shows) {
                break;
            }
        }
        let pid = child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        // Not read, a full pipe would keep it from ending.
        while lines.next_line().await.unwrap().is_some() {}
        assert!(child.wait().await.unwrap().success(), "{}", row.command);
    }
}

/// Rows that need Kafka's own tools, or a second process beside the first.
fn is_about_kafka(row: &Row) -> bool {
    row.command.contains("$BROKERS") || row.command.starts_with("flexflow consumer ")
}

#[test]
fn the_table_names_every_document_and_is_read_whole() {
    let text = std::fs::read_to_string(root().join("RUNBOOK.md")).unwrap();
    for document in ["000", "001", "002", "003", "004"] {
        assert!(text.lines().any(|line| line.starts_with('|') && line.contains(document)), "{document}");
    }
    let rows = rows();
    assert!(rows.len() > 40, "{} rows", rows.len());
    assert!(rows.iter().any(|row| row.command.contains("reset-offsets")));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_documents_has_a_counterpart_that_works() {
    let folder = tempfile::tempdir().unwrap();
    let log = LogSettings::of(Log::Embedded).await;
    // The lines that the documents grep for are of level INFO.
    let process = Process::serve(&folder.path().join("data"), &["--log-level", "info"]).await;
    let shell = Shell::new(&process, folder.path(), &log);
    for row in rows().iter().filter(|row| !is_about_kafka(row)) {
        // The first row is what this test did.
        if row.command == "flexflow serve" {
            continue;
        }
        shell.run(row).await;
    }
    assert!(process.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_about_kafka_work_on_a_real_one() {
    let folder = tempfile::tempdir().unwrap();
    let log = LogSettings::on(Kafka::shared().await);
    let data_dir: PathBuf = folder.path().join("data");
    let mut process = Process::serve_on(&data_dir, &log, &[]).await;
    let shell = Shell::new(&process, folder.path(), &log);
    // Of many people, so that every partition has records: setting them back by five reads twenty again.
    let event =
        |n: usize| json!({"event": "seen", "distinct_id": format!("p{}", n % 80), "event_id": n.to_string()});
    let events: Vec<Value> = (0..400).map(event).collect();
    process.client.accept(&json!(events)).await;
    process.client.settled(400).await;
    for row in rows().iter().filter(|row| is_about_kafka(row)) {
        if row.command.contains("--reset-offsets") {
            // Kafka moves the offsets of a group that nobody is in.
            assert!(process.terminate().success());
            shell.run(row).await;
            process = Process::serve_on(&data_dir, &log, &["--log-level", "info"]).await;
            process.client.settled(400).await;
            let said = std::fs::read_to_string(data_dir.join("stdout")).unwrap();
            let skipped = |line: &str| line.split_once("skipped ")?.1.split(' ').next()?.parse::<u64>().ok();
            assert_eq!(said.lines().filter_map(skipped).sum::<u64>(), 20, "{said}");
        } else if row.shows == "ready on" {
            shell.serve(row).await;
        } else {
            shell.run(row).await;
        }
    }
    assert!(process.terminate().success());
}

//! The real binary: exit codes, what goes to stdout and what to stderr.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Runs `flexflow` in an empty folder with no variables of ours.
fn flexflow(line: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_flexflow"));
    command.args(line.split_whitespace()).current_dir(&dir).env("RUST_BACKTRACE", "0");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FLEXFLOW_")) {
        command.env_remove(name);
    }
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn wrong_usage_and_wrong_configuration_are_2_and_are_told_on_stderr() {
    for line in [
        "",
        "serv",
        "serve --all --role capture",
        "serve --role lead",
        "keys revoke",
        "keys create --scopes write",
        "config check --set server.port=1",
        "config check --set nonsense",
        "config check --config /nowhere.toml",
        "config print --set eventlog.partitions=0",
        "serve --listen nowhere",
        "dlq replay",
        "dlq discard --all",
        "lag --url nowhere",
        "lag --for 1s",
        "top --interval 1ms",
        "audit --backfill",
        "rollups build --from yesterday --to today",
        "generate --rate 0",
        "generate --duplicates 2",
        "generate --duplicates 60% --invalid 60%",
    ] {
        let output = flexflow(line);
        assert_eq!(output.status.code(), Some(2), "{line}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{line}");
    }
}

#[test]
fn what_needs_no_server_ends_with_0_and_says_it_on_stdout() {
    for line in [
        "--help",
        "--version",
        "version --json",
        "config check",
        "config print --json",
        "config reference",
        "completions bash",
        "config check --log-level debug --data-dir x --set consumer.lanes=1",
    ] {
        let output = flexflow(line);
        assert_eq!(output.status.code(), Some(0), "{line}: {}", text(&output.stderr));
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{line}: {}", text(&output.stderr));
    }
}

#[test]
fn a_wrong_variable_stops_every_command_that_reads_the_configuration() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flexflow"));
    let output = command.args(["config", "check"]).env("FLEXFLOW_SERVER_LISTEN", "x").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = text(&output.stderr);
    assert!(told.contains("FLEXFLOW_SERVER_LISTEN; did you mean FLEXFLOW_SERVER__LISTEN?"), "{told}");
}

#[test]
fn printing_the_configuration_names_every_source_and_no_secret() {
    let output = flexflow("config print --json --set store.password=hunter2 --data-dir elsewhere");
    let told = text(&output.stdout);
    let values: Vec<Value> = serde_json::from_str(&told).unwrap();
    let of = |key: &str| values.iter().find(|value| value["key"] == key).unwrap();
    assert_eq!(of("data_dir")["value"], "elsewhere");
    assert_eq!(of("data_dir")["source"], "flag --data-dir");
    assert_eq!(of("store.password")["value"], "***");
    assert_eq!(of("log.level")["source"], "default");
    assert!(!told.contains("hunter2"));
}

#[test]
fn generate_without_a_server_says_how_to_start_one() {
    let output = flexflow("generate --events 1");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("flexflow serve"));
}

/// A running `flexflow serve` on a folder of its own; dropping it kills it.
struct Server {
    child: Child,
    /// What it says on stderr after `ready on …`.
    told: BufReader<ChildStderr>,
    url: String,
    dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_flexflow"))
            .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "warn", "--data-dir"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        // Ends when the process does; the suite's own limit ends a wait for ever.
        while !line.starts_with("ready on ") {
            line.clear();
            assert!(told.read_line(&mut line).unwrap() > 0, "serve ended: {:?}", child.wait());
        }
        let url = line.trim_start_matches("ready on ").trim().to_owned();
        Self { child, told, url, dir }
    }

    fn file(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.dir.path().join(name)).unwrap()).unwrap()
    }

    fn run(&self, line: &str) -> Output {
        flexflow_on(self.dir.path(), line)
    }

    /// What the command writes with `--json`.
    fn ask(&self, line: &str) -> Value {
        let output = self.run(&format!("{line} --json"));
        assert!(output.status.success(), "{line}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    fn terminate(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn flexflow_on(data_dir: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flexflow"));
    command.args(line.split_whitespace()).arg("--data-dir").arg(data_dir).env("RUST_BACKTRACE", "0");
    command.output().unwrap()
}

/// The lines that `serve` prints at its first start, up to the last of them.
fn first_lines(server: &mut Server) -> String {
    let mut lines = String::new();
    while !lines.contains("flexflow tail") {
        assert!(server.told.read_line(&mut lines).unwrap() > 0, "{lines}");
    }
    lines
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_newcomer_sees_events_arrive_and_every_command_answers() {
    let mut server = Server::start();
    let (first, running) = (server.file("first-run.json"), server.file("server.json"));
    assert_eq!((&first["url"], &running["url"]), (&json!(server.url), &json!(server.url)));
    assert_eq!(running["pid"], server.child.id());
    let lines = first_lines(&mut server);
    let link = format!("{}/#login=", server.url);
    for part in ["curl -sS", &link, first["api_key"].as_str().unwrap(), "flexflow generate"] {
        assert!(lines.contains(part), "{part} is missing:\n{lines}");
    }

    let sent = server.ask("generate --events 400 --duplicates 5% --invalid 3% --late 2% --seed 7");
    let (invalid, duplicates) =
        (sent["invalid_intended"].as_u64().unwrap(), sent["duplicates_intended"].as_u64().unwrap());
    assert!(invalid > 0 && duplicates > 0, "{sent}");
    assert_eq!((&sent["sent"], &sent["unsent"]), (&json!(400), &json!(0)));
    assert_eq!((&sent["rejected"], &sent["accepted"]), (&json!(invalid), &json!(400 - invalid)));
    until("the consumer catches up", || {
        server.ask("lag").as_array().unwrap().iter().all(|one| one["lag"] == 0)
    });
    // The same again: every id is known.
    server.ask("generate --events 400 --duplicates 5% --invalid 3% --late 2% --seed 7");
    until("the consumer catches up again", || {
        server.ask("lag").as_array().unwrap().iter().all(|one| one["lag"] == 0)
    });
    let audit = server.ask("audit");
    assert_eq!((&audit["balanced"], &audit["totals"]["missing"]), (&json!(true), &json!(0)));
    assert_eq!(audit["totals"]["stored"], 400 - invalid - duplicates);

    let tail = text(&server.run("tail --no-follow --last 5 --json").stdout);
    let events: Vec<Value> = tail.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 5);
    let trace = server.ask(&format!("trace {}", events[0]["event_id"].as_str().unwrap()));
    assert_eq!(trace["status"], "stored");
    assert!(server.ask("dlq stats")["totals"].is_object());
    assert_eq!(server.ask("dlq list"), json!([]));
    let top = server.ask("top --once --interval 100ms");
    let accepted = top["rates"].as_array().unwrap().iter().find(|rate| rate["name"] == "accepted").unwrap();
    assert_eq!(accepted["total"], 2.0 * 400.0 - 2.0 * invalid as f64, "{top}");
    assert_eq!(server.ask("audit --metadata")["complete"], true);
    assert_eq!(server.run("lag --over 0").status.code(), Some(0));
    assert!(!server.ask("topics list").as_array().unwrap().is_empty());
    for line in ["doctor", "migrate", "topics check", "topics create", "config check"] {
        let output = server.run(line);
        assert_eq!(output.status.code(), Some(0), "{line}: {}{}", text(&output.stdout), text(&output.stderr));
    }
    a_grown_topic_says_what_moves(&server);
    keys_live_and_die(&server);

    let second = flexflow_on(server.dir.path(), "serve --listen 127.0.0.1:0");
    assert_eq!(second.status.code(), Some(1));
    let told = text(&second.stderr);
    assert!(told.contains(&format!("process {}", server.child.id())), "the holder is not named: {told}");

    assert_eq!(server.terminate(), Some(0));
    assert!(!server.dir.path().join("server.json").exists());
}

fn a_grown_topic_says_what_moves(server: &Server) {
    let partitions = || {
        let topics = server.ask("topics list");
        let raw = topics.as_array().unwrap().iter().find(|topic| topic["name"] == "raw_events").unwrap();
        raw["partitions"].as_array().unwrap().len()
    };
    let wanted = partitions() + 2;
    let grown = server.run(&format!("topics grow --topic raw_events --partitions {wanted}"));
    assert_eq!(grown.status.code(), Some(0), "{}", text(&grown.stderr));
    let told = text(&grown.stderr);
    for said in ["Keys move", "out of order", "is still one event", "consumer.sweep_interval"] {
        assert!(told.contains(said), "{said}: {told}");
    }
    assert_eq!(partitions(), wanted);
    let shrunk = server.run("topics grow --topic raw_events --partitions 1");
    assert_eq!(shrunk.status.code(), Some(1), "{}", text(&shrunk.stdout));
    assert!(text(&shrunk.stderr).contains(&wanted.to_string()), "{}", text(&shrunk.stderr));
}

fn keys_live_and_die(server: &Server) {
    let project = server.ask("projects create --name shop");
    let environments = server.ask("environments list --project shop");
    assert_eq!(environments.as_array().unwrap().len(), 2);
    assert_eq!(server.ask("projects zone shop Europe/Berlin")["time_zone"], "Europe/Berlin");
    let wrong = server.run("projects zone shop Mars/Olympus");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("time_zone"), "{}", text(&wrong.stderr));
    let key = server.ask("keys create --project shop --environment development --scopes ingest,query");
    assert_eq!(key["project_id"], project["id"]);
    assert!(
        key["api_key"].as_str().unwrap().starts_with(key["prefix"].as_str().unwrap().trim_end_matches('…'))
    );
    let with_key = format!("--url {} --api-key {}", server.url, key["api_key"].as_str().unwrap());
    let sent = server.ask(&format!("generate --events 10 {with_key}"));
    assert_eq!(sent["accepted"], 10);
    server.ask(&format!("keys revoke {} --project shop", key["id"].as_str().unwrap()));
    let refused = server.run(&format!("generate --events 10 {with_key}"));
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("401"), "{}", text(&refused.stderr));
    assert_eq!(server.ask("keys list --project shop").as_array().unwrap().len(), 1);
    let unknown = server.run("keys list --project nowhere");
    assert!(text(&unknown.stderr).contains("(shop)"), "{}", text(&unknown.stderr));
}

#[test]
fn without_a_server_a_command_starts_what_it_needs_and_lets_go_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let ask = |line: &str| -> Value {
        let output = flexflow_on(dir.path(), &format!("{line} --json"));
        assert!(output.status.success(), "{line}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    ask("migrate");
    ask("topics create");
    // The first project and its one key are made by `serve`, which shows the key; no other command makes it unseen.
    assert_eq!(ask("projects list"), json!([]));
    ask("projects create --name shop");
    assert!(ask("keys create --project shop")["api_key"].as_str().unwrap().starts_with("ff_"));
    assert!(!dir.path().join("server.json").exists());
    // Somebody was killed and left its file.
    std::fs::write(
        dir.path().join("server.json"),
        json!({"pid": 1, "url": "http://127.0.0.1:9", "operator_token": "x"}).to_string(),
    )
    .unwrap();
    assert_eq!(ask("keys list --project shop").as_array().unwrap().len(), 1);
}

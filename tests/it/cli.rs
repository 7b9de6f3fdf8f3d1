//! The real binary: exit codes, what goes to stdout and what to stderr.

use std::process::{Command, Output};

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
    let values: Vec<serde_json::Value> = serde_json::from_str(&told).unwrap();
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

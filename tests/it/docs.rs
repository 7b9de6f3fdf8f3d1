//! The documents keep what they say: every list of RUNBOOK is complete, and what the documents name exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use flexflow::config::REFERENCE;
use flexflow::dlq::{Outcome, Status};
use flexflow::event::{DropReason, ErrorKind, SystemEventKind};
use flexflow::http::ErrorCode;
use flexflow::lifecycle::ComponentState;
use flexflow::meta::{AuditAction, JobState};
use flexflow::telemetry::names;

const DOCUMENTS: [&str; 7] = [
    "README.md",
    "API.md",
    "ARCHITECTURE.md",
    "RUNBOOK.md",
    "DEPLOYMENT.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
];
/// Words that begin a path of this repository.
const FOLDERS: [&str; 8] =
    ["src/", "config/", "migrations/", "tests/", "benches/", "deploy/", ".ci/", "scripts/"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The documents that exist; RUNBOOK must.
fn documents() -> BTreeMap<&'static str, String> {
    let found: BTreeMap<_, _> = DOCUMENTS
        .into_iter()
        .filter(|name| root().join(name).is_file())
        .map(|name| (name, read(name)))
        .collect();
    assert!(found.contains_key("RUNBOOK.md"));
    found
}

/// First cells, in backquotes, of the table below this heading of RUNBOOK.
fn table(heading: &str) -> BTreeSet<String> {
    let text = read("RUNBOOK.md");
    let mut lines = text.lines().skip_while(|line| line.trim_start_matches('#').trim() != heading);
    assert!(lines.next().is_some(), "RUNBOOK has no heading {heading:?}");
    let rows = lines.take_while(|line| !line.starts_with('#')).filter_map(|line| line.strip_prefix("| `"));
    let cells: Vec<String> = rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned())).collect();
    let set: BTreeSet<String> = cells.iter().cloned().collect();
    assert_eq!(set.len(), cells.len(), "{heading}: a row stands twice");
    set
}

fn assert_same(heading: &str, exist: impl IntoIterator<Item = impl Into<String>>) {
    let exist: BTreeSet<String> = exist.into_iter().map(Into::into).collect();
    let told = table(heading);
    let missing: Vec<_> = exist.difference(&told).collect();
    let untrue: Vec<_> = told.difference(&exist).collect();
    assert!(
        missing.is_empty() && untrue.is_empty(),
        "{heading}: RUNBOOK lacks {missing:?} and invents {untrue:?}"
    );
}

/// What stands in backquotes, blocks between fences left out.
fn quoted(text: &str) -> Vec<String> {
    let mut fenced = false;
    let prose: Vec<&str> = text
        .lines()
        .filter(|line| {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            !fenced && !fence
        })
        .collect();
    prose.join("\n").split('`').skip(1).step_by(2).map(|word| word.replace('\n', " ")).collect()
}

fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join("src"), &mut found);
    found
}

/// Code of the product: without test modules, and without their files.
fn product_code() -> Vec<String> {
    let is_test =
        |path: &String| path.ends_with("tests.rs") || path.contains("/tests/") || path.contains("/sim/");
    let sources = sources().into_iter().filter(|(path, _)| !is_test(path));
    sources
        .map(|(_, text)| text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned())
        .collect()
}

/// The text arguments of every call `name("…")` in the code.
fn arguments(code: &[String], call: &str) -> BTreeSet<String> {
    code.iter()
        .flat_map(|text| text.split(call).skip(1))
        .filter_map(|rest| Some(rest.trim_start().strip_prefix('"')?.split_once('"')?.0.to_owned()))
        .collect()
}

/// Every key of the reference, and every group.
fn settings() -> (BTreeSet<String>, BTreeSet<String>) {
    fn walk(prefix: &str, table: &toml::Table, keys: &mut BTreeSet<String>, groups: &mut BTreeSet<String>) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match value {
                toml::Value::Table(inner) => {
                    groups.insert(key.clone());
                    walk(&key, inner, keys, groups);
                }
                _ => {
                    keys.insert(key);
                }
            }
        }
    }
    let (mut keys, mut groups) = (BTreeSet::new(), BTreeSet::new());
    walk("", &toml::from_str(REFERENCE).unwrap(), &mut keys, &mut groups);
    (keys, groups)
}

#[test]
fn the_runbook_explains_every_metric_and_no_other() {
    assert_same("Metrics", names::ALL.iter().map(|metric| metric.name));
}

#[test]
fn the_runbook_explains_every_error_code_with_its_status() {
    assert_same("Error codes", ErrorCode::ALL.iter().map(|code| code.as_str()));
    let text = read("RUNBOOK.md");
    for code in ErrorCode::ALL {
        let row = format!("| `{}` | {} |", code.as_str(), code.status().as_u16());
        assert!(text.contains(&row), "RUNBOOK lacks {row}");
    }
}

#[test]
fn the_runbook_explains_every_end_that_an_event_can_come_to() {
    assert_same("Dead-letter reasons", ErrorKind::ALL.iter().map(|kind| kind.as_str()));
    assert_same("Drop reasons", DropReason::ALL.iter().map(|reason| reason.as_str()));
    assert_same("Dead-letter status", Status::ALL.iter().map(|status| status.as_str()));
    assert_same("Replay outcomes", Outcome::ALL.iter().map(|outcome| outcome.as_str()));
    assert_same("Audit trail", AuditAction::ALL.iter().map(|action| action.as_str()));
    assert_same("System events", SystemEventKind::ALL.iter().map(|kind| kind.as_str()));
    assert_same("Job states", JobState::ALL.iter().map(|state| state.as_str()));
}

#[test]
fn the_runbook_explains_every_component_and_state() {
    let stages: Vec<String> = sources()
        .into_iter()
        .filter(|(path, _)| path.contains("src/consumer/") && !path.ends_with("tests.rs"))
        .map(|(_, text)| text)
        .collect();
    let mut components = arguments(&product_code(), ".component(");
    components.extend(arguments(&stages, "fn name(&self) -> &'static str {"));
    components.extend(arguments(&stages, "run_as("));
    assert_same("Components", components);
    let all = [ComponentState::Up, ComponentState::Degraded, ComponentState::Starting, ComponentState::Down];
    for state in all {
        // A state that is added breaks this match.
        match state {
            ComponentState::Up
            | ComponentState::Degraded
            | ComponentState::Starting
            | ComponentState::Down => {}
        }
    }
    let names = all.map(|state| serde_json::to_value(state).unwrap().as_str().unwrap().to_owned());
    assert_same("Component states", names);
}

#[test]
fn the_runbook_explains_every_group_of_settings_and_every_legacy_variable() {
    let (keys, mut groups) = settings();
    groups.extend(keys.iter().filter(|key| !key.contains('.')).cloned());
    assert_same("Configuration", groups);
    let code = read("src/config/keys.rs");
    let list = code.split_once("LEGACY_VARIABLES").unwrap().1.split_once("];").unwrap().0;
    let pairs: Vec<(&str, &str)> = list
        .split("(\"")
        .skip(1)
        .map(|pair| (pair.split('"').next().unwrap(), pair.split('"').nth(2).unwrap()))
        .collect();
    assert_same("Legacy variables", pairs.iter().map(|(variable, _)| *variable));
    let text = read("RUNBOOK.md");
    for (variable, key) in pairs {
        assert!(text.contains(&format!("| `{variable}` | `{key}` |")), "{variable} stands for {key}");
    }
}

#[test]
fn settings_that_the_documents_name_exist() {
    let (keys, groups) = settings();
    for (document, text) in documents() {
        for word in quoted(&text) {
            let plain =
                word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.');
            let Some((group, name)) = word.split_once('.').filter(|_| plain) else { continue };
            // What the product tells of, and what the doctor looks at, have names of the same form.
            if SystemEventKind::from_name(&word).is_some() || word == "store.migrations" {
                continue;
            }
            let is_file = ["rs", "md", "toml", "json", "sql", "sqlite", "lock", "yml", "so"].contains(&name);
            if groups.contains(group) && !is_file {
                assert!(
                    keys.contains(&word) || groups.contains(&word),
                    "{document} names the setting {word}"
                );
            }
        }
    }
}

#[test]
fn files_that_the_documents_name_exist() {
    for (document, text) in documents() {
        for word in quoted(&text) {
            let path = word.split([' ', ':', '{', '*']).next().unwrap_or_default();
            let looks_like_one = FOLDERS.iter().any(|folder| path.starts_with(folder))
                || (path.ends_with(".md") && !path.contains('/'));
            if looks_like_one {
                assert!(root().join(path).exists(), "{document} names the file {word}");
            }
        }
    }
}

#[test]
fn commands_and_flags_that_the_documents_name_exist() {
    let mut named: BTreeMap<Vec<String>, BTreeSet<String>> = BTreeMap::new();
    for text in documents().values() {
        for word in quoted(text) {
            let Some(rest) = word.strip_prefix("flexflow ") else { continue };
            let words: Vec<&str> = rest.split_whitespace().collect();
            let is_command = |word: &&&str| word.chars().all(|c| c.is_ascii_lowercase());
            let command: Vec<String> =
                words.iter().take_while(is_command).map(|word| (*word).to_owned()).collect();
            let flags = words.iter().filter(|word| word.starts_with("--"));
            named.entry(command).or_default().extend(flags.map(|flag| (*flag).to_owned()));
        }
    }
    assert!(named.len() > 10, "{named:?}");
    for (command, flags) in named {
        let asked =
            Command::new(env!("CARGO_BIN_EXE_flexflow")).args(&command).arg("--help").output().unwrap();
        assert!(asked.status.success(), "there is no `flexflow {}`", command.join(" "));
        let help = String::from_utf8(asked.stdout).unwrap();
        // clap answers the parent's help for a word that is an argument; a command names itself in its usage.
        let usage = format!("Usage: flexflow {}", command.join(" "));
        assert!(help.contains(&usage), "there is no `flexflow {}`: {help}", command.join(" "));
        for flag in flags {
            assert!(help.contains(&flag), "`flexflow {}` has no {flag}", command.join(" "));
        }
    }
}

/// `/api/jobs/{job_id}` as `/api/jobs/{}`: documents may call a parameter otherwise than the code.
fn nameless(route: &str) -> String {
    let mut parts = route.split('{');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |route, part| route + "{}" + part.split_once('}').map_or(part, |(_, rest)| rest))
}

#[test]
fn routes_that_the_documents_name_exist() {
    let code = product_code();
    let routes = [arguments(&code, "resource("), arguments(&code, ".route(")];
    let routes: BTreeSet<String> = routes.iter().flatten().map(|route| nameless(route)).collect();
    for (document, text) in documents() {
        for word in quoted(&text) {
            let path = word.split_once(' ').map_or(word.as_str(), |(_, path)| path);
            let path = path.split(['?', ' ']).next().unwrap_or_default();
            if path.starts_with("/api/") && !path.ends_with('/') && !path.contains(['*', '…']) {
                assert!(routes.contains(&nameless(path)), "{document} names the route {word}");
            }
        }
    }
}

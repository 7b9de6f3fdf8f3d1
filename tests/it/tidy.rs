//! The shape of the house, kept by a test: who may import whom, where a library may be named, how large a file may be.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms from left to right; a room imports only from rooms to its left. Rooms of one group never import each other.
const ROOMS: &[&[&str]] = &[
    &["event"],
    &["config"],
    &["telemetry"],
    &["lifecycle"],
    &["http"],
    &["eventlog"],
    &["store"],
    &["meta"],
    &["auth"],
    &["notice"],
    &["job"],
    &["dlq"],
    &["person"],
    &["metering"],
    &["transform"],
    &["schema"],
    &["attribution"],
    &["capture", "consumer", "query", "reprocess", "rollup", "web", "webhook"],
    &["demo"],
    &["app"],
    &["cli"],
];

/// A reader should hold a whole file in mind.
const LINES_MAX: usize = 600;

/// A library and the only places that may name it.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("actix_web", &["/http.rs", "src/http/", "src/auth/guard", "src/app/", "/http/"]),
    ("sea_orm", &["src/meta/"]),
    ("klickhouse", &["src/store/"]),
    ("fjall", &["src/eventlog/embedded/"]),
    ("kafka_protocol", &["src/eventlog/kafka/"]),
    ("rskafka", &["src/eventlog/kafka/"]),
    ("tokio_rustls", &["src/eventlog/kafka/"]),
    ("clap", &["src/cli/"]),
    ("reqwest", &["src/webhook/", "src/cli/"]),
    ("croner", &["src/rollup/"]),
    ("jsonschema", &["src/schema/"]),
    ("ratatui", &["src/cli/top/"]),
    ("libloading", &["src/store/engine/"]),
    ("metrics_exporter_prometheus", &["src/telemetry/"]),
];

const FORBIDDEN_NAMES: &[&str] =
    &["utils", "util", "common", "helpers", "helper", "types", "services", "models", "controllers", "misc"];

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    walk(&root.join("src"), &mut found);
    found.iter_mut().for_each(|(path, _)| *path = path.strip_prefix(root).unwrap().to_owned());
    found.sort();
    found
}

/// The room a file belongs to; none for `lib.rs` and `main.rs`.
fn room_of(path: &Path) -> Option<String> {
    let mut parts = path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).skip(1);
    let first = parts.next()?;
    let room = first.strip_suffix(".rs").unwrap_or(&first).to_owned();
    (room != "lib" && room != "main").then_some(room)
}

/// Code without comments, so that prose may speak of any room.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(i, line)| (i + 1, line))
}

/// Every `crate::room` that a line names, `use crate::{a, b}` included.
fn imports(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let list = list.split('}').next().unwrap_or_default();
            found.extend(
                list.split(',').map(|part| part.trim().split("::").next().unwrap_or_default().to_owned()),
            );
        } else {
            found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

#[test]
fn a_room_imports_only_from_rooms_to_its_left() {
    let rank: BTreeMap<&str, usize> = ROOMS
        .iter()
        .enumerate()
        .flat_map(|(rank, group)| group.iter().map(move |room| (*room, rank)))
        .collect();
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(room) = room_of(&path) else { continue };
        let Some(own) = rank.get(room.as_str()) else {
            wrong.push(format!("{}: room {room} is not in the list of rooms", path.display()));
            continue;
        };
        for (line, code) in code_lines(&text) {
            for import in imports(code) {
                match rank.get(import.as_str()) {
                    Some(other) if import == room || other < own => {}
                    Some(_) => {
                        wrong.push(format!("{}:{line}: {room} may not import {import}", path.display()));
                    }
                    None => wrong.push(format!("{}:{line}: {import} is not a room", path.display())),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_library_is_named_only_where_it_belongs() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let name = path.to_string_lossy().into_owned();
        for (library, places) in LIBRARIES {
            if places.iter().any(|place| name.contains(place)) {
                continue;
            }
            for (line, code) in code_lines(&text) {
                if code.contains(&format!("{library}::")) || code.contains(&format!("use {library}")) {
                    wrong.push(format!("{name}:{line}: {library} may be named only in {places:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_short_and_open_with_what_they_are() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let name = path.display();
        let lines = text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{name}: {lines} lines, more than {LINES_MAX}: split it"));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{name}: does not begin with a //! line that says what it is"));
        }
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        if FORBIDDEN_NAMES.contains(&stem.as_str()) {
            wrong.push(format!("{name}: {stem} says nothing; name the thing it holds"));
        }
        for (line, code) in code_lines(&text) {
            if code.contains("todo!(") || code.contains("unimplemented!(") {
                wrong.push(format!("{name}:{line}: unfinished"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stands_in_the_engines_file_alone() {
    let places: Vec<String> = sources()
        .into_iter()
        .filter(|(_, text)| {
            code_lines(text).any(|(_, code)| code.contains("unsafe {") || code.contains("unsafe fn"))
        })
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert!(places.iter().all(|place| place.starts_with("src/store/engine")), "unsafe code in {places:?}");
    assert!(places.len() <= 1, "unsafe code in more than one file: {places:?}");
}

#[test]
fn every_pool_is_opened_in_one_place() {
    for open in ["EmbeddedLog::open(", "KafkaLog::open(", "Some(Store::open(", "Meta::open("] {
        let places: Vec<String> = sources()
            .into_iter()
            .filter(|(path, _)| !path.ends_with("tests.rs") && !path.to_string_lossy().contains("/tests/"))
            .flat_map(|(path, text)| {
                // What stands behind the first test module is a test.
                let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
                let found = code_lines(&code).filter(|(_, line)| line.contains(open)).count();
                std::iter::repeat_n(path.display().to_string(), found)
            })
            .collect();
        assert_eq!(places, ["src/app/pools.rs"], "{open}…): one pool a backing system");
    }
}

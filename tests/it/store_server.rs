//! The event store as a server: one that runs elsewhere (`store.url`), and a `clickhouse` program that is started here.
//! The embedded engine's own native port plays the server.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use flexflow::app::{Options, Role};
use flexflow::config;
use flexflow::store::engine::{Located, locate};
use flexflow::store::{EventBlock, Limits, Sql, StoreError};
use serde_json::json;

use crate::support::process::signal;
use crate::support::store::{TestStore, config as store_config, row};
use crate::support::{Sandbox, eventually};

const CLOSE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn the_application_works_on_a_server_with_a_user_and_a_database_of_its_own() {
    let server = TestStore::empty("shop_events").await;
    let settings = server.as_server();
    let mut settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    settings.push(("store.database", "shop_events"));
    let app = Sandbox::build(tempfile::tempdir().unwrap(), Role::ALL, &settings, Options::default()).await;
    assert!(!app.data_dir().join("engine").exists(), "no engine of its own is started");
    let sent = json!([{"event": "click", "distinct_id": "ann", "event_id": "e1"}, {"event": "click", "distinct_id": "bob", "event_id": "e2"}]);
    app.client.accept(&sent).await;
    app.client.settled(2).await;
    let sql = Sql::new("SELECT count() AS n FROM shop_events.events FINAL");
    assert_eq!(server.store.select::<(u64,)>(sql).await.unwrap(), [(2,)], "they are on the server");
    let (status, doctor) = app.client.operator_get("/api/ops/doctor").await;
    assert_eq!(status, 200);
    let wrong: Vec<_> =
        doctor["findings"].as_array().unwrap().iter().filter(|finding| finding["ok"] == false).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(doctor.to_string().contains("is asked as flexflow_reader with readonly = 2"), "{doctor}");
    let sql = json!({"query": "SELECT distinct_id FROM events ORDER BY distinct_id"});
    let (status, answer) = app.client.post("/api/query/sql", &sql).await;
    assert_eq!((status, &answer["results"]), (200, &json!([["ann"], ["bob"]])), "{answer}");
    app.stop().await;
    server.store.close(CLOSE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_of_a_callers_own_is_asked_as_a_user_whom_the_store_lets_read_alone() {
    let test = TestStore::start().await;
    let mut block = EventBlock::new();
    block.push(&row("a", 0, "{}"));
    test.store.insert_events(&block, "t").await.unwrap();
    let limits = Limits { read_only: true, ..test.store.limits() };
    let (reader, password) = test.store.reader_login().unwrap();
    let who = "SELECT currentUser() AS user";
    let asked = test.store.select_within::<(String,)>(Sql::new(who), limits).await.unwrap();
    assert_eq!(asked, [(reader.clone(),)]);
    // Whatever is asked, and by whatever program, that user changes nothing and sees nothing else.
    let config = config::Store {
        url: Some(format!("clickhouse://{}", test.store.address().unwrap())),
        user: reader,
        password: password.into(),
        ..store_config()
    };
    let stranger = TestStore::open(&config, tempfile::tempdir().unwrap());
    let found = stranger.store.select::<(String,)>(Sql::new("SELECT event_id AS id FROM events FINAL")).await;
    assert_eq!(found.unwrap(), [("a".to_owned(),)]);
    for forbidden in [
        "INSERT INTO events (project_id) VALUES ('x')",
        "INSERT INTO events (project_id) SELECT 'x'",
        "ALTER TABLE events DELETE WHERE 1",
        "ALTER TABLE events DROP COLUMN p_plan",
        "TRUNCATE TABLE events",
        "DROP TABLE events",
        "CREATE TABLE mine (a String) ENGINE = Memory",
        "CREATE TEMPORARY TABLE mine (a String)",
        "SYSTEM STOP MERGES events",
        "SYSTEM STOP LISTEN TCP",
        "KILL QUERY WHERE 1",
        "SET readonly = 0",
        "SELECT event_id AS id FROM events SETTINGS readonly = 0",
        "SELECT name AS id FROM schema_migrations",
        "SELECT reason AS id FROM events_dlq",
        "SELECT line AS id FROM file('/etc/passwd', 'LineAsString')",
        "SELECT line AS id FROM url('http://127.0.0.1:1/', 'LineAsString')",
    ] {
        let answer = stranger.store.select::<(String,)>(Sql::new(forbidden)).await;
        let said = answer.map_or_else(|error| error.to_string(), |rows| format!("{rows:?}"));
        assert!(said.contains("(164)") || said.contains("(497)"), "{forbidden}: {said}");
    }
    // The connections of both stand in one pool, and are not taken for each other.
    let asked = test.store.select::<(String,)>(Sql::new(who)).await.unwrap();
    assert_eq!(asked, [("flexflow".to_owned(),)]);
    let rows = test.store.select::<(u64,)>(Sql::new("SELECT count() AS n FROM events")).await.unwrap();
    assert_eq!(rows, [(1,)]);
    // Without such a user the owner is told to change nothing.
    let through = test.through(&test.store.address().unwrap());
    let write = Sql::new("ALTER TABLE events DELETE WHERE 1");
    let answer = through.store.select_within::<(String,)>(write, limits).await;
    assert!(answer.unwrap_err().to_string().contains("(164)"));
    stranger.store.close(CLOSE).await;
    through.store.close(CLOSE).await;
    test.store.close(CLOSE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_names_the_setting_and_does_not_hang() {
    let server = TestStore::start().await;
    let (user, _) = server.store.engine_login().unwrap();
    // The embedded engine may end while it refuses, and comes back on another port; a server always says why.
    eventually("the cure names the setting", || async {
        let address = server.store.address().map_err(|error| error.to_string())?;
        let config = config::Store {
            url: Some(format!("clickhouse://{address}")),
            user: user.clone(),
            password: "wrong".into(),
            ..store_config()
        };
        let stranger = TestStore::open(&config, tempfile::tempdir().unwrap());
        match stranger.store.probe().await.unwrap_err() {
            StoreError::Schema { cure, .. } if cure.contains("store.password") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    server.store.close(CLOSE).await;
}

/// A program that is called as `clickhouse server --config-file=…` and does what it would, with the library.
fn stand_in(folder: &Path) -> std::path::PathBuf {
    let Ok(Some(Located::Library(library))) = locate(&store_config().engine) else {
        panic!("the tests' own engine is the library");
    };
    let script = format!(
        r#"#!/bin/sh
[ "$1" = server ] || {{ echo "called as: $*" >&2; exit 9; }}
config="${{2#--config-file=}}"
exec '{flexflow}' engine-child "$PPID" '{library}' --path "$(dirname "$config")/data" --config-file "$config" \
  --log-level warning --query "SYSTEM START LISTEN TCP; SELECT sleepEachRow(1) FROM system.numbers FORMAT Null SETTINGS max_block_size=1, function_sleep_max_microseconds_per_block=0"
"#,
        flexflow = env!("CARGO_BIN_EXE_flexflow"),
        library = library.display(),
    );
    let program = folder.join("clickhouse");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clickhouse_program_is_supervised_as_the_library_is() {
    let folder = tempfile::tempdir().unwrap();
    let engine = config::Engine { path: Some(stand_in(folder.path())), ..store_config().engine };
    let config = config::Store { engine, ..store_config() };
    let test = TestStore::open(&config, tempfile::tempdir().unwrap());
    test.store.wait_ready(Duration::from_secs(120)).await.unwrap();
    test.store.migrate().await.unwrap();
    let mut block = EventBlock::new();
    block.push(&row("a", 0, "{}"));
    test.store.insert_events(&block, "t").await.unwrap();
    let before = test.engine_pid();
    signal(before, "KILL");
    eventually("another engine answers with the row", || async {
        let rows = test.store.select::<(u64,)>(Sql::new("SELECT count() AS n FROM events")).await;
        match rows {
            Ok(rows) if rows == [(1,)] && test.try_engine_pid() != Some(before) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    test.store.close(CLOSE).await;
    assert_eq!(test.try_engine_pid(), None, "it ends with the store");
}

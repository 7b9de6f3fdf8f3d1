//! The tables themselves, as the live databases tell them; migrations from every version before; and what sealed
//! secrets look like in them.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::{ConnectionTrait, Statement};
use secrecy::ExposeSecret;

use super::*;

on_both! {
    every_table_has_its_times_and_its_foreign_keys,
    a_database_of_any_version_before_is_brought_up_by_several_processes_at_once,
    secrets_are_sealed_and_those_in_clear_are_sealed_by_the_next_migration,
}

/// Where migrations are written down: made by them, before there is any table; `applied_at` is all that happens to a row.
const LEDGER: &str = "schema_migrations";

const STATIC: &str = "a project of auth.static_keys is named in the configuration, and has no row";
const ELSEWHERE: &str = "what it names is no row of this database";
const OUTLIVES: &str =
    "the trail outlives what it is about, and names the operator and the configuration, too";

/// Columns that name something, and refer to no row: with the reason.
const NO_REFERENCE: &[(&str, &str, &str)] = &[
    ("audit_log", "project_id", OUTLIVES),
    ("audit_log", "actor_id", OUTLIVES),
    ("audit_log", "subject_id", OUTLIVES),
    ("documents", "project_id", STATIC),
    ("documents", "environment_id", STATIC),
    ("event_corrections", "project_id", STATIC),
    ("event_corrections", "environment_id", STATIC),
    ("event_corrections", "event_id", ELSEWHERE),
    ("event_schemas", "project_id", STATIC),
    ("features", "project_id", STATIC),
    ("features", "environment_id", STATIC),
    ("jobs", "project_id", STATIC),
    ("meters", "project_id", STATIC),
    ("meters", "environment_id", STATIC),
    ("notices", "project_id", STATIC),
    ("transforms", "project_id", STATIC),
    ("transforms", "environment_id", STATIC),
    ("webhook_deliveries", "project_id", STATIC),
    ("webhook_deliveries", "event_id", ELSEWHERE),
    ("webhooks", "project_id", STATIC),
    ("webhooks", "environment_id", STATIC),
];

async fn rows(meta: &Meta, sql: &str) -> Vec<(String, String)> {
    let connection = meta.connection();
    let statement = Statement::from_string(connection.get_database_backend(), sql);
    let found = connection.query_all_raw(statement).await.unwrap();
    found.iter().map(|row| (row.try_get_by_index(0).unwrap(), row.try_get_by_index(1).unwrap())).collect()
}

/// Columns by table, and those that refer to a row of another.
async fn schema(meta: &Meta) -> (BTreeMap<String, BTreeSet<String>>, BTreeSet<(String, String)>) {
    let (columns, references) = if meta.is_postgres() {
        (
            "SELECT table_name::text, column_name::text FROM information_schema.columns WHERE table_schema = 'public'",
            "SELECT c.conrelid::regclass::text, a.attname::text FROM pg_constraint c \
             JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey) WHERE c.contype = 'f'",
        )
    } else {
        (
            "SELECT t.name, c.name FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table'",
            "SELECT t.name, f.\"from\" FROM sqlite_master t, pragma_foreign_key_list(t.name) f WHERE t.type = 'table'",
        )
    };
    let mut tables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (table, column) in rows(meta, columns).await {
        tables.entry(table).or_default().insert(column);
    }
    (tables, rows(meta, references).await.into_iter().collect())
}

async fn every_table_has_its_times_and_its_foreign_keys(engine: Engine) {
    let bench = bench(engine).await;
    let (tables, references) = schema(&bench.meta).await;
    assert!(tables.len() > 20, "{tables:?}");
    let mut wrong = Vec::new();
    let mut without = BTreeSet::new();
    for (table, columns) in tables.iter().filter(|(table, _)| *table != LEDGER) {
        for time in ["created_at", "updated_at"] {
            if !columns.contains(time) {
                wrong.push(format!("{table} has no {time}"));
            }
        }
        for column in columns.iter().filter(|column| column.ends_with("_id")) {
            if !references.contains(&(table.clone(), column.clone())) {
                without.insert((table.as_str(), column.as_str()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let told: BTreeSet<(&str, &str)> =
        NO_REFERENCE.iter().map(|(table, column, _)| (*table, *column)).collect();
    assert_eq!(without, told, "columns that name something and refer to no row");
}

async fn a_database_of_any_version_before_is_brought_up_by_several_processes_at_once(engine: Engine) {
    let names = migrations::names();
    let timestamps = names.iter().position(|name| *name == "0040_timestamps").unwrap();
    for before in BTreeSet::from([1, timestamps, names.len() - 1]) {
        let bench = unmigrated(engine).await;
        migrations::migrate_first(&bench.meta, before).await.unwrap();
        let columns = |more: &str| format!("INSERT INTO projects (id, name, created_at, updated_at{more})");
        let project = format!("{} VALUES ('proj_old', 'old', 1, 1)", columns(""));
        bench.meta.connection().execute_unprepared(&project).await.unwrap();
        if before == timestamps {
            for statement in [
                "INSERT INTO meters (id, project_id, environment_id, name, status, created_at, updated_at) VALUES ('m', 'proj_old', 'e', 'n', 'published', 5, 6)",
                "INSERT INTO meter_versions (meter_id, version, definition, effective_from, created_at) VALUES ('m', 1, '{}', 0, 5)",
                "INSERT INTO meter_coverage (meter_id, versions, covered_at) VALUES ('m', 1, 7)",
                "INSERT INTO event_corrections (id, project_id, environment_id, event_id, action, reason, made_at, before) VALUES ('c', 'proj_old', 'e', 'x', 'void', 'r', 8, '[]')",
            ] {
                bench.meta.connection().execute_unprepared(statement).await.unwrap();
            }
        }
        let others = join_all((0..3).map(|_| bench.another())).await;
        let applied = join_all(others.iter().map(Meta::migrate)).await;
        let applied: Vec<String> = applied.into_iter().flat_map(Result::unwrap).collect();
        assert_eq!(applied, names[before..], "each once");
        assert_eq!(bench.meta.migrate().await.unwrap(), Vec::<String>::new());
        bench.meta.probe().await.unwrap();
        assert!(bench.meta.projects().find(&ProjectId::new("proj_old")).await.unwrap().is_some());
        if before == timestamps {
            let scope = crate::event::Scope::new("proj_old", "e");
            let (_, versions) = bench.meta.meters().find(&scope, "m").await.unwrap().unwrap();
            assert_eq!(versions[0].updated_at, Timestamp::from_millis(5));
            let kept = bench.meta.corrections().of_event(&scope, "x", 1).await.unwrap();
            assert_eq!((kept[0].created_at, kept[0].updated_at), (kept[0].made_at, kept[0].made_at));
        }
    }
}

async fn secrets_are_sealed_and_those_in_clear_are_sealed_by_the_next_migration(engine: Engine) {
    let bench = unmigrated(engine).await;
    let key = |current: &str, former: &str| config::Meta {
        secret_key: current.into(),
        previous_secret_key: former.into(),
        ..settings(bench.url.clone())
    };
    let (old, new) = ("o".repeat(32), "n".repeat(32));
    // As an earlier version wrote them.
    bench.meta.migrate().await.unwrap();
    for statement in [
        "INSERT INTO webhooks (id, project_id, url, description, events, ordered, status, secret, previous_secret, created_at, updated_at) VALUES ('w', 'p', 'u', '', '', FALSE, 'enabled', 'whsec_a', 'whsec_b', 1, 1)",
        "INSERT INTO signing_keys (kid, secret, created_at, updated_at) VALUES ('k', 'c2VjcmV0', 1, 1)",
    ] {
        bench.meta.connection().execute_unprepared(statement).await.unwrap();
    }
    let written = async |meta: &Meta| {
        let mut all = rows(meta, "SELECT secret, previous_secret FROM webhooks").await;
        all.extend(rows(meta, "SELECT secret, kid FROM signing_keys").await);
        format!("{all:?}")
    };
    let opened = async |meta: &Meta| -> Result<(String, String), MetaError> {
        let hook = meta.webhooks().find(&ProjectId::new("p"), "w").await?.unwrap();
        let secret = meta.webhooks().secrets(&hook, meta.now())?[0].expose_secret().to_owned();
        Ok((secret, meta.signing_keys().list(Timestamp::EPOCH).await?[0].secret.clone()))
    };
    let both = ("whsec_a".to_owned(), "c2VjcmV0".to_owned());
    assert_eq!(opened(&bench.meta).await.unwrap(), both, "what is in clear goes on being good");

    let sealing = bench.another_of(key(&old, "")).await;
    sealing.migrate().await.unwrap();
    let first = written(&sealing).await;
    assert!(!first.contains("whsec") && !first.contains("c2VjcmV0"), "{first}");
    assert_eq!(opened(&sealing).await.unwrap(), both);
    let without = bench.another_of(key(&new, "")).await;
    assert!(matches!(opened(&without).await, Err(MetaError::Unreadable { .. })), "another key opens nothing");
    without.migrate().await.unwrap();
    assert_eq!(written(&sealing).await, first, "and destroys nothing");

    let rotated = bench.another_of(key(&new, &old)).await;
    assert_eq!(opened(&rotated).await.unwrap(), both, "the former one opens");
    rotated.migrate().await.unwrap();
    assert_ne!(written(&rotated).await, first);
    assert_eq!(opened(&bench.another_of(key(&new, "")).await).await.unwrap(), both);
    let until = bench.meta.now();
    rotated.webhooks().rotate(&ProjectId::new("p"), "w", "whsec_z", until).await.unwrap();
    assert!(!written(&rotated).await.contains("whsec"));
    rotated.signing_keys().rotate("k2", "bmV3".to_owned()).await.unwrap();
    assert!(!written(&rotated).await.contains("bmV3"));
    let key_file = bench.folder.path().join("meta.sqlite-key");
    assert_eq!(key_file.exists(), engine == Engine::Sqlite, "SQLite has a key of its own from the start");
    if engine == Engine::Sqlite {
        assert_eq!(std::fs::metadata(key_file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

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

const ELSEWHERE: &str = "what it names is an event in the store, no row of this database";
const OUTLIVES: &str =
    "the trail outlives what it is about, and names the operator and the configuration, too";

/// Columns that name something, and refer to no row: with the reason.
const NO_REFERENCE: &[(&str, &str, &str)] = &[
    ("audit_log", "project_id", OUTLIVES),
    ("audit_log", "actor_id", OUTLIVES),
    ("audit_log", "subject_id", OUTLIVES),
    ("event_corrections", "event_id", ELSEWHERE),
    ("webhook_deliveries", "event_id", ELSEWHERE),
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

/// What earlier versions kept of projects that only the configuration named, by the migration that made the tables. One
/// id is two projects' environment, and somebody's project is called as one of them.
const OF_THE_CONFIGURATION: &[(&str, &[&str])] = &[
    (
        "0001_foundation",
        &[
            "INSERT INTO environments (id, project_id, name, created_at, updated_at) VALUES ('env_old', 'proj_old', 'production', 1, 1)",
            "INSERT INTO api_keys (id, project_id, environment_id, name, prefix, sha256, scopes, created_at, updated_at) VALUES ('key', 'proj_old', 'env_old', 'k', 'ff_x', 'abc', 'ingest', 1, 1)",
            "INSERT INTO jobs (id, kind, project_id, spec, state, attempts, fence, cancel_requested, run_after, created_at, updated_at) VALUES ('job_1', 'k', 'proj_job', '{}', 'queued', 0, 0, FALSE, 1, 7, 7), ('job_2', 'k', NULL, '{}', 'queued', 0, 0, TRUE, 1, 7, 7)",
        ],
    ),
    (
        "0003_documents",
        &[
            "INSERT INTO documents (id, project_id, environment_id, kind, name, body, revision, created_at, updated_at) VALUES ('d', 'proj_job', 'env', 'k', 'n', '{}', 1, 3, 3), ('d2', 'proj_old', 'production', 'k', 'n', '{}', 1, 3, 3)",
        ],
    ),
    (
        "0007_metering",
        &[
            "INSERT INTO meters (id, project_id, environment_id, name, status, created_at, updated_at) VALUES ('m', 'called', 'env', 'n', 'published', 5, 6)",
            "INSERT INTO meter_versions (meter_id, version, definition, effective_from, created_at) VALUES ('m', 1, '{}', 0, 5)",
            "INSERT INTO features (id, project_id, environment_id, lookup_key, name, meter_id, body, status, created_at, updated_at) VALUES ('f', 'called', 'env', 'l', 'n', 'm', '{}', 's', 5, 5)",
            "INSERT INTO event_corrections (id, project_id, environment_id, event_id, action, reason, made_at, before) VALUES ('c', 'called', 'env', 'x', 'void', 'r', 8, '[]')",
        ],
    ),
    (
        "0008_meter_coverage",
        &["INSERT INTO meter_coverage (meter_id, versions, covered_at) VALUES ('m', 1, 7)"],
    ),
    (
        "0010_transforms",
        &[
            "INSERT INTO transforms (id, project_id, environment_id, name, created_at, updated_at) VALUES ('t', 'called', 'env_more', 'raw', 9, 9)",
            "INSERT INTO transform_versions (transform_id, version, spec, created_at) VALUES ('t', 1, '{}', 9)",
        ],
    ),
    (
        "0020_webhooks",
        &[
            "INSERT INTO webhooks (id, project_id, environment_id, url, description, events, ordered, status, secret, created_at, updated_at) VALUES ('w', 'called', NULL, 'u', '', '', FALSE, 'enabled', 'whsec_a', 9, 9), ('w2', 'called', 'env', 'u', '', '', TRUE, 'gone', 'whsec_b', 9, 9)",
            "INSERT INTO webhook_deliveries (id, webhook_id, project_id, event_id, event_name, body, state, attempts, due_at, give_up_at, fence, log, created_at, updated_at) VALUES ('v', 'w', 'called', 'x', 'n', 'b', 'pending', 1, 2, 3, 4, '[]', 9, 9)",
        ],
    ),
    (
        "0030_event_schemas",
        &[
            "INSERT INTO event_schemas (id, project_id, event_name, compatibility, policy, created_at, updated_at) VALUES ('s', 'proj_schema', 'n', 'none', 'flag', 9, 9)",
            "INSERT INTO event_schema_versions (schema_id, version, definition, created_at) VALUES ('s', 1, '{}', 9)",
        ],
    ),
    (
        "0060_notices",
        &[
            "INSERT INTO notices (id, project_id, record, created_at, updated_at) VALUES ('n', 'called', '{}', 9, 9)",
        ],
    ),
];

/// What stands in a table, in columns that are not to change.
async fn contents(meta: &Meta, table: &str, columns: &BTreeSet<String>) -> Vec<(String, String)> {
    let texts = columns
        .iter()
        .filter(|column| *column != "secret")
        .map(|column| format!("COALESCE(CAST({column} AS TEXT), 'null')"));
    let all = texts.collect::<Vec<_>>().join(" || '|' || ");
    rows(meta, &format!("SELECT '{table}', {all} FROM {table} ORDER BY 2")).await
}

async fn indices(meta: &Meta) -> BTreeSet<(String, String)> {
    let named = if meta.is_postgres() {
        "SELECT indexname::text, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    } else {
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    };
    rows(meta, named).await.into_iter().collect()
}

async fn a_database_of_any_version_before_is_brought_up_by_several_processes_at_once(engine: Engine) {
    let names = migrations::names();
    let references = names.iter().position(|name| name.starts_with("0110")).unwrap();
    for before in 1..=references {
        let bench = unmigrated(engine).await;
        let execute = async |sql: &str| bench.meta.connection().execute_unprepared(sql).await.unwrap();
        migrations::migrate_first(&bench.meta, before).await.unwrap();
        execute(
            "INSERT INTO projects (id, name, created_at, updated_at) VALUES ('proj_old', 'called', 1, 1)",
        )
        .await;
        for (made_by, statements) in OF_THE_CONFIGURATION {
            if names[..before].contains(made_by) {
                for statement in *statements {
                    execute(statement).await;
                }
            }
        }
        let (tables, _) = schema(&bench.meta).await;
        let mut kept = Vec::new();
        for (table, columns) in tables.iter().filter(|(table, _)| *table != LEDGER) {
            kept.push((table, columns, contents(&bench.meta, table, columns).await));
        }
        let had = indices(&bench.meta).await;

        let others = join_all((0..3).map(|_| bench.another())).await;
        let applied = join_all(others.iter().map(Meta::migrate)).await;
        let applied: Vec<String> = applied.into_iter().flat_map(Result::unwrap).collect();
        assert_eq!(applied, names[before..], "each once");
        assert_eq!(bench.meta.migrate().await.unwrap(), Vec::<String>::new());
        bench.meta.probe().await.unwrap();

        for (table, columns, was) in kept {
            let now = contents(&bench.meta, table, columns).await;
            // Rows of projects and environments are added; nothing else changes.
            let lost: Vec<_> = was.iter().filter(|row| !now.contains(row)).collect();
            assert!(lost.is_empty(), "{table} of {}: {lost:?} are not in {now:?}", names[before - 1]);
            assert!(
                was.len() == now.len() || ["projects", "environments"].contains(&table.as_str()),
                "{now:?}"
            );
        }
        let lost: Vec<_> = had.difference(&indices(&bench.meta).await).cloned().collect();
        assert!(lost.iter().all(|(name, _)| name == "environments_pkey"), "{lost:?}");
        if engine == Engine::Sqlite {
            let broken = rows(&bench.meta, "SELECT \"table\", parent FROM pragma_foreign_key_check").await;
            assert_eq!(broken, []);
        }
        if names[before] == "0040_timestamps" {
            what_never_changed_has_the_time_it_was_made_at(&bench).await;
        }
        if before == references {
            what_was_named_has_rows(&bench).await;
        }
    }
}

async fn what_never_changed_has_the_time_it_was_made_at(bench: &Bench) {
    let scope = Scope::new("called", "env");
    let (_, versions) = bench.meta.meters().find(&scope, "m").await.unwrap().unwrap();
    assert_eq!(versions[0].updated_at, Timestamp::from_millis(5));
    let kept = bench.meta.corrections().of_event(&scope, "x", 1).await.unwrap();
    assert_eq!((kept[0].created_at, kept[0].updated_at), (kept[0].made_at, kept[0].made_at));
}

async fn what_was_named_has_rows(bench: &Bench) {
    let projects = rows(&bench.meta, "SELECT id, origin || ' ' || name FROM projects ORDER BY id").await;
    let found: Vec<(&str, &str)> = projects.iter().map(|(id, name)| (&**id, &**name)).collect();
    let [called, job, old, schema] = found[..] else { panic!("{projects:?}") };
    assert!(called.0 == "called" && called.1.starts_with("found called "), "its name was taken: {called:?}");
    assert_eq!(
        [job, old, schema],
        [("proj_job", "found proj_job"), ("proj_old", "made called"), ("proj_schema", "found proj_schema")]
    );
    let environments = "SELECT project_id || '/' || id, origin || ' ' || name FROM environments ORDER BY 1";
    let environments = rows(&bench.meta, environments).await;
    let found: Vec<(&str, &str)> = environments.iter().map(|(id, name)| (&**id, &**name)).collect();
    let [first, second, third, fourth, fifth] = found[..] else { panic!("{environments:?}") };
    assert_eq!([first, second], [("called/env", "found env"), ("called/env_more", "found env_more")]);
    assert_eq!([third, fourth], [("proj_job/env", "found env"), ("proj_old/env_old", "made production")]);
    assert!(fifth.0 == "proj_old/production" && fifth.1.starts_with("found production "), "{fifth:?}");
    let since = bench.meta.projects().find(&ProjectId::new("proj_job")).await.unwrap().unwrap().created_at;
    assert_eq!(since, Timestamp::from_millis(3), "as old as the oldest that names it");

    // What was found is what the configuration names: nothing is made a second time.
    bench.named([Scope::new("called", "env")]).await;
    assert_eq!(bench.meta.projects().list_all(10).await.unwrap().len(), projects.len());
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
        "INSERT INTO projects (id, name, created_at, updated_at) VALUES ('p', 'p', 1, 1)",
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

//! The metadata database's tables: SQL files compiled in, applied once each, in order, under a lock.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement};
use sha2::{Digest, Sha256};

use super::{Meta, MetaError};
use crate::event::Timestamp;

/// One file of `migrations/meta/`; or two, where one text for both databases cannot say it.
struct Migration {
    name: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
}

impl Migration {
    /// Its text for the database behind this connection.
    fn sql(&self, connection: &impl ConnectionTrait) -> &'static str {
        if connection.get_database_backend() == DbBackend::Postgres { self.postgres } else { self.sqlite }
    }

    fn digest(&self, connection: &impl ConnectionTrait) -> String {
        Sha256::digest(self.sql(connection)).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

macro_rules! text {
    ($name:literal, $end:literal) => {
        include_str!(concat!("../../migrations/meta/", $name, $end))
    };
}

macro_rules! migrations {
    ($($name:literal $($each:ident)?),+ $(,)?) => {
        &[$(migrations!(@one $name $($each)?)),+]
    };
    (@one $name:literal) => {
        Migration { name: $name, sqlite: text!($name, ".sql"), postgres: text!($name, ".sql") }
    };
    (@one $name:literal each) => {
        Migration { name: $name, sqlite: text!($name, ".sqlite.sql"), postgres: text!($name, ".postgres.sql") }
    };
}

/// Every migration, in the order they apply.
const MIGRATIONS: &[Migration] = migrations![
    "0001_foundation",
    "0002_people",
    "0003_documents",
    "0007_metering",
    "0008_meter_coverage",
    "0010_transforms",
    "0020_webhooks",
    "0030_event_schemas",
    "0040_timestamps",
    "0060_notices",
    "0090_schema_upcasts",
    "0091_watched_states",
    "0100_project_time_zones",
    "0110_environments_by_project" each,
    "0111_projects_that_are_named",
    "0112_references" each,
    "0120_pipeline_history",
];

const LEDGER: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (
    name TEXT NOT NULL PRIMARY KEY, sha256 TEXT NOT NULL, applied_at BIGINT NOT NULL)";

#[derive(FromQueryResult)]
struct Applied {
    name: String,
    sha256: String,
}

/// Applies what is missing and names it. Two processes at once: one applies, the other waits and finds nothing to do.
pub(super) async fn migrate(meta: &Meta) -> Result<Vec<String>, MetaError> {
    let transaction = meta.begin_alone().await?;
    if meta.is_postgres() {
        // A change of a large table may take longer than a request would wait.
        transaction.execute_unprepared("SET LOCAL statement_timeout = 0").await?;
    }
    transaction.execute_unprepared(LEDGER).await?;
    let missing = missing(&transaction, &applied(&transaction).await?)?;
    let now = meta.now();
    for migration in &missing {
        transaction
            .execute_unprepared(migration.sql(&transaction))
            .await
            .map_err(|error| failed(migration, &error))?;
        record(&transaction, migration, now).await?;
    }
    super::commit(transaction).await?;
    Ok(missing.iter().map(|migration| migration.name.to_owned()).collect())
}

/// Applies the first `count` alone: a database of a version before.
#[cfg(test)]
pub(super) async fn migrate_first(meta: &Meta, count: usize) -> Result<(), MetaError> {
    let transaction = meta.begin_alone().await?;
    transaction.execute_unprepared(LEDGER).await?;
    for migration in &MIGRATIONS[..count] {
        transaction
            .execute_unprepared(migration.sql(&transaction))
            .await
            .map_err(|error| failed(migration, &error))?;
        record(&transaction, migration, meta.now()).await?;
    }
    super::commit(transaction).await
}

/// Are the tables those of this build?
pub(super) async fn check(connection: &impl ConnectionTrait) -> Result<(), MetaError> {
    let applied = match applied(connection).await {
        Err(MetaError::Schema { .. }) => Vec::new(),
        other => other?,
    };
    match missing(connection, &applied)?.first() {
        None => Ok(()),
        Some(first) => Err(MetaError::Schema {
            message: format!("migration {} is not applied to the metadata database", first.name),
            cure: "flexflow migrate",
        }),
    }
}

async fn applied(connection: &impl ConnectionTrait) -> Result<Vec<Applied>, MetaError> {
    let statement = Statement::from_string(
        connection.get_database_backend(),
        "SELECT name, sha256 FROM schema_migrations ORDER BY name",
    );
    Ok(Applied::find_by_statement(statement).all(connection).await?)
}

/// Those not applied yet; an error if what was applied is not what this build knows.
fn missing(
    connection: &impl ConnectionTrait,
    applied: &[Applied],
) -> Result<Vec<&'static Migration>, MetaError> {
    for row in applied {
        match MIGRATIONS.iter().find(|migration| migration.name == row.name) {
            None => {
                return Err(MetaError::Schema {
                    message: format!(
                        "the metadata database has migration {}, which this build lacks",
                        row.name
                    ),
                    cure: "run the newer version that wrote it",
                });
            }
            Some(migration) if migration.digest(connection) != row.sha256 => {
                return Err(MetaError::Schema {
                    message: format!("migration {} was applied with another text", row.name),
                    cure: "run the version that wrote it, or restore migrations/meta/",
                });
            }
            Some(_) => {}
        }
    }
    Ok(MIGRATIONS.iter().filter(|migration| applied.iter().all(|row| row.name != migration.name)).collect())
}

async fn record(
    connection: &impl ConnectionTrait,
    migration: &Migration,
    now: Timestamp,
) -> Result<(), MetaError> {
    let statement = Statement::from_sql_and_values(
        connection.get_database_backend(),
        "INSERT INTO schema_migrations (name, sha256, applied_at) VALUES ($1, $2, $3)",
        [migration.name.into(), migration.digest(connection).into(), now.into()],
    );
    connection.execute_raw(statement).await?;
    Ok(())
}

fn failed(migration: &Migration, error: &DbErr) -> MetaError {
    MetaError::Schema {
        message: format!("migration {} failed: {error}", migration.name),
        cure: "see the error; nothing of this migration was kept",
    }
}

/// Their names, in order.
#[cfg(test)]
pub(super) fn names() -> Vec<&'static str> {
    MIGRATIONS.iter().map(|migration| migration.name).collect()
}

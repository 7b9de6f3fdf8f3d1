//! Migrations: statements compiled in, each of which changes nothing when it has been applied before.

use super::{Sql, Store, StoreError};

/// Name and statement, in order. A statement must be safe to run twice and by two processes at once (`IF NOT EXISTS`):
/// there is no lock.
pub(super) const MIGRATIONS: [(&str, &str); 15] = [
    ("0001_events", include_str!("../../migrations/clickhouse/0001_events.sql")),
    ("0002_events_dlq", include_str!("../../migrations/clickhouse/0002_events_dlq.sql")),
    ("0003_person_edges", include_str!("../../migrations/clickhouse/0003_person_edges.sql")),
    ("0004_person_overrides", include_str!("../../migrations/clickhouse/0004_person_overrides.sql")),
    ("0005_person_properties", include_str!("../../migrations/clickhouse/0005_person_properties.sql")),
    ("0006_cohort_members", include_str!("../../migrations/clickhouse/0006_cohort_members.sql")),
    ("0007_feature_usage", include_str!("../../migrations/clickhouse/0007_feature_usage.sql")),
    ("0010_raw_events", include_str!("../../migrations/clickhouse/0010_raw_events.sql")),
    ("0011_raw_event_results", include_str!("../../migrations/clickhouse/0011_raw_event_results.sql")),
    (
        "0020_attributed_conversions",
        include_str!("../../migrations/clickhouse/0020_attributed_conversions.sql"),
    ),
    ("0030_schema_state", include_str!("../../migrations/clickhouse/0030_schema_state.sql")),
    ("0031_event_rollups", include_str!("../../migrations/clickhouse/0031_event_rollups.sql")),
    ("0032_event_quality", include_str!("../../migrations/clickhouse/0032_event_quality.sql")),
    ("0050_group_properties", include_str!("../../migrations/clickhouse/0050_group_properties.sql")),
    ("0060_event_id_minmax", include_str!("../../migrations/clickhouse/0060_event_id_minmax.sql")),
];

/// The tables that all of them make together.
pub(super) const TABLES: [&str; 13] = [
    "events",
    "events_dlq",
    "person_edges",
    "person_overrides",
    "person_properties",
    "cohort_members",
    "feature_usage",
    "attributed_conversions",
    "raw_events",
    "raw_event_results",
    "event_rollups",
    "event_quality",
    "group_properties",
];

/// Which have been applied; on a cluster every host has its own list.
pub(super) const MAKE_LIST: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (name String, applied_at DateTime64(3, \
                                    'UTC') DEFAULT now64(3, 'UTC')) ENGINE = ReplacingMergeTree ORDER BY name SETTINGS \
                                    fsync_after_insert = 1, fsync_part_directory = 1";

impl Store {
    /// Applies what has not been applied, and answers its names. Where a table has gone missing, every migration counts
    /// as not applied: they change nothing that is there.
    ///
    /// # Errors
    /// See [`StoreError`]. What was applied before the error stays; running it again goes on there.
    pub async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        let outside = self.pool().outside().await?;
        outside.run(&Sql::new("CREATE DATABASE IF NOT EXISTS ").name(self.database())).await?;
        drop(outside);
        if let Some(cluster) = self.cluster() {
            return self.migrate_cluster(cluster).await;
        }
        self.execute(Sql::new(MAKE_LIST)).await?;
        let rebuild = !self.missing_tables().await?.is_empty();
        let pending = self.pending_migrations().await?;
        let mut applied = Vec::new();
        for (name, statement) in MIGRATIONS {
            if rebuild || pending.iter().any(|pending| pending == name) {
                self.execute(Sql::new(statement)).await?;
                self.execute(Sql::new("INSERT INTO schema_migrations (name) VALUES (").arg(name).push(")"))
                    .await?;
                tracing::info!(migration = name, "applied a migration of the event store");
                applied.push(name.to_owned());
            }
        }
        Ok(applied)
    }

    /// Tables that the migrations make and that are not there.
    async fn missing_tables(&self) -> Result<Vec<&'static str>, StoreError> {
        let sql = Sql::new("SELECT name AS name FROM system.tables WHERE database = currentDatabase()");
        let there: Vec<(String,)> = self.select(sql).await?;
        Ok(TABLES.into_iter().filter(|table| there.iter().all(|(name,)| name != table)).collect())
    }

    /// The names of the migrations that have not been applied.
    ///
    /// # Errors
    /// See [`StoreError`]; before the first migration there is no database to ask: [`StoreError::Schema`].
    pub async fn pending_migrations(&self) -> Result<Vec<String>, StoreError> {
        let done: Vec<(String,)> = match self.cluster() {
            None => self.select(Sql::new("SELECT name AS name FROM schema_migrations FINAL")).await?,
            Some(cluster) => self.applied_on_all(cluster).await?,
        };
        Ok(MIGRATIONS
            .iter()
            .filter(|(name, _)| done.iter().all(|(done,)| done != name))
            .map(|(name, _)| (*name).to_owned())
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{hot, settings};

    #[test]
    fn every_table_has_every_pinned_setting() {
        for (name, statement) in MIGRATIONS {
            if !statement.contains("CREATE TABLE") {
                continue;
            }
            for (setting, value) in settings::TABLE {
                assert!(statement.contains(&format!("{setting} = {value}")), "{name}: {setting}");
            }
        }
    }

    #[test]
    fn every_hot_key_has_its_column() {
        for (_, column) in hot::HOT {
            assert!(
                MIGRATIONS.iter().any(|(_, statement)| statement.contains(&format!(" {column} String"))),
                "{column}"
            );
        }
    }

    #[test]
    fn migrations_stand_in_order_and_can_run_twice() {
        assert!(MIGRATIONS.is_sorted_by_key(|(name, _)| *name));
        for (name, statement) in MIGRATIONS {
            assert!(statement.contains("IF NOT EXISTS"), "{name}");
        }
    }
}

//! What `flexflow doctor` asks of the store: do the tables exist with every column, and has every pinned setting its
//! value? All of it is read back from the store.

use std::collections::HashMap;

use super::block::columns;
use super::engine::READABLE;
use super::error::MIGRATE;
use super::migrate::TABLES;
use super::{Finding, Limits, Sql, Store, StoreError, settings};

/// What every insert depends on beside the columns that it names.
const OTHER_COLUMNS: [&str; 5] = ["ingested_at", "ingestion_id", "id", "external_customer_id", "tenant_id"];
/// Merging cannot keep up long before inserts are refused (at 3,000 parts of one partition).
const PARTS_MAX: u64 = 300;

impl Store {
    /// Every check, the ones that pass too.
    ///
    /// # Errors
    /// The store does not answer. What is missing in it is a finding.
    pub async fn check(&self) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        let pending = match self.pending_migrations().await {
            Ok(pending) => pending,
            Err(StoreError::Schema { message, cure }) => {
                findings.push(bad("store.migrations".to_owned(), message, cure));
                return Ok(findings);
            }
            Err(error) => return Err(error),
        };
        findings.push(if pending.is_empty() {
            good("store.migrations".to_owned(), "all applied".to_owned())
        } else {
            bad("store.migrations".to_owned(), format!("not applied: {}", pending.join(", ")), MIGRATE)
        });
        self.check_query_settings(&mut findings).await?;
        for table in TABLES {
            self.check_table(table, &mut findings).await?;
        }
        self.check_columns(&mut findings).await?;
        self.check_parts(&mut findings).await?;
        findings.push(
            self.check_reader()
                .await
                .unwrap_or_else(|error| bad("store.reader_user".to_owned(), error.to_string(), GRANT)),
        );
        Ok(findings)
    }

    /// May SQL of a caller's own read what it is about, and change nothing?
    async fn check_reader(&self) -> Result<Finding, StoreError> {
        let limits = Limits { read_only: true, ..self.limits() };
        let sql = Sql::new("SELECT currentUser() AS user, toString(getSetting('readonly')) AS readonly");
        let found: Vec<(String, String)> = self.select_within(sql, limits).await?;
        for table in READABLE {
            let sql = Sql::new("SELECT 1 AS one FROM ").name(table).push(" LIMIT 0");
            self.select_within::<(u8,)>(sql, limits).await?;
        }
        let (user, readonly) = found.into_iter().next().unwrap_or_default();
        let message = format!("SQL of a caller's own is asked as {user} with readonly = {readonly}");
        let name = "store.reader_user".to_owned();
        Ok(if readonly == "0" { bad(name, message, GRANT) } else { good(name, message) })
    }

    async fn check_query_settings(&self, findings: &mut Vec<Finding>) -> Result<(), StoreError> {
        let names = settings::QUERY.iter().map(|(name, _)| *name);
        let sql =
            Sql::new("SELECT name AS name, value AS value FROM system.settings WHERE name IN ").list(names);
        let found: HashMap<String, String> =
            self.select::<(String, String)>(sql).await?.into_iter().collect();
        for (name, expected) in settings::QUERY {
            let found = found.get(name).map_or("not known to this server", String::as_str);
            findings.push(compare(format!("store.{name}"), found, expected, FORBIDDEN));
        }
        Ok(())
    }

    async fn check_table(&self, table: &'static str, findings: &mut Vec<Finding>) -> Result<(), StoreError> {
        let sql = Sql::new(
            "SELECT engine_full AS engine FROM system.tables WHERE database = currentDatabase() AND name = ",
        )
        .arg(table);
        let Some((engine,)) = self.select::<(String,)>(sql).await?.into_iter().next() else {
            let message = "the table is missing; a migration that is applied made it once".to_owned();
            findings.push(bad(table.to_owned(), message, RECREATE));
            return Ok(());
        };
        let replacing = engine.contains("ReplacingMergeTree");
        findings.push(if replacing {
            good(format!("{table}.engine"), engine.split(" SETTINGS").next().unwrap_or_default().to_owned())
        } else {
            bad(format!("{table}.engine"), format!("{engine}; expected ReplacingMergeTree"), RECREATE)
        });
        let set = table_settings(&engine);
        for (name, expected) in settings::TABLE {
            let found = set.get(name).copied().unwrap_or("the server's default");
            findings.push(compare(format!("{table}.{name}"), found, expected, ALTER));
        }
        Ok(())
    }

    async fn check_columns(&self, findings: &mut Vec<Finding>) -> Result<(), StoreError> {
        let sql = Sql::new(
            "SELECT name AS name FROM system.columns WHERE database = currentDatabase() AND table = 'events'",
        );
        let found: Vec<(String,)> = self.select(sql).await?;
        let expected = columns().map(|(name, _)| name).chain(OTHER_COLUMNS);
        let missing: Vec<&str> = expected.filter(|name| found.iter().all(|(found,)| found != name)).collect();
        findings.push(if missing.is_empty() {
            good("events.columns".to_owned(), format!("{} columns", found.len()))
        } else {
            bad("events.columns".to_owned(), format!("missing: {}", missing.join(", ")), MIGRATE)
        });
        Ok(())
    }

    async fn check_parts(&self, findings: &mut Vec<Finding>) -> Result<(), StoreError> {
        let sql = Sql::new(
            "SELECT max(parts) AS parts FROM (SELECT count() AS parts FROM system.parts WHERE active AND database = \
             currentDatabase() AND table = 'events' GROUP BY partition)",
        );
        let parts = self.select::<(u64,)>(sql).await?.first().map_or(0, |(parts,)| *parts);
        findings.push(if parts <= PARTS_MAX {
            good("events.parts".to_owned(), format!("at most {parts} in a partition"))
        } else {
            let message =
                format!("{parts} in one partition (more than {PARTS_MAX}): merging does not keep up");
            bad(
                "events.parts".to_owned(),
                message,
                "raise consumer.batch_rows_max and consumer.batch_age_max",
            )
        });
        Ok(())
    }
}

const FORBIDDEN: &str = "let the user of store.user change this setting, or set it in the server's profile";
const GRANT: &str = "give the user readonly = 2 and SELECT on the tables that RUNBOOK names (A user for SQL)";
const ALTER: &str = "ALTER TABLE … MODIFY SETTING with the expected value";
const RECREATE: &str = "restore the table, or run `flexflow migrate` to make what is missing anew, empty";

/// The settings that a table was made or altered with, from `engine_full`.
fn table_settings(engine_full: &str) -> HashMap<&str, &str> {
    let settings = engine_full.split_once(" SETTINGS ").map_or("", |(_, settings)| settings);
    settings
        .split(", ")
        .filter_map(|setting| setting.split_once(" = "))
        .map(|(name, value)| (name.trim(), value.trim().trim_matches('\'')))
        .collect()
}

fn compare(name: String, found: &str, expected: &str, cure: &str) -> Finding {
    if found == expected {
        good(name, found.to_owned())
    } else {
        bad(name, format!("{found}; expected {expected}"), cure)
    }
}

fn good(name: String, message: String) -> Finding {
    Finding { name, ok: true, message, cure: String::new() }
}

fn bad(name: String, message: String, cure: &str) -> Finding {
    Finding { name, ok: false, message, cure: cure.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_from_how_the_server_shows_a_table() {
        let shown = "ReplacingMergeTree(version) ORDER BY a SETTINGS index_granularity = 8192, fsync_after_insert = 1, \
                     storage_policy = 'default'";
        let settings = table_settings(shown);
        assert_eq!(settings["fsync_after_insert"], "1");
        assert_eq!(settings["storage_policy"], "default");
        assert!(table_settings("Memory").is_empty());
    }

    #[test]
    fn a_setting_with_another_value_names_both() {
        let finding = compare("x".to_owned(), "0", "1", ALTER);
        assert!(!finding.ok && finding.message == "0; expected 1" && !finding.cure.is_empty());
        assert!(compare("x".to_owned(), "1", "1", ALTER).ok);
    }
}

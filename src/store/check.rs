//! What `flexflow doctor` asks of the store: do the tables exist with every column, and has every pinned setting its
//! value? All of it is read back from the store.

use std::collections::HashMap;

use super::block::columns;
use super::cluster::{Host, shards};
use super::engine::READABLE;
use super::error::MIGRATE;
use super::migrate::TABLES;
use super::sharded::{KEYS, REPLICATED, made_for};
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
        let hosts = match self.cluster() {
            None => Vec::new(),
            Some(cluster) => {
                let hosts = self.hosts(cluster).await?;
                let found = self.check_hosts(cluster, &hosts).await;
                let all_answer = found.ok;
                findings.push(found);
                if !all_answer {
                    return Ok(findings);
                }
                hosts
            }
        };
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
            let held = self.engines(&self.held(table), &hosts).await?;
            findings.extend(together(held, |engine| table_findings(&self.held(table), engine)));
            if let Some(cluster) = self.cluster() {
                let asked = self.engines(table, &hosts).await?;
                let expected = self.spread(cluster, table, shards(&hosts));
                findings.extend(together(asked, |engine| vec![spread_finding(table, engine, &expected)]));
            }
        }
        self.check_columns(hosts.len().max(1), &mut findings).await?;
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

    /// Does every host answer?
    async fn check_hosts(&self, cluster: &str, hosts: &[Host]) -> Finding {
        let silent = self.silent(hosts).await;
        let name = HOSTS.to_owned();
        if silent.is_empty() {
            let (shards, hosts) = (shards(hosts), hosts.len());
            return good(name, format!("{cluster}: {shards} shards, all of {hosts} hosts answer"));
        }
        let named: Vec<String> = hosts
            .iter()
            .filter_map(|host| silent.get(&host.address).map(|error| format!("{}: {error}", host.name())))
            .collect();
        bad(name, named.join("; "), SILENT)
    }

    /// The engines of a table and what is said of it, by host; on a single server, of the one.
    async fn engines(
        &self,
        table: &str,
        hosts: &[Host],
    ) -> Result<Vec<(String, Option<String>)>, StoreError> {
        let number = if hosts.is_empty() { "toUInt64(1)" } else { "toUInt64(_shard_num)" };
        let sql = Sql::new("SELECT ")
            .push(number)
            .push(" AS host, if(engine = 'Distributed', concat(engine_full, ' ', comment), engine_full) AS shown FROM ")
            .append(&self.system("tables"))
            .push(" WHERE database = ")
            .arg(self.database())
            .push(" AND name = ")
            .arg(table);
        let mut found: HashMap<u64, String> = self.select::<(u64, String)>(sql).await?.into_iter().collect();
        if hosts.is_empty() {
            return Ok(vec![(String::new(), found.remove(&1))]);
        }
        let of_host = |(number, host): (u64, &Host)| (format!("{}: ", host.name()), found.remove(&number));
        Ok((1..).zip(hosts).map(of_host).collect())
    }

    /// What [`Store::engines`] says of a table that is asked on a cluster.
    fn spread(&self, cluster: &str, table: &str, shards: usize) -> String {
        let (database, held) = (self.database(), self.held(table));
        let (_, key) = KEYS.into_iter().find(|(name, _)| *name == table).unwrap_or_default();
        format!("Distributed('{cluster}', '{database}', '{held}', {key}) {}", made_for(shards))
    }

    async fn check_columns(&self, hosts: usize, findings: &mut Vec<Finding>) -> Result<(), StoreError> {
        let sql = Sql::new("SELECT name AS name FROM ")
            .append(&self.system("columns"))
            .push(" WHERE database = ")
            .arg(self.database())
            .push(" AND table = ")
            .arg(&*self.held("events"))
            .push(" GROUP BY name HAVING count() >= ")
            .arg(hosts as u64);
        let found: Vec<(String,)> = self.select(sql).await?;
        let promoted = self.promoted_columns().await?;
        let promoted = promoted.iter().map(|(_, column)| column.as_str());
        let expected = columns().map(|(name, _)| name).chain(OTHER_COLUMNS).chain(promoted);
        let missing: Vec<&str> = expected.filter(|name| found.iter().all(|(found,)| found != name)).collect();
        findings.push(if missing.is_empty() {
            good("events.columns".to_owned(), format!("{} columns", found.len()))
        } else {
            bad("events.columns".to_owned(), format!("missing: {}", missing.join(", ")), MIGRATE)
        });
        Ok(())
    }

    async fn check_parts(&self, findings: &mut Vec<Finding>) -> Result<(), StoreError> {
        // By their folder: every host has its own.
        let sql = Sql::new("SELECT max(parts) AS parts FROM (SELECT count() AS parts FROM ")
            .append(&self.system("parts"))
            .push(" WHERE active AND database = ")
            .arg(self.database())
            .push(" AND table = ")
            .arg(&*self.held("events"))
            .push(" GROUP BY partition, substring(path, 1, length(path) - length(name) - 1))");
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

/// What is found on all hosts, once; what is wrong, by host.
fn together(
    hosts: Vec<(String, Option<String>)>,
    look: impl Fn(Option<&str>) -> Vec<Finding>,
) -> Vec<Finding> {
    let mut all: Vec<Finding> = Vec::new();
    for (host, engine) in hosts {
        for found in look(engine.as_deref()) {
            if !found.ok {
                all.retain(|other| !other.ok || other.name != found.name);
                all.push(Finding { message: format!("{host}{}", found.message), ..found });
            } else if all.iter().all(|other| other.name != found.name) {
                all.push(found);
            }
        }
    }
    all
}

/// Of a table that holds rows.
fn table_findings(table: &str, engine: Option<&str>) -> Vec<Finding> {
    let Some(engine) = engine else { return vec![missing(table)] };
    let replacing = engine.contains("ReplacingMergeTree");
    let mut findings = vec![if replacing {
        good(format!("{table}.engine"), engine.split(" SETTINGS").next().unwrap_or_default().to_owned())
    } else {
        bad(format!("{table}.engine"), format!("{engine}; expected ReplacingMergeTree"), RECREATE)
    }];
    let set = table_settings(engine);
    let copied: &[(&str, &str)] = if engine.starts_with("Replicated") { &REPLICATED } else { &[] };
    for (name, expected) in settings::TABLE.iter().chain(copied) {
        let found = set.get(name).copied().unwrap_or("the server's default");
        findings.push(compare(format!("{table}.{name}"), found, expected, ALTER));
    }
    findings
}

/// Of a table that is asked on a cluster.
fn spread_finding(table: &str, engine: Option<&str>, expected: &str) -> Finding {
    engine.map_or_else(
        || missing(table),
        |engine| compare(format!("{table}.engine"), engine, expected, "see RUNBOOK: On a cluster"),
    )
}

fn missing(table: &str) -> Finding {
    let message = "the table is missing; a migration that is applied made it once".to_owned();
    bad(table.to_owned(), message, RECREATE)
}

const SILENT: &str = "start the server, or take it out of the cluster; rows are read and written while one host of every shard \
                      answers";
/// The finding that says whether all hosts of a cluster answer.
pub const HOSTS: &str = "store.cluster";

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
    fn what_is_wrong_on_one_host_names_it_and_what_is_right_on_all_is_said_once() {
        let right = "ReplacingMergeTree(version) ORDER BY a SETTINGS non_replicated_deduplication_window = 10000, \
                     fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, \
                     old_parts_lifetime = 480, min_age_to_force_merge_seconds = 3600, \
                     min_age_to_force_merge_on_partition_only = 1";
        let wrong = right.replace("fsync_after_insert = 1", "fsync_after_insert = 0");
        let hosts = |engines: [Option<&str>; 3]| {
            let named = |(n, engine): (u32, Option<&str>)| (format!("h{n}: "), engine.map(str::to_owned));
            (1..).zip(engines).map(named).collect::<Vec<_>>()
        };
        let look = |engine: Option<&str>| table_findings("t", engine);
        let all = together(hosts([Some(right), Some(right), Some(right)]), look);
        assert!(all.iter().all(|finding| finding.ok) && all.len() == settings::TABLE.len() + 1, "{all:?}");
        for engines in [[Some(right), Some(&*wrong), None], [Some(&*wrong), Some(right), None]] {
            let wrong: Vec<_> = together(hosts(engines), look).into_iter().filter(|f| !f.ok).collect();
            let named: Vec<&str> = wrong.iter().map(|finding| &*finding.name).collect();
            assert_eq!(named, ["t.fsync_after_insert", "t"]);
            assert!(wrong[0].message.ends_with(": 0; expected 1") && wrong[1].message.starts_with("h3: "));
        }
    }

    #[test]
    fn a_replicated_table_remembers_tokens_too() {
        let engine = "ReplicatedReplacingMergeTree('/p', '{replica}', version) ORDER BY a SETTINGS a = 1";
        let names: Vec<_> = table_findings("t", Some(engine)).into_iter().map(|f| f.name).collect();
        assert!(names.contains(&"t.replicated_deduplication_window_seconds".to_owned()), "{names:?}");
    }

    #[test]
    fn a_setting_with_another_value_names_both() {
        let finding = compare("x".to_owned(), "0", "1", ALTER);
        assert!(!finding.ok && finding.message == "0; expected 1" && !finding.cure.is_empty());
        assert!(compare("x".to_owned(), "1", "1", ALTER).ok);
    }
}

//! What a migration becomes on a cluster: the one place that derives it.
//!
//! The rows stand in tables `<name>_local` of every host. Under a table's own name stands a Distributed table over them,
//! so that no question and no insert knows of the cluster. The server sends each row to the shard that the table's key
//! names: rows of one sort key meet on one shard, where FINAL tells their versions apart.

use super::{Sql, StoreError};

/// Which shard a row goes to, by table: each a function of columns of the table's own sort key. Changing one, like changing
/// the number of shards, would put a key's next version onto another shard than its rows.
pub(super) const KEYS: [(&str, &str); 13] = [
    ("events", "cityHash64(project_id, distinct_id)"),
    ("events_dlq", "cityHash64(source_topic, source_topic_id, source_partition, source_offset)"),
    ("person_edges", "cityHash64(project_id, distinct_id)"),
    ("person_overrides", "cityHash64(project_id, distinct_id)"),
    ("person_properties", "cityHash64(project_id, distinct_id)"),
    ("cohort_members", "cityHash64(project_id, distinct_id)"),
    ("feature_usage", "cityHash64(project_id, distinct_id)"),
    ("attributed_conversions", "cityHash64(project_id, target_distinct_id)"),
    ("raw_events", "cityHash64(project_id, external_customer_id)"),
    ("raw_event_results", "cityHash64(project_id, external_customer_id)"),
    ("event_rollups", "cityHash64(project_id, event_name)"),
    ("event_quality", "cityHash64(project_id, event_name)"),
    ("group_properties", "cityHash64(project_id, group_type, group_key)"),
];

/// Of replicated tables, beside [`super::settings::TABLE`]: how many tokens a shard remembers, and for how long (30 days: a
/// retry may come that late).
pub(super) const REPLICATED: [(&str, &str); 2] =
    [("replicated_deduplication_window", "10000"), ("replicated_deduplication_window_seconds", "2592000")];

const CREATE: &str = "CREATE TABLE IF NOT EXISTS ";
const ALTER: &str = "ALTER TABLE ";
const INDEX: &str = "ADD INDEX ";
const ENGINE: &str = "ENGINE = ReplacingMergeTree(";

/// The cluster that the tables are made on.
pub(super) struct Place<'a> {
    pub cluster: &'a str,
    pub database: &'a str,
    pub shards: usize,
    pub replicated: bool,
}

/// Where a statement is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum On {
    /// On every host.
    Hosts,
    /// On one host of every shard: its replicas take it over.
    Shards,
}

/// The table that holds a host's rows.
pub(super) fn local(table: &str) -> String {
    format!("{table}_local")
}

/// The comment of a Distributed table: for how many shards it was made.
pub(super) fn made_for(shards: usize) -> String {
    format!("shards: {shards}")
}

/// What a migration becomes, in order.
pub(super) fn steps(migration: &'static str, place: &Place<'_>) -> Result<Vec<(On, Sql)>, StoreError> {
    let steps = create(migration, place).or_else(|| alter(migration));
    steps.ok_or_else(|| {
        StoreError::Query(format!("a migration that no cluster can be told: {}", migration.trim()))
    })
}

fn create(migration: &'static str, place: &Place<'_>) -> Option<Vec<(On, Sql)>> {
    let (_, rest) = migration.split_once(CREATE)?;
    let (table, rest) = rest.split_once('\n')?;
    let (columns, engine) = rest.split_once(ENGINE)?;
    let (_, key) = KEYS.into_iter().find(|(name, _)| *name == table)?;
    let local = local(table);
    let mut own = Sql::new(CREATE).name(&local).push("\n").push(columns);
    if place.replicated {
        let path = format!("/clickhouse/tables/{{shard}}/{}/{local}", place.database);
        own = own.push("ENGINE = ReplicatedReplacingMergeTree(").arg(&*path).push(", ").arg("{replica}");
        own = own.push(", ").push(engine.trim_end());
        for (name, value) in REPLICATED {
            own = own.push(", ").push(name).push(" = ").push(value);
        }
    } else {
        own = own.push(ENGINE).push(engine.trim_end());
    }
    let spread = Sql::new(CREATE)
        .name(table)
        .push(" AS ")
        .name(&local)
        .push(" ENGINE = Distributed(")
        .arg(place.cluster)
        .push(", ")
        .arg(place.database)
        .push(", ")
        .arg(&*local)
        .push(", ")
        .push(key)
        .push(") COMMENT ")
        .arg(&*made_for(place.shards));
    Some(vec![(On::Hosts, own), (On::Hosts, spread)])
}

fn alter(migration: &'static str) -> Option<Vec<(On, Sql)>> {
    let (_, rest) = migration.split_once(ALTER)?;
    let (table, change) = rest.split_once(' ')?;
    KEYS.iter().any(|(name, _)| *name == table).then(|| {
        let change = Sql::new(change.trim_end());
        // First where the rows are: a column that the other table names is there.
        let steps = altered(table, &change);
        // An index stands where the rows are alone.
        let indexes = change.text().starts_with(INDEX);
        steps.into_iter().filter(|(on, _)| !indexes || *on == On::Shards).collect()
    })
}

/// A change of a table's columns, where its rows are and then where it is asked.
pub(super) fn altered(table: &str, change: &Sql) -> [(On, Sql); 2] {
    let own = Sql::new(ALTER).name(&local(table)).push(" ").append(change).push(" SETTINGS alter_sync = 2");
    [(On::Shards, own), (On::Hosts, Sql::new(ALTER).name(table).push(" ").append(change))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::migrate::{MIGRATIONS, TABLES};

    fn place(replicated: bool) -> Place<'static> {
        Place { cluster: "c", database: "shop", shards: 2, replicated }
    }

    /// The text between a word and what ends it.
    fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
        text.split_once(from).unwrap().1.split_once(to).unwrap().0
    }

    fn words(text: &str) -> Vec<&str> {
        let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        text.split(word).filter(|word| !word.is_empty()).collect()
    }

    #[test]
    fn rows_of_one_sort_key_go_to_one_shard() {
        for table in TABLES {
            let (_, key) = KEYS.into_iter().find(|(name, _)| *name == table).unwrap();
            let made = format!("CREATE TABLE IF NOT EXISTS {table}\n");
            let (_, statement) =
                MIGRATIONS.into_iter().find(|(_, statement)| statement.contains(&made)).unwrap();
            let sorted = words(between(statement, "\nORDER BY (", "\nSETTINGS"));
            let used = words(key);
            assert!(used.len() > 2, "{table}: {key}");
            for column in used.into_iter().filter(|word| *word != "cityHash64") {
                assert!(sorted.contains(&column), "{table}: {column} is not in its sort key");
            }
        }
        assert_eq!(KEYS.len(), TABLES.len());
    }

    #[test]
    fn every_migration_can_be_told_to_a_cluster() {
        for (name, statement) in MIGRATIONS {
            let steps = steps(statement, &place(false)).unwrap();
            if statement.contains(INDEX) {
                let [(On::Shards, own)] = &steps[..] else { panic!("{name}") };
                assert!(own.text().contains("_local` ADD INDEX"), "{name}");
                continue;
            }
            let [(first, own), (On::Hosts, spread)] = &steps[..] else { panic!("{name}") };
            assert!(own.text().contains("_local`"), "{name}");
            if statement.contains(CREATE) {
                assert_eq!(*first, On::Hosts);
                assert!(own.text().contains("ENGINE = ReplacingMergeTree(version"), "{name}");
                assert!(spread.text().contains("ENGINE = Distributed('c', 'shop', '"), "{name}");
            } else {
                assert_eq!(*first, On::Shards);
                assert!(!spread.text().contains("_local"), "{name}");
            }
        }
    }

    #[test]
    fn a_table_is_made_twice_for_its_rows_and_for_those_who_ask() {
        let text = "-- What it is.\nCREATE TABLE IF NOT EXISTS cohort_members\n(\n    a String\n)\nENGINE = \
                    ReplacingMergeTree(version)\nORDER BY a\nSETTINGS\n    b = 1\n";
        let told = |replicated| {
            let steps = steps(text, &place(replicated)).unwrap();
            steps.into_iter().map(|(_, sql)| sql.text().to_owned()).collect::<Vec<_>>()
        };
        let spread = "CREATE TABLE IF NOT EXISTS `cohort_members` AS `cohort_members_local` ENGINE = Distributed('c', \
                      'shop', 'cohort_members_local', cityHash64(project_id, distinct_id)) COMMENT 'shards: 2'";
        let plain = "CREATE TABLE IF NOT EXISTS `cohort_members_local`\n(\n    a String\n)\nENGINE = \
                     ReplacingMergeTree(version)\nORDER BY a\nSETTINGS\n    b = 1";
        assert_eq!(told(false), [plain, spread]);
        let copied = "CREATE TABLE IF NOT EXISTS `cohort_members_local`\n(\n    a String\n)\nENGINE = \
             ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/shop/cohort_members_local', '{replica}', \
             version)\nORDER BY a\nSETTINGS\n    b = 1, replicated_deduplication_window = 10000, \
             replicated_deduplication_window_seconds = 2592000";
        assert_eq!(told(true), [copied, spread]);
    }
}

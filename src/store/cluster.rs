//! A cluster of servers (`store.cluster`): which hosts it has, how each is reached, and how all of them are told
//! something. There is no `ON CLUSTER`: that needs the servers' own queue of statements in Keeper, which not every
//! cluster has; connections to every host work on all of them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::connection::Connection;
use super::migrate::{MAKE_LIST, MIGRATIONS, TABLES};
use super::sharded::{self, On, Place, local, made_for};
use super::{Sql, Store, StoreError};

/// How long a host may take to answer when it is asked whether it does.
const ANSWER_MAX: Duration = Duration::from_secs(3);
const REPLICAS: &str = "define the macros shard and replica on every server, as store.cluster names its hosts (RUNBOOK: \
                        On a cluster)";
const MOVE: &str = "give store.database a new name and copy the rows into it (RUNBOOK: On a cluster)";

/// A server of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub shard: u64,
    /// `host:port` as the servers know it.
    pub address: String,
}

/// A host that is connected.
pub(super) struct Reached {
    host: Host,
    connection: Connection,
}

/// The macros of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Macros {
    shard: String,
    replica: String,
}

impl Host {
    /// As messages name it.
    pub(super) fn name(&self) -> String {
        format!("shard {} ({})", self.shard, self.address)
    }

    fn about(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Unavailable(message) => {
                StoreError::Unavailable(format!("{}: {message}", self.name()))
            }
            StoreError::Schema { message, cure } => {
                StoreError::Schema { message: format!("{}: {message}", self.name()), cure }
            }
            StoreError::Query(message) => StoreError::Query(format!("{}: {message}", self.name())),
            other => other,
        }
    }
}

/// How many shards these hosts are.
pub(super) fn shards(hosts: &[Host]) -> usize {
    hosts.iter().map(|host| host.shard).collect::<HashSet<_>>().len()
}

impl Store {
    /// A table of the servers' own, such as `parts`: of every host of the cluster, where there is one.
    pub(super) fn system(&self, table: &'static str) -> Sql {
        match self.cluster() {
            None => Sql::new("system.").push(table),
            Some(cluster) => {
                Sql::new("clusterAllReplicas(").arg(cluster).push(", system.").push(table).push(")")
            }
        }
    }

    /// The table that holds the rows.
    pub(super) fn held(&self, table: &str) -> String {
        if self.cluster().is_some() { local(table) } else { table.to_owned() }
    }

    /// The hosts of the cluster, shard by shard.
    pub(super) async fn hosts(&self, cluster: &str) -> Result<Vec<Host>, StoreError> {
        let sql = Sql::new(
            "SELECT toUInt64(shard_num) AS shard, host_name AS host, toUInt64(port) AS at FROM system.clusters WHERE \
             cluster = ",
        )
        .arg(cluster)
        .push(" ORDER BY shard_num, replica_num");
        let rows: Vec<(u64, String, u64)> = self.select(sql).await?;
        let hosts = rows.into_iter().map(|(shard, host, port)| {
            let address =
                if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            Host { shard, address }
        });
        let hosts: Vec<Host> = hosts.collect();
        if hosts.is_empty() {
            let sql = Sql::new("SELECT DISTINCT cluster AS cluster FROM system.clusters ORDER BY cluster");
            let known: Vec<String> =
                self.select::<(String,)>(sql).await?.into_iter().map(|(name,)| name).collect();
            return Err(StoreError::Unavailable(format!(
                "the server knows no cluster {cluster:?} (store.cluster); it knows: {}",
                known.join(", ")
            )));
        }
        Ok(hosts)
    }

    /// Does one host of every shard answer? The error names those of which none does.
    pub(super) async fn probe_shards(&self, cluster: &str) -> Result<(), StoreError> {
        let sql = Sql::new("SELECT toUInt64(1) AS one FROM cluster(").arg(cluster).push(", system.one)");
        let limits = super::Limits { timeout: Duration::from_secs(10), ..self.limits() };
        let Err(error) = self.select_within::<(u64,)>(sql, limits).await else { return Ok(()) };
        let hosts = self.hosts(cluster).await?;
        let silent = self.silent(&hosts).await;
        let shard_is_gone = |shard: u64| {
            hosts.iter().filter(|host| host.shard == shard).all(|host| silent.contains_key(&host.address))
        };
        let gone: Vec<String> = hosts
            .iter()
            .filter(|host| shard_is_gone(host.shard))
            .map(|host| format!("{}: {}", host.name(), silent[&host.address]))
            .collect();
        if gone.is_empty() {
            return Err(error);
        }
        Err(StoreError::Unavailable(format!("of the cluster {cluster} do not answer: {}", gone.join("; "))))
    }

    /// The hosts that do not answer, by address, and why.
    pub(super) async fn silent(&self, hosts: &[Host]) -> HashMap<String, StoreError> {
        let asked = hosts.iter().map(|host| async move {
            let answer = async {
                let connection = self.pool().at(&host.address).await?;
                connection.run(&Sql::new("SELECT 1")).await
            };
            let error = match tokio::time::timeout(ANSWER_MAX, answer).await {
                Ok(answer) => answer.err(),
                Err(_) => Some(StoreError::Unavailable(format!("no answer within {ANSWER_MAX:?}"))),
            };
            error.map(|error| (host.address.clone(), error))
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Connects to every host, in the database, which is made where it is not.
    async fn reach(&self, hosts: Vec<Host>) -> Result<Vec<Reached>, StoreError> {
        let mut reached = Vec::new();
        for host in hosts {
            let connection = self.pool().at(&host.address).await.map_err(|error| host.about(error))?;
            reached.push(Reached { host, connection });
        }
        let make = Sql::new("CREATE DATABASE IF NOT EXISTS ").name(self.database());
        self.tell(&reached, On::Hosts, &make).await?;
        self.tell(&reached, On::Hosts, &Sql::new("USE ").name(self.database())).await?;
        Ok(reached)
    }

    /// Runs a statement on these hosts, one after the other.
    async fn tell(&self, reached: &[Reached], on: On, sql: &Sql) -> Result<(), StoreError> {
        let mut last = None;
        for Reached { host, connection } in reached {
            if on == On::Shards && last.replace(host.shard) == Some(host.shard) {
                continue;
            }
            let limit = self.request_timeout();
            match tokio::time::timeout(limit, connection.run(sql)).await {
                Ok(answer) => answer.map_err(|error| host.about(error))?,
                Err(_) => {
                    let message = format!("{}: no answer within {limit:?}", host.name());
                    return Err(StoreError::Timeout { setting: super::error::REQUEST_TIMEOUT, message });
                }
            }
        }
        Ok(())
    }

    /// Runs statements in order, each where it belongs. Every host must answer.
    pub(super) async fn tell_cluster(&self, cluster: &str, steps: &[(On, Sql)]) -> Result<(), StoreError> {
        let reached = self.reach(self.hosts(cluster).await?).await?;
        for (on, sql) in steps {
            self.tell(&reached, *on, sql).await?;
        }
        Ok(())
    }

    /// [`Store::migrate`] on a cluster: on every host what is not there on any.
    pub(super) async fn migrate_cluster(&self, cluster: &str) -> Result<Vec<String>, StoreError> {
        let hosts = self.hosts(cluster).await?;
        let away = self.silent(&hosts).await;
        if !away.is_empty() && self.is_whole(cluster, shards(&hosts)).await? {
            let away: Vec<String> =
                away.into_iter().map(|(host, error)| format!("{host}: {error}")).collect();
            tracing::warn!(
                away = away.join("; "),
                "hosts of the cluster are away; those that answer have all tables"
            );
            return Ok(Vec::new());
        }
        let place = Place {
            cluster,
            database: self.database(),
            shards: shards(&hosts),
            replicated: replicated(&hosts, &self.macros(cluster).await?)?,
        };
        let reached = self.reach(hosts).await?;
        self.tell(&reached, On::Hosts, &Sql::new(MAKE_LIST)).await?;
        self.hold_layout(place.shards).await?;
        let tables: Vec<String> =
            TABLES.into_iter().flat_map(|table| [table.to_owned(), local(table)]).collect();
        let rebuild = self.tables_on(&tables).await?.len() < tables.len() * reached.len();
        let pending = self.pending_migrations().await?;
        let mut applied = Vec::new();
        for (name, statement) in MIGRATIONS {
            if rebuild || pending.iter().any(|pending| pending == name) {
                for (on, sql) in sharded::steps(statement, &place)? {
                    self.tell(&reached, on, &sql).await?;
                }
                let done = Sql::new("INSERT INTO schema_migrations (name) VALUES (").arg(name).push(")");
                self.tell(&reached, On::Hosts, &done).await?;
                tracing::info!(migration = name, cluster, "applied a migration of the event store");
                applied.push(name.to_owned());
            }
        }
        if rebuild {
            self.promote_everywhere(&reached).await?;
        }
        Ok(applied)
    }

    /// Gives the hosts whose tables were made anew the columns of promoted keys that others have.
    async fn promote_everywhere(&self, reached: &[Reached]) -> Result<(), StoreError> {
        let sql = Sql::new("SELECT comment AS key FROM ")
            .append(&self.system("columns"))
            .push(" WHERE database = ")
            .arg(self.database())
            .push(" AND table IN ")
            .list(["events", "events_local"])
            .push(" AND default_kind = 'MATERIALIZED' GROUP BY comment HAVING count() < ")
            .arg(reached.len() as u64 * 2);
        for (key,) in self.select::<(String,)>(sql).await? {
            self.promote(&key).await?;
        }
        Ok(())
    }

    /// Has the host of every shard that answers all tables? So that one that is away keeps no process from starting.
    async fn is_whole(&self, cluster: &str, shards: usize) -> Result<bool, StoreError> {
        let names = TABLES.iter().flat_map(|table| [(*table).to_owned(), local(table)]);
        let sql = Sql::new("SELECT count() AS n FROM cluster(")
            .arg(cluster)
            .push(", system.tables) WHERE database = ")
            .arg(self.database())
            .push(" AND name IN ")
            .list(names.collect::<Vec<_>>().iter().map(String::as_str));
        let tables: Vec<(u64,)> = self.select(sql).await?;
        if tables != [((TABLES.len() * 2 * shards) as u64,)] {
            return Ok(false);
        }
        let applied = self.applied(Sql::new("cluster(").arg(cluster), shards).await?;
        Ok(MIGRATIONS.iter().all(|(name, _)| applied.iter().any(|(applied,)| applied == name)))
    }

    /// Names of migrations that every host has applied.
    pub(super) async fn applied_on_all(&self, cluster: &str) -> Result<Vec<(String,)>, StoreError> {
        let hosts = self.hosts(cluster).await?.len();
        self.applied(Sql::new("clusterAllReplicas(").arg(cluster), hosts).await
    }

    /// Names of migrations that as many of these have applied.
    async fn applied(&self, asked: Sql, hosts: usize) -> Result<Vec<(String,)>, StoreError> {
        let sql = Sql::new("SELECT name AS name FROM (SELECT DISTINCT name, _shard_num AS host FROM ")
            .append(&asked)
            .push(", ")
            .arg(self.database())
            .push(", 'schema_migrations')) GROUP BY name HAVING count() >= ")
            .arg(hosts as u64);
        self.select(sql).await
    }

    /// Which of these tables there are, once a host: name, engine, comment.
    async fn tables_on(&self, names: &[String]) -> Result<Vec<(String, String, String)>, StoreError> {
        let sql = Sql::new("SELECT name AS name, engine AS engine, comment AS comment FROM ")
            .append(&self.system("tables"))
            .push(" WHERE database = ")
            .arg(self.database())
            .push(" AND name IN ")
            .list(names.iter().map(String::as_str));
        self.select(sql).await
    }

    /// Rows that stand elsewhere than the key says would count twice once they are written again: so tables that hold rows
    /// of a single server, or were made for another number of shards, are not taken over.
    async fn hold_layout(&self, shards: usize) -> Result<(), StoreError> {
        let names: Vec<String> = TABLES.into_iter().map(str::to_owned).collect();
        for (name, engine, comment) in self.tables_on(&names).await? {
            let message = if engine != "Distributed" {
                format!("{name} is a {engine} of a single server")
            } else if comment != made_for(shards) {
                format!("{name} was made for {comment}, and the cluster has {shards}")
            } else {
                continue;
            };
            return Err(StoreError::Schema { message, cure: MOVE });
        }
        Ok(())
    }

    async fn macros(&self, cluster: &str) -> Result<Vec<Macros>, StoreError> {
        let sql = Sql::new(
            "SELECT toUInt64(host) AS number, maxIf(text, name = 'shard') AS shard, maxIf(text, name = 'replica') AS replica \
             FROM (SELECT _shard_num AS host, macro AS name, substitution AS text FROM clusterAllReplicas(",
        )
        .arg(cluster)
        .push(", system.macros)) GROUP BY host");
        let rows: Vec<(u64, String, String)> = self.select(sql).await?;
        let mut macros = Vec::new();
        for (host, shard, replica) in rows {
            // Counted from one, in the order of the hosts.
            let place = usize::try_from(host).unwrap_or_default().saturating_sub(1);
            if macros.len() <= place {
                macros.resize(place + 1, Macros::default());
            }
            if let Some(known) = macros.get_mut(place) {
                *known = Macros { shard, replica };
            }
        }
        Ok(macros)
    }
}

/// Are the tables of these hosts replicated? They are where the servers have the macros for it, and must be where a shard
/// has more than one copy. The macros must tell hosts apart as the cluster does: else shards would share their rows.
fn replicated(hosts: &[Host], macros: &[Macros]) -> Result<bool, StoreError> {
    let refuse = |message: String| Err(StoreError::Schema { message, cure: REPLICAS });
    let of = |index: usize| macros.get(index).cloned().unwrap_or_default();
    let has = |index: usize| !of(index).shard.is_empty() && !of(index).replica.is_empty();
    let with = (0..hosts.len()).filter(|index| has(*index)).count();
    if with == 0 {
        return if shards(hosts) == hosts.len() {
            Ok(false)
        } else {
            refuse("a shard has more than one host, and no server has macros to replicate by".to_owned())
        };
    }
    for (index, host) in hosts.iter().enumerate() {
        if !has(index) {
            return refuse(format!("{} has no macros shard and replica, as others have", host.name()));
        }
        for (other, before) in hosts.iter().enumerate().take(index) {
            let (mine, theirs) = (of(index), of(other));
            if (host.shard == before.shard) != (mine.shard == theirs.shard) || mine == theirs {
                return refuse(format!(
                    "{} has the macros shard {} and replica {}, and {} shard {} and replica {}",
                    before.name(),
                    theirs.shard,
                    theirs.replica,
                    host.name(),
                    mine.shard,
                    mine.replica
                ));
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(shards: &[u64]) -> Vec<Host> {
        let host = |(index, shard): (usize, &u64)| Host { shard: *shard, address: format!("h{index}:9000") };
        shards.iter().enumerate().map(host).collect()
    }

    fn macros(of: &[(&str, &str)]) -> Vec<Macros> {
        let made =
            |(shard, replica): &(&str, &str)| Macros { shard: (*shard).into(), replica: (*replica).into() };
        of.iter().map(made).collect()
    }

    #[test]
    fn tables_are_replicated_where_the_servers_can_name_their_copies() {
        let (alone, copied) = (hosts(&[1, 2]), hosts(&[1, 1, 2, 2]));
        assert_eq!(replicated(&alone, &[]), Ok(false));
        assert_eq!(replicated(&alone, &macros(&[("1", "a"), ("2", "a")])), Ok(true));
        let right = macros(&[("1", "a"), ("1", "b"), ("2", "a"), ("2", "b")]);
        assert_eq!(replicated(&copied, &right), Ok(true));
        for (hosts, wrong) in [
            (&copied, vec![]),
            (&alone, macros(&[("1", "a")])),
            (&alone, macros(&[("1", "a"), ("1", "b")])),
            (&copied, macros(&[("1", "a"), ("1", "a"), ("2", "a"), ("2", "b")])),
            (&copied, macros(&[("1", "a"), ("2", "b"), ("2", "a"), ("1", "b")])),
        ] {
            let refused = replicated(hosts, &wrong);
            assert!(
                matches!(refused, Err(StoreError::Schema { cure, .. }) if cure == REPLICAS),
                "{wrong:?}: {refused:?}"
            );
        }
    }
}

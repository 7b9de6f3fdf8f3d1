//! Promoted properties: keys that an operator gave a column of their own.
//!
//! The column is computed by the store from the JSON text: when a row is inserted, and for rows from before the promotion
//! when they are read, until the fill has written it into their parts. So its value is that of the text always, whatever
//! it covers, and whatever types the key has had. Which keys are promoted stands in the table itself.

use sha2::{Digest, Sha256};

use super::hot::column_of;
use super::sharded::altered;
use super::{Row, RowCells, Sql, Store, StoreError};

/// How the columns of promoted keys begin.
const PREFIX: &str = "pm_";

/// A promoted key.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Promoted {
    pub key: String,
    #[serde(skip)]
    pub column: String,
    /// What the column takes on disk.
    pub bytes: u64,
    /// Parts of the table whose rows are still computed when they are read.
    pub parts_to_fill: u64,
    /// Why the fill does not go on, if it does not.
    pub error: Option<String>,
}

/// The store's work on a column that it fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filling {
    /// Why it does not go on, if it does not.
    pub error: Option<String>,
}

impl Row for Promoted {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            key: cells.next()?,
            column: cells.next()?,
            bytes: cells.next()?,
            parts_to_fill: cells.next()?,
            error: Some(cells.next::<String>()?).filter(|error| !error.is_empty()),
        })
    }
}

impl Store {
    /// Has this key a column from the start?
    pub fn has_own_column(key: &str) -> bool {
        column_of(key).is_some()
    }

    /// The promoted keys with their columns.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn promoted_columns(&self) -> Result<Vec<(String, String)>, StoreError> {
        let sql = Sql::new(
            "SELECT comment AS key, name AS column FROM system.columns WHERE database = currentDatabase() AND table = \
             'events' AND default_kind = 'MATERIALIZED' AND startsWith(name, ",
        )
        .arg(PREFIX)
        .push(") ORDER BY key");
        self.select(sql).await
    }

    /// The promoted keys, with how far each is filled.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn promoted(&self) -> Result<Vec<Promoted>, StoreError> {
        let of_events = Sql::new(" WHERE database = ")
            .arg(self.database())
            .push(" AND table = ")
            .arg(&*self.held("events"));
        let sql = Sql::new(
            "SELECT key, name AS column, taken AS bytes, toUInt64(greatest(toInt64((SELECT count() FROM ",
        )
        .append(&self.system("parts"))
        .append(&of_events)
        .push(
            " AND active)) - toInt64(have), 0)) AS to_fill, reason AS error FROM (SELECT any(comment) AS key, name, \
             sum(data_compressed_bytes) AS taken FROM ",
        )
        .append(&self.system("columns"))
        .append(&of_events)
        .push(" AND default_kind = 'MATERIALIZED' AND startsWith(name, ")
        .arg(PREFIX)
        .push(
            ") GROUP BY name) AS columns ANY LEFT JOIN (SELECT extract(command, '`?(pm_[0-9a-f]+)`?') AS filled, \
             anyIf(latest_fail_reason, latest_fail_reason != '') AS reason FROM ",
        )
        .append(&self.system("mutations"))
        .append(&of_events)
        .push(
            " AND NOT is_done GROUP BY filled) AS fills ON filled = name ANY LEFT JOIN (SELECT column AS held, count() AS \
             have FROM ",
        )
        .append(&self.system("parts_columns"))
        .append(&of_events)
        .push(" AND active GROUP BY held) AS parts ON held = name ORDER BY key");
        self.select(sql).await
    }

    /// The partitions with rows that a key's column does not cover yet, oldest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn partitions_to_fill(&self, key: &str) -> Result<Vec<String>, StoreError> {
        let of_events = Sql::new(" WHERE database = ")
            .arg(self.database())
            .push(" AND table = ")
            .arg(&*self.held("events"))
            .push(" AND active");
        // By its path: two hosts may have parts of one name.
        let sql = Sql::new("SELECT DISTINCT id FROM (SELECT partition_id AS id, path FROM ")
            .append(&self.system("parts"))
            .append(&of_events)
            .push(") WHERE path NOT IN (SELECT path FROM ")
            .append(&self.system("parts_columns"))
            .append(&of_events)
            .push(" AND column = ")
            .arg(column(key))
            .push(") ORDER BY id");
        let rows: Vec<(String,)> = self.select(sql).await?;
        Ok(rows.into_iter().map(|(id,)| id).collect())
    }

    /// Begins to fill a key's column in the rows of this partition. They answer the same before and after.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn fill(&self, key: &str, partition: &str) -> Result<(), StoreError> {
        let change = Sql::new("MATERIALIZE COLUMN ").name(&column(key));
        let change = change.push(" IN PARTITION ID ").arg(partition);
        match self.cluster() {
            None => self.execute(Sql::new("ALTER TABLE events ").append(&change)).await,
            // The rows are where they are held; who asks has none to fill.
            Some(cluster) => self.tell_cluster(cluster, &altered("events", &change)[..1]).await,
        }
    }

    /// What the store is doing to fill a key's column; `None`: nothing.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn filling(&self, key: &str) -> Result<Option<Filling>, StoreError> {
        let sql = Sql::new(
            "SELECT count() AS open, anyIf(latest_fail_reason, latest_fail_reason != '') AS reason FROM ",
        )
        .append(&self.system("mutations"))
        .push(" WHERE database = ")
        .arg(self.database())
        .push(" AND table = ")
        .arg(&*self.held("events"))
        .push(" AND NOT is_done AND position(command, ")
        .arg(column(key))
        .push(") > 0");
        let rows: Vec<(u64, String)> = self.select(sql).await?;
        let under_way = rows.into_iter().find(|(open, _)| *open > 0);
        Ok(under_way.map(|(_, reason)| Filling { error: Some(reason).filter(|reason| !reason.is_empty()) }))
    }

    /// Gives a key a column of its own, which new rows fill; once more changes nothing. False: the key has a column
    /// from the start.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn promote(&self, key: &str) -> Result<bool, StoreError> {
        if Self::has_own_column(key) {
            return Ok(false);
        }
        let add = Sql::new("ADD COLUMN IF NOT EXISTS ")
            .name(&column(key))
            .push(" String MATERIALIZED JSONExtractRaw(properties, ")
            .arg(key)
            .push(") COMMENT ")
            .arg(key);
        match self.cluster() {
            None => self.execute(Sql::new("ALTER TABLE events ").append(&add)).await?,
            Some(cluster) => self.tell_cluster(cluster, &altered("events", &add)).await?,
        }
        Ok(true)
    }

    /// Takes the column away; questions read the text again.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn demote(&self, key: &str) -> Result<(), StoreError> {
        let gone = Sql::new("DROP COLUMN IF EXISTS ").name(&column(key));
        let Some(cluster) = self.cluster() else {
            return self.execute(Sql::new("ALTER TABLE events ").append(&gone)).await;
        };
        // Nobody asks for it any more, then it goes.
        let [held, asked] = altered("events", &gone);
        self.tell_cluster(cluster, &[asked, held]).await
    }
}

/// Any key makes a name; two keys never the same.
fn column(key: &str) -> String {
    let digest = Sha256::digest(key);
    digest.iter().take(12).fold(PREFIX.to_owned(), |name, byte| name + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_column_of_its_own() {
        assert_ne!(column("a"), column("A"));
        assert_eq!(column("a"), column("a"));
        assert!(column("a `b'").chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
    }
}

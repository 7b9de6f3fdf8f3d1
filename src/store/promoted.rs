//! Promoted properties: keys that an operator gave a column of their own.
//!
//! The column is computed by the store from the JSON text: when a row is inserted, and for rows from before the promotion
//! when they are read, until the fill has written it into their parts. So its value is that of the text always, whatever
//! it covers, and whatever types the key has had. Which keys are promoted stands in the table itself.

use sha2::{Digest, Sha256};

use super::hot::column_of;
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
        let fills = "SELECT extract(command, '`?(pm_[0-9a-f]+)`?') AS filled, sum(parts_to_do) AS parts, \
                     anyIf(latest_fail_reason, latest_fail_reason != '') AS reason FROM system.mutations WHERE database = \
                     currentDatabase() AND table = 'events' AND NOT is_done GROUP BY filled";
        let sql = Sql::new(
            "SELECT comment AS key, name AS column, data_compressed_bytes AS bytes, toUInt64(parts) AS to_fill, reason AS \
             error FROM system.columns AS columns ANY LEFT JOIN (",
        )
        .push(fills)
        .push(
            ") AS fills ON filled = name WHERE database = currentDatabase() AND table = 'events' AND default_kind = \
             'MATERIALIZED' AND startsWith(name, ",
        )
        .arg(PREFIX)
        .push(") ORDER BY key");
        self.select(sql).await
    }

    /// Gives a key a column of its own and begins to fill it; once more changes nothing. False: the key has a column
    /// from the start.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn promote(&self, key: &str) -> Result<bool, StoreError> {
        if Self::has_own_column(key) {
            return Ok(false);
        }
        let column = column(key);
        let add = Sql::new("ALTER TABLE events ADD COLUMN IF NOT EXISTS ")
            .name(&column)
            .push(" String MATERIALIZED JSONExtractRaw(properties, ")
            .arg(key)
            .push(") COMMENT ")
            .arg(key);
        self.execute(add).await?;
        self.execute(Sql::new("ALTER TABLE events MATERIALIZE COLUMN ").name(&column)).await?;
        Ok(true)
    }

    /// Takes the column away; questions read the text again.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn demote(&self, key: &str) -> Result<(), StoreError> {
        self.execute(Sql::new("ALTER TABLE events DROP COLUMN IF EXISTS ").name(&column(key))).await
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

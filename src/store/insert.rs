//! Inserts: one native block a call, confirmed or not known to be.

use futures::{SinkExt as _, StreamExt as _};
use klickhouse::KlickhouseError;
use klickhouse::block::Block;

use super::block::EventBlock;
use super::connection::Connection;
use super::engine::Who;
use super::error::insert_error;
use super::pool::Pooled;
use super::{InsertError, Sql, Store, StoreError};

/// Rows in one slice of a block on the wire. Of a slice, the values exist twice for a moment (ours and klickhouse's,
/// about 48 bytes a value): this many stay in the processor's cache. The server puts the slices together again before
/// it writes.
const SLICE_ROWS: usize = 1024;
/// More rows or bytes than any insert has: the server writes one block, whatever the slices were.
const WHOLE: &str = "4294967296";

impl Store {
    /// Inserts all rows of `block`, or none that count twice: the same rows under the same `token` are one insert,
    /// however often they are sent (the table remembers 10,000 tokens). `Ok` means they are on the store's disk.
    ///
    /// The token must stand for exactly these rows: other rows under a token that was used are silently dropped.
    ///
    /// # Errors
    /// See [`InsertError`]. A block without rows is [`InsertError::Rejected`].
    pub async fn insert_events(&self, block: &EventBlock, token: &str) -> Result<(), InsertError> {
        let columns = block.used_columns();
        let statement = statement("events", columns.iter().map(|(name, _)| *name));
        let inserted =
            self.insert(&statement, block.len(), token, |from, to| block.native(&columns, from, to)).await;
        // Also when the answer was lost: they may be stored.
        self.inner.changes.note(block.days());
        inserted
    }

    /// Inserts `rows` rows, of which `slice` makes native blocks.
    pub(super) async fn insert(
        &self,
        statement: &Sql,
        rows: usize,
        token: &str,
        slice: impl Fn(usize, usize) -> Block,
    ) -> Result<(), InsertError> {
        if rows == 0 {
            return Err(InsertError::Rejected("a block without rows".to_owned()));
        }
        let limit = self.request_timeout();
        let pooled = self.pool().get(limit, Who::Owner).await.map_err(|error| match error {
            StoreError::Schema { message, cure } => InsertError::Schema { message, cure },
            other => InsertError::Unavailable(other.to_string()),
        })?;
        match tokio::time::timeout(limit, send(&pooled, statement, rows, token, slice)).await {
            Ok(Ok(())) => {
                pooled.done();
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(InsertError::OutcomeUnknown(format!(
                "no answer within {limit:?} (store.request_timeout)"
            ))),
        }
    }
}

async fn send(
    pooled: &Pooled,
    statement: &Sql,
    rows: usize,
    token: &str,
    slice: impl Fn(usize, usize) -> Block,
) -> Result<(), InsertError> {
    let connection = pooled.connection().map_err(|error| InsertError::Unavailable(error.to_string()))?;
    let settings = Connection::settings([
        ("insert_deduplication_token", token.to_owned()),
        ("min_insert_block_size_rows", WHOLE.to_owned()),
        ("min_insert_block_size_bytes", WHOLE.to_owned()),
        ("max_insert_threads", "1".to_owned()),
        // The server would merge a block with itself before it writes, at half of the whole price of an insert. Rows of
        // one key in one block are rare (the consumer skips duplicates), and FINAL joins them as it joins parts.
        ("optimize_on_insert", "0".to_owned()),
    ]);
    let (mut slices, received) = futures::channel::mpsc::channel(0);
    let insert = connection.client.insert_native_raw(statement.text(), received, Some(settings));
    let feed = async {
        for from in (0..rows).step_by(SLICE_ROWS) {
            // An error means that the insert has ended already; it says why.
            if slices.send(slice(from, from + SLICE_ROWS)).await.is_err() {
                break;
            }
        }
        drop(slices);
    };
    let (answer, ()) = futures::join!(insert, feed);
    let mut answer = answer.map_err(|error| insert_error(&error, true))?;
    while let Some(packet) = answer.next().await {
        packet.map_err(|error| insert_error(&error, true))?;
    }
    confirm(connection).await
}

/// klickhouse ends the answer in the same way when the server has confirmed and when the connection broke after the
/// rows were sent. Only a connection that still answers tells that it was the former.
async fn confirm(connection: &Connection) -> Result<(), InsertError> {
    let unknown = |error: KlickhouseError| InsertError::OutcomeUnknown(error.to_string());
    let lost = || InsertError::OutcomeUnknown("the connection was lost after the rows were sent".to_owned());
    if !connection.is_open() {
        return Err(lost());
    }
    let mut pong = connection.client.query_raw("SELECT 1", None).await.map_err(unknown)?;
    let mut rows = 0;
    while let Some(block) = pong.next().await {
        rows += block.map_err(unknown)?.rows;
    }
    if rows == 1 && connection.is_open() { Ok(()) } else { Err(lost()) }
}

pub(super) fn statement(table: &'static str, columns: impl IntoIterator<Item = &'static str>) -> Sql {
    let mut sql = Sql::new("INSERT INTO ").push(table).push(" (");
    for (index, column) in columns.into_iter().enumerate() {
        sql = if index > 0 { sql.push(", ") } else { sql }.push(column);
    }
    sql.push(") FORMAT Native")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_names_every_column_in_the_order_of_the_block() {
        let mut block = EventBlock::new();
        block.push(&crate::store::block::tests::row("a", "{}"));
        let columns = block.used_columns();
        let names: Vec<String> = block.native(&columns, 0, 1).column_types.keys().cloned().collect();
        let statement = statement("events", columns.iter().map(|(name, _)| *name));
        assert_eq!(statement.text(), format!("INSERT INTO events ({}) FORMAT Native", names.join(", ")));
    }
}

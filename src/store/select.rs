//! Questions: statements that answer rows, within limits.

use std::marker::PhantomData;
use std::time::Duration;

use futures::StreamExt as _;
use klickhouse::block::Block;
use klickhouse::{KlickhouseError, Progress};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;

use super::connection::Connection;
use super::engine::Who;
use super::error::{REQUEST_TIMEOUT, store_error};
use super::pool::Pooled;
use super::row::{Row, rows};
use super::settled::{How, OVERTAKEN};
use super::{Sql, Store, StoreError};
use crate::telemetry::names;

/// What one question may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest it may run, the wait for a connection included.
    pub timeout: Duration,
    /// Most memory it may take in the store; `None`: what the store gives.
    pub memory_bytes_max: Option<u64>,
    /// Most rows it may read; `None`: as many as there are.
    pub rows_read_max: Option<u64>,
    /// The setting that `timeout` comes from, for the error that names it.
    pub timeout_setting: &'static str,
    /// Asked as the user that may only read what SQL of a caller's own is about; where there is none, the store is told
    /// to change nothing, its settings included.
    pub read_only: bool,
}

/// How much longer than the server we wait, so that its own error arrives.
const GRACE: Duration = Duration::from_secs(2);

/// Of statements that read settled days as they stand: what holds of one version of an event only must not keep the
/// server from looking at another.
const SETTLED: [(&str, &str); 3] = [
    ("optimize_move_to_prewhere", "0"),
    ("ignore_data_skipping_indices", "received_at_minmax, source_offset_minmax, raw_event_id_bloom"),
    // Or `*` is without the columns of promoted properties.
    ("asterisk_include_materialized_columns", "1"),
];

impl Store {
    /// The limits of questions that no user asked: `store.request_timeout`.
    pub fn limits(&self) -> Limits {
        Limits {
            timeout: self.request_timeout(),
            memory_bytes_max: None,
            rows_read_max: None,
            timeout_setting: REQUEST_TIMEOUT,
            read_only: false,
        }
    }

    /// Asks a question under [`Store::limits`]; all rows at once.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn select<T: Row>(&self, sql: Sql) -> Result<Vec<T>, StoreError> {
        self.select_within(sql, self.limits()).await
    }

    /// Asks a question under its own limits; all rows at once. Bound them with `LIMIT`.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn select_within<T: Row>(&self, sql: Sql, limits: Limits) -> Result<Vec<T>, StoreError> {
        self.select_counted(sql, limits).await.map(|(rows, _)| rows)
    }

    /// As [`Store::select_within`], and how many rows the store read for it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn select_counted<T: Row>(
        &self,
        sql: Sql,
        limits: Limits,
    ) -> Result<(Vec<T>, u64), StoreError> {
        let deadline = limits.timeout + GRACE;
        let all = async {
            let mut stream = self.stream_within(sql, limits).await?;
            let mut out = Vec::new();
            loop {
                match stream.next_chunk().await {
                    Ok(Some(chunk)) => out.extend(chunk),
                    Ok(None) => return Ok((out, stream.rows_read())),
                    // Nobody has seen what there is of it.
                    Err(_) if stream.is_overtaken() => {
                        out.clear();
                        stream.begin_again().await?;
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        tokio::time::timeout(deadline, all).await.unwrap_or_else(|_| {
            Err(StoreError::Timeout {
                setting: limits.timeout_setting,
                message: format!("no whole answer within {:?}", limits.timeout),
            })
        })
    }

    /// Asks a question whose answer is read block by block, under [`Store::limits`].
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn stream<T: Row>(&self, sql: Sql) -> Result<RowStream<T>, StoreError> {
        self.stream_within(sql, self.limits()).await
    }

    /// Asks a question whose answer is read block by block, under its own limits. The timeout counts the store's
    /// work and each wait for a block, not the time that the reader takes between blocks.
    ///
    /// # Errors
    /// See [`StoreError`].
    ///
    /// Days at rest are read as they stand (`store/settled.rs`). If rows came to one of them meanwhile, it begins again
    /// with FINAL; only where it has answered rows already, it is [`StoreError::Unavailable`]: statements whose answer is
    /// long are best grouped.
    pub async fn stream_within<T: Row>(&self, sql: Sql, limits: Limits) -> Result<RowStream<T>, StoreError> {
        let Some((plain, how)) = self.grounds().plain(&sql) else {
            return self.open_stream(&sql, limits, &[]).await;
        };
        names::STORE_SETTLED_READS.counter(&[("how", how.as_str())]).increment(1);
        let stream = self.open_stream(&plain, limits, &SETTLED).await?;
        Ok(RowStream { settled: Some(Box::new((self.clone(), sql))), ..stream })
    }

    /// Would this statement be asked without FINAL now? Its scopes are looked into from then on.
    pub fn is_at_rest(&self, sql: &Sql) -> bool {
        matches!(self.grounds().plain(sql), Some((_, How::Plain)))
    }

    /// The statement as it would be asked now.
    pub fn asked(&self, sql: &Sql) -> String {
        self.grounds().plain(sql).map_or_else(|| sql.text().to_owned(), |(plain, _)| plain.text().to_owned())
    }

    async fn open_stream<T: Row>(
        &self,
        sql: &Sql,
        limits: Limits,
        more: &[(&'static str, &'static str)],
    ) -> Result<RowStream<T>, StoreError> {
        let who = if limits.read_only { Who::Reader } else { Who::Owner };
        let pooled = self.pool().get(limits.timeout, who).await?;
        let mut settings = vec![
            ("max_execution_time", format!("{:.3}", limits.timeout.as_secs_f64())),
            ("timeout_overflow_mode", "throw".to_owned()),
        ];
        if let Some(bytes) = limits.memory_bytes_max {
            settings.push(("max_memory_usage", bytes.to_string()));
        }
        if let Some(rows) = limits.rows_read_max {
            settings.push(("max_rows_to_read", rows.to_string()));
            settings.push(("read_overflow_mode", "throw".to_owned()));
        }
        let connection = pooled.connection()?;
        settings.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        if limits.read_only && connection.who == Who::Owner {
            // The last one: after it the server takes no other. The reader has it of itself.
            settings.push(("readonly", "1".to_owned()));
        }
        let client = &connection.client;
        let progress = client.subscribe_progress();
        let asked = client.query_raw(sql.text(), Some(Connection::settings(settings))).await;
        let blocks = Box::pin(asked.map_err(|error| limited(&error, limits))?);
        Ok(RowStream {
            pooled: Some(pooled),
            blocks,
            progress,
            rows_read: 0,
            limits,
            settled: None,
            is_begun: false,
            is_overtaken: false,
            row: PhantomData,
        })
    }

    /// What tells how many rows `statement` reads at most, from the index of each table alone: rows of (database, table,
    /// parts, rows). `None` on a cluster, whose shards are not looked into.
    pub fn estimate(&self, statement: &Sql) -> Option<Sql> {
        self.cluster().is_none().then(|| Sql::new("EXPLAIN ESTIMATE ").again(statement.text()))
    }

    /// Runs a statement that answers nothing.
    pub async fn execute(&self, sql: Sql) -> Result<(), StoreError> {
        self.select::<Nothing>(sql).await.map(|_| ())
    }
}

/// A row of a statement that answers none (or whose rows do not matter).
struct Nothing;

impl Row for Nothing {
    fn from_cells(_: &mut super::row::RowCells) -> Result<Self, StoreError> {
        Ok(Self)
    }
}

fn limited(error: &KlickhouseError, limits: Limits) -> StoreError {
    match store_error(error) {
        StoreError::Timeout { message, .. } => {
            StoreError::Timeout { setting: limits.timeout_setting, message }
        }
        other => other,
    }
}

fn is_overtaken(error: &KlickhouseError) -> bool {
    matches!(error, KlickhouseError::ServerException { message, .. } if message.contains(OVERTAKEN))
}

type Blocks = std::pin::Pin<Box<dyn futures::Stream<Item = Result<Block, KlickhouseError>> + Send>>;

/// An answer under way. Dropped before its end, it ends the question in the store.
pub struct RowStream<T> {
    pooled: Option<Pooled>,
    blocks: Blocks,
    /// What the store says of its work: of this question alone, as a connection has one at a time.
    progress: Receiver<(uuid::Uuid, Progress)>,
    rows_read: u64,
    limits: Limits,
    /// The statement as it is asked with FINAL, where it was asked without.
    settled: Option<Box<(Store, Sql)>>,
    /// Has it answered rows?
    is_begun: bool,
    is_overtaken: bool,
    row: PhantomData<fn() -> T>,
}

impl<T: Row> RowStream<T> {
    /// The next rows (at least one, at most a block's 65,536); `None` at the end of the whole answer.
    ///
    /// # Errors
    /// See [`StoreError`]. After an error there is nothing more to come.
    pub async fn next_chunk(&mut self) -> Result<Option<Vec<T>>, StoreError> {
        while self.pooled.is_some() {
            let next = tokio::time::timeout(self.limits.timeout + GRACE, self.next_block()).await;
            let failed = match next {
                Ok(Some(Ok(block))) if block.rows == 0 => continue,
                Ok(Some(Ok(block))) => match rows(block) {
                    Ok(rows) => {
                        self.is_begun = true;
                        return Ok(Some(rows));
                    }
                    Err(error) => error,
                },
                Ok(Some(Err(error))) if self.settled.is_some() && is_overtaken(&error) => {
                    self.is_overtaken = true;
                    if !self.is_begun {
                        self.begin_again().await?;
                        continue;
                    }
                    StoreError::Unavailable(format!("{OVERTAKEN}: ask again"))
                }
                Ok(Some(Err(error))) => limited(&error, self.limits),
                Ok(None) => return self.end().map(|()| None),
                Err(_) => StoreError::Timeout {
                    setting: self.limits.timeout_setting,
                    message: format!("no answer within {:?}", self.limits.timeout),
                },
            };
            self.pooled = None;
            return Err(failed);
        }
        Ok(None)
    }

    /// Did rows come to days that it reads as they stand?
    fn is_overtaken(&self) -> bool {
        self.is_overtaken && self.settled.is_some()
    }

    /// Asks with FINAL what was asked without.
    async fn begin_again(&mut self) -> Result<(), StoreError> {
        let Some((store, sql)) = self.settled.take().map(|settled| *settled) else { return Ok(()) };
        self.pooled = None;
        store.grounds().overtaken(&sql);
        names::STORE_SETTLED_READS.counter(&[("how", "overtaken")]).increment(1);
        let again = Box::pin(store.open_stream(&sql, self.limits, &[])).await?;
        *self = Self { rows_read: self.rows_read, ..again };
        Ok(())
    }

    /// The rows that the store has read for this answer so far; all of them once it has ended.
    pub fn rows_read(&self) -> u64 {
        self.rows_read
    }

    /// The next block. Progress is taken meanwhile: klickhouse keeps only the last hundred reports.
    async fn next_block(&mut self) -> Option<Result<Block, KlickhouseError>> {
        loop {
            tokio::select! {
                biased;
                block = self.blocks.next() => {
                    self.take_progress();
                    return block;
                }
                Ok((_, progress)) = self.progress.recv() => self.rows_read += progress.read_rows,
            }
        }
    }

    fn take_progress(&mut self) {
        loop {
            match self.progress.try_recv() {
                Ok((_, progress)) => self.rows_read += progress.read_rows,
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    /// klickhouse ends an answer in the same way whether it is whole or the peer has gone.
    fn end(&mut self) -> Result<(), StoreError> {
        let Some(pooled) = self.pooled.take() else { return Ok(()) };
        if !pooled.connection()?.is_open() {
            return Err(StoreError::Unavailable(
                "the connection was lost in the middle of an answer".to_owned(),
            ));
        }
        pooled.done();
        Ok(())
    }
}

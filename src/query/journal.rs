//! What the store did for one question: counted for its `meta`, kept to explain it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

/// A statement as the store got it, and what it cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Statement {
    pub sql: String,
    pub rows_read: u64,
    pub elapsed_ms: u64,
}

/// The reads of one question.
#[derive(Debug)]
pub(super) struct Journal {
    rows_read: AtomicU64,
    /// `None`: nobody asked for an explanation.
    statements: Option<Mutex<Vec<Statement>>>,
}

impl Journal {
    /// An empty one; with `explain`, it keeps statements and does not only count.
    pub(super) fn new(explain: bool) -> Self {
        Self { rows_read: AtomicU64::new(0), statements: explain.then(Mutex::default) }
    }

    /// Are statements kept?
    pub(super) fn keeps(&self) -> bool {
        self.statements.is_some()
    }

    /// Writes down one read.
    pub(super) fn read(&self, sql: Option<String>, rows_read: u64, elapsed: Duration) {
        self.rows_read.fetch_add(rows_read, Ordering::Relaxed);
        if let (Some(sql), Some(statements)) = (sql, &self.statements) {
            let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            let statement = Statement { sql, rows_read, elapsed_ms };
            statements.lock().unwrap_or_else(PoisonError::into_inner).push(statement);
        }
    }

    /// Rows read so far.
    pub(super) fn rows_read(&self) -> u64 {
        self.rows_read.load(Ordering::Relaxed)
    }

    /// The statements so far, if they are kept.
    pub(super) fn statements(&self) -> Option<Vec<Statement>> {
        let statements = self.statements.as_ref()?;
        Some(statements.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

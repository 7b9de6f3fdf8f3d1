//! What can go wrong with the metadata database, told apart by what the caller should do.

use sea_orm::{DbErr, RuntimeErr, SqlErr, SqlxError};

/// Why the metadata database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// It does not answer, is locked by others, or has no disk: the same call may succeed later (503).
    #[error("the metadata database does not answer: {0}")]
    Unavailable(String),
    /// A row with the same unique value is there already.
    #[error("{0} exists already")]
    Exists(&'static str),
    /// A row that this one would belong to is not there.
    #[error("{0} does not exist")]
    Missing(&'static str),
    /// The bound on rows of this kind is reached.
    #[error("there are {max} {what} already, the most that `{setting}` allows")]
    Full { what: &'static str, max: u64, setting: &'static str },
    /// Another holder has the job, or it has ended: nothing was written.
    #[error("the lease of job {0} is lost")]
    LeaseLost(String),
    /// The tables are not those of this build.
    #[error("{message}; cure: {cure}")]
    Schema { message: String, cure: &'static str },
    /// `meta.url` cannot be used.
    #[error("meta.url: {0}")]
    Url(String),
    /// A row holds what this build cannot read.
    #[error("the metadata database holds an unreadable {what}: {message}")]
    Unreadable { what: &'static str, message: String },
    /// A statement was refused.
    #[error("the metadata database refused a statement: {0}")]
    Refused(#[source] DbErr),
}

impl MetaError {
    /// May the same call succeed later without anybody changing anything here?
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// Names what a broken unique or foreign key was about.
    pub(super) fn about(self, what: &'static str, parent: &'static str) -> Self {
        match self {
            Self::Exists(_) => Self::Exists(what),
            Self::Missing(_) => Self::Missing(parent),
            other => other,
        }
    }
}

impl From<DbErr> for MetaError {
    fn from(error: DbErr) -> Self {
        match error.sql_err() {
            Some(SqlErr::UniqueConstraintViolation(_)) => return Self::Exists("a row with this value"),
            Some(SqlErr::ForeignKeyConstraintViolation(_)) => return Self::Missing("what it belongs to"),
            _ => {}
        }
        match &error {
            DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => Self::Unavailable(error.to_string()),
            DbErr::Exec(RuntimeErr::SqlxError(cause)) | DbErr::Query(RuntimeErr::SqlxError(cause)) => {
                match class(cause) {
                    Class::Unavailable => Self::Unavailable(cause.to_string()),
                    Class::NoTable => Self::Schema { message: cause.to_string(), cure: "flexflow migrate" },
                    Class::Other => Self::Refused(error),
                }
            }
            _ => Self::Refused(error),
        }
    }
}

enum Class {
    Unavailable,
    NoTable,
    Other,
}

fn class(error: &SqlxError) -> Class {
    match error {
        SqlxError::Io(_)
        | SqlxError::Tls(_)
        | SqlxError::Protocol(_)
        | SqlxError::PoolTimedOut
        | SqlxError::PoolClosed
        | SqlxError::WorkerCrashed => Class::Unavailable,
        SqlxError::Database(cause) => {
            let code = cause.code().unwrap_or_default();
            // SQLite's extended codes keep the primary one in their lowest byte.
            match code.parse::<u32>().map(|code| code & 0xff) {
                // BUSY, LOCKED, READONLY, IOERR, CORRUPT, FULL, CANTOPEN, PROTOCOL, NOTADB: someone has to free,
                // repair or wait; the statement itself is right.
                Ok(5 | 6 | 8 | 10 | 11 | 13 | 14 | 15 | 26) => Class::Unavailable,
                Ok(1) if cause.message().starts_with("no such table") => Class::NoTable,
                _ => Class::Other,
            }
        }
        _ => Class::Other,
    }
}

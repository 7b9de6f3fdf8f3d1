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
    /// A project without an owner could not be managed by anybody but the operator.
    #[error("this is the last owner of the project: make somebody else an owner first")]
    LastOwner,
    /// Requests without a key, and the operator, act in the default project.
    #[error("the default project cannot be deleted")]
    DefaultProject,
    /// Its keys are good whatever stands here.
    #[error(
        "the configuration names this project (auth.static_keys or consumer.sources): take it out there and restart, then delete it"
    )]
    ConfiguredProject,
    /// What the first start makes could not be written down: nothing was made.
    #[error("what the first start makes could not be written down: {0}")]
    Keep(#[source] std::io::Error),
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
            // PostgreSQL's SQLSTATE has five characters, SQLite's codes at most four digits.
            if code.len() == 5 {
                return class_of_sqlstate(&code);
            }
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

/// A server that starts, stops, is a replica, has no room or no connection left, or whose locks took too long: someone
/// has to free, repair or wait; the statement itself is right.
fn class_of_sqlstate(code: &str) -> Class {
    match code {
        "42P01" => Class::NoTable,
        // Statement timeout, lock not available, read-only transaction.
        "57014" | "55P03" | "25006" => Class::Unavailable,
        // Connection, transaction rolled back, resources, operator intervention, system, internal.
        _ if ["08", "40", "53", "57", "58", "XX"].iter().any(|class| code.starts_with(class)) => {
            Class::Unavailable
        }
        _ => Class::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_that_pass_by_themselves_are_told_from_those_that_do_not() {
        for code in ["08006", "40P01", "40001", "53300", "53100", "55P03", "57014", "57P01", "57P03", "25006"]
        {
            assert!(matches!(class_of_sqlstate(code), Class::Unavailable), "{code}");
        }
        assert!(matches!(class_of_sqlstate("42P01"), Class::NoTable));
        for code in ["23505", "42601", "22P02"] {
            assert!(matches!(class_of_sqlstate(code), Class::Other), "{code}");
        }
    }
}

//! What can go wrong, sorted by what to do about it.

use klickhouse::KlickhouseError;

/// A question to the store, or a change of it, failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store does not answer; it is tried again by itself.
    #[error("the event store is not available: {0}")]
    Unavailable(String),
    /// The answer took longer than the setting allows.
    #[error("the event store took longer than {setting} allows: {message}")]
    Timeout { setting: &'static str, message: String },
    /// The question needs more than the setting allows.
    #[error("the question needs more of the event store than {setting} allows: {message}")]
    Limit { setting: &'static str, message: String },
    /// The statement is wrong, or its answer has another shape than expected: a fault of this program.
    #[error("the event store refused a statement: {0}")]
    Query(String),
    /// A table or column is missing or different; `cure` is the command that mends it.
    #[error("the event store's tables are not as they should be: {message}; {cure}")]
    Schema { message: String, cure: &'static str },
    /// The engine cannot be started; the message names the cure.
    #[error("the embedded engine cannot start: {0}")]
    Engine(String),
}

/// A block was not confirmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// The store is unreachable, overloaded, full or read-only. Send the same rows again under the same token.
    #[error("the event store does not take rows now: {0}")]
    Unavailable(String),
    /// The rows were sent and the answer was lost: they may be stored. Send the same rows again under the same token.
    #[error("the rows were sent but not confirmed: {0}")]
    OutcomeUnknown(String),
    /// A table or column is missing, or something hangs off the table that fails. `cure` is the command that mends it.
    #[error("the event store's tables are not as they should be: {message}; {cure}")]
    Schema { message: String, cure: &'static str },
    /// The store refuses this block for what is in it; the message names the row where the server names one.
    #[error("the event store refuses these rows: {0}")]
    Rejected(String),
}

impl InsertError {
    /// A short stable name for metrics and logs.
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::OutcomeUnknown(_) => "outcome_unknown",
            Self::Schema { .. } => "schema",
            Self::Rejected(_) => "rejected",
        }
    }

    /// The same of rows that this program derived: no record is to blame for what is refused, so none becomes a dead
    /// letter.
    #[must_use]
    pub fn of_derived_rows(self) -> Self {
        match self {
            Self::Rejected(message) => Self::Schema { message, cure: "flexflow doctor" },
            other => other,
        }
    }
}

/// One thing `flexflow doctor` looked at in the store.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What was looked at, such as `events.non_replicated_deduplication_window`.
    pub name: String,
    pub ok: bool,
    /// What was found and, when it is not right, what was expected.
    pub message: String,
    /// The command or setting that mends it; empty when `ok`.
    pub cure: String,
}

pub(super) const MIGRATE: &str = "run `flexflow migrate`";
const LOG_IN: &str = "set store.user and store.password (of SQL: store.reader_user and store.reader_password), and give \
                      that user the rights to the database";
pub(super) const REQUEST_TIMEOUT: &str = "store.request_timeout";

/// What a server error code asks for. The codes are ClickHouse's `ErrorCodes.cpp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Not now: the same again, later.
    Unavailable,
    Timeout,
    Memory,
    /// More rows to read than allowed.
    Rows,
    /// Tables, columns or grants are not as they should be.
    Schema,
    /// The data, or the statement, is wrong.
    Content,
}

pub(super) fn class_of(code: i32, message: &str) -> Class {
    match code {
        // TIMEOUT_EXCEEDED, TOO_SLOW.
        159 | 160 => Class::Timeout,
        // MEMORY_LIMIT_EXCEEDED.
        241 => Class::Memory,
        // TOO_MANY_ROWS.
        158 => Class::Rows,
        // 252 is two errors: TOO_MANY_PARTS asks for patience; "Too many partitions for single INSERT block" would
        // never pass by itself (max_partitions_per_insert_block is pinned to 0, but a server may forbid settings).
        252 if message.contains("Too many partitions") => Class::Content,
        // ALL_CONNECTION_TRIES_FAILED is two errors, too: a host of a cluster that has not the table does not count as one.
        279 if message.contains("There is no table") => Class::Schema,
        // NO_SUCH_COLUMN_IN_TABLE 16, UNKNOWN_IDENTIFIER 47, UNKNOWN_TABLE 60, UNKNOWN_DATABASE 81,
        // NUMBER_OF_COLUMNS_DOESNT_MATCH 20, THERE_IS_NO_COLUMN 8, NOT_FOUND_COLUMN_IN_BLOCK 10,
        // UNKNOWN_SETTING 115, ACCESS_DENIED 497, UNKNOWN_USER 192, AUTHENTICATION_FAILED 516, TABLE_IS_DROPPED 218,
        // SETTING_CONSTRAINT_VIOLATION 452.
        8 | 10 | 16 | 20 | 47 | 60 | 81 | 115 | 192 | 218 | 452 | 497 | 516 => Class::Schema,
        // CANNOT_PARSE_*, TYPE_MISMATCH, BAD_ARGUMENTS, ILLEGAL_*, VIOLATED_CONSTRAINT, SYNTAX_ERROR, …
        6 | 26 | 27 | 33 | 36 | 38 | 41 | 42 | 43 | 44 | 48 | 53 | 62 | 63 | 69 | 70 | 72 | 117 | 130
        | 131 | 190 | 321 | 349 | 376 | 407 | 441 | 469 | 611 | 636 => Class::Content,
        // Everything else (network, disk 243, read-only 164/242, too many parts 252 or queries 202, ZooKeeper,
        // quorum, shutting down, cancelled 394, unknown): nothing about these rows, so patience is the safe answer.
        _ => Class::Unavailable,
    }
}

/// What mends a [`Class::Schema`].
fn cure_of(code: i32) -> &'static str {
    match code {
        // SETTING_CONSTRAINT_VIOLATION, UNKNOWN_USER, ACCESS_DENIED, AUTHENTICATION_FAILED.
        452 | 192 | 497 | 516 => LOG_IN,
        _ => MIGRATE,
    }
}

/// A dependent materialized view failed: error 252 and friends do not say so, the message does.
fn failed_in_view(message: &str) -> bool {
    message.contains("while pushing to view")
}

/// How a failed insert's error is to be taken. `sent` says whether any row had left this process.
pub(super) fn insert_error(error: &KlickhouseError, sent: bool) -> InsertError {
    match error {
        KlickhouseError::ServerException { code, name, message, .. } => {
            let text = format!("{name} ({code}): {message}");
            if failed_in_view(message) {
                return InsertError::Schema {
                    message: text,
                    cure: "mend or drop the materialized view that the message names",
                };
            }
            match class_of(*code, message) {
                Class::Unavailable | Class::Memory | Class::Rows | Class::Timeout => {
                    InsertError::Unavailable(text)
                }
                Class::Schema => InsertError::Schema { message: text, cure: cure_of(*code) },
                Class::Content => InsertError::Rejected(text),
            }
        }
        KlickhouseError::SerializeError(_)
        | KlickhouseError::UnexpectedType(_)
        | KlickhouseError::UnexpectedTypeWithColumn(..)
        | KlickhouseError::TypeParseError(_) => InsertError::Rejected(error.to_string()),
        other if sent => InsertError::OutcomeUnknown(other.to_string()),
        other => InsertError::Unavailable(other.to_string()),
    }
}

/// How a failed question's error is to be taken.
pub(super) fn store_error(error: &KlickhouseError) -> StoreError {
    match error {
        KlickhouseError::ServerException { code, name, message, .. } => {
            let text = format!("{name} ({code}): {message}");
            match class_of(*code, message) {
                Class::Unavailable => StoreError::Unavailable(text),
                Class::Timeout => StoreError::Timeout { setting: "query.timeout", message: text },
                Class::Memory => StoreError::Limit { setting: "query.memory_max", message: text },
                Class::Rows => StoreError::Limit { setting: "query.rows_read_max", message: text },
                Class::Schema => StoreError::Schema { message: text, cure: cure_of(*code) },
                Class::Content => StoreError::Query(text),
            }
        }
        KlickhouseError::Io(_) | KlickhouseError::ProtocolError(_) => {
            StoreError::Unavailable(error.to_string())
        }
        other => StoreError::Query(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: i32, message: &str) -> KlickhouseError {
        KlickhouseError::ServerException {
            code,
            name: "DB::Exception".to_owned(),
            message: message.to_owned(),
            stack_trace: String::new(),
        }
    }

    fn insert_class(code: i32, message: &str) -> &'static str {
        insert_error(&server(code, message), true).class()
    }

    #[test]
    fn what_passes_by_itself_is_tried_again() {
        for code in [3, 159, 164, 202, 209, 210, 236, 241, 242, 243, 279, 285, 319, 394, 999, 1002] {
            assert_eq!(insert_class(code, "DB::Exception: not now"), "unavailable", "{code}");
        }
    }

    #[test]
    fn too_many_parts_waits_and_too_many_partitions_is_refused() {
        assert_eq!(
            insert_class(252, "DB::Exception: Too many parts (3000) in all data parts"),
            "unavailable"
        );
        assert_eq!(
            insert_class(252, "DB::Exception: Too many partitions for single INSERT block (more than 100)"),
            "rejected"
        );
    }

    #[test]
    fn missing_tables_and_columns_name_the_cure() {
        let error = insert_error(&server(516, "wrong password"), false);
        assert!(matches!(error, InsertError::Schema { cure, .. } if cure.contains("store.password")));
        for code in [16, 47, 60, 81] {
            let error = insert_error(&server(code, "missing"), true);
            assert!(matches!(error, InsertError::Schema { cure, .. } if cure.contains("migrate")), "{code}");
        }
        let absent =
            insert_error(&server(279, "Log: There is no table `a`.`b_local` on server: h:9000"), true);
        assert!(matches!(absent, InsertError::Schema { cure, .. } if cure.contains("migrate")));
        let view = insert_error(&server(395, "boom: while pushing to view flexflow.x (…)"), true);
        assert!(matches!(view, InsertError::Schema { cure, .. } if cure.contains("materialized view")));
    }

    #[test]
    fn what_is_wrong_with_the_rows_is_refused() {
        for code in [6, 27, 53, 69, 70, 117, 321, 469] {
            assert_eq!(insert_class(code, "bad row"), "rejected", "{code}");
        }
    }

    #[test]
    fn a_lost_answer_is_unknown_only_after_rows_were_sent() {
        let lost = KlickhouseError::Io(std::io::ErrorKind::ConnectionReset.into());
        assert_eq!(insert_error(&lost, true).class(), "outcome_unknown");
        assert_eq!(insert_error(&lost, false).class(), "unavailable");
    }

    #[test]
    fn a_question_over_its_limits_names_the_setting() {
        assert!(matches!(
            store_error(&server(241, "memory limit")),
            StoreError::Limit { setting: "query.memory_max", .. }
        ));
        assert!(matches!(
            store_error(&server(159, "timeout")),
            StoreError::Timeout { setting: "query.timeout", .. }
        ));
    }
}

//! SQL of the caller's own: one `SELECT` over `events` and `persons` of their project and environment.
//!
//! What was sent is parsed, and written anew from what is allowed (`render.rs`, `words.rs`); the text itself never
//! reaches the store. A table is replaced by the scoped, deduplicated read that every question begins with. What the
//! renderer does not know is refused by name: settings, table functions, system tables, `EXPLAIN`, formats, and every
//! function that is not listed. Beside this the store is asked read-only, within this room's limits.
//!
//! | table | columns |
//! |---|---|
//! | `events` | `event_id`, `event` (also `event_name`), `distinct_id`, `person_id`, `timestamp`, `day`, `received_at`, `properties` (JSON text), `session_id`, `source`, `customer_id`, `schema_state` |
//! | `persons` | `id`, `distinct_ids` (at most 100), `properties` (JSON text), `first_seen`, `last_seen`, `events` |
//! | `event_rollups` | `grain` (`hour`, `day`), `bucket`, `event`, `events`, `people`, `sessions`: as built last |
//! | `event_quality` | `day`, `event`, `property`, `events`, `present`, `missing`, `texts`, `numbers`, `booleans`, `nulls`, `objects`, `arrays`, `drifted`, `out_of_range`, `smallest`, `greatest` |
//!
//! `day` stands in the table's key: a condition on it is what makes a question over a range fast.

pub(super) mod inside;
mod leaves;
pub(super) mod parts;
mod render;
mod tables;
#[cfg(test)]
mod tests;
mod words;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::http::Question;
use super::{Meta, Query};
use crate::event::Scope;
use crate::http::Problem;
use crate::store::{Sql, StoreError};
use crate::telemetry::{Metric, names as metric};

/// A question in SQL, as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlQuestion {
    /// One `SELECT`.
    pub query: String,
    /// Rows in the answer; `query.sql_rows_max` when absent, and at most.
    pub limit: Option<usize>,
    /// The environment that is meant, to be refused if the key has another.
    pub environment_id: Option<String>,
    /// Pass by anything remembered.
    #[serde(default)]
    pub refresh: bool,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct SqlAnswer {
    pub columns: Vec<Column>,
    /// Each an array in the order of the columns. Whole numbers are numbers, also beyond 2^53; what is not a number is
    /// null.
    pub results: Vec<Box<RawValue>>,
    /// There are more rows than the limit.
    pub truncated: bool,
    pub meta: Meta,
}

/// A column of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Column {
    pub name: String,
    /// The store's name of its type.
    #[serde(rename = "type")]
    pub kind: String,
}

impl Question for SqlQuestion {
    const NAME: &'static str = "sql";
    type Answer = SqlAnswer;

    fn duration() -> &'static Metric {
        &metric::QUERY_SQL_DURATION
    }

    fn environment_id(&self) -> Option<&str> {
        self.environment_id.as_deref()
    }

    async fn answer(&self, query: &Query, scope: &Scope) -> Result<SqlAnswer, Problem> {
        sql(query, scope, self).await
    }
}

/// Answers a question in SQL.
///
/// # Errors
/// 400 that names what is not allowed or not understood, 503 for what the store does not answer.
async fn sql(query: &Query, scope: &Scope, question: &SqlQuestion) -> Result<SqlAnswer, Problem> {
    let max = query.limits.sql_rows_max;
    let limit = question.limit.unwrap_or(max);
    if limit == 0 || limit > max {
        let message = format!("limit is {limit}; it may be 1 to {max} (query.sql_rows_max)");
        return Err(Problem::invalid("limit", message)
            .with("given", limit)
            .with("max", max)
            .with("setting", "query.sql_rows_max"));
    }
    let turn = query.begin().await?;
    let actors = query.actors(scope).await?;
    let asked = render::render(&question.query, scope, &actors)?;
    let described = Sql::new("DESCRIBE TABLE (").append(&asked).push(")");
    let columns: Vec<(String, String)> = query.select_read_only(described).await.map_err(of_sql)?;
    let columns: Vec<Column> = columns.into_iter().map(|(name, kind)| Column { name, kind }).collect();
    let rows = Sql::new("SELECT formatRow('JSONCompactEachRow', *) AS row FROM (")
        .append(&asked)
        .push(") LIMIT ")
        .arg(limit + 1);
    let rows: Vec<(String,)> = query.select_read_only(rows).await.map_err(of_sql)?;
    let truncated = rows.len() > limit;
    let results = rows
        .into_iter()
        .take(limit)
        .map(|(row,)| RawValue::from_string(row.trim_end().to_owned()))
        .collect::<Result<_, _>>()
        .map_err(Problem::internal)?;
    Ok(SqlAnswer { columns, results, truncated, meta: turn.meta() })
}

/// What the store does not understand of what the caller wrote; none: the error is not about that.
pub(super) fn not_understood(error: &StoreError) -> Option<String> {
    let (StoreError::Query(message) | StoreError::Unavailable(message) | StoreError::Schema { message, .. }) =
        error
    else {
        return None;
    };
    // `DB::Exception (47): …`
    let (code, said) = message.split_once('(').and_then(|(_, rest)| rest.split_once("):"))?;
    (!NOT_THE_STATEMENT.contains(&code)).then(|| plain(said))
}

/// What is wrong with the store and not with the statement: tables, rights, time, memory, disk, too much at once.
const NOT_THE_STATEMENT: [&str; 18] = [
    "3", "60", "81", "159", "160", "164", "192", "202", "209", "210", "236", "241", "242", "243", "279",
    "394", "497", "516",
];

/// A statement that the store refuses is the caller's here.
fn of_sql(error: Problem) -> Problem {
    let cause = error.cause.as_ref().and_then(|cause| cause.downcast_ref::<StoreError>());
    match cause.and_then(not_understood) {
        Some(said) => Problem::invalid("query", format!("the store does not understand the query: {said}")),
        None => error,
    }
}

/// The store's words about a statement without its version and the statement that was made of the caller's.
fn plain(message: &str) -> String {
    let head = message.split(" In scope ").next().unwrap_or_default();
    let head =
        head.split(": While ").next().unwrap_or_default().split(" (version").next().unwrap_or_default();
    head.trim_start_matches("DB::Exception: ").trim().chars().take(500).collect()
}

//! Raw events as people look at them: what became of each, and why some are no events.

use serde::{Deserialize, Serialize};

use super::order::Place;
use super::{Key, Reprocess};
use crate::event::{Scope, Timestamp};
use crate::store::{Row, RowCells, Sql, StoreError};

/// Which raw events; what is none does not matter.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) outcome: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) external_customer_id: Option<String>,
    pub(super) event_name: Option<String>,
    pub(super) id: Option<String>,
    pub(super) start: Option<Timestamp>,
    pub(super) end: Option<Timestamp>,
}

/// What became of a raw event.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Listed {
    pub(super) id: String,
    pub(super) external_customer_id: String,
    pub(super) event_name: String,
    pub(super) timestamp: Timestamp,
    pub(super) received_at: Timestamp,
    pub(super) outcome: String,
    pub(super) reason: String,
    pub(super) transform_id: String,
    pub(super) transform_version: u64,
    /// The events that it is now.
    pub(super) event_ids: Vec<String>,
    pub(super) decided_at: Timestamp,
}

impl Listed {
    pub(super) fn place(&self) -> Place {
        Place(self.external_customer_id.clone(), self.timestamp, self.event_name.clone(), self.id.clone())
    }
}

impl Row for Listed {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            id: cells.next()?,
            external_customer_id: cells.next()?,
            event_name: cells.next()?,
            timestamp: cells.next()?,
            received_at: cells.next()?,
            outcome: cells.next()?,
            reason: cells.next()?,
            transform_id: cells.next()?,
            transform_version: cells.next()?,
            event_ids: Key::read(&cells.next::<String>()?).into_iter().map(|key| key.0).collect(),
            decided_at: cells.next()?,
        })
    }
}

/// How many came to an end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Count {
    pub(super) outcome: String,
    pub(super) reason: String,
    pub(super) raw_events: u64,
}

fn which(scope: &Scope, filter: &Filter) -> Sql {
    let mut conditions = vec![
        Sql::new("project_id = ").arg(scope.project.as_str()),
        Sql::new("environment_id = ").arg(scope.environment.as_str()),
    ];
    let texts = [
        ("outcome = ", &filter.outcome),
        ("reason = ", &filter.reason),
        ("external_customer_id = ", &filter.external_customer_id),
        ("event_name = ", &filter.event_name),
        ("id = ", &filter.id),
    ];
    conditions
        .extend(texts.into_iter().filter_map(|(column, text)| Some(Sql::new(column).arg(text.as_deref()?))));
    conditions.extend(filter.start.map(|at| Sql::new("timestamp >= ").arg(at)));
    conditions.extend(filter.end.map(|at| Sql::new("timestamp <= ").arg(at)));
    Sql::new(" FROM raw_event_results FINAL WHERE ").join(" AND ", &conditions)
}

impl Reprocess {
    /// Raw events in the order of the table, after a place, at most `limit`.
    pub(super) async fn list_raw(
        &self,
        scope: &Scope,
        filter: &Filter,
        after: Option<&Place>,
        limit: u64,
    ) -> Result<Vec<Listed>, StoreError> {
        let mut sql = Sql::new(
            "SELECT id, external_customer_id, event_name, timestamp, received_at, outcome, reason, transform_id, \
             transform_version, events, decided_at",
        )
        .append(&which(scope, filter));
        if let Some(after) = after {
            sql = sql
                .push(" AND (external_customer_id, timestamp, event_name, id) > (")
                .arg(after.0.as_str())
                .push(", ")
                .arg(after.1)
                .push(", ")
                .arg(after.2.as_str())
                .push(", ")
                .arg(after.3.as_str())
                .push(")");
        }
        let sql = sql.push(" ORDER BY external_customer_id, timestamp, event_name, id LIMIT ").arg(limit);
        self.store.select(sql).await
    }

    /// How many raw events came to which end.
    pub(super) async fn count_raw(&self, scope: &Scope, filter: &Filter) -> Result<Vec<Count>, StoreError> {
        // What an error says differs from one to the next.
        let sql = Sql::new("SELECT outcome, if(outcome = 'dropped', reason, '') AS why, count() AS raws")
            .append(&which(scope, filter))
            .push(" GROUP BY outcome, why ORDER BY outcome, why LIMIT 1000");
        let rows: Vec<(String, String, u64)> = self.store.select(sql).await?;
        Ok(rows
            .into_iter()
            .map(|(outcome, reason, raw_events)| Count { outcome, reason, raw_events })
            .collect())
    }
}

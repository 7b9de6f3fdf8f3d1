//! Usage of events of the past, tracked again: what the lane of the past (`consumer/usage_backfill.rs`) asks for. Rows are
//! computed from what the store has now, so an event that is not stored counts nowhere, and one that was corrected counts
//! as it was corrected.

use std::collections::{BTreeMap, BTreeSet};

use super::Metering;
use super::corrections::{COLUMNS, Snapshot};
use super::rows::Which;
use super::tracking::rows_of;
use crate::event::{Scope, Timestamp};
use crate::store::{InsertError, Sql, StoreError};

/// Ids of one statement: it stays well below the longest that the store reads.
const IDS_AT_ONCE: usize = 500;
const DAY_MILLIS: i64 = 86_400_000;

/// An event by its key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OfPast<'a> {
    pub event_id: &'a str,
    pub event_name: &'a str,
    pub timestamp: Timestamp,
}

impl Metering {
    /// Computes the usage of these events again, as far as they are stored under these names and days, and answers how
    /// many rows that were. Doing it twice changes nothing.
    ///
    /// # Errors
    /// The store or the metadata database does not answer.
    pub async fn track_again(
        &self,
        scope: &Scope,
        events: &[OfPast<'_>],
        token: &str,
    ) -> Result<usize, InsertError> {
        let unavailable = |error: String| InsertError::Unavailable(error);
        let meters = self.catalogue.meters(scope).await.map_err(|error| unavailable(error.to_string()))?;
        if meters.is_empty() {
            return Ok(0);
        }
        let mut days: BTreeMap<i64, BTreeSet<OfPast<'_>>> = BTreeMap::new();
        for event in events {
            days.entry(event.timestamp.as_millis().div_euclid(DAY_MILLIS)).or_default().insert(*event);
        }
        let mut written = 0;
        for (day, events) in days {
            let events: Vec<OfPast<'_>> = events.into_iter().collect();
            for (part, some) in events.chunks(IDS_AT_ONCE).enumerate() {
                let stored: Vec<Snapshot> =
                    self.store.select(stored_sql(scope, day, some)).await.map_err(|error| match error {
                        StoreError::Schema { message, cure } => InsertError::Schema { message, cure },
                        other => unavailable(other.to_string()),
                    })?;
                let rows: Vec<_> =
                    stored.iter().flat_map(|event| rows_of(scope, &meters, &event.tracked())).collect();
                if rows.is_empty() {
                    continue;
                }
                // Computed again, they may be others: no token of an earlier try.
                let token =
                    format!("{token}:{}:{}:{day}:{part}:{}", scope.project, scope.environment, self.now());
                let inserted = self.store.insert_feature_usage(&rows, &token).await;
                inserted.map_err(InsertError::of_derived_rows)?;
                written += rows.len();
            }
        }
        Ok(written)
    }
}

fn stored_sql(scope: &Scope, day: i64, events: &[OfPast<'_>]) -> Sql {
    let names: BTreeSet<&str> = events.iter().map(|event| event.event_name).collect();
    let which = Which {
        scope,
        event_name: None,
        from: Timestamp::from_millis(day * DAY_MILLIS),
        end: Timestamp::from_millis((day + 1) * DAY_MILLIS),
        filters: Vec::new(),
        external_customer_id: None,
        customer_id: None,
        sources: &[],
        as_of: None,
    };
    which
        .select(&Sql::new(COLUMNS))
        .push(" AND event_name IN ")
        .list(names)
        .push(" AND event_id IN ")
        .list(events.iter().map(|event| event.event_id))
}

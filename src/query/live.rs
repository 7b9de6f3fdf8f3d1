//! Events as they arrive: what a person watches while they send.
//!
//! The store is asked again and again for rows that were not there the last time, so that a stream shows what every other
//! question sees, knows the same filters, and works in a process that runs nothing but this role. Nothing consumes the
//! log a second time.
//!
//! How "not there the last time" is told: the rows of a partition become visible in the order of their offsets, so for
//! each partition the greatest offset seen says all. What need not be looked at again is told by `complete_to`:
//! everything accepted before it was visible in the look before, so only rows received since then (and a minute more, for
//! clocks that differ) are read; their time of receipt has an index, and a look costs what arrived since, not what there
//! is. What was received long ago and is stored only now (a replay of dead letters) does not show.
//!
//! Each stream looks for itself, when its reader has taken what the last look found, and takes at most
//! `query.live_rows_max` events from a look, the newest; the rest is counted, and the stream says how many. So a slow
//! reader costs no memory.
//!
//! Rows are read as they were inserted: an event that is sent twice beyond the id window shows twice here, and counts
//! once everywhere else.

pub mod http;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use super::actor::Actors;
use super::events::{self, Event, List};
use super::pages::Listed;
use super::statement::{self, Select, View};
use super::{Query, persons};
use crate::event::{Scope, Timestamp};
use crate::http::{ErrorCode, Problem};
use crate::store::{Row, RowCells, Sql, StoreError};
use crate::telemetry::names as metric;

/// Clocks of the processes that receive events may differ by this much.
const SLACK: Duration = Duration::from_secs(60);

const NAMES: [&str; 4] = ["event", "distinct_id", "person_id", "properties"];

/// Reads the query string: the filters of the list of events.
///
/// # Errors
/// 400 that names the parameter.
fn parse(query: &str) -> Result<List, Problem> {
    let list = List::parse(query)?;
    let pages = [
        ("date_from", list.date_from.is_some()),
        ("date_to", list.date_to.is_some()),
        ("limit", list.limit.is_some()),
        ("cursor", list.cursor.is_some()),
    ];
    match pages.into_iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(events::unknown(name, &NAMES)),
        None => Ok(list),
    }
}

/// A place among the streams of this process; it is free again when this is dropped.
struct Turn(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

impl Turn {
    fn take(turns: &Arc<Semaphore>, max: usize) -> Result<Self, Problem> {
        let Ok(permit) = turns.clone().try_acquire_owned() else {
            let message = format!(
                "{max} streams (query.live_clients_max) are open here: close one, or try again later"
            );
            return Err(Problem::new(ErrorCode::TooManyRequests, message)
                .with("max", max)
                .with("setting", "query.live_clients_max"));
        };
        metric::QUERY_LIVE_CLIENTS.gauge(&[]).increment(1.0);
        Ok(Self(permit))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        metric::QUERY_LIVE_CLIENTS.gauge(&[]).decrement(1.0);
    }
}

/// Where a partition's rows stand; a topic that was made anew has another id.
type Partition = (Uuid, i32);

/// What one look found.
pub(super) struct Look {
    /// Oldest first.
    pub events: Vec<Event>,
    /// Events that arrived and are not among them.
    pub dropped: u64,
    pub complete_to: Option<Timestamp>,
}

/// One stream.
pub(super) struct Feed {
    query: Query,
    scope: Scope,
    list: List,
    /// The greatest offset of each partition that was seen.
    seen: BTreeMap<Partition, i64>,
    /// Everything accepted before it was seen.
    since: Timestamp,
    _turn: Turn,
}

impl Feed {
    /// Begins: what arrives from now on will be found.
    ///
    /// # Errors
    /// 400 for a filter that cannot be meant, 429 if there are `query.live_clients_max` streams, 503 while the store does
    /// not answer.
    pub(super) async fn open(query: &Query, scope: &Scope, list: List) -> Result<Self, Problem> {
        let turn = Turn::take(&query.live, query.limits.live_clients_max)?;
        let since = query.clock.now();
        let (query, scope) = (query.within(scope), scope.clone());
        let mut feed = Self { query, scope, list, seen: BTreeMap::new(), since, _turn: turn };
        let asked = feed.query.for_question(false).begin().await?;
        if let Some(complete_to) = asked.complete_to {
            feed.since = complete_to.min(since);
        }
        let found = feed.arrived(&feed.conditions().await?).await?;
        feed.note(&found);
        Ok(feed)
    }

    /// What arrived since the last look.
    ///
    /// # Errors
    /// 503 while the store does not answer; the next look finds what this one would have.
    pub(super) async fn look(&mut self) -> Result<Look, Problem> {
        let asked = self.query.for_question(false).begin().await?;
        let conditions = self.conditions().await?;
        let found = self.arrived(&conditions).await?;
        let total: u64 = found.iter().map(|one| one.count).sum();
        let mut events = Vec::new();
        if total > 0 {
            events = self.query.select(self.newest(&conditions, &found)).await?;
            events.reverse();
        }
        let dropped = total.saturating_sub(events.len() as u64);
        metric::QUERY_LIVE_DROPPED.counter(&[]).increment(dropped);
        self.note(&found);
        self.since = asked.complete_to.map_or(self.since, |complete_to| complete_to.max(self.since));
        Ok(Look { events, dropped, complete_to: asked.complete_to })
    }

    fn note(&mut self, found: &[Arrived]) {
        for one in found {
            let last = self.seen.entry(one.partition).or_insert(one.last);
            *last = one.last.max(*last);
        }
    }

    async fn conditions(&self) -> Result<(Actors, Vec<Sql>), Problem> {
        let actors = self.query.actors(&self.scope).await?;
        let mut conditions = self.list.conditions(&self.query.limits, self.query.clock.now(), &actors)?;
        conditions.extend(self.list.keys());
        if let Some(person) = &self.list.person_id {
            conditions.push(persons::condition(&self.query, &self.scope, person).await?);
        }
        Ok((actors, conditions))
    }

    /// How many rows of each partition were not seen yet, and how far they reach.
    async fn arrived(&self, conditions: &(Actors, Vec<Sql>)) -> Result<Vec<Arrived>, Problem> {
        let columns = Sql::new("source_topic_id, source_partition, max(source_offset), count()");
        let tail = Sql::new("GROUP BY source_topic_id, source_partition");
        self.query.select(self.unseen(&columns, conditions).then(tail).sql()).await
    }

    /// The newest of them.
    fn newest(&self, conditions: &(Actors, Vec<Sql>), found: &[Arrived]) -> Sql {
        let columns = Sql::new(Event::COLUMNS);
        let counted: Vec<Sql> = found.iter().map(|one| up_to(one.partition, one.last)).collect();
        let tail = Sql::new("ORDER BY received_at DESC, source_partition DESC, source_offset DESC LIMIT ")
            .arg(self.query.limits.live_rows_max);
        let counted = Sql::new("(").join(" OR ", &counted).push(")");
        self.unseen(&columns, conditions).and(counted).then(tail).sql()
    }

    fn unseen(&self, columns: &Sql, (actors, conditions): &(Actors, Vec<Sql>)) -> Select {
        let from = self.since.as_millis().saturating_sub(SLACK.as_millis() as i64);
        let seen =
            self.seen.iter().map(|(partition, last)| Sql::new("NOT ").append(&up_to(*partition, *last)));
        statement::events(&self.scope, View::Versions, columns)
            .actors(actors)
            .and(Sql::new("received_at >= ").arg(Timestamp::from_millis(from.max(0))))
            .and(Sql::new("is_deleted = 0"))
            .and_all(seen)
            .and_all(conditions.iter().cloned())
    }
}

fn up_to((topic, partition): Partition, last: i64) -> Sql {
    Sql::new("(source_topic_id = ")
        .arg(topic)
        .push(" AND source_partition = ")
        .arg(partition)
        .push(" AND source_offset <= ")
        .arg(last)
        .push(")")
}

/// Rows of a partition that were not seen yet.
struct Arrived {
    partition: Partition,
    last: i64,
    count: u64,
}

impl Row for Arrived {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self { partition: (cells.next()?, cells.next()?), last: cells.next()?, count: cells.next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_takes_filters_and_no_pages() {
        assert_eq!(parse("event=a&event=b&distinct_id=ann").unwrap().event, ["a", "b"]);
        for page in ["limit=5", "cursor=x", "date_from=-1d", "date_to=now"] {
            let refused = parse(page).unwrap_err();
            assert_eq!(refused.code, ErrorCode::ValidationError, "{page}");
        }
    }

    #[test]
    fn there_are_only_so_many_streams() {
        let turns = Arc::new(Semaphore::new(1));
        let first = Turn::take(&turns, 1).unwrap();
        let refused = Turn::take(&turns, 1).map(drop).unwrap_err();
        assert_eq!(refused.code, ErrorCode::TooManyRequests);
        drop(first);
        Turn::take(&turns, 1).map(drop).unwrap();
    }
}

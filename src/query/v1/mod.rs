//! The list of events on `/v1/events`, in the words of FlexPrice: both directions, both sorts, offsets, totals.
//!
//! Pages by key (`iter_first_key`, `iter_last_key`) neither repeat nor skip while events arrive: a page begins right
//! after, or ends right before, the place its key names, in the list's own order. Pages by offset do what offsets do.
//! Every field of an answer is always there, because one of the SDKs wants it so.

pub mod http;
mod key;
mod lookup;
mod request;

use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::Query;
use super::actor::Actors;
use super::pages::{self, Direction, Listed, Place, Search, Wanted};
use super::statement::{self, View};
use crate::event::{Scope, Timestamp};
use crate::http::Problem;
use crate::store::{Row, RowCells, Sql, StoreError};

use key::Key;
pub use request::{List, Order, Sort};

/// An event as it is answered.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    pub id: String,
    pub external_customer_id: String,
    pub customer_id: String,
    pub event_name: String,
    pub timestamp: Timestamp,
    pub properties: Box<RawValue>,
    pub source: String,
    pub environment_id: String,
    pub ingested_at: Timestamp,
    #[serde(skip)]
    person: u64,
}

/// A page.
#[derive(Debug, Serialize)]
pub struct Page {
    pub events: Vec<Event>,
    /// Are there more in the direction that was asked for?
    pub has_more: bool,
    /// Give it as `iter_first_key` for the page before this one; empty only when nothing was ever found.
    pub iter_first_key: String,
    /// Give it as `iter_last_key` for the page after this one; empty when there is none.
    pub iter_last_key: String,
    /// All events that match, when `count_total` asked for it; else null, for it is not known.
    pub total_count: Option<u64>,
    /// Of the next page, in pages by offset; else 0.
    pub offset: usize,
}

impl Event {
    fn key(&self, sort: Sort) -> Key {
        Key {
            millis: self.timestamp.as_millis(),
            event: (sort == Sort::EventName).then(|| self.event_name.clone()),
            event_id: self.id.clone(),
        }
    }
}

impl Listed for Event {
    const COLUMNS: &'static str = "event_id, event_name, distinct_id, customer_id, timestamp, properties, source, \
                                   environment_id, ingested_at, cityHash64(distinct_id) AS person";

    fn place(&self) -> Place {
        Place {
            millis: self.timestamp.as_millis(),
            event: self.event_name.clone(),
            person: self.person,
            event_id: self.id.clone(),
        }
    }
}

impl Row for Event {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            id: cells.next()?,
            event_name: cells.next()?,
            external_customer_id: cells.next()?,
            customer_id: cells.next()?,
            timestamp: cells.next()?,
            properties: RawValue::from_string(cells.next()?).map_err(|error| {
                StoreError::Query(format!("properties that are not JSON are stored: {error}"))
            })?,
            source: cells.next()?,
            environment_id: cells.next()?,
            ingested_at: cells.next()?,
            person: cells.next()?,
        })
    }
}

/// The page that `list` asks for.
///
/// # Errors
/// 400 for what cannot be meant, 503 for what the store does not answer.
pub(super) async fn list(query: &Query, scope: &Scope, list: &List) -> Result<Page, Problem> {
    let plan = list.plan(&query.limits, query.clock.now())?;
    let _asked = query.begin().await?;
    let mut search = Search::new(wanted(scope, &plan, query.clock.now()));
    let mut events: Vec<Event> = Vec::new();
    let rows = plan.page_size + 1;
    let mut skip = plan.offset;
    // Pages by offset pass over what they skip in pages of the same size as they fetch.
    loop {
        let found: Vec<Event> = search.next(query, rows.max(skip.min(query.limits.page_rows_max))).await?;
        let whole = found.is_empty();
        let passed = skip.min(found.len());
        skip -= passed;
        events.extend(found.into_iter().skip(passed));
        if whole || events.len() >= rows {
            break;
        }
    }
    let has_more = events.len() > plan.page_size;
    events.truncate(plan.page_size);
    let backwards = plan.before.is_some();
    if backwards {
        events.reverse();
    }
    let total_count = if plan.count_total { Some(total(query, scope, &plan).await?) } else { None };
    let given = || list.iter_first_key.clone().or_else(|| list.iter_last_key.clone()).unwrap_or_default();
    let first = events.first().map(|event| event.key(plan.sort).text());
    let last = events.last().map(|event| event.key(plan.sort).text());
    let goes_on = has_more || backwards;
    Ok(Page {
        iter_first_key: first.unwrap_or_else(given),
        iter_last_key: if goes_on { last.unwrap_or_else(given) } else { String::new() },
        has_more,
        total_count,
        offset: if plan.by_offset { plan.offset + events.len() } else { 0 },
        events,
    })
}

/// What `plan` looks for.
fn wanted(scope: &Scope, plan: &request::Plan, now: Timestamp) -> Wanted {
    let backwards = plan.before.is_some();
    let direction = if (plan.order == Order::Asc) == backwards { Direction::Down } else { Direction::Up };
    Wanted {
        scope: scope.clone(),
        actors: Actors::new(scope, false),
        range: plan.range,
        keys: plan.keys.clone(),
        conditions: plan.conditions.clone(),
        of_person: plan.of_customer,
        sort: match plan.sort {
            Sort::Timestamp => pages::Sort::TimeAndId,
            Sort::EventName => pages::Sort::Name,
        },
        direction,
        beyond: plan.before.as_ref().or(plan.after.as_ref()).map(Key::place),
        now,
    }
}

async fn total(query: &Query, scope: &Scope, plan: &request::Plan) -> Result<u64, Problem> {
    let select = statement::events(scope, View::Deduplicated, &Sql::new("count() AS events"))
        .within(plan.range)
        .keys(&plan.keys)
        .and_all(plan.conditions.iter().cloned());
    let rows: Vec<(u64,)> = query.select(select.sql()).await?;
    Ok(rows.first().map_or(0, |(events,)| *events))
}

/// A moment after the last that is inside.
fn past(at: Timestamp) -> Timestamp {
    at.plus(Duration::from_millis(1))
}

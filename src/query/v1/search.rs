//! Finds the events of a list in their order, a page at a time.
//!
//! By time, in two steps, as the list of questions does (`query/events.rs` says why): places are picked from rows as
//! they were inserted, in slices of time that widen from where the page begins, then those keys, and only those, are
//! read deduplicated. By name, the range's keys are read deduplicated and ordered in the store: names do not follow
//! time, so there is no slice to begin with.

use std::collections::HashSet;

use super::super::Query;
use super::super::range::Range;
use super::super::statement::{self, Select, View};
use super::request::{Order, Plan, Sort};
use super::{Event, Key, past};
use crate::event::{Scope, Timestamp};
use crate::http::Problem;
use crate::store::{Row, RowCells, Sql, StoreError};

const DAY_MILLIS: i64 = 86_400_000;
/// Each slice of time is this many times as long as the one before it.
const WIDEN: i64 = 8;

/// The way through the list's order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    /// To greater times (or names).
    Up,
    Down,
}

impl Direction {
    fn of(plan: &Plan) -> Self {
        let backwards = plan.before.is_some();
        if (plan.order == Order::Asc) == backwards { Self::Down } else { Self::Up }
    }

    fn beyond(self) -> &'static str {
        match self {
            Self::Up => " > ",
            Self::Down => " < ",
        }
    }

    fn order(self) -> &'static str {
        match self {
            Self::Up => " ASC",
            Self::Down => " DESC",
        }
    }
}

/// A list under way.
#[derive(Clone, Debug)]
pub(super) struct Search {
    scope: Scope,
    range: Range,
    keys: Vec<Sql>,
    conditions: Vec<Sql>,
    of_customer: bool,
    sort: Sort,
    direction: Direction,
    /// What comes next is beyond this place.
    at: Option<Key>,
    /// The slice of time that is looked through; none: all were.
    slice: Option<Range>,
    now: Timestamp,
}

/// Where a row stands, and what else is in its key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    millis: i64,
    event: String,
    person: u64,
    event_id: String,
}

/// Places that come next.
#[derive(Debug)]
struct Picked {
    places: Vec<Place>,
    /// The slices of time that they were picked from.
    within: Range,
    /// There are others beyond this one; none: these are all of their slices.
    last: Option<Key>,
}

impl Row for Place {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            millis: cells.next()?,
            event: cells.next()?,
            person: cells.next()?,
            event_id: cells.next()?,
        })
    }
}

impl Place {
    fn key(&self, sort: Sort) -> Key {
        Key {
            millis: self.millis,
            event: (sort == Sort::EventName).then(|| self.event.clone()),
            event_id: self.event_id.clone(),
        }
    }
}

const PLACE: &str = "toUnixTimestamp64Milli(timestamp) AS at, event_name AS name, cityHash64(distinct_id) AS person, \
                     event_id AS id";

impl Search {
    pub(super) fn new(scope: &Scope, plan: &Plan, now: Timestamp) -> Self {
        let direction = Direction::of(plan);
        let mut search = Self {
            scope: scope.clone(),
            range: plan.range,
            keys: plan.keys.clone(),
            conditions: plan.conditions.clone(),
            of_customer: plan.of_customer,
            sort: plan.sort,
            direction,
            at: plan.before.clone().or_else(|| plan.after.clone()),
            slice: None,
            now,
        };
        search.slice = match plan.sort {
            Sort::Timestamp => search.first_slice(),
            Sort::EventName => Some(plan.range),
        };
        search
    }

    /// The next events, at least one and about `wanted`; none: that was all.
    pub(super) async fn next(&mut self, query: &Query, wanted: usize) -> Result<Vec<Event>, Problem> {
        while self.slice.is_some() {
            let after = self.at.clone();
            let picked = self.pick(query, wanted).await?;
            if picked.places.is_empty() {
                continue;
            }
            let mut found: Vec<Event> = query.select(self.fetch(&picked.places)).await?;
            let (direction, sort) = (self.direction, self.sort);
            found.retain(|event| {
                let key = event.key(sort);
                picked.last.as_ref().is_none_or(|last| !is_beyond(&key, last, direction))
                    && after.as_ref().is_none_or(|after| is_beyond(&key, after, direction))
                    && in_slice(&key, picked.within, sort)
                    && picked.places.iter().any(|place| same_key(place, event))
            });
            found.sort_by(|a, b| {
                let order = compare(&a.key(sort), &b.key(sort));
                if direction == Direction::Up { order } else { order.reverse() }
            });
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// The next places, of as many slices as hold so many: what stands there is read once.
    async fn pick(&mut self, query: &Query, wanted: usize) -> Result<Picked, Problem> {
        let mut picked = Picked { places: Vec::new(), within: self.range, last: None };
        let mut begin = true;
        while let Some(slice) = self.slice {
            let missing = wanted - picked.places.len();
            let places: Vec<Place> = query
                .select(match self.sort {
                    Sort::Timestamp => self.pick_by_time(slice, missing),
                    Sort::EventName => self.pick_by_name(missing),
                })
                .await?;
            let whole = places.len() < missing;
            if let Some(last) = places.last() {
                self.at = Some(last.key(self.sort));
            }
            picked.within = if std::mem::take(&mut begin) { slice } else { joined(picked.within, slice) };
            picked.places.extend(places);
            self.slice = match (whole, self.sort) {
                (false, Sort::Timestamp) => Some(self.rest_of(slice)),
                (false, Sort::EventName) => Some(slice),
                (true, Sort::Timestamp) => self.next_slice(slice),
                (true, Sort::EventName) => None,
            };
            if !whole {
                picked.last.clone_from(&self.at);
                break;
            }
        }
        Ok(picked)
    }

    /// The day that the page begins in; of one customer, some days: they have few events each, and are read as quickly.
    fn first_slice(&self) -> Option<Range> {
        let more = if self.of_customer { (WIDEN - 1) * DAY_MILLIS } else { 0 };
        let Range { mut from, mut end } = self.range;
        if let Some(at) = &self.at {
            match self.direction {
                Direction::Down => end = end.min(Timestamp::from_millis(at.millis + 1)),
                Direction::Up => from = from.max(Timestamp::from_millis(at.millis)),
            }
        }
        if from >= end {
            return None;
        }
        Some(match self.direction {
            Direction::Down => {
                // Events may be dated ahead of the clock; the first slice holds all of those.
                let last = (end.as_millis() - 1).min(self.now.as_millis());
                let day = Timestamp::from_millis(last - last.rem_euclid(DAY_MILLIS) - more);
                Range { from: from.max(day.min(end)), end }
            }
            Direction::Up => {
                let first = from.as_millis();
                let next_day =
                    Timestamp::from_millis(first - first.rem_euclid(DAY_MILLIS) + DAY_MILLIS + more);
                Range { from, end: end.min(next_day) }
            }
        })
    }

    fn next_slice(&self, slice: Range) -> Option<Range> {
        let millis = slice.end.as_millis().min(self.now.as_millis()) - slice.from.as_millis();
        let reach = (millis / DAY_MILLIS).max(1).saturating_mul(WIDEN * DAY_MILLIS);
        let next = match self.direction {
            Direction::Down => {
                let from = Timestamp::from_millis(slice.from.as_millis().saturating_sub(reach));
                Range { from: from.max(self.range.from), end: slice.from }
            }
            Direction::Up => {
                let end = Timestamp::from_millis(slice.end.as_millis().saturating_add(reach));
                Range { from: slice.end, end: end.min(self.range.end) }
            }
        };
        (next.from < next.end).then_some(next)
    }

    /// What of a slice comes after the places that were picked from it.
    fn rest_of(&self, slice: Range) -> Range {
        let Some(at) = &self.at else { return slice };
        let at = Timestamp::from_millis(at.millis);
        match self.direction {
            Direction::Down => Range { end: slice.end.min(past(at)), ..slice },
            Direction::Up => Range { from: slice.from.max(at), ..slice },
        }
    }

    /// The next places of a slice, from rows as they were inserted. The inner statement reads nothing but times (and
    /// what is filtered on) to find how far the places reach.
    fn pick_by_time(&self, slice: Range, wanted: usize) -> Sql {
        let order = self.direction.order();
        let tail = Sql::new("ORDER BY at").push(order).push(", id").push(order).push(" LIMIT ").arg(wanted);
        if self.of_customer {
            // So few rows that finding how far the places reach would take longer than reading on.
            let places = self.rows(View::Versions, &Sql::new(PLACE), slice);
            return self.beyond_last(places, View::Versions).then(tail).sql();
        }
        // Places of the same millisecond as the page before are all taken along by the outer statement.
        let beyond = match (&self.at, self.direction) {
            (None, _) => slice,
            (Some(at), Direction::Down) => {
                Range { end: slice.end.min(Timestamp::from_millis(at.millis)), ..slice }
            }
            (Some(at), Direction::Up) => {
                Range { from: slice.from.max(past(Timestamp::from_millis(at.millis))), ..slice }
            }
        };
        let times = self
            .rows(View::Versions, &Sql::new("toUnixTimestamp64Milli(timestamp) AS at"), beyond)
            .then(Sql::new("ORDER BY at").push(order).push(" LIMIT ").arg(wanted))
            .sql();
        let reach = match self.direction {
            Direction::Down => {
                View::Versions.time().push(" >= (SELECT min(at) FROM (").append(&times).push("))")
            }
            Direction::Up => View::Versions
                .time()
                .push(" <= (SELECT if(count() = 0, ")
                .arg(slice.end.as_millis())
                .push(", max(at)) FROM (")
                .append(&times)
                .push("))"),
        };
        let places = self.rows(View::Versions, &Sql::new(PLACE), slice).narrow(reach);
        self.beyond_last(places, View::Versions).then(tail).sql()
    }

    /// The next places of the whole range, by name.
    fn pick_by_name(&self, wanted: usize) -> Sql {
        let places = self.rows(View::Deduplicated, &Sql::new(PLACE), self.range);
        let places = self.beyond_last(places, View::Deduplicated);
        let order = self.direction.order();
        let tail = Sql::new("ORDER BY name").push(order).push(", at").push(order).push(", id").push(order);
        places.then(tail.push(" LIMIT ").arg(wanted)).sql()
    }

    /// Rows of this range that the list is about.
    fn rows(&self, view: View, columns: &Sql, range: Range) -> Select {
        let select = statement::events(&self.scope, view, columns).within(range);
        select.keys(&self.keys).and_all(self.conditions.iter().cloned())
    }

    fn beyond_last(&self, select: Select, view: View) -> Select {
        match &self.at {
            Some(at) => select.and(self.beyond(at, view)),
            None => select,
        }
    }

    /// Holds for rows beyond a place.
    fn beyond(&self, at: &Key, view: View) -> Sql {
        let (columns, values) = match &at.event {
            None => (Sql::new("(").append(&view.time()), Sql::new("(")),
            Some(event) => {
                (Sql::new("(event_name, ").append(&view.time()), Sql::new("(").arg(event).push(", "))
            }
        };
        let values = values.arg(at.millis).push(", ").arg(&at.event_id).push(")");
        columns.push(", event_id)").push(self.direction.beyond()).append(&values)
    }

    /// What stands at these places, deduplicated.
    fn fetch(&self, places: &[Place]) -> Sql {
        let unique = |each: HashSet<String>| {
            let mut each: Vec<String> = each.into_iter().collect();
            each.sort();
            each
        };
        let days = places.iter().map(|place| statement::day(Timestamp::from_millis(place.millis))).collect();
        let days: Vec<Sql> = unique(days).iter().map(|day| Sql::new("toDate(").arg(day).push(")")).collect();
        let names = unique(places.iter().map(|place| place.event.clone()).collect());
        let ids = unique(places.iter().map(|place| place.event_id.clone()).collect());
        let mut persons: Vec<u64> = places.iter().map(|place| place.person).collect();
        persons.sort_unstable();
        persons.dedup();
        self.rows(View::Deduplicated, &Sql::new(super::COLUMNS), self.range)
            .key(Sql::new("toDate(timestamp) IN (").join(", ", &days).push(")"))
            .key(Sql::new("event_name IN ").list(names))
            .key(Sql::new("cityHash64(distinct_id) IN ").list(persons))
            .key(Sql::new("event_id IN ").list(ids))
            .sql()
    }
}

/// From where the one begins to where the other ends.
fn joined(one: Range, other: Range) -> Range {
    Range { from: one.from.min(other.from), end: one.end.max(other.end) }
}

fn compare(a: &Key, b: &Key) -> std::cmp::Ordering {
    (&a.event, a.millis, &a.event_id).cmp(&(&b.event, b.millis, &b.event_id))
}

fn is_beyond(key: &Key, place: &Key, direction: Direction) -> bool {
    let order = compare(key, place);
    if direction == Direction::Up { order.is_gt() } else { order.is_lt() }
}

/// Versions of one event may differ in their time of day: one that counts and stands in another slice is found there.
fn in_slice(key: &Key, slice: Range, sort: Sort) -> bool {
    sort == Sort::EventName || (slice.from.as_millis()..slice.end.as_millis()).contains(&key.millis)
}

/// Do both stand under one key of the table? Then they are versions of one event.
fn same_key(place: &Place, event: &Event) -> bool {
    place.millis.div_euclid(DAY_MILLIS) == event.timestamp.as_millis().div_euclid(DAY_MILLIS)
        && place.event == event.event_name
        && place.person == event.person
        && place.event_id == event.id
}

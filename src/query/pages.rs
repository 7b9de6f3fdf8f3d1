//! Finds the events of a list in their order, a page at a time, so that pages neither repeat nor skip while events arrive:
//! what comes next is beyond the place of the last event before it, so what arrives elsewhere moves nothing.
//!
//! The table is not sorted by the time of day, and reading it deduplicated takes every key column. So events are found in
//! two steps: places are picked from rows as they were inserted, in slices of time that begin with one day and widen;
//! then those keys, and only those, are read deduplicated. A row that counts is itself one of the rows picked from, so
//! nothing is missed; an older version of an event is only a hint and drops out in the second step.
//!
//! Days at rest hold no older versions: they are read in one step, which reads whole rows only where they stand on the
//! page, and of all other rows nothing but their times.
//!
//! Names do not follow time, so a list by name has the whole range for its slice.

use std::cmp::Ordering;
use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::Query;
use super::actor::Actors;
use super::range::Range;
use super::statement::{self, Select, View};
use crate::event::{Scope, Timestamp};
use crate::http::Problem;
use crate::store::{Row, RowCells, Sql, StoreError};

const DAY_MILLIS: i64 = 86_400_000;
/// Each slice of time is this many times as long as the one before it.
const WIDEN: i64 = 8;
/// Events that are read beyond what is wanted, so that those of the last one's millisecond are all there.
const TIES: usize = 7;

/// What a list is ordered by; what follows decides between equals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sort {
    /// Time, then whatever else tells two events apart in the table: name, hash of the distinct id, id.
    Time,
    /// Time, id.
    TimeAndId,
    /// Name, time, id.
    Name,
}

/// The way through a list's order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    /// To greater times (or names).
    Up,
    Down,
}

/// Where an event stands. Of a place that a list begins after, what its order does not look at may be anything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Place {
    pub millis: i64,
    pub event: String,
    /// `cityHash64` of the distinct id.
    pub person: u64,
    pub event_id: String,
}

/// An event that stands in lists.
pub(super) trait Listed: Row {
    /// What it is read from.
    const COLUMNS: &'static str;

    fn place(&self) -> Place;
}

/// What is looked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub scope: Scope,
    pub actors: Actors,
    pub range: Range,
    /// What is asked of a row's key.
    pub keys: Vec<Sql>,
    /// Of everything else.
    pub conditions: Vec<Sql>,
    /// Is it about one person, who has few events beside all the others?
    pub of_person: bool,
    pub sort: Sort,
    pub direction: Direction,
    /// What comes next is beyond this place.
    pub beyond: Option<Place>,
    pub now: Timestamp,
}

/// A list under way.
#[derive(Clone, Debug)]
pub(super) struct Search {
    wanted: Wanted,
    /// The slice of time that is looked through; none: all were.
    slice: Option<Range>,
}

/// Places that come next.
struct Picked {
    places: Vec<Place>,
    /// The slices of time that they were picked from.
    within: Range,
    /// There are others beyond this one; none: these are all of their slices.
    last: Option<Place>,
}

impl Sort {
    /// Which of two places comes first on the way up.
    fn compare(self, one: &Place, other: &Place) -> Ordering {
        let ids = one.event_id.cmp(&other.event_id);
        let times = one.millis.cmp(&other.millis);
        let names = one.event.cmp(&other.event);
        match self {
            Self::Time => times.then(names).then(one.person.cmp(&other.person)).then(ids),
            Self::TimeAndId => times.then(ids),
            Self::Name => names.then(times).then(ids),
        }
    }

    /// Its columns, as the statements of places name them.
    fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Time => &["at", "name", "person", "id"],
            Self::TimeAndId => &["at", "id"],
            Self::Name => &["name", "at", "id"],
        }
    }
}

impl Direction {
    fn sign(self) -> &'static str {
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

    fn turn(self, order: Ordering) -> Ordering {
        match self {
            Self::Up => order,
            Self::Down => order.reverse(),
        }
    }
}

const PLACE: &str = "toUnixTimestamp64Milli(timestamp) AS at, event_name AS name, cityHash64(distinct_id) AS person, \
                     event_id AS id";

impl Search {
    pub(super) fn new(wanted: Wanted) -> Self {
        let slice = if wanted.sort == Sort::Name { Some(wanted.range) } else { wanted.first_slice() };
        Self { wanted, slice }
    }

    /// The next events: at least one and at most so many; none: that was all.
    pub(super) async fn next<E: Listed>(&mut self, query: &Query, most: usize) -> Result<Vec<E>, Problem> {
        while let Some(slice) = self.slice {
            let found = match self.at_rest(query, slice, most).await? {
                Some(found) => found,
                None => self.in_two_steps(query, most).await?,
            };
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// The next events of this slice, if its days are at rest: in one step.
    async fn at_rest<E: Listed>(
        &mut self,
        query: &Query,
        slice: Range,
        most: usize,
    ) -> Result<Option<Vec<E>>, Problem> {
        let wanted = &self.wanted;
        let by_time = wanted.by_time::<E>(slice, most + TIES);
        if !query.store.is_at_rest(&by_time) {
            return Ok(None);
        }
        let mut found = Vec::new();
        let mut enough = false;
        if wanted.sort != Sort::Name {
            found = query.select(by_time).await?;
            let whole = found.len() < most + TIES;
            found.sort_by(|a: &E, b| wanted.compare(&a.place(), &b.place()));
            found.retain(|event| wanted.is_beyond(&event.place()));
            if let Some(last) = found.last().map(|event| event.place().millis).filter(|_| !whole) {
                // There may be others of its millisecond that come before it.
                found.retain(|event| event.place().millis != last);
            }
            enough = whole || found.len() >= most;
        }
        if !enough {
            found = query.select(wanted.page::<E>(slice, most)).await?;
        }
        let whole = found.len() < most;
        found.truncate(most);
        self.go_on(slice, found.last().map(Listed::place), whole);
        Ok(Some(found))
    }

    /// The next events of as many slices as hold so many: what stands there is read once.
    async fn in_two_steps<E: Listed>(&mut self, query: &Query, most: usize) -> Result<Vec<E>, Problem> {
        let before = self.wanted.beyond.clone();
        let picked = self.pick(query, most).await?;
        if picked.places.is_empty() {
            return Ok(Vec::new());
        }
        let mut found: Vec<E> = query.select(self.wanted.fetch(E::COLUMNS, &picked.places)).await?;
        let keys: HashSet<_> = picked.places.iter().map(Place::key).collect();
        let wanted = &self.wanted;
        found.retain(|event| {
            let place = event.place();
            picked.last.as_ref().is_none_or(|last| wanted.compare(&place, last).is_le())
                && before.as_ref().is_none_or(|before| wanted.compare(&place, before).is_gt())
                && wanted.in_slice(&place, picked.within)
                && keys.contains(&place.key())
        });
        found.sort_by(|a, b| wanted.compare(&a.place(), &b.place()));
        Ok(found)
    }

    async fn pick(&mut self, query: &Query, most: usize) -> Result<Picked, Problem> {
        let mut picked = Picked { places: Vec::new(), within: self.wanted.range, last: None };
        let mut begin = true;
        while let Some(slice) = self.slice {
            let missing = most - picked.places.len();
            let places: Vec<Place> = query.select(self.wanted.places(slice, missing)).await?;
            let whole = places.len() < missing;
            self.go_on(slice, places.last().cloned(), whole);
            picked.within = if std::mem::take(&mut begin) { slice } else { joined(picked.within, slice) };
            picked.places.extend(places);
            if !whole {
                picked.last.clone_from(&self.wanted.beyond);
                break;
            }
        }
        Ok(picked)
    }

    /// After what was found of a slice: all that it has, or the next few.
    fn go_on(&mut self, slice: Range, last: Option<Place>, whole: bool) {
        if last.is_some() {
            self.wanted.beyond = last;
        }
        self.slice = match (whole, self.wanted.sort) {
            (true, Sort::Name) => None,
            (false, Sort::Name) => Some(slice),
            (true, _) => self.wanted.next_slice(slice),
            (false, _) => Some(self.wanted.rest_of(slice)),
        };
    }
}

impl Wanted {
    /// The day that the page begins in; of one person, some days: they have few events each, and are read as quickly.
    fn first_slice(&self) -> Option<Range> {
        let more = if self.of_person { (WIDEN - 1) * DAY_MILLIS } else { 0 };
        let Range { from, end } = self.rest_of(self.range);
        if from >= end {
            return None;
        }
        Some(match self.direction {
            Direction::Down => {
                // Events may be dated ahead of the clock; the first slice of a list without an end holds all of them.
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

    /// What of a slice may hold what comes next.
    fn rest_of(&self, slice: Range) -> Range {
        let Some(place) = &self.beyond else { return slice };
        match self.direction {
            Direction::Down => {
                Range { end: slice.end.min(Timestamp::from_millis(place.millis + 1)), ..slice }
            }
            Direction::Up => Range { from: slice.from.max(Timestamp::from_millis(place.millis)), ..slice },
        }
    }

    /// Versions of one event may differ in their time of day: one that counts and stands in another slice is found there.
    fn in_slice(&self, place: &Place, slice: Range) -> bool {
        self.sort == Sort::Name || (slice.from.as_millis()..slice.end.as_millis()).contains(&place.millis)
    }

    /// Which of two places comes first on this way.
    fn compare(&self, one: &Place, other: &Place) -> Ordering {
        self.direction.turn(self.sort.compare(one, other))
    }

    fn is_beyond(&self, place: &Place) -> bool {
        self.beyond.as_ref().is_none_or(|beyond| self.compare(place, beyond).is_gt())
    }

    /// Rows of this range that the list is about.
    fn rows(&self, view: View, columns: &'static str, range: Range) -> Select {
        let select =
            statement::events(&self.scope, view, &Sql::new(columns)).actors(&self.actors).within(range);
        select.keys(&self.keys).and_all(self.conditions.iter().cloned())
    }

    /// The first events of a slice by time alone: which of those of one millisecond is open.
    fn by_time<E: Listed>(&self, slice: Range, most: usize) -> Sql {
        let order = Sql::new("ORDER BY timestamp").push(self.direction.order()).push(" LIMIT ").arg(most);
        self.rows(View::Deduplicated, E::COLUMNS, slice).then(order).sql()
    }

    /// The next events of a slice.
    fn page<E: Listed>(&self, slice: Range, most: usize) -> Sql {
        let columns = self.sort.columns().iter().map(|column| match *column {
            "at" => "timestamp",
            "name" => "event_name",
            "person" => "cityHash64(distinct_id)",
            _ => "event_id",
        });
        let order = self.in_order(columns, most);
        self.after(self.rows(View::Deduplicated, E::COLUMNS, slice), View::Deduplicated).then(order).sql()
    }

    fn in_order(&self, columns: impl Iterator<Item = &'static str>, most: usize) -> Sql {
        let each: Vec<Sql> = columns.map(|column| Sql::new(column).push(self.direction.order())).collect();
        Sql::new("ORDER BY ").join(", ", &each).push(" LIMIT ").arg(most)
    }

    /// The next places of a slice; fewer than asked for mean that it has no others.
    ///
    /// By time, from rows as they were inserted; the inner statement reads nothing but times (and what is filtered on) to
    /// find how far the places reach.
    fn places(&self, slice: Range, most: usize) -> Sql {
        let tail = self.in_order(self.sort.columns().iter().copied(), most);
        let view = if self.sort == Sort::Name { View::Deduplicated } else { View::Versions };
        let places = self.after(self.rows(view, PLACE, slice), view);
        if self.of_person || self.sort == Sort::Name {
            // Of one person there are so few rows that finding how far the places reach would take longer.
            return places.then(tail).sql();
        }
        // Places of the same millisecond as the one before are all taken along by the outer statement.
        let beyond = match (&self.beyond, self.direction) {
            (None, _) => slice,
            (Some(place), Direction::Down) => {
                Range { end: slice.end.min(Timestamp::from_millis(place.millis)), ..slice }
            }
            (Some(place), Direction::Up) => {
                Range { from: slice.from.max(Timestamp::from_millis(place.millis + 1)), ..slice }
            }
        };
        let times = self
            .rows(view, "toUnixTimestamp64Milli(timestamp) AS at", beyond)
            .then(self.in_order(["at"].into_iter(), most))
            .sql();
        let reach = match self.direction {
            Direction::Down => view.time().push(" >= (SELECT min(at) FROM (").append(&times).push("))"),
            Direction::Up => view
                .time()
                .push(" <= (SELECT if(count() = 0, ")
                .arg(slice.end.as_millis())
                .push(", max(at)) FROM (")
                .append(&times)
                .push("))"),
        };
        places.narrow(reach).then(tail).sql()
    }

    /// Only rows beyond the place that the list begins after.
    fn after(&self, select: Select, view: View) -> Select {
        let Some(place) = &self.beyond else { return select };
        let each = |column: &&str| match *column {
            "at" => (view.time(), Sql::default().arg(place.millis)),
            "name" => (Sql::new("event_name"), Sql::default().arg(&place.event)),
            "person" => (Sql::new("cityHash64(distinct_id)"), Sql::default().arg(place.person)),
            _ => (Sql::new("event_id"), Sql::default().arg(&place.event_id)),
        };
        let (columns, values): (Vec<Sql>, Vec<Sql>) = self.sort.columns().iter().map(each).unzip();
        let columns = Sql::new("(").join(", ", &columns).push(")").push(self.direction.sign());
        select.and(columns.push("(").join(", ", &values).push(")"))
    }

    /// What stands at these places, deduplicated.
    fn fetch(&self, columns: &'static str, places: &[Place]) -> Sql {
        let days: HashSet<String> =
            places.iter().map(|place| statement::day(Timestamp::from_millis(place.millis))).collect();
        let mut days: Vec<String> = days.into_iter().collect();
        days.sort();
        let days: Vec<Sql> = days.iter().map(|day| Sql::new("toDate(").arg(day).push(")")).collect();
        // Whole keys: the places' names and persons each by itself would meet, crossed, most of what a day holds.
        let key = |place: &Place| {
            let key = Sql::new("(").arg(&place.event).push(", ").arg(place.person);
            key.push(", ").arg(&place.event_id).push(")")
        };
        let keys: Vec<Sql> = places.iter().map(key).collect();
        self.rows(View::Deduplicated, columns, self.range)
            .key(Sql::new("toDate(timestamp) IN (").join(", ", &days).push(")"))
            .key(Sql::new("(event_name, cityHash64(distinct_id), event_id) IN (").join(", ", &keys).push(")"))
            .sql()
    }
}

/// From where the one begins to where the other ends.
fn joined(one: Range, other: Range) -> Range {
    Range { from: one.from.min(other.from), end: one.end.max(other.end) }
}

impl Place {
    /// What the table sorts it by: versions of one event have the same.
    fn key(&self) -> (i64, String, u64, String) {
        (self.millis.div_euclid(DAY_MILLIS), self.event.clone(), self.person, self.event_id.clone())
    }
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

#[cfg(test)]
impl Search {
    /// The statements of the first slice, of what was picked, of the first slice at rest by time alone and exactly, and of
    /// the next slice.
    pub(super) fn statements<E: Listed>(mut self, most: usize) -> Vec<Sql> {
        let Some(first) = self.slice else { return Vec::new() };
        let (millis, person) = (self.wanted.now.as_millis(), 17);
        let place = Place { millis, event: "a'b".to_owned(), person, event_id: "id".to_owned() };
        let mut statements = vec![
            self.wanted.places(first, most),
            self.wanted.fetch(E::COLUMNS, std::slice::from_ref(&place)),
            self.wanted.by_time::<E>(first, most),
        ];
        self.wanted.beyond = Some(place);
        statements.push(self.wanted.page::<E>(first, most));
        statements.extend(self.wanted.next_slice(first).map(|next| self.wanted.places(next, most)));
        statements
    }
}

//! The list of events, newest first, in keyset pages that neither repeat nor skip while events arrive.
//!
//! The order is the time, then what else tells two events apart in the table: name, hash of the distinct id, event id.
//! A page's cursor is the place of its last event in this order, so what arrives before it or after it moves nothing.
//!
//! The table is not sorted by the time of day, and reading it deduplicated takes every key column. So a page is found
//! in two steps (see `Search`): places are picked from rows as they were inserted, in slices of time that begin with
//! one day and widen; then those keys, and only those, are read deduplicated. A row that counts is itself one of the
//! rows picked from, so nothing is missed; an older version of an event is only a hint and drops out in the second step.
//! Days at rest hold no older versions: their pages are read in one step, which reads whole rows only where they stand
//! on the page.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::actor::Actors;
use super::filter::{self, Filters, Ground};
use super::interval::{Calendar, Interval, WeekStart};
use super::range::{self, Moment, Range};
use super::statement::{self, Select, View};
use super::{Meta, Query, persons};
use crate::config;
use crate::event::{Scope, Timestamp};
use crate::http::{Problem, cursor, strict};
use crate::store::{Row, RowCells, Sql, StoreError};

/// A question for a page, as it is sent in the query string.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct List {
    /// Only events of these names; none: of any.
    pub event: Vec<String>,
    pub distinct_id: Option<String>,
    /// Only events of this person, by whichever of their ids.
    pub person_id: Option<String>,
    /// RFC 3339, or any form that [`range`] reads, in UTC.
    pub date_from: Option<String>,
    /// Inclusive.
    pub date_to: Option<String>,
    /// `properties`: a JSON list of filters, or one group of them.
    pub properties: Filters,
    /// Leave out what the filters of test accounts leave out.
    pub filter_test_accounts: bool,
    /// Events in the page; 100 when absent, at most `query.page_rows_max`.
    #[serde(skip)]
    pub limit: Option<usize>,
    #[serde(skip)]
    pub cursor: Option<String>,
}

const NAMES: [&str; 9] = [
    "event",
    "distinct_id",
    "person_id",
    "date_from",
    "date_to",
    "properties",
    "filter_test_accounts",
    "limit",
    "cursor",
];

/// The columns of an [`Event`], in its order.
pub(super) const COLUMNS: &str = "event_id, event_name, distinct_id, timestamp, received_at, properties, \
    session_id, source, customer_id, source_topic, source_partition, source_offset, \
    cityHash64(distinct_id) AS person";

/// Events in a page, unless the question says otherwise.
const PAGE: usize = 100;

/// An event as it is answered. Texts that it does not have are null.
#[derive(Debug, Serialize)]
pub struct Event {
    pub event_id: String,
    pub event: String,
    pub distinct_id: String,
    pub timestamp: Timestamp,
    pub received_at: Timestamp,
    /// The JSON object as it was sent.
    pub properties: Box<RawValue>,
    pub session_id: Option<String>,
    pub source: Option<String>,
    pub customer_id: Option<String>,
    /// Where its record stands in the event log.
    pub log: LogPlace,
    #[serde(skip)]
    person: u64,
}

/// A place in the event log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogPlace {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

/// A page of events.
#[derive(Debug, Serialize)]
pub struct Page {
    pub events: Vec<Event>,
    /// Give it as `cursor` to get the next page; null: there are no more.
    pub next_cursor: Option<String>,
    pub meta: Meta,
}

/// A place in the order of the list; greater is newer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Place {
    millis: i64,
    event: String,
    /// `cityHash64` of the distinct id.
    person: u64,
    event_id: String,
}

impl List {
    /// Reads a query string, as strictly as a body is read; `event` may be given several times.
    ///
    /// # Errors
    /// 400 that names the parameter, and the nearest right one if it is unknown.
    pub(super) fn parse(query: &str) -> Result<Self, Problem> {
        let pairs: Vec<(String, String)> = strict::query_string(query)?;
        let mut list = Self::default();
        let mut given = HashSet::new();
        for (name, value) in pairs {
            if name != "event" && !given.insert(name.clone()) {
                return Err(Problem::invalid(&name, format!("{name} is given more than once")));
            }
            match name.as_str() {
                "event" => list.event.push(value),
                "distinct_id" => list.distinct_id = Some(value),
                "person_id" => list.person_id = Some(value),
                "date_from" => list.date_from = Some(value),
                "date_to" => list.date_to = Some(value),
                "cursor" => list.cursor = Some(value),
                "limit" => list.limit = Some(number("limit", &value)?),
                "properties" => list.properties = filters(&value)?,
                "filter_test_accounts" => list.filter_test_accounts = truth(&name, &value)?,
                // The key's environment was held against it already.
                "environment_id" => {}
                _ => return Err(unknown(&name, &NAMES)),
            }
        }
        Ok(list)
    }

    /// Text that is the same for every page of one list: its cursors fit no other.
    fn question(&self, scope: &Scope) -> Result<String, Problem> {
        serde_json::to_string(&("events", scope, self)).map_err(Problem::internal)
    }

    /// What it asks of a row's key.
    pub(super) fn keys(&self) -> Vec<Sql> {
        let names = (!self.event.is_empty()).then(|| Sql::new("event_name IN ").list(&self.event));
        // The hash stands in the key, the id itself does not.
        let hash = |id: &String| Sql::new("cityHash64(distinct_id) = cityHash64(").arg(id).push(")");
        names.into_iter().chain(self.distinct_id.as_ref().map(hash)).collect()
    }

    /// What it asks of everything else in a row.
    ///
    /// # Errors
    /// 400 for what cannot be meant.
    pub(super) fn conditions(
        &self,
        limits: &config::Query,
        now: Timestamp,
        actors: &Actors,
    ) -> Result<Vec<Sql>, Problem> {
        let utc = Calendar { zone: chrono_tz::UTC, week_start: WeekStart::default() };
        let ground = Ground { calendar: &utc, now, limits, actors };
        let mut conditions = filter::conditions(&self.properties, "properties", &ground)?;
        if self.filter_test_accounts {
            conditions.extend(filter::conditions(actors.test_accounts()?, "filter_test_accounts", &ground)?);
        }
        conditions.extend(self.distinct_id.as_ref().map(|id| Sql::new("distinct_id = ").arg(id)));
        Ok(conditions)
    }

    fn search(
        &self,
        scope: &Scope,
        limits: &config::Query,
        now: Timestamp,
        actors: &Actors,
    ) -> Result<Search, Problem> {
        let limit = page_limit(self.limit, PAGE, limits)?;
        let utc = Calendar { zone: chrono_tz::UTC, week_start: WeekStart::default() };
        let from = match self.date_from.as_deref() {
            None => Timestamp::EPOCH,
            Some(text) => match range::parse("date_from", text, &utc, now)? {
                Moment::Day(date) => utc.start_of_day(date),
                Moment::Exact(at) | Moment::Relative(at) => at,
            },
        };
        let end = match self.date_to.as_deref() {
            None => Timestamp::MAX,
            Some(text) => match range::parse("date_to", text, &utc, now)? {
                Moment::Day(date) => utc.next(Interval::Day, utc.start_of_day(date)),
                Moment::Exact(at) | Moment::Relative(at) => at.plus(Duration::from_millis(1)),
            },
        };
        if from >= end {
            return Err(range::backwards(from, Range { from, end }.last()));
        }
        let after = match &self.cursor {
            None => None,
            Some(text) => Some(cursor::decode::<Place>(&self.question(scope)?, text)?),
        };
        let conditions = self.conditions(limits, now, actors)?;
        let range = Range { from: from.max(Timestamp::EPOCH), end };
        let (scope, actors, keys) = (scope.clone(), actors.clone(), self.keys());
        let of_person = self.distinct_id.is_some() || self.person_id.is_some();
        Ok(Search { scope, actors, range, keys, conditions, of_person, after, limit, now })
    }
}

#[cfg(test)]
impl List {
    /// The statements of the first slice, of what was picked, of the first slice at rest, and of the next one.
    pub(super) fn statements(
        &self,
        scope: &Scope,
        limits: &config::Query,
        now: Timestamp,
    ) -> Result<Vec<Sql>, Problem> {
        let mut search = self.search(scope, limits, now, &Actors::new(scope, false))?;
        let Some(first) = search.first_slice() else { return Ok(Vec::new()) };
        let (millis, person) = (now.as_millis(), 17);
        let place = Place { millis, event: "a'b".to_owned(), person, event_id: "id".to_owned() };
        let wanted = search.limit + 1;
        let mut statements = vec![search.pick(first, wanted), search.fetch(std::slice::from_ref(&place))];
        statements.push(search.page(first, wanted));
        search.after = Some(place);
        statements.extend(search.next_slice(first).map(|next| search.pick(next, wanted)));
        Ok(statements)
    }
}

/// Finds one page.
#[derive(Clone, Debug)]
struct Search {
    scope: Scope,
    actors: Actors,
    range: Range,
    keys: Vec<Sql>,
    conditions: Vec<Sql>,
    /// Is it about one person, who has few events beside all the others?
    of_person: bool,
    /// The page begins after this place.
    after: Option<Place>,
    limit: usize,
    now: Timestamp,
}

const DAY_MILLIS: i64 = 86_400_000;
/// Each slice of time is this many times as long as the one before it.
const WIDEN: i64 = 8;

/// The page that `list` asks for.
///
/// # Errors
/// 400 for what cannot be meant, 503 for what the store does not answer.
pub(super) async fn list(query: &Query, scope: &Scope, list: &List) -> Result<Page, Problem> {
    let now = query.clock.now();
    // What cannot be meant is refused before it waits for a turn, whoever the people are.
    list.search(scope, &query.limits, now, &Actors::new(scope, false))?;
    let asked = query.begin().await?;
    let mut search = list.search(scope, &query.limits, now, &query.actors(scope).await?)?;
    if let Some(person) = &list.person_id {
        search.keys.push(persons::condition(query, scope, person).await?);
    }
    let mut events: Vec<Event> = Vec::with_capacity(search.limit + 1);
    let mut slice = search.first_slice();
    while events.len() <= search.limit && slice.is_some() {
        let wanted = search.limit + 1 - events.len();
        if let Some(mut found) = search.at_rest(query, &mut slice, wanted).await? {
            events.append(&mut found);
            continue;
        }
        let after = search.after.clone();
        let picked = search.places(query, &mut slice).await?;
        if picked.places.is_empty() {
            continue;
        }
        // Where the page before ended, not where these places end.
        let last = std::mem::replace(&mut search.after, after);
        let mut found: Vec<Event> = query.select(search.fetch(&picked.places)).await?;
        search.after = last;
        found.retain(|event| {
            let place = event.place();
            picked.last.as_ref().is_none_or(|last| place >= *last)
                && place.millis >= picked.from.as_millis()
                && picked.places.iter().any(|candidate| candidate.same_key(&place))
        });
        found.sort_by_key(|event| std::cmp::Reverse(event.place()));
        events.append(&mut found);
    }
    let next_cursor = if events.len() > search.limit {
        events.truncate(search.limit);
        let place = events.last().map(Event::place);
        place.map(|place| cursor::encode(&list.question(scope)?, &place)).transpose()?
    } else {
        None
    };
    Ok(Page { events, next_cursor, meta: asked.meta() })
}

/// Places that come next, newest first.
struct Picked {
    places: Vec<Place>,
    /// How far back the slices reach that they were picked from.
    from: Timestamp,
    /// There are others beyond this one; none: these are all of their slices.
    last: Option<Place>,
}

impl Search {
    /// The newest events of the slice, if its days are at rest: in one step.
    async fn at_rest(
        &mut self,
        query: &Query,
        slice: &mut Option<Range>,
        wanted: usize,
    ) -> Result<Option<Vec<Event>>, Problem> {
        let Some(within) = *slice else { return Ok(None) };
        // Of many days of all people, finding how far the page reaches by times alone takes less.
        let span = within.end.min(self.now).as_millis() - within.from.as_millis();
        if !self.of_person && span > DAY_MILLIS {
            return Ok(None);
        }
        let sql = self.page(within, wanted);
        if !query.store.is_at_rest(&sql) {
            return Ok(None);
        }
        let found: Vec<Event> = query.select(sql).await?;
        if let Some(last) = found.last() {
            self.after = Some(last.place());
        }
        *slice = if found.len() < wanted { self.next_slice(within) } else { None };
        Ok(Some(found))
    }

    /// The newest events of a slice.
    fn page(&self, slice: Range, wanted: usize) -> Sql {
        let mut page = self.rows(View::Deduplicated, &Sql::new(COLUMNS), slice);
        if let Some(after) = &self.after {
            page = page.and(after.older(View::Deduplicated));
        }
        let order =
            "ORDER BY timestamp DESC, event_name DESC, cityHash64(distinct_id) DESC, event_id DESC LIMIT ";
        page.then(Sql::new(order).arg(wanted)).sql()
    }

    /// The next places, of as many slices as hold a page: what stands there is read once.
    async fn places(&mut self, query: &Query, slice: &mut Option<Range>) -> Result<Picked, Problem> {
        let mut picked = Picked { places: Vec::new(), from: self.range.end, last: None };
        while let Some(within) = *slice {
            let wanted = self.limit + 1 - picked.places.len();
            let places: Vec<Place> = query.select(self.pick(within, wanted)).await?;
            let whole = places.len() < wanted;
            if let Some(last) = places.last() {
                self.after = Some(last.clone());
            }
            picked.from = within.from;
            picked.places.extend(places);
            *slice = if whole { self.next_slice(within) } else { Some(self.rest_of(within)) };
            if !whole {
                picked.last.clone_from(&self.after);
                break;
            }
        }
        Ok(picked)
    }

    /// The day that the page begins in; of one person, some days: they have few events each, and are read as quickly.
    fn first_slice(&self) -> Option<Range> {
        let more = if self.of_person { (WIDEN - 1) * DAY_MILLIS } else { 0 };
        let end = self
            .after
            .as_ref()
            .map_or(self.range.end, |after| self.range.end.min(Timestamp::from_millis(after.millis + 1)));
        // Events may be dated ahead of the clock; the first slice of a list without an end holds all of them.
        let last = end.as_millis().saturating_sub(1).min(self.now.as_millis());
        let from = Timestamp::from_millis(last - last.rem_euclid(DAY_MILLIS) - more).max(self.range.from);
        (self.range.from < end).then_some(Range { from: from.min(end), end })
    }

    /// The slice before `slice`.
    fn next_slice(&self, slice: Range) -> Option<Range> {
        let end = slice.from;
        let days =
            ((slice.end.as_millis().min(self.now.as_millis()) - slice.from.as_millis()) / DAY_MILLIS).max(1);
        let from = end.as_millis().saturating_sub(days.saturating_mul(WIDEN) * DAY_MILLIS);
        let from = Timestamp::from_millis(from).max(self.range.from);
        (self.range.from < end).then_some(Range { from, end })
    }

    /// What of a slice comes after the places that were picked from it.
    fn rest_of(&self, slice: Range) -> Range {
        let end = self.after.as_ref().map_or(slice.end, |after| Timestamp::from_millis(after.millis + 1));
        Range { from: slice.from, end: end.min(slice.end) }
    }

    /// Step one: the newest places of a slice, from rows as they were inserted. One more than the page holds, so that
    /// fewer mean the slice has no others.
    ///
    /// The inner statement reads nothing but times (and what is filtered on) to find how far back the places reach.
    fn pick(&self, slice: Range, wanted: usize) -> Sql {
        let columns = Sql::new(
            "toUnixTimestamp64Milli(timestamp) AS at, event_name AS name, cityHash64(distinct_id) AS person, \
             event_id AS id",
        );
        let mut places = self.rows(View::Versions, &columns, slice);
        if let Some(after) = &self.after {
            places = places.and(after.older(View::Versions));
        }
        let tail = Sql::new("ORDER BY at DESC, name DESC, person DESC, id DESC LIMIT ").arg(wanted);
        if self.of_person {
            // So few rows that finding how far the places reach would take longer than reading on.
            return places.then(tail).sql();
        }
        let older = match &self.after {
            // Places of the same millisecond as the last page's end are all taken along by the outer statement.
            Some(after) => Range { end: slice.end.min(Timestamp::from_millis(after.millis)), ..slice },
            None => slice,
        };
        let times = self
            .rows(View::Versions, &Sql::new("toUnixTimestamp64Milli(timestamp) AS at"), older)
            .then(Sql::new("ORDER BY at DESC LIMIT ").arg(wanted))
            .sql();
        let reach = View::Versions.time().push(" >= (SELECT min(at) FROM (").append(&times).push("))");
        places.narrow(reach).then(tail).sql()
    }

    /// Rows of this range that the list is about.
    fn rows(&self, view: View, columns: &Sql, range: Range) -> Select {
        let select = statement::events(&self.scope, view, columns).actors(&self.actors).within(range);
        select.keys(&self.keys).and_all(self.conditions.iter().cloned())
    }

    /// Step two: what stands at these places, deduplicated.
    fn fetch(&self, places: &[Place]) -> Sql {
        let set = |each: Vec<Sql>| Sql::new("(").join(", ", &each).push(")");
        let unique = |each: HashSet<String>| {
            let mut each: Vec<String> = each.into_iter().collect();
            each.sort();
            each
        };
        let days =
            unique(places.iter().map(|place| statement::day(Timestamp::from_millis(place.millis))).collect());
        let days = set(days.iter().map(|day| Sql::new("toDate(").arg(day).push(")")).collect());
        // Whole keys: the places' names and persons each by itself would meet, crossed, most of what a day holds.
        let keys = set(places.iter().map(Place::key).collect());
        let select = self
            .rows(View::Deduplicated, &Sql::new(COLUMNS), self.range)
            .key(Sql::new("toDate(timestamp) IN ").append(&days))
            .key(Sql::new("(event_name, cityHash64(distinct_id), event_id) IN ").append(&keys));
        match &self.after {
            Some(after) => select.and(after.older(View::Deduplicated)).sql(),
            None => select.sql(),
        }
    }
}

impl Place {
    /// Holds for rows after this place.
    fn older(&self, view: View) -> Sql {
        Sql::new("(")
            .append(&view.time())
            .push(", event_name, cityHash64(distinct_id), event_id) < (")
            .arg(self.millis)
            .push(", ")
            .arg(&self.event)
            .push(", ")
            .arg(self.person)
            .push(", ")
            .arg(&self.event_id)
            .push(")")
    }

    /// What the table sorts it by, within its day.
    fn key(&self) -> Sql {
        let key = Sql::new("(").arg(&self.event).push(", ").arg(self.person);
        key.push(", ").arg(&self.event_id).push(")")
    }

    /// Do both stand under one key of the table? Then they are versions of one event.
    fn same_key(&self, other: &Self) -> bool {
        self.millis.div_euclid(DAY_MILLIS) == other.millis.div_euclid(DAY_MILLIS)
            && self.event == other.event
            && self.person == other.person
            && self.event_id == other.event_id
    }
}

impl Event {
    fn place(&self) -> Place {
        Place {
            millis: self.timestamp.as_millis(),
            event: self.event.clone(),
            person: self.person,
            event_id: self.event_id.clone(),
        }
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

impl Row for Event {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        Ok(Self {
            event_id: cells.next()?,
            event: cells.next()?,
            distinct_id: cells.next()?,
            timestamp: cells.next()?,
            received_at: cells.next()?,
            properties: RawValue::from_string(cells.next()?).map_err(|error| {
                StoreError::Query(format!("properties that are not JSON are stored: {error}"))
            })?,
            session_id: some(cells.next()?),
            source: some(cells.next()?),
            customer_id: some(cells.next()?),
            log: LogPlace { topic: cells.next()?, partition: cells.next()?, offset: cells.next()? },
            person: cells.next()?,
        })
    }
}

/// Rows in an answer: what was asked for, else `default`.
///
/// # Errors
/// 400: none, or more than `query.page_rows_max`.
pub(super) fn page_limit(
    asked: Option<usize>,
    default: usize,
    limits: &config::Query,
) -> Result<usize, Problem> {
    let max = limits.page_rows_max;
    let limit = asked.unwrap_or(default.min(max));
    if limit == 0 || limit > max {
        let message = format!("limit is {limit}; it may be 1 to {max} (query.page_rows_max)");
        return Err(Problem::invalid("limit", message)
            .with("given", limit)
            .with("max", max)
            .with("setting", "query.page_rows_max"));
    }
    Ok(limit)
}

/// A parameter that is a number.
pub(super) fn number(name: &str, value: &str) -> Result<usize, Problem> {
    value.parse().map_err(|_| {
        Problem::invalid(name, format!("{name} is {value:?}; expected a whole number")).with("given", value)
    })
}

fn truth(name: &str, value: &str) -> Result<bool, Problem> {
    value.parse().map_err(|_| {
        let message = format!("{name} is {value:?}; expected true or false");
        Problem::invalid(name, message).with("given", value).with("valid", vec!["true", "false"])
    })
}

fn filters(json: &str) -> Result<Filters, Problem> {
    strict::json(json.as_bytes()).map_err(|problem| {
        let inner = problem.details.get("field").and_then(|field| field.as_str()).unwrap_or_default();
        let field =
            format!("properties{}{inner}", if inner.is_empty() || inner.starts_with('[') { "" } else { "." });
        let message = format!("properties is a JSON list of {{key, operator, value}}: {}", problem.message);
        Problem { message, ..problem }.with("field", field)
    })
}

/// 400 for a parameter that does not exist.
pub(super) fn unknown(name: &str, valid: &[&'static str]) -> Problem {
    let hint = match strict::nearest(name, valid.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("known are {}", valid.join(", ")),
    };
    Problem::invalid(name, format!("unknown parameter {name}: {hint}")).with("valid", valid)
}

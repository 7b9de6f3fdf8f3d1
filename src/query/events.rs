//! The list of events, newest first. A page's cursor is the place of its last event in the list's order; how a page is
//! found is told in `pages`.

use std::collections::HashSet;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::actor::Actors;
use super::filter::{self, Filters, Ground};
use super::interval::{Calendar, Interval, WeekStart};
use super::pages::{Direction, Listed, Place, Search, Sort, Wanted};
use super::range::{self, Moment, Range};
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

    /// What is looked for; the person is not among it yet.
    fn wanted(
        &self,
        scope: &Scope,
        limits: &config::Query,
        now: Timestamp,
        actors: &Actors,
    ) -> Result<Wanted, Problem> {
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
        Ok(Wanted {
            scope: scope.clone(),
            actors: actors.clone(),
            range: Range { from: from.max(Timestamp::EPOCH), end },
            keys: self.keys(),
            conditions: self.conditions(limits, now, actors)?,
            of_person: self.distinct_id.is_some() || self.person_id.is_some(),
            sort: Sort::Time,
            direction: Direction::Down,
            beyond: match &self.cursor {
                None => None,
                Some(text) => Some(cursor::decode(&self.question(scope)?, text)?),
            },
            now,
        })
    }
}

#[cfg(test)]
impl List {
    pub(super) fn statements(
        &self,
        scope: &Scope,
        limits: &config::Query,
        now: Timestamp,
    ) -> Result<Vec<Sql>, Problem> {
        let wanted = self.wanted(scope, limits, now, &Actors::new(scope, false))?;
        Ok(Search::new(wanted).statements::<Event>(page_limit(self.limit, PAGE, limits)? + 1))
    }
}

/// The page that `list` asks for.
///
/// # Errors
/// 400 for what cannot be meant, 503 for what the store does not answer.
pub(super) async fn list(query: &Query, scope: &Scope, list: &List) -> Result<Page, Problem> {
    let now = query.clock.now();
    let limit = page_limit(list.limit, PAGE, &query.limits)?;
    // What cannot be meant is refused before it waits for a turn, whoever the people are.
    list.wanted(scope, &query.limits, now, &Actors::new(scope, false))?;
    let asked = query.begin().await?;
    let mut wanted = list.wanted(scope, &query.limits, now, &query.actors(scope).await?)?;
    if let Some(person) = &list.person_id {
        wanted.keys.push(persons::condition(query, scope, person).await?);
    }
    let mut search = Search::new(wanted);
    let mut events: Vec<Event> = Vec::with_capacity(limit + 1);
    while events.len() <= limit {
        let found = search.next(query, limit + 1 - events.len()).await?;
        if found.is_empty() {
            break;
        }
        events.extend(found);
    }
    let next_cursor = if events.len() > limit {
        events.truncate(limit);
        let place = events.last().map(Listed::place);
        place.map(|place| cursor::encode(&list.question(scope)?, &place)).transpose()?
    } else {
        None
    };
    Ok(Page { events, next_cursor, meta: asked.meta() })
}

impl Listed for Event {
    const COLUMNS: &'static str = "event_id, event_name, distinct_id, timestamp, received_at, properties, session_id, \
                                   source, customer_id, source_topic, source_partition, source_offset, \
                                   cityHash64(distinct_id) AS person";

    fn place(&self) -> Place {
        Place {
            millis: self.timestamp.as_millis(),
            event: self.event.clone(),
            person: self.person,
            event_id: self.event_id.clone(),
        }
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

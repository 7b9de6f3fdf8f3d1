//! Who there is: the list of persons, and one person with properties and events.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::actor::Actors;
use super::events::{self, Event, List};
use super::filter::Ground;
use super::interval::{Calendar, WeekStart};
use super::statement::{self, View};
use super::{Meta, Query, cohorts};
use crate::event::{Scope, Timestamp};
use crate::http::{ErrorCode, Problem, cursor, strict};
use crate::person::PersonId;
use crate::store::{Row, RowCells, Sql, StoreError};

/// A question for a page of persons, as it is sent in the query string.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Persons {
    /// Only the person that this distinct id belongs to.
    pub distinct_id: Option<String>,
    /// Only members of this cohort; then the page says how many there are.
    pub cohort_id: Option<String>,
    /// Persons in the page; 100 when absent, at most `query.page_rows_max`.
    #[serde(skip)]
    pub limit: Option<usize>,
    #[serde(skip)]
    pub cursor: Option<String>,
}

const NAMES: [&str; 4] = ["distinct_id", "cohort_id", "limit", "cursor"];

/// Persons in a page, unless the question says otherwise.
const PAGE: usize = 100;
/// Distinct ids of a person that are shown in a list; one person shows all of them.
const IDS_SHOWN: usize = 100;
/// Most properties of a person that are shown.
const PROPERTIES_SHOWN: usize = 1000;

/// A person.
#[derive(Debug, Serialize)]
pub struct Person {
    pub id: PersonId,
    /// Sorted. Also those that have no event.
    pub distinct_ids: Vec<String>,
    /// As they are now.
    pub properties: BTreeMap<String, Box<RawValue>>,
    /// Times of the person's events; null: they have none.
    pub first_seen: Option<Timestamp>,
    pub last_seen: Option<Timestamp>,
    pub events_total: u64,
}

/// A page of persons, those seen last first.
#[derive(Debug, Serialize)]
pub struct Page {
    pub persons: Vec<Person>,
    /// Of a cohort: its members who have an event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Give it as `cursor` to get the next page; null: there are no more.
    pub next_cursor: Option<String>,
    pub meta: Meta,
}

/// A person, and their events.
#[derive(Debug, Serialize)]
pub struct Shown {
    #[serde(flatten)]
    pub person: Person,
    /// The newest.
    pub events: Vec<Event>,
    /// For `GET /api/query/events?person_id=…`; null: these are all.
    pub next_cursor: Option<String>,
    pub meta: Meta,
}

/// Where a page ends.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Place {
    millis: i64,
    actor: u64,
}

/// What the events tell of a person.
struct Seen {
    actor: u64,
    first_seen: Timestamp,
    last_seen: Timestamp,
    events: u64,
    ids: Vec<String>,
}

impl Row for Seen {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            actor: cells.next()?,
            first_seen: cells.next()?,
            last_seen: cells.next()?,
            events: cells.next()?,
            ids: cells.next()?,
        })
    }
}

impl Persons {
    /// Reads a query string.
    ///
    /// # Errors
    /// 400 that names the parameter, and the nearest right one if it is unknown.
    pub(super) fn parse(query: &str) -> Result<Self, Problem> {
        let pairs: Vec<(String, String)> = strict::query_string(query)?;
        let mut persons = Self::default();
        for (name, value) in pairs {
            match name.as_str() {
                "distinct_id" => persons.distinct_id = Some(value),
                "cohort_id" => persons.cohort_id = Some(value),
                "limit" => persons.limit = Some(events::number("limit", &value)?),
                "cursor" => persons.cursor = Some(value),
                // The key's environment was held against it already.
                "environment_id" => {}
                _ => return Err(events::unknown(&name, &NAMES)),
            }
        }
        Ok(persons)
    }

    fn question(&self, scope: &Scope) -> Result<String, Problem> {
        serde_json::to_string(&("persons", scope, self)).map_err(Problem::internal)
    }
}

/// The page that `asked` asks for. Everybody who has an event is in the list.
///
/// # Errors
/// 400 for what cannot be meant, 503 for what the store does not answer.
pub(super) async fn list(query: &Query, scope: &Scope, asked: &Persons) -> Result<Page, Problem> {
    let limit = events::page_limit(asked.limit, PAGE, &query.limits)?;
    let question = asked.question(scope)?;
    let after = asked.cursor.as_ref().map(|text| cursor::decode::<Place>(&question, text)).transpose()?;
    let turn = query.begin().await?;
    let actors = query.actors(scope).await?;
    let only = match &asked.distinct_id {
        Some(id) => Some(vec![actor_of(query, &actors, id).await?]),
        None => None,
    };
    let member = asked.cohort_id.as_deref().map(|id| member(query, &actors, id)).transpose()?;
    let which: Vec<Sql> = only.iter().map(|only| is_one_of(&actors, only)).chain(member.clone()).collect();
    let mut seen: Vec<Seen> = query.select(who(scope, &actors, which, after, limit + 1)).await?;
    let total = match member {
        Some(member) => {
            let rows: Vec<(u64,)> = query.select(count(scope, &actors, member)).await?;
            Some(rows.first().map_or(0, |(people,)| *people))
        }
        None => None,
    };
    let more = seen.len() > limit;
    seen.truncate(limit);
    let end = seen.last().map(|last| Place { millis: last.last_seen.as_millis(), actor: last.actor });
    let next_cursor = end.filter(|_| more).map(|place| cursor::encode(&question, &place)).transpose()?;
    let persons = complete(query, scope, &actors, seen).await?;
    Ok(Page { persons, total, next_cursor, meta: turn.meta() })
}

/// One person by id; an id from before a merge finds the person that it became.
///
/// # Errors
/// 404: no such person here. 503 for what the store does not answer.
pub(super) async fn show(query: &Query, scope: &Scope, id: &str) -> Result<Shown, Problem> {
    let actor = named(query, scope, id).await?;
    let (person, meta) = {
        let turn = query.begin().await?;
        let actors = query.actors(scope).await?;
        let mut seen: Vec<Seen> =
            query.select(who(scope, &actors, vec![is_one_of(&actors, &[actor])], None, 1)).await?;
        if seen.is_empty() {
            // Known by a merge alone.
            let never = Timestamp::EPOCH;
            seen.push(Seen { actor, first_seen: never, last_seen: never, events: 0, ids: Vec::new() });
        }
        let person = complete(query, scope, &actors, seen).await?.pop();
        (person.filter(|person| !person.distinct_ids.is_empty()), turn.meta())
    };
    let person = person.ok_or_else(|| missing(id))?;
    let list = List { person_id: Some(id.to_owned()), ..List::default() };
    let page = events::list(query, scope, &list).await?;
    Ok(Shown { person, events: page.events, next_cursor: page.next_cursor, meta })
}

/// The acting id that a person's id stands for now.
///
/// # Errors
/// 404: it is no id of a person of this scope.
async fn named(query: &Query, scope: &Scope, id: &str) -> Result<u64, Problem> {
    let actor = PersonId::parse(id).and_then(|id| id.actor(scope)).ok_or_else(|| missing(id))?;
    let actors = query.actors(scope).await?;
    let Some(sql) = actors.owner_of_hash(actor) else { return Ok(actor) };
    let rows: Vec<(u64,)> = query.select(sql).await?;
    Ok(rows.first().map_or(actor, |(owner,)| *owner))
}

/// Holds for the events of one person.
///
/// # Errors
/// 404: it is no id of a person of this scope.
pub(super) async fn condition(query: &Query, scope: &Scope, id: &str) -> Result<Sql, Problem> {
    let actor = named(query, scope, id).await?;
    let actors = query.actors(scope).await?;
    let mut hashes = vec![actor];
    if let Some(sql) = actors.ids_of(&[actor]) {
        let rows: Vec<(u64, u64, String)> = query.select(sql).await?;
        hashes.extend(rows.into_iter().map(|(_, hash, _)| hash));
    }
    Ok(Sql::new("cityHash64(distinct_id) IN ").list(hashes))
}

fn missing(id: &str) -> Problem {
    let shown: String = id.chars().take(100).collect();
    let message = "no person of this project and environment has this id";
    Problem::new(ErrorCode::NotFound, message).with("given", shown)
}

/// The acting id of a distinct id, event or not.
async fn actor_of(query: &Query, actors: &Actors, distinct_id: &str) -> Result<u64, Problem> {
    let rows: Vec<(u64,)> = query.select(actors.owner_of_id(distinct_id)).await?;
    rows.first()
        .map(|(actor,)| *actor)
        .ok_or_else(|| Problem::internal(StoreError::Query("no hash".to_owned())))
}

/// Holds for the events of the cohort's members.
///
/// # Errors
/// 400: no such cohort.
fn member(query: &Query, actors: &Actors, cohort_id: &str) -> Result<Sql, Problem> {
    let calendar = Calendar { zone: chrono_tz::UTC, week_start: WeekStart::default() };
    let ground = Ground { calendar: &calendar, now: query.clock.now(), limits: &query.limits, actors };
    cohorts::member(cohort_id, "cohort_id", &ground)
}

fn is_one_of(actors: &Actors, people: &[u64]) -> Sql {
    Sql::new("").append(&actors.id()).push(" IN ").list(people)
}

/// One row: how many people this holds for.
fn count(scope: &Scope, actors: &Actors, member: Sql) -> Sql {
    let columns = Sql::new("uniqExact(").append(&actors.id()).push(") AS people");
    statement::events(scope, View::Deduplicated, &columns).actors(actors).and(member).sql()
}

/// Rows of [`Seen`], those seen last first.
fn who(scope: &Scope, actors: &Actors, which: Vec<Sql>, after: Option<Place>, limit: usize) -> Sql {
    let columns = Sql::new("")
        .append(&actors.id())
        .push(
            " AS acting, min(timestamp) AS first_seen, max(timestamp) AS last_seen, count() AS events, \
             arraySort(groupUniqArray(",
        )
        .arg(IDS_SHOWN)
        .push(")(distinct_id)) AS ids");
    let select = statement::events(scope, View::Deduplicated, &columns).actors(actors).and_all(which);
    let mut tail = Sql::new("GROUP BY acting");
    if let Some(after) = after {
        tail = tail
            .push(" HAVING (toUnixTimestamp64Milli(last_seen), acting) < (")
            .arg(after.millis)
            .push(", ")
            .arg(after.actor)
            .push(")");
    }
    select.then(tail.push(" ORDER BY last_seen DESC, acting DESC LIMIT ").arg(limit)).sql()
}

/// Adds what the events do not tell: ids without events, and properties.
async fn complete(
    query: &Query,
    scope: &Scope,
    actors: &Actors,
    seen: Vec<Seen>,
) -> Result<Vec<Person>, Problem> {
    let who: Vec<u64> = seen.iter().map(|seen| seen.actor).collect();
    if who.is_empty() {
        return Ok(Vec::new());
    }
    let mut ids: HashMap<u64, Vec<String>> = HashMap::new();
    if let Some(sql) = actors.ids_of(&who) {
        let rows: Vec<(u64, u64, String)> = query.select(sql).await?;
        for (actor, _, id) in rows {
            ids.entry(actor).or_default().push(id);
        }
    }
    let rows: Vec<(u64, String, String)> = query.select(actors.properties_of(&who, PROPERTIES_SHOWN)).await?;
    let mut properties: HashMap<u64, BTreeMap<String, Box<RawValue>>> = HashMap::new();
    for (actor, key, value) in rows {
        if let Ok(value) = RawValue::from_string(value) {
            properties.entry(actor).or_default().insert(key, value);
        }
    }
    let person = |seen: Seen| {
        let mut distinct_ids = ids.remove(&seen.actor).unwrap_or_default();
        distinct_ids.extend(seen.ids);
        distinct_ids.sort();
        distinct_ids.dedup();
        let when = |at: Timestamp| (seen.events > 0).then_some(at);
        Person {
            id: PersonId::new(scope, seen.actor),
            distinct_ids,
            properties: properties.remove(&seen.actor).unwrap_or_default(),
            first_seen: when(seen.first_seen),
            last_seen: when(seen.last_seen),
            events_total: seen.events,
        }
    };
    Ok(seen.into_iter().map(person).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::tests::{at, scope};

    #[test]
    fn statements_of_persons() {
        let place = Place { millis: at("2026-03-10T12:00:00Z").as_millis(), actor: 7 };
        for (name, merged) in [("persons", false), ("persons_merged", true)] {
            let actors = Actors::new(&scope(), merged);
            let one = is_one_of(&actors, &[1, 2]);
            let page = who(&scope(), &actors, vec![one.clone()], Some(place), 3);
            let mut statements = vec![
                actors.owner_of_id("it's"),
                who(&scope(), &actors, Vec::new(), None, 3),
                page,
                count(&scope(), &actors, one),
                actors.properties_of(&[1, 2], 5),
            ];
            statements.extend(actors.ids_of(&[1, 2]));
            statements.extend(actors.owner_of_hash(7));
            let text: Vec<&str> = statements.iter().map(Sql::text).collect();
            insta::assert_snapshot!(name, text.join("\n"));
        }
    }
}

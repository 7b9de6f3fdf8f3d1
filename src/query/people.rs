//! Drill-downs: the people behind a number, in pages.

use std::collections::{BTreeMap, BinaryHeap};

use serde::{Deserialize, Serialize};

use super::actor::Actors;
use super::range::Range;
use super::statement::{self, View};
use super::{Query, events};
use crate::config;
use crate::event::Scope;
use crate::http::{Problem, cursor};
use crate::person::PersonId;
use crate::store::Sql;

/// People on a page unless the question says otherwise.
const LIMIT: usize = 100;
/// Distinct ids that are shown of one person.
const DISTINCT_IDS_MAX: u64 = 20;

/// A person's place in a list: highest rank first, then by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    /// Less is earlier.
    order: i64,
    actor: u64,
}

impl Place {
    /// People with more come first.
    pub(super) fn most(rank: i64, actor: u64) -> Self {
        Self { order: -rank, actor }
    }
}

/// People by id, with what is said of them.
type Found<T> = Vec<(u64, T)>;

/// The first people of a list behind a cursor, of all that are offered in any order.
#[derive(Debug)]
pub(super) struct Page<T> {
    after: Option<Place>,
    limit: usize,
    /// One more than `limit`, to tell whether there are others. The last of them on top.
    places: BinaryHeap<Place>,
    found: BTreeMap<Place, T>,
}

impl<T> Page<T> {
    /// The page that was asked for; `question` is the list, always spelled the same way.
    ///
    /// # Errors
    /// 400: a limit over `query.page_rows_max`, or a cursor of another list.
    pub(super) fn new(
        question: &str,
        limit: Option<usize>,
        after: Option<&str>,
        limits: &config::Query,
    ) -> Result<Self, Problem> {
        let limit = events::page_limit(limit, LIMIT, limits)?;
        let after = after.map(|text| cursor::decode(question, text)).transpose()?;
        Ok(Self { after, limit, places: BinaryHeap::new(), found: BTreeMap::new() })
    }

    /// Shows a person, and what is to be said of them if they are on the page.
    pub(super) fn offer(&mut self, place: Place, say: impl FnOnce() -> T) {
        if self.after.is_some_and(|after| place <= after) {
            return;
        }
        if self.places.len() > self.limit {
            if self.places.peek().is_some_and(|last| place >= *last) {
                return;
            }
            if let Some(last) = self.places.pop() {
                self.found.remove(&last);
            }
        }
        self.places.push(place);
        self.found.insert(place, say());
    }

    /// The page, and the cursor of the next.
    fn end(mut self, question: &str) -> Result<(Found<T>, Option<String>), Problem> {
        let more = self.found.len() > self.limit;
        if more {
            self.found.pop_last();
        }
        let last = self.found.last_key_value().map(|(place, _)| *place).filter(|_| more);
        let next = last.map(|place| cursor::encode(question, &place)).transpose()?;
        Ok((self.found.into_iter().map(|(place, said)| (place.actor, said)).collect(), next))
    }
}

/// A person of a list.
#[derive(Debug, Serialize)]
pub(super) struct Person<T> {
    /// Stable; the same in every list. Where not people are counted, the value that stands for one.
    id: Id,
    /// Some of the distinct ids under which the person has events in the range.
    distinct_ids: Vec<String>,
    #[serde(flatten)]
    said: T,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Id {
    Person(PersonId),
    Value(String),
}

/// A page of people.
#[derive(Debug, Serialize)]
pub(super) struct People<T> {
    people: Vec<Person<T>>,
    /// Give it as `cursor` to get the next page; null: there are no more.
    next_cursor: Option<String>,
    meta: super::Meta,
}

/// The statement that names people: rows of (person, distinct ids).
pub(super) fn names(scope: &Scope, actors: &Actors, range: Range, people: &[u64]) -> Sql {
    let columns = Sql::new("")
        .append(&actors.id())
        .push(" AS actor, groupUniqArray(")
        .arg(DISTINCT_IDS_MAX)
        .push(")(distinct_id) AS ids");
    statement::events(scope, View::Deduplicated, &columns)
        .actors(actors)
        .within(range)
        .and(Sql::new("").append(&actors.id()).push(" IN ").list(people))
        .then(Sql::new("GROUP BY actor"))
        .sql()
}

impl Query {
    /// Names the people of a page.
    ///
    /// # Errors
    /// 503 for what the store does not answer.
    pub(super) async fn named<T>(
        &self,
        (scope, actors): (&Scope, &Actors),
        range: Range,
        question: &str,
        page: Page<T>,
        asked: &super::Asked,
    ) -> Result<People<T>, Problem> {
        let (found, next_cursor) = page.end(question)?;
        let ids: Vec<u64> = found.iter().map(|(actor, _)| *actor).collect();
        let mut names: BTreeMap<u64, Vec<String>> = if ids.is_empty() {
            BTreeMap::new()
        } else {
            let rows: Vec<(u64, Vec<String>)> = self.select(names(scope, actors, range, &ids)).await?;
            rows.into_iter().collect()
        };
        let people = found.into_iter().map(|(actor, said)| {
            let mut distinct_ids = names.remove(&actor).unwrap_or_default();
            distinct_ids.sort_unstable();
            Person { id: Id::Person(PersonId::new(scope, actor)), distinct_ids, said }
        });
        Ok(People { people: people.collect(), next_cursor, meta: asked.meta() })
    }
}

impl Query {
    /// Names what is counted instead of people: the values of `by`, each with some of the distinct ids that have it.
    ///
    /// # Errors
    /// 503 for what the store does not answer.
    pub(super) async fn named_by<T>(
        &self,
        (scope, actors): (&Scope, &Actors),
        range: Range,
        by: &Sql,
        (question, page): (&str, Page<T>),
        asked: &super::Asked,
    ) -> Result<People<T>, Problem> {
        let (found, next_cursor) = page.end(question)?;
        let hashes: Vec<u64> = found.iter().map(|(hash, _)| *hash).collect();
        let mut names: BTreeMap<u64, (String, Vec<String>)> = BTreeMap::new();
        if !hashes.is_empty() {
            let hash = Sql::new("cityHash64(").append(by).push(")");
            let columns = Sql::new("")
                .append(&hash)
                .push(" AS hash, any(")
                .append(by)
                .push(") AS value, groupUniqArray(")
                .arg(DISTINCT_IDS_MAX)
                .push(")(distinct_id) AS ids");
            let select = statement::events(scope, View::Deduplicated, &columns).actors(actors).within(range);
            let select = select.and(hash.push(" IN ").list(&hashes)).then(Sql::new("GROUP BY hash"));
            let rows: Vec<(u64, String, Vec<String>)> = self.select(select.sql()).await?;
            names.extend(rows.into_iter().map(|(hash, value, ids)| (hash, (value, ids))));
        }
        let people = found.into_iter().map(|(hash, said)| {
            let (value, mut distinct_ids) = names.remove(&hash).unwrap_or_default();
            distinct_ids.sort_unstable();
            Person { id: Id::Value(value), distinct_ids, said }
        });
        Ok(People { people: people.collect(), next_cursor, meta: asked.meta() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::query::tests::limits;

    proptest! {
        #[test]
        fn pages_are_the_whole_list_in_order_whatever_the_order_of_offers(
            people in proptest::collection::hash_map(any::<u64>(), 0_i64..4, 0..40),
            limit in 1_usize..7,
        ) {
            let mut sorted: Vec<Place> = people.iter().map(|(id, rank)| Place::most(*rank, *id)).collect();
            sorted.sort_unstable();
            let (mut seen, mut after) = (Vec::new(), None::<String>);
            loop {
                let mut page = Page::new("q", Some(limit), after.as_deref(), &limits()).unwrap();
                for (id, rank) in &people {
                    page.offer(Place::most(*rank, *id), || *rank);
                }
                let (found, next) = page.end("q").unwrap();
                prop_assert!(found.len() <= limit);
                seen.extend(found.into_iter().map(|(id, rank)| Place::most(rank, id)));
                after = next;
                if after.is_none() {
                    break;
                }
            }
            prop_assert_eq!(seen, sorted);
        }
    }
}

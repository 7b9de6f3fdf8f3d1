//! Every person's events, packed, gathered by the store and folded here.
//!
//! What a question asks about the order of a person's events (funnels, paths) is decided in Rust, exactly. The store does
//! what it is good at: it reads, filters and gathers one text of packed numbers a person. An event is eight bytes:
//! milliseconds since the range's beginning, and a bit for every step and exclusion that it matches.
//!
//! Memory is bounded on both sides. In the store, people are taken in as many turns (by their hash) as keep each below
//! `query.gather_events_max` events; here, one block of people at a time is looked at, and distinct values are counted
//! against `query.gather_values_max`.

use std::collections::HashMap;

use super::Query;
use super::actor::Actors;
use super::funnel::fold::{EXCLUSIONS_MAX, Event, STEPS_MAX};
use super::range::Range;
use super::statement::{self, Select, View};
use crate::event::Scope;
use crate::http::Problem;
use crate::store::{self, Blob, RowCells, Sql, StoreError};

/// Bits beside an event's time.
const BITS: u32 = (STEPS_MAX + EXCLUSIONS_MAX) as u32;
/// Turns that people are taken in at most.
const TURNS_MAX: u64 = 64;
/// Longest text of a value, in characters; longer ones are cut.
const VALUE_CHARS_MAX: u64 = 400;
/// Between the properties of one value.
const SEPARATOR: char = '\u{1f}';

/// What an event has to be for a step, or an exclusion.
#[derive(Clone, Debug)]
pub(super) struct Matcher {
    /// Its name; any when absent.
    pub event: Option<String>,
    pub conditions: Vec<Sql>,
}

impl Matcher {
    /// The condition; empty: every event.
    pub(super) fn sql(&self) -> Sql {
        let name = self.event.as_ref().map(|event| Sql::new("event_name = ").arg(event));
        let all: Vec<Sql> = name.into_iter().chain(self.conditions.iter().cloned()).collect();
        Sql::new("").join(" AND ", &all)
    }

    pub(super) fn or_true(&self) -> Sql {
        let sql = self.sql();
        if sql.is_empty() { Sql::new("1") } else { Sql::new("(").append(&sql).push(")") }
    }
}

/// Names of events that any of these needs, where all of them need one.
pub(super) fn names_of<'a>(matchers: impl IntoIterator<Item = &'a Matcher>) -> Option<Vec<&'a str>> {
    let mut names =
        matchers.into_iter().map(|matcher| matcher.event.as_deref()).collect::<Option<Vec<&str>>>()?;
    names.sort_unstable();
    names.dedup();
    Some(names)
}

/// Only events of these names: in the table's key, so it is read first.
pub(super) fn named(select: Select, names: Option<Vec<&str>>) -> Select {
    match names {
        Some(names) => select.key(Sql::new("event_name IN ").list(names)),
        None => select,
    }
}

/// What is gathered.
#[derive(Clone, Debug)]
pub(super) struct Gather {
    pub range: Range,
    pub steps: Vec<Matcher>,
    pub exclusions: Vec<Matcher>,
    /// Hold for every event.
    pub conditions: Vec<Sql>,
    /// Events that match nothing are gathered too: they stand between others.
    pub everything: bool,
    /// The value of each event as text, `''` for none; several properties as one by [`tuple()`].
    pub value: Option<Sql>,
    /// `String`: what is gathered for instead of people; events of which it is empty do not count.
    pub by: Option<Sql>,
}

/// Several texts as one value; all empty is no value.
pub(super) fn tuple(texts: &[Sql]) -> Sql {
    match texts {
        [one] => Sql::new("ifNull(").append(one).push(", '')"),
        several => {
            let each: Vec<Sql> =
                several.iter().map(|text| Sql::new("ifNull(").append(text).push(", '')")).collect();
            let joined = Sql::new("concat(").join(", '\\x1f', ", &each).push(")");
            Sql::new("if(match(").append(&joined).push(", '^\\x1f*$'), '', ").append(&joined).push(")")
        }
    }
}

/// The texts of a value of `count` properties.
pub(super) fn untuple(value: &str, count: usize) -> Vec<String> {
    let mut texts: Vec<String> = value.splitn(count, SEPARATOR).map(str::to_owned).collect();
    texts.resize(count, String::new());
    texts
}

/// Distinct values by number; 0 is no value.
#[derive(Debug)]
pub(super) struct Values {
    numbers: HashMap<String, u32>,
    texts: Vec<String>,
    max: usize,
}

impl Values {
    pub(super) fn new(max: usize) -> Self {
        let mut values = Self { numbers: HashMap::new(), texts: Vec::new(), max };
        values.numbers.insert(String::new(), 0);
        values.texts.push(String::new());
        values
    }

    /// The number of this text.
    ///
    /// # Errors
    /// 400: more than `query.gather_values_max`.
    pub(super) fn number(&mut self, text: String) -> Result<u32, Problem> {
        if let Some(number) = self.numbers.get(&text) {
            return Ok(*number);
        }
        if self.texts.len() > self.max {
            let message = format!(
                "the events have more than {} distinct values (query.gather_values_max): take a property with fewer, or \
                 filter them",
                self.max
            );
            return Err(Problem::invalid("breakdown", message)
                .with("max", self.max)
                .with("setting", "query.gather_values_max"));
        }
        let number = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        self.texts.push(text.clone());
        self.numbers.insert(text, number);
        Ok(number)
    }

    /// The text of a number that [`Self::number`] gave.
    pub(super) fn text(&self, number: u32) -> &str {
        self.texts.get(number as usize).map_or("", String::as_str)
    }
}

/// A person's row.
struct Person {
    actor: u64,
    packed: Blob,
    values: Vec<String>,
}

impl store::Row for Person {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self { actor: cells.next()?, packed: cells.next()?, values: cells.next()? })
    }
}

impl Gather {
    /// The statement of one turn of `turns`. Its rows are (person, packed events, values).
    pub(super) fn sql(&self, scope: &Scope, actors: &Actors, turn: u64, turns: u64) -> Sql {
        let actor = match &self.by {
            Some(by) => Sql::new("cityHash64(").append(by).push(")"),
            None => actors.id(),
        };
        let columns = Sql::new("")
            .append(&actor)
            .push(" AS actor, toString(groupArrayState(")
            .append(&self.packed())
            .push(")) AS packed, ");
        let columns = match &self.value {
            Some(value) => columns
                .push("groupArray(leftUTF8(")
                .append(value)
                .push(", ")
                .arg(VALUE_CHARS_MAX)
                .push(")) AS values"),
            None => columns.push("CAST([], 'Array(String)') AS values"),
        };
        let select = statement::events(scope, View::Deduplicated, &columns).actors(actors).within(self.range);
        let select = named(select, self.names()).and_all(self.conditions.iter().cloned());
        let filtered =
            self.steps.iter().chain(&self.exclusions).any(|matcher| !matcher.conditions.is_empty());
        let select = if filtered && !self.everything { select.and(self.any()) } else { select };
        let select = match &self.by {
            Some(by) => select.and(Sql::new("").append(by).push(" != ''")),
            None => select,
        };
        let select = if turns > 1 {
            let of_turn = Sql::new("modulo(").append(&actor).push(", ").arg(turns).push(") = ");
            select.and(of_turn.arg(turn))
        } else {
            select
        };
        select.then(Sql::new("GROUP BY actor")).sql()
    }

    /// How many rows there are to gather, other versions of an event among them: read from the key alone.
    pub(super) fn count(&self, scope: &Scope) -> Sql {
        let select = statement::events(scope, View::Versions, &Sql::new("count() AS events"));
        named(select.within(self.range), self.names()).sql()
    }

    fn names(&self) -> Option<Vec<&str>> {
        if self.everything { None } else { names_of(self.steps.iter().chain(&self.exclusions)) }
    }

    fn any(&self) -> Sql {
        let each: Vec<Sql> = self.steps.iter().chain(&self.exclusions).map(Matcher::or_true).collect();
        Sql::new("(").join(" OR ", &each).push(")")
    }

    fn packed(&self) -> Sql {
        let time = Sql::new("bitShiftLeft(toUInt64(toUnixTimestamp64Milli(timestamp) - ")
            .arg(self.range.from.as_millis())
            .push("), ")
            .arg(BITS)
            .push(")");
        let matchers = self.steps.iter().zip(0_u32..);
        let matchers = matchers.chain(self.exclusions.iter().zip(STEPS_MAX as u32..));
        let bits: Vec<Sql> = matchers
            .map(|(matcher, bit)| {
                Sql::new("if(").append(&matcher.or_true()).push(", ").arg(1_u64 << bit).push(", 0)")
            })
            .collect();
        Sql::new("toUInt64(").append(&time).push(" + ").join(" + ", &bits).push(")")
    }
}

/// One person's events out of the packed text, in order of time; `events` is used again.
fn unpack(
    packed: &[u8],
    values: Vec<String>,
    numbers: &mut Values,
    events: &mut Vec<Event>,
) -> Result<(), Problem> {
    let rest = after_length(packed).ok_or_else(malformed)?;
    let (words, []) = rest.as_chunks::<8>() else { return Err(malformed()) };
    let mut values = values.into_iter();
    events.clear();
    for word in words {
        let word = u64::from_le_bytes(*word);
        let value = match values.next() {
            Some(text) => numbers.number(text)?,
            None => 0,
        };
        events.push(Event {
            at: (word >> BITS) as i64,
            steps: (word & ((1 << STEPS_MAX) - 1)) as u16,
            exclusions: (word >> STEPS_MAX & ((1 << EXCLUSIONS_MAX) - 1)) as u8,
            value,
        });
    }
    events.sort_unstable_by_key(|event| (event.at, event.steps, event.exclusions, event.value));
    Ok(())
}

/// What follows a state's count of elements.
pub(super) fn after_length(state: &[u8]) -> Option<&[u8]> {
    let last = state.iter().position(|byte| byte & 0x80 == 0)?;
    state.get(last + 1..)
}

pub(super) fn malformed() -> Problem {
    Problem::internal(StoreError::Query("a gathered state has another form than expected".to_owned()))
}

impl Query {
    /// Shows every person with at least one event, and their events in order of time.
    ///
    /// # Errors
    /// 400 over `query.gather_values_max` and whatever `show` refuses, 503 for what the store does not answer.
    pub(super) async fn gather(
        &self,
        scope: &Scope,
        actors: &Actors,
        gather: &Gather,
        values: &mut Values,
        mut show: impl FnMut(u64, &[Event], &Values) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let turns = self.turns_for(gather.count(scope)).await?;
        let mut events = Vec::new();
        for turn in 0..turns {
            let mut people = self.stream::<Person>(gather.sql(scope, actors, turn, turns)).await?;
            while let Some(block) = people.next_chunk().await? {
                for Person { actor, packed, values: texts } in block {
                    unpack(&packed.0, texts, values, &mut events)?;
                    show(actor, &events, values)?;
                }
            }
        }
        Ok(())
    }

    /// In how many turns people are taken, for what `count` counts.
    pub(super) async fn turns_for(&self, count: Sql) -> Result<u64, Problem> {
        let rows: Vec<(u64,)> = self.select(count).await?;
        let events = rows.first().map_or(0, |row| row.0);
        let most = self.limits.gather_events_max.max(1);
        let turns = events.div_ceil(most).max(1);
        if turns > TURNS_MAX {
            let message = format!(
                "the question is about {events} events, more than {TURNS_MAX} times {most} (query.gather_events_max): \
                 ask for a shorter range, or for fewer events"
            );
            return Err(Problem::invalid("date_from", message)
                .with("max", TURNS_MAX.saturating_mul(most))
                .with("setting", "query.gather_events_max"));
        }
        Ok(turns)
    }
}

/// 400: more people than `query.gather_people_max`.
pub(super) fn too_many_people(max: u64) -> Problem {
    let message = format!(
        "more than {max} people are in this question (query.gather_people_max): ask for a shorter range, or filter"
    );
    Problem::invalid("date_from", message).with("max", max).with("setting", "query.gather_people_max")
}

/// One row: the time of the scope's first event, null without any.
pub(super) fn first_event(scope: &Scope) -> Sql {
    statement::events(scope, View::Deduplicated, &Sql::new("minOrNull(timestamp) AS first")).sql()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_persons_events_come_out_in_order_of_time_with_their_values() {
        let word = |at: u64, bits: u64| (at << BITS | bits).to_le_bytes();
        let mut packed = vec![3];
        packed.extend(word(500, 0b10));
        packed.extend(word(7, 0b01));
        packed.extend(word(900, 1 << STEPS_MAX));
        let (mut values, mut events) = (Values::new(10), Vec::new());
        let texts = ["b", "", "a"].map(str::to_owned).to_vec();
        unpack(&packed, texts, &mut values, &mut events).unwrap();
        let seen: Vec<_> = events
            .iter()
            .map(|event| (event.at, event.steps, event.exclusions, values.text(event.value)))
            .collect();
        assert_eq!(seen, [(7, 1, 0, ""), (500, 2, 0, "b"), (900, 0, 1, "a")]);
        assert!(unpack(&packed[..5], Vec::new(), &mut values, &mut events).is_err());
        assert!(unpack(&[0x80], Vec::new(), &mut values, &mut events).is_err());
    }

    #[test]
    fn more_values_than_the_bound_are_refused_by_its_setting() {
        let mut values = Values::new(2);
        assert_eq!(values.number(String::new()).unwrap(), 0);
        assert_eq!(values.number("a".to_owned()).unwrap(), 1);
        assert_eq!(values.number("b".to_owned()).unwrap(), 2);
        assert_eq!(values.number("a".to_owned()).unwrap(), 1);
        let problem = values.number("c".to_owned()).unwrap_err();
        assert_eq!(problem.details["setting"], "query.gather_values_max");
    }

    #[test]
    fn a_value_of_several_properties_is_taken_apart_again() {
        assert_eq!(untuple("a\u{1f}b", 2), ["a", "b"]);
        assert_eq!(untuple("", 2), ["", ""]);
        assert_eq!(untuple("a", 1), ["a"]);
    }
}

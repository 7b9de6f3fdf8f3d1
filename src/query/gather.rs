//! Every person's events, packed, gathered by the store and folded here.
//!
//! What a question asks about the order of a person's events (funnels, paths) is decided in Rust, exactly. The store does
//! what it is good at: it reads, filters and gathers packed numbers. An event is sixteen bytes: its person, and a word
//! of milliseconds since the range's beginning with a bit for every step and exclusion that it matches. People come in
//! buckets by their hash, not in a row each: the store keeps a thousand long lists instead of one for every person, and
//! here a list that fits a cache is sorted.
//!
//! Memory is bounded on both sides. In the store, people are taken in as many turns (by their hash) as keep each below
//! `query.gather_events_max` events; here, one block of buckets at a time is looked at, and distinct values are counted
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
/// Buckets of people. Their number is a `UInt64` in the store: of smaller ones it makes one block.
const BUCKETS: u64 = 1024;
/// Ranges of people that a bucket is sorted by, at most: so many counters stay in the fastest cache.
const RANGE_BITS_MAX: u32 = 12;
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
fn names_of<'a>(matchers: impl IntoIterator<Item = &'a Matcher>) -> Option<Vec<&'a str>> {
    let mut names =
        matchers.into_iter().map(|matcher| matcher.event.as_deref()).collect::<Option<Vec<&str>>>()?;
    names.sort_unstable();
    names.dedup();
    Some(names)
}

/// Only events of these names: in the table's key, so it is read first.
fn named(select: Select, names: Option<Vec<&str>>) -> Select {
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

/// A bucket of people: of each event the person and the word, and with a breakdown the value.
struct Bucket {
    actors: Blob,
    words: Blob,
    values: Vec<String>,
}

impl store::Row for Bucket {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self { actors: cells.next()?, words: cells.next()?, values: cells.next()? })
    }
}

impl Gather {
    /// The statement of one turn of `turns`. Its rows are (people, words, values) of one bucket, all three in one order.
    pub(super) fn sql(&self, scope: &Scope, actors: &Actors, turn: u64, turns: u64) -> Sql {
        let actor = match &self.by {
            Some(by) => Sql::new("cityHash64(").append(by).push(")"),
            None => actors.id(),
        };
        let columns = Sql::new("").append(&actor).push(" AS actor, ").append(&self.word()).push(" AS word");
        let (columns, values) = match &self.value {
            Some(value) => {
                let columns = columns.push(", leftUTF8(").append(value).push(", ").arg(VALUE_CHARS_MAX);
                (columns.push(") AS value"), "groupArray(value)")
            }
            None => (columns, "CAST([], 'Array(String)')"),
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
        // The turn is a remainder too: the bucket has to be another one.
        Sql::new(
            "SELECT toString(groupArrayState(actor)) AS actors, toString(groupArrayState(word)) AS words, ",
        )
        .push(values)
        .push(" AS texts FROM (")
        .append(&select.sql())
        .push(") GROUP BY toUInt64(modulo(intDiv(actor, ")
        .arg(TURNS_MAX)
        .push("), ")
        .arg(BUCKETS)
        .push("))")
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

    /// `UInt64`: an event's time and bits.
    fn word(&self) -> Sql {
        let time = Sql::new("bitShiftLeft(toUInt64(toUnixTimestamp64Milli(timestamp) - ")
            .arg(self.range.from.as_millis())
            .push("), ")
            .arg(BITS)
            .push(")");
        let exclusions = self.exclusions.iter().zip(0_u32..);
        let matchers = exclusions.chain(self.steps.iter().zip(EXCLUSIONS_MAX as u32..));
        let bits: Vec<Sql> = matchers
            .map(|(matcher, bit)| {
                Sql::new("if(").append(&matcher.or_true()).push(", ").arg(1_u64 << bit).push(", 0)")
            })
            .collect();
        Sql::new("toUInt64(").append(&time).push(" + ").join(" + ", &bits).push(")")
    }
}

/// A bucket's events, by person and in order of time. Used again for every bucket.
#[derive(Default)]
struct Gathered {
    /// Of each the person, then the word.
    keys: Vec<u128>,
    /// The number of the value of each; none: of the whole bucket.
    values: Vec<u32>,
    /// Where each range of people ends.
    ends: Vec<u32>,
}

impl Gathered {
    fn unpack(&mut self, bucket: Bucket, numbers: &mut Values) -> Result<(), Problem> {
        let [actors, words] = [&bucket.actors, &bucket.words].map(|state| after_length(&state.0));
        let (actors, []) = actors.ok_or_else(malformed)?.as_chunks::<8>() else { return Err(malformed()) };
        let (words, []) = words.ok_or_else(malformed)?.as_chunks::<8>() else { return Err(malformed()) };
        let with_values = !bucket.values.is_empty();
        if actors.len() != words.len() || with_values && bucket.values.len() != words.len() {
            return Err(malformed());
        }
        self.values.clear();
        if !with_values {
            self.sort(actors, words);
            return Ok(());
        }
        let keys = actors.iter().zip(words).map(|(actor, word)| key(*actor, *word));
        let numbered = bucket.values.into_iter().map(|text| numbers.number(text));
        let both = keys.zip(numbered).map(|(key, value)| Ok((key, value?)));
        let mut both = both.collect::<Result<Vec<(u128, u32)>, Problem>>()?;
        // By the texts: their numbers are of the order of arrival, which is never the same.
        let text = |event: &(u128, u32)| numbers.text(event.1);
        both.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| text(a).cmp(text(b))));
        (self.keys, self.values) = both.into_iter().unzip();
        Ok(())
    }

    /// People's hashes are spread evenly: put into as many ranges as there are events, few stand in one, and only those
    /// are compared (a third of the time of comparing all).
    fn sort(&mut self, actors: &[[u8; 8]], words: &[[u8; 8]]) {
        let bits = actors.len().max(2).ilog2().min(RANGE_BITS_MAX);
        let range = |actor: &[u8; 8]| (u64::from_le_bytes(*actor) >> (64 - bits)) as usize;
        self.ends.clear();
        self.ends.resize(1 << bits, 0);
        for actor in actors {
            self.ends[range(actor)] += 1;
        }
        let mut begin = 0;
        for end in &mut self.ends {
            begin += std::mem::replace(end, begin);
        }
        self.keys.clear();
        self.keys.resize(actors.len(), 0);
        for (actor, word) in actors.iter().zip(words) {
            // Where the range begins, until all of it stands there: then where it ends.
            let place = &mut self.ends[range(actor)];
            self.keys[*place as usize] = key(*actor, *word);
            *place += 1;
        }
        let mut begin = 0;
        for end in &self.ends {
            let end = *end as usize;
            self.keys[begin..end].sort_unstable();
            begin = end;
        }
    }

    /// Shows every person with their events.
    fn each(
        &self,
        events: &mut Vec<Event>,
        mut show: impl FnMut(u64, &[Event]) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let mut begin = 0;
        for person in self.keys.chunk_by(|a, b| a >> 64 == b >> 64) {
            events.clear();
            events.extend(person.iter().map(|key| event(*key as u64)));
            if let Some(values) = self.values.get(begin..begin + person.len()) {
                events.iter_mut().zip(values).for_each(|(event, value)| event.value = *value);
            }
            begin += person.len();
            show((person[0] >> 64) as u64, events)?;
        }
        Ok(())
    }
}

fn key(actor: [u8; 8], word: [u8; 8]) -> u128 {
    u128::from(u64::from_le_bytes(actor)) << 64 | u128::from(u64::from_le_bytes(word))
}

fn event(word: u64) -> Event {
    Event {
        at: (word >> BITS) as i64,
        steps: (word >> EXCLUSIONS_MAX & ((1 << STEPS_MAX) - 1)) as u16,
        exclusions: (word & ((1 << EXCLUSIONS_MAX) - 1)) as u8,
        value: 0,
    }
}

/// What follows a state's count of elements.
fn after_length(state: &[u8]) -> Option<&[u8]> {
    let last = state.iter().position(|byte| byte & 0x80 == 0)?;
    state.get(last + 1..)
}

fn malformed() -> Problem {
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
        let (mut gathered, mut events) = (Gathered::default(), Vec::new());
        for turn in 0..turns {
            let mut buckets = self.stream::<Bucket>(gather.sql(scope, actors, turn, turns)).await?;
            while let Some(block) = buckets.next_chunk().await? {
                for bucket in block {
                    gathered.unpack(bucket, values)?;
                    gathered.each(&mut events, |actor, events| show(actor, events, values))?;
                }
            }
        }
        Ok(())
    }

    /// At least as many rows as `count` counts, from the table's index alone: a tenth of the time that counting takes.
    /// `None`: the store cannot tell.
    async fn at_most(&self, count: &Sql) -> Result<Option<u64>, Problem> {
        let Some(estimate) = self.store.estimate(count) else { return Ok(None) };
        let tables: Vec<(String, String, u64, u64)> = self.select(estimate).await?;
        Ok(Some(tables.iter().map(|(_, _, _, rows)| rows).sum()))
    }

    /// In how many turns people are taken, for what `count` counts.
    async fn turns_for(&self, count: Sql) -> Result<u64, Problem> {
        let most = self.limits.gather_events_max.max(1);
        if self.at_most(&count).await?.is_some_and(|events| events <= most) {
            return Ok(1);
        }
        let rows: Vec<(u64,)> = self.select(count).await?;
        let events = rows.first().map_or(0, |row| row.0);
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
        let state = |words: &[u64]| {
            let length = [u8::try_from(words.len()).unwrap()];
            Blob(
                [&length[..], &words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>()]
                    .concat(),
            )
        };
        let word = |at: u64, steps: u64, exclusions: u64| at << BITS | steps << EXCLUSIONS_MAX | exclusions;
        let words = [word(500, 0b10, 0), word(7, 1, 0), word(7, 0b01, 0), word(900, 0, 1), word(7, 1, 0)];
        let (actors, words) = (state(&[9, u64::MAX, 9, 9, 9]), state(&words));
        let bucket = |values: &[&str]| Bucket {
            actors: actors.clone(),
            words: words.clone(),
            values: values.iter().map(|text| (*text).to_owned()).collect(),
        };
        let (mut values, mut gathered, mut events) = (Values::new(10), Gathered::default(), Vec::new());
        let mut seen = |texts: &[&str]| {
            gathered.unpack(bucket(texts), &mut values).unwrap();
            let mut seen = Vec::new();
            let show = |actor, events: &[Event]| {
                let read = |event: &Event| {
                    (actor, event.at, event.steps, event.exclusions, values.text(event.value).to_owned())
                };
                seen.extend(events.iter().map(read));
                Ok(())
            };
            gathered.each(&mut events, show).unwrap();
            seen
        };
        let of = |actor, at, steps, exclusions, text: &str| (actor, at, steps, exclusions, text.to_owned());
        assert_eq!(
            seen(&["b", "", "z", "a", "c"]),
            [
                of(9, 7, 1, 0, "c"),
                of(9, 7, 1, 0, "z"),
                of(9, 500, 2, 0, "b"),
                of(9, 900, 0, 1, "a"),
                of(u64::MAX, 7, 1, 0, "")
            ]
        );
        assert_eq!(seen(&[]).iter().map(|event| event.1).collect::<Vec<_>>(), [7, 7, 500, 900, 7]);
        let refuses = |actors: &Blob, words: &Blob, values: &[&str]| {
            let values = values.iter().map(|text| (*text).to_owned()).collect();
            let bucket = Bucket { actors: actors.clone(), words: words.clone(), values };
            Gathered::default().unpack(bucket, &mut Values::new(10)).is_err()
        };
        assert!(refuses(&Blob(actors.0[..5].to_vec()), &words, &[]), "half a number");
        assert!(refuses(&Blob(vec![0x80]), &words, &[]), "no length");
        assert!(refuses(&state(&[9]), &words, &[]), "fewer people than words");
        assert!(refuses(&actors, &words, &["a"]), "fewer values than words");
    }

    #[test]
    fn a_state_of_more_than_127_elements_has_a_longer_count() {
        assert_eq!(after_length(&[2, 7, 8]), Some(&[7, 8][..]));
        assert_eq!(after_length(&[0x81, 0x01, 7, 8]), Some(&[7, 8][..]));
        assert_eq!(after_length(&[0x81]), None);
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

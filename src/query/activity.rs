//! In which buckets of time each person was active: what retention, lifecycle and stickiness are made of.
//!
//! The store gathers sets of bucket numbers a person, in as many turns as [`super::gather`]; what they mean is decided
//! in Rust by the fold of each question.

use super::Query;
use super::actor::Actors;
use super::gather::{Matcher, after_length, malformed, named, names_of};
use super::interval::Buckets;
use super::range::Range;
use super::statement::{self, View};
use crate::event::{Scope, Timestamp};
use crate::http::Problem;
use crate::store::{self, Blob, RowCells, Sql, StoreError};

/// What is gathered.
#[derive(Clone, Debug)]
pub(super) struct Activity {
    /// Rows outside of it have no part in anything.
    pub range: Range,
    /// Those that count.
    pub buckets: Buckets,
    /// Hold for every event.
    pub conditions: Vec<Sql>,
    /// Buckets are gathered of these.
    pub sets: Vec<Matcher>,
    /// A bucket stands once for each event, not once.
    pub counted: bool,
    /// The times of the first event of all that match this are gathered.
    pub firsts: Vec<Matcher>,
}

/// Sets, and first times, of one person at most.
const SETS_MAX: usize = 2;
const FIRSTS_MAX: usize = 2;

/// One person.
#[derive(Debug)]
pub(super) struct Person {
    pub actor: u64,
    /// Numbers of buckets, sorted.
    pub sets: [Vec<u32>; SETS_MAX],
    /// None: they have no such event.
    pub firsts: [Option<Timestamp>; FIRSTS_MAX],
}

struct Row {
    actor: u64,
    sets: [Blob; SETS_MAX],
    firsts: [i64; FIRSTS_MAX],
}

impl store::Row for Row {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            actor: cells.next()?,
            sets: [cells.next()?, cells.next()?],
            firsts: [cells.next()?, cells.next()?],
        })
    }
}

impl Activity {
    /// The statement of one turn. Its rows are (person, two sets, two first times in milliseconds or -1).
    pub(super) fn sql(&self, scope: &Scope, actors: &Actors, turn: u64, turns: u64) -> Sql {
        let mut columns = Sql::new("").append(&actors.id()).push(" AS actor");
        let bucket = bucket_number(&self.buckets);
        let starts = self.buckets.starts();
        let counts = Range { from: starts.first().copied().unwrap_or(self.range.from), end: self.range.end };
        for (index, name) in ["first_set", "second_set"].into_iter().enumerate() {
            columns = match self.sets.get(index) {
                Some(matcher) => columns
                    .push(", toString(")
                    .push(if self.counted { "groupArrayIfState(" } else { "groupUniqArrayIfState(" })
                    .append(&bucket)
                    .push(", ")
                    .append(&self.counts(matcher, counts))
                    .push(")) AS ")
                    .push(name),
                None => columns.push(", '' AS ").push(name),
            };
        }
        for (index, name) in ["first_time", "second_time"].into_iter().enumerate() {
            columns = match self.firsts.get(index) {
                Some(matcher) => columns
                    .push(", ifNull(minOrNullIf(toUnixTimestamp64Milli(timestamp), ")
                    .append(&matcher.or_true())
                    .push("), -1) AS ")
                    .push(name),
                None => columns.push(", toInt64(-1) AS ").push(name),
            };
        }
        let select = statement::events(scope, View::Deduplicated, &columns).actors(actors).within(self.range);
        let select = named(select, self.names()).and_all(self.conditions.iter().cloned());
        let select = if turns > 1 {
            let of_turn = Sql::new("modulo(").append(&actors.id()).push(", ").arg(turns).push(") = ");
            select.and(of_turn.arg(turn))
        } else {
            select
        };
        select.then(Sql::new("GROUP BY actor")).sql()
    }

    /// Does a row match, and lie in a bucket?
    fn counts(&self, matcher: &Matcher, buckets: Range) -> Sql {
        let matches = matcher.or_true();
        if buckets == self.range {
            return matches;
        }
        let at = View::Deduplicated.time();
        matches.push(" AND ").append(&at).push(" >= ").arg(buckets.from.as_millis())
    }

    /// How many rows there are to gather, read from the key alone.
    pub(super) fn count(&self, scope: &Scope) -> Sql {
        let select = statement::events(scope, View::Versions, &Sql::new("count() AS events"));
        named(select.within(self.range), self.names()).sql()
    }

    fn names(&self) -> Option<Vec<&str>> {
        names_of(self.sets.iter().chain(&self.firsts))
    }
}

impl Query {
    /// Shows every person with at least one event.
    ///
    /// # Errors
    /// What `show` refuses; 400 over `query.gather_events_max`, 503 for what the store does not answer.
    pub(super) async fn active(
        &self,
        scope: &Scope,
        actors: &Actors,
        activity: &Activity,
        mut show: impl FnMut(&Person) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let turns = self.turns_for(activity.count(scope)).await?;
        for turn in 0..turns {
            let mut people = self.stream::<Row>(activity.sql(scope, actors, turn, turns)).await?;
            while let Some(block) = people.next_chunk().await? {
                for row in block {
                    let [first, second] = row.sets;
                    let sets = [numbers(&first.0)?, numbers(&second.0)?];
                    let firsts = row.firsts.map(|at| (at >= 0).then_some(Timestamp::from_millis(at)));
                    show(&Person { actor: row.actor, sets, firsts })?;
                }
            }
        }
        Ok(())
    }
}

/// The numbers of a state of `UInt32`s, sorted; an empty text has none.
fn numbers(state: &[u8]) -> Result<Vec<u32>, Problem> {
    if state.is_empty() {
        return Ok(Vec::new());
    }
    let rest = after_length(state).ok_or_else(malformed)?;
    let (words, []) = rest.as_chunks::<4>() else { return Err(malformed()) };
    let mut numbers: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Numbers that stand at least `times` times, once each.
pub(super) fn at_least(sorted: &[u32], times: usize) -> Vec<u32> {
    sorted.chunk_by(|a, b| a == b).filter(|same| same.len() >= times).map(|same| same[0]).collect()
}

/// `UInt32`: the number of the bucket that a row is in; rows outside of all are to be left out by a condition.
fn bucket_number(buckets: &Buckets) -> Sql {
    let at = Sql::new("toUnixTimestamp64Milli(timestamp)");
    let starts: Vec<i64> = buckets.starts().iter().map(|start| start.as_millis()).collect();
    let first = starts.first().copied().unwrap_or(0);
    match buckets.width_millis() {
        Some(width) => {
            Sql::new("toUInt32(intDiv(").append(&at).push(" - ").arg(first).push(", ").arg(width).push("))")
        }
        None => {
            let numbers: Vec<u32> = (0..).take(starts.len()).collect();
            Sql::new("transform(roundDown(")
                .append(&at)
                .push(", CAST(")
                .arg(starts.as_slice())
                .push(", 'Array(Int64)')), CAST(")
                .arg(starts.as_slice())
                .push(", 'Array(Int64)'), CAST(")
                .arg(numbers)
                .push(", 'Array(UInt32)'), toUInt32(0))")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_more_than_127_elements_has_a_longer_count() {
        let mut state = vec![0x81, 0x01];
        for number in (0..129_u32).rev() {
            state.extend(number.to_le_bytes());
        }
        assert_eq!(numbers(&state).unwrap(), (0..129).collect::<Vec<u32>>());
        assert!(numbers(&[]).unwrap().is_empty());
        assert!(numbers(&state[..5]).is_err());
    }

    #[test]
    fn numbers_that_stand_often_enough_are_kept_once() {
        assert_eq!(at_least(&[1, 1, 2, 3, 3, 3], 1), [1, 2, 3]);
        assert_eq!(at_least(&[1, 1, 2, 3, 3, 3], 2), [1, 3]);
    }
}

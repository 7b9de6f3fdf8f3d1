//! In which buckets of time each person was active: what retention, lifecycle and stickiness are made of.
//!
//! A fold over everything that [`super::gather`] shows of a person; what it means is decided by the fold of each question.

use super::Query;
use super::actor::Actors;
use super::funnel::fold::Event;
use super::gather::{Gather, Matcher, Values};
use super::interval::Buckets;
use super::range::Range;
use crate::event::{Scope, Timestamp};
use crate::http::Problem;
use crate::store::Sql;

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
#[derive(Debug, Default, PartialEq)]
pub(super) struct Person {
    pub actor: u64,
    /// Numbers of buckets, sorted.
    pub sets: [Vec<u32>; SETS_MAX],
    /// None: they have no such event.
    pub firsts: [Option<Timestamp>; FIRSTS_MAX],
}

impl Activity {
    /// The events that it is made of: those of the sets, then those of the firsts.
    pub(super) fn gather(&self) -> Gather {
        Gather {
            range: self.range,
            steps: self.sets.iter().chain(&self.firsts).cloned().collect(),
            exclusions: Vec::new(),
            conditions: self.conditions.clone(),
            everything: false,
            value: None,
            by: None,
        }
    }

    /// Milliseconds from the range's beginning to that of each bucket.
    fn starts(&self) -> Vec<i64> {
        let from = self.range.from.as_millis();
        self.buckets.starts().iter().map(|start| start.as_millis() - from).collect()
    }

    /// Takes in a person's events, which stand in order of time.
    fn take(&self, starts: &[i64], actor: u64, events: &[Event], person: &mut Person) {
        person.actor = actor;
        person.firsts = [None; FIRSTS_MAX];
        person.sets.iter_mut().for_each(Vec::clear);
        let is = |event: &Event, step: usize| event.steps & (1 << step) != 0;
        let firsts = (self.sets.len()..).take(self.firsts.len());
        for (first, step) in person.firsts.iter_mut().zip(firsts) {
            let found = events.iter().find(|event| is(event, step));
            *first = found.map(|event| Timestamp::from_millis(self.range.from.as_millis() + event.at));
        }
        // How many buckets have begun.
        let mut begun = 0;
        for event in events {
            while starts.get(begun as usize).is_some_and(|start| *start <= event.at) {
                begun += 1;
            }
            let Some(bucket) = u32::checked_sub(begun, 1) else { continue };
            for (step, set) in person.sets.iter_mut().enumerate().take(self.sets.len()) {
                if is(event, step) && (self.counted || set.last() != Some(&bucket)) {
                    set.push(bucket);
                }
            }
        }
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
        let (starts, mut person) = (activity.starts(), Person::default());
        let shown = |actor, events: &[Event], _: &Values| {
            activity.take(&starts, actor, events, &mut person);
            show(&person)
        };
        self.gather(scope, actors, &activity.gather(), &mut Values::new(0), shown).await
    }
}

/// Numbers that stand at least `times` times, once each.
pub(super) fn at_least(sorted: &[u32], times: usize) -> Vec<u32> {
    sorted.chunk_by(|a, b| a == b).filter(|same| same.len() >= times).map(|same| same[0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::interval::{Calendar, Interval, WeekStart};
    use crate::query::range;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn a_person_stands_in_the_buckets_of_their_events_and_has_first_times() {
        let calendar = Calendar { zone: chrono_tz::Tz::UTC, week_start: WeekStart::Monday };
        let (from, end) = (at("2026-01-15T00:00:00Z"), at("2026-03-10T00:00:00Z"));
        let (_, buckets) = range::buckets(from, end, &calendar, Interval::Month, 100).unwrap();
        let matcher = Matcher { event: None, conditions: Vec::new() };
        let range = Range { from: at("2025-12-01T00:00:00Z"), end };
        let (sets, firsts) = (vec![matcher.clone(); 2], vec![matcher]);
        let mut activity = Activity { range, buckets, conditions: Vec::new(), sets, counted: false, firsts };
        let event = |time: &str, steps: u16| {
            let at = at(time).as_millis() - range.from.as_millis();
            Event { at, steps, exclusions: 0, value: 0 }
        };
        // Bits: the first set, the second, the first time.
        let events = [
            event("2025-12-31T23:59:59.999Z", 0b111),
            event("2026-01-01T00:00:00Z", 0b001),
            event("2026-01-31T23:59:59.999Z", 0b011),
            event("2026-03-01T00:00:00Z", 0b110),
            event("2026-03-02T00:00:00Z", 0b110),
        ];
        let mut person = Person { firsts: [Some(end); 2], sets: [vec![9], vec![9]], ..Person::default() };
        activity.take(&activity.starts(), 7, &events, &mut person);
        let firsts = [Some(at("2025-12-31T23:59:59.999Z")), None];
        assert_eq!(person, Person { actor: 7, sets: [vec![0], vec![0, 2]], firsts });
        activity.counted = true;
        activity.take(&activity.starts(), 7, &events[1..], &mut person);
        let firsts = [Some(at("2026-03-01T00:00:00Z")), None];
        assert_eq!(person, Person { actor: 7, sets: [vec![0, 0], vec![0, 2, 2]], firsts });
    }

    #[test]
    fn numbers_that_stand_often_enough_are_kept_once() {
        assert_eq!(at_least(&[1, 1, 2, 3, 3, 3], 1), [1, 2, 3]);
        assert_eq!(at_least(&[1, 1, 2, 3, 3, 3], 2), [1, 3]);
    }
}

//! Ordered funnels with steps that may be left out.
//!
//! Such a funnel is all those funnels together that leave some of these steps out; never the last one: whoever does not
//! come to it has only not come so far. In each of them every rule of the [fold] holds, over the steps that
//! it has: an exclusion reaches from the first of them that is not before its `from` step to the first that is not
//! before its `to` step. Of what a person comes to in all of them, the furthest step counts; of those the attempt that
//! no exclusion has found before one that is tainted, then the one that got there first, then the one that took most
//! steps, then the one that began last.
//!
//! A step that no event of the person is could only be in the way, so there are as many funnels to try as there are
//! choices among the steps that the person took.

use std::cmp::Reverse;

use smallvec::SmallVec;

use super::fold::{self, Attempt, Event, Exclusion, Rules, SKIPPED, STEPS_MAX, Taken, Times};

/// The best attempt of a person; [`SKIPPED`] stands for a step that it left out.
pub(super) fn furthest(
    rules: &Rules,
    events: &[Event],
    may_take: impl Fn(usize, &Event) -> bool,
) -> Option<Attempt> {
    let useful = |event: &Event| Event { steps: Taken::of(rules, event, &may_take).steps, ..*event };
    let events: Vec<Event> = events.iter().map(useful).collect();
    let taken = events.iter().fold(0, |all, event| all | event.steps);
    let last = 1 << (rules.steps - 1);
    let (missing, choices) = (rules.optional & !last & !taken, rules.optional & !last & taken);
    let mut best: Option<(Rank, Attempt)> = None;
    let mut left_out = choices;
    loop {
        let part = Part::without(rules, left_out | missing);
        if let Some((rank, attempt)) = part.best(&events)
            && best.as_ref().is_none_or(|(other, _)| rank > *other)
        {
            best = Some((rank, attempt));
        }
        // The next smaller set of choices.
        let Some(less) = left_out.checked_sub(1) else { break };
        left_out = less & choices;
    }
    best.map(|(_, attempt)| attempt)
}

/// Steps come to, untainted, when, steps taken, beginning.
type Rank = (usize, bool, Reverse<i64>, usize, i64);

/// A funnel of some of the steps.
struct Part {
    rules: Rules,
    /// Which ones.
    kept: SmallVec<[usize; STEPS_MAX]>,
}

impl Part {
    /// The funnel without the steps whose bits are set.
    fn without(whole: &Rules, left_out: u16) -> Self {
        let kept: SmallVec<_> = (0..whole.steps).filter(|step| left_out & (1 << step) == 0).collect();
        let place = |step: usize| kept.partition_point(|kept| *kept < step);
        let moved = |old: &Exclusion| Exclusion { from: place(old.from), to: place(old.to) };
        let exclusions = whole.exclusions.iter().map(moved).collect();
        let rules = Rules { steps: kept.len(), optional: 0, exclusions, ..*whole };
        Self { rules, kept }
    }

    /// What the ordinary fold finds, in steps of the whole funnel.
    fn best(&self, events: &[Event]) -> Option<(Rank, Attempt)> {
        let taken = |event: &Event| {
            let bits = self.kept.iter().enumerate();
            let steps = bits.fold(0, |all, (place, step)| all | ((event.steps >> step) & 1) << place);
            Taken { steps, exclusions: event.exclusions }
        };
        let found = fold::furthest(&self.rules, events, taken)?;
        let mut times = Times::new();
        for (step, at) in self.kept.iter().zip(&found.times) {
            times.resize(*step, SKIPPED);
            times.push(*at);
        }
        let rank = (times.len(), !found.tainted, Reverse(found.end()), found.times.len(), found.start());
        Some((rank, Attempt { times, tainted: found.tainted }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::query::funnel::fold::{Order, Reached, fold};

    fn rules(steps: usize, optional: u16, window: i64) -> Rules {
        Rules { steps, order: Order::Ordered, window, exclusions: Vec::new(), optional }
    }

    /// Furthest step, when, steps taken, beginning.
    type Way = (usize, Reverse<i64>, usize, i64);

    /// Every way through the events, found by trying everything.
    fn ways(rules: &Rules, events: &[Event], used: &mut Vec<usize>, times: &[i64], best: &mut Option<Way>) {
        if let (Some(start), Some(end)) = (times.first(), times.last()) {
            let taken = times.iter().filter(|at| **at != SKIPPED).count();
            *best = (*best).max(Some((times.len(), Reverse(*end), taken, *start)));
        }
        let mut step = times.len();
        while step < rules.steps {
            for (index, event) in events.iter().enumerate() {
                let fits = event.steps & (1 << step) != 0
                    && !used.contains(&index)
                    && times.last().is_none_or(|last| event.at >= *last)
                    && times.first().is_none_or(|first| event.at - first <= rules.window);
                if fits {
                    let mut longer = times.to_vec();
                    longer.resize(step, SKIPPED);
                    longer.push(event.at);
                    used.push(index);
                    ways(rules, events, used, &longer, best);
                    used.pop();
                }
            }
            if !rules.is_optional(step) {
                break;
            }
            step += 1;
        }
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        proptest::collection::vec((0_i64..4, 0_u16..16), 0..8).prop_map(|gaps| {
            let mut at = 0;
            let each = gaps.into_iter().map(|(gap, steps)| {
                at += gap;
                Event { at, steps, exclusions: 0, value: 0 }
            });
            each.collect()
        })
    }

    proptest! {
        #[test]
        fn a_person_gets_as_far_as_the_best_of_all_ways(
            events in events(),
            optional in prop_oneof![Just(0b0010_u16), Just(0b0100), Just(0b0110), Just(0b1000), Just(0b1010), Just(0b1110)],
            window in 1_i64..12,
        ) {
            let rules = rules(4, optional, window);
            let mut best = None;
            ways(&rules, &events, &mut Vec::new(), &[], &mut best);
            let found = match fold(&rules, &events, |_, _| true) {
                Reached::Steps(times) => {
                    let taken = times.iter().filter(|at| **at != SKIPPED).count();
                    for (step, at) in times.iter().enumerate() {
                        prop_assert!(*at != SKIPPED || rules.is_optional(step), "{times:?}");
                    }
                    Some((times.len(), Reverse(*times.last().unwrap()), taken, times[0]))
                }
                _ => None,
            };
            prop_assert_eq!(found, best);
        }
    }

    #[test]
    fn a_step_to_leave_out_counts_for_those_who_took_it() {
        let event = |at: i64, step: u16| Event { at, steps: 1 << step, exclusions: 0, value: 0 };
        let rules = rules(3, 0b010, 100);
        let steps = |events: &[Event]| match fold(&rules, events, |_, _| true) {
            Reached::Steps(times) => times.to_vec(),
            other => panic!("{other:?}"),
        };
        assert_eq!(steps(&[event(0, 0), event(1, 2)]), [0, SKIPPED, 1]);
        assert_eq!(steps(&[event(0, 0), event(1, 1), event(2, 2)]), [0, 1, 2]);
        assert_eq!(steps(&[event(0, 0), event(1, 1), event(2, 0), event(3, 2)]), [0, 1, 3]);
        assert_eq!(steps(&[event(0, 0), event(1, 2), event(2, 1)]), [0, SKIPPED, 1]);
        assert_eq!(steps(&[event(0, 0), event(1, 1)]), [0, 1]);
        assert_eq!(steps(&[event(0, 1), event(1, 0)]), [1]);
    }

    #[test]
    fn an_exclusion_reaches_over_the_steps_that_were_not_left_out() {
        let event = |at: i64, steps: u16| Event { at, steps, exclusions: 0, value: 0 };
        let excluded = |at: i64| Event { at, steps: 0, exclusions: 1, value: 0 };
        let fold = |optional: u16, (from, to): (usize, usize), events: &[Event]| {
            let rules = Rules { exclusions: vec![Exclusion { from, to }], ..rules(4, optional, 5) };
            fold(&rules, events, |_, _| true)
        };
        let steps = |times: &[i64]| Reached::Steps(Times::from_slice(times));
        // Between two steps of which the first is left out it is between none.
        let events = [event(0, 1), event(1, 2), excluded(2), event(3, 4)];
        assert_eq!(fold(0b0010, (1, 2), &events), steps(&[0, SKIPPED, 3]));
        assert_eq!(fold(0, (1, 2), &events), Reached::Excluded);
        // To a step that is left out it reaches up to the next one.
        let events = [event(0, 1), excluded(2), event(3, 4)];
        assert_eq!(fold(0b0010, (0, 1), &events), Reached::Excluded);
        // The last step is not left out: whoever was found before it has not converted.
        let events = [event(0, 1), event(1, 2), event(2, 4), excluded(3)];
        assert_eq!(fold(0b1000, (2, 3), &events), Reached::Excluded);
        // An attempt takes the first event of a step, as in every funnel, and does not wait for a better one.
        let events = [event(1, 0b1101), event(2, 0b0111), excluded(3), event(4, 4), excluded(5), event(6, 4)];
        assert_eq!(fold(0b1010, (2, 3), &events), Reached::Excluded);
    }
}

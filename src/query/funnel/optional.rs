//! Ordered funnels with steps that may be left out.
//!
//! An attempt goes on from a step to the next one, or past steps that may be left out to the first behind them, one event a
//! step, inside the window that is counted from its beginning. The answer is the furthest step of any attempt: of those,
//! the attempt that got there first, then the one that took most steps, then the one that began last. Exclusions taint
//! an attempt that has come to their `from` step or further and not to their `to` step, as in a funnel without such steps.
//!
//! For every step, those attempts are kept that no other one is better than: one that began later and took as many
//! steps may take whatever they may. That are as many as there are steps to leave out, and one.

use smallvec::SmallVec;

use super::fold::{Event, Reached, Rules, SKIPPED, Taken, Times};
use super::matching::Matching;

/// Folds a person's events (in order of time) by the rules, as [`super::fold::fold`] does.
pub(super) fn fold(rules: &Rules, events: &[Event], may_take: impl Fn(usize, &Event) -> bool) -> Reached {
    let mut state = State { rules, standing: vec![Standing::new(); rules.steps], best: None };
    let mut group = SmallVec::<[Taken; 4]>::new();
    for at_once in events.chunk_by(|a, b| a.at == b.at) {
        group.clear();
        group.extend(at_once.iter().map(|event| Taken::of(rules, event, &may_take)));
        state.take(at_once[0].at, &group);
        if state.best.as_ref().is_some_and(|best| best.times.len() == rules.steps && !best.tainted) {
            break;
        }
    }
    match state.best {
        None => Reached::Nothing,
        Some(best) if best.tainted => Reached::Excluded,
        Some(best) => Reached::Steps(best.times),
    }
}

#[derive(Clone, Debug)]
struct Attempt {
    /// Up to the furthest step.
    times: Times,
    /// Steps that it took.
    taken: usize,
    tainted: bool,
}

impl Attempt {
    fn start(&self) -> i64 {
        self.times.first().copied().unwrap_or(i64::MIN)
    }

    fn end(&self) -> i64 {
        self.times.last().copied().unwrap_or(i64::MIN)
    }

    /// The same, one step further.
    fn with(&self, step: usize, at: i64) -> Self {
        let mut times = self.times.clone();
        times.resize(step, SKIPPED);
        times.push(at);
        Self { times, taken: self.taken + 1, tainted: self.tainted }
    }
}

type Standing = SmallVec<[Attempt; 2]>;

struct State<'a> {
    rules: &'a Rules,
    /// For each step, the attempts that took it last.
    standing: Vec<Standing>,
    best: Option<Attempt>,
}

impl State<'_> {
    /// The events of one time, in the order that serves each attempt best.
    fn take(&mut self, at: i64, group: &[Taken]) {
        let masks: SmallVec<[u16; 8]> = group.iter().map(|event| event.steps).collect();
        let excluded = group.iter().fold(0, |all, event| all | event.exclusions);
        if excluded != 0 {
            for step in 0..self.rules.steps {
                // Somewhere on its way through this moment an attempt is out of reach: the excluded event stands there,
                // if it is not itself the only one.
                let furthest = match group {
                    [_] => step,
                    _ => self.furthest(step, &Matching::default(), &masks),
                };
                if self.is_excluded(excluded, step, furthest) {
                    self.taint(step, at);
                }
            }
        }
        if masks.iter().all(|mask| *mask == 0) {
            return;
        }
        let before = self.standing.clone();
        for attempt in before.iter().rev().flatten() {
            if at - attempt.start() <= self.rules.window {
                self.go_on(attempt, &Matching::default(), &masks, at);
            }
        }
        let none = Attempt { times: Times::new(), taken: 0, tainted: false };
        self.go_on(&none, &Matching::default(), &masks, at);
    }

    /// Takes every step that the attempt may take now, and goes on from there.
    fn go_on(&mut self, attempt: &Attempt, matching: &Matching, masks: &[u16], at: i64) {
        for step in self.next(attempt.times.len()) {
            let mut matching = matching.clone();
            if !matching.add(step, masks) {
                continue;
            }
            let further = attempt.with(step, at);
            match self.known(step, &further) {
                Some(other) if other.tainted => continue,
                // In a worse way it may still come further at this moment, with events that the better one has used.
                Some(_) => {}
                None => {
                    self.offer(&further);
                    if !further.tainted {
                        self.keep(step, further.clone());
                    }
                }
            }
            if !further.tainted {
                self.go_on(&further, &matching, masks, at);
            }
        }
    }

    /// The steps that may come where `step` would.
    fn next(&self, step: usize) -> std::ops::Range<usize> {
        let mut last = step;
        while last + 1 < self.rules.steps && self.rules.is_optional(last) {
            last += 1;
        }
        step..(last + 1).min(self.rules.steps)
    }

    /// The furthest step that an attempt at `step` can come to at once.
    fn furthest(&self, step: usize, matching: &Matching, masks: &[u16]) -> usize {
        let mut furthest = step;
        for next in self.next(step + 1) {
            let mut matching = matching.clone();
            if matching.add(next, masks) {
                furthest = furthest.max(self.furthest(next, &matching, masks));
            }
        }
        furthest
    }

    /// Has the same attempt been there already, in no worse a way?
    fn known(&self, step: usize, attempt: &Attempt) -> Option<&Attempt> {
        let same = |other: &&Attempt| other.start() == attempt.start();
        let known = |other: &&Attempt| other.taken >= attempt.taken || other.tainted;
        self.standing[step].iter().filter(same).find(known)
    }

    fn keep(&mut self, step: usize, attempt: Attempt) {
        let better =
            |one: &Attempt, other: &Attempt| one.taken >= other.taken && one.start() >= other.start();
        let standing = &mut self.standing[step];
        if !standing.iter().any(|other| !other.tainted && better(other, &attempt)) {
            standing.retain(|other| !better(&attempt, other));
            standing.push(attempt);
        }
    }

    /// Does one of these exclusions reach over all steps from `step` to `last`?
    fn is_excluded(&self, exclusions: u8, step: usize, last: usize) -> bool {
        let which = self.rules.exclusions.iter().enumerate();
        which
            .filter(|(bit, _)| exclusions & (1 << bit) != 0)
            .any(|(_, exclusion)| exclusion.from <= step && last < exclusion.to)
    }

    /// An excluded event found the attempts at `step`.
    fn taint(&mut self, step: usize, at: i64) {
        let window = self.rules.window;
        let open = |attempt: &&mut Attempt| at - attempt.start() <= window;
        let mut any = false;
        for attempt in self.standing[step].iter_mut().filter(open) {
            attempt.tainted = true;
            any = true;
        }
        if let Some(best) = &mut self.best
            && any
            && best.times.len() == step + 1
            && at - best.start() <= window
        {
            best.tainted = true;
        }
    }

    /// Is this attempt further than all before it?
    fn offer(&mut self, attempt: &Attempt) {
        let better = match &self.best {
            None => true,
            Some(best) if attempt.times.len() != best.times.len() => attempt.times.len() > best.times.len(),
            Some(best) if attempt.tainted != best.tainted => best.tainted,
            Some(best) => {
                attempt.end() == best.end() && (attempt.taken, attempt.start()) > (best.taken, best.start())
            }
        };
        if better {
            self.best = Some(attempt.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::query::funnel::fold::{Exclusion, Order};

    fn rules(steps: usize, optional: u16, window: i64) -> Rules {
        Rules { steps, order: Order::Ordered, window, exclusions: Vec::new(), optional }
    }

    /// Furthest step, when, steps taken, beginning.
    type Way = (usize, std::cmp::Reverse<i64>, usize, i64);

    /// Every way through the events, found by trying everything.
    fn ways(rules: &Rules, events: &[Event], used: &mut Vec<usize>, times: &[i64], best: &mut Option<Way>) {
        if let (Some(start), Some(end)) = (times.first(), times.last()) {
            let taken = times.iter().filter(|at| **at != SKIPPED).count();
            *best = (*best).max(Some((times.len(), std::cmp::Reverse(*end), taken, *start)));
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
                    Some((times.len(), std::cmp::Reverse(*times.last().unwrap()), taken, times[0]))
                }
                _ => None,
            };
            prop_assert_eq!(found, best);
        }

        #[test]
        fn without_steps_to_leave_out_it_is_the_ordinary_fold(
            gaps in proptest::collection::vec((1_i64..4, 0_u16..8, 0_u8..4), 0..14),
            window in 1_i64..20,
            from in 0_usize..2,
        ) {
            let mut at = 0;
            let events: Vec<Event> = gaps
                .into_iter()
                .map(|(gap, steps, exclusions)| {
                    at += gap;
                    Event { at, steps, exclusions: u8::from(exclusions == 1), value: 0 }
                })
                .collect();
            let exclusions = vec![Exclusion { from, to: 2 }];
            let rules = Rules { exclusions, ..rules(3, 0, window) };
            prop_assert_eq!(fold(&rules, &events, |_, _| true), super::super::fold::fold(&rules, &events, |_, _| true));
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
}

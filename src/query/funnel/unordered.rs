//! Funnels whose steps may be taken in any order.
//!
//! An attempt begins with any event of any step and gathers different steps, one event a step, inside its window. The
//! most steps win; then the attempt that had them first; then the one that began first.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::fold::{Event, Reached, Rules, Times};
use super::matching::Gathering;

/// See [`super::fold::fold`]. Here `may_take` is asked about step 0 with the event that an attempt begins with, too:
/// whoever allows no event to begin allows no attempt.
pub(super) fn fold(rules: &Rules, events: &[Event], may_take: impl Fn(usize, &Event) -> bool) -> Reached {
    let mut ahead = Ahead { classes: SmallVec::new(), keep: rules.steps };
    let mut excluded_at: Option<i64> = None;
    let mut best: Option<Attempt> = None;
    // From the last event to the first, so that what lies ahead of each is known; events of one time together, since
    // each of them may be the first.
    for at_once in events.chunk_by(|a, b| a.at == b.at).rev() {
        let at = at_once[0].at;
        let mut begins = false;
        for event in at_once.iter().rev() {
            let mask = (0..rules.steps)
                .filter(|step| event.steps & (1 << step) != 0 && (*step == 0 || may_take(*step, event)))
                .fold(0_u16, |mask, step| mask | 1 << step);
            if mask != 0 {
                ahead.push(mask, at);
                begins |= may_take(0, event);
            }
        }
        if begins {
            let attempt = attempt(rules, &ahead, at, excluded_at);
            if best.as_ref().is_none_or(|best| attempt.is_better(best)) {
                best = Some(attempt);
            }
        }
        if at_once.iter().any(|event| event.exclusions != 0) {
            excluded_at = Some(at);
        }
    }
    match best {
        None => Reached::Nothing,
        Some(best) if best.tainted => Reached::Excluded,
        Some(best) => Reached::Steps(best.times),
    }
}

struct Attempt {
    times: Times,
    tainted: bool,
}

impl Attempt {
    /// Than one that began later.
    fn is_better(&self, best: &Self) -> bool {
        let steps = |attempt: &Self| attempt.times.len();
        let end = |attempt: &Self| attempt.times.last().copied().unwrap_or(i64::MAX);
        steps(self)
            .cmp(&steps(best))
            .then(best.tainted.cmp(&self.tainted))
            .then(end(best).cmp(&end(self)))
            .is_ge()
    }
}

/// The attempt that begins at `at`; `excluded_at` is the first excluded event after it.
fn attempt(rules: &Rules, ahead: &Ahead, at: i64, excluded_at: Option<i64>) -> Attempt {
    let mut gathering = Gathering::new(rules.steps);
    let mut times = Times::new();
    for (time, mask) in ahead.within(at.saturating_add(rules.window)) {
        // One step more than the excluded event lets it, as with order.
        let is_tainted = excluded_at.is_some_and(|excluded| excluded < time);
        if gathering.add(mask) {
            times.push(time);
            if is_tainted {
                return Attempt { times, tainted: true };
            }
        }
        if times.len() == rules.steps {
            return Attempt { times, tainted: false };
        }
    }
    let tainted = excluded_at.is_some_and(|excluded| excluded - at <= rules.window);
    Attempt { times, tainted }
}

/// The next events of each kind. Of events that match the same steps, no more are needed than there are steps.
struct Ahead {
    classes: SmallVec<[(u16, VecDeque<i64>); 4]>,
    keep: usize,
}

impl Ahead {
    fn push(&mut self, mask: u16, at: i64) {
        let place = self.classes.iter().position(|(known, _)| *known == mask).unwrap_or_else(|| {
            self.classes.push((mask, VecDeque::new()));
            self.classes.len() - 1
        });
        let times = &mut self.classes[place].1;
        times.push_front(at);
        times.truncate(self.keep);
    }

    /// Times up to `last` in order, with the steps that are matched.
    fn within(&self, last: i64) -> SmallVec<[(i64, u16); 16]> {
        let mut all: SmallVec<[(i64, u16); 16]> = SmallVec::new();
        for (mask, times) in &self.classes {
            all.extend(times.iter().take_while(|at| **at <= last).map(|at| (*at, *mask)));
        }
        all.sort_unstable();
        all
    }
}

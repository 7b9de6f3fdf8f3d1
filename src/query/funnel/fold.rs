//! How far one person came through a funnel: exact, pure, and the only implementation.
//!
//! An attempt begins with every event of the first step and takes the first later event of each next step, one event a
//! step, inside the window that is counted from its beginning (the end is inclusive). The answer is the furthest step of
//! any attempt: the attempt that got there first and, among those, the one that began last. Events at one time stand
//! in the order that the steps need.
//!
//! An attempt inside the reach of an exclusion (its `from` step is taken, its `to` step is not) is tainted by the event
//! that is excluded: it goes one step further at most. A person whose furthest attempts are all tainted is out of the
//! funnel altogether, its first step included.
//!
//! Attempts that took their last step with the same event count as the one of them that began last: whatever an older
//! one may take, it may take too, and its window is open for longer. So one attempt a step is kept, and an event costs
//! as much as it matches steps.

use smallvec::SmallVec;

use super::matching::reachable;

/// Steps of a funnel at most, and exclusions: both have a bit each beside an event's time (`super::super::gather`).
pub(in crate::query) const STEPS_MAX: usize = 16;
pub(in crate::query) const EXCLUSIONS_MAX: usize = 6;

/// One event of a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::query) struct Event {
    /// Milliseconds, from anywhere.
    pub at: i64,
    /// Bit n: it matches step n.
    pub steps: u16,
    /// Bit n: it matches exclusion n.
    pub exclusions: u8,
    /// The value of the breakdown, as a number for each.
    pub value: u32,
}

/// In which order the steps have to be taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// One after the other, anything in between.
    #[default]
    Ordered,
    /// One after the other, nothing in between.
    Strict,
    /// As many different ones as possible within a window.
    Unordered,
}

/// An event that must not happen once step `from` is taken and step `to` is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::query) struct Exclusion {
    pub from: usize,
    pub to: usize,
}

/// What a funnel asks of a person's events.
#[derive(Clone, Debug)]
pub(in crate::query) struct Rules {
    /// 1 to [`STEPS_MAX`].
    pub steps: usize,
    pub order: Order,
    /// Milliseconds from the first step, inclusive.
    pub window: i64,
    /// Bit n: step n may be left out. Only with [`Order::Ordered`], and never the first.
    pub optional: u16,
    /// At most [`EXCLUSIONS_MAX`]. Without order only the whole range has a meaning.
    pub exclusions: Vec<Exclusion>,
}

impl Rules {
    pub(in crate::query) fn is_optional(&self, step: usize) -> bool {
        self.optional & (1 << step) != 0
    }

    /// The last step before `step` that may not be left out.
    pub(in crate::query) fn required_before(&self, step: usize) -> usize {
        (0..step).rev().find(|before| !self.is_optional(*before)).unwrap_or(0)
    }
}

/// Stands for the time of a step that was left out.
pub(in crate::query) const SKIPPED: i64 = i64::MIN;

/// When `step` was taken, if it was.
pub(in crate::query) fn taken(times: &[i64], step: usize) -> Option<i64> {
    times.get(step).copied().filter(|at| *at != SKIPPED)
}

/// When each step was taken, up to the furthest; [`SKIPPED`] for one that was left out.
pub(in crate::query) type Times = SmallVec<[i64; 6]>;

/// What became of a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::query) enum Reached {
    /// Not even the first step.
    Nothing,
    /// Every furthest attempt met an exclusion.
    Excluded,
    /// The furthest attempt, a time for each step it took.
    Steps(Times),
}

/// Folds a person's events (in order of time) by the rules. `may_take` says which events may serve as which step beyond
/// what their bits say.
pub(in crate::query) fn fold(
    rules: &Rules,
    events: &[Event],
    may_take: impl Fn(usize, &Event) -> bool,
) -> Reached {
    if rules.order == Order::Unordered {
        return super::unordered::fold(rules, events, may_take);
    }
    let best = if rules.optional == 0 {
        furthest(rules, events, |event| Taken::of(rules, event, &may_take))
    } else {
        super::optional::furthest(rules, events, may_take)
    };
    match best {
        None => Reached::Nothing,
        Some(best) if best.tainted => Reached::Excluded,
        Some(best) => Reached::Steps(best.times),
    }
}

/// The best attempt at all steps in their order, none of which may be left out; `taken` says what an event is good for.
pub(super) fn furthest(rules: &Rules, events: &[Event], taken: impl Fn(&Event) -> Taken) -> Option<Attempt> {
    // Nothing is under way before the first event of the first step, and what stands at its time.
    let first = events.iter().position(|event| event.steps & 1 != 0)?;
    let begin = events[..first].iter().rposition(|event| event.at != events[first].at).map_or(0, |at| at + 1);
    let mut state = State::new(rules);
    let mut group = SmallVec::<[Taken; 4]>::new();
    for at_once in events[begin..].chunk_by(|a, b| a.at == b.at) {
        if let [one] = at_once {
            state.take(one.at, taken(one));
        } else {
            group.clear();
            group.extend(at_once.iter().map(&taken));
            state.take_group(at_once[0].at, &group);
        }
        if state.is_done() {
            break;
        }
    }
    state.best
}

/// What an event is good and bad for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) steps: u16,
    pub(super) exclusions: u8,
}

impl Taken {
    pub(super) fn of(rules: &Rules, event: &Event, may_take: &impl Fn(usize, &Event) -> bool) -> Self {
        let mut steps = 0;
        let mut left = event.steps;
        while left != 0 {
            let step = left.trailing_zeros() as usize;
            left &= left - 1;
            if step < rules.steps && may_take(step, event) {
                steps |= 1 << step;
            }
        }
        Self { steps, exclusions: event.exclusions }
    }
}

/// An attempt.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) times: Times,
    pub(super) tainted: bool,
}

impl Clone for Attempt {
    // The vector's own way copies number by number.
    fn clone(&self) -> Self {
        Self { times: SmallVec::from_slice(&self.times), tainted: self.tainted }
    }
}

impl Attempt {
    pub(super) fn start(&self) -> i64 {
        self.times.first().copied().unwrap_or(i64::MIN)
    }

    pub(super) fn end(&self) -> i64 {
        self.times.last().copied().unwrap_or(i64::MIN)
    }
}

struct State<'a> {
    rules: &'a Rules,
    /// For each step, the attempt that took it and began last.
    standing: SmallVec<[Option<Attempt>; 6]>,
    best: Option<Attempt>,
}

impl<'a> State<'a> {
    fn new(rules: &'a Rules) -> Self {
        Self { rules, standing: SmallVec::from_elem(None, rules.steps), best: None }
    }

    fn is_done(&self) -> bool {
        self.best.as_ref().is_some_and(|best| best.times.len() == self.rules.steps && !best.tainted)
    }

    fn in_window(&self, attempt: &Attempt, at: i64) -> bool {
        at - attempt.start() <= self.rules.window
    }

    /// The attempt at `step`, if it may still go on at `at`, and has not gone on already.
    fn open(&self, step: usize, at: i64) -> Option<&Attempt> {
        let attempt = self.standing[step].as_ref().filter(|attempt| self.in_window(attempt, at))?;
        let next = self.standing.get(step + 1).and_then(Option::as_ref);
        next.is_none_or(|next| next.start() != attempt.start()).then_some(attempt)
    }

    /// One event that is alone at its time.
    fn take(&mut self, at: i64, event: Taken) {
        if event.exclusions != 0 {
            for step in 0..self.rules.steps {
                if self.is_excluded(event.exclusions, step, step) {
                    self.taint(step, at);
                }
            }
        }
        let mut advanced = 0_u32;
        for step in (0..self.rules.steps).rev() {
            if event.steps & (1 << step) == 0 {
                continue;
            }
            let attempt = match step.checked_sub(1) {
                None => Attempt { times: SmallVec::from_slice(&[at]), tainted: false },
                Some(previous) => {
                    let Some(attempt) = self.open(previous, at) else { continue };
                    let mut attempt = attempt.clone();
                    attempt.times.push(at);
                    attempt
                }
            };
            self.offer(&attempt);
            if !attempt.tainted {
                self.standing[step] = Some(attempt);
                advanced |= 1 << step;
            }
        }
        if self.rules.order == Order::Strict {
            for (step, standing) in self.standing.iter_mut().enumerate() {
                if advanced & (1 << step) == 0 {
                    *standing = None;
                }
            }
        }
    }

    /// Several events of one time, in the order that serves each attempt best.
    fn take_group(&mut self, at: i64, group: &[Taken]) {
        let steps = self.rules.steps;
        let masks: SmallVec<[u16; 8]> = group.iter().map(|event| event.steps).collect();
        // How far the attempt that stands before step n may come at once.
        let reach: SmallVec<[usize; 8]> = (0..steps)
            .map(|next| {
                let open = next == 0 || self.open(next - 1, at).is_some();
                if open { reachable(&masks, next, steps) } else { next }
            })
            .collect();
        let excluded = group.iter().fold(0, |all, event| all | event.exclusions);
        for step in 0..steps {
            let furthest = reach.get(step + 1).map_or(step, |reach| reach - 1);
            // Somewhere along its way through this moment it is out of reach: the excluded event stands there.
            if excluded != 0 && self.is_excluded(excluded, step, furthest) {
                self.taint(step, at);
            }
        }
        let before = self.standing.clone();
        let mut advanced = 0_u32;
        for next in (0..steps).rev() {
            let origin = next.checked_sub(1).and_then(|step| before[step].as_ref());
            let mut attempt =
                origin.cloned().unwrap_or_else(|| Attempt { times: SmallVec::new(), tainted: false });
            for step in next..reach[next] {
                let was_tainted = attempt.tainted;
                attempt.times.push(at);
                self.offer(&attempt);
                if was_tainted {
                    break;
                }
                // What an attempt does not use lies between two of its steps, unless it came before the first.
                let is_whole = next == 0 || step + 1 - next == group.len();
                if self.rules.order != Order::Strict || is_whole {
                    self.standing[step] = Some(attempt.clone());
                    advanced |= 1 << step;
                }
            }
        }
        if self.rules.order == Order::Strict {
            for (step, standing) in self.standing.iter_mut().enumerate() {
                if advanced & (1 << step) == 0 {
                    *standing = None;
                }
            }
        }
    }

    /// Does one of these exclusions reach over all steps from `step` to `last`?
    fn is_excluded(&self, exclusions: u8, step: usize, last: usize) -> bool {
        let which = self.rules.exclusions.iter().enumerate();
        which
            .filter(|(bit, _)| exclusions & (1 << bit) != 0)
            .any(|(_, exclusion)| exclusion.from <= step && last < exclusion.to)
    }

    /// An excluded event found attempts at `step`.
    fn taint(&mut self, step: usize, at: i64) {
        if self.open(step, at).is_none() {
            return;
        }
        let Some(attempt) = &mut self.standing[step] else { return };
        attempt.tainted = true;
        let start = attempt.start();
        // An older attempt at the same step is under way as well, while its window lasts; a strict one is not: what
        // began the newer one broke it.
        let (window, strict) = (self.rules.window, self.rules.order == Order::Strict);
        if let Some(best) = &mut self.best
            && best.times.len() == step + 1
            && at - best.start() <= window
            && (!strict || best.start() == start)
        {
            best.tainted = true;
        }
    }

    /// Is this attempt further than all before it?
    fn offer(&mut self, attempt: &Attempt) {
        let better = match &self.best {
            None => true,
            Some(best) if attempt.times.len() == best.times.len() => {
                if attempt.tainted == best.tainted {
                    attempt.end() == best.end() && attempt.start() > best.start()
                } else {
                    best.tainted
                }
            }
            Some(best) => attempt.times.len() > best.times.len(),
        };
        if better {
            self.best = Some(attempt.clone());
        }
    }
}

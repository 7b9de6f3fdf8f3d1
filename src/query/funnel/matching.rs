//! Which events serve which steps, when each event serves one.

use smallvec::SmallVec;

/// How far steps from `next` on can be served by different events, one each: the first step that cannot.
pub(super) fn reachable(masks: &[u16], next: usize, steps: usize) -> usize {
    let mut matching = Matching::default();
    let mut step = next;
    while step < steps && matching.add(step, masks) {
        step += 1;
    }
    step
}

/// Steps and the events that serve them, one to one.
#[derive(Clone, Debug, Default)]
pub(super) struct Matching {
    /// For each event, the step it serves.
    serves: SmallVec<[Option<usize>; 8]>,
}

impl Matching {
    /// Serves one more step, if the events can be shared out so.
    pub(super) fn add(&mut self, step: usize, masks: &[u16]) -> bool {
        self.serves.resize(masks.len(), None);
        let mut seen = SmallVec::<[bool; 8]>::from_elem(false, masks.len());
        augment(&mut self.serves, &mut seen, step, masks)
    }
}

/// Looks for an event that serves `step`, moving others' events along.
fn augment(serves: &mut [Option<usize>], seen: &mut [bool], step: usize, masks: &[u16]) -> bool {
    for event in 0..masks.len() {
        if masks[event] & (1 << step) == 0 || seen[event] {
            continue;
        }
        seen[event] = true;
        if serves[event].is_none_or(|other| augment(serves, seen, other, masks)) {
            serves[event] = Some(step);
            return true;
        }
    }
    false
}

/// How many different steps the first n events serve together, for every n: events are added one by one.
#[derive(Clone, Debug, Default)]
pub(super) struct Gathering {
    masks: SmallVec<[u16; 8]>,
    /// For each step, the event that serves it.
    served: SmallVec<[Option<usize>; 16]>,
}

impl Gathering {
    pub(super) fn new(steps: usize) -> Self {
        Self { masks: SmallVec::new(), served: SmallVec::from_elem(None, steps) }
    }

    /// Adds an event; true if one step more is served with it.
    pub(super) fn add(&mut self, mask: u16) -> bool {
        self.masks.push(mask);
        let mut seen = 0_u16;
        self.place(self.masks.len() - 1, &mut seen)
    }

    fn place(&mut self, event: usize, seen: &mut u16) -> bool {
        for step in 0..self.served.len() {
            if self.masks[event] & (1 << step) == 0 || *seen & (1 << step) != 0 {
                continue;
            }
            *seen |= 1 << step;
            if self.served[step].is_none_or(|other| self.place(other, seen)) {
                self.served[step] = Some(event);
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_gives_way_to_the_step_that_needs_it() {
        // The first event could serve both steps, the second only the first of them.
        assert_eq!(reachable(&[0b110, 0b010], 1, 3), 3);
        assert_eq!(reachable(&[0b110], 1, 3), 2);
        assert_eq!(reachable(&[0b100], 1, 3), 1);
        assert_eq!(reachable(&[0b111, 0b111, 0b111], 0, 3), 3);
    }

    #[test]
    fn gathering_counts_steps_not_events() {
        let mut gathering = Gathering::new(3);
        assert!(gathering.add(0b011));
        assert!(gathering.add(0b001), "the first event moves on to the second step");
        assert!(!gathering.add(0b011));
        assert!(gathering.add(0b100));
    }
}

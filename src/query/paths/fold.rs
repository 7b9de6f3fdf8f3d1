//! One person's events → the paths of their sessions: pure.

use smallvec::SmallVec;

/// Stands for what is left out in the middle of a long path.
pub(super) const GAP: u32 = u32::MAX;

/// How paths are cut out of a person's events.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// A pause this long (milliseconds) ends a session.
    pub pause: i64,
    /// Nodes of a path at most.
    pub steps: usize,
    /// Paths begin with this node, or end with that: nodes before the first, and behind, are left out, and so are
    /// sessions without.
    pub start: Option<u32>,
    pub end: Option<u32>,
}

/// A node of a path: when, and its number.
pub(super) type Node = (i64, u32);

/// Shows the path of each session. `events` are in order of time.
pub(super) fn paths(shape: &Shape, events: &[Node], mut show: impl FnMut(&[Node])) {
    let mut path: SmallVec<[Node; 16]> = SmallVec::new();
    for session in events.chunk_by(|a, b| b.0 - a.0 < shape.pause) {
        path.clear();
        for event in session {
            // Of equal nodes in a row the last stands.
            if path.last().is_some_and(|last| last.1 == event.1) {
                path.pop();
            }
            path.push(*event);
        }
        if let Some(path) = shape.cut(&mut path) {
            show(path);
        }
    }
}

impl Shape {
    fn cut<'a>(&self, path: &'a mut SmallVec<[Node; 16]>) -> Option<&'a [Node]> {
        let place = |path: &[Node], node: u32| path.iter().position(|other| other.1 == node);
        if let Some(start) = self.start {
            let first = place(path, start)?;
            path.drain(..first);
        }
        if let Some(end) = self.end {
            let last = place(path, end)?;
            path.truncate(last + 1);
        }
        let over = path.len().saturating_sub(self.steps);
        match (self.start, self.end) {
            // Both ends are what is asked for: the middle goes.
            (Some(_), Some(_)) if over > 0 => {
                let half = (self.steps / 2).max(1);
                let gap = (path[half].0, GAP);
                path.drain(half..path.len() - half);
                path.insert(half, gap);
            }
            (None, Some(_)) => {
                path.drain(..over);
            }
            _ => path.truncate(self.steps),
        }
        Some(path)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(shape: &Shape, events: &[Node]) -> Vec<Vec<u32>> {
        let mut found = Vec::new();
        paths(shape, events, |path| found.push(path.iter().map(|node| node.1).collect()));
        found
    }

    /// By the words of the page: split, collapse, cut.
    fn naive(shape: &Shape, events: &[Node]) -> Vec<Vec<u32>> {
        let mut sessions: Vec<Vec<u32>> = Vec::new();
        for (index, event) in events.iter().enumerate() {
            if index == 0 || event.0 - events[index - 1].0 >= shape.pause {
                sessions.push(Vec::new());
            }
            sessions.last_mut().unwrap().push(event.1);
        }
        let mut found = Vec::new();
        for mut path in sessions {
            path.dedup();
            if let Some(start) = shape.start {
                path = path.into_iter().skip_while(|node| *node != start).collect();
            }
            if let Some(end) = shape.end {
                match path.iter().position(|node| *node == end) {
                    Some(last) => path.truncate(last + 1),
                    None => path.clear(),
                }
            }
            if path.is_empty() {
                continue;
            }
            if path.len() > shape.steps {
                path = match (shape.start, shape.end) {
                    (Some(_), Some(_)) => {
                        let half = (shape.steps / 2).max(1);
                        let (head, tail) = (path[..half].to_vec(), path[path.len() - half..].to_vec());
                        [head, vec![GAP], tail].concat()
                    }
                    (None, Some(_)) => path[path.len() - shape.steps..].to_vec(),
                    _ => path[..shape.steps].to_vec(),
                };
            }
            found.push(path);
        }
        found
    }

    proptest! {
        #[test]
        fn paths_are_split_collapsed_and_cut_as_a_naive_reading_does(
            gaps in proptest::collection::vec((0_i64..6, 0_u32..4), 0..40),
            pause in 1_i64..6,
            steps in 2_usize..7,
            start in proptest::option::of(0_u32..4),
            end in proptest::option::of(0_u32..4),
        ) {
            let mut at = 0;
            let events: Vec<Node> = gaps.iter().map(|(gap, node)| { at += gap; (at, *node) }).collect();
            let shape = Shape { pause, steps, start, end };
            prop_assert_eq!(of(&shape, &events), naive(&shape, &events));
        }
    }

    #[test]
    fn a_pause_of_exactly_the_length_ends_a_session() {
        let shape = Shape { pause: 10, steps: 5, start: None, end: None };
        assert_eq!(of(&shape, &[(0, 1), (9, 2), (19, 3)]), [vec![1, 2], vec![3]]);
    }
}

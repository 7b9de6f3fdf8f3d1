//! One person's part in a table of retention: pure.

/// When a person began, and when they came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Life {
    /// Intervals in which they began, with the number of the value they count for; sorted, each interval once.
    pub starts: Vec<(u32, u32)>,
    /// Intervals in which they came back, sorted.
    pub returns: Vec<u32>,
}

impl Life {
    /// The intervals, from that of `start` on (which is 0), in which the person counts: 0 always, a later one where
    /// they came back in it or, `cumulative`, in it or any after it. Of `intervals` in the table.
    pub(super) fn appearances(&self, start: u32, intervals: u32, cumulative: bool) -> Vec<u32> {
        let later = self.returns.iter().filter(|at| **at > start && **at < intervals).map(|at| at - start);
        if cumulative {
            return (0..=later.max().unwrap_or(0)).collect();
        }
        std::iter::once(0).chain(later).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_life_appears_where_a_naive_look_at_every_cell_finds_it(
            returns in proptest::collection::btree_set(0_u32..12, 0..8),
            start in 0_u32..10,
            intervals in 1_u32..12,
            cumulative: bool,
        ) {
            prop_assume!(start < intervals);
            let life = Life { starts: vec![(start, 0)], returns: returns.iter().copied().collect() };
            let found = life.appearances(start, intervals, cumulative);
            for n in 0..intervals - start {
                let there = if cumulative {
                    (start + n..intervals).any(|at| returns.contains(&at))
                } else {
                    returns.contains(&(start + n))
                };
                prop_assert_eq!(found.contains(&n), n == 0 || there, "{}", n);
            }
            prop_assert!(found.iter().all(|n| start + n < intervals));
        }
    }
}

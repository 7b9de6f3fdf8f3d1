//! The flood rule: rather stop a partition than pour its topic into the dead letters.

use std::collections::VecDeque;

/// When refused records are a flood.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FloodLimits {
    /// More than this share of the last `records_min` records refused …
    pub ratio_max: f64,
    pub records_min: usize,
    /// … or this many in a row.
    pub run_max: usize,
}

/// What the rule remembers of a partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Flood {
    /// The last `records_min` records: refused or not.
    recent: VecDeque<bool>,
    refused: usize,
    run: usize,
    /// An operator said to go on: nothing trips until the records are good again.
    waived: bool,
}

impl Flood {
    /// Takes note of the next record. True: it is a flood.
    pub(super) fn record(&mut self, refused: bool, limits: &FloodLimits) -> bool {
        self.recent.push_back(refused);
        self.refused += usize::from(refused);
        if self.recent.len() > limits.records_min.max(1) && self.recent.pop_front() == Some(true) {
            self.refused -= 1;
        }
        self.run = if refused { self.run + 1 } else { 0 };
        let full = self.recent.len() >= limits.records_min.max(1);
        let over = full && self.refused as f64 > limits.ratio_max * self.recent.len() as f64;
        let tripped = over || self.run >= limits.run_max.max(1);
        if self.waived {
            self.waived = tripped || !full;
            return false;
        }
        tripped
    }

    /// An operator wants the partition to go on: the rule is off until the records are good again.
    pub(super) fn waive(&mut self) {
        *self = Self { waived: true, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: FloodLimits = FloodLimits { ratio_max: 0.5, records_min: 10, run_max: 20 };

    #[test]
    fn half_of_the_records_is_no_flood_and_more_is() {
        let mut flood = Flood::default();
        assert!(!(0..100).any(|n| flood.record(n % 2 == 0, &LIMITS)));
        assert!((0..3).any(|_| flood.record(true, &LIMITS)));
    }

    #[test]
    fn few_records_are_no_flood_however_bad() {
        let mut flood = Flood::default();
        assert!(!(0..9).any(|_| flood.record(true, &LIMITS)));
        assert!(flood.record(true, &LIMITS));
    }

    #[test]
    fn a_waived_rule_is_in_force_again_after_good_records() {
        let mut flood = Flood::default();
        flood.waive();
        assert!(!(0..100).any(|_| flood.record(true, &LIMITS)));
        assert!(!(0..10).any(|_| flood.record(false, &LIMITS)));
        assert!((0..7).any(|_| flood.record(true, &LIMITS)));
    }
}

//! What this process has stored, by day: so that a remembered answer knows whether it still holds.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use crate::event::Scope;

/// Scopes and days that are told apart at most; beyond it everything counts as changed.
const ENTRIES_MAX: usize = 200_000;

/// The days (since 1970) of a scope that events were stored for, each with the count of changes at the last time.
#[derive(Debug, Default)]
pub(super) struct Changes(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    count: u64,
    entries: usize,
    /// Changes up to here may have been to anything.
    floor: u64,
    days: HashMap<(String, String), BTreeMap<i64, u64>>,
}

impl Changes {
    /// Events of these days came.
    pub(super) fn note<'a>(&self, days: impl IntoIterator<Item = (&'a str, &'a str, i64)>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.count += 1;
        let count = inner.count;
        for (project, environment, day) in days {
            let of_scope = inner.days.entry((project.to_owned(), environment.to_owned())).or_default();
            if of_scope.insert(day, count).is_none() {
                inner.entries += 1;
            }
        }
        if inner.entries > ENTRIES_MAX {
            inner.days.clear();
            inner.entries = 0;
            inner.floor = count;
        }
    }

    /// How often something changed.
    pub(super) fn count(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    /// The count at the last change of this scope up to this day.
    pub(super) fn last(&self, scope: &Scope, last_day: i64) -> u64 {
        self.last_within(scope, (i64::MIN, last_day))
    }

    /// The count at the last change of this scope from one day to another.
    pub(super) fn last_within(&self, scope: &Scope, (first_day, last_day): (i64, i64)) -> u64 {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (scope.project.to_string(), scope.environment.to_string());
        let of_scope = inner.days.get(&key);
        let last = of_scope.and_then(|days| days.range(first_day..=last_day).map(|(_, count)| *count).max());
        last.unwrap_or(0).max(inner.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_of_its_scope_and_of_days_from_it_on() {
        let (changes, scope) = (Changes::default(), Scope::new("p", "e"));
        let before = changes.count();
        changes.note([("p", "e", 10), ("p", "other", 3)]);
        assert!(changes.last(&scope, 9) <= before);
        assert!(changes.last(&scope, 10) > before);
        assert!(changes.last_within(&scope, (11, 20)) <= before);
        assert!(changes.last_within(&scope, (10, 10)) > before);
        assert!(changes.last(&scope, i64::MAX) <= changes.count());
    }

    #[test]
    fn too_many_days_are_all_of_them() {
        let (changes, scope) = (Changes::default(), Scope::new("p", "e"));
        let before = changes.count();
        changes.note((0..=ENTRIES_MAX as i64).map(|day| ("x", "y", day)));
        assert!(changes.last(&scope, 0) > before);
    }
}

//! Bounds that were reached, for whoever tells operators of them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Remembered at most; more are told of when they are reached again.
const REMEMBERED_MAX: usize = 1000;

/// A bound that somebody met.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ReachedQuota {
    /// Whose bound; none: the installation's.
    pub project: Option<String>,
    pub setting: &'static str,
    pub max: u64,
}

/// Bounds that were reached and not told of yet. Clones are handles of the same.
#[derive(Clone, Debug, Default)]
pub struct Quotas(Arc<Mutex<BTreeSet<ReachedQuota>>>);

impl Quotas {
    /// Somebody met this bound.
    pub fn reached(&self, quota: ReachedQuota) {
        let mut reached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if reached.len() < REMEMBERED_MAX {
            reached.insert(quota);
        }
    }

    /// Those that were met since the last time, each once.
    pub fn take(&self) -> BTreeSet<ReachedQuota> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

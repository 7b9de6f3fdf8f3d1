//! Turns of each project, so that one project's questions leave room for those of the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use crate::event::ProjectId;

/// Projects that are remembered at most while they ask nothing.
const IDLE_MAX: usize = 1000;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Fair(Mutex<HashMap<ProjectId, Arc<Semaphore>>>);

impl Fair {
    /// The turns of this project, `max` at a time.
    pub(super) fn of(&self, project: &ProjectId, max: usize) -> Arc<Semaphore> {
        let mut projects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if projects.len() > IDLE_MAX {
            // A project that asks holds its turns a second time.
            projects.retain(|_, turns| Arc::strong_count(turns) > 1);
        }
        projects.entry(project.clone()).or_insert_with(|| Arc::new(Semaphore::new(max.max(1)))).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_has_turns_of_its_own() {
        let (fair, loud, quiet) = (Fair::default(), ProjectId::new("loud"), ProjectId::new("quiet"));
        let first = fair.of(&loud, 1).try_acquire_owned().unwrap();
        assert!(fair.of(&loud, 1).try_acquire_owned().is_err());
        assert!(fair.of(&quiet, 1).try_acquire_owned().is_ok());
        drop(first);
        assert!(fair.of(&loud, 1).try_acquire_owned().is_ok());
    }
}

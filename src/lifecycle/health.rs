//! The state of each component, with reason and since.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::quotas::Quotas;
use crate::event::{Clock, Timestamp};
use crate::telemetry::names;

/// How a component is doing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ComponentState {
    /// Does its work.
    Up,
    /// Does its work in part, or from what it remembers.
    Degraded,
    /// Not yet: it has not answered since the process began.
    Starting,
    /// Cannot do its work; the reason names the cure.
    Down,
}

/// One component as `/ready` shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ComponentStatus {
    pub name: String,
    pub state: ComponentState,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    pub since: Timestamp,
}

/// All components of this process.
#[derive(Clone)]
pub struct Health {
    clock: Arc<dyn Clock>,
    components: Arc<Mutex<BTreeMap<String, ComponentStatus>>>,
    quotas: Quotas,
}

impl Health {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, components: Arc::default(), quotas: Quotas::default() }
    }

    /// The handle of a component, which begins as [`ComponentState::Starting`]; the same name gives the same component.
    pub fn component(&self, name: &str) -> Component {
        self.lock().entry(name.to_owned()).or_insert_with(|| ComponentStatus {
            name: name.to_owned(),
            state: ComponentState::Starting,
            reason: String::new(),
            since: self.clock.now(),
        });
        Component { name: name.to_owned(), health: self.clone() }
    }

    /// Bounds that were reached.
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// Every component, by name.
    pub fn snapshot(&self) -> Vec<ComponentStatus> {
        self.lock().values().cloned().collect()
    }

    /// One component.
    pub fn get(&self, name: &str) -> Option<ComponentStatus> {
        self.lock().get(name).cloned()
    }

    fn set(&self, name: &str, state: ComponentState, reason: &str) {
        let mut components = self.lock();
        let Some(status) = components.get_mut(name) else { return };
        if status.state == state && status.reason == reason {
            return;
        }
        let changed = status.state != state;
        if changed {
            status.since = self.clock.now();
        }
        let previous = status.state;
        status.state = state;
        reason.clone_into(&mut status.reason);
        drop(components);
        names::COMPONENT_UP.gauge(&[("component", name)]).set(if state <= ComponentState::Degraded {
            1.0
        } else {
            0.0
        });
        if changed {
            match state {
                ComponentState::Up => tracing::info!(component = name, ?previous, "component is up"),
                _ => tracing::warn!(component = name, ?state, ?previous, error = reason, "component changed"),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ComponentStatus>> {
        self.components.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handle with which a component tells how it is doing.
#[derive(Clone)]
pub struct Component {
    name: String,
    health: Health,
}

impl Component {
    /// Does its work.
    pub fn up(&self) {
        self.health.set(&self.name, ComponentState::Up, "");
    }

    /// Does its work in part; `reason` says which part not, and the cure.
    pub fn degraded(&self, reason: &str) {
        self.health.set(&self.name, ComponentState::Degraded, reason);
    }

    /// Cannot do its work; `reason` says why, and the cure.
    pub fn down(&self, reason: &str) {
        self.health.set(&self.name, ComponentState::Down, reason);
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::ManualClock;

    #[test]
    fn since_moves_with_the_state_and_not_with_the_reason() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1000)));
        let health = Health::new(clock.clone());
        let store = health.component("store");
        clock.advance(Duration::from_secs(1));
        store.down("refused");
        clock.advance(Duration::from_secs(1));
        store.down("timed out");
        let status = health.get("store").unwrap();
        assert_eq!(status.since, Timestamp::from_millis(2000));
        assert_eq!(status.reason, "timed out");
        store.up();
        assert_eq!(health.get("store").unwrap().reason, "");
    }
}

//! Can this process's roles do their work? Decided from the state of the components each role needs.

use serde::Serialize;

use super::Role;
use crate::lifecycle::{ComponentState, ComponentStatus, Health};

/// Whether a role, or the process, can do its work.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    Ready,
    /// It can, in part or from what it remembers: still 200.
    Degraded,
    /// It cannot: 503.
    Unready,
}

/// The body of `/ready`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub status: Readiness,
    /// By role, in the order of [`Role::ALL`].
    pub roles: indexmap::IndexMap<&'static str, Readiness>,
    pub components: Vec<ComponentStatus>,
}

/// What `/ready` says for these roles.
pub(super) fn report(health: &Health, roles: &[Role]) -> Report {
    let components = health.snapshot();
    let roles: indexmap::IndexMap<_, _> =
        roles.iter().map(|role| (role.as_str(), of_role(*role, &components))).collect();
    let status = roles.values().copied().max().unwrap_or(Readiness::Ready);
    Report { status, roles, components }
}

/// A role is as ready as the worst of its components. The metadata database is the exception for roles that only
/// check keys: they go on from the cache (`auth.stale_key_ttl`), so its absence degrades them.
fn of_role(role: Role, components: &[ComponentStatus]) -> Readiness {
    role.components()
        .iter()
        .map(|name| {
            let state = components.iter().find(|status| status.name == *name).map(|status| status.state);
            match state {
                Some(ComponentState::Up) => Readiness::Ready,
                Some(ComponentState::Degraded) => Readiness::Degraded,
                Some(ComponentState::Down) if *name == "meta" && role != Role::Auth => Readiness::Degraded,
                // One that has not shown itself yet is not ready either.
                None | Some(ComponentState::Starting | ComponentState::Down) => Readiness::Unready,
            }
        })
        .max()
        .unwrap_or(Readiness::Ready)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::ManualClock;

    #[test]
    fn capture_needs_the_log_and_not_the_store() {
        let health = Health::new(Arc::new(ManualClock::default()));
        for name in ["eventlog", "topics", "capture", "meta"] {
            health.component(name).up();
        }
        health.component("store").down("refused");
        let report = report(&health, Role::ALL);
        assert_eq!(report.roles["capture"], Readiness::Ready);
        assert_eq!(report.roles["query"], Readiness::Unready);
        assert_eq!(report.status, Readiness::Unready);
    }

    #[test]
    fn a_lost_metadata_database_degrades_capture_and_stops_auth() {
        let health = Health::new(Arc::new(ManualClock::default()));
        for name in ["eventlog", "topics", "capture"] {
            health.component(name).up();
        }
        health.component("meta").down("locked");
        let report = report(&health, &[Role::Capture, Role::Auth]);
        assert_eq!(report.roles["capture"], Readiness::Degraded);
        assert_eq!(report.roles["auth"], Readiness::Unready);
    }
}

//! What operators are told of without asking: dead letters over a threshold, lag over a threshold, breakers that open
//! and close. Looked at every `webhook.watch_interval`, told as system events when it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::lag;
use super::pools::Pools;
use crate::config::Config;
use crate::event::{ProjectId, Scope, SystemEventKind, Timestamp};
use crate::lifecycle::{ComponentState, ComponentStatus, ReachedQuota};
use crate::notice::SystemEvent;
use crate::store::{Sql, StoreError};

/// A bound that is met over and over is told of once in this time.
const QUOTA_AGAIN: Duration = Duration::from_secs(600);

/// What was told, so that it is told once.
#[derive(Debug, Default)]
struct Told {
    /// Components that are down.
    down: BTreeSet<String>,
    /// Groups and topics that are behind.
    behind: BTreeSet<(String, String)>,
    /// Scopes with too many dead letters.
    dead: BTreeSet<Scope>,
    /// Bounds that were reached, and when that was told.
    quotas: BTreeMap<ReachedQuota, Timestamp>,
}

/// Watches for ever.
///
/// # Errors
/// None; what fails is looked at again.
pub(super) async fn run(config: Arc<Config>, pools: Pools) -> anyhow::Result<()> {
    let mut told = Told::default();
    loop {
        tokio::time::sleep(config.webhook.watch_interval).await;
        let mut events = told.breakers(&pools.health.snapshot());
        match lag::all(&*pools.log, &config).await {
            Ok(rows) => events.extend(told.lag(&rows, config.webhook.lag_max)),
            Err(error) => tracing::debug!(%error, "the lag cannot be looked at"),
        }
        match dead_letters(&pools).await {
            Ok(counts) => events.extend(told.dead_letters(counts, config.webhook.dead_letters_max)),
            Err(error) => tracing::debug!(%error, "dead letters cannot be counted"),
        }
        events.extend(told.quotas(pools.health.quotas().take(), pools.clock.now()));
        pools.told.tell(events).await;
    }
}

/// Open dead letters of each scope that has any.
async fn dead_letters(pools: &Pools) -> Result<Vec<(Scope, u64)>, StoreError> {
    let Some(store) = &pools.store else { return Ok(Vec::new()) };
    let sql = Sql::new(
        "SELECT project_id, environment_id, count() AS letters FROM events_dlq FINAL WHERE status = 'open' AND \
         project_id != '' GROUP BY project_id, environment_id",
    );
    let rows: Vec<(String, String, u64)> = store.select(sql).await?;
    Ok(rows
        .into_iter()
        .map(|(project, environment, count)| (Scope::new(project, environment), count))
        .collect())
}

impl Told {
    /// A component that is down has its breaker open, or something like it; one that is up again, closed.
    fn breakers(&mut self, components: &[ComponentStatus]) -> Vec<SystemEvent> {
        let mut events = Vec::new();
        for status in components {
            let changed = match status.state {
                ComponentState::Down => self.down.insert(status.name.clone()),
                ComponentState::Up => self.down.remove(&status.name),
                ComponentState::Degraded | ComponentState::Starting => false,
            };
            if changed {
                let payload = json!({
                    "component": status.name, "state": status.state, "reason": status.reason, "since": status.since,
                });
                events.push(SystemEvent::of_project(SystemEventKind::BreakerChanged, None, payload));
            }
        }
        events
    }

    fn lag(&mut self, rows: &[lag::PartitionLag], max: i64) -> Vec<SystemEvent> {
        let mut sums: BTreeMap<(String, String), i64> = BTreeMap::new();
        for row in rows {
            *sums.entry((row.group.clone(), row.topic.clone())).or_default() += row.lag;
        }
        let mut events = Vec::new();
        for (name, lag) in sums {
            // Well below before it is over, so that it does not flutter.
            let over = if lag > max {
                self.behind.insert(name.clone()).then_some(true)
            } else if lag <= max / 2 {
                self.behind.remove(&name).then_some(false)
            } else {
                None
            };
            if let Some(over) = over {
                let payload =
                    json!({ "group": name.0, "topic": name.1, "lag": lag, "threshold": max, "over": over });
                events.push(SystemEvent::of_project(SystemEventKind::LagOverThreshold, None, payload));
            }
        }
        events
    }

    fn quotas(&mut self, reached: BTreeSet<ReachedQuota>, now: Timestamp) -> Vec<SystemEvent> {
        self.quotas.retain(|_, at| now.since(*at) < QUOTA_AGAIN);
        let mut events = Vec::new();
        for quota in reached {
            if self.quotas.contains_key(&quota) {
                continue;
            }
            let project = quota.project.as_deref().map(ProjectId::new);
            let payload = json!({ "setting": quota.setting, "max": quota.max });
            events.push(SystemEvent::of_project(SystemEventKind::QuotaReached, project, payload));
            self.quotas.insert(quota, now);
        }
        events
    }

    fn dead_letters(&mut self, counts: Vec<(Scope, u64)>, max: u64) -> Vec<SystemEvent> {
        let still: BTreeSet<Scope> =
            counts.iter().filter(|(_, count)| *count > max / 2).map(|(scope, _)| scope.clone()).collect();
        self.dead.retain(|scope| still.contains(scope));
        let mut events = Vec::new();
        for (scope, count) in counts {
            if count > max && self.dead.insert(scope.clone()) {
                let payload = json!({ "open": count, "threshold": max });
                events.push(SystemEvent::of_scope(SystemEventKind::DeadLettersOverThreshold, scope, payload));
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(state: ComponentState) -> ComponentStatus {
        ComponentStatus { name: "store".to_owned(), state, reason: String::new(), since: Timestamp::EPOCH }
    }

    #[test]
    fn a_breaker_is_told_of_when_it_changes_and_not_in_between() {
        let mut told = Told::default();
        let mut look = |state| told.breakers(&[component(state)]).len();
        let states =
            [ComponentState::Starting, ComponentState::Up, ComponentState::Down, ComponentState::Down];
        assert_eq!(states.map(&mut look), [0, 0, 1, 0]);
        assert_eq!([ComponentState::Degraded, ComponentState::Up, ComponentState::Up].map(look), [0, 1, 0]);
    }

    #[test]
    fn lag_is_told_of_over_its_threshold_and_once_it_is_well_below() {
        let mut told = Told::default();
        let row = |lag| lag::PartitionLag {
            group: "g".to_owned(),
            topic: "t".to_owned(),
            partition: 0,
            committed: None,
            log_start: 0,
            end: lag,
            lag,
        };
        let mut look = |lag: i64| told.lag(&[row(lag), row(0)], 10).len();
        assert_eq!([10, 11, 20, 9, 11, 5, 5].map(&mut look), [0, 1, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn a_bound_that_is_met_over_and_over_is_told_of_now_and_then() {
        let mut told = Told::default();
        let quota = ReachedQuota { project: Some("p".to_owned()), setting: "auth.keys_max", max: 5 };
        let mut look =
            |millis| told.quotas(BTreeSet::from([quota.clone()]), Timestamp::from_millis(millis)).len();
        assert_eq!([0, 1, 599_999, 600_000].map(&mut look), [1, 0, 0, 1]);
    }

    #[test]
    fn dead_letters_are_told_of_once_an_excess() {
        let mut told = Told::default();
        let mut look = |count| told.dead_letters(vec![(Scope::new("p", "e"), count)], 4).len();
        assert_eq!([4, 5, 6, 3, 5, 1, 5].map(&mut look), [0, 1, 0, 0, 0, 0, 1]);
    }
}

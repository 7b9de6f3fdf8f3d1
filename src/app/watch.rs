//! What operators are told of without asking: dead letters over a threshold, lag over a threshold, breakers that open
//! and close. Looked at every `webhook.watch_interval`, told as system events when it changes. Lag and dead letters are the
//! whole installation's: what was told of them is kept in the metadata database, so that of several processes, and after a
//! restart, nobody tells it again. Breakers and bounds are each process's own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::lag;
use super::pools::Pools;
use crate::config::Config;
use crate::event::{ProjectId, Scope, SystemEventKind, Timestamp};
use crate::lifecycle::{ComponentState, ComponentStatus, ReachedQuota};
use crate::meta::MetaError;
use crate::notice::SystemEvent;
use crate::store::{Sql, StoreError};

/// A bound that is met over and over is told of once in this time.
const QUOTA_AGAIN: Duration = Duration::from_secs(600);

/// What was told, so that it is told once.
#[derive(Debug, Default)]
struct Told {
    /// Components that are down.
    down: BTreeSet<String>,
    /// Bounds that were reached, and when that was told.
    quotas: BTreeMap<ReachedQuota, Timestamp>,
}

/// A state of the whole installation that begins or ends.
#[derive(Debug)]
struct Change {
    name: String,
    begins: bool,
    /// What is told of that, if anything.
    event: Option<SystemEvent>,
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
        events.extend(told.quotas(pools.health.quotas().take(), pools.clock.now()));
        pools.told.tell(events).await;
        if let Err(error) = tell_changes(&config, &pools).await {
            tracing::debug!(%error, "what changed of the installation is told at the next look");
        }
    }
}

/// Lag and dead letters.
async fn tell_changes(config: &Config, pools: &Pools) -> Result<(), MetaError> {
    let known = pools.told.watched().await?;
    let mut changes = Vec::new();
    match lag::all(&*pools.log, config).await {
        Ok(rows) => changes.extend(lag_changes(&known, &rows, config.webhook.lag_max)),
        Err(error) => tracing::debug!(%error, "the lag cannot be looked at"),
    }
    match dead_letters(pools).await {
        Ok(Some(counts)) => {
            changes.extend(dead_letter_changes(&known, counts, config.webhook.dead_letters_max));
        }
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "dead letters cannot be counted"),
    }
    for Change { name, begins, event } in changes {
        pools.told.note_watched(&name, begins, event).await?;
    }
    Ok(())
}

/// Open dead letters of each scope that has any; none: this process has no store to ask.
async fn dead_letters(pools: &Pools) -> Result<Option<Vec<(Scope, u64)>>, StoreError> {
    let Some(store) = &pools.store else { return Ok(None) };
    let sql = Sql::new(
        "SELECT project_id, environment_id, count() AS letters FROM events_dlq FINAL WHERE status = 'open' AND \
         project_id != '' GROUP BY project_id, environment_id",
    );
    let rows: Vec<(String, String, u64)> = store.select(sql).await?;
    let counts =
        rows.into_iter().map(|(project, environment, count)| (Scope::new(project, environment), count));
    Ok(Some(counts.collect()))
}

const LAG: &str = "lag";
const DEAD_LETTERS: &str = "dead_letters";

/// The name of a watched state.
fn name(parts: [&str; 3]) -> String {
    json!(parts).to_string()
}

/// The known states of this kind.
fn known_of(kind: &str, known: &BTreeSet<String>) -> BTreeSet<String> {
    let is_of = |name: &&String| serde_json::from_str::<[String; 3]>(name).is_ok_and(|[of, ..]| of == kind);
    known.iter().filter(is_of).cloned().collect()
}

fn lag_changes(known: &BTreeSet<String>, rows: &[lag::PartitionLag], max: i64) -> Vec<Change> {
    let mut sums: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for row in rows {
        *sums.entry((&row.group, &row.topic)).or_default() += row.lag;
    }
    let mut changes = Vec::new();
    let mut gone = known_of(LAG, known);
    for ((group, topic), lag) in sums {
        let name = name([LAG, group, topic]);
        gone.remove(&name);
        // Well below before it is over, so that it does not flutter.
        let over = match known.contains(&name) {
            false if lag > max => true,
            true if lag <= max / 2 => false,
            _ => continue,
        };
        let payload = json!({ "group": group, "topic": topic, "lag": lag, "threshold": max, "over": over });
        let event = SystemEvent::of_project(SystemEventKind::LagOverThreshold, None, payload);
        changes.push(Change { name, begins: over, event: Some(event) });
    }
    // Of topics that are no more.
    changes.extend(gone.into_iter().map(|name| Change { name, begins: false, event: None }));
    changes
}

/// An excess is told of; that it is over is only noted.
fn dead_letter_changes(known: &BTreeSet<String>, counts: Vec<(Scope, u64)>, max: u64) -> Vec<Change> {
    let mut over = known_of(DEAD_LETTERS, known);
    let mut changes = Vec::new();
    for (scope, count) in counts {
        let name = name([DEAD_LETTERS, scope.project.as_str(), scope.environment.as_str()]);
        if count > max / 2 {
            over.remove(&name);
        }
        if count > max && !known.contains(&name) {
            let payload = json!({ "open": count, "threshold": max });
            let event = SystemEvent::of_scope(SystemEventKind::DeadLettersOverThreshold, scope, payload);
            changes.push(Change { name, begins: true, event: Some(event) });
        }
    }
    changes.extend(over.into_iter().map(|name| Change { name, begins: false, event: None }));
    changes
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

    fn quotas(&mut self, reached: BTreeSet<ReachedQuota>, now: Timestamp) -> Vec<SystemEvent> {
        self.quotas.retain(|_, at| now.since(*at) < QUOTA_AGAIN);
        let mut events = Vec::new();
        for quota in reached {
            if self.quotas.contains_key(&quota) {
                continue;
            }
            let project = quota.project.as_deref().map(ProjectId::new);
            let payload = json!({ "setting": quota.setting, "max": quota.max });
            let event = SystemEvent::of_project(SystemEventKind::QuotaReached, project, payload);
            // Several processes that meet it tell the same event.
            let turn = now.as_millis() / QUOTA_AGAIN.as_millis() as i64;
            events.push(event.once(format!("{turn}/{}", quota.setting)));
            self.quotas.insert(quota, now);
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

    /// Changes that are told of, of states that are known from then on.
    fn told(known: &mut BTreeSet<String>, changes: &[Change]) -> usize {
        for change in changes {
            let changed =
                if change.begins { known.insert(change.name.clone()) } else { known.remove(&change.name) };
            assert!(changed, "{change:?}");
        }
        changes.iter().filter(|change| change.event.is_some()).count()
    }

    #[test]
    fn lag_is_told_of_over_its_threshold_and_once_it_is_well_below() {
        let mut known = BTreeSet::new();
        let row = |lag| lag::PartitionLag {
            group: "g".to_owned(),
            topic: "t".to_owned(),
            partition: 0,
            committed: None,
            log_start: 0,
            end: lag,
            lag,
        };
        let mut look = |lag: i64| {
            let changes = lag_changes(&known, &[row(lag), row(0)], 10);
            told(&mut known, &changes)
        };
        assert_eq!([10, 11, 20, 9, 11, 5, 5, 11].map(&mut look), [0, 1, 0, 0, 0, 1, 0, 1]);
        let changes = lag_changes(&known, &[], 10);
        assert_eq!((told(&mut known, &changes), known.len()), (0, 0), "the topic is no more");
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
        // What else is known is left alone.
        let mut known = BTreeSet::from([name([LAG, "g", "t"])]);
        let mut look = |count| {
            let changes = dead_letter_changes(&known, vec![(Scope::new("p", "e"), count)], 4);
            told(&mut known, &changes)
        };
        assert_eq!([4, 5, 6, 3, 5, 1, 5].map(&mut look), [0, 1, 0, 0, 0, 0, 1]);
        let changes = dead_letter_changes(&known, Vec::new(), 4);
        assert_eq!((told(&mut known, &changes), known.len()), (0, 1), "all of them were seen to");
    }
}

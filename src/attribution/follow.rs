//! What changes results without an event of its own that comes along: people who are merged or split, and events that
//! are voided, amended, swept or reprocessed. The store is asked for them now and then; what is found is computed anew.
//! Finding the same twice changes nothing, so every process with the role may follow, and none has to remember how far.

use std::collections::BTreeSet;
use std::time::Duration;

use super::credit::{Affected, merged};
use super::recompute::Taken;
use super::rule::{Join, Rule};
use super::{Attribution, AttributionError};
use crate::event::{Scope, Timestamp};
use crate::store::Sql;
use crate::telemetry::names;

/// How far back the first look reaches: what changed while no process followed for longer wants a job.
const BACK: Duration = Duration::from_secs(86_400);
/// How far back later looks reach: what is dated by the beginning of its work may be stored a little later.
const AGAIN: Duration = Duration::from_secs(60);
/// Corrected events are looked for with every so manieth look for people: that reads a column of the table of events.
const CORRECTIONS_EVERY: u32 = 15;
/// Changes taken at once, and ids in one statement.
const CHANGES_MAX: usize = 5000;
const IDS_MAX: usize = 200;

/// How far one scope's people have been followed.
#[derive(Default)]
struct Followed {
    /// (scope, distinct id, version) of changes within [`AGAIN`] that were taken.
    people: BTreeSet<(u64, Scope, String)>,
}

impl Attribution {
    /// Follows for ever.
    ///
    /// # Errors
    /// None; what fails is tried again.
    pub async fn follow(self) -> anyhow::Result<()> {
        let mut followed = Followed::default();
        let mut people_since = self.now().minus(BACK);
        let mut events_since = people_since;
        for round in (0..CORRECTIONS_EVERY).cycle() {
            let began = self.now();
            match self.follow_people(people_since, &mut followed).await {
                Ok(()) => people_since = began.minus(AGAIN),
                Err(error) => tracing::warn!(%error, "attribution does not follow people: tried again"),
            }
            if round == 0 {
                match self.follow_corrections(events_since).await {
                    Ok(()) => events_since = began.minus(AGAIN),
                    Err(error) => {
                        tracing::warn!(%error, "attribution does not follow corrections: tried again");
                    }
                }
            }
            tokio::time::sleep(self.config.follow_interval).await;
        }
        Ok(())
    }

    async fn follow_people(&self, since: Timestamp, followed: &mut Followed) -> Result<(), AttributionError> {
        let floor = since.as_millis().max(0).unsigned_abs() * 1000;
        followed.people.retain(|(version, ..)| *version >= floor);
        for scope in self.rules.scopes().await?.iter() {
            let rules = self.rules.of(scope).await?;
            let of_people: Vec<&Rule> =
                rules.iter().filter(|rule| rule.definition.join == Join::DistinctId).collect();
            if of_people.is_empty() {
                continue;
            }
            let mut after = floor;
            loop {
                let changes = self.changes_of_people(scope, after).await?;
                let Some((_, last)) = changes.last() else { break };
                let more = changes.len() >= CHANGES_MAX && *last > after;
                after = *last;
                let fresh: Vec<(String, u64)> = changes
                    .into_iter()
                    .filter(|(id, version)| !followed.people.contains(&(*version, scope.clone(), id.clone())))
                    .collect();
                self.people_changed(scope, &of_people, &fresh).await?;
                followed.people.extend(fresh.into_iter().map(|(id, version)| (version, scope.clone(), id)));
                if !more {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Distinct ids of which it was said whose they are, at or after this moment of the store's, oldest first.
    async fn changes_of_people(
        &self,
        scope: &Scope,
        micros: u64,
    ) -> Result<Vec<(String, u64)>, AttributionError> {
        let sql = Sql::new("SELECT distinct_id, version FROM person_overrides FINAL WHERE project_id = ")
            .arg(scope.project.as_str())
            .push(" AND environment_id = ")
            .arg(scope.environment.as_str())
            .push(" AND version >= ")
            .arg(micros)
            .push(" ORDER BY version, distinct_id LIMIT ")
            .arg(CHANGES_MAX);
        Ok(self.store.select(sql).await?)
    }

    async fn people_changed(
        &self,
        scope: &Scope,
        rules: &[&Rule],
        ids: &[(String, u64)],
    ) -> Result<(), AttributionError> {
        if ids.is_empty() {
            return Ok(());
        }
        let (from, to) = (self.now().minus(self.config.merge_horizon), self.now().plus(BACK));
        for rule in rules {
            let affected = ids.iter().map(|(id, _)| Affected { key: id.clone(), from, to });
            let written = self.recompute(scope, rule, merged(affected), false).await?;
            names::ATTRIBUTION_ROWS.counter(&[]).increment(written.rows + written.removed);
        }
        Ok(())
    }

    async fn follow_corrections(&self, since: Timestamp) -> Result<(), AttributionError> {
        for scope in self.rules.scopes().await?.iter() {
            for rule in self.rules.of(scope).await?.iter() {
                let corrected = self.corrected(scope, rule, since).await?;
                for some in corrected.chunks(IDS_MAX) {
                    self.events_corrected(scope, rule, some).await?;
                }
            }
        }
        Ok(())
    }

    /// Events of a rule of which another than the first version was stored since then: id, name, distinct id, session,
    /// time.
    async fn corrected(
        &self,
        scope: &Scope,
        rule: &Rule,
        since: Timestamp,
    ) -> Result<Vec<(String, String, String, String, Timestamp)>, AttributionError> {
        let mut named: BTreeSet<&str> = rule.definition.sources.iter().map(String::as_str).collect();
        named.insert(&rule.definition.target);
        // Rows as they were inserted: what counts of them is read when it is computed anew.
        let sql = Sql::new(
            "SELECT event_id, CAST(event_name, 'String') AS event, distinct_id, session_id, timestamp FROM events WHERE \
             project_id = ",
        )
        .arg(scope.project.as_str())
        .push(" AND environment_id = ")
        .arg(scope.environment.as_str())
        .push(" AND event_name IN ")
        .list(named)
        .push(" AND (version > 0 OR is_deleted = 1) AND ingested_at >= ")
        .arg(since)
        .push(" ORDER BY ingested_at LIMIT ")
        .arg(CHANGES_MAX);
        Ok(self.store.select(sql).await?)
    }

    async fn events_corrected(
        &self,
        scope: &Scope,
        rule: &Rule,
        events: &[(String, String, String, String, Timestamp)],
    ) -> Result<(), AttributionError> {
        let ids: BTreeSet<&str> = events.iter().map(|(id, ..)| id.as_str()).collect();
        let ids: Vec<&str> = ids.into_iter().collect();
        // What hung on them as they were …
        let sql =
            Sql::new("SELECT join_key, target_at FROM attributed_conversions FINAL WHERE project_id = ")
                .arg(scope.project.as_str())
                .push(" AND environment_id = ")
                .arg(scope.environment.as_str())
                .push(" AND rule_id = ")
                .arg(&rule.id)
                .push(" AND (target_event_id IN ")
                .list(&ids)
                .push(" OR hasAny(source_ids, ")
                .arg(&ids)
                .push("))");
        let hung: Vec<(String, Timestamp)> = self.store.select(sql).await?;
        let before = hung.into_iter().map(|(key, at)| Affected { key, from: at, to: at });
        // … and what hangs on them as they are.
        let taken: Vec<Taken<'_>> = events
            .iter()
            .map(|(event_id, event, distinct_id, session_id, at)| Taken {
                event_id,
                event,
                distinct_id,
                session_id,
                at: *at,
            })
            .collect();
        let taken: Vec<&Taken<'_>> = taken.iter().collect();
        let after = self.changed(scope, rule, &taken).await?;
        let written = self.recompute(scope, rule, merged(before.chain(after)), true).await?;
        names::ATTRIBUTION_ROWS.counter(&[]).increment(written.rows + written.removed);
        Ok(())
    }
}

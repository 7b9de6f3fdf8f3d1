//! Taking partitions over and giving them up: assignment, scan, rebuild of the id window, revocation, loss, stop.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::flood::Flood;
use super::gathered::Gathered;
use super::protocol::OffsetSet;
use super::{
    Core, Dependency, Effect, FetchPosition, Notice, Partition, Phase, Rebuild, RebuildId, RunningRebuild,
    ScanId, StoredId,
};
use crate::eventlog::{AssignedPartition, Generation, TopicPartition};

impl<P> Core<P> {
    pub(super) fn on_assigned(&mut self, generation: Generation, partitions: Vec<AssignedPartition>) {
        self.generation = generation;
        for assigned in partitions {
            let name = assigned.topic_partition;
            self.lose(std::slice::from_ref(&name), "assigned again");
            let tenure = self.next_number();
            let start = assigned.committed.unwrap_or(0);
            self.window.begin(&name, self.now.wall);
            // Nothing older than the first offset can be stored under this incarnation of the topic.
            let remembers = self.window.is_enabled() && start > 0;
            let partition = Partition {
                topic_id: assigned.topic_id,
                tenure,
                lane: self.emptiest_lane(),
                phase: Phase::Unscanned,
                committed: assigned.committed,
                assigned_at: start,
                start,
                next: start,
                gathered: Gathered::default(),
                at_end: false,
                stored: OffsetSet::default(),
                acked_letters: Default::default(),
                flood: Flood::default(),
                standing: None,
                failures: 0,
                expired: None,
                rebuild: if remembers { Rebuild::Wanted } else { Rebuild::Done },
                revoking: self.stopping.then_some(self.now.mono),
            };
            if !remembers {
                self.window.rebuilt(&name, self.now.wall.minus(self.settings.dedupe_window));
            }
            self.partitions.insert(name, partition);
        }
    }

    fn emptiest_lane(&self) -> usize {
        let load = |lane: usize| self.partitions.values().filter(|p| p.lane == lane).count();
        (0..self.lanes.len()).min_by_key(|lane| load(*lane)).unwrap_or(0)
    }

    pub(super) fn on_revoking(&mut self, partitions: &[TopicPartition]) {
        let until = self.now.mono + self.settings.release_timeout;
        // The group waits for these, too: they were lost with their topic, say, before it asked for them.
        let gone: Vec<_> =
            partitions.iter().filter(|name| !self.partitions.contains_key(*name)).cloned().collect();
        if !gone.is_empty() && !self.stopping {
            self.effects.push(Effect::Release { partitions: gone });
        }
        for name in partitions {
            if let Some(partition) = self.partitions.get_mut(name) {
                partition.revoking.get_or_insert(until);
                partition.rewind(partition.start);
            }
        }
    }

    /// Partitions are not ours any more: nothing is committed for them from here on.
    pub(super) fn lose(&mut self, partitions: &[TopicPartition], reason: &'static str) {
        for name in partitions {
            self.drop_parts(name, reason);
            self.remove(name);
        }
    }

    fn remove(&mut self, name: &TopicPartition) {
        let Some(partition) = self.partitions.remove(name) else { return };
        self.window.forget(name);
        self.tell(Notice::Gone { topic_partition: name.clone() });
        if partition.standing.is_some() {
            self.goes_on(name);
        }
    }

    pub(super) fn on_topic_missing(&mut self, topic: Arc<str>) {
        let gone: Vec<_> = self.partitions.keys().filter(|name| name.topic == topic).cloned().collect();
        self.lose(&gone, "topic missing");
        if self.missing_topics.insert(topic.clone()) {
            self.tell(Notice::TopicMissing { topic, missing: true });
        }
    }

    pub(super) fn on_topic_back(&mut self, topic: &Arc<str>) {
        if self.missing_topics.remove(topic) {
            self.tell(Notice::TopicMissing { topic: topic.clone(), missing: false });
        }
    }

    /// Another member owns what this one thought its own: everything is dropped, and it joins again.
    pub(super) fn rejoin(&mut self) {
        let all: Vec<_> = self.partitions.keys().cloned().collect();
        self.lose(&all, "fenced");
        if !self.stopping {
            self.effects.push(Effect::Rejoin);
        }
    }

    pub(super) fn on_stop(&mut self) {
        self.stopping = true;
        let all: Vec<_> = self.partitions.keys().cloned().collect();
        self.on_revoking(&all);
    }

    pub(super) fn leave(&mut self) {
        if self.stopping && self.lanes.iter().all(|lane| lane.flight.is_none()) {
            self.left = true;
            self.partitions.clear();
            self.effects.push(Effect::Leave);
        }
    }

    /// Drops what is still in flight for partitions whose time to give them up has come.
    pub(super) fn drop_overdue(&mut self) {
        let now = self.now.mono;
        let overdue: Vec<_> = self
            .partitions
            .iter()
            .filter(|(_, p)| p.revoking.is_some_and(|until| until <= now))
            .map(|(name, _)| name.clone())
            .collect();
        for name in overdue {
            self.drop_parts(&name, "revoked");
        }
    }

    pub(super) fn release_revoked(&mut self) {
        if self.stopping {
            return;
        }
        let free: Vec<_> = self
            .partitions
            .iter()
            .filter(|(name, p)| p.revoking.is_some() && !self.in_flight(name, p.tenure))
            .map(|(name, _)| name.clone())
            .collect();
        if free.is_empty() {
            return;
        }
        for name in &free {
            self.remove(name);
        }
        self.effects.push(Effect::Release { partitions: free });
    }

    /// Asks the store, once for all partitions that are new, what is there already.
    pub(super) fn scan(&mut self) {
        let wanted = |p: &Partition<P>| p.phase == Phase::Unscanned && p.revoking.is_none();
        if !self.partitions.values().any(wanted) {
            return;
        }
        #[cfg(test)]
        if self.settings.without.scan {
            for partition in self.partitions.values_mut().filter(|p| wanted(p)) {
                partition.phase = Phase::Ready;
            }
            return;
        }
        if !self.may_try(Dependency::Store) {
            return;
        }
        let scan = ScanId(self.next_number());
        let mut from = Vec::new();
        let mut asked = Vec::new();
        for (name, partition) in self.partitions.iter_mut().filter(|(_, p)| wanted(p)) {
            partition.phase = Phase::Scanning(scan);
            asked.push((name.clone(), partition.tenure));
            from.push(FetchPosition {
                topic_partition: name.clone(),
                topic_id: partition.topic_id,
                offset: partition.start,
            });
        }
        self.scans.insert(scan, asked);
        self.effects.push(Effect::Scan { scan, from });
    }

    pub(super) fn on_scanned(
        &mut self,
        scan: ScanId,
        stored: Result<BTreeMap<TopicPartition, Vec<i64>>, String>,
    ) {
        let asked = self.scans.remove(&scan).unwrap_or_default();
        let found = match stored {
            Ok(found) => {
                self.succeeded(Dependency::Store);
                Some(found)
            }
            Err(reason) => {
                self.failed(Dependency::Store, reason);
                None
            }
        };
        for (name, tenure) in asked {
            let Some(partition) = self.partitions.get_mut(&name) else { continue };
            if partition.tenure != tenure || partition.phase != Phase::Scanning(scan) {
                continue;
            }
            partition.phase = match &found {
                None => Phase::Unscanned,
                Some(found) => {
                    partition.stored = OffsetSet::new(found.get(&name).map_or(&[], Vec::as_slice));
                    Phase::Ready
                }
            };
        }
    }

    /// Rebuilds the id windows of partitions that are new, while work goes on. Until that is done a resend with
    /// another sort key may pass; a sweep of what was stored meanwhile finds it when the rebuild ends.
    pub(super) fn start_rebuild(&mut self) {
        if self.rebuild.is_some() || self.stopping || self.now.mono < self.rebuild_after {
            return;
        }
        let wanted = |p: &Partition<P>| p.rebuild == Rebuild::Wanted && p.is_readable();
        if !self.partitions.values().any(wanted) {
            return;
        }
        let id = RebuildId(self.next_number());
        let since = self.now.wall.minus(self.settings.dedupe_window);
        let mut tenures = BTreeMap::new();
        let mut partitions = Vec::new();
        for (name, partition) in self.partitions.iter_mut().filter(|(_, p)| wanted(p)) {
            partition.rebuild = Rebuild::Running(id);
            tenures.insert(name.clone(), partition.tenure);
            partitions.push((name.clone(), partition.topic_id));
        }
        self.rebuild = Some(RunningRebuild { id, stored_since: None, tenures, since });
        let limit = self.window.ids_max().saturating_sub(self.window.ids());
        self.effects.push(Effect::Rebuild { rebuild: id, partitions, since, limit });
    }

    /// Ids from offsets that this assignment has still to read are left out: they enter when reading passes them.
    pub(super) fn on_rebuilding(&mut self, rebuild: RebuildId, ids: &[StoredId]) {
        let Some(running) = self.rebuild.as_ref().filter(|running| running.id == rebuild) else { return };
        let mut full = false;
        for stored in ids {
            let owned = self.partitions.get(&stored.topic_partition).is_some_and(|p| {
                running.tenures.get(&stored.topic_partition) == Some(&p.tenure)
                    && stored.offset < p.assigned_at
            });
            if owned && !self.window.insert_older(&stored.topic_partition, stored.id, stored.received_at) {
                full = true;
                break;
            }
        }
        if full {
            self.end_rebuild(None);
            self.effects.push(Effect::CancelRebuild { rebuild });
        }
    }

    pub(super) fn on_rebuilt(&mut self, rebuild: RebuildId, outcome: &Result<(), String>) {
        let Some(running) = self.rebuild.as_ref().filter(|running| running.id == rebuild) else { return };
        let since = running.since;
        match outcome {
            Ok(()) => {
                self.rebuild_failures = 0;
                self.end_rebuild(Some(since));
            }
            Err(_) => {
                self.rebuild_failures = self.rebuild_failures.saturating_add(1);
                self.rebuild_after = self.backoff(self.rebuild_failures);
                if let Some(running) = self.rebuild.take() {
                    self.ask_for_sweep(&running);
                }
                for partition in self.partitions.values_mut() {
                    if partition.rebuild == Rebuild::Running(rebuild) {
                        partition.rebuild = Rebuild::Wanted;
                    }
                }
            }
        }
    }

    /// Ends the running rebuild; without `complete_since`, memory was full before its end.
    fn end_rebuild(&mut self, complete_since: Option<crate::event::Timestamp>) {
        let Some(running) = self.rebuild.take() else { return };
        self.ask_for_sweep(&running);
        for (name, tenure) in &running.tenures {
            let Some(partition) = self.partitions.get_mut(name).filter(|p| p.tenure == *tenure) else {
                continue;
            };
            partition.rebuild = Rebuild::Done;
            if let Some(since) = complete_since {
                self.window.rebuilt(name, since);
            }
        }
    }

    /// What was stored while a rebuild ran may have a twin among the ids that it had yet to read.
    fn ask_for_sweep(&mut self, running: &RunningRebuild) {
        if let Some(stored_since) = running.stored_since {
            self.effects.push(Effect::Tell(Notice::Uncompared { stored_since }));
        }
    }

    pub(super) fn on_resume(&mut self, name: &TopicPartition) {
        let Some(partition) = self.partitions.get_mut(name).filter(|p| p.phase == Phase::Stopped) else {
            return;
        };
        partition.phase = Phase::Ready;
        partition.flood.waive();
        self.goes_on(name);
    }

    /// Partitions whose wait is over read on.
    pub(super) fn wake_waiting(&mut self) {
        let now = self.now.mono;
        for partition in self.partitions.values_mut() {
            if matches!(partition.phase, Phase::Waiting(until) if until <= now) {
                partition.phase = Phase::Ready;
            }
        }
    }
}

//! Reading ahead and cutting batches: fetch, gather, seal.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::Duration;

use super::flight::{Fate, Flight, PartState};
use super::window::Hashed;
use super::{
    Batch, BatchId, Cause, Core, Dependency, Effect, FetchId, FetchPosition, FetchedPart, Fetching, Item,
    Notice, Part, Phase, Verdict,
};
use crate::eventlog::{PartitionOffsets, TopicPartition};

/// Most bytes one fetch brings; a batch is gathered from several.
const FETCH_BYTES_MAX: usize = 4 << 20;

impl<P> Core<P> {
    fn lane_partitions(&self, lane: usize) -> Vec<TopicPartition> {
        let of_lane = self.partitions.iter().filter(|(_, p)| p.lane == lane && p.is_readable());
        of_lane.map(|(name, _)| name.clone()).collect()
    }

    /// Records and bytes gathered in a lane, and whether there is anything to commit.
    fn gathered(&self, lane: usize) -> (usize, usize, bool) {
        self.partitions.values().filter(|p| p.lane == lane && p.is_readable()).fold(
            (0, 0, false),
            |(rows, bytes, any), p| {
                (rows + p.gathered.len(), bytes + p.gathered.bytes(), any || p.next > p.start)
            },
        )
    }

    /// Fetches for a lane, also while its batch is in flight: one batch is gathered ahead.
    pub(super) fn fetch(&mut self, lane: usize) {
        let (rows, bytes, _) = self.gathered(lane);
        let full = rows >= self.settings.rows_max || bytes >= self.settings.bytes_max;
        if self.stopping || full || self.lanes[lane].fetching.is_some() {
            return;
        }
        let names = self.lane_partitions(lane);
        if names.is_empty() || !self.may_try(Dependency::EventLog) {
            return;
        }
        let fetch = FetchId(self.next_number());
        let (mut positions, mut from) = (Vec::new(), Vec::new());
        for name in names {
            let partition = &self.partitions[&name];
            let position = FetchPosition {
                topic_partition: name.clone(),
                topic_id: partition.topic_id,
                offset: partition.next,
            };
            positions.push(position);
            from.push((name, partition.tenure, partition.next));
        }
        let turn = self.lanes[lane].turn % positions.len();
        positions.rotate_left(turn);
        self.lanes[lane].fetching = Some(Fetching { fetch, from });
        self.effects.push(Effect::Fetch {
            lane,
            fetch,
            from: positions,
            wait_max: self.settings.fetch_wait_max,
            bytes_max: FETCH_BYTES_MAX.min(self.settings.bytes_max - bytes).max(1),
        });
    }

    pub(super) fn on_fetch_failed(&mut self, lane: usize, fetch: FetchId, reason: String) {
        self.lanes[lane].fetching.take_if(|fetching| fetching.fetch == fetch);
        self.failed(Dependency::EventLog, reason);
    }

    pub(super) fn on_fetched(
        &mut self,
        lane: usize,
        fetch: FetchId,
        parts: Vec<(TopicPartition, FetchedPart<P>)>,
    ) {
        self.succeeded(Dependency::EventLog);
        let Some(fetching) = self.lanes[lane].fetching.take_if(|fetching| fetching.fetch == fetch) else {
            return;
        };
        let current = |core: &Self, name: &TopicPartition| {
            let asked = fetching.from.iter().find(|(asked, ..)| asked == name);
            let partition = core.partitions.get(name).filter(|p| p.is_readable());
            matches!((asked, partition), (Some((_, tenure, offset)), Some(p)) if p.tenure == *tenure && p.next == *offset)
        };
        // Partitions that the answer leaves out had nothing new.
        for (name, ..) in &fetching.from {
            if current(self, name)
                && let Some(partition) = self.partitions.get_mut(name)
            {
                partition.at_end = true;
            }
        }
        for (name, part) in parts {
            if current(self, &name) {
                self.take_fetched(&name, part);
            }
        }
        let (_, _, any) = self.gathered(lane);
        if any {
            self.lanes[lane].gathering_since.get_or_insert(self.now.mono);
        }
    }

    fn take_fetched(&mut self, name: &TopicPartition, part: FetchedPart<P>) {
        let Some(partition) = self.partitions.get_mut(name) else { return };
        match part {
            FetchedPart::Records { items, next_offset, offsets } => {
                partition.gathered.push(items);
                partition.next = partition.next.max(next_offset);
                partition.at_end = partition.next >= offsets.end;
                let committed = partition.committed.unwrap_or(offsets.log_start);
                let cleared = partition.standing.take_if(|cause| *cause == Cause::Fetch).is_some();
                self.tell(Notice::Ends { topic_partition: name.clone(), end: offsets.end, committed });
                if cleared {
                    self.goes_on(name);
                }
            }
            FetchedPart::OutOfRange(offsets) => self.out_of_range(name, offsets),
            FetchedPart::UnknownTopic => {
                self.stand_still(
                    name,
                    Cause::Fetch,
                    format!("topic {} is missing or was made again", name.topic),
                );
            }
            FetchedPart::Corrupt { offset } => {
                self.stand_still(
                    name,
                    Cause::Fetch,
                    format!("the record at offset {offset} fails its checksum"),
                );
            }
        }
    }

    /// Retention passed this partition (or the log was cut short): what is gone is counted, and reading goes on at
    /// the nearest offset there is. Without a committed offset nothing was owed.
    fn out_of_range(&mut self, name: &TopicPartition, offsets: PartitionOffsets) {
        let Some(partition) = self.partitions.get_mut(name) else { return };
        let from = partition.next;
        let counted = partition.expired.unwrap_or((from, from));
        let to = if from < offsets.log_start { offsets.log_start } else { offsets.end };
        let known = partition.committed.is_some() || from > 0;
        if partition.gathered.is_empty() && partition.start == from {
            partition.rewind(to);
        } else {
            partition.next = to;
        }
        if !known || to <= from {
            return;
        }
        partition.expired = Some((counted.0.min(from), counted.1.max(to)));
        // A range that was dropped and read again may meet a gap that was counted before.
        for (from, to) in [(from, to.min(counted.0)), (from.max(counted.1), to)] {
            if from < to {
                self.tell(Notice::Expired { topic_partition: name.clone(), from, to });
            }
        }
    }

    /// Lets a partition wait and says why.
    pub(super) fn stand_still(&mut self, name: &TopicPartition, cause: Cause, reason: String) {
        let Some(partition) = self.partitions.get_mut(name) else { return };
        partition.standing = Some(cause);
        partition.failures = partition.failures.saturating_add(1);
        let failures = partition.failures;
        let until = self.backoff(failures);
        if let Some(partition) = self.partitions.get_mut(name) {
            partition.phase = Phase::Waiting(until);
        }
        self.tell(Notice::Standstill { topic_partition: name.clone(), stopped: false, reason: Some(reason) });
    }

    /// A partition that stood still does so no more.
    pub(super) fn goes_on(&mut self, name: &TopicPartition) {
        if let Some(partition) = self.partitions.get_mut(name) {
            partition.standing = None;
            partition.failures = 0;
        }
        self.tell(Notice::Standstill { topic_partition: name.clone(), stopped: false, reason: None });
    }

    /// When the lane's gathered records are flushed, if nothing makes it sooner.
    fn cut_at(&self, lane: usize) -> Option<Duration> {
        let (rows, bytes, any) = self.gathered(lane);
        if !any {
            return None;
        }
        let now = self.now.mono;
        if rows >= self.settings.rows_max || bytes >= self.settings.bytes_max {
            return Some(now);
        }
        let since = self.lanes[lane].gathering_since.unwrap_or(now);
        let by_age = since + self.settings.age_max;
        let readable =
            |lane: usize| self.partitions.values().filter(move |p| p.lane == lane && p.is_readable());
        if !readable(lane).all(|p| p.at_end) {
            return Some(by_age);
        }
        let idle = self.lanes[lane].flushed.map_or(now, |flushed| flushed + self.settings.idle_after);
        Some(idle.min(by_age))
    }

    pub(super) fn lane_deadline(&self, lane: usize) -> Option<Duration> {
        match &self.lanes[lane].flight {
            Some(flight) => flight.wait_until,
            None => self.cut_at(lane),
        }
    }

    /// Cuts a batch when the lane has none in flight and enough, old enough, or the last of it.
    pub(super) fn seal(&mut self, lane: usize) {
        if self.stopping
            || self.lanes[lane].flight.is_some()
            || self.cut_at(lane).is_none_or(|at| at > self.now.mono)
        {
            return;
        }
        let mut names = self.lane_partitions(lane);
        let turn = self.lanes[lane].turn % names.len().max(1);
        names.rotate_left(turn);
        self.lanes[lane].turn = turn + 1;
        let (mut rows, mut bytes) = (self.settings.rows_max.max(1), self.settings.bytes_max.max(1));
        let (mut parts, mut states) = (Vec::new(), Vec::new());
        for name in names {
            if rows == 0 || bytes == 0 {
                break;
            }
            let Some((part, taken)) = self.cut_part(&name, rows, bytes) else { continue };
            rows -= part.items.len();
            bytes = bytes.saturating_sub(taken);
            if let Some(state) = self.judge(&part) {
                self.tell(Notice::Taken { topic_partition: name, records: part.items.len() as u64 });
                parts.push(part);
                states.push(state);
            }
        }
        let (left_over, ..) = self.gathered(lane);
        let since = self.lanes[lane].gathering_since.take();
        if left_over > 0 {
            self.lanes[lane].gathering_since = since;
        }
        self.lanes[lane].flushed = Some(self.now.mono);
        if parts.is_empty() {
            return;
        }
        let batch = Arc::new(Batch { id: BatchId(self.next_number()), parts });
        self.lanes[lane].flight =
            Some(Flight::new(batch, states, since.unwrap_or(self.now.mono), self.now.mono));
    }

    /// Takes the next contiguous range of a partition, at least one record if there is one. Its bytes come with it.
    fn cut_part(&mut self, name: &TopicPartition, rows: usize, bytes: usize) -> Option<(Part<P>, usize)> {
        let partition = self.partitions.get_mut(name).filter(|p| p.next > p.start)?;
        let (items, taken) = partition.gathered.take(rows, bytes);
        // Up to the next record that stays behind, or to all that was examined: gaps belong to the range before them.
        let end = partition.gathered.first().unwrap_or(partition.next);
        let start = std::mem::replace(&mut partition.start, end);
        let part = Part { topic_partition: name.clone(), topic_id: partition.topic_id, start, end, items };
        Some((part, taken))
    }

    /// Decides every record's fate as far as it is known before the insert. None: it is a flood; the partition stops
    /// where this range began, and nothing of the range goes anywhere.
    fn judge(&mut self, part: &Part<P>) -> Option<PartState> {
        let partition = self.partitions.get_mut(&part.topic_partition)?;
        let flood_before = partition.flood.clone();
        let mut here =
            HashSet::with_capacity_and_hasher(part.items.len(), BuildHasherDefault::<Hashed>::default());
        let mut flood = false;
        let mut fates = Vec::with_capacity(part.items.len());
        partition.stored.forget_before(part.start);
        for item in &part.items {
            let fate = match item.verdict {
                Verdict::Refused(kind) => {
                    Fate::Dead { kind, acked: partition.acked_letters.contains(&item.offset) }
                }
                Verdict::Row { id, remember, .. } if partition.stored.contains(item.offset) => {
                    if remember {
                        here.insert(id);
                    }
                    Fate::AlreadyStored
                }
                #[cfg(test)]
                Verdict::Row { .. } if self.settings.without.id_window => Fate::Row,
                Verdict::Row { id, remember: true, .. } => {
                    if self.window.contains(&part.topic_partition, id) || !here.insert(id) {
                        Fate::Duplicate
                    } else {
                        Fate::Row
                    }
                }
                Verdict::Row { .. } => Fate::Row,
            };
            flood |= partition.flood.record(matches!(fate, Fate::Dead { .. }), &self.settings.flood);
            fates.push(fate);
        }
        if flood {
            partition.flood = flood_before;
            partition.rewind(part.start);
            self.stop_for_flood(&part.topic_partition);
            return None;
        }
        Some(PartState { tenure: partition.tenure, live: true, fates, flood_before })
    }

    pub(super) fn stop_for_flood(&mut self, name: &TopicPartition) {
        let Some(partition) = self.partitions.get_mut(name) else { return };
        partition.phase = Phase::Stopped;
        partition.standing = Some(Cause::Flood);
        let reason = format!(
            "stopped at offset {}: more than {} of the last {} records, or {} in a row, were refused; \
             `flexflow consumer resume --topic {} --partition {}` lets it go on",
            partition.start,
            self.settings.flood.ratio_max,
            self.settings.flood.records_min,
            self.settings.flood.run_max,
            name.topic,
            name.partition,
        );
        self.tell(Notice::Standstill { topic_partition: name.clone(), stopped: true, reason: Some(reason) });
    }
}

impl<P> Item<P> {
    /// The id to remember once the row is stored.
    pub(super) fn remembered(&self) -> Option<(super::IdHash, crate::event::Timestamp)> {
        match self.verdict {
            Verdict::Row { id, remember: true, received_at } => Some((id, received_at)),
            _ => None,
        }
    }
}

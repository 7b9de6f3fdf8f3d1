//! The schedule: what happens next, and what goes wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use super::broker::{GroupNews, LogRecord};
use super::process::Request;
use super::warehouse::{Insert, Row};
use super::*;
use crate::event::{ErrorKind, Timestamp};
use crate::eventlog::PartitionOffsets;

/// Something that is still on its way although nobody waits for it.
pub(super) enum Late {
    Insert { token: String, rows: Vec<Row> },
    Commit { member: usize, generation: i64, offsets: BTreeMap<TopicPartition, i64> },
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) mutation: Mutation,
    pub(super) broker: Broker,
    pub(super) store: Warehouse,
    pub(super) processes: Vec<Process>,
    pub(super) late: Vec<Late>,
    pub(super) now: Now,
    pub(super) mapper: u32,
    members: usize,
    pub(super) next_id: u32,
    flood: FloodLimits,
    lanes: usize,
    quiet: bool,
}

impl World {
    pub(super) fn new(seed: u64, mutation: Mutation) -> Self {
        let mut rng = Rng(seed);
        let small = FloodLimits { ratio_max: 0.5, records_min: 8, run_max: 12 };
        let large = FloodLimits { ratio_max: 0.9, records_min: 10_000, run_max: 10_000 };
        let flood = if rng.percent(20) { small } else { large };
        let partitions = 1 + rng.below(3);
        let mut world = Self {
            lanes: 1 + rng.below(2),
            broker: Broker::new(partitions),
            store: Warehouse::default(),
            processes: Vec::new(),
            late: Vec::new(),
            now: Now { mono: Duration::ZERO, wall: Timestamp::from_millis(1_700_000_000_000) },
            mapper: 1,
            members: 0,
            next_id: 0,
            flood,
            quiet: false,
            rng,
            mutation,
        };
        for _ in 0..1 + world.rng.below(3) {
            let process = world.start();
            world.processes.push(process);
        }
        world
    }

    pub(super) fn start(&mut self) -> Process {
        let settings = Settings {
            namespace: "live",
            table: "events".into(),
            mapper_version: self.mapper,
            lanes: self.lanes,
            rows_max: 6,
            bytes_max: 1000,
            age_max: Duration::from_millis(500),
            idle_after: Duration::from_millis(125),
            fetch_wait_max: Duration::from_millis(500),
            breaker_failures: 1,
            backoff_min: Duration::from_millis(250),
            backoff_max: Duration::from_secs(30),
            flood: self.flood,
            dedupe_window: Duration::from_secs(24 * 3600),
            dedupe_memory_max: 1 << 20,
            release_timeout: Duration::from_secs(5),
            probe_interval: Duration::from_secs(30),
            seed: self.rng.next(),
            without: self.mutation.core,
        };
        Process::new(settings, self.now)
    }

    /// Work and faults for a while.
    pub(super) fn live(&mut self) -> Result<(), String> {
        for _ in 0..150 + self.rng.below(150) {
            match self.rng.below(100) {
                0..12 => self.produce(),
                12..45 => self.deliver()?,
                45..80 => self.perform()?,
                80..90 => self.pass_time()?,
                _ => self.fault()?,
            }
        }
        Ok(())
    }

    /// Everything heals; the work must come to its end.
    pub(super) fn come_to_rest(&mut self) -> Result<(), String> {
        self.quiet = true;
        self.store.down = false;
        self.broker.down = false;
        self.broker.letters_down = false;
        for process in &mut self.processes {
            process.asleep = false;
        }
        self.expel_dead();
        for _ in 0..3000 {
            while self.has_work() {
                self.perform()?;
                self.deliver()?;
                self.land()?;
            }
            self.complete_rebalance();
            self.resume();
            let done = self.broker.partitions.iter().all(|partition| {
                let end = partition.records.len() as i64;
                partition.committed.unwrap_or(partition.log_start) >= end
            });
            if done && self.late.is_empty() {
                return Ok(());
            }
            self.pass_time()?;
            self.end_long_polls();
        }
        Err(format!(
            "it does not come to rest: {:?}",
            self.processes.iter().map(|p| &p.core.partitions).collect::<Vec<_>>()
        ))
    }

    /// Fetches that found nothing come back empty.
    fn end_long_polls(&mut self) {
        for number in 0..self.processes.len() {
            for request in std::mem::take(&mut self.processes[number].requests) {
                match request {
                    Request::Fetch { lane, fetch, from } => self.fetch(number, lane, fetch, &from),
                    other => self.processes[number].requests.push(other),
                }
            }
        }
    }

    fn has_work(&self) -> bool {
        !self.late.is_empty()
            || self.processes.iter().any(|process| {
                // A long poll that finds nothing is no work.
                !process.inbox.is_empty() || process.requests.iter().any(|request| self.is_due(request))
            })
    }

    fn is_due(&self, request: &Request) -> bool {
        let Request::Fetch { from, .. } = request else { return true };
        from.iter().any(|position| {
            position.topic_id != self.broker.topic_id() || {
                let partition = &self.broker.partitions[position.topic_partition.partition as usize];
                position.offset != partition.records.len() as i64
            }
        })
    }

    fn produce(&mut self) {
        let number = self.rng.below(self.broker.partitions.len());
        for _ in 0..1 + self.rng.below(4) {
            self.next_id += 1;
            let kind = self.rng.below(100);
            let record = LogRecord {
                id: self.next_id,
                key: 0,
                given: kind < 80,
                sensitive: kind < 20,
                bad: (85..92).contains(&kind),
                poison: (92..95).contains(&kind) || (50..54).contains(&kind),
                received_at: self.now.wall,
            };
            let records = &mut self.broker.partitions[number].records;
            records.push(record);
            let earlier = records[self.rng.below(records.len())];
            match self.rng.below(100) {
                // Capture never heard of the acknowledgement and wrote the record again.
                0..8 if !record.sensitive => records.push(record),
                // The sender resent an event that it had sent before …
                8..20 if earlier.given && !earlier.sensitive => records.push(earlier),
                // … with another time, name or distinct id, or without what the store refused.
                20..35 if earlier.given && !earlier.sensitive => {
                    records.push(LogRecord { key: earlier.key + 1, poison: false, bad: false, ..earlier });
                }
                _ => {}
            }
        }
    }

    fn deliver(&mut self) -> Result<(), String> {
        let ready: Vec<usize> = (0..self.processes.len())
            .filter(|p| !self.processes[*p].asleep && !self.processes[*p].inbox.is_empty())
            .collect();
        if ready.is_empty() {
            return Ok(());
        }
        let process = &mut self.processes[ready[self.rng.below(ready.len())]];
        let Some(input) = process.inbox.pop_front() else { return Ok(()) };
        process.handle(self.now, input)
    }

    fn pass_time(&mut self) -> Result<(), String> {
        let next = self.processes.iter().filter(|p| !p.asleep).filter_map(|p| p.core.deadline()).min();
        let step = match next {
            Some(next) if self.quiet || self.rng.percent(70) => next.saturating_sub(self.now.mono),
            _ => Duration::from_millis(self.rng.below(400) as u64),
        };
        self.now.mono += step + Duration::from_millis(1);
        self.now.wall = self.now.wall.plus(step);
        for process in self.processes.iter_mut().filter(|process| !process.asleep) {
            process.handle(self.now, Input::Tick)?;
        }
        Ok(())
    }

    fn perform(&mut self) -> Result<(), String> {
        let quiet = self.quiet;
        let busy: Vec<usize> = (0..self.processes.len())
            .filter(|p| {
                let requests = &self.processes[*p].requests;
                if quiet { requests.iter().any(|r| self.is_due(r)) } else { !requests.is_empty() }
            })
            .collect();
        if busy.is_empty() {
            return Ok(());
        }
        let number = busy[self.rng.below(busy.len())];
        let candidates: Vec<usize> = (0..self.processes[number].requests.len())
            .filter(|r| !quiet || self.is_due(&self.processes[number].requests[*r]))
            .collect();
        let request = candidates[self.rng.below(candidates.len())];
        let request = self.processes[number].requests.swap_remove(request);
        match request {
            Request::Scan { scan, from } => self.scan(number, scan, &from),
            Request::Rebuild { rebuild, partitions } => self.rebuild(number, rebuild, &partitions),
            Request::Fetch { lane, fetch, from } => self.fetch(number, lane, fetch, &from),
            Request::Letters { attempt, batch, letters } => self.letters(number, attempt, &batch, &letters),
            Request::Insert { attempt, batch, rows, token } => {
                self.insert(number, attempt, &batch, &rows, token);
            }
            Request::Commit { member, batch, attempt, generation, offsets } => {
                let outcome = self.commit(member, generation, &offsets)?;
                self.processes[number].inbox.push_back(Input::Committed { batch, attempt, outcome });
            }
            Request::Release { member, partitions } => {
                self.broker.release(member, &partitions);
            }
            Request::Join => self.join(number),
            Request::Leave => {
                let member = self.processes[number].member;
                self.broker.expel(member);
                self.processes[number] = self.start();
                self.rebalance();
            }
            Request::Probe => {
                let outcome = if self.store.down { Err("down".to_owned()) } else { Ok(()) };
                self.processes[number].inbox.push_back(Input::Probed { outcome });
            }
        }
        Ok(())
    }

    fn scan(&mut self, number: usize, scan: ScanId, from: &[FetchPosition]) {
        let failed = self.store.down || (!self.quiet && self.rng.percent(15));
        let stored = if failed {
            Err("timed out".to_owned())
        } else {
            let found = from.iter().map(|position| {
                let name = position.topic_partition.clone();
                let offsets = self.store.offsets(position.topic_id, name.partition, position.offset);
                (name, offsets)
            });
            Ok(found.collect())
        };
        self.processes[number].inbox.push_back(Input::Scanned { scan, stored });
    }

    fn rebuild(&mut self, number: usize, rebuild: RebuildId, partitions: &[(TopicPartition, TopicId)]) {
        let mut ids = Vec::new();
        for row in self.store.rows.iter().rev().filter(|row| row.given) {
            let name = Broker::name(row.partition as usize);
            if partitions.contains(&(name.clone(), row.topic_id)) {
                let received_at = self.now.wall;
                ids.push(StoredId {
                    topic_partition: name,
                    id: hash(row.id),
                    offset: row.offset,
                    received_at,
                });
            }
        }
        let cut = self.rng.below(ids.len() + 1);
        let rest = ids.split_off(cut);
        let fails = !self.quiet && self.rng.percent(20);
        let inbox = &mut self.processes[number].inbox;
        inbox.push_back(Input::Rebuilding { rebuild, ids });
        if fails {
            inbox.push_back(Input::Rebuilt { rebuild, outcome: Err("timed out".to_owned()) });
        } else {
            inbox.push_back(Input::Rebuilding { rebuild, ids: rest });
            inbox.push_back(Input::Rebuilt { rebuild, outcome: Ok(()) });
        }
    }

    fn fetch(&mut self, number: usize, lane: usize, fetch: FetchId, from: &[FetchPosition]) {
        if self.broker.down || (!self.quiet && self.rng.percent(5)) {
            let reason = "no answer".to_owned();
            self.processes[number].inbox.push_back(Input::FetchFailed { lane, fetch, reason });
            return;
        }
        let mut parts = Vec::new();
        for position in from {
            let name = position.topic_partition.clone();
            if position.topic_id != self.broker.topic_id() {
                parts.push((name, FetchedPart::UnknownTopic));
                continue;
            }
            let limit = 1 + self.rng.below(10);
            let partition = &self.broker.partitions[name.partition as usize];
            let end = partition.records.len() as i64;
            let offsets = PartitionOffsets { log_start: partition.log_start, end };
            if position.offset < partition.log_start || position.offset > end {
                parts.push((name, FetchedPart::OutOfRange(offsets)));
                continue;
            }
            let until = end.min(position.offset + limit as i64);
            let items = (position.offset..until).map(|offset| {
                let record = partition.records[offset as usize];
                let verdict = if record.bad {
                    Verdict::Refused(ErrorKind::InvalidJson)
                } else {
                    Verdict::Row {
                        id: hash(record.id),
                        remember: record.given,
                        received_at: record.received_at,
                    }
                };
                Item { offset, bytes: 100, verdict, payload: record }
            });
            parts.push((name, FetchedPart::Records { items: items.collect(), next_offset: until, offsets }));
        }
        self.processes[number].inbox.push_back(Input::Fetched { lane, fetch, parts });
    }

    fn letters(
        &mut self,
        number: usize,
        attempt: AttemptId,
        batch: &Arc<Batch<LogRecord>>,
        letters: &[Letter],
    ) {
        let mut outcomes = Vec::new();
        for letter in letters {
            let part = &batch.parts[letter.row.part as usize];
            let refused = self.broker.letters_down || (!self.quiet && self.rng.percent(10));
            if !refused || self.rng.percent(30) {
                let place = (part.topic_id, part.topic_partition.partition, batch.item(letter.row).offset);
                *self.broker.letters.entry(place).or_default() += 1;
            }
            outcomes.push(if refused { Err("refused".to_owned()) } else { Ok(()) });
        }
        self.processes[number].inbox.push_back(Input::LettersProduced { batch: batch.id, attempt, outcomes });
    }

    pub(super) fn rows(&self, number: usize, batch: &Batch<LogRecord>, rows: &[RowRef]) -> Vec<Row> {
        let row = |row: &RowRef| {
            let (part, item) = (&batch.parts[row.part as usize], batch.item(*row));
            let record = item.payload;
            Row {
                id: record.id,
                key: record.key,
                mapper: if record.sensitive { self.processes[number].mapper } else { 0 },
                month: (record.id % 2) as u8,
                topic_id: part.topic_id,
                partition: part.topic_partition.partition,
                offset: item.offset,
                poison: record.poison,
                given: record.given,
            }
        };
        rows.iter().map(row).collect()
    }

    fn insert(
        &mut self,
        number: usize,
        attempt: AttemptId,
        batch: &Arc<Batch<LogRecord>>,
        rows: &[RowRef],
        token: String,
    ) {
        let rows = self.rows(number, batch, rows);
        let unknown = || InsertOutcome::OutcomeUnknown("connection lost".to_owned());
        let outcome = match self.rng.below(if self.quiet { 50 } else { 100 }) {
            _ if self.store.down => InsertOutcome::Unavailable("down".to_owned()),
            50..60 => {
                self.store.insert(&token, &rows, None);
                unknown()
            }
            // The peer dropped the connection after the data: the client says Ok, the check says otherwise.
            60..68 if self.mutation.connection_check => InsertOutcome::Stored,
            60..68 => unknown(),
            68..76 => InsertOutcome::Unavailable("too many parts".to_owned()),
            76..84 => {
                let month = self.rng.below(2) as u8;
                self.store.insert(&token, &rows, Some(month));
                InsertOutcome::Unavailable("memory limit".to_owned())
            }
            84..94 => {
                self.late.push(Late::Insert { token, rows });
                unknown()
            }
            94..97 => {
                InsertOutcome::Schema { message: "no such table".to_owned(), cure: "migrate".to_owned() }
            }
            _ => match self.store.insert(&token, &rows, None) {
                Insert::Stored | Insert::Partly => InsertOutcome::Stored,
                Insert::Rejected(row) => {
                    let row = match self.rng.below(3) {
                        0 => Some(row),
                        1 => Some(self.rng.below(rows.len())),
                        _ => None,
                    };
                    InsertOutcome::Rejected { message: "constraint".to_owned(), row }
                }
            },
        };
        self.processes[number].inbox.push_back(Input::Inserted { batch: batch.id, attempt, outcome });
    }

    pub(super) fn commit(
        &mut self,
        member: usize,
        generation: i64,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<CommitOutcome, String> {
        let failed = || CommitOutcome::Failed("no answer".to_owned());
        if self.broker.down || (!self.quiet && self.rng.percent(8)) {
            return Ok(failed());
        }
        if self.broker.fences(member, generation) && !self.mutation.fence {
            return Ok(CommitOutcome::Fenced);
        }
        if self.broker.preparing.is_some() && self.rng.percent(30) {
            return Ok(CommitOutcome::Rebalancing);
        }
        for (name, offset) in offsets {
            check::commit(self, name.partition as usize, *offset)?;
            self.broker.partitions[name.partition as usize].committed = Some(*offset);
        }
        Ok(if !self.quiet && self.rng.percent(10) { failed() } else { CommitOutcome::Committed })
    }

    fn join(&mut self, number: usize) {
        let before = self.processes[number].member;
        self.broker.expel(before);
        self.members += 1;
        self.processes[number].member = self.members;
        // What the group told the old membership is never heard, except that it is over.
        let group =
            |input: &Input<LogRecord>| matches!(input, Input::Assigned { .. } | Input::Revoking { .. });
        self.processes[number].inbox.retain(|input| !group(input));
        let partitions = (0..self.broker.partitions.len()).map(Broker::name).collect();
        self.processes[number].inbox.push_back(Input::Lost { partitions });
        self.broker.members.insert(self.members);
        self.rebalance();
    }

    pub(super) fn rebalance(&mut self) {
        self.complete_rebalance();
        for (member, news) in self.broker.prepare() {
            self.tell(member, news);
        }
    }

    pub(super) fn complete_rebalance(&mut self) {
        // A partition that was given back although the group had changed its mind begins another round.
        let orphan = self.broker.partitions.iter().any(|partition| partition.owner.is_none());
        if self.broker.preparing.is_none() && orphan && !self.broker.members.is_empty() {
            for (member, news) in self.broker.prepare() {
                self.tell(member, news);
            }
        }
        // At rest, members get the time they need to give partitions back.
        let waiting = self.broker.preparing.as_ref().is_none_or(|revoked| self.quiet && !revoked.is_empty());
        if waiting {
            return;
        }
        let (news, late) = self.broker.complete();
        for (member, news) in news {
            self.tell(member, news);
        }
        for member in late {
            self.lose_all(member);
        }
    }

    fn tell(&mut self, member: usize, news: GroupNews) {
        let generation = Generation(self.broker.generation);
        let Some(process) = self.processes.iter_mut().find(|process| process.member == member) else {
            return;
        };
        process.inbox.push_back(match news {
            GroupNews::Assigned(partitions) => Input::Assigned { generation, partitions },
            GroupNews::Revoking(partitions) => Input::Revoking { partitions },
        });
    }

    /// A member that is out hears of it at some time, and joins again.
    pub(super) fn lose_all(&mut self, member: usize) {
        let partitions = (0..self.broker.partitions.len()).map(Broker::name).collect();
        if let Some(process) = self.processes.iter_mut().find(|process| process.member == member) {
            process.inbox.push_back(Input::Lost { partitions });
            process.requests.push(Request::Join);
        }
    }

    pub(super) fn resume(&mut self) {
        for process in &mut self.processes {
            for partition in std::mem::take(&mut process.stopped) {
                process.inbox.push_back(Input::Resume { partition });
            }
        }
    }
}

pub(super) fn hash(id: u32) -> IdHash {
    // The low half carries the number; the high half spreads over the window's index.
    IdHash((u128::from(u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64) | u128::from(id))
}

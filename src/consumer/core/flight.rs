//! A batch on its way: dead letters → insert → remember → commit.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::flood::Flood;
use super::token::TokenHasher;
use super::{
    AttemptId, Batch, BatchId, Cause, CommitOutcome, Core, Dependency, Effect, InsertOutcome, Letter, Notice,
    PartReport, Phase, Report, RowRef, Verdict,
};
use crate::event::ErrorKind;
use crate::eventlog::{Generation, TopicPartition};

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// To be inserted.
    Row,
    Stored,
    AlreadyStored,
    Duplicate,
    Dead {
        kind: ErrorKind,
        acked: bool,
    },
}

/// What is known of one part.
#[derive(Debug)]
pub(super) struct PartState {
    pub(super) tenure: u64,
    /// Still ours: counts, and is committed.
    pub(super) live: bool,
    pub(super) fates: Vec<Fate>,
    pub(super) flood_before: Flood,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Letters,
    Insert,
    Commit,
}

/// Rows that go to the store in one block.
#[derive(Debug)]
struct Block {
    rows: Arc<[RowRef]>,
    /// The store has refused it once; once more with the same token, then it is split.
    refused: bool,
}

/// A batch on its way.
#[derive(Debug)]
pub(super) struct Flight<P> {
    batch: Arc<Batch<P>>,
    parts: Vec<PartState>,
    step: Step,
    attempt: AttemptId,
    outstanding: bool,
    pub(super) wait_until: Option<Duration>,
    blocks: VecDeque<Block>,
    letters: Vec<RowRef>,
    store_said: BTreeMap<RowRef, String>,
    commit_generation: Generation,
    commit_failures: u32,
    gathering_since: Duration,
    sealed: Duration,
    inserted: Duration,
    insert_attempts: u32,
}

impl<P> Flight<P> {
    pub(super) fn new(batch: Arc<Batch<P>>, parts: Vec<PartState>, since: Duration, now: Duration) -> Self {
        let mut rows = Vec::new();
        for (part, state) in parts.iter().enumerate() {
            for (item, fate) in state.fates.iter().enumerate() {
                if *fate == Fate::Row {
                    rows.push(RowRef { part: part as u32, item: item as u32 });
                }
            }
        }
        let mut flight = Self {
            batch,
            parts,
            step: Step::Letters,
            attempt: AttemptId(0),
            outstanding: false,
            wait_until: None,
            blocks: VecDeque::new(),
            letters: Vec::new(),
            store_said: BTreeMap::new(),
            commit_generation: Generation::default(),
            commit_failures: 0,
            gathering_since: since,
            sealed: now,
            inserted: now,
            insert_attempts: 0,
        };
        flight.push_block(rows);
        flight
    }

    fn push_block(&mut self, rows: Vec<RowRef>) {
        if !rows.is_empty() {
            self.blocks.push_back(Block { rows: rows.into(), refused: false });
        }
    }

    fn fate(&mut self, row: RowRef) -> &mut Fate {
        &mut self.parts[row.part as usize].fates[row.item as usize]
    }

    /// Letters of live parts that are not acknowledged.
    fn unacked(&self) -> Vec<Letter> {
        let mut letters = Vec::new();
        for (part, state) in self.parts.iter().enumerate().filter(|(_, state)| state.live) {
            for (item, fate) in state.fates.iter().enumerate() {
                if let Fate::Dead { kind, acked: false } = *fate {
                    let row = RowRef { part: part as u32, item: item as u32 };
                    letters.push(Letter { row, kind, store_said: self.store_said.get(&row).cloned() });
                }
            }
        }
        letters
    }

    /// Takes rows of parts that are no longer ours out of what is still to be inserted.
    fn prune(&mut self) {
        for block in &mut self.blocks {
            if block.rows.iter().any(|row| !self.parts[row.part as usize].live) {
                block.rows =
                    block.rows.iter().filter(|row| self.parts[row.part as usize].live).copied().collect();
                block.refused = false;
            }
        }
        self.blocks.retain(|block| !block.rows.is_empty());
    }

    /// Records that are in flight.
    #[cfg(test)]
    pub(super) fn live_records(&self) -> u64 {
        let live = self.batch.parts.iter().zip(&self.parts).filter(|(_, state)| state.live);
        live.map(|(part, _)| part.items.len() as u64).sum()
    }

    fn report(&self, now: Duration) -> Report {
        let mut report = Report {
            batch: self.batch.id.0,
            parts: Vec::new(),
            gathered: self.sealed.saturating_sub(self.gathering_since),
            inserted: self.inserted.saturating_sub(self.sealed),
            committed: now.saturating_sub(self.inserted),
            insert_attempts: self.insert_attempts,
        };
        for (part, state) in self.batch.parts.iter().zip(&self.parts).filter(|(_, state)| state.live) {
            let count = |wanted: Fate| state.fates.iter().filter(|fate| **fate == wanted).count() as u64;
            let mut dead_lettered = BTreeMap::new();
            for fate in &state.fates {
                if let Fate::Dead { kind, .. } = fate {
                    *dead_lettered.entry(*kind).or_default() += 1;
                }
            }
            report.parts.push(PartReport {
                topic_partition: part.topic_partition.clone(),
                start: part.start,
                end: part.end,
                records: part.items.len() as u64,
                stored: count(Fate::Stored),
                already_stored: count(Fate::AlreadyStored),
                duplicates: count(Fate::Duplicate),
                dead_lettered,
            });
        }
        report
    }
}

impl<P> Core<P> {
    /// Takes the lane's batch as far as it goes without waiting for anything.
    pub(super) fn drive(&mut self, lane: usize) {
        let Some(mut flight) = self.lanes[lane].flight.take() else { return };
        let mut ended = flight.parts.iter().all(|part| !part.live);
        while !ended && !flight.outstanding && flight.wait_until.is_none_or(|until| until <= self.now.mono) {
            flight.wait_until = None;
            let goes_on = self.step(&mut flight);
            ended = flight.parts.iter().all(|part| !part.live);
            if !goes_on {
                break;
            }
        }
        if !ended {
            self.lanes[lane].flight = Some(flight);
        }
    }

    /// One step. False: it waits for something.
    fn step(&mut self, flight: &mut Flight<P>) -> bool {
        #[cfg(test)]
        if self.settings.without.commit_after_insert
            && flight.step == Step::Letters
            && !flight.blocks.is_empty()
        {
            self.commit(flight);
            return false;
        }
        match flight.step {
            Step::Letters => {
                self.refuse_flood_of_store(flight);
                let letters = flight.unacked();
                if letters.is_empty() {
                    flight.prune();
                    if flight.blocks.is_empty() {
                        self.confirm(flight);
                        flight.step = Step::Commit;
                    } else {
                        flight.step = Step::Insert;
                    }
                    return true;
                }
                self.begin_attempt(flight);
                flight.letters = letters.iter().map(|letter| letter.row).collect();
                let batch = flight.batch.clone();
                self.effects.push(Effect::ProduceLetters { attempt: flight.attempt, batch, letters });
            }
            Step::Insert => {
                flight.prune();
                let Some(rows) = flight.blocks.front().map(|block| block.rows.clone()) else {
                    flight.step = Step::Letters;
                    return true;
                };
                if !self.may_try(Dependency::Store) {
                    self.drop_revoked_parts(flight);
                    return false;
                }
                self.begin_attempt(flight);
                flight.insert_attempts += 1;
                let token = self.token(flight, &rows);
                let batch = flight.batch.clone();
                self.effects.push(Effect::Insert { attempt: flight.attempt, batch, rows, token });
            }
            Step::Commit => self.commit(flight),
        }
        false
    }

    fn commit(&mut self, flight: &mut Flight<P>) {
        self.begin_attempt(flight);
        flight.step = Step::Commit;
        flight.commit_generation = self.generation;
        let live = flight.batch.parts.iter().zip(&flight.parts).filter(|(_, state)| state.live);
        self.effects.push(Effect::Commit {
            batch: flight.batch.id,
            attempt: flight.attempt,
            generation: self.generation,
            offsets: live.map(|(part, _)| (part.topic_partition.clone(), part.end)).collect(),
        });
    }

    fn begin_attempt(&mut self, flight: &mut Flight<P>) {
        flight.attempt = AttemptId(self.next_number());
        flight.outstanding = true;
    }

    /// Covers where the rows come from and which they are, so that the same token always means the same rows.
    fn token(&self, flight: &Flight<P>, rows: &[RowRef]) -> String {
        let settings = &self.settings;
        let mut hasher = TokenHasher::new(settings.namespace, &settings.table, settings.mapper_version);
        for (part, _) in flight.batch.parts.iter().zip(&flight.parts).filter(|(_, state)| state.live) {
            hasher.range(part.topic_id, part.topic_partition.partition, part.start, part.end);
        }
        for row in rows {
            let item = flight.batch.item(*row);
            if let Verdict::Row { id, .. } = item.verdict {
                hasher.row(item.offset, id);
            }
        }
        hasher.finish()
    }

    /// The lane and flight that wait for this answer.
    fn awaited(&mut self, batch: BatchId, attempt: AttemptId) -> Option<(usize, Flight<P>)> {
        let lane = self.lanes.iter().position(|lane| {
            lane.flight.as_ref().is_some_and(|f| f.batch.id == batch && f.attempt == attempt && f.outstanding)
        })?;
        let mut flight = self.lanes[lane].flight.take()?;
        flight.outstanding = false;
        Some((lane, flight))
    }

    /// A letter that is refused holds its partition back, and no other.
    pub(super) fn on_letters(
        &mut self,
        batch: BatchId,
        attempt: AttemptId,
        outcomes: Vec<Result<(), String>>,
    ) {
        let Some((lane, mut flight)) = self.awaited(batch, attempt) else { return };
        let mut refused: BTreeMap<u32, String> = BTreeMap::new();
        for (row, outcome) in std::mem::take(&mut flight.letters).into_iter().zip(outcomes) {
            match outcome {
                Err(reason) => {
                    refused.entry(row.part).or_insert(reason);
                }
                Ok(()) => {
                    if let Fate::Dead { acked, .. } = flight.fate(row) {
                        *acked = true;
                    }
                    let part = &flight.batch.parts[row.part as usize];
                    if let Some(partition) = self.partitions.get_mut(&part.topic_partition) {
                        partition.acked_letters.insert(flight.batch.item(row).offset);
                    }
                }
            }
        }
        for (part, reason) in refused {
            let name = flight.batch.parts[part as usize].topic_partition.clone();
            if self.drop_part(&mut flight, part as usize, "dead letter refused") {
                self.stand_still(&name, Cause::Letters, format!("its dead letters are not taken: {reason}"));
            }
        }
        self.lanes[lane].flight = Some(flight);
    }

    pub(super) fn on_inserted(&mut self, batch: BatchId, attempt: AttemptId, outcome: InsertOutcome) {
        match &outcome {
            InsertOutcome::Stored | InsertOutcome::Rejected { .. } => self.succeeded(Dependency::Store),
            InsertOutcome::Unavailable(reason) => self.failed(Dependency::Store, reason.clone()),
            InsertOutcome::OutcomeUnknown(reason) => {
                self.failed(Dependency::Store, format!("outcome unknown: {reason}"));
            }
            InsertOutcome::Schema { message, cure } => {
                self.failed(Dependency::Store, format!("{message}; {cure}"));
            }
        }
        let Some((lane, mut flight)) = self.awaited(batch, attempt) else { return };
        match outcome {
            InsertOutcome::Stored => {
                if let Some(block) = flight.blocks.pop_front() {
                    for row in block.rows.iter() {
                        *flight.fate(*row) = Fate::Stored;
                    }
                }
                flight.inserted = self.now.mono;
            }
            InsertOutcome::Rejected { message, row } => {
                #[cfg(test)]
                let resurrects = !self.settings.without.resurrection;
                #[cfg(not(test))]
                let resurrects = true;
                Self::refuse_block(&mut flight, &message, row, resurrects);
            }
            _ => self.drop_revoked_parts(&mut flight),
        }
        self.lanes[lane].flight = Some(flight);
    }

    /// Once more with the same token; then the row the server names is set apart, or the block is halved. A row is
    /// refused only after it was refused alone, so that a wrong name costs a round trip and no event.
    fn refuse_block(flight: &mut Flight<P>, message: &str, named: Option<usize>, resurrects: bool) {
        let Some(mut block) = flight.blocks.pop_front() else { return };
        if !block.refused {
            block.refused = true;
            flight.blocks.push_front(block);
            return;
        }
        let rows = &block.rows;
        if let [row] = rows[..] {
            *flight.fate(row) = Fate::Dead { kind: ErrorKind::StoreRejected, acked: false };
            flight.store_said.insert(row, message.to_owned());
            if resurrects {
                Self::resurrect(flight, row);
            }
            return;
        }
        let (first, second): (Vec<RowRef>, Vec<RowRef>) = match named.filter(|named| *named < rows.len()) {
            Some(named) => {
                (vec![rows[named]], rows.iter().copied().filter(|row| *row != rows[named]).collect())
            }
            None => (rows[..rows.len() / 2].to_vec(), rows[rows.len() / 2..].to_vec()),
        };
        for half in [second, first] {
            flight.blocks.push_front(Block { rows: half.into(), refused: false });
        }
    }

    /// A duplicate of a row that turned out not to be storable is no duplicate: the next of its id takes its place.
    fn resurrect(flight: &mut Flight<P>, refused: RowRef) {
        let wanted = flight.batch.item(refused).remembered().map(|(id, _)| id);
        let part = &flight.batch.parts[refused.part as usize];
        let fates = &flight.parts[refused.part as usize].fates;
        let next = (refused.item as usize + 1..part.items.len()).find(|item| {
            fates[*item] == Fate::Duplicate && part.items[*item].remembered().map(|(id, _)| id) == wanted
        });
        if let (Some(_), Some(item)) = (wanted, next) {
            let row = RowRef { part: refused.part, item: item as u32 };
            *flight.fate(row) = Fate::Row;
            flight.push_block(vec![row]);
        }
    }

    /// Rows the store refuses count as refused, too: a flood of them stops the partition before a letter is written.
    fn refuse_flood_of_store(&mut self, flight: &mut Flight<P>) {
        let mut parts: Vec<usize> = flight.store_said.keys().map(|row| row.part as usize).collect();
        parts.dedup();
        for part in parts {
            let state = &flight.parts[part];
            if !state.live {
                continue;
            }
            let mut flood = state.flood_before.clone();
            let limits = &self.settings.flood;
            let tripped =
                state.fates.iter().any(|fate| flood.record(matches!(fate, Fate::Dead { .. }), limits));
            let name = flight.batch.parts[part].topic_partition.clone();
            if tripped {
                self.drop_part(flight, part, "flood");
                self.stop_for_flood(&name);
            } else if let Some(partition) = self.partitions.get_mut(&name) {
                partition.flood = flood;
            }
        }
    }

    /// Everything is stored or a dead letter: from now on its ids are known.
    fn confirm(&mut self, flight: &Flight<P>) {
        for (part, state) in flight.batch.parts.iter().zip(&flight.parts).filter(|(_, state)| state.live) {
            for (item, fate) in part.items.iter().zip(&state.fates) {
                if let (Fate::Stored | Fate::AlreadyStored, Some((id, received_at))) =
                    (fate, item.remembered())
                {
                    self.window.insert(&part.topic_partition, id, received_at);
                    if let Some(running) = &mut self.rebuild {
                        let since = running.stored_since.map_or(received_at, |since| since.min(received_at));
                        running.stored_since = Some(since);
                    }
                }
            }
        }
    }

    pub(super) fn on_committed(&mut self, batch: BatchId, attempt: AttemptId, outcome: CommitOutcome) {
        let Some((lane, mut flight)) = self.awaited(batch, attempt) else { return };
        match outcome {
            CommitOutcome::Committed => {
                #[cfg(test)]
                if self.settings.without.commit_after_insert && !flight.blocks.is_empty() {
                    flight.step = Step::Insert;
                    self.lanes[lane].flight = Some(flight);
                    return;
                }
                self.finish(&flight);
                return;
            }
            CommitOutcome::Fenced if flight.commit_generation == self.generation => {
                self.lanes[lane].flight = Some(flight);
                self.rejoin();
                return;
            }
            // The group has a newer generation, and the partitions stayed ours.
            CommitOutcome::Fenced => {}
            CommitOutcome::Rebalancing | CommitOutcome::Failed(_) => {
                if let CommitOutcome::Failed(reason) = outcome {
                    self.failed(Dependency::EventLog, reason);
                }
                flight.commit_failures = flight.commit_failures.saturating_add(1);
                flight.wait_until = Some(self.backoff(flight.commit_failures));
            }
        }
        self.lanes[lane].flight = Some(flight);
    }

    fn finish(&mut self, flight: &Flight<P>) {
        let report = flight.report(self.now.mono);
        for part in &report.parts {
            let Some(partition) = self.partitions.get_mut(&part.topic_partition) else { continue };
            partition.committed = Some(part.end);
            partition.acked_letters = partition.acked_letters.split_off(&part.end);
            if partition.standing.is_some() && partition.phase == Phase::Ready {
                self.goes_on(&part.topic_partition);
            }
        }
        self.tell(Notice::Finished(report));
    }

    /// Gives a part up. What is still ours is read again later. False: it was given up already.
    fn drop_part(&mut self, flight: &mut Flight<P>, index: usize, reason: &'static str) -> bool {
        let state = &mut flight.parts[index];
        if !std::mem::replace(&mut state.live, false) {
            return false;
        }
        let part = &flight.batch.parts[index];
        if let Some(partition) =
            self.partitions.get_mut(&part.topic_partition).filter(|p| p.tenure == state.tenure)
        {
            partition.rewind(part.start);
            partition.flood = state.flood_before.clone();
        }
        self.tell(Notice::Released {
            topic_partition: part.topic_partition.clone(),
            records: part.items.len() as u64,
            reason,
        });
        true
    }

    /// Gives up whatever is in flight for a partition.
    pub(super) fn drop_parts(&mut self, name: &TopicPartition, reason: &'static str) {
        for lane in 0..self.lanes.len() {
            let Some(mut flight) = self.lanes[lane].flight.take() else { continue };
            for index in 0..flight.parts.len() {
                if flight.batch.parts[index].topic_partition == *name {
                    self.drop_part(&mut flight, index, reason);
                }
            }
            if flight.parts.iter().any(|part| part.live) {
                self.lanes[lane].flight = Some(flight);
            }
        }
    }

    /// A store that does not answer is no reason to keep a partition that was asked back.
    fn drop_revoked_parts(&mut self, flight: &mut Flight<P>) {
        for index in 0..flight.parts.len() {
            let name = &flight.batch.parts[index].topic_partition;
            if self.partitions.get(name).is_some_and(|p| p.revoking.is_some()) {
                self.drop_part(flight, index, "revoked");
            }
        }
    }

    pub(super) fn in_flight(&self, name: &TopicPartition, tenure: u64) -> bool {
        self.lanes.iter().filter_map(|lane| lane.flight.as_ref()).any(|flight| {
            flight
                .batch
                .parts
                .iter()
                .zip(&flight.parts)
                .any(|(part, state)| state.live && state.tenure == tenure && part.topic_partition == *name)
        })
    }
}

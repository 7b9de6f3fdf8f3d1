//! A consumer process: the core, what it was told and has not heard yet, and what it has asked for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::broker::LogRecord;
use super::*;

/// Something a core asked for that the world has not done yet.
pub(super) enum Request {
    Scan {
        scan: ScanId,
        from: Vec<FetchPosition>,
    },
    Rebuild {
        rebuild: RebuildId,
        partitions: Vec<(TopicPartition, TopicId)>,
    },
    Fetch {
        lane: usize,
        fetch: FetchId,
        from: Vec<FetchPosition>,
    },
    Letters {
        attempt: AttemptId,
        batch: Arc<Batch<LogRecord>>,
        letters: Vec<Letter>,
    },
    Insert {
        attempt: AttemptId,
        batch: Arc<Batch<LogRecord>>,
        rows: Arc<[RowRef]>,
        token: String,
    },
    Commit {
        member: usize,
        batch: BatchId,
        attempt: AttemptId,
        generation: i64,
        offsets: BTreeMap<TopicPartition, i64>,
    },
    Release {
        member: usize,
        partitions: Vec<TopicPartition>,
    },
    Join,
    Leave,
    Probe,
}

pub(super) struct Process {
    pub(super) core: Core<LogRecord>,
    pub(super) mapper: u32,
    /// Its place in the group, new with every join.
    pub(super) member: usize,
    batches: BTreeMap<u64, Arc<Batch<LogRecord>>>,
    pub(super) inbox: VecDeque<Input<LogRecord>>,
    pub(super) requests: Vec<Request>,
    /// Ids it has seen stored in its present tenure of a partition: it must not store them again.
    pub(super) known: BTreeMap<TopicPartition, BTreeSet<u32>>,
    /// What it knew when the batch in flight was judged.
    judged_by: BTreeMap<TopicPartition, BTreeSet<u32>>,
    /// Until when it does nothing (a pause it does not notice).
    pub(super) asleep: bool,
    pub(super) taken: u64,
    pub(super) released: u64,
    pub(super) finished: u64,
    pub(super) stopped: BTreeSet<TopicPartition>,
}

impl Process {
    pub(super) fn new(settings: Settings, now: Now) -> Self {
        Self {
            mapper: settings.mapper_version,
            core: Core::new(settings, now),
            member: usize::MAX,
            batches: BTreeMap::new(),
            inbox: VecDeque::new(),
            requests: vec![Request::Join],
            known: BTreeMap::new(),
            judged_by: BTreeMap::new(),
            asleep: false,
            taken: 0,
            released: 0,
            finished: 0,
            stopped: BTreeSet::new(),
        }
    }

    /// Hands the core an input and keeps what it asks for.
    pub(super) fn handle(&mut self, now: Now, input: Input<LogRecord>) -> Result<(), String> {
        if let Input::Assigned { partitions, .. } = &input {
            for partition in partitions {
                self.known.insert(partition.topic_partition.clone(), BTreeSet::new());
            }
        }
        if let Input::Rebuilding { rebuild, ids } = &input {
            self.learn(*rebuild, ids);
        }
        let trace = std::env::var_os("FLEXFLOW_SIM_TRACE").is_some();
        if trace {
            println!("{:?} member {} hears {input:?}", now.mono, self.member);
        }
        for effect in self.core.handle(now, input) {
            if trace {
                println!("    wants {effect:?}");
            }
            match effect {
                Effect::Scan { scan, from } => self.requests.push(Request::Scan { scan, from }),
                Effect::Rebuild { rebuild, partitions, .. } => {
                    self.requests.push(Request::Rebuild { rebuild, partitions });
                }
                Effect::CancelRebuild { .. } => {}
                Effect::Fetch { lane, fetch, from, .. } => {
                    self.requests.push(Request::Fetch { lane, fetch, from });
                }
                Effect::ProduceLetters { attempt, batch, letters } => {
                    self.requests.push(Request::Letters { attempt, batch, letters });
                }
                Effect::Insert { attempt, batch, rows, token } => {
                    self.batches.insert(batch.id.0, batch.clone());
                    self.must_not_know(&batch, &rows)?;
                    self.requests.push(Request::Insert { attempt, batch, rows, token });
                }
                Effect::Commit { batch, attempt, generation, offsets } => {
                    let (member, generation) = (self.member, generation.0);
                    self.requests.push(Request::Commit { member, batch, attempt, generation, offsets });
                }
                Effect::Release { partitions } => {
                    self.requests.push(Request::Release { member: self.member, partitions });
                }
                Effect::Rejoin => self.requests.push(Request::Join),
                Effect::Leave => self.requests.push(Request::Leave),
                Effect::Probe => self.requests.push(Request::Probe),
                Effect::Tell(notice) => self.note(notice)?,
            }
        }
        Ok(())
    }

    fn note(&mut self, notice: Notice) -> Result<(), String> {
        match notice {
            Notice::Taken { topic_partition, records } => {
                self.taken += records;
                let known = self.known.get(&topic_partition).cloned().unwrap_or_default();
                self.judged_by.insert(topic_partition, known);
            }
            Notice::Released { records, .. } => self.released += records,
            Notice::Finished(report) => {
                let batch = self.batches.remove(&report.batch);
                for part in report.parts {
                    let dead: u64 = part.dead_lettered.values().sum();
                    let told = part.stored + part.already_stored + part.duplicates + dead;
                    if told != part.records {
                        return Err(format!(
                            "accounting: {told} of {} records are told of in {part:?}",
                            part.records
                        ));
                    }
                    self.finished += part.records;
                    self.remember(batch.as_deref(), &part);
                }
            }
            Notice::Standstill { topic_partition, stopped: true, .. } => {
                self.stopped.insert(topic_partition);
            }
            _ => {}
        }
        Ok(())
    }

    /// Ids of a finished range are stored (or duplicates of stored ones, or refused by the store).
    fn remember(&mut self, batch: Option<&Batch<LogRecord>>, report: &PartReport) {
        let Some(known) = self.known.get_mut(&report.topic_partition) else { return };
        for part in batch.iter().flat_map(|batch| &batch.parts) {
            if part.topic_partition == report.topic_partition {
                let rows = part.items.iter().map(|item| item.payload);
                known.extend(
                    rows.filter(|record| record.given && !record.bad && !record.poison).map(|r| r.id),
                );
            }
        }
    }

    fn learn(&mut self, rebuild: RebuildId, ids: &[StoredId]) {
        let Some(running) = self.core.rebuild.as_ref().filter(|running| running.id == rebuild) else {
            return;
        };
        for stored in ids {
            let name = &stored.topic_partition;
            let Some(partition) = self.core.partitions.get(name) else { continue };
            if running.tenures.get(name) == Some(&partition.tenure) && stored.offset < partition.assigned_at {
                self.known.entry(name.clone()).or_default().insert(stored.id.0 as u32);
            }
        }
    }

    /// Layer 3: what this owner knows to be stored from a smaller offset is not inserted again.
    fn must_not_know(&self, batch: &Batch<LogRecord>, rows: &[RowRef]) -> Result<(), String> {
        for row in rows {
            let name = &batch.parts[row.part as usize].topic_partition;
            let record = batch.item(*row).payload;
            if record.given && self.judged_by.get(name).is_some_and(|known| known.contains(&record.id)) {
                return Err(format!(
                    "id {} of {name} is stored again, although its owner knows it",
                    record.id
                ));
            }
        }
        Ok(())
    }

    /// Records in batches that are neither finished nor released.
    pub(super) fn in_flight(&self) -> u64 {
        self.core.lanes.iter().filter_map(|lane| lane.flight.as_ref()).map(Flight::live_records).sum()
    }
}

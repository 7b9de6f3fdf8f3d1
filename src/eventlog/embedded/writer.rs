//! The thread that makes every change. See the [module](super) for what a round is.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, Histogram};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::catalog::{Partition, Topic};
use super::round::{Committing, Produced, Round};
use super::store::{Loaded, Store, StoreError, Write};
use super::topics::ChangeError;
use super::{EmbeddedOptions, Shared};
use crate::event::{Clock, IdSource};
use crate::eventlog::groups::Commit;
use crate::eventlog::{CommitError, GroupSpec, LogError, NewRecord, Position, TopicId, TopicSpec};
use crate::lifecycle::Component;
use crate::telemetry::names;

/// Bytes of records that one round takes from the queue.
const ROUND_BYTES_MAX: usize = 8 << 20;
/// How often the room on the disk and, after a failure, the store itself are looked at again.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

pub(super) type Answer<T> = oneshot::Sender<Result<T, LogError>>;

/// What the writer is asked to do.
pub(super) enum Command {
    Produce {
        topic: Arc<Topic>,
        records: Vec<(i32, NewRecord)>,
        permit: OwnedSemaphorePermit,
        /// A record each, in order; only records too large for a partition that is gone are refused alone.
        answer: Answer<Vec<Result<Position, LogError>>>,
    },
    Commit {
        commit: Commit,
        permit: OwnedSemaphorePermit,
        answer: oneshot::Sender<Result<(), CommitError>>,
    },
    Join {
        spec: GroupSpec,
        answer: Answer<u64>,
    },
    Create {
        specs: Vec<TopicSpec>,
        answer: Answer<Vec<Arc<str>>>,
    },
    Grow {
        name: Arc<str>,
        partitions: i32,
        answer: Answer<()>,
    },
    Delete {
        name: Arc<str>,
        answer: Answer<()>,
    },
    Retain(Answer<()>),
    Probe(Answer<()>),
    Close(oneshot::Sender<()>),
    /// As if a write had failed.
    #[cfg(test)]
    Break,
}

/// The writer's state; it lives on its thread.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    /// `None` after a failure, until it opens again.
    pub(super) store: Option<Store>,
    pub(super) options: EmbeddedOptions,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ids: Arc<dyn IdSource>,
    dir: PathBuf,
    component: Component,
    /// Whose batches are in memory, oldest first, and their size.
    cached: VecDeque<(Arc<Partition>, usize)>,
    cached_bytes: usize,
    /// Why produces are refused, if they are.
    full: Option<String>,
    checked: Option<Instant>,
    syncs: Counter,
    sync_duration: Histogram,
    disk_bytes: Gauge,
}

/// Starts the writer's thread. The token is cancelled when the thread ends, also by a panic.
pub(super) fn start(writer: Writer, queued: Receiver<Command>) -> std::io::Result<CancellationToken> {
    let ended = CancellationToken::new();
    let guard = ended.clone().drop_guard();
    std::thread::Builder::new()
        .name("eventlog-writer".to_owned())
        .spawn(move || writer.run(&queued, guard))?;
    Ok(ended)
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        store: Store,
        dir: PathBuf,
        options: EmbeddedOptions,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        component: Component,
    ) -> Self {
        Self {
            shared,
            store: Some(store),
            options,
            clock,
            ids,
            dir,
            component,
            cached: VecDeque::new(),
            cached_bytes: 0,
            full: None,
            checked: None,
            syncs: names::EVENTLOG_SYNCS.counter(&[]),
            sync_duration: names::EVENTLOG_SYNC_DURATION.histogram(&[]),
            disk_bytes: names::EVENTLOG_DISK_BYTES.gauge(&[]),
        }
    }

    fn run(mut self, queued: &Receiver<Command>, _ended: DropGuard) {
        loop {
            self.check();
            let first = match queued.recv_timeout(CHECK_INTERVAL) {
                Ok(command) => command,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return self.close(),
            };
            self.check();
            let mut round = Round::default();
            let mut next = Some(first);
            let mut alone = None;
            while let Some(command) = next.take() {
                match command {
                    Command::Produce { topic, records, permit, answer } => {
                        self.stage(&mut round, &topic, records, permit, answer);
                    }
                    Command::Commit { commit, permit, answer } => {
                        self.stage_commit(&mut round, &commit, permit, answer);
                    }
                    other => alone = Some(other),
                }
                if alone.is_none() && round.bytes < ROUND_BYTES_MAX {
                    next = queued.try_recv().ok();
                }
            }
            self.finish(round);
            match alone {
                None => {}
                Some(Command::Close(answer)) => {
                    self.close();
                    // Whoever asked may have stopped waiting.
                    let _ = answer.send(());
                    return;
                }
                Some(command) => self.change(command),
            }
        }
    }

    /// Looks, not too often, whether the disk has room and whether a store that failed opens again.
    fn check(&mut self) {
        if self.checked.is_some_and(|at| at.elapsed() < CHECK_INTERVAL) {
            return;
        }
        self.checked = Some(Instant::now());
        let min = self.options.disk_free_min;
        self.full = match (self.options.free_bytes)(&self.dir) {
            Ok(free) if free >= min => None,
            Ok(free) => Some(format!(
                "the disk of {} has {free} bytes free, less than eventlog.disk_free_min ({min}): make room",
                self.dir.display()
            )),
            Err(error) => {
                Some(format!("cannot ask for the room on the disk of {}: {error}", self.dir.display()))
            }
        };
        if self.store.is_none() {
            match Store::open(&self.dir, true) {
                Ok((store, loaded)) => self.reopened(store, loaded),
                Err(error) => self.set_failure(Some(format!("the event log does not open: {error}"))),
            }
        }
        match (&self.store, &self.full) {
            (Some(_), None) => self.component.up(),
            (Some(_), Some(reason)) => self.component.down(reason),
            (None, _) => {}
        }
    }

    fn reopened(&mut self, store: Store, loaded: Loaded) {
        tracing::info!(dir = %self.dir.display(), "the event log is open again");
        self.store = Some(store);
        self.shared.set_catalog(loaded.catalog);
        *self.shared.committed.write().unwrap_or_else(PoisonError::into_inner) = loaded.committed;
        self.set_failure(None);
        self.shared.groups.notify();
        self.shared.changed();
    }

    fn set_failure(&self, reason: Option<String>) {
        if let Some(reason) = &reason {
            self.component.down(reason);
        }
        *self.shared.failure.write().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// A write failed: what it left on the disk is unknown. Close the store; [`Writer::check`] opens it again.
    pub(super) fn fail(&mut self, error: &StoreError) -> LogError {
        let reason = format!("writing the event log failed: {error}");
        tracing::error!(error = %error, dir = %self.dir.display(), "writing the event log failed");
        self.set_failure(Some(reason.clone()));
        self.drop_handles();
        self.store = None;
        self.shared.changed();
        LogError::OutcomeUnknown(reason)
    }

    /// Nothing may hold the database open when it is closed.
    fn drop_handles(&mut self) {
        for (_, partition) in self.shared.catalog().partitions() {
            let mut state = partition.write();
            state.segments.clear();
            state.tail.clear();
        }
        self.cached.clear();
        self.cached_bytes = 0;
    }

    fn close(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.drop_handles();
        self.store = None;
        self.shared.groups.notify();
        self.shared.changed();
    }

    fn unavailable(&self) -> LogError {
        self.shared
            .check_open()
            .err()
            .unwrap_or_else(|| LogError::Unavailable("the log is closed".to_owned()))
    }

    fn stage(
        &self,
        round: &mut Round,
        topic: &Arc<Topic>,
        records: Vec<(i32, NewRecord)>,
        permit: OwnedSemaphorePermit,
        answer: Answer<Vec<Result<Position, LogError>>>,
    ) {
        let catalog = self.shared.catalog();
        let present = catalog.topics.get(&topic.spec.name).filter(|present| present.id == topic.id);
        let refusal = match (&self.store, &self.full, present) {
            (None, ..) => Some(self.unavailable()),
            (_, Some(reason), _) => Some(LogError::Full(reason.clone())),
            (.., None) => Some(LogError::TopicMissing(topic.spec.name.clone())),
            _ => None,
        };
        let (None, Some(topic)) = (refusal.clone(), present) else {
            // Whoever asked may have stopped waiting; so with every answer here.
            let _ = answer.send(Err(refusal.unwrap_or_else(|| self.unavailable())));
            return;
        };
        let bytes: usize = records.iter().map(|(_, record)| record.bytes() + 16).sum();
        round.bytes += bytes;
        let positions = records
            .into_iter()
            .map(|(number, record)| {
                let pending = round.pending(topic, number)?;
                Ok(Position { partition: number, offset: pending.push(&record, bytes) })
            })
            .collect();
        round.produces.push(Produced { positions, _permit: permit, answer });
    }

    fn stage_commit(
        &self,
        round: &mut Round,
        commit: &Commit,
        permit: OwnedSemaphorePermit,
        answer: oneshot::Sender<Result<(), CommitError>>,
    ) {
        let checked = match &self.store {
            None => Err(self.unavailable().into()),
            Some(_) => self.shared.groups.check(|name| self.shared.topic(name), commit),
        };
        match checked {
            Ok(offsets) => {
                let group = commit.group.clone();
                round.commits.push(Committing { group, offsets, _permit: permit, answer });
            }
            Err(error) => {
                let _ = answer.send(Err(error));
            }
        }
    }

    /// Writes a round, syncs it, makes it visible and answers.
    fn finish(&mut self, mut round: Round) {
        let Some(store) = &self.store else { return };
        for pending in round.partitions.values_mut() {
            pending.close_batch();
        }
        let write = match self.encode(store, &round) {
            Ok(write) => write,
            Err(error) => {
                let error = self.fail(&error);
                return round.refuse(&error);
            }
        };
        if !write.is_empty() {
            let started = Instant::now();
            if let Err(error) = write.commit() {
                let error = self.fail(&error);
                return round.refuse(&error);
            }
            self.sync_duration.record(started.elapsed().as_secs_f64());
            self.syncs.increment(1);
            self.shared.rounds.fetch_add(1, Ordering::Relaxed);
        }
        let appended = self.apply(&mut round);
        for produced in round.produces {
            let _ = produced.answer.send(Ok(produced.positions));
        }
        for commit in round.commits {
            let _ = commit.answer.send(Ok(()));
        }
        for (topic, partition) in appended {
            self.roll_if_full(&topic, &partition);
        }
    }

    fn encode<'a>(&self, store: &'a Store, round: &Round) -> Result<Write<'a>, StoreError> {
        let mut write = store.write();
        for pending in round.partitions.values() {
            if pending.summary_is_due() {
                write.segment(pending.topic.id, pending.partition.number, &pending.segment)?;
            }
            for (header, batch) in &pending.closed {
                write.batch(&pending.segment, header.base_offset, batch.clone());
            }
        }
        for commit in &round.commits {
            for checked in &commit.offsets {
                write.committed(&commit.group, checked.topic_id, checked.partition, checked.offset);
            }
        }
        Ok(write)
    }

    /// Shows what a round made durable.
    fn apply(&mut self, round: &mut Round) -> Vec<(Arc<Topic>, Arc<Partition>)> {
        if !round.commits.is_empty() {
            let mut committed = self.shared.committed.write().unwrap_or_else(PoisonError::into_inner);
            for commit in &round.commits {
                for checked in &commit.offsets {
                    let key = (commit.group.clone(), checked.topic_id, checked.partition);
                    committed.insert(key, checked.offset);
                }
            }
        }
        let mut appended = Vec::with_capacity(round.partitions.len());
        for (_, pending) in round.partitions.drain() {
            let mut state = pending.partition.write();
            for (header, batch) in pending.closed {
                self.cached.push_back((pending.partition.clone(), batch.len()));
                self.cached_bytes += batch.len();
                pending.topic.produced.increment(u64::from(header.count));
                state.append(&header, batch);
            }
            drop(state);
            appended.push((pending.topic, pending.partition));
        }
        while self.cached_bytes > self.options.cache_bytes_max
            && let Some((partition, bytes)) = self.cached.pop_front()
        {
            self.cached_bytes -= bytes;
            partition.write().tail.pop_front();
        }
        if !appended.is_empty() {
            self.shared.changed();
        }
        appended
    }

    fn roll_if_full(&mut self, topic: &Topic, partition: &Arc<Partition>) {
        let quarter = topic.spec.retention.bytes_max.map_or(u64::MAX, |max| max / 4);
        let max = self.options.segment_bytes.min(quarter);
        let full = partition.read().segments.last().is_some_and(|active| active.bytes >= max);
        if full && let Err(error) = self.roll(topic.id, partition) {
            self.fail(&error);
        }
    }

    /// Seals the segment that is written to and begins another.
    pub(super) fn roll(&self, topic: TopicId, partition: &Partition) -> Result<(), StoreError> {
        let Some(store) = &self.store else { return Ok(()) };
        let (mut sealed, end) = {
            let state = partition.read();
            let Some(active) = state.segments.last() else { return Ok(()) };
            (active.clone(), state.offsets.end)
        };
        sealed.sealed = true;
        let next = store.create_segment(topic, partition.number, end)?;
        let mut write = store.write();
        write.segment(topic, partition.number, &sealed)?;
        write.segment(topic, partition.number, &next)?;
        write.commit()?;
        let mut state = partition.write();
        if let Some(active) = state.segments.last_mut() {
            active.sealed = true;
        }
        state.segments.push(next);
        drop(state);
        Store::write_out(&sealed)
    }

    /// Everything that is not a produce or a commit.
    fn change(&mut self, command: Command) {
        match command {
            Command::Join { spec, answer } => {
                let id = self.with_store(|writer, _| Ok(writer.shared.groups.join(&spec)));
                let _ = answer.send(id);
            }
            Command::Create { specs, answer } => {
                let _ = answer.send(self.with_store(|writer, store| writer.create(store, &specs)));
            }
            Command::Grow { name, partitions, answer } => {
                let _ = answer.send(self.with_store(|writer, store| writer.grow(store, &name, partitions)));
            }
            Command::Delete { name, answer } => {
                let _ = answer.send(self.with_store(|writer, store| writer.delete(store, &name)));
            }
            Command::Retain(answer) => {
                let _ = answer.send(self.with_store(Self::retain));
            }
            Command::Probe(answer) => {
                let probed = self.with_store(|_, store| Ok(store.probe()?));
                let full = self.full.clone().map_or(Ok(()), |reason| Err(LogError::Full(reason)));
                let _ = answer.send(probed.and(full));
            }
            #[cfg(test)]
            Command::Break => {
                self.fail(&StoreError::Storage("scripted".to_owned()));
            }
            Command::Produce { .. } | Command::Commit { .. } | Command::Close(_) => {}
        }
    }

    fn with_store<T>(
        &mut self,
        change: impl FnOnce(&Self, &Store) -> Result<T, ChangeError>,
    ) -> Result<T, LogError> {
        let changed = match &self.store {
            None => return Err(self.unavailable()),
            Some(store) => change(self, store),
        };
        changed.map_err(|error| match error {
            ChangeError::Refused(error) => error,
            ChangeError::Store(error) => self.fail(&error),
        })
    }

    pub(super) fn show_disk_bytes(&self, store: &Store) -> Result<(), StoreError> {
        #[expect(clippy::cast_precision_loss, reason = "a gauge of bytes; exact up to 8 PiB")]
        self.disk_bytes.set(store.disk_bytes()? as f64);
        Ok(())
    }
}

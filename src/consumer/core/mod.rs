//! What to do next, given what happened: the consumer as a state machine without I/O, without a clock and without
//! randomness of its own.
//!
//! [`Core::handle`] takes one [`Input`] and answers the [`Effect`]s to carry out; every effect with an id is answered
//! by an input with the same id, and an answer that nobody waits for any more is ignored. The driver carries effects out against the real log and store; the simulator (`sim`) against a
//! model of both, with a fault between any two steps.
//!
//! What it keeps:
//!
//! - One batch in flight a lane, one contiguous range of offsets a partition: decode → dead letters acknowledged →
//!   rows inserted under a token and confirmed → ids remembered → all ranges committed in one request.
//! - An insert that is not known to have succeeded is tried again with the same rows under the same token, for ever.
//! - Nothing is committed for a partition that was released or lost; a fenced commit drops everything and joins again.
//! - The id window holds only ids stored from offsets before the one that is judged.

mod flight;
mod flood;
mod gathered;
mod membership;
mod protocol;
mod reading;
#[cfg(test)]
mod sim;
mod token;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use flight::Flight;
use flood::Flood;
use gathered::Gathered;
use protocol::{AckedLetters, OffsetSet};

pub use flood::FloodLimits;
pub use protocol::*;
pub use window::{IdHash, IdWindow};

use crate::eventlog::{Generation, TopicId, TopicPartition};
use crate::lifecycle::{Breaker, BreakerRules, BreakerState, Jitter};

/// How far a partition has come in its assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The store has still to be asked what is there.
    Unscanned,
    Scanning(ScanId),
    Ready,
    /// Stands still until then; then it reads on from where it last committed.
    Waiting(Duration),
    /// Stands still until an operator says go on.
    Stopped,
}

/// Why a partition stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Fetch,
    Letters,
    Flood,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rebuild {
    Wanted,
    Running(RebuildId),
    Done,
}

/// A partition this process owns.
#[derive(Debug)]
struct Partition<P> {
    topic_id: TopicId,
    /// Differs between two assignments of the same partition.
    tenure: u64,
    lane: usize,
    phase: Phase,
    committed: Option<i64>,
    /// Where the assignment began to read.
    assigned_at: i64,
    /// First offset that is in no batch yet, and where the next fetch goes on.
    start: i64,
    next: i64,
    gathered: Gathered<P>,
    at_end: bool,
    stored: OffsetSet,
    acked_letters: AckedLetters,
    flood: Flood,
    standing: Option<Cause>,
    failures: u32,
    /// The gap that retention left and that is counted.
    expired: Option<(i64, i64)>,
    rebuild: Rebuild,
    /// It was asked back; what is in flight may take until then.
    revoking: Option<Duration>,
}

impl<P> Partition<P> {
    fn is_readable(&self) -> bool {
        self.phase == Phase::Ready && self.revoking.is_none()
    }

    /// Forgets what was read and goes back to `offset`.
    fn rewind(&mut self, offset: i64) {
        self.start = offset;
        self.next = offset;
        self.gathered = Gathered::default();
        self.at_end = false;
    }
}

/// Partitions that share one batch at a time.
#[derive(Debug)]
struct Lane<P> {
    fetching: Option<Fetching>,
    flight: Option<Flight<P>>,
    /// When the oldest gathered record came.
    gathering_since: Option<Duration>,
    flushed: Option<Duration>,
    /// Which partition begins the next batch, so that none starves.
    turn: usize,
}

#[derive(Debug)]
struct Fetching {
    fetch: FetchId,
    from: Vec<(TopicPartition, u64, i64)>,
}

/// A rebuild of id windows that runs.
#[derive(Debug)]
struct RunningRebuild {
    id: RebuildId,
    /// The earliest receipt among the rows stored since it began: they were not compared with what it still had to
    /// read.
    stored_since: Option<crate::event::Timestamp>,
    tenures: BTreeMap<TopicPartition, u64>,
    since: crate::event::Timestamp,
}

/// See the [module](self).
pub struct Core<P> {
    settings: Settings,
    now: Now,
    jitter: Jitter,
    generation: Generation,
    partitions: BTreeMap<TopicPartition, Partition<P>>,
    lanes: Vec<Lane<P>>,
    window: IdWindow,
    window_expired: Duration,
    store: Breaker,
    log: Breaker,
    scans: BTreeMap<ScanId, Vec<(TopicPartition, u64)>>,
    rebuild: Option<RunningRebuild>,
    rebuild_after: Duration,
    rebuild_failures: u32,
    missing_topics: BTreeSet<Arc<str>>,
    probing: bool,
    stopping: bool,
    left: bool,
    counter: u64,
    effects: Vec<Effect<P>>,
}

impl<P> Core<P> {
    pub fn new(settings: Settings, now: Now) -> Self {
        let lanes = (0..settings.lanes.max(1)).map(|_| Lane {
            fetching: None,
            flight: None,
            gathering_since: None,
            flushed: None,
            turn: 0,
        });
        let rules = BreakerRules {
            failures_to_open: settings.breaker_failures,
            wait_min: settings.backoff_min,
            wait_max: settings.backoff_max,
        };
        let breaker = |number: u64| Breaker::new(rules, settings.seed.wrapping_add(number), now.mono);
        Self {
            lanes: lanes.collect(),
            now,
            jitter: Jitter::new(settings.seed),
            generation: Generation::default(),
            partitions: BTreeMap::new(),
            window: IdWindow::new(settings.dedupe_window, settings.dedupe_memory_max),
            window_expired: now.mono,
            store: breaker(1),
            log: breaker(2),
            scans: BTreeMap::new(),
            rebuild: None,
            rebuild_after: now.mono,
            rebuild_failures: 0,
            missing_topics: BTreeSet::new(),
            probing: false,
            stopping: false,
            left: false,
            counter: 0,
            effects: Vec::new(),
            settings,
        }
    }

    /// Takes what happened and answers what to do.
    pub fn handle(&mut self, now: Now, input: Input<P>) -> Vec<Effect<P>> {
        self.now = now;
        match input {
            Input::Assigned { generation, partitions } => self.on_assigned(generation, partitions),
            Input::Revoking { partitions } => self.on_revoking(&partitions),
            Input::Lost { partitions } => self.lose(&partitions, "lost"),
            Input::TopicMissing { topic } => self.on_topic_missing(topic),
            Input::TopicBack { topic } => self.on_topic_back(&topic),
            Input::Scanned { scan, stored } => self.on_scanned(scan, stored),
            Input::Rebuilding { rebuild, ids } => self.on_rebuilding(rebuild, &ids),
            Input::Rebuilt { rebuild, outcome } => self.on_rebuilt(rebuild, &outcome),
            Input::Fetched { lane, fetch, parts } => self.on_fetched(lane, fetch, parts),
            Input::FetchFailed { lane, fetch, reason } => self.on_fetch_failed(lane, fetch, reason),
            Input::LettersProduced { batch, attempt, outcomes } => self.on_letters(batch, attempt, outcomes),
            Input::Inserted { batch, attempt, outcome } => self.on_inserted(batch, attempt, outcome),
            Input::Committed { batch, attempt, outcome } => self.on_committed(batch, attempt, outcome),
            Input::Probed { outcome } => self.on_probed(outcome),
            Input::Resume { partition } => self.on_resume(&partition),
            Input::Tick => {}
            Input::Stop => self.on_stop(),
        }
        self.advance();
        std::mem::take(&mut self.effects)
    }

    /// When [`Input::Tick`] is due next, if nothing happens before.
    pub fn deadline(&self) -> Option<Duration> {
        let mut at: Vec<Duration> = Vec::new();
        for lane in 0..self.lanes.len() {
            at.extend(self.lane_deadline(lane));
        }
        for partition in self.partitions.values() {
            at.extend(partition.revoking);
            if let Phase::Waiting(until) = partition.phase {
                at.push(until);
            }
            if partition.rebuild == Rebuild::Wanted && self.rebuild.is_none() {
                at.push(self.rebuild_after);
            }
        }
        at.extend(self.store.opens_at());
        at.extend(self.log.opens_at());
        if !self.probing && !self.stopping {
            at.push(self.store.heard() + self.settings.probe_interval);
        }
        // What was due at the last input was done then, or waits for another one.
        at.into_iter().filter(|at| *at > self.now.mono).min()
    }

    /// Has everything been finished or dropped after [`Input::Stop`]?
    pub fn has_left(&self) -> bool {
        self.left
    }

    /// The id window, for metrics.
    pub fn window(&self) -> &IdWindow {
        &self.window
    }

    /// Partitions owned, and where each stands: committed offset and whether it is stopped.
    pub fn owned(&self) -> impl Iterator<Item = (&TopicPartition, i64, bool)> {
        self.partitions.iter().map(|(name, p)| (name, p.committed.unwrap_or(0), p.phase == Phase::Stopped))
    }

    /// Does everything that can be done now.
    fn advance(&mut self) {
        if self.left {
            return;
        }
        if self.now.mono >= self.window_expired + Duration::from_secs(10) {
            self.window_expired = self.now.mono;
            self.window.expire(self.now.wall);
        }
        self.wake_waiting();
        self.drop_overdue();
        for lane in 0..self.lanes.len() {
            self.drive(lane);
            self.seal(lane);
            self.drive(lane);
            self.fetch(lane);
        }
        self.release_revoked();
        self.scan();
        self.start_rebuild();
        self.probe();
        self.leave();
    }

    fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn tell(&mut self, notice: Notice) {
        self.effects.push(Effect::Tell(notice));
    }

    fn backoff(&mut self, failures: u32) -> Duration {
        self.now.mono + self.jitter.wait(self.settings.backoff_min, self.settings.backoff_max, failures)
    }

    /// A dependency answered well.
    fn succeeded(&mut self, dependency: Dependency) {
        let now = self.now.mono;
        let breaker = self.breaker(dependency);
        if breaker.succeed(now) {
            self.tell(Notice::Breaker { dependency, state: BreakerState::Closed, reason: String::new() });
        }
    }

    /// A dependency did not answer, or cannot do its work.
    fn failed(&mut self, dependency: Dependency, reason: String) {
        let now = self.now.mono;
        let breaker = self.breaker(dependency);
        breaker.fail(now);
        let state = breaker.state();
        self.tell(Notice::Breaker { dependency, state, reason });
    }

    /// May something be tried on a dependency now? Tells when that is the half-open try.
    fn may_try(&mut self, dependency: Dependency) -> bool {
        let now = self.now.mono;
        let breaker = self.breaker(dependency);
        let was = breaker.state();
        let may = breaker.try_start(now);
        if may && was == BreakerState::Open {
            self.tell(Notice::Breaker { dependency, state: BreakerState::HalfOpen, reason: String::new() });
        }
        may
    }

    fn breaker(&mut self, dependency: Dependency) -> &mut Breaker {
        match dependency {
            Dependency::Store => &mut self.store,
            Dependency::EventLog => &mut self.log,
        }
    }

    fn probe(&mut self) {
        let idle = self.now.mono >= self.store.heard() + self.settings.probe_interval;
        let waiting = self.store.state() == BreakerState::Open;
        if !self.probing && !self.stopping && (idle || waiting) && self.may_try(Dependency::Store) {
            self.probing = true;
            self.effects.push(Effect::Probe);
        }
    }

    fn on_probed(&mut self, outcome: Result<(), String>) {
        self.probing = false;
        match outcome {
            Ok(()) => self.succeeded(Dependency::Store),
            Err(reason) => self.failed(Dependency::Store, reason),
        }
    }
}

//! What the pipeline did, minute by minute: what all processes of the installation counted, and how far the consumer groups
//! were behind.
//!
//! Each process writes what its counters grew by since its last look to the row of the running minute, every
//! `server.history_interval`, and keeps no more than that. The rows are in the metadata database, so they outlive the
//! process and add up over all of them. While that database is away, minutes wait in memory; it costs the history the lag
//! of that time, and nothing else anything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Role;
use super::lag::{self, PartitionLag};
use super::pools::Pools;
use crate::config::Config;
use crate::event::Timestamp;
use crate::meta::{Meta, MetaError, PipelineCounts, PipelineLag, PipelineMinute, PipelineProcess};
use crate::telemetry::{Metric, Recorder, names};

const MINUTE: Duration = Duration::from_secs(60);
/// Processes that an answer names, those that were seen last.
const PROCESSES_MAX: u64 = 100;

/// A young history is told as if it were so old, so that a chart of it has a width.
const SHORTEST: Duration = Duration::from_secs(9 * 60);

/// The minute of this moment, by its beginning.
fn minute_of(at: Timestamp) -> Timestamp {
    let length = MINUTE.as_millis() as i64;
    Timestamp::from_millis(at.as_millis().div_euclid(length) * length)
}

/// Minutes that are kept.
pub(super) fn minutes_max(config: &Config) -> u64 {
    config.server.history_retention.as_secs() / MINUTE.as_secs()
}

const COUNTED: [&Metric; 6] = [
    &names::CAPTURE_EVENTS_ACCEPTED,
    &names::CONSUMER_BATCHES_WRITTEN,
    &names::CONSUMER_RECORDS_STORED,
    &names::CONSUMER_DUPLICATES,
    &names::CONSUMER_DLQ_MESSAGES,
    &names::CONSUMER_INSERT_ERRORS,
];

/// What this process has counted since its start: the sums over all labels, but of what is stored only events, which other
/// stages read again and count as their own.
fn counted(recorder: &Recorder, config: &Config) -> PipelineCounts {
    let series = recorder.series(&COUNTED);
    let of_events =
        [&config.topics.events, &config.reprocess.output_topic].map(|topic| format!("topic=\"{topic}\""));
    let whole = [names::CONSUMER_RECORDS_STORED.name, names::CONSUMER_DUPLICATES.name];
    let counts = |name: &str, labels: &String| !whole.contains(&name) || of_events.contains(labels);
    #[expect(clippy::cast_possible_truncation, reason = "counters are whole")]
    let sum = |metric: &Metric| {
        let of = series.iter().filter(|(name, labels, _)| *name == metric.name && counts(name, labels));
        of.map(|(.., value)| *value as i64).sum()
    };
    let [captured, batches, stored, duplicates, dead_letters, insert_errors] = COUNTED.map(sum);
    PipelineCounts { captured, batches, stored, duplicates, dead_letters, insert_errors }
}

/// Two counts, one by one.
fn each(one: PipelineCounts, other: PipelineCounts, of: fn(i64, i64) -> i64) -> PipelineCounts {
    PipelineCounts {
        captured: of(one.captured, other.captured),
        batches: of(one.batches, other.batches),
        stored: of(one.stored, other.stored),
        duplicates: of(one.duplicates, other.duplicates),
        dead_letters: of(one.dead_letters, other.dead_letters),
        insert_errors: of(one.insert_errors, other.insert_errors),
    }
}

/// What a process counted and what of it may not be written yet.
#[derive(Debug)]
struct Minutes {
    /// All that was counted, at the last look.
    totals: PipelineCounts,
    /// Oldest first; the last one is the running one.
    open: VecDeque<(Timestamp, PipelineCounts)>,
    max: usize,
}

impl Minutes {
    /// Gives what was counted since the last look to the minute of this one.
    fn add(&mut self, now: Timestamp, totals: PipelineCounts) {
        let grown = each(totals, self.totals, |now, before| (now - before).max(0));
        self.totals = totals;
        let minute = minute_of(now);
        match self.open.back_mut() {
            // A clock that was set back opens no minute that may be written already.
            Some((running, counts)) if *running >= minute => *counts = each(*counts, grown, |a, b| a + b),
            _ => self.open.push_back((minute, grown)),
        }
        while self.open.len() > self.max {
            self.open.pop_front();
        }
    }

    /// All of these were written; the running one will be again.
    fn written(&mut self, rows: &[(Timestamp, PipelineCounts)]) {
        let Some((running, _)) = rows.last() else { return };
        self.open.retain(|(minute, _)| minute >= running);
    }
}

/// What this process tells of itself. Cheap to clone.
#[derive(Clone)]
pub(super) struct History(Arc<Inner>);

struct Inner {
    config: Arc<Config>,
    pools: Pools,
    recorder: Recorder,
    /// This start of this process.
    process: String,
    roles: String,
    minutes: Mutex<Minutes>,
}

impl History {
    /// Counts from here on.
    pub(super) fn new(config: &Arc<Config>, roles: &[Role], pools: &Pools, recorder: Recorder) -> Self {
        let minutes = Minutes {
            totals: counted(&recorder, config),
            open: VecDeque::new(),
            max: usize::try_from(minutes_max(config)).unwrap_or(usize::MAX),
        };
        let roles: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
        Self(Arc::new(Inner {
            config: config.clone(),
            process: pools.ids.uuid_v7(pools.clock.now()).simple().to_string(),
            pools: pools.clone(),
            recorder,
            roles: roles.join(","),
            minutes: Mutex::new(minutes),
        }))
    }

    /// Looks for ever.
    ///
    /// # Errors
    /// None; what fails is counted and tried again.
    pub(super) async fn follow(self) -> anyhow::Result<()> {
        let mut minute = Timestamp::EPOCH;
        loop {
            let now = minute_of(self.0.pools.clock.now());
            self.look(now != std::mem::replace(&mut minute, now)).await;
            tokio::time::sleep(self.0.config.server.history_interval).await;
        }
    }

    /// Looks once more: what was counted while the process drained.
    pub(super) async fn finish(&self, limit: Duration) {
        if tokio::time::timeout(limit, self.keep_counts()).await.is_err() {
            tracing::debug!("what was counted last is not in the history");
        }
    }

    async fn look(&self, is_new_minute: bool) {
        let looked = async {
            self.keep_counts().await?;
            self.keep_lag().await?;
            if is_new_minute {
                let server = &self.0.config.server;
                let before = self.0.pools.clock.now().minus(server.history_retention);
                self.0.pools.meta.pipeline_history().forget(before, server.history_rows_max).await?;
            }
            Ok::<_, MetaError>(())
        };
        if let Err(error) = looked.await {
            tracing::debug!(%error, "the metadata database keeps no history");
        }
    }

    /// Writes the minutes that are not written yet, the running one anew.
    async fn keep_counts(&self) -> Result<(), MetaError> {
        let inner = &self.0;
        let now = inner.pools.clock.now();
        let rows: Vec<_> = {
            let mut minutes = inner.minutes.lock().unwrap_or_else(PoisonError::into_inner);
            minutes.add(now, counted(&inner.recorder, &inner.config));
            minutes.open.iter().copied().collect()
        };
        let written = inner.pools.meta.pipeline_history().write(&inner.process, &inner.roles, &rows).await;
        match written {
            Ok(()) => {
                inner.minutes.lock().unwrap_or_else(PoisonError::into_inner).written(&rows);
                Ok(())
            }
            Err(error) => {
                names::PIPELINE_HISTORY_FAILURES.counter(&[]).increment(1);
                Err(error)
            }
        }
    }

    /// Writes how far the groups are behind, unless another process just has.
    async fn keep_lag(&self) -> Result<(), MetaError> {
        let Inner { pools, config, .. } = &*self.0;
        let (now, history) = (pools.clock.now(), pools.meta.pipeline_history());
        let minute = minute_of(now);
        let looked_at = history.lag_looked_at(minute).await?;
        if looked_at.is_some_and(|at| now.since(at) < config.server.history_interval) {
            return Ok(());
        }
        match lag::all(&*pools.log, config).await {
            Ok(rows) => {
                let kept = Group::of(&rows, config.server.history_partitions_max);
                history.write_lag(minute, json!(kept)).await
            }
            Err(error) => {
                tracing::debug!(%error, "the lag cannot be looked at");
                Ok(())
            }
        }
    }
}

/// How far a group was behind on a topic; its partitions that were, with how far. Kept as a list of the four.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Group(String, String, i64, BTreeMap<i32, i64>);

impl Group {
    /// All of them, with the partitions that are furthest behind, at most so many.
    fn of(rows: &[PartitionLag], partitions_max: usize) -> Vec<Self> {
        let mut behind: Vec<&PartitionLag> = rows.iter().filter(|row| row.lag > 0).collect();
        behind.sort_by_key(|row| std::cmp::Reverse(row.lag));
        behind.truncate(partitions_max);
        let mut groups: BTreeMap<(&str, &str), Self> = BTreeMap::new();
        for row in rows {
            let none = || Self(row.group.clone(), row.topic.clone(), 0, BTreeMap::new());
            groups.entry((&row.group, &row.topic)).or_insert_with(none).2 += row.lag;
        }
        for row in behind {
            if let Some(group) = groups.get_mut(&(row.group.as_str(), row.topic.as_str())) {
                group.3.insert(row.partition, row.lag);
            }
        }
        groups.into_values().collect()
    }
}

/// How far a group was behind, on a topic or on one partition of it, in each minute; nothing where nobody looked.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct LagSeries {
    group: String,
    topic: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<i32>,
    lag: Vec<Option<i64>>,
}

/// What all processes counted in each minute; nothing where none told.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Counted {
    captured: Vec<Option<i64>>,
    batches: Vec<Option<i64>>,
    stored: Vec<Option<i64>>,
    duplicates: Vec<Option<i64>>,
    dead_letters: Vec<Option<i64>>,
    insert_errors: Vec<Option<i64>>,
}

/// A process that told of itself.
#[derive(Debug, Serialize)]
struct Process {
    process: String,
    roles: Vec<String>,
    first: Timestamp,
    last: Timestamp,
    #[serde(flatten)]
    counts: PipelineCounts,
}

/// The history of the last minutes.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Minutes that are kept.
    kept_minutes: u64,
    /// Beginnings of the minutes, without a gap; the last one still goes on.
    at: Vec<Timestamp>,
    /// Processes that told of a minute.
    processes_told: Vec<i64>,
    counted: Counted,
    lags: Vec<LagSeries>,
    processes: Vec<Process>,
}

/// The history of the last `minutes`, with the lag of each group, or with that of each partition of this one.
///
/// # Errors
/// The database does not answer.
pub(super) async fn report(
    meta: &Meta,
    config: &Config,
    minutes: u64,
    group: Option<&str>,
) -> Result<Report, MetaError> {
    let to = minute_of(meta.now());
    let asked = Duration::from_secs(minutes.saturating_sub(1) * MINUTE.as_secs());
    let (history, from) = (meta.pipeline_history(), to.minus(asked));
    let counted = history.minutes(from).await?;
    let lags = history.lags(from).await?;
    let first = counted.first().map(|row| row.minute).into_iter().chain(lags.first().map(|row| row.minute));
    let at = timeline(from.max(first.min().unwrap_or(to).min(to.minus(SHORTEST))), to);
    let processes = history.processes(from, PROCESSES_MAX).await?;
    Ok(Report {
        kept_minutes: minutes_max(config),
        processes_told: spread(&at, counted.iter().map(|row| (row.minute, row.processes)))
            .into_iter()
            .map(Option::unwrap_or_default)
            .collect(),
        counted: Counted::of(&at, &counted),
        lags: series(&at, &lags, group),
        processes: processes.into_iter().map(Process::from).collect(),
        at,
    })
}

/// Every minute from one to another.
fn timeline(from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
    let mut at = Vec::new();
    let mut next = from;
    while next <= to {
        at.push(next);
        next = next.plus(MINUTE);
    }
    at
}

/// What is known of some minutes, as a place for each.
fn spread(at: &[Timestamp], known: impl Iterator<Item = (Timestamp, i64)>) -> Vec<Option<i64>> {
    let mut places = vec![None; at.len()];
    for (minute, value) in known {
        if let Ok(place) = at.binary_search(&minute) {
            places[place] = Some(value);
        }
    }
    places
}

impl Counted {
    fn of(at: &[Timestamp], rows: &[PipelineMinute]) -> Self {
        let each =
            |of: fn(&PipelineCounts) -> i64| spread(at, rows.iter().map(|row| (row.minute, of(&row.counts))));
        Self {
            captured: each(|counts| counts.captured),
            batches: each(|counts| counts.batches),
            stored: each(|counts| counts.stored),
            duplicates: each(|counts| counts.duplicates),
            dead_letters: each(|counts| counts.dead_letters),
            insert_errors: each(|counts| counts.insert_errors),
        }
    }
}

impl From<PipelineProcess> for Process {
    fn from(row: PipelineProcess) -> Self {
        Self {
            process: row.process,
            roles: row.roles.split(',').map(ToOwned::to_owned).collect(),
            first: row.first,
            last: row.last,
            counts: row.counts,
        }
    }
}

/// The lag of every group by topic; of one group also that of its partitions that were behind at any time.
fn series(at: &[Timestamp], rows: &[PipelineLag], of: Option<&str>) -> Vec<LagSeries> {
    let looks: Vec<(Timestamp, Vec<Group>)> = rows
        .iter()
        .filter_map(|row| Some((row.minute, Vec::deserialize(&row.lags.0).ok()?)))
        .map(|(minute, mut groups): (_, Vec<Group>)| {
            groups.retain(|group| of.is_none_or(|name| name == group.0));
            (minute, groups)
        })
        .collect();
    let mut wanted: BTreeSet<(&str, &str, Option<i32>)> = BTreeSet::new();
    for Group(group, topic, _, partitions) in looks.iter().flat_map(|(_, groups)| groups) {
        wanted.insert((group, topic, None));
        if of.is_some() {
            wanted.extend(partitions.keys().map(|partition| (&**group, &**topic, Some(*partition))));
        }
    }
    let one = |(group, topic, partition): (&str, &str, Option<i32>)| {
        let known = looks.iter().filter_map(|(minute, groups)| {
            let Group(.., lag, partitions) = groups.iter().find(|one| one.0 == group && one.1 == topic)?;
            let lag = partition.map_or(*lag, |at| partitions.get(&at).copied().unwrap_or(0));
            Some((*minute, lag))
        });
        let lag = spread(at, known);
        LagSeries { group: group.to_owned(), topic: topic.to_owned(), partition, lag }
    };
    wanted.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::JsonText;

    const START: i64 = 1_700_000_040_000;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_millis(START + second * 1000)
    }

    fn stored(stored: i64) -> PipelineCounts {
        PipelineCounts { stored, ..PipelineCounts::default() }
    }

    fn minutes(max: usize) -> Minutes {
        Minutes { totals: stored(100), open: VecDeque::new(), max }
    }

    fn open(minutes: &Minutes) -> Vec<(i64, i64)> {
        let of =
            |(at, counts): &(Timestamp, PipelineCounts)| ((at.as_millis() - START) / 60_000, counts.stored);
        minutes.open.iter().map(of).collect()
    }

    #[test]
    fn each_minute_has_what_was_counted_since_the_look_before() {
        let mut minutes = minutes(10);
        for (at, total) in [(0, 103), (59, 110), (60, 111), (75, 111), (200, 131)] {
            minutes.add(second(at), stored(total));
        }
        assert_eq!(
            open(&minutes),
            [(0, 10), (1, 1), (3, 20)],
            "what stood there before the start counts nowhere"
        );
        // A clock that goes back, and counters that cannot: nothing is counted twice, and no minute opened again.
        minutes.add(second(10), stored(132));
        minutes.add(second(201), stored(120));
        assert_eq!(open(&minutes), [(0, 10), (1, 1), (3, 21)]);
    }

    #[test]
    fn what_is_written_is_forgotten_but_for_the_running_minute_which_goes_on() {
        let mut minutes = minutes(10);
        minutes.add(second(0), stored(101));
        minutes.add(second(61), stored(102));
        let rows: Vec<_> = minutes.open.iter().copied().collect();
        minutes.add(second(121), stored(109));
        minutes.written(&rows);
        assert_eq!(open(&minutes), [(1, 1), (2, 7)]);
        minutes.add(second(122), stored(110));
        assert_eq!(open(&minutes), [(1, 1), (2, 8)]);
    }

    #[test]
    fn no_more_minutes_wait_than_the_history_keeps() {
        let mut minutes = minutes(3);
        for minute in 0..10 {
            minutes.add(second(minute * 60), stored(101 + minute));
        }
        assert_eq!(open(&minutes), [(7, 1), (8, 1), (9, 1)]);
    }

    fn row(group: &str, partition: i32, lag: i64) -> PartitionLag {
        let (group, topic) = (group.to_owned(), "events".to_owned());
        PartitionLag { group, topic, partition, committed: Some(0), log_start: 0, end: lag, lag }
    }

    #[test]
    fn the_partitions_furthest_behind_are_kept_and_the_sums_of_all() {
        let rows = [row("a", 0, 2), row("a", 1, 3), row("a", 2, 0), row("b", 0, 0), row("c", 0, 4)];
        let kept = json!(Group::of(&rows, 2));
        assert_eq!(
            kept,
            json!([["a", "events", 5, {"1": 3}], ["b", "events", 0, {}], ["c", "events", 4, {"0": 4}]])
        );
        assert_eq!(Vec::<Group>::deserialize(&kept).unwrap(), Group::of(&rows, 2));
    }

    #[test]
    fn a_minute_that_nobody_told_of_has_no_value_and_one_without_lag_zero() {
        let at = timeline(second(0), second(180));
        let look = |minute: i64, lags| PipelineLag {
            minute: second(minute * 60),
            lags: JsonText(lags),
            created_at: second(0),
            updated_at: second(0),
        };
        let rows = [
            look(0, json!([["a", "events", 7, {"0": 4, "2": 3}], ["b", "events", 1, {"0": 1}]])),
            look(1, json!([["a", "events", 0, {}], ["b", "events", 0, {}]])),
            look(3, json!([["b", "events", 2, {"0": 2}]])),
        ];
        let told = |of| -> Vec<_> {
            let all = series(&at, &rows, of);
            all.into_iter().map(|one| (one.group, one.partition, one.lag)).collect()
        };
        let a = |partition, first| ("a".to_owned(), partition, vec![Some(first), Some(0), None, None]);
        let b = ("b".to_owned(), None, vec![Some(1), Some(0), None, Some(2)]);
        assert_eq!(told(None), [a(None, 7), b]);
        assert_eq!(told(Some("a")), [a(None, 7), a(Some(0), 4), a(Some(2), 3)]);
    }
}

//! What was found of events, folded into a decimal a window and group.

use std::collections::BTreeMap;
use std::sync::Arc;

use bigdecimal::BigDecimal;
use foldhash::fast::RandomState;
use indexmap::{IndexMap, IndexSet};

use super::meter::properties_of;
use super::number::Quantity;
use super::rows;
use super::tally::{Added, Aggregation, Sample, Tally};
use super::tracking::Summed;
use super::usage::{Counts, FROM_EVENTS, Plan, Point, Segment, Usage};
use crate::event::Timestamp;
use crate::store::{Row, RowCells, StoreError};

/// A group of events with the same window, group and value; or all of a window and group whose values the store has
/// made one of ([`rows::short`]).
pub(super) struct Found {
    pub window: i64,
    pub group: Vec<String>,
    pub texts: Vec<String>,
    pub whole: String,
    pub millis: i64,
    pub event_id: String,
    pub events: u64,
    pub made: Option<Made>,
}

/// What the store made of short numbers: their sum, or the one that counts; and the sum of each times its milliseconds.
pub(super) struct Made {
    number: BigDecimal,
    moments: BigDecimal,
}

impl Row for Found {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            window: cells.next()?,
            group: cells.next()?,
            texts: cells.next()?,
            whole: cells.next()?,
            millis: cells.next()?,
            event_id: cells.next()?,
            events: cells.next()?,
            made: {
                let (made, number, moments): (bool, String, String) =
                    (cells.next()?, cells.next()?, cells.next()?);
                made.then(|| Ok(Made { number: rows::decimal(&number)?, moments: rows::decimal(&moments)? }))
                    .transpose()?
            },
        })
    }
}

/// Tallies by window and group under way.
pub(super) struct Fold<'p> {
    plan: &'p Plan,
    aggregation: Aggregation,
    bounds: Vec<Timestamp>,
    groups: IndexSet<Arc<[String]>, RandomState>,
    /// By window and place of the group.
    by_group: IndexMap<(i64, usize), Tally, RandomState>,
    total: Tally,
}

impl<'p> Fold<'p> {
    pub(super) fn new(plan: &'p Plan, bounds: Vec<Timestamp>) -> Self {
        let (groups, by_group) = (IndexSet::default(), IndexMap::default());
        let aggregation = plan.aggregation();
        Self { plan, aggregation, bounds, groups, by_group, total: Tally::of(aggregation) }
    }

    /// Takes what the store found of events.
    pub(super) fn add(&mut self, segment: &Segment, mut found: Found) {
        if let Some(made) = found.made.take() {
            return self.add_made(segment, found, made);
        }
        let reread: Vec<String>;
        let mut json: Vec<&str> = found.texts.iter().map(String::as_str).collect();
        if !found.whole.is_empty() {
            let properties = properties_of(&found.whole);
            let keys = segment.measure.properties().iter();
            reread = keys
                .map(|key| properties.get(key).map_or(String::new(), |raw| raw.get().to_owned()))
                .collect();
            json = reread.iter().map(String::as_str).collect();
        }
        let quantity = segment.measure.quantity(&json);
        let text = match self.aggregation {
            Aggregation::CountUnique => segment.measure.unique_text(&json),
            _ => None,
        };
        let sample = Sample {
            events: found.events,
            quantity: &quantity,
            text: text.as_deref(),
            millis: found.millis,
            event_id: &found.event_id,
        };
        self.count_in(found.window, found.group, |tally, end| tally.add(&sample, end));
    }

    /// Where windows begin and end; none: the range is one.
    pub(super) fn bounds(&self) -> &[Timestamp] {
        &self.bounds
    }

    /// Windows and groups so far.
    pub(super) fn len(&self) -> usize {
        self.by_group.len()
    }

    /// Takes tracked usage.
    pub(super) fn add_tracked(&mut self, summed: Summed) {
        let Summed { window, group, quantity, events, millis, event_id } = summed;
        match (self.aggregation, quantity) {
            (Aggregation::Sum | Aggregation::SumWithMultiplier | Aggregation::Avg, Quantity::Number(sum)) => {
                self.count_in(window, group, |tally, _| tally.add_sum(events, &sum));
            }
            (_, quantity) => {
                let quantity = &quantity;
                let sample = Sample { events, quantity, text: None, millis, event_id: &event_id };
                self.count_in(window, group, |tally, end| tally.add(&sample, end));
            }
        }
    }

    /// Takes what the store has made of short numbers.
    fn add_made(&mut self, segment: &Segment, found: Found, made: Made) {
        let Found { window, group, events, millis, event_id, .. } = found;
        if matches!(self.aggregation, Aggregation::Max | Aggregation::Min | Aggregation::Latest) {
            let quantity = &Quantity::Number(made.number);
            let sample = Sample { events, quantity, text: None, millis, event_id: &event_id };
            return self.count_in(window, group, |tally, end| tally.add(&sample, end));
        }
        let sum = segment.measure.multiplied(made.number);
        let added = Added { events, sum, moments: made.moments };
        self.count_in(window, group, |tally, end| tally.add_up(&added, end));
    }

    /// Into the total, and the tally of its window and group; each with where its time ends.
    fn count_in(&mut self, window: i64, group: Vec<String>, add: impl Fn(&mut Tally, i64)) {
        let end = end_of(&self.bounds, self.plan.end.as_millis(), window);
        add(&mut self.total, self.plan.end.as_millis());
        if self.plan.cut().is_some() || !group.is_empty() {
            let known = self.groups.get_index_of(group.as_slice());
            let place = known.unwrap_or_else(|| self.groups.insert_full(group.into()).0);
            let tally = self.by_group.entry((window, place)).or_insert_with(|| Tally::of(self.aggregation));
            add(tally, end);
        }
    }

    /// What they come to.
    pub(super) fn finish(self) -> Usage {
        let Self { plan, bounds, groups, by_group, total, .. } = self;
        let whole = (plan.from.as_millis(), plan.end.as_millis());
        let span = |start: i64| {
            if bounds.is_empty() { whole.1 - whole.0 } else { end_of(&bounds, whole.1, start) - start }
        };
        let ranks = ranks(&groups);
        let mut found: Vec<((i64, Option<usize>), usize, Tally)> = by_group
            .into_iter()
            .map(|((window, place), tally)| ((window, ranks.get(place).copied()), place, tally))
            .collect();
        found.sort_unstable_by_key(|(key, _, _)| *key);
        let points: Vec<Point> = found
            .into_iter()
            .map(|((window, _), place, tally)| Point {
                start: (!bounds.is_empty()).then(|| Timestamp::from_millis(window)),
                group: groups.get_index(place).cloned().unwrap_or_default(),
                counts: Counts::of(&tally),
                value: tally.into_value(span(window)),
            })
            .collect();
        let counts = Counts::of(&total);
        let total =
            Point { start: None, group: Arc::default(), value: total.into_value(whole.1 - whole.0), counts };
        if plan.buckets.is_some() {
            summed(plan, points, total)
        } else {
            Usage { read_from: FROM_EVENTS, total, points }
        }
    }
}

/// The rank of each group, by its place: they are put in order once, not once a window.
fn ranks(groups: &IndexSet<Arc<[String]>, RandomState>) -> Vec<usize> {
    let mut order: Vec<(&Arc<[String]>, usize)> = groups.iter().zip(0..).collect();
    order.sort_unstable();
    let mut ranks: Vec<(usize, usize)> =
        order.into_iter().zip(0..).map(|((_, place), rank)| (place, rank)).collect();
    ranks.sort_unstable();
    ranks.into_iter().map(|(_, rank)| rank).collect()
}

/// The end of the window that starts at `start`; `end`, of the whole range, without windows.
fn end_of(bounds: &[Timestamp], end: i64, start: i64) -> i64 {
    let after = bounds.partition_point(|bound| bound.as_millis() <= start);
    bounds.get(after).map_or(end, |end| end.as_millis())
}

/// The values of buckets and groups, summed over the windows that hold them.
fn summed(plan: &Plan, buckets: Vec<Point>, total: Point) -> Usage {
    let windows = plan.windows.as_ref().or(plan.buckets.as_ref());
    let mut points: BTreeMap<Timestamp, Point> = BTreeMap::new();
    let mut sum = BigDecimal::from(0);
    for bucket in buckets {
        let (Some(start), Some(windows)) = (bucket.start, windows) else { continue };
        // A bucket that begins before the range belongs to the range's first window.
        let start = windows.floor(start.max(plan.from));
        let value = bucket.value.unwrap_or_default();
        sum += &value;
        let empty =
            || Point { start: Some(start), group: Arc::default(), value: None, counts: Counts::default() };
        let point = points.entry(start).or_insert_with(empty);
        point.value = Some(point.value.take().unwrap_or_default() + value);
        point.counts = point.counts.plus(bucket.counts);
    }
    let value = if points.is_empty() { total.value.map(|_| sum) } else { Some(sum) };
    Usage { read_from: FROM_EVENTS, total: Point { value, ..total }, points: points.into_values().collect() }
}

//! Ranges of days, side by side. Each lane reads a page ahead while the one before it is worked on, and waits for no other
//! lane; where it stands is behind the last page of its own that is durable, and never further.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Former;
use super::ground::{Raw, day_of};
use super::order::{Place, Totals};
use super::page::Bench;
use crate::event::Timestamp;
use crate::job::JobError;
use crate::telemetry::names;
use crate::transform::Key;

/// Most days of one span: each is a partition, which a page's insert has a part in.
pub(super) const SPAN_DAYS_MAX: u64 = 31;
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// Days that a page may be of: one, or several that fit one page together. Both included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Span {
    pub from: Timestamp,
    pub to: Timestamp,
}

/// A range of days that one page after the other goes through.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Lane {
    /// Where days are looked for next, and the end of the range, included.
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    /// The spans that were found, the one at hand first.
    #[serde(default)]
    pub(super) spans: VecDeque<Span>,
    /// The last raw event that was done, in the span at hand.
    #[serde(default)]
    pub(super) after: Option<Place>,
    /// How long the payloads of the last page were on average, so that the next one is not asked for more than fits.
    #[serde(default)]
    payload_bytes: usize,
    pub(super) done: bool,
}

impl Lane {
    pub(super) fn new(from: Timestamp, to: Timestamp) -> Self {
        Self { from, to, spans: VecDeque::new(), after: None, payload_bytes: 0, done: false }
    }

    /// Takes the next days that have raw events, as many to a span as fit a page.
    fn take(&mut self, days: &[(Timestamp, u64)], page: u64) {
        let mut held = 0;
        for (day, raws) in days {
            let end = Timestamp::from_millis(day.plus(DAY).as_millis() - 1).min(self.to);
            match self.spans.back_mut() {
                Some(last) if held + raws < page => {
                    last.to = end;
                    held += raws;
                }
                _ => {
                    self.spans.push_back(Span { from: (*day).max(self.from), to: end });
                    held = *raws;
                }
            }
        }
        // Fewer than were asked for: there are no others.
        let last = days.last().filter(|_| days.len() as u64 == SPAN_DAYS_MAX);
        self.from = last.map_or(self.to.plus(DAY), |(day, _)| day.plus(DAY));
    }
}

/// Raw events that were read, what became of each so far, and where their lane stands once they are done.
pub(super) struct Page {
    pub(super) raws: Vec<Raw>,
    pub(super) former: Vec<Option<Former>>,
    next: Lane,
    /// How long that took.
    read_in: Duration,
}

impl Page {
    /// The keys of the events that this raw event was so far.
    pub(super) fn former_keys(&self, index: usize) -> &[Key] {
        self.former.get(index).and_then(Option::as_ref).map_or(&[], |former| &former.keys)
    }
}

/// What the lanes did between two checkpoints.
pub(super) struct Stretch {
    pub(super) totals: Totals,
    /// Why the first lane that failed did.
    pub(super) failed: Option<JobError>,
}

impl Bench {
    /// Moves every lane on, until `enough` or its end; a page that was begun is finished. A lane that fails stays behind
    /// its last whole page, and the others go on.
    pub(super) async fn side_by_side(
        self: &Arc<Self>,
        lanes: &mut [Lane],
        enough: &(dyn Fn() -> bool + Sync),
    ) -> Stretch {
        let open = lanes.iter_mut().filter(|lane| !lane.done);
        let mut stretch = Stretch { totals: Totals::default(), failed: None };
        for (totals, failed) in join_all(open.map(|lane| self.walk(lane, enough))).await {
            stretch.totals.add(&totals);
            stretch.failed = stretch.failed.or(failed);
        }
        stretch
    }

    async fn walk(
        self: &Arc<Self>,
        lane: &mut Lane,
        enough: &(dyn Fn() -> bool + Sync),
    ) -> (Totals, Option<JobError>) {
        let mut totals = Totals::default();
        let mut read = Some(self.read(lane).await);
        while let Some(reading) = read {
            let page = match reading {
                Ok(Some(page)) => Arc::new(page),
                Ok(None) => {
                    lane.done = true;
                    break;
                }
                Err(error) => return (totals, Some(error)),
            };
            let ahead =
                async { if page.next.done || enough() { None } else { Some(self.read(&page.next).await) } };
            let (worked, next) = tokio::join!(self.done_with(&page), ahead);
            match worked {
                Ok(came) => {
                    totals.add(&came);
                    *lane = page.next.clone();
                }
                Err(error) => return (totals, Some(error)),
            }
            read = next;
        }
        (totals, None)
    }

    async fn done_with(self: &Arc<Self>, page: &Arc<Page>) -> Result<Totals, JobError> {
        if page.raws.is_empty() {
            return Ok(Totals::default());
        }
        let (began, batches) = (Instant::now(), self.order.batches(page.raws.len()));
        let batch = self.batches.fetch_add(batches, Ordering::Relaxed);
        let totals = self.work(page, batch).await?;
        let took = (page.read_in + began.elapsed()).as_secs_f64();
        let count = u32::try_from(batches).unwrap_or(u32::MAX).max(1);
        names::REPROCESS_BATCH_DURATION.histogram(&[]).record_many(took / f64::from(count), count as usize);
        Ok(totals)
    }

    /// The next page of a lane; none: the lane is through.
    async fn read(&self, lane: &Lane) -> Result<Option<Page>, JobError> {
        let (began, mut next) = (Instant::now(), lane.clone());
        let bytes_max = self.page_bytes_max;
        let limit = self.order.page_rows(bytes_max / next.payload_bytes.max(1));
        if next.spans.is_empty() {
            if next.from > next.to {
                return Ok(None);
            }
            next.after = None;
            let days = self.ground.days(&self.order, next.from, next.to, SPAN_DAYS_MAX).await;
            next.take(&days?, limit as u64);
        }
        let Some(span) = next.spans.front().copied() else { return Ok(None) };
        let after = next.after.as_ref();
        let raws = self.ground.page(&self.order, span, after, self.received_until, limit, bytes_max).await;
        let raws = raws?;
        let mut former = match (raws.first(), raws.last()) {
            (Some(first), Some(last)) => {
                self.ground.former(&self.order, span, &first.place, &last.place).await?
            }
            _ => Default::default(),
        };
        let former = raws.iter().map(|raw| former.remove(&raw.place)).collect();
        let bytes: usize = raws.iter().map(|raw| raw.payload.len()).sum();
        next.payload_bytes = bytes.checked_div(raws.len()).unwrap_or(next.payload_bytes);
        if raws.len() < limit && bytes < bytes_max {
            next.spans.pop_front();
            next.after = None;
        } else {
            next.after = raws.last().map(|raw| raw.place.clone());
        }
        next.done = next.spans.is_empty() && next.from > next.to;
        Ok(Some(Page { raws, former, next, read_in: began.elapsed() }))
    }
}

/// The days of an order in as many ranges as are wanted, of about as many raw events each.
pub(super) fn divided(
    days: &[(Timestamp, u64)],
    wanted: usize,
    start: Timestamp,
    end: Timestamp,
) -> Vec<Lane> {
    let total: u64 = days.iter().map(|(_, raws)| raws).sum();
    let share = total.div_ceil(wanted as u64).max(1);
    let mut lanes: Vec<Lane> = Vec::new();
    let mut held = 0;
    for (day, raws) in days {
        let place = (held / share).min(wanted as u64 - 1);
        if lanes.len() as u64 <= place {
            let from = (*day).max(start);
            lanes.push(Lane::new(from, from));
        }
        if let Some(lane) = lanes.last_mut() {
            lane.to = Timestamp::from_millis(day_of(*day).plus(DAY).as_millis() - 1).min(end);
        }
        held += raws;
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(number: i64) -> Timestamp {
        Timestamp::from_millis(number * 86_400_000)
    }

    fn end(number: i64) -> Timestamp {
        Timestamp::from_millis((number + 1) * 86_400_000 - 1)
    }

    #[test]
    fn days_share_a_page_while_they_fit_it() {
        let mut lane = Lane::new(day(1).plus(Duration::from_secs(5)), end(9));
        lane.take(&[(day(1), 3), (day(2), 4), (day(5), 2), (day(6), 40), (day(9), 1)], 10);
        let span = |from, to| Span { from, to };
        let expected = [
            span(lane_from(1), end(5)),
            // A day that fills pages has them for itself.
            span(day(6), end(6)),
            span(day(9), end(9)),
        ];
        assert_eq!(lane.spans, expected);
        assert!(lane.from > lane.to, "there are no other days");
        let many: Vec<_> =
            (0..SPAN_DAYS_MAX).map(|number| (day(i64::try_from(number).unwrap()), 10)).collect();
        let mut lane = Lane::new(day(0), end(99));
        lane.take(&many, 10);
        assert_eq!((lane.spans.len() as u64, lane.from), (SPAN_DAYS_MAX, day(31)), "there may be others");
    }

    fn lane_from(number: i64) -> Timestamp {
        day(number).plus(Duration::from_secs(5))
    }

    #[test]
    fn ranges_are_of_about_as_many_raw_events_and_leave_nothing_out() {
        let days: Vec<(Timestamp, u64)> = (0..28).map(|number| (day(number), 100)).collect();
        for wanted in [1, 2, 3, 4, 16] {
            let lanes = divided(&days, wanted, day(0), end(27));
            assert_eq!(lanes.len(), wanted);
            assert_eq!((lanes[0].from, lanes.last().unwrap().to), (day(0), end(27)));
            for pair in lanes.windows(2) {
                assert!(pair[0].to < pair[1].from);
            }
        }
        assert_eq!(divided(&[], 4, day(0), end(1)), []);
    }
}

//! What a reprocess job was told to do (its spec), and how far it got.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::lanes::Lane;
use crate::event::{Scope, Timestamp};
use crate::transform::Pinned;

/// The kind of these jobs.
pub const KIND: &str = "raw_reprocess";
/// What a workflow's id begins with, and its task queue, in the words of the documents.
pub const WORKFLOW: &str = "ReprocessRawEventsWorkflow-";
pub const TASK_QUEUE: &str = "events";
/// Raw events of a batch: at least, at most, and when nothing is said.
pub(super) const BATCH_SIZE_MAX: usize = 10_000;
pub(super) const BATCH_SIZE_DEFAULT: usize = 1000;
/// Outside of these a batch is smaller or larger than is good for it.
pub(super) const BATCH_SIZE_GOOD: std::ops::RangeInclusive<usize> = 100..=5000;
/// Batches smaller than this are wanted as small steps: each is a page of its own. Of others, a page has several: what
/// the store takes for a statement is mostly the statement's, and not the rows'.
const BATCH_ALONE_BELOW: usize = 1000;
/// Most raw events of a page of several batches, and of the pages of all ranges together.
const PAGE_ROWS: usize = 20_000;
const PAGES_ROWS: usize = 40_000;
/// Most values of one filter.
pub(super) const FILTER_VALUES_MAX: usize = 5000;

/// The spec of a job: kept in its row, shown to people.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Order {
    pub scope: Scope,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external_customer_ids: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub event_names: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub event_ids: Vec<String>,
    /// Raw events of these times, both included.
    pub start_date: Timestamp,
    pub end_date: Timestamp,
    /// Only those whose events are not stored.
    #[serde(default)]
    pub pending: bool,
    pub batch_size: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_percent: Option<f64>,
    pub parallelism: usize,
    /// Says what would happen and writes nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// The job uses this one to its end, whatever is made meanwhile.
    pub transform: Pinned,
    /// Not before then: every process uses this version of the transform.
    pub begins: Timestamp,
    /// Key id, or `operator`.
    pub requested_by: String,
}

impl Order {
    /// `ReprocessRawEventsWorkflow-customer123-job_…`.
    pub fn workflow_id(&self, job_id: &str) -> String {
        let plain = |text: &String| -> String {
            text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.')).take(60).collect()
        };
        let mut id = WORKFLOW.to_owned();
        for named in [self.external_customer_ids.first(), self.event_names.first()].into_iter().flatten() {
            id.push_str(&plain(named));
            id.push('-');
        }
        id + job_id
    }

    /// Raw events that are read and written together: whole batches, at least one, and others as long as so many fit.
    pub(super) fn page_rows(&self, fit: usize) -> usize {
        if self.batch_size < BATCH_ALONE_BELOW {
            return self.batch_size;
        }
        let room = PAGE_ROWS.min(PAGES_ROWS / self.parallelism.max(1)).min(fit);
        self.batch_size * (room / self.batch_size).max(1)
    }

    /// So many batches are these raw events of a page.
    pub(super) fn batches(&self, raws: usize) -> u64 {
        raws.div_ceil(self.batch_size.max(1)) as u64
    }

    /// May both write what became of the same raw event, each in its own way?
    pub fn contradicts(&self, other: &Self) -> bool {
        self.scope == other.scope
            && !self.dry_run
            && !other.dry_run
            && self.start_date <= other.end_date
            && other.start_date <= self.end_date
            && (&self.transform.id, self.transform.version) != (&other.transform.id, other.transform.version)
    }

    /// Is this raw event in the sample? The same ones every time.
    pub fn samples(&self, raw_id: &str) -> bool {
        self.sample_percent.is_none_or(|percent| {
            let place = xxhash_rust::xxh3::xxh3_64(raw_id.as_bytes()) % 1_000_000;
            #[expect(clippy::cast_precision_loss, reason = "less than a million")]
            let place = place as f64;
            place < percent * 10_000.0
        })
    }
}

/// The job of a workflow id, or of a run id.
pub fn job_of(workflow_id: &str) -> &str {
    workflow_id.strip_prefix(WORKFLOW).map_or(workflow_id, |rest| rest.rsplit('-').next().unwrap_or(rest))
}

/// The place of a raw event in the order of the table: customer, time, name, id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Place(pub String, pub Timestamp, pub String, pub String);

/// What came of it, by the names of the documents.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Totals {
    pub(super) total_events_found: u64,
    pub(super) total_events_published: u64,
    pub(super) total_events_dropped: u64,
    pub(super) total_transformation_errors: u64,
    pub(super) total_events_failed: u64,
    /// Left as they are: corrected or deleted by hand, or the resend of another raw event.
    pub(super) total_events_kept: u64,
    pub(super) dropped_by_reason: BTreeMap<String, u64>,
    /// Records written: events, and tombstones of those that are no more.
    pub(super) events_written: u64,
    pub(super) events_removed: u64,
    pub(super) processed_batches: u64,
}

impl Totals {
    pub(super) fn add(&mut self, other: &Self) {
        self.total_events_found += other.total_events_found;
        self.total_events_published += other.total_events_published;
        self.total_events_dropped += other.total_events_dropped;
        self.total_transformation_errors += other.total_transformation_errors;
        self.total_events_failed += other.total_events_failed;
        self.total_events_kept += other.total_events_kept;
        self.events_written += other.events_written;
        self.events_removed += other.events_removed;
        self.processed_batches += other.processed_batches;
        for (reason, count) in &other.dropped_by_reason {
            *self.dropped_by_reason.entry(reason.clone()).or_default() += count;
        }
    }

    /// Of those found, in percent with two digits; 100 where there are none.
    #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
    pub(super) fn success_rate_percent(&self) -> f64 {
        if self.total_events_found == 0 {
            return 100.0;
        }
        let share = self.total_events_published as f64 / self.total_events_found as f64;
        (share * 10_000.0).round() / 100.0
    }

    pub(super) fn to_json(&self) -> Value {
        let mut json = json!(self);
        json["success_rate_percent"] = json!(self.success_rate_percent());
        json
    }
}

/// How far a job got.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct At {
    /// Ends of the topic of raw events that the live stage must have passed; then of that of events.
    pub(super) raw_ends: Option<Vec<i64>>,
    pub(super) event_ends: Option<Vec<i64>>,
    /// Raw events received later are the live stage's.
    pub(super) received_until: Timestamp,
    /// The version of the rows it writes; none: not begun.
    pub(super) generation: Option<u64>,
    pub(super) lanes: Vec<Lane>,
    pub(super) totals: Totals,
    /// Raw events that were there at the start.
    pub(super) estimated: u64,
    /// Milliseconds of work so far, and in this claim.
    pub(super) worked_ms: u64,
    pub(super) claim: i64,
    pub(super) claim_worked_ms: u64,
    /// The claim in which `reprocess.timeout` was reached.
    pub(super) timed_out_in: Option<i64>,
}

impl At {
    pub(super) fn progress(&self, waits_for: Option<&str>) -> Value {
        let mut json = self.totals.to_json();
        json["total_events_estimated"] = json!(self.estimated);
        json["generation"] = json!(self.generation);
        json["worked_ms"] = json!(self.worked_ms);
        if let Some(waits_for) = waits_for {
            json["waits_for"] = json!(waits_for);
        }
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::{DEFAULT, DEFAULT_ID, Spec};

    pub(in crate::reprocess) fn order() -> Order {
        Order {
            scope: Scope::new("p", "e"),
            external_customer_ids: vec!["customer 123/x".to_owned()],
            event_names: Vec::new(),
            event_ids: Vec::new(),
            start_date: Timestamp::EPOCH,
            end_date: Timestamp::MAX,
            pending: false,
            batch_size: 10,
            sample_percent: None,
            parallelism: 1,
            dry_run: false,
            transform: Pinned { id: DEFAULT_ID.to_owned(), version: 0, spec: Spec::read(DEFAULT).unwrap() },
            begins: Timestamp::EPOCH,
            requested_by: "operator".to_owned(),
        }
    }

    #[test]
    fn a_workflow_is_named_after_its_filters_and_finds_its_job() {
        let id = order().workflow_id("job_0192");
        assert_eq!(id, "ReprocessRawEventsWorkflow-customer123x-job_0192");
        assert_eq!(job_of(&id), "job_0192");
        assert_eq!(job_of("job_0192"), "job_0192");
    }

    #[test]
    fn jobs_contradict_each_other_only_with_another_version_over_the_same_time() {
        let mut other = order();
        assert!(!order().contradicts(&other), "the same version makes the same events");
        other.transform.version = 1;
        assert!(order().contradicts(&other));
        assert!(!order().contradicts(&Order { dry_run: true, ..other.clone() }));
        let mut later = Order { start_date: Timestamp::from_millis(10), ..other };
        assert!(!Order { end_date: Timestamp::from_millis(9), ..order() }.contradicts(&later));
        later.scope = Scope::new("p", "another");
        assert!(!order().contradicts(&later));
    }

    #[test]
    fn a_sample_takes_about_its_share_and_the_same_ones_every_time() {
        let sampled = Order { sample_percent: Some(10.0), ..order() };
        let taken = (0..10_000).filter(|id| sampled.samples(&id.to_string())).count();
        assert!((800..1200).contains(&taken), "{taken}");
        let all = Order { sample_percent: Some(100.0), ..order() };
        assert!((0..1000).all(|id| all.samples(&id.to_string())));
    }

    #[test]
    fn a_page_is_of_whole_batches_and_small_ones_are_pages_of_their_own() {
        let page = |batch_size, parallelism| Order { batch_size, parallelism, ..order() }.page_rows(100_000);
        assert_eq!([page(1, 1), page(999, 4), page(10_000, 16)], [1, 999, 10_000]);
        assert_eq!(
            [page(1000, 1), page(5000, 4), page(5000, 16), page(3000, 4)],
            [20_000, 10_000, 5000, 9000]
        );
        assert_eq!(Order { batch_size: 1000, ..order() }.page_rows(3700), 3000, "long payloads");
        let batches = |raws| Order { batch_size: 1000, ..order() }.batches(raws);
        assert_eq!([batches(0), batches(1), batches(1000), batches(1001)], [0, 1, 1, 2]);
    }

    #[test]
    fn a_spec_reads_back_from_its_row() {
        let row = serde_json::to_value(order()).unwrap();
        assert_eq!(serde_json::from_value::<Order>(row).unwrap(), order());
    }
}

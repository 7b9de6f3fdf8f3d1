//! Buckets that are closed: what a series came to in each is remembered, so that a trend over three months that is asked
//! again counts only what is new.
//!
//! That is done for series that are counted bucket by bucket (events, an aggregate over them or over each person's
//! number of them) without a breakdown, whose values are chosen over the whole range. Their statement must read nothing but
//! the bucket's events and properties: no session, no behaviour of a cohort, no expression (it may ask for the time). A
//! bucket is closed when its last day, in UTC, is over. What it came to holds as an answer does (see `cache.rs`): until an
//! event of its days is stored, or people change, or properties where it asks for them; and `query.cache_past_ttl` at most,
//! for what other processes store. A process that stores nothing itself sees none of this: there it lasts
//! `query.cache_open_ttl`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use moka::sync::Cache;
use sha2::{Digest as _, Sha256};

use super::answer::Row;
use super::math::Shape;
use super::plan::{Period, Plan, PlannedSeries};
use super::sql;
use crate::config;
use crate::event::{Scope, Timestamp};
use crate::http::Problem;
use crate::query::interval::Buckets;
use crate::query::range::Range;
use crate::query::{Query, expression, statement};
use crate::store::Store;
use crate::telemetry::names;

const DAY_MILLIS: i64 = 86_400_000;
/// What one bucket takes with its key and its place in the cache, in bytes.
const BUCKET_BYTES: u32 = 400;
/// This part of `query.cache_bytes_max` is for buckets, the rest for whole answers.
pub(in crate::query) const PART: u64 = 4;

/// The buckets that are remembered. Cheap to clone.
#[derive(Clone)]
pub(in crate::query) struct Closed {
    kept: Cache<[u8; 32], Piece>,
    open_ttl: Duration,
}

/// What a series came to in one bucket; `None`: there was nothing.
#[derive(Clone, Copy, Debug)]
struct Piece {
    value: Option<f64>,
    at: Instant,
    before: Before,
    /// Does it hang on properties of persons or groups?
    of_properties: bool,
}

/// What had happened before the store was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Before {
    changes: u64,
    persons: u64,
    properties: u64,
}

/// How a question remembers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    pub(super) before: Before,
    /// Pass by what is remembered?
    pub(super) anew: bool,
}

impl Before {
    pub(super) fn now(store: &Store, scope: &Scope) -> Self {
        Self {
            changes: store.changes(),
            persons: store.persons_generation(scope),
            properties: store.person_properties_generation(scope),
        }
    }
}

impl Closed {
    pub(in crate::query) fn new(limits: &config::Query) -> Self {
        let kept = Cache::builder()
            .max_capacity(limits.cache_bytes_max.as_u64() / PART)
            .weigher(|_, _| BUCKET_BYTES)
            .time_to_live(limits.cache_past_ttl)
            .build();
        Self { kept, open_ttl: limits.cache_open_ttl }
    }

    fn get(&self, key: &[u8; 32], store: &Store, scope: &Scope, bucket: Range) -> Option<Piece> {
        let piece = self.kept.get(key)?;
        let stores = store.changes() > 0;
        ((stores || piece.at.elapsed() < self.open_ttl) && piece.holds(store, scope, bucket)).then_some(piece)
    }
}

impl Piece {
    fn holds(&self, store: &Store, scope: &Scope, bucket: Range) -> bool {
        let Before { changes, persons, properties } = self.before;
        store.events_changed_within(scope, days(bucket)) <= changes
            && store.persons_generation(scope) == persons
            && (!self.of_properties || store.person_properties_generation(scope) == properties)
    }
}

/// The first and the last day (since 1970, UTC) of a bucket.
fn days(bucket: Range) -> (i64, i64) {
    let day = |at: Timestamp| at.as_millis().div_euclid(DAY_MILLIS);
    (day(bucket.from), day(bucket.last()))
}

/// What tells a series from others, whenever it is asked for; and whether it hangs on properties.
struct Identity {
    digest: Sha256,
    of_properties: bool,
}

impl Identity {
    /// None: its buckets are not remembered.
    fn of(scope: &Scope, plan: &Plan, series: &PlannedSeries) -> Option<Self> {
        let by_bucket = matches!(series.shape, Shape::Events(..) | Shape::PerActor(_));
        if !by_bucket || plan.breakdown.is_some() || plan.display.of_whole() {
            return None;
        }
        // The same for every range.
        let (from, end) = (Timestamp::EPOCH, Timestamp::from_millis(1));
        let never = Period { label: None, range: Range { from, end }, buckets: Buckets::whole(from, end) };
        let sql = sql::statement(scope, plan, &never, series, None);
        if !statement::reads_events_once(&sql) || expression::field_of(&sql).is_some() {
            return None;
        }
        let of_properties = sql.text().contains("_properties FINAL");
        Some(Self { digest: Sha256::new().chain_update(sql.text()), of_properties })
    }

    fn key(&self, bucket: Range) -> [u8; 32] {
        let digest = self.digest.clone().chain_update(bucket.from.as_millis().to_le_bytes());
        digest.chain_update(bucket.end.as_millis().to_le_bytes()).finalize().into()
    }
}

/// The rows of a series in a period, without a breakdown: closed buckets from what is remembered, the others from the
/// store.
///
/// # Errors
/// Those of the store.
pub(super) async fn rows(
    query: &Query,
    scope: &Scope,
    plan: &Plan,
    (period, series): (&Period, &PlannedSeries),
    manner: Manner,
) -> Result<Vec<Row>, Problem> {
    let Some(identity) = Identity::of(scope, plan, series) else {
        return query.select(sql::statement(scope, plan, period, series, None)).await;
    };
    let today = query.clock.now().as_millis().div_euclid(DAY_MILLIS);
    let buckets = period.bucket_ranges();
    let is_closed = |bucket: Range| days(bucket).1 < today;
    let known = |bucket: Range| {
        let key = is_closed(bucket).then(|| identity.key(bucket))?;
        query.closed.get(&key, &query.store, scope, bucket).map(|piece| piece.value)
    };
    let known: Vec<Option<Option<f64>>> =
        buckets.iter().map(|bucket| if manner.anew { None } else { known(*bucket) }).collect();
    let lacking = |known: &Option<Option<f64>>| known.is_none();
    let Some(first) = known.iter().position(lacking) else {
        note(known.len());
        return Ok(put_together(&buckets, &known, None));
    };
    let last = known.iter().rposition(lacking).unwrap_or(first);
    note(known.len() - (last + 1 - first));
    let asked: Vec<Row> =
        query.select(sql::statement(scope, plan, &period.part(first, last), series, None)).await?;
    let found: HashMap<i64, f64> = asked.iter().map(|row| (row.bucket, row.value)).collect();
    for bucket in buckets.iter().take(last + 1).skip(first).filter(|bucket| is_closed(**bucket)) {
        let value = found.get(&bucket.from.as_millis()).copied();
        let of_properties = identity.of_properties;
        let piece = Piece { value, at: Instant::now(), before: manner.before, of_properties };
        query.closed.kept.insert(identity.key(*bucket), piece);
    }
    Ok(put_together(&buckets, &known, Some((first, last, asked))))
}

fn note(remembered: usize) {
    if remembered > 0 {
        names::QUERY_CACHE.counter(&[("outcome", "part")]).increment(1);
    }
}

/// Rows in the order of their buckets: of those from `first` to `last` what was asked, of the others what is known.
fn put_together(
    buckets: &[Range],
    known: &[Option<Option<f64>>],
    asked: Option<(usize, usize, Vec<Row>)>,
) -> Vec<Row> {
    let (first, last, asked) = asked.unwrap_or((buckets.len(), 0, Vec::new()));
    let row = |place: usize| {
        let value = (*known.get(place)?)??;
        let bucket = buckets.get(place)?.from.as_millis();
        Some(Row { bucket, value, place: 0, label: String::new() })
    };
    let before = (0..first).filter_map(row);
    let after = (last + 1..buckets.len()).filter_map(row);
    if first == buckets.len() {
        return before.collect();
    }
    before.chain(asked).chain(after).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket(place: usize) -> Range {
        let at = |place: usize| Timestamp::from_millis(i64::try_from(place).unwrap() * 10);
        Range { from: at(place), end: at(place + 1) }
    }

    proptest! {
        #[test]
        fn what_is_known_and_what_was_asked_are_together_what_all_would_be_asked_anew(
            all in prop::collection::vec((any::<bool>(), prop::option::of(0..9i32)), 1..20),
        ) {
            let buckets: Vec<Range> = (0..all.len()).map(bucket).collect();
            let rows = |places: std::ops::RangeInclusive<usize>| -> Vec<Row> {
                let value = |place: usize| Some((place, f64::from(all.get(place)?.1?)));
                places
                    .filter_map(value)
                    .map(|(place, value)| Row {
                        bucket: bucket(place).from.as_millis(),
                        value,
                        place: 0,
                        label: String::new(),
                    })
                    .collect()
            };
            let known: Vec<Option<Option<f64>>> =
                all.iter().map(|(known, value)| known.then(|| value.map(f64::from))).collect();
            let first = known.iter().position(Option::is_none);
            let last = known.iter().rposition(Option::is_none);
            let asked = first.zip(last).map(|(first, last)| (first, last, rows(first..=last)));
            prop_assert_eq!(put_together(&buckets, &known, asked), rows(0..=all.len() - 1));
        }
    }
}

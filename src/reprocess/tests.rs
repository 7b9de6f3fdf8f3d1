//! Pages over a store and a log that fail at every possible moment: however often a job is thrown back, the end is the
//! same as if nothing had happened.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use super::ground::day_of;
use super::lanes::Lane;
use super::order::{Order, Totals};
use super::page::Bench;
use super::*;
use crate::event::{ManualClock, Scope};
use crate::eventlog::{LogError, NewRecord, Position};
use crate::job::JobError;
use crate::store::StoreError;
use crate::transform::{Chosen, DELETED_HEADER, Limits, Pinned, Spec, VERSION_HEADER};

const LIMITS: Limits = Limits { events_max: 10, work_max: 100_000 };
/// How the first version names events, and drops those without `kind`; one that is broken is an error.
const FIRST: &str = "
    [[require]]
    path = \"kind\"
    reason = \"missing_kind\"
    [[event]]
    id = \"id\"
    event_name = \"kind\"
    distinct_id = \"who\"
    timestamp = \"time(at)\"
";
/// The second one: other names, other people, another day, two events of some, none of others.
const SECOND: &str = "
    [[drop]]
    when = \"kind == 'noise'\"
    reason = \"noise\"
    [[event]]
    id = \"id\"
    event_name = \"concat('new-', default(kind, 'unknown'))\"
    distinct_id = \"default(owner, who)\"
    timestamp = \"time(default(real_at, at))\"
    [[event]]
    when = \"twice == true\"
    id = \"concat(id, '-again')\"
    event_name = \"'again'\"
    distinct_id = \"who\"
    timestamp = \"time(at)\"
";

/// A row of events: version, tombstone?, hidden by hand?
type EventRow = (u64, bool, bool);

#[derive(Default)]
struct World {
    raws: BTreeMap<Place, Raw>,
    results: BTreeMap<Place, Former>,
    /// By id, name, distinct id and day.
    events: BTreeMap<(String, String, String, i64), EventRow>,
    letters: BTreeMap<String, usize>,
}

struct Fake {
    world: Mutex<World>,
    calls: AtomicUsize,
    /// The call that fails, and whether it had its effect before.
    fails: Option<(usize, bool)>,
}

impl Fake {
    fn gate(&self, before: bool) -> Result<(), String> {
        let now = self.calls.load(Ordering::SeqCst);
        if before {
            self.calls.store(now + 1, Ordering::SeqCst);
        }
        let number = if before { now } else { now - 1 };
        match self.fails {
            Some((call, after)) if call == number && after != before => {
                Err("as the test wants it".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn asked(&self) -> Result<(), StoreError> {
        self.gate(true).and_then(|()| self.gate(false)).map_err(StoreError::Unavailable)
    }
}

fn within(place: &Place, from: Timestamp, to: Timestamp) -> bool {
    place.1 >= from && place.1 <= to
}

#[async_trait]
impl Ground for Fake {
    async fn days(
        &self,
        _: &Order,
        from: Timestamp,
        to: Timestamp,
        limit: u64,
    ) -> Result<Vec<(Timestamp, u64)>, StoreError> {
        self.asked()?;
        let mut days: BTreeMap<Timestamp, u64> = BTreeMap::new();
        for place in self.world.lock().unwrap().raws.keys().filter(|place| within(place, from, to)) {
            *days.entry(day_of(place.1)).or_default() += 1;
        }
        Ok(days.into_iter().take(usize::try_from(limit).unwrap()).collect())
    }

    async fn page(
        &self,
        _: &Order,
        span: Span,
        after: Option<&Place>,
        received_until: Timestamp,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Raw>, StoreError> {
        self.asked()?;
        let world = self.world.lock().unwrap();
        let mut bytes = 0;
        let mut found = Vec::new();
        for raw in world.raws.values() {
            let fits = within(&raw.place, span.from, span.to)
                && raw.received_at <= received_until
                && after.is_none_or(|after| raw.place > *after);
            if fits && found.len() < limit && bytes < bytes_max {
                bytes += raw.payload.len();
                found.push(raw.clone());
            }
        }
        Ok(found)
    }

    async fn former(
        &self,
        _: &Order,
        _: Span,
        first: &Place,
        last: &Place,
    ) -> Result<BTreeMap<Place, Former>, StoreError> {
        self.asked()?;
        let world = self.world.lock().unwrap();
        Ok(world.results.range(first.clone()..=last.clone()).map(|(p, f)| (p.clone(), f.clone())).collect())
    }

    async fn touched(&self, _: &Scope, _: &[&Key]) -> Result<Option<HashSet<String>>, StoreError> {
        self.asked()?;
        let world = self.world.lock().unwrap();
        let touched = world.events.iter().filter(|(_, (_, _, by_hand))| *by_hand);
        Ok(Some(touched.map(|(key, _)| key.0.clone()).collect()))
    }

    async fn standings(&self, _: &Scope, keys: &[&Key]) -> Result<Vec<Option<Standing>>, StoreError> {
        self.asked()?;
        let world = self.world.lock().unwrap();
        let standing = |key: &&Key| {
            let (_, deleted, by_hand) = world.events.get(&row_of(key))?;
            Some(match (by_hand, deleted) {
                (true, _) => Standing::Settled,
                (false, true) => Standing::Removed,
                (false, false) => Standing::Live,
            })
        };
        Ok(keys.iter().map(standing).collect())
    }

    async fn stored(&self, _: &Scope, ids: &[String]) -> Result<HashSet<String>, StoreError> {
        self.asked()?;
        let world = self.world.lock().unwrap();
        let live = |id: &&String| world.events.iter().any(|(key, row)| key.0 == **id && !row.1);
        Ok(ids.iter().filter(live).cloned().collect())
    }

    async fn produce(&self, topic: &str, records: Vec<NewRecord>) -> Vec<Result<Position, LogError>> {
        let failed = |reason: String| {
            let answer = |_: &NewRecord| Err(LogError::OutcomeUnknown(reason.clone()));
            records.iter().map(answer).collect::<Vec<_>>()
        };
        if let Err(reason) = self.gate(true) {
            return failed(reason);
        }
        for record in &records {
            store(&mut self.world.lock().unwrap(), topic, record);
        }
        match self.gate(false) {
            Err(reason) => failed(reason),
            Ok(()) => records.iter().map(|_| Ok(Position { partition: 0, offset: 0 })).collect(),
        }
    }

    async fn note(
        &self,
        _: &Order,
        transform: (&str, u64),
        version: u64,
        raws: &[Raw],
        noted: &[Noted],
    ) -> Result<(), StoreError> {
        self.gate(true).map_err(StoreError::Unavailable)?;
        {
            let mut world = self.world.lock().unwrap();
            for noted in noted {
                let former = Former {
                    outcome: noted.outcome.to_owned(),
                    reason: noted.reason.clone(),
                    transform_id: transform.0.to_owned(),
                    transform_version: transform.1,
                    keys: noted.keys.clone(),
                    version,
                };
                world.results.insert(raws[noted.index].place.clone(), former);
            }
        }
        self.gate(false).map_err(StoreError::Unavailable)
    }
}

fn row_of(key: &Key) -> (String, String, String, i64) {
    (key.0.clone(), key.1.clone(), key.2.clone(), key.3.div_euclid(86_400_000))
}

/// What the consumer does with a record: of a key, the highest version counts, of the same one the last.
fn store(world: &mut World, topic: &str, record: &NewRecord) {
    let value: serde_json::Value = serde_json::from_slice(&record.value).unwrap();
    let text = |name: &str| value[name].as_str().unwrap().to_owned();
    if topic == "dlq" {
        *world.letters.entry(value["raw_event_id"].as_str().unwrap().to_owned()).or_default() += 1;
        return;
    }
    let header = |name: &str| {
        let found = record.headers.iter().find(|header| &*header.name == name);
        found.map(|header| String::from_utf8(header.value.to_vec()).unwrap())
    };
    let at = Timestamp::parse(&text("timestamp")).unwrap();
    let key = row_of(&Key(text("id"), text("event_name"), text("distinct_id"), at.as_millis()));
    let version: u64 = header(VERSION_HEADER).map_or(0, |version| version.parse().unwrap());
    let row = (version, header(DELETED_HEADER).is_some(), false);
    let known = world.events.entry(key).or_insert(row);
    if row.0 >= known.0 {
        *known = row;
    }
}

fn chosen(text: &str, version: u64) -> Chosen {
    Chosen::of("t", version, Spec::read(text).unwrap()).unwrap()
}

fn order(chosen: &Chosen, change: impl FnOnce(&mut Order)) -> Order {
    let mut order = Order {
        scope: Scope::new("p", "e"),
        external_customer_ids: Vec::new(),
        event_names: Vec::new(),
        event_ids: Vec::new(),
        start_date: Timestamp::EPOCH,
        end_date: Timestamp::from_millis(100 * 86_400_000),
        pending: false,
        batch_size: 3,
        sample_percent: None,
        parallelism: 2,
        dry_run: false,
        transform: Pinned { id: chosen.id.clone(), version: chosen.version, spec: chosen.spec.clone() },
        begins: Timestamp::EPOCH,
        requested_by: "operator".to_owned(),
    };
    change(&mut order);
    order
}

/// What the live stage made of the raw events: published by the first version.
fn lived() -> World {
    let mut world = World::default();
    let first = chosen(FIRST, 1);
    let payloads = [
        json!({"id": "a", "who": "ann", "kind": "call", "at": "1970-01-02T01:00:00Z"}),
        json!({"id": "b", "who": "ann", "kind": "noise", "at": "1970-01-02T02:00:00Z"}),
        json!({"id": "c", "who": "bob", "at": "1970-01-02T03:00:00Z"}),
        json!({"id": "d", "who": "bob", "kind": "call", "at": "1970-01-02T04:00:00Z", "twice": true}),
        json!({"id": "e", "who": "bob", "kind": "call", "at": "1970-01-05T01:00:00Z", "real_at": "1970-01-04T23:00:00Z"}),
        json!({"id": "f", "who": "cat", "kind": "call", "at": "1970-01-05T02:00:00Z", "owner": "dan"}),
        json!({"id": "g", "who": "cat", "kind": "call", "at": "nonsense"}),
        json!({"id": "h", "who": "cat", "kind": "call", "at": "1970-01-05T04:00:00Z"}),
        json!({"id": "i", "who": "cat", "kind": "call", "at": "1970-01-05T05:00:00Z"}),
    ];
    for (offset, payload) in payloads.iter().enumerate() {
        let text = |name: &str| payload[name].as_str().unwrap_or_default().to_owned();
        let at = Timestamp::parse(&text("at")).unwrap_or(Timestamp::from_millis(4 * 86_400_000 + 1));
        let place = Place(text("who"), at, text("kind"), text("id"));
        let raw = Raw {
            place: place.clone(),
            payload: payload.to_string(),
            received_at: Timestamp::from_millis(5),
            source_topic: "raw_events".to_owned(),
            source_topic_id: Uuid::nil(),
            source_partition: 0,
            source_offset: offset as i64,
        };
        let (outcome, keys) = match first.mapping.apply(&raw.payload, &place.3, LIMITS) {
            Ok(crate::transform::Outcome::Events(events)) => {
                ("published", events.iter().map(Key::of).collect())
            }
            Ok(crate::transform::Outcome::Dropped(_)) => ("dropped", Vec::new()),
            Err(_) => ("error", Vec::new()),
        };
        for key in &keys {
            world.events.insert(row_of(key), (0, false, false));
        }
        let former = Former {
            outcome: outcome.to_owned(),
            reason: if outcome == "dropped" { "missing_kind".to_owned() } else { String::new() },
            transform_id: "t".to_owned(),
            transform_version: 1,
            keys,
            version: 0,
        };
        world.results.insert(place.clone(), former);
        world.raws.insert(place, raw);
    }
    // One was deleted by hand.
    for (key, row) in &mut world.events {
        if key.0 == "h" {
            *row = (u64::MAX, true, true);
        }
    }
    world
}

/// How far a job is, as its checkpoint has it.
#[derive(Clone)]
struct Kept {
    lanes: Vec<Lane>,
    totals: Totals,
}

impl Kept {
    fn new() -> Self {
        let day = |day: i64| Timestamp::from_millis(day * 86_400_000);
        let lanes =
            vec![Lane::new(day(0), Timestamp::from_millis(3 * 86_400_000 - 1)), Lane::new(day(3), day(100))];
        Self { lanes, totals: Totals::default() }
    }
}

/// Goes on from what is kept until the end or a failure, with a checkpoint after so many pages. What was done since the
/// last one is either kept, or lost as in a crash.
async fn run(
    fake: &Arc<Fake>,
    chosen: &Chosen,
    order: &Order,
    generation: u64,
    kept: &mut Kept,
    (pages, crashes): (usize, bool),
) -> Result<(), JobError> {
    let bench = Arc::new(Bench {
        ground: fake.clone(),
        clock: Arc::new(ManualClock::default()),
        order: order.clone(),
        chosen: chosen.clone(),
        limits: LIMITS,
        generation,
        received_until: Timestamp::from_millis(10),
        output_topic: "out".into(),
        dlq_topic: "dlq".into(),
        dlq_record_bytes_max: 1 << 20,
        page_bytes_max: 1 << 20,
        batches: AtomicU64::new(0),
    });
    while kept.lanes.iter().any(|lane| !lane.done) {
        let (mut lanes, asked) = (kept.lanes.clone(), AtomicUsize::new(0));
        let enough = || asked.fetch_add(1, Ordering::SeqCst) + 1 >= pages;
        let stretch = bench.side_by_side(&mut lanes, &enough).await;
        if stretch.failed.is_none() || !crashes {
            kept.lanes = lanes;
            kept.totals.add(&stretch.totals);
        }
        if let Some(error) = stretch.failed {
            return Err(error);
        }
    }
    Ok(())
}

/// The world after a job, with at most one failure in it, and what it counted.
async fn after(
    world: World,
    text: &str,
    generation: u64,
    fails: Option<(usize, bool)>,
    change: fn(&mut Order),
) -> (World, Totals, usize) {
    let chosen = chosen(text, generation);
    let order = order(&chosen, change);
    let fake = |world, fails| Arc::new(Fake { world: Mutex::new(world), calls: AtomicUsize::new(0), fails });
    let (mut kept, mut calls) = (Kept::new(), 0);
    let mut now = fake(world, fails);
    while run(&now, &chosen, &order, generation, &mut kept, (2, fails.is_some_and(|(call, _)| call % 2 == 0)))
        .await
        .is_err()
    {
        calls += now.calls.load(Ordering::SeqCst);
        let world = std::mem::take(&mut *now.world.lock().unwrap());
        now = fake(world, None);
    }
    calls += now.calls.load(Ordering::SeqCst);
    let world = std::mem::take(&mut *now.world.lock().unwrap());
    (world, kept.totals, calls)
}

/// The events that count.
fn live(world: &World) -> Vec<(String, String, String, i64)> {
    world.events.iter().filter(|(_, row)| !row.1).map(|(key, _)| key.clone()).collect()
}

fn key(id: &str, name: &str, who: &str, day: i64) -> (String, String, String, i64) {
    (id.to_owned(), name.to_owned(), who.to_owned(), day)
}

#[tokio::test]
async fn a_corrected_transform_replaces_what_was_whatever_changed() {
    let (world, totals, _) = after(lived(), SECOND, 2, None, |_| {}).await;
    let expected = [
        key("a", "new-call", "ann", 1),
        key("c", "new-unknown", "bob", 1),
        key("d", "new-call", "bob", 1),
        key("d-again", "again", "bob", 1),
        key("e", "new-call", "bob", 3),
        key("f", "new-call", "dan", 4),
        key("i", "new-call", "cat", 4),
    ];
    assert_eq!(live(&world), expected, "h was deleted by hand and stays so");
    assert_eq!((totals.total_events_found, totals.total_events_published), (9, 7));
    assert_eq!((totals.total_events_dropped, totals.total_transformation_errors), (1, 1));
    assert_eq!(totals.dropped_by_reason, BTreeMap::from([("noise".to_owned(), 1)]));
    assert_eq!((totals.total_events_kept, totals.total_events_failed), (1, 0));
    assert_eq!(world.letters, BTreeMap::from([("g".to_owned(), 1)]));
    assert_eq!(totals.success_rate_percent(), 77.78);
}

#[tokio::test]
async fn running_it_twice_changes_nothing_more() {
    let (once, ..) = after(lived(), SECOND, 2, None, |_| {}).await;
    let (events, results) = (live(&once), once.results.clone());
    let (twice, totals, _) = after(once, SECOND, 2, None, |_| {}).await;
    assert_eq!(live(&twice), events);
    assert_eq!(twice.results, results);
    assert_eq!(totals.events_removed, 0, "what is gone is gone");
    let (same, totals, _) = after(lived(), FIRST, 1, None, |_| {}).await;
    assert_eq!(live(&same), live(&lived()), "the same transform gives the same events");
    assert_eq!(totals.events_removed, 0);
}

#[tokio::test]
async fn a_crash_at_every_point_ends_as_an_uninterrupted_run() {
    let (calm, _, calls) = after(lived(), SECOND, 2, None, |_| {}).await;
    assert!(calls > 15, "{calls}");
    for call in 0..calls {
        for had_effect in [false, true] {
            let (world, ..) = after(lived(), SECOND, 2, Some((call, had_effect)), |_| {}).await;
            assert_eq!(live(&world), live(&calm), "call {call}, had its effect: {had_effect}");
            assert_eq!(world.results, calm.results, "call {call}, had its effect: {had_effect}");
            assert!(world.letters.contains_key("g"));
        }
    }
}

#[tokio::test]
async fn back_and_forth_leaves_no_trace_of_what_was_in_between() {
    let (there, ..) = after(lived(), SECOND, 2, None, |_| {}).await;
    let (back, ..) = after(there, FIRST, 3, None, |_| {}).await;
    assert_eq!(live(&back), live(&lived()));
}

#[tokio::test]
async fn what_was_deleted_by_hand_stays_deleted_through_every_version() {
    let mut world = lived();
    for generation in 2..6 {
        let text = SECOND.replace("'new-'", &format!("'v{generation}-'"));
        world = after(world, &text, generation, None, |_| {}).await.0;
        assert!(live(&world).iter().all(|key| key.0 != "h"), "{generation}: {:?}", live(&world));
        assert_eq!(live(&world).len(), 7, "{generation}: {:?}", live(&world));
    }
}

#[tokio::test]
async fn an_older_job_changes_nothing_that_a_newer_one_has_decided() {
    let (newer, ..) = after(lived(), SECOND, 5, None, |_| {}).await;
    let (events, results) = (live(&newer), newer.results.clone());
    let (older, totals, _) = after(newer, FIRST, 4, None, |_| {}).await;
    assert_eq!((live(&older), &older.results), (events, &results));
    // Published under the same key by both: the newer one wrote no result, for it had nothing new to say.
    assert!(totals.total_events_found <= 2, "{totals:?}");
}

#[tokio::test]
async fn only_what_is_not_stored_is_pending() {
    let mut world = lived();
    world.events.retain(|key, _| key.0 != "d" && key.0 != "f");
    let (world, totals, _) = after(world, FIRST, 1, None, |order| order.pending = true).await;
    assert_eq!(
        (totals.total_events_found, totals.total_events_published),
        (2, 2),
        "dropped ones are decided"
    );
    assert_eq!(live(&world), live(&lived()));
}

#[tokio::test]
async fn a_dry_run_counts_and_writes_nothing() {
    let (world, totals, _) = after(lived(), SECOND, 2, None, |order| order.dry_run = true).await;
    assert_eq!((live(&world), world.results), (live(&lived()), lived().results));
    assert!(world.letters.is_empty());
    assert_eq!((totals.total_events_found, totals.events_written, totals.events_removed), (9, 7, 6));
}

#[tokio::test]
async fn a_resend_that_was_passed_over_does_not_come_back() {
    let mut world = lived();
    // The same id on another day: the store kept the first.
    let payload = json!({"id": "a", "who": "ann", "kind": "call", "at": "1970-01-09T01:00:00Z"});
    let place =
        Place("ann".into(), Timestamp::parse("1970-01-09T01:00:00Z").unwrap(), "call".into(), "a".into());
    let passed = Key("a".into(), "call".into(), "ann".into(), place.1.as_millis());
    let former = Former { outcome: "published".into(), keys: vec![passed], ..Former::default() };
    let raw = Raw {
        place: place.clone(),
        payload: payload.to_string(),
        ..world.raws.values().next().unwrap().clone()
    };
    world.results.insert(place.clone(), former);
    world.raws.insert(place, raw);
    let (world, ..) = after(world, SECOND, 2, None, |_| {}).await;
    let of_a: Vec<_> = live(&world).into_iter().filter(|key| key.0 == "a").collect();
    assert_eq!(of_a, [key("a", "new-call", "ann", 1)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_failures_in_a_row_and_any_batch_size_end_alike(
        failures in proptest::collection::vec((0..40_usize, any::<bool>(), any::<bool>()), 0..6),
        batch_size in 1..10_usize,
        pages in 1..6_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (calm, ..) = runtime.block_on(after(lived(), SECOND, 2, None, |_| {}));
        let chosen = chosen(SECOND, 2);
        let order = order(&chosen, |order| order.batch_size = batch_size);
        let (mut world, mut kept) = (lived(), Kept::new());
        for failure in failures.into_iter().map(Some).chain([None]) {
            let fails = failure.map(|(call, had_effect, _)| (call, had_effect));
            let fake = Arc::new(Fake { world: Mutex::new(world), calls: AtomicUsize::new(0), fails });
            let how = (pages, failure.is_some_and(|(.., crashes)| crashes));
            let _ = runtime.block_on(run(&fake, &chosen, &order, 2, &mut kept, how));
            world = std::mem::take(&mut *fake.world.lock().unwrap());
        }
        prop_assert!(kept.lanes.iter().all(|lane| lane.done));
        prop_assert_eq!(kept.totals.total_events_found, 9);
        prop_assert_eq!(live(&world), live(&calm));
        prop_assert_eq!(world.results, calm.results);
    }
}

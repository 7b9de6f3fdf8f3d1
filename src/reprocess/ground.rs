//! What a page is done on: the store and the log as a page needs them; a trait, so that its tests can run on ones that
//! fail on demand.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::lanes::Span;
use super::order::{Order, Place};
use crate::event::{Scope, Timestamp};
use crate::eventlog::{EventLog, LogError, NewRecord, Position};
use crate::store::{AMENDED_VERSION, RawKey, RawResultRow, Row, RowCells, Sql, Store, StoreError};
use crate::transform::Key;

const DAY_MILLIS: i64 = 86_400_000;
/// Ids in one statement.
const IDS_AT_ONCE: usize = 5000;
/// Keys whose rows are looked at in one statement, and bytes of their ids and names (a store takes 8 MiB of text).
const KEYS_AT_ONCE: usize = 20_000;
const STATEMENT_BYTES: usize = 2 << 20;
/// So few are looked up in the indexes.
const FEW_KEYS: usize = 100;
/// Statements of a page read a few granules in order: a second thread would only sort and join what it reads again.
const ONE_THREAD: &str = " SETTINGS max_threads = 1";
/// Events touched by hand that are looked for by their ids; of more, every key is.
const TOUCHED_MAX: usize = 10_000;
/// What tombstones of sweeps and corrections have as their producer.
const BY_HAND: &str = "flexflow";

/// A raw event as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Raw {
    pub place: Place,
    pub payload: String,
    pub received_at: Timestamp,
    pub source_topic: String,
    pub source_topic_id: Uuid,
    pub source_partition: i32,
    pub source_offset: i64,
}

impl Row for Raw {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            place: Place(cells.next()?, cells.next()?, cells.next()?, cells.next()?),
            payload: cells.next()?,
            received_at: cells.next()?,
            source_topic: cells.next()?,
            source_topic_id: cells.next()?,
            source_partition: cells.next()?,
            source_offset: cells.next()?,
        })
    }
}

/// What became of a raw event so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Former {
    pub outcome: String,
    pub reason: String,
    pub transform_id: String,
    pub transform_version: u64,
    pub keys: Vec<Key>,
    pub version: u64,
}

/// The row of an event's key, as it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    Live,
    /// Hidden by an earlier page, or this one.
    Removed,
    /// Amended or deleted by hand, or hidden by the sweep as a resend of another.
    Settled,
}

/// What is to be stored of a raw event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Noted {
    /// Its place among the raw events of the page.
    pub index: usize,
    pub outcome: &'static str,
    pub reason: String,
    pub keys: Vec<Key>,
}

/// See the [module](self).
#[async_trait]
pub trait Ground: Send + Sync + 'static {
    /// The first days (their beginnings) with raw events of this order between these times, ascending, and how many.
    async fn days(
        &self,
        order: &Order,
        from: Timestamp,
        to: Timestamp,
        limit: u64,
    ) -> Result<Vec<(Timestamp, u64)>, StoreError>;
    /// The next raw events of a span, in order; at most `limit`, and fewer once they have `bytes_max`.
    async fn page(
        &self,
        order: &Order,
        span: Span,
        after: Option<&Place>,
        received_until: Timestamp,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Raw>, StoreError>;
    /// What became of the raw events from the first of these places to the last, all of one span.
    async fn former(
        &self,
        order: &Order,
        span: Span,
        first: &Place,
        last: &Place,
    ) -> Result<BTreeMap<Place, Former>, StoreError>;
    /// The ids of events that people or sweeps have touched, among those with the names and days of these keys, and maybe
    /// others; none: too many.
    async fn touched(&self, scope: &Scope, keys: &[&Key]) -> Result<Option<HashSet<String>>, StoreError>;
    /// How the rows of these keys stand, those that there are; in their order.
    async fn standings(&self, scope: &Scope, keys: &[&Key]) -> Result<Vec<Option<Standing>>, StoreError>;
    /// Which of these events are stored under whatever key.
    async fn stored(&self, scope: &Scope, ids: &[String]) -> Result<HashSet<String>, StoreError>;
    async fn produce(&self, topic: &str, records: Vec<NewRecord>) -> Vec<Result<Position, LogError>>;
    /// Stores what became of raw events.
    async fn note(
        &self,
        order: &Order,
        transform: (&str, u64),
        version: u64,
        raws: &[Raw],
        noted: &[Noted],
    ) -> Result<(), StoreError>;
}

/// The store and the log themselves.
pub struct RealGround {
    pub store: Store,
    pub log: Arc<dyn EventLog>,
}

/// Which raw events: conditions on columns of the key alone, so that they may come before deduplication.
fn which(order: &Order, from: Timestamp, to: Timestamp) -> Sql {
    let mut conditions = vec![
        Sql::new("project_id = ").arg(order.scope.project.as_str()),
        Sql::new("environment_id = ").arg(order.scope.environment.as_str()),
    ];
    if !order.external_customer_ids.is_empty() {
        conditions.push(Sql::new("external_customer_id IN ").list(&order.external_customer_ids));
    }
    conditions.push(Sql::new("timestamp >= ").arg(from));
    conditions.push(Sql::new("timestamp <= ").arg(to));
    if !order.event_names.is_empty() {
        conditions.push(Sql::new("event_name IN ").list(&order.event_names));
    }
    if !order.event_ids.is_empty() {
        conditions.push(Sql::new("id IN ").list(&order.event_ids));
    }
    Sql::new(" WHERE ").join(" AND ", &conditions)
}

pub(super) fn day_of(at: Timestamp) -> Timestamp {
    Timestamp::from_millis(at.as_millis().div_euclid(DAY_MILLIS) * DAY_MILLIS)
}

/// The date of a time, as conditions on `toDate(timestamp)` want it.
fn date(millis: i64) -> String {
    day_of(Timestamp::from_millis(millis)).to_utc().format("%Y-%m-%d").to_string()
}

fn tuple(place: &Place) -> Sql {
    Sql::new("(")
        .arg(place.0.as_str())
        .push(", ")
        .arg(place.1)
        .push(", ")
        .arg(place.2.as_str())
        .push(", ")
        .arg(place.3.as_str())
        .push(")")
}

/// Id, name, distinct id, day, deleted?, producer, highest version.
type StandingRow = (String, String, String, i64, u8, String, u64);

/// Rows of events with the names and days of these keys.
fn around(scope: &Scope, keys: &[&Key]) -> Sql {
    let days: HashSet<i64> = keys.iter().map(|key| key.3.div_euclid(DAY_MILLIS)).collect();
    let days: Vec<String> = days.iter().map(|day| date(day * DAY_MILLIS)).collect();
    let names: HashSet<&str> = keys.iter().map(|key| key.1.as_str()).collect();
    Sql::new(" FROM events WHERE project_id = ")
        .arg(scope.project.as_str())
        .push(" AND environment_id = ")
        .arg(scope.environment.as_str())
        .push(" AND toDate(timestamp) IN ")
        .list(days.iter().map(String::as_str))
        .push(" AND event_name IN ")
        .list(names)
}

/// The ids of these keys for the right side of `IN`. One long text is a third of the store's work on a list of thousands.
fn ids_of(keys: &[&Key]) -> Sql {
    const BETWEEN: &str = "\n";
    let ids = keys.iter().map(|key| key.0.as_str());
    if keys.len() <= FEW_KEYS || ids.clone().any(|id| id.contains(BETWEEN)) {
        return Sql::new("").list(ids);
    }
    let joined = ids.collect::<Vec<_>>().join(BETWEEN);
    Sql::new("splitByChar(").arg(BETWEEN).push(", ").arg(joined.as_str()).push(")")
}

/// As many keys from the first on as one statement takes.
fn at_once(keys: &[&Key]) -> usize {
    let mut bytes = 0;
    let fits = |key: &&&Key| {
        bytes += key.0.len() + key.1.len() + 2;
        bytes <= STATEMENT_BYTES
    };
    keys.iter().take(KEYS_AT_ONCE).take_while(fits).count().max(1).min(keys.len())
}

/// How the rows stand whose keys these are, and of others with the same ids, names and days.
fn standing_rows(scope: &Scope, keys: &[&Key]) -> Sql {
    // Of many ids, some are in every granule: to ask the bloom filters for them takes as long as to read the rows.
    let skipping = if keys.len() > FEW_KEYS { " SETTINGS use_skip_indexes = 0" } else { "" };
    Sql::new(
        "SELECT event_id, event_name, distinct_id, day, stands.1 AS is_deleted, stands.2 AS producer, newest \
         FROM (SELECT event_id, event_name, distinct_id, toInt32(toDate(timestamp)) AS day, \
         argMax((is_deleted, producer), (version, ingested_at, is_deleted)) AS stands, max(version) AS newest",
    )
    .append(&around(scope, keys))
    .push(" AND event_id IN ")
    .append(&ids_of(keys))
    .push(" GROUP BY event_id, event_name, distinct_id, day)")
    .push(skipping)
}

const PLACE: &str = "(external_customer_id, timestamp, event_name, id)";

#[async_trait]
impl Ground for RealGround {
    async fn days(
        &self,
        order: &Order,
        from: Timestamp,
        to: Timestamp,
        limit: u64,
    ) -> Result<Vec<(Timestamp, u64)>, StoreError> {
        let sql = Sql::new(
            "SELECT intDiv(toUnixTimestamp64Milli(timestamp), 86400000) AS day, count() AS raws FROM raw_events",
        )
        .append(&which(order, from, to))
        .push(" GROUP BY day ORDER BY day LIMIT ")
        .arg(limit);
        let days: Vec<(i64, u64)> = self.store.select(sql).await?;
        Ok(days.into_iter().map(|(day, raws)| (Timestamp::from_millis(day * DAY_MILLIS), raws)).collect())
    }

    async fn page(
        &self,
        order: &Order,
        span: Span,
        after: Option<&Place>,
        received_until: Timestamp,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Raw>, StoreError> {
        let mut sql = Sql::new(
            "SELECT external_customer_id, timestamp, event_name, id, payload, received_at, source_topic, \
             source_topic_id, source_partition, source_offset FROM raw_events FINAL",
        )
        .append(&which(order, span.from, span.to));
        if let Some(after) = after {
            // The first one is what the index understands for certain.
            sql = sql.push(" AND external_customer_id >= ").arg(after.0.as_str());
            sql = sql.push(" AND ").push(PLACE).push(" > ").append(&tuple(after));
        }
        let sql = sql
            .push(" AND received_at <= ")
            .arg(received_until)
            .push(" ORDER BY external_customer_id, timestamp, event_name, id LIMIT ")
            .arg(limit as u64)
            .push(ONE_THREAD);
        let mut stream = self.store.stream::<Raw>(sql).await?;
        let (mut raws, mut bytes) = (Vec::new(), 0);
        while let Some(chunk) = stream.next_chunk().await? {
            for raw in chunk {
                bytes += raw.payload.len();
                raws.push(raw);
                if bytes >= bytes_max {
                    return Ok(raws);
                }
            }
        }
        Ok(raws)
    }

    async fn former(
        &self,
        order: &Order,
        span: Span,
        first: &Place,
        last: &Place,
    ) -> Result<BTreeMap<Place, Former>, StoreError> {
        let sql = Sql::new(
            "SELECT external_customer_id, timestamp, event_name, id, outcome, reason, transform_id, \
             transform_version, events, version FROM raw_event_results FINAL",
        )
        .append(&which(order, span.from, span.to))
        .push(" AND external_customer_id >= ")
        .arg(first.0.as_str())
        .push(" AND external_customer_id <= ")
        .arg(last.0.as_str())
        .push(" AND ")
        .push(PLACE)
        .push(" >= ")
        .append(&tuple(first))
        .push(" AND ")
        .push(PLACE)
        .push(" <= ")
        .append(&tuple(last))
        .push(ONE_THREAD);
        type Found = (String, Timestamp, String, String, String, String, String, u64, String, u64);
        let rows: Vec<Found> = self.store.select(sql).await?;
        Ok(rows
            .into_iter()
            .map(
                |(
                    customer,
                    at,
                    name,
                    id,
                    outcome,
                    reason,
                    transform_id,
                    transform_version,
                    events,
                    version,
                )| {
                    let keys = Key::read(&events);
                    let former = Former { outcome, reason, transform_id, transform_version, keys, version };
                    (Place(customer, at, name, id), former)
                },
            )
            .collect())
    }

    async fn touched(&self, scope: &Scope, keys: &[&Key]) -> Result<Option<HashSet<String>>, StoreError> {
        if keys.is_empty() || at_once(keys) < keys.len() {
            return Ok(keys.is_empty().then(HashSet::new));
        }
        // Without the ids: a statement that lists thousands takes far longer than one that reads three narrow columns.
        let sql = Sql::new("SELECT DISTINCT event_id")
            .append(&around(scope, keys))
            .push(" AND (version >= ")
            .arg(AMENDED_VERSION)
            .push(" OR (is_deleted = 1 AND producer = ")
            .arg(BY_HAND)
            .push(")) LIMIT ")
            .arg(TOUCHED_MAX as u64 + 1);
        let rows: Vec<(String,)> = self.store.select(sql).await?;
        Ok((rows.len() <= TOUCHED_MAX).then(|| rows.into_iter().map(|(id,)| id).collect()))
    }

    async fn standings(&self, scope: &Scope, keys: &[&Key]) -> Result<Vec<Option<Standing>>, StoreError> {
        let mut found = Vec::with_capacity(keys.len());
        while found.len() < keys.len() {
            let rest = keys.get(found.len()..).unwrap_or_default();
            let keys = rest.get(..at_once(rest)).unwrap_or_default();
            // Keys that differ in the time of day alone name the same row: the first stands for all.
            let mut places = HashMap::with_capacity(keys.len());
            let mut firsts = Vec::with_capacity(keys.len());
            for (place, key) in keys.iter().enumerate() {
                let row = (&*key.0, &*key.1, &*key.2, key.3.div_euclid(DAY_MILLIS));
                firsts.push(*places.entry(row).or_insert(place));
            }
            let rows: Vec<StandingRow> = self.store.select(standing_rows(scope, keys)).await?;
            let mut standings = vec![None; keys.len()];
            for (id, name, distinct_id, day, is_deleted, producer, newest) in rows {
                let Some(place) = places.get(&(&*id, &*name, &*distinct_id, day)) else { continue };
                standings[*place] = Some(match (newest >= AMENDED_VERSION, is_deleted != 0) {
                    (true, _) => Standing::Settled,
                    (false, true) if producer == BY_HAND => Standing::Settled,
                    (false, true) => Standing::Removed,
                    (false, false) => Standing::Live,
                });
            }
            found.extend(firsts.into_iter().map(|first| standings.get(first).copied().flatten()));
        }
        Ok(found)
    }

    async fn stored(&self, scope: &Scope, ids: &[String]) -> Result<HashSet<String>, StoreError> {
        let mut found = HashSet::new();
        for some in ids.chunks(IDS_AT_ONCE) {
            let sql = Sql::new("SELECT DISTINCT event_id FROM events FINAL WHERE project_id = ")
                .arg(scope.project.as_str())
                .push(" AND environment_id = ")
                .arg(scope.environment.as_str())
                .push(" AND event_id IN ")
                .list(some);
            let rows: Vec<(String,)> = self.store.select(sql).await?;
            found.extend(rows.into_iter().map(|(id,)| id));
        }
        Ok(found)
    }

    async fn produce(&self, topic: &str, records: Vec<NewRecord>) -> Vec<Result<Position, LogError>> {
        self.log.produce(topic, records).await
    }

    async fn note(
        &self,
        order: &Order,
        (transform_id, transform_version): (&str, u64),
        version: u64,
        raws: &[Raw],
        noted: &[Noted],
    ) -> Result<(), StoreError> {
        let events: Vec<String> = noted.iter().map(|noted| Key::write(&noted.keys)).collect();
        let mut hash = Sha256::new();
        let mut rows = Vec::with_capacity(noted.len());
        for (noted, events) in noted.iter().zip(&events) {
            let Some(raw) = raws.get(noted.index) else { continue };
            for text in [&raw.place.0, &raw.place.2, &raw.place.3, &noted.reason, events] {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text.as_bytes());
            }
            hash.update(raw.place.1.as_millis().to_le_bytes());
            rows.push(RawResultRow {
                key: RawKey {
                    project_id: order.scope.project.as_str(),
                    environment_id: order.scope.environment.as_str(),
                    external_customer_id: &raw.place.0,
                    timestamp: raw.place.1,
                    event_name: &raw.place.2,
                    id: &raw.place.3,
                    received_at: raw.received_at,
                    source_topic: &raw.source_topic,
                    source_topic_id: raw.source_topic_id,
                    source_partition: raw.source_partition,
                    source_offset: raw.source_offset,
                },
                outcome: noted.outcome,
                reason: &noted.reason,
                transform_id,
                transform_version,
                events,
                version,
            });
        }
        if rows.is_empty() {
            return Ok(());
        }
        let digest = hash.finalize();
        let token =
            digest.iter().fold(format!("reprocess:{version}:"), |token, byte| format!("{token}{byte:02x}"));
        let inserted = self.store.insert_raw_results(&rows, &token).await;
        inserted.map_err(|error| StoreError::Unavailable(error.to_string()))
    }
}

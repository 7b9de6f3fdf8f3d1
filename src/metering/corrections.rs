//! Void and amend one event, with an audit line of who, when, why and what stood there before.
//!
//! The audit line is written first: what was done can always be told, and doing it again after a failure changes
//! nothing more. A void is a tombstone that no row ever replaces. An amended event is a row of a higher version; where
//! the day, name or customer changed, the old key gets a tombstone of that version. Totals `as_of` an earlier moment
//! take the rows that counted then from the audit lines, so they stay what they were.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Metering;
use super::meter::Meter;
use super::rows::Which;
use super::tracking::rows_of;
use crate::event::{Scope, Timestamp};
use crate::http::{ErrorCode, Problem};
use crate::meta::{Correction, NewCorrection};
use crate::store::{
    AMENDED_VERSION, EventBlock, EventRow, FeatureUsageRow, InsertError, Row, RowCells, Sql, StoreError,
    Tombstone, VOID_VERSION, usage_version,
};

/// Keys under which one id is looked for.
const ROWS_MAX: u64 = 100;
/// Corrections after an `as_of` that are taken back; over it the answer is an error, never a wrong total.
const RESTORED_MAX: usize = 10_000;
/// Ids that one statement asks for: it stays well below the longest that the store reads (256 KiB).
const IDS_AT_ONCE: usize = 100;
/// How far clocks of this process and of the store may differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(3600);
/// Times an insert of unknown outcome is tried again under its token.
const TRIES: usize = 3;

/// An event's row as it counts, or counted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    pub event_id: String,
    pub event_name: String,
    pub distinct_id: String,
    pub customer_id: String,
    pub session_id: String,
    pub source: String,
    pub producer: String,
    pub raw_event_id: String,
    pub timestamp: Timestamp,
    pub received_at: Timestamp,
    pub ingested_at: Timestamp,
    pub schema_version: u32,
    pub source_topic: String,
    pub source_topic_id: Uuid,
    pub source_partition: i32,
    pub source_offset: i64,
    pub version: u64,
    /// Kept as a text, so that its numbers keep every digit.
    #[serde(with = "as_text")]
    pub properties: Box<RawValue>,
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use serde_json::value::RawValue;

    pub(super) fn serialize<S: Serializer>(json: &RawValue, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(json.get())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<RawValue>, D::Error> {
        RawValue::from_string(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Row for Snapshot {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            event_id: cells.next()?,
            event_name: cells.next()?,
            distinct_id: cells.next()?,
            customer_id: cells.next()?,
            session_id: cells.next()?,
            source: cells.next()?,
            producer: cells.next()?,
            raw_event_id: cells.next()?,
            timestamp: cells.next()?,
            received_at: cells.next()?,
            ingested_at: cells.next()?,
            schema_version: cells.next()?,
            source_topic: cells.next()?,
            source_topic_id: cells.next()?,
            source_partition: cells.next()?,
            source_offset: cells.next()?,
            version: cells.next()?,
            properties: RawValue::from_string(cells.next()?).map_err(|error| {
                StoreError::Query(format!("properties that are not JSON are stored: {error}"))
            })?,
        })
    }
}

/// The columns of a [`Snapshot`].
pub(super) const COLUMNS: &str = "event_id, event_name, distinct_id, customer_id, session_id, source, producer, raw_event_id, \
                       timestamp, received_at, ingested_at, schema_version, source_topic, source_topic_id, \
                       source_partition, source_offset, version, properties";

/// What shall be otherwise; what is none stays.
#[derive(Clone, Debug, Default)]
pub struct Amendment {
    pub event_name: Option<String>,
    pub distinct_id: Option<String>,
    pub customer_id: Option<String>,
    pub source: Option<String>,
    pub timestamp: Option<Timestamp>,
    pub properties: Option<Box<RawValue>>,
}

/// Why, and at whose wish.
#[derive(Clone, Debug)]
pub struct Wish {
    pub event_id: String,
    pub reason: String,
    pub made_by: Option<String>,
}

impl Metering {
    /// The rows of an id that count: one, but for moments in which a resend is not swept yet.
    ///
    /// # Errors
    /// 503 for what the store does not answer.
    pub async fn rows_of(&self, scope: &Scope, event_id: &str) -> Result<Vec<Snapshot>, Problem> {
        let sql = everything(scope).select(&Sql::new(COLUMNS)).push(" AND event_id = ").arg(event_id);
        self.select(sql.push(" ORDER BY received_at, source_partition, source_offset LIMIT ").arg(ROWS_MAX))
            .await
    }

    /// The properties of the events with these ids that count, by id.
    ///
    /// # Errors
    /// 503 for what the store does not answer.
    pub async fn properties_by_id(
        &self,
        scope: &Scope,
        ids: &[String],
    ) -> Result<BTreeMap<String, String>, Problem> {
        let columns = Sql::new("event_id, properties");
        let sql = everything(scope).select(&columns).push(" AND event_id IN ").list(ids);
        let rows: Vec<(String, String)> = self.select(sql.push(" LIMIT ").arg(ids.len() * 2)).await?;
        Ok(rows.into_iter().collect())
    }

    /// Takes an event out of every total from now on, for good.
    ///
    /// # Errors
    /// 404: no such event counts. 503: try again.
    pub async fn void(&self, scope: &Scope, wish: Wish) -> Result<Correction, Problem> {
        let rows = self.rows_of(scope, &wish.event_id).await?;
        if rows.is_empty() {
            return Err(not_found(&wish.event_id));
        }
        let made = self.write_down(scope, &wish, "void", &rows, None).await?;
        let tombstones: Vec<Tombstone> = rows.iter().map(|row| tombstone(scope, row, VOID_VERSION)).collect();
        let mut tries = 1..TRIES;
        let voided = loop {
            match self.store.tombstone(&tombstones).await {
                Err(InsertError::OutcomeUnknown(_)) if tries.next().is_some() => {}
                ended => break ended,
            }
        };
        voided.map_err(insert_problem)?;
        self.track_corrected(scope, made.made_at, None).await?;
        tracing::info!(
            event_id = wish.event_id,
            by = wish.made_by.as_deref(),
            reason = wish.reason,
            "event voided"
        );
        Ok(made)
    }

    /// Changes an event in every total from now on.
    ///
    /// # Errors
    /// 404: no such event counts. 409: a resend of it waits for the sweep. 503: try again.
    pub async fn amend(
        &self,
        scope: &Scope,
        wish: Wish,
        amendment: &Amendment,
    ) -> Result<Correction, Problem> {
        let rows = self.rows_of(scope, &wish.event_id).await?;
        let before = match rows.as_slice() {
            [] => return Err(not_found(&wish.event_id)),
            [one] => one,
            many => {
                let message = format!(
                    "the event is stored under {} keys (it was sent again with another day, name or customer): the \
                     sweep leaves one within consumer.sweep_interval; then amend it",
                    many.len()
                );
                return Err(Problem::new(ErrorCode::AlreadyExists, message));
            }
        };
        let after = amended(before, amendment);
        let made = self.write_down(scope, &wish, "amend", &rows, Some(&after)).await?;
        let mut block = EventBlock::with_capacity(2);
        block.push(&event_row(scope, &after));
        if key_of(before) != key_of(&after) {
            let gone = Snapshot { version: after.version, ..before.clone() };
            let gone_row = event_row(scope, &gone);
            block.push(&EventRow {
                is_deleted: true,
                source_topic: "",
                source_topic_id: Uuid::nil(),
                source_partition: -1,
                source_offset: -1,
                ..gone_row
            });
        }
        let token =
            format!("amend:{}:{}", made.id, hex(&serde_json::to_vec(&after).map_err(Problem::internal)?));
        let mut tries = 1..TRIES;
        let inserted = loop {
            match self.store.insert_events(&block, &token).await {
                Err(InsertError::OutcomeUnknown(_)) if tries.next().is_some() => {}
                ended => break ended,
            }
        };
        inserted.map_err(insert_problem)?;
        self.track_corrected(scope, made.made_at, Some(&after)).await?;
        tracing::info!(
            event_id = wish.event_id,
            by = wish.made_by.as_deref(),
            reason = wish.reason,
            "event amended"
        );
        Ok(made)
    }

    /// Makes tracked usage follow a correction.
    async fn track_corrected(
        &self,
        scope: &Scope,
        made_at: Timestamp,
        after: Option<&Snapshot>,
    ) -> Result<(), Problem> {
        if !self.config.tracking {
            return Ok(());
        }
        // The store's clock may be behind ours.
        let since = made_at.minus(CLOCKS_DIFFER);
        self.store.mirror_tombstones(since).await.map_err(super::store_problem)?;
        let Some(after) = after else { return Ok(()) };
        let meters = self.catalogue.meters(scope).await.map_err(super::meta_problem)?;
        let rows = rows_of(scope, &meters, &after.tracked());
        let counted = |meter: &Meter| rows.iter().any(|row| row.meter_id == meter.id);
        // A meter that counted the event as it was and does not any more loses its row.
        let others =
            meters.iter().filter(|meter| !counted(meter)).map(|meter| uncounted(scope, meter, after));
        let all: Vec<FeatureUsageRow> = others.chain(rows.iter().cloned()).collect();
        if all.is_empty() {
            return Ok(());
        }
        let token = format!("amend:{made_at}:{}", hex(format!("{all:?}").as_bytes()));
        let mut tries = 1..TRIES;
        let inserted = loop {
            match self.store.insert_feature_usage(&all, &token).await {
                Err(InsertError::OutcomeUnknown(_)) if tries.next().is_some() => {}
                ended => break ended,
            }
        };
        inserted.map_err(insert_problem)
    }

    async fn write_down(
        &self,
        scope: &Scope,
        wish: &Wish,
        action: &'static str,
        before: &[Snapshot],
        after: Option<&Snapshot>,
    ) -> Result<Correction, Problem> {
        let new = NewCorrection {
            event_id: wish.event_id.clone(),
            action,
            reason: wish.reason.clone(),
            made_by: wish.made_by.clone(),
            before: serde_json::to_value(before).map_err(Problem::internal)?,
            after: after.map(serde_json::to_value).transpose().map_err(Problem::internal)?,
        };
        self.meta.corrections().insert(scope, new).await.map_err(super::meta_problem)
    }

    /// The rows that counted at `as_of` and were corrected since, each once.
    pub(super) async fn counted_at(&self, scope: &Scope, as_of: Timestamp) -> Result<Vec<Snapshot>, Problem> {
        let limit = RESTORED_MAX as u64 + 1;
        let made =
            self.meta.corrections().made_after(scope, as_of, limit).await.map_err(super::meta_problem)?;
        if made.len() > RESTORED_MAX {
            let message =
                format!("more than {RESTORED_MAX} corrections were made since as_of: take a later one");
            return Err(Problem::invalid("as_of", message).with("max", RESTORED_MAX));
        }
        let mut rows: Vec<Snapshot> = Vec::new();
        for correction in made {
            let before: Vec<Snapshot> =
                serde_json::from_value(correction.before.0).map_err(Problem::internal)?;
            for row in before.into_iter().filter(|row| row.ingested_at <= as_of) {
                // A correction that was tried twice has two lines of the same row.
                if !rows.iter().any(|known| known.event_id == row.event_id && key_of(known) == key_of(&row)) {
                    rows.push(row);
                }
            }
        }
        self.drop_those_that_count(scope, as_of, &mut rows).await?;
        Ok(rows)
    }

    /// A correction is written down before it is made: if the process died in between, its row still counts, and to
    /// restore it would count it twice.
    async fn drop_those_that_count(
        &self,
        scope: &Scope,
        as_of: Timestamp,
        rows: &mut Vec<Snapshot>,
    ) -> Result<(), Problem> {
        let ids: Vec<String> = rows.iter().map(|row| row.event_id.clone()).collect();
        for ids in ids.chunks(IDS_AT_ONCE) {
            let which = Which { as_of: Some(as_of), ..everything(scope) };
            let sql = which.select(&Sql::new(COLUMNS)).push(" AND event_id IN ").list(ids);
            let counting: Vec<Snapshot> = self.select(sql).await?;
            rows.retain(|row| {
                !counting.iter().any(|other| other.event_id == row.event_id && key_of(other) == key_of(row))
            });
        }
        Ok(())
    }
}

/// All of a scope's events.
fn everything(scope: &Scope) -> Which<'_> {
    Which {
        scope,
        event_name: None,
        from: Timestamp::EPOCH,
        end: Timestamp::MAX,
        filters: Vec::new(),
        external_customer_id: None,
        customer_id: None,
        sources: &[],
        as_of: None,
    }
}

/// Day, name and customer: with the id, what tells one key of the table from another.
fn key_of(row: &Snapshot) -> (i64, &str, &str) {
    (row.timestamp.as_millis().div_euclid(86_400_000), &row.event_name, &row.distinct_id)
}

fn amended(before: &Snapshot, amendment: &Amendment) -> Snapshot {
    let or = |changed: &Option<String>, was: &String| changed.clone().unwrap_or_else(|| was.clone());
    Snapshot {
        event_name: or(&amendment.event_name, &before.event_name),
        distinct_id: or(&amendment.distinct_id, &before.distinct_id),
        customer_id: or(&amendment.customer_id, &before.customer_id),
        source: or(&amendment.source, &before.source),
        timestamp: amendment.timestamp.unwrap_or(before.timestamp),
        properties: amendment.properties.clone().unwrap_or_else(|| before.properties.clone()),
        version: before.version.max(AMENDED_VERSION).saturating_add(1),
        ..before.clone()
    }
}

fn tombstone(scope: &Scope, row: &Snapshot, version: u64) -> Tombstone {
    Tombstone {
        project_id: scope.project.to_string(),
        environment_id: scope.environment.to_string(),
        event_id: row.event_id.clone(),
        event_name: row.event_name.clone(),
        distinct_id: row.distinct_id.clone(),
        timestamp: row.timestamp,
        received_at: row.received_at,
        version,
    }
}

fn event_row<'a>(scope: &'a Scope, row: &'a Snapshot) -> EventRow<'a> {
    EventRow {
        project_id: scope.project.as_str(),
        environment_id: scope.environment.as_str(),
        event_id: &row.event_id,
        event_name: &row.event_name,
        distinct_id: &row.distinct_id,
        customer_id: &row.customer_id,
        session_id: &row.session_id,
        source: &row.source,
        producer: &row.producer,
        raw_event_id: &row.raw_event_id,
        timestamp: row.timestamp,
        received_at: row.received_at,
        schema_version: row.schema_version,
        source_topic: &row.source_topic,
        source_topic_id: row.source_topic_id,
        source_partition: row.source_partition,
        source_offset: row.source_offset,
        properties: row.properties.get(),
        version: row.version,
        is_deleted: false,
    }
}

/// A tombstone for the row that a meter may have of an event as it was.
fn uncounted(scope: &Scope, meter: &Meter, event: &Snapshot) -> FeatureUsageRow {
    let newest = meter.newest().map_or(1, |newest| newest.number.unsigned_abs());
    FeatureUsageRow {
        project_id: scope.project.to_string(),
        environment_id: scope.environment.to_string(),
        meter_id: meter.id.clone(),
        event_name: event.event_name.clone(),
        distinct_id: event.distinct_id.clone(),
        event_id: event.event_id.clone(),
        customer_id: String::new(),
        source: String::new(),
        state: "missing",
        quantity: String::new(),
        source_topic: String::new(),
        timestamp: event.timestamp,
        received_at: event.received_at,
        source_topic_id: Uuid::nil(),
        source_partition: -1,
        source_offset: -1,
        version: usage_version(event.version, newest),
        is_deleted: true,
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn not_found(event_id: &str) -> Problem {
    let given: String = event_id.chars().take(200).collect();
    let message = format!("no event {given:?} counts here: it is not stored (yet), or was voided");
    Problem::new(ErrorCode::NotFound, message).with("field", "event_id").with("given", given)
}

fn insert_problem(error: InsertError) -> Problem {
    let message = "the event store did not confirm the correction; doing it again is safe";
    Problem::unavailable(message, super::RETRY_AFTER).because(error)
}

//! Tracked usage: what each meter counts of each event, computed once and kept in `feature_usage`.
//!
//! Rows come from three sides that make the same row of the same event and version of a meter: the stage that reads the
//! log (`consumer/feature_usage.rs`), rebuilds (`rebuild.rs`), and corrections. A meter's usage is read from these rows
//! only where they are known to say the same as the events: a rebuild has covered all versions of the meter, the stage
//! is not behind the store, and the question asks for nothing that the rows do not hold.

use std::collections::BTreeMap;
use std::time::Duration;

use bigdecimal::BigDecimal;
use uuid::Uuid;

use super::meter::{Meter, properties_of};
use super::number::{Quantity, plain};
use super::rows;
use super::tally::{Aggregation, Parts, Tally};
use super::usage::{Group, Plan};
use super::{Metering, meta_problem};
use crate::event::{Scope, Timestamp};
use crate::eventlog::LogError;
use crate::http::Problem;
use crate::store::{FeatureUsageRow, Row, RowCells, Sql, StoreError, usage_version};

/// How often tombstones are looked for, how far back at the start, and how far back after that (clocks differ, and
/// inserts take their time).
const MIRROR_EVERY: Duration = Duration::from_secs(30);
const MIRROR_BACK: Duration = Duration::from_secs(32 * 86_400);
const MIRROR_AGAIN: Duration = Duration::from_secs(3600);

/// An event as its usage is computed from it.
#[derive(Clone, Copy, Debug)]
pub struct Tracked<'a> {
    pub event_id: &'a str,
    pub event_name: &'a str,
    pub distinct_id: &'a str,
    pub customer_id: &'a str,
    pub source: &'a str,
    pub timestamp: Timestamp,
    pub received_at: Timestamp,
    pub source_topic: &'a str,
    pub source_topic_id: Uuid,
    pub source_partition: i32,
    pub source_offset: i64,
    pub properties: &'a str,
    /// Of the event's row.
    pub version: u64,
}

/// What these meters count of an event: one row for each that counts it.
pub fn rows_of(scope: &Scope, meters: &[Meter], event: &Tracked<'_>) -> Vec<FeatureUsageRow> {
    let named = |meter: &&Meter| {
        let version = meter.version_at(event.timestamp);
        version.is_some_and(|version| version.definition.event_name == event.event_name)
    };
    let named: Vec<&Meter> = meters.iter().filter(named).collect();
    if named.is_empty() {
        return Vec::new();
    }
    let properties = properties_of(event.properties);
    let mut found = Vec::new();
    for meter in named {
        let Some(version) = meter.version_at(event.timestamp) else { continue };
        if version.definition.matches(event.event_name, &properties).is_err() {
            continue;
        }
        let json: Vec<&str> = version
            .measure
            .properties()
            .iter()
            .map(|key| properties.get(key).map_or("", |raw| raw.get()))
            .collect();
        let (state, quantity) = match (version.measure.aggregation, version.measure.quantity(&json)) {
            (Aggregation::Count, _) => ("number", "1".to_owned()),
            (_, Quantity::Number(number)) => ("number", plain(&number)),
            (_, Quantity::Missing) => ("missing", String::new()),
            (_, Quantity::NotNumeric) => ("not_numeric", String::new()),
            (_, Quantity::TooPrecise) => ("too_precise", String::new()),
        };
        let newest = meter.newest().map_or(1, |newest| newest.number);
        let version = usage_version(event.version, newest.unsigned_abs());
        found.push(FeatureUsageRow { state, quantity, ..row(scope, meter, event, version) });
    }
    found
}

/// Tombstones for what these meters counted of an event that is no more under this key: above everything that was
/// counted of its earlier versions, below what meters count of the same version under another name.
pub fn tombstones_of(scope: &Scope, meters: &[Meter], event: &Tracked<'_>) -> Vec<FeatureUsageRow> {
    let counted = |meter: &&Meter| {
        meter.versions.iter().any(|version| version.definition.event_name == event.event_name)
    };
    let version = usage_version(event.version, 0);
    let tombstone = |meter: &Meter| FeatureUsageRow {
        customer_id: String::new(),
        source: String::new(),
        is_deleted: true,
        ..row(scope, meter, event, version)
    };
    meters.iter().filter(counted).map(tombstone).collect()
}

/// A row of an event without a value.
fn row(scope: &Scope, meter: &Meter, event: &Tracked<'_>, version: u64) -> FeatureUsageRow {
    FeatureUsageRow {
        project_id: scope.project.to_string(),
        environment_id: scope.environment.to_string(),
        meter_id: meter.id.clone(),
        event_name: event.event_name.to_owned(),
        distinct_id: event.distinct_id.to_owned(),
        event_id: event.event_id.to_owned(),
        customer_id: event.customer_id.to_owned(),
        source: event.source.to_owned(),
        state: "missing",
        quantity: String::new(),
        source_topic: event.source_topic.to_owned(),
        timestamp: event.timestamp,
        received_at: event.received_at,
        source_topic_id: event.source_topic_id,
        source_partition: event.source_partition,
        source_offset: event.source_offset,
        version,
        is_deleted: false,
    }
}

/// Sums of a window and group.
struct Summed {
    window: i64,
    group: Vec<String>,
    events: u64,
    missing: u64,
    not_numeric: u64,
    too_precise: u64,
    numbers: u64,
    sum: String,
    max: String,
    min: String,
    latest: String,
    latest_millis: i64,
    latest_id: String,
}

impl Row for Summed {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            window: cells.next()?,
            group: cells.next()?,
            events: cells.next()?,
            missing: cells.next()?,
            not_numeric: cells.next()?,
            too_precise: cells.next()?,
            numbers: cells.next()?,
            sum: cells.next()?,
            max: cells.next()?,
            min: cells.next()?,
            latest: cells.next()?,
            latest_millis: cells.next()?,
            latest_id: cells.next()?,
        })
    }
}

impl Summed {
    fn tally(&self) -> Result<Tally, Problem> {
        let number = |text: &str| text.parse::<BigDecimal>().map_err(Problem::internal);
        Ok(Tally::of(Parts {
            events: self.events,
            missing: self.missing,
            not_numeric: self.not_numeric,
            too_precise: self.too_precise,
            numbers: self.numbers,
            sum: number(&self.sum)?,
            max: number(&self.max)?,
            min: number(&self.min)?,
            latest: (self.latest_millis, self.latest_id.clone(), number(&self.latest)?),
        }))
    }
}

/// Can these rows answer it at all?
fn is_held(plan: &Plan) -> bool {
    let sums = !matches!(plan.aggregation(), Aggregation::CountUnique | Aggregation::WeightedSum);
    let groups = plan.group_by.iter().all(|group| !matches!(group, Group::Property(_)));
    sums && groups && plan.as_of.is_none() && !plan.filtered
}

impl Metering {
    /// Is this meter's tracked usage known to say the same as the events?
    pub(super) async fn is_covered(&self, meter: &Meter, plan: &Plan) -> Result<bool, Problem> {
        if !self.config.tracking || !is_held(plan) {
            return Ok(false);
        }
        let covered = self.meta.meter_coverage().versions(&meter.id).await.map_err(meta_problem)?;
        let versions = i64::try_from(meter.versions.len()).unwrap_or(i64::MAX);
        if covered != Some(versions) {
            return Ok(false);
        }
        let ahead = tokio::time::timeout(self.limits.timeout, self.is_tracking_up()).await;
        Ok(matches!(ahead, Ok(Ok(true))))
    }

    /// Makes tracked usage follow tombstones (of sweeps, above all) for ever.
    ///
    /// # Errors
    /// None; what fails is tried again.
    pub async fn mirror(self) -> anyhow::Result<()> {
        let mut since = self.now().minus(MIRROR_BACK);
        loop {
            let began = self.now();
            match self.store.mirror_tombstones(since).await {
                Ok(()) => since = began.minus(MIRROR_AGAIN),
                Err(error) => tracing::warn!(%error, "tracked usage does not follow tombstones: tried again"),
            }
            tokio::time::sleep(MIRROR_EVERY).await;
        }
    }

    /// Have the tracking stages read at least what the stages that store events have?
    async fn is_tracking_up(&self) -> Result<bool, LogError> {
        for (topic, storing, tracking) in &self.tracked_topics {
            let stored = self.log.committed(storing).await?;
            let tracked = self.log.committed(tracking).await?;
            let mut of_topic = stored.iter().filter(|(partition, _)| partition.topic == *topic);
            if !of_topic.all(|(partition, at)| tracked.get(partition).is_some_and(|tracked| tracked >= at)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tallies of a meter's tracked usage by window and group.
    pub(super) async fn tracked(
        &self,
        meter: &Meter,
        plan: &Plan,
        bounds: &[Timestamp],
    ) -> Result<BTreeMap<(i64, Vec<String>), Tally>, Problem> {
        let sql = tracked_sql(meter, plan, bounds, self.config.values_max);
        let mut stream = self.stream::<Summed>(sql).await?;
        let mut tallies = BTreeMap::new();
        while let Some(chunk) = stream.next_chunk().await.map_err(super::store_problem)? {
            for summed in chunk {
                tallies.insert((summed.window, summed.group.clone()), summed.tally()?);
            }
            if tallies.len() > self.config.values_max {
                return Err(super::usage::too_many(self.config.values_max));
            }
        }
        Ok(tallies)
    }
}

fn tracked_sql(meter: &Meter, plan: &Plan, bounds: &[Timestamp], values_max: usize) -> Sql {
    let window = match bounds {
        [] => Sql::new("toInt64(0)"),
        bounds => {
            let starts: Vec<i64> = bounds[..bounds.len() - 1].iter().map(|at| at.as_millis()).collect();
            rows::window(&starts)
        }
    };
    let group = plan.groups();
    let columns = Sql::new("")
        .append(&window)
        .push(" AS usage_window, ")
        .append(&group)
        .push(
            " AS usage_group, count() AS events, countIf(state = 'missing') AS missing, countIf(state = 'not_numeric') \
             AS not_numeric, countIf(state = 'too_precise') AS too_precise, countIf(state = 'number') AS numbers, \
             toString(sumIf(quantity, state = 'number')) AS total, toString(maxIf(quantity, state = 'number')) AS most, \
             toString(minIf(quantity, state = 'number')) AS least, toString(argMaxIf(quantity, (",
        )
        .push(rows::MILLIS)
        .push(", event_id), state = 'number')) AS latest, toInt64(tupleElement(maxIf((toInt64(")
        .push(rows::MILLIS)
        .push("), event_id), state = 'number'), 1)) AS latest_millis, tupleElement(maxIf((toInt64(")
        .push(rows::MILLIS)
        .push("), event_id), state = 'number'), 2) AS latest_id");
    let which = rows::Which {
        scope: &plan.scope,
        event_name: None,
        from: plan.from,
        end: plan.end,
        filters: Vec::new(),
        external_customer_id: plan.external_customer_id.as_deref(),
        customer_id: plan.customer_id.as_deref(),
        sources: &plan.sources,
        as_of: None,
    };
    which
        .select_usage(&meter.id, &columns)
        .push(" GROUP BY usage_window, usage_group LIMIT ")
        .arg(values_max + 1)
}

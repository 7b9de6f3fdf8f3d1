//! Tracked usage: what each meter counts of each event, computed once and kept in `feature_usage`.
//!
//! Rows come from three sides that make the same row of the same event and version of a meter: the stage that reads the
//! log (`consumer/feature_usage.rs`), rebuilds (`rebuild.rs`), and corrections. A meter's usage is read from these rows
//! only where they are known to say the same as the events: a rebuild has covered all versions of the meter, the stage
//! is not behind the store, and the question asks for nothing that the rows do not hold.

use std::time::Duration;

use uuid::Uuid;

use super::fold::Fold;
use super::meter::{Meter, properties_of};
use super::number::{Quantity, plain};
use super::rows;
use super::tally::Aggregation;
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

/// What the rows of a window, group and state come to.
pub(super) struct Summed {
    pub window: i64,
    pub group: Vec<String>,
    pub quantity: Quantity,
    pub events: u64,
    /// When the newest happened, and its id; only for [`Aggregation::Latest`].
    pub millis: i64,
    pub event_id: String,
}

impl Row for Summed {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        let (window, group) = (cells.next()?, cells.next()?);
        let (state, number): (String, String) = (cells.next()?, cells.next()?);
        let quantity = match state.as_str() {
            "missing" => Quantity::Missing,
            "not_numeric" => Quantity::NotNumeric,
            "too_precise" => Quantity::TooPrecise,
            _ => Quantity::Number(rows::decimal(&number)?),
        };
        let (events, millis, event_id) = (cells.next()?, cells.next()?, cells.next()?);
        Ok(Self { window, group, quantity, events, millis, event_id })
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

    /// Takes a meter's tracked usage.
    pub(super) async fn fold_tracked(
        &self,
        meter: &Meter,
        plan: &Plan,
        fold: &mut Fold<'_>,
    ) -> Result<(), Problem> {
        let max = self.config.values_max;
        let mut stream = self.stream::<Summed>(tracked_sql(meter, plan, fold.bounds(), max)).await?;
        while let Some(chunk) = stream.next_chunk().await.map_err(super::store_problem)? {
            for summed in chunk {
                fold.add_tracked(summed);
            }
            if fold.len() > max {
                return Err(super::usage::too_many(max));
            }
        }
        Ok(())
    }
}

/// What a value can be: so many rows stand for one window and group at most.
const STATES: usize = 4;

/// Asks for no more than the aggregation needs: the newest of each group takes four times as long as its sum. States are
/// rows of their own, and groups columns: half the time of counting each state, and of grouping by an array.
fn tracked_sql(meter: &Meter, plan: &Plan, bounds: &[Timestamp], values_max: usize) -> Sql {
    let window = match bounds {
        [] => Sql::new("toInt64(0)"),
        bounds => {
            let starts: Vec<i64> = bounds[..bounds.len() - 1].iter().map(|at| at.as_millis()).collect();
            rows::window(&starts)
        }
    };
    let moment = Sql::new("(toInt64(").push(rows::MILLIS).push("), event_id)");
    let newest =
        |part: &'static str| Sql::new("tupleElement(max(").append(&moment).push("), ").push(part).push(")");
    let neither = (Sql::new("toInt64(0)"), Sql::new("''"));
    let (number, (millis, event_id)) = match plan.aggregation() {
        Aggregation::Sum | Aggregation::SumWithMultiplier | Aggregation::Avg => {
            (Sql::new("toString(sum(quantity))"), neither)
        }
        Aggregation::Max => (Sql::new("toString(max(quantity))"), neither),
        Aggregation::Min => (Sql::new("toString(min(quantity))"), neither),
        Aggregation::Latest => {
            let number = Sql::new("toString(argMax(quantity, ").append(&moment).push("))");
            (number, (newest("1"), newest("2")))
        }
        Aggregation::Count | Aggregation::CountUnique | Aggregation::WeightedSum => {
            (Sql::new("'0'"), neither)
        }
    };
    let columns = Sql::new("")
        .append(&window)
        .push(" AS usage_window, ")
        .append(&plan.groups())
        .push(" AS usage_group, CAST(state, 'String') AS usage_state, ")
        .append(&number)
        .push(" AS usage_number, count() AS usage_events, ")
        .append(&millis)
        .push(" AS usage_millis, ")
        .append(&event_id)
        .push(" AS usage_newest");
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
    let mut keys = vec![Sql::new("usage_window"), Sql::new("state")];
    keys.extend(plan.group_by.iter().map(Group::sql));
    which
        .select_usage(&meter.id, &columns)
        .push(" GROUP BY ")
        .join(", ", &keys)
        .push(" LIMIT ")
        .arg(values_max.saturating_add(1).saturating_mul(STATES))
}

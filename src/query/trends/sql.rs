//! One statement for each series.

use super::{Math, Plan, PlannedBreakdown, PlannedSeries};
use crate::event::Scope;
use crate::query::actor::Actors;
use crate::query::interval::Buckets;
use crate::query::statement::{self, Select, View};
use crate::store::{Property, Sql};

/// The statement of a series. Its rows are (bucket, count, place, value): without a breakdown place 0 and no value; with
/// one, places from 1 on, the one after the last for all other values together. A bucket is the milliseconds at which it
/// begins; empty ones are absent.
pub(super) fn statement(scope: &Scope, plan: &Plan, series: &PlannedSeries, actors: &Actors) -> Sql {
    match &plan.breakdown {
        None => plain(scope, plan, series, actors),
        Some(breakdown) => broken_down(scope, plan, series, breakdown, actors),
    }
}

/// One row: the time of the scope's first event, null without any.
pub(super) fn first_event(scope: &Scope) -> Sql {
    statement::events(scope, View::Deduplicated, &Sql::new("minOrNull(timestamp) AS first")).sql()
}

fn plain(scope: &Scope, plan: &Plan, series: &PlannedSeries, actors: &Actors) -> Sql {
    let columns = Sql::new("")
        .append(&bucket(&plan.buckets))
        .push(" AS bucket, ")
        .append(&match series.math {
            Math::Total => Sql::new("count()"),
            Math::Dau => Sql::new("uniqExact(").append(&actors.id()).push(")"),
        })
        .push(" AS value, toUInt64(0) AS place, '' AS label");
    rows(scope, plan, series, &columns).actors(actors).then(Sql::new("GROUP BY bucket ORDER BY bucket")).sql()
}

/// One read: count by bucket and value, give every value its place by the sum over its buckets, then merge all values
/// after the last place into one.
fn broken_down(
    scope: &Scope,
    plan: &Plan,
    series: &PlannedSeries,
    breakdown: &PlannedBreakdown,
    actors: &Actors,
) -> Sql {
    let people = Sql::new("uniqExactState(").append(&actors.id()).push(")");
    let (state, total, merged) = match series.math {
        Math::Total => (Sql::new("count()"), "state", "sum(state)"),
        Math::Dau => (people, "finalizeAggregation(state)", "uniqExactMerge(state)"),
    };
    let columns = Sql::new("")
        .append(&bucket(&plan.buckets))
        .push(" AS bucket, ifNull(")
        .append(&Property::new(&breakdown.property).text())
        .push(", '') AS label, ")
        .append(&state)
        .push(" AS state");
    let counted =
        rows(scope, plan, series, &columns).actors(actors).then(Sql::new("GROUP BY bucket, label")).sql();
    let summed = Sql::new("SELECT bucket, label, state, sum(")
        .push(total)
        .push(") OVER (PARTITION BY label) AS total FROM (")
        .append(&counted)
        .push(")");
    let placed = Sql::new(
        "SELECT bucket, label, state, least(dense_rank() OVER (ORDER BY label = '', total DESC, label), ",
    )
    .arg(breakdown.limit + 1)
    .push(") AS place FROM (")
    .append(&summed)
    .push(")");
    let merged = Sql::new("SELECT bucket, toUInt64(")
        .push(merged)
        .push(") AS value, toUInt64(place) AS place, substringUTF8(any(label), 1, 1000) AS label FROM (")
        .append(&placed)
        .push(")");
    let shown =
        if breakdown.hide_other { merged.push(" WHERE place <= ").arg(breakdown.limit) } else { merged };
    shown.push(" GROUP BY place, bucket ORDER BY place, bucket")
}

fn rows(scope: &Scope, plan: &Plan, series: &PlannedSeries, columns: &Sql) -> Select {
    let select = statement::events(scope, View::Deduplicated, columns).within(plan.range);
    let select = match &series.event {
        Some(event) => select.and(Sql::new("event_name = ").arg(event)),
        None => select,
    };
    select.and_all(series.conditions.iter().cloned())
}

/// The milliseconds at which the bucket of a row begins. Buckets of one length (hours, minutes, and days while the
/// clocks do not change) are a division; others are looked up among their beginnings.
fn bucket(buckets: &Buckets) -> Sql {
    let at = Sql::new("toUnixTimestamp64Milli(timestamp)");
    let first = buckets.starts().first().map_or(0, |start| start.as_millis());
    match buckets.width_millis() {
        Some(width) => Sql::new("")
            .arg(first)
            .push(" + intDiv(")
            .append(&at)
            .push(" - ")
            .arg(first)
            .push(", ")
            .arg(width)
            .push(") * ")
            .arg(width),
        None => {
            let starts: Vec<i64> = buckets.starts().iter().map(|start| start.as_millis()).collect();
            Sql::new("roundDown(").append(&at).push(", CAST(").arg(starts).push(", 'Array(Int64)'))")
        }
    }
}

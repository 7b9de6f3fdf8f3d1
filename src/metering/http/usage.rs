//! Usage of events by name, of meters, and of features.

use std::collections::{BTreeMap, HashMap};

use actix_web::http::header::ContentType;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use bigdecimal::BigDecimal;
use serde::ser::{Error as _, SerializeSeq as _};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{allowed, check_environment, not_found, number, read};
use crate::auth::Permission;
use crate::event::{Scope, Timestamp};
use crate::http::{BodyLimits, Problem};
use crate::meta::Feature;
use crate::metering::meter::{Meter, MeterFilter, ResetUsage};
use crate::metering::number::plain;
use crate::metering::request::{AnalyticsRequest, MeterRequest, UsageRequest};
use crate::metering::usage::{Counts, Group, Plan, Point, Usage};
use crate::metering::{Metering, meta_problem};

/// What usage is answered as.
#[derive(Serialize)]
struct Answer<'a> {
    results: Buckets<'a>,
    /// Of the whole range; 0 where there is nothing to make it of (`has_value` tells).
    value: Box<RawValue>,
    has_value: bool,
    /// The same as text, for clients whose numbers are floats.
    exact_value: String,
    event_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    meter_id: Option<String>,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    counts: Counts,
    start_time: Timestamp,
    end_time: Timestamp,
    as_of: Option<Timestamp>,
    read_from: &'static str,
    /// Only where the question asked: is this a total for an invoice? `as_of` then gives it again, whatever comes later.
    #[serde(rename = "final", skip_serializing_if = "Option::is_none")]
    is_final: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    final_reason: Option<String>,
}

/// What a question that wants a final total gets besides the total.
#[derive(Default)]
struct Final {
    is_final: Option<bool>,
    reason: Option<String>,
    as_of: Option<Timestamp>,
}

/// Sweeps before a total that is called final.
async fn finalized(metering: &Metering, wanted: bool, plan: &Plan) -> Result<Final, Problem> {
    if !wanted {
        return Ok(Final::default());
    }
    Ok(match metering.finalize(plan.from).await? {
        Ok(as_of) => Final { is_final: Some(true), reason: None, as_of: Some(as_of) },
        Err(reason) => Final { is_final: Some(false), reason: Some(reason), as_of: None },
    })
}

impl Answer<'_> {
    fn called(self, called: Final) -> Self {
        Self {
            is_final: called.is_final,
            final_reason: called.reason,
            as_of: called.as_of.or(self.as_of),
            ..self
        }
    }
}

/// The points of an answer. There may be hundreds of thousands: they are written as they are, one after the other.
struct Buckets<'a> {
    plan: &'a Plan,
    points: &'a [Point],
}

#[derive(Serialize)]
struct Bucket<'a> {
    /// The first moment of the window; empty without windows.
    window_size: &'a str,
    value: &'a RawValue,
    has_value: bool,
    exact_value: &'a str,
    group: Groups<'a>,
    #[serde(flatten)]
    counts: Counts,
}

/// What a point is of, by what it is grouped by.
struct Groups<'a>(&'a [String], &'a [String]);

impl Serialize for Groups<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().zip(self.1))
    }
}

impl Serialize for Buckets<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let names: Vec<String> = self.plan.group_by.iter().map(Group::name).collect();
        let mut out = serializer.serialize_seq(Some(self.points.len()))?;
        let (mut window, mut window_size) = (None, String::new());
        for point in self.points {
            if point.start != window {
                window = point.start;
                window_size = window.map(|start| start_text(self.plan, start)).unwrap_or_default();
            }
            let exact_value = point.value.as_ref().map_or_else(|| "0".to_owned(), plain);
            out.serialize_element(&Bucket {
                window_size: &window_size,
                value: serde_json::from_str(&exact_value).map_err(S::Error::custom)?,
                has_value: point.value.is_some(),
                exact_value: &exact_value,
                group: Groups(&names, &point.group),
                counts: point.counts,
            })?;
        }
        out.end()
    }
}

fn answer<'a>(plan: &'a Plan, usage: &'a Usage) -> Result<Answer<'a>, Problem> {
    let zero = BigDecimal::from(0);
    let value = usage.total.value.as_ref().unwrap_or(&zero);
    let first = plan.segments.first();
    Ok(Answer {
        results: Buckets { plan, points: &usage.points },
        value: number(value)?,
        has_value: usage.total.value.is_some(),
        exact_value: plain(value),
        event_name: first.map(|segment| segment.event_name.clone()).unwrap_or_default(),
        meter_id: None,
        kind: first.map_or("COUNT", |segment| segment.measure.aggregation.as_str()),
        counts: usage.total.counts,
        start_time: plan.from,
        end_time: plan.end,
        as_of: plan.as_of,
        read_from: usage.read_from,
        is_final: None,
        final_reason: None,
    })
}

/// About as long as a point is written.
const POINT_BYTES: usize = 256;

/// The answer, into as much room as it takes: a hundred megabytes are not moved about as they grow.
fn written(answer: &Answer<'_>) -> Result<HttpResponse, Problem> {
    let mut body = Vec::with_capacity(1024 + answer.results.points.len() * POINT_BYTES);
    serde_json::to_writer(&mut body, answer).map_err(Problem::internal)?;
    Ok(HttpResponse::Ok().content_type(ContentType::json()).body(body))
}

/// The start of a window as its zone writes it.
fn start_text(plan: &Plan, start: Timestamp) -> String {
    match plan.windows.as_ref().or(plan.buckets.as_ref()) {
        Some(windows) if windows.zone != chrono_tz::UTC => {
            windows.zoned(start).to_rfc3339_opts(chrono::SecondsFormat::Secs, false)
        }
        _ => start.to_utc().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
    }
}

/// `POST /v1/events/usage`.
pub(super) async fn by_name(
    request: HttpRequest,
    metering: Data<Metering>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &metering, Permission::Query).await?;
    let asked: UsageRequest = read(&request, payload, **limits).await?;
    check_environment(&access, asked.environment_id.as_deref())?;
    let plan = asked.plan(&access.scope, metering.now())?;
    let _turn = metering.turn().await?;
    let called = finalized(&metering, asked.is_final, &plan).await?;
    let usage = metering.usage(&plan).await?;
    written(&answer(&plan, &usage)?.called(called))
}

/// `POST /v1/events/usage/meter`.
pub(super) async fn by_meter(
    request: HttpRequest,
    metering: Data<Metering>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &metering, Permission::Query).await?;
    let asked: MeterRequest = read(&request, payload, **limits).await?;
    check_environment(&access, asked.environment_id.as_deref())?;
    let found = metering.catalogue().find(&access.scope, &asked.meter_id).await.map_err(meta_problem)?;
    let Some(meter) = found else {
        return Err(not_found("meter", &asked.meter_id).with("field", "meter_id"));
    };
    let plan = asked.plan(&access.scope, &meter, metering.now())?;
    let _turn = metering.turn().await?;
    let called = finalized(&metering, asked.is_final, &plan).await?;
    let usage = measured(&metering, &meter, &plan, &asked.more()?).await?;
    let answer = answer(&plan, &usage)?;
    written(&Answer { meter_id: Some(meter.id), ..answer }.called(called))
}

/// Usage of a meter; one that never begins anew counts all history in its total.
async fn measured(
    metering: &Metering,
    meter: &Meter,
    plan: &Plan,
    more: &[MeterFilter],
) -> Result<Usage, Problem> {
    let usage = metering.usage_of(meter, plan).await?;
    let never = meter.newest().is_some_and(|version| version.definition.reset_usage == ResetUsage::Never);
    if !never {
        return Ok(usage);
    }
    let mut whole = plan.clone();
    whole.from = Timestamp::EPOCH;
    whole.segments = crate::metering::request::segments(meter, Timestamp::EPOCH, plan.end, more);
    whole.windows = None;
    if whole.buckets.is_none() {
        whole.group_by = Vec::new();
    }
    let total = metering.usage_of(meter, &whole).await?.total;
    Ok(Usage { total, ..usage })
}

/// `POST /v1/events/analytics`: usage of every feature that has a meter, or of those that are named.
pub(super) async fn analytics(
    request: HttpRequest,
    metering: Data<Metering>,
    limits: Data<BodyLimits>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let access = allowed(&request, &metering, Permission::Query).await?;
    let asked: AnalyticsRequest = read(&request, payload, **limits).await?;
    check_environment(&access, asked.environment_id.as_deref())?;
    let scope = &access.scope;
    let features = features_of(&metering, scope, &asked.feature_ids).await?;
    // What cannot be meant is refused also where there is no feature to ask about.
    asked.plan(
        scope,
        &Meter { id: String::new(), name: String::new(), versions: Vec::new() },
        metering.now(),
    )?;
    let _turn = metering.turn().await?;
    let mut items = Vec::new();
    for (feature, meter) in &features {
        let plan = asked.plan(scope, meter, metering.now())?;
        let usage = metering.usage_of(meter, &plan).await?;
        let totals = match &plan {
            // Windows of a group do not add up to its total: that is asked for by itself.
            plan if is_grouped(plan) && plan.windows.is_some() && !sums(plan) => {
                let whole = Plan { windows: None, ..plan.clone() };
                metering.usage_of(meter, &whole).await?.points
            }
            _ => Vec::new(),
        };
        items.extend(items_of(feature, meter, &plan, (&usage, &totals), &asked));
    }
    Ok(HttpResponse::Ok().json(json!({
        "items": items,
        "custom_analytics": [],
        "subtotal": "0",
        "total_discount": "0",
        "total_cost": "0",
        "currency": "",
    })))
}

async fn features_of(
    metering: &Metering,
    scope: &Scope,
    ids: &[String],
) -> Result<Vec<(Feature, Meter)>, Problem> {
    let max = metering.config.features_max;
    let (all, _) = metering.meta.features().list(scope, 0, max).await.map_err(meta_problem)?;
    let mut found = Vec::new();
    for feature in all {
        let wanted = ids.is_empty() || ids.contains(&feature.id) || ids.contains(&feature.lookup_key);
        let Some(meter_id) = feature.meter_id.clone().filter(|_| wanted) else { continue };
        let meter = metering.catalogue().find(scope, &meter_id).await.map_err(meta_problem)?;
        found.extend(meter.map(|meter| (feature, meter)));
    }
    Ok(found)
}

fn is_grouped(plan: &Plan) -> bool {
    plan.buckets.is_none() && !plan.group_by.is_empty()
}

/// One item a group, with a point for each window. `totals` are those of groups whose windows do not add up.
fn items_of(
    feature: &Feature,
    meter: &Meter,
    plan: &Plan,
    (usage, totals): (&Usage, &[Point]),
    asked: &AnalyticsRequest,
) -> Vec<Value> {
    if !is_grouped(plan) {
        return vec![item(feature, meter, plan, (&[], usage.read_from), &usage.points, &usage.total, asked)];
    }
    let mut groups: BTreeMap<&[String], Vec<Point>> = BTreeMap::new();
    for point in &usage.points {
        groups.entry(&point.group).or_default().push(point.clone());
    }
    let totals: HashMap<&[String], &Point> = totals.iter().map(|total| (&*total.group, total)).collect();
    let of_group = |(group, points): (&[String], Vec<Point>)| {
        let counts = points.iter().fold(Counts::default(), |sum, point| sum.plus(point.counts));
        let value = match (points.as_slice(), totals.get(group)) {
            (_, Some(total)) => total.value.clone(),
            ([one], None) => one.value.clone(),
            (many, None) => Some(many.iter().filter_map(|point| point.value.clone()).sum()),
        };
        let total = Point { start: None, group: group.into(), value, counts };
        item(feature, meter, plan, (group, usage.read_from), &points, &total, asked)
    };
    groups.into_iter().map(of_group).collect()
}

fn sums(plan: &Plan) -> bool {
    use crate::metering::tally::Aggregation::{Count, Sum, SumWithMultiplier};
    plan.segments
        .first()
        .is_some_and(|segment| matches!(segment.measure.aggregation, Count | Sum | SumWithMultiplier))
}

fn item(
    feature: &Feature,
    meter: &Meter,
    plan: &Plan,
    (group, read_from): (&[String], &str),
    points: &[Point],
    total: &Point,
    asked: &AnalyticsRequest,
) -> Value {
    let newest = meter.newest();
    let usage = total.value.as_ref().map_or_else(|| "0".to_owned(), plain);
    let by = || plan.group_by.iter().zip(group);
    let source =
        by().find(|(by, _)| by.name() == "source").map(|(_, value)| value.as_str()).unwrap_or_default();
    let properties: Map<String, Value> = by()
        .filter_map(|(by, value)| {
            Some((by.name().strip_prefix("properties.")?.to_owned(), value.as_str().into()))
        })
        .collect();
    let unit = |name: &str| feature.body.0.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let point = |point: &Point| {
        json!({
            "timestamp": point.start.map(|start| start_text(plan, start)),
            "usage": point.value.as_ref().map_or_else(|| "0".to_owned(), plain),
            "cost": "0",
            "discount": "0",
            "subtotal": "0",
            "event_count": point.counts.event_count,
            "buckets": [],
            "computed_commitment_utilized_amount": null,
            "computed_overage_amount": null,
            "computed_true_up_amount": null,
        })
    };
    let shown: Vec<Value> = points.iter().filter(|point| point.start.is_some()).map(point).collect();
    json!({
        "feature_id": feature.id, "name": feature.name, "meter_id": meter.id, "feature": null, "meter": null,
        "event_name": newest.map(|version| version.definition.event_name.clone()),
        "aggregation_type": newest.map(|version| version.measure.aggregation.as_str()),
        "external_customer_id": asked.external_customer_id,
        "source": source, "sources": asked.sources, "properties": properties,
        "unit": unit("unit_singular"), "unit_plural": unit("unit_plural"), "reporting_unit": null,
        "total_usage": usage, "total_usage_display": usage, "has_value": total.value.is_some(),
        "event_count": total.counts.event_count, "missing_count": total.counts.missing_count,
        "not_numeric_count": total.counts.not_numeric_count,
        "too_precise_count": total.counts.too_precise_count,
        "points": shown, "window_size": asked.window_size.clone().unwrap_or_default(),
        "total_cost": "0", "subtotal": "0", "total_discount": "0", "currency": "",
        "read_from": read_from,
        "add_on_id": "", "addon": null, "plan_id": "", "plan": null, "price_id": "", "price": null,
        "sub_line_item_id": "", "subscription_id": "", "subscription_line_item": null,
        "commitment_info": null, "bucket_summaries": [], "group": null,
    })
}

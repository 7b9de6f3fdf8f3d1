//! Questions of usage as they are sent, in FlexPrice's words, checked into plans. Nothing is coerced: an unknown
//! window, zone or aggregation, or a value that is needed and absent, is a 400 that names the field.

use std::collections::BTreeMap;

use chrono_tz::Tz;
use serde::Deserialize;
use serde_json::Value;

use super::meter::{AggregationSpec, Measure, Meter, MeterFilter, Version, check_text};
use super::tally::Aggregation;
use super::usage::{BACK, Group, Plan, Segment};
use super::window::{Anchor, WindowSize, Windows};
use crate::event::{Scope, Timestamp};
use crate::http::{self, Problem};

/// Most groups, filters and values of a filter.
const GROUPS_MAX: usize = 5;
const FILTERS_MAX: usize = 50;
const VALUES_MAX: usize = 1000;

/// `{"key": ["value", …]}`: AND over keys, IN within.
pub type Filters = BTreeMap<String, Vec<String>>;

/// `POST /v1/events/usage`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageRequest {
    #[serde(alias = "event_type")]
    pub event_name: String,
    pub aggregation_type: String,
    #[serde(default)]
    pub property_name: String,
    #[serde(default)]
    pub expression: String,
    pub multiplier: Option<String>,
    pub bucket_size: Option<String>,
    #[serde(default)]
    pub group_by: Vec<String>,
    pub group_by_property: Option<String>,
    pub external_customer_id: Option<String>,
    pub customer_id: Option<String>,
    pub start_time: Option<String>,
    pub end_time: Option<String>,
    pub window_size: Option<String>,
    #[serde(default)]
    pub filters: Filters,
    pub billing_anchor: Option<Value>,
    pub timezone: Option<String>,
    pub as_of: Option<String>,
    /// Sweep first, and say whether everything that was accepted is in the total.
    #[serde(default, rename = "final")]
    pub is_final: bool,
    pub environment_id: Option<String>,
}

/// `POST /v1/events/usage/meter`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeterRequest {
    pub meter_id: String,
    pub bucket_size: Option<String>,
    #[serde(default)]
    pub group_by: Vec<String>,
    pub external_customer_id: Option<String>,
    pub customer_id: Option<String>,
    pub start_time: Option<String>,
    pub end_time: Option<String>,
    pub window_size: Option<String>,
    #[serde(default)]
    pub filters: Filters,
    pub billing_anchor: Option<Value>,
    pub timezone: Option<String>,
    pub as_of: Option<String>,
    /// Sweep first, and say whether everything that was accepted is in the total.
    #[serde(default, rename = "final")]
    pub is_final: bool,
    pub environment_id: Option<String>,
}

/// `POST /v1/events/analytics`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnalyticsRequest {
    pub external_customer_id: Option<String>,
    #[serde(default)]
    pub feature_ids: Vec<String>,
    #[serde(default)]
    pub sources: Vec<String>,
    pub start_time: Option<String>,
    pub end_time: Option<String>,
    #[serde(default)]
    pub group_by: Vec<String>,
    pub window_size: Option<String>,
    #[serde(default)]
    pub expand: Vec<String>,
    #[serde(default)]
    pub property_filters: Filters,
    #[serde(default)]
    pub include_children: bool,
    #[serde(default)]
    pub breakdown_bucket: bool,
    pub billing_anchor: Option<Value>,
    pub timezone: Option<String>,
    pub as_of: Option<String>,
    pub environment_id: Option<String>,
}

fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// A time of field `field`.
///
/// # Errors
/// 400 that shows the form.
pub fn time(field: &str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let at = Timestamp::parse(text).ok().filter(|at| (Timestamp::EPOCH..=Timestamp::MAX).contains(at));
    at.map(Some).ok_or_else(|| {
        let message = format!(
            "{field} is {text:?}; expected an RFC 3339 time such as 2026-01-31T12:00:00Z, from 1970 on"
        );
        Problem::invalid(field, message).with("given", text)
    })
}

/// The half-open range; seven days before the end, which is now, unless said.
///
/// # Errors
/// 400: it cannot be read, or is backwards.
pub fn range(
    start: &Option<String>,
    end: &Option<String>,
    now: Timestamp,
) -> Result<(Timestamp, Timestamp), Problem> {
    let end = time("end_time", given(end))?.unwrap_or(now);
    let start = time("start_time", given(start))?.unwrap_or_else(|| end.minus(BACK).max(Timestamp::EPOCH));
    if end <= start {
        let message = format!("end_time is {end}, not after start_time, which is {start}");
        return Err(Problem::invalid("end_time", message).with("given", end.to_string()));
    }
    Ok((start, end))
}

/// A time zone by its IANA name; UTC when none is given.
///
/// # Errors
/// 400 with the nearest known name.
pub fn zone(name: &Option<String>) -> Result<Tz, Problem> {
    given(name).map_or(Ok(Tz::UTC), |name| http::zone("timezone", name))
}

/// A window size of field `field`.
///
/// # Errors
/// 400 with the valid ones.
pub fn window_size(field: &str, name: &Option<String>) -> Result<Option<WindowSize>, Problem> {
    let Some(name) = given(name) else { return Ok(None) };
    WindowSize::from_name(name).map(Some).ok_or_else(|| {
        let valid: Vec<&str> = WindowSize::ALL.iter().map(|(name, _)| *name).collect();
        let message = format!("{field} is {name:?}, but must be one of {}", valid.join(", "));
        Problem::invalid(field, message).with("given", name).with("valid", valid)
    })
}

/// Where months begin: a moment, or a day from 1 to 31.
fn anchor(value: &Option<Value>, zone: Tz) -> Result<Option<Anchor>, Problem> {
    let read = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.is_empty() => return Ok(None),
        Some(Value::String(text)) => Timestamp::parse(text).ok().map(|at| Anchor::of(at, zone)),
        Some(Value::Number(day)) => {
            day.as_u64().and_then(|day| u32::try_from(day).ok()).and_then(Anchor::day)
        }
        Some(_) => None,
    };
    read.map(Some).ok_or_else(|| {
        let message = "billing_anchor must be an RFC 3339 time, whose day and time of day months begin with, or a \
                       day from 1 to 31";
        Problem::invalid("billing_anchor", message)
            .with("given", value.as_ref().map(ToString::to_string).unwrap_or_default())
    })
}

/// The windows of a question.
///
/// # Errors
/// 400 that names the field.
pub fn windows(
    field: &str,
    size: &Option<String>,
    zone: Tz,
    billing_anchor: &Option<Value>,
) -> Result<Option<Windows>, Problem> {
    let anchor = anchor(billing_anchor, zone)?;
    Ok(window_size(field, size)?.map(|size| Windows { size, zone, anchor }))
}

fn groups(names: &[String], extra: &[&'static str]) -> Result<Vec<Group>, Problem> {
    if names.len() > GROUPS_MAX {
        let message = format!("group_by may have {GROUPS_MAX} entries, given {}", names.len());
        return Err(Problem::invalid("group_by", message).with("max", GROUPS_MAX));
    }
    let mut groups = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let field = format!("group_by[{index}]");
        let group = match name.strip_prefix("properties.") {
            Some(key) => {
                check_text(&field, key)?;
                Group::Property(key.to_owned())
            }
            None if name == "source" => Group::Source,
            None if name == "external_customer_id" => Group::ExternalCustomer,
            None if name == "customer_id" => Group::Customer,
            None if extra.contains(&name.as_str()) => continue,
            None => {
                let message = format!(
                    "{field} is {name:?}, but must be source, external_customer_id, customer_id or properties.NAME"
                );
                return Err(Problem::invalid(&field, message).with("given", name.as_str()));
            }
        };
        if groups.contains(&group) {
            return Err(Problem::invalid(&field, format!("{field}: {name} is given more than once")));
        }
        groups.push(group);
    }
    Ok(groups)
}

fn filters(field: &str, filters: &Filters) -> Result<Vec<MeterFilter>, Problem> {
    if filters.len() > FILTERS_MAX {
        let message = format!("{field} may have {FILTERS_MAX} keys, given {}", filters.len());
        return Err(Problem::invalid(field, message).with("max", FILTERS_MAX));
    }
    filters
        .iter()
        .map(|(key, values)| {
            let field = format!("{field}.{key}");
            check_text(&field, key)?;
            if values.is_empty() || values.len() > VALUES_MAX {
                let message = format!("{field} must have 1 to {VALUES_MAX} values, given {}", values.len());
                return Err(Problem::invalid(&field, message).with("max", VALUES_MAX));
            }
            Ok(MeterFilter { key: key.clone(), values: values.clone() })
        })
        .collect()
}

fn as_of(text: &Option<String>, now: Timestamp) -> Result<Option<Timestamp>, Problem> {
    let at = time("as_of", given(text))?;
    match at {
        Some(at) if at > now => {
            let message = format!("as_of is {at}, after now ({now}): a total of then is not settled");
            Err(Problem::invalid("as_of", message).with("given", at.to_string()))
        }
        at => Ok(at),
    }
}

impl UsageRequest {
    /// Checks it.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn plan(&self, scope: &Scope, now: Timestamp) -> Result<Plan, Problem> {
        check_text("event_name", &self.event_name)?;
        let kind = Aggregation::from_name(&self.aggregation_type).ok_or_else(|| {
            let valid: Vec<&str> = Aggregation::ALL.iter().map(|(name, _)| *name).collect();
            let given = &self.aggregation_type;
            let message = format!("aggregation_type is {given:?}, but must be one of {}", valid.join(", "));
            Problem::invalid("aggregation_type", message).with("given", given.as_str()).with("valid", valid)
        })?;
        let (from, end) = range(&self.start_time, &self.end_time, now)?;
        let zone = zone(&self.timezone)?;
        let buckets = windows("bucket_size", &self.bucket_size, zone, &self.billing_anchor)?;
        let mut group_by = self.group_by.clone();
        if let Some(key) = given(&self.group_by_property)
            && group_by.is_empty()
        {
            group_by.push(format!("properties.{key}"));
        }
        let spec = AggregationSpec {
            kind,
            field: self.property_name.clone(),
            expression: self.expression.clone(),
            multiplier: self.multiplier.clone().filter(|text| !text.is_empty()),
            bucket_size: buckets.as_ref().map(|buckets| buckets.size),
            group_by: None,
        };
        let measure = Measure::new(&spec, "").map_err(as_property_name)?;
        let filters = filters("filters", &self.filters)?;
        Ok(Plan {
            scope: scope.clone(),
            from,
            end,
            segments: vec![Segment { from, end, event_name: self.event_name.clone(), measure, filters }],
            external_customer_id: given(&self.external_customer_id).map(str::to_owned),
            customer_id: given(&self.customer_id).map(str::to_owned),
            sources: Vec::new(),
            windows: windows("window_size", &self.window_size, zone, &self.billing_anchor)?,
            buckets,
            group_by: groups(&group_by, &[])?,
            as_of: as_of(&self.as_of, now)?,
            filtered: true,
        })
    }
}

/// A spec's field `field` is called `property_name` here.
fn as_property_name(problem: Problem) -> Problem {
    if problem.details.get("field").is_some_and(|field| field == "field") {
        let message = problem.message.replace("field", "property_name");
        return Problem { message, ..problem }.with("field", "property_name");
    }
    problem
}

/// The segments of a meter's versions in a range; `more` are the question's own filters.
pub fn segments(meter: &Meter, from: Timestamp, end: Timestamp, more: &[MeterFilter]) -> Vec<Segment> {
    let segment = |(from, end, version): (Timestamp, Timestamp, &Version)| Segment {
        from,
        end,
        event_name: version.definition.event_name.clone(),
        measure: version.measure.clone(),
        filters: version.definition.filters.iter().chain(more).cloned().collect(),
    };
    meter.segments(from, end).into_iter().map(segment).collect()
}

/// The buckets that a meter's newest version asks for, and what they are grouped by.
fn meter_buckets(meter: &Meter, zone: Tz, anchor: Option<Anchor>) -> (Option<Windows>, Option<Group>) {
    let Some(spec) = meter.newest().map(|version| &version.definition.aggregation) else {
        return (None, None);
    };
    let buckets = spec.bucket_size.map(|size| Windows { size, zone, anchor });
    (buckets, spec.group_by.clone().map(Group::Property))
}

impl MeterRequest {
    /// The question's own filters, besides the meter's.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn more(&self) -> Result<Vec<MeterFilter>, Problem> {
        filters("filters", &self.filters)
    }

    /// Checks it, for the meter that it names.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn plan(&self, scope: &Scope, meter: &Meter, now: Timestamp) -> Result<Plan, Problem> {
        let (from, end) = range(&self.start_time, &self.end_time, now)?;
        let zone = zone(&self.timezone)?;
        let windows = windows("window_size", &self.window_size, zone, &self.billing_anchor)?;
        let (own, by) = meter_buckets(meter, zone, anchor(&self.billing_anchor, zone)?);
        let buckets = match window_size("bucket_size", &self.bucket_size)? {
            None => own,
            Some(size) => Some(Windows { size, zone, anchor: anchor(&self.billing_anchor, zone)? }),
        };
        let kind = meter.newest().map_or(Aggregation::Count, |version| version.measure.aggregation);
        if buckets.is_some() && !matches!(kind, Aggregation::Max | Aggregation::Sum) {
            let message =
                format!("bucket_size goes with MAX and SUM; the meter's aggregation is {}", kind.as_str());
            return Err(Problem::invalid("bucket_size", message));
        }
        let mut group_by = groups(&self.group_by, &[])?;
        group_by.extend(by.filter(|_| buckets.is_some()).filter(|by| !self.group_by.contains(&by.name())));
        let more = self.more()?;
        Ok(Plan {
            scope: scope.clone(),
            from,
            end,
            segments: segments(meter, from, end, &more),
            external_customer_id: given(&self.external_customer_id).map(str::to_owned),
            customer_id: given(&self.customer_id).map(str::to_owned),
            sources: Vec::new(),
            windows,
            buckets,
            group_by,
            as_of: as_of(&self.as_of, now)?,
            filtered: !more.is_empty(),
        })
    }
}

impl AnalyticsRequest {
    /// Checks it, for the meter of one feature.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn plan(&self, scope: &Scope, meter: &Meter, now: Timestamp) -> Result<Plan, Problem> {
        for (field, asked) in [
            ("include_children", self.include_children),
            ("breakdown_bucket", self.breakdown_bucket),
            ("expand", !self.expand.is_empty()),
        ] {
            if asked {
                let message =
                    format!("{field} is about customers' hierarchies and prices, which are not kept here");
                return Err(Problem::invalid(field, message));
            }
        }
        let request = MeterRequest {
            meter_id: meter.id.clone(),
            external_customer_id: self.external_customer_id.clone(),
            start_time: self.start_time.clone(),
            end_time: self.end_time.clone(),
            window_size: self.window_size.clone(),
            billing_anchor: self.billing_anchor.clone(),
            timezone: self.timezone.clone(),
            as_of: self.as_of.clone(),
            ..MeterRequest::default()
        };
        let plan = request.plan(scope, meter, now)?;
        let group_by = groups(&self.group_by, &["feature_id"])?;
        let more = filters("property_filters", &self.property_filters)?;
        let segments = segments(meter, plan.from, plan.end, &more);
        let buckets = if group_by.is_empty() { plan.buckets } else { None };
        let group_by = if buckets.is_some() { plan.group_by } else { group_by };
        Ok(Plan {
            segments,
            sources: self.sources.clone(),
            buckets,
            group_by,
            filtered: !more.is_empty(),
            ..plan
        })
    }
}

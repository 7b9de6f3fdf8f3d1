//! Trends: how many events, or people, a day (hour, week, …), in series that stand beside each other.
//!
//! Typed request → `Plan` → one statement a series → answer. The statement counts between boundaries that were
//! computed here, so that every bucket is there, in the zone's calendar, empty ones with 0.
//!
//! With a breakdown, a series becomes one for each of the property's `limit` most frequent values (ties by value), in
//! this order, then the events without a value, then all other values together. An empty text counts as no value. The
//! parts of a series sum up to it.

mod answer;
mod sql;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

#[cfg(test)]
use super::actor::Actors;
use super::filter::{self, Filter, PropertyKind};
use super::interval::{Buckets, Calendar, Interval, WeekStart};
use super::range::{self, Asked, Begin, Range};
use super::{Meta, Query};
use crate::config;
use crate::event::{Scope, Timestamp};
use crate::http::Problem;
use crate::store::Sql;

pub use answer::{Line, OTHER, WITHOUT};

/// A question for trends, as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trends {
    /// Where the range begins; seven days ago when absent. See [`range`].
    pub date_from: Option<String>,
    /// Where it ends; today when absent.
    pub date_to: Option<String>,
    #[serde(default)]
    pub interval: Interval,
    /// An IANA name; UTC when absent.
    pub timezone: Option<String>,
    pub week_start: Option<WeekStart>,
    /// At least one, at most `query.series_max`.
    pub series: Vec<Series>,
    /// Hold for every series.
    #[serde(default)]
    pub filters: Vec<Filter>,
    pub breakdown: Option<Breakdown>,
    /// What relative dates count from; the server's time when absent.
    pub now: Option<Timestamp>,
    /// Pass by anything remembered.
    #[serde(default)]
    pub refresh: bool,
    /// The environment that is meant, to be refused if the key has another.
    pub environment_id: Option<String>,
    /// How the values of a breakdown are ordered.
    #[serde(default)]
    pub order: Order,
}

/// One line of the answer, or one bundle of lines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// The event's name; every event when absent or null.
    pub event: Option<String>,
    #[serde(default)]
    pub math: Math,
    #[serde(default)]
    pub filters: Vec<Filter>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Math {
    /// Events.
    #[default]
    Total,
    /// People who have at least one event in the bucket.
    Dau,
}

/// Splits every series by the values of a property.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Breakdown {
    pub property: String,
    #[serde(rename = "type", default)]
    pub kind: PropertyKind,
    /// How many values get a line of their own; 25 when absent, at most `query.breakdown_values_max`.
    pub limit: Option<usize>,
    /// Leave out the line of all other values.
    #[serde(default)]
    pub hide_other: bool,
}

/// How the values of a breakdown are ordered. Both say the same: by the sum of the series, greatest first, ties by
/// value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    #[default]
    #[serde(rename = "count desc, then value asc")]
    Count,
    #[serde(rename = "series total desc")]
    Total,
}

/// Values of a breakdown that get a line, unless the question says otherwise.
const BREAKDOWN_VALUES: usize = 25;

/// A question that is checked, but whose range may still hang on the store's first event.
#[derive(Debug)]
struct Checked {
    calendar: Calendar,
    interval: Interval,
    begin: Begin,
    end: Timestamp,
    series: Vec<PlannedSeries>,
    breakdown: Option<PlannedBreakdown>,
}

/// What is to be done.
#[derive(Debug)]
struct Plan {
    calendar: Calendar,
    interval: Interval,
    range: Range,
    buckets: Buckets,
    series: Vec<PlannedSeries>,
    breakdown: Option<PlannedBreakdown>,
}

#[derive(Debug)]
struct PlannedSeries {
    event: Option<String>,
    math: Math,
    conditions: Vec<Sql>,
}

#[derive(Debug)]
struct PlannedBreakdown {
    property: String,
    limit: usize,
    hide_other: bool,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct Answer {
    pub results: Vec<Line>,
    pub meta: TrendsMeta,
}

/// What the answer says about itself.
#[derive(Debug, Serialize)]
pub struct TrendsMeta {
    pub timezone: &'static str,
    /// The first moment of the first bucket, with the zone's offset.
    pub date_from: String,
    /// The last moment of the range.
    pub date_to: String,
    pub interval: Interval,
    #[serde(flatten)]
    pub meta: Meta,
}

/// Answers a question.
///
/// # Errors
/// 400 for what cannot be meant, 503 for what the store does not answer.
pub(super) async fn trends(query: &Query, scope: &Scope, question: &Trends) -> Result<Answer, Problem> {
    let checked = question.check(&query.limits, query.clock.now())?;
    let asked = query.begin().await?;
    let first = if checked.begin == Begin::FirstEvent {
        let rows: Vec<(Option<Timestamp>,)> = query.select(sql::first_event(scope)).await?;
        rows.into_iter().find_map(|(first,)| first)
    } else {
        None
    };
    let plan = checked.plan(first, &query.limits)?;
    let actors = query.actors(scope).await?;
    let names = answer::BucketNames::of(&plan);
    let mut results = Vec::new();
    for series in &plan.series {
        let rows: Vec<answer::Row> = query.select(sql::statement(scope, &plan, series, &actors)).await?;
        results.append(&mut answer::lines(&plan, series, &names, &rows));
    }
    let zoned = |at: Timestamp| plan.calendar.zoned(at).to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let meta = TrendsMeta {
        timezone: plan.calendar.zone.name(),
        date_from: zoned(plan.range.from),
        date_to: zoned(plan.range.last()),
        interval: plan.interval,
        meta: asked.meta(),
    };
    Ok(Answer { results, meta })
}

impl Trends {
    /// Checks everything that can be checked without the store.
    ///
    /// # Errors
    /// 400 that names the field, what was given and what would be right.
    fn check(&self, limits: &config::Query, now: Timestamp) -> Result<Checked, Problem> {
        let calendar = range::calendar(self.timezone.as_deref(), self.week_start)?;
        let asked = Asked { date_from: self.date_from.as_deref(), date_to: self.date_to.as_deref() };
        let (begin, end) = range::resolve(asked, &calendar, self.interval, self.now.unwrap_or(now))?;
        if self.series.is_empty() || self.series.len() > limits.series_max {
            let message = format!(
                "series has {} entries; a question has 1 to {} (query.series_max)",
                self.series.len(),
                limits.series_max
            );
            return Err(Problem::invalid("series", message)
                .with("max", limits.series_max)
                .with("setting", "query.series_max"));
        }
        let shared = filter::conditions(&self.filters, "filters", limits.filters_max)?;
        let series = self.series.iter().enumerate().map(|(index, series)| {
            let path = format!("series[{index}].filters");
            let mut conditions = shared.clone();
            conditions.extend(filter::conditions(&series.filters, &path, limits.filters_max)?);
            Ok(PlannedSeries { event: series.event.clone(), math: series.math, conditions })
        });
        let series = series.collect::<Result<_, Problem>>()?;
        let breakdown = self.breakdown.as_ref().map(|breakdown| breakdown.check(limits)).transpose()?;
        Ok(Checked { calendar, interval: self.interval, begin, end, series, breakdown })
    }
}

#[cfg(test)]
impl Trends {
    /// Every statement of the question.
    pub(super) fn statements(
        &self,
        scope: &Scope,
        limits: &config::Query,
        now: Timestamp,
    ) -> Result<Vec<Sql>, Problem> {
        let checked = self.check(limits, now)?;
        let first = (checked.begin == Begin::FirstEvent).then(|| sql::first_event(scope));
        let plan = checked.plan(None, limits)?;
        let actors = Actors::new(scope, false);
        let of_series = plan.series.iter().map(|series| sql::statement(scope, &plan, series, &actors));
        Ok(first.into_iter().chain(of_series).collect())
    }
}

impl Breakdown {
    fn check(&self, limits: &config::Query) -> Result<PlannedBreakdown, Problem> {
        filter::check_key("breakdown.property", &self.property)?;
        let limit = self.limit.unwrap_or(BREAKDOWN_VALUES.min(limits.breakdown_values_max));
        if limit == 0 || limit > limits.breakdown_values_max {
            let max = limits.breakdown_values_max;
            let message =
                format!("breakdown.limit is {limit}; it may be 1 to {max} (query.breakdown_values_max)");
            return Err(Problem::invalid("breakdown.limit", message)
                .with("given", limit)
                .with("max", max)
                .with("setting", "query.breakdown_values_max"));
        }
        Ok(PlannedBreakdown { property: self.property.clone(), limit, hide_other: self.hide_other })
    }
}

impl Checked {
    /// The plan, once the first event is known if it is needed; without any event the range is its last bucket.
    ///
    /// # Errors
    /// 400: the range is backwards, or the answer would be larger than `query.buckets_max` or `query.points_max`.
    fn plan(self, first: Option<Timestamp>, limits: &config::Query) -> Result<Plan, Problem> {
        let last = Timestamp::from_millis(self.end.as_millis() - 1);
        let from = match self.begin {
            Begin::At(from) => from,
            Begin::FirstEvent => first.unwrap_or(last).min(last),
        };
        let (range, buckets) =
            range::buckets(from, self.end, &self.calendar, self.interval, limits.buckets_max)?;
        let lines = self.series.len() * self.breakdown.as_ref().map_or(1, |breakdown| breakdown.limit + 1);
        let points = lines.saturating_mul(buckets.len());
        if points > limits.points_max {
            let message = format!(
                "the answer may have {points} numbers ({lines} lines of {} buckets), more than {} (query.points_max): \
                 take a longer interval, a shorter range or fewer values",
                buckets.len(),
                limits.points_max
            );
            return Err(Problem::invalid("interval", message)
                .with("max", limits.points_max)
                .with("setting", "query.points_max"));
        }
        let Self { calendar, interval, series, breakdown, .. } = self;
        Ok(Plan { calendar, interval, range, buckets, series, breakdown })
    }
}

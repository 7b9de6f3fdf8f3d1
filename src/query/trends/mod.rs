//! Trends: how many events, or people, a day (hour, week, …), in series that stand beside each other.
//!
//! Typed request → [`plan::Plan`] → one statement a series and period → answer. The statement counts between boundaries
//! that were computed here, so that every bucket is there, in the zone's calendar, empty ones with 0.
//!
//! With a breakdown, a series becomes one for each of the `limit` values with the greatest sum over the range (ties by
//! value), in this order, then all other values together. Events without a value come after every value, however many
//! they are: they have a line while there is room for it within the limit, else they are among all others. An empty
//! text counts as no value. The parts of a series that counts events sum up to it. A period that is compared has values
//! of its own.
//!
//! With formulas, the answer has their lines instead of the series'. Values of a breakdown are joined by what they
//! are; where a series lacks one, it is 0.
//!
//! | file | what |
//! |---|---|
//! | `math.rs` | what is counted |
//! | `plan.rs` | request → plan: everything is checked there |
//! | `breakdown.rs` | values that a series is split by, bins |
//! | `sql.rs` | plan → statements |
//! | `closed.rs` | numbers of buckets that are over, remembered |
//! | `formula.rs` | arithmetic over series |
//! | `answer.rs` | rows → lines |
//! | `people.rs` | who is behind a number |

mod answer;
mod breakdown;
pub(super) mod closed;
mod formula;
mod math;
pub mod people;
mod plan;
mod sql;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::chosen::People;
use super::filter::{Filters, PropertyKind};
use super::http::Question;
use super::interval::{Interval, WeekStart};
use super::range::Begin;
use super::{Meta, Query};
use crate::event::{Scope, Timestamp};
use crate::http::Problem;
use crate::telemetry::{Metric, names as metric};
use answer::{Row, SeriesRows};
use closed::{Before, Manner};
use plan::{Period, Plan};

pub use answer::{Line, Number, OTHER, Value, WITHOUT};
pub use breakdown::{Breakdown, BreakdownKind, OneOrMany};
pub use math::Math;

/// A question for trends, as it is sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trends {
    /// For whoever keeps the question: the answer is the same.
    #[serde(default, skip_serializing)]
    pub name: Option<String>,
    /// Where the range begins; seven days ago when absent. See [`super::range`].
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
    pub filters: Filters,
    /// Only what these people did.
    pub filter: Option<People>,
    /// Leave out what the filters of test accounts leave out.
    #[serde(default)]
    pub filter_test_accounts: bool,
    pub breakdown: Option<Breakdown>,
    /// How the values of a breakdown are ordered.
    #[serde(default)]
    pub order: Order,
    /// `A+2*B` over the series in their order.
    pub formula: Option<String>,
    /// The same, several.
    #[serde(default)]
    pub formulas: Vec<String>,
    /// Put the period before beside it.
    #[serde(default)]
    pub compare: bool,
    /// How far back the other period is (`-1w`), if not directly before.
    pub compare_to: Option<String>,
    #[serde(default)]
    pub display: Display,
    /// Each number is the mean of this many buckets that end with its own, without what stands behind the point.
    pub smoothing: Option<usize>,
    /// What relative dates count from; the server's time when absent.
    pub now: Option<Timestamp>,
    /// Pass by anything remembered.
    #[serde(default)]
    pub refresh: bool,
    /// The environment that is meant, to be refused if the key has another.
    pub environment_id: Option<String>,
}

/// One line of the answer, or one bundle of lines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// The event's name; every event when absent or null.
    pub event: Option<String>,
    #[serde(default)]
    pub math: Math,
    /// The property whose numbers `sum`, `avg`, `median`, … are of.
    pub math_property: Option<String>,
    #[serde(default)]
    pub math_property_type: PropertyKind,
    /// Which group `unique_group` counts: of `$group_<n>`, 0 when absent.
    pub math_group_type_index: Option<u8>,
    /// The same, of this name in `$groups`.
    pub math_group_type: Option<String>,
    /// What `math` `hogql` counts: an expression over many events, such as `sum(properties.price) / count()`.
    #[serde(alias = "math_hogql")]
    pub math_expression: Option<String>,
    #[serde(default)]
    pub filters: Filters,
    /// What to call it, if not by its event.
    pub name: Option<String>,
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

/// How the answer is shown. It decides what is answered: numbers over time, sums that run up over time, or one number
/// for the whole range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Display {
    #[default]
    Line,
    Area,
    Bar,
    Cumulative,
    BoldNumber,
    Table,
    Pie,
    WorldMap,
    BarValue,
}

impl Display {
    /// One number for the whole range?
    const fn of_whole(self) -> bool {
        matches!(self, Self::BoldNumber | Self::Table | Self::Pie | Self::WorldMap | Self::BarValue)
    }
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

impl Question for Trends {
    const NAME: &'static str = "trends";
    type Answer = Answer;

    fn duration() -> &'static Metric {
        &metric::QUERY_TREND_DURATION
    }

    fn environment_id(&self) -> Option<&str> {
        self.environment_id.as_deref()
    }

    fn timezone(&mut self) -> Option<&mut Option<String>> {
        Some(&mut self.timezone)
    }

    fn export(&mut self, _: &crate::config::Query) {
        if let Some(breakdown) = &mut self.breakdown {
            breakdown.export = true;
        }
    }

    async fn answer(&self, query: &Query, scope: &Scope) -> Result<Answer, Problem> {
        trends(query, scope, self).await
    }
}

/// Answers a question.
///
/// # Errors
/// 400 for what cannot be meant, 503 for what the store does not answer.
pub(super) async fn trends(query: &Query, scope: &Scope, question: &Trends) -> Result<Answer, Problem> {
    let now = query.clock.now();
    // What cannot be meant is refused before it waits for a turn, whoever the people are.
    question.check(&query.limits, now, &super::actor::Actors::new(scope, false))?;
    let asked = query.begin().await?;
    // Before the store is asked for anything: what happens meanwhile makes what is remembered old.
    let before = Before::now(&query.store, scope);
    let manner = Manner { before, anew: question.refresh || query.journal.keeps() };
    let actors = query.actors(scope).await?;
    let checked = question.check(&query.limits, now, &actors)?;
    let first = first_event(query, scope, checked.begin).await?;
    let plan = checked.plan(question, first, &query.limits)?;
    let mut rows = Vec::with_capacity(plan.series.len() * plan.periods.len());
    for period in &plan.periods {
        rows.extend(of_period(query, scope, &plan, period, manner).await?);
    }
    let range = plan.range();
    let shown = |at: Timestamp| plan.calendar.zoned(at).format("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string();
    let meta = TrendsMeta {
        timezone: plan.calendar.zone.name(),
        date_from: shown(range.from),
        date_to: shown(range.last()),
        interval: plan.interval,
        meta: asked.meta(),
    };
    Ok(Answer { results: answer::lines(&plan, &rows), meta })
}

/// The time of the scope's first event, where the range hangs on it.
async fn first_event(query: &Query, scope: &Scope, begin: Begin) -> Result<Option<Timestamp>, Problem> {
    if begin != Begin::FirstEvent {
        return Ok(None);
    }
    let rows: Vec<(Option<Timestamp>,)> = query.select(sql::first_event(scope)).await?;
    Ok(rows.into_iter().find_map(|(first,)| first))
}

/// The rows of every series in one period.
async fn of_period(
    query: &Query,
    scope: &Scope,
    plan: &Plan,
    period: &Period,
    manner: Manner,
) -> Result<Vec<SeriesRows>, Problem> {
    let bins = match &plan.breakdown {
        Some(breakdown) => people::bins(query, scope, plan, (period, breakdown)).await?,
        None => None,
    };
    let label = plan.breakdown.as_ref().map(|breakdown| breakdown.label(bins.as_deref()));
    let mut all = Vec::with_capacity(plan.series.len());
    for series in &plan.series {
        let rows: Vec<Row> = match &label {
            Some(label) => query.select(sql::statement(scope, plan, period, series, Some(label))).await?,
            None => closed::rows(query, scope, plan, (period, series), manner).await?,
        };
        all.push(SeriesRows { rows, bins: bins.clone() });
    }
    Ok(all)
}

#[cfg(test)]
impl Trends {
    /// Every statement of the question; bins are those of numbers from 0 to 10.
    pub(super) fn statements(
        &self,
        scope: &Scope,
        limits: &crate::config::Query,
        now: Timestamp,
        actors: &super::actor::Actors,
    ) -> Result<Vec<crate::store::Sql>, Problem> {
        let checked = self.check(limits, now, actors)?;
        let mut statements = Vec::new();
        if checked.begin == Begin::FirstEvent {
            statements.push(sql::first_event(scope));
        }
        let plan = checked.plan(self, None, limits)?;
        for period in &plan.periods {
            let number = plan.breakdown.as_ref().and_then(plan::PlannedBreakdown::number);
            statements.extend(number.as_ref().map(|number| sql::extremes(scope, &plan, period, number)));
            let bins = number.and(plan.breakdown.as_ref()).map(|breakdown| breakdown.bins(Some((0.0, 10.0))));
            let label = plan.breakdown.as_ref().map(|breakdown| breakdown.label(bins.as_deref()));
            let of_series =
                plan.series.iter().map(|series| sql::statement(scope, &plan, period, series, label.as_ref()));
            statements.extend(of_series);
        }
        Ok(statements)
    }
}

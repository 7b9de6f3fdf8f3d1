//! The people behind a number of a trend: who did what it counts, those who did it most often first.
//!
//! Of distinct people, they are these people; of people's first events, who had theirs; of numbers of a property, who
//! sent such a number. A sliding window names everybody who acted in it.

use serde::{Deserialize, Serialize};

use super::answer::BucketNames;
use super::breakdown::{OneOrMany, bin_name};
use super::plan::{Period, Plan, PlannedBreakdown, PlannedSeries};
use super::{OTHER, Trends, WITHOUT, first_event, sql};
use crate::event::{Scope, Timestamp};
use crate::http::Problem;
use crate::query::Query;
use crate::query::actor::Actors;
use crate::query::http::Question;
use crate::query::people::{Page, People, Place};
use crate::query::range::Range;
use crate::store::Sql;
use crate::telemetry::{Metric, names};

/// A question for people, as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrendsPeople {
    /// The trend, as it was asked; its formulas are passed by.
    pub trends: Trends,
    /// Which series, counted from 0.
    #[serde(default)]
    pub series: usize,
    /// Only in the bucket that begins so, as in the answer's `days`; the whole range when absent.
    pub day: Option<String>,
    /// Only of this value of the breakdown, as the answer writes it.
    pub breakdown: Option<OneOrMany<String>>,
    /// In which of two periods that are compared.
    #[serde(default)]
    pub compare_label: Compared,
    /// People on a page; 100 when absent, at most `query.page_rows_max`.
    pub limit: Option<usize>,
    pub cursor: Option<String>,
}

/// One of two periods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compared {
    #[default]
    Current,
    Previous,
}

/// What is said of a person.
#[derive(Debug, Serialize)]
pub struct Events {
    /// Events of theirs that are behind the number.
    pub events: u64,
}

impl Question for TrendsPeople {
    const NAME: &'static str = "trends_people";
    type Answer = People<Events>;

    fn duration() -> &'static Metric {
        &names::QUERY_TREND_DURATION
    }

    fn environment_id(&self) -> Option<&str> {
        self.trends.environment_id.as_deref()
    }

    fn timezone(&mut self) -> Option<&mut Option<String>> {
        self.trends.timezone()
    }

    async fn answer(&self, query: &Query, scope: &Scope) -> Result<People<Events>, Problem> {
        let now = query.clock.now();
        self.trends.check(&query.limits, now, &Actors::new(scope, false))?;
        let list = (Self::NAME, scope, Self { limit: None, cursor: None, ..self.clone() });
        let list = serde_json::to_string(&list).map_err(Problem::internal)?;
        let mut page = Page::new(&list, self.limit, self.cursor.as_deref(), &query.limits)?;
        let asked = query.begin().await?;
        let actors = query.actors(scope).await?;
        let checked = self.trends.check(&query.limits, now, &actors)?;
        let first = first_event(query, scope, checked.begin).await?;
        let plan = checked.plan(&self.trends, first, &query.limits)?;
        let (series, period) = self.chosen(&plan)?;
        let range = self.range(&plan, period)?;
        let wanted = self.wanted(query, scope, &plan, period).await?;
        let statement = sql::people(scope, &plan, (period, series), range, wanted.as_ref());
        {
            let mut people = query.stream::<(u64, u64)>(statement.sql).await?;
            while let Some(block) = people.next_chunk().await? {
                for (actor, events) in block {
                    let rank = i64::try_from(events).unwrap_or(i64::MAX);
                    page.offer(Place::most(rank, actor), || Events { events });
                }
            }
        }
        query.named((scope, &actors), statement.range, &list, page, &asked).await
    }
}

impl TrendsPeople {
    fn chosen<'p>(&self, plan: &'p Plan) -> Result<(&'p PlannedSeries, &'p Period), Problem> {
        let series = plan.series.get(self.series).ok_or_else(|| {
            let last = plan.series.len().saturating_sub(1);
            let message =
                format!("series is {}; it may be 0 to {last}, they are counted from 0", self.series);
            Problem::invalid("series", message).with("given", self.series).with("max", last)
        })?;
        let period = plan.periods.get(self.compare_label as usize).ok_or_else(|| {
            Problem::invalid("compare_label", "compare_label is previous, but the trend is not compared")
        })?;
        Ok((series, period))
    }

    /// The bucket that was asked for, or all of them.
    fn range(&self, plan: &Plan, period: &Period) -> Result<Range, Problem> {
        let Some(day) = &self.day else { return Ok(period.range) };
        let days = BucketNames::of(plan, period).days;
        let Some(index) = days.iter().position(|known| known == day) else {
            let message = format!("day is {day:?}; it must be one of the answer's days");
            return Err(Problem::invalid("day", message)
                .with("given", day.as_str())
                .with("valid", days.iter().take(100).cloned().collect::<Vec<_>>()));
        };
        let starts = period.buckets.starts();
        let start = |index: usize| starts.get(index).copied().unwrap_or(Timestamp::MAX);
        let end = start(index + 1).min(period.range.end);
        Ok(Range { from: start(index).max(period.range.from), end })
    }

    /// What the breakdown's value is in the store.
    async fn wanted(
        &self,
        query: &Query,
        scope: &Scope,
        plan: &Plan,
        period: &Period,
    ) -> Result<Option<Wanted>, Problem> {
        let Some(given) = &self.breakdown else { return Ok(None) };
        let refused = |message: &str| Problem::invalid("breakdown", message);
        let Some(breakdown) = &plan.breakdown else {
            return Err(refused("breakdown is a value of the trend's breakdown; it has none"));
        };
        let texts = given.as_slice();
        if texts.iter().any(|text| text == OTHER) {
            return Err(refused("all other values together have no list: raise breakdown.limit, or filter"));
        }
        let text = |text: &String| if text == WITHOUT { String::new() } else { text.clone() };
        let texts: Vec<String> = texts.iter().map(text).collect();
        let bins = bins(query, scope, plan, (period, breakdown)).await?;
        let one = |text: &str| Sql::default().arg(text);
        let value = match (&bins, texts.as_slice()) {
            // The store writes JSON in its own way.
            (_, texts) if breakdown.many => {
                let each: Vec<Sql> = texts.iter().map(|text| one(text)).collect();
                Sql::new("toJSONString([").join(", ", &each).push("])")
            }
            (None, [text]) => one(text),
            (Some(_), [text]) if text.is_empty() => one(""),
            (Some(bins), [text]) => {
                let place = (0..bins.len()).find(|place| bin_name(bins, *place).as_ref() == Some(text));
                one(&place.ok_or_else(|| refused("breakdown is no bin of the answer"))?.to_string())
            }
            _ => {
                let message = "breakdown has several values, but the trend's breakdown is of one property";
                return Err(refused(message));
            }
        };
        let label = breakdown.label(bins.as_deref());
        let member = texts.first().and_then(|cohort| breakdown.member(cohort));
        Ok(Some(Wanted { label, value, member }))
    }
}

/// The bounds of the period's bins; none where the breakdown has no bins.
pub(super) async fn bins(
    query: &Query,
    scope: &Scope,
    plan: &Plan,
    (period, breakdown): (&Period, &PlannedBreakdown),
) -> Result<Option<Vec<f64>>, Problem> {
    let Some(number) = breakdown.number() else { return Ok(None) };
    let rows: Vec<(Option<f64>, Option<f64>)> =
        query.select(sql::extremes(scope, plan, period, &number)).await?;
    let found = rows.into_iter().find_map(|(least, greatest)| Some((least?, greatest?)));
    Ok(Some(breakdown.bins(found)))
}

/// One value of a breakdown.
pub(super) struct Wanted {
    /// `String`: a row's value.
    pub(super) label: Sql,
    /// `String`: the one that is wanted.
    pub(super) value: Sql,
    /// Of cohorts: holds for the cohort's members.
    pub(super) member: Option<Sql>,
}

impl Wanted {
    /// Holds for rows of the value. Values are told apart by as much of them as an answer shows.
    pub(super) fn condition(&self) -> Sql {
        self.member.clone().unwrap_or_else(|| self.of_column(&self.label))
    }

    /// The same, of a column that has the value.
    pub(super) fn of_column(&self, column: &Sql) -> Sql {
        Sql::new("substringUTF8(")
            .append(column)
            .push(", 1, 1000) = substringUTF8(")
            .append(&self.value)
            .push(", 1, 1000)")
    }
}

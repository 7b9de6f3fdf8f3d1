//! Stickiness: in how many intervals of the range each person was active.
//!
//! Number n (from 0) is how many people were active in exactly n + 1 intervals or, `cumulative`, in at least as many.

use serde::{Deserialize, Serialize};

use super::activity::{self, Activity};
use super::actor::Actors;
use super::chosen;
use super::filter::{self, Filters, Ground};
use super::gather::{Matcher, first_event};
use super::http::Question;
use super::interval::{Calendar, Interval, WeekStart};
use super::lifecycle::{Active, Nothing};
use super::people::{Page, People, Place};
use super::range::{self, Asked, Begin};
use super::{Meta, Query};
use crate::config;
use crate::event::{Scope, Timestamp};
use crate::http::Problem;
use crate::telemetry::{Metric, names};

/// A question for stickiness, as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stickiness {
    /// Where the range begins; seven days ago when absent. See [`range`].
    pub date_from: Option<String>,
    /// Where it ends; today when absent.
    pub date_to: Option<String>,
    #[serde(default)]
    pub interval: Interval,
    /// Intervals that are taken together, counted from the end; 1 when absent.
    pub interval_count: Option<usize>,
    /// An IANA name; UTC when absent.
    pub timezone: Option<String>,
    pub week_start: Option<WeekStart>,
    /// What being active means; at least one, at most `query.series_max`.
    pub series: Vec<Active>,
    /// Hold for every series.
    #[serde(default)]
    pub filters: Filters,
    /// Only what these people did.
    pub filter: Option<chosen::People>,
    /// Leave out what the filters of test accounts leave out.
    #[serde(default)]
    pub filter_test_accounts: bool,
    /// How often in an interval makes a person active in it; once when absent.
    pub criteria: Option<Criteria>,
    #[serde(default)]
    pub cumulative: bool,
    /// Put the period before beside it.
    #[serde(default)]
    pub compare: bool,
    /// How far back the other period is (`-1w`), if not directly before.
    pub compare_to: Option<String>,
    /// What relative dates count from; the server's time when absent.
    pub now: Option<Timestamp>,
    /// Pass by anything remembered.
    #[serde(default)]
    pub refresh: bool,
    /// The environment that is meant, to be refused if the key has another.
    pub environment_id: Option<String>,
}

/// How often in an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Criteria {
    #[serde(default)]
    pub operator: Comparison,
    /// From 1 on.
    pub value: usize,
}

/// How a count is compared. Of an interval without any event nothing holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    #[default]
    Gte,
    Lte,
    Exact,
}

/// A question for the people behind a number, as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StickinessPeople {
    /// The stickiness, as it was asked; the people are of its own period, not of the one it is compared with.
    pub stickiness: Stickiness,
    /// Which series, counted from 0.
    #[serde(default)]
    pub series: usize,
    /// Active in as many intervals; from 1 on.
    pub intervals: usize,
    /// People on a page; 100 when absent, at most `query.page_rows_max`.
    pub limit: Option<usize>,
    pub cursor: Option<String>,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct Answer {
    pub results: Results,
    pub meta: StickinessMeta,
}

/// The numbers of the first series, and all of them.
#[derive(Debug, Serialize)]
pub struct Results {
    pub data: Vec<u64>,
    pub series: Vec<Line>,
}

/// One series in one period.
#[derive(Debug, Serialize)]
pub struct Line {
    /// Null: every event.
    pub event: Option<String>,
    /// `current` or `previous`, where periods are compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compare_label: Option<&'static str>,
    pub data: Vec<u64>,
}

/// What the answer says about itself.
#[derive(Debug, Serialize)]
pub struct StickinessMeta {
    pub timezone: &'static str,
    /// The first moment of the first interval, with the zone's offset.
    pub date_from: String,
    /// The last moment of the range.
    pub date_to: String,
    pub interval: Interval,
    #[serde(flatten)]
    pub meta: Meta,
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    calendar: Calendar,
    lines: Vec<PlannedLine>,
    together: usize,
    criteria: Option<Criteria>,
    cumulative: bool,
}

#[derive(Debug)]
struct PlannedLine {
    event: Option<String>,
    label: Option<&'static str>,
    activity: Activity,
}

const VALUE_MAX: usize = 10_000;

/// What a period is called, where there are two; its beginning and its end.
type Period = (Option<&'static str>, Timestamp, Timestamp);

/// In how many intervals (of `together` buckets, counted from the end) a person was active who has an event in each of
/// these buckets (sorted, one number an event). Pure.
fn active_in(events: &[u32], buckets: usize, together: usize, criteria: Option<Criteria>) -> usize {
    let interval = |bucket: &u32| (buckets - 1 - *bucket as usize) / together;
    let intervals = events.chunk_by(|a, b| interval(a) == interval(b));
    intervals.filter(|events| criteria.is_none_or(|criteria| criteria.holds(events.len()))).count()
}

impl Criteria {
    fn holds(self, events: usize) -> bool {
        match self.operator {
            Comparison::Gte => events >= self.value,
            Comparison::Lte => events <= self.value,
            Comparison::Exact => events == self.value,
        }
    }
}

impl Question for Stickiness {
    const NAME: &'static str = "stickiness";
    type Answer = Answer;

    fn duration() -> &'static Metric {
        &names::QUERY_STICKINESS_DURATION
    }

    fn environment_id(&self) -> Option<&str> {
        self.environment_id.as_deref()
    }

    fn timezone(&mut self) -> Option<&mut Option<String>> {
        Some(&mut self.timezone)
    }

    async fn answer(&self, query: &Query, scope: &Scope) -> Result<Answer, Problem> {
        let actors = query.actors(scope).await?;
        let asked = query.begin().await?;
        let plan = self.plan(query, scope, &actors).await?;
        let mut series = Vec::new();
        for line in &plan.lines {
            let mut data = vec![0; plan.intervals(line)];
            plan.people(query, scope, &actors, line, |_, intervals| {
                if let Some(count) = intervals.checked_sub(1).and_then(|place| data.get_mut(place)) {
                    *count += 1;
                }
            })
            .await?;
            if plan.cumulative {
                let mut more = 0;
                for count in data.iter_mut().rev() {
                    more += *count;
                    *count = more;
                }
            }
            series.push(Line { event: line.event.clone(), compare_label: line.label, data });
        }
        let range = plan.lines[0].activity.range;
        let zoned =
            |at: Timestamp| plan.calendar.zoned(at).to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let meta = StickinessMeta {
            timezone: plan.calendar.zone.name(),
            date_from: zoned(range.from),
            date_to: zoned(range.last()),
            interval: self.interval,
            meta: asked.meta(),
        };
        let data = series.first().map(|line: &Line| line.data.clone()).unwrap_or_default();
        Ok(Answer { results: Results { data, series }, meta })
    }
}

impl Question for StickinessPeople {
    const NAME: &'static str = "stickiness_people";
    type Answer = People<Nothing>;

    fn duration() -> &'static Metric {
        &names::QUERY_STICKINESS_DURATION
    }

    fn environment_id(&self) -> Option<&str> {
        self.stickiness.environment_id.as_deref()
    }

    fn timezone(&mut self) -> Option<&mut Option<String>> {
        self.stickiness.timezone()
    }

    async fn answer(&self, query: &Query, scope: &Scope) -> Result<Self::Answer, Problem> {
        let actors = query.actors(scope).await?;
        let list = (Self::NAME, scope, Self { limit: None, cursor: None, ..self.clone() });
        let list = serde_json::to_string(&list).map_err(Problem::internal)?;
        let mut page = Page::new(&list, self.limit, self.cursor.as_deref(), &query.limits)?;
        let asked = query.begin().await?;
        let stickiness = Stickiness { compare: false, compare_to: None, ..self.stickiness.clone() };
        let plan = stickiness.plan(query, scope, &actors).await?;
        let Some(line) = plan.lines.get(self.series) else {
            let max = plan.lines.len() - 1;
            let message = format!("series is {}; the question has series 0 to {max}", self.series);
            return Err(Problem::invalid("series", message).with("given", self.series).with("max", max));
        };
        let max = plan.intervals(line);
        if self.intervals == 0 || self.intervals > max {
            let message = format!("intervals is {}; it may be 1 to {max}", self.intervals);
            return Err(Problem::invalid("intervals", message)
                .with("given", self.intervals)
                .with("max", max));
        }
        plan.people(query, scope, &actors, line, |actor, intervals| {
            if intervals == self.intervals || (plan.cumulative && intervals > self.intervals) {
                page.offer(Place::most(0, actor), || Nothing {});
            }
        })
        .await?;
        query.named((scope, &actors), line.activity.range, &list, page, &asked).await
    }
}

impl Stickiness {
    async fn plan(&self, query: &Query, scope: &Scope, actors: &Actors) -> Result<Plan, Problem> {
        let now = query.clock.now();
        let first = if self.date_from.as_deref() == Some("all") {
            let rows: Vec<(Option<Timestamp>,)> = query.select(first_event(scope)).await?;
            rows.into_iter().find_map(|(first,)| first)
        } else {
            None
        };
        self.check(&query.limits, actors, now, first)
    }

    /// Checks everything, and says what is to be done; `first` is the scope's first event, where it is needed.
    ///
    /// # Errors
    /// 400 that names the field, what was given and what would be right.
    pub(super) fn check(
        &self,
        limits: &config::Query,
        actors: &Actors,
        now: Timestamp,
        first: Option<Timestamp>,
    ) -> Result<Plan, Problem> {
        let calendar = range::calendar(self.timezone.as_deref(), self.week_start)?;
        let now = self.now.unwrap_or(now);
        let ground = Ground { calendar: &calendar, now, limits, actors };
        if self.series.is_empty() || self.series.len() > limits.series_max {
            let max = limits.series_max;
            let message = format!(
                "series has {} entries; a question has 1 to {max} (query.series_max)",
                self.series.len()
            );
            return Err(Problem::invalid("series", message)
                .with("max", max)
                .with("setting", "query.series_max"));
        }
        let within = |field: &str, value: usize, max: usize| {
            let message = format!("{field} is {value}; it may be 1 to {max}");
            let refused = || Problem::invalid(field, message).with("given", value).with("max", max);
            (1..=max).contains(&value).then_some(value).ok_or_else(refused)
        };
        let together = within("interval_count", self.interval_count.unwrap_or(1), limits.buckets_max)?;
        if let Some(criteria) = self.criteria {
            within("criteria.value", criteria.value, VALUE_MAX)?;
        }
        let shared = filter::shared(&self.filters, self.filter.as_ref(), self.filter_test_accounts, &ground)?;
        let mut lines = Vec::new();
        for (label, from, end) in self.periods(&calendar, now, first)? {
            let (range, buckets) = range::buckets(from, end, &calendar, self.interval, limits.buckets_max)?;
            for (index, active) in self.series.iter().enumerate() {
                let mut conditions = shared.clone();
                conditions.extend(active.conditions(&format!("series[{index}].filters"), &ground)?);
                let activity = Activity {
                    range,
                    buckets: buckets.clone(),
                    conditions,
                    sets: vec![Matcher { event: active.event.clone(), conditions: Vec::new() }],
                    counted: self.criteria.is_some(),
                    firsts: Vec::new(),
                };
                lines.push(PlannedLine { event: active.event.clone(), label, activity });
            }
        }
        Ok(Plan { calendar, lines, together, criteria: self.criteria, cumulative: self.cumulative })
    }

    fn periods(
        &self,
        calendar: &Calendar,
        now: Timestamp,
        first: Option<Timestamp>,
    ) -> Result<Vec<Period>, Problem> {
        let asked = Asked { date_from: self.date_from.as_deref(), date_to: self.date_to.as_deref() };
        let (begin, end) = range::resolve(asked, calendar, self.interval, now)?;
        let last = Timestamp::from_millis(end.as_millis() - 1);
        let from = match begin {
            Begin::At(from) => from,
            Begin::FirstEvent => first.unwrap_or(last).min(last),
        };
        if !self.compare && self.compare_to.is_none() {
            return Ok(vec![(None, from, end)]);
        }
        let (before, before_end) = range::previous(asked, calendar, from, end, self.compare_to.as_deref())?;
        Ok(vec![(Some("current"), from, end), (Some("previous"), before, before_end)])
    }
}

impl Plan {
    fn intervals(&self, line: &PlannedLine) -> usize {
        line.activity.buckets.len().div_ceil(self.together)
    }

    /// Shows everybody, and in how many intervals they were active.
    async fn people(
        &self,
        query: &Query,
        scope: &Scope,
        actors: &Actors,
        line: &PlannedLine,
        mut show: impl FnMut(u64, usize),
    ) -> Result<(), Problem> {
        let buckets = line.activity.buckets.len();
        let shown = |person: &activity::Person| {
            show(person.actor, active_in(&person.sets[0], buckets, self.together, self.criteria));
            Ok(())
        };
        query.active(scope, actors, &line.activity, shown).await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::query::tests::{at, limits, scope};

    proptest! {
        #[test]
        fn intervals_are_those_of_a_naive_look_at_each(
            mut events in proptest::collection::vec(0_u32..20, 0..30),
            together in 1_usize..6,
            value in 1_usize..4,
            operator in prop_oneof![Just(Comparison::Gte), Just(Comparison::Lte), Just(Comparison::Exact)],
            with_criteria: bool,
        ) {
            events.sort_unstable();
            let criteria = with_criteria.then_some(Criteria { operator, value });
            let found = active_in(&events, 20, together, criteria);
            let mut end = 20_usize;
            let mut expected = 0;
            while end > 0 {
                let start = end.saturating_sub(together);
                let count = events.iter().filter(|at| (start..end).contains(&(**at as usize))).count();
                let holds = match criteria.map(|criteria| criteria.operator) {
                    None => true,
                    Some(Comparison::Gte) => count >= value,
                    Some(Comparison::Lte) => count <= value,
                    Some(Comparison::Exact) => count == value,
                };
                expected += usize::from(count > 0 && holds);
                end = start;
            }
            prop_assert_eq!(found, expected);
        }
    }

    fn check(body: &str) -> Result<Plan, Problem> {
        let question: Stickiness = crate::http::strict::json(body.as_bytes())?;
        let actors = Actors::new(&scope(), false);
        question.check(&limits(), &actors, at("2026-03-10T12:00:00Z"), None)
    }

    #[test]
    fn statements_of_stickiness() {
        let plan = check(r#"{"series":[{"event":"a"}],"criteria":{"value":2},"date_from":"-2d"}"#).unwrap();
        let actors = Actors::new(&scope(), false);
        insta::assert_snapshot!(
            "stickiness",
            plan.lines[0].activity.gather().sql(&scope(), &actors, 0, 1).text()
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (body, field, part) in [
            (r#"{"series":[]}"#, "series", "query.series_max"),
            (r#"{"series":[{"event":"a"}],"interval_count":0}"#, "interval_count", "1 to"),
            (r#"{"series":[{"event":"a"}],"criteria":{"value":0}}"#, "criteria.value", "1 to"),
            (r#"{"series":[{"event":"a"}],"compare_to":"1w"}"#, "compare_to", "-1w"),
            (
                r#"{"series":[{"event":"a"}],"intervalCount":2}"#,
                "intervalCount",
                "did you mean interval_count?",
            ),
        ] {
            let problem = check(body).unwrap_err();
            assert_eq!(problem.details["field"], field, "{body}: {}", problem.message);
            assert!(problem.message.contains(part), "{body}: {}", problem.message);
        }
    }
}

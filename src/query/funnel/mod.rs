//! Funnels: how many people come from step to step, how long it takes them, and who they are.
//!
//! Typed request → `Plan` → one statement that gathers every person's packed events → the exact fold in Rust
//! ([`fold`], which says what converting means) → answer. Only events inside the range count, for every step.
//!
//! With a breakdown, every value has a row, most people first (ties by value); values after the `limit` most frequent
//! are one row. A person without a value counts for `""`. With one by cohorts, every cohort has the row that its members
//! alone would give: who is in several is in several rows.

mod answer;
mod attribution;
pub(super) mod breakdown;
pub(super) mod fold;
mod matching;
mod optional;
pub mod people;
#[cfg(test)]
mod tests;
mod unordered;
mod window;

use serde::{Deserialize, Serialize};

use super::actor::Actors;
use super::chosen;
use super::filter::{self, Filters, Ground, PropertyKind};
use super::gather::{Gather, Matcher, Values, tuple};
use super::groups::Meant;
use super::http::Question;
use super::interval::{Buckets, Calendar, Interval, WeekStart};
use super::range::{self, Asked, Begin, Range};
use super::{Meta, Query, gather, period};
use crate::config;
use crate::event::{Scope, Timestamp};
use crate::http::Problem;
use crate::telemetry::{Metric, names};
use breakdown::{ByCohort as _, PlannedBreakdown};
use fold::{EXCLUSIONS_MAX, Exclusion, Rules, STEPS_MAX};

pub use answer::Results;
pub use attribution::Attribution;
pub use breakdown::{Breakdown, Properties};
pub use fold::Order;
pub use window::Window;

/// A question for a funnel, as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Funnel {
    /// Where the range begins; seven days ago when absent. See [`range`].
    pub date_from: Option<String>,
    /// Where it ends; today when absent.
    pub date_to: Option<String>,
    /// Buckets of `viz` `trends`.
    #[serde(default)]
    pub interval: Interval,
    /// An IANA name; UTC when absent.
    pub timezone: Option<String>,
    pub week_start: Option<WeekStart>,
    /// 2 to `query.funnel_steps_max`.
    pub steps: Vec<Step>,
    #[serde(default)]
    pub order: Order,
    /// How long a conversion may take from the first step on, such as `14 day` (the default).
    #[serde(default)]
    pub window: Window,
    /// Events that must not happen between two steps; at most 6.
    #[serde(default)]
    pub exclusions: Vec<Excluded>,
    /// Hold for every step and exclusion.
    #[serde(default)]
    pub filters: Filters,
    /// Only what these people did.
    pub filter: Option<chosen::People>,
    /// Leave out what the filters of test accounts leave out.
    #[serde(default)]
    pub filter_test_accounts: bool,
    pub breakdown: Option<Breakdown>,
    /// What is counted instead of people.
    pub aggregate_by: Option<AggregateBy>,
    #[serde(default)]
    pub viz: Viz,
    /// With `viz` `trends` and `time_to_convert`: the step that is converted from, and to, counted from 0; the first and
    /// the last when absent.
    pub from_step: Option<usize>,
    pub to_step: Option<usize>,
    /// Bars of `viz` `time_to_convert`, 1 to 90; by the number of people when absent.
    pub bin_count: Option<usize>,
    /// What relative dates count from; the server's time when absent.
    pub now: Option<Timestamp>,
    /// Pass by anything remembered.
    #[serde(default)]
    pub refresh: bool,
    /// The environment that is meant, to be refused if the key has another.
    pub environment_id: Option<String>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The event's name; every event when absent or null.
    pub event: Option<String>,
    /// What to call the step; the event when absent.
    pub name: Option<String>,
    #[serde(default)]
    pub filters: Filters,
    /// May it be left out? Not the first one. The funnel is then the best of all those that leave some such steps out;
    /// the last one is not left out, people have only not come so far.
    #[serde(default)]
    pub optional: bool,
}

/// What takes the steps instead of people: each value of a property, key of a group, or value of an expression. Events
/// without one do not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AggregateBy {
    pub property: String,
    #[serde(rename = "type", default)]
    pub kind: PropertyKind,
    /// Of type `group`: the number of the groups' type …
    pub group_type_index: Option<u8>,
    /// … or its name.
    pub group_type: Option<String>,
}

/// An event that must not happen once `from_step` is taken and `to_step` is not; steps are counted from 0. Of a step that
/// is left out the next one that is not takes the place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Excluded {
    pub event: String,
    #[serde(default)]
    pub filters: Filters,
    /// The first when absent.
    pub from_step: Option<usize>,
    /// The last when absent.
    pub to_step: Option<usize>,
}

/// What the answer shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Viz {
    /// People at each step, and the time it took them.
    #[default]
    Steps,
    /// The rate of conversion over time: a person counts once in each bucket in which they begin.
    Trends,
    /// How long it took, as a histogram.
    TimeToConvert,
}

const BINS_MAX: usize = 90;
/// Steps that may be left out: each doubles what the fold may have to try.
const OPTIONAL_MAX: usize = 6;

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    calendar: Calendar,
    interval: Interval,
    gather: Gather,
    /// With `viz` `trends`.
    buckets: Option<Buckets>,
    rules: Rules,
    viz: Viz,
    from_step: usize,
    to_step: usize,
    bin_count: Option<usize>,
    breakdown: Option<PlannedBreakdown>,
    names: Vec<(Option<String>, String)>,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct Answer {
    pub results: Results,
    pub meta: FunnelMeta,
}

/// What the answer says about itself.
#[derive(Debug, Serialize)]
pub struct FunnelMeta {
    pub timezone: &'static str,
    /// The first moment of the range, with the zone's offset.
    pub date_from: String,
    /// The last moment of the range.
    pub date_to: String,
    #[serde(flatten)]
    pub meta: Meta,
}

impl Question for Funnel {
    const NAME: &'static str = "funnel";
    type Answer = Answer;

    fn duration() -> &'static Metric {
        &names::QUERY_FUNNEL_DURATION
    }

    fn environment_id(&self) -> Option<&str> {
        self.environment_id.as_deref()
    }

    fn timezone(&mut self) -> Option<&mut Option<String>> {
        Some(&mut self.timezone)
    }

    fn export(&mut self, limits: &config::Query) {
        if let Some(breakdown) = &mut self.breakdown {
            breakdown.limit.get_or_insert(limits.breakdown_values_max);
        }
    }

    async fn answer(&self, query: &Query, scope: &Scope) -> Result<Answer, Problem> {
        funnel(query, scope, self).await
    }
}

/// Answers a question.
///
/// # Errors
/// 400 for what cannot be meant, 503 for what the store does not answer.
async fn funnel(query: &Query, scope: &Scope, question: &Funnel) -> Result<Answer, Problem> {
    let actors = query.actors(scope).await?;
    let now = query.clock.now();
    question.check(&query.limits, &actors, now, None)?;
    let asked = query.begin().await?;
    let first = question.first_event(query, scope).await?;
    let plan = question.check(&query.limits, &actors, now, first)?;
    let results = match question.cohorts() {
        [] => {
            let mut values = Values::new(query.limits.gather_values_max);
            count(query, scope, &actors, &plan, &mut values).await?.results(&plan, &values)
        }
        ids => {
            let mut rows = Vec::with_capacity(ids.len());
            for id in ids {
                let plan = question.within_cohort(id).check(&query.limits, &actors, now, first)?;
                let counted = count(query, scope, &actors, &plan, &mut Values::new(0)).await?;
                rows.push((id.as_str(), counted));
            }
            answer::of_cohorts(&plan, rows)
        }
    };
    let zoned = |at: Timestamp| plan.calendar.zoned(at).to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let meta = FunnelMeta {
        timezone: plan.calendar.zone.name(),
        date_from: zoned(plan.gather.range.from),
        date_to: zoned(plan.gather.range.last()),
        meta: asked.meta(),
    };
    Ok(Answer { results, meta })
}

/// Everybody who is in the funnel, counted.
async fn count(
    query: &Query,
    scope: &Scope,
    actors: &Actors,
    plan: &Plan,
    values: &mut Values,
) -> Result<answer::Counted, Problem> {
    let mut counted = answer::Counted::new(plan, query.limits.gather_people_max);
    query.gather(scope, actors, &plan.gather, values, |_, events, _| counted.add(plan, events)).await?;
    Ok(counted)
}

impl Funnel {
    /// Shows everybody who is in the funnel, and when (in milliseconds) they took each step.
    ///
    /// # Errors
    /// As of the question, and what `show` refuses.
    pub(super) async fn each_person(
        &self,
        query: &Query,
        scope: &Scope,
        actors: &Actors,
        mut show: impl FnMut(u64, &[i64]) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        // Whatever is shown of it, and whatever it is split by, the same people take the same steps.
        let whole = Self { viz: Viz::Steps, breakdown: None, ..self.clone() };
        let plan = whole.check(&query.limits, actors, query.clock.now(), None)?;
        let origin = plan.gather.range.from.as_millis();
        let mut values = Values::new(0);
        let shown =
            |actor: u64, events: &[fold::Event], _: &Values| match fold::fold(&plan.rules, events, |_, _| {
                true
            }) {
                fold::Reached::Steps(times) => {
                    let moved = |at: &i64| if *at == fold::SKIPPED { *at } else { origin + at };
                    let times: fold::Times = times.iter().map(moved).collect();
                    show(actor, &times)
                }
                fold::Reached::Nothing | fold::Reached::Excluded => Ok(()),
            };
        query.gather(scope, actors, &plan.gather, &mut values, shown).await
    }

    /// Where a trend over all time begins.
    async fn first_event(&self, query: &Query, scope: &Scope) -> Result<Option<Timestamp>, Problem> {
        if self.viz != Viz::Trends || self.date_from.as_deref() != Some("all") {
            return Ok(None);
        }
        let rows: Vec<(Option<Timestamp>,)> = query.select(gather::first_event(scope)).await?;
        Ok(rows.into_iter().find_map(|(first,)| first))
    }

    /// Checks everything, and says what is to be done; `first` is the scope's first event, where that is needed and
    /// known.
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
        let asked = Asked { date_from: self.date_from.as_deref(), date_to: self.date_to.as_deref() };
        let now = self.now.unwrap_or(now);
        let (range, buckets) = self.range(asked, &calendar, limits, now, first)?;
        let rules = self.rules(limits)?;
        let (from_step, to_step) = self.step_range()?;
        let bin_count = self.bin_count.map(|count| {
            let message = format!("bin_count is {count}; it may be 1 to {BINS_MAX}");
            let refused =
                || Problem::invalid("bin_count", message).with("given", count).with("max", BINS_MAX);
            (1..=BINS_MAX).contains(&count).then_some(count).ok_or_else(refused)
        });
        let bin_count = bin_count.transpose()?;
        let ground = Ground { calendar: &calendar, now, limits, actors };
        let conditions =
            filter::shared(&self.filters, self.filter.as_ref(), self.filter_test_accounts, &ground)?;
        let steps = self.matchers(&ground)?;
        let planned = self.breakdown.as_ref().map(|breakdown| breakdown.check(self, &ground)).transpose()?;
        let (breakdown, value) = planned.flatten().unzip();
        let everything = self.order == Order::Strict;
        let (steps, exclusions) = steps;
        let by = self.aggregate_by.as_ref().map(|by| {
            let group = Meant { index: by.group_type_index, name: by.group_type.as_deref() };
            let field = "aggregate_by.property";
            let property = filter::property_of(by.kind, &by.property, group, field, &ground)?;
            Ok::<_, Problem>(tuple(&[property.text()]))
        });
        let by = by.transpose()?;
        let gather = Gather { range, steps, exclusions, conditions, everything, value, by };
        let names = self.steps.iter().map(|step| {
            let event = step.event.clone();
            let name = step.name.clone().or_else(|| event.clone());
            (event, name.unwrap_or_else(|| "All events".to_owned()))
        });
        Ok(Plan {
            calendar,
            interval: self.interval,
            gather,
            buckets,
            rules,
            viz: self.viz,
            from_step,
            to_step,
            bin_count,
            breakdown,
            names: names.collect(),
        })
    }

    fn range(
        &self,
        asked: Asked<'_>,
        calendar: &Calendar,
        limits: &config::Query,
        now: Timestamp,
        first: Option<Timestamp>,
    ) -> Result<(Range, Option<Buckets>), Problem> {
        if self.viz != Viz::Trends {
            return Ok((period::resolve(asked, calendar, now)?, None));
        }
        let (begin, end) = range::resolve(asked, calendar, self.interval, now)?;
        let last = Timestamp::from_millis(end.as_millis() - 1);
        let from = match begin {
            Begin::At(from) => from,
            Begin::FirstEvent => first.unwrap_or(last).min(last),
        };
        let (range, buckets) = range::buckets(from, end, calendar, self.interval, limits.buckets_max)?;
        Ok((range, Some(buckets)))
    }

    fn rules(&self, limits: &config::Query) -> Result<Rules, Problem> {
        let steps = self.steps.len();
        let max = limits.funnel_steps_max.min(STEPS_MAX);
        if steps < 2 || steps > max {
            let message =
                format!("steps has {steps} entries; a funnel has 2 to {max} (query.funnel_steps_max)");
            return Err(Problem::invalid("steps", message)
                .with("max", max)
                .with("setting", "query.funnel_steps_max"));
        }
        if self.exclusions.len() > EXCLUSIONS_MAX {
            let message =
                format!("exclusions has {} entries, more than {EXCLUSIONS_MAX}", self.exclusions.len());
            return Err(Problem::invalid("exclusions", message).with("max", EXCLUSIONS_MAX));
        }
        let exclusions = self.exclusions.iter().enumerate().map(|(index, excluded)| {
            let path = format!("exclusions[{index}]");
            excluded.check(&path, self)
        });
        let exclusions = exclusions.collect::<Result<_, _>>()?;
        let (window, optional) = (self.window.millis(), self.optional()?);
        Ok(Rules { steps, order: self.order, window, exclusions, optional })
    }

    /// The steps that may be left out, a bit for each.
    fn optional(&self) -> Result<u16, Problem> {
        let mut optional = 0_u16;
        for (index, _) in self.steps.iter().enumerate().filter(|(_, step)| step.optional) {
            let field = format!("steps[{index}].optional");
            let refused = |why: &str| Problem::invalid(&field, format!("{field}: {why}")).with("given", true);
            if index == 0 {
                return Err(refused("everybody begins with the first step, so it cannot be left out"));
            }
            if self.order != Order::Ordered {
                return Err(refused("only with order ordered steps can be left out"));
            }
            if optional.count_ones() as usize == OPTIONAL_MAX {
                return Err(refused("more steps may be left out than 6").with("max", OPTIONAL_MAX));
            }
            optional |= 1 << index;
        }
        Ok(optional)
    }

    fn step_range(&self) -> Result<(usize, usize), Problem> {
        let last = self.steps.len() - 1;
        let required = self.steps.iter().rposition(|step| !step.optional).unwrap_or(last);
        let whole = if self.viz == Viz::Steps || required == 0 { last } else { required };
        let (from, to) = (self.from_step.unwrap_or(0), self.to_step.unwrap_or(whole));
        for (field, given) in [("from_step", self.from_step), ("to_step", self.to_step)] {
            if given.and_then(|given| self.steps.get(given)).is_some_and(|step| step.optional) {
                let message =
                    format!("{field} is a step that may be left out: people convert between the others");
                return Err(Problem::invalid(field, message).with("given", given));
            }
        }
        if to > last || from >= to {
            let (field, given) = if to > last { ("to_step", to) } else { ("from_step", from) };
            let message = format!(
                "from_step is {from} and to_step is {to}; they are counted from 0 to {last}, the first before the second"
            );
            return Err(Problem::invalid(field, message).with("given", given).with("max", last));
        }
        Ok((from, to))
    }

    fn matchers(&self, ground: &Ground<'_>) -> Result<(Vec<Matcher>, Vec<Matcher>), Problem> {
        let steps = self.steps.iter().enumerate().map(|(index, step)| {
            let path = format!("steps[{index}].filters");
            let conditions = filter::conditions(&step.filters, &path, ground)?;
            Ok(Matcher { event: step.event.clone(), conditions })
        });
        let exclusions = self.exclusions.iter().enumerate().map(|(index, excluded)| {
            let path = format!("exclusions[{index}].filters");
            let conditions = filter::conditions(&excluded.filters, &path, ground)?;
            Ok(Matcher { event: Some(excluded.event.clone()), conditions })
        });
        Ok((steps.collect::<Result<_, Problem>>()?, exclusions.collect::<Result<_, Problem>>()?))
    }
}

impl Excluded {
    fn check(&self, path: &str, funnel: &Funnel) -> Result<Exclusion, Problem> {
        let last = funnel.steps.len() - 1;
        let (from, to) = (self.from_step.unwrap_or(0), self.to_step.unwrap_or(last));
        if to > last || from >= to {
            let message = format!(
                "{path} is from step {from} to step {to}; steps are counted from 0 to {last}, the first before the second"
            );
            return Err(Problem::invalid(path, message).with("max", last));
        }
        if funnel.order == Order::Unordered && (from, to) != (0, last) {
            let message =
                format!("{path}: without order an exclusion is about the whole funnel, step 0 to {last}");
            return Err(Problem::invalid(path, message));
        }
        let same = |step: &Step| step.event.as_deref() == Some(&self.event) && step.filters == self.filters;
        if let Some(step) = (from..=to).find(|step| same(&funnel.steps[*step])) {
            let message = format!("{path} is the same event as step {step}, which it would exclude");
            return Err(Problem::invalid(path, message).with("given", self.event.as_str()));
        }
        Ok(Exclusion { from, to })
    }
}

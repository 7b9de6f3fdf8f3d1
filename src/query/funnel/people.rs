//! The people behind a funnel's number: who took a step, or who took the one before it and not this one.

use serde::{Deserialize, Serialize};

use super::answer::{buckets, each_value};
use super::breakdown::ByCohort as _;
use super::fold::{Reached, Rules, SKIPPED, taken};
use super::{Funnel, Plan, Viz};
use crate::event::{Scope, Timestamp};
use crate::http::Problem;
use crate::query::Query;
use crate::query::gather::{Values, untuple};
use crate::query::http::Question;
use crate::query::people::{Page, People, Place};
use crate::telemetry::{Metric, names};

/// A question for people, as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunnelPeople {
    /// The funnel, as it was asked.
    pub funnel: Funnel,
    /// Counted from 0.
    pub step: usize,
    #[serde(default)]
    pub outcome: Outcome,
    /// Only people of this value of the breakdown, a text for each property.
    pub breakdown: Option<Vec<String>>,
    /// With `viz` `trends`: only people who began in the bucket that begins so, as in the answer's `days`.
    pub day: Option<String>,
    /// People on a page; 100 when absent, at most `query.page_rows_max`.
    pub limit: Option<usize>,
    pub cursor: Option<String>,
}

/// What became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// They took the step.
    #[default]
    Converted,
    /// They took the step before (the last that may not be left out) and not this one.
    Dropped,
}

impl Outcome {
    /// With steps taken at these times.
    fn holds(self, rules: &Rules, times: &[i64], step: usize) -> bool {
        let is_taken = taken(times, step).is_some();
        match self {
            Self::Converted => is_taken,
            Self::Dropped => !is_taken && taken(times, rules.required_before(step)).is_some(),
        }
    }
}

/// What is said of a person.
#[derive(Debug, Serialize)]
pub struct Way {
    /// When each step was taken, up to the furthest; null: it was left out.
    pub steps: Vec<Option<Timestamp>>,
}

impl Question for FunnelPeople {
    const NAME: &'static str = "funnel_people";
    type Answer = People<Way>;

    fn duration() -> &'static Metric {
        &names::QUERY_FUNNEL_DURATION
    }

    fn environment_id(&self) -> Option<&str> {
        self.funnel.environment_id.as_deref()
    }

    fn timezone(&mut self) -> Option<&mut Option<String>> {
        self.funnel.timezone()
    }

    async fn answer(&self, query: &Query, scope: &Scope) -> Result<People<Way>, Problem> {
        people(query, scope, self).await
    }
}

/// Answers a question.
///
/// # Errors
/// 400 for what cannot be meant, 503 for what the store does not answer.
async fn people(query: &Query, scope: &Scope, question: &FunnelPeople) -> Result<People<Way>, Problem> {
    let actors = query.actors(scope).await?;
    let now = query.clock.now();
    question.funnel.check(&query.limits, &actors, now, None)?;
    let question = &question.of_cohort()?;
    let plan = question.funnel.check(&query.limits, &actors, now, None)?;
    let list = question.list(scope)?;
    let mut page = Page::new(&list, question.limit, question.cursor.as_deref(), &query.limits)?;
    question.check(&plan)?;
    let asked = query.begin().await?;
    let first = question.funnel.first_event(query, scope).await?;
    let plan = question.funnel.check(&query.limits, &actors, now, first)?;
    let day = question.bucket(&plan)?;
    let origin = plan.gather.range.from.as_millis();
    let mut values = Values::new(query.limits.gather_values_max);
    query
        .gather(scope, &actors, &plan.gather, &mut values, |actor, events, values| {
            let mut offer = |value: u32, reached: Reached| {
                let Reached::Steps(times) = reached else { return };
                if question.outcome.holds(&plan.rules, &times, question.step)
                    && question.is_value(&plan, values.text(value))
                {
                    let when = |at: &i64| (*at != SKIPPED).then(|| Timestamp::from_millis(origin + at));
                    let steps = times.iter().map(when).collect();
                    page.offer(Place::most(0, actor), || Way { steps });
                }
            };
            if plan.viz == Viz::Trends {
                for (bucket, begins) in buckets(&plan, events) {
                    if day.is_none_or(|day| day == bucket) {
                        each_value(&plan, events, |event| begins.contains(&event.at), &mut offer);
                    }
                }
            } else {
                each_value(&plan, events, |_| true, offer);
            }
            Ok(())
        })
        .await?;
    let of = (scope, &actors);
    match &plan.gather.by {
        Some(by) => query.named_by(of, plan.gather.range, by, (&list, page), &asked).await,
        None => query.named(of, plan.gather.range, &list, page, &asked).await,
    }
}

impl FunnelPeople {
    /// Of a funnel that is split by cohorts, the same of the cohort that is asked for.
    fn of_cohort(&self) -> Result<Self, Problem> {
        let cohorts = self.funnel.cohorts();
        let Some(wanted) = self.breakdown.as_deref().filter(|_| !cohorts.is_empty()) else {
            return Ok(self.clone());
        };
        let [id] = wanted else {
            let message = "breakdown has the id of one cohort of the funnel's breakdown";
            return Err(Problem::invalid("breakdown", message).with("valid", cohorts.to_vec()));
        };
        if !cohorts.contains(id) {
            let message = "breakdown is none of the cohorts of the funnel's breakdown";
            return Err(Problem::invalid("breakdown", message)
                .with("given", id.as_str())
                .with("valid", cohorts.to_vec()));
        }
        Ok(Self { funnel: self.funnel.within_cohort(id), breakdown: None, ..self.clone() })
    }

    fn check(&self, plan: &Plan) -> Result<(), Problem> {
        let last = plan.rules.steps - 1;
        let first = usize::from(self.outcome == Outcome::Dropped);
        if self.step < first || self.step > last {
            let message =
                format!("step is {}; it may be {first} to {last}, the steps are counted from 0", self.step);
            return Err(Problem::invalid("step", message).with("given", self.step).with("max", last));
        }
        if self.breakdown.is_some() && plan.breakdown.is_none() {
            return Err(Problem::invalid(
                "breakdown",
                "breakdown is a value of the funnel's breakdown; it has none",
            ));
        }
        Ok(())
    }

    /// The bucket that was asked for.
    fn bucket(&self, plan: &Plan) -> Result<Option<usize>, Problem> {
        let Some(day) = &self.day else { return Ok(None) };
        let days = super::answer::days(plan);
        let found = days.iter().position(|known| known == day);
        found.map(Some).ok_or_else(|| {
            let message = format!("day is {day:?}; it must be one of the answer's days, with viz trends");
            Problem::invalid("day", message).with("given", day.as_str()).with("valid", days)
        })
    }

    fn is_value(&self, plan: &Plan, text: &str) -> bool {
        match (&self.breakdown, &plan.breakdown) {
            (Some(wanted), Some(breakdown)) => untuple(text, breakdown.properties) == *wanted,
            _ => true,
        }
    }

    /// Text that is the same for every page of one list.
    fn list(&self, scope: &Scope) -> Result<String, Problem> {
        let same = Self { limit: None, cursor: None, ..self.clone() };
        let question = serde_json::to_string(&same).map_err(Problem::internal)?;
        Ok(format!("funnel people {} {} {question}", scope.project, scope.environment))
    }
}

//! The people of one row of a table of retention, those who came back most often first.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::Retention;
use crate::event::Scope;
use crate::http::Problem;
use crate::query::Query;
use crate::query::funnel::breakdown::ByCohort as _;
use crate::query::gather::Values;
use crate::query::http::Question;
use crate::query::people::{Page, People, Place};
use crate::query::trends::{OneOrMany, Value};
use crate::telemetry::{Metric, names};

/// A question for people, as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionPeople {
    /// The table, as it was asked.
    pub retention: Retention,
    /// The row, counted from 0.
    pub row: usize,
    /// Only people of this value of the breakdown, as the answer writes it.
    pub breakdown: Option<OneOrMany<String>>,
    /// People on a page; 100 when absent, at most `query.page_rows_max`.
    pub limit: Option<usize>,
    pub cursor: Option<String>,
}

/// What is said of a person.
#[derive(Debug, Serialize)]
pub struct Appearances {
    /// The intervals, from that of the row (0) on, in which the person counts.
    pub intervals: Vec<u32>,
}

impl Question for RetentionPeople {
    const NAME: &'static str = "retention_people";
    type Answer = People<Appearances>;

    fn duration() -> &'static Metric {
        &names::QUERY_RETENTION_DURATION
    }

    fn environment_id(&self) -> Option<&str> {
        self.retention.environment_id.as_deref()
    }

    fn timezone(&mut self) -> Option<&mut Option<String>> {
        self.retention.timezone()
    }

    async fn answer(&self, query: &Query, scope: &Scope) -> Result<Self::Answer, Problem> {
        let actors = query.actors(scope).await?;
        let now = query.clock.now();
        self.retention.check(&query.limits, &actors, now)?;
        let plan = self.of_cohort()?.check(&query.limits, &actors, now)?;
        let intervals = plan.buckets.len();
        if self.row >= intervals {
            let message = format!("row is {}; the table has rows 0 to {}", self.row, intervals - 1);
            return Err(Problem::invalid("row", message).with("given", self.row).with("max", intervals - 1));
        }
        let list = (Self::NAME, scope, Self { limit: None, cursor: None, ..self.clone() });
        let list = serde_json::to_string(&list).map_err(Problem::internal)?;
        let mut page = Page::new(&list, self.limit, self.cursor.as_deref(), &query.limits)?;
        let asked = query.begin().await?;
        let mut values = Values::new(query.limits.gather_values_max);
        let wanted = if self.retention.cohorts().is_empty() { self.wanted() } else { None };
        plan.lives(query, scope, &actors, &mut values, |actor, life, values| {
            for (start, value) in &life.starts {
                let wanted = wanted.as_ref().is_none_or(|wanted| plan.shown(values.text(*value)) == *wanted);
                if *start as usize == self.row && wanted {
                    let intervals = life.appearances(*start, intervals as u32, plan.cumulative);
                    page.offer(Place::most(intervals.len() as i64, actor), || Appearances { intervals });
                }
            }
            Ok(())
        })
        .await?;
        query.named((scope, &actors), plan.range, &list, page, &asked).await
    }
}

impl RetentionPeople {
    fn wanted(&self) -> Option<Value> {
        self.breakdown.clone().map(|given| match given {
            OneOrMany::One(text) => Value::One(text),
            OneOrMany::Many(texts) => Value::Many(texts),
        })
    }

    /// The table that is meant: of one that is split by cohorts, that of the cohort that is asked for.
    fn of_cohort(&self) -> Result<Cow<'_, Retention>, Problem> {
        let cohorts = self.retention.cohorts();
        let Some(given) = self.breakdown.as_ref().filter(|_| !cohorts.is_empty()) else {
            return Ok(Cow::Borrowed(&self.retention));
        };
        match given.as_slice() {
            [id] if cohorts.contains(id) => Ok(Cow::Owned(self.retention.within_cohort(id))),
            _ => {
                let message = "breakdown must be the id of one cohort of the table's breakdown";
                Err(Problem::invalid("breakdown", message).with("valid", cohorts.to_vec()))
            }
        }
    }
}

//! The people of one row of a table of retention, those who came back most often first.

use serde::{Deserialize, Serialize};

use super::Retention;
use crate::event::Scope;
use crate::http::Problem;
use crate::query::Query;
use crate::query::gather::Values;
use crate::query::http::Question;
use crate::query::people::{Page, People, Place};
use crate::telemetry::{Metric, names};

/// A question for people, as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionPeople {
    /// The table, as it was asked.
    pub retention: Retention,
    /// The row, counted from 0.
    pub row: usize,
    /// Only people of this value of the breakdown.
    pub breakdown: Option<String>,
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

    async fn answer(&self, query: &Query, scope: &Scope) -> Result<Self::Answer, Problem> {
        let actors = query.actors(scope).await?;
        let plan = self.retention.check(&query.limits, &actors, query.clock.now())?;
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
        plan.lives(query, scope, &actors, &mut values, |actor, life, values| {
            for (start, value) in &life.starts {
                let wanted = self.breakdown.as_deref().is_none_or(|text| text == values.text(*value));
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

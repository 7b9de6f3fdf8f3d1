//! Attribution: what a rule credited, by source event, by the rule's dimension, or by day of the target events.
//!
//! Reads the table that the stages behind the store keep (`attributed_conversions`), one row a target event.

use serde::{Deserialize, Serialize};

use super::http::Question;
use super::range::{self, Asked};
use super::statement::day;
use super::{Meta, Query, period};
use crate::event::{Scope, Timestamp};
use crate::http::Problem;
use crate::store::Sql;
use crate::telemetry::{Metric, names};

/// A question for what a rule credited, as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attributed {
    /// The rule, by its id.
    pub rule_id: String,
    /// Where the range of the target events begins; seven days ago when absent. See [`range`].
    pub date_from: Option<String>,
    /// Where it ends; today when absent.
    pub date_to: Option<String>,
    /// An IANA name; UTC when absent.
    pub timezone: Option<String>,
    #[serde(default)]
    pub by: By,
    /// Most rows; `query.breakdown_values_max` when absent and at most.
    pub limit: Option<usize>,
    /// What relative dates count from; the server's time when absent.
    pub now: Option<Timestamp>,
    /// Pass by anything remembered.
    #[serde(default)]
    pub refresh: bool,
    /// The environment that is meant, to be refused if the key has another.
    pub environment_id: Option<String>,
}

/// What stands in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The name of the source event.
    #[default]
    Source,
    /// The value of the rule's dimension.
    Dimension,
    /// The day of the target event, in the question's time zone.
    Day,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// Most credited first; days in their order.
    pub results: Vec<Credited>,
    pub totals: Totals,
    pub meta: AttributedMeta,
}

/// What one source, dimension or day is credited with.
#[derive(Debug, Serialize)]
pub struct Credited {
    /// The source event's name, the dimension's value, or the day.
    pub name: String,
    /// Conversions it has a share in.
    pub conversions: u64,
    /// The sum of its shares.
    pub credit: f64,
    /// The sum of its shares of the targets' values.
    pub value: f64,
}

/// Over all target events of the range that have a key.
#[derive(Debug, Serialize)]
pub struct Totals {
    pub conversions: u64,
    /// Those that are credited to something.
    pub attributed: u64,
    pub value: f64,
    pub attributed_value: f64,
}

/// What the answer says about itself.
#[derive(Debug, Serialize)]
pub struct AttributedMeta {
    pub timezone: &'static str,
    pub date_from: Timestamp,
    pub date_to: Timestamp,
    #[serde(flatten)]
    pub meta: Meta,
}

/// The beginning of every statement of this question: the rule's rows of a scope and range.
fn of_rule(columns: &Sql, scope: &Scope, rule_id: &str, range: range::Range) -> Sql {
    Sql::new("SELECT ")
        .append(columns)
        .push(" FROM attributed_conversions FINAL WHERE project_id = ")
        .arg(scope.project.as_str())
        .push(" AND environment_id = ")
        .arg(scope.environment.as_str())
        .push(" AND rule_id = ")
        .arg(rule_id)
        .push(" AND toDate(target_at) >= ")
        .arg(day(range.from))
        .push(" AND toDate(target_at) <= ")
        .arg(day(range.last()))
        .push(" AND bitOr(toUnixTimestamp64Milli(target_at), 0) >= ")
        .arg(range.from.as_millis())
        .push(" AND bitOr(toUnixTimestamp64Milli(target_at), 0) < ")
        .arg(range.end.as_millis())
}

impl Attributed {
    fn rows(&self, scope: &Scope, zone: &str, range: range::Range, limit: usize) -> Sql {
        let by_share = |place: &'static str| {
            // One row for each share.
            Sql::new("CAST(tupleElement(arrayJoin(arrayZip(source_events, dimensions, credits)) AS shared, ").push(place).push(
                "), 'String') AS named, uniqExact(target_distinct_id, target_event_id, toDate(target_at)) AS events, \
                 sum(shared.3) AS share, sum(shared.3 * value) AS worth",
            )
        };
        let (columns, order) = match self.by {
            By::Source => (by_share("1"), " ORDER BY share DESC, named LIMIT "),
            By::Dimension => (by_share("2"), " ORDER BY share DESC, named LIMIT "),
            By::Day => (
                Sql::new("toString(toDate(target_at, ").arg(zone).push(
                    ")) AS named, count() AS events, sum(arraySum(credits)) AS share, sum(arraySum(credits) * value) AS \
                     worth",
                ),
                " ORDER BY named LIMIT ",
            ),
        };
        of_rule(&columns, scope, &self.rule_id, range).push(" GROUP BY named").push(order).arg(limit)
    }
}

impl Question for Attributed {
    const NAME: &'static str = "attribution";
    type Answer = Answer;

    fn duration() -> &'static Metric {
        &names::QUERY_ATTRIBUTION_DURATION
    }

    fn environment_id(&self) -> Option<&str> {
        self.environment_id.as_deref()
    }

    fn timezone(&mut self) -> Option<&mut Option<String>> {
        Some(&mut self.timezone)
    }

    async fn answer(&self, query: &Query, scope: &Scope) -> Result<Answer, Problem> {
        let calendar = range::calendar(self.timezone.as_deref(), None)?;
        let now = self.now.unwrap_or_else(|| query.clock.now());
        let dates = Asked { date_from: self.date_from.as_deref(), date_to: self.date_to.as_deref() };
        let range = period::resolve(dates, &calendar, now)?;
        let max = query.limits.breakdown_values_max;
        let limit = self.limit.unwrap_or(max);
        if !(1..=max).contains(&limit) {
            let message =
                format!("limit is {limit}, but must be from 1 to {max} (query.breakdown_values_max)");
            return Err(Problem::invalid("limit", message)
                .with("given", limit)
                .with("max", max)
                .with("setting", "query.breakdown_values_max"));
        }
        let asked = query.begin().await?;
        let zone = calendar.zone.name();
        let rows: Vec<(String, u64, f64, f64)> = query.select(self.rows(scope, zone, range, limit)).await?;
        let columns = Sql::new(
            "count() AS events, countIf(notEmpty(credits)) AS attributed, sum(value) AS worth, sumIf(value, \
             notEmpty(credits)) AS attributed_worth",
        );
        let totals: Vec<(u64, u64, f64, f64)> =
            query.select(of_rule(&columns, scope, &self.rule_id, range)).await?;
        let (conversions, attributed, value, attributed_value) = totals.first().copied().unwrap_or_default();
        let results = rows
            .into_iter()
            .map(|(name, conversions, credit, value)| Credited { name, conversions, credit, value })
            .collect();
        let meta = AttributedMeta {
            timezone: zone,
            date_from: range.from,
            date_to: range.last(),
            meta: asked.meta(),
        };
        Ok(Answer { results, totals: Totals { conversions, attributed, value, attributed_value }, meta })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_names_the_scope_and_the_rule() {
        let scope = Scope::new("p", "e");
        let at = |text: &str| Timestamp::parse(text).unwrap();
        let range = range::Range { from: at("2026-01-01T00:00:00Z"), end: at("2026-02-01T00:00:00Z") };
        for by in [By::Source, By::Dimension, By::Day] {
            let question = Attributed {
                rule_id: "it's".to_owned(),
                date_from: None,
                date_to: None,
                timezone: None,
                by,
                limit: None,
                now: None,
                refresh: false,
                environment_id: None,
            };
            let sql = question.rows(&scope, "UTC", range, 10);
            let scoped = r"WHERE project_id = 'p' AND environment_id = 'e' AND rule_id = 'it\'s'";
            assert!(sql.text().contains(scoped), "{}", sql.text());
            assert_eq!(sql.text().contains("arrayJoin"), by != By::Day);
            insta::assert_snapshot!(format!("attribution_by_{by:?}").to_lowercase(), sql.text());
        }
    }
}

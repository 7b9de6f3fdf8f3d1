//! What a funnel is split by.

use serde::{Deserialize, Serialize};

use super::attribution::Attribution;
use super::fold::Order;
use super::{Funnel, tuple};
use crate::http::Problem;
use crate::query::cohorts;
use crate::query::filter::{self, Filter, FilterKind, Ground};
use crate::query::groups::Meant;
use crate::query::trends::BreakdownKind;
use crate::store::Sql;

/// Splits a funnel by the values of one property, or of several together, or by cohorts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Breakdown {
    /// Of type `cohort` the ids of cohorts; `all` is everybody.
    pub property: Properties,
    #[serde(rename = "type", default)]
    pub kind: BreakdownKind,
    /// Of type `group`: the number of the groups' type …
    pub group_type_index: Option<u8>,
    /// … or its name.
    pub group_type: Option<String>,
    #[serde(default)]
    pub attribution: Attribution,
    /// The step of `attribution` `step`, counted from 0.
    pub attribution_step: Option<usize>,
    /// How many values get a row of their own; 25 when absent, at most `query.breakdown_values_max`.
    pub limit: Option<usize>,
    /// Leave out the row of all other values.
    #[serde(default)]
    pub hide_other: bool,
}

/// One property, or several whose values are taken together from one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "must be a property's name or a list of names")]
pub enum Properties {
    One(String),
    Several(Vec<String>),
}

/// Values of a breakdown that get a row, unless the question says otherwise.
const BREAKDOWN_VALUES: usize = 25;
/// Properties of one breakdown.
const PROPERTIES_MAX: usize = 5;
/// Cohorts of one breakdown: each is a question of its own to the store.
const COHORTS_MAX: usize = 20;

/// A breakdown by properties that was checked.
#[derive(Debug)]
pub(super) struct PlannedBreakdown {
    pub(super) properties: usize,
    pub(super) attribution: Attribution,
    pub(super) limit: usize,
    pub(super) hide_other: bool,
}

impl Properties {
    pub(in crate::query) fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }

    /// The value of an event as text, `''` for none; of cohorts none at all: they are checked.
    ///
    /// # Errors
    /// 400: none or too many, no such property, no such cohort.
    pub(in crate::query) fn value(
        &self,
        (kind, group): (BreakdownKind, Meant<'_>),
        ground: &Ground<'_>,
    ) -> Result<Option<Sql>, Problem> {
        const FIELD: &str = "breakdown.property";
        let names = self.names();
        let (what, max) = match kind {
            BreakdownKind::Cohort => ("cohorts", COHORTS_MAX),
            _ => ("names", PROPERTIES_MAX),
        };
        if names.is_empty() || names.len() > max {
            let message = format!("{FIELD} has {} {what}; it may have 1 to {max}", names.len());
            return Err(Problem::invalid(FIELD, message).with("max", max));
        }
        let Some(kind) = kind.of_property() else {
            group.none_meant(FIELD)?;
            for id in names {
                cohorts::member(id, FIELD, ground).map(drop)?;
            }
            return Ok(None);
        };
        let text = |name: &String| {
            filter::property_of(kind, name, group, FIELD, ground).map(|property| property.text())
        };
        Ok(Some(tuple(&names.iter().map(text).collect::<Result<Vec<_>, Problem>>()?)))
    }
}

/// A question that may be split by cohorts: it is asked about the members of each.
pub(in crate::query) trait ByCohort: Sized {
    /// What it is split by, of whatever kind.
    fn split(&self) -> Option<(BreakdownKind, &Properties)>;

    /// The same question, not split, where this filter holds, too.
    fn whole_where(&self, filter: Filter) -> Self;

    /// The cohorts that it is split by.
    fn cohorts(&self) -> &[String] {
        match self.split() {
            Some((BreakdownKind::Cohort, cohorts)) => cohorts.names(),
            _ => &[],
        }
    }

    /// The question of a cohort's members alone, which is not split.
    fn within_cohort(&self, id: &str) -> Self {
        self.whole_where(Filter { kind: FilterKind::Cohort, value: id.into(), ..Filter::default() })
    }
}

impl Breakdown {
    /// Checks it. None: it is by cohorts, each of which is asked about by itself.
    ///
    /// # Errors
    /// 400 that names the field.
    pub(super) fn check(
        &self,
        funnel: &Funnel,
        ground: &Ground<'_>,
    ) -> Result<Option<(PlannedBreakdown, Sql)>, Problem> {
        let group = Meant { index: self.group_type_index, name: self.group_type.as_deref() };
        let value = self.property.value((self.kind, group), ground)?;
        let attribution = self.attribution(funnel)?;
        let limit = checked_limit(self.limit, ground)?;
        let properties = self.property.names().len();
        let planned = PlannedBreakdown { properties, attribution, limit, hide_other: self.hide_other };
        match value {
            Some(value) => Ok(Some((planned, value))),
            None if attribution == Attribution::default() => Ok(None),
            None => {
                let message = "breakdown.attribution: people are in a cohort whatever their events say";
                Err(Problem::invalid("breakdown.attribution", message))
            }
        }
    }

    fn attribution(&self, funnel: &Funnel) -> Result<Attribution, Problem> {
        let attribution = match (self.attribution, self.attribution_step) {
            (Attribution::Step(_), Some(step)) => Attribution::Step(step),
            (attribution, None) => attribution,
            (_, Some(step)) => {
                let message = "breakdown.attribution_step belongs to attribution step";
                return Err(Problem::invalid("breakdown.attribution_step", message).with("given", step));
            }
        };
        if let Attribution::Step(step) = attribution {
            let last = if funnel.order == Order::Unordered { 0 } else { funnel.steps.len() - 1 };
            if step > last {
                let message =
                    format!("breakdown.attribution names step {step}; it may be step 0 to {last} here");
                return Err(Problem::invalid("breakdown.attribution", message).with("max", last));
            }
        }
        Ok(attribution)
    }
}

/// How many values of a breakdown get a row of their own.
///
/// # Errors
/// 400: none, or more than `query.breakdown_values_max`.
pub(in crate::query) fn checked_limit(limit: Option<usize>, ground: &Ground<'_>) -> Result<usize, Problem> {
    let max = ground.limits.breakdown_values_max;
    let limit = limit.unwrap_or(BREAKDOWN_VALUES.min(max));
    if limit == 0 || limit > max {
        let message =
            format!("breakdown.limit is {limit}; it may be 1 to {max} (query.breakdown_values_max)");
        return Err(Problem::invalid("breakdown.limit", message)
            .with("given", limit)
            .with("max", max)
            .with("setting", "query.breakdown_values_max"));
    }
    Ok(limit)
}

impl ByCohort for Funnel {
    fn split(&self) -> Option<(BreakdownKind, &Properties)> {
        self.breakdown.as_ref().map(|breakdown| (breakdown.kind, &breakdown.property))
    }

    fn whole_where(&self, filter: Filter) -> Self {
        let mut own = Self { breakdown: None, ..self.clone() };
        own.filters.0.push(filter);
        own
    }
}

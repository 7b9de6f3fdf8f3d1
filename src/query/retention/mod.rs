//! Retention: of the people who began in an interval, how many came back in each later one.
//!
//! The rows are the last `total_intervals` intervals up to and including that of `date_to`. A row's first number is
//! how many people began in its interval; number n is how many of them came back n intervals later. Coming back in the
//! interval of the beginning adds nothing. With a breakdown, a person counts for the value of the first event with which
//! they began in an interval, however they came back, so the values sum up to the whole. With one by cohorts, every
//! cohort has the table of its members, who may be in several.

mod fold;
pub mod people;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::activity::{self, Activity};
use super::actor::Actors;
use super::chosen;
use super::filter::{self, Filter, Filters, Ground};
use super::funnel::Properties;
use super::funnel::breakdown::{ByCohort, checked_limit};
use super::funnel::fold::Event;
use super::gather::{Gather, Matcher, Values, untuple};
use super::groups::Meant;
use super::http::Question;
use super::interval::{Buckets, Calendar, Interval, WeekStart};
use super::range::{self, Moment, Range};
use super::trends::{BreakdownKind, OTHER, Value};
use super::{Meta, Query};
use crate::config;
use crate::event::{Scope, Timestamp};
use crate::http::Problem;
use crate::telemetry::{Metric, names};
use fold::Life;

/// A question for retention, as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// The length of an interval.
    #[serde(default)]
    pub period: Period,
    /// 7 when absent, at most `query.retention_intervals_max`.
    pub total_intervals: Option<usize>,
    /// The last interval is the one that holds it; that of now when absent.
    pub date_to: Option<String>,
    /// An IANA name; UTC when absent.
    pub timezone: Option<String>,
    pub week_start: Option<WeekStart>,
    /// What begins; every event when absent or null.
    pub target_event: Option<String>,
    /// What comes back; every event when absent or null.
    pub returning_event: Option<String>,
    #[serde(default)]
    pub target_filters: Filters,
    #[serde(default)]
    pub returning_filters: Filters,
    /// Hold for both.
    #[serde(default)]
    pub filters: Filters,
    /// Only what these people did.
    pub filter: Option<chosen::People>,
    /// Leave out what the filters of test accounts leave out.
    #[serde(default)]
    pub filter_test_accounts: bool,
    #[serde(default)]
    pub retention_type: Kind,
    /// Count a person up to the last interval in which they came back.
    #[serde(default)]
    pub cumulative: bool,
    /// Events in one interval that make a return; 1 when absent.
    pub min_occurrences: Option<usize>,
    pub breakdown: Option<Breakdown>,
    /// What relative dates count from; the server's time when absent.
    pub now: Option<Timestamp>,
    /// Pass by anything remembered.
    #[serde(default)]
    pub refresh: bool,
    /// The environment that is meant, to be refused if the key has another.
    pub environment_id: Option<String>,
}

/// The length of an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    Hour,
    #[default]
    Day,
    Week,
    Month,
}

impl Period {
    fn interval(self) -> Interval {
        match self {
            Self::Hour => Interval::Hour,
            Self::Day => Interval::Day,
            Self::Week => Interval::Week,
            Self::Month => Interval::Month,
        }
    }
}

/// Which events begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Every one: a person begins in each interval that has one.
    #[default]
    Recurring,
    /// The first of all time that passes the filters.
    FirstTime,
    /// The first of all time of that name, if it passes the filters.
    FirstEverOccurrence,
}

/// Splits the table by the values of a property, or of several together, or by cohorts.
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
    /// How many values get a table of their own; 25 when absent, at most `query.breakdown_values_max`.
    pub limit: Option<usize>,
    /// Leave out the table of all other values.
    #[serde(default)]
    pub hide_other: bool,
}

const INTERVALS: usize = 7;
const OCCURRENCES_MAX: usize = 1000;

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    calendar: Calendar,
    period: Period,
    buckets: Buckets,
    /// Of the intervals.
    range: Range,
    kind: Kind,
    cumulative: bool,
    min_occurrences: usize,
    source: Source,
    limit: usize,
    hide_other: bool,
    /// Of a list of properties: how many.
    properties: Option<usize>,
}

/// Where lives are read from.
#[derive(Debug)]
enum Source {
    /// Sets of intervals.
    Activity(Activity),
    /// With a breakdown: every event, with its value. Bits: begins, comes back, has the name of what begins.
    Events(Gather),
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct Answer {
    pub results: Results,
    pub meta: RetentionMeta,
}

/// The table, or one for each value of the breakdown.
#[derive(Debug, Serialize)]
pub struct Results {
    /// The intervals: the date or, for hours, the time with its offset.
    pub days: Vec<String>,
    #[serde(flatten)]
    pub tables: Tables,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Tables {
    One { rows: Vec<Vec<u64>> },
    Several { breakdowns: Vec<Table> },
}

/// The table of one value.
#[derive(Debug, Serialize)]
pub struct Table {
    /// Empty: no value. Of several properties a list, a text for each.
    pub breakdown: Value,
    pub rows: Vec<Vec<u64>>,
}

/// What the answer says about itself.
#[derive(Debug, Serialize)]
pub struct RetentionMeta {
    pub timezone: &'static str,
    /// The first moment of the first interval, with the zone's offset.
    pub date_from: String,
    /// The last moment of the last interval.
    pub date_to: String,
    #[serde(flatten)]
    pub meta: Meta,
}

impl Question for Retention {
    const NAME: &'static str = "retention";
    type Answer = Answer;

    fn duration() -> &'static Metric {
        &names::QUERY_RETENTION_DURATION
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
        let actors = query.actors(scope).await?;
        let plan = self.check(&query.limits, &actors, query.clock.now())?;
        let asked = query.begin().await?;
        let mut values = Values::new(query.limits.gather_values_max);
        let tables = match self.cohorts() {
            [] => {
                let tables = plan.count(query, scope, &actors, &mut values).await?;
                plan.tables(tables, &values)
            }
            ids => {
                let mut each = Vec::with_capacity(ids.len());
                for id in ids {
                    let own = self.within_cohort(id).check(&query.limits, &actors, query.clock.now())?;
                    let mut tables = own.count(query, scope, &actors, &mut values).await?;
                    let counts = tables.remove(&0).unwrap_or_else(|| Counts::new(own.buckets.len()));
                    each.push((id.as_str(), counts));
                }
                each.sort_by_key(|(id, counts)| (std::cmp::Reverse(counts.size()), *id));
                let table = |(id, counts): (&str, Counts)| Table {
                    breakdown: Value::One(id.to_owned()),
                    rows: counts.rows,
                };
                Tables::Several { breakdowns: each.into_iter().map(table).collect() }
            }
        };
        let results = Results { days: plan.days(), tables };
        let zoned =
            |at: Timestamp| plan.calendar.zoned(at).to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let meta = RetentionMeta {
            timezone: plan.calendar.zone.name(),
            date_from: zoned(plan.range.from),
            date_to: zoned(plan.range.last()),
            meta: asked.meta(),
        };
        Ok(Answer { results, meta })
    }
}

/// The numbers of one table.
#[derive(Clone, Debug)]
struct Counts {
    rows: Vec<Vec<u64>>,
}

impl Counts {
    fn new(intervals: usize) -> Self {
        Self { rows: (0..intervals).map(|row| vec![0; intervals - row]).collect() }
    }

    fn add(&mut self, start: u32, appearances: &[u32]) {
        let Some(row) = self.rows.get_mut(start as usize) else { return };
        for at in appearances {
            if let Some(count) = row.get_mut(*at as usize) {
                *count += 1;
            }
        }
    }

    fn join(&mut self, other: &Self) {
        for (row, others) in self.rows.iter_mut().zip(&other.rows) {
            row.iter_mut().zip(others).for_each(|(count, other)| *count += other);
        }
    }

    /// People who began, over all intervals.
    fn size(&self) -> u64 {
        self.rows.iter().filter_map(|row| row.first()).sum()
    }
}

impl ByCohort for Retention {
    fn split(&self) -> Option<(BreakdownKind, &Properties)> {
        self.breakdown.as_ref().map(|breakdown| (breakdown.kind, &breakdown.property))
    }

    fn whole_where(&self, filter: Filter) -> Self {
        let mut own = Self { breakdown: None, ..self.clone() };
        own.filters.0.push(filter);
        own
    }
}

impl Retention {
    /// Checks everything, and says what is to be done.
    ///
    /// # Errors
    /// 400 that names the field, what was given and what would be right.
    pub(super) fn check(
        &self,
        limits: &config::Query,
        actors: &Actors,
        now: Timestamp,
    ) -> Result<Plan, Problem> {
        let calendar = range::calendar(self.timezone.as_deref(), self.week_start)?;
        let now = self.now.unwrap_or(now);
        let ground = Ground { calendar: &calendar, now, limits, actors };
        let (range, buckets) = self.intervals(&calendar, limits, now)?;
        let min_occurrences = self.min_occurrences.unwrap_or(1);
        if min_occurrences == 0 || min_occurrences > OCCURRENCES_MAX {
            let message = format!("min_occurrences is {min_occurrences}; it may be 1 to {OCCURRENCES_MAX}");
            return Err(Problem::invalid("min_occurrences", message).with("max", OCCURRENCES_MAX));
        }
        let conditions =
            filter::shared(&self.filters, self.filter.as_ref(), self.filter_test_accounts, &ground)?;
        let target = Matcher {
            event: self.target_event.clone(),
            conditions: filter::conditions(&self.target_filters, "target_filters", &ground)?,
        };
        let returning = Matcher {
            event: self.returning_event.clone(),
            conditions: filter::conditions(&self.returning_filters, "returning_filters", &ground)?,
        };
        let by_name = Matcher { event: self.target_event.clone(), conditions: Vec::new() };
        // The first of all time may be long before the intervals.
        let whole = match self.retention_type {
            Kind::Recurring => range,
            Kind::FirstTime | Kind::FirstEverOccurrence => Range { from: Timestamp::EPOCH, end: range.end },
        };
        let own = self.breakdown.as_ref();
        let value = own.map(|own| {
            let group = Meant { index: own.group_type_index, name: own.group_type.as_deref() };
            own.property.value((own.kind, group), &ground)
        });
        let value = value.transpose()?;
        let source = match value.flatten() {
            None => Source::Activity(Activity {
                range: whole,
                buckets: buckets.clone(),
                conditions,
                firsts: match self.retention_type {
                    Kind::Recurring => Vec::new(),
                    Kind::FirstTime => vec![target.clone()],
                    Kind::FirstEverOccurrence => vec![target.clone(), by_name],
                },
                sets: vec![returning, target],
                counted: min_occurrences > 1,
            }),
            value => Source::Events(Gather {
                range: whole,
                steps: vec![target, returning, by_name],
                exclusions: Vec::new(),
                conditions,
                everything: false,
                by: None,
                value,
            }),
        };
        let limit = own.map_or(Ok(1), |breakdown| checked_limit(breakdown.limit, &ground))?;
        Ok(Plan {
            calendar,
            period: self.period,
            buckets,
            range,
            kind: self.retention_type,
            cumulative: self.cumulative,
            min_occurrences,
            source,
            limit,
            hide_other: own.is_some_and(|breakdown| breakdown.hide_other),
            properties: own.and_then(|own| match &own.property {
                Properties::One(_) => None,
                Properties::Several(names) => Some(names.len()),
            }),
        })
    }

    fn intervals(
        &self,
        calendar: &Calendar,
        limits: &config::Query,
        now: Timestamp,
    ) -> Result<(Range, Buckets), Problem> {
        let max = limits.retention_intervals_max;
        let count = self.total_intervals.unwrap_or(INTERVALS.min(max));
        if count == 0 || count > max {
            let message =
                format!("total_intervals is {count}; it may be 1 to {max} (query.retention_intervals_max)");
            return Err(Problem::invalid("total_intervals", message)
                .with("given", count)
                .with("max", max)
                .with("setting", "query.retention_intervals_max"));
        }
        let at = match self.date_to.as_deref() {
            None => now,
            Some(text) => match range::parse("date_to", text, calendar, now)? {
                Moment::Day(date) => calendar.start_of_day(date),
                Moment::Exact(at) | Moment::Relative(at) => at,
            },
        };
        let interval = self.period.interval();
        let end = calendar.next(interval, at);
        let mut from = calendar.floor(interval, at);
        for _ in 1..count {
            from = calendar.floor(interval, Timestamp::from_millis(from.as_millis() - 1));
        }
        range::buckets(from, end, calendar, interval, count.max(limits.buckets_max))
    }
}

impl Plan {
    /// The numbers of every value.
    async fn count(
        &self,
        query: &Query,
        scope: &Scope,
        actors: &Actors,
        values: &mut Values,
    ) -> Result<HashMap<u32, Counts>, Problem> {
        let mut tables: HashMap<u32, Counts> = HashMap::new();
        self.lives(query, scope, actors, values, |_, life, _| {
            for (start, value) in &life.starts {
                let table = tables.entry(*value).or_insert_with(|| Counts::new(self.buckets.len()));
                table.add(*start, &life.appearances(*start, self.buckets.len() as u32, self.cumulative));
            }
            Ok(())
        })
        .await?;
        Ok(tables)
    }

    /// A value as the answer shows it.
    fn shown(&self, text: &str) -> Value {
        match self.properties {
            None => Value::One(text.to_owned()),
            Some(count) if text == OTHER => Value::Many(vec![OTHER.to_owned(); count]),
            Some(count) => Value::Many(untuple(text, count)),
        }
    }

    /// Shows the life of every person who began in an interval.
    async fn lives(
        &self,
        query: &Query,
        scope: &Scope,
        actors: &Actors,
        values: &mut Values,
        mut show: impl FnMut(u64, &Life, &Values) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        match &self.source {
            Source::Activity(activity) => {
                let none = Values::new(0);
                let shown = |person: &activity::Person| {
                    let life = self.life_of_sets(person);
                    if life.starts.is_empty() { Ok(()) } else { show(person.actor, &life, &none) }
                };
                query.active(scope, actors, activity, shown).await
            }
            Source::Events(gather) => {
                let shown = |actor: u64, events: &[Event], values: &Values| {
                    let life = self.life_of_events(gather.range.from, events);
                    if life.starts.is_empty() { Ok(()) } else { show(actor, &life, values) }
                };
                query.gather(scope, actors, gather, values, shown).await
            }
        }
    }

    fn life_of_sets(&self, person: &activity::Person) -> Life {
        let [returns, targets] = &person.sets;
        let [first, by_name] = person.firsts;
        let begins = match self.kind {
            Kind::Recurring => activity::at_least(targets, 1),
            Kind::FirstTime => self.interval_of(first),
            Kind::FirstEverOccurrence if first == by_name => self.interval_of(first),
            Kind::FirstEverOccurrence => Vec::new(),
        };
        Life {
            starts: begins.into_iter().map(|start| (start, 0)).collect(),
            returns: activity::at_least(returns, self.min_occurrences),
        }
    }

    fn interval_of(&self, at: Option<Timestamp>) -> Vec<u32> {
        let interval = at.and_then(|at| self.buckets.index_of(at));
        interval.map(|interval| interval as u32).into_iter().collect()
    }

    fn life_of_events(&self, origin: Timestamp, events: &[Event]) -> Life {
        let at = |event: &Event| Timestamp::from_millis(origin.as_millis() + event.at);
        let interval = |event: &Event| self.buckets.index_of(at(event)).map(|interval| interval as u32);
        let is = |event: &&Event, bit: u32| event.steps & (1 << bit) != 0;
        let first_named = events.iter().find(|event| is(event, 2)).map(|event| event.at);
        let mut targets = events.iter().filter(|event| is(event, 0));
        let starts: BTreeMap<u32, u32> = match self.kind {
            // In order of time: the first of an interval stays.
            Kind::Recurring => {
                targets.rev().filter_map(|event| Some((interval(event)?, event.value))).collect()
            }
            Kind::FirstTime | Kind::FirstEverOccurrence => targets
                .next()
                .filter(|first| self.kind == Kind::FirstTime || Some(first.at) == first_named)
                .and_then(|event| Some((interval(event)?, event.value)))
                .into_iter()
                .collect(),
        };
        let returns: Vec<u32> = events.iter().filter(|event| is(event, 1)).filter_map(interval).collect();
        Life {
            starts: starts.into_iter().collect(),
            returns: activity::at_least(&returns, self.min_occurrences),
        }
    }

    fn tables(&self, mut tables: HashMap<u32, Counts>, values: &Values) -> Tables {
        let intervals = self.buckets.len();
        if matches!(self.source, Source::Activity(_)) {
            return Tables::One { rows: tables.remove(&0).unwrap_or_else(|| Counts::new(intervals)).rows };
        }
        let mut tables: Vec<(String, Counts)> =
            tables.into_iter().map(|(value, table)| (values.text(value).to_owned(), table)).collect();
        tables.sort_by_cached_key(|(text, table)| {
            (std::cmp::Reverse(table.size()), text.to_lowercase(), text.clone())
        });
        let others = tables.split_off(self.limit.min(tables.len()));
        if !others.is_empty() && !self.hide_other {
            let mut rest = Counts::new(intervals);
            others.iter().for_each(|(_, table)| rest.join(table));
            tables.push((OTHER.to_owned(), rest));
        }
        let breakdowns =
            tables.into_iter().map(|(text, table)| Table { breakdown: self.shown(&text), rows: table.rows });
        Tables::Several { breakdowns: breakdowns.collect() }
    }

    /// What the intervals are called.
    fn days(&self) -> Vec<String> {
        let format = if self.period == Period::Hour { "%Y-%m-%dT%H:%M:%S%:z" } else { "%Y-%m-%d" };
        let starts = self.buckets.starts().iter();
        starts.map(|start| self.calendar.zoned(*start).format(format).to_string()).collect()
    }
}

//! Request → plan. Everything that a question can be refused for is refused here.

use super::breakdown::PlannedBreakdown as Breakdown;
use super::formula::Formula;
use super::math::Shape;
use super::{Display, Math, Series, Trends};
use crate::config;
use crate::event::Timestamp;
use crate::http::Problem;
use crate::query::actor::Actors;
use crate::query::expression;
use crate::query::filter::{self, Ground, PropertyKind};
use crate::query::groups::{self, Meant, NUMBERS_MAX};
use crate::query::interval::{Buckets, Calendar, Interval};
use crate::query::range::{self, Asked, Begin, Range};
use crate::query::sql::parts::OfEvents;
use crate::store::Sql;

pub(super) use super::breakdown::PlannedBreakdown;

/// A question that is checked, but whose range may still hang on the store's first event.
#[derive(Debug)]
pub(super) struct Checked {
    calendar: Calendar,
    actors: Actors,
    pub(super) begin: Begin,
    end: Timestamp,
    series: Vec<PlannedSeries>,
    breakdown: Option<Breakdown>,
    formulas: Vec<Formula>,
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) calendar: Calendar,
    pub(super) interval: Interval,
    pub(super) actors: Actors,
    /// The period that is asked for, and the one that it is compared with.
    pub(super) periods: Vec<Period>,
    pub(super) series: Vec<PlannedSeries>,
    pub(super) breakdown: Option<Breakdown>,
    pub(super) formulas: Vec<Formula>,
    pub(super) display: Display,
    pub(super) smoothing: usize,
}

/// A range of time and what it is cut into.
#[derive(Debug)]
pub(super) struct Period {
    /// Of several periods: which.
    pub(super) label: Option<&'static str>,
    pub(super) range: Range,
    /// One for the whole range where the display asks for one number.
    pub(super) buckets: Buckets,
}

#[derive(Debug)]
pub(super) struct PlannedSeries {
    pub(super) event: Option<String>,
    /// What it is called.
    pub(super) name: String,
    pub(super) math: Math,
    pub(super) shape: Shape,
    pub(super) conditions: Vec<Sql>,
}

/// Most formulas in one question.
const FORMULAS_MAX: usize = 26;

impl Trends {
    /// Checks everything that can be checked without the store.
    ///
    /// # Errors
    /// 400 that names the field, what was given and what would be right.
    pub(super) fn check(
        &self,
        limits: &config::Query,
        now: Timestamp,
        actors: &Actors,
    ) -> Result<Checked, Problem> {
        let calendar = range::calendar(self.timezone.as_deref(), self.week_start)?;
        let now = self.now.unwrap_or(now);
        let (begin, end) = range::resolve(self.asked(), &calendar, self.interval, now)?;
        let ground = Ground { calendar: &calendar, now, limits, actors };
        if self.series.is_empty() || self.series.len() > limits.series_max {
            let message = format!(
                "series has {} entries; a question has 1 to {} (query.series_max)",
                self.series.len(),
                limits.series_max
            );
            return Err(Problem::invalid("series", message)
                .with("max", limits.series_max)
                .with("setting", "query.series_max"));
        }
        let shared = filter::shared(&self.filters, self.filter.as_ref(), self.filter_test_accounts, &ground)?;
        let series = self.series.iter().enumerate();
        let series = series.map(|(index, series)| series.check(index, &shared, self.interval, &ground));
        let series = series.collect::<Result<Vec<_>, Problem>>()?;
        let breakdown = self.breakdown.as_ref().map(|breakdown| breakdown.check(&ground)).transpose()?;
        let formulas = self.checked_formulas()?;
        if let Some(smoothing) = self.smoothing
            && (smoothing == 0 || smoothing > limits.buckets_max)
        {
            let max = limits.buckets_max;
            let message = format!("smoothing is {smoothing}; it may be 1 to {max} (query.buckets_max)");
            return Err(Problem::invalid("smoothing", message)
                .with("given", smoothing)
                .with("max", max)
                .with("setting", "query.buckets_max"));
        }
        Ok(Checked { calendar, actors: actors.clone(), begin, end, series, breakdown, formulas })
    }

    fn asked(&self) -> Asked<'_> {
        Asked { date_from: self.date_from.as_deref(), date_to: self.date_to.as_deref() }
    }

    fn checked_formulas(&self) -> Result<Vec<Formula>, Problem> {
        if self.formulas.len() > FORMULAS_MAX {
            let message = format!("formulas has {} entries, more than {FORMULAS_MAX}", self.formulas.len());
            return Err(Problem::invalid("formulas", message).with("max", FORMULAS_MAX));
        }
        let one = self.formula.iter().map(|text| ("formula".to_owned(), text));
        let many = self.formulas.iter().enumerate().map(|(i, text)| (format!("formulas[{i}]"), text));
        one.chain(many).map(|(field, text)| Formula::parse(&field, text, self.series.len())).collect()
    }
}

impl Series {
    fn check(
        &self,
        index: usize,
        shared: &[Sql],
        interval: Interval,
        ground: &Ground<'_>,
    ) -> Result<PlannedSeries, Problem> {
        let field = |name: &str| format!("series[{index}].{name}");
        let mut conditions = shared.to_vec();
        conditions.extend(filter::conditions(&self.filters, &field("filters"), ground)?);
        if self.math_property_type == PropertyKind::Session && self.math_property.is_some() {
            let field = field("math_property_type");
            let message =
                format!("{field} is session: a session's number would count once for each of its events");
            return Err(Problem::invalid(&field, message).with("given", "session"));
        }
        let group = self.group(&field("math_group_type"))?;
        let property = match &self.math_property {
            Some(key) => {
                let kind = self.math_property_type;
                let group = if kind == PropertyKind::Group { group } else { Meant::default() };
                Some(filter::property_of(kind, key, group, &field("math_property"), ground)?)
            }
            None if self.math.of_property() => {
                let field = field("math_property");
                let message =
                    format!("{field} is required: the property whose numbers series[{index}].math is of");
                return Err(Problem::invalid(&field, message));
            }
            None => None,
        };
        let shape = match self.math {
            Math::Hogql => Shape::Free(Box::new(self.expression(&field("math_expression"), ground)?)),
            math => {
                let key = groups::key(group, ground.actors.group_types()).text();
                math.shape(interval, property.as_ref(), &key, ground.actors)
            }
        };
        let name = self.name.clone().or_else(|| self.event.clone());
        Ok(PlannedSeries {
            event: self.event.clone(),
            name: name.unwrap_or_else(|| "All events".to_owned()),
            math: self.math,
            shape,
            conditions,
        })
    }
}

impl Series {
    /// What `math` `hogql` counts.
    fn expression(&self, field: &str, ground: &Ground<'_>) -> Result<OfEvents, Problem> {
        let Some(text) = &self.math_expression else {
            let message =
                format!("{field} is required: what math hogql counts, such as sum(properties.price)");
            return Err(Problem::invalid(field, message));
        };
        expression::aggregate(text, field, ground)
    }

    /// The type of the groups that `unique_group` counts, or whose property is counted.
    fn group(&self, field: &str) -> Result<Meant<'_>, Problem> {
        let index = self.math_group_type_index;
        if let Some(given) = index.filter(|index| *index >= NUMBERS_MAX) {
            let message = format!("{field}_index is {given}; it may be 0 to {}", NUMBERS_MAX - 1);
            let problem = Problem::invalid(&format!("{field}_index"), message);
            return Err(problem.with("given", given).with("max", NUMBERS_MAX - 1));
        }
        let name = self.math_group_type.as_deref();
        if name.is_some() && index.is_some() {
            let message = format!("{field} and {field}_index both name the group: one of them is enough");
            return Err(Problem::invalid(field, message));
        }
        name.map_or(Ok(()), |name| filter::check_key(field, name))?;
        Ok(Meant { index, name })
    }
}

impl Checked {
    /// The plan, once the first event is known if it is needed; without any event the range is its last bucket.
    ///
    /// # Errors
    /// 400: the range is backwards, or the answer would be larger than `query.buckets_max` or `query.points_max`.
    pub(super) fn plan(
        self,
        question: &Trends,
        first: Option<Timestamp>,
        limits: &config::Query,
    ) -> Result<Plan, Problem> {
        let interval = question.interval;
        let last = Timestamp::from_millis(self.end.as_millis() - 1);
        let from = match self.begin {
            Begin::At(from) => from,
            Begin::FirstEvent => first.unwrap_or(last).min(last),
        };
        let period = |label, from, end| {
            let calendar = &self.calendar;
            if !question.display.of_whole() {
                let (range, buckets) = range::buckets(from, end, calendar, interval, limits.buckets_max)?;
                return Ok(Period { label, range, buckets });
            }
            if from >= end {
                return Err(range::backwards(from, Timestamp::from_millis(end.as_millis() - 1)));
            }
            // One number has no first bucket that could reach to before the range's first day.
            let unit =
                if matches!(interval, Interval::Minute | Interval::Hour) { interval } else { Interval::Day };
            let range = Range { from: calendar.floor(unit, from), end };
            Ok(Period { label, range, buckets: Buckets::whole(range.from, end) })
        };
        let periods = if question.compare || question.compare_to.is_some() {
            let to = question.compare_to.as_deref();
            let (before, end) = range::previous(question.asked(), &self.calendar, from, self.end, to)?;
            vec![period(Some("current"), from, self.end)?, period(Some("previous"), before, end)?]
        } else {
            vec![period(None, from, self.end)?]
        };
        let Self { calendar, actors, series, mut breakdown, formulas, .. } = self;
        let buckets: usize = periods.iter().map(|period| period.buckets.len()).sum();
        let lines = if formulas.is_empty() { series.len() } else { formulas.len() };
        let own = question.breakdown.as_ref();
        if let Some(planned) = breakdown.as_mut()
            && own.is_some_and(|own| own.export && own.limit.is_none())
        {
            let room = limits.points_max / (buckets * lines.max(series.len())).max(1);
            planned.raise(room.saturating_sub(1).min(limits.breakdown_values_max));
        }
        let lines = lines * breakdown.as_ref().map_or(1, |breakdown| breakdown.limit + 1);
        check_points(lines, buckets, limits)?;
        if let Some(breakdown) = breakdown.as_mut().filter(|_| !formulas.is_empty()) {
            // Which values are shown is known only once the formula is: as many are read as an answer may have numbers.
            let room = limits.points_max / (buckets * series.len()).max(1);
            breakdown.fetched = room.min(limits.breakdown_values_max).max(breakdown.limit);
        }
        let (display, smoothing) = (question.display, question.smoothing.unwrap_or(1));
        Ok(Plan { calendar, interval, actors, periods, series, breakdown, formulas, display, smoothing })
    }
}

fn check_points(lines: usize, buckets: usize, limits: &config::Query) -> Result<(), Problem> {
    let points = lines.saturating_mul(buckets);
    if points <= limits.points_max {
        return Ok(());
    }
    let message = format!(
        "the answer may have {points} numbers ({lines} lines, {buckets} buckets), more than {} (query.points_max): take \
         a longer interval, a shorter range or fewer values",
        limits.points_max
    );
    Err(Problem::invalid("interval", message)
        .with("max", limits.points_max)
        .with("setting", "query.points_max"))
}

impl Period {
    /// What each bucket holds of the range.
    pub(super) fn bucket_ranges(&self) -> Vec<Range> {
        let starts = self.buckets.starts();
        let ends = starts.iter().skip(1).copied().chain([self.range.end]);
        starts.iter().zip(ends).map(|(from, end)| Range { from: *from, end }).collect()
    }

    /// The buckets from `first` to `last`, as a period of their own.
    pub(super) fn part(&self, first: usize, last: usize) -> Self {
        let ranges = self.bucket_ranges();
        let from = ranges.get(first).map_or(self.range.from, |range| range.from);
        let end = ranges.get(last).map_or(self.range.end, |range| range.end);
        Self { label: self.label, range: Range { from, end }, buckets: self.buckets.part(first, last) }
    }
}

impl Plan {
    /// The range that was asked for.
    pub(super) fn range(&self) -> Range {
        let epoch = Range { from: Timestamp::EPOCH, end: Timestamp::EPOCH };
        self.periods.first().map_or(epoch, |period| period.range)
    }

    /// The first moments of the days that the buckets begin in, each once; of one number for the whole range, that of
    /// its last day.
    pub(super) fn days(&self, period: &Period) -> Vec<i64> {
        let mut days: Vec<i64> = (0..period.buckets.len()).map(|index| self.day(period, index)).collect();
        days.dedup();
        days
    }

    /// The days of a sliding window that a bucket of the period shows: as many as `length`, up to the one that the bucket
    /// begins in; of one number for the whole range, up to its last. All buckets together show all their windows.
    pub(super) fn window_before(&self, length: usize, bucket: Range, period: &Period) -> Range {
        let at = if self.display.of_whole() { bucket.last() } else { bucket.from };
        let back = chrono::Days::new(length.saturating_sub(1) as u64);
        let first = self.calendar.date(at).checked_sub_days(back);
        let from = first.map_or(bucket.from, |date| self.calendar.start_of_day(date));
        let end = if bucket == period.range { bucket.end } else { self.calendar.next(Interval::Day, at) };
        Range { from, end: end.min(period.range.end) }
    }

    /// What a series calls the bucket at `index` in its rows.
    pub(super) fn key(&self, period: &Period, series: &PlannedSeries, index: usize) -> i64 {
        match series.shape {
            Shape::Sliding(_) => self.day(period, index),
            _ => period.buckets.starts().get(index).map_or(0, |start| start.as_millis()),
        }
    }

    fn day(&self, period: &Period, index: usize) -> i64 {
        let start = period.buckets.starts().get(index).copied().unwrap_or(period.range.from);
        let at = if self.display.of_whole() { period.range.last() } else { start };
        self.calendar.floor(Interval::Day, at).as_millis()
    }
}

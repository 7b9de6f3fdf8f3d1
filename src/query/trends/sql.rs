//! One statement for each series and period.

use super::math::{Aggregate, PEOPLE, ROWS, Shape};
use super::people::Wanted;
use super::plan::{Period, Plan, PlannedBreakdown, PlannedSeries};
use crate::event::{Scope, Timestamp};
use crate::query::actor::Actors;
use crate::query::interval::Interval;
use crate::query::range::Range;
use crate::query::sql::parts::part;
use crate::query::statement::{self, Select, View};
use crate::store::Sql;

/// The statement of a series. Its rows are (bucket, value, place, label): without a breakdown place 0 and no label; with
/// one, places from 1 on, the one after the last for all other values together. A bucket is the milliseconds at which it
/// begins; empty ones are absent. `label` is the breakdown's value, as [`super::breakdown`] gives it.
pub(super) fn statement(
    scope: &Scope,
    plan: &Plan,
    period: &Period,
    series: &PlannedSeries,
    label: Option<&Sql>,
) -> Sql {
    let reading = Reading { scope, plan, period, series, label };
    match (&plan.breakdown, &series.shape) {
        (Some(breakdown), shape) => reading.broken_down(shape, breakdown),
        (None, shape) => reading.plain(shape),
    }
}

/// A statement whose rows are (person, events), and the range that the events are in.
pub(super) struct PeopleOf {
    pub(super) sql: Sql,
    pub(super) range: Range,
}

/// Who is behind a series in `within`, which is a bucket of the period or all of them; `wanted`: of one value alone.
pub(super) fn people(
    scope: &Scope,
    plan: &Plan,
    (period, series): (&Period, &PlannedSeries),
    within: Range,
    wanted: Option<&Wanted>,
) -> PeopleOf {
    let reading = Reading { scope, plan, period, series, label: wanted.map(|wanted| &wanted.label) };
    if let Shape::First { with_filters } = series.shape {
        let mut sql = Sql::new("SELECT person, toUInt64(1) AS events FROM (")
            .append(&reading.first_times(with_filters))
            .push(") WHERE first >= ")
            .arg(within.from.as_millis())
            .push(" AND first < ")
            .arg(within.end.as_millis());
        if let Some(wanted) = wanted {
            sql = sql.push(" AND ").append(&wanted.of_column(&Sql::new("label")));
        }
        return PeopleOf { sql, range: within };
    }
    let range = match series.shape {
        Shape::Sliding(length) => plan.window_before(length, within, period),
        _ => within,
    };
    let columns = Sql::new("").append(&plan.actors.id()).push(" AS person, count() AS events");
    let mut select = reading.rows(&columns, range);
    if let Shape::Events(_, argument) = &series.shape
        && !argument.is_empty()
    {
        select = select.and(Sql::new("(").append(argument).push(") IS NOT NULL"));
    }
    if let Some(wanted) = wanted {
        select = select.and(wanted.condition());
    }
    PeopleOf { sql: select.then(Sql::new("GROUP BY person")).sql(), range }
}

/// One row: the time of the scope's first event, null without any.
pub(super) fn first_event(scope: &Scope) -> Sql {
    statement::events(scope, View::Deduplicated, &Sql::new("minOrNull(timestamp) AS first")).sql()
}

/// One row: the smallest and the greatest number of the property in all series together, null without any.
pub(super) fn extremes(scope: &Scope, plan: &Plan, period: &Period, number: &Sql) -> Sql {
    let columns = Sql::new("minOrNull(").append(number).push(") AS least, maxOrNull(").append(number);
    let any = plan.series.iter().map(|series| {
        let mut all = vec![Sql::new("1")];
        all.extend(series.event.as_ref().map(|event| Sql::new("event_name = ").arg(event)));
        all.extend(series.conditions.iter().cloned());
        Sql::new("(").join(" AND ", &all).push(")")
    });
    let any: Vec<Sql> = any.collect();
    statement::events(scope, View::Deduplicated, &columns.push(") AS greatest"))
        .actors(&plan.actors)
        .within(period.range)
        .and(Sql::new("(").join(" OR ", &any).push(")"))
        .sql()
}

/// The days that a sliding series is counted for, and from where its events are read.
struct Window {
    length: usize,
    /// Every day from the first that is read.
    days: Vec<i64>,
    wanted: Vec<i64>,
    range: Range,
}

struct Reading<'a> {
    scope: &'a Scope,
    plan: &'a Plan,
    period: &'a Period,
    series: &'a PlannedSeries,
    label: Option<&'a Sql>,
}

/// Parts of a broken down series: rows (bucket, label, …), and how they are put together.
struct Parts {
    rows: Sql,
    /// Columns besides bucket and label that have to be taken along.
    columns: Sql,
    /// The value of one part.
    value: Sql,
    /// The value of all parts with one place.
    merged: Sql,
}

impl Reading<'_> {
    fn plain(&self, shape: &Shape) -> Sql {
        let value = |value: Sql| {
            let columns = Sql::new("toFloat64(ifNull(").append(&value).push(", 0)) AS value");
            columns.push(", toUInt64(0) AS place, '' AS label")
        };
        let tail = Sql::new("GROUP BY bucket ORDER BY bucket");
        let bucket = Sql::new("").append(&self.bucket()).push(" AS bucket, ");
        match shape {
            Shape::Events(aggregate, argument) => {
                let columns = bucket.append(&value(aggregate.of(argument)));
                self.rows(&columns, self.period.range).then(tail).sql()
            }
            Shape::PerActor(aggregate) => {
                let columns = bucket.append(&self.plan.actors.id()).push(" AS person, count() AS events");
                let people = self.rows(&columns, self.period.range);
                let people = people.then(Sql::new("GROUP BY bucket, person")).sql();
                over(&people, &value(aggregate.of(&Sql::new("events"))), &tail)
            }
            Shape::Sliding(length) => {
                let window = self.window(*length);
                over(&self.days_of_people(&window), &value(Sql::new("uniqExact(person)")), &tail)
            }
            Shape::First { with_filters } => {
                over(&self.firsts(*with_filters), &value(Sql::new("count()")), &tail)
            }
            Shape::Free(free) => {
                let columns = bucket.append(&value(free.whole.clone()));
                self.rows(&columns, self.period.range).then(tail).sql()
            }
        }
    }

    /// One read: count by bucket and value, give every value its place by the sum over its buckets (no value comes after
    /// all of them), then merge all values after the last place into one.
    fn broken_down(&self, shape: &Shape, breakdown: &PlannedBreakdown) -> Sql {
        let Parts { rows, columns, value, merged } = self.parts(shape, breakdown.fetched);
        let summed = Sql::new("SELECT bucket, label, ")
            .append(&columns)
            .push(", sum(toFloat64(ifNull(")
            .append(&value)
            .push(", 0))) OVER (PARTITION BY label) AS total FROM (")
            .append(&rows)
            .push(")");
        let placed = Sql::new("SELECT bucket, label, ")
            .append(&columns)
            .push(", toUInt64(least(dense_rank() OVER (ORDER BY ")
            .append(&breakdown.lacks_value())
            .push(", total DESC, label), ")
            .arg(breakdown.fetched + 1)
            .push(")) AS place FROM (")
            .append(&summed)
            .push(")");
        let merged = Sql::new("SELECT bucket, toFloat64(ifNull(")
            .append(&merged)
            .push(", 0)) AS value, place, substringUTF8(any(label), 1, 1000) AS label FROM (")
            .append(&placed)
            .push(")");
        let shown = if breakdown.hide_other {
            merged.push(" WHERE place <= ").arg(breakdown.fetched)
        } else {
            merged
        };
        shown.push(" GROUP BY place, bucket ORDER BY place, bucket")
    }

    fn parts(&self, shape: &Shape, fetched: usize) -> Parts {
        let keys =
            || Sql::new("").append(&self.bucket()).push(" AS bucket").append(&self.labelled()).push(", ");
        let tail = Sql::new("GROUP BY bucket, label");
        let simple = |aggregate: Aggregate, rows: Sql| Parts {
            rows,
            columns: Sql::new("part"),
            value: aggregate.value("part"),
            merged: aggregate.merged("part"),
        };
        let kept = |part: Sql| Sql::new("").append(&part).push(" AS part");
        match shape {
            Shape::Events(aggregate, argument) => {
                let columns = keys().append(&kept(aggregate.part(argument)));
                simple(*aggregate, self.rows(&columns, self.period.range).then(tail).sql())
            }
            Shape::Sliding(length) => {
                let people = self.days_of_people(&self.window(*length));
                let columns = Sql::new("label, ").append(&kept(PEOPLE.part(&Sql::new("person"))));
                simple(PEOPLE, over(&people, &columns, &tail))
            }
            Shape::First { with_filters } => {
                let columns = Sql::new("label, ").append(&kept(ROWS.part(&Sql::default())));
                simple(ROWS, over(&self.firsts(*with_filters), &columns, &tail))
            }
            Shape::Free(free) => {
                let states = free.states.iter().enumerate();
                let states: Vec<Sql> = states
                    .map(|(place, state)| Sql::new("").append(state).push(" AS ").append(&part(place)))
                    .collect();
                let parts: Vec<Sql> = (0..states.len()).map(part).collect();
                Parts {
                    rows: self.rows(&keys().join(", ", &states), self.period.range).then(tail).sql(),
                    columns: Sql::default().join(", ", &parts),
                    value: free.finished.clone(),
                    merged: free.merged.clone(),
                }
            }
            Shape::PerActor(aggregate) => {
                let columns = keys().append(&self.plan.actors.id()).push(" AS person, count() AS events");
                let people = self.rows(&columns, self.period.range);
                let people = people.then(Sql::new("GROUP BY bucket, label, person")).sql();
                let columns = Sql::new("label, ")
                    .append(&aggregate.of(&Sql::new("events")))
                    .push(" AS part, groupArray(person) AS people, groupArray(events) AS counts");
                // Of all other values together, a person's events are summed up before they are compared.
                let merged = Sql::new("if(place <= ")
                    .arg(fetched)
                    .push(", any(part), arrayReduce('")
                    .push(aggregate.named)
                    .push("', sumMap(people, counts).2))");
                Parts {
                    rows: over(&people, &columns, &tail),
                    columns: Sql::new("part, people, counts"),
                    value: Sql::new("part"),
                    merged,
                }
            }
        }
    }

    /// `, … AS label` where there is a breakdown.
    fn labelled(&self) -> Sql {
        match self.label {
            Some(label) => Sql::new(", ").append(label).push(" AS label"),
            None => Sql::default(),
        }
    }

    /// `, label` where there is a breakdown.
    fn by_label(&self) -> &'static str {
        if self.label.is_some() { ", label" } else { "" }
    }

    /// Rows (bucket, person, label): who acted in the window that ends with each wanted day.
    fn days_of_people(&self, window: &Window) -> Sql {
        let columns = Sql::new("roundDown(")
            .append(&View::Deduplicated.time())
            .push(", ")
            .append(&instants(&window.days))
            .push(") AS day, ")
            .append(&self.plan.actors.id())
            .push(" AS person")
            .append(&self.labelled());
        let tail = Sql::new("GROUP BY day, person").push(self.by_label());
        let days = self.rows(&columns, window.range).then(tail).sql();
        let places: Vec<u64> = (1..=window.days.len() as u64).collect();
        let each = Sql::new("SELECT arrayJoin(arraySlice(")
            .append(&instants(&window.days))
            .push(", transform(day, ")
            .append(&instants(&window.days))
            .push(", ")
            .arg(places)
            .push("), ")
            .arg(window.length)
            .push(")) AS bucket, person")
            .push(self.by_label());
        let each = each.push(" FROM (").append(&days).push(")");
        let all = Sql::new("SELECT bucket, person").push(self.by_label()).push(" FROM (").append(&each);
        all.push(") WHERE bucket IN ").list(&window.wanted)
    }

    fn window(&self, length: usize) -> Window {
        let calendar = &self.plan.calendar;
        let wanted = self.plan.days(self.period);
        let first = wanted.first().map_or(self.period.range.from, |day| Timestamp::from_millis(*day));
        let back = chrono::Days::new(length.saturating_sub(1) as u64);
        let from =
            calendar.date(first).checked_sub_days(back).map_or(first, |date| calendar.start_of_day(date));
        let last = wanted.last().copied().unwrap_or_default();
        let mut days = vec![from.as_millis()];
        let mut day = from;
        while day.as_millis() < last {
            day = calendar.next(Interval::Day, day);
            days.push(day.as_millis());
        }
        Window { length, days, wanted, range: Range { from, end: self.period.range.end } }
    }

    /// Rows (bucket, label), one for each person whose first event counts.
    fn firsts(&self, with_filters: bool) -> Sql {
        let people = self.first_times(with_filters);
        let columns = Sql::new("SELECT ").append(&self.bucket_of(&Sql::new("first"))).push(" AS bucket");
        let columns = columns.push(self.by_label()).push(" FROM (").append(&people);
        columns.push(") WHERE first >= ").arg(self.period.range.from.as_millis())
    }

    /// Rows (person, first, …, label), one for each person whose first event counts, however long ago.
    fn first_times(&self, with_filters: bool) -> Sql {
        let at = View::Deduplicated.time();
        let all = Sql::new("1").push(if self.series.conditions.is_empty() { "" } else { " AND " });
        let passes = all.join(" AND ", &self.series.conditions);
        let passes = if with_filters { Sql::new("1") } else { passes };
        let person = Sql::new("").append(&self.plan.actors.id()).push(" AS person, min(").append(&at);
        let mut columns = person.push(") AS first, minIf(").append(&at).push(", ").append(&passes);
        columns = columns.push(") AS passed, countIf(").append(&passes).push(") AS passing");
        let mut by = Sql::new("GROUP BY person");
        if let Some(label) = self.label {
            // Cohorts multiply rows, but are the same for all events of a person.
            if self.plan.breakdown.as_ref().is_some_and(PlannedBreakdown::of_people) {
                columns = columns.append(&self.labelled());
                by = by.push(", label");
            } else {
                columns = columns.push(", argMinIf(").append(label).push(", ").append(&at).push(", ");
                columns = columns.append(&passes).push(") AS label");
            }
        }
        let mut rows = statement::events(self.scope, View::Deduplicated, &columns)
            .actors(&self.plan.actors)
            .until(self.period.range.end);
        if let Some(event) = &self.series.event {
            rows = rows.key(Sql::new("event_name = ").arg(event));
        }
        if with_filters {
            rows = rows.and_all(self.series.conditions.iter().cloned());
        }
        rows.then(by.push(" HAVING passing > 0 AND passed = first")).sql()
    }

    fn rows(&self, columns: &Sql, range: Range) -> Select {
        rows(self.scope, &self.plan.actors, self.series, columns, range)
    }

    fn bucket(&self) -> Sql {
        self.bucket_of(&Sql::new("toUnixTimestamp64Milli(timestamp)"))
    }

    /// The milliseconds at which the bucket begins that holds `at`. Buckets of one length (hours, minutes, and days
    /// while the clocks do not change) are a division; others are looked up among their beginnings.
    fn bucket_of(&self, at: &Sql) -> Sql {
        let buckets = &self.period.buckets;
        let first = buckets.starts().first().map_or(0, |start| start.as_millis());
        match buckets.width_millis() {
            Some(_) if buckets.len() == 1 => Sql::new("toInt64(").arg(first).push(")"),
            Some(width) => {
                let into = Sql::new("intDiv(").append(at).push(" - ").arg(first).push(", ").arg(width);
                Sql::new("").arg(first).push(" + ").append(&into).push(") * ").arg(width)
            }
            None => {
                let starts: Vec<i64> = buckets.starts().iter().map(|start| start.as_millis()).collect();
                Sql::new("roundDown(").append(at).push(", ").append(&instants(&starts)).push(")")
            }
        }
    }
}

fn rows(scope: &Scope, actors: &Actors, series: &PlannedSeries, columns: &Sql, range: Range) -> Select {
    let select = statement::events(scope, View::Deduplicated, columns).actors(actors).within(range);
    let select = match &series.event {
        Some(event) => select.key(Sql::new("event_name = ").arg(event)),
        None => select,
    };
    select.and_all(series.conditions.iter().cloned())
}

fn instants(millis: &[i64]) -> Sql {
    Sql::new("CAST(").arg(millis).push(", 'Array(Int64)')")
}

/// Columns over the rows of a statement that has a bucket.
fn over(rows: &Sql, columns: &Sql, tail: &Sql) -> Sql {
    Sql::new("SELECT bucket, ").append(columns).push(" FROM (").append(rows).push(") ").append(tail)
}

//! The one place that names the table of events: every statement of this room begins here, with the project and the
//! environment already in it, so that no question can forget them (a test reads the sources and makes sure).

use super::actor::Actors;
use super::range::Range;
use crate::event::{Scope, Timestamp};
use crate::store::Sql;

/// Which rows of the table are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum View {
    /// What the promise speaks of: one row an event, deleted ones gone.
    Deduplicated,
    /// Every row as it was inserted: other versions of the same event and tombstones too. Only to find out which
    /// events to look at, or to show an operator what there is.
    Versions,
}

impl View {
    /// A row's time in milliseconds, for conditions.
    ///
    /// Versions of one event may differ in their time of day, never in their day. A condition on the time itself would
    /// let the server leave out a whole part of the table that holds the version that counts, before deduplication,
    /// and an older version would count instead. So deduplicated rows are compared in a form that the server cannot
    /// hold against a part's smallest and greatest time; whole days choose what is read.
    pub(super) fn time(self) -> Sql {
        match self {
            Self::Deduplicated => Sql::new("bitOr(toUnixTimestamp64Milli(timestamp), 0)"),
            Self::Versions => Sql::new("toUnixTimestamp64Milli(timestamp)"),
        }
    }
}

/// A `SELECT` over one scope's rows.
#[derive(Clone, Debug)]
#[must_use]
pub(super) struct Select {
    columns: Sql,
    scope: Scope,
    view: View,
    /// Days since 1970 (UTC) that the keys let through.
    days: (u16, u16),
    actors: Option<Actors>,
    keys: Vec<Sql>,
    conditions: Vec<Sql>,
    tail: Sql,
}

/// The scope's events: columns, view, and nothing else yet.
pub(super) fn events(scope: &Scope, view: View, columns: &Sql) -> Select {
    let of_scope = [
        Sql::new("project_id = ").arg(scope.project.as_str()),
        Sql::new("environment_id = ").arg(scope.environment.as_str()),
    ];
    Select {
        columns: columns.clone(),
        scope: scope.clone(),
        view,
        days: (0, u16::MAX),
        actors: None,
        keys: of_scope.into(),
        conditions: Vec::new(),
        tail: Sql::default(),
    }
}

impl Select {
    /// Joins what the statement names of the acting people: [`Actors::id`], [`Actors::property`].
    pub(super) fn actors(mut self, actors: &Actors) -> Self {
        self.actors = Some(actors.clone());
        self
    }

    /// Only rows for which this holds.
    pub(super) fn and(mut self, condition: Sql) -> Self {
        self.conditions.push(condition);
        self
    }

    /// Only rows for which all of these hold.
    pub(super) fn and_all(mut self, conditions: impl IntoIterator<Item = Sql>) -> Self {
        self.conditions.extend(conditions);
        self
    }

    /// Only rows whose key is so. Read first: what does not meet it is neither read further nor compared with other
    /// versions (a trend of one name takes between a third and two thirds as long). Versions of an event share their
    /// key, so this is safe before they are deduplicated, as no other condition is.
    pub(super) fn key(mut self, condition: Sql) -> Self {
        self.keys.push(condition);
        self
    }

    /// As [`Select::key`], of all of these.
    pub(super) fn keys(mut self, conditions: &[Sql]) -> Self {
        self.keys.extend(conditions.iter().cloned());
        self
    }

    /// Only rows for which this holds, which narrows much and is quickly read: where every version is shown it is read
    /// first, as a key is.
    pub(super) fn narrow(self, condition: Sql) -> Self {
        match self.view {
            View::Versions => self.key(condition),
            View::Deduplicated => self.and(condition),
        }
    }

    /// Only rows of this range.
    pub(super) fn within(mut self, range: Range) -> Self {
        let at = self.view.time();
        self.days = (day_number(range.from).max(self.days.0), day_number(range.last()).min(self.days.1));
        self.key(Sql::new("toDate(timestamp) >= ").arg(day(range.from)))
            .key(Sql::new("toDate(timestamp) <= ").arg(day(range.last())))
            .narrow(Sql::new("").append(&at).push(" >= ").arg(range.from.as_millis()))
            .narrow(at.push(" < ").arg(range.end.as_millis()))
    }

    /// Only rows before this moment.
    pub(super) fn until(mut self, end: Timestamp) -> Self {
        let (at, last) = (self.view.time(), Timestamp::from_millis(end.as_millis() - 1));
        self.days.1 = day_number(last).min(self.days.1);
        self.key(Sql::new("toDate(timestamp) <= ").arg(day(last))).and(at.push(" < ").arg(end.as_millis()))
    }

    /// What stands after the conditions: `GROUP BY`, `ORDER BY`, `LIMIT`.
    pub(super) fn then(mut self, tail: Sql) -> Self {
        self.tail = tail;
        self
    }

    /// The statement.
    pub(super) fn sql(&self) -> Sql {
        let mut rest = Sql::default();
        if !self.conditions.is_empty() {
            rest = rest.push(" WHERE ").join(" AND ", &self.conditions);
        }
        if !self.tail.is_empty() {
            rest = rest.push(" ").append(&self.tail);
        }
        let head = Sql::new("SELECT ").append(&self.columns);
        let joins = self.actors.as_ref().map_or_else(Sql::default, |actors| {
            actors.joins(&Sql::default().append(&head).join(" ", &self.keys).append(&rest))
        });
        let sql = match self.view {
            View::Deduplicated => {
                head.deduplicated("events", (&self.scope, self.days.0..=self.days.1), &joins, &self.keys)
            }
            View::Versions => {
                head.push(" FROM events").append(&joins).push(" PREWHERE ").join(" AND ", &self.keys)
            }
        };
        sql.append(&rest)
    }
}

/// Are the events read once, so that no other events than those of its own range count in it?
pub(super) fn reads_events_once(sql: &Sql) -> bool {
    sql.text().matches("FROM events").count() == 1
}

/// The date in UTC, within what the server's `Date` can hold (1970-01-01 to 2149-06-06).
pub(super) fn day(at: Timestamp) -> String {
    let days = i64::from(day_number(at));
    Timestamp::from_millis(days * 86_400_000).to_utc().format("%Y-%m-%d").to_string()
}

/// The same as days since 1970.
fn day_number(at: Timestamp) -> u16 {
    let days = at.as_millis().div_euclid(86_400_000).clamp(0, i64::from(u16::MAX));
    u16::try_from(days).unwrap_or(u16::MAX)
}

/// A time of an event as text (`2026-01-31T12:00:00.000Z`), for conditions; in a form that the server cannot hold
/// against a part's smallest and greatest, as [`View::time`].
pub(super) fn written_time(column: &'static str) -> Sql {
    Sql::new("concat(replaceOne(toString(fromUnixTimestamp64Milli(bitOr(toUnixTimestamp64Milli(")
        .push(column)
        .push("), 0), 'UTC')), ' ', 'T'), 'Z')")
}

//! Which events and which properties there are: names with volume and when they were last seen, in a range of days.

use serde::Serialize;

use super::groups::list::{self, KnownType};
use super::interval::{Calendar, Interval, WeekStart};
use super::range::{self, Moment, Range};
use super::statement::{self, View};
use super::{Meta, Query, events};
use crate::config;
use crate::event::{Scope, Timestamp};
use crate::http::{Problem, strict};
use crate::store::Sql;

/// A question for names, as it is sent in the query string.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Names {
    /// 30 days ago when absent.
    pub date_from: Option<String>,
    pub date_to: Option<String>,
    /// Names of each kind; 100 when absent, at most `query.page_rows_max`.
    pub limit: Option<usize>,
}

const NAMES: [&str; 3] = ["date_from", "date_to", "limit"];
const DAYS: i64 = 30;
const LIMIT: usize = 100;

/// Reading every event's properties takes seconds for every ten million of them. In a range of more events than this,
/// properties are looked for in one event of every `n`, so that about this many are read.
pub(super) const EVENTS_READ_MAX: u64 = 1_000_000;

/// The answer.
#[derive(Debug, Serialize)]
pub struct Known {
    /// Most frequent first.
    pub events: Vec<Seen>,
    /// Most frequent first; keys of the top level.
    pub properties: Vec<Seen>,
    /// The types of groups that `$groupidentify` named, in the order of their numbers.
    pub groups: Vec<KnownType>,
    pub meta: NamesMeta,
}

/// A name that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    pub name: String,
    /// Events in the range that have it.
    pub volume: u64,
    pub last_seen: Timestamp,
}

/// What the answer says about itself.
#[derive(Debug, Serialize)]
pub struct NamesMeta {
    #[serde(flatten)]
    pub meta: Meta,
    pub date_from: Timestamp,
    pub date_to: Timestamp,
    /// Events in the range.
    pub events_total: u64,
    /// Are the volumes of properties estimates from one event in `properties_sample`? Those of events are exact.
    pub approximate: bool,
    pub properties_sample: u64,
    /// There are more names than `limit`.
    pub truncated: bool,
}

impl Names {
    /// Reads a query string.
    ///
    /// # Errors
    /// 400 that names the parameter, and the nearest right one if it is unknown.
    pub(super) fn parse(query: &str) -> Result<Self, Problem> {
        let pairs: Vec<(String, String)> = strict::query_string(query)?;
        let mut names = Self::default();
        for (name, value) in pairs {
            match name.as_str() {
                "date_from" => names.date_from = Some(value),
                "date_to" => names.date_to = Some(value),
                "limit" => names.limit = Some(events::number("limit", &value)?),
                // The key's environment was held against it already.
                "environment_id" => {}
                _ => return Err(events::unknown(&name, &NAMES)),
            }
        }
        Ok(names)
    }

    fn plan(&self, limits: &config::Query, now: Timestamp) -> Result<(Range, usize), Problem> {
        let limit = events::page_limit(self.limit, LIMIT, limits)?;
        Ok((recent(self.date_from.as_deref(), self.date_to.as_deref(), now)?, limit))
    }
}

/// A range of days in UTC: the last 30 and what is dated ahead, unless said.
///
/// # Errors
/// 400: it cannot be read, or is backwards.
pub(super) fn recent(
    date_from: Option<&str>,
    date_to: Option<&str>,
    now: Timestamp,
) -> Result<Range, Problem> {
    let utc = Calendar { zone: chrono_tz::UTC, week_start: WeekStart::default() };
    let from = match date_from {
        None => utc.start_of_day(utc.date(now) - chrono::TimeDelta::days(DAYS)),
        Some(text) => match range::parse("date_from", text, &utc, now)? {
            Moment::Day(date) => utc.start_of_day(date),
            Moment::Exact(at) | Moment::Relative(at) => at,
        },
    };
    let end = match date_to {
        // Events may be dated ahead of the clock.
        None => utc.next(Interval::Day, utc.next(Interval::Day, now)),
        Some(text) => match range::parse("date_to", text, &utc, now)? {
            Moment::Day(date) => utc.next(Interval::Day, utc.start_of_day(date)),
            Moment::Exact(at) | Moment::Relative(at) => Timestamp::from_millis(at.as_millis() + 1),
        },
    };
    let range = Range { from, end };
    if from >= end {
        return Err(range::backwards(from, range.last()));
    }
    Ok(range)
}

#[cfg(test)]
impl Names {
    /// Every statement of the question, that of properties with a sample.
    pub(super) fn statements(
        &self,
        scope: &Scope,
        limits: &config::Query,
        now: Timestamp,
    ) -> Result<Vec<Sql>, Problem> {
        let (range, limit) = self.plan(limits, now)?;
        Ok(vec![event_names(scope, range, limit), property_keys(scope, range, limit, 7)])
    }
}

/// The names there are.
///
/// # Errors
/// 400 for what cannot be meant, 503 for what the store does not answer.
pub(super) async fn names(query: &Query, scope: &Scope, names: &Names) -> Result<Known, Problem> {
    let (range, limit) = names.plan(&query.limits, query.clock.now())?;
    let asked = query.begin().await?;
    let rows: Vec<(String, u64, Timestamp, u64)> = query.select(event_names(scope, range, limit)).await?;
    let events_total = rows.first().map_or(0, |row| row.3);
    let sample = events_total.div_ceil(EVENTS_READ_MAX).max(1);
    let mut events: Vec<Seen> =
        rows.into_iter().map(|(name, volume, last_seen, _)| Seen { name, volume, last_seen }).collect();
    let rows: Vec<(String, u64, Timestamp)> =
        query.select(property_keys(scope, range, limit, sample)).await?;
    let mut properties: Vec<Seen> = rows
        .into_iter()
        .map(|(name, volume, last_seen)| Seen { name, volume: volume.saturating_mul(sample), last_seen })
        .collect();
    let groups = list::types(query, scope).await?;
    let truncated = events.len() > limit || properties.len() > limit;
    events.truncate(limit);
    properties.truncate(limit);
    let meta = NamesMeta {
        meta: asked.meta(),
        date_from: range.from,
        date_to: range.last(),
        events_total,
        approximate: sample > 1,
        properties_sample: sample,
        truncated,
    };
    Ok(Known { events, properties, groups, meta })
}

/// Rows of (name, volume, last seen, events in all); one more than the limit, to tell whether there are others.
fn event_names(scope: &Scope, range: Range, limit: usize) -> Sql {
    let columns = Sql::new(
        "toString(event_name) AS name, count() AS volume, max(timestamp) AS last_seen, sum(volume) OVER () AS total",
    );
    let tail = Sql::new("GROUP BY name ORDER BY volume DESC, name LIMIT ").arg(limit + 1);
    statement::events(scope, View::Deduplicated, &columns).within(range).then(tail).sql()
}

/// Rows of (key, volume in the sample, last seen).
fn property_keys(scope: &Scope, range: Range, limit: usize, sample: u64) -> Sql {
    let columns = Sql::new(
        "arrayJoin(arrayDistinct(JSONExtractKeys(properties))) AS name, count() AS volume, \
         max(timestamp) AS last_seen",
    );
    let tail = Sql::new("GROUP BY name ORDER BY volume DESC, name LIMIT ").arg(limit + 1);
    let select = statement::events(scope, View::Deduplicated, &columns).within(range);
    let select = if sample > 1 {
        select.and(Sql::new("cityHash64(event_id) % ").arg(sample).push(" = 0"))
    } else {
        select
    };
    select.then(tail).sql()
}

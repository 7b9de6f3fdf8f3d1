//! Which values a property has: the most frequent, to be suggested to whoever writes a filter.

use serde::Serialize;

use super::filter::{self, Ground, PropertyKind};
use super::groups::Meant;
use super::interval::{Calendar, WeekStart};
use super::names::{self, EVENTS_READ_MAX, Seen};
use super::range::Range;
use super::statement::{self, View};
use super::{Meta, Query, events};
use crate::event::{Scope, Timestamp};
use crate::http::{Problem, strict};
use crate::store::Sql;

/// A question for values, as it is sent in the query string.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values {
    pub property: String,
    /// Whose property; the event's when absent.
    pub kind: PropertyKind,
    /// Of type `group`: the number of the groups' type …
    pub group_type_index: Option<u8>,
    /// … or its name.
    pub group_type: Option<String>,
    /// Only of events of this name.
    pub event: Option<String>,
    /// Only values with this text in them, in any case.
    pub search: Option<String>,
    /// 30 days ago when absent.
    pub date_from: Option<String>,
    pub date_to: Option<String>,
    /// Values; 50 when absent, at most `query.page_rows_max`.
    pub limit: Option<usize>,
}

const NAMES: [&str; 9] = [
    "property",
    "type",
    "group_type_index",
    "group_type",
    "event",
    "search",
    "date_from",
    "date_to",
    "limit",
];
const KINDS: [&str; 6] = ["event", "person", "event_metadata", "feature", "group", "expression"];
const LIMIT: usize = 50;
/// Longer values are nothing to choose from a list, in bytes.
const VALUE_BYTES_MAX: u64 = 400;
/// Longest text that is searched for, in bytes.
const SEARCH_BYTES_MAX: usize = 400;

/// The answer.
#[derive(Debug, Serialize)]
pub struct Known {
    /// Most frequent first.
    pub values: Vec<Seen>,
    pub meta: ValuesMeta,
}

/// What the answer says about itself.
#[derive(Debug, Serialize)]
pub struct ValuesMeta {
    #[serde(flatten)]
    pub meta: Meta,
    pub date_from: Timestamp,
    pub date_to: Timestamp,
    /// Are the volumes estimates from one event in `sample`?
    pub approximate: bool,
    pub sample: u64,
    /// There are more values than `limit`.
    pub truncated: bool,
}

impl Values {
    /// Reads a query string.
    ///
    /// # Errors
    /// 400 that names the parameter, and the nearest right one if it is unknown.
    pub(super) fn parse(query: &str) -> Result<Self, Problem> {
        let pairs: Vec<(String, String)> = strict::query_string(query)?;
        let mut values = Self::default();
        for (name, value) in pairs {
            match name.as_str() {
                "property" => values.property = value,
                "type" => values.kind = kind(&value)?,
                "group_type_index" => {
                    // What is too large is refused by its number.
                    let number = events::number("group_type_index", &value)?;
                    values.group_type_index = Some(u8::try_from(number).unwrap_or(u8::MAX));
                }
                "group_type" => values.group_type = Some(value),
                "event" => values.event = Some(value),
                "search" => values.search = Some(value).filter(|text| !text.is_empty()),
                "date_from" => values.date_from = Some(value),
                "date_to" => values.date_to = Some(value),
                "limit" => values.limit = Some(events::number("limit", &value)?),
                // The key's environment was held against it already.
                "environment_id" => {}
                _ => return Err(events::unknown(&name, &NAMES)),
            }
        }
        if values.search.as_ref().is_some_and(|text| text.len() > SEARCH_BYTES_MAX) {
            let message = format!("search may have {SEARCH_BYTES_MAX} bytes");
            return Err(Problem::invalid("search", message).with("max", SEARCH_BYTES_MAX));
        }
        Ok(values)
    }

    /// Rows of one number: how many events there are to look at.
    fn count(&self, scope: &Scope, range: Range) -> Sql {
        let select = statement::events(scope, View::Versions, &Sql::new("count() AS events")).within(range);
        self.of_event(select).sql()
    }

    /// Rows of (value, volume in the sample, last seen); one more than the limit.
    fn select(
        &self,
        scope: &Scope,
        (range, sample): (Range, u64),
        limit: usize,
        ground: &Ground<'_>,
    ) -> Result<Sql, Problem> {
        let group = Meant { index: self.group_type_index, name: self.group_type.as_deref() };
        let property = filter::property_of(self.kind, &self.property, group, "property", ground)?;
        let value = Sql::new("ifNull(").append(&property.text()).push(", '')");
        let columns =
            Sql::new("").append(&value).push(" AS value, count() AS volume, max(timestamp) AS last_seen");
        let select =
            statement::events(scope, View::Deduplicated, &columns).actors(ground.actors).within(range);
        let mut select = self
            .of_event(select)
            .and(Sql::new("").append(&value).push(" != ''"))
            .and(Sql::new("length(").append(&value).push(") <= ").arg(VALUE_BYTES_MAX));
        if let Some(search) = &self.search {
            let found = Sql::new("positionCaseInsensitiveUTF8(").append(&value).push(", ").arg(search);
            select = select.and(found.push(") > 0"));
        }
        if sample > 1 {
            select = select.and(Sql::new("cityHash64(event_id) % ").arg(sample).push(" = 0"));
        }
        let tail = Sql::new("GROUP BY value ORDER BY volume DESC, value LIMIT ").arg(limit + 1);
        Ok(select.then(tail).sql())
    }

    fn of_event(&self, select: statement::Select) -> statement::Select {
        match &self.event {
            Some(event) => select.key(Sql::new("event_name = ").arg(event)),
            None => select,
        }
    }
}

fn kind(given: &str) -> Result<PropertyKind, Problem> {
    serde_json::from_value(given.into()).map_err(|_| {
        let message = format!("type is {given:?}, but must be one of {}", KINDS.join(", "));
        Problem::invalid("type", message).with("given", given).with("valid", KINDS.to_vec())
    })
}

/// The values there are.
///
/// # Errors
/// 400 for what cannot be meant, 503 for what the store does not answer.
pub(super) async fn values(query: &Query, scope: &Scope, values: &Values) -> Result<Known, Problem> {
    let now = query.clock.now();
    let limit = events::page_limit(values.limit, LIMIT, &query.limits)?;
    let range = names::recent(values.date_from.as_deref(), values.date_to.as_deref(), now)?;
    let actors = query.actors(scope).await?;
    let calendar = Calendar { zone: chrono_tz::UTC, week_start: WeekStart::default() };
    let ground = Ground { calendar: &calendar, now, limits: &query.limits, actors: &actors };
    // What cannot be meant is refused before it waits for a turn.
    let _ = values.select(scope, (range, 1), limit, &ground)?;
    let asked = query.begin().await?;
    let counted: Vec<(u64,)> = query.select(values.count(scope, range)).await?;
    let sample = counted.first().map_or(0, |(events,)| *events).div_ceil(EVENTS_READ_MAX).max(1);
    let rows: Vec<(String, u64, Timestamp)> =
        query.select(values.select(scope, (range, sample), limit, &ground)?).await?;
    let seen = |(name, volume, last_seen): (String, u64, Timestamp)| Seen {
        name,
        volume: volume.saturating_mul(sample),
        last_seen,
    };
    let truncated = rows.len() > limit;
    let known = rows.into_iter().take(limit).map(seen).collect();
    let meta = ValuesMeta {
        meta: asked.meta(),
        date_from: range.from,
        date_to: range.last(),
        approximate: sample > 1,
        sample,
        truncated,
    };
    Ok(Known { values: known, meta })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::actor::Actors;
    use crate::query::tests::{at, limits, scope};

    #[test]
    fn values_are_read_in_their_scope_within_bounds() {
        let (limits, now) = (limits(), at("2026-03-10T12:00:00Z"));
        let calendar = Calendar { zone: chrono_tz::UTC, week_start: WeekStart::default() };
        let range = names::recent(None, None, now).unwrap();
        let statement = |query: &str, sample: u64| {
            let actors = Actors::new(&scope(), false);
            let ground = Ground { calendar: &calendar, now, limits: &limits, actors: &actors };
            let values = Values::parse(query).unwrap();
            let select = values.select(&scope(), (range, sample), 5, &ground).unwrap();
            format!("{}\n{}", values.count(&scope(), range).text(), select.text())
        };
        let sql = statement("property=plan&event=it%27s&search=%25a", 1);
        let scoped = "project_id = 'proj' AND environment_id = 'env'";
        assert_eq!(sql.matches(scoped).count(), 2, "{sql}");
        assert_eq!(sql.matches(" AND event_name = 'it\\'s'").count(), 2, "{sql}");
        assert!(sql.contains("positionCaseInsensitiveUTF8(") && sql.contains(", '%a') > 0"), "{sql}");
        assert!(sql.ends_with("GROUP BY value ORDER BY volume DESC, value LIMIT 6"), "{sql}");
        let of_group = statement("property=plan&type=group&group_type=company", 1);
        assert!(of_group.contains("group_properties"), "{of_group}");
        let sampled = statement("property=email&type=person", 7);
        assert!(sampled.contains("cityHash64(event_id) % 7 = 0"), "{sampled}");
        assert!(sampled.contains("person_properties"), "{sampled}");
        insta::assert_snapshot!("values", format!("{sql}\n{sampled}"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (query, field) in [
            ("property=a&type=cohort", "type"),
            ("property=a&evnt=b", "evnt"),
            ("property=a&limit=x", "limit"),
            ("property=a&group_type_index=-1", "group_type_index"),
        ] {
            assert_eq!(Values::parse(query).unwrap_err().details["field"], field, "{query}");
        }
        let long = format!("property=a&search={}", "x".repeat(401));
        assert_eq!(Values::parse(&long).unwrap_err().details["field"], "search");
    }
}

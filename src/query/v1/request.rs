//! What a list is asked for: the query string of `GET /v1/events`, the body of `POST /v1/events/query`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::events::unknown;
use super::super::filter;
use super::super::range::Range;
use super::{Key, past};
use crate::config;
use crate::event::Timestamp;
use crate::http::{Problem, strict};
use crate::store::{Property, Sql};

/// Events in a page, unless the request says otherwise.
pub(super) const PAGE: usize = 50;
/// Most in a page of `GET /v1/events`, which takes a larger wish for this (its clients know it so).
pub(super) const PAGE_GET_MAX: usize = 50;
/// How far back a list without a beginning reaches.
const BACK: Duration = Duration::from_secs(7 * 86_400);
/// Most values of one property filter.
const VALUES_MAX: usize = 1000;

/// What the list is ordered by; ties go by time, then id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    #[default]
    Timestamp,
    EventName,
}

/// Which end comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Asc,
    #[default]
    Desc,
}

/// A list, as it is sent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    pub external_customer_id: Option<String>,
    #[serde(alias = "event_type")]
    pub event_name: Option<String>,
    pub event_id: Option<String>,
    /// RFC 3339, inclusive; seven days before the end when absent.
    pub start_time: Option<String>,
    /// RFC 3339, inclusive; now when absent.
    pub end_time: Option<String>,
    pub source: Option<String>,
    /// Each key's value must be one of these texts.
    pub property_filters: Option<BTreeMap<String, Vec<String>>>,
    #[serde(alias = "limit")]
    pub page_size: Option<i64>,
    pub offset: Option<i64>,
    pub iter_first_key: Option<String>,
    pub iter_last_key: Option<String>,
    pub sort: Option<Sort>,
    pub order: Option<Order>,
    #[serde(default)]
    pub count_total: bool,
    pub environment_id: Option<String>,
}

const NAMES: [&str; 17] = [
    "external_customer_id",
    "event_name",
    "event_type",
    "event_id",
    "start_time",
    "end_time",
    "source",
    "property_filters",
    "page_size",
    "limit",
    "offset",
    "iter_first_key",
    "iter_last_key",
    "sort",
    "order",
    "count_total",
    "environment_id",
];

/// A list that will do.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub range: Range,
    /// What is asked of a row's key.
    pub keys: Vec<Sql>,
    /// Of everything else.
    pub conditions: Vec<Sql>,
    /// Is it about one customer, who has few events beside all the others?
    pub of_customer: bool,
    pub page_size: usize,
    pub by_offset: bool,
    pub offset: usize,
    /// The page begins right after this place.
    pub after: Option<Key>,
    /// The page ends right before this place.
    pub before: Option<Key>,
    pub sort: Sort,
    pub order: Order,
    pub count_total: bool,
}

/// A parameter, unless it is empty.
fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

impl List {
    /// Reads a query string; empty parameters count as absent, as its clients send them.
    ///
    /// # Errors
    /// 400 that names the parameter.
    pub(super) fn parse(query: &str) -> Result<Self, Problem> {
        let pairs: Vec<(String, String)> = strict::query_string(query)?;
        let mut list = Self::default();
        let mut given = Vec::new();
        for (name, value) in pairs {
            if !NAMES.contains(&name.as_str()) {
                return Err(unknown(&name, &NAMES));
            }
            if given.contains(&name) {
                return Err(Problem::invalid(&name, format!("{name} is given more than once")));
            }
            if !value.is_empty() {
                list.take(&name, &value)?;
            }
            given.push(name);
        }
        // What its clients have always got: a wish beyond the bounds is taken for the nearest bound.
        let most = i64::try_from(PAGE_GET_MAX).unwrap_or(i64::MAX);
        list.page_size = Some(list.page_size.unwrap_or(most).clamp(1, most));
        Ok(list)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), Problem> {
        let text = || Some(value.to_owned());
        match name {
            "external_customer_id" => self.external_customer_id = text(),
            "event_name" | "event_type" => self.event_name = text(),
            "event_id" => self.event_id = text(),
            "start_time" => self.start_time = text(),
            "end_time" => self.end_time = text(),
            "source" => self.source = text(),
            "property_filters" => self.property_filters = Some(property_filters(value)?),
            "page_size" | "limit" => self.page_size = Some(number(name, value)?),
            "offset" => self.offset = Some(number(name, value)?),
            "iter_first_key" => self.iter_first_key = text(),
            "iter_last_key" => self.iter_last_key = text(),
            "sort" => self.sort = Some(one_of("sort", value, &["timestamp", "event_name"])?),
            "order" => self.order = Some(one_of("order", value, &["asc", "desc"])?),
            "count_total" => self.count_total = one_of("count_total", value, &["true", "false"])?,
            "environment_id" => self.environment_id = text(),
            // Every name that passed is above.
            other => return Err(unknown(other, &NAMES)),
        }
        Ok(())
    }

    /// Checks it.
    ///
    /// # Errors
    /// 400 that names the field.
    pub(super) fn plan(&self, limits: &config::Query, now: Timestamp) -> Result<Plan, Problem> {
        let sort = self.sort.unwrap_or_default();
        let key_of = |text: &Option<String>| given(text).map(str::to_owned);
        let (first, last) = (key_of(&self.iter_first_key), key_of(&self.iter_last_key));
        if first.is_some() && last.is_some() {
            let message = "iter_first_key and iter_last_key exclude each other: give one";
            return Err(Problem::invalid("iter_first_key", message));
        }
        let key = |field: &str, text: Option<String>| {
            text.map(|text| Key::parse(field, &text, sort == Sort::EventName)).transpose()
        };
        let (before, after) = (key("iter_first_key", first)?, key("iter_last_key", last)?);
        let by_offset = before.is_none() && after.is_none();
        let offset = usize::try_from(self.offset.unwrap_or(0)).map_err(|_| {
            out_of_bounds("offset", self.offset, 0, limits.list_offset_max, "query.list_offset_max")
        })?;
        if offset > limits.list_offset_max {
            return Err(out_of_bounds(
                "offset",
                self.offset,
                0,
                limits.list_offset_max,
                "query.list_offset_max",
            ));
        }
        Ok(Plan {
            range: self.range(now)?,
            keys: self.keys(),
            conditions: self.conditions(limits)?,
            of_customer: given(&self.external_customer_id).is_some(),
            page_size: self.page_size(limits)?,
            by_offset,
            offset: if by_offset { offset } else { 0 },
            after,
            before,
            sort,
            order: self.order.unwrap_or_default(),
            count_total: self.count_total,
        })
    }

    fn page_size(&self, limits: &config::Query) -> Result<usize, Problem> {
        let most = limits.page_rows_max;
        let Some(asked) = self.page_size else { return Ok(PAGE.min(most)) };
        usize::try_from(asked)
            .ok()
            .filter(|size| (1..=most).contains(size))
            .ok_or_else(|| out_of_bounds("page_size", self.page_size, 1, most, "query.page_rows_max"))
    }

    fn range(&self, now: Timestamp) -> Result<Range, Problem> {
        let end = time("end_time", self.end_time.as_deref())?.unwrap_or(now);
        let start = time("start_time", self.start_time.as_deref())?.unwrap_or_else(|| end.minus(BACK));
        if end < start {
            let message = format!("end_time is {end}, before start_time, which is {start}");
            return Err(Problem::invalid("end_time", message).with("given", end.to_string()));
        }
        Ok(Range { from: start.max(Timestamp::EPOCH), end: past(end) })
    }

    fn keys(&self) -> Vec<Sql> {
        // The hash stands in the table's key, the id itself does not.
        let customer = given(&self.external_customer_id)
            .map(|customer| Sql::new("cityHash64(distinct_id) = cityHash64(").arg(customer).push(")"));
        let columns = [("event_name = ", &self.event_name), ("event_id = ", &self.event_id)];
        let named = columns.into_iter().filter_map(|(column, text)| Some(Sql::new(column).arg(given(text)?)));
        customer.into_iter().chain(named).collect()
    }

    fn conditions(&self, limits: &config::Query) -> Result<Vec<Sql>, Problem> {
        let mut conditions = Vec::new();
        for (column, value) in
            [("distinct_id = ", given(&self.external_customer_id)), ("source = ", given(&self.source))]
        {
            conditions.extend(value.map(|value| Sql::new(column).arg(value)));
        }
        let Some(filters) = &self.property_filters else { return Ok(conditions) };
        if filters.len() > limits.filters_max {
            let most = limits.filters_max;
            let message =
                format!("property_filters has {} keys, more than {most} (query.filters_max)", filters.len());
            return Err(Problem::invalid("property_filters", message).with("max", most));
        }
        for (key, values) in filters {
            let field = format!("property_filters.{key}");
            filter::check_key(&field, key)?;
            if values.is_empty() || values.len() > VALUES_MAX {
                let message = format!("{field} must have 1 to {VALUES_MAX} values, given {}", values.len());
                return Err(Problem::invalid(&field, message).with("max", VALUES_MAX));
            }
            let text = Property::new(key).text();
            conditions.push(Sql::new("ifNull(").append(&text).push(" IN ").list(values).push(", false)"));
        }
        Ok(conditions)
    }
}

/// A time of field `field`; empty counts as absent.
///
/// # Errors
/// 400 that shows the form.
pub(super) fn time(field: &str, given: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = given.filter(|text| !text.is_empty()) else { return Ok(None) };
    let at = Timestamp::parse(text).ok().filter(|at| (Timestamp::EPOCH..=Timestamp::MAX).contains(at));
    at.map(Some).ok_or_else(|| {
        let message = format!(
            "{field} is {text:?}; expected an RFC 3339 time such as 2026-01-31T12:00:00Z, from 1970 on"
        );
        Problem::invalid(field, message).with("given", text)
    })
}

/// `k1:v1,v2;k2:v3`.
fn property_filters(text: &str) -> Result<BTreeMap<String, Vec<String>>, Problem> {
    let mut filters: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for part in text.split(';').filter(|part| !part.is_empty()) {
        let pair = part.split_once(':').filter(|(key, values)| !key.is_empty() && !values.is_empty());
        let Some((key, values)) = pair else {
            let message = format!(
                "property_filters is {text:?}; expected key:value,value;key:value (a value with , or ; needs \
                 POST /v1/events/query)"
            );
            return Err(Problem::invalid("property_filters", message).with("given", text));
        };
        filters.entry(key.to_owned()).or_default().extend(values.split(',').map(str::to_owned));
    }
    Ok(filters)
}

fn number(name: &str, value: &str) -> Result<i64, Problem> {
    value.parse().map_err(|_| {
        Problem::invalid(name, format!("{name} is {value:?}; expected a whole number")).with("given", value)
    })
}

fn one_of<T: serde::de::DeserializeOwned>(
    name: &str,
    value: &str,
    valid: &[&'static str],
) -> Result<T, Problem> {
    let json = match value {
        "true" | "false" => value.to_owned(),
        text => serde_json::Value::from(text).to_string(),
    };
    serde_json::from_str(&json).map_err(|_| {
        let message = format!("{name} is {value:?}, but must be one of {}", valid.join(", "));
        Problem::invalid(name, message).with("given", value).with("valid", valid)
    })
}

fn out_of_bounds(field: &str, given: Option<i64>, min: usize, max: usize, setting: &str) -> Problem {
    let given = given.unwrap_or_default();
    let message = format!("{field} is {given}; it may be {min} to {max} ({setting})");
    Problem::invalid(field, message).with("given", given).with("max", max).with("setting", setting)
}

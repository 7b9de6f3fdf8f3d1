//! Filters: typed, checked, then conditions of a statement.
//!
//! A filter compares one value with what the question gives; groups (`{"type":"AND","values":[…]}`, `"OR"`) nest to
//! `query.filter_depth_max` levels. `type` says whose value it is:
//!
//! | type | `key` |
//! |---|---|
//! | `event` | a property of the event; `$session_id` is the event's session however it was sent |
//! | `person` | a property that the acting person has now |
//! | `session` | of the event's session: `$session_duration` (seconds), `$is_bounce`, `$entry_current_url`, …, see [`session`] |
//! | `event_metadata` | `event`, `distinct_id`, `event_id`, `session_id`, `source`, `customer_id`, `person_id`, `timestamp`, `received_at` |
//! | `cohort` | `id` (or left out): `value` is the id of a cohort, or several; `all` is everybody |
//! | `feature` | a feature flag: the event's property `$feature/<key>` |
//! | `group` | with `group_type_index` or `group_type` a property that the event's group of this type has now, or `$group_key`; without, `key` names the type, and the group's key is compared |
//! | `element` | of what was clicked (`$autocapture`): `tag_name`, `text`, `href`, `selector`, see [`elements`] |
//! | `expression` | `key` is a condition of the caller's own, see [`expression`] |
//!
//! A value that is not there, and one that is `null`, are both *missing*: `is_not`, `not_in`, `not_icontains`,
//! `not_regex` and `semver_neq` are true for a missing value, everything else but `is_not_set` is false. Text and
//! numbers meet by how they are written: `exact` 10 finds `10`, `10.0` and `"10"`; `exact` "true" finds `true`. A
//! filter with an operator that needs a value but without one is incomplete and true for every event.

mod compare;
mod elements;
mod selector;
mod semver;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::actor::Actors;
use super::chosen::People;
use super::cohorts;
use super::groups::Meant;
use super::interval::Calendar;
use super::{expression, groups, session, statement};
use crate::config;
use crate::event::Timestamp;
use crate::http::{Problem, strict};
use crate::store::{Property, Sql};

/// One condition, or a group of them, as it is sent.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Whose value it is; `AND` and `OR`: a group.
    #[serde(rename = "type", default)]
    pub kind: FilterKind,
    /// The value's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(default)]
    pub operator: Operator,
    /// Text, number or boolean; where any of several may match also a list of them.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub value: Value,
    /// Of type `group`: the number of the groups' type …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_type_index: Option<u8>,
    /// … or its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_type: Option<String>,
    /// The members of a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<Self>>,
}

/// Whose value a filter compares, or how a group joins its members.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilterKind {
    #[default]
    Event,
    Person,
    Session,
    EventMetadata,
    Feature,
    Group,
    Element,
    Cohort,
    #[serde(alias = "hogql")]
    Expression,
    #[serde(rename = "AND", alias = "and")]
    And,
    #[serde(rename = "OR", alias = "or")]
    Or,
}

/// Whose property it is, where only one property can be meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PropertyKind {
    #[default]
    Event,
    Person,
    EventMetadata,
    Feature,
    Group,
    Session,
    #[serde(alias = "hogql")]
    Expression,
}

/// How a value is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    #[default]
    Exact,
    IsNot,
    In,
    NotIn,
    Icontains,
    NotIcontains,
    Regex,
    NotRegex,
    Gt,
    Gte,
    Lt,
    Lte,
    /// Both ends belong to it.
    Between,
    NotBetween,
    IsSet,
    IsNotSet,
    /// On that day or, for a time, at that moment; by the question's time zone, as the next two.
    IsDateExact,
    IsDateBefore,
    IsDateAfter,
    /// Without query, fragment and a last slash.
    IsCleanedPathExact,
    SemverEq,
    SemverNeq,
    SemverGt,
    SemverGte,
    SemverLt,
    SemverLte,
    /// `~1.2.3`: from there to below 1.3.
    SemverTilde,
    /// `^1.2.3`: from there to below 2.
    SemverCaret,
    /// `1.2.*`.
    SemverWildcard,
}

/// The filters of a question: a list, all of which must hold, or one group.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Filters(pub Vec<Filter>);

/// What filters are read against.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) calendar: &'a Calendar,
    pub(super) now: Timestamp,
    pub(super) limits: &'a config::Query,
    pub(super) actors: &'a Actors,
}

/// Longest name of a property that is looked up, in bytes.
const KEY_BYTES_MAX: usize = 400;

/// The conditions of all filters; `path` names their place in the request.
///
/// # Errors
/// 400: more than `query.filters_max`, nested deeper than `query.filter_depth_max`, or one that cannot be meant.
pub(super) fn conditions(filters: &[Filter], path: &str, ground: &Ground<'_>) -> Result<Vec<Sql>, Problem> {
    let max = ground.limits.filters_max;
    let count = count(filters);
    if count > max {
        let message = format!("{path} has {count} filters, more than {max} (query.filters_max)");
        return Err(Problem::invalid(path, message).with("max", max).with("setting", "query.filters_max"));
    }
    let each = filters
        .iter()
        .enumerate()
        .map(|(index, filter)| filter.condition(&format!("{path}[{index}]"), ground, 1));
    each.filter_map(Result::transpose).collect()
}

/// What holds for every event of a question: its own filters, the people it is about and, if the environment's own
/// people are left out of it, the filters of test accounts.
///
/// # Errors
/// 400: as [`conditions`], and nobody is named.
pub(super) fn shared(
    filters: &[Filter],
    people: Option<&People>,
    filter_test_accounts: bool,
    ground: &Ground<'_>,
) -> Result<Vec<Sql>, Problem> {
    let mut all = conditions(filters, "filters", ground)?;
    all.extend(people.map(|people| people.condition("filter", ground)).transpose()?);
    if filter_test_accounts {
        all.extend(conditions(ground.actors.test_accounts()?, "filter_test_accounts", ground)?);
    }
    Ok(all)
}

/// Refuses names of properties that no event can have.
///
/// # Errors
/// 400.
pub(super) fn check_key(field: &str, key: &str) -> Result<(), Problem> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        let message = format!("{field} must be a property's name of 1 to {KEY_BYTES_MAX} bytes");
        return Err(Problem::invalid(field, message).with("max", KEY_BYTES_MAX));
    }
    Ok(())
}

/// The property `key` of that kind, as expressions over rows of events. `field` is where the key stands.
///
/// # Errors
/// 400: no such property.
pub(super) fn property(
    kind: PropertyKind,
    key: &str,
    field: &str,
    ground: &Ground<'_>,
) -> Result<Property, Problem> {
    property_of(kind, key, Meant::default(), field, ground)
}

/// The same; of type `group` that of a group of the type that is meant.
///
/// # Errors
/// 400: no such property, or a type of groups where none can be meant.
pub(super) fn property_of(
    kind: PropertyKind,
    key: &str,
    group: Meant<'_>,
    field: &str,
    ground: &Ground<'_>,
) -> Result<Property, Problem> {
    if kind != PropertyKind::Group {
        group.none_meant(field)?;
    }
    if kind != PropertyKind::Expression {
        check_key(field, key)?;
    }
    match kind {
        PropertyKind::Expression => expression::property(key, field, ground),
        PropertyKind::Group => groups::property(key, group, field, ground.actors),
        PropertyKind::Session => session::property(key, field, ground),
        PropertyKind::Event if key == session::KEY => Ok(Property::of_text(&session::id())),
        PropertyKind::Event => Ok(ground.actors.event_property(key)),
        PropertyKind::Person => Ok(ground.actors.property(key)),
        PropertyKind::Feature => Ok(Property::new(&format!("$feature/{key}"))),
        PropertyKind::EventMetadata => metadata(key, field, ground.actors),
    }
}

/// Every filter, members of groups and groups included.
fn count(filters: &[Filter]) -> usize {
    filters.iter().map(|filter| 1 + filter.values.as_deref().map_or(0, count)).sum()
}

/// What the event is besides its properties.
fn metadata(key: &str, field: &str, actors: &Actors) -> Result<Property, Problem> {
    const KEYS: [&str; 9] = [
        "event",
        "distinct_id",
        "event_id",
        "session_id",
        "source",
        "customer_id",
        "person_id",
        "timestamp",
        "received_at",
    ];
    let text = match key {
        "event" => Sql::new("toString(event_name)"),
        "distinct_id" => Sql::new("distinct_id"),
        "event_id" => Sql::new("event_id"),
        "session_id" => session::id(),
        "source" => Sql::new("toString(source)"),
        "customer_id" => Sql::new("customer_id"),
        "person_id" => Sql::new("toString(").append(&actors.id()).push(")"),
        "timestamp" => statement::written_time("timestamp"),
        "received_at" => statement::written_time("received_at"),
        _ => return Err(unknown_key(key, field, &KEYS)),
    };
    Ok(Property::of_text(&text))
}

/// 400 for a key of a kind that has only these.
pub(super) fn unknown_key(key: &str, field: &str, valid: &[&'static str]) -> Problem {
    let near = strict::nearest(key, valid.iter().copied());
    let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    let shown: String = key.chars().take(100).collect();
    let message = format!("{field} is {shown:?}, but must be one of {}{hint}", valid.join(", "));
    Problem::invalid(field, message).with("given", shown).with("valid", valid)
}

impl Filter {
    /// The condition; none where every event passes.
    fn condition(&self, path: &str, ground: &Ground<'_>, depth: usize) -> Result<Option<Sql>, Problem> {
        if self.kind != FilterKind::Group {
            self.group_meant().none_meant(&format!("{path}.key"))?;
        }
        let kind = match self.kind {
            FilterKind::And => return self.group(path, " AND ", ground, depth),
            FilterKind::Or => return self.group(path, " OR ", ground, depth),
            FilterKind::Event => PropertyKind::Event,
            FilterKind::Person => PropertyKind::Person,
            FilterKind::Session => return self.of_session(path, ground),
            FilterKind::Cohort => return cohorts::condition(self, path, ground),
            FilterKind::EventMetadata => PropertyKind::EventMetadata,
            FilterKind::Feature => PropertyKind::Feature,
            FilterKind::Group => PropertyKind::Group,
            FilterKind::Element => return elements::condition(self, self.key(path)?, path, ground),
            FilterKind::Expression => return self.of_expression(path, ground),
        };
        let field = format!("{path}.key");
        let property = property_of(kind, self.key(path)?, self.group_meant(), &field, ground)?;
        compare::condition(self, &property, path, ground)
    }

    fn group_meant(&self) -> Meant<'_> {
        Meant { index: self.group_type_index, name: self.group_type.as_deref() }
    }

    /// A condition of the caller's own.
    fn of_expression(&self, path: &str, ground: &Ground<'_>) -> Result<Option<Sql>, Problem> {
        let text = self.key(path)?;
        if !self.value.is_null() || self.operator != Operator::Exact {
            let field = format!("{path}.{}", if self.value.is_null() { "operator" } else { "value" });
            let message =
                format!("{field}: an expression is compared in itself, such as properties.plan = 'pro'");
            return Err(Problem::invalid(&field, message));
        }
        expression::condition(text, &format!("{path}.key"), ground).map(Some)
    }

    fn of_session(&self, path: &str, ground: &Ground<'_>) -> Result<Option<Sql>, Problem> {
        session::condition(self.key(path)?, &format!("{path}.key"), ground, |property| {
            compare::condition(self, property, path, ground)
        })
    }

    /// The key of what is no group.
    fn key(&self, path: &str) -> Result<&str, Problem> {
        if self.values.is_some() {
            let message = format!("{path}.values are members of a group: its type is AND or OR");
            return Err(Problem::invalid(&format!("{path}.type"), message).with("valid", vec!["AND", "OR"]));
        }
        let field = format!("{path}.key");
        self.key.as_deref().ok_or_else(|| Problem::invalid(&field, format!("{field} is required")))
    }

    fn group(
        &self,
        path: &str,
        joined: &'static str,
        ground: &Ground<'_>,
        depth: usize,
    ) -> Result<Option<Sql>, Problem> {
        let max = ground.limits.filter_depth_max;
        if depth > max {
            let message = format!("{path} is nested deeper than {max} groups (query.filter_depth_max)");
            let problem = Problem::invalid(path, message);
            return Err(problem.with("max", max).with("setting", "query.filter_depth_max"));
        }
        if self.key.is_some() || !self.value.is_null() {
            let field = format!("{path}.{}", if self.key.is_some() { "key" } else { "value" });
            let message = format!("{field}: a group has only type and values");
            return Err(Problem::invalid(&field, message));
        }
        let members = self.values.as_deref().unwrap_or_default();
        let mut conditions = Vec::with_capacity(members.len());
        for (index, member) in members.iter().enumerate() {
            let path = format!("{path}.values[{index}]");
            match member.condition(&path, ground, depth + 1)? {
                Some(condition) => conditions.push(condition),
                // A member that every event passes makes an OR true, and does nothing to an AND.
                None if joined == " OR " => return Ok(None),
                None => {}
            }
        }
        if conditions.is_empty() {
            return Ok(None);
        }
        Ok(Some(Sql::new("(").join(joined, &conditions).push(")")))
    }
}

impl std::ops::Deref for Filters {
    type Target = [Filter];

    fn deref(&self) -> &[Filter] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Filters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListOrGroup)
    }
}

struct ListOrGroup;

impl<'de> Visitor<'de> for ListOrGroup {
    type Value = Filters;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of filters or one group of them")
    }

    fn visit_unit<E>(self) -> Result<Filters, E> {
        Ok(Filters::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Filters, A::Error> {
        let mut filters = Vec::new();
        while let Some(filter) = seq.next_element()? {
            filters.push(filter);
        }
        Ok(Filters(filters))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Filters, A::Error> {
        Filter::deserialize(MapAccessDeserializer::new(map)).map(|filter| Filters(vec![filter]))
    }
}

//! Groups: an event may be of a company, a team, a project, … one of each type.
//!
//! Which group of a type an event is of says its property `$groups` (`{"company": "acme"}`) by the type's name, or
//! `$group_<n>` by its number; a type that was named by `$groupidentify` has both, and either counts. Properties of groups
//! are *current*, as those of persons: what a group has now holds for all of its events. How they are kept is told in
//! `person/groups.rs`.

pub mod list;

use std::sync::{Arc, Mutex, PoisonError};

use super::actor::Actors;
use super::filter::check_key;
use crate::event::Scope;
use crate::http::Problem;
use crate::store::{Property, Sql};

/// Types that have a number.
const NUMBERED: usize = 5;
/// `$group_<n>` is read for numbers below this.
pub(super) const NUMBERS_MAX: u8 = 10;
/// Stands for the key of the group among the names of its properties.
const KEY: &str = "$group_key";

/// The types of a scope that have a number, in the order of their numbers.
pub(super) type Types = Arc<[String]>;

/// Which type of groups a question means, as it says it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Meant<'a> {
    pub(super) index: Option<u8>,
    pub(super) name: Option<&'a str>,
}

/// A type of groups, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GroupType {
    name: Option<String>,
    number: Option<u8>,
}

/// Properties of groups that were asked for; a place here is a column of a join.
#[derive(Debug, Default)]
pub(super) struct Columns(Mutex<Vec<(GroupType, String)>>);

impl Meant<'_> {
    pub(super) const fn is_given(self) -> bool {
        self.index.is_some() || self.name.is_some()
    }

    /// Refuses what names no type; `beside` is a field that stands beside the two.
    ///
    /// # Errors
    /// 400.
    pub(super) fn check(self, beside: &str) -> Result<(), Problem> {
        let place = beside.rsplit_once('.').map(|(place, _)| format!("{place}.")).unwrap_or_default();
        let field = |name: &str| format!("{place}{name}");
        if let Some(index) = self.index.filter(|index| *index >= NUMBERS_MAX) {
            let field = field("group_type_index");
            let message = format!("{field} is {index}; it may be 0 to {}", NUMBERS_MAX - 1);
            return Err(Problem::invalid(&field, message).with("given", index).with("max", NUMBERS_MAX - 1));
        }
        match self {
            Self { index: Some(_), name: Some(_) } => {
                let (field, other) = (field("group_type"), field("group_type_index"));
                let message = format!("{field} and {other} both name the groups: one of them is enough");
                Err(Problem::invalid(&field, message))
            }
            Self { name: Some(name), .. } => check_key(&field("group_type"), name),
            _ => Ok(()),
        }
    }

    /// Refuses that a type is named where nothing is a group's.
    ///
    /// # Errors
    /// 400.
    pub(super) fn none_meant(self, beside: &str) -> Result<(), Problem> {
        if !self.is_given() {
            return Ok(());
        }
        let place = beside.rsplit_once('.').map(|(place, _)| format!("{place}.")).unwrap_or_default();
        let field = format!("{place}{}", if self.name.is_some() { "group_type" } else { "group_type_index" });
        let message = format!("{field} says whose property it is of type group, and no other");
        Err(Problem::invalid(&field, message))
    }

    /// The type, with its other name if it has one.
    fn resolved(self, types: &[String]) -> GroupType {
        match self {
            Self { name: Some(name), .. } => GroupType::named(name, types),
            Self { index, .. } => GroupType::numbered(index.unwrap_or_default(), types),
        }
    }
}

impl GroupType {
    fn named(name: &str, types: &[String]) -> Self {
        let number = types.iter().position(|known| known == name);
        Self { name: Some(name.to_owned()), number: number.and_then(|number| u8::try_from(number).ok()) }
    }

    fn numbered(number: u8, types: &[String]) -> Self {
        Self { name: types.get(usize::from(number)).cloned(), number: Some(number) }
    }

    /// `String`: the key of the event's group; empty without one.
    fn key(&self) -> Sql {
        let text = |property: Property| Sql::new("ifNull(").append(&property.text()).push(", '')");
        let numbered = self.number.map(|number| text(Property::new(&format!("$group_{number}"))));
        let named = self.name.as_ref().map(|name| text(Property::within("$groups", name)));
        match (numbered, named) {
            (Some(numbered), Some(named)) => {
                let sql = Sql::new("if(").append(&numbered).push(" != '', ").append(&numbered);
                sql.push(", ").append(&named).push(")")
            }
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => Sql::new("''"),
        }
    }
}

/// The key of the event's group, of the type that `text` names: a digit is its number, all else its name.
pub(super) fn key_named(text: &str, types: &[String]) -> Property {
    let of_type = match text.as_bytes() {
        [digit @ b'0'..=b'9'] => GroupType::numbered(digit - b'0', types),
        _ => GroupType::named(text, types),
    };
    Property::of_text(&of_type.key())
}

/// The key of the event's group of the type that is meant.
pub(super) fn key(meant: Meant<'_>, types: &[String]) -> Property {
    Property::of_text(&meant.resolved(types).key())
}

/// Rows of one column: the names of the types that have a number, in the order of their numbers.
pub(super) fn numbered(scope: &Scope) -> Sql {
    facts("SELECT group_type AS name FROM group_properties FINAL WHERE ", scope)
        .push(" AND kind = 2 ORDER BY version DESC, group_type LIMIT ")
        .arg(NUMBERED)
}

/// What is known of a scope's groups.
fn facts(head: &'static str, Scope { project, environment }: &Scope) -> Sql {
    let sql = Sql::new(head).push("project_id = ").arg(project.as_str());
    sql.push(" AND environment_id = ").arg(environment.as_str())
}

impl Columns {
    /// The property `key` of the event's group.
    pub(super) fn property(&self, meant: Meant<'_>, key: &str, types: &[String]) -> Property {
        let of_type = meant.resolved(types);
        if key == KEY {
            return Property::of_text(&of_type.key());
        }
        let mut columns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = (of_type, key.to_owned());
        let place = columns.iter().position(|known| *known == wanted).unwrap_or_else(|| {
            columns.push(wanted);
            columns.len() - 1
        });
        Property::of_json(column(place))
    }

    /// Joins what `statement` names, each type once.
    pub(super) fn joins(&self, scope: &Scope, statement: &Sql) -> Sql {
        let columns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used: Vec<(usize, &GroupType, &str)> = columns
            .iter()
            .enumerate()
            .filter(|(place, _)| statement.text().contains(column(*place).text()))
            .map(|(place, (of_type, key))| (place, of_type, key.as_str()))
            .collect();
        let mut joins = Sql::default();
        for (place, (first, of_type, _)) in used.iter().enumerate() {
            if used.iter().take(place).any(|(_, other, _)| other == of_type) {
                continue;
            }
            let own: Vec<&(usize, &GroupType, &str)> =
                used.iter().filter(|(_, other, _)| other == of_type).collect();
            let values: Vec<Sql> = own
                .iter()
                .map(|(place, _, key)| {
                    Sql::new("anyIf(value, key = ").arg(*key).push(") AS ").append(&column(*place))
                })
                .collect();
            let joined = Sql::default().name(&format!("joined_group_{first}_"));
            // Of a number that no type has, nothing is known.
            let name = of_type.name.as_deref().unwrap_or_default();
            let head = Sql::new(" ANY LEFT JOIN (SELECT group_key AS ").append(&joined).push(", ");
            let head = head.join(", ", &values).push(" FROM group_properties FINAL WHERE ");
            joins = joins
                .append(&head)
                .append(&facts("", scope))
                .push(" AND group_type = ")
                .arg(name)
                .push(" AND kind = 0 AND key IN ")
                .list(own.iter().map(|(_, _, key)| *key))
                .push(" GROUP BY group_key) AS ")
                .name(&format!("groups_{first}_"))
                .push(" ON ")
                .append(&joined)
                .push(" = ")
                .append(&of_type.key());
        }
        joins
    }
}

fn column(place: usize) -> Sql {
    Sql::default().name(&format!("group_property_{place}_"))
}

/// The property `key` of the event's group of the type that is meant; without a type the key of the group that `key`
/// names.
///
/// # Errors
/// 400: no type can be meant.
pub(super) fn property(
    key: &str,
    meant: Meant<'_>,
    field: &str,
    actors: &Actors,
) -> Result<Property, Problem> {
    meant.check(field)?;
    Ok(if meant.is_given() {
        actors.group_property(meant, key)
    } else {
        key_named(key, actors.group_types())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::statement::{self, View};
    use crate::query::tests::scope;

    fn named(name: &'static str) -> Meant<'static> {
        Meant { name: Some(name), ..Meant::default() }
    }

    fn numbered(index: u8) -> Meant<'static> {
        Meant { index: Some(index), ..Meant::default() }
    }

    #[test]
    fn a_type_that_has_a_number_is_found_by_both_and_any_other_by_what_it_has() {
        let types = ["company".to_owned(), "team".to_owned()];
        let key = |meant: Meant<'_>| key(meant, &types).text().text().to_owned();
        assert_eq!(key(named("team")), key(numbered(1)));
        assert!(
            key(named("team")).contains("'$group_1'") && key(named("team")).contains("'$groups', 'team'")
        );
        assert!(!key(named("squad")).contains("$group_") && !key(numbered(7)).contains("$groups"));
        assert_eq!(key_named("1", &types), super::key(numbered(1), &types));
        assert!(key(named("team")).len() < 1_500, "{}", key(named("team")).len());
    }

    #[test]
    fn properties_are_joined_by_the_statement_that_names_them_once_a_type() {
        let actors = Actors::new(&scope(), false).with_groups(&["company", "team"]);
        let count = |what: &Sql| {
            let sql = statement::events(&scope(), View::Deduplicated, what).actors(&actors).sql();
            sql.text().to_owned()
        };
        let plan = actors.group_property(named("company"), "p'lan").text();
        let seats = actors.group_property(numbered(0), "seats").text();
        let size = actors.group_property(numbered(1), "size").text();
        assert_eq!(actors.group_property(numbered(0), "p'lan").text(), plan, "a key has one column");
        assert!(!count(&Sql::new("count() AS value")).contains("JOIN"));
        let one = count(&Sql::new("any(").append(&plan).push(") AS label"));
        assert_eq!(one.matches("JOIN").count(), 1, "{one}");
        assert!(one.contains(r"key IN ('p\'lan')") && !one.contains("seats"), "{one}");
        assert_eq!(one.matches("environment_id = 'env'").count(), 2, "{one}");
        let all = Sql::new("any(").append(&plan).push("), any(").append(&seats).push("), any(").append(&size);
        let all = count(&all.push(") AS label"));
        assert_eq!(all.matches("JOIN").count(), 2, "{all}");
        assert!(all.contains("group_type = 'team'"), "{all}");
    }

    #[test]
    fn what_names_no_type_is_refused_by_its_field() {
        let both = Meant { index: Some(0), name: Some("team") };
        for (meant, field) in [
            (both, "filters[0].group_type"),
            (numbered(10), "filters[0].group_type_index"),
            (named(""), "filters[0].group_type"),
        ] {
            assert_eq!(meant.check("filters[0].key").unwrap_err().details["field"], field);
        }
        assert_eq!(named("team").none_meant("property").unwrap_err().details["field"], "group_type");
    }
}

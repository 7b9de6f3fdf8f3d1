//! What an event is called on a path.

use serde::{Deserialize, Serialize};

use super::Paths;
use crate::http::Problem;
use crate::query::expression;
use crate::query::filter::Ground;
use crate::store::{Property, Sql};

/// Which events are nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Include {
    #[serde(rename = "$pageview")]
    Pageview,
    #[serde(rename = "$screen")]
    Screen,
    /// Names that do not begin with `$`.
    #[serde(rename = "custom_event")]
    Custom,
    /// Every event, by `path_expression`.
    #[serde(rename = "expression", alias = "hogql")]
    Expression,
}

/// A regular expression, and what to write in place of each part that it matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cleaning {
    pub regex: String,
    pub alias: String,
}

/// Bounds of the lists, and of their texts in bytes.
const LIST_MAX: usize = 100;
const TEXT_BYTES_MAX: usize = 1000;

impl Paths {
    /// The name of an event's node, and which events are nodes.
    ///
    /// # Errors
    /// 400: too many or too long texts.
    pub(super) fn node(&self, ground: &Ground<'_>) -> Result<(Sql, Vec<Sql>), Problem> {
        check("exclude", self.exclude.iter())?;
        check("path_groups", self.path_groups.iter())?;
        check("cleaning", self.cleaning.iter().flat_map(|cleaning| [&cleaning.regex, &cleaning.alias]))?;
        let mut conditions = Vec::new();
        if !self.include.is_empty() {
            let each = self.include.iter().map(|include| match include {
                Include::Pageview => Sql::new("event_name = '$pageview'"),
                Include::Screen => Sql::new("event_name = '$screen'"),
                Include::Custom => Sql::new("NOT startsWith(event_name, '$')"),
                Include::Expression => Sql::new("1"),
            });
            let each: Vec<Sql> = each.collect();
            conditions.push(Sql::new("(").join(" OR ", &each).push(")"));
        }
        let mut node = self.name(ground)?;
        if self.path_expression.is_some() {
            conditions.push(Sql::new("").append(&node).push(" != ''"));
        }
        for Cleaning { regex, alias } in &self.cleaning {
            node = Sql::new("replaceRegexpAll(")
                .append(&node)
                .push(", ")
                .arg(regex)
                .push(", ")
                .arg(alias)
                .push(")");
        }
        if !self.path_groups.is_empty() {
            let cases: Vec<Sql> = self
                .path_groups
                .iter()
                .map(|group| {
                    let matches =
                        Sql::new("match(").append(&node).push(", ").arg(wildcard(group)).push("), ");
                    matches.arg(group)
                })
                .collect();
            node = Sql::new("multiIf(").join(", ", &cases).push(", ").append(&node).push(")");
        }
        if !self.exclude.is_empty() {
            conditions.push(Sql::new("").append(&node).push(" NOT IN ").list(&self.exclude));
        }
        Ok((node, conditions))
    }
}

impl Paths {
    /// What an event is about.
    fn name(&self, ground: &Ground<'_>) -> Result<Sql, Problem> {
        let includes = |include| self.include.contains(&include);
        let Some(text) = &self.path_expression else {
            if includes(Include::Expression) {
                let message = "path_expression is required: what include expression calls an event";
                return Err(Problem::invalid("path_expression", message));
            }
            return Ok(Sql::new("multiIf(")
                .append(&page())
                .push(", ")
                .append(&screen())
                .push(", toString(event_name))"));
        };
        let own = expression::property(text, "path_expression", ground)?.text();
        let mut cases = Sql::new("multiIf(");
        if includes(Include::Pageview) {
            cases = cases.append(&page()).push(", ");
        }
        if includes(Include::Screen) {
            cases = cases.append(&screen()).push(", ");
        }
        Ok(cases.push("1, ifNull(").append(&own).push(", ''), '')"))
    }
}

/// Of a page: that it is one, and what it is called.
fn page() -> Sql {
    let url = Property::new("$current_url").text();
    let named = Sql::new("event_name = '$pageview', replaceRegexpOne(ifNull(").append(&url);
    named.push(", ''), '(.)/$', '\\\\1')")
}

/// The same of a screen.
fn screen() -> Sql {
    let name = Property::new("$screen_name").text();
    Sql::new("event_name = '$screen', ifNull(").append(&name).push(", '')")
}

/// `/product/*` as a regular expression, from the beginning to the end.
fn wildcard(group: &str) -> String {
    let mut regex = String::from("^");
    for character in group.chars() {
        match character {
            '*' => regex.push_str(".*"),
            plain if plain.is_alphanumeric() || plain == '/' || plain == '_' => regex.push(plain),
            special => {
                regex.push('\\');
                regex.push(special);
            }
        }
    }
    regex.push('$');
    regex
}

fn check<'a>(field: &str, texts: impl Iterator<Item = &'a String>) -> Result<(), Problem> {
    for (index, text) in texts.enumerate() {
        if index >= LIST_MAX || text.len() > TEXT_BYTES_MAX {
            let message = format!("{field} may have {LIST_MAX} entries of {TEXT_BYTES_MAX} bytes each");
            return Err(Problem::invalid(field, message).with("max", LIST_MAX));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_anything_and_everything_else_for_itself() {
        assert_eq!(wildcard("/product/*?a=1"), r"^/product/.*\?a\=1$");
    }
}

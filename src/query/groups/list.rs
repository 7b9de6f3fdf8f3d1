//! Which groups there are, and what is known of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::facts;
use crate::event::{Scope, Timestamp};
use crate::http::{ErrorCode, Problem, cursor, strict};
use crate::query::{Meta, Query, events};
use crate::store::Sql;

/// A question for a page of groups, as it is sent in the query string.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Groups {
    /// Only of this type.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Only those whose key has this text in it, in any case.
    pub search: Option<String>,
    /// Groups in the page; 100 when absent, at most `query.page_rows_max`.
    #[serde(skip)]
    pub limit: Option<usize>,
    #[serde(skip)]
    pub cursor: Option<String>,
}

const NAMES: [&str; 4] = ["type", "search", "limit", "cursor"];
const PAGE: usize = 100;
/// Most properties of a group that are shown, and of a type.
const PROPERTIES_SHOWN: usize = 1000;
/// Types that are shown.
const TYPES_SHOWN: usize = 100;
/// Longest text that is searched for, or names a group, in bytes.
const TEXT_BYTES_MAX: usize = 1600;

/// A group.
#[derive(Debug, Serialize)]
pub struct Group {
    #[serde(rename = "type")]
    pub kind: String,
    pub key: String,
    /// As they are now.
    pub properties: BTreeMap<String, Box<RawValue>>,
    /// The time of the first event that named it by `$groupidentify`.
    pub first_seen: Timestamp,
}

/// A page of groups, by their types and keys.
#[derive(Debug, Serialize)]
pub struct Page {
    pub groups: Vec<Group>,
    /// Give it as `cursor` to get the next page; null: there are no more.
    pub next_cursor: Option<String>,
    pub meta: Meta,
}

/// A group by itself.
#[derive(Debug, Serialize)]
pub struct Shown {
    #[serde(flatten)]
    pub group: Group,
    pub meta: Meta,
}

/// A type of groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KnownType {
    pub name: String,
    /// `$group_<index>` names a group of this type; null: others came before.
    pub index: Option<usize>,
    /// How many there are.
    pub groups: u64,
    /// The names of their properties, sorted.
    pub properties: Vec<String>,
}

impl Groups {
    /// Reads a query string.
    ///
    /// # Errors
    /// 400 that names the parameter, and the nearest right one if it is unknown.
    pub(in crate::query) fn parse(query: &str) -> Result<Self, Problem> {
        let pairs: Vec<(String, String)> = strict::query_string(query)?;
        let mut groups = Self::default();
        for (name, value) in pairs {
            match name.as_str() {
                "type" => groups.kind = Some(value),
                "search" => groups.search = Some(value).filter(|text| !text.is_empty()),
                "limit" => groups.limit = Some(events::number("limit", &value)?),
                "cursor" => groups.cursor = Some(value),
                // The key's environment was held against it already.
                "environment_id" => {}
                _ => return Err(events::unknown(&name, &NAMES)),
            }
        }
        for (field, text) in [("type", &groups.kind), ("search", &groups.search)] {
            if text.as_ref().is_some_and(|text| text.len() > TEXT_BYTES_MAX) {
                let message = format!("{field} may have {TEXT_BYTES_MAX} bytes");
                return Err(Problem::invalid(field, message).with("max", TEXT_BYTES_MAX));
            }
        }
        Ok(groups)
    }

    fn select(&self, scope: &Scope, after: Option<&Place>, limit: usize) -> Sql {
        let mut sql = rows(scope);
        if let Some(kind) = &self.kind {
            sql = sql.push(" AND group_type = ").arg(kind);
        }
        if let Some(search) = &self.search {
            sql = sql.push(" AND positionCaseInsensitiveUTF8(group_key, ").arg(search).push(") > 0");
        }
        if let Some(after) = after {
            let place = Sql::new("(").arg(&after.kind).push(", ").arg(&after.key).push(")");
            sql = sql.push(" AND (group_type, group_key) > ").append(&place);
        }
        sql.push(" GROUP BY group_type, group_key ORDER BY group_type, group_key LIMIT ").arg(limit)
    }
}

/// Rows of (type, key, version of the first sight, properties as JSON text), before they are grouped by type and key.
fn rows(scope: &Scope) -> Sql {
    let head = Sql::new(
        "SELECT group_type, group_key, maxIf(version, kind = 1) AS first, concat('{', arrayStringConcat(groupArrayIf(",
    )
    .arg(PROPERTIES_SHOWN)
    .push(")(concat(toJSONString(key), ':', value), kind = 0), ','), '}') AS object FROM group_properties FINAL WHERE ");
    head.append(&facts("", scope)).push(" AND group_key != ''")
}

/// Rows of (name, groups, names of properties, first sight): the types there are, in the order of their numbers.
fn types_of(scope: &Scope) -> Sql {
    let head = Sql::new("SELECT group_type AS name, countIf(kind = 1) AS known, arraySort(groupUniqArrayIf(")
        .arg(PROPERTIES_SHOWN)
        .push(")(key, kind = 0)) AS properties FROM group_properties FINAL WHERE ");
    head.append(&facts("", scope))
        .push(" GROUP BY group_type ORDER BY maxIf(version, kind = 2) DESC, group_type LIMIT ")
        .arg(TYPES_SHOWN)
}

/// The types of groups that `$groupidentify` named.
///
/// # Errors
/// 503 for what the store does not answer.
pub(in crate::query) async fn types(query: &Query, scope: &Scope) -> Result<Vec<KnownType>, Problem> {
    let rows: Vec<(String, u64, Vec<String>)> = query.select(types_of(scope)).await?;
    let known = rows.into_iter().enumerate().map(|(place, (name, groups, properties))| KnownType {
        name,
        index: (place < super::NUMBERED).then_some(place),
        groups,
        properties,
    });
    Ok(known.collect())
}

/// The page that `asked` asks for.
///
/// # Errors
/// 400 for what cannot be meant, 503 for what the store does not answer.
pub(in crate::query) async fn list(query: &Query, scope: &Scope, asked: &Groups) -> Result<Page, Problem> {
    let limit = events::page_limit(asked.limit, PAGE, &query.limits)?;
    let question = serde_json::to_string(&("groups", scope, asked)).map_err(Problem::internal)?;
    let after = asked.cursor.as_ref().map(|text| cursor::decode::<Place>(&question, text)).transpose()?;
    let turn = query.begin().await?;
    let rows: Vec<Row> = query.select(asked.select(scope, after.as_ref(), limit + 1)).await?;
    let more = rows.len() > limit;
    let groups: Vec<Group> = rows.into_iter().take(limit).map(group_of).collect::<Result<_, _>>()?;
    let end = groups.last().filter(|_| more);
    let end = end.map(|last| Place { kind: last.kind.clone(), key: last.key.clone() });
    let next_cursor = end.map(|place| cursor::encode(&question, &place)).transpose()?;
    Ok(Page { groups, next_cursor, meta: turn.meta() })
}

/// One group.
///
/// # Errors
/// 404: `$groupidentify` never named it here. 503 for what the store does not answer.
pub(in crate::query) async fn show(
    query: &Query,
    scope: &Scope,
    (kind, key): (&str, &str),
) -> Result<Shown, Problem> {
    let turn = query.begin().await?;
    let sql = rows(scope).push(" AND group_type = ").arg(kind).push(" AND group_key = ").arg(key);
    let rows: Vec<Row> = query.select(sql.push(" GROUP BY group_type, group_key")).await?;
    let row = rows.into_iter().next().ok_or_else(|| {
        let shown: String = key.chars().take(100).collect();
        Problem::new(ErrorCode::NotFound, "no group of this type in this environment has this key")
            .with("given", shown)
    })?;
    Ok(Shown { group: group_of(row)?, meta: turn.meta() })
}

type Row = (String, String, u64, String);

/// Where a page ends.
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    kind: String,
    key: String,
}

fn group_of((kind, key, first, object): Row) -> Result<Group, Problem> {
    let properties = serde_json::from_str(&object).map_err(Problem::internal)?;
    // See `person/groups.rs`: what is first has the highest version.
    let first_seen = i64::try_from((u64::MAX - first) >> 22).unwrap_or_default();
    Ok(Group { kind, key, properties, first_seen: Timestamp::from_millis(first_seen) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::tests::scope;

    #[test]
    fn groups_are_read_in_their_scope_within_bounds() {
        let asked = Groups::parse("type=it%27s&search=%25a&limit=5").unwrap();
        let all = [
            asked.select(&scope(), Some(&Place { kind: "a".to_owned(), key: "k\\".to_owned() }), 6),
            Groups::default().select(&scope(), None, 6),
            types_of(&scope()),
            super::super::numbered(&scope()),
        ];
        for sql in &all {
            assert!(sql.text().contains("project_id = 'proj' AND environment_id = 'env'"), "{}", sql.text());
        }
        insta::assert_snapshot!("groups", all.map(|sql| sql.text().to_owned()).join("\n"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (query, field) in [("type=a&serch=b", "serch"), ("limit=x", "limit")] {
            assert_eq!(Groups::parse(query).unwrap_err().details["field"], field, "{query}");
        }
        let long = format!("type=a&search={}", "x".repeat(1601));
        assert_eq!(Groups::parse(&long).unwrap_err().details["field"], "search");
    }
}

//! Cohorts: sets of people, to filter by and to break down by.
//!
//! | kind | who belongs |
//! |---|---|
//! | static | who was put in, by any of their distinct ids |
//! | dynamic | whoever the person filters hold for now |
//! | behavioural | who did (or did not do) an event so often in a period that ends now |
//!
//! Person filters and behaviours may stand together; `match` says whether all or any of them must hold. Membership is
//! decided when a question is asked, over the acting person: a merge joins their pasts, and a member by one id is a
//! member by all. A definition names no other cohort.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::filter::{self, Filter, FilterKind, Filters, Ground};
use super::interval::{Calendar, WeekStart};
use super::range::{self, Moment, Range};
use super::statement::{self, View};
use super::{Query, saved};
use crate::event::{Scope, Timestamp};
use crate::http::{ErrorCode, Problem};
use crate::meta::{Document, DocumentKind, Meta};
use crate::store::{CohortMemberRow, Sql};

const NAME_CHARS_MAX: usize = 200;
/// Most behaviours in one cohort.
const BEHAVIORS_MAX: usize = 20;
/// Most distinct ids in one change of members.
const MEMBERS_MAX: usize = 10_000;
/// Everybody, where a cohort is named.
pub(super) const ALL: &str = "all";

const COHORTS: DocumentKind =
    DocumentKind { name: "cohort", plural: "cohorts", setting: "query.cohorts_max", audited: None };

/// A cohort as it is sent to be made.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCohort {
    pub name: String,
    /// A static cohort: these people, and no filters.
    pub distinct_ids: Option<Vec<String>>,
    #[serde(default)]
    pub filters: Filters,
    #[serde(default)]
    pub behaviors: Vec<Behavior>,
    #[serde(default, rename = "match")]
    pub matched: Match,
    pub environment_id: Option<String>,
}

/// What of a cohort is to be changed; what is absent stays.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CohortChange {
    pub name: Option<String>,
    pub filters: Option<Filters>,
    pub behaviors: Option<Vec<Behavior>>,
    #[serde(rename = "match")]
    pub matched: Option<Match>,
    /// Of a static cohort: people to put in and to take out.
    #[serde(default)]
    pub add: Vec<String>,
    #[serde(default)]
    pub remove: Vec<String>,
    pub environment_id: Option<String>,
}

/// "Did event `event` at least `count` times in `period`".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Behavior {
    /// The event's name; any event when absent.
    #[serde(default)]
    pub event: Option<String>,
    /// On the event.
    #[serde(default)]
    pub filters: Filters,
    #[serde(default)]
    pub operator: Often,
    #[serde(default = "once")]
    pub count: u64,
    /// Where the period begins, such as `-30d`; all of history when absent. It ends now.
    #[serde(default)]
    pub period: Option<String>,
    /// Those for whom it does not hold.
    #[serde(default)]
    pub negated: bool,
}

fn once() -> u64 {
    1
}

/// How the count of events is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Often {
    #[default]
    Gte,
    Lte,
    Exact,
}

/// Must all conditions hold, or any?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Match {
    #[default]
    All,
    Any,
}

/// What makes a person a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Definition {
    is_static: bool,
    #[serde(default)]
    filters: Filters,
    #[serde(default)]
    behaviors: Vec<Behavior>,
    #[serde(default)]
    matched: Match,
}

/// The cohorts of one scope, by id.
pub(super) type Cohorts = Arc<BTreeMap<String, Definition>>;

/// A cohort as it is answered.
#[derive(Clone, Debug, Serialize)]
pub struct Cohort {
    pub id: String,
    pub name: String,
    #[serde(rename = "static")]
    pub is_static: bool,
    pub filters: Filters,
    pub behaviors: Vec<Behavior>,
    #[serde(rename = "match")]
    pub matched: Match,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Cohort {
    fn of(document: Document) -> Result<Self, Problem> {
        let definition: Definition = serde_json::from_value(document.body.0).map_err(Problem::internal)?;
        Ok(Self {
            id: document.id,
            name: document.name,
            is_static: definition.is_static,
            filters: definition.filters,
            behaviors: definition.behaviors,
            matched: definition.matched,
            created_at: document.created_at,
            updated_at: document.updated_at,
        })
    }
}

/// The condition of a filter on cohorts: `value` names one or several, any of which may hold.
///
/// # Errors
/// 400: no such cohort, or no comparison that can be meant.
pub(super) fn condition(filter: &Filter, path: &str, ground: &Ground<'_>) -> Result<Option<Sql>, Problem> {
    let negated = match filter.operator {
        super::Operator::Exact | super::Operator::In => false,
        super::Operator::IsNot | super::Operator::NotIn => true,
        _ => {
            let field = format!("{path}.operator");
            let message = format!("{field}: a cohort takes in, not_in, exact or is_not");
            return Err(
                Problem::invalid(&field, message).with("valid", vec!["in", "not_in", "exact", "is_not"])
            );
        }
    };
    let ids: Vec<&Value> = match &filter.value {
        Value::Null => return Ok(None),
        Value::Array(ids) => ids.iter().collect(),
        one => vec![one],
    };
    let field = format!("{path}.value");
    let mut any = Vec::new();
    for id in ids {
        let id =
            id.as_str().ok_or_else(|| Problem::invalid(&field, format!("{field} takes ids of cohorts")))?;
        any.push(member(id, &field, ground)?);
    }
    let any = Sql::new("(").join(" OR ", &any).push(")");
    Ok(Some(if negated { Sql::new("NOT ").append(&any) } else { any }))
}

/// Holds for the events of the cohort's members.
///
/// # Errors
/// 400: no such cohort. 503: the metadata database does not answer.
pub(super) fn member(id: &str, field: &str, ground: &Ground<'_>) -> Result<Sql, Problem> {
    if id == ALL {
        return Ok(Sql::new("true"));
    }
    // A check without the store: whether there is such a cohort is found out with it.
    let Some(cohorts) = ground.actors.cohorts()? else { return Ok(Sql::new("true")) };
    let definition = cohorts.get(id).ok_or_else(|| {
        let shown: String = id.chars().take(100).collect();
        let message = format!("{field}: no cohort of this project and environment has the id {shown:?}");
        let valid: Vec<&str> = cohorts.keys().map(String::as_str).take(100).collect();
        Problem::invalid(field, message).with("given", shown).with("valid", valid)
    })?;
    definition.condition(id, field, ground)
}

impl Definition {
    fn condition(&self, id: &str, path: &str, ground: &Ground<'_>) -> Result<Sql, Problem> {
        if self.is_static {
            let acting = ground.actors.id();
            return Ok(Sql::new("")
                .append(&acting)
                .push(" IN (")
                .append(&ground.actors.members_of(id))
                .push(")"));
        }
        let mut each = filter::conditions(&self.filters, path, ground)?;
        for behavior in &self.behaviors {
            each.push(behavior.condition(path, ground)?);
        }
        let joined = if self.matched == Match::All { " AND " } else { " OR " };
        if each.is_empty() {
            return Ok(Sql::new("true"));
        }
        Ok(Sql::new("(").join(joined, &each).push(")"))
    }

    /// Refuses what could not be asked later.
    fn check(&self, ground: &Ground<'_>) -> Result<(), Problem> {
        fn persons_alone(filters: &[Filter], path: &str) -> Result<(), Problem> {
            for (place, filter) in filters.iter().enumerate() {
                let path = format!("{path}[{place}]");
                match filter.kind {
                    FilterKind::Person => {}
                    FilterKind::And | FilterKind::Or => {
                        let members = filter.values.as_deref().unwrap_or_default();
                        persons_alone(members, &format!("{path}.values"))?;
                    }
                    _ => {
                        let field = format!("{path}.type");
                        let message =
                            format!("{field}: a cohort's filters are on persons; events go to behaviors");
                        return Err(
                            Problem::invalid(&field, message).with("valid", vec!["person", "AND", "OR"])
                        );
                    }
                }
            }
            Ok(())
        }
        persons_alone(&self.filters, "filters")?;
        if self.behaviors.len() > BEHAVIORS_MAX {
            let message =
                format!("behaviors has {} entries, more than {BEHAVIORS_MAX}", self.behaviors.len());
            return Err(Problem::invalid("behaviors", message).with("max", BEHAVIORS_MAX));
        }
        if !self.is_static && self.filters.is_empty() && self.behaviors.is_empty() {
            let message = "a cohort needs distinct_ids, filters or behaviors";
            return Err(Problem::invalid("filters", message));
        }
        let _ = filter::conditions(&self.filters, "filters", ground)?;
        for (place, behavior) in self.behaviors.iter().enumerate() {
            let path = format!("behaviors[{place}]");
            let names_cohort = |filter: &Filter| {
                serde_json::to_string(filter).is_ok_and(|text| text.contains("\"type\":\"cohort\""))
            };
            if behavior.filters.iter().any(names_cohort) {
                let field = format!("{path}.filters");
                return Err(Problem::invalid(&field, format!("{field}: a cohort names no other cohort")));
            }
            // What it says is not needed, only that it can be said.
            let _ = behavior.condition(&path, ground)?;
        }
        Ok(())
    }
}

impl Behavior {
    fn condition(&self, path: &str, ground: &Ground<'_>) -> Result<Sql, Problem> {
        let conditions = filter::conditions(&self.filters, &format!("{path}.filters"), ground)?;
        let utc = Calendar { zone: chrono_tz::UTC, week_start: WeekStart::default() };
        let end = Timestamp::from_millis(ground.now.as_millis() + 1);
        let from = match self.period.as_deref() {
            None => Timestamp::EPOCH,
            Some(text) => match range::parse(&format!("{path}.period"), text, &utc, ground.now)? {
                Moment::Day(date) => utc.start_of_day(date),
                Moment::Exact(at) | Moment::Relative(at) => at,
            },
        };
        if from >= end {
            return Err(range::backwards(from, ground.now));
        }
        let columns = Sql::new("").append(&ground.actors.id()).push(" AS acting");
        let mut select = statement::events(ground.actors.scope(), View::Deduplicated, &columns)
            .actors(ground.actors)
            .within(Range { from, end })
            .and_all(conditions);
        if let Some(event) = &self.event {
            select = select.key(Sql::new("event_name = ").arg(event));
        }
        // Who did nothing has no row: conditions that hold for them are asked the other way round.
        let (having, turned) = match self.operator {
            Often::Gte if self.count == 0 => (Sql::new("count() < ").arg(0u64), true),
            Often::Gte => (Sql::new("count() >= ").arg(self.count), false),
            Often::Lte => (Sql::new("count() > ").arg(self.count), true),
            Often::Exact if self.count == 0 => (Sql::new("count() > 0"), true),
            Often::Exact => (Sql::new("count() = ").arg(self.count), false),
        };
        let who = select.then(Sql::new("GROUP BY acting HAVING ").append(&having)).sql();
        let is = if turned == self.negated { " IN (" } else { " NOT IN (" };
        Ok(Sql::new("").append(&ground.actors.id()).push(is).append(&who).push(")"))
    }
}

/// The definitions of a scope; none where there is no metadata database.
///
/// # Errors
/// 503 while the metadata database does not answer.
pub(super) async fn load(query: &Query, scope: &Scope) -> Result<Cohorts, Problem> {
    let Some(meta) = &query.database else { return Ok(Cohorts::default()) };
    let found = meta.documents(COHORTS).list(scope).await.map_err(saved::problem)?;
    let each = found.into_iter().map(|document| {
        let definition = serde_json::from_value(document.body.0).map_err(Problem::internal)?;
        Ok((document.id, definition))
    });
    Ok(Arc::new(each.collect::<Result<_, Problem>>()?))
}

/// Every cohort of this scope, oldest first.
///
/// # Errors
/// 503 while the metadata database does not answer.
pub(super) async fn list(query: &Query, scope: &Scope) -> Result<Value, Problem> {
    let found = meta(query)?.documents(COHORTS).list(scope).await.map_err(saved::problem)?;
    let cohorts = found.into_iter().map(Cohort::of).collect::<Result<Vec<_>, _>>()?;
    Ok(json!({ "cohorts": cohorts }))
}

/// One cohort.
///
/// # Errors
/// 404, and 503 while the metadata database does not answer.
pub(super) async fn show(query: &Query, scope: &Scope, id: &str) -> Result<Cohort, Problem> {
    Cohort::of(find(query, scope, id).await?)
}

/// Makes a cohort.
///
/// # Errors
/// 400 for what cannot be meant; 503 while a database does not answer.
pub(super) async fn create(query: &Query, scope: &Scope, new: NewCohort) -> Result<Cohort, Problem> {
    saved::check_name("name", &new.name, NAME_CHARS_MAX)?;
    let ids = new.distinct_ids.unwrap_or_default();
    let is_static = !ids.is_empty();
    if is_static && !(new.filters.is_empty() && new.behaviors.is_empty()) {
        let message = "distinct_ids make a static cohort, which has neither filters nor behaviors";
        return Err(Problem::invalid("distinct_ids", message));
    }
    check_ids("distinct_ids", &ids)?;
    let definition =
        Definition { is_static, filters: new.filters, behaviors: new.behaviors, matched: new.matched };
    check(query, scope, &definition).await?;
    let body = serde_json::to_value(&definition).map_err(Problem::internal)?;
    let max = query.limits.cohorts_max;
    let made = meta(query)?.documents(COHORTS).create(scope, new.name.trim(), body, max).await;
    let made = made.map_err(saved::problem)?;
    put(query, scope, &made.id, &ids, &[]).await?;
    query.forget(scope);
    Cohort::of(made)
}

/// Changes a cohort.
///
/// # Errors
/// 400, 404; 409: it was changed meanwhile.
pub(super) async fn change(
    query: &Query,
    scope: &Scope,
    id: &str,
    change: CohortChange,
) -> Result<Cohort, Problem> {
    if let Some(name) = &change.name {
        saved::check_name("name", name, NAME_CHARS_MAX)?;
    }
    check_ids("add", &change.add)?;
    check_ids("remove", &change.remove)?;
    let found = find(query, scope, id).await?;
    let now = Cohort::of(found.clone())?;
    let defines = change.filters.is_some() || change.behaviors.is_some();
    let puts = !change.add.is_empty() || !change.remove.is_empty();
    if (now.is_static && defines) || (!now.is_static && puts) {
        let (field, message) = if puts {
            ("add", "only a static cohort has people put in and taken out")
        } else {
            ("filters", "a static cohort has neither filters nor behaviors")
        };
        return Err(Problem::invalid(field, message));
    }
    let definition = Definition {
        is_static: now.is_static,
        filters: change.filters.unwrap_or(now.filters),
        behaviors: change.behaviors.unwrap_or(now.behaviors),
        matched: change.matched.unwrap_or(now.matched),
    };
    check(query, scope, &definition).await?;
    let body = serde_json::to_value(&definition).map_err(Problem::internal)?;
    let name = change.name.unwrap_or(now.name);
    let changed = meta(query)?.documents(COHORTS).change(scope, &found, name.trim(), body).await;
    if !changed.map_err(saved::problem)? {
        let message = "the cohort was changed meanwhile: read it again and change that";
        return Err(Problem::new(ErrorCode::AlreadyExists, message));
    }
    put(query, scope, id, &change.add, &change.remove).await?;
    query.forget(scope);
    show(query, scope, id).await
}

/// Deletes a cohort; questions that name it are refused from then on.
///
/// # Errors
/// 404, and 503 while the metadata database does not answer.
pub(super) async fn delete(query: &Query, scope: &Scope, id: &str) -> Result<(), Problem> {
    let deleted = meta(query)?.documents(COHORTS).delete(scope, id).await.map_err(saved::problem)?;
    query.forget(scope);
    if deleted { Ok(()) } else { Err(missing(id)) }
}

async fn put(
    query: &Query,
    scope: &Scope,
    id: &str,
    add: &[String],
    remove: &[String],
) -> Result<(), Problem> {
    let version = query.store.micros().await.map_err(super::problem)?;
    // Of an id that is in both lists, taking out is said last.
    let of = |ids: &[String], is_member: bool, version: u64| {
        ids.iter()
            .map(|distinct_id| CohortMemberRow {
                project_id: scope.project.to_string(),
                environment_id: scope.environment.to_string(),
                cohort_id: id.to_owned(),
                distinct_id: distinct_id.clone(),
                is_member,
                version,
            })
            .collect::<Vec<_>>()
    };
    let rows = [of(add, true, version), of(remove, false, version + 1)].concat();
    if rows.is_empty() {
        return Ok(());
    }
    let token = format!("{id}-{version}");
    query.store.insert_cohort_members(&rows, &token).await.map_err(|error| {
        let message = "the event store does not take the members now; send the same again after a moment";
        Problem::unavailable(message, std::time::Duration::from_secs(1)).because(error)
    })
}

async fn check(query: &Query, scope: &Scope, definition: &Definition) -> Result<(), Problem> {
    let actors = query.actors(scope).await?;
    let calendar = Calendar { zone: chrono_tz::UTC, week_start: WeekStart::default() };
    let now = query.clock.now();
    definition.check(&Ground { calendar: &calendar, now, limits: &query.limits, actors: &actors })
}

fn check_ids(field: &str, ids: &[String]) -> Result<(), Problem> {
    if ids.len() > MEMBERS_MAX {
        let message = format!("{field} has {} ids, more than {MEMBERS_MAX}", ids.len());
        return Err(Problem::invalid(field, message).with("max", MEMBERS_MAX));
    }
    ids.iter()
        .enumerate()
        .try_for_each(|(place, id)| saved::check_name(&format!("{field}[{place}]"), id, NAME_CHARS_MAX))
}

fn meta(query: &Query) -> Result<&Meta, Problem> {
    query.database.as_ref().ok_or_else(|| Problem::internal(anyhow::anyhow!("no metadata database is given")))
}

async fn find(query: &Query, scope: &Scope, id: &str) -> Result<Document, Problem> {
    let found = meta(query)?.documents(COHORTS).find(scope, id).await;
    found.map_err(saved::problem)?.ok_or_else(|| missing(id))
}

fn missing(id: &str) -> Problem {
    let shown: String = id.chars().take(100).collect();
    Problem::new(ErrorCode::NotFound, "no cohort of this project and environment has this id")
        .with("given", shown)
}

//! Who acted: questions count people, not distinct ids.
//!
//! An acting person's id is a `UInt64`: the hash of the distinct id that the person is named after. A distinct id that
//! was never merged is a person of its own, so its hash, which stands in the table's key, is the answer without any
//! join. Only in a scope that has merges, the few distinct ids that belong to somebody else are looked up.
//!
//! Person properties are *current*: the value that the person has now holds for all of their events, whenever they
//! happened and in whichever order the events arrived.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cohorts::{self, Cohorts};
use super::extraction::Uses;
use super::filter::Filters;
use super::groups::{self, Meant};
use super::statement::{self, View};
use super::{Query, saved, session, test_accounts};
use crate::event::Scope;
use crate::http::{ErrorCode, Problem};
use crate::store::{Property, Sql};

/// How long a scope that was merged by another process may be taken for one without merges. Merges by this process
/// are known at once.
const KNOWN: Duration = Duration::from_secs(1);
/// Scopes that are remembered at most.
const SCOPES_MAX: usize = 10_000;

/// How one scope's events find their people. Cheap to clone; clones know the same properties.
#[derive(Clone, Debug)]
pub(super) struct Actors(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    scope: Scope,
    merged: bool,
    kept: Kept,
    columns: Columns,
    uses: Option<Arc<Uses>>,
    /// Person properties that were asked for; a place here is a column of the join.
    keys: Mutex<Vec<String>>,
    /// Values of sessions that were asked for, likewise.
    sessions: Mutex<Vec<Sql>>,
    types: groups::Types,
    /// Properties of groups that were asked for.
    groups: groups::Columns,
}

static UNFILTERED: Filters = Filters(Vec::new());

/// What the metadata database keeps of a scope.
#[derive(Clone, Debug)]
enum Kept {
    /// Read just now, or when the database last answered.
    Read { cohorts: Cohorts, test_accounts: Arc<Filters> },
    /// It does not answer, and did not since this process asks about the scope.
    Away,
    /// Nobody asked.
    Unasked,
}

impl Actors {
    /// Of a scope that has merges, or has not; its cohorts are not known. For checks without the store.
    pub(super) fn new(scope: &Scope, merged: bool) -> Self {
        Self::of(scope, merged, Kept::Unasked, (Columns::default(), None, groups::Types::default()))
    }

    /// The same with these types of groups.
    #[cfg(test)]
    pub(super) fn with_groups(&self, types: &[&str]) -> Self {
        let types = types.iter().map(|name| (*name).to_owned()).collect();
        Self::of(&self.0.scope, self.0.merged, Kept::Unasked, (Columns::default(), None, types))
    }

    /// The same of a scope without merges that has these cohorts.
    #[cfg(test)]
    pub(super) fn with_cohorts(scope: &Scope, cohorts: Cohorts) -> Self {
        let kept = Kept::Read { cohorts, test_accounts: Arc::default() };
        Self::of(scope, false, kept, (Columns::default(), None, groups::Types::default()))
    }

    fn known(scope: &Scope, known: Known, uses: &Arc<Uses>) -> Self {
        let Known { merged, kept, columns, types, .. } = known;
        Self::of(scope, merged, kept, (columns, Some(uses.clone()), types))
    }

    fn of(
        scope: &Scope,
        merged: bool,
        kept: Kept,
        (columns, uses, types): (Columns, Option<Arc<Uses>>, groups::Types),
    ) -> Self {
        let (scope, keys, sessions) = (scope.clone(), Mutex::default(), Mutex::default());
        let groups = groups::Columns::default();
        Self(Arc::new(Inner { scope, merged, kept, columns, uses, keys, sessions, types, groups }))
    }

    /// The types of groups that have a number.
    pub(super) fn group_types(&self) -> &[String] {
        &self.0.types
    }

    /// The property `key` of the event's group of this type.
    pub(super) fn group_property(&self, meant: Meant<'_>, key: &str) -> Property {
        self.0.groups.property(meant, key, &self.0.types)
    }

    /// The event's property `key`: from its column where it was promoted, else from the text.
    pub(super) fn event_property(&self, key: &str) -> Property {
        if let Some(column) = self.0.columns.get(key) {
            return Property::of_json(Sql::default().name(column));
        }
        if let Some(uses) = &self.0.uses {
            uses.count(key);
        }
        Property::new(key)
    }

    /// The cohorts of the scope; none: nobody asked for them.
    ///
    /// # Errors
    /// 503: the metadata database does not answer.
    pub(super) fn cohorts(&self) -> Result<Option<&Cohorts>, Problem> {
        match &self.0.kept {
            Kept::Read { cohorts, .. } => Ok(Some(cohorts)),
            Kept::Away => Err(saved::away()),
            Kept::Unasked => Ok(None),
        }
    }

    /// The filters that leave the scope's own people out.
    ///
    /// # Errors
    /// 503: the metadata database does not answer.
    pub(super) fn test_accounts(&self) -> Result<&Filters, Problem> {
        match &self.0.kept {
            Kept::Read { test_accounts, .. } => Ok(test_accounts),
            Kept::Away => Err(saved::away()),
            Kept::Unasked => Ok(&UNFILTERED),
        }
    }

    /// Rows of one column: the acting ids of a static cohort's members.
    pub(super) fn members_of(&self, cohort_id: &str) -> Sql {
        let ids = Sql::new("SELECT id_hash FROM cohort_members FINAL WHERE ")
            .append(&self.scoped())
            .push(" AND cohort_id = ")
            .arg(cohort_id)
            .push(" AND is_member = 1");
        Sql::new("SELECT ")
            .push(self.owner())
            .push(" AS acting FROM (")
            .append(&ids)
            .push(") AS members")
            .append(&self.owners())
    }

    /// Whose events they are about.
    pub(super) fn scope(&self) -> &Scope {
        &self.0.scope
    }

    /// `UInt64`: the acting person of an event row.
    pub(super) fn id(&self) -> Sql {
        if self.0.merged {
            Sql::new("if(merged_actor = 0, cityHash64(distinct_id), merged_actor)")
        } else {
            Sql::new("cityHash64(distinct_id)")
        }
    }

    /// The acting person's property `key`.
    pub(super) fn property(&self, key: &str) -> Property {
        let mut keys = self.0.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let place = keys.iter().position(|known| known == key).unwrap_or_else(|| {
            keys.push(key.to_owned());
            keys.len() - 1
        });
        Property::of_json(column(place))
    }

    /// The property of an event's session whose JSON text `value` is, over the rows of one session.
    pub(super) fn session_property(&self, value: &Sql) -> Property {
        let mut sessions = self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let place = sessions.iter().position(|known| known == value).unwrap_or_else(|| {
            sessions.push(value.clone());
            sessions.len() - 1
        });
        Property::of_json(session_column(place))
    }

    /// The right side of an `IN`: the acting people that these distinct ids belong to.
    pub(super) fn named(&self, distinct_ids: &[&str]) -> Sql {
        let hash = |id: &&str| Sql::new("cityHash64(").arg(*id).push(")");
        let hashes: Vec<Sql> = distinct_ids.iter().map(hash).collect();
        if !self.0.merged {
            return Sql::new("(").join(", ", &hashes).push(")");
        }
        Sql::new("(SELECT if(owner = 0, named, owner) FROM (SELECT arrayJoin([")
            .join(", ", &hashes)
            .push("]) AS named) AS given ANY LEFT JOIN (SELECT id_hash AS owned_id, actor AS owner FROM ")
            .append(&self.overrides())
            .push(") AS owners ON owned_id = named)")
    }

    /// What stands behind the table of events: the joins of what `statement` names, nothing else.
    pub(super) fn joins(&self, statement: &Sql) -> Sql {
        let names = |name: &str| statement.text().contains(name);
        let keys = self.0.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let used: Vec<(usize, &str)> = keys
            .iter()
            .enumerate()
            .filter(|(place, _)| names(column(*place).text()))
            .map(|(place, key)| (place, key.as_str()))
            .collect();
        let mut joins = Sql::default();
        if self.0.merged && (!used.is_empty() || names("merged_actor")) {
            joins = joins
                .push(" ANY LEFT JOIN (SELECT id_hash AS merged_id, actor AS merged_actor FROM ")
                .append(&self.overrides())
                .push(") AS merged ON merged_id = cityHash64(distinct_id)");
        }
        if !used.is_empty() {
            joins = joins
                .push(" ANY LEFT JOIN (")
                .append(&self.properties(&used))
                .push(") AS person_properties ON property_actor = ")
                .append(&self.id());
        }
        let groups = self.0.groups.joins(&self.0.scope, statement);
        joins.append(&self.session_join(statement)).append(&groups)
    }

    /// One row a session that has any of the values that `statement` names.
    fn session_join(&self, statement: &Sql) -> Sql {
        let sessions = self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let used: Vec<Sql> = sessions
            .iter()
            .enumerate()
            .filter(|(place, _)| statement.text().contains(session_column(*place).text()))
            .map(|(place, value)| Sql::new("").append(value).push(" AS ").append(&session_column(place)))
            .collect();
        if used.is_empty() {
            return Sql::default();
        }
        let columns = session::id().push(" AS joined_session, ").join(", ", &used);
        let each = statement::events(&self.0.scope, View::Deduplicated, &columns)
            .and(session::id().push(" != ''"))
            .then(Sql::new("GROUP BY joined_session"));
        Sql::new(" ANY LEFT JOIN (")
            .append(&each.sql())
            .push(") AS session_values ON joined_session = ")
            .append(&session::id())
    }

    /// The distinct ids that belong to somebody else.
    fn overrides(&self) -> Sql {
        Sql::new("person_overrides FINAL WHERE ").append(&self.scoped()).push(" AND distinct_id != person")
    }

    /// One row a person who has any of these properties.
    fn properties(&self, used: &[(usize, &str)]) -> Sql {
        let columns: Vec<Sql> = used
            .iter()
            .map(|(place, key)| value_of(Some(key)).push(" AS ").append(&column(*place)))
            .collect();
        let facts = Sql::new("SELECT id_hash, key, kind, value, version FROM person_properties FINAL WHERE ")
            .append(&self.scoped())
            .push(" AND key IN ")
            .list(used.iter().map(|(_, key)| *key));
        let rows = Sql::new("SELECT ").push(self.owner()).push(" AS property_actor, ").join(", ", &columns);
        let rows = rows.push(" FROM (").append(&facts).push(") AS facts").append(&self.owners());
        rows.push(" GROUP BY property_actor")
    }

    /// One row: the acting id of this distinct id.
    pub(super) fn owner_of_id(&self, distinct_id: &str) -> Sql {
        let hash = Sql::new("cityHash64(").arg(distinct_id).push(")");
        if !self.0.merged {
            return Sql::new("SELECT ").append(&hash).push(" AS acting");
        }
        Sql::new("SELECT if(count() = 0, ")
            .append(&hash)
            .push(", any(actor)) AS acting FROM ")
            .append(&self.overrides())
            .push(" AND distinct_id = ")
            .arg(distinct_id)
    }

    /// At most one row: who an acting id from before a merge is now. None: there are no merges.
    pub(super) fn owner_of_hash(&self, actor: u64) -> Option<Sql> {
        self.0.merged.then(|| {
            Sql::new("SELECT actor AS acting FROM ")
                .append(&self.overrides())
                .push(" AND id_hash = ")
                .arg(actor)
                .push(" LIMIT 1")
        })
    }

    /// Rows of (acting id, hash, distinct id): all ids of these people, as far as they were merged. None: there are no
    /// merges.
    pub(super) fn ids_of(&self, people: &[u64]) -> Option<Sql> {
        self.0.merged.then(|| {
            // Of the id that a person is named after there may be no row of its own.
            Sql::new(
                "SELECT DISTINCT actor AS acting, arrayJoin([(id_hash, distinct_id), (actor, person)]) AS pair, \
                 pair.1 AS hash, pair.2 AS id FROM ",
            )
            .append(&self.overrides())
            .push(" AND actor IN ")
            .list(people)
        })
        .map(|pairs| {
            Sql::new("SELECT acting AS acting, hash AS hash, id AS id FROM (")
                .append(&pairs)
                .push(") ORDER BY acting, id")
        })
    }

    /// Rows of (acting id, key, JSON text): the properties of these people, at most `keys_max` of each.
    pub(super) fn properties_of(&self, people: &[u64], keys_max: usize) -> Sql {
        let facts = Sql::new("SELECT id_hash, key, kind, value, version FROM person_properties FINAL WHERE ")
            .append(&self.scoped())
            .push(" AND (id_hash IN ")
            .list(people);
        let facts = if self.0.merged {
            facts
                .push(" OR id_hash IN (SELECT id_hash FROM ")
                .append(&self.overrides())
                .push(" AND actor IN ")
                .list(people)
                .push("))")
        } else {
            facts.push(")")
        };
        let rows = Sql::new("SELECT ")
            .push(self.owner())
            .push(" AS acting, key AS name, ")
            .append(&value_of(None))
            .push(" AS said FROM (")
            .append(&facts)
            .push(") AS facts")
            .append(&self.owners())
            .push(" GROUP BY acting, name HAVING said != '' AND acting IN ")
            .list(people);
        rows.push(" ORDER BY acting, name LIMIT ").arg(keys_max).push(" BY acting")
    }

    /// Rows (id, distinct_ids, properties, first_seen, last_seen, events) of the people that `seen` knows as (acting,
    /// distinct_ids, first_seen, last_seen, events); properties as JSON text.
    pub(super) fn with_all_properties(&self, seen: &Sql) -> Sql {
        let facts = Sql::new("SELECT id_hash, key, kind, value, version FROM person_properties FINAL WHERE ")
            .append(&self.scoped());
        let values = Sql::new("SELECT ")
            .push(self.owner())
            .push(" AS owned, key AS name, ")
            .append(&value_of(None))
            .push(" AS said FROM (")
            .append(&facts)
            .push(") AS facts")
            .append(&self.owners())
            .push(" GROUP BY owned, name HAVING said != ''");
        let objects = Sql::new(
            "SELECT owned, concat('{', arrayStringConcat(groupArray(concat(toJSONString(name), ':', said)), ','), '}') \
             AS object FROM (",
        )
        .append(&values)
        .push(") GROUP BY owned");
        Sql::new(
            "SELECT acting AS id, distinct_ids, if(object = '', '{}', object) AS properties, first_seen, last_seen, \
             events FROM (",
        )
        .append(seen)
        .push(") AS seen ANY LEFT JOIN (")
        .append(&objects)
        .push(") AS objects ON owned = acting")
    }

    /// Whose a row of person properties is, beside [`Actors::owners`].
    fn owner(&self) -> &'static str {
        if self.0.merged { "if(owner = 0, id_hash, owner)" } else { "id_hash" }
    }

    /// Joins to person properties whose they are.
    fn owners(&self) -> Sql {
        if !self.0.merged {
            return Sql::default();
        }
        Sql::new(" ANY LEFT JOIN (SELECT id_hash AS owned_id, actor AS owner FROM ")
            .append(&self.overrides())
            .push(") AS owners ON owned_id = id_hash")
    }

    fn scoped(&self) -> Sql {
        let Scope { project, environment } = &self.0.scope;
        Sql::new("project_id = ")
            .arg(project.as_str())
            .push(" AND environment_id = ")
            .arg(environment.as_str())
    }
}

/// The value of a property over all ids of a person, from rows (key, kind, value, version): what was set last, else
/// what was set first once. `None`: of the key that is grouped by.
fn value_of(key: Option<&str>) -> Sql {
    let when = |kind: &'static str| {
        let of_kind = Sql::new(kind);
        match key {
            Some(key) => of_kind.push(" AND key = ").arg(key),
            None => of_kind,
        }
    };
    let (set, once) = (when("kind = 0"), when("kind = 1"));
    Sql::new("if(countIf(")
        .append(&set)
        .push(") > 0, argMaxIf(value, version, ")
        .append(&set)
        .push("), argMaxIf(value, version, ")
        .append(&once)
        .push("))")
}

fn session_column(place: usize) -> Sql {
    Sql::default().name(&format!("session_property_{place}_"))
}

fn column(place: usize) -> Sql {
    Sql::default().name(&format!("person_property_{place}_"))
}

/// Which scopes have merges, as far as this process knows.
#[derive(Debug, Default)]
pub(super) struct Merged(Mutex<HashMap<Scope, Known>>);

#[derive(Clone, Debug)]
struct Known {
    at: Instant,
    /// Of the store's count of merges, when it was asked.
    generation: u64,
    merged: bool,
    kept: Kept,
    columns: Columns,
    types: groups::Types,
}

/// Promoted properties, by key.
type Columns = Arc<HashMap<String, String>>;

impl Query {
    /// How the events of `scope` find their people and groups: says whether the scope has merges, and its types of groups.
    ///
    /// # Errors
    /// 503 for what the store does not answer.
    pub(super) async fn actors(&self, scope: &Scope) -> Result<Actors, Problem> {
        // Before the store is asked: a merge in between makes the next question ask again.
        let generation = self.store.persons_generation(scope);
        if let Some(known) = self.merged.get(scope)
            && known.generation == generation
            && known.at.elapsed() < KNOWN
        {
            return Ok(Actors::known(scope, known, &self.uses));
        }
        let overrides = Actors::new(scope, true).overrides();
        let sql = Sql::new("SELECT 1 AS one FROM ").append(&overrides).push(" LIMIT 1");
        let (merged, types) = futures::try_join!(
            Box::pin(self.select::<(u8,)>(sql)),
            Box::pin(self.select::<(String,)>(groups::numbered(scope))),
        )?;
        let merged = !merged.is_empty();
        let types = types.into_iter().map(|(name,)| name).collect();
        let kept = self.kept(scope).await?;
        let columns = self.store.promoted_columns().await.map_err(super::problem)?;
        let columns = Arc::new(columns.into_iter().collect());
        let known = Known { at: Instant::now(), generation, merged, kept, columns, types };
        self.merged.set(scope, known.clone());
        Ok(Actors::known(scope, known, &self.uses))
    }

    /// While the metadata database is away, what it kept last: questions that need nothing of it are answered.
    async fn kept(&self, scope: &Scope) -> Result<Kept, Problem> {
        let read = async {
            let cohorts = cohorts::load(self, scope).await?;
            Ok(Kept::Read { cohorts, test_accounts: test_accounts::load(self, scope).await? })
        };
        match read.await {
            Err(Problem { code: ErrorCode::ServiceUnavailable, .. }) => {
                Ok(self.merged.get(scope).map_or(Kept::Away, |known| known.kept))
            }
            other => other,
        }
    }

    /// Forgets what is known of the scope's people: a cohort changed.
    pub(super) fn forget(&self, scope: &Scope) {
        self.store.note_persons_changed(scope);
    }
}

impl Merged {
    fn get(&self, scope: &Scope) -> Option<Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(scope).cloned()
    }

    /// Makes the next question of every scope ask again.
    pub(super) fn forget_all(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn set(&self, scope: &Scope, known: Known) {
        let mut scopes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if scopes.len() >= SCOPES_MAX {
            scopes.retain(|_, known| known.at.elapsed() < KNOWN);
        }
        scopes.insert(scope.clone(), known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        Scope::new("proj", "env")
    }

    fn count(actors: &Actors, what: &Sql) -> String {
        statement::events(&scope(), View::Deduplicated, what).actors(actors).sql().text().to_owned()
    }

    #[test]
    fn nothing_is_joined_where_nobody_was_merged() {
        let actors = Actors::new(&scope(), false);
        let text = count(&actors, &Sql::new("uniqExact(").append(&actors.id()).push(") AS value"));
        assert!(!text.contains("JOIN"), "{text}");
        assert!(text.contains("uniqExact(cityHash64(distinct_id))"), "{text}");
    }

    #[test]
    fn merges_are_joined_by_statements_that_ask_for_people_alone() {
        let actors = Actors::new(&scope(), true);
        let people = count(&actors, &Sql::new("uniqExact(").append(&actors.id()).push(") AS value"));
        assert_eq!(people.matches("JOIN").count(), 1, "{people}");
        assert!(!count(&actors, &Sql::new("count() AS value")).contains("JOIN"));
    }

    #[test]
    fn a_person_property_is_joined_by_the_statement_that_names_it() {
        for (merged, joins) in [(false, 1), (true, 3)] {
            let actors = Actors::new(&scope(), merged);
            let email = actors.property("e'mail").text();
            let plan = actors.property("plan").text();
            assert_eq!(actors.property("e'mail").text(), email, "a key has one column");
            let one = count(&actors, &Sql::new("count() AS value, any(").append(&email).push(") AS label"));
            assert_eq!(one.matches("JOIN").count(), joins, "{one}");
            assert!(one.contains(r"key IN ('e\'mail')") && !one.contains("'plan'"), "{one}");
            assert_eq!(one.matches("environment_id = 'env'").count(), joins + 1, "{one}");
            let both = count(&actors, &Sql::new("any(").append(&email).push(") AS a, any(").append(&plan));
            assert!(both.contains(r"key IN ('e\'mail', 'plan')"), "{both}");
        }
    }
}

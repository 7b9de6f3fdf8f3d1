//! The tables of people: edges between distinct ids, whose each distinct id is, and person properties. What a person is,
//! is `person`'s business; this stores and finds.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};

use klickhouse::block::{Block, BlockInfo};
use klickhouse::{IndexMap, Type, Value};

use super::insert::statement;
use super::{InsertError, Row, RowCells, Sql, Store, StoreError};
use crate::event::Scope;

/// Distinct ids in one statement.
const IDS_MAX: usize = 2000;
/// Counters of [`Generations`]; scopes share them, which costs a question one look too many now and then.
const COUNTERS: usize = 256;

/// A fact about two distinct ids, in one of its two directions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PersonEdgeRow {
    pub project_id: String,
    pub environment_id: String,
    pub distinct_id: String,
    pub other_id: String,
    /// What the fact says; of each kind the highest version counts.
    pub kind: u8,
    pub at: i64,
    pub is_target: bool,
    pub version: u64,
}

/// Whose a distinct id is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PersonOverrideRow {
    pub project_id: String,
    pub environment_id: String,
    pub distinct_id: String,
    pub person: String,
    pub version: u64,
}

/// What a distinct id said of a property of its person.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PersonPropertyRow {
    pub project_id: String,
    pub environment_id: String,
    pub key: String,
    pub distinct_id: String,
    pub kind: u8,
    /// JSON text; empty: unset.
    pub value: String,
    pub version: u64,
}

/// Somebody was put into a static cohort, or taken out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CohortMemberRow {
    pub project_id: String,
    pub environment_id: String,
    pub cohort_id: String,
    pub distinct_id: String,
    pub is_member: bool,
    pub version: u64,
}

/// A live edge in one of its two directions: its latest join is later than its latest cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersonEdge {
    pub distinct_id: String,
    pub other_id: String,
    /// When it was joined first …
    pub first: i64,
    /// … and who was joined to whom then.
    pub is_target: bool,
    /// When it was joined last.
    pub last: i64,
}

impl Row for PersonEdge {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            distinct_id: cells.next()?,
            other_id: cells.next()?,
            first: cells.next()?,
            is_target: cells.next()?,
            last: cells.next()?,
        })
    }
}

/// How often the people of a scope were changed by this process.
#[derive(Debug)]
pub(super) struct Generations([AtomicU64; COUNTERS]);

impl Default for Generations {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Generations {
    fn of(&self, project: &str, environment: &str) -> &AtomicU64 {
        let mut hasher = DefaultHasher::new();
        (project, environment).hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % COUNTERS as u64).unwrap_or_default();
        self.0.get(place).unwrap_or(&self.0[0])
    }
}

impl Store {
    /// Grows whenever this process changed who is whom in this scope.
    pub fn persons_generation(&self, scope: &Scope) -> u64 {
        self.generations().of(scope.project.as_str(), scope.environment.as_str()).load(Ordering::Acquire)
    }

    /// Grows whenever this process stored properties of persons or groups of this scope.
    pub fn person_properties_generation(&self, scope: &Scope) -> u64 {
        let counters = self.property_generations();
        counters.of(scope.project.as_str(), scope.environment.as_str()).load(Ordering::Acquire)
    }

    /// Adds edges; under a token as [`Store::insert_events`].
    ///
    /// # Errors
    /// See [`InsertError`].
    pub async fn insert_person_edges(&self, rows: &[PersonEdgeRow], token: &str) -> Result<(), InsertError> {
        let columns =
            ["project_id", "environment_id", "distinct_id", "other_id", "kind", "at", "is_target", "version"];
        let cells = |row: &PersonEdgeRow| {
            vec![
                text(&row.project_id),
                text(&row.environment_id),
                text(&row.distinct_id),
                text(&row.other_id),
                (Type::UInt8, Value::UInt8(row.kind)),
                (Type::Int64, Value::Int64(row.at)),
                (Type::UInt8, Value::UInt8(row.is_target.into())),
                (Type::UInt64, Value::UInt64(row.version)),
            ]
        };
        self.insert(&statement("person_edges", columns), rows.len(), token, |from, to| {
            block(&columns, rows.get(from..to.min(rows.len())).unwrap_or_default(), cells)
        })
        .await
    }

    /// Says whose these distinct ids are; the highest version counts. Questions of this process see it from their next
    /// look on.
    ///
    /// # Errors
    /// See [`InsertError`].
    pub async fn insert_person_overrides(
        &self,
        rows: &[PersonOverrideRow],
        token: &str,
    ) -> Result<(), InsertError> {
        let columns = ["project_id", "environment_id", "distinct_id", "person", "version"];
        let cells = |row: &PersonOverrideRow| {
            vec![
                text(&row.project_id),
                text(&row.environment_id),
                text(&row.distinct_id),
                text(&row.person),
                (Type::UInt64, Value::UInt64(row.version)),
            ]
        };
        let inserted = self
            .insert(&statement("person_overrides", columns), rows.len(), token, |from, to| {
                block(&columns, rows.get(from..to.min(rows.len())).unwrap_or_default(), cells)
            })
            .await;
        // Also when the answer was lost: they may be stored.
        for row in rows {
            let counter = self.generations().of(&row.project_id, &row.environment_id);
            counter.fetch_add(1, Ordering::Release);
        }
        inserted
    }

    /// Adds what was said of person properties; under a token as [`Store::insert_events`].
    ///
    /// # Errors
    /// See [`InsertError`].
    pub async fn insert_person_properties(
        &self,
        rows: &[PersonPropertyRow],
        token: &str,
    ) -> Result<(), InsertError> {
        let columns = ["project_id", "environment_id", "key", "distinct_id", "kind", "value", "version"];
        let cells = |row: &PersonPropertyRow| {
            vec![
                text(&row.project_id),
                text(&row.environment_id),
                text(&row.key),
                text(&row.distinct_id),
                (Type::UInt8, Value::UInt8(row.kind)),
                text(&row.value),
                (Type::UInt64, Value::UInt64(row.version)),
            ]
        };
        let inserted = self
            .insert(&statement("person_properties", columns), rows.len(), token, |from, to| {
                block(&columns, rows.get(from..to.min(rows.len())).unwrap_or_default(), cells)
            })
            .await;
        for row in rows {
            self.note_properties_changed(&row.project_id, &row.environment_id);
        }
        inserted
    }

    /// Says that properties of this scope's persons or groups changed.
    pub(super) fn note_properties_changed(&self, project: &str, environment: &str) {
        self.property_generations().of(project, environment).fetch_add(1, Ordering::Release);
    }

    /// Puts people into static cohorts, or takes them out; under a token as [`Store::insert_events`].
    ///
    /// # Errors
    /// See [`InsertError`].
    pub async fn insert_cohort_members(
        &self,
        rows: &[CohortMemberRow],
        token: &str,
    ) -> Result<(), InsertError> {
        let columns = ["project_id", "environment_id", "cohort_id", "distinct_id", "is_member", "version"];
        let cells = |row: &CohortMemberRow| {
            vec![
                text(&row.project_id),
                text(&row.environment_id),
                text(&row.cohort_id),
                text(&row.distinct_id),
                (Type::UInt8, Value::UInt8(row.is_member.into())),
                (Type::UInt64, Value::UInt64(row.version)),
            ]
        };
        let inserted = self
            .insert(&statement("cohort_members", columns), rows.len(), token, |from, to| {
                block(&columns, rows.get(from..to.min(rows.len())).unwrap_or_default(), cells)
            })
            .await;
        for row in rows {
            let counter = self.generations().of(&row.project_id, &row.environment_id);
            counter.fetch_add(1, Ordering::Release);
        }
        inserted
    }

    /// Says that something about this scope's people changed beside what this room writes: a cohort's definition.
    pub fn note_persons_changed(&self, scope: &Scope) {
        let counter = self.generations().of(scope.project.as_str(), scope.environment.as_str());
        counter.fetch_add(1, Ordering::Release);
    }

    /// The store's clock in microseconds: what is asked after it sees all that was confirmed before it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn micros(&self) -> Result<u64, StoreError> {
        let rows: Vec<(i64,)> =
            self.select(Sql::new("SELECT toUnixTimestamp64Micro(now64(6)) AS now")).await?;
        let now = rows.first().map_or(0, |(now,)| *now);
        u64::try_from(now).map_err(|_| StoreError::Query("the store's clock is before 1970".to_owned()))
    }

    /// The live edges of each of these distinct ids, of at most `others_max` others each.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn person_edges(
        &self,
        scope: &Scope,
        ids: &[String],
        others_max: usize,
    ) -> Result<Vec<PersonEdge>, StoreError> {
        let mut found = Vec::new();
        for some in ids.chunks(IDS_MAX) {
            let select = Sql::new(
                "SELECT distinct_id, other_id, max(if(kind = 1, at, -1)) AS first, max(kind = 1 AND is_target = 1) AS \
                 target, max(if(kind = 2, at, -1)) AS last FROM person_edges FINAL",
            );
            let sql = scoped(select, scope)
                .push(" AND distinct_id IN ")
                .list(some)
                .push(
                    " GROUP BY distinct_id, other_id HAVING last > max(if(kind = 3, at, -1)) ORDER BY distinct_id, \
                     other_id LIMIT ",
                )
                .arg(others_max)
                .push(" BY distinct_id");
            found.extend(self.select::<PersonEdge>(sql).await?);
        }
        Ok(found)
    }

    /// The acting id of whoever is named after this distinct id.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn person_hash(&self, name: &str) -> Result<u64, StoreError> {
        let sql = Sql::new("SELECT cityHash64(").arg(name).push(") AS hash");
        let rows: Vec<(u64,)> = self.select(sql).await?;
        rows.first().map(|(hash,)| *hash).ok_or_else(|| StoreError::Query("no hash".to_owned()))
    }

    /// What the person is named after whose acting id is, or was before a merge, this.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn person_with_hash(&self, scope: &Scope, actor: u64) -> Result<Option<String>, StoreError> {
        let sql = scoped(Sql::new("SELECT person FROM person_overrides FINAL"), scope)
            .push(" AND (id_hash = ")
            .arg(actor)
            .push(" OR actor = ")
            .arg(actor)
            .push(") ORDER BY id_hash = ")
            .arg(actor)
            .push(" DESC LIMIT 1");
        let rows: Vec<(String,)> = self.select(sql).await?;
        Ok(rows.into_iter().next().map(|(person,)| person))
    }

    /// (distinct id, person) of these distinct ids, where it was ever said.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn person_overrides(
        &self,
        scope: &Scope,
        ids: &[String],
    ) -> Result<Vec<(String, String)>, StoreError> {
        self.find_overrides(scope, " AND distinct_id IN ", ids).await
    }

    /// (distinct id, person) of all distinct ids that belong to these persons, where it was ever said.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn person_members(
        &self,
        scope: &Scope,
        persons: &[String],
    ) -> Result<Vec<(String, String)>, StoreError> {
        self.find_overrides(scope, " AND person IN ", persons).await
    }

    async fn find_overrides(
        &self,
        scope: &Scope,
        which: &'static str,
        texts: &[String],
    ) -> Result<Vec<(String, String)>, StoreError> {
        let mut found = Vec::new();
        for some in texts.chunks(IDS_MAX) {
            let sql = scoped(Sql::new("SELECT distinct_id, person FROM person_overrides FINAL"), scope)
                .push(which)
                .list(some);
            found.extend(self.select::<(String, String)>(sql).await?);
        }
        Ok(found)
    }
}

fn scoped(select: Sql, scope: &Scope) -> Sql {
    select
        .push(" WHERE project_id = ")
        .arg(scope.project.as_str())
        .push(" AND environment_id = ")
        .arg(scope.environment.as_str())
}

pub(super) fn text(text: &str) -> (Type, Value) {
    (Type::String, Value::string(text))
}

pub(super) fn block<R>(
    columns: &[&'static str],
    rows: &[R],
    cells: impl Fn(&R) -> Vec<(Type, Value)>,
) -> Block {
    let mut types = IndexMap::new();
    let mut data: IndexMap<String, Vec<Value>> = IndexMap::new();
    for row in rows {
        for (name, (kind, value)) in columns.iter().zip(cells(row)) {
            types.entry((*name).to_owned()).or_insert(kind);
            data.entry((*name).to_owned()).or_default().push(value);
        }
    }
    Block { info: BlockInfo::default(), rows: rows.len() as u64, column_types: types, column_data: data }
}

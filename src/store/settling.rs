//! Finds out which days are at rest (`store/settled.rs` says what that is), of the scopes that are asked about.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::settled::{Found, Ground, Known, Part, PartName, ToCheck, dates};
use super::{Row, RowCells, Sql, Store, StoreError};
use crate::event::Scope;

/// Most rows that are held against FINAL in one statement.
const CHECKED_MAX: u64 = 5_000_000;
/// How long a scope is left alone whose rows could not be looked into in time.
const TOO_LARGE_FOR: Duration = Duration::from_mins(10);

/// What is known between two looks.
#[derive(Default)]
pub struct Settling {
    known: HashMap<Ground, Known>,
    /// Of each table, as the server made it: parts of one that was made anew may have the old ones' names.
    made: HashMap<String, String>,
    /// Scopes with more rows than can be looked into within a statement's time, and when that was found.
    too_large: HashMap<Ground, Instant>,
}

struct PartRow {
    table: String,
    made: String,
    part: Part,
}

impl Row for PartRow {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        let (table, made, name): (String, String, String) = (cells.next()?, cells.next()?, cells.next()?);
        Ok(Self { table, made, part: Part { name: name.into(), level: cells.next()? } })
    }
}

/// What a part holds of a scope's day.
struct FoundRow(Scope, Found);

impl Row for FoundRow {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        let (project, environment, name): (String, String, String) =
            (cells.next()?, cells.next()?, cells.next()?);
        Ok(Self(Scope::new(project, environment), (name.into(), cells.next()?, cells.next()?)))
    }
}

/// The active parts of a table.
#[derive(Default)]
struct Table {
    made: String,
    parts: Vec<Part>,
}

impl Store {
    /// Looks every `interval` into the days of the scopes that were asked about, for ever. On a cluster there is nothing
    /// to do: the parts of its shards are not looked into, and questions keep FINAL.
    ///
    /// # Errors
    /// None; what fails is tried again.
    pub(super) async fn settle(self, interval: Duration) -> anyhow::Result<()> {
        let mut settling = Settling::default();
        loop {
            tokio::time::sleep(interval).await;
            if let Err(error) = self.settle_once(&mut settling).await {
                tracing::debug!(%error, "days at rest were not looked for: tried again");
                settling.known.clear();
                self.grounds().forget();
            }
        }
    }

    /// One look. A day is settled at the second that finds the same parts, or at the first if one part holds all of it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn settle_once(&self, settling: &mut Settling) -> Result<(), StoreError> {
        settling.too_large.retain(|_, found| found.elapsed() < TOO_LARGE_FOR);
        let mut grounds = self.grounds().asked();
        grounds.retain(|ground| !settling.too_large.contains_key(ground));
        settling.known.retain(|ground, _| grounds.contains(ground));
        if grounds.is_empty() || self.cluster().is_some() {
            return Ok(());
        }
        let mut tables: HashMap<String, Table> = HashMap::new();
        for row in self.select::<PartRow>(active_parts(&grounds)).await? {
            let table = tables.entry(row.table).or_default();
            table.made = row.made;
            table.parts.push(row.part);
        }
        let made_anew = |(name, table): (&String, &Table)| {
            settling.made.get(name).is_some_and(|known| *known != table.made)
        };
        if tables.iter().any(made_anew) {
            settling.known.clear();
            self.grounds().forget();
        }
        settling.made.extend(tables.iter().map(|(name, table)| (name.clone(), table.made.clone())));
        let parts_of = |ground: &Ground| {
            tables.get(ground.table).map(|table| table.parts.as_slice()).unwrap_or_default()
        };
        // Those that were looked into before have the same new parts: one statement looks into them for all scopes.
        let mut unknown: BTreeMap<(&'static str, Vec<PartName>), Vec<Ground>> = BTreeMap::new();
        for ground in &grounds {
            let mut new = settling.known.entry(ground.clone()).or_default().unknown(parts_of(ground));
            new.sort_unstable();
            unknown.entry((ground.table, new)).or_default().push(ground.clone());
        }
        for ((table, new), grounds) in unknown {
            match self.look_into(&mut settling.known, (table, &new), &grounds, parts_of).await {
                Err(StoreError::Timeout { .. } | StoreError::Limit { .. }) => {
                    for ground in grounds {
                        settling.known.remove(&ground);
                        self.grounds().tell(&ground, None);
                        settling.too_large.insert(ground, Instant::now());
                    }
                }
                looked => looked?,
            }
        }
        Ok(())
    }

    async fn look_into<'p>(
        &self,
        known: &mut HashMap<Ground, Known>,
        (table, new): (&'static str, &[PartName]),
        grounds: &[Ground],
        parts_of: impl Fn(&Ground) -> &'p [Part],
    ) -> Result<(), StoreError> {
        let mut found = self.rows_in(table, new, grounds).await?;
        for ground in grounds {
            let Some(known) = known.get_mut(ground) else { continue };
            known.look(parts_of(ground), found.remove(&ground.scope).unwrap_or_default());
            self.hold_against_final(ground, known).await?;
            self.grounds().tell(ground, Some(known));
        }
        Ok(())
    }

    /// What these parts hold of these scopes.
    async fn rows_in(
        &self,
        table: &'static str,
        parts: &[PartName],
        grounds: &[Ground],
    ) -> Result<HashMap<Scope, Vec<Found>>, StoreError> {
        let mut held: HashMap<Scope, Vec<Found>> = HashMap::new();
        if parts.is_empty() {
            return Ok(held);
        }
        let scopes: Vec<Sql> = grounds.iter().map(|ground| pair(&ground.scope)).collect();
        let sql = Sql::new(
            "SELECT CAST(project_id, 'String') AS project, CAST(environment_id, 'String') AS environment, CAST(_part, \
             'String') AS part, toUInt16(toDate(timestamp)) AS day, countIf(is_deleted = 0) AS live FROM ",
        )
        .push(table)
        .push(" PREWHERE (project_id, environment_id) IN (")
        .join(", ", &scopes)
        .push(") WHERE _part IN ")
        .list(parts.iter().map(|name| &**name))
        .push(" GROUP BY project, environment, part, day SETTINGS max_threads = 1");
        for FoundRow(scope, found) in self.select(sql).await? {
            held.entry(scope).or_default().push(found);
        }
        Ok(held)
    }

    /// Holds days against FINAL.
    async fn hold_against_final(&self, ground: &Ground, known: &mut Known) -> Result<(), StoreError> {
        loop {
            let wanted = known.to_check(CHECKED_MAX);
            if wanted.days.is_empty() {
                return Ok(());
            }
            let left: Vec<(u16, u64)> = self.select(left_by_final(ground, &wanted)).await?;
            known.checked(&wanted, &left.into_iter().collect());
        }
    }
}

fn pair(scope: &Scope) -> Sql {
    Sql::new("(").arg(scope.project.as_str()).push(", ").arg(scope.environment.as_str()).push(")")
}

fn active_parts(grounds: &[Ground]) -> Sql {
    let mut tables: Vec<&str> = grounds.iter().map(|ground| ground.table).collect();
    tables.sort_unstable();
    tables.dedup();
    Sql::new(
        "SELECT table AS name, toString(made) AS made, part AS part, level AS level FROM (SELECT table, name AS part, level \
         FROM system.parts WHERE active AND database = currentDatabase()) AS parts INNER JOIN (SELECT name AS of, uuid AS \
         made FROM system.tables WHERE database = currentDatabase() AND name IN ",
    )
    .list(tables)
    .push(") AS tables ON table = of")
}

/// How many rows FINAL leaves of these days in these parts.
fn left_by_final(ground: &Ground, wanted: &ToCheck) -> Sql {
    let parts: Vec<&str> = wanted.parts.iter().map(|name| &**name).collect();
    let days: Vec<u16> = wanted.days.keys().copied().collect();
    let sql = Sql::new("SELECT toUInt16(toDate(timestamp)) AS day, count() AS live FROM ")
        .push(ground.table)
        .push(" FINAL");
    sql.push(" PREWHERE project_id = ")
        .arg(ground.scope.project.as_str())
        .push(" AND environment_id = ")
        .arg(ground.scope.environment.as_str())
        .push(" AND toDate(timestamp) IN ")
        .append(&dates(&days))
        .push(" WHERE _part IN ")
        .list(parts)
        .push(" GROUP BY day SETTINGS max_threads = 1")
}

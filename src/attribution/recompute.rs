//! From the store's events to rows: what changed, whose events that concerns, who is credited, written.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::credit::{Affected, Conversion, OfKey, Target, Touch, affected, conversions, merged};
use super::rule::{Join, Rule};
use super::{Attribution, AttributionError};
use crate::event::{Scope, Timestamp};
use crate::store::{AttributedRow, CreditedSource, Property, Row, RowCells, Sql, StoreError};
use crate::telemetry::names;

/// A row's time, in a form that the server cannot hold against a part's smallest and greatest: versions of an event may
/// differ in their time of day, and a part with the one that counts must not be left out.
pub(super) const MILLIS: &str = "bitOr(toUnixTimestamp64Milli(timestamp), 0)";
/// Keys, and bytes of them, in one statement: it stays well below the longest that the store reads (256 KiB).
const KEYS_MAX: usize = 1000;
const KEY_BYTES_MAX: usize = 64 << 10;
/// Event ids in one statement.
const IDS_MAX: usize = 200;
/// Rows of one insert.
const INSERT_ROWS_MAX: usize = 20_000;

/// An event that was stored.
#[derive(Clone, Copy, Debug)]
pub struct Taken<'a> {
    pub event_id: &'a str,
    pub event: &'a str,
    pub distinct_id: &'a str,
    pub session_id: &'a str,
    pub at: Timestamp,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub rows: u64,
    pub removed: u64,
}

impl Written {
    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.removed += other.removed;
    }
}

/// An event as it is gathered: name, id, distinct id, time, source key, target key, dimension, value.
struct Gathered {
    event: String,
    event_id: String,
    distinct_id: String,
    at: i64,
    source_key: String,
    target_key: String,
    dimension: String,
    value: Option<f64>,
}

impl Row for Gathered {
    fn from_cells(cells: &mut RowCells) -> Result<Self, StoreError> {
        Ok(Self {
            event: cells.next()?,
            event_id: cells.next()?,
            distinct_id: cells.next()?,
            at: cells.next()?,
            source_key: cells.next()?,
            target_key: cells.next()?,
            dimension: cells.next()?,
            value: cells.next()?,
        })
    }
}

/// A row that stands in the table: target's id, distinct id, time.
pub(super) type Standing = (String, String, Timestamp);

impl Attribution {
    /// Computes anew what these stored events of a scope may have changed.
    ///
    /// # Errors
    /// See [`AttributionError`]; take the same again.
    pub async fn take(&self, scope: &Scope, events: &[Taken<'_>]) -> Result<(), AttributionError> {
        for rule in self.rules.of(scope).await?.iter() {
            let named: Vec<&Taken<'_>> =
                events.iter().filter(|event| rule.definition.names(event.event)).collect();
            if named.is_empty() {
                continue;
            }
            let changed = self.changed(scope, rule, &named).await?;
            let written = self.recompute(scope, rule, changed, false).await?;
            names::ATTRIBUTION_ROWS.counter(&[]).increment(written.rows + written.removed);
        }
        Ok(())
    }

    /// What these events change, by key.
    pub(super) async fn changed(
        &self,
        scope: &Scope,
        rule: &Rule,
        events: &[&Taken<'_>],
    ) -> Result<Vec<Affected>, AttributionError> {
        let definition = &rule.definition;
        let mut found = Vec::new();
        match &definition.join {
            Join::DistinctId => {
                for event in events {
                    let key = event.distinct_id;
                    found.extend(affected(definition, event.event, event.at, (key, key)));
                }
            }
            Join::SessionId => {
                for event in events {
                    let key = event.session_id;
                    found.extend(affected(definition, event.event, event.at, (key, key)));
                }
            }
            // The store says what the text of a property is, so that it is always the same text.
            Join::Property { .. } => {
                for some in events.chunks(IDS_MAX) {
                    for row in self.keys_of(scope, rule, some).await? {
                        let at = Timestamp::from_millis(row.at);
                        found.extend(affected(
                            definition,
                            &row.event,
                            at,
                            (&row.source_key, &row.target_key),
                        ));
                    }
                }
            }
        }
        Ok(merged(found))
    }

    async fn keys_of(
        &self,
        scope: &Scope,
        rule: &Rule,
        events: &[&Taken<'_>],
    ) -> Result<Vec<Gathered>, AttributionError> {
        let times = || events.iter().map(|event| event.at);
        let (Some(from), Some(to)) = (times().min(), times().max()) else { return Ok(Vec::new()) };
        let ids: BTreeSet<&str> = events.iter().map(|event| event.event_id).collect();
        let sql = select(scope, rule, from, to).push(" AND event_id IN ").list(ids);
        Ok(self.store.select(sql).await?)
    }

    /// Computes these stretches anew and writes what comes of them. `purge`: rows of these keys and stretches whose
    /// target is there no more are removed.
    pub(super) async fn recompute(
        &self,
        scope: &Scope,
        rule: &Rule,
        affected: Vec<Affected>,
        purge: bool,
    ) -> Result<Written, AttributionError> {
        let mut written = Written::default();
        let mut rest = affected.into_iter().peekable();
        while rest.peek().is_some() {
            let (mut some, mut bytes) = (Vec::new(), 0);
            while let Some(one) = rest.next_if(|one| {
                some.is_empty() || some.len() < KEYS_MAX && bytes + one.key.len() <= KEY_BYTES_MAX
            }) {
                bytes += one.key.len();
                some.push(one);
            }
            written.add(self.recompute_some(scope, rule, some, purge).await?);
        }
        Ok(written)
    }

    /// As many keys as one statement takes; halved where they have too many events.
    async fn recompute_some(
        &self,
        scope: &Scope,
        rule: &Rule,
        affected: Vec<Affected>,
        purge: bool,
    ) -> Result<Written, AttributionError> {
        let (mut open, mut written) = (vec![affected], Written::default());
        while let Some(some) = open.pop() {
            let Some(from) = some.iter().map(|one| one.from).min() else { continue };
            let to = some.iter().map(|one| one.to).max().unwrap_or(from);
            // Before anything is read: what is confirmed before it is seen.
            let version = rule.row_version(self.store.micros().await?);
            let keys: BTreeSet<String> = some.iter().map(|one| one.key.clone()).collect();
            let Some((found, keys)) = self.gather(scope, rule, keys, (from, to)).await? else {
                if let [one] = &some[..] {
                    tracing::error!(
                        rule_id = rule.id,
                        key = one.key,
                        "a key has more events than attribution.gather_events_max: it is not attributed"
                    );
                    names::ATTRIBUTION_SKIPPED.counter(&[]).increment(1);
                    continue;
                }
                let (first, second) = some.split_at(some.len() / 2);
                open.extend([first.to_vec(), second.to_vec()]);
                continue;
            };
            let max = self.config.touches_max;
            let made = found
                .into_iter()
                .flat_map(|(key, events)| conversions(&rule.definition, &key, events, (from, to), max));
            let mut rows: Vec<AttributedRow> = made.map(|one| row(scope, rule, one, version)).collect();
            written.rows += rows.len() as u64;
            if purge {
                let standing = self.standing(scope, rule, &keys, (from, to)).await?;
                let gone = gone(scope, rule, standing, &rows, version);
                written.removed += gone.len() as u64;
                rows.extend(gone);
            }
            self.write(&rows).await?;
        }
        Ok(written)
    }

    /// Writes rows.
    pub(super) async fn write(&self, rows: &[AttributedRow]) -> Result<(), AttributionError> {
        for some in rows.chunks(INSERT_ROWS_MAX) {
            self.store.insert_attributed(some, &self.token()).await?;
        }
        Ok(())
    }

    /// The events of these keys that target events from `from` to `to` hang on, and under which keys they stand (people
    /// have one name of several); none: there are too many.
    async fn gather(
        &self,
        scope: &Scope,
        rule: &Rule,
        keys: BTreeSet<String>,
        (from, to): (Timestamp, Timestamp),
    ) -> Result<Option<(HashMap<String, OfKey>, BTreeSet<String>)>, AttributionError> {
        let definition = &rule.definition;
        let people = match definition.join {
            Join::DistinctId => Some(self.people(scope, &keys).await?),
            _ => None,
        };
        if let Some(people) = &people
            && keys.len() > 1
            && people.keys().map(String::len).sum::<usize>() > 2 * KEY_BYTES_MAX
        {
            return Ok(None);
        }
        let max = self.config.gather_events_max;
        let sql = select(scope, rule, from.minus(definition.look_back), to);
        let sql = match &people {
            Some(people) => sql
                .push(" AND cityHash64(distinct_id) IN (SELECT arrayJoin(arrayMap(id -> cityHash64(id), ")
                .arg(people.keys().collect::<Vec<_>>())
                .push(")))"),
            None => {
                sql.push(" AND (source_key IN ").list(&keys).push(" OR target_key IN ").list(&keys).push(")")
            }
        };
        let mut stream = self.store.stream::<Gathered>(sql.push(" LIMIT ").arg(max + 1)).await?;
        let (mut found, mut count): (HashMap<String, OfKey>, usize) = (HashMap::new(), 0);
        while let Some(chunk) = stream.next_chunk().await? {
            count += chunk.len();
            if count > max {
                return Ok(None);
            }
            for event in chunk {
                place(&mut found, rule, people.as_ref(), &keys, event);
            }
        }
        let keys = people.map_or(keys, |people| people.into_values().collect());
        Ok(Some((found, keys)))
    }

    /// All distinct ids of the people that these belong to, each with what its person is named after.
    async fn people(
        &self,
        scope: &Scope,
        ids: &BTreeSet<String>,
    ) -> Result<HashMap<String, String>, AttributionError> {
        let all: Vec<String> = ids.iter().cloned().collect();
        let known: HashMap<String, String> =
            self.store.person_overrides(scope, &all).await?.into_iter().collect();
        let name = |id: &String| known.get(id).unwrap_or(id).clone();
        let persons: BTreeSet<String> = all.iter().map(name).collect();
        let mut people: HashMap<String, String> = all.iter().map(|id| (id.clone(), name(id))).collect();
        let persons: Vec<String> = persons.into_iter().collect();
        people.extend(self.store.person_members(scope, &persons).await?);
        // The id that a person is named after may have no row of its own.
        for person in persons {
            people.entry(person.clone()).or_insert(person);
        }
        Ok(people)
    }

    /// Rows that stand in the table for these keys and times.
    async fn standing(
        &self,
        scope: &Scope,
        rule: &Rule,
        keys: &BTreeSet<String>,
        (from, to): (Timestamp, Timestamp),
    ) -> Result<Vec<Standing>, AttributionError> {
        let sql = standing_sql(scope, rule, from, to).push(" AND join_key IN ").list(keys);
        Ok(self.store.select(sql).await?)
    }
}

/// Puts an event where it is needed.
fn place(
    found: &mut HashMap<String, OfKey>,
    rule: &Rule,
    people: Option<&HashMap<String, String>>,
    keys: &BTreeSet<String>,
    event: Gathered,
) {
    let definition = &rule.definition;
    let key = |text: &str| match people {
        // Another id with the same hash is nobody of these.
        Some(people) => people.get(text).cloned(),
        None => keys.get(text).cloned(),
    };
    let at = Timestamp::from_millis(event.at);
    if definition.is_source(&event.event)
        && let Some(key) = key(&event.source_key)
    {
        found.entry(key).or_default().sources.push(Touch {
            at,
            event_id: event.event_id.clone(),
            event: event.event.clone(),
            dimension: event.dimension,
        });
    }
    if definition.target == event.event
        && let Some(key) = key(&event.target_key)
    {
        found.entry(key).or_default().targets.push(Target {
            at,
            event_id: event.event_id,
            distinct_id: event.distinct_id,
            value: event.value,
        });
    }
}

/// The rule's events of a scope from one moment to another (both included) that have a key.
pub(super) fn select(scope: &Scope, rule: &Rule, from: Timestamp, to: Timestamp) -> Sql {
    let definition = &rule.definition;
    let text = |key: &str| Sql::new("ifNull(").append(&Property::new(key).text()).push(", '')");
    let (source_key, target_key) = match &definition.join {
        Join::DistinctId => (Sql::new("distinct_id"), Sql::new("distinct_id")),
        Join::SessionId => (Sql::new("session_id"), Sql::new("session_id")),
        Join::Property { source, target } => (text(source), text(target)),
    };
    // Of the other role there is no key.
    let of =
        |condition: Sql, key: &Sql| Sql::new("if(").append(&condition).push(", ").append(key).push(", '')");
    let is_source = Sql::new("event_name IN ").list(&definition.sources);
    let is_target = Sql::new("event_name = ").arg(&definition.target);
    let dimension = definition.dimension.as_ref().map_or_else(|| Sql::new("''"), |key| text(key));
    let value = match &definition.value {
        Some(key) => Property::new(key).number(),
        None => Sql::new("CAST(NULL, 'Nullable(Float64)')"),
    };
    let mut named: BTreeSet<&str> = definition.sources.iter().map(String::as_str).collect();
    named.insert(&definition.target);
    Sql::new("SELECT CAST(event_name, 'String') AS event, event_id AS id_of_event, distinct_id AS id_of_person, toInt64(")
        .push(MILLIS)
        .push(") AS at, ")
        .append(&of(is_source, &source_key))
        .push(" AS source_key, ")
        .append(&of(is_target, &target_key))
        .push(" AS target_key, ")
        .append(&dimension)
        .push(" AS dimension, ")
        .append(&value)
        .push(" AS value FROM events FINAL WHERE project_id = ")
        .arg(scope.project.as_str())
        .push(" AND environment_id = ")
        .arg(scope.environment.as_str())
        .push(" AND event_name IN ")
        .list(named)
        .push(" AND toDate(timestamp) >= ")
        .arg(day(from))
        .push(" AND toDate(timestamp) <= ")
        .arg(day(to))
        .push(" AND ")
        .push(MILLIS)
        .push(" >= ")
        .arg(from.as_millis())
        .push(" AND ")
        .push(MILLIS)
        .push(" <= ")
        .arg(to.as_millis())
        .push(" AND (source_key != '' OR target_key != '')")
}

/// Rows that stand in the table for a rule from one moment to another (both included).
pub(super) fn standing_sql(scope: &Scope, rule: &Rule, from: Timestamp, to: Timestamp) -> Sql {
    Sql::new(
        "SELECT target_event_id, target_distinct_id, target_at FROM attributed_conversions FINAL WHERE project_id = ",
    )
    .arg(scope.project.as_str())
    .push(" AND environment_id = ")
    .arg(scope.environment.as_str())
    .push(" AND rule_id = ")
    .arg(&rule.id)
    .push(" AND toDate(target_at) >= ")
    .arg(day(from))
    .push(" AND toDate(target_at) <= ")
    .arg(day(to))
    .push(" AND bitOr(toUnixTimestamp64Milli(target_at), 0) >= ")
    .arg(from.as_millis())
    .push(" AND bitOr(toUnixTimestamp64Milli(target_at), 0) <= ")
    .arg(to.as_millis())
}

/// Tombstones of the rows that stand and are not among those that should.
pub(super) fn gone(
    scope: &Scope,
    rule: &Rule,
    standing: Vec<Standing>,
    should: &[AttributedRow],
    version: u64,
) -> Vec<AttributedRow> {
    type Key<'a> = (i64, &'a str, &'a str);
    let key = |at: Timestamp| at.as_millis().div_euclid(86_400_000);
    let there: BTreeMap<Key<'_>, ()> = should
        .iter()
        .map(|row| ((key(row.target_at), row.target_distinct_id.as_str(), row.target_event_id.as_str()), ()))
        .collect();
    let gone = standing.into_iter().filter(|(event_id, distinct_id, at)| {
        !there.contains_key(&(key(*at), distinct_id.as_str(), event_id.as_str()))
    });
    gone.map(|(event_id, distinct_id, at)| tombstone(scope, rule, (event_id, distinct_id, at), version))
        .collect()
}

fn tombstone(
    scope: &Scope,
    rule: &Rule,
    (event_id, distinct_id, at): Standing,
    version: u64,
) -> AttributedRow {
    let target = Target { at, event_id, distinct_id, value: None };
    let empty = Conversion { key: String::new(), target, touches: 0, credited: Vec::new() };
    AttributedRow { is_deleted: true, ..row(scope, rule, empty, version) }
}

/// A conversion as it is stored.
pub(super) fn row(scope: &Scope, rule: &Rule, conversion: Conversion, version: u64) -> AttributedRow {
    let Conversion { key, target, touches, credited } = conversion;
    AttributedRow {
        project_id: scope.project.to_string(),
        environment_id: scope.environment.to_string(),
        rule_id: rule.id.clone(),
        rule_version: rule.version,
        join_key: key,
        target_event: rule.definition.target.clone(),
        target_event_id: target.event_id,
        target_distinct_id: target.distinct_id,
        target_at: target.at,
        value: target.value,
        touches: u32::try_from(touches).unwrap_or(u32::MAX),
        credited: credited
            .into_iter()
            .map(|(touch, credit)| CreditedSource {
                event_id: touch.event_id,
                event: touch.event,
                at: touch.at,
                dimension: touch.dimension,
                credit,
            })
            .collect(),
        version,
        is_deleted: false,
    }
}

/// The date in UTC, within what the server's `Date` can hold (1970-01-01 to 2149-06-06).
pub(super) fn day(at: Timestamp) -> String {
    let days = at.as_millis().div_euclid(86_400_000).clamp(0, 65_535);
    Timestamp::from_millis(days * 86_400_000).to_utc().format("%Y-%m-%d").to_string()
}

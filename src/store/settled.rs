//! Days at rest: which days of a scope hold every key once, so that a question reads their rows as they stand.
//!
//! FINAL compares each row's key with those of the other parts around it, and that is four fifths of the time of a trend
//! over days that several parts hold. But such a day mostly has no two rows of one key. So the parts of the days that
//! are asked about are looked into now and then ([`Known`]): a day is *settled* when the live rows of its parts are as
//! many as FINAL leaves of them. Parts never change, so it stays settled as long as no other part holds rows of it.
//!
//! A statement that reads settled days without FINAL says which parts it trusts, and the server stops it at the first row
//! of any other part ([`guard`]): an event that came late, a tombstone, a merge, a mutation. Then the same is asked with
//! FINAL. What was known of a day can thus be out of date and cost time, but never make an answer wrong.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Sql;
use super::sql::{PREWHERE, Read};
use crate::event::Scope;

/// Days since 1970 (UTC).
pub(super) type Day = u16;
pub(super) type PartName = Arc<str>;

/// What the server says when a row of a part that is not trusted comes up; also how that is told from other errors.
pub(super) const OVERTAKEN: &str = "flexflow: rows of a day that was at rest came meanwhile";
/// Scopes that nobody asked about for so long are looked into no more.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(15);
/// Most scopes that are looked into; the others are read with FINAL.
const GROUNDS_MAX: usize = 256;
/// With more days than these to be read with FINAL, all are.
const UNSETTLED_MAX: usize = 64;
/// With more parts than these to be named, all days are: a statement has at most 256 KiB, and may read several times.
const PARTS_MAX: usize = 500;

/// The rows that one table has of one scope.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Ground {
    pub table: &'static str,
    pub scope: Scope,
}

/// A part of a table as it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub name: PartName,
    /// How often its rows were merged, at least: from 1 on it holds a key once.
    pub level: u32,
}

/// A day of a ground.
#[derive(Clone, Default, Debug)]
struct DayOf {
    /// Live rows by part.
    parts: BTreeMap<PartName, u64>,
    settled: bool,
    /// Two rows of one key, or a tombstone with what it hides, were found in these parts.
    refuted: bool,
    /// Times that it was looked into since its parts last changed.
    looks: u32,
}

/// What is known of a ground.
#[derive(Default, Debug)]
pub(super) struct Known {
    parts: HashSet<PartName>,
    days: BTreeMap<Day, DayOf>,
}

/// Live rows that a part has of a day.
pub(super) type Found = (PartName, Day, u64);

/// Days to be held against FINAL.
#[derive(Default, PartialEq, Eq, Debug)]
pub(super) struct ToCheck {
    pub days: BTreeMap<Day, u64>,
    pub parts: BTreeSet<PartName>,
}

impl Known {
    /// Which of these parts were not looked into yet.
    pub(super) fn unknown(&self, active: &[Part]) -> Vec<PartName> {
        let new = active.iter().filter(|part| !self.parts.contains(&part.name));
        new.map(|part| part.name.clone()).collect()
    }

    /// Takes what the unknown ones of the active parts hold.
    pub(super) fn look(&mut self, active: &[Part], found: Vec<Found>) {
        let now: HashSet<PartName> = active.iter().map(|part| part.name.clone()).collect();
        let merged: HashSet<&PartName> =
            active.iter().filter(|part| part.level > 0).map(|part| &part.name).collect();
        let mut changed = BTreeSet::new();
        for (number, day) in &mut self.days {
            let before = day.parts.len();
            day.parts.retain(|name, _| now.contains(name));
            if day.parts.len() < before {
                changed.insert(*number);
            }
        }
        for (name, number, live) in found {
            changed.insert(number);
            self.days.entry(number).or_default().parts.insert(name, live);
        }
        self.parts = now;
        self.days.retain(|_, day| !day.parts.is_empty());
        for (number, day) in &mut self.days {
            if changed.contains(number) {
                (day.settled, day.refuted, day.looks) = (false, false, 0);
            } else {
                day.looks = day.looks.saturating_add(1);
            }
            if day.parts.len() == 1 && day.parts.keys().all(|name| merged.contains(name)) {
                day.settled = true;
            }
        }
    }

    /// Days whose parts were the same at two looks, of at most so many rows together.
    pub(super) fn to_check(&self, rows_max: u64) -> ToCheck {
        let mut wanted = ToCheck::default();
        let mut rows = 0;
        // The newest first: they are asked about most.
        for (number, day) in self.days.iter().rev() {
            if day.settled || day.refuted || day.looks == 0 {
                continue;
            }
            let live = day.parts.values().sum::<u64>();
            if rows > 0 && rows + live > rows_max {
                break;
            }
            rows += live;
            wanted.days.insert(*number, live);
            wanted.parts.extend(day.parts.keys().cloned());
        }
        wanted
    }

    /// Takes how many rows FINAL leaves of the days that were to be checked, in those parts. A live row that it takes away
    /// is never made up for by another: they are as many only if each key has one.
    pub(super) fn checked(&mut self, wanted: &ToCheck, left: &HashMap<Day, u64>) {
        for (number, live) in &wanted.days {
            if let Some(day) = self.days.get_mut(number) {
                day.settled = left.get(number).copied().unwrap_or(0) == *live;
                day.refuted = !day.settled;
            }
        }
    }

    fn settled(&self) -> Settled {
        let mut settled = Settled::default();
        for (number, day) in &self.days {
            if day.settled {
                settled.parts.insert(*number, day.parts.keys().cloned().collect());
            } else {
                settled.unsettled.insert(*number);
            }
        }
        settled
    }
}

/// What questions are told of a ground. A day in neither has no rows in any part that is known.
#[derive(Default, PartialEq, Eq, Debug)]
struct Settled {
    parts: BTreeMap<Day, Vec<PartName>>,
    unsettled: BTreeSet<Day>,
}

/// How a statement reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum How {
    /// Without FINAL.
    Plain,
    /// With FINAL where days are not settled.
    Mixed,
}

impl How {
    /// As metrics write it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Mixed => "mixed",
        }
    }
}

impl Settled {
    /// What is read in place of `table FINAL PREWHERE keys`.
    fn source(&self, read: &Read, keys: &str) -> Option<(Sql, How)> {
        let parts: BTreeSet<&PartName> =
            self.parts.range(read.days.clone()).flat_map(|(_, parts)| parts).collect();
        let unsettled: Vec<Day> = self.unsettled.range(read.days.clone()).copied().collect();
        if parts.is_empty() || parts.len() > PARTS_MAX || unsettled.len() > UNSETTLED_MAX {
            return None;
        }
        let parts: Vec<&str> = parts.into_iter().map(|name| &**name).collect();
        let from = |select: Sql| select.push(read.table);
        let plain = from(Sql::new("(SELECT * FROM ")).push(PREWHERE).again(keys);
        let rest = |sql: Sql| sql.push(") AS ").push(read.table);
        if unsettled.is_empty() {
            return Some((rest(guard(plain.push(" AND "), &parts)), How::Plain));
        }
        let plain = plain.push(" AND toDate(timestamp) NOT IN ").append(&dates(&unsettled)).push(" AND ");
        let final_ = from(guard(plain, &parts).push(" UNION ALL SELECT * FROM "));
        let final_ = final_.push(" FINAL").push(PREWHERE).again(keys);
        let sql = final_.push(" AND toDate(timestamp) IN ").append(&dates(&unsettled));
        Some((rest(sql), How::Mixed))
    }
}

/// Only live rows, and none of any other part: a condition in one piece, behind those on the key and before all others,
/// so that no row of a trusted key escapes it.
fn guard(sql: Sql, parts: &[&str]) -> Sql {
    sql.push("is_deleted = throwIf(_part NOT IN ").list(parts).push(", ").arg(OVERTAKEN).push(")")
}

pub(super) fn dates(days: &[Day]) -> Sql {
    Sql::new("(")
        .join(", ", &days.iter().map(|day| Sql::new("toDate(").arg(*day).push(")")).collect::<Vec<_>>())
        .push(")")
}

/// The grounds that questions were asked about, and what is known of each.
#[derive(Default)]
pub(super) struct Grounds(Mutex<HashMap<Ground, Asked>>);

struct Asked {
    at: Instant,
    told: Option<Arc<Settled>>,
}

impl Grounds {
    /// The statement as settled days let it be read; `None`: as it stands. Its scopes are looked into from now on.
    pub(super) fn plain(&self, sql: &Sql) -> Option<(Sql, How)> {
        let told = |read: &Read| {
            let ground = Ground { table: read.table, scope: read.scope.clone() };
            let mut grounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if !grounds.contains_key(&ground) && grounds.len() >= GROUNDS_MAX {
                return None;
            }
            let asked = grounds.entry(ground).or_insert(Asked { at: Instant::now(), told: None });
            asked.at = Instant::now();
            asked.told.clone()
        };
        let mixed = Cell::new(false);
        let sql = sql.replaced(|read, keys| {
            let (source, how) = told(read)?.source(read, keys)?;
            mixed.set(mixed.get() || how == How::Mixed);
            Some(source)
        })?;
        Some((sql, if mixed.get() { How::Mixed } else { How::Plain }))
    }

    /// Those that were asked about lately.
    pub(super) fn asked(&self) -> Vec<Ground> {
        let mut grounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        grounds.retain(|_, asked| asked.at.elapsed() < FORGOTTEN_AFTER);
        grounds.keys().cloned().collect()
    }

    /// What questions go by from now on.
    pub(super) fn tell(&self, ground: &Ground, known: Option<&Known>) {
        let told = known.map(|known| Arc::new(known.settled()));
        if let Some(asked) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(ground) {
            asked.told = told;
        }
    }

    /// A statement met rows of parts that are not known: its grounds are read with FINAL until they were looked into.
    pub(super) fn overtaken(&self, sql: &Sql) {
        for read in sql.reads() {
            self.tell(&Ground { table: read.table, scope: read.scope.clone() }, None);
        }
    }

    /// The tables may be others than they were.
    pub(super) fn forget(&self) {
        for asked in self.0.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
            asked.told = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, level: u32) -> Part {
        Part { name: name.into(), level }
    }

    fn found(name: &str, day: Day, live: u64) -> Found {
        (name.into(), day, live)
    }

    fn read(known: &Known, days: std::ops::RangeInclusive<Day>) -> Option<(String, How)> {
        let scope = Scope::new("p", "e");
        let keys = [Sql::new("project_id = 'p'")];
        let sql =
            Sql::new("SELECT 1").deduplicated("events", (&scope, days), &Sql::new(" JOIN other"), &keys);
        let sql = sql.push(" WHERE other");
        let grounds = Grounds::default();
        assert_eq!(grounds.plain(&sql), None, "nothing is known of who was not asked about");
        let ground = Ground { table: "events", scope };
        assert_eq!(grounds.asked(), std::slice::from_ref(&ground));
        grounds.tell(&ground, Some(known));
        let read = grounds.plain(&sql).map(|(sql, how)| (sql.text().to_owned(), how));
        grounds.overtaken(&sql);
        assert_eq!(grounds.plain(&sql), None);
        read
    }

    #[test]
    fn a_day_is_settled_by_one_merged_part_or_by_as_many_rows_as_final_leaves() {
        let mut known = Known::default();
        let active = [part("a", 1), part("b", 0)];
        assert_eq!(known.unknown(&active).len(), 2);
        known.look(&active, vec![found("a", 10, 5), found("a", 11, 5), found("b", 11, 2), found("b", 12, 2)]);
        assert_eq!(known.settled().unsettled, [11, 12].into());
        assert_eq!(known.to_check(100), ToCheck::default(), "their parts may still change");
        known.look(&active, Vec::new());
        let wanted = known.to_check(100);
        assert_eq!(wanted.days, [(11, 7), (12, 2)].into());
        // Day 11 has an event twice.
        known.checked(&wanted, &[(11, 6), (12, 2)].into());
        assert_eq!(known.settled().unsettled, [11].into());
        assert_eq!(known.to_check(100), ToCheck::default(), "what was found does not change by itself");
        // A merge joins the two.
        let merged = [part("c", 2)];
        known.look(&merged, vec![found("c", 10, 5), found("c", 11, 6), found("c", 12, 2)]);
        assert_eq!(known.settled().unsettled, [].into());
        // One more row of one day: only that is compared again.
        let later = [part("c", 2), part("d", 1)];
        known.look(&later, vec![found("d", 12, 1)]);
        assert_eq!(known.settled().unsettled, [12].into());
        known.look(&[], Vec::new());
        assert_eq!(known.settled(), Settled::default());
    }

    #[test]
    fn so_many_rows_are_compared_at_once_the_newest_first() {
        let mut known = Known::default();
        let active = [part("a", 0)];
        known.look(&active, vec![found("a", 10, 5), found("a", 11, 5), found("a", 12, 50)]);
        known.look(&active, Vec::new());
        assert_eq!(known.to_check(10).days, [(12, 50)].into());
        assert_eq!(known.to_check(55).days, [(11, 5), (12, 50)].into());
    }

    #[test]
    fn a_statement_trusts_the_parts_of_settled_days_and_reads_the_others_with_final() {
        let mut known = Known::default();
        known.look(
            &[part("a", 1), part("b", 1)],
            vec![found("a", 10, 5), found("a", 11, 5), found("b", 11, 2)],
        );
        insta::assert_snapshot!(read(&known, 9..=10).unwrap().0);
        let (text, how) = read(&known, 10..=11).unwrap();
        insta::assert_snapshot!(text);
        assert_eq!(how, How::Mixed);
        assert_eq!(read(&known, 11..=11), None, "no day of it is settled");
        let many: Vec<Part> = (0..501).map(|number| part(&format!("part-{number}"), 1)).collect();
        let days = |number: u16| (many[usize::from(number)].name.clone(), number, 1);
        known.look(&many, (0..501).map(days).collect());
        assert!(read(&known, 0..=499).is_some());
        assert_eq!(read(&known, 0..=500), None, "a statement that names so many parts is too long");
    }
}

//! The fold: facts about pairs of distinct ids → persons. Pure, and a function of the set of facts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::event::Scope;
use crate::store::{PersonEdge, PersonEdgeRow};

/// What a fact says of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FactKind {
    Join,
    Cut,
}

/// Somebody said of two distinct ids that they are one person, or that they are not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fact {
    pub kind: FactKind,
    /// The id that the other is joined to.
    pub target: String,
    pub other: String,
    /// Milliseconds since 1970.
    pub at: i64,
}

/// The kinds of rows that an edge has.
const FIRST_JOIN: u8 = 1;
const LAST_JOIN: u8 = 2;
const CUT: u8 = 3;

impl Fact {
    /// The rows that stand for it, in both directions.
    pub(super) fn rows(&self, scope: &Scope) -> Vec<PersonEdgeRow> {
        let at = self.at.max(0).unsigned_abs();
        let row = |kind: u8, is_target: bool, version: u64| PersonEdgeRow {
            project_id: scope.project.to_string(),
            environment_id: scope.environment.to_string(),
            distinct_id: if is_target { self.target.clone() } else { self.other.clone() },
            other_id: if is_target { self.other.clone() } else { self.target.clone() },
            kind,
            at: self.at,
            is_target,
            version,
        };
        // Two in one millisecond may differ in who is the target: the smaller text is, in both directions' rows.
        let first = u64::MAX - (at << 1) - u64::from(self.target > self.other);
        let both = |kind, version| [row(kind, true, version), row(kind, false, version)];
        match self.kind {
            FactKind::Join => [both(FIRST_JOIN, first), both(LAST_JOIN, at)].concat(),
            FactKind::Cut => both(CUT, at).to_vec(),
        }
    }
}

/// A live edge.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// When it was joined first …
    pub first: i64,
    pub target: String,
    pub other: String,
    /// … and last.
    pub last: i64,
}

impl Edge {
    /// Is it between these two?
    pub fn is_between(&self, a: &str, b: &str) -> bool {
        (self.target == a && self.other == b) || (self.target == b && self.other == a)
    }
}

/// The edges that these rows, of either direction, speak of; sorted by the time of their first join.
pub fn edges(rows: &[PersonEdge]) -> Vec<Edge> {
    let mut edges: Vec<Edge> = rows
        .iter()
        .map(|row| {
            let (target, other) = if row.is_target {
                (&row.distinct_id, &row.other_id)
            } else {
                (&row.other_id, &row.distinct_id)
            };
            Edge { first: row.first, target: target.clone(), other: other.clone(), last: row.last }
        })
        .collect();
    edges.sort();
    edges.dedup();
    edges
}

/// Who is whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    /// Of every id that was given, the id that its person is named after.
    pub persons: BTreeMap<String, String>,
    /// Ids that are joined with too many others.
    pub shared: usize,
    /// Edges that would have made a person too large.
    pub refused: usize,
}

struct Group {
    members: Vec<usize>,
    /// The place of its first edge, and whom that names.
    name: (usize, usize),
}

/// Persons of these ids and edges. An edge whose ends are not among `ids` adds them.
pub fn fold(ids: &BTreeSet<String>, edges: &[Edge], ids_max: usize) -> Folded {
    let mut degrees: HashMap<&str, usize> = HashMap::new();
    for edge in edges {
        *degrees.entry(&edge.target).or_default() += 1;
        *degrees.entry(&edge.other).or_default() += 1;
    }
    let shared = |id: &str| degrees.get(id).is_some_and(|degree| *degree > ids_max);
    let all: BTreeSet<&str> = ids.iter().map(String::as_str).chain(degrees.keys().copied()).collect();
    let names: Vec<&str> = all.into_iter().collect();
    let place: HashMap<&str, usize> = names.iter().enumerate().map(|(place, name)| (*name, place)).collect();
    let mut group_of: Vec<usize> = (0..names.len()).collect();
    let mut groups: Vec<Group> =
        (0..names.len()).map(|id| Group { members: vec![id], name: (usize::MAX, id) }).collect();
    let mut in_order: Vec<&Edge> = edges.iter().collect();
    in_order.sort();
    let mut refused = 0;
    for (order, edge) in in_order.into_iter().enumerate() {
        if shared(&edge.target) || shared(&edge.other) {
            continue;
        }
        let (Some(&target), Some(&other)) = (place.get(&*edge.target), place.get(&*edge.other)) else {
            continue;
        };
        let (Some(&a), Some(&b)) = (group_of.get(target), group_of.get(other)) else { continue };
        if a == b {
            continue;
        }
        let sizes = |group: usize| groups.get(group).map_or(0, |group| group.members.len());
        if sizes(a) + sizes(b) > ids_max {
            refused += 1;
            continue;
        }
        let (into, from) = if sizes(a) >= sizes(b) { (a, b) } else { (b, a) };
        let Some(moved) = groups.get_mut(from).map(|group| std::mem::take(&mut group.members)) else {
            continue;
        };
        let name = groups.get(from).map_or((usize::MAX, target), |group| group.name);
        for member in &moved {
            if let Some(group) = group_of.get_mut(*member) {
                *group = into;
            }
        }
        if let Some(group) = groups.get_mut(into) {
            group.members.extend(moved);
            group.name = group.name.min(name).min((order, target));
        }
    }
    let person = |id: usize| {
        let group = group_of.get(id).and_then(|group| groups.get(*group));
        let named = group.map_or(id, |group| group.name.1);
        names.get(named).map_or_else(String::new, |name| (*name).to_owned())
    };
    Folded {
        persons: names.iter().enumerate().map(|(id, name)| ((*name).to_owned(), person(id))).collect(),
        shared: names.iter().filter(|name| shared(name)).count(),
        refused,
    }
}

/// The table of edges as the store keeps it: of each key the row with the highest version.
#[cfg(test)]
#[derive(Default)]
pub(super) struct Tables(BTreeMap<(String, String, u8), (u64, i64, bool)>);

#[cfg(test)]
impl Tables {
    pub(super) fn add(&mut self, facts: &[Fact]) {
        let scope = Scope::new("p", "e");
        for row in facts.iter().flat_map(|fact| fact.rows(&scope)) {
            let slot = self.0.entry((row.distinct_id, row.other_id, row.kind)).or_default();
            if row.version >= slot.0 {
                *slot = (row.version, row.at, row.is_target);
            }
        }
    }

    /// What [`crate::store::Store::person_edges`] finds of these ids.
    pub(super) fn live(&self, of: impl Fn(&str) -> bool) -> Vec<PersonEdge> {
        let at = |id: &str, other: &str, kind| self.0.get(&(id.to_owned(), other.to_owned(), kind));
        let mut found = Vec::new();
        for ((id, other, kind), (_, first, is_target)) in &self.0 {
            if *kind != FIRST_JOIN || !of(id) {
                continue;
            }
            let last = at(id, other, LAST_JOIN).map_or(-1, |row| row.1);
            if last > at(id, other, CUT).map_or(-1, |row| row.1) {
                let (distinct_id, other_id) = (id.clone(), other.clone());
                found.push(PersonEdge { distinct_id, other_id, first: *first, is_target: *is_target, last });
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(target: &str, other: &str, at: i64) -> Fact {
        Fact { kind: FactKind::Join, target: target.into(), other: other.into(), at }
    }

    fn cut(target: &str, other: &str, at: i64) -> Fact {
        Fact { kind: FactKind::Cut, ..join(target, other, at) }
    }

    fn persons(facts: &[Fact], ids_max: usize) -> Vec<(String, String)> {
        let mut tables = Tables::default();
        tables.add(facts);
        let ids = facts.iter().flat_map(|fact| [fact.target.clone(), fact.other.clone()]).collect();
        fold(&ids, &edges(&tables.live(|_| true)), ids_max).persons.into_iter().collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(id, person)| ((*id).to_owned(), (*person).to_owned())).collect()
    }

    #[test]
    fn a_person_is_named_after_the_target_of_its_first_edge() {
        let facts = [
            join("user", "anon", 10),
            join("user", "phone", 20),
            join("old", "tablet", 5),
            join("user", "old", 30),
        ];
        let all = [("anon", "old"), ("old", "old"), ("phone", "old"), ("tablet", "old"), ("user", "old")];
        assert_eq!(persons(&facts, 10), pairs(&all));
        assert_eq!(persons(&facts[..2], 10), pairs(&[("anon", "user"), ("phone", "user"), ("user", "user")]));
    }

    #[test]
    fn a_cut_undoes_a_join_until_a_later_one() {
        let apart = pairs(&[("a", "a"), ("b", "b")]);
        let together = pairs(&[("a", "a"), ("b", "a")]);
        assert_eq!(persons(&[join("a", "b", 1), cut("b", "a", 2)], 10), apart);
        assert_eq!(persons(&[cut("a", "b", 2), join("a", "b", 1)], 10), apart);
        assert_eq!(persons(&[join("a", "b", 1), cut("a", "b", 2), join("a", "b", 3)], 10), together);
        assert_eq!(
            persons(&[join("a", "b", 2), cut("a", "b", 2)], 10),
            apart,
            "of one millisecond the cut counts"
        );
    }

    #[test]
    fn an_id_that_is_joined_with_too_many_others_joins_nobody() {
        let facts: Vec<Fact> = (0..4).map(|n| join("guest-1", &format!("user-{n}"), n)).collect();
        assert!(persons(&facts[..3], 4).iter().all(|(_, person)| person == "guest-1"));
        assert!(persons(&facts, 3).iter().all(|(id, person)| id == person));
    }

    #[test]
    fn a_person_grows_up_to_its_bound_in_the_order_of_first_joins() {
        let facts = [join("a", "b", 1), join("b", "c", 2), join("c", "d", 3)];
        let three = pairs(&[("a", "a"), ("b", "a"), ("c", "a"), ("d", "d")]);
        assert_eq!(persons(&facts, 3), three);
    }
}

//! What a change touches: the edges around some ids, read step by step until nothing is connected to them that was not
//! read, and folded.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use super::fold::{Folded, edges, fold};
use crate::event::Scope;
use crate::store::{PersonEdge, Store, StoreError};

/// Ids that one fold reads at most. More are connected only where ids are shared by mistake; edges beyond are left for
/// the fold that the next change brings.
const IDS_MAX: usize = 100_000;

/// Where facts are read from.
#[async_trait]
pub(super) trait Facts: Sync {
    /// The edges of each of these ids, at most those with `others_max` others.
    async fn edges(&self, ids: &[String], others_max: usize) -> Result<Vec<PersonEdge>, StoreError>;

    /// Whose these ids are, where it was ever said.
    async fn persons(&self, ids: &[String]) -> Result<Vec<(String, String)>, StoreError>;

    /// The ids of these persons.
    async fn members(&self, persons: &[String]) -> Result<Vec<(String, String)>, StoreError>;
}

/// One scope's tables.
pub(super) struct View<'a> {
    pub store: &'a Store,
    pub scope: &'a Scope,
}

#[async_trait]
impl Facts for View<'_> {
    async fn edges(&self, ids: &[String], others_max: usize) -> Result<Vec<PersonEdge>, StoreError> {
        self.store.person_edges(self.scope, ids, others_max).await
    }

    async fn persons(&self, ids: &[String]) -> Result<Vec<(String, String)>, StoreError> {
        self.store.person_overrides(self.scope, ids).await
    }

    async fn members(&self, persons: &[String]) -> Result<Vec<(String, String)>, StoreError> {
        self.store.person_members(self.scope, persons).await
    }
}

/// Folds what is connected to `touched`, and what was one person with them.
pub(super) async fn fold_around(
    facts: &dyn Facts,
    touched: Vec<String>,
    ids_max: usize,
) -> Result<Folded, StoreError> {
    let known = facts.persons(&touched).await?;
    let mut persons: Vec<String> = known.into_iter().map(|(_, person)| person).collect();
    persons.extend(touched.iter().cloned());
    persons.sort();
    persons.dedup();
    let members = facts.members(&persons).await?;
    let mut ids: BTreeSet<String> =
        touched.into_iter().chain(members.into_iter().map(|(id, _)| id)).collect();
    let mut frontier: Vec<String> = ids.iter().cloned().collect();
    let mut rows: Vec<PersonEdge> = Vec::new();
    let mut shared = BTreeSet::new();
    while !frontier.is_empty() {
        // One more other than a person can have tells that an id is shared.
        let mut others: BTreeMap<String, Vec<PersonEdge>> = BTreeMap::new();
        for row in facts.edges(&frontier, ids_max + 1).await? {
            others.entry(row.distinct_id.clone()).or_default().push(row);
        }
        let mut next = Vec::new();
        for (id, of_id) in others {
            if of_id.len() > ids_max {
                shared.insert(id);
                continue;
            }
            for row in of_id {
                if ids.len() < IDS_MAX && ids.insert(row.other_id.clone()) {
                    next.push(row.other_id.clone());
                }
                rows.push(row);
            }
        }
        frontier = next;
    }
    rows.retain(|row| !shared.contains(&row.distinct_id) && !shared.contains(&row.other_id));
    let mut folded = fold(&ids, &edges(&rows), ids_max);
    folded.shared = shared.len();
    Ok(folded)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;
    use crate::person::fold::{self, Fact, FactKind};

    #[derive(Default)]
    struct Tables {
        edges: Mutex<fold::Tables>,
        overrides: Mutex<BTreeMap<String, String>>,
    }

    #[async_trait]
    impl Facts for Tables {
        async fn edges(&self, ids: &[String], others_max: usize) -> Result<Vec<PersonEdge>, StoreError> {
            let edges = self.edges.lock().unwrap();
            let of = |id: &String| edges.live(|other| other == id).into_iter().take(others_max);
            Ok(ids.iter().flat_map(of).collect())
        }

        async fn persons(&self, ids: &[String]) -> Result<Vec<(String, String)>, StoreError> {
            let overrides = self.overrides.lock().unwrap();
            let of = |id: &String| overrides.get(id).map(|person| (id.clone(), person.clone()));
            Ok(ids.iter().filter_map(of).collect())
        }

        async fn members(&self, persons: &[String]) -> Result<Vec<(String, String)>, StoreError> {
            let overrides = self.overrides.lock().unwrap();
            let of = overrides.iter().filter(|(_, person)| persons.contains(person));
            Ok(of.map(|(id, person)| (id.clone(), person.clone())).collect())
        }
    }

    impl Tables {
        fn add(&self, facts: &[Fact], ids_max: usize) {
            self.edges.lock().unwrap().add(facts);
            let touched = facts.iter().flat_map(|fact| [fact.target.clone(), fact.other.clone()]).collect();
            let folded = futures::executor::block_on(fold_around(self, touched, ids_max)).unwrap();
            self.overrides.lock().unwrap().extend(folded.persons);
        }

        /// Who is whom; ids alone are left out, said or not.
        fn persons_now(&self) -> BTreeMap<String, String> {
            let overrides = self.overrides.lock().unwrap().clone();
            overrides.into_iter().filter(|(id, person)| id != person).collect()
        }
    }

    fn facts() -> impl Strategy<Value = Vec<Fact>> {
        let fact = (0..9u8, 0..9u8, 0..12i64, prop::bool::weighted(0.2)).prop_filter_map(
            "two ids",
            |(target, other, at, is_cut)| {
                let kind = if is_cut { FactKind::Cut } else { FactKind::Join };
                let name = |id: u8| format!("id-{id}");
                (target != other).then(|| Fact { kind, target: name(target), other: name(other), at })
            },
        );
        prop::collection::vec(fact, 1..24)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_order_and_any_repetition_of_the_same_facts_gives_the_same_persons(
            (facts, shuffled) in facts().prop_flat_map(|facts| {
                let twice: Vec<Fact> = facts.iter().chain(&facts).cloned().collect();
                (Just(facts), Just(twice).prop_shuffle())
            }),
            batch in 1..6usize,
            ids_max in 2..10usize,
        ) {
            let (at_once, bit_by_bit) = (Tables::default(), Tables::default());
            at_once.add(&facts, ids_max);
            for some in shuffled.chunks(batch) {
                bit_by_bit.add(some, ids_max);
            }
            prop_assert_eq!(at_once.persons_now(), bit_by_bit.persons_now());
        }
    }

    #[test]
    fn when_an_id_turns_out_to_be_shared_those_it_joined_part_again() {
        let tables = Tables::default();
        let join =
            |other: &str, at| Fact { kind: FactKind::Join, target: "kiosk".into(), other: other.into(), at };
        for (at, other) in ["a", "b", "c"].into_iter().enumerate() {
            tables.add(&[join(other, at as i64)], 4);
        }
        assert_eq!(tables.persons_now().len(), 3);
        tables.add(&[join("d", 4), join("e", 5)], 4);
        assert_eq!(tables.persons_now(), BTreeMap::new());
    }
}

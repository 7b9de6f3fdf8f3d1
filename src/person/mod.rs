//! Distinct ids → persons: which distinct ids are one person, what is known of a person, who belongs to a cohort.
//!
//! # The rule
//!
//! The truth is a set of facts about pairs of distinct ids: *joined at* a time (by `$identify`, `$create_alias`, or
//! the route), *cut at* a time (by a split). An edge is live if its latest join is later than its latest cut. Persons
//! are what [`fold()`] makes of the live edges: a function of the set, so neither the order in which facts arrive nor
//! their repetition can change who is whom (a property test holds it).
//!
//! - Reserved ids (`null`, `anonymous`, …; [`is_reserved`]) join nobody.
//! - A distinct id that was joined with more than `person.ids_max` others is shared by mistake and joins nobody.
//! - Edges hold in the order of their first join, as long as the person has at most `person.ids_max` ids.
//! - A person is named after the target of its first edge; a distinct id alone is a person of its own.
//!
//! # How it is kept
//!
//! Whoever adds facts folds what they touch: the edges are stored first, then everything that is connected to them is
//! read and folded, and whose each id is goes to the table of overrides, under the store's time when the reading began.
//! Of two who fold at once, the one who began to read later has seen at least as much, and its rows count. A crash in
//! between is mended by the retry, which adds the same facts again. The consumer adds the facts of a batch *before* its
//! events: an event that is stored has had its effect on persons.
//!
//! Promises: 1. any order, any repetition, same persons; 2. an event is not visible before its merge; 3. a merge by the
//! route holds for every question of this process once it is answered, and of others within a second (answers that
//! another process remembers: within `query.cache_past_ttl`).

mod fold;
mod groups;
pub mod http;
mod id;
mod region;
mod said;

use std::sync::Arc;

pub use fold::{Edge, Fact, FactKind, Folded, edges, fold};
pub use id::PersonId;
pub use said::{Said, Saying, is_reserved};

use crate::config;
use crate::event::{Clock, IdSource, Scope};
use crate::store::{InsertError, PersonEdgeRow, PersonOverrideRow, Store, StoreError};
use crate::telemetry::names;

/// Persons of this installation. Cheap to clone; one a process.
#[derive(Clone)]
pub struct People(Arc<Inner>);

struct Inner {
    store: Store,
    ids_max: usize,
    require_api_key: bool,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    /// One fold at a time: those that wait would read the same again.
    folding: tokio::sync::Mutex<()>,
}

/// A person by name.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Person {
    pub id: PersonId,
    /// Sorted.
    pub distinct_ids: Vec<String>,
}

/// Why a merge or split was not done.
#[derive(Debug, thiserror::Error)]
pub enum PeopleError {
    #[error("{0:?} is no id of one person: it is reserved")]
    Reserved(String),
    #[error("the person would have {ids} distinct ids, more than {max} (person.ids_max)")]
    TooMany { ids: usize, max: usize },
    #[error("{0:?} is not one of the person's distinct ids")]
    NotTheirs(String),
    #[error("the ids were not joined: one of them is joined with more than {max} others (person.ids_max)")]
    Shared { max: usize },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Insert(#[from] InsertError),
}

impl People {
    pub fn new(store: Store, config: &config::Config, clock: Arc<dyn Clock>, ids: Arc<dyn IdSource>) -> Self {
        Self(Arc::new(Inner {
            store,
            ids_max: config.person.ids_max,
            require_api_key: config.capture.require_api_key,
            clock,
            ids,
            folding: tokio::sync::Mutex::default(),
        }))
    }

    /// Takes in what events said of people. `token` stands for exactly these sayings; saying them again changes
    /// nothing.
    ///
    /// # Errors
    /// See [`InsertError`]; say the same again.
    pub async fn note(&self, said: &Said, token: &str) -> Result<(), InsertError> {
        for (reason, count) in &said.refused {
            names::PERSON_REFUSED.counter(&[("reason", reason)]).increment(*count);
        }
        if !said.properties.is_empty() {
            let rows: Vec<_> = said.properties.values().cloned().collect();
            self.0.store.insert_person_properties(&rows, &format!("{token}-properties")).await?;
        }
        if !said.groups.0.is_empty() {
            let rows: Vec<_> = said.groups.0.values().cloned().collect();
            self.0.store.insert_group_properties(&rows, &format!("{token}-groups")).await?;
        }
        for (place, (scope, facts)) in said.facts.iter().enumerate() {
            self.add(scope, facts, &format!("{token}-edges-{place}")).await?;
        }
        Ok(())
    }

    /// Stores facts, and folds what they touch.
    async fn add(&self, scope: &Scope, facts: &[Fact], token: &str) -> Result<(), InsertError> {
        let rows: Vec<PersonEdgeRow> = facts.iter().flat_map(|fact| fact.rows(scope)).collect();
        if rows.is_empty() {
            return Ok(());
        }
        self.0.store.insert_person_edges(&rows, token).await?;
        let mut touched: Vec<String> =
            facts.iter().flat_map(|fact| [fact.target.clone(), fact.other.clone()]).collect();
        touched.sort();
        touched.dedup();
        self.refold(scope, touched).await
    }

    /// Folds everything that is connected to these ids.
    async fn refold(&self, scope: &Scope, touched: Vec<String>) -> Result<(), InsertError> {
        let _one = self.0.folding.lock().await;
        let unavailable = |error: StoreError| InsertError::Unavailable(error.to_string());
        let version = self.0.store.micros().await.map_err(unavailable)?;
        let view = region::View { store: &self.0.store, scope };
        let folded = region::fold_around(&view, touched, self.0.ids_max).await.map_err(unavailable)?;
        for (reason, count) in [("shared", folded.shared), ("too_many", folded.refused)] {
            if count > 0 {
                tracing::warn!(%reason, count, project = %scope.project, "distinct ids are not joined");
                names::PERSON_REFUSED.counter(&[("reason", reason)]).increment(count as u64);
            }
        }
        let rows: Vec<PersonOverrideRow> = folded
            .persons
            .into_iter()
            .map(|(distinct_id, person)| PersonOverrideRow {
                project_id: scope.project.to_string(),
                environment_id: scope.environment.to_string(),
                distinct_id,
                person,
                version,
            })
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        // Other rows must never come under this token.
        let token = self.0.ids.uuid_now(&*self.0.clock).to_string();
        self.0.store.insert_person_overrides(&rows, &token).await
    }

    /// Makes these distinct ids one person, named after the first of them unless they are named already.
    ///
    /// # Errors
    /// A reserved id, more than `person.ids_max` ids, or what the store does not take.
    pub async fn merge(&self, scope: &Scope, ids: &[String]) -> Result<Person, PeopleError> {
        if let Some(reserved) = ids.iter().find(|id| is_reserved(id)) {
            return Err(PeopleError::Reserved(reserved.clone()));
        }
        let Some((target, others)) = ids.split_first() else {
            return Err(PeopleError::TooMany { ids: 0, max: self.0.ids_max });
        };
        let mut all = Vec::new();
        for id in ids {
            all.extend(self.members(scope, id).await?.1);
        }
        all.sort();
        all.dedup();
        let max = self.0.ids_max;
        if all.len() > max {
            return Err(PeopleError::TooMany { ids: all.len(), max });
        }
        let at = self.0.clock.now().as_millis();
        let facts: Vec<Fact> = others
            .iter()
            .filter(|other| *other != target)
            .map(|other| Fact { kind: FactKind::Join, target: target.clone(), other: other.clone(), at })
            .collect();
        self.add(scope, &facts, &self.token()).await?;
        let person = self.person_of(scope, target).await?;
        if others.iter().any(|other| !person.distinct_ids.contains(other)) {
            return Err(PeopleError::Shared { max });
        }
        Ok(person)
    }

    /// Takes `ids` out of a person, each a person of its own from now on; the person's other ids stay together. None:
    /// every id goes its own way. Answers the persons there are now, the one that keeps its ids first.
    ///
    /// # Errors
    /// An id that is not the person's, or what the store does not take.
    pub async fn split(
        &self,
        scope: &Scope,
        members: &[String],
        ids: Option<&[String]>,
    ) -> Result<Vec<Person>, PeopleError> {
        if let Some(stranger) = ids.unwrap_or_default().iter().find(|id| !members.contains(id)) {
            return Err(PeopleError::NotTheirs(stranger.clone()));
        }
        let leaves = |id: &String| ids.is_none_or(|ids| ids.contains(id));
        let rows = self.0.store.person_edges(scope, members, self.0.ids_max + 1).await?;
        let edges = edges(&rows);
        let at = self.0.clock.now().as_millis();
        let mut facts: Vec<Fact> = edges
            .iter()
            .filter(|edge| leaves(&edge.target) || leaves(&edge.other))
            .map(|edge| Fact {
                kind: FactKind::Cut,
                target: edge.target.clone(),
                other: edge.other.clone(),
                // A clock that went back must not leave an edge whole.
                at: at.max(edge.last),
            })
            .collect();
        let stay: Vec<&String> = members.iter().filter(|id| !leaves(id)).collect();
        // Those who stay may have been connected through one who leaves.
        facts.extend(stay.windows(2).filter_map(|two| {
            let [a, b] = two else { return None };
            let known = edges.iter().any(|edge| edge.is_between(a, b));
            let join = Fact { kind: FactKind::Join, target: (*a).clone(), other: (*b).clone(), at };
            (!known).then_some(join)
        }));
        self.add(scope, &facts, &self.token()).await?;
        let mut persons: Vec<Person> = Vec::new();
        for id in stay.into_iter().take(1).chain(members.iter().filter(|id| leaves(id))) {
            let person = self.person_of(scope, id).await?;
            if !persons.contains(&person) {
                persons.push(person);
            }
        }
        Ok(persons)
    }

    /// The person that a distinct id belongs to.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn person_of(&self, scope: &Scope, distinct_id: &str) -> Result<Person, StoreError> {
        let (name, distinct_ids) = self.members(scope, distinct_id).await?;
        let actor = self.0.store.person_hash(&name).await?;
        Ok(Person { id: PersonId::new(scope, actor), distinct_ids })
    }

    /// The distinct ids of a person whose id is, or once was, this; none: it is no id of a merged person.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn merged_person(&self, scope: &Scope, id: PersonId) -> Result<Option<Person>, StoreError> {
        let Some(actor) = id.actor(scope) else { return Ok(None) };
        let Some(name) = self.0.store.person_with_hash(scope, actor).await? else { return Ok(None) };
        Ok(Some(self.person_of(scope, &name).await?))
    }

    /// What the person is named after, and its distinct ids, sorted.
    async fn members(&self, scope: &Scope, distinct_id: &str) -> Result<(String, Vec<String>), StoreError> {
        let known = self.0.store.person_overrides(scope, &[distinct_id.to_owned()]).await?;
        let name = known.into_iter().next().map_or_else(|| distinct_id.to_owned(), |(_, name)| name);
        let members = self.0.store.person_members(scope, std::slice::from_ref(&name)).await?;
        let mut ids: Vec<String> = members.into_iter().map(|(id, _)| id).collect();
        ids.push(distinct_id.to_owned());
        ids.push(name.clone());
        ids.sort();
        ids.dedup();
        Ok((name, ids))
    }

    fn token(&self) -> String {
        self.0.ids.uuid_now(&*self.0.clock).to_string()
    }
}

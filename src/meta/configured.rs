//! Projects and environments that the configuration names (`auth.static_keys`, `consumer.sources`): their keys are good
//! without a database, and what is kept of them refers to rows, as what is kept of any project does.
//!
//! The rows are written when the database is brought up ([`Meta::keep_configured`]). Between the moment when it answers and
//! that one, whoever writes first writes them ([`Meta::begin_write`]): nothing is refused for want of them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use sea_orm::entity::prelude::*;
use sea_orm::{ConnectionTrait, PaginatorTrait, QuerySelect};

use super::{Actor, Meta, MetaError, Origin, environments, projects};
use crate::event::{EnvironmentId, ProjectId, Scope};

/// Scopes that are looked for at a time.
const AT_ONCE: usize = 500;

/// What the configuration of this process names.
#[derive(Default)]
pub(super) struct Configured {
    scopes: OnceLock<BTreeSet<Scope>>,
    /// Every one of them was seen to have its rows.
    kept: AtomicBool,
}

impl Configured {
    fn scopes(&self) -> Vec<&Scope> {
        self.scopes.get().into_iter().flatten().collect()
    }

    /// May there be one without its rows?
    pub(super) fn is_owed(&self) -> bool {
        self.scopes.get().is_some_and(|scopes| !scopes.is_empty()) && !self.kept.load(Ordering::Acquire)
    }
}

/// How those that the configuration names are doing.
#[derive(Default)]
struct Seen {
    projects: BTreeSet<ProjectId>,
    without_row: Vec<Scope>,
    deleted: BTreeSet<ProjectId>,
}

impl Meta {
    /// Says which projects and environments the configuration names: once, before anything is written.
    pub fn configure(&self, scopes: impl IntoIterator<Item = Scope>) {
        self.inner.configured.scopes.get_or_init(|| scopes.into_iter().collect());
    }

    /// Does the configuration of this process name this project?
    pub fn is_configured(&self, project: &ProjectId) -> bool {
        self.inner.configured.scopes().iter().any(|scope| scope.project == *project)
    }

    /// Makes the rows of what the configuration names, those that are missing, and answers which of its projects are
    /// deleted: they stay so. Any number of processes may do so at once.
    ///
    /// # Errors
    /// The database does not answer, or lacks its tables.
    pub async fn keep_configured(&self) -> Result<Vec<ProjectId>, MetaError> {
        // At nearly every start all is there, which takes no write lock to see.
        let mut seen = self.track(look(self.connection(), &self.inner.configured.scopes()).await)?;
        if !seen.without_row.is_empty() {
            let transaction = self.begin_alone().await?;
            seen = self.track(make(self, &transaction).await)?;
            self.track(super::commit(transaction).await)?;
            tracing::info!(made = seen.without_row.len(), "what the configuration names has its rows");
        }
        self.inner.configured.kept.store(true, Ordering::Release);
        Ok(seen.deleted.into_iter().collect())
    }

    /// Those of the configuration's projects that are deleted.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn deleted_configured(&self) -> Result<Vec<ProjectId>, MetaError> {
        let seen = self.track(look(self.connection(), &self.inner.configured.scopes()).await)?;
        Ok(seen.deleted.into_iter().collect())
    }

    /// The same inside the transaction of a write that came before [`Meta::keep_configured`]. Not before the first
    /// project: the first start tells an empty database by having none.
    pub(super) async fn make_owed(&self, transaction: &impl ConnectionTrait) -> Result<(), MetaError> {
        if self.track(projects::Entity::find().count(transaction).await)? > 0 {
            self.track(make(self, transaction).await)?;
        }
        Ok(())
    }
}

async fn look(connection: &impl ConnectionTrait, scopes: &[&Scope]) -> Result<Seen, DbErr> {
    let mut seen = Seen::default();
    for some in scopes.chunks(AT_ONCE) {
        let projects: BTreeSet<&ProjectId> = some.iter().map(|scope| &scope.project).collect();
        let ids: BTreeSet<&EnvironmentId> = some.iter().map(|scope| &scope.environment).collect();
        let projects: Vec<ProjectId> = projects.into_iter().cloned().collect();
        let rows = projects::Entity::find().filter(projects::Column::Id.is_in(projects.clone()));
        let there: HashMap<ProjectId, bool> =
            rows.all(connection).await?.into_iter().map(|row| (row.id, row.deleted_at.is_some())).collect();
        let rows = environments::Entity::find()
            .filter(environments::Column::ProjectId.is_in(projects.clone()))
            .filter(environments::Column::Id.is_in(ids.into_iter().cloned()));
        let rows: HashSet<Scope> = rows
            .all(connection)
            .await?
            .into_iter()
            .map(|row| Scope { project: row.project_id, environment: row.id })
            .collect();
        seen.projects.extend(projects.iter().filter(|id| !there.contains_key(*id)).cloned());
        seen.deleted.extend(projects.into_iter().filter(|id| there.get(id) == Some(&true)));
        seen.without_row
            .extend(some.iter().filter(|scope| !rows.contains(**scope)).map(|scope| (*scope).clone()));
    }
    Ok(seen)
}

/// Makes what is missing inside the caller's transaction, in nobody's name.
async fn make(meta: &Meta, transaction: &impl ConnectionTrait) -> Result<Seen, MetaError> {
    let (meta, origin) = (meta.by(Actor::system()), Origin::Configuration);
    let seen = look(transaction, &meta.inner.configured.scopes()).await?;
    for id in &seen.projects {
        let names = names(id.as_str());
        let taken = projects::Entity::find()
            .select_only()
            .column(projects::Column::Name)
            .filter(projects::Column::Name.is_in(names.clone()));
        let taken = taken.into_tuple::<String>().all(transaction).await?;
        let name = free(&meta, names, &taken);
        projects::insert_row(&meta, transaction, id.clone(), &name, origin).await?;
    }
    for Scope { project, environment } in &seen.without_row {
        let names = names(environment.as_str());
        let taken = environments::Entity::find()
            .select_only()
            .column(environments::Column::Name)
            .filter(environments::Column::ProjectId.eq(project.clone()))
            .filter(environments::Column::Name.is_in(names.clone()));
        let taken = taken.into_tuple::<String>().all(transaction).await?;
        let name = free(&meta, names, &taken);
        environments::insert_row(&meta, transaction, project, environment.clone(), &name, origin).await?;
    }
    Ok(seen)
}

/// What something that the configuration names is called at first: by its id.
fn names(id: &str) -> [String; 2] {
    [id.to_owned(), format!("{id} (configuration)")]
}

/// The first of these that nothing else is called; or one that nothing is.
fn free(meta: &Meta, names: [String; 2], taken: &[String]) -> String {
    let last = names[1].clone();
    let free = names.into_iter().find(|name| !taken.contains(name));
    free.unwrap_or_else(|| meta.new_id(&format!("{last} "), meta.now()))
}

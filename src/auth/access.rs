//! What a request may do, and where.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::event::{EnvironmentId, ProjectId, Scope};
use crate::meta::{Actor, ActorKind, Role};
use crate::telemetry::names;

use super::Person;

/// Something a request may be allowed to do; also called a key's scope.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Permission {
    /// Send events.
    Ingest,
    /// Ask questions.
    Query,
    /// Manage the project: its environments, keys, dead letters.
    Admin,
}

impl Permission {
    /// Every permission, in the order they are written.
    pub const ALL: &'static [Self] = &[Self::Ingest, Self::Query, Self::Admin];

    /// Its name in configuration, in API answers and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Query => "query",
            Self::Admin => "admin",
        }
    }

    /// The permission with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|permission| permission.as_str() == name)
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Ingest => 1,
            Self::Query => 2,
            Self::Admin => 4,
        }
    }
}

/// A set of [`Permission`]s.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions(u8);

impl Permissions {
    /// Everything.
    pub fn all() -> Self {
        Permission::ALL.iter().copied().collect()
    }

    /// What a member with this role may do.
    pub fn of_role(role: Role) -> Self {
        match role {
            Role::Owner => Self::all(),
            Role::Editor => [Permission::Ingest, Permission::Query].into_iter().collect(),
            Role::Viewer => [Permission::Query].into_iter().collect(),
        }
    }

    /// Is this one among them?
    pub const fn allow(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// None at all?
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their names, in the order of [`Permission::ALL`].
    pub fn names(self) -> Vec<&'static str> {
        Permission::ALL.iter().filter(|one| self.allow(**one)).map(|one| one.as_str()).collect()
    }

    /// Reads names separated by commas, as the database keeps them. A name that this build does not know (a newer
    /// one wrote it) permits nothing.
    pub(super) fn from_column(text: &str) -> Self {
        text.split(',').filter_map(Permission::from_name).collect()
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        Self(permissions.into_iter().fold(0, |bits, permission| bits | permission.bit()))
    }
}

/// Names separated by commas, as the database keeps them.
impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join(","))
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

/// An environment by id and name, as it is offered to a client that named another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct NamedEnvironment {
    pub id: EnvironmentId,
    pub name: Arc<str>,
}

/// What a request may do, and the project and environment it acts in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Access {
    /// Every read and write of this request stays within it.
    pub scope: Scope,
    /// The key that was used; none for the operator and for requests without a key.
    pub key_id: Option<Arc<str>>,
    pub permissions: Permissions,
    /// The person who is logged in; none for keys and the operator token.
    pub person: Option<Person>,
    /// The holder of this process's operator token, or an administrator: may act in every project.
    pub operator: bool,
    /// The environments that this credential could have named.
    environments: Arc<[NamedEnvironment]>,
}

impl Access {
    /// Access to one environment, called by `name` when another is asked for.
    pub fn new(scope: Scope, name: &str, permissions: Permissions) -> Self {
        let environments = [NamedEnvironment { id: scope.environment.clone(), name: name.into() }].into();
        Self { scope, key_id: None, permissions, person: None, operator: false, environments }
    }

    pub(super) fn with_key(mut self, id: &str) -> Self {
        self.key_id = Some(id.into());
        self
    }

    pub(super) fn operator(scope: Scope, environments: Arc<[NamedEnvironment]>) -> Self {
        let permissions = Permissions::all();
        Self { scope, key_id: None, permissions, person: None, operator: true, environments }
    }

    /// A member of a project; an administrator may do everything in it, whatever the role.
    pub(super) fn member(
        scope: Scope,
        role: Role,
        person: Person,
        environments: Arc<[NamedEnvironment]>,
    ) -> Self {
        let permissions = if person.is_admin { Permissions::all() } else { Permissions::of_role(role) };
        let operator = person.is_admin;
        Self { scope, key_id: None, permissions, person: Some(person), operator, environments }
    }

    pub(super) fn with_person(mut self, person: Person) -> Self {
        self.person = Some(person);
        self
    }

    /// Who it is, for the audit trail.
    pub fn actor(&self) -> Actor {
        match (&self.person, &self.key_id) {
            (Some(person), _) => person.actor(),
            (None, Some(key)) => Actor::new(ActorKind::Key, key.clone(), key.clone()),
            (None, None) => Actor::operator(),
        }
    }

    /// Who it is, in a log or beside a job: a person's id, a key's id, or "operator".
    pub fn name(&self) -> &str {
        let person = self.person.as_ref().map(|person| &*person.user_id);
        person.or(self.key_id.as_deref()).unwrap_or("operator")
    }

    /// The environments that this credential can name.
    pub fn environments(&self) -> &[NamedEnvironment] {
        &self.environments
    }

    /// Holds an environment that a request names (header, query or body) against the one it acts in. Costs a
    /// comparison.
    ///
    /// # Errors
    /// It is another one; counted in `auth_environment_mismatch_total`. The answer is 403 with the valid ones.
    pub fn check_environment(&self, given: &str) -> Result<(), EnvironmentMismatch> {
        if given == self.scope.environment.as_str() {
            return Ok(());
        }
        Err(EnvironmentMismatch::counted(given, self.environments.clone()))
    }

    /// May this request manage that project?
    pub fn may_manage(&self, project: &ProjectId) -> bool {
        self.operator || (self.permissions.allow(Permission::Admin) && self.scope.project == *project)
    }
}

/// A request named an environment that its credential does not have.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("environment {given:?} is not one that this credential can use; valid: {}", list(.valid))]
pub struct EnvironmentMismatch {
    /// As it was sent, cut after 200 characters.
    pub given: String,
    pub valid: Arc<[NamedEnvironment]>,
}

impl EnvironmentMismatch {
    pub(super) fn counted(given: &str, valid: Arc<[NamedEnvironment]>) -> Self {
        names::AUTH_ENVIRONMENT_MISMATCH.counter(&[]).increment(1);
        Self { given: given.chars().take(200).collect(), valid }
    }
}

fn list(environments: &[NamedEnvironment]) -> String {
    let shown: Vec<String> = environments.iter().map(|one| format!("{} ({})", one.id, one.name)).collect();
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_read_back_and_unknown_ones_permit_nothing() {
        let some: Permissions = [Permission::Query, Permission::Ingest].into_iter().collect();
        assert_eq!(some.to_string(), "ingest,query");
        assert_eq!(Permissions::from_column("ingest,query"), some);
        assert!(!some.allow(Permission::Admin));
        assert!(Permissions::from_column("superuser,").is_empty());
        assert_eq!(Permissions::all().names(), ["ingest", "query", "admin"]);
    }

    #[test]
    fn another_environment_is_refused_with_the_valid_ones() {
        let access = Access::new(Scope::new("proj_a", "env_a"), "production", Permissions::all());
        access.check_environment("env_a").unwrap();
        let mismatch = access.check_environment(&"x".repeat(1000)).unwrap_err();
        assert_eq!(mismatch.given.len(), 200);
        let mismatch = access.check_environment("env_b").unwrap_err();
        assert_eq!(
            mismatch.to_string(),
            "environment \"env_b\" is not one that this credential can use; valid: env_a (production)"
        );
    }
}

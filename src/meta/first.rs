//! The first project: made once for the installation, however many processes start at once.

use sea_orm::{ConnectionTrait, EntityTrait, PaginatorTrait};

use super::{
    Meta, MetaError, NewApiKey, NewMember, NewUser, Project, Role, api_keys, projects, settings, users,
};
use crate::event::{EnvironmentId, ProjectId, Scope};

/// What the first project and its key shall be.
pub struct NewFirstProject<'a> {
    pub project: &'a str,
    pub key_name: &'a str,
    pub key_prefix: &'a str,
    pub key_sha256: String,
    pub key_scopes: String,
    /// Its owner, who administers the installation.
    pub owner: NewFirstUser<'a>,
}

/// The first person.
pub struct NewFirstUser<'a> {
    pub email: &'a str,
    pub name: &'a str,
    pub password_hash: String,
}

/// What the first start made.
#[derive(Clone, Debug)]
pub struct FirstProject {
    pub project: Project,
    pub production: EnvironmentId,
    pub key_id: String,
    pub user_id: String,
}

impl Meta {
    /// Makes the first project, its environments, a key for its first environment and its owner, and remembers them as
    /// the default. `None` if the database has (or had) a project already.
    ///
    /// The write lock makes several processes that start at once make one. `keep` writes down what is being made
    /// before it is committed: a crash in between leaves secrets of nothing, never something without its secrets.
    ///
    /// # Errors
    /// The database does not answer, or `keep` failed.
    pub async fn make_first_project(
        &self,
        first: NewFirstProject<'_>,
        keep: impl FnOnce(&FirstProject) -> std::io::Result<()>,
    ) -> Result<Option<FirstProject>, MetaError> {
        let transaction = self.begin_write().await?;
        if self.track(projects::Entity::find().count(&transaction).await)? > 0 {
            return Ok(None);
        }
        let made = self.track(insert(self, &transaction, first).await)?;
        keep(&made).map_err(MetaError::Keep)?;
        self.track(super::commit(transaction).await)?;
        Ok(Some(made))
    }

    /// Is there a project, or was there one?
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn is_founded(&self) -> Result<bool, MetaError> {
        Ok(self.track(projects::Entity::find().count(self.connection()).await)? > 0)
    }

    /// The project and environment that requests without a key act in; `None` before the first start.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn default_scope(&self) -> Result<Option<Scope>, MetaError> {
        let project = self.track(settings::get(self.connection(), settings::DEFAULT_PROJECT).await)?;
        let environment =
            self.track(settings::get(self.connection(), settings::DEFAULT_ENVIRONMENT).await)?;
        Ok(project.zip(environment).map(|(project, environment)| Scope {
            project: ProjectId::new(project),
            environment: EnvironmentId::new(environment),
        }))
    }
}

async fn insert(
    meta: &Meta,
    transaction: &impl ConnectionTrait,
    first: NewFirstProject<'_>,
) -> Result<FirstProject, MetaError> {
    let (project, environments) = projects::insert(meta, transaction, first.project).await?;
    let Some(production) = environments.first() else { return Err(MetaError::Missing("an environment")) };
    let key = NewApiKey {
        environment: &production.id,
        name: first.key_name,
        prefix: first.key_prefix,
        sha256: first.key_sha256,
        scopes: first.key_scopes,
        expires_at: None,
        rate_max: None,
    };
    let key_id = api_keys::insert(meta, transaction, &project.id, key).await?.id;
    settings::insert(meta, transaction, settings::DEFAULT_PROJECT, project.id.as_str()).await?;
    settings::insert(meta, transaction, settings::DEFAULT_ENVIRONMENT, production.id.as_str()).await?;
    let owner = NewUser {
        email: first.owner.email,
        name: first.owner.name,
        password_hash: first.owner.password_hash,
        is_admin: true,
        member: Some(NewMember { project: &project.id, role: Role::Owner }),
        invitation: None,
    };
    let user_id = users::insert(meta, transaction, owner).await?.id;
    Ok(FirstProject { production: production.id.clone(), project, key_id, user_id })
}

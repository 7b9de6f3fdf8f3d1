//! The first start: on an empty database, one project, its environments, one key and an administrator.

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::admin::digest;
use super::secret::{new_key, new_password, shown_prefix};
use super::{AuthError, Keys, Permission, Permissions};
use crate::event::Scope;
use crate::meta::{NewFirstProject, NewFirstUser};

/// What the first start made. Its key and password are nowhere else: write [`FirstRun::to_json`] to `first-run.json`
/// (mode 0600).
#[derive(Debug)]
pub struct FirstRun {
    /// Project `default`, environment `production`.
    pub scope: Scope,
    /// Scopes ingest and query.
    pub api_key: SecretString,
    /// The administrator, who owns the project.
    pub email: String,
    pub password: SecretString,
}

impl FirstRun {
    /// The contents of `first-run.json`, secrets included.
    pub fn to_json(&self, url: &str) -> Value {
        json!({
            "url": url,
            "project_id": self.scope.project,
            "environment_id": self.scope.environment,
            "email": self.email,
            "password": self.password.expose_secret(),
            "api_key": self.api_key.expose_secret(),
        })
    }
}

/// Begins a session for somebody by their password and answers its refresh token: what a link that is printed logs in
/// with, once, as a refresh token is good once.
///
/// # Errors
/// See [`AuthError`].
pub async fn login_token(
    keys: &Keys,
    email: &str,
    password: &SecretString,
) -> Result<SecretString, AuthError> {
    Ok(keys.0.people.login(email, password, None).await?.refresh_token)
}

/// Makes project `default` with environments `production` and `development`, one key and an administrator, if there is
/// no project yet. Several processes that start at once on one empty database make one: the others get `None`.
///
/// `keep` is given what is being made before it is committed: what it writes down survives a crash in between, and is
/// worth nothing if the commit fails.
///
/// # Errors
/// The database does not answer, or lacks its tables; `keep` failed.
pub async fn first_run(
    keys: &Keys,
    keep: impl FnOnce(&FirstRun) -> std::io::Result<()>,
) -> Result<Option<FirstRun>, AuthError> {
    let inner = &keys.0;
    // Hashing takes a while: not at every start.
    if inner.meta.is_founded().await? {
        return Ok(None);
    }
    let (api_key, password) = (new_key(&*inner.ids), new_password(&*inner.ids));
    let permissions: Permissions = [Permission::Ingest, Permission::Query].into_iter().collect();
    let email = inner.config.admin_email.to_lowercase();
    let first = NewFirstProject {
        project: "default",
        key_name: "first key",
        key_prefix: &shown_prefix(&api_key),
        key_sha256: digest(&api_key).to_hex(),
        key_scopes: permissions.to_string(),
        owner: NewFirstUser {
            email: &email,
            name: "Administrator",
            password_hash: inner.people.passwords.hash(&password).await?,
        },
    };
    let of = |scope| FirstRun {
        scope,
        api_key: api_key.clone(),
        email: email.clone(),
        password: password.clone(),
    };
    let made = inner.meta.make_first_project(first, |made| {
        keep(&of(Scope { project: made.project.id.clone(), environment: made.production.clone() }))
    });
    let Some(made) = made.await? else { return Ok(None) };
    let (project, environment) = (made.project.id, made.production);
    tracing::info!(project_id = %project, environment_id = %environment, key_id = made.key_id, user_id = made.user_id, "first project made");
    Ok(Some(of(Scope { project, environment })))
}

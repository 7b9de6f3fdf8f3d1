//! The first start: on an empty database, one project, its environments and one key.

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::admin::digest;
use super::secret::{new_key, shown_prefix};
use super::{Keys, Permission, Permissions};
use crate::event::Scope;
use crate::meta::{MetaError, NewFirstProject};

/// What the first start made. Its key is nowhere else: write [`FirstRun::to_json`] to `first-run.json` (mode 0600).
#[derive(Debug)]
pub struct FirstRun {
    /// Project `default`, environment `production`.
    pub scope: Scope,
    /// Scopes ingest and query.
    pub api_key: SecretString,
}

impl FirstRun {
    /// The contents of `first-run.json`, secret included.
    pub fn to_json(&self, url: &str) -> Value {
        json!({
            "url": url,
            "project_id": self.scope.project,
            "environment_id": self.scope.environment,
            "api_key": self.api_key.expose_secret(),
        })
    }
}

/// Makes project `default` with environments `production` and `development` and one key, if there is no project yet.
/// Several processes that start at once on one empty database make one: the others get `None`.
///
/// # Errors
/// The database does not answer, or lacks its tables.
pub async fn first_run(keys: &Keys) -> Result<Option<FirstRun>, MetaError> {
    let api_key = new_key(&*keys.0.ids);
    let permissions: Permissions = [Permission::Ingest, Permission::Query].into_iter().collect();
    let first = NewFirstProject {
        project: "default",
        key_name: "first key",
        key_prefix: &shown_prefix(&api_key),
        key_sha256: digest(&api_key).to_hex(),
        key_scopes: permissions.to_string(),
    };
    let Some(made) = keys.0.meta.make_first_project(first).await? else { return Ok(None) };
    let (project, environment) = (made.project.id, made.production);
    tracing::info!(project_id = %project, environment_id = %environment, key_id = made.key_id, "first project made");
    Ok(Some(FirstRun { scope: Scope { project, environment }, api_key }))
}

//! Making, listing and revoking keys.

use secrecy::{ExposeSecret, SecretString};

use super::keys::access_of;
use super::secret::{KeyDigest, new_key, shown_prefix};
use super::{Keys, Permissions};
use crate::event::{EnvironmentId, ProjectId, Timestamp};
use crate::meta::{Actor, ApiKey, Meta, MetaError, NewApiKey, Project};

/// A key to be made.
#[derive(Clone, Debug)]
pub struct KeySpec<'a> {
    /// One of the project's.
    pub environment: &'a EnvironmentId,
    /// What people call it, 1–200 characters.
    pub name: &'a str,
    pub permissions: Permissions,
    /// From then on it is refused.
    pub expires_at: Option<Timestamp>,
    /// Requests a second; none: `auth.key_rate_max`.
    pub rate_max: Option<u32>,
}

/// A new key, with the only copy of the secret.
#[derive(Debug)]
pub struct CreatedKey {
    pub key: ApiKey,
    pub api_key: SecretString,
}

impl Keys {
    /// Makes a key.
    ///
    /// # Errors
    /// [`MetaError::Missing`] if the environment is not one of this project, [`MetaError::Full`] at `auth.keys_max`.
    pub async fn create(
        &self,
        by: Actor,
        project: &ProjectId,
        spec: &KeySpec<'_>,
    ) -> Result<CreatedKey, MetaError> {
        let meta = self.0.meta.by(by);
        let api_key = new_key(&*self.0.ids);
        let row = NewApiKey {
            environment: spec.environment,
            name: spec.name,
            prefix: &shown_prefix(&api_key),
            sha256: digest(&api_key).to_hex(),
            scopes: spec.permissions.to_string(),
            expires_at: spec.expires_at,
            rate_max: spec.rate_max.map(i64::from),
        };
        let key = meta.api_keys().create(project, row, self.0.config.keys_max).await?;
        tracing::info!(project_id = %project, key_id = key.id, prefix = key.prefix, "API key made");
        Ok(CreatedKey { key, api_key })
    }

    /// The keys of a project: those in force, then the revoked, each newest first, at most `auth.keys_max`.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn list(&self, project: &ProjectId) -> Result<Vec<ApiKey>, MetaError> {
        self.0.meta.api_keys().list(project, self.0.config.keys_max).await
    }

    /// Revokes a key: when this returns, no request of this process gets in with it; other processes follow within
    /// `auth.key_cache_ttl`. `None`: the project has no such key.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn revoke(
        &self,
        by: Actor,
        project: &ProjectId,
        id: &str,
    ) -> Result<Option<ApiKey>, MetaError> {
        let Some(key) = self.0.meta.by(by).api_keys().revoke(project, id).await? else { return Ok(None) };
        if let Some(digest) = KeyDigest::from_hex(&key.sha256) {
            let access = access_of(&key, key.environment_id.as_str());
            self.0.cache.revoke(digest, self.entry(&key, access, self.0.clock.now(), None));
        }
        tracing::info!(project_id = %project, key_id = key.id, prefix = key.prefix, "API key revoked");
        Ok(Some(key))
    }

    /// Deletes a project: when this returns, none of its keys and members gets into it through this process; others
    /// follow within `auth.key_cache_ttl`. `None`: there is no such project.
    ///
    /// # Errors
    /// [`MetaError::DefaultProject`]; the database does not answer.
    pub async fn delete_project(&self, by: Actor, id: &ProjectId) -> Result<Option<Project>, MetaError> {
        let deleted = self.0.meta.by(by).projects().delete(id).await?;
        if deleted.is_some() {
            self.0.cache.forget_project(id);
            self.0.people.forget_all();
            tracing::info!(project_id = %id, "project deleted");
        }
        Ok(deleted)
    }

    /// The metadata database that the keys live in.
    pub fn meta(&self) -> &Meta {
        &self.0.meta
    }
}

pub(super) fn digest(api_key: &SecretString) -> KeyDigest {
    KeyDigest::of(api_key.expose_secret().as_bytes())
}

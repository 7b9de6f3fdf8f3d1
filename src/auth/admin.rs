//! Making, listing and revoking keys.

use secrecy::{ExposeSecret, SecretString};

use super::keys::{access_of, entry};
use super::secret::{KeyDigest, new_key, shown_prefix};
use super::{Keys, Permissions};
use crate::event::{EnvironmentId, ProjectId, Timestamp};
use crate::meta::{ApiKey, Meta, MetaError, NewApiKey};

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
    pub async fn create(&self, project: &ProjectId, spec: &KeySpec<'_>) -> Result<CreatedKey, MetaError> {
        let api_key = new_key(&*self.0.ids);
        let row = NewApiKey {
            environment: spec.environment,
            name: spec.name,
            prefix: &shown_prefix(&api_key),
            sha256: digest(&api_key).to_hex(),
            scopes: spec.permissions.to_string(),
            expires_at: spec.expires_at,
        };
        let key = self.0.meta.api_keys().create(project, row, self.0.config.keys_max).await?;
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
    pub async fn revoke(&self, project: &ProjectId, id: &str) -> Result<Option<ApiKey>, MetaError> {
        let Some(key) = self.0.meta.api_keys().revoke(project, id).await? else { return Ok(None) };
        if let Some(digest) = KeyDigest::from_hex(&key.sha256) {
            let access = access_of(&key, key.environment_id.as_str());
            self.0.cache.revoke(digest, entry(&key, access, self.0.clock.now(), None));
        }
        tracing::info!(project_id = %project, key_id = key.id, prefix = key.prefix, "API key revoked");
        Ok(Some(key))
    }

    /// The metadata database that the keys live in.
    pub fn meta(&self) -> &Meta {
        &self.0.meta
    }
}

pub(super) fn digest(api_key: &SecretString) -> KeyDigest {
    KeyDigest::of(api_key.expose_secret().as_bytes())
}

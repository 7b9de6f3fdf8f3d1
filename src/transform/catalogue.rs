//! Which transform counts in a scope: the newest version of its own, or the one that all have at first. Remembered for
//! `transform.cache_ttl`.

use std::sync::Arc;

use moka::future::Cache;
use serde::{Deserialize, Serialize};

use super::mapping::{Limits, Mapping};
use super::spec::Spec;
use crate::config;
use crate::event::Scope;
use crate::meta::{Meta, MetaError, TransformVersion};

/// The name of the transform that raw events go through.
pub const RAW: &str = "raw";
/// What stands for the transform that all have at first.
pub const DEFAULT_ID: &str = "default";
/// Scopes remembered at most.
const SCOPES_MAX: u64 = 1000;

/// A version of a transform, ready to be applied.
#[derive(Clone, PartialEq, Debug)]
pub struct Chosen {
    pub id: String,
    /// 0 for the one that all have at first.
    pub version: u64,
    pub spec: Spec,
    pub mapping: Mapping,
}

/// A version of a transform as jobs keep it: they use the same one to their end.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Pinned {
    pub id: String,
    pub version: u64,
    pub spec: Spec,
}

/// See the [module](self). Clones are handles of the same.
#[derive(Clone)]
pub struct Transforms {
    pub(super) meta: Meta,
    pub(super) config: config::Transform,
    known: Cache<Scope, Arc<Chosen>>,
}

impl Chosen {
    /// Reads a version as it is kept.
    ///
    /// # Errors
    /// This build cannot read it: another one wrote it.
    pub fn of(id: &str, version: u64, spec: Spec) -> Result<Self, MetaError> {
        let mapping = spec
            .compile()
            .map_err(|error| MetaError::Unreadable { what: "transform", message: error.to_string() })?;
        Ok(Self { id: id.to_owned(), version, spec, mapping })
    }

    fn read(row: TransformVersion) -> Result<Self, MetaError> {
        let spec: Spec = serde_json::from_value(row.spec.0)
            .map_err(|error| MetaError::Unreadable { what: "transform", message: error.to_string() })?;
        Self::of(&row.transform_id, row.version.unsigned_abs(), spec)
    }

    fn default_one() -> Result<Self, MetaError> {
        let spec = Spec::read(super::DEFAULT)
            .map_err(|error| MetaError::Unreadable { what: "transform", message: error.to_string() })?;
        Self::of(DEFAULT_ID, 0, spec)
    }
}

impl Transforms {
    pub fn new(meta: Meta, config: &config::Transform) -> Self {
        let known = Cache::builder().max_capacity(SCOPES_MAX).time_to_live(config.cache_ttl).build();
        Self { meta, config: config.clone(), known }
    }

    /// What one payload may cost and become.
    pub fn limits(&self) -> Limits {
        Limits { events_max: self.config.events_max, work_max: self.config.work_max }
    }

    /// How long a process may use an older version.
    pub fn cache_ttl(&self) -> std::time::Duration {
        self.config.cache_ttl
    }

    /// What raw events of this scope go through, as remembered.
    ///
    /// # Errors
    /// The database does not answer, or holds what this build cannot read.
    pub async fn raw(&self, scope: &Scope) -> Result<Arc<Chosen>, MetaError> {
        if let Some(known) = self.known.get(scope).await {
            return Ok(known);
        }
        let chosen = Arc::new(self.raw_now(scope).await?);
        self.known.insert(scope.clone(), chosen.clone()).await;
        Ok(chosen)
    }

    /// The same, as it is now.
    ///
    /// # Errors
    /// See [`Transforms::raw`].
    pub async fn raw_now(&self, scope: &Scope) -> Result<Chosen, MetaError> {
        match self.meta.transforms().newest_by_name(scope, RAW).await? {
            Some(row) => Chosen::read(row),
            None => Chosen::default_one(),
        }
    }

    /// A version of a transform of this scope; the newest where none is named.
    ///
    /// # Errors
    /// See [`Transforms::raw`].
    pub async fn find(
        &self,
        scope: &Scope,
        id: &str,
        version: Option<i64>,
    ) -> Result<Option<Chosen>, MetaError> {
        if id == DEFAULT_ID {
            return Chosen::default_one().map(Some);
        }
        let versions = self.meta.transforms().versions(scope, id).await?;
        let wanted = |row: &TransformVersion| version.is_none_or(|version| row.version == version);
        versions.into_iter().rev().find(wanted).map(Chosen::read).transpose()
    }

    /// Transforms of this scope have changed.
    pub async fn forget(&self, scope: &Scope) {
        self.known.invalidate(scope).await;
    }
}

//! The meters of a scope as they are needed to measure: checked, and remembered for `metering.cache_ttl`.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;

use super::meter::{Definition, Meter, Version};
use crate::event::Scope;
use crate::meta::{self, Meta, MetaError, MeterVersion};

/// Scopes remembered at most.
const SCOPES_MAX: u64 = 1000;

/// See the [module](self). Clones are handles of the same.
#[derive(Clone)]
pub struct Catalogue {
    meta: Meta,
    known: Cache<Scope, Arc<[Meter]>>,
}

impl Catalogue {
    pub fn new(meta: Meta, ttl: Duration) -> Self {
        Self { meta, known: Cache::builder().max_capacity(SCOPES_MAX).time_to_live(ttl).build() }
    }

    /// Every meter of this scope that measures.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn meters(&self, scope: &Scope) -> Result<Arc<[Meter]>, MetaError> {
        if let Some(meters) = self.known.get(scope).await {
            return Ok(meters);
        }
        let rows = self.meta.meters().published(scope).await?;
        let meters =
            rows.iter().map(|(meter, versions)| checked(meter, versions)).collect::<Result<Arc<[_]>, _>>()?;
        self.known.insert(scope.clone(), meters.clone()).await;
        Ok(meters)
    }

    /// A meter of this scope, archived ones too; asks the database.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn find(&self, scope: &Scope, id: &str) -> Result<Option<Meter>, MetaError> {
        let found = self.meta.meters().find(scope, id).await?;
        found.map(|(meter, versions)| checked(&meter, &versions)).transpose()
    }

    /// Meters of this scope have changed.
    pub async fn forget(&self, scope: &Scope) {
        self.known.invalidate(scope).await;
    }
}

/// Reads a meter and its versions as they are kept.
///
/// # Errors
/// A definition that this build cannot read: another version wrote it.
fn checked(meter: &meta::Meter, versions: &[MeterVersion]) -> Result<Meter, MetaError> {
    let unreadable = |message: String| MetaError::Unreadable { what: "meter", message };
    let versions = versions
        .iter()
        .map(|version| {
            let definition: Definition = serde_json::from_value(version.definition.0.clone())
                .map_err(|error| unreadable(error.to_string()))?;
            let measure = definition.measure().map_err(|problem| unreadable(problem.message))?;
            let (number, effective_from) = (version.version, version.effective_from);
            Ok(Version { number, effective_from, definition, measure })
        })
        .collect::<Result<_, MetaError>>()?;
    Ok(Meter { id: meter.id.clone(), name: meter.name.clone(), versions })
}

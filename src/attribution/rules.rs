//! The rules of a scope: kept with all their versions, and remembered as they are used for `attribution.cache_ttl`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use serde::{Deserialize, Serialize};

use super::rule::{Rule, Version};
use crate::event::Scope;
use crate::meta::{AuditAction, Document, DocumentKind, Meta, MetaError};

/// Scopes remembered at most.
const SCOPES_MAX: u64 = 10_000;

/// How rules are kept.
pub(super) const KIND: DocumentKind = DocumentKind {
    name: "attribution_rule",
    plural: "attribution rules",
    setting: "attribution.rules_max",
    audited: Some([AuditAction::RuleCreated, AuditAction::RuleChanged, AuditAction::RuleDeleted]),
};

/// What is kept of a rule: every version, oldest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub versions: Vec<Version>,
}

impl Kept {
    /// Reads a document.
    ///
    /// # Errors
    /// Another version of this program wrote it.
    pub(super) fn of(document: &Document) -> Result<Self, MetaError> {
        Self::deserialize(&document.body.0)
            .map_err(|error| MetaError::Unreadable { what: "attribution rule", message: error.to_string() })
    }
}

/// See the [module](self). Clones are handles of the same.
#[derive(Clone)]
pub struct Rules {
    meta: Meta,
    known: Cache<Scope, Arc<[Rule]>>,
    scopes: Cache<(), Arc<BTreeSet<Scope>>>,
}

impl Rules {
    pub(super) fn new(meta: Meta, ttl: Duration) -> Self {
        Self {
            meta,
            known: Cache::builder().max_capacity(SCOPES_MAX).time_to_live(ttl).build(),
            scopes: Cache::builder().max_capacity(1).time_to_live(ttl).build(),
        }
    }

    /// The scopes that have rules.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn scopes(&self) -> Result<Arc<BTreeSet<Scope>>, MetaError> {
        if let Some(scopes) = self.scopes.get(&()).await {
            return Ok(scopes);
        }
        let found: Arc<BTreeSet<Scope>> =
            Arc::new(self.meta.documents(KIND).scopes().await?.into_iter().collect());
        self.scopes.insert((), found.clone()).await;
        Ok(found)
    }

    /// The rules of a scope.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn of(&self, scope: &Scope) -> Result<Arc<[Rule]>, MetaError> {
        if let Some(rules) = self.known.get(scope).await {
            return Ok(rules);
        }
        let documents = self.meta.documents(KIND).list(scope).await?;
        let rules: Result<Vec<Option<Rule>>, MetaError> = documents.iter().map(rule).collect();
        let rules: Arc<[Rule]> = rules?.into_iter().flatten().collect();
        self.known.insert(scope.clone(), rules.clone()).await;
        Ok(rules)
    }

    /// A rule of this scope as it stands; asks the database.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn find(&self, scope: &Scope, id: &str) -> Result<Option<Rule>, MetaError> {
        match self.meta.documents(KIND).find(scope, id).await? {
            Some(document) => rule(&document),
            None => Ok(None),
        }
    }

    /// Rules of this scope have changed.
    pub(super) async fn forget(&self, scope: &Scope) {
        self.known.invalidate(scope).await;
        self.scopes.invalidate(&()).await;
    }
}

fn rule(document: &Document) -> Result<Option<Rule>, MetaError> {
    let newest = Kept::of(document)?.versions.pop();
    Ok(newest.map(|newest| Rule {
        id: document.id.clone(),
        version: newest.version,
        definition: newest.definition,
    }))
}

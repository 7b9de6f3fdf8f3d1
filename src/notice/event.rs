//! What is told, and how it stands in the log.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::{EnvironmentId, ProjectId, Scope, SystemEventKind, Timestamp};

/// Something to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct SystemEvent {
    pub kind: SystemEventKind,
    /// None: it concerns the whole installation.
    pub project: Option<ProjectId>,
    /// None: it concerns the whole project.
    pub environment: Option<EnvironmentId>,
    pub payload: Value,
    /// What it is about: told again under the same words, by whatever process, it is the same event. None: it is new.
    pub once: Option<String>,
}

impl SystemEvent {
    /// About an environment of a project.
    pub fn of_scope(kind: SystemEventKind, scope: Scope, payload: Value) -> Self {
        let (project, environment) = (Some(scope.project), Some(scope.environment));
        Self { kind, project, environment, payload, once: None }
    }

    /// About a project, or about the whole installation.
    pub fn of_project(kind: SystemEventKind, project: Option<ProjectId>, payload: Value) -> Self {
        Self { kind, project, environment: None, payload, once: None }
    }

    /// The same event, whoever tells it with these words.
    #[must_use]
    pub fn once(self, words: String) -> Self {
        Self { once: Some(words), ..self }
    }
}

/// A system event as it stands in the log: the value of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SystemEventRecord {
    pub id: String,
    pub event_name: SystemEventKind,
    pub project_id: Option<ProjectId>,
    pub environment_id: Option<EnvironmentId>,
    pub timestamp: Timestamp,
    pub payload: Value,
}

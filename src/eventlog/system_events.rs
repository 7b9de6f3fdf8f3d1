//! What the product tells others of, by project: records of topic `topics.system_events`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{EventLog, LogError, NewRecord};
use crate::event::{Clock, EnvironmentId, IdSource, ProjectId, Scope, SystemEventKind, Timestamp};

/// Key of what concerns the whole installation.
const INSTALLATION: &str = "installation";

/// Something to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct SystemEvent {
    pub kind: SystemEventKind,
    /// None: it concerns the whole installation.
    pub project: Option<ProjectId>,
    /// None: it concerns the whole project.
    pub environment: Option<EnvironmentId>,
    pub payload: Value,
}

impl SystemEvent {
    /// About an environment of a project.
    pub fn of_scope(kind: SystemEventKind, scope: Scope, payload: Value) -> Self {
        Self { kind, project: Some(scope.project), environment: Some(scope.environment), payload }
    }

    /// About a project, or about the whole installation.
    pub fn of_project(kind: SystemEventKind, project: Option<ProjectId>, payload: Value) -> Self {
        Self { kind, project, environment: None, payload }
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

/// Tells. Cheap to clone.
#[derive(Clone)]
pub struct SystemEvents {
    log: Arc<dyn EventLog>,
    topic: Arc<str>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
}

impl SystemEvents {
    pub fn new(log: Arc<dyn EventLog>, topic: &str, clock: Arc<dyn Clock>, ids: Arc<dyn IdSource>) -> Self {
        Self { log, topic: topic.into(), clock, ids }
    }

    /// Writes them to the topic; they are durable when it answers.
    ///
    /// # Errors
    /// The log did not take one of them: telling is best effort, whoever must be sure tells again.
    pub async fn tell(&self, events: Vec<SystemEvent>) -> Result<(), LogError> {
        let now = self.clock.now();
        let records: Vec<NewRecord> = events.into_iter().map(|event| self.record(event, now)).collect();
        if records.is_empty() {
            return Ok(());
        }
        match self.log.produce(&self.topic, records).await.into_iter().find_map(Result::err) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn record(&self, event: SystemEvent, now: Timestamp) -> NewRecord {
        let (project_id, environment_id) = (event.project, event.environment);
        let key = project_id.as_ref().map_or(INSTALLATION, ProjectId::as_str).to_owned();
        let record = SystemEventRecord {
            id: format!("sys_event_{}", self.ids.uuid_v7(now).simple()),
            event_name: event.kind,
            project_id,
            environment_id,
            timestamp: now,
            payload: event.payload,
        };
        // Of texts, times and JSON: it can be written.
        let value = serde_json::to_vec(&record).unwrap_or_default();
        NewRecord { key: Some(key.into()), value: value.into(), headers: Default::default(), timestamp: now }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::{ManualClock, RandomIds};
    use crate::eventlog::MemoryLog;

    #[test]
    fn a_system_event_reads_back_as_it_was_told() {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
        let ids: Arc<dyn IdSource> = Arc::new(RandomIds);
        let log = Arc::new(MemoryLog::new(clock.clone(), ids.clone()));
        let told = SystemEvents::new(log, "system_events", clock.clone(), ids);
        let (kind, payload) = (SystemEventKind::EventUnmetered, json!({ "event_type": "click" }));
        let event = SystemEvent::of_scope(kind, Scope::new("p", "e"), payload.clone());
        let record = told.record(event, clock.now());
        assert_eq!(record.key.as_deref(), Some("p".as_bytes()));
        let read: Value = serde_json::from_slice(&record.value).unwrap();
        assert_eq!(read["event_name"], "event.unmetered");
        assert_eq!(read["project_id"], "p");
        assert!(read["id"].as_str().unwrap().starts_with("sys_event_"));
        let read: SystemEventRecord = serde_json::from_slice(&record.value).unwrap();
        assert_eq!(
            (read.environment_id.unwrap().as_str(), read.payload),
            ("e", json!({"event_type": "click"}))
        );
        let record = told.record(SystemEvent::of_project(kind, None, payload), clock.now());
        assert_eq!(record.key.as_deref(), Some("installation".as_bytes()));
    }
}

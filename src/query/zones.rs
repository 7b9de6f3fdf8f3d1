//! The time zones of projects: what a question is asked in that names none.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Query, saved};
use crate::config::Config;
use crate::event::ProjectId;
use crate::http::Problem;

/// How long a zone is taken from memory: within this time a change counts in every process.
const KNOWN_FOR: Duration = Duration::from_secs(2);
/// Zones in memory at most.
const PROJECTS_MAX: usize = 10_000;
/// Of projects that the database does not know (yet).
const ELSE: &str = "UTC";

/// The zones that were read last, and when.
#[derive(Clone, Debug)]
pub(super) struct Zones {
    read: Arc<Mutex<HashMap<ProjectId, (Instant, String)>>>,
    /// Projects of the configuration: their keys need no database, so their questions do not, either.
    configured: Arc<HashSet<ProjectId>>,
}

impl Zones {
    pub(super) fn new(config: &Config) -> Self {
        let configured = config.auth.static_keys.iter().map(|key| ProjectId::new(key.project_id.as_str()));
        Self { read: Arc::default(), configured: Arc::new(configured.collect()) }
    }

    fn known(&self, project: &ProjectId) -> Option<(Instant, String)> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).get(project).cloned()
    }

    fn keep(&self, project: &ProjectId, zone: &str) {
        let mut known = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= PROJECTS_MAX && !known.contains_key(project) {
            known.clear();
        }
        known.insert(project.clone(), (Instant::now(), zone.to_owned()));
    }
}

impl Query {
    /// The zone of a project; while the database is away, what it was last.
    ///
    /// # Errors
    /// 503 while the metadata database does not answer and the zone was never read, but of projects of `auth.static_keys`.
    pub(super) async fn zone_of(&self, project: &ProjectId) -> Result<String, Problem> {
        let Some(meta) = &self.database else { return Ok(ELSE.to_owned()) };
        let known = self.zones.known(project);
        if let Some((at, zone)) = &known
            && at.elapsed() < KNOWN_FOR
        {
            return Ok(zone.clone());
        }
        let zone = match (meta.projects().find(project).await, known) {
            (Ok(found), _) => found.map_or_else(|| ELSE.to_owned(), |project| project.time_zone),
            (Err(_), Some((_, zone))) => zone,
            (Err(_), None) if self.zones.configured.contains(project) => return Ok(ELSE.to_owned()),
            (Err(error), None) => return Err(saved::problem(error)),
        };
        self.zones.keep(project, &zone);
        Ok(zone)
    }
}

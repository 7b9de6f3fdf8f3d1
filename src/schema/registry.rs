//! Every schema there is, compiled and in memory: what events are held against.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonschema::Validator;
use serde_json::Value;

use super::{Policy, VERSION_PROPERTY, compile};
use crate::config;
use crate::event::ProjectId;
use crate::meta::{Meta, MetaError, SchemaRow, SchemaVersion};
use crate::telemetry::names;

/// Longest message about an event that does not fit, in characters.
const MESSAGE_CHARS_MAX: usize = 300;

/// What a schema says of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The event has no schema.
    NoSchema,
    /// It fits this version, or need not.
    Fits(Mark),
    /// It does not: accepted all the same, and marked.
    Flagged(Mark, String),
    /// It does not, and must.
    Rejected(String),
}

/// What an event that was looked at carries from then on: the version, and whether it fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark(pub Box<str>);

/// The schemas of all projects. Clones are handles of the same.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    meta: Meta,
    limits: config::Schema,
    /// Is there any schema at all?
    any: AtomicBool,
    all: RwLock<HashMap<ProjectId, Arc<ProjectSchemas>>>,
}

/// The schemas of one project.
pub struct ProjectSchemas(HashMap<String, EventSchema>);

struct EventSchema {
    policy: Policy,
    /// Version and validator, oldest first.
    versions: Vec<(i64, Validator)>,
}

impl Registry {
    /// Empty, until [`Registry::refresh`].
    pub fn new(meta: Meta, limits: config::Schema) -> Self {
        Self(Arc::new(Inner { meta, limits, any: AtomicBool::new(false), all: RwLock::default() }))
    }

    pub(super) fn meta(&self) -> &Meta {
        &self.0.meta
    }

    pub(super) fn limits(&self) -> &config::Schema {
        &self.0.limits
    }

    /// The schemas of this project, if it has any.
    pub fn of(&self, project: &str) -> Option<Arc<ProjectSchemas>> {
        if !self.0.any.load(Ordering::Relaxed) {
            return None;
        }
        let all = self.0.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get(&ProjectId::new(project)).cloned()
    }

    /// Reads all of them anew.
    ///
    /// # Errors
    /// The database does not answer; what was known stays.
    pub async fn refresh(&self) -> Result<(), MetaError> {
        let rows = self.0.meta.schemas().of_all_projects().await?;
        let mut all: HashMap<ProjectId, ProjectSchemas> = HashMap::new();
        for (row, versions) in rows {
            let project = all.entry(row.project_id.clone()).or_insert_with(|| ProjectSchemas(HashMap::new()));
            project.0.insert(row.event_name.clone(), EventSchema::of(&row, &versions));
        }
        let any = !all.is_empty();
        let all = all.into_iter().map(|(project, schemas)| (project, Arc::new(schemas))).collect();
        *self.0.all.write().unwrap_or_else(PoisonError::into_inner) = all;
        self.0.any.store(any, Ordering::Relaxed);
        Ok(())
    }

    /// Keeps them as the database has them, until the task is ended. While that does not answer, what was known counts.
    ///
    /// # Errors
    /// None.
    pub async fn watch(self) -> anyhow::Result<()> {
        let mut told = false;
        loop {
            match self.refresh().await {
                Ok(()) => told = false,
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "schemas of events cannot be read anew: those that are known count");
                    }
                }
            }
            tokio::time::sleep(self.interval()).await;
        }
    }

    fn interval(&self) -> Duration {
        self.0.limits.refresh
    }
}

impl EventSchema {
    fn of(row: &SchemaRow, versions: &[SchemaVersion]) -> Self {
        let policy = serde_json::from_value(Value::from(row.policy.as_str())).unwrap_or_default();
        let versions = versions.iter().filter_map(|version| match compile(&version.definition.0) {
            Ok(validator) => Some((version.version, validator)),
            Err(error) => {
                // Another version of the program took it: events are not refused for that.
                tracing::warn!(event = %row.event_name, version = version.version, error, "a schema cannot be read");
                None
            }
        });
        Self { policy, versions: versions.collect() }
    }
}

impl ProjectSchemas {
    /// Holds an event against its schema, and counts what came of it.
    pub fn check(&self, event: &str, properties: &str) -> Verdict {
        let verdict = self.verdict(event, properties);
        let outcome = match &verdict {
            Verdict::NoSchema => return verdict,
            Verdict::Fits(mark) if mark.0.starts_with("accepted") => "accepted",
            Verdict::Fits(_) => "fits",
            Verdict::Flagged(..) => "flagged",
            Verdict::Rejected(_) => "rejected",
        };
        names::SCHEMA_CHECKED.counter(&[("outcome", outcome)]).increment(1);
        verdict
    }

    fn verdict(&self, event: &str, properties: &str) -> Verdict {
        let Some(schema) = self.0.get(event).filter(|schema| !schema.versions.is_empty()) else {
            return Verdict::NoSchema;
        };
        // Whether properties are JSON at all is looked at elsewhere, and named there.
        let Ok(properties) = serde_json::from_str::<Value>(properties) else { return Verdict::NoSchema };
        let (version, problem) = match properties.get(VERSION_PROPERTY) {
            None => match schema.versions.last() {
                None => return Verdict::NoSchema,
                Some((version, validator)) => (*version, misfit(validator, &properties)),
            },
            Some(given) => {
                let found = schema.versions.iter().find(|(version, _)| given.as_i64() == Some(*version));
                match found {
                    Some((version, validator)) => (*version, misfit(validator, &properties)),
                    None => (0, Some(format!("{VERSION_PROPERTY} {given} is no version of the schema"))),
                }
            }
        };
        let Some(problem) = problem else { return Verdict::Fits(Mark(version.to_string().into())) };
        let message =
            format!("properties do not fit version {version} of the schema of {event:?}: {problem}");
        match schema.policy {
            Policy::Reject => Verdict::Rejected(message),
            Policy::Flag => Verdict::Flagged(Mark(format!("flagged {version}").into()), message),
            Policy::Accept => Verdict::Fits(Mark(format!("accepted {version}").into())),
        }
    }
}

/// The first thing that does not fit.
fn misfit(validator: &Validator, properties: &Value) -> Option<String> {
    let error = validator.validate(properties).err()?;
    let place = error.instance_path().to_string();
    let told = if place.is_empty() { error.to_string() } else { format!("{place}: {error}") };
    Some(told.chars().take(MESSAGE_CHARS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schemas(policy: Policy) -> ProjectSchemas {
        let version = |number: i64, kind: &str| {
            let definition = json!({"properties": {"price": {"type": kind}}, "required": ["price"]});
            (number, compile(&definition).unwrap())
        };
        let schema = EventSchema { policy, versions: vec![version(1, "string"), version(2, "number")] };
        ProjectSchemas(HashMap::from([("buy".to_owned(), schema)]))
    }

    #[test]
    fn an_event_is_held_against_the_version_it_names_else_the_newest() {
        let flag = schemas(Policy::Flag);
        assert_eq!(flag.verdict("see", "{}"), Verdict::NoSchema);
        assert_eq!(flag.verdict("buy", r#"{"price":1}"#), Verdict::Fits(Mark("2".into())));
        assert_eq!(
            flag.verdict("buy", r#"{"price":"1","$schema_version":1}"#),
            Verdict::Fits(Mark("1".into()))
        );
        let Verdict::Flagged(mark, message) = flag.verdict("buy", r#"{"price":"1"}"#) else { panic!() };
        assert_eq!(&*mark.0, "flagged 2");
        assert!(message.contains("/price") && message.contains("version 2"), "{message}");
        let Verdict::Flagged(_, message) = flag.verdict("buy", r#"{"price":1,"$schema_version":9}"#) else {
            panic!()
        };
        assert!(message.contains("9 is no version"), "{message}");
    }

    #[test]
    fn the_policy_says_what_becomes_of_one_that_does_not_fit() {
        assert!(matches!(schemas(Policy::Reject).verdict("buy", "{}"), Verdict::Rejected(_)));
        assert!(matches!(schemas(Policy::Flag).verdict("buy", "{}"), Verdict::Flagged(..)));
        assert_eq!(schemas(Policy::Accept).verdict("buy", "{}"), Verdict::Fits(Mark("accepted 2".into())));
    }
}

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
use crate::transform::{Upcast, UpcastSpec};

/// Longest message about an event that does not fit, in characters.
const MESSAGE_CHARS_MAX: usize = 300;

/// What a schema says of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The event has no schema.
    NoSchema,
    /// It fits this version, or need not.
    Fits(Mark),
    /// It was written for an older version; these are its properties in the newest, which they fit.
    Upcast(Mark, String),
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
    /// What one upcast may cost (`transform.work_max`).
    work_max: usize,
    /// Is there any schema at all?
    any: AtomicBool,
    all: RwLock<HashMap<ProjectId, Arc<ProjectSchemas>>>,
}

/// The schemas of one project.
pub struct ProjectSchemas {
    of: HashMap<String, EventSchema>,
    /// What one upcast may cost (`transform.work_max`).
    work_max: usize,
}

struct EventSchema {
    policy: Policy,
    /// Oldest first.
    versions: Vec<Version>,
}

struct Version {
    number: i64,
    validator: Validator,
    /// What properties of the version before become in this one; names this version, too.
    upcast: Upcast,
    /// Does it do anything else?
    is_upcast: bool,
}

/// Properties held against a version.
struct Held {
    version: i64,
    problem: Option<String>,
    /// What they became.
    upcast: Option<String>,
}

impl Registry {
    /// Empty, until [`Registry::refresh`].
    pub fn new(meta: Meta, limits: config::Schema, work_max: usize) -> Self {
        let (any, all) = (AtomicBool::new(false), RwLock::default());
        Self(Arc::new(Inner { meta, limits, work_max, any, all }))
    }

    pub(super) fn meta(&self) -> &Meta {
        &self.0.meta
    }

    pub(super) fn work_max(&self) -> usize {
        self.0.work_max
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
            let none = || ProjectSchemas { of: HashMap::new(), work_max: self.0.work_max };
            let project = all.entry(row.project_id.clone()).or_insert_with(none);
            project.of.insert(row.event_name.clone(), EventSchema::of(&row, &versions));
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
        let versions = versions.iter().filter_map(|version| match Version::of(version) {
            Ok(version) => Some(version),
            Err(error) => {
                // Another version of the program took it: events are not refused for that.
                tracing::warn!(event = %row.event_name, version = version.version, error, "a schema cannot be read");
                None
            }
        });
        Self { policy, versions: versions.collect() }
    }
}

impl Version {
    fn of(row: &SchemaVersion) -> Result<Self, String> {
        let upcast = match &row.upcast {
            Some(spec) => {
                let spec: UpcastSpec =
                    serde_json::from_value(spec.0.clone()).map_err(|error| error.to_string())?;
                spec.compile().map_err(|error| error.to_string())?
            }
            None => Upcast::default(),
        };
        Ok(Self {
            number: row.version,
            validator: compile(&row.definition.0)?,
            upcast: upcast.with_number(VERSION_PROPERTY, row.version),
            is_upcast: row.upcast.is_some(),
        })
    }

    fn hold(&self, properties: &Value) -> Held {
        Held { version: self.number, problem: misfit(&self.validator, properties), upcast: None }
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
            Verdict::Upcast(..) => "upcast",
            Verdict::Flagged(..) => "flagged",
            Verdict::Rejected(_) => "rejected",
        };
        names::SCHEMA_CHECKED.counter(&[("outcome", outcome)]).increment(1);
        verdict
    }

    fn verdict(&self, event: &str, text: &str) -> Verdict {
        let Some(schema) = self.of.get(event) else { return Verdict::NoSchema };
        // Whether properties are JSON at all is looked at elsewhere, and named there.
        let Ok(properties) = serde_json::from_str::<Value>(text) else { return Verdict::NoSchema };
        let Some(held) = schema.hold(&properties, text, self.work_max) else { return Verdict::NoSchema };
        let version = held.version;
        let Some(problem) = held.problem else {
            return match held.upcast {
                Some(upcast) => Verdict::Upcast(Mark(format!("upcast {version}").into()), upcast),
                None => Verdict::Fits(Mark(version.to_string().into())),
            };
        };
        let message =
            format!("properties do not fit version {version} of the schema of {event:?}: {problem}");
        match schema.policy {
            Policy::Reject => Verdict::Rejected(message),
            Policy::Flag => Verdict::Flagged(Mark(format!("flagged {version}").into()), message),
            Policy::Accept => Verdict::Fits(Mark(format!("accepted {version}").into())),
        }
    }
}

impl EventSchema {
    /// Holds properties against the version that they name, else against the newest. Those of an older version are held
    /// against the newest as what they become there, if any version since has an upcast.
    fn hold(&self, properties: &Value, text: &str, work_max: usize) -> Option<Held> {
        let newest = self.versions.last()?;
        let Some(given) = properties.get(VERSION_PROPERTY) else { return Some(newest.hold(properties)) };
        let place = self.versions.iter().position(|version| given.as_i64() == Some(version.number));
        let Some(place) = place else {
            let problem = format!("{VERSION_PROPERTY} {given} is no version of the schema");
            return Some(Held { version: 0, problem: Some(problem), upcast: None });
        };
        let later = &self.versions[place + 1..];
        if !later.iter().any(|version| version.is_upcast) {
            return Some(self.versions[place].hold(properties));
        }
        let upcast = later
            .iter()
            .try_fold(text.to_owned(), |text, version| version.upcast.apply(&text, work_max))
            .map_err(|error| error.to_string());
        let held = upcast.and_then(|upcast| {
            let properties = serde_json::from_str(&upcast).map_err(|error| error.to_string())?;
            Ok(Held { upcast: Some(upcast), ..newest.hold(&properties) })
        });
        Some(match held {
            Ok(Held { problem: None, version, upcast }) => Held { version, problem: None, upcast },
            Ok(Held { problem: Some(problem), .. }) | Err(problem) => {
                let problem = Some(format!("brought up from version {given}: {problem}"));
                Held { version: newest.number, problem, upcast: None }
            }
        })
    }
}

/// The first thing that does not fit.
pub(super) fn misfit(validator: &Validator, properties: &Value) -> Option<String> {
    let error = validator.validate(properties).err()?;
    let place = error.instance_path().to_string();
    let told = if place.is_empty() { error.to_string() } else { format!("{place}: {error}") };
    Some(told.chars().take(MESSAGE_CHARS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::Timestamp;
    use crate::meta::JsonText;

    fn version(number: i64, kind: &str, upcast: Option<Value>) -> Version {
        let definition = json!({"properties": {"price": {"type": kind}}, "required": ["price"]});
        Version::of(&SchemaVersion {
            schema_id: "schema_1".to_owned(),
            version: number,
            definition: JsonText(definition),
            upcast: upcast.map(JsonText),
            created_at: Timestamp::EPOCH,
            created_by: None,
            updated_at: Timestamp::EPOCH,
        })
        .unwrap()
    }

    fn of(policy: Policy, versions: Vec<Version>) -> ProjectSchemas {
        let of = HashMap::from([("buy".to_owned(), EventSchema { policy, versions })]);
        ProjectSchemas { of, work_max: 10_000 }
    }

    fn schemas(policy: Policy) -> ProjectSchemas {
        of(policy, vec![version(1, "string", None), version(2, "number", None)])
    }

    /// Texts, then numbers, then numbers with a currency; the last version changes nothing that is there.
    fn upcasting(policy: Policy) -> ProjectSchemas {
        let to_number = json!({"properties": [{"name": "price", "value": "number(price)"}]});
        let with_currency = json!({"properties": [{"name": "currency", "value": "'EUR'"}]});
        let versions = vec![
            version(1, "string", None),
            version(2, "number", Some(to_number)),
            version(3, "number", Some(with_currency)),
            version(4, "number", None),
        ];
        of(policy, versions)
    }

    #[test]
    fn an_older_version_is_brought_up_to_the_newest_step_by_step() {
        let flag = upcasting(Policy::Flag);
        let upcast = |text: &str| Verdict::Upcast(Mark("upcast 4".into()), text.to_owned());
        assert_eq!(
            flag.verdict("buy", r#"{"price":"1.50","$schema_version":1,"note":"x"}"#),
            upcast(r#"{"price":1.5,"$schema_version":4,"note":"x","currency":"EUR"}"#)
        );
        assert_eq!(
            flag.verdict("buy", r#"{"$schema_version":2,"price":2}"#),
            upcast(r#"{"$schema_version":4,"price":2,"currency":"EUR"}"#)
        );
        // From here on no version has an upcast: as it says, against its own.
        assert_eq!(
            flag.verdict("buy", r#"{"$schema_version":3,"price":2}"#),
            Verdict::Fits(Mark("3".into()))
        );
        // What was brought up is not brought up again.
        assert_eq!(
            flag.verdict("buy", r#"{"price":1.50,"$schema_version":4}"#),
            Verdict::Fits(Mark("4".into()))
        );
    }

    #[test]
    fn one_that_cannot_be_brought_up_is_left_as_it_is_and_its_policy_says_what_becomes_of_it() {
        for given in [r#"{"price":"much","$schema_version":1}"#, r#"{"$schema_version":2}"#] {
            let Verdict::Flagged(mark, message) = upcasting(Policy::Flag).verdict("buy", given) else {
                panic!()
            };
            assert_eq!(&*mark.0, "flagged 4");
            assert!(message.contains("brought up from version"), "{message}");
            assert!(matches!(upcasting(Policy::Reject).verdict("buy", given), Verdict::Rejected(_)));
            let accepted = upcasting(Policy::Accept).verdict("buy", given);
            assert_eq!(accepted, Verdict::Fits(Mark("accepted 4".into())));
        }
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

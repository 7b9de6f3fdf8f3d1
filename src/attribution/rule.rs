//! What a rule says: which events are credited with which others, and how. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config;
use crate::event::Timestamp;
use crate::http::Problem;

/// Longest name of an event or a property, in characters.
const NAME_CHARS_MAX: usize = 200;

/// How a target event's credit is divided among the source events before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Model {
    /// All to the earliest.
    FirstTouch,
    /// All to the latest.
    LastTouch,
    /// The same to each.
    Linear,
    /// Two fifths each to the earliest and the latest, the rest in equal parts to those between; of two, half each.
    Position,
}

/// What source and target events must have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Join {
    /// The person: distinct ids that were merged are the same.
    DistinctId,
    /// The session.
    SessionId,
    /// The text of a property, which may be called otherwise in the two events.
    Property { source: String, target: String },
}

/// A rule as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Names of events that can be credited; at most `attribution.sources_max`.
    pub sources: Vec<String>,
    /// The event that is credited to them.
    pub target: String,
    pub join: Join,
    /// How long before the target a source may lie (`"7d"`); at most `attribution.look_back_max`.
    #[serde(with = "humantime_serde")]
    pub look_back: Duration,
    pub model: Model,
    /// A property of the sources that answers can be broken down by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimension: Option<String>,
    /// A property of the target whose number is credited, besides the event itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// One version of a rule, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub version: u32,
    pub definition: Definition,
    pub created_at: Timestamp,
    /// Who wrote it.
    pub created_by: String,
}

/// A rule as it is used: its newest version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub id: String,
    pub version: u32,
    pub definition: Definition,
}

impl Definition {
    /// Does it make sense, within the bounds?
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn check(&self, bounds: &config::Attribution) -> Result<(), Problem> {
        let name = |field: &str, text: &str| {
            if (1..=NAME_CHARS_MAX).contains(&text.chars().count()) {
                return Ok(());
            }
            let message = format!("{field} has from 1 to {NAME_CHARS_MAX} characters");
            Err(Problem::invalid(field, message).with("given", text.chars().take(100).collect::<String>()))
        };
        if self.sources.is_empty() || self.sources.len() > bounds.sources_max {
            let max = bounds.sources_max;
            let message = format!("sources has from 1 to {max} names of events (attribution.sources_max)");
            return Err(Problem::invalid("sources", message)
                .with("max", max)
                .with("setting", "attribution.sources_max"));
        }
        for source in &self.sources {
            name("sources", source)?;
        }
        name("target", &self.target)?;
        if let Join::Property { source, target } = &self.join {
            name("join.source", source)?;
            name("join.target", target)?;
        }
        for (field, property) in [("dimension", &self.dimension), ("value", &self.value)] {
            if let Some(property) = property {
                name(field, property)?;
            }
        }
        if self.look_back.is_zero() || self.look_back > bounds.look_back_max {
            let max = humantime::format_duration(bounds.look_back_max).to_string();
            let message =
                format!("look_back is longer than zero and at most {max} (attribution.look_back_max)");
            return Err(Problem::invalid("look_back", message)
                .with("max", max)
                .with("setting", "attribution.look_back_max"));
        }
        Ok(())
    }

    /// Can an event of this name be credited?
    pub fn is_source(&self, event: &str) -> bool {
        self.sources.iter().any(|source| source == event)
    }

    /// Is it about events of this name?
    pub fn names(&self, event: &str) -> bool {
        self.target == event || self.is_source(event)
    }
}

impl Rule {
    /// The version of a row that was computed by this version of the rule from a reading that began then: a newer rule
    /// goes before a later reading.
    pub fn row_version(&self, micros: u64) -> u64 {
        // Microseconds since 1970 need 51 bits until 2041; the store's clock is trusted that far.
        (u64::from(self.version) << 52) | (micros & ((1 << 52) - 1))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Config;
    use crate::http::strict;

    fn read(value: &serde_json::Value) -> Result<(), Problem> {
        let definition: Definition = strict::json(value.to_string().as_bytes())?;
        definition.check(&Config::from_overrides(&[]).unwrap().attribution)
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_refused_by_its_field() {
        let good = json!({"sources": ["ad clicked"], "target": "order placed", "join": {"by": "distinct_id"},
                          "look_back": "7d", "model": "last_touch"});
        read(&good).unwrap();
        for (field, value) in [
            ("sources", json!([])),
            ("sources", json!([""])),
            ("target", json!("")),
            ("look_back", json!("0s")),
            ("look_back", json!("10000d")),
            ("join.source", json!({"by": "property", "source": "", "target": "item_id"})),
            ("dimension", json!("")),
        ] {
            let mut bad = good.clone();
            bad[field.split('.').next().unwrap()] = value;
            let problem = read(&bad).unwrap_err();
            assert_eq!(problem.details["field"], field, "{problem}");
        }
        let mut unknown = good;
        unknown["lookback"] = json!("1d");
        assert!(read(&unknown).unwrap_err().message.contains("lookback"));
    }

    #[test]
    fn a_newer_rule_goes_before_a_later_reading() {
        let definition = Definition {
            sources: vec!["a".to_owned()],
            target: "b".to_owned(),
            join: Join::SessionId,
            look_back: Duration::from_secs(1),
            model: Model::Linear,
            dimension: None,
            value: None,
        };
        let rule = |version| Rule { id: "r".to_owned(), version, definition: definition.clone() };
        let now = 1_795_000_000_000_000;
        let order = [rule(1).row_version(now), rule(1).row_version(now + 1), rule(2).row_version(now)];
        assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
    }
}

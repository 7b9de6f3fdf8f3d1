//! Which meters count an event, and why the others do not.

use serde::Serialize;

use super::meter::{Unmatched, properties_of};
use super::number::{Quantity, plain};
use super::tally::Aggregation;
use super::{Metering, meta_problem};
use crate::event::{Scope, Timestamp};
use crate::http::Problem;

/// What a meter makes of one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Match {
    pub meter_id: String,
    pub name: String,
    /// The version of its definition that measures the event's time.
    pub version: Option<i64>,
    pub matched: bool,
    /// Why it does not count; of one that counts without a value, why there is none.
    pub why: Option<Why>,
    /// What it counts for.
    pub quantity: Option<String>,
    /// Features that are measured by it.
    pub feature_ids: Vec<String>,
}

/// Why an event does not count, or not with a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Why {
    Unmatched(Unmatched),
    Other { reason: &'static str },
}

impl Metering {
    /// What every meter of a scope makes of an event.
    ///
    /// # Errors
    /// 503: the metadata database does not answer.
    pub async fn matches(
        &self,
        scope: &Scope,
        event_name: &str,
        at: Timestamp,
        properties: &str,
    ) -> Result<Vec<Match>, Problem> {
        let meters = self.catalogue.meters(scope).await.map_err(meta_problem)?;
        let max = self.config.features_max;
        let (features, _) = self.meta.features().list(scope, 0, max).await.map_err(meta_problem)?;
        let properties = properties_of(properties);
        let other = |reason| Some(Why::Other { reason });
        let matches = meters.iter().map(|meter| {
            let own = features.iter().filter(|feature| feature.meter_id.as_ref() == Some(&meter.id));
            let version = meter.version_at(at);
            let mut found = Match {
                meter_id: meter.id.clone(),
                name: meter.name.clone(),
                version: version.map(|version| version.number),
                matched: false,
                why: None,
                quantity: None,
                feature_ids: own.map(|feature| feature.id.clone()).collect(),
            };
            let Some(version) = version else {
                found.why = other("no version of the meter is in effect at the event's time");
                return found;
            };
            if let Err(unmatched) = version.definition.matches(event_name, &properties) {
                found.why = Some(Why::Unmatched(unmatched));
                return found;
            }
            found.matched = true;
            let measure = &version.measure;
            let json: Vec<&str> = measure
                .properties()
                .iter()
                .map(|key| properties.get(key).map_or("", |raw| raw.get()))
                .collect();
            (found.quantity, found.why) = match (measure.aggregation, measure.quantity(&json)) {
                (Aggregation::Count, _) => (Some("1".to_owned()), None),
                (Aggregation::CountUnique, _) => (measure.unique_text(&json), None),
                (_, Quantity::Number(number)) => (Some(plain(&number)), None),
                (_, Quantity::Missing) => (None, other("its value is missing")),
                (_, Quantity::NotNumeric) => (None, other("its value is no number")),
                (_, Quantity::TooPrecise) => (None, other("its value has more digits than are kept")),
            };
            found
        });
        Ok(matches.collect())
    }
}

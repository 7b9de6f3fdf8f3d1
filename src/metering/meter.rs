//! Meters: which events count, and what of them. A definition is checked once, when it is made, and never changes:
//! a change is another version, for events from a moment on.

use std::collections::BTreeMap;

use bigdecimal::{BigDecimal, Signed};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::expression::Expression;
use super::number::{INTEGER_DIGITS_MAX, Quantity, SCALE, SHORT_DIGITS_MAX, rounded};
use super::tally::Aggregation;
use super::window::WindowSize;
use crate::event::Timestamp;
use crate::http::Problem;

/// Longest name, key or value, in characters; most filters, and most values of one.
pub const TEXT_CHARACTERS_MAX: usize = 200;
const FILTERS_MAX: usize = 50;
const VALUES_MAX: usize = 1000;

/// What a meter measures, as it is sent and kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    pub event_name: String,
    pub aggregation: AggregationSpec,
    #[serde(default)]
    pub filters: Vec<MeterFilter>,
    #[serde(default)]
    pub reset_usage: ResetUsage,
    #[serde(default)]
    pub unit: String,
}

/// How values are found, and become one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AggregationSpec {
    #[serde(rename = "type")]
    pub kind: Aggregation,
    /// The property whose value counts; not with `expression`.
    #[serde(default)]
    pub field: String,
    /// Arithmetic over properties; see `expression.rs`.
    #[serde(default)]
    pub expression: String,
    /// A decimal above 0; only with `SUM_WITH_MULTIPLIER`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiplier: Option<String>,
    /// Usage is the sum over these windows of each window's value; only with `MAX` and `SUM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket_size: Option<WindowSize>,
    /// Within a bucket each value of this property is aggregated apart; only with `bucket_size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_by: Option<String>,
}

/// Only events whose property is one of these texts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeterFilter {
    pub key: String,
    pub values: Vec<String>,
}

/// Does usage begin anew with each billing period?
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ResetUsage {
    #[default]
    BillingPeriod,
    /// Usage includes all history before the period.
    Never,
}

/// A definition that was checked, ready to measure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Measure {
    pub aggregation: Aggregation,
    /// None: the aggregation looks at no value.
    pub expression: Option<Expression>,
    multiplier: Option<BigDecimal>,
}

/// Properties of an event by name, as JSON text.
pub type Properties<'a> = BTreeMap<String, &'a RawValue>;

/// Why an event does not count.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Unmatched {
    EventName {
        wanted: String,
    },
    /// A filter's property has another value, or none.
    Filter {
        key: String,
        given: Option<String>,
        wanted: Vec<String>,
    },
}

impl Measure {
    /// Checks how values are found; `path` is the place of the spec in the request (empty: its top).
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn new(spec: &AggregationSpec, path: &str) -> Result<Self, Problem> {
        let field = |name: &str| format!("{path}{name}");
        let kind = spec.kind.as_str();
        let expression = match (spec.field.as_str(), spec.expression.as_str()) {
            ("", "") if spec.kind.needs_value() => {
                let message =
                    format!("{} is required: {kind} needs a property or an expression", field("field"));
                return Err(Problem::invalid(&field("field"), message));
            }
            ("", "") => None,
            (_, _) if !spec.kind.needs_value() => {
                let message =
                    format!("{kind} counts events and reads no value: leave {} out", field("field"));
                return Err(Problem::invalid(&field("field"), message));
            }
            (property, "") => {
                check_text(&field("field"), property)?;
                Some(Expression::property(property))
            }
            ("", text) => Some(Expression::parse(text).map_err(|error| {
                let name = field("expression");
                Problem::invalid(&name, format!("{name} cannot be computed: {error}")).with("given", text)
            })?),
            _ => {
                let message = format!("{} and {} exclude each other", field("field"), field("expression"));
                return Err(Problem::invalid(&field("expression"), message));
            }
        };
        let multiplier = multiplier(spec, &field("multiplier"))?;
        let buckets = matches!(spec.kind, Aggregation::Max | Aggregation::Sum);
        if spec.bucket_size.is_some() && !buckets {
            let name = field("bucket_size");
            return Err(Problem::invalid(&name, format!("{name} goes with MAX and SUM, not with {kind}")));
        }
        if spec.group_by.is_some() && spec.bucket_size.is_none() {
            let name = field("group_by");
            return Err(Problem::invalid(&name, format!("{name} goes with bucket_size")));
        }
        Ok(Self { aggregation: spec.kind, expression, multiplier })
    }

    /// The properties it reads.
    pub fn properties(&self) -> &[String] {
        self.expression.as_ref().map_or(&[], Expression::properties)
    }

    /// The one property whose values are taken as they are, and how many digits behind the point they may have so that
    /// the multiplier loses none; `None`: values are computed.
    pub fn plain_property(&self) -> Option<(&str, u64)> {
        let key = self.expression.as_ref()?.as_property()?;
        let Some(multiplier) = &self.multiplier else { return Some((key, SCALE.unsigned_abs())) };
        let (digits, scale) = (multiplier.digits(), multiplier.fractional_digit_count());
        let integer_digits = i64::try_from(digits).ok()? - scale;
        let room = INTEGER_DIGITS_MAX.cast_signed() - SHORT_DIGITS_MAX.cast_signed() - 1;
        (integer_digits <= room && (0..=SCALE).contains(&scale))
            .then(|| (key, (SCALE - scale).unsigned_abs()))
    }

    /// What a sum of values comes to.
    pub fn multiplied(&self, sum: BigDecimal) -> BigDecimal {
        match &self.multiplier {
            Some(multiplier) => sum * multiplier,
            None => sum,
        }
    }

    /// The value that these JSON texts make (empty: absent), in the order of [`Measure::properties`].
    pub fn quantity(&self, json: &[&str]) -> Quantity {
        let Some(expression) = &self.expression else { return Quantity::Missing };
        let values: Vec<Quantity> = json.iter().map(|json| Quantity::of_json(json)).collect();
        match (expression.value(&values), &self.multiplier) {
            (Quantity::Number(number), Some(multiplier)) => {
                Quantity::checked(&rounded(&(number * multiplier)))
            }
            (quantity, _) => quantity,
        }
    }

    /// What tells one value from another: a text's content, a number as it is written; of an expression over several
    /// properties, its number.
    pub fn unique_text(&self, json: &[&str]) -> Option<String> {
        match json {
            [one] if self.properties().len() == 1 => text_of(one),
            _ => match self.quantity(json) {
                Quantity::Number(number) => Some(super::number::plain(&number)),
                _ => None,
            },
        }
    }
}

fn multiplier(spec: &AggregationSpec, field: &str) -> Result<Option<BigDecimal>, Problem> {
    match (&spec.multiplier, spec.kind) {
        (None, Aggregation::SumWithMultiplier) => {
            Err(Problem::invalid(field, format!("{field} is required with SUM_WITH_MULTIPLIER")))
        }
        (None, _) => Ok(None),
        (Some(text), Aggregation::SumWithMultiplier) => match Quantity::of_text(text) {
            Quantity::Number(number) if number.is_positive() => Ok(Some(number)),
            _ => {
                let message = format!("{field} must be a decimal above 0 as text, such as \"0.001\"");
                Err(Problem::invalid(field, message).with("given", text.as_str()))
            }
        },
        (Some(_), kind) => {
            let message = format!("{field} goes with SUM_WITH_MULTIPLIER, not with {}", kind.as_str());
            Err(Problem::invalid(field, message))
        }
    }
}

impl Definition {
    /// Checks it.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn measure(&self) -> Result<Measure, Problem> {
        check_text("event_name", &self.event_name)?;
        if self.unit.chars().count() > TEXT_CHARACTERS_MAX {
            return Err(too_long("unit"));
        }
        check_filters(&self.filters)?;
        if let Some(key) = &self.aggregation.group_by {
            check_text("aggregation.group_by", key)?;
        }
        Measure::new(&self.aggregation, "aggregation.")
    }

    /// Does an event count? If not, why.
    ///
    /// # Errors
    /// It does not.
    pub fn matches(&self, event_name: &str, properties: &Properties<'_>) -> Result<(), Unmatched> {
        if self.event_name != event_name {
            return Err(Unmatched::EventName { wanted: self.event_name.clone() });
        }
        for MeterFilter { key, values } in &self.filters {
            let given = properties.get(key).and_then(|value| text_of(value.get()));
            if !given.as_ref().is_some_and(|given| values.contains(given)) {
                return Err(Unmatched::Filter { key: key.clone(), given, wanted: values.clone() });
            }
        }
        Ok(())
    }
}

/// A meter's definition for events from a moment on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    pub number: i64,
    pub effective_from: Timestamp,
    pub definition: Definition,
    pub measure: Measure,
}

/// A meter with all its versions, oldest first by when they take effect (the last made of those of one moment counts).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meter {
    pub id: String,
    pub name: String,
    pub versions: Vec<Version>,
}

impl Meter {
    /// The version that measures events of `at`: of those in effect, the one that took effect last.
    pub fn version_at(&self, at: Timestamp) -> Option<&Version> {
        self.versions
            .iter()
            .filter(|version| version.effective_from <= at)
            .max_by_key(|version| (version.effective_from, version.number))
    }

    /// The newest version.
    pub fn newest(&self) -> Option<&Version> {
        self.versions.iter().max_by_key(|version| version.number)
    }

    /// Cuts `from..end` where another version takes effect.
    pub fn segments(&self, from: Timestamp, end: Timestamp) -> Vec<(Timestamp, Timestamp, &Version)> {
        let mut cuts: Vec<Timestamp> = vec![from];
        cuts.extend(
            self.versions.iter().map(|version| version.effective_from).filter(|at| *at > from && *at < end),
        );
        cuts.push(end);
        cuts.sort_unstable();
        cuts.dedup();
        let pairs = cuts.windows(2).map(|pair| (pair[0], pair[1]));
        pairs.filter_map(|(from, end)| Some((from, end, self.version_at(from)?))).collect()
    }
}

/// The properties of an event by name; what is not an object has none.
pub fn properties_of(json: &str) -> Properties<'_> {
    serde_json::from_str(json).unwrap_or_default()
}

/// A text's content, anything else as it is written; absent (empty) and null are none.
pub fn text_of(json: &str) -> Option<String> {
    match json.as_bytes() {
        b"" | b"null" => None,
        [b'"', ..] => serde_json::from_str(json).ok(),
        _ => Some(json.to_owned()),
    }
}

/// 400 unless it is a text of 1 to [`TEXT_CHARACTERS_MAX`] characters.
///
/// # Errors
/// It is not.
pub fn check_text(field: &str, text: &str) -> Result<(), Problem> {
    if text.trim().is_empty() {
        return Err(Problem::invalid(field, format!("{field} is required")));
    }
    if text.chars().count() > TEXT_CHARACTERS_MAX { Err(too_long(field)) } else { Ok(()) }
}

fn too_long(field: &str) -> Problem {
    let message = format!("{field} may have {TEXT_CHARACTERS_MAX} characters");
    Problem::invalid(field, message).with("max", TEXT_CHARACTERS_MAX)
}

fn check_filters(filters: &[MeterFilter]) -> Result<(), Problem> {
    if filters.len() > FILTERS_MAX {
        let message = format!("filters may have {FILTERS_MAX} entries, given {}", filters.len());
        return Err(Problem::invalid("filters", message).with("max", FILTERS_MAX));
    }
    for (index, filter) in filters.iter().enumerate() {
        check_text(&format!("filters[{index}].key"), &filter.key)?;
        if filter.values.is_empty() || filter.values.len() > VALUES_MAX {
            let field = format!("filters[{index}].values");
            let message =
                format!("{field} must have 1 to {VALUES_MAX} values, given {}", filter.values.len());
            return Err(Problem::invalid(&field, message).with("max", VALUES_MAX));
        }
    }
    Ok(())
}

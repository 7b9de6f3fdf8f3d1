//! What a series is split by: values of properties, or bins of one property's numbers.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, IntoDeserializer as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::config;
use crate::http::Problem;
use crate::query::cohorts;
use crate::query::filter::{self, Ground, PropertyKind};
use crate::query::groups::Meant;
use crate::store::{Property, Sql};

/// Splits every series by the values of one or several properties.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Breakdown {
    /// One property's name, or a list: then every value of the answer is a list too. Of type `cohort` the ids of
    /// cohorts, each of which has a line; `all` is everybody.
    pub property: OneOrMany<String>,
    /// Whose property; of a list for each, or one for all.
    #[serde(rename = "type", default)]
    pub kind: OneOrMany<BreakdownKind>,
    /// Of type `group`: the number of the groups' type …
    pub group_type_index: Option<u8>,
    /// … or its name.
    pub group_type: Option<String>,
    /// How many values get a line of their own; 25 when absent, at most `query.breakdown_values_max`.
    pub limit: Option<usize>,
    /// Leave out the line of all other values.
    #[serde(default)]
    pub hide_other: bool,
    /// Is the answer to be kept as a file? Then, without a limit, it has as many lines as an answer may have.
    #[serde(skip)]
    pub export: bool,
    /// Put numbers into this many bins of equal width instead.
    #[serde(alias = "bin_count")]
    pub histogram_bins: Option<usize>,
}

/// Whose property, or sets of people.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakdownKind {
    #[default]
    Event,
    Person,
    EventMetadata,
    Feature,
    Group,
    Session,
    Cohort,
    #[serde(alias = "hogql")]
    Expression,
}

impl BreakdownKind {
    /// Whose property; none: it is no property's.
    pub(in crate::query) const fn of_property(self) -> Option<PropertyKind> {
        Some(match self {
            Self::Event => PropertyKind::Event,
            Self::Person => PropertyKind::Person,
            Self::EventMetadata => PropertyKind::EventMetadata,
            Self::Feature => PropertyKind::Feature,
            Self::Group => PropertyKind::Group,
            Self::Session => PropertyKind::Session,
            Self::Expression => PropertyKind::Expression,
            Self::Cohort => return None,
        })
    }
}

/// One, or a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

// Written out: what serde derives for an untagged enum forgets which value was wrong, and why.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Either(PhantomData))
    }
}

struct Either<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
    type Value = OneOrMany<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of texts")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany<T>, E> {
        T::deserialize(text.into_deserializer()).map(OneOrMany::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<OneOrMany<T>, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(seq)).map(OneOrMany::Many)
    }
}

impl<T: Default> Default for OneOrMany<T> {
    fn default() -> Self {
        Self::One(T::default())
    }
}

impl<T> OneOrMany<T> {
    pub(in crate::query) fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// Values of a breakdown that get a line, unless the question says otherwise.
const VALUES: usize = 25;

/// A breakdown that was checked.
#[derive(Clone, Debug)]
pub(super) struct PlannedBreakdown {
    properties: Vec<Property>,
    /// Are its values lists?
    pub(super) many: bool,
    /// Lines that are shown, but for those of all other values.
    pub(super) limit: usize,
    /// Values that the store tells apart: more than are shown where a formula decides which are.
    pub(super) fetched: usize,
    pub(super) hide_other: bool,
    bins: Option<usize>,
    /// Ids of cohorts and what holds for their members, instead of properties.
    cohorts: Vec<(String, Sql)>,
}

impl Breakdown {
    /// Checks it.
    ///
    /// # Errors
    /// 400 that names the field.
    pub(super) fn check(&self, ground: &Ground<'_>) -> Result<PlannedBreakdown, Problem> {
        let (keys, kinds) = (self.property.as_slice(), self.kind.as_slice());
        let group = Meant { index: self.group_type_index, name: self.group_type.as_deref() };
        if !kinds.contains(&BreakdownKind::Group) {
            group.none_meant("breakdown.property")?;
        }
        if kinds.contains(&BreakdownKind::Cohort) {
            return self.check_cohorts(keys, kinds, ground);
        }
        let max = ground.limits.breakdown_properties_max;
        if keys.is_empty() || keys.len() > max {
            let message = format!(
                "breakdown.property has {} names; it may have 1 to {max} (query.breakdown_properties_max)",
                keys.len()
            );
            return Err(Problem::invalid("breakdown.property", message)
                .with("max", max)
                .with("setting", "query.breakdown_properties_max"));
        }
        if kinds.len() != 1 && kinds.len() != keys.len() {
            let message = format!("breakdown.type has {} entries for {} properties", kinds.len(), keys.len());
            return Err(Problem::invalid("breakdown.type", message));
        }
        let many = matches!(self.property, OneOrMany::Many(_));
        let properties = keys.iter().enumerate().map(|(index, key)| {
            let field =
                if many { format!("breakdown.property[{index}]") } else { "breakdown.property".to_owned() };
            let kind = kinds.get(index).or_else(|| kinds.first()).and_then(|kind| kind.of_property());
            let kind = kind.unwrap_or_default();
            let group = if kind == PropertyKind::Group { group } else { Meant::default() };
            filter::property_of(kind, key, group, &field, ground)
        });
        let properties = properties.collect::<Result<_, _>>()?;
        let bins = self.checked_bins(keys.len(), ground.limits)?;
        let limit = bounded("breakdown.limit", self.limit.unwrap_or(VALUES), ground.limits, self.limit)?;
        // Every bin that occurs has its line, and so have numbers that are missing.
        let limit = bins.map_or(limit, |bins| limit.max(bins + 1));
        Ok(PlannedBreakdown {
            properties,
            many,
            limit,
            fetched: limit,
            hide_other: self.hide_other,
            bins,
            cohorts: Vec::new(),
        })
    }

    /// Every cohort has its line: people may be in several, so no line is what all others are together.
    fn check_cohorts(
        &self,
        ids: &[String],
        kinds: &[BreakdownKind],
        ground: &Ground<'_>,
    ) -> Result<PlannedBreakdown, Problem> {
        let field = "breakdown.type";
        if kinds.iter().any(|kind| *kind != BreakdownKind::Cohort) {
            let message = "breakdown.type: cohorts cannot be combined with properties in one breakdown";
            return Err(Problem::invalid(field, message));
        }
        if self.histogram_bins.is_some() {
            let message = "breakdown.histogram_bins are of a property's numbers, not of cohorts";
            return Err(Problem::invalid("breakdown.histogram_bins", message));
        }
        bounded("breakdown.property", ids.len(), ground.limits, Some(ids.len()))?;
        let cohorts =
            ids.iter().map(|id| Ok((id.clone(), cohorts::member(id, "breakdown.property", ground)?)));
        let limit = ids.len();
        Ok(PlannedBreakdown {
            properties: Vec::new(),
            many: false,
            limit,
            fetched: limit,
            hide_other: true,
            bins: None,
            cohorts: cohorts.collect::<Result<_, Problem>>()?,
        })
    }

    fn checked_bins(&self, properties: usize, limits: &config::Query) -> Result<Option<usize>, Problem> {
        let Some(bins) = self.histogram_bins else { return Ok(None) };
        if properties != 1 {
            let message = "breakdown.histogram_bins are of one property; breakdown.property has several";
            return Err(Problem::invalid("breakdown.histogram_bins", message));
        }
        bounded("breakdown.histogram_bins", bins, limits, Some(bins)).map(Some)
    }
}

/// A number of values that an answer may have.
fn bounded(
    field: &str,
    count: usize,
    limits: &config::Query,
    given: Option<usize>,
) -> Result<usize, Problem> {
    let max = limits.breakdown_values_max;
    if given.is_none() {
        return Ok(count.min(max));
    }
    if count == 0 || count > max {
        let message = format!("{field} is {count}; it may be 1 to {max} (query.breakdown_values_max)");
        return Err(Problem::invalid(field, message)
            .with("given", count)
            .with("max", max)
            .with("setting", "query.breakdown_values_max"));
    }
    Ok(count)
}

impl PlannedBreakdown {
    /// Is it the same for all events of a person, who may have several values?
    pub(super) fn of_people(&self) -> bool {
        !self.cohorts.is_empty()
    }

    /// Of cohorts: holds for the members of this one.
    pub(super) fn member(&self, cohort: &str) -> Option<Sql> {
        self.of_people().then(|| {
            let found = self.cohorts.iter().find(|(id, _)| id == cohort);
            found.map_or_else(|| Sql::new("0"), |(_, member)| member.clone())
        })
    }

    /// Shows this many lines, if they are more.
    pub(super) fn raise(&mut self, limit: usize) {
        if !self.of_people() {
            self.limit = self.limit.max(limit);
            self.fetched = self.fetched.max(limit);
        }
    }

    /// The numbers that are put into bins.
    pub(super) fn number(&self) -> Option<Sql> {
        self.bins?;
        self.properties.first().map(Property::number)
    }

    /// Bins between the smallest and the greatest number; none without any.
    pub(super) fn bins(&self, extremes: Option<(f64, f64)>) -> Vec<f64> {
        let (Some(count), Some((least, greatest))) = (self.bins, extremes) else { return Vec::new() };
        #[expect(clippy::cast_precision_loss, reason = "bins are a thousand at most")]
        let bound = |index: usize| least + (greatest - least) * index as f64 / count as f64;
        if greatest <= least {
            return vec![least, greatest];
        }
        (0..=count).map(bound).collect()
    }

    /// Is `label` no value, or one of several properties of which one has none? Such labels come after all others.
    pub(super) fn lacks_value(&self) -> Sql {
        if self.many {
            Sql::new("has(JSONExtract(label, 'Array(String)'), '')")
        } else {
            Sql::new("label = ''")
        }
    }

    /// `String`: the value of a row; empty without one. Several are a JSON list of texts, a bin is its place from 0.
    pub(super) fn label(&self, bins: Option<&[f64]>) -> Sql {
        if self.of_people() {
            let each: Vec<Sql> = self
                .cohorts
                .iter()
                .map(|(id, member)| Sql::new("if(").append(member).push(", ").arg(id).push(", '')"))
                .collect();
            // A row for each cohort that the acting person is in.
            let all = Sql::new("arrayJoin(arrayFilter(id -> id != '', [").join(", ", &each);
            return all.push("]))");
        }
        let text = |property: &Property| Sql::new("ifNull(").append(&property.text()).push(", '')");
        if let (Some(bins), Some(property)) = (bins, self.properties.first()) {
            let Some(last) = bins.len().checked_sub(2) else { return Sql::new("''") };
            let number = property.number();
            // What arrived since the extremes were asked for goes into the outermost bins.
            let place = Sql::new("toString(least(greatest(arrayCount(bound -> bound <= ")
                .append(&number)
                .push(", ")
                .arg(bins.get(..=last).unwrap_or_default())
                .push("), 1) - 1, ")
                .arg(last)
                .push("))");
            return Sql::new("if(").append(&number).push(" IS NULL, '', ").append(&place).push(")");
        }
        match self.properties.as_slice() {
            [property] if !self.many => text(property),
            properties => {
                let texts: Vec<Sql> = properties.iter().map(text).collect();
                Sql::new("toJSONString([").join(", ", &texts).push("])")
            }
        }
    }
}

/// The name of the bin at `place`: `[10,17.5]`; the last reaches a little further, as its end belongs to it.
pub(super) fn bin_name(bins: &[f64], place: usize) -> Option<String> {
    let (low, high) = (bins.get(place)?, bins.get(place + 1)?);
    let high = if place + 2 == bins.len() { high + 0.01 } else { *high };
    let shown = |number: f64| (number * 100.0).round() / 100.0 + 0.0;
    Some(format!("[{},{}]", shown(*low), shown(high)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_named_by_their_bounds() {
        let bins = [10.0, 17.5, 25.0, 32.5, 40.0];
        let names: Vec<_> = (0..5).map_while(|place| bin_name(&bins, place)).collect();
        assert_eq!(names, ["[10,17.5]", "[17.5,25]", "[25,32.5]", "[32.5,40.01]"]);
        assert_eq!(bin_name(&[1.0 / 3.0, 2.0 / 3.0], 0).unwrap(), "[0.33,0.68]");
    }
}

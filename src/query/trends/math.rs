//! What is counted: the aggregate of a series, in the forms that its statement needs.

use serde::{Deserialize, Serialize};

use crate::query::actor::Actors;
use crate::query::interval::Interval;
use crate::query::session;
use crate::query::sql::parts::OfEvents;
use crate::store::{Property, Sql};

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Math {
    /// Events.
    #[default]
    Total,
    /// People who have at least one event in the bucket.
    Dau,
    /// People with an event in the seven days that end with the day the bucket begins in, days before the range
    /// included; with weeks or months as buckets, those of the bucket.
    WeeklyActive,
    /// The same of thirty days; with months as buckets, those of the bucket.
    MonthlyActive,
    /// Of `math_property`, as the next eight; what is no number does not count, an empty bucket is 0.
    Sum,
    Avg,
    Min,
    Max,
    /// Between two values in the middle, their mean; the percentiles lie between values in the same way.
    Median,
    P75,
    P90,
    P95,
    P99,
    /// Events of each person in the bucket, then the mean of these counts; the next seven are likewise.
    AvgCountPerActor,
    MinCountPerActor,
    MaxCountPerActor,
    MedianCountPerActor,
    P75CountPerActor,
    P90CountPerActor,
    P95CountPerActor,
    P99CountPerActor,
    /// Distinct sessions. All events without one count as one session together.
    UniqueSession,
    /// Distinct keys of the group `math_group_type` or `math_group_type_index`; events without one do not count.
    UniqueGroup,
    /// `math_expression`, over the events of a bucket.
    #[serde(alias = "expression")]
    Hogql,
    /// People whose first event of this name in all history is in the bucket and passes the filters.
    FirstTimeForUser,
    /// People whose first event of this name that passes the filters is in the bucket.
    #[serde(alias = "first_matching_event_for_user")]
    FirstTimeForUserWithFilters,
}

/// An aggregate function with its parameters, as `quantile` and `(0.5)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Aggregate {
    name: &'static str,
    state: &'static str,
    merge: &'static str,
    parameters: &'static str,
    /// How it is called for whoever takes its name as a value.
    pub(super) named: &'static str,
    /// The function that makes the whole out of the values of parts; none where only states can be merged.
    whole: Option<&'static str>,
}

/// How a series is counted.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    /// An aggregate over events.
    Events(Aggregate, Sql),
    /// An aggregate over each person's number of events.
    PerActor(Aggregate),
    /// Distinct people of this many days.
    Sliding(usize),
    /// Each person's first event.
    First { with_filters: bool },
    /// An expression over events.
    Free(Box<OfEvents>),
}

macro_rules! aggregates {
    ($($constant:ident = $name:literal $parameters:literal, $whole:expr;)+) => {$(
        const $constant: Aggregate = Aggregate {
            name: $name,
            state: concat!($name, "State"),
            merge: concat!($name, "Merge"),
            parameters: $parameters,
            named: concat!($name, $parameters),
            whole: $whole,
        };
    )+};
}

aggregates! {
    COUNT = "count" "", Some("sum");
    SUM = "sum" "", Some("sum");
    AVG = "avg" "", None;
    MIN = "min" "", Some("min");
    MAX = "max" "", Some("max");
    MEDIAN = "quantileExactInclusive" "(0.5)", None;
    P75 = "quantileExactInclusive" "(0.75)", None;
    P90 = "quantileExactInclusive" "(0.9)", None;
    P95 = "quantileExactInclusive" "(0.95)", None;
    P99 = "quantileExactInclusive" "(0.99)", None;
    DISTINCT = "uniqExact" "", None;
}

impl Math {
    /// Does it read `math_property`?
    pub(super) fn of_property(self) -> bool {
        self.property_aggregate().is_some()
    }

    /// How it counts; `property` is what [`Math::of_property`] asks for, `other` the group's key where it is of one. What an
    /// expression counts is not known here.
    pub(super) fn shape(
        self,
        interval: Interval,
        property: Option<&Property>,
        other: &Sql,
        actors: &Actors,
    ) -> Shape {
        let people = || Shape::Events(DISTINCT, actors.id());
        match self {
            Self::Total => Shape::Events(COUNT, Sql::default()),
            Self::Dau => people(),
            Self::WeeklyActive if matches!(interval, Interval::Week | Interval::Month) => people(),
            Self::WeeklyActive => Shape::Sliding(7),
            Self::MonthlyActive if interval == Interval::Month => people(),
            Self::MonthlyActive => Shape::Sliding(30),
            Self::UniqueSession => Shape::Events(DISTINCT, session::id()),
            Self::UniqueGroup => Shape::Events(DISTINCT, other.clone()),
            Self::Hogql => Shape::Events(COUNT, Sql::default()),
            Self::FirstTimeForUser => Shape::First { with_filters: false },
            Self::FirstTimeForUserWithFilters => Shape::First { with_filters: true },
            Self::AvgCountPerActor => Shape::PerActor(AVG),
            Self::MinCountPerActor => Shape::PerActor(MIN),
            Self::MaxCountPerActor => Shape::PerActor(MAX),
            Self::MedianCountPerActor => Shape::PerActor(MEDIAN),
            Self::P75CountPerActor => Shape::PerActor(P75),
            Self::P90CountPerActor => Shape::PerActor(P90),
            Self::P95CountPerActor => Shape::PerActor(P95),
            Self::P99CountPerActor => Shape::PerActor(P99),
            Self::Sum | Self::Avg | Self::Min | Self::Max => self.over(property),
            Self::Median | Self::P75 | Self::P90 | Self::P95 | Self::P99 => self.over(property),
        }
    }

    fn over(self, property: Option<&Property>) -> Shape {
        let number = property.map(Property::number).unwrap_or_default();
        Shape::Events(self.property_aggregate().unwrap_or(SUM), number)
    }

    fn property_aggregate(self) -> Option<Aggregate> {
        Some(match self {
            Self::Sum => SUM,
            Self::Avg => AVG,
            Self::Min => MIN,
            Self::Max => MAX,
            Self::Median => MEDIAN,
            Self::P75 => P75,
            Self::P90 => P90,
            Self::P95 => P95,
            Self::P99 => P99,
            _ => return None,
        })
    }
}

impl Aggregate {
    /// Its value over rows.
    pub(super) fn of(self, argument: &Sql) -> Sql {
        Sql::new(self.name).push(self.parameters).push("(").append(argument).push(")")
    }

    /// What is kept of each part, so that parts can be made one.
    pub(super) fn part(self, argument: &Sql) -> Sql {
        match self.whole {
            Some(_) => self.of(argument),
            None => Sql::new(self.state).push(self.parameters).push("(").append(argument).push(")"),
        }
    }

    /// The value of one `part`, a column.
    pub(super) fn value(self, part: &'static str) -> Sql {
        match self.whole {
            Some(_) => Sql::new(part),
            None => Sql::new("finalizeAggregation(").push(part).push(")"),
        }
    }

    /// The value of all `part`s of a group together.
    pub(super) fn merged(self, part: &'static str) -> Sql {
        match self.whole {
            Some(whole) => Sql::new(whole).push("(").push(part).push(")"),
            None => Sql::new(self.merge).push(self.parameters).push("(").push(part).push(")"),
        }
    }
}

/// Distinct people, for shapes that gather them first.
pub(super) const PEOPLE: Aggregate = DISTINCT;
/// Rows, for the same.
pub(super) const ROWS: Aggregate = COUNT;

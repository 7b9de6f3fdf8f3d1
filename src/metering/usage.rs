//! Usage: events in, one decimal out. A question is checked into a [`Plan`]; the store groups events by window, group
//! and value text; what those values make is folded in decimals (`fold.rs`, [`Tally`]).

use std::sync::Arc;
use std::time::Duration;

use bigdecimal::BigDecimal;

use super::Metering;
use super::corrections::Snapshot;
use super::fold::{Fold, Found};
use super::meter::{Measure, Meter, MeterFilter, properties_of, text_of};
use super::rows::{self, Which};
use super::tally::{Aggregation, Tally};
use super::window::Windows;
use crate::event::{Scope, Timestamp};
use crate::http::Problem;
use crate::store::{Property, Sql};

/// What usage is grouped by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Group {
    Source,
    /// Who the event is of: its distinct id.
    ExternalCustomer,
    Customer,
    Property(String),
}

impl Group {
    /// As requests and answers write it.
    pub fn name(&self) -> String {
        match self {
            Self::Source => "source".to_owned(),
            Self::ExternalCustomer => "external_customer_id".to_owned(),
            Self::Customer => "customer_id".to_owned(),
            Self::Property(key) => format!("properties.{key}"),
        }
    }

    pub(super) fn sql(&self) -> Sql {
        match self {
            Self::Source => Sql::new("CAST(source, 'String')"),
            Self::ExternalCustomer => Sql::new("distinct_id"),
            Self::Customer => Sql::new("CAST(customer_id, 'String')"),
            Self::Property(key) => Sql::new("ifNull(").append(&Property::new(key).text()).push(", '')"),
        }
    }
}

/// Events that are measured in one way.
#[derive(Clone, Debug)]
pub struct Segment {
    pub from: Timestamp,
    /// Exclusive.
    pub end: Timestamp,
    pub event_name: String,
    pub measure: Measure,
    pub filters: Vec<MeterFilter>,
}

/// A question that will do.
#[derive(Clone, Debug)]
pub struct Plan {
    pub scope: Scope,
    pub from: Timestamp,
    /// Exclusive.
    pub end: Timestamp,
    /// All of one aggregation; they do not overlap.
    pub segments: Vec<Segment>,
    pub external_customer_id: Option<String>,
    pub customer_id: Option<String>,
    pub sources: Vec<String>,
    pub windows: Option<Windows>,
    /// The value of a window is the sum of the values of these smaller ones.
    pub buckets: Option<Windows>,
    pub group_by: Vec<Group>,
    pub as_of: Option<Timestamp>,
    /// The question filters by properties, besides what its meter filters by.
    pub filtered: bool,
}

/// Usage of one window and group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// None: the whole range.
    pub start: Option<Timestamp>,
    pub group: Arc<[String]>,
    pub value: Option<BigDecimal>,
    pub counts: Counts,
}

/// How many events there were, and of how many the value did not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    pub event_count: u64,
    pub missing_count: u64,
    pub not_numeric_count: u64,
    pub too_precise_count: u64,
}

impl Counts {
    pub(super) fn of(tally: &Tally) -> Self {
        Self {
            event_count: tally.events,
            missing_count: tally.missing,
            not_numeric_count: tally.not_numeric,
            too_precise_count: tally.too_precise,
        }
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            event_count: self.event_count + other.event_count,
            missing_count: self.missing_count + other.missing_count,
            not_numeric_count: self.not_numeric_count + other.not_numeric_count,
            too_precise_count: self.too_precise_count + other.too_precise_count,
        }
    }
}

/// What a plan makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// `events`, or `feature_usage` where a meter's tracked usage answered.
    pub read_from: &'static str,
    /// Of the whole range, over all groups (with buckets: the sum over buckets and groups).
    pub total: Point,
    /// Of each window and group that has events, in the order of time, then group; none without either.
    pub points: Vec<Point>,
}

impl Plan {
    pub(super) fn aggregation(&self) -> Aggregation {
        self.segments.first().map_or(Aggregation::Count, |segment| segment.measure.aggregation)
    }

    /// The windows that the store cuts time into: the smallest that are asked for.
    pub(super) fn cut(&self) -> Option<&Windows> {
        self.buckets.as_ref().or(self.windows.as_ref())
    }

    /// What a row is grouped by: an `Array(String)`.
    pub(super) fn groups(&self) -> Sql {
        array(&self.group_by.iter().map(Group::sql).collect::<Vec<_>>())
    }

    fn select(&self, segment: &Segment, bounds: &[Timestamp], values_max: usize) -> Sql {
        let aggregation = self.aggregation();
        let window = match bounds {
            [] => Sql::new("toInt64(0)"),
            bounds => {
                let starts: Vec<i64> = bounds[..bounds.len() - 1].iter().map(|at| at.as_millis()).collect();
                rows::window(&starts)
            }
        };
        let values = Values::of(segment);
        let columns = Sql::new("")
            .append(&window)
            .push(" AS usage_window, ")
            .append(&self.groups())
            .push(" AS usage_group, ")
            .append(&array(&values.texts))
            .push(" AS usage_texts, ")
            .append(&values.whole)
            .push(" AS usage_whole, ")
            .append(&values.millis)
            .push(" AS usage_millis, ")
            .append(&values.newest)
            .push(" AS usage_newest, count() AS usage_events, ")
            .append(&values.is_short)
            .push(" AS usage_short, ")
            .append(&values.number)
            .push(" AS usage_number, ")
            .append(&values.moments)
            .push(" AS usage_moments");
        let which = Which {
            scope: &self.scope,
            event_name: Some(&segment.event_name),
            from: segment.from,
            end: segment.end,
            filters: segment.filters.clone(),
            external_customer_id: self.external_customer_id.as_deref(),
            customer_id: self.customer_id.as_deref(),
            sources: &self.sources,
            as_of: self.as_of,
        };
        let mut keys = vec![Sql::new("usage_window"), Sql::new("usage_whole"), Sql::new("usage_short")];
        // Columns, not arrays of them: that takes half as long.
        keys.extend(self.group_by.iter().map(Group::sql));
        keys.extend(values.texts);
        if aggregation == Aggregation::WeightedSum {
            keys.push(Sql::new("usage_millis"));
        }
        which.select(&columns).push(" GROUP BY ").join(", ", &keys).push(" LIMIT ").arg(values_max + 1)
    }
}

/// Texts as an `Array(String)`.
fn array(texts: &[Sql]) -> Sql {
    match texts {
        [] => Sql::new("CAST([], 'Array(String)')"),
        texts => Sql::new("[").join(", ", texts).push("]"),
    }
}

/// What of the values is asked of the store.
struct Values {
    texts: Vec<Sql>,
    whole: Sql,
    millis: Sql,
    newest: Sql,
    is_short: Sql,
    number: Sql,
    moments: Sql,
}

impl Values {
    fn of(segment: &Segment) -> Self {
        let (texts, whole) = rows::texts(segment.measure.properties());
        let aggregation = segment.measure.aggregation;
        let millis = Sql::new("toInt64(").push(rows::MILLIS).push(")");
        let moment = Sql::new("(").append(&millis).push(", event_id)");
        let (at, newest) = match aggregation {
            Aggregation::WeightedSum => (millis.clone(), Sql::new("''")),
            Aggregation::Latest => {
                let newest = Sql::new("max(").append(&moment).push(")");
                let part =
                    |place: u8| Sql::new("tupleElement(").append(&newest).push(", ").arg(place).push(")");
                (part(1), part(2))
            }
            _ => (Sql::new("toInt64(0)"), Sql::new("''")),
        };
        let none = || Sql::new("'0'");
        let each = |texts: Vec<Sql>, millis| Self {
            texts,
            whole: whole.clone(),
            millis,
            newest: newest.clone(),
            is_short: Sql::new("false"),
            number: none(),
            moments: none(),
        };
        let Some((key, digits)) = segment.measure.plain_property() else { return each(texts, at) };
        let (is_short, number) = rows::short(key, digits);
        let sum = |of: &Sql| Sql::new("toString(sum(").append(of).push("))");
        let (made, moments) = match aggregation {
            Aggregation::Sum | Aggregation::SumWithMultiplier | Aggregation::Avg => (sum(&number), none()),
            Aggregation::Max => (Sql::new("toString(max(").append(&number).push("))"), none()),
            Aggregation::Min => (Sql::new("toString(min(").append(&number).push("))"), none()),
            Aggregation::Latest => {
                let newest = Sql::new("toString(argMax(").append(&number).push(", ");
                (newest.append(&moment).push("))"), none())
            }
            Aggregation::WeightedSum => {
                let moments =
                    Sql::new("").append(&number).push(" * toDecimal256(").append(&millis).push(", 0)");
                (sum(&number), sum(&moments))
            }
            Aggregation::Count | Aggregation::CountUnique => return each(texts, at),
        };
        let unless_short = |none: &'static str, some: &Sql| {
            Sql::new("if(").append(&is_short).push(", ").push(none).push(", ").append(some).push(")")
        };
        let at = if aggregation == Aggregation::WeightedSum { unless_short("toInt64(0)", &at) } else { at };
        let texts = texts.iter().map(|text| unless_short("''", text)).collect();
        Self { number: made, moments, is_short: is_short.clone(), ..each(texts, at) }
    }
}

/// The windows of a range.
///
/// # Errors
/// 400: more than `query.buckets_max`.
fn bounds(windows: Option<&Windows>, plan: &Plan, max: usize) -> Result<Vec<Timestamp>, Problem> {
    let Some(windows) = windows else { return Ok(Vec::new()) };
    let last = Timestamp::from_millis(plan.end.as_millis() - 1);
    windows.bounds(plan.from, last, max).map_err(|_| {
        let size = windows.size.as_str();
        let message = format!(
            "the range has more than {max} windows of {size} (query.buckets_max): take a larger window or a shorter \
             range"
        );
        Problem::invalid("window_size", message).with("max", max).with("setting", "query.buckets_max")
    })
}

/// Where usage was read.
pub const FROM_EVENTS: &str = "events";
pub const FROM_FEATURE_USAGE: &str = "feature_usage";

impl Metering {
    /// Measures what a meter counts: from its tracked usage where that is known to say the same, else from events.
    ///
    /// # Errors
    /// As [`Metering::usage`].
    pub async fn usage_of(&self, meter: &Meter, plan: &Plan) -> Result<Usage, Problem> {
        if !self.is_covered(meter, plan).await? {
            return self.usage(plan).await;
        }
        let mut fold = Fold::new(plan, bounds(plan.cut(), plan, self.limits.buckets_max)?);
        self.fold_tracked(meter, plan, &mut fold).await?;
        Ok(Usage { read_from: FROM_FEATURE_USAGE, ..fold.finish() })
    }

    /// Measures.
    ///
    /// # Errors
    /// 400 over a bound, 503 for what the store does not answer.
    pub async fn usage(&self, plan: &Plan) -> Result<Usage, Problem> {
        let bounds = bounds(plan.cut(), plan, self.limits.buckets_max)?;
        let restored = self.restored(plan).await?;
        let mut fold = Fold::new(plan, bounds);
        let max = self.config.values_max;
        let mut read = 0;
        for segment in &plan.segments {
            let sql = plan.select(segment, fold.bounds(), max);
            let mut stream = self.stream::<Found>(sql).await?;
            while let Some(chunk) = stream.next_chunk().await.map_err(super::store_problem)? {
                read += chunk.len();
                if read > max {
                    return Err(too_many(max));
                }
                for found in chunk {
                    fold.add(segment, found);
                }
            }
            for snapshot in &restored {
                if let Some(found) = plan.found_in(segment, snapshot, fold.bounds()) {
                    fold.add(segment, found);
                }
            }
        }
        Ok(fold.finish())
    }

    /// Rows that counted at `as_of` and were corrected since.
    async fn restored(&self, plan: &Plan) -> Result<Vec<Snapshot>, Problem> {
        match plan.as_of {
            None => Ok(Vec::new()),
            Some(as_of) => self.counted_at(&plan.scope, as_of).await,
        }
    }
}

impl Plan {
    /// The corrected row as the store would have answered it; `None`: this segment does not count it.
    fn found_in(&self, segment: &Segment, row: &Snapshot, bounds: &[Timestamp]) -> Option<Found> {
        let properties = properties_of(row.properties.get());
        let text = |key: &str| properties.get(key).and_then(|value| text_of(value.get()));
        let wanted =
            |wanted: &Option<String>, given: &str| wanted.as_ref().is_none_or(|wanted| wanted == given);
        let counts = row.event_name == segment.event_name
            && (segment.from..segment.end).contains(&row.timestamp)
            && wanted(&self.external_customer_id, &row.distinct_id)
            && wanted(&self.customer_id, &row.customer_id)
            && (self.sources.is_empty() || self.sources.contains(&row.source))
            && segment
                .filters
                .iter()
                .all(|filter| text(&filter.key).is_some_and(|text| filter.values.contains(&text)));
        if !counts {
            return None;
        }
        let millis = row.timestamp.as_millis();
        let at = bounds.partition_point(|bound| bound.as_millis() <= millis);
        let group = self.group_by.iter().map(|group| match group {
            Group::Source => row.source.clone(),
            Group::ExternalCustomer => row.distinct_id.clone(),
            Group::Customer => row.customer_id.clone(),
            Group::Property(key) => text(key).unwrap_or_default(),
        });
        Some(Found {
            window: at.checked_sub(1).and_then(|at| bounds.get(at)).map_or(0, |bound| bound.as_millis()),
            group: group.collect(),
            texts: Vec::new(),
            whole: row.properties.get().to_owned(),
            millis,
            event_id: row.event_id.clone(),
            events: 1,
            made: None,
        })
    }
}

pub(super) fn too_many(max: usize) -> Problem {
    let message = format!(
        "the question meets more than {max} different values (metering.values_max): ask for a shorter range, or for \
         one customer"
    );
    Problem::new(crate::http::ErrorCode::ValidationError, message)
        .with("max", max)
        .with("setting", "metering.values_max")
}

/// How far back usage without a beginning reaches.
pub const BACK: Duration = Duration::from_secs(7 * 86_400);

//! Paths: what people do one after the other.
//!
//! A node is what an event was about: a page (`$pageview`: `$current_url` without a last slash), a screen (`$screen`:
//! `$screen_name`) or the event's name. A session ends with 30 minutes without an event; equal nodes in a row are one;
//! a path is the session's first `step_limit` nodes. An edge is from the n-th node of a path to the next, and its number
//! how many paths have it. Only edges that hang together with a first node are shown.

mod fold;
mod node;
mod people;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::actor::Actors;
use super::chosen;
use super::filter::{self, Filters, Ground};
use super::funnel::Funnel;
use super::funnel::fold::{Event, taken};
use super::gather::{Gather, Matcher, Values};
use super::http::Question;
use super::interval::WeekStart;
use super::range::{self, Asked};
use super::{Meta, Query, period};
use crate::config;
use crate::event::{Scope, Timestamp};
use crate::http::Problem;
use crate::telemetry::{Metric, names};
use fold::{GAP, Node, Shape};

pub use node::{Cleaning, Include};
pub use people::PathsPeople;

/// A question for paths, as it is sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// Where the range begins; seven days ago when absent. See [`range`].
    pub date_from: Option<String>,
    /// Where it ends; today when absent.
    pub date_to: Option<String>,
    /// An IANA name; UTC when absent.
    pub timezone: Option<String>,
    pub week_start: Option<WeekStart>,
    /// `$pageview`, `$screen`, `custom_event` (names that do not begin with `$`), `expression` (every event that
    /// `path_expression` has a value for); every event when empty.
    #[serde(default)]
    pub include: Vec<Include>,
    /// What events are called that `include` does not name otherwise; one without a value is no node.
    #[serde(alias = "paths_hogql_expression")]
    pub path_expression: Option<String>,
    /// Nodes that are left out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Wildcards (`/product/*`): a node that fits is called so.
    #[serde(default)]
    pub path_groups: Vec<String>,
    /// Regular expressions and what to write in place of what they match, one after the other.
    #[serde(default)]
    pub cleaning: Vec<Cleaning>,
    pub start_point: Option<String>,
    pub end_point: Option<String>,
    /// Nodes of a path; 5 when absent, at most 20.
    pub step_limit: Option<usize>,
    /// Edges in the answer; 50 when absent, at most `query.paths_edges_max`.
    pub edge_limit: Option<usize>,
    /// Only edges of so many paths.
    pub min_edge_weight: Option<u64>,
    pub max_edge_weight: Option<u64>,
    /// Only what people did before, after or between steps of a funnel.
    pub funnel: Option<Around>,
    #[serde(default)]
    pub filters: Filters,
    /// Only what these people did.
    pub filter: Option<chosen::People>,
    /// Leave out what the filters of test accounts leave out.
    #[serde(default)]
    pub filter_test_accounts: bool,
    /// What relative dates count from; the server's time when absent.
    pub now: Option<Timestamp>,
    /// Pass by anything remembered.
    #[serde(default)]
    pub refresh: bool,
    /// The environment that is meant, to be refused if the key has another.
    pub environment_id: Option<String>,
}

/// Paths of those who took a step of a funnel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Around {
    pub funnel: Funnel,
    /// Counted from 0.
    pub step: usize,
    pub part: Part,
}

/// Which part of what they did. The moments of the steps belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Up to the step, as far back as the funnel's window.
    Before,
    /// From the step on, as far as the funnel's window.
    After,
    /// From the step before to this one.
    Between,
}

const PAUSE_MILLIS: i64 = 30 * 60 * 1000;
const STEPS: usize = 5;
const STEPS_MAX: usize = 20;
const EDGES: usize = 50;

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    zone: chrono_tz::Tz,
    gather: Gather,
    pause: i64,
    steps: usize,
    start_point: Option<String>,
    end_point: Option<String>,
    edge_limit: usize,
    edges_max: usize,
    weights: (u64, u64),
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct Answer {
    pub results: Results,
    pub meta: PathsMeta,
}

/// The edges.
#[derive(Debug, Serialize)]
pub struct Results {
    /// From, to, paths; most paths first. A node is its place in the path and its name: `1_/`.
    pub edges: Vec<(String, String, u64)>,
    /// The same, with the mean time from one to the other.
    pub links: Vec<Link>,
}

/// An edge.
#[derive(Debug, Serialize)]
pub struct Link {
    pub source: String,
    pub target: String,
    pub value: u64,
    pub average_conversion_ms: f64,
}

/// What the answer says about itself.
#[derive(Debug, Serialize)]
pub struct PathsMeta {
    pub timezone: &'static str,
    /// The first moment of the range, with the zone's offset.
    pub date_from: String,
    /// The last moment of the range.
    pub date_to: String,
    #[serde(flatten)]
    pub meta: Meta,
}

/// From the n-th node (from 1) of a path to the next.
type Edge = (usize, u32, u32);

/// Paths that have an edge, and milliseconds they took for it in all.
type Edges = HashMap<Edge, (u64, i64)>;

impl Question for Paths {
    const NAME: &'static str = "paths";
    type Answer = Answer;

    fn duration() -> &'static Metric {
        &names::QUERY_PATHS_DURATION
    }

    fn environment_id(&self) -> Option<&str> {
        self.environment_id.as_deref()
    }

    fn timezone(&mut self) -> Option<&mut Option<String>> {
        Some(&mut self.timezone)
    }

    async fn answer(&self, query: &Query, scope: &Scope) -> Result<Answer, Problem> {
        let actors = query.actors(scope).await?;
        let plan = self.check(&query.limits, &actors, query.clock.now())?;
        let asked = query.begin().await?;
        let mut values = Values::new(query.limits.gather_values_max);
        let mut edges = Edges::new();
        self.paths(query, scope, &actors, &plan, &mut values, |_, path| {
            for (place, pair) in (1..).zip(path.windows(2)) {
                let (count, millis) = edges.entry((place, pair[0].1, pair[1].1)).or_default();
                *count += 1;
                *millis += pair[1].0 - pair[0].0;
            }
            if edges.len() <= plan.edges_max { Ok(()) } else { Err(too_many(plan.edges_max)) }
        })
        .await?;
        let zoned = |at: Timestamp| {
            at.to_utc().with_timezone(&plan.zone).to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
        };
        let meta = PathsMeta {
            timezone: plan.zone.name(),
            date_from: zoned(plan.gather.range.from),
            date_to: zoned(plan.gather.range.last()),
            meta: asked.meta(),
        };
        Ok(Answer { results: results(&plan, edges, &values), meta })
    }
}

fn too_many(max: usize) -> Problem {
    let message = format!(
        "the paths have more than {max} different edges (query.points_max): group or clean their nodes, or filter"
    );
    Problem::invalid("path_groups", message).with("max", max).with("setting", "query.points_max")
}

impl Paths {
    /// Checks everything, and says what is to be done.
    ///
    /// # Errors
    /// 400 that names the field, what was given and what would be right.
    pub(super) fn check(
        &self,
        limits: &config::Query,
        actors: &Actors,
        now: Timestamp,
    ) -> Result<Plan, Problem> {
        let calendar = range::calendar(self.timezone.as_deref(), self.week_start)?;
        let asked = Asked { date_from: self.date_from.as_deref(), date_to: self.date_to.as_deref() };
        let now = self.now.unwrap_or(now);
        let range = period::resolve(asked, &calendar, now)?;
        let ground = Ground { calendar: &calendar, now, limits, actors };
        let within = |field: &str, given: usize, max: usize, setting: Option<&'static str>| {
            if (1..=max).contains(&given) {
                return Ok(given);
            }
            let named = setting.map(|setting| format!(" ({setting})")).unwrap_or_default();
            let message = format!("{field} is {given}; it may be 1 to {max}{named}");
            let problem = Problem::invalid(field, message).with("given", given).with("max", max);
            Err(match setting {
                Some(setting) => problem.with("setting", setting),
                None => problem,
            })
        };
        let steps = within("step_limit", self.step_limit.unwrap_or(STEPS), STEPS_MAX, None)?;
        let most = limits.paths_edges_max;
        let edge_limit = self.edge_limit.unwrap_or(EDGES.min(most));
        let edge_limit = within("edge_limit", edge_limit, most, Some("query.paths_edges_max"))?;
        let weights = (self.min_edge_weight.unwrap_or(0), self.max_edge_weight.unwrap_or(u64::MAX));
        if weights.0 > weights.1 {
            let message = "min_edge_weight is more than max_edge_weight: no edge has such a weight";
            return Err(Problem::invalid("min_edge_weight", message).with("given", weights.0));
        }
        let mut conditions =
            filter::shared(&self.filters, self.filter.as_ref(), self.filter_test_accounts, &ground)?;
        let (node, of_nodes) = self.node(&ground)?;
        conditions.extend(of_nodes);
        let window = self.funnel.as_ref().map(|around| around.funnel.window.millis());
        Ok(Plan {
            zone: calendar.zone,
            gather: Gather {
                range,
                steps: vec![Matcher { event: None, conditions: Vec::new() }],
                exclusions: Vec::new(),
                conditions,
                everything: false,
                value: Some(node),
                by: None,
            },
            pause: window.unwrap_or(PAUSE_MILLIS),
            steps,
            start_point: self.start_point.as_deref().map(trimmed),
            end_point: self.end_point.as_deref().map(trimmed),
            edge_limit,
            edges_max: limits.points_max,
            weights,
        })
    }

    /// Shows every path: (person, nodes).
    async fn paths(
        &self,
        query: &Query,
        scope: &Scope,
        actors: &Actors,
        plan: &Plan,
        values: &mut Values,
        mut show: impl FnMut(u64, &[Node]) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        // Numbers of the points are known before their first event comes.
        let mut point =
            |text: &Option<String>| text.as_ref().map(|text| values.number(text.clone())).transpose();
        let shape = Shape {
            pause: plan.pause,
            steps: plan.steps,
            start: point(&plan.start_point)?,
            end: point(&plan.end_point)?,
        };
        let around = match &self.funnel {
            Some(around) => Some(around.times(query, scope, actors).await?),
            None => None,
        };
        let origin = plan.gather.range.from.as_millis();
        let mut nodes: Vec<Node> = Vec::new();
        let shown = |actor: u64, events: &[Event], _: &Values| {
            let part = match &around {
                None => i64::MIN..=i64::MAX,
                Some(around) => match around.get(&actor) {
                    Some((from, to)) => *from..=*to,
                    None => return Ok(()),
                },
            };
            nodes.clear();
            let inside = events.iter().map(|event| (origin + event.at, event.value));
            nodes.extend(inside.filter(|(at, _)| part.contains(at)));
            let mut shown = Ok(());
            fold::paths(&shape, &nodes, |path| {
                if shown.is_ok() {
                    shown = show(actor, path);
                }
            });
            shown
        };
        query.gather(scope, actors, &plan.gather, values, shown).await
    }
}

/// Without a last slash, as nodes are.
fn trimmed(point: &str) -> String {
    if point.len() > 1 { point.strip_suffix('/').unwrap_or(point).to_owned() } else { point.to_owned() }
}

impl Around {
    /// For everybody who took the step: the first and last moment of what counts, in milliseconds.
    async fn times(
        &self,
        query: &Query,
        scope: &Scope,
        actors: &Actors,
    ) -> Result<HashMap<u64, (i64, i64)>, Problem> {
        let last = self.funnel.steps.len().saturating_sub(1);
        let first = usize::from(self.part == Part::Between);
        if self.step < first || self.step > last {
            let message = format!(
                "funnel.step is {}; it may be {first} to {last}, the steps are counted from 0",
                self.step
            );
            return Err(Problem::invalid("funnel.step", message).with("given", self.step).with("max", last));
        }
        if self.funnel.aggregate_by.is_some() {
            let message = "funnel.funnel.aggregate_by: paths are those of people, and so is their funnel";
            return Err(Problem::invalid("funnel.funnel.aggregate_by", message));
        }
        let window = self.funnel.window.millis();
        let max = query.limits.gather_people_max;
        let mut times = HashMap::new();
        self.funnel
            .each_person(query, scope, actors, |actor, steps| {
                let Some(at) = taken(steps, self.step) else { return Ok(()) };
                let before = (0..self.step).rev().find_map(|step| taken(steps, step)).unwrap_or(at);
                let part = match self.part {
                    Part::Before => (at - window, at),
                    Part::After => (at, at + window),
                    Part::Between => (before, at),
                };
                times.insert(actor, part);
                if times.len() as u64 <= max { Ok(()) } else { Err(super::gather::too_many_people(max)) }
            })
            .await?;
        Ok(times)
    }
}

/// The heaviest edges that hang together with a first node.
fn results(plan: &Plan, edges: Edges, values: &Values) -> Results {
    let name = |place: usize, node: u32| {
        let text = if node == GAP { "..." } else { values.text(node) };
        format!("{place}_{text}")
    };
    let (least, most) = plan.weights;
    let mut found: Vec<(Edge, (u64, i64))> =
        edges.into_iter().filter(|(_, (count, _))| (least..=most).contains(count)).collect();
    found.sort_by_cached_key(|((place, from, to), (count, _))| {
        (std::cmp::Reverse(*count), name(*place, *from), name(place + 1, *to))
    });
    found.truncate(plan.edge_limit);
    // Edges of later places are reached by those before.
    let mut by_place: Vec<Edge> = found.iter().map(|(edge, _)| *edge).collect();
    by_place.sort_unstable();
    let mut reached: HashSet<(usize, u32)> = HashSet::new();
    for (place, from, to) in by_place {
        if place == 1 || reached.contains(&(place, from)) {
            reached.insert((place, from));
            reached.insert((place + 1, to));
        }
    }
    found.retain(|((place, from, _), _)| reached.contains(&(*place, *from)));
    let links = found.into_iter().map(|((place, from, to), (count, millis))| Link {
        source: name(place, from),
        target: name(place + 1, to),
        value: count,
        #[expect(clippy::cast_precision_loss, reason = "a mean is a float")]
        average_conversion_ms: millis as f64 / count as f64,
    });
    let links: Vec<Link> = links.collect();
    let edges = links.iter().map(|link| (link.source.clone(), link.target.clone(), link.value)).collect();
    Results { edges, links }
}

//! Lifecycle: of the people who are active in each interval, who is new, who stayed, who came back; and who left.
//!
//! | state | in an interval |
//! |---|---|
//! | new | active, and the person's first event of all (of any name) is in it |
//! | returning | active, and in the interval before, too |
//! | resurrecting | active, neither new nor active in the interval before |
//! | dormant | active in the interval before and not in this one; counted below zero |

use serde::{Deserialize, Serialize};

use super::activity::{self, Activity};
use super::actor::Actors;
use super::chosen;
use super::filter::{self, Filters, Ground};
use super::gather::{Matcher, first_event};
use super::http::Question;
use super::interval::{Calendar, Interval, WeekStart};
use super::people::{Page, People, Place};
use super::range::{self, Asked, Begin, Range};
use super::{Meta, Query};
use crate::config;
use crate::event::{Scope, Timestamp};
use crate::http::Problem;
use crate::telemetry::{Metric, names};

/// A question for a lifecycle, as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifecycle {
    /// Where the range begins; seven days ago when absent. See [`range`].
    pub date_from: Option<String>,
    /// Where it ends; today when absent.
    pub date_to: Option<String>,
    #[serde(default)]
    pub interval: Interval,
    /// An IANA name; UTC when absent.
    pub timezone: Option<String>,
    pub week_start: Option<WeekStart>,
    /// One: what being active means.
    pub series: Vec<Active>,
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

/// What being active means.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Active {
    /// The event's name; every event when absent or null.
    pub event: Option<String>,
    #[serde(default)]
    pub filters: Filters,
}

/// A question for the people in a state, as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LifecyclePeople {
    /// The lifecycle, as it was asked.
    pub lifecycle: Lifecycle,
    /// The interval that begins so, as in the answer's `days`.
    pub day: String,
    pub state: State,
    /// People on a page; 100 when absent, at most `query.page_rows_max`.
    pub limit: Option<usize>,
    pub cursor: Option<String>,
}

/// What a person is in an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    New,
    Returning,
    Resurrecting,
    Dormant,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct Answer {
    pub results: Results,
    pub meta: LifecycleMeta,
}

/// People in each state, a number an interval.
#[derive(Debug, Default, Serialize)]
pub struct Results {
    pub new: Vec<i64>,
    pub returning: Vec<i64>,
    pub resurrecting: Vec<i64>,
    /// Below zero.
    pub dormant: Vec<i64>,
    /// The intervals: the date or, below a day, the time with its offset.
    pub days: Vec<String>,
}

/// What the answer says about itself.
#[derive(Debug, Serialize)]
pub struct LifecycleMeta {
    pub timezone: &'static str,
    /// The first moment of the first interval, with the zone's offset.
    pub date_from: String,
    /// The last moment of the range.
    pub date_to: String,
    pub interval: Interval,
    #[serde(flatten)]
    pub meta: Meta,
}

/// Nothing more is said of these people.
#[derive(Debug, Serialize)]
pub struct Nothing {}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    calendar: Calendar,
    interval: Interval,
    /// The interval before the range stands first.
    activity: Activity,
    /// Without the interval before.
    range: Range,
}

/// The states of one person: (interval, state), intervals counted from the one before the range, which is 0 and has
/// none. `active` is sorted; `created` is the interval of the first event, if it is one of these. Pure.
fn states(active: &[u32], created: Option<u32>, intervals: u32) -> Vec<(u32, State)> {
    let mut states = Vec::new();
    let mut before = None;
    for interval in active.iter().copied() {
        if interval > 0 {
            let stayed = before.is_some_and(|before| before + 1 == interval);
            let state = match () {
                () if created == Some(interval) => State::New,
                () if stayed => State::Returning,
                () => State::Resurrecting,
            };
            states.push((interval, state));
        }
        before = Some(interval);
        if interval + 1 < intervals && active.binary_search(&(interval + 1)).is_err() {
            states.push((interval + 1, State::Dormant));
        }
    }
    states
}

impl Question for Lifecycle {
    const NAME: &'static str = "lifecycle";
    type Answer = Answer;

    fn duration() -> &'static Metric {
        &names::QUERY_LIFECYCLE_DURATION
    }

    fn environment_id(&self) -> Option<&str> {
        self.environment_id.as_deref()
    }

    fn timezone(&mut self) -> Option<&mut Option<String>> {
        Some(&mut self.timezone)
    }

    async fn answer(&self, query: &Query, scope: &Scope) -> Result<Answer, Problem> {
        let actors = query.actors(scope).await?;
        let asked = query.begin().await?;
        let plan = self.plan(query, scope, &actors).await?;
        let days = plan.days();
        let zero = || vec![0; days.len()];
        let mut results = Results {
            new: zero(),
            returning: zero(),
            resurrecting: zero(),
            dormant: zero(),
            days: Vec::new(),
        };
        plan.states(query, scope, &actors, |_, interval, state| {
            let (line, one) = match state {
                State::New => (&mut results.new, 1),
                State::Returning => (&mut results.returning, 1),
                State::Resurrecting => (&mut results.resurrecting, 1),
                State::Dormant => (&mut results.dormant, -1),
            };
            if let Some(count) = line.get_mut(interval) {
                *count += one;
            }
        })
        .await?;
        results.days = days;
        let zoned =
            |at: Timestamp| plan.calendar.zoned(at).to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let meta = LifecycleMeta {
            timezone: plan.calendar.zone.name(),
            date_from: zoned(plan.range.from),
            date_to: zoned(plan.range.last()),
            interval: plan.interval,
            meta: asked.meta(),
        };
        Ok(Answer { results, meta })
    }
}

impl Question for LifecyclePeople {
    const NAME: &'static str = "lifecycle_people";
    type Answer = People<Nothing>;

    fn duration() -> &'static Metric {
        &names::QUERY_LIFECYCLE_DURATION
    }

    fn environment_id(&self) -> Option<&str> {
        self.lifecycle.environment_id.as_deref()
    }

    fn timezone(&mut self) -> Option<&mut Option<String>> {
        self.lifecycle.timezone()
    }

    async fn answer(&self, query: &Query, scope: &Scope) -> Result<Self::Answer, Problem> {
        let actors = query.actors(scope).await?;
        let list = (Self::NAME, scope, Self { limit: None, cursor: None, ..self.clone() });
        let list = serde_json::to_string(&list).map_err(Problem::internal)?;
        let mut page = Page::new(&list, self.limit, self.cursor.as_deref(), &query.limits)?;
        let asked = query.begin().await?;
        let plan = self.lifecycle.plan(query, scope, &actors).await?;
        let days = plan.days();
        let Some(wanted) = days.iter().position(|day| *day == self.day) else {
            let message = format!("day is {:?}; it must be one of the answer's days", self.day);
            return Err(Problem::invalid("day", message)
                .with("given", self.day.as_str())
                .with("valid", days));
        };
        plan.states(query, scope, &actors, |actor, interval, state| {
            if interval == wanted && state == self.state {
                page.offer(Place::most(0, actor), || Nothing {});
            }
        })
        .await?;
        query.named((scope, &actors), plan.activity.range, &list, page, &asked).await
    }
}

impl Lifecycle {
    async fn plan(&self, query: &Query, scope: &Scope, actors: &Actors) -> Result<Plan, Problem> {
        let now = query.clock.now();
        let first = if self.date_from.as_deref() == Some("all") {
            let rows: Vec<(Option<Timestamp>,)> = query.select(first_event(scope)).await?;
            rows.into_iter().find_map(|(first,)| first)
        } else {
            None
        };
        self.check(&query.limits, actors, now, first)
    }

    /// Checks everything, and says what is to be done; `first` is the scope's first event, where it is needed.
    ///
    /// # Errors
    /// 400 that names the field, what was given and what would be right.
    pub(super) fn check(
        &self,
        limits: &config::Query,
        actors: &Actors,
        now: Timestamp,
        first: Option<Timestamp>,
    ) -> Result<Plan, Problem> {
        let calendar = range::calendar(self.timezone.as_deref(), self.week_start)?;
        let now = self.now.unwrap_or(now);
        let ground = Ground { calendar: &calendar, now, limits, actors };
        let asked = Asked { date_from: self.date_from.as_deref(), date_to: self.date_to.as_deref() };
        let (begin, end) = range::resolve(asked, &calendar, self.interval, now)?;
        let last = Timestamp::from_millis(end.as_millis() - 1);
        let from = match begin {
            Begin::At(from) => from,
            Begin::FirstEvent => first.unwrap_or(last).min(last),
        };
        let (range, _) = range::buckets(from, end, &calendar, self.interval, limits.buckets_max)?;
        let before = Timestamp::from_millis(range.from.as_millis() - 1);
        let (_, buckets) = range::buckets(before, end, &calendar, self.interval, limits.buckets_max + 1)?;
        let [active] = self.series.as_slice() else {
            let message = format!("series has {} entries; a lifecycle is of one", self.series.len());
            return Err(Problem::invalid("series", message).with("given", self.series.len()).with("max", 1));
        };
        let mut conditions = active.conditions("series[0].filters", &ground)?;
        let people = self.filter.as_ref();
        conditions.extend(filter::shared(&self.filters, people, self.filter_test_accounts, &ground)?);
        let activity = Activity {
            // A person's first event of all may be long before.
            range: Range { from: Timestamp::EPOCH, end },
            buckets,
            conditions: Vec::new(),
            sets: vec![Matcher { event: active.event.clone(), conditions }],
            counted: false,
            firsts: vec![Matcher { event: None, conditions: Vec::new() }],
        };
        Ok(Plan { calendar, interval: self.interval, activity, range })
    }
}

impl Active {
    pub(super) fn conditions(
        &self,
        path: &str,
        ground: &Ground<'_>,
    ) -> Result<Vec<crate::store::Sql>, Problem> {
        filter::conditions(&self.filters, path, ground)
    }
}

impl Plan {
    /// Shows every person's states: (person, interval of the range, state).
    async fn states(
        &self,
        query: &Query,
        scope: &Scope,
        actors: &Actors,
        mut show: impl FnMut(u64, usize, State),
    ) -> Result<(), Problem> {
        let buckets = &self.activity.buckets;
        let shown = |person: &activity::Person| {
            let created = person.firsts[0].and_then(|at| buckets.index_of(at)).map(|index| index as u32);
            for (interval, state) in states(&person.sets[0], created, buckets.len() as u32) {
                show(person.actor, interval as usize - 1, state);
            }
            Ok(())
        };
        query.active(scope, actors, &self.activity, shown).await
    }

    fn days(&self) -> Vec<String> {
        let format = match self.interval {
            Interval::Minute | Interval::Hour => "%Y-%m-%dT%H:%M:%S%:z",
            Interval::Day | Interval::Week | Interval::Month => "%Y-%m-%d",
        };
        let starts = self.activity.buckets.starts().iter().skip(1);
        starts.map(|start| self.calendar.zoned(*start).format(format).to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::query::tests::{at, limits, scope};

    proptest! {
        #[test]
        fn every_interval_is_what_a_naive_look_at_it_says(
            active in proptest::collection::btree_set(0_u32..10, 0..8),
            created in proptest::option::of(0_u32..10),
            intervals in 1_u32..11,
        ) {
            let sorted: Vec<u32> = active.iter().copied().filter(|interval| *interval < intervals).collect();
            let found = states(&sorted, created, intervals);
            for interval in 1..intervals {
                let (now, before) = (sorted.contains(&interval), sorted.contains(&(interval - 1)));
                let expected = match (now, before) {
                    (true, _) if created == Some(interval) => vec![State::New],
                    (true, true) => vec![State::Returning],
                    (true, false) => vec![State::Resurrecting],
                    (false, true) => vec![State::Dormant],
                    (false, false) => vec![],
                };
                let of: Vec<State> =
                    found.iter().filter(|(at, _)| *at == interval).map(|(_, state)| *state).collect();
                prop_assert_eq!(of, expected, "{}", interval);
            }
            prop_assert!(found.iter().all(|(at, _)| *at > 0 && *at < intervals));
        }
    }

    #[test]
    fn statements_of_lifecycles() {
        let body = r#"{"date_from":"2026-03-07","date_to":"2026-03-09","timezone":"America/New_York",
            "series":[{"event":"a"}]}"#;
        let question: Lifecycle = crate::http::strict::json(body.as_bytes()).unwrap();
        let actors = Actors::new(&scope(), false);
        let plan = question.check(&limits(), &actors, at("2026-03-10T12:00:00Z"), None).unwrap();
        insta::assert_snapshot!("lifecycle", plan.activity.gather().sql(&scope(), &actors, 0, 2).text());
        insta::assert_snapshot!("activity_count", plan.activity.gather().count(&scope()).text());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (body, field, part) in [
            (r#"{"series":[]}"#, "series", "a lifecycle is of one"),
            (r#"{"series":[{"event":"a"},{"event":"b"}]}"#, "series", "a lifecycle is of one"),
            (r#"{"series":[{"events":"a"}]}"#, "series[0].events", "did you mean event?"),
            (
                r#"{"series":[{"event":"a"}],"date_from":"-9y","interval":"minute"}"#,
                "interval",
                "query.buckets_max",
            ),
        ] {
            let problem = crate::http::strict::json::<Lifecycle>(body.as_bytes())
                .and_then(|question| {
                    let actors = Actors::new(&scope(), false);
                    question.check(&limits(), &actors, at("2026-03-10T12:00:00Z"), None)
                })
                .unwrap_err();
            assert_eq!(problem.details["field"], field, "{body}");
            assert!(problem.message.contains(part), "{body}: {}", problem.message);
        }
    }
}

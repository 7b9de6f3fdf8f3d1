//! Which value of a breakdown a person counts for.

use serde::{Deserialize, Serialize};

use super::fold::{Event, Reached, Rules, fold, taken};

/// Whose value counts, of the events of a person that match a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Attribution {
    /// The first event's that has one.
    #[default]
    FirstTouch,
    /// The last event's that has one.
    LastTouch,
    /// Every event's: a person counts for each value by the events that have it, as if there were no others.
    AllEvents,
    /// That of the event that took this step (from 0), which may be empty. Whoever does not come to it does not count;
    /// whoever may take it with events of several values counts for each.
    Step(usize),
}

impl TryFrom<String> for Attribution {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let step = || {
            let number = text.strip_prefix("step(").and_then(|rest| rest.strip_suffix(')'));
            number.or_else(|| text.strip_prefix("step_"))?.parse().ok()
        };
        match text.as_str() {
            "first_touch" => Ok(Self::FirstTouch),
            "last_touch" => Ok(Self::LastTouch),
            "all_events" => Ok(Self::AllEvents),
            // The first, unless `attribution_step` says otherwise.
            "step" => Ok(Self::Step(0)),
            _ => step().map(Self::Step).ok_or_else(|| {
                let shown: String = text.chars().take(40).collect();
                format!(
                    "{shown:?} must be one of first_touch, last_touch, all_events, step(0), step(1), …, the steps \
                     counted from 0"
                )
            }),
        }
    }
}

impl From<Attribution> for String {
    fn from(attribution: Attribution) -> Self {
        match attribution {
            Attribution::FirstTouch => "first_touch".to_owned(),
            Attribution::LastTouch => "last_touch".to_owned(),
            Attribution::AllEvents => "all_events".to_owned(),
            Attribution::Step(step) => format!("step({step})"),
        }
    }
}

impl Attribution {
    /// Folds the person's events for each value they count for; `begins` says which events may be the first of an
    /// attempt.
    pub(super) fn fold(
        self,
        rules: &Rules,
        events: &[Event],
        begins: impl Fn(&Event) -> bool,
        mut show: impl FnMut(u32, Reached),
    ) {
        let may_begin = |step: usize, event: &Event| step != 0 || begins(event);
        let touches = || events.iter().filter(|event| event.steps != 0 && event.value != 0);
        match self {
            Self::FirstTouch => {
                let value = touches().next().map_or(0, |event| event.value);
                show(value, fold(rules, events, may_begin));
            }
            Self::LastTouch => {
                let value = touches().next_back().map_or(0, |event| event.value);
                show(value, fold(rules, events, may_begin));
            }
            Self::AllEvents => {
                for value in values(events.iter().filter(|event| event.steps != 0)) {
                    let with = |event: &&Event| event.value == value || event.steps == 0;
                    let events: Vec<Event> = events.iter().filter(with).copied().collect();
                    show(value, fold(rules, &events, may_begin));
                }
            }
            Self::Step(of) => {
                for value in values(events.iter().filter(|event| event.steps & (1 << of) != 0)) {
                    let takes = |step: usize, event: &Event| {
                        may_begin(step, event) && (step != of || event.value == value)
                    };
                    match fold(rules, events, takes) {
                        Reached::Steps(times) if taken(&times, of).is_none() => {}
                        reached => show(value, reached),
                    }
                }
            }
        }
    }
}

/// Distinct values, in order.
fn values<'a>(events: impl Iterator<Item = &'a Event>) -> Vec<u32> {
    let mut values: Vec<u32> = events.map(|event| event.value).collect();
    values.sort_unstable();
    values.dedup();
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::funnel::fold::Order;

    fn event(at: i64, step: usize, value: u32) -> Event {
        Event { at, steps: 1 << step, exclusions: 0, value }
    }

    fn shown(attribution: Attribution, events: &[Event]) -> Vec<(u32, usize)> {
        let rules =
            Rules { steps: 2, order: Order::Ordered, window: 100, exclusions: Vec::new(), optional: 0 };
        let mut shown = Vec::new();
        attribution.fold(
            &rules,
            events,
            |_| true,
            |value, reached| {
                let steps = if let Reached::Steps(times) = reached { times.len() } else { 0 };
                shown.push((value, steps));
            },
        );
        shown
    }

    #[test]
    fn each_attribution_takes_the_value_it_says() {
        let events = [event(0, 0, 0), event(1, 0, 3), event(2, 1, 0), event(3, 1, 4)];
        assert_eq!(shown(Attribution::FirstTouch, &events), [(3, 2)]);
        assert_eq!(shown(Attribution::LastTouch, &events), [(4, 2)]);
        assert_eq!(shown(Attribution::AllEvents, &events), [(0, 2), (3, 1), (4, 0)]);
        assert_eq!(shown(Attribution::Step(0), &events), [(0, 2), (3, 2)]);
        assert_eq!(shown(Attribution::Step(1), &events), [(0, 2), (4, 2)]);
    }

    #[test]
    fn whoever_does_not_come_to_the_step_vanishes() {
        assert_eq!(shown(Attribution::Step(1), &[event(0, 0, 3)]), []);
        assert_eq!(shown(Attribution::Step(1), &[event(0, 1, 3), event(1, 0, 4)]), []);
    }

    #[test]
    fn attributions_are_read_and_written_alike() {
        for text in ["first_touch", "last_touch", "all_events", "step(2)"] {
            assert_eq!(String::from(Attribution::try_from(text.to_owned()).unwrap()), text);
        }
        assert_eq!(Attribution::try_from("step_1".to_owned()), Ok(Attribution::Step(1)));
        assert!(Attribution::try_from("step(x)".to_owned()).unwrap_err().contains("step(0)"));
    }
}

//! The fold against a naive reference, and what a question is refused for.

use proptest::prelude::*;

use super::fold::{Event, Exclusion, Order, Reached, Rules, SKIPPED, Times, fold};
use super::*;
use crate::http::strict;
use crate::query::tests::{at, limits, scope};
use crate::store::Sql;

/// One attempt, followed through by itself.
#[derive(Clone, Debug)]
struct Attempt {
    times: Times,
    tainted: bool,
}

/// The attempt at the funnel of these steps that begins with `events[first]`: as the page says, one event after the
/// other. Events have times of their own.
fn follow(rules: &Rules, kept: &[usize], events: &[Event], first: usize) -> Attempt {
    let start = events[first].at;
    let mut attempt = Attempt { times: Times::from_slice(&[start]), tainted: false };
    for event in &events[first + 1..] {
        let taken = attempt.times.len();
        if taken == kept.len() || event.at - start > rules.window {
            break;
        }
        let (last, next) = (kept[taken - 1], kept[taken]);
        let is_excluded = |(bit, exclusion): (usize, &Exclusion)| {
            event.exclusions & (1 << bit) != 0 && exclusion.from <= last && last < exclusion.to
        };
        if rules.exclusions.iter().enumerate().any(is_excluded) {
            attempt.tainted = true;
        }
        if event.steps & (1 << next) != 0 {
            attempt.times.push(event.at);
            if attempt.tainted {
                break;
            }
        } else if rules.order == Order::Strict {
            break;
        }
    }
    attempt
}

/// As many different steps as events from `first` on can serve, found by trying everything.
fn gather_any(rules: &Rules, events: &[Event], first: usize) -> Attempt {
    fn most(masks: &[u16], taken: u16) -> usize {
        let Some((mask, rest)) = masks.split_first() else { return 0 };
        let without = most(rest, taken);
        let with = (0..16).filter(|step| mask & !taken & (1 << step) != 0);
        with.map(|step| 1 + most(rest, taken | 1 << step)).max().unwrap_or(0).max(without)
    }
    let start = events[first].at;
    let mut attempt = Attempt { times: Times::new(), tainted: false };
    let mut masks = Vec::new();
    for event in &events[first..] {
        if event.at - start > rules.window || attempt.times.len() == rules.steps {
            break;
        }
        if event.exclusions != 0 {
            attempt.tainted = true;
        }
        if event.steps == 0 {
            continue;
        }
        masks.push(event.steps);
        if most(&masks, 0) > attempt.times.len() {
            attempt.times.push(event.at);
            if attempt.tainted {
                break;
            }
        }
    }
    attempt
}

/// The best of all attempts at the funnel of these steps.
fn best_of(rules: &Rules, kept: &[usize], events: &[Event]) -> Option<Attempt> {
    let begins = |event: &&Event| match rules.order {
        Order::Unordered => event.steps != 0,
        _ => event.steps & 1 != 0,
    };
    let firsts = events.iter().enumerate().filter(|(_, event)| begins(event)).map(|(index, _)| index);
    let attempts = firsts.map(|first| match rules.order {
        Order::Unordered => gather_any(rules, events, first),
        _ => follow(rules, kept, events, first),
    });
    // Attempts that came to their last step with the same event count as the one of them that began last.
    let mut attempts: Vec<Attempt> = attempts.collect();
    if rules.order != Order::Unordered {
        attempts.reverse();
        let mut seen = std::collections::HashSet::new();
        attempts.retain(|attempt| seen.insert((attempt.times.len(), *attempt.times.last().unwrap())));
    }
    let later = if rules.order == Order::Unordered { -1 } else { 1 };
    attempts.into_iter().max_by_key(|attempt| {
        let (start, end) = (attempt.times[0], *attempt.times.last().unwrap());
        (attempt.times.len(), !attempt.tainted, -end, later * start)
    })
}

fn reached(best: Option<Attempt>) -> Reached {
    match best {
        None => Reached::Nothing,
        Some(best) if best.tainted => Reached::Excluded,
        Some(best) => Reached::Steps(best.times),
    }
}

fn naive(rules: &Rules, events: &[Event]) -> Reached {
    let all: Vec<usize> = (0..rules.steps).collect();
    reached(best_of(rules, &all, events))
}

/// Every funnel that leaves out some of the steps that may be, the last one never; of all of them the best.
fn naive_with_choices(rules: &Rules, events: &[Event]) -> Reached {
    let may_go = rules.optional & !(1 << (rules.steps - 1));
    let mut best = None;
    // Of equal ones the one that took the earlier steps.
    for left_out in (0_u16..1 << rules.steps).rev().filter(|left_out| left_out & !may_go == 0) {
        let kept: Vec<usize> = (0..rules.steps).filter(|step| left_out & (1 << step) == 0).collect();
        let Some(mut attempt) = best_of(rules, &kept, events) else { continue };
        let (taken, start) = (attempt.times.len(), attempt.times[0]);
        let furthest = kept[taken - 1];
        let rank = (furthest, !attempt.tainted, -attempt.times[taken - 1], taken, start);
        if best.as_ref().is_none_or(|(other, _)| rank > *other) {
            let at =
                |step: usize| kept.iter().position(|kept| *kept == step).map(|place| attempt.times[place]);
            attempt.times = (0..=furthest).map(|step| at(step).unwrap_or(SKIPPED)).collect();
            best = Some((rank, attempt));
        }
    }
    reached(best.map(|(_, attempt)| attempt))
}

fn orders() -> impl Strategy<Value = Order> {
    prop_oneof![Just(Order::Ordered), Just(Order::Strict), Just(Order::Unordered)]
}

/// Rules of 2 to 4 steps, with exclusions, and events with times of their own.
fn asked() -> impl Strategy<Value = (Rules, Vec<Event>)> {
    orders().prop_flat_map(|order| asked_in(order, 2..5))
}

/// The same in order, with up to 5 steps of which some may be left out.
fn asked_with_choices() -> impl Strategy<Value = (Rules, Vec<Event>)> {
    (asked_in(Order::Ordered, 2..6), any::<u16>()).prop_map(|((rules, events), mask)| {
        let optional = mask & !1 & ((1 << rules.steps) - 1);
        (Rules { optional, ..rules }, events)
    })
}

fn asked_in(order: Order, steps: std::ops::Range<usize>) -> impl Strategy<Value = (Rules, Vec<Event>)> {
    (steps, 1_i64..40).prop_flat_map(move |(steps, window)| {
        let exclusion = (0..steps - 1).prop_flat_map(move |from| {
            (from + 1..steps).prop_map(move |to| match order {
                Order::Unordered => Exclusion { from: 0, to: steps - 1 },
                _ => Exclusion { from, to },
            })
        });
        let event = prop_oneof![
            6 => (1_u16..1 << steps).prop_map(|steps| (steps, 0)),
            6 => (0..steps).prop_map(|step| (1 << step, 0)),
            2 => Just((0, 0)),
            2 => (1_u8..4).prop_map(|exclusions| (0, exclusions)),
        ];
        let events = proptest::collection::vec((1_i64..12, event), 0..14);
        (proptest::collection::vec(exclusion, 0..3), events).prop_map(move |(exclusions, events)| {
            let known = (1_u8 << exclusions.len()) - 1;
            let mut at = 0;
            let events = events.into_iter().map(|(gap, (steps, excluded))| {
                at += gap;
                Event { at, steps, exclusions: excluded & known, value: 0 }
            });
            (Rules { steps, order, window, exclusions, optional: 0 }, events.collect())
        })
    })
}

proptest! {
    // PROPTEST_CASES asks for more.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(4000)))]

    #[test]
    fn the_fold_is_what_following_every_attempt_by_itself_gives((rules, events) in asked()) {
        let folded = fold(&rules, &events, |_, _| true);
        prop_assert_eq!(folded, naive(&rules, &events));
    }

    #[test]
    fn steps_to_leave_out_make_the_best_of_all_funnels_that_leave_some_out((rules, events) in asked_with_choices()) {
        let folded = fold(&rules, &events, |_, _| true);
        prop_assert_eq!(folded, naive_with_choices(&rules, &events));
    }

    #[test]
    fn events_of_one_time_come_in_the_order_that_serves_best(
        masks in proptest::collection::vec((0_i64..4, 1_u16..8), 1..7),
        window in 0_i64..4,
    ) {
        let rules = Rules { steps: 3, order: Order::Ordered, window, exclusions: Vec::new(), optional: 0 };
        let mut events: Vec<Event> =
            masks.iter().map(|(at, steps)| Event { at: *at, steps: *steps, exclusions: 0, value: 0 }).collect();
        events.sort_unstable_by_key(|event| (event.at, event.steps));
        // Every order of the whole list that keeps to the times, each event a moment after the one before.
        let mut best = 0;
        permute(&mut events.clone(), 0, &mut |order| {
            let reached = order.iter().enumerate().filter(|(_, event)| event.steps & 1 != 0).map(|(first, _)| {
                let start = order[first].at;
                let mut taken = 1;
                for event in &order[first + 1..] {
                    if taken < 3 && event.at - start <= window && event.steps & (1 << taken) != 0 {
                        taken += 1;
                    }
                }
                taken
            });
            best = best.max(reached.max().unwrap_or(0));
        });
        let folded = match fold(&rules, &events, |_, _| true) {
            Reached::Steps(times) => times.len(),
            _ => 0,
        };
        prop_assert_eq!(folded, best);
    }

    #[test]
    fn windows_and_duplicates_change_what_they_should((rules, events) in asked(), copies in 0_usize..20) {
        let steps = |reached: &Reached| if let Reached::Steps(times) = reached { times.len() } else { 0 };
        let reached = fold(&rules, &events, |_, _| true);
        if let Reached::Steps(times) = &reached {
            prop_assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
            prop_assert!(times.last().unwrap() - times[0] <= rules.window);
        }
        if rules.exclusions.is_empty() {
            let wider = Rules { window: rules.window * 2, ..rules.clone() };
            prop_assert!(steps(&fold(&wider, &events, |_, _| true)) >= steps(&reached));
            // An event that stands behind all others once more, after every window, changes nothing.
            let mut more = events.clone();
            if let Some(event) = events.get(copies) {
                more.push(Event { at: events.last().unwrap().at + rules.window + 1, ..*event });
            }
            prop_assert!(steps(&fold(&rules, &more, |_, _| true)) >= steps(&reached).min(1));
        }
    }
}

/// Shows every order of the events that keeps to their times.
fn permute(events: &mut [Event], from: usize, show: &mut impl FnMut(&[Event])) {
    if from == events.len() {
        if events.is_sorted_by_key(|event| event.at) {
            show(events);
        }
        return;
    }
    for other in from..events.len() {
        if events[other].at == events[from].at || other == from {
            events.swap(from, other);
            permute(events, from + 1, show);
            events.swap(from, other);
        }
    }
}

fn event(at: i64, steps: u16, exclusions: u8) -> Event {
    Event { at, steps, exclusions, value: 0 }
}

fn times(reached: &Reached) -> Option<Vec<i64>> {
    if let Reached::Steps(times) = reached { Some(times.to_vec()) } else { None }
}

#[test]
fn an_excluded_event_at_the_time_of_a_step_stands_where_it_does_no_harm() {
    let rules = Rules {
        optional: 0,
        steps: 3,
        order: Order::Ordered,
        window: 100,
        exclusions: vec![Exclusion { from: 0, to: 1 }],
    };
    let reached = |events: &[Event]| times(&fold(&rules, events, |_, _| true));
    // With the first step: before it. With the second: after it.
    assert_eq!(reached(&[event(0, 1, 0), event(0, 0, 1), event(5, 2, 0)]), Some(vec![0, 5]));
    assert_eq!(reached(&[event(0, 1, 0), event(5, 0, 1), event(5, 2, 0)]), Some(vec![0, 5]));
    assert_eq!(reached(&[event(0, 1, 0), event(4, 0, 1), event(5, 2, 0)]), None);
    // Beside an event that is no help.
    assert_eq!(reached(&[event(0, 1, 0), event(4, 0, 1), event(4, 4, 0), event(5, 2, 0)]), None);
}

#[test]
fn a_strict_attempt_is_broken_by_what_it_cannot_use_of_one_time() {
    let rules = Rules { steps: 3, order: Order::Strict, window: 100, exclusions: Vec::new(), optional: 0 };
    let reached = |events: &[Event]| times(&fold(&rules, events, |_, _| true)).map(|times| times.len());
    // Another event with the first step came before it; with the second it came after, and breaks the third.
    assert_eq!(reached(&[event(0, 0, 0), event(0, 1, 0), event(1, 2, 0), event(2, 4, 0)]), Some(3));
    assert_eq!(reached(&[event(0, 1, 0), event(1, 0, 0), event(1, 2, 0), event(2, 4, 0)]), Some(2));
    assert_eq!(reached(&[event(0, 1, 0), event(1, 2, 0), event(1, 4, 0)]), Some(3));
}

fn check(body: &str) -> Result<Plan, Problem> {
    let question: Funnel = strict::json(body.as_bytes())?;
    let actors = Actors::new(&scope(), false);
    question.check(&limits(), &actors, at("2026-03-10T12:00:00Z"), None)
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn what_cannot_be_meant_is_refused_by_name() {
    let two = r#""steps":[{"event":"a"},{"event":"b"}]"#;
    let cases = [
        (r#"{"step":[]}"#.to_owned(), "step", "did you mean steps?"),
        (r#"{"steps":[{"event":"a"}]}"#.to_owned(), "steps", "query.funnel_steps_max"),
        (format!(r#"{{"steps":[{}]}}"#, vec![r#"{"event":"a"}"#; 17].join(",")), "steps", "2 to 16"),
        (format!(r#"{{{two},"window":"14 fortnights"}}"#), "window", "14 day"),
        (format!(r#"{{{two},"order":"orderd"}}"#), "order", "did you mean ordered?"),
        (format!(r#"{{{two},"viz":"pie"}}"#), "viz", "steps, trends, time_to_convert"),
        (format!(r#"{{{two},"from_step":1}}"#), "from_step", "counted from 0 to 1"),
        (format!(r#"{{{two},"to_step":2}}"#), "to_step", "counted from 0 to 1"),
        (format!(r#"{{{two},"bin_count":0}}"#), "bin_count", "1 to 90"),
        (format!(r#"{{{two},"exclusions":[{{"event":"a"}}]}}"#), "exclusions[0]", "same event as step 0"),
        (
            format!(r#"{{{two},"exclusions":[{{"event":"x","from_step":1,"to_step":1}}]}}"#),
            "exclusions[0]",
            "the first before the second",
        ),
        (
            r#"{"order":"unordered","steps":[{"event":"a"},{"event":"b"},{"event":"c"}],
               "exclusions":[{"event":"x","from_step":0,"to_step":1}]}"#
                .to_owned(),
            "exclusions[0]",
            "the whole funnel",
        ),
        (
            format!(r#"{{{two},"breakdown":{{"property":"p","attribution":"last"}}}}"#),
            "breakdown.attribution",
            "first_touch, last_touch, all_events, step(0)",
        ),
        (
            format!(r#"{{{two},"breakdown":{{"property":"p","attribution":"step(2)"}}}}"#),
            "breakdown.attribution",
            "step 0 to 1",
        ),
        (
            format!(
                r#"{{{two},"order":"unordered","breakdown":{{"property":"p","attribution":"step(1)"}}}}"#
            ),
            "breakdown.attribution",
            "step 0 to 0",
        ),
        (format!(r#"{{{two},"breakdown":{{"property":[]}}}}"#), "breakdown.property", "1 to 5"),
        (format!(r#"{{{two},"breakdown":{{"property":7}}}}"#), "breakdown.property", "a list of names"),
        (
            format!(r#"{{{two},"breakdown":{{"property":[],"type":"cohort"}}}}"#),
            "breakdown.property",
            "0 cohorts; it may have 1 to 20",
        ),
        (
            format!(
                r#"{{{two},"breakdown":{{"property":"all","type":"cohort","attribution":"last_touch"}}}}"#
            ),
            "breakdown.attribution",
            "whatever their events say",
        ),
        (
            format!(r#"{{{two},"breakdown":{{"property":"p","type":"cohrt"}}}}"#),
            "breakdown.type",
            "did you mean cohort?",
        ),
        (
            format!(r#"{{{two},"breakdown":{{"property":"p","limit":0}}}}"#),
            "breakdown.limit",
            "query.breakdown_values_max",
        ),
        (format!(r#"{{{two},"date_from":"2026-03-02","date_to":"2026-03-01"}}"#), "date_from", "backwards"),
        (
            format!(r#"{{{two},"viz":"trends","date_from":"-5y","interval":"minute"}}"#),
            "interval",
            "query.buckets_max",
        ),
    ];
    for (body, field, part) in cases {
        let problem = check(&body).unwrap_err();
        let refused = problem.details.get("field").and_then(|field| field.as_str()).unwrap_or_default();
        assert_eq!((refused, problem.code.status().as_u16()), (field, 400), "{body}: {}", problem.message);
        assert!(problem.message.contains(part), "{body}: {}", problem.message);
    }
}

#[test]
fn statements_of_funnels() {
    let sql = |body: &str, merged: bool, turns: u64| -> String {
        let plan = check(body).unwrap();
        let actors = Actors::new(&scope(), merged);
        let gather: Sql = plan.gather.sql(&scope(), &actors, 0, turns);
        format!("{}\n{}", plan.gather.count(&scope()).text(), gather.text())
    };
    insta::assert_snapshot!("funnel", sql(r#"{"steps":[{"event":"a"},{"event":"b"}]}"#, false, 1));
    insta::assert_snapshot!(
        "funnel_with_everything",
        sql(
            r#"{"steps":[{"event":"a","filters":[{"key":"plan","value":"pro"}]},{"event":null}],
                "exclusions":[{"event":"x"}],"filters":[{"key":"country","operator":"is_set"}],
                "breakdown":{"property":["plan","device"]}}"#,
            true,
            3,
        )
    );
    insta::assert_snapshot!(
        "funnel_strict",
        sql(r#"{"order":"strict","date_from":"all","steps":[{"event":"a"},{"event":"b"}]}"#, false, 1)
    );
}

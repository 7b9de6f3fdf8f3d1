//! A whole table against a naive reference, and what a question is refused for.

use proptest::prelude::*;

use super::*;
use crate::http::strict;
use crate::query::tests::{at, limits, scope};

fn check(body: &str) -> Result<Plan, Problem> {
    let question: Retention = strict::json(body.as_bytes())?;
    let actors = Actors::new(&scope(), false);
    question.check(&limits(), &actors, at("2026-03-10T12:00:00Z"))
}

/// An event of a person as the reference sees it: interval, is it a beginning, a return.
type Seen = (u32, bool, bool);

proptest! {
    #[test]
    fn a_table_is_what_a_naive_count_of_every_cell_gives(
        people in proptest::collection::vec(
            proptest::collection::vec((0_u32..7, any::<bool>(), any::<bool>()), 0..10), 0..6),
        kind in prop_oneof![Just("recurring"), Just("first_time")],
        cumulative: bool,
        least in 1_usize..3,
        broken_down: bool,
    ) {
        let breakdown = if broken_down { r#","breakdown":{"property":"p"}"# } else { "" };
        let plan = check(&format!(
            r#"{{"target_event":"a","returning_event":"b","retention_type":"{kind}","min_occurrences":{least},
                "cumulative":{cumulative}{breakdown}}}"#,
        ))
        .unwrap();
        let mut counts = Counts::new(7);
        for events in &people {
            let life = life(&plan, events, broken_down);
            for (start, _) in &life.starts {
                counts.add(*start, &life.appearances(*start, 7, cumulative));
            }
        }
        prop_assert_eq!(counts.rows, naive(&people, kind == "first_time", cumulative, least));
    }
}

/// The life of a person, through the code that reads the store's rows.
fn life(plan: &Plan, events: &[Seen], broken_down: bool) -> Life {
    let start_of = |interval: u32| plan.buckets.starts()[interval as usize];
    if broken_down {
        let origin = plan.range.from.as_millis();
        let mut events: Vec<Event> = events
            .iter()
            .map(|(interval, begins, returns)| Event {
                at: start_of(*interval).as_millis() - origin + 1,
                steps: u16::from(*begins) | u16::from(*returns) << 1,
                exclusions: 0,
                value: 0,
            })
            .collect();
        events.sort_unstable_by_key(|event| (event.at, event.steps));
        return plan.life_of_events(plan.range.from, &events);
    }
    let sorted = |which: fn(&Seen) -> bool| {
        let mut intervals: Vec<u32> =
            events.iter().filter(|event| which(event)).map(|event| event.0).collect();
        intervals.sort_unstable();
        intervals
    };
    let targets = sorted(|event| event.1);
    let first = targets.first().map(|interval| start_of(*interval));
    let sets = [sorted(|event| event.2), targets];
    plan.life_of_sets(&activity::Person { actor: 1, sets, firsts: [first, first] })
}

/// Cell by cell, by the words of the page.
fn naive(people: &[Vec<Seen>], first_time: bool, cumulative: bool, least: usize) -> Vec<Vec<u64>> {
    let begins = |events: &Vec<Seen>, row: u32| {
        let mut begins = events.iter().filter(|event| event.1).map(|event| event.0);
        if first_time { begins.min() == Some(row) } else { begins.any(|at| at == row) }
    };
    let returns =
        |events: &Vec<Seen>, at: u32| events.iter().filter(|event| event.2 && event.0 == at).count() >= least;
    (0..7_u32)
        .map(|row| {
            (0..7 - row)
                .map(|n| {
                    let there = |events: &&Vec<Seen>| {
                        begins(events, row)
                            && (n == 0
                                || if cumulative {
                                    (row + n..7).any(|at| returns(events, at))
                                } else {
                                    returns(events, row + n)
                                })
                    };
                    people.iter().filter(there).count() as u64
                })
                .collect()
        })
        .collect()
}

#[test]
fn the_first_of_a_name_begins_only_if_it_passes_the_filters() {
    let plan = check(
        r#"{"target_event":"a","retention_type":"first_ever_occurrence",
            "target_filters":[{"key":"plan","value":"pro"}]}"#,
    )
    .unwrap();
    let starts = &plan.buckets.starts();
    let began = |first: Option<usize>, by_name: Option<usize>| {
        let firsts = [first, by_name].map(|interval| interval.map(|interval| starts[interval]));
        let person = activity::Person { actor: 1, sets: [vec![3], vec![2, 3]], firsts };
        plan.life_of_sets(&person).starts
    };
    assert_eq!(began(Some(2), Some(2)), [(2, 0)]);
    assert_eq!(began(Some(2), Some(1)), []);
    assert_eq!(began(None, Some(1)), []);
}

#[test]
fn with_a_breakdown_a_person_counts_for_the_first_event_of_an_interval() {
    let plan = check(r#"{"target_event":"a","returning_event":"b","breakdown":{"property":"p"}}"#).unwrap();
    let day = 86_400_000;
    let event = |at, steps, value| Event { at, steps, exclusions: 0, value };
    let events = [event(1, 0b101, 4), event(2, 0b101, 5), event(day, 0b10, 9), event(day + 1, 0b101, 6)];
    let life = plan.life_of_events(plan.range.from, &events);
    assert_eq!(life, Life { starts: vec![(0, 4), (1, 6)], returns: vec![1] });
}

#[test]
fn what_cannot_be_meant_is_refused_by_name() {
    for (body, field, part) in [
        (r#"{"period":"year"}"#, "period", "hour, day, week, month"),
        (r#"{"total_intervals":0}"#, "total_intervals", "query.retention_intervals_max"),
        (r#"{"total_intervals":100000}"#, "total_intervals", "query.retention_intervals_max"),
        (r#"{"min_occurrences":0}"#, "min_occurrences", "1 to 1000"),
        (r#"{"retention_type":"first"}"#, "retention_type", "did you mean first_time?"),
        (r#"{"target":"a"}"#, "target", "did you mean target_event?"),
        (r#"{"breakdown":{"property":""}}"#, "breakdown.property", "1 to 400 bytes"),
        (r#"{"breakdown":{"property":[]}}"#, "breakdown.property", "1 to 5"),
        (r#"{"breakdown":{"property":7}}"#, "breakdown.property", "a list of names"),
        (r#"{"breakdown":{"property":[],"type":"cohort"}}"#, "breakdown.property", "1 to 20"),
        (r#"{"date_to":"soon"}"#, "date_to", "2026-01-31"),
    ] {
        let problem = check(body).unwrap_err();
        assert_eq!(problem.details["field"], field, "{body}: {}", problem.message);
        assert!(problem.message.contains(part), "{body}: {}", problem.message);
    }
}

#[test]
fn statements_of_retention() {
    let sql = |body: &str| {
        let plan = check(body).unwrap();
        let actors = Actors::new(&scope(), false);
        match &plan.source {
            Source::Activity(activity) => activity.gather().sql(&scope(), &actors, 0, 1),
            Source::Events(gather) => gather.sql(&scope(), &actors, 0, 1),
        }
        .text()
        .to_owned()
    };
    insta::assert_snapshot!("retention", sql(r#"{"target_event":"a","returning_event":"b"}"#));
    insta::assert_snapshot!(
        "retention_first_time_of_months",
        sql(
            r#"{"target_event":"a","retention_type":"first_ever_occurrence","period":"month","total_intervals":3,
                "min_occurrences":2,"target_filters":[{"key":"plan","value":"pro"}]}"#
        )
    );
    insta::assert_snapshot!(
        "retention_breakdown",
        sql(r#"{"target_event":"a","returning_event":"b","breakdown":{"property":"plan"}}"#)
    );
    insta::assert_snapshot!(
        "retention_breakdown_of_several",
        sql(r#"{"target_event":"a","retention_type":"first_time",
                "breakdown":{"property":["plan","team"],"type":"person"}}"#)
    );
}

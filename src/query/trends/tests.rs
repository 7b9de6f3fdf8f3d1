//! What a question is refused for, and what rows become.

use super::answer::{BucketNames, Row, lines};
use super::*;
use crate::http::strict;
use crate::query::tests::{at, limits};

fn check(body: &str) -> Result<Plan, Problem> {
    let question: Trends = strict::json(body.as_bytes())?;
    question.check(&limits(), at("2026-03-10T12:00:00Z"))?.plan(None, &limits())
}

fn refused(body: &str) -> (String, String) {
    let problem = check(body).unwrap_err();
    assert_eq!(problem.code.status(), 400, "{body}");
    let field = problem.details.get("field").and_then(|field| field.as_str()).unwrap_or_default();
    (field.to_owned(), problem.message)
}

#[test]
fn what_cannot_be_meant_is_refused_by_name() {
    let cases = [
        (r#"{"serie":[]}"#, "serie", "did you mean series?"),
        (r#"{"series":[]}"#, "series", "query.series_max"),
        (r#"{"series":[{"event":"a","math":"totl"}]}"#, "series[0].math", "total, dau"),
        (r#"{"series":[{"event":"a","maths":"total"}]}"#, "series[0].maths", "did you mean math?"),
        (r#"{"series":[{"event":"a"}],"interval":"year"}"#, "interval", "minute, hour, day, week, month"),
        (r#"{"series":[{"event":"a"}],"week_start":"friday"}"#, "week_start", "sunday, monday"),
        (
            r#"{"series":[{"event":"a"}],"timezone":"Asia/Katmandu2"}"#,
            "timezone",
            "did you mean Asia/Katmandu",
        ),
        (r#"{"series":[{"event":"a"}],"date_from":"soon"}"#, "date_from", "2026-01-31"),
        (
            r#"{"series":[{"event":"a"}],"date_from":"2026-03-02","date_to":"2026-03-01"}"#,
            "date_from",
            "backwards",
        ),
        (
            r#"{"series":[{"event":"a"}],"date_from":"-5y","interval":"minute"}"#,
            "interval",
            "query.buckets_max",
        ),
        (
            r#"{"series":[{"event":"a"}],"breakdown":{"property":"p","limit":0}}"#,
            "breakdown.limit",
            "query.breakdown_values_max",
        ),
        (
            r#"{"series":[{"event":"a"}],"breakdown":{"property":"p","limit":1000},"interval":"hour","date_from":"-90d"}"#,
            "interval",
            "query.points_max",
        ),
        (r#"{"series":[{"event":"a"}],"breakdown":{"property":""}}"#, "breakdown.property", "1 to 400 bytes"),
        (
            r#"{"series":[{"event":"a","filters":[{"key":"k","operator":"gt","value":"x"}]}]}"#,
            "series[0].filters[0].value",
            "gt takes one number",
        ),
        (
            r#"{"series":[{"event":"a"}],"filters":[{"key":"k","operator":"contains"}]}"#,
            "filters[0].operator",
            "did you mean icontains?",
        ),
        (
            r#"{"series":[{"event":"a"}],"filters":[{"key":"k","value":{"a":1}}]}"#,
            "filters[0].value",
            "text, a number, a boolean or a list",
        ),
    ];
    for (body, field, part) in cases {
        let (refused_field, message) = refused(body);
        assert_eq!(refused_field, field, "{body}: {message}");
        assert!(message.contains(part), "{body}: {message}");
    }
}

#[test]
fn a_thousand_series_and_a_thousand_filters_are_refused_by_their_setting() {
    let series = vec![r#"{"event":"a"}"#; 1000].join(",");
    assert!(refused(&format!(r#"{{"series":[{series}]}}"#)).1.contains("query.series_max"));
    let filters = vec![r#"{"key":"a","value":1}"#; 1000].join(",");
    let body = format!(r#"{{"series":[{{"event":"a"}}],"filters":[{filters}]}}"#);
    assert!(refused(&body).1.contains("query.filters_max"));
}

fn row(day: &str, value: u64, place: u64, label: &str) -> Row {
    Row { bucket: at(&format!("{day}T00:00:00Z")).as_millis(), value, place, label: label.to_owned() }
}

#[test]
fn rows_become_lines_with_every_bucket() {
    let plan =
        check(r#"{"series":[{"event":"a"}],"date_from":"2020-01-09","date_to":"2020-01-11"}"#).unwrap();
    let names = BucketNames::of(&plan);
    let line = &lines(&plan, &plan.series[0], &names, &[row("2020-01-10", 4, 0, "")])[0];
    assert_eq!((line.data.as_slice(), line.count), (&[0, 4, 0][..], 4));
    assert_eq!(*line.labels, ["9-Jan-2020", "10-Jan-2020", "11-Jan-2020"]);
    assert_eq!(*line.days, ["2020-01-09", "2020-01-10", "2020-01-11"]);
    assert_eq!(line.breakdown, None);
}

#[test]
fn values_without_a_line_of_their_own_are_named_as_other_and_none() {
    let plan = check(
        r#"{"series":[{"event":"a"}],"date_from":"2020-01-09","date_to":"2020-01-09",
            "breakdown":{"property":"p","limit":2}}"#,
    )
    .unwrap();
    let rows = [row("2020-01-09", 4, 1, "x"), row("2020-01-09", 2, 2, ""), row("2020-01-09", 7, 3, "z")];
    let lines = lines(&plan, &plan.series[0], &BucketNames::of(&plan), &rows);
    let shown: Vec<_> = lines.iter().map(|line| (line.breakdown.as_deref().unwrap(), line.count)).collect();
    assert_eq!(shown, [("x", 4), (WITHOUT, 2), (OTHER, 7)]);
}

#[test]
fn hours_carry_their_offset_so_that_a_repeated_one_is_told_apart() {
    let plan = check(
        r#"{"series":[{"event":"a"}],"date_from":"2026-11-01T00:00:00","date_to":"2026-11-01T02:00:00",
            "interval":"hour","timezone":"America/New_York"}"#,
    )
    .unwrap();
    let names = BucketNames::of(&plan);
    let line = &lines(&plan, &plan.series[0], &names, &[])[0];
    assert_eq!(*line.labels, ["1-Nov 00:00", "1-Nov 01:00", "1-Nov 01:00", "1-Nov 02:00"]);
    assert_eq!(line.days[1], "2026-11-01T01:00:00-04:00");
    assert_eq!(line.days[2], "2026-11-01T01:00:00-05:00");
}

#[test]
fn all_without_an_event_is_the_running_bucket() {
    let plan = check(r#"{"series":[{"event":"a"}],"date_from":"all"}"#).unwrap();
    assert_eq!(plan.buckets.len(), 1);
}

//! What a question is refused for, and what rows become.

use super::answer::{Row, SeriesRows, lines};
use super::*;
use crate::http::strict;
use crate::query::actor::Actors;
use crate::query::tests::{at, limits, scope};

fn check(body: &str) -> Result<Plan, Problem> {
    let question: Trends = strict::json(body.as_bytes())?;
    let actors = Actors::new(&scope(), false);
    let checked = question.check(&limits(), at("2026-03-10T12:00:00Z"), &actors)?;
    checked.plan(&question, None, &limits())
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
    all_refused(&cases);
}

/// Each body is refused with this field, and a message that has this part.
fn all_refused(cases: &[(&str, &str, &str)]) {
    for (body, field, part) in cases {
        let (refused_field, message) = refused(body);
        assert_eq!(refused_field, *field, "{body}: {message}");
        assert!(message.contains(part), "{body}: {message}");
    }
}

#[test]
fn options_that_do_not_fit_are_refused_by_name() {
    let cases = [
        (r#"{"series":[{"event":"a","math":"sum"}]}"#, "series[0].math_property", "is required"),
        (r#"{"series":[{"event":"a"}],"formula":"A/B"}"#, "formula", "only A"),
        (r#"{"series":[{"event":"a"}],"formulas":["A","A+"]}"#, "formulas[1]", "ends too early"),
        (r#"{"series":[{"event":"a"}],"compare_to":"1w"}"#, "compare_to", "-1w"),
        (r#"{"series":[{"event":"a"}],"smoothing":0}"#, "smoothing", "query.buckets_max"),
        (r#"{"series":[{"event":"a"}],"display":"lines"}"#, "display", "did you mean line?"),
        (
            r#"{"series":[{"event":"a"}],"breakdown":{"property":["a","b","c","d"]}}"#,
            "breakdown.property",
            "query.breakdown_properties_max",
        ),
        (
            r#"{"series":[{"event":"a"}],"breakdown":{"property":"a","type":"events"}}"#,
            "breakdown.type",
            "did you mean event?",
        ),
        (
            r#"{"series":[{"event":"a"}],"breakdown":{"property":"distinct","type":"event_metadata"}}"#,
            "breakdown.property",
            "did you mean distinct_id?",
        ),
        (
            r#"{"series":[{"event":"a"}],"breakdown":{"property":["a","b"],"histogram_bins":3}}"#,
            "breakdown.histogram_bins",
            "one property",
        ),
        (r#"{"series":[{"event":"a"}],"filter":{"persons":[]}}"#, "filter", "query.people_max"),
    ];
    all_refused(&cases);
}

#[test]
fn a_thousand_series_and_a_thousand_filters_are_refused_by_their_setting() {
    let series = vec![r#"{"event":"a"}"#; 1000].join(",");
    assert!(refused(&format!(r#"{{"series":[{series}]}}"#)).1.contains("query.series_max"));
    let filters = vec![r#"{"key":"a","value":1}"#; 1000].join(",");
    let body = format!(r#"{{"series":[{{"event":"a"}}],"filters":[{filters}]}}"#);
    assert!(refused(&body).1.contains("query.filters_max"));
}

fn row(day: &str, value: f64, place: u64, label: &str) -> Row {
    Row { bucket: at(&format!("{day}T00:00:00Z")).as_millis(), value, place, label: label.to_owned() }
}

fn rows(rows: &[Row]) -> SeriesRows {
    SeriesRows { rows: rows.to_vec(), bins: None }
}

/// The lines of a question about 9 to 11 January 2020, with these rows for each series and period.
fn answered(rest: &str, of_series: &[&[Row]]) -> Vec<Line> {
    let body = format!(r#"{{"date_from":"2020-01-09","date_to":"2020-01-11",{rest}}}"#);
    lines(&check(&body).unwrap(), &of_series.iter().map(|each| rows(each)).collect::<Vec<_>>())
}

fn data(line: &Line) -> Vec<f64> {
    line.data.iter().map(|number| number.0).collect()
}

#[test]
fn rows_become_lines_with_every_bucket() {
    let line = &answered(r#""series":[{"event":"a"}]"#, &[&[row("2020-01-10", 4.0, 0, "")]])[0];
    assert_eq!((data(line), line.count), (vec![0.0, 4.0, 0.0], Number(4.0)));
    assert_eq!(*line.labels, ["9-Jan-2020", "10-Jan-2020", "11-Jan-2020"]);
    assert_eq!(*line.days, ["2020-01-09", "2020-01-10", "2020-01-11"]);
    assert_eq!(line.breakdown, None);
}

#[test]
fn events_without_a_value_stand_behind_values_and_before_all_others() {
    let given =
        [row("2020-01-09", 4.0, 1, "x"), row("2020-01-09", 9.0, 2, ""), row("2020-01-09", 7.0, 3, "z")];
    let breakdown = r#""breakdown":{"property":"p","limit":2}"#;
    let lines = answered(&format!(r#""series":[{{"event":"a"}}],{breakdown}"#), &[&given]);
    let shown: Vec<_> = lines.iter().map(|line| (line.label.as_str(), line.count.0)).collect();
    assert_eq!(shown, [("x", 4.0), (WITHOUT, 9.0), (OTHER, 7.0)]);
    // Of a formula, too; where values fill the limit, they are among all others.
    let given =
        [row("2020-01-09", 4.0, 1, "x"), row("2020-01-09", 1.0, 2, "y"), row("2020-01-09", 9.0, 3, "")];
    let shown = |limit: usize| -> Vec<(Option<Value>, f64)> {
        let question = format!(
            r#""series":[{{"event":"a"}}],"formula":"A","breakdown":{{"property":"p","limit":{limit}}}"#
        );
        let lines = answered(&question, &[&given]);
        lines.into_iter().map(|line| (line.breakdown, line.count.0)).collect()
    };
    let value = |text: &str| Some(Value::One(text.to_owned()));
    assert_eq!(shown(3), [(value("x"), 4.0), (value("y"), 1.0), (value(WITHOUT), 9.0)]);
    assert_eq!(shown(2), [(value("x"), 4.0), (value("y"), 1.0), (value(OTHER), 9.0)]);
}

#[test]
fn values_of_several_properties_are_lists() {
    let given = [
        row("2020-01-09", 4.0, 1, r#"["x","true"]"#),
        row("2020-01-09", 2.0, 2, r#"["","y"]"#),
        row("2020-01-09", 7.0, 3, r#"["z","z"]"#),
    ];
    let question = r#""series":[{"event":"a"}],"breakdown":{"property":["p","q"],"limit":2}"#;
    let lines = answered(question, &[&given]);
    let shown: Vec<_> = lines.iter().map(|line| serde_json::to_value(&line.breakdown).unwrap()).collect();
    assert_eq!(
        shown,
        [
            serde_json::json!(["x", "true"]),
            serde_json::json!([WITHOUT, "y"]),
            serde_json::json!([OTHER, OTHER]),
        ]
    );
    assert_eq!(lines[0].label, "x::true");
}

#[test]
fn a_formula_fills_what_a_series_lacks_with_zero_and_ranks_by_its_own_sum() {
    let a = [row("2020-01-09", 1.0, 1, "x"), row("2020-01-10", 2.0, 2, "y")];
    let b = [row("2020-01-10", 5.0, 1, "z"), row("2020-01-10", 3.0, 2, "y")];
    let question =
        r#""series":[{"event":"a"},{"event":"b"}],"formula":"A+2*B","breakdown":{"property":"p","limit":2}"#;
    let lines = answered(question, &[&a, &b]);
    let shown: Vec<_> = lines.iter().map(|line| (line.breakdown.clone(), data(line), line.count.0)).collect();
    let value = |text: &str| Some(Value::One(text.to_owned()));
    assert_eq!(
        shown,
        [
            (value("z"), vec![0.0, 10.0, 0.0], 10.0),
            (value("y"), vec![0.0, 8.0, 0.0], 8.0),
            (value(OTHER), vec![1.0, 0.0, 0.0], 1.0),
        ]
    );
    assert!(lines.iter().all(|line| line.label == "Formula (A+2*B)"));
}

#[test]
fn constants_of_a_formula_stand_in_every_bucket() {
    let lines =
        answered(r#""series":[{"event":"a"}],"formulas":["A+1","1/A"]"#, &[&[row("2020-01-10", 4.0, 0, "")]]);
    assert_eq!(data(&lines[0]), [1.0, 5.0, 1.0]);
    assert_eq!(data(&lines[1]), [0.0, 0.25, 0.0]);
}

#[test]
fn displays_sum_up_or_answer_one_number() {
    let given = [row("2020-01-09", 4.0, 0, ""), row("2020-01-11", 3.0, 0, "")];
    let line = &answered(r#""series":[{"event":"a"}],"display":"cumulative""#, &[&given])[0];
    assert_eq!((data(line), line.count.0), (vec![4.0, 4.0, 7.0], 7.0));
    let line = &answered(r#""series":[{"event":"a"}],"smoothing":2"#, &[&given])[0];
    assert_eq!(data(line), [4.0, 2.0, 1.0]);
    let line = &answered(r#""series":[{"event":"a"}],"display":"bold_number""#, &[&given[..1]])[0];
    assert_eq!((data(line), line.count.0, line.aggregated_value), (vec![], 0.0, Some(Number(4.0))));
    assert!(line.labels.is_empty() && line.days.is_empty());
}

#[test]
fn each_series_stands_beside_its_own_past() {
    let now = [row("2020-01-09", 1.0, 0, "")];
    let before = [row("2020-01-08", 2.0, 0, "")];
    let lines =
        answered(r#""series":[{"event":"a"},{"event":"b"}],"compare":true"#, &[&now, &[], &before, &before]);
    let shown: Vec<_> = lines
        .iter()
        .map(|line| (line.event.as_deref().unwrap(), line.compare_label.unwrap(), data(line)))
        .collect();
    assert_eq!(
        shown,
        [
            ("a", "current", vec![1.0, 0.0, 0.0]),
            ("a", "previous", vec![0.0, 0.0, 2.0]),
            ("b", "current", vec![0.0, 0.0, 0.0]),
            ("b", "previous", vec![0.0, 0.0, 2.0]),
        ]
    );
    assert_eq!(lines[1].days[2], "2020-01-08");
}

#[test]
fn statements_of_the_people_behind_a_number() {
    let statement = |body: &str, value: Option<&str>| {
        let plan = check(&format!(r#"{{"date_from":"2026-03-09",{body}}}"#)).unwrap();
        let (period, series) = (&plan.periods[0], &plan.series[0]);
        let bins =
            plan.breakdown.as_ref().and_then(|split| split.number().map(|_| split.bins(Some((0.0, 10.0)))));
        let wanted = plan.breakdown.as_ref().zip(value).map(|(split, value)| people::Wanted {
            label: split.label(bins.as_deref()),
            value: crate::store::Sql::default().arg(value),
            member: split.member(value),
        });
        let found = sql::people(&scope(), &plan, (period, series), period.range, wanted.as_ref());
        found.sql.text().to_owned()
    };
    let by = |kind: &str| format!(r#""series":[{{"event":"a"}}],"breakdown":{kind}"#);
    let cases = [
        statement(r#""series":[{"event":"it's","math":"dau"}]"#, None),
        statement(r#""series":[{"event":"a","math":"sum","math_property":"price"}]"#, None),
        statement(r#""series":[{"event":null,"math":"weekly_active"}]"#, None),
        statement(&by(r#"{"property":"plan"}"#), Some("pro")),
        statement(&by(r#"{"property":"price","histogram_bins":2}"#), Some("1")),
        statement(&by(r#"{"property":["all"],"type":"cohort"}"#), Some("all")),
        statement(
            r#""series":[{"event":"a","math":"first_time_for_user"}],"breakdown":{"property":"plan"}"#,
            Some("pro"),
        ),
        crate::query::people::names(
            &scope(),
            &Actors::new(&scope(), true),
            check(r#"{"series":[{"event":"a"}]}"#).unwrap().range(),
            &[1, 2],
        )
        .text()
        .to_owned(),
    ];
    insta::assert_snapshot!("people", cases.join("\n"));
}

#[test]
fn numbers_are_written_whole_where_they_are() {
    let text = serde_json::to_string(&[Number(3.0), Number(-0.5), Number(1e300), Number(0.0)]).unwrap();
    assert_eq!(text, "[3,-0.5,1e+300,0]");
}

#[test]
fn hours_carry_their_offset_so_that_a_repeated_one_is_told_apart() {
    let plan = check(
        r#"{"series":[{"event":"a"}],"date_from":"2026-11-01T00:00:00","date_to":"2026-11-01T02:00:00",
            "interval":"hour","timezone":"America/New_York"}"#,
    )
    .unwrap();
    let line = &lines(&plan, &[rows(&[])])[0];
    assert_eq!(*line.labels, ["1-Nov 00:00", "1-Nov 01:00", "1-Nov 01:00", "1-Nov 02:00"]);
    assert_eq!(line.days[1], "2026-11-01T01:00:00-04:00");
    assert_eq!(line.days[2], "2026-11-01T01:00:00-05:00");
}

#[test]
fn all_without_an_event_is_the_running_bucket() {
    let plan = check(r#"{"series":[{"event":"a"}],"date_from":"all"}"#).unwrap();
    assert_eq!(plan.periods[0].buckets.len(), 1);
}

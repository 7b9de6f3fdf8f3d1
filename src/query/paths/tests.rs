//! What a question is refused for, and what the store is asked.

use super::*;
use crate::http::strict;
use crate::query::tests::{at, limits, scope};

fn check(body: &str) -> Result<Plan, Problem> {
    let question: Paths = strict::json(body.as_bytes())?;
    let actors = Actors::new(&scope(), false);
    question.check(&limits(), &actors, at("2026-03-10T12:00:00Z"))
}

#[test]
fn what_cannot_be_meant_is_refused_by_name() {
    for (body, field, part) in [
        (r#"{"includes":[]}"#.to_owned(), "includes", "did you mean include?"),
        (r#"{"include":["$pagevew"]}"#.to_owned(), "include[0]", "did you mean $pageview?"),
        (r#"{"step_limit":21}"#.to_owned(), "step_limit", "1 to 20"),
        (r#"{"edge_limit":0}"#.to_owned(), "edge_limit", "query.paths_edges_max"),
        (r#"{"min_edge_weight":3,"max_edge_weight":2}"#.to_owned(), "min_edge_weight", "no edge"),
        (format!(r#"{{"path_groups":[{}]}}"#, vec![r#""/a""#; 101].join(",")), "path_groups", "100 entries"),
    ] {
        let problem = check(&body).unwrap_err();
        assert_eq!(problem.details["field"], field, "{body}: {}", problem.message);
        assert!(problem.message.contains(part), "{body}: {}", problem.message);
    }
}

#[test]
fn statements_of_paths() {
    let plan = check(
        r#"{"date_from":"-7d","include":["$pageview","custom_event"],"exclude":["/x"],"path_groups":["/p/*"],
            "cleaning":[{"regex":"[0-9]+","alias":"N"}]}"#,
    )
    .unwrap();
    let actors = Actors::new(&scope(), false);
    insta::assert_snapshot!("paths", plan.gather.sql(&scope(), &actors, 0, 1).text());
}

#[test]
fn edges_that_hang_in_the_air_are_not_shown() {
    let plan = Plan { edge_limit: 2, ..check("{}").unwrap() };
    let mut values = Values::new(10);
    let [a, b, c] = ["/a", "/b", "/c"].map(|text| values.number(text.to_owned()).unwrap());
    let edges = Edges::from([((1, a, b), (5, 500)), ((2, c, a), (3, 10)), ((2, b, c), (2, 10))]);
    let found = results(&plan, edges, &values);
    assert_eq!(found.edges, [("1_/a".to_owned(), "2_/b".to_owned(), 5)]);
    assert!((found.links[0].average_conversion_ms - 100.0).abs() < 1e-9);
}

//! What filters are refused for, and how groups join. What they find is tested over a real engine.

use super::*;
use crate::http::strict;
use crate::query::interval::WeekStart;
use crate::query::tests::{at, limits, scope};

fn conditions_of(json: &str) -> Result<Vec<String>, Problem> {
    let filters: Filters = strict::json(json.as_bytes())?;
    let limits = limits();
    let calendar = Calendar { zone: chrono_tz::UTC, week_start: WeekStart::default() };
    let actors = Actors::new(&scope(), false);
    let now = at("2026-03-10T12:00:00Z");
    let ground = Ground { calendar: &calendar, now, limits: &limits, actors: &actors };
    let found = conditions(&filters, "filters", &ground)?;
    Ok(found.iter().map(|condition| condition.text().to_owned()).collect())
}

fn refused(json: &str) -> (String, String) {
    let problem = conditions_of(json).unwrap_err();
    assert_eq!(problem.code.status(), 400, "{json}");
    let field = problem.details.get("field").and_then(Value::as_str).unwrap_or_default();
    (field.to_owned(), problem.message)
}

#[test]
fn what_cannot_be_meant_is_refused_by_name() {
    let cases = [
        (r#"[{"operator":"gt"}]"#, "filters[0].key", "is required"),
        (r#"[{"key":"","value":1}]"#, "filters[0].key", "1 to 400 bytes"),
        (r#"[{"key":"a","operator":"between","value":[1]}]"#, "filters[0].value", "two numbers"),
        (r#"[{"key":"a","operator":"between","value":[2,1]}]"#, "filters[0].value", "the smaller one first"),
        (r#"[{"key":"a","operator":"gt","value":[1,2]}]"#, "filters[0].value", "one number"),
        (r#"[{"key":"a","operator":"is_date_before","value":"soon"}]"#, "filters[0].value", "2026-01-31"),
        (r#"[{"key":"a","operator":"semver_gt","value":"one"}]"#, "filters[0].value", "one version"),
        (r#"[{"key":"a","operator":"semver_wildcard","value":"1.*.2"}]"#, "filters[0].value", "one version"),
        (
            r#"[{"key":"a","operator":"semver_tidle","value":"1"}]"#,
            "[0].operator",
            "did you mean semver_tilde?",
        ),
        (r#"[{"key":"a","type":"persn"}]"#, "[0].type", "did you mean person?"),
        (
            r#"[{"key":"distnct_id","type":"event_metadata","value":1}]"#,
            "filters[0].key",
            "did you mean distinct_id?",
        ),
        (r#"[{"key":"duration","type":"session","value":1}]"#, "filters[0].key", "$session_duration"),
        (r#"[{"key":"a","group_type":"team"}]"#, "filters[0].group_type", "of type group"),
        (r#"[{"type":"group","key":"a","group_type_index":-1}]"#, "[0].group_type_index", ""),
        (r#"[{"type":"element","key":"txt","value":"a"}]"#, "filters[0].key", "did you mean text?"),
        (
            r#"[{"type":"element","key":"selector","value":"a,b"}]"#,
            "filters[0].value",
            "a selector is such as",
        ),
        (r#"[{"type":"event","values":[]}]"#, "filters[0].type", "AND or OR"),
        (r#"[{"type":"AND","key":"a"}]"#, "filters[0].key", "a group has only type and values"),
        (
            r#"{"type":"OR","values":[{"key":"a","operator":"gt","value":"x"}]}"#,
            "filters[0].values[0].value",
            "one number",
        ),
        (r#"{"type":"OR","valeus":[]}"#, "valeus", "did you mean values?"),
        (r#""plan""#, "", "a list of filters or one group of them"),
    ];
    for (json, field, part) in cases {
        let (refused_field, message) = refused(json);
        assert_eq!(refused_field, field, "{json}: {message}");
        assert!(message.contains(part), "{json}: {message}");
    }
}

#[test]
fn a_hundred_levels_are_refused_by_their_setting_and_more_by_the_reader() {
    let nested = |levels: usize| {
        let leaf = r#"{"key":"a","value":1}"#;
        format!("{}{leaf}{}", r#"{"type":"AND","values":["#.repeat(levels), "]}".repeat(levels))
    };
    assert_eq!(conditions_of(&nested(10)).unwrap().len(), 1);
    assert!(refused(&nested(11)).1.contains("query.filter_depth_max"));
    assert!(refused(&nested(50)).1.contains("query.filter_depth_max"));
    assert!(refused(&nested(100)).1.contains("nested deeper than"), "{}", refused(&nested(100)).1);
}

#[test]
fn members_of_groups_count_as_filters() {
    let leaves = vec![r#"{"key":"a","value":1}"#; 100].join(",");
    assert_eq!(conditions_of(&format!("[{leaves}]")).unwrap().len(), 100);
    let message = refused(&format!(r#"{{"type":"OR","values":[{leaves}]}}"#)).1;
    assert!(message.contains("101 filters") && message.contains("query.filters_max"), "{message}");
}

#[test]
fn groups_join_and_what_is_incomplete_is_true() {
    let set = r#"{"key":"a","operator":"is_set"}"#;
    let not = r#"{"key":"b","operator":"is_not_set"}"#;
    let incomplete = r#"{"key":"c","operator":"gt"}"#;
    let a = "(JSONExtractRaw(properties, 'a') NOT IN ('', 'null'))";
    let b = "NOT (JSONExtractRaw(properties, 'b') NOT IN ('', 'null'))";
    let cases = [
        (format!("[{set},{not}]"), vec![a.to_owned(), b.to_owned()]),
        (format!(r#"{{"type":"OR","values":[{set},{not}]}}"#), vec![format!("({a} OR {b})")]),
        (
            format!(r#"[{{"type":"or","values":[{set},{{"type":"AND","values":[{set},{not}]}}]}}]"#),
            vec![format!("({a} OR ({a} AND {b}))")],
        ),
        (format!(r#"{{"type":"AND","values":[{set},{incomplete}]}}"#), vec![format!("({a})")]),
        (format!(r#"{{"type":"OR","values":[{set},{incomplete}]}}"#), vec![]),
        (r#"{"type":"AND","values":[]}"#.to_owned(), vec![]),
        (format!("[{incomplete}]"), vec![]),
        ("null".to_owned(), vec![]),
    ];
    for (json, expected) in cases {
        assert_eq!(conditions_of(&json).unwrap(), expected, "{json}");
    }
}

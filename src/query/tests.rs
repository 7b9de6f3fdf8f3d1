//! The statements of every question, as the store gets them, and that none of them can be without its scope.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::actor::Actors;
use super::events::List;
use super::names::Names;
use super::trends::Trends;
use super::*;
use crate::event::Scope;
use crate::http::strict;

pub(super) fn limits() -> config::Query {
    let reference: toml::Table = toml::from_str(config::REFERENCE).unwrap();
    reference["query"].clone().try_into().unwrap()
}

pub(super) fn scope() -> Scope {
    Scope::new("proj", "env")
}

pub(super) fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn now() -> Timestamp {
    at("2026-03-10T12:00:00Z")
}

fn trends_sql(body: &str) -> String {
    let question: Trends = strict::json(body.as_bytes()).unwrap();
    let actors = Actors::new(&scope(), body.contains("merged"));
    let statements = question.statements(&scope(), &limits(), now(), &actors).unwrap();
    statements.iter().map(Sql::text).collect::<Vec<_>>().join("\n")
}

fn list_sql(query: &str) -> String {
    let statements = List::parse(query).unwrap().statements(&scope(), &limits(), now()).unwrap();
    statements.iter().map(Sql::text).collect::<Vec<_>>().join("\n")
}

#[test]
fn statements_of_trends() {
    insta::assert_snapshot!("trends_days", trends_sql(r#"{"series":[{"event":"click"}]}"#));
    insta::assert_snapshot!(
        "trends_days_of_clock_change",
        trends_sql(
            r#"{"date_from":"2026-03-07","date_to":"2026-03-09","timezone":"America/New_York",
                "series":[{"event":null,"math":"dau"}]}"#
        )
    );
    insta::assert_snapshot!(
        "trends_breakdown",
        trends_sql(
            r#"{"date_from":"-24h","interval":"hour","series":[{"event":"click"},{"event":"view","math":"dau"}],
                "breakdown":{"property":"plan","limit":3,"hide_other":true}}"#
        )
    );
}

/// A question for each way of counting: plain, broken down, and each option that changes a statement.
const SHAPES: [(&str, &str); 18] = [
    ("sum", r#"{"date_from":"-1d","series":[{"event":"a","math":"sum","math_property":"price"}]}"#),
    (
        "median",
        r#"{"date_from":"-1d","series":[{"event":"a","math":"median","math_property":"n"}],"breakdown":{"property":"plan","limit":2}}"#,
    ),
    ("sliding", r#"{"date_from":"-1d","series":[{"event":"a","math":"weekly_active"}]}"#),
    (
        "sliding_broken_down",
        r#"{"date_from":"-1d","series":[{"event":"a","math":"weekly_active"}],"breakdown":{"property":"plan","limit":2}}"#,
    ),
    ("per_actor", r#"{"date_from":"-1d","series":[{"event":"a","math":"p90_count_per_actor"}]}"#),
    (
        "per_actor_broken_down",
        r#"{"date_from":"-1d","series":[{"event":"a","math":"avg_count_per_actor"}],"breakdown":{"property":"plan","limit":2}}"#,
    ),
    ("session", r#"{"date_from":"-1d","series":[{"event":"a","math":"unique_session"}]}"#),
    (
        "first_time",
        r#"{"date_from":"-1d","series":[{"event":"a","math":"first_time_for_user","filters":[{"key":"plan","value":"pro"}]}],"breakdown":{"property":"plan","limit":2}}"#,
    ),
    (
        "first_time_with_filters",
        r#"{"date_from":"-1d","series":[{"event":"a","math":"first_time_for_user_with_filters","filters":[{"key":"plan","value":"pro"}]}]}"#,
    ),
    (
        "histogram",
        r#"{"date_from":"-1d","series":[{"event":"a"},{"event":"b"}],"breakdown":{"property":"price","histogram_bins":2}}"#,
    ),
    (
        "several_properties",
        r#"{"date_from":"-1d","series":[{"event":"a"}],"compare":true,"formula":"A/2","breakdown":{"property":["plan","email"],"type":["event","person"],"limit":2}}"#,
    ),
    (
        "all_time",
        r#"{"date_from":"all","interval":"month","series":[{"event":"a","math":"p90","math_property":"n"}]}"#,
    ),
    (
        "group",
        r#"{"date_from":"-1d","series":[{"event":"a","math":"unique_group","math_group_type":"company"}],"breakdown":{"property":"0","type":"group"}}"#,
    ),
    (
        "expression",
        r#"{"date_from":"-1d","series":[{"event":"a","math":"hogql","math_expression":"sum(properties.price) / count()"}],"filters":[{"type":"expression","key":"properties.price > 1"}]}"#,
    ),
    (
        "expression_broken_down",
        r#"{"date_from":"-1d","series":[{"event":"a","math":"hogql","math_expression":"sum(properties.price)"}],"breakdown":{"property":"plan","limit":2}}"#,
    ),
    (
        "group_property",
        r#"{"date_from":"-1d","series":[{"event":"a"}],"filters":[{"type":"group","group_type":"company","key":"seats","operator":"gt","value":2}],"breakdown":{"property":"plan","type":"group","group_type_index":0}}"#,
    ),
    (
        "session_property",
        r#"{"date_from":"-1d","series":[{"event":"a"}],"breakdown":{"property":"$entry_current_url","type":"session","limit":2}}"#,
    ),
    (
        "merged_people",
        r#"{"date_from":"-1d","name":"merged","display":"bold_number","series":[{"event":"a","math":"dau"}],"filter":{"persons":["ann"]},"filters":[{"key":"email","type":"person","operator":"is_set"},{"key":"$event_count","type":"session","operator":"gt","value":2}]}"#,
    ),
];

#[test]
fn statements_of_every_way_of_counting() {
    for (name, body) in SHAPES {
        insta::assert_snapshot!(format!("trends_{name}"), trends_sql(body));
    }
}

#[test]
fn statements_of_filters() {
    let condition = |filter: &str| {
        let body = format!(r#"{{"date_from":"2026-03-10","series":[{{"event":"a","filters":[{filter}]}}]}}"#);
        let sql = trends_sql(&body);
        let (_, rest) = sql.split_once("event_name = 'a'").unwrap();
        rest.split(" GROUP BY").next().unwrap().to_owned()
    };
    let filters = [
        r#"{"key":"plan","value":"it's"}"#,
        r#"{"key":"price","operator":"exact","value":[10,"free",true]}"#,
        r#"{"key":"plan","operator":"is_not","value":"pro"}"#,
        r#"{"key":"plan","operator":"icontains","value":["a","b"]}"#,
        r#"{"key":"plan","operator":"not_icontains","value":"a"}"#,
        r#"{"key":"other","operator":"regex","value":"^a.*$"}"#,
        r#"{"key":"other","operator":"not_regex","value":"^a.*$"}"#,
        r#"{"key":"price","operator":"gt","value":1.5}"#,
        r#"{"key":"price","operator":"lte","value":"20"}"#,
        r#"{"key":"other","operator":"is_set"}"#,
        r#"{"key":"other","operator":"is_not_set"}"#,
        r#"{"key":"other","operator":"exact"}"#,
        r#"{"key":"price","operator":"between","value":[1,2]}"#,
        r#"{"key":"price","operator":"not_between","value":[1,2]}"#,
        r#"{"key":"plan","operator":"not_in","value":["a","b"]}"#,
        r#"{"key":"other","operator":"is_date_exact","value":"2026-03-01"}"#,
        r#"{"key":"other","operator":"is_date_after","value":"-7d"}"#,
        r#"{"key":"path","operator":"is_cleaned_path_exact","value":"/a/?b"}"#,
        r#"{"key":"other","operator":"semver_caret","value":"1.2.3-rc.1"}"#,
        r#"{"key":"$session_id","operator":"is_set"}"#,
        r#"{"key":"timestamp","type":"event_metadata","operator":"is_date_before","value":"2026-03-10"}"#,
        r#"{"key":"source","type":"event_metadata","value":"web"}"#,
        r#"{"key":"flag","type":"feature","value":true}"#,
        r#"{"key":"company","type":"group","value":"acme"}"#,
        r#"{"key":"text","type":"element","operator":"not_icontains","value":"buy"}"#,
        r#"{"key":"selector","type":"element","value":"form > a.buy span"}"#,
        r#"{"type":"OR","values":[{"key":"plan","value":"a"},{"type":"AND","values":[{"key":"plan","value":"b"},{"key":"other","operator":"is_set"}]}]}"#,
    ];
    let shown: Vec<String> =
        filters.iter().map(|filter| format!("{filter}\n  {}", condition(filter))).collect();
    insta::assert_snapshot!("filters", shown.join("\n"));
}

/// What holds for the members of a cohort of each kind, and of behaviours in every way of comparing.
fn cohorts_sql() -> Vec<(&'static str, String)> {
    let definitions = serde_json::json!({
        "static": {"is_static": true},
        "dynamic": {"is_static": false, "filters": [{"key": "plan", "type": "person", "value": "pro"}]},
        "often": {"is_static": false, "behaviors": [
            {"event": "it's", "count": 3, "period": "-30d", "filters": [{"key": "plan", "value": "pro"}]}]},
        "at most": {"is_static": false, "behaviors": [{"event": "a", "operator": "lte", "count": 2}]},
        "never": {"is_static": false, "behaviors": [{"operator": "exact", "count": 0, "period": "-7d"}]},
        "not once": {"is_static": false, "behaviors": [{"event": "a", "operator": "exact", "negated": true}]},
        "any": {"is_static": false, "matched": "any", "filters": [{"key": "plan", "type": "person", "value": "pro"}],
            "behaviors": [{"event": "a"}, {"event": "b", "count": 0}]},
    });
    let actors = Actors::with_cohorts(&scope(), Arc::new(serde_json::from_value(definitions).unwrap()));
    let (limits, calendar) =
        (limits(), interval::Calendar { zone: chrono_tz::UTC, week_start: WeekStart::default() });
    let ground = filter::Ground { calendar: &calendar, now: now(), limits: &limits, actors: &actors };
    let names = ["static", "dynamic", "often", "at most", "never", "not once", "any"];
    names.map(|name| (name, cohorts::member(name, "value", &ground).unwrap().text().to_owned())).into()
}

#[test]
fn statements_of_cohorts() {
    let shown: Vec<String> = cohorts_sql().iter().map(|(name, sql)| format!("{name}\n  {sql}")).collect();
    insta::assert_snapshot!("cohorts", shown.join("\n"));
}

#[test]
fn statements_of_lists_names_and_traces() {
    insta::assert_snapshot!("events_first_page", list_sql("limit=2"));
    insta::assert_snapshot!(
        "events_filtered",
        list_sql("event=a&event=b&distinct_id=ann&date_from=2026-03-01&date_to=2026-03-02T12:00:00Z&limit=2")
    );
    let names = Names::parse("limit=3").unwrap().statements(&scope(), &limits(), now()).unwrap();
    insta::assert_snapshot!("names", names.iter().map(Sql::text).collect::<Vec<_>>().join("\n"));
    insta::assert_snapshot!("trace", trace::rows_of(&scope(), "id'1").text());
}

/// The sources of this room, tests aside.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("tests.rs")
            {
                found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/query"), &mut found);
    found
}

#[test]
fn the_table_is_named_in_one_place_and_the_store_is_asked_in_one() {
    let naming = |text: &str| {
        let sources = sources();
        let of: BTreeSet<String> =
            sources.into_iter().filter(|(_, source)| source.contains(text)).map(|(path, _)| path).collect();
        of.iter().map(|path| path.rsplit("src/query/").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(sources().len() > 8);
    assert_eq!(naming("FROM events"), ["statement.rs"]);
    assert_eq!(naming("JOIN "), ["actor.rs", "groups/mod.rs", "sql/render.rs"]);
    assert_eq!(naming("FROM person"), ["actor.rs"]);
    assert_eq!(naming("FROM group_"), ["groups/list.rs", "groups/mod.rs"]);
    assert_eq!(naming("store.select"), ["mod.rs"]);
    assert_eq!(naming("store.stream"), ["mod.rs"]);
}

#[test]
fn every_read_of_the_table_stands_beside_its_scope() {
    let mut statements = vec![
        trends_sql(r#"{"date_from":"all","series":[{"event":"a"},{"event":"b","math":"dau"}]}"#),
        trends_sql(r#"{"series":[{"event":"a"}],"breakdown":{"property":"x"}}"#),
        list_sql("event=a&distinct_id=b"),
        trace::rows_of(&scope(), "x").text().to_owned(),
    ];
    statements.extend(SHAPES.map(|(_, body)| trends_sql(body)));
    // What a dynamic cohort holds of persons is a column that the whole statement joins.
    statements.extend(cohorts_sql().into_iter().filter(|(name, _)| *name != "dynamic").map(|(_, sql)| sql));
    for statement in statements.iter().flat_map(|statements| statements.lines()) {
        let tables = ["FROM events", "FROM person_", "FROM group_", "FROM cohort_members"];
        let reads: usize = tables.iter().map(|table| statement.matches(table).count()).sum();
        let scoped = statement.matches("project_id = 'proj' AND environment_id = 'env'").count();
        assert!(reads > 0 && reads == scoped, "{statement}");
    }
}

#[tokio::test]
async fn a_question_without_a_turn_is_told_which_setting_bounds_it() {
    let limits = config::Query { concurrency: 1, queue_timeout: Duration::from_millis(10), ..limits() };
    let turns = Arc::new(Semaphore::new(limits.concurrency));
    let first = turn(&turns, &limits).await.unwrap();
    let problem = turn(&turns, &limits).await.unwrap_err();
    assert_eq!(
        (problem.code.status().as_u16(), problem.details["setting"].as_str()),
        (503, Some("query.concurrency"))
    );
    assert!(problem.retry_after.is_some());
    drop(first);
    assert!(turn(&turns, &limits).await.is_ok());
}

#[test]
fn the_stores_errors_name_the_bound_and_hide_the_rest() {
    let message = || "DB::Exception (1): secret".to_owned();
    let cases = [
        (StoreError::Timeout { setting: "query.timeout", message: message() }, 503, Some("query.timeout")),
        (
            StoreError::Limit { setting: "query.memory_max", message: message() },
            400,
            Some("query.memory_max"),
        ),
        (StoreError::Unavailable(message()), 503, None),
        (StoreError::Query(message()), 500, None),
        (StoreError::Query("CANNOT_COMPILE_REGEXP (427): cannot compile re2".to_owned()), 400, None),
    ];
    for (error, status, setting) in cases {
        let problem = problem(error);
        assert_eq!(problem.code.status().as_u16(), status);
        assert_eq!(problem.details.get("setting").and_then(|value| value.as_str()), setting);
        assert_eq!(status == 503, problem.retry_after.is_some());
        assert!(!problem.body("x").to_string().contains("secret"));
    }
}

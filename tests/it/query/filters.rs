//! What filters find, over a real engine: versions, dates, paths, sessions, elements.

use serde_json::{Value, json};

use super::{Given, Sandbox, given};

/// The names of the events that pass, sorted; trends and the list must agree.
async fn passing(sandbox: &Sandbox, filters: &Value, zone: &str) -> String {
    let question = json!({
        "date_from": "2026-04-01", "now": super::NOW, "timezone": zone,
        "series": [{"event": null, "filters": filters}],
        "breakdown": {"property": "event", "type": "event_metadata", "limit": 100},
    });
    let lines = sandbox.trends("env_a", &question).await;
    let mut names: Vec<&str> = lines.iter().map(|line| line["breakdown"].as_str().unwrap()).collect();
    names.sort_unstable();
    if zone == "UTC" {
        let encoded: String = form_urlencoded::byte_serialize(filters.to_string().as_bytes()).collect();
        let (status, page) = sandbox.get("env_a", &format!("/api/query/events?properties={encoded}")).await;
        assert_eq!(status, 200, "{filters}: {page}");
        let listed = page["events"].as_array().unwrap().iter();
        let mut listed: Vec<&str> = listed.map(|event| event["event"].as_str().unwrap()).collect();
        listed.sort_unstable();
        listed.dedup();
        assert_eq!(listed, names, "{filters}");
    }
    names.join(" ")
}

async fn check(sandbox: &Sandbox, cases: &[(Value, &str)]) {
    for (filters, expected) in cases {
        assert_eq!(passing(sandbox, filters, "UTC").await, *expected, "{filters}");
    }
}

fn named(values: &[(&str, &str)]) -> Vec<Given> {
    values
        .iter()
        .map(|(name, properties)| given(*name, name, "ann", "2026-04-14T10:00:00Z", properties))
        .collect()
}

#[actix_web::test]
async fn versions_are_ordered_as_versions_are() {
    let sandbox = Sandbox::start().await;
    let events = [
        ("a", r#"{"v":"0.9.10"}"#),
        ("b", r#"{"v":"1.2.3-alpha.2"}"#),
        ("c", r#"{"v":"1.2.3-alpha.10"}"#),
        ("d", r#"{"v":"v1.2.3"}"#),
        ("e", r#"{"v":"1.2.4+build.5"}"#),
        ("f", r#"{"v":"1.3"}"#),
        ("g", r#"{"v":"2.0.0-rc.1"}"#),
        ("h", r#"{"v":10}"#),
        ("i", r#"{"v":"latest"}"#),
        ("j", "{}"),
    ];
    sandbox.insert("env_a", &named(&events)).await;
    let filter = |operator: &str, value: &str| json!([{"key": "v", "operator": operator, "value": value}]);
    check(
        &sandbox,
        &[
            (filter("semver_eq", "1.2.3"), "d"),
            (filter("semver_eq", "1.3.0"), "f"),
            (filter("semver_neq", "1.2.3"), "a b c e f g h i j"),
            (filter("semver_gt", "1.2.3"), "e f g h"),
            (filter("semver_gte", "1.2.3"), "d e f g h"),
            (filter("semver_lt", "1.2.3-alpha.10"), "a b"),
            (filter("semver_lte", "1.2.3-alpha.10"), "a b c"),
            (filter("semver_tilde", "1.2.3"), "d e"),
            (filter("semver_caret", "1.2.3"), "d e f"),
            (filter("semver_caret", "0.9.1"), "a"),
            (filter("semver_wildcard", "1.2.*"), "b c d e"),
            (filter("semver_wildcard", "1.*"), "b c d e f"),
            (filter("semver_wildcard", "*"), "a b c d e f g h"),
        ],
    )
    .await;
    sandbox.end().await;
}

#[actix_web::test]
async fn dates_are_those_of_the_questions_zone() {
    let sandbox = Sandbox::start().await;
    let events = [
        ("day", r#"{"at":"2026-04-10"}"#),
        ("late", r#"{"at":"2026-04-10T23:30:00Z"}"#),
        ("seconds", r#"{"at":1775952000}"#),
        ("none", r#"{"at":"never"}"#),
        ("missing", "{}"),
    ];
    sandbox.insert("env_a", &named(&events)).await;
    let filter = |operator: &str, value: &str| json!([{"key": "at", "operator": operator, "value": value}]);
    check(
        &sandbox,
        &[
            (filter("is_date_exact", "2026-04-10"), "day late"),
            (filter("is_date_before", "2026-04-11"), "day late"),
            (filter("is_date_before", "2026-04-10T12:00:00Z"), "day"),
            (filter("is_date_after", "2026-04-10"), "seconds"),
            (filter("is_date_after", "2026-04-09"), "day late seconds"),
            // Now is noon of 15 April: five days before is noon of the tenth.
            (filter("is_date_after", "-5d"), "late seconds"),
            (filter("is_date_exact", "-5d"), "day late"),
            (filter("is_date_before", "-1mStart"), ""),
        ],
    )
    .await;
    // In Kathmandu 23:30 is the next morning already.
    let exact = filter("is_date_exact", "2026-04-10");
    assert_eq!(passing(&sandbox, &exact, "Asia/Kathmandu").await, "day");
    sandbox.end().await;
}

#[actix_web::test]
async fn numbers_paths_and_the_event_itself_are_compared() {
    let sandbox = Sandbox::start().await;
    let events = [
        ("a", r#"{"n":5,"path":"/shop/?x=1#top"}"#),
        ("b", r#"{"n":"7.5","path":"/shop"}"#),
        ("c", r#"{"n":10,"path":"/"}"#),
        ("d", r#"{"n":"many","path":"/shop/cart"}"#),
        ("e", r#"{"$feature/new-cart":"control"}"#),
    ];
    sandbox.insert("env_a", &named(&events)).await;
    check(
        &sandbox,
        &[
            (json!([{"key": "n", "operator": "between", "value": [5, 7.5]}]), "a b"),
            (json!([{"key": "n", "operator": "not_between", "value": ["5", 7.5]}]), "c"),
            (json!([{"key": "n", "operator": "in", "value": [5, 10]}]), "a c"),
            (json!([{"key": "n", "operator": "not_in", "value": [5, 10]}]), "b d e"),
            (json!([{"key": "path", "operator": "is_cleaned_path_exact", "value": "/shop/"}]), "a b"),
            (json!([{"key": "path", "operator": "is_cleaned_path_exact", "value": ["/", "/no"]}]), "c"),
            (json!([{"key": "new-cart", "type": "feature", "value": "control"}]), "e"),
            (json!([{"key": "event", "type": "event_metadata", "value": ["a", "c"]}]), "a c"),
            (json!([{"key": "event_id", "type": "event_metadata", "operator": "regex", "value": "^[de]$"}]), "d e"),
            (json!([{"key": "distinct_id", "type": "event_metadata", "operator": "is_not", "value": "ann"}]), ""),
            (
                json!([{"key": "timestamp", "type": "event_metadata", "operator": "is_date_exact", "value": "2026-04-14"}]),
                "a b c d e",
            ),
            (
                json!({"type": "OR", "values": [
                    {"key": "n", "operator": "gt", "value": 9},
                    {"type": "AND", "values": [{"key": "n", "value": 5}, {"key": "path", "operator": "is_set"}]},
                ]}),
                "a c",
            ),
        ],
    )
    .await;
    // Ten thousand times anything: RE2 refuses it by name instead of running away.
    for pattern in ["(", "((a{1000}){1000}){1000}"] {
        let question = json!({"series": [{"event": null}], "filters": [{"key": "n", "operator": "regex", "value": pattern}]});
        let (status, problem) = sandbox.post("env_a", "/api/query/trends", &question).await;
        assert_eq!((status, problem["code"].as_str()), (400, Some("validation_error")), "{problem}");
    }
    sandbox.end().await;
}

#[actix_web::test]
async fn sessions_are_what_their_events_are_together() {
    let sandbox = Sandbox::start().await;
    let at = |id: &str, event: &str, at: &str, properties: Value| {
        given(id, event, "ann", &format!("2026-04-14T{at}Z"), &properties.to_string())
    };
    let page = |session: &str, url: &str| json!({"$session_id": session, "$current_url": url});
    sandbox
        .insert(
            "env_a",
            &[
                at("1", "$pageview", "10:00:00", page("long", "/in")),
                at("2", "bought", "10:05:00", json!({"$session_id": "long", "utm_source": "ad"})),
                at("3", "$pageview", "10:10:00", page("long", "/out")),
                at("4", "looked", "11:00:00", page("short", "/in")),
                at("5", "alone", "12:00:00", json!({})),
                at("6", "landed", "13:00:00", page("landing", "https://b.example/shop?x=1")),
            ],
        )
        .await;
    let filter = |key: &str, operator: &str, value: Value| json!([{"key": key, "type": "session", "operator": operator, "value": value}]);
    let long = "$pageview bought";
    check(
        &sandbox,
        &[
            (filter("$session_duration", "gte", json!(600)), long),
            (filter("$session_duration", "lt", json!(600)), "landed looked"),
            (filter("$event_count", "exact", json!(3)), long),
            (filter("$pageview_count", "exact", json!(2)), long),
            (filter("$is_bounce", "exact", json!(true)), "landed looked"),
            (filter("$entry_current_url", "exact", json!("/in")), "$pageview bought looked"),
            (filter("$exit_current_url", "exact", json!("/out")), long),
            (filter("$exit_current_url", "is_not", json!("/out")), "alone landed looked"),
            (filter("$event_count", "is_not_set", Value::Null), "alone"),
            (filter("$entry_utm_source", "exact", json!("ad")), long),
            (filter("$entry_utm_source", "is_not_set", Value::Null), "alone landed looked"),
            (filter("$end_pathname", "exact", json!("/shop")), "landed"),
            (filter("$entry_hostname", "exact", json!("b.example")), "landed"),
            (filter("$start_timestamp", "is_date_exact", json!("2026-04-14T11:00:00Z")), "looked"),
            (filter("$end_timestamp", "is_date_after", json!("2026-04-14T10:30:00Z")), "landed looked"),
        ],
    )
    .await;
    sandbox.end().await;
}

/// Events by what was clicked: as a text, and as pages send it that are not told to send a text.
fn clicks() -> [(&'static str, String); 4] {
    let chain = |chain: &str| json!({"$elements_chain": chain}).to_string();
    let list = json!({"$elements": [
        {"tag_name": "a", "$el_text": "Say \"hi\"", "classes": ["big", "red"], "attr__href": "/hi", "nth_child": 2},
        {"tag_name": "nav", "attr__id": "top", "attr__class": "wide bar"},
    ]});
    [
        (
            "button",
            chain(
                r#"button.big.red:attr__type="submit"nth-child="1"nth-of-type="1"text="Buy; now";div.card:attr_id="cart"attr__data-x="1"nth-child="2";form:nth-child="1";body:"#,
            ),
        ),
        (
            "link",
            chain(
                r#"span:nth-child="1"text="More";a.small:attr__href="/more?x=1"href="/more?x=1"nth-child="3";div:attr_id="cart";body:"#,
            ),
        ),
        ("list", list.to_string()),
        ("none", "{}".to_owned()),
    ]
}

#[actix_web::test]
async fn elements_are_found_by_what_they_are_and_what_is_around_them() {
    let sandbox = Sandbox::start().await;
    let events = clicks();
    let events: Vec<(&str, &str)> = events.iter().map(|(name, text)| (*name, text.as_str())).collect();
    sandbox.insert("env_a", &named(&events)).await;
    let filter = |key: &str, operator: &str, value: Value| json!([{"key": key, "type": "element", "operator": operator, "value": value}]);
    let selector = |value: &str| filter("selector", "exact", json!(value));
    check(
        &sandbox,
        &[
            (filter("tag_name", "exact", json!("a")), "link list"),
            (filter("tag_name", "exact", json!(["form", "nav"])), "button list"),
            (filter("tag_name", "is_not", json!("a")), "button none"),
            (filter("tag_name", "is_set", Value::Null), "button link list"),
            (filter("tag_name", "is_not_set", Value::Null), "none"),
            (filter("text", "exact", json!("Buy; now")), "button"),
            (filter("text", "exact", json!("Say \"hi\"")), "list"),
            (filter("text", "icontains", json!("MOR")), "link"),
            (filter("text", "not_icontains", json!("mor")), "button list none"),
            (filter("text", "regex", json!("^(Buy|More)")), "button link"),
            (filter("text", "not_regex", json!("^(Buy|More)")), "list none"),
            (filter("href", "exact", json!("/hi")), "list"),
            (filter("href", "is_cleaned_path_exact", json!("/more")), "link"),
            (filter("href", "is_set", Value::Null), "link list"),
            (selector("a"), "link list"),
            (selector("a.big"), "list"),
            (selector(".red.big"), "button list"),
            (selector("#cart"), "button link"),
            (selector("#cart > button"), "button"),
            (selector("#cart > span"), ""),
            (selector("#cart span"), "link"),
            (selector("body div > a > span"), "link"),
            (selector("form button"), "button"),
            (selector("form > button"), ""),
            (selector("button form"), ""),
            (selector(r#"[data-x="1"] > *"#), "button"),
            (selector("[href] span"), "link"),
            (selector("nav.bar#top > a:nth-child(2)"), "list"),
            (filter("selector", "is_not", json!("a")), "button none"),
            (filter("selector", "in", json!(["nav", "form"])), "button list"),
            (filter("selector", "is_set", Value::Null), "button link list"),
        ],
    )
    .await;
    for (filters, field) in [
        (selector("button, a"), "filters[0].value"),
        (filter("selector", "regex", json!("a")), "filters[0].operator"),
        (filter("tag", "exact", json!("a")), "filters[0].key"),
    ] {
        let question = json!({"series": [{"event": null}], "filters": filters});
        let (status, problem) = sandbox.post("env_a", "/api/query/trends", &question).await;
        assert_eq!((status, &problem["details"]["field"]), (400, &json!(field)), "{problem}");
    }
    sandbox.end().await;
}

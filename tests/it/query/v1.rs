//! The list of events on `/v1/events`: pages by key in every order and direction, by offset, filters, and bad input.

use flexflow::event::Timestamp;
use serde_json::{Value, json};

use super::{Given, NOW, Sandbox, given, rest};

/// 240 events over nine days, several a millisecond, with ids that look like keys.
fn events() -> Vec<Given> {
    (0..240_i64)
        .map(|index| {
            let at = Timestamp::parse(NOW).unwrap().as_millis() - (index / 3) * 2_700_000 - 1000;
            let id = match index % 4 {
                0 => format!("{index}::x"),
                1 => format!("::{index}:"),
                2 => format!("id/{index}"),
                _ => format!("id-{index}"),
            };
            let name = ["b", "a::b", "c"][usize::try_from(index % 3).unwrap()];
            let properties = format!(r#"{{"n":{},"region":"r{}"}}"#, index % 5, index % 2);
            let at = Timestamp::from_millis(at).to_string();
            given(id, name, &format!("p{}", index % 7), &at, &properties)
        })
        .collect()
}

fn ids(page: &Value) -> Vec<String> {
    let events = page["events"].as_array().unwrap_or_else(|| panic!("{page}"));
    events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}

const RANGE: (&str, &str) = ("2026-04-01T00:00:00Z", NOW);

async fn page(sandbox: &Sandbox, body: Value) -> Value {
    let mut body = body;
    body["start_time"] = RANGE.0.into();
    body["end_time"] = RANGE.1.into();
    let (status, page) = sandbox.post("env_a", "/v1/events/query", &body).await;
    assert_eq!(status, 200, "{body}: {page}");
    page
}

#[actix_web::test]
async fn pages_by_key_are_exact_in_every_order_and_direction() {
    let sandbox = Sandbox::start().await;
    let mut events = events();
    // A crowd within one millisecond: a page of seven ends amid it.
    events.extend((0..40).map(|n| given(format!("crowd-{n}"), "b", "p1", "2026-04-12T08:00:00.123Z", "{}")));
    for part in events.chunks(90) {
        sandbox.insert("env_a", part).await;
    }
    sandbox.insert("env_b", &events[..50]).await;
    walk(&sandbox, &events).await;
    // Found in another way once the days are at rest.
    rest(&sandbox).await;
    walk(&sandbox, &events).await;
    sandbox.end().await;
}

/// Goes through the whole list, there and back, in every order.
async fn walk(sandbox: &Sandbox, events: &[Given]) {
    for (sort, order, size) in [
        ("timestamp", "desc", 7),
        ("timestamp", "asc", 31),
        ("event_name", "asc", 50),
        ("event_name", "desc", 37),
    ] {
        let mut wanted = events.to_vec();
        wanted.sort_by(|a, b| match sort {
            "timestamp" => (a.at, &a.id).cmp(&(b.at, &b.id)),
            _ => (&a.event, a.at, &a.id).cmp(&(&b.event, b.at, &b.id)),
        });
        if order == "desc" {
            wanted.reverse();
        }
        let wanted: Vec<String> = wanted.into_iter().map(|event| event.id).collect();
        let asked = json!({"sort": sort, "order": order, "page_size": size});
        let (mut found, mut body, mut last) = (Vec::new(), asked.clone(), Value::Null);
        loop {
            let next = page(sandbox, body.clone()).await;
            found.extend(ids(&next));
            assert_eq!(next["has_more"], next["iter_last_key"] != "", "{next}");
            last = if ids(&next).is_empty() { last } else { next.clone() };
            if next["has_more"] == false {
                break;
            }
            body["iter_last_key"] = next["iter_last_key"].clone();
        }
        assert_eq!(found, wanted, "{asked} forwards");
        // And back from the last page to the first, each page in the list's own order.
        let mut back = ids(&last);
        loop {
            let mut body = asked.clone();
            body["iter_first_key"] = last["iter_first_key"].clone();
            let before = page(sandbox, body).await;
            assert!(ids(&before).len() <= size);
            back.splice(0..0, ids(&before));
            if before["has_more"] == false {
                break;
            }
            last = before;
        }
        assert_eq!(back, wanted, "{asked} backwards");
    }
}

#[actix_web::test]
async fn a_reader_sees_each_old_event_once_while_10_000_arrive() {
    let sandbox = Sandbox::start().await;
    let events = events();
    sandbox.insert("env_a", &events).await;
    let mut old: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
    old.sort();
    for order in ["desc", "asc"] {
        let (mut found, mut body) = (Vec::new(), json!({"order": order, "page_size": 25}));
        for round in 0.. {
            let next = page(&sandbox, body.clone()).await;
            found.extend(ids(&next).into_iter().filter(|id| !id.starts_with("new")));
            // New events between the old ones, and the old ones once more.
            let mut new: Vec<Given> = (0..500_i64)
                .map(|index| {
                    let at = Timestamp::parse(NOW).unwrap().as_millis() - index * 1_400_000 - round;
                    let id = format!("new-{order}-{round}-{index}");
                    given(id, "b", "p1", &Timestamp::from_millis(at).to_string(), "{}")
                })
                .collect();
            new.extend(events.iter().take(30).cloned());
            if round < 20 {
                sandbox.insert("env_a", &new).await;
            }
            if next["has_more"] == false {
                break;
            }
            body["iter_last_key"] = next["iter_last_key"].clone();
        }
        found.sort();
        assert_eq!(found, old, "{order}");
    }
    sandbox.end().await;
}

#[actix_web::test]
async fn filters_offsets_totals_and_every_field_of_the_answer() {
    let sandbox = Sandbox::start().await;
    let events = events();
    sandbox.insert("env_a", &events).await;
    let filter = json!({"n": ["1", "3"], "region": ["r1"]});
    let whole =
        page(&sandbox, json!({"property_filters": filter, "page_size": 500, "count_total": true})).await;
    let matching = events
        .iter()
        .filter(|e| e.properties.contains(r#""region":"r1""#))
        .filter(|e| e.properties.contains(r#""n":1"#) || e.properties.contains(r#""n":3"#));
    let matching = matching.count();
    assert_eq!((ids(&whole).len(), &whole["total_count"]), (matching, &json!(matching)));
    let (mut found, mut offset) = (Vec::new(), json!(0));
    loop {
        let next =
            page(&sandbox, json!({"property_filters": filter, "page_size": 11, "offset": offset})).await;
        found.extend(ids(&next));
        offset = next["offset"].clone();
        if next["has_more"] == false {
            break;
        }
    }
    assert_eq!(found, ids(&whole));
    let one =
        page(&sandbox, json!({"event_id": "0::x", "external_customer_id": "p0", "event_type": "b"})).await;
    assert_eq!(ids(&one), ["0::x"]);
    let event = one["events"][0].as_object().unwrap();
    let fields = [
        "id",
        "external_customer_id",
        "customer_id",
        "event_name",
        "timestamp",
        "properties",
        "source",
        "environment_id",
        "ingested_at",
    ];
    assert!(
        fields.iter().all(|field| event.contains_key(*field)) && event.len() == fields.len(),
        "{event:?}"
    );
    let none = page(&sandbox, json!({"external_customer_id": "nobody"})).await;
    let empty = json!({"events": [], "has_more": false, "iter_first_key": "", "iter_last_key": "",
        "total_count": null, "offset": 0});
    assert_eq!(none, empty);
    // The query string spells filters its own way, and takes a wish beyond its bounds for the nearest bound.
    let get =
        |parameters: &str| format!("/v1/events?start_time={}&end_time={}&{parameters}", RANGE.0, RANGE.1);
    let path = get("property_filters=n:1,3;region:r1&page_size=1000&customer=");
    let (status, refused) = sandbox.get("env_a", &path).await;
    assert_eq!((status, &refused["details"]["field"]), (400, &json!("customer")));
    let (status, got) = sandbox.get("env_a", &get("property_filters=n:1,3;region:r1&page_size=1000")).await;
    assert_eq!((status, ids(&got)), (200, ids(&whole)[..50.min(matching)].to_vec()));
    let (_, got) = sandbox.get("env_a", &get("page_size=0&source=")).await;
    assert_eq!(ids(&got).len(), 1);
    // Seven days when nothing is said.
    let (_, recent) = sandbox.post("env_a", "/api/v1/events/list", &json!({"limit": 500})).await;
    let since = Timestamp::parse("2026-04-08T12:00:00Z").unwrap();
    assert_eq!(ids(&recent).len(), events.iter().filter(|event| event.at >= since).count());
    sandbox.end().await;
}

#[actix_web::test]
async fn whatever_is_wrong_is_named() {
    let sandbox = Sandbox::start().await;
    let cases = [
        (json!({"page_size": 501}), "page_size"),
        (json!({"page_size": 0}), "page_size"),
        (json!({"page_size": -1}), "page_size"),
        (json!({"page_size": "many"}), "page_size"),
        (json!({"offset": -1}), "offset"),
        (json!({"offset": 10001}), "offset"),
        (json!({"sort": "name"}), "sort"),
        (json!({"order": "down"}), "order"),
        (json!({"start_time": "yesterday"}), "start_time"),
        (json!({"start_time": 5}), "start_time"),
        (json!({"end_time": "2026-13-01T00:00:00Z"}), "end_time"),
        (json!({"start_time": "2026-02-01T00:00:00Z", "end_time": "2026-01-01T00:00:00Z"}), "end_time"),
        (json!({"iter_last_key": "garbage"}), "iter_last_key"),
        (json!({"iter_first_key": "1::a", "iter_last_key": "1::a"}), "iter_first_key"),
        (json!({"iter_last_key": "1::a", "sort": "event_name"}), "iter_last_key"),
        (json!({"property_filters": {"n": []}}), "property_filters.n"),
        (json!({"property_filters": {"": ["x"]}}), "property_filters."),
        (json!({"property_filters": ["n"]}), "property_filters"),
        (json!({"count_total": "yes"}), "count_total"),
        (json!({"evnt_name": "x"}), "evnt_name"),
    ];
    for (body, field) in cases {
        let (status, answer) = sandbox.post("env_a", "/v1/events/query", &body).await;
        assert_eq!((status, &answer["details"]["field"]), (400, &json!(field)), "{body}: {answer}");
    }
    for (query, field) in [
        ("sort=x", "sort"),
        ("order=1", "order"),
        ("page_size=x", "page_size"),
        ("offset=x", "offset"),
        ("property_filters=x", "property_filters"),
        ("count_total=1", "count_total"),
        ("sort=timestamp&sort=timestamp", "sort"),
        ("start_time=1", "start_time"),
    ] {
        let (status, answer) = sandbox.get("env_a", &format!("/v1/events?{query}")).await;
        assert_eq!((status, &answer["details"]["field"]), (400, &json!(field)), "{query}: {answer}");
    }
    let (status, answer) =
        sandbox.post("env_a", "/v1/events/list", &json!({"environment_id": "env_b"})).await;
    assert_eq!((status, &answer["details"]["valid"][0]["id"]), (403, &json!("env_a")));
    sandbox.end().await;
}

//! Attribution in the whole application: clicks and orders in any order, merged people, corrections, changed rules.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::sandbox::Client;
use crate::support::{Log, Sandbox, eventually, on_every_log};

on_every_log! {
    an_order_is_credited_to_its_click_within_seconds_whichever_comes_first
}

async fn rule(client: &Client, body: &Value) -> String {
    let (status, made) = client.operator_post("/api/attribution/rules", body).await;
    assert_eq!(status, 201, "{made}");
    made["id"].as_str().unwrap().to_owned()
}

fn by_item() -> Value {
    json!({"name": "click to order", "sources": ["ad clicked"], "target": "order placed", "look_back": "7d",
           "model": "last_touch", "join": {"by": "property", "source": "item_id", "target": "item_id"},
           "dimension": "ad_id", "value": "amount"})
}

async fn ask(client: &Client, rule_id: &str, by: &str) -> Value {
    let question = json!({"rule_id": rule_id, "by": by, "date_from": "2026-01-01", "date_to": "2030-01-01"});
    let (status, answer) = client.post("/api/query/attribution", &question).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn attributed(client: &Client, rule_id: &str, count: u64) {
    eventually(&format!("{count} conversions are attributed"), || async {
        let totals = ask(client, rule_id, "source").await["totals"].clone();
        if totals["attributed"] == count { Ok(()) } else { Err(totals.to_string()) }
    })
    .await;
}

fn click(person: &str, item: &Value, ad: &str, at: &str) -> Value {
    json!({"event": "ad clicked", "distinct_id": person, "event_id": format!("click-{ad}-{at}"), "timestamp": at,
           "properties": {"item_id": item, "ad_id": ad}})
}

fn order(person: &str, item: &Value, amount: f64, at: &str) -> Value {
    json!({"event": "order placed", "distinct_id": person, "event_id": format!("order-{person}-{item}-{at}"),
           "timestamp": at, "properties": {"item_id": item, "amount": amount}})
}

pub(crate) async fn an_order_is_credited_to_its_click_within_seconds_whichever_comes_first(log: Log) {
    let app = Sandbox::on_with(log, &[("attribution.follow_interval", "200ms")]).await;
    let client = &app.client;
    let rule_id = rule(client, &by_item()).await;

    // The later event of each pair, and how long it took until the pair was to be read.
    let mut took = Vec::new();
    for pair in 0..10_u64 {
        let item = json!(pair);
        let mut events = [
            click("someone", &item, &format!("food_{pair}"), "2026-02-01T10:00:00Z"),
            order(&format!("buyer-{pair}"), &item, 10.0, "2026-02-01T11:00:00Z"),
        ];
        if pair % 2 == 1 {
            events.reverse();
        }
        client.accept(&events[0]).await;
        let began = Instant::now();
        client.accept(&events[1]).await;
        attributed(client, &rule_id, pair + 1).await;
        took.push(began.elapsed());
    }
    took.sort();
    // A fraction of this on a machine that does nothing else.
    assert!(took[5] < Duration::from_secs(10), "{took:?}");

    // Sent again, and a later click of one item that comes late: it replaces the earlier result.
    client.accept(&click("someone", &json!(0), "food_0", "2026-02-01T10:00:00Z")).await;
    client.accept(&order("buyer-0", &json!(0), 10.0, "2026-02-01T11:00:00Z")).await;
    client.accept(&click("other", &json!(0), "late", "2026-02-01T10:30:00Z")).await;
    eventually("the late click is credited", || async {
        let answer = ask(client, &rule_id, "dimension").await;
        let named = |name: &str| answer["results"].as_array().unwrap().iter().any(|row| row["name"] == name);
        if named("late") && !named("food_0") { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    let answer = ask(client, &rule_id, "day").await;
    assert_eq!(
        answer["totals"],
        json!({"conversions": 10, "attributed": 10, "value": 100.0, "attributed_value": 100.0})
    );
    assert_eq!(
        answer["results"][0],
        json!({"name": "2026-02-01", "conversions": 10, "credit": 10.0, "value": 100.0})
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn merged_people_corrected_events_and_changed_rules_change_what_is_credited() {
    // The events are of one winter: whatever reaches back from today must reach them.
    let app = Sandbox::with(&[
        ("attribution.follow_interval", "100ms"),
        ("attribution.backfill", "3650d"),
        ("attribution.merge_horizon", "3650d"),
    ])
    .await;
    let client = &app.client;
    let body = json!({"name": "by person", "sources": ["ad clicked", "mail opened"], "target": "order placed",
                      "look_back": "2d", "model": "linear", "join": {"by": "distinct_id"}, "value": "amount"});
    // Events from before the rule: its job finds them.
    client.accept(&json!([
        click("anonymous-1", &json!(1), "a", "2026-02-01T10:00:00Z"),
        {"event": "mail opened", "distinct_id": "user-1", "event_id": "mail", "timestamp": "2026-02-01T10:30:00Z"},
        order("user-1", &json!(1), 8.0, "2026-02-01T11:00:00Z"),
        order("user-1", &json!(1), 1.0, "2026-02-09T11:00:00Z"),
    ]))
    .await;
    client.settled(4).await;
    let rule_id = rule(client, &body).await;
    let both = json!({"conversions": 2, "attributed": 1, "value": 9.0, "attributed_value": 8.0});
    eventually("the job has found both orders", || async {
        let totals = ask(client, &rule_id, "source").await["totals"].clone();
        if totals == both { Ok(()) } else { Err(totals.to_string()) }
    })
    .await;

    // The anonymous one turns out to be the same person.
    let (status, merged) =
        client.post("/api/persons/merge", &json!({"distinct_ids": ["user-1", "anonymous-1"]})).await;
    assert_eq!(status, 200, "{merged}");
    eventually("both sources share the order", || async {
        let answer = ask(client, &rule_id, "source").await;
        let credit = |place: usize| answer["results"][place]["credit"].as_f64().unwrap_or_default();
        if credit(0) == 0.5 && credit(1) == 0.5 { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;

    // Another model, for the past too.
    let path = format!("/api/attribution/rules/{rule_id}");
    let request = client.http.patch(format!("{}{path}", client.url)).bearer_auth(&client.operator_token);
    let changed = request.json(&json!({"model": "first_touch"})).send().await.unwrap();
    assert_eq!(changed.status(), 200);
    assert_eq!(changed.json::<Value>().await.unwrap()["version"], 2);
    eventually("the first has it all", || async {
        let answer = ask(client, &rule_id, "source").await;
        let first = &answer["results"][0];
        if first["name"] == "ad clicked" && first["credit"] == 1.0 { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    let (status, versions) = client.get(&format!("{path}/versions")).await;
    assert_eq!((status, versions["versions"].as_array().unwrap().len()), (200, 2));

    // The click is voided: the mail is the first now. Then that is, and nothing is credited.
    for (voided, left) in [("click-a-2026-02-01T10:00:00Z", ("mail opened", 2)), ("mail", ("", 2))] {
        let (status, answer) =
            client.operator_post("/v1/events/void", &json!({"event_id": voided, "reason": "test"})).await;
        assert_eq!(status, 200, "{answer}");
        eventually("what was voided is credited no more", || async {
            let answer = ask(client, &rule_id, "source").await;
            let name = answer["results"][0]["name"].as_str().unwrap_or("");
            if (name, &answer["totals"]["conversions"]) == (left.0, &json!(left.1)) {
                Ok(())
            } else {
                Err(answer.to_string())
            }
        })
        .await;
    }
    pages_and_csv(client, &rule_id).await;
    bad_rules_are_refused(client).await;
    app.stop().await;
}

async fn pages_and_csv(client: &Client, rule_id: &str) {
    let (status, page) = client.get(&format!("/api/attribution/rules/{rule_id}/conversions?limit=1")).await;
    assert_eq!((status, &page["conversions"][0]["value"]), (200, &json!(1.0)), "{page}");
    let cursor = page["next_cursor"].as_str().unwrap();
    let (_, page) =
        client.get(&format!("/api/attribution/rules/{rule_id}/conversions?limit=1&cursor={cursor}")).await;
    assert_eq!(
        (&page["conversions"][0]["value"], &page["next_cursor"]),
        (&json!(8.0), &Value::Null),
        "{page}"
    );

    let question =
        json!({"rule_id": rule_id, "by": "day", "date_from": "2026-01-01", "date_to": "2030-01-01"});
    let csv = client
        .http
        .post(format!("{}/api/query/attribution?format=csv", client.url))
        .header("X-API-Key", &client.key)
        .json(&question)
        .send()
        .await
        .unwrap();
    assert_eq!(csv.status(), 200);
    assert!(csv.text().await.unwrap().contains("2026-02-09"));
}

async fn bad_rules_are_refused(client: &Client) {
    for (field, value) in
        [("look_back", json!("soon")), ("model", json!("best")), ("sources", json!([])), ("join", json!({}))]
    {
        let mut body = by_item();
        body[field] = value;
        let (status, answer) = client.operator_post("/api/attribution/rules", &body).await;
        assert_eq!(status, 400, "{field}: {answer}");
    }
    let (status, _) = client.get("/api/attribution/rules/attribution_rule_none").await;
    assert_eq!(status, 404);
}

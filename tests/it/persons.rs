//! Persons over HTTP: events and routes that join distinct ids, what questions count then, and how it is undone.

use serde_json::{Value, json};

use crate::support::sandbox::{Client, Sandbox};
use crate::support::{Log, eventually, on_every_log};

on_every_log! {
    identified_ids_are_one_person_in_every_question_and_over_a_restart
    a_merge_by_the_route_holds_at_once_and_a_split_undoes_it
    an_identify_that_comes_with_the_events_holds_as_soon_as_they_are_seen
}

#[expect(clippy::needless_pass_by_value, reason = "callers make it with json!")]
fn event(name: &str, distinct_id: &str, at: &str, properties: Value) -> Value {
    json!({"event": name, "distinct_id": distinct_id, "timestamp": at, "properties": properties})
}

/// People who did anything on each of the two days, and in all.
async fn people(client: &Client) -> Vec<i64> {
    let question = json!({
        "date_from": "2026-01-01", "date_to": "2026-01-02", "series": [{"event": "seen", "math": "dau"}],
    });
    let (status, answer) = client.post("/api/query/trends", &question).await;
    assert_eq!(status, 200, "{answer}");
    answer["results"][0]["data"].as_array().unwrap().iter().map(|n| n.as_f64().unwrap() as i64).collect()
}

async fn persons(client: &Client) -> Vec<Value> {
    let (status, answer) = client.get("/api/persons").await;
    assert_eq!(status, 200, "{answer}");
    answer["persons"].as_array().unwrap().clone()
}

async fn person_of(client: &Client, distinct_id: &str) -> Value {
    let (status, answer) = client.get(&format!("/api/persons?distinct_id={distinct_id}")).await;
    assert_eq!(status, 200, "{answer}");
    answer["persons"][0].clone()
}

pub(crate) async fn identified_ids_are_one_person_in_every_question_and_over_a_restart(log: Log) {
    let sandbox = Sandbox::on(log).await;
    let client = sandbox.client.clone();
    client
        .accept(&json!([
            event("seen", "anon1", "2026-01-01T10:00:00Z", json!({"$set_once": {"first": "ad"}})),
            event(
                "seen",
                "user",
                "2026-01-01T11:00:00Z",
                json!({"$set": {"plan": "free", "email": "a@b.c"}})
            ),
            event("seen", "other", "2026-01-02T11:00:00Z", json!({})),
        ]))
        .await;
    client.settled(3).await;
    assert_eq!(people(&client).await, [2, 1]);
    let before = person_of(&client, "anon1").await["id"].clone();
    client
        .accept(&json!([
            event(
                "$identify",
                "user",
                "2026-01-01T12:00:00Z",
                json!({"$anon_distinct_id": "anon1", "$set": {"plan": "pro"}, "$unset": ["email"]})
            ),
            event("$identify", "null", "2026-01-01T12:00:00Z", json!({"$anon_distinct_id": "other"})),
            event("$create_alias", "user", "2026-01-01T13:00:00Z", json!({"alias": "phone"})),
        ]))
        .await;
    client.settled(6).await;
    assert_eq!(people(&client).await, [1, 1]);
    let person = person_of(&client, "phone").await;
    assert_eq!(person["distinct_ids"], json!(["anon1", "phone", "user"]));
    assert_eq!(person["properties"], json!({"first": "ad", "plan": "pro"}));
    assert_eq!(person["first_seen"], "2026-01-01T10:00:00.000Z");
    assert_eq!(person["events_total"], 4);
    assert_eq!(persons(&client).await.len(), 3, "other and null are persons of their own");

    let (status, shown) = client.get(&format!("/api/persons/{}", before.as_str().unwrap())).await;
    assert_eq!((status, &shown["id"]), (200, &person["id"]), "an id from before the merge finds the person");
    assert_eq!(shown["events"].as_array().unwrap().len(), 4, "{shown}");

    let sandbox = sandbox.restart(&[]).await;
    let client = Client { key: client.key, ..sandbox.client.clone() };
    assert_eq!(people(&client).await, [1, 1]);
    assert_eq!(person_of(&client, "user").await, person);
    sandbox.stop().await;
}

async fn a_merge_by_the_route_holds_at_once_and_a_split_undoes_it(log: Log) {
    let sandbox = Sandbox::on_with(log, &[("person.ids_max", "4")]).await;
    let client = &sandbox.client;
    let events: Vec<Value> =
        ["a", "b", "c", "d", "e"].map(|id| event("seen", id, "2026-01-01T10:00:00Z", json!({}))).into();
    client.accept(&json!(events)).await;
    client.settled(5).await;
    assert_eq!(people(client).await, [5, 0]);
    let merge =
        |ids: Value| async move { client.post("/api/persons/merge", &json!({"distinct_ids": ids})).await };
    let (status, merged) = merge(json!(["a", "b"])).await;
    assert_eq!((status, &merged["distinct_ids"]), (200, &json!(["a", "b"])), "{merged}");
    assert_eq!(people(client).await, [4, 0]);
    let (status, again) = merge(json!(["a", "b"])).await;
    assert_eq!((status, &again), (200, &merged), "saying it again changes nothing");
    let (_, merged) = merge(json!(["b", "c", "d"])).await;
    assert_eq!(merged["distinct_ids"], json!(["a", "b", "c", "d"]));
    assert_eq!(people(client).await, [2, 0]);

    let (status, refused) = merge(json!(["d", "e"])).await;
    assert_eq!((status, &refused["details"]["setting"]), (400, &json!("person.ids_max")), "{refused}");
    let (status, refused) = merge(json!(["e", "undefined"])).await;
    assert_eq!((status, &refused["details"]["given"]), (400, &json!("undefined")), "{refused}");
    let (status, refused) = merge(json!(["e"])).await;
    assert_eq!((status, &refused["details"]["field"]), (400, &json!("distinct_ids")), "{refused}");

    let id = merged["id"].as_str().unwrap();
    let (status, answer) =
        client.post(&format!("/api/persons/{id}/split"), &json!({"distinct_ids": ["b"]})).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["persons"][0]["distinct_ids"], json!(["a", "c", "d"]), "{answer}");
    assert_eq!(answer["persons"][1]["distinct_ids"], json!(["b"]), "{answer}");
    assert_eq!(people(client).await, [3, 0]);
    let rest = answer["persons"][0]["id"].as_str().unwrap();
    let (status, answer) = client.post(&format!("/api/persons/{rest}/split"), &json!({})).await;
    assert_eq!((status, answer["persons"].as_array().unwrap().len()), (200, 3), "{answer}");
    assert_eq!(people(client).await, [5, 0]);

    let (_, page) = client.get("/api/persons?limit=2").await;
    let next = page["next_cursor"].as_str().unwrap();
    let (_, rest) = client.get(&format!("/api/persons?limit=500&cursor={next}")).await;
    assert_eq!(
        (page["persons"].as_array().unwrap().len(), rest["persons"].as_array().unwrap().len()),
        (2, 3)
    );
    assert_eq!(client.get("/api/persons/nobody").await.0, 404);
    sandbox.stop().await;
}

async fn an_identify_that_comes_with_the_events_holds_as_soon_as_they_are_seen(log: Log) {
    let sandbox = Sandbox::on(log).await;
    let client = &sandbox.client;
    let mut events = Vec::new();
    for n in 0..300 {
        events.push(event("seen", &format!("anon-{n}"), "2026-01-01T10:00:00Z", json!({})));
        events.push(event(
            "$identify",
            &format!("user-{}", n % 100),
            "2026-01-01T12:00:00Z",
            json!({"$anon_distinct_id": format!("anon-{n}")}),
        ));
    }
    client.accept(&json!(events)).await;
    eventually("all events are seen", || async {
        let seen = client.events().await?.len();
        if seen == 600 { Ok(()) } else { Err(format!("{seen}")) }
    })
    .await;
    assert_eq!(people(client).await, [100, 0]);
    sandbox.stop().await;
}

//! What the page makes: meters and features, and a demo project.

use serde_json::{Value, json};

use super::Stage;
use super::setup::{count, only, operator};
use super::usage::{RANGE, cells, plain, usage};
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn meters_and_features_are_made_changed_and_archived() {
    let stage = Stage::logged_in(&[]).await;
    let (browser, client) = (&stage.browser, &stage.app.client);
    let call = |id: usize, plan: &str| {
        json!({"event_id": format!("call-{id}"), "event_name": "call", "external_customer_id": "ada",
               "timestamp": format!("2026-03-{id:02}T10:00:00Z"), "properties": {"tokens": "0.1", "plan": plan}})
    };
    let calls: Vec<Value> = (1..=9).map(|id| call(id, ["pro", "free", "team"][id % 3])).collect();
    let (status, answer) = client.post("/v1/events/bulk", &json!({ "events": calls })).await;
    assert_eq!(status, 202, "{answer}");
    client.settled(calls.len()).await;

    browser.goto(&format!("/usage?{RANGE}")).await;
    browser.reads("empty", "No meter yet").await;
    browser.click("new-meter").await;
    browser.fill("name", "Tokens <b>").await;
    browser.fill("unit", "tokens").await;
    browser.fill("event", "call").await;
    assert!(!browser.has("[data-testid=field]").await, "who counts events reads no property");
    browser.choose("kind", "SUM_WITH_MULTIPLIER").await;
    browser.fill("multiplier", "2").await;
    browser.choose("reset", "NEVER").await;
    browser.choose("reset", "BILLING_PERIOD").await;
    browser.choose("kind", "SUM").await;
    browser.fill("field", "tokens").await;
    browser.fill("filters", "plan: pro").await;
    browser.is_clean("the form of a meter").await;
    browser.click("save-meter").await;
    browser.reads("fault", "A condition is a property").await;
    browser.fill("filters", "plan = pro, team").await;
    browser.click("save-meter").await;
    browser.see("total-value").await;
    let meter = operator(&stage, "/v1/meters").await["items"][0].clone();
    assert_eq!(
        (&meter["name"], &meter["event_name"], &meter["unit"], &meter["reset_usage"], &meter["filters"]),
        (
            &json!("Tokens <b>"),
            &json!("call"),
            &json!("tokens"),
            &json!("BILLING_PERIOD"),
            &json!([{"key": "plan", "values": ["pro", "team"]}])
        )
    );
    assert_eq!(
        (&meter["aggregation"]["type"], &meter["aggregation"]["field"]),
        (&json!("SUM"), &json!("tokens"))
    );
    let at = format!("/v1/meters/{}", meter["id"].as_str().unwrap());
    let total = usage(&stage, json!({"meter_id": meter["id"]})).await["exact_value"].clone();
    assert_eq!(total, "0.6");
    assert_eq!(json!(browser.text("total-value").await), total);

    browser.click("change").await;
    browser.find("[data-testid=kind]:disabled").await;
    browser.fill("name", "All tokens").await;
    browser.fill("filters", "").await;
    browser.click("save-meter").await;
    let renamed = |one: &Value| one["version"] == 2 && one["name"] == "All tokens";
    let changed = only(&stage, "/v1/meters", "items", "it is changed", renamed).await;
    assert_eq!(changed["filters"], json!([]));
    browser
        .until("its page is the new one", "return document.querySelector('h1').innerText === 'All tokens'")
        .await;
    browser.is_clean("a meter that was changed").await;

    features(&stage, &meter["id"], &total).await;

    browser.goto(&format!("{at}?{RANGE}").replace("/v1/", "/usage/")).await;
    browser.click("archive").await;
    browser.press("Keep it").await;
    browser.click("archive").await;
    browser.click("confirm").await;
    browser.reads("meters", "archived").await;
    assert_eq!(operator(&stage, &at).await["status"], "archived");
    stage.close().await;
}

async fn features(stage: &Stage, meter: &Value, total: &Value) {
    let browser = &stage.browser;
    browser.goto(&format!("/usage/features?{RANGE}")).await;
    browser.reads("empty", "No feature yet").await;
    browser.click("new-feature").await;
    browser.fill("name", "Speech").await;
    browser.choose("meter", meter.as_str().unwrap()).await;
    browser.fill("one", "token").await;
    browser.fill("many", "tokens").await;
    browser.is_clean("the form of a feature").await;
    browser.click("save-feature").await;
    browser.reads("features", "Speech").await;
    let made = operator(stage, "/v1/features").await["items"][0].clone();
    assert_eq!((&made["meter_id"], &made["unit_plural"]), (meter, &json!("tokens")));
    assert_eq!(json!(plain(&cells(stage, "features").await[0][0])), *total);
    browser.press("Change…").await;
    browser.fill("name", "Talk").await;
    browser.click("save-feature").await;
    browser.reads("features", "Talk").await;
    assert_eq!(operator(stage, "/v1/features").await["items"][0]["unit_singular"], "token");
    browser.press("Delete…").await;
    browser.click("confirm").await;
    browser.reads("empty", "No feature yet").await;
    assert_eq!(operator(stage, "/v1/features").await["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_project_is_made_with_a_click_and_mixes_with_nothing() {
    let stage = Stage::logged_in(&[]).await;
    let (browser, client) = (&stage.browser, &stage.app.client);
    let asked = json!({"date_from": "-30d", "series": [{"event": null, "math": "total"}]});
    let (status, refused) = client.operator_post("/api/demo", &json!({"events": 20_001})).await;
    assert_eq!((status, &refused["code"]), (400, &json!("validation_error")));
    browser.click("demo").await;
    browser.reads("notices", "5,000 events").await;
    browser.reads("first-event", "It works").await;
    let (_, all) = client.operator_get("/api/projects").await;
    let demo = all["projects"].as_array().unwrap().iter().find(|one| one["name"] == "Demo").unwrap().clone();
    let id = demo["id"].as_str().unwrap();
    let environments = operator(&stage, &format!("/api/projects/{id}/environments")).await;
    let chosen = "return JSON.parse(localStorage.getItem('flexflow.scope'))";
    let chosen = browser.run(chosen, vec![]).await;
    assert_eq!(chosen["project"], id);
    let own = environments["environments"].as_array().unwrap();
    assert!(own.iter().any(|one| one["id"] == chosen["environment"]), "{environments}");
    let key = stage.key(id, &chosen["environment"]).await;
    let total = async || {
        let request = client.http.post(format!("{}/api/query/trends", client.url)).header("X-API-Key", &key);
        let answer: Value = request.json(&asked).send().await.unwrap().json().await.unwrap();
        answer["results"][0]["count"].clone()
    };
    eventually("all of it is stored", || async {
        match total().await {
            found if found == 5000 => Ok(()),
            found => Err(found.to_string()),
        }
    })
    .await;
    browser.press("Draw a first chart").await;
    browser.see("chart").await;
    let (_, mine) = client.get("/api/query/names").await;
    assert_eq!(mine["events"], json!([]), "nothing came to the project that was there");

    // From elsewhere the same button leads back to it, and sends nothing again.
    browser.choose("project", &stage.project).await;
    browser.goto("/").await;
    browser
        .until(
            "the demo is offered",
            "return document.querySelector('[data-testid=demo]')?.innerText === 'Open the demo project'",
        )
        .await;
    browser.click("demo").await;
    browser.see("events-today").await;
    browser.is_clean("the overview of the demo").await;
    assert_eq!(total().await, 5000);
    let script = "return document.querySelector('[data-testid=project]').value";
    assert_eq!(browser.run(script, vec![]).await, id);
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_and_times_are_written_as_the_reader_writes_them() {
    let stage = Stage::logged_in(&[]).await;
    let (browser, client) = (&stage.browser, &stage.app.client);
    let event = json!({"event": "call", "distinct_id": "ada", "timestamp": "2026-03-02T15:04:05Z",
                       "properties": {"tokens": "12345678901234567890.50"}});
    client.accept(&event).await;
    client.settled(1).await;
    let meter = json!({"name": "m", "event_name": "call", "aggregation": {"type": "SUM", "field": "tokens"}});
    let (status, meter) = client.operator_post("/v1/meters", &meter).await;
    assert_eq!(status, 201, "{meter}");
    let exact = usage(&stage, json!({"meter_id": meter["id"]})).await["exact_value"].clone();
    assert_eq!(exact, "12345678901234567890.5");
    for (locale, total, hour) in [
        ("de-DE", "12.345.678.901.234.567.890,5", "15:04"),
        ("hi-IN", "1,23,45,67,89,01,23,45,67,890.5", "04"),
        ("ar-EG", "١٢٬٣٤٥٬٦٧٨٬٩٠١٬٢٣٤٬٥٦٧٬٨٩٠٫٥", "٠٤"),
        ("en-US", "12,345,678,901,234,567,890.5", "04"),
    ] {
        browser.locale(locale).await;
        browser.goto(&format!("/usage?{RANGE}")).await;
        browser.reads("meter-total", total).await;
        browser.is_clean(locale).await;
        browser.run("localStorage.setItem('flexflow.zone', 'UTC')", vec![]).await;
        browser.goto("/events?event=call").await;
        let cell = "return document.querySelector('[data-testid=events-table] time')?.innerText ?? ''";
        browser
            .until(
                &format!("{locale}: {hour}"),
                &format!(
                    "const text = (() => {{ {cell} }})(); return text.includes({}) || text",
                    json!(hour)
                ),
            )
            .await;
        let utc = "return document.querySelector('[data-testid=events-table] time').title";
        assert_eq!(browser.run(utc, vec![]).await, "2026-03-02T15:04:05.000Z", "UTC is the same everywhere");
    }
    count(browser, "[data-testid=events-table] tbody tr", 1).await;
    stage.close().await;
}

//! Usage: totals on screen have every digit that the API answers, and each leads to its events.

use serde_json::{Value, json};

use super::Stage;

const METER: &str = "Tokens <i>";

/// More digits than a float has, in sum.
fn calls() -> Vec<Value> {
    let call = |id: usize, customer: &str, at: String, tokens: &str, region: &str| {
        json!({"event_id": format!("call-{id}"), "event_name": "call", "external_customer_id": customer, "timestamp": at,
               "properties": {"tokens": tokens, "region": region}})
    };
    (0..30)
        .map(|id| {
            let day = 1 + id % 10;
            let customer = ["ada", "bob", "=cmd"][id % 3];
            let tokens = if id == 7 { "12345678901234567890.000000001" } else { "0.1" };
            call(
                id,
                customer,
                format!("2026-03-{day:02}T{:02}:30:00Z", id % 24),
                tokens,
                ["eu", "us"][id % 2],
            )
        })
        .collect()
}

async fn stage() -> (Stage, Value) {
    let stage = Stage::logged_in(&[]).await;
    let client = &stage.app.client;
    let (status, answer) = client.post("/v1/events/bulk", &json!({"events": calls()})).await;
    assert_eq!(status, 202, "{answer}");
    stage.browser.goto("/usage").await;
    stage.browser.reads("empty", "No meter yet").await;
    let meter = json!({"name": METER, "event_name": "call", "aggregation": {"type": "SUM", "field": "tokens"}, "unit": "tokens"});
    let (status, meter) = client.operator_post("/v1/meters", &meter).await;
    assert_eq!(status, 201, "{meter}");
    let feature =
        json!({"name": "Speech", "meter_id": meter["id"], "unit_singular": "token", "unit_plural": "tokens"});
    assert_eq!(client.operator_post("/v1/features", &feature).await.0, 201);
    client.settled(calls().len()).await;
    (stage, meter)
}

pub(super) const RANGE: &str = "range=own&from=2026-03-01&to=2026-03-31&zone=UTC";

/// Keeps what the page saves as a file.
async fn file(stage: &Stage) -> String {
    let browser = &stage.browser;
    let keep = "const make = URL.createObjectURL; window.saved = undefined; \
                URL.createObjectURL = (blob) => { window.saved = blob; return make.call(URL, blob); };";
    browser.run(keep, vec![]).await;
    browser.click("csv").await;
    browser.until("the file is made", "return window.saved !== undefined").await;
    let done = "const done = arguments[arguments.length - 1]; window.saved.text().then(done)";
    browser.run_async(done, vec![]).await.as_str().unwrap().to_owned()
}

/// Cells that stand right, row by row.
pub(super) async fn cells(stage: &Stage, table: &str) -> Vec<Vec<String>> {
    stage.browser.see(table).await;
    let script = format!(
        "return [...document.querySelectorAll('[data-testid={table}] tbody tr[data-row]')].map((row) => \
         [...row.querySelectorAll('td.right')].map((cell) => cell.innerText.trim()))"
    );
    serde_json::from_value(stage.browser.run(&script, vec![]).await).unwrap()
}

/// Without what groups digits.
pub(super) fn plain(shown: &str) -> String {
    shown.replace(',', "")
}

pub(super) async fn usage(stage: &Stage, more: Value) -> Value {
    let mut asked = json!({"start_time": "2026-03-01T00:00:00Z", "end_time": "2026-04-01T00:00:00Z"});
    asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (status, answer) = stage.app.client.post("/v1/events/usage/meter", &asked).await;
    assert_eq!(status, 200, "{asked}: {answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_have_every_digit_and_lead_to_their_events() {
    let (stage, meter) = stage().await;
    let browser = &stage.browser;
    let id = meter["id"].as_str().unwrap();
    let whole = usage(&stage, json!({"meter_id": id})).await;
    let total = whole["exact_value"].as_str().unwrap().to_owned();
    assert_eq!(total, "12345678901234567892.900000001");
    browser.goto(&format!("/usage?{RANGE}")).await;
    browser.reads("meters", METER).await;
    let row = &cells(&stage, "meters").await[0];
    assert_eq!((plain(&row[0]), row[1].as_str()), (total.clone(), "30"));
    assert_eq!(file(&stage).await, format!("meter,total,unit,events\r\n{METER},{total},tokens,30\r\n"));
    browser.is_clean("meters").await;

    browser.press("Features").await;
    browser.reads("features", "Speech").await;
    assert_eq!(plain(&cells(&stage, "features").await[0][0]), total);
    assert!(file(&stage).await.contains(&format!("Speech,{total},tokens,30")));

    browser.press("Customers").await;
    browser.reads("customers", "ada").await;
    let customers = usage(&stage, json!({"meter_id": id, "group_by": ["external_customer_id"]})).await;
    let expected: Vec<&str> = customers["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["exact_value"].as_str().unwrap())
        .collect();
    let found: Vec<String> = cells(&stage, "customers").await.iter().map(|row| plain(&row[0])).collect();
    assert_eq!(found, expected);
    assert!(file(&stage).await.contains("\r\n'=cmd,"), "a formula is a text");
    browser.is_clean("customers").await;
    browser.press("bob").await;
    browser.reads("meters", METER).await;
    let bob = usage(&stage, json!({"meter_id": id, "external_customer_id": "bob"})).await;
    browser
        .until("bob's total", "return document.querySelectorAll('[data-testid=meter-total]').length === 1")
        .await;
    assert_eq!(json!(plain(&cells(&stage, "meters").await[0][0])), bob["exact_value"]);

    browser.press("All customers").await;
    browser.see("customers").await;
    one_meter(&stage, id).await;
    browser.press("All meters").await;
    browser.see("meters").await;
    stage.close().await;
}

/// Usage by a property of the events.
async fn regions(stage: &Stage, id: &str) {
    let browser = &stage.browser;
    browser.choose("by", "properties.").await;
    browser.fill("by-property", "region").await;
    browser.keys("\u{e007}").await;
    let regions = usage(stage, json!({"meter_id": id, "group_by": ["properties.region"]})).await;
    let regions: Vec<&str> = regions["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["exact_value"].as_str().unwrap())
        .collect();
    let script = format!(
        "const rows = [...document.querySelectorAll('[data-testid=usage-table] tbody tr[data-row]')]; \
         return JSON.stringify(rows.map((row) => row.querySelector('td.right').innerText.trim().replaceAll(',', ''))) === JSON.stringify({})",
        json!(regions)
    );
    browser.until("the usage of each region", &script).await;
}

/// Windows, groups, a customer, zones; the events behind a number are as many as it says.
async fn one_meter(stage: &Stage, id: &str) {
    let browser = &stage.browser;
    browser.goto(&format!("/usage/meters/{id}?{RANGE}")).await;
    browser.reads("total", "events").await;
    browser.picture("usage").await;
    browser.is_clean("a meter").await;
    for (control, value, asked) in [
        ("window", "DAY", json!({"window_size": "DAY"})),
        ("window", "WEEK", json!({"window_size": "WEEK"})),
        ("by", "external_customer_id", json!({"window_size": "WEEK", "group_by": ["external_customer_id"]})),
        ("window", "", json!({"group_by": ["external_customer_id"]})),
        ("timezone", "Asia/Kabul", Value::Null),
    ] {
        browser.choose(control, value).await;
        let mut asked = asked;
        if asked.is_null() {
            browser.choose("timezone", "UTC").await;
            asked = json!({"group_by": ["external_customer_id"]});
        }
        asked["meter_id"] = json!(id);
        let answer = usage(stage, asked).await;
        let results = answer["results"].as_array().unwrap();
        let expected: Vec<Vec<String>> = results
            .iter()
            .map(|one| vec![one["exact_value"].as_str().unwrap().to_owned(), one["event_count"].to_string()])
            .collect();
        let script = format!(
            "const rows = [...document.querySelectorAll('[data-testid=usage-table] tbody tr[data-row]')]; \
             const found = rows.map((row) => [...row.querySelectorAll('td.right')].map((cell) => cell.innerText.trim().replaceAll(',', ''))); \
             return JSON.stringify(found) === JSON.stringify({}) || JSON.stringify(found)",
            json!(expected)
        );
        browser.until(&format!("{control} {value}: the API's numbers"), &script).await;
    }
    let csv = file(stage).await;
    assert!(csv.starts_with("window,external_customer_id,value,events\r\n"), "{csv}");
    assert!(csv.contains("total,,12345678901234567892.900000001,30"), "{csv}");
    // =cmd has ten of the thirty.
    browser.click_on("[data-testid=drill]").await;
    browser.reads("listed", "10").await;
    browser.is_clean("events behind a number").await;
    browser.click_on("[aria-label='Close the events']").await;
    browser.click("drill-total").await;
    browser.reads("listed", "30").await;
    browser.click_on("[aria-label='Close the events']").await;
    regions(stage, id).await;
    browser.choose("by", "").await;
    browser.fill("customer", "ada").await;
    browser.keys("\u{e007}").await;
    let ada = usage(stage, json!({"meter_id": id, "external_customer_id": "ada"})).await;
    let script = format!(
        "return document.querySelector('[data-testid=total-value]').innerText.replaceAll(',', '') === {}",
        ada["exact_value"]
    );
    browser.until("ada's total", &script).await;
    let held = browser.place().await;
    browser.reload().await;
    browser.until("ada's total again", &script).await;
    assert_eq!(browser.place().await, held);
}

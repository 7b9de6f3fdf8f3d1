//! Groups and elements on the page: the builder asks for them as the API takes them, and groups are listed.

use serde_json::{Value, json};

use super::Stage;
use super::builder::{asks, choose, click, week, write};
use super::insights::{address, same};

/// Two companies; who is of which, opens, clicks and pays.
fn events() -> Vec<Value> {
    let at = |day: usize| format!("2026-03-{day:02}T09:00:00Z");
    let company = |key: &str, set: Value| {
        json!({"event": "$groupidentify", "distinct_id": key, "timestamp": at(1),
            "properties": {"$group_type": "company", "$group_key": key, "$group_set": set}})
    };
    let mut events = vec![
        company("acme", json!({"industry": "law", "seats": 60})),
        company("bolt", json!({"industry": "steel", "seats": 5})),
    ];
    for (who, of, days) in [("ann", "acme", 1..=5), ("bob", "bolt", 2..=3), ("cid", "acme", 4..=4)] {
        for day in days {
            let groups = json!({"$groups": {"company": of}});
            events.push(
                json!({"event": "opened", "distinct_id": who, "timestamp": at(day), "properties": groups}),
            );
            let chain = format!(
                "button.buy:text=\"Buy {of}\"nth-child=\"1\"nth-of-type=\"1\"attr__class=\"buy\";form:nth-child=\"2\"nth-of-type=\"1\""
            );
            let clicked = json!({"$elements_chain": chain, "$groups": {"company": of}});
            events.push(json!({"event": "$autocapture", "distinct_id": who, "timestamp": at(day), "properties": clicked}));
        }
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_and_elements_are_asked_for_as_the_api_takes_them() {
    let stage = Stage::logged_in(&[]).await;
    let (browser, client) = (&stage.browser, &stage.app.client);
    let all = events();
    client.accept(&json!({ "batch": all })).await;
    client.settled(all.len()).await;
    browser
        .goto(&address("trends", &week(&json!({"interval": "day", "series": [{"event": "opened"}]}))))
        .await;
    same(browser, client).await;

    browser.pick("//fieldset[legend='Filters for everything']//button[.='+ Filter']").await;
    choose(browser, "Filter by", "group").await;
    // What there is is offered.
    click(browser, "Type of group").await;
    browser.pick("//li[@role='option'][contains(., 'company')]").await;
    asks(browser, "/filters/0/group_type", &json!("company")).await;
    click(browser, "Property").await;
    browser.pick("//li[@role='option'][contains(., 'industry')]").await;
    write(browser, "Value", "law").await;
    asks(browser, "/filters/0/value", &json!(["law"])).await;
    same(browser, client).await;
    write(browser, "Type of group", "0").await;
    asks(browser, "/filters/0/group_type_index", &json!(0)).await;
    same(browser, client).await;
    click(browser, "Remove filter").await;

    browser.click("add-breakdown").await;
    choose(browser, "Break down by", "group").await;
    write(browser, "Type of group", "company").await;
    write(browser, "Property to break down by", "seats").await;
    asks(browser, "/breakdown/group_type", &json!("company")).await;
    asks(browser, "/breakdown/property", &json!("seats")).await;
    same(browser, client).await;
    browser.is_clean("a breakdown by groups").await;
    choose(browser, "Break down by", "event").await;
    asks(browser, "/breakdown/group_type", &Value::Null).await;
    click(browser, "Remove breakdown").await;

    browser.choose("math", "unique_group").await;
    write(browser, "Type of group of series A", "company").await;
    asks(browser, "/series/0/math_group_type", &json!("company")).await;
    same(browser, client).await;

    let clicks = week(&json!({"interval": "day", "series": [{"event": "$autocapture"}]}));
    browser.goto(&address("trends", &clicks)).await;
    browser.pick("//fieldset[legend='Filters for everything']//button[.='+ Filter']").await;
    choose(browser, "Filter by", "element").await;
    write(browser, "Property", "text").await;
    choose(browser, "Operator", "icontains").await;
    write(browser, "Value", "acme").await;
    asks(browser, "/filters/0/value", &json!(["acme"])).await;
    same(browser, client).await;
    write(browser, "Property", "selector").await;
    let offered = "return document.querySelectorAll('select[aria-label=Operator] option').length <= 5";
    browser.until("a selector is or is not", offered).await;
    choose(browser, "Operator", "exact").await;
    click(browser, "Take away acme").await;
    write(browser, "Value", "form > button.buy").await;
    same(browser, client).await;
    browser.is_clean("a filter by elements").await;

    funnel_and_list(&stage).await;
    stage.close().await;
}

async fn funnel_and_list(stage: &Stage) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    let steps = json!([{"event": "opened"}, {"event": "$autocapture"}]);
    browser.goto(&address("funnel", &week(&json!({"steps": steps})))).await;
    browser.choose("aggregate-by", "group").await;
    write(browser, "Type of group", "company").await;
    asks(browser, "/aggregate_by/group_type", &json!("company")).await;
    asks(browser, "/aggregate_by/property", &json!("$group_key")).await;
    same(browser, client).await;
    write(browser, "Property that is counted", "industry").await;
    same(browser, client).await;
    browser.choose("aggregate-by", "").await;
    asks(browser, "/aggregate_by", &Value::Null).await;
    same(browser, client).await;

    browser.goto("/persons").await;
    browser.press("Groups").await;
    let listed = "const rows = [...document.querySelectorAll('[data-testid=groups-table] tbody tr')].map((row) => row.innerText); \
        return rows.length === 2 && /company\\s+acme/.test(rows[0]) && rows[0].includes('\"industry\": \"law\"') && rows[1].includes('\"seats\": 5') || rows.join()";
    browser.until("both are listed", listed).await;
    browser.fill("group-search", "BO").await;
    browser.until("one is found", "return location.search === '?search=BO' && document.querySelectorAll('[data-testid=groups-table] tbody tr').length === 1").await;
    browser.fill("group-type", "team").await;
    browser.reads("empty", "No groups").await;
    browser.fill("group-type", "company").await;
    browser.press("bolt").await;
    asks(browser, "/filters/0/value", &json!(["bolt"])).await;
    browser.is_clean("groups").await;
}

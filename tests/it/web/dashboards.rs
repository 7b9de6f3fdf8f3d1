//! Dashboards: answers that are kept, put in order and asked anew.

use serde_json::{Value, json};

use super::Stage;
use super::insights::{address, same, shop};

fn week(event: &str) -> Value {
    json!({"date_from": "2026-03-01", "date_to": "2026-03-07", "timezone": "UTC", "series": [{"event": event}]})
}

/// The only dashboard there is, as the API has it.
async fn kept(stage: &Stage) -> Value {
    let (status, all) = stage.app.client.get("/api/dashboards").await;
    assert_eq!(status, 200, "{all}");
    all["dashboards"][0].clone()
}

/// Waits until the API has these names of answers, in this order.
async fn has(stage: &Stage, names: &[&str]) -> Value {
    crate::support::eventually(&format!("the dashboard has {names:?}"), || async {
        let dashboard = kept(stage).await;
        let found: Vec<&str> = dashboard["tiles"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tile| tile["name"].as_str().unwrap())
            .collect();
        if found == names { Ok(dashboard.clone()) } else { Err(dashboard.to_string()) }
    })
    .await
}

async fn save(stage: &Stage, event: &str, name: &str, dashboard: Option<&str>) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    browser.goto(&address("trends", &week(event))).await;
    same(browser, client).await;
    browser.click("save").await;
    browser.fill("tile-name", name).await;
    if let Some(dashboard) = dashboard {
        browser.fill("dashboard-name", dashboard).await;
    }
    browser.click("save-tile").await;
    browser.reads("notices", "Saved to").await;
}

/// The second tile goes before the first, and back again; then by the mouse.
async fn earlier(stage: &Stage) {
    let browser = &stage.browser;
    for order in [["Sales <b>", "Views"], ["Views", "Sales <b>"]] {
        let tile = |number: usize| format!("[data-testid=tile]:nth-child({number})");
        browser.drag(&format!("{} header", tile(2)), &tile(1)).await;
        has(stage, &order).await;
    }
    for order in [["Sales <b>", "Views"], ["Views", "Sales <b>"]] {
        for control in ["tile-menu", "tile-earlier"] {
            browser.click_on(&format!("[data-testid=tile]:nth-child(2) [data-testid={control}]")).await;
        }
        has(stage, &order).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dashboard_keeps_answers_in_order_and_asks_them_anew() {
    let stage = Stage::logged_in(&[]).await;
    let (browser, client) = (&stage.browser, &stage.app.client);
    let events = shop();
    client.accept(&json!(events)).await;
    client.settled(events.len()).await;
    browser.goto("/dashboards").await;
    browser.reads("empty", "No dashboard yet").await;
    save(&stage, "bought", "Sales <b>", Some("The shop")).await;
    save(&stage, "$pageview", "Views", None).await;
    let made = has(&stage, &["Sales <b>", "Views"]).await;
    assert_eq!(made["tiles"][0]["question"]["series"], json!([{"event": "bought"}]));

    browser.goto("/dashboards").await;
    browser.reads("dashboards", "The shop").await;
    browser.is_clean("the list of dashboards").await;
    browser.press("The shop").await;
    browser.reads("dashboard", "Sales <b>").await;
    browser.until("both are answered", "return document.querySelectorAll('[data-testid=age]').length === 2 && [...document.querySelectorAll('[data-testid=age]')].every((age) => age.innerText.includes('answered'))").await;
    browser.is_clean("a dashboard").await;
    browser.picture("dashboard").await;

    // Order, size and view of a tile; all of it survives a reload.
    browser.click("tile-menu").await;
    browser.click("tile-later").await;
    has(&stage, &["Views", "Sales <b>"]).await;
    earlier(&stage).await;
    browser.click("tile-menu").await;
    browser.choose("tile-width", "12").await;
    browser
        .until(
            "it is wide",
            "return document.querySelector('[data-testid=tile]').style.gridColumn.includes('12')",
        )
        .await;
    browser.choose("tile-height", "160").await;
    browser.choose("tile-view", "table").await;
    let layout = |tile: &Value| tile["layout"].clone();
    crate::support::eventually("the layout is kept", || async {
        let first = layout(&kept(&stage).await["tiles"][0]);
        if first == json!({"width": 12, "height": 160, "view": "table"}) {
            Ok(())
        } else {
            Err(first.to_string())
        }
    })
    .await;
    browser.reload().await;
    browser
        .until(
            "the table is there",
            "return document.querySelector('[data-testid=tile] [data-testid=answer-table]') !== null",
        )
        .await;
    let question = week("$pageview");
    let (_, answer) = client.post("/api/query/trends", &question).await;
    browser.reads("answer-table", &answer["results"][0]["count"].to_string()).await;

    // Asked anew, each answer is younger than before.
    let at = "return Math.min(...[...document.querySelectorAll('[data-testid=tile]')].map((tile) => Number(tile.dataset.at)))";
    browser.until("all are answered", &at.replace("return ", "return 0 < ")).await;
    let before = browser.run(at, vec![]).await;
    browser.click("refresh-all").await;
    browser.until("all are answered anew", &at.replace("return ", &format!("return {before} < "))).await;

    browser.click("full-screen").await;
    browser.until("it fills the screen", "return document.fullscreenElement !== null").await;
    browser.click("full-screen").await;
    browser.until("and no more", "return document.fullscreenElement === null").await;

    names_change(&stage).await;
    browser.click("delete").await;
    browser.click("confirm").await;
    browser.reads("empty", "No dashboard yet").await;
    assert_eq!(kept(&stage).await, Value::Null);
    stage.close().await;
}

/// Names, descriptions, and a change that somebody else made first.
async fn names_change(stage: &Stage) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    browser.click("edit").await;
    browser.fill("name", "The whole shop").await;
    browser.fill("description", "What sells").await;
    browser.click("save-edit").await;
    browser.reads("dashboard", "What sells").await;
    browser.click("tile-menu").await;
    browser.click("tile-edit").await;
    browser.fill("name", "All views").await;
    browser.click("save-edit").await;
    let dashboard = has(stage, &["All views", "Sales <b>"]).await;
    assert_eq!(
        (&dashboard["name"], &dashboard["description"]),
        (&json!("The whole shop"), &json!("What sells"))
    );
    let path = format!("/api/dashboards/{}", dashboard["id"].as_str().unwrap());
    let request = client.http.patch(format!("{}{path}", client.url)).header("X-API-Key", &client.key);
    assert_eq!(request.json(&json!({"name": "Elsewhere"})).send().await.unwrap().status(), 200);
    browser.click("tile-menu").await;
    browser.click("tile-remove").await;
    browser.reads("fault", "was changed meanwhile").await;
    browser.press("Try again").await;
    browser.reads("dashboard", "Elsewhere").await;
    browser.click("tile-menu").await;
    browser.click("tile-remove").await;
    has(stage, &["Sales <b>"]).await;
}

//! The fields of the builder that no other walk uses: each changes the question as it says, and the table shows what the
//! API answers to it.

use serde_json::{Value, json};

use super::Stage;
use super::insights::{address, question, same, shop};
use super::setup::operator;
use crate::support::Browser;

const ENTER: &str = "\u{e007}";

async fn stage() -> Stage {
    let stage = Stage::logged_in(&[]).await;
    let events = shop();
    stage.app.client.accept(&json!(events)).await;
    stage.app.client.settled(events.len()).await;
    stage
}

pub(super) fn week(fields: &Value) -> Value {
    let mut question = json!({"date_from": "2026-03-01", "date_to": "2026-03-07", "timezone": "UTC"});
    question.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    question
}

/// Writes into the field with this name, and takes it.
pub(super) async fn write(browser: &Browser, label: &str, text: &str) {
    browser.fill_in(&format!("input[aria-label='{label}']"), text).await;
    browser.keys(ENTER).await;
}

/// Chooses an option of the field with this name.
pub(super) async fn choose(browser: &Browser, label: &str, value: &str) {
    browser.pick(&format!("//select[@aria-label='{label}']//option[@value='{value}']")).await;
}

pub(super) async fn click(browser: &Browser, label: &str) {
    browser.click_on(&format!("[aria-label='{label}']")).await;
}

/// Clicks the checkbox with these words.
async fn check(browser: &Browser, words: &str) {
    browser.pick(&format!("//label[contains(., '{words}')]//input")).await;
}

/// Waits until the question in the address has this where the pointer leads.
pub(super) async fn asks(browser: &Browser, pointer: &str, wanted: &Value) {
    let of = pointer.trim_start_matches('/').split('/').map(|part| format!("?.[{}]", json!(part)));
    let script = format!(
        "const of = JSON.parse(new URLSearchParams(location.search).get('q') ?? '{{}}'){} ?? null; \
         return JSON.stringify(of) === JSON.stringify({wanted}) || JSON.stringify(of)",
        of.collect::<String>()
    );
    browser.until(&format!("{pointer} is {wanted}"), &script).await;
}

/// Adds a filter to the part of the form with this name: the plan is pro.
async fn filter(browser: &Browser, part: &str) {
    browser.pick(&format!("//fieldset[legend='{part}']//button[.='+ Filter']")).await;
    write(browser, "Property", "plan").await;
    write(browser, "Value", "pro").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_a_funnel_changes_the_question_as_it_says() {
    let stage = stage().await;
    let (browser, client) = (&stage.browser, &stage.app.client);
    let steps = json!([{"event": "$pageview"}, {"event": "bought"}]);
    browser.goto(&address("funnel", &week(&json!({"steps": steps})))).await;
    same(browser, client).await;
    filters(&stage).await;

    write(browser, "Name of step 1", "Seen").await;
    asks(browser, "/steps/0/name", &json!("Seen")).await;
    browser.reads("funnel", "Seen").await;
    click(browser, "Move step 2 up").await;
    asks(browser, "/steps/0/event", &json!("bought")).await;
    same(browser, client).await;
    click(browser, "Move step 2 up").await;
    browser.click("add-step").await;
    browser.fill_in(".series:nth-of-type(3) [data-testid=step-event]", "bought").await;
    browser.keys(ENTER).await;
    same(browser, client).await;
    click(browser, "Remove step 3").await;
    same(browser, client).await;
    choose(browser, "Unit of the time to convert", "hour").await;
    asks(browser, "/window", &json!("14 hour")).await;
    same(browser, client).await;

    browser.press("+ Exclusion").await;
    write(browser, "Event of exclusion 1", "bought").await;
    choose(browser, "To step", "1").await;
    choose(browser, "From step", "0").await;
    asks(browser, "/exclusions/0/event", &json!("bought")).await;
    click(browser, "Remove exclusion").await;
    same(browser, client).await;

    browser.click("add-breakdown").await;
    write(browser, "Property to break down by", "plan").await;
    write(browser, "Values with a row of their own", "2").await;
    same(browser, client).await;
    check(browser, "Hide all others").await;
    asks(browser, "/breakdown/hide_other", &json!(true)).await;
    same(browser, client).await;
    choose(browser, "Attribution", "last_touch").await;
    same(browser, client).await;
    choose(browser, "Attribution", "step").await;
    choose(browser, "Step of the attribution", "1").await;
    asks(browser, "/breakdown/attribution_step", &json!(1)).await;
    same(browser, client).await;
    click(browser, "Remove breakdown").await;

    browser.choose("viz", "time_to_convert").await;
    write(browser, "Bars", "3").await;
    asks(browser, "/bin_count", &json!(3)).await;
    same(browser, client).await;
    choose(browser, "From step", "0").await;
    choose(browser, "To step", "1").await;
    same(browser, client).await;
    browser.choose("viz", "steps").await;
    filter(browser, "Filters for everything").await;
    same(browser, client).await;
    click(browser, "Remove filter").await;
    browser.is_clean("the fields of a funnel").await;
    test_accounts(&stage).await;
    stage.close().await;
}

/// Filters of a step: kinds, operators, groups.
async fn filters(stage: &Stage) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    filter(browser, "Steps").await;
    asks(browser, "/steps/0/filters/0/value", &json!(["pro"])).await;
    same(browser, client).await;
    choose(browser, "Operator", "icontains").await;
    same(browser, client).await;
    choose(browser, "Operator", "regex").await;
    write(browser, "Value", "^p.o$").await;
    same(browser, client).await;
    choose(browser, "Operator", "is_set").await;
    same(browser, client).await;
    choose(browser, "Filter by", "event_metadata").await;
    choose(browser, "Operator", "exact").await;
    write(browser, "Property", "distinct_id").await;
    write(browser, "Value", "ann").await;
    same(browser, client).await;
    write(browser, "Value", "cid").await;
    asks(browser, "/steps/0/filters/0/value", &json!(["ann", "cid"])).await;
    same(browser, client).await;
    click(browser, "Take away cid").await;
    same(browser, client).await;
    click(browser, "Remove filter").await;
    asks(browser, "/steps/0/filters", &Value::Null).await;

    // Of the second step, whose events have numbers.
    browser.pick("//*[@aria-label='step 2']//button[.='+ Group']").await;
    write(browser, "Property", "price").await;
    choose(browser, "Operator", "between").await;
    browser.fill_in(".filter-group input[aria-label='From']", "11").await;
    browser.keys(ENTER).await;
    browser.fill_in(".filter-group input[aria-label='To']", "41").await;
    browser.keys(ENTER).await;
    choose(browser, "Joined by", "AND").await;
    asks(browser, "/steps/1/filters/0/type", &json!("AND")).await;
    asks(browser, "/steps/1/filters/0/values/0/value", &json!([11, 41])).await;
    same(browser, client).await;
    click(browser, "Remove group").await;
    same(browser, client).await;
}

/// Whom questions count is kept in the settings; the question says whether it does.
async fn test_accounts(stage: &Stage) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    browser.goto("/settings/project").await;
    browser.press("+ Filter").await;
    write(browser, "Property", "plan").await;
    write(browser, "Value", "pro").await;
    browser.click("save-test-accounts").await;
    browser.reads("notices", "Saved").await;
    let kept = operator(stage, "/api/test-accounts").await;
    assert_eq!(
        (&kept["filters"][0]["key"], &kept["filters"][0]["value"]),
        (&json!("plan"), &json!(["pro"])),
        "{kept}"
    );
    browser.is_clean("test accounts").await;
    let bought = week(&json!({"series": [{"event": "bought", "math": "total"}]}));
    browser.goto(&address("trends", &bought)).await;
    same(browser, client).await;
    browser.click("test-accounts").await;
    asks(browser, "/filter_test_accounts", &json!(true)).await;
    same(browser, client).await;
    let sum =
        async |asked: &Value| client.post("/api/query/trends", asked).await.1["results"][0]["count"].as_f64();
    assert_eq!(sum(&question(browser).await).await, Some(7.0), "ann bought on seven days");
    assert_eq!(sum(&bought).await, Some(17.0), "ann, bob and cid too, and dot on two");
    browser.click("kind-funnel").await;
    asks(browser, "/filter_test_accounts", &json!(true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_paths_and_the_rest_of_the_builder_changes_the_question_as_it_says() {
    let stage = stage().await;
    paths(&stage).await;
    around(&stage).await;
    trends(&stage).await;
    others(&stage).await;
    stage.close().await;
}

async fn paths(stage: &Stage) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    browser.goto(&address("paths", &week(&json!({"include": ["$pageview", "custom_event"]})))).await;
    same(browser, client).await;
    check(browser, "Screens").await;
    asks(browser, "/include", &json!(["$pageview", "custom_event", "$screen"])).await;
    same(browser, client).await;
    check(browser, "Own events").await;
    asks(browser, "/include", &json!(["$pageview", "$screen"])).await;
    same(browser, client).await;
    check(browser, "Own events").await;
    write(browser, "Left out", "/item/1").await;
    asks(browser, "/exclude", &json!(["/item/1"])).await;
    same(browser, client).await;
    click(browser, "Take away /item/1").await;
    write(browser, "Wildcard", "/item/*").await;
    asks(browser, "/path_groups", &json!(["/item/*"])).await;
    same(browser, client).await;
    click(browser, "Take away /item/*").await;
    browser.press("+ Clean names by regex").await;
    write(browser, "Regex", "[0-9]+").await;
    write(browser, "What to write in its place", "N").await;
    asks(browser, "/cleaning/0/alias", &json!("N")).await;
    same(browser, client).await;
    browser.reads("answer-table", "/item/N").await;
    click(browser, "Remove rule").await;
    write(browser, "End point", "bought").await;
    asks(browser, "/end_point", &json!("bought")).await;
    same(browser, client).await;
    click(browser, "Take away bought").await;
    write(browser, "Edges that are shown", "1").await;
    asks(browser, "/edge_limit", &json!(1)).await;
    same(browser, client).await;
    write(browser, "Edges that are shown", "50").await;
    write(browser, "Fewest paths of an edge", "2").await;
    write(browser, "Most paths of an edge", "1000").await;
    asks(browser, "/max_edge_weight", &json!(1000)).await;
    same(browser, client).await;
    filter(browser, "Filters for everything").await;
    same(browser, client).await;
    // A band of the picture leads to its people, by the keyboard too.
    let enter = "document.querySelector('.band').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}))";
    browser.run(enter, vec![]).await;
    browser.see("person-of").await;
    browser.is_clean("the fields of paths").await;
    browser.click_on("[aria-label='Close the people']").await;
}

/// What people did around a step of a funnel.
async fn around(stage: &Stage) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    let funnel = week(&json!({"steps": [{"event": "$pageview"}, {"event": "bought"}]}));
    for (link, part) in [("paths before", "before"), ("in between", "between"), ("paths after", "after")] {
        browser.goto(&address("funnel", &funnel)).await;
        same(browser, client).await;
        browser.press(link).await;
        asks(browser, "/funnel/part", &json!(part)).await;
    }
    same(browser, client).await;
    click(browser, "Remove funnel").await;
    asks(browser, "/funnel", &Value::Null).await;
    same(browser, client).await;
}

async fn trends(stage: &Stage) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    let two = json!([{"event": "bought", "math": "total"}, {"event": "$pageview", "math": "total"}]);
    browser.goto(&address("trends", &week(&json!({"series": two})))).await;
    same(browser, client).await;
    click(browser, "Move series B up").await;
    asks(browser, "/series/0/event", &json!("$pageview")).await;
    same(browser, client).await;
    click(browser, "Remove series A").await;
    same(browser, client).await;
    // The middle of seven days: a point of the chart leads to its people.
    let over = "const done = arguments[arguments.length - 1]; const over = document.querySelector('.u-over'); \
        const { left, top, width, height } = over.getBoundingClientRect(); \
        over.dispatchEvent(new MouseEvent('mousemove', {clientX: left + width / 2, clientY: top + height / 2, bubbles: true})); \
        requestAnimationFrame(() => requestAnimationFrame(() => done(true)))";
    browser.run_async(over, vec![]).await;
    browser.click_on("[data-testid=chart] .u-over").await;
    browser.see("person-of").await;
    let place = browser.place().await;
    assert!(place.contains("2026-03-04"), "{place}");
    browser.click_on("[aria-label='Close the people']").await;
    write(browser, "Smoothing, in intervals", "3").await;
    asks(browser, "/smoothing", &json!(3)).await;
    same(browser, client).await;
    write(browser, "Smoothing, in intervals", "1").await;
    browser.choose("math", "avg_count_per_actor").await;
    same(browser, client).await;
    browser.choose("math", "sum").await;
    choose(browser, "Whose property of series A", "person").await;
    asks(browser, "/series/0/math_property_type", &json!("person")).await;
    choose(browser, "Whose property of series A", "event").await;
    write(browser, "Property of series A", "price").await;
    browser.click("add-breakdown").await;
    write(browser, "Property to break down by", "price").await;
    write(browser, "Bins of numbers", "3").await;
    asks(browser, "/breakdown/histogram_bins", &json!(3)).await;
    same(browser, client).await;
    choose(browser, "Break down by", "cohort").await;
    browser.fill_in("input[aria-label='Cohort']", "Everybody").await;
    browser.find("[role=listbox] [data-index='0']").await;
    browser.keys(ENTER).await;
    asks(browser, "/breakdown/property", &json!(["all"])).await;
    same(browser, client).await;
    click(browser, "Remove breakdown").await;
    browser.choose("interval", "week").await;
    choose(browser, "First day of the week", "monday").await;
    asks(browser, "/week_start", &json!("monday")).await;
    same(browser, client).await;
    browser.fill("date-from", "2026-03-02").await;
    browser.keys(ENTER).await;
    asks(browser, "/date_from", &json!("2026-03-02")).await;
    same(browser, client).await;
    browser.choose("range", "all|").await;
    asks(browser, "/date_from", &json!("all")).await;
    same(browser, client).await;
    browser.is_clean("the fields of a trend").await;
}

/// Retention and stickiness.
async fn others(stage: &Stage) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    let retention = json!({"period": "day", "total_intervals": 7, "date_to": "2026-03-07", "timezone": "UTC",
                           "target_event": "$pageview", "returning_event": "$pageview"});
    browser.goto(&address("retention", &retention)).await;
    same(browser, client).await;
    browser.fill("intervals", "5").await;
    browser.keys(ENTER).await;
    asks(browser, "/total_intervals", &json!(5)).await;
    same(browser, client).await;
    write(browser, "Events in an interval that make a return", "2").await;
    asks(browser, "/min_occurrences", &json!(2)).await;
    same(browser, client).await;
    browser.fill("target-event", "bought").await;
    browser.keys(ENTER).await;
    asks(browser, "/target_event", &json!("bought")).await;
    same(browser, client).await;
    browser.fill("target-event", "$pageview").await;
    browser.keys(ENTER).await;
    browser.fill("date-to", "2026-03-06").await;
    browser.keys(ENTER).await;
    asks(browser, "/date_to", &json!("2026-03-06")).await;
    filter(browser, "Begins with").await;
    same(browser, client).await;
    browser.click_on(".heat td button:not(:disabled)").await;
    browser.see("person-of").await;
    browser.click_on("[aria-label='Close the people']").await;

    browser
        .goto(&address("stickiness", &week(&json!({"interval": "day", "series": [{"event": "$pageview"}]}))))
        .await;
    same(browser, client).await;
    write(browser, "How often in an interval", "2").await;
    asks(browser, "/criteria/value", &json!(2)).await;
    same(browser, client).await;
    choose(browser, "How often, compared", "exact").await;
    asks(browser, "/criteria/operator", &json!("exact")).await;
    same(browser, client).await;
    write(browser, "Intervals that are taken together", "2").await;
    asks(browser, "/interval_count", &json!(2)).await;
    same(browser, client).await;
    browser.is_clean("the fields of stickiness").await;
}

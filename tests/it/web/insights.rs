//! Insights: every kind of question and every control, each number on screen held against the API's answer.

use serde_json::{Value, json};

use super::Stage;
use crate::support::Browser;
use crate::support::sandbox::Client;

/// What stands in the address as the question.
pub(super) async fn question(browser: &Browser) -> Value {
    let text = browser.run("return new URLSearchParams(location.search).get('q') ?? 'null'", vec![]).await;
    serde_json::from_str(text.as_str().unwrap()).unwrap()
}

/// The address of a question.
pub(super) fn address(kind: &str, question: &Value) -> String {
    let encoded: String = form_urlencoded::byte_serialize(question.to_string().as_bytes()).collect();
    format!("/insights/{kind}?q={encoded}")
}

/// A number as the page shows it: grouped, two decimals at most.
fn shown(number: &Value) -> String {
    if number.is_null() {
        return "–".to_owned();
    }
    let number = number.as_f64().unwrap();
    let text = format!("{:.2}", number.abs());
    let (whole, fraction) = text.split_once('.').unwrap();
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let fraction = fraction.trim_end_matches('0');
    let sign = if number < 0.0 { "-" } else { "" };
    if fraction.is_empty() { format!("{sign}{grouped}") } else { format!("{sign}{grouped}.{fraction}") }
}

/// The numbers of an answer, row by row, as the table has them.
fn numbers(kind: &str, question: &Value, answer: &Value) -> Vec<Vec<String>> {
    let results = &answer["results"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    match kind {
        "trends" if results[0].get("aggregated_value").is_some() => {
            list(results).iter().map(|line| vec![shown(&line["aggregated_value"])]).collect()
        }
        "trends" => {
            let lines = list(results);
            let sums = lines.iter().map(|line| shown(&line["count"])).collect();
            let bucket = |at: usize| lines.iter().map(|line| shown(&line["data"][at])).collect();
            std::iter::once(sums).chain((0..list(&lines[0]["data"]).len()).map(bucket)).collect()
        }
        "funnel" if question["viz"] == "trends" => {
            let at = |at: usize| {
                ["reached_from_step", "reached_to_step"].map(|name| shown(&results[name][at])).to_vec()
            };
            (0..list(&results["days"]).len()).map(at).collect()
        }
        "funnel" if question["viz"] == "time_to_convert" => {
            list(&results["bins"]).iter().map(|bin| vec![shown(&bin[1])]).collect()
        }
        "funnel" => {
            let rows = results.get("rows").map_or_else(|| vec![results.clone()], list);
            rows.iter().flat_map(|row| list(&row["counts"])).map(|count| vec![shown(&count)]).collect()
        }
        "retention" => {
            let tables = results.get("breakdowns").map_or_else(|| vec![results.clone()], list);
            let rows = tables.iter().flat_map(|table| list(&table["rows"]));
            rows.map(|row| list(&row).iter().map(shown).collect()).collect()
        }
        "lifecycle" => {
            let states = ["new", "returning", "resurrecting", "dormant"];
            let at = |at: usize| states.map(|state| shown(&results[state][at])).to_vec();
            (0..list(&results["days"]).len()).map(at).collect()
        }
        "stickiness" => {
            let lines = list(&results["series"]);
            let at = |at: usize| lines.iter().map(|line| shown(&line["data"][at])).collect();
            (0..list(&results["data"]).len()).map(at).collect()
        }
        "paths" => list(&results["links"]).iter().map(|link| vec![shown(&link["value"])]).collect(),
        other => panic!("{other}"),
    }
}

/// Waits until the table has exactly the numbers that the API answers to the question in the address.
pub(super) async fn same(browser: &Browser, client: &Client) {
    let place = browser.place().await;
    let kind = place.strip_prefix("/insights/").unwrap().split(['?', '/']).next().unwrap().to_owned();
    let sent = sent(&question(browser).await);
    let (status, answer) = client.post(&format!("/api/query/{kind}"), &sent).await;
    assert_eq!(status, 200, "{sent}: {answer}");
    let expected = numbers(&kind, &sent, &answer);
    // Numbers stand right; of those the funnel's rates and times, and the places of stickiness and paths, are others.
    let cut = match kind.as_str() {
        "funnel" if sent["viz"] == "trends" => ".slice(0, 2)",
        "funnel" if sent["viz"] == "time_to_convert" => "",
        "funnel" => ".slice(0, 1)",
        "stickiness" => ".slice(1)",
        "paths" => ".slice(1, 2)",
        _ => "",
    };
    let script = format!(
        "const rows = [...document.querySelectorAll('[data-testid=answer-table] tbody tr[data-row]')]; \
         const found = rows.map((row) => [...row.querySelectorAll('td.right')].map((cell) => cell.innerText.trim()).filter((text) => text !== ''){cut}); \
         return JSON.stringify(found) === JSON.stringify({}) || JSON.stringify(found)",
        json!(expected)
    );
    browser.until(&format!("{kind} has the numbers {}", json!(expected)), &script).await;
}

/// The question without what is not chosen yet.
fn sent(question: &Value) -> Value {
    let mut sent = question.clone();
    if let Some(fields) = sent.as_object_mut() {
        fields.retain(|_, value| !value.is_null() && *value != json!([]) && *value != json!(""));
    }
    sent
}

fn event(name: &str, who: &str, at: &str, properties: &Value) -> Value {
    json!({"event": name, "distinct_id": who, "timestamp": at, "properties": properties})
}

/// A week of a small shop, with names that try to be more than text.
pub(super) const HOSTILE: &str = "<img src=x onerror=window.pwned=1>";

pub(super) fn shop() -> Vec<Value> {
    let mut events = Vec::new();
    for day in 1..=7 {
        for (who, plan) in [("ann", "pro"), ("bob", "free"), ("cid", "\u{202e}free"), ("dot", HOSTILE)] {
            let at = |clock: &str| format!("2026-03-{day:02}T{clock}:00Z");
            if who == "dot" && day % 3 != 0 {
                continue;
            }
            let page = |url: &str| json!({"$current_url": url, "plan": plan, HOSTILE: day});
            events.push(event("$pageview", who, &at("09:00"), &page("/")));
            events.push(event("$pageview", who, &at("09:05"), &page("/item/1")));
            if who != "bob" || day == 2 {
                events.push(event(
                    "bought",
                    who,
                    &at("09:10"),
                    &json!({"plan": plan, "price": day * 10 + 1, "n": 0.25}),
                ));
            }
        }
    }
    events.push(event(HOSTILE, "eve", "2026-03-02T10:00:00Z", &json!({"plan": "team"})));
    events
}

async fn stage() -> Stage {
    let stage = Stage::logged_in(&[]).await;
    let events = shop();
    stage.app.client.accept(&json!(events)).await;
    stage.app.client.settled(events.len()).await;
    stage
}

fn week(fields: &Value) -> Value {
    let mut question = json!({"date_from": "2026-03-01", "date_to": "2026-03-07", "timezone": "UTC"});
    question.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    question
}

/// Writes a name into a field that suggests, and takes it.
async fn name(browser: &Browser, css: &str, text: &str) {
    browser.fill_in(css, text).await;
    browser.keys("\u{e007}").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trend_is_built_step_by_step_and_every_number_is_the_apis() {
    let stage = stage().await;
    let (browser, client) = (&stage.browser, &stage.app.client);
    browser
        .goto(&address(
            "trends",
            &week(&json!({"interval": "day", "series": [{"event": null, "math": "total"}]})),
        ))
        .await;
    same(browser, client).await;
    name(browser, "[data-testid=series-event]", "bought").await;
    same(browser, client).await;
    assert_eq!(question(browser).await["series"][0]["event"], "bought");
    browser.choose("math", "sum").await;
    browser.reads("empty", "One thing is missing").await;
    name(browser, "[data-testid=math-property]", "price").await;
    same(browser, client).await;
    browser.picture("insights").await;
    browser.click("add-series").await;
    same(browser, client).await;
    name(browser, "[data-testid=formula]", "A / B").await;
    same(browser, client).await;
    assert_eq!(question(browser).await["formulas"], json!(["A / B"]));
    name(browser, "[data-testid=formula]", "").await;
    browser.choose("compare", "-1d").await;
    same(browser, client).await;
    browser.choose("compare", "").await;
    for interval in ["week", "month", "hour", "day"] {
        browser.choose("interval", interval).await;
        same(browser, client).await;
    }
    browser.choose("timezone", "Asia/Kabul").await;
    same(browser, client).await;
    browser.click("add-breakdown").await;
    name(browser, "[data-testid=breakdown]", "plan").await;
    same(browser, client).await;
    for display in ["area", "bar", "cumulative", "bold_number", "pie", "bar_value", "table", "line"] {
        browser.choose("display", display).await;
        same(browser, client).await;
    }
    browser.is_clean("trends").await;

    // The address is the whole of it: a reload, a step back and the link to it show the same.
    let before = browser.place().await;
    browser.reload().await;
    same(browser, client).await;
    assert_eq!(browser.place().await, before);
    browser.back().await;
    same(browser, client).await;
    assert_eq!(question(browser).await["display"], "table");
    keys_alone(&stage).await;
    stage.close().await;
}

/// Nothing but the keyboard: the first series' event is chosen from what is suggested.
async fn keys_alone(stage: &Stage) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    // What is suggested is of the last days.
    let now = |name: &str| json!({"event": name, "distinct_id": "ann"});
    client.accept(&json!([now("$pageview"), now("bought"), now("$pageview")])).await;
    client.settled(shop().len() + 3).await;
    browser.goto(&address("trends", &week(&json!({"series": [{"event": null}]})))).await;
    same(browser, client).await;
    browser.run("document.querySelector('[data-testid=series-event]').focus()", vec![]).await;
    browser.find("[role=listbox] [role=option]:nth-child(3)").await;
    browser.keys("\u{e015}\u{e015}\u{e007}").await;
    let chosen = "return new URLSearchParams(location.search).get('q').includes('$pageview')";
    browser.until("the most frequent event is chosen", chosen).await;
    same(browser, client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_kind_of_question_shows_what_the_api_answers() {
    let stage = stage().await;
    let (browser, client) = (&stage.browser, &stage.app.client);
    let pages = json!([{"event": "$pageview"}, {"event": "bought"}]);
    browser.goto(&address("funnel", &week(&json!({"steps": pages})))).await;
    same(browser, client).await;
    browser.picture("funnel").await;
    for order in ["strict", "unordered", "ordered"] {
        browser.choose("order", order).await;
        same(browser, client).await;
    }
    browser.fill("window", "2").await;
    browser.keys("\u{e007}").await;
    same(browser, client).await;
    browser.click("add-step").await;
    same(browser, client).await;
    browser.click("add-breakdown").await;
    name(browser, "[data-testid=breakdown]", "plan").await;
    same(browser, client).await;
    browser.click_on("[aria-label='Remove breakdown']").await;
    for viz in ["trends", "time_to_convert", "steps"] {
        browser.choose("viz", viz).await;
        same(browser, client).await;
    }
    browser.is_clean("funnel").await;

    let retention = json!({"period": "day", "total_intervals": 7, "date_to": "2026-03-07", "timezone": "UTC",
                           "target_event": "$pageview", "returning_event": "bought"});
    browser.goto(&address("retention", &retention)).await;
    same(browser, client).await;
    browser.choose("retention-type", "first_time").await;
    same(browser, client).await;
    browser.click("cumulative").await;
    same(browser, client).await;
    browser.choose("period", "week").await;
    same(browser, client).await;
    name(browser, "[data-testid=returning-event]", "$pageview").await;
    same(browser, client).await;
    browser.is_clean("retention").await;

    browser.goto(&address("lifecycle", &week(&json!({"series": [{"event": "bought"}]})))).await;
    same(browser, client).await;
    browser.choose("interval", "week").await;
    same(browser, client).await;
    browser.is_clean("lifecycle").await;

    browser.click("kind-stickiness").await;
    same(browser, client).await;
    browser.choose("interval", "day").await;
    browser.click("cumulative").await;
    same(browser, client).await;
    browser.choose("compare", "before").await;
    same(browser, client).await;
    browser.is_clean("stickiness").await;

    browser.goto(&address("paths", &week(&json!({"include": ["$pageview", "custom_event"]})))).await;
    same(browser, client).await;
    browser.fill("step-limit", "2").await;
    browser.keys("\u{e007}").await;
    same(browser, client).await;
    name(browser, "[data-testid=start-point]", "/item/1").await;
    same(browser, client).await;
    browser.is_clean("paths").await;
    stage.close().await;
}

/// Names of the people in the panel.
async fn people(browser: &Browser, count: usize) -> Vec<String> {
    let script = format!("return document.querySelectorAll('[data-testid=person-of]').length === {count}");
    browser.until(&format!("{count} people"), &script).await;
    let names = "return [...document.querySelectorAll('[data-testid=person-name]')].map((one) => one.innerText.trim())";
    let names = browser.run(names, vec![]).await;
    let mut names: Vec<String> =
        names.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_leads_to_its_people_and_an_answer_leaves_the_page() {
    let stage = stage().await;
    let (browser, client) = (&stage.browser, &stage.app.client);
    let trends = week(&json!({"series": [{"event": "bought", "math": "dau"}]}));
    browser.goto(&address("trends", &trends)).await;
    same(browser, client).await;
    // 2 March: everybody but dot bought.
    browser.click_on("[data-row='2'] [data-testid=drill]").await;
    assert_eq!(people(browser, 3).await, ["ann", "bob", "cid"]);
    let held = browser.place().await;
    assert!(held.contains("people="), "{held}");
    browser.reload().await;
    assert_eq!(people(browser, 3).await, ["ann", "bob", "cid"]);
    browser.click_on("[data-testid=person-name]").await;
    browser.find(".person-facts .events a").await;
    browser.is_clean("people").await;
    browser.click("keep-people").await;
    browser.fill("cohort-name", "Buyers").await;
    browser.click("keep").await;
    browser.reads("notices", "a cohort of 3").await;
    let (_, cohorts) = client.get("/api/cohorts").await;
    let (_, members) = client
        .get(&format!("/api/persons?cohort_id={}", cohorts["cohorts"][0]["id"].as_str().unwrap()))
        .await;
    assert_eq!(members["total"], 3, "{members}");
    browser.back().await;
    browser
        .until("the panel is closed", "return document.querySelector('[data-testid=people]') === null")
        .await;

    let funnel = week(&json!({"steps": [{"event": "$pageview"}, {"event": "bought"}]}));
    for (kind, question, path, body, count) in [
        ("funnel", funnel.clone(), "funnel", json!({"funnel": funnel, "step": 0}), 4),
        ("lifecycle", week(&json!({"series": [{"event": "bought"}]})), "lifecycle", Value::Null, 0),
        ("stickiness", week(&json!({"series": [{"event": "bought"}]})), "stickiness", Value::Null, 0),
        ("paths", week(&json!({"include": ["$pageview"]})), "paths", Value::Null, 4),
    ] {
        browser.goto(&address(kind, &question)).await;
        same(browser, client).await;
        browser.click_on("[data-testid=answer-table] [data-testid=drill]").await;
        browser.find("[data-testid=person-of]").await;
        if count > 0 {
            people(browser, count).await;
        }
        if !body.is_null() {
            let (_, answer) = client.post(&format!("/api/query/{path}/people"), &body).await;
            assert_eq!(answer["people"].as_array().unwrap().len(), count);
        }
    }
    leaves(&stage, &trends).await;
    states(&stage).await;
    stage.close().await;
}

/// As a request, as a file, as a link.
async fn leaves(stage: &Stage, trends: &Value) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    browser.goto(&address("trends", trends)).await;
    same(browser, client).await;
    let keep = "navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }; \
                const make = URL.createObjectURL; URL.createObjectURL = (blob) => { window.saved = blob; return make.call(URL, blob); };";
    browser.run(keep, vec![]).await;
    browser.click("copy-curl").await;
    let curl = browser.run("return window.copied", vec![]).await;
    let curl = curl.as_str().unwrap();
    let body = curl.split(" -d '").nth(1).unwrap().trim_end_matches('\'');
    let sent: Value = serde_json::from_str(body).unwrap();
    assert!(curl.starts_with(&format!("curl '{}/api/query/trends'", client.url)), "{curl}");
    assert_eq!(sent["series"], trends["series"]);
    browser.click("copy-link").await;
    let link = browser.run("return window.copied", vec![]).await;
    assert!(link.as_str().unwrap().contains(&format!("project={}", stage.project)), "{link}");
    browser.click("csv").await;
    browser.until("the file is made", "return window.saved !== undefined").await;
    let done = "const done = arguments[arguments.length - 1]; window.saved.text().then(done)";
    let saved = browser.run_async(done, vec![]).await;
    let asked = client
        .http
        .post(format!("{}/api/query/trends?format=csv", client.url))
        .header("X-API-Key", &client.key);
    let csv = asked.json(&sent).send().await.unwrap().text().await.unwrap();
    assert_eq!(saved.as_str().unwrap(), csv);
    let elsewhere = link.as_str().unwrap().strip_prefix(&client.url).unwrap();
    browser.goto(elsewhere).await;
    same(browser, client).await;
}

/// Empty, missing, refused, not over: each says what to do. Names that try to be more stay text.
async fn states(stage: &Stage) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    browser.goto(&address("trends", &week(&json!({"series": [{"event": "never"}]})))).await;
    browser.reads("empty", "Nothing found").await;
    let regex = json!([{"key": "plan", "operator": "regex", "value": "("}]);
    browser
        .goto(&address("trends", &week(&json!({"series": [{"event": "bought", "filters": regex}]}))))
        .await;
    browser.reads("fault", "regular expression").await;
    browser.goto("/insights/trends?q=%7Bno").await;
    browser.reads("broken", "cannot be read").await;
    let now = json!({"date_from": "-1d", "series": [{"event": "fresh"}]});
    client.accept(&json!([{"event": "fresh", "distinct_id": "ann"}])).await;
    client.settled(shop().len() + 1).await;
    browser.goto(&address("trends", &now)).await;
    browser.reads("partial", "not over yet").await;

    let split = json!({"property": ["plan", "event"], "type": ["event", "event_metadata"]});
    browser
        .goto(&address("trends", &week(&json!({"series": [{"event": HOSTILE}], "breakdown": split}))))
        .await;
    browser.reads("answer-table", HOSTILE).await;
    let filters = json!({"type": "OR", "values": [{"key": "plan", "operator": "is_set"},
                        {"type": "AND", "values": [{"key": HOSTILE, "operator": "gt", "value": 1}, {"key": "price", "operator": "between", "value": [1, 2]}]}]});
    browser
        .goto(&address("trends", &week(&json!({"series": [{"event": "bought"}], "filters": filters}))))
        .await;
    same(browser, client).await;
    browser.run("document.querySelector('[data-testid=series-event]').focus()", vec![]).await;
    browser.find("[role=listbox] [role=option]").await;
    assert!(!browser.has("img[src='x']").await);
    assert_eq!(browser.run("return window.pwned === undefined", vec![]).await, json!(true));
    browser.size(420, 900).await;
    let wide = "return document.documentElement.scrollWidth <= innerWidth + 1";
    browser.until("a narrow screen scrolls downwards only", wide).await;
    browser.size(1360, 900).await;
}

//! Every way through the page that no other walk takes: each screen by its link, lists by their pages, what is copied, and
//! answers that are late, refused, or of before.

use serde_json::{Value, json};

use super::Stage;
use super::setup::{count, operator};
use crate::support::{Browser, eventually};

const ENTER: &str = "\u{e007}";
const ESCAPE: &str = "\u{e00c}";

/// Keeps what is copied.
const COPIED: &str =
    "navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }";

async fn copies(browser: &Browser, words: &str) -> String {
    browser.run(COPIED, vec![]).await;
    browser.run("window.copied = undefined", vec![]).await;
    browser.press(words).await;
    browser.until(&format!("{words} copies"), "return window.copied !== undefined").await;
    browser.run("return window.copied", vec![]).await.as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_screen_and_list_is_reached_by_what_leads_to_it() {
    let stage = Stage::logged_in(&[("server.history_interval", "100ms")]).await;
    let client = &stage.app.client;
    let event = |n: usize| {
        let name = ["seen", "paid"][n % 2];
        json!({"event": name, "distinct_id": format!("p{n}"), "event_id": format!("e{n}")})
    };
    let call = |n: usize| json!({"event": "call", "distinct_id": format!("p{n}")});
    let all: Vec<Value> = (0..120).map(event).chain((0..110).map(call)).collect();
    client.accept(&json!({ "batch": all })).await;
    client.settled(all.len()).await;
    shell(&stage).await;
    people(&stage).await;
    events(&stage).await;
    pipeline(&stage).await;
    crowd(&stage).await;
    clocks(&stage).await;
    nothing_yet(&stage).await;
    stage.close().await;
}

/// What stands around every screen.
async fn shell(stage: &Stage) {
    let browser = &stage.browser;
    browser.goto("/settings").await;
    for screen in [
        "live",
        "events",
        "persons",
        "insights",
        "dashboards",
        "attribution",
        "usage",
        "pipeline",
        "dead-letters",
        "transforms",
        "schemas",
        "webhooks",
        "settings",
        "start",
    ] {
        browser.click(&format!("nav-{screen}")).await;
        browser.find(&format!("main[data-screen={screen}] h1")).await;
        browser.until("it is marked", &format!("return document.querySelector('[data-testid=nav-{screen}]').getAttribute('aria-current') === 'page'")).await;
    }
    browser.click("nav-live").await;
    browser.click_on("nav .brand").await;
    browser.find("main[data-screen=start]").await;
    browser.press("Send events from another program").await;
    browser.see("make-key").await;
    browser.press("Make a key").await;
    let copied = copies(browser, "Copy key").await;
    assert_eq!(copied, browser.text("new-key").await);
    browser.click_on("[aria-label='Close this notice']").await;
    count(browser, ".toast", 0).await;
    browser.press("Back to the overview").await;
    browser.reads("events-today", "230").await;
    browser.press("seen").await;
    browser.until("its events are listed", "return location.search === '?event=seen'").await;

    browser.click("search").await;
    browser.see("search-text").await;
    browser.keys(ESCAPE).await;
    browser.click("person").await;
    browser.pick("//button[starts-with(normalize-space(.), 'Keys')]").await;
    browser.reads("help", "Go to Events").await;
    browser.click_on("dialog [aria-label=Close]").await;
    count(browser, "dialog", 0).await;
    let skip = "[...document.querySelectorAll('a')].find((one) => one.textContent === 'Skip to the content').focus()";
    browser.run(skip, vec![]).await;
    browser.keys(ENTER).await;
    browser.until("the content is jumped to", "return location.hash === '#main'").await;

    let environments = operator(stage, &format!("/api/projects/{}/environments", stage.project)).await;
    let all = environments["environments"].as_array().unwrap();
    let other = all.iter().find(|one| one["id"] != json!(stage.environment)).unwrap()["id"].as_str().unwrap();
    browser.goto("/events").await;
    browser.choose("environment", other).await;
    browser.reads("empty", "No events").await;
    // The tab stays where it is over a reload, whatever another tab chose meanwhile.
    let elsewhere = json!({"project": stage.project, "environment": stage.environment}).to_string();
    browser.run("localStorage.setItem('flexflow.scope', arguments[0])", vec![json!(elsewhere)]).await;
    browser.reload().await;
    browser.reads("empty", "No events").await;
    browser.choose("environment", &stage.environment).await;
    browser.see("events-table").await;

    browser.size(420, 800).await;
    browser.click_on("[aria-label=Menu]").await;
    browser.click("nav-persons").await;
    browser.find("main[data-screen=persons]").await;
    browser.size(1360, 900).await;
}

async fn people(stage: &Stage) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    browser.goto("/persons").await;
    count(browser, "[data-testid=persons-table] tbody tr[data-row]", 100).await;
    // A page that does not come says so, and comes later.
    browser.run("window.real = window.fetch; window.fetch = (path, how) => String(path).includes('cursor=') \
        ? Promise.resolve(new Response('{\"code\": \"service_unavailable\", \"message\": \"not now\"}', {status: 503})) : window.real(path, how)", vec![]).await;
    browser.click("more").await;
    browser.reads("fault", "not now").await;
    browser.run("window.fetch = window.real", vec![]).await;
    browser.click("more").await;
    let whole = "return document.querySelector('main').innerText.includes('120 people shown, all of them')";
    browser.until("all are listed", whole).await;
    browser.fill("filter-person", "p7").await;
    count(browser, "[data-testid=persons-table] tbody tr", 1).await;
    assert_eq!(browser.place().await, "/persons?distinct_id=p7");
    browser.run("document.querySelector('[data-testid=persons-table] tbody tr').focus()", vec![]).await;
    browser.keys(ENTER).await;
    browser.reads("person-facts", "p7").await;
    let (_, found) = client.get("/api/persons?distinct_id=p7").await;
    let id = found["persons"][0]["id"].as_str().unwrap();
    browser.reads("person-facts", id).await;
    let link = copies(browser, "Copy link").await;
    assert!(link.contains(id) && link.contains(&stage.environment), "{link}");
    browser.is_clean("a person by the keyboard").await;
    browser.press("All, with filters").await;
    browser.until("the events of this person", &format!("return location.search === '?person_id={id}' && document.querySelectorAll('[data-testid=events-table] tbody tr').length === 2")).await;
    browser.back().await;
    browser.see("person-facts").await;
}

async fn events(stage: &Stage) {
    let browser = &stage.browser;
    browser.goto("/events?distinct_id=p7").await;
    count(browser, "[data-testid=events-table] tbody tr", 2).await;
    assert!(copies(browser, "Copy link").await.contains("distinct_id=p7"));
    browser.press("p7").await;
    browser.see("persons-table").await;
    browser.goto("/events/e7").await;
    browser.reads("timeline", "Stored").await;
    assert_eq!(copies(browser, "Copy id").await, "e7");
    browser.press("Refresh").await;
    browser.press("All of this name").await;
    browser.until("its name's events", "return location.search === '?event=paid'").await;
    // What is typed when the page is left changes nothing elsewhere.
    browser.fill("filter-person", "p7").await;
    browser.run("history.back()", vec![]).await;
    browser.see("timeline").await;
    browser
        .until(
            "a moment later",
            "window.then ??= performance.now(); return performance.now() - window.then > 400",
        )
        .await;
    assert_eq!(browser.place().await, "/events/e7");

    browser.goto("/live").await;
    count(browser, "[data-testid=live-table] tbody tr", 50).await;
    stage.app.client.accept(&json!({"event": "late", "distinct_id": "zoe"})).await;
    browser.reads("live-arrived", "1 arrived").await;
    browser.press("Clear").await;
    browser.reads("live-arrived", "0 arrived").await;
    browser.is_clean("live, cleared").await;
}

/// Waits until the page has each component and each breaker as the API tells them, and all of it is as it should be.
async fn components(stage: &Stage, fits: impl Fn(&[Vec<String>]) -> bool) {
    let text = |one: &Value, name: &str| one[name].as_str().unwrap_or("–").to_owned();
    eventually("the page tells what the API tells", || async {
        let told = operator(stage, "/api/ops/components").await;
        let (parts, breakers) = (told["components"].as_array().unwrap(), told["breakers"].as_array().unwrap());
        let parts: Vec<Vec<String>> =
            parts.iter().map(|one| ["name", "state", "reason"].map(|name| text(one, name)).to_vec()).collect();
        let breakers: Vec<Vec<String>> = breakers
            .iter()
            .map(|one| vec![text(one, "dependency"), text(one, "state").replace('_', "-")])
            .collect();
        let mut shown = Vec::new();
        for (id, columns) in [("components", 3), ("breakers", 2)] {
            let script = "return [...document.querySelectorAll(`[data-testid=${arguments[0]}] tbody tr`)] \
                .map((row) => [...row.cells].slice(0, arguments[1]).map((cell) => cell.innerText.replace(/^[●▲■] /, '').trim()))";
            let rows = stage.browser.run(script, vec![json!(id), json!(columns)]).await;
            shown.push(serde_json::from_value::<Vec<Vec<String>>>(rows).unwrap());
        }
        if shown == [parts.clone(), breakers] && !shown[1].is_empty() && fits(&parts) {
            Ok(())
        } else {
            Err(format!("{shown:?}, {told}"))
        }
    })
    .await;
}

/// The rows of a table, as they are shown.
async fn shown(browser: &Browser, testid: &str) -> Vec<Vec<String>> {
    let script = "return [...document.querySelectorAll(`[data-testid=${arguments[0]}] tbody tr`)] \
        .map((row) => [...row.cells].map((cell) => cell.innerText.trim()))";
    serde_json::from_value(browser.run(script, vec![json!(testid)]).await).unwrap()
}

/// What a table shows for these numbers.
fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let places = digits.char_indices().flat_map(|(at, digit)| {
        let comma = at > 0 && (digits.len() - at).is_multiple_of(3);
        comma.then_some(',').into_iter().chain([digit])
    });
    places.collect()
}

/// What the pipeline did is known before the page is opened, and the page shows what the API told it.
async fn history(stage: &Stage) {
    let browser = &stage.browser;
    let keep = "window.real = window.fetch; window.fetch = async (path, how) => { const answer = await window.real(path, how); \
        if (String(path).includes('/api/ops/history')) window.told = await answer.clone().json(); return answer; }";
    browser.run(keep, vec![]).await;
    eventually("the page shows what the API told", || async {
        let told = browser.run("return window.told ?? null", vec![]).await;
        let rows = shown(browser, "rates").await;
        let sum = |name: &str| -> i64 {
            told["counted"][name].as_array().into_iter().flatten().filter_map(Value::as_i64).sum()
        };
        let names = ["captured", "stored", "batches", "duplicates", "dead_letters", "insert_errors"];
        let together: Vec<String> = names.iter().map(|name| grouped(sum(name))).collect();
        let seen: Vec<String> = rows.iter().filter_map(|row| row.last().cloned()).collect();
        if seen == together && sum("captured") >= 230 && sum("stored") >= 230 && sum("batches") > 0 {
            Ok(())
        } else {
            Err(format!("{rows:?}, {told}"))
        }
    })
    .await;
    let processes = shown(browser, "processes").await;
    assert_eq!((processes.len(), &*processes[0][0]), (1, "capture, consumer, query, auth"));
    browser.choose("span", "1440").await;
    browser.until("the address says it", "return location.search === '?minutes=1440'").await;
    browser.see("rates").await;
    browser.is_clean("the history of the pipeline").await;
}

/// The lag of one group's partitions over time.
async fn lag_over_time(stage: &Stage) {
    let browser = &stage.browser;
    browser.see("lag-history").await;
    let told = operator(stage, "/api/ops/lag").await;
    let group = told["groups"].as_array().unwrap().last().unwrap()["group"].as_str().unwrap();
    browser.choose("lag-group", group).await;
    let topic = told["groups"].as_array().unwrap().last().unwrap()["topic"].clone();
    eventually("the group is shown with what it was behind", || async {
        let told = operator(stage, &format!("/api/ops/history?group={group}")).await;
        let lags = told["lags"].as_array().unwrap();
        let rows = shown(browser, "lag-history").await;
        let all = |row: &Vec<String>| row[0] == topic.as_str().unwrap() && row[1] == "all";
        if rows.len() == lags.len() && rows.iter().any(all) {
            Ok(())
        } else {
            Err(format!("{rows:?}, {told}"))
        }
    })
    .await;
    let (status, refused) = stage.app.client.operator_get("/api/ops/history?group=nobody").await;
    assert_eq!((status, &refused["details"]["field"]), (400, &json!("group")), "{refused}");
    assert!(refused["details"]["valid"].as_array().unwrap().contains(&json!(group)), "{refused}");
    let (status, refused) = stage.app.client.operator_get("/api/ops/history?minutes=1441").await;
    assert_eq!((status, &refused["details"]["max"]), (400, &json!(1440)), "{refused}");
}

/// What the pipeline did, and every component tells how it is.
async fn pipeline(stage: &Stage) {
    let browser = &stage.browser;
    browser.goto("/pipeline").await;
    history(stage).await;
    components(stage, |rows| rows.iter().all(|row| row[1] == "up" && row[2] == "–")).await;
    let down = "document.querySelector('[data-testid=rates]').scrollIntoView({ block: 'end' })";
    browser.run(down, vec![]).await;
    browser.picture("pipeline").await;
    stage.app.running.log().delete_topic("prod_events_v4").await.unwrap();
    let missing = |row: &Vec<String>| {
        row[0] == "topics"
            && row[1] != "up"
            && row[2].contains("missing: prod_events_v4; `flexflow topics create`")
    };
    components(stage, |rows| rows.iter().any(missing)).await;
    browser.goto("/pipeline/topics").await;
    browser.press("Create them").await;
    browser.reads("notices", "Created: prod_events_v4").await;
    lag_over_time(stage).await;
    browser.goto("/pipeline/checks").await;
    browser.press("Check again").await;
    browser.click("audit").await;
    browser.reads("audit-answer", "Balanced").await;
    browser.press("Audit again").await;
    browser.reads("audit-answer", "Balanced").await;
}

/// Times are by the project's clocks, until somebody takes others; questions that name no zone are asked in it.
async fn clocks(stage: &Stage) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    browser.goto("/settings/project").await;
    browser.choose("project-zone", "Pacific/Chatham").await;
    browser.reads("notices", "Pacific/Chatham").await;
    let path = format!("/api/projects/{}", stage.project);
    assert_eq!(operator(stage, &path).await["time_zone"], "Pacific/Chatham");
    browser.is_clean("the zone of a project").await;
    browser.picture("settings").await;
    let trail = operator(stage, &format!("{path}/audit-log")).await;
    assert_eq!(trail["entries"][0]["action"], "project_zone_changed", "{trail}");
    eventually("questions are asked in it", || async {
        let (_, answer) = client.post("/api/query/trends", &json!({"series": [{"event": "seen"}]})).await;
        if answer["meta"]["timezone"] == "Pacific/Chatham" { Ok(()) } else { Err(answer["meta"].to_string()) }
    })
    .await;
    let shown_in = |zone: &str| {
        format!(
            "const found = document.querySelector('[data-testid=events-table] time'); if (!found) return 'none'; \
             const wanted = new Intl.DateTimeFormat(undefined, {{ hour: '2-digit', minute: '2-digit', second: '2-digit', fractionalSecondDigits: 3, \
               timeZone: '{zone}' }}).format(new Date(found.dateTime)); \
             return found.innerText.includes(wanted) && found.title.includes(found.dateTime) || found.innerText"
        )
    };
    browser.goto("/events").await;
    browser.until("events are shown in the project's zone", &shown_in("Pacific/Chatham")).await;
    browser.click("person").await;
    browser.choose("zone", "Asia/Kabul").await;
    browser.until("events are shown in the reader's zone", &shown_in("Asia/Kabul")).await;
    browser.pick("//*[@data-testid='zone']/option[starts-with(., 'The project')]").await;
    browser.until("events are shown in the project's zone again", &shown_in("Pacific/Chatham")).await;
}

/// More people, and more events, than one page of a list has.
async fn crowd(stage: &Stage) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    let asked = json!({"date_from": "-1d", "interval": "month", "timezone": "UTC", "display": "bold_number",
                       "series": [{"event": "call", "math": "dau"}]});
    browser.goto(&super::insights::address("trends", &asked)).await;
    browser.click_on("[data-testid=answer-table] [data-testid=drill]").await;
    count(browser, "[data-testid=person-of]", 100).await;
    browser.click("more-people").await;
    count(browser, "[data-testid=person-of]", 110).await;
    assert!(copies(browser, "Copy as request").await.contains("/api/query/trends/people"));
    let keep = "const make = URL.createObjectURL; URL.createObjectURL = (blob) => { window.saved = blob; return make.call(URL, blob); }";
    browser.run(keep, vec![]).await;
    browser.click("people-csv").await;
    browser.until("the file is made", "return window.saved !== undefined").await;
    let done = "const done = arguments[arguments.length - 1]; window.saved.text().then(done)";
    let file = browser.run_async(done, vec![]).await;
    assert_eq!(file.as_str().unwrap().lines().count(), 111, "everybody, and what the columns are");

    let meter = json!({"name": "calls", "event_name": "call", "aggregation": {"type": "COUNT"}});
    let (status, meter) = client.operator_post("/v1/meters", &meter).await;
    assert_eq!(status, 201, "{meter}");
    browser.goto(&format!("/usage/meters/{}", meter["id"].as_str().unwrap())).await;
    browser.click("drill-total").await;
    browser.reads("listed", "100").await;
    browser.click("more-events").await;
    browser.reads("listed", "110").await;
}

/// Where nothing is shown yet, what to do leads on.
async fn nothing_yet(stage: &Stage) {
    let browser = &stage.browser;
    browser.goto("/dashboards").await;
    browser.pick("//main//a[.='Insights']").await;
    browser.find("main[data-screen=insights]").await;
    browser.goto("/dashboards").await;
    browser.click("new-dashboard").await;
    browser.fill("name", "Calls").await;
    browser.click("make").await;
    browser.reads("empty", "Nothing on it yet").await;
    browser.press("All dashboards").await;
    browser.reads("dashboards", "Calls").await;
    let made = stage.app.client.get("/api/dashboards").await.1["dashboards"][0]["id"].clone();
    browser.goto("/insights/trends").await;
    browser.click("save").await;
    browser.press("Open it").await;
    browser.reads("empty", "Nothing on it yet").await;
    browser.goto("/insights/trends").await;
    browser.click("save").await;
    browser.choose("tile-dashboard", made.as_str().unwrap()).await;
    browser.fill("tile-name", "All").await;
    browser.click("save-tile").await;
    browser.reads("notices", "Saved to Calls").await;

    let environments = operator(stage, &format!("/api/projects/{}/environments", stage.project)).await;
    let all = environments["environments"].as_array().unwrap();
    let other = all.iter().find(|one| one["id"] != json!(stage.environment)).unwrap()["id"].as_str().unwrap();
    browser.choose("environment", other).await;
    for (screen, words, to) in [
        ("/insights/trends", "the live events", "live"),
        ("/live", "Send a first event", "start"),
        ("/events", "send an event", "start"),
    ] {
        browser.goto(screen).await;
        browser.press(words).await;
        browser.find(&format!("main[data-screen={to}]")).await;
    }
    let key = stage.key(&stage.project, &json!(other)).await;
    // What is sent before the page listens is not of those that arrive in its sight.
    eventually("one arrives", || async {
        stage.send(&key, &json!({"event": "first", "distinct_id": "ada"})).await;
        if browser.has("[data-testid=arrived]").await { Ok(()) } else { Err("none arrived".to_owned()) }
    })
    .await;
    browser.reads("arrived", "first").await;
    browser.press("Watch live").await;
    browser.reads("live-table", "first").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_again_and_again_waits_for_an_answer_that_is_late() {
    let stage = Stage::set(&[]).await;
    let browser = &stage.browser;
    browser.goto("/").await;
    browser.see("login").await;
    let script = "const base = document.querySelector('script[src]').src.replace('app.js', ''); \
        const done = arguments[arguments.length - 1]; const load = (name) => import(base + name); \
        Promise.all([load('lib/load.js'), load('lib/ui.js')]).then(async ([load, ui]) => { \
          const root = document.body.appendChild(document.createElement('div')); let asked = 0; let answer; \
          const wait = (how) => new Promise((next) => { const look = () => how() ? next() : setTimeout(look, 10); look(); }); \
          const Part = () => { const { data } = load.useLoad(() => { asked++; return new Promise((go) => { answer = go; }); }, [], { every: 20 }); return ui.html`<b>${data}</b>`; }; \
          ui.render(ui.html`<${Part} />`, root); await wait(() => asked > 0); \
          const begun = performance.now(); await wait(() => performance.now() - begun > 300); const late = asked; \
          answer('here'); await wait(() => root.innerText === 'here'); await wait(() => asked > late); \
          ui.render(null, root); root.remove(); done({ late, more: asked }); }, (error) => done(String(error)))";
    let told = browser.run_async(script, vec![]).await;
    assert_eq!(told, json!({"late": 1, "more": 2}), "one question at a time");
    stage.close().await;
}

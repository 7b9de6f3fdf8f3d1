//! The screens, each opened and used; what they show is held against the API.

use bytes::Bytes;
use flexflow::eventlog::NewRecord;
use serde_json::{Value, json};

use super::Stage;
use super::insights::same;
use crate::support::{eventually, just_now};

fn rows(browser_rows: &Value) -> Vec<Vec<String>> {
    let rows = browser_rows.as_array().unwrap().iter();
    rows.map(|row| row.as_array().unwrap().iter().map(|cell| cell.as_str().unwrap().to_owned()).collect())
        .collect()
}

impl Stage {
    /// The cells of a table, as they read.
    async fn table(&self, id: &str) -> Vec<Vec<String>> {
        self.browser.see(id).await;
        let script = "return [...document.querySelectorAll(`[data-testid=\"${arguments[0]}\"] tbody tr`)] \
            .map((row) => [...row.cells].map((cell) => cell.innerText.trim()))";
        rows(&self.browser.run(script, vec![json!(id)]).await)
    }

    async fn operator(&self, path: &str) -> Value {
        let (status, answer) = self.app.client.operator_get(path).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one walk through the screens, in the order of a person's day")]
async fn from_the_first_log_in_to_the_first_event_the_page_says_what_to_do() {
    let stage = Stage::set(&[]).await;
    let browser = &stage.browser;
    browser.goto("/").await;
    browser.see("login").await;
    browser.is_clean("log-in").await;
    browser.fill("email", &stage.email).await;
    browser.fill("password", "not the password").await;
    browser.click("enter").await;
    browser.find("[data-testid=fault][data-code=unauthorized]").await;
    browser.log_in(&stage.email, &stage.password).await;

    // No events yet: three steps, with a key that is made here and shown once.
    browser.see("make-key").await;
    browser.click("make-key").await;
    let key = browser.text("new-key").await;
    assert!(key.starts_with("ff_"), "{key}");
    for language in ["curl", "Python", "JavaScript"] {
        browser.press(language).await;
        browser
            .until(
                "the lines have the key",
                &format!("return document.querySelector('.code pre').innerText.includes({})", json!(key)),
            )
            .await;
    }
    browser.is_clean("first run").await;
    browser.picture("first-run").await;
    stage
        .send(&key, &json!({"event": "signed up", "distinct_id": "ada", "properties": {"plan": "pro"}}))
        .await;
    browser.reads("arrived", "signed up").await;
    browser.is_clean("the first event").await;
    browser.press("Draw a first chart").await;
    browser.see("chart").await;
    same(browser, &stage.app.client).await;

    // The same event on the live page, in the list, and alone.
    browser.click("nav-live").await;
    browser.find("[data-testid=live-state][data-state=open]").await;
    browser.reads("live-table", "signed up").await;
    stage
        .send(
            &key,
            &json!({"event": "paid", "distinct_id": "ada", "properties": {"plan": "pro", "amount": 12}}),
        )
        .await;
    stage.send(&key, &json!({"event": "paid", "distinct_id": "bob", "properties": {"plan": "free"}})).await;
    browser.reads("live-table", "paid").await;
    browser.fill("filter-key", "plan").await;
    browser.fill("filter-value", "free").await;
    browser.until("only bob is left", "const rows = document.querySelectorAll('[data-testid=live-table] tbody tr'); return rows.length === 1 && rows[0].innerText.includes('bob')").await;
    assert!(browser.place().await.contains("key=plan"), "the address holds the filters");
    browser.reload().await;
    browser.until("the filters are still there", "const rows = document.querySelectorAll('[data-testid=live-table] tbody tr'); return rows.length === 1 && rows[0].innerText.includes('bob')").await;
    browser.click("live-pause").await;
    browser.find("[data-testid=live-state][data-state=paused]").await;
    browser.is_clean("live").await;
    browser.picture("live").await;

    browser.goto("/events?event=paid").await;
    let shown = stage.table("events-table").await;
    let (_, listed) = stage.app.client.get("/api/query/events?event=paid").await;
    let listed: Vec<String> = listed["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["distinct_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(shown.iter().map(|row| row[2].clone()).collect::<Vec<_>>(), listed);
    browser.is_clean("events").await;
    browser.press("paid").await;
    browser.find("[data-testid=trace-status][data-status=stored]").await;
    browser.reads("properties", "free").await;
    for step in ["received", "logged", "stored"] {
        browser.find(&format!("[data-testid=timeline] [data-step={step}]")).await;
    }
    browser.is_clean("an event").await;
    browser.back().await;
    browser.see("events-table").await;
    assert_eq!(browser.place().await, "/events?event=paid", "back keeps the state");

    browser.click("nav-persons").await;
    let people = stage.table("persons-table").await;
    let (_, listed) = stage.app.client.get("/api/persons").await;
    let listed: Vec<&Value> = listed["persons"].as_array().unwrap().iter().collect();
    assert_eq!(people.len(), listed.len());
    for (row, person) in people.iter().zip(&listed) {
        assert_eq!(
            (row[0].as_str(), row[2].clone()),
            (person["distinct_ids"][0].as_str().unwrap(), person["events_total"].to_string())
        );
    }
    browser.is_clean("people").await;
    browser.press("ada").await;
    browser.reads("person-facts", "ada").await;
    browser.is_clean("a person").await;

    // The start page has its overview now.
    browser.goto("/").await;
    browser.reads("events-today", "3").await;
    browser.is_clean("overview").await;
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one walk through the screens, in the order of a person's day")]
async fn operators_see_what_is_stuck_and_mend_it() {
    let stage = Stage::logged_in(&[]).await;
    let browser = &stage.browser;
    let poison = |id: usize, name: &str| {
        NewRecord {
        key: Some(Bytes::from_static(b"ada")),
        value: Bytes::from(json!({
            "id": format!("e{id}"), "project_id": stage.project, "environment_id": stage.environment, "event_name": name,
            "distinct_id": "ada", "timestamp": "2026-01-31T11:00:00Z", "received_at": "2026-01-31T11:00:01Z",
            "schema_version": 1, "properties": {"n": id}
        }).to_string()),
        headers: Default::default(),
        timestamp: just_now(),
    }
    };
    let records = vec![poison(1, ""), poison(2, ""), poison(3, ""), poison(4, "good")];
    for outcome in stage.app.running.log().produce(&stage.app.client.events_topic, records).await {
        outcome.unwrap();
    }
    eventually("three are listed", || async {
        let found = stage.operator("/api/dlq?status=open").await;
        if found["dead_letters"].as_array().unwrap().len() == 3 { Ok(()) } else { Err(found.to_string()) }
    })
    .await;

    browser.goto("/dead-letters").await;
    browser.reads("status-open", "3").await;
    let shown = stage.table("letters").await;
    assert_eq!(shown.len(), 3);
    assert!(shown.iter().all(|row| row[2] == "missing_field" || row[2] == "invalid_field"), "{shown:?}");
    browser.is_clean("dead letters").await;
    browser.picture("dead-letters").await;

    // One of them: raw view, fix, dry run, replay.
    browser.click_on("[data-testid=letters] tbody tr:first-child a").await;
    browser
        .until(
            "its record is shown",
            "return document.querySelector('.code pre')?.innerText.includes('\"event_name\"') ?? false",
        )
        .await;
    browser.is_clean("a dead letter").await;
    browser.click("replay").await;
    browser.fill("fix", "not json").await;
    browser.click("dry-run").await;
    browser.reads("fault", "The fix is not JSON").await;
    browser.fill("fix", "{\"event_name\": \"mended\"}").await;
    browser.click("dry-run").await;
    browser.find("[data-testid=job][data-dry=true][data-state=succeeded]").await;
    browser
        .until(
            "the dry run shows what would be written",
            "return document.querySelector('.sample .after')?.innerText.includes('mended') ?? false",
        )
        .await;
    browser.is_clean("a dry run").await;
    assert_eq!(
        stage.operator("/api/dlq?status=open").await["dead_letters"].as_array().unwrap().len(),
        3,
        "nothing happened"
    );
    browser.click("act").await;
    browser.find("[data-testid=job][data-dry=false][data-state=succeeded]").await;
    browser.press("Close").await;
    eventually("the mended event is stored", || async {
        let (_, found) = stage.app.client.get("/api/query/events?event=mended").await;
        if found["events"].as_array().is_some_and(|found| found.len() == 1) {
            Ok(())
        } else {
            Err(found.to_string())
        }
    })
    .await;

    // The others are given up.
    browser.goto("/dead-letters").await;
    browser.reads("status-open", "2").await;
    browser.click("discard").await;
    browser.fill("reason", "a test sent them").await;
    browser.click("act").await;
    browser.find("[data-testid=job][data-dry=false][data-state=succeeded]").await;
    browser.press("Close").await;
    browser.reads("status-discarded", "2").await;
    browser.find("[data-testid=empty]").await;

    browser.click("nav-pipeline").await;
    let components = stage.table("components").await;
    let told = stage.operator("/api/ops/components").await;
    let told: Vec<String> = told["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(components.iter().map(|row| row[0].clone()).collect::<Vec<_>>(), told);
    browser.reads("rates", "Dead letters").await;
    browser.is_clean("pipeline").await;
    browser.press("Topics and lag").await;
    let topics = stage.table("topics").await;
    let told = stage.operator("/api/ops/topics").await;
    let told: Vec<String> = told["topics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(topics.iter().map(|row| row[0].clone()).collect::<Vec<_>>(), told);
    browser.is_clean("topics").await;
    browser.press("Jobs").await;
    let jobs = stage.table("jobs").await;
    let told = stage.operator("/api/jobs").await;
    assert_eq!(jobs.len(), told["jobs"].as_array().unwrap().len());
    browser.is_clean("jobs").await;
    browser.press("Checks").await;
    browser.see("checks").await;
    browser.click("audit").await;
    browser.reads("audit-answer", "Balanced").await;
    browser.is_clean("checks").await;
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_manage_the_project_and_its_keys() {
    let stage = Stage::logged_in(&[]).await;
    let (browser, project) = (&stage.browser, stage.project.clone());
    browser.click("nav-settings").await;
    browser.is_clean("you").await;
    browser.press("Project").await;
    browser.fill_in("[data-testid=new-environment] input", "staging").await;
    browser.click_on("[data-testid=new-environment] button").await;
    browser.reads("environments", "staging").await;
    browser.is_clean("project").await;
    let told = stage.operator(&format!("/api/projects/{project}/environments")).await;
    let told: Vec<&str> =
        told["environments"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    let shown = stage.table("environments").await;
    assert_eq!(shown.iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), told);

    browser.press("API keys").await;
    browser.fill_in("[data-testid=make-key] input[name=name]", "from the page").await;
    browser.click_on("[data-testid=make-key] button.primary").await;
    let key = browser.text("new-key").await;
    stage.send(&key, &json!({"event": "sent", "distinct_id": "ada"})).await;
    browser.is_clean("keys").await;
    browser.click_on("[data-testid=keys] tbody tr:first-child button.danger").await;
    browser.click("confirm").await;
    eventually("one of the keys is revoked", || async {
        let found = stage.operator(&format!("/api/projects/{project}/api-keys")).await;
        let revoked =
            found["api_keys"].as_array().unwrap().iter().filter(|one| !one["revoked_at"].is_null()).count();
        if revoked == 1 { Ok(()) } else { Err(found.to_string()) }
    })
    .await;

    stage.person("vera@example.com", "viewer").await;
    browser.press("Members").await;
    browser.reads("members", "vera@example.com").await;
    browser.fill_in("[data-testid=add-member] input[name=email]", "new@example.com").await;
    browser.click_on("[data-testid=add-member] button").await;
    browser
        .until(
            "the link of the invitation is shown",
            "return document.querySelector('.secret')?.innerText.includes('invitation=') ?? false",
        )
        .await;
    browser.is_clean("members").await;
    browser.press("Who did what").await;
    browser.reads("audit", "key").await;
    browser.is_clean("audit trail").await;
    browser.press("Everybody").await;
    browser.reads("people", "vera@example.com").await;
    browser.is_clean("everybody").await;
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_keyboard_themes_and_narrow_screens() {
    let stage = Stage::logged_in(&[]).await;
    let browser = &stage.browser;
    stage.send(&stage.app.client.key, &json!({"event": "signed up", "distinct_id": "ada"})).await;
    browser.goto("/settings").await;
    browser.see("nav-live").await;
    browser.keys("gl").await;
    browser.find("main[data-screen=live]").await;
    browser.keys("?").await;
    browser.reads("help", "Go to Events").await;
    browser.is_clean("help").await;
    browser.keys("\u{e00c}").await;
    browser.until("the help is closed", "return document.querySelector('[data-testid=help]') === null").await;
    browser.keys("/").await;
    browser.fill("search-text", "signed").await;
    browser.reads("search-dialog", "signed up").await;
    browser.is_clean("search").await;
    browser.keys("\u{e007}").await;
    browser.until("the search leads to the events", "return location.pathname === '/events'").await;

    browser.click("person").await;
    browser.choose("theme", "dark").await;
    let paper = "return getComputedStyle(document.body).backgroundColor";
    let dark = browser.run(paper, vec![]).await;
    browser.is_clean("dark").await;
    browser.choose("theme", "light").await;
    assert_ne!(browser.run(paper, vec![]).await, dark);
    browser.choose("zone", "UTC").await;

    browser.size(420, 800).await;
    browser.goto("/pipeline").await;
    browser.see("components").await;
    browser
        .until(
            "nothing stands over the edge",
            "return document.documentElement.scrollWidth <= window.innerWidth",
        )
        .await;
    browser.is_clean("narrow").await;
    stage.close().await;
}

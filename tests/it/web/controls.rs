//! The controls that no other walk uses: filters of lists, what owners and administrators change, jobs and dead letters.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use flexflow::eventlog::NewRecord;
use serde_json::{Value, json};

use super::Stage;
use super::setup::{count, operator};
use crate::support::{eventually, just_now};

/// Waits until the API fits; answers what it told.
async fn told(stage: &Stage, path: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || async {
        let found = operator(stage, path).await;
        if fits(&found) { Ok(found) } else { Err(found.to_string()) }
    })
    .await
}

/// Waits until the list has exactly the events that the API answers to this query, in its order.
async fn lists(stage: &Stage, what: &str, query: &str) {
    let (status, answer) = stage.app.client.get(&format!("/api/query/events?limit=100{query}")).await;
    assert_eq!(status, 200, "{answer}");
    let events = answer["events"].as_array().unwrap();
    let expected: Vec<(&Value, &Value)> =
        events.iter().map(|one| (&one["event"], &one["distinct_id"])).collect();
    let script = format!(
        "const rows = [...document.querySelectorAll('[data-testid=events-table] tbody tr[data-row]')] \
         .map((row) => [row.cells[1].innerText.trim(), row.cells[2].innerText.trim()]); \
         return JSON.stringify(rows) === JSON.stringify({}) || JSON.stringify(rows)",
        json!(expected)
    );
    stage.browser.until(what, &script).await;
}

fn encoded(properties: &Value) -> String {
    form_urlencoded::byte_serialize(properties.to_string().as_bytes()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_of_the_events_asks_the_api_for_what_it_says() {
    let stage = Stage::logged_in(&[]).await;
    let (browser, client) = (&stage.browser, &stage.app.client);
    let event = |n: usize| {
        let mut properties = json!({"n": n});
        if n.is_multiple_of(2) {
            let plan = ["pro", "free", "\u{202e}team"][n % 3];
            properties["plan"] = json!(plan);
        }
        let name = ["seen", "paid"][n % 2];
        json!({"event": name, "distinct_id": format!("p{}", n % 4), "properties": properties})
    };
    let events: Vec<Value> = (0..120).map(event).collect();
    client.accept(&json!({ "batch": events })).await;
    client.settled(events.len()).await;

    browser.goto("/events").await;
    lists(&stage, "the newest", "").await;
    browser.click("more").await;
    browser
        .until(
            "all are listed",
            "return document.querySelector('main').innerText.includes('120 events shown, all of them')",
        )
        .await;
    browser.fill("filter-event", "paid").await;
    lists(&stage, "of a name", "&event=paid").await;
    browser.fill("filter-person", "p1").await;
    lists(&stage, "of a name and a person", "&event=paid&distinct_id=p1").await;
    assert_eq!(browser.place().await, "/events?event=paid&distinct_id=p1");
    browser.press("Clear").await;
    lists(&stage, "without filters", "").await;
    browser.fill("filter-key", "plan").await;
    for (operator, value) in [
        ("exact", json!("free")),
        ("is_not", json!("free")),
        ("icontains", json!("RO")),
        ("not_icontains", json!("ro")),
        ("is_set", Value::Null),
        ("is_not_set", Value::Null),
    ] {
        browser.choose("filter-operator", operator).await;
        let mut filter = json!({"key": "plan", "operator": operator});
        if let Some(text) = value.as_str() {
            browser.fill("filter-value", text).await;
            filter["value"] = value.clone();
        } else {
            count(browser, "[data-testid=filter-value]", 0).await;
        }
        lists(&stage, operator, &format!("&properties={}", encoded(&json!([filter])))).await;
    }
    browser.fill("filter-key", "n").await;
    for (operator, limit) in [("gt", 100), ("lt", 7)] {
        browser.choose("filter-operator", operator).await;
        browser.fill("filter-value", &limit.to_string()).await;
        let filter = json!([{"key": "n", "operator": operator, "value": limit}]);
        lists(&stage, operator, &format!("&properties={}", encoded(&filter))).await;
    }
    browser.choose("filter-from", "-1h").await;
    let filter = json!([{"key": "n", "operator": "lt", "value": 7}]);
    lists(&stage, "of the last hour", &format!("&date_from=-1h&properties={}", encoded(&filter))).await;
    browser.is_clean("filtered events").await;
    live(&stage).await;
    stage.close().await;
}

/// The same filters on the live page, which is paused and goes on.
async fn live(stage: &Stage) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    browser.goto("/live?event=paid").await;
    browser.find("[data-testid=live-state][data-state=open]").await;
    count(browser, "[data-testid=live-table] tbody tr", 50).await;
    browser.run("document.activeElement.blur()", vec![]).await;
    browser.keys("p").await;
    browser.find("[data-testid=live-state][data-state=paused]").await;
    browser.press("Go on").await;
    browser.find("[data-testid=live-state][data-state=open]").await;
    client.accept(&json!({"event": "seen", "distinct_id": "eve"})).await;
    client.accept(&json!({"event": "paid", "distinct_id": "zoe"})).await;
    browser.reads("live-table", "zoe").await;
    assert!(!browser.text("live-table").await.contains("eve"), "it is of another name");
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_change_names_roles_and_passwords_and_administrators_accounts() {
    let stage = Stage::logged_in(&[]).await;
    let browser = &stage.browser;
    names(&stage).await;
    members(&stage).await;
    accounts(&stage).await;
    keys(&stage).await;

    // One's own password, and the end of the project that was made.
    browser.goto("/settings").await;
    browser.fill_in("input[name=current]", "not the password").await;
    browser.fill_in("input[name=next]", "a longer password").await;
    browser.press("Change it").await;
    browser.see("fault").await;
    browser.fill_in("input[name=current]", &stage.password).await;
    browser.fill_in("input[name=next]", "a longer password").await;
    browser.press("Change it").await;
    browser.reads("notices", "The password was changed").await;
    browser.is_clean("a changed password").await;
    browser.click("person").await;
    browser.click("logout").await;
    browser.log_in(&stage.email, "a longer password").await;
    stage.close().await;
}

async fn names(stage: &Stage) {
    let browser = &stage.browser;
    let at = format!("/api/projects/{}", stage.project);
    browser.goto("/settings/project").await;
    browser.fill_in("[data-testid=rename-project] input", "The shop").await;
    browser.click_on("[data-testid=rename-project] button").await;
    told(stage, &at, "the project has its name", |found| found["name"] == "The shop").await;
    browser
        .until(
            "the head shows it",
            "return document.querySelector('[data-testid=project]').innerText.includes('The shop')",
        )
        .await;
    browser.pick("(//*[@data-testid='environments']//button[.='Rename'])[last()]").await;
    // A name that is taken is refused, and what was typed stays.
    browser.fill_in("[data-testid=rename-environment] input", "production").await;
    browser.click_on("[data-testid=rename-environment] button").await;
    browser.see("fault").await;
    let typed =
        "return document.querySelector('[data-testid=rename-environment] input').value === 'production'";
    browser.until("what was typed stays", typed).await;
    browser.fill_in("[data-testid=rename-environment] input", "trial").await;
    browser.click_on("[data-testid=rename-environment] button").await;
    browser.reads("environments", "trial").await;
    let found = operator(stage, &format!("{at}/environments")).await;
    assert!(found["environments"].as_array().unwrap().iter().any(|one| one["name"] == "trial"), "{found}");

    browser.fill_in("[data-testid=new-project] input", "Another").await;
    browser.click_on("[data-testid=new-project] button").await;
    browser.reads("notices", "Project Another was made").await;
    let made = browser.run("return document.querySelector('[data-testid=project]').value", vec![]).await;
    assert_eq!(
        operator(stage, &format!("/api/projects/{}", made.as_str().unwrap())).await["name"],
        "Another"
    );
    browser.press("Delete the project…").await;
    browser.press("Keep it").await;
    browser.press("Delete the project…").await;
    browser.click("confirm").await;
    browser.reads("notices", "Another was deleted").await;
    let shown =
        format!("return document.querySelector('[data-testid=project]').value === {}", json!(stage.project));
    browser.until("the page is in the other project", &shown).await;
    browser.is_clean("names").await;
}

async fn members(stage: &Stage) {
    let browser = &stage.browser;
    let at = format!("/api/projects/{}", stage.project);
    stage.person("vera@example.com", "viewer").await;
    browser.goto("/settings/members").await;
    browser.reads("members", "vera@example.com").await;
    let row = "(//*[@data-testid='members']//tr[contains(., 'vera@example.com')])";
    browser.pick(&format!("{row}//option[@value='editor']")).await;
    let has = |role: &'static str| {
        move |found: &Value| found["members"].as_array().unwrap().iter().any(|one| one["role"] == role)
    };
    told(stage, &format!("{at}/members"), "vera is an editor", has("editor")).await;
    browser.pick(&format!("{row}//button[.='Remove']")).await;
    told(stage, &format!("{at}/members"), "vera is gone", |found| !has("editor")(found)).await;
    browser.fill_in("[data-testid=add-member] input[name=email]", "vera@example.com").await;
    browser.pick("//select[@name='role']/option[@value='editor']").await;
    browser.pick("//select[@name='how']/option[@value='add']").await;
    browser.press("Do it").await;
    told(stage, &format!("{at}/members"), "vera is an editor again", has("editor")).await;
    browser.fill_in("[data-testid=add-member] input[name=email]", "new@example.com").await;
    browser.pick("//select[@name='how']/option[@value='invite']").await;
    browser.press("Do it").await;
    browser.press("Take back").await;
    told(stage, &format!("{at}/invitations"), "the invitation is taken back", |found| {
        found["invitations"].as_array().unwrap().iter().all(|one| !one["revoked_at"].is_null())
    })
    .await;
    browser.is_clean("members").await;
}

async fn accounts(stage: &Stage) {
    let browser = &stage.browser;
    let of = |found: &Value, name: &str| {
        let all = found["users"].as_array().unwrap().iter();
        all.clone().find(|one| one["email"] == "max@example.com").map(|one| one[name].clone())
    };
    browser.goto("/settings/people").await;
    browser.fill_in("input[name=email]", "max@example.com").await;
    browser.fill_in("input[name=name]", "Max").await;
    for twice in ["admin", "admin"] {
        browser.click_on(&format!("input[name={twice}]")).await;
    }
    browser.press("Make it").await;
    browser.reads("people", "max@example.com").await;
    let first = browser.run("return document.querySelector('.secret').innerText", vec![]).await;
    browser.press("I have it").await;
    let row = "(//*[@data-testid='people']//tr[contains(., 'max@example.com')])";
    browser.pick(&format!("{row}//button[.='New password']")).await;
    browser.find(".secret").await;
    let next = browser.run("return document.querySelector('.secret').innerText", vec![]).await;
    assert_ne!(first, next);
    browser.pick(&format!("{row}//button[.='Let in no more']")).await;
    told(stage, "/api/users", "max is out", |found| of(found, "disabled_at").is_some_and(|at| !at.is_null()))
        .await;
    browser.pick(&format!("{row}//button[.='Let in again']")).await;
    told(stage, "/api/users", "max is in", |found| of(found, "disabled_at") == Some(Value::Null)).await;
    browser.is_clean("accounts").await;
}

async fn keys(stage: &Stage) {
    let browser = &stage.browser;
    browser.goto("/settings/keys").await;
    browser.fill_in("[data-testid=make-key] input[name=name]", "to be revoked").await;
    browser.click_on("[data-testid=make-key] input[name=scope][value=query]").await;
    browser.pick("(//select[@name='environment']/option)[2]").await;
    browser.run("document.querySelector('input[name=expires]').value = '2030-02-01'", vec![]).await;
    browser.press("Make a key").await;
    browser.see("new-key").await;
    let at = format!("/api/projects/{}/api-keys", stage.project);
    let found = operator(stage, &at).await;
    let made =
        found["api_keys"].as_array().unwrap().iter().find(|one| one["name"] == "to be revoked").unwrap();
    assert_eq!(made["scopes"], json!(["ingest", "query"]));
    assert_eq!(made["expires_at"].as_str().map(|at| &at[..10]), Some("2030-02-01"));
    assert_ne!(made["environment_id"], json!(stage.environment), "it is of the other environment");
    browser.pick("//*[@data-testid='keys']//tr[contains(., 'to be revoked')]//button[.='Revoke…']").await;
    browser.click("confirm").await;
    browser
        .until(
            "it is listed no more",
            "return !document.querySelector('[data-testid=keys]').innerText.includes('to be revoked')",
        )
        .await;
    browser.pick("//label[contains(., 'show revoked')]//input").await;
    browser.reads("keys", "to be revoked").await;
    browser.is_clean("revoked keys").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_cancelled_and_resumed_and_dead_letters_chosen() {
    let stage = Stage::logged_in(&[("jobs.poll_interval", "50ms")]).await;
    let browser = &stage.browser;
    let poison = |id: usize, field: &str, given: &str| {
        let mut value = json!({
            "id": format!("e{id}"), "project_id": stage.project, "environment_id": stage.environment, "event_name": "n",
            "distinct_id": "ada", "timestamp": "2026-01-31T11:00:00Z", "received_at": "2026-01-31T11:00:01Z",
            "schema_version": 1, "properties": {}
        });
        value[field] = json!(given);
        let value = Bytes::from(value.to_string());
        NewRecord {
            key: Some(Bytes::from_static(b"ada")),
            value,
            headers: vec![].into(),
            timestamp: just_now(),
        }
    };
    let nameless = (0..40).map(|id| poison(id, "event_name", ""));
    let records = nameless.chain([poison(40, "timestamp", "yesterday")]).collect();
    for outcome in stage.app.running.log().produce(&stage.app.client.events_topic, records).await {
        outcome.unwrap();
    }
    let open = |many: usize| move |found: &Value| found["totals"]["open"] == many;
    told(&stage, "/api/dlq/stats", "all are listed", open(41)).await;

    browser.goto("/dead-letters").await;
    count(browser, "[data-testid=letters] tbody tr", 41).await;
    let letters = operator(&stage, "/api/dlq?limit=200").await["dead_letters"].clone();
    let mut kinds = BTreeMap::<String, usize>::new();
    for letter in letters.as_array().unwrap() {
        *kinds.entry(letter["error_kind"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(kinds.values().copied().collect::<BTreeSet<_>>(), BTreeSet::from([1, 40]), "{kinds:?}");
    for (kind, many) in &kinds {
        browser.choose("filter-kind", kind).await;
        count(browser, "[data-testid=letters] tbody tr", *many).await;
    }
    browser.is_clean("dead letters of a reason").await;
    browser.choose("filter-kind", "").await;
    count(browser, "[data-testid=letters] tbody tr", 41).await;
    for row in [2, 3] {
        browser.click_on(&format!("[data-testid=letters] tbody tr:nth-child({row}) input")).await;
    }
    browser.click("discard").await;
    browser
        .until("two are meant", "return document.querySelector('dialog').innerText.includes('2 chosen')")
        .await;
    browser.fill("reason", "chosen").await;
    browser.click("act").await;
    browser.find("[data-testid=job][data-dry=false][data-state=succeeded]").await;
    browser.press("All jobs").await;
    browser.reads("jobs", "discard").await;
    browser.goto("/events/e39").await;
    browser.press("Open").await;
    browser.see("replay").await;
    told(&stage, "/api/dlq/stats", "two are given up", open(39)).await;
    browser.goto("/dead-letters").await;
    browser.click("status-all").await;
    count(browser, "[data-testid=letters] tbody tr", 41).await;
    for (status, many) in [("discarded", 2), ("replayed", 0), ("open", 39), ("all", 41)] {
        browser.click(&format!("status-{status}")).await;
        browser.press("Refresh").await;
        count(browser, "[data-testid=letters] tbody tr", many).await;
    }
    browser.run("document.querySelector('[data-testid=letters] tbody tr').focus()", vec![]).await;
    browser.keys("\u{e007}").await;
    browser.press("All dead letters").await;
    browser.see("letters").await;

    a_slow_job(&stage).await;
    stage.close().await;
}

/// A job that takes long: one letter a second.
async fn a_slow_job(stage: &Stage) {
    let browser = &stage.browser;
    let slow = json!({"selection": {"all": true}, "dry_run": false, "rate": 1});
    let (status, begun) = stage.app.client.operator_post("/api/dlq/replay", &slow).await;
    assert_eq!(status, 202, "{begun}");
    let at = format!("/api/jobs/{}", begun["job_id"].as_str().unwrap());
    browser.goto("/pipeline/jobs").await;
    browser.press("Cancel").await;
    told(stage, &at, "it is cancelled", |job| job["state"] == "cancelled").await;
    browser.pick("//select/option[@value='cancelled' or .='cancelled']").await;
    browser.until("the address says so", "return location.search === '?state=cancelled'").await;
    count(browser, "[data-testid=jobs] tbody tr", 1).await;
    browser.click_on("[data-testid=jobs] tbody tr button").await;
    let whole = format!(
        "return document.querySelector('dialog pre')?.innerText.includes({}) ?? false",
        begun["job_id"]
    );
    browser.until("the whole job is shown", &whole).await;
    browser.is_clean("a job").await;
    browser.click_on("dialog [aria-label=Close]").await;
    browser.click("resume").await;
    told(stage, &at, "it goes on", |job| job["state"] == "running" || job["state"] == "queued").await;
    browser.pick("//select/option[.='any state']").await;
    browser.press("Cancel").await;
    told(stage, &at, "it is cancelled again", |job| job["state"] == "cancelled").await;
}

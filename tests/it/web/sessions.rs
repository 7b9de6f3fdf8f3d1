//! Who looks at what: sessions that end, roles, environments that are gone, two projects, and a server that is away.

use serde_json::{Value, json};

use super::Stage;
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_environment_is_replaced_in_sight_and_never_shows_an_empty_list() {
    let stage = Stage::set(&[]).await;
    let browser = &stage.browser;
    stage.send(&stage.app.client.key, &json!({"event": "kept", "distinct_id": "ada"})).await;
    stage.app.client.settled(1).await;
    browser.goto("/events").await;
    let stale = json!({ "project": "proj_gone", "environment": "env_gone" }).to_string();
    browser.run("localStorage.setItem('flexflow.scope', arguments[0])", vec![json!(stale)]).await;
    browser.goto("/events").await;
    browser.log_in(&stage.email, &stage.password).await;
    browser.reads("notices", "The environment you looked at before").await;
    browser.reads("events-table", "kept").await;

    // The project is right, the environment is another's; and it goes stale while the page is open.
    let stale = json!({ "project": stage.project, "environment": "env_gone" }).to_string();
    let everywhere =
        "for (const kept of [localStorage, sessionStorage]) kept.setItem('flexflow.scope', arguments[0])";
    browser.run(everywhere, vec![json!(stale)]).await;
    browser.reload().await;
    browser.reads("notices", "The environment you looked at before").await;
    browser.reads("events-table", "kept").await;
    let chosen =
        browser.run("return JSON.parse(localStorage.getItem('flexflow.scope')).environment", vec![]).await;
    let (_, valid) = stage.app.client.get("/api/environments").await;
    assert!(valid["environments"].as_array().unwrap().iter().any(|one| one["id"] == chosen), "{chosen}");
    assert_eq!(browser.faults().await, Vec::<String>::new());
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_projects_never_mix_and_a_link_leads_to_the_right_one() {
    let stage = Stage::logged_in(&[]).await;
    let browser = &stage.browser;
    let (_, other) = stage.app.client.operator_post("/api/projects", &json!({ "name": "other" })).await;
    let (id, environment) = (other["id"].as_str().unwrap(), &other["environments"][0]["id"]);
    let key = stage.key(id, environment).await;
    stage.send(&stage.app.client.key, &json!({"event": "ours", "distinct_id": "ada"})).await;
    stage.send(&key, &json!({"event": "theirs", "distinct_id": "bob"})).await;
    browser.goto("/live").await;
    browser.reads("live-table", "ours").await;
    browser.choose("project", id).await;
    browser.reads("live-table", "theirs").await;
    stage.send(&stage.app.client.key, &json!({"event": "ours again", "distinct_id": "ada"})).await;
    stage.send(&key, &json!({"event": "theirs again", "distinct_id": "bob"})).await;
    browser.reads("live-table", "theirs again").await;
    let shown = browser.text("live-table").await;
    assert!(!shown.contains("ours"), "{shown}");
    for screen in ["/events", "/persons"] {
        browser.goto(screen).await;
        browser.until("bob is there, ada is not", "return document.querySelector('main table')?.innerText.includes('bob') && !document.body.innerText.includes('ada')").await;
    }
    // A link of the first project, opened by somebody who looks at the other.
    let link = format!("/events?event=ours&project={}&environment={}", stage.project, stage.environment);
    browser.goto(&link).await;
    browser.reads("events-table", "ours").await;
    assert_eq!(browser.place().await, "/events?event=ours");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_refreshed_unseen_and_its_end_leads_back_to_where_it_was() {
    let stage = Stage::logged_in(&[]).await;
    let browser = &stage.browser;
    stage.send(&stage.app.client.key, &json!({"event": "kept", "distinct_id": "ada"})).await;
    stage.app.client.settled(1).await;
    // An access token that is good no more, as one that has expired.
    browser.run("sessionStorage.setItem('flexflow.access', 'e30.e30.e30')", vec![]).await;
    browser.goto("/events?event=kept").await;
    browser.reads("events-table", "kept").await;

    // The operator ends every session of this person.
    let (_, users) = stage.app.client.operator_get("/api/users").await;
    let id = users["users"][0]["id"].as_str().unwrap().to_owned();
    let (status, _) = stage
        .app
        .client
        .operator_post(
            &format!("/api/users/{id}/reset-password"),
            &json!({ "password": "another long password" }),
        )
        .await;
    assert_eq!(status, 200);
    browser.press("Refresh").await;
    browser.see("login").await;
    browser.log_in(&stage.email, "another long password").await;
    browser.reads("events-table", "kept").await;
    assert_eq!(browser.place().await, "/events?event=kept");

    browser.click("person").await;
    browser.click("logout").await;
    browser.see("login").await;
    let left = browser
        .run(
            "return localStorage.getItem('flexflow.refresh') ?? sessionStorage.getItem('flexflow.access')",
            vec![],
        )
        .await;
    assert_eq!(left, Value::Null);
    assert_eq!(browser.faults().await, Vec::<String>::new());
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_sees_what_a_viewer_may() {
    let stage = Stage::set(&[]).await;
    let browser = &stage.browser;
    let password = stage.person("vera@example.com", "viewer").await;
    browser.goto("/pipeline").await;
    browser.log_in("vera@example.com", &password).await;
    browser.find("[data-testid=fault][data-code=permission_denied]").await;
    assert!(
        !browser.has("[data-testid=nav-pipeline]").await
            && !browser.has("[data-testid=nav-dead-letters]").await
    );
    browser.click("nav-settings").await;
    browser.press("Members").await;
    browser.reads("members", "vera@example.com").await;
    assert!(!browser.has("[data-testid=add-member]").await);
    browser.goto("/settings/keys").await;
    browser.find("[data-testid=fault][data-code=permission_denied]").await;
    browser.goto("/").await;
    browser
        .until(
            "a viewer is told who makes keys",
            "return document.body.innerText.includes('An owner of the project makes one')",
        )
        .await;
    browser.is_clean("a viewer's start").await;
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_told_and_found_again() {
    let stage = Stage::logged_in(&[]).await;
    let browser = &stage.browser;
    browser.goto("/events").await;
    browser.find("[data-testid=empty]").await;
    // As a part behind the server that does not answer.
    browser.run(
        "window.real = window.fetch; window.fetch = (path, how) => String(path).startsWith('/api/query') \
            ? Promise.resolve(new Response(JSON.stringify({code: 'service_unavailable', message: 'the event store does not answer now', details: {}, request_id: 'r1'}), {status: 503})) \
            : window.real(path, how)",
        vec![],
    ).await;
    browser.press("Refresh").await;
    browser.find("[data-testid=fault][data-code=service_unavailable]").await;
    browser.until("it says what to do", "return document.querySelector('[data-testid=fault]').innerText.includes('Accepted events are safe')").await;
    browser.is_clean("a fault").await;
    browser.run("window.fetch = window.real", vec![]).await;
    browser.press("Try again").await;
    browser.until("the fault is gone", "return document.querySelector('[data-testid=fault]') === null").await;

    let Stage { app, browser, .. } = stage;
    app.stop().await;
    browser.press("Refresh").await;
    browser.find("[data-testid=fault][data-code=unreachable]").await;
    eventually("the page stays what it was", || async {
        if browser.has("[data-testid=nav-events]").await {
            Ok(())
        } else {
            Err("the shell is gone".to_owned())
        }
    })
    .await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_of_the_first_start_logs_in_once_and_leaves_the_address() {
    let stage = Stage::set(&[]).await;
    let browser = &stage.browser;
    let link = stage.app.running.login_link().await.unwrap();
    let link = link.strip_prefix(&stage.app.client.url).unwrap();
    browser.goto(link).await;
    browser.see("make-key").await;
    assert_eq!(browser.place().await, "/");
    browser.reload().await;
    browser.see("make-key").await;
    browser.click("person").await;
    browser.click("logout").await;
    browser.see("login").await;
    browser.goto(&format!("/live{}", link.trim_start_matches('/'))).await;
    browser.reads("notices", "was used before").await;
    browser.see("login").await;
    assert_eq!(browser.place().await, "/live");
    assert_eq!(browser.faults().await, Vec::<String>::new());
    stage.close().await;
}

/// Keeps answers back: `held` lets one go, `asked` and `given_up` count.
const SLOW: &str = "window.real = window.fetch; window.held = []; window.asked = 0; window.given_up = 0; \
    window.fetch = (path, how) => arguments[0].some(([method, start]) => (how.method ?? 'GET') === method && String(path).startsWith(start)) \
      ? new Promise((done, fail) => { let waits = true; window.asked++; \
          how.signal?.addEventListener('abort', () => { if (waits) window.given_up++; fail(new DOMException('given up', 'AbortError')); }); \
          window.held.push(() => { waits = false; window.real(path, how).then(done, fail); }); }) \
      : window.real(path, how)";

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_answer_is_waited_for_in_sight_given_up_and_never_asked_for_twice() {
    let stage = Stage::logged_in(&[]).await;
    let browser = &stage.browser;
    stage.send(&stage.app.client.key, &json!({"event": "kept", "distinct_id": "ada"})).await;
    stage.app.client.settled(1).await;
    browser.goto("/settings").await;
    browser.see("nav-events").await;
    let slow = json!([["GET", "/api/query/events"], ["POST", "/api/projects/"]]);
    browser.run(SLOW, vec![slow]).await;
    browser.click("nav-events").await;
    browser.reads("loading", "Loading events").await;
    browser.find("[data-testid=loading] .spinner").await;
    // A way out comes up when it takes longer than usual.
    browser.see("cancel").await;
    browser.is_clean("a slow answer").await;
    browser.click("cancel").await;
    browser.find("[data-testid=fault][data-code=cancelled]").await;
    let told =
        |what: &'static str| async move { browser.run(&format!("return window.{what}"), vec![]).await };
    assert_eq!((told("asked").await, told("given_up").await), (json!(1), json!(1)));
    browser.press("Try again").await;
    browser.see("loading").await;
    browser.until("it is asked anew", "return window.asked === 2").await;
    browser.run("window.held.pop()()", vec![]).await;
    browser.reads("events-table", "kept").await;

    // An answer that comes after its screen was left changes nothing, and is not waited for.
    browser.press("Refresh").await;
    browser.until("it is asked for again", "return window.asked === 3").await;
    browser.reads("events-table", "kept").await;
    browser.click("nav-settings").await;
    browser.until("it is given up", "return window.given_up === 2").await;

    // A form that is sent twice in a row is sent once.
    browser.press("Project").await;
    browser.fill_in("[data-testid=new-environment] input", "staging").await;
    let twice = "const form = document.querySelector('[data-testid=new-environment]'); form.requestSubmit(); form.requestSubmit()";
    browser.run(twice, vec![]).await;
    browser.find("[data-testid=new-environment] button:disabled").await;
    browser.run("document.querySelector('[data-testid=new-environment]').requestSubmit()", vec![]).await;
    assert_eq!(told("asked").await, json!(4));
    browser.run("window.held.pop()()", vec![]).await;
    browser.reads("environments", "staging").await;
    assert_eq!(browser.faults().await, Vec::<String>::new());
    stage.close().await;
}

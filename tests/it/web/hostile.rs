//! What strangers send is text, whatever it says.

use serde_json::json;

use super::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_event_shows_as_text_everywhere() {
    let stage = Stage::logged_in(&[
        ("capture.properties_bytes_max", "2 MiB"),
        ("eventlog.record_bytes_max", "4 MiB"),
    ])
    .await;
    let browser = &stage.browser;
    let script = "<img src=x onerror=\"window.harmed=1\"><script>window.harmed=1</script>";
    let rightward = "\u{202e}txt.exe \u{5e9}\u{5dc}\u{5d5}\u{5dd}";
    let event = json!({
        "event": script, "distinct_id": format!("javascript:window.harmed=1 {rightward}"), "event_id": "../../\"><svg onload=window.harmed=1>",
        "session_id": script, "source": "{{constructor.constructor('window.harmed=1')()}}",
        "properties": {
            script: script, "$current_url": "javascript:window.harmed=1", "big": "x".repeat(1_000_000), "number": 12_345_678_901_234_567_890_u64,
            "deep": {"__proto__": {"harmed": 1}, "constructor": "x"}, "rtl": rightward, "$set": {"name": script},
        },
    });
    stage.send(&stage.app.client.key, &event).await;
    stage.app.client.settled(1).await;
    let unharmed = |what: &'static str| async move {
        assert!(!browser.has("main img, main svg, main script").await, "{what}");
        assert_eq!(
            browser.run("return window.harmed ?? ({}).harmed ?? null", vec![]).await,
            json!(null),
            "{what}"
        );
        assert_eq!(browser.faults().await, Vec::<String>::new(), "{what}");
    };
    for (path, id) in [("/events", "events-table"), ("/live", "live-table"), ("/persons", "persons-table")] {
        browser.goto(path).await;
        browser.see(id).await;
        browser
            .until(
                "its words are shown",
                "return document.querySelector('main').innerText.includes('window.harmed=1')",
            )
            .await;
        unharmed(path).await;
    }
    browser.goto("/events").await;
    browser.click_on("[data-testid=events-table] tbody a").await;
    browser.find("[data-testid=trace-status][data-status=stored]").await;
    browser.reads("properties", "onerror").await;
    browser.reads("properties", "12345678901234567890").await;
    browser.is_clean("a hostile event").await;
    unharmed("the event's page").await;
    browser.goto("/").await;
    browser.see("events-today").await;
    unharmed("the start page").await;
    // It is offered among the names, too.
    browser.keys("/").await;
    browser.fill("search-text", "onerror").await;
    browser.reads("search-dialog", "onerror").await;
    unharmed("search").await;
    stage.close().await;
}

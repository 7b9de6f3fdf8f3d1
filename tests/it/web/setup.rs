//! What is set up on the page: webhooks with their deliveries, schemas, transforms, rules of attribution.

use serde_json::{Value, json};

use super::Stage;
use crate::support::{Browser, eventually};
use crate::webhooks::Receiver;

pub(super) async fn operator(stage: &Stage, path: &str) -> Value {
    let (status, answer) = stage.app.client.operator_get(path).await;
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

/// Waits until the only one that this route lists fits.
pub(super) async fn only(
    stage: &Stage,
    path: &str,
    list: &str,
    what: &str,
    fits: impl Fn(&Value) -> bool,
) -> Value {
    eventually(what, || async {
        let found = operator(stage, path).await[list][0].clone();
        if fits(&found) { Ok(found) } else { Err(found.to_string()) }
    })
    .await
}

/// How many elements there are like this.
pub(super) async fn count(browser: &Browser, css: &str, wanted: usize) {
    let script = format!("return document.querySelectorAll({}).length === {wanted}", json!(css));
    browser.until(&format!("{wanted} of {css}"), &script).await;
}

/// Waits until this element has this JSON as its text, however it is laid out.
async fn tells(browser: &Browser, css: &str, wanted: &Value) {
    eventually(&format!("{css} tells {wanted}"), || async {
        let script = "const found = document.querySelector(arguments[0]); return found && (found.value ?? found.innerText)";
        let text = browser.run(script, vec![json!(css)]).await;
        match serde_json::from_str::<Value>(text.as_str().unwrap_or_default()) {
            Ok(told) if told == *wanted => Ok(()),
            _ => Err(text.to_string()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_made_tried_paused_and_says_what_it_delivered() {
    let settings =
        [("webhook.allow_private", "true"), ("metering.tracking", "true"), ("metering.cache_ttl", "20ms")];
    let stage = Stage::logged_in(&settings).await;
    let browser = &stage.browser;
    let (receiver, url) = Receiver::start().await;
    browser.goto("/webhooks").await;
    browser.reads("empty", "Nobody is told yet").await;
    browser.click("new-webhook").await;
    browser.is_clean("the form of a webhook").await;
    browser.fill("url", "ftp://nowhere").await;
    browser.click("save-webhook").await;
    browser.reads("fault", "cannot be delivered to").await;
    browser.fill("url", &url).await;
    browser.fill("description", "For <b>us</b>").await;
    for kind in ["job.finished", "event.unmetered"] {
        browser.click_on(&format!("input[name=event][value='{kind}']")).await;
    }
    browser.click("save-webhook").await;
    let secret = browser.text("secret").await;
    let made = only(&stage, "/api/webhooks", "webhooks", "it is made", |one| one["url"] == json!(url)).await;
    assert_eq!(
        (&made["events"], &made["description"]),
        (&json!(["event.unmetered", "job.finished"]), &json!("For <b>us</b>"))
    );
    let at = format!("/api/webhooks/{}", made["id"].as_str().unwrap());
    assert_eq!(operator(&stage, &format!("{at}/secret")).await["secret"], json!(secret));
    browser.press("I have it").await;
    assert!(!browser.has("[data-testid=secret]").await, "the secret is shown once");
    browser.reads("webhooks", "For <b>us</b>").await;
    browser.is_clean("webhooks").await;

    browser.press(&url).await;
    browser.click("test").await;
    browser.reads("deliveries", "delivered").await;
    receiver.gets("webhook.test", 1).await;
    browser.press("webhook.test").await;
    browser.reads("attempts", "answered 200").await;
    browser.is_clean("a delivery").await;
    browser.keys("\u{e00c}").await;
    browser.press("Deliver again").await;
    receiver.gets("webhook.test", 2).await;
    browser.reads("deliveries", "delivered").await;
    browser.is_clean("a webhook").await;
    deliveries_are_chosen(&stage, &url).await;
    an_event_names_its_webhooks_and_duplicates(&stage).await;

    browser.goto(&format!("/webhooks/{}", made["id"].as_str().unwrap())).await;
    browser.click("pause").await;
    browser.find("[data-testid=webhook-status][data-status=disabled]").await;
    assert_eq!(operator(&stage, &at).await["status"], "disabled");
    browser.find("[data-testid=test]:disabled").await;
    browser.click("pause").await;
    browser.find("[data-testid=webhook-status][data-status=enabled]").await;
    browser.click("rotate").await;
    browser.click("confirm").await;
    let rotated = browser.text("secret").await;
    let told = operator(&stage, &format!("{at}/secret")).await;
    assert_eq!((&told["secret"], &told["previous_secret"]), (&json!(rotated), &json!(secret)));
    browser.click("edit").await;
    browser.fill("description", "For them").await;
    browser.click("save-webhook").await;
    only(&stage, "/api/webhooks", "webhooks", "it is changed", |one| one["description"] == "For them").await;
    browser.click("delete").await;
    browser.click("confirm").await;
    browser.reads("empty", "Nobody is told yet").await;
    stage.close().await;
}

/// Deliveries by what became of them.
async fn deliveries_are_chosen(stage: &Stage, url: &str) {
    let browser = &stage.browser;
    browser.press("All webhooks").await;
    browser.press(url).await;
    browser.choose("delivery-state", "dead").await;
    browser.reads("empty", "Nothing was delivered yet").await;
    browser.click("replay-dead").await;
    browser.reads("notices", "On its way again").await;
    browser.choose("delivery-state", "delivered").await;
    browser.reads("deliveries", "webhook.test").await;
}

/// An event that was sent twice, and that no meter counts.
async fn an_event_names_its_webhooks_and_duplicates(stage: &Stage) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    let meter = json!({"name": "calls", "event_name": "call", "aggregation": {"type": "COUNT"}});
    let (status, meter) = client.operator_post("/v1/meters", &meter).await;
    assert_eq!(status, 201, "{meter}");
    let event = json!({"event": "seen", "distinct_id": "ada", "event_id": "twice"});
    client.accept(&event).await;
    client.settled(1).await;
    client.accept(&event).await;
    client.settled(1).await;
    eventually("a webhook was told of it", || async {
        let hooks = operator(stage, "/api/webhooks").await;
        let at =
            format!("/api/webhooks/{}/deliveries?about=twice", hooks["webhooks"][0]["id"].as_str().unwrap());
        let found = operator(stage, &at).await;
        if found["deliveries"][0]["event_name"] == "event.unmetered" {
            Ok(())
        } else {
            Err(found.to_string())
        }
    })
    .await;
    browser.goto("/events/twice").await;
    for step in ["received", "logged", "stored", "duplicate", "uncounted", "told"] {
        count(browser, &format!("[data-testid=timeline] [data-step={step}]"), 1).await;
    }
    browser.reads("timeline", "event.unmetered").await;
    browser.reads("timeline", "it counts call").await;
    counted(stage).await;
    browser.goto("/events/twice").await;
    browser.reads("timeline", "it counts call").await;
    browser.is_clean("an event that was sent twice").await;
    browser.picture("event").await;
}

/// An event that the meter counts; its page names the meter and leads to it.
async fn counted(stage: &Stage) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    client.accept(&json!({"event": "call", "distinct_id": "ada", "event_id": "counted"})).await;
    client.settled(2).await;
    browser.goto("/events/counted").await;
    let (_, told) = client.get("/v1/events/lookup?id=counted").await;
    assert_eq!((&told["meters"][0]["name"], &told["meters"][0]["matched"]), (&json!("calls"), &json!(true)));
    browser.reads("timeline", "Counted by calls").await;
    count(browser, "[data-testid=timeline] [data-step=counted]", 1).await;
    browser.press("calls").await;
    browser.see("total-value").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_transforms_and_rules_are_made_tried_and_changed() {
    let settings = [("transform.cache_ttl", "20ms"), ("jobs.poll_interval", "50ms")];
    let stage = Stage::logged_in(&settings).await;
    a_schema(&stage).await;
    a_transform(&stage).await;
    a_transform_is_deleted(&stage).await;
    a_rule(&stage).await;
    stage.close().await;
}

async fn a_schema(stage: &Stage) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    let buy = |id: &str, price: Value| json!({"event": "it's a \\ buy", "distinct_id": "ada", "event_id": id, "properties": {"price": price}});
    client.accept(&json!([buy("b1", json!(1)), buy("b2", json!(2.5))])).await;
    client.settled(2).await;
    browser.goto("/schemas").await;
    browser.reads("empty", "No schema yet").await;
    browser.click("new-schema").await;
    browser.fill("schema-event", "it's a \\ buy").await;
    browser.click("draft").await;
    let drafted = "return document.querySelector('[data-testid=definition]').value.includes('\"price\"')";
    browser.until("it is drafted from what arrived", drafted).await;
    browser.is_clean("the form of a schema").await;
    browser.click("make-schema").await;
    count(browser, "[data-testid=version]", 1).await;
    let made = operator(stage, "/api/schemas").await["schemas"][0].clone();
    assert_eq!(
        made["versions"][0]["definition"],
        json!({"type": "object", "properties": {"price": {"type": "number"}}, "required": ["price"]})
    );
    client.accept(&buy("b3", json!("dear"))).await;
    client.settled(3).await;
    browser.press("Refresh").await;
    browser.reads("violations", "b3").await;
    count(browser, "[data-testid=violations] tbody tr", 1).await;
    browser.is_clean("a schema").await;

    let text = json!({"type": "object", "properties": {"price": {"type": "string"}}});
    browser.click("next-version").await;
    browser.fill("definition", &text.to_string()).await;
    browser.click("check").await;
    browser.find("[data-testid=verdict][data-compatible=false]").await;
    browser.click("make-version").await;
    browser.reads("fault", "not compatible").await;
    let wider = json!({"type": "object", "properties": {"price": {"type": ["number", "string"]}}});
    browser.fill("definition", &wider.to_string()).await;
    browser.click("check").await;
    browser.find("[data-testid=verdict][data-compatible=true]").await;
    browser.is_clean("the next version").await;
    browser.click("make-version").await;
    count(browser, "[data-testid=version]", 2).await;
    an_upcast(stage, &made).await;
    browser.choose("policy", "reject").await;
    only(stage, "/api/schemas", "schemas", "the policy is kept", |one| one["policy"] == "reject").await;
    browser.goto("/schemas").await;
    browser.reads("schemas", "Refuse what does not fit").await;
    browser.is_clean("schemas").await;
    browser.click_on("[data-testid=schemas] tbody a").await;
    browser.pick("(//summary[starts-with(normalize-space(.), 'Version')])[last()]").await;
    tells(
        browser,
        "[data-testid=version][open] pre[aria-label='Version 1']",
        &made["versions"][0]["definition"],
    )
    .await;
    browser.press("All schemas").await;
    browser.click_on("[data-testid=schemas] tbody a").await;
    browser.choose("compatibility", "none").await;
    only(stage, "/api/schemas", "schemas", "the next may be anything", |one| one["compatibility"] == "none")
        .await;
    browser.press("Delete…").await;
    browser.click("confirm").await;
    browser.reads("empty", "No schema yet").await;
    assert_eq!(operator(stage, "/api/schemas").await["schemas"], json!([]));
}

/// The next version comes with an upcast, which the page shows.
async fn an_upcast(stage: &Stage, made: &Value) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    let upcast = json!({"definition": {"type": "object", "properties": {"cost": {"type": "number"}}},
                        "upcast": "properties = [{ name = 'cost', value = 'number(price)' }]"});
    let at = format!("/api/schemas/{}/versions", made["id"].as_str().unwrap());
    let (status, third) = client.operator_post(&at, &upcast).await;
    assert_eq!(status, 201, "{third}");
    browser.reload().await;
    let kept = operator(stage, "/api/schemas").await["schemas"][0]["versions"][2]["upcast"].clone();
    assert!(kept.is_object(), "{kept}");
    tells(browser, "pre[aria-label='Upcast to version 3']", &kept).await;
    browser.is_clean("a schema with an upcast").await;
}

async fn a_transform(stage: &Stage) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    browser.goto("/transforms").await;
    browser.reads("transforms", "built in").await;
    browser.is_clean("transforms").await;
    browser.press("raw").await;
    browser.click("try").await;
    browser.reads("tried", "1 become events").await;
    let toml = |name: &str| {
        format!(
            "[[event]]\nevent_name = \"'{name}'\"\ndistinct_id = \"orgId\"\ntimestamp = \"time(createdAt)\""
        )
    };
    browser.fill("samples", "[{}, {}]").await;
    browser.click("try").await;
    let built_in = operator(stage, "/api/transforms/default").await["spec"].clone();
    let asked = json!({"spec": built_in, "samples": [{}, {}]});
    let (status, tried) = client.operator_post("/api/transforms/test", &asked).await;
    assert_eq!((status, &tried["dropped"]), (200, &json!(2)), "{tried}");
    browser.reads("tried", "0 become events, 2 dropped, 0 errors").await;
    browser.reads("tried", tried["results"][1]["reason"].as_str().unwrap()).await;
    let payload = json!({"id": "call-1", "orgId": "org-1", "createdAt": "2026-01-31T12:00:00Z"});
    browser.fill("samples", &payload.to_string()).await;
    browser.fill("spec", "{no").await;
    browser.click("try").await;
    browser.reads("fault", "The transform is not JSON").await;
    browser.fill("spec", &toml("called")).await;
    browser.click("try").await;
    browser.reads("tried", "\"called\"").await;
    browser.is_clean("a transform").await;
    browser.click("save-transform").await;
    count(browser, "[data-testid=versions] tbody tr", 1).await;
    let payload = json!({"id": "raw-1", "orgId": "org-1", "createdAt": "2026-01-05T10:00:00Z"});
    let (status, answer) = client.post("/v1/events/raw/bulk", &json!({"data": [payload]})).await;
    assert_eq!(status, 202, "{answer}");
    client.settled(4).await;
    browser.fill("spec", &toml("spoken")).await;
    browser.click("save-transform").await;
    count(browser, "[data-testid=versions] tbody tr", 2).await;
    let made = operator(stage, "/api/transforms").await["items"][0].clone();
    assert_eq!((&made["name"], &made["version"]), (&json!("raw"), &json!(2)));

    browser.goto("/transforms/raw").await;
    browser.reads("raws", "raw-1").await;
    browser.reads("raw-counts", "published").await;
    raw_events_are_chosen(stage).await;
    browser.is_clean("raw events").await;
    reprocess(browser, &["pending", "dry"]).await;
    let asked = operator(stage, "/v1/events/raw/reprocess").await["workflows"][0]["request"].clone();
    let told = ["pending", "dry_run", "start_date", "end_date"].map(|name| asked[name].clone());
    let wanted =
        [json!(true), json!(true), json!("2026-01-01T00:00:00.000Z"), json!("2026-01-31T23:59:59.000Z")];
    assert_eq!(told, wanted, "{asked}");
    browser.goto("/transforms/raw").await;
    reprocess(browser, &[]).await;
    eventually("the event has its new name", || async {
        let (_, found) = client.get("/api/query/events?event=spoken").await;
        if found["events"].as_array().is_some_and(|all| all.len() == 1) {
            Ok(())
        } else {
            Err(found.to_string())
        }
    })
    .await;
}

/// Raw events by what became of them.
async fn raw_events_are_chosen(stage: &Stage) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    for (outcome, shown) in [("dropped", ("empty", "No raw events")), ("published", ("raws", "raw-1"))] {
        let (_, listed) = client.get(&format!("/v1/events/raw/list?outcome={outcome}")).await;
        let count = listed["raw_events"].as_array().unwrap().len();
        assert_eq!(count, usize::from(outcome == "published"), "{listed}");
        browser.choose("outcome", outcome).await;
        browser.reads(shown.0, shown.1).await;
        self::count(browser, "[data-testid=raws] tbody tr", count).await;
    }
    browser.press("Refresh").await;
    browser.reads("raws", "raw-1").await;
}

/// Reprocesses a month by the form, and waits until no job of it runs any more.
async fn reprocess(browser: &Browser, boxes: &[&str]) {
    browser.click("reprocess").await;
    for (day, value) in [("from", "2026-01-01"), ("to", "2026-01-31")] {
        browser.see(day).await;
        let script = format!("document.querySelector('[data-testid={day}]').value = '{value}'");
        browser.run(&script, vec![]).await;
    }
    for one in boxes {
        browser.click(one).await;
    }
    browser.is_clean("the form of a reprocess").await;
    browser.click("start").await;
    let ended = "const rows = [...document.querySelectorAll('[data-testid=jobs] tbody tr')]; \
                 return rows.length > 0 && rows.every((row) => row.innerText.includes('succeeded'))";
    browser.until("the jobs have succeeded", ended).await;
}

/// What a version said is looked at; a transform that is deleted leaves the one that is built in.
async fn a_transform_is_deleted(stage: &Stage) {
    let browser = &stage.browser;
    browser.goto("/transforms").await;
    browser.press("raw").await;
    browser.press("All transforms").await;
    browser.press("raw").await;
    browser
        .pick("//*[@data-testid='versions']//tr[td[1][normalize-space(.)='1']]//button[.='Look at it']")
        .await;
    let id = operator(stage, "/api/transforms").await["items"][0]["id"].clone();
    let versions = operator(stage, &format!("/api/transforms/{}/versions", id.as_str().unwrap())).await;
    let first = versions["items"].as_array().unwrap().iter().find(|one| one["version"] == 1).unwrap();
    tells(browser, "[data-testid=spec]", &first["spec"]).await;
    browser.press("Delete…").await;
    browser.press("Keep it").await;
    browser.press("Delete…").await;
    browser.click("confirm").await;
    browser.reads("transforms", "built in").await;
}

/// Waits until the table of credit has the names and numbers that the API answers.
async fn credited(stage: &Stage, rule: &Value, mut asked: Value) {
    asked["rule_id"] = rule.clone();
    let (status, answer) = stage.app.client.post("/api/query/attribution", &asked).await;
    assert_eq!(status, 200, "{answer}");
    let rows = answer["results"].as_array().unwrap().iter();
    let rows: Vec<Value> = rows.map(|row| json!([row["name"], row["conversions"].to_string()])).collect();
    let script = format!(
        "const rows = [...document.querySelectorAll('[data-testid=credit] tbody tr')] \
         .map((row) => [row.cells[0].innerText.trim(), row.cells[1].innerText.trim()]); \
         return JSON.stringify(rows) === JSON.stringify({}) || JSON.stringify(rows)",
        json!(rows)
    );
    stage.browser.until(&format!("{asked} is shown"), &script).await;
}

async fn a_rule(stage: &Stage) {
    let (browser, client) = (&stage.browser, &stage.app.client);
    browser.goto("/attribution").await;
    browser.reads("empty", "No rule yet").await;
    browser.click("new-rule").await;
    browser.fill("rule-name", "Click to order").await;
    browser.fill("rule-target", "order placed").await;
    browser.fill("rule-sources", "ad clicked, mail opened").await;
    browser.choose("rule-join", "property").await;
    browser.fill("rule-join-source", "item").await;
    browser.fill("rule-join-target", "item").await;
    browser.fill("rule-dimension", "ad").await;
    browser.fill("rule-value", "amount").await;
    browser.is_clean("the form of a rule").await;
    browser.click("save-rule").await;
    browser.see("totals").await;
    let rule = operator(stage, "/api/attribution/rules").await["rules"][0].clone();
    assert_eq!(
        (&rule["sources"], &rule["join"]),
        (
            &json!(["ad clicked", "mail opened"]),
            &json!({"by": "property", "source": "item", "target": "item"})
        )
    );
    let event = |name: &str, properties: Value| json!({"event": name, "distinct_id": "ada", "properties": properties});
    client.accept(&event("ad clicked", json!({"item": "i1", "ad": "<i>one</i>"}))).await;
    client.accept(&event("order placed", json!({"item": "i1", "amount": 12.5}))).await;
    let asked = json!({"rule_id": rule["id"], "by": "dimension", "date_from": "-30d"});
    eventually("the order is credited", || async {
        let (_, answer) = client.post("/api/query/attribution", &asked).await;
        if answer["totals"]["attributed"] == 1 { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    browser.choose("by", "dimension").await;
    browser.click("refresh").await;
    browser.reads("credit", "<i>one</i>").await;
    browser.reads("credit", "12.5").await;
    browser.reads("conversions", "ad clicked").await;
    browser.is_clean("a rule").await;
    for (control, value, asked) in [
        ("by", "source", json!({"by": "source", "date_from": "-30d"})),
        ("range", "-7d", json!({"by": "source", "date_from": "-7d"})),
        ("by", "day", json!({"by": "day", "date_from": "-7d"})),
        ("range", "all", json!({"by": "day", "date_from": "all"})),
    ] {
        browser.choose(control, value).await;
        credited(stage, &rule["id"], asked).await;
    }
    browser.click("edit").await;
    browser.fill("rule-name", "Clicks").await;
    browser.fill("rule-look_back", "2d").await;
    browser.pick("//select[@name='model']/option[@value='linear']").await;
    browser.click("save-rule").await;
    count(browser, "[data-testid=version]", 2).await;
    only(stage, "/api/attribution/rules", "rules", "it is changed", |one| {
        one["name"] == "Clicks" && one["model"] == "linear"
    })
    .await;
    browser.click("recompute").await;
    browser.reads("notices", "computed anew").await;
    browser.goto("/attribution").await;
    browser.reads("rules", "Clicks").await;
    browser.is_clean("rules").await;
    a_rule_is_deleted(stage, &rule).await;
}

/// What its first version said is looked at; then it goes.
async fn a_rule_is_deleted(stage: &Stage, rule: &Value) {
    let browser = &stage.browser;
    browser.press("Clicks").await;
    browser.pick("(//summary[starts-with(normalize-space(.), 'Version')])[1]").await;
    let at = format!("/api/attribution/rules/{}/versions", rule["id"].as_str().unwrap());
    let versions = operator(stage, &at).await["versions"].clone();
    tells(browser, "[data-testid=version][open] pre", &versions[1]["definition"]).await;
    browser.press("All rules").await;
    browser.press("Clicks").await;
    browser.click("delete").await;
    browser.click("confirm").await;
    browser.reads("empty", "No rule yet").await;
}

//! The page in a headless Chromium: its first view, charts, a long table, and events as they arrive. Needs `chromium` and
//! `chromedriver`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::pipeline::Served;
use crate::report;

#[allow(dead_code, clippy::unwrap_used, clippy::too_many_lines, reason = "the tests use the rest of it")]
#[path = "../../tests/it/support/browser.rs"]
mod browser;
#[allow(dead_code, reason = "the tests use the rest of it")]
#[path = "../../tests/it/support/wait.rs"]
mod wait;

use browser::Browser;
use wait::eventually;

/// Imports a module of the page, whichever version it is.
const IMPORT: &str = "const base = document.querySelector('script[src]').src.replace('app.js', ''); \
    const done = arguments[arguments.length - 1]; const load = (name) => import(base + name); ";

/// The middle one.
fn median(times: &Value) -> f64 {
    let mut times: Vec<f64> = times.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

fn worst(times: &Value) -> f64 {
    times.as_array().into_iter().flatten().filter_map(Value::as_f64).fold(0.0, f64::max)
}

/// Everything about the page; `seconds` of live events.
pub async fn run(seconds: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    let served = Served::start(dir.path(), &[]).await;
    let browser = Browser::open(&served.url).await;
    first_view(&served.url).await;
    browser.goto("/").await;
    browser.see("login").await;
    chart(&browser).await;
    table(&browser).await;
    let first = std::fs::read(dir.path().join("first-run.json")).expect("a first start");
    let first: Value = serde_json::from_slice(&first).expect("JSON");
    let text = |name: &str| first[name].as_str().unwrap_or_default().to_owned();
    browser.log_in(&text("email"), &text("password")).await;
    live(&browser, &served, seconds).await;
    browser.close().await;
}

/// From the address to the log-in, each time in a browser that has never seen the page.
async fn first_view(url: &str) {
    let mut painted = Vec::new();
    for _ in 0..5 {
        let browser = Browser::open(url).await;
        browser.goto("/").await;
        browser.see("login").await;
        let paint = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1";
        painted.push(browser.run(paint, vec![]).await);
        browser.close().await;
    }
    let painted = Value::Array(painted);
    let middle = median(&painted);
    report::check(
        "first view on loopback, nothing cached, 5 times",
        format!("median {middle:.0} ms, worst {:.0} ms", worst(&painted)),
        "< 1 s",
        (0.0..1000.0).contains(&middle),
    );
}

async fn chart(browser: &Browser) {
    // uPlot draws in a microtask: `await null` lets it.
    let script = format!(
        "{IMPORT} Promise.all([load('lib/chart.js'), load('lib/ui.js')]).then(async ([chart, ui]) => {{ \
           const root = document.body.appendChild(document.createElement('div')); root.style.width = '900px'; \
           const x = Array.from({{length: 1000}}, (_, at) => 1.7e12 + at * 6e4); const times = []; \
           for (let shift = 0; shift < 15; shift++) {{ \
             const series = Array.from({{length: 20}}, (_, one) => ({{label: `s${{one}}`, values: x.map((_, at) => one * 10 + shift + Math.sin(at / 50) * 5)}})); \
             const begun = performance.now(); ui.render(ui.html`<${{chart.Chart}} x=${{x}} series=${{series}} label=\"speed\" />`, root); \
             await null; times.push(performance.now() - begun); await new Promise(requestAnimationFrame); }} \
           root.remove(); done(times); }}, (error) => done(String(error)))"
    );
    let times = browser.run_async(&script, vec![]).await;
    let middle = median(&times);
    report::check(
        "a chart of 20 series of 1,000 points, 15 times",
        format!("median {middle:.0} ms, worst {:.0} ms", worst(&times)),
        "< 50 ms",
        middle < 50.0,
    );
}

async fn table(browser: &Browser) {
    let script = format!(
        "{IMPORT} Promise.all([load('lib/table.js'), load('lib/ui.js')]).then(async ([table, ui]) => {{ \
           const root = document.body.appendChild(document.createElement('div')); \
           const rows = Array.from({{length: 10000}}, (_, at) => ({{a: `row ${{at}}`, b: at}})); const begun = performance.now(); \
           ui.render(ui.html`<${{table.Table}} label=\"speed\" rows=${{rows}} columns=${{[{{key: 'a', title: 'A'}}, {{key: 'b', title: 'B'}}]}} />`, root); \
           const took = performance.now() - begun; const box = root.querySelector('.table'); const frames = []; \
           for (let step = 0; step < 60; step++) {{ const at = performance.now(); box.scrollTop += 5000; \
             await new Promise((next) => requestAnimationFrame(next)); frames.push(performance.now() - at); }} \
           root.remove(); done({{ took, frames }}); }}, (error) => done(String(error)))"
    );
    let scrolled = browser.run_async(&script, vec![]).await;
    let (took, frame) = (scrolled["took"].as_f64().unwrap_or(f64::NAN), median(&scrolled["frames"]));
    report::note("a table of 10,000 rows, first drawn", format!("{took:.0} ms"));
    report::check(
        "… scrolled by 5,000 pixels a frame, 60 frames",
        format!("median {frame:.0} ms a frame, worst {:.0} ms", worst(&scrolled["frames"])),
        "≤ 34 ms",
        frame <= 34.0,
    );
}

/// A hundred events a second on the live page.
async fn live(browser: &Browser, served: &Served, seconds: u64) {
    browser.goto("/live").await;
    browser.find("[data-testid=live-state][data-state=open]").await;
    let watch = "window.tasks = []; new PerformanceObserver((list) => list.getEntries().forEach((one) => window.tasks.push(one.duration))).observe({ type: 'longtask' }); \
                 window.frames60 = []; let last = performance.now(); const tick = (now) => { window.frames60.push(now - last); last = now; requestAnimationFrame(tick); }; requestAnimationFrame(tick);";
    browser.run(watch, vec![]).await;
    let begun = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let rounds = seconds * 10;
    for round in 0..rounds {
        tick.tick().await;
        let batch: Vec<Value> = (0..10)
            .map(|n| json!({"event": "tick", "distinct_id": format!("p{n}"), "properties": {"round": round}}))
            .collect();
        let sent = served.http.post(format!("{}/capture", served.url)).header("X-API-Key", &served.key);
        let sent = sent.json(&json!({ "batch": batch })).send().await.expect("an answer");
        assert_eq!(sent.status(), 202);
    }
    eventually("all of them arrive", || async {
        let told = browser.text("live-arrived").await;
        let digits: String = told.chars().filter(char::is_ascii_digit).collect();
        if digits == (rounds * 10).to_string() { Ok(()) } else { Err(told) }
    })
    .await;
    let dropped = browser.has("[data-testid=live-dropped]").await;
    let tasks = browser.run("return window.tasks", vec![]).await;
    let frames = browser.run("return window.frames60", vec![]).await;
    let late =
        frames.as_array().into_iter().flatten().filter_map(Value::as_f64).filter(|one| *one > 50.0).count();
    let count = tasks.as_array().map_or(0, Vec::len);
    report::check(
        format!("live, 100 events a second for {:.0} s", begun.elapsed().as_secs_f64()),
        format!(
            "{count} tasks over 50 ms, the longest {:.0} ms; {late} of {} frames later than 50 ms; {}",
            worst(&tasks),
            frames.as_array().map_or(0, Vec::len),
            if dropped { "some events dropped" } else { "no event dropped" }
        ),
        "no long task, none dropped",
        count == 0 && !dropped,
    );
}

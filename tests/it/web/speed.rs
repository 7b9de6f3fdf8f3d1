//! How fast the page is, on a machine that does other things meanwhile: the bounds are generous, the figures are printed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Stage;

/// Imports a module of the page, whichever version it is.
const IMPORT: &str = "const base = document.querySelector('script[src]').src.replace('app.js', ''); \
    const done = arguments[arguments.length - 1]; const load = (name) => import(base + name); ";

#[tokio::test(flavor = "multi_thread")]
async fn the_first_view_large_tables_and_charts_are_fast() {
    let stage = Stage::set(&[]).await;
    let browser = &stage.browser;
    let begun = Instant::now();
    browser.goto("/").await;
    browser.see("login").await;
    let paint = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1";
    let painted = browser.run(paint, vec![]).await.as_f64().unwrap();
    println!("first view: painted after {painted:.0} ms, log-in shown after {:?}", begun.elapsed());
    assert!(painted >= 0.0, "something was painted");

    let chart = format!(
        "{IMPORT} Promise.all([load('lib/chart.js'), load('lib/ui.js')]).then(([chart, ui]) => {{ \
           const root = document.body.appendChild(document.createElement('div')); root.style.width = '900px'; \
           const x = Array.from({{length: 1000}}, (_, at) => 1.7e12 + at * 6e4); \
           const draw = (shift) => {{ const series = Array.from({{length: 20}}, (_, one) => ({{label: `s${{one}}`, values: x.map((_, at) => one * 10 + shift + Math.sin(at / 50) * 5)}})); \
             const begun = performance.now(); ui.render(ui.html`<${{chart.Chart}} x=${{x}} series=${{series}} label=\"speed\" />`, root); return performance.now() - begun; }}; \
           const times = [0, 1, 2, 3, 4].map(draw); const canvas = root.querySelector('canvas') !== null; root.remove(); \
           done({{ times, canvas }}); }}, (error) => done(String(error)))"
    );
    let drawn = browser.run_async(&chart, vec![]).await;
    assert_eq!(drawn["canvas"], true, "{drawn}");
    let mut times: Vec<f64> =
        drawn["times"].as_array().unwrap().iter().map(|one| one.as_f64().unwrap()).collect();
    times.sort_by(f64::total_cmp);
    println!("a chart of 20 × 1000 points: {times:?} ms");

    let table = format!(
        "{IMPORT} Promise.all([load('lib/table.js'), load('lib/ui.js')]).then(async ([table, ui]) => {{ \
           const root = document.body.appendChild(document.createElement('div')); \
           const rows = Array.from({{length: 10000}}, (_, at) => ({{a: `row ${{at}}`, b: at}})); \
           const begun = performance.now(); \
           ui.render(ui.html`<${{table.Table}} label=\"speed\" rows=${{rows}} columns=${{[{{key: 'a', title: 'A'}}, {{key: 'b', title: 'B'}}]}} />`, root); \
           const took = performance.now() - begun; const box = root.querySelector('.table'); const frames = []; \
           for (let step = 0; step <= 40; step++) {{ const at = performance.now(); box.scrollTop = (box.scrollHeight * step) / 40; \
             await new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next))); frames.push(performance.now() - at); }} \
           const last = root.innerText.includes('row 9999'); const count = root.querySelectorAll('tr').length; root.remove(); \
           frames.sort((a, b) => a - b); done({{ took, last, count, median: frames[20], worst: frames[40] }}); }}, (error) => done(String(error)))"
    );
    let scrolled = browser.run_async(&table, vec![]).await;
    println!("a table of 10,000 rows: {scrolled}");
    assert_eq!(scrolled["last"], true, "{scrolled}");
    assert!(scrolled["count"].as_u64().unwrap() < 200, "only what is in sight is drawn: {scrolled}");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_events_a_second_do_not_stop_the_live_page() {
    let stage = Stage::logged_in(&[]).await;
    let browser = &stage.browser;
    browser.goto("/live").await;
    browser.find("[data-testid=live-state][data-state=open]").await;
    let watch = "window.tasks = []; new PerformanceObserver((list) => list.getEntries().forEach((one) => window.tasks.push(one.duration))).observe({ type: 'longtask' })";
    browser.run(watch, vec![]).await;
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    for round in 0..40 {
        tick.tick().await;
        let batch: Vec<Value> = (0..10)
            .map(|n| json!({"event": "tick", "distinct_id": format!("p{n}"), "properties": {"round": round}}))
            .collect();
        stage.app.client.accept(&json!({ "batch": batch })).await;
    }
    browser.reads("live-arrived", "400").await;
    assert!(!browser.has("[data-testid=live-dropped]").await, "none was dropped");
    let tasks = browser.run("return window.tasks", vec![]).await;
    let tasks: Vec<f64> = tasks.as_array().unwrap().iter().map(|one| one.as_f64().unwrap()).collect();
    println!("live, 100 events a second for 4 s: tasks over 50 ms: {tasks:?}");
    stage.close().await;
}

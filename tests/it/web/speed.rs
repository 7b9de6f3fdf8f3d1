//! What makes the page fast and can be counted: how much is drawn, and that nothing is left out. `just bench web` has the
//! times.

use serde_json::{Value, json};

use super::Stage;

/// Imports a module of the page, whichever version it is.
const IMPORT: &str = "const base = document.querySelector('script[src]').src.replace('app.js', ''); \
    const done = arguments[arguments.length - 1]; const load = (name) => import(base + name); ";

#[tokio::test(flavor = "multi_thread")]
async fn large_tables_and_charts_draw_what_is_in_sight_and_lose_nothing() {
    let stage = Stage::set(&[]).await;
    let browser = &stage.browser;
    browser.goto("/").await;
    browser.see("login").await;
    let chart = format!(
        "{IMPORT} Promise.all([load('lib/chart.js'), load('lib/ui.js')]).then(async ([chart, ui]) => {{ \
           const root = document.body.appendChild(document.createElement('div')); root.style.width = '900px'; \
           const x = Array.from({{length: 1000}}, (_, at) => 1.7e12 + at * 6e4); \
           const series = Array.from({{length: 20}}, (_, one) => ({{label: `s${{one}}`, values: x.map((_, at) => one * 10 + Math.sin(at / 50) * 5)}})); \
           ui.render(ui.html`<${{chart.Chart}} x=${{x}} series=${{series}} label=\"speed\" />`, root); \
           await new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next))); \
           const canvas = root.querySelector('canvas'); \
           const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data; \
           const colours = new Set(); for (let at = 0; at < pixels.length; at += 4) if (pixels[at + 3] === 255) colours.add(`${{pixels[at]}},${{pixels[at + 1]}},${{pixels[at + 2]}}`); \
           const count = root.querySelectorAll('*').length; root.remove(); done({{ colours: colours.size, count }}); }}, (error) => done(String(error)))"
    );
    let drawn = browser.run_async(&chart, vec![]).await;
    assert!(drawn["colours"].as_u64().unwrap() >= 10, "every colour of the palette is drawn: {drawn}");
    assert!(drawn["count"].as_u64().unwrap() < 100, "points are no elements: {drawn}");

    let table = format!(
        "{IMPORT} Promise.all([load('lib/table.js'), load('lib/ui.js')]).then(async ([table, ui]) => {{ \
           const root = document.body.appendChild(document.createElement('div')); root.style.cssText = 'position: fixed; inset: 0; z-index: 99'; \
           const rows = Array.from({{length: 10000}}, (_, at) => ({{a: `row ${{at}}`, b: at}})); \
           ui.render(ui.html`<${{table.Table}} label=\"speed\" rows=${{rows}} columns=${{[{{key: 'a', title: 'A'}}, {{key: 'b', title: 'B'}}]}} />`, root); \
           const box = root.querySelector('.table'); let most = 0; const empty = []; \
           for (let step = 0; step <= 40; step++) {{ box.scrollTop = (box.scrollHeight * step) / 40; \
             await new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next))); \
             most = Math.max(most, root.querySelectorAll('tr').length); const edge = box.getBoundingClientRect(); \
             const middle = document.elementFromPoint(edge.left + 40, edge.top + edge.height / 2); \
             if (!middle?.closest('tr[data-row]')) empty.push(step); }} \
           const last = root.innerText.includes('row 9999'); const whole = root.querySelector('table').getAttribute('aria-rowcount'); \
           root.remove(); done({{ last, most, whole, empty }}); }}, (error) => done(String(error)))"
    );
    let scrolled = browser.run_async(&table, vec![]).await;
    assert_eq!(scrolled["last"], true, "the last row is reached: {scrolled}");
    assert_eq!(scrolled["whole"], "10001", "screen readers are told how many there are: {scrolled}");
    assert_eq!(scrolled["empty"], json!([]), "there are rows wherever one scrolls: {scrolled}");
    assert!(scrolled["most"].as_u64().unwrap() < 200, "only what is in sight is drawn: {scrolled}");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_events_arrive_whole_and_a_flood_is_counted_to_the_last() {
    let stage = Stage::logged_in(&[]).await;
    let browser = &stage.browser;
    let send = async |count: usize| {
        let batch: Vec<Value> =
            (0..count).map(|n| json!({"event": "tick", "distinct_id": format!("p{n}")})).collect();
        stage.app.client.accept(&json!({ "batch": batch })).await;
    };
    browser.goto("/live").await;
    browser.find("[data-testid=live-state][data-state=open]").await;
    for round in 1..=8 {
        send(50).await;
        browser.reads("live-arrived", &format!("{} arrived", round * 50)).await;
    }
    assert!(!browser.has("[data-testid=live-dropped]").await, "none was dropped");
    let rows = "return document.querySelectorAll('[data-testid=live-table] tr').length";
    let rows = browser.run(rows, vec![]).await;
    assert!(rows.as_u64().unwrap() < 200, "{rows} rows are drawn of 400");
    // More at once than a look tells of: what is not shown is counted.
    for _ in 0..10 {
        send(100).await;
    }
    let all = "const of = (id) => Number((document.querySelector(`[data-testid=${id}]`)?.innerText ?? '0').replaceAll(',', '').match(/\\d+/)[0]); \
               return of('live-arrived') + of('live-dropped') === 1400 || of('live-arrived') + of('live-dropped')";
    browser.until("shown and counted make 1400", all).await;
    stage.close().await;
}

//! From the terminal's line to the first chart by nothing but what stands on the screen: each step is named by the one
//! before, and followed by the words it is called by.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Browser, eventually};

/// `flexflow serve`, as somebody types it, with what it prints. Dropping it kills it.
struct Terminal {
    child: Child,
    folder: tempfile::TempDir,
}

impl Terminal {
    fn serve() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let printed = std::fs::File::create(folder.path().join("printed")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_flexflow"))
            .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "warn", "--data-dir"])
            .arg(folder.path().join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(printed)
            .spawn()
            .expect("the binary starts");
        Self { child, folder }
    }

    /// The line below one that ends with these words.
    async fn below(&self, words: &str) -> String {
        eventually(&format!("the terminal says {words:?}"), || async {
            let printed = std::fs::read_to_string(self.folder.path().join("printed")).unwrap();
            let mut lines = printed.lines().skip_while(|line| !line.ends_with(words)).skip(1);
            lines.next().map(|line| line.trim().to_owned()).ok_or(printed)
        })
        .await
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Waits until these words can be read without moving anything.
async fn reads(browser: &Browser, words: &str) {
    let script = "const walk = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_ELEMENT); \
        const fits = (one) => one.innerText?.replace(/\\s+/g, ' ').includes(arguments[0]); let found = null; \
        for (let one = walk.nextNode(); one; one = walk.nextNode()) if (fits(one)) found = one; \
        if (!found) return document.querySelector('main').innerText; \
        const { top, bottom, height } = found.getBoundingClientRect(); \
        return height > 0 && top >= 0 && bottom <= innerHeight ? 'there' : `from ${top} to ${bottom} of ${innerHeight}`";
    eventually(&format!("{words:?} can be read"), || async {
        let told = browser.run(script, vec![json!(words)]).await;
        if told == "there" { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_new_comes_from_the_terminal_to_a_chart_by_what_is_written_there() {
    let begun = Instant::now();
    let terminal = Terminal::serve();
    let link = terminal.below("look at it (this link logs in once):").await;
    let (origin, _) = link.split_once("/#").expect("an address");
    let browser = Browser::open(origin).await;
    browser.goto(link.strip_prefix(origin).unwrap()).await;

    reads(&browser, "Send your first event").await;
    reads(&browser, "Three steps, about a minute").await;
    reads(&browser, "1. A key").await;
    reads(&browser, "Make one, and the lines below have it").await;
    browser.press("Make a key").await;

    reads(&browser, "2. Send an event").await;
    reads(&browser, "Paste this into a terminal").await;
    let key = browser.text("new-key").await;
    let shown = "return document.querySelector('[aria-label=\"Send an event with curl\"]').innerText";
    let line = browser.run(shown, vec![]).await.as_str().unwrap().to_owned();
    assert!(line.starts_with("curl ") && line.contains(&key), "{line}");
    let pasted = Command::new("sh").args(["-c", &line]).output().unwrap();
    let answer = String::from_utf8_lossy(&pasted.stdout);
    assert!(pasted.status.success() && answer.contains("event_ids"), "{answer} {pasted:?}");

    reads(&browser, "3. See it arrive").await;
    reads(&browser, "It works").await;
    reads(&browser, "signed up").await;
    reads(&browser, "Draw a first chart").await;
    browser.press("Draw a first chart").await;

    reads(&browser, "How often, by how many, over time").await;
    let drawn = "const canvas = document.querySelector('[data-testid=chart] canvas'); if (!canvas) return 'no chart'; \
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height); \
        const colors = new Set(); for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 0) colors.add(data.slice(at, at + 3).join()); \
        return colors.size > 2 || `${colors.size} colours`";
    browser.until("a chart is drawn", drawn).await;
    let counted = "const row = document.querySelector('[data-testid=answer-table] tbody tr'); return row !== null && row.innerText.split(/\\s+/).join(' ')";
    eventually("the chart counts the event", || async {
        let row = browser.run(counted, vec![]).await;
        if row == "Sum 1" { Ok(()) } else { Err(row.to_string()) }
    })
    .await;
    browser.is_clean("a first chart").await;
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
    browser.close().await;
}

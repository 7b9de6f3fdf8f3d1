//! A real Chromium without a window, driven through ChromeDriver: for what only a browser can tell about the page.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use fantoccini::elements::Element;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::eventually;

const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// Looks for what people with other eyes or hands would miss.
const AXE: &str = include_str!("../web/axe-core/axe.min.js");

/// A browser with a profile of its own. Close it; dropping it kills it.
pub(crate) struct Browser {
    client: Client,
    /// The page's origin.
    url: String,
    /// The driver's session, for what WebDriver has no words for.
    session: String,
    http: reqwest::Client,
    driver: Driver,
}

struct Driver {
    child: Child,
    profile: TempDir,
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The browser dies with its driver.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Browser {
    /// Starts one for the page at `url`.
    pub(crate) async fn open(url: &str) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let profile = tempfile::tempdir().unwrap();
        let told = profile.path().join("chromedriver.log");
        let child = Command::new("chromedriver")
            .arg("--port=0")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&told).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("chromedriver: {error}; apt-get install chromium chromium-driver"));
        let driver = Driver { child, profile };
        let port = eventually("chromedriver tells its port", || async {
            let told = std::fs::read_to_string(&told).map_err(|error| error.to_string())?;
            port_of(&told).ok_or(told)
        })
        .await;
        let mut flags: Vec<String> = FLAGS.iter().map(ToString::to_string).collect();
        flags.push(format!("--user-data-dir={}", driver.profile.path().join("profile").display()));
        flags.push("--window-size=1360,900".to_owned());
        flags.push("--lang=en-US".to_owned());
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "args": flags },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let address = format!("http://127.0.0.1:{port}");
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities.as_object().unwrap().clone())
            .connect(&address)
            .await
            .unwrap_or_else(|error| panic!("chromium: {error}; apt-get install chromium chromium-driver"));
        let id = client.session_id().await.unwrap().unwrap();
        let session = format!("{address}/session/{id}");
        Self { client, url: url.to_owned(), session, http: reqwest::Client::new(), driver }
    }

    pub(crate) async fn close(self) {
        self.client.close().await.ok();
        drop(self.driver);
    }

    /// Opens a path of the page, as a link from elsewhere does.
    pub(crate) async fn goto(&self, path: &str) {
        self.client.goto(&format!("{}{path}", self.url)).await.unwrap();
    }

    pub(crate) async fn reload(&self) {
        self.client.refresh().await.unwrap();
    }

    pub(crate) async fn back(&self) {
        self.client.back().await.unwrap();
    }

    /// Path and query string that the page is at.
    pub(crate) async fn place(&self) -> String {
        let url = self.client.current_url().await.unwrap();
        url.as_str().strip_prefix(&self.url).unwrap_or(url.as_str()).to_owned()
    }

    /// Logs in, wherever the page is.
    pub(crate) async fn log_in(&self, email: &str, password: &str) {
        self.fill("email", email).await;
        self.fill("password", password).await;
        self.click("enter").await;
        self.see("nav-start").await;
    }

    /// The element with this test id, once it is there.
    pub(crate) async fn see(&self, id: &str) -> Element {
        self.find(&format!("[data-testid=\"{id}\"]")).await
    }

    /// The element, once it is there and shown.
    pub(crate) async fn find(&self, css: &str) -> Element {
        let found = eventually(&format!("{css} is shown"), || async {
            let found = self.client.find(Locator::Css(css)).await.map_err(|error| error.to_string())?;
            match found.is_displayed().await {
                Ok(true) => Ok(found),
                Ok(false) => Err("it is hidden".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        });
        self.or_tell(found).await
    }

    /// Waits; where that fails, the panic comes with what was on screen.
    async fn or_tell<T>(&self, wait: impl Future<Output = T>) -> T {
        let told = tokio::time::timeout(std::time::Duration::from_secs(20), wait).await;
        match told {
            Ok(found) => found,
            Err(_) => {
                let shown = self.run("return document.body.innerText", vec![]).await;
                let place = self.place().await;
                let said = self.console().await;
                panic!("not within 20 s; at {place} is shown:\n{}\n{said:?}", shown.as_str().unwrap_or_default());
            }
        }
    }

    /// Waits until this script answers true; `what` says what it is about.
    pub(crate) async fn until(&self, what: &str, script: &str) {
        let waited = eventually(what, || async {
            match self.client.execute(script, vec![]).await {
                Ok(Value::Bool(true)) => Ok(()),
                Ok(other) => Err(other.to_string()),
                Err(error) => Err(error.to_string()),
            }
        });
        self.or_tell(waited).await;
    }

    /// Waits until the element with this test id shows this text.
    pub(crate) async fn reads(&self, id: &str, text: &str) {
        let wanted = json!([id, text]);
        let script = format!(
            "const [id, text] = {wanted}; const found = document.querySelector(`[data-testid=\"${{id}}\"]`); \
             return found !== null && found.innerText.includes(text) || (found ? found.innerText : 'it is not there')"
        );
        self.until(&format!("{id} shows {text:?}"), &script).await;
    }

    /// What the element with this test id shows.
    pub(crate) async fn text(&self, id: &str) -> String {
        self.see(id).await;
        let script = "return document.querySelector(`[data-testid=\"${arguments[0]}\"]`).innerText";
        self.run(script, vec![json!(id)]).await.as_str().unwrap_or_default().to_owned()
    }

    /// Is there an element like this now?
    pub(crate) async fn has(&self, css: &str) -> bool {
        self.run("return document.querySelector(arguments[0]) !== null", vec![json!(css)]).await == json!(true)
    }

    pub(crate) async fn click(&self, id: &str) {
        self.click_on(&format!("[data-testid=\"{id}\"]")).await;
    }

    /// Clicks, and again if the page drew it anew in between.
    pub(crate) async fn click_on(&self, css: &str) {
        let clicked = eventually(&format!("{css} is clicked"), || async {
            let found = self.client.find(Locator::Css(css)).await.map_err(|error| error.to_string())?;
            found.click().await.map_err(|error| error.to_string())
        });
        self.or_tell(clicked).await;
    }

    /// Clicks the button or the link with these words.
    pub(crate) async fn press(&self, words: &str) {
        let path = format!("(//button|//a|//summary)[normalize-space(.)={}]", json!(words));
        let pressed = eventually(&format!("{words:?} is pressed"), || async {
            let found = self.client.find(Locator::XPath(&path)).await.map_err(|error| error.to_string())?;
            found.click().await.map_err(|error| error.to_string())
        });
        self.or_tell(pressed).await;
    }

    /// Puts this text into a field instead of what it has.
    pub(crate) async fn fill(&self, id: &str, text: &str) {
        self.fill_in(&format!("[data-testid=\"{id}\"]"), text).await;
    }

    pub(crate) async fn fill_in(&self, css: &str, text: &str) {
        let filled = eventually(&format!("{css} is filled"), || async {
            let found = self.client.find(Locator::Css(css)).await.map_err(|error| error.to_string())?;
            found.clear().await.map_err(|error| error.to_string())?;
            found.send_keys(text).await.map_err(|error| error.to_string())
        });
        self.or_tell(filled).await;
    }

    /// Chooses an option by its value.
    pub(crate) async fn choose(&self, id: &str, value: &str) {
        let css = format!("[data-testid=\"{id}\"]");
        let chosen = eventually(&format!("{id} offers {value}"), || async {
            let found = self.client.find(Locator::Css(&css)).await.map_err(|error| error.to_string())?;
            found.select_by_value(value).await.map_err(|error| error.to_string())
        });
        self.or_tell(chosen).await;
    }

    /// Sends keys to whatever has the focus.
    pub(crate) async fn keys(&self, keys: &str) {
        let focused = self.client.active_element().await.unwrap();
        focused.send_keys(keys).await.unwrap();
    }

    pub(crate) async fn size(&self, width: u32, height: u32) {
        self.client.set_window_size(width, height).await.unwrap();
    }

    /// Runs a script in the page.
    pub(crate) async fn run(&self, script: &str, given: Vec<Value>) -> Value {
        self.client.execute(script, given).await.unwrap()
    }

    /// Runs a script that ends by calling its last argument.
    pub(crate) async fn run_async(&self, script: &str, given: Vec<Value>) -> Value {
        self.client.execute_async(script, given).await.unwrap()
    }

    async fn log(&self, kind: &str) -> Vec<Value> {
        let asked = self.http.post(format!("{}/se/log", self.session)).json(&json!({ "type": kind }));
        let answer: Value = asked.send().await.unwrap().json().await.unwrap();
        answer["value"].as_array().cloned().unwrap_or_default()
    }

    async fn console(&self) -> Vec<String> {
        let all = self.log("browser").await.into_iter();
        all.map(|entry| format!("{}: {}", entry["source"], entry["message"])).collect()
    }

    /// Faults that the console told since it was asked last. An answer of the API that is an error is none: pages show
    /// those.
    pub(crate) async fn faults(&self) -> Vec<String> {
        let of_api = |entry: &Value| {
            let message = entry["message"].as_str().unwrap_or_default();
            entry["source"] == "network" && (message.contains("/api/") || message.contains("/metrics"))
        };
        let all = self.log("browser").await.into_iter();
        all.filter(|entry| ["SEVERE", "WARNING"].contains(&entry["level"].as_str().unwrap_or_default()))
            .filter(|entry| !of_api(entry))
            .map(|entry| entry["message"].to_string())
            .collect()
    }

    /// Origins other than the page's that something was asked of since this was asked last.
    pub(crate) async fn strangers(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for entry in self.log("performance").await {
            let Ok(entry) = serde_json::from_str::<Value>(entry["message"].as_str().unwrap_or_default()) else { continue };
            if entry["message"]["method"] != "Network.requestWillBeSent" {
                continue;
            }
            let url = entry["message"]["params"]["request"]["url"].as_str().unwrap_or_default();
            let own = [self.url.as_str(), "data:", "blob:", "about:", "chrome:"].iter().any(|one| url.starts_with(one));
            if !own {
                found.insert(url.to_owned());
            }
        }
        found
    }

    /// Serious and critical faults of what is shown, to people who read or operate it otherwise.
    pub(crate) async fn barriers(&self) -> Vec<String> {
        self.run(&format!("if (!window.axe) {{ {AXE} }}"), vec![]).await;
        let script = "const done = arguments[arguments.length - 1]; \
            axe.run(document, { resultTypes: ['violations'] }).then( \
              (found) => done(found.violations.filter((one) => ['serious', 'critical'].includes(one.impact)) \
                .map((one) => `${one.id}: ${one.help}: ${one.nodes.slice(0, 3).map((node) => node.html.slice(0, 200)).join(' | ')}`)), \
              (error) => done([String(error)]))";
        let found = self.run_async(script, vec![]).await;
        found.as_array().unwrap().iter().map(|one| one.as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Nothing is wrong with what is shown: no barrier, no fault in the console, no request to a stranger.
    pub(crate) async fn is_clean(&self, what: &str) {
        let (barriers, faults, strangers) = (self.barriers().await, self.faults().await, self.strangers().await);
        assert!(barriers.is_empty(), "{what}: {barriers:#?}");
        assert!(faults.is_empty(), "{what}: the console told {faults:#?}");
        assert!(strangers.is_empty(), "{what}: the page asked {strangers:?}");
    }

    /// With `FLEXFLOW_TEST_PICTURES` set, keeps what is shown as `docs/pictures/<name>.png`.
    pub(crate) async fn picture(&self, name: &str) {
        if std::env::var_os("FLEXFLOW_TEST_PICTURES").is_none() {
            return;
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/pictures");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), self.client.screenshot().await.unwrap()).unwrap();
    }
}

/// The port that ChromeDriver took.
fn port_of(told: &str) -> Option<u16> {
    let (_, rest) = told.split_once("started successfully on port ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

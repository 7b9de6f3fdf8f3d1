//! A real Chromium without a window, driven through ChromeDriver: for what only a browser can tell about the page.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
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
    /// The page's origin.
    url: String,
    /// The address of the driver's session.
    session: String,
    http: reqwest::Client,
    driver: Driver,
}

/// Longest the page may take for anything, on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// How WebDriver names an element in its answers.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

struct Driver {
    child: Child,
    profile: TempDir,
}

impl Driver {
    /// Starts one on a port of its choice. It looks for a port that is free in IPv4, and ends if another process takes
    /// that in IPv6 meanwhile: then another one is started.
    async fn start() -> (Self, u16) {
        eventually("chromedriver tells its port", || async {
            let profile = tempfile::tempdir().unwrap();
            let told = profile.path().join("chromedriver.log");
            let child = Command::new("chromedriver")
                .arg("--port=0")
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(std::fs::File::create(&told).unwrap())
                .stderr(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| {
                    panic!("chromedriver: {error}; apt-get install chromium chromium-driver")
                });
            let mut driver = Self { child, profile };
            let begun = tokio::time::Instant::now();
            loop {
                let ended = driver.child.try_wait().unwrap();
                let said = std::fs::read_to_string(&told).map_err(|error| error.to_string())?;
                match (port_of(&said), ended) {
                    (Some(port), _) => return Ok((driver, port)),
                    (None, Some(status)) => return Err(format!("{status}: {said}")),
                    (None, None) if begun.elapsed() > LIMIT => return Err(format!("it waits: {said}")),
                    (None, None) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        })
        .await
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The browser is of its driver's group, and outlives a driver that is killed alone.
        let group = format!("-{}", self.child.id());
        Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status().ok();
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Browser {
    /// Starts one for the page at `url`.
    pub(crate) async fn open(url: &str) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let (driver, port) = Driver::start().await;
        let mut flags: Vec<String> = FLAGS.iter().map(ToString::to_string).collect();
        flags.push(format!("--user-data-dir={}", driver.profile.path().join("profile").display()));
        flags.push("--window-size=1360,900".to_owned());
        flags.push("--lang=en-US".to_owned());
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "args": flags },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let (http, address) = (reqwest::Client::new(), format!("http://127.0.0.1:{port}/session"));
        let wish = json!({ "capabilities": { "alwaysMatch": capabilities } });
        let begun = tell(http.post(&address).json(&wish)).await;
        let begun = begun
            .unwrap_or_else(|error| panic!("chromium: {error}; apt-get install chromium chromium-driver"));
        let session = format!("{address}/{}", begun["sessionId"].as_str().unwrap());
        Self { url: url.to_owned(), session, http, driver }
    }

    pub(crate) async fn close(self) {
        tell(self.http.delete(&self.session)).await.ok();
        drop(self.driver);
    }

    /// A command of WebDriver.
    async fn order(&self, path: &str, body: Value) -> Result<Value, String> {
        tell(self.http.post(format!("{}/{path}", self.session)).json(&body)).await
    }

    async fn ask(&self, path: &str) -> Result<Value, String> {
        tell(self.http.get(format!("{}/{path}", self.session))).await
    }

    /// The id of the first element that a selector (`css selector`, `xpath`) finds now.
    async fn element(&self, using: &str, value: &str) -> Result<String, String> {
        let found = self.order("element", json!({ "using": using, "value": value })).await?;
        Ok(found[ELEMENT].as_str().unwrap_or_default().to_owned())
    }

    /// Opens a path of the page, as a link from elsewhere does.
    pub(crate) async fn goto(&self, path: &str) {
        self.order("url", json!({ "url": format!("{}{path}", self.url) })).await.unwrap();
    }

    pub(crate) async fn reload(&self) {
        self.order("refresh", json!({})).await.unwrap();
    }

    pub(crate) async fn back(&self) {
        self.order("back", json!({})).await.unwrap();
    }

    /// Path and query string that the page is at.
    pub(crate) async fn place(&self) -> String {
        let url = self.ask("url").await.unwrap();
        let url = url.as_str().unwrap_or_default();
        url.strip_prefix(&self.url).unwrap_or(url).to_owned()
    }

    /// Logs in, wherever the page is.
    pub(crate) async fn log_in(&self, email: &str, password: &str) {
        self.fill("email", email).await;
        self.fill("password", password).await;
        self.click("enter").await;
        self.see("nav-start").await;
    }

    /// Waits until the element with this test id is shown.
    pub(crate) async fn see(&self, id: &str) {
        self.find(&format!("[data-testid=\"{id}\"]")).await;
    }

    /// Waits until the element is shown.
    pub(crate) async fn find(&self, css: &str) {
        self.wait(&format!("{css} is shown"), || async {
            let found = self.element("css selector", css).await?;
            match self.ask(&format!("element/{found}/displayed")).await? {
                Value::Bool(true) => Ok(()),
                _ => Err("it is hidden".to_owned()),
            }
        })
        .await;
    }

    /// Waits; where that fails, the panic comes with what was on screen.
    async fn wait<T, F, Fut>(&self, what: &str, condition: F) -> T
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, String>>,
    {
        match tokio::time::timeout(LIMIT, eventually(what, condition)).await {
            Ok(found) => found,
            Err(_) => {
                let shown = self.run("return document.body.innerText.slice(0, 3000)", vec![]).await;
                let (place, said) = (self.place().await, self.console().await);
                let shown = shown.as_str().unwrap_or_default();
                panic!("{what}: not within {LIMIT:?}; at {place} is shown:\n{shown}\n{said:?}");
            }
        }
    }

    /// Waits until this script answers true; `what` says what it is about.
    pub(crate) async fn until(&self, what: &str, script: &str) {
        self.wait(what, || async {
            match self.order("execute/sync", json!({ "script": script, "args": [] })).await {
                Ok(Value::Bool(true)) => Ok(()),
                Ok(other) => Err(other.to_string()),
                Err(error) => Err(error),
            }
        })
        .await;
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
        self.run("return document.querySelector(arguments[0]) !== null", vec![json!(css)]).await
            == json!(true)
    }

    pub(crate) async fn click(&self, id: &str) {
        self.click_on(&format!("[data-testid=\"{id}\"]")).await;
    }

    /// Clicks, and again if the page drew it anew in between.
    pub(crate) async fn click_on(&self, css: &str) {
        self.wait(&format!("{css} is clicked"), || async {
            let found = self.element("css selector", css).await?;
            self.order(&format!("element/{found}/click"), json!({})).await
        })
        .await;
    }

    /// Clicks the button or the link with these words.
    pub(crate) async fn press(&self, words: &str) {
        let path = format!("(//button|//a|//summary)[normalize-space(.)={}]", json!(words));
        self.pick(&path).await;
    }

    /// Clicks what this path of XML leads to.
    pub(crate) async fn pick(&self, path: &str) {
        self.wait(&format!("{path} is clicked"), || async {
            let found = self.element("xpath", path).await?;
            self.order(&format!("element/{found}/click"), json!({})).await
        })
        .await;
    }

    /// Drags one thing onto another with the mouse.
    pub(crate) async fn drag(&self, from: &str, onto: &str) {
        let mut steps = vec![json!({ "type": "pointerMove", "origin": "viewport", "x": 1, "y": 1 })];
        for (css, held) in [(from, false), (onto, true)] {
            self.find(css).await;
            let found = json!({ ELEMENT: self.element("css selector", css).await.unwrap() });
            // It is dragged once it has moved a little, and is over a thing once it moves there.
            for (x, y) in [(0, 0), (5, 5)] {
                steps.push(json!({ "type": "pointerMove", "duration": 50, "origin": found, "x": x, "y": y }));
                if !held && x == 0 {
                    steps.push(json!({ "type": "pointerDown", "button": 0 }));
                }
            }
        }
        steps.push(json!({ "type": "pointerUp", "button": 0 }));
        let mouse = json!({ "type": "pointer", "id": "mouse", "parameters": { "pointerType": "mouse" }, "actions": steps });
        self.order("actions", json!({ "actions": [mouse] })).await.unwrap();
    }

    /// Puts this text into a field instead of what it has.
    pub(crate) async fn fill(&self, id: &str, text: &str) {
        self.fill_in(&format!("[data-testid=\"{id}\"]"), text).await;
    }

    pub(crate) async fn fill_in(&self, css: &str, text: &str) {
        self.wait(&format!("{css} is filled"), || async {
            let found = self.element("css selector", css).await?;
            self.order(&format!("element/{found}/clear"), json!({})).await?;
            self.order(&format!("element/{found}/value"), json!({ "text": text })).await?;
            // Clearing is no input to the page: a field that is drawn behind it has again what it had. Typing over is one.
            let now = self.ask(&format!("element/{found}/property/value")).await.unwrap_or_default();
            match now.as_str() {
                Some(now) if now.len() > text.len() && now.ends_with(text) => {
                    let over = format!("\u{e009}a\u{e000}{text}");
                    self.order(&format!("element/{found}/value"), json!({ "text": over })).await
                }
                _ => Ok(Value::Null),
            }
        })
        .await;
    }

    /// Chooses an option by its value.
    pub(crate) async fn choose(&self, id: &str, value: &str) {
        // An option whose words are its value has no attribute of that name.
        let path = format!("//*[@data-testid='{id}']//option[@value='{value}' or .='{value}']");
        self.wait(&format!("{id} offers {value}"), || async {
            let found = self.element("xpath", &path).await?;
            self.order(&format!("element/{found}/click"), json!({})).await
        })
        .await;
    }

    /// Sends keys to whatever has the focus.
    pub(crate) async fn keys(&self, keys: &str) {
        let focused = self.ask("element/active").await.unwrap();
        let focused = focused[ELEMENT].as_str().unwrap();
        self.order(&format!("element/{focused}/value"), json!({ "text": keys })).await.unwrap();
    }

    /// Numbers and times as this reader is used to them, from the next page on.
    pub(crate) async fn locale(&self, locale: &str) {
        let wish = json!({ "cmd": "Emulation.setLocaleOverride", "params": { "locale": locale } });
        self.order("goog/cdp/execute", wish).await.unwrap();
    }

    pub(crate) async fn size(&self, width: u32, height: u32) {
        self.order("window/rect", json!({ "width": width, "height": height })).await.unwrap();
    }

    /// Runs a script in the page.
    pub(crate) async fn run(&self, script: &str, given: Vec<Value>) -> Value {
        self.order("execute/sync", json!({ "script": script, "args": given })).await.unwrap()
    }

    /// Runs a script that ends by calling its last argument.
    pub(crate) async fn run_async(&self, script: &str, given: Vec<Value>) -> Value {
        self.order("execute/async", json!({ "script": script, "args": given })).await.unwrap()
    }

    async fn log(&self, kind: &str) -> Vec<Value> {
        let told = self.order("se/log", json!({ "type": kind })).await.unwrap();
        told.as_array().cloned().unwrap_or_default()
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
            let Ok(entry) = serde_json::from_str::<Value>(entry["message"].as_str().unwrap_or_default())
            else {
                continue;
            };
            if entry["message"]["method"] != "Network.requestWillBeSent" {
                continue;
            }
            let url = entry["message"]["params"]["request"]["url"].as_str().unwrap_or_default();
            let own = [self.url.as_str(), "data:", "blob:", "about:", "chrome:"]
                .iter()
                .any(|one| url.starts_with(one));
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
        let (barriers, faults, strangers) =
            (self.barriers().await, self.faults().await, self.strangers().await);
        assert!(barriers.is_empty(), "{what}: {barriers:#?}");
        assert!(faults.is_empty(), "{what}: the console told {faults:#?}");
        assert!(strangers.is_empty(), "{what}: the page asked {strangers:?}");
    }

    /// With `FLEXFLOW_TEST_PICTURES` set, keeps what is shown as `docs/pictures/<name>.webp`.
    pub(crate) async fn picture(&self, name: &str) {
        if std::env::var_os("FLEXFLOW_TEST_PICTURES").is_none() {
            return;
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/pictures");
        std::fs::create_dir_all(&folder).unwrap();
        let wish = json!({ "cmd": "Page.captureScreenshot", "params": { "format": "webp", "quality": 70 } });
        let picture = self.order("goog/cdp/execute", wish).await.unwrap();
        let picture = BASE64.decode(picture["data"].as_str().unwrap()).unwrap();
        std::fs::write(folder.join(format!("{name}.webp")), picture).unwrap();
    }
}

/// The port that ChromeDriver took.
fn port_of(told: &str) -> Option<u16> {
    let (_, rest) = told.split_once("started successfully on port ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// What ChromeDriver answers a command, or why it does not do it.
async fn tell(command: reqwest::RequestBuilder) -> Result<Value, String> {
    let answer = command.send().await.map_err(|error| error.to_string())?;
    let good = answer.status().is_success();
    let mut answer: Value = answer.json().await.map_err(|error| error.to_string())?;
    let value = answer["value"].take();
    if good {
        Ok(value)
    } else {
        Err(value["message"].as_str().unwrap_or_default().lines().next().unwrap_or_default().to_owned())
    }
}

//! The one way operators' commands work: HTTP to the process that runs on this `data_dir` (named by its
//! `server.json`, with its token), to a server named by `--url`, or, if none runs, to one started here for the command.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::Usage;
use super::args::{Remote, Scope};
use crate::app::{App, Options, Running};
use crate::config::Config;

/// Longest wait for an answer; audits read the whole log.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(600);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A process started for a command gets this long until its parts answer.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// What a running process says about itself in `data_dir/server.json`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Server {
    pid: u32,
    pub url: String,
    operator_token: SecretString,
}

/// What the first start wrote down in `data_dir/first-run.json`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct FirstRun {
    pub url: String,
    pub api_key: String,
}

impl FirstRun {
    /// # Errors
    /// It is there and cannot be read.
    pub(super) fn read(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        read(&data_dir.join("first-run.json"))
    }
}

/// The process that runs on this folder.
///
/// # Errors
/// Its file is there and cannot be read.
pub(super) fn running(data_dir: &Path) -> anyhow::Result<Option<Server>> {
    let server: Option<Server> = read(&data_dir.join("server.json"))?;
    Ok(server.filter(|server| is_alive(server.pid)))
}

/// Without `/proc` this cannot be told; then the connection tells.
fn is_alive(pid: u32) -> bool {
    let processes = Path::new("/proc");
    !processes.join("self").exists() || processes.join(pid.to_string()).exists()
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => {
            let value = serde_json::from_slice(&bytes);
            value.map(Some).with_context(|| format!("{} is damaged", path.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Everything a request needs.
#[derive(Clone)]
pub(super) struct Operator {
    client: Client,
    url: String,
    bearer: Option<SecretString>,
    /// `X-Project-ID` and `X-Environment-ID`.
    scope: Vec<(&'static str, String)>,
    /// Started for this command: it may need a moment until it can answer.
    young: bool,
}

/// The server answered that it cannot do this.
#[derive(Debug, thiserror::Error)]
#[error("{message}{}", facts(.details))]
pub(super) struct Refused {
    pub status: StatusCode,
    pub message: String,
    pub details: Value,
}

/// `details` for people: what was given, what is valid.
fn facts(details: &Value) -> String {
    let Value::Object(details) = details else { return String::new() };
    let facts: Vec<String> = details.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) }
}

/// The server that `remote` names, else the one that runs on this `data_dir`, else one started here; that one is
/// answered too, and is to be stopped when the command is done.
///
/// # Errors
/// None answers; the folder is held by a process that has not said where it listens.
pub(super) async fn connect(config: &Config, remote: &Remote) -> anyhow::Result<(Operator, Option<Running>)> {
    if let Some(url) = &remote.url {
        return Ok((Operator::at(url, remote.api_key.clone().map(SecretString::from))?, None));
    }
    if let Some(server) = running(&config.data_dir)? {
        let operator = Operator::at(&server.url, Some(server.operator_token.clone()))?;
        match operator.client.get(operator.address("/health")).send().await {
            Ok(_) => return Ok((operator, None)),
            // Left behind by a process that was killed, and its number is somebody else's by now.
            Err(error) if error.is_connect() => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("process {} on {} does not answer", server.pid, server.url));
            }
        }
    }
    let running = Box::pin(App::start(config.clone(), &[], Options::default())).await?;
    let token = SecretString::from(running.operator_token().to_owned());
    let operator = Operator { young: true, ..Operator::at(running.url(), Some(token))? };
    operator.wait_until_heard().await?;
    Ok((operator, Some(running)))
}

#[derive(Deserialize)]
struct Components {
    components: Vec<Component>,
}

#[derive(Deserialize)]
struct Component {
    state: String,
}

impl Operator {
    /// Waits until every part has said for the first time how it is, or long enough.
    async fn wait_until_heard(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let answer: Components = self.get("/api/ops/components", &[]).await?;
            let starting = answer.components.iter().any(|component| component.state == "starting");
            if !starting || Instant::now() > deadline {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The same server, asked about this project and environment.
    ///
    /// # Errors
    /// There is no such project or environment.
    pub(super) async fn scoped(&self, scope: &Scope) -> anyhow::Result<Self> {
        let mut scoped = self.clone();
        if let Some(project) = &scope.project {
            let id = super::scopes::project_id(self, project).await?;
            if let Some(environment) = &scope.environment {
                let environment = super::scopes::environment_id(self, &id, environment).await?;
                scoped.scope.push(("X-Environment-ID", environment));
            }
            scoped.scope.push(("X-Project-ID", id));
        } else if let Some(environment) = &scope.environment {
            let environment = super::scopes::own_environment_id(self, environment).await?;
            scoped.scope.push(("X-Environment-ID", environment));
        }
        Ok(scoped)
    }

    fn at(url: &str, bearer: Option<SecretString>) -> anyhow::Result<Self> {
        let url = url.trim_end_matches('/').to_owned();
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(Usage::new(format!("{url:?} is not an address such as http://127.0.0.1:8080")).into());
        }
        let client = Client::builder().timeout(REQUEST_TIMEOUT).connect_timeout(CONNECT_TIMEOUT).build()?;
        Ok(Self { client, url, bearer, scope: Vec::new(), young: false })
    }

    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> anyhow::Result<T> {
        self.answer(|| self.request(Method::GET, path).query(query)).await
    }

    /// The text that this path answers.
    pub(super) async fn text(&self, path: &str) -> anyhow::Result<String> {
        let response = self.request(Method::GET, path).send().await;
        let response =
            response.with_context(|| format!("{} does not answer", self.url))?.error_for_status()?;
        Ok(response.text().await?)
    }

    /// The text that another process answers, asked without any credential.
    pub(super) async fn text_elsewhere(&self, address: &str) -> anyhow::Result<String> {
        let response = self.client.get(address).send().await;
        let response = response.with_context(|| format!("{address} does not answer"))?.error_for_status()?;
        Ok(response.text().await?)
    }

    /// The server that is asked.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        self.answer(|| self.request(Method::POST, path).json(body)).await
    }

    pub(super) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        self.answer(|| self.request(Method::PUT, path).json(body)).await
    }

    pub(super) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        self.answer(|| self.request(Method::PATCH, path).json(body)).await
    }

    pub(super) async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.answer(|| self.request(Method::DELETE, path)).await
    }

    /// Was it started for this command, without roles?
    pub(super) fn is_own(&self) -> bool {
        self.young
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut request = self.client.request(method, self.address(path));
        if let Some(bearer) = &self.bearer {
            request = request.bearer_auth(bearer.expose_secret());
        }
        for (name, value) in &self.scope {
            request = request.header(*name, value);
        }
        request
    }

    fn address(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// Sends until the answer is final: a process started for this command may need a moment until it can answer.
    async fn answer<T: DeserializeOwned>(&self, request: impl Fn() -> RequestBuilder) -> anyhow::Result<T> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let response = request().send().await.with_context(|| format!("{} does not answer", self.url))?;
            let later = response.status() == StatusCode::SERVICE_UNAVAILABLE && self.young;
            if !later || Instant::now() > deadline {
                return read_answer(response).await;
            }
            let after =
                response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            tokio::time::sleep(after.map_or(POLL, Duration::from_secs)).await;
        }
    }
}

async fn read_answer<T: DeserializeOwned>(response: Response) -> anyhow::Result<T> {
    let (status, address) = (response.status(), response.url().path().to_owned());
    let text = response.text().await.with_context(|| format!("the answer of {address} broke off"))?;
    if status.is_success() {
        let text = if text.is_empty() { "null" } else { &text };
        return serde_json::from_str(text)
            .with_context(|| format!("{address} answered what it should not: {text}"));
    }
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    let Some(message) = body["message"].as_str() else { bail!("{address} answered {status}: {text}") };
    let code = body["code"].as_str().unwrap_or_default();
    let message = match body["request_id"].as_str() {
        Some(id) if status.is_server_error() => format!("{code}: {message} (request {id})"),
        _ => format!("{code}: {message}"),
    };
    Err(anyhow!(Refused { status, message, details: body["details"].clone() }))
}

//! The real application in this process, on a folder and a port of its own.

use std::sync::Arc;
use std::time::Duration;

use flexflow::app::{App, Options, Role, Running};
use flexflow::config::Config;
use flexflow::event::Clock;
use flexflow::eventlog::{FetchFrom, FetchLimits, TopicPartition};
use flexflow::telemetry::logs;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::cluster::{self, Cluster};
use super::contract::{self, Asked};
use super::eventually;
use super::log::{Log, LogSettings};

/// A running application with a client for it. Stopping drains it; dropping it without stopping leaves it to the end of
/// the test's runtime, as a crash would.
pub(crate) struct Sandbox {
    pub(crate) running: Running,
    pub(crate) client: Client,
    dir: TempDir,
    log: LogSettings,
    /// Its store, where that is not its own engine.
    cluster: Option<Arc<Cluster>>,
}

/// Requests with the first key.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) http: reqwest::Client,
    pub(crate) url: String,
    pub(crate) key: String,
    pub(crate) operator_token: String,
    /// What `topics.events` is.
    pub(crate) events_topic: String,
    /// What `consumer.group_id` is.
    pub(crate) group_id: String,
}

impl Sandbox {
    /// All roles on defaults.
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// All roles on the embedded log (see [`Log::usual`]), with settings changed.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        Self::on_with(Log::usual(), settings).await
    }

    /// All roles on this log.
    pub(crate) async fn on(log: Log) -> Self {
        Self::on_with(log, &[]).await
    }

    /// All roles on this log, with settings changed.
    pub(crate) async fn on_with(log: Log, settings: &[(&str, &str)]) -> Self {
        let log = LogSettings::of(log).await;
        Self::build_on(tempfile::tempdir().unwrap(), log, Role::ALL, settings, Options::default()).await
    }

    /// All roles on this log, under a clock of the test's.
    pub(crate) async fn on_with_clock(log: Log, clock: Arc<dyn Clock>) -> Self {
        let options = Options { clock, ..Options::default() };
        let log = LogSettings::of(log).await;
        Self::build_on(tempfile::tempdir().unwrap(), log, Role::ALL, &[], options).await
    }

    /// Starts again on the folder and the topics of one that was stopped.
    pub(crate) async fn restart(self, settings: &[(&str, &str)]) -> Self {
        self.restart_as(Role::ALL, settings).await
    }

    /// The same with these roles.
    pub(crate) async fn restart_as(self, roles: &[Role], settings: &[(&str, &str)]) -> Self {
        let Self { running, dir, log, cluster, .. } = self;
        running.stop().await.expect("a clean stop");
        Box::pin(Self::build_at(dir, log, cluster, roles, settings, Options::default())).await
    }

    /// These roles on this folder, with the embedded log.
    pub(crate) async fn build(
        dir: TempDir,
        roles: &[Role],
        settings: &[(&str, &str)],
        options: Options,
    ) -> Self {
        Self::build_on(dir, LogSettings::of(Log::Embedded).await, roles, settings, options).await
    }

    /// These roles on this folder and this log.
    pub(crate) async fn build_on(
        dir: TempDir,
        log: LogSettings,
        roles: &[Role],
        settings: &[(&str, &str)],
        options: Options,
    ) -> Self {
        let own =
            settings.iter().any(|(key, _)| key.starts_with("store.") && *key != "store.request_timeout");
        let cluster = if cluster::wanted() && !own { Some(Arc::new(Cluster::start().await)) } else { None };
        Self::build_at(dir, log, cluster, roles, settings, options).await
    }

    /// All roles on a cluster of stores.
    pub(crate) async fn on_cluster(cluster: Arc<Cluster>, settings: &[(&str, &str)]) -> Self {
        let (dir, log) = (tempfile::tempdir().unwrap(), LogSettings::of(Log::Embedded).await);
        Self::build_at(dir, log, Some(cluster), Role::ALL, settings, Options::default()).await
    }

    async fn build_at(
        dir: TempDir,
        log: LogSettings,
        cluster: Option<Arc<Cluster>>,
        roles: &[Role],
        settings: &[(&str, &str)],
        options: Options,
    ) -> Self {
        let data_dir = dir.path().join("data").display().to_string();
        let mut all =
            vec![("data_dir", data_dir.as_str()), ("server.listen", "127.0.0.1:0"), ("server.workers", "2")];
        // Much sooner than by default, so that questions of every test meet days at rest.
        all.push(("store.settle_interval", "500ms"));
        all.extend(log.settings());
        let store = cluster.as_ref().map(|cluster| cluster.settings()).unwrap_or_default();
        all.extend(store.iter().map(|(key, value)| (*key, value.as_str())));
        all.extend_from_slice(settings);
        let mut config = Config::from_overrides(&all).expect("settings");
        if let Ok(level) = std::env::var("FLEXFLOW_TEST_LOG") {
            config.log.level = level;
            // The first application of a test binary installs it, for all.
            let _ = logs::install(&config.log, logs::Target::Stderr);
        }
        rustls::crypto::ring::default_provider().install_default().ok();
        let running = Box::pin(App::start(config, roles, options)).await.expect("start");
        let client = Client {
            http: reqwest::Client::new(),
            url: running.url().to_owned(),
            key: running.first_run().map(|first| first.api_key).unwrap_or_default(),
            operator_token: running.operator_token().to_owned(),
            events_topic: log.events_topic().to_owned(),
            group_id: log.group_id().to_owned(),
        };
        let sandbox = Self { running, client, dir, log, cluster };
        sandbox.client.wait_ready().await;
        sandbox
    }

    /// What `consumer.dlq_topic` is, on Kafka.
    pub(crate) fn dlq_topic(&self) -> &str {
        self.log.get("consumer.dlq_topic")
    }

    /// What this setting of a topic's or group's name is, where its default is this.
    pub(crate) fn named(&self, setting: &str, default: &str) -> String {
        self.log.named(setting, default)
    }

    /// What `topics.system_events` is.
    pub(crate) fn system_events_topic(&self) -> String {
        self.log.system_events_topic()
    }

    /// What `topics.post_processing` and `topics.post_processing_backfill` are.
    pub(crate) fn post_processing_topics(&self) -> [String; 2] {
        self.log.post_processing_topics()
    }

    /// Values of all records of a topic.
    pub(crate) async fn records(&self, name: &str) -> Result<Vec<Value>, String> {
        let log = self.running.log();
        let topics = log.topics().await.map_err(|error| error.to_string())?;
        let topic = topics.into_iter().find(|topic| *topic.name == *name).ok_or("no topic")?;
        let from: Vec<FetchFrom> = (0..)
            .zip(&topic.partitions)
            .map(|(partition, _)| FetchFrom {
                topic_partition: TopicPartition::new(name, partition),
                topic_id: topic.id,
                offset: 0,
            })
            .collect();
        let limits =
            FetchLimits { wait_max: Duration::ZERO, partition_bytes_max: 1 << 20, bytes_max: 1 << 20 };
        let fetched = log.fetch(&from, limits).await.map_err(|error| error.to_string())?;
        let records = fetched.into_iter().filter_map(|part| part.outcome.ok()).flat_map(|part| part.records);
        let values = records.filter_map(|record| record.value);
        Ok(values.map(|value| serde_json::from_slice(&value).unwrap()).collect())
    }

    /// The folder everything lives in.
    pub(crate) fn data_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    /// Drains and stops.
    pub(crate) async fn stop(self) {
        self.running.stop().await.expect("a clean stop");
    }
}

impl Client {
    /// Waits until `/ready` says 200.
    pub(crate) async fn wait_ready(&self) {
        eventually("/ready says 200", || async {
            let answer =
                self.http.get(format!("{}/ready", self.url)).send().await.map_err(|e| e.to_string())?;
            let status = answer.status();
            let body = answer.text().await.map_err(|e| e.to_string())?;
            if status == 200 { Ok(()) } else { Err(body) }
        })
        .await;
    }

    /// Posts a body to `/capture` with the key.
    pub(crate) async fn capture(&self, body: &Value) -> (u16, Value) {
        self.post("/capture", body).await
    }

    /// Captures and insists on 202.
    pub(crate) async fn accept(&self, body: &Value) -> Vec<String> {
        let (status, answer) = self.capture(body).await;
        assert_eq!(status, 202, "{answer}");
        answer["event_ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = self.http.post(format!("{}{path}", self.url)).header("X-API-Key", &self.key).json(body);
        send(request).await
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        send(self.http.get(format!("{}{path}", self.url)).header("X-API-Key", &self.key)).await
    }

    /// With the operator's token: what the command line may do.
    pub(crate) async fn operator_get(&self, path: &str) -> (u16, Value) {
        send(self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.operator_token)).await
    }

    /// With the operator's token: what the command line may do.
    pub(crate) async fn operator_post(&self, path: &str, body: &Value) -> (u16, Value) {
        send(self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.operator_token).json(body)).await
    }

    /// Every visible event (newest first), over all pages.
    pub(crate) async fn events(&self) -> Result<Vec<Value>, String> {
        let mut events = Vec::new();
        let mut cursor = String::new();
        loop {
            let (status, page) = self.get(&format!("/api/query/events?limit=500{cursor}")).await;
            if status != 200 {
                return Err(page.to_string());
            }
            events.extend(page["events"].as_array().unwrap().iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(events),
            }
        }
    }

    /// Waits until exactly `count` events are visible and the consumer has nothing left, and returns them.
    pub(crate) async fn settled(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} events are visible and nothing is left"), || async {
            let lag = self.lag().await?;
            let events = self.events().await?;
            if lag == 0 && events.len() == count {
                Ok(events)
            } else {
                Err(format!("{} events, lag {lag}", events.len()))
            }
        })
        .await
    }

    /// Records that the store stage has not committed.
    pub(crate) async fn lag(&self) -> Result<i64, String> {
        self.lag_where(|group| group == &self.group_id).await
    }

    /// How many events any group has left, those that are stored and not yet tracked among them.
    pub(crate) async fn lag_of_all(&self) -> Result<i64, String> {
        self.lag_where(|_| true).await
    }

    async fn lag_where(&self, counts: impl Fn(&Value) -> bool) -> Result<i64, String> {
        let (status, answer) = self.operator_get("/api/ops/lag").await;
        if status != 200 {
            return Err(answer.to_string());
        }
        let groups = answer["groups"].as_array().ok_or("no groups")?;
        Ok(groups
            .iter()
            .filter(|row| row["topic"] == self.events_topic && counts(&row["group"]))
            .filter_map(|row| row["lag"].as_i64())
            .sum())
    }

    /// The accounting of every record, which must balance.
    pub(crate) async fn audit(&self) -> Value {
        let (status, report) = self.operator_get("/api/ops/audit").await;
        assert_eq!(status, 200, "{report}");
        report
    }
}

async fn send(request: reqwest::RequestBuilder) -> (u16, Value) {
    let (client, request) = request.build_split();
    let request = request.expect("a request");
    let asked = Asked::of(&request);
    let answer = Box::pin(client.execute(request)).await.expect("an answer");
    let status = answer.status().as_u16();
    let kind = contract::kind(&answer);
    let text = answer.text().await.expect("a body");
    contract::hold(&asked, status, &kind, &text);
    let body = serde_json::from_str(&text).unwrap_or_else(|_| json!({ "not_json": text }));
    (status, body)
}

//! The sections of the configuration. What each key means, its unit and its limits stand in `config/flexflow.toml`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};

use super::stages::{Attribution, PostProcessing, Source, Webhook};

/// The whole configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub data_dir: PathBuf,
    pub server: Server,
    pub capture: Capture,
    pub query: Query,
    pub metering: Metering,
    pub transform: Transform,
    pub reprocess: Reprocess,
    pub schema: Schema,
    pub rollup: Rollup,
    pub eventlog: EventLogSection,
    pub consumer: Consumer,
    pub person: Person,
    pub store: Store,
    pub meta: Meta,
    pub auth: Auth,
    pub topics: Topics,
    pub post_processing: PostProcessing,
    pub attribution: Attribution,
    pub webhook: Webhook,
    pub jobs: Jobs,
    pub dlq: Dlq,
    pub log: Log,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schema {
    pub schemas_max: u64,
    pub versions_max: u64,
    pub definition_bytes_max: ByteSize,
    #[serde(with = "humantime_serde")]
    pub refresh: Duration,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollup {
    pub schedule: String,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    pub memory_max: ByteSize,
    pub properties_max: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub listen: SocketAddr,
    pub cors_origins: Vec<String>,
    pub workers: usize,
    pub migrate_on_start: bool,
    #[serde(with = "humantime_serde")]
    pub shutdown_timeout: Duration,
    pub body_bytes_max: ByteSize,
    #[serde(with = "humantime_serde")]
    pub head_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    pub connections_max: usize,
    pub trusted_proxies: Vec<IpAddr>,
    pub web: bool,
    #[serde(with = "humantime_serde")]
    pub history_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub history_retention: Duration,
    pub history_rows_max: u64,
    pub history_partitions_max: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    pub require_api_key: bool,
    pub body_bytes_max: ByteSize,
    pub inflated_bytes_max: ByteSize,
    pub batch_events_max: usize,
    pub properties_bytes_max: ByteSize,
    pub properties_depth_max: usize,
    pub properties_keys_max: usize,
    #[serde(with = "humantime_serde")]
    pub future_max: Duration,
    pub in_flight_bytes_max: ByteSize,
    #[serde(with = "humantime_serde")]
    pub produce_timeout: Duration,
    pub breaker_failures: u32,
    #[serde(with = "humantime_serde")]
    pub breaker_wait_min: Duration,
    #[serde(with = "humantime_serde")]
    pub breaker_wait_max: Duration,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    pub require_api_key: bool,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    pub memory_max: ByteSize,
    pub project_memory_max: ByteSize,
    pub rows_read_max: u64,
    pub page_rows_max: usize,
    pub list_offset_max: usize,
    pub buckets_max: usize,
    pub breakdown_values_max: usize,
    pub breakdown_properties_max: usize,
    pub series_max: usize,
    pub filters_max: usize,
    pub filter_depth_max: usize,
    pub people_max: usize,
    pub points_max: usize,
    pub funnel_steps_max: usize,
    pub retention_intervals_max: usize,
    pub paths_edges_max: usize,
    pub gather_events_max: u64,
    pub gather_values_max: usize,
    pub gather_people_max: u64,
    pub trace_records_max: u32,
    pub live_clients_max: usize,
    pub live_rows_max: usize,
    #[serde(with = "humantime_serde")]
    pub live_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub live_time_max: Duration,
    pub sql_rows_max: usize,
    pub promoted_max: usize,
    pub cohorts_max: u64,
    pub dashboards_max: u64,
    pub dashboard_tiles_max: usize,
    pub dashboard_concurrency: usize,
    pub cache_bytes_max: ByteSize,
    #[serde(with = "humantime_serde")]
    pub cache_open_ttl: Duration,
    #[serde(with = "humantime_serde")]
    pub cache_past_ttl: Duration,
    pub project_concurrency: usize,
    pub concurrency: usize,
    #[serde(with = "humantime_serde")]
    pub queue_timeout: Duration,
}

impl Query {
    /// Questions of one project in the store at once, and the setting that says so: as many as each may take its whole
    /// `memory_max` of `project_memory_max`, and no more than `project_concurrency`.
    pub fn project_turns(&self) -> (usize, &'static str) {
        let fit = self.project_memory_max.as_u64() / self.memory_max.as_u64().max(1);
        match usize::try_from(fit) {
            Ok(fit) if fit < self.project_concurrency => (fit.max(1), "query.project_memory_max"),
            _ => (self.project_concurrency, "query.project_concurrency"),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metering {
    pub meters_max: u64,
    pub versions_max: u64,
    pub features_max: u64,
    pub values_max: usize,
    #[serde(with = "humantime_serde")]
    pub cache_ttl: Duration,
    pub tracking: bool,
    pub group_id: String,
    pub backfill_group_id: String,
    #[serde(with = "humantime_serde")]
    pub unmetered_interval: Duration,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transform {
    pub transforms_max: u64,
    pub versions_max: u64,
    #[serde(with = "humantime_serde")]
    pub cache_ttl: Duration,
    pub events_max: usize,
    pub work_max: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reprocess {
    pub enabled: bool,
    pub output_topic: String,
    pub group_id: String,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub attempt_timeout: Duration,
    pub attempts: u32,
    #[serde(with = "humantime_serde")]
    pub checkpoint_interval: Duration,
    pub page_bytes_max: ByteSize,
    pub parallelism_max: usize,
}

/// Which backend of [`crate::eventlog`] runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventLogKind {
    Embedded,
    Kafka,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventLogSection {
    pub kind: EventLogKind,
    pub partitions: i32,
    #[serde(deserialize_with = "optional_duration")]
    pub retention_age: Option<Duration>,
    #[serde(deserialize_with = "optional_size")]
    pub retention_bytes: Option<ByteSize>,
    pub record_bytes_max: ByteSize,
    pub disk_free_min: ByteSize,
    pub segment_bytes: ByteSize,
    pub cache_bytes_max: ByteSize,
    pub queue_bytes_max: ByteSize,
    pub kafka: Kafka,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    pub bootstrap_servers: Vec<String>,
    pub client_id: String,
    pub tls: bool,
    #[serde(deserialize_with = "optional_path")]
    pub tls_ca_file: Option<PathBuf>,
    #[serde(deserialize_with = "optional_path")]
    pub tls_cert_file: Option<PathBuf>,
    #[serde(deserialize_with = "optional_path")]
    pub tls_key_file: Option<PathBuf>,
    pub replication_factor: i16,
    pub compression: KafkaCompression,
    pub batch_bytes_max: ByteSize,
    pub inflated_bytes_max: ByteSize,
    #[serde(with = "humantime_serde")]
    pub delivery_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub metadata_max_age: Duration,
    #[serde(with = "humantime_serde")]
    pub session_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    pub sasl: KafkaSasl,
}

/// How the producer compresses its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KafkaCompression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSasl {
    pub mechanism: KafkaSaslMechanism,
    pub username: String,
    pub password: SecretString,
}

/// How this program logs in at the brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum KafkaSaslMechanism {
    #[serde(rename = "")]
    None,
    #[serde(rename = "PLAIN")]
    Plain,
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consumer {
    pub group_id: String,
    pub raw_group_id: String,
    #[serde(deserialize_with = "optional_text")]
    pub instance_id: Option<String>,
    pub dlq_topic: String,
    pub sources: Vec<Source>,
    pub sources_group_id: String,
    pub metrics_port: u16,
    pub batch_rows_max: usize,
    pub batch_bytes_max: ByteSize,
    #[serde(with = "humantime_serde")]
    pub batch_age_max: Duration,
    pub lanes: usize,
    #[serde(with = "humantime_serde")]
    pub dedupe_window: Duration,
    pub dedupe_memory_max: ByteSize,
    pub breaker_failures: u32,
    #[serde(with = "humantime_serde")]
    pub backoff_min: Duration,
    #[serde(with = "humantime_serde")]
    pub backoff_max: Duration,
    pub flood_ratio_max: f64,
    pub flood_records_min: usize,
    pub flood_run_max: usize,
    #[serde(with = "humantime_serde")]
    pub sweep_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub sweep_horizon: Duration,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    pub ids_max: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    #[serde(deserialize_with = "optional_text")]
    pub url: Option<String>,
    pub user: String,
    pub password: SecretString,
    #[serde(deserialize_with = "optional_text")]
    pub reader_user: Option<String>,
    pub reader_password: SecretString,
    pub database: String,
    #[serde(deserialize_with = "optional_text")]
    pub cluster: Option<String>,
    pub connections_max: usize,
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub settle_interval: Duration,
    pub engine: Engine,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    #[serde(deserialize_with = "optional_path")]
    pub path: Option<PathBuf>,
    pub memory_max: ByteSize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    #[serde(deserialize_with = "optional_text")]
    pub url: Option<String>,
    pub connections_max: u32,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    pub secret_key: SecretString,
    pub previous_secret_key: SecretString,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    #[serde(with = "humantime_serde")]
    pub key_cache_ttl: Duration,
    #[serde(with = "humantime_serde")]
    pub stale_key_ttl: Duration,
    pub key_cache_entries_max: u64,
    #[serde(with = "humantime_serde")]
    pub lookup_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub last_used_interval: Duration,
    pub projects_max: u64,
    pub environments_max: u64,
    pub keys_max: u64,
    pub key_rate_max: u32,
    pub registration: Registration,
    pub admin_email: String,
    pub users_max: u64,
    pub members_max: u64,
    pub sessions_max: u64,
    #[serde(with = "humantime_serde")]
    pub access_ttl: Duration,
    #[serde(with = "humantime_serde")]
    pub refresh_ttl: Duration,
    #[serde(with = "humantime_serde")]
    pub invitation_ttl: Duration,
    pub signing_key: SecretString,
    pub previous_signing_key: SecretString,
    pub password_memory: ByteSize,
    pub password_passes: u32,
    pub password_concurrency: usize,
    #[serde(with = "humantime_serde")]
    pub password_wait: Duration,
    pub login_attempts_max: u32,
    pub login_address_attempts_max: u32,
    #[serde(with = "humantime_serde")]
    pub login_window: Duration,
    pub login_entries_max: usize,
    #[serde(with = "humantime_serde")]
    pub audit_keep: Duration,
    pub static_keys: Vec<StaticKey>,
}

/// Who may register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Registration {
    Closed,
    Invite,
    Open,
}

/// A key that lives in the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticKey {
    /// SHA-256 of the key, 64 hexadecimal digits.
    pub sha256: String,
    pub project_id: String,
    pub environment_id: String,
    /// `ingest`, `query`, `admin`.
    pub scopes: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topics {
    pub events: String,
    pub raw_events: String,
    pub system_events: String,
    pub post_processing: String,
    pub post_processing_backfill: String,
    pub feature_tracking_backfill: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jobs {
    pub concurrency: usize,
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    #[serde(with = "humantime_serde")]
    pub poll_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub step_timeout: Duration,
    pub attempts_max: u32,
    #[serde(with = "humantime_serde")]
    pub backoff_min: Duration,
    #[serde(with = "humantime_serde")]
    pub backoff_max: Duration,
    pub open_max: u64,
    #[serde(with = "humantime_serde")]
    pub keep_ended: Duration,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dlq {
    pub replay_page_records_max: usize,
    pub replay_page_bytes_max: ByteSize,
    pub recoveries_max: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub format: LogFormat,
    pub level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Auto,
    Pretty,
    Json,
}

fn optional_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(Some(text).filter(|text| !text.trim().is_empty()))
}

fn optional_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    Ok(optional_text(deserializer)?.map(PathBuf::from))
}

fn optional_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    use serde::de::IntoDeserializer;
    match optional_text(deserializer)? {
        None => Ok(None),
        Some(text) => humantime_serde::deserialize(text.into_deserializer()).map(Some),
    }
}

fn optional_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ByteSize>, D::Error> {
    match optional_text(deserializer)? {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

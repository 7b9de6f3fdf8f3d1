//! The sections of the stages behind the store. What each key means stands in `config/flexflow.toml`.

use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

/// A further topic that events come in by (`consumer.sources`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub topic: String,
    pub decoder: SourceDecoder,
    /// Where messages belong that do not say; both or none.
    #[serde(default)]
    pub project_id: String,
    #[serde(default)]
    pub environment_id: String,
}

impl Source {
    /// Project and environment of messages that name none.
    pub fn scope(&self) -> Option<(&str, &str)> {
        let named = !self.project_id.is_empty() && !self.environment_id.is_empty();
        named.then_some((self.project_id.as_str(), self.environment_id.as_str()))
    }
}

/// How the records of a source are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceDecoder {
    /// FlexFlow's own records, such as those of another installation.
    Flexflow,
    /// FlexPrice's messages, one event or many.
    Flexprice,
    /// FlexPrice's messages of payloads.
    FlexpriceRaw,
    /// Any JSON object is a payload.
    Raw,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostProcessing {
    pub enabled: bool,
    pub publish_group_id: String,
    pub group_id: String,
    pub backfill_group_id: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attribution {
    pub rules_max: u64,
    pub versions_max: usize,
    pub sources_max: usize,
    #[serde(with = "humantime_serde")]
    pub look_back_max: Duration,
    pub touches_max: usize,
    pub gather_events_max: usize,
    #[serde(with = "humantime_serde")]
    pub cache_ttl: Duration,
    #[serde(with = "humantime_serde")]
    pub follow_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub merge_horizon: Duration,
    #[serde(with = "humantime_serde")]
    pub backfill: Duration,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    pub enabled: bool,
    pub group_id: String,
    pub allow_private: bool,
    pub webhooks_max: u64,
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    pub response_bytes_max: ByteSize,
    pub concurrency: usize,
    pub webhook_concurrency: usize,
    #[serde(with = "humantime_serde")]
    pub backoff_min: Duration,
    #[serde(with = "humantime_serde")]
    pub backoff_max: Duration,
    #[serde(with = "humantime_serde")]
    pub retry_for: Duration,
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    #[serde(with = "humantime_serde")]
    pub poll_interval: Duration,
    pub log_attempts_max: usize,
    #[serde(with = "humantime_serde")]
    pub keep_ended: Duration,
    #[serde(with = "humantime_serde")]
    pub rotation_overlap: Duration,
    #[serde(with = "humantime_serde")]
    pub watch_interval: Duration,
    pub unsent_max: usize,
    pub dead_letters_max: u64,
    pub lag_max: i64,
}

//! The event log on Apache Kafka, from 2.8 to 4.x, on a small client of our own.
//!
//! ARCHITECTURE says why it is our own, with the numbers. From the bottom up:
//!
//! - [`api`], [`connection`], [`dialer`] ([`tls`], [`sasl`]): calls, each with a deadline, over connections that are closed
//!   when one is missed.
//! - [`batch`], [`compression`]: record batches, written and read.
//! - [`cluster`]: the brokers, and who leads which partition.
//! - [`producer`]: idempotent, nothing twice; [`fetcher`]: long polls, committed records only; [`topics`], [`offsets`];
//!   [`group`]: membership and committed offsets.
//! - [`log`]: all of it as an [`EventLog`](super::EventLog).

mod api;
mod batch;
mod cluster;
mod compression;
mod connection;
mod dialer;
mod error;
mod fetcher;
mod group;
mod limits;
mod log;
mod offsets;
mod producer;
mod rights;
mod sasl;
mod settings;
#[cfg(test)]
mod tests;
mod tls;
mod topics;

use std::time::Duration;

use crate::config::{EventLogSection, KafkaCompression, KafkaSaslMechanism};

pub use compression::Compression;
pub use log::KafkaLog;
pub use sasl::{SaslMechanism, SaslOptions};
pub use tls::TlsOptions;

/// How the brokers are found and spoken to; `eventlog.kafka` of the configuration.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// Brokers that are asked first, `host:port`.
    pub bootstrap_servers: Vec<String>,
    /// How the brokers' logs and quotas call this program.
    pub client_id: String,
    /// None: no TLS.
    pub tls: Option<TlsOptions>,
    /// None: no login.
    pub sasl: Option<SaslOptions>,
    /// Copies of topics that are made; none: as the brokers are configured.
    pub replication_factor: Option<i16>,
    /// How batches are compressed.
    pub compression: Compression,
    /// A batch takes no more records once it holds this many bytes.
    pub batch_bytes_max: usize,
    /// Bytes of records held until the brokers have them; produces over it wait.
    pub buffer_bytes_max: usize,
    /// A batch that inflates to more is not read.
    pub inflated_bytes_max: usize,
    /// Longest a produce waits for its answer.
    pub delivery_timeout: Duration,
    /// Longest a connection may take to open: TCP, TLS, versions and login together.
    pub connect_timeout: Duration,
    /// Longest a request waits for its answer; then its connection is closed. A produce has a little more.
    pub request_timeout: Duration,
    /// What is known of the cluster is asked for anew after this long.
    pub metadata_max_age: Duration,
    /// A member of a group that is not heard of for this long loses its partitions.
    pub session_timeout: Duration,
    /// How often a member of a group is heard of.
    pub heartbeat_interval: Duration,
}

impl KafkaOptions {
    /// As configured.
    pub fn from_config(config: &EventLogSection) -> Self {
        let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        let kafka = &config.kafka;
        let mechanism = match kafka.sasl.mechanism {
            KafkaSaslMechanism::None => None,
            KafkaSaslMechanism::Plain => Some(SaslMechanism::Plain),
            KafkaSaslMechanism::ScramSha256 => Some(SaslMechanism::ScramSha256),
            KafkaSaslMechanism::ScramSha512 => Some(SaslMechanism::ScramSha512),
        };
        Self {
            bootstrap_servers: kafka.bootstrap_servers.clone(),
            client_id: kafka.client_id.clone(),
            tls: kafka.tls.then(|| TlsOptions {
                ca_file: kafka.tls_ca_file.clone(),
                identity: kafka.tls_cert_file.clone().zip(kafka.tls_key_file.clone()),
            }),
            sasl: mechanism.map(|mechanism| SaslOptions {
                mechanism,
                username: kafka.sasl.username.clone(),
                password: kafka.sasl.password.clone(),
            }),
            replication_factor: Some(kafka.replication_factor).filter(|factor| *factor > 0),
            compression: match kafka.compression {
                KafkaCompression::None => Compression::None,
                KafkaCompression::Gzip => Compression::Gzip,
                KafkaCompression::Snappy => Compression::Snappy,
                KafkaCompression::Lz4 => Compression::Lz4,
                KafkaCompression::Zstd => Compression::Zstd,
            },
            batch_bytes_max: bytes(kafka.batch_bytes_max),
            buffer_bytes_max: bytes(config.queue_bytes_max),
            inflated_bytes_max: bytes(kafka.inflated_bytes_max),
            delivery_timeout: kafka.delivery_timeout,
            connect_timeout: kafka.connect_timeout,
            request_timeout: kafka.request_timeout,
            metadata_max_age: kafka.metadata_max_age,
            session_timeout: kafka.session_timeout,
            heartbeat_interval: kafka.heartbeat_interval,
        }
    }

    /// The defaults on these brokers.
    #[cfg(test)]
    fn for_test(bootstrap_servers: &str) -> Self {
        let config =
            crate::config::Config::from_overrides(&[("eventlog.kafka.bootstrap_servers", bootstrap_servers)]);
        Self::from_config(&config.expect("settings").eventlog)
    }
}

//! The event log on Apache Kafka, from 2.8 to 4.x, on a small client of our own.

mod api;
mod batch;
mod compression;
mod connection;
mod dialer;
mod error;
mod group;
mod sasl;
mod tls;

use std::time::Duration;

pub use compression::Compression;
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
    /// Longest a connection may take to open: TCP, TLS, versions and login together.
    pub connect_timeout: Duration,
    /// Longest a request waits for its answer; then its connection is closed.
    pub request_timeout: Duration,
}

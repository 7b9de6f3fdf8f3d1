//! Opens connections: TCP, TLS, the versions both sides speak, and the login, all within one time-out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::{
    ApiVersionsRequest, MetadataRequest, SaslAuthenticateRequest, SaslAuthenticateResponse,
    SaslHandshakeRequest,
};
use kafka_protocol::protocol::StrBytes;
use tokio::io::BufReader;
use tokio::net::TcpStream;

use super::KafkaOptions;
use super::connection::Connection;
use super::error::{CallError, code, name};
use super::rights::Rights;
use super::sasl::{self, SaslOptions, Scram};
use super::tls::{Tls, TlsFailure};
use crate::event::IdSource;
use crate::lifecycle::Tasks;

/// In this version since Kafka 2.4; every later broker still answers it.
const API_VERSIONS_VERSION: i16 = 3;
/// Small answers are read with one system call.
const READ_BUFFER_BYTES: usize = 16 << 10;

/// Opens connections the way the configuration says. Cheap to clone.
#[derive(Clone)]
pub(super) struct Dialer(Arc<Inner>);

struct Inner {
    client_id: StrBytes,
    tls: Option<Tls>,
    sasl: Option<SaslOptions>,
    rights: Rights,
    connect_timeout: Duration,
    ids: Arc<dyn IdSource>,
    tasks: Tasks,
}

impl Dialer {
    /// `tasks` carries the connections' tasks; they end with the connections.
    ///
    /// # Errors
    /// The certificates that `eventlog.kafka.tls_ca_file` names cannot be read.
    pub(super) fn new(
        options: &KafkaOptions,
        ids: Arc<dyn IdSource>,
        tasks: Tasks,
    ) -> Result<Self, CallError> {
        let tls = options.tls.as_ref().map(Tls::new).transpose().map_err(CallError::Denied)?;
        Ok(Self(Arc::new(Inner {
            client_id: StrBytes::from_string(options.client_id.clone()),
            tls,
            sasl: options.sasl.clone(),
            rights: Rights::new(options),
            connect_timeout: options.connect_timeout,
            ids,
            tasks,
        })))
    }

    /// The TLS configuration, for a client that makes its connections itself.
    pub(super) fn tls_config(&self) -> Option<Arc<rustls::ClientConfig>> {
        self.0.tls.as_ref().map(Tls::config)
    }

    /// Who logs in, for what is told of missing rights.
    pub(super) fn rights(&self) -> &Rights {
        &self.0.rights
    }

    /// A connection that is ready for any call.
    ///
    /// # Errors
    /// [`CallError::Unreachable`], also when `eventlog.kafka.connect_timeout` is over; [`CallError::Denied`] when the
    /// broker refuses the login or is not believed; [`CallError::Protocol`].
    pub(super) async fn open(&self, address: &str) -> Result<Connection, CallError> {
        let address: Arc<str> = address.into();
        let timeout = self.0.connect_timeout;
        match tokio::time::timeout(timeout, self.open_unbounded(&address)).await {
            Ok(opened) => opened.map_err(certificate_refused),
            Err(_) => {
                Err(CallError::Unreachable { address, reason: format!("no answer within {timeout:?}") })
            }
        }
    }

    async fn open_unbounded(&self, address: &Arc<str>) -> Result<Connection, CallError> {
        let unreachable = |reason: String| CallError::Unreachable { address: address.clone(), reason };
        let stream = TcpStream::connect(&**address).await.map_err(|error| unreachable(error.to_string()))?;
        // Without it every request of more than one segment waits 40 ms for the other side's acknowledgement.
        stream.set_nodelay(true).map_err(|error| unreachable(error.to_string()))?;
        let (client_id, tasks) = (self.0.client_id.clone(), &self.0.tasks);
        let connection = match &self.0.tls {
            None => {
                let (reader, writer) = stream.into_split();
                let reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
                Connection::start(address.clone(), client_id, reader, writer, tasks)
            }
            Some(tls) => {
                let host = address.rsplit_once(':').map_or(&**address, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let stream = tls.connect(host, stream).await.map_err(|failure| match failure {
                    TlsFailure::Denied(reason) => {
                        CallError::Denied(format!("Kafka broker {address}: {reason}"))
                    }
                    TlsFailure::Broken(reason) => unreachable(reason),
                })?;
                let (reader, writer) = tokio::io::split(stream);
                let reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
                Connection::start(address.clone(), client_id, reader, writer, tasks)
            }
        };
        self.negotiate(&connection).await.map_err(nothing_sent)?;
        match &self.0.sasl {
            Some(options) => self.login(&connection, options).await.map_err(nothing_sent)?,
            None => self.greet(&connection).await?,
        }
        Ok(connection)
    }

    /// A port that asks for a login tells its versions to everybody and hangs up at the next request: find out now.
    async fn greet(&self, connection: &Connection) -> Result<(), CallError> {
        let request =
            MetadataRequest::default().with_topics(Some(Vec::new())).with_allow_auto_topic_creation(false);
        match connection.call(&request, self.0.connect_timeout).await {
            Ok(_) => Ok(()),
            Err(CallError::Lost { address, reason, .. }) => Err(CallError::Unreachable {
                address,
                reason: format!(
                    "{reason} at the first request; a port that asks for a login does that: see \
                     eventlog.kafka.sasl.mechanism"
                ),
            }),
            Err(other) => Err(other),
        }
    }

    async fn negotiate(&self, connection: &Connection) -> Result<(), CallError> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("flexflow"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let answer = connection.call_version(&request, API_VERSIONS_VERSION, self.0.connect_timeout).await?;
        if answer.error_code != 0 {
            let reason = format!(
                "it refuses to tell its versions: {}; brokers from 2.8 on will do",
                name(answer.error_code)
            );
            return Err(CallError::Protocol { address: connection.address().clone(), reason });
        }
        let versions = answer.api_keys.iter().map(|key| (key.api_key, (key.min_version, key.max_version)));
        connection.set_versions(versions.collect());
        Ok(())
    }

    async fn login(&self, connection: &Connection, options: &SaslOptions) -> Result<(), CallError> {
        let denied = |reason: String| {
            CallError::Denied(format!("Kafka broker {} refuses the login: {reason}", connection.address()))
        };
        let mechanism = options.mechanism.as_str();
        let request = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
        let answer = connection.call(&request, self.0.connect_timeout).await?;
        match answer.error_code {
            0 => {}
            code::UNSUPPORTED_SASL_MECHANISM => {
                let offered: Vec<&str> = answer.mechanisms.iter().map(|name| &**name).collect();
                return Err(denied(format!(
                    "it takes {}, eventlog.kafka.sasl.mechanism is {mechanism}",
                    offered.join(", ")
                )));
            }
            other => {
                return Err(denied(format!(
                    "{}; does its port ask for a login at all (eventlog.kafka.sasl.mechanism)?",
                    name(other)
                )));
            }
        }
        let mut randomness = [0; 18];
        self.0.ids.fill(&mut randomness);
        let last = match Scram::new(options, randomness) {
            None => self.authenticate(connection, sasl::plain(options)).await?,
            Some(scram) => {
                let said = self.authenticate(connection, scram.first()).await?.auth_bytes;
                // Thousands of rounds of hashing.
                let hashed = tokio::task::spawn_blocking(move || scram.answer(&said)).await;
                let (message, proof) = hashed.map_err(|error| denied(error.to_string()))?.map_err(denied)?;
                let last = self.authenticate(connection, message).await?;
                proof.check(&last.auth_bytes).map_err(denied)?;
                last
            }
        };
        if let Ok(lifetime @ 1..) = u64::try_from(last.session_lifetime_ms) {
            connection.set_lifetime(Duration::from_millis(lifetime));
        }
        Ok(())
    }

    async fn authenticate(
        &self,
        connection: &Connection,
        message: Vec<u8>,
    ) -> Result<SaslAuthenticateResponse, CallError> {
        let request = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from(message));
        let answer = connection.call(&request, self.0.connect_timeout).await?;
        if answer.error_code == 0 {
            return Ok(answer);
        }
        let said = answer.error_message.as_deref().unwrap_or_default().to_owned();
        let said = if said.is_empty() { name(answer.error_code) } else { said };
        let cure = if answer.error_code == code::SASL_AUTHENTICATION_FAILED {
            "; see eventlog.kafka.sasl.username and eventlog.kafka.sasl.password"
        } else {
            ""
        };
        Err(CallError::Denied(format!(
            "Kafka broker {} refuses the login: {said}{cure}",
            connection.address()
        )))
    }
}

/// A broker that does not want this program's certificate, or wants one, says so by an alert, after the handshake even.
fn certificate_refused(error: CallError) -> CallError {
    match error {
        CallError::Unreachable { address, reason }
            if reason.contains("fatal alert")
                && (reason.contains("ertificate") || reason.contains("UnknownCA")) =>
        {
            CallError::Denied(format!(
                "Kafka broker {address} does not accept this program's certificate ({reason}): see \
                 eventlog.kafka.tls_cert_file and eventlog.kafka.tls_key_file"
            ))
        }
        other => other,
    }
}

/// Whatever is lost while a connection is opened, none of the caller's requests was sent.
fn nothing_sent(error: CallError) -> CallError {
    match error {
        CallError::Lost { address, request, reason } => {
            CallError::Unreachable { address, reason: format!("{reason} ({request})") }
        }
        other => other,
    }
}

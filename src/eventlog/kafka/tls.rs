//! TLS to the brokers, on rustls.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where systems keep the certificates they trust, in the order they are looked for.
const SYSTEM_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Who is believed, and what is shown to them.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// PEM file of certificates; none: those the system trusts.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the certificate that is shown, and of its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Makes TLS connections that check the broker's certificate against its host name.
#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
    config: Arc<ClientConfig>,
}

impl Tls {
    /// # Errors
    /// There is no certificate to believe; the text names the setting.
    pub(super) fn new(options: &TlsOptions) -> Result<Self, String> {
        let file = match &options.ca_file {
            Some(file) => file.clone(),
            None => SYSTEM_BUNDLES.iter().map(PathBuf::from).find(|file| file.is_file()).ok_or(
                "this system keeps no list of trusted certificates: name one in eventlog.kafka.tls_ca_file",
            )?,
        };
        let mut roots = RootCertStore::empty();
        let (added, _unusable) =
            roots.add_parsable_certificates(certificates(&file, "eventlog.kafka.tls_ca_file")?);
        if added == 0 {
            return Err(format!("{} (eventlog.kafka.tls_ca_file) holds no certificate", file.display()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let config = match &options.identity {
            None => config.with_no_client_auth(),
            Some((cert_file, key_file)) => {
                let chain = certificates(cert_file, "eventlog.kafka.tls_cert_file")?;
                let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| {
                    format!(
                        "cannot read a private key from {} (eventlog.kafka.tls_key_file): {error}",
                        key_file.display()
                    )
                })?;
                config.with_client_auth_cert(chain, key).map_err(|error| {
                    format!("eventlog.kafka.tls_cert_file and eventlog.kafka.tls_key_file do not go together: {error}")
                })?
            }
        };
        let config = Arc::new(config);
        Ok(Self { connector: TlsConnector::from(config.clone()), config })
    }

    /// The configuration, for a client that makes its connections itself.
    pub(super) fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// # Errors
    /// The handshake failed; the text says what to change where that can be known.
    pub(super) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, TlsFailure> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            TlsFailure::Denied(format!("{host:?} is no host name that a certificate can have"))
        })?;
        self.connector.connect(name, stream).await.map_err(|error| failure(&error))
    }
}

/// Why there is no TLS connection.
#[derive(Debug)]
pub(super) enum TlsFailure {
    /// A change of settings cures it.
    Denied(String),
    /// Perhaps the network's fault.
    Broken(String),
}

fn failure(error: &std::io::Error) -> TlsFailure {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(reason)) => TlsFailure::Denied(format!(
            "its certificate is not believed ({reason}): eventlog.kafka.tls_ca_file names the certificates that are"
        )),
        Some(rustls::Error::InvalidMessage(_)) => TlsFailure::Denied(
            "it does not speak TLS on this port: set eventlog.kafka.tls = false, or use its TLS port"
                .to_owned(),
        ),
        Some(other) => TlsFailure::Broken(format!("TLS: {other}")),
        // A plaintext listener takes the first bytes for a length, finds it absurd and hangs up.
        None => TlsFailure::Broken(format!(
            "it ended the TLS handshake ({error}); a port without TLS does that: then set eventlog.kafka.tls = false"
        )),
    }
}

fn certificates(file: &Path, setting: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let unreadable = |error: &dyn std::fmt::Display| {
        format!("cannot read certificates from {} ({setting}): {error}", file.display())
    };
    let found = CertificateDer::pem_file_iter(file).map_err(|error| unreadable(&error))?;
    found.collect::<Result<_, _>>().map_err(|error| unreadable(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(ca_file: &Path) -> String {
        let options = TlsOptions { ca_file: Some(ca_file.to_owned()), identity: None };
        Tls::new(&options).err().expect("refused")
    }

    #[test]
    fn a_certificate_and_the_key_of_another_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let (cert_file, key_file) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let (one, other) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
        let params = rcgen::CertificateParams::new(vec!["flexflow".to_owned()]).unwrap();
        std::fs::write(&cert_file, params.self_signed(&one).unwrap().pem()).unwrap();
        let shown = |key: &str| {
            std::fs::write(&key_file, key).unwrap();
            let identity = Some((cert_file.clone(), key_file.clone()));
            Tls::new(&TlsOptions { ca_file: Some(cert_file.clone()), identity }).map(|_| ())
        };
        assert_eq!(shown(&one.serialize_pem()), Ok(()));
        assert!(shown(&other.serialize_pem()).unwrap_err().contains("do not go together"));
        assert!(shown("nothing of the kind").unwrap_err().contains("eventlog.kafka.tls_key_file"));
    }

    #[test]
    fn a_file_without_certificates_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        assert!(refused(&file).contains("cannot read certificates from"));
        std::fs::write(&file, "nothing of the kind").unwrap();
        assert!(refused(&file).contains("eventlog.kafka.tls_ca_file) holds no certificate"));
    }
}

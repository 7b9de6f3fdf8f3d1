//! One attempt: signed, sent, its answer read within bounds.

use std::error::Error as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use secrecy::SecretString;
use tokio::time::Instant;

use super::address::{PrivateAddress, Resolver, is_public};
use super::sign;
use crate::config;
use crate::event::Timestamp;
use crate::meta::{Delivery, Webhook};

/// Longest URL, in bytes.
const URL_BYTES_MAX: usize = 2000;
/// Longest wait for the rest of an answer whose status is known.
const BODY_WAIT_MAX: Duration = Duration::from_secs(2);

/// Why a URL cannot be delivered to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CannotSend {
    #[error("it is not a URL: {0}")]
    NotAUrl(String),
    #[error("it has from 1 to {URL_BYTES_MAX} bytes")]
    TooLong,
    #[error("its scheme is {0}, and may be https or http")]
    Scheme(String),
    #[error("it has a user or a password: verify the signature instead")]
    Credentials,
    #[error("{0} is no public address (webhook.allow_private)")]
    Private(IpAddr),
    #[error("it names no host")]
    NoHost,
}

/// What came of an attempt.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    /// None: there was no answer.
    pub status: Option<u16>,
    pub error: Option<String>,
    /// The beginning of the answer's body.
    pub response: String,
    pub took: Duration,
    /// How long the receiver asks to be left alone.
    pub retry_after: Option<Duration>,
}

impl Answer {
    /// Did the receiver take it?
    pub(super) fn is_taken(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// Nothing was sent, for this reason.
    pub(super) fn unsent(error: String) -> Self {
        Self { error: Some(error), ..Self::default() }
    }

    /// Is the receiver gone for good?
    pub(super) fn is_gone(&self) -> bool {
        self.status == Some(StatusCode::GONE.as_u16())
    }
}

/// Sends. Cheap to clone.
#[derive(Clone)]
pub(super) struct Sender {
    client: Client,
    allow_private: bool,
    response_bytes_max: usize,
}

impl Sender {
    /// # Errors
    /// There is no TLS on this machine.
    pub(super) fn new(config: &config::Webhook) -> Result<Self, reqwest::Error> {
        let allow_private = config.allow_private;
        let client = Client::builder()
            .user_agent(concat!("flexflow/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            // A proxy would connect to whatever it resolves.
            .no_proxy()
            .dns_resolver(Arc::new(Resolver { allow_private }))
            .connect_timeout(config.connect_timeout)
            .timeout(config.timeout)
            .pool_max_idle_per_host(config.webhook_concurrency)
            .build()?;
        let response_bytes_max = usize::try_from(config.response_bytes_max.as_u64()).unwrap_or(usize::MAX);
        Ok(Self { client, allow_private, response_bytes_max })
    }

    /// Makes one attempt, signed by these secrets; `now` is the time that is signed.
    pub(super) async fn send(
        &self,
        webhook: &Webhook,
        secrets: &[SecretString],
        delivery: &Delivery,
        now: Timestamp,
    ) -> Answer {
        let began = Instant::now();
        let mut answer = Answer::default();
        match check_url(&webhook.url, self.allow_private) {
            Err(error) => answer.error = Some(format!("the webhook's URL cannot be used: {error}")),
            Ok(url) => {
                let sent = self
                    .client
                    .post(url)
                    .header("content-type", "application/json")
                    .header("webhook-id", &delivery.id)
                    .header("webhook-timestamp", sign::seconds(now).to_string())
                    .header("webhook-signature", sign::signature(secrets, &delivery.id, now, &delivery.body))
                    .body(delivery.body.clone())
                    .send()
                    .await;
                match sent {
                    Err(error) => answer.error = Some(reason(&error)),
                    Ok(response) => {
                        answer.status = Some(response.status().as_u16());
                        answer.retry_after = retry_after(response.headers());
                        answer.response = self.beginning(response).await;
                    }
                }
            }
        }
        answer.took = began.elapsed();
        answer
    }

    /// The beginning of an answer's body, as far as it comes soon. What the receiver says after its status changes
    /// nothing.
    async fn beginning(&self, mut response: Response) -> String {
        let mut bytes: Vec<u8> = Vec::new();
        let read = async {
            while bytes.len() < self.response_bytes_max {
                match response.chunk().await {
                    Ok(Some(chunk)) => {
                        let room = self.response_bytes_max - bytes.len();
                        bytes.extend(chunk.iter().take(room));
                    }
                    Ok(None) | Err(_) => break,
                }
            }
        };
        // Not whole in this time: what came is kept, and the connection is dropped.
        let _ = tokio::time::timeout(BODY_WAIT_MAX, read).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Can this be delivered to? Names are checked when they are resolved.
///
/// # Errors
/// See [`CannotSend`].
pub(super) fn check_url(text: &str, allow_private: bool) -> Result<Url, CannotSend> {
    if !(1..=URL_BYTES_MAX).contains(&text.len()) {
        return Err(CannotSend::TooLong);
    }
    let url = Url::parse(text).map_err(|error| CannotSend::NotAUrl(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(CannotSend::Scheme(url.scheme().to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(CannotSend::Credentials);
    }
    // Names go through the resolver; an address written in the URL does not.
    let host = url.host_str().ok_or(CannotSend::NoHost)?;
    let written = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match written {
        Ok(address) if !allow_private && !is_public(address) => Err(CannotSend::Private(address)),
        _ => Ok(url),
    }
}

/// Seconds, as they are usually given; a date is left to the usual waits.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The whole chain of causes, without the URL.
fn reason(error: &reqwest::Error) -> String {
    let mut words = if error.is_timeout() {
        "no answer in time".to_owned()
    } else if error.is_connect() {
        "no connection".to_owned()
    } else {
        "it failed".to_owned()
    };
    let mut cause = error.source();
    let mut last = String::new();
    while let Some(inner) = cause {
        if let Some(private) = inner.downcast_ref::<PrivateAddress>() {
            return private.to_string();
        }
        last = inner.to_string();
        cause = inner.source();
    }
    if !last.is_empty() {
        words.push_str(": ");
        words.push_str(&last);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_cannot_be_delivered_to_is_refused_by_its_reason() {
        for (url, words) in [
            ("", "bytes"),
            ("ftp://example.com/", "scheme"),
            ("https://user:secret@example.com/", "password"),
            ("http://127.0.0.1/", "allow_private"),
            ("http://2130706433/", "allow_private"),
            ("http://0x7f.1/", "allow_private"),
            ("http://[::1]:8080/", "allow_private"),
            ("http://[::ffff:10.0.0.1]/", "allow_private"),
            ("https://169.254.169.254/latest/meta-data", "allow_private"),
            ("not a url", "not a URL"),
        ] {
            let refused = check_url(url, false).unwrap_err().to_string();
            assert!(refused.contains(words), "{url}: {refused}");
        }
        check_url("https://hooks.example.com/x?y=z", false).unwrap();
        check_url("http://127.0.0.1:9/", true).unwrap();
    }
}

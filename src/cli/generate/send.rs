//! Sends batches side by side over kept connections. A batch that gets 503 or no answer is sent again as it is, with
//! the same ids, so that nothing is counted twice however often it is sent.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::{Stream, StreamExt};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

use super::report::{Kinds, Tally};
use crate::demo::{Made, Traffic};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Reasons kept of those that items were rejected for.
const REASONS_MAX: usize = 10;

/// Events that travel together.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub body: String,
    pub events: u64,
    pub kinds: Kinds,
}

impl Batch {
    pub(super) fn of(made: &[Made]) -> Self {
        let mut kinds = Kinds::default();
        let mut body = String::with_capacity(made.iter().map(|made| made.json.len() + 1).sum::<usize>() + 1);
        for (i, made) in made.iter().enumerate() {
            body.push(if i == 0 { '[' } else { ',' });
            body.push_str(&made.json);
            kinds.count(made.kind);
        }
        body.push(']');
        Self { body, events: made.len() as u64, kinds }
    }
}

/// What became of a batch.
#[derive(Debug)]
pub(super) struct Sent {
    batch: Batch,
    retries: u64,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Answered { accepted: u64, rejected: u64, reasons: Vec<String>, latency: Duration },
    GivenUp(String),
}

/// Where events go.
#[derive(Debug, Clone)]
pub(super) struct Capture {
    client: Client,
    url: String,
    api_key: Option<String>,
    patience: Duration,
}

impl Capture {
    pub(super) fn new(
        url: &str,
        api_key: Option<String>,
        connections: u16,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let client = Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .pool_max_idle_per_host(connections.into())
            .tcp_nodelay(true)
            .build()
            .context("cannot make an HTTP client")?;
        Ok(Self { client, url: format!("{}/capture/batch", url.trim_end_matches('/')), api_key, patience })
    }

    /// Sends until it is answered or the patience ends.
    ///
    /// # Errors
    /// An answer that no resend changes: a wrong key, a wrong address.
    async fn send(&self, batch: Batch) -> anyhow::Result<Sent> {
        let begun = Instant::now();
        let mut retries = 0;
        let mut backoff = BACKOFF_MIN;
        loop {
            let tried = Instant::now();
            let failure = match self.post(batch.body.clone()).await {
                Ok(response) => match judge(response).await? {
                    Answer::Done { accepted, rejected, reasons } => {
                        let latency = tried.elapsed();
                        let outcome = Outcome::Answered { accepted, rejected, reasons, latency };
                        return Ok(Sent { batch, retries, outcome });
                    }
                    Answer::Later { after, why } => {
                        backoff = after.unwrap_or(backoff);
                        why
                    }
                },
                Err(error) if error.is_builder() => return Err(error).context("the address is not a URL"),
                Err(error) => format!("{:#}", anyhow::Error::from(error)),
            };
            let wait = rand::Rng::random_range(&mut rand::rng(), 0.5..1.0) * backoff.as_secs_f64();
            let wait = Duration::from_secs_f64(wait);
            if begun.elapsed() + wait >= self.patience {
                return Ok(Sent { batch, retries, outcome: Outcome::GivenUp(failure) });
            }
            tokio::time::sleep(wait).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
            retries += 1;
        }
    }

    async fn post(&self, body: String) -> reqwest::Result<Response> {
        let mut request = self.client.post(&self.url).header(CONTENT_TYPE, "application/json");
        if let Some(key) = &self.api_key {
            request = request.header("X-API-Key", key);
        }
        request.body(body).send().await
    }
}

enum Answer {
    Done { accepted: u64, rejected: u64, reasons: Vec<String> },
    Later { after: Option<Duration>, why: String },
}

async fn judge(response: Response) -> anyhow::Result<Answer> {
    let status = response.status();
    let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let text = match response.text().await {
        Ok(text) => text,
        // The answer broke off: what it said is not known, and a resend is harmless.
        Err(error) => return Ok(Answer::Later { after: None, why: error.to_string() }),
    };
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    let message = || body["message"].as_str().unwrap_or(text.trim()).to_owned();
    let rejected = body["rejected"].as_array().or_else(|| body["details"]["rejected"].as_array());
    match (status, rejected) {
        (StatusCode::ACCEPTED, _) | (StatusCode::BAD_REQUEST, Some(_)) => Ok(Answer::Done {
            accepted: body["accepted"].as_u64().unwrap_or(0),
            rejected: rejected.map_or(0, |rejected| rejected.len() as u64),
            reasons: rejected.into_iter().flatten().filter_map(reason).collect(),
        }),
        (StatusCode::TOO_MANY_REQUESTS, _) => Ok(Answer::Later {
            after: after.map(Duration::from_secs),
            why: format!("{status}: {}", message()),
        }),
        (status, _) if status.is_server_error() => Ok(Answer::Later {
            after: after.map(Duration::from_secs),
            why: format!("{status}: {}", message()),
        }),
        _ => bail!("capture answered {status}: {}", message()),
    }
}

fn reason(item: &Value) -> Option<String> {
    item["message"].as_str().map(str::to_owned)
}

impl Tally {
    fn add(&mut self, sent: Sent) {
        self.requests += 1 + sent.retries;
        self.retries += sent.retries;
        match sent.outcome {
            Outcome::Answered { accepted, rejected, reasons, latency } => {
                self.sent += sent.batch.events;
                self.accepted += accepted;
                self.rejected += rejected;
                self.kinds.add(sent.batch.kinds);
                self.latencies.add(latency);
                for reason in reasons {
                    if self.reasons.len() < REASONS_MAX && !self.reasons.contains(&reason) {
                        self.reasons.push(reason);
                    }
                }
            }
            Outcome::GivenUp(why) => {
                self.unsent += sent.batch.events;
                self.failure.get_or_insert(why);
            }
        }
    }
}

/// Batches at `rate` events a second; `None`: as fast as they are asked for.
pub(super) fn batches(traffic: Traffic, size: usize, rate: Option<f64>) -> impl Stream<Item = Batch> {
    let size = rate.map_or(size, |rate| paced_size(size, rate));
    let begun = Instant::now();
    futures::stream::unfold((traffic, 0u64), move |(mut traffic, before)| async move {
        let made: Vec<Made> = traffic.by_ref().take(size).collect();
        if made.is_empty() {
            return None;
        }
        if let Some(rate) = rate {
            // The last event of the batch is due now; after a stall this catches up.
            #[expect(clippy::cast_precision_loss, reason = "a number of events")]
            let due = (before + made.len() as u64) as f64 / rate;
            tokio::time::sleep_until(begun + Duration::from_secs_f64(due)).await;
        }
        let batch = Batch::of(&made);
        let before = before + batch.events;
        Some((batch, (traffic, before)))
    })
}

/// At a slow rate batches are small, so that events come one by one and not in bursts: about ten batches a second.
fn paced_size(size: usize, rate: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    let tenth = (rate / 10.0).clamp(1.0, 5000.0) as usize;
    tenth.min(size)
}

/// Sends all batches, `connections` at a time, until they end or `stop` does; calls `progress` after each.
///
/// # Errors
/// As [`Capture::send`]; what was sent before is lost to the tally.
pub(super) async fn send_all(
    capture: &Capture,
    batches: impl Stream<Item = Batch>,
    connections: u16,
    stop: impl Future<Output = ()>,
    mut progress: impl FnMut(&Tally),
) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    let sending =
        batches.take_until(stop).map(|batch| capture.send(batch)).buffer_unordered(connections.into());
    let mut sending = std::pin::pin!(sending);
    while let Some(sent) = sending.next().await {
        tally.add(sent?);
        progress(&tally);
    }
    Ok(tally)
}

//! bytes → events → log. An item of a request becomes one record of topic `topics.events`; the request is answered
//! only once the log has its records durably.
//!
//! # The core and its surfaces
//!
//! The core knows no HTTP: [`Items`] reads a body, [`Batch`] checks items and writes records, [`Capture::produce`]
//! gives them to the log. [`http`] has the surfaces: `/capture`, and `/v1/events` as FlexPrice's SDKs know it. A surface
//! is its [`Words`] and its answers, nothing else.
//!
//! # What an answer means
//!
//! - **Accepted** (202): every event named in it is durable in the log. Its id, timestamp and time of receipt are fixed
//!   for ever.
//! - **Rejected** (an entry of `rejected`): this item is not in the log and never will be; the others are not touched.
//!   A record over the log's limit is rejected like this, too.
//! - **Refused** (503): at least one record of the request is not known to be durable. Others of the same request may
//!   be, and *none is answered as accepted*: a client that sends the whole request again loses nothing. Items that
//!   carry an `event_id` are stored once all the same; one that leaves its id to the server is a new event with every
//!   try (the answer never told its id, so nobody can tell the tries apart). Answering 202 with the rest in `rejected`
//!   would ask every client to read that list, and most look at the status alone.
//!
//! A batch is one call of the log; records of one distinct id keep their order.
//!
//! # Bounds
//!
//! `capture.*` in the configuration names each: bytes as sent, bytes inflated, events a request, bytes, nesting and
//! keys of properties, bytes in flight over all requests, wait for the log. A log that fails opens the breaker:
//! requests are told at once, and one now and then tries.

mod batch;
mod envelope;
pub mod http;
mod metrics;
mod parse;
mod raw;
mod scan;
mod words;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use tokio::time::Instant;

use crate::auth::{Access, EnvironmentMismatch};
use crate::config::Config;
use crate::event::{Clock, IdSource, Timestamp};
use crate::eventlog::{EventLog, LogError, NewRecord, Position};
use crate::lifecycle::{BreakerRules, Circuit, Health, Open, Policy, Tasks};
use crate::schema::Registry;

pub use batch::{Batch, Flag, Rejection, RejectionCode, TEXT_CHARACTERS_MAX};
pub use parse::{Given, Incoming, Items, NotABatch, Unreadable};
pub use scan::Text;
pub use words::{BULK_EVENTS_MAX, Takes, Words};

use batch::{Drafted, Sealed};
use metrics::Metrics;

/// Bytes of a body read before other requests get a turn: well under a millisecond.
const STEP_BYTES: usize = 128 * 1024;
/// How often an idle log is asked whether it takes writes.
const PROBE_INTERVAL: Duration = Duration::from_secs(15);
/// How often one is asked that failed.
const PROBE_INTERVAL_DOWN: Duration = Duration::from_millis(500);
/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bounds of capture, from `capture.*`.
#[derive(Clone, Debug)]
pub struct Rules {
    pub require_api_key: bool,
    pub body_bytes_max: usize,
    pub inflated_bytes_max: usize,
    pub body_timeout: Duration,
    pub batch_events_max: usize,
    pub properties_bytes_max: usize,
    pub properties_depth_max: usize,
    pub properties_keys_max: usize,
    pub future_max: Duration,
    pub in_flight_bytes_max: usize,
    pub produce_timeout: Duration,
}

impl Rules {
    fn of(config: &Config) -> Self {
        let bytes = |size: ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        let capture = &config.capture;
        Self {
            require_api_key: capture.require_api_key,
            body_bytes_max: bytes(capture.body_bytes_max),
            inflated_bytes_max: bytes(capture.inflated_bytes_max),
            body_timeout: config.server.body_timeout,
            batch_events_max: capture.batch_events_max,
            properties_bytes_max: bytes(capture.properties_bytes_max),
            properties_depth_max: capture.properties_depth_max,
            properties_keys_max: capture.properties_keys_max,
            future_max: capture.future_max,
            in_flight_bytes_max: bytes(capture.in_flight_bytes_max),
            produce_timeout: capture.produce_timeout,
        }
    }
}

/// Takes events. Clones are handles of the same.
#[derive(Clone)]
pub struct Capture(Arc<Inner>);

struct Inner {
    log: Arc<dyn EventLog>,
    topic: String,
    raw_topic: String,
    rules: Rules,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    breaker: Circuit,
    in_flight: AtomicUsize,
    metrics: Metrics,
    schemas: Option<Registry>,
}

/// Why a request was not served; nothing of it counts as accepted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// `capture.in_flight_bytes_max` is reached.
    #[error("capture has {bytes_max} bytes in flight, its bound (capture.in_flight_bytes_max)")]
    InFlight { bytes_max: usize },
    /// The log failed again and again and is tried rarely.
    #[error("the event log does not take writes at the moment")]
    BreakerOpen { reason: String, retry_after: Duration },
    /// The log did not answer within `capture.produce_timeout`.
    #[error("the event log did not answer within {0:?} (capture.produce_timeout)")]
    Timeout(Duration),
    /// The log did not take a record, or nobody knows whether it did.
    #[error("the event log did not take the events")]
    Log(#[source] LogError),
}

/// Why a body as a whole will not do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unread {
    NotABatch(NotABatch),
    /// More than `capture.batch_events_max` items, or than the surface takes.
    TooMany {
        events_max: usize,
        /// It is the surface's bound, whatever the configuration says.
        of_surface: bool,
    },
    /// Not one item.
    Empty,
    /// The environment that is named beside the batch is not the key's.
    Environment(EnvironmentMismatch),
}

impl From<EnvironmentMismatch> for Unread {
    fn from(error: EnvironmentMismatch) -> Self {
        Self::Environment(error)
    }
}

impl From<NotABatch> for Unread {
    fn from(error: NotABatch) -> Self {
        Self::NotABatch(error)
    }
}

/// What became of the items of a request.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// Event ids of the accepted items, in their order, each as JSON text without the quotes.
    pub accepted: Vec<Bytes>,
    /// In the order of the items.
    pub rejected: Vec<Rejection>,
    /// The first environment that an item named and that is not the key's.
    pub mismatch: Option<EnvironmentMismatch>,
    /// Of the accepted items, those that do not fit their schema.
    pub flagged: Vec<Flag>,
}

/// Bytes counted against `capture.in_flight_bytes_max` until this is dropped.
pub struct InFlight<'c> {
    capture: &'c Inner,
    bytes: usize,
}

impl InFlight<'_> {
    /// Counts `bytes` more.
    ///
    /// # Errors
    /// The bound is reached.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let bytes_max = self.capture.rules.in_flight_bytes_max;
        let grown = self.capture.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
            now.checked_add(bytes).filter(|sum| *sum <= bytes_max)
        });
        match grown {
            Ok(before) => {
                self.bytes += bytes;
                self.capture.metrics.in_flight_bytes(before + bytes);
                Ok(())
            }
            Err(_) => Err(Refusal::InFlight { bytes_max }),
        }
    }

    /// Counts `bytes` from now on instead of what it counted.
    fn become_bytes(&mut self, bytes: usize) -> Result<(), Refusal> {
        if bytes > self.bytes {
            return self.grow(bytes - self.bytes);
        }
        let less = self.bytes - bytes;
        self.bytes = bytes;
        let before = self.capture.in_flight.fetch_sub(less, Ordering::Relaxed);
        self.capture.metrics.in_flight_bytes(before - less);
        Ok(())
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        // Counting less is never refused.
        let _ = self.become_bytes(0);
    }
}

impl Capture {
    /// Begins to take events for `log`; the component `capture` tells whether the log takes them.
    pub fn new(
        log: Arc<dyn EventLog>,
        config: &Config,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        health: &Health,
    ) -> Self {
        let breaker = Circuit::new(
            "eventlog",
            "the event log does not take writes",
            breaker_rules(config),
            random(&*ids),
            health.component("capture"),
        );
        Self(Arc::new(Inner {
            log,
            topic: config.topics.events.clone(),
            raw_topic: config.topics.raw_events.clone(),
            rules: Rules::of(config),
            clock,
            ids,
            breaker,
            in_flight: AtomicUsize::new(0),
            metrics: Metrics::new(),
            schemas: None,
        }))
    }

    /// Holds events against their schemas. To be called before the first clone is made.
    pub fn with_schemas(mut self, schemas: Registry) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.schemas = Some(schemas);
        }
        self
    }

    /// Asks the log now and then whether it takes writes, so that `/ready` knows before a request does and a breaker
    /// closes without one.
    pub fn supervise(&self, tasks: &Tasks) {
        let (capture, stop) = (self.clone(), tasks.stop().soft_token().clone());
        tasks.spawn("capture-probe", Policy::Restart(Duration::from_secs(1)), move || {
            let (capture, stop) = (capture.clone(), stop.clone());
            async move {
                while !stop.is_cancelled() {
                    let wait = if capture.probe().await { PROBE_INTERVAL } else { PROBE_INTERVAL_DOWN };
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = stop.cancelled() => {}
                    }
                }
                Ok(())
            }
        });
    }

    /// One question to the log. True: it takes writes.
    async fn probe(&self) -> bool {
        let Ok(pass) = self.0.breaker.pass() else { return false };
        match tokio::time::timeout(PROBE_TIMEOUT, self.0.log.probe()).await {
            Ok(Ok(())) => {
                pass.succeeded();
                true
            }
            Ok(Err(error)) => {
                pass.failed(&error.to_string());
                false
            }
            Err(_) => {
                pass.failed("a probe was not answered");
                false
            }
        }
    }

    /// The bounds it keeps.
    pub fn rules(&self) -> &Rules {
        &self.0.rules
    }

    /// Says without further ado that the log does not take writes, if that is known.
    ///
    /// # Errors
    /// The breaker is open.
    pub fn check(&self) -> Result<(), Refusal> {
        self.0.breaker.check().map_err(open)
    }

    /// A count of bytes in flight, zero at first.
    pub fn in_flight(&self) -> InFlight<'_> {
        InFlight { capture: &self.0, bytes: 0 }
    }

    /// The present moment: the time of receipt of a request that arrives now.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// An empty batch for events that `access` lets in, received at `received_at`, on the surface with these `words`;
    /// `bytes_expected` sizes its buffer.
    pub fn batch<'c>(
        &'c self,
        access: &'c Access,
        received_at: Timestamp,
        bytes_expected: usize,
        words: &'static Words,
    ) -> Batch<'c> {
        let schemas = self.0.schemas.as_ref().and_then(|all| all.of(access.scope.project.as_str()));
        Batch::new(&self.0.rules, &*self.0.ids, access, received_at, bytes_expected, words)
            .with_schemas(schemas)
    }

    /// Reads a body's items into `batch`, in steps between which other requests of the thread get their turn.
    ///
    /// # Errors
    /// The body as a whole will not do; the batch must be forgotten.
    pub async fn read(&self, body: &[u8], batch: &mut Batch<'_>) -> Result<(), Unread> {
        let rules = &self.0.rules;
        let words = batch.words();
        let mut items = Items::new(body, rules.properties_depth_max, rules.properties_keys_max, words)?;
        let (events_max, of_surface) = match words.events_max {
            Some(max) if max < rules.batch_events_max => (max, true),
            _ => (rules.batch_events_max, false),
        };
        let mut turn_over = STEP_BYTES;
        while let Some(item) = items.next_item()? {
            if batch.seen() == events_max {
                return Err(Unread::TooMany { events_max, of_surface });
            }
            batch.push(item);
            if items.passed() >= turn_over {
                turn_over = items.passed() + STEP_BYTES;
                tokio::task::yield_now().await;
            }
        }
        if let Some(named) = items.environment() {
            batch.check_environment(&named)?;
        }
        if batch.seen() == 0 { Err(Unread::Empty) } else { Ok(()) }
    }

    /// Gives the records of `batch` to the log in one call and waits until they are durable. `producer` names the
    /// surface in each record's headers; `in_flight` holds the bytes of the request until then.
    ///
    /// # Errors
    /// At least one record is not known to be durable: none counts as accepted.
    pub async fn produce(
        &self,
        batch: Batch<'_>,
        producer: &'static str,
        in_flight: InFlight<'_>,
    ) -> Result<Receipt, Refusal> {
        self.deliver(&self.0.topic, batch.seal(producer), in_flight).await
    }

    /// Gives what was sealed to a topic.
    async fn deliver(
        &self,
        topic: &str,
        sealed: Sealed,
        mut in_flight: InFlight<'_>,
    ) -> Result<Receipt, Refusal> {
        let Sealed { records, drafted, rejected, flagged, clamped, mismatch, bytes } = sealed;
        // The body is done with; what is in flight is what the log is given.
        in_flight.become_bytes(bytes)?;
        let metrics = &self.0.metrics;
        metrics.clamped(clamped);
        let (accepted, rejected) = if records.is_empty() {
            (Vec::new(), rejected)
        } else {
            self.append(topic, records, drafted, rejected).await?
        };
        let receipt = Receipt { accepted, rejected, mismatch, flagged };
        metrics.answered(&receipt);
        Ok(receipt)
    }

    async fn append(
        &self,
        topic: &str,
        records: Vec<NewRecord>,
        drafted: Vec<Drafted>,
        mut rejected: Vec<Rejection>,
    ) -> Result<(Vec<Bytes>, Vec<Rejection>), Refusal> {
        let pass = self.0.breaker.pass().map_err(open)?;
        let metrics = &self.0.metrics;
        let (begun, limit) = (Instant::now(), self.0.rules.produce_timeout);
        let answers = tokio::time::timeout(limit, self.0.log.produce(topic, records)).await;
        metrics.waited(begun.elapsed());
        let Ok(answers) = answers else {
            metrics.produce_failed("timeout", drafted.len());
            let refusal = Refusal::Timeout(limit);
            pass.failed(&refusal.to_string());
            return Err(refusal);
        };
        let mut failure = None;
        let mut accepted = Vec::with_capacity(drafted.len());
        let mut durable = 0;
        for (item, answer) in drafted.iter().zip(&answers) {
            match answer {
                Ok(Position { .. }) => {
                    durable += 1;
                    accepted.push(item.id.clone());
                }
                Err(error) => {
                    metrics.produce_failed(metrics::error_name(error), 1);
                    match error {
                        LogError::RecordTooLarge { bytes, bytes_max } => rejected.push(Rejection {
                            index: item.index,
                            code: RejectionCode::PayloadTooLarge,
                            message: format!(
                                "the event makes a record of {bytes} bytes, over the log's {bytes_max}"
                            ),
                            field: None,
                        }),
                        error => failure = failure.or_else(|| Some(error.clone())),
                    }
                }
            }
        }
        metrics.produced(durable);
        if failure.is_none() && answers.len() != drafted.len() {
            // A backend that forgets an answer has not said that the record is durable.
            failure = Some(LogError::OutcomeUnknown(
                "the log answered for other records than it was given".to_owned(),
            ));
        }
        if let Some(error) = failure {
            pass.failed(&error.to_string());
            return Err(Refusal::Log(error));
        }
        pass.succeeded();
        rejected.sort_by_key(|rejection| rejection.index);
        Ok((accepted, rejected))
    }
}

fn open(open: Open) -> Refusal {
    Refusal::BreakerOpen { reason: open.reason, retry_after: open.retry_after }
}

fn breaker_rules(config: &Config) -> BreakerRules {
    let capture = &config.capture;
    BreakerRules {
        failures_to_open: capture.breaker_failures,
        wait_min: capture.breaker_wait_min,
        wait_max: capture.breaker_wait_max,
    }
}

fn random(ids: &dyn IdSource) -> u64 {
    let mut bytes = [0u8; 8];
    ids.fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests;

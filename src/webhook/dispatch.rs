//! Which attempts are made, when, and how many at a time.
//!
//! A look asks which webhooks have something due, and claims for each as much as it may have under way: a few at first,
//! twice as many after every answer that was good, a few again after one that was not. So a receiver that is slow or
//! dead holds a handful of attempts, and the others never wait for it. Results are written in batches; a process that
//! dies in between leaves its claims to expire, and the same deliveries are sent again under the same ids.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use super::Webhook;
use super::send::{Answer, Sender};
use crate::event::{ProjectId, Timestamp};
use crate::lifecycle::{Stop, Tasks};
use crate::meta::{self, Attempted, Delivery, DeliveryState, MetaError};
use crate::telemetry::names;

/// Attempts of a webhook under way, until it has proved itself.
const FEW: usize = 2;
/// Results written at once, and their waits when the database is away.
const RESULTS_MAX: usize = 256;
const WRITE_AGAIN: Duration = Duration::from_millis(250);
/// Each wait is so many times the one before.
const GROWTH: u32 = 4;
/// How often old deliveries are looked for, and the backlog is counted.
const PRUNE_EVERY: Duration = Duration::from_secs(600);
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// What one webhook has under way.
#[derive(Clone, Copy, Debug)]
struct Lane {
    under_way: usize,
    most: usize,
}

/// The lanes of all webhooks; those that rest are forgotten.
#[derive(Debug, Default)]
pub(super) struct Lanes(Mutex<HashMap<String, Lane>>);

impl Lanes {
    /// How many more attempts this webhook may have.
    fn free(&self, id: &str, ordered: bool) -> usize {
        let lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = lanes.get(id).copied().unwrap_or(Lane { under_way: 0, most: FEW });
        let most = if ordered { 1 } else { lane.most };
        most.saturating_sub(lane.under_way)
    }

    fn begin(&self, id: &str, count: usize) {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.entry(id.to_owned()).or_insert(Lane { under_way: 0, most: FEW }).under_way += count;
    }

    /// An attempt has an answer.
    fn end(&self, id: &str, good: bool, most: usize) {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get_mut(id) {
            lane.under_way = lane.under_way.saturating_sub(1);
            lane.most = if good { (lane.most * 2).min(most.max(1)) } else { FEW.min(most.max(1)) };
        }
    }

    /// Forgets those with nothing under way, when there are many.
    fn forget(&self) {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lanes.len() > 10_000 {
            lanes.retain(|_, lane| lane.under_way > 0);
        }
    }
}

/// An attempt that has ended, on its way to the database.
struct Ended {
    project: ProjectId,
    webhook_id: String,
    good: bool,
    gone: bool,
    attempted: Attempted,
    _turn: OwnedSemaphorePermit,
}

/// Delivers. One a process is enough; several processes share the work.
#[derive(Clone)]
struct Dispatcher {
    webhook: Webhook,
    sender: Sender,
    lanes: Arc<Lanes>,
    turns: Arc<Semaphore>,
    ended: mpsc::Sender<Ended>,
    tasks: Tasks,
}

impl Webhook {
    /// Delivers until a stop; attempts under way are finished, within `webhook.timeout`.
    ///
    /// # Errors
    /// There is no TLS on this machine.
    pub async fn run(self, tasks: Tasks, stop: Stop) -> anyhow::Result<()> {
        let (ended, results) = mpsc::channel(RESULTS_MAX);
        let lanes: Arc<Lanes> = Arc::default();
        let dispatcher = Dispatcher {
            sender: Sender::new(&self.config)?,
            lanes: lanes.clone(),
            turns: Arc::new(Semaphore::new(self.config.concurrency.max(1))),
            ended,
            tasks,
            webhook: self.clone(),
        };
        // The writing ends with the last attempt, when nobody is left to send a result.
        let dispatching = async {
            dispatcher.dispatch(&stop).await;
            drop(dispatcher);
        };
        let house = stop.soft_token().run_until_cancelled(self.keep_house(&lanes));
        tokio::join!(dispatching, self.write_results(results, &lanes), house);
        Ok(())
    }

    async fn write_results(&self, mut results: mpsc::Receiver<Ended>, lanes: &Lanes) {
        let mut some = Vec::new();
        while results.recv_many(&mut some, RESULTS_MAX).await > 0 {
            let attempted: Vec<Attempted> = some.iter().map(|ended| ended.attempted.clone()).collect();
            loop {
                match self.meta.deliveries().attempted(attempted.clone()).await {
                    Ok(()) => break,
                    Err(error) if error.is_unavailable() => {
                        tracing::warn!(%error, "results of webhooks cannot be written: tried again");
                        tokio::time::sleep(WRITE_AGAIN).await;
                    }
                    Err(error) => {
                        // Their leases expire, and they are sent again under the same ids.
                        tracing::error!(%error, count = attempted.len(), "results of webhooks are not written");
                        break;
                    }
                }
            }
            for ended in some.drain(..) {
                lanes.end(&ended.webhook_id, ended.good, self.config.webhook_concurrency);
                if ended.gone {
                    self.set_gone(&ended.project, &ended.webhook_id).await;
                }
            }
            self.queued.notify_one();
        }
    }

    async fn set_gone(&self, project: &ProjectId, id: &str) {
        tracing::warn!(webhook_id = id, "the receiver says that it is gone: nothing more is delivered to it");
        if let Err(error) = self.meta.webhooks().set_gone(project, id).await {
            tracing::warn!(webhook_id = id, %error, "the webhook could not be marked as gone");
        }
    }

    /// Counts what waits, and deletes what ended long ago.
    async fn keep_house(&self, lanes: &Lanes) {
        let mut prune_at = Instant::now();
        loop {
            match self.meta.deliveries().count_pending().await {
                #[expect(clippy::cast_precision_loss, reason = "a count for people")]
                Ok(pending) => names::WEBHOOK_PENDING.gauge(&[]).set(pending as f64),
                Err(error) => tracing::debug!(%error, "deliveries cannot be counted"),
            }
            if Instant::now() >= prune_at {
                prune_at = Instant::now() + PRUNE_EVERY;
                let before = self.now().minus(self.config.keep_ended);
                if let Err(error) = self.meta.deliveries().delete_ended(before).await {
                    tracing::warn!(%error, "old deliveries could not be deleted");
                }
                lanes.forget();
            }
            tokio::time::sleep(COUNT_EVERY).await;
        }
    }

    /// What an attempt means for its delivery. `jitter` is from 0 up to 1.
    fn judge(&self, delivery: &Delivery, answer: &Answer, now: Timestamp, jitter: f64) -> Attempted {
        let (state, outcome) = if answer.is_taken() {
            (DeliveryState::Delivered, "delivered")
        } else if answer.is_gone() || now >= delivery.give_up_at {
            (DeliveryState::Dead, "dead")
        } else if answer.status.is_some() {
            (DeliveryState::Pending, "refused")
        } else {
            (DeliveryState::Pending, "unanswered")
        };
        names::WEBHOOK_ATTEMPTS.counter(&[("outcome", outcome)]).increment(1);
        names::WEBHOOK_ATTEMPT_DURATION.histogram(&[]).record(answer.took);
        let wait = self.wait(delivery.attempts, jitter).max(answer.retry_after.unwrap_or_default());
        let due_at = now.plus(wait.min(self.config.backoff_max)).min(delivery.give_up_at);
        let mut log = match &delivery.log.0 {
            Value::Array(entries) => entries.clone(),
            _ => Vec::new(),
        };
        log.push(json!({
            "at": now,
            "took_ms": u64::try_from(answer.took.as_millis()).unwrap_or(u64::MAX),
            "status": answer.status,
            "error": answer.error,
            "response": answer.response,
        }));
        let old = log.len().saturating_sub(self.config.log_attempts_max);
        log.drain(..old);
        Attempted { id: delivery.id.clone(), fence: delivery.fence, state, due_at, log: Value::Array(log) }
    }

    /// How long after an attempt, the first of which is number 0, the next is due: longer each time, by chance up to half
    /// shorter, so that what failed together does not come back together.
    fn wait(&self, attempts: i64, jitter: f64) -> Duration {
        let grown = GROWTH.saturating_pow(u32::try_from(attempts.clamp(0, 15)).unwrap_or(15));
        let whole = self.config.backoff_min.saturating_mul(grown).min(self.config.backoff_max);
        whole.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
    }

    /// A number from 0 up to 1.
    fn jitter(&self) -> f64 {
        let mut bytes = [0u8; 4];
        self.ids.fill(&mut bytes);
        f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
    }
}

impl Dispatcher {
    async fn dispatch(&self, stop: &Stop) {
        let soft = stop.soft_token();
        while !soft.is_cancelled() {
            // Listening begins before the look, so that what is added in between is not slept over.
            let queued = self.webhook.queued.notified();
            tokio::pin!(queued);
            queued.as_mut().enable();
            match self.look().await {
                Ok(1..) => continue,
                Ok(0) => {}
                Err(error) => tracing::warn!(%error, "webhooks cannot be looked for: tried again"),
            }
            tokio::select! {
                () = &mut queued => {}
                () = tokio::time::sleep(self.webhook.config.poll_interval) => {}
                () = soft.cancelled() => {}
            }
        }
    }

    /// Begins what may be begun; answers how many attempts.
    async fn look(&self) -> Result<usize, MetaError> {
        let (meta, now) = (&self.webhook.meta, self.webhook.now());
        let mut begun = 0;
        for webhook in meta.webhooks().due(now).await? {
            let free = self.lanes.free(&webhook.id, webhook.ordered).min(self.turns.available_permits());
            if free == 0 {
                continue;
            }
            let lease = self.webhook.config.lease;
            let claimed = meta.deliveries().claim(&webhook, free as u64, now, lease).await?;
            let webhook = Arc::new(webhook);
            for delivery in claimed {
                // Nobody else takes turns: there are as many as were free.
                let Ok(turn) = self.turns.clone().try_acquire_owned() else { break };
                self.lanes.begin(&webhook.id, 1);
                begun += 1;
                self.begin(webhook.clone(), delivery, turn);
            }
        }
        Ok(begun)
    }

    fn begin(&self, webhook: Arc<meta::Webhook>, delivery: Delivery, turn: OwnedSemaphorePermit) {
        let this = self.clone();
        self.tasks.spawn_bounded(async move {
            let now = this.webhook.now();
            let answer = match this.webhook.meta.webhooks().secrets(&webhook, now) {
                Ok(secrets) => this.sender.send(&webhook, &secrets, &delivery, now).await,
                // Unsigned nobody would believe it.
                Err(error) => Answer::unsent(format!("it cannot be signed: {error}")),
            };
            let (now, jitter) = (this.webhook.now(), this.webhook.jitter());
            let ended = Ended {
                project: webhook.project_id.clone(),
                webhook_id: webhook.id.clone(),
                good: answer.is_taken(),
                gone: answer.is_gone(),
                attempted: this.webhook.judge(&delivery, &answer, now, jitter),
                _turn: turn,
            };
            // Nobody writes any more: the process ends, and the lease expires.
            let _ = this.ended.send(ended).await;
        });
    }
}

//! What the product tells others of: records of topic `topics.system_events`, from which webhooks are delivered.
//!
//! Promises:
//! - What was told comes into the topic at least once, however often the log refuses it and the process dies: it is kept
//!   in the metadata database first, and deleted there once the log has it. Told twice it has the same id.
//! - What has to be told together with a change of the metadata (a job that ends) is kept in the change's own
//!   transaction ([`Notices::note`]).
//! - Whoever tells waits for one write of that database, never for the topic. While it does not answer, the log is
//!   written to at once, and what that refuses, too, waits in this process.
//! - At most `webhook.unsent_max` wait in each of the two places; what is told beyond is counted as lost.

mod event;
#[cfg(test)]
mod tests;
mod watched;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::Notify;

pub use event::{SystemEvent, SystemEventRecord};

use crate::config::Config;
use crate::event::{Clock, EnvironmentId, IdSource, ProjectId, Timestamp};
use crate::eventlog::{EventLog, LogError, NewRecord};
use crate::meta::{Meta, MetaError, NewNotice, notices_lost};
use crate::telemetry::names;

/// Key of what concerns the whole installation.
const INSTALLATION: &str = "installation";
/// Notices that are passed on at a time.
const AT_ONCE: usize = 200;

/// Tells. Cheap to clone.
#[derive(Clone)]
pub struct Notices(Arc<Inner>);

struct Inner {
    log: Arc<dyn EventLog>,
    meta: Meta,
    topic: Arc<str>,
    unsent_max: usize,
    poll_interval: Duration,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    /// What neither the database nor the log took.
    waiting: Mutex<VecDeque<NewNotice>>,
    /// There is something to pass on.
    kept: Notify,
}

impl Notices {
    pub fn new(
        log: Arc<dyn EventLog>,
        meta: Meta,
        config: &Config,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
    ) -> Self {
        Self(Arc::new(Inner {
            log,
            meta,
            topic: config.topics.system_events.as_str().into(),
            unsent_max: config.webhook.unsent_max,
            poll_interval: config.webhook.poll_interval,
            clock,
            ids,
            waiting: Mutex::default(),
            kept: Notify::new(),
        }))
    }

    /// Tells: see the promises of the [module](self).
    pub async fn tell(&self, events: Vec<SystemEvent>) {
        let notices: Vec<NewNotice> = events.into_iter().map(|event| self.note(event)).collect();
        if !notices.is_empty() {
            self.keep(notices).await;
        }
    }

    /// A notice to be kept in a transaction of the metadata database; [`Notices::wake`] once that is through.
    pub fn note(&self, event: SystemEvent) -> NewNotice {
        let now = self.0.clock.now();
        let record = SystemEventRecord {
            id: self.id_of(&event, now),
            event_name: event.kind,
            project_id: event.project,
            environment_id: event.environment,
            timestamp: now,
            payload: event.payload,
        };
        // Of texts, times and JSON: it can be written.
        let text = serde_json::to_string(&record).unwrap_or_default();
        NewNotice {
            id: record.id,
            project_id: record.project_id,
            record: text,
            max: self.0.unsent_max as u64,
        }
    }

    /// Says that a notice was kept.
    pub fn wake(&self) {
        self.0.kept.notify_one();
    }

    /// Passes on what is kept, until it is dropped. Any number of processes may do so at once.
    ///
    /// # Errors
    /// None; what fails is tried again.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut failing = false;
        loop {
            let kept = self.0.kept.notified();
            match self.pass_on().await {
                Ok(()) => failing = false,
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "system events wait to be told");
                    }
                }
            }
            // What was kept while the log refuses waits for the next look, too.
            let look = tokio::time::sleep(self.0.poll_interval);
            if failing {
                look.await;
                continue;
            }
            tokio::select! {
                () = kept => {}
                () = look => {}
            }
        }
    }

    /// Passes on what is kept now.
    ///
    /// # Errors
    /// Why the rest of it waits.
    pub async fn pass_on(&self) -> Result<(), NotTold> {
        let waiting: Vec<NewNotice> = self.waiting().drain(..).collect();
        if !waiting.is_empty() {
            self.keep(waiting).await;
        }
        let outcome = self.pass_on_kept().await;
        let in_memory = self.waiting().len() as u64;
        let kept = match &outcome {
            Ok(()) => 0,
            Err(_) => self.0.meta.notices().count().await.unwrap_or(0),
        };
        names::SYSTEM_EVENTS_WAITING.gauge(&[]).set((in_memory + kept) as f64);
        outcome
    }

    async fn pass_on_kept(&self) -> Result<(), NotTold> {
        loop {
            let rows = self.0.meta.notices().oldest(AT_ONCE as u64).await?;
            let last = rows.len() < AT_ONCE;
            let mut ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
            let (left, error) = self.produce(rows.into_iter().map(|row| as_told(row.into())).collect()).await;
            ids.retain(|id| left.iter().all(|notice| notice.id != *id));
            self.0.meta.notices().delete(&ids).await?;
            match error {
                Some(error) => return Err(error.into()),
                None if last => return Ok(()),
                None => {}
            }
        }
    }

    async fn keep(&self, notices: Vec<NewNotice>) {
        match self.0.meta.notices().add(&notices).await {
            Ok(()) => self.wake(),
            Err(error) => {
                tracing::debug!(%error, "the metadata database keeps no system events: straight to the log");
                let (left, _) = self.produce(notices).await;
                let mut waiting = self.waiting();
                let room = self.0.unsent_max.saturating_sub(waiting.len());
                notices_lost(left.len().saturating_sub(room));
                waiting.extend(left.into_iter().take(room));
            }
        }
    }

    /// Writes them to the topic; answers those that are not there, or may not be, and why.
    async fn produce(&self, notices: Vec<NewNotice>) -> (Vec<NewNotice>, Option<LogError>) {
        if notices.is_empty() {
            return (Vec::new(), None);
        }
        let now = self.0.clock.now();
        let records = notices.iter().map(|notice| {
            let key = notice.project_id.as_ref().map_or(INSTALLATION, ProjectId::as_str).to_owned();
            let value = notice.record.clone().into_bytes();
            NewRecord {
                key: Some(key.into()),
                value: value.into(),
                headers: Default::default(),
                timestamp: now,
            }
        });
        let answers = self.0.log.produce(&self.0.topic, records.collect()).await;
        // A backend that forgets an answer has not said that the record is durable.
        let forgotten =
            || Err(LogError::OutcomeUnknown("the log left the record without an answer".to_owned()));
        let answers = answers.into_iter().chain(std::iter::repeat_with(forgotten));
        let (mut left, mut why) = (Vec::new(), None);
        for (notice, answer) in notices.into_iter().zip(answers) {
            match answer {
                Ok(_) => names::SYSTEM_EVENTS.counter(&[("outcome", "told")]).increment(1),
                Err(error @ LogError::RecordTooLarge { .. }) => {
                    tracing::error!(id = notice.id, %error, "a system event cannot be told");
                    notices_lost(1);
                }
                Err(error) => {
                    left.push(notice);
                    why = Some(error);
                }
            }
        }
        (left, why)
    }

    fn id_of(&self, event: &SystemEvent, now: Timestamp) -> String {
        let Some(words) = &event.once else {
            return format!("sys_event_{}", self.0.ids.uuid_v7(now).simple());
        };
        let mut hash = Sha256::new();
        let scope = [
            event.project.as_ref().map(ProjectId::as_str),
            event.environment.as_ref().map(EnvironmentId::as_str),
        ];
        for text in [event.kind.as_str(), scope[0].unwrap_or(""), scope[1].unwrap_or(""), words] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        let digest = hash.finalize();
        digest.iter().take(16).fold("sys_event_".to_owned(), |mut id, byte| {
            let _ = write!(id, "{byte:02x}");
            id
        })
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<NewNotice>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A notice that was kept, with whom it is about: where that project has no row, its record alone says so.
fn as_told(kept: NewNotice) -> NewNotice {
    let about = || serde_json::from_str::<SystemEventRecord>(&kept.record).ok()?.project_id;
    NewNotice { project_id: kept.project_id.clone().or_else(about), ..kept }
}

/// Why what is kept still waits.
#[derive(Debug, thiserror::Error)]
pub enum NotTold {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Meta(#[from] MetaError),
}

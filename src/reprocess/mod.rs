//! Reprocessing: raw events that are stored go through the environment's transform again, and what they become replaces
//! what they became before, also where day, name, customer or the number of events changed.
//!
//! Promises:
//! - A job goes on where it was after a crash, without skipping or doubling: it is a durable job ([`crate::job`]) whose
//!   checkpoint, every `reprocess.checkpoint_interval`, stands behind pages that are durable; a page can be done twice.
//! - Ranges of time go side by side, none waiting for another.
//! - Running it twice changes nothing. Events that were corrected or deleted by hand stay as they are.
//! - Memory does not grow with the range: pages are bounded by rows and by bytes.
//! - It begins once the live stages have passed what the log had when it was started; what is received later is theirs.
//! - Of two jobs over the same time with different versions of a transform, the later one waits for the earlier.
//!
//! Its events go to topic `reprocess.output_topic`, which a consumer group of low priority stores; each carries the
//! job's generation as the version of its row: above live events and earlier jobs, below corrections by hand.
//!
//! Must not: write to the table of events, or read events of another project.

mod ground;
pub mod http;
mod job;
mod lanes;
mod list;
mod order;
mod page;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

pub use ground::{Former, Ground, Noted, Raw, RealGround, Standing};
pub use lanes::Span;
pub use order::{KIND, Order, Place, TASK_QUEUE, WORKFLOW, job_of};

use crate::config::{self, Config};
use crate::event::{Clock, ProjectId, Timestamp};
use crate::eventlog::EventLog;
use crate::job::{Handler, Jobs};
use crate::meta::{Meta, MetaError};
use crate::store::Store;
use crate::transform::{Key, Limits, Transforms};

/// Longest from when a change of a transform is dated until every process can see it: its transaction, and how far the
/// clocks of two processes are apart.
const CHANGE_MAX: Duration = Duration::from_secs(60);

/// Reprocessing of this installation. Cheap to clone.
#[derive(Clone)]
pub struct Reprocess {
    config: config::Reprocess,
    ground: Arc<dyn Ground>,
    store: Store,
    log: Arc<dyn EventLog>,
    meta: Meta,
    jobs: Jobs,
    transforms: Transforms,
    limits: Limits,
    clock: Arc<dyn Clock>,
    raw_topic: Arc<str>,
    raw_group: Arc<str>,
    events_topic: Arc<str>,
    events_group: Arc<str>,
    dlq_topic: Arc<str>,
    dlq_record_bytes_max: usize,
}

/// What reprocessing works with.
pub struct Parts {
    pub store: Store,
    pub log: Arc<dyn EventLog>,
    pub meta: Meta,
    pub jobs: Jobs,
    pub transforms: Transforms,
    pub clock: Arc<dyn Clock>,
    /// Largest record of the DLQ topic.
    pub dlq_record_bytes_max: usize,
}

impl Reprocess {
    pub fn new(parts: Parts, config: &Config) -> Self {
        let Parts { store, log, meta, jobs, transforms, clock, dlq_record_bytes_max } = parts;
        Self {
            config: config.reprocess.clone(),
            ground: Arc::new(RealGround { store: store.clone(), log: log.clone() }),
            limits: transforms.limits(),
            store,
            log,
            meta,
            jobs,
            transforms,
            clock,
            raw_topic: config.topics.raw_events.as_str().into(),
            raw_group: config.consumer.raw_group_id.as_str().into(),
            events_topic: config.topics.events.as_str().into(),
            events_group: config.consumer.group_id.as_str().into(),
            dlq_topic: config.consumer.dlq_topic.as_str().into(),
            dlq_record_bytes_max,
        }
    }

    /// Does these jobs, for [`crate::job::run`].
    pub fn handlers(&self) -> Vec<Arc<dyn Handler>> {
        vec![Arc::new(job::Work(self.clone()))]
    }

    /// From when on every process uses the version of a transform that is newest now: at once, unless one was changed
    /// lately. To be asked after that version was read.
    async fn settled_from(&self, project: &ProjectId) -> Result<Timestamp, MetaError> {
        let wait = self.transforms.cache_ttl().saturating_mul(2).min(Duration::from_secs(3600));
        let now = self.clock.now();
        let lately = now.minus(wait.saturating_add(CHANGE_MAX));
        let changed = self.meta.transforms().changed_since(project, lately).await?;
        Ok(if changed { now.plus(wait) } else { now })
    }
}

//! Log → store. The pipeline from top to bottom:
//!
//! 1. The group assigns partitions; the store is asked, in one scan, what of them is there already.
//! 2. `work::fetch` reads records, [`Stage::read`] makes rows of them or refuses them.
//! 3. [`core`] gathers them into exact batches: one contiguous range of offsets a partition, already stored ones and
//!    duplicates skipped, a flood of refused ones stopped.
//! 4. `work::letters` writes the refused ones to the dead letters and waits for the acknowledgement.
//! 5. `work::insert` hands the rows to the store under a token; not confirmed: the same rows, the same token, for ever.
//! 6. `work::commit` commits all ranges in one request under the assignment's generation.
//!
//! Promises: an offset is committed only after every record before it is stored, a duplicate, a dead letter or counted
//! as dropped. The infrastructure makes no dead letter: it pauses the pipeline, visibly, and heals without a restart.
//! What to do next is decided in [`core`], without I/O; the simulator there proves it. Every stage of FlexFlow that
//! reads a topic into a table is a [`Stage`] on this one pipeline.

mod attribution;
mod control;
pub mod core;
mod decode;
mod driver;
mod events;
mod feature_usage;
mod index;
mod observer;
mod publish;
mod raw;
mod reprocessed;
mod schemas;
mod sink;
mod sources;
mod stage;
mod sweep;
#[cfg(test)]
mod tests;
mod usage_backfill;
mod webhooks;
mod work;

use std::sync::Arc;
use std::time::Duration;

pub use attribution::{PostProcessingLane, run as run_attribution};
pub use control::{Control, NotStopped};
pub use decode::{Decoded, Field, Refused, decode};

pub use feature_usage::run as run_feature_usage;
pub use publish::run as run_publish;
pub use raw::run as run_raw;
pub use reprocessed::{run as run_reprocessed, run_usage as run_reprocessed_usage};
pub use sink::{IdStream, Sink, Warehouse};
pub use sources::{Made, SourceReader, SourcesStage, Target, run as run_sources};
pub use stage::{Payload, Read, Stage, StageBatch};
pub use usage_backfill::run as run_usage_backfill;
pub use webhooks::run as run_webhooks;

use crate::config::Config;
use crate::dlq::index_group;
use crate::event::{Clock, IdSource};
use crate::eventlog::{EventLog, GroupSpec};
use crate::lifecycle::{Health, Stop, Tasks};
use crate::schema::Registry;
use core::{FloodLimits, Settings};
use driver::{Driver, Setup};
use events::EventsStage;
use index::IndexStage;

/// What the consumer works with.
#[derive(Clone)]
pub struct ConsumerDeps {
    pub log: Arc<dyn EventLog>,
    /// A [`Warehouse`], or what stands in for it in a test.
    pub sink: Arc<dyn Sink>,
    pub config: Arc<Config>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
    pub health: Health,
    pub tasks: Tasks,
    /// How operators reach it.
    pub control: Control,
    /// What events are held against.
    pub schemas: Option<Registry>,
}

/// Runs the events stage until a stop is through. The component `consumer` tells how it is doing.
///
/// # Errors
/// Only a fault of this program ends it; the supervisor starts it again.
pub async fn run(deps: ConsumerDeps, stop: Stop) -> anyhow::Result<()> {
    let seed = random(&*deps.ids);
    let stage = EventsStage::new(deps.sink.clone(), seed).with_schemas(deps.schemas.clone());
    let stage = Arc::new(stage);
    let topics = vec![deps.config.topics.events.as_str().into()];
    run_stage(stage, &deps, topics, &deps.config.consumer.group_id, &stop).await
}

/// Keeps the list of dead letters complete until a stop is through. The component `dlq_index` tells how it is doing.
///
/// # Errors
/// See [`run`].
pub async fn run_index(deps: ConsumerDeps, stop: Stop) -> anyhow::Result<()> {
    let stage = Arc::new(IndexStage::new(deps.sink.clone()));
    let topics = vec![deps.config.consumer.dlq_topic.as_str().into()];
    let group = index_group(&deps.config.consumer.dlq_topic);
    run_stage(stage, &deps, topics, &group, &stop).await
}

/// Looks every `consumer.sweep_interval` for events that are stored under more than one key, and hides all but the
/// first, until a stop.
///
/// # Errors
/// None; a sweep that fails is logged and tried at the next interval.
pub async fn run_sweep(deps: ConsumerDeps, stop: Stop) -> anyhow::Result<()> {
    sweep::run(&deps, &stop).await;
    Ok(())
}

/// Runs any stage over `topics` as a member of `group` until a stop is through.
///
/// # Errors
/// See [`run`].
pub async fn run_stage<S: Stage>(
    stage: Arc<S>,
    deps: &ConsumerDeps,
    topics: Vec<Arc<str>>,
    group: &str,
    stop: &Stop,
) -> anyhow::Result<()> {
    let config = &deps.config.consumer;
    if stage.accounts() {
        observer::begin_at_zero(&topics);
    }
    let setup = Setup {
        log: deps.log.clone(),
        group: GroupSpec {
            group: group.into(),
            topics,
            client_id: concat!("flexflow/", env!("CARGO_PKG_VERSION")).into(),
            instance_id: config.instance_id.as_deref().map(Into::into),
        },
        dlq_topic: config.dlq_topic.as_str().into(),
        dlq_record_bytes_max: dead_letter_bytes_max(deps.config.eventlog.record_bytes_max.as_u64() as usize),
        settings: settings(&*stage, &deps.config, random(&*deps.ids)),
        clock: deps.clock.clone(),
        tasks: deps.tasks.clone(),
        component: deps.health.component(stage.name()),
        control: deps.control.clone(),
    };
    Driver::new(stage, setup).run(stop).await
}

/// How large a record the dead letters' topic has to take: the envelope repeats the record, at worst in base64.
pub const fn dead_letter_bytes_max(record_bytes_max: usize) -> usize {
    2 * record_bytes_max + (64 << 10)
}

fn random(ids: &dyn IdSource) -> u64 {
    let mut bytes = [0u8; 8];
    ids.fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// How long a partition that is asked back may take to finish what is in flight.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);
/// A store not heard of for this long is probed.
const PROBE_INTERVAL: Duration = Duration::from_secs(30);
/// Longest wait of one fetch; a partition that is new is read after this long at the latest.
const FETCH_WAIT_MAX: Duration = Duration::from_millis(500);

fn settings(stage: &impl Stage, config: &Config, seed: u64) -> Settings {
    let consumer = &config.consumer;
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    Settings {
        namespace: "live",
        table: stage.table().into(),
        mapper_version: stage.mapper_version(),
        lanes: if consumer.lanes == 0 { cores() } else { consumer.lanes }.min(stage.lanes_max()),
        rows_max: consumer.batch_rows_max,
        bytes_max: consumer.batch_bytes_max.as_u64() as usize,
        age_max: consumer.batch_age_max,
        idle_after: consumer.batch_age_max / 4,
        fetch_wait_max: FETCH_WAIT_MAX,
        breaker_failures: consumer.breaker_failures,
        backoff_min: consumer.backoff_min,
        backoff_max: consumer.backoff_max,
        flood: FloodLimits {
            ratio_max: consumer.flood_ratio_max,
            records_min: consumer.flood_records_min,
            run_max: consumer.flood_run_max,
        },
        dedupe_window: consumer.dedupe_window,
        dedupe_memory_max: if stage.has_id_window() {
            consumer.dedupe_memory_max.as_u64() as usize
        } else {
            0
        },
        release_timeout: RELEASE_TIMEOUT,
        probe_interval: PROBE_INTERVAL,
        seed,
        #[cfg(test)]
        without: core::Without::default(),
    }
}

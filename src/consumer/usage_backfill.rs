//! The lane of the past of usage tracking: topic `topics.feature_tracking_backfill` → table `feature_usage`. Whoever wants
//! the usage of stored events tracked again writes those events there; what counts is what the store has of them. One
//! batch at a time, in a group of its own: the lane of what comes in never waits for it. It refuses nothing: a record that
//! is no event is passed over.

use std::sync::Arc;

use async_trait::async_trait;

use super::core::RowRef;
use super::decode::{Field, Refused};
use super::stage::{Read, Stage, StageBatch, by_scope, events_of};
use super::{ConsumerDeps, run_stage};
use crate::eventlog::{Record, TopicPartition};
use crate::lifecycle::Stop;
use crate::metering::{Metering, OfPast};
use crate::store::{InsertError, Store, StoreError};
use crate::telemetry::names;

/// Counts up whenever the same record would be taken otherwise.
const MAPPER_VERSION: u32 = 1;

/// See the [module](self).
struct UsageBackfillStage {
    store: Store,
    metering: Metering,
}

/// Runs the stage until a stop is through. The component `feature_usage_backfill` tells how it is doing.
///
/// # Errors
/// Only a fault of this program ends it; the supervisor starts it again.
pub async fn run(deps: ConsumerDeps, store: Store, metering: Metering, stop: Stop) -> anyhow::Result<()> {
    let config = deps.config.clone();
    let stage = Arc::new(UsageBackfillStage { store, metering });
    let topics = vec![config.topics.feature_tracking_backfill.as_str().into()];
    run_stage(stage, &deps, topics, &config.metering.backfill_group_id, &stop).await
}

#[async_trait]
impl Stage for UsageBackfillStage {
    /// Nothing: records are read as events when their batch is taken.
    type Row = ();

    fn name(&self) -> &'static str {
        "feature_usage_backfill"
    }

    fn table(&self) -> &'static str {
        "feature_usage"
    }

    fn lanes_max(&self) -> usize {
        1
    }

    fn mapper_version(&self) -> u32 {
        MAPPER_VERSION
    }

    fn read(&self, _: &TopicPartition, record: &Record) -> Result<Read<()>, Refused> {
        Ok(Read::by_offset((), record))
    }

    async fn insert(
        &self,
        batch: &Arc<StageBatch<()>>,
        rows: &Arc<[RowRef]>,
        token: &str,
    ) -> Result<(), InsertError> {
        let decoded = events_of(batch, rows);
        for (scope, events) in by_scope(&decoded) {
            let events: Vec<OfPast<'_>> = events
                .iter()
                .map(|(event, value)| OfPast {
                    event_id: event.text(value, Field::Id),
                    event_name: event.text(value, Field::EventName),
                    timestamp: event.timestamp,
                })
                .collect();
            let written = self.metering.track_again(&scope, &events, token).await?;
            names::METERING_ROWS.counter(&[]).increment(written as u64);
        }
        Ok(())
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.store.probe().await
    }
}

//! The stage that attributes: topic `events_post_processing` (and the lane of the past, behind it) → table
//! `attributed_conversions`. Every event of its topic is in the store, so it reads from there what hangs on those of a
//! batch, and writes that anew; doing so again changes nothing. It refuses nothing: a record that is no event is passed
//! over.
//!
//! Records are decoded only where some scope has rules at all.

use std::sync::Arc;

use async_trait::async_trait;

use super::core::RowRef;
use super::decode::{Field, Refused};
use super::sink::Sink;
use super::stage::{Read, Stage, StageBatch, by_scope, events_of};
use super::{ConsumerDeps, run_stage};
use crate::attribution::{Attribution, AttributionError, Taken};
use crate::eventlog::{Record, TopicPartition};
use crate::lifecycle::Stop;
use crate::store::{InsertError, StoreError};

/// Counts up whenever the same record would be taken otherwise.
const MAPPER_VERSION: u32 = 1;

/// Which events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PostProcessingLane {
    /// As they are stored.
    Live,
    /// Of the past: they go behind, one batch at a time.
    Backfill,
}

/// See the [module](self).
pub(super) struct AttributionStage {
    name: &'static str,
    attribution: Attribution,
    sink: Arc<dyn Sink>,
    lanes_max: usize,
}

/// Runs the stage until a stop is through. The components `attribution` and `attribution_backfill` tell how it is doing.
///
/// # Errors
/// Only a fault of this program ends it; the supervisor starts it again.
pub async fn run(
    deps: ConsumerDeps,
    attribution: Attribution,
    lane: PostProcessingLane,
    stop: Stop,
) -> anyhow::Result<()> {
    let (topics, groups) = (&deps.config.topics, &deps.config.post_processing);
    let (component, name, topic, group, lanes_max) = match lane {
        PostProcessingLane::Live => (
            deps.health.component("attribution"),
            "attribution",
            &topics.post_processing,
            &groups.group_id,
            usize::MAX,
        ),
        PostProcessingLane::Backfill => (
            deps.health.component("attribution_backfill"),
            "attribution_backfill",
            &topics.post_processing_backfill,
            &groups.backfill_group_id,
            1,
        ),
    };
    drop(component);
    let stage = Arc::new(AttributionStage { name, attribution, sink: deps.sink.clone(), lanes_max });
    run_stage(stage, &deps, vec![topic.as_str().into()], group, &stop).await
}

impl AttributionStage {
    async fn take(&self, batch: &StageBatch<()>, rows: &[RowRef]) -> Result<(), AttributionError> {
        let scopes = self.attribution.rules().scopes().await?;
        if scopes.is_empty() {
            return Ok(());
        }
        let decoded = events_of(batch, rows);
        let mut by_scope = by_scope(&decoded);
        by_scope.retain(|scope, _| scopes.contains(scope));
        for (scope, events) in by_scope {
            let taken: Vec<Taken<'_>> = events
                .iter()
                .map(|(event, value)| Taken {
                    event_id: event.text(value, Field::Id),
                    event: event.text(value, Field::EventName),
                    distinct_id: event.text(value, Field::DistinctId),
                    session_id: event.text(value, Field::SessionId),
                    at: event.timestamp,
                })
                .collect();
            self.attribution.take(&scope, &taken).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Stage for AttributionStage {
    /// Nothing: records are read as events when their batch is taken, if at all.
    type Row = ();

    fn name(&self) -> &'static str {
        self.name
    }

    fn table(&self) -> &'static str {
        "attributed_conversions"
    }

    fn lanes_max(&self) -> usize {
        self.lanes_max
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
        _: &str,
    ) -> Result<(), InsertError> {
        self.take(batch, rows).await.map_err(|error| match error {
            AttributionError::Insert(error) => error.of_derived_rows(),
            AttributionError::Store(StoreError::Schema { message, cure }) => {
                InsertError::Schema { message, cure }
            }
            other => InsertError::Unavailable(other.to_string()),
        })
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.sink.probe().await
    }
}

//! The stages of reprocessed events: topic `reprocess.output_topic` → table `events`, and usage where that is tracked.
//! The same rows as of live events, but for their version, which a header tells: above live rows and earlier jobs, below
//! corrections by hand. A record may also say that an event is no more.
//!
//! They are of low priority: one lane each, whatever `consumer.lanes` says, so that a large job does not hold up what
//! comes in. There is no id window: an event that is reprocessed twice is to replace itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::core::{FetchPosition, RowRef};
use super::decode::Refused;
use super::events::EventsStage;
use super::feature_usage::FeatureUsageStage;
use super::stage::{Read, Stage, StageBatch};
use super::{ConsumerDeps, random};
use crate::eventlog::{Header, Record, TopicPartition};
use crate::lifecycle::Stop;
use crate::metering::{Metering, reprocessed_usage_group};
use crate::notice::Notices;
use crate::store::{AMENDED_VERSION, InsertError, Store, StoreError};
use crate::transform::{DELETED_HEADER, VERSION_HEADER};

/// The version of a reprocessed event's row, and whether it says that the event is no more. Whatever stands in the
/// header, it stays below the corrections that people made.
pub(super) fn version_of(headers: &[Header]) -> (u64, bool) {
    let text = |name: &str| {
        let header = headers.iter().find(|header| &*header.name == name)?;
        std::str::from_utf8(&header.value).ok()
    };
    let version = text(VERSION_HEADER).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    (version.min(AMENDED_VERSION - 1), text(DELETED_HEADER) == Some("1"))
}

/// A stage of live events, of those that were reprocessed. See the [module](self).
pub(super) struct Reprocessed<S> {
    name: &'static str,
    stage: S,
}

/// Runs the stage until a stop is through. The component `reprocessed` tells how it is doing.
///
/// # Errors
/// Only a fault of this program ends it; the supervisor starts it again.
pub async fn run(deps: ConsumerDeps, stop: Stop) -> anyhow::Result<()> {
    let stage = EventsStage::new(deps.sink.clone(), random(&*deps.ids)).reprocessed();
    let stage = stage.with_schemas(deps.schemas.clone());
    let group = deps.config.reprocess.group_id.clone();
    run_as("reprocessed", stage, &deps, &group, &stop).await
}

/// The same for usage: the component `reprocessed_usage`.
///
/// # Errors
/// See [`run`].
pub async fn run_usage(
    deps: ConsumerDeps,
    parts: (Store, Metering, Notices),
    stop: Stop,
) -> anyhow::Result<()> {
    let stage = FeatureUsageStage::new(&deps, parts).reprocessed();
    let group = reprocessed_usage_group(&deps.config);
    run_as("reprocessed_usage", stage, &deps, &group, &stop).await
}

async fn run_as<S: Stage>(
    name: &'static str,
    stage: S,
    deps: &ConsumerDeps,
    group: &str,
    stop: &Stop,
) -> anyhow::Result<()> {
    let topics = vec![deps.config.reprocess.output_topic.as_str().into()];
    super::run_stage(Arc::new(Reprocessed { name, stage }), deps, topics, group, stop).await
}

#[async_trait]
impl<S: Stage> Stage for Reprocessed<S> {
    type Row = S::Row;

    fn name(&self) -> &'static str {
        self.name
    }

    fn table(&self) -> &'static str {
        self.stage.table()
    }

    fn mapper_version(&self) -> u32 {
        self.stage.mapper_version()
    }

    fn accounts(&self) -> bool {
        self.stage.accounts()
    }

    fn lanes_max(&self) -> usize {
        1
    }

    /// An event that is hidden under its former key and stands under another comes twice in one batch: no duplicate.
    fn read(&self, at: &TopicPartition, record: &Record) -> Result<Read<S::Row>, Refused> {
        Ok(Read { remember: false, ..self.stage.read(at, record)? })
    }

    async fn insert(
        &self,
        batch: &Arc<StageBatch<S::Row>>,
        rows: &Arc<[RowRef]>,
        token: &str,
    ) -> Result<(), InsertError> {
        self.stage.insert(batch, rows, token).await
    }

    async fn stored_offsets(
        &self,
        from: &[FetchPosition],
    ) -> Result<BTreeMap<TopicPartition, Vec<i64>>, StoreError> {
        self.stage.stored_offsets(from).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.stage.probe().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_header_reaches_above_corrections_by_hand() {
        let header = |name: &str, value: &str| Header { name: name.into(), value: value.to_owned().into() };
        assert_eq!(version_of(&[header(VERSION_HEADER, "7"), header(DELETED_HEADER, "1")]), (7, true));
        assert_eq!(
            version_of(&[header(VERSION_HEADER, &u64::MAX.to_string())]),
            (AMENDED_VERSION - 1, false)
        );
        assert_eq!(version_of(&[header(VERSION_HEADER, "-1")]), (0, false));
        assert_eq!(version_of(&[]), (0, false));
    }
}

//! The stage that makes deliveries of system events: topic `system_events` → rows for every webhook that wants them, in
//! the metadata database. An event that is read again adds nothing. It refuses nothing: a record that is no system event
//! is passed over with a line in the log.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::Notify;

use super::core::RowRef;
use super::decode::Refused;
use super::stage::{Read, Stage, StageBatch};
use super::{ConsumerDeps, run_stage};
use crate::eventlog::{Record, TopicPartition};
use crate::lifecycle::Stop;
use crate::meta::{Deliverable, Meta, MetaError};
use crate::notice::SystemEventRecord;
use crate::store::{InsertError, StoreError};
use crate::telemetry::names;

/// Counts up whenever the same record would become another delivery.
const MAPPER_VERSION: u32 = 1;

/// See the [module](self).
pub(super) struct WebhookStage {
    meta: Meta,
    queued: Arc<Notify>,
    retry_for: std::time::Duration,
}

/// Runs the stage until a stop is through. The component `webhooks` tells how it is doing; `queued` is notified when
/// there is something to deliver.
///
/// # Errors
/// Only a fault of this program ends it; the supervisor starts it again.
pub async fn run(deps: ConsumerDeps, meta: Meta, queued: Arc<Notify>, stop: Stop) -> anyhow::Result<()> {
    let config = deps.config.clone();
    let stage = Arc::new(WebhookStage { meta, queued, retry_for: config.webhook.retry_for });
    let topics = vec![config.topics.system_events.as_str().into()];
    run_stage(stage, &deps, topics, &config.webhook.group_id, &stop).await
}

fn deliverable(event: &SystemEventRecord) -> Deliverable {
    let body = json!({
        "type": event.event_name,
        "timestamp": event.timestamp,
        "data": {
            "id": event.id,
            "project_id": event.project_id,
            "environment_id": event.environment_id,
            "payload": event.payload,
        },
    });
    Deliverable {
        event_id: event.id.clone(),
        kind: event.event_name,
        project_id: event.project_id.clone(),
        environment_id: event.environment_id.clone(),
        body: body.to_string(),
    }
}

#[async_trait]
impl Stage for WebhookStage {
    /// `None`: somebody else's record.
    type Row = Option<Box<Deliverable>>;

    fn name(&self) -> &'static str {
        "webhooks"
    }

    fn table(&self) -> &'static str {
        "webhook_deliveries"
    }

    fn writes_to(&self) -> &'static str {
        "meta"
    }

    fn mapper_version(&self) -> u32 {
        MAPPER_VERSION
    }

    fn read(&self, _: &TopicPartition, record: &Record) -> Result<Read<Self::Row>, Refused> {
        let value = record.value.as_deref().unwrap_or_default();
        let row = match serde_json::from_slice::<SystemEventRecord>(value) {
            Ok(event) => Some(Box::new(deliverable(&event))),
            Err(error) => {
                tracing::warn!(offset = record.offset, %error, "a record that is no system event: passed over");
                None
            }
        };
        Ok(Read::by_offset(row, record))
    }

    async fn insert(
        &self,
        batch: &Arc<StageBatch<Self::Row>>,
        rows: &Arc<[RowRef]>,
        _: &str,
    ) -> Result<(), InsertError> {
        let events: Vec<Deliverable> = rows
            .iter()
            .filter_map(|row| batch.item(*row).payload.row.as_ref().ok()?.as_deref().cloned())
            .collect();
        if events.is_empty() {
            return Ok(());
        }
        let added = self.meta.deliveries().add(&events, self.retry_for).await;
        let added = added.map_err(|error| match error {
            MetaError::Schema { message, cure } => InsertError::Schema { message, cure },
            other => InsertError::Unavailable(other.to_string()),
        })?;
        if added > 0 {
            names::WEBHOOK_DELIVERIES.counter(&[]).increment(added);
            self.queued.notify_one();
        }
        Ok(())
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.meta.probe().await.map_err(|error| StoreError::Unavailable(error.to_string()))
    }
}

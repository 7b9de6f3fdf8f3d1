//! The sweep: finds events stored under more than one key (a resend that changed its day, name or distinct id outside
//! of the id window) and hides all but the first.

use tokio::time::Instant;

use super::ConsumerDeps;
use crate::lifecycle::Stop;
use crate::telemetry::names;

pub(super) async fn run(deps: &ConsumerDeps, stop: &Stop) {
    let config = &deps.config.consumer;
    loop {
        tokio::select! {
            () = stop.soft_token().cancelled() => return,
            () = tokio::time::sleep(config.sweep_interval) => {}
        }
        let since = deps.clock.now().minus(config.sweep_horizon);
        let began = Instant::now();
        let swept = tokio::select! {
            () = stop.soft_token().cancelled() => return,
            swept = deps.sink.sweep(since) => swept,
        };
        match swept {
            Ok(swept) => {
                names::CONSUMER_SWEPT.counter(&[]).increment(swept.tombstones);
                tracing::info!(
                    events = swept.events,
                    tombstones = swept.tombstones,
                    took_ms = began.elapsed().as_millis() as u64,
                    "sweep done"
                );
            }
            Err(error) => tracing::warn!(%error, "sweep failed: tried again at the next interval"),
        }
    }
}

//! The sweep: finds events stored under more than one key (a resend that changed its day, name or distinct id outside
//! of the id window) and hides all but the first. All of the horizon at every interval; at once, what was stored while
//! an id window was being rebuilt and so was not compared with it.

use tokio::time::Instant;

use super::ConsumerDeps;
use crate::lifecycle::Stop;
use crate::telemetry::names;

pub(super) async fn run(deps: &ConsumerDeps, stop: &Stop) {
    let config = &deps.config.consumer;
    let mut due = Instant::now() + config.sweep_interval;
    loop {
        let (reach, stored_since) = tokio::select! {
            () = stop.soft_token().cancelled() => return,
            () = tokio::time::sleep_until(due) => (config.sweep_horizon, None),
            stored_since = deps.control.sweep_asked_for() => (config.dedupe_window, Some(stored_since)),
        };
        if stored_since.is_none() {
            due = Instant::now() + config.sweep_interval;
        }
        let since = deps.clock.now().minus(reach);
        let began = Instant::now();
        let swept = tokio::select! {
            () = stop.soft_token().cancelled() => return,
            swept = deps.sink.sweep(since, stored_since) => swept,
        };
        match swept {
            Ok(swept) => {
                names::CONSUMER_SWEPT.counter(&[]).increment(swept.tombstones);
                tracing::info!(
                    events = swept.events,
                    voided = swept.voided,
                    tombstones = swept.tombstones,
                    took_ms = began.elapsed().as_millis() as u64,
                    "sweep done"
                );
            }
            Err(error) => {
                tracing::warn!(%error, "sweep failed: tried again");
                if let Some(stored_since) = stored_since {
                    deps.control.ask_for_sweep(stored_since);
                }
                tokio::select! {
                    () = stop.soft_token().cancelled() => return,
                    () = tokio::time::sleep(config.backoff_max) => {}
                }
            }
        }
    }
}

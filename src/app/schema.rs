//! The store's tables: migrated at start where that is allowed, checked ever after.

use std::time::Duration;

use crate::lifecycle::Component;
use crate::store::{HOSTS, Store, StoreError};

const WATCH_EVERY: Duration = Duration::from_secs(30);
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// Migrates once the store answers (if `migrate` allows it), then looks every now and then whether all is still there.
/// What goes missing later is named, not made again: whoever dropped a table should see that it is gone.
pub(super) async fn watch(store: Store, migrate: bool, component: Component) -> anyhow::Result<()> {
    let mut migrated = !migrate;
    loop {
        let looked = look(&store, &mut migrated).await;
        match &looked {
            Ok(()) => component.up(),
            Err(reason) => component.down(reason),
        }
        tokio::time::sleep(if looked.is_ok() { WATCH_EVERY } else { RETRY_EVERY }).await;
    }
}

async fn look(store: &Store, migrated: &mut bool) -> Result<(), String> {
    let text = |error: StoreError| error.to_string();
    store.wait_ready(Duration::from_secs(10)).await.map_err(text)?;
    if !*migrated {
        let applied = store.migrate().await.map_err(text)?;
        if !applied.is_empty() {
            tracing::info!(migrations = applied.join(", "), "migrated the store");
        }
        *migrated = true;
    }
    let wrong: Vec<String> = store
        .check()
        .await
        .map_err(text)?
        .into_iter()
        // Component `store` says of hosts that are away when it matters.
        .filter(|finding| !finding.ok && finding.name != HOSTS)
        .map(|finding| format!("{}: {} ({})", finding.name, finding.message, finding.cure))
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

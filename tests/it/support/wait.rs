//! Waiting for a condition, with a deadline, instead of sleeping and hoping.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// Longest a condition may take on a busy machine; a healthy one meets it in a fraction.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// Asks `condition` until it answers `Ok`, and returns that answer.
///
/// # Panics
/// It did not within a minute: the last `Err` says what was seen.
pub(crate) async fn eventually<T, F, Fut>(what: &str, condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    eventually_for(LIMIT, what, condition).await
}

/// The same with another limit.
pub(crate) async fn eventually_for<T, F, Fut>(limit: Duration, what: &str, mut condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let started = Instant::now();
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(seen) => {
                assert!(started.elapsed() < limit, "{what}: not within {limit:?}; last seen: {seen}");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

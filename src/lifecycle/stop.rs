//! Soft and hard stop, and the signals that ask for them.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A stop in two steps: soft (take nothing new, finish what is in hand) and hard (end now). Hard implies soft.
#[derive(Clone, Debug)]
pub struct Stop {
    soft: CancellationToken,
    hard: CancellationToken,
}

impl Default for Stop {
    fn default() -> Self {
        let hard = CancellationToken::new();
        Self { soft: hard.child_token(), hard }
    }
}

impl Stop {
    /// Asks to drain.
    pub fn soft(&self) {
        self.soft.cancel();
    }

    /// Asks to end now.
    pub fn hard(&self) {
        self.hard.cancel();
    }

    /// Has either been asked for?
    pub fn is_stopping(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// Cancelled at the soft stop.
    pub fn soft_token(&self) -> &CancellationToken {
        &self.soft
    }

    /// Cancelled at the hard stop.
    pub fn hard_token(&self) -> &CancellationToken {
        &self.hard
    }
}

/// Waits for SIGTERM or SIGINT and says which came.
///
/// # Errors
/// The process may not listen to signals.
pub async fn wait_for_signal() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

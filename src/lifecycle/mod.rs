//! Starting, supervising and stopping, and what is known of each component's health.
//!
//! - [`Tasks`] runs every background task under a name and a [`Policy`]; a task that ends on its own is a failure.
//! - [`Stop`] has a soft end (drain) and a hard end (now).
//! - [`Breaker`] holds back calls to a dependency that does not answer; [`Circuit`] is one that threads share.
//! - [`Health`] holds the state of each component with reason and since, as `/ready` shows it.

mod breaker;
mod circuit;
mod health;
mod quotas;
mod stop;
mod tasks;

pub use breaker::{Breaker, BreakerRules, BreakerState, Jitter};
pub use circuit::{Circuit, Open, Pass};
pub use health::{Component, ComponentState, ComponentStatus, Health};
pub use quotas::{Quotas, ReachedQuota};
pub use stop::{Stop, wait_for_signal};
pub use tasks::{Policy, TaskFailed, Tasks};

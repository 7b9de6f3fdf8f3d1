//! What the tests share: the real application in process or as a child, an engine alone, faulty networks, and conditions
//! with a deadline.

pub(crate) mod browser;
pub(crate) mod cluster;
pub(crate) mod contract;
pub(crate) mod kafka;
pub(crate) mod log;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod sandbox;
pub(crate) mod store;
pub(crate) mod wait;

use std::sync::LazyLock;

use flexflow::event::{Clock as _, SystemClock, Timestamp};

pub(crate) use browser::Browser;
pub(crate) use log::{Log, on_every_log};
pub(crate) use process::Process;
pub(crate) use sandbox::Sandbox;
pub(crate) use wait::{eventually, eventually_for};

/// A moment that is over and the same each time: of records that tests write themselves. Retention deletes older ones, and
/// the id window forgets them, as soon as they look.
pub(crate) fn just_now() -> Timestamp {
    static AT: LazyLock<Timestamp> = LazyLock::new(|| SystemClock.now());
    *AT
}

//! The words: what an event is, who it belongs to, when it happened, and how its way can end.
//!
//! Pure: no async, no I/O, no global state. Every other room speaks in these types.
//!
//! - [`LogEvent`] is the one shape of an event between capture and the store (the value of a log record).
//! - [`RawEvent`] is the same of a payload that a transform makes events of.
//! - [`Scope`] is the project and environment that every row and every question belongs to.
//! - [`Timestamp`] is UTC milliseconds; [`Clock`] and [`IdSource`] are the only places time and ids come from.
//! - [`ErrorKind`] and [`DropReason`] are the closed lists of ends an event can come to without being stored.
//! - [`SystemEventKind`] is the closed list of what the product tells others of.

mod ids;
mod json;
mod raw;
mod reason;
mod record;
mod time;

pub use ids::{EnvironmentId, IdSource, ProjectId, RandomIds, Scope};
pub use json::number_length;
pub use raw::RawEvent;
pub use reason::{DropReason, ErrorKind, SystemEventKind};
pub use record::{LogEvent, SCHEMA_VERSION};
pub use time::{Clock, InvalidTimestamp, ManualClock, SystemClock, Timestamp};

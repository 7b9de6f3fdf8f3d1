//! Logs and metrics. [`names`] is the only place where a metric is named; [`logs`] the only place where a subscriber is made.

pub mod logs;
mod metric;
pub mod names;

#[cfg(test)]
pub use metric::Counted;
pub use metric::{Kind, Metric, Recorder, recorder};

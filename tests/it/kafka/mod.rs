//! FlexFlow on a real Kafka.

mod apart;
mod consumers;
pub(crate) mod fleet;
mod group;
mod harness;
mod logs;
mod outages;
mod produce;
mod refusals;
mod start;

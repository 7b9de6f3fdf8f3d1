//! FlexFlow on a real Kafka.

mod apart;
mod consumers;
pub(crate) mod fleet;
mod foreign;
mod group;
mod harness;
mod limits;
mod logs;
mod outages;
mod produce;
mod refusals;
mod rights;
mod start;

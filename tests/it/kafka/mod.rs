//! FlexFlow on a real Kafka.

mod consumers;
mod fleet;
mod group;
mod harness;
mod logs;
mod produce;
mod refusals;
mod start;

//! FlexFlow on a real Kafka.

mod group;
mod harness;
mod logs;
mod produce;
mod refusals;
mod start;
